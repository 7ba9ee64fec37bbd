"""Where arrays go that a function returns: how blocks are put together, and how they are stored."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES, Block, Grid, Triple
from nipype_blm.blockmap.functions import ReturnError
from nipype_blm.blockmap.openers import METRES
from nipype_blm.blockmap.options import OutputFields
from nipype_blm.blockmap.plan import Plan
from nipype_blm.blockmap.sources import Channel
from nipype_blm.blockmap.steady import WriteError, act_steadily
from nipype_blm.errors import InputError, show
from nipype_blm.io.files import replacing, write_if_changed

_LARGEST_CHUNK = 64 * 2**20  # bytes; larger ones are slow to look at
# A chunk may be this much smaller than a block that does not begin at a multiple of its size.
_LEAST_SHARE = 8
_NIFTI_TYPES = {"bool": "uint8", "float16": "float32", "int64": "int32", "uint64": "int32"}
ARRAY = "0"  # name of the array in a Zarr: its finest, and only, level


@dataclass(frozen=True)
class Output:
    """An array that is put together from blocks."""

    name: str
    path: str
    dtype: str
    merge: str
    chunks: Triple
    fill: float
    is_direct: bool  # blocks write their own voxels, and no two of them one chunk
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``zarr``, ``nifti`` or ``boss``."""
        return tell_kind(self.path, self.name)


def tell_kind(path: str, name: str) -> str:
    """Return the format of an output.

    Raises
    ------
    InputError
    """
    if path.startswith("bossdb://"):
        return "boss"
    if path.endswith((".nii", ".nii.gz")):
        return "nifti"
    if path.endswith(".zarr"):
        return "zarr"
    raise InputError(
        f"The output {name} goes to {show(path)}; expected a path that ends in .zarr, .nii or "
        ".nii.gz, or bossdb://collection/experiment/channel."
    )


def plan_output(name: str, fields: OutputFields, dtype: np.dtype[Any], plan: Plan) -> Output:
    """Return how an output is put together.

    Parameters
    ----------
    dtype : dtype
        Of what the function returns for a block.

    Raises
    ------
    InputError
        If its chunks do not fit the blocks, or its format cannot hold it.
    """
    path = fields.path or f"{name}.zarr"
    if "://" not in path:
        path = str(Path(plan.out_dir, Path(path).expanduser()))
    kind = tell_kind(path, name)
    found = np.dtype(fields.dtype) if fields.dtype else _choose_type(dtype, fields.merge, kind)
    if found.kind not in "biuf":
        raise InputError(f"The output {name} is {found}; expected whole or real numbers.")
    if found.kind in "biu" and not float(fields.fill).is_integer():
        raise InputError(f"The output {name} is {found}, which cannot hold its fill {fields.fill}.")
    if kind == "nifti" and found.name in ("bool", "float16"):
        raise InputError(f"The output {name} is {found}, which NIfTI does not have.")
    chunks, fits = choose_chunks(plan.grid, found.itemsize, fields.chunks, name)
    is_direct = fields.merge == "crop" and fits
    if kind == "boss":
        from nipype_blm.blockmap import boss

        boss.check_writable(boss.parse_uri(path, **fields.options), found)
        is_direct = fields.merge == "crop"
    if fields.merge == "crop" and fields.chunks is not None and not fits:
        raise InputError(_explain_chunks(name, fields.chunks, plan.grid))
    return Output(
        name, path, found.name, fields.merge, chunks, fields.fill, is_direct, fields.options
    )


def _choose_type(dtype: np.dtype[Any], merge: str, kind: str) -> np.dtype[Any]:
    if merge == "mean" and dtype.kind != "f":
        dtype = np.dtype("float64")
    if merge == "sum" and dtype.kind in "bu":
        dtype = np.dtype("uint64")
    if merge == "sum" and dtype.kind == "i":
        dtype = np.dtype("int64")
    return np.dtype(_NIFTI_TYPES.get(dtype.name, dtype.name)) if kind == "nifti" else dtype


def choose_chunks(
    grid: Grid, itemsize: int, given: Mapping[str, int] | None, name: str
) -> tuple[Triple, bool]:
    """Return the chunks of an output, and whether no two blocks share one of them."""
    if given is not None:
        z, y, x = (int(given[axis]) for axis in AXES)
        chunks: Triple = (z, y, x)
        return chunks, all(map(_fits, chunks, grid.size, grid.start, grid.shape))
    sides = []
    for size, start, length in zip(grid.size, grid.start, grid.shape, strict=True):
        first = min(length, size - start % size)  # of the first block
        common = size if first in (size, length) else math.gcd(first, size)
        sides.append(min(common if common * _LEAST_SHARE >= size else size, length))
    z, y, x = _split(sides, itemsize)
    chunks = (z, y, x)
    return chunks, all(map(_fits, chunks, grid.size, grid.start, grid.shape))


