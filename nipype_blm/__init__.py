"""Big linear models: one model at every voxel of thousands of images, inside Nipype."""

__version__ = "0.1.0"
