"""Tiles: the values of the images of a batch, by voxel, as they were read.

What a tile holds depends on the images and on how they are read, not on a model.  So a run with
another X reads tiles in the place of images, also if its batches are others: the identity of each
image is written beside its values.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.products import WORD
from nipype_blm.core.threads import ONE_THREAD, Threads
from nipype_blm.data.libraries import quiet_libraries
from nipype_blm.data.manifest import ImageEntry, parse_manifest
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.specfile import read_model
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint, is_whole
from nipype_blm.io.tilefile import TileFile, TileWriter
from nipype_blm.progress import advance
from nipype_blm.stages.compiling import READING_S, announcing_compilation
from nipype_blm.stages.growth import identify, link, stamp_reading
from nipype_blm.stages.loading import ImageLoader, make_counts, warn_of_infinite

_NAME = "tiles_{}.blm"
_PATTERN = "tiles_*.blm"
# Rows decompressed for each one wanted, from which on images are read as fast: they take 5 ms each
# at 2 mm, compressed, and rows of tiles 0.5 ms.
_MOST_ROWS = 8
_IMAGES, _COUNTS = "rows/images", "rows/counts"

# -- What a tile is of, and where it lies ----------------------------------------------------------


def tile_stamp(spec: ModelSpec, listed: bytes) -> str:
    """Return the fingerprint of the tile of a batch.

    It depends on the images and masks with size and time, their order, the voxels, and what is
    missing; not on X, Z or contrasts.

    Parameters
    ----------
    spec : ModelSpec
    listed : bytes
        The manifest of the batch.
    """
    return stamp_tile(spec, parse_manifest(listed, Path("a list of images")))


def stamp_tile(spec: ModelSpec, images: Sequence[ImageEntry]) -> str:
    """Return the fingerprint of the tile of images; see `tile_stamp`."""
    return _stamp(stamp_reading(spec), spec.staged_dtype, _identify_all(images))


def _stamp(reading: str, dtype: str, identities: NDArray[np.bytes_]) -> str:
    return fingerprint(reading, dtype, identities.tobytes())


def _identify_all(images: Sequence[ImageEntry]) -> NDArray[np.bytes_]:
    """Return what each row of a tile is known by."""
    return np.array([fingerprint(repr(identify(each))) for each in images], "S32")


def name_tile(stamp: str) -> str:
    """Return the name of a tile, which tells what it holds."""
    return _NAME.format(stamp)


def list_tiles(folder: Path) -> list[Path]:
    """Return all tiles in a folder."""
    with suppress(OSError):  # another's folder
        return sorted(folder.glob(_PATTERN))
    return []


def find_tile(model_file: Path | str, batch_file: Path | str, folder: Path) -> Path:
    """Return where in a folder the tile of a batch is, or will be."""
    _, spec = read_model(model_file)
    return folder / name_tile(tile_stamp(spec, Path(batch_file).read_bytes()))


def remove_others(paths: Sequence[Path]) -> None:
    """Remove tiles of earlier runs that lie beside those of this one."""
    for folder in {path.parent for path in paths}:
        for other in set(list_tiles(folder)) - set(paths):
            with suppress(OSError):  # the maps are there, which is what counts
                other.unlink(missing_ok=True)


# -- Writing ---------------------------------------------------------------------------------------


class BatchTile:
    """The tile of a batch, which is there or will be written.

    Parameters
    ----------
    spec : ModelSpec
    images : sequence of ImageEntry
        Of the batch.
    path : Path
    """

    def __init__(self, spec: ModelSpec, images: Sequence[ImageEntry], path: Path) -> None:
        self._spec, self._path = spec, path
        self._identities = _identify_all(images)
        self._reading = stamp_reading(spec)
        self.stamp = _stamp(self._reading, spec.staged_dtype, self._identities)

    @property
    def is_there(self) -> bool:
        """Whether it is there and whole."""
        with suppress(OSError, InputError):  # of another version, say
            return is_whole(self._path) and bool(TileFile(self._path, self.stamp).n_rows)
        return False

    def write(self, counts: NDArray[np.int64], part: Path | None = None) -> TileWriter:
        """Return what writes it; `counts` are those of its images when all are there."""
        return TileWriter(
            self._path,
            self.stamp,
            len(self._identities),
            self._spec.n_voxels,
            self._spec.staged_dtype,
            {_IMAGES: self._identities.view(np.uint8).reshape(-1, 32), _COUNTS: counts},
            {"reading": self._reading},
            part,
        )


@quiet_libraries()
def compute_tiles(
    model_file: Path | str,
    batch_file: Path | str,
    out_file: Path,
    n_threads: int = 1,
    kept: Path | str | None = None,
) -> Path:
    """Read the images of a batch and write their tile, and nothing else, unless it is there.

    Parameters
    ----------
    model_file, batch_file : path
        As `write_plan` wrote them.
    out_file : Path
    n_threads : int
        Threads that read and compress.
    kept : path, optional
        Folder of tiles that a run has kept: one of the same images is taken as it is.

    Raises
    ------
    InputError
        If an image is damaged or not the one that was planned for.
    """
    _, spec = read_model(model_file)
    images = parse_manifest(Path(batch_file).read_bytes(), Path(batch_file))
    tile = BatchTile(spec, images, out_file)
    if tile.is_there:
        return out_file
    if kept is not None and BatchTile(spec, images, Path(kept) / name_tile(tile.stamp)).is_there:
        link(Path(kept) / name_tile(tile.stamp), out_file)
        advance("images", len(images))
        return out_file
    counts = make_counts(len(images))
    compiling = announcing_compilation("reads images", READING_S)
    with Threads(n_threads) as threads, compiling, tile.write(counts) as writer:
        ImageLoader(spec, images, counts).feed(
            lambda values, _: writer.add(values, threads), threads
        )
    warn_of_infinite(images, counts)
    return out_file


# -- Reading ---------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Rows of a batch that one tile has."""

    file: TileFile
    rows: NDArray[np.intp]  # of the tile
    targets: NDArray[np.intp]  # of the batch


