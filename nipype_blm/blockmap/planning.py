"""Check what is asked of a run before any block is read, and cut the volume."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.blockmap.blocks import AXES, Extent, Grid, Triple, compute_blocks
from nipype_blm.blockmap.functions import Function, check_arguments, find_function, name_function
from nipype_blm.blockmap.options import AUTO, Config
from nipype_blm.blockmap.outputs import plan_output
from nipype_blm.blockmap.plan import Plan, make_stamp
from nipype_blm.blockmap.sources import Channel, find_volume, open_channel
from nipype_blm.errors import InputError, Problems, join_some
from nipype_blm.units import GIB

# The BOSS answers no request for more.
_MOST_BOSS_BYTES = 2 * 2**30
_MOST_CHUNKS_COUNTED = 10_000


def make_plan(
    config: Config,
    out_dir: Path,
    folder: str = "",
    function: Function | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> Plan:
    """Check what is asked for, and cut the volume into blocks; nothing is written.

    Parameters
    ----------
    config : Config
    out_dir : Path
        For results.
    folder : str
        Where the function is looked for.
    function : callable, optional
        In place of the one that the configuration names.
    arrays : mapping of str to array-like, optional
        In place of the channels that have these names.

    Raises
    ------
    InputError
        With what is wrong.
    """
    out_dir, arrays = out_dir.absolute(), dict(arrays or {})
    problems = Problems()
    found = function or problems.attempt(find_function, config.function, folder)
    if found is not None:
        problems.attempt(check_arguments, found, config.arguments)
    sources: dict[str, Any] = {**config.sources, **arrays}
    opened = {name: problems.attempt(open_channel, sources[name], name) for name in config.channels}
    if problems:
        raise InputError(problems)
    channels = {name: channel for name, channel in opened.items() if channel is not None}
    extent = find_extent(config, channels)
    grid = compute_blocks(extent, _choose_size(config, channels), config.halo)
    plan = Plan(
        config,
        grid,
        out_dir,
        folder,
        make_stamp(config, grid, channels),
        find_oddities(config, grid, channels),
        function,
        arrays,
    )
    _check_blocks(grid, channels)
    _check_places(plan)
    for name, output in (config.outputs or {}).items():
        # Of an unknown type: all else can be checked now.
        plan_output(name, output, np.dtype(output.dtype or "uint8"), plan)
    return plan


def find_extent(config: Config, channels: Mapping[str, Channel]) -> Extent:
    """Return what is asked for of the volume that all channels have.

    Raises
    ------
    InputError
        If channels differ, or ranges are not within them.
    """
    first_name, first = next(iter(channels.items()))
    for name, channel in channels.items():
        if channel.extent != first.extent and set(config.ranges) != set(AXES):
            raise InputError(
                f"{name} has {_describe(channel.extent)}, and {first_name} has "
                f"{_describe(first.extent)}; channels need the same voxels, or ranges along x, y "
                "and z that all of them have."
            )
    ranges = {axis: config.ranges.get(axis, first.extent[axis]) for axis in AXES}
    problems = []
    for name, channel in channels.items():
        for axis, (start, stop) in ranges.items():
            low, high = channel.extent[axis]
            if not low <= start < stop <= high:
                problems.append(
                    f"The range {start} to {stop} along {axis} was asked for; {name} has {low} to "
                    f"{high}, stop excluded."
                )
    if problems:
        raise InputError(problems)
    return ranges


def _describe(extent: Extent) -> str:
    return ", ".join(f"{axis} {a} to {b}" for axis, (a, b) in reversed(list(extent.items())))


def _choose_size(config: Config, channels: Mapping[str, Channel]) -> dict[str, int]:
    """Return the size of blocks, planned from memory and chunks if it is not given."""
    if config.block_size != AUTO:
        return dict(config.block_size)
    from dask.array.core import normalize_chunks

    first = next(iter(channels.values()))
    extent = find_extent(config, channels)
    shape = tuple(extent[axis][1] - extent[axis][0] for axis in AXES)
    # A block, its halo aside, of all channels, and what the function makes of it.
    itemsize = sum(each.dtype.itemsize * each.n_kept for each in channels.values())
    limit = max(1, int(config.max_mem_gb * GIB / 4))
    chunks = first.chunks
    planned = normalize_chunks(
        "auto",
        shape,
        limit=limit,
        dtype=np.dtype(f"V{itemsize}"),
        previous_chunks=None
        if chunks is None
        else [_repeat(n, c) for n, c in zip(shape, chunks, strict=True)],
    )
    return {axis: int(max(sizes)) for axis, sizes in zip(AXES, planned, strict=True)}


def _repeat(length: int, chunk: int) -> tuple[int, ...]:
    n, rest = divmod(length, chunk)
    return (chunk,) * n + ((rest,) if rest else ())


def _check_blocks(grid: Grid, channels: Mapping[str, Channel]) -> None:
    """Refuse blocks that are larger than a request may be."""
    read = grid.largest_read
    for name, channel in channels.items():
        n_bytes = math.prod(read) * channel.dtype.itemsize
        if channel.source.opener == "boss" and n_bytes >= _MOST_BOSS_BYTES:
            raise InputError(
                f"A block of {name} with its halo has {n_bytes / GIB:.3g} GiB, and the BOSS "
                "answers no request of 2 GiB or more; give a smaller block_size."
            )


def _check_places(plan: Plan) -> None:
    """Refuse to write over what is read."""
    read = [
        Path(each.path).resolve()
        for each in plan.config.sources.values()
        if Path(each.path).exists()
    ]
    written = {"OUT": plan.out_dir}
    for name, output in (plan.config.outputs or {}).items():
        if output.path and "://" not in output.path:
            written[f"The output {name}"] = Path(plan.out_dir, Path(output.path).expanduser())
    for what, path in written.items():
        for source in read:
            place = path.resolve()
            if place == source or place.is_relative_to(source):
                raise InputError(f"{what} is {path}, which is, or lies in, what is read: {source}.")
            if what != "OUT" and source.is_relative_to(place):
                raise InputError(f"{what} is {path}, in which {source} lies, which is read.")
    paths = [str(path) for path in written.values()]
    if len(set(paths)) < len(paths):
        raise InputError("Two outputs have the same path; give each one of its own.")


def find_oddities(config: Config, grid: Grid, channels: Mapping[str, Channel]) -> list[str]:
    """Return what is no fault but may not be meant."""
    notices = []
    for name, channel in channels.items():
        empty = _find_empty(channel)
        if empty:
            notices.append(f"{name} {channel.source.path} {empty}.")
        if channel.source.opener == "boss":
            from nipype_blm.blockmap import boss

            notices += boss.list_notices(find_volume(channel.source))
        if channel.source.path.endswith((".gz", ".bz2", ".mgz")) and not _has_index():
            notices.append(
                f"{name} is compressed, and each block unpacks all that comes before it; install "
                "indexed_gzip, or unpack it first"
            )
    missing = [axis for axis, n, c in zip(AXES, grid.size, grid.halo, strict=True) if c >= n]
    if missing:
        notices.append(
            f"The halo is as large as a block along {join_some(missing)}: most voxels are read "
            "several times."
        )
    return notices


def _find_empty(channel: Channel) -> str:
    """Return what is odd about a Zarr without any chunk, whose voxels all have one value."""
    array = channel.opened.array
    if channel.source.opener != "zarr" or not hasattr(array, "nchunks_initialized"):
        return ""
    if array.nchunks > _MOST_CHUNKS_COUNTED or array.nchunks_initialized:
        return ""
    return (
        f"has none of its {array.nchunks} chunks: all its voxels read as {array.fill_value}.  If "
        "there are files in it, its dimension_separator does not say how they are named"
    )


def _has_index() -> bool:
    from importlib.util import find_spec

    return find_spec("indexed_gzip") is not None


def describe_costs(plan: Plan, n_done: int = 0) -> str:
    """Say what would be done."""
    grid, channels = plan.grid, plan.open_channels()
    read = grid.largest_read
    itemsize = sum(each.dtype.itemsize * each.n_kept for each in channels.values())
    lines = [
        f"{len(grid):,} blocks of {_by_axis(grid.size)} voxels, halo {_by_axis(grid.halo)}; "
        f"{n_done:,} are done",
        f"Volume: {_describe(grid.extent)}: {math.prod(grid.shape) / 1e6:,.4g} megavoxels, "
        f"{_show_bytes(grid.n_read * itemsize)} to be read"
        + (" with the halos" if any(grid.halo) else ""),
        f"A block has {_show_bytes(math.prod(read) * itemsize)} in "
        + ("one channel" if len(channels) == 1 else f"{len(channels)} channels"),
        f"Function: {name_function(plan.function)}",
    ]
    for name, channel in channels.items():
        z, y, x = channel.shape
        lines.append(f"  {name}: {channel.source.path}, {channel.dtype}, {x} x {y} x {z}")
    return "\n".join(lines)


def _show_bytes(n: int) -> str:
    power = min(4, max(0, (n.bit_length() - 1) // 10))
    return f"{n / 1024**power:.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _by_axis(values: Triple) -> str:
    return " x ".join(str(n) for n in reversed(values))
