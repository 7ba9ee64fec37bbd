"""Read the text files of a configuration: YAML, design tables, lists of images."""

import csv
import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.model.config import resolve_path

_MISSING = ("", "na", "n/a")


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
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the field {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a configuration file."""
    text = read_text(path, "Configuration file")
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


def read_table(path: Path, what: str) -> Table:
    """Read a CSV, TSV or whitespace-separated table of numbers.

    A first row of text is a header; a first column of text names the rows and is skipped.

    Raises
    ------
    InputError
        Naming every cell that is not a finite number, up to ten.
    """
    lines = [(i, line) for i, line in enumerate(read_text(path, what).splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line.strip()]
    if not lines:
        raise InputError(f"{what} {path} is empty.")
    with _name_file(path, what):
        rows = _split_cells([line for _, line in lines])
    header: list[str] | None = None
    if any(_to_number(cell) is None for cell in rows[0]) and not _is_row_labelled(rows):
        header = rows[0]
        rows, lines = rows[1:], lines[1:]
    if not rows:
        raise InputError(f"{what} {path} has a header but no row.")
    if header is not None and len(rows[0]) == len(header) + 1:
        header = ["", *header]  # as R writes it: no name above the row names
    for (line, _), row in zip(lines, rows, strict=True):
        if len(row) != len(header or rows[0]):
            raise InputError(
                f"{what} {path}: line {line} has {len(row)} columns, "
                f"but the first line has {len(header or rows[0])}."
            )
    if len(rows[0]) > 1 and _names_rows(rows, header):
        rows = [row[1:] for row in rows]
        header = header[1:] if header else None
    names = header or [f"X{i}" for i in range(1, len(rows[0]) + 1)]
    values = np.array([[_to_number(c) for c in row] for row in rows], float)
    _check_finite(path, what, rows, values, [i for i, _ in lines], names)
    return Table(values, names, header is not None)


def _names_rows(rows: list[list[str]], header: list[str] | None) -> bool:
    """Return whether the first column is text, or has no name while the others have."""
    is_unnamed = header is not None and not header[0] and all(header[1:])
    is_text = all(_to_number(row[0]) is None for row in rows)
    return is_unnamed or (is_text and len({row[0] for row in rows}) == len(rows))


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


def _check_finite(
    path: Path,
    what: str,
    rows: list[list[str]],
    values: FloatArray,
    lines: list[int],
    names: list[str],
) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        cells = [
            f"{rows[i][j]!r} in line {lines[i]}, column {j + 1} ({names[j]})" for i, j in bad[:10]
        ]
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise InputError(
            f"{what} {path} must hold finite numbers only; found {'; '.join(cells)}{more}."
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
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise InputError(
            f"{what} {path} must hold one label a line, and none may be missing; "
            f"found {'; '.join(faults[:10])}{more}."
        )
    return [cells[0] for cells in rows]


def _split_line(line: str) -> list[str]:
    """Split a line at the first separator that it has: comma, tab or semicolon."""
    for separator in ",\t;":
        [cells] = csv.reader([line], delimiter=separator, skipinitialspace=True)
        if len(cells) > 1:
            break
    return [cell.strip() for cell in cells] or [""]
