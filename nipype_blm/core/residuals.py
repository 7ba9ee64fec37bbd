"""Residuals, leverage and standardised residuals of each image at the voxels of a block.

Models are fitted again, from the values themselves: sums of products, and maps in single
precision, have not the digits that residuals need.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core._jit import inline, kernel, routine
from nipype_blm.core.deficient import (
    cholesky_semidefinite,
    solve_lower_semidefinite,
    solve_lower_transposed_semidefinite,
)
from nipype_blm.core.linalg import DesignFactor, FloatArray, express_rows
from nipype_blm.core.ols import NOISE
from nipype_blm.core.threads import ONE_THREAD, Threads

# An image whose leverage is nearer to 1 is fitted exactly, whatever its value.
EXACT = 1e-9


class Residuals(NamedTuple):
    """What a model leaves at the voxels of a block; NaN where an image is missing.

    Voxels come first, so that all of one voxel lie side by side.
    """

    residual: FloatArray  # (n_voxels, n_obs), y less its fit; of a mixed model conditional
    standardised: FloatArray  # (n_voxels, n_obs); NaN where the leverage is 1, too
    leverage: FloatArray  # (n_voxels, n_obs), change of the fit by the value
    cook: FloatArray  # (n_voxels, n_obs), Cook's distance
    sigma: FloatArray  # (n_voxels,), residual standard deviation
    rank: FloatArray  # (n_voxels,), of the rows of X present


def compute_residuals(
    Y: FloatArray, design: DesignFactor, threads: Threads = ONE_THREAD
) -> Residuals:
    """Return what least squares leave at each voxel.

    Parameters
    ----------
    Y : array of shape (n_voxels, n_obs)
        Values of each voxel, NaN where missing; more images than the rank of X there.
    design : DesignFactor
    threads : Threads

    Notes
    -----
    With Q_v'Q_v = L L' of the rows present, h_i = |L^-1 q_i|^2 is the leverage, r_i / sqrt(s2
    (1 - h_i)) the internally studentised residual, and the square of that times
    h_i / (1 - h_i) / rank Cook's distance (R. D. Cook and S. Weisberg, Residuals and Influence in
    Regression, 1982, chapters 2 and 3).
    """
    n, n_obs = Y.shape
    found = make_residuals(n, n_obs)

    def compute(start: int, stop: int) -> None:
        _compute_linear(start, stop, Y, design.Q, *found[:3], found.sigma, found.rank)

    threads.split(compute, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = found.leverage / (1 - found.leverage)
        found.cook[:] = found.standardised**2 * share / found.rank[:, None]
    return found


def make_residuals(n: int, n_obs: int) -> Residuals:
    """Return arrays to be filled."""
    shapes = [(n, n_obs)] * 4 + [(n,)] * 2
    return Residuals(*map(np.empty, shapes))


class Combinations(NamedTuple):
    """Rows of contrasts on the scale of Q."""

    rows: FloatArray  # (n_rows, n_params), a with l beta = a gamma
    first: Any  # (n_contrasts + 1,), where the rows of each contrast begin
    estimable: Any  # (n_contrasts,), whether all of X can tell


def combine_contrasts(R: FloatArray, matrices: Sequence[FloatArray]) -> Combinations:
    """Return the rows of all contrasts, each of shape (q, n_params)."""
    expressed = [express_rows(R, L) for L in matrices]
    rows = [each for each, _ in expressed] or [np.empty((0, len(R)))]
    first = np.cumsum([0, *map(len, matrices)])
    estimable = np.array([known.all() for _, known in expressed], bool)
    return Combinations(np.ascontiguousarray(np.concatenate(rows)), first, estimable)


@inline
def add_row(row: Any, gram: Any) -> None:
    """Add row row' to a packed matrix."""
    position = 0
    for a in range(row.size):
        for b in range(a + 1):
            gram[position + b] += row[a] * row[b]
        position += a + 1


@routine
def fit_present(y: Any, Q: Any, factor: Any, work: Any, gamma: Any, spare: Any, out: Any) -> Any:
    """Fit y = Q gamma in the rows present; return their number, the rank and the RSS.

    Parameters
    ----------
    factor : array of shape (packed,)
        Receives the Cholesky factor of Q'Q.
    work : array of shape (2, n_params)
    gamma, spare : arrays of shape (n_params,)
        `gamma` receives the coefficients.
    out : array of shape (n_obs,)
        Receives the residuals; of what is missing y itself.
    """
    n_obs, p = Q.shape
    n = 0
    factor[:] = 0.0
    gamma[:] = 0.0
    for i in range(n_obs):
        out[i] = y[i]
        if y[i] == y[i]:
            n += 1
            add_row(Q[i], factor)
    rank, _ = cholesky_semidefinite(factor, p, NOISE, work)
    rss = 0.0
    for _ in range(2):  # the second time takes away what rounding left of a large mean
        rss = _improve(y, Q, factor, work, gamma, spare, out)
    return n, rank, rss


@routine
def _improve(y: Any, Q: Any, factor: Any, work: Any, gamma: Any, spare: Any, out: Any) -> float:
    """Take from residuals what Q explains of them, and add it to gamma; return the RSS."""
    n_obs, p = Q.shape
    product, change = work[0], work[1]
    product[:] = 0.0
    for i in range(n_obs):
        if y[i] == y[i]:
            for a in range(p):
                product[a] += Q[i, a] * out[i]
    solve_lower_semidefinite(factor, product, p, spare)
    solve_lower_transposed_semidefinite(factor, spare, p, change)
    for a in range(p):
        gamma[a] += change[a]
    rss = 0.0
    for i in range(n_obs):
        if y[i] == y[i]:
            for a in range(p):
                out[i] -= Q[i, a] * change[a]
            rss += out[i] * out[i]
    return rss


@kernel
def _compute_linear(
    start: int,
    stop: int,
    Y: Any,
    Q: Any,
    residual: Any,
    standardised: Any,
    leverage: Any,
    sigma: Any,
    rank: Any,
) -> None:
    n_obs, p = Q.shape
    factor = np.empty(p * (p + 1) // 2)
    work = np.empty((2, p))
    gamma, spare = np.empty(p), np.empty(p)
    for j in range(start, stop):
        y, r = Y[j], residual[j]
        n, k, rss = fit_present(y, Q, factor, work, gamma, spare, r)
        sigma[j] = np.sqrt(rss / (n - k)) if n > k else np.nan
        rank[j] = k
        for i in range(n_obs):
            if y[i] == y[i]:
                solve_lower_semidefinite(factor, Q[i], p, spare)
                h = 0.0
                for a in range(p):
                    h += spare[a] * spare[a]
                leverage[j, i] = h
                rest = 1.0 - h
                is_exact = rest < EXACT
                standardised[j, i] = np.nan if is_exact else r[i] / (sigma[j] * np.sqrt(rest))
            else:
                r[i] = leverage[j, i] = standardised[j, i] = np.nan
