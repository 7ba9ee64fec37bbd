"""Permutation of residuals (Freedman-Lane) with data missing voxel by voxel.

Giving images other rows of X is the same as permuting their residuals: what is missing moves
with the image.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import exact_kernel, exact_routine, kernel
from nipype_blm.core.linalg import RANK_TOLERANCE, FloatArray
from nipype_blm.core.ols import screen_voxels
from nipype_blm.core.resampling.flipping import DEGENERATE, Float32, Resampled
from nipype_blm.core.resampling.hypotheses import Hypothesis
from nipype_blm.core.resampling.present import load_voxel, take_tiles
from nipype_blm.core.status import is_fitted
from nipype_blm.core.threads import ONE_THREAD, Threads

LANES = 64  # permutations side by side


class PermutationScores(NamedTuple):
    """Residuals of the tested voxels of a block, and the design whose rows are permuted."""

    m: NDArray[np.int32]  # (n_voxels,), images present less the rank of X0; 0 if not tested
    status: NDArray[np.uint8]  # (n_voxels,), VoxelStatus
    voxel: NDArray[np.int32]  # (n_tested,)
    residual: Float32  # (n_obs, n_tested), of length 1; NaN where missing
    X: FloatArray  # (n_obs, p0 + q), orthonormal: X0, then x
    q: NDArray[np.int64]  # (), columns of x


def prepare_permutations(
    Y: NDArray[Any],
    hypothesis: Hypothesis,
    group: NDArray[np.int32],
    n_groups: int,
    random: None = None,
    minimum_n: int = 0,
    allowed: NDArray[np.bool_] | None = None,
    threads: Threads = ONE_THREAD,
) -> PermutationScores:
    """Return the residuals of y from X0 at a block of voxels.

    Parameters
    ----------
    Y, hypothesis, group, n_groups, random, minimum_n, allowed, threads
        As of `prepare_scores`; groups make no difference, and a mixed model is refused.
    """
    if random is not None:
        raise ValueError("Permutation does not hold for mixed models; flip_scores does.")
    n_obs, n_voxels = Y.shape
    n_present = np.zeros(n_voxels, np.int32)
    for row in Y:
        n_present += row == row
    status = screen_voxels(n_present, minimum_n, allowed)
    voxel = np.flatnonzero(is_fitted(status)).astype(np.int32)
    X = np.concatenate([hypothesis.X0, hypothesis.x], axis=1)
    residual = np.full((n_obs, voxel.size), np.nan, np.float32)
    m = np.zeros(n_voxels, np.int32)

    def reduce(start: int, stop: int) -> None:
        for first, last, tile in take_tiles(Y, voxel, start, stop):
            _reduce(first, last, tile, voxel, X, hypothesis.q, residual, m, status)

    threads.split(reduce, voxel.size)
    kept = m[voxel] > 0
    return PermutationScores(
        m,
        status,
        voxel[kept],
        residual.compress(kept, axis=1),
        X,
        np.array(hypothesis.q),
    )


@kernel
def _reduce(
    start: int,
    stop: int,
    tile: Any,
    voxels: Any,
    X: Any,
    q: int,
    residual: Any,
    m: Any,
    status: Any,
) -> None:
    n_obs, p = X.shape
    U, rows, work = np.empty((p + 1, n_obs)), np.empty(n_obs, np.int64), np.empty(n_obs)
    order = np.arange(n_obs)
    for t in range(start, stop):
        v = voxels[t]
        n, rank, outcome = load_voxel(tile[t - start], order, X, q, U, rows, work)
        status[v] = outcome
        if outcome >= 10:
            continue
        m[v] = n - rank
        square = 0.0
        for i in range(n):
            square += U[p, i] * U[p, i]
        for i in range(n):
            residual[rows[i], t] = np.float32(U[p, i] / np.sqrt(square))


def compute_permutations(
    scores: PermutationScores, weights: NDArray[np.int32], threads: Threads = ONE_THREAD
) -> Resampled:
    """Return the statistics of permutations (n_permutations, n_obs) at a block of voxels.

    Notes
    -----
    With X of the permuted rows, L L' = X'X on the images present and z = L^-1 X'e, the null sum
    of squares is e'e less the squares of z that belong to X0; those of x are explained.
    (D. Freedman, D. Lane, 1983, Journal of Business and Economic Statistics 1, 292-298;
    A. Winkler et al., 2014, NeuroImage 92, 381-397.)
    """
    n_permutations, (n_obs, p) = len(weights), scores.X.shape
    q = int(scores.q)
    share = np.zeros((scores.m.size, n_permutations), np.float32)
    counts = [np.zeros(n_permutations, np.int64)]

    def permute(start: int, stop: int) -> None:
        count = np.zeros(n_permutations, np.int64)
        for first in range(0, n_permutations, LANES):
            part = weights[first : first + LANES]
            X = np.zeros((n_obs, p, LANES))
            X[:, :, : len(part)] = scores.X[part].transpose(1, 2, 0)
            _permute(
                start,
                stop,
                scores.residual,
                X,
                q,
                scores.voxel,
                first,
                len(part),
                share,
                count,
            )
        counts.append(count)

    threads.split(permute, scores.voxel.size)
    return Resampled(share, np.sum(counts, axis=0, dtype=np.int64))


@exact_routine
def _project(e: Any, X: Any, z: Any) -> None:
    """Write X'e of the images present, for every permutation."""
    for a in range(len(z)):
        for f in range(LANES):
            z[a, f] = 0.0
    for i in range(e.size):
        if e[i] == e[i]:
            for a in range(len(z)):
                row, out = X[i, a], z[a]
                for f in range(LANES):
                    out[f] += e[i] * row[f]


