"""Lists of tasks on pools of workers, some of which are lost."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import Program
from chores import (
    NAMES,
    advance_and_write,
    fail,
    kill_worker,
    read_and_write,
    read_starts,
    refuse,
    stumble,
    write,
    write_all,
    write_slowly,
    write_where_others_do_not_look,
)
from distributed import LocalCluster

from nipype_blm.errors import InputError
from nipype_blm.progress import listening
from nipype_blm.tasks import disks, dispatch
from nipype_blm.tasks.dispatch import find_needs, run_as_taken
from nipype_blm.tasks.options import parse_options
from nipype_blm.tasks.pools import Pool, open_pool
from nipype_blm.tasks.runner import run_tasks
from nipype_blm.tasks.task import Done, PoolError, Task, TaskError
from nipype_blm.units import GIB

N_TASKS = len(NAMES)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def start_pool(tmp_path: Path) -> Iterator[Callable[..., Pool]]:
    """Function that opens a pool, which is closed when the test ends."""
    pools = []

    def start(**arguments: Any) -> Pool:
        tasks = arguments.pop("tasks", [])
        options = parse_options({"cluster": "local", "n_procs": 2} | arguments)
        pools.append(open_pool(options, find_needs(tasks), tmp_path / "logs"))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def list_tasks(folder: Path, **functions: Callable[..., Any]) -> list[Task]:
    """Return all tasks; one called by its number, such as `out3`, may do something else."""
    paths = [folder / name for name in NAMES]
    return [Task(functions.get(path.stem, write), (path,), path, "stamp") for path in paths]


def run(folder: Path, tasks: list[Task], pool: Pool, **options: Any) -> Counter[str]:
    """Run tasks; return how often each was started."""
    outputs = run_tasks(tasks, pool, journal=folder / "journal.jsonl", **options)
    assert outputs == [task.output for task in tasks]
    return count_starts(folder)


def count_starts(folder: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in read_starts(folder))


ONCE = Counter(NAMES)


def test_tasks_share_the_workers_of_a_pool_and_are_done_once(
    tmp_path: Path, start_pool: Callable[..., Pool]
) -> None:
    tasks = list_tasks(tmp_path, **dict.fromkeys(("out0", "out1", "out2"), write_slowly))
    pool = start_pool(tasks=tasks, n_workers=2)
    assert run(tmp_path, tasks, pool) == ONCE
    assert len({line.split()[1] for line in read_starts(tmp_path)} - {str(os.getpid())}) == 2
    entries = list(map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines()))
    assert sorted(entry["output"] for entry in entries) == NAMES
    assert {(entry["host"], entry["attempts"]) for entry in entries} == {(os.uname().nodename, 1)}
    assert min(e["seconds"] for e in entries if e["output"] in NAMES[:3]) > 0.4
    # What is made of them is another list, on the same pool.
    path = tmp_path / "all.txt"
    outputs = [task.output for task in tasks]
    run(tmp_path, [Task(read_and_write, (path, outputs), path, "stamp")], pool)
    assert path.read_text() == " ".join(["done"] * N_TASKS)
    assert run(tmp_path, tasks, pool) == ONCE


def test_a_pool_that_is_there_already_goes_on_and_keeps_nothing(
    tmp_path: Path, start_pool: Callable[..., Pool], cluster: LocalCluster
) -> None:
    pool = start_pool(cluster=cluster)
    assert run(tmp_path, list_tasks(tmp_path), pool) == ONCE
    pool.close()
    assert len(cluster.scheduler.workers) == 2
    assert not cluster.scheduler.tasks


def test_which_tasks_there_are_may_depend_on_those_that_have_ended(
    tmp_path: Path, start_pool: Callable[..., Pool], cluster: LocalCluster
) -> None:
    """Each that ends brings another one; no more than two are out at a time."""
    waiting, left = list_tasks(tmp_path)[:1], list_tasks(tmp_path)[1:]
    out = most = 0

    def take() -> Task | None:
        nonlocal out, most
        if not waiting:
            return None
        out += 1
        most = max(most, out)
        return waiting.pop()

    ended = []
    for task, done in run_as_taken(take, start_pool(cluster=cluster), 2, lambda: 2):
        assert isinstance(done, Done)
        out -= 1
        ended.append(task.output.name)
        waiting += left[:2]
        del left[:2]
    assert sorted(ended) == NAMES
    assert most == 2
    assert count_starts(tmp_path) == ONCE


def test_progress_within_a_task_is_told_here(
    tmp_path: Path, start_pool: Callable[..., Pool], cluster: LocalCluster
) -> None:
    told: Counter[str] = Counter()
    tasks = list_tasks(tmp_path, out0=advance_and_write, out1=advance_and_write)
    with listening(lambda what, n: told.update({what: n})):
        run(tmp_path, tasks, start_pool(cluster=cluster))
        end = time.monotonic() + 30
        while told["images"] < 12 and time.monotonic() < end:
            time.sleep(0.05)
    assert told == {"tasks": N_TASKS, "images": 12}


# -- Losses --------------------------------------------------------------------------------


def list_deadly(folder: Path, starts: range) -> list[Task]:
    return [
        Task(kill_worker, (folder / name, starts), folder / name, "stamp") for name in NAMES[:4]
    ]


def test_a_worker_that_is_lost_gives_back_its_task_and_no_other_is_repeated(
    tmp_path: Path, start_pool: Callable[..., Pool]
) -> None:
    """What the lost worker had done before lies on the disk, and nobody asks for it again."""
    tasks = list_deadly(tmp_path, range(4, 5))
    found = run(tmp_path, tasks, start_pool(n_workers=1, n_procs=1))
    assert sorted(found.values()) == [1, 1, 1, 2]
    assert {task.output.read_text() for task in tasks} == {"done"}
    last = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])
    assert (found[last["output"]], last["attempts"]) == (2, 2)


def test_a_task_that_was_lost_too_often_is_explained_and_the_others_are_noted(
    tmp_path: Path, start_pool: Callable[..., Pool]
) -> None:
    tasks = list_deadly(tmp_path, range(4, 99))
    with pytest.raises(PoolError) as caught:
        run(tmp_path, tasks, start_pool(n_workers=1, n_procs=1, retries=1), retries=1)
    [lost] = [name for name, n in count_starts(tmp_path).items() if n > 1]
    text = str(caught.value)
    assert f"The task of {tmp_path / lost} was started 2 x, and its worker was lost" in text
    assert "Likely reason: its process was killed, or its machine is gone" in text
    assert (tmp_path / lost).read_text() == "half"
    found = run(tmp_path, list_deadly(tmp_path, range(0)), start_pool(n_workers=1, n_procs=1))
    assert sorted(found.values()) == [1, 1, 1, 3]
    assert (tmp_path / lost).read_text() == "done"


def test_a_task_that_fits_into_no_worker_is_refused_before_any_starts(
    tmp_path: Path, start_pool: Callable[..., Pool]
) -> None:
    tasks = list_tasks(tmp_path)
    tasks[4] = tasks[4]._replace(bytes=3 * GIB)
    pool = start_pool(n_workers=2, memory_gb=4)
    message = rf"The task of {tasks[4].output} needs n_procs=1 and mem_gb=3, but a worker has .*=2;"
    with pytest.raises(InputError, match=message):
        run(tmp_path, tasks, pool)
    assert not read_starts(tmp_path)


def test_a_pool_has_as_many_workers_as_have_the_memory_of_the_largest_task(
    tmp_path: Path, start_pool: Callable[..., Pool]
) -> None:
    tasks = list_tasks(tmp_path)
    tasks[4] = tasks[4]._replace(bytes=3 * GIB)
    pool = start_pool(tasks=tasks, n_procs=4, memory_gb=4)
    assert pool.worker is not None
    assert pool.worker.mem_gb == 4
    assert run(tmp_path, tasks, pool) == ONCE


def test_a_text_among_the_arguments_that_is_too_long_for_a_path_is_no_file(
    tmp_path: Path, start_pool: Callable[..., Pool], cluster: LocalCluster
) -> None:
    text, path = f"/opt/{'x' * 5000}", tmp_path / "out.txt"
    run(tmp_path, [Task(write_all, (path, [text]), path, "stamp")], start_pool(cluster=cluster))
    assert path.read_text() == text


# -- Errors --------------------------------------------------------------------------------


def test_an_error_of_a_task_comes_with_its_traceback(
    tmp_path: Path, start_pool: Callable[..., Pool], cluster: LocalCluster
) -> None:
    tasks = list_tasks(tmp_path, out3=fail)
    with pytest.raises(TaskError, match=r"(?s)out3.txt has failed:.*in fail.*no such voxel"):
        run(tmp_path, tasks, start_pool(cluster=cluster))
    assert count_starts(tmp_path)["out3.txt"] == 1


def test_what_a_user_is_to_correct_comes_as_it_is_and_at_once(
    tmp_path: Path, start_pool: Callable[..., Pool], cluster: LocalCluster
) -> None:
    tasks = list_tasks(tmp_path, out3=refuse)
    with pytest.raises(InputError) as caught:
        run(tmp_path, tasks, start_pool(cluster=cluster))
    assert caught.value.problems == ["one image is damaged", "another, too"]
    assert count_starts(tmp_path)["out3.txt"] == 1


def test_a_task_that_failed_for_its_machine_is_tried_again(
    tmp_path: Path,
    start_pool: Callable[..., Pool],
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disks, "_SECONDS_TO_RECOVER", 0.1)
    tasks = list_tasks(tmp_path, out3=stumble)
    assert run(tmp_path, tasks, start_pool(cluster=cluster)) == Counter([*NAMES, "out3.txt"])
    last = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])
    assert (last["output"], last["attempts"]) == ("out3.txt", 2)


@pytest.mark.parametrize("is_late", [True, False])
def test_a_file_that_this_machine_does_not_see_is_awaited_and_then_missed(
    tmp_path: Path,
    start_pool: Callable[..., Pool],
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
    is_late: bool,
) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE_S", 30.0 if is_late else 1.0)
    monkeypatch.chdir(tmp_path)
    elsewhere, output = tmp_path / "elsewhere", Path("/proc/self/cwd/out.txt")
    elsewhere.mkdir()
    task = Task(write_where_others_do_not_look, (output, elsewhere), output, "stamp")
    pool, journal = start_pool(cluster=cluster), tmp_path / "journal.jsonl"
    if is_late:
        threading.Timer(2.0, os.chdir, [elsewhere]).start()
        run_tasks([task], pool, journal=journal)
        assert json.loads(journal.read_text())["size"] == len("done")
    else:
        with pytest.raises(PoolError, match=r"has not seen it for 1 s; put it on a disk that all"):
            run_tasks([task], pool, journal=journal)
        assert not journal.exists()


# -- The end of the driver -----------------------------------------------------------------

PROGRAM = """
import os, sys, time
from pathlib import Path
from nipype_blm.tasks.dispatch import find_needs
from nipype_blm.tasks.options import parse_options
from nipype_blm.tasks.pools import open_pool
from nipype_blm.tasks.runner import run_tasks
from nipype_blm.tasks.task import Task

