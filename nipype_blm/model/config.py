"""What a user asks for: every field of a configuration, checked all at once."""

import difflib
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nipype_blm.errors import InputError
from nipype_blm.model.arithmetic import parse_number
from nipype_blm.model.contrasts import Contrast, normalise_contrasts

CLUSTER_TYPES = ("htcondor", "lsf", "moab", "oar", "pbs", "sge", "slurm")
# BLM-py's own files have these; they change nothing.
IGNORED_FIELDS = ("statType", "logdir", "voxelBatching", "diskMem", "name", "q")
DEFAULT_MAXMEM = 2**32
DEFAULT_MINLOG = -323.3062153431158


def resolve_path(text: str | Path, base: Path) -> Path:
    """Return an absolute path; a relative one starts from the folder `base`."""
    try:
        return Path(base, Path(text).expanduser()).absolute()
    except RuntimeError as error:  # of ~name
        raise ValueError(f"{text}: {error}") from error


def _resolve(value: Any, info: ValidationInfo) -> Path:
    """Resolve a relative path against the folder of the configuration file."""
    if not isinstance(value, str | Path):
        raise ValueError(f"{value!r} is not a path")
    return resolve_path(value, (info.context or {}).get("base", Path.cwd()))


def _resolve_all(value: Any, info: ValidationInfo) -> Any:
    """Resolve one path, or several."""
    if isinstance(value, list | tuple) and value:
        return tuple(_resolve(item, info) for item in value)
    return _resolve(value, info)


def _parse_bytes(value: Any) -> int:
    n_bytes = parse_number(value)
    if n_bytes < 1:
        raise ValueError(f"{value!r} is not a positive number of bytes")
    return int(n_bytes)


def _parse_fraction(value: Any) -> Fraction:
    """Read 0.1 or "10%" exactly, so that 0.28 of 50 images is 14."""
    text = str(value).strip()
    percent = text.endswith("%")
    try:
        fraction = Fraction(text.rstrip("% "))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{value!r} is neither a fraction nor a percentage") from error
    fraction = fraction / 100 if percent else fraction
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"{value!r} is outside 0 to 1; give a fraction such as 0.1, "
            'or a percentage such as "10%"'
        )
    return fraction


FilePath = Annotated[Path, BeforeValidator(_resolve)]
FilePaths = Annotated[Path | tuple[Path, ...], BeforeValidator(_resolve_all)]
Bytes = Annotated[int, BeforeValidator(_parse_bytes)]
Number = Annotated[float, BeforeValidator(parse_number)]


def _ignored() -> Any:
    return Field(None, description="Accepted without effect.")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class MissingnessRules(_Model):
    """Which voxels are analysed, by how many images have data there."""

    MinPercent: Annotated[Fraction, BeforeValidator(_parse_fraction)] | None = Field(
        None, description='Least share of the images: a fraction (0.1) or a percentage ("10%").'
    )
    MinN: Annotated[int, Field(ge=0)] | None = Field(None, description="Least number of images.")
    Masking: FilePath | None = Field(
        None, description="Post-analysis mask: voxels outside it leave the result."
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_any_case(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names = {name.lower(): name for name in cls.model_fields}
        found = {names.get(str(key).lower(), key): item for key, item in value.items()}
        if len(found) < len(value):
            raise ValueError(f"a field is given twice, in {', '.join(map(str, value))}")
        return found

    def minimum_n(self, n_images: int) -> int:
        """Return the least number of images a voxel needs, out of `n_images`."""
        share = -(-(self.MinPercent or Fraction(0)) * n_images // 1)
        return max(int(share), self.MinN or 0)


class BlmConfig(_Model):
    """A Big Linear Model: BLM-py's configuration, and a few fields more."""

    Y_files: FilePaths = Field(description="Text file with one image a line, or one 4D image.")
    X: FilePath = Field(
        description="Design matrix: CSV, TSV or whitespace table, one row for each image."
    )
    outdir: FilePath = Field(description="Folder for the results; made if need be.")
    contrasts: tuple[Contrast, ...] = Field(
        description="Contrasts c1, c2, ..., each with a name and a vector."
    )
    clusterType: str = Field("local", description="Where to run: local (the default).")
    numNodes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Threads to use; default: the cores available."
    )
    analysis_mask: FilePath | None = Field(
        None, description="Mask image; inside it means finite and not zero."
    )
    MAXMEM: Bytes = Field(
        DEFAULT_MAXMEM, description='Memory to use, in bytes; a number or "2**32" (default).'
    )
    data_mask_files: FilePaths | None = Field(
        None, description="Text file with one mask a line, for each image in turn."
    )
    data_mask_thresh: Number | None = Field(None, description="Values below this are missing.")
    Missingness: MissingnessRules = Field(
        default_factory=lambda: MissingnessRules.model_validate({}),
        description="Which voxels are analysed:",
    )
    OutputCovB: bool = Field(True, description="Write the covariances of beta (p^2 maps).")
    minlog: Number = Field(
        DEFAULT_MINLOG,
        description="Infinite -log10 p become |minlog| or -|minlog|; default -323.3062153431158.",
    )
    maxnvb: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Most voxel blocks, memory permitting."
    )
    zero_is_missing: bool = Field(True, description="Whether a value of exactly 0 is missing.")
    two_sided: bool = Field(False, description="Two-sided p-values of T contrasts.")
    work_dir: FilePath | None = Field(
        None, description="Folder for intermediate files, kept for resuming; default outdir/work."
    )
    compress: bool = Field(False, description="Write .nii.gz instead of .nii.")
    images_per_batch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Images read by one node; planned if absent."
    )
    voxels_per_block: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Voxels fitted by one node; planned if absent."
    )
    sim: bool = Field(False, description="Print no summary when the run ends.")
    versions: dict[str, str] | None = Field(None, description="Written to inputs.yml; not read.")

    statType: Any = _ignored()
    logdir: Any = _ignored()
    voxelBatching: Any = _ignored()
    diskMem: Any = _ignored()
    name: Any = _ignored()
    q: Any = _ignored()

    @field_validator("contrasts", mode="before")
    @classmethod
    def _normalise_contrasts(cls, value: Any) -> Any:
        return normalise_contrasts(value)

    @field_validator("clusterType", mode="before")
    @classmethod
    def _check_cluster(cls, value: Any) -> str:
        cluster = str(value).strip().lower()
        if cluster in CLUSTER_TYPES:
            raise ValueError(f"{value!r} is not available yet; use local")
        if cluster != "local":
            raise ValueError(f"{value!r} is not a cluster type; use local")
        return cluster

    @property
    def work_folder(self) -> Path:
        """Where intermediate files go."""
        return self.work_dir or self.outdir / "work"

    @property
    def notices(self) -> list[str]:
        """One sentence for each field that was given and has no effect."""
        given = [field for field in IGNORED_FIELDS if getattr(self, field) is not None]
        notices = [f"{field} has no effect and is ignored." for field in given]
        if any(c.statType and (c.statType.upper() == "F") != c.is_f for c in self.contrasts):
            notices.append("statType is ignored: one row of weights gives T, several rows F.")
        return notices

    def to_yaml_dict(self) -> dict[str, Any]:
        """Return the fields as plain values from which an equal configuration can be read."""
        data = self.model_dump(mode="json", exclude_none=True, exclude={"contrasts", "versions"})
        minimum = self.Missingness.MinPercent
        if minimum is not None:
            data["Missingness"]["MinPercent"] = _exact_text(minimum)
        data["contrasts"] = [
            {f"c{i}": contrast.model_dump(mode="json", exclude_none=True)}
            for i, contrast in enumerate(self.contrasts, 1)
        ]
        return data


