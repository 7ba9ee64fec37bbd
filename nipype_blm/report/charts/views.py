"""Maps in a page: slices over a background, and a glass brain."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.drawing import INK, Figure, drawing, finish
from nipype_blm.report.naming import cut_name
from nipype_blm.report.tables import write_number
from nipype_blm.results.findings import format_mm
from nipype_blm.results.results import Results

_MNI = 4  # the code of a space in the header of NIfTI
_N_CUTS = 7
_MOST_PIXELS = 140  # of a side of a slice: large volumes are thinned out
_MARGIN = 0.04  # around what was fitted, of its width
# Inches: the figure, beside the slices, above and below them, and a row at most.
_WIDTH, _SIDE, _TITLE, _LABELS, _HIGHEST = 9.0, 1.1, 0.28, 0.3, 3.0
_LONGEST = 90  # letters of a title


class Backdrop(NamedTuple):
    """What maps are drawn over."""

    image: Any
    words: str  # what it is
    is_mni: bool  # whether the result itself lies in MNI space


class Row(NamedTuple):
    """One map of a figure."""

    image: Any
    title: str
    least: float | None = None  # what is closer to 0 is not drawn


@dataclass(frozen=True)
class Grid:
    """The voxels of an image, from left to right, back to front, bottom to top."""

    image: Any

    @cached_property
    def _orientation(self) -> NDArray[Any]:
        return io_orientation(self.image.affine)

    @property
    def _has_directions(self) -> bool:
        """Whether the header says where voxels are; some say nothing that makes sense."""
        affine = self.image.affine
        return bool(np.isfinite(affine).all() and not np.isnan(self._orientation).any())

    @cached_property
    def values(self) -> NDArray[Any]:
        """Of the first volume."""
        found = np.asanyarray(self.image.dataobj)
        found = found.reshape(found.shape[:3] + (1,) * (3 - found.ndim) + (-1,))[..., 0]
        return apply_orientation(found, self._orientation) if self._has_directions else found

    @cached_property
    def affine(self) -> FloatArray:
        """From voxels of `values` to mm."""
        if not self._has_directions:
            return np.eye(4)
        shape = self.image.shape[:3]
        return np.asarray(self.image.affine @ inv_ornt_aff(self._orientation, shape))

    @property
    def sizes(self) -> FloatArray:
        """Of a voxel along each axis, in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    def find_voxels(self, places: Any) -> FloatArray:
        """Return where places in mm are."""
        return np.asarray(apply_affine(np.linalg.inv(self.affine), np.asarray(places, float)))


class Cuts(NamedTuple):
    """The slices of a grid that are drawn."""

    axis: int
    numbers: list[int]
    labels: list[str]

    def find_label(self, grid: Grid, place: Sequence[float]) -> str:
        """Return the slice that a place is in, if it is drawn."""
        number = int(np.rint(grid.find_voxels(place)[self.axis]))
        return self.labels[self.numbers.index(number)] if number in self.numbers else ""


def make_image(results: Results, values: NDArray[Any]) -> Any:
    """Return an image of values at the voxels of a result; 0 elsewhere."""
    mask = results.image("mask")
    out = np.zeros(results.inside.size, np.float32)
    out[results.inside] = values
    return nib.Nifti1Image(out.reshape(mask.shape[:3], order="F"), mask.affine)


def find_backdrop(results: Results, background: Path | None = None) -> Backdrop:
    """Return what the maps of a result are drawn over.

    A file that was given; the template of MNI, if the result lies in its space; else what the
    result itself has.
    """
    is_mni = lies_in_mni(results)
    if background is not None:
        return Backdrop(nib.load(background), background.name, is_mni)
    if is_mni:
        from nilearn.datasets import load_mni152_template

        return Backdrop(load_mni152_template(resolution=2), "the MNI template", True)
    return _find_own_backdrop(results)


def _find_own_backdrop(results: Results) -> Backdrop:
    constant = np.flatnonzero((np.ptp(results.X, axis=0) == 0) & (results.X[0] != 0))
    if constant.size and "beta" in results.maps:
        image = make_image(results, results.vector("beta", int(constant[0])))
        return Backdrop(image, "the estimate of the intercept", False)
    if "n" in results.maps:
        n = results.vector("n")
        if np.ptp(n) > 0:
            return Backdrop(make_image(results, n), "the number of images with data", False)
    return Backdrop(results.image("mask"), "the mask of the result", False)