@exact_routine
def _sum_products(  # noqa: C901 - nothing but loops
    e: Any, X: Any, from_missing: bool, gram: Any
) -> None:
    """Write the packed X'X of the images present, from whichever images are fewer.

    X'X of all images is the identity.
    """
    p = X.shape[1]
    for k in range(len(gram)):
        for f in range(LANES):
            gram[k, f] = 0.0
    if from_missing:
        for a in range(p):
            for f in range(LANES):
                gram[a * (a + 3) // 2, f] = 1.0
    weight = -1.0 if from_missing else 1.0
    for i in range(e.size):
        if (e[i] != e[i]) == from_missing:
            position = 0
            for a in range(p):
                for b in range(a + 1):
                    left, right, out = X[i, a], X[i, b], gram[position]
                    for f in range(LANES):
                        out[f] += weight * left[f] * right[f]
                    position += 1


@exact_routine
def _solve(  # noqa: C901 - nothing but loops
    L: Any, p0: int, inverse: Any, z: Any
) -> None:
    """Factorise packed X'X, and write L^-1 z in the place of z; 0 where there is no pivot."""
    for a in range(len(z)):
        first = a * (a + 1) // 2
        for b in range(a + 1):
            out = L[first + b]
            for k in range(b):
                left, right = L[first + k], L[b * (b + 1) // 2 + k]
                for f in range(LANES):
                    out[f] -= left[f] * right[f]
            if a > b:
                for f in range(LANES):
                    out[f] *= inverse[b, f]
        tolerance, pivot = RANK_TOLERANCE if a < p0 else DEGENERATE, L[first + a]
        for f in range(LANES):
            inverse[a, f] = 1.0 / np.sqrt(pivot[f]) if pivot[f] > tolerance else 0.0
        for k in range(a):
            left, before = L[first + k], z[k]
            for f in range(LANES):
                z[a, f] -= left[f] * before[f]
        for f in range(LANES):
            z[a, f] *= inverse[a, f]


@exact_kernel
def _permute(
    start: int,
    stop: int,
    residual: Any,
    X: Any,
    q: int,
    voxel: Any,
    first: int,
    n_here: int,
    share: Any,
    n_degenerate: Any,
) -> None:
    n_obs, p = X.shape[:2]
    p0 = p - q
    e = np.empty(n_obs)
    z, inverse = np.empty((p, LANES)), np.empty((p, LANES))
    L = np.empty((p * (p + 1) // 2, LANES))
    for t in range(start, stop):
        n_missing = 0
        for i in range(n_obs):
            e[i] = residual[i, t]
            n_missing += e[i] != e[i]
        _project(e, X, z)
        inverse[:] = 1.0
        if n_missing > 0:
            _sum_products(e, X, 2 * n_missing < n_obs, L)
            _solve(L, p0, inverse, z)
        out = share[voxel[t]]
        for f in range(n_here):
            null, explained, is_degenerate = 1.0, 0.0, False
            for a in range(p0):
                null -= z[a, f] * z[a, f]
            for a in range(p0, p):
                explained += z[a, f] * z[a, f]
                is_degenerate |= inverse[a, f] == 0.0
            if is_degenerate or null < DEGENERATE:
                n_degenerate[first + f] += 1
                continue
            u = np.float32(min(explained / null, 1.0))
            out[first + f] = -u if q == 1 and z[p0, f] < 0.0 else u
