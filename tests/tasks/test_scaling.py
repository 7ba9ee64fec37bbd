"""How many jobs of workers there are to be, as work comes and goes."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nipype_blm.tasks import scaling
from nipype_blm.tasks.scaling import JobScaling

IDLE_TIMEOUT = 60
TIME_TO_COME_BACK = 30  # of a worker that its nanny starts again
SAME = {"status": "same"}


class Cluster:
    """What `JobScaling` sees of a cluster; the attributes are those of dask-jobqueue and Dask."""

    def __init__(self, n_processes: int = 1) -> None:
        group = {"group": [f"-{i}" for i in range(n_processes)]} if n_processes > 1 else {}
        self.new_spec: dict[str, Any] = group
        self.worker_spec: dict[str, dict[str, Any]] = {}
        self.scheduler = SimpleNamespace(workers={}, tasks={})
        self.loop = SimpleNamespace(add_callback=lambda function: None)  # nobody adapts by itself

    def add_job(self, name: str, *busy: bool) -> None:
        """Add a job; `busy` tells it of each worker that has reported."""
        self.worker_spec[name] = self.new_spec
        for i, is_busy in enumerate(busy):
            suffix = self.new_spec["group"][i] if "group" in self.new_spec else ""
            self.set_worker(f"{name}{suffix}", is_busy)

    def set_worker(self, name: str, is_busy: bool) -> None:
        self.scheduler.workers[name] = SimpleNamespace(
            name=name, processing={"node": 1} if is_busy else {}
        )

    def lose_worker(self, name: str) -> None:
        del self.scheduler.workers[name]

    def set_tasks(self, *states: str) -> None:
        self.scheduler.tasks = {i: SimpleNamespace(state=state) for i, state in enumerate(states)}


class Scaled:
    """A cluster, its scaling and a clock."""

    def __init__(self, n_processes: int = 1, minimum: int = 0, maximum: int = 100) -> None:
        self.now = 1000.0
        self.cluster = Cluster(n_processes)
        self.scaling = JobScaling(self.cluster, minimum, maximum, IDLE_TIMEOUT)

    def look(self, after: float = 0) -> dict[str, Any]:
        """Return what is recommended some seconds later."""
        self.now += after

        async def recommend() -> dict[str, Any]:
            return await self.scaling.recommendations(await self.scaling.safe_target())

        return asyncio.run(recommend())


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that returns a cluster without jobs."""

    def make(**options: int) -> Scaled:
        scaled = Scaled(**options)
        clock = SimpleNamespace(monotonic=lambda: scaled.now)
        monkeypatch.setattr(scaling, "time", clock)
        return scaled

    return make


def close(*names: str) -> dict[str, Any]:
    return {"status": "down", "workers": list(names)}


@pytest.mark.parametrize(
    ("n_processes", "n_nodes", "n_jobs"), [(1, 1, 1), (1, 5, 5), (4, 1, 1), (4, 4, 1), (4, 5, 2)]
)
def test_there_is_a_worker_for_each_node_in_whole_jobs(
    start: Any, n_processes: int, n_nodes: int, n_jobs: int
) -> None:
    scaled = start(n_processes=n_processes)
    scaled.cluster.set_tasks(*["processing"] * n_nodes)
    assert scaled.look() == {"status": "up", "n": n_jobs}


def test_nodes_count_until_they_have_ended(start: Any) -> None:
    scaled = start()
    unfinished = ["waiting", "queued", "no-worker", "processing"]
    scaled.cluster.set_tasks(*unfinished, "memory", "erred", "released", "forgotten")
    assert scaled.look() == {"status": "up", "n": len(unfinished)}


def test_jobs_that_are_there_or_in_the_queue_are_not_asked_for_again(start: Any) -> None:
    scaled = start()
    scaled.cluster.set_tasks(*["processing"] * 2)
    scaled.cluster.add_job("there", True)
    scaled.cluster.add_job("queued")
    assert scaled.look() == SAME


def test_there_are_no_more_jobs_than_the_most(start: Any) -> None:
    scaled = start(maximum=3)
    scaled.cluster.set_tasks(*["queued"] * 100)
    assert scaled.look() == {"status": "up", "n": 3}


def test_there_are_no_fewer_jobs_than_the_least(start: Any) -> None:
    scaled = start(minimum=2)
    assert scaled.look() == {"status": "up", "n": 2}
    for name in ("a", "b", "c"):
        scaled.cluster.add_job(name, False)
    assert scaled.look() == SAME
    closed = scaled.look(after=IDLE_TIMEOUT + 1)
    assert closed["status"] == "down"
    assert len(closed["workers"]) == 1


