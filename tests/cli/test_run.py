"""The workflow of a configuration runs on this machine; its errors come back as sentences."""

import os
import pwd
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from nipype import IdentityInterface, Node

from nipype_blm.cli.plugins import choose_runner
from nipype_blm.cli.run import (
    build_workflow,
    describe_failure,
    find_input_error,
    run_workflow,
)
from nipype_blm.errors import InputError
from nipype_blm.interfaces.base import INPUT_ERROR
from nipype_blm.machine import count_cores
from nipype_blm.model.planning import BASE_BYTES
from nipype_blm.stages.plan import prepare_run


def run(request, runner=None):
    prepared = prepare_run(request)
    runner = runner or choose_runner(request, prepared.plan, None, None)
    workflow = build_workflow(request, "all", prepared, runner)
    run_workflow(workflow, request, runner)


def test_cores_are_those_that_this_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert count_cores() == len(before)


@pytest.mark.parametrize("threads", [1, 2, 100])
def test_a_workflow_gives_the_maps_of_its_configuration(study, threads):
    run(study.ask(numNodes=threads))
    _, beta, _ = study.fit()
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)
    assert (study.outdir / "work" / "blm_wf").is_dir()


def test_problems_are_found_beside_the_results_of_failed_nodes_whatever_the_error_says(study):
    path = study.compress_image()
    path.write_bytes(path.read_bytes()[:-1])
    asked = study.ask()
    with pytest.raises(Exception, match="products") as error:
        run(asked)
    assert not isinstance(error.value, InputError)
    [problem] = find_input_error(RuntimeError("a node was lost"), asked)
    assert "s07.nii.gz is damaged" in problem
    assert problem.endswith("restore it and run again.")


class Broken:
    """A plugin of Nipype."""

    plugin_args: ClassVar = {}

    def run(self, *_, **__):
        raise RuntimeError("no node runs")


def test_a_problem_of_an_earlier_run_is_not_taken_for_one_of_this_run(study):
    """Though the node that left it has not run again."""
    path = study.compress_image()
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert study.run().code == 2
    [report] = study.outdir.rglob(INPUT_ERROR)
    path.write_bytes(content)
    asked = study.ask()
    assert len(find_input_error(RuntimeError("lost"), asked)) == 1
    runner = choose_runner(asked, prepare_run(asked).plan, None, None)
    with pytest.raises(RuntimeError, match="no node runs") as error:
        run(asked, runner._replace(plugin=Broken()))
    assert find_input_error(error.value, asked) == []
    assert not report.exists()


def test_any_other_error_holds_no_problem_of_the_input(study):
    error = RuntimeError("nipype_blm.errors.InputError: of something else")
    assert find_input_error(error, study.ask()) == []


@pytest.mark.parametrize("maxmem", [2**32, 2**50], ids=["4 GiB", "1 PiB"])
def test_a_node_of_multiproc_asks_for_the_memory_of_the_plan_and_not_for_all(study, maxmem):
    fields = study.fields | {"MAXMEM": maxmem, "images_per_batch": 5, "voxels_per_block": 10}
    config = study.ask(**fields)
    plan = prepare_run(config).plan
    expected = max(plan.products_bytes, plan.block_bytes) + BASE_BYTES
    runner = choose_runner(config, plan, "MultiProc", None)
    assert runner.mem_gb == pytest.approx(expected / 2**30)
    assert expected < 2**30 < maxmem


@pytest.fixture
def submit(study, tmp_path, monkeypatch):
    """Function that has Nipype's plugin for Slurm submit a job, where sbatch says something."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.touch(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    config = study.ask()
    runner = choose_runner(config, prepare_run(config).plan, "SLURM", None)
    node = Node(IdentityInterface(["x"]), "node", base_dir=str(tmp_path))

    def answer(text):
        sbatch.write_text(f"#!/bin/sh\necho 'Welcome, 3 messages'\necho '{text}'\n")
        return runner.plugin._submit_batchtask(str(tmp_path / "script.sh"), node)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        *("Submitted batch job 812", "Submitted batch job 812.", "Submitted batch job 812 (dev)"),
        *("Submitted batch job 812 on cluster big2", "812", "812;b"),
    ],
)
def test_nipypes_slurm_finds_the_number_of_a_job_where_sbatch_says_the_number_alone(submit, answer):
    """As the sbatch of some sites does, and --parsable; after a banner, too."""
    assert submit(answer) == 812


@pytest.mark.parametrize("end", ["2 jobs are queued", "22.05", "50% of your hours are left"])
def test_no_number_that_a_site_prints_after_the_answer_is_taken_for_the_job(submit, study, end):
    """It could be somebody else's; the error says in which words of Nipype this ends."""
    with pytest.raises(AttributeError) as caught:
        submit(f"Submitted batch job 812\n{end}")
    config = study.ask()
    text = describe_failure(caught.value, config, "SLURM")
    assert "sbatch or qsub printed does not name the job, which may be left" in text


