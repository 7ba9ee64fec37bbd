r"""Newton's method for the covariance matrices of random effects, up to their boundary.

The deviance of a mixed model is minimised over the relative covariance matrices D_k >= 0 of
its random effects.  With the columns of Z scaled so that Z'Z of a level is about I, steps are
taken along geodesics of B = I + D:

    B <- B^(1/2) exp(h) B^(1/2),

in which the deviance of a balanced design is convex.  A matrix of lower rank, D = P P' with
fewer columns, moves within its rank by the same step in its range, and by P <- P + W t
towards its null space W; it leaves the boundary where the derivative with respect to D has a
negative eigenvalue in W.  An end is *certified*: the decrement g'M^-1 g of the last step is
below the tolerance, M is positive definite, and no such eigenvalue is negative.

The search asks for the deviance instead of calling it: `begin`, then evaluate where
``vector[ENTRIES]`` says and `advance`, until that returns something else than `GO_ON`.  So one
compiled search serves all models.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core._jit import routine
from nipype_blm.core.linalg import FloatArray, packed_size
from nipype_blm.core.lmm.levels import IntArray

GO_ON, INTERIOR, BOUNDARY, STUCK, NO_RESIDUAL, UNDEFINED = range(6)

# Decrement at which a search ends: the step that is still taken leaves its square.
TOLERANCE = 1e-11
LONGEST_STEP = 3.0  # |h|: a factor of 20 in B
ZERO = 1e-13  # an eigenvalue of D below this, relative to the largest plus one, is none
MULTIPLIER_TOLERANCE = 1e-9  # times the number of observations
ROUGH = 1e-2  # decrement from which on Newton's steps foretell the end
UNRELIABLE = 1e-3  # rounding error of the deviance beyond which there is nothing to search

# Rows of `Search.layout`: of each matrix its size, its first entry, its rank now and at the best
# point, and the rank that the step allows: the one there is, or one more.
_SIZE, _FIRST, _RANK, _BEST_RANK, _REACH = range(5)
# Rows of `Search.vector`.  ENTRIES is the D where to evaluate, and the result once the search
# has ended; CHANGE is then D less the D of the last evaluation.  The frame is that of U'D U.
ENTRIES, CHANGE, _GRADIENT, _FRAME_GRADIENT, _SCALE, _STEP, _OTHER = range(7)
# Of `Search.matrix`.  The columns of SPREAD are independent changes of D by one standard error;
# FRAME has the entries of D from those of U'D U.
SPREAD, _HESSIAN, _FRAME_HESSIAN, _FRAME, _MODEL, _FACTOR = range(6)
# Of `Search.values` and `Search.vectors`: the point in question, and the best so far.
NOW, _BEST = range(2)
# Positions in `Search.number` and `Search.counts`.
_F, _NOISE, _DECREMENT, _ALPHA = range(4)
_EVALUATIONS, _STATE, _N_SPREAD = range(3)
_STARTING, _TRYING, _GIVING_UP = range(3)


class Search(NamedTuple):
    """State and workspace of a search over K matrices of at most B rows, m entries in all.

    An entry is an element of the lower triangle of a matrix, row by row, matrix by matrix.
    Few arrays, because each costs time whenever a routine is called.
    """

    layout: IntArray  # (5, K)
    values: FloatArray  # (2, K, B), eigenvalues of D
    vectors: FloatArray  # (2, K, B, B), eigenvectors in columns; the null space last
    vector: FloatArray  # (7, m)
    matrix: FloatArray  # (6, m, m)
    number: FloatArray  # (4,), deviance, its rounding error, decrement, share of the step
    counts: IntArray  # (3,), evaluations, what the search does, columns of SPREAD
    active: IntArray  # (m,), entries that the step may change
    small: FloatArray  # (3, B, B), workspace


def make_search(sizes: Sequence[int]) -> Search:
    """Return a search over matrices of the given numbers of rows."""
    K, B = len(sizes), max(sizes)
    entries = [packed_size(size) for size in sizes]
    m = sum(entries)
    layout = np.zeros((5, K), np.int64)
    layout[_SIZE] = sizes
    layout[_FIRST] = np.cumsum([0, *entries[:-1]])
    return Search(
        layout,
        np.zeros((2, K, B)),
        np.zeros((2, K, B, B)),
        np.zeros((7, m)),
        np.zeros((6, m, m)),
        np.zeros(4),
        np.zeros(3, np.int64),
        np.zeros(m, np.int64),
        np.zeros((3, B, B)),
    )


@routine
def _position(i: int, j: int) -> int:
    """Return where element (i, j) of a symmetric matrix is packed."""
    return i * (i + 1) // 2 + j if i >= j else j * (j + 1) // 2 + i


@routine
def _find_rotation(a: float, b: float, off: float) -> tuple[float, float]:
    """Return cosine and sine of the rotation that diagonalises [[a, off], [off, b]]."""
    theta = 0.5 * (b - a) / off
    t = 1.0 / (abs(theta) + np.sqrt(1.0 + theta * theta))
    if theta < 0.0:
        t = -t
    c = 1.0 / np.sqrt(1.0 + t * t)
    return c, t * c


@routine
def _rotate_columns(X: Any, n: int, i: int, j: int, c: float, s: float) -> None:
    """Rotate columns i and j of the first n rows."""
    for k in range(n):
        x, y = X[k, i], X[k, j]
        X[k, i], X[k, j] = c * x - s * y, s * x + c * y


@routine
def eigen(A: Any, n: int, V: Any) -> None:
    """Diagonalise the symmetric A in place by Jacobi's rotations; eigenvectors to V."""
    for i in range(n):
        for j in range(n):
            V[i, j] = 1.0 if i == j else 0.0
    for _ in range(30):
        largest = 0.0
        for i in range(n):
            for j in range(i):
                size = abs(A[i, j])
                if size > 1e-17 * np.sqrt(abs(A[i, i] * A[j, j])) and size > 1e-300:
                    largest = max(largest, size)
                    c, s = _find_rotation(A[i, i], A[j, j], A[i, j])
                    _rotate_columns(A, n, i, j, c, s)
                    for k in range(n):
                        x, y = A[i, k], A[j, k]
                        A[i, k], A[j, k] = c * x - s * y, s * x + c * y
                    A[i, j], A[j, i] = 0.0, 0.0
                    _rotate_columns(V, n, i, j, c, s)
        if largest == 0.0:
            break


