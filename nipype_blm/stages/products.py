"""Reduce the images of a batch to products: each image is read once."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import select_rows
from nipype_blm.core.products import ProductAccumulator
from nipype_blm.core.threads import ONE_THREAD, Threads
from nipype_blm.core.voxels import ValueCounts
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import write_arrays
from nipype_blm.io.images import ImageReader, header_of_model, quiet_libraries
from nipype_blm.io.manifest import (
    ImageEntry,
    check_unchanged,
    must_be_read_in_order,
    read_manifest,
)
from nipype_blm.io.specfile import read_model
from nipype_blm.model.spec import ModelSpec
from nipype_blm.progress import advance
from nipype_blm.stages.stamps import batch_stamp

_logger = logging.getLogger(__name__)


@quiet_libraries()
def compute_products(
    model_file: Path | str, batch_file: Path | str, out_file: Path, n_threads: int = 1
) -> Path:
    """Read the images of a batch and write their products.

    Parameters
    ----------
    model_file, batch_file : path
        As `write_plan` wrote them.
    out_file : Path
    n_threads : int
        Threads that read and compute.

    Raises
    ------
    InputError
        If an image is damaged or not the one that was planned for.
    """
    stamp, spec = read_model(model_file)
    images = read_manifest(Path(batch_file))
    rows = slice(images[0].row, images[-1].row + 1)
    accumulator = ProductAccumulator(
        spec.design.Q[rows],
        spec.design.shift[rows],
        spec.n_voxels,
        select_rows(spec.factors, rows) if spec.factors else None,
    )
    with Threads(n_threads) as threads:
        _, infinite, zeros = _ImageLoader(spec, images).feed(accumulator, threads).T
    for row in np.flatnonzero(infinite):
        text = "%s has %d values that are infinite or beyond 1e40, taken as missing."
        _logger.warning(text, images[row].image, infinite[row])
    arrays = accumulator.finish()._asdict() | {"zeros": zeros.astype(np.int32)}
    return write_arrays(out_file, batch_stamp(stamp, batch_file), arrays)


class _ImageLoader:
    """Stages chunks of images; all threads read one, then all of them reduce it."""

    def __init__(self, spec: ModelSpec, images: list[ImageEntry]) -> None:
        expected = header_of_model(spec.header, spec.shape)
        starts, lengths = spec.runs
        self._images = images
        self._problems: dict[int, InputError] = {}  # by row, what is wrong with its image
        self._reader = ImageReader(expected, starts, lengths, spec.threshold, spec.zero_is_missing)
        self._mask_reader = ImageReader(expected, starts, lengths)
        self._values = np.empty((spec.rows_per_chunk, spec.n_voxels), spec.staged_dtype)
        self._in_order = must_be_read_in_order(images)

    def feed(self, accumulator: ProductAccumulator, threads: Threads) -> NDArray[np.int64]:
        """Add all images to the products; return the `ValueCounts` of each in a row."""
        n_images, chunk = len(self._images), len(self._values)
        counts = np.zeros((n_images, len(ValueCounts._fields)), np.int64)
        readers = ONE_THREAD if self._in_order else threads
        for first in range(0, n_images, chunk):
            rows = range(first, min(first + chunk, n_images))
            # Before and after, so that no file is replaced meanwhile; once for all its volumes.
            files = {self._images[row].files: row for row in reversed(rows)}
            self._run(readers, [partial(self._check, row) for row in files.values()])
            self._run(readers, [partial(self._load, row, row - first, counts) for row in rows])
            self._run(readers, [partial(self._check, row) for row in files.values()])
            accumulator.add(self._values[: len(rows)], counts[rows, 0], threads)
            advance("images", len(rows))
        return counts

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

    def _check(self, row: int) -> None:
        """Note an image, or a mask, that is not the file that was planned for."""
        with self._noting(row):
            check_unchanged(self._images[row])

    def _load(self, row: int, slot: int, counts: NDArray[np.int64]) -> None:
        """Read one image into a slot, and count its missing values and so on."""
        image, out = self._images[row], self._values[slot]
        with self._noting(row):
            inside = np.empty(0 if image.mask is None else out.size)  # float64: any mask's values
            if image.mask is not None:
                self._mask_reader.read(image.mask, image.mask_volume, inside)
            counts[row] = self._reader.read(image.image, image.volume, out, inside)
