"""Work that can be lost and found: tasks, their journal, and pools of Dask workers; no voxels."""
