"""Calls on the workers of a pool: what becomes of each, and why one was lost."""

import io
import math
import pickle
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from types import FunctionType
from typing import Any, NamedTuple
from uuid import uuid4

import cloudpickle
from distributed import Future, KilledWorker

from nipype_blm.errors import InputError
from nipype_blm.progress import find_listener
from nipype_blm.tasks.disks import plan_repeat
from nipype_blm.tasks.modules import Main
from nipype_blm.tasks.options import Resources
from nipype_blm.tasks.pools import Pool
from nipype_blm.tasks.task import PoolError
from nipype_blm.tasks.walltime import SECONDS
from nipype_blm.tasks.worker import PROGRESS, STARTED, CallError, run_call
from nipype_blm.units import GIB

_MEMORY_EVENT = "worker-restart-memory"  # Dask's nanny ends a worker beyond its memory
_SECONDS_BETWEEN_CHECKS = 1.0
# How often a call is submitted again that only waited on workers that were lost.
_MOST_INNOCENT = 20


class Call:
    """A function that a worker is to call.

    Parameters
    ----------
    name : str
        By which the user knows it.
    kind : str
        Calls of one kind take about the same time.
    function : callable
    arguments : tuple
    needs : Resources
    """

    noun = "task"

    def __init__(
        self,
        name: str,
        kind: str,
        function: Any,
        arguments: tuple[Any, ...],
        needs: Resources,
    ) -> None:
        self.name, self.kind, self.needs = name, kind, needs
        self.function, self.arguments = function, arguments
        self.starts: list[dict[str, Any]] = []  # where it was started
        self.n_innocent = 0  # how often it was submitted again without a start
        self.n_passing = 0  # ... and after an error of its machine
        self.pause_end: float | None = None  # before that
        self.keys: list[str] = []  # of all submissions
        self.future: Future

    @property
    def place(self) -> str:
        """Its name, and where it runs."""
        return self.name

    @property
    def n_overdue(self) -> int:
        """How many jobs came to their end while they ran it."""
        return sum(bool(start["is_overdue"]) for start in self.starts)

    @property
    def n_attempts(self) -> int:
        """How often it was started, or has failed for its machine."""
        return self.n_passing + max(len(self.starts), 1)

    def find_files(self) -> list[str]:
        """Return the files that it reads, as far as this machine sees them."""
        return []


class Ending(NamedTuple):
    """How a call ended; what the function returned is asked of its future by who needs it."""

    error: BaseException | None = None


