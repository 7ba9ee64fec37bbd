"""Maps inside a page, for its viewer: z, and what it is drawn over."""

import base64
import gzip
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.views import Grid, find_shade

STEP = 0.01  # of z: finer steps are not seen, and cost as much again
_LARGEST = 32767
_THINNED = (1, 2, 4)  # every so many voxels


class Embedded(NamedTuple):
    """An image as text."""

    text: str  # NIfTI, gzip, base64
    every: int  # voxels along each axis: 1 is all of them


def embed_z(image: Any, every: int) -> Embedded:
    """Return a map of z in steps of `STEP`; blocks of voxels are their greatest ``|z|``."""
    grid = Grid(image)
    steps = np.rint(np.nan_to_num(np.asarray(grid.values, float)) / STEP)
    values = np.clip(steps, -_LARGEST, _LARGEST).astype(np.int16)
    return _embed(_thin(values, every), _widen(grid.affine, every), every, slope=STEP)


def embed_background(image: Any, most: int) -> Embedded:
    """Return a background in 255 shades, of at most so many letters if it can be."""
    grid = Grid(image)
    shades = find_shade(np.nan_to_num(np.asarray(grid.values, np.float32)))
    for every in _THINNED:
        found = _embed(_thin(shades, every), _widen(grid.affine, every), every)
        if len(found.text) <= most:
            break
    return found


def embed_all(images: Sequence[Any], most: int) -> list[Embedded]:
    """Return the maps of z that fit into so many letters, all of them thinned alike.

    The first ones are there where not all fit.
    """
    if not images:
        return []
    for every in _THINNED:
        first = embed_z(images[0], every)
        if len(first.text) * len(images) <= most:
            break
    found: list[Embedded] = []
    left = most
    for image in images:
        each = embed_z(image, every) if found else first
        left -= len(each.text)
        if left < 0:
            break
        found.append(each)
    return found


def embed_flags(images: Sequence[Any], every: int) -> str:
    """Return where maps are not 0, of any voxel of a block: bit i of a byte is the map i.

    The bytes are in the order of the voxels of `embed_z`.
    """
    bits = [
        _thin((Grid(image).values != 0).astype(np.uint8), every) << np.uint8(i)
        for i, image in enumerate(images)
    ]
    return _pack(np.bitwise_or.reduce(bits).tobytes(order="F"))


def _thin(values: NDArray[Any], every: int) -> NDArray[Any]:
    """Return for each block of voxels the value that is farthest from 0."""
    if every == 1:
        return values
    padded = np.pad(values, [(0, -n % every) for n in values.shape])
    x, y, z = (n // every for n in padded.shape)
    blocks = padded.reshape(x, every, y, every, z, every).transpose(0, 2, 4, 1, 3, 5)
    blocks = blocks.reshape(x, y, z, -1)
    farthest = np.abs(blocks).argmax(axis=-1)[..., None]
    return np.asarray(np.take_along_axis(blocks, farthest, axis=-1)[..., 0])


def _widen(affine: FloatArray, every: int) -> FloatArray:
    """Return where blocks of voxels are."""
    to_voxels = np.diag([every, every, every, 1.0])
    to_voxels[:3, 3] = (every - 1) / 2
    return np.asarray(affine @ to_voxels)


def _embed(values: NDArray[Any], affine: FloatArray, every: int, slope: float = 1.0) -> Embedded:
    image = nib.Nifti1Image(values, affine)
    image.header.set_slope_inter(slope, 0)
    return Embedded(_pack(image.to_bytes()), every)


def _pack(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
