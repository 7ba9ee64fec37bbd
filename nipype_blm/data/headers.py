"""Read the headers of images: once each, and what they promise is checked."""

import functools
import gzip
import math
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage

from nipype_blm.data.compressed import (
    GZIP_MAGIC,
    check_gzip,
    decompress_start,
    is_gzip,
    is_named_compressed,
)
from nipype_blm.data.files import find_pair, find_voxels, is_header, name_pair
from nipype_blm.data.grids import ImageHeader
from nipype_blm.data.libraries import explaining
from nipype_blm.errors import InputError
from nipype_blm.io.files import FileState, open_input

HEADER_SIZE = 348
_VOXELS_START = 352  # after the header and four bytes that announce extensions
START_SIZE = 4096  # bytes of a file that surely hold the header of an image
# A run of 258 bytes takes two bits, at best: RFC 1951.
_MOST_INFLATED = 1032


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image.

    Raises
    ------
    InputError
        If the file is missing, unreadable or not an image.
    """
    with explaining(path):
        return parse_header(path, read_start(path))


@functools.lru_cache(maxsize=2**17)
def inspect_image(path: Path, state: FileState) -> ImageHeader:
    """Read a header and see whether voxels can follow; once in a process that checks, then plans.

    Raises
    ------
    InputError
        As of `read_header` and of `check_size`.
    """
    header = read_header(path)
    check_size(path, header, state.size)
    return header


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed."""
    with open_input(path) as file:
        data = file.read(START_SIZE)
    if not data:
        raise ValueError("the file is empty")
    if data[:2] == GZIP_MAGIC:
        data = decompress_start(data, HEADER_SIZE)
    elif path.suffix == ".gz":
        raise gzip.BadGzipFile("its name ends in .gz, but it is not compressed")
    return data[:HEADER_SIZE]


def parse_header(path: Path, start: bytes) -> ImageHeader:
    """Return the header of an image whose first bytes have been read."""
    if is_nifti1(start):
        # The fields that decide; description and display range may differ between images.
        # FreeSurfer has the length of long vectors where others have a display range.
        long_vector = start[140:148] if start[42:44] == b"\xff\xff" else bytes(8)
        parsed = _parse_nifti1(start[:4], start[40:120], start[252:328], long_vector)
        if parsed.offset < _VOXELS_START:
            raise ValueError(f"its voxels would start at byte {parsed.offset}, in the header")
        return parsed
    _check_pair(path)
    image = _load(path)
    shape, n_volumes = _split_shape(image.shape)
    dtype = np.dtype(image.get_data_dtype())
    _check_type(dtype)
    if isinstance(image, nib.Nifti1Pair | nib.Spm99AnalyzeImage):  # NIfTI-2 and single files, too
        _check_slope(_read_raw_header(image))
    header = ImageHeader(shape, n_volumes, np.array(image.affine), dtype, 1.0, 0.0, -1)
    voxels = image.dataobj
    if type(voxels) is not ArrayProxy or path.suffix in (".bz2", ".zst"):
        return header
    return header._replace(
        dtype=voxels.dtype,
        slope=float(voxels.slope),
        inter=float(voxels.inter),
        offset=_check_offset(voxels.offset),
        has_tail=isinstance(image, nib.MGHImage),
    )


def _check_pair(path: Path) -> None:
    """Refuse one of two files whose other one is not there, or damaged."""
    other = name_pair(path)
    if other is not None and os.path.lexists(other):
        with open_input(other):  # which says if it cannot be read
            pass
    pair = find_pair(path)
    if pair is None and is_header(path):
        raise ValueError("its voxels, in a file that ends in .img, are not there")
    for file in (path, pair):
        if file is not None and is_header(file) and is_gzip(file):
            check_gzip(file)  # nibabel does not


