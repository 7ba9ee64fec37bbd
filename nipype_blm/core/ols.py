"""Ordinary least squares at every voxel of a block, from the products of its batches."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import inline, kernel
from nipype_blm.core.deficient import (
    cholesky_semidefinite,
    clear_covariances,
    confirm_rank,
    find_estimable_columns,
    shorten,
    solve_lower_semidefinite,
    solve_lower_transposed_semidefinite,
)
from nipype_blm.core.linalg import (
    RANK_TOLERANCE,
    DesignFactor,
    FloatArray,
    cholesky_packed,
    invert_upper,
    packed_size,
    solve_lower_packed,
    solve_lower_transposed_packed,
    solve_upper,
)
from nipype_blm.core.products import Products, count_bits
from nipype_blm.core.status import FIRST_DROPPED, VoxelStatus, is_fitted
from nipype_blm.core.threads import ONE_THREAD, Threads

# RSS below this fraction of y'y (after the shift) is rounding error of the sums, which
# grows with the number of observations.
ZERO_VARIANCE = 1e-13
EPS = float(np.finfo(float).eps)
# ... and below this one it has lost digits, or its products with those of contrasts will.
SMALLEST_RSS = 1e-180
# ... and below this one, rounding has reached the ninth digit of RSS; a pivot below it, as a
# fraction of its diagonal element, costs the estimates as much.
IMPRECISE = 1e-6
# Entries of Q have errors of 1e-16, columns have length 1: the rest of a column that is
# shorter than 1e-12 where data are present (squared: 1e-24) is noise.
NOISE = 1e-24
# A downdated sum of squares that is below this fraction of the whole has lost digits.
CANCELLED = 0.01

# Plain numbers for kernels.
_FITTED = int(VoxelStatus.FITTED)
_IMPRECISE_FIT = int(VoxelStatus.FITTED_IMPRECISE)
_TOO_FEW = int(VoxelStatus.TOO_FEW)
_RANK_DEFICIENT = int(VoxelStatus.RANK_DEFICIENT)
_ZERO_VARIANCE = int(VoxelStatus.ZERO_VARIANCE)


class Estimates(NamedTuple):
    """Least-squares estimates of a block of voxels.

    `status` and `n_obs` cover the block; everything else only its fitted voxels.
    """

    status: NDArray[np.uint8]  # (n_voxels,), VoxelStatus
    n_obs: NDArray[np.int32]  # (n_voxels,)
    rank: NDArray[np.int32]  # (n_fitted,), of the rows of X present
    # Units of the images per unit of X; the shortest of all solutions where there are several.
    beta: FloatArray  # (n_params, n_fitted)
    estimable: NDArray[np.bool_]  # (n_params, n_fitted), or no row: is the column by itself?
    resms: FloatArray  # (n_fitted,), RSS / (n_obs - rank)
    llh: FloatArray  # (n_fitted,), maximised log-likelihood
    slot: NDArray[np.int32]  # (n_fitted,), row of `factor`; -1 where no image is missing
    factor: FloatArray  # (n_slots, packed), Cholesky factor of Q'Q of the rows present
    cov: FloatArray  # (packed, n_fitted), covariance of beta; no row unless asked for

    @property
    def dof(self) -> NDArray[np.int32]:
        """Residual degrees of freedom at the fitted voxels."""
        return compute_dof(self.status, self.n_obs, self.rank)


def compute_dof(
    status: NDArray[np.uint8], n_obs: NDArray[np.int32], rank: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return n_obs - rank at the fitted voxels."""
    return np.asarray(n_obs[is_fitted(status)] - rank, np.int32)


class Totals(NamedTuple):
    """Products of all batches at the candidate voxels of a block."""

    reference: FloatArray
    QtY: FloatArray
    YtY: FloatArray
    seen: NDArray[np.int32]  # observations merged so far
    slot: NDArray[np.int32]
    gram: FloatArray  # (n_slots, packed): Q'Q of the observations present