@routine
def orthogonalise(X: Any, n: int, r: int, V: Any) -> None:
    """Rotate the r columns of X until they are orthogonal, X <- X V (Hestenes).

    Small columns keep their relative accuracy beside large ones.
    """
    for i in range(r):
        for j in range(r):
            V[i, j] = 1.0 if i == j else 0.0
    for _ in range(30):
        rotated = False
        for i in range(r):
            for j in range(i):
                x2, y2, xy = 0.0, 0.0, 0.0
                for k in range(n):
                    x2 += X[k, i] * X[k, i]
                    y2 += X[k, j] * X[k, j]
                    xy += X[k, i] * X[k, j]
                if abs(xy) <= 1e-15 * np.sqrt(x2 * y2):
                    continue
                rotated = True
                c, s = _find_rotation(x2, y2, xy)
                _rotate_columns(X, n, i, j, c, s)
                _rotate_columns(V, r, i, j, c, s)
        if not rotated:
            break


@routine
def _sort(s: Any, k: int) -> None:
    """Sort the eigenvalues of matrix k, the largest first, and find its rank."""
    n = s.layout[_SIZE, k]
    values, U = s.values[NOW, k], s.vectors[NOW, k]
    for i in range(n):
        largest = i
        for j in range(i + 1, n):
            if values[j] > values[largest]:
                largest = j
        if largest != i:
            values[i], values[largest] = values[largest], values[i]
            for a in range(n):
                U[a, i], U[a, largest] = U[a, largest], U[a, i]
    rank = 0
    for i in range(n):
        if values[i] > ZERO * (1.0 + values[0]):
            rank += 1
        else:
            values[i] = 0.0
    s.layout[_RANK, k] = rank


