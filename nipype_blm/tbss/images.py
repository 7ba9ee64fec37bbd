"""Single images as arrays in memory: read, written, and put onto other grids."""

from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.io.files import write_if_changed

Float32Array = NDArray[np.float32]
# Of a brain on the grid of a registration, on each side, in voxels: it may move.
_MARGIN = 5
# Values that are interpolated at a time, so that memory stays small beside a 4D image.
_AT_ONCE = 2**20


class Volume(NamedTuple):
    """An image in memory."""

    data: Float32Array  # (nx, ny, nz)
    affine: NDArray[np.float64]  # (4, 4), voxel to mm

    @property
    def zooms(self) -> NDArray[np.float64]:
        """Lengths of a voxel's sides in mm, (3,)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


def read_volume(path: Path) -> Volume:
    """Read a single image; what is not finite becomes 0.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    space = VolumeSpace.of_file(path)
    values = np.empty(space.n_features, np.float64)
    space.make_reader().read(path, 0, values)
    values[np.isnan(values)] = 0
    data = values.astype(np.float32).reshape(space.shape, order="F")
    return Volume(np.ascontiguousarray(data), space.grid.affine)


def write_volume(path: Path, data: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write an image."""
    image: Any = nib.Nifti1Image(data, affine)
    set_place(image.header, affine)
    write_image(path, image)


def set_place(header: Any, affine: NDArray[np.float64]) -> None:
    """Have both affines of NIfTI say where an image lies: programs differ in which one they take.

    The qform can hold no shear; then it says nothing.
    """
    header.set_sform(affine, code="aligned")
    try:
        header.set_qform(affine, code="aligned", strip_shears=False)
    except nib.spatialimages.HeaderDataError:
        header.set_qform(None, code="unknown")
    header.set_xyzt_units("mm", "sec")


def write_image(path: Path, image: Any) -> None:
    """Write a file of nibabel whole or not at all, compressed if its name ends in .gz.

    One that is there with the same content keeps its time, so that nothing is made again of it.
    """
    content = image.to_bytes()
    if path.suffix == ".gz":
        from zlib_ng import gzip_ng

        content = gzip_ng.compress(content, 1, mtime=0)  # equal images are equal files
    write_if_changed(path, content)


def transform(affine: NDArray[Any], points: NDArray[Any]) -> NDArray[np.float64]:
    """Apply an affine to points, (..., 3)."""
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


def interpolate(volume: Volume, points: NDArray[np.float64]) -> Float32Array:
    """Return the values at some places in mm, linearly interpolated; 0 outside.

    Parameters
    ----------
    volume : Volume
    points : array of shape (n, 3)
    """
    to_voxels = np.linalg.inv(volume.affine)
    out = np.empty(len(points), np.float32)
    for start in range(0, len(points), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        voxels = transform(to_voxels, points[here]).T
        ndimage.map_coordinates(volume.data, voxels, output=out[here], order=1)
    return out


def list_places(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where in mm the voxels of a mask lie, (n, 3), in the order of ``mask.nonzero()``."""
    return transform(affine, np.argwhere(mask))


def make_isotropic(volume: Volume, spacing: float) -> Volume:
    """Put an image onto a grid of cubes along the axes of RAS, around all that is not 0.

    Engines differ in how they read headers: on such a grid there is nothing to differ about.  An
    image of smaller voxels is smoothed first, by as much as the voxels grow.

    Parameters
    ----------
    volume : Volume
    spacing : float
        Side of a cube, in mm.
    """
    data = _smooth(volume, spacing)
    present = np.argwhere(volume.data)
    low, high = present.min(0) - 0.5, present.max(0) + 0.5
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    places = transform(volume.affine, corners)
    start = places.min(0) - _MARGIN * spacing
    shape = np.ceil((places.max(0) + _MARGIN * spacing - start) / spacing).astype(int) + 1
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = start
    return Volume(put_onto(Volume(data, volume.affine), tuple(shape), affine), affine)


def _smooth(volume: Volume, spacing: float) -> Float32Array:
    """Return the values as voxels of another size would have them, where these are larger."""
    wider = np.maximum((spacing / volume.zooms) ** 2 - 1, 0)
    if not wider.any():
        return volume.data
    # The variance of a box of 1 voxel is 1/12.
    return np.asarray(ndimage.gaussian_filter(volume.data, np.sqrt(wider / 12), mode="constant"))


def put_onto(volume: Volume, shape: tuple[int, ...], affine: NDArray[np.float64]) -> Float32Array:
    """Return the values on another grid, linearly interpolated; 0 outside."""
    matrix = np.linalg.inv(volume.affine) @ affine
    out = np.empty(shape, np.float32)
    ndimage.affine_transform(
        volume.data, matrix[:3, :3], matrix[:3, 3], output_shape=shape, output=out, order=1
    )
    return out
