"""Fit two factors with one effect each, at many voxels that have the same images.

The deviance of `general`, with the levels of the first factor in classes as in `intercept`,
and the log-determinant, which does not depend on the images' values, from a table: a
Chebyshev series in z = log(1 + d) of both variances.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from nipype_blm.core._jit import allocating_routine, kernel, routine
from nipype_blm.core.linalg import FloatArray, packed_size
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
from nipype_blm.core.lmm.general_fit import GeneralModel, load_products
from nipype_blm.core.lmm.intercept import (
    LANES,
    MOST_CLASSES,
    Classes,
    add_up,
    classify_all,
    make_classes,
)
from nipype_blm.core.lmm.levels import (
    Voxels,
    copy_blocks,
    load_blocks,
    load_gram,
)
from nipype_blm.core.lmm.newton import (
    CHANGE,
    ENTRIES,
    GO_ON,
    NO_RESIDUAL,
    SPREAD,
    TOLERANCE,
    UNDEFINED,
    advance,
    begin,
    best_deviance,
    count_evaluations,
    count_spread,
    find_spread,
    make_search,
)

# 32 nodes on z up to 6 (d = 402) leave errors of 1e-11 in the log-determinant, 1e-9 in its
# gradient and 1e-7 in its Hessian (200 by 20 levels).  Beyond, it is computed directly.
N_NODES = 32
LARGEST_Z = 6.0


class CrossedGroup(NamedTuple):
    """Voxels with the same images: the products of these, and the table."""

    classes: Classes
    M: FloatArray  # (k, n_levels), z'[Z2 Q] of the levels of the first factor
    BtB: FloatArray  # (packed,), of [Z2 Q]
    QtZ: FloatArray  # (p, s), Q'Z2
    table: FloatArray  # (N_NODES, N_NODES), Chebyshev coefficients


class CrossedWork(NamedTuple):
    """Workspace for k columns of [Z2 Q]."""

    A: FloatArray  # (3, packed), A and its derivatives in the first variance
    H: FloatArray  # (k, k), Cholesky factor of Lambda'A Lambda + diag(I, 0)
    c: FloatArray  # (3, k), the column of y in A and its derivatives
    x: FloatArray  # (7, k)
    log_det: FloatArray  # (6,), value, gradient and Hessian of the log-determinant
    series: FloatArray  # (6, N_NODES)


def fit_crossed(
    voxels: Voxels,
    model: GeneralModel,
    group: CrossedGroup,
    options: MixedOptions,
    results: Results,
) -> None:
    """Fit the voxels of `order`, which all have the images of the group."""
    p, k = len(voxels.effect), len(group.M)
    work = _make_work(k)
    classes = group.classes
    own = classes._replace(syy=classes.syy.copy(), sxy=classes.sxy.copy())
    _fit_crossed(
        voxels,
        model.first_row,
        model.scale[:, 0, 0].copy(),
        group.M,
        group.BtB,
        group.QtZ,
        group.table,
        options.reml,
        min(TOLERANCE, 2 * options.tol),
        options.maxnit,
        own,
        make_search([1, 1]),
        work,
        make_evaluation(p, 2),
        results,
    )


def _make_work(k: int) -> CrossedWork:
    return CrossedWork(
        np.zeros((3, packed_size(k))),
        np.zeros((k, k)),
        np.zeros((3, k)),
        np.zeros((7, k)),
        np.zeros(6),
        np.zeros((6, N_NODES)),
    )


def make_group(voxels: Voxels, model: GeneralModel, v: int, reml: bool) -> CrossedGroup | None:
    """Prepare the fit of voxels that have the same images as voxel v.

    Returns None where the general way is the better one: with many classes of levels.
    """
    p, k = len(voxels.effect), len(model.BtB)
    blocks = copy_blocks(model.shared)
    n = blocks.n_obs.size
    BtB = np.zeros((k + 1, k + 1))
    _load(voxels, model, v, blocks, np.full(n, -1), np.zeros((p, p)), BtB)
    by_count = bool((np.abs(model.rows.Z) == np.abs(model.rows.Z[0])).all())
    n_classes = int(model.shared.n_obs.max()) + 1 if by_count else n
    if n_classes > MOST_CLASSES:
        return None
    full, BtB = BtB, BtB[np.tril_indices(k)]
    classes = make_classes(n, n_classes, k)
    classify_all(blocks, by_count, classes)
    nodes = np.cos(np.pi * (np.arange(N_NODES) + 0.5) / N_NODES)
    values = np.zeros((N_NODES, N_NODES))
    m = k if reml else k - p
    z = (nodes + 1) * LARGEST_Z / 2
    _tabulate(classes, BtB, np.zeros((k, k)), m, k - p, z, values)
    basis = np.linalg.inv(chebyshev.chebvander(nodes, N_NODES - 1))
    table = basis @ values @ basis.T
    QtZ = np.ascontiguousarray(full[k - p : k, : k - p])
    return CrossedGroup(classes, blocks.M[0], BtB, QtZ, np.ascontiguousarray(table))


@kernel
def _load(voxels: Any, model: Any, v: int, blocks: Any, mark: Any, gram: Any, BtB: Any) -> None:
    load_blocks(model.rows, voxels, v, model.shared, mark, blocks)
    load_gram(voxels, v, gram)
    load_products(model, voxels, v, gram, BtB)


@routine
def _set_up(classes: Any, BtB: Any, d1: float, A: Any) -> None:
    """Compute A and its derivatives in d1, packed; `BtB` is packed too."""
    A0, A1, A2 = A[0], A[1], A[2]
    for k in range(BtB.size):
        A0[k] = BtB[k]
        A1[k] = 0.0
        A2[k] = 0.0
    for c in range(classes.size.size):
        if classes.size[c] == 0.0:
            continue
        g, S = classes.g[c], classes.Sxx[c]
        i = 1.0 / (1.0 + d1 * g)
        w0, w1, w2 = d1 * i, i * i, -2.0 * g * i * i * i
        for k in range(BtB.size):
            x = S[k]
            A0[k] -= w0 * x
            A1[k] -= w1 * x
            A2[k] -= w2 * x


@routine
def _factorise(A: Any, s: int, d2: float, H: Any) -> bool:
    """Write the Cholesky factor of Lambda'A Lambda + diag(I, 0)."""
    k = H.shape[0]
    root = np.sqrt(d2)
    position = 0
    for a in range(k):
        row, source = H[a], A[position:]
        x = root if a < s else 1.0
        y = x * root
        for b in range(min(a + 1, s)):
            row[b] = source[b] * y
        for b in range(s, a + 1):
            row[b] = source[b] * x
        if a < s:
            row[a] += 1.0
        position += a + 1
    return bool(cholesky(H, k))


