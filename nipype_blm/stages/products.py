"""Reduce the images of a batch to products: each image is read once."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.products import ProductAccumulator
from nipype_blm.core.voxels import apply_data_mask
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint, write_arrays
from nipype_blm.io.images import ImageReader, header_of_model
from nipype_blm.io.manifest import ImageEntry, check_unchanged, read_manifest
from nipype_blm.io.specfile import read_model
from nipype_blm.model.spec import ModelSpec
from nipype_blm.stages.progress import advance


def batch_stamp(model_stamp: str, batch_file: Path | str) -> str:
    """Return the fingerprint of a batch: the model, and its images with size and time."""
    return fingerprint(model_stamp, Path(batch_file).read_bytes())


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
        spec.design.Q[rows], spec.design.shift[rows], spec.n_voxels
    )
    n_infinite = _ImageLoader(spec, images).feed(accumulator, n_threads)
    products = accumulator.finish()
    return write_arrays(
        out_file,
        batch_stamp(stamp, batch_file),
        products._asdict(),
        {"n_infinite": n_infinite},
    )


class _ImageLoader:
    """Stages a chunk of images while the chunk before is being reduced."""

    def __init__(self, spec: ModelSpec, images: list[ImageEntry]) -> None:
        expected = header_of_model(spec.header)
        starts, lengths = spec.runs
        self._images = images
        self._reader = ImageReader(
            expected, starts, lengths, spec.threshold, spec.zero_is_missing
        )
        self._mask_reader = ImageReader(expected, starts, lengths)
        self._chunk = spec.rows_per_chunk
        self._dtype = np.dtype(spec.staged_dtype)
        self._n_voxels = spec.n_voxels
        first = images[0]
        # Volumes of one compressed file can only be read in order.
        self._in_order = len({image.image for image in images}) < len(images) and (
            first.image.suffix == ".gz"
        )

    def feed(self, accumulator: ProductAccumulator, n_threads: int) -> list[list[Any]]:
        """Add all images to the products; return those with infinite values, and how many."""
        n_chunks = -(-len(self._images) // self._chunk)
        n_buffers = 1 if n_threads == 1 else 2
        shape = (self._chunk, self._n_voxels)
        values = [np.empty(shape, self._dtype) for _ in range(n_buffers)]
        counts = np.zeros((len(self._images), 2), np.int64)
        with ExitStack() as stack:
            if n_threads == 1:
                pool = loaders = None
            else:
                pool = stack.enter_context(ThreadPoolExecutor(n_threads))
                loaders = pool
                if self._in_order:
                    loaders = stack.enter_context(ThreadPoolExecutor(1))
            loading = _start(self._load_tasks(0, values[0], counts), loaders)
            for chunk in range(n_chunks):
                _wait(loading)
                first, last = self._range(chunk)
                tasks = accumulator.tasks(
                    values[chunk % n_buffers][: last - first], counts[first:last, 0], n_threads
                )
                adding = _start(tasks, pool)
                if chunk + 1 < n_chunks:
                    buffer = values[(chunk + 1) % n_buffers]
                    loading = _start(self._load_tasks(chunk + 1, buffer, counts), loaders)
                _wait(adding)
                advance("images", last - first)
        return [
            [str(image.image), int(n)]
            for image, n in zip(self._images, counts[:, 1], strict=True)
            if n
        ]

    def _range(self, chunk: int) -> tuple[int, int]:
        return chunk * self._chunk, min((chunk + 1) * self._chunk, len(self._images))

    def _load_tasks(
        self, chunk: int, values: NDArray[Any], counts: NDArray[np.int64]
    ) -> list[Callable[[], None]]:
        first, last = self._range(chunk)

        def load(rows: range) -> None:
            for row in rows:
                counts[row] = self._load(self._images[row], values[row - first])

        parts = [range(first, last)] if self._in_order else [range(i, i + 1) for i in range(first, last)]
        return [lambda rows=rows: load(rows) for rows in parts]

    def _load(self, image: ImageEntry, out: NDArray[Any]) -> tuple[int, int]:
        """Read one image into a row; return how many values are missing and infinite."""
        try:
            check_unchanged(image)
            n_missing, n_infinite = self._reader.read(image.image, image.volume, out)
            if image.mask is not None:
                mask = np.empty_like(out)
                self._mask_reader.read(image.mask, image.mask_volume, mask)
                n_missing = apply_data_mask(out, mask)
        except InputError as error:
            raise InputError(f"{image.where}: {error}") from error
        return n_missing, n_infinite


def _start(
    tasks: list[Callable[[], None]], pool: ThreadPoolExecutor | None
) -> list[Future[None]]:
    """Submit tasks, or do them at once where there is no pool."""
    if pool is not None:
        return [pool.submit(task) for task in tasks]
    for task in tasks:
        task()
    return []


def _wait(futures: list[Future[None]]) -> None:
    """Wait for all; raise the first error and drop what has not started."""
    try:
        for future in futures:
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise
