"""Which features touch, as kernels read it: for each feature the list of its neighbours."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Graph(NamedTuple):
    """The neighbours of each feature i: ``neighbour[start[i]:start[i + 1]]``."""

    start: NDArray[np.int64]  # (n + 1,)
    neighbour: NDArray[np.int32]  # (n_touching,), each pair twice

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.start.size - 1


def make_graph(neighbours: "csr_array") -> Graph:
    """Return the graph of a sparse array, as `Space.find_neighbours` gives it.

    Parameters
    ----------
    neighbours : sparse array of shape (n, n)
        Symmetric; entries that are stored count, whatever their value.
    """
    if neighbours.shape[0] != neighbours.shape[1]:
        raise ValueError(f"neighbours are of n by n features, not {neighbours.shape}")
    start = np.require(neighbours.indptr, np.int64, ["C", "W"])
    return Graph(start, np.require(neighbours.indices, np.int32, ["C", "W"]))


def select(graph: Graph, keep: NDArray[np.bool_]) -> Graph:
    """Return the graph of some of the features, numbered anew in the same order.

    Parameters
    ----------
    graph : Graph
    keep : Boolean array of shape (n,)
        For instance where a contrast is estimable.
    """
    if keep.shape != (graph.n_features,):
        raise ValueError(f"keep has shape {keep.shape}, the graph {graph.n_features} features")
    degree = np.diff(graph.start)
    is_kept = np.repeat(keep, degree) & keep[graph.neighbour]
    number = np.cumsum(keep, dtype=np.int32) - np.int32(1)
    before = np.concatenate([[0], np.cumsum(is_kept)])[graph.start]
    start = np.concatenate([[0], np.cumsum(np.diff(before)[keep])]).astype(np.int64)
    return Graph(start, number[graph.neighbour[is_kept]])
