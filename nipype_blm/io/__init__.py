"""Files of every kind but images."""
