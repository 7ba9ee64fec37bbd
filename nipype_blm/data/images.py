"""Read images fast: headers once, voxels into reused buffers, damage never unnoticed."""

import functools
import gzip
import logging
import math
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import deflate
import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError, SpatialImage
from nibabel.tripwire import TripWireError
from numpy.typing import NDArray
from zlib_ng import gzip_ng, zlib_ng

from nipype_blm.core.voxels import ValueCounts, gather, gather_scaled
from nipype_blm.errors import InputError, Problem, shorten
from nipype_blm.io.files import FileState, open_input, read_into, read_state

_HEADER_SIZE = 348
_VOXELS_START = 352  # after the header and four bytes that announce extensions
_SMALL_KINDS = {"float32", "int8", "uint8", "int16", "uint16"}  # float32 holds them exactly
# Larger images are decompressed piece by piece, so that memory holds them once.
_LARGEST_AT_ONCE = 2**28
_NO_MASK = np.empty(0)
_MOST_GRIDS = 20
# A run of 258 bytes takes two bits, at best: RFC 1951.
_MOST_INFLATED = 1032
_LONGEST_REASON = 300  # characters of what a library says
_DAMAGE: Any = (EOFError, gzip.BadGzipFile, zlib.error, zlib_ng.error)


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
    def n_grid(self) -> int:
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


def is_image_path(path: Path) -> bool:
    """Return whether a name looks like that of an image rather than of a list."""
    name = path.name.lower()
    for end in (".gz", ".bz2", ".zst"):
        name = name.removesuffix(end)
    return name.endswith((".nii", ".img", ".hdr", ".mgz", ".mgh"))


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image.

    Raises
    ------
    InputError
        If the file is missing, unreadable or not an image.
    """
    with _explaining(path):
        return _parse_header(path, read_start(path))


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Say what is wrong with an image whose header cannot be read, whatever a library raises."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except _DAMAGE as error:  # before OSError, of which some are
        raise InputError(f"{path} is damaged: {_end(_join(error))}") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {_end(error.strerror or _join(error))}"
        ) from error
    except Exception as error:
        raise InputError(
            f"{path} is not an image that can be read: {_end(_describe(error))}"
        ) from error


def _describe(error: Exception) -> str:
    """Return in words what a library raised."""
    if isinstance(error, ImportError | TripWireError):
        named = re.search(r"package (\S+)|'(\S+)'", str(error))  # in the sentences of both
        package = "a library" if named is None else named[1] or named[2]
        return (
            f"reading it needs {package}, which is not installed; install nipype_blm[formats], or "
            "convert it to NIfTI"
        )
    if isinstance(error, KeyError):  # what nibabel finds in no table of codes
        return f"its header has {error}, a code that is not known"
    text = _join(error)
    if text.startswith("w2 should be positive"):
        return (
            "its qform is no rotation: quatern_b, quatern_c and quatern_d of its header have a "
            "length above 1; give it a right qform or sform"
        )
    if isinstance(error, ImageFileError | HeaderDataError | ImageDataError | ValueError):
        return text
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return f"{kind}: {text}" if text else kind


def _join(error: Exception) -> str:
    """Return what a library says in one line, which is not long."""
    return shorten(" ".join(str(error).split()), _LONGEST_REASON)


def _end(reason: object) -> str:
    """Return what went wrong with one full stop, which some libraries' messages have."""
    return f"{str(reason).rstrip('.')}."


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what nibabel says about headers from the terminal: what matters is an InputError."""
    logger = logging.getLogger("nibabel.global")
    was_disabled = logger.disabled
    with warnings.catch_warnings():
        for module in (r"nibabel\.", __name__):
            warnings.filterwarnings("ignore", module=module)
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = was_disabled


_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_NAME = 8  # the flag of a header with the name of the file; RFC 1952
_START_SIZE = 4096  # bytes of a file that surely hold the header of an image


def is_gzip(path: Path) -> bool:
    """Return whether a file is compressed, whatever its name says."""
    with path.open("rb", buffering=0) as file:
        return file.read(2) == _GZIP_MAGIC


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed."""
    with open_input(path) as file:
        data = file.read(_START_SIZE)
    if not data:
        raise ValueError("the file is empty")
    if data[:2] == _GZIP_MAGIC:
        data = _decompress_start(data)
    elif path.suffix == ".gz":
        raise gzip.BadGzipFile("its name ends in .gz, but it is not compressed")
    return data[:_HEADER_SIZE]


