"""Small runs over blocks, and what they have written."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from nipype_blm.blockmap import Block

SHAPE = (5, 7, 11)
VOLUME = np.random.default_rng(15).integers(1, 2**16, SHAPE, dtype=np.uint16)
SIZE = (4, 3, 2)  # along x, y, z
KEYS = [f"{z}_{y}_{x}" for z in (0, 2, 4) for y in (0, 3, 6) for x in (0, 4, 8)]


def read_zarr(path: str | Path) -> NDArray[Any]:
    """Return an array as a run has written it."""
    return np.asarray(zarr.open_array(path, path="0", mode="r")[:])


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


class Calls:
    """A function over blocks that notes which it was called with; `act` may do anything."""

    def __init__(self, act: Callable[[NDArray[Any], Block], Any] | None = None) -> None:
        self.act = act or (lambda data, _: data)
        self.keys: list[str] = []

    def __call__(self, data: dict[str, NDArray[Any]], block: Block) -> Any:
        assert all(data["em"].shape)
        self.keys.append(block.key)
        return self.act(data["em"], block)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.keys)


class Disk:
    """A volume whose boxes cannot be read while `faults` has more errors for them.

    Parameters
    ----------
    faults : list of exceptions
        Raised one after the other by the box that begins at `start`.
    """

    shape, dtype = SHAPE, VOLUME.dtype

    def __init__(self, faults: list[Exception], start: tuple[int, int, int] = (2, 3, 4)) -> None:
        self.faults, self.start, self.n_reads = faults, start, 0

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        if tuple(each.start for each in index) == self.start:
            self.n_reads += 1
            if self.faults:
                raise self.faults.pop(0)
        return VOLUME[index]
