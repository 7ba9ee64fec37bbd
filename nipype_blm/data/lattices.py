"""Where features lie along three axes: for smoothness, and for the lists of voxels of SPM."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.space import Space
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.errors import InputError


class Lattice(NamedTuple):
    """The voxels of a space in three dimensions, numbered with x fastest."""

    inside: NDArray[np.bool_]  # (x, y, z), which of them are features
    to_mm: NDArray[np.float64]  # (4, 4), of the numbers of a voxel, from 0

    @property
    def voxel_sizes(self) -> NDArray[np.float64]:
        """Steps along the axes in mm, of shape (3,)."""
        return np.asarray(np.sqrt((self.to_mm[:3, :3] ** 2).sum(axis=0)))

    def spread(self, values: NDArray[np.float64], outside: float) -> NDArray[np.float64]:
        """Return values of the features at all voxels, of shape (x, y, z)."""
        full = np.full(self.inside.size, outside)
        full[self.inside.ravel(order="F")] = values
        return full.reshape(self.inside.shape, order="F")


def find_lattice(space: Space) -> Lattice:
    """Return the lattice of a space.

    Raises
    ------
    InputError
        If the space is no volume.
    """
    if not isinstance(space, VolumeSpace):
        raise InputError(
            f"The maps are those of a {type(space).__name__}; smoothness and the files of SPM need "
            "volumes (.nii, .nii.gz)."
        )
    return Lattice(space.mask.reshape(space.shape, order="F"), np.asarray(space.grid.affine, float))
