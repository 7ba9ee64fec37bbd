"""The deviance of one factor with two random effects per level.

Sums over levels of 2 x 2 blocks, written out, with the levels innermost so that they fill
vectors.  For level j, G = Z'Z, M = Z'[Q y], R = (I + D G)^-1, W = R D, N = R'M:

    [Q y]'V^-1 [Q y] = [Q y]'[Q y] - sum M'W M,      log|V| = sum log|I + D G|,

with derivatives in N and Z'V^-1 Z = G R.  Entries of D: (D11, D12, D22).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core._jit import allocating_routine, kernel, routine
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.lmm.evaluation import (
    NOISE,
    R2,
    F,
    Results,
    cholesky,
    make_evaluation,
    solve_lower,
    solve_lower_transposed,
    write_results,
)
from nipype_blm.core.lmm.levels import (
    Blocks,
    IntArray,
    Rows,
    Voxels,
    copy_blocks,
    group_rows,
    has_same_images,
    load_blocks,
    load_gram,
    load_residuals,
    make_blocks,
)
from nipype_blm.core.lmm.newton import (
    CHANGE,
    ENTRIES,
    GO_ON,
    NO_RESIDUAL,
    NOW,
    SPREAD,
    TOLERANCE,
    UNDEFINED,
    advance,
    begin,
    best_deviance,
    count_evaluations,
    count_spread,
    find_spread,
    is_needed,
    is_rough_end,
    keep_end,
    make_search,
)


class SlopeWork(NamedTuple):
    """Workspace for n levels and p columns of Q."""

    W: FloatArray  # (3, n)
    R: FloatArray  # (4, n), row by row
    Gamma: FloatArray  # (3, n), Z'V^-1 Z of a level
    N: FloatArray  # (2, p, n); L^-1 of it, once `weigh` has run
    u: FloatArray  # (2, n)
    x: FloatArray  # (3, n)


def make_slope_work(n_params: int, n_levels: int) -> SlopeWork:
    """Return a workspace."""
    p, n = n_params, n_levels
    return SlopeWork(
        np.zeros((3, n)),
        np.zeros((4, n)),
        np.zeros((3, n)),
        np.zeros((2, p, n)),
        np.zeros((2, n)),
        np.zeros((3, n)),
    )


@routine
def _invert_blocks(G: Any, weight: Any, D: Any, detD: float, w: Any) -> float:
    """Compute W, R and Gamma of every level; return log|V|.

    By adjugates: det(I + D G) = 1 + tr(D G) + |D| |G| loses nothing where D is large.
    """
    d11, d12, d22 = D[0], D[1], D[2]
    G11, G12, G22, detG = G[0], G[1], G[2], G[3]
    W11, W12, W22 = w.W[0], w.W[1], w.W[2]
    R11, R12, R21, R22 = w.R[0], w.R[1], w.R[2], w.R[3]
    C11, C12, C22 = w.Gamma[0], w.Gamma[1], w.Gamma[2]
    det = w.x[0]
    n = G.shape[1]
    for j in range(n):
        g11, g12, g22, dg = G11[j], G12[j], G22[j], detG[j]
        x = 1.0 + (d11 * g11 + 2.0 * d12 * g12 + d22 * g22) + detD * dg
        det[j] = x
        i = 1.0 / x
        R11[j] = (1.0 + d12 * g12 + d22 * g22) * i
        R12[j] = -(d11 * g12 + d12 * g22) * i
        R21[j] = -(d12 * g11 + d22 * g12) * i
        R22[j] = (1.0 + d11 * g11 + d12 * g12) * i
        W11[j] = (d11 + detD * g22) * i
        W12[j] = (d12 - detD * g12) * i
        W22[j] = (d22 + detD * g11) * i
        C11[j] = (g11 + dg * d22) * i
        C12[j] = (g12 - dg * d12) * i
        C22[j] = (g22 + dg * d11) * i
    total, product = 0.0, 1.0
    for j in range(n):
        if weight[j] == 1.0:  # few logarithms
            product *= det[j]
            if product > 1e150:
                total += np.log(product)
                product = 1.0
        elif weight[j] > 0.0:
            total += weight[j] * np.log(det[j])
    return float(total + np.log(product))


@routine
def _solve_effects(M: Any, T: Any, gram: Any, w: Any, e: Any) -> bool:
    """Compute L, L^-1 Q'V^-1 y (as the effect) and r2 less its square; False if not definite."""
    p, n = M.shape[1], M.shape[2]
    W11, W12, W22 = w.W[0], w.W[1], w.W[2]
    T1, T2, u1, u2 = T[0], T[1], w.u[0], w.u[1]
    r2 = e.number[R2]
    for j in range(n):
        x = W11[j] * T1[j] + W12[j] * T2[j]
        y = W12[j] * T1[j] + W22[j] * T2[j]
        u1[j] = x
        u2[j] = y
        r2 -= x * T1[j] + y * T2[j]
    X1, X2 = w.x[1], w.x[2]
    for a in range(p):
        M1, M2 = M[0, a], M[1, a]
        s = 0.0
        for j in range(n):
            X1[j] = W11[j] * M1[j] + W12[j] * M2[j]
            X2[j] = W12[j] * M1[j] + W22[j] * M2[j]
            s += M1[j] * u1[j] + M2[j] * u2[j]
        e.effect[a] = -s
        for b in range(a + 1):
            B1, B2 = M[0, b], M[1, b]
            s = 0.0
            for j in range(n):
                s += X1[j] * B1[j] + X2[j] * B2[j]
            e.factor[a, b] = gram[a, b] - s
    if not cholesky(e.factor, p):
        return False
    solve_lower(e.factor, e.effect, p)
    for a in range(p):
        r2 -= e.effect[a] * e.effect[a]
    e.number[R2] = r2
    return bool(r2 > 0.0)


