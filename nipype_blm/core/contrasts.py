"""Contrasts of the estimates: effect, variance, statistic, p and z at every fitted voxel."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nipype_blm.core._jit import inline, kernel
from nipype_blm.core.deficient import find_estimable, solve_lower_semidefinite
from nipype_blm.core.linalg import FloatArray, express_rows, packed_size, solve_lower_packed
from nipype_blm.core.ols import Estimates
from nipype_blm.core.tails import compute_f_tails, compute_t_tails
from nipype_blm.core.threads import ONE_THREAD, Threads


class ContrastMaps(NamedTuple):
    """One contrast at the fitted voxels of a block; q rows of L (1 for a T contrast).

    Where some row is not estimable nothing else means anything.
    """

    estimable: NDArray[np.bool_]  # (n_fitted,), whether all rows are
    effect: FloatArray  # (q, n_fitted), L beta
    variance: FloatArray  # (q * q, n_fitted), covariance of the effect, row-major
    stat: FloatArray  # (n_fitted,), T or F
    log_p: FloatArray  # (n_fitted,), natural logarithm of p
    z: FloatArray  # (n_fitted,), normal deviate with the same one-sided (F: upper) tail


def compute_t_contrast(
    vector: FloatArray,
    estimates: Estimates,
    R: FloatArray,
    two_sided: bool = False,
    threads: Threads = ONE_THREAD,
) -> ContrastMaps:
    r"""Compute T = l'beta / sqrt(resms l'(X'X)^-1 l) and the p-value of its upper tail.

    Parameters
    ----------
    vector : array of shape (n_params,)
        The contrast l.
    estimates : Estimates
    R : array of shape (n_params, n_params)
        Of X = QR.
    two_sided : bool
        p for \|T\| instead of the upper tail.  z keeps the one-sided tail and the sign.
    threads : Threads

    Returns
    -------
    ContrastMaps
    """
    estimable, effect, variance, _ = _effects(vector[None], estimates, R, threads)
    stat = effect[0] / np.sqrt(np.where(estimable, variance[0], 1.0))
    log_p, z = find_t_tails(stat, estimates.dof.astype(float), two_sided, threads)
    return ContrastMaps(estimable, effect, variance, stat, log_p, z)


def find_t_tails(
    stat: FloatArray, dof: FloatArray, two_sided: bool, threads: Threads
) -> tuple[FloatArray, FloatArray]:
    """Return log p and z of T statistics; z keeps the one-sided tail and the sign."""
    log_p, z = np.empty_like(stat), np.empty_like(stat)

    def tail(start: int, stop: int) -> None:
        part = slice(start, stop)
        if two_sided:
            upper = compute_t_tails(np.abs(stat[part]), dof[part])
            log_p[part] = np.log(2) + upper.log_sf
            z[part] = np.copysign(upper.z, stat[part])
        else:
            log_p[part], z[part] = compute_t_tails(stat[part], dof[part])

    threads.split(tail, stat.size)
    return log_p, z


def compute_f_contrast(
    L: FloatArray,
    estimates: Estimates,
    R: FloatArray,
    threads: Threads = ONE_THREAD,
) -> ContrastMaps:
    """Compute F = (L beta)'(L (X'X)^-1 L')^-1 (L beta) / (q resms) and its upper tail.

    Parameters
    ----------
    L : array of shape (q, n_params)
        Of full row rank.
    estimates : Estimates
    R : array of shape (n_params, n_params)
        Of X = QR.
    threads : Threads

    Returns
    -------
    ContrastMaps
    """
    q = len(L)
    estimable, effect, variance, factor = _effects(L, estimates, R, threads)
    stat = np.empty(estimates.resms.size)

    def test(start: int, stop: int) -> None:
        _f_statistic(start, stop, effect, factor, estimates.resms, stat)

    threads.split(test, stat.size)
    stat[~estimable] = 0
    log_p, z = find_f_tails(stat, q, estimates.dof.astype(float), threads)
    return ContrastMaps(estimable, effect, variance, stat, log_p, z)


def find_f_tails(
    stat: FloatArray, q: int, dof: FloatArray, threads: Threads
) -> tuple[FloatArray, FloatArray]:
    """Return log p and z of F statistics with q and dof degrees of freedom."""
    log_p, z = np.empty_like(stat), np.empty_like(stat)

    def tail(start: int, stop: int) -> None:
        part = slice(start, stop)
        log_p[part], z[part] = compute_f_tails(stat[part], float(q), dof[part])

    threads.split(tail, stat.size)
    return log_p, z


def compute_partial_r2(F: FloatArray, q: int, dof: ArrayLike) -> FloatArray:
    """Return the partial R2 of an F contrast of q rows, q F / (q F + dof)."""
    explained = q * F
    return np.asarray(explained / (explained + np.asarray(dof)))


def compute_standard_error(variance: FloatArray) -> FloatArray:
    """Return the standard error of an effect, given its variance."""
    return np.sqrt(variance)


def _effects(
    L: FloatArray,
    estimates: Estimates,
    R: FloatArray,
    threads: Threads,
) -> tuple[NDArray[np.bool_], FloatArray, FloatArray, FloatArray]:
    """Return where L beta is estimable, L beta (q, n), its covariance (q * q, n), its factor C.

    The covariance of the effect is resms L (X'X)^-1 L' = resms C C'.
    """
    q, n = len(L), estimates.resms.size
    # Rows of R'^-1 L': (X_v'X_v)^-1 = R^-1 (L_v L_v')^-1 R'^-1 with the voxel's factor L_v.
    rows, known = express_rows(R, L)
    estimable = known & find_estimable(rows, estimates.slot, estimates.factor).T
    effect, variance = np.zeros((q, n)), np.zeros((q, q, n))
    factor = np.empty((packed_size(q), n))

    def compute(start: int, stop: int) -> None:
        combine_rows(start, stop, L, estimates.beta, effect)
        _contrast_factor(
            start, stop, rows, estimates.slot, estimates.rank, estimates.factor, factor
        )
        _variance(start, stop, factor, estimates.resms, variance)

    threads.split(compute, n)
    return np.asarray(estimable.all(axis=1)), effect, variance.reshape(q * q, n), factor


@kernel
def combine_rows(start: int, stop: int, L: Any, beta: Any, effect: Any) -> None:
    """Add L beta to `effect`, skipping zero weights."""
    for i in range(L.shape[0]):
        for a in range(L.shape[1]):
            weight = L[i, a]
            if weight != 0:
                for v in range(start, stop):
                    effect[i, v] += weight * beta[a, v]


@inline
def factorise_rows(rows: Any, out: Any, j: int) -> None:
    """Write the packed C of rows = C Q', Q'Q = I, to column j; `rows` becomes Q'.

    Modified Gram-Schmidt: C is as accurate as the rows, where the Cholesky factor of their
    products would have lost half of the digits.
    """
    position = 0
    for a in range(rows.shape[0]):
        for b in range(a + 1):
            x = 0.0
            for k in range(rows.shape[1]):
                x += rows[a, k] * rows[b, k]
            x = np.sqrt(x) if a == b else x
            for k in range(rows.shape[1]):
                rows[a, k] = rows[a, k] / x if a == b else rows[a, k] - x * rows[b, k]
            out[position, j] = x
            position += 1


@kernel
def _contrast_factor(
    start: int, stop: int, rows: Any, slot: Any, rank: Any, factor: Any, out: Any
) -> None:
    """Factorise L_v^-1 rows'; L_v is the identity where nothing is missing."""
    q, n_params = rows.shape
    shared = np.empty((out.shape[0], 1))
    factorise_rows(rows.copy(), shared, 0)
    solved = np.empty((q, n_params))
    for j in range(start, stop):
        if slot[j] < 0:
            for i in range(out.shape[0]):
                out[i, j] = shared[i, 0]
        else:
            L = factor[slot[j]]
            for i in range(q):
                if rank[j] == n_params:
                    solve_lower_packed(L, rows[i], n_params, solved[i])
                else:
                    solve_lower_semidefinite(L, rows[i], n_params, solved[i])
            factorise_rows(solved, out, j)


@kernel
def _variance(start: int, stop: int, factor: Any, resms: Any, out: Any) -> None:
    """Compute resms C C', row by row."""
    q = out.shape[0]
    for i in range(q):
        for k in range(q):
            for a in range(min(i, k) + 1):
                x = factor[i * (i + 1) // 2 + a]
                y = factor[k * (k + 1) // 2 + a]
                for j in range(start, stop):
                    out[i, k, j] += x[j] * y[j] * resms[j]


@kernel
def _f_statistic(start: int, stop: int, effect: Any, factor: Any, resms: Any, out: Any) -> None:
    """Compute |C^-1 effect|^2 / (q resms)."""
    q = effect.shape[0]
    z = np.empty(q)
    for j in range(start, stop):
        solve_lower_packed(factor[:, j], effect[:, j], q, z)
        total = 0.0
        for i in range(q):
            total += z[i] * z[i]
        out[j] = total / (q * resms[j])
