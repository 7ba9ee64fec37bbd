"""Histograms of values, and how these were asked to be."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.ngv.circuit.targets import cut_normal, find_share
from nipype_blm.report.charts.drawing import COLOURS

FAINT = "#8A8A8A"
_BARS, _TARGET = COLOURS[5], COLOURS[1]


def draw_values(
    axis: Any,
    values: FloatArray | None,
    label: str,
    asked: tuple[float, ...] | None,
    what: str,
) -> None:
    """Draw a histogram, and the density that was asked for."""
    axis.set_xlabel(label)
    if values is None or not values.size:
        return _empty(axis)
    low, high = _choose_range(values, asked)
    inside = values[(values >= low) & (values <= high)]
    n_bins = int(np.clip(2 * len(values) ** 0.5, 5, 30))
    _, edges, _ = axis.hist(inside, n_bins, range=(low, high), color=_BARS, edgecolor="white")
    axis.set_ylabel(what)
    _count_whole(axis)
    if asked is not None:
        x = np.linspace(low, high, 400)
        y = cut_normal(asked).pdf(x) * len(values) * (edges[1] - edges[0])
        axis.plot(x, y, color=_TARGET, linewidth=2, label="as asked")
        _explain(axis)
    far = np.sort(values[(values < low) | (values > high)])
    if len(far):
        where = " and ".join(f"{x:,.0f}" for x in far)
        if len(far) > 2:
            where = f"{len(far)} from {far[0]:,.0f} to {far[-1]:,.0f}"
        axis.set_title(f"beyond: {where}", loc="right", fontsize=10, color=FAINT)
    return None


def _explain(axis: Any) -> None:
    """Say which line is the target, above all bars."""
    axis.set_ylim(0, axis.get_ylim()[1] * 1.25)
    axis.legend(frameon=False, loc="upper right", fontsize=10, handlelength=1.2, borderpad=0)


def _choose_range(values: FloatArray, asked: tuple[float, ...] | None) -> tuple[float, float]:
    """Return a range that has what was asked for and most values, but for those far away."""
    low, high = float(values.min()), float(values.max())
    if asked is not None:
        mean, sd, least, most = asked
        quarter, median, three = np.percentile(values, [25, 50, 75])
        spread = 2.5 * (three - quarter + sd)
        low = min(max(low, median - spread), max(mean - 3.5 * sd, least))
        high = max(min(high, median + spread), min(mean + 3.5 * sd, most))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return low, high


def draw_numbers(
    axis: Any, astrocytes: NDArray[np.int64] | None, n: int, asked: tuple[float, ...] | None
) -> None:
    """Draw how many astrocytes have so many endfeet, and how many were asked for."""
    axis.set_xlabel("endfeet of an astrocyte")
    if astrocytes is None or not n:
        return _empty(axis)
    shown = np.bincount(np.bincount(astrocytes, minlength=n))
    axis.bar(np.arange(len(shown)), shown, width=0.85, color=_BARS)
    axis.set_xlim(-0.7, max(len(shown), 5) - 0.3)
    axis.set_ylabel("astrocytes")
    _count_whole(axis, is_x=True)
    if asked is not None:
        top = max(len(shown), 5, int(np.ceil(min(asked[3], asked[0] + 3 * asked[1]))) + 1)
        numbers = np.arange(top)
        axis.set_xlim(-0.7, top - 0.3)
        axis.plot(numbers, n * find_share(asked, numbers), "o-", color=_TARGET, linewidth=1.5,
                  markersize=5, label="as asked")  # fmt: skip
        _explain(axis)
    return None


def _count_whole(axis: Any, is_x: bool = False) -> None:
    """Have whole numbers at an axis, of counts."""
    from matplotlib.ticker import MaxNLocator

    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if is_x:
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _empty(axis: Any) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    say(axis, "not there yet")


def say(axis: Any, text: str) -> None:
    """Say in a panel what there is not."""
    axis.text(*(0.5, 0.5), text, ha="center", va="center", color=FAINT, transform=axis.transAxes)