@routine
def _log_det_levels(classes: Any, d1: float) -> float:
    total = 0.0
    for c in range(classes.size.size):
        if classes.size[c] > 0.0:
            total += classes.size[c] * np.log1p(d1 * classes.g[c])
    return total


@kernel
def _tabulate(classes: Any, BtB: Any, H: Any, m: int, s: int, z: Any, out: Any) -> None:
    """Compute log|V| (m = s), or that and log|Q'V^-1 Q| (m = k), at all pairs of z."""
    A = np.zeros((3, BtB.size))
    for i in range(z.size):
        d1 = np.expm1(z[i])
        _set_up(classes, BtB, d1, A)
        levels = _log_det_levels(classes, d1)
        for j in range(z.size):
            _factorise(A[0], s, np.expm1(z[j]), H)
            total = levels
            for a in range(m):
                total += 2.0 * np.log(H[a, a])
            out[i, j] = total


@routine
def _fill_series(z: float, values: Any) -> None:
    """Compute the Chebyshev polynomials at z and their first two derivatives in z."""
    t, scale = z * 2.0 / LARGEST_Z - 1.0, 2.0 / LARGEST_Z
    T, first, second = values[0], values[1], values[2]
    T[0], first[0], second[0] = 1.0, 0.0, 0.0
    T[1], first[1], second[1] = t, scale, 0.0
    for i in range(2, T.size):
        T[i] = 2.0 * t * T[i - 1] - T[i - 2]
        first[i] = 2.0 * (scale * T[i - 1] + t * first[i - 1]) - first[i - 2]
        second[i] = 2.0 * (2.0 * scale * first[i - 1] + t * second[i - 1]) - second[i - 2]


