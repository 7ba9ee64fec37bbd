"""A configuration to start from: what a table or a data set has, and every field explained."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nipype_blm.errors import InputError, join_some
from nipype_blm.frontends import blm
from nipype_blm.frontends.bids import show_counts
from nipype_blm.frontends.columns import type_columns
from nipype_blm.frontends.listed import IMAGE_COLUMNS
from nipype_blm.io.bids import index_tree, name_entity
from nipype_blm.io.frames import read_frame

if TYPE_CHECKING:
    import pandas as pd

_WIDTH = 96
_MOST_LEVELS = 8
# Fields that go with a source of another kind.
_OF_MATRICES = {"images", "X", "factors", "row_names", "match_rows"}
_OF_TABLES = {"table", "pattern"}
_OF_DATA_SETS = {"bids", "derivatives", "filters", "participants", "own_masks"}
_FIRST = ("table", "images", "bids", "derivatives", "filters", "formula", "contrasts", "outdir")


def write_template(source: Path, given: Mapping[str, Any], is_bids: bool) -> str:
    """Return a configuration of a model of a table or a data set, with comments.

    Parameters
    ----------
    source : Path
        Absolute.
    given : mapping
        Fields that have a value, by the names of configuration files.
    is_bids : bool

    Raises
    ------
    InputError
        If the table or the data set cannot be read.
    """
    table = source / "participants.tsv" if is_bids else source
    frame = read_frame(table, "SOURCE") if table.is_file() or not is_bids else None
    placed = {("bids" if is_bids else "table"): str(source)}
    if not is_bids and "images" not in given:
        placed["images"] = _guess_pattern(frame)
    values = placed | {"formula": "~ 1", "outdir": "results"} | dict(given)
    fields = _OF_TABLES if is_bids else _OF_DATA_SETS
    entries = {
        each.name: each
        for each in blm.list_entries("blmm", of_formula=True)
        if blm.NAMES[each.name] not in _OF_MATRICES | fields
    }
    lines = [f"# A model of {source.name}.  Run it with: nipype-blm fit THIS_FILE OUT", "#"]
    if frame is not None:
        lines += [f"# Columns of {table.name}:", *_describe_columns(frame)]
    if is_bids:
        lines += ["# Images (NIfTI), by what their names say:", *_describe_images(source)]
    first = [name for name in _FIRST if name in entries]
    for name in [*first, *(name for name in entries if name not in _FIRST)]:
        entry = entries[name]
        lines += ["", *_comment(entry.description)]
        if name == "formula":
            lines += _comment(
                "Effects of columns: ~ age + sex; of interactions: ~ age * sex; a "
                "random intercept of each subject: ~ age + (1 | subject)."
            )
        if name in values:
            lines.append(_dump(name, values[name]))
        else:
            lines.append(f"# {_dump(name, _plain(entry.default))}".rstrip())
    return "\n".join(lines) + "\n"


def _guess_pattern(frame: "pd.DataFrame | None") -> str:
    """Return where images may be: in a column, or in files called after what tells rows apart."""
    columns = [] if frame is None else [str(name) for name in frame.columns]
    for name in columns:
        if name.casefold() in IMAGE_COLUMNS:
            return name
    keys = [name for name in columns if name_entity(name) is not None] or columns[:1]
    return f"images/{'_'.join(f'{{{name}}}' for name in keys)}.nii.gz"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _dump(name: str, value: Any) -> str:
    if value is None or value == {} or value == ():
        return f"{name}:"
    plain = value if isinstance(value, str | int | float | list | dict) else str(value)
    how = None if isinstance(value, list | dict) else False  # lists in one line
    text = yaml.safe_dump({name: plain}, default_flow_style=how, width=10_000, sort_keys=False)
    return str(text).rstrip("\n")


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"# {indent}", subsequent_indent=f"# {indent}"
    )


def _describe_columns(frame: "pd.DataFrame") -> Iterator[str]:
    for name in frame.columns:
        yield from _comment(f"{name}: {_describe_column(frame, str(name))}", "  ")


def _describe_column(frame: "pd.DataFrame", name: str) -> str:
    """Return what a column has, and what may keep it from being used."""
    try:
        column = type_columns(frame, [name])[0][name]
    except InputError as error:
        return str(error.problems[0].worded(blm.WORDS))
    n_missing = int(column.isna().sum())
    missing = f"; {n_missing} missing" if n_missing else ""
    if not hasattr(column, "cat"):
        return f"numbers from {column.min():g} to {column.max():g}{missing}"
    levels = list(column.cat.categories)
    return f"{len(levels)} levels: {join_some(levels, _MOST_LEVELS)}{missing}"


def _describe_images(source: Path) -> Iterator[str]:
    folders = [source, *sorted((source / "derivatives").glob("*/"))]
    counts: dict[str, Counter[str]] = {}
    for folder in folders:
        for file in index_tree(folder):
            if file.extension in (".nii", ".nii.gz"):
                for name, label in {**file.entities, "suffix": file.suffix}.items():
                    counts.setdefault(name, Counter())[label] += 1
    for name, labels in counts.items():
        yield from _comment(f"{name}: {show_counts(labels, _MOST_LEVELS)}", "  ")
