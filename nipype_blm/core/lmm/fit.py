"""Fit a mixed model at every voxel of a block."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import kernel
from nipype_blm.core.deficient import (
    clear_covariances,
    confirm_rank,
    find_estimable_columns,
    shorten,
)
from nipype_blm.core.factors import (
    RandomFactor,
    count_columns,
    count_joint_effects,
    select_rows,
)
from nipype_blm.core.linalg import (
    DesignFactor,
    FloatArray,
    invert_upper,
    packed_size,
    solve_upper,
)
from nipype_blm.core.lmm.crossed import fit_crossed, make_group
from nipype_blm.core.lmm.estimates import MixedEstimates, MixedOptions
from nipype_blm.core.lmm.evaluation import Results, make_results
from nipype_blm.core.lmm.general_fit import (
    fit_general,
    make_general_model,
    order_of_factors,
)
from nipype_blm.core.lmm.identify import find_unidentified
from nipype_blm.core.lmm.intercept import fit_intercepts, make_intercept_model
from nipype_blm.core.lmm.levels import Voxels, scale_effects
from nipype_blm.core.lmm.newton import BOUNDARY, NO_RESIDUAL, STUCK, UNDEFINED
from nipype_blm.core.lmm.slope import fit_slopes, make_slope_model, reduce_group
from nipype_blm.core.ols import (
    IMPRECISE,
    Totals,
    imprecise_pivot,
    merge_products,
    screen_voxels,
    solve_normal_equations,
)
from nipype_blm.core.products import WORD, Products, count_bits
from nipype_blm.core.status import VoxelStatus, is_fitted
from nipype_blm.core.threads import ONE_THREAD, Threads

# With fewer levels the likelihood may have several maxima: 5 of 20,000 voxels with 12 levels
# ended below the highest, 10 with 60 levels, none with 200.
FEW_LEVELS = 100
# So it may with one effect, where images are missing: in 1 % of simulated voxels with 10 levels of
# two to five images, and none with 20.
FEWEST_LEVELS = 20
# A search that could get no further with less than this share of the sum of squares left, and
# where images may be fitted exactly, was on its way to none.
ON_ITS_WAY = 1e-4
# D = x I, in units in which Z'Z of a level is about I; the first two are taken where levels are
# few, the others if the user asks for more starts.
FURTHER_STARTS = (0.01, 100.0, 1.0, 1e4, 1e-3, 10.0, 0.1)
USUAL_STARTS = 3
# Voxels with the same images that repay mixing levels, or tabulating the log-determinant.
FEWEST_TO_REDUCE = 200
FEWEST_TO_TABULATE = 2000

_STATUS_OF_OUTCOME = {
    STUCK: VoxelStatus.NOT_CONVERGED,
    NO_RESIDUAL: VoxelStatus.ZERO_VARIANCE,
    UNDEFINED: VoxelStatus.ZERO_VARIANCE,
}


def fit_lmm(
    n_obs: NDArray[np.int32],
    batches: Iterable[tuple[slice, Products]],
    design: DesignFactor,
    factors: Sequence[RandomFactor],
    options: MixedOptions,
    minimum_n: int,
    allowed: NDArray[np.bool_] | None = None,
    with_cov: bool = False,
    threads: Threads = ONE_THREAD,
) -> MixedEstimates:
    """Fit y = X beta + Z b + e at every voxel of a block.

    Parameters
    ----------
    n_obs : array of shape (n_voxels,)
        Observations present at each voxel, over all batches.
    batches : iterable of (slice, Products)
        The rows of each batch, and its products in this block; taken one at a time.
    design : DesignFactor
        X = QR and the direction of a constant.
    factors : sequence of RandomFactor
    options : MixedOptions
    minimum_n : int
        Voxels with fewer observations are dropped (besides those with n_obs <= rank + 1).
    allowed : bool array of shape (n_voxels,), optional
        False drops a voxel (post-analysis mask).
    with_cov : bool
        Whether to compute the covariance of beta.
    threads : Threads

    Returns
    -------
    MixedEstimates
    """
    status = screen_voxels(n_obs, minimum_n, allowed)
    candidates = np.flatnonzero(status == VoxelStatus.FITTED)
    merger = _Merger(candidates, factors, design.shift, threads)
    totals = merge_products(n_obs[candidates], candidates, batches, design, threads, merger.add)
    outcome, effect, rss, rank = _center(totals, design, threads)
    here = np.arange(candidates.size)
    confirm_rank(outcome, rank, totals.slot, totals.gram, design, merger.by_batch(), here)
    if options.safe_mode:
        few = totals.seen <= count_joint_effects(factors)
        outcome[few & (outcome != VoxelStatus.TOO_FEW)] = VoxelStatus.TOO_MANY_EFFECTS
    presence = merger.presence()
    voxels = Voxels(
        np.flatnonzero(is_fitted(outcome))[_group(presence[:, is_fitted(outcome)])],
        presence,
        merger.full(),
        totals.seen,
        rank,
        merger.ZtY,
        effect,
        rss,
        totals.slot,
        totals.gram,
    )
    scales = [scale_effects(factor) for factor in factors]
    unidentified, saturated = find_unidentified(
        voxels, factors, scales, design.Q, merger.batches, threads
    )
    outcome[voxels.order[unidentified]] = VoxelStatus.UNIDENTIFIED
    saturated_voxels = voxels.order[saturated]
    voxels = voxels._replace(order=voxels.order[~unidentified])
    results, D = _fit(voxels, design, factors, scales, options, merger.batches, threads)
    N = totals.seen - rank if options.reml else totals.seen
    _set_outcome(outcome, results, results.sigma2 * N, rss, saturated_voxels)
    status[candidates] = outcome
    return _collect(status, n_obs, outcome, voxels, results, D, totals, design, options, with_cov)


def _set_outcome(
    outcome: NDArray[np.uint8],
    results: Results,
    residual: FloatArray,
    rss: FloatArray,
    saturated: NDArray[np.intp],
) -> None:
    """Note how the search has ended, in the status of the voxels that were fitted.

    Parameters
    ----------
    residual, rss : arrays of shape (n,)
        What the random effects leave of the sum of squares, and all of it.
    saturated : integer array
        Voxels whose images X and Z may fit exactly.  There the search has been on its way to
        no residual variance at all, and ends somewhere.
    """
    fitted = is_fitted(outcome)
    imprecise = residual < IMPRECISE * rss
    plain = outcome == VoxelStatus.FITTED
    outcome[plain & (results.outcome == BOUNDARY)] = VoxelStatus.FITTED_BOUNDARY
    outcome[fitted & imprecise] = VoxelStatus.FITTED_IMPRECISE
    for code, meaning in _STATUS_OF_OUTCOME.items():
        outcome[fitted & (results.outcome == code)] = meaning
    hardly_any = imprecise | ((results.outcome == STUCK) & (residual < ON_ITS_WAY * rss))
    on_its_way = saturated[(fitted & hardly_any)[saturated]]
    outcome[on_its_way] = VoxelStatus.ZERO_VARIANCE


class _Merger:
    """Adds up Z'y of the batches, in the units of the first reference of each voxel."""

    def __init__(
        self,
        candidates: NDArray[np.intp],
        factors: Sequence[RandomFactor],
        shift: FloatArray,
        threads: Threads,
    ) -> None:
        self._candidates = candidates
        self._factors = factors
        self._shift = shift
        self._threads = threads
        self._words: list[NDArray[np.uint32]] = []
        self.batches: list[slice] = []
        self.ZtY = np.zeros((count_columns(factors), candidates.size))

    def add(self, rows: slice, products: Products, totals: Totals) -> None:
        """Add one batch, which has been merged into the totals."""
        random = select_rows(self._factors, rows)
        shift = self._shift[rows]
        ZtS = np.zeros(random.columns.size)
        np.add.at(ZtS, random.position, random.value * shift[:, None])
        presence = np.ascontiguousarray(products.presence[:, self._candidates])
        self._words.append(presence)
        self.batches.append(slice(rows.start, rows.start + len(shift)))

        distance = products.reference[self._candidates] - totals.reference
        distance[products.n_obs[self._candidates] == 0] = 0

        def merge(start: int, stop: int) -> None:
            _merge_random(
                start,
                stop,
                self._candidates,
                random.columns,
                products.ZtY,
                ZtS,
                distance,
                presence,
                random.position,
                random.value * shift[:, None],
                self.ZtY,
            )

        self._threads.split(merge, self._candidates.size)

    def by_batch(self) -> Iterable[tuple[slice, NDArray[np.uint32]]]:
        """Return rows and presence bits of each batch."""
        return zip(self.batches, self._words, strict=True)

    def presence(self) -> NDArray[np.uint32]:
        """Return the presence bits of all batches."""
        return np.concatenate(self._words) if self._words else np.zeros((0, 0), np.uint32)

    def full(self) -> NDArray[np.uint32]:
        """Return the presence bits of a voxel where no image is missing."""
        words = []
        for rows in self.batches:
            n = rows.stop - rows.start
            counts = np.minimum(WORD, n - np.arange(0, n, WORD))
            words.append((np.uint64(1) << counts.astype(np.uint64)) - np.uint64(1))
        return np.concatenate(words).astype(np.uint32) if words else np.zeros(0, np.uint32)