def _exact_text(fraction: Fraction) -> float | str:
    """Return a number that reads back as the same fraction, or text a/b."""
    value = float(fraction)
    return value if Fraction(str(value)) == fraction else str(fraction)


def parse_config(data: Any, base: Path | None = None) -> BlmConfig:
    """Check a configuration.

    Parameters
    ----------
    data : mapping
        The fields, as read from YAML.
    base : path, optional
        Folder against which relative paths are resolved; default the current one.

    Raises
    ------
    InputError
        With every fault of the configuration.
    """
    if not isinstance(data, dict):
        raise InputError("The configuration is not a list of fields such as 'X: design.csv'.")
    data = {str(key): value for key, value in data.items() if value is not None}
    try:
        return BlmConfig.model_validate(data, context={"base": base or Path.cwd()})
    except ValidationError as error:
        raise InputError([_explain(fault) for fault in error.errors()]) from error


def salvage_config(data: Any, base: Path) -> BlmConfig | None:
    """Return what is valid of a faulty configuration, so that its files can be checked too.

    Images or a design without a valid value are None, contrasts empty, outdir is `base`.
    """
    if not isinstance(data, dict):
        return None
    data = {str(key): value for key, value in data.items() if value is not None}
    try:
        return BlmConfig.model_validate(data, context={"base": base})
    except ValidationError as error:
        for field in {str(fault["loc"][0]) for fault in error.errors()}:
            data.pop(field, None)
    spare = {"Y_files": base, "X": base, "outdir": base, "contrasts": [{"vector": [1]}]}
    config = BlmConfig.model_validate(spare | data, context={"base": base})
    empty = {"Y_files": None, "X": None, "contrasts": ()}
    return config.model_copy(update={k: v for k, v in empty.items() if k not in data})


def _explain(fault: Any) -> str:
    """Turn one of pydantic's errors into a sentence."""
    location = [str(part) for part in fault["loc"] if not str(part).startswith("function-")]
    field = _name_field(location)
    match fault["type"]:
        case "missing":
            return f"{field} is missing; it is a mandatory field."
        case "extra_forbidden":
            return _explain_unknown(location)
        case "value_error":
            message = str(fault["ctx"]["error"])
        case "model_type" | "model_attributes_type":
            message = f"{fault['input']!r} was given; expected fields such as MinN: 10"
        case _:
            message = f"{fault['input']!r} was given: {fault['msg'].lower()}"
    return f"{field}: {message}."


def _explain_unknown(location: list[str]) -> str:
    *parents, field = location
    model: type[BaseModel] = BlmConfig
    if "Missingness" in parents:
        model = MissingnessRules
    elif "contrasts" in parents:
        model = Contrast
    known = {name.lower(): name for name in model.model_fields}
    if not parents:
        known |= {name.lower(): f"Missingness.{name}" for name in MissingnessRules.model_fields}
    nearest = difflib.get_close_matches(field.lower(), known, n=1, cutoff=0)
    return (
        f"{_name_field(location)} is not a known field; "
        f"the nearest known one is {known[nearest[0]]}."
    )


def _name_field(location: list[str]) -> str:
    """Return how a user would name a field: ``contrast 2: vector``, ``Missingness.MinN``."""
    match location:
        case ["contrasts", number, *rest] if number.isdigit():
            return ": ".join([f"contrast {int(number) + 1}", *rest[:1]])
    return ".".join(location)
