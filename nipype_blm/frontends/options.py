"""The options of commands that take a formula: the command line's names of fields."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype_blm.errors import InputError, Problem, shorten
from nipype_blm.frontends import blm
from nipype_blm.frontends.fields import Checked, check_fields
from nipype_blm.frontends.flags import ALL, ENTITIES
from nipype_blm.frontends.reading import Origin
from nipype_blm.frontends.requests import make_request
from nipype_blm.frontends.values import is_mixed_formula
from nipype_blm.frontends.words import TraitWords
from nipype_blm.model.request import Request
from nipype_blm.model.study import COLUMN_KINDS
from nipype_blm.units import GIB


class OptionWords(TraitWords):
    """Words of those who give options; what has none is called as in a configuration file."""

    def setting(self, field: str, value: Any) -> str:
        """Return how a field is given a value."""
        if field == "columns":
            name, _, kind = str(value).rpartition(": ")
            return f"--{kind} {shlex.quote(name)}"
        if field == "filters":
            return " ".join(map(_write_filter, str(value).split("/")))
        for option in ALL:
            if option.field == field:
                if option.value is not None and option.value == value:
                    return option.flag
                if option.value is None:
                    return f"{option.flag} {value}"
        return f"{blm.WORDS.setting(field, value)} in a configuration file"


def _write_filter(text: str) -> str:
    name, _, label = text.partition("=")
    return f"--{name} {label}" if name in ENTITIES else f"--filter {text}"


_FLAGS = {option.field: option.flag for option in reversed(ALL)}
WORDS = OptionWords(
    {field: blm.WORDS.name(field) for field in blm.WORDS.names}
    | _FLAGS
    | {"filters": "--filter", "bids": "SOURCE", "table": "SOURCE", "out_dir": "OUT"}
    | {"columns": "--categorical and --numeric"}
)


def read(source: Path, options: Mapping[str, Any], out_dir: Path, is_bids: bool) -> Request:
    """Make a request of a table or of a BIDS data set, and of options.

    Parameters
    ----------
    source : Path
    options : mapping
        Values of options by their flags, without dashes in front, and ``filter``: entity=value.
    out_dir : Path
    is_bids : bool
        Whether the source is a data set.
    """
    if "formula" not in options:
        raise InputError(_ask_for_formula(source, is_bids))
    model, checked = _check(source, options, out_dir, is_bids)
    record = blm.to_yaml(checked.fields)
    return make_request(checked.fields, Origin(model, WORDS, checked.problems, record=record))


def read_fields(source: Path, options: Mapping[str, Any], is_bids: bool) -> dict[str, Any]:
    """Return what options say, as fields of a configuration file.

    Raises
    ------
    InputError
        If some cannot be used.
    """
    formula = {"formula": "~ 1"} | dict(options)
    _, checked = _check(source, formula, Path("results"), is_bids)
    if checked.problems:
        raise InputError(checked.problems)
    given = {option.field for option in ALL if option.flag.lstrip("-") in options}
    fields = blm.to_yaml(checked.fields)
    return {name: value for name, value in fields.items() if blm.NAMES[name] in {*given, "filters"}}


def _check(
    source: Path, options: Mapping[str, Any], out_dir: Path, is_bids: bool
) -> tuple[str, Checked]:
    """Return the model that options ask for, and their fields."""
    fields, problems = _read_options(options, is_bids)
    fields |= {("bids" if is_bids else "table"): source, "out_dir": out_dir}
    model = "blmm" if is_mixed_formula(fields.get("formula")) else "blm"
    checked = check_fields(fields, model, WORDS)
    return model, checked._replace(problems=[*problems, *checked.problems])


def _ask_for_formula(source: Path, is_bids: bool) -> str:
    """Return what to give, with the columns that there are."""
    from nipype_blm.io.frames import read_frame

    table = source / "participants.tsv" if is_bids else source
    columns = list(read_frame(table, "SOURCE").columns) if table.is_file() else []
    named = f"; columns of {table.name}: {shorten(', '.join(columns))}" if columns else ""
    what = "a BIDS data set" if is_bids else "a table"
    return (
        f"SOURCE {source} is {what}; say what to fit, such as "
        f'--formula "~ 1 + (1 | subject)"{named}.'
    )


def _read_options(
    options: Mapping[str, Any], is_bids: bool
) -> tuple[dict[str, Any], list[Problem]]:
    """Return fields of options that were given, and what is wrong with these."""
    given = dict(options)
    if not is_bids and "contrast" in given:  # images of a table have no entities
        given["test"] = [*given.get("test", ()), *given.pop("contrast")]
    fields: dict[str, Any] = {}
    for option in ALL:
        name = option.flag.lstrip("-")
        if name in given and option.field != "columns":
            fields[option.field] = (
                _read_settings(option.flag, given[name]) if option.may_be_alone else given[name]
            )
    if fields.get("analysis_mask") == "auto":
        del fields["analysis_mask"]
    if "max_bytes" in fields:
        fields["max_bytes"] = _read_gib(fields["max_bytes"])
    columns = {name: kind for kind in COLUMN_KINDS for name in given.get(kind, ())}
    if columns:
        fields["columns"] = columns
    if "contrasts" in fields:
        fields["contrasts"] = [split_name(text) for text in fields["contrasts"]]
    filters, problems = _read_filters(given)
    if filters and not is_bids:
        problems.append(
            Problem(
                "filters",
                "SOURCE is a table, whose images have no entities to choose from: "
                "{names}; leave them out.",
                names=", ".join(filters),
            )
        )
    elif filters:
        fields["filters"] = filters
    return fields, problems


def _read_settings(flag: str, given: Sequence[str]) -> dict[str, str]:
    """Return options that were given as NAME=VALUE."""
    odd = [text for text in given if "=" not in text]
    if odd:
        raise InputError(
            f"{flag} {odd[0]} was given; expected NAME=VALUE, such as {flag} n=5000 "
            "summaries=voxel,tfce; or nothing behind it."
        )
    pairs = (text.split("=", 1) for text in given)
    return {name.replace("-", "_"): value for name, value in pairs}


def split_name(text: str) -> str | dict[str, str]:
    """Return a contrast; ``older := age`` has a name."""
    name, is_named, expression = text.partition(":=")
    return {"name": name.strip(), "expression": expression.strip()} if is_named else text


def _read_gib(text: str) -> Any:
    try:
        return round(float(text) * GIB)
    except (ValueError, OverflowError):
        return text  # the check says what is wrong


def _read_filters(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values that entities must have."""
    pairs = [(name, each) for name in ENTITIES for each in given.get(name, ())]
    problems = []
    for text in given.get("filter", ()):
        name, has_value, value = text.partition("=")
        if not (name and has_value and value):
            template = "{filters}: {given} was given; expected entity=value, such as task=faces."
            problems.append(Problem("filters", template, given=repr(text)))
        pairs.append((name, value))
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found, problems


def refuse_options(options: Mapping[str, Any], what: str) -> None:
    """Refuse options beside a source that says all of it.

    Raises
    ------
    InputError
    """
    given = ", ".join(sorted(f"--{name}" for name in options))
    if given:
        raise InputError(
            f"SOURCE is {what}, which says all that a formula needs; leave out {given}, or write "
            "it there."
        )
