"""Whole outputs: Zarr with coordinates, NIfTI, channels of a BOSS."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES, Grid, Triple, find_region
from nipype_blm.blockmap.channels import Channel
from nipype_blm.blockmap.lengths import METRES
from nipype_blm.blockmap.outputs import Output
from nipype_blm.blockmap.plan import PLAN_FILE, Plan
from nipype_blm.blockmap.retrying import WriteError, retry
from nipype_blm.errors import InputError
from nipype_blm.io.files import replacing

# Attribute of Zarrs that may be written over, since they come from here.
_MARK = "nipype_blm"
ARRAY = "0"  # name of the array in a Zarr: its finest, and only, level


def find_target(plan: Plan, output: Output) -> Path:
    """Return the Zarr that blocks are written to."""
    return Path(output.path) if output.kind == "zarr" else plan.paths.find_staged(output.name)


def open_target(plan: Plan, output: Output) -> Any:
    """Open the Zarr that blocks are written to."""
    import zarr

    return zarr.open_array(find_target(plan, output), path=ARRAY, mode="r+")


def create_target(plan: Plan, output: Output, channel: Channel) -> None:
    """Make an output of nothing but its fill value, with coordinates as OME-NGFF 0.5 has them."""
    if output.kind == "boss" and output.is_direct:
        return
    import zarr

    target = find_target(plan, output)
    check_own(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    attributes = {"ome": describe_image(output.name, plan.grid, channel), _MARK: PLAN_FILE}
    group = zarr.create_group(target, zarr_format=3, overwrite=True, attributes=attributes)
    dtype = np.dtype(output.dtype)
    # Last: a target that opens is whole.
    group.create_array(
        ARRAY,
        shape=plan.grid.shape,
        chunks=output.chunks,
        dtype=dtype,
        fill_value=dtype.type(output.fill),
        dimension_names=list(AXES),
    )


def has_target(plan: Plan, output: Output) -> bool:
    """Return whether the Zarr that blocks are written to is there, and whole."""
    try:
        array = open_target(plan, output)
    except (FileNotFoundError, ValueError, KeyError):  # of half a Zarr
        return False
    return bool(array.shape == plan.grid.shape and array.dtype == output.dtype)


def check_own(path: str | Path) -> None:
    """Refuse to write over a folder that is no Zarr of a run over blocks.

    Raises
    ------
    InputError
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and _is_own(path)):
        raise InputError(
            f"{path} is there already, and no Zarr that a run over blocks has made, which alone "
            "may be written over; give another path, or remove it."
        )


def _is_own(folder: Path) -> bool:
    try:
        return _MARK in json.loads((folder / "zarr.json").read_text())["attributes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # What a kill has left of one that was being made.
        files = (each for each in folder.rglob("*") if not each.is_dir())
        return all(each.suffix == ".partial" for each in files)


def describe_image(name: str, grid: Grid, channel: Channel) -> dict[str, Any]:
    """Return the attributes of an image of OME-NGFF 0.5, whose coordinates are of the volume."""
    factor, unit = convert_unit(channel)
    scale = [float(f"{n * factor:.12g}") for n in channel.voxel_size]
    axes: list[dict[str, str]] = [{"name": axis, "type": "space"} for axis in AXES]
    if unit:
        axes = [axis | {"unit": unit} for axis in axes]
    origin = [
        n * size + float(f"{shift * factor:.12g}")
        for n, size, shift in zip(grid.start, scale, channel.origin, strict=True)
    ]
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(scale)}]
    if any(origin):
        steps.append({"type": "translation", "translation": origin})
    level = {"path": ARRAY, "coordinateTransformations": steps}
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": [level]}]}


def remove_torn(path: Path) -> None:
    """Remove what a process that was killed has left of a file or a Zarr that it was writing."""
    # As `replacing` and zarr call them.
    torn = path.rglob("*.partial") if path.is_dir() else path.parent.glob(f".{path.name}.*.part")
    for each in torn:
        each.unlink(missing_ok=True)


