"""The levels of a factor at a voxel: products of the rows of Z that are present there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import allocating_routine, inline, kernel, routine
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray, packed_size
from nipype_blm.core.products import WORD, count_bits

IntArray = NDArray[np.int64]


class Bits(NamedTuple):
    """Where the presence of an observation is noted."""

    word: IntArray  # (n_obs,), which word of presence bits has the observation
    bit: IntArray  # (n_obs,)
    first: IntArray  # (n_words,), the observation of bit 0


class Rows(NamedTuple):
    """The observations, grouped by the levels of one factor."""

    level: IntArray  # (n_obs,)
    start: IntArray  # (n_levels + 1,), where the observations of a level begin in `order`
    order: IntArray  # (n_obs,)
    Z: FloatArray  # (n_obs, n_effects), scaled so that Z'Z of a level is about I
    B: FloatArray  # (n_obs, k), the columns beside Z
    bits: Bits


class Blocks(NamedTuple):
    """Products of the rows present, one block for each level."""

    G: FloatArray  # (packed, n_levels), Z'Z; for two effects also its determinant
    M: FloatArray  # (n_effects, k, n_levels), Z'B
    n_obs: IntArray  # (n_levels,)


class Voxels(NamedTuple):
    """The voxels to be fitted, with everything that an engine needs to know of them."""

    order: IntArray  # (n,), in which they are taken: equal patterns of presence together
    presence: NDArray[np.uint32]  # (n_words, n)
    full: NDArray[np.uint32]  # (n_words,), of a voxel where no image is missing
    n_obs: NDArray[np.int32]  # (n,)
    rank: NDArray[np.int32]  # (n,), of the rows of X present
    ZtY: FloatArray  # (n_columns, n)
    effect: FloatArray  # (n_params, n), least squares: gamma of Q gamma
    rss: FloatArray  # (n,)
    slot: NDArray[np.int32]  # (n,), row of `gram`, -1 where no image is missing
    gram: FloatArray  # (n_slots, packed), Cholesky factor of Q'Q; what is dropped has no pivot


def scale_effects(factor: RandomFactor) -> FloatArray:
    """Return S such that the levels of Z S have Z'Z = I on average.

    It is diagonal if the effects are uncorrelated, because mixing them would change the model.
    """
    gram = factor.Z.T @ factor.Z / factor.n_levels
    if factor.correlated:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(gram)).T)
    return np.diag(1.0 / np.sqrt(np.diag(gram)))


def locate_bits(batches: Sequence[slice]) -> Bits:
    """Return where presence is noted; its words start anew in each batch of observations."""
    word, bit, first = [], [], []
    n_words = 0
    for rows in batches:
        position = np.arange(rows.stop - rows.start)
        word.append(n_words + position // WORD)
        bit.append(position % WORD)
        first.append(rows.start + position[::WORD])
        n_words += len(first[-1])
    parts = (np.concatenate(part).astype(np.int64) for part in (word, bit, first))
    return Bits(*parts)


def group_rows(
    factor: RandomFactor, S: FloatArray, B: FloatArray, batches: Sequence[slice]
) -> Rows:
    """Group the observations by level."""
    level = factor.level.astype(np.int64)
    counts = np.bincount(level, minlength=factor.n_levels)
    return Rows(
        level,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.argsort(level, kind="stable").astype(np.int64),
        np.ascontiguousarray(factor.Z @ S),
        np.ascontiguousarray(B),
        locate_bits(batches),
    )


def make_blocks(rows: Rows) -> Blocks:
    """Return the blocks where no observation is missing."""
    n_effects, n_levels = rows.Z.shape[1], rows.start.size - 1
    blocks = Blocks(
        np.zeros((packed_size(n_effects) + (n_effects == 2), n_levels)),
        np.zeros((n_effects, rows.B.shape[1], n_levels)),
        np.diff(rows.start),
    )
    _fill_all(rows, blocks)
    return blocks


def copy_blocks(blocks: Blocks) -> Blocks:
    """Return blocks of their own for a thread."""
    return Blocks(blocks.G.copy(), blocks.M.copy(), blocks.n_obs.copy())


@inline
def is_present(bits: Any, presence: Any, v: int, i: int) -> bool:
    """Return whether observation i is present at voxel v."""
    return bool((presence[bits.word[i], v] >> np.uint32(bits.bit[i])) & np.uint32(1))


@kernel
def _fill_all(rows: Any, blocks: Any) -> None:
    everything = np.full((rows.bits.first.size, 1), 0xFFFFFFFF, np.uint32)
    for j in range(blocks.n_obs.size):
        fill_level(rows, everything, 0, j, blocks)


@routine
def fill_level(rows: Any, presence: Any, v: int, j: int, blocks: Any) -> None:
    """Compute the block of level j from the rows present at voxel v."""
    G, M = blocks.G, blocks.M
    q, k = M.shape[0], M.shape[1]
    for a in range(G.shape[0]):
        G[a, j] = 0.0
    for a in range(q):
        for b in range(k):
            M[a, b, j] = 0.0
    count = 0
    for position in range(rows.start[j], rows.start[j + 1]):
        i = rows.order[position]
        if not is_present(rows.bits, presence, v, i):
            continue
        count += 1
        packed = 0
        for a in range(q):
            z = rows.Z[i, a]
            for b in range(a + 1):
                G[packed, j] += z * rows.Z[i, b]
                packed += 1
            for b in range(k):
                M[a, b, j] += z * rows.B[i, b]
    blocks.n_obs[j] = count
    if q == 2 and G[0, j] > 0.0:
        # |G| = |z1|^2 |z2 - c z1|^2, which is accurate where the two are nearly collinear.
        c = G[1, j] / G[0, j]
        rest = 0.0
        for position in range(rows.start[j], rows.start[j + 1]):
            i = rows.order[position]
            if is_present(rows.bits, presence, v, i):
                x = rows.Z[i, 1] - c * rows.Z[i, 0]
                rest += x * x
        G[3, j] = G[0, j] * rest


@inline
def _subtract_row(rows: Any, i: int, j: int, blocks: Any) -> None:
    """Take observation i away from level j; nothing is left of a level without any."""
    G, M = blocks.G, blocks.M
    blocks.n_obs[j] -= 1
    empty = blocks.n_obs[j] == 0
    packed = 0
    for a in range(M.shape[0]):
        z = rows.Z[i, a]
        for b in range(a + 1):
            G[packed, j] = 0.0 if empty else G[packed, j] - z * rows.Z[i, b]
            packed += 1
        for b in range(M.shape[1]):
            M[a, b, j] = 0.0 if empty else M[a, b, j] - z * rows.B[i, b]


@allocating_routine
def load_blocks(rows: Any, voxels: Any, v: int, shared: Any, mark: Any, own: Any) -> None:
    """Compute the blocks of voxel v: those of levels that lack nothing are shared.

    Afterwards mark[j] is v for the levels j that lack something.  These are summed anew where
    there are determinants, or where more is missing than not; elsewhere the missing rows are
    subtracted, which leaves the rounding errors of a few rows.
    """
    own.G[:] = shared.G
    own.M[:] = shared.M
    own.n_obs[:] = shared.n_obs
    anew = own.M.shape[0] == 2 or 2 * voxels.n_obs[v] < rows.level.size
    for w in range(voxels.full.size):
        bits = np.uint64(voxels.full[w] & ~voxels.presence[w, v])
        while bits != np.uint64(0):
            lowest = bits & (~bits + np.uint64(1))
            i = rows.bits.first[w] + count_bits(lowest - np.uint64(1))
            j = rows.level[i]
            bits ^= lowest
            if anew and mark[j] != v:
                fill_level(rows, voxels.presence, v, j, own)
            elif not anew:
                _subtract_row(rows, i, j, own)
            mark[j] = v
    hide_dropped(voxels, v, own.M)


@routine
def is_dropped(voxels: Any, v: int, a: int) -> bool:
    """Return whether column a of Q depends on those before it in the rows present."""
    slot = voxels.slot[v]
    return bool(slot >= 0 and voxels.gram[slot, a * (a + 3) // 2] == 0.0)


@routine
def hide_dropped(voxels: Any, v: int, M: Any) -> None:
    """Set Z'Q to 0 for columns of Q that are dropped; these come last in M.

    With 1 for their own square (`load_gram`) such columns are orthogonal to everything: they
    take no part in the fit, and ln|Q'V^-1 Q| is that of the others.
    """
    p, k = voxels.effect.shape[0], M.shape[1]
    if voxels.rank[v] == p:
        return
    for b in range(p):
        if is_dropped(voxels, v, b):
            for a in range(M.shape[0]):
                for j in range(M.shape[2]):
                    M[a, k - p + b, j] = 0.0


@routine
def has_same_images(presence: Any, v: int, w: int) -> bool:
    """Return whether two voxels have data of the same images."""
    differences = 0
    for i in range(presence.shape[0]):
        differences += presence[i, v] != presence[i, w]
    return differences == 0


@routine
def load_gram(voxels: Any, v: int, gram: Any) -> None:
    """Compute Q'Q of the rows present at voxel v; that of the identity for dropped columns."""
    p = gram.shape[0]
    slot = voxels.slot[v]
    for a in range(p):
        for b in range(a + 1):
            if voxels.rank[v] < p and (is_dropped(voxels, v, a) or is_dropped(voxels, v, b)):
                gram[a, b] = 1.0 if a == b else 0.0
                gram[b, a] = gram[a, b]
                continue
            x = 1.0 if a == b else 0.0
            if slot >= 0:
                x = 0.0
                for k in range(b + 1):
                    x += (
                        voxels.gram[slot, a * (a + 1) // 2 + k]
                        * voxels.gram[slot, b * (b + 1) // 2 + k]
                    )
            gram[a, b] = x
            gram[b, a] = x


@routine
def load_residuals(voxels: Any, v: int, S: Any, M: Any, T: Any) -> None:
    """Compute T = Z'(y - Q gamma) of each level of a single factor, M = Z'Q."""
    q, n = T.shape
    for j in range(n):
        row = j * q
        for a in range(q):
            x = 0.0
            for b in range(q):
                x += S[b, a] * voxels.ZtY[row + b, v]
            T[a, j] = x
    for b in range(M.shape[1]):
        gamma = voxels.effect[b, v]
        for a in range(q):
            for j in range(n):
                T[a, j] -= gamma * M[a, b, j]
