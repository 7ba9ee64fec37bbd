"""Linear mixed models at every voxel of a block, from the products of its batches."""
