"""Small dense linear algebra: the QR of a design, packed Cholesky factors inside kernels.

A symmetric matrix of one voxel is *packed*: its lower triangle row by row,
``a[i * (i + 1) // 2 + j]`` for ``i >= j``.

Columns of X may depend on others, in the whole design or in the rows present at a voxel.  One
that depends on those before it is *dropped*: its entry on the diagonal of a triangular factor
is 0, and so is its coefficient.  What is left is a basis of the column space.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from nipype_blm.core._jit import inline

FloatArray = NDArray[np.float64]

# A column whose squared distance from the columns before it is below this fraction of its
# squared length depends on them: Q'Q of the observations present is known to ~1e-14.
RANK_TOLERANCE = 1e-10
# Smallest singular value of a design, columns at unit length, relative to its largest:
# rounding makes ~1e-15, and a design of condition 1e12 can still be fitted.
DEPENDENT = 1e-13
# Weights l are those of an estimable combination if l (X'X)^- X'X is l to this fraction: to
# the six digits in which 1/3 may have been written.
ESTIMABLE = 1e-6
# ... and rounding errors of nearly collinear columns, relative to all of l.
NEARLY_ZERO = 1e-10


def packed_size(n: int) -> int:
    """Return the number of entries of the lower triangle of an n by n matrix."""
    return n * (n + 1) // 2


def packed_position(i: int, j: int) -> int:
    """Return where an entry of a packed symmetric matrix stands, in either triangle."""
    return packed_size(max(i, j)) + min(i, j)


class DesignFactor(NamedTuple):
    """The QR factorisation of a design, and how a constant enters it.

    With ``X = Q R``, a constant image of height 1 is written as ``s = X c``: exactly ones
    where a combination of the columns of X is constant, else the projection of ones.
    Subtracting a multiple of s from y changes no residual and moves beta along c.
    """

    X: FloatArray  # (n_obs, n_params)
    Q: FloatArray  # (n_obs, n_params), orthonormal columns; 0 where one is dropped
    R: FloatArray  # (n_params, n_params), upper triangular; 0 on the diagonal where dropped
    constant: FloatArray  # (n_params,), c
    shift: FloatArray  # (n_obs,), s = X c

    @property
    def rank(self) -> int:
        """Number of columns that are not dropped."""
        return int(np.count_nonzero(np.diag(self.R)))

    @property
    def condition(self) -> float:
        """Condition of the columns that are not dropped, at unit length."""
        kept = np.diag(self.R) != 0
        R = self.R[np.ix_(kept, kept)]
        return float(np.linalg.cond(R / np.linalg.norm(R, axis=0))) if R.size else 1.0


def factorise_design(X: FloatArray) -> DesignFactor:
    """Compute the QR factorisation of a design.

    Parameters
    ----------
    X : array of shape (n_obs, n_params)
        Design matrix, without missing values.
    """
    n_params = X.shape[1]
    dropped = [column for column, _ in find_dependent_columns(X)]
    kept = [column for column in range(n_params) if column not in dropped]
    Q, R = np.zeros(X.shape), np.zeros((n_params, n_params))
    Q[:, kept], R[np.ix_(kept, kept)] = np.linalg.qr(X[:, kept])
    for column in dropped:
        before = [k for k in kept if k < column]
        R[before, column] = Q[:, before].T @ X[:, column]
    constant, shift = _express_constant(X)
    return DesignFactor(X, Q, R, constant, shift)


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
        if not columns:
            return True
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
    """Return the inverse of an upper triangular matrix; 0 for what is dropped."""
    kept = np.diag(R) != 0
    R = R[np.ix_(kept, kept)]
    # Row scaling by the diagonal first: columns of X may differ by many powers of ten.
    scale = np.diag(R)
    inverse = np.zeros((kept.size, kept.size))
    inverse[np.ix_(kept, kept)] = np.triu(np.linalg.inv(R / scale[:, None])) / scale
    return inverse


def express_rows(R: FloatArray, L: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return a with l beta = a gamma, gamma = R beta, for each row l of L.

    Parameters
    ----------
    R : array of shape (n_params, n_params)
        Of X = QR.
    L : array of shape (q, n_params)

    Returns
    -------
    rows : array of shape (q, n_params)
        Solutions of R'a = l; 0 for what is dropped.
    estimable : bool array of shape (q,)
        Whether all of l is in the row space of X; True if X has full rank.
    """
    kept = np.diag(R) != 0
    rows = np.zeros(L.shape)
    square = R[np.ix_(kept, kept)]
    rows[:, kept] = solve_triangular(square, L[:, kept].T, trans="T").T
    parts = np.abs(rows) @ np.abs(R) + np.abs(L)
    floor = NEARLY_ZERO * np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(R, axis=0))
    is_made = np.abs(rows @ R - L) <= ESTIMABLE * parts + floor
    return rows, np.asarray(is_made[:, ~kept].all(axis=1))


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
    """Solve R out = b, R square upper triangular; 0 for what is dropped."""
    for i in range(n - 1, -1, -1):
        x = b[i]
        for k in range(i + 1, n):
            x -= R[i, k] * out[k]
        out[i] = x / R[i, i] if R[i, i] != 0.0 else 0.0
