"""The arguments of the Dask plugin, and what comes from Dask's own configuration."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Client
from nipype import Function, IdentityInterface, Node, Workflow

from nipype_blm.errors import InputError
from nipype_blm.plugins import DaskPlugin
from nipype_blm.tasks.batch import BATCH_SYSTEMS
from nipype_blm.tasks.options import (
    Resources,
    bind_locally,
    count_processes,
    describe_worker,
    parse_options,
)
from nipype_blm.tasks.task import PoolError

SLURM: dict[str, Any] = {"cluster": "slurm", "cores": 4, "memory": "16GiB"}
SMALL = Resources(1, 0.2)


@pytest.fixture(autouse=True)
def _submit_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sbatch and qsub on the PATH; nothing is submitted here."""
    for name in ("sbatch", "qsub"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.fixture(autouse=True)
def _no_jobqueue_yaml() -> Iterator[None]:
    """Hide the configuration of whoever runs the tests."""
    # Dask's defaults are there once these are imported; in the context they would go with it.
    assert BATCH_SYSTEMS["slurm"].cluster_class
    assert BATCH_SYSTEMS["local"].cluster_class
    found = dask.config.merge(*dask.config.defaults)["jobqueue"]
    with dask.config.set({"jobqueue.slurm": found["slurm"], "jobqueue.sge": found["sge"]}):
        yield


# -- Bad input -----------------------------------------------------------------------------


def test_an_unknown_cluster_type_is_answered_with_those_there_are() -> None:
    with pytest.raises(InputError) as caught:
        parse_options({"cluster": "sulrm"})
    text = str(caught.value)
    assert "'sulrm' is not a cluster type" in text
    assert "htcondor, local, lsf, moab, oar, pbs, sge, slurm" in text


def test_case_and_spaces_of_a_cluster_type_do_not_matter() -> None:
    assert parse_options(SLURM | {"cluster": " SLURM "}).cluster == "slurm"


@pytest.mark.parametrize("cluster", [None, 5])
def test_a_cluster_that_is_no_cluster_is_refused(cluster: Any) -> None:
    with pytest.raises(InputError, match=rf"cluster is {cluster}, expected"):
        parse_options({"cluster": cluster})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_workers", 0),
        ("n_procs", "many"),
        ("memory_gb", 0),
        ("memory_gb", "4 GB"),
        ("retries", -1),
        ("start_timeout", 0),
        ("idle_timeout", "soon"),
        ("idle_timeout", [1]),
        ("lost_timeout", None),
        ("scheduler_file", 5),
    ],
)
def test_a_bad_value_is_named_with_its_argument(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        parse_options({name: value})
    assert f"Plugin argument {name} is {value!r}: " in str(caught.value)


NOT_A_MAPPING = ["x", [1], ["cluster", "slurm"], 5, ("ab",), b"x"]


@pytest.mark.parametrize("given", NOT_A_MAPPING)
def test_arguments_that_are_no_mapping_are_refused(given: Any) -> None:
    with pytest.raises(InputError, match="expected a mapping of names to values"):
        DaskPlugin(given)


NAN, INF, HUGE = float("nan"), float("inf"), 10**400
STRANGE = [NAN, INF, -INF, HUGE, -1, [], {}, [[1]], {"a": 1}, True, "x" * 5000, b"x", object()]


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(
    "name", ["n_workers", "n_procs", "memory_gb", "retries", "cores", "memory", "processes"]
)
def test_what_is_no_number_is_one_clear_error(name: str, value: Any) -> None:
    """Of the wrong type, infinite, not a number, negative or huge: named, shown short, no more."""
    given = SLURM if name in ("cores", "memory", "processes") else {}
    with pytest.raises(InputError) as caught:
        parse_options(given | {name: value})
    [problem] = caught.value.problems
    assert name in problem
    assert len(problem) < 400


@pytest.mark.parametrize("value", [NAN, -INF, HUGE, -1, 0, [], {}, True, "soon", b"x"])
@pytest.mark.parametrize("name", ["idle_timeout", "start_timeout", "stuck_timeout", "lost_timeout"])
def test_what_is_no_time_is_one_clear_error(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"Plugin argument {name} is "):
        parse_options({name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("queue", ["a"], "a text or a number"),
        ("account", {"a": 1}, "a text or a number"),
        ("walltime", [10], "a text or a number"),
        ("walltime", NAN, "what slurm takes, such as '10:00:00' for ten hours"),
        ("walltime", True, "what slurm takes, such as '10:00:00' for ten hours"),
        ("interface", ["ib0"], "a text or a number"),
        ("job_extra_directives", "--exclusive", "a list, one text an item"),
        ("job_extra_directives", {"a": "b"}, "a list, one text an item"),
        ("job_script_prologue", "module load x", "a list, one text an item"),
        ("job_script_prologue", [["module"]], "a list, one text an item"),
        ("worker_extra_args", 5, "a list, one text an item"),
        ("extra", "--lifetime 1h", "a list, one text an item"),
        ("scheduler_options", "x" * 5000, "a mapping of names to values"),
    ],
)
@pytest.mark.parametrize("where", ["argument", "jobqueue.yaml"])
def test_an_option_of_dask_jobqueue_of_the_wrong_type_is_named(
    name: str, value: Any, expected: str, where: str
) -> None:
    """A text in the place of a list would be taken letter by letter."""
    found = {f"jobqueue.slurm.{name.replace('_', '-')}": value} if where != "argument" else {}
    given = {name: value} if where == "argument" else {}
    with dask.config.set(found), pytest.raises(InputError) as caught:
        parse_options(SLURM | given)
    [problem] = caught.value.problems
    assert problem.startswith(f"{name} is {value!r}"[:90])
    assert problem.endswith(f", expected {expected}.")
    assert len(problem) < 300


def test_a_walltime_that_the_batch_system_does_not_take_is_refused(
    tmp_path: Path,
) -> None:
    """LSF counts no seconds, and dask-jobqueue throws away what it says of them."""
    (tmp_path / "bsub").touch(mode=0o755)
    given = {"cluster": "lsf", "cores": 1, "memory": "1GB"}
    with pytest.raises(InputError, match="what lsf takes, such as '10:00' for ten hours"):
        parse_options(given | {"walltime": "01:00:00"})
    assert parse_options(given | {"walltime": "01:00"}).walltime == "01:00"


def test_what_dask_jobqueue_makes_no_script_of_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dask-jobqueue makes no job for slurm of these options"):
        parse_options(SLURM | {"job_cpu": "two", "log_directory": str(tmp_path / "logs")})
    assert not (tmp_path / "logs").exists()


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(InputError, match="status_callback is 'print', expected a function"):
        parse_options({"status_callback": "print"})


# -- Old names -----------------------------------------------------------------------------

OLD = {
    "extra": ["--preload", "mine.py"],
    "job_extra": ["--exclusive"],
    "env_extra": ["module load mine"],
    "header_skip": ["-J"],
    "project": "ours",
}
NEW = {
    "worker_extra_args": ["--preload", "theirs.py"],
    "job_extra_directives": ["--qos=high"],
    "job_script_prologue": ["module load theirs"],
    "job_directives_skip": ["-p"],
    "account": "theirs",
}


@pytest.mark.parametrize("where", ["argument", "jobqueue.yaml"])
def test_options_under_old_names_are_found_and_told(where: str) -> None:
    """An empty one says nothing; one under its new name comes first."""
    in_file = {f"jobqueue.slurm.{name.replace('_', '-')}": value for name, value in OLD.items()}
    given, found = ({}, in_file) if where != "argument" else (OLD, {})
    with dask.config.set(found):
        options = parse_options(SLURM | given)
        assert [options.get(name) for name in NEW] == list(OLD.values())
        assert options.old_names == dict(zip(OLD, NEW, strict=True))
        options = parse_options(SLURM | given | NEW)
        assert {name: options.get(name) for name in NEW} == NEW
    empty = {f"jobqueue.slurm.{name}": [] for name in ("extra", "job-extra", "env-extra")}
    with dask.config.set(empty):
        assert parse_options(SLURM).old_names == {}


def same(x: int) -> int:
    return x


@pytest.mark.parametrize(("cluster", "command"), [("slurm", "sbatch"), ("sge", "qsub")])
def test_options_under_old_names_stand_in_the_script_beside_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cluster: str, command: str
) -> None:
    """One notice names the new names, and another the walltime that nobody has given."""
    path = tmp_path / command
    path.write_text(f"#!/bin/sh\ncat $1 >{tmp_path}/script\necho no >&2\nexit 1\n")
    workflow = Workflow("wf", base_dir=str(tmp_path))
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path)}
    workflow.add_nodes([Node(Function(function=same), name="node")])
    workflow.get_node("node").inputs.x = 1
    old = {name: OLD[name] for name in ("extra", "job_extra", "env_extra")}
    keys = {f"jobqueue.{cluster}.{name.replace('_', '-')}": value for name, value in old.items()}
    with dask.config.set(keys), warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # dask-jobqueue's, of each job
        plugin = DaskPlugin({**SLURM, "cluster": cluster})
        with pytest.raises(PoolError, match="accepts no job"):
            workflow.run(plugin=plugin)
    script = (tmp_path / "script").read_text()
    assert " --preload mine.py --resources " in script
    assert re.search(r"^#(SBATCH|\$) --exclusive$", script, re.MULTILINE)
    assert "\nmodule load mine\n" in script
    assert ("\n#$ -V\n" in script) == (cluster == "sge")
    told = [record.getMessage() for record in caplog.records if "tasks.pools" in record.name]
    assert [text for text in told if "old names" in text and "extra is now worker_extra" in text]
    assert [text for text in told if "jobs end after 00:30:00" in text]
    assert len(told) == 2


