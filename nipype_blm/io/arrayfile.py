"""The file between two stages: named arrays and a fingerprint, read slice by slice.

A file is one line of JSON (padded to 64 bytes), then the arrays, each aligned to 64 bytes
and in C order.  Equal contents give equal bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError
from nipype_blm.io.files import read_into, replacing

FORMAT = "nipype_blm arrays 1"
_ALIGNMENT = 64


def fingerprint(*parts: str | bytes) -> str:
    """Return a short hash of all parts."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
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
    with replacing(path) as part, part.open("wb") as file:
        file.writelines(pack_arrays(stamp, arrays, meta))
    return path


def pack_arrays(stamp: str, arrays: Mapping[str, NDArray[Any]], meta: Any) -> Iterator[Any]:
    """Return the contents of a file of arrays, piece by piece."""
    layout, offset = {}, 0
    for name, array in arrays.items():
        layout[name] = [array.dtype.newbyteorder("<").str, list(array.shape), offset]
        offset = _align(offset + array.nbytes)
    header = {"format": FORMAT, "stamp": stamp, "meta": meta, "arrays": layout}
    line = json.dumps(header).encode() + b"\n"
    yield line.rjust(_align(len(line)))
    for array in arrays.values():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        yield data.reshape(-1).view(np.uint8).data
        yield bytes(_align(array.nbytes) - array.nbytes)


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
        If the file is not one of ours, is cut short, or was made from other input.
    """

    def __init__(self, path: Path | str, stamp: str | None = None) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            line = file.readline(2**26)
            size = os.fstat(file.fileno()).st_size
        try:
            header = json.loads(line)
            if header["format"] != FORMAT:
                raise ValueError("unknown format")
            self._layout: dict[str, Any] = header["arrays"]
            self._start = len(line)
            self.stamp: str = header["stamp"]
            self.meta: Any = header["meta"]
            ends = [
                offset + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
                for dtype, shape, offset in self._layout.values()
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is not an intermediate file of this version; "
                "delete the working directory and run again."
            ) from error
        if size < self._start + max(ends, default=0):
            raise InputError(
                f"{self.path} is cut short ({size} bytes); "
                "delete the working directory and run again."
            )
        if stamp is not None and stamp != self.stamp:
            raise InputError(
                f"{self.path} was made from other input than this run's; "
                "the job that should have renewed it did not run. Run again; if that does not "
                "help, delete the working directory."
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return tuple(self._layout[name][1])

    def read(self, name: str, columns: slice | None = None) -> NDArray[Any]:
        """Read an array, or a range of its last axis.

        Parameters
        ----------
        columns : slice with start and stop, optional
        """
        dtype, shape, offset = self._layout[name]
        offset += self._start
        with self.path.open("rb", buffering=0) as file:
            if columns is None or (columns.start, columns.stop) == (0, shape[-1]):
                out = np.empty(shape, dtype)
                _read_at(file, out, offset)
                return out
            out = np.empty([*shape[:-1], columns.stop - columns.start], dtype)
            row_bytes = shape[-1] * out.itemsize
            for row, part in enumerate(out.reshape(-1, out.shape[-1])):
                _read_at(file, part, offset + row * row_bytes + columns.start * out.itemsize)
        return out

    def read_rows(self, name: str, rows: slice) -> NDArray[Any]:
        """Read a range of the first axis of an array."""
        dtype, shape, offset = self._layout[name]
        out = np.empty([rows.stop - rows.start, *shape[1:]], dtype)
        skip = rows.start * out.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        with self.path.open("rb", buffering=0) as file:
            _read_at(file, out, self._start + offset + skip)
        return out


def is_complete(path: Path | str) -> bool:
    """Return whether a file of arrays is there and not cut short."""
    try:
        ArrayFile(path)
    except (OSError, InputError):
        return False
    return True


def _read_at(file: Any, out: NDArray[Any], offset: int) -> None:
    """Fill an array from a position of a file."""
    if not out.size:
        return
    file.seek(offset)
    done = read_into(file, out.reshape(-1).view(np.uint8))
    if done < out.nbytes:
        raise OSError(f"{file.name} ended after {offset + done} bytes.")
