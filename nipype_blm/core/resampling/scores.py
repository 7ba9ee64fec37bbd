"""Scores of groups of images at every voxel, and what of them X0 takes back when signs flip."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import inline, kernel, routine
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import RANK_TOLERANCE, FloatArray
from nipype_blm.core.resampling.present import (
    FITTED,
    NOT_ESTIMABLE,
    ZERO_VARIANCE_STATUS,
    load_voxel,
)

# What is left of an element of the diagonal of D, as a fraction of it, that counts as 0.
ZERO = 1e-13


class Layout(NamedTuple):
    """Images in the order of their groups, and where their random effects stand in a group."""

    order: NDArray[np.int64]  # (n_obs,), images by group
    first: NDArray[np.int64]  # (n_groups + 1,), of each group in `order`
    Z: FloatArray  # (n_obs, n_effects), effects of all factors side by side
    column: NDArray[np.int64]  # (n_obs, n_effects), of these among the random effects of a group
    start: NDArray[np.int64]  # (n_factors + 1,), first effect of each factor
    width: NDArray[np.int64]  # (n_groups,), random effects of each group


def arrange_groups(
    group: NDArray[np.int32], n_groups: int, factors: Sequence[RandomFactor] = ()
) -> Layout:
    """Return where images and random effects stand in their groups.

    Raises
    ------
    ValueError
        If a level has images of several groups.
    """
    n_obs = group.size
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], np.arange(n_groups + 1))
    sizes = [factor.n_effects for factor in factors]
    start = np.cumsum([0, *sizes])
    column = np.zeros((n_obs, int(start[-1])), np.int64)
    width = np.zeros(n_groups, np.int64)
    for k, factor in enumerate(factors):
        owner = np.zeros(factor.n_levels, np.int64)
        owner[factor.level] = group
        if (owner[factor.level] != group).any():
            raise ValueError(f"A level of {factor.name} has images of several groups.")
        # The place of each level among those of its group.
        by_group = np.argsort(owner, kind="stable")
        place = np.empty(factor.n_levels, np.int64)
        before = np.searchsorted(owner[by_group], owner[by_group])
        place[by_group] = np.arange(factor.n_levels) - before
        base = width[group] + place[factor.level] * sizes[k]
        column[:, start[k] : start[k + 1]] = base[:, None] + np.arange(sizes[k])
        width += np.bincount(owner, minlength=n_groups) * sizes[k]
    Z = np.concatenate([np.empty((n_obs, 0)), *(np.asarray(f.Z, float) for f in factors)], axis=1)
    return Layout(order, first, Z, column, start, width)


@routine
def _factorise(A: Any, n: int, tolerance: float) -> None:
    """Write the Cholesky factor into the lower triangle; a column without a pivot becomes 0."""
    for b in range(n):
        pivot = A[b, b]
        diagonal = pivot
        for k in range(b):
            pivot -= A[b, k] * A[b, k]
        is_any = pivot > tolerance * diagonal
        A[b, b] = np.sqrt(pivot) if is_any else 0.0
        for a in range(b + 1, n):
            x = A[a, b]
            for k in range(b):
                x -= A[a, k] * A[b, k]
            A[a, b] = x / A[b, b] if is_any else 0.0


@routine
def _solve_lower(L: Any, n: int, B: Any, n_columns: int) -> None:
    """Solve L X = B in the place of B (n, n_columns); 0 where L has no pivot."""
    for a in range(n):
        for c in range(n_columns):
            x = B[a, c]
            for k in range(a):
                x -= L[a, k] * B[k, c]
            B[a, c] = x / L[a, a] if L[a, a] > 0.0 else 0.0


@routine
def _solve_transposed(L: Any, n: int, B: Any, n_columns: int) -> None:
    """Solve L' X = B in the place of B (n, n_columns); 0 where L has no pivot."""
    for a in range(n - 1, -1, -1):
        for c in range(n_columns):
            x = B[a, c]
            for k in range(a + 1, n):
                x -= L[k, a] * B[k, c]
            B[a, c] = x / L[a, a] if L[a, a] > 0.0 else 0.0


