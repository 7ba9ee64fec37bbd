"""The images present at a voxel: an orthonormal design, and y less what X0 explains."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import routine
from nipype_blm.core.linalg import RANK_TOLERANCE, FloatArray
from nipype_blm.core.ols import NOISE, ZERO_VARIANCE
from nipype_blm.core.status import VoxelStatus
from nipype_blm.core.threads import TILE

# A sum of squares below this fraction of y'y, for each image, is rounding.
ROUNDING = 1e-28

# Plain numbers for kernels.
FITTED = int(VoxelStatus.FITTED)
TOO_FEW = int(VoxelStatus.TOO_FEW)
ZERO_VARIANCE_STATUS = int(VoxelStatus.ZERO_VARIANCE)
NOT_ESTIMABLE = int(VoxelStatus.RANK_DEFICIENT)


def take_tiles(
    Y: NDArray[Any], voxels: NDArray[np.int32], start: int, stop: int
) -> Iterator[tuple[int, int, FloatArray]]:
    """Yield ranges of `voxels` and their values (n, n_obs), a few at a time."""
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        yield first, last, np.ascontiguousarray(Y[:, voxels[first:last]].T, float)


@routine
def _square(u: Any, n: int) -> float:
    total = 0.0
    for i in range(n):
        total += u[i] * u[i]
    return total


@routine
def _remove(U: Any, first: int, last: int, u: Any, n: int) -> None:
    """Take from u its part along some orthonormal rows of U, twice for what rounding leaves."""
    for _ in range(2):
        for k in range(first, last):
            row = U[k]
            dot = 0.0
            for i in range(n):
                dot += row[i] * u[i]
            for i in range(n):
                u[i] -= dot * row[i]


@routine
def _normalise(U: Any, k: int, n: int) -> bool:
    """Make row k a unit vector orthogonal to those before it, or 0; say whether it is any."""
    u = U[k]
    before = _square(u, n)
    _remove(U, 0, k, u, n)
    square = _square(u, n)
    is_any = square > max(RANK_TOLERANCE * before, NOISE)
    scale = 1.0 / np.sqrt(square) if is_any else 0.0
    for i in range(n):
        u[i] *= scale
    return is_any


@routine
def _load_rows(y: Any, order: Any, X: Any, U: Any, rows: Any) -> int:
    """Write the rows of X and of y present into the columns of U; return how many there are."""
    n, p = 0, X.shape[1]
    for i in range(order.size):
        if y[order[i]] == y[order[i]]:
            rows[n] = i
            for k in range(p):
                U[k, n] = X[order[i], k]
            U[p, n] = y[order[i]]
            n += 1
    return n


@routine
def load_voxel(y: Any, order: Any, X: Any, q: int, U: Any, rows: Any, residual: Any) -> Any:
    """Write an orthonormal design and y less X0's part, on the images present.

    Parameters
    ----------
    y : array of shape (n_obs,)
        NaN where missing.
    order : integer array of shape (n_obs,)
        In which images are taken.
    X : array of shape (n_obs, p0 + q)
        X0, then x.
    q : int
    U : array of shape (p0 + q + 1, n_obs)
        Receives X0, x and y; 0 for what depends on rows before it.
    rows : integer array of shape (n_obs,)
        Receives the places in `order` of the images present.
    residual : array of shape (n_obs,)
        Overwritten.

    Returns
    -------
    n, rank, status
        Images present, rank of X0 there, and what keeps the voxel from being tested.
    """
    p = X.shape[1] - q
    n = _load_rows(y, order, X, U, rows)
    rank, n_tested = 0, 0
    for k in range(p):
        rank += 1 if _normalise(U, k, n) else 0
    for k in range(p, p + q):
        n_tested += 1 if _normalise(U, k, n) else 0
    if n - rank - q <= 1:
        return n, rank, TOO_FEW
    if n_tested < q:
        return n, rank, NOT_ESTIMABLE
    u = U[p + q]
    for i in range(n):
        residual[i] = u[i] - u[0]
    smallest = max(ZERO_VARIANCE * _square(residual, n), ROUNDING * n * _square(u, n))
    _remove(U, 0, p, u, n)
    for i in range(n):
        residual[i] = u[i]
    _remove(U, p, p + q, residual, n)
    is_fitted_exactly = not _square(residual, n) > smallest
    return n, rank, ZERO_VARIANCE_STATUS if is_fitted_exactly else FITTED
