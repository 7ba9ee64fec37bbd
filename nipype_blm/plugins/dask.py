"""Nipype's plugin for pools of Dask workers."""

import io
import logging
import math
import os
import pickle
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from traceback import format_exception
from types import FunctionType
from typing import Any
from uuid import uuid4

import cloudpickle
from distributed import Client, Future, KilledWorker
from nipype.pipeline.plugins.base import DistributedPluginBase

from nipype_blm.errors import InputError
from nipype_blm.plugins.nodes import find_input_files, has_all_files, has_record, run_node
from nipype_blm.progress import find_listener
from nipype_blm.signals import interruptible
from nipype_blm.tasks.disks import blames_machine
from nipype_blm.tasks.modules import LOADING, Main
from nipype_blm.tasks.options import GIB, Resources, describe_worker, parse_options
from nipype_blm.tasks.pools import Pool, PoolError, open_pool
from nipype_blm.tasks.walltime import SECONDS
from nipype_blm.tasks.worker import PROGRESS, STARTED, CallError, run_call, running

_MEMORY_EVENT = "worker-restart-memory"  # Dask's nanny ends a worker beyond its memory
_SECONDS_BETWEEN_CHECKS = 1.0
# Several nodes end together more often than not: they are looked at together.
_SECONDS_BETWEEN_LOOKS = 0.01
# How often a node is submitted again that only waited on workers that were lost.
_MOST_INNOCENT = 20
# Until a node is tried again that failed for its machine; twice as long the second time.
_SECONDS_TO_RECOVER = 5.0
# Until files of other machines are missed; network disks may show them as late as this.
_LEAST_PATIENCE_S = 60.0

logger = logging.getLogger(__name__)


