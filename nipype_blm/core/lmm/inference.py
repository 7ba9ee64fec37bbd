"""Contrasts of mixed models, with Satterthwaite's degrees of freedom."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import kernel, routine
from nipype_blm.core.contrasts import combine_rows, factorise_rows, find_f_tails, find_t_tails
from nipype_blm.core.deficient import (
    find_estimable,
)
from nipype_blm.core.linalg import (
    FloatArray,
    express_rows,
    solve_lower_packed,
)
from nipype_blm.core.lmm.estimates import MixedEstimates
from nipype_blm.core.lmm.newton import orthogonalise
from nipype_blm.core.status import is_fitted
from nipype_blm.core.threads import ONE_THREAD, Threads


class MixedContrastMaps(NamedTuple):
    """One contrast at the fitted voxels of a block; q rows of L (1 for a T contrast).

    Where some row is not estimable nothing else means anything.
    """

    estimable: NDArray[np.bool_]  # (n_fitted,), whether all rows are
    effect: FloatArray  # (q, n_fitted), L beta
    variance: FloatArray  # (q * q, n_fitted), covariance of the effect, row-major
    stat: FloatArray  # (n_fitted,), T or F
    log_p: FloatArray  # (n_fitted,), natural logarithm of p
    z: FloatArray  # (n_fitted,), normal deviate with the same one-sided (F: upper) tail
    dof: FloatArray  # (n_fitted,), Satterthwaite's degrees of freedom (F: of the denominator)


def compute_t_contrast(
    vector: FloatArray,
    estimates: MixedEstimates,
    R: FloatArray,
    reml: bool,
    two_sided: bool = False,
    threads: Threads = ONE_THREAD,
) -> MixedContrastMaps:
    r"""Compute T = l'beta / sqrt(S), S = l'cov(beta) l, and the p-value of its upper tail.

    Parameters
    ----------
    vector : array of shape (n_params,)
        The contrast l.
    estimates : MixedEstimates
    R : array of shape (n_params, n_params)
        Of X = QR.
    reml : bool
        How the model was estimated.
    two_sided : bool
        p for \|T\| instead of the upper tail.  z keeps the one-sided tail and the sign.
    threads : Threads

    Returns
    -------
    MixedContrastMaps

    Notes
    -----
    The degrees of freedom are 2 S^2 / var(S), var(S) by the delta method from the observed
    information of the variance parameters (Kuznetsova, Brockhoff and Christensen, lmerTest,
    J. Stat. Softw. 82, 2017, section 2); at the boundary, from those that are not zero.
    """
    tested = _test_directions(vector[None], estimates, R, reml, threads)
    estimable, effect, variance, _, dof = tested
    stat = effect[0] / np.sqrt(np.where(estimable, variance[0], 1.0))
    log_p, z = find_t_tails(stat, dof, two_sided, threads)
    return MixedContrastMaps(estimable, effect, variance, stat, log_p, z, dof)


def compute_f_contrast(
    L: FloatArray,
    estimates: MixedEstimates,
    R: FloatArray,
    reml: bool,
    threads: Threads = ONE_THREAD,
) -> MixedContrastMaps:
    """Compute F = (L beta)'(L cov(beta) L')^-1 (L beta) / q and its upper tail.

    Parameters
    ----------
    L : array of shape (q, n_params)
        Of full row rank.
    estimates : MixedEstimates
    R : array of shape (n_params, n_params)
        Of X = QR.
    reml : bool
        How the model was estimated.
    threads : Threads

    Returns
    -------
    MixedContrastMaps

    Notes
    -----
    With cov(gamma) = T T' and a triangular C of rows T = C Q', F is |C^-1 L beta|^2 / q, which
    does not square the condition of L cov(beta) L'.  The eigenvectors of that matrix, from the
    rows too, give q independent T statistics with nu_i degrees of freedom each; those of F have
    the same expectation of F as their mean square: 2 E / (E - q), E = sum nu_i / (nu_i - 2),
    and 2 where some nu_i <= 2 (lmerTest, ibid.).
    """
    tested = _test_directions(L, estimates, R, reml, threads)
    estimable, effect, variance, stat, dof = tested
    log_p, z = find_f_tails(stat, len(L), dof, threads)
    return MixedContrastMaps(estimable, effect, variance, stat, log_p, z, dof)


def _test_directions(
    L: FloatArray, estimates: MixedEstimates, R: FloatArray, reml: bool, threads: Threads
) -> tuple[NDArray[np.bool_], FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return whether L beta is estimable, L beta, its covariance, F and its error dof."""
    q, n = len(L), estimates.sigma2.size
    rows, known = express_rows(R, L)
    found = known[:, None] & find_estimable(rows, estimates.slot, estimates.factor)
    estimable = np.asarray(found.all(axis=0))
    effect, variance = np.zeros((q, n)), np.empty((q, q, n))
    stat, dof = np.empty(n), np.empty(n)
    n_obs = estimates.n_obs[is_fitted(estimates.status)].astype(float)
    weight = n_obs - estimates.rank if reml else n_obs

    def test(start: int, stop: int) -> None:
        combine_rows(start, stop, L, estimates.beta, effect)
        _test(
            start,
            stop,
            rows,
            effect,
            estimates.covariance,
            estimates.spread,
            weight,
            estimable,
            variance,
            stat,
            dof,
        )

    threads.split(test, n)
    return estimable, effect, variance.reshape(q * q, n), stat, dof