def test_project_is_no_old_name_where_it_means_something_else() -> None:
    options = parse_options({**SLURM, "cluster": "sge", "project": "ours"})
    assert options.old_names == {}


def test_times_may_have_units() -> None:
    assert parse_options({"idle_timeout": "5 minutes"}).idle_timeout == 300
    assert parse_options({"idle_timeout": "90"}).idle_timeout == 90


@pytest.mark.parametrize(
    ("given", "name", "meant"),
    [({}, "n_worker", "n_workers"), (SLURM, "wall_time", "walltime")],
    ids=["local", "slurm"],
)
def test_a_misspelt_argument_is_answered_with_the_one_that_was_meant(
    given: dict[str, Any], name: str, meant: str
) -> None:
    with pytest.raises(InputError, match=rf"'{name}' is not .* did you mean {meant}\?"):
        parse_options(given | {name: 1})


def test_an_argument_like_no_other_is_answered_with_all_there_are() -> None:
    with pytest.raises(InputError, match="known are adaptive, allow_insecure, cluster, "):
        parse_options({"zzz": 1})


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(InputError) as caught:
        parse_options({"n_workers": 0, "retries": -1})
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError) as caught:
        parse_options({"cluster": "slurm", "cores": 0, "dashboard_address": "0.0.0.0:1"})
    assert len(caught.value.problems) == 3  # memory is missing, too


