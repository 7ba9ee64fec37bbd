"""Tables of records: exact, in the order of blocks, whatever columns each block has."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from blockmap.block_runs import KEYS, SIZE, VOLUME, Calls, read_rows
from numpy.typing import NDArray

from nipype_blm.blockmap import Block, map_blocks
from nipype_blm.errors import InputError

EM = {"em": VOLUME}
CORNERS = [f"{axis}_{end}" for axis in "zyx" for end in ("start", "stop")]


def run(folder: Path, rows: dict[str, Any], table: str, **options: Any) -> Path:
    """Run a function that returns rows for some blocks; return the table."""
    calls = Calls(lambda _, block: rows.get(block.key))
    result = map_blocks(calls, EM, folder, block_size=SIZE, table=table, **options)
    assert result.table == folder / table
    assert result.keys == KEYS
    return result.table


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("ending", ["tsv", "csv", "parquet"])
def test_rows_have_all_columns_in_the_order_of_blocks(
    tmp_path: Path, ending: str, n_threads: int
) -> None:
    rows: dict[str, Any] = {
        KEYS[0]: [],
        KEYS[1]: [{"label": 2**53 + 1, "a": 1.5}, {"label": None, "a": math.nan}],
        KEYS[3]: {"b": 'tab\there, line\nbreak, "quote" and \r', "label": 2**63 + 1},
        KEYS[-1]: [{"a": 0.1 + 0.2, "b": "é"}],
    }
    path = run(tmp_path, rows, f"rows.{ending}", n_threads=n_threads)
    if ending == "parquet":
        table = pq.read_table(path)
        found = table.to_pylist()
        columns = table.column_names
        assert str(table.schema.field("label").type) == "uint64"
        missing = None
    else:
        found = read_rows(path)
        columns = list(found[0])
        missing = "n/a"
    assert columns == ["block", *CORNERS, "label", "a", "b"]
    assert [row["block"] for row in found] == [KEYS[1], KEYS[1], KEYS[3], KEYS[-1]]
    labels = [row["label"] for row in found]
    exact: list[Any] = [2**53 + 1, None, 2**63 + 1, None]
    assert (
        labels == exact
        if ending == "parquet"
        else [missing if each is None else str(each) for each in exact]
    )
    assert [row["b"] for row in found] == [missing, missing, rows[KEYS[3]]["b"], "é"]
    assert float(found[3]["a"]) == 0.1 + 0.2
    assert int(found[2]["y_start"]) == 3


def test_a_tsv_is_read_by_pandas(tmp_path: Path) -> None:
    path = run(
        tmp_path, {KEYS[0]: [{"n": 2**62 + 1, "t": "a\tb\nc"}, {"n": 3, "t": None}]}, "t.tsv"
    )
    table = pd.read_csv(path, sep="\t")
    assert table["n"].tolist() == [2**62 + 1, 3]
    assert table["t"].tolist()[0] == "a\tb\nc"
    assert table["t"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "dtype", "read"),
    [
        ([1, 2, None], "int64", [1, 2, None]),
        ([-1, 2**53 + 1, math.nan], "int64", [-1, 2**53 + 1, None]),
        ([1, 2**64 - 1], "uint64", [1, 2**64 - 1]),
        ([-1, 2**64 - 1], "string", ["-1", str(2**64 - 1)]),
        ([1, 2**70], "string", ["1", str(2**70)]),
        ([1, 0.5], "double", [1.0, 0.5]),
        # No real number is this one, and to round it would give another label.
        ([2**53 + 1, 0.5], "string", [str(2**53 + 1), "0.5"]),
        ([True, None, False], "bool", [True, None, False]),
        ([True, 2], "string", ["True", "2"]),
        (["a", 1, 0.5], "string", ["a", "1", "0.5"]),
        (["a", math.nan], "string", ["a", None]),
        ([True, math.nan], "bool", [True, None]),
        ([None, None], "null", [None, None]),
        ([None, math.nan, 1.5], "double", [None, math.nan, 1.5]),
        ([math.inf, 1], "double", [math.inf, 1.0]),
    ],
)
def test_columns_of_parquet_keep_their_values(
    tmp_path: Path, values: list[Any], dtype: str, read: list[Any]
) -> None:
    rows = {key: {"v": value} for key, value in zip(KEYS, values, strict=False)}
    column = pq.read_table(run(tmp_path, rows, "t.parquet")).column("v")
    assert str(column.type) == dtype
    assert repr(column.to_pylist()) == repr(read)  # NaN is not equal to itself


@pytest.mark.parametrize("ending", ["tsv", "parquet"])
def test_a_table_without_rows_is_written(tmp_path: Path, ending: str) -> None:
    path = run(tmp_path, {key: [] for key in KEYS}, f"t.{ending}")
    table = pd.read_csv(path, sep="\t") if ending == "tsv" else pd.read_parquet(path)
    assert len(table) == 0
    assert list(table) == ["block"]


def test_records_may_begin_with_any_block(tmp_path: Path) -> None:
    path = run(tmp_path, {KEYS[5]: {"n": 5}, KEYS[7]: [], KEYS[8]: {"n": 8}}, "t.tsv")
    assert [(row["block"], row["n"]) for row in read_rows(path)] == [(KEYS[5], "5"), (KEYS[8], "8")]


def test_text_that_no_file_can_hold_does_not_end_a_run(tmp_path: Path) -> None:
    path = run(tmp_path, {KEYS[0]: {"t": "name \udcff"}}, "t.tsv")
    assert read_rows(path)[0]["t"] == "name \\udcff"


def test_arrays_and_rows_of_a_skipped_block_are_left_out(tmp_path: Path) -> None:
    def act(data: NDArray[Any], block: Block) -> dict[str, Any]:
        if block.key == KEYS[4]:
            return {"copy": data[:1, :1, :1], "rows": [{"n": 1}]}
        return {"copy": data, "rows": [{"n": 1}]}

    result = map_blocks(Calls(act), EM, tmp_path, block_size=SIZE)
    assert [each.key for each in result.skipped] == [KEYS[4]]
    assert result.table
    assert KEYS[4] not in [row["block"] for row in read_rows(result.table)]
    assert len(read_rows(result.table)) == len(KEYS) - 1


def test_a_block_that_was_done_twice_has_its_rows_once(tmp_path: Path) -> None:
    run(tmp_path, {KEYS[4]: {"n": 1}}, "t.tsv")
    # As of a worker that was taken for lost, and was not.
    journals = sorted((tmp_path / "journal").iterdir())
    copy = journals[-1].with_name(f"{10**19 + 1}-0.jsonl")
    copy.write_bytes(b"".join(path.read_bytes() for path in journals))
    path = run(tmp_path, {}, "t.tsv")
    assert len(read_rows(path)) == 1
    assert np.array_equal(len(read_rows(tmp_path / "blocks.tsv")), len(KEYS))


@pytest.mark.parametrize("rows", [{}, {"block_": 7}])
def test_a_column_of_the_name_block_keeps_the_key(tmp_path: Path, rows: dict[str, Any]) -> None:
    path = run(tmp_path, {KEYS[4]: [{"n": 1, "block": "mine", "z": 0} | rows]}, "t.tsv")
    (row,) = read_rows(path)
    assert row["block"] == KEYS[4]
    assert row["block__" if rows else "block_"] == "mine"
    assert row.get("block_") == ("7" if rows else "mine")


def test_a_table_that_no_run_has_made_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.tsv"
    theirs.write_text("years of work")
    calls = Calls(lambda *_: {"n": 1})
    options: dict[str, Any] = {"block_size": SIZE, "table": str(theirs)}
    with pytest.raises(InputError, match=r"theirs\.tsv, .* is there already"):
        map_blocks(calls, EM, tmp_path / "out", **options)
    assert (calls.keys, theirs.read_text()) == ([], "years of work")
    map_blocks(calls, EM, tmp_path / "out", **options, overwrite=True)
    assert len(read_rows(theirs)) == len(KEYS)
    # Now it is one of ours, which the same run may write again.
    assert map_blocks(calls, EM, tmp_path / "out", **options).table == theirs


def test_tables_of_an_earlier_run_go_with_it(tmp_path: Path) -> None:
    theirs = tmp_path / "notes.tsv"
    theirs.write_text("years of work")
    calls = Calls(lambda *_: {"n": 1})
    tables = [
        map_blocks(calls, EM, tmp_path, block_size=SIZE, table=name).table
        for name in ("a.tsv", "b.csv")
    ]
    assert all(path and path.is_file() for path in tables)
    calls.act = lambda data, _: data
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE, overwrite=True)
    assert result.table is None
    assert not any(path and path.exists() for path in tables)
    assert theirs.read_text() == "years of work"
