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
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.io.files import read_input
from nipype_blm.model.config import resolve_path

_MISSING = ("", "na", "n/a")
# Such as "20;0" of a line 20;0,345: the comma is a decimal one.
_DECIMAL_COMMA, _ADVICE = re.compile(r"^'[-+]?\d+,\d+'"), "  Decimals need a point, not a comma."
_TWO_NUMBERS = re.compile(r"[-+.\deE]+([;\t ]+[-+.\deE]+)+$")


def read_text(path: Path, what: str) -> str:
    """Read a text file named by a field of the configuration."""
    try:
        return read_input(path).decode("utf-8-sig")
    except InputError as error:
        raise InputError(f"{what} {error}") from error
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
    """A table of numbers, and the names of its rows if a column holds them."""

    values: FloatArray  # (n_rows, n_columns)
    names: list[str]  # of the columns; X1, X2, ... without a header
    has_header: bool
    row_names: list[str] | None = None  # (n_rows,)
    row_header: str = ""  # of the column of row names
    first_line: int = 1  # of the file, that has a row

    def sort(self, order: NDArray[np.intp]) -> "Table":
        """Return the table with its rows in another order."""
        names = None if self.row_names is None else [self.row_names[i] for i in order]
        return self._replace(values=self.values[order], row_names=names)


class _Line(NamedTuple):
    """A line of a table."""

    number: int
    cells: list[str]


def read_table(
    path: Path, what: str, row_names: str | None = None, must_have: bool = True
) -> Table:
    """Read a table as `scan_table` does; what is wrong with it is an InputError."""
    table, faults = scan_table(path, what, row_names, must_have)
    if faults:
        raise InputError(faults)
    return table


def scan_table(
    path: Path, what: str, row_names: str | None = None, must_have: bool = True
) -> tuple[Table, list[str]]:
    """Read a CSV, TSV or whitespace-separated table of numbers, and say what is wrong with it.

    A first row of text is a header.  A first column that is text, or has no name while the
    others have, names the rows.  Comments above the first row are skipped, too, unless the
    last one is the header.

    Parameters
    ----------
    path : Path
    what : str
        What messages call the table.
    row_names : str, optional
        Header, or number, of the column that names the rows; "none" if no column does.
    must_have : bool
        Whether a table without that header is at fault; else it is read as any other.

    Returns
    -------
    table : Table
        With NaN where numbers cannot be used.
    faults : list of str
        Every line of another length, and every cell that is not a finite number, up to ten of
        each.

    Raises
    ------
    InputError
        If it is not known how many columns there are, or which one names the rows.
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
    if not must_have and (row_names or "").lower() != "none" and row_names not in (header or []):
        row_names = None
    column = _find_row_names(header, lines, n_columns, row_names)
    if column is None and row_names is not None and row_names.lower() != "none":
        columns = ", ".join(map(repr, header)) if header else f"{n_columns} and no header"
        raise InputError(
            [
                *faults,
                f"row_names is {row_names!r}, but {what} {path} has no such column beside one of "
                f"numbers; its columns are: {columns}.  Give a header, or a number from 1.",
            ]
        )
    kept = [i for i in range(n_columns) if i != column]
    names = [(header[i] if header else "") or f"X{n}" for n, i in enumerate(kept, 1)]
    whole = [line if len(line.cells) == n_columns else None for line in lines]
    values, bad = _read_numbers(whole, kept, names)
    if bad:
        advice = [_ADVICE] if any(map(_DECIMAL_COMMA.search, bad)) else []
        advice += _advise_on_text(whole, kept, header, column is not None)
        faults.append(
            f"{what} {path} must hold finite numbers only; found {_join_some(bad, '; ')}."
            f"{''.join(advice)}"
        )
    labels = None if column is None else [line.cells[column] if line else "" for line in whole]
    row_header = header[column] if header and column is not None else ""
    table = Table(values, names, header is not None, labels, row_header, lines[0].number)
    return table, faults


def _read_numbers(
    lines: list[_Line | None], columns: list[int], names: list[str]
) -> tuple[FloatArray, list[str]]:
    """Return the numbers of some columns, and what is not a finite number; NaN without a line."""
    values = np.full((len(lines), len(columns)), np.nan)
    bad = []
    for row, line in zip(values, lines, strict=True):
        if line is None:
            continue
        for i, column in enumerate(columns):
            cell = line.cells[column]
            value = _to_number(cell)
            row[i] = math.nan if value is None else value
            if not math.isfinite(row[i]):
                bad.append(f"{cell!r} in line {line.number}, column {i + 1} ({names[i]})")
    return values, bad


def _advise_on_text(
    lines: list[_Line | None],
    columns: list[int],
    header: list[str] | None,
    has_row_names: bool,
) -> list[str]:
    """Return what to do about the first column of text, such as names of the rows."""
    rows = [line.cells for line in lines if line]
    for i in columns:
        n_text = sum(_to_number(row[i]) is None and "," not in row[i] for row in rows)
        if 2 * n_text > len(rows) and len(columns) > 1:
            name = header[i] if header else i + 1
            if has_row_names:
                return [f"  Leave column {name} out, or write what it means in numbers."]
            return [f"  If column {name} names the rows, set row_names: {name}."]
    return []


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


def _find_row_names(
    header: list[str] | None, lines: list[_Line], n_columns: int, given: str | None
) -> int | None:
    """Return the column that names the rows, as given or, if not, as it looks; None if no one."""
    if n_columns == 1:
        return None
    if given is None:
        return 0 if _names_rows([line.cells for line in lines], header) else None
    for name in (given, given.lower()):
        found = [i for i, each in enumerate(header or []) if name in (each, each.lower())]
        if len(found) == 1:
            return found[0]
    is_number = given.isdecimal() and 1 <= int(given) <= n_columns
    return int(given) - 1 if is_number else None


def _names_rows(rows: list[list[str]], header: list[str] | None) -> bool:
    """Return whether the first column is text, or has no name while the others have."""
    if header is None:
        return _has_row_names(rows)
    is_unnamed = not header[0] and all(header[1:])
    return is_unnamed or all(_to_number(row[0]) is None for row in rows)


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
    """Return whether the first row has numbers, and text only where all rows have text."""
    text = [i for i, cell in enumerate(rows[0]) if _to_number(cell) is None]
    return (
        len(rows) > 1
        and len(text) < len(rows[0])
        and all(len(row) > i and _to_number(row[i]) is None for row in rows for i in text)
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