def test_a_missing_command_of_the_batch_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="sbatch, which submits jobs to slurm, is not on the PATH"):
        parse_options(SLURM)


def test_a_configuration_without_cores_and_memory_is_refused() -> None:
    with pytest.raises(InputError, match=r"section jobqueue\.slurm .* has no cores and no memory"):
        parse_options({"cluster": "slurm"})
    with pytest.raises(InputError, match=r"section jobqueue\.slurm .* has no memory \("):
        parse_options({"cluster": "slurm", "cores": 1})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cores", 0, "a number of at least 1"),
        ("cores", "all", "a number of at least 1"),
        ("processes", 0, "a number of at least 1"),
        ("memory", "100 apples", "a size such as '4 GB'"),
        ("memory", 0, "a size such as '4 GB'"),
    ],
)
def test_a_size_of_a_job_that_is_none_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_options(SLURM | {name: value})
    assert str(caught.value) == f"{name} is {value!r}, expected {expected}."


@pytest.mark.parametrize(("name", "instead"), [("n_procs", "cores"), ("memory_gb", "memory")])
def test_the_size_of_a_local_pool_is_refused_for_jobs(name: str, instead: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is for cluster='local'; .* give {instead}\."):
        parse_options(SLURM | {name: 2})


# -- Dashboard -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8787", "[::]:8787", "::", "cluster.org:8787", "0.0.0.0", "localhost:x", ""]
)
def test_a_dashboard_for_everybody_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="dashboard_address is "):
        parse_options({"dashboard_address": address})
    with pytest.raises(InputError, match="dashboard_address is "):
        parse_options(SLURM | {"scheduler_options": {"dashboard_address": address}})


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_dashboard_for_everybody_is_refused_in_jobqueue_yaml(cluster: str) -> None:
    given = SLURM if cluster == "slurm" else {}
    found = {"dashboard_address": "0.0.0.0:8787"}
    with (
        dask.config.set({f"jobqueue.{cluster}.scheduler-options": found}),
        pytest.raises(InputError, match=r"0\.0\.0\.0:8787"),
    ):
        parse_options(given)


