"""Register the FA of one observation to another image, and say how well that went."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nipype_blm.tbss.engines import ENGINES, Warps
from nipype_blm.tbss.fields import Field, measure_displacement
from nipype_blm.tbss.images import Volume, interpolate, list_places, make_isotropic, read_volume
from nipype_blm.tbss.preprocess import erode, find_scale


class Prepared(NamedTuple):
    """An image of FA, ready to be registered."""

    native: Volume  # eroded, on its own grid
    isotropic: Volume  # on cubes


def prepare_fa(path: Path, spacing: float) -> Prepared:
    """Read FA and take off the edge of the brain, as TBSS does; put it onto cubes."""
    volume = read_volume(path)
    native = Volume(erode(np.maximum(volume.data, 0)), volume.affine)
    return Prepared(native, make_isotropic(native, spacing))


def prepare_template(path: Path, spacing: float) -> Volume:
    """Read a template, whose values may be scaled; its edge stays.

    The scale is found from its 99th percentile: see `find_scale`.
    """
    volume = read_volume(path)
    data = np.maximum(volume.data, 0)
    data /= find_scale(float(np.percentile(data[data > 0], 99)))
    return make_isotropic(Volume(data, volume.affine), spacing)


class RegistrationError(RuntimeError):
    """An engine could not register two images; others may go on."""


def register(fixed: Volume, moving: Volume, engine: str) -> Warps:
    """Register one image to another one, both on cubes.

    Raises
    ------
    RegistrationError
        If the engine fails, or gives displacements that are not finite.
    """
    try:
        warps = ENGINES[engine].register(fixed, moving)
    except (OSError, MemoryError):  # of the machine, not of the images
        raise
    except Exception as error:  # of many kinds: engines are libraries of others
        raise RegistrationError(" ".join(str(error).split()) or type(error).__name__) from error
    fields = [field for field in warps if field is not None]
    if not all(np.isfinite(field.values).all() for field in fields):
        raise RegistrationError("displacements are not finite")
    return warps


class Judgement(NamedTuple):
    """How well an image was brought onto another one."""

    correlation: float
    displacement_mm: float  # median over the brain, without the best rigid motion


FAILED = Judgement(-1.0, -1.0)


def judge(field: Field, fixed: Volume, moving: Volume) -> Judgement:
    """Say how well an image was brought onto another one, and how far it was warped for that."""
    correlation = correlate(field, fixed, moving)
    if correlation == FAILED.correlation:
        return FAILED
    return Judgement(correlation, math.sqrt(measure_displacement(field, fixed)))


def correlate(field: Field, fixed: Volume, moving: Volume) -> float:
    """Return the correlation of an image with the moving one that was brought onto it.

    Of the voxels where the fixed image is above 0; -1 if one of both has no variance there, or if
    a displacement anywhere is not finite: beyond the brain, too, fields are interpolated.
    """
    mask = fixed.data > 0
    if not np.isfinite(field.values).all():
        return FAILED.correlation
    found = interpolate(moving, list_places(mask, fixed.affine) + field.values[mask])
    known = fixed.data[mask]
    if not (found.std() > 0 and known.std() > 0):
        return FAILED.correlation
    return float(np.corrcoef(found, known)[0, 1])
