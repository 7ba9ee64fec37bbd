"""Reduce the images of a batch to products: each image is read once."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import select_rows
from nipype_blm.core.products import WORD, ProductAccumulator, Products
from nipype_blm.core.threads import TILE, Threads
from nipype_blm.data.libraries import quiet_libraries
from nipype_blm.data.manifest import ImageEntry, parse_manifest
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.specfile import read_model
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import empty, write_arrays
from nipype_blm.io.stamps import batch_stamp
from nipype_blm.io.tilefile import CHUNK_VOXELS, TileWriter
from nipype_blm.progress import advance
from nipype_blm.stages.checkpoints import Checkpoint, find_part, remove_checkpoint
from nipype_blm.stages.compiling import READING_S, announcing_compilation
from nipype_blm.stages.growth import describe_origin, remove_aside, take_products
from nipype_blm.stages.loading import ImageLoader, make_counts, warn_of_infinite
from nipype_blm.stages.tiles import BatchTile, StoredRows, find_stored

_VALUES_BYTES = 2**24  # read from tiles at once


@quiet_libraries()
def compute_products(
    model_file: Path | str,
    batch_file: Path | str,
    out_file: Path,
    n_threads: int = 1,
    checkpoint_file: Path | None = None,
    tiles_dir: Path | None = None,
    tiles_file: Path | None = None,
) -> Path:
    """Read the images of a batch and write their products, or take them from an earlier run.

    Parameters
    ----------
    model_file, batch_file : path
        As `write_plan` wrote them.
    out_file : Path
    n_threads : int
        Threads that read and compute.
    checkpoint_file : Path, optional
        Where what has been read is saved now and then and when this is interrupted, and what
        is there goes on; it is removed at the end.  Beside it are the products of an earlier run
        that were put aside.
    tiles_dir : Path, optional
        Where tiles may lie; values that are there are not read from images.
    tiles_file : Path, optional
        Where the values are written, unless they are there.

    Raises
    ------
    InputError
        If an image is damaged or not the one that was planned for.
    """
    stamp, spec = read_model(model_file)
    listed = Path(batch_file).read_bytes()
    images = parse_manifest(listed, Path(batch_file))
    rows = slice(images[0].row, images[-1].row + 1)
    stamp = batch_stamp(stamp, listed)
    tile = None if tiles_file is None else BatchTile(spec, images, tiles_file)
    if tile is not None and tile.is_there:
        tile = None
    arrays = None
    if checkpoint_file is not None and tile is None:
        arrays = take_products(spec, images, rows, checkpoint_file.parent)
    if arrays is None and tiles_dir is not None:
        arrays = _take_values(spec, images, rows, n_threads, tiles_dir, tile)
    if arrays is None:
        arrays = _read_products(spec, images, rows, stamp, n_threads, checkpoint_file, tile)
    else:
        advance("images", len(images))
    origin, meta = describe_origin(spec, listed, rows)
    write_arrays(out_file, stamp, arrays | origin, meta)
    if checkpoint_file is not None:
        remove_checkpoint(checkpoint_file)
        remove_aside(spec, images, checkpoint_file.parent)
    return out_file


def _read_products(
    spec: ModelSpec,
    images: list[ImageEntry],
    rows: slice,
    stamp: str,
    n_threads: int,
    checkpoint_file: Path | None,
    tile: BatchTile | None,
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a batch, from its images."""
    accumulator = _make_accumulator(spec, rows, spec.n_voxels)
    counts = make_counts(len(images))
    part = None if checkpoint_file is None else find_part(checkpoint_file)
    writer = None if tile is None else tile.write(counts, part)
    checkpoint = Checkpoint(checkpoint_file, stamp, accumulator, counts, writer)
    writing = nullcontext() if writer is None else writer
    compiling = announcing_compilation("reads images", READING_S)
    with Threads(n_threads) as threads, compiling, writing, checkpoint.saving():

        def add(values: NDArray[Any], rows: range) -> None:
            with checkpoint.adding():
                accumulator.add(values, counts[rows, 0], threads)
                if writer is not None:
                    writer.add(values, threads)

        ImageLoader(spec, images, counts).feed(add, threads, checkpoint.restore())
    warn_of_infinite(images, counts)
    return _list_arrays(accumulator.finish(), counts)


