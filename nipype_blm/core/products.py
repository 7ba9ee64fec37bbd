"""Sufficient statistics for least squares at every voxel, from one pass over the images.

With X = QR, y shifted by the voxel's first value and missing rows left out, a batch of
observations is reduced to Q'y, y'y and one bit per observation (present or not).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import inline, kernel
from nipype_blm.core.factors import RandomRows, select_rows
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import ONE_THREAD, TILE, Threads

WORD = 32  # observations in one word of presence bits
_STATE = ("reference", "QtY", "YtY", "presence", "ZtY")


class Products(NamedTuple):
    """Products of one batch of observations, at every voxel.

    A voxel without any observation in the batch has 0 everywhere.
    """

    reference: FloatArray  # (n_voxels,), subtracted from y: the first value, times s
    QtY: FloatArray  # (n_params, n_voxels), Q'(y - reference s)
    YtY: FloatArray  # (n_voxels,), squared length of y - reference s
    n_obs: NDArray[np.int32]  # (n_voxels,), observations present
    presence: NDArray[np.uint32]  # (n_words, n_voxels), bit i % 32 of word i // 32
    ZtY: FloatArray  # (n_columns, n_voxels), Z'(y - reference s), as `RandomRows.columns`


class ProductAccumulator:
    """Adds chunks of observations to the products of one batch.

    Parameters
    ----------
    Q : array of shape (n_obs, n_params)
        The rows of Q that belong to this batch.
    shift : array of shape (n_obs,)
        s = X c of `DesignFactor`, for the same rows.
    n_voxels : int
    random : RandomRows, optional
        The same rows of Z, in a mixed model.
    """

    def __init__(
        self,
        Q: FloatArray,
        shift: FloatArray,
        n_voxels: int,
        random: RandomRows | None = None,
    ) -> None:
        n_obs, n_params = Q.shape
        self._Qt = np.ascontiguousarray(Q.T)
        self._shift = np.ascontiguousarray(shift)
        self._row = 0
        self.reference = np.full(n_voxels, np.nan)
        self.QtY = np.zeros((n_params, n_voxels))
        self.YtY = np.zeros(n_voxels)
        self.presence = np.zeros((-(-n_obs // WORD), n_voxels), np.uint32)
        self._random = select_rows([], slice(n_obs)) if random is None else random
        self.ZtY = np.zeros((self._random.columns.size, n_voxels))

    def add(
        self,
        values: NDArray[Any],
        n_missing: NDArray[np.int64],
        threads: Threads = ONE_THREAD,
    ) -> None:
        """Add the next observations.

        Parameters
        ----------
        values : float array of shape (n_rows, n_voxels)
            NaN where missing.  The rows continue in the order of Q.
        n_missing : integer array of shape (n_rows,)
            Missing values of each row.
        threads : Threads

        Raises
        ------
        ValueError
            If the rows cross a word of 32 observations.
        """
        n_rows, n_voxels = values.shape
        rows = slice(self._row, self._row + n_rows)
        word, bit = divmod(self._row, WORD)
        if bit + n_rows > WORD:
            raise ValueError(f"{n_rows} rows after row {self._row} cross a word boundary.")
        # Zeros up to full groups of columns and rows, which add nothing.
        Qt = np.zeros((self._Qt.shape[0] + self._Qt.shape[0] % 2, -(-n_rows // 4) * 4))
        Qt[: len(self._Qt), :n_rows] = self._Qt[:, rows]
        shift = self._shift[rows]
        index, value = self._random.position[rows], self._random.value[rows]
        self._row += n_rows

        def accumulate(start: int, stop: int) -> None:
            _accumulate(
                values,
                n_missing,
                Qt,
                shift,
                self.reference,
                self.QtY,
                self.YtY,
                self.presence[word],
                index,
                value,
                self.ZtY,
                bit,
                start,
                stop,
            )

        threads.split(accumulate, n_voxels)

    @property
    def n_added(self) -> int:
        """How many observations have been added."""
        return self._row

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """What `restore` goes on from; the arrays themselves, which `add` changes."""
        return {name: getattr(self, name) for name in _STATE}

    def restore(self, n_added: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from the state after a number of observations, which gives the same bits."""
        for name in _STATE:
            setattr(self, name, state[name])
        self._row = n_added

    def finish(self) -> Products:
        """Return the products of the observations added so far."""
        np.nan_to_num(self.reference, copy=False)
        n_obs = np.zeros(self.YtY.size, np.int32)
        _count_presence(self.presence, n_obs)
        return Products(self.reference, self.QtY, self.YtY, n_obs, self.presence, self.ZtY)


