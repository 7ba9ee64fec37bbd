"""The deviance of any mixed model: one factor eliminated level by level, the others dense.

The factor with the most levels (1) is eliminated.  With B = [Z2 Q y], Z2 the columns of all
other factors, and V1 = I + Z1 D1 Z1',

    A = B'V1^-1 B = B'B - sum M'W M,    M = Z1'B of a level, W = (I + D1 G)^-1 D1,

and A's derivatives with respect to the entries of D1 are sums over levels too.  The rest is
a penalised regression on the k columns [Z2 Q], with D2 = Lambda Lambda' (Bates, Maechler,
Bolker and Walker, J. Stat. Softw. 67, 2015, section 3):

    H = Lambda'A Lambda + diag(I, 0),    Phi = Lambda H^-1 Lambda'.

Phi of all of H belongs to y and to log|V| + log|Q'V^-1 Q| (REML); log|V| by itself (ML) has
the Phi of the block of Z2.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core._jit import allocating_routine, routine
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray, packed_size
from nipype_blm.core.lmm.evaluation import (
    NOISE,
    R2,
    F,
    cholesky,
    invert_lower,
    solve_lower,
    solve_lower_transposed,
)
from nipype_blm.core.lmm.levels import IntArray


class Layout(NamedTuple):
    """Where the factors have their columns and entries; the eliminated one is the first."""

    n_effects: IntArray  # (n_factors,)
    n_levels: IntArray  # (n_factors,)
    column: IntArray  # (n_factors,), first column in Z2; not of the eliminated factor
    entry: IntArray  # (n_factors,), first entry of its D


class GeneralWork(NamedTuple):
    """What one evaluation leaves for the next steps; m1 entries of D1, s columns of Z2."""

    A: FloatArray  # (1 + m1 + m1 (m1 + 1) / 2, k + 1, k + 1), A and its derivatives in D1
    N: FloatArray  # (q1, k + 1, n_levels), (I + D1 G)'^-1 M
    half: FloatArray  # (k, k), L^-1 Lambda' with H = L L'
    small: FloatArray  # (3, q1, q1, n_levels), W, R = (I + D1 G)^-1 and Gamma = G R
    trace: FloatArray  # (m,), gradient of the log-determinant
    information: FloatArray  # (m, m), less its Hessian: what to expect of the deviance's


def make_layout(factors: Sequence[RandomFactor]) -> Layout:
    """Return the layout of factors, the eliminated one first."""
    columns = np.cumsum([0, 0, *(factor.n_columns for factor in factors[1:])])
    entries = np.cumsum([0, *(factor.n_entries for factor in factors)])
    return Layout(
        np.array([factor.n_effects for factor in factors], np.int64),
        np.array([factor.n_levels for factor in factors], np.int64),
        columns[: len(factors)].astype(np.int64),
        entries[:-1].astype(np.int64),
    )


def make_general_work(layout: Layout, n_params: int) -> GeneralWork:
    """Return a workspace."""
    q, n = int(layout.n_effects[0]), int(layout.n_levels[0])
    k = int((layout.n_effects * layout.n_levels)[1:].sum()) + n_params
    m1 = packed_size(q)
    m = sum(packed_size(int(size)) for size in layout.n_effects)
    return GeneralWork(
        np.zeros((1 + m1 + packed_size(m1), k + 1, k + 1)),
        np.zeros((q, k + 1, n)),
        np.zeros((k, k)),
        np.zeros((3, q, q, n)),
        np.zeros(m),
        np.zeros((m, m)),
    )


@allocating_routine
def _invert_levels(G: Any, root: Any, small: Any) -> float:
    """Compute W, R and Gamma of every level; return log|V1|.  D1 = root root'."""
    q, n = small.shape[1], small.shape[3]
    W, R, Gamma = small[0], small[1], small[2]
    full, L, X = np.empty((q, q)), np.empty((q, q)), np.empty((q, q))
    log_det = 0.0
    for j in range(n):
        for a in range(q):
            for b in range(a + 1):
                full[a, b] = G[a * (a + 1) // 2 + b, j]
                full[b, a] = full[a, b]
        for a in range(q):  # I + root'G root is positive definite whatever the rank of D1
            for b in range(a + 1):
                x = 1.0 if a == b else 0.0
                for c in range(q):
                    for d in range(q):
                        x += root[c, a] * full[c, d] * root[d, b]
                L[a, b] = x
        cholesky(L, q)
        for a in range(q):
            log_det += 2.0 * np.log(L[a, a])
            for b in range(q):
                X[a, b] = root[a, b]
            solve_lower(L, X[a], q)
        for a in range(q):
            for b in range(q):
                x = 0.0
                for c in range(q):
                    x += X[a, c] * X[b, c]
                W[a, b, j] = x
        for a in range(q):
            for b in range(q):
                x = 1.0 if a == b else 0.0
                for c in range(q):
                    x -= W[a, c, j] * full[c, b]
                R[a, b, j] = x
        for a in range(q):
            for b in range(q):
                x = 0.0
                for c in range(q):
                    x += full[a, c] * R[c, b, j]
                Gamma[a, b, j] = x
    return log_det


@routine
def _element(e: int) -> tuple[int, int]:
    """Return row and column of a packed entry."""
    i = 0
    while (i + 1) * (i + 2) // 2 <= e:
        i += 1
    return i, e - i * (i + 1) // 2


@allocating_routine
def _eliminate(BtB: Any, G: Any, M: Any, root: Any, w: Any) -> float:
    """Compute A and its derivatives in D1; return log|V1|.

    `trace` and `information` receive what log|V1| has of them.  M (q1, k + 1, n_levels)
    includes the column of y.
    """
    q, n = M.shape[0], M.shape[2]
    m = q * (q + 1) // 2
    log_det = _invert_levels(G, root, w.small)
    W, R, Gamma = w.small[0], w.small[1], w.small[2]
    A = w.A[0]
    A[:] = BtB
    X = np.empty(M.shape[1:])
    for a in range(q):
        X[:] = 0.0
        w.N[a] = 0.0
        for b in range(q):
            for i in range(M.shape[1]):
                for j in range(n):
                    X[i, j] += W[a, b, j] * M[b, i, j]
                    w.N[a, i, j] += R[b, a, j] * M[b, i, j]
        A -= np.dot(M[a], X.T)
    N = w.N
    for e in range(m):
        i, j = _element(e)
        product = np.dot(N[i], N[j].T)
        w.A[1 + e] = -product if i == j else -(product + product.T)
        w.trace[e] = Gamma[i, j].sum() * (1.0 if i == j else 2.0)
    C = np.empty((q, q, n))
    position = 1 + m
    for e in range(m):
        i, j = _element(e)
        for d in range(e + 1):
            # C = E_e Gamma E_d + its transpose; the second derivative of A is sum N'C N.
            a, b = _element(d)
            C[:] = 0.0
            total = 0.0
            for swap_e in range(1 if i == j else 2):
                i1, j1 = (i, j) if swap_e == 0 else (j, i)
                for swap_d in range(1 if a == b else 2):
                    a1, b1 = (a, b) if swap_d == 0 else (b, a)
                    C[i1, b1] += Gamma[j1, a1]
                    C[b1, i1] += Gamma[j1, a1]
                    total += (Gamma[j1, a1] * Gamma[i1, b1]).sum()
            w.A[position] = 0.0
            for a1 in range(q):
                X[:] = 0.0
                for b1 in range(q):
                    for r in range(X.shape[0]):
                        for c in range(n):
                            X[r, c] += C[a1, b1, c] * N[b1, r, c]
                w.A[position] += np.dot(N[a1], X.T)
            position += 1
            w.information[e, d] = total
            w.information[d, e] = total
    return log_det


@allocating_routine
def make_root(layout: Any, roots: Any, k: int) -> Any:
    """Return Lambda, (k, k), from the root of each factor's D."""
    root = np.eye(k)
    for f in range(1, layout.n_effects.size):
        q = layout.n_effects[f]
        for level in range(layout.n_levels[f]):
            o = layout.column[f] + level * q
            root[o : o + q, o : o + q] = roots[f, :q, :q]
    return root


@allocating_routine
def _patterned(layout: Any, f: int, e: int, X: Any) -> Any:
    """Return E_e X: rows of the factor's columns exchanged as the pattern says; others zero."""
    out = np.zeros_like(X)
    i, j = _element(e)
    q = layout.n_effects[f]
    for level in range(layout.n_levels[f]):
        o = layout.column[f] + level * q
        out[o + i] = X[o + j]
        out[o + j] = X[o + i]
    return out


@allocating_routine
def _add_log_det(layout: Any, A: Any, phi: Any, s: int, w: Any) -> None:
    """Add to trace and information what the dense factors have of the log-determinant."""
    k = phi.shape[0]
    m1 = layout.entry[1] if layout.entry.size > 1 else w.trace.size
    A_phi = np.empty((m1, k, k))
    position = 1 + m1
    for e in range(m1):
        A_e = np.ascontiguousarray(w.A[1 + e, :k, :k])
        A_phi[e] = np.dot(A_e, phi)
        w.trace[e] += np.trace(A_phi[e])
        for d in range(e + 1):
            x = (A_phi[e] * A_phi[d].T).sum() - (w.A[position, :k, :k] * phi).sum()
            position += 1
            w.information[e, d] += x
            if d < e:
                w.information[d, e] += x
    if s == 0:
        return
    A2 = np.ascontiguousarray(A[:, :s])
    phi_A2 = np.dot(phi, A2)
    T = A2[:s] - np.dot(A2.T, phi_A2)
    omega = -phi_A2
    for i in range(s):
        omega[i, i] += 1.0
    for f in range(1, layout.n_effects.size):
        for e in range(layout.n_effects[f] * (layout.n_effects[f] + 1) // 2):
            row = layout.entry[f] + e
            TE = _patterned(layout, f, e, T).T  # T E_e, T being symmetric
            w.trace[row] = np.trace(TE)
            for g in range(1, f + 1):
                for d in range(layout.n_effects[g] * (layout.n_effects[g] + 1) // 2):
                    column = layout.entry[g] + d
                    x = (TE * _patterned(layout, g, d, T)).sum()
                    w.information[row, column] = x
                    w.information[column, row] = x
            for d in range(m1):  # dT / dD1 = omega'A_d omega
                A_d = np.ascontiguousarray(w.A[1 + d, :k, :k])
                x = -(_patterned(layout, f, e, omega.T) * np.dot(A_d, omega).T).sum()
                w.information[row, d] = x
                w.information[d, row] = x


@allocating_routine
def evaluate_general(
    layout: Any, BtB: Any, G: Any, M: Any, N: float, reml: bool, roots: Any, w: Any, e: Any
) -> None:
    """Evaluate the deviance and its derivatives; f is infinite where it is undefined.

    Parameters
    ----------
    layout : Layout
    BtB : array of shape (k + 1, k + 1)
        B'B, y the residuals of least squares.
    G : array of shape (packed, n_levels)
        Z1'Z1 of each level.
    M : array of shape (q1, k + 1, n_levels)
        Z1'B.
    roots : array of shape (n_factors, B, B)
        A square root of each D.
    """
    p = e.effect.size
    k = BtB.shape[0] - 1
    s = k - p
    m = w.trace.size
    m1 = layout.entry[1] if layout.entry.size > 1 else m
    e.number[F] = np.inf
    log_det = _eliminate(BtB, G, M, roots[0, : M.shape[0], : M.shape[0]], w)
    A = np.ascontiguousarray(w.A[0, :k, :k])
    c = np.ascontiguousarray(w.A[0, :k, k])
    root = make_root(layout, roots, k)
    H = np.dot(root.T, np.dot(A, root))
    for i in range(s):
        H[i, i] += 1.0
    if not cholesky(H, k):
        return
    inverse = np.zeros((k, k))
    invert_lower(H, k, inverse)
    half = np.dot(inverse, root.T)
    w.half[:] = half
    phi = np.dot(half.T, half)
    solution = np.dot(root.T, c)
    solve_lower(H, solution, k)
    solve_lower_transposed(H, solution, k)
    coefficients = np.dot(root, solution)
    # At the minimum, where errors of the solution count only squared: as y'y - c'coefficients
    # they would be multiplied by the condition of H, that is by D.
    r2 = w.A[0, k, k] + np.dot(coefficients, np.dot(A, coefficients) - 2.0 * c)
    for i in range(s):
        r2 += solution[i] * solution[i]
    e.number[R2] = r2
    if not r2 > 0.0:
        return
    for i in range(k if reml else s):
        log_det += 2.0 * np.log(H[i, i])
    f = N * np.log(r2) + log_det
    e.number[F] = f
    e.number[NOISE] = 1e-15 * (N * BtB[k, k] / r2 + abs(f))
    for i in range(p):
        e.effect[i] = coefficients[s + i]
        for j in range(i + 1):
            e.factor[i, j] = H[s + i, s + j]
    if reml:
        _add_log_det(layout, A, phi, s, w)
    else:
        phi_ml = np.dot(np.ascontiguousarray(half[:s]).T, np.ascontiguousarray(half[:s]))
        _add_log_det(layout, A, phi_ml, s, w)
    _differentiate_fit(layout, A, c, phi, coefficients, N, w, e, m1, s)


@allocating_routine
def _differentiate_fit(
    layout: Any,
    A: Any,
    c: Any,
    phi: Any,
    coefficients: Any,
    N: float,
    w: Any,
    e: Any,
    m1: int,
    s: int,
) -> None:
    """Compute the derivatives of r2, and with the log-determinant's those of the deviance."""
    k, m, p = A.shape[0], w.trace.size, e.effect.size
    r2 = e.number[R2]
    v = np.empty(k + 1)
    v[:k] = -coefficients
    v[k] = 1.0
    scores = np.empty((m, k))  # of the coefficients, in each entry: dc - dA coefficients
    second = np.empty((m, m))
    position = 1 + m1
    for a in range(m1):
        product = np.dot(w.A[1 + a], v)
        scores[a] = product[:k]
        e.r2_gradient[a] = np.dot(v, product)
        for b in range(a + 1):
            second[a, b] = np.dot(v, np.dot(w.A[position], v))
            position += 1
    if s > 0:
        A2 = np.ascontiguousarray(A[:, :s])
        g = np.zeros((s, 1))
        A22 = np.ascontiguousarray(A2[:s])
        g_row = c[:s] - np.dot(A2.T, coefficients)  # Z2'P y
        g[:, 0] = g_row
        for f in range(1, layout.n_effects.size):
            for entry in range(layout.n_effects[f] * (layout.n_effects[f] + 1) // 2):
                a = layout.entry[f] + entry
                x = np.ascontiguousarray(_patterned(layout, f, entry, g)[:, 0])
                e.r2_gradient[a] = -np.dot(g_row, x)
                # As for D1, with Z2 E Z2' V1^-1 (y - B coefficients) in the place of A_e v.
                scores[a] = -np.dot(A2, x)
                for b in range(m1):  # half of it, as scores'Phi scores has the other part
                    second[a, b] = -2.0 * np.dot(x, scores[b, :s])
                for other in range(1, f + 1):
                    for d in range(layout.n_effects[other] * (layout.n_effects[other] + 1) // 2):
                        b = layout.entry[other] + d
                        if b <= a:
                            y = np.ascontiguousarray(_patterned(layout, other, d, g)[:, 0])
                            second[a, b] = 2.0 * np.dot(x, np.dot(A22, y))
    moved = np.dot(scores, phi)
    for a in range(m):
        for i in range(p):
            e.effect_gradient[a, i] = 0.0
            for j in range(i, p):  # L'db, db = (Phi scores) of Q
                e.effect_gradient[a, i] += e.factor[j, i] * moved[a, s + j]
        for b in range(a + 1):
            hessian = second[a, b] - 2.0 * np.dot(moved[a], scores[b])
            x = N * (hessian / r2 - (e.r2_gradient[a] / r2) * (e.r2_gradient[b] / r2))
            e.hessian[a, b] = x - w.information[a, b]
            e.hessian[b, a] = e.hessian[a, b]
        e.gradient[a] = N * e.r2_gradient[a] / r2 + w.trace[a]


@allocating_routine
def find_sensitivity_general(layout: Any, w: Any, e: Any) -> None:
    """Compute the sensitivity at the last evaluation: L'dC L of C = (Q'V^-1 Q)^-1."""
    m, p = e.effect_gradient.shape
    k = w.A.shape[1] - 1
    s = k - p
    m1 = layout.entry[1] if layout.entry.size > 1 else m
    A, half = np.ascontiguousarray(w.A[0, :k, :k]), w.half
    phi_x = np.dot(half.T, np.ascontiguousarray(half[:, s:]))  # columns of Q
    L = np.tril(e.factor)
    rows = np.dot(phi_x, L)
    for a in range(m1):
        A_a = np.ascontiguousarray(w.A[1 + a, :k, :k])
        e.sensitivity[a] = -np.dot(rows.T, np.dot(A_a, rows))
    if s == 0:
        return
    effects = np.dot(np.ascontiguousarray(A[:, :s]).T, rows)  # Z2'V^-1 Q C L
    for f in range(1, layout.n_effects.size):
        for entry in range(layout.n_effects[f] * (layout.n_effects[f] + 1) // 2):
            x = _patterned(layout, f, entry, effects)
            e.sensitivity[layout.entry[f] + entry] = np.dot(effects.T, x)