@routine
def weigh(M: Any, w: Any, L: Any) -> None:
    """Compute N' = R'M of every level and column, times L'^-1 on the right."""
    p, n = M.shape[1], M.shape[2]
    R11, R12, R21, R22 = w.R[0], w.R[1], w.R[2], w.R[3]
    for a in range(p):
        M1, M2, N1, N2 = M[0, a], M[1, a], w.N[0, a], w.N[1, a]
        for j in range(n):
            N1[j] = R11[j] * M1[j] + R21[j] * M2[j]
            N2[j] = R12[j] * M1[j] + R22[j] * M2[j]
        for k in range(a):
            x, K1, K2 = L[a, k], w.N[0, k], w.N[1, k]
            for j in range(n):
                N1[j] -= x * K1[j]
                N2[j] -= x * K2[j]
        x = 1.0 / L[a, a]
        for j in range(n):
            N1[j] *= x
            N2[j] *= x


@routine
def evaluate_slope(
    G: Any,
    M: Any,
    weight: Any,
    T: Any,
    gram: Any,
    rss: float,
    N: float,
    reml: bool,
    D: Any,
    w: Any,
    e: Any,
) -> None:
    """Evaluate the deviance and its derivatives; f is infinite where it is undefined.

    Parameters
    ----------
    G : array of shape (4, n_levels)
        G11, G12, G22 and the determinant of each level.
    M : array of shape (2, n_params, n_levels)
        Z'Q.
    weight : array of shape (n_levels,)
        How often G of each level counts in log|V|.
    T : array of shape (2, n_levels)
        Z'y, y the residuals of least squares.
    gram : array of shape (n_params, n_params)
        Q'Q.
    rss : float
        y'y.
    D : array of shape (4,)
        D11, D12, D22 and the determinant.
    """
    p, n = M.shape[1], M.shape[2]
    log_det = _invert_blocks(G, weight, D, D[3], w)
    e.number[F] = np.inf
    e.number[R2] = rss
    if not _solve_effects(M, T, gram, w, e):
        return
    L, r2 = e.factor, e.number[R2]
    f = N * np.log(r2) + log_det
    if reml:
        for a in range(p):
            f += 2.0 * np.log(L[a, a])
    e.number[F] = f
    e.number[NOISE] = 1e-15 * (N * rss / r2 + abs(f))
    solve_lower_transposed(L, e.effect, p)
    weigh(M, w, L)

    R11, R12, R21, R22 = w.R[0], w.R[1], w.R[2], w.R[3]
    C1, C2, C3 = w.Gamma[0], w.Gamma[1], w.Gamma[2]
    u1, u2, X1, X2 = w.u[0], w.u[1], w.x[1], w.x[2]
    for j in range(n):
        X1[j] = T[0, j]
        X2[j] = T[1, j]
    for a in range(p):
        M1, M2, x = M[0, a], M[1, a], e.effect[a]
        for j in range(n):
            X1[j] -= x * M1[j]
            X2[j] -= x * M2[j]
    q1, q2, q3, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    h11, h12, h13, h22, h23, h33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    l11, l12, l13, l22, l23, l33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        x = R11[j] * X1[j] + R21[j] * X2[j]
        y = R12[j] * X1[j] + R22[j] * X2[j]
        u1[j] = x
        u2[j] = y
        c1, c2, c3, m = C1[j], C2[j], C3[j], weight[j]
        q1 -= x * x
        q2 -= 2.0 * x * y
        q3 -= y * y
        t1 += m * c1
        t2 += 2.0 * m * c2
        t3 += m * c3
        mixed = c1 * y + c2 * x
        other = c2 * y + c3 * x
        h11 += x * c1 * x
        h12 += x * mixed
        h13 += c2 * x * y
        h22 += y * mixed + x * other
        h23 += other * y
        h33 += y * c3 * y
        l11 -= m * c1 * c1
        l12 -= 2.0 * m * c1 * c2
        l13 -= m * c2 * c2
        l22 -= 2.0 * m * (c2 * c2 + c1 * c3)
        l23 -= 2.0 * m * c2 * c3
        l33 -= m * c3 * c3
    z11, z12, z13, z22, z23, z33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for a in range(p):
        N1, N2 = w.N[0, a], w.N[1, a]
        s1, s2, s3 = 0.0, 0.0, 0.0
        for j in range(n):
            s1 += N1[j] * u1[j]
            s2 += N1[j] * u2[j] + N2[j] * u1[j]
            s3 += N2[j] * u2[j]
        e.effect_gradient[0, a] = -s1
        e.effect_gradient[1, a] = -s2
        e.effect_gradient[2, a] = -s3
        z11 += s1 * s1
        z12 += s1 * s2
        z13 += s1 * s3
        z22 += s2 * s2
        z23 += s2 * s3
        z33 += s3 * s3
    i = 1.0 / r2
    g, H = e.gradient, e.hessian
    e.r2_gradient[0], e.r2_gradient[1], e.r2_gradient[2] = q1, q2, q3
    g[0], g[1], g[2] = N * q1 * i + t1, N * q2 * i + t2, N * q3 * i + t3
    H[0, 0] = N * (2.0 * (h11 - z11) * i - (q1 * i) * (q1 * i)) + l11
    H[0, 1] = N * (2.0 * (h12 - z12) * i - (q1 * i) * (q2 * i)) + l12
    H[0, 2] = N * (2.0 * (h13 - z13) * i - (q1 * i) * (q3 * i)) + l13
    H[1, 1] = N * (2.0 * (h22 - z22) * i - (q2 * i) * (q2 * i)) + l22
    H[1, 2] = N * (2.0 * (h23 - z23) * i - (q2 * i) * (q3 * i)) + l23
    H[2, 2] = N * (2.0 * (h33 - z33) * i - (q3 * i) * (q3 * i)) + l33
    if reml:
        _add_reml(w, e)
    H[1, 0], H[2, 0], H[2, 1] = H[0, 1], H[0, 2], H[1, 2]


