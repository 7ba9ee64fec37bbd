"""Draw maps over a template, from written maps; needs the extra ``plot``."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.drawing import own_style
from nipype_blm.report.charts.views import find_backdrop
from nipype_blm.results.results import ContrastResults, Results

_WIDTH, _ROW_HEIGHT, _TITLE_HEIGHT = 12.0, 1.85, 0.35  # inches
_DPI = 110
_N_SLICES = 7
_STYLE = {"text.parse_math": False}  # names of contrasts may have a dollar


class DrawnContrast(NamedTuple):
    """What a row of the figure shows."""

    name: str
    test: str  # T or F
    threshold: float  # of z; infinite where no voxel is significant
    n_voxels: int  # beyond the threshold
    heights: tuple[float, ...]  # of the slices, in mm
    n_hidden: int  # clusters whose peak is in no slice


def find_fdr_threshold(z: FloatArray, alpha: float, two_sided: bool) -> float:
    """Return the z beyond which the false discovery rate is at most `alpha`.

    Parameters
    ----------
    z : array of shape (n_voxels,)
        Voxels in the mask only.
    alpha : float
        Rate of false discoveries (Benjamini and Hochberg), over both tails if `two_sided`.

    Returns
    -------
    float
        Infinite if no voxel is significant.
    """
    from nilearn.glm import fdr_threshold

    if two_sided:
        return float(fdr_threshold(np.abs(z), alpha / 2))
    return float(fdr_threshold(z, alpha))


def plot_z_maps(
    results: Results | Path | str,
    out_file: Any,
    alpha: float = 0.05,
    background: Any = None,
    outline: Any = None,
    title: str = "",
    contrasts: Sequence[str] | None = None,
) -> list[DrawnContrast]:
    """Draw the z map of every contrast of a run, thresholded by its false discovery rate.

    T contrasts are thresholded at both tails, F contrasts at the upper one.  The slices of a row go
    through the peaks of its own clusters, the highest first.

    Parameters
    ----------
    results : Results or path
        Of a run of ``blm`` or ``blmm``, or their folder.
    out_file : path or file
        Figure to write; its extension tells the format, and PNG is that of an open file.
    alpha : float
        False discovery rate within each contrast.
    background : path or image, optional
        Anatomy to draw on; default: the MNI template for results in MNI space, else what the
        results themselves have.
    outline : path or image, optional
        Regions to be outlined in green, such as regions of interest.
    title : str
        Line above the figure.
    contrasts : sequence of str, optional
        Names of those to draw, in this order; default: all, T contrasts first.

    Returns
    -------
    list of DrawnContrast
        One for each row of the figure.
    """
    found = results if isinstance(results, Results) else Results(results)
    names = sort_contrasts(found) if contrasts is None else contrasts
    background = _find_background(found) if background is None else background
    maps = [_threshold(found.contrasts[name], alpha) for name in names]
    with own_style(_STYLE):
        figure, axes = _make_rows(len(maps), title)
        for axis, (image, contrast) in zip(axes, maps, strict=True):
            found_there = _say_found(contrast)
            if contrast.n_hidden:
                found_there += f"; peaks between these slices: {contrast.n_hidden}"
            label = f"{contrast.name}: z of {contrast.test}, false discovery rate {alpha:g}"
            label = f"{label} ({found_there})"
            _draw_row(axis, image, contrast, label, _find_top([image]), background, outline)
        figure.savefig(out_file, dpi=_DPI)
    return [contrast for _, contrast in maps]


def plot_models(
    models: Mapping[str, Results | Path | str],
    out_file: Any,
    contrasts: Sequence[str],
    alpha: float = 0.05,
    background: Any = None,
    outlines: Mapping[str, Any] | None = None,
    title: str = "",
) -> dict[tuple[str, str], DrawnContrast]:
    """Draw z maps of the same contrasts of several models, thresholded as by `plot_z_maps`.

    The rows of a contrast stand below each other, and have the same slices and colours: slices
    are spread over what is significant in any of the models.

    Parameters
    ----------
    models : mapping of str to Results or path
        What each model is called, and its results or their folder.
    out_file : path or file
        As for `plot_z_maps`.
    contrasts : sequence of str
        Names of contrasts that all models have.
    alpha, background, title
        As for `plot_z_maps`.
    outlines : mapping of str to path or image, optional
        Regions to be outlined in green in the rows of a contrast, by its name.

    Returns
    -------
    dict
        What the rows show, by names of contrast and model.
    """
    found = {k: v if isinstance(v, Results) else Results(v) for k, v in models.items()}
    if background is None and found:
        background = _find_background(next(iter(found.values())))
    with own_style(_STYLE):
        figure, axes = _make_rows(len(contrasts) * len(found), title)
        drawn = {}
        for name, axes_of_contrast in zip(contrasts, axes.reshape(len(contrasts), -1), strict=True):
            maps = [_threshold(results.contrasts[name], alpha) for results in found.values()]
            images = [image for image, _ in maps]
            everywhere = nib.Nifti1Image(np.ones(images[0].shape, np.uint8), images[0].affine)
            heights = _spread_slices(images, everywhere)
            for axis, model, (image, contrast) in zip(axes_of_contrast, found, maps, strict=True):
                n_hidden = int((~np.isin(_list_peaks(image), heights)).sum())
                row = contrast._replace(heights=tuple(heights.tolist()), n_hidden=n_hidden)
                label = f"{name}, {model}: {_say_found(row)}"
                outline = (outlines or {}).get(name)
                _draw_row(axis, image, row, label, _find_top(images), background, outline)
                drawn[name, model] = row
        figure.savefig(out_file, dpi=_DPI)
    return drawn


def plot_maps(
    maps: Mapping[str, Any],
    out_file: Path,
    background: Any = None,
    outline: Any = None,
    title: str = "",
) -> None:
    """Draw maps of variances, shares of variance or the like: what is above 0.

    Parameters
    ----------
    maps : mapping of str to path or image
        Title of each row, and its 3D map.
    out_file : path
        Figure to write; its extension tells the format.
    background, outline, title
        As for `plot_z_maps`.
    """
    images: list[Any] = [
        nib.load(map_) if isinstance(map_, str | Path) else map_ for map_ in maps.values()
    ]
    everywhere = nib.Nifti1Image(np.ones(images[0].shape, np.uint8), images[0].affine)
    heights = _spread_slices(images, everywhere)
    with own_style(_STYLE):
        figure, axes = _make_rows(len(images), title)
        for axis, name, image in zip(axes, maps, images, strict=True):
            _draw_positive(axis, image, name, heights, background, outline)
        figure.savefig(out_file, dpi=_DPI)


def _draw_positive(
    axis: Any, image: Any, title: str, heights: FloatArray, background: Any, outline: Any
) -> None:
    """Draw what is above 0 of a map over the background."""
    from nilearn import plotting

    given = () if background is None else (background,)
    options: dict[str, Any] = {"axes": axis, "display_mode": "z", "cut_coords": heights}
    options |= {"black_bg": False, "annotate": False}
    values = image.get_fdata()
    if (values > 0).any():
        # Half of the smallest value: all of them are drawn, and 0 is not.
        options |= {"threshold": values[values > 0].min() / 2, "vmin": 0.0}
        options |= {"vmax": np.percentile(values[values > 0], 99.5), "cmap": "inferno"}
        options |= {"symmetric_cbar": False, "resampling_interpolation": "nearest"}
        display = plotting.plot_stat_map(image, *given, **options)
    else:
        display = plotting.plot_anat(*given, **options, colorbar=False)
    _finish_row(axis, display, title, outline, _count_decimals(image.affine))


def _make_rows(n_rows: int, title: str) -> tuple[Any, Any]:
    """Return a figure, and the axes of each of its rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = _ROW_HEIGHT * n_rows + _TITLE_HEIGHT * bool(title)
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)  # draws into a file whatever the display
    axes = np.atleast_1d(figure.subplots(n_rows, 1))
    top = 1 - _TITLE_HEIGHT * (1 + bool(title)) / height
    figure.subplots_adjust(0.01, 0.01, 0.96, top, hspace=0.2)
    figure.suptitle(title, x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontsize=13)
    return figure, axes