@kernel
def _merge_random(
    start: int,
    stop: int,
    voxels: Any,
    columns: Any,
    ZtY: Any,
    ZtS: Any,
    distance: Any,
    presence: Any,
    index: Any,
    weighted_shift: Any,
    total: Any,
) -> None:
    """Add Z'y + distance Z's of the rows present, s the shift of the reference."""
    n_rows = len(index)
    for c in range(columns.size):
        row, out, shift = ZtY[c], total[columns[c]], ZtS[c]
        for j in range(start, stop):
            out[j] += row[voxels[j]] + distance[j] * shift
    for j in range(start, stop):
        if distance[j] == 0.0:
            continue
        for w in range(presence.shape[0]):
            n_bits = min(32, n_rows - 32 * w)
            everything = (np.uint64(1) << np.uint64(n_bits)) - np.uint64(1)
            bits = ~np.uint64(presence[w, j]) & everything
            while bits != np.uint64(0):
                lowest = bits & (~bits + np.uint64(1))
                i = 32 * w + count_bits(lowest - np.uint64(1))
                bits ^= lowest
                for t in range(index.shape[1]):
                    total[columns[index[i, t]], j] -= distance[j] * weighted_shift[i, t]


def _center(
    totals: Totals, design: DesignFactor, threads: Threads
) -> tuple[NDArray[np.uint8], FloatArray, FloatArray, NDArray[np.int32]]:
    """Fit by least squares; return status, gamma (n_params, n), RSS and rank."""
    n, n_params = totals.YtY.size, len(design.R)
    status = np.full(n, VoxelStatus.FITTED, np.uint8)
    effect, rss, rank = np.zeros((n_params, n)), np.zeros(n), np.zeros(n, np.int32)
    imprecise = imprecise_pivot(design)

    def solve(start: int, stop: int) -> None:
        _solve(
            start,
            stop,
            totals.QtY,
            totals.YtY,
            totals.seen,
            totals.slot,
            totals.gram,
            imprecise,
            effect,
            rss,
            rank,
            status,
        )

    threads.split(solve, n)
    return status, effect, rss, rank