@inline
def count_bits(word: Any) -> Any:
    """Return the number of set bits of the low 32 bits of an unsigned 64-bit word."""
    x = word - ((word >> np.uint64(1)) & np.uint64(0x55555555))
    x = (x & np.uint64(0x33333333)) + ((x >> np.uint64(2)) & np.uint64(0x33333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F)
    return np.int64(((x * np.uint64(0x01010101)) >> np.uint64(24)) & np.uint64(0xFF))


@kernel
def _count_presence(presence: Any, out: Any) -> None:
    for w in range(presence.shape[0]):
        words = presence[w]
        for v in range(words.size):
            out[v] += np.int32(count_bits(np.uint64(words[v])))


@inline
def _shift_row(y: Any, reference: Any, shift: float, n_missing: int, out: Any) -> None:
    """Write y - reference * shift to `out`; 0 where y is missing."""
    n = y.size
    if n_missing == n:
        for t in range(n):
            out[t] = 0.0
    elif n_missing == 0:
        for t in range(n):
            out[t] = np.float64(y[t]) - reference[t] * shift
    else:
        for t in range(n):
            difference = np.float64(y[t]) - reference[t] * shift
            out[t] = difference if difference == difference else 0.0


@inline
def _add_products(Qt: Any, D: Any, n: int, totals: Any) -> None:
    """Add Q'D, two columns of Q and four observations at a time; both come in full groups."""
    n_columns, k = Qt.shape
    for a in range(0, n_columns, 2):
        q, r = Qt[a], Qt[a + 1]
        total, other = totals[a], totals[a + 1]
        for i in range(0, k, 4):
            q0, q1, q2, q3 = q[i], q[i + 1], q[i + 2], q[i + 3]
            r0, r1, r2, r3 = r[i], r[i + 1], r[i + 2], r[i + 3]
            d0, d1, d2, d3 = D[i], D[i + 1], D[i + 2], D[i + 3]
            for t in range(n):
                e0, e1, e2, e3 = d0[t], d1[t], d2[t], d3[t]
                total[t] += (q0 * e0 + q1 * e1) + (q2 * e2 + q3 * e3)
                other[t] += (r0 * e0 + r1 * e1) + (r2 * e2 + r3 * e3)


@inline
def _add_levels(index: Any, weight: Any, D: Any, n: int, ZtY: Any, level: Any) -> None:
    """Add weight[i] D[i] to row index[i] of Z'y; `level` keeps the sum of equal neighbours."""
    last = -1
    for i in range(index.size):
        if index[i] != last:
            if last >= 0:
                _copy(level[:n], ZtY[last])
            last = index[i]
            _copy(ZtY[last], level)
        w, d = weight[i], D[i]
        for t in range(n):
            level[t] += w * d[t]
    if last >= 0:
        _copy(level[:n], ZtY[last])


@inline
def _copy(source: Any, target: Any) -> None:
    for t in range(source.size):
        target[t] = source[t]


@kernel
def _accumulate(  # noqa: C901 - one pass over a tile while it is in the cache
    values: Any,
    n_missing: Any,
    Qt: Any,
    shift: Any,
    reference: Any,
    QtY: Any,
    YtY: Any,
    words: Any,
    index: Any,
    weight: Any,
    ZtY: Any,
    bit: int,
    first: int,
    last: int,
) -> None:
    """Add the rows of `values` to the products, from voxel `first` up to `last`."""
    k, n_params = values.shape[0], QtY.shape[0]
    D = np.zeros((Qt.shape[1], TILE))
    sums = np.zeros((Qt.shape[0] + 1, TILE))  # contiguous: rows of QtY are far apart
    level = np.empty(TILE)
    missing = np.empty(k, np.int64)
    all_present = np.uint32((np.uint64(1) << np.uint64(k)) - np.uint64(1)) << np.uint32(bit)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        n = stop - start
        ref = reference[start:stop]
        without_reference = 0
        for t in range(n):
            without_reference += ref[t] != ref[t]
        n_missing_tile = 0
        for i in range(k):
            y = values[i, start:stop]
            m = 0
            if n_missing[i] > 0:
                for t in range(n):
                    m += y[t] != y[t]
            missing[i] = m
            n_missing_tile += m
            if without_reference > 0 and m < n:
                without_reference = 0
                for t in range(n):
                    if ref[t] != ref[t]:
                        ref[t] = y[t]
                    without_reference += ref[t] != ref[t]
            _shift_row(y, ref, shift[i], m, D[i, :n])
        word = words[start:stop]
        if n_missing_tile == 0:
            for t in range(n):
                word[t] |= all_present
        elif n_missing_tile == n * k:
            continue
        else:
            for i in range(k):
                y = values[i, start:stop]
                one = np.uint32(1) << np.uint32(bit + i)
                if missing[i] == 0:
                    for t in range(n):
                        word[t] |= one
                elif missing[i] < n:
                    for t in range(n):
                        word[t] |= one if y[t] == y[t] else np.uint32(0)
        for a in range(n_params):
            _copy(QtY[a, start:stop], sums[a])
        _add_products(Qt, D, n, sums)
        for a in range(n_params):
            _copy(sums[a, :n], QtY[a, start:stop])
        squares = sums[n_params]
        _copy(YtY[start:stop], squares)
        for i in range(k):
            d = D[i]
            for t in range(n):
                squares[t] += d[t] * d[t]
        _copy(squares[:n], YtY[start:stop])
        for e in range(index.shape[1]):
            _add_levels(index[:, e], weight[:, e], D, n, ZtY[:, start:stop], level)
