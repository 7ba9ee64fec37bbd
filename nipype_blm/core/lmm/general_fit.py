"""Fit any mixed model, voxel by voxel: Newton's method, or one of Fisher's scorings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core._jit import allocating_routine, kernel, routine
from nipype_blm.core.factors import RandomFactor, count_columns
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
from nipype_blm.core.lmm.general import (
    Layout,
    evaluate_general,
    find_sensitivity_general,
    make_general_work,
    make_layout,
)
from nipype_blm.core.lmm.levels import (
    Blocks,
    IntArray,
    Rows,
    Voxels,
    copy_blocks,
    group_rows,
    has_same_images,
    is_dropped,
    is_present,
    load_blocks,
    load_gram,
    make_blocks,
)
from nipype_blm.core.lmm.newton import (
    CHANGE,
    ENTRIES,
    GO_ON,
    NO_RESIDUAL,
    NOW,
    SPREAD,
    STUCK,
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
    place,
)

# r2 below this fraction of the residual sum of squares of least squares is rounding error: for
# certain, or where that keeps the search from ending.
LEAST_RESIDUAL = 1e-9
STUCK_RESIDUAL = 1e-8

NEWTON, FULL_SCORING, SIMPLIFIED_SCORING = range(3)


class GeneralModel(NamedTuple):
    """All that is the same at every voxel; the eliminated factor is the first."""

    rows: Rows
    shared: Blocks
    BtB: FloatArray  # (k, k), of all observations
    layout: Layout
    scale: FloatArray  # (n_factors, q, q), S of each factor
    first_row: IntArray  # (n_factors,), of Z'y
    # The matrices that the search sees: those of factors, or single variances of these.
    block_size: IntArray  # (n_blocks,)
    block_factor: IntArray  # (n_blocks,)
    block_effect: IntArray  # (n_blocks,), the first effect
    pick: IntArray  # (m,), entries of all D that vary


def make_general_model(
    factors: Sequence[RandomFactor],
    scales: Sequence[FloatArray],
    Q: FloatArray,
    batches: Sequence[slice],
) -> GeneralModel:
    """Prepare the fit of several factors, or of many effects.

    Parameters
    ----------
    factors : sequence of RandomFactor
    scales : sequence of arrays of shape (n_effects, n_effects)
        What Z of each factor is multiplied by.
    Q : array of shape (n_obs, n_params)
    batches : sequence of slice
        Observations of each batch.
    """
    order = order_of_factors(factors)
    offsets = np.cumsum([0, *(factor.n_columns for factor in factors)])
    chosen = [factors[i] for i in order]
    layout = make_layout(chosen)
    n_obs = len(Q)
    n_dense = count_columns(chosen[1:])
    B = np.zeros((n_obs, n_dense + Q.shape[1]))
    B[:, n_dense:] = Q
    for i, factor, column in zip(order[1:], chosen[1:], layout.column[1:], strict=True):
        effects = factor.Z @ scales[i]
        first = column + factor.level.astype(np.int64) * factor.n_effects
        for a in range(factor.n_effects):
            B[np.arange(n_obs), first + a] = effects[:, a]
    rows = group_rows(chosen[0], scales[order[0]], B, batches)
    size = max(factor.n_effects for factor in factors)
    scale = np.zeros((len(factors), size, size))
    blocks, pick = [], []
    for f, factor in enumerate(chosen):
        q = factor.n_effects
        scale[f, :q, :q] = scales[order[f]]
        if factor.correlated:
            blocks.append((q, f, 0))
            pick += [int(layout.entry[f]) + e for e in range(factor.n_entries)]
        else:
            blocks += [(1, f, a) for a in range(q)]
            pick += [int(layout.entry[f]) + a * (a + 3) // 2 for a in range(q)]
    sizes, block_factors, effects_of_blocks = np.array(blocks, np.int64).T
    return GeneralModel(
        rows,
        make_blocks(rows),
        B.T @ B,
        layout,
        scale,
        offsets[order].astype(np.int64),
        np.ascontiguousarray(sizes),
        np.ascontiguousarray(block_factors),
        np.ascontiguousarray(effects_of_blocks),
        np.array(pick, np.int64),
    )


def order_of_factors(factors: Sequence[RandomFactor]) -> list[int]:
    """Return the factors in the order of the model: the eliminated one first."""
    return sorted(range(len(factors)), key=lambda i: -factors[i].n_levels)


def fit_general(
    voxels: Voxels, model: GeneralModel, options: MixedOptions, starts: FloatArray, results: Results
) -> None:
    """Fit the voxels of `order`."""
    p = len(voxels.effect)
    m = int(model.layout.entry[-1]) + packed_size(int(model.layout.n_effects[-1]))
    method = {"FS": FULL_SCORING, "pFS": FULL_SCORING, "exact": NEWTON}
    _fit_general(
        voxels,
        model,
        options.reml,
        method.get(options.method, SIMPLIFIED_SCORING),
        options.tol,
        options.maxnit,
        starts,
        make_search([int(size) for size in model.block_size]),
        copy_blocks(model.shared),
        make_general_work(model.layout, p),
        make_evaluation(p, m),
        results,
    )


@allocating_routine
def load_products(model: Any, voxels: Any, v: int, gram: Any, BtB: Any) -> None:
    """Compute B'B of the rows present at voxel v, from whichever rows are fewer."""
    B = model.rows.B
    n, k = B.shape
    p = gram.shape[0]
    s = k - p
    from_missing = 2 * voxels.n_obs[v] > n
    sign = -1.0 if from_missing else 1.0
    BtB[:] = 0.0
    if from_missing:
        BtB[:k, :k] = model.BtB
    if voxels.slot[v] >= 0 or not from_missing:
        for i in range(n):
            if is_present(model.rows.bits, voxels.presence, v, i) == from_missing:
                continue
            for a in range(s):
                x = sign * B[i, a]
                if x != 0.0:
                    for b in range(k):
                        BtB[a, b] += x * B[i, b]
    for a in range(p):
        hidden = voxels.rank[v] < p and is_dropped(voxels, v, a)
        for b in range(s):
            if hidden:
                BtB[b, s + a] = 0.0
            BtB[s + a, b] = BtB[b, s + a]
        for b in range(p):
            BtB[s + a, s + b] = gram[a, b]