def _fits(chunk: int, size: int, start: int, length: int) -> bool:
    """Return whether blocks end where chunks do, along one axis."""
    first = size - start % size
    if first >= length:  # there is only one
        return True
    return first % chunk == 0 and size % chunk == 0


def _split(sides: list[int], itemsize: int) -> list[int]:
    """Divide a chunk that is too large into equal ones."""
    while math.prod(sides) * itemsize > _LARGEST_CHUNK:
        axis = int(np.argmax(sides))
        n = sides[axis]
        divisor = next((d for d in range(2, n) if n % d == 0), n)
        sides[axis] = n // divisor
    return sides


def _explain_chunks(name: str, chunks: Mapping[str, int], grid: Grid) -> str:
    sizes = dict(zip(AXES, grid.size, strict=True))
    start = dict(zip(AXES, grid.start, strict=True))
    axis = next(
        a
        for a, n in zip(AXES, grid.shape, strict=True)
        if not _fits(chunks[a], sizes[a], start[a], n)
    )
    return (
        f"The output {name} has chunks of {chunks[axis]} along {axis}, and blocks of {sizes[axis]} "
        f"that begin at {start[axis]}: two blocks would write one chunk.  Give chunks that divide "
        "both, or a block_size that is a multiple of them."
    )


# ------------------------------------------------------------------------ the values of a block


def fit_type(values: NDArray[Any], output: Output) -> NDArray[Any]:
    """Return values as an output holds them; real numbers may be rounded, nothing else.

    Raises
    ------
    ReturnError
        If it cannot hold them.
    """
    target = np.dtype(output.dtype)
    if values.dtype == target:
        return values
    if values.dtype.kind not in "biuf":
        raise ReturnError(
            f"{output.name} is an array of {values.dtype}; expected whole or real numbers"
        )
    with np.errstate(all="ignore"):
        converted = values.astype(target)
    if values.dtype.kind == target.kind == "f":
        return converted
    differs = converted != values
    if differs.any():
        raise ReturnError(
            f"{output.name} has the value {values[differs].flat[0]}, which {target} cannot hold; "
            f"give outputs: {{{output.name}: {{dtype: ...}}}}"
        )
    return converted


def check_shape(values: NDArray[Any], block: Block, output: Output) -> bool:
    """Return whether an array has the halo, too.

    Raises
    ------
    ReturnError
        If it has neither the shape of what was read nor that of the block.
    """
    if values.shape == block.read_shape:
        return True
    if values.shape == block.shape:
        return False
    expected = {block.read_shape, block.shape}
    raise ReturnError(
        f"{output.name} has the shape {values.shape}; expected z, y, x of the block, "
        f"{' or '.join(map(str, sorted(expected)))}"
    )


class Writer:
    """Writes what a function has returned for blocks.

    Parameters
    ----------
    plan : Plan
    outputs : mapping of str to Output
    """

    def __init__(self, plan: Plan, outputs: Mapping[str, Output]) -> None:
        self._plan, self._outputs = plan, outputs
        self._targets: dict[str, Any] = {}

    def check(self, arrays: Mapping[str, NDArray[Any]], block: Block) -> dict[str, NDArray[Any]]:
        """Return arrays as outputs hold them: of outputs where blocks overlap with the halo.

        Raises
        ------
        ReturnError
            If they do not fit.
        """
        if set(arrays) != set(self._outputs):
            raise ReturnError(
                f"the function returned {', '.join(sorted(arrays)) or 'no array'}; expected "
                f"{', '.join(sorted(self._outputs)) or 'none'}, as of other blocks or in outputs"
            )
        checked = {}
        for name, values in arrays.items():
            output = self._outputs[name]
            has_halo = check_shape(values, block, output)
            if output.merge == "crop" and has_halo:
                values = values[block.core]
            checked[name] = fit_type(values, output)
        return checked

    def write(self, arrays: Mapping[str, NDArray[Any]], block: Block) -> None:
        """Write what `check` has returned."""
        for name, values in arrays.items():
            output = self._outputs[name]
            if not output.is_direct:
                _write_part(self._plan.paths.find_parts(name), values, block)
            elif output.kind == "boss":
                self._write_boss(output, values, block)
            else:
                start = self._plan.grid.start
                region = tuple(
                    slice(a - s, b - s)
                    for a, b, s in zip(block.start, block.stop, start, strict=True)
                )
                self._open(output)[region] = values

    def _open(self, output: Output) -> Any:
        if output.name not in self._targets:
            self._targets[output.name] = open_target(self._plan, output)
        return self._targets[output.name]

    def _write_boss(self, output: Output, values: NDArray[Any], block: Block) -> None:
        if output.name not in self._targets:
            self._targets[output.name] = _open_boss(self._plan, output)
        _send(self._plan, output, self._targets[output.name], block.start, values)


