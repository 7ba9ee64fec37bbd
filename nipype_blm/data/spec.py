"""What is fitted, once everything has been read and checked: arrays and options."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import DesignFactor, FloatArray
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.space import Space
from nipype_blm.model.contrasts import Contrast

# Part of every fingerprint: to be raised when the same input gives other estimates.
NUMERICS = 2


@dataclass(frozen=True)
class ModelSpec:
    """A model without its contrasts; everything that the estimates depend on.

    Observations are in the order in which they are read.
    """

    design: DesignFactor
    names: tuple[str, ...]  # of the columns of X
    space: Space  # its features are the voxels of the analysis mask
    allowed: NDArray[np.bool_]  # (n_voxels,), inside the post-analysis mask
    minimum_n: int
    threshold: float  # values below it are missing
    zero_is_missing: bool
    staged_dtype: str  # float32 or float64: holds the input exactly
    map_dtype: str
    with_cov: bool
    images_per_batch: int
    voxels_per_block: int
    rows_per_chunk: int
    factors: tuple[RandomFactor, ...] = ()
    effect_names: tuple[tuple[str, ...], ...] = ()  # of each factor
    level_names: tuple[tuple[str, ...], ...] = ()  # of each factor, in the order of its levels
    options: MixedOptions | None = None  # None: least squares
    with_resms: bool = True
    deficient: str = "refuse"  # what was asked for if columns of X depend on each other
    # Where each batch ends; empty: after each `images_per_batch` observations.
    ends: tuple[int, ...] = ()

    @property
    def model(self) -> str:
        """``blm`` or ``blmm``, with which the names of maps begin."""
        return "blm" if self.options is None else "blmm"

    @property
    def X(self) -> FloatArray:
        """The design matrix, of shape (n_obs, n_params)."""
        return self.design.X

    @property
    def n_obs(self) -> int:
        """Number of images."""
        return len(self.X)

    @property
    def n_params(self) -> int:
        """Number of columns of X."""
        return int(self.X.shape[1])

    @property
    def n_voxels(self) -> int:
        """Number of voxels in the analysis mask."""
        return int(self.allowed.size)

    @property
    def n_batches(self) -> int:
        """Number of batches of images."""
        if self.ends:
            return len(self.ends)
        return -(-self.n_obs // self.images_per_batch)

    @property
    def n_blocks(self) -> int:
        """Number of voxel blocks."""
        return -(-self.n_voxels // self.voxels_per_block)

    def block(self, number: int) -> slice:
        """Return the voxels of a block, as positions in the analysis mask."""
        start = number * self.voxels_per_block
        return slice(start, min(start + self.voxels_per_block, self.n_voxels))

    def batch(self, number: int) -> slice:
        """Return the observations of a batch."""
        if self.ends:
            return slice(self.ends[number - 1] if number else 0, self.ends[number])
        start = number * self.images_per_batch
        return slice(start, min(start + self.images_per_batch, self.n_obs))

    def find_batch(self, row: int) -> int:
        """Return the number of the batch that has an observation."""
        if self.ends:
            return bisect_right(self.ends, row)
        return row // self.images_per_batch

    def sort(self, order: NDArray[np.intp]) -> "ModelSpec":
        """Return the model with its observations in another order."""
        design = self.design
        rows = {name: getattr(design, name)[order] for name in ("X", "Q", "shift")}
        factors = tuple(f._replace(level=f.level[order], Z=f.Z[order]) for f in self.factors)
        return replace(self, design=design._replace(**rows), factors=factors)


@dataclass(frozen=True)
class ContrastSpec:
    """What is tested, and how p-values are reported."""

    contrasts: Sequence[Contrast]
    two_sided: bool
    minlog: float
