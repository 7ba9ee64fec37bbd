"""What happened at each voxel: one enumeration for every model."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class VoxelStatus(IntEnum):
    """Value of the ``*_vox_status`` map; values below 10 are in the result's mask."""

    OUTSIDE = 0
    FITTED = 1
    FITTED_IMPRECISE = 2
    FITTED_BOUNDARY = 3
    NOT_CONVERGED = 4
    NO_DATA = 10
    BELOW_MINIMUM = 11
    TOO_FEW = 12
    RANK_DEFICIENT = 13
    ZERO_VARIANCE = 14
    MASKED_AFTER = 15
    TOO_MANY_EFFECTS = 16
    UNIDENTIFIED = 17

    @property
    def is_fitted(self) -> bool:
        """Whether a voxel is in the result's mask."""
        return VoxelStatus.OUTSIDE < self < FIRST_DROPPED

    @property
    def meaning(self) -> str:
        """One sentence for tables and sidecars."""
        return _MEANINGS[self]


_MEANINGS = {
    VoxelStatus.OUTSIDE: "outside the analysis mask",
    VoxelStatus.FITTED: "fitted",
    VoxelStatus.FITTED_IMPRECISE: (
        "fitted with fewer than 9 digits: residuals, or residual variance, below 1e-6 of the "
        "sum of squares, or rows of X present that are nearly rank-deficient"
    ),
    VoxelStatus.FITTED_BOUNDARY: (
        "fitted at the boundary: some variance of random effects is zero, or a correlation 1"
    ),
    VoxelStatus.NOT_CONVERGED: (
        "fitted without convergence: the iterations ended before the likelihood was largest"
    ),
    VoxelStatus.NO_DATA: "dropped: no image has data here",
    VoxelStatus.BELOW_MINIMUM: "dropped: fewer images than the least number or share asked for",
    VoxelStatus.TOO_FEW: "dropped: no more images than the rank of their rows of X plus one",
    VoxelStatus.RANK_DEFICIENT: (
        "dropped: the rows of X of the images present here are so nearly rank-deficient that "
        "sums over all images cannot tell"
    ),
    VoxelStatus.ZERO_VARIANCE: (
        "dropped: no residual variance beyond rounding (constant, fitted exactly, or likeliest "
        "without any)"
    ),
    VoxelStatus.MASKED_AFTER: "dropped: outside the post-analysis mask",
    VoxelStatus.TOO_MANY_EFFECTS: "dropped: no more images than random effects (safe mode)",
    VoxelStatus.UNIDENTIFIED: (
        "dropped: the images present here cannot tell random effects from residuals, or from "
        "each other"
    ),
}

FIRST_DROPPED = 10


def is_fitted(status: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return True where a voxel is in the result's mask."""
    return (status > VoxelStatus.OUTSIDE) & (status < FIRST_DROPPED)
