"""Where arrays go that a function returns: what is known of each before it is written."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.blockmap.blocks import AXES, Grid, Triple
from nipype_blm.blockmap.options import OutputFields
from nipype_blm.blockmap.plan import Plan
from nipype_blm.errors import InputError, show
from nipype_blm.io.files import write_if_changed

LARGEST_ITEM = 8  # bytes; no format has wider numbers
_LARGEST_CHUNK = 64 * 2**20  # bytes; larger ones are slow to look at
# A chunk may be this much smaller than a block that does not begin at a multiple of its size.
_LEAST_SHARE = 8
_NIFTI_TYPES = {"bool": "uint8", "float16": "float32", "int64": "int32", "uint64": "int32"}


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


def place_path(path: str, folder: Path) -> str:
    """Return a path, which counts from a folder; addresses stay as they are."""
    return path if "://" in path else str(Path(folder, Path(path).expanduser()))


def shorten_path(path: str, folder: Path) -> str:
    """Return a path, from a folder if it lies there, so that the folder may be copied or moved."""
    if "://" in path or not (is_inside(path, folder) and Path(path).is_relative_to(folder)):
        return path
    return str(Path(path).relative_to(folder))


def is_inside(path: str | Path, folder: Path) -> bool:
    """Return whether a path lies in a folder, wherever links lead."""
    return Path(path).resolve().is_relative_to(folder.resolve())


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


def plan_output(
    name: str, fields: OutputFields, returned: np.dtype[Any] | None, plan: Plan
) -> Output:
    """Return how an output is put together.

    Parameters
    ----------
    returned : dtype or None
        Of what the function returns for a block; None: not known yet.

    Raises
    ------
    InputError
        If its chunks do not fit the blocks, or its format cannot hold it.
    """
    path = place_path(fields.path or f"{name}.zarr", plan.out_dir)
    kind = tell_kind(path, name)
    found = np.dtype("uint8")  # the least that it may be, by which all else can be checked
    if fields.dtype:
        found = np.dtype(fields.dtype)
    elif returned is not None:
        found = _choose_type(returned, fields.merge, kind)
    if found.kind not in "biuf":
        raise InputError(f"The output {name} is {found}; expected whole or real numbers.")
    if found.itemsize > LARGEST_ITEM:
        raise InputError(f"The output {name} is {found}; expected a type of at most 64 bits.")
    is_known = fields.dtype is not None or returned is not None
    if is_known and not _can_hold(found, fields.fill):
        raise InputError(
            f"The output {name} is {found}, which cannot hold its fill {fields.fill:g}."
        )
    if kind == "nifti" and found.name in ("bool", "float16"):
        raise InputError(
            f"The output {name} is {found}, which NIfTI does not have; give dtype "
            f"{_NIFTI_TYPES[found.name]}."
        )
    chunks, fits = choose_chunks(plan.grid, found.itemsize, fields.chunks)
    is_direct = fields.merge == "crop" and fits
    if kind == "boss":
        from nipype_blm.blockmap.boss.client import BossArray
        from nipype_blm.blockmap.boss.volumes import parse_uri

        BossArray(parse_uri(path, **fields.options)).check_writable(found)
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


def _can_hold(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return not math.isfinite(value) or bool(np.isfinite(dtype.type(value)))
    if not float(value).is_integer():
        return False
    if dtype.kind == "b":
        return value in (0, 1)
    return bool(np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max)


def choose_chunks(
    grid: Grid, itemsize: int, given: Mapping[str, int] | None
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


@dataclass(frozen=True)
class Learned:
    """What a function returns for each block, as the first one has shown."""

    outputs: Mapping[str, Output]
    has_records: bool

    def write(self, path: Path) -> None:
        """Write it for other processes, into the folder of the run."""
        outputs = [
            asdict(each) | {"path": shorten_path(each.path, path.parent)}
            for each in self.outputs.values()
        ]
        data = {"outputs": outputs, "has_records": self.has_records}
        write_if_changed(path, f"{json.dumps(data, indent=1)}\n".encode())

    @classmethod
    def read(cls, path: Path) -> "Learned | None":
        """Read it; None if it is not known yet."""
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        outputs = [
            Output(
                **each
                | {"chunks": tuple(each["chunks"]), "path": place_path(each["path"], path.parent)}
            )
            for each in data["outputs"]
        ]
        return cls({each.name: each for each in outputs}, data["has_records"])