class StoredRows:
    """The values of the images of a batch, wherever they lie.

    Parameters
    ----------
    parts : sequence
        Tiles, and the rows of each.
    n_rows : int
        Of the batch.
    dtype : str
        In which values are handed on.
    """

    def __init__(self, parts: Sequence[_Part], n_rows: int, dtype: str) -> None:
        self._parts, self._n_rows, self._dtype = parts, n_rows, dtype

    def read_counts(self) -> NDArray[np.int64]:
        """Return the `ValueCounts` of each image."""
        counts = make_counts(self._n_rows)
        for part in self._parts:
            counts[part.targets] = part.file.file.read(_COUNTS)[part.rows]
        return counts

    def read(self, columns: slice, threads: Threads = ONE_THREAD) -> NDArray[np.floating]:
        """Return the values of voxels: array of shape (n_rows, n_columns), NaN where missing."""
        if len(self._parts) == 1 and self._parts[0].file.dtype == self._dtype:
            part = self._parts[0]  # its targets are all rows, in order
            return part.file.read(columns, part.rows, threads)
        out = np.empty((self._n_rows, columns.stop - columns.start), self._dtype)
        for part in self._parts:
            out[part.targets] = part.file.read(columns, part.rows, threads)
        return out


def find_stored(spec: ModelSpec, images: Sequence[ImageEntry], folder: Path) -> StoredRows | None:
    """Return the values of a batch from the tiles in a folder; None if they do not have all."""
    return Stored(spec, folder).find(images)