@kernel
def _solve(
    start: int,
    stop: int,
    QtY: Any,
    YtY: Any,
    n_obs: Any,
    slot: Any,
    gram: Any,
    imprecise: float,
    effect: Any,
    rss: Any,
    rank: Any,
    status: Any,
) -> None:
    n_params = len(QtY)
    z, gamma = np.empty(n_params), np.empty(n_params)
    spare, work = np.empty(gram.shape[1]), np.empty((2, n_params))
    for j in range(start, stop):
        status[j], rss[j], rank[j] = solve_normal_equations(
            QtY, YtY, n_obs, slot, gram, j, imprecise, z, gamma, spare, work
        )
        for a in range(n_params):
            effect[a, j] = gamma[a]


def _group(presence: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Return an order in which voxels with the same images follow each other."""
    n_words, n = presence.shape
    key = np.zeros(n, np.uint64)
    for w in range(n_words):
        key = (key ^ presence[w]) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return np.argsort(first[group], kind="stable")


class Fit(Protocol):
    """Fits the voxels of `order`."""

    def __call__(self, voxels: Voxels, *, results: Results) -> None:
        """Write what is found to `results`."""


class _Engine(NamedTuple):
    """What fits a model."""

    order: list[int]  # of the factors, as the entries of D have it
    n_spread: int
    fit: Fit
    # Voxels that have the same images as one, if they are many, may have a better way.
    fewest: int = 0
    specialise: Callable[[Voxels, int], Fit | None] | None = None


def _choose_engine(
    factors: Sequence[RandomFactor],
    scales: Sequence[FloatArray],
    Q: FloatArray,
    options: MixedOptions,
    batches: Sequence[slice],
) -> _Engine:
    """Prepare the fastest engine that there is for a model."""
    starts = np.array(FURTHER_STARTS[: (options.n_starts or _count_starts(factors)) - 1])
    n_effects = [factor.n_effects for factor in factors]
    if options.method == "exact" and n_effects == [1]:
        intercept = make_intercept_model(factors[0], scales[0], Q, batches)
        fit_intercept = partial(fit_intercepts, model=intercept, options=options, starts=starts)
        return _Engine([0], 1, fit_intercept)
    if options.method == "exact" and n_effects == [2]:
        slope = make_slope_model(factors[0], scales[0], Q, batches)
        fit_slope = partial(fit_slopes, model=slope, options=options, starts=starts)

        def reduce(voxels: Voxels, v: int) -> Fit | None:
            reduction = reduce_group(voxels, slope, v)
            return None if reduction is None else partial(fit_slope, reduction=reduction)

        return _Engine([0], slope.pick.size, fit_slope, FEWEST_TO_REDUCE, reduce)
    general = make_general_model(factors, scales, Q, batches)
    fit = partial(fit_general, model=general, options=options, starts=starts)
    engine = _Engine(order_of_factors(factors), general.pick.size, fit)
    if options.method != "exact" or n_effects != [1, 1]:
        return engine

    def tabulate(voxels: Voxels, v: int) -> Fit | None:
        group = make_group(voxels, general, v, options.reml)
        if group is None:
            return None
        return partial(fit_crossed, model=general, group=group, options=options)

    return engine._replace(fewest=FEWEST_TO_TABULATE, specialise=tabulate)


def _fit(
    voxels: Voxels,
    design: DesignFactor,
    factors: Sequence[RandomFactor],
    scales: Sequence[FloatArray],
    options: MixedOptions,
    batches: Sequence[slice],
    threads: Threads,
) -> tuple[Results, FloatArray]:
    """Fit all voxels of `order`; return the results, and vech(D) in the units of Z."""
    engine = _choose_engine(factors, scales, design.Q, options, batches)
    n_entries = sum(factor.n_entries for factor in factors)
    results = make_results(len(voxels.effect), n_entries, engine.n_spread, voxels.rss.size)

    def run(fit: Fit, order: NDArray[np.int64]) -> None:
        def fit_range(start: int, stop: int) -> None:
            fit(voxels._replace(order=order[start:stop]), results=results)

        threads.split(fit_range, order.size)

    alone = np.ones(voxels.order.size, bool)
    if engine.specialise is not None:
        for group in _find_groups(voxels, engine.fewest):
            order = voxels.order[group]
            special = engine.specialise(voxels, int(order[0]))
            if special is not None:
                run(special, order)
                alone[group] = False
    run(engine.fit, voxels.order[alone])
    return results, _scale_back(results.D, factors, scales, engine.order)


def _find_groups(voxels: Voxels, fewest: int) -> list[slice]:
    """Return where in `order` at least so many voxels have the same images."""
    presence = voxels.presence[:, voxels.order]
    changes = (presence[:, 1:] != presence[:, :-1]).any(axis=0)
    edges = np.concatenate([[0], np.flatnonzero(changes) + 1, [voxels.order.size]])
    large = np.flatnonzero(np.diff(edges) >= max(fewest, 1))
    return [slice(int(edges[i]), int(edges[i + 1])) for i in large]


def _count_starts(factors: Sequence[RandomFactor]) -> int:
    """Return how many starting values are tried where the user does not say."""
    few = any(f.n_effects > 1 and f.n_levels < FEW_LEVELS for f in factors)
    few |= len(factors) == 1 and factors[0].n_levels < FEWEST_LEVELS
    return USUAL_STARTS if few else 1


def _scale_back(
    D: FloatArray,
    factors: Sequence[RandomFactor],
    scales: Sequence[FloatArray],
    order: Sequence[int],
) -> FloatArray:
    """Return vech(D) in the units of Z, factor by factor, from D packed in another order."""
    found: dict[int, FloatArray] = {}
    position = 0
    for i in order:
        stop = position + factors[i].n_entries
        found[i] = _transform_vech(D[position:stop], scales[i])
        position = stop
    return np.concatenate([found[i] for i in range(len(factors))])


def _transform_vech(D: FloatArray, S: FloatArray) -> FloatArray:
    """Return vech(S D S'), column by column, from D packed row by row."""
    q = len(S)
    low, high = np.tril_indices(q)
    full = np.zeros((q, q, D.shape[1]))
    full[low, high] = D
    full[high, low] = D
    full = np.einsum("ia,abn,jb->ijn", S, full, S)
    columns, rows = np.triu_indices(q)
    return np.ascontiguousarray(full[rows, columns])


def _collect(
    status: NDArray[np.uint8],
    n_obs: NDArray[np.int32],
    outcome: NDArray[np.uint8],
    voxels: Voxels,
    results: Results,
    D: FloatArray,
    totals: Totals,
    design: DesignFactor,
    options: MixedOptions,
    with_cov: bool,
) -> MixedEstimates:
    """Return the estimates of the fitted voxels, in the units of X and y."""
    n_params = design.R.shape[0]
    keep = np.flatnonzero(is_fitted(outcome))
    rank = voxels.rank[keep]
    slot, factor = _keep_deficient(voxels.slot[keep], voxels.gram, rank < n_params)
    # `take` gives every array the same memory layout for any number of voxels: kernels compiled
    # for two layouts may round differently.
    change = results.effect.take(keep, axis=-1)
    gamma = voxels.effect.take(keep, axis=-1) + change
    beta, length = np.empty_like(gamma), np.empty(keep.size)
    reference = totals.reference[keep]
    _to_beta(gamma, design.R, reference, design.constant, slot, factor, beta)
    _squared_length(change, voxels.slot[keep], voxels.gram, length)
    n = voxels.n_obs[keep]
    N = n - rank if options.reml else n
    constant = _log_det_of_basis(design.R, slot, factor) if options.reml else 0.0
    deviance = results.deviance[keep] + N * (1 + np.log(2 * np.pi / N)) + constant
    covariance = results.covariance.take(keep, axis=-1)
    spread = results.spread.take(keep, axis=-1)
    _clear_dropped(slot, factor, covariance, spread)
    estimable = find_estimable_columns(design.R, rank, slot, factor)
    cov = np.empty((packed_size(n_params) if with_cov else 0, keep.size))
    if with_cov:
        _transform(covariance, invert_upper(design.R), cov)
        clear_covariances(cov, estimable)
    return MixedEstimates(
        status=status,
        n_obs=n_obs,
        rank=rank,
        beta=beta,
        estimable=estimable,
        sigma2=results.sigma2[keep],
        D=D.take(keep, axis=-1),
        llh=-0.5 * deviance,
        resms=(voxels.rss[keep] + length) / (n - rank),
        nit=results.nit[keep],
        covariance=covariance,
        spread=spread,
        slot=slot,
        factor=factor,
        cov=cov,
    )


def _keep_deficient(
    slot: NDArray[np.int32], factor: FloatArray, is_deficient: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], FloatArray]:
    """Return the factors of deficient voxels alone, and the slot of each voxel among them."""
    kept = np.full(slot.size, -1, np.int32)
    kept[is_deficient] = np.arange(np.count_nonzero(is_deficient))
    return kept, factor[slot[is_deficient]]


def _log_det_of_basis(
    R: FloatArray, slot: NDArray[np.int32], factor: FloatArray
) -> FloatArray | float:
    """Return ln|R'R|; where columns of X are dropped, that of the others.

    The columns of X that are kept are those of Q times a triangular matrix with their elements
    of the diagonal of R.
    """
    logs = 2 * np.log(np.abs(np.where(np.diag(R) == 0, 1.0, np.diag(R))))
    if not factor.size:
        return float(logs.sum())
    is_kept = np.ones((slot.size, len(R)), bool)
    diagonal = [packed_size(i + 1) - 1 for i in range(len(R))]
    is_kept[slot >= 0] = factor[:, diagonal][slot[slot >= 0]] > 0
    return np.asarray((logs * is_kept).sum(axis=1))


@kernel
def _clear_dropped(slot: Any, factor: Any, covariance: Any, spread: Any) -> None:
    """Set what belongs to dropped columns to 0: their coefficients are, for certain."""
    for j in range(slot.size):
        if slot[j] < 0:
            continue
        L = factor[slot[j]]
        position, a = 0, 0
        while position < L.size:
            for b in range(a + 1):
                if L[a * (a + 3) // 2] == 0.0 or L[b * (b + 3) // 2] == 0.0:
                    covariance[position, j] = 0.0
                    for k in range(spread.shape[0]):
                        spread[k, position, j] = 0.0
                position += 1
            a += 1


@kernel
def _to_beta(
    gamma: Any, R: Any, reference: Any, constant: Any, slot: Any, factor: Any, beta: Any
) -> None:
    """Compute R^-1 gamma + reference c, the shortest of all solutions."""
    n_params = len(R)
    b, null = np.empty(n_params), np.empty((n_params, n_params))
    for j in range(gamma.shape[1]):
        solve_upper(R, gamma[:, j], n_params, b)
        for a in range(n_params):
            b[a] += reference[j] * constant[a]
        if slot[j] >= 0:
            shorten(b, factor[slot[j]], R, null)
        for a in range(n_params):
            beta[a, j] = b[a]


@kernel
def _squared_length(change: Any, slot: Any, gram: Any, out: Any) -> None:
    """Compute |Q change|^2 over the rows present."""
    n_params = len(change)
    for j in range(out.size):
        total = 0.0
        for b in range(n_params):
            x = change[b, j]
            if slot[j] >= 0:  # row b of L' times the change
                x = 0.0
                for a in range(b, n_params):
                    x += gram[slot[j], a * (a + 1) // 2 + b] * change[a, j]
            total += x * x
        out[j] = total


@kernel
def _transform(packed: Any, A: Any, out: Any) -> None:
    """Compute A C A' of the packed C at each voxel, A upper triangular."""
    n = len(A)
    X = np.empty((n, n))
    for v in range(packed.shape[1]):
        for i in range(n):
            for j in range(n):
                x = 0.0
                for k in range(i, n):
                    high, low = max(k, j), min(k, j)
                    x += A[i, k] * packed[high * (high + 1) // 2 + low, v]
                X[i, j] = x
        position = 0
        for i in range(n):
            for j in range(i + 1):
                x = 0.0
                for k in range(j, n):
                    x += X[i, k] * A[j, k]
                out[position, v] = x
                position += 1
