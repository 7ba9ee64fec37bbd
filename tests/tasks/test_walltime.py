"""Workers end before their jobs do, and nodes are not started where they cannot end."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml
from distributed import Client, LocalCluster, Status, get_worker
from nipype import Function, MapNode, Workflow

from nipype_blm.plugins import DaskPlugin
from nipype_blm.tasks.batch import BATCH_SYSTEMS
from nipype_blm.tasks.calls import Call, Calls
from nipype_blm.tasks.jobs import Jobs, record_jobs
from nipype_blm.tasks.options import Resources, parse_options
from nipype_blm.tasks.pools import Pool, open_pool
from nipype_blm.tasks.walltime import SECONDS, EndBeforeJob, JobTimes, note_times

WALLTIME_S = 18  # of which a worker needs some to start
LONG_S = 1000  # of which the start of a worker is nothing, however slow the machine


@pytest.fixture
def jobs_that_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the jobs of local pools end as those of a batch system do, with all their processes."""
    assert BATCH_SYSTEMS["local"].cluster_class  # whose defaults are there from then on
    section = "jobqueue.local"
    with dask.config.set(
        {
            f"{section}.worker-extra-args": ["--walltime", WALLTIME_S],
            f"{section}.job-script-prologue": [f"(sleep {WALLTIME_S}; kill -9 0) &"],
        }
    ):
        yield


def sleep(x: int, folder: str, seconds: float) -> int:
    import os
    import time
    from pathlib import Path

    Path(folder, f"{x}-{os.getpid()}-{time.monotonic_ns()}.started").touch()
    time.sleep(seconds)
    return x


def spend(x: int, folder: str, seconds: float) -> int:
    """Have the worker find that this took some seconds of its job."""
    import os
    import time
    from pathlib import Path

    from distributed import get_worker

    Path(folder, f"{x}-{os.getpid()}-{time.monotonic_ns()}.started").touch()
    end = get_worker().plugins["nipype-blm-end-before-job"]
    end._job = type(end._job)(*(moment - seconds for moment in end._job))
    end._start -= seconds
    end._began -= seconds
    return x


def run(folder: Path, n: int, seconds: float, function: Any = sleep, **arguments: Any) -> list[str]:
    """Run nodes that take some seconds; return which were started, in order."""
    node = MapNode(Function(function=function), "x", "sleep")
    node.inputs.x = list(range(n))
    node.inputs.folder, node.inputs.seconds = str(folder), seconds
    workflow = Workflow("wf", base_dir=str(folder))
    workflow.config["execution"] = {"crashdump_dir": str(folder)}
    workflow.add_nodes([node])
    workflow.run(plugin=DaskPlugin({"cluster": "local"} | arguments))
    return list_starts(folder)


def list_starts(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.glob("*.started"))


def test_nodes_half_as_long_as_the_walltime_are_started_once_each(tmp_path: Path) -> None:
    """No worker takes a node that it could not finish; it ends in peace, and is replaced."""
    assert BATCH_SYSTEMS["local"].cluster_class  # whose defaults are there from then on
    with dask.config.set({"jobqueue.local.worker-extra-args": ["--walltime", LONG_S]}):
        assert run(tmp_path, 4, LONG_S / 2, spend, n_workers=2) == ["0", "1", "2", "3"]
    logs = (path.read_text() for path in (tmp_path / "wf" / "dask_logs").glob("*.log"))
    assert sum(log.count("Reason: nipype-blm-end-before-job") for log in logs) >= 2


def test_a_node_killed_by_walltime_twice_is_reported_and_not_started_again(
    tmp_path: Path, jobs_that_end: None
) -> None:
    """Whatever `retries` say: a third job would have no more time."""
    with pytest.raises(RuntimeError) as caught:
        run(tmp_path, 1, 600, n_workers=1, retries=5)
    assert list_starts(tmp_path) == ["0", "0"]
    reason = f"walltime: it still ran when the time of its job, 0:00:{WALLTIME_S}, was over (2 x)"
    assert "was started 2 x, and its worker was lost" in str(caught.value)
    assert reason in str(caught.value)


