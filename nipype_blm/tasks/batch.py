"""What batch systems say about jobs: one query for all jobs, never one for each."""

import logging
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import psutil

from nipype_blm.errors import shorten

logger = logging.getLogger(__name__)

LOCAL = "local"
_SECONDS_PER_QUERY = 60
_SECONDS_TO_KNOW_AN_END = 5
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST_ANSWER = 400  # that is shown


class JobState(NamedTuple):
    """A job that has not ended, as its batch system describes it."""

    description: str  # in the words of the batch system
    is_stuck: bool  # it cannot start unless somebody does something


class QueryError(RuntimeError):
    """A batch system did not answer; the text holds the command and what it said."""


class BatchSystem:
    """Submits jobs through dask-jobqueue; nothing is known about jobs that are waiting."""

    can_list = False
    query = ""
    # Its own words for a job that it has taken, those of most trust first: sites print whole
    # pages around them, with numbers, and some replace them by the number alone.
    answers: ClassVar[Sequence[str]] = ()
    ten_hours = "10:00:00"  # as a walltime
    # Gives jobs the environment of who submits them, where they do not have it anyway.
    export_option: str | None = None

    def __init__(self, name: str, cluster: str, module: str = "dask_jobqueue") -> None:
        self.name = name
        self._cluster, self._module = cluster, module

    @property
    def cluster_class(self) -> Any:
        """The class of clusters, as of dask-jobqueue."""
        with keep_interrupt():
            return getattr(import_module(self._module), self._cluster)

    @property
    def submit_command(self) -> str:
        """The program that submits jobs."""
        return shlex.split(self.cluster_class.job_cls.submit_command)[0]

    def read_job_id(self, answer: str) -> str:
        """Return the number of a job from all that the submit command has printed.

        Raises
        ------
        ValueError
            If the batch system does not name one job; the text shows what it said.
        """
        text = _COLOUR.sub("", answer)
        for pattern in self.answers:
            found = set(re.findall(pattern, text, re.MULTILINE))
            if len(found) == 1:
                return str(found.pop())
            if found:
                break  # one of them is no job of ours
        shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        raise ValueError(
            f"{self.submit_command} has not said which job it has taken; it said: "
            f"{shorten(shown, _LONGEST_ANSWER) or 'nothing'}"
        )

    def parse_walltime(self, walltime: str) -> float | None:
        """Return the seconds of a walltime, as this batch system writes it; None if unknown."""
        numbers = walltime.strip().split(":")
        units = self._find_units(len(numbers))
        if len(units) != len(numbers) or not all(number.isdecimal() for number in numbers):
            return None
        return float(sum(int(number) * unit for number, unit in zip(numbers, units, strict=True)))

    def _find_units(self, n: int) -> Sequence[int]:
        """Return how many seconds there are in each of the n numbers of a walltime."""
        return (86400, 3600, 60, 1)[-n:]

    def list_jobs(self) -> dict[str, JobState]:
        """Return the jobs of this user that have not ended, by number."""
        raise NotImplementedError

    def find_jobs(self, folder: Path) -> set[str]:
        """Return the jobs of this user whose script lies below a folder, if that can be told."""
        return set()

    def explain_end(self, job_id: str) -> str | None:
        """Return how a job ended, if the batch system tells; it may take some seconds to know."""
        found = self._find_end(job_id)
        for _ in range(_SECONDS_TO_KNOW_AN_END if self.can_list else 0):
            if found is not None:
                break
            time.sleep(1)
            found = self._find_end(job_id)
        return found

    def _find_end(self, job_id: str) -> str | None:
        """Return how a job ended, if that is known yet."""
        return None

    def find_ours(self, job_ids: Sequence[str]) -> list[str]:
        """Return which jobs may be cancelled: those that the queue shows as of this user."""
        try:
            jobs = self.list_jobs() if self.can_list else job_ids
        except QueryError:  # the numbers are what the batch system has answered
            jobs = job_ids
        return [job_id for job_id in job_ids if job_id in jobs]

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs, whatever has become of them."""
        job_ids = self.find_ours(job_ids) if job_ids else []
        command = shlex.split(self.cluster_class.job_cls.cancel_command)
        if job_ids and shutil.which(command[0]):
            try:
                _ask(*command, *job_ids)
            except QueryError as error:  # most often that they have ended
                logger.debug("Jobs were not cancelled: %s", error)


class PBS(BatchSystem):
    """PBS, Torque and NQS."""

    answers = (
        r"^\s*(\d+)(?:\[\d*\])?\.(?=\S*[A-Za-z])[\w.-]+\s*$",
        r"^\s*Request (\d+)\.\S+ submitted to queue",
        r"\A\s*(\d+)\s*\Z",
    )
    export_option = "-V"


class Moab(BatchSystem):
    """Moab."""

    answers = (r"^\s*((?:[A-Za-z][\w-]*\.)?\d+)(?:\.[A-Za-z][\w.-]*)?\s*$",)


class LSF(BatchSystem):
    """LSF."""

    answers = (r"Job <(\d+)> is submitted to",)
    ten_hours = "10:00"

    def parse_walltime(self, walltime: str) -> float | None:
        """Return the seconds of a walltime, as this batch system writes it; None if unknown."""
        return super().parse_walltime(walltime.partition("/")[0])  # a host to compare with

    def _find_units(self, n: int) -> Sequence[int]:
        return (3600, 60)[-n:]


class OAR(BatchSystem):
    """OAR."""

    answers = (r"OAR_JOB_ID=(\d+)\s*$",)

    def _find_units(self, n: int) -> Sequence[int]:
        return (3600, 60, 1)[:n]


class HTCondor(BatchSystem):
    """HTCondor."""

    answers = (r"\d+ job\(s\) submitted to cluster (\d+)\.",)

    def read_job_id(self, answer: str) -> str:
        """Return the number of a job from all that the submit command has printed."""
        return f"{super().read_job_id(answer)}.0"


class LocalProcesses(BatchSystem):
    """Processes of this machine."""

    can_list = True
    query = "ps"
    answers = (r"^(\d+)\s*$",)

    def list_jobs(self) -> dict[str, JobState]:
        """Return all processes, by number."""
        return {str(pid): JobState("running", False) for pid in psutil.pids()}

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Do nothing: closing the cluster has ended them, and numbers are used again."""


