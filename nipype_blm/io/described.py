"""Tables with a description of each column, as BIDS has them: a .tsv and a .json."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nipype_blm import __version__


def format_described(
    name: str,
    words: str,
    columns: Mapping[str, str],
    rows: Iterable[Sequence[Any]],
    details: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the texts of NAME.tsv and NAME.json, by the names of their files.

    Parameters
    ----------
    name : str
    words : str
        What the table is.
    columns : mapping of str to str
        What each column is.
    rows : iterable of sequences
        A cell for each column; None, NaN and "" are written as n/a.
    details : mapping, optional
        What else the .json says, as JSON values.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_write_cell(cell) for cell in row] for row in rows)
    sidecar: dict[str, Any] = {"Description": words, **(details or {})}
    sidecar |= {column: {"Description": said} for column, said in columns.items()}
    sidecar["GeneratedBy"] = {"Name": "nipype_blm", "Version": __version__}
    return {f"{name}.tsv": text.getvalue(), f"{name}.json": f"{json.dumps(sidecar, indent=2)}\n"}


def _write_cell(cell: Any) -> Any:
    if cell is None or cell == "" or cell != cell:
        return "n/a"
    return f"{cell:.6g}" if isinstance(cell, float) else cell
