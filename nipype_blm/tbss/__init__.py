"""Tract-based spatial statistics: from FA images to values on their common skeleton."""
