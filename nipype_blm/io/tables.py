"""Read the tables of numbers, the labels and the lists of images that a configuration names."""

import codecs
import csv
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError, Problem, join_some, shorten, show
from nipype_blm.io.files import open_input
from nipype_blm.io.formats import START_SIZE, is_vest, name_binary, name_text
from nipype_blm.io.paths import resolve_path
from nipype_blm.io.vest import read_design
from nipype_blm.model.request import ListedPath, Table

T = TypeVar("T")

_MISSING = ("", "na", "n/a")
_LOGICAL = {"true": 1.0, "false": 0.0}  # as R and pandas write what counts as 1 and 0
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
# Such as "20;0" of a line 20;0,345: the comma is a decimal one.
_TWO_NUMBERS = re.compile(r"[-+.\deE]+([;\t ]+[-+.\deE]+)+$")
_ODD_PATH = re.compile(r"[*?,;\t]|\.(nii|img|mgh|mgz)(\.gz)?\s|\s\.{0,2}/")
_MOST_COLUMNS, _MOST_VALUES = 10, 5  # that are named


def read_text(path: Path, what: str) -> str:
    """Read a text file named by a field of the configuration, in UTF-8 or, if marked, UTF-16."""
    try:
        with open_input(path) as file:
            start = file.read(START_SIZE)
            found = name_binary(start)
            if found is not None:
                raise InputError(f"{path} is {found}.")
            content = start + file.read()
    except InputError as error:
        raise InputError(f"{what} {error}") from error
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}.") from error
    is_utf16 = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{what} {path} is not a text file in UTF-8: line {line} has other bytes.  Save it as "
            "UTF-8 (in a spreadsheet: CSV UTF-8)."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{what} {path} has a null byte (line {line} of {path.name}); it is no text file, or "
            "one in UTF-16 without its mark.  Save it as UTF-8."
        )
    return text


def _read_lines(path: Path, what: str) -> list[str]:
    """Read the lines of a table or of a list, unless its format is that of another program."""
    return _split_text(read_text(path, what), f"{what} {path}")


def _split_text(text: str, source: str) -> list[str]:
    found = name_text(text)
    if found is not None:
        raise InputError(f"{source} is {found}.")
    return text.splitlines()


def read_path_list(path: Path, what: str) -> list[ListedPath]:
    """Read a text file with one path a line; blank lines, and those with #, are skipped.

    Relative paths are resolved against the folder of the list.  Quotes around a path, and
    a separator behind it, are left out.
    """
    listed = []
    faults = []
    for number, line in enumerate(_read_lines(path, what), 1):
        where = f"line {number} of {path.name}"
        text = _unquote(line.strip().rstrip(",;").rstrip())
        if not text or text.startswith("#"):
            continue
        try:
            listed.append(ListedPath(resolve_path(text, path.parent), where))
            fault = explain_path(listed[-1].path, text, is_first=len(listed) == 1)
        except ValueError as error:
            fault = str(error)
        if fault:
            faults.append(f"{what}: {where}: {fault}.")
    if faults:
        more = f"{what} {path} has {len(faults) - 10} more lines that are no paths."
        raise InputError(faults[:10] + [more] * (len(faults) > 10))
    if not listed:
        raise InputError(f"{what} {path} lists no file.")
    return listed


def _unquote(text: str) -> str:
    is_quoted = len(text) > 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