@inline
def _factorise_effects(D: Any, v: int, start: Any, Lambda: Any) -> None:
    """Write the Cholesky factor of each factor's D."""
    position = 0
    for f in range(start.size - 1):
        low, size = start[f], start[f + 1] - start[f]
        for b in range(size):
            for a in range(b, size):
                Lambda[low + a, low + b] = D[position, v]
                position += 1
        _factorise(Lambda[low : low + size, low : low + size], size, ZERO)


@routine
def _weight_row(Z: Any, start: Any, Lambda: Any, out: Any) -> None:
    """Write a row of Z Lambda."""
    for f in range(start.size - 1):
        for b in range(start[f], start[f + 1]):
            x = 0.0
            for a in range(b, start[f + 1]):
                x += Z[a] * Lambda[a, b]
            out[b] = x


@routine
def _reduce_group(U: Any, low: int, high: int, G: Any) -> None:
    """Write U'U of the images of a group."""
    c = len(U)
    for a in range(c):
        for b in range(a + 1):
            x = 0.0
            for i in range(low, high):
                x += U[a, i] * U[b, i]
            G[a, b] = G[b, a] = x


@routine
def _add_row(weights: Any, place: Any, U: Any, i: int, K: Any, H: Any) -> None:
    """Add a row of T = Z Lambda to T'T and T'U."""
    for a in range(weights.size):
        for b in range(weights.size):
            K[place[a], place[b]] += weights[a] * weights[b]
        for b in range(len(U)):
            H[place[a], b] += weights[a] * U[b, i]


@routine
def _remove_effects(
    U: Any,
    low: int,
    high: int,
    rows: Any,
    Z: Any,
    column: Any,
    start: Any,
    Lambda: Any,
    width: int,
    weights: Any,
    K: Any,
    H: Any,
    G: Any,
) -> None:
    """Take from U'U of a group what its random effects take: G becomes U'V^-1 U.

    V^-1 = I - T (I + T'T)^-1 T' with T = Z Lambda, which takes a singular D.
    """
    c = len(U)
    for a in range(width):
        for b in range(width):
            K[a, b] = 1.0 if a == b else 0.0
        for b in range(c):
            H[a, b] = 0.0
    for i in range(low, high):
        _weight_row(Z[rows[i]], start, Lambda, weights)
        _add_row(weights, column[rows[i]], U, i, K, H)
    _factorise(K, width, 0.0)
    _solve_lower(K, width, H, c)
    for a in range(c):
        for b in range(a + 1):
            x = 0.0
            for k in range(width):
                x += H[k, a] * H[k, b]
            G[a, b] -= x
            if a != b:
                G[b, a] = G[a, b]


@routine
def _standardise(total: Any, p: int, q: int, A: Any, B: Any, M: Any) -> float:
    """Write what all groups have in common; return the null sum of squares r'V^-1 r.

    With X0'V^-1 X0 = A A': B = (A A')^-1 X0'V^-1 [x, y], and M M' = xt'V^-1 xt.
    """
    for a in range(p):
        for b in range(p):
            A[a, b] = total[a, b]
        for b in range(q + 1):
            B[a, b] = total[a, p + b]
    _factorise(A, p, RANK_TOLERANCE)
    _solve_lower(A, p, B, q + 1)
    null_square = total[p + q, p + q]
    for k in range(p):
        null_square -= B[k, q] * B[k, q]
    for a in range(q):
        for b in range(q):
            M[a, b] = total[p + a, p + b]
            for k in range(p):
                M[a, b] -= B[k, a] * B[k, b]
    _solve_transposed(A, p, B, q + 1)
    _factorise(M, q, RANK_TOLERANCE)
    return float(null_square)


@routine
def _score_group(G: Any, p: int, q: int, B: Any, M: Any, C: Any, S: Any) -> None:
    """Write C = xt'V^-1 X0 and S = M^-1 xt'V^-1 r of a group."""
    for a in range(q):
        for k in range(p):
            x = G[p + a, k]
            for b in range(p):
                x -= B[b, a] * G[b, k]
            C[a, k] = x
        x = G[p + a, p + q]
        for b in range(p):
            x -= B[b, a] * G[b, p + q] + C[a, b] * B[b, q]
        S[a, 0] = x
    _solve_lower(M, q, S, 1)


