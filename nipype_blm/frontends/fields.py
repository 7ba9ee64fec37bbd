"""The single values that a front end is given, checked all at once and named as in `Request`."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

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

from nipype_blm.core.lmm.estimates import METHODS
from nipype_blm.errors import InputError, Problem, Words, shorten, show
from nipype_blm.frontends.contrasts import Vector, normalise_contrasts, parse_vector
from nipype_blm.frontends.factors import normalise_factors
from nipype_blm.frontends.faults import describe_fault, find_nearest
from nipype_blm.frontends.values import (
    Bytes,
    Count,
    CountOrNone,
    Derivatives,
    Diagnostics,
    FilePath,
    FilePaths,
    Filters,
    Number,
    Pattern,
    Share,
    Text,
    TextList,
    above_zero,
    one_of,
    words_of,
)
from nipype_blm.frontends.vest import expand_contrasts
from nipype_blm.model.random import check_nesting
from nipype_blm.model.request import DEFAULT_MAX_BYTES, DEFAULT_MINLOG, DEFICIENT, KEEP, MATCH_ROWS
from nipype_blm.model.study import COLUMN_KINDS, ON_MISSING

CLUSTER_TYPES = ("htcondor", "local", "lsf", "moab", "oar", "pbs", "sge", "slurm")
_NO_CONTRASTS = [{"name": "none", "vector": [1]}]  # hold the place of what is at fault


class _Model(BaseModel):
    # Of the kinds of models, a run builds the validators of one: that which it uses.
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True
    )


def _read_inference(value: Any, info: ValidationInfo) -> dict[str, Any] | None:
    """Check what is asked of an inference; true asks for what is usual."""
    from nipype_blm.frontends.inference import InferenceFields, make_inference_options

    given = {} if value is True else value
    if given is False:
        return None
    if not isinstance(given, dict):
        raise ValueError(f"{show(value)} was given; expected true, or fields such as n: 5000")
    try:
        options = make_inference_options(given, str, (info.context or {}).get("base"))
    except InputError as error:
        raise ValueError("; ".join(str(each).rstrip(".") for each in error.problems)) from error
    packed = options.pack()
    return {name: packed[name] for name in InferenceFields.model_fields if name in given}


class ContrastFields(_Model):
    """One contrast."""

    name: Text | None = Field(
        None, description="A name; it labels the outputs.  Default: the expression."
    )
    vector: Vector | tuple[Vector, ...] | None = Field(
        None, description="One row of weights gives a T test, a list of rows an F test."
    )
    expression: Text | None = Field(
        None, description="With a formula, in place of the vector: such as age, or sex[M] - sex[F]."
    )
    stat_type: str | None = Field(default=None, description="Accepted; the vector decides.")

    @field_validator("vector", mode="before")
    @classmethod
    def _parse_vector(cls, value: Any) -> Any:
        return parse_vector(value)

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.vector is None and self.expression is None:
            raise ValueError("vector is missing; give the weights, or an expression")
        if self.vector is not None and self.expression is not None:
            raise ValueError("both a vector and an expression were given; leave out one of them")
        return self


class FactorFields(_Model):
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


class CommonFields(_Model):
    """What all requests share: which values count, what is written, where, and with what."""

    out_dir: FilePath = Field(description="Folder for the results; made if need be.")
    cluster: Annotated[str, one_of(CLUSTER_TYPES, "is not a cluster type")] = Field(
        "local",
        description="Where to run: local (the default), or on workers that are jobs of slurm, "
        "sge, pbs, lsf, htcondor, oar or moab.",
    )
    n_threads: Count | None = Field(None, description="Threads to use; default: all cores.")
    n_workers: Count | None = Field(None, description="Most workers at a time; default 10.")
    analysis_mask: FilePath | None = Field(
        None, description="Mask image; inside it means finite and not zero."
    )
    max_bytes: Bytes = Field(
        DEFAULT_MAX_BYTES, description='Memory to use, in bytes; a number or "2**32" (default).'
    )
    threshold: Number | None = Field(None, description="Values below this are missing.")
    min_percent: Share | None = Field(
        None, description='Least share of the images: a fraction (0.1) or a percentage ("10%").'
    )
    min_n: CountOrNone | None = Field(None, description="Least number of images.")
    post_mask: FilePath | None = Field(
        None, description="Post-analysis mask: voxels outside it leave the result."
    )
    with_cov: bool = Field(True, description="Write the covariances of beta (p^2 maps).")
    minlog: Number = Field(
        DEFAULT_MINLOG,
        description="Infinite -log10 p become |minlog| or -|minlog|; default -323.3062153431158.",
    )
    max_blocks: Count | None = Field(None, description="Most voxel blocks, memory permitting.")
    zero_is_missing: bool = Field(True, description="Whether a value of exactly 0 is missing.")
    deficient: Annotated[str, one_of(DEFICIENT)] = Field(
        "refuse",
        description="If columns of X depend on each other: refuse (default), or estimable: fit X "
        "as it is, and test the contrasts that are estimable.",
    )
    two_sided: bool = Field(False, description="Two-sided p-values of T contrasts.")
    work_dir: FilePath | None = Field(
        None,
        description="Folder for intermediate files, kept for resuming; default: work, in that "
        "for the results.",
    )
    keep: Annotated[str, one_of(KEEP)] = Field(
        "contrasts",
        description="Intermediate files that stay when a run has ended well: contrasts (default), "
        "the estimates, so that new contrasts fit nothing; all, also what a replaced image "
        "needs; tiles, all and the values of the images by voxel, so that another model of them "
        "reads no images; or nothing.",
    )
    inference: Annotated[dict[str, Any] | None, BeforeValidator(_read_inference)] = Field(
        None,
        description="Correct p for the number of voxels once the maps are there: true, or options "
        "of `nipype-blm infer`, such as {n: 5000, summaries: [voxel, tfce]}.",
    )
    diagnostics: Diagnostics = Field(
        None,
        description="Say what the model leaves once the maps are there, as `nipype-blm diagnose`: "
        "true, or what is saved of each image or level, such as {save: [residuals, blups]}.",
    )
    report: bool | None = Field(
        None,
        description="Write report.html when the run ends; default: nipype-blm fit does, blm and "
        "blmm do not.",
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
    minutes_per_job: (
        Annotated[float, above_zero("a positive number of minutes, such as 10")] | None
    ) = Field(
        None,
        description="Least minutes of one core for a batch and for a block, memory permitting; "
        "for schedulers that run one job for each node.",
    )
    quiet: bool = Field(False, description="Print no summary when the run ends.")

    @field_validator("contrasts", mode="before", check_fields=False)
    @classmethod
    def _normalise_contrasts(cls, value: Any, info: ValidationInfo) -> Any:
        return _rename(normalise_contrasts(value), "contrasts", words_of(info))

    def plain(self) -> dict[str, Any]:
        """Return the fields that have a value, as text and numbers that are read as the same."""
        # Not every version of pydantic has a text for fractions.
        data = self.model_dump(mode="json", exclude_none=True, exclude={"min_percent"})
        if self.min_percent is not None:
            data["min_percent"] = _exact_text(self.min_percent)
        for contrast in data["contrasts"]:
            contrast.pop("stat_type", None)
        for name in ("inference", "diagnostics"):
            if data.get(name) == {}:
                data[name] = True
        return {name: value for name, value in data.items() if value not in ([], {})}


class Fields(CommonFields):
    """A linear model, of which X and the images are given."""

    images: FilePaths = Field(description="Text file with one image a line, or one 4D image.")
    X: FilePath = Field(
        description="Design matrix: CSV, TSV or whitespace table, one row for each image."
    )
    contrasts: tuple[ContrastFields, ...] = Field(
        description="Contrasts c1, c2, ..., each with a name and a vector; or a .con of FSL."
    )
    f_contrasts: FilePath | None = Field(
        None,
        description="A .fts of FSL: F contrasts that combine rows of the .con in contrasts.",
    )
    row_names: Text | None = Field(
        None,
        description="Header, or number, of the column of X that names the rows; none: every column "
        "is a regressor.  If absent, a first column of text names them.",
    )
    match_rows: Annotated[str, one_of(MATCH_ROWS)] = Field(
        "check",
        description="How rows and images are matched: check (default) refuses names of rows that "
        "contradict those of the images, by_name sorts rows by them, by_order ignores them.",
    )
    data_masks: FilePaths | None = Field(
        None, description="Text file with one mask a line, for each image in turn."
    )


class FormulaFields(CommonFields):
    """A model that a formula makes of a table, whose rows say which image is theirs."""

    formula: Text = Field(
        description='Model in words of the table, such as "~ age + sex + (1 | subject)"; with '
        "( | ) it is a mixed model."
    )
    table: FilePath | None = Field(
        None, description="Table of covariates, CSV or TSV: one row for each image."
    )
    pattern: Pattern | None = Field(
        None,
        description="Where the image of a row is: a path with names of columns in braces, such as "
        '"maps/{participant_id}.nii.gz", or the column that has it; default: image.',
    )
    images: FilePaths | None = Field(
        None, description="Instead, a list of images, whose names say to which row they belong."
    )
    data_masks: Pattern | None = Field(
        None, description="Where the mask of the data of a row is, given as that of its image."
    )
    bids: FilePath | None = Field(
        None, description="BIDS data set, which has the images and the table, in place of both."
    )
    derivatives: Derivatives | None = Field(
        None, description="Its derivatives to take images from: names or folders; default: all."
    )
    filters: Filters = Field(
        {}, description="Entities that its images must have, such as space: MNI152NLin6Asym."
    )
    participants: TextList | None = Field(
        None, description="Its participants, with or without sub-; default: all."
    )
    own_masks: bool = Field(
        True, description="Whether each image's own brain mask is the mask of its data, if any."
    )
    columns: dict[str, Annotated[str, one_of(COLUMN_KINDS)]] = Field(
        {}, description="Columns whose kind is not as it looks: categorical or numeric."
    )
    contrasts: tuple[ContrastFields, ...] = Field(
        (),
        description="Contrasts of the coefficients, as expressions; default: the effect of each "
        "term of the formula.",
    )
    on_missing: Annotated[str, one_of(ON_MISSING)] = Field(
        "refuse", description="Rows with a missing covariate: refuse (default) or drop them."
    )
    on_missing_image: Annotated[str, one_of(ON_MISSING)] = Field(
        "refuse", description="Rows without an image: refuse (default) or drop them."
    )


class MixedOptionFields(_Model):
    """How a mixed model is fitted."""

    method: Annotated[str, one_of(METHODS, "is not a method")] = Field(
        "exact",
        description="exact (default: Newton steps to a certified optimum), "
        "or Fisher scoring: pSFS, SFS, pFS, FS.",
    )
    reml: bool = Field(
        True, description="Restricted maximum likelihood (default); false: maximum likelihood."
    )
    tol: Annotated[float, above_zero("above 0; give a small number such as 1e-6")] = Field(
        1e-6, description="Iterations end when the log-likelihood gains less; default 1e-6."
    )
    maxnit: Count = Field(10000, description="Most iterations at a voxel; default 10000.")
    n_starts: Annotated[Count, Field(le=8)] | None = Field(
        None,
        description="Starting values tried at a voxel, 1 to 8; chosen by the levels if absent.",
    )
    safe_mode: bool = Field(
        True, description="Drop voxels with no more images than random effects (default)."
    )
    with_resms: bool = Field(False, description="Write blmm_vox_resms.")


class MixedFields(MixedOptionFields, Fields):
    """A mixed model, of which X, Z and the images are given."""

    factors: tuple[FactorFields, ...] = Field(description="Random factors f1, f2, ..., each with:")

    @field_validator("factors", mode="before")
    @classmethod
    def _normalise_factors(cls, value: Any) -> Any:
        return normalise_factors(value)

    @field_validator("factors")
    @classmethod
    def _check_nesting(cls, value: tuple[FactorFields, ...]) -> tuple[FactorFields, ...]:
        problems = check_nesting([(each.name, each.nested_in) for each in value])
        if problems:
            raise ValueError("; ".join(problems))
        return value


class MixedFormulaFields(MixedOptionFields, FormulaFields):
    """A mixed model that a formula makes of a table."""


MODELS: Mapping[str, type[Fields]] = {"blm": Fields, "blmm": MixedFields}
FORMULA_MODELS: Mapping[str, type[FormulaFields]] = {
    "blm": FormulaFields,
    "blmm": MixedFormulaFields,
}
_ALL = {name for kind in (MixedFields, MixedFormulaFields) for name in kind.model_fields}
# With one of these a model is made of a formula.
OF_FORMULA = ("formula", "table", "bids")
ENTRIES: Mapping[str, type[BaseModel]] = {"contrasts": ContrastFields, "factors": FactorFields}


def _rename(items: list[dict[str, Any]], field: str, words: Words) -> list[dict[str, Any]]:
    """Return mappings whose entries have our names instead of those of a front end."""
    ours = {words.name(f"{field}.{name}"): name for name in ENTRIES[field].model_fields}
    return [{ours.get(key, key): value for key, value in item.items()} for item in items]


def _exact_text(fraction: Fraction) -> float | str:
    """Return a number that reads back as the same fraction, or text a/b."""
    value = float(fraction)
    return value if Fraction(str(value)) == fraction else str(fraction)


class Checked(NamedTuple):
    """The fields of a model, and what is wrong with them.

    Of what is wrong only that is left out: images or X without a valid value are None, random
    factors empty, `out_dir` is where relative paths start; in the place of a contrast is one
    without weights.
    """

    fields: Fields | FormulaFields
    problems: list[Problem]


def choose_fields(model: str, given: Iterable[str]) -> type[Fields] | type[FormulaFields]:
    """Return the fields that a model may have, by those that are given."""
    return (MODELS if set(OF_FORMULA).isdisjoint(given) else FORMULA_MODELS)[model]


def check_fields(
    data: Mapping[str, Any], model: str, words: Words, base: Path | None = None
) -> Checked:
    """Check the values of fields.

    Parameters
    ----------
    data : mapping
        Fields by their names here; those that are None count as not given.
    model : str
        ``blm`` or ``blmm``.
    words : Words
        Of the front end that was given them.
    base : Path, optional
        Where relative paths start; default: the current folder.
    """
    given = {name: value for name, value in data.items() if value is not None}
    kind = choose_fields(model, given)
    base = base or Path.cwd()
    context = {"base": base, "words": words}
    problems: list[Problem] = []
    if not issubclass(kind, FormulaFields):
        given, problems = expand_contrasts(given, base, words)
    faults: list[Any] = [{"loc": ("contrasts",)}] if problems else []
    try:
        # Contrasts that are in no file that can be read are at fault, and looked at no more.
        valid = given | ({"contrasts": _NO_CONTRASTS} if problems else {})
        fields = kind.model_validate(valid, context=context)
    except ValidationError as error:
        found = error.errors()
        problems += [_explain(fault, kind, words) for fault in found]
        faults += found
    if not faults:
        return Checked(fields, [])
    return Checked(_salvage(given, kind, context, [fault["loc"] for fault in faults]), problems)


def _salvage(
    data: dict[str, Any],
    kind: type[Fields] | type[FormulaFields],
    context: dict[str, Any],
    places: list[Any],
) -> Fields | FormulaFields:
    """Return what is valid of faulty fields, so that its files can be checked too."""
    base = context["base"]
    spare: dict[str, Any] = {
        **{"images": base, "X": base, "out_dir": base, "contrasts": _NO_CONTRASTS},
        **{"formula": "1", "factors": [{"factor": base, "design": base}]},
    }
    spare = {name: value for name, value in spare.items() if name in kind.model_fields}
    nothing: dict[str, Any] = {"contrasts": (), "factors": (), "formula": ""}
    empty = {name: nothing.get(name) for name in spare if name != "out_dir"}
    faulty = {str(place[0]) for place in places}
    inner = {place[1] for place in places if place[0] == "contrasts" and len(place) > 1}
    if inner:
        items = _rename(normalise_contrasts(data["contrasts"]), "contrasts", context["words"])
        empty["contrasts"] = tuple(
            _hold_place(item) if i in inner else ContrastFields(**item)
            for i, item in enumerate(items)
        )
    good = {name: value for name, value in data.items() if name not in faulty}
    fields = kind.model_validate(spare | good, context=context)
    return fields.model_copy(update={k: v for k, v in empty.items() if k not in good})


def _hold_place(item: dict[str, Any]) -> ContrastFields:
    """Return a contrast without weights, in place of one that is not valid."""
    return ContrastFields.model_construct(name=str(item.get("name")), vector=())


def _explain(fault: Any, kind: type[BaseModel], words: Words) -> Problem:
    """Turn one of pydantic's errors into a sentence."""
    field, *entries = [str(part) for part in fault["loc"] if not str(part).startswith("function-")]
    where = _name_place(field, entries)
    match fault["type"]:
        case "missing":
            is_mixed = where == "{factors}"
            hint = ", or use blm for a model without random factors" * is_mixed
            template = f"{where} is missing; it is a mandatory field{hint}."
            return Problem(field, template, entry=_end(entries))
        case "extra_forbidden" if not entries and field in _ALL:
            return Problem(field, f"{where} {_explain_misplaced(field, kind)}.")
        case "extra_forbidden":
            parent = ENTRIES[field] if entries else kind
            return _explain_unknown(fault["loc"], where, parent, words)
    return Problem(field, f"{where}: {{fault}}.", fault=describe_fault(fault), entry=_end(entries))