@allocating_routine
def _load_residuals(model: Any, voxels: Any, v: int, own: Any, BtB: Any, M: Any) -> None:
    """Fill in the column of y: Z1'e of every level, Z2'e and e'e of the residuals e."""
    layout = model.layout
    k = BtB.shape[0] - 1
    p = voxels.effect.shape[0]
    s = k - p
    q, n = own.M.shape[0], own.M.shape[2]
    M[:, :k] = own.M
    for j in range(n):
        row = model.first_row[0] + j * q
        for a in range(q):
            x = 0.0
            for b in range(q):
                x += model.scale[0, b, a] * voxels.ZtY[row + b, v]
            for b in range(p):
                x -= own.M[a, s + b, j] * voxels.effect[b, v]
            M[a, k, j] = x
    for f in range(1, layout.n_effects.size):
        q = layout.n_effects[f]
        for level in range(layout.n_levels[f]):
            row = model.first_row[f] + level * q
            for a in range(q):
                x = 0.0
                for b in range(q):
                    x += model.scale[f, b, a] * voxels.ZtY[row + b, v]
                column = layout.column[f] + level * q + a
                for b in range(p):
                    x -= BtB[column, s + b] * voxels.effect[b, v]
                BtB[column, k] = x
                BtB[k, column] = x
    for b in range(p):
        BtB[s + b, k] = 0.0
        BtB[k, s + b] = 0.0
    BtB[k, k] = voxels.rss[v]


@routine
def _set_roots(model: Any, search: Any, roots: Any) -> None:
    """Compute a square root of each factor's D."""
    roots[:] = 0.0
    for k in range(model.block_size.size):
        f, o = model.block_factor[k], model.block_effect[k]
        for i in range(model.block_size[k]):
            for a in range(model.block_size[k]):
                x = search.vectors[NOW, k, i, a] * np.sqrt(search.values[NOW, k, a])
                roots[f, o + i, o + a] = x


@routine
def _without_sigma2(information: Any, trace: Any, i: int, j: int, N: float) -> float:
    """Return the information on two entries of D less what is known through sigma2."""
    return float(information[i, j] - trace[i] * trace[j] / N)


@routine
def _gather(model: Any, method: int, w: Any, e: Any, N: float, g: Any, H: Any) -> None:
    """Take the derivatives in the entries that vary; H is the Hessian or what to expect of it.

    Fisher's scoring expects E(H) for sigma2 and all of D, from which sigma2 is eliminated;
    simplified scoring takes each factor by itself (Maullin-Sapey and Nichols, Fisher scoring
    for crossed factor linear mixed models, Stat. Comput. 31, 2021).
    """
    pick = model.pick
    for a in range(pick.size):
        i = pick[a]
        g[a] = e.gradient[i]
        for b in range(pick.size):
            j = pick[b]
            if method == NEWTON:
                H[a, b] = e.hessian[i, j]
            elif method == FULL_SCORING:
                H[a, b] = _without_sigma2(w.information, w.trace, i, j, N)
            else:
                same = _factor_of(model.layout, i) == _factor_of(model.layout, j)
                H[a, b] = w.information[i, j] if same else 0.0


@routine
def _solve_symmetric(A: Any, b: Any, n: int) -> bool:
    """Replace b by A^-1 b, A positive definite once a little is added to its diagonal."""
    largest = 0.0
    for i in range(n):
        largest = max(largest, A[i, i])
    if not largest > 0.0:
        return False
    for i in range(n):
        A[i, i] += 1e-13 * largest
    if not cholesky(A, n):
        return False
    solve_lower(A, b, n)
    solve_lower_transposed(A, b, n)
    return True


