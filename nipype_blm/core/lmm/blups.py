"""Random effects predicted, and what is left, at the voxels of a block.

Images that share a level of any factor are joined, and so are their levels: columns of Z that
are not joined have nothing to do with each other.  Each such *group* has a dense matrix.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import allocating_routine, kernel, routine
from nipype_blm.core.deficient import (
    cholesky_semidefinite,
    solve_lower_semidefinite,
    solve_lower_transposed_semidefinite,
)
from nipype_blm.core.factors import RandomFactor, count_columns, select_rows
from nipype_blm.core.groups import find_groups
from nipype_blm.core.linalg import DesignFactor, FloatArray
from nipype_blm.core.ols import NOISE
from nipype_blm.core.residuals import (
    EXACT,
    Combinations,
    Residuals,
    add_row,
    fit_present,
    make_residuals,
)
from nipype_blm.core.threads import ONE_THREAD, Threads

# A pivot of D below this fraction of its diagonal entry is rounding of a map in single precision.
_ROUNDING = 1e-6


class MixedResiduals(NamedTuple):
    """What a mixed model leaves at the voxels of a block, and its random effects."""

    residuals: Residuals  # conditional: y - X beta - Z b
    # Columns of Z factor by factor, level by level; 0 where the level has no image.
    blup: FloatArray  # (n_voxels, n_columns)
    # vech of each level in the same order, as D; no column unless asked for.
    covariance: FloatArray  # (n_voxels, n_entries)
    is_present: NDArray[np.bool_]  # (n_voxels, n_levels of all factors), has it an image there?
    # Standard error of each contrast over that of least squares; 0 where not estimable.
    se_ratio: FloatArray  # (n_voxels, n_contrasts)


class _Layout(NamedTuple):
    """Where the entries of Z are, with the columns of a group side by side."""

    column: NDArray[np.int64]  # (n_obs, n_terms), of each entry of a row
    value: FloatArray  # (n_obs, n_terms)
    group: NDArray[np.int64]  # (n_obs,)
    start: NDArray[np.int64]  # (n_groups + 1,), first column of each
    place: NDArray[np.int64]  # (n_groups + 1,), of its matrix among those of all
    first: NDArray[np.int64]  # (n_levels,), first column of each level
    factor: NDArray[np.int64]  # (n_levels,), whose level it is
    level_group: NDArray[np.int64]  # (n_levels,)
    level: NDArray[np.int64]  # (n_obs, n_factors), number among the levels of all factors
    n_effects: NDArray[np.int64]  # (n_factors,)
    root_size: int  # most effects of a factor
    largest: int  # most columns of a group


def compute_mixed_residuals(
    Y: FloatArray,
    D: FloatArray,
    design: DesignFactor,
    factors: Sequence[RandomFactor],
    combinations: Combinations,
    reml: bool,
    with_covariance: bool = False,
    threads: Threads = ONE_THREAD,
) -> MixedResiduals:
    """Return residuals and random effects of a mixed model whose D is known.

    Parameters
    ----------
    Y : array of shape (n_voxels, n_obs)
        Values of each voxel, NaN where missing.
    D : array of shape (n_entries, n_voxels)
        vech(D_k) column by column, factor by factor, relative to sigma2.
    design : DesignFactor
    factors : sequence of RandomFactor
    combinations : Combinations
        Contrasts whose standard errors are compared.
    reml : bool
        Whether sigma2 is that of REML.
    with_covariance : bool
        Whether to compute the conditional covariances of the random effects.
    threads : Threads

    Notes
    -----
    With D = Lambda Lambda', W = Z Lambda and M = W'W + I, u = M^-1 W'(y - X beta) and b = Lambda u
    given beta by generalised least squares; sigma2 = (|y - X beta - W u|^2 + |u|^2) / N, N = n less
    the rank of X, or n.  Given y, beta and D, b has the covariance sigma2 Lambda M^-1 Lambda'.
    The leverage h_i is that of y_i on its own fit, X beta + Z b (Bates, Maechler, Bolker and
    Walker, J. Stat. Softw. 67, 2015, section 3).  Residuals are standardised by sigma, and Cook's
    distance is (r_i / (1 - h_i))^2 h_i / (sigma2 rank): both as lme4 defines them.
    """
    n, n_obs = Y.shape
    layout = _make_layout(factors)
    found = make_residuals(n, n_obs)
    n_entries = sum(f.n_entries * f.n_levels for f in factors)
    blup = np.empty((n, count_columns(factors)))
    covariance = np.empty((n, n_entries if with_covariance else 0))
    is_present = np.empty((n, layout.first.size), bool)
    se_ratio = np.empty((n, len(combinations.first) - 1))
    D = np.ascontiguousarray(D.T)

    def compute(start: int, stop: int) -> None:
        _compute_mixed(
            start,
            stop,
            Y,
            D,
            design.Q,
            layout,
            *combinations,
            reml,
            with_covariance,
            *found,
            blup,
            covariance,
            is_present,
            se_ratio,
        )

    threads.split(compute, n)
    return MixedResiduals(found, blup, covariance, is_present, se_ratio)


def _number_levels(factors: Sequence[RandomFactor]) -> NDArray[np.int64]:
    """Return the level of each image, (n_obs, n_factors), numbered factor by factor."""
    first = np.cumsum([0, *(f.n_levels for f in factors)])
    columns = [f.level.astype(np.int64) + k for f, k in zip(factors, first[:-1], strict=True)]
    return np.ascontiguousarray(np.stack(columns, axis=1))


def _make_layout(factors: Sequence[RandomFactor]) -> _Layout:
    level = _number_levels(factors)
    group = find_groups(len(level), factors).astype(np.int64)
    level_group = np.zeros(sum(f.n_levels for f in factors), np.int64)
    level_group[level] = group[:, None]
    number = np.arange(len(factors))
    factor = np.repeat(number, [f.n_levels for f in factors])
    n_effects = np.array([f.n_effects for f in factors], np.int64)
    order = np.argsort(level_group, kind="stable")
    width = n_effects[factor]
    first = np.empty(order.size, np.int64)
    first[order] = np.cumsum(width[order]) - width[order]
    size = np.bincount(level_group, weights=width).astype(np.int64)
    columns = [first[level[:, k], None] + np.arange(q) for k, q in enumerate(n_effects)]
    rows = select_rows(factors, slice(0, len(level)))
    return _Layout(
        np.ascontiguousarray(np.concatenate(columns, axis=1)),
        rows.value,
        group,
        np.cumsum([0, *size]),
        np.cumsum([0, *size**2]),
        first,
        factor,
        level_group,
        level,
        n_effects,
        int(n_effects.max()),
        int(size.max()),
    )


@routine
def _root(D: Any, offset: int, q: int, out: Any) -> None:
    """Write the lower triangular root of the D of one factor, vech from `offset` on."""
    for j in range(q):
        at = offset + j * q - j * (j - 1) // 2
        diagonal = D[at]
        pivot = diagonal
        for k in range(j):
            pivot -= out[j, k] * out[j, k]
        is_positive = pivot > _ROUNDING * diagonal and diagonal > 0.0
        out[j, j] = np.sqrt(pivot) if is_positive else 0.0
        for i in range(j + 1, q):
            x = D[at + i - j]
            for k in range(j):
                x -= out[i, k] * out[j, k]
            out[i, j] = x / out[j, j] if is_positive else 0.0


@routine
def _invert(A: Any, k: int, X: Any) -> None:
    """Replace a positive definite matrix by its inverse X'X, X that of its Cholesky factor.

    Not by LAPACK, whose errors take Numba longer to compile than all the rest.
    """
    for i in range(k):
        for j in range(i + 1):
            x = A[i, j]
            for m in range(j):
                x -= A[i, m] * A[j, m]
            A[i, j] = np.sqrt(x) if i == j else x / A[j, j]
    for i in range(k):
        for j in range(i):
            X[i, j] = 0.0
        for m in range(i):
            for j in range(m + 1):
                X[i, j] -= A[i, m] * X[m, j]
        X[i, i] = 1.0
        for j in range(i + 1):
            X[i, j] /= A[i, i]
    for i in range(k):
        for j in range(i + 1):
            A[i, j] = 0.0
    for m in range(k):
        for i in range(m + 1):
            for j in range(i + 1):
                A[i, j] += X[m, i] * X[m, j]
    for i in range(k):
        for j in range(i):
            A[j, i] = A[i, j]


class _Work(NamedTuple):
    """Workspace for one voxel."""

    root: FloatArray  # (n_factors, most effects, most effects), Lambda of each factor
    W: FloatArray  # (n_obs, n_terms), rows of Z Lambda
    M: FloatArray  # (sum of squares of the sizes of groups,), the inverse of W'W + I
    X: FloatArray  # (size of the largest group, the same)
    S: FloatArray  # (n_columns, n_params), M^-1 W'Q
    G: FloatArray  # (packed,), factor of Q'V^-1 Q
    u: FloatArray  # (n_columns,)
    rhs: FloatArray  # (2, n_columns)
    gamma: FloatArray  # (n_params,)
    vectors: FloatArray  # (4, n_params)
    ols: FloatArray  # (packed,), factor of Q'Q


@kernel
def _compute_mixed(
    start: int,
    stop: int,
    Y: Any,
    D: Any,
    Q: Any,
    layout: Any,
    rows: Any,
    first: Any,
    estimable: Any,
    reml: bool,
    with_covariance: bool,
    residual: Any,
    standardised: Any,
    leverage: Any,
    cook: Any,
    sigma: Any,
    rank: Any,
    blup: Any,
    covariance: Any,
    is_present: Any,
    se_ratio: Any,
) -> None:
    (n_obs, p), n_columns = Q.shape, layout.start[-1]
    q, largest = layout.root_size, layout.largest
    packed = p * (p + 1) // 2
    w = _Work(
        np.zeros((layout.n_effects.size, q, q)),
        np.empty(layout.value.shape),
        np.empty(layout.place[-1]),
        np.empty((largest, largest)),
        np.empty((n_columns, p)),
        np.empty(packed),
        np.empty(n_columns),
        np.empty((2, n_columns)),
        np.empty(p),
        np.empty((4, p)),
        np.empty(packed),
    )
    solved = np.empty((2, rows.shape[0], p))
    for j in range(start, stop):
        y, r = Y[j], residual[j]
        n, k, rss = fit_present(y, Q, w.ols, w.vectors[:2], w.gamma, w.vectors[2], r)
        rank[j] = k
        _weigh(D[j], layout, w)
        _factorise(y, Q, layout, w)
        w.u[:] = 0.0
        for _ in range(2):  # the second time takes away what cancellation left
            _solve(y, Q, layout, w, r)
        total = 0.0
        for i in range(n_obs):
            total += r[i] * r[i] if y[i] == y[i] else 0.0
        for i in range(n_columns):
            total += w.u[i] * w.u[i]
        sigma2 = total / (n - k if reml else n)
        sigma[j] = np.sqrt(sigma2)
        _measure(y, Q, layout, w, sigma[j], k, r, standardised[j], leverage[j], cook[j])
        _predict(y, layout, w, sigma2, with_covariance, blup[j], covariance[j], is_present[j])
        _compare(rows, first, estimable, w, sigma2 * (n - k) / rss, solved, se_ratio[j])


@routine
def _weigh(D: Any, layout: Any, w: Any) -> None:
    """Compute Lambda, and W = Z Lambda."""
    offset, first = 0, 0
    for f in range(layout.n_effects.size):
        q = layout.n_effects[f]
        root = w.root[f]
        _root(D, offset, q, root)
        for i in range(w.W.shape[0]):
            for b in range(q):
                x = 0.0
                for a in range(b, q):
                    x += layout.value[i, first + a] * root[a, b]
                w.W[i, first + b] = x
        offset += q * (q + 1) // 2
        first += q


@allocating_routine
def _factorise(y: Any, Q: Any, layout: Any, w: Any) -> None:
    """Compute the inverse of W'W + I, M^-1 W'Q, and the factor of Q'V^-1 Q."""
    (n_obs, p), n_terms = Q.shape, w.W.shape[1]
    w.M[:] = 0.0
    w.S[:] = 0.0
    w.G[:] = 0.0
    for i in range(n_obs):
        if y[i] != y[i]:
            continue
        add_row(Q[i], w.G)
        c = layout.group[i]
        offset, k = layout.start[c], layout.start[c + 1] - layout.start[c]
        for s in range(n_terms):
            column = layout.column[i, s]
            for a in range(p):
                w.S[column, a] += w.W[i, s] * Q[i, a]
            at = layout.place[c] + (column - offset) * k - offset
            for t in range(n_terms):
                w.M[at + layout.column[i, t]] += w.W[i, s] * w.W[i, t]
    for c in range(layout.start.size - 1):
        first, stop = layout.start[c], layout.start[c + 1]
        k = stop - first
        M = w.M[layout.place[c] : layout.place[c + 1]].reshape(k, k)
        for i in range(k):
            M[i, i] += 1.0
        _invert(M, k, w.X)
        for a in range(p):  # G less Q'W M^-1 W'Q; columns of S become those of M^-1 W'Q
            for i in range(k):
                x = 0.0
                for m in range(k):
                    x += M[i, m] * w.S[first + m, a]
                w.rhs[0, i] = x
            for b in range(a, p):
                x = 0.0
                for i in range(k):
                    x += w.S[first + i, b] * w.rhs[0, i]
                w.G[b * (b + 1) // 2 + a] -= x
            for i in range(k):
                w.S[first + i, a] = w.rhs[0, i]
    for a in range(p):  # what least squares drop
        if w.ols[a * (a + 3) // 2] == 0.0:
            for b in range(p):
                w.G[max(a, b) * (max(a, b) + 1) // 2 + min(a, b)] = 0.0
    cholesky_semidefinite(w.G, p, NOISE, w.vectors[:2])


@routine
def _solve(y: Any, Q: Any, layout: Any, w: Any, r: Any) -> None:
    """Take from the residuals r what Q and W explain of them, and add that to gamma and u."""
    n_obs, p = Q.shape
    n_terms, n_columns = w.W.shape[1], w.u.size
    g, half, change = w.vectors[0], w.vectors[1], w.vectors[2]
    g[:] = 0.0
    for i in range(n_columns):
        w.rhs[0, i] = -w.u[i]
    for i in range(n_obs):
        if y[i] == y[i]:
            for a in range(p):
                g[a] += Q[i, a] * r[i]
            for s in range(n_terms):
                w.rhs[0, layout.column[i, s]] += w.W[i, s] * r[i]
    for i in range(n_columns):
        for a in range(p):
            g[a] -= w.S[i, a] * w.rhs[0, i]
    solve_lower_semidefinite(w.G, g, p, half)
    solve_lower_transposed_semidefinite(w.G, half, p, change)
    for c in range(layout.start.size - 1):
        first = layout.start[c]
        k = layout.start[c + 1] - first
        for i in range(k):
            x = 0.0
            for m in range(k):
                x += w.M[layout.place[c] + i * k + m] * w.rhs[0, first + m]
            w.rhs[1, first + i] = x
    for i in range(n_columns):
        for a in range(p):
            w.rhs[1, i] -= w.S[i, a] * change[a]
        w.u[i] += w.rhs[1, i]
    for i in range(n_obs):
        if y[i] == y[i]:
            for a in range(p):
                r[i] -= Q[i, a] * change[a]
            for s in range(n_terms):
                r[i] -= w.W[i, s] * w.rhs[1, layout.column[i, s]]


@routine
def _measure(
    y: Any,
    Q: Any,
    layout: Any,
    w: Any,
    sigma: float,
    rank: int,
    r: Any,
    standardised: Any,
    leverage: Any,
    cook: Any,
) -> None:
    """Compute what each image does: |w_i' M^-1 w_i| and the part of Q give the leverage."""
    n_obs, p = Q.shape
    n_terms = w.W.shape[1]
    rest, half = w.vectors[0], w.vectors[1]
    for i in range(n_obs):
        if y[i] != y[i]:
            r[i] = standardised[i] = leverage[i] = cook[i] = np.nan
            continue
        c = layout.group[i]
        offset, k = layout.start[c], layout.start[c + 1] - layout.start[c]
        h = 0.0
        for a in range(p):
            rest[a] = Q[i, a]
        for s in range(n_terms):
            column = layout.column[i, s]
            at = layout.place[c] + (column - offset) * k - offset
            for t in range(n_terms):
                h += w.W[i, s] * w.M[at + layout.column[i, t]] * w.W[i, t]
            for a in range(p):
                rest[a] -= w.W[i, s] * w.S[column, a]
        solve_lower_semidefinite(w.G, rest, p, half)
        for a in range(p):
            h += half[a] * half[a]
        leverage[i] = h
        standardised[i] = r[i] / sigma
        is_exact = 1.0 - h < EXACT
        cook[i] = np.nan if is_exact else (standardised[i] / (1.0 - h)) ** 2 * h / rank


@routine
def _predict(
    y: Any,
    layout: Any,
    w: Any,
    sigma2: float,
    with_covariance: bool,
    blup: Any,
    covariance: Any,
    is_present: Any,
) -> None:
    """Compute b = Lambda u of each level, and its covariance sigma2 Lambda M^-1 Lambda'."""
    is_present[:] = False
    for i in range(y.size):
        if y[i] == y[i]:
            for f in range(layout.level.shape[1]):
                is_present[layout.level[i, f]] = True
    column, entry = 0, 0
    for level in range(layout.first.size):
        f, c, first = layout.factor[level], layout.level_group[level], layout.first[level]
        q, root = layout.n_effects[f], w.root[f]
        k = layout.start[c + 1] - layout.start[c]
        at = layout.place[c] + (first - layout.start[c]) * (k + 1)  # of its block in M^-1
        for a in range(q):
            x = 0.0
            for b in range(a + 1):
                x += root[a, b] * w.u[first + b]
            blup[column + a] = x
        column += q
        if not with_covariance:
            continue
        for a in range(q):
            for b in range(a, q):  # vech, column by column
                x = 0.0
                for s in range(b + 1):
                    for t in range(a + 1):
                        x += root[b, s] * w.M[at + s * k + t] * root[a, t]
                covariance[entry] = sigma2 * x
                entry += 1


@routine
def _compare(
    rows: Any, first: Any, estimable: Any, w: Any, variance: float, solved: Any, out: Any
) -> None:
    """Compute the ratio of standard errors; of several rows, the mean one of all directions.

    `variance` is sigma2 over that of least squares.
    """
    p = w.gamma.size
    for c in range(first.size - 1):
        q = first[c + 1] - first[c]
        is_estimable = estimable[c]
        for i in range(q):
            row = rows[first[c] + i]
            is_estimable &= solve_lower_semidefinite(w.ols, row, p, solved[0, i])
            solve_lower_semidefinite(w.G, row, p, solved[1, i])
        log_ratio = _log_volume(solved[1, :q]) - _log_volume(solved[0, :q])
        out[c] = np.exp(log_ratio / q) * np.sqrt(variance) if is_estimable else 0.0


@routine
def _log_volume(rows: Any) -> float:
    """Return half of ln|rows rows'|; rows are made orthogonal."""
    total = 0.0
    for a in range(rows.shape[0]):
        for b in range(a + 1):
            x = 0.0
            for k in range(rows.shape[1]):
                x += rows[a, k] * rows[b, k]
            if a == b:
                x = np.sqrt(x)
                total += np.log(x)
            for k in range(rows.shape[1]):
                rows[a, k] = rows[a, k] / x if a == b else rows[a, k] - x * rows[b, k]
    return total