def lies_in_mni(results: Results) -> bool:
    """Return whether a result is in MNI space, as its header says or its mask looks like."""
    image = results.image("mask")
    codes = (image.header["sform_code"], image.header["qform_code"])
    if _MNI in codes:
        return True
    grid = Grid(image)
    inside = np.argwhere(grid.values > 0)
    if not len(inside):
        return False
    places = apply_affine(grid.affine, inside)
    # The brain of MNI reaches from -72, -107, -72 to 72, 72, 82; loading it takes seconds.
    low, high = np.array([-72, -107, -72]), np.array([72, 72, 82])
    extent = np.ptp(places, axis=0) / (high - low)
    if (extent < 0.6).any() or (extent > 1.4).any():
        return False
    return _find_share_in_brain(places) >= 0.9


def _find_share_in_brain(places: FloatArray) -> float:
    from nilearn.datasets import load_mni152_brain_mask
    from scipy import ndimage

    brain = Grid(load_mni152_brain_mask(resolution=2))
    wide = ndimage.binary_dilation(brain.values > 0, iterations=2)
    voxels = np.rint(brain.find_voxels(places)).astype(int)
    fits = ((voxels >= 0) & (voxels < wide.shape)).all(axis=1)
    return float(np.count_nonzero(wide[tuple(voxels[fits].T)]) / len(places))


