"""What runs on a worker: one node at a time, and ``python -m nipype_blm.tasks.worker``."""

import argparse
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import format_exception
from typing import Any

import cloudpickle
import psutil
from distributed import Worker, WorkerPlugin, get_worker
from distributed.comm import get_address_host
from distributed.utils import get_ip

from nipype_blm.progress import listening
from nipype_blm.tasks.disks import await_files
from nipype_blm.tasks.modules import Main, describe_process, prepare_modules
from nipype_blm.tasks.settings import set_defaults
from nipype_blm.tasks.walltime import EndBeforeJob, JobTimes, note_times

STARTED, PROGRESS = "nipype-blm-started", "nipype-blm-progress"
# Under which name each batch system tells a job its number.
JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "OAR_JOB_ID", "JOB_ID")
_SECONDS_BETWEEN_REPORTS = 0.5

# The working directory belongs to the process, so that it can run no two nodes at once.
# Reentrant: a node may run a workflow.
running = threading.RLock()
_current: dict[str, str] = {}  # the key of the node that runs


class CallError(Exception):
    """A function failed on a worker; the lines of its traceback."""

    def __str__(self) -> str:
        """Return a short text: Dask replaces exceptions whose text is long."""
        return "A call failed."


def run_call(
    pickled: bytes,
    key: str,
    run: str,
    main: Main | None,
    files: Sequence[str],
    patience_s: float,
) -> Any:
    """Call a function when its files are here; `run` and `main` are for `prepare_modules`.

    Raises
    ------
    CallError
        With the traceback of any exception: not all of them can be sent.
    """
    with running:
        worker = get_worker()
        end: Any = worker.plugins[EndBeforeJob.name]
        end.admit(run, key)
        folder = Path.cwd()
        _current["key"] = key
        worker.log_event(STARTED, {"key": key} | describe_worker(worker))
        try:
            prepare_modules(run, main)
            await_files(files, patience_s)
            function, arguments = cloudpickle.loads(pickled)
            with _reporting(worker, key):
                return function(*arguments)
        except BaseException as error:  # also SystemExit: a call does not end the worker
            raise CallError(format_exception(error)) from None
        finally:
            _current.clear()
            os.chdir(folder)
            end.note_end(run, key)


def describe_worker(worker: Worker) -> dict[str, Any]:
    """Return where a node runs."""
    job_id = next((os.environ[name] for name in JOB_ID_VARIABLES if name in os.environ), None)
    times = JobTimes.find()
    return {
        "worker": worker.address,
        "name": str(worker.name),
        **describe_process(),
        "job_id": job_id,
        "memory_limit": worker.memory_manager.memory_limit,
        "time": times and times.describe(),
    }


@contextmanager
def _reporting(worker: Worker, key: str) -> Iterator[None]:
    """Send the progress that is reported meanwhile to the driver, a few times a second."""
    waiting: Counter[str] = Counter()
    last_report = 0.0

    def report() -> None:
        nonlocal last_report
        if waiting:
            worker.log_event(PROGRESS, {"key": key, "done": dict(waiting)})
            waiting.clear()
        last_report = time.monotonic()

    def advance(what: str, n: int) -> None:
        waiting[what] += n
        if time.monotonic() - last_report > _SECONDS_BETWEEN_REPORTS:
            report()

    try:
        with listening(advance):
            yield
    finally:
        report()


class EndWithDriver(WorkerPlugin):
    """Ends a node whose driver is gone or was interrupted, with all that the node started.

    Else it would go on writing into a folder that the next run uses.  Dask cannot stop a thread:
    the process ends, and its nanny starts another one.
    """

    name = "nipype-blm-end-with-driver"
    # Else a second run on a pool would take down this one, and the nodes of the first with it.
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Note whether the process may end: one without a nanny belongs to somebody else."""
        self._may_end = worker.nanny is not None

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """End the process if the node that it runs is not wanted any more."""
        if finish == "cancelled" and key == _current.get("key"):
            self._end()

    def teardown(self, worker: Worker) -> None:
        """End the process if it runs a node."""
        if _current:
            self._end()

    def _end(self) -> None:
        if self._may_end:
            try:
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        process.kill()
            finally:
                os._exit(1)


def main() -> None:
    """Start a worker of a job: Dask's own command with our settings.

    Like Dask's, the first argument is the address of the scheduler.  ``--walltime`` is how many
    seconds the job may take.
    """
    from distributed.cli.dask_worker import main as dask_worker

    set_defaults()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--walltime", type=float)
    own, arguments = parser.parse_known_args()
    if own.walltime is not None:
        note_times(own.walltime)
    if not {"--interface", "--host"} & set(arguments):
        # Listen where the scheduler is reached, not on all interfaces.
        arguments += ["--host", get_ip(get_address_host(arguments[0]))]
    arguments += ["--nthreads", "1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    dask_worker(arguments)


if __name__ == "__main__":
    main()
