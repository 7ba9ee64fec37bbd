"""What every criterion computes at given covariances D, and what follows from that.

With V = I + Z D Z' and r2 = min_b (y - Q b)'V^-1 (y - Q b), the deviance is

    f(D) = N log r2 + log|V| [+ log|Q'V^-1 Q| for REML],

N = n, or n - p for REML (Bates, Maechler, Bolker and Walker, J. Stat. Softw. 67, 2015,
equations 34 and 41, without their constants).  The residual variance is r2 / N.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import inline, routine
from nipype_blm.core.linalg import FloatArray, packed_size

# Positions in `Evaluation.number`.
F, NOISE, R2 = range(3)


class Evaluation(NamedTuple):
    """The deviance at one voxel and one D; m entries of D, p columns of Q."""

    number: FloatArray  # (3,), f, its rounding error, r2
    gradient: FloatArray  # (m,), of f
    hessian: FloatArray  # (m, m), of f
    r2_gradient: FloatArray  # (m,)
    effect: FloatArray  # (p,), b, fitted to the residuals of least squares
    factor: FloatArray  # (p, p), L of Q'V^-1 Q = L L'
    effect_gradient: FloatArray  # (m, p), L' db/dD
    # (m, p, p), L^-1 X L'^-1 with X the derivative of -Q'V^-1 Q; set only on request.
    sensitivity: FloatArray
    inverse: FloatArray  # (p, p), L^-1, where that is needed


class Results(NamedTuple):
    """Where the estimates of each voxel go; arrays over all candidates of a block."""

    outcome: NDArray[np.int64]  # (n,), how the search ended
    nit: NDArray[np.int32]  # (n,)
    deviance: FloatArray  # (n,), f at its minimum
    sigma2: FloatArray  # (n,)
    D: FloatArray  # (m, n), entries in the scale of the criterion
    effect: FloatArray  # (p, n)
    covariance: FloatArray  # (packed, n)
    spread: FloatArray  # (m, packed, n)


def make_evaluation(n_params: int, n_entries: int) -> Evaluation:
    """Return an evaluation to be filled."""
    p, m = n_params, n_entries
    return Evaluation(
        np.zeros(3),
        np.zeros(m),
        np.zeros((m, m)),
        np.zeros(m),
        np.zeros(p),
        np.zeros((p, p)),
        np.zeros((m, p)),
        np.zeros((m, p, p)),
        np.zeros((p, p)),
    )


def make_results(n_params: int, n_entries: int, n_spread: int, n: int) -> Results:
    """Return results to be filled for n voxels."""
    packed = packed_size(n_params)
    return Results(
        np.zeros(n, np.int64),
        np.zeros(n, np.int32),
        np.zeros(n),
        np.zeros(n),
        np.zeros((n_entries, n)),
        np.zeros((n_params, n)),
        np.zeros((packed, n)),
        np.zeros((n_spread, packed, n)),
    )


@routine
def cholesky(A: Any, n: int) -> bool:
    """Replace the lower triangle of A by its Cholesky factor; say whether there is one."""
    for i in range(n):
        row = A[i]
        for j in range(i):
            other, x = A[j], row[j]
            for k in range(j):
                x -= row[k] * other[k]
            row[j] = x / other[j]
        x = row[i]
        for k in range(i):
            x -= row[k] * row[k]
        if not x > 0.0:
            return False
        row[i] = np.sqrt(x)
    return True


@routine
def solve_lower(L: Any, x: Any, n: int) -> None:
    """Replace x by L^-1 x."""
    for i in range(n):
        row, y = L[i], x[i]
        for k in range(i):
            y -= row[k] * x[k]
        x[i] = y / row[i]


@routine
def solve_lower_transposed(L: Any, x: Any, n: int) -> None:
    """Replace x by L'^-1 x."""
    for i in range(n - 1, -1, -1):
        row = L[i]
        y = x[i] / row[i]
        x[i] = y
        for k in range(i):
            x[k] -= row[k] * y


@routine
def invert_lower(L: Any, n: int, out: Any) -> None:
    """Compute L^-1 of a lower triangular matrix; the upper triangle of `out` is left alone."""
    for i in range(n):
        out[i, i] = 1.0 / L[i, i]
        for j in range(i):
            x = 0.0
            for k in range(j, i):
                x += L[i, k] * out[k, j]
            out[i, j] = -x * out[i, i]


@inline
def _write_sandwich(inverse: Any, X: Any, row: Any, out: Any) -> None:
    """Write K'X K packed to `out`, K = `inverse` lower triangular and X symmetric."""
    n = row.size
    position = 0
    for i in range(n):
        for j in range(n):
            x = 0.0
            for k in range(i, n):
                x += inverse[k, i] * X[k, j]
            row[j] = x
        for j in range(i + 1):
            x = 0.0
            for k in range(j, n):
                x += row[k] * inverse[k, j]
            out[position] = x
            position += 1


@routine
def write_results(
    j: int,
    e: Any,
    change: Any,
    spread: Any,
    n_spread: int,
    N: float,
    matrix: Any,
    row: Any,
    results: Any,
) -> None:
    """Write what belongs to D + change, one Newton step from where `e` was evaluated.

    To first order in the step: its square is below the tolerance of the search.  Where the
    likelihood is so flat that it would halve the residuals all the same, it is cut short.

    Parameters
    ----------
    j : int
        Number of the voxel.
    e : Evaluation
        With `sensitivity`.
    change : array of shape (m,)
    spread : array of shape (m, m)
        Columns: changes of D by one standard error each, `n_spread` of them.
    matrix, row : arrays of shape (p, p), (p,)
        Workspace.
    """
    m, p = e.effect_gradient.shape
    L = e.factor
    r2 = e.number[R2]
    row[:p] = 0.0
    fall = 0.0
    for k in range(m):
        fall -= e.r2_gradient[k] * change[k]
    share = 1.0 if abs(fall) <= 0.5 * r2 else 0.5 * r2 / abs(fall)
    r2 -= share * fall
    for k in range(m):
        for a in range(p):
            row[a] += e.effect_gradient[k, a] * share * change[k]
    solve_lower_transposed(L, row, p)
    for a in range(p):
        results.effect[a, j] = e.effect[a] + row[a]
    sigma2 = r2 / N
    results.sigma2[j] = sigma2
    matrix[:] = 0.0
    for a in range(p):
        matrix[a, a] = sigma2
        for k in range(m):
            for b in range(p):
                matrix[a, b] += sigma2 * e.sensitivity[k, a, b] * share * change[k]
    inverse = e.inverse
    invert_lower(L, p, inverse)
    _write_sandwich(inverse, matrix, row, results.covariance[:, j])
    for c in range(n_spread):
        matrix[:] = 0.0
        for k in range(m):
            x = spread[k, c]
            for a in range(p):
                matrix[a, a] += x * e.r2_gradient[k] / N
                for b in range(p):
                    matrix[a, b] += x * sigma2 * e.sensitivity[k, a, b]
        _write_sandwich(inverse, matrix, row, results.spread[c, :, j])
