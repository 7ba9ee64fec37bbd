"""What batch systems say about jobs, from commands that answer as the real ones do."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import hear_signals

from nipype_blm.model.config import CLUSTER_TYPES
from nipype_blm.plugins import batch
from nipype_blm.plugins.batch import BATCH_SYSTEMS, QueryError

SLURM, SGE = BATCH_SYSTEMS["slurm"], BATCH_SYSTEMS["sge"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """The answers here do not change with time."""
    monkeypatch.setattr(batch, "_SECONDS_TO_KNOW_AN_END", 0)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Function that puts a command on the PATH; what it was given stands in NAME.given."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name: str, answer: str, error: str = "", code: int = 0) -> Path:
        (tmp_path / f"{name}.answer").write_text(answer)
        (tmp_path / f"{name}.error").write_text(error)
        path = tmp_path / name
        path.write_text(
            f'#!/bin/sh\necho "$@" >> {path}.given\n'
            f"cat {path}.answer\ncat {path}.error >&2\nexit {code}\n"
        )
        path.chmod(0o755)
        return tmp_path / f"{name}.given"

    return write


def test_configurations_and_plugins_know_the_same_cluster_types() -> None:
    assert set(CLUSTER_TYPES) == set(BATCH_SYSTEMS)


# -- Slurm ---------------------------------------------------------------------------------


def test_squeue_is_asked_once_for_all_jobs_of_this_user(command: Callable) -> None:
    lines = (
        "11|RUNNING|None",
        "12|PENDING|Priority",
        "13|PENDING|JobHeldUser",
        "14|PENDING|launch failed requeued held",
    )
    given = command("squeue", "\n".join(lines) + "\n")
    jobs = SLURM.list_jobs()
    assert {job_id: job.is_stuck for job_id, job in jobs.items()} == {
        "11": False,
        "12": False,
        "13": True,
        "14": True,
    }
    assert jobs["13"].description == "PENDING (JobHeldUser)"
    [arguments] = given.read_text().splitlines()
    assert f"--user={os.getuid()}" in arguments


@pytest.mark.parametrize("answer", ["", "\n", "the cluster is busy today\n"])
def test_no_jobs_are_no_jobs(command: Callable, answer: str) -> None:
    command("squeue", answer)
    assert SLURM.list_jobs() == {}


def test_a_reason_may_hold_the_separator(command: Callable) -> None:
    command("squeue", "11|PENDING|one|two\n")
    assert SLURM.list_jobs()["11"].description == "PENDING (one|two)"


def test_a_failing_query_is_an_error_with_the_command_and_what_it_said(command: Callable) -> None:
    command("squeue", "", "Unable to contact slurm controller\n", code=1)
    with pytest.raises(QueryError, match=r"^squeue .*: Unable to contact slurm controller$"):
        SLURM.list_jobs()


@pytest.mark.parametrize("system", [SLURM, SGE], ids=lambda system: system.name)
def test_a_missing_command_is_an_error_with_its_name(
    system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(QueryError, match=rf"^{system.query} "):
        system.list_jobs()


def test_a_command_that_does_not_answer_is_an_error(
    command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_SECONDS_PER_QUERY", 0.2)
    path = command("squeue", "").with_suffix("")
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(QueryError, match="timed out"):
        SLURM.list_jobs()


@pytest.mark.parametrize(
    ("state", "exit_code", "expected"),
    [
        ("TIMEOUT", "0:15", "walltime: the job ran into its limit of 00:01:00 (Slurm: TIMEOUT)"),
        (
            "OUT_OF_MEMORY",
            "0:125",
            "memory: the job used more than it had asked for (Slurm: OUT_OF_MEMORY)",
        ),
        ("CANCELLED", "0:15", "somebody cancelled the job (Slurm: CANCELLED)"),
        ("NODE_FAIL", "1:0", "the node went down (Slurm: NODE_FAIL)"),
        ("PENDING", "0:0", "the job was put back into the queue (Slurm: PENDING)"),
        ("FAILED", "7:0", "exit code 7:0 (Slurm: FAILED)"),
        ("RUNNING", "0:0", None),
    ],
)
def test_slurm_explains_the_end_of_a_job(
    command: Callable, state: str, exit_code: str, expected: str | None
) -> None:
    given = command(
        "scontrol",
        f"JobId=11 JobName=dask-worker UserId=ann(1000) GroupId=ann(1000) JobState={state} "
        f"Reason=None Dependency=(null) ExitCode={exit_code} RunTime=00:01:25 "
        "TimeLimit=00:01:00 TimeMin=N/A Command=(null) WorkDir=/home/ann Comment=a=b\n",
    )
    assert SLURM.explain_end("11") == expected
    assert "show job 11" in given.read_text()


def test_the_end_of_a_forgotten_job_is_not_explained(command: Callable) -> None:
    command("scontrol", "", "slurm_load_jobs error: Invalid job id specified\n", code=1)
    command("qacct", "", "error: job id 11 not found\n", code=1)
    assert SLURM.explain_end("11") is None
    assert SGE.explain_end("11") is None


# -- Grid Engine ---------------------------------------------------------------------------

QSTAT = """\
job-ID  prior   name       user         state submit/start at     queue                  slots
-----------------------------------------------------------------------------------------------
     11 0.50000 dask-worke ann          r     11/20/2026 13:00:01 all.q@node1                1
     12 0.00000 dask-worke ann          qw    11/20/2026 13:00:01                            1
     13 0.00000 dask-worke ann          hqw   11/20/2026 13:00:01                            1
     14 0.50000 dask-worke ann          Eqw   11/20/2026 13:00:01                            1
     15 0.50000 dask-worke ann          t     11/20/2026 13:00:01 all.q@node1                1