@pytest.fixture
def stranger(study, require_command):
    """Function that runs a program as a user whom the system does not know by name.

    As in most containers: there is neither an entry of passwd nor a variable with a name.
    """
    if os.getuid() != 0:
        pytest.skip("not root: the test runs a command as another user; run it as root")
    setpriv = require_command("setpriv", "util-linux")
    known = {entry.pw_uid for entry in pwd.getpwall()}
    user = next(number for number in range(12345, 65000) if number not in known)
    for path in (study.folder, *study.folder.iterdir()):
        os.chown(path, user, -1)
    # The folders above the study are closed to all but root.
    rights = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    variables = {"PATH": os.environ["PATH"], "HOME": str(study.folder), "NUMBA_DISABLE_JIT": "1"}

    def run(*arguments):
        return subprocess.run(
            [setpriv, "--reuid", str(user), "--clear-groups", *rights, *arguments],
            env=variables,
            cwd=study.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    ask = "import getpass; getpass.getuser()"
    who = run(sys.executable, "-c", ask)
    assert who.returncode == 1
    assert "KeyError" in who.stderr or "OSError" in who.stderr
    return run


@pytest.mark.parametrize("option", ["--check", "--quiet"])
def test_a_user_without_a_name_checks_and_runs_a_model(study, stranger, option):
    command = [sys.executable, "-P", "-m", "nipype_blm.cli.blm"]
    study.configure()
    done = stranger(*command, "blm.yml", option)
    assert done.returncode == 0, done.stderr
    if option == "--quiet":
        np.testing.assert_array_equal(study.map("n"), study.fit()[0])


@pytest.mark.parametrize("plugin", [[], ["--plugin", "MultiProc"]], ids=["Linear", "MultiProc"])
def test_a_limit_of_processes_that_is_too_low_is_named(study, stranger, plugin, require_command):
    """Threads count as well; root has no such limit."""
    prlimit = require_command("prlimit", "util-linux")
    study.configure()
    command = [sys.executable, "-P", "-m", "nipype_blm.cli.blm", "blm.yml", *plugin]
    done = stranger(prlimit, "--nproc=3:3", *command)
    assert done.returncode == 1
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "limited to 3 processes and threads of a user (ulimit -u); only the admin" in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("umask", "work"), [(0o022, "there"), (0o002, "made")])
def test_intermediate_files_are_private_and_maps_are_as_the_umask_says(study, umask, work):
    """Nipype reads pickles there, which are programs; a folder that is there keeps its mode."""
    if work == "there":
        (study.folder / "work").mkdir(0o755)
    arguments = study.write("arguments.yml", "n_procs: 1\n")
    before = os.umask(umask)
    try:
        result = study.run("--plugin", "Dask", "--plugin-args", arguments, work_dir="work")
    finally:
        os.umask(before)
    assert result.code == 0, result.err

    def mode(*parts):
        return study.folder.joinpath(*parts).stat().st_mode & 0o777

    assert mode("work") == (0o700 if work == "made" else 0o755)
    assert mode("work", "blm_wf") == 0o700
    assert mode("work", "blm_wf", "logs", "workers") == 0o700
    assert mode("out") == mode("out", "contrasts") == 0o777 & ~umask
    files = [path for path in study.outdir.rglob("*") if path.is_file()]
    modes = {path.name: path.stat().st_mode & 0o777 for path in files}
    assert len(modes) > 10
    assert set(modes.values()) == {0o666 & ~umask}


@pytest.mark.parametrize("name", ["nipype.log"])
def test_the_log_of_a_run_is_not_written_through_a_link(study, name):
    assert study.run(work_dir="work").code == 0
    precious = study.write("precious", "keep")
    log = study.folder / "work" / "blm_wf" / "logs" / name
    log.unlink()
    log.symlink_to(precious)
    (study.outdir / "blm_vox_beta.nii").unlink()  # so that there is something to do
    result = study.run(work_dir="work")
    assert result.code == 2
    [error] = result.errors
    assert f"{log} is a symbolic link to {precious}" in error
    assert precious.read_text() == "keep"
    log.unlink()
    assert study.run(work_dir="work").code == 0


@pytest.mark.parametrize(("mode", "n_notices"), [(0o700, 0), (0o755, 0), (0o775, 1), (0o777, 1)])
def test_a_folder_for_intermediate_files_that_others_can_write_is_told_of(study, mode, n_notices):
    """Nipype's pickles there are programs."""
    folder = study.folder / "work"
    folder.mkdir()
    folder.chmod(mode)
    result = study.run(work_dir="work", zero_is_missing=False)
    assert result.code == 0
    told = [line for line in result.err.splitlines() if f"notice: work_dir {folder} " in line]
    assert len(told) == n_notices
