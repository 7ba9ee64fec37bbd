"""Clusters of a map and their peaks, as a table."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nipype_blm.core._jit import kernel
from nipype_blm.core.clusters.graph import Graph
from nipype_blm.core.clusters.tree import Tree, find_roots, grow_tree
from nipype_blm.core.linalg import FloatArray


class Peak(NamedTuple):
    """A feature that is higher than what lies around it."""

    feature: int
    z: float


class Cluster(NamedTuple):
    """Features of one sign that touch, above a height."""

    size: int  # features
    mass: float  # sum of \|z\| - height
    peak: Peak
    sub_peaks: tuple[Peak, ...]  # others, the highest first


class ClusterTable(NamedTuple):
    """The clusters of a map."""

    clusters: list[Cluster]  # those of positive z first; the largest of a sign first
    labels: NDArray[np.int32]  # (n,), number of the cluster in the list from 1, 0 outside


def find_clusters(z: ArrayLike, graph: Graph, height: float) -> NDArray[np.int32]:
    """Return labels, (n,), of the clusters of features above `height`.

    The largest cluster is 1, of clusters of one size that of the first feature comes first; 0
    is outside.  Clusters of negative values are those of -z.
    """
    tree = grow_tree(z, graph, height)
    return _number(tree, find_roots(tree, height))


def make_table(
    z: ArrayLike,
    graph: Graph,
    height: float,
    coordinates: FloatArray,
    distance: float = 8.0,
    n_sub_peaks: int = 3,
    two_sided: bool = True,
) -> ClusterTable:
    """Return the clusters of a map with their peaks.

    Parameters
    ----------
    z : array of shape (n,)
        Taken as float32; NaN belongs to no cluster.
    graph : Graph
    height : float
        Clusters are of features with z, or -z, above it.  Not negative.
    coordinates : array of shape (n, 3)
        Of the features, in mm.
    distance : float
        Peaks of one cluster lie as far apart at least.
    n_sub_peaks : int
        As many for each cluster at most, beside its peak.
    two_sided : bool
        Whether there are clusters of negative values.

    Notes
    -----
    A peak is a feature, or a plateau of equal ones, that no neighbour exceeds; a plateau is
    reported at its first feature.  Of the peaks of a cluster the highest is taken, then each next
    one that is far enough from all that were.
    """
    z = np.asarray(z, np.float32)
    clusters: list[Cluster] = []
    labels = np.zeros(z.size, np.int32)
    for side in (z, -z) if two_sided else (z,):
        tree = grow_tree(side, graph, height)
        numbers = _number(tree, find_roots(tree, height))
        peaks = [
            _choose_apart(peaks, coordinates, distance, 1 + n_sub_peaks)
            for peaks in _split_peaks(tree, numbers)
        ]
        labels[numbers > 0] = numbers[numbers > 0] + len(clusters)
        clusters += _describe(z, tree, numbers, height, peaks)
    return ClusterTable(clusters, labels)


def _describe(
    z: NDArray[np.float32],
    tree: Tree,
    numbers: NDArray[np.int32],
    height: float,
    peaks: list[list[int]],
) -> list[Cluster]:
    cluster = numbers[tree.order] - 1
    sizes = np.bincount(cluster)
    masses = np.bincount(cluster, weights=tree.heights.astype(np.float64) - height)
    found = [[Peak(feature, float(z[feature])) for feature in features] for features in peaks]
    return [
        Cluster(int(size), float(mass), first, tuple(others))
        for size, mass, (first, *others) in zip(sizes, masses, found, strict=True)
    ]


def _split_peaks(tree: Tree, numbers: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Return the peaks of each cluster, the highest first."""
    peaks = tree.order[_find_peaks(tree)]
    cluster = numbers[peaks]
    in_order = peaks[np.argsort(cluster, kind="stable")]
    n_peaks = np.bincount(cluster)[1:]  # from 1 on, and each has one at least
    return np.split(in_order, np.cumsum(n_peaks)[:-1]) if n_peaks.size else []


def _number(tree: Tree, roots: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a map of the numbers of clusters: by size, then by their first feature."""
    features = tree.order[: roots.size]
    own, cluster, sizes = np.unique(roots, return_inverse=True, return_counts=True)
    first = np.full(own.size, tree.values.size)
    np.minimum.at(first, cluster, features)
    number = np.empty(own.size, np.int32)
    number[np.lexsort((first, -sizes))] = np.arange(1, own.size + 1)
    labels = np.zeros(tree.values.size, np.int32)
    labels[features] = number[cluster]
    return labels


def _find_peaks(tree: Tree) -> NDArray[np.intp]:
    """Return the places in the tree of its peaks, the highest first."""
    m = tree.order.size
    seen, is_peak = np.zeros((2, m), np.bool_)
    _mark_peaks(tree.heights, tree.parent, np.empty(m, np.int32), seen, is_peak)
    return np.flatnonzero(is_peak)


@kernel
def _mark_peaks(heights: Any, parent: Any, plateau: Any, seen: Any, is_peak: Any) -> None:
    """Mark the first feature of each plateau from which nothing is higher.

    `plateau` becomes the last feature of equal height; what is higher is in the order before it.
    """
    m = heights.size
    for i in range(m - 1, -1, -1):
        above = parent[i]
        is_level = above < m and heights[above] == heights[i]
        plateau[i] = plateau[above] if is_level else i
    for i in range(m):
        is_peak[i] = not seen[plateau[i]]
        seen[plateau[i]] = True
        if parent[i] < m:
            seen[plateau[parent[i]]] = True


def _choose_apart(
    peaks: NDArray[np.int32], coordinates: FloatArray, distance: float, most: int
) -> list[int]:
    """Return the first peaks that are far enough from those before them."""
    chosen: list[int] = []
    for peak in peaks:
        if len(chosen) == most:
            break
        gaps = coordinates[chosen] - coordinates[peak]
        if (np.einsum("ij,ij->i", gaps, gaps) >= distance**2).all():
            chosen.append(int(peak))
    return chosen
