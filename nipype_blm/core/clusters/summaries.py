"""What is taken of a map of statistics: its maximum, extents of clusters, TFCE.

Each entry of `SUMMARIES` says what it is once.  Resamplings keep the *peak* of each map, the
largest over all features; the *spread* of the observed map gives each feature the value that is
compared with these peaks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nipype_blm.core.clusters.graph import Graph
from nipype_blm.core.clusters.tfce import compute_tfce
from nipype_blm.core.clusters.tree import LARGEST, Tree, Workspace, find_roots, grow_tree
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import ONE_THREAD, Threads

# Maps that are brought into their own order of memory at once.
_PANEL = 16


class SummaryOptions(NamedTuple):
    """What summaries can be told."""

    height: float = 3.1  # z above which features form clusters
    E: float = 0.5  # TFCE: weight of extent
    H: float = 2.0  # TFCE: weight of height


DEFAULTS = SummaryOptions()


class Summary(NamedTuple):
    """How a map is summarised, one side of it: high values count."""

    words: str
    # Only features above this height decide the peak: a tree of these is enough.
    floor: Callable[[SummaryOptions], float]
    peak: Callable[[Tree, SummaryOptions], float]
    spread: Callable[[Tree, SummaryOptions], FloatArray]  # (n,), of a tree of all above 0


# ------------------------------------------------------------------- maximum of the values

_VOXEL = Summary(
    words="the value itself",
    floor=lambda options: np.inf,
    peak=lambda tree, options: tree.top,
    spread=lambda tree, options: np.clip(tree.values, -LARGEST, LARGEST).astype(np.float64),
)


# ------------------------------------------------------------------- extent of clusters


def _peak_extent(tree: Tree, options: SummaryOptions) -> float:
    k = tree.count_above(options.height)
    is_whole = tree.parent[:k] >= k  # what is below does not belong to the cluster
    return float(tree.sizes[:k][is_whole].max(initial=0))


_EXTENT = Summary(
    words="features in the cluster",
    floor=lambda options: options.height,
    peak=_peak_extent,
    spread=lambda tree, options: _spread(tree, tree.sizes, find_roots(tree, options.height)),
)


# ------------------------------------------------------------------- TFCE

_TFCE = Summary(
    words="threshold-free cluster enhancement",
    floor=lambda options: 0.0,
    peak=lambda tree, options: float(compute_tfce(tree, options.E, options.H).max(initial=0)),
    spread=lambda tree, options: tree.put(compute_tfce(tree, options.E, options.H)),
)


# ------------------------------------------------------------------- mass of clusters


def _weigh(tree: Tree, roots: NDArray[np.int32], options: SummaryOptions) -> FloatArray:
    excess = tree.heights[: roots.size].astype(np.float64) - options.height
    return np.asarray(np.bincount(roots, weights=excess), np.float64)


def _spread_mass(tree: Tree, options: SummaryOptions) -> FloatArray:
    roots = find_roots(tree, options.height)
    return _spread(tree, _weigh(tree, roots, options), roots)


_MASS = Summary(
    words="sum over the cluster of what is above the height",
    floor=lambda options: options.height,
    peak=lambda tree, options: float(
        _weigh(tree, find_roots(tree, options.height), options).max(initial=0)
    ),
    spread=_spread_mass,
)


SUMMARIES = {"voxel": _VOXEL, "cluster": _EXTENT, "tfce": _TFCE, "mass": _MASS}


def _spread(tree: Tree, values: NDArray[np.generic], roots: NDArray[np.int32]) -> FloatArray:
    """Return a map of what the roots of clusters have."""
    found = np.zeros(tree.order.size)
    found[: roots.size] = values[roots]
    return tree.put(found)


def spread_summaries(
    z: ArrayLike,
    graph: Graph,
    names: Sequence[str],
    two_sided: bool = True,
    options: SummaryOptions = DEFAULTS,
) -> FloatArray:
    """Return the summaries of one map at each feature, to be compared with peaks.

    Parameters
    ----------
    z : array of shape (n,)
        Taken as float32; NaN is below everything.
    graph : Graph
    names : list of str
        Of entries of `SUMMARIES`.
    two_sided : bool
        Low values count as high ones do, in clusters of their own.
    options : SummaryOptions

    Returns
    -------
    spread : array of shape (n_summaries, n)
        Of clusters 0 outside of them.  If two-sided, each is that of the side where the feature
        lies: give it the sign of z to show it.
    """
    trees = [grow_tree(side, graph) for side in _list_sides(np.asarray(z, np.float32), two_sided)]
    spread = [
        np.fmax.reduce([SUMMARIES[name].spread(tree, options) for tree in trees]) for name in names
    ]
    return np.array(spread).reshape(len(names), graph.n_features)


def summarise(
    z: ArrayLike,
    graph: Graph,
    names: Sequence[str],
    two_sided: bool = True,
    options: SummaryOptions = DEFAULTS,
    workspace: Workspace | None = None,
) -> FloatArray:
    """Return the peaks of one map, (n_summaries,): the largest of `spread_summaries`.

    All summaries read one tree, which is no larger than they need.
    """
    peaks = np.full(len(names), -np.inf)
    summaries = [SUMMARIES[name] for name in names]
    floor = min((summary.floor(options) for summary in summaries), default=np.inf)
    for side in _list_sides(np.asarray(z, np.float32), two_sided):
        tree = grow_tree(side, graph, floor, workspace)
        for i, summary in enumerate(summaries):
            peaks[i] = max(peaks[i], summary.peak(tree, options))
    return peaks


def summarise_many(
    z: NDArray[np.floating],
    graph: Graph,
    names: Sequence[str],
    two_sided: bool = True,
    options: SummaryOptions = DEFAULTS,
    threads: Threads = ONE_THREAD,
) -> FloatArray:
    """Return the peaks of many maps.

    Parameters
    ----------
    z : array of shape (n, n_maps)
        In any order of memory, or a memory map.
    graph, names, two_sided, options
        As for `summarise`.
    threads : Threads
        Share the maps; the peaks are the same for any number.

    Returns
    -------
    peaks : array of shape (n_summaries, n_maps)
    """
    n_maps = z.shape[1]
    peaks = np.empty((len(names), n_maps))

    def summarise_panels(first: int) -> None:
        workspace = Workspace(graph)
        for start in range(first * _PANEL, n_maps, threads.n * _PANEL):
            panel = np.ascontiguousarray(z[:, start : start + _PANEL].T, np.float32)
            for i, one in enumerate(panel, start):
                peaks[:, i] = summarise(one, graph, names, two_sided, options, workspace)

    threads.run([partial(summarise_panels, first) for first in range(threads.n)])
    return peaks


def _list_sides(z: NDArray[np.float32], two_sided: bool) -> list[NDArray[np.float32]]:
    return [z, -z] if two_sided else [z]
