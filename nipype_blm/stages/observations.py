"""The values of the images of a finished run, by voxel: each image is read once."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.threads import ONE_THREAD, Threads
from nipype_blm.core.voxels import ValueCounts
from nipype_blm.data.kinds import look_at
from nipype_blm.data.libraries import quiet_libraries
from nipype_blm.data.manifest import ImageEntry, check_unchanged, must_be_read_in_order
from nipype_blm.errors import InputError
from nipype_blm.io.files import FileState
from nipype_blm.progress import advance
from nipype_blm.results.results import Results
from nipype_blm.stages.compiling import READING_S, announcing_compilation


class ReadBlock(Protocol):
    """Gives the values of all images at some voxels of the result."""

    def __call__(self, columns: slice) -> NDArray[Any]:
        """Return values of shape (n_obs, n_columns), NaN where missing; may be infinite."""


def select_fitted(
    results: Results, positions: NDArray[np.int64], read_columns: ReadBlock
) -> ReadBlock:
    """Return what gives values at voxels of the result, from those of a whole analysis mask.

    Parameters
    ----------
    results : Results
    positions : array of shape (n_voxels,)
        Of the voxels of the analysis mask in file order, as `Space.positions`.
    read_columns : callable
        Gives values at a slice of these, with the images in the order of `Results.images`.
    """
    column = np.searchsorted(positions, results.space.positions)

    def read_block(columns: slice) -> NDArray[Any]:
        chosen = column[columns]
        first, stop = int(chosen[0]), int(chosen[-1]) + 1
        return np.asarray(read_columns(slice(first, stop))[:, chosen - first])

    return read_block


class ImageValues:
    """The values of all images at the voxels of a result, while the context lasts.

    They stay in memory, if they fit into it, or in a file.

    Parameters
    ----------
    results : Results
    work_dir : Path
        Folder for that file.
    max_bytes : int
        Memory for the values.
    n_threads : int

    Raises
    ------
    InputError
        If an image is gone, has changed since the model was fitted, or is damaged.
    """

    def __init__(
        self, results: Results, work_dir: Path, max_bytes: int, n_threads: int = 1
    ) -> None:
        self._images = [
            ImageEntry(
                row,
                Path(each.image),
                each.volume,
                FileState(each.size, each.mtime_ns, ""),
                f"image {row + 1} of {results.folder}",
                None if each.mask is None else Path(each.mask),
                each.mask_volume,
                FileState(each.mask_size, each.mask_mtime_ns, ""),
            )
            for row, each in enumerate(results.images)
        ]
        self._results, self._n_threads = results, n_threads
        self._work_dir, self._max_bytes = work_dir, max_bytes
        self._stack = ExitStack()
        self.non_finite = np.zeros(len(self._images), np.int64)  # values of each image

    def __enter__(self) -> "ImageValues":
        with self._stack:  # closed, should reading fail
            self._check(self._images)
            self._values = self._allocate()
            self._read_all()
            self._check(self._images)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        del self._values
        self._stack.close()

    def __call__(self, columns: slice) -> NDArray[Any]:
        """Return the values of all images at some voxels; see `ReadBlock`."""
        return np.asarray(self._values[:, columns])

    def _allocate(self) -> NDArray[Any]:
        files = {entry.image: None for entry in self._images}
        is_single = all(look_at(path)[1].fits_float32 for path in files)
        dtype = np.dtype("float32" if is_single else "float64")  # as when the model was fitted
        shape = len(self._images), int(self._results.space.n_features)
        if shape[0] * shape[1] * dtype.itemsize <= self._max_bytes:
            return np.empty(shape, dtype)
        folder = TemporaryDirectory(prefix=".nipype_blm_", dir=self._work_dir)
        path = Path(self._stack.enter_context(folder), "values")
        return np.memmap(path, dtype, "w+", shape=shape)

    def _check(self, entries: Sequence[ImageEntry]) -> None:
        """See whether images and masks are those that were read for the model."""
        files = {entry.files: entry for entry in reversed(entries)}
        self._run(
            ONE_THREAD, [(entry, partial(check_unchanged, entry)) for entry in files.values()]
        )

    @quiet_libraries()
    def _read_all(self) -> None:
        options, space = self._results.options, self._results.space
        threshold = -np.inf if options["threshold"] is None else options["threshold"]
        reader = space.make_reader(threshold, options["zero_is_missing"])
        mask_reader = space.make_reader()

        def load(entry: ImageEntry) -> None:
            inside = np.empty(0 if entry.mask is None else space.n_features)
            if entry.mask is not None:
                mask_reader.read(entry.mask, entry.mask_volume, inside)
            row = np.empty(space.n_features, self._values.dtype)
            counts: ValueCounts = reader.read(entry.image, entry.volume, row, inside)
            self._values[entry.row] = row
            self.non_finite[entry.row] = counts.infinite

        compiling = announcing_compilation("reads images", READING_S)
        with Threads(self._n_threads) as threads, compiling:
            readers = ONE_THREAD if must_be_read_in_order(self._images) else threads
            step = 4 * self._n_threads  # listeners hear of what this thread tells
            for first in range(0, len(self._images), step):
                entries = self._images[first : first + step]
                self._run(readers, [(entry, partial(load, entry)) for entry in entries])
                advance("images", len(entries))

    def _run(
        self, threads: Threads, tasks: Sequence[tuple[ImageEntry, Callable[[], None]]]
    ) -> None:
        """Do all tasks, and raise what was wrong with any image."""
        problems: dict[int, str] = {}

        def attempt(entry: ImageEntry, task: Callable[[], None]) -> None:
            try:
                task()
            except InputError as error:
                problems[entry.row] = f"{entry.where}: {error}"

        threads.run(partial(attempt, *each) for each in tasks)
        if problems:
            raise InputError([problems[row] for row in sorted(problems)])