def explain_path(path: Path, text: str, is_first: bool = False) -> str | None:
    """Return what a path looks like that is none: a pattern, two columns, a header."""
    is_odd = _ODD_PATH.search(text) or (is_first and re.fullmatch(r"\w+", text))
    if not is_odd or os.path.exists(path):  # noqa: PTH110  Path.exists raises if a name is too long
        return None
    if "*" in text or "?" in text:
        return (
            f"{show(text)} is a pattern, which says nothing of the order; list the files, as with: "
            "ls -1 PATTERN > images.txt"
        )
    if re.search(r",\d+$", text):
        return (
            f"{show(text)} names a volume as SPM does; give files of one volume, without the comma"
        )
    if re.search(r"[,;\s]", text):
        return f"{show(text)} does not exist; a list has one path a line, and no other column"
    return f"{show(text)} does not exist; a list has paths only, and no header"


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

    A design of FSL (.mat) is read, too; its columns have no names.

    A first row of text is a header.  A first column that is text, or has no name while the
    others have, names the rows.  Comments above the first row are skipped, too, unless the
    last one is the header.  A column of TRUE and FALSE, in any case, counts as 1 and 0.

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
        Every line of another length, up to ten; and what is no finite number, in a sentence for
        each column.

    Raises
    ------
    InputError
        If it is not known how many columns there are, or which one names the rows.
    """
    source = f"{what} {path}"
    text = read_text(path, what)
    if is_vest(text):
        return _read_vest(text, source, row_names if must_have else None), []
    header, lines = _split_lines(text, source)
    n_columns = len(header or lines[0].cells)
    ragged = [f"{len(c)} in line {number}" for number, c in lines if len(c) != n_columns]
    faults: list[str] = []
    if ragged:
        faults.append(
            f"{source} has {n_columns} columns in its first line, but "
            f"{join_some(ragged, 10)}; every line needs as many."
        )
    if 2 * len(ragged) > len(lines):  # the first line may be the one that is wrong
        raise InputError(faults)
    if not must_have and (row_names or "").lower() != "none" and row_names not in (header or []):
        row_names = None
    column = _find_row_names(header, lines, n_columns, row_names)
    if column is None and row_names is not None and row_names.lower() != "none":
        columns = join_some(map(show, header), 10) if header else f"{n_columns} and no header"
        raise InputError([*faults, _refuse_row_names(row_names, source, columns)])
    kept = [i for i in range(n_columns) if i != column]
    names = [(header[i] if header else "") or f"X{n}" for n, i in enumerate(kept, 1)]
    whole = [line if len(line.cells) == n_columns else None for line in lines]
    values, bad = _read_numbers(whole, kept)
    wrong = [i for i, cells in enumerate(bad) if cells]
    for i in wrong[:_MOST_COLUMNS]:
        name = (header[kept[i]] if header else "") or str(kept[i] + 1)
        where = f"{source} must hold finite numbers only; column {i + 1} ({shorten(names[i])})"
        may_name_rows = column is None and len(kept) > 1
        faults.append(_describe_cells(where, bad[i], len(lines), name, may_name_rows))
    if len(wrong) > _MOST_COLUMNS:
        faults.append(f"{source} has {len(wrong) - _MOST_COLUMNS} more such columns.")
    labels = None if column is None else [line.cells[column] if line else "" for line in whole]
    row_header = header[column] if header and column is not None else ""
    table = Table(values, names, header is not None, labels, row_header, lines[0].number, source)
    return table, faults


def _refuse_row_names(given: str, source: str, columns: str) -> Problem:
    return Problem(
        "row_names",
        "{row_names} is {given}, but {source} has no such column beside one of "
        "numbers; its columns are: {columns}.  Give a header, or a number from 1.",
        given=show(given),
        source=source,
        columns=columns,
    )


def _read_vest(text: str, source: str, row_names: str | None) -> Table:
    """Return a design of FSL, which names neither rows nor columns."""
    vest = read_design(text, source)
    n_columns = vest.values.shape[1]
    if row_names is not None and row_names.lower() != "none":
        columns = f"{n_columns} and no header"
        raise InputError(_refuse_row_names(row_names, source, columns))
    names = [f"X{i}" for i in range(1, n_columns + 1)]
    return Table(vest.values, names, has_header=False, first_line=vest.first_line, source=source)


class _Cell(NamedTuple):
    """A cell that is not a finite number."""

    line: int
    text: str


def _read_numbers(
    lines: list[_Line | None], columns: list[int]
) -> tuple[FloatArray, list[list[_Cell]]]:
    """Return the numbers of some columns, NaN without a line, and what is no finite number."""
    values = np.full((len(lines), len(columns)), np.nan)
    bad: list[list[_Cell]] = [[] for _ in columns]
    logical: list[list[_Cell]] = [[] for _ in columns]
    for row, line in zip(values, lines, strict=True):
        if line is None:
            continue
        for i, column in enumerate(columns):
            cell = line.cells[column]
            value = _to_number(cell)
            row[i] = math.nan if value is None else value
            if not math.isfinite(row[i]):
                bad[i].append(_Cell(line.number, cell))
            elif cell[0] in "tfTF":
                logical[i].append(_Cell(line.number, cell))
    for found, words in zip(bad, logical, strict=True):
        if words and len(words) + len(found) < sum(line is not None for line in lines):
            found.extend(words)  # among other numbers they are a mistake
    return values, bad


def _describe_cells(
    where: str, bad: list[_Cell], n_rows: int, name: str, may_name_rows: bool
) -> Problem:
    """Return what is wrong with a column, and what to do, in one line however many cells are."""
    lines: dict[str, list[int]] = {}
    for line, cell in bad:
        lines.setdefault(cell, []).append(line)
    words = [cell for cell in lines if _to_number(cell) is None]
    n_missing = sum(len(found) for cell, found in lines.items() if cell.lower() in _MISSING)
    n_words = sum(len(lines[cell]) for cell in words)
    is_text = n_words == n_rows - n_missing > 1
    commas = any(map(_DECIMAL_COMMA.fullmatch, words)) or any(map(_TWO_NUMBERS.match, words))
    is_categorical = is_text and not commas and len(words) < n_words
    others = [cell for cell in lines if not is_categorical or _to_number(cell) is not None]
    found = _join_and(
        others, lambda cell: f"{show(cell)} in line{_join_lines(lines[cell])}", _MOST_VALUES
    )
    if is_categorical:
        some = _join_and(words, show, _MOST_VALUES)
        values = f"{len(words)} value{'s' * (len(words) > 1)}, {some}: categorical"
        found = f"{values}; and {found}" if found else values
    advice = []
    if commas:
        advice.append("Decimals need a point, not a comma.")
    elif is_categorical:
        advice.append("Write each value but one as a column of 0 and 1.")
    elif any(cell.lower() in _LOGICAL for cell in lines):
        advice.append("TRUE and FALSE count as 1 and 0 only in a column that has no other values.")
    if 2 * n_words > n_rows and not commas and may_name_rows:
        advice.append("If column {name} names the rows, set {row_names=name}.")
    elif is_text and not commas and not is_categorical:
        advice.append("Leave column {name} out, or write what it means in numbers.")
    template = "  ".join(["{where}: {found}.", *advice])
    return Problem(None, template, where=where, found=found, name=shorten(name))


def _join_lines(numbers: list[int]) -> str:
    return f"{'s' * (len(numbers) > 1)} {_join_and(numbers, str, 10)}"


def _join_and(items: list[T], write: Callable[[T], str], most: int) -> str:
    """Return items with commas and an "and"; of many the first, and how many more there are."""
    texts = [write(item) for item in items[:most]]
    if len(items) > most:
        texts.append(f"{len(items) - most} more")
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _split_lines(text: str, source: str) -> tuple[list[str] | None, list[_Line]]:
    """Return the names of the columns, if there are any, and the lines below them."""
    lines = [(i, line) for i, line in enumerate(_split_text(text, source), 1)]
    lines = [(i, line) for i, line in lines if line.strip()]
    comments = list(takewhile(lambda item: item[1].lstrip().startswith("#"), lines))
    lines = lines[len(comments) :]
    if not lines:
        raise InputError(f"{source} is empty.")
    comment = comments[-1][1].lstrip("# \t") if comments else ""
    with _name_file(source):
        rows = _split_cells([line for _, line in lines])
        named = _split_cells([comment, lines[0][1]])[0]
    if len(rows) < len(lines):
        raise InputError(f"{source} has a quotation mark that is not closed.")
    while len(rows[0]) > 1 and not any(row[-1] or len(row) == 1 for row in rows):
        rows = [row[:-1] for row in rows]  # a separator ends every line
    while len(rows) > 1 and len(rows[-1]) > 1 and not any(rows[-1]):
        rows.pop()  # as spreadsheets write empty lines
    table = [_Line(i, row) for (i, _), row in zip(lines, rows, strict=False)]
    header: list[str] | None = None
    if _has_text(rows[0]) and not _is_row_labelled(rows):
        header, table = rows[0], table[1:]
    elif _has_text(named) and len(rows[0]) - len(named) in (0, int(_has_row_names(rows))):
        header = named  # as NumPy writes it
    if not table:
        raise InputError(f"{source} has a header but no row.")
    if header is not None:
        n_longer = sum(len(cells) == len(header) + 1 for _, cells in table)
        if 2 * n_longer > len(table):  # as R writes it: no name above the row names
            header = ["", *header]
    return header, table


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
    return is_unnamed or all(_is_name(row[0]) for row in rows)


def _has_row_names(rows: list[list[str]]) -> bool:
    """Return whether the first column is text: not numbers with another separator in between."""
    return all(_is_name(row[0]) and not _TWO_NUMBERS.match(row[0]) for row in rows)


def _is_name(cell: str) -> bool:
    return _to_number(cell) is None and not _DECIMAL_COMMA.fullmatch(cell)


@contextmanager
def _name_file(source: str) -> Iterator[None]:
    """Say which file it is that the csv module refuses, for cells of 128 KiB and more."""
    try:
        yield
    except csv.Error as error:
        raise InputError(f"{source} is not a table: {error}.") from error


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
        return math.nan if cell.lower() in _MISSING else _LOGICAL.get(cell.lower())


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
    at the end are skipped.  Groups of FSL (.grp) are read, too.

    Raises
    ------
    InputError
        Naming every line without a label, or with more than one, up to ten.
    """
    return _read_labels(path, what, may_be_named=False)[1]