@routine
def _quadratic(x: Any, y: Any, packed: Any) -> float:
    """Return x'C y of a packed symmetric matrix."""
    total = 0.0
    position = 0
    for a in range(x.size):
        for b in range(a):
            total += packed[position] * (x[a] * y[b] + x[b] * y[a])
            position += 1
        total += packed[position] * x[a] * y[a]
        position += 1
    return total


@routine
def _factorise_covariance(packed: Any, n: int, out: Any) -> None:
    """Write the Cholesky factor T of a packed covariance; 0 for what has no variance."""
    row = 0
    for i in range(n):
        for j in range(i + 1):
            x = packed[row + j]
            for k in range(j):
                x -= out[i, k] * out[j, k]
            if i == j:
                out[i, j] = np.sqrt(max(x, 0.0))
            else:
                out[i, j] = x / out[j, j] if out[j, j] > 0.0 else 0.0
        row += i + 1


@kernel
def _test(
    start: int,
    stop: int,
    rows: Any,
    effect: Any,
    covariance: Any,
    spread: Any,
    weight: Any,
    estimable: Any,
    variance: Any,
    stat: Any,
    dof: Any,
) -> None:
    """Test the directions of each voxel; `weight` is N, the observations behind sigma2."""
    q, p = rows.shape
    U, direction = np.empty((q, q)), np.empty(p)
    T, moved, columns = np.zeros((p, p)), np.empty((q, p)), np.empty((p, q))
    C, z = np.empty((q * (q + 1) // 2, 1)), np.empty(q)
    packed, change = np.empty(covariance.shape[0]), np.empty(covariance.shape[0])
    for v in range(start, stop):
        packed[:] = covariance[:, v]
        for i in range(q):
            for j in range(i + 1):
                x = _quadratic(rows[i], rows[j], packed)
                variance[i, j, v], variance[j, i, v] = x, x
        stat[v], dof[v] = 0.0, 1.0
        if not estimable[v]:
            continue
        _factorise_covariance(packed, p, T)
        for i in range(q):  # rows T, which times its transpose is the covariance of the effect
            for k in range(p):
                x = 0.0
                for a in range(k, p):
                    x += rows[i, a] * T[a, k]
                moved[i, k] = x
                columns[k, i] = x
        orthogonalise(columns, p, q, U)
        factorise_rows(moved, C, 0)
        solve_lower_packed(C[:, 0], effect[:, v], q, z)
        F, least, E, inverse = 0.0, np.inf, 0.0, 0.0
        for i in range(q):
            F += z[i] * z[i]
            direction[:] = 0.0
            for j in range(q):
                for a in range(p):
                    direction[a] += U[j, i] * rows[j, a]
            S = 0.0
            for k in range(p):
                S += columns[k, i] * columns[k, i]
            # var(S) / S^2: through sigma2 alone, and through every other combination.
            relative = 2.0 / weight[v]
            for k in range(spread.shape[0]):
                change[:] = spread[k, :, v]
                x = _quadratic(direction, direction, change) / S
                relative += x * x
            nu = 2.0 / relative
            least = min(least, nu)
            E += nu / (nu - 2.0)
            inverse += 1.0 / (nu - 2.0)
        stat[v] = F / q
        if q == 1:
            dof[v] = least
        else:
            dof[v] = E / inverse if least > 2.0 else 2.0