def fit_ols(
    n_obs: NDArray[np.int32],
    batches: Iterable[tuple[slice, Products]],
    design: DesignFactor,
    minimum_n: int,
    allowed: NDArray[np.bool_] | None = None,
    with_cov: bool = False,
    threads: Threads = ONE_THREAD,
) -> Estimates:
    """Fit y = X beta + e at every voxel of a block.

    Parameters
    ----------
    n_obs : array of shape (n_voxels,)
        Observations present at each voxel, over all batches.
    batches : iterable of (slice, Products)
        The rows of each batch, and its products in this block; taken one at a time, and again
        from the first one where columns of X depend on others in the images present.
    design : DesignFactor
        X = QR and the direction of a constant.
    minimum_n : int
        Voxels with fewer observations are dropped (besides those with n_obs <= rank + 1).
    allowed : bool array of shape (n_voxels,), optional
        False drops a voxel (post-analysis mask).
    with_cov : bool
        Whether to compute the covariance of beta.
    threads : Threads

    Returns
    -------
    Estimates

    Notes
    -----
    With the Cholesky factor Q_v'Q_v = L L' of the rows present at voxel v, z = L^-1 Q_v'y
    gives RSS = y'y - z'z, and beta = R^-1 L'^-1 z + reference c (Golub and Van Loan, Matrix
    Computations, section 5.3).  The log-likelihood is the Gaussian one at the ML variance
    RSS / n.  Columns that depend on those before them, in the rows present, are dropped from
    L; any estimable combination of beta is the same whichever are.
    """
    n_params = design.R.shape[0]
    status = screen_voxels(n_obs, minimum_n, allowed)
    candidates = np.flatnonzero(status == VoxelStatus.FITTED)
    totals = merge_products(n_obs[candidates], candidates, batches, design, threads)
    n = candidates.size
    beta, resms, llh = np.empty((n_params, n)), np.empty(n), np.empty(n)
    outcome = np.full(n, VoxelStatus.FITTED, np.uint8)
    rank = np.full(n, n_params, np.int32)
    imprecise = imprecise_pivot(design)

    def fit(start: int, stop: int) -> None:
        _fit(
            start,
            stop,
            totals.QtY,
            totals.YtY,
            totals.seen,
            totals.reference,
            totals.slot,
            totals.gram,
            design.R,
            design.constant,
            imprecise,
            beta,
            resms,
            llh,
            rank,
            outcome,
        )

    threads.split(fit, n)
    presence = ((rows, products.presence) for rows, products in batches)
    confirm_rank(outcome, rank, totals.slot, totals.gram, design, presence, candidates)
    status[candidates] = outcome
    keep = is_fitted(outcome)
    slot = totals.slot
    if not keep.all():
        beta = beta.compress(keep, axis=-1)  # in the memory layout that it had
        resms, llh, slot, rank = resms[keep], llh[keep], slot[keep], rank[keep]
    factor = totals.gram  # in whose place _fit has put it
    estimable = find_estimable_columns(design.R, rank, slot, factor)
    cov = np.empty((packed_size(n_params) if with_cov else 0, resms.size))
    if with_cov:
        R_inverse = invert_upper(design.R)

        def covariance(start: int, stop: int) -> None:
            _covariance(start, stop, slot, rank, factor, R_inverse, resms, cov)

        threads.split(covariance, resms.size)
        clear_covariances(cov, estimable)
    return Estimates(status, n_obs, rank, beta, estimable, resms, llh, slot, factor, cov)


def imprecise_pivot(design: DesignFactor) -> float:
    """Return the pivot below which a fit is imprecise.

    A pivot is the square of what the images present add to the condition of X.  F is right to
    100 eps times the condition; where that exceeds `IMPRECISE`, that has to be said.
    """
    return max(IMPRECISE, (100 * EPS * design.condition / IMPRECISE) ** 2)