@routine
def find_sensitivity_slope(w: Any, e: Any) -> None:
    """Compute the sensitivity at the last evaluation; N is weighed."""
    p, n = w.N.shape[1], w.N.shape[2]
    for a in range(p):
        N1, N2 = w.N[0, a], w.N[1, a]
        for b in range(a + 1):
            B1, B2 = w.N[0, b], w.N[1, b]
            p1, p2, p3 = 0.0, 0.0, 0.0
            for j in range(n):
                p1 += N1[j] * B1[j]
                p2 += N1[j] * B2[j] + N2[j] * B1[j]
                p3 += N2[j] * B2[j]
            e.sensitivity[0, a, b] = e.sensitivity[0, b, a] = p1
            e.sensitivity[1, a, b] = e.sensitivity[1, b, a] = p2
            e.sensitivity[2, a, b] = e.sensitivity[2, b, a] = p3


@routine
def _add_reml(w: Any, e: Any) -> None:
    """Add the derivatives of log|Q'V^-1 Q| to gradient and Hessian; find the sensitivity."""
    p, n = w.N.shape[1], w.N.shape[2]
    C1, C2, C3 = w.Gamma[0], w.Gamma[1], w.Gamma[2]
    F1, F2, F3 = w.x[0], w.x[1], w.x[2]
    for j in range(n):
        F1[j], F2[j], F3[j] = 0.0, 0.0, 0.0
    for a in range(p):
        N1, N2 = w.N[0, a], w.N[1, a]
        for j in range(n):
            F1[j] += N1[j] * N1[j]
            F2[j] += N1[j] * N2[j]
            F3[j] += N2[j] * N2[j]
    s1, s2, s3 = 0.0, 0.0, 0.0
    x11, x12, x13, x22, x23, x33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        f1, f2, f3 = F1[j], F2[j], F3[j]
        c1, c2, c3 = C1[j], C2[j], C3[j]
        s1 -= f1
        s2 -= 2.0 * f2
        s3 -= f3
        x11 += f1 * c1
        x12 += c1 * f2 + c2 * f1
        x13 += c2 * f2
        x22 += c1 * f3 + 2.0 * c2 * f2 + c3 * f1
        x23 += c2 * f3 + c3 * f2
        x33 += c3 * f3
    y11, y12, y13, y22, y23, y33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    find_sensitivity_slope(w, e)
    for a in range(p):
        for b in range(a + 1):
            p1, p2, p3 = e.sensitivity[0, a, b], e.sensitivity[1, a, b], e.sensitivity[2, a, b]
            m = 1.0 if a == b else 2.0
            y11 += m * p1 * p1
            y12 += m * p1 * p2
            y13 += m * p1 * p3
            y22 += m * p2 * p2
            y23 += m * p2 * p3
            y33 += m * p3 * p3
    g, H = e.gradient, e.hessian
    g[0] += s1
    g[1] += s2
    g[2] += s3
    H[0, 0] += 2.0 * x11 - y11
    H[0, 1] += 2.0 * x12 - y12
    H[0, 2] += 2.0 * x13 - y13
    H[1, 1] += 2.0 * x22 - y22
    H[1, 2] += 2.0 * x23 - y23
    H[2, 2] += 2.0 * x33 - y33


