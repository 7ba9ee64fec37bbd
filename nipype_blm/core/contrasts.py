"""Contrasts of the estimates: effect, variance, statistic, p and z at every fitted voxel."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from nipype_blm.core._jit import inline, kernel
from nipype_blm.core.linalg import FloatArray, cholesky_packed, packed_size, solve_lower_packed
from nipype_blm.core.ols import Estimates
from nipype_blm.core.products import run_split
from nipype_blm.core.tails import compute_f_tails, compute_t_tails


class ContrastMaps(NamedTuple):
    """One contrast at the fitted voxels of a block; q rows of L (1 for a T contrast)."""

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
    n_threads: int = 1,
    pool: Executor | None = None,
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
    """
    effect, gram = _effects(vector[None], estimates, R, n_threads, pool)
    variance = gram * estimates.resms
    stat = effect[0] / np.sqrt(variance[0])
    log_p, z = np.empty_like(stat), np.empty_like(stat)
    dof = estimates.dof.astype(float)

    def tail(start: int, stop: int) -> None:
        part = slice(start, stop)
        if two_sided:
            upper = compute_t_tails(np.abs(stat[part]), dof[part])
            log_p[part] = np.log(2) + upper.log_sf
            z[part] = np.copysign(upper.z, stat[part])
        else:
            log_p[part], z[part] = compute_t_tails(stat[part], dof[part])

    run_split(tail, stat.size, n_threads, pool)
    return ContrastMaps(effect, variance, stat, log_p, z)


def compute_f_contrast(
    L: FloatArray,
    estimates: Estimates,
    R: FloatArray,
    n_threads: int = 1,
    pool: Executor | None = None,
) -> ContrastMaps:
    """Compute F = (L beta)'(L (X'X)^-1 L')^-1 (L beta) / (q resms) and its upper tail.

    Parameters
    ----------
    L : array of shape (q, n_params)
        Of full row rank.
    """
    q = len(L)
    effect, gram = _effects(L, estimates, R, n_threads, pool)
    stat = np.empty(estimates.resms.size)
    log_p, z = np.empty_like(stat), np.empty_like(stat)
    dof = estimates.dof.astype(float)

    def test(start: int, stop: int) -> None:
        part = slice(start, stop)
        _f_statistic(effect[:, part], gram[:, part], estimates.resms[part], stat[part])
        log_p[part], z[part] = compute_f_tails(stat[part], float(q), dof[part])

    run_split(test, stat.size, n_threads, pool)
    rows, columns = np.indices((q, q)).reshape(2, -1)
    low, high = np.maximum(rows, columns), np.minimum(rows, columns)
    variance = gram[low * (low + 1) // 2 + high] * estimates.resms
    return ContrastMaps(effect, variance, stat, log_p, z)


def compute_partial_r2(F: FloatArray, q: int, dof: Sequence[Any] | Any) -> FloatArray:
    """Return the partial R2 of an F contrast, q F / (q F + dof)."""
    explained = q * F
    return np.asarray(explained / (explained + np.asarray(dof)))


def _effects(
    L: FloatArray,
    estimates: Estimates,
    R: FloatArray,
    n_threads: int,
    pool: Executor | None,
) -> tuple[FloatArray, FloatArray]:
    """Return L beta (q, n) and packed L (X'X)^-1 L' (q (q + 1) / 2, n)."""
    q, n = len(L), estimates.resms.size
    # Rows of R'^-1 L': (X_v'X_v)^-1 = R^-1 (L_v L_v')^-1 R'^-1 with the voxel's factor L_v.
    rows = np.ascontiguousarray(solve_triangular(R, L.T, trans="T").T)
    effect, gram = np.zeros((q, n)), np.empty((packed_size(q), n))

    def compute(start: int, stop: int) -> None:
        part = slice(start, stop)
        _contrast_gram(rows, estimates.slot[part], estimates.factor, gram[:, part])
        _combine(L, estimates.beta[:, part], effect[:, part])

    run_split(compute, n, n_threads, pool)
    return effect, gram


@kernel
def _combine(L: Any, beta: Any, effect: Any) -> None:
    """Add L beta to `effect`, skipping zero weights."""
    for i in range(L.shape[0]):
        for a in range(L.shape[1]):
            weight = L[i, a]
            if weight != 0:
                for v in range(effect.shape[1]):
                    effect[i, v] += weight * beta[a, v]


@inline
def _packed_gram(rows: Any, out: Any, j: int) -> None:
    """Write the packed products of all pairs of rows to column j."""
    position = 0
    for a in range(rows.shape[0]):
        for b in range(a + 1):
            x = 0.0
            for k in range(rows.shape[1]):
                x += rows[a, k] * rows[b, k]
            out[position, j] = x
            position += 1


@kernel
def _contrast_gram(rows: Any, slot: Any, factor: Any, out: Any) -> None:
    """Compute the products of L_v^-1 rows'; L_v is the identity where nothing is missing."""
    q, n_params = rows.shape
    shared = np.empty((out.shape[0], 1))
    _packed_gram(rows, shared, 0)
    solved = np.empty((q, n_params))
    for j in range(slot.size):
        if slot[j] < 0:
            for i in range(out.shape[0]):
                out[i, j] = shared[i, 0]
        else:
            for i in range(q):
                solve_lower_packed(factor[slot[j]], rows[i], n_params, solved[i])
            _packed_gram(solved, out, j)


@kernel
def _f_statistic(effect: Any, gram: Any, resms: Any, out: Any) -> None:
    """Compute |C^-1 effect|^2 / (q resms) with the Cholesky factor C of gram."""
    q = effect.shape[0]
    C = np.empty(gram.shape[0])
    b = np.empty(q)
    z = np.empty(q)
    for j in range(out.size):
        for i in range(C.size):
            C[i] = gram[i, j]
        for i in range(q):
            b[i] = effect[i, j]
        cholesky_packed(C, q, 0.0)
        solve_lower_packed(C, b, q, z)
        total = 0.0
        for i in range(q):
            total += z[i] * z[i]
        out[j] = total / (q * resms[j])
