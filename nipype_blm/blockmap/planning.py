"""Check what is asked of a run before any block is read, and cut the volume."""

import math
from collections.abc import Iterable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.blockmap.blocks import AXES, Extent, Grid, Triple, compute_blocks
from nipype_blm.blockmap.channels import Channel, open_channel
from nipype_blm.blockmap.functions import Function, check_arguments, find_function, name_function
from nipype_blm.blockmap.images import convert_unit
from nipype_blm.blockmap.lengths import METRES
from nipype_blm.blockmap.openers.boss import find_volume
from nipype_blm.blockmap.openers.nifti import is_compressed
from nipype_blm.blockmap.options import AUTO, Config
from nipype_blm.blockmap.outputs import plan_output
from nipype_blm.blockmap.plan import Plan, make_stamp
from nipype_blm.blockmap.sources import find_array_place, find_place
from nipype_blm.errors import InputError, Problems, join_some
from nipype_blm.units import GIB

# The BOSS answers no request for more.
_MOST_BOSS_BYTES = 2 * 2**30
# Of the memory for a block: the store unpacks it, the function gets it, computes and returns.
_SHARE = 4


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
    grid = compute_blocks(extent, _choose_size(config, channels, extent), config.halo)
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
    check_places(plan, {name: each.path for name, each in (config.outputs or {}).items()})
    for name, output in (config.outputs or {}).items():
        # Of a type that may not be known: all else can be checked now.
        plan_output(name, output, None, plan)
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
        free = [axis for axis in AXES if axis not in config.ranges]
        if any(channel.extent[axis] != first.extent[axis] for axis in free):
            has_others = any(_length(channel, axis) != _length(first, axis) for axis in free)
            remedy = (
                f"give ranges along {join_some(reversed(free))} that all of them have"
                if has_others
                else "there are as many, and they are counted from another one; store them with "
                "the same offset"
            )
            raise InputError(
                f"{name} has {_describe(channel.extent)}, and {first_name} has "
                f"{_describe(first.extent)}; expected the same voxels in all channels: {remedy}."
            )
    ranges = {axis: config.ranges.get(axis, first.extent[axis]) for axis in AXES}
    problems = []
    for name, channel in channels.items():
        for axis, (start, stop) in ranges.items():
            low, high = channel.extent[axis]
            if not low <= start < stop <= high:
                problems.append(
                    f"The range {start} to {stop} along {axis} was asked for, and {name} has {low} "
                    f"to {high}, stop excluded; give a start, and a greater stop, within that."
                )
    if problems:
        raise InputError(problems)
    return ranges


def _length(channel: Channel, axis: str) -> int:
    start, stop = channel.extent[axis]
    return stop - start


def _describe(extent: Extent) -> str:
    return ", ".join(f"{axis} {a} to {b}" for axis, (a, b) in reversed(list(extent.items())))


def _choose_size(config: Config, channels: Mapping[str, Channel], extent: Extent) -> dict[str, int]:
    """Return the size of blocks, planned from memory and chunks if it is not given."""
    if config.block_size != AUTO:
        return dict(config.block_size)
    first = next(iter(channels.values()))
    # Of all channels, and as much again for what the function makes of it.
    itemsize = sum(each.n_bytes for each in channels.values())
    most = int(config.max_mem_gb * GIB / _SHARE / itemsize)
    whole = compute_blocks(extent, 1, config.halo)
    return dict(zip(AXES, plan_size(whole.shape, whole.halo, first.chunks, most), strict=True))


def plan_size(shape: Triple, halo: Triple, chunks: Triple | None, most: int) -> Triple:
    """Return a size of blocks: multiples of chunks, or parts of them if memory has no room for one.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels of the volume along z, y, x.
    halo : (int, int, int)
    chunks : (int, int, int), optional
        What the store reads at once.
    most : int
        Voxels that a block may have with its halo; exceeded only if the halo alone does.
    """

    def count_read(size: Triple) -> int:
        sides = zip(size, halo, shape, strict=True)
        return math.prod(min(n + 2 * h, length) for n, h, length in sides)

    limit = max(1, most)
    while True:
        size = _divide(shape, chunks, limit)
        n_read = count_read(size)
        if n_read <= most or limit == 1:
            break
        limit = max(1, int(limit * min(0.9, most / n_read)))
    if chunks is None:
        return size
    z, y, x = map(min, chunks, shape)
    # Dask may plan less than the one chunk that there is room for.
    is_less = any(n < chunk for n, chunk in zip(size, (z, y, x), strict=True))
    return (z, y, x) if is_less and count_read((z, y, x)) <= most else size


def _divide(shape: Triple, chunks: Triple | None, limit: int) -> Triple:
    from dask.array.core import normalize_chunks

    known = chunks or (1, 1, 1)
    previous = None if chunks is None else tuple(map(_repeat, shape, chunks))
    planned = normalize_chunks(
        "auto", shape, limit=limit, dtype=np.dtype("V1"), previous_chunks=previous
    )
    # Dask does not always keep to multiples.
    z, y, x = (
        n if n == length or n < chunk else n // chunk * chunk
        for n, length, chunk in zip(map(max, planned), shape, known, strict=True)
    )
    return z, y, x


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