def screen_voxels(
    n_obs: NDArray[np.int32],
    minimum_n: int,
    allowed: NDArray[np.bool_] | None,
) -> NDArray[np.uint8]:
    """Return the status of each voxel before fitting; FITTED marks the candidates."""
    status = np.full(n_obs.size, VoxelStatus.FITTED, np.uint8)
    if allowed is not None:
        status[~allowed] = VoxelStatus.MASKED_AFTER
    status[n_obs <= 2] = VoxelStatus.TOO_FEW  # whatever the rank
    status[n_obs < minimum_n] = VoxelStatus.BELOW_MINIMUM
    status[n_obs == 0] = VoxelStatus.NO_DATA
    return status


def merge_products(
    n_obs: NDArray[np.int32],
    candidates: NDArray[np.intp],
    batches: Iterable[tuple[slice, Products]],
    design: DesignFactor,
    threads: Threads,
    follow: Callable[[slice, Products, Totals], None] | None = None,
) -> Totals:
    """Add the products of all batches at the candidate voxels.

    `follow` is called after each batch, with its rows, its products and the totals so far.

    Notes
    -----
    Each batch has its own reference.  With d the difference of the references and
    s = Q w, moving a batch to the first reference adds d Q's to Q'y and
    2 d s'y + d^2 s's to y'y: all known from Q'y and Q'Q of the rows present.
    """
    n, n_params = n_obs.size, design.R.shape[0]
    # Where no image is missing Q'Q is the identity, unless columns are dropped everywhere.
    ring = (n_obs < len(design.Q)) | (design.rank < n_params)
    slot = np.where(ring, np.cumsum(ring) - 1, -1).astype(np.int32)
    totals = Totals(
        np.zeros(n),
        np.zeros((n_params, n)),
        np.zeros(n),
        np.zeros(n, np.int32),
        slot,
        np.zeros((int(ring.sum()), packed_size(n_params))),
    )
    direction = design.R @ design.constant

    def merge(products: Products, row_products: FloatArray, start: int, stop: int) -> None:
        _merge_batch(
            start,
            stop,
            candidates,
            products.reference,
            products.QtY,
            products.YtY,
            products.n_obs,
            products.presence,
            row_products,
            row_products.sum(axis=0),
            direction,
            totals.reference,
            totals.QtY,
            totals.YtY,
            totals.seen,
            totals.slot,
            totals.gram,
        )

    low, high = np.tril_indices(n_params)
    for rows, products in batches:
        row_products = design.Q[rows][:, low] * design.Q[rows][:, high]
        threads.split(partial(merge, products, row_products), n)
        if follow is not None:
            follow(rows, products, totals)
        del products  # before the next batch is read
    return totals


@inline
def _present_gram(
    presence: Any, v: int, n_present: int, n_params: int, products: Any, gram: Any, out: Any
) -> None:
    """Compute packed Q'Q of the rows present, from whichever rows are fewer.

    `products` has the packed qq' of each row q of Q, `gram` their sum.  Where the rows missing
    make up nearly all of a column, those present are summed.
    """
    from_missing = 2 * n_present > len(products)
    _sum_rows(presence, v, from_missing, products, gram, out)
    has_cancelled = False
    for a in range(n_params):
        diagonal = a * (a + 3) // 2
        has_cancelled |= out[diagonal] < CANCELLED * gram[diagonal]
    if from_missing and has_cancelled:
        _sum_rows(presence, v, False, products, gram, out)