@allocating_routine
def start_slope(G: Any, weight: Any, T: Any, rss: float, N: float, start: Any) -> None:
    """Estimate D by moments at D = I, as if there were no fixed effects.

    MINQUE (C. R. Rao, J. Multivariate Anal. 1, 1971): the expectations of r2 and of
    U = sum u u', u = R'Z'y, are linear in sigma2 and sigma2 D.
    """
    n = G.shape[1]
    r2, u1, u2, u3 = rss, 0.0, 0.0, 0.0
    k1, k2, k3 = 0.0, 0.0, 0.0
    l11, l12, l13, l22, l23, l33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        g1, g2, g3, dg = G[0, j], G[1, j], G[2, j], G[3, j]
        i = 1.0 / (1.0 + g1 + g3 + dg)
        w1, w2, w3 = (1.0 + g3) * i, -g2 * i, (1.0 + g1) * i
        c1, c2, c3 = (g1 + dg) * i, g2 * i, (g3 + dg) * i
        t1, t2 = T[0, j], T[1, j]
        x, y = w1 * t1 + w2 * t2, w2 * t1 + w3 * t2  # R = W at D = I
        r2 -= x * t1 + y * t2
        u1 += x * x
        u2 += x * y
        u3 += y * y
        m = weight[j]
        k1 += m * c1
        k2 += m * c2
        k3 += m * c3
        l11 += m * c1 * c1
        l12 += m * c1 * c2
        l13 += m * c2 * c2
        l22 += m * (c2 * c2 + c1 * c3)
        l23 += m * c2 * c3
        l33 += m * c3 * c3
    # (s2, s2 (D - I)) from [[N, k1, 2 k2, k3], [k, Gamma (D - I) Gamma summed]]; by elimination.
    A = np.empty((4, 5))
    A[0] = np.array([N, k1, 2.0 * k2, k3, r2])
    A[1] = np.array([k1, l11, 2.0 * l12, l13, u1])
    A[2] = np.array([k2, l12, l22, l23, u2])
    A[3] = np.array([k3, l13, 2.0 * l23, l33, u3])
    for a in range(4):
        if not abs(A[a, a]) > 0.0:
            start[0], start[1], start[2] = 1.0, 0.0, 1.0
            return
        for b in range(4):
            if b != a:
                x = A[b, a] / A[a, a]
                for c in range(a, 5):
                    A[b, c] -= x * A[a, c]
    s2 = max(A[0, 4] / A[0, 0], 1e-3 * r2 / N)
    start[0] = 1.0 + A[1, 4] / A[1, 1] / s2
    start[1] = A[2, 4] / A[2, 2] / s2
    start[2] = 1.0 + A[3, 4] / A[3, 3] / s2