def _write_part(folder: Path, values: NDArray[Any], block: Block) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{block.key}.npy") as file:
        np.save(file, values)


# ------------------------------------------------------------------------------- whole outputs


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
    target.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(target, zarr_format=3, overwrite=True)
    dtype = np.dtype(output.dtype)
    group.create_array(
        ARRAY,
        shape=plan.grid.shape,
        chunks=output.chunks,
        dtype=dtype,
        fill_value=dtype.type(output.fill),
        dimension_names=list(AXES),
    )
    group.attrs["ome"] = describe_image(output.name, plan.grid, channel)


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


def make_merge_grid(plan: Plan) -> Grid:
    """Return the boxes in which overlapping blocks are put together: no two share a chunk."""
    extent = {axis: (0, n) for axis, n in zip(AXES, plan.grid.shape, strict=True)}
    return Grid(extent, plan.grid.size)


def merge_box(plan: Plan, output: Output, box: Block) -> NDArray[Any]:
    """Return a box of an output, of all blocks that have voxels in it.

    Parameters
    ----------
    box : Block
        Counted from the start of the volume that is asked for.
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
        found = _read_part(folder, block, whole)
        if found is None:
            continue
        region, values = found
        _combine(total[region], values, n_blocks[region], output.merge)
        n_blocks[region] += 1
    if output.merge == "mean":
        np.divide(total, n_blocks, out=total, where=n_blocks > 0)
    total[n_blocks == 0] = output.fill
    return fit_type(total, output)


def _widen(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype({"b": "u8", "u": "u8", "i": "i8", "f": "f8"}[dtype.kind])


def _combine(total: NDArray[Any], values: NDArray[Any], n_before: NDArray[Any], merge: str) -> None:
    """Add the values of a block to those of others, in place."""
    if merge == "crop":
        total[...] = values
    elif merge == "max":
        # fmax: a block that has NaN where another one has a number does not count there.
        total[...] = np.where(n_before == 0, values, np.fmax(total, values))
    else:
        total += values


def _read_part(
    folder: Path, block: Block, box: Block
) -> tuple[tuple[slice, ...], NDArray[Any]] | None:
    """Return where a block has voxels of a box, counted from its start, and their values."""
    try:
        part = np.load(folder / f"{block.key}.npy", mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:  # it was skipped
        return None
    start = block.read_start if part.shape == block.read_shape else block.start
    first = [max(a, b) for a, b in zip(start, box.start, strict=True)]
    last = [min(a + n, b) for a, n, b in zip(start, part.shape, box.stop, strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return None
    inside = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True))
    region = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, box.start, strict=True))
    return region, part[inside]


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
    channel, array = _open_boss(plan, output), open_target(plan, output)
    for box in make_merge_grid(plan):
        region = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        z, y, x = (a + s for a, s in zip(box.start, plan.grid.start, strict=True))
        _send(plan, output, channel, (z, y, x), array[region])


def _open_boss(plan: Plan, output: Output) -> Any:
    from nipype_blm.blockmap import boss

    volume = boss.parse_uri(output.path, **output.options)
    failed = f"The output {output.name} could not be opened"
    return act_steadily(partial(boss.open_volume, volume), failed, WriteError, plan.config)


def _send(plan: Plan, output: Output, channel: Any, start: Triple, values: NDArray[Any]) -> None:
    from nipype_blm.blockmap import boss

    failed = f"The output {output.name} at z, y, x from {start} could not be written"
    write = partial(boss.write_region, channel, start, values)
    act_steadily(write, failed, WriteError, plan.config)


# ------------------------------------------------------------------------------ what is known


@dataclass(frozen=True)
class Learned:
    """What a function returns for each block, as the first one has shown."""

    outputs: Mapping[str, Output]
    has_records: bool

    def write(self, path: Path) -> None:
        """Write it for other processes."""
        data = {
            "outputs": [asdict(each) for each in self.outputs.values()],
            "has_records": self.has_records,
        }
        write_if_changed(path, f"{json.dumps(data, indent=1)}\n".encode())

    @classmethod
    def read(cls, path: Path) -> "Learned | None":
        """Read it; None if it is not known yet."""
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        outputs = [Output(**(each | {"chunks": tuple(each["chunks"])})) for each in data["outputs"]]
        return cls({each.name: each for each in outputs}, data["has_records"])
