"""The saved blocks of a run, opened for assembly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.ols import compute_dof
from nipype_blm.core.status import is_fitted
from nipype_blm.data.spec import ModelSpec
from nipype_blm.io.arrayfile import ArrayFile
from nipype_blm.io.stamps import block_stamp, statistics_stamp


@dataclass(frozen=True)
class Block:
    """The estimates and statistics of one block, and which of all voxels are in it."""

    estimates: ArrayFile
    statistics: ArrayFile
    voxels: slice  # of the analysis mask
    fitted: NDArray[np.int64]  # numbers of the fitted ones in that mask
    status: NDArray[np.uint8]
    n_obs: NDArray[np.int32]
    dof: NDArray[np.int32]  # images less the rank of X there, at the fitted voxels
    is_mixed: bool

    def estimate(self, name: str, row: int | None = None) -> FloatArray:
        """Return one quantity, or one row of it, at the fitted voxels."""
        return _read(self.estimates, name, row)

    def coefficient(self, row: int) -> FloatArray:
        """Return the estimate of one column of X; 0 where it is not estimable by itself."""
        beta = self.estimate("beta", row)
        if not self.estimates.shape("estimable")[0]:
            return beta
        return np.where(self.estimate("estimable", row), beta, 0.0)

    def statistic(self, contrast: int, name: str, row: int | None = None) -> FloatArray:
        """Return one quantity of a contrast, or one row of it, at the fitted voxels."""
        return _read(self.statistics, f"{contrast}/{name}", row)

    def is_estimable(self, contrast: int) -> NDArray[np.bool_]:
        """Return whether a contrast is estimable at the fitted voxels."""
        return self.statistic(contrast, "estimable").astype(bool)

    def contrast_dof(self, contrast: int) -> NDArray[Any]:
        """Return the error degrees of freedom of a contrast at the fitted voxels."""
        return self.statistic(contrast, "dof") if self.is_mixed else self.dof


def _read(file: ArrayFile, name: str, row: int | None) -> NDArray[Any]:
    return file.read(name) if row is None else file.read_rows(name, slice(row, row + 1))[0]


def open_blocks(
    spec: ModelSpec,
    estimates_files: Sequence[Path | str],
    statistics_files: Sequence[Path | str],
    run_stamp: str,
    contrasts_stamp: str,
) -> list[Block]:
    """Open the files of all blocks; refuse those made from other input."""
    blocks = []
    for number, paths in enumerate(zip(estimates_files, statistics_files, strict=True)):
        estimates = ArrayFile(paths[0], block_stamp(run_stamp, number))
        statistics = ArrayFile(paths[1], statistics_stamp(run_stamp, contrasts_stamp, number))
        voxels = spec.block(number)
        status, n_obs = estimates.read("status"), estimates.read("n_obs")
        fitted = voxels.start + np.flatnonzero(is_fitted(status))
        dof = compute_dof(status, n_obs, estimates.read("rank"))
        is_mixed = spec.options is not None
        blocks.append(Block(estimates, statistics, voxels, fitted, status, n_obs, dof, is_mixed))
    return blocks
