"""Null distributions, drawn."""

from collections.abc import Mapping

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.drawing import COLOURS, INK, Figure, drawing, finish
from nipype_blm.results.findings import ALPHA


def draw_nulls(
    nulls: Mapping[str, FloatArray], thresholds: Mapping[str, float], name: str
) -> Figure:
    """Draw the peaks of all resamplings of each summary, with the data and the threshold.

    Parameters
    ----------
    nulls : mapping of str to array of shape (n_resamplings,)
        Of each summary; the first is that of the data.
    thresholds : mapping of str to float
        Of each summary; NaN where no value of it would do.
    name : str
        Of the contrast.
    """
    with drawing(2.6 * len(nulls) + 0.4, 2.4) as figure:
        axes = np.atleast_1d(figure.subplots(1, len(nulls)))
        for axis, (summary, peaks) in zip(axes, nulls.items(), strict=True):
            axis.hist(peaks[1:], bins=40, color=COLOURS[5])
            axis.axvline(
                thresholds[summary], color=INK, linestyle="--", linewidth=1, label=f"p {ALPHA:g}"
            )
            axis.axvline(peaks[0], color=COLOURS[1], linewidth=2, label="data")
            axis.set_title(summary, loc="left", fontsize=10)
            axis.set_xlabel("largest value of a map")
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
        axes[0].legend(fontsize=8)
        axes[0].set_ylabel("resamplings")
        beyond = [name for name, peaks in nulls.items() if peaks[0] >= thresholds[name]]
        said = ", ".join(beyond) or "none"
        alt = f"Null distributions of {name}. The data are beyond the threshold of: {said}."
        return finish(figure, alt)
