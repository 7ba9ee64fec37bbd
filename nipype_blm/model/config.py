"""What a user asks for: every field of a configuration, checked all at once."""

import difflib
import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

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

from nipype_blm.core.lmm.estimates import METHODS, MixedOptions
from nipype_blm.errors import InputError, shorten, show
from nipype_blm.model.arithmetic import parse_number
from nipype_blm.model.contrasts import Contrast, hold_place, normalise_contrasts, write_text

CLUSTER_TYPES = ("htcondor", "local", "lsf", "moab", "oar", "pbs", "sge", "slurm")
# Files of BLM-py and BLMM-py have these; they change nothing.
IGNORED_FIELDS = ("statType", "logdir", "voxelBatching", "diskMem", "name", "q")
DEFICIENT = ("refuse", "estimable")
KEEP = ("contrasts", "all", "nothing")
MATCH_ROWS = ("check", "by_name", "by_order")
PLAN_FOLDER = "plan_files"  # in that of the workflow
MOST = 2**31 - 1  # of anything that is counted
DEFAULT_MAXMEM = 2**32
DEFAULT_WORKERS = 10
DEFAULT_MINLOG = -323.3062153431158
_MOST_FAULTS = 20  # that are said, of a file that may be no configuration at all

_LONGEST_PATH, _LONGEST_PART = 4000, 255  # bytes
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})(?=/|$)")
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_WINDOWS = re.compile(r"[a-zA-Z]:[\\/]|\\\\")


def resolve_path(text: str | Path, base: Path) -> Path:
    """Return an absolute path; a relative one starts from the folder `base`.

    ``~`` and a variable of the environment, such as ``$HOME``, may stand at its start.

    Raises
    ------
    ValueError
        If it cannot be a path on this machine.
    """
    given = str(text)
    if fault := _find_fault(given):
        raise ValueError(f"{show(given)} {fault}")
    found = _VARIABLE.match(given)
    if found:
        name = found[1].strip("{}")
        if name not in os.environ:
            raise ValueError(f"{show(given)} starts with a variable that is not set, {name}")
        given = os.environ[name] + given[found.end() :]
    try:
        return Path(base, Path(given).expanduser()).absolute()
    except RuntimeError as error:  # of ~name
        raise ValueError(f"{show(given)}: {error}") from error


def _find_fault(text: str) -> str | None:
    """Return why text is no path; a name on disk may hold any other character."""
    if "\0" in text:
        return "has a null byte; remove it"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "is not in UTF-8; rename the file"
    if len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_PART:
        return "is too long for a path"
    if url := _URL.match(text):
        return f"is a {url[1]} URL; give the path of a file on this machine"
    if _WINDOWS.match(text):
        return "is a path of Windows; write it as this machine does, such as /mnt/c/data"
    return None