@routine
def _look_up(table: Any, d1: float, d2: float, w: Any) -> None:
    """Compute the log-determinant and its derivatives in d1 and d2 from the table."""
    z1, z2 = np.log1p(d1), np.log1p(d2)
    _fill_series(z1, w.series[:3])
    _fill_series(z2, w.series[3:])
    s = w.series
    f, f1, f2, f11, f12, f22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(table.shape[0]):
        row = table[i]
        x, x1, x2 = 0.0, 0.0, 0.0
        for j in range(row.size):
            x += row[j] * s[3, j]
            x1 += row[j] * s[4, j]
            x2 += row[j] * s[5, j]
        f += s[0, i] * x
        f1 += s[1, i] * x
        f2 += s[0, i] * x1
        f11 += s[2, i] * x
        f12 += s[1, i] * x1
        f22 += s[0, i] * x2
    b1, b2 = 1.0 + d1, 1.0 + d2
    w.log_det[0] = f
    w.log_det[1] = f1 / b1
    w.log_det[2] = f2 / b2
    w.log_det[3] = (f11 - f1) / (b1 * b1)
    w.log_det[4] = f12 / (b1 * b2)
    w.log_det[5] = (f22 - f2) / (b2 * b2)


@allocating_routine
def _compute_log_det(classes: Any, s: int, m: int, d1: float, d2: float, w: Any) -> None:
    """Compute the same directly; A and H are there, their lower triangles."""
    k = w.H.shape[0]
    value, f1, f11 = 0.0, 0.0, 0.0
    for c in range(classes.size.size):
        if classes.size[c] > 0.0:
            i = classes.g[c] / (1.0 + d1 * classes.g[c])
            value += classes.size[c] * np.log1p(d1 * classes.g[c])
            f1 += classes.size[c] * i
            f11 -= classes.size[c] * i * i
    for a in range(m):
        value += 2.0 * np.log(w.H[a, a])
    A = np.empty((3, k, k))
    for i in range(3):
        position = 0
        for a in range(k):
            for b in range(a + 1):
                A[i, a, b] = w.A[i, position]
                A[i, b, a] = w.A[i, position]
                position += 1
    root = np.sqrt(d2)
    half = np.zeros((m, k))  # L^-1 Lambda', of the leading m rows and columns
    for a in range(m):
        half[a, a] = 1.0
    for b in range(m):
        for a in range(b, m):
            x = 1.0 if a == b else 0.0
            for c in range(b, a):
                x -= w.H[a, c] * half[c, b]
            half[a, b] = x / w.H[a, a]
    for a in range(m):
        for b in range(s):
            half[a, b] *= root
    phi = np.dot(half.T, half)
    phi_A1 = np.dot(phi, A[1])
    A2 = np.ascontiguousarray(A[0, :, :s])
    phi_A2 = np.dot(phi, A2)
    T = A2[:s] - np.dot(A2.T, phi_A2)
    omega = -phi_A2
    for a in range(s):
        omega[a, a] += 1.0
    mixed = np.dot(A[1], omega)
    w.log_det[0] = value
    w.log_det[1] = f1 + np.trace(phi_A1)
    w.log_det[2] = np.trace(T)
    w.log_det[3] = f11 + (phi * A[2]).sum() - (phi_A1 * phi_A1.T).sum()
    w.log_det[4] = (omega * mixed).sum()
    w.log_det[5] = -(T * T).sum()