@pytest.mark.parametrize("address", [":8787", "8787", 8787, "127.0.0.1:8787", "[::1]:8787"])
def test_a_dashboard_is_on_this_machine(address: str | int) -> None:
    found = parse_options({"dashboard_address": address}).dashboard_address
    assert found is not None
    host, _, port = bind_locally(found).rpartition(":")
    assert host in ("localhost", "127.0.0.1", "[::1]")
    assert port == "8787"


def test_a_dashboard_is_a_port_and_no_switch() -> None:
    with pytest.raises(InputError, match="dashboard_address is True"):
        parse_options({"dashboard_address": True})


# -- Sizes ---------------------------------------------------------------------------------


def test_a_job_has_as_many_workers_as_can_run_any_node() -> None:
    options = parse_options(SLURM)
    assert count_processes(options, Resources(1, 0.2)) == 4  # 4 cores
    assert count_processes(options, Resources(2, 0.2)) == 2
    assert count_processes(options, Resources(1, 6.0)) == 2  # 16 GiB
    assert count_processes(options, Resources(8, 0.2)) == 1  # and does not fit
    assert describe_worker(options, Resources(1, 6.0)) == Resources(2, 8.0)


def test_a_job_may_be_divided_by_hand() -> None:
    options = parse_options(SLURM | {"processes": 2})
    assert describe_worker(options, SMALL) == Resources(2, 8.0)


def test_a_node_fits_or_does_not() -> None:
    worker = Resources(2, 8.0)
    assert Resources(2, 8.0).fit_into(worker)
    assert not Resources(3, 1.0).fit_into(worker)
    assert not Resources(1, 8.1).fit_into(worker)


def test_a_local_pool_is_divided_among_its_workers() -> None:
    options = parse_options({"n_procs": 4, "memory_gb": 8, "n_workers": 2})
    assert describe_worker(options, SMALL) == Resources(2, 4.0)
    options = parse_options({"n_procs": 4, "memory_gb": 8})
    assert describe_worker(options, Resources(1, 4.0)) == Resources(2, 4.0)


def test_a_ready_client_is_no_batch_system() -> None:
    client = Client(processes=False, n_workers=0, dashboard_address="127.0.0.1:0")
    with client:
        options = parse_options({"cluster": client})
        assert options.batch_system is None
        assert not options.is_local


# -- The user's configuration --------------------------------------------------------------

