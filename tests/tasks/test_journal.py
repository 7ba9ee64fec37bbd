"""What a journal says is done is done, whatever became of its lines and of the files."""

import json
import os
from pathlib import Path

import pytest

from nipype_blm.errors import InputError
from nipype_blm.tasks.journal import Journal
from nipype_blm.tasks.task import Done, Task, find_state

N_TASKS = 4


def list_tasks(folder: Path) -> list[Task]:
    return [Task(print, (), folder / f"out{i}.bin", f"stamp {i}") for i in range(N_TASKS)]


def finish(journal: Journal, task: Task, content: str = "done") -> None:
    task.output.write_text(content)
    journal.add(task, Done(*find_state(task.output), 1.5, "a host", 2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of tasks that are all done."""
    journal = Journal(tmp_path / "journal.jsonl")
    for task in list_tasks(tmp_path):
        finish(journal, task)
    return tmp_path / "journal.jsonl"


def find_done(path: Path) -> list[int]:
    journal = Journal(path)
    return [i for i, task in enumerate(list_tasks(path.parent)) if journal.is_done(task)]


def test_each_task_that_is_done_has_one_line_of_json(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [json.loads(line)["output"] for line in lines] == [f"out{i}.bin" for i in range(N_TASKS)]
    state = (path.parent / "out2.bin").stat()
    assert json.loads(lines[2]) == {
        "output": "out2.bin",
        "stamp": "stamp 2",
        "size": 4,
        "mtime_ns": state.st_mtime_ns,
        "seconds": 1.5,
        "attempts": 2,
        "host": "a host",
    }


def test_without_a_journal_nothing_is_done(tmp_path: Path) -> None:
    assert find_done(tmp_path / "journal.jsonl") == []


@pytest.mark.parametrize("rest", [b"", bytes(7), b'{"output": "', b"\xff\xfe"])
def test_a_journal_that_was_cut_anywhere_is_believed_up_to_there_and_goes_on(
    path: Path, rest: bytes
) -> None:
    """By a kill; or by a loss of power, which can leave zeros in place of what was appended."""
    content = path.read_bytes()
    lengths = [len(line) for line in content.splitlines(keepends=True)]
    last = list_tasks(path.parent)[-1]
    for size in range(len(content)):
        path.write_bytes(content[:size] + rest)
        whole = [i for i in range(N_TASKS) if sum(lengths[: i + 1]) <= size]
        assert find_done(path) == whole
        finish(Journal(path), last)
        assert {*whole, N_TASKS - 1} <= set(find_done(path))
        # A line of which the line break alone was missing is whole.
        assert len(find_done(path)) <= len(whole) + 2


NO_ENTRIES = [
    "[]",
    "3",
    "null",
    "{}",
    "not JSON",
    "[" * 100_000,
    '{"output": "out0.bin", "stamp": "stamp 0"}',
    '{"output": "out0.bin", "stamp": "stamp 0", "size": "4", "mtime_ns": 1, "seconds": 1.0, '
    '"attempts": 1, "host": ""}',
]


@pytest.mark.parametrize("line", NO_ENTRIES, ids=range(len(NO_ENTRIES)))
def test_lines_that_are_no_entries_say_nothing(path: Path, line: str) -> None:
    path.write_text(f"{line}\n{path.read_text()}{line}\n")
    assert find_done(path) == list(range(N_TASKS))


def test_a_task_is_not_done_whose_file_is_not_as_it_left_it(path: Path) -> None:
    changed, touched, removed, replaced = list_tasks(path.parent)
    changed.output.write_text("another size")
    os.utime(touched.output, ns=(1, 1))
    removed.output.unlink()
    replaced.output.unlink()
    replaced.output.mkdir()
    assert find_done(path) == []


def test_a_task_is_not_done_that_is_made_from_something_else(path: Path) -> None:
    journal = Journal(path)
    task = list_tasks(path.parent)[0]
    assert not journal.is_done(task._replace(stamp="another"))
    finish(journal, task._replace(stamp="another"), "other")
    assert Journal(path).is_done(task._replace(stamp="another"))
    assert not Journal(path).is_done(task)  # its file is gone


def test_a_folder_with_its_journal_can_be_moved(path: Path, tmp_path: Path) -> None:
    moved = path.parent.rename(tmp_path.with_name(f"{tmp_path.name} moved"))
    assert find_done(moved / path.name) == list(range(N_TASKS))


@pytest.mark.parametrize("kind", ["link", "link that leads nowhere", "folder"])
def test_a_journal_is_a_plain_file(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "journal.jsonl", tmp_path / "other"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    if kind == "link":
        other.touch()
    with pytest.raises((InputError, IsADirectoryError)):
        finish(Journal(path), list_tasks(tmp_path)[0])
    assert not other.exists() or not other.read_bytes()
