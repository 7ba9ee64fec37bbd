"""Share work between threads; kernels release the lock of the interpreter."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

TILE = 256  # voxels whose partial sums stay in the first-level cache


class Threads:
    """A number of threads, while the context lasts; one means the caller's own.

    Parameters
    ----------
    n : int
    """

    def __init__(self, n: int = 1) -> None:
        self.n = n
        self._pool = ThreadPoolExecutor(n) if n > 1 else None

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, tasks: Iterable[Callable[[], Any]]) -> None:
        """Do all tasks; at the first error, drop those that have not started."""
        if self._pool is None:
            for task in tasks:
                task()
            return
        futures = [self._pool.submit(task) for task in tasks]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()

    def split(self, function: Callable[[int, int], Any], n_voxels: int) -> None:
        """Call function(start, stop) on ranges of voxels, which may run at once.

        Work is split over voxels and never over observations, so that sums are bitwise the
        same for any number of threads.
        """
        ranges = split_voxels(n_voxels, self.n)
        self.run([partial(function, start, stop) for start, stop in ranges])


def split_voxels(n_voxels: int, n_parts: int) -> list[tuple[int, int]]:
    """Split 0 ... n_voxels into at most `n_parts` ranges of whole tiles."""
    n_tiles = -(-n_voxels // TILE)
    edges = [min(round(i * n_tiles / n_parts) * TILE, n_voxels) for i in range(n_parts + 1)]
    return [(a, b) for a, b in pairwise(edges) if b > a]


ONE_THREAD = Threads()