class SlopeModel(NamedTuple):
    """One factor with two effects: all that is the same at every voxel."""

    rows: Rows
    shared: Blocks
    S: FloatArray  # (2, 2), the scale of Z
    pick: IntArray  # entries of D that vary: all three, or the diagonal


def make_slope_model(
    factor: RandomFactor, scale: FloatArray, Q: FloatArray, batches: Sequence[slice]
) -> SlopeModel:
    """Prepare the fit; `scale` is what Z is multiplied by, `batches` their observations."""
    rows = group_rows(factor, scale, Q, batches)
    pick = np.arange(3) if factor.correlated else np.array([0, 2])
    return SlopeModel(rows, make_blocks(rows), scale, pick)


class Reduction(NamedTuple):
    """Levels of equal G turned into each other until most of them have no part in Q.

    An orthogonal mixture of levels with the same G changes none of the sums of the deviance.
    Of a class of n levels, r mixtures span all Z'Q, and the others contribute the sum of tt',
    t = Z'y: as much as two levels.  The r + 2 stand for all n.
    """

    G: FloatArray  # (4, n_mixtures)
    M: FloatArray  # (2, n_params, n_mixtures)
    weight: FloatArray  # (n_mixtures,), levels that G stands for in log|V|
    order: IntArray  # (n_levels,), levels with the same G side by side
    start: IntArray  # (n_classes + 1,), first level of each class in `order`
    first: IntArray  # (n_classes + 1,), first mixture of each class
    basis: FloatArray  # (n_mixtures, most levels of a class); no column if nothing is mixed


