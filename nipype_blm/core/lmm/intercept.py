"""Fit one factor with one random effect per level, from sums over classes of levels.

Levels with the same g = z'z (the same number of images, for a random intercept) enter the
deviance only through sums over them: with M = z'[Q y] of a level and w = d / (1 + d g),

    [Q y]'V^-1 [Q y] = [Q y]'[Q y] - sum_c w_c S_c,    S_c = sum of M'M over class c.

So the cost of an evaluation depends neither on the images nor on the levels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core._jit import allocating_routine, inline, kernel, routine
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray, packed_size
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.lmm.evaluation import (
    R2,
    Results,
    cholesky,
    invert_lower,
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
    make_blocks,
)
from nipype_blm.core.lmm.newton import (
    BOUNDARY,
    INTERIOR,
    NO_RESIDUAL,
    STUCK,
    TOLERANCE,
    UNDEFINED,
    UNRELIABLE,
)

LANES = 16  # voxels whose sums are taken at once
MOST_CLASSES = 64  # with more different counts than this, each level is a class of its own
LONGEST_UNSEEN = 0.01  # of steps in log(1 + d) that are taken without another evaluation
LARGEST = 60.0  # of log(1 + d): d = 1e26 is beyond what doubles can tell from infinity


class InterceptModel(NamedTuple):
    """All that is the same at every voxel."""

    rows: Rows
    shared: Blocks
    scale: float  # what Z is multiplied by
    by_count: bool  # levels with equal numbers of images are a class


class Classes(NamedTuple):
    """Levels of the same g at one voxel; `size` is 0 where there is none."""

    of_level: IntArray  # (n_levels,)
    g: FloatArray  # (n_classes,)
    size: FloatArray  # (n_classes,), levels
    Sxx: FloatArray  # (n_classes, packed)
    syy: FloatArray  # (n_classes, LANES)
    sxy: FloatArray  # (n_classes, n_params, LANES)


def make_intercept_model(
    factor: RandomFactor, scale: FloatArray, Q: FloatArray, batches: Sequence[slice]
) -> InterceptModel:
    """Prepare the fit; `scale` is what Z is multiplied by, `batches` their observations."""
    rows = group_rows(factor, scale, Q, batches)
    shared = make_blocks(rows)
    size = np.abs(factor.Z)
    by_count = bool((size == size[0]).all()) and shared.n_obs.max() < MOST_CLASSES
    return InterceptModel(rows, shared, float(scale[0, 0]), by_count)


def fit_intercepts(
    voxels: Voxels,
    model: InterceptModel,
    options: MixedOptions,
    starts: FloatArray,
    results: Results,
) -> None:
    """Fit the voxels of `order`; `starts` are further starting values of d."""
    p, n = len(voxels.effect), model.shared.n_obs.size
    n_classes = int(model.shared.n_obs.max()) + 1 if model.by_count else n
    complete = make_classes(n, n_classes, p)
    classify_all(model.shared, model.by_count, complete)
    _fit_intercepts(
        voxels,
        model.rows,
        model.shared,
        model.scale,
        model.by_count,
        options.reml,
        min(TOLERANCE, 2 * options.tol),
        options.maxnit,
        starts,
        copy_blocks(model.shared),
        complete,
        make_classes(n, n_classes, p),
        make_evaluation(p, 1),
        results,
    )


def make_classes(n_levels: int, n_classes: int, n_params: int) -> Classes:
    """Return classes to be filled."""
    return Classes(
        np.zeros(n_levels, np.int64),
        np.zeros(n_classes),
        np.zeros(n_classes),
        np.zeros((n_classes, packed_size(n_params))),
        np.zeros((n_classes, LANES)),
        np.zeros((n_classes, n_params, LANES)),
    )


@inline
def _add_level(j: int, sign: float, blocks: Any, by_count: bool, column: Any, classes: Any) -> None:
    """Add a level to its class, or take it away; `column` (p,) is workspace."""
    if blocks.n_obs[j] == 0:
        classes.of_level[j] = -1
        return
    c = blocks.n_obs[j] if by_count else j
    classes.of_level[j] = c
    classes.g[c] = blocks.G[0, j]
    classes.size[c] += sign
    S, M = classes.Sxx[c], blocks.M[0]
    for a in range(column.size):  # once, since its values are far apart
        column[a] = M[a, j]
    position = 0
    for a in range(column.size):
        x = sign * column[a]
        for b in range(a + 1):
            S[position] += x * column[b]
            position += 1


@kernel
def classify_all(blocks: Any, by_count: bool, classes: Any) -> None:
    """Sort all levels into classes, and add up Q'z z'Q of each class."""
    column = np.empty(blocks.M.shape[1])
    classes.size[:] = 0.0
    classes.Sxx[:] = 0.0
    for j in range(blocks.n_obs.size):
        _add_level(j, 1.0, blocks, by_count, column, classes)


@allocating_routine
def _classify(
    v: int,
    shared: Any,
    own: Any,
    mark: Any,
    by_count: bool,
    anew: bool,
    complete: Any,
    classes: Any,
) -> None:
    """Sort the levels of voxel v into classes: those that lack something change theirs.

    With `anew` the others may differ from `shared`, too.
    """
    n, column = own.n_obs.size, np.empty(own.M.shape[1])
    n_changed = 0
    for j in range(n):
        n_changed += mark[j] == v
    few = 2 * n_changed < n and not anew
    if few:
        classes.of_level[:] = complete.of_level
        classes.g[:] = complete.g
        classes.size[:] = complete.size
        classes.Sxx[:] = complete.Sxx
    else:
        classes.size[:] = 0.0
        classes.Sxx[:] = 0.0
    for j in range(n):
        if few and mark[j] == v:
            _add_level(j, -1.0, shared, by_count, column, classes)
    for j in range(n):
        if mark[j] == v or not few:
            _add_level(j, 1.0, own, by_count, column, classes)


@allocating_routine
def add_up(
    voxels: Any, first: int, n_lanes: int, row: int, scale: float, M: Any, classes: Any, T: Any
) -> None:
    """Add up the products with y of several voxels that have the same images.

    M (k, n_levels) is z'B of the levels, the columns of Q last; Z'y begins at `row`.
    """
    k, n = M.shape
    p = voxels.effect.shape[0]
    classes.syy[:] = 0.0
    classes.sxy[:] = 0.0
    gamma = np.empty((p, n_lanes))
    for t in range(n_lanes):
        for a in range(p):
            gamma[a, t] = voxels.effect[a, voxels.order[first + t]]
    for j in range(n):
        c = classes.of_level[j]
        if c < 0:
            continue
        y, squares = T[j], classes.syy[c]
        for t in range(n_lanes):
            y[t] = scale * voxels.ZtY[row + j, voxels.order[first + t]]
        for a in range(p):
            x, known = M[k - p + a, j], gamma[a]
            for t in range(n_lanes):
                y[t] -= x * known[t]
        for t in range(n_lanes):
            squares[t] += y[t] * y[t]
        for a in range(k):
            x, sums = M[a, j], classes.sxy[c, a]
            for t in range(n_lanes):
                sums[t] += x * y[t]


@routine
def _add_up_one(voxels: Any, v: int, scale: float, blocks: Any, classes: Any, y: Any) -> None:
    """Do as `add_up` for one voxel, with the levels innermost."""
    p, n = blocks.M.shape[1], blocks.M.shape[2]
    for c in range(classes.size.size):
        classes.syy[c, 0] = 0.0
        for a in range(p):
            classes.sxy[c, a, 0] = 0.0
    for j in range(n):
        y[j] = scale * voxels.ZtY[j, v]
    for a in range(p):
        x, row = voxels.effect[a, v], blocks.M[0, a]
        for j in range(n):
            y[j] -= x * row[j]
    for j in range(n):
        if classes.of_level[j] >= 0:
            classes.syy[classes.of_level[j], 0] += y[j] * y[j]
    for a in range(p):
        row = blocks.M[0, a]
        for j in range(n):
            if classes.of_level[j] >= 0:
                classes.sxy[classes.of_level[j], a, 0] += row[j] * y[j]


@routine
def _evaluate(
    classes: Any,
    gram: Any,
    rss: float,
    t: int,
    d: float,
    N: float,
    reml: bool,
    A: Any,
    row: Any,
    e: Any,
) -> bool:
    """Evaluate gradient and Hessian of the deviance of lane t; False where undefined.

    `A` (3, packed) and `row` (p,) are workspace; A is Q'V^-1 Q and its derivatives in d.
    """
    p = gram.shape[0]
    A0, A1, A2 = A[0], A[1], A[2]
    position = 0
    for a in range(p):
        e.effect[a] = 0.0
        e.effect_gradient[0, a] = 0.0
        row[a] = 0.0
        for b in range(a + 1):
            A0[position] = gram[a, b]
            A1[position] = 0.0
            A2[position] = 0.0
            position += 1
    r2, q1, q2, l1, l2 = rss, 0.0, 0.0, 0.0, 0.0
    for c in range(classes.size.size):
        m = classes.size[c]
        if m == 0.0:
            continue
        g = classes.g[c]
        i = 1.0 / (1.0 + d * g)
        w, w1, w2 = d * i, i * i, -2.0 * g * i * i * i
        l1 += m * g * i
        l2 -= m * g * g * i * i
        S = classes.Sxx[c]
        for k in range(S.size):
            x = S[k]
            A0[k] -= w * x
            A1[k] -= w1 * x
            A2[k] -= w2 * x
        x = classes.syy[c, t]
        r2 -= w * x
        q1 -= w1 * x
        q2 -= w2 * x
        for a in range(p):
            x = classes.sxy[c, a, t]
            e.effect[a] -= w * x
            e.effect_gradient[0, a] -= w1 * x
            row[a] -= w2 * x
    L = e.factor
    position = 0
    for a in range(p):
        for b in range(a + 1):
            L[a, b] = A0[position]
            position += 1
    if not cholesky(L, p):
        return False
    b = e.effect
    solve_lower(L, b, p)
    for a in range(p):
        r2 -= b[a] * b[a]
    e.number[R2] = r2
    if not r2 > 0.0:
        return False
    solve_lower_transposed(L, b, p)
    h = e.effect_gradient[0]  # A1 (-b, 1), then L^-1 of it
    position = 0
    for a in range(p):
        q1 -= 2.0 * b[a] * h[a]
        q2 -= 2.0 * b[a] * row[a]
    for a in range(p):
        for k in range(a):
            x, y = A1[position], A2[position]
            h[a] -= x * b[k]
            h[k] -= x * b[a]
            q1 += 2.0 * x * b[a] * b[k]
            q2 += 2.0 * y * b[a] * b[k]
            position += 1
        h[a] -= A1[position] * b[a]
        q1 += A1[position] * b[a] * b[a]
        q2 += A2[position] * b[a] * b[a]
        position += 1
    solve_lower(L, h, p)
    for a in range(p):
        q2 -= 2.0 * h[a] * h[a]
    e.r2_gradient[0] = q1
    e.gradient[0] = N * q1 / r2 + l1
    e.hessian[0, 0] = N * (q2 / r2 - (q1 / r2) * (q1 / r2)) + l2
    if reml:
        _add_reml(A1, A2, row, e)
    return True


@routine
def _find_sensitivity(A1: Any, row: Any, e: Any) -> None:
    """Compute the sensitivity -L^-1 A1 L'^-1, and L^-1."""
    p = e.effect.size
    X, inverse = e.sensitivity[0], e.inverse
    invert_lower(e.factor, p, inverse)
    for i in range(p):
        for k in range(p):
            x = 0.0
            for a in range(i + 1):
                high, low = max(a, k), min(a, k)
                x -= inverse[i, a] * A1[high * (high + 1) // 2 + low]
            row[k] = x
        for j in range(i + 1):
            x = 0.0
            for k in range(j + 1):
                x += row[k] * inverse[j, k]
            X[i, j] = x
            X[j, i] = x


@routine
def _add_reml(A1: Any, A2: Any, row: Any, e: Any) -> None:
    """Add the derivatives of log|Q'V^-1 Q|."""
    p = e.effect.size
    _find_sensitivity(A1, row, e)
    X, inverse = e.sensitivity[0], e.inverse
    g, H = 0.0, 0.0
    position = 0
    for i in range(p):
        g -= X[i, i]
        for j in range(i + 1):
            x = 0.0
            for k in range(i, p):
                x += inverse[k, i] * inverse[k, j]
            weight = 1.0 if i == j else 2.0
            H += weight * (x * A2[position] - X[i, j] * X[i, j])
            position += 1
    e.gradient[0] += g
    e.hessian[0, 0] += H


@routine
def _start(classes: Any, rss: float, t: int, n_obs: float) -> float:
    """Return log(1 + d) by analysis of variance, exact for balanced designs.

    1, where levels have one image each and nothing is within them.
    """
    between, n_levels = 0.0, 0.0
    for c in range(classes.size.size):
        if classes.size[c] > 0.0:
            between += classes.syy[c, t] / classes.g[c]
            n_levels += classes.size[c]
    if n_obs <= n_levels:
        return 1.0
    within = max(rss - between, 1e-12 * rss) / (n_obs - n_levels)
    ratio = between / n_levels / within
    return float(np.log(ratio)) if ratio > 1.001 else 1e-3


@routine
def _mean_square(classes: Any) -> float:
    """Return the mean of g over all levels."""
    total, n_levels = 0.0, 0.0
    for c in range(classes.size.size):
        total += classes.g[c] * classes.size[c]
        n_levels += classes.size[c]
    return float(total / n_levels)


@routine
def _find_deviance(classes: Any, d: float, decrement: float, N: float, reml: bool, e: Any) -> float:
    """Return the deviance where a search has ended, after its last step."""
    f = N * np.log(e.number[R2]) - 0.5 * decrement
    for c in range(classes.size.size):
        if classes.size[c] > 0.0:
            f += classes.size[c] * np.log1p(d * classes.g[c])
    if reml:
        for a in range(e.effect.size):
            f += 2.0 * np.log(e.factor[a, a])
    return float(f)


@routine
def _search(
    classes: Any,
    gram: Any,
    rss: float,
    t: int,
    N: float,
    reml: bool,
    tolerance: float,
    most: int,
    z: float,
    A: Any,
    row: Any,
    e: Any,
) -> tuple[int, int, float, float, float]:
    """Find a minimum in z = log(1 + d g), g the mean; bracketed Newton steps.

    The deviance of a balanced design is convex in z (and z = 0 a bound like any other).  The
    search begins at `z`.

    Returns
    -------
    outcome, nit, d, change, decrement
        `change` is the step of d that is taken without another evaluation.
    """
    mean, low, high = _mean_square(classes), 0.0, LARGEST
    nit = 0
    while True:
        growth = np.exp(z)
        d = (growth - 1.0) / mean
        nit += 1
        if not _evaluate(classes, gram, rss, t, d, N, reml, A, row, e):
            if z < 1e-3 or nit >= most:
                return UNDEFINED, nit, d, 0.0, 0.0
            high = z  # where rounding leaves no residuals
            z = 0.5 * (low + z)
            continue
        noise = 1e-15 * N * rss / e.number[R2]
        if noise > UNRELIABLE:
            return NO_RESIDUAL, nit, d, 0.0, 0.0
        slope = growth / mean  # dd / dz
        f1 = e.gradient[0] * slope
        f2 = e.hessian[0, 0] * slope * slope + f1
        if z == 0.0 and f1 >= 0.0:
            return BOUNDARY, nit, d, 0.0, 0.0
        if f1 > 0.0:
            high = z
        else:
            low = z
        if f2 > 0.0:
            step = -f1 / f2
            decrement = f1 * f1 / f2
            # In a flat likelihood a step may gain nothing and yet lead far away.
            is_short = abs(step) < LONGEST_UNSEEN
            if is_short and decrement < max(tolerance, noise) and z + step > 0.0:
                change = growth * np.expm1(step) / mean
                return INTERIOR, nit, d, change, decrement
        else:
            step = 0.5 if f1 < 0.0 else -0.5
        if nit >= most or high - low < 1e-13:
            return STUCK, nit, d, 0.0, 0.0
        following = z + step
        if following <= low:
            following = 0.0 if low == 0.0 else 0.5 * (low + z)
        elif following >= high:
            following = 0.5 * (z + high)
        z = following


@kernel
def _fit_intercepts(
    voxels: Any,
    rows: Any,
    shared: Any,
    scale: float,
    by_count: bool,
    reml: bool,
    tolerance: float,
    most: int,
    starts: Any,
    own: Any,
    complete: Any,
    classes: Any,
    e: Any,
    results: Any,
) -> None:
    """Fit the voxels, as many at once as have the same images."""
    p, n = voxels.effect.shape[0], own.n_obs.size
    gram, matrix, row = np.empty((p, p)), np.empty((p, p)), np.empty(p)
    T, A = np.empty((n, LANES)), np.empty((3, p * (p + 1) // 2))
    change, spread = np.zeros(1), np.zeros((1, 1))
    mark = np.full(n, -1)
    first, last, n_voxels = 0, -1, voxels.order.size
    while first < n_voxels:
        v = voxels.order[first]
        if last < 0 or not has_same_images(voxels.presence, v, last):
            load_blocks(rows, voxels, v, shared, mark, own)
            load_gram(voxels, v, gram)
            anew = voxels.rank[v] < p
            _classify(v, shared, own, mark, by_count, anew, complete, classes)
            last = v
        n_lanes = 1
        while (
            n_lanes < LANES
            and first + n_lanes < n_voxels
            and has_same_images(voxels.presence, voxels.order[first + n_lanes], v)
        ):
            n_lanes += 1
        if n_lanes == 1:
            _add_up_one(voxels, v, scale, own, classes, T[:, 0])
        else:
            add_up(voxels, first, n_lanes, 0, scale, own.M[0], classes, T)
        for t in range(n_lanes):
            v = voxels.order[first + t]
            n_obs = float(voxels.n_obs[v])
            N = n_obs - voxels.rank[v] if reml else n_obs
            rss, mean = voxels.rss[v], _mean_square(classes)
            other, elsewhere = np.inf, 0.0  # the least minimum from further starts, and its z
            for s in range(starts.size):
                z = np.log1p(starts[s] * mean)
                outcome, nit, d, step, decrement = _search(
                    classes, gram, rss, t, N, reml, tolerance, most, z, A, row, e
                )
                if outcome in (INTERIOR, BOUNDARY):
                    f = _find_deviance(classes, d, decrement, N, reml, e)
                    if f < other:
                        other, elsewhere = f, np.log1p(d * mean)
            z = _start(classes, rss, t, n_obs)
            outcome, nit, d, step, decrement = _search(
                classes, gram, rss, t, N, reml, tolerance, most, z, A, row, e
            )
            f = np.inf
            if outcome not in (NO_RESIDUAL, UNDEFINED):
                f = _find_deviance(classes, d, decrement, N, reml, e)
            if other < f - 1e-7 and outcome != NO_RESIDUAL:
                outcome, more, d, step, decrement = _search(
                    classes, gram, rss, t, N, reml, tolerance, most, elsewhere, A, row, e
                )
                nit += more
                f = _find_deviance(classes, d, decrement, N, reml, e)
            results.outcome[v] = outcome
            results.nit[v] = nit
            if outcome in (NO_RESIDUAL, UNDEFINED):
                continue
            if not reml:
                _find_sensitivity(A[1], row, e)
            results.deviance[v] = f
            results.D[0, v] = d + step
            change[0] = step
            curvature = e.hessian[0, 0]
            spread[0, 0] = np.sqrt(2.0 / curvature) if curvature > 0.0 else 0.0
            if outcome == BOUNDARY:
                spread[0, 0] = 0.0
            write_results(v, e, change, spread, 1, N, matrix, row, results)
        first += n_lanes