def test_a_job_with_a_busy_worker_stays(start: Any) -> None:
    """Also beside idle ones; and others of the same job that are idle do not count."""
    scaled = start(n_processes=2)
    scaled.cluster.set_tasks("processing")
    scaled.cluster.add_job("half", False, True)
    scaled.cluster.add_job("idle", False, False)
    assert scaled.look() == SAME
    assert scaled.look(after=IDLE_TIMEOUT + 1) == close("idle")
    del scaled.cluster.worker_spec["idle"]
    scaled.cluster.set_tasks()  # as if the node had no future any more, while it runs
    for _ in range(3):
        assert scaled.look(after=IDLE_TIMEOUT + 1) == SAME


def test_a_job_is_closed_once_it_has_had_nothing_to_do_for_long_without_a_break(start: Any) -> None:
    scaled = start()
    scaled.cluster.add_job("job", False)
    assert scaled.look() == SAME
    assert scaled.look(after=IDLE_TIMEOUT - 1) == SAME
    scaled.cluster.set_worker("job", is_busy=True)
    assert scaled.look(after=2) == SAME
    scaled.cluster.set_worker("job", is_busy=False)
    assert scaled.look(after=1) == SAME
    assert scaled.look(after=IDLE_TIMEOUT - 1) == SAME
    assert scaled.look(after=2) == close("job")


def test_a_job_in_the_queue_is_closed_once_fewer_were_enough_for_long_without_a_break(
    start: Any,
) -> None:
    scaled = start()
    scaled.cluster.add_job("busy", True)
    scaled.cluster.add_job("queued")
    scaled.cluster.set_tasks("processing")
    assert scaled.look() == SAME
    assert scaled.look(after=IDLE_TIMEOUT - 1) == SAME
    scaled.cluster.set_tasks("processing", "no-worker")
    assert scaled.look(after=2) == SAME
    scaled.cluster.set_tasks("processing")
    assert scaled.look(after=1) == SAME
    assert scaled.look(after=IDLE_TIMEOUT - 1) == SAME
    assert scaled.look(after=2) == close("queued")


def test_jobs_in_the_queue_are_closed_before_idle_ones(start: Any) -> None:
    scaled = start()
    for name in ("idle1", "idle2"):
        scaled.cluster.add_job(name, False)
    scaled.cluster.add_job("queued")
    for n_nodes, closed in ((2, ["queued"]), (1, ["queued", "idle1"])):
        scaled.cluster.set_tasks(*["processing"] * n_nodes)
        scaled.look()
        assert scaled.look(after=IDLE_TIMEOUT + 1) == close(*closed)


def test_a_job_whose_workers_are_gone_for_good_is_closed_though_it_is_needed(start: Any) -> None:
    scaled = start(n_processes=2)
    scaled.cluster.set_tasks(*["no-worker"] * 10)
    scaled.scaling.maximum = 3
    scaled.cluster.add_job("lost", True, True)
    scaled.cluster.add_job("half", True, True)
    scaled.cluster.add_job("queued")
    assert scaled.look() == SAME
    for name in ("lost-0", "lost-1", "half-0"):
        scaled.cluster.lose_worker(name)
    assert scaled.look(after=1) == SAME
    assert scaled.look(after=TIME_TO_COME_BACK - 1) == SAME
    scaled.scaling.maximum = 4  # closed before others are asked for
    assert scaled.look(after=2) == close("lost")
    del scaled.cluster.worker_spec["lost"]
    assert scaled.look() == {"status": "up", "n": 4}


def test_a_worker_that_comes_back_in_time_keeps_its_job(start: Any) -> None:
    scaled = start()
    scaled.cluster.set_tasks("processing")
    scaled.cluster.add_job("job", True)
    scaled.look()
    for _ in range(3):
        scaled.cluster.lose_worker("job")
        assert scaled.look(after=1) == SAME
        assert scaled.look(after=TIME_TO_COME_BACK - 1) == SAME
        scaled.cluster.set_worker("job", is_busy=True)
        assert scaled.look(after=2) == SAME


def test_a_job_that_waits_in_the_queue_for_days_is_not_lost(start: Any) -> None:
    scaled = start()
    scaled.cluster.set_tasks("no-worker")
    scaled.cluster.add_job("queued")
    assert [scaled.look(after=86400) for _ in range(3)] == [SAME] * 3
