"""FSL's Vest files: designs (.mat), contrasts (.con), F tests (.fts) and groups (.grp)."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError, join_some, show

_NAME = re.compile(r"/ContrastName(\d+)\s+(.*)")
_COUNT = re.compile(r"/(NumWaves|NumPoints|NumContrasts)\s+(\S+)")
# What the rows of each kind of file are called.
_ROWS = {"mat": "NumPoints", "grp": "NumPoints", "con": "NumContrasts", "fts": "NumContrasts"}


class Vest(NamedTuple):
    """The content of a Vest file."""

    values: FloatArray  # (n_rows, n_columns)
    names: dict[int, str]  # of rows, from 0: the /ContrastName lines
    first_line: int  # of the file, that has a row
    of_contrasts: bool  # as .con and .fts are


def parse_vest(text: str, source: str) -> Vest:
    """Read a Vest file.

    Parameters
    ----------
    text : str
    source : str
        What messages call the file.

    Raises
    ------
    InputError
        If there is no matrix, or it holds anything but finite numbers, or its header gives it
        another size.
    """
    lines = [line.strip() for line in text.splitlines()]
    start = next((i for i, line in enumerate(lines) if line == "/Matrix"), None)
    if start is None:
        raise InputError(
            f"{source} has no line /Matrix, behind which FSL's Vest files have their numbers; it "
            "may be cut off. Write it again, as with Text2Vest."
        )
    rows = [(i, line.split()) for i, line in enumerate(lines[start + 1 :], start + 2) if line]
    if not rows:
        raise InputError(f"{source} has no number behind /Matrix; write it again.")
    counts, names = _read_header(lines[:start], source)
    values = _read_rows(rows, counts.get("NumWaves"), source)
    for name in ("NumPoints", "NumContrasts"):
        if counts.get(name, len(rows)) != len(rows):
            raise InputError(
                f"{source} says /{name} {counts[name]}, but its matrix has {len(rows)} rows; FSL "
                "takes the former, so correct the one that is wrong."
            )
    return Vest(values, names, rows[0][0], bool(names) or "NumContrasts" in counts)


def read_design(text: str, source: str) -> Vest:
    """Read a design (.mat) or groups (.grp): one row for each image; see `parse_vest`."""
    vest = parse_vest(text, source)
    if vest.of_contrasts:
        raise InputError(
            f"{source} has contrasts (.con) or F tests (.fts); expected a row for each image, as "
            "in a design (.mat)."
        )
    return vest


def read_weights(text: str, source: str) -> Vest:
    """Read contrasts (.con) or F tests (.fts); see `parse_vest`."""
    vest = parse_vest(text, source)
    if not vest.of_contrasts:
        raise InputError(
            f"{source} has no /NumContrasts; expected contrasts (.con) or F tests (.fts), not a "
            "design or groups."
        )
    return vest


def _read_header(lines: Sequence[str], source: str) -> tuple[dict[str, int], dict[int, str]]:
    """Return the counts, and the names of contrasts; other lines are for FSL's own pictures."""
    counts: dict[str, int] = {}
    names: dict[int, str] = {}
    for line in lines:
        if found := _NAME.fullmatch(line):
            names[int(found[1]) - 1] = found[2].strip()
        elif found := _COUNT.fullmatch(line):
            if not found[2].isdecimal():
                raise InputError(f"{source} says {show(line)}; expected a whole number there.")
            counts[found[1]] = int(found[2])
    return counts, names


def _read_rows(
    rows: Sequence[tuple[int, list[str]]], n_waves: int | None, source: str
) -> FloatArray:
    n_columns = len(rows[0][1]) if n_waves is None else n_waves
    ragged = [f"{len(cells)} in line {i}" for i, cells in rows if len(cells) != n_columns]
    if len(ragged) == len(rows) and len({len(cells) for _, cells in rows}) == 1:
        raise InputError(
            f"{source} says /NumWaves {n_columns}, but its matrix has {len(rows[0][1])} columns; "
            "correct the one that is wrong."
        )
    if ragged:
        raise InputError(
            f"{source} needs {n_columns} numbers in every line of its matrix; there are "
            f"{join_some(ragged)}."
        )
    values = np.array([[_to_number(cell) for cell in cells] for _, cells in rows])
    bad = [
        f"{show(cells[np.flatnonzero(~np.isfinite(row))[0]])} in line {i}"
        for (i, cells), row in zip(rows, values, strict=True)
        if not np.isfinite(row).all()
    ]
    if bad:
        raise InputError(f"{source} must hold finite numbers only; it has {join_some(bad)}.")
    return values


def _to_number(cell: str) -> float:
    try:
        return float(cell.replace("_", "x"))  # Python reads 1_0 as 10
    except ValueError:
        return math.nan


def format_vest(values: FloatArray, kind: str, names: Sequence[str] = ()) -> str:
    """Return the text of a Vest file as FSL writes it; numbers have digits to read back exactly.

    Parameters
    ----------
    values : array of shape (n_rows, n_columns)
    kind : str
        ``mat``, ``con``, ``fts`` or ``grp``.
    names : sequence of str
        Of contrasts.
    """
    n_rows, n_columns = values.shape
    # A name ends with its line.
    lines = [f"/ContrastName{i}\t{' '.join(name.split())}" for i, name in enumerate(names, 1)]
    lines += [f"/NumWaves\t{n_columns}", f"/{_ROWS[kind]}\t{n_rows}"]
    if kind in ("mat", "con"):
        # Of zero to the largest and the smallest value: 1 for a column of ones.
        axis = 0 if kind == "mat" else 1
        heights = values.max(axis, initial=0) - values.min(axis, initial=0)
        lines.append("/PPheights\t" + "".join(f"\t{height:e}" for height in heights))
    if kind == "con":
        lines.append("/RequiredEffect\t" + "\t100.000" * n_rows)
    write = _format_number if kind in ("mat", "con") else "{:.0f}".format
    rows = ["\t".join(map(write, row)) for row in values]
    return "\n".join([*lines, "", "/Matrix", *rows]) + "\n"


def _format_number(value: float) -> str:
    """Return a number as C's %e has it, with more digits where it needs them."""
    return np.format_float_scientific(value, min_digits=6, exp_digits=2)