def test_the_walltime_is_the_reason_also_where_nothing_is_repeated(
    tmp_path: Path, jobs_that_end: None
) -> None:
    with pytest.raises(
        RuntimeError, match=r"was started 1 x.*\nLikely reason: walltime: .*\(1 x\)"
    ):
        run(tmp_path, 1, 600, n_workers=1, retries=0)


def test_a_worker_without_work_ends_before_its_job(
    tmp_path: Path, jobs_that_end: None, wait_until: Callable
) -> None:
    pool = open_pool(
        parse_options({"cluster": "local", "n_workers": 1}), Resources(1, 0.1), tmp_path
    )

    def find_workers() -> set[str]:
        return set(pool.client.scheduler_info(n_workers=-1)["workers"])

    try:
        wait_until(find_workers, 60, "there is a worker")
        first = find_workers()
        wait_until(lambda: not first & find_workers(), 60, "it has ended")
        log = next(tmp_path.glob("*-0-*.log"))
        reason = "Reason: nipype-blm-end-before-job"
        wait_until(lambda: reason in log.read_text(), 60, "its log says why")
        wait_until(lambda: pool.check() or find_workers(), 60, "another is there")
    finally:
        pool.close()


class Told(EndBeforeJob):
    """A worker of a job of 1000 s that was told how long nodes have taken on other workers."""

    def __init__(self, start: float, worker_start: float, seconds: dict[str, list[float]]) -> None:
        self._job, self._start = JobTimes(start, start + 1000), worker_start
        self._seconds = seconds

    def _find_seconds(self, run: str) -> dict[str, Any]:
        return self._seconds


@pytest.mark.parametrize(
    ("age", "worker_age", "seconds", "has_time"),
    [
        (500, 490, {}, True),
        (500, 490, {"_products": [440]}, True),
        (500, 490, {"_products": [460]}, False),  # 5 % are kept for the end
        (500, 490, {"_products": [460, 1]}, False),
        (500, 490, {"_products": [460, 1, 460, 1]}, False),
        (500, 490, {"_products": [900, 1, 440, 1]}, True),  # one was slow, once
        (500, 490, {"estimates": [460]}, True),
        (500, 490, {"_products7-ab12": [math.inf]}, False),  # was ended by a walltime before
        (960, 950, {}, False),
        (99, 1, {"_products": [990]}, True),  # no other worker would have more time
        (99, 1, {"_products7-ab12": [math.inf]}, True),
        (960, 1, {}, True),
        (990, 300, {}, False),
    ],
)
def test_a_worker_has_time_for_a_node_by_what_nodes_of_its_name_have_taken_anywhere(
    age: float, worker_age: float, seconds: dict[str, list[float]], has_time: bool
) -> None:
    """The elements of a MapNode share a name; a new worker takes any node, or none ever would."""
    now = time.time()
    worker = Told(now - age, now - worker_age, seconds)
    assert worker._job is not None
    assert worker._has_time(worker._job, "run", "_products7-ab12") == has_time


@pytest.mark.parametrize(
    ("slow", "other", "share"),
    [
        ("_smooth0", "_smooth12", True),
        ("_smooth2mm0", "_smooth2mm12", True),
        ("_smooth8mm0", "_smooth2mm0", False),
        ("smooth8", "smooth2", False),
    ],
)
def test_only_the_elements_of_one_mapnode_share_a_name(slow: str, other: str, share: bool) -> None:
    """Numbers in the names of nodes make different nodes of them."""
    name = slow[:-1] if slow[0] == "_" else slow
    worker = Told(time.time() - 500, time.time() - 490, {name: [460]})
    assert worker._job is not None
    assert not worker._has_time(worker._job, "run", f"{slow}-ab12")
    assert worker._has_time(worker._job, "run", f"{other}-ab12") != share


