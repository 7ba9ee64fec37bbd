"""Figures of the data at one voxel: against what was tested, their residuals, random effects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri

from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.axes import Shown
from nipype_blm.report.charts.drawing import COLOURS, INK, drawing, finish
from nipype_blm.report.charts.drawing import Figure as Drawn
from nipype_blm.report.naming import cut_name
from nipype_blm.stages.voxelfits import LevelEffects, VoxelFit

GREY = "#8a9199"  # on white and on black
MOST_DRAWN = 60  # levels with a colour of their own
MOST_LINES = 600  # of levels
MOST_LABELLED = 24
_EXTREMES = 5  # labelled of more levels, at either end
_MOST_SHAPES = 400  # beyond it they are drawn as a picture
_MOST_PANELS = 2  # of random effects
_SIZE = (9.4, 2.9)  # inches


class Quantiles(NamedTuple):
    """Standardised residuals against those of a normal distribution."""

    rows: NDArray[np.intp]  # images, ascending by residual
    expected: FloatArray
    observed: FloatArray
    lower: FloatArray  # 95 % of each by itself, if they were normal and independent
    upper: FloatArray

    @property
    def is_outside(self) -> NDArray[np.bool_]:
        """Which are beyond those limits."""
        return np.asarray((self.observed < self.lower) | (self.observed > self.upper))


def compare_quantiles(fit: VoxelFit) -> Quantiles:
    """Return the quantiles of the residuals of a voxel.

    The i-th smallest of n has the distribution Beta(i, n + 1 - i) under the normal distribution
    function.
    """
    known = np.flatnonzero(~np.isnan(fit.standardised))
    rows = known[np.argsort(fit.standardised[known], kind="stable")]
    n = rows.size
    i = np.arange(1, n + 1)
    lower, upper = (ndtri(betaincinv(i, n + 1 - i, p)) for p in (0.025, 0.975))
    return Quantiles(rows, ndtri((i - 0.5) / n), fit.standardised[rows], lower, upper)


class Panel(NamedTuple):
    """One random effect of one factor."""

    levels: LevelEffects
    effect: int


def choose_panels(fit: VoxelFit) -> list[Panel]:
    """Return the random effects that are drawn: the first of each factor come first."""
    most = max((len(each.effects) for each in fit.levels), default=0)
    found = [
        Panel(levels, effect)
        for effect in range(most)
        for levels in fit.levels
        if effect < len(levels.effects) and levels.is_present.any()
    ]
    return found[:_MOST_PANELS]


def draw_peak(
    shown: Shown, fit: VoxelFit, names: Sequence[str], labels: tuple[str, str], words: Drawn
) -> Drawn:
    """Return one row of panels: the data, the quantiles of residuals, and random effects.

    Parameters
    ----------
    shown : Shown
    fit : VoxelFit
    names : sequence of str
        Of all images.
    labels : tuple of str
        Of the x and the y axis of the data.
    words : Drawn
        The sentences about the figure, without its picture.
    """
    panels = choose_panels(fit)
    with drawing(*_SIZE) as figure:
        widths = [3.6 if panels else 5.0, 2.6, *(2.4 for _ in panels)]
        data, quantiles, *effects = figure.subplots(1, len(widths), width_ratios=widths)
        _draw_data(data, shown, fit, labels)
        _draw_quantiles(quantiles, compare_quantiles(fit), names)
        for axes, panel in zip(effects, panels, strict=True):
            _draw_effects(axes, panel)
        return finish(figure, words.alt, words.caption)


def _draw_data(axes: Any, shown: Shown, fit: VoxelFit, labels: tuple[str, str]) -> None:
    """Draw points, the fitted line or means with limits, and the fit of each level."""
    x = _spread(shown) if shown.axis.kind == "category" else shown.x
    is_many = x.size > _MOST_SHAPES
    colours = _draw_levels(axes, shown, fit, x)
    style: dict[str, Any] = {"s": 14 if x.size < 200 else 3, "linewidths": 0, "zorder": 3}
    style |= {"alpha": 1 if is_many else 0.75, "rasterized": is_many}
    axes.scatter(x, shown.y, c=colours, **style)
    line = shown.line
    if shown.axis.kind == "category":
        half = line.upper - line.y
        axes.errorbar(
            *(line.x, line.y, half), fmt="_", color=INK, ms=16, mew=1.8, lw=1.4, capsize=4, zorder=4
        )
        axes.set_xticks(line.x, [_label(shown.axis.categories, k, line.x.size) for k in line.x])
        axes.set_xlim(-0.6, len(shown.axis.categories) - 0.4)
        if line.x.size > 4:
            axes.tick_params(axis="x", labelrotation=45, labelsize=7)
    else:
        axes.plot(line.x, line.y, color=INK, lw=1.6, zorder=4)
        if not np.isnan(line.lower).all():
            axes.fill_between(line.x, line.lower, line.upper, color=INK, alpha=0.14, lw=0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])


def _label(categories: Sequence[str], number: float, n: int) -> str:
    return cut_name(categories[int(number)], max(6, 32 // max(n, 2)))


def _spread(shown: Shown) -> FloatArray:
    """Return places beside each other of the images of a category, by their order."""
    number = np.arange(shown.x.size)
    shift = (number * 0.618034) % 1 - 0.5  # even, and the same each time
    return shown.x + 0.36 * shift


def _draw_levels(axes: Any, shown: Shown, fit: VoxelFit, x: FloatArray) -> Any:
    """Draw the own line of each level of the first factor; return the colours of the points."""
    if not fit.levels:
        return COLOURS[0]
    level = fit.levels[0].level[shown.rows]
    known = np.unique(level)
    is_coloured = known.size <= MOST_DRAWN
    palette = [COLOURS[k % len(COLOURS)] if is_coloured else GREY for k in range(known.size)]
    lines = []
    for k in known[:MOST_LINES]:
        rows = np.flatnonzero(level == k)
        rows = rows[np.argsort(x[rows], kind="stable")]
        lines.append(_lengthen(x[rows], shown.own[rows], np.ptp(x)))
    from matplotlib.collections import LineCollection

    style: dict[str, Any] = {"linewidths": 0.7, "alpha": 0.6 if is_coloured else 0.25, "zorder": 2}
    style |= {"colors": palette[: len(lines)], "rasterized": not is_coloured}
    axes.add_collection(LineCollection(lines, **style))
    return [palette[i] for i in np.searchsorted(known, level)]


def _lengthen(x: FloatArray, y: FloatArray, width: float) -> FloatArray:
    """Return a line; one that would be a point is made a stroke of 3 % of the width."""
    if np.ptp(x) > 0 or not x.size:
        return np.column_stack([x, y])
    half = 0.015 * width
    return np.array([[x[0] - half, y.mean()], [x[0] + half, y.mean()]])


def _draw_quantiles(axes: Any, found: Quantiles, names: Sequence[str]) -> None:
    axes.set_xlabel("normal quantile")
    axes.set_ylabel("residual, sd")
    if not found.rows.size:
        axes.text(0.5, 0.5, "no residual", ha="center", transform=axes.transAxes)
        return
    n = found.rows.size
    some = np.unique(np.r_[np.linspace(0, n - 1, 150).round().astype(int), :10, n - 10 : n])
    some = some[(some >= 0) & (some < n)]
    limits = found.expected[some], found.lower[some], found.upper[some]
    axes.fill_between(*limits, color=GREY, alpha=0.25, lw=0)
    axes.plot(found.expected[[0, -1]], found.expected[[0, -1]], color=GREY, lw=1)
    style = {"s": 14 if n < 200 else 3, "color": COLOURS[0], "linewidths": 0, "zorder": 3}
    axes.scatter(found.expected, found.observed, rasterized=n > _MOST_SHAPES, **style)
    _name_extremes(axes, found, names)


def _name_extremes(axes: Any, found: Quantiles, names: Sequence[str]) -> None:
    """Write the names of up to two images at either end that stand out."""
    n = found.rows.size
    stands_out = found.is_outside | (np.abs(found.observed) > 3)
    low = [i for i in range(min(2, n // 2)) if stands_out[i] and found.observed[i] < -1.5]
    high = [n - 1 - i for i in range(min(2, n // 2))]
    high = [i for i in high if stands_out[i] and found.observed[i] > 1.5]
    size = np.ptp(axes.get_ylim()) * 0.055
    for chosen, sign, side in ((low, 1, "left"), (high, -1, "right")):
        height = -np.inf * sign
        for i in chosen:
            at = found.observed[i]
            height = max(at, height + size) if sign > 0 else min(at, height - size)
            shift = 5 if side == "left" else -5
            text = cut_name(names[found.rows[i]], 20)
            place = {"xytext": (shift, 0), "textcoords": "offset points", "ha": side}
            axes.annotate(text, (found.expected[i], height), va="center", fontsize=7, **place)


def _draw_effects(axes: Any, panel: Panel) -> None:
    """Draw the random effects of levels, sorted, with 95 % limits."""
    levels, effect = panel
    present = np.flatnonzero(levels.is_present)
    order = present[np.argsort(levels.blup[present, effect], kind="stable")]
    values, half = levels.blup[order, effect], 1.96 * levels.sd[order, effect]
    place = np.arange(order.size)
    is_many = order.size > _MOST_SHAPES
    axes.axvline(0, color=GREY, lw=0.8)
    options = {"color": COLOURS[0], "rasterized": is_many}
    axes.hlines(place, values - half, values + half, lw=1 if order.size < 80 else 0.5, **options)
    axes.scatter(values, place, s=8 if order.size < 80 else 2, linewidths=0, zorder=3, **options)
    labelled = place
    if order.size > MOST_LABELLED:
        labelled = np.r_[place[:_EXTREMES], place[-_EXTREMES:]]
        # The others have the room; those of either end would lie on each other.
        gap = order.size / MOST_LABELLED
        at = np.r_[gap * np.arange(_EXTREMES), place[-1] - gap * np.arange(_EXTREMES)[::-1]]
    else:
        at = place.astype(float)
    texts = [cut_name(levels.levels[order[k]], 14) for k in labelled]
    axes.set_yticks(at, texts, fontsize=7 if order.size <= 16 or order.size > 24 else 6)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.8, order.size - 0.2)
    name = f"{cut_name(levels.effects[effect], 16)} of {cut_name(levels.factor, 16)}"
    axes.set_xlabel(name)
