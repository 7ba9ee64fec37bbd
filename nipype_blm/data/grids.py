"""Grids of images: what is known before voxels are read, and on which grid most images are."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.manifest import ImageEntry
from nipype_blm.errors import InputError

_SMALL_KINDS = {"float32", "int8", "uint8", "int16", "uint16"}  # float32 holds them exactly
_MOST_GRIDS = 20
_MOST_GRIDS_SHOWN = 3


class ImageHeader(NamedTuple):
    """What has to be known of an image before its voxels are read."""

    shape: tuple[int, int, int]
    n_volumes: int
    affine: NDArray[np.float64]  # voxel to mm
    dtype: np.dtype[Any]  # on disk, with its byte order
    slope: float
    inter: float
    offset: int  # of the voxels, in bytes; -1 where nibabel has to read them
    has_tail: bool = False  # whether something may follow the voxels

    @property
    def is_scaled(self) -> bool:
        """Whether values are slope * stored + inter."""
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def n_values(self) -> int:
        """Voxels of one volume."""
        return math.prod(self.shape)

    @property
    def bytes_to_read(self) -> int:
        """Memory of a voxel while it is read; nibabel makes numbers of 64 bits of it, twice."""
        return self.dtype.itemsize + (0 if self.offset >= 0 else 16)

    @property
    def fits_float32(self) -> bool:
        """Whether float32 holds every value exactly."""
        is_small = self.dtype.newbyteorder("=").name in _SMALL_KINDS
        return is_small and not self.is_scaled and self.offset >= 0

    def describe(self) -> str:
        """Return the grid in words."""
        return f"shape {self.shape} and affine {_format(self.affine)}"

    def describe_size(self) -> str:
        """Return in words how large an image is."""
        return f"images of shape {self.shape}"

    def describe_difference(self, expected: "ImageHeader | None") -> str | None:
        """Say how the grid differs from the one expected, or why it is none; or None.

        Affines may differ by a thousandth of a voxel at the corners of the grid.
        """
        if expected is not None and self.shape != expected.shape:
            return f"its shape is {self.shape}, expected {expected.shape}"
        fault = self._describe_fault()
        if fault is not None or expected is None:
            return fault
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in expected.shape])).reshape(3, -1)
        moved = (self.affine - expected.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
        voxel = np.linalg.norm(expected.affine[:3, :3], axis=0).min()
        if not np.abs(moved).max() <= 1e-3 * voxel:
            return f"its affine is {_format(self.affine)}, expected {_format(expected.affine)}"
        return None

    def _describe_fault(self) -> str | None:
        """Say why the affine gives voxels no place, or None."""
        if not np.isfinite(self.affine).all():
            return f"its affine has values that are not finite: {self.affine.tolist()}"
        if not np.linalg.det(self.affine[:3, :3]):
            return f"its affine is singular: {self.affine.tolist()}"
        return None


def choose_grid(
    what: str, entries: Sequence[ImageEntry], headers: Sequence[ImageHeader]
) -> ImageHeader:
    """Return the grid of most images.

    Raises
    ------
    InputError
        If most of them are on none.
    """
    grids = find_grids(headers)
    if not grids:  # each of them is at fault by itself
        return headers[0]
    if 2 * len(grids[0]) > sum(map(len, grids)):
        return headers[grids[0][0]]
    shown = [
        f"{len(group)} with {headers[group[0]].describe()}, such as {entries[group[0]].image} "
        f"({entries[group[0]].where})"
        for group in grids[:_MOST_GRIDS_SHOWN]
    ]
    more = len(grids) - len(shown)
    raise InputError(
        f"The images of {what} are on different grids, and on none are most of them: "
        f"{'; '.join(shown)}{f'; and others on {more} grids or more' * (more > 0)}.  "
        "Resample them to one."
    )


def find_grids(headers: Iterable[ImageHeader]) -> list[list[int]]:
    """Group images by their grid, and return the positions of each group, the largest first.

    Images whose affine gives voxels no place are in no group.  Of images on more grids than a
    user would look at, the last ones are left out.
    """
    grids: list[tuple[ImageHeader, list[int]]] = []
    known: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    for i, header in enumerate(headers):
        key = header.shape, header.affine.tobytes()
        if key not in known:
            same = (n for grid, n in grids if header.describe_difference(grid) is None)
            known[key] = next(same, [])
            has_place = header.describe_difference(None) is None
            if has_place and not known[key] and len(grids) < _MOST_GRIDS:
                grids.append((header, known[key]))
        known[key].append(i)
    return sorted((positions for _, positions in grids), key=len, reverse=True)


def _format(affine: NDArray[np.float64]) -> list[list[float]]:
    return [[float(f"{value:.9g}") for value in row] for row in affine]