@routine
def _multiply(A: Any, x: Any, out: Any) -> None:
    """Compute A x of a packed symmetric A."""
    for a in range(x.size):
        out[a] = 0.0
    position = 0
    for a in range(x.size):
        row, y, total = A[position:], x[a], 0.0
        for b in range(a):
            total += row[b] * x[b]
            out[b] += y * row[b]
        out[a] += total + row[a] * y
        position += a + 1


@routine
def _apply_phi(H: Any, s: int, root: float, x: Any) -> None:
    """Replace x by Lambda H^-1 Lambda' x."""
    k = x.size
    for a in range(s):
        x[a] *= root
    solve_lower(H, x, k)
    solve_lower_transposed(H, x, k)
    for a in range(s):
        x[a] *= root


@allocating_routine
def _evaluate(
    classes: Any,
    BtB: Any,
    table: Any,
    rss: float,
    c: Any,
    t: int,
    d1: float,
    d2: float,
    N: float,
    reml: bool,
    w: Any,
    e: Any,
) -> None:
    """Evaluate the deviance of lane t and its derivatives; `c` (k,) is [Z2 Q]'e."""
    k, s = w.H.shape[0], w.H.shape[0] - e.effect.size
    e.number[F] = np.inf
    solved, q1, q11 = _solve(classes, BtB, rss, c, t, d1, d2, w, e)
    if not solved:
        return
    if np.log1p(d1) <= LARGEST_Z and np.log1p(d2) <= LARGEST_Z:
        _look_up(table, d1, d2, w)
    else:
        _compute_log_det(classes, s, k if reml else s, d1, d2, w)
    _differentiate(rss, q1, q11, d2, N, w, e)


@routine
def _solve(
    classes: Any,
    BtB: Any,
    rss: float,
    c: Any,
    t: int,
    d1: float,
    d2: float,
    w: Any,
    e: Any,
) -> tuple[bool, float, float]:
    """Compute the coefficients of [Z2 Q] and r2; return y's part of r2's derivatives in d1."""
    k, p = w.H.shape[0], e.effect.size
    s = k - p
    _set_up(classes, BtB, d1, w.A)
    if not _factorise(w.A[0], s, d2, w.H):
        return False, 0.0, 0.0
    c0, c1, c2 = w.c[0], w.c[1], w.c[2]
    for a in range(k):
        c0[a] = c[a]
        c1[a] = 0.0
        c2[a] = 0.0
    r2, q1, q11 = rss, 0.0, 0.0
    for i in range(classes.size.size):
        if classes.size[i] == 0.0:
            continue
        g = classes.g[i]
        x = 1.0 / (1.0 + d1 * g)
        w0, w1, w2 = d1 * x, x * x, -2.0 * g * x * x * x
        y = classes.syy[i, t]
        r2 -= w0 * y
        q1 -= w1 * y
        q11 -= w2 * y
        for a in range(k):
            y = classes.sxy[i, a, t]
            c0[a] -= w0 * y
            c1[a] -= w1 * y
            c2[a] -= w2 * y
    root = np.sqrt(d2)
    coefficients, fitted = w.x[0], w.x[6]
    for a in range(k):
        coefficients[a] = c0[a] * (root if a < s else 1.0)
    solve_lower(w.H, coefficients, k)
    solve_lower_transposed(w.H, coefficients, k)
    for a in range(s):
        r2 += coefficients[a] * coefficients[a]
        coefficients[a] *= root
    # At the minimum, where errors of the coefficients count only squared; see `general`.
    _multiply(w.A[0], coefficients, fitted)
    for a in range(k):
        r2 += coefficients[a] * (fitted[a] - 2.0 * c0[a])
    e.number[R2] = r2
    return r2 > 0.0, q1, q11