@inline
def _sum_rows(
    presence: Any, v: int, from_missing: bool, products: Any, gram: Any, out: Any
) -> None:
    """Compute packed Q'Q as the sum of the rows present, or gram less the rows missing."""
    n_obs = len(products)
    for j in range(out.size):
        out[j] = 0.0
    for w in range(presence.shape[0]):
        n_bits = min(32, n_obs - 32 * w)
        bits = np.uint64(presence[w, v])
        if from_missing:
            bits = ~bits & ((np.uint64(1) << np.uint64(n_bits)) - np.uint64(1))
        while bits != np.uint64(0):
            lowest = bits & (~bits + np.uint64(1))
            row = products[32 * w + count_bits(lowest - np.uint64(1))]
            bits ^= lowest
            for j in range(out.size):
                out[j] += row[j]
    if from_missing:
        for j in range(out.size):
            out[j] = gram[j] - out[j]


@kernel
def _merge_batch(  # noqa: C901 - one pass over a voxel's products
    start: int,
    stop: int,
    voxels: Any,
    reference: Any,
    QtY: Any,
    YtY: Any,
    n_obs: Any,
    presence: Any,
    row_products: Any,
    full_gram: Any,
    direction: Any,
    total_reference: Any,
    total_QtY: Any,
    total_YtY: Any,
    seen: Any,
    slot: Any,
    total_gram: Any,
) -> None:
    """Add one batch to the totals at some of `voxels` (positions in the block)."""
    n_rows, n_params = len(row_products), len(direction)
    gram = np.empty(full_gram.size)
    shifted = np.empty(n_params)
    for j in range(start, stop):
        v = voxels[j]
        n = n_obs[v]
        if n == 0:
            continue
        if slot[j] >= 0:
            if n == n_rows:
                gram[:] = full_gram
            else:
                _present_gram(presence, v, n, n_params, row_products, full_gram, gram)
            row = total_gram[slot[j]]
            for i in range(gram.size):
                row[i] += gram[i]
        else:
            gram[:] = full_gram
        if seen[j] == 0:
            total_reference[j] = reference[v]
        seen[j] += n
        d = reference[v] - total_reference[j]
        squares = YtY[v]
        if d == 0:
            for a in range(n_params):
                total_QtY[a, j] += QtY[a, v]
        else:
            for a in range(n_params):
                shifted[a] = 0.0
            position = 0
            for a in range(n_params):
                for b in range(a):
                    shifted[a] += gram[position + b] * direction[b]
                    shifted[b] += gram[position + b] * direction[a]
                shifted[a] += gram[position + a] * direction[a]
                position += a + 1
            for a in range(n_params):
                squares += d * direction[a] * (2 * QtY[a, v] + d * shifted[a])
                total_QtY[a, j] += QtY[a, v] + d * shifted[a]
        total_YtY[j] += squares


@inline
def solve_normal_equations(
    QtY: Any,
    YtY: Any,
    n_obs: Any,
    slot: Any,
    gram: Any,
    j: int,
    imprecise: float,
    z: Any,
    gamma: Any,
    spare: Any,
    work: Any,
) -> tuple[int, float, int]:
    """Solve Q'Q gamma = Q'y at voxel j; return its status, RSS and rank.

    The Cholesky factor of `gram` is left in its place.  `spare` (packed,) and `work` (2,
    n_params) are workspace.
    """
    n_params = gamma.size
    status, rank = _FITTED, n_params
    for a in range(n_params):
        z[a] = QtY[a, j]
        gamma[a] = z[a]
    pivot = 1.0
    if slot[j] >= 0:
        L = gram[slot[j]]
        pivot, rank = _factorise(L, n_params, spare, work)
        if not pivot > RANK_TOLERANCE:
            return _RANK_DEFICIENT if n_obs[j] > n_params + 1 else _TOO_FEW, 0.0, rank
        if rank == n_params:
            solve_lower_packed(L, gamma, n_params, z)
            solve_lower_transposed_packed(L, z, n_params, gamma)
        else:
            solve_lower_semidefinite(L, gamma, n_params, z)
            solve_lower_transposed_semidefinite(L, z, n_params, gamma)
    if n_obs[j] <= rank + 1:
        return _TOO_FEW, 0.0, rank
    if pivot < imprecise:
        status = _IMPRECISE_FIT
    rss = YtY[j]
    for a in range(n_params):
        rss -= z[a] * z[a]
    if not rss > (ZERO_VARIANCE + n_obs[j] * EPS) * YtY[j] + SMALLEST_RSS:
        return _ZERO_VARIANCE, 0.0, rank
    if rss < IMPRECISE * YtY[j]:
        status = _IMPRECISE_FIT
    return status, rss, rank


