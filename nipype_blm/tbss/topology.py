"""Ridges made thin and whole: what may go without breaking one, what joins two."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from nipype_blm.tbss.neighbours import DIRECTIONS, Mask, Volume, look

_NEIGHBOURS = np.concatenate([DIRECTIONS, -DIRECTIONS])  # (26, 3)
_APART = np.abs(_NEIGHBOURS[:, None] - _NEIGHBOURS)
_TOUCH_26 = _APART.max(axis=-1) <= 1
_TOUCH_6 = _APART.sum(axis=-1) <= 1
_SHARES_EDGE = np.abs(_NEIGHBOURS).sum(axis=1) <= 2
_SHARES_FACE = np.abs(_NEIGHBOURS).sum(axis=1) == 1


def thin(ridge: Mask, height: Volume, directions: NDArray[np.int8]) -> Mask:
    """Return a ridge without the lower of two voxels that follow each other across it.

    Parameters
    ----------
    ridge : array of shape (nx, ny, nz)
    height : array of shape (nx, ny, nz)
        FA.
    directions : array of shape (nx, ny, nz)
        Across the ridge, rows of `DIRECTIONS`.

    Notes
    -----
    Voxels are judged from the highest to the lowest, each round taking all whose higher neighbours
    are judged.  One goes if a higher one is next to it
    along the direction of either, and if it is simple [1]_ among the higher voxels that stay:
    those around it are one 26-component, and the rest around it is one 6-component, so that
    neither a piece comes off nor a hole appears at any height.

    References
    ----------
    .. [1] G. Bertrand and G. Malandain (1994). A new characterization of three-dimensional
       simple points. Pattern Recognition Letters 15, 169-175.
    """
    stays = np.pad(ridge, 1)
    rank = _rank(ridge, height)
    strides = _find_strides(rank)
    stays, rank = stays.ravel(), rank.ravel()
    lower, higher = _find_pairs(stays, rank, np.pad(directions, 1).ravel(), strides)
    waiting = np.zeros(stays.size, bool)
    waiting[lower] = True
    while lower.size:
        voxels = np.unique(lower)
        around = voxels[:, None] + strides
        above = rank[around] > rank[voxels, None]
        is_ready = ~(waiting[around] & above).any(axis=1)
        partnered = np.isin(voxels, lower[stays[higher]])
        goes = is_ready & partnered & _are_simple(stays[around] & above)
        stays[voxels[goes]] = False
        waiting[voxels[is_ready]] = False
        left = waiting[lower]
        lower, higher = lower[left], higher[left]
    return look(stays.reshape(np.add(ridge.shape, 2)), (0, 0, 0))


def join(ridge: Mask, weak: Mask, height: Volume) -> Mask:
    """Return a ridge and those weak voxels that join pieces of it.

    Parameters
    ----------
    ridge, weak : array of shape (nx, ny, nz)
    height : array of shape (nx, ny, nz)
        FA.

    Notes
    -----
    From the highest to the lowest, a weak voxel is taken if the higher voxels of the ridge beside
    it lie in different pieces of all that is higher of the ridge, and of what was joined already.
    The maximum spanning tree, each edge as high as the lower of its two ends, tells it for every
    height at once: it has one edge from a voxel to each piece of what is higher.
    """
    rank = _rank(ridge | weak, height)
    is_gap = _find_gaps(ridge, weak & ~ridge, rank)
    is_node = ridge | is_gap
    heights = look(rank, (0, 0, 0))[is_node]
    first, second = _find_edges(is_node)
    # A weak voxel that is not taken must not join what is lower than itself.
    is_lower = heights[first] < heights[second]
    higher_end = np.where(is_lower, second, first)
    is_edge = ~is_gap[is_node][higher_end]
    first, second = first[is_edge], second[is_edge]
    # The heaviest edge has the least weight, and none has weight 0, which would be no edge.
    weight = 1.0 + rank.max() - np.minimum(heights[first], heights[second])
    graph = coo_array((weight, (first, second)), shape=(heights.size, heights.size))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    lower_end = np.where(heights[tree.row] < heights[tree.col], tree.row, tree.col)
    joined = ridge.copy()
    joined[is_node] |= np.bincount(lower_end, minlength=heights.size) > 1
    return joined


def _rank(mask: Mask, height: Volume) -> NDArray[np.intp]:
    """Return ranks of what is set by height, from 1, and 0 elsewhere; padded by one voxel."""
    order = np.argsort(height[mask], kind="stable")
    ranks = np.empty(order.size, np.intp)
    ranks[order] = np.arange(1, order.size + 1)
    padded = np.zeros(np.add(mask.shape, 2), np.intp)
    look(padded, (0, 0, 0))[mask] = ranks
    return padded


def _find_strides(padded: NDArray[Any]) -> NDArray[np.intp]:
    """Return the distance of each neighbour in the flat volume, (26,)."""
    strides = np.array(padded.strides) // padded.itemsize
    return _NEIGHBOURS @ strides


def _find_pairs(
    stays: Mask, rank: NDArray[np.intp], directions: NDArray[np.int8], strides: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the lower and the higher voxels of all pairs across the ridge, as flat indices."""
    voxels = np.flatnonzero(stays)
    forward = strides[directions[voxels]]
    first = np.concatenate([voxels, voxels])
    second = np.concatenate([voxels + forward, voxels - forward])
    is_pair = stays[second]
    first, second = first[is_pair], second[is_pair]
    is_lower = rank[first] < rank[second]
    return np.where(is_lower, first, second), np.where(is_lower, second, first)


def _find_gaps(ridge: Mask, weak: Mask, rank: NDArray[np.intp]) -> Mask:
    """Return the weak voxels beside which higher voxels of the ridge are in several pieces."""
    on_ridge = np.pad(ridge, 1).ravel()
    voxels = np.flatnonzero(np.pad(weak, 1))
    around = voxels[:, None] + _find_strides(rank)
    flat = rank.ravel()
    above = on_ridge[around] & (flat[around] > flat[voxels, None])
    gaps = np.zeros(rank.shape, bool)
    gaps.ravel()[voxels] = above.any(axis=1) & ~_are_one(above, _TOUCH_26, above)
    return look(gaps, (0, 0, 0))


def _find_edges(is_node: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the numbers of the nodes at both ends of each pair of neighbours."""
    # SciPy's graphs have 32-bit numbers only.
    number = np.full(np.add(is_node.shape, 2), -1, np.int32)
    look(number, (0, 0, 0))[is_node] = np.arange(np.count_nonzero(is_node))
    firsts, seconds = [], []
    for step in DIRECTIONS:
        other = look(number, step)[is_node]
        first = np.flatnonzero(other >= 0)
        firsts.append(first.astype(np.int32))
        seconds.append(other[first])
    return np.concatenate(firsts), np.concatenate(seconds)


def _are_simple(around: Mask) -> Mask:
    """Return which voxels, (n,), are simple, given what is set around them, (n, 26)."""
    rest = ~around & _SHARES_EDGE
    is_whole = _are_one(around, _TOUCH_26, around)
    return is_whole & _are_one(rest, _TOUCH_6, rest & _SHARES_FACE)


def _are_one(around: Mask, touch: Mask, ends: Mask) -> Mask:
    """Return whether there are ends, (n, 26), and one component of what is set has them all."""
    reached = ends & (np.cumsum(ends, axis=1) == 1)
    steps = touch.astype(np.float32)
    while True:
        grown = (reached.astype(np.float32) @ steps > 0) & around
        if (grown == reached).all():
            return ends.any(axis=1) & ~(ends & ~reached).any(axis=1)
        reached = grown
