"""Tract-based spatial statistics: the skeleton of white matter and projection onto it."""
