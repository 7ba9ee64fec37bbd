"""Faults of clusters: what they do to a run, on pools of Dask workers."""