def _explain_misplaced(field: str, kind: type[BaseModel]) -> str:
    """Return why a field that there is cannot be given beside others."""
    if field in MixedOptionFields.model_fields:
        return "is for mixed models; leave it out, or give the model a random factor"
    if issubclass(kind, FormulaFields):
        return "has no place beside {formula}, which says it; leave out one of them"
    return "is for models of a formula; give {formula} and {table}, too, or leave it out"


def _end(entries: list[str]) -> str:
    return shorten("".join(entries[1:2]))


def _explain_unknown(
    place: Sequence[Any], where: str, parent: type[BaseModel], words: Words
) -> Problem:
    *above, name = (str(part) for part in place)
    names = [".".join([*above[:1], each]) for each in parent.model_fields]
    nearest = find_nearest(name, {words.name(each).lower(): each for each in names})
    template = f"{where} is not a known field; the nearest known one is {{{nearest}}}."
    return Problem(str(place[0]), template, entry=shorten(name))


def _name_place(field: str, entries: list[str]) -> str:
    """Return how a template names a field, such as ``contrast 2: {entry}``."""
    if not entries or not entries[0].isdigit():
        return f"{{{field}}}"
    number = int(entries[0]) + 1
    if field == "contrasts":
        return f"contrast {number}" + ": {entry}" * (len(entries) > 1)
    return f"{{{field}[{number}]}}" + " {entry}" * (len(entries) > 1)
