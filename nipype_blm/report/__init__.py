"""Figures and summaries, from written maps."""
