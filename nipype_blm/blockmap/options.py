"""What is asked for, checked at once: of a configuration, of traits, or of a call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nipype_blm.blockmap.addresses import DRIVERS
from nipype_blm.blockmap.blocks import AXES, DEFAULT_SIZE, read_triple
from nipype_blm.blockmap.openers.kinds import OPENERS
from nipype_blm.blockmap.sources import Source
from nipype_blm.errors import InputError, join_some, show

AUTO = "auto"


def _as_mapping(value: Any) -> Any:
    """Take a path alone for a mapping with one."""
    return {"path": str(value)} if isinstance(value, str | Path) else value


def _read_dtype(value: Any) -> str | None:
    if value is None:
        return None
    try:
        dtype = np.dtype(str(value))
    except TypeError as error:
        raise ValueError(f"{show(value)} is no type of NumPy, such as uint8 or float32") from error
    if dtype.kind not in "biuf":
        raise ValueError(f"{show(value)} was given; expected whole or real numbers")
    return dtype.name


def _read_voxels(name: str, least: int) -> BeforeValidator:
    def read(value: Any) -> dict[str, int] | str:
        if value == AUTO and least:
            return AUTO
        try:
            return dict(zip(AXES, read_triple(value, name, least), strict=True))
        except InputError as error:
            raise ValueError(str(error).rstrip(".")) from error

    return BeforeValidator(read)


def _read_ranges(value: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(value, Mapping) or not set(value) <= set(AXES):
        raise ValueError(
            f"{show(value)} was given; expected start and stop by axis, such as {{x: [0, 4000]}}"
        )
    ranges = {}
    for axis, pair in value.items():
        is_pair = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not is_pair or not all(
            isinstance(n, int | np.integer) and not isinstance(n, bool) for n in pair
        ):
            raise ValueError(f"{axis}: {show(pair)} was given; expected [start, stop]")
        ranges[axis] = (int(pair[0]), int(pair[1]))
    return ranges


def _simplify(value: Any) -> Any:
    """Return what JSON can hold of what was given, in the types of Python."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        values = map(_simplify, value)
        return tuple(values) if isinstance(value, tuple) else list(values)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _simplify(each) for key, each in value.items()}
    raise ValueError(
        f"{show(value)} was given, which other processes do not get as it is; expected numbers, "
        "text, lists, or dictionaries with text as keys"
    )


def _read_table(value: Any) -> Any:
    name = Path(str(value)).name.lower()
    if not name.endswith((".tsv", ".csv", ".parquet")):
        raise ValueError(f"{show(value)} was given; expected a name that ends in {_TABLES}")
    if str(Path(str(value))) in ("blocks.tsv", "skipped.tsv"):
        raise ValueError(f"{value} is the table of the blocks; give another name")
    return str(value)


_TABLES = ".tsv, .csv or .parquet"
_Values = Annotated[dict[str, Any], BeforeValidator(_simplify)]
_Inner = Annotated[
    str | None,
    # As the levels of images are called.
    BeforeValidator(lambda given: str(given) if type(given) is int else given),
]
_Axes = Annotated[str, BeforeValidator(lambda value: str(value).lower())]


class SourceFields(BaseModel):
    """Where the voxels of a channel are; see `sources.Source`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        description="a path, or an address: precomputed://..., n5://..., zarr2://..., zarr3://..., "
        "bossdb://collection/experiment/channel, python:module:function"
    )
    kind: Literal["", *OPENERS] = Field(  # type: ignore[valid-type]
        "", description=f"what opens it: {', '.join(OPENERS)}; default: as the path tells"
    )
    dataset: _Inner = Field(None, description="array in a Zarr group or an HDF5 file")
    level: Annotated[int, Field(ge=0)] = Field(0, description="resolution level; 0 is the finest")
    channel: int | str | None = Field(None, description="number or label, where there are several")
    axes: _Axes | None = Field(
        None, description="letters of all axes, such as tczyx; default: as the store says"
    )
    at: dict[str, int] = Field({}, description="place along further axes, such as {t: 0}")
    keep: _Axes = Field("", description="further axes that the function gets, before z, y, x")
    options: _Values = Field(
        {},
        description="of a BOSS: host, protocol, token (file:PATH or env:NAME); of TensorStore: its "
        "specification; of a function: its arguments",
    )


class OutputFields(BaseModel):
    """Where an array that the function returns goes, and how blocks are put together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        "",
        description="Zarr (.zarr), NIfTI (.nii, .nii.gz) or a BOSS channel (bossdb://...); "
        "default: NAME.zarr",
    )
    dtype: Annotated[str | None, BeforeValidator(_read_dtype)] = Field(
        None, description="type of the voxels; default: that of the first block's result"
    )
    merge: Literal["crop", "max", "sum", "mean"] = Field(
        "crop",
        description="crop: each block keeps its own voxels; max, sum, mean: over all blocks that "
        "have a voxel, halo too, but for those that are skipped; max passes over NaN, sum and mean "
        "do not",
    )
    chunks: Annotated[Any, _read_voxels("chunks", 1)] | None = Field(
        None, description="of Zarr, along x, y, z; default: as the blocks"
    )
    fill: float = Field(0, description="value where no block has one, such as of a skipped block")
    options: _Values = Field({}, description="of a BOSS channel: host, protocol, token")