# -- What happens between a worker and its scheduler -------------------------------------------


@pytest.fixture
def pool_in_its_last_half(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """One worker, in this process, 500 s before the end of its job."""
    now = time.time()
    monkeypatch.setenv("NIPYPE_BLM_JOB_TIMES", f"{now - 500} {now + 500}")
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster


def run_as_a_node(key: str) -> str:
    """Do what a worker does with a node; return how its worker is at the end."""
    worker: Any = get_worker()
    end = worker.plugins[EndBeforeJob.name]
    end._start -= 400  # it is no new one
    end.admit("run", key)
    time.sleep(0.5)
    status = worker.status
    end.note_end("run", key)
    return str(status.name)


def submit_node(client: Client, name: str) -> Any:
    client.register_plugin(EndBeforeJob())
    return client.submit(run_as_a_node, f"{name}-1", key=f"{name}-1")


def test_no_worker_leaves_while_it_decides_to_take_a_node(
    pool_in_its_last_half: LocalCluster,
) -> None:
    """Else another one runs the node, too: two write into one folder.

    The kind is: what the thread of a node decides, and what that of the worker's events does.
    """
    scheduler = pool_in_its_last_half.scheduler
    [worker] = pool_in_its_last_half.workers.values()

    async def time_is_over(keys: list[str], default: Any) -> Any:
        worker.plugins[EndBeforeJob.name]._leave_when_idle()
        return default

    scheduler.handlers["get_metadata"] = time_is_over
    with Client(pool_in_its_last_half) as client:
        assert submit_node(client, "node").result(timeout=30) == Status.running.name


@pytest.mark.parametrize("handlers", [["get_metadata"], ["set_metadata"]])
def test_a_node_does_not_fail_where_its_time_cannot_be_noted(
    pool_in_its_last_half: LocalCluster, handlers: list[str]
) -> None:
    """Whatever the scheduler is asked on the way; and the worker ends before its job does."""

    async def lose(**_: Any) -> None:
        raise OSError("the connection was lost")

    [worker] = pool_in_its_last_half.workers.values()
    pool_in_its_last_half.scheduler.handlers.update(dict.fromkeys(handlers, lose))
    with Client(pool_in_its_last_half) as client:
        assert submit_node(client, "node").result(timeout=30) == Status.running.name
        worker.loop.add_callback(worker.plugins[EndBeforeJob.name]._leave_when_idle)
        pool_in_its_last_half.sync(worker.finished, callback_timeout=30)


def test_a_pool_that_outlives_runs_keeps_nothing_of_them(
    pool_in_its_last_half: LocalCluster, tmp_path: Path
) -> None:
    noted = []
    scheduler = pool_in_its_last_half.scheduler
    note = scheduler.handlers["set_metadata"]

    def note_too(keys: list[str], value: Any) -> None:
        noted.append(value)
        note(keys=keys, value=value)

    scheduler.handlers["set_metadata"] = note_too
    run(tmp_path, 1, 0.0, cluster=pool_in_its_last_half)
    assert any(noted)
    assert not any(scheduler.task_metadata[SECONDS].values())


def test_a_call_that_was_overdue_once_and_then_lost_without_a_word_is_reported() -> None:
    """Dask does not tell the times of a job whose worker was lost before its own message."""
    calls = object.__new__(Calls)
    calls._pool = object.__new__(Pool)  # asked for nothing but the usual reason
    calls._memory = {}
    call = Call("It", "it", sleep, (), Resources(1, 0.0))
    where = {"worker": "tls://a:1", "host": "a", "pid": 1, "job_id": None, "memory_limit": 1}
    call.starts = [
        where | {"time": {"walltime": 3600.0}, "is_overdue": True},
        where | {"time": None, "is_overdue": None},
    ]
    assert "the time of its job, 1:00:00, was over (1 x)" in calls.describe_loss(call)


def test_the_times_of_a_job_are_slurms_where_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue may allow less than was asked for, and the job began before its first process."""
    for name in ("SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NIPYPE_BLM_JOB_TIMES", "")  # restored afterwards
    assert JobTimes.find() is None
    note_times(600)
    found = JobTimes.find()
    assert found is not None
    assert found.end - found.start == pytest.approx(600)
    assert found.end < time.time() + 600
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1000")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1300")
    note_times(600)
    assert JobTimes.find() == JobTimes(1000, 1300)


# -- How a walltime is written -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "walltime", "seconds"),
    [
        ("slurm", "00:30:00", 1800),
        ("slurm", "90", 5400),
        ("slurm", "1:30", 90),
        ("slurm", "2-12", 216000),
        ("slurm", "1-0:30", 88200),
        ("slurm", "1-00:00:01", 86401),
        ("slurm", "UNLIMITED", None),
        ("slurm", "x-1", None),
        ("sge", "01:00:00", 3600),
        ("sge", "3600", 3600),
        ("sge", "INFINITY", None),
        ("sge", "1::1", 3601),
        ("slurm", "0", 0),  # which is no limit
        ("pbs", "01:00:00", 3600),
        ("pbs", "30:00", 1800),
        ("pbs", "90", 90),
        ("moab", "1:00:00:00", 86400),
        ("lsf", "00:30", 1800),
        ("lsf", "90", 5400),
        ("lsf", "1:30/host7", 5400),
        ("lsf", "1:00:00", None),
        ("oar", "01:00:00", 3600),
        ("oar", "2", 7200),
        ("oar", "0:30", 1800),
        ("pbs", "1:2:3:4:5", None),
        ("pbs", "", None),
        ("pbs", "1:-1", None),
    ],
)
def test_a_walltime_is_read_as_its_batch_system_reads_it(
    name: str, walltime: str, seconds: float | None
) -> None:
    """Numbers without colons are minutes, seconds or hours, depending on the system."""
    assert BATCH_SYSTEMS[name].parse_walltime(walltime) == seconds


@pytest.mark.parametrize("name", ["slurm", "sge", "pbs", "lsf", "oar", "moab"])
def test_workers_know_the_walltime_that_stands_in_the_script(name: str, tmp_path: Path) -> None:
    """One that `job_directives_skip` removes is no limit."""
    given = {"cores": 1, "memory": "1GB", "walltime": "01:30"}
    seconds = BATCH_SYSTEMS[name].parse_walltime("01:30")
    make = record_jobs(BATCH_SYSTEMS[name], Jobs("01:30"), tmp_path).job_cls
    script = make("tls://host:1", name="job", **given).job_script()
    assert f" --walltime {seconds:.0f}" in script
    skipped = make("tls://host:1", name="job", job_directives_skip=["01:30"], **given).job_script()
    assert "--walltime" not in skipped


@pytest.fixture
def submit_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "found", "is_default"),
    [
        ({}, {}, True),
        ({"walltime": "00:30:00"}, {}, False),
        ({}, {"walltime": "00:30:00"}, False),
        ({}, {"walltime": "10:00:00"}, False),
        ({}, {"walltime": None}, False),
        ({"walltime": 45}, {}, False),
    ],
)
def test_a_walltime_that_nobody_has_given_is_known_as_such(
    submit_command: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    found: dict[str, Any],
    is_default: bool,
) -> None:
    """dask-jobqueue puts 30 minutes there without a word."""
    (tmp_path / "jobqueue.yaml").write_text(yaml.safe_dump({"jobqueue": {"slurm": found}}))
    monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])
    assert BATCH_SYSTEMS["slurm"].cluster_class  # whose defaults are there from then on
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in found.items()}):
        options = parse_options({"cluster": "slurm", "cores": 1, "memory": "1GB", **given})
        assert options.has_default_walltime == is_default
