"""What the arithmetic of TBSS shares: neighbours of voxels, and checks of its arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError

Volume = NDArray[np.float32]  # (nx, ny, nz)
Mask = NDArray[np.bool_]  # (nx, ny, nz)

# One of each pair of opposite neighbours of a voxel, (13, 3), in voxels.
DIRECTIONS: NDArray[np.intp] = (
    np.array([step for step in np.ndindex(3, 3, 3) if step > (1, 1, 1)]) - 1
)
DIRECTIONS.flags.writeable = False


def check_volume(name: str, volume: Any, shape: tuple[int, ...] | None = None) -> None:
    """Raise InputError unless an array has three axes, and a shape if one is given."""
    found = np.shape(volume)
    if len(found) != 3 or 0 in found:
        raise InputError(f"{name} has shape {found}: give a volume, with three axes.")
    if shape is not None and found != shape:
        raise InputError(f"{name} has shape {found}, others {shape}: give volumes of one shape.")


def check_fa(name: str, fa: Any) -> Volume:
    """Return a map of FA as float32; InputError if it is none."""
    check_volume(name, fa)
    # Images are read in Fortran order; what follows is several times faster in that of C.
    fa = np.ascontiguousarray(fa, np.float32)
    if not np.isfinite(fa).all():
        raise InputError(f"{name} has values that are not finite: set them to 0.")
    if fa.min() < 0:
        raise InputError(f"{name} has negative values, down to {fa.min():g}: give FA, from 0 to 1.")
    return fa


def check_zooms(zooms: Sequence[float]) -> NDArray[np.float64]:
    """Return sizes of voxels as an array, (3,), in mm."""
    sizes = np.asarray(zooms, np.float64)
    if sizes.shape != (3,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InputError(f"zooms is {zooms!r}: give three sizes of voxels in mm, above 0.")
    return sizes


def find_box(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box around what is set; an empty one if nothing is."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        set_ = np.flatnonzero(mask.any(axis=others))
        box.append(slice(set_[0], set_[-1] + 1) if set_.size else slice(0, 0))
    return tuple(box)


def look(padded: NDArray[Any], step: Any) -> NDArray[Any]:
    """Return the neighbour of each voxel at a step, of a volume padded by one voxel."""
    return padded[tuple(slice(1 + s, n - 1 + s) for s, n in zip(step, padded.shape, strict=True))]


def sum_neighbourhood(padded: NDArray[Any]) -> NDArray[Any]:
    """Return the sum over 3 x 3 x 3 voxels, of a volume padded by one voxel."""
    total = padded
    for axis in range(3):
        total = cut(total, axis, 0) + cut(total, axis, 1) + cut(total, axis, 2)
    return total


def cut(volume: NDArray[Any], axis: int, start: int) -> NDArray[Any]:
    """Return a volume less two voxels along an axis, from the voxel at `start`: 0, 1 or 2."""
    index = [slice(None)] * volume.ndim
    index[axis] = slice(start, volume.shape[axis] - 2 + start)
    return volume[tuple(index)]
