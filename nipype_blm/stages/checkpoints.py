"""Save what has been read of a batch, so that an interrupted node does not read it again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.products import ProductAccumulator
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, write_arrays
from nipype_blm.io.tilefile import TileWriter
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
    tile : TileWriter, optional
        Gets the values of the same images; what it has written lies in a file by itself.

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
        tile: TileWriter | None = None,
    ) -> None:
        self._path, self._stamp = path, stamp
        self._accumulator, self._counts, self._tile = accumulator, counts, tile
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
            counts = file.read("counts")
            if self._tile is not None:
                names = file.meta["of_tile"]  # none if no tile was written then
                self._tile.restore({name: file.read(f"tile/{name}") for name in names})
        except (InputError, OSError, KeyError):  # of other images, or damaged
            self.remove()
            return 0
        self._counts[:n_added] = counts
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
        meta: dict[str, Any] = {"n_images": n_added}
        with suppress(OSError):  # a full disk: what is to come matters more
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._tile is not None:
                state = self._tile.state
                arrays |= {f"tile/{name}": array for name, array in state.items()}
                meta["of_tile"] = list(state)
            write_arrays(self._path, self._stamp, arrays, meta)
            self._n_saved = n_added
        self._last = time.monotonic()
        self._cost_s = self._last - start

    def remove(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def find_part(path: Path) -> Path:
    """Return where a tile is until it is complete, beside the checkpoint of its batch."""
    return path.with_suffix(".tile.blm")  # as all intermediate files end


def remove_checkpoint(path: Path) -> None:
    """Remove what was saved of a batch, and the folder if nothing else is in it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        find_part(path).unlink(missing_ok=True)
        path.parent.rmdir()