@routine
def _start_by_moments(model: Any, w: Any, e: Any, N: float, A: Any, x: Any, start: Any) -> None:
    """Estimate D from an evaluation at D = `start` (MINQUE; C. R. Rao, 1971).

    The expectations of r2 and of its gradient are linear in sigma2 and sigma2 (D - D0).
    """
    m = model.pick.size
    # By elimination of sigma2: the information of D less what is known through sigma2.
    for a in range(m):
        i = model.pick[a]
        x[a] = -e.r2_gradient[i] - w.trace[i] * e.number[R2] / N
        for b in range(m):
            j = model.pick[b]
            A[a, b] = _without_sigma2(w.information, w.trace, i, j, N)
    if not _solve_symmetric(A, x, m):
        return
    s2 = e.number[R2]
    for a in range(m):
        s2 -= w.trace[model.pick[a]] * x[a]
    s2 = max(s2, 1e-3 * e.number[R2]) / N
    for a in range(m):
        start[a] += x[a] / s2


@routine
def _factor_of(layout: Any, entry: int) -> int:
    f = layout.entry.size - 1
    while layout.entry[f] > entry:
        f -= 1
    return int(f)


@kernel
def _fit_general(
    voxels: Any,
    model: Any,
    reml: bool,
    method: int,
    tol: float,
    most: int,
    starts: Any,
    search: Any,
    own: Any,
    w: Any,
    e: Any,
    results: Any,
) -> None:
    """Fit the voxels one after the other."""
    layout, pick = model.layout, model.pick
    p, k, m = voxels.effect.shape[0], model.rows.B.shape[1], pick.size
    q, n = own.M.shape[0], own.M.shape[2]
    size = model.scale.shape[1]
    BtB, M = np.zeros((k + 1, k + 1)), np.zeros((q, k + 1, n))
    gram, matrix, row = np.zeros((p, p)), np.zeros((p, p)), np.zeros(p)
    roots = np.zeros((layout.n_effects.size, size, size))
    g, H = np.zeros(m), np.zeros((m, m))
    start, entries = np.zeros(m), np.zeros(m)
    ends, points = np.zeros(3), np.zeros((2, m))
    A, x = np.zeros((m, m)), np.zeros(m)
    change, spread = np.zeros(w.trace.size), np.zeros((w.trace.size, m))
    isotropic = np.zeros(m)
    for b in range(model.block_size.size):
        first = 0
        for c in range(b):
            first += model.block_size[c] * (model.block_size[c] + 1) // 2
        for i in range(model.block_size[b]):
            isotropic[first + i * (i + 3) // 2] = 1.0
    mark = np.full(n, -1)
    last = -1
    tolerance = min(TOLERANCE, 2.0 * tol) if method == NEWTON else 2.0 * tol
    for position in range(voxels.order.size):
        v = voxels.order[position]
        if last < 0 or not has_same_images(voxels.presence, v, last):
            load_blocks(model.rows, voxels, v, model.shared, mark, own)
            load_gram(voxels, v, gram)
            load_products(model, voxels, v, gram, BtB)
            last = v
        _load_residuals(model, voxels, v, own, BtB, M)
        N = float(voxels.n_obs[v] - (voxels.rank[v] if reml else 0))
        start[:] = isotropic
        place(search, start, 0.0)
        _set_roots(model, search, roots)
        evaluate_general(layout, BtB, own.G, M, N, reml, roots, w, e)
        nit, outcome = 1, GO_ON
        if not e.number[F] < np.inf:
            results.outcome[v] = UNDEFINED
            continue
        _start_by_moments(model, w, e, N, A, x, start)
        ends[:] = np.inf
        for attempt in range(starts.size + 3):
            if not is_needed(attempt, starts.size, ends):
                break
            rough = attempt < starts.size
            foreseeable = rough and method == NEWTON
            if rough:
                entries[:] = starts[attempt] * isotropic
            elif attempt == starts.size:
                entries[:] = start
            else:
                entries[:] = points[attempt - starts.size - 1]
            begin(search, entries)
            outcome = GO_ON
            while outcome == GO_ON and not (foreseeable and is_rough_end(search)):
                _set_roots(model, search, roots)
                evaluate_general(layout, BtB, own.G, M, N, reml, roots, w, e)
                _gather(model, method, w, e, N, g, H)
                outcome = advance(search, e.number[F], e.number[NOISE], g, H, tolerance, N, most)
            nit += count_evaluations(search)
            keep_end(search, outcome, attempt - starts.size, ends, points)
        least = STUCK_RESIDUAL if outcome == STUCK else LEAST_RESIDUAL
        if e.number[R2] < least * voxels.rss[v]:
            outcome = NO_RESIDUAL
        results.outcome[v] = outcome
        results.nit[v] = nit
        if outcome in (NO_RESIDUAL, UNDEFINED):
            continue
        for a in range(m):
            results.D[pick[a], v] = search.vector[ENTRIES, a]
            change[pick[a]] = search.vector[CHANGE, a]
        _gather(model, NEWTON, w, e, N, g, H)
        find_spread(search, g, H)
        for a in range(m):
            for b in range(m):
                spread[pick[a], b] = search.matrix[SPREAD, a, b]
        results.deviance[v] = best_deviance(search)
        find_sensitivity_general(layout, w, e)
        write_results(v, e, change, spread, count_spread(search), N, matrix, row, results)