def _find_background(results: Results) -> Any:
    """Return what a result that is not in MNI space is drawn over; else None, for the template."""
    backdrop = find_backdrop(results)
    return None if backdrop.is_mni else backdrop.image


def sort_contrasts(results: Results) -> list[str]:
    """Return the names of all contrasts: T contrasts first, then F, each by the names of files."""
    contrasts = results.contrasts.values()
    return [each.name for each in sorted(contrasts, key=lambda each: (each.is_f, each.label))]


def _threshold(contrast: ContrastResults, alpha: float) -> tuple[Any, DrawnContrast]:
    """Return a z map that is 0 where it is not significant, and what it shows."""
    image = contrast.image("z")
    z = image.get_fdata()
    inside = contrast.mask  # voxels at which a contrast is not estimable are 0 and no tests
    threshold = np.inf  # where a contrast is estimable nowhere, or nothing was fitted
    if inside.any():
        threshold = find_fdr_threshold(z[inside], alpha, two_sided=not contrast.is_f)
    significant = inside & ((z if contrast.is_f else np.abs(z)) >= threshold)
    shown = nib.Nifti1Image(np.where(significant, z, 0.0), image.affine)
    shape = inside if inside.any() else np.ones(inside.shape)
    slices = _choose_slices(shown, nib.Nifti1Image(shape.astype(np.uint8), image.affine))
    test = "F" if contrast.is_f else "T"
    return shown, DrawnContrast(contrast.name, test, threshold, int(significant.sum()), *slices)


