"""Tables of blocks, and of the records that the function has returned."""

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nipype_blm.blockmap.blocks import AXES, Grid
from nipype_blm.blockmap.journal import Ended, History, read_records
from nipype_blm.blockmap.outputs import place_path, shorten_path
from nipype_blm.blockmap.plan import Plan
from nipype_blm.errors import InputError
from nipype_blm.io.files import replacing
from nipype_blm.tasks.journal import LineWriter, read_lines

_CORNERS = [f"{axis}_{end}" for axis in AXES for end in ("start", "stop")]
# Columns that every row begins with, if it has them.
_FIRST = ["block", *AXES, *_CORNERS]


def write_block_tables(plan: Plan, history: History) -> None:
    """Write the table of all blocks, and that of those that were skipped."""
    paths = plan.paths
    ended = [history.ended[number] for number in sorted(history.ended)]
    columns = ["block", *_CORNERS, "state", "seconds", "host", "bytes"]
    rows = (
        [*_describe_place(plan.grid, each), each.state, each.seconds, each.host, each.n_bytes]
        for each in ended
    )
    _write_rows(paths.blocks_table, columns, rows)
    skipped = history.skipped
    if not skipped:
        paths.skipped_table.unlink(missing_ok=True)
        return
    columns = ["block", *_CORNERS, "error", "traceback"]
    # A row is a line: tracebacks have their breaks as \n.
    _write_rows(
        paths.skipped_table,
        columns,
        (
            [*_describe_place(plan.grid, each), each.error, each.traceback.replace("\n", "\\n")]
            for each in skipped
        ),
    )


def _describe_place(grid: Grid, ended: Ended) -> list[Any]:
    block = grid[ended.number]
    pairs = zip(block.start, block.stop, strict=True)
    return [ended.key, *(n for pair in pairs for n in pair)]


def _write_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], separator: str = "\t"
) -> None:
    with replacing(path) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        file.flush()
        file.detach()


def find_table(plan: Plan) -> Path:
    """Return where the table of records is."""
    return Path(plan.out_dir, Path(plan.config.table).expanduser())


def check_table(plan: Plan) -> None:
    """Refuse to write over a table that no run into this folder has made.

    Raises
    ------
    InputError
    """
    path = find_table(plan)
    if path.exists() and path not in list_own_tables(plan):
        raise InputError(
            f"{path}, to which records go, is there already, and not of a run into this folder; "
            "give another table, or overwrite."
        )


def list_own_tables(plan: Plan) -> list[Path]:
    """Return the tables that runs into this folder have made."""
    return [
        Path(place_path(line["path"], plan.out_dir)) for line in read_lines(plan.paths.own_tables)
    ]


def note_table(plan: Plan) -> None:
    """Note, before it is written, that the table is of a run into this folder."""
    path = find_table(plan)
    if path not in list_own_tables(plan):
        with LineWriter(plan.paths.own_tables) as lines:
            lines.write({"path": shorten_path(str(path), plan.out_dir)})


def write_table(path: Path, places: Sequence[tuple[int, Path, int]]) -> None:
    """Write records, as `find_records` has found them, in the order of blocks.

    Columns are those that any record has; where one lacks a column its cell is empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = _order(dict.fromkeys(key for row in read_records(places) for key in row))
    if path.suffix == ".parquet":
        _write_parquet(path, columns, list(read_records(places)))
    else:
        rows = ([_write_cell(row.get(c)) for c in columns] for row in read_records(places))
        _write_rows(path, columns, rows, "," if path.suffix == ".csv" else "\t")


def _order(found: Iterable[str]) -> list[str]:
    """Return columns: first block and place, then as they came."""
    names = list(found) or ["block"]
    first = [name for name in _FIRST if name in names]
    return [*first, *(name for name in names if name not in first)]


def _write_cell(value: Any) -> Any:
    return "n/a" if _is_missing(value) else value


def _write_parquet(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = [_make_column([row.get(column) for row in rows]) for column in columns]
    with replacing(path) as file:
        pq.write_table(pa.table(arrays, names=list(columns)), file)


def _make_column(values: Sequence[Any]) -> Any:
    """Return a column: whole numbers exactly, also above what a real one can hold."""
    import pyarrow as pa

    kinds = {type(value) for value in values if not _is_missing(value)}
    if float not in kinds and kinds:  # NaN is how pandas and others write that one is missing
        values = [None if _is_missing(value) else value for value in values]
    if kinds == {int}:
        for dtype in (pa.int64(), pa.uint64()):
            with suppress(OverflowError, pa.ArrowInvalid):
                return pa.array(values, dtype)
    if kinds == {int, float} and all(map(_is_real, values)):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if kinds in ({bool}, {float}, {str}, set()):
        return pa.array(values)
    return pa.array([None if v is None else str(v) for v in values], pa.string())


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def _is_real(value: Any) -> bool:
    """Return whether a number is one that a real one can hold."""
    try:
        return _is_missing(value) or float(value) == value
    except OverflowError:
        return False
