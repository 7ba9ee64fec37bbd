"""Load the images of a batch, chunk by chunk."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.threads import ONE_THREAD, Threads
from nipype_blm.core.voxels import ValueCounts
from nipype_blm.data.manifest import ImageEntry, check_unchanged, must_be_read_in_order
from nipype_blm.data.spec import ModelSpec
from nipype_blm.errors import InputError
from nipype_blm.progress import advance

_logger = logging.getLogger(__name__)

Add = Callable[[NDArray[Any], range], None]


def make_counts(n_images: int) -> NDArray[np.int64]:
    """Return the `ValueCounts` of images that have not been read."""
    return np.zeros((n_images, len(ValueCounts._fields)), np.int64)


def warn_of_infinite(images: list[ImageEntry], counts: NDArray[np.int64]) -> None:
    """Tell of images that have infinite values."""
    for row in np.flatnonzero(counts[:, 1]):
        text = "%s has %d values that are infinite or beyond 1e40, taken as missing."
        _logger.warning(text, images[row].image, counts[row, 1])


class ImageLoader:
    """Stages chunks of images; all threads read one, then all of them use it.

    Parameters
    ----------
    spec : ModelSpec
    images : list of ImageEntry
        Of one batch.
    counts : integer array of shape (n_images, 3)
        Receives the `ValueCounts` of each image.
    """

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

    def feed(self, add: Add, threads: Threads, n_before: int = 0) -> None:
        """Hand on the values of all images but for the first `n_before`, which are only checked.

        `add` is called with an array of shape (n_rows, n_voxels), NaN where missing, which is
        overwritten afterwards, and with the rows of the batch that it has.

        Raises
        ------
        InputError
            If images are damaged or not those that were planned for.
        """
        n_images, chunk = len(self._images), len(self._values)
        readers = ONE_THREAD if self._in_order else threads
        self._check(range(n_before), threads)
        advance("images", n_before)
        for first in range(n_before, n_images, chunk):
            rows = range(first, min(first + chunk, n_images))
            self._check(rows, readers)
            self._run(readers, [partial(self._load, row, row - first) for row in rows])
            self._check(rows, readers)
            add(self._values[: len(rows)], rows)
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
