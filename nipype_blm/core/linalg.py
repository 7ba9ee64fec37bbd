"""Small dense linear algebra: the QR of a design, packed Cholesky factors inside kernels.

A symmetric matrix of one voxel is *packed*: its lower triangle row by row,
``a[i * (i + 1) // 2 + j]`` for ``i >= j``.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import inline

FloatArray = NDArray[np.float64]

# A column whose squared distance from the columns before it is below this fraction of its
# squared length depends on them: Q'Q of the observations present is known to ~1e-14.
RANK_TOLERANCE = 1e-10
# Smallest singular value of a design, columns at unit length, relative to its largest:
# rounding makes ~1e-15, and a design of condition 1e12 can still be fitted.
DEPENDENT = 1e-13


def packed_size(n: int) -> int:
    """Return the number of entries of the lower triangle of an n by n matrix."""
    return n * (n + 1) // 2


class DesignFactor(NamedTuple):
    """The QR factorisation of a design, and how a constant enters it.

    With ``X = Q R``, a constant image of height 1 is written as ``s = X c``: exactly ones
    where a combination of the columns of X is constant, else the projection of ones.
    Subtracting a multiple of s from y changes no residual and moves beta along c.
    """

    Q: FloatArray  # (n_obs, n_params), orthonormal columns
    R: FloatArray  # (n_params, n_params), upper triangular
    constant: FloatArray  # (n_params,), c
    shift: FloatArray  # (n_obs,), s = X c


def factorise_design(X: FloatArray) -> DesignFactor:
    """Compute the QR factorisation of a design of full column rank.

    Parameters
    ----------
    X : array of shape (n_obs, n_params)
        Design matrix, without missing values.
    """
    Q, R = np.linalg.qr(X)
    constant, shift = _express_constant(X)
    return DesignFactor(np.ascontiguousarray(Q), np.ascontiguousarray(R), constant, shift)


def _express_constant(X: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return c and s = X c, as close to ones as the columns of X allow."""
    n_obs, n_params = X.shape
    is_constant = (X[0] == X).all(axis=0) & (X[0] != 0)
    if is_constant.any():
        column = np.argmax(is_constant)
        return np.eye(n_params)[column] / X[0, column], np.ones(n_obs)
    lengths = _lengths(X)
    # Nearly collinear columns may make a constant only with huge weights: better not quite.
    c = np.linalg.lstsq(X / lengths, np.ones(n_obs), rcond=1e-6)[0] / lengths
    rounded = np.round(c)
    if (X @ rounded == 1).all():  # such as the sum of the columns of a factor
        return rounded, np.ones(n_obs)
    return c, X @ c


def _lengths(X: FloatArray) -> FloatArray:
    """Return the length of each column, 1 for a column of zeros."""
    lengths = np.linalg.norm(X, axis=0)
    return np.where(lengths > 0, lengths, 1.0)


def find_dependent_columns(X: FloatArray) -> list[tuple[int, list[int]]]:
    """Return each column of X that depends on others, with the columns it is made of.

    Columns are taken from left to right at unit length, so that units do not matter; one
    that adds no singular value above `DEPENDENT` times the largest depends on those before.

    Returns
    -------
    list of (int, list of int)
        A column and the earlier independent columns that make it; ``[]`` for a zero column.
    """
    n_obs, n_params = X.shape
    tolerance = max(DEPENDENT, 4 * np.sqrt(n_obs) * np.finfo(float).eps)
    _, R = np.linalg.qr(X / _lengths(X))  # the columns of R have the geometry of X's

    def is_full_rank(columns: list[int]) -> bool:
        values = np.linalg.svd(R[:, columns], compute_uv=False)
        return bool(len(columns) <= n_obs and values[-1] > tolerance * values[0])

    if is_full_rank(list(range(n_params))):
        return []
    independent: list[int] = []
    dependent: list[tuple[int, list[int]]] = []
    for column in range(n_params):
        if is_full_rank([*independent, column]):
            independent.append(column)
            continue
        weights = np.linalg.lstsq(R[:, independent], R[:, column], rcond=None)[0]
        made_of = [i for i, w in zip(independent, weights, strict=True) if abs(w) > 1e-6]
        dependent.append((column, made_of))
    return dependent


def invert_upper(R: FloatArray) -> FloatArray:
    """Return the inverse of an upper triangular matrix."""
    # Row scaling by the diagonal first: columns of X may differ by many powers of ten.
    scale = np.diag(R)
    return np.ascontiguousarray(np.triu(np.linalg.inv(R / scale[:, None])) / scale)


@inline
def cholesky_packed(a: Any, n: int, smallest: float) -> float:
    """Replace packed `a` by its Cholesky factor; return the least pivot.

    Pivots are relative to their diagonal entries; 0, where one of these is not above
    `smallest`.
    """
    least = 1.0
    row = 0
    for i in range(n):
        diagonal = a[row + i]
        column = 0
        for j in range(i + 1):
            x = a[row + j]
            for k in range(j):
                x -= a[row + k] * a[column + k]
            if i == j:
                if not (x > 0.0 and diagonal > smallest):
                    return 0.0
                least = min(least, x / diagonal)
                a[row + i] = np.sqrt(x)
            else:
                a[row + j] = x / a[column + j]
            column += j + 1
        row += i + 1
    return least


@inline
def solve_lower_packed(factor: Any, b: Any, n: int, out: Any) -> None:
    """Solve L out = b, L packed lower triangular."""
    row = 0
    for i in range(n):
        x = b[i]
        for k in range(i):
            x -= factor[row + k] * out[k]
        out[i] = x / factor[row + i]
        row += i + 1


@inline
def solve_lower_transposed_packed(factor: Any, b: Any, n: int, out: Any) -> None:
    """Solve L' out = b, L packed lower triangular."""
    for i in range(n - 1, -1, -1):
        x = b[i]
        for k in range(i + 1, n):
            x -= factor[k * (k + 1) // 2 + i] * out[k]
        out[i] = x / factor[i * (i + 1) // 2 + i]


@inline
def solve_upper(R: Any, b: Any, n: int, out: Any) -> None:
    """Solve R out = b, R square upper triangular."""
    for i in range(n - 1, -1, -1):
        x = b[i]
        for k in range(i + 1, n):
            x -= R[i, k] * out[k]
        out[i] = x / R[i, i]
