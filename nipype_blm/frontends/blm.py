"""The configuration files of BLM and BLMM: their names of fields, and nobody else's."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel

from nipype_blm.errors import InputError, Problem, Words, shorten, show
from nipype_blm.frontends.faults import find_nearest
from nipype_blm.frontends.fields import (
    ENTRIES,
    FORMULA_MODELS,
    MODELS,
    Checked,
    CommonFields,
    Fields,
    FormulaFields,
    check_fields,
)
from nipype_blm.frontends.reading import Origin, make_contrast
from nipype_blm.frontends.requests import make_request
from nipype_blm.frontends.values import is_mixed_formula
from nipype_blm.io.yamlfile import read_yaml
from nipype_blm.model.request import Request

# What a file calls a field, in the order in which they are explained.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "Y_files": "images",
        "X": "X",
        "Z": "factors",
        "formula": "formula",
        "table": "table",
        "images": "pattern",
        "bids": "bids",
        "derivatives": "derivatives",
        "filters": "filters",
        "participants": "participants",
        "own_masks": "own_masks",
        "columns": "columns",
        "on_missing": "on_missing",
        "on_missing_image": "on_missing_image",
        "outdir": "out_dir",
        "contrasts": "contrasts",
        "f_contrasts": "f_contrasts",
        "row_names": "row_names",
        "match_rows": "match_rows",
        "clusterType": "cluster",
        "numNodes": "n_threads",  # and n_workers
        "analysis_mask": "analysis_mask",
        "MAXMEM": "max_bytes",
        "data_mask_files": "data_masks",
        "data_mask_thresh": "threshold",
        "Missingness": "",  # holds fields
        "OutputCovB": "with_cov",
        "minlog": "minlog",
        "maxnvb": "max_blocks",
        "zero_is_missing": "zero_is_missing",
        "deficient": "deficient",
        "two_sided": "two_sided",
        "inference": "inference",
        "diagnostics": "diagnostics",
        "report": "report",
        "work_dir": "work_dir",
        "keep": "keep",
        "compress": "compress",
        "overwrite": "overwrite",
        "allow_empty": "allow_empty",
        "images_per_batch": "images_per_batch",
        "voxels_per_block": "voxels_per_block",
        "minutes_per_job": "minutes_per_job",
        "sim": "quiet",
        "method": "method",
        "reml": "reml",
        "tol": "tol",
        "maxnit": "maxnit",
        "n_starts": "n_starts",
        "safeMode": "safe_mode",
        "resms": "with_resms",
    }
)
MISSINGNESS: Mapping[str, str] = MappingProxyType(
    {"MinPercent": "min_percent", "MinN": "min_n", "Masking": "post_mask"}
)
# Files of BLM-py and BLMM-py have these; they change nothing.
IGNORED = ("statType", "logdir", "voxelBatching", "diskMem", "name", "q")
_NOT_READ = ("versions",)  # of inputs.yml
_MOST_FAULTS = 20  # that are said, of a file that may be no configuration at all


class BlmWords(Words):
    """Words of those who write configuration files."""

    memory_hint = "give bytes, as a number or as text such as 2**32"

    def entry(self, field: str, number: int) -> str:
        """Return what an entry of a list is called, such as Z f1."""
        key = "f" if field == "factors" else ""
        return f"{self.name(field)} {key}{number}"

    def setting(self, field: str, value: Any) -> str:
        """Return how a field is given a value."""
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if field == "filters":
            text = text.replace("=", ": ").replace("/", ", ")
        text = f"{{{text}}}" if field in ("columns", "filters") else text
        return f"{self.name(field)}: {text}"


WORDS = BlmWords(
    {field: name for name, field in NAMES.items()}
    | {field: f"Missingness.{name}" for name, field in MISSINGNESS.items()}
    | {"n_workers": "numNodes"}
    | {"contrasts.stat_type": "statType"}
)


def read(path: Path, model: str | None = "blm", out_dir: Path | None = None) -> Request:
    """Read a configuration file and all that it names but images.

    Parameters
    ----------
    path : Path
    model : str or None
        ``blm`` or ``blmm``; None: as the file says.
    out_dir : Path, optional
        In place of outdir; absolute.

    Returns
    -------
    Request
        What is wrong is in its `faults`.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no fields.
    """
    data = read_yaml(path)
    if model is None:
        model = _choose_model(data)
    fields, problems = check(data, path.absolute().parent, model, out_dir)
    notices = _find_notices(data, fields)
    return make_request(fields, Origin(model, WORDS, problems, notices, to_yaml(fields), path))


def _choose_model(data: Any) -> str:
    """Return which model a configuration has."""
    if not isinstance(data, dict):
        return "blm"
    is_mixed = data.get("Z") is not None or is_mixed_formula(data.get("formula"))
    return "blmm" if is_mixed else "blm"


def check(
    data: Any, base: Path | None = None, model: str = "blm", out_dir: Path | None = None
) -> Checked:
    """Check a configuration.

    Parameters
    ----------
    data : mapping
        The fields, as read from YAML.
    base : Path, optional
        Folder against which relative paths are resolved; default: the current one.
    model : str
        ``blm`` or ``blmm``.
    out_dir : Path, optional
        In place of outdir; absolute.

    Raises
    ------
    InputError
        If it is no mapping.
    """
    if not isinstance(data, dict):
        raise InputError("The configuration is not a list of fields such as 'X: design.csv'.")
    given = {str(name): value for name, value in data.items() if value is not None}
    missingness = given.pop("Missingness", {})
    known = _known_names(model)
    unknown = [_explain_unknown(name, model) for name in given if name not in known]
    ours = {
        NAMES[name]: value for name, value in given.items() if NAMES.get(name) and name in known
    }
    if out_dir is not None:
        ours["out_dir"] = out_dir
    if "n_threads" in ours:  # where it runs decides which of the two it is
        ours["n_workers"] = ours["n_threads"]
    rules, faults = _read_missingness(missingness)
    fields, problems = check_fields(ours | rules, model, WORDS, base)
    problems = [*(p for p in problems if p.field != "n_workers"), *faults, *unknown]
    more = len(problems) - _MOST_FAULTS
    if more > 0:
        text = f"{more} more fields of the configuration cannot be used."
        problems = [*problems[:_MOST_FAULTS], Problem(None, text)]
    return Checked(fields, problems)


def _known_names(model: str) -> list[str]:
    """Return the names that a file of a model may have."""
    fields = {"", *MODELS[model].model_fields, *FORMULA_MODELS[model].model_fields}
    return [*(name for name, field in NAMES.items() if field in fields), *IGNORED, *_NOT_READ]


def _explain_unknown(name: str, model: str) -> Problem:
    if name in NAMES:
        return Problem(
            NAMES[name],
            "{name} is a field of mixed models; run this configuration with blmm, "
            "or leave the field out.",
            name=name,
        )
    known = {each.lower(): each for each in _known_names(model)}
    known |= {each.lower(): f"Missingness.{each}" for each in MISSINGNESS}
    return Problem(
        None,
        "{name} is not a known field; the nearest known one is {nearest}.",
        name=shorten(name),
        nearest=find_nearest(name, known),
    )


def _read_missingness(value: Any) -> tuple[dict[str, Any], list[Problem]]:
    """Return the fields that Missingness holds, in any case, and what is wrong with it."""
    if not isinstance(value, dict):
        template = "Missingness: {given} was given; expected fields such as MinN: 10."
        return {}, [Problem(None, template, given=show(value))]
    known = {name.lower(): name for name in MISSINGNESS}
    found: dict[str, Any] = {}
    problems = []
    for key, item in value.items():
        name = known.get(str(key).lower())
        if name is None:
            template = (
                "Missingness.{name} is not a known field; the nearest known one is {nearest}."
            )
            nearest = find_nearest(str(key), known)
            problems.append(Problem(None, template, name=shorten(str(key)), nearest=nearest))
        elif MISSINGNESS[name] in found:
            template = "Missingness: a field is given twice, in {names}."
            problems.append(Problem(None, template, names=", ".join(map(str, value))))
            break
        else:
            found[MISSINGNESS[name]] = item
    return found, problems


def _find_notices(data: Mapping[Any, Any], fields: Fields | FormulaFields) -> list[str]:
    """Return one sentence for each field that was given and has no effect."""
    given = {str(name) for name, value in data.items() if value is not None}
    notices = [f"{name} has no effect and is ignored." for name in IGNORED if name in given]
    stat_types = [
        (each.stat_type, make_contrast(each).is_f) for each in fields.contrasts if each.vector
    ]
    if any(said and (said.upper() == "F") != is_f for said, is_f in stat_types):
        notices.append("statType is ignored: one row of weights gives T, several rows F.")
    return notices


def to_yaml(fields: CommonFields) -> dict[str, Any]:
    """Return fields as plain values of a file from which equal ones are read."""
    plain = fields.plain()
    data = {name: plain[field] for name, field in NAMES.items() if field in plain}
    data["Missingness"] = {n: plain[field] for n, field in MISSINGNESS.items() if field in plain}
    for name, key in (("contrasts", "c"), ("Z", "f")):
        if data.get(name):
            data[name] = [{f"{key}{i}": each} for i, each in enumerate(data[name], 1)]
    return data


class Entry(NamedTuple):
    """A field of a configuration file, for those who want to know which there are."""

    name: str
    description: str
    is_mandatory: bool
    default: Any = None
    entries: tuple["Entry", ...] = ()  # that it holds


_DESCRIPTIONS = {
    "numNodes": "Threads to use; default: the cores available.  On a cluster: most workers "
    "at a time; default 10.",
    "Missingness": "Which voxels are analysed:",
}


def list_entries(model: str = "blm", of_formula: bool = False) -> list[Entry]:
    """Return the fields that a file of a model may have and that have an effect.

    Those that mean something else with a formula are described as without, or with one.
    """
    known = _known_names(model)
    kinds: list[type[BaseModel]] = [MODELS[model], FORMULA_MODELS[model]]
    first, second = reversed(kinds) if of_formula else kinds
    return [
        _describe(name, field, first if field in {"", *first.model_fields} else second)
        for name, field in NAMES.items()
        if name in known
    ]


def _describe(name: str, field: str, kind: type[BaseModel]) -> Entry:
    if name == "Missingness":
        rules = tuple(_describe(each, of, kind) for each, of in MISSINGNESS.items())
        return Entry(name, _DESCRIPTIONS[name], is_mandatory=False, entries=rules)
    info = kind.model_fields[field]
    entries: tuple[Entry, ...] = ()
    if field in ENTRIES:
        inner = ENTRIES[field]
        names = [WORDS.name(f"{field}.{each}") for each in inner.model_fields]
        pairs = zip(names, inner.model_fields, strict=True)
        entries = tuple(_describe(each, of, inner) for each, of in pairs)
    default = None if info.is_required() else info.default
    description = _DESCRIPTIONS.get(name, info.description or "")
    return Entry(name, description, info.is_required(), default, entries)
