"""What becomes of the jobs that dask-jobqueue submits."""

import asyncio
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from distributed import Security, Status

from nipype_blm.tasks.batch import LOCAL, BatchSystem, keep_interrupt
from nipype_blm.tasks.keys import write_keys

with keep_interrupt():
    from dask_jobqueue.core import Job, JobQueueCluster


_SECONDS_TO_COLLECT = 0.1  # jobs that are given back


class Jobs:
    """What became of the jobs that were submitted.

    Parameters
    ----------
    walltime : str, optional
        As the batch system writes it.
    """

    def __init__(self, walltime: str | None = None) -> None:
        self.walltime = walltime
        self.job_ids: list[str] = []
        self.given_back: list[str] = []  # but not yet cancelled
        self.end_together = False  # whether the pool ends, which cancels all of them
        self._failures: list[str] = []
        self._lock = Lock()

    def add_failure(self, text: str) -> None:
        """Note a job that was refused."""
        with self._lock:
            self._failures.append(text)

    def take_failure(self) -> str | None:
        """Return the newest failure since the last call."""
        with self._lock:
            failure = self._failures[-1] if self._failures else None
            self._failures.clear()
        return failure


class RecordedJob(Job):
    """A job that is noted, and known by the number that its batch system has named.

    dask-jobqueue only logs a command that fails, and waits for the worker for ever.  It takes the
    first number that it finds for that of the job.
    """

    system: BatchSystem
    jobs: Jobs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of old names; the pool tells of them
            super().__init__(*args, **kwargs)
        walltime = self.jobs.walltime
        if walltime and walltime in (self.job_header or ""):  # job_directives_skip may remove it
            seconds = self.system.parse_walltime(walltime)
            if seconds:
                self._command_template += f" --walltime {seconds:.0f}"

    async def start(self) -> None:
        """Submit the job."""
        try:
            await super().start()
        except Exception as error:
            self.jobs.add_failure(" ".join(str(error).split()))
            self.status = Status.failed  # else closing the cluster fails
            raise
        self.jobs.job_ids.append(str(self.job_id))

    async def _submit_job(self, script_filename: str) -> str:
        """Return the number of the job."""
        answer = await super()._submit_job(script_filename)
        try:
            return self.system.read_job_id(answer)
        except ValueError as error:
            found = await asyncio.to_thread(self.system.find_jobs, Path(script_filename))
            await asyncio.to_thread(self.system.cancel, sorted(found))
            left = "" if found else "; look into the queue, where a job may be left"
            raise ValueError(f"{error}{left}") from None

    def _job_id_from_submit_output(self, out: str) -> str:
        return out

    @staticmethod
    async def _call(cmd: Sequence[str], *, shell: bool = False, **options: Any) -> str:
        """Return what a command prints, in whatever encoding."""
        start: Any = asyncio.create_subprocess_exec
        if shell:
            start = asyncio.create_subprocess_shell
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        process = await start(*cmd, **pipes, **options)
        texts = [text.decode(errors="replace") for text in await process.communicate()]
        if process.returncode != 0:
            code, output = process.returncode, "\n".join(texts)
            raise RuntimeError(f"{shlex.join(cmd)}: exit code {code}: {output}")
        return next((text for text in texts if text.strip()), "")

    @classmethod
    async def _close_job(cls, job_id: str | None, cancel_command: str) -> None:
        """Cancel a job, together with others; when the pool ends, all of them."""
        if not cls.system.can_list or cls.system.name == LOCAL:
            await super()._close_job(job_id, cancel_command)
        elif job_id is not None and not cls.jobs.end_together:
            cls.jobs.given_back.append(job_id)
            await asyncio.sleep(_SECONDS_TO_COLLECT)
            job_ids, cls.jobs.given_back = cls.jobs.given_back, []
            await asyncio.to_thread(cls.system.cancel, job_ids)  # of nothing for all but one


class RecordedCluster(JobQueueCluster):
    """A cluster of such jobs."""

    keys: Path  # folder of the credentials of its workers

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            self.status = Status.closed  # else Dask warns of an object that it cannot print
            raise

    def _get_worker_security(self, security: Security | None) -> Security | None:
        """Have keys written where a pool that is killed leaves them to the next one."""
        return None if security is None else write_keys(security, self.keys)


def record_jobs(system: BatchSystem, jobs: Jobs, keys: Path) -> Any:
    """Return the class of clusters of a batch system whose jobs are noted."""
    cluster_class = system.cluster_class
    own = {"system": system, "jobs": jobs}
    job_class = type("RecordedJob", (RecordedJob, cluster_class.job_cls), own)
    return type(
        "RecordedCluster", (RecordedCluster, cluster_class), {"job_cls": job_class, "keys": keys}
    )
