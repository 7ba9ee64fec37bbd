"""Defects of Nipype's own plugins, of which docs/clusters.md warns.

Each test asserts that the defect is there, so that it fails with the Nipype that repairs it.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nipype.pipeline.plugins.slurm import SLURMPlugin

pytestmark = pytest.mark.nipype_defect("1.11.0")

# What runs take that end: importing Nipype, submitting, and noticing the end of a job.
TIME_LIMIT = 90
# A run is taken for hanging if it has not ended so long after all of its results were there.  It
# looks for them five times a second.
HANGING = 8

PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path
from nipype import Function, MapNode, Node, Workflow

def node(name, function, kind=Node, **inputs):
    made = kind(Function(function=function, output_names=["out"]), name=name, **inputs)
    workflow.add_nodes([made])
    return made

def same(x):
    return x

def sleep(x):
    import time
    time.sleep(x)
    return x

def fail(x):
    raise ValueError("no such file")

def kill(x):
    import os, pathlib, signal
    pathlib.Path(x).touch()
    os.kill(os.getpid(), signal.SIGKILL)

def run(plugin, **plugin_args):
    workflow.run(plugin=plugin, plugin_args=plugin_args)
    print("run() has returned")

folder = Path.cwd()
workflow = Workflow("work", base_dir=str(folder))
workflow.config["execution"] = {
    "poll_sleep_duration": "0.2",
    "job_finished_timeout": "1",
    "crashdump_dir": str(folder / "crashes"),
}
"""


@pytest.fixture
def start(fork_program: Callable) -> Callable:
    return lambda source, *arguments: fork_program(PROGRAM + source, *arguments)


def last_line(program: Any) -> str:
    return program.output.strip().splitlines()[-1]


# -- Lost jobs -----------------------------------------------------------------------------


def test_a_job_that_never_starts_gives_the_result_of_an_earlier_run(
    start: Callable, slurm: Any, wait_until: Callable
) -> None:
    program = start(
        """
double = node("double", same)
double.inputs.x = 1
run("Linear")
double.inputs.x = 2
run("SLURM", sbatch_args="--hold")
[result] = folder.glob("work/double/result_double.pklz")
from nipype.utils.filemanip import loadpkl
print("the result is", loadpkl(result).outputs.out)
"""
    )
    wait_until(lambda: program.jobs(slurm) or program.has_ended, TIME_LIMIT, "a job is there")
    for job in program.jobs(slurm):
        slurm.cancel(job.id)
    assert program.wait(TIME_LIMIT) == 0, program.output
    assert program.output.count("run() has returned") == 2
    assert last_line(program) == "the result is 1"


def test_a_cancelled_job_ends_the_run_without_a_name_and_leaves_other_jobs_running(
    start: Callable, slurm: Any, wait_until: Callable
) -> None:
    program = start(
        """
node("lost", sleep).inputs.x = 300
node("other", sleep).inputs.x = 300
run("SLURM")
"""
    )

    def names(state: str) -> dict[str, str]:
        jobs = [job for job in program.jobs(slurm) if job.state == state]
        return {job.name.partition(".")[0]: job.id for job in jobs}

    wait_until(lambda: len(names("RUNNING")) == 2 or program.has_ended, TIME_LIMIT, "both run")
    slurm.cancel(names("RUNNING")["lost"])
    assert program.wait(TIME_LIMIT) == 1, program.output
    assert last_line(program) == 'TypeError: can only concatenate str (not "list") to str'
    assert not (program.folder / "crashes").exists()
    others = names("RUNNING")
    for job_id in others.values():
        slurm.cancel(job_id)
    assert others.keys() == {"other"}


def test_multiproc_waits_for_ever_for_a_killed_process(
    start_program: Callable, wait_until: Callable
) -> None:
    program = start_program(
        PROGRAM
        + """
if __name__ == "__main__":  # which MultiProc may import
    node("killed", kill).inputs.x = str(folder / "mark")
    run("MultiProc")
"""
    )
    wait_until((program.folder / "mark").exists, TIME_LIMIT, "the process has killed itself")
    assert_hangs(program)


def assert_hangs(program: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="has not ended"):
        program.wait(HANGING)


def test_sge_waits_for_ever_where_qstat_lists_no_ended_jobs(
    start: Callable, sge: Any, tmp_path: Path, wait_until: Callable
) -> None:
    """As where the global configuration has finished_jobs 0."""
    qstat = tmp_path / "qstat_without_ended_jobs"
    qstat.write_text('#!/bin/sh\nexec qstat -u "$2" -xml -s prs\n')
    qstat.chmod(0o755)
    program = start(
        """
node("short", same).inputs.x = 1
run("SGE", qstatProgramPath=sys.argv[1], qstatCachedProgramPath=sys.argv[1])
""",
        str(qstat),
    )
    result = program.folder / "work" / "short" / "result_short.pklz"
    wait_until(lambda: result.exists() and not program.jobs(sge), TIME_LIMIT, "the job has ended")
    assert_hangs(program)