def reduce_levels(blocks: Blocks) -> Reduction:
    """Find classes of levels with equal G, and the mixtures that stand for them."""
    n = blocks.n_obs.size
    p = blocks.M.shape[1]
    rounded = np.round(blocks.G[:3] / (np.abs(blocks.G[:3]).max() or 1.0), 12)
    _, of_level = np.unique(rounded, axis=1, return_inverse=True)
    order = np.argsort(of_level.reshape(-1), kind="stable")
    counts = np.bincount(of_level.reshape(-1))
    start = np.concatenate([[0], np.cumsum(counts)])
    G, M, weight, rows = [], [], [], []
    first = [0]
    for a, b in pairwise(start):
        levels = order[a:b]
        products = blocks.M[:, :, levels].reshape(2 * p, b - a)
        U, values, _ = np.linalg.svd(products.T, full_matrices=False)
        rank = int((values > 1e-13 * values[0]).sum())
        mixed = rank + 2 < b - a
        basis = U[:, :rank].T if mixed else np.eye(b - a)
        size = len(basis) + 2 * mixed
        part = np.zeros((2, p, size))
        part[:, :, : len(basis)] = blocks.M[:, :, levels] @ basis.T
        G.append(np.repeat(blocks.G[:, levels[:1]], size, axis=1))
        M.append(part)
        weight.append(np.r_[float(b - a), np.zeros(size - 1)] if mixed else np.ones(size))
        rows.append(np.concatenate([basis, np.zeros((2 * mixed, b - a))]))
        if not mixed:
            G[-1] = blocks.G[:, levels]
        first.append(first[-1] + size)
    width = max(row.shape[1] for row in rows)
    basis = np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows])
    return Reduction(
        np.ascontiguousarray(np.concatenate(G, axis=1)),
        np.ascontiguousarray(np.concatenate(M, axis=2)),
        np.concatenate(weight),
        order.astype(np.int64),
        start.astype(np.int64),
        np.array(first, np.int64),
        basis if len(basis) < n else np.zeros((n, 0)),
    )


def _keep_levels(blocks: Blocks) -> Reduction:
    """Return the reduction that leaves every level as it is, whatever its G."""
    n = blocks.n_obs.size
    nothing = np.zeros(0, np.int64)
    return Reduction(blocks.G, blocks.M, np.ones(n), nothing, nothing, nothing, np.zeros((n, 0)))


@routine
def _mix_levels(reduction: Any, full: Any, T: Any) -> None:
    """Compute T = Z'y of the mixtures from that of the levels."""
    for c in range(reduction.first.size - 1):
        a, b = reduction.start[c], reduction.start[c + 1]
        first, last = reduction.first[c], reduction.first[c + 1]
        mixed = last - first < b - a
        if mixed:
            last -= 2
        s11, s12, s22 = 0.0, 0.0, 0.0
        for i in range(a, b):
            x, y = full[0, reduction.order[i]], full[1, reduction.order[i]]
            s11 += x * x
            s12 += x * y
            s22 += y * y
        for i in range(first, last):
            x, y = 0.0, 0.0
            for k in range(a, b):
                z = reduction.basis[i, k - a]
                x += z * full[0, reduction.order[k]]
                y += z * full[1, reduction.order[k]]
            T[0, i] = x
            T[1, i] = y
            s11 -= x * x
            s12 -= x * y
            s22 -= y * y
        if mixed:  # the rest, as a Cholesky factor
            T[0, last] = np.sqrt(max(s11, 0.0))
            T[1, last] = s12 / T[0, last] if T[0, last] > 0.0 else 0.0
            T[0, last + 1] = 0.0
            T[1, last + 1] = np.sqrt(max(s22 - T[1, last] * T[1, last], 0.0))


@kernel
def _load_group(voxels: Any, v: int, model: Any, mark: Any, own: Any) -> None:
    """Compute the blocks of voxel v."""
    load_blocks(model.rows, voxels, v, model.shared, mark, own)


def reduce_group(voxels: Voxels, model: SlopeModel, v: int) -> Reduction | None:
    """Return the reduction for voxels with the same images as v, if it is worth it."""
    own = copy_blocks(model.shared)
    _load_group(voxels, v, model, np.full(own.n_obs.size, -1), own)
    reduction = reduce_levels(own)
    return reduction if 1.5 * reduction.weight.size < own.n_obs.size else None


def fit_slopes(
    voxels: Voxels,
    model: SlopeModel,
    options: MixedOptions,
    starts: FloatArray,
    results: Results,
    reduction: Reduction | None = None,
) -> None:
    """Fit the voxels of `order`; with a reduction they all have the same images."""
    own = copy_blocks(model.shared)
    is_reduced = reduction is not None
    reduction = reduction or _keep_levels(own)
    p, n = len(voxels.effect), reduction.weight.size
    _fit_slopes(
        voxels,
        model,
        options.reml,
        min(TOLERANCE, 2 * options.tol),
        options.maxnit,
        starts,
        make_search([2] if model.pick.size == 3 else [1, 1]),
        own,
        reduction,
        is_reduced,
        make_slope_work(p, n),
        make_evaluation(p, 3),
        results,
    )