class DaskPlugin(DistributedPluginBase):
    """Run the nodes of any workflow on Dask workers that start once.

    Parameters
    ----------
    plugin_args : mapping, optional
        `nipype_blm.tasks.options.PoolOptions`; with a batch system also the arguments of its
        class in dask-jobqueue, which come before those of the user's jobqueue.yaml.

    Raises
    ------
    InputError
        If an argument cannot be used.

    Examples
    --------
    >>> from nipype_blm.plugins import DaskPlugin
    >>> plugin = DaskPlugin({"cluster": "local", "n_procs": 2})
    >>> workflow.run(plugin=plugin)  # doctest: +SKIP

    Notes
    -----
    A worker runs one node at a time.  What a node needs (`n_procs`, `mem_gb`) are resources of
    Dask, of which each worker has a share, so that all nodes of a workflow fit.
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        self.options = parse_options(plugin_args or {})
        super().__init__()  # its arguments would be pickled with every MapNode
        self._status_callback = self.options.status_callback and self._note_status
        self._submitted: Any = None  # the node that Nipype is about to submit
        self._unstarted: set[Any] = set()
        self._pool: Pool | None = None
        self._tasks: dict[int, _Task] = {}
        self._n_submitted = 0
        self._by_key: dict[str, _Task] = {}
        self._connected: dict[str, set[str]] = {}  # inputs of elements, by the folder of these
        self._used: set[str] = set()  # addresses of workers that have started a node
        self._memory: dict[str, int] = {}  # bytes used by workers that were ended for it
        self._news = threading.Event()

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Run a graph; the pool ends with it, however it ends."""
        execution = {**config["execution"], "poll_sleep_duration": _SECONDS_BETWEEN_LOOKS}
        self._patience_s = float(execution["job_finished_timeout"])
        if not self.options.is_local:
            self._patience_s = max(self._patience_s, _LEAST_PATIENCE_S)
        if LOADING in os.environ:
            raise InputError(
                f"{os.environ[LOADING]} starts a run while a worker reads the classes that it "
                "defines; put the lines that run the workflow below `if __name__ == '__main__':`."
            )
        self.pending_tasks: list[tuple[int, int]] = []  # what an interrupted run has left
        try:
            with interruptible():
                super().run(graph, {**config, "execution": execution}, updatehash)
        finally:
            self._close()

    def _prerun_check(self, graph: Any) -> None:
        nodes = list(graph.nodes())
        needs = {str(node): _find_needs(node) for node in nodes}
        largest = Resources(
            max((need.n_procs for need in needs.values()), default=1),
            max((need.mem_gb for need in needs.values()), default=0.0),
        )
        if self.options.batch_system is not None:
            _check_resources(needs, describe_worker(self.options, largest))
        self._pool = open_pool(self.options, largest, _find_log_folder(nodes))
        self._listen(self._pool.client)
        if self._pool.worker is not None:
            _check_resources(needs, self._pool.worker)

    def _listen(self, client: Client) -> None:
        """Have workers tell where nodes start and how far they are."""
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

        client.subscribe_topic(STARTED, note_start)
        client.subscribe_topic(PROGRESS, note_progress)
        client.subscribe_topic(_MEMORY_EVENT, note_memory)

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Submit what can run, then wait until something happens."""
        with running:  # some nodes run here, where there may be workers, too
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        if not self._tasks:
            return
        self._news.wait(_SECONDS_BETWEEN_CHECKS)
        self._news.clear()
        assert self._pool is not None
        self._pool.check()

    def _clean_queue(self, jobid: int, graph: Any, result: dict[str, Any] | None = None) -> Any:
        """Note a failure; Nipype forgets those of nodes that were not submitted."""
        if result is None:
            _, error, _ = sys.exc_info()
            assert error is not None
            result = _failure(error)
            self._run_errors.append(error)
        return super()._clean_queue(jobid, graph, result)

    def _note_status(self, node: Any, status: str) -> None:
        """Tell what happens to a node; Nipype says that it starts when it is submitted."""
        if status == "start" and not node.run_without_submitting:
            self._submitted = node
            self._unstarted.add(node)
            return
        self._tell_start(node)
        self.options.status_callback(node, status)

    def _tell_start(self, node: Any) -> None:
        if node in self._unstarted:
            self._unstarted.remove(node)
            self.options.status_callback(node, "start")

    def _submit_mapnode(self, jobid: int) -> bool:
        node = self.procs[jobid]
        self._connected[str(Path(node.output_dir(), "mapflow"))] = set(node.input_source)
        return bool(super()._submit_mapnode(jobid))

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        task = _Task(node, updatehash, self._submitted)
        self._submit(task)
        self._n_submitted += 1
        self._tasks[self._n_submitted] = task
        return self._n_submitted

    def _submit(self, task: "_Task") -> None:
        assert self._pool is not None
        node = task.node
        files = find_input_files(node, self._connected.get(node.base_dir, node.input_source))
        key = f"{node.name}-{uuid4().hex}"  # a new one each time: Dask remembers what failed
        pickled, main = _pickle(node, task.updatehash)
        task.keys.append(key)
        self._by_key[key] = task
        task.future = self._pool.client.submit(
            run_call,
            pickled,
            key,
            self._pool.import_paths.name,
            main,
            files,
            self._patience_s,
            key=key,
            pure=False,
            resources=_find_needs(node)._asdict() if self._pool.worker else None,
        )
        task.future.add_done_callback(lambda _: self._news.set())

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        """Return None while a node runs, else its traceback; results are in its folder."""
        task = self._tasks[taskid]
        status = task.future.status
        if task.starts:
            self._tell_start(task.submitted)
        if status in ("pending", "lost"):  # lost: Dask runs it again
            if len(task.starts) > self.options.retries + 1 or self._is_too_long(task):
                task.future.cancel()  # Dask does not count workers that end in peace
                return _failure(PoolError(self._describe_loss(task)))
            return None
        if status == "finished":
            return self._take_result(task)
        if status == "cancelled":
            return _failure(PoolError(f"{task.name} was lost, with the connection to the pool."))
        error = task.future.exception()
        if isinstance(error, CallError):
            return self._take_failure(task, error.args[0])
        if not isinstance(error, KilledWorker):
            return {"result": None, "traceback": format_exception(error)}
        worker = error.last_worker
        if worker.address not in self._used:
            # Nobody else has started there: its own message was lost with the worker.
            start = {"worker": worker.address, "host": worker.host, "pid": worker.pid}
            start |= {"job_id": None, "memory_limit": worker.memory_limit}
            task.starts.append(start | {"time": None, "is_overdue": None})
        if len(task.starts) <= self.options.retries and task.n_innocent < _MOST_INNOCENT:
            # It only waited on workers that were lost while they ran others.
            task.n_innocent += 1
            self._submit(task)
            return None
        return _failure(PoolError(self._describe_loss(task)))

    def _take_result(self, task: "_Task") -> dict[str, Any] | None:
        """Return None until this machine sees what a node wrote on another one."""
        # Nipype does not write what marks the end where it only updates hashes.
        if task.updatehash or has_all_files(task.node):
            return {"result": None, "traceback": None}
        task.last_look = task.last_look or time.monotonic() + self._patience_s
        if time.monotonic() < task.last_look:
            return None
        if has_record(task.node):  # what else is missing Nipype says, if it is needed
            return {"result": None, "traceback": None}
        return _failure(
            PoolError(
                f"{task.name} has ended well, but this machine has not seen its results for "
                f"{self._patience_s:g} s (longer with job_finished_timeout of Nipype); put the "
                "working directory on a disk that all machines share."
            )
        )

    def _take_failure(self, task: "_Task", lines: list[str]) -> dict[str, Any] | None:
        """Return None while a node is tried again that failed for its machine."""
        now = time.monotonic()
        if task.pause_end is None:
            if task.n_passing >= self.options.retries or not blames_machine(lines):
                return {"result": None, "traceback": lines}
            task.n_passing += 1
            pause_s = _SECONDS_TO_RECOVER * task.n_passing
            task.pause_end = now + pause_s
            reason = lines[-1].strip().splitlines()[-1].strip()
            text = "%s failed for its machine, and is tried again in %g s: %s"
            logger.warning(text, task.name, pause_s, reason)
        elif now >= task.pause_end:
            task.pause_end = None
            task.starts.clear()
            self._submit(task)
        return None

    def _is_too_long(self, task: "_Task") -> bool:
        """Return whether two jobs have come to their end while they ran a node."""
        if not task.starts or task.starts[-1]["time"] is None:
            return False
        last = task.starts[-1]
        seconds = time.monotonic() - last["noted"]
        assert self._pool is not None
        if last["is_overdue"] is None and seconds > last["time"]["seconds_to_last_moments"]:
            is_there = self._pool.has_worker(last["worker"])  # else it was lost before
            last["is_overdue"] = is_there
            if is_there:  # only a new worker may have the time
                path = [SECONDS, self._pool.import_paths.name, task.keys[-1]]
                self._pool.client.set_metadata(path, [math.inf])
        has_ended = not last["is_overdue"] or seconds > last["time"]["seconds_to_end"]
        return has_ended and task.n_overdue > 1

    def _describe_loss(self, task: "_Task") -> str:
        if not task.starts:
            return f"{task.name} could not be started: its workers were lost."
        assert self._pool is not None
        where = task.starts[-1]
        reason = "" if task.n_overdue > 1 else self._pool.explain_loss(where)
        if task.n_overdue and "walltime" not in reason.partition("\n")[0]:
            overdue = [start["time"] for start in task.starts if start["is_overdue"]]
            limit = timedelta(seconds=round(overdue[-1]["walltime"]))
            reason = (
                f"walltime: it still ran when the time of its job, {limit}, was over "
                f"({task.n_overdue} x); ask for a longer walltime, or make the node smaller"
            )
        if where["worker"] in self._memory:
            used, limit = self._memory[where["worker"]] / GIB, where["memory_limit"] / GIB
            reason = f"memory: it used {used:.3g} of {limit:.3g} GiB; give workers more of it"
        return (
            f"{task.name} was started {len(task.starts)} x, and its worker was lost, the last time "
            f"on {where['host']} (pid {where['pid']}).\nLikely reason: {reason}."
        )

    def _clear_task(self, taskid: int) -> None:
        task = self._tasks.pop(taskid)
        for key in task.keys:
            del self._by_key[key]
        task.future.release()

    def _close(self) -> None:
        """End what still runs."""
        pool, self._pool = self._pool, None
        futures = [task.future for task in self._tasks.values()]
        self._tasks.clear()
        self._by_key.clear()
        self._unstarted.clear()
        if pool is None:
            return
        try:
            if pool.client.status == "running":
                pool.client.cancel(futures, force=True)
                pool.client.set_metadata([SECONDS, pool.import_paths.name], {})
                for topic in (STARTED, PROGRESS, _MEMORY_EVENT):
                    pool.client.unsubscribe_topic(topic)
        finally:
            futures.clear()  # Dask closes with an error while futures are held
            pool.close()


class _Task:
    """A node that was submitted."""

    def __init__(self, node: Any, updatehash: bool, submitted: Any) -> None:
        self.node = node
        self.submitted = submitted  # of which it is a copy
        self.updatehash = updatehash
        self.name = f"Node {node.fullname or node.name} in {node.output_dir()}"
        self.starts: list[dict[str, Any]] = []  # where it was started
        self.n_innocent = 0  # how often it was submitted again without a start
        self.n_passing = 0  # ... and after an error of its machine
        self.pause_end: float | None = None  # before that
        self.last_look: float | None = None  # at the files of a node that has ended
        self.keys: list[str] = []  # of all submissions
        self.future: Future

    @property
    def n_overdue(self) -> int:
        """How many jobs came to their end while they ran it."""
        return sum(bool(start["is_overdue"]) for start in self.starts)


def _pickle(node: Any, updatehash: bool) -> tuple[bytes, Main | None]:
    """Return the call that runs a node as bytes, and the script that workers need to read them.

    Nipype pickles nodes itself, on the worker, which has to find classes of ``__main__`` there.
    """
    call = (run_node, (node, updatehash))
    pickled = cloudpickle.dumps(call)
    if b"__main__" not in pickled:
        return pickled, None
    found = io.BytesIO()
    pickler = _MainFinder(found)
    try:
        pickler.dump(call)
    except Exception:  # of many kinds; what only cloudpickle can hold is in no module
        return pickled, None
    if not pickler.uses_main:  # a text says so
        return pickled, None
    main = Main.find()
    if main is None:
        raise InputError(
            f"Node {node.fullname or node.name} uses a class of this session or notebook, which "
            "workers cannot import; put it into a module, beside your script or notebook."
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


def _find_needs(node: Any) -> Resources:
    """Return what a node asks for."""
    return Resources(node.n_procs or 1, node.mem_gb or 0.0)


def _check_resources(needs: Mapping[str, Resources], worker: Resources) -> None:
    problems = [
        f"Node {name} needs {need}, but a worker has {worker}; give workers more (fewer "
        "n_workers or processes, more cores or memory), or the node less."
        for name, need in needs.items()
        if not need.fit_into(worker)
    ]
    if problems:
        raise InputError(problems)


def _failure(error: BaseException) -> dict[str, Any]:
    return {"result": None, "traceback": format_exception(error)}


def _find_log_folder(nodes: list[Any]) -> Path:
    """Return a folder beside those of the nodes."""
    for node in nodes:
        if node.base_dir:
            return Path(node.base_dir, (node.fullname or node.name).split(".")[0], "dask_logs")
    return Path("dask_logs")