@routine
def _differentiate(rss: float, q1: float, q11: float, d2: float, N: float, w: Any, e: Any) -> None:
    """Compute the deviance and its derivatives from what `_solve` left and the log-determinant."""
    k, p = w.H.shape[0], e.effect.size
    s = k - p
    r2, root = e.number[R2], np.sqrt(d2)
    c0, c1, c2 = w.c[0], w.c[1], w.c[2]
    coefficients, product, h1, moved, score, x2 = w.x[0], w.x[1], w.x[2], w.x[3], w.x[4], w.x[5]
    fitted = w.x[6]
    f = N * np.log(r2) + w.log_det[0]
    e.number[F] = f
    e.number[NOISE] = 1e-15 * (N * rss / r2 + abs(f))
    # With v = (-coefficients, 1): v'A1 v, v'A2 v, and h = (A1 v) of [Z2 Q].
    _multiply(w.A[1], coefficients, product)
    for a in range(k):
        q1 += coefficients[a] * (product[a] - 2.0 * c1[a])
        h1[a] = c1[a] - product[a]
    _multiply(w.A[2], coefficients, product)
    for a in range(k):
        q11 += coefficients[a] * (product[a] - 2.0 * c2[a])
    for a in range(k):
        moved[a] = h1[a]
    _apply_phi(w.H, s, root, moved)
    for a in range(k):
        q11 -= 2.0 * h1[a] * moved[a]
    q2 = 0.0
    for a in range(k):
        score[a] = c0[a] - fitted[a] if a < s else 0.0  # Z2'P y
        q2 -= score[a] * score[a]
    _multiply(w.A[0], moved, product)
    q12 = 0.0
    for a in range(s):
        q12 -= 2.0 * score[a] * (h1[a] - product[a])
    for i in range(p):
        e.effect[i] = coefficients[s + i]
        for j in range(i + 1):
            e.factor[i, j] = w.H[s + i, s + j]
    for i in range(p):
        x = 0.0
        for j in range(i, p):
            x += e.factor[j, i] * moved[s + j]
        e.effect_gradient[0, i] = x
    _multiply(w.A[0], score, product)  # [Z2 Q]'V1^-1 Z2 score
    q22 = 0.0
    for a in range(s):
        q22 += 2.0 * score[a] * product[a]
    for a in range(k):
        x2[a] = product[a]
    _apply_phi(w.H, s, root, x2)
    for a in range(k):
        q22 -= 2.0 * product[a] * x2[a]
    for i in range(p):
        x = 0.0
        for j in range(i, p):
            x -= e.factor[j, i] * x2[s + j]
        e.effect_gradient[1, i] = x
    e.r2_gradient[0], e.r2_gradient[1] = q1, q2
    g, H = e.gradient, e.hessian
    g[0] = N * q1 / r2 + w.log_det[1]
    g[1] = N * q2 / r2 + w.log_det[2]
    H[0, 0] = N * (q11 / r2 - (q1 / r2) * (q1 / r2)) + w.log_det[3]
    H[0, 1] = N * (q12 / r2 - (q1 / r2) * (q2 / r2)) + w.log_det[4]
    H[1, 1] = N * (q22 / r2 - (q2 / r2) * (q2 / r2)) + w.log_det[5]
    H[1, 0] = H[0, 1]


@routine
def _find_sensitivity(s: int, d2: float, columns: Any, w: Any, e: Any) -> None:
    """Compute the sensitivity at the last evaluation: L'dC L of C = (Q'V^-1 Q)^-1."""
    k, p = w.H.shape[0], e.effect.size
    root = np.sqrt(d2)
    for i in range(p):  # Phi of the columns of Q, times L: Lambda L'^-1 of the last rows
        x = columns[i]
        for a in range(k):
            x[a] = 0.0
        x[s + i] = 1.0
        solve_lower_transposed(w.H, x, k)
        for a in range(s):
            x[a] *= root
    product = w.x[0]
    for i in range(p):
        _multiply(w.A[1], columns[i], product)
        for j in range(i + 1):
            x = 0.0
            for a in range(k):
                x -= product[a] * columns[j, a]
            e.sensitivity[0, i, j] = x
            e.sensitivity[0, j, i] = x
    for i in range(p):  # Z2'V^-1 Q C L
        _multiply(w.A[0], columns[i], product)
        for a in range(k):
            columns[i, a] = product[a]
    for i in range(p):
        for j in range(i + 1):
            x = 0.0
            for a in range(s):
                x += columns[i, a] * columns[j, a]
            e.sensitivity[1, i, j] = x
            e.sensitivity[1, j, i] = x