@inline
def _factorise(L: Any, n: int, spare: Any, work: Any) -> tuple[float, int]:
    """Replace Q'Q by its Cholesky factor; return its least pivot and its rank."""
    for i in range(spare.size):
        spare[i] = L[i]
    pivot, rank = cholesky_packed(L, n, NOISE), n
    if pivot < IMPRECISE:
        rank, least = cholesky_semidefinite(spare, n, NOISE, work)
        if rank < n:
            pivot = least
            for i in range(spare.size):
                L[i] = spare[i]
    return pivot, rank


@kernel
def _fit(
    start: int,
    stop: int,
    QtY: Any,
    YtY: Any,
    n_obs: Any,
    reference: Any,
    slot: Any,
    gram: Any,
    R: Any,
    constant: Any,
    imprecise: float,
    beta: Any,
    resms: Any,
    llh: Any,
    rank: Any,
    status: Any,
) -> None:
    """Solve for the estimates; the Cholesky factor of `gram` is left in its place."""
    n_params = R.shape[0]
    z = np.empty(n_params)
    gamma = np.empty(n_params)
    b = np.empty(n_params)
    spare, work = np.empty(gram.shape[1]), np.empty((2, n_params))
    null = np.empty((n_params, n_params))
    for j in range(start, stop):
        outcome, rss, r = solve_normal_equations(
            QtY, YtY, n_obs, slot, gram, j, imprecise, z, gamma, spare, work
        )
        status[j] = outcome
        rank[j] = r
        if outcome >= FIRST_DROPPED:
            continue
        solve_upper(R, gamma, n_params, b)
        for a in range(n_params):
            b[a] += reference[j] * constant[a]
        if r < n_params:
            shorten(b, gram[slot[j]], R, null)
        for a in range(n_params):
            beta[a, j] = b[a]
        n = n_obs[j]
        resms[j] = rss / (n - r)
        llh[j] = -0.5 * n * (np.log(rss / n) + np.log(2 * np.pi) + 1)


@inline
def _row_products(rows: Any, out: Any) -> None:
    """Compute the packed products of all pairs of rows."""
    position = 0
    for a in range(rows.shape[0]):
        for b in range(a + 1):
            x = 0.0
            for k in range(rows.shape[1]):
                x += rows[a, k] * rows[b, k]
            out[position] = x
            position += 1


@kernel
def _covariance(
    start: int,
    stop: int,
    slot: Any,
    rank: Any,
    factor: Any,
    R_inverse: Any,
    resms: Any,
    out: Any,
) -> None:
    """Compute packed resms R^-1 (L L')^-1 R^-1' at each voxel."""
    n_params = R_inverse.shape[0]
    rows = np.empty((n_params, n_params))
    shared = np.empty(out.shape[0])  # of voxels where no image is missing: L = I
    own = np.empty(out.shape[0])
    _row_products(R_inverse, shared)
    for j in range(start, stop):
        values = shared
        if slot[j] >= 0:
            L = factor[slot[j]]
            for i in range(n_params):  # row i of R^-1 gives row i of R^-1 L^-1'
                if rank[j] == n_params:
                    solve_lower_packed(L, R_inverse[i], n_params, rows[i])
                else:
                    solve_lower_semidefinite(L, R_inverse[i], n_params, rows[i])
            _row_products(rows, own)
            values = own
        for i in range(out.shape[0]):
            out[i, j] = values[i] * resms[j]
