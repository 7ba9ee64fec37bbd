"""The component tree of a map: which clusters there are at every height, in one structure.

Features are taken from the highest to the lowest, and each is joined to those of its neighbours
that are there already.  A feature together with all that hangs on it is the cluster around it
at its own height, so that clusters at any height, and integrals over all heights, are read from
one tree.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nipype_blm.core._jit import kernel, routine
from nipype_blm.core.clusters.graph import Graph
from nipype_blm.core.linalg import FloatArray

LARGEST = float(np.finfo(np.float32).max)
# Digits of a key of 31 bits; a histogram of one stays in the first-level cache.
_DIGIT = 11
_N_DIGITS = 3


class Tree(NamedTuple):
    """The features of a map above some height, from the highest to the lowest."""

    values: NDArray[np.float32]  # (n,), the map
    top: float  # the highest of them; 0 if there is none
    order: NDArray[np.int32]  # (m,), which feature it is
    heights: NDArray[np.float32]  # (m,), descending
    parent: NDArray[np.int32]  # (m,), place in this order of what it hangs on; m if on nothing
    sizes: NDArray[np.int32]  # (m,), features of its cluster at its height, itself included

    def put(self, values: NDArray[Any]) -> FloatArray:
        """Return a map, (n,), of values in the order of the tree, (m,); 0 at other features."""
        out = np.zeros(self.values.size)
        out[self.order] = values
        return out


class Workspace:
    """Memory for the trees of maps of n features, one after the other.

    Parameters
    ----------
    n : int
    """

    def __init__(self, n: int) -> None:
        self.keys = np.empty((2, n), np.uint32)
        self.order = np.empty((2, n), np.int32)
        self.counts = np.empty((_N_DIGITS, 1 << _DIGIT), np.int64)
        self.above = np.full(n, -1, np.int32)  # -1 between two trees
        self.rank = np.empty(n, np.int32)
        self.parent = np.empty(n, np.int32)
        self.sizes = np.empty(n, np.int32)


def grow_tree(
    values: ArrayLike, graph: Graph, floor: float = 0.0, workspace: Workspace | None = None
) -> Tree:
    """Return the tree of the features with values above `floor`.

    Parameters
    ----------
    values : array of shape (n,)
        Taken as float32.  NaN is not above anything; infinity is the largest float32.
    graph : Graph
    floor : float
        Not negative.
    workspace : Workspace, optional
        Of n features.  The next tree that is grown in it overwrites this one.

    Notes
    -----
    Union-find with path halving ([1]_, [2]_), after a radix sort in three passes.  Equal values
    keep the order of the features, so that a tree depends on nothing but its map.

    References
    ----------
    .. [1] L. Najman and M. Couprie (2006). Building the component tree in quasi-linear time.
       IEEE Transactions on Image Processing 15, 3531-3539.
    .. [2] R. E. Tarjan and J. van Leeuwen (1984). Worst-case analysis of set union algorithms.
       Journal of the ACM 31, 245-281.
    """
    heights = np.ascontiguousarray(values, np.float32)
    if heights.shape != (graph.n_features,):
        raise ValueError(f"values of shape {heights.shape}, the graph has {graph.n_features}")
    work = Workspace(heights.size) if workspace is None else workspace
    bits = heights.view(np.uint32)
    lowest = np.float32(min(max(floor, 0.0), LARGEST)).view(np.uint32)
    top, m = _sort_above(heights, bits, lowest, work.keys, work.order, work.counts)
    order, parent, sizes = work.order[1, :m], work.parent[:m], work.sizes[:m]
    _join(order, graph.start, graph.neighbour, work.above, work.rank, parent, sizes)
    return Tree(heights, top, order, work.keys[1, :m].view(np.float32), parent, sizes)


def find_roots(tree: Tree, height: float) -> NDArray[np.int32]:
    """Return the cluster above `height` of each feature above it, as the place of its lowest.

    Returns
    -------
    roots : array of shape (k,)
        Of the first k features of the tree; all others are at most `height`.
    """
    k = np.count_nonzero(tree.heights > height)
    roots = np.empty(k, np.int32)
    _find_roots(tree.parent[:k], roots)
    return roots


@kernel
def _sort_above(values: Any, bits: Any, floor: Any, keys: Any, order: Any, counts: Any) -> Any:
    """Collect the features above a height, highest first, into the second of `keys` and `order`.

    Floats above 0 are in the order of their bits.
    """
    largest, sign, infinity = np.uint32(0x7F7FFFFF), np.uint32(31), np.uint32(0x7F800000)
    counts[:] = 0
    top, m = -np.inf, 0
    for v in range(bits.size):
        if values[v] > top:
            top = values[v]
        key = bits[v]
        if key >> sign or key > infinity or key <= floor:
            continue
        key = largest - min(key, largest)
        keys[0, m], order[0, m] = key, v
        m += 1
        for digit in range(_N_DIGITS):
            counts[digit, _take_digit(key, digit)] += 1
    for digit in range(_N_DIGITS):
        _start_buckets(counts[digit])
        _sort_digit(digit, m, counts[digit], keys, order)
    for i in range(m):
        keys[1, i] = largest - keys[1, i]
    return (min(top, LARGEST) if top > -np.inf else 0.0), m


@routine
def _take_digit(key: Any, digit: Any) -> Any:
    return (np.uint64(key) >> np.uint64(_DIGIT * digit)) & np.uint64((1 << _DIGIT) - 1)


@routine
def _start_buckets(counts: Any) -> None:
    """Replace counts by where each bucket begins."""
    total = 0
    for i in range(counts.size):
        count = counts[i]
        counts[i] = total
        total += count


@routine
def _sort_digit(digit: Any, m: Any, bucket: Any, keys: Any, order: Any) -> None:
    """Sort by one digit, from one half of `keys` and `order` to the other."""
    source = digit % 2
    for i in range(m):
        key = keys[source, i]
        value = _take_digit(key, digit)
        place = bucket[value]
        bucket[value] = place + 1
        keys[1 - source, place], order[1 - source, place] = key, order[source, i]


@kernel
def _join(
    order: Any, start: Any, neighbour: Any, above: Any, rank: Any, parent: Any, sizes: Any
) -> None:
    """Join each feature to the clusters that its neighbours are in.

    `above` leads from a feature to the lowest of its cluster so far, or is -1.
    """
    m = order.size
    for i in range(m):
        p = order[i]
        above[p] = p
        rank[p] = i
        parent[i] = m
        size = 1
        for edge in range(start[p], start[p + 1]):
            v = above[neighbour[edge]]
            if v < 0 or v == p:
                continue
            while above[v] != v:
                above[v] = above[above[v]]
                v = above[v]
            if v != p:
                above[v] = p
                parent[rank[v]] = i
                size += sizes[rank[v]]
        sizes[i] = size
    for i in range(m):
        above[order[i]] = -1


@kernel
def _find_roots(parent: Any, roots: Any) -> None:
    k = parent.size
    for i in range(k - 1, -1, -1):
        roots[i] = i if parent[i] >= k else roots[parent[i]]