def _resolve(value: Any, info: ValidationInfo) -> Path:
    """Resolve a relative path against the folder of the configuration file."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError(f"{show(value)} is not a path")
    return resolve_path(value, (info.context or {}).get("base", Path.cwd()))


def _resolve_all(value: Any, info: ValidationInfo) -> Any:
    """Resolve one path, or several."""
    if isinstance(value, list | tuple) and value:
        return tuple(_resolve(item, info) for item in value)
    return _resolve(value, info)


def _parse_bytes(value: Any) -> int:
    hint = "give bytes, as a number or as text such as 2**32"
    try:
        n_bytes = parse_number(value)
    except ValueError as error:
        raise ValueError(f"{error}; {hint}") from error
    if n_bytes < 1:
        raise ValueError(f"{show(value)} is not a positive number; {hint}")
    if n_bytes > _MOST_BYTES:
        raise ValueError(f"{show(value)} is more than any machine has; {hint}")
    return int(n_bytes)


def _parse_fraction(value: Any) -> Fraction:
    """Read 0.1 or "10%" exactly, so that 0.28 of 50 images is 14."""
    text = value.strip() if isinstance(value, str) else repr(value)
    percent = text.endswith("%")
    try:
        if len(text) > _LONGEST_FRACTION or _HUGE_EXPONENT.search(text):
            raise ValueError("takes all memory")
        fraction = Fraction(text.rstrip("% "))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{show(value)} is neither a fraction nor a percentage") from error
    fraction = fraction / 100 if percent else fraction
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"{show(value)} is outside 0 to 1; give a fraction such as 0.1, "
            'or a percentage such as "10%"'
        )
    return fraction


_LONGEST_FRACTION, _HUGE_EXPONENT = 100, re.compile(r"e[-+]?\d{4}", re.IGNORECASE)
_MOST_BYTES = 2**1000  # more than that no float holds


def _parse_tolerance(value: Any) -> float:
    tolerance = parse_number(value)
    if tolerance <= 0:
        raise ValueError(f"{show(value)} is not above 0; give a small number such as 1e-6")
    return tolerance


def _parse_minutes(value: Any) -> float:
    minutes = parse_number(value)
    if minutes <= 0:
        raise ValueError(f"{show(value)} is not a positive number of minutes, such as 10")
    return minutes


def _parse_method(value: Any) -> str:
    methods = {method.lower(): method for method in METHODS}
    method = methods.get(str(value).strip().lower())
    if method is None:
        raise ValueError(f"{show(value)} is not a method; choose one of {', '.join(METHODS)}")
    return method


def _one_of(choices: tuple[str, ...]) -> BeforeValidator:
    """Return what reads one of several words, however it is written."""

    def parse(value: Any) -> str:
        choice = str(value).strip().lower().replace("-", "_")
        if choice not in choices:
            raise ValueError(f"{show(value)} was given; choose one of {', '.join(choices)}")
        return choice

    return BeforeValidator(parse)


def _refuse_truth(value: Any) -> Any:
    """Refuse true where a number is expected; it would count as 1."""
    if isinstance(value, bool):
        raise ValueError(f"{show(value)} was given; expected a whole number")
    return value


FilePath = Annotated[Path, BeforeValidator(_resolve)]
# The tuple first: old versions of pydantic write the text of a whole tuple for a Path.
FilePaths = Annotated[tuple[Path, ...] | Path, BeforeValidator(_resolve_all)]
Bytes = Annotated[int, BeforeValidator(_parse_bytes)]
Number = Annotated[float, BeforeValidator(parse_number)]
Count = Annotated[int, BeforeValidator(_refuse_truth), Field(ge=1, le=MOST)]
Text = Annotated[str, BeforeValidator(write_text), Field(min_length=1)]


def _ignored() -> Any:
    return Field(None, description="Accepted without effect.")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class MissingnessRules(_Model):
    """Which voxels are analysed, by how many images have data there."""

    MinPercent: Annotated[Fraction, BeforeValidator(_parse_fraction)] | None = Field(
        None, description='Least share of the images: a fraction (0.1) or a percentage ("10%").'
    )
    MinN: Annotated[int, BeforeValidator(_refuse_truth), Field(ge=0, le=MOST)] | None = Field(
        None, description="Least number of images."
    )
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


class ModelConfig(_Model):
    """The fields that all models share."""

    _workflow: ClassVar[str] = "blm_wf"

    Y_files: FilePaths = Field(description="Text file with one image a line, or one 4D image.")
    X: FilePath = Field(
        description="Design matrix: CSV, TSV or whitespace table, one row for each image."
    )
    outdir: FilePath = Field(description="Folder for the results; made if need be.")
    contrasts: tuple[Contrast, ...] = Field(
        description="Contrasts c1, c2, ..., each with a name and a vector."
    )
    row_names: Text | None = Field(
        None,
        description="Header, or number, of the column of X that names the rows; none: every column "
        "is a regressor.  If absent, a first column of text names them.",
    )
    match_rows: Annotated[str, _one_of(MATCH_ROWS)] = Field(
        "check",
        description="How rows and images are matched: check (default) refuses names of rows that "
        "contradict those of the images, by_name sorts rows by them, by_order ignores them.",
    )
    clusterType: str = Field(
        "local",
        description="Where to run: local (the default), or on workers that are jobs of slurm, "
        "sge, pbs, lsf, htcondor, oar or moab.",
    )
    numNodes: Count | None = Field(
        None,
        description="Threads to use; default: the cores available.  On a cluster: most workers "
        "at a time; default 10.",
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
    maxnvb: Count | None = Field(None, description="Most voxel blocks, memory permitting.")
    zero_is_missing: bool = Field(True, description="Whether a value of exactly 0 is missing.")
    deficient: Annotated[str, _one_of(DEFICIENT)] = Field(
        "refuse",
        description="If columns of X depend on each other: refuse (default), or estimable: fit X "
        "as it is, and test the contrasts that are estimable.",
    )
    two_sided: bool = Field(False, description="Two-sided p-values of T contrasts.")
    work_dir: FilePath | None = Field(
        None, description="Folder for intermediate files, kept for resuming; default outdir/work."
    )
    keep: Annotated[str, _one_of(KEEP)] = Field(
        "contrasts",
        description="Intermediate files that stay when a run has ended well: contrasts (default), "
        "the estimates, so that new contrasts fit nothing; all, also what a replaced image "
        "needs; or nothing.",
    )
    compress: bool = Field(False, description="Write .nii.gz instead of .nii.")
    overwrite: bool = Field(
        False,
        description="Replace the maps of another model that was run with another work_dir.",
    )
    allow_empty: bool = Field(
        False, description="Accept a result without any voxel that could be fitted."
    )
    images_per_batch: Count | None = Field(
        None, description="Images read by one node; planned if absent."
    )
    voxels_per_block: Count | None = Field(
        None, description="Voxels fitted by one node; planned if absent."
    )
    minutes_per_job: Annotated[float, BeforeValidator(_parse_minutes)] | None = Field(
        None,
        description="Least minutes of one core for a batch and for a block, memory permitting; "
        "for schedulers that run one job for each node.",
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
        if cluster not in CLUSTER_TYPES:
            valid = ", ".join(CLUSTER_TYPES)
            raise ValueError(f"{show(value)} is not a cluster type; choose one of {valid}")
        return cluster

    @property
    def parallel_nodes(self) -> int:
        """Nodes that run at the same time; on this machine there are threads instead."""
        return 1 if self.clusterType == "local" else self.numNodes or DEFAULT_WORKERS

    @property
    def work_folder(self) -> Path:
        """Where intermediate files go."""
        return self.work_dir or self.outdir / "work"

    @property
    def workflow_folder(self) -> Path:
        """Folder of the workflow's nodes; what they leave there may be deleted or replaced."""
        return self.work_folder / self._workflow

    @property
    def plan_folder(self) -> Path:
        """Where the plan goes; runs with the same one follow each other."""
        return self.workflow_folder / PLAN_FOLDER

    @property
    def notices(self) -> list[str]:
        """One sentence for each field that was given and has no effect."""
        given = [field for field in IGNORED_FIELDS if getattr(self, field) is not None]
        notices = [f"{field} has no effect and is ignored." for field in given]
        if any(c.statType and (c.statType.upper() == "F") != c.is_f for c in self.contrasts):
            notices.append("statType is ignored: one row of weights gives T, several rows F.")
        return notices

    def to_yaml_dict(self) -> dict[str, Any]:
        """Return the fields as plain values from which an equal configuration can be read.

        Those without effect are left out.
        """
        unwritten = {"contrasts", "versions", *IGNORED_FIELDS}
        data = self.model_dump(mode="json", exclude_none=True, exclude=unwritten)
        minimum = self.Missingness.MinPercent
        if minimum is not None:
            data["Missingness"]["MinPercent"] = _exact_text(minimum)
        data["contrasts"] = [
            {f"c{i}": contrast.model_dump(mode="json", exclude_none=True)}
            for i, contrast in enumerate(self.contrasts, 1)
        ]
        return data


