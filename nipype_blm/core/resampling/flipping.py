"""Statistics of flips at a block of voxels: sums of scores with signs, and their share.

Signs come five groups at a time: at a tile of voxels the 32 sums that five signs can make are
tabulated once, and each flip adds one of them.  Every sum is taken by itself and in one order,
with no matrix product, so that it has the same bits whatever voxels and flips are near it.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import exact_kernel, exact_routine, inline
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import ONE_THREAD, Threads

Float32 = NDArray[np.float32]

LANES = 32  # voxels side by side
BITS = 5  # groups of one table
AT_ONCE = 4  # tables, which fill a half of the first-level cache
PANEL = 512  # flips whose sums stay in the caches
_N_SUMS = 1 << BITS
# Variance of a flipped score, as a share of that of the score itself, below which the statistic
# is 0 / 0, and below which single precision has lost digits of it.
DEGENERATE = 1e-6
CANCELLED = 1e-2
_ONE, _CANCELLED = np.float32(1), np.float32(CANCELLED)


class Resampled(NamedTuple):
    """Statistics of some resamplings at a block of voxels."""

    # (n_voxels, n_resamplings), the share of the null sum of squares that the tested columns
    # explain, with the sign of the effect where there is one column; 0 where nothing is tested.
    share: Float32
    n_degenerate: NDArray[np.int64]  # (n_resamplings,), voxels with no variance left: share 0


def encode_signs(signs: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return where each flip stands in the table of every few groups; (n_tables, n_flips)."""
    n_flips, n_groups = signs.shape
    n_tables = -(-n_groups // BITS)
    minus = np.zeros((n_flips, n_tables * BITS), np.uint8)
    minus[:, :n_groups] = signs < 0
    places = minus.reshape(n_flips, n_tables, BITS) @ (1 << np.arange(BITS)).astype(np.uint8)
    return np.ascontiguousarray(places.T)


def compute_shares(
    score: Float32,
    leak: Float32,
    common: FloatArray,
    voxel: NDArray[np.int32],
    n_voxels: int,
    signs: NDArray[np.int8],
    threads: Threads = ONE_THREAD,
) -> Resampled:
    """Return the statistics of flips.

    Parameters
    ----------
    score : array of shape (q, n_groups, n_tested)
        Whitened scores s_j, divided by the root of the null sum of squares.
    leak : array of shape (q * p0 or p0, n_groups, n_own)
        W_j of the last n_own voxels, a row of W after the other; of flipped data, w_j.
    common : array of shape (q, p0, n_groups)
        W_j of the other voxels.
    voxel : array of shape (n_tested,)
        Row of the result.
    n_voxels : int
    signs : array of shape (n_flips, n_groups)
    threads : Threads

    Notes
    -----
    For S = sum_j f_j s_j and W = sum_j f_j W_j the share is S' (I - W W')^-1 S; of flipped data
    S'S / (1 - w'w).
    """
    n_flips, (q, _, n_tested) = len(signs), score.shape
    n_shared = n_tested - leak.shape[2]
    share = np.zeros((n_voxels, n_flips), np.float32)
    precision, is_degenerate = _invert_common(common, signs)
    counts = [n_shared * is_degenerate.astype(np.int64)]
    is_scalar = q == 1 or leak.shape[0] != q * common.shape[1]

    def flip(start: int, stop: int) -> None:
        count = np.zeros(n_flips, np.int64)
        for first in range(0, n_flips, PANEL):
            panel = slice(first, first + PANEL)
            part = signs[panel]
            _flip(
                start,
                stop,
                score,
                leak,
                precision[panel],
                is_scalar,
                part,
                encode_signs(part),
                voxel,
                first,
                share,
                count,
            )
        counts.append(count)  # of a range of voxels, as several may run at once

    threads.split(flip, n_tested)
    return Resampled(share, np.sum(counts, axis=0, dtype=np.int64))


def _invert_common(
    common: FloatArray, signs: NDArray[np.int8]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return (I - W W')^-1 of each flip where W is the same for all voxels; 0 if degenerate."""
    q, p0, n_groups = common.shape
    W = np.zeros((len(signs), q, p0))
    for j in range(n_groups):
        W += signs[:, j, None, None] * common[:, :, j]
    variance = np.eye(q) - (W[:, :, None] * W[:, None]).sum(axis=-1)
    is_degenerate = np.linalg.eigvalsh(variance)[:, 0] < DEGENERATE
    variance[is_degenerate] = np.eye(q)
    precision = np.linalg.inv(variance)
    precision[is_degenerate] = 0
    return precision, is_degenerate


@exact_routine
def _tabulate(values: Any, first: int, column: int, width: int, row: Any, table: Any) -> None:
    """Write the sums of a few groups with all signs, at `width` voxels from `column` on."""
    for t in range(LANES):
        table[0, t] = np.float32(0.0)
    size = 1
    for g in range(first, min(first + BITS, values.shape[0])):
        source = values[g]
        for t in range(width):
            row[t] = source[column + t]
        for k in range(size):
            plus, minus = table[k], table[k + size]
            for t in range(LANES):
                total = plus[t]
                minus[t] = total - row[t]
                plus[t] = total + row[t]
        size *= 2


@exact_routine
def _add_tables(tables: Any, codes: Any, first: int, total: Any) -> None:
    """Add one sum of each table to the total of every flip."""
    a, b, c, d = tables[0], tables[1], tables[2], tables[3]
    places_a, places_b = codes[first], codes[first + 1]
    places_c, places_d = codes[first + 2], codes[first + 3]
    for f in range(total.shape[0]):
        ka, kb, kc, kd = a[places_a[f]], b[places_b[f]], c[places_c[f]], d[places_d[f]]
        out = total[f]
        for t in range(LANES):
            out[t] += (ka[t] + kb[t]) + (kc[t] + kd[t])


@exact_routine
def _add_table(table: Any, places: Any, total: Any) -> None:
    """Add one sum of a table to the total of every flip."""
    for f in range(total.shape[0]):
        source, out = table[places[f]], total[f]
        for t in range(LANES):
            out[t] += source[t]


@exact_routine
def _sum_groups(
    values: Any, column: int, width: int, codes: Any, row: Any, tables: Any, total: Any
) -> None:
    """Add the values of all groups, with the signs of every flip, at `width` voxels."""
    n_tables = codes.shape[0]
    n_at_once = n_tables - n_tables % AT_ONCE
    for c in range(0, n_at_once, AT_ONCE):
        for i in range(AT_ONCE):
            _tabulate(values, (c + i) * BITS, column, width, row, tables[i])
        _add_tables(tables, codes, c, total)
    for c in range(n_at_once, n_tables):
        _tabulate(values, c * BITS, column, width, row, tables[0])
        _add_table(tables[0], codes[c], total)


@inline
def _sum_own(leak: Any, signs: Any, f: int, column: int, W: Any) -> None:
    """Sum W of one voxel and flip in double precision."""
    for k in range(leak.shape[0]):
        total = 0.0
        for j in range(leak.shape[1]):
            total += np.float64(signs[f, j]) * np.float64(leak[k, j, column])
        W[k] = total


@inline
def _factorise_variance(W: Any, q: int, variance: Any) -> float:
    """Write the Cholesky factor of I - W W', W by rows; return its least pivot."""
    p0 = W.size // q
    least = 1.0
    for a in range(q):
        for b in range(a + 1):
            x = 1.0 if a == b else 0.0
            for k in range(p0):
                x -= W[a * p0 + k] * W[b * p0 + k]
            for k in range(b):
                x -= variance[a, k] * variance[b, k]
            if a == b:
                least = min(least, x)
                variance[a, a] = np.sqrt(max(x, DEGENERATE))
            else:
                variance[a, b] = x / variance[b, b]
    return least


@exact_routine
def _share_one(sums: Any, t: int, precision: Any, out: Any) -> None:
    """Write shares of one column of x, its variance known."""
    for f in range(out.size):
        x = sums[0, f, t]
        share = abs(x) * x * np.float32(precision[f, 0, 0])
        out[f] = max(min(share, _ONE), -_ONE)


@exact_routine
def _share_several(sums: Any, t: int, q: int, precision: Any, out: Any) -> None:
    """Write shares of several columns of x, their variance known."""
    for f in range(out.size):
        total = 0.0
        for a in range(q):
            for b in range(q):
                product = np.float64(sums[a, f, t]) * np.float64(sums[b, f, t])
                total += product * precision[f, a, b]
        out[f] = np.float32(min(total, 1.0))


@exact_routine
def _mend_scalars(
    f: int,
    leak: Any,
    column: int,
    width: int,
    signs: Any,
    W: Any,
    left: Any,
    explained: Any,
    n_degenerate: Any,
) -> None:
    """Compute the variance that is left again where single precision has lost digits of it."""
    for t in range(width):
        if left[t] < _CANCELLED:
            _sum_own(leak, signs, f, column + t, W)
            exact = 1.0
            for k in range(W.size):
                exact -= W[k] * W[k]
            left[t] = np.float32(exact)
            if exact < DEGENERATE:
                n_degenerate[f] += 1
                explained[t], left[t] = np.float32(0.0), _ONE


@exact_routine
def _share_scalar(
    sums: Any,
    q: int,
    leak: Any,
    column: int,
    width: int,
    signs: Any,
    W: Any,
    left: Any,
    explained: Any,
    n_degenerate: Any,
) -> None:
    """Write shares where the variance is one number, of each voxel, in the place of sums[0]."""
    for f in range(sums.shape[1]):
        for t in range(LANES):
            left[t] = _ONE
            explained[t] = np.float32(0.0)
        for k in range(q, q + W.size):
            values = sums[k, f]
            for t in range(LANES):
                left[t] -= values[t] * values[t]
        for k in range(q):
            values = sums[k, f]
            for t in range(LANES):
                explained[t] += values[t] * values[t]
        least = _ONE
        for t in range(LANES):
            least = min(least, left[t])
        if least < _CANCELLED:
            _mend_scalars(f, leak, column, width, signs, W, left, explained, n_degenerate)
        out = sums[0, f]
        for t in range(LANES):
            share = min(explained[t] / left[t], _ONE)
            out[t] = -share if q == 1 and out[t] < np.float32(0.0) else share


@inline
def _factorise_lanes(  # noqa: C901 - a loop over lanes in each step
    sums: Any, f: int, q: int, p0: int, L: Any, least: Any
) -> None:
    """Do as `_factorise_variance` at all lanes; L has q * q rows."""
    for a in range(q):
        for b in range(a + 1):
            x, pivot = L[a * q + b], L[b * q + b]
            for t in range(LANES):
                x[t] = 1.0 if a == b else 0.0
            for k in range(p0):
                w, v = sums[q + a * p0 + k, f], sums[q + b * p0 + k, f]
                for t in range(LANES):
                    x[t] -= np.float64(w[t]) * np.float64(v[t])
            for k in range(b):
                y, z = L[a * q + k], L[b * q + k]
                for t in range(LANES):
                    x[t] -= y[t] * z[t]
            if a == b:
                for t in range(LANES):
                    least[t] = min(least[t], x[t])
                    x[t] = np.sqrt(max(x[t], DEGENERATE))
            else:
                for t in range(LANES):
                    x[t] /= pivot[t]


@inline
def _add_lengths(sums: Any, f: int, q: int, L: Any, S: Any, total: Any) -> None:
    """Add |L^-1 S|^2 at all lanes; S has q rows."""
    for a in range(q):
        own, scores, pivot = S[a], sums[a, f], L[a * q + a]
        for t in range(LANES):
            own[t] = scores[t]
        for k in range(a):
            x, other = L[a * q + k], S[k]
            for t in range(LANES):
                own[t] -= x[t] * other[t]
        for t in range(LANES):
            own[t] /= pivot[t]
            total[t] += own[t] * own[t]


@exact_routine
def _share_matrix(
    sums: Any,
    q: int,
    leak: Any,
    column: int,
    width: int,
    signs: Any,
    W: Any,
    factor: Any,
    lanes: Any,
    n_degenerate: Any,
) -> None:
    """Write shares where the variance is a matrix, of each voxel, in the place of sums[0].

    `lanes` is room for the Cholesky factor, the whitened scores, the least pivot and the share.
    """
    L, S = lanes[: q * q], lanes[q * q : q * q + q]
    least, total = lanes[q * q + q], lanes[q * q + q + 1]
    for f in range(sums.shape[1]):
        for t in range(LANES):
            least[t] = 1.0
            total[t] = 0.0
        _factorise_lanes(sums, f, q, W.size // q, L, least)
        for t in range(width):
            if least[t] < CANCELLED:
                _sum_own(leak, signs, f, column + t, W)
                least[t] = _factorise_variance(W, q, factor)
                for a in range(q):
                    for b in range(a + 1):
                        L[a * q + b, t] = factor[a, b]
        _add_lengths(sums, f, q, L, S, total)
        out = sums[0, f]
        for t in range(LANES):
            out[t] = np.float32(min(total[t], 1.0))
        for t in range(width):
            if least[t] < DEGENERATE:
                n_degenerate[f] += 1
                out[t] = np.float32(0.0)


@exact_kernel
def _flip(
    start: int,
    stop: int,
    score: Any,
    leak: Any,
    precision: Any,
    is_scalar: bool,
    signs: Any,
    codes: Any,
    voxel: Any,
    first_flip: int,
    share: Any,
    n_degenerate: Any,
) -> None:
    q, n_tested = score.shape[0], score.shape[2]
    n_flips, n_own, r = len(signs), leak.shape[2], leak.shape[0]
    n_shared = n_tested - n_own
    tables = np.zeros((AT_ONCE, _N_SUMS, LANES), np.float32)
    row = np.zeros(LANES, np.float32)
    sums = np.zeros((q + r, n_flips, LANES), np.float32)
    left, explained = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    W, factor = np.empty(r), np.empty((q, q))
    lanes = np.ones((q * q + q + 2, LANES))
    count = n_degenerate[first_flip : first_flip + n_flips]
    first = start
    while first < stop:
        is_shared = first < n_shared
        last = min(first + LANES, min(stop, n_shared) if is_shared else stop)
        for k in range(q if is_shared else q + r):
            values = score[k] if k < q else leak[k - q]
            column = first if k < q else first - n_shared
            sums[k] = np.float32(0.0)
            _sum_groups(values, column, last - first, codes, row, tables, sums[k])
        column, width = first - n_shared, last - first
        if is_scalar and not is_shared:
            _share_scalar(sums, q, leak, column, width, signs, W, left, explained, count)
        elif not is_shared:
            _share_matrix(sums, q, leak, column, width, signs, W, factor, lanes, count)
        for t in range(width):
            out = share[voxel[first + t], first_flip : first_flip + n_flips]
            if is_shared and q == 1:
                _share_one(sums, t, precision, out)
            elif is_shared:
                _share_several(sums, t, q, precision, out)
            else:
                out[:] = sums[0, :, t]
        first = last