@kernel
def _fit_slopes(
    voxels: Any,
    model: Any,
    reml: bool,
    tolerance: float,
    most: int,
    starts: Any,
    search: Any,
    own: Any,
    reduction: Any,
    is_reduced: bool,
    w: Any,
    e: Any,
    results: Any,
) -> None:
    """Fit the voxels one after the other."""
    p, n = voxels.effect.shape[0], own.n_obs.size
    G, M, weight = reduction.G, reduction.M, reduction.weight
    m = model.pick.size
    gram, matrix, row = np.empty((p, p)), np.empty((p, p)), np.empty(p)
    full, T = np.empty((2, n)), np.empty((2, weight.size))
    D, start, packed = np.zeros(4), np.zeros(3), np.zeros(m)
    g, H = np.zeros(m), np.zeros((m, m))
    change, spread = np.zeros(3), np.zeros((3, 3))
    ends, points = np.zeros(3), np.zeros((2, m))
    mark = np.full(n, -1)
    last = -1
    for position in range(voxels.order.size):
        v = voxels.order[position]
        if last < 0 or not has_same_images(voxels.presence, v, last):
            load_blocks(model.rows, voxels, v, model.shared, mark, own)
            load_gram(voxels, v, gram)
            last = v
        if is_reduced:
            load_residuals(voxels, v, model.S, own.M, full)
            _mix_levels(reduction, full, T)
        else:
            load_residuals(voxels, v, model.S, own.M, T)
        rss = voxels.rss[v]
        N = float(voxels.n_obs[v] - (voxels.rank[v] if reml else 0))
        start_slope(G, weight, T, rss, float(voxels.n_obs[v] - voxels.rank[v]), start)
        nit, outcome = 0, GO_ON
        ends[:] = np.inf
        for attempt in range(starts.size + 3):
            if not is_needed(attempt, starts.size, ends):
                break
            rough = attempt < starts.size
            for k in range(m):
                if rough:
                    packed[k] = starts[attempt] if model.pick[k] != 1 else 0.0
                elif attempt == starts.size:
                    packed[k] = start[model.pick[k]]
                else:
                    packed[k] = points[attempt - starts.size - 1, k]
            begin(search, packed)
            outcome = GO_ON
            while outcome == GO_ON and not (rough and is_rough_end(search)):
                for k in range(m):
                    D[model.pick[k]] = search.vector[ENTRIES, k]
                D[3] = (
                    D[0] * D[2] if m == 2 else search.values[NOW, 0, 0] * search.values[NOW, 0, 1]
                )
                evaluate_slope(G, M, weight, T, gram, rss, N, reml, D, w, e)
                for k in range(m):
                    g[k] = e.gradient[model.pick[k]]
                    for i in range(m):
                        H[k, i] = e.hessian[model.pick[k], model.pick[i]]
                outcome = advance(search, e.number[F], e.number[NOISE], g, H, tolerance, N, most)
            nit += count_evaluations(search)
            keep_end(search, outcome, attempt - starts.size, ends, points)
        results.outcome[v] = outcome
        results.nit[v] = nit
        if outcome in (NO_RESIDUAL, UNDEFINED):
            continue
        if not reml:  # with REML every evaluation has it
            find_sensitivity_slope(w, e)
        find_spread(search, g, H)
        change[:] = 0.0
        spread[:] = 0.0
        for k in range(m):
            results.D[model.pick[k], v] = search.vector[ENTRIES, k]
            change[model.pick[k]] = search.vector[CHANGE, k]
            for i in range(m):
                spread[model.pick[k], i] = search.matrix[SPREAD, k, i]
        results.deviance[v] = best_deviance(search)
        write_results(v, e, change, spread, count_spread(search), N, matrix, row, results)