class BlmConfig(ModelConfig):
    """A Big Linear Model: BLM-py's configuration, and a few fields more."""


class FactorConfig(_Model):
    """One random factor."""

    name: Text = Field(description="A name; the key (f1, f2, ...) if absent.")
    factor: FilePath = Field(
        description="Text file with one label a line: the level of each image.  Labels are text, "
        "taken as given: 5 and 05 differ."
    )
    design: FilePath = Field(
        description="Table of the random effects of a level, one row for each image; a column "
        "of ones is a random intercept."
    )
    correlated: bool = Field(
        True, description="Whether the effects of a level may be correlated (default)."
    )
    nested_in: Text | None = Field(
        None,
        description="Name of the factor within whose levels these labels are unique.",
    )


class BlmmConfig(ModelConfig):
    """A Big Linear Mixed Model: BLMM-py's configuration, and a few fields more."""

    _workflow: ClassVar[str] = "blmm_wf"

    Z: tuple[FactorConfig, ...] = Field(description="Random factors f1, f2, ..., each with:")
    method: Annotated[str, BeforeValidator(_parse_method)] = Field(
        "exact",
        description="exact (default: Newton steps to a certified optimum), "
        "or Fisher scoring: pSFS, SFS, pFS, FS.",
    )
    reml: bool = Field(
        True, description="Restricted maximum likelihood (default); false: maximum likelihood."
    )
    tol: Annotated[float, BeforeValidator(_parse_tolerance)] = Field(
        1e-6, description="Iterations end when the log-likelihood gains less; default 1e-6."
    )
    maxnit: Count = Field(10000, description="Most iterations at a voxel; default 10000.")
    n_starts: Annotated[Count, Field(le=8)] | None = Field(
        None,
        description="Starting values tried at a voxel, 1 to 8; chosen by the levels if absent.",
    )
    safeMode: bool = Field(
        True, description="Drop voxels with no more images than random effects (default)."
    )
    resms: bool = Field(False, description="Write blmm_vox_resms.")

    @field_validator("Z", mode="before")
    @classmethod
    def _normalise_factors(cls, value: Any) -> Any:
        return normalise_factors(value)

    @field_validator("Z")
    @classmethod
    def _check_nesting(cls, value: tuple[FactorConfig, ...]) -> tuple[FactorConfig, ...]:
        problems = check_nesting(value)
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @property
    def estimation(self) -> MixedOptions:
        """How the model is estimated."""
        return MixedOptions(
            reml=self.reml,
            method=self.method,
            tol=self.tol,
            maxnit=self.maxnit,
            safe_mode=self.safeMode,
            n_starts=self.n_starts,
        )

    def to_yaml_dict(self) -> dict[str, Any]:
        """Return the fields as plain values from which an equal configuration can be read."""
        factors = [factor.model_dump(mode="json", exclude_none=True) for factor in self.Z]
        named = [{f"f{i}": factor} for i, factor in enumerate(factors, 1)]
        return super().to_yaml_dict() | {"Z": named}


