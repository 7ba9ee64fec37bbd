"""Register the FA of one observation to another image, and say how well that went."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from nipype_blm.errors import InputError
from nipype_blm.tbss.engines import ENGINES, Warps
from nipype_blm.tbss.fields import Field
from nipype_blm.tbss.images import Volume, interpolate, list_places, make_isotropic, read_volume
from nipype_blm.tbss.preprocess import erode, find_scale


class Prepared(NamedTuple):
    """An image of FA, ready to be registered."""

    native: Volume  # eroded, on its own grid
    isotropic: Volume  # on cubes


def prepare_fa(path: Path, spacing: float) -> Prepared:
    """Read FA and take off the edge of the brain, as TBSS does; put it onto cubes.

    Raises
    ------
    InputError
        If nothing is left.
    """
    volume = read_volume(path)
    native = Volume(erode(np.maximum(volume.data, 0)), volume.affine)
    if not native.data.any():
        raise InputError(
            f"{path}: nothing is left of FA when the edge of the brain is taken off; is it masked "
            "to a few voxels?"
        )
    return Prepared(native, make_isotropic(native, spacing))


def prepare_template(path: Path, spacing: float) -> Volume:
    """Read a template, whose values may be scaled; its edge stays.

    The scale is found from its 99th percentile: see `find_scale`.
    """
    volume = read_volume(path)
    data = np.maximum(volume.data, 0)
    data /= find_scale(float(np.percentile(data[data > 0], 99)))
    return make_isotropic(Volume(data, volume.affine), spacing)


def register(fixed: Volume, moving: Volume, engine: str) -> Warps:
    """Register one image to another one, both on cubes."""
    return ENGINES[engine].register(fixed, moving)


def correlate(field: Field, fixed: Volume, moving: Volume) -> float:
    """Return the correlation of an image with the moving one that was brought onto it.

    Of the voxels where the fixed image is above 0; -1 if one of both has no variance there, or if
    a displacement anywhere is not finite: beyond the brain, too, fields are interpolated.
    """
    mask = fixed.data > 0
    if not np.isfinite(field.values).all():
        return -1.0
    found = interpolate(moving, list_places(mask, fixed.affine) + field.values[mask])
    known = fixed.data[mask]
    if not (found.std() > 0 and known.std() > 0):
        return -1.0
    return float(np.corrcoef(found, known)[0, 1])
