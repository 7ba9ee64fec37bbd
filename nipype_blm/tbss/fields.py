"""Displacement fields: where each place of one image lies in another one."""

from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.tbss.images import (
    Float32Array,
    Volume,
    list_places,
    set_place,
    transform,
    write_image,
)

_STEP_MM = 0.01  # in which displacements are stored: a two hundredth of a voxel of 2 mm
_MOST_STEPS = 2**15 - 1


class Field(NamedTuple):
    """Displacements: the place x of the fixed image corresponds to x + u(x) of the moving one."""

    values: Float32Array  # (nx, ny, nz, 3), u in mm of RAS
    affine: NDArray[np.float64]  # (4, 4), voxel to mm of the fixed image

    def apply(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where places of the fixed image lie in the moving one, (n, 3) in mm.

        Beyond the grid the displacement is that at its border.
        """
        voxels = transform(np.linalg.inv(self.affine), points).T
        moved = points.copy()
        for axis in range(3):
            moved[:, axis] += ndimage.map_coordinates(
                self.values[..., axis], voxels, order=1, mode="nearest"
            )
        return moved


def combine(affine: NDArray[np.float64], warp: Field) -> Field:
    """Return the field of a warp that an affine follows: x to A (x + w(x))."""
    places = list_places(np.ones(warp.values.shape[:3], bool), warp.affine)
    moved = transform(affine, places + warp.values.reshape(-1, 3))
    return Field((moved - places).astype(np.float32).reshape(warp.values.shape), warp.affine)


def field_of_affine(
    affine: NDArray[np.float64], shape: tuple[int, ...], grid: NDArray[np.float64]
) -> Field:
    """Return the field of an affine on a grid."""
    return combine(affine, Field(np.zeros((*shape, 3), np.float32), grid))


def measure_displacement(field: Field, fixed: Volume) -> float:
    """Return the median squared displacement of a brain, in mm².

    The best rigid motion is taken out first: how a head lay in the scanner is no deformation.

    Parameters
    ----------
    field : Field
    fixed : Volume
        On the grid of the field; its voxels above 0 count.

    Notes
    -----
    The motion is that of Arun, Huang and Blostein, IEEE PAMI 9:698 (1987), equations 10 to 14.
    """
    mask = fixed.data > 0
    here = list_places(mask, fixed.affine)
    there = here + field.values[mask]
    here, there = here - here.mean(0), there - there.mean(0)
    u, _, vt = np.linalg.svd(here.T @ there)
    sign = np.sign(np.linalg.det(u @ vt))
    rotation = u @ np.diag([1.0, 1.0, sign]) @ vt
    return float(np.median(((there - here @ rotation) ** 2).sum(axis=1)))


def write_field(path: Path, field: Field) -> None:
    """Write a field as NIfTI, in steps of 0.01 mm, or larger ones if it reaches beyond 327 mm."""
    largest = float(np.abs(field.values).max(initial=0))
    step = max(_STEP_MM, largest / _MOST_STEPS)
    stored = np.rint(field.values / step).astype(np.int16)
    image: Any = nib.Nifti1Image(stored[:, :, :, None], field.affine)
    image.header.set_slope_inter(step, 0)
    image.header.set_intent("displacement vector")
    set_place(image.header, field.affine)
    write_image(path, image)


def read_field(path: Path) -> Field:
    """Read a field that `write_field` has written."""
    image: Any = nib.load(path)
    values = np.asarray(image.dataobj, np.float32)
    return Field(values[:, :, :, 0], image.affine)
