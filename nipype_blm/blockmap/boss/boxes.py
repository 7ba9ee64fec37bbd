"""Boxes of voxels, cut as a BOSS stores them."""

import math

from nipype_blm.blockmap.blocks import AXES

Box = tuple[tuple[int, int], ...]  # start and stop of z, y, x

_CUBOID = (16, 512, 512)  # what a BOSS stores as one: z, y, x


def split_box(box: Box, most: int) -> list[Box]:
    """Return boxes of at most so many voxels that together make one, cut between cuboids.

    Halves are cut where a BOSS does not have to read one cuboid for both.
    """
    sizes = [stop - start for start, stop in box]
    if math.prod(sizes) <= max(most, 1):
        return [box]
    axis = max(range(3), key=lambda i: (sizes[i] > 1, sizes[i] / _CUBOID[i]))
    start, stop = box[axis]
    middle = (start + stop) // 2
    aligned = middle // _CUBOID[axis] * _CUBOID[axis]
    middle = aligned if start < aligned else middle
    return [
        each
        for half in ((start, middle), (middle, stop))
        for each in split_box((*box[:axis], half, *box[axis + 1 :]), most)
    ]


def find_place(part: Box, box: Box) -> tuple[slice, ...]:
    """Return where a part of a box lies in an array of the box."""
    return tuple(
        slice(start - first, stop - first)
        for (start, stop), (first, _) in zip(part, box, strict=True)
    )


def tell_box(box: Box) -> str:
    """Return a box as messages have it, such as ``z 0:2, y 0:40, x 0:50``."""
    return ", ".join(
        f"{axis} {start}:{stop}" for axis, (start, stop) in zip(AXES, box, strict=True)
    )
