"""Two maps of z against each other."""

from collections.abc import Sequence

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.drawing import INK, Figure, drawing, finish
from nipype_blm.report.naming import cut_name

_LONGEST = 30


def draw_pair(one: FloatArray, other: FloatArray, names: Sequence[str], contrast: str) -> Figure:
    """Draw how many voxels have which z in two runs.

    Parameters
    ----------
    one, other : array of shape (n_voxels,)
        z at the voxels that both have.
    names : sequence of str
        Of the runs.
    contrast : str
    """
    with drawing(3.4, 3.2) as figure:
        axis = figure.subplots()
        if one.size:
            low, high = min(one.min(), other.min()), max(one.max(), other.max())
            axis.hexbin(one, other, gridsize=50, bins="log", cmap="viridis", mincnt=1)
            axis.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
        axis.set_xlabel(f"z of {cut_name(names[0], _LONGEST)}")
        axis.set_ylabel(f"z of {cut_name(names[1], _LONGEST)}")
        axis.set_title(cut_name(contrast, _LONGEST), loc="left", fontsize=10)
        alt = f"z of {contrast} at {one.size:,} voxels in both runs."
        if one.size:
            more = np.mean(np.abs(other) > np.abs(one))
            alt += f" |z| is larger in {names[1]} at {more:.0%} of them."
        return finish(figure, alt)
