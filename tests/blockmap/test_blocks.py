"""How volumes are cut, against each voxel of them counted one by one."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.blockmap.blocks import AXES, Block, Grid, compute_blocks
from nipype_blm.errors import InputError

starts = st.integers(-9, 9)
lengths = st.integers(1, 12)


@st.composite
def grids(draw: Any) -> Grid:
    """Return a grid of few voxels, whose size, halo and start are independent."""
    extent = {}
    for axis in AXES:
        start = draw(starts)
        extent[axis] = (start, start + draw(lengths))
    size = tuple(draw(st.integers(1, 14)) for _ in AXES)
    halo = tuple(draw(st.integers(0, 15)) for _ in AXES)
    return Grid(extent, size, halo)


def list_voxels(start: Any, stop: Any) -> set[tuple[int, ...]]:
    return set(itertools.product(*map(range, start, stop)))


def find_read(block: Block, grid: Grid) -> tuple[list[int], list[int]]:
    """Return the box that a block and its halo take, as far as the extent goes."""
    starts, stops = [], []
    for axis, first, last, n in zip(AXES, block.start, block.stop, grid.halo, strict=True):
        near = [v for v in range(*grid.extent[axis]) if first - n <= v < last + n]
        starts.append(near[0])
        stops.append(near[-1] + 1)
    return starts, stops


@given(grids())
def test_each_voxel_lies_in_one_block(grid: Grid) -> None:
    counts = np.zeros(grid.shape, int)
    for block in grid:
        counts[
            tuple(
                map(
                    slice, np.subtract(block.start, grid.start), np.subtract(block.stop, grid.start)
                )
            )
        ] += 1
    assert (counts == 1).all()
    assert len(grid) == len(list(grid)) == np.prod(grid.counts)
    assert len({block.key for block in grid}) == len(grid)


@given(grids())
def test_a_halo_goes_as_far_as_the_volume(grid: Grid) -> None:
    boxes = []
    for block in grid:
        read = find_read(block, grid)
        assert (list(block.read_start), list(block.read_stop)) == read
        box = np.zeros(block.read_shape, bool)
        box[block.core] = True
        own = {tuple(np.add(place, block.read_start)) for place in np.argwhere(box)}
        assert own == list_voxels(block.start, block.stop)
        boxes.append(block.read_shape)
    assert grid.n_read == sum(np.prod(box) for box in boxes)
    assert grid.largest_read == tuple(np.max(boxes, axis=0))


@given(grids(), st.data())
def test_the_blocks_that_overlap_a_box_are_all_found_and_no_other(grid: Grid, data: Any) -> None:
    start, stop = [], []
    for axis in AXES:
        low, high = grid.extent[axis]
        first = data.draw(st.integers(low, high - 1))
        start.append(first)
        stop.append(data.draw(st.integers(first + 1, high)))
    z, y, x = start
    box = Block((z, y, x), tuple(stop), (z, y, x), tuple(stop))
    inside = list_voxels(start, stop)
    expected = [b for b in grid if list_voxels(b.read_start, b.read_stop) & inside]
    assert list(grid.find_overlapping(box)) == expected


@given(grids())
def test_blocks_are_those_of_intern_with_origin_zero(grid: Grid) -> None:
    parallel = pytest.importorskip("intern.utils.parallel")
    # It cuts nothing before its origin, which a volume of negative places needs elsewhere.
    (z0, z1), (y0, y1), (x0, x1) = grid.extent.values()
    origin = [n // size * size for n, size in zip((x0, y0, z0), reversed(grid.size), strict=True)]
    origin = [min(0, n) for n in origin]
    boxes = parallel.block_compute(x0, x1, y0, y1, z0, z1, tuple(origin), grid.size[::-1])
    ours = {tuple(zip(b.start[::-1], b.stop[::-1], strict=True)) for b in grid}
    assert ours == set(boxes)
    assert len(ours) == len(boxes)


def test_keys_are_z_y_x_and_x_changes_fastest() -> None:
    blocks = compute_blocks({"x": (30, 130), "y": (7, 19), "z": (0, 6)}, (100, 12, 4))
    assert [block.key for block in blocks] == [
        *("0_7_30", "0_7_100", "0_12_30", "0_12_100"),
        *("4_7_30", "4_7_100", "4_12_30", "4_12_100"),
    ]


@given(grids())
def test_a_block_is_found_by_its_number(grid: Grid) -> None:
    blocks = list(grid)
    assert [grid[i] for i in range(len(grid))] == blocks
    assert grid[-1] == blocks[-1]
    assert grid[1:3] == blocks[1:3]
    with pytest.raises(IndexError):
        grid[len(grid)]


def test_the_size_of_blocks_is_that_of_nd_multicore() -> None:
    grid = compute_blocks(np.broadcast_to(np.uint8(0), (21, 1500, 2000)))
    assert grid.counts == (3, 2, 2)
    assert grid[0].shape == (10, 1000, 1000)


def test_millions_of_blocks_take_no_memory() -> None:
    extent = dict.fromkeys(AXES, (0, 100_000))
    grid = compute_blocks(extent, 100)
    assert len(grid) == 1000**3
    assert grid[123_456_789].key == "12300_45600_78900"


@pytest.mark.parametrize(
    "size", [0, -1, 1.5, True, "10", [1, 2], [1, 2, 0], {"x": 1, "y": 2}, None]
)
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match=r"block_size .* was given; expected whole numbers from 1"):
        compute_blocks(np.zeros((2, 2, 2)), size)


def test_sizes_are_given_along_x_y_z_or_by_axis() -> None:
    array = np.zeros((4, 4, 4))
    assert compute_blocks(array, (1, 2, 3)).size == (3, 2, 1)
    assert compute_blocks(array, {"x": 1, "y": 2, "z": 3}).size == (3, 2, 1)
    assert compute_blocks(array, np.int64(2)).size == (2, 2, 2)
    assert compute_blocks(array, 4, halo=(1, 0, 2)).halo == (2, 0, 1)


def test_a_negative_halo_is_refused() -> None:
    with pytest.raises(InputError, match="halo -1 was given; expected whole numbers from 0"):
        compute_blocks(np.zeros((2, 2, 2)), halo=-1)


@pytest.mark.parametrize(
    "source", [np.zeros((2, 2)), {"x": (0, 3)}, {"x": (0, 3), "y": (0, 3), "t": (0, 1)}, "em", None]
)
def test_what_is_no_volume_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match="expected an array of z, y, x, or start and stop"):
        compute_blocks(source)


def test_a_volume_without_voxels_is_refused() -> None:
    with pytest.raises(InputError, match="range of y is 3 to 3, which has no voxel"):
        compute_blocks({"x": (0, 5), "y": (3, 3), "z": (0, 5)})
