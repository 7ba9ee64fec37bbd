"""How many jobs of workers there should be."""

import time
from collections.abc import Sequence
from inspect import isawaitable
from typing import Any

from distributed.deploy.adaptive import Adaptive

_SECONDS_BETWEEN_LOOKS = 0.2
# A nanny that starts its worker again, from a slow file system.
_SECONDS_TO_COME_BACK = 30
_UNFINISHED = ("waiting", "queued", "no-worker", "processing")


class JobScaling(Adaptive):
    """Wants a worker for each node that is not finished; counts whole jobs.

    Dask's own rule starts with one worker and guesses from the time that nodes take.  It knows
    nothing of jobs with several workers: it would close those that are busy, and take jobs that
    wait out of the queue.

    Parameters
    ----------
    cluster : JobQueueCluster
    minimum, maximum : int
        Jobs.
    idle_timeout : float
        Seconds for which fewer jobs must have been enough until those without work are closed.
    """

    cluster: Any

    def __init__(self, cluster: Any, minimum: int, maximum: int, idle_timeout: float) -> None:
        super().__init__(cluster, minimum=minimum, maximum=maximum, interval=_SECONDS_BETWEEN_LOOKS)
        self._idle_timeout = idle_timeout
        self.reported: set[str] = set()  # jobs that have had a worker
        self._absent: dict[str, float] = {}  # since when they have none
        self._unneeded: dict[str, float] = {}  # since when jobs have nothing to do

    async def target(self) -> int:
        """Return how many jobs there is work for."""
        n_processes = len(self.cluster.new_spec.get("group", [0]))
        return -(-count_unfinished(self.cluster.scheduler) // n_processes)

    async def recommendations(self, target: int) -> dict[str, Any]:
        """Return what has to be done to have `target` jobs."""
        now = time.monotonic()
        jobs = list(self.cluster.worker_spec)
        workers = group_workers(self.cluster)
        self.reported |= set(workers)
        to_close = self._find_lost(jobs, workers, now)
        if not to_close and target > len(jobs):
            return {"status": "up", "n": target}
        if target >= len(jobs):
            self._unneeded.clear()
        elif not to_close:
            to_close = self._find_unneeded(jobs, workers, now)[: len(jobs) - target]
        return {"status": "down", "workers": to_close} if to_close else {"status": "same"}

    async def scale_up(self, n: Any) -> None:
        """Ask for jobs, up to `n`."""
        started = self.cluster.scale(jobs=n)
        if isawaitable(started):
            await started

    def _find_lost(
        self, jobs: Sequence[str], workers: dict[str, list[Any]], now: float
    ) -> list[str]:
        """Return the jobs whose workers are gone for good."""
        absent = [name for name in jobs if name in self.reported and name not in workers]
        self._absent = {name: self._absent.get(name, now) for name in absent}
        return [name for name, since in self._absent.items() if now - since > _SECONDS_TO_COME_BACK]

    def _find_unneeded(
        self, jobs: Sequence[str], workers: dict[str, list[Any]], now: float
    ) -> list[str]:
        """Return the jobs that have had nothing to do for long; those in the queue first."""
        idle = [
            name for name in jobs if not any(worker.processing for worker in workers.get(name, ()))
        ]
        self._unneeded = {name: self._unneeded.get(name, now) for name in idle}
        long = [name for name, since in self._unneeded.items() if now - since > self._idle_timeout]
        return sorted(long, key=lambda name: name in workers)


def group_workers(cluster: Any) -> dict[str, list[Any]]:
    """Return the workers of each job that has some, by the job's name."""
    groups: dict[str, list[Any]] = {}
    for worker in list(cluster.scheduler.workers.values()):
        groups.setdefault(find_job(str(worker.name), cluster), []).append(worker)
    return groups


def find_job(worker: str, cluster: Any) -> str:
    """Return the name of a worker's job; several of a job have its name, and a number."""
    return worker if worker in cluster.worker_spec else worker.rpartition("-")[0]


def count_unfinished(scheduler: Any) -> int:
    """Return how many nodes run or wait."""
    return sum(task.state in _UNFINISHED for task in list(scheduler.tasks.values()))