class Slurm(BatchSystem):
    """Slurm."""

    can_list = True
    query = "squeue"
    answers = (
        r"Submitted batch job (\d+)\b",
        r"\A\s*(\d+)(?:;\S+)?\s*\Z",  # of --parsable, and of some sites' own sbatch
    )
    # Reasons that no passing of time ends (squeue's manual, section "JOB REASON CODES").
    _STUCK: ClassVar = {
        "AccountNotAllowed",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "JobHeldAdmin",
        "JobHeldUser",
        "PartitionDown",
        "PartitionInactive",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
    }

    def parse_walltime(self, walltime: str) -> float | None:
        """Return the seconds of a walltime, as this batch system writes it; None if unknown."""
        days, dash, rest = walltime.strip().partition("-")
        if not dash:
            return super().parse_walltime(walltime)
        hours = super().parse_walltime(":".join([*rest.split(":"), "0", "0"][:3]))
        return None if hours is None or not days.isdecimal() else int(days) * 86400 + hours

    def _find_units(self, n: int) -> Sequence[int]:
        return (60,) if n == 1 else (3600, 60, 1)[-n:]

    def list_jobs(self) -> dict[str, JobState]:
        """Return the jobs of this user that have not ended, by number."""
        lines = _ask("squeue", "--noheader", f"--user={os.getuid()}", "--format=%F|%T|%r")
        jobs = {}
        for line in lines.splitlines():
            if line.count("|") < 2:
                continue  # what a site prints around its commands
            job_id, state, reason = line.strip().split("|", 2)
            is_stuck = state == "PENDING" and (reason in self._STUCK or "held" in reason)
            jobs[job_id] = JobState(f"{state} ({reason})", is_stuck)
        return jobs

    def find_jobs(self, folder: Path) -> set[str]:
        """Return the jobs of this user whose script lies below a folder, if that can be told."""
        try:
            lines = _ask("squeue", "--noheader", f"--user={os.getuid()}", "--format=%F|%o")
        except QueryError:
            return set()
        found = (line.strip().partition("|") for line in lines.splitlines())
        return {job_id for job_id, _, script in found if Path(script).is_relative_to(folder)}

    def _find_end(self, job_id: str) -> str | None:
        try:
            text = _ask("scontrol", "--oneliner", "show", "job", job_id)
        except QueryError:
            return None
        fields = dict(field.partition("=")[::2] for field in text.split() if "=" in field)
        state, limit = fields.get("JobState", ""), fields.get("TimeLimit", "")
        explanations = {
            "TIMEOUT": f"walltime: the job ran into its limit of {limit}",
            "OUT_OF_MEMORY": "memory: the job used more than it had asked for",
            "CANCELLED": "somebody cancelled the job",
            "NODE_FAIL": "the node went down",
            "PREEMPTED": "the job was preempted",
            "PENDING": "the job was put back into the queue",
        }
        if state in ("RUNNING", "COMPLETING", ""):
            return None
        code = fields.get("ExitCode", "unknown")
        found = "it was killed, as for too much memory" if code == "0:9" else f"exit code {code}"
        return f"{explanations.get(state, found)} (Slurm: {state})"


