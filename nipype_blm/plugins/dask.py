"""Nipype's plugin for pools of Dask workers."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins.base import DistributedPluginBase

from nipype_blm.errors import InputError
from nipype_blm.plugins.nodes import find_input_files, has_all_files, has_record, run_node
from nipype_blm.signals import interruptible
from nipype_blm.tasks.calls import Call, Calls, check_needs
from nipype_blm.tasks.disks import PATIENCE_S
from nipype_blm.tasks.modules import LOADING
from nipype_blm.tasks.options import Resources, describe_worker, parse_options
from nipype_blm.tasks.pools import Pool, open_pool
from nipype_blm.tasks.task import PoolError
from nipype_blm.tasks.worker import CallError, running

# Several nodes end together more often than not: they are looked at together.
_SECONDS_BETWEEN_LOOKS = 0.01


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
        self._calls: Calls | None = None
        self._tasks: dict[int, _NodeCall] = {}
        self._n_submitted = 0
        self._connected: dict[str, set[str]] = {}  # inputs of elements, by the folder of these

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Run a graph; the pool ends with it, however it ends."""
        execution = {**config["execution"], "poll_sleep_duration": _SECONDS_BETWEEN_LOOKS}
        self._patience_s = float(execution["job_finished_timeout"])
        if not self.options.is_local:
            self._patience_s = max(self._patience_s, PATIENCE_S)
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
        needs = {f"Node {node}": _find_needs(node) for node in nodes}
        largest = Resources(
            max((need.n_procs for need in needs.values()), default=1),
            max((need.mem_gb for need in needs.values()), default=0.0),
        )
        if self.options.batch_system is not None:
            check_needs(needs, describe_worker(self.options, largest), "node")
        self._pool = open_pool(self.options, largest, _find_log_folder(nodes))
        self._calls = Calls(self._pool, self.options.retries, self._patience_s)
        if self._pool.worker is not None:
            check_needs(needs, self._pool.worker, "node")

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Submit what can run, then wait until something happens."""
        with running:  # some nodes run here, where there may be workers, too
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        if not self._tasks:
            return
        assert self._calls is not None
        self._calls.wait()

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
        assert self._calls is not None
        connected = self._connected.get(node.base_dir, set(node.input_source))
        call = _NodeCall(node, updatehash, self._submitted, connected)
        self._calls.submit(call)
        self._n_submitted += 1
        self._tasks[self._n_submitted] = call
        return self._n_submitted

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        """Return None while a node runs, else its traceback; results are in its folder."""
        assert self._calls is not None
        call = self._tasks[taskid]
        if call.starts:
            self._tell_start(call.submitted)
        ending = self._calls.look(call)
        if ending is None:
            return None
        if ending.error is None:
            return self._take_result(call)
        if isinstance(ending.error, CallError):
            return {"result": None, "traceback": ending.error.args[0]}
        return _failure(ending.error)

    def _take_result(self, call: "_NodeCall") -> dict[str, Any] | None:
        """Return None until this machine sees what a node wrote on another one."""
        # Nipype does not write what marks the end where it only updates hashes.
        if call.updatehash or has_all_files(call.node):
            return {"result": None, "traceback": None}
        call.last_look = call.last_look or time.monotonic() + self._patience_s
        if time.monotonic() < call.last_look:
            return None
        if has_record(call.node):  # what else is missing Nipype says, if it is needed
            return {"result": None, "traceback": None}
        return _failure(
            PoolError(
                f"{call.place} has ended well, but this machine has not seen its results for "
                f"{self._patience_s:g} s (longer with job_finished_timeout of Nipype); put the "
                "working directory on a disk that all machines share."
            )
        )

    def _clear_task(self, taskid: int) -> None:
        assert self._calls is not None
        self._calls.forget(self._tasks.pop(taskid))

    def _close(self) -> None:
        """End what still runs."""
        pool, self._pool = self._pool, None
        calls, self._calls = self._calls, None
        self._tasks.clear()
        self._unstarted.clear()
        if pool is None:
            return
        try:
            if calls is not None:
                calls.close()
        finally:
            pool.close()


class _NodeCall(Call):
    """A node that was submitted; `submitted` is the one of the workflow, of which it is a copy."""

    noun = "node"

    def __init__(self, node: Any, updatehash: bool, submitted: Any, connected: set[str]) -> None:
        name = f"Node {node.fullname or node.name}"
        super().__init__(name, node.name, run_node, (node, updatehash), _find_needs(node))
        self.node, self.updatehash, self.submitted = node, updatehash, submitted
        self.last_look: float | None = None  # at the files of a node that has ended
        self._connected = connected

    @property
    def place(self) -> str:
        """Its name, and where it runs."""
        return f"{self.name} in {self.node.output_dir()}"

    def find_files(self) -> list[str]:
        """Return the files that it reads, as far as this machine sees them."""
        return find_input_files(self.node, self._connected)


def _find_needs(node: Any) -> Resources:
    """Return what a node asks for."""
    return Resources(node.n_procs or 1, node.mem_gb or 0.0)


def _failure(error: BaseException) -> dict[str, Any]:
    return {"result": None, "traceback": format_exception(error)}


def _find_log_folder(nodes: list[Any]) -> Path:
    """Return a folder beside those of the nodes."""
    for node in nodes:
        if node.base_dir:
            return Path(node.base_dir, (node.fullname or node.name).split(".")[0], "dask_logs")
    return Path("dask_logs")
