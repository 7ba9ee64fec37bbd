"""Read the voxels of images fast: into reused buffers, damage never unnoticed."""

import os
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.voxels import ValueCounts, gather, gather_scaled
from nipype_blm.data.compressed import (
    LARGEST_AT_ONCE,
    GzipFile,
    decompress_start,
    inflate_member,
    is_gzip,
    read_to_end,
)
from nipype_blm.data.files import find_voxels, stat_file
from nipype_blm.data.grids import ImageHeader
from nipype_blm.data.headers import HEADER_SIZE, START_SIZE, is_nifti1, parse_header, read_header
from nipype_blm.data.libraries import DAMAGE, describe_error, explaining, join_lines
from nipype_blm.data.space import NO_MASK
from nipype_blm.errors import InputError
from nipype_blm.io.files import explain_absence, read_into


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
        self, path: Path, volume: int, out: NDArray[Any], inside: NDArray[np.float64] = NO_MASK
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
            reason = explain_absence(path) or "does not exist any more"
            raise InputError(f"{path} {reason}.") from error
        except DAMAGE as error:
            raise InputError(f"{path} is damaged ({error}); restore it and run again.") from error
        except OSError as error:
            reason = error.strerror or join_lines(error)
            raise InputError(f"{path} cannot be read ({reason}); run again.") from error
        except Exception as error:  # of the library of another format
            reason = describe_error(error)
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
        difference = header.describe_difference(self._expected)
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
        n_bytes = header.n_values * header.dtype.itemsize
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
        n_bytes = header.n_values * header.dtype.itemsize
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
        start = decompress_start(file.read(START_SIZE), HEADER_SIZE)
        if len(start) < HEADER_SIZE or not is_nifti1(start):
            return None
        with explaining(path):
            header = parse_header(path, start)
        size = header.offset + header.n_values * header.dtype.itemsize
        is_odd = header.n_volumes > 1 or header.offset % header.dtype.itemsize
        if is_odd or max(size, os.fstat(file.fileno()).st_size) > LARGEST_AT_ONCE:
            return None
        file.seek(0)
        content = inflate_member(file.read(), size)
    if content is None:
        return None
    return header, np.frombuffer(content, header.dtype, header.n_values, header.offset)


class _GzipVolumes:
    """The volumes of one compressed image, one after the other."""

    def __init__(self, path: Path, voxels: Path) -> None:
        self.path = path
        self.voxels = voxels
        self.volume = 0
        self._file = GzipFile(voxels, "rb")
        start = bytearray(HEADER_SIZE)
        size = read_into(self._file, np.frombuffer(start, np.uint8))
        if is_nifti1(start[:size]):
            with explaining(path):
                self.header = parse_header(path, bytes(start))
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
            read_to_end(self._file)
        self._file.close()
        if extra and not self.header.has_tail:
            raise EOFError("there are more bytes than its header says")


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in this machine's byte order."""
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