@routine
def _estimate_start(N: float, w: Any, e: Any, start: Any) -> None:
    """Estimate D by moments from an evaluation at D = I (MINQUE; C. R. Rao, 1971)."""
    r2 = e.number[R2]
    t1, t2 = w.log_det[1], w.log_det[2]
    a11, a12, a22 = -w.log_det[3], -w.log_det[4], -w.log_det[5]
    a11, a12, a22 = a11 - t1 * t1 / N, a12 - t1 * t2 / N, a22 - t2 * t2 / N
    x1, x2 = -e.r2_gradient[0] - t1 * r2 / N, -e.r2_gradient[1] - t2 * r2 / N
    det = a11 * a22 - a12 * a12
    start[0], start[1] = 1.0, 1.0
    if det > 1e-12 * a11 * a22:
        y1, y2 = (a22 * x1 - a12 * x2) / det, (a11 * x2 - a12 * x1) / det
        s2 = max(r2 - t1 * y1 - t2 * y2, 1e-3 * r2) / N
        start[0] += y1 / s2
        start[1] += y2 / s2


@kernel
def _fit_crossed(
    voxels: Any,
    first_row: Any,
    scale: Any,
    M: Any,
    BtB: Any,
    QtZ: Any,
    table: Any,
    reml: bool,
    tolerance: float,
    most: int,
    classes: Any,
    search: Any,
    w: Any,
    e: Any,
    results: Any,
) -> None:
    """Fit the voxels, several at once."""
    k, n = M.shape
    p = voxels.effect.shape[0]
    s = k - p
    T, c = np.empty((n, LANES)), np.zeros(k)
    start, columns = np.zeros(2), np.zeros((p, k))
    matrix, row = np.empty((p, p)), np.empty(p)
    n_voxels = voxels.order.size
    for first in range(0, n_voxels, LANES):
        n_lanes = min(LANES, n_voxels - first)
        add_up(voxels, first, n_lanes, first_row[0], scale[0], M, classes, T)
        for t in range(n_lanes):
            v = voxels.order[first + t]
            rss = voxels.rss[v]
            N = float(voxels.n_obs[v] - (voxels.rank[v] if reml else 0))
            for a in range(s):
                x = scale[1] * voxels.ZtY[first_row[1] + a, v]
                for b in range(p):
                    x -= QtZ[b, a] * voxels.effect[b, v]
                c[a] = x
            _evaluate(classes, BtB, table, rss, c, t, 1.0, 1.0, N, reml, w, e)
            if not e.number[F] < np.inf:
                results.outcome[v] = UNDEFINED
                continue
            _estimate_start(N, w, e, start)
            begin(search, start)
            outcome = GO_ON
            while outcome == GO_ON:
                d1, d2 = search.vector[ENTRIES, 0], search.vector[ENTRIES, 1]
                _evaluate(classes, BtB, table, rss, c, t, d1, d2, N, reml, w, e)
                outcome = advance(
                    search,
                    e.number[F],
                    e.number[NOISE],
                    e.gradient,
                    e.hessian,
                    tolerance,
                    N,
                    most,
                )
            results.outcome[v] = outcome
            results.nit[v] = 1 + count_evaluations(search)
            if outcome in (NO_RESIDUAL, UNDEFINED):
                continue
            results.deviance[v] = best_deviance(search)
            results.D[0, v], results.D[1, v] = search.vector[ENTRIES, 0], search.vector[ENTRIES, 1]
            find_spread(search, e.gradient, e.hessian)
            _find_sensitivity(s, d2, columns, w, e)
            write_results(
                v,
                e,
                search.vector[CHANGE],
                search.matrix[SPREAD],
                count_spread(search),
                N,
                matrix,
                row,
                results,
            )
