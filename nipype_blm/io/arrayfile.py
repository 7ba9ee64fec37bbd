"""The file between two stages: named arrays and a fingerprint, read slice by slice.

A file is one line of JSON (padded to 64 bytes), then the arrays, each aligned to 64 bytes
and in C order, then checksums: of each chunk of the arrays, and of the line.  A reader checks
the chunks that it touches.  Equal contents give equal bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from zlib_ng.zlib_ng import crc32

from nipype_blm.errors import InputError
from nipype_blm.io.files import FileState, read_into, read_state, replacing

FORMAT = "nipype_blm arrays 2"
_ALIGNMENT = 64
# What has one checksum: small, because a few columns of many rows are read with all chunks that
# they touch; large enough that calling `crc32` costs less than what it does.
_CHUNK = 2**13
_PIECE = 2**18  # of whole chunks; stays in the processor's cache while it is checked and copied
_CHECKSUM = np.dtype("<u4")
_MADE = "made"
_RESERVED = 2**10  # for a header that is written last


def fingerprint(*parts: str | bytes) -> str:
    """Return a short hash of all parts."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        # Names of files are any bytes.
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def write_arrays(
    path: Path, stamp: str, arrays: Mapping[str, NDArray[Any]], meta: Any = None
) -> Path:
    """Write arrays to a new file, which appears under its name only when complete.

    Parameters
    ----------
    stamp : str
        Fingerprint of everything the arrays were made from.
    meta : JSON value, optional
    """
    with replacing(path) as file:
        file.writelines(pack_arrays(stamp, arrays, meta))
    return path


def pack_arrays(stamp: str, arrays: Mapping[str, NDArray[Any]], meta: Any) -> Iterator[Any]:
    """Return the contents of a file of arrays, piece by piece."""
    line = _format_header(stamp, meta, _lay_out(arrays))
    yield line
    checksums = _Checksums()
    for piece in _pack_values(arrays):
        checksums.add(piece)
        yield piece
    yield checksums.pack(line)


def _lay_out(arrays: Mapping[str, NDArray[Any]], offset: int = 0) -> dict[str, Any]:
    """Return type, shape and place of each array."""
    layout = {}
    for name, array in arrays.items():
        layout[name] = [array.dtype.newbyteorder("<").str, list(array.shape), offset]
        offset = _align(offset + array.nbytes)
    return layout


def _format_header(stamp: str, meta: Any, layout: Mapping[str, Any], size: int = 0) -> bytes:
    """Return the first line of a file, of at least `size` bytes."""
    header = {"format": FORMAT, "stamp": stamp, "meta": meta, "arrays": layout}
    line = json.dumps(header).encode() + b"\n"
    return line.rjust(max(_align(len(line)), size))


def _pack_values(arrays: Mapping[str, NDArray[Any]]) -> Iterator[memoryview]:
    """Return the values of each array, and what aligns the next one."""
    for array in arrays.values():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        values = data.reshape(-1).view(np.uint8).data
        yield from (values[i : i + _PIECE] for i in range(0, len(values), _PIECE))
        yield memoryview(bytes(_align(array.nbytes) - array.nbytes))


