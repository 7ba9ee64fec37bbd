"""Cut a volume into blocks: what each owns, and what it is given to read."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple, overload

from nipype_blm.errors import InputError, show

AXES = ("z", "y", "x")
# Of Nd-Multicore, as x, y, z: thin slabs, as electron microscopes make them.
DEFAULT_SIZE = (1000, 1000, 10)
Triple = tuple[int, int, int]  # one for each of `AXES`
Extent = Mapping[str, tuple[int, int]]  # start and stop along each of `AXES`, in voxels


class Block(NamedTuple):
    """A box of voxels, and the larger box that is read for it; all in voxels of the volume."""

    start: Triple  # z, y, x of its first voxel
    stop: Triple
    read_start: Triple  # with the halo, as far as the volume goes
    read_stop: Triple

    @property
    def key(self) -> str:
        """Its name: ``z_y_x`` of its first voxel."""
        return "_".join(map(str, self.start))

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x, without the halo."""
        return _subtract(self.stop, self.start)

    @property
    def read_shape(self) -> Triple:
        """Voxels along z, y, x of what is read."""
        return _subtract(self.read_stop, self.read_start)

    @property
    def core(self) -> tuple[slice, slice, slice]:
        """Where the block lies in what is read."""
        return find_region(self.start, self.stop, self.read_start)


def find_region(
    start: Sequence[int], stop: Sequence[int], origin: Sequence[int]
) -> tuple[slice, slice, slice]:
    """Return where a box lies in an array whose first voxel is `origin`."""
    z, y, x = (slice(a - o, b - o) for a, b, o in zip(start, stop, origin, strict=True))
    return z, y, x


def _subtract(one: Triple, other: Triple) -> Triple:
    return one[0] - other[0], one[1] - other[1], one[2] - other[2]