_NAMES = {1e-9: "nanometer", 1e-6: "micrometer", 1e-3: "millimeter"}


def convert_unit(channel: Channel) -> tuple[float, str]:
    """Return what lengths are multiplied with, and then their unit as OME-NGFF names it."""
    metres = METRES.get(channel.opened.unit.lower().removesuffix("s"))
    if metres is None:
        return 1.0, ""
    if metres in _NAMES:
        return 1.0, _NAMES[metres]
    return metres * 1e9, "nanometer"


def find_affine(grid: Grid, channel: Channel) -> NDArray[np.float64]:
    """Return the affine of an output, from voxels along x, y, z to mm, (4, 4)."""
    if channel.opened.affine is not None:
        affine = np.array(channel.opened.affine, float)
    else:
        factor = METRES.get(channel.opened.unit.lower().removesuffix("s"), 1e-3) * 1e3
        affine = np.diag([*(n * factor for n in reversed(channel.voxel_size)), 1.0])
        affine[:3, 3] = [n * factor for n in reversed(channel.origin)]
    affine[:3, 3] = affine[:3] @ [*reversed(grid.start), 1.0]
    return affine


def write_nifti(plan: Plan, output: Output, channel: Channel) -> None:
    """Write an output as NIfTI, some slices at a time, so that it need not fit into memory."""
    import nibabel as nib
    from zlib_ng import gzip_ng

    shape = tuple(reversed(plan.grid.shape))
    kind = nib.Nifti1Header if max(shape) < 2**15 else nib.Nifti2Header
    header = kind()
    header.set_data_dtype(np.dtype(output.dtype))
    header.set_data_shape(shape)
    affine = find_affine(plan.grid, channel)
    header.set_sform(affine, code="scanner" if channel.opened.affine is not None else "aligned")
    header.set_qform(affine, code="unknown")
    header.set_xyzt_units("mm")
    header["vox_offset"] = header.single_vox_offset
    header.set_slope_inter(1, 0)
    array = open_target(plan, output)
    path = Path(output.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as raw:
        is_packed = path.name.endswith(".gz")
        file: Any = gzip_ng.GzipFile("", "wb", 6, raw, mtime=0) if is_packed else raw
        header.write_to(file)
        file.write(b"\0" * (int(header["vox_offset"]) - file.tell()))
        for slab in _cut_slabs(plan.grid.shape[0], output.chunks[0]):
            # x changes fastest in both.
            file.write(np.ascontiguousarray(array[slab]).astype(output.dtype).tobytes())
        if is_packed:
            file.close()


def _cut_slabs(n: int, size: int) -> Iterator[slice]:
    for first in range(0, n, size):
        yield slice(first, min(n, first + size))


def write_boss(plan: Plan, output: Output) -> None:
    """Send an output that was put together from overlapping blocks to its channel."""
    channel, array = open_boss(plan, output), open_target(plan, output)
    for block in plan.grid:
        region = find_region(block.start, block.stop, plan.grid.start)
        send_boss(plan, output, channel, block.start, array[region])


def open_boss(plan: Plan, output: Output) -> Any:
    """Open the channel of an output.

    Raises
    ------
    WriteError
        If that fails after all retries.
    """
    from nipype_blm.blockmap.boss.volumes import parse_uri

    volume = parse_uri(output.path, **output.options)

    def connect() -> Any:
        from nipype_blm.blockmap.boss.client import BossArray

        return BossArray(volume)

    failed = f"The output {output.name} could not be opened"
    return retry(connect, failed, WriteError, plan.config)


def send_boss(
    plan: Plan, output: Output, channel: Any, start: Triple, values: NDArray[Any]
) -> None:
    """Write voxels to the channel of an output; errors are those of `open_boss`."""
    failed = f"The output {output.name} at z, y, x from {start} could not be written"
    write = partial(channel.write, start, values)
    retry(write, failed, WriteError, plan.config)
