"""What batch systems say about jobs, from commands that answer as the real ones do."""

import asyncio
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import hear_signals

from nipype_blm.frontends.fields import CLUSTER_TYPES
from nipype_blm.tasks import batch
from nipype_blm.tasks.batch import BATCH_SYSTEMS, QueryError
from nipype_blm.tasks.jobs import Jobs, record_jobs

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


# -- The number of a job -------------------------------------------------------------------

BEFORE = """\

-----------------------------------------------------------------
          Welcome to the Stampede2 Supercomputer
-----------------------------------------------------------------
22.05
No reservation for this job, 3 jobs of 50 in the queue
--> Verifying quota (/home1/03872/ann)...0.00%
\x1b[1m\x1b[32m--> 2 checks OK\x1b[0m
"""
AFTER = "Estimated start: 2026-11-29 14:00 (in 12 minutes)\nHelp: call 5555\n"
# What each batch system says when it takes a job, and the number that it is cancelled by.
SENTENCES = [
    ("slurm", "Submitted batch job 812", "812"),
    ("slurm", "Submitted batch job 812 on cluster big2", "812"),
    ("slurm", "812", "812"),
    ("slurm", "812;big2", "812"),
    ("slurm", "Submitted batch job 812.", "812"),
    ("slurm", "Submitted batch job 812 (dev)", "812"),
    ("sge", 'Your job 812 ("dask-worker") has been submitted', "812"),
    ("sge", 'Your job-array 812.1-3:1 ("dask-worker") has been submitted', "812"),
    ("sge", "812", "812"),
    ("pbs", "812", "812"),
    ("pbs", "812.pbs01", "812"),
    ("pbs", "812[].pbs-server.site.org", "812"),
    ("pbs", "Request 812.nqs1 submitted to queue: standard.", "812"),
    ("moab", "\n812", "812"),
    ("moab", "Moab.812", "Moab.812"),
    ("moab", "812.head.site.org", "812"),
    ("lsf", "Job <812> is submitted to default queue <normal>.", "812"),
    ("lsf", "Job <812> is submitted to queue <q2>.", "812"),
    ("oar", "[ADMISSION RULE] 2 rules\nOAR_JOB_ID=812", "812"),
    ("htcondor", "Submitting job(s).\n1 job(s) submitted to cluster 812.", "812.0"),
    ("local", "812", "812"),
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x1b[0m\n"], ids=["plain", "dos", "coloured"])
@pytest.mark.parametrize(("name", "sentence", "job_id"), SENTENCES)
def test_the_number_of_a_job_is_that_of_the_batch_systems_own_sentence(
    name: str, sentence: str, job_id: str, end: str
) -> None:
    """Whatever a site prints before and after it, with numbers, colours or empty lines."""
    read = BATCH_SYSTEMS[name].read_job_id
    assert read(sentence + end) == job_id
    if sentence in ("812", "812;big2"):
        return  # the number alone is no sentence
    assert read(BEFORE + sentence + end) == job_id
    assert read(sentence + end + AFTER) == job_id
    assert read(BEFORE + sentence + end + AFTER) == job_id


@pytest.mark.parametrize("name", sorted(BATCH_SYSTEMS))
@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (BEFORE, "--> 2 checks OK"),
        ("1 2\nfor 3 days: 50\n", "1 2 for 3 days: 50"),
        ("", "nothing"),
        ("Job rejected: 3 errors\n", "Job rejected: 3 errors"),
        ("caf\x00 12 \x1b[31mred\x1b[0m\n" * 500, "caf 12 red caf 12 red"),
    ],
    ids=["banner", "numbers", "nothing", "refused", "long"],
)
def test_an_answer_without_the_sentence_is_an_error_that_shows_it(
    name: str, answer: str, shown: str
) -> None:
    """Shortened, and without what moves the cursor of a terminal."""
    with pytest.raises(ValueError, match=r"has not said which job it has taken; it said: ") as info:
        BATCH_SYSTEMS[name].read_job_id(answer)
    text = str(info.value)
    assert text.isprintable()
    assert len(text) < 600
    assert text.endswith(shown)


@pytest.mark.parametrize(("name", "sentence"), [row[:2] for row in SENTENCES])
def test_an_answer_with_two_numbers_names_no_job(name: str, sentence: str) -> None:
    """One of the two is an example in a banner, or somebody else's."""
    other = sentence.replace("812", "4")
    with pytest.raises(ValueError, match="has not said which job"):
        BATCH_SYSTEMS[name].read_job_id(f"{other}\n{sentence}\n")


def make_jobs(name: str, folder: Path) -> Any:
    """Return the class of jobs, as of a pool."""
    return record_jobs(BATCH_SYSTEMS[name], Jobs(), folder).job_cls


@pytest.mark.parametrize(("name", "submit"), [("pbs", "qsub"), ("lsf", "bsub")])
def test_where_nothing_finds_a_job_without_a_number_the_error_says_that_it_may_be_left(
    command: Callable, tmp_path: Path, name: str, submit: str
) -> None:
    command(submit, "Welcome\n")
    make = make_jobs(name, tmp_path)
    job = make("tls://host:1", name="job", cores=1, memory="1GB")
    script = tmp_path / "script.sh"
    script.touch()
    with pytest.raises(ValueError, match=r"it said: Welcome; look into the queue, where a job may"):
        asyncio.run(job._submit_job(str(script)))


# -- All -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "query", "cancel"), [("slurm", "squeue", "scancel"), ("sge", "qstat", "qdel")]
)
def test_jobs_that_are_given_back_together_are_cancelled_together(
    command: Callable, tmp_path: Path, name: str, query: str, cancel: str
) -> None:
    """By one query and one command for all of them, never by one for each."""
    asked, given = command(query, "", code=1), command(cancel, "")
    make = make_jobs(name, tmp_path)

    async def give_back(*job_ids: str) -> None:
        await asyncio.gather(*(make._close_job(job_id, cancel) for job_id in job_ids))

    asyncio.run(give_back("11", "12", "13"))
    asyncio.run(give_back("14"))
    assert given.read_text().splitlines() == ["11 12 13", "14"]
    assert len(asked.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "query", "listed", "cancel"),
    [("slurm", "squeue", "12|RUNNING|None\n", "scancel"), ("sge", "qstat", QSTAT, "qdel")],
)
def test_a_number_that_the_queue_does_not_show_as_ours_is_never_cancelled(
    command: Callable, name: str, query: str, listed: str, cancel: str
) -> None:
    """Nor is anything where the queue shows none of the numbers; one query serves all jobs."""
    asked, given = command(query, listed), command(cancel, "")
    BATCH_SYSTEMS[name].cancel(["2", "12", "99"])
    assert given.read_text() == "12\n"
    BATCH_SYSTEMS[name].cancel(["2"])
    assert given.read_text() == "12\n"
    assert len(asked.read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["pbs", "lsf"])
def test_what_cannot_be_listed_is_cancelled_by_the_number_of_the_sentence(
    command: Callable, name: str
) -> None:
    given = command({"pbs": "qdel", "lsf": "bkill"}[name], "")
    BATCH_SYSTEMS[name].cancel(["11", "12"])
    assert given.read_text() == "11 12\n"


@pytest.mark.parametrize(("name", "cancel"), [("slurm", "scancel"), ("sge", "qdel")])
def test_jobs_are_cancelled_by_one_command_that_may_fail(
    command: Callable, name: str, cancel: str
) -> None:
    command(BATCH_SYSTEMS[name].query, "", "nobody answers\n", code=1)  # as to whose they are
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
    from nipype_blm.tasks.batch import BATCH_SYSTEMS
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
