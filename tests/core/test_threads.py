"""Work is shared so that every voxel is visited once, and errors come through."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nipype_blm.core.threads import TILE, Threads, split_voxels


@given(st.integers(0, 20 * TILE), st.integers(1, 30))
def test_voxels_are_split_into_whole_tiles_that_cover_them(n_voxels, n_parts):
    ranges = split_voxels(n_voxels, n_parts)
    assert len(ranges) <= n_parts
    assert [v for a, b in ranges for v in range(a, b)] == list(range(n_voxels))
    assert all(start % TILE == 0 for start, _ in ranges)


@pytest.mark.parametrize("n", [1, 3])
def test_a_split_visits_every_voxel_once_and_passes_errors_on(n):
    visits = np.zeros(5 * TILE, int)

    def visit(start: int, stop: int) -> None:
        visits[start:stop] += 1

    def fail(start: int, stop: int) -> None:
        raise RuntimeError(f"voxel {start}")

    with Threads(n) as threads:
        threads.split(visit, visits.size)
        with pytest.raises(RuntimeError, match="voxel 0"):
            threads.split(fail, visits.size)
    assert_array_equal(visits, 1)


@pytest.mark.parametrize("n", [1, 2])
def test_after_an_error_tasks_that_wait_are_dropped(n):
    done = []
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("no")

    def work() -> None:
        failed.wait()
        time.sleep(0.001)  # the failure has to be noticed, on a busy machine as well
        done.append(1)

    with Threads(n) as threads, pytest.raises(ValueError, match="no"):
        threads.run([fail, *[work] * 1000])
    assert len(done) < 1000