def read_named_labels(path: Path, what: str) -> tuple[list[str] | None, list[str]]:
    """Read labels as `read_labels` does, or lines of two columns: a name and its label.

    Returns
    -------
    names : list of str or None
        None where there are only labels.
    labels : list of str
    """
    return _read_labels(path, what, may_be_named=True)


def _read_labels(path: Path, what: str, may_be_named: bool) -> tuple[list[str] | None, list[str]]:
    text, source = read_text(path, what), f"{what} {path}"
    if is_vest(text):
        return None, _read_groups(text, source)
    lines = _split_text(text, source)
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{source} is empty.")
    with _name_file(source):
        rows = [_split_line(line.strip()) for line in lines]
    width = 2 if may_be_named and all(len(cells) == 2 for cells in rows) else 1
    faults = []
    for number, cells in enumerate(rows, 1):
        if len(cells) > width:
            faults.append(f"{len(cells)} columns in line {number}")
        elif cells[-1].lower() in (*_MISSING, "nan"):
            faults.append(f"{show(cells[-1])} in line {number}")
    if faults:
        named = ", or a name and its label" if may_be_named else ""
        raise InputError(
            f"{source} must hold one label a line{named}, and none may be missing; "
            f"found {join_some(faults, 10, '; ')}."
        )
    names = [cells[0] for cells in rows] if width == 2 else None
    return names, [cells[-1] for cells in rows]


def _read_groups(text: str, source: str) -> list[str]:
    """Return the groups of a Vest file as labels."""
    values = read_design(text, source).values
    if values.shape[1] != 1 or (values != np.floor(values)).any():
        raise InputError(
            f"{source} is a Vest file, but not one of groups; expected one column of whole "
            "numbers, as in a .grp."
        )
    return [f"{value:.0f}" for value in values[:, 0]]


def _split_line(line: str) -> list[str]:
    """Split a line at the first separator that it has: comma, tab or semicolon."""
    for separator in ",\t;":
        [cells] = csv.reader([line], delimiter=separator, skipinitialspace=True)
        if len(cells) > 1:
            break
    return [cell.strip() for cell in cells] or [""]