def _take_values(
    spec: ModelSpec,
    images: list[ImageEntry],
    rows: slice,
    n_threads: int,
    tiles_dir: Path,
    tile: BatchTile | None,
) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a batch from tiles; None if they have not all of its images, whole."""
    stored = find_stored(spec, images, tiles_dir)
    step = _choose_step(spec, len(images))
    # A chunk is written at one stroke, which takes all of its rows.
    if stored is None or (tile is not None and step < min(CHUNK_VOXELS, spec.n_voxels)):
        return None
    compiling = announcing_compilation("reads images", READING_S)
    with suppress(OSError, InputError), Threads(n_threads) as threads, compiling:
        counts = stored.read_counts()
        with nullcontext() if tile is None else tile.write(counts) as writer:
            products = _reduce(spec, rows, stored, counts, step, writer, threads)
        warn_of_infinite(images, counts)
        return _list_arrays(products, counts)
    return None


def _reduce(
    spec: ModelSpec,
    rows: slice,
    stored: StoredRows,
    counts: NDArray[np.int64],
    step: int,
    writer: TileWriter | None,
    threads: Threads,
) -> Products:
    """Return the products of values that are read by voxel; bit for bit those of the images."""
    missing = np.ascontiguousarray(counts[:, 0])
    products = _make_accumulator(spec, rows, spec.n_voxels).finish()
    for first in range(0, spec.n_voxels, step):
        last = min(first + step, spec.n_voxels)
        values = stored.read(slice(first, last), threads)
        reduce = partial(_reduce_voxels, spec, rows, values, missing, first, products)
        threads.split(reduce, last - first)
        if writer is not None:
            writer.add_voxels(first, values, threads)
    return products


def _reduce_voxels(
    spec: ModelSpec,
    rows: slice,
    values: NDArray[Any],
    missing: NDArray[np.int64],
    first: int,
    products: Products,
    start: int,
    stop: int,
) -> None:
    """Write the products of some columns of `values`, the first of which is voxel `first`."""
    part = _make_accumulator(spec, rows, stop - start)
    for top in range(0, len(values), WORD):
        some = slice(top, top + WORD)
        part.add(np.ascontiguousarray(values[some, start:stop]), missing[some])
    arrays: tuple[Any, ...] = products
    for array, found in zip(arrays, part.finish(), strict=True):
        array[..., first + start : first + stop] = found


def _choose_step(spec: ModelSpec, n_rows: int) -> int:
    """Return of how many voxels the values of all rows are read at once.

    They take no more memory than images that are staged, or little: a chunk of a tile, or a part.
    """
    itemsize = np.dtype(spec.staged_dtype).itemsize
    most = max(spec.rows_per_chunk * spec.n_voxels, _VALUES_BYTES // itemsize) // n_rows
    return CHUNK_VOXELS if most >= CHUNK_VOXELS else max(most // TILE, 1) * TILE


def _make_accumulator(spec: ModelSpec, rows: slice, n_voxels: int) -> ProductAccumulator:
    random = select_rows(spec.factors, rows) if spec.factors else None
    return ProductAccumulator(spec.design.Q[rows], spec.design.shift[rows], n_voxels, random)


def _list_arrays(products: Products, counts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return products._asdict() | {"zeros": counts[:, 2].astype(np.int32)}


def empty_products(
    products_files: Iterable[Path | str], estimates_files: Sequence[Path | str]
) -> None:
    """Drop what the estimates of all blocks were made from, and no contrast needs."""
    made = [Path(path) for path in estimates_files]
    with suppress(OSError):  # the maps are there, which is what counts
        for path in products_files:
            empty(Path(path), made)