# As BLM-py's README has it, with another interface and folders, and one key given twice.
JOBQUEUE = """\
jobqueue:
  slurm:
    name: dask-worker

    # Dask worker options
    cores: 1                 # Total number of cores per job
    memory: "100GB"                # Total amount of memory per job
    processes: 1                # Number of Python processes per job

    interface: lo             # Network interface to use like eth0 or ib0
    death-timeout: 60           # Number of seconds to wait if a worker can not find a scheduler
    local-directory: "{folder}"       # Location of fast local storage like /scratch or $TMPDIR
    log-directory: "{folder}"
    silence_logs: True

    # SLURM resource manager options
    shebang: "#!/usr/bin/bash"
    queue: short
    project: null
    walltime: '01:00:00'
    job-cpu: null
    job-mem: null
    log-directory: null

    # Scheduler options
    scheduler-options: {{'dashboard_address': ':46405'}}
"""

READ = """
import json, logging, sys
from nipype_blm.tasks.options import Resources, describe_worker, parse_options
from nipype_blm.tasks.settings import set_defaults
import dask, distributed
from dask.config import get

options = parse_options({"cluster": "slurm", **json.loads(sys.argv[1])})
set_defaults()
script = options.batch_system.cluster_class(
    n_workers=0, **options.job_options, scheduler_options={"dashboard_address": None}
).job_script()
print(json.dumps({
    "worker": describe_worker(options, Resources(1, 0.2)),
    "queue": options.get("queue"),
    "log_directory": options.get("log_directory"),
    "dashboard": options.get("scheduler_options")["dashboard_address"],
    "script": script,
    "terminate": get("distributed.worker.memory.terminate"),
    "spill": get("distributed.worker.memory.spill"),
    "timeout": get("distributed.deploy.lost-worker-timeout"),
}))
"""


def read_configuration(folder: Path, **plugin_args: Any) -> dict[str, Any]:
    """Return what a process makes of the YAML files of a folder."""
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(plugin_args)],
        env=os.environ | {"DASK_CONFIG": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Folder with a jobqueue.yaml."""
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "jobqueue.yaml").write_text(JOBQUEUE.format(folder=tmp_path))
    return folder


def test_the_jobqueue_yaml_of_blm_py_is_understood(config: Path) -> None:
    found = read_configuration(config)
    assert found["worker"] == [1, pytest.approx(100e9 / 2**30, rel=1e-12)]  # one division
    assert found["queue"] == "short"
    assert found["log_directory"] is None  # the second of two
    assert bind_locally(found["dashboard"]) == "localhost:46405"
    assert "#SBATCH -p short\n" in found["script"]
    assert "#SBATCH -t 01:00:00\n" in found["script"]
    assert "--interface lo" in found["script"]


def test_arguments_of_the_plugin_come_before_jobqueue_yaml(config: Path) -> None:
    found = read_configuration(config, queue="long", cores=2, memory="8GiB", processes=2)
    assert found["worker"] == [1, 4.0]
    assert found["queue"] == "long"
    assert "#SBATCH -p long\n" in found["script"]
    assert "#SBATCH --cpus-per-task=2\n" in found["script"]


def test_dask_settings_of_the_user_come_before_ours(config: Path) -> None:
    ours = read_configuration(config)
    assert (ours["terminate"], ours["spill"], ours["timeout"]) == (0.95, False, "60s")
    (config / "distributed.yaml").write_text(
        "distributed:\n  worker:\n    memory:\n      terminate: 0.8\n"
    )
    theirs = read_configuration(config)
    assert (theirs["terminate"], theirs["spill"]) == (0.8, False)


# -- A pool that is there already ----------------------------------------------------------


@pytest.mark.parametrize("content", [None, "no json", "[]", "{}"], ids=["none", "text", "a", "b"])
def test_a_file_that_is_not_that_of_a_pool_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "pool.json"
    if content is not None:
        path.write_text(content)
    workflow = Workflow("wf", base_dir=str(tmp_path))
    workflow.add_nodes([Node(IdentityInterface(["x"]), name="node")])
    with pytest.raises(InputError, match=rf"{path} .*`nipype-blm pool start`"):
        workflow.run(plugin=DaskPlugin({"scheduler_file": str(path)}))