def normalise_factors(value: Any) -> list[dict[str, Any]]:
    """Return random factors as a list of mappings with `name`, `factor` and `design`.

    Accepts BLMM's ``[{f1: {name, factor, design}}, ...]``, ``{f1: {name, factor, design},
    ...}``, ``[{name, factor, design}, ...]`` and one factor by itself.
    """
    if isinstance(value, dict):
        is_one = not any(isinstance(body, dict) for body in value.values())
        value = [value] if is_one else [{key: body} for key, body in value.items()]
    if not isinstance(value, list | tuple) or not any(value):
        raise ValueError(
            f"{show(value)} was given; expected a list of random factors, each with name, factor "
            "and design; use blm for a model without any"
        )
    return [_normalise_factor(item, number) for number, item in enumerate(value, 1)]


def _normalise_factor(item: Any, number: int) -> dict[str, Any]:
    name = f"f{number}"
    if isinstance(item, FactorConfig):
        return item.model_dump()
    if isinstance(item, dict) and len(item) == 1:
        [(key, body)] = item.items()
        if isinstance(body, dict):
            name, item = str(key), body
    if not isinstance(item, dict):
        raise ValueError(
            f"factor {number} is {show(item)}; expected a mapping with name, factor and design"
        )
    # "f1:" with its fields not indented below it has the value None.
    return {"name": name} | {str(k): v for k, v in item.items() if v is not None}


