"""Neuro-glia-vasculature circuits: ArchNGV's stages, run by the Python of its own environment."""