class Grid(Sequence[Block]):
    """All blocks of an extent, which are made as they are asked for: there may be millions.

    Parameters
    ----------
    extent : mapping of str to (int, int)
        Start and stop of ``z``, ``y`` and ``x``.
    size : (int, int, int)
        Voxels of a block along z, y, x.
    halo : (int, int, int)
        Voxels that are read beyond a block on each side, as far as the extent goes.

    Notes
    -----
    Blocks begin at multiples of their size, whatever the extent begins with, so that two runs over
    parts of one volume have the same blocks where both are whole.
    """

    def __init__(self, extent: Extent, size: Triple, halo: Triple = (0, 0, 0)) -> None:
        self.extent = {axis: (int(extent[axis][0]), int(extent[axis][1])) for axis in AXES}
        self.size, self.halo = size, halo
        self._bounds = [_cut(*self.extent[axis], n) for axis, n in zip(AXES, size, strict=True)]
        z, y, x = (len(each) - 1 for each in self._bounds)
        self.counts: Triple = (z, y, x)

    def __len__(self) -> int:
        z, y, x = self.counts
        return z * y * x

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """Return a block by its number; x counts fastest."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        rest, x = divmod(index, self.counts[2])
        z, y = divmod(rest, self.counts[1])
        return self._make((z, y, x))

    def __iter__(self) -> Iterator[Block]:
        """Yield all blocks; x changes fastest."""
        for z, y, x in product(*map(range, self.counts)):
            yield self._make((z, y, x))

    def _make(self, place: Triple) -> Block:
        sides = []
        for axis, bounds, i, n in zip(AXES, self._bounds, place, self.halo, strict=True):
            first, last = self.extent[axis]
            start, stop = bounds[i], bounds[i + 1]
            sides.append((start, stop, max(first, start - n), min(last, stop + n)))
        return Block(*zip(*sides, strict=True))

    def find_overlapping(self, block: Block) -> Iterator[Block]:
        """Yield the blocks whose halo, or own voxels, lie in a block."""
        ranges = []
        for bounds, start, stop, n in zip(
            self._bounds, block.start, block.stop, self.halo, strict=True
        ):
            first = bisect_right(bounds, start - n) - 1
            last = bisect_left(bounds, stop + n)
            ranges.append(range(max(0, first), min(len(bounds) - 1, last)))
        for z, y, x in product(*ranges):
            yield self._make((z, y, x))

    @property
    def shape(self) -> Triple:
        """Voxels of the whole extent along z, y, x."""
        z, y, x = (self.extent[axis][1] - self.extent[axis][0] for axis in AXES)
        return z, y, x

    @property
    def n_read(self) -> int:
        """Voxels that are read in all; those in a halo several times."""
        return math.prod(map(sum, self._find_lengths()))

    @property
    def largest_read(self) -> Triple:
        """Voxels along z, y, x of the largest box that is read."""
        z, y, x = map(max, self._find_lengths())
        return z, y, x

    def _find_lengths(self) -> list[list[int]]:
        """Return, for each axis, the lengths of what is read."""
        return [
            [min(last, stop + n) - max(first, start - n) for start, stop in pairwise(bounds)]
            for (first, last), bounds, n in zip(
                self.extent.values(), self._bounds, self.halo, strict=True
            )
        ]

    @property
    def start(self) -> Triple:
        """The first voxel of the extent."""
        z, y, x = (self.extent[axis][0] for axis in AXES)
        return z, y, x


def _cut(start: int, stop: int, size: int) -> list[int]:
    """Return where blocks begin, and the end: multiples of `size` between both."""
    first = (start // size + 1) * size
    return [start, *range(first, stop, size), stop]


def compute_blocks(
    source: Any,
    block_size: int | Sequence[int] | Mapping[str, int] = DEFAULT_SIZE,
    halo: int | Sequence[int] | Mapping[str, int] = 0,
) -> Grid:
    """Cut a volume into blocks.

    Parameters
    ----------
    source : array-like or mapping
        With a `shape` of z, y, x; or start and stop by axis, such as ``{"x": (0, 4000), ...}``.
    block_size : int, (int, int, int) or mapping
        Voxels along x, y, z, in this order, or by axis.
    halo : int, (int, int, int) or mapping
        Voxels that are read beyond a block, on each side.

    Returns
    -------
    blocks : sequence of Block
        Those at the end are smaller where the size does not divide the volume.

    Raises
    ------
    InputError
        If a size is below 1, a halo is negative, or the volume is empty.

    Examples
    --------
    >>> blocks = compute_blocks({"x": (0, 1500), "y": (0, 1000), "z": (0, 10)})
    >>> [block.key for block in blocks]
    ['0_0_0', '0_0_1000']
    """
    extent = _read_extent(source)
    empty = [axis for axis in AXES if extent[axis][1] <= extent[axis][0]]
    if empty:
        start, stop = extent[empty[0]]
        raise InputError(
            f"The range of {empty[0]} is {start} to {stop}, which has no voxel; give a stop "
            "that is greater than the start."
        )
    size = read_triple(block_size, "block_size", 1)
    return Grid(extent, size, read_triple(halo, "halo", 0))


def _read_extent(source: Any) -> dict[str, tuple[int, int]]:
    if isinstance(source, Mapping) and set(source) == set(AXES):
        return {axis: (int(source[axis][0]), int(source[axis][1])) for axis in AXES}
    shape = getattr(source, "shape", ())
    if len(shape) < len(AXES):
        raise InputError(
            f"{show(source)} was given; expected an array of z, y, x, or start and stop by axis, "
            'such as {"x": (0, 4000), "y": (0, 4000), "z": (0, 100)}.'
        )
    return {axis: (0, int(n)) for axis, n in zip(AXES, shape[-3:], strict=True)}


def read_triple(given: Any, name: str, least: int) -> Triple:
    """Return numbers of voxels along z, y, x, of those that are given along x, y, z or by axis.

    Raises
    ------
    InputError
    """
    expected = f"expected whole numbers from {least} for x, y, z, such as "
    expected += "[1000, 1000, 10] or {x: 1000, y: 1000, z: 10}"
    values: dict[str, Any]
    if isinstance(given, Mapping):
        values = {str(axis): given[axis] for axis in given}
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(AXES):
        values = dict(zip(reversed(AXES), given, strict=True))
    else:
        values = dict.fromkeys(AXES, given)
    if set(values) != set(AXES) or not all(_is_count(n, least) for n in values.values()):
        raise InputError(f"{name} {show(given)} was given; {expected}.")
    z, y, x = (int(values[axis]) for axis in AXES)
    return z, y, x


def _is_count(n: Any, least: int) -> bool:
    return hasattr(n, "__index__") and not isinstance(n, bool) and int(n) >= least
