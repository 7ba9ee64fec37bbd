"""The voxels of a mask as a space: images on one grid are read, maps are written as NIfTI."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from zlib_ng import gzip_ng

from nipype_blm.core.voxels import find_runs
from nipype_blm.data.grids import ImageHeader
from nipype_blm.data.headers import (
    explaining,
    header_of_template,
    is_nifti1,
    parse_header,
    read_start,
)
from nipype_blm.data.images import ImageReader
from nipype_blm.data.maps import MapInfo, write_sidecar
from nipype_blm.data.space import Arrays, Options, Space, check_neighbourhood
from nipype_blm.io.files import naming

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_LARGEST_NIFTI1 = 2**15 - 1
# Coordinates in which neighbours differ, at most.
_MOST_DIFFERENT = {26: 3, 18: 2, 6: 1}


@dataclass(frozen=True, eq=False)
class VolumeSpace:
    """The voxels of a mask, in file order: x varies fastest."""

    shape: tuple[int, int, int]
    template: bytes  # a NIfTI-1 header with the space of the images; it cannot hold a large shape
    mask: NDArray[np.bool_]  # (n_values,), in file order

    @classmethod
    def of_file(cls, path: Path, inside: NDArray[np.bool_] | None = None) -> Self:
        """Return the space of an image: all its voxels, or those inside a mask."""
        with explaining(path):
            start = read_start(path)
            header, template = parse_header(path, start), _make_template(path, start)
        mask = np.ones(header.n_values, bool) if inside is None else inside
        return cls(header.shape, template, mask)

    @property
    def n_features(self) -> int:
        """Voxels inside the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where the voxels of the mask lie in the grid."""
        return np.flatnonzero(self.mask)

    @cached_property
    def grid(self) -> ImageHeader:
        """Shape and affine."""
        return header_of_template(self.template, self.shape)

    def make_reader(self, threshold: float = -np.inf, zero_is_missing: bool = True) -> ImageReader:
        """Return what reads the voxels of the mask from images on the grid."""
        return ImageReader(self.grid, *find_runs(self.mask), threshold, zero_is_missing)

    def write(
        self, path: Path, info: MapInfo, vectors: Iterable[NDArray[Any]], dtype: np.dtype[Any]
    ) -> None:
        """Write a map, 0 outside the mask, and its sidecar; see `Space.write`."""
        n_volumes = () if info.volumes is None else (len(info.volumes),)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = _make_header(self.template, (*self.shape, *n_volumes), info, dtype)
        with naming(path), _create(path) as file:
            file.write(header)
            for vector in vectors:
                values = np.zeros(self.mask.size, dtype)
                values[self.mask] = vector
                file.write(values.view(np.uint8).data)
        write_sidecar(path, info)

    def describe_difference(self, other: Space) -> str | None:
        """Say how the grid or the mask of another space differs, or None."""
        if not isinstance(other, VolumeSpace):
            return f"it is a {type(other).__name__}, expected a volume"
        difference = other.grid.describe_difference(self.grid)
        if difference is None and (other.mask != self.mask).any():
            n_others = np.count_nonzero(other.mask & ~self.mask)
            n_missing = np.count_nonzero(self.mask & ~other.mask)
            difference = f"its mask has {n_others} voxels more and lacks {n_missing} others"
        return difference

    def find_coordinates(self) -> NDArray[np.float64]:
        """Return where the centres of the voxels of the mask are, in mm: (n_features, 3)."""
        voxels = np.unravel_index(self.positions, self.shape, order="F")
        affine = self.grid.affine
        return np.transpose(voxels) @ affine[:3, :3].T + affine[:3, 3]

    @property
    def feature_size(self) -> float:
        """How large a voxel is, in mm3."""
        return float(abs(np.linalg.det(self.grid.affine[:3, :3])))

    @property
    def neighbourhoods(self) -> tuple[int, ...]:
        """How many neighbours a voxel has in each sense of the word: by corners, edges, faces."""
        return tuple(_MOST_DIFFERENT)

    def find_neighbours(self, n_neighbours: int | None = None) -> "csr_array":
        """Return which voxels of the mask touch.

        Parameters
        ----------
        n_neighbours : 6, 18 or 26, optional
            Whether voxels touch by their faces, also by edges, or also by corners (the default).

        Returns
        -------
        neighbours : sparse Boolean array of shape (n_features, n_features)
            Symmetric; no voxel is its own neighbour.
        """
        from scipy.sparse import csr_array

        most_different = _MOST_DIFFERENT[check_neighbourhood(self, n_neighbours)]
        # The number of each voxel in a grid with a border; -1 there and outside of the mask.
        x, y, z = (n + 2 for n in self.shape)
        padded = np.zeros((x, y, z), bool, order="F")
        padded[1:-1, 1:-1, 1:-1] = self.mask.reshape(self.shape, order="F")
        here = np.flatnonzero(padded.ravel(order="F"))
        numbers = np.full(padded.size, -1, np.int32)
        numbers[here] = np.arange(here.size, dtype=np.int32)
        steps = sorted(dx + x * (dy + y * dz) for dx, dy, dz in _list_steps(most_different))
        there = np.empty((here.size, len(steps)), np.int32)
        for i, step in enumerate(steps):  # ascending, as the numbers are
            there[:, i] = numbers[here + step]
        touches = there >= 0
        columns = there[touches]
        # Without this SciPy takes 8 bytes for each number.
        dtype = np.int32 if columns.size < 2**31 else np.int64
        start = np.append(0, np.cumsum(np.count_nonzero(touches, axis=1))).astype(dtype)
        shape = (here.size, here.size)
        return csr_array((np.ones(columns.size, bool), columns, start), shape)

    def pack(self) -> tuple[Arrays, Options]:
        """Return mask and template, and the shape."""
        template = np.frombuffer(self.template, np.uint8)
        return {"mask": self.mask, "template": template}, {"shape": list(self.shape)}

    @classmethod
    def unpack(cls, arrays: Arrays, options: Options) -> Self:
        """Return the space that was packed."""
        x, y, z = options["shape"]
        return cls((x, y, z), arrays["template"].tobytes(), arrays["mask"])


def _list_steps(most_different: int) -> list[tuple[int, ...]]:
    """Return the steps to neighbours, which differ in at most so many coordinates."""
    steps = itertools.product((-1, 0, 1), repeat=3)
    return [step for step in steps if 0 < np.count_nonzero(step) <= most_different]


def _make_template(image_file: Path, start: bytes) -> bytes:
    """Return a NIfTI-1 header with the space of an image and nothing else of it."""
    source: Any
    if is_nifti1(start):
        source = nib.Nifti1Header(start, check=False)
    else:
        image: Any = nib.load(image_file)
        source = image.header
    header = nib.Nifti1Header()
    shape = (*source.get_data_shape(), 1, 1, 1)[:3]
    header.set_data_shape([min(n, _LARGEST_NIFTI1) for n in shape])
    if isinstance(source, nib.Nifti1Header):  # or NIfTI-2, which has the same fields
        for field in _SPACE_FIELDS:
            header[field] = source[field]
    else:
        header.set_zooms(nib.affines.voxel_sizes(image.affine))
        header.set_xyzt_units("mm")
        header.set_sform(image.affine, code="scanner")
    return bytes(header.binaryblock)


@contextlib.contextmanager
def _create(path: Path) -> Iterator[Any]:
    """Open a new map, which is compressed if its name says so."""
    with path.open("wb") as file:
        if path.suffix != ".gz":
            yield file
            return
        # No name and no time in the gzip header: equal maps are equal files.
        with gzip_ng.GzipNGFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as compressed:
            yield compressed


def _make_header(
    template: bytes, shape: Sequence[int], info: MapInfo, dtype: np.dtype[Any]
) -> bytes:
    template_header = nib.Nifti1Header(template, check=False)
    is_large = max(shape) > _LARGEST_NIFTI1
    header: Any = nib.Nifti2Header() if is_large else nib.Nifti1Header()
    for field in _SPACE_FIELDS:
        header[field] = template_header[field]
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["pixdim"][4:] = 1
    header.set_intent(info.intent, info.intent_parameters, name="", allow_unknown=True)
    header["descrip"] = info.description[:79].encode("ascii", "replace")
    header["scl_slope"], header["scl_inter"] = 1, 0
    block = header.binaryblock
    header["vox_offset"] = offset = -(-(len(block) + 4) // 16) * 16
    return bytes(header.binaryblock) + bytes(offset - len(block))


_SPACE_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
