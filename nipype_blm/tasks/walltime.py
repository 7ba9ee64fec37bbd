"""Workers end before their jobs do, and take no node that they could not finish."""

import asyncio
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psutil
from distributed import Reschedule, Status, Worker, WorkerPlugin
from distributed.utils import sync

SECONDS = "nipype-blm-seconds"  # Dask's metadata: how long nodes have taken, by run and name
_JOB_TIMES = "NIPYPE_BLM_JOB_TIMES"  # of the processes of a job
_MARGIN = 0.05  # of the walltime, for jobs that began before their first process, and to end
_LEAST_MARGIN, _MOST_MARGIN = 2.0, 60.0
# In this part of a worker's time it takes any node: a new worker would have no more time.
_FRESH = 0.1
_SECONDS_TO_NOTE_RESULTS = 10
# How many of a name are remembered: a disk that stalled once does not count for ever.
_MOST_REMEMBERED = 20


class JobTimes(NamedTuple):
    """When a job began and when it will be ended, in seconds since 1970."""

    start: float
    end: float

    @classmethod
    def find(cls) -> "JobTimes | None":
        """Return those of the job of this process; None if no limit is known."""
        times = os.environ.get(_JOB_TIMES)
        return cls(*map(float, times.split())) if times else None

    @property
    def last_moments(self) -> float:
        """When no node should run any more."""
        margin = min(_MARGIN * (self.end - self.start), _MOST_MARGIN)
        return self.end - max(margin, _LEAST_MARGIN)

    def describe(self) -> dict[str, float]:
        """Return what is left of the job, for a driver whose clock is another one."""
        now = time.time()
        return {
            "walltime": self.end - self.start,
            "seconds_to_last_moments": self.last_moments - now,
            "seconds_to_end": self.end - now,
        }


def note_times(walltime: float) -> None:
    """Have the workers that this process starts know when their job ends."""
    start = psutil.Process().create_time()
    # Slurm knows better, where it tells.
    start = float(os.environ.get("SLURM_JOB_START_TIME", start))
    end = float(os.environ.get("SLURM_JOB_END_TIME", start + walltime))
    os.environ[_JOB_TIMES] = f"{start} {end}"


class EndBeforeJob(WorkerPlugin):
    """Ends a worker in peace before its job is over; others take its place.

    Dask's own ``--lifetime`` ends workers in the middle of a task, which is then repeated.
    """

    name = "nipype-blm-end-before-job"
    idempotent = True  # runs on a pool share it

    def setup(self, worker: Worker) -> None:
        """Find out when the job ends."""
        self._worker = worker
        self._job = JobTimes.find()
        self._start = time.time()
        self._is_leaving = False
        if self._job is not None:
            seconds = self._job.last_moments - self._start
            worker.loop.call_later(max(seconds, 0), self._leave_when_idle)

    def admit(self, run: str, key: str) -> None:
        """Have Dask run a node on another worker if there is no time for it here.

        Raises
        ------
        Reschedule
            After which this worker ends.
        """
        if self._job is None:
            return
        if not self._is_leaving and self._has_time(self._job, run, key):
            self._began = time.time()
            return
        self._leave()
        while self._worker.status == Status.running:  # else Dask would choose it again
            time.sleep(0.05)
        raise Reschedule

    def note_end(self, run: str, key: str) -> None:
        """Note how long a node has taken."""
        if self._job is None:
            return
        name, seconds = _find_name(key), time.time() - self._began
        taken = [*self._find_seconds(run).get(name, ()), seconds][-_MOST_REMEMBERED:]
        self._call("set_metadata", keys=[SECONDS, run, name], value=taken)

    def _has_time(self, job: JobTimes, run: str, key: str) -> bool:
        now = time.time()
        if now - self._start < _FRESH * (job.end - self._start):
            return True
        known = self._find_seconds(run)
        seconds = max(_expect(known.get(name, ())) for name in (key, _find_name(key)))
        return now + seconds <= job.last_moments

    def _find_seconds(self, run: str) -> dict[str, Sequence[float]]:
        return self._call("get_metadata", keys=[SECONDS, run], default={}) or {}

    def _call(self, handler: str, **arguments: Any) -> Any:
        """Ask the scheduler; without an answer return None, as no node fails for want of it."""
        with suppress(OSError):
            return sync(self._worker.loop, getattr(self._worker.scheduler, handler), **arguments)

    def _leave_when_idle(self) -> None:
        # Dask changes this in this thread: no node starts, or ends, between here and there.
        if self._worker.state.all_running_tasks:
            self._worker.loop.call_later(1, self._leave_when_idle)
        else:
            self._leave()

    def _leave(self) -> None:
        if not self._is_leaving:
            self._is_leaving = True
            self._worker.loop.add_callback(self._close)

    async def _close(self) -> None:
        """End the worker; its job ends with the last one."""
        give_up = time.monotonic() + _SECONDS_TO_NOTE_RESULTS
        while self._worker.data and time.monotonic() < give_up:
            await asyncio.sleep(0.05)  # the driver has not yet noted that a node has ended
        await self._worker.close_gracefully(reason=self.name)


def _expect(taken: Sequence[float]) -> float:
    """Return how long a node may take; one alone that took longer than all others was bad luck."""
    return max(taken, default=0.0) if len(taken) < 3 else sorted(taken)[-2]


def _find_name(key: str) -> str:
    """Return the name of a node from its key; the elements of a MapNode share one."""
    return re.sub(r"^(_.*?)\d+$", r"\1", key.rpartition("-")[0])
