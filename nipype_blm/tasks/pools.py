"""Pools of Dask workers: on this machine, of a batch system, or one that is there already."""

import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.config
from distributed import Client, Security
from distributed.utils import get_ip

from nipype_blm.errors import InputError
from nipype_blm.private import make_private
from nipype_blm.tasks.batch import BatchSystem, JobState, QueryError
from nipype_blm.tasks.jobs import Jobs, record_jobs
from nipype_blm.tasks.keys import make_key_folder
from nipype_blm.tasks.modules import ImportPaths
from nipype_blm.tasks.options import (
    PoolOptions,
    Resources,
    bind_locally,
    count_processes,
    describe_worker,
)
from nipype_blm.tasks.poolfile import connect
from nipype_blm.tasks.scaling import JobScaling, count_unfinished, find_job, group_workers
from nipype_blm.tasks.settings import set_defaults
from nipype_blm.tasks.task import PoolError
from nipype_blm.tasks.walltime import EndBeforeJob
from nipype_blm.tasks.worker import EndWithDriver

logger = logging.getLogger(__name__)

_DEFAULT_WORKERS = 10
_SECONDS_BETWEEN_QUERIES = 5
_SECONDS_TO_FIRST_NOTE, _SECONDS_BETWEEN_NOTES = 60, 600
_SECONDS_TO_CLOSE = 30
# Jobs that end before their worker reports, in a row, until the run gives up.
_MOST_FAILED_JOBS = 5
_LINES_OF_LOG = 25
# Until what started a worker has said how that one ended.
_SECONDS_TO_LOG = 1


class Pool:
    """Workers that are there already, through a client; also the base of those we start.

    Parameters
    ----------
    client : Client
    worker : Resources, optional
        What each worker has; None if the workers do not say, so that nodes cannot ask.
    lost_timeout : float
        Seconds.
    """

    def __init__(self, client: Client, worker: Resources | None, lost_timeout: float) -> None:
        self.client = client
        self.import_paths = ImportPaths()
        self.worker = worker
        self.address = client.scheduler_info()["address"]
        self._lost_timeout = lost_timeout
        self._last_answer = time.monotonic()

    def check(self) -> None:
        """Raise `PoolError` if there is no hope for workers any more."""
        if self.client.status == "running":
            self._last_answer = time.monotonic()
        elif (
            self.client.status == "closed"
            or time.monotonic() - self._last_answer > self._lost_timeout
        ):
            raise PoolError(self.describe_end())

    def describe_end(self) -> str:
        """Return what is to be said when it is gone."""
        return f"The pool at {self.address} is gone; run again."

    def has_worker(self, address: str) -> bool:
        """Return whether a worker is there."""
        is_running = self.client.status == "running"
        return is_running and address in self.client.scheduler_info(n_workers=-1)["workers"]

    def count_workers(self) -> int:
        """Return how many workers there are; of those that we start, how many there may be."""
        if self.client.status != "running":
            return 0
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def explain_loss(self, where: dict[str, Any]) -> str:
        """Return the likely reason why the worker of a node was lost, and its log."""
        return "its process was killed, or its machine is gone"

    def close(self) -> None:
        """Leave the pool; one that we started ends."""