def _choose_slices(image: Any, mask: Any) -> tuple[tuple[float, ...], int]:
    """Return heights through the peaks of clusters, and how many of these are in no slice.

    What is left of the slices is spread over other voxels that are drawn, then over the mask.
    """
    of_peaks = _list_peaks(image)
    if not of_peaks.size:
        return tuple(_spread_slices([image], mask).tolist()), 0
    chosen: list[float] = list(dict.fromkeys(of_peaks.tolist()))[:_N_SLICES]
    drawn = np.unique(_find_heights(image.affine, np.argwhere(image.get_fdata() != 0)))
    for candidates in (drawn, _spread_slices([], mask)):
        for _ in range(min(_N_SLICES - len(chosen), len(candidates))):
            distance = np.abs(candidates[:, None] - chosen).min(axis=1)
            if distance.max() > 0:
                chosen.append(float(candidates[distance.argmax()]))
    return tuple(sorted(chosen)), int((~np.isin(of_peaks, chosen)).sum())


def _list_peaks(image: Any) -> FloatArray:
    """Return the heights in mm of the peaks of all clusters, the highest peak first."""
    values = np.abs(image.get_fdata())
    clusters, n_clusters = ndimage.label(values, np.ones((3, 3, 3)))
    numbers = range(1, n_clusters + 1)
    order = np.argsort(-np.asarray(ndimage.maximum(values, clusters, numbers)), kind="stable")
    peaks = np.array(ndimage.maximum_position(values, clusters, numbers)).reshape(-1, 3)
    return _find_heights(image.affine, peaks[order])


def _find_heights(affine: FloatArray, voxels: NDArray[np.intp]) -> FloatArray:
    """Return the heights in mm of the slices that voxels are in."""
    return _round_to_slices(affine, nib.affines.apply_affine(affine, voxels)[:, 2])


def _round_to_slices(affine: FloatArray, heights: FloatArray) -> FloatArray:
    """Return the heights in mm of the nearest slices."""
    thickness = np.abs(affine[2, :3]).max()  # of a slice; they may be oblique
    start = affine[2, 3]
    return start + np.round((heights - start) / thickness) * thickness


def _spread_slices(images: list[Any], mask: Any) -> FloatArray:
    """Return heights in mm, spread over what is drawn of any image, else over the mask."""
    shown = np.any([image.get_fdata() != 0 for image in images], axis=0)
    voxels = np.argwhere(shown if np.any(shown) else np.asarray(mask.dataobj) > 0)
    heights = _find_heights(mask.affine, voxels)
    low, high = np.percentile(heights, [5, 95])
    spread = np.linspace(low, high, _N_SLICES)
    # Slices that there are, of which there may be few: nothing can be drawn beside the last one.
    slices = np.unique(heights)
    return np.unique(slices[np.abs(slices[:, None] - spread).argmin(axis=0)])


def _count_decimals(affine: FloatArray) -> int:
    """Return how many decimals of mm the heights of slices need; none, if they are thick."""
    thickness = float(np.abs(affine[2, :3]).max())
    return max(0, math.ceil(-math.log10(thickness)) + 1) if 0 < thickness < 1 else 0


def _say_found(contrast: DrawnContrast) -> str:
    """Return the threshold, and how many voxels are beyond it."""
    if not contrast.n_voxels:
        return "no voxel"
    z = "|z|" if contrast.test == "T" else "z"
    return f"{z} ≥ {contrast.threshold:.2f}, {contrast.n_voxels:,} voxels"


def _find_top(images: Sequence[Any]) -> float:
    """Return the largest size of z in any of the images."""
    return float(max(np.abs(image.get_fdata()).max() for image in images))


def _draw_row(
    axis: Any,
    image: Any,
    contrast: DrawnContrast,
    label: str,
    top: float,
    background: Any,
    outline: Any,
) -> None:
    """Draw one z map over the background, in colours up to `top`, with a label above."""
    from nilearn import plotting

    two_sided = contrast.test == "T"
    given = () if background is None else (background,)
    options: dict[str, Any] = {"axes": axis, "display_mode": "z"}
    options |= {"cut_coords": list(contrast.heights)}
    options |= {"black_bg": False, "colorbar": contrast.n_voxels > 0, "annotate": False}
    if contrast.n_voxels == 0:
        display = plotting.plot_anat(*given, **options)
    else:
        display = plotting.plot_stat_map(
            image,
            *given,
            cmap="RdBu_r" if two_sided else "inferno",
            symmetric_cbar=two_sided,
            # Below the smallest z, which would be left out, and above it for the colours.
            threshold=0.999 * contrast.threshold,
            vmax=max(top, 1.2 * contrast.threshold),
            resampling_interpolation="nearest",
            **options,
        )
    _finish_row(axis, display, label, outline, _count_decimals(image.affine))


def _finish_row(axis: Any, display: Any, title: str, outline: Any, decimals: int) -> None:
    """Add sides and heights, outline and title to what is drawn."""
    display.annotate(decimals=decimals)
    if outline is not None:
        display.add_contours(outline, levels=[0.5], colors="limegreen", linewidths=1.2)
    axis.set_title(title, fontsize=12, loc="left")