def _decompress_start(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data, _HEADER_SIZE)


def _parse_header(path: Path, start: bytes) -> ImageHeader:
    if _is_nifti1(start):
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
    other = _name_pair(path)
    if other is not None and os.path.lexists(other):
        with open_input(other):  # which says if it cannot be read
            pass
    pair = _find_pair(path)
    if pair is None and _is_header(path):
        raise ValueError("its voxels, in a file that ends in .img, are not there")
    for file in (path, pair):
        if file is not None and _is_header(file) and is_gzip(file):
            _check_gzip(file)  # nibabel does not


def _load(path: Path) -> Any:
    """Let nibabel read the header of an image."""
    try:
        image: Any = nib.load(path)
    except ImageFileError:
        if is_gzip(path):
            _check_gzip(path)  # which may be why
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


def find_voxels(path: Path) -> Path:
    """Return the file that has the voxels of an image, whose header may have one of its own."""
    pair = _find_pair(path)
    return path if pair is None or not _is_header(path) else pair


def _is_header(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".hdr")


def _find_pair(path: Path) -> Path | None:
    """Return the other file of an image of two, if it is there."""
    pair = _name_pair(path)
    return pair if pair is not None and pair.exists() else None


def _name_pair(path: Path) -> Path | None:
    """Return the other name of an image of two files: of .hdr and .img, in either case."""
    found = re.fullmatch(r"(.*)\.(hdr|img)(\.gz)?", path.name, re.IGNORECASE)
    if found is None:
        return None
    stem, kind, end = found.groups(default="")
    other = {"hdr": "img", "img": "hdr", "HDR": "IMG", "IMG": "HDR"}.get(kind)
    return path.with_name(f"{stem}.{other}{end}")


def _is_nifti1(start: bytes | bytearray) -> bool:
    return start[344:348] == b"n+1\0"


@functools.lru_cache(maxsize=256)
def _parse_nifti1(
    size: bytes, fields: bytes, orientation: bytes, long_vector: bytes = bytes(8)
) -> ImageHeader:
    block = bytearray(_HEADER_SIZE)
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