class Calls:
    """The calls on a pool that a run has submitted.

    Parameters
    ----------
    pool : Pool
        It goes on when these are closed.
    retries : int
        How often a call is repeated whose worker was lost, or whose machine failed.
    patience_s : float
        How long a worker waits for files of other machines.
    """

    def __init__(self, pool: Pool, retries: int, patience_s: float) -> None:
        self._pool, self._retries, self._patience_s = pool, retries, patience_s
        self._by_key: dict[str, Call] = {}
        self._used: set[str] = set()  # addresses of workers that have started a call
        self._memory: dict[str, int] = {}  # bytes used by workers that were ended for it
        self._news = threading.Event()
        self._listen()

    def _listen(self) -> None:
        """Have workers tell where calls start and how far they are."""
        listener = find_listener()

        def note_progress(event: tuple[float, dict[str, Any]]) -> None:
            if listener is not None and event[1]["key"] in self._by_key:
                for what, n in event[1]["done"].items():
                    listener(what, n)

        def note_start(event: tuple[float, dict[str, Any]]) -> None:
            self._used.add(event[1]["worker"])
            if event[1]["key"] in self._by_key:
                start = event[1] | {"noted": time.monotonic(), "is_overdue": None}
                self._by_key[event[1]["key"]].starts.append(start)

        def note_memory(event: tuple[float, dict[str, Any]]) -> None:
            self._memory[event[1]["worker"]] = event[1]["rss"]

        client = self._pool.client
        client.subscribe_topic(STARTED, note_start)
        client.subscribe_topic(PROGRESS, note_progress)
        client.subscribe_topic(_MEMORY_EVENT, note_memory)

    def submit(self, call: Call) -> None:
        """Have a worker call a function."""
        files = call.find_files()
        key = f"{call.kind}-{uuid4().hex}"  # a new one each time: Dask remembers what failed
        pickled, main = _pickle(call)
        call.keys.append(key)
        self._by_key[key] = call
        call.future = self._pool.client.submit(
            run_call,
            pickled,
            key,
            self._pool.import_paths.name,
            main,
            files,
            self._patience_s,
            key=key,
            pure=False,
            resources=call.needs._asdict() if self._pool.worker else None,
        )
        call.future.add_done_callback(lambda _: self._news.set())

    def wait(self) -> None:
        """Wait until something may have happened.

        Raises
        ------
        PoolError
            If there is no hope for workers any more.
        """
        self._news.wait(_SECONDS_BETWEEN_CHECKS)
        self._news.clear()
        self._pool.check()

    def look(self, call: Call) -> Ending | None:
        """Return how a call ended; None while it runs, or is repeated.

        An error is `CallError` if the function has failed, `PoolError` if the call was lost.
        """
        status = call.future.status
        if status in ("pending", "lost"):  # lost: Dask runs it again
            if len(call.starts) > self._retries + 1 or self._is_too_long(call):
                call.future.cancel()  # Dask does not count workers that end in peace
                return Ending(PoolError(self.describe_loss(call)))
            return None
        if status == "finished":
            return Ending()
        if status == "cancelled":
            text = f"{call.place} was lost, with the connection to the pool."
            return Ending(PoolError(text))
        error = call.future.exception()
        if isinstance(error, CallError):
            return self._take_failure(call, error)
        if not isinstance(error, KilledWorker):
            return Ending(error)
        return self._take_loss(call, error.last_worker)

    def _take_failure(self, call: Call, error: CallError) -> Ending | None:
        """Return None while a call is tried again that failed for its machine."""
        now = time.monotonic()
        if call.pause_end is None:
            pause_s = plan_repeat(call.place, error.args[0], call.n_passing, self._retries)
            if pause_s is None:
                return Ending(error)
            call.n_passing += 1
            call.pause_end = now + pause_s
        elif now >= call.pause_end:
            call.pause_end = None
            call.starts.clear()
            self.submit(call)
        return None

    def _take_loss(self, call: Call, worker: Any) -> Ending | None:
        """Return None if a call is submitted again whose worker was lost."""
        if worker.address not in self._used:
            # Nobody else has started there: its own message was lost with the worker.
            start = {"worker": worker.address, "host": worker.host, "pid": worker.pid}
            start |= {"job_id": None, "memory_limit": worker.memory_limit}
            call.starts.append(start | {"time": None, "is_overdue": None})
        if len(call.starts) <= self._retries and call.n_innocent < _MOST_INNOCENT:
            # It only waited on workers that were lost while they ran others.
            call.n_innocent += 1
            self.submit(call)
            return None
        return Ending(PoolError(self.describe_loss(call)))

    def _is_too_long(self, call: Call) -> bool:
        """Return whether two jobs have come to their end while they ran a call."""
        if not call.starts or call.starts[-1]["time"] is None:
            return False
        last = call.starts[-1]
        seconds = time.monotonic() - last["noted"]
        if last["is_overdue"] is None and seconds > last["time"]["seconds_to_last_moments"]:
            is_there = self._pool.has_worker(last["worker"])  # else it was lost before
            last["is_overdue"] = is_there
            if is_there:  # only a new worker may have the time
                path = [SECONDS, self._pool.import_paths.name, call.keys[-1]]
                self._pool.client.set_metadata(path, [math.inf])
        has_ended = not last["is_overdue"] or seconds > last["time"]["seconds_to_end"]
        return has_ended and call.n_overdue > 1

    def describe_loss(self, call: Call) -> str:
        """Return how often a call was started, and the likely reason why it was lost."""
        if not call.starts:
            return f"{call.place} could not be started: its workers were lost."
        where = call.starts[-1]
        reason = "" if call.n_overdue > 1 else self._pool.explain_loss(where)
        if call.n_overdue and "walltime" not in reason.partition("\n")[0]:
            overdue = [start["time"] for start in call.starts if start["is_overdue"]]
            limit = timedelta(seconds=round(overdue[-1]["walltime"]))
            reason = (
                f"walltime: it still ran when the time of its job, {limit}, was over "
                f"({call.n_overdue} x); ask for a longer walltime, or make the {call.noun} smaller"
            )
        if where["worker"] in self._memory:
            used, limit = self._memory[where["worker"]] / GIB, where["memory_limit"] / GIB
            reason = f"memory: it used {used:.3g} of {limit:.3g} GiB; give workers more of it"
        return (
            f"{call.place} was started {len(call.starts)} x, and its worker was lost, the last "
            f"time on {where['host']} (pid {where['pid']}).\nLikely reason: {reason}."
        )

    def forget(self, call: Call) -> None:
        """Release what Dask holds of a call that has ended."""
        for key in call.keys:
            del self._by_key[key]
        call.future.release()
        del call.future

    def close(self) -> None:
        """End what still runs, and leave nothing on the pool."""
        futures = [c.__dict__.pop("future", None) for c in set(self._by_key.values())]
        self._by_key.clear()
        client = self._pool.client
        try:
            if client.status == "running":
                client.cancel([f for f in futures if f is not None], force=True)
                client.set_metadata([SECONDS, self._pool.import_paths.name], {})
                for topic in (STARTED, PROGRESS, _MEMORY_EVENT):
                    client.unsubscribe_topic(topic)
        finally:
            futures.clear()  # Dask closes with an error while futures are held


def check_needs(needs: Mapping[str, Resources], worker: Resources, noun: str = "task") -> None:
    """Refuse calls, by name, of which a worker has not what they need.

    Raises
    ------
    InputError
    """
    problems = [
        f"{name} needs {need}, but a worker has {worker}; give workers more (fewer n_workers or "
        f"processes, more cores or memory), or the {noun} less."
        for name, need in needs.items()
        if not need.fit_into(worker)
    ]
    if problems:
        raise InputError(problems)


def _pickle(call: Call) -> tuple[bytes, Main | None]:
    """Return a call as bytes, and the script that workers need to read them.

    Nipype pickles nodes itself, on the worker, which has to find classes of ``__main__`` there.
    """
    content = (call.function, call.arguments)
    pickled = cloudpickle.dumps(content)
    if b"__main__" not in pickled:
        return pickled, None
    found = io.BytesIO()
    pickler = _MainFinder(found)
    try:
        pickler.dump(content)
    except Exception:  # of many kinds; what only cloudpickle can hold is in no module
        return pickled, None
    if not pickler.uses_main:  # a text says so
        return pickled, None
    main = Main.find()
    if main is None:
        raise InputError(
            f"{call.name} uses a class of this session or notebook, which workers cannot import; "
            "put it into a module, beside your script or notebook."
        )
    return found.getvalue(), main


class _MainFinder(pickle.Pickler):
    """Pickles by name, and notes whether anything is of the driver's script."""

    uses_main = False

    def reducer_override(self, obj: Any) -> Any:
        """Note classes and functions."""
        if isinstance(obj, type | FunctionType) and obj.__module__ == "__main__":
            self.uses_main = True
        return NotImplemented
