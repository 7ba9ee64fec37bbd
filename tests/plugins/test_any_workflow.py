"""What nodes of any workflow may do on a worker, and where; and how a run without one ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from distributed import LocalCluster
from nipype import Function, Node, Workflow

from nipype_blm.errors import InputError
from nipype_blm.plugins import DaskPlugin
from nipype_blm.tasks.task import PoolError

# A run takes some 10 s; this is for a machine that is busy.
TIME_LIMIT = 120
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# A shell would make a file `owned` of it.
HOSTILE = "a b; $(touch owned)"


def same(x):
    return x


def init_workflow(base_dir: Path, function: Callable = same, **options: Any) -> Workflow:
    """Return a workflow of one node."""
    node = Node(Function(function=function, output_names=["out"]), name="node", **options)
    node.inputs.x = 1
    workflow = Workflow("wf", base_dir=str(base_dir))
    workflow.config["execution"] = {"crashdump_dir": str(base_dir), "crashfile_format": "txt"}
    workflow.add_nodes([node])
    return workflow


# -- One program with nodes of many kinds, on one pool -------------------------------------

BESIDE = """
def triple(x):
    return 3 * x
"""

SCRIPT = """
import json, sys, types
from pathlib import Path
from nipype import Function, Node, Workflow
from nipype.pipeline.engine.utils import load_resultfile
from nipype_blm.plugins import DaskPlugin

def use_module_beside(x):
    from beside import triple
    return triple(x)

def use_processes(x):
    import os
    from multiprocessing import Pool
    with Pool(2) as pool:
        return [pool.map(abs, [-1, -2, -3]), pool.apply(os.getpid) != os.getpid()]

def count_threads(x):
    import os
    return [os.environ[name] for name in x]

def find_config(x):
    import logging
    from nipype import config
    level = logging.getLogger("nipype.workflow").level
    return [config.get("execution", "job_finished_timeout"), logging.getLevelName(level)]

def run_workflow(x, folder):
    from nipype import Function, Node, Workflow
    from nipype.pipeline.engine.utils import load_resultfile
    from nipype_blm.plugins import DaskPlugin
    from beside import triple
    node = Node(Function(function=triple, output_names=["out"]), name="inside")
    node.inputs.x = x
    inner = Workflow("inner", base_dir=folder)
    inner.add_nodes([node])
    inner.run(plugin=DaskPlugin({"n_workers": 1, "n_procs": 1, "memory_gb": 1}))
    return load_resultfile(f"{folder}/inner/inside/result_inside.pklz").outputs.out

def same(x):
    return x

# A module that nobody finds on a worker.
sys.modules["only_here"] = only_here = types.ModuleType("only_here")
exec("class Secret: pass", vars(only_here))

folder = Path(sys.argv[1])
workflow = Workflow("wf", base_dir=str(folder))
workflow.config["execution"] = {
    "crashdump_dir": str(folder / "crashes"),
    "crashfile_format": "txt",
    "job_finished_timeout": "17",
    "stop_on_first_crash": "false",
}
workflow.config["logging"] = {"workflow_level": "ERROR"}

def add(function, x, name=None, **needs):
    name = name or function.__name__
    node = Node(Function(function=function, output_names=["out"]), name=name, **needs)
    node.inputs.x = x
    workflow.add_nodes([node])
    return node

variables = json.loads(sys.argv[2])
add(use_module_beside, 2)
add(use_processes, 1)
add(count_threads, variables, "two_threads", n_procs=2)
add(count_threads, variables, "one_thread")
add(find_config, 1)
add(run_workflow, 14).inputs.folder = str(folder / "of_node")
add(same, only_here.Secret(), "unreadable")
error = ""
try:
    # One worker: what a node changes there, the others would see.
    workflow.run(plugin=DaskPlugin({"n_workers": 1, "n_procs": 2, "memory_gb": 2}))
except RuntimeError as caught:
    error = str(caught)
