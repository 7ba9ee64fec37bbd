"""Threshold-free cluster enhancement, exactly: the integral over heights, read from a tree."""

import math
from typing import Any

import numpy as np

from nipype_blm.core._jit import kernel, routine
from nipype_blm.core.clusters.tree import Tree
from nipype_blm.core.linalg import FloatArray


def compute_tfce(tree: Tree, E: float, H: float) -> FloatArray:
    """Return TFCE of each feature of a tree, (m,), in its order.

    Parameters
    ----------
    tree : Tree
        Of all features above 0.
    E, H : float
        Weights of extent and of height.

    Notes
    -----
    The score of a feature of value v is the integral of ``e(h)^E h^H`` over h from 0 to v, e(h)
    being the features of its cluster at height h ([1]_, eq. 1).  Extents change only at heights
    of the tree, so that an entry of extent e, between its height and that of its parent, adds
    ``e^E (height^(H + 1) - parent^(H + 1)) / (H + 1)`` to all that hang on it.  No step of
    height is chosen.  Values of other programs that sum over steps and leave the length of the
    step out differ by that factor.

    References
    ----------
    .. [1] S. M. Smith and T. E. Nichols (2009). Threshold-free cluster enhancement. NeuroImage
       44, 83-98.
    """
    scores = np.empty(tree.order.size)
    _integrate(tree.heights, tree.parent, tree.sizes, E, H + 1.0, scores)
    return scores


@kernel
def _integrate(heights: Any, parent: Any, sizes: Any, E: float, power: float, scores: Any) -> None:
    """Write scores from the lowest to the highest: a parent comes before what hangs on it."""
    m = heights.size
    for i in range(m - 1, -1, -1):
        above = parent[i]
        low = below = 0.0
        if above < m:
            low, below = np.float64(heights[above]), scores[above]
        height = np.float64(heights[i])
        scores[i] = below
        if height > low:
            step = _raise(height, power) - _raise(low, power)
            scores[i] += _raise(np.float64(sizes[i]), E) * step / power


@routine
def _raise(x: float, power: float) -> float:
    """Return x to a power, quickly for those that everybody uses."""
    if power == 0.5:
        return math.sqrt(x)
    if power == 3.0:
        return x * x * x
    if power == 1.0:
        return x
    return math.pow(x, power)