class _Checksums:
    """The checksums of the chunks of a stream."""

    def __init__(self) -> None:
        self._complete: list[int] = []
        self._rest = b""  # of a chunk that has begun

    def add(self, data: memoryview) -> None:
        """Add what follows; the last chunk may be shorter, others are whole."""
        if self._rest:
            missing = _CHUNK - len(self._rest)
            self._rest += data[:missing]
            data = data[missing:]
            if len(self._rest) < _CHUNK:
                return
            self._complete.append(crc32(self._rest))
        whole = len(data) - len(data) % _CHUNK
        self._complete += [crc32(data[at : at + _CHUNK]) for at in range(0, whole, _CHUNK)]
        self._rest = bytes(data[whole:])

    def finish(self) -> list[int]:
        """Return the checksums of all chunks."""
        return [*self._complete, crc32(self._rest)] if self._rest else self._complete

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """Return what `restore` takes."""
        complete = np.array(self._complete, _CHECKSUM)
        return {"checksums": complete, "rest": np.frombuffer(self._rest, np.uint8)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`."""
        self._complete = state["checksums"].tolist()
        self._rest = state["rest"].tobytes()

    def pack(self, line: bytes) -> bytes:
        """Return the end of a file with this first line."""
        return np.array([*self.finish(), crc32(line)], _CHECKSUM).tobytes()


class ArrayStream:
    """Writes one array of bytes piece by piece, and then others, to a new file.

    Parameters
    ----------
    file : binary file
        Open for writing at its beginning; what it has is overwritten.
    name : str
        Of the array of bytes.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._checksums = _Checksums()
        self._size = 0
        file.write(bytes(_RESERVED))

    def add(self, data: bytes) -> int:
        """Append to the array of bytes; return where in it they begin."""
        start = self._size
        self._write(memoryview(data))
        return start

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """What the file has so far, of which nothing is on its way there any more."""
        self._file.flush()
        return {"size": np.array([self._size]), **self._checksums.state}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`, in a file that has at least that.

        Raises
        ------
        InputError
            If it has less.
        """
        size = int(state["size"][0])
        if os.fstat(self._file.fileno()).st_size < _RESERVED + size:
            raise InputError("A file that was begun is shorter than it was.")
        self._file.seek(_RESERVED + size)
        self._size = size
        self._checksums.restore(state)

    def finish(self, stamp: str, arrays: Mapping[str, NDArray[Any]], meta: Any = None) -> None:
        """Write all else; see `write_arrays`."""
        layout = {self._name: ["|u1", [self._size], 0], **_lay_out(arrays, _align(self._size))}
        line = _format_header(stamp, meta, layout, _RESERVED)
        if len(line) > _RESERVED:
            raise ValueError(f"A header of {len(line)} bytes has no room.")
        self._write(memoryview(bytes(_align(self._size) - self._size)))
        for piece in _pack_values(arrays):
            self._write(piece)
        self._file.write(self._checksums.pack(line))
        self._file.truncate()
        self._file.seek(0)
        self._file.write(line)

    def _write(self, data: memoryview) -> None:
        self._checksums.add(data)
        self._file.write(data)
        self._size += len(data)


def _align(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT


class ArrayFile:
    """Reads the arrays of one file.

    Parameters
    ----------
    path : Path
    stamp : str, optional
        The fingerprint that the file must have.

    Raises
    ------
    InputError
        If the file is not one of ours, is damaged, or was made from other input.  Damage to
        arrays is found when they are read.
    """

    def __init__(self, path: Path | str, stamp: str | None = None) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            line = file.readline(2**26)
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _CHECKSUM.itemsize, 0))
            header = self._parse(line, file.read())
            self._layout: dict[str, Any] = header["arrays"]
            self._start = len(line)
            self.stamp: str = header["stamp"]
            self.meta: Any = header["meta"]
            # What was made from arrays that were dropped since: names, from here, and stamps.
            self.made: dict[str, str] = {}
            if isinstance(self.meta, dict):
                self.made = self.meta.get(_MADE, {})
            self._size = max(map(_find_end, self._layout.values()), default=0)
            n_checksums = -(-self._size // _CHUNK) + 1
            if size != self._start + self._size + n_checksums * _CHECKSUM.itemsize:
                raise self._report_damage("it has another size than its header says")
        if stamp is not None and stamp != self.stamp:
            raise InputError(
                f"{self.path} was made from other input than this run's; "
                "the job that should have renewed it did not run. Run again; if that does not "
                "help, delete the working directory."
            )

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._layout)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return tuple(self._find(name)[1])

    def find_start(self, name: str) -> int:
        """Return where in the file an array begins, for those who have checksums of their own."""
        return self._start + int(self._find(name)[2])

    def _find(self, name: str) -> Any:
        """Return type, shape and place of an array."""
        if self.made:
            raise InputError(
                f"{self.path} was emptied when an earlier run had ended; run again, which makes it "
                "anew."
            )
        return self._layout[name]

    def _parse(self, line: bytes, checksum: bytes) -> dict[str, Any]:
        """Return the header, of which nothing is believed before its checksum fits."""
        try:
            header: dict[str, Any] = json.loads(line)
            if header["format"] != FORMAT:
                raise ValueError("unknown format")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is not an intermediate file of this version, or damaged; "
                "run again, which makes it anew."
            ) from error
        if checksum != np.array(crc32(line), _CHECKSUM).tobytes():
            raise self._report_damage("its beginning and its end do not fit together")
        return header

    def _report_damage(self, reason: str) -> InputError:
        return InputError(f"{self.path} is damaged ({reason}); run again, which makes it anew.")

    def read(self, name: str, columns: slice | None = None) -> NDArray[Any]:
        """Read an array, or a range of its last axis.

        Parameters
        ----------
        columns : slice with start and stop, optional

        Raises
        ------
        InputError
            If what is read is damaged.
        """
        dtype, shape, offset = self._find(name)
        if columns is None or (columns.start, columns.stop) == (0, shape[-1]):
            out = np.empty(shape, dtype)
            parts, stride = [out], 0
        else:
            out = np.empty([*shape[:-1], columns.stop - columns.start], dtype)
            parts, stride = list(out.reshape(-1, out.shape[-1])), shape[-1] * out.itemsize
            offset += columns.start * out.itemsize
        self._fill(parts, offset, stride)
        return out

    def read_rows(self, name: str, rows: slice) -> NDArray[Any]:
        """Read a range of the first axis of an array."""
        dtype, shape, offset = self._find(name)
        out = np.empty([rows.stop - rows.start, *shape[1:]], dtype)
        skip = rows.start * out.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._fill([out], offset + skip)
        return out

    def check(self) -> None:
        """Raise InputError if any of the arrays is damaged."""
        with self._open_chunks(0, self._size) as chunks:
            for start in range(0, self._size, _PIECE):
                chunks.read(start, min(start + _PIECE, self._size))

    def _fill(self, parts: Sequence[NDArray[Any]], offset: int, stride: int = 0) -> None:
        """Fill arrays from positions in the file's arrays that are `stride` bytes apart."""
        if not parts or not parts[0].size:
            return
        n_bytes = parts[0].nbytes
        with self._open_chunks(offset, offset + (len(parts) - 1) * stride + n_bytes) as chunks:
            for number, part in enumerate(parts):
                chunks.fill(part.reshape(-1).view(np.uint8).data, offset + number * stride)

    @contextmanager
    def _open_chunks(self, start: int, stop: int) -> Iterator["_Chunks"]:
        """Open the chunks that lie between two positions in the arrays."""
        first, last = start // _CHUNK, -(-stop // _CHUNK)
        # A run has many of these files open: none of them keeps its checksums in memory.
        checksums = np.empty(last - first, _CHECKSUM)
        with self.path.open("rb", buffering=0) as file:
            try:
                file.seek(self._start + self._size + first * _CHECKSUM.itemsize)
                _read_all(file, checksums.view(np.uint8).data)
                yield _Chunks(file, self._start, self._size, first, checksums)
            except _DamageError as error:
                raise self._report_damage(str(error)) from error


class _DamageError(Exception):
    """What is wrong with a file."""


class _Chunks:
    """Reads chunks of the arrays of an open file, and checks them."""

    def __init__(
        self, file: FileIO, start: int, size: int, first: int, checksums: NDArray[Any]
    ) -> None:
        self._file = file
        self._start = start  # of the arrays
        self._size = size  # of all arrays
        self._first = first  # number of the chunk that the first checksum is of
        self._checksums = checksums
        self._buffer = memoryview(bytearray(_PIECE))

    def fill(self, target: memoryview, offset: int) -> None:
        """Fill a buffer from a position in the arrays."""
        end = offset + len(target)
        for start in range(offset - offset % _CHUNK, end, _PIECE):
            # To the end of a chunk, or of the last one, which is shorter.
            stop = min(start + _PIECE, -(-end // _CHUNK) * _CHUNK, self._size)
            values = self.read(start, stop)
            first, last = max(start, offset), min(stop, end)
            target[first - offset : last - offset] = values[first - start : last - start]

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes of whole chunks; they are overwritten by the next ones."""
        values = self._buffer[: stop - start]
        self._file.seek(self._start + start)
        _read_all(self._file, values)
        found = [crc32(values[at : at + _CHUNK]) for at in range(0, len(values), _CHUNK)]
        first = start // _CHUNK - self._first
        if found != self._checksums[first : first + len(found)].tolist():
            raise _DamageError(f"what is at bytes {start} to {stop} of its arrays has changed")
        return values


def _read_all(file: FileIO, buffer: memoryview) -> None:
    if read_into(file, buffer) < len(buffer):
        raise _DamageError("it has been cut short")


def _find_end(placed: Any) -> int:
    """Return where the array after one with this type, shape and offset begins."""
    dtype, shape, offset = placed
    return _align(offset + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)))


def empty(path: Path, made: Iterable[Path]) -> None:
    """Drop the arrays of a file, once others that were made from them are all that is needed.

    Its name and its fingerprint stay.  It is as good as whole as long as the others are.
    """
    file = ArrayFile(path)
    if not file.made:
        names = {os.path.relpath(other, path.parent): ArrayFile(other).stamp for other in made}
        write_arrays(path, file.stamp, {}, {_MADE: names})


def is_empty(path: Path | str) -> bool:
    """Return whether a whole file is one of which `empty` has dropped the arrays."""
    found = _check_file(path)
    return found is not None and bool(found.made)


def is_whole(path: Path | str) -> bool:
    """Return whether a file of arrays is there and not damaged anywhere, by reading all of it.

    In place of one that is empty, what was made from it has to be whole.  In one process a file
    that has not changed meanwhile is read once.
    """
    found = _check_file(path)
    if found is None:
        return False
    others = {Path(path).parent / name: stamp for name, stamp in found.made.items()}
    checked = {other: _check_file(other) for other in others}
    return all(file is not None and file.stamp == others[other] for other, file in checked.items())


def _check_file(path: Path | str) -> ArrayFile | None:
    """Return a file that is whole; None if it is damaged or not there.

    Other errors of a disk may pass, and tell nothing of the file.
    """
    try:
        return _check_state(Path(path), read_state(Path(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None


@lru_cache(maxsize=2**14)
def _check_state(path: Path, state: FileState) -> ArrayFile | None:
    try:
        file = ArrayFile(path)
        file.check()
    except InputError:
        return None
    return file
