"""Read the text files of a configuration: YAML, design tables, lists of images."""

import csv
import math
import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.model.config import resolve_path

_MISSING = ("", "na", "n/a")
# Such as "20;0" of a line 20;0,345: the comma is a decimal one.
_DECIMAL_COMMA, _ADVICE = re.compile(r"^'[-+]?\d+,\d+'"), "  Decimals need a point, not a comma."
_TWO_NUMBERS = re.compile(r"[-+.\deE]+([;\t ]+[-+.\deE]+)+$")


def read_text(path: Path, what: str) -> str:
    """Read a text file named by a field of the configuration."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} is not a text file in UTF-8.") from error
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}.") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice; plain YAML keeps the last silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        merge = "tag:yaml.org,2002:merge"  # "<<", which a field of the mapping may repeat
        own = [key for key, _ in node.value if key.tag != merge]
        keys = [self.construct_object(key, deep=True) for key in own]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the field {key!r} is given twice", own[i].start_mark
                )
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> Any:
        """Return a number; 10:00:00 is a time, as in YAML 1.2, and not 36000, as in YAML 1.1."""
        if ":" in node.value:
            return node.value
        return yaml.SafeLoader.yaml_constructors[node.tag](self, node)


for _tag in ("int", "float"):
    _UniqueKeyLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _UniqueKeyLoader.construct_number)


def read_yaml(path: Path, what: str = "Configuration file") -> Any:
    """Read a file of YAML; `what` names it in messages."""
    text = read_text(path, what)
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error


class ListedPath(NamedTuple):
    """A path and where it was given."""

    path: Path
    where: str


def read_path_list(path: Path, what: str) -> list[ListedPath]:
    """Read a text file with one path a line; blank lines are skipped.

    Relative paths are resolved against the folder of the list.
    """
    listed = []
    for number, line in enumerate(read_text(path, what).splitlines(), 1):
        where = f"line {number} of {path.name}"
        if not line.strip():
            continue
        try:
            listed.append(ListedPath(resolve_path(line.strip(), path.parent), where))
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
    if not listed:
        raise InputError(f"{what} {path} lists no file.")
    return listed


class Table(NamedTuple):
    """A table of numbers."""

    values: FloatArray  # (n_rows, n_columns)
    names: list[str]  # of the columns; X1, X2, ... without a header
    has_header: bool


class _Line(NamedTuple):
    """A line of a table."""

    number: int
    cells: list[str]


def read_table(path: Path, what: str) -> Table:
    """Read a CSV, TSV or whitespace-separated table of numbers.

    A first row of text is a header; a first column of text names the rows and is skipped.
    Comments above the first row are skipped, too, unless the last one is the header.

    Raises
    ------
    InputError
        Naming every line of another length, and every cell that is not a finite number, up to
        ten of each.
    """
    table, faults = scan_table(path, what)
    if faults:
        raise InputError(faults)
    return table


def scan_table(path: Path, what: str) -> tuple[Table, list[str]]:
    """Return a table, with NaN where its numbers cannot be used, and what is wrong with it.

    Raises
    ------
    InputError
        If it is not known how many columns there are.
    """
    header, lines = _split_lines(path, what)
    n_columns = len(header or lines[0].cells)
    ragged = [f"{len(c)} in line {number}" for number, c in lines if len(c) != n_columns]
    faults = []
    if ragged:
        faults.append(
            f"{what} {path} has {n_columns} columns in its first line, but "
            f"{_join_some(ragged, ', ')}; every line needs as many."
        )
    if 2 * len(ragged) > len(lines):  # the first line may be the one that is wrong
        raise InputError(faults)
    n_skipped = int(n_columns > 1 and _names_rows([line.cells for line in lines], header))
    names = header[n_skipped:] if header else [f"X{i + 1}" for i in range(n_columns - n_skipped)]
    values = np.full((len(lines), len(names)), np.nan)
    bad = []
    for row, (number, cells) in zip(values, lines, strict=True):
        if len(cells) != n_columns:
            continue
        for i, cell in enumerate(cells[n_skipped:]):
            value = _to_number(cell)
            row[i] = math.nan if value is None else value
            if not math.isfinite(row[i]):
                bad.append(f"{cell!r} in line {number}, column {i + 1} ({names[i]})")
    if bad:
        faults.append(
            f"{what} {path} must hold finite numbers only; found {_join_some(bad, '; ')}."
            f"{_ADVICE if any(map(_DECIMAL_COMMA.search, bad)) else ''}"
        )
    return Table(values, names, header is not None), faults


def _split_lines(path: Path, what: str) -> tuple[list[str] | None, list[_Line]]:
    """Return the names of the columns, if there are any, and the lines below them."""
    lines = [(i, line) for i, line in enumerate(read_text(path, what).splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line.strip()]
    comments = list(takewhile(lambda item: item[1].lstrip().startswith("#"), lines))
    lines = lines[len(comments) :]
    if not lines:
        raise InputError(f"{what} {path} is empty.")
    comment = comments[-1][1].lstrip("# \t") if comments else ""
    with _name_file(path, what):
        rows = _split_cells([line for _, line in lines])
        named = _split_cells([comment, lines[0][1]])[0]
    if len(rows) < len(lines):
        raise InputError(f"{what} {path} has a quotation mark that is not closed.")
    table = [_Line(i, row) for (i, _), row in zip(lines, rows, strict=True)]
    header: list[str] | None = None
    if _has_text(rows[0]) and not _is_row_labelled(rows):
        header, table = rows[0], table[1:]
    elif _has_text(named) and len(rows[0]) - len(named) in (0, int(_has_row_names(rows))):
        header = named  # as NumPy writes it
    if not table:
        raise InputError(f"{what} {path} has a header but no row.")
    if header is not None:
        n_longer = sum(len(cells) == len(header) + 1 for _, cells in table)
        if 2 * n_longer > len(table):  # as R writes it: no name above the row names
            header = ["", *header]
    return header, table


def _join_some(found: list[str], separator: str) -> str:
    """Return up to ten of what was found, and how many more there are."""
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    return separator.join(found[:10]) + more


def _has_text(cells: list[str]) -> bool:
    return any(_to_number(cell) is None for cell in cells)


def _names_rows(rows: list[list[str]], header: list[str] | None) -> bool:
    """Return whether the first column is text, or has no name while the others have."""
    is_unnamed = header is not None and not header[0] and all(header[1:])
    if header is None:
        is_text = _has_row_names(rows)
    else:
        is_text = all(_to_number(row[0]) is None for row in rows)
    return is_unnamed or (is_text and len({row[0] for row in rows}) == len(rows))


def _has_row_names(rows: list[list[str]]) -> bool:
    """Return whether the first column is text: not numbers with another separator in between."""
    return all(_to_number(row[0]) is None and not _TWO_NUMBERS.match(row[0]) for row in rows)


@contextmanager
def _name_file(path: Path, what: str) -> Iterator[None]:
    """Say which file it is that the csv module refuses, for cells of 128 KiB and more."""
    try:
        yield
    except csv.Error as error:
        raise InputError(f"{what} {path} is not a table: {error}.") from error


def _split_cells(lines: list[str]) -> list[list[str]]:
    """Split lines at the separator that the first one has: comma, tab, semicolon or space."""
    for separator in ",\t;":
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        rows = [[cell.strip() for cell in row] for row in reader]
        if len(rows[0]) > 1 and (len(rows) == 1 or len(rows[1]) > 1):
            return rows
    return list(csv.reader([" ".join(line.split()) for line in lines], delimiter=" "))


def _to_number(cell: str) -> float | None:
    try:
        return float(cell.replace("_", "x"))  # Python reads 1_0 as 10
    except ValueError:
        return math.nan if cell.lower() in _MISSING else None


def _is_row_labelled(rows: list[list[str]]) -> bool:
    """Return whether only the first cell of the first row is text, as in later rows."""
    return (
        len(rows) > 1
        and len(rows[0]) > 1
        and all(_to_number(cell) is not None for cell in rows[0][1:])
        and all(_to_number(row[0]) is None for row in rows)
    )


def read_labels(path: Path, what: str) -> list[str]:
    """Read the labels of a grouping factor, one a line.

    Labels are text, taken as they are but for quotes and the spaces around them; blank lines
    at the end are skipped.

    Raises
    ------
    InputError
        Naming every line without a label, or with more than one, up to ten.
    """
    lines = read_text(path, what).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{what} {path} is empty.")
    with _name_file(path, what):
        rows = [_split_line(line.strip()) for line in lines]
    faults = []
    for number, cells in enumerate(rows, 1):
        if len(cells) > 1:
            faults.append(f"{len(cells)} columns in line {number}")
        elif cells[0].lower() in (*_MISSING, "nan"):
            faults.append(f"{cells[0]!r} in line {number}")
    if faults:
        raise InputError(
            f"{what} {path} must hold one label a line, and none may be missing; "
            f"found {_join_some(faults, '; ')}."
        )
    return [cells[0] for cells in rows]


def _split_line(line: str) -> list[str]:
    """Split a line at the first separator that it has: comma, tab or semicolon."""
    for separator in ",\t;":
        [cells] = csv.reader([line], delimiter=separator, skipinitialspace=True)
        if len(cells) > 1:
            break
    return [cell.strip() for cell in cells] or [""]