def _load(path: Path) -> Any:
    """Let nibabel read the header of an image."""
    try:
        image: Any = nib.load(path)
    except (ImageFileError, OSError):  # indexed_gzip has an OSError for a wrong checksum
        if is_gzip(path):
            check_gzip(path)  # which may be why
        raise
    if not isinstance(image, SpatialImage):
        raise ValueError(f"it is a {type(image).__name__}, not one of volumes")
    voxels = Path(image.file_map["image"].filename or path)
    try:
        with open_input(voxels):
            pass
    except FileNotFoundError as error:
        raise ValueError(f"its voxels, in {voxels.name}, are not there") from error
    return image


def _check_offset(offset: float) -> int:
    """Return where the voxels start."""
    if not 0 <= offset < math.inf:
        raise ValueError(f"its voxels would start at byte {offset:g}")
    return int(offset)


def _read_raw_header(image: Any) -> Any:
    """Return the header as it is in the file; nibabel has removed the slope from its own."""
    file_map = image.file_map
    with file_map.get("header", file_map["image"]).get_prepare_fileobj("rb") as file:
        return image.header_class.from_fileobj(file, check=False)


def _check_slope(header: Any) -> None:
    """Refuse an infinite slope, which nibabel takes for none."""
    if np.isinf(header["scl_slope"]):
        raise ValueError(f"its values would be multiplied by {header['scl_slope']} (scl_slope)")


def is_nifti1(start: bytes | bytearray) -> bool:
    """Return whether a file that begins with these bytes is NIfTI-1, in one file."""
    return start[344:348] == b"n+1\0"


@functools.lru_cache(maxsize=256)
def _parse_nifti1(
    size: bytes, fields: bytes, orientation: bytes, long_vector: bytes = bytes(8)
) -> ImageHeader:
    block = bytearray(HEADER_SIZE)
    block[:4], block[40:120], block[252:328] = size, fields, orientation
    block[140:148] = long_vector
    block[344:348] = b"n+1\0"
    header = nib.Nifti1Header(bytes(block), check=False)
    dtype = np.dtype(header.get_data_dtype())
    _check_type(dtype)
    spatial, n_volumes = _split_shape(header.get_data_shape())
    _check_slope(header)
    slope, inter = header.get_slope_inter()
    return ImageHeader(
        spatial,
        n_volumes,
        header.get_best_affine(),
        dtype,
        1.0 if slope is None else float(slope),
        0.0 if inter is None else float(inter),
        _check_offset(float(header["vox_offset"])),
    )


def _split_shape(shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """Return the spatial shape and the number of volumes."""
    shape = tuple(int(n) for n in shape)
    x, y, z = (*shape, 1, 1, 1)[:3]
    n_volumes = math.prod(shape[3:])
    if min(x, y, z, n_volumes) < 1:
        raise ValueError(f"its shape is {shape}")
    if n_volumes not in (1, *shape[3:]):
        raise ValueError(f"its shape is {shape}, more than four dimensions")
    return (x, y, z), n_volumes


def _check_type(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype == np.float16:
        raise ValueError(f"its data type is {dtype}; real numbers of at most 64 bits are expected")


def check_size(path: Path, header: ImageHeader, size: int) -> None:
    """Refuse an image whose file is too small for its voxels, without reading them."""
    voxels = find_voxels(path)
    if find_pair(path) is not None:  # the size is that of both
        size = voxels.stat().st_size
    needed = header.offset + header.n_volumes * header.n_values * header.dtype.itemsize
    if header.offset < 0 or size >= needed:
        return
    if not is_named_compressed(voxels) and not is_gzip(voxels):
        reason = f"{needed - size} bytes of voxels are missing at its end"
    elif size * _MOST_INFLATED < needed:
        n = header.n_volumes
        reason = (
            f"{size} compressed bytes cannot hold the {needed} bytes that its header promises: "
            f"{f'{n} volumes of ' * (n > 1)}shape {header.shape}"
        )
    else:
        return
    raise InputError(f"{voxels} is damaged ({reason}); restore it and run again.")


def header_of_template(template: bytes, shape: tuple[int, int, int]) -> ImageHeader:
    """Return the grid that a template header describes; it cannot hold a large shape."""
    header = _parse_nifti1(template[:4], template[40:120], template[252:328])
    return header._replace(shape=shape)