def describe_grid_difference(header: ImageHeader, expected: ImageHeader) -> str | None:
    """Say how the grid of an image differs from the one expected, or None.

    Affines may differ by a thousandth of a voxel at the corners of the grid.
    """
    if header.shape != expected.shape:
        return f"its shape is {header.shape}, expected {expected.shape}"
    fault = describe_affine_fault(header)
    if fault:
        return fault
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in expected.shape])).reshape(3, -1)
    moved = (header.affine - expected.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    voxel = np.linalg.norm(expected.affine[:3, :3], axis=0).min()
    if not np.abs(moved).max() <= 1e-3 * voxel:
        return f"its affine is {_format(header.affine)}, expected {_format(expected.affine)}"
    return None


def describe_affine_fault(header: ImageHeader) -> str | None:
    """Say why an affine gives voxels no place, or None."""
    if not np.isfinite(header.affine).all():
        return f"its affine has values that are not finite: {header.affine.tolist()}"
    if not np.linalg.det(header.affine[:3, :3]):
        return f"its affine is singular: {header.affine.tolist()}"
    return None


def describe_grid(header: ImageHeader) -> str:
    """Return shape and affine in words."""
    return f"shape {header.shape} and affine {_format(header.affine)}"


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
            same = (n for grid, n in grids if describe_grid_difference(header, grid) is None)
            known[key] = next(same, [])
            if not known[key] and len(grids) < _MOST_GRIDS and not describe_affine_fault(header):
                grids.append((header, known[key]))
        known[key].append(i)
    return sorted((positions for _, positions in grids), key=len, reverse=True)


def _format(affine: NDArray[np.float64]) -> list[list[float]]:
    return [[float(f"{value:.9g}") for value in row] for row in affine]


def check_size(path: Path, header: ImageHeader, size: int) -> None:
    """Refuse an image whose file is too small for its voxels, without reading them."""
    voxels = find_voxels(path)
    if _find_pair(path) is not None:  # the size is that of both
        size = voxels.stat().st_size
    needed = header.offset + header.n_volumes * header.n_grid * header.dtype.itemsize
    if header.offset < 0 or size >= needed:
        return
    if voxels.suffix not in (".gz", ".mgz") and not is_gzip(voxels):
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


class ImageReader:
    """Reads the voxels of a mask from images on one grid; safe in several threads.

    Parameters
    ----------
    expected : ImageHeader
        The grid that every image must have.
    starts, lengths : integer arrays
        Runs of the mask in file order.
    threshold : float
        Values below it are missing.
    zero_is_missing : bool
    """

    def __init__(
        self,
        expected: ImageHeader,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        threshold: float = -np.inf,
        zero_is_missing: bool = True,
    ) -> None:
        self._expected = expected
        self._runs = starts, lengths
        self._missing_if = float(threshold), zero_is_missing
        self._local = threading.local()
        self._last_good: ImageHeader | None = None

    def read(
        self, path: Path, volume: int, out: NDArray[Any], inside: NDArray[np.float64] = _NO_MASK
    ) -> ValueCounts:
        """Read one volume into a row of floats, NaN where missing.

        Parameters
        ----------
        inside : array of the shape of `out`, optional
            The image's own mask, NaN outside.

        Raises
        ------
        InputError
            If the file is missing, damaged, or not on the grid expected.
        """
        try:
            header, values = self._read_values(path, volume)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist any more.") from error
        except _DAMAGE as error:
            raise InputError(f"{path} is damaged ({error}); restore it and run again.") from error
        except OSError as error:
            reason = error.strerror or _join(error)
            raise InputError(f"{path} cannot be read ({reason}); run again.") from error
        except Exception as error:  # of the library of another format
            reason = _describe(error)
            raise InputError(f"{path} is damaged ({reason}); restore it and run again.") from error
        if header.is_scaled:
            scale = header.slope, header.inter
            return gather_scaled(values, *self._runs, *scale, *self._missing_if, inside, out)
        return gather(values, *self._runs, *self._missing_if, inside, out)

    def _read_values(self, path: Path, volume: int) -> tuple[ImageHeader, NDArray[Any]]:
        """Return the header, and one volume as it is stored, in file order."""
        stream = getattr(self._local, "stream", None)
        if stream is not None and stream.path == path:
            return self._read_gzip(path, stream.voxels, volume)
        known: tuple[Any, ...] = getattr(self._local, "plain", (None,))
        # From the third volume on, a file is only looked into if it has changed.
        state = stat_file(path) if known[0] == path else None
        if state is None or state != known[1]:
            voxels = find_voxels(path)
            if is_gzip(voxels):
                return self._read_gzip(path, voxels, volume)
            known = self._local.plain = path, state, voxels, read_header(path)
        voxels, header = known[2:]
        self._check(path, header, volume)
        if header.offset < 0:
            return header, self._read_with_nibabel(path, header, volume)
        return header, self._read_plain(voxels, header, volume)

    def _read_with_nibabel(self, path: Path, header: ImageHeader, volume: int) -> NDArray[Any]:
        """Read any other format; nibabel has applied slope and intercept."""
        data: Any = nib.load(path).dataobj  # type: ignore[attr-defined]
        if len(data.shape) == 4:
            data = data[..., volume]
        else:
            data = np.asanyarray(data).reshape(*header.shape, -1, order="F")[..., volume]
        return np.asanyarray(data).ravel(order="F").astype(np.float64)

    def _check(self, path: Path, header: ImageHeader, volume: int) -> ImageHeader:
        if header is self._last_good and volume < header.n_volumes:
            return header
        difference = describe_grid_difference(header, self._expected)
        if difference or volume >= header.n_volumes:
            what = difference or f"it has {header.n_volumes} volumes"
            raise InputError(f"{path} has changed since the run was planned: {what}.")
        self._last_good = header  # equal headers are parsed once: most are this same object
        return header

    def _buffer(self, size: int) -> NDArray[np.uint8]:
        """Return this thread's buffer."""
        buffer: NDArray[np.uint8] | None = getattr(self._local, "buffer", None)
        if buffer is None or buffer.size < size:
            buffer = self._local.buffer = np.empty(size, np.uint8)
        return buffer[:size]

    def _read_plain(self, path: Path, header: ImageHeader, volume: int) -> NDArray[Any]:
        n_bytes = header.n_grid * header.dtype.itemsize
        buffer = self._buffer(n_bytes)
        with path.open("rb", buffering=0) as file:
            file.seek(header.offset + volume * n_bytes)
            done = read_into(file, buffer)
        if done < n_bytes:
            raise EOFError(f"{n_bytes - done} bytes of voxels are missing at its end")
        return _native(buffer.view(header.dtype))

    def _read_gzip(self, path: Path, voxels: Path, volume: int) -> tuple[ImageHeader, NDArray[Any]]:
        """Decompress up to a volume; to the end, where the checksum is, after the last one.

        Volumes of one file asked for in order by one thread are read in one pass.
        """
        stream = getattr(self._local, "stream", None)
        if stream is None or stream.path != path or stream.volume > volume:
            found = _decompress_at_once(voxels)
            if found is not None:
                header, values = found
                return self._check(path, header, volume), _native(values)
            stream = _GzipVolumes(path, voxels)
            self._check(path, stream.header, volume)
            self._local.stream = stream
        header = stream.header
        if header.offset < 0:
            return header, self._read_with_nibabel(path, header, volume)
        n_bytes = header.n_grid * header.dtype.itemsize
        buffer = self._buffer(n_bytes)
        while stream.volume <= volume:
            stream.read_volume(buffer)
        if stream.volume == header.n_volumes:
            stream.close()
            self._local.stream = None
        return header, _native(buffer.view(header.dtype))


def _decompress_at_once(path: Path) -> tuple[ImageHeader, NDArray[Any]] | None:
    """Return a compressed image of one volume, in the fastest way; None if it is not plain.

    Plain is an intact NIfTI-1 file of one gzip member and nothing else.  What to think of any
    other is for `_GzipVolumes` to say, which reads the same image in a quarter more time.
    """
    with path.open("rb", buffering=0) as file:
        start = _decompress_start(file.read(_START_SIZE))
        if len(start) < _HEADER_SIZE or not _is_nifti1(start):
            return None
        with _explaining(path):
            header = _parse_header(path, start)
        size = header.offset + header.n_grid * header.dtype.itemsize
        is_odd = header.n_volumes > 1 or header.offset % header.dtype.itemsize
        if is_odd or max(size, os.fstat(file.fileno()).st_size) > _LARGEST_AT_ONCE:
            return None
        file.seek(0)
        content = _inflate_member(file.read(), size)
    if content is None:
        return None
    return header, np.frombuffer(content, header.dtype, header.n_grid, header.offset)


def _inflate_member(data: bytes, size: int) -> bytearray | None:
    """Return the content of a gzip file of one member, if it has this size and is intact."""
    begin = 10
    flags, trailer = data[3], data[-8:]
    if flags & _GZIP_NAME:
        begin = data.find(b"\0", begin) + 1
    # The decoder does not say where the member ends: before, if its trailer is there, too.
    # (From the right, Python looks for it in half the time.)
    if flags & ~_GZIP_NAME or not begin or data.rfind(trailer, 0, -1) >= 0:
        return None
    try:
        content = deflate.deflate_decompress(memoryview(data)[begin:-8], size)
    except deflate.DeflateError:
        return None
    found = deflate.crc32(content), len(content)
    return content if found == struct.unpack("<II", trailer) and len(content) == size else None


class _GzipFile(gzip_ng.GzipNGFile):
    """A compressed file that fills a buffer without a copy in between."""

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; Python's own class reads and copies."""
        n: int = self._buffer.readinto(buffer)
        return n


class _GzipVolumes:
    """The volumes of one compressed image, one after the other."""

    def __init__(self, path: Path, voxels: Path) -> None:
        self.path = path
        self.voxels = voxels
        self.volume = 0
        self._file = _GzipFile(voxels, "rb")
        start = bytearray(_HEADER_SIZE)
        size = read_into(self._file, np.frombuffer(start, np.uint8))
        if _is_nifti1(start[:size]):
            with _explaining(path):
                self.header = _parse_header(path, bytes(start))
        else:
            self.header = read_header(path)
        self._file.seek(max(self.header.offset, 0))

    def read_volume(self, buffer: NDArray[np.uint8]) -> None:
        done = read_into(self._file, buffer)
        if done < buffer.size:
            raise EOFError(f"{buffer.size - done} bytes of voxels are missing at its end")
        self.volume += 1

    def close(self) -> None:
        """Read to the end, so that the checksum is tested."""
        extra = self._file.read(1)
        if self.header.has_tail:
            _read_to_end(self._file)
        self._file.close()
        if extra and not self.header.has_tail:
            raise EOFError("there are more bytes than its header says")


def _check_gzip(path: Path) -> None:
    """Read a compressed file to its end, where the checksum is."""
    with _GzipFile(path, "rb") as file:
        _read_to_end(file, _LARGEST_AT_ONCE)


def _read_to_end(file: _GzipFile, most: float = math.inf) -> None:
    while file.read(2**20):
        if file.tell() > most:
            raise ValueError(f"it holds more than {most} bytes, and no image that is known")


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in this machine's byte order."""
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def read_mask(path: Path, expected: ImageHeader, field: str) -> NDArray[np.bool_]:
    """Read a mask in file order; inside means finite and not zero.

    Parameters
    ----------
    field : str
        The field of `Request` that names the mask, for messages; or what else it is called.
    """
    with _name_field(field):
        header = read_header(path)
    difference = describe_grid_difference(header, expected)
    if difference is None and header.n_volumes > 1:
        difference = f"it has {header.n_volumes} volumes"
    if difference is not None:
        template = "is not in the space of the images: {difference}; resample it to the images."
        raise InputError(
            Problem(field, f"{{{field}}} {{path}} {template}", path=path, difference=difference)
        )
    n_grid = header.n_grid
    values = np.empty(n_grid)
    reader = ImageReader(expected, np.array([0]), np.array([n_grid]))
    with _name_field(field):
        reader.read(path, 0, values)
    mask = ~np.isnan(values)
    if not mask.any():
        template = "has no voxel that is finite and not zero."
        raise InputError(Problem(field, f"{{{field}}} {{path}} {template}", path=path))
    return mask


@contextmanager
def _name_field(field: str) -> Iterator[None]:
    """Name the field in front of what is wrong with its file."""
    try:
        yield
    except InputError as error:
        raise InputError(Problem(field, f"{{{field}}}: {{fault}}", fault=error)) from error


def stat_file(path: Path) -> FileState:
    """Return what changes when an image does.

    For an image of two files (.hdr and .img) it is about both: a change of either shows.
    """
    pair = _find_pair(path)
    found = [read_state(each) for each in (path, pair) if each is not None]
    return FileState(
        sum(each.size for each in found),
        sum(each.mtime_ns for each in found),
        " ".join(each.identity for each in found),
    )


def identify_file(path: Path) -> tuple[int, int]:
    """Return what two paths share only if they lead to the same voxels: device and inode."""
    found = find_voxels(path).stat()
    return found.st_dev, found.st_ino


def header_of_model(template: bytes, shape: tuple[int, int, int]) -> ImageHeader:
    """Return the grid that a template header describes; it cannot hold a large shape."""
    header = _parse_nifti1(template[:4], template[40:120], template[252:328])
    return header._replace(shape=shape)