folder = Path(sys.argv[1])

def work(path):
    line = f"{path.name} {os.getpid()}\\n"
    with open(folder / "starts.txt", "a") as file:
        file.write(line)
    number = (folder / "starts.txt").read_text().splitlines(keepends=True).index(line)
    with path.open("w") as file:
        file.write("half, ")
        file.flush()
        while number >= 4 and not (folder / "go").exists():  # two, in whatever order they come
            time.sleep(0.05)
        file.write("whole")

if __name__ == "__main__":
    paths = [folder / f"out{i}.txt" for i in range(6)]
    tasks = [Task(work, (path,), path, "stamp") for path in paths]
    options = parse_options({"cluster": "local", "n_procs": 2, "n_workers": 2})
    pool = open_pool(options, find_needs(tasks), folder / "logs")
    try:
        run_tasks(tasks, pool, journal=folder / "journal.jsonl")
    finally:
        pool.close()
"""


@pytest.mark.parametrize("end", [Program.kill, Program.interrupt])
def test_a_run_that_was_ended_half_way_goes_on_on_a_new_pool(
    tmp_path: Path, start_program: Callable[..., Program], wait_until: Callable, end: Callable
) -> None:
    """No task runs once more that was noted, and none goes on writing for a driver that is gone."""
    journal = tmp_path / "journal.jsonl"
    program = start_program(PROGRAM, str(tmp_path))

    def is_half_way() -> bool:
        noted = journal.read_text().count("\n") if journal.exists() else 0
        return noted == 4 and len(read_starts(tmp_path)) == 6

    wait_until(is_half_way, 60, "the last two tasks run")
    noted = {json.loads(line)["output"] for line in journal.read_text().splitlines()}
    others = set(NAMES) - noted
    pids = {int(line.split()[1]) for line in read_starts(tmp_path)}
    end(program)
    program.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), 60, "the workers have ended")
    (tmp_path / "go").touch()
    again = start_program(PROGRAM, str(tmp_path))
    assert again.wait() == 0, again.output
    expected = Counter([*NAMES, *others])
    assert count_starts(tmp_path) == expected, (read_starts(tmp_path), journal.read_text())
    assert {(tmp_path / name).read_text() for name in NAMES} == {"half, whole"}
