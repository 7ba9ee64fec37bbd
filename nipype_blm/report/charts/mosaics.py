"""Slices side by side: maps of codes, and single images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.data.files import stat_file
from nipype_blm.report.charts.design import make_colours
from nipype_blm.report.charts.drawing import COLOURS, Figure, drawing, finish
from nipype_blm.report.naming import cut_name
from nipype_blm.results.saved import SavedImage

_N_SLICES = 7
_WIDTH = 8.5  # inches
_N_OF_IMAGE = 3
_N_ACROSS = 3  # images


class Mosaic(NamedTuple):
    """Slices side by side, NaN outside of a mask: rows of the picture from above."""

    values: FloatArray
    aspect: float  # height of a voxel over its width

    @property
    def height(self) -> float:
        """Of the picture over its width."""
        rows, columns = self.values.shape
        return self.aspect * rows / columns


def choose_slices(shown: NDArray[np.bool_], n: int = _N_SLICES) -> list[int]:
    """Return up to n slices that have some of what is to be shown, spread over all of them."""
    present = np.flatnonzero(shown.any(axis=(0, 1)))
    if not present.size:
        present = np.arange(shown.shape[2])
    if present.size > n:  # the outermost ones show little
        places = np.linspace(0, present.size - 1, n + 2)[1:-1]
        present = present[np.round(places).astype(int)]
    return [int(z) for z in present]


def lay_out(
    values: NDArray[Any], inside: NDArray[np.bool_], sizes: Sequence[float], slices: Sequence[int]
) -> Mosaic:
    """Return slices of a volume as seen from above; what is around the mask is cut away."""
    shown = np.where(inside, values, np.nan)[:, :, list(slices)]
    for axis in (0, 1):
        kept = np.flatnonzero(inside.any(axis=(1 - axis, 2)))
        if kept.size:
            shown = np.take(shown, np.arange(kept[0], kept[-1] + 1), axis)
    shown = np.pad(shown, ((1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    side_by_side = [shown[:, :, k].T[::-1] for k in range(len(slices))]
    return Mosaic(np.concatenate(side_by_side, axis=1), float(sizes[1]) / float(sizes[0]))


def _orient(image: Any) -> Any:
    """Return an image with x to the right, y to the front and z upwards."""
    import nibabel as nib

    return nib.as_closest_canonical(image)


def _show(axis: Any, mosaic: Mosaic, **options: Any) -> Any:
    axis.set_axis_off()
    shown = np.ma.masked_invalid(mosaic.values)  # has the colour of the page
    return axis.imshow(shown, interpolation="none", aspect=mosaic.aspect, **options)


def draw_codes(
    image: Any, meanings: Sequence[tuple[int, str]], alt: str, caption: str = ""
) -> Figure:
    """Draw slices of a map of codes, each of which has a colour and a meaning."""
    from matplotlib.patches import Patch

    image = _orient(image)
    codes = np.asarray(image.dataobj)
    numbers = np.full(codes.shape, -1)
    for number, (code, _) in enumerate(meanings):
        numbers[codes == code] = number % len(COLOURS)
    # The first is what is usual: half of the slices are those that have others.
    odd = choose_slices(numbers > 0, 4) if (numbers > 0).any() else []
    slices = sorted({*odd, *choose_slices(numbers >= 0, _N_SLICES - len(odd))})
    mosaic = lay_out(numbers, numbers >= 0, image.header.get_zooms(), slices)
    width = _WIDTH * len(slices) / _N_SLICES
    with drawing(max(width, 4.0), min(width * mosaic.height, 5.0) + 0.4) as fig:
        _show(fig.subplots(), mosaic, cmap=make_colours(), vmin=0, vmax=len(COLOURS) - 1)
        patches = [
            Patch(color=COLOURS[i % len(COLOURS)], label=words)
            for i, (_, words) in enumerate(meanings)
        ]
        fig.legend(handles=patches, loc="outside lower left", ncols=3, fontsize=9)
        return finish(fig, alt, caption)


class Panel(NamedTuple):
    """One image to be shown beside others."""

    title: str
    image: SavedImage


def read_slices(saved: SavedImage, mask: Any) -> Mosaic | None:
    """Return slices of an image; None where it is gone, or has changed since it was fitted.

    Parameters
    ----------
    saved : SavedImage
    mask : image
        Of the result.
    """
    import nibabel as nib

    path = Path(saved.image)
    try:
        state = stat_file(path)
        if (state.size, state.mtime_ns) != (saved.size, saved.mtime_ns):
            return None
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj[..., saved.volume] if image.ndim > 3 else image.dataobj)
    except Exception:  # whatever is wrong with a file: a picture is not worth a report
        return None
    if values.shape != mask.shape:
        return None
    volume = _orient(nib.Nifti1Image(values.astype(float), mask.affine))
    inside = np.asarray(_orient(mask).dataobj) > 0
    slices = choose_slices(inside, _N_OF_IMAGE)
    return lay_out(volume.get_fdata(), inside, volume.header.get_zooms(), slices)


def draw_images(panels: Sequence[Panel], mask: Any) -> Figure | None:
    """Draw slices of images; those that are gone are left out, None if all are."""
    read = [(panel.title, read_slices(panel.image, mask)) for panel in panels]
    shown = [(title, mosaic) for title, mosaic in read if mosaic is not None]
    if not shown:
        return None
    n_rows = -(-len(shown) // _N_ACROSS)
    width = _WIDTH / _N_ACROSS
    height = min(width * shown[0][1].height, 2.5) + 0.35
    with drawing(_WIDTH, n_rows * height) as fig:
        axes = fig.subplots(n_rows, _N_ACROSS, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, (title, mosaic) in zip(axes, shown, strict=False):
            known = np.abs(mosaic.values[np.isfinite(mosaic.values)])
            limit = float(np.percentile(known, 98)) if known.size else 0.0
            limit = limit or 1.0
            _show(axis, mosaic, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(f"{cut_name(title, 34)}\n±{limit:.3g}", fontsize=8, loc="left")
        left = len(panels) - len(shown)
        caption = (
            "Red is above 0, blue below. Each image has its own colours: they end at the number "
            "after ±, in units of the images, which 2 % of its values in these slices exceed."
        )
        if left:
            caption += f" {left} cannot be shown: the file is gone, or has changed since the fit."
        names = "; ".join(title for title, _ in shown)
        return finish(fig, f"Slices of {len(shown)} images: {names}.", caption)
