"""The file of a pool belongs to the process that serves the pool."""

import json
import os
from pathlib import Path

import pytest
from distributed import Security

from nipype_blm.plugins.poolfile import remove_pool_file, write_pool_file

ADDRESS = "tls://127.0.0.1:1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.json"


@pytest.mark.parametrize(
    "other", ['{"address": "tls://127.0.0.1:2"}', "no pool at all"], ids=["a pool", "text"]
)
def test_a_file_that_is_there_is_never_replaced(path: Path, other: str) -> None:
    path.write_text(other)
    with pytest.raises(FileExistsError):
        write_pool_file(path, {"address": ADDRESS}, Security.temporary())
    assert path.read_text() == other
    assert list(path.parent.iterdir()) == [path]  # no part of one, with its keys


def test_a_pool_writes_and_removes_one_file_of_its_own(path: Path) -> None:
    write_pool_file(path, {"address": ADDRESS}, Security.temporary())
    assert json.loads(path.read_text())["address"] == ADDRESS
    assert list(path.parent.iterdir()) == [path]
    remove_pool_file(path)
    assert list(path.parent.iterdir()) == []
    remove_pool_file(path)  # somebody else has done it


@pytest.mark.parametrize(
    "change",
    [{"pid": os.getpid() + 1}, {"host": "another machine"}, {"pid": None}],
    ids=["process", "machine", "unknown"],
)
def test_the_file_of_another_pool_is_not_removed(path: Path, change: dict[str, object]) -> None:
    write_pool_file(path, {"address": ADDRESS})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    remove_pool_file(path)
    assert path.exists()