def choose_cuts(mask: Any, peaks: Sequence[Sequence[float]] = (), most: int = _N_CUTS) -> Cuts:
    """Return slices through peaks, the first ones first, and others spread over a mask.

    Parameters
    ----------
    mask : image
        What is not 0 is what is to be seen.
    peaks : sequence of places, in mm
    most : int
    """
    grid = Grid(mask)
    shape = grid.values.shape
    axis = 2 if shape[2] == 1 or min(shape) > 1 else int(np.argmin(shape))
    used = np.flatnonzero((np.nan_to_num(grid.values) != 0).any(axis=_others(axis)))
    if not used.size:
        used = np.arange(shape[axis])
    through = np.rint(grid.find_voxels(np.reshape(peaks, (-1, 3)))[:, axis]).astype(int)
    chosen = list(dict.fromkeys(through[(through >= 0) & (through < shape[axis])].tolist()))[:most]
    # Next the one that is farthest from all others; the ends of a mask show little.
    inner = used[used.size // 10 : used.size - used.size // 10]
    while len(chosen) < min(most, inner.size):
        if not chosen:
            chosen.append(int(inner[inner.size // 2]))
            continue
        distance = np.abs(inner[:, None] - chosen).min(axis=1)
        if distance.max() == 0:
            break
        chosen.append(int(inner[distance.argmax()]))
    numbers = sorted(chosen)
    return Cuts(axis, numbers, [_name_cut(grid, axis, number) for number in numbers])


def _others(axis: int) -> tuple[int, int]:
    return {0: (1, 2), 1: (0, 2), 2: (0, 1)}[axis]


def _name_cut(grid: Grid, axis: int, number: int) -> str:
    middle = (np.array(grid.values.shape) - 1) / 2
    middle[axis] = number
    mm = float(apply_affine(grid.affine, middle)[axis])
    height = format_mm(mm, float(grid.sizes[axis])).replace("-", "−")
    # Slices of oblique images have no one height.
    is_straight = np.count_nonzero(np.abs(grid.affine[axis, :3]) > 1e-3) <= 1
    return f"{'xyz'[axis]} {'=' if is_straight else '≈'} {height} mm"


def draw_map(
    image: Any,
    *,
    background: Any = None,
    title: str = "",
    cmap: str = "viridis",
    symmetric: bool = False,
    threshold: float | None = None,
    unit: str = "",
) -> Figure:
    """Draw slices of one map.

    Parameters
    ----------
    image : image
        What is 0 or not finite is not drawn.
    background : image, optional
        On any grid, such as ``run.backdrop.image``.
    title, cmap, unit : str
    symmetric : bool
        Whether the colours are to be centred on 0.
    threshold : float, optional
        Values that are closer to 0 are not drawn.

    Returns
    -------
    Figure
    """
    shown = Grid(image).values
    shown = shown[np.isfinite(shown) & (shown != 0)]
    of = f"{title or 'Map'}{', in ' + unit if unit else ''}"
    alt = f"{of}: no voxel has a value."
    if shown.size:
        low, middle, high = map(write_number, map(float, np.quantile(shown, [0, 0.5, 1])))
        alt = f"{of}: from {low} to {high}, median {middle}, at {shown.size:,} voxels."
    row = Row(image, title, threshold)
    cuts = choose_cuts(image)
    return draw_rows([row], cuts, background, image, alt, cmap=cmap, symmetric=symmetric, unit=unit)


def draw_rows(
    rows: Sequence[Row],
    cuts: Cuts,
    background: Any,
    mask: Any,
    alt: str,
    caption: str = "",
    *,
    cmap: str = "RdYlBu_r",
    symmetric: bool = True,
    unit: str = "",
) -> Figure:
    """Draw the same slices of maps of one grid, below each other, in the same colours."""
    import matplotlib as mpl

    values = [Grid(row.image).values for row in rows]
    norm = mpl.colors.Normalize(*_find_range(values, symmetric))
    colours = mpl.cm.ScalarMappable(norm, cmap)
    sheet = _Sheet(Grid(mask), cuts, background)
    # Placed by hand, which is several times as fast as any layout.
    width = min(_WIDTH - _SIDE, _HIGHEST / sheet.aspect)
    step = _TITLE + sheet.aspect * width
    height = len(rows) * step + _LABELS
    with drawing(_WIDTH, height) as figure:
        figure.set_layout_engine("none")
        for i, (row, found) in enumerate(zip(rows, values, strict=True), 1):
            bottom = height - i * step
            place = (0.0, bottom / height, width / _WIDTH, (step - _TITLE) / height)
            axes = figure.add_axes(place)
            picture = sheet.compose(found, row.least, colours)
            # Rows that look the same would have the same id.
            axes.imshow(picture, interpolation="none", aspect="auto", gid=f"row-{i}")
            axes.set_axis_off()
            axes.set_title(cut_name(row.title, _LONGEST), fontsize=9, loc="left", pad=3)
        for middle, label in zip(sheet.middles, cuts.labels, strict=True):
            at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            axes.annotate(label, (middle, 0), (0, -4), ha="center", va="top", fontsize=8, **at)
        length = min(height - _LABELS - _TITLE, 1.6)
        place = ((width + 0.15) / _WIDTH, _LABELS / height, 0.12 / _WIDTH, length / height)
        bar = figure.colorbar(colours, cax=figure.add_axes(place), label=cut_name(unit, 30))
        bar.solids.set_rasterized(True)  # else each of 256 colours is an element of the page
        bar.outline.set_visible(False)
        return finish(figure, alt, caption)


def find_shade(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a background as shades of gray, 0 where there is nothing."""
    some = values[values != 0]
    low, high = np.quantile(some, [0.01, 0.99]) if some.size else (0.0, 1.0)
    scaled = np.clip((values - low) / (high - low or 1), 0, 1)
    # What is around a head is not quite 0.
    is_there = values > 0.08 * high if values.min() >= 0 else values != 0
    return np.where(is_there, 40 + 200 * scaled, 0).astype(np.uint8)


def _find_range(values: Sequence[NDArray[Any]], symmetric: bool) -> tuple[float, float]:
    found = np.concatenate([each[np.isfinite(each) & (each != 0)] for each in values])
    if not found.size:
        return (-1.0, 1.0) if symmetric else (0.0, 1.0)
    if symmetric:
        high = float(np.quantile(np.abs(found), 0.999))
        return -high, high
    low, high = map(float, np.quantile(found, [0.001, 0.999]))
    return (low, high) if high > low else (min(0.0, low), max(1.0, high))


class _Sheet:
    """Slices side by side, of one size whatever the map: pixels, and the background in them."""

    def __init__(self, grid: Grid, cuts: Cuts, background: Any) -> None:
        self._grid, self._cuts = grid, cuts
        across, up = _others(cuts.axis)
        step = max(self._find_step(background), *map(self._find_least_step, (across, up)))
        self._across = self._find_pixels(across, step)
        self._up = self._find_pixels(up, step)[::-1]
        self._gray = None if background is None else self._find_gray(Grid(background))

    def _find_step(self, background: Any) -> float:
        """Return the size of a pixel that loses nothing, in mm."""
        own = self._grid.sizes[list(_others(self._cuts.axis))].min()
        return float(
            own if background is None else min(own, max(1.5, Grid(background).sizes.min()))
        )

    @cached_property
    def _box(self) -> list[tuple[float, float]]:
        """The first and the last voxel to be seen along each axis."""
        inside = np.nan_to_num(self._grid.values) != 0
        box = []
        for axis, n in enumerate(inside.shape):
            used = np.flatnonzero(inside.any(axis=_others(axis)))
            first, last = (used[0], used[-1]) if used.size else (0, n - 1)
            margin = max(_MARGIN * (last - first), 0)
            box.append((max(first - margin, 0) - 0.5, min(last + margin, n - 1) + 0.5))
        return box

    def _find_least_step(self, axis: int) -> float:
        first, last = self._box[axis]
        return float((last - first) * self._grid.sizes[axis] / _MOST_PIXELS)

    def _find_pixels(self, axis: int, step: float) -> FloatArray:
        """Return the voxel of each pixel along an axis."""
        first, last = self._box[axis]
        n = max(1, round((last - first) * self._grid.sizes[axis] / step))
        return first + (np.arange(n) + 0.5) * (last - first) / n

    @property
    def aspect(self) -> float:
        """Height over width, of all slices in a row."""
        return float(self._up.size / (self._pitch * len(self._cuts.numbers)))

    @property
    def _pitch(self) -> int:
        """From one slice to the next, in pixels."""
        return self._across.size + max(1, self._across.size // 20)

    @property
    def middles(self) -> NDArray[np.floating[Any]]:
        """Where slices are, in pixels."""
        starts = np.arange(len(self._cuts.numbers)) * self._pitch
        return starts + (self._across.size - 1) / 2

    def _find_gray(self, behind: Grid) -> NDArray[np.uint8]:
        """Return the background in each slice: (n_slices, up, across), 0 where there is none."""
        from scipy.ndimage import map_coordinates

        values = np.nan_to_num(np.asarray(behind.values, np.float32))
        to_behind = np.linalg.inv(behind.affine) @ self._grid.affine
        found = []
        for number in self._cuts.numbers:
            voxels = apply_affine(to_behind, self._find_places(number))
            found.append(map_coordinates(values, np.moveaxis(voxels, -1, 0), order=1))
        return find_shade(np.stack(found))

    def _find_places(self, number: int) -> FloatArray:
        places = np.empty((self._up.size, self._across.size, 3))
        across, up = _others(self._cuts.axis)
        places[..., across] = self._across
        places[..., up] = self._up[:, None]
        places[..., self._cuts.axis] = number
        return places

    def compose(self, values: NDArray[Any], least: float | None, colours: Any) -> NDArray[np.uint8]:
        """Return the slices of a map over the background, as red, green, blue and opacity."""
        tiles = []
        for i, number in enumerate(self._cuts.numbers):
            voxels = np.rint(self._find_places(number)).astype(int)
            limits = np.array(values.shape) - 1
            found = values[tuple(np.moveaxis(np.clip(voxels, 0, limits), -1, 0))]
            shown = np.isfinite(found) & (found != 0)
            if least is not None:
                shown &= np.abs(np.nan_to_num(found)) >= least
            tile = np.zeros((*found.shape, 4), np.uint8)
            if self._gray is not None:
                tile[..., :3] = self._gray[i][..., None]
                tile[..., 3] = 255 * (self._gray[i] > 0)
            tile[shown] = colours.to_rgba(np.nan_to_num(found[shown]), bytes=True)
            tiles.append(np.pad(tile, ((0, 0), (0, self._pitch - self._across.size), (0, 0))))
        return np.concatenate(tiles, axis=1)


def draw_glass_brain(
    image: Any, least: float, alt: str, two_sided: bool, title: str = ""
) -> Figure:
    """Draw the highest values of a map seen through a brain; only for maps in MNI space."""
    from nilearn.plotting import plot_glass_brain

    with drawing(_WIDTH, 2.7) as figure:
        figure.set_layout_engine("none")
        display = plot_glass_brain(
            *(image, None),
            figure=figure,
            axes=(0, 0, 1, 0.9),
            threshold=least,
            plot_abs=False,
            symmetric_cbar=two_sided,
            cmap="RdYlBu_r" if two_sided else "YlOrRd",
            colorbar=True,
        )
        figure.suptitle(cut_name(title, _LONGEST), fontsize=9, x=0, y=0.99, ha="left", va="top")
        for axes in display.axes.values():
            for patch in axes.ax.patches:
                patch.set_edgecolor(INK)
        display._cbar.ax.tick_params(colors=INK)
        return finish(figure, alt)