"""


def test_qstat_is_asked_once_for_all_jobs_of_this_user(
    command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the owner of the process: LOGNAME may be somebody else's."""
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setenv("USER", "somebody")
    given = command("qstat", QSTAT)
    jobs = SGE.list_jobs()
    assert {job_id: job.is_stuck for job_id, job in jobs.items()} == {
        "11": False,
        "12": False,
        "13": True,
        "14": True,
        "15": False,
    }
    assert jobs["14"].description == "Eqw"
    assert given.read_text() == f"-u {pwd.getpwuid(os.getuid()).pw_name}\n"


def test_qstat_says_nothing_where_there_are_no_jobs(command: Callable) -> None:
    command("qstat", "")
    assert SGE.list_jobs() == {}


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ("0", None),
        ("37  : qmaster enforced h_rt limit", "walltime: 37 : qmaster enforced h_rt limit"),
        ("37  : qmaster enforced h_vmem limit", "memory: 37 : qmaster enforced h_vmem limit"),
        (  # what Grid Engine 8.1.9 says of any of them
            "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
            "walltime or memory: 37 : qmaster enforced h_rt, h_cpu, or h_vmem limit",
        ),
        ("100 : assumedly after job", "Grid Engine: failed 100 : assumedly after job"),
    ],
    ids=["fine", "walltime", "memory", "any limit", "killed"],
)
def test_grid_engine_explains_the_end_of_a_job(
    command: Callable, failed: str, expected: str | None
) -> None:
    command(
        "qacct",
        "==============================================================\n"
        "qname        all.q               \n"
        "jobname      dask-worker         \n"
        f"failed       {failed}\n"
        "exit_status  137                 \n",
    )
    assert SGE.explain_end("11") == expected


# -- All -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cancel"), [("slurm", "scancel"), ("sge", "qdel")])
def test_jobs_are_cancelled_by_one_command_that_may_fail(
    command: Callable, name: str, cancel: str
) -> None:
    given = command(cancel, "", "no such job\n", code=1)
    BATCH_SYSTEMS[name].cancel(["11", "12"])
    assert given.read_text().splitlines() == ["11 12"]


def test_cancelling_without_jobs_or_without_the_command_does_nothing(
    command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = command("scancel", "")
    SLURM.cancel([])
    assert not given.exists()
    monkeypatch.setenv("PATH", "")
    SLURM.cancel(["11"])


def test_processes_of_this_machine_are_listed_and_never_cancelled() -> None:
    local = BATCH_SYSTEMS["local"]
    assert str(os.getpid()) in local.list_jobs()
    local.cancel([str(os.getpid())])


@pytest.mark.parametrize("thread", ["main", "other"])
def test_ctrl_c_remains_an_interrupt_in_any_thread(thread: str) -> None:
    """dask_jobqueue handles it, when imported, so that a run would end as if all were well."""
    source = """
import signal, sys, threading

def look():
    from nipype_blm.plugins.batch import BATCH_SYSTEMS
    found.extend(system.cluster_class for system in BATCH_SYSTEMS.values())

found = []
if sys.argv[1] == "main":
    look()
else:
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
assert len(found) == 8
assert "dask_jobqueue.runner" in sys.modules
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
signal.signal(signal.SIGINT, signal.SIG_IGN)
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    done = subprocess.run(
        [sys.executable, "-c", source, thread],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=hear_signals,
    )
    assert done.returncode == 0, done.stderr