class Stored:
    """All tiles in a folder that were read as a model reads its images.

    Parameters
    ----------
    spec : ModelSpec
    folder : Path
    """

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        self._spec = spec
        self._reading = stamp_reading(spec)
        self._folder = folder
        self._names = {path.name for path in list_tiles(folder)}
        self._files: dict[str, TileFile] = {}  # by name, that rows may be taken from

    def find(self, images: Sequence[ImageEntry]) -> StoredRows | None:
        """Return the values of images; None if any is not there, or they are all over the tiles."""
        if not self._names:
            return None
        wanted = _identify_all(images)
        parts = self._find_own(wanted) or self._find_parts(wanted)
        n_rows = sum(part.file.count_rows(part.rows) for part in parts)
        # A part of a tile's last chunk may be all that is wanted.
        if not parts or n_rows > max(_MOST_ROWS * wanted.size, WORD):
            return None
        return StoredRows(parts, wanted.size, self._spec.staged_dtype)

    def find_ends(self, images: Sequence[ImageEntry]) -> tuple[int, ...]:
        """Return where batches end that tiles have as they are; none if the tiles do not fit."""
        places = [self._places.get(each) for each in _identify_all(images).tolist()]
        ends: list[int] = []
        row = 0
        while row < len(places):
            name = (places[row] or ("", 0))[0]
            n_rows = self._files[name].n_rows if name else 0
            if not n_rows or places[row : row + n_rows] != [(name, i) for i in range(n_rows)]:
                return ()
            row += n_rows
            ends.append(row)
        return tuple(ends)

    def _find_own(self, wanted: NDArray[np.bytes_]) -> list[_Part]:
        """Return the tile that has the images wanted, in their order, and no others."""
        stamp = _stamp(self._reading, self._spec.staged_dtype, wanted)
        if name_tile(stamp) in self._names:
            with suppress(OSError, InputError):
                rows = np.arange(wanted.size)
                return [_Part(TileFile(self._folder / name_tile(stamp), stamp), rows, rows)]
        return []

    def _find_parts(self, wanted: NDArray[np.bytes_]) -> list[_Part]:
        """Return the tiles that have the images wanted, and their rows; none if one is missing."""
        places = [self._places.get(each) for each in wanted.tolist()]
        by_name: dict[str, list[tuple[int, int]]] = {}
        for target, place in enumerate(places):
            if place is None:
                return []
            by_name.setdefault(place[0], []).append((place[1], target))
        parts = []
        for name, pairs in by_name.items():
            rows, targets = np.array(pairs, np.intp).T
            parts.append(_Part(self._files[name], rows, targets))
        return parts

    @cached_property
    def _places(self) -> dict[bytes, tuple[str, int]]:
        """The tile and the row of each image."""
        places: dict[bytes, tuple[str, int]] = {}
        for name in sorted(self._names):
            with suppress(OSError, InputError, KeyError):
                file = TileFile(self._folder / name)
                if file.file.meta.get("reading") == self._reading:
                    known = file.file.read(_IMAGES).reshape(-1).view("S32").tolist()
                    self._files[name] = file
                    places |= {each: (name, row) for row, each in enumerate(known)}
        return places


class Tiles:
    """The values of all images of a run.

    Parameters
    ----------
    spec : ModelSpec
    batch_files, tile_files : sequences of Path
        Of each batch.

    Raises
    ------
    InputError
        If a tile is damaged, or of other images.
    """

    def __init__(
        self, spec: ModelSpec, batch_files: Sequence[Path | str], tile_files: Sequence[Path | str]
    ) -> None:
        self._spec = spec
        self._files = [
            TileFile(tile, tile_stamp(spec, Path(batch).read_bytes()))
            for batch, tile in zip(batch_files, tile_files, strict=True)
        ]

    def read(self, columns: slice, threads: Threads = ONE_THREAD) -> NDArray[np.floating]:
        """Return the values of voxels: array of shape (n_obs, n_columns), NaN where missing."""
        out = np.empty((self._spec.n_obs, columns.stop - columns.start), self._spec.staged_dtype)
        for number, file in enumerate(self._files):
            out[self._spec.batch(number)] = file.read(columns, threads=threads)
        return out

    def read_rows(self, batch: int, rows: slice) -> NDArray[np.floating]:
        """Return the values of some images of a batch: array of shape (n_rows, n_voxels)."""
        return self._files[batch].read(rows=rows)

    def read_counts(self) -> NDArray[np.int64]:
        """Return the `ValueCounts` of each image."""
        return np.concatenate([file.file.read(_COUNTS) for file in self._files])


def read_tiles(
    spec: ModelSpec,
    batch_files: Sequence[Path | str],
    tile_files: Sequence[Path | str],
    columns: slice,
) -> NDArray[np.floating]:
    """Return the values of voxels in all images: array of shape (n_obs, n_columns).

    In the order of the model, NaN where missing.  For many blocks in turn `Tiles` opens files once.

    Raises
    ------
    InputError
        If a tile is damaged, or of other images.
    """
    return Tiles(spec, batch_files, tile_files).read(columns)