class Config(BaseModel):
    """All that is asked of a run over blocks."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    channels: dict[str, Annotated[SourceFields, BeforeValidator(_as_mapping)]] = Field(
        description="volumes by name, as the function gets them: paths, or path, level, axes, ..."
    )
    function: str = Field(
        description="module:function or file.py:function; it gets {channel: array of z, y, x}, and "
        "the block, if it has a parameter of this name"
    )
    arguments: _Values = Field({}, description="further arguments of the function, by name")
    ranges: Annotated[dict[str, tuple[int, int]], BeforeValidator(_read_ranges)] = Field(
        {}, description="start and stop along x, y, z, in voxels; default: all"
    )
    block_size: Annotated[Any, _read_voxels("block_size", 1)] = Field(
        dict(zip(reversed(AXES), DEFAULT_SIZE, strict=True)),
        description="voxels of a block along x, y, z; auto: as many chunks of the first channel as "
        "max_mem_gb has room for; default 1000, 1000, 10",
    )
    halo: Annotated[Any, _read_voxels("halo", 0)] = Field(
        dict.fromkeys(AXES, 0),
        description="voxels around a block that the function gets, too, along x, y, z; default 0",
    )
    outputs: dict[str, Annotated[OutputFields, BeforeValidator(_as_mapping)]] | None = Field(
        None,
        description="arrays that the function returns, by name: path, dtype, merge, chunks, fill; "
        "default: as the first block returns them",
    )
    table: Annotated[str, BeforeValidator(_read_table)] = Field(
        "table.tsv", description=f"table of the records that it returns: {_TABLES}"
    )
    on_error: Literal["skip", "stop"] = Field(
        "skip", description="what an error of the function does: skip the block, or end the run"
    )
    on_read_error: Literal["skip", "stop"] = Field(
        "stop", description="the same of a block that cannot be read"
    )
    max_skipped: Annotated[int, Field(ge=0)] | None = Field(
        None, description="end the run when more blocks were skipped; default: never"
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        5,
        description="how often reading, and writing to a BOSS, is tried again; pauses double from "
        "retry_pause_s",
    )
    retry_pause_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        1.0, description="seconds before reading is tried again, the first time"
    )
    max_mem_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        2.0, description="memory of a block's data, in GiB, for block_size auto"
    )

    @property
    def sources(self) -> dict[str, Source]:
        """Where the channels are."""
        return {name: Source(**dict(each)) for name, each in self.channels.items()}


MODELS: dict[str, type[BaseModel]] = {
    "CONFIG": Config,
    "a channel": SourceFields,
    "an output": OutputFields,
}


def make_config(given: Mapping[str, Any], base: Path | None = None) -> Config:
    """Return what is asked for, checked; relative paths start from `base`.

    Raises
    ------
    InputError
        With all faults together.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{show(given)} was given; expected fields such as channels and function.")
    try:
        config = Config.model_validate(dict(given))
    except ValidationError as error:
        raise InputError([_explain(fault) for fault in error.errors()]) from error
    if not config.channels:
        raise InputError("channels is empty; name at least one volume that the function gets.")
    for name, output in (config.outputs or {}).items():
        check_output_name(name)
        if output.merge == "mean" and output.dtype and np.dtype(output.dtype).kind != "f":
            raise InputError(
                f"The output {name} is a mean, and its dtype {output.dtype}; give float32 or "
                "float64."
            )
    base = (base or Path.cwd()).absolute()
    channels = {name: _resolve_all(each, base) for name, each in config.channels.items()}
    outputs = config.outputs and {
        name: each.model_copy(update={"options": _resolve_token(each.options, base)})
        for name, each in config.outputs.items()
    }
    return config.model_copy(update={"channels": channels, "outputs": outputs})


