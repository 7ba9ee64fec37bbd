"""Resampling at voxels: what may be exchanged, statistics of each resampling, their deviates."""