@routine
def _set_entries(s: Any) -> None:
    """Compute the entries of D from its eigenvalues and eigenvectors."""
    for k in range(s.layout.shape[1]):
        n = s.layout[_SIZE, k]
        for i in range(n):
            for j in range(i + 1):
                x = 0.0
                for a in range(s.layout[_RANK, k]):
                    x += s.values[NOW, k, a] * s.vectors[NOW, k, i, a] * s.vectors[NOW, k, j, a]
                s.vector[ENTRIES, s.layout[_FIRST, k] + i * (i + 1) // 2 + j] = x


@routine
def place(s: Any, entries: Any, smallest: float) -> None:
    """Make the point in question the matrices with these entries.

    Negative eigenvalues become zero; the largest of each matrix is at least `smallest`.
    """
    for k in range(s.layout.shape[1]):
        n = s.layout[_SIZE, k]
        for i in range(n):
            for j in range(n):
                s.small[0, i, j] = entries[s.layout[_FIRST, k] + _position(i, j)]
        eigen(s.small[0], n, s.vectors[NOW, k])
        for i in range(n):
            s.values[NOW, k, i] = min(max(s.small[0, i, i], 0.0), 1e8)
        _sort(s, k)
        if s.values[NOW, k, 0] < smallest:
            s.values[NOW, k, 0] = smallest
            s.layout[_RANK, k] = max(s.layout[_RANK, k], 1)
    _set_entries(s)


@routine
def begin(s: Any, start: Any) -> None:
    """Begin a search at the matrices with the entries `start`, or near them: not at zero."""
    place(s, start, 1e-3)
    s.counts[_EVALUATIONS] = 0
    s.counts[_STATE] = _STARTING


@routine
def _copy_point(s: Any, source: int, target: int) -> None:
    """Copy rank, eigenvalues and eigenvectors of every matrix."""
    for k in range(s.layout.shape[1]):
        s.layout[_RANK + target, k] = s.layout[_RANK + source, k]
        for i in range(s.values.shape[2]):
            s.values[target, k, i] = s.values[source, k, i]
            for j in range(s.values.shape[2]):
                s.vectors[target, k, i, j] = s.vectors[source, k, i, j]


@routine
def _set_derivatives(s: Any, gradient: Any, hessian: Any) -> None:
    for i in range(gradient.size):
        s.vector[_GRADIENT, i] = gradient[i]
        for j in range(gradient.size):
            s.matrix[_HESSIAN, i, j] = hessian[i, j]


@routine
def _allow_no_more(s: Any) -> None:
    """Let the next step keep the rank of every matrix."""
    for k in range(s.layout.shape[1]):
        s.layout[_REACH, k] = s.layout[_BEST_RANK, k]


@routine
def _go_back(s: Any) -> None:
    """Make the best point so far the point in question."""
    _copy_point(s, _BEST, NOW)
    _set_entries(s)


@routine
def _keep(s: Any, f: float, noise: float, gradient: Any, hessian: Any) -> None:
    """Make the point in question the best point."""
    s.number[_F], s.number[_NOISE] = f, noise
    _copy_point(s, NOW, _BEST)
    _set_derivatives(s, gradient, hessian)


@routine
def _rotate_derivatives(s: Any) -> None:
    """Compute the derivatives with respect to the entries of U'D U at the best point."""
    m = s.vector.shape[1]
    J = s.matrix[_FRAME]
    J[:] = 0.0
    for k in range(s.layout.shape[1]):
        U, o = s.vectors[_BEST, k], s.layout[_FIRST, k]
        for i in range(s.layout[_SIZE, k]):
            for j in range(i + 1):
                for a in range(s.layout[_SIZE, k]):
                    for b in range(a + 1):
                        x = U[i, a] * U[j, b]
                        if a != b:
                            x += U[i, b] * U[j, a]
                        J[o + i * (i + 1) // 2 + j, o + a * (a + 1) // 2 + b] = x
    for a in range(m):
        x = 0.0
        for i in range(m):
            x += J[i, a] * s.vector[_GRADIENT, i]
        s.vector[_FRAME_GRADIENT, a] = x
    for a in range(m):  # J'H to _MODEL
        for j in range(m):
            x = 0.0
            for i in range(m):
                x += J[i, a] * s.matrix[_HESSIAN, i, j]
            s.matrix[_MODEL, a, j] = x
    for a in range(m):
        for b in range(a + 1):
            x = 0.0
            for j in range(m):
                x += s.matrix[_MODEL, a, j] * J[j, b]
            s.matrix[_FRAME_HESSIAN, a, b] = x
            s.matrix[_FRAME_HESSIAN, b, a] = x


@routine
def _derivative(s: Any, k: int, a: int, b: int) -> float:
    """Return element (a, b) of the symmetric derivative matrix in the frame of D_k."""
    x = s.vector[_FRAME_GRADIENT, s.layout[_FIRST, k] + _position(a, b)]
    return float(x if a == b else 0.5 * x)


@routine
def _turn_null_space(s: Any, k: int) -> bool:
    """Make the direction of the least multiplier the first of the null space of D_k.

    Returns whether anything has changed; multipliers are the eigenvalues of the derivative in
    the null space.
    """
    rank = s.layout[_BEST_RANK, k]
    n = s.layout[_SIZE, k] - rank
    if n < 2:
        return False
    for a in range(n):
        for b in range(n):
            s.small[0, a, b] = _derivative(s, k, rank + a, rank + b)
    eigen(s.small[0], n, s.small[1])
    least = 0
    for a in range(1, n):
        if s.small[0, a, a] < s.small[0, least, least]:
            least = a
    U = s.vectors[_BEST, k]
    for i in range(s.layout[_SIZE, k]):
        for a in range(n):
            x = 0.0
            for b in range(n):
                x += U[i, rank + b] * s.small[1, b, (a + least) % n]
            s.small[2, 0, a] = x
        for a in range(n):
            U[i, rank + a] = s.small[2, 0, a]
    return True


@routine
def _build_model(s: Any) -> int:
    """Set up gradient and Hessian in the coordinates that _REACH asks for; count these.

    The gradient goes to _OTHER, the lower triangle of the Hessian to _MODEL.
    """
    n_active = 0
    C = s.matrix[_FACTOR]
    C[:] = 0.0
    for k in range(s.layout.shape[1]):
        n, rank, o = s.layout[_SIZE, k], s.layout[_BEST_RANK, k], s.layout[_FIRST, k]
        in_range = s.layout[_REACH, k]
        values = s.values[_BEST, k]
        for a in range(n):
            for b in range(a + 1):
                e = o + a * (a + 1) // 2 + b
                if a < in_range:
                    s.vector[_SCALE, e] = np.sqrt((1.0 + values[a]) * (1.0 + values[b]))
                elif b < rank:
                    s.vector[_SCALE, e] = np.sqrt(values[b])
                else:
                    continue
                s.active[n_active] = e
                n_active += 1
        # Curvature of the steps: <F, B^(1/2) h^2 B^(1/2)> in the range, <F, t t'> beside it.
        for a in range(in_range):
            for b in range(in_range):
                x = _derivative(s, k, a, b) * np.sqrt((1.0 + values[a]) * (1.0 + values[b]))
                for c in range(in_range):
                    C[o + _position(a, c), o + _position(c, b)] += x
        for a in range(in_range, n):
            for b in range(in_range, n):
                x = 2.0 * _derivative(s, k, a, b)
                for c in range(rank):
                    C[o + _position(a, c), o + _position(b, c)] += x
    for i in range(n_active):
        e = s.active[i]
        s.vector[_OTHER, i] = s.vector[_SCALE, e] * s.vector[_FRAME_GRADIENT, e]
        for j in range(i + 1):
            d = s.active[j]
            s.matrix[_MODEL, i, j] = (
                s.vector[_SCALE, e] * s.vector[_SCALE, d] * s.matrix[_FRAME_HESSIAN, e, d] + C[e, d]
            )
    return n_active


@routine
def _factorise(s: Any, n: int, shift: float, largest: float) -> bool:
    """Write the Cholesky factor of model + shift I; say whether there is one."""
    L = s.matrix[_FACTOR]
    for i in range(n):
        for j in range(i + 1):
            x = s.matrix[_MODEL, i, j] + (shift if i == j else 0.0)
            for a in range(j):
                x -= L[i, a] * L[j, a]
            if i > j:
                L[i, j] = x / L[j, j]
            else:
                if not x > 1e-10 * largest:
                    return False
                L[i, i] = np.sqrt(x)
    return True


@routine
def _factorise_model(s: Any, n: int) -> bool:
    """Factorise the Hessian, with the least shift of those tried that makes it definite.

    Returns whether it was so without a shift.
    """
    largest = 1e-300
    for i in range(n):
        largest = max(largest, abs(s.matrix[_MODEL, i, i]))
    shift = 0.0
    for _ in range(60):
        if _factorise(s, n, shift, largest):
            break
        shift = max(3.0 * shift, 1e-2 * largest)
    return shift == 0.0


@routine
def _solve_model(s: Any) -> tuple[float, bool]:
    """Compute the step in the coordinates of _REACH.

    Returns its decrement, and whether the Hessian was positive definite without help.
    """
    n = _build_model(s)
    s.vector[_STEP] = 0.0
    if n == 0:
        return 0.0, True
    definite = _factorise_model(s, n)
    L, x = s.matrix[_FACTOR], s.vector[_OTHER]
    decrement = 0.0
    for i in range(n):
        for j in range(i):
            x[i] -= L[i, j] * x[j]
        x[i] /= L[i, i]
        decrement += x[i] * x[i]
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            x[i] -= L[j, i] * x[j]
        x[i] /= L[i, i]
    for i in range(n):
        s.vector[_STEP, s.active[i]] = -x[i]
    return decrement, definite


@routine
def _move_range(s: Any, k: int, r: int, alpha: float) -> None:
    """Step in the first r directions of D_k: eigenvalues to `values`, a rotation to `c`."""
    values, o = s.values[_BEST, k], s.layout[_FIRST, k]
    for a in range(r):
        for b in range(r):
            s.small[0, a, b] = alpha * s.vector[_STEP, o + _position(a, b)]
    eigen(s.small[0], r, s.small[1])
    longest = 0.0
    for a in range(r):
        longest = max(longest, abs(s.small[0, a, a]))
    shrink = LONGEST_STEP / longest if longest > LONGEST_STEP else 1.0
    for a in range(r):
        s.small[2, a, 0] = np.exp(0.5 * shrink * s.small[0, a, a])
    for a in range(r):  # exp(h / 2) B^(1/2)
        for b in range(r):
            x = 0.0
            for j in range(r):
                x += s.small[1, a, j] * s.small[2, j, 0] * s.small[1, b, j]
            s.small[0, a, b] = x * np.sqrt(1.0 + values[b])
    orthogonalise(s.small[0], r, r, s.small[2])
    for a in range(r):
        x = 0.0
        for b in range(r):
            x += s.small[0, b, a] * s.small[0, b, a]
        s.values[NOW, k, a] = max(x - 1.0, 0.0)


@routine
def _move(s: Any, k: int, alpha: float) -> None:
    """Take a share of the step of D_k from the best point."""
    n, rank, o = s.layout[_SIZE, k], s.layout[_BEST_RANK, k], s.layout[_FIRST, k]
    U = s.vectors[_BEST, k]
    r = s.layout[_REACH, k]
    _move_range(s, k, r, alpha)
    V, W = s.vectors[NOW, k], s.small[0]
    for i in range(n):
        for a in range(r):
            x = 0.0
            for b in range(r):
                x += U[i, b] * s.small[2, b, a]
            V[i, a] = x
    if r == n:
        _sort(s, k)
        return
    # Columns of P: those that vanish do not turn either, which would only creep to zero.
    for a in range(r):
        root = np.sqrt(s.values[NOW, k, a])
        for i in range(n):
            V[i, a] *= root
        if s.values[NOW, k, a] <= 0.0:
            continue
        for c in range(r, n):
            t = 0.0
            for b in range(rank):
                limit = LONGEST_STEP * np.sqrt(1.0 + s.values[_BEST, k, b])
                y = alpha * s.vector[_STEP, o + _position(c, b)]
                t += min(max(y, -limit), limit) * s.small[2, b, a]
            for i in range(n):
                V[i, a] += t * U[i, c]
    orthogonalise(V, n, r, s.small[2])
    for a in range(r):
        x = 0.0
        for i in range(n):
            x += V[i, a] * V[i, a]
        s.values[NOW, k, a] = x
    for a in range(r, n):
        s.values[NOW, k, a] = 0.0
    _complete_basis(V, s.values[NOW, k], n, r, W)
    _sort(s, k)


@routine
def _complete_basis(V: Any, values: Any, n: int, r: int, W: Any) -> None:
    """Normalise the columns of V; replace those of length zero, and the last n - r."""
    for a in range(n):
        if a < r and values[a] > 0.0:
            root = np.sqrt(values[a])
            for i in range(n):
                V[i, a] /= root
        else:
            for i in range(n):
                V[i, a] = 0.0
    for a in range(n):
        if a < r and values[a] > 0.0:
            continue
        longest = -1.0
        for e in range(n):  # the unit vector that is farthest from the columns there are
            for i in range(n):
                W[i, 0] = 1.0 if i == e else 0.0
            for _ in range(2):
                for b in range(n):
                    x = 0.0
                    for i in range(n):
                        x += V[i, b] * W[i, 0]
                    for i in range(n):
                        W[i, 0] -= x * V[i, b]
            length = 0.0
            for i in range(n):
                length += W[i, 0] * W[i, 0]
            if length > longest:
                longest = length
                for i in range(n):
                    W[i, 1] = W[i, 0] / np.sqrt(length)
        for i in range(n):
            V[i, a] = W[i, 1]


@routine
def _try_step(s: Any, alpha: float) -> None:
    """Make the best point plus a share of the step the point in question."""
    for k in range(s.layout.shape[1]):
        _move(s, k, alpha)
    _set_entries(s)
    s.number[_ALPHA] = alpha


@routine
def _choose_step(s: Any, tolerance: float, n_obs: float) -> int:
    """Choose coordinates and compute the step from the best point, or end the search."""
    _rotate_derivatives(s)
    K = s.layout.shape[1]
    turned = False
    for k in range(K):
        turned |= _turn_null_space(s, k)
    if turned:
        _rotate_derivatives(s)
    least = -MULTIPLIER_TOLERANCE * n_obs
    n_deficient, violated = 0, False
    _allow_no_more(s)
    for k in range(K):
        rank = s.layout[_BEST_RANK, k]
        if rank < s.layout[_SIZE, k]:
            n_deficient += 1
            violated |= _derivative(s, k, rank, rank) < least
    decrement, definite = _solve_model(s)
    s.number[_DECREMENT] = decrement
    converged = definite and decrement < tolerance
    if converged and not violated:
        return BOUNDARY if n_deficient > 0 else INTERIOR
    if n_deficient == 0:
        return GO_ON
    # Leave the boundary where that promises more, or where nothing else is left to do.
    for k in range(K):
        rank = s.layout[_BEST_RANK, k]
        if rank < s.layout[_SIZE, k]:
            below = _derivative(s, k, rank, rank) < least
            s.layout[_REACH, k] += below or (rank > 0 and not converged)
    for _ in range(2):
        wider_decrement, wider_definite = _solve_model(s)
        if converged:
            s.number[_DECREMENT] = wider_decrement
            return GO_ON
        if wider_decrement <= decrement or not (wider_definite or violated):
            break
        _try_step(s, 1.0)
        n_released, n_feasible = 0, 0
        for k in range(K):
            if s.layout[_REACH, k] > s.layout[_BEST_RANK, k]:
                n_released += 1
                if s.layout[_RANK, k] > s.layout[_BEST_RANK, k]:
                    n_feasible += 1
                else:
                    s.layout[_REACH, k] = s.layout[_BEST_RANK, k]
        if n_feasible == n_released:
            s.number[_DECREMENT] = wider_decrement
            return GO_ON
        if n_feasible == 0:
            break
    _allow_no_more(s)
    _solve_model(s)
    return GO_ON


@routine
def find_spread(s: Any, gradient: Any, hessian: Any) -> None:
    """Compute, at the best point, the standard errors of D within its rank.

    The deviance is -2 times the log-likelihood: cov(D) = 2 M^-1, which is SPREAD times its
    transpose.

    Parameters
    ----------
    gradient, hessian : arrays of shape (m,), (m, m)
        Of the deviance, whatever the search has used in its place.
    """
    _set_derivatives(s, gradient, hessian)
    _rotate_derivatives(s)
    _allow_no_more(s)
    n = _build_model(s)
    s.matrix[SPREAD] = 0.0
    s.counts[_N_SPREAD] = n
    _factorise_model(s, n)
    L, x = s.matrix[_FACTOR], s.vector[_OTHER]
    for column in range(n):  # sqrt(2) L'^-1, column by column
        for i in range(n - 1, -1, -1):
            x[i] = np.sqrt(2.0) if i == column else 0.0
            for j in range(i + 1, n):
                x[i] -= L[j, i] * x[j]
            x[i] /= L[i, i]
        for e in range(s.vector.shape[1]):
            y = 0.0
            for i in range(n):
                y += s.matrix[_FRAME, e, s.active[i]] * s.vector[_SCALE, s.active[i]] * x[i]
            s.matrix[SPREAD, e, column] = y


@routine
def advance(
    s: Any,
    f: float,
    noise: float,
    gradient: Any,
    hessian: Any,
    tolerance: float,
    n_obs: float,
    most_evaluations: int,
) -> int:
    """Take in the deviance at ``s.vector[ENTRIES]``; say how the search goes on.

    Parameters
    ----------
    f, noise : float
        Deviance, and its rounding error.
    gradient, hessian : arrays of shape (m,), (m, m)
        Its derivatives with respect to the entries of D.
    tolerance : float
        Decrement (twice the gain in log-likelihood to be had) at which to end.
    n_obs : float
        Number of observations, the scale of multipliers.

    Returns
    -------
    int
        `GO_ON`, or why the search has ended.  At the end ENTRIES is one more step ahead, CHANGE
        that step, and everything evaluated last belongs to ENTRIES - CHANGE.
    """
    s.counts[_EVALUATIONS] += 1
    state = s.counts[_STATE]
    if state == _STARTING:
        if not abs(f) < 1e300:
            return UNDEFINED
        accepted = True
    elif state == _GIVING_UP:
        s.vector[CHANGE] = 0.0
        return STUCK
    else:
        best, rounding = s.number[_F], s.number[_NOISE]
        gain = s.number[_ALPHA] * s.number[_DECREMENT]
        accepted = f <= best - 1e-4 * gain or (f <= best + 8.0 * rounding and gain < 1e4 * rounding)
        if not accepted:
            alpha = 0.25 * s.number[_ALPHA]
            if (
                alpha * s.number[_DECREMENT] < rounding
                or alpha < 1e-16
                or s.counts[_EVALUATIONS] >= most_evaluations
            ):
                return _give_up(s)
            _try_step(s, alpha)
            return GO_ON
    _keep(s, f, noise, gradient, hessian)
    if noise > UNRELIABLE:
        return NO_RESIDUAL
    s.counts[_STATE] = _TRYING
    outcome = _choose_step(s, max(tolerance, noise), n_obs)
    if outcome != GO_ON:
        _go_back(s)
        for e in range(s.vector.shape[1]):
            s.vector[CHANGE, e] = s.vector[ENTRIES, e]
        _try_step(s, 1.0)
        for e in range(s.vector.shape[1]):
            s.vector[CHANGE, e] = s.vector[ENTRIES, e] - s.vector[CHANGE, e]
    elif s.counts[_EVALUATIONS] >= most_evaluations:
        return _give_up(s)
    else:
        _try_step(s, 1.0)
    return outcome


@routine
def _give_up(s: Any) -> int:
    """Evaluate the best point once more, so that all that was computed belongs to it."""
    _go_back(s)
    s.counts[_STATE] = _GIVING_UP
    return GO_ON


@routine
def count_evaluations(s: Any) -> int:
    """Return how often the deviance was evaluated since the search began."""
    return int(s.counts[_EVALUATIONS])


@routine
def count_spread(s: Any) -> int:
    """Return the number of columns of SPREAD."""
    return int(s.counts[_N_SPREAD])


@routine
def best_deviance(s: Any) -> float:
    """Return the deviance where the search has ended, after its last step."""
    ahead = 0.5 * s.number[_DECREMENT] if s.counts[_STATE] == _TRYING else 0.0
    return float(s.number[_F] - ahead)


@routine
def is_rough_end(s: Any) -> bool:
    """Return whether a search is so near its end that the deviance there is known."""
    return bool(s.counts[_STATE] == _TRYING and s.number[_DECREMENT] < ROUGH)


@routine
def is_needed(attempt: int, n_rough: int, ends: Any) -> bool:
    """Return whether a search is to be made.

    First the rough ones, from `n_rough` starting values; then that from the usual start; then
    one from the best rough end, if that promised less; then one back to the usual end, if it
    did not keep its promise.

    Parameters
    ----------
    ends : array of shape (3,)
        Deviances: the least rough one, of the usual search, of the one after that.
    """
    if attempt <= n_rough:
        return True
    if attempt == n_rough + 1:
        return bool(ends[0] < ends[1] - 1e-7)
    return bool(ends[2] > ends[1] and ends[0] < ends[1] - 1e-7)


@routine
def keep_end(s: Any, outcome: int, order: int, ends: Any, points: Any) -> None:
    """Remember where a search has ended; `order` is negative for rough ones, see `is_needed`.

    `points` (2, m) are the best rough end and that of the usual search.
    """
    deviance = np.inf if outcome in (NO_RESIDUAL, UNDEFINED) else best_deviance(s)
    which = max(order, -1) + 1
    if which > 0 or deviance < ends[0]:
        ends[which] = deviance
        if which < 2:
            for e in range(s.vector.shape[1]):
                points[which, e] = s.vector[ENTRIES, e]