def check_output_name(name: str) -> None:
    """Refuse the name of an output that no file can have.

    Raises
    ------
    InputError
    """
    if not name or "/" in name or name.startswith("."):
        raise InputError(f"The output {show(name)} has no name that a file can have.")


def _resolve_all(fields: SourceFields, base: Path) -> SourceFields:
    options = _resolve_token(fields.options, base)
    return fields.model_copy(update={"path": _resolve(fields.path, base), "options": options})


def _resolve_token(options: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return options whose token lies in a file with an absolute path; see `tokens`."""
    if "token" not in options:
        return dict(options)
    from nipype_blm.blockmap.tokens import check_place

    place = str(options["token"])
    check_place(place)
    kind, _, name = place.partition(":")
    where = f"file:{Path(base, Path(name).expanduser())}" if kind == "file" else place
    return {**options, "token": where}


def _resolve(path: str, base: Path) -> str:
    """Return a path as an absolute one, an address as it is."""
    scheme, has_scheme, rest = path.partition("://")
    if path.startswith("python:"):
        return _resolve_function(path, base)
    if has_scheme and "://" in rest:
        return path
    if has_scheme and scheme in DRIVERS:
        return f"{scheme}://{Path(base, rest).expanduser()}"
    return path if has_scheme else str(Path(base, Path(path).expanduser()))


def _resolve_function(address: str, base: Path) -> str:
    """Return the address of a function with its folder, if it lies in `base`."""
    where, _, called = address.removeprefix("python:").rpartition(":")
    if where.endswith(".py"):
        return f"python:{Path(base, Path(where).expanduser())}:{called}"
    module = Path(base, where.partition(".")[0])
    is_here = "/" not in where and (module.is_dir() or module.with_suffix(".py").is_file())
    return f"python:{base / where}:{called}" if where and is_here else address


def _explain(fault: Any) -> str:
    """Turn one of pydantic's errors into a sentence."""
    place = [str(part) for part in fault["loc"]]
    where = ".".join(place)
    if fault["type"] == "missing":
        return f"{where} is missing; it is mandatory."
    if fault["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"channels": SourceFields, "outputs": OutputFields}
        known = models.get(place[0], Config).model_fields
        return f"{where} is not known; there are {join_some(known, 40)}."
    reason = fault["ctx"]["error"] if fault["type"] == "value_error" else fault["msg"]
    given = "" if fault["type"] == "value_error" else f"{show(fault['input'])} was given: "
    return f"{where}: {given}{str(reason).rstrip('.')}."


def read_config(path: Path, token: str | None = None) -> dict[str, Any]:
    """Return the fields of a configuration: YAML or JSON, or a ``neurodata.cfg``.

    Parameters
    ----------
    path : Path
    token : str, optional
        Where the token of all channels and outputs in a BOSS is, in place of what the file says.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    if path.suffix.lower() in (".cfg", ".ini"):
        return _read_neurodata(path, token)
    from nipype_blm.io.yamlfile import read_yaml

    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise InputError(f"{path} has no fields; expected channels, function and others.")
    return fields if token is None else _set_token(fields, token)


def _set_token(fields: dict[str, Any], token: str) -> dict[str, Any]:
    """Return fields with the token of all that is in a BOSS; what is no such field stays."""
    changed = dict(fields)
    for group in ("channels", "outputs"):
        if isinstance(fields.get(group), dict):
            changed[group] = {
                name: _set_token_of(_as_mapping(each), token)
                for name, each in fields[group].items()
            }
    return changed


def _set_token_of(each: Any, token: str) -> Any:
    is_boss = isinstance(each, dict) and (
        each.get("kind") == "boss" or str(each.get("path")).startswith("bossdb://")
    )
    if not is_boss or not isinstance(each.get("options", {}), dict):
        return each
    return each | {"options": each.get("options", {}) | {"token": token}}


def _read_neurodata(path: Path, token: str | None) -> dict[str, Any]:
    """Return the fields that a configuration of Nd-Multicore has: where the channels are."""
    from nipype_blm.blockmap.boss import neurodata

    found = neurodata.read_config(path, token)
    channels = {
        name: {
            "path": f"bossdb://{volume.collection}/{volume.experiment}/{volume.channel}",
            "options": {"host": volume.host, "protocol": volume.protocol, "token": volume.token},
        }
        for name, volume in found.volumes.items()
    }
    ranges = {axis: list(pair) for axis, pair in (found.ranges or {}).items()}
    return {"channels": channels, "ranges": ranges}