def check_nesting(factors: Sequence[FactorConfig]) -> list[str]:
    """Return what is wrong with the names of factors and with what they are nested in."""
    problems = []
    names = [factor.name for factor in factors]
    outer = {factor.name: factor.nested_in for factor in factors}
    for number, factor in enumerate(factors, 1):
        first = names.index(factor.name) + 1
        if first < number:
            problems.append(
                f"f{number} has the name of f{first}, {show(factor.name)}; names must differ"
            )
        elif factor.nested_in not in (None, *names):
            others = ", ".join(show(name) for name in names if name != factor.name)
            problems.append(
                f"f{number} is nested_in {show(factor.nested_in)}, which is no other factor"
                + (f"; choose one of {others}" if others else "")
            )
        elif _is_within_itself(factor.name, outer):
            problems.append(
                f"f{number} is nested_in {show(factor.nested_in)}, and so within itself"
            )
    return problems


def _is_within_itself(name: str, outer: dict[str, str | None]) -> bool:
    """Return whether the factors that one is nested in lead back to it."""
    above = outer[name]
    for _ in outer:  # a circle that does not hold `name` has no end
        if above is None or above == name:
            break
        above = outer.get(above)
    return above == name


NESTED_FIELDS: dict[str, type[BaseModel]] = {
    "contrasts": Contrast,
    "Missingness": MissingnessRules,
    "Z": FactorConfig,
}
ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def _exact_text(fraction: Fraction) -> float | str:
    """Return a number that reads back as the same fraction, or text a/b."""
    value = float(fraction)
    return value if Fraction(str(value)) == fraction else str(fraction)


def parse_config(data: Any, base: Path | None = None, *, model: type[ConfigT]) -> ConfigT:
    """Check a configuration.

    Parameters
    ----------
    data : mapping
        The fields, as read from YAML.
    base : path, optional
        Folder against which relative paths are resolved; default the current one.
    model : type
        `BlmConfig` or `BlmmConfig`.

    Raises
    ------
    InputError
        With every fault of the configuration.
    """
    if not isinstance(data, dict):
        raise InputError("The configuration is not a list of fields such as 'X: design.csv'.")
    data = {str(key): value for key, value in data.items() if value is not None}
    try:
        return model.model_validate(data, context={"base": base or Path.cwd()})
    except ValidationError as error:
        faults = [_explain(fault, model) for fault in error.errors()[:_MOST_FAULTS]]
        more = error.error_count() - len(faults)
        if more:
            faults.append(f"{more} more fields of the configuration cannot be used.")
        raise InputError(faults) from error