class BatchPool(Pool):
    """Workers that are jobs of a batch system, or processes of this machine."""

    def __init__(self, options: PoolOptions, largest: Resources, log_folder: Path) -> None:
        system = options.batch_system
        assert system is not None
        self._system: BatchSystem = system
        self._options = options
        folder = Path(options.log_directory or options.get("log_directory") or log_folder)
        self.log_folder = folder.expanduser().absolute()
        worker = describe_worker(options, largest)
        self._processes = count_processes(options, largest)
        if not options.is_local:
            _check_log_folder(self.log_folder)
        make_private(self.log_folder, "log_directory")
        self._jobs = Jobs(options.walltime)
        _tell_defaults(options)
        given = options.security
        self.security = Security.temporary() if given is True else given or None
        shared = os.path.expandvars(options.get("shared_temp_directory") or self.log_folder)
        self._keys = make_key_folder(Path(shared).expanduser())
        try:
            self._cluster = self._start_cluster(worker)
            try:
                client = Client(self._cluster, set_as_default=False)
                super().__init__(client, worker, options.lost_timeout)
            except BaseException:
                self._cluster.close()
                raise
        except BaseException:
            shutil.rmtree(self._keys, ignore_errors=True)
            raise
        started = self._last_worker = self._last_list = time.monotonic()
        self._stuck_since: float | None = None
        self._next_query = started + _SECONDS_BETWEEN_QUERIES
        self._next_note = started + _SECONDS_TO_FIRST_NOTE
        self._had_worker = False
        self._n_failed = 0
        n_workers = options.n_workers or (self._processes if options.is_local else _DEFAULT_WORKERS)
        n_jobs = max(1, n_workers // self._processes)
        self._most_workers = n_jobs * self._processes
        # Lost workers are replaced in any case.
        self._scaling: JobScaling = self._cluster.adapt(
            Adaptive=JobScaling,
            minimum=0 if options.adaptive and not options.is_local else n_jobs,
            maximum=n_jobs,
            idle_timeout=options.idle_timeout,
        )

    def _start_cluster(self, worker: Resources) -> Any:
        options = self._options
        given = options.job_options
        for old, new in options.old_names.items():
            given.pop(old, None)
            given[new] = options.get(new)
        scheduler_options = dict(options.get("scheduler_options") or {})
        dashboard = options.dashboard_address
        if dashboard is None:
            dashboard = scheduler_options.get("dashboard_address")
        scheduler_options |= {
            "allowed_failures": options.retries,
            "dashboard_address": _find_dashboard(dashboard),
            "dashboard": dashboard is not None,
        }
        resources = " ".join(f"{name}={value:.17g}" for name, value in worker._asdict().items())
        extra = [*(options.get("worker_extra_args") or []), "--resources", f"'{resources}'"]
        if options.is_local:
            given |= {"cores": options.cores, "memory": options.memory}
            scheduler_options["host"] = "127.0.0.1"
        elif options.get("interface") is None and not {"host", "interface"} & set(
            scheduler_options
        ):
            scheduler_options["host"] = get_ip()  # instead of all interfaces
        given |= {
            "python": options.get("python") or shlex.quote(sys.executable),
            "processes": self._processes,
            "worker_command": "nipype_blm.tasks.worker",
            "worker_extra_args": [*extra, "--nworkers", str(self._processes)],
            "log_directory": str(self.log_folder),
            "scheduler_options": scheduler_options,
            "silence_logs": logging.CRITICAL,
        }
        if self.security is not None:
            given["security"] = self.security
        if self._system.export_option is not None:
            directives = [str(item) for item in options.get("job_extra_directives") or []]
            if not any(item.startswith(("-v", "-V")) for item in directives):
                given["job_extra_directives"] = [*directives, self._system.export_option]
        routes: dict[str, Any] = {"distributed.scheduler.http.routes": []}
        with dask.config.set({} if dashboard is not None else routes):
            return record_jobs(self._system, self._jobs, self._keys)(**given)

    def check(self) -> None:
        """Raise `PoolError` if there is no hope for workers any more."""
        now = time.monotonic()
        n_workers = len(self._cluster.scheduler.workers)
        if n_workers or not self.count_unfinished():
            self._last_worker = self._last_list = now
        if n_workers:
            self._had_worker, self._n_failed = True, 0
        failure = self._jobs.take_failure()
        if failure is not None:
            if not self._had_worker or now - self._last_worker > self._options.lost_timeout:
                raise PoolError(f"{self._system.name} accepts no job: {failure}")
            logger.warning("A job could not be submitted, and will be tried again: %s", failure)
        if now >= self._next_query:
            self._query(now, n_workers)
            self._next_query = time.monotonic() + _SECONDS_BETWEEN_QUERIES
        if now - self._last_worker > self._options.start_timeout:
            raise PoolError(
                f"No worker has started for {self._options.start_timeout:.0f} s "
                f"(start_timeout); {self._system.name} says: {self._describe_queue()}."
            )

    def count_workers(self) -> int:
        """Return how many workers there may be."""
        return self._most_workers

    def count_unfinished(self) -> int:
        """Return how many nodes run or wait."""
        return count_unfinished(self._cluster.scheduler)

    def _query(self, now: float, n_workers: int) -> None:
        """Look at the jobs whose workers are not there."""
        waiting = self._find_waiting_jobs()
        if not waiting:
            return
        try:
            states = self._list_jobs(waiting.values())
        except QueryError as error:
            if now - self._last_list > self._options.lost_timeout:
                raise PoolError(
                    f"{self._system.name} has not answered for {self._options.lost_timeout:.0f} s "
                    f"(lost_timeout), and no worker is left: {error}"
                ) from error
            return
        self._last_list = now
        gone = [name for name, job_id in waiting.items() if job_id not in states]
        pending = [state for job_id, state in states.items() if job_id in waiting.values()]
        self._replace(gone, waiting, n_workers)
        if not n_workers:
            self._check_stuck(now, pending)
        if pending and now >= self._next_note:
            logger.warning("Jobs without a worker so far: %s.", _summarise(pending))
            self._next_note = now + _SECONDS_BETWEEN_NOTES

    def _list_jobs(self, job_ids: Iterable[str | None]) -> dict[str, JobState]:
        """Return the jobs that have not ended; all, if the batch system is not understood."""
        if self._system.can_list:
            return self._system.list_jobs()
        unknown = JobState("unknown", False)
        return {job_id: unknown for job_id in job_ids if job_id is not None}

    def _find_waiting_jobs(self) -> dict[str, str | None]:
        """Return the jobs, by name, that no worker belongs to."""
        jobs, present = dict(self._cluster.workers), group_workers(self._cluster)
        return {name: job.job_id for name, job in jobs.items() if name not in present}

    def _replace(self, names: Sequence[str], jobs: dict[str, str | None], n_workers: int) -> None:
        """Forget jobs that have ended, or were refused, so that others are submitted."""
        for name in names:
            if jobs[name] is None or name in self._scaling.reported:
                continue
            self._n_failed += 1
            if self._n_failed >= _MOST_FAILED_JOBS and not n_workers:
                reason = self._explain_job(jobs[name])
                raise PoolError(
                    f"{self._n_failed} jobs of {self._system.name} ended before their workers "
                    f"could report.{reason}"
                )
        if names:
            self._cluster.loop.add_callback(self._cluster.scale_down, list(names))

    def _check_stuck(self, now: float, pending: Sequence[JobState]) -> None:
        """Raise `PoolError` if the batch system itself says that no job can start."""
        if not pending or not all(state.is_stuck for state in pending):
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since >= self._options.stuck_timeout:
            raise PoolError(
                f"No job can start; {self._system.query} says: {_summarise(pending)}.  Change the "
                "queue, the account or what a job asks for, or have the jobs released."
            )

    def _describe_queue(self) -> str:
        if not self._system.can_list:
            return "nothing that is understood here; look at the queue"
        try:
            jobs = self._system.list_jobs()
            ours = [jobs[job_id] for job_id in self._jobs.job_ids if job_id in jobs]
            return f"{self._system.query}: {_summarise(ours)}"
        except QueryError as error:
            return str(error)

    def explain_loss(self, where: dict[str, Any]) -> str:
        """Return the likely reason why the worker of a node was lost, and its log."""
        if self._options.is_local:
            time.sleep(_SECONDS_TO_LOG)
            job = find_job(where["name"], self._cluster)
            logs = self.log_folder.glob(f"{job}-{os.getpid()}.log")
            return super().explain_loss(where) + _quote_ends(logs)
        return self._explain_job(where.get("job_id")).strip() or super().explain_loss(where)

    def _explain_job(self, job_id: str | None) -> str:
        if job_id is None:
            return ""
        reason = self._system.explain_end(job_id)
        text = f"  Job {job_id}: {reason or 'the batch system does not say how it ended'}."
        # Not hidden ones: keys lie beside the logs.
        is_of_job = re.compile(rf"[^.].*(?<!\d){re.escape(job_id)}(?!\d)").match
        return text + _quote_ends(
            path for path in self.log_folder.iterdir() if is_of_job(path.name)
        )

    def close(self) -> None:
        """Cancel all jobs."""
        self._jobs.end_together = True
        try:
            _close(self.client, self._cluster)
        finally:  # also those that were submitted while the cluster closed
            self._system.cancel(self._jobs.job_ids)
            shutil.rmtree(self._keys, ignore_errors=True)


def _tell_defaults(options: PoolOptions) -> None:
    """Tell what a user might not expect of the options."""
    if options.old_names:
        names = ", ".join(f"{old} is now {new}" for old, new in options.old_names.items())
        logger.warning(
            "Options of dask-jobqueue have old names, which are still understood: %s (in "
            "jobqueue.yaml with dashes).",
            names,
        )
    if options.has_default_walltime:
        logger.warning(
            "No walltime is given: jobs end after %s, dask-jobqueue's default.  Give walltime as "
            "an argument of the plugin or in jobqueue.yaml, so that the longest node fits.",
            options.walltime,
        )


def _quote_ends(logs: Iterable[Path]) -> str:
    """Return the ends of logs, those that are not empty."""
    text = ""
    for log in sorted(logs):
        lines = log.read_text(errors="replace").strip().splitlines()
        lines = [line for line in lines if " - INFO - " not in line] or lines  # Dask's, of starts
        if lines:
            text += f"\nThe end of {log}:\n" + "\n".join(lines[-_LINES_OF_LOG:])
    return text


def _check_log_folder(folder: Path) -> None:
    """Refuse a folder that would be something else in the head of a job script."""
    if re.search(r"[^\w./+@%=:,~-]", str(folder)):
        raise InputError(
            f"The folder for the logs of jobs, {folder}, has characters that job scripts cannot "
            "hold; give another one as log_directory."
        )


def open_pool(options: PoolOptions, largest: Resources, log_folder: Path) -> Pool:
    """Start workers, or find those that are there.

    Parameters
    ----------
    options : PoolOptions
    largest : Resources
        The most that any node needs.
    log_folder : Path
        For the logs of jobs, unless the options name another one.
    """
    set_defaults()
    pool: Pool
    if options.scheduler_file is not None:
        client, found = connect(options.scheduler_file, options.allow_insecure)
        pool = AttachedPool(client, found.resources, options)
    elif options.batch_system is None:
        given = options.cluster
        client = given if isinstance(given, Client) else Client(given, set_as_default=False)
        pool = AttachedPool(client, _find_smallest_worker(client), options)
    else:
        pool = BatchPool(options, largest, log_folder)
    try:
        pool.client.register_plugin(EndWithDriver())
        pool.client.register_plugin(EndBeforeJob())
        pool.client.register_plugin(pool.import_paths)
    except BaseException:
        pool.close()
        raise
    return pool


class AttachedPool(Pool):
    """A pool that somebody else started, and that goes on after the run."""

    def __init__(self, client: Client, worker: Resources | None, options: PoolOptions) -> None:
        super().__init__(client, worker, options.lost_timeout)
        self._is_ours = client is not options.cluster
        self._start_timeout = options.start_timeout
        self._last_worker = self._next_look = time.monotonic()

    def describe_end(self) -> str:
        """Return what is to be said when it is gone."""
        return f"The pool at {self.address} is gone; start it again, and run again."

    def check(self) -> None:
        """Raise `PoolError` if there is no hope for workers any more."""
        super().check()
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _SECONDS_BETWEEN_QUERIES
        if self.client.scheduler_info()["workers"]:
            self._last_worker = now
        elif now - self._last_worker > self._start_timeout:
            raise PoolError(
                f"The pool at {self.address} has had no worker for {self._start_timeout:.0f} s "
                "(start_timeout)."
            )

    def close(self) -> None:
        """Leave the pool."""
        if self.client.status == "running":
            with suppress(Exception):  # it goes on, or is gone
                self.client.unregister_worker_plugin(self.import_paths.name)
        if self._is_ours:
            self.client.close()


def _find_smallest_worker(client: Client) -> Resources | None:
    """Return what every worker has; None if one of them does not say, or there is none."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    resources = [worker["resources"] for worker in workers]
    if not resources or not all(set(Resources._fields) <= set(found) for found in resources):
        return None
    return Resources(
        int(min(found["n_procs"] for found in resources)),
        min(found["mem_gb"] for found in resources),
    )


def _find_dashboard(address: str | int | None) -> str:
    return "127.0.0.1:0" if address is None else bind_locally(address)


def _summarise(states: Sequence[JobState]) -> str:
    """Return how many jobs are in each state."""
    counts: dict[str, int] = {}
    for state in states:
        counts[state.description] = counts.get(state.description, 0) + 1
    return ", ".join(f"{n} x {text}" for text, n in counts.items()) or "no jobs"


def _close(client: Client, cluster: Any) -> None:
    """Close both, whatever state they are in: jobs are cancelled afterwards in any case."""
    for item in (client, cluster):
        with suppress(Exception):
            item.close(timeout=_SECONDS_TO_CLOSE)
