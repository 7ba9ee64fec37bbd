"""Reduce the images of a batch to products: each image is read once."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import select_rows
from nipype_blm.core.products import ProductAccumulator
from nipype_blm.core.threads import ONE_THREAD, Threads
from nipype_blm.core.voxels import ValueCounts
from nipype_blm.data.libraries import quiet_libraries
from nipype_blm.data.manifest import (
    ImageEntry,
    check_unchanged,
    must_be_read_in_order,
    parse_manifest,
)
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.specfile import read_model
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import empty, write_arrays
from nipype_blm.io.stamps import batch_stamp
from nipype_blm.progress import advance
from nipype_blm.stages.checkpoints import Checkpoint, remove_checkpoint
from nipype_blm.stages.compiling import READING_S, announcing_compilation
from nipype_blm.stages.growth import describe_origin, remove_aside, take_products

_logger = logging.getLogger(__name__)


@quiet_libraries()
def compute_products(
    model_file: Path | str,
    batch_file: Path | str,
    out_file: Path,
    n_threads: int = 1,
    checkpoint_file: Path | None = None,
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
    arrays = None
    if checkpoint_file is not None:
        arrays = take_products(spec, images, rows, checkpoint_file.parent)
    if arrays is None:
        arrays = _read_products(spec, images, rows, stamp, n_threads, checkpoint_file)
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
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a batch, from its images."""
    accumulator = ProductAccumulator(
        spec.design.Q[rows],
        spec.design.shift[rows],
        spec.n_voxels,
        select_rows(spec.factors, rows) if spec.factors else None,
    )
    counts = np.zeros((len(images), len(ValueCounts._fields)), np.int64)
    checkpoint = Checkpoint(checkpoint_file, stamp, accumulator, counts)
    compiling = announcing_compilation("reads images", READING_S)
    with Threads(n_threads) as threads, compiling, checkpoint.saving():
        _ImageLoader(spec, images, counts).feed(accumulator, checkpoint, threads)
    _, infinite, zeros = counts.T
    for row in np.flatnonzero(infinite):
        text = "%s has %d values that are infinite or beyond 1e40, taken as missing."
        _logger.warning(text, images[row].image, infinite[row])
    return accumulator.finish()._asdict() | {"zeros": zeros.astype(np.int32)}


def empty_products(
    products_files: Iterable[Path | str], estimates_files: Sequence[Path | str]
) -> None:
    """Drop what the estimates of all blocks were made from, and no contrast needs."""
    made = [Path(path) for path in estimates_files]
    with suppress(OSError):  # the maps are there, which is what counts
        for path in products_files:
            empty(Path(path), made)


class _ImageLoader:
    """Stages chunks of images; all threads read one, then all of them reduce it."""

    def __init__(
        self, spec: ModelSpec, images: list[ImageEntry], counts: NDArray[np.int64]
    ) -> None:
        self._images = images
        self._counts = counts  # the `ValueCounts` of each image in a row
        self._problems: dict[int, InputError] = {}  # by row, what is wrong with its image
        self._reader = spec.space.make_reader(spec.threshold, spec.zero_is_missing)
        self._mask_reader = spec.space.make_reader()
        self._values = np.empty((spec.rows_per_chunk, spec.n_voxels), spec.staged_dtype)
        self._in_order = must_be_read_in_order(images)

    def feed(
        self, accumulator: ProductAccumulator, checkpoint: Checkpoint, threads: Threads
    ) -> None:
        """Add all images to the products, but for those that a checkpoint has."""
        n_images, chunk = len(self._images), len(self._values)
        readers = ONE_THREAD if self._in_order else threads
        n_restored = checkpoint.restore()
        self._check(range(n_restored), threads)
        advance("images", n_restored)
        for first in range(n_restored, n_images, chunk):
            rows = range(first, min(first + chunk, n_images))
            self._check(rows, readers)
            self._run(readers, [partial(self._load, row, row - first) for row in rows])
            self._check(rows, readers)
            with checkpoint.adding():
                accumulator.add(self._values[: len(rows)], self._counts[rows, 0], threads)
            advance("images", len(rows))

    def _check(self, rows: range, threads: Threads) -> None:
        """See whether images and masks are still those that were planned for.

        Before and after they are read, so that none is replaced meanwhile; once for all volumes
        of a file.
        """
        files = {self._images[row].files: row for row in reversed(rows)}
        self._run(threads, [partial(self._check_file, row) for row in files.values()])

    def _run(self, threads: Threads, tasks: list[Callable[[], None]]) -> None:
        """Do all tasks, and raise what was wrong with any image."""
        threads.run(tasks)
        if self._problems:
            found = dict(sorted(self._problems.items()))
            texts = [f"{self._images[row].where}: {error}" for row, error in found.items()]
            raise InputError(texts) from next(iter(found.values()))

    @contextmanager
    def _noting(self, row: int) -> Iterator[None]:
        """Note what is wrong with an image."""
        try:
            yield
        except InputError as error:
            self._problems[row] = error

    def _check_file(self, row: int) -> None:
        with self._noting(row):
            check_unchanged(self._images[row])

    def _load(self, row: int, slot: int) -> None:
        """Read one image into a slot, and count its missing values and so on."""
        image, out = self._images[row], self._values[slot]
        with self._noting(row):
            inside = np.empty(0 if image.mask is None else out.size)  # float64: any mask's values
            if image.mask is not None:
                self._mask_reader.read(image.mask, image.mask_volume, inside)
            self._counts[row] = self._reader.read(image.image, image.volume, out, inside)
