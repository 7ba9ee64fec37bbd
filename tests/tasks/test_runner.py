"""Lists of tasks that run here: each is done once, whatever happens in between."""

import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Program

from nipype_blm.errors import InputError
from nipype_blm.progress import listening
from nipype_blm.tasks import disks
from nipype_blm.tasks.runner import run_tasks
from nipype_blm.tasks.task import Task, TaskError

N_TASKS = 6


class Desk:
    """A folder with tasks that write a text, and note each start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.jsonl"
        self.started: list[str] = []

    def write(self, output: Path, text: str) -> None:
        self.started.append(output.name)
        output.write_text(text)

    def task(self, i: int, function: Callable[..., Any] | None = None, text: str = "new") -> Task:
        output = self.folder / f"out{i}.txt"
        return Task(function or self.write, (output, text), output, f"{text} {i}")

    def tasks(self, text: str = "new", **functions: Callable[..., Any]) -> list[Task]:
        """Return all tasks; one called by its number, such as `out3`, may do something else."""
        return [self.task(i, functions.get(f"out{i}"), text) for i in range(N_TASKS)]

    def run(self, tasks: list[Task], **options: Any) -> list[str]:
        """Run tasks; return which were started."""
        self.started.clear()
        assert run_tasks(tasks, journal=self.journal, **options) == [t.output for t in tasks]
        return self.started

    def noted(self) -> list[str]:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [json.loads(line)["output"] for line in lines]

    def texts(self) -> list[str]:
        return [(self.folder / f"out{i}.txt").read_text() for i in range(N_TASKS)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


NAMES = [f"out{i}.txt" for i in range(N_TASKS)]


def test_tasks_run_in_their_order_and_once(desk: Desk) -> None:
    assert desk.run(desk.tasks()) == NAMES == desk.noted()
    assert desk.run(desk.tasks()) == []
    assert desk.run(list(reversed(desk.tasks()))) == []
    assert desk.noted() == NAMES


def test_a_list_without_tasks_is_done(desk: Desk) -> None:
    assert desk.run([]) == []


def test_lists_one_after_the_other_share_a_journal(desk: Desk) -> None:
    tasks = desk.tasks()
    desk.run(tasks[:2])
    assert desk.run(tasks[2:]) == NAMES[2:]
    assert desk.run(tasks) == []


def test_the_journal_says_how_long_a_task_took_where_and_at_which_attempt(desk: Desk) -> None:
    desk.run(desk.tasks()[:1])
    [line] = desk.journal.read_text().splitlines()
    entry = json.loads(line)
    assert entry["host"] == os.uname().nodename
    assert 0 <= entry["seconds"] < 60
    assert entry["attempts"] == 1


def test_what_is_made_from_something_else_is_made_again_also_after_an_error_half_way(
    desk: Desk,
) -> None:
    """Files of both kinds lie there then; those of the earlier one are not believed."""

    def fail(output: Path, text: str) -> None:
        raise ValueError("too few resources")

    desk.run(desk.tasks("old"))
    with pytest.raises(ValueError, match="too few"):
        desk.run(desk.tasks("new", out3=fail))
    assert desk.texts() == ["new"] * 3 + ["old"] * 3
    assert desk.run(desk.tasks("new")) == NAMES[3:]
    assert desk.texts() == ["new"] * N_TASKS


def test_a_task_that_fails_after_it_has_written_is_not_done(desk: Desk) -> None:
    def fail_late(output: Path, text: str) -> None:
        desk.write(output, text)
        raise ValueError("exit code 1")

    with pytest.raises(ValueError, match="exit code 1"):
        desk.run(desk.tasks(out2=fail_late))
    assert (desk.folder / "out2.txt").read_text() == "new"
    assert desk.noted() == NAMES[:2]
    assert desk.run(desk.tasks()) == NAMES[2:]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_task_that_writes_nothing_is_an_error_also_if_a_file_of_earlier_is_there(
    desk: Desk, is_there: bool
) -> None:
    if is_there:
        (desk.folder / "out0.txt").write_text("of an earlier run")
    with pytest.raises(TaskError, match=r"task of .*out0.txt has ended, but has not written it"):
        desk.run([desk.task(0, lambda *_: None)])
    assert desk.noted() == []


def test_a_file_that_was_damaged_is_made_again(desk: Desk) -> None:
    def is_whole(path: Path) -> bool:
        return path.read_text() == "new"

    desk.run(desk.tasks(), is_whole=is_whole)
    path = desk.folder / "out1.txt"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("nev")
    os.utime(path, ns=times)
    assert desk.run(desk.tasks()) == []  # its size and time are the same
    assert desk.run(desk.tasks(), is_whole=is_whole) == ["out1.txt"]


def test_two_tasks_do_not_write_one_file(desk: Desk) -> None:
    with pytest.raises(ValueError, match=r"Several tasks write .*out0.txt; give each"):
        desk.run([desk.task(0), desk.task(1), desk.task(0, text="other")])
    assert desk.started == []


def test_those_who_listen_are_told_of_each_task(desk: Desk) -> None:
    told: Counter[str] = Counter()
    desk.run(desk.tasks()[:2])
    with listening(lambda what, n: told.update({what: n})):
        desk.run(desk.tasks())
    assert told == {"tasks": N_TASKS}


# -- Errors --------------------------------------------------------------------------------


def stumble(desk: Desk, n: int, error: BaseException) -> Callable[..., None]:
    """Return a function that fails n times."""

    def function(output: Path, text: str) -> None:
        desk.write(output, text)
        if desk.started.count(output.name) <= n:
            raise error

    return function


def make_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOSPC, errno.ETIMEDOUT])
def test_a_task_that_failed_for_its_machine_is_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(disks, "_SECONDS_TO_RECOVER", 0.01)
    tasks = desk.tasks(out1=stumble(desk, 2, make_error(number)))
    assert desk.run(tasks) == ["out0.txt", *["out1.txt"] * 3, *NAMES[2:]]
    entries = map(json.loads, desk.journal.read_text().splitlines())
    assert [entry["attempts"] for entry in entries] == [1, 3, 1, 1, 1, 1]
    assert "out1.txt failed for its machine, and is tried again in 0.01 s" in caplog.text


def test_a_machine_that_fails_always_is_an_error_in_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "_SECONDS_TO_RECOVER", 0.01)
    with pytest.raises(OSError, match="Stale file handle"):
        desk.run(desk.tasks(out0=stumble(desk, 9, make_error(errno.ESTALE))), retries=3)
    assert desk.started == ["out0.txt"] * 4


def caused_by_a_disk() -> InputError:
    error = InputError(["one image is damaged", "and another"])
    error.__cause__ = make_error(errno.EIO)
    return error


@pytest.mark.parametrize(
    "error",
    [
        InputError("an image is damaged"),
        InputError("line 3 says: [Errno 5] Input/output error"),
        caused_by_a_disk(),
        make_error(errno.ENOENT),
        ValueError("no such voxel"),
    ],
    ids=str,
)
def test_other_errors_come_at_once_as_they_are(desk: Desk, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        desk.run(desk.tasks(out1=stumble(desk, 1, error)))
    assert caught.value is error
    assert desk.started == NAMES[:2]
    assert desk.noted() == NAMES[:1]


# -- The end of the process ----------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from nipype_blm.tasks.runner import run_tasks
from nipype_blm.tasks.task import Task

folder = Path(sys.argv[1])

def work(path):
    with open(folder / "starts.txt", "a") as file:
        file.write(path.name + "\\n")
    with path.open("w") as file:
        file.write("half, ")
        file.flush()
        if path.name == "out3.txt" and not (folder / "go").exists():
            (folder / "is_there").touch()
            time.sleep(600)
        file.write("whole")

paths = [folder / f"out{i}.txt" for i in range(6)]
run_tasks([Task(work, (path,), path, "stamp") for path in paths], journal=folder / "journal.jsonl")
"""


@pytest.mark.parametrize("end", [Program.kill, Program.interrupt])
def test_a_run_that_was_ended_half_way_goes_on_and_believes_no_half_of_a_file(
    tmp_path: Path, start_program: Callable[..., Program], wait_until: Callable, end: Callable
) -> None:
    program = start_program(PROGRAM, str(tmp_path))
    wait_until((tmp_path / "is_there").exists, 60, "the fourth task runs")
    end(program)
    program.wait()
    assert (tmp_path / "out3.txt").read_text().startswith("half")
    (tmp_path / "go").touch()
    assert start_program(PROGRAM, str(tmp_path)).wait() == 0
    starts = (tmp_path / "starts.txt").read_text().split()
    assert starts == [*NAMES[:4], *NAMES[3:]]
    assert {(tmp_path / name).read_text() for name in NAMES} == {"half, whole"}
    assert start_program(PROGRAM, str(tmp_path)).wait() == 0
    assert (tmp_path / "starts.txt").read_text().split() == starts