results = {path: load_resultfile(path).outputs for path in folder.glob("wf/*/result_*.pklz")}
found = {path.parent.name: outputs.out for path, outputs in results.items() if outputs is not None}
Path("found.json").write_text(json.dumps({"results": found, "error": error}))
"""


class Ended(NamedTuple):
    """What a program has left."""

    folder: Path
    results: dict[str, Any]
    error: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A script that is run from another folder than its own."""
    folder = tmp_path_factory.mktemp("ended")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "run.py").write_text(SCRIPT)
    (folder / "scripts" / "beside.py").write_text(BESIDE)
    arguments = [str(folder / HOSTILE), json.dumps(THREAD_VARIABLES)]
    done = subprocess.run(
        [sys.executable, "scripts/run.py", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert done.returncode == 0, done.stdout
    return Ended(folder, **json.loads((folder / "found.json").read_text()))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        pytest.param("use_module_beside", 6, id="imports what lies beside the script"),
        pytest.param("use_processes", [[1, 2, 3], True], id="starts processes of its own"),
        pytest.param("run_workflow", 42, id="runs a workflow with a pool of its own"),
        pytest.param("two_threads", ["2"] * 3, id="tells its programs of its two threads"),
        pytest.param("one_thread", ["1"] * 3, id="tells its programs of its one thread"),
        pytest.param("find_config", ["17", "ERROR"], id="has the settings of its workflow"),
    ],
)
def test_a_node_on_a_worker(ended: Ended, node: str, expected: Any) -> None:
    assert ended.results[node] == expected, ended.error


def test_a_node_that_cannot_be_read_on_the_worker_fails_by_name_with_the_reason(
    ended: Ended,
) -> None:
    assert "unreadable" not in ended.results
    [crash] = (ended.folder / HOSTILE / "crashes").glob("crash*-unreadable-*")
    text = crash.read_text()
    assert "Node: wf.unreadable" in text
    assert "ModuleNotFoundError: No module named 'only_here'" in text
    assert "worker was lost" not in text


def test_no_shell_runs_the_name_of_a_working_folder(ended: Ended) -> None:
    assert list((ended.folder / HOSTILE / "wf").glob("dask_logs/*.log"))  # it was used
    assert list(ended.folder.rglob("owned")) == []


# -- What stays as it was ------------------------------------------------------------------


def count_threads(x):
    import os

    return os.environ["OMP_NUM_THREADS"]


def count_and_remove_threads(x):
    import os

    return os.environ.pop("OMP_NUM_THREADS")


@pytest.mark.parametrize("function", [count_threads, count_and_remove_threads])
def test_the_environment_of_a_worker_is_as_before_when_a_node_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable
) -> None:
    set_, other, unset = THREAD_VARIABLES
    monkeypatch.setenv(set_, "7")
    monkeypatch.setenv(other, "8")
    monkeypatch.delenv(unset, raising=False)
    seen = []
    workflow = init_workflow(tmp_path, function, n_procs=3)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:

        def note(node: Any, status: str) -> None:
            if status == "end":
                seen.append(node.result.outputs.out)

        workflow.run(plugin=DaskPlugin({"cluster": cluster, "status_callback": note}))
    assert seen == ["3"]
    assert [os.environ.get(name) for name in THREAD_VARIABLES] == ["7", "8", None]


# -- Runs that end at once -----------------------------------------------------------------


def test_a_log_folder_that_a_job_script_cannot_hold_is_refused_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/sh\ntouch '{tmp_path}/submitted'\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    options = {"cluster": "slurm", "cores": 1, "memory": "1GB"}
    with pytest.raises(InputError) as caught:
        init_workflow(tmp_path / HOSTILE).run(plugin=DaskPlugin(options))
    [problem] = caught.value.problems
    assert f"{tmp_path / HOSTILE}/wf/dask_logs" in problem
    assert "give another one as log_directory" in problem
    assert not (tmp_path / "submitted").exists()
    assert not list(tmp_path.rglob("owned"))


def test_a_ready_cluster_that_never_has_a_worker_ends_the_run(tmp_path: Path) -> None:
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        plugin = DaskPlugin({"cluster": cluster, "start_timeout": 3})
        with pytest.raises(PoolError, match=r"no worker for 3 s \(start_timeout\)"):
            init_workflow(tmp_path).run(plugin=plugin)
