"""Workers on this machine: a cluster whose one job is a process group."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.config
from dask_jobqueue.core import Job, JobQueueCluster

from nipype_blm.private import open_plain

_SECONDS_TO_END = 10
# What dask-jobqueue looks up for every batch system.
_SECTION: dict[str, Any] = {
    "cores": None,
    "memory": None,
    "processes": None,
    "python": None,
    "name": "dask-worker",
    "interface": None,
    "death-timeout": 60,
    "local-directory": None,
    "shared-temp-directory": None,
    "extra": None,
    "worker-command": "distributed.cli.dask_worker",
    "worker-extra-args": [],
    "shebang": "#!/usr/bin/env bash",
    "env-extra": None,
    "job-extra": None,
    "job-script-prologue": [],
    "log-directory": None,
    "scheduler-options": {},
}
dask.config.update_defaults({"jobqueue": {"local": _SECTION}})


class LocalJob(Job):
    """A job that runs here, in a session of its own: Ctrl-C in a terminal is for the driver.

    Dask's own LocalCluster imports the user's script again in every worker.
    """

    config_name = "local"
    submit_command: Any = "bash -c"
    cancel_command: Any = "kill"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.job_header = ""
        self._process: asyncio.subprocess.Process | None = None

    async def _submit_job(self, script_filename: str) -> str:
        path = Path(self.log_directory, f"{self.name}-{os.getpid()}.log")
        with open(path, "ab", opener=open_plain) as log:
            self._process = await asyncio.create_subprocess_exec(
                "bash",
                "-c",
                Path(script_filename).read_text(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return str(self._process.pid)

    @classmethod
    async def _close_job(cls, job_id: str | None, cancel_command: str) -> None:
        """End the process group, by force if it takes long."""
        if job_id is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(int(job_id), signal.SIGTERM)
            for _ in range(_SECONDS_TO_END * 20):
                await asyncio.sleep(0.05)
                os.killpg(int(job_id), 0)
            os.killpg(int(job_id), signal.SIGKILL)


class LocalCluster(JobQueueCluster):
    """Workers on this machine."""

    job_cls = LocalJob
