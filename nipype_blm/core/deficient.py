"""Columns of X that depend on others, in the whole design or in the rows present at a voxel.

A column that depends on those before it is *dropped*: its element on the diagonal of a packed
Cholesky factor is 0, and so is its coefficient.  What is left is a basis of the column space,
in which everything that is *estimable* has the same estimate as in any other.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import inline, kernel, routine
from nipype_blm.core.linalg import ESTIMABLE, NEARLY_ZERO, DesignFactor, FloatArray, express_rows
from nipype_blm.core.status import VoxelStatus, is_fitted

# What is left of a column whose squared length is below this fraction of the squared lengths of
# its parts is the rounding error of sums over the images, some hundred times over.
ROUNDING = 1e-12
# A combination of columns of X is 0 in the images present if it is below this fraction of its
# terms there, or this one of its terms in all images; sums that cancel have errors of 1e-10 of
# the former, the weights of 1e-15 of the latter.
NULL = 1e-7
NULL_IN_ALL = 1e-12


def find_estimable(
    rows: FloatArray, slot: NDArray[np.int32], factor: FloatArray
) -> NDArray[np.bool_]:
    """Return whether a gamma is estimable at each voxel, for each of some rows a.

    Parameters
    ----------
    rows : array of shape (q, n_params)
        As `express_rows` returns them.
    slot : integer array of shape (n_voxels,)
        Row of `factor` for each voxel; -1 where nothing is dropped but by R.
    factor : array of shape (n_slots, packed)
        Cholesky factors L of Q'Q of the observations present.

    Returns
    -------
    bool array of shape (q, n_voxels)

    Notes
    -----
    a is a combination of the rows of Q present if it is one of the rows of L': if L z = a has
    a solution (S. R. Searle, Linear Models, 1971, section 5.4).
    """
    out = np.ones((len(rows), slot.size), bool)
    _find_estimable(np.ascontiguousarray(rows), slot, factor, out)
    return out


@kernel
def _find_estimable(rows: Any, slot: Any, factor: Any, out: Any) -> None:
    q, n_params = rows.shape
    solution = np.empty(n_params)
    for j in range(slot.size):
        if slot[j] < 0:
            continue
        L = factor[slot[j]]
        dropped = 0
        for i in range(n_params):
            dropped += L[i * (i + 3) // 2] == 0.0
        if dropped > 0:
            for i in range(q):
                out[i, j] = solve_lower_semidefinite(L, rows[i], n_params, solution)


def find_estimable_columns(
    R: FloatArray, rank: NDArray[np.int32], slot: NDArray[np.int32], factor: FloatArray
) -> NDArray[np.bool_]:
    """Return whether each beta by itself is estimable; no row if all are, everywhere."""
    n_params = len(R)
    if (rank == n_params).all():
        return np.empty((0, rank.size), bool)
    rows, estimable = express_rows(R, np.eye(n_params))
    return np.asarray(find_estimable(rows, slot, factor) & estimable[:, None])


def clear_covariances(cov: FloatArray, estimable: NDArray[np.bool_]) -> None:
    """Set packed covariances to 0 that belong to an estimate that is not estimable."""
    if len(estimable):
        low, high = np.tril_indices(len(estimable))
        cov[~(estimable[low] & estimable[high])] = 0


def confirm_rank(
    outcome: NDArray[np.uint8],
    rank: NDArray[np.int32],
    slot: NDArray[np.int32],
    factor: FloatArray,
    design: DesignFactor,
    presence: Iterable[tuple[slice, NDArray[np.uint32]]],
    positions: NDArray[np.intp],
) -> None:
    """Set the status of voxels whose columns of X only seem to depend on each other.

    Sums over the images, on the scale of Q, do not tell a dependence from a column that is tiny
    without an outlying image.  The rows of X present do.

    Parameters
    ----------
    outcome : array of shape (n,)
        Status of each candidate; those found wanting become RANK_DEFICIENT.
    rank, slot, factor
        Of the candidates, as in `Estimates`.
    presence : iterable of (slice, array)
        Rows and presence bits of each batch; not taken if there is nothing to confirm.
    positions : array of shape (n,)
        Where the candidates are in `presence`.
    """
    chosen = np.flatnonzero(is_fitted(outcome) & (rank < design.rank))
    if not chosen.size:
        return
    factor = factor[slot[chosen]]
    squares = np.zeros((2, chosen.size, len(design.R)))
    size = np.sqrt((design.X**2).mean(axis=0))
    for rows, words in presence:
        X = np.ascontiguousarray(design.X[rows])
        _test_null_vectors(words, positions[chosen], X, size, factor, design.R, squares)
    rest, negligible = squares
    outcome[chosen[(rest > negligible).any(axis=1)]] = VoxelStatus.RANK_DEFICIENT


@kernel
def _test_null_vectors(
    presence: Any, voxels: Any, X: Any, size: Any, factor: Any, R: Any, squares: Any
) -> None:
    """Add |X v|^2 over the rows present, and what would be negligible, for each null vector."""
    n_rows, n_params = X.shape
    v = np.empty(n_params)
    for j in range(voxels.size):
        for column in range(n_params):
            if factor[j, column * (column + 3) // 2] > 0.0 or R[column, column] == 0.0:
                continue
            _find_null_vector(factor[j], R, column, v)
            in_all = 0.0
            for a in range(n_params):
                in_all += NULL_IN_ALL * abs(v[a]) * size[a]
            for i in range(n_rows):
                if not presence[i // 32, voxels[j]] >> np.uint32(i % 32) & np.uint32(1):
                    continue
                total, terms = 0.0, 0.0
                for a in range(n_params):
                    term = X[i, a] * v[a]
                    total += term
                    terms += term * term
                squares[0, j, column] += total * total
                squares[1, j, column] += NULL * NULL * terms + in_all * in_all


@routine
def shorten(beta: Any, L: Any, R: Any, null: Any) -> None:
    """Make beta the shortest solution: take away its part in the null space of X_v.

    Parameters
    ----------
    L : array of shape (packed,)
        Cholesky factor of Q'Q of the rows present.
    null : array of shape (n_params, n_params)
        Workspace: an orthonormal basis of the null space, row by row.
    """
    count = 0
    for j in range(beta.size):
        if L[j * (j + 3) // 2] == 0.0:
            v = null[count]
            _find_null_vector(L, R, j, v)
            for _ in range(2):  # the second time takes away what rounding left
                for k in range(count):
                    _remove(null[k], v)
            length = 0.0
            for i in range(v.size):
                length += v[i] * v[i]
            for i in range(v.size):
                v[i] /= np.sqrt(length)
            _remove(v, beta)
            count += 1


@inline
def _remove(unit: Any, x: Any) -> None:
    """Take from x its part in the direction of a vector of length 1."""
    product = 0.0
    for i in range(x.size):
        product += unit[i] * x[i]
    for i in range(x.size):
        x[i] -= product * unit[i]


@routine
def _find_null_vector(L: Any, R: Any, j: int, v: Any) -> None:
    """Compute the combination of columns of X that is 0 since column j is dropped."""
    combine_before(L, j, v)
    for i in range(v.size):
        v[i] = -v[i] if i < j else 0.0
    v[j] = 1.0
    for i in range(j, -1, -1):  # times R^-1; of what R drops only column j itself has a part
        for k in range(i + 1, j + 1):
            v[i] -= R[i, k] * v[k]
        if R[i, i] != 0.0:
            v[i] /= R[i, i]
        elif i < j:
            v[i] = 0.0


@routine
def cholesky_semidefinite(a: Any, n: int, smallest: float, work: Any) -> tuple[int, float]:
    """Replace packed `a` by its Cholesky factor, with zero columns for what is dropped.

    What is left of a column is compared with the parts that cancel in it, so that dependence
    is told from near dependence also where the columns before are nearly dependent.

    Parameters
    ----------
    smallest : float
        Columns whose diagonal element is not above it are dropped.
    work : array of shape (2, n)
        Workspace.

    Returns
    -------
    rank : int
        Columns that are not dropped.
    least : float
        The least pivot of these, relative to its diagonal element.
    """
    rank, least = 0, 1.0
    lengths, parts = work[0], work[1]
    row = 0
    for i in range(n):
        diagonal = a[row + i]
        column = 0
        for j in range(i + 1):
            x = a[row + j]
            for k in range(j):
                x -= a[row + k] * a[column + k]
            if j < i:
                a[row + j] = x / a[column + j] if a[column + j] > 0.0 else 0.0
            column += j + 1
        combine_before(a, i, parts)
        noise = diagonal
        for k in range(i):
            noise += parts[k] * parts[k] * lengths[k]
        lengths[i] = diagonal
        a[row + i] = 0.0
        if diagonal > smallest and x > ROUNDING * noise:
            a[row + i] = np.sqrt(x)
            least = min(least, x / diagonal)
            rank += 1
        row += i + 1
    return rank, least


@routine
def combine_before(factor: Any, i: int, out: Any) -> None:
    """Compute which combination of the columns before column i comes nearest to it."""
    row = i * (i + 1) // 2
    for k in range(i - 1, -1, -1):
        x = factor[row + k]
        for m in range(k + 1, i):
            x -= factor[m * (m + 1) // 2 + k] * out[m]
        pivot = factor[k * (k + 3) // 2]
        out[k] = x / pivot if pivot > 0.0 else 0.0


@routine
def solve_lower_semidefinite(factor: Any, b: Any, n: int, out: Any) -> bool:
    """Solve L out = b, 0 for what is dropped; say whether there is a solution."""
    solvable, length = True, 0.0
    for i in range(n):
        length += b[i] * b[i]
    floor = NEARLY_ZERO * np.sqrt(length)
    row = 0
    for i in range(n):
        x, size = b[i], abs(b[i])
        for k in range(i):
            y = factor[row + k] * out[k]
            x -= y
            size += abs(y)
        if factor[row + i] > 0.0:
            out[i] = x / factor[row + i]
        else:
            out[i] = 0.0
            solvable = solvable and abs(x) <= ESTIMABLE * size + floor
        row += i + 1
    return solvable


@routine
def solve_lower_transposed_semidefinite(factor: Any, b: Any, n: int, out: Any) -> None:
    """Solve L' out = b, 0 for what is dropped."""
    for i in range(n - 1, -1, -1):
        x = b[i]
        for k in range(i + 1, n):
            x -= factor[k * (k + 1) // 2 + i] * out[k]
        pivot = factor[i * (i + 3) // 2]
        out[i] = x / pivot if pivot > 0.0 else 0.0