def test_ctrl_c_leaves_all_jobs_in_the_queue(
    start_program: Callable, slurm: Any, wait_until: Callable
) -> None:
    # Not forked from what has imported more than Nipype: there the exception was raised, once, in
    # what a weak reference calls, and Python dropped it.
    held = 'node("held", same).inputs.x = 1\nrun("SLURM", sbatch_args="--hold")'
    program = start_program(PROGRAM + held)
    wait_until(lambda: program.jobs(slurm) or program.has_ended, TIME_LIMIT, "a job is there")
    program.interrupt()
    assert program.wait(TIME_LIMIT) != 0
    assert "KeyboardInterrupt" in program.output
    [job] = program.jobs(slurm)
    slurm.cancel(job.id)


# -- Errors that nobody hears of -----------------------------------------------------------


def test_what_sbatch_says_when_it_rejects_a_job_is_lost(start: Callable, slurm: Any) -> None:
    program = start('node("some", same).inputs.x = 1\nrun("SLURM", sbatch_args="-p nowhere")')
    assert program.wait(TIME_LIMIT) == 1, program.output
    assert last_line(program) == "IndexError: list index out of range"
    assert "invalid partition" not in program.output


def test_a_failing_squeue_is_taken_for_the_end_of_a_job(
    slurm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ["sbatch", "--hold", "--parsable", "--output=/dev/null", "--wrap=true"]
    job_id = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    broken = tmp_path / "slurm.conf"
    broken.write_text("no configuration")
    pending = [SLURMPlugin()._is_pending(int(job_id))]
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", str(broken))
        pending.append(SLURMPlugin()._is_pending(int(job_id)))
    slurm.cancel(job_id)
    assert pending == [True, False]


@pytest.mark.parametrize("plugin", ["SLURM", "SGE"])
def test_a_node_that_fails_without_being_submitted_does_not_fail_the_run(
    plugin: str, start: Callable, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(plugin.lower())
    program = start(
        """
node("failing", fail, run_without_submitting=True).inputs.x = 1
run(sys.argv[1])
""",
        plugin,
    )
    assert program.wait(TIME_LIMIT) == 0, program.output
    assert "ValueError: no such file" in program.output


@pytest.mark.parametrize("plugin", ["SLURMGraph", "SGEGraph"])
def test_graph_plugins_return_at_once_and_run_a_map_node_as_one_job(
    plugin: str, start: Callable, request: pytest.FixtureRequest
) -> None:
    scheduler = request.getfixturevalue("slurm" if plugin == "SLURMGraph" else "sge")
    program = start(
        """
many = node("many_" + os.environ["LOGNAME"], same, kind=MapNode, iterfield=["x"])
many.inputs.x = [1, 2, 3]
run(sys.argv[1], sbatch_args="--hold", qsub_args="-h")
""",
        plugin,
    )
    assert program.wait(TIME_LIMIT) == 0, program.output
    assert last_line(program) == "run() has returned"
    jobs = program.jobs(scheduler)
    for job in jobs:
        scheduler.cancel(job.id)
    assert len(jobs) == 1


def test_slurm_graph_needs_plugin_args(start: Callable) -> None:
    program = start('node("some", same).inputs.x = 1\nworkflow.run(plugin="SLURMGraph")')
    assert program.wait(TIME_LIMIT) == 1, program.output
    assert last_line(program).startswith("AttributeError: 'SLURMGraphPlugin' object has no attr")


# -- Arguments and environment -------------------------------------------------------------


def test_parsable_output_of_sbatch_is_not_understood(start: Callable, slurm: Any) -> None:
    program = start(
        'node("held", same).inputs.x = 1\nrun("SLURM", sbatch_args="--parsable --hold")'
    )
    assert program.wait(TIME_LIMIT) == 1, program.output
    assert last_line(program) == "AttributeError: 'NoneType' object has no attribute 'groups'"
    [job] = program.jobs(slurm)  # which nobody waits for
    slurm.cancel(job.id)


@pytest.mark.parametrize("argument", ["--overcommit", "--open-mode=append"])
def test_an_argument_with_o_in_it_moves_the_logs_away(
    argument: str, start: Callable, slurm: Any
) -> None:
    program = start(
        'node("some", same).inputs.x = 1\nrun("SLURM", sbatch_args=sys.argv[1])', argument
    )
    assert program.wait(TIME_LIMIT) == 0, program.output
    assert len(list(program.folder.glob("slurm-*.out"))) == 1


@pytest.mark.parametrize("plugin", ["SLURM", "SGE"])
def test_logname_has_to_be_set(
    plugin: str, start: Callable, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(plugin.lower())
    program = start(
        'del os.environ["LOGNAME"]\nnode("some", same).inputs.x = 1\nrun(sys.argv[1])', plugin
    )
    assert program.wait(TIME_LIMIT) == 1, program.output
    assert last_line(program) == "KeyError: 'LOGNAME'"