def check_places(plan: Plan, outputs: Mapping[str, str]) -> None:
    """Refuse to write over what is read, or two outputs to one place.

    Parameters
    ----------
    plan : Plan
    outputs : mapping of str to str
        Their paths or addresses by name; empty: where they go by default.

    Raises
    ------
    InputError
    """
    sources = [each for name, each in plan.config.sources.items() if name not in plan.arrays]
    found = [*map(find_place, sources), *map(find_array_place, plan.arrays.values())]
    read = [place.resolve() for place in found if place is not None]
    written = {"OUT": plan.out_dir.resolve()}
    for name, path in outputs.items():
        if "://" not in path:
            place = Path(plan.out_dir, Path(path or f"{name}.zarr").expanduser())
            written[f"The output {name}"] = place.resolve()
        elif path in [each.path for each in sources]:
            raise InputError(f"The output {name} is {path}, which is read; give another channel.")
    for what, place in written.items():
        _keep_sources(what, place, read)
    places = [str(place) for place in written.values()]
    places += [path for path in outputs.values() if "://" in path]
    twice = [place for i, place in enumerate(places) if place in places[:i]]
    if twice:
        raise InputError(f"Two outputs go to {twice[0]}; give each a path of its own.")
    for (one, inner), (other, outer) in permutations(written.items(), 2):
        if other != "OUT" and inner.is_relative_to(outer):
            raise InputError(
                f"{one} is {inner}, which lies in {outer}, where {other.lower()} goes; give "
                "another place."
            )


def _keep_sources(what: str, place: Path, read: Iterable[Path]) -> None:
    """Refuse to write into what is read, or around it."""
    for source in read:
        if place.is_relative_to(source):
            raise InputError(
                f"{what} is {place}, which is, or lies in, {source}, which is read; give "
                "another place."
            )
        if what != "OUT" and source.is_relative_to(place):
            raise InputError(
                f"{what} is {place}, in which {source} lies, which is read; give another place."
            )


def find_oddities(config: Config, grid: Grid, channels: Mapping[str, Channel]) -> list[str]:
    """Return what is no fault but may not be meant."""
    notices = _compare_places(channels)
    for name, channel in channels.items():
        if channel.opened.oddity:
            notices.append(f"{name} {channel.source.path} {channel.opened.oddity}.")
        if channel.source.opener == "boss":
            from nipype_blm.blockmap.boss.volumes import list_notices

            notices += list_notices(find_volume(channel.source))
        if channel.source.opener == "nifti" and is_compressed(channel.source.path):
            notices += _list_compression(channel)
    # Of an axis that is cut at all.
    wide = [
        axis
        for axis, n, halo, length in zip(AXES, grid.size, grid.halo, grid.shape, strict=True)
        if halo >= n and length > n
    ]
    if wide:
        notices.append(
            f"The halo is as large as a block along {join_some(wide)}: most voxels are read "
            "several times."
        )
    return notices


def _compare_places(channels: Mapping[str, Channel]) -> list[str]:
    """Return in what channels differ from the first one that says where its voxels are."""
    known = {name: each for name, each in channels.items() if len(each.opened.voxel_size)}
    notices = []
    for name, channel in list(known.items())[1:]:
        first_name, first = next(iter(known.items()))
        what = _find_difference(channel, first)
        if what:
            notices.append(
                f"{name} and {first_name} differ in {what}: voxels with the same numbers are taken "
                "for the same place."
            )
    return notices


# Lengths in voxels that may be of rounding.
_ROUNDING = 1e-3


def _find_difference(one: Channel, other: Channel) -> str:
    """Return in what two channels differ, and how; empty if in nothing that is known."""
    units = [convert_unit(each) for each in (one, other)]
    if "" in (units[0][1], units[1][1]) and units[0][1] != units[1][1]:
        return ""
    metres = [factor * METRES.get(unit, 1.0) for factor, unit in units]
    size, other_size = np.multiply([one.voxel_size, other.voxel_size], np.transpose([metres]))
    if not np.allclose(size, other_size, rtol=_ROUNDING, atol=0):
        return f"voxel size ({_tell(one, 'voxel_size')}, and {_tell(other, 'voxel_size')})"
    if one.opened.affine is not None and other.opened.affine is not None:
        # From x, y, z in voxels to mm.
        moved = np.abs(one.opened.affine - other.opened.affine)[:3]
        return "affine" if (moved > _ROUNDING * min(other.voxel_size)).any() else ""
    if _is_turned(one) or _is_turned(other):
        return ""
    origin, other_origin = np.multiply([one.origin, other.origin], np.transpose([metres]))
    if not np.allclose(origin, other_origin, rtol=0, atol=_ROUNDING * size.min()):
        return f"origin ({_tell(one, 'origin')}, and {_tell(other, 'origin')})"
    return ""


def _is_turned(channel: Channel) -> bool:
    """Return whether the axes are not those of space, so that there is no origin along them."""
    return channel.opened.affine is not None and not len(channel.opened.origin)


def _tell(channel: Channel, field: str) -> str:
    values = " x ".join(f"{n:.7g}" for n in reversed(getattr(channel, field)))
    return f"{values} {channel.opened.unit}".strip()


def _list_compression(channel: Channel) -> list[str]:
    from importlib.util import find_spec

    has_index = channel.source.path.lower().endswith((".gz", ".mgz"))
    if has_index and find_spec("indexed_gzip") is not None:
        return []
    remedy = "install indexed_gzip, or unpack it first" if has_index else "unpack it first"
    return [
        f"{channel.name} {channel.source.path} is compressed, and a block before the one that was "
        f"read last unpacks it from its start: {remedy}."
    ]


def describe_costs(plan: Plan, n_done: int = 0) -> str:
    """Say what would be done."""
    grid, channels = plan.grid, plan.open_channels()
    read = grid.largest_read
    itemsize = sum(each.n_bytes for each in channels.values())
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
