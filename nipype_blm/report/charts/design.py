"""Figures of a design, of the data and of a fit: pictures of matrices, and histograms."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.drawing import COLOURS, Figure, drawing, finish
from nipype_blm.report.naming import cut_name

_MOST_LINES = 400  # of a picture of X
_MOST_NAMES = 40  # that can be read beside a picture
_MOST_NUMBERS = 8  # columns of a matrix whose cells are written out
_GREY = "#8c959f"


def draw_design(X: FloatArray, names: Sequence[str], factors: Sequence[RandomFactor]) -> Figure:
    """Draw X with columns in standard deviations, and the levels of each image beside it."""
    n_obs, n_params = X.shape
    sd = X.std(axis=0)
    varies = sd > 1e-12 * np.abs(X).max(axis=0)
    Z = np.full(X.shape, np.nan)
    Z[:, varies] = (X[:, varies] - X[:, varies].mean(axis=0)) / sd[varies]
    every = -(-n_obs // _MOST_LINES)
    Z, n_shown = Z[::every], -(-n_obs // every)
    n_factors = len(factors)
    shares = [max(4, 26 * min(n_params, 24) / 24), *[1.2] * n_factors]
    width = min(9.0, 2.4 + 0.32 * n_params + 0.35 * n_factors)
    with drawing(width, 4.2) as fig:
        axes = fig.subplots(1, 1 + n_factors, squeeze=False, width_ratios=shares)[0]
        bottom = n_shown * every + 0.5
        extent = (0.5, n_params + 0.5, bottom, 0.5)
        shown = _show(axes[0], Z, cmap="RdBu_r", vmin=-2.5, vmax=2.5, extent=extent, aspect="auto")
        _name_columns(axes[0], names, "column of X, from 1")
        axes[0].set_ylabel("image")
        for axis, factor in zip(axes[1:], factors, strict=True):
            levels = (factor.level[::every] % len(COLOURS))[:, None]
            extent = (-0.5, 0.5, bottom, 0.5)
            options = {"vmin": 0, "vmax": len(COLOURS) - 1, "extent": extent, "aspect": "auto"}
            _show(axis, levels, cmap=make_colours(), **options)
            axis.set_xticks([0], [cut_name(factor.name, 16)], rotation=90)
            axis.set_yticks([])
        fig.colorbar(shown, ax=list(axes), label="standard deviations from the mean", shrink=0.8)
        some = f"{n_params} columns for {n_obs:,} images"
        said = "Blue is below the mean of a column, red above it, grey a column without variation."
        if n_factors:
            said += " Beside X: each image in the colour of its level; colours repeat."
        if every > 1:
            said += f" One of {every} images is shown."
        return finish(fig, f"Picture of the design matrix X: {some}.", said)


def draw_correlations(r: FloatArray, names: Sequence[str], alt: str) -> Figure:
    """Draw the correlations of columns of X."""
    n = len(names)
    size = min(6.0, 2.6 + 0.28 * n)
    with drawing(size + 0.6, size) as fig:
        axis = fig.subplots()
        extent = (0.5, n + 0.5, n + 0.5, 0.5)
        shown = _show(axis, r, cmap="RdBu_r", vmin=-1, vmax=1, extent=extent)
        _name_columns(axis, names, "columns that vary, from 1")
        if n <= _MOST_NAMES:
            axis.set_yticks(range(1, n + 1), [cut_name(name) for name in names])
        if n <= _MOST_NUMBERS:
            for i, j in np.ndindex(n, n):
                colour = "white" if abs(r[i, j]) > 0.6 else "black"
                where = {"ha": "center", "va": "center"}
                axis.text(j + 1, i + 1, _write_r(float(r[i, j])), color=colour, size=8, **where)
        fig.colorbar(shown, ax=axis, label="correlation r", shrink=0.8)
        return finish(fig, alt, alt)


def _write_r(r: float) -> str:
    return f"{round(r, 2) + 0.0:.2f}".replace("-", "−")


def _name_columns(axis: Any, names: Sequence[str], numbers: str) -> None:
    """Write the names below a picture, or what their numbers are, if they are too many."""
    axis.spines[:].set_visible(False)
    if len(names) <= _MOST_NAMES:
        places = range(1, len(names) + 1)
        axis.set_xticks(places, [cut_name(name) for name in names], rotation=90)
    else:
        axis.set_xlabel(numbers)


def _show(axis: Any, values: NDArray[Any], **options: Any) -> Any:
    """Draw an array as it is, with what is missing in grey."""
    import matplotlib as mpl

    cmap = mpl.colormaps.get_cmap(options.pop("cmap")).with_extremes(bad=_GREY)
    return axis.imshow(np.ma.masked_invalid(values), cmap=cmap, interpolation="none", **options)


def make_colours() -> Any:
    """Return a map of colours from 0 on."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(COLOURS)


class Line(NamedTuple):
    """A line across a histogram."""

    at: float
    words: str


def draw_histogram(
    values: FloatArray,
    x: str,
    y: str,
    alt: str,
    caption: str = "",
    line: Line | None = None,
) -> Figure:
    """Draw how often values occur: whole numbers, or ranges.

    Of others than whole numbers the outermost 0.1 % are in the outermost bars.
    """
    values = values[np.isfinite(values)]
    if values.size and not _are_whole(values):  # few that are far out hide the others
        values = np.clip(values, *np.percentile(values, [0.1, 99.9]))
    if line is None and values.size:
        line = Line(float(np.median(values)), "median")
    with drawing(4.6, 2.5) as fig:
        axis = fig.subplots()
        axis.hist(values, bins=_find_bins(values), color=COLOURS[0], rwidth=0.92)
        axis.set(xlabel=x, ylabel=y)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.locator_params(axis="y", nbins=5, integer=True)
        axis.locator_params(axis="x", nbins=7, integer=_are_whole(values))
        if line is not None:
            axis.axvline(line.at, color=COLOURS[1], lw=1.5, ls="--", label=line.words)
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
        return finish(fig, alt, caption)


def _are_whole(values: FloatArray) -> bool:
    return bool((values == np.round(values)).all())


def _find_bins(values: FloatArray) -> FloatArray:
    """Return the edges of bars; they are in the middle between whole numbers."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if _are_whole(values):
        width = max(1, int(np.ceil((high - low + 1) / 60)))
        return np.arange(low - 0.5, high + width + 0.5, width)
    return np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
