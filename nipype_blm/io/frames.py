"""Tables of any columns, with names above them: covariates, labels, paths of images."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nipype_blm.errors import InputError, Problem, join_some, show
from nipype_blm.io.files import write_if_changed
from nipype_blm.io.formats import name_text
from nipype_blm.io.tables import read_text

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = "\t;,"  # where two do as well, the first
_N_TRIED = 50  # rows that tell the separator
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_LABEL = re.compile(r"(sub|ses)-\w+")
_ID_HEADER = re.compile(r"(participant|subject|subj|sub|id)(_?id)?", re.IGNORECASE)
_ENTRY = re.compile(r"\s*\\$")  # a line of a command of the shell that goes on


class _Row(NamedTuple):
    """The cells of a line, or of several that quotation marks hold together."""

    line: int  # its first one, from 1
    cells: list[str]


def read_frame(path: Path, what: str) -> "pd.DataFrame":
    """Read a table with a header: TSV, CSV, semicolons or spaces, in UTF-8 or UTF-16.

    Nothing is made of the cells but that spaces around them are left out: numbers are made of
    columns that are asked for.  Blank lines, comments above the header, and columns and rows
    without any content are left out.

    Parameters
    ----------
    path : Path
    what : str
        What messages call the table, such as the field that names it.

    Returns
    -------
    DataFrame of str
        The index has the numbers of the lines.  Of `attrs`, "source" is what messages call the
        table, "separator" is that of its columns, "levels" are those that its sidecar describes
        (a list for each column), "repeated" are names that several columns have, each with the
        table, and "notices" says what may not be meant.  Columns of a repeated name are called,
        say, "age (column 3)".

    Raises
    ------
    InputError
        If it is no table, has no header or no row, or has lines of other lengths.
    """
    import pandas as pd

    source = f"{what} {path}"
    text = read_text(path, what)
    found = name_text(text, may_have_words=True)
    if found is not None:
        raise InputError(Problem("table", "{source} is {found}.", source=source, found=found))
    header, rows, separator = _split(text, source)
    names, repeated = name_columns(header)
    frame = pd.DataFrame(
        [row.cells for row in rows], index=[row.line for row in rows], columns=names, dtype=object
    )
    # A column without name or content is what separators at the ends of lines leave.
    is_kept = [bool(name) or (frame.iloc[:, i] != "").any() for i, name in enumerate(header)]
    frame = frame.loc[:, is_kept]
    levels, notices = _read_levels(path)
    frame.attrs = {
        "source": path.name,
        "separator": separator,
        "levels": levels,
        "repeated": dict.fromkeys(repeated, path.name),
        "notices": notices,
    }
    return frame


def write_frame(
    path: Path, columns: Mapping[str, Sequence[Any]], levels: Mapping[str, Sequence[str]]
) -> None:
    """Write a table as `read_frame` reads it, and the order of levels beside it, as BIDS has it.

    What is there with the same content keeps its time.

    Parameters
    ----------
    path : Path
        Ends in .tsv; the levels go to .json.
    columns : mapping of str to sequence
        Cells by the names of columns; None and NaN are missing.
    levels : mapping of str to sequence of str
        Of categorical columns.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["n/a" if cell is None or cell != cell else cell for cell in row])
    sidecar = {name: {"Levels": {each: each for each in order}} for name, order in levels.items()}
    write_if_changed(path, text.getvalue().encode())
    write_if_changed(path.with_suffix(".json"), f"{json.dumps(sidecar, indent=1)}\n".encode())


