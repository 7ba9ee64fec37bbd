"""Save what has been read of a batch, so that an interrupted node does not read it again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.products import ProductAccumulator
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.signals import deferred

# The least time between two of them; writing them takes a 50th of all time at most.
_SECONDS_BETWEEN = 10.0
_TIMES_COST = 50
_BYTES_PER_S = 200e6  # expected of the first one


class Checkpoint:
    """The products of the first images of a batch, in a file beside those of others.

    Parameters
    ----------
    path : Path or None
        Without one nothing is saved.
    stamp : str
        Fingerprint of the model and of all images of the batch, with size and time.
    accumulator : ProductAccumulator
    counts : array
        One row for each image, filled as the images are read.

    Notes
    -----
    Sums are saved and restored as they are, between two chunks of images.  So a run that was
    interrupted gives the same bits as one that was not.
    """

    def __init__(
        self,
        path: Path | None,
        stamp: str,
        accumulator: ProductAccumulator,
        counts: NDArray[np.int64],
    ) -> None:
        self._path, self._stamp = path, stamp
        self._accumulator, self._counts = accumulator, counts
        self._n_saved = 0
        n_bytes = sum(array.nbytes for array in accumulator.state.values())
        self._cost_s = n_bytes / _BYTES_PER_S
        self._last = time.monotonic()

    def restore(self) -> int:
        """Go on from what is saved of the same images; return how many of them it has."""
        if self._path is None or not self._path.exists():
            return 0
        try:
            file = ArrayFile(self._path, self._stamp)
            n_added = int(file.meta["n_images"])
            state = {name: file.read(name) for name in self._accumulator.state}
            self._counts[:n_added] = file.read("counts")
        except (InputError, OSError):  # of other images, or damaged
            self.remove()
            return 0
        self._accumulator.restore(n_added, state)
        self._n_saved = n_added
        return n_added

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save what has been read if the context is interrupted."""
        try:
            yield
        except KeyboardInterrupt:
            self._save()
            raise

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Let no signal come in between while sums change; then save them from time to time."""
        with deferred():
            yield
        since_last = time.monotonic() - self._last
        if since_last > max(_SECONDS_BETWEEN, _TIMES_COST * self._cost_s):
            self._save()

    def _save(self) -> None:
        n_added = self._accumulator.n_added
        if self._path is None or n_added in (self._n_saved, len(self._counts)):
            return
        start = time.monotonic()
        arrays = self._accumulator.state | {"counts": self._counts[:n_added]}
        with suppress(OSError):  # a full disk: what is to come matters more
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(self._path, self._stamp, arrays, {"n_images": n_added})
            self._n_saved = n_added
        self._last = time.monotonic()
        self._cost_s = self._last - start

    def remove(self) -> None:
        """Remove the file, and its folder if no other is in it."""
        if self._path is not None:
            remove_checkpoint(self._path)


def remove_checkpoint(path: Path) -> None:
    """Remove a file, and its folder if no other is in it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
