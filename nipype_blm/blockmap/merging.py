"""Put overlapping blocks together."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES, Block, Grid, Triple, find_region
from nipype_blm.blockmap.functions import ReturnError
from nipype_blm.blockmap.images import open_target
from nipype_blm.blockmap.outputs import Output
from nipype_blm.blockmap.plan import Plan
from nipype_blm.blockmap.values import fit_type
from nipype_blm.errors import InputError


def merge(plan: Plan, output: Output, done: Collection[int], n_threads: int = 1) -> None:
    """Put the blocks of an output together, box by box.

    Parameters
    ----------
    plan : Plan
    output : Output
    done : collection of int
        Numbers of the blocks that count; all others are skipped.
    n_threads : int

    Raises
    ------
    InputError
        If it cannot hold what comes out, such as a sum that is too large, or the values of a block
        are gone.
    """
    keys = {plan.grid[number].key for number in done}
    target = open_target(plan, output)

    def write(box: Block) -> None:
        target[find_region(box.start, box.stop, (0, 0, 0))] = merge_box(plan, output, box, keys)

    with ThreadPoolExecutor(n_threads) as executor:
        try:
            for _ in executor.map(write, make_merge_grid(plan, output)):
                pass
        except ReturnError as error:
            raise InputError(f"Blocks cannot be put together: {error}.") from error


def make_merge_grid(plan: Plan, output: Output) -> Grid:
    """Return the boxes in which overlapping blocks are put together: no two share a chunk."""
    extent = {axis: (0, n) for axis, n in zip(AXES, plan.grid.shape, strict=True)}
    z, y, x = (
        chunk * max(1, size // chunk)
        for chunk, size in zip(output.chunks, plan.grid.size, strict=True)
    )
    return Grid(extent, (z, y, x))


def merge_box(plan: Plan, output: Output, box: Block, keys: Collection[str]) -> NDArray[Any]:
    """Return a box of an output, of all blocks that have voxels in it.

    Parameters
    ----------
    box : Block
        Counted from the start of the volume that is asked for.
    keys : collection of str
        Of the blocks that are done.
    """
    offset = plan.grid.start
    z, y, x = (a + o for a, o in zip(box.start, offset, strict=True))
    start: Triple = (z, y, x)
    z, y, x = (a + o for a, o in zip(box.stop, offset, strict=True))
    whole = Block(start, (z, y, x), start, (z, y, x))
    target = np.dtype(output.dtype)
    wide = _widen(target) if output.merge in ("sum", "mean") else target
    total = np.zeros(whole.shape, wide)
    n_blocks = np.zeros(whole.shape, np.uint32)
    folder = plan.paths.find_parts(output.name)
    for block in plan.grid.find_overlapping(whole):
        if block.key not in keys:
            continue
        found = _read_part(folder, block, whole)
        if found is None:
            continue
        region, values = found
        with np.errstate(all="ignore"):  # whatever the function has left
            _combine(total[region], values, n_blocks[region], output)
        n_blocks[region] += 1
    if output.merge == "mean":
        np.divide(total, n_blocks, out=total, where=n_blocks > 0)
    total[n_blocks == 0] = output.fill
    return fit_type(total, output)


def _widen(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype({"b": "u8", "u": "u8", "i": "i8", "f": "f8"}[dtype.kind])


def _combine(
    total: NDArray[Any], values: NDArray[Any], n_before: NDArray[Any], output: Output
) -> None:
    """Add the values of a block to those of others, in place."""
    if output.merge == "crop":
        total[...] = values
    elif output.merge == "max":
        # fmax: a block that has NaN where another one has a number does not count there.
        total[...] = np.where(n_before == 0, values, np.fmax(total, values))
    else:
        added = total + values
        # Whole numbers wrap around.
        if total.dtype.kind != "f" and np.any((values >= 0) != (added >= total)):
            raise ReturnError(
                f"{output.name} has sums that {total.dtype} cannot hold; give outputs: "
                f"{{{output.name}: {{dtype: float64}}}}"
            )
        total[...] = added


def _read_part(
    folder: Path, block: Block, box: Block
) -> tuple[tuple[slice, ...], NDArray[Any]] | None:
    """Return where a block has voxels of a box, counted from its start, and their values.

    The function may have returned none for it, as its empty file says.
    """
    path = folder / f"{block.key}.npy"
    try:
        part = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}, the values of block {block.key}, which is done, is gone; to do all blocks "
            "again, give overwrite, or another folder."
        ) from error
    start = block.read_start if part.shape == block.read_shape else block.start
    first = [max(a, b) for a, b in zip(start, box.start, strict=True)]
    last = [min(a + n, b) for a, n, b in zip(start, part.shape, box.stop, strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return None
    return find_region(first, last, box.start), part[find_region(first, last, start)]