@routine
def _leak_group(C: Any, p: int, q: int, A: Any, M: Any) -> None:
    """Write W = M^-1 C A'^-1 in the place of C."""
    for a in range(q):
        for k in range(p):
            x = C[a, k]
            for b in range(k):
                x -= C[a, b] * A[k, b]
            C[a, k] = x / A[k, k] if A[k, k] > 0.0 else 0.0
    _solve_lower(M, q, C, p)


@kernel
def compute_scores(  # noqa: C901 - one pass over the images of a voxel
    start: int,
    stop: int,
    tile: Any,
    X: Any,
    q: int,
    order: Any,
    first: Any,
    Z: Any,
    column: Any,
    factor_start: Any,
    width: Any,
    D: Any,
    of_data: bool,
    n_shared: int,
    score: Any,
    leak: Any,
    m: Any,
    status: Any,
) -> None:
    """Write scores, leaks, m and status of some voxels.

    Parameters
    ----------
    start, stop : int
        Range of the voxels.
    tile : array of shape (stop - start, n_obs)
        Their values, NaN where missing.
    X : array of shape (n_obs, p0 + q)
        Orthonormal X0, then x.
    order, first, Z, column, factor_start, width
        As in `Layout`.
    D : array of shape (n_entries, n)
        vech(D) of each factor, or no row: V = I.
    of_data : bool
        Whether the leak is w_j = X0_j' y_j of flipped data.
    n_shared : int
        Voxels before this one have no leak of their own.
    score : array of shape (q, n_groups, n)
    leak : array of shape (q * p0 or p0, n_groups, n - n_shared)
    m, status : arrays of shape (n,)
    """
    n_obs, p = X.shape[0], X.shape[1] - q
    c, n_groups, n_effects = p + q + 1, first.size - 1, Z.shape[1]
    is_mixed = len(D) > 0
    U, rows, residual = np.empty((c, n_obs)), np.empty(n_obs, np.int64), np.empty(n_obs)
    G, total = np.empty((n_groups, c, c)), np.empty((c, c))
    A, B, C, M = np.empty((p, p)), np.empty((p, q + 1)), np.empty((q, p)), np.empty((q, q))
    S, weights, Lambda = np.empty((q, 1)), np.empty(n_effects), np.zeros((n_effects, n_effects))
    largest = 0
    for j in range(n_groups):
        largest = max(largest, width[j])
    K, H = np.empty((largest, largest)), np.empty((largest, c))
    for t in range(start, stop):
        n, rank, outcome = load_voxel(tile[t - start], order, X, q, U, rows, residual)
        if status[t] < 10 and outcome != FITTED:
            status[t] = outcome
        if status[t] >= 10:
            continue
        if is_mixed:
            _factorise_effects(D, t, factor_start, Lambda)
        total[:] = 0.0
        high = 0
        for j in range(n_groups):
            low = high
            while high < n and rows[high] < first[j + 1]:
                rows[high] = order[rows[high]]
                high += 1
            _reduce_group(U, low, high, G[j])
            if is_mixed:
                _remove_effects(
                    U,
                    low,
                    high,
                    rows,
                    Z,
                    column,
                    factor_start,
                    Lambda,
                    width[j],
                    weights,
                    K,
                    H,
                    G[j],
                )
            total += G[j]
        null_square = _standardise(total, p, q, A, B, M)
        for a in range(q):
            if not M[a, a] > 0.0:
                status[t] = NOT_ESTIMABLE
        if not null_square > 0.0:
            status[t] = ZERO_VARIANCE_STATUS
        if status[t] >= 10:
            continue
        m[t] = n - rank
        scale = 1.0 / np.sqrt(null_square)
        for j in range(n_groups):
            _score_group(G[j], p, q, B, M, C, S)
            for a in range(q):
                score[a, j, t] = np.float32(S[a, 0] * scale)
            if t < n_shared:
                continue
            if of_data:
                for k in range(p):
                    leak[k, j, t - n_shared] = np.float32(G[j, k, p + q] * scale)
                continue
            _leak_group(C, p, q, A, M)
            for a in range(q):
                for k in range(p):
                    leak[a * p + k, j, t - n_shared] = np.float32(C[a, k])
