"""Rows of values by voxel, compressed: a block of voxels, or a few rows, are read on their own.

A tile is a file of arrays: one of bytes, which has the values chunk by chunk, each of up to 32 rows
and `CHUNK_VOXELS` voxels; and those that tell where each chunk lies.  A chunk is compressed by
Blosc: bytes of the same significance stand side by side, and then LZ4.
"""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from zlib_ng.zlib_ng import crc32

from nipype_blm.core.products import WORD
from nipype_blm.core.threads import ONE_THREAD, TILE, Threads
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, ArrayStream
from nipype_blm.io.files import completing, read_into, replacing

CHUNK_VOXELS = 16 * TILE
ALL = slice(None)
_CHUNKS = "chunks"
_KIND = "tiles 1"
_LEVEL = 5  # of 9; LZ4 is as fast with any of them
_CHUNKS_AT_ONCE = 2  # of each thread, compressed before they are written
_RUN_BYTES = 2**22  # read at once, of chunks that follow each other


class TileWriter:
    """Writes the rows of a tile, which appears under its name only when complete.

    Rows come in order (`add`), or all of them a chunk of voxels at a time (`add_voxels`).

    Parameters
    ----------
    path : Path
    stamp : str
        Fingerprint of everything that the values depend on.
    n_rows, n_voxels : int
    dtype : dtype
        float32 or float64.
    arrays : mapping of arrays, optional
        What is to be known of the rows; read when the context ends.
    meta : mapping, optional
        JSON values.
    part : Path, optional
        Where it is until it is complete.  What is there when the context ends by an error stays,
        for `restore` to go on from.
    """

    def __init__(
        self,
        path: Path,
        stamp: str,
        n_rows: int,
        n_voxels: int,
        dtype: Any,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        meta: Mapping[str, Any] | None = None,
        part: Path | None = None,
    ) -> None:
        self._path, self._stamp, self._part = path, stamp, part
        self._shape, self._dtype = (n_rows, n_voxels), np.dtype(dtype)
        self._arrays, self._meta = arrays or {}, dict(meta or {})
        self._blocks = _cut(n_voxels, CHUNK_VOXELS)
        self._groups: list[slice] = []  # the rows of chunks, in order
        self._places: dict[tuple[int, int], tuple[int, int, int]] = {}  # as a `_Chunk` begins
        self._stack = ExitStack()

    def __enter__(self) -> "TileWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writing = replacing(self._path)
        if self._part is not None:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            writing = completing(self._path, self._part)
        self._stream = ArrayStream(self._stack.enter_context(writing), _CHUNKS)
        self._stack.push(self._finish)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """What has been added, as far as `restore` needs to know it."""
        return {**self._stream.state, **self._list_places()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on behind the rows of an earlier writer, of which `part` has the values.

        Raises
        ------
        InputError
            If it has not.
        """
        self._stream.restore(state)
        edges, index = state["edges"].tolist(), state["index"].tolist()
        self._groups = [slice(first, last) for first, last in itertools.pairwise(edges)]
        self._places = {
            (g, b): tuple(place) for g, row in enumerate(index) for b, place in enumerate(row)
        }

    def add(self, values: NDArray[Any], threads: Threads = ONE_THREAD) -> None:
        """Add the next rows, no more than 32: array of shape (k, n_voxels), NaN where missing."""
        start = self._groups[-1].stop if self._groups else 0
        self._groups.append(slice(start, start + len(values)))
        group = len(self._groups) - 1
        places = [(group, block) for block in range(len(self._blocks))]
        self._write(places, [values[:, voxels] for voxels in self._blocks], threads)

    def add_voxels(self, start: int, values: NDArray[Any], threads: Threads = ONE_THREAD) -> None:
        """Add all rows of the voxels from `start` on, (n_rows, n): whole chunks, or the last."""
        self._groups = _cut(self._shape[0], WORD)
        blocks = _cut(values.shape[1], CHUNK_VOXELS)
        first = start // CHUNK_VOXELS
        places = [(g, first + b) for b in range(len(blocks)) for g in range(len(self._groups))]
        parts = [values[rows, voxels] for voxels in blocks for rows in self._groups]
        self._write(places, parts, threads)

    def _write(
        self, places: Sequence[tuple[int, int]], parts: Sequence[NDArray[Any]], threads: Threads
    ) -> None:
        """Compress and append chunks."""
        step = _CHUNKS_AT_ONCE * threads.n
        for first in range(0, len(parts), step):
            some = parts[first : first + step]
            packed = [b""] * len(some)
            threads.run([partial(self._compress, part, packed, i) for i, part in enumerate(some)])
            for place, data in zip(places[first : first + step], packed, strict=True):
                self._places[place] = self._stream.add(data), len(data), crc32(data)

    def _compress(self, values: NDArray[Any], out: list[bytes], number: int) -> None:
        with _blosc() as blosc:
            data = np.ascontiguousarray(values, self._dtype)
            out[number] = blosc.compress(data, b"lz4", _LEVEL, blosc.SHUFFLE)

    def _finish(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        n_groups, n_blocks = len(self._groups), len(self._blocks)
        n_added = self._groups[-1].stop if self._groups else 0
        if n_added != self._shape[0] or len(self._places) != n_groups * n_blocks:
            raise ValueError(f"Of {self._shape[0]} rows of {self._path}, {n_added} were written.")
        own = {f"tile/{name}": array for name, array in self._list_places().items()}
        meta = {"kind": _KIND, "n_voxels": self._shape[1], "dtype": self._dtype.name}
        self._stream.finish(self._stamp, {**own, **self._arrays}, meta | self._meta)

    def _list_places(self) -> dict[str, NDArray[np.int64]]:
        """Return the first row of each group, and where each chunk lies."""
        n_groups, n_blocks = len(self._groups), len(self._blocks)
        places = [self._places[g, b] for g in range(n_groups) for b in range(n_blocks)]
        index = np.array(places, np.int64).reshape(n_groups, n_blocks, 3)
        edges = np.array([0, *(rows.stop for rows in self._groups)], np.int64)
        return {"index": index, "edges": edges}


class _Chunk(NamedTuple):
    """Where a chunk lies in the file, and what it has."""

    start: int
    size: int
    checksum: int
    group: int
    block: int


class TileFile:
    """Reads the values of a tile.

    Parameters
    ----------
    path : Path
    stamp : str, optional
        The fingerprint that the file must have.

    Raises
    ------
    InputError
        If the file is no tile, is damaged, or was made from other input.  Damage to values is
        found when they are read.
    """

    def __init__(self, path: Path | str, stamp: str | None = None) -> None:
        self.file = ArrayFile(path, stamp)
        meta = self.file.meta
        if not isinstance(meta, dict) or meta.get("kind") != _KIND:
            raise InputError(f"{path} has no values of images; run again, which makes it anew.")
        self.n_voxels: int = meta["n_voxels"]
        self.dtype = np.dtype(meta["dtype"])
        self._index = self.file.read("tile/index")
        self._edges = self.file.read("tile/edges")
        self._start = self.file.find_start(_CHUNKS)
        self._local = threading.local()
        self.n_rows = int(self._edges[-1])

    def read(
        self,
        columns: slice = ALL,
        rows: slice | NDArray[np.intp] = ALL,
        threads: Threads = ONE_THREAD,
    ) -> NDArray[Any]:
        """Return the values of a range of voxels, in all rows or in some.

        Parameters
        ----------
        columns : slice
            Voxels; without a step.
        rows : slice or integer array
            In any order.

        Returns
        -------
        values : array of shape (n_rows, n_columns)
            NaN where missing.

        Raises
        ------
        InputError
            If what is read is damaged.
        """
        wanted = np.arange(self.n_rows)[rows]
        start, stop, _ = columns.indices(self.n_voxels)
        out = np.empty((wanted.size, max(stop - start, 0)), self.dtype)
        if out.size:
            fill = partial(self._fill, out, wanted, start)
            threads.run([partial(fill, run) for run in self._find_runs(wanted, start, stop)])
        return out

    def count_rows(self, rows: NDArray[np.intp]) -> int:
        """Return how many rows are decompressed where some are wanted."""
        return int(np.diff(self._edges)[self._find_groups(rows)].sum())

    def _find_groups(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.unique(np.searchsorted(self._edges, rows, side="right") - 1)

    def _find_runs(self, rows: NDArray[np.intp], start: int, stop: int) -> list[list[_Chunk]]:
        """Return the chunks with the values wanted; those that follow each other are together."""
        groups = self._find_groups(rows).tolist()
        blocks = range(start // CHUNK_VOXELS, -(-stop // CHUNK_VOXELS))
        runs: list[list[_Chunk]] = []
        places = [(*self._index[g, b].tolist(), g, b) for g in groups for b in blocks]
        for chunk in map(_Chunk._make, sorted(places)):
            last = runs[-1] if runs else []
            is_next = last and last[-1].start + last[-1].size == chunk.start
            if is_next and chunk.start + chunk.size - last[0].start <= _RUN_BYTES:
                last.append(chunk)
            else:
                runs.append([chunk])
        return runs

    def _fill(
        self, out: NDArray[Any], rows: NDArray[np.intp], start: int, run: list[_Chunk]
    ) -> None:
        """Read a run of chunks, and copy what is wanted of them."""
        data = self._read_run(run)
        for chunk in run:
            top, bottom = self._edges[chunk.group : chunk.group + 2].tolist()
            left = chunk.block * CHUNK_VOXELS
            shape = bottom - top, min(CHUNK_VOXELS, self.n_voxels - left)
            begin, end = max(left, start), min(left + shape[1], start + out.shape[1])
            targets = np.flatnonzero((rows >= top) & (rows < bottom))
            to, of = _as_slice(targets), _as_slice(rows[targets] - top)
            columns = slice(begin - start, end - start)
            target = out[to, columns] if isinstance(to, slice) and isinstance(of, slice) else None
            if target is not None and target.shape == shape and target.flags.c_contiguous:
                self._decompress(data, run[0].start, chunk, target)
                continue
            values = self._take_buffer("values", shape[0] * shape[1], self.dtype).reshape(shape)
            self._decompress(data, run[0].start, chunk, values)
            out[to, columns] = values[of, begin - left : end - left]

    def _read_run(self, run: list[_Chunk]) -> memoryview:
        """Return the bytes of chunks that follow each other; the next run overwrites them."""
        size = run[-1].start + run[-1].size - run[0].start
        data = self._take_buffer("bytes", size, np.dtype(np.uint8)).data
        with self.file.path.open("rb", buffering=0) as file:
            file.seek(self._start + run[0].start)
            if read_into(file, data) < size:
                raise self._report_damage("it has been cut short")
        return data

    def _take_buffer(self, name: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return memory of this thread, which the next call with the name returns, too."""
        buffer = getattr(self._local, name, None)
        if buffer is None or buffer.size < size:
            buffer = np.empty(size, dtype)
            setattr(self._local, name, buffer)
        found: NDArray[Any] = buffer[:size]
        return found

    def _decompress(self, data: memoryview, start: int, chunk: _Chunk, out: NDArray[Any]) -> None:
        packed = data[chunk.start - start :][: chunk.size]
        if crc32(packed) != chunk.checksum:
            raise self._report_damage("values in it have changed")
        try:
            with _blosc() as blosc:
                blosc.decompress(packed, out)
        except (ValueError, RuntimeError) as error:
            raise self._report_damage(str(error)) from error

    def _report_damage(self, reason: str) -> InputError:
        path = self.file.path
        return InputError(f"{path} is damaged ({reason}); run again, which makes it anew.")


def _as_slice(numbers: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return numbers that follow each other as a slice, which copies nothing."""
    if numbers.size and np.array_equal(numbers, np.arange(numbers[0], numbers[0] + numbers.size)):
        return slice(int(numbers[0]), int(numbers[0]) + numbers.size)
    return numbers


def _cut(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@contextmanager
def _blosc() -> Iterator[Any]:
    """Give Blosc, as it is in one thread of its own.

    In the main thread it would start others, that nobody has counted.
    """
    from numcodecs import blosc  # 0.07 s, which most runs can do without

    if threading.current_thread() is not threading.main_thread():
        yield blosc
        return
    before, blosc.use_threads = blosc.use_threads, False
    try:
        yield blosc
    finally:
        blosc.use_threads = before