class GridEngine(BatchSystem):
    """Sun, Son of, Univa and Altair Grid Engine."""

    can_list = True
    query = "qstat"
    answers = (
        r"Your job(?:-array)? (\d+)(?:\.\S+)? \(",
        r"\A\s*(\d+)(?:\.\d+-\d+:\d+)?\s*\Z",  # of -terse
    )
    export_option = "-V"

    def parse_walltime(self, walltime: str) -> float | None:
        """Return the seconds of a walltime, as this batch system writes it; None if unknown."""
        return super().parse_walltime(":".join(n or "0" for n in walltime.split(":")))

    def list_jobs(self) -> dict[str, JobState]:
        """Return the jobs of this user that have not ended, by number."""
        jobs = {}
        for line in _ask("qstat", "-u", _find_user()).splitlines():
            words = line.split()
            if len(words) > 4 and words[0].isdigit():
                state = words[4]
                is_stuck = "E" in state or "h" in state  # error, hold
                jobs[words[0]] = JobState(state, is_stuck)
        return jobs

    def _find_end(self, job_id: str) -> str | None:
        try:
            text = _ask("qacct", "-j", job_id)
        except QueryError:
            return None
        fields = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
        failed = " ".join(fields.get("failed", []))
        # One text may name several limits: "qmaster enforced h_rt, h_cpu, or h_vmem limit".
        limits = {"walltime": r"[hs]_rt", "memory": r"[hs]_vmem|memory"}
        reached = [limit for limit, pattern in limits.items() if re.search(pattern, failed)]
        if reached:
            return f"{' or '.join(reached)}: {failed}"
        return f"Grid Engine: failed {failed}" if failed and failed != "0" else None


BATCH_SYSTEMS: dict[str, BatchSystem] = {
    system.name: system
    for system in (
        HTCondor("htcondor", "HTCondorCluster"),
        LSF("lsf", "LSFCluster"),
        Moab("moab", "MoabCluster"),
        OAR("oar", "OARCluster"),
        PBS("pbs", "PBSCluster"),
        LocalProcesses(LOCAL, "LocalCluster", "nipype_blm.tasks.local"),
        GridEngine("sge", "SGECluster"),
        Slurm("slurm", "SLURMCluster"),
    )
}


def _find_user() -> str:
    """Return whose jobs are listed: LOGNAME and USER may name somebody else."""
    return pwd.getpwuid(os.getuid()).pw_name


@contextmanager
def keep_interrupt() -> Iterator[None]:
    """Keep dask_jobqueue from handling Ctrl-C, which would end a run as if all were well.

    It sets the handler when it is imported, which moreover fails in all threads but the main one.
    """
    if "dask_jobqueue" in sys.modules:
        yield
        return
    with mock.patch.object(signal, "signal"):
        yield


def _ask(*command: str) -> str:
    """Return what a command prints."""
    try:
        answer = subprocess.run(
            command,
            # The user's own filters of queues do not apply.
            env={name: value for name, value in os.environ.items() if "SQUEUE_" not in name},
            capture_output=True,
            text=True,
            timeout=_SECONDS_PER_QUERY,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueryError(f"{' '.join(command)}: {error}") from error
    if answer.returncode != 0:
        raise QueryError(f"{' '.join(command)}: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer.stdout