def _split(text: str, source: str) -> tuple[list[str], list[_Row], str]:
    """Return the header, the rows below it, and the separator."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    comments = list(takewhile(lambda item: item[1].lstrip().startswith("#"), lines))
    lines = lines[len(comments) :]
    if not lines:
        raise InputError(
            Problem(
                "table",
                "{source} is empty: it needs a line of names of columns, and lines below it.",
                source=source,
            )
        )
    if _ENTRY.search(lines[0][1]):  # a table within a command, as for AFNI
        lines = [(i, _ENTRY.sub("", line)) for i, line in lines]
    separator = _find_separator([line for _, line in lines[:_N_TRIED]])
    rows = list(_split_cells(text, lines, separator, source))
    last = comments[-1][1].lstrip("# ") if comments else ""
    named = next(_split_cells(last, [(comments[-1][0], last)], separator, source)) if last else None
    if _is_header(rows):
        header, rows = rows[0].cells, rows[1:]
    elif named is not None and len(named.cells) == len(rows[0].cells) > 1:
        header = named.cells  # as NumPy writes it
    else:
        raise InputError(
            Problem(
                "table",
                "{source} has no header: its first line is {first}.  Write the names of the "
                "columns above it.",
                source=source,
                first=show(separator.join(rows[0].cells)),
            )
        )
    rows = [row for row in rows if any(row.cells)]
    if not rows:
        raise InputError(
            Problem("table", "{source} has a header but no row below it.", source=source)
        )
    header, rows = _even_out(header, rows, source)
    return header, rows, separator


def _find_separator(lines: Sequence[str]) -> str:
    """Return the separator that cuts most lines as it cuts the header, or else a space."""
    best, score = " ", (0.0, 0)
    for separator in _SEPARATORS:
        sizes = [len(_cut(line, separator)) for line in lines]
        if sizes[0] > 1:
            found = (sum(size == sizes[0] for size in sizes) / len(sizes), sizes[0])
            if found > score:
                best, score = separator, found
    return best


def _cut(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _split_cells(
    text: str, lines: Sequence[tuple[int, str]], separator: str, source: str
) -> Iterator[_Row]:
    """Yield the cells of each row; one in quotation marks may have several lines."""
    if separator == " ":
        lines = [(i, " ".join(line.split())) for i, line in lines]
    # Blank lines are left out, unless they are within quotation marks.
    reader = csv.reader(
        (f"{line}\n" for _, line in lines),
        delimiter=separator,
        skipinitialspace=separator != "\t",  # two tabs have an empty cell between them
        strict=True,
    )
    start = 0
    try:
        for cells in reader:
            yield _Row(lines[start][0], [" ".join(cell.split()) for cell in cells])
            start = reader.line_num
    except csv.Error as error:
        raise InputError(
            Problem(
                "table",
                "{source} cannot be cut into columns from line {line} on: {error}.  A quotation "
                "mark may have no other that closes it.",
                source=source,
                line=lines[min(start, len(lines) - 1)][0],
                error=error,
            )
        ) from error


def _is_header(rows: Sequence[_Row]) -> bool:
    """Return whether the first row has names: no numbers, or only where it says what they are."""
    first = rows[0].cells
    if any(_LABEL.fullmatch(cell) for cell in first):
        return False
    has_numbers = any(_NUMBER.fullmatch(cell) for cell in first)
    return not has_numbers or bool(_ID_HEADER.fullmatch(first[0]))


def _even_out(header: list[str], rows: list[_Row], source: str) -> tuple[list[str], list[_Row]]:
    """Return rows as long as the header, if only empty cells at their ends make the difference."""
    n = len(header)
    rows = [_Row(line, cells[:n] if not any(cells[n:]) else cells) for line, cells in rows]
    if all(len(cells) == n + 1 for _, cells in rows):
        return ["", *header], rows  # as R writes it: no name above the names of the rows
    odd = [f"{len(cells)} in line {line}" for line, cells in rows if len(cells) != n]
    if odd:
        raise InputError(
            Problem(
                "table",
                "{source} has {n} columns in its header, but {odd}; every line needs as many.  "
                "Write n/a for what is missing, and quotation marks around text with separators.",
                source=source,
                n=n,
                odd=join_some(odd),
            )
        )
    return header, rows


def name_columns(header: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a name for each column, such as "age (column 3)", and the names that several have."""
    counts = Counter(name for name in header if name)
    names = [
        f"column {i}" if not name else f"{name} (column {i})" if counts[name] > 1 else name
        for i, name in enumerate(header, 1)
    ]
    return names, [name for name, n in counts.items() if n > 1]


def _read_levels(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the levels that a sidecar of BIDS describes, and what is wrong with it."""
    sidecar = path.with_suffix(".json")
    if path.suffix.lower() != ".tsv" or not sidecar.is_file():
        return {}, []
    try:
        content = json.loads(sidecar.read_bytes())
    except (OSError, ValueError) as error:  # broken JSON, and bytes that are no UTF-8
        return {}, [f"{sidecar} cannot be read and is left aside: {error}."]
    return dict(_list_levels(content)), []


def _list_levels(content: Any) -> Iterator[tuple[str, list[str]]]:
    for column, about in content.items() if isinstance(content, Mapping) else ():
        levels = about.get("Levels") if isinstance(about, Mapping) else None
        if isinstance(levels, Mapping | list):
            yield column, [str(level) for level in levels]
