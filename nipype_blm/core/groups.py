"""Which images belong together: the independent groups, of which each has its own variance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from nipype_blm.core.factors import RandomFactor


def find_groups(
    n_obs: int, factors: Sequence[RandomFactor] = (), blocks: ArrayLike | None = None
) -> NDArray[np.int32]:
    """Return the group of each image, numbered as they come.

    Images that share a level of any factor, or a block, are in one group; so are those that
    other images join.  Without factors and blocks each image is its own.

    Parameters
    ----------
    n_obs : int
    factors : sequence of RandomFactor
    blocks : array of shape (n_obs,), optional
        A label for each image.

    Returns
    -------
    integer array of shape (n_obs,)
    """
    labels: list[NDArray[Any]] = [np.asarray(factor.level) for factor in factors]
    if blocks is not None:
        labels.append(np.unique(np.asarray(blocks), return_inverse=True)[1].reshape(-1))
    rows, columns, offset = [], [], n_obs
    for label in labels:
        rows.append(np.arange(n_obs))
        columns.append(label + offset)
        offset += int(label.max()) + 1
    if not labels:
        return np.arange(n_obs, dtype=np.int32)
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = csr_matrix((np.ones(row.size, np.int8), (row, column)), shape=(offset, offset))
    found = connected_components(graph, directed=False)[1][:n_obs]
    _, first, group = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[group.reshape(-1)]