def salvage_config(data: Any, base: Path, *, model: type[ConfigT]) -> ConfigT | None:
    """Return what is valid of a faulty configuration, so that its files can be checked too.

    Images or a design without a valid value are None, contrasts and random factors empty,
    outdir is `base`.  Of contrasts and of Missingness only what is not valid is left out; in
    place of a contrast is one without weights.
    """
    if not isinstance(data, dict):
        return None
    data = {str(key): value for key, value in data.items() if value is not None}
    contrasts: tuple[Contrast, ...] = ()
    try:
        return model.model_validate(data, context={"base": base})
    except ValidationError as error:
        places = [fault["loc"] for fault in error.errors()]
    for field in {str(place[0]) for place in places}:
        value = data.pop(field, None)
        inner = {place[1] for place in places if place[0] == field and len(place) > 1}
        if field == "contrasts" and inner:
            items = enumerate(normalise_contrasts(value))
            contrasts = tuple(hold_place(c) if i in inner else Contrast(**c) for i, c in items)
        elif field == "Missingness" and inner:
            faulty = {str(name).lower() for name in inner}
            data[field] = {k: v for k, v in value.items() if str(k).lower() not in faulty}
    spare = {"Y_files": base, "X": base, "outdir": base, "contrasts": [{"vector": [1]}]}
    empty: dict[str, Any] = {"Y_files": None, "X": None, "contrasts": contrasts}
    if "Z" in model.model_fields:
        spare |= {"Z": [{"factor": base, "design": base}]}
        empty |= {"Z": ()}
    config = model.model_validate(spare | data, context={"base": base})
    return config.model_copy(update={k: v for k, v in empty.items() if k not in data})


def _explain(fault: Any, model: type[ModelConfig]) -> str:
    """Turn one of pydantic's errors into a sentence."""
    location = [
        shorten(str(part)) for part in fault["loc"] if not str(part).startswith("function-")
    ]
    field = _name_field(location)
    match fault["type"]:
        case "missing":
            hint = ", or use blm for a model without random factors" if field == "Z" else ""
            return f"{field} is missing; it is a mandatory field{hint}."
        case "extra_forbidden":
            return _explain_unknown(location, model)
        case "value_error":
            message = str(fault["ctx"]["error"])
        case "model_type" | "model_attributes_type":
            message = f"{show(fault['input'])} was given; expected fields such as MinN: 10"
        case "int_type" | "int_parsing" | "int_parsing_size" | "int_from_float" | "finite_number":
            message = f"{show(fault['input'])} was given; expected a whole number"
        case "greater_than_equal":
            message = f"{show(fault['input'])} was given; expected at least {fault['ctx']['ge']}"
        case "less_than_equal":
            message = f"{show(fault['input'])} was given; expected at most {fault['ctx']['le']}"
        case "bool_type" | "bool_parsing":
            message = f"{show(fault['input'])} was given; expected true or false"
        case "string_too_short":
            message = f"{show(fault['input'])} was given; expected some text"
        case _:
            message = f"{show(fault['input'])} was given: {fault['msg'].lower()}"
    return f"{field}: {message.rstrip('.')}."


def _explain_unknown(location: list[str], model: type[ModelConfig]) -> str:
    *parents, field = location
    if not parents and field in BlmmConfig.model_fields:
        return (
            f"{field} is a field of mixed models; run this configuration with blmm, "
            "or leave the field out."
        )
    nested = NESTED_FIELDS[parents[0]] if parents else model
    known = {name.lower(): name for name in nested.model_fields}
    if not parents:
        known |= {name.lower(): f"Missingness.{name}" for name in MissingnessRules.model_fields}
    nearest = difflib.get_close_matches(field.lower()[:_LONGEST_NAME], known, n=1, cutoff=0)
    return (
        f"{_name_field(location)} is not a known field; "
        f"the nearest known one is {known[nearest[0]]}."
    )


_LONGEST_NAME = 40  # longer than any field


def _name_field(location: list[str]) -> str:
    """Return how a user would name a field.

    Such as ``contrast 2: vector``, ``Z f1 factor`` or ``Missingness.MinN``.
    """
    match location:
        case ["contrasts", number, *rest] if number.isdigit():
            return ": ".join([f"contrast {int(number) + 1}", *rest[:1]])
        case ["Z", number, *rest] if number.isdigit():
            return " ".join([f"Z f{int(number) + 1}", *rest[:1]])
    return ".".join(location)
