"""What nodes do on workers, and what is heard of it: their errors, modules, signals and states."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from distributed import Client, LocalCluster
from faults.runs import ARGUMENTS
from plugins.conftest import run_client
from plugins.test_dask_plugin import Run, fail, measure_times, same

from nipype_blm.errors import InputError
from nipype_blm.plugins import DaskPlugin
from nipype_blm.tasks.batch import BATCH_SYSTEMS
from nipype_blm.tasks.task import PoolError

# What a test waits for takes seconds; this is for a machine that is busy.
TIME_LIMIT = 90
# No run takes this long; one that hangs is an error and not an endless test.
WAITING: dict[str, Any] = {"start_timeout": TIME_LIMIT, "stuck_timeout": TIME_LIMIT}
VARIABLE = "ONLY_THE_DRIVER_HAS_THIS"

# -- Scripts that define interfaces --------------------------------------------------------

SCRIPT = """
import json, sys
from pathlib import Path
from nipype import Function, MapNode, Node, Workflow
from nipype.interfaces.base import (
    BaseInterfaceInputSpec, CommandLine, SimpleInterface, TraitedSpec, traits
)
from nipype.pipeline.engine.utils import load_resultfile
from nipype_blm.plugins import DaskPlugin

class NumberIn(BaseInterfaceInputSpec):
    x = traits.Int(mandatory=True)

class NumberOut(TraitedSpec):
    out = traits.Int()

class AddOne(SimpleInterface):
    input_spec, output_spec = NumberIn, NumberOut

    def _run_interface(self, runtime):
        self._results["out"] = add_one(self.inputs.x)
        return runtime

def add_one(x):
    return x + 1

def init_workflow():
    workflow = Workflow("wf", base_dir=str(Path("work").absolute()))
    workflow.config["execution"] = {
        "crashdump_dir": str(Path("crashes").absolute()),
        "crashfile_format": "txt",
        "stop_on_first_crash": "false",
    }
    first, second = Node(AddOne(x=1), name="first"), Node(AddOne(), name="second")
    several = MapNode(AddOne(), iterfield=["x"], name="several")
    several.inputs.x = [10, 20]
    workflow.connect(first, "out", second, "x")
    workflow.add_nodes([several])
    return workflow

def run(workflow):
    try:
        workflow.run(plugin=DaskPlugin({"n_workers": 1, "n_procs": 1, "memory_gb": 1}))
    except RuntimeError as error:
        print(error)
    files = {path: load_resultfile(path).outputs for path in Path("work").glob("wf/*/result_*")}
    found = {path.parent.name: outputs.out for path, outputs in files.items() if outputs}
    Path("found.json").write_text(json.dumps(found))
"""
RESULTS = {"first": 2, "second": 3, "several": [11, 21]}
BELOW_MAIN = """
if __name__ == "__main__":
    run(init_workflow())
"""
ANYWHERE = """
run(init_workflow())
"""

# Dask replaces exceptions of more than 10,000 letters.
OTHER_NODES = """
def import_helpers(x):
    from helpers import NAME
    return NAME

def return_what_cannot_be_saved(x):
    class Unsaved:
        def __reduce__(self):
            raise ValueError("\\n".join(f"{i}. reason" for i in range(2000)) + " and the last")
    return Unsaved()

def init_all():
    workflow = init_workflow()
    for function in (import_helpers, return_what_cannot_be_saved):
        node = Node(Function(function=function, output_names=["out"]), name=function.__name__)
        node.inputs.x = 1
        workflow.add_nodes([node])
    command = "seq -f 'warning %.0f' 2000 >&2; echo the real reason >&2; exit 3"
    # Else Nipype itself reads no more than the first 12 kB of a command that ends soon.
    bash = CommandLine("bash", args=f'-c "{command}"', terminal_output="allatonce")
    workflow.add_nodes([Node(bash, name="warns")])
    return workflow

if __name__ == "__main__":
    run(init_all())
"""


class Ended(NamedTuple):
    """What a script has left in the folder where it was started."""

    folder: Path
    output: str

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "found.json").read_text())
        return found

    def crash(self, node: str) -> str:
        [path] = (self.folder / "crashes").glob(f"crash*-{node}-*")
        return path.read_text()


def execute(folder: Path, *arguments: str, script: str = "", **variables: str) -> Ended:
    """Run Python in a folder; the script is what it reads from its input."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | variables,
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
    )
    return Ended(folder, done.stdout)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A script that was started from another folder; each has a helpers.py, and PYTHONPATH, too."""
    folder = tmp_path_factory.mktemp("ended")
    for place in (folder, folder / "scripts", folder / "installed"):
        place.mkdir(exist_ok=True)
        (place / "helpers.py").write_text(f"NAME = {place.name!r}\n")
    (folder / "scripts" / "run.py").write_text(SCRIPT + OTHER_NODES)
    before = os.environ.get("PYTHONPATH")
    installed = [str(folder / "installed"), *([before] if before else [])]
    return execute(folder, "scripts/run.py", PYTHONPATH=os.pathsep.join(installed))


def test_interfaces_of_the_script_itself_run_and_their_results_are_read(ended: Ended) -> None:
    assert {name: ended.results.get(name) for name in RESULTS} == RESULTS, ended.output


def test_nodes_import_what_lies_beside_the_script_and_not_where_it_was_started(
    ended: Ended,
) -> None:
    assert ended.results.get("import_helpers") == "scripts", ended.output


def test_the_whole_error_of_a_node_is_in_its_crash_file_however_long(ended: Ended) -> None:
    text = ended.crash("warns")
    assert [i for i in range(1, 2001) if f"warning {i}\n" not in text] == []
    assert "the real reason" in text


def test_the_whole_error_of_a_node_without_a_result_is_in_its_crash_file(ended: Ended) -> None:
    text = ended.crash("return_what_cannot_be_saved")
    assert [i for i in range(1999) if f"{i}. reason\n" not in text] == []
    assert "1999. reason and the last" in text
    assert not [*ended.folder.glob("work/wf/return_what_cannot_be_saved/result_*")]


def test_a_script_that_was_started_as_a_module_has_interfaces_and_arguments(tmp_path: Path) -> None:
    package = tmp_path / "project_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("from .run import AddOne\n")
    script = f"import sys\nfrom . import __name__ as package\n[_, one] = sys.argv\n{SCRIPT}"
    (package / "run.py").write_text(script + BELOW_MAIN)
    found = execute(tmp_path, "-m", "project_of_a_test.run", "one argument")
    assert found.results == RESULTS, found.output


def test_a_script_without_a_guard_is_told_to_have_one(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT + ANYWHERE)
    found = execute(tmp_path, "run.py")
    assert found.results == {}, found.output
    for node in ("first", "_several0", "_several1"):
        text = found.crash(node)
        assert f"{tmp_path / 'run.py'} starts a run while a worker reads" in text
        assert "below `if __name__ == '__main__':`" in text


@pytest.mark.parametrize("how", ["-", "-c"])
def test_interfaces_of_a_session_without_a_file_are_refused_with_advice(
    tmp_path: Path, how: str
) -> None:
    script = SCRIPT + BELOW_MAIN
    found = execute(tmp_path, "-", script=script) if how == "-" else execute(tmp_path, how, script)
    last = found.output.splitlines()[-1]
    assert "InputError: Node wf.first uses a class of this session or notebook" in last
    assert "put it into a module" in last
    assert not [*tmp_path.glob("work/wf/*/result_*")]


def test_the_name_of_the_main_module_in_a_text_is_no_class_of_it(tmp_path: Path) -> None:
    script = """
from nipype import Function, Node, Workflow
from nipype_blm.plugins import DaskPlugin
workflow = Workflow("wf", base_dir="work")
node = Node(Function(["x"], ["out"]), "node")
node.inputs.function_str = "def get_name(x):\\n    return f'__main__ {x}'\\n"
node.inputs.x = "/data/__main__/image.nii"
workflow.add_nodes([node])
graph = workflow.run(plugin=DaskPlugin({"n_workers": 1, "n_procs": 1, "memory_gb": 1}))
print([node.result.outputs.out for node in graph.nodes()])
"""
    found = execute(tmp_path, "-", script=script)
    assert "['__main__ /data/__main__/image.nii']" in found.output.splitlines(), found.output


# -- What nodes compute with Dask ----------------------------------------------------------

COMPUTE = """
import json
from pathlib import Path
from distributed import LocalCluster
from nipype import Function, Node, Workflow
from nipype_blm.plugins import DaskPlugin

def compute(x):
    import dask
    import dask.array
    numbers = dask.array.arange(x, chunks=100)
    n_threads = dask.config.get("num_workers", None)
    return [int(numbers.sum().compute()), dask.delayed(sum)([x, 1]).compute(), n_threads]

def find_settings():
    import dask
    return [dask.config.get(name, "none") for name in ("scheduler", "num_workers")]

if __name__ == "__main__":
    workflow = Workflow("wf", base_dir=str(Path.cwd()))
    for i in range(5):
        node = Node(Function(function=compute, output_names=["out"]), name=f"node{i}")
        node.inputs.x = 1000 + i
        node.n_procs = 2 if i == 4 else 1  # all that the pool has
        workflow.add_nodes([node])
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        resources={"n_procs": 2, "mem_gb": 4},
        dashboard_address="127.0.0.1:0",
        memory_limit=None,
    ) as cluster, cluster.get_client() as client:
        [before] = client.run(find_settings).values()
        graph = workflow.run(plugin=DaskPlugin({"cluster": cluster}))
        [after] = client.run(find_settings).values()
    results = {node.name: node.result.outputs.out for node in graph.nodes()}
    found = {"results": results, "before": before, "after": after}
    Path("found.json").write_text(json.dumps(found))
"""


def test_nodes_that_compute_with_dask_end_on_the_one_worker_that_they_share(
    start_program: Callable,
) -> None:
    program = start_program(COMPUTE)
    assert program.wait(TIME_LIMIT) == 0, program.output
    found = json.loads((program.folder / "found.json").read_text())
    sums = [sum(range(1000 + i)) for i in range(5)]
    assert found["results"] == {
        f"node{i}": [sums[i], 1001 + i, 2 if i == 4 else 1] for i in range(5)
    }
    assert found["after"] == found["before"]


# -- Signals -------------------------------------------------------------------------------

HANDLES = """
import json, os
from pathlib import Path
from nipype import Function, Node, Workflow
from nipype_blm.plugins import DaskPlugin

def wait(x, folder):
    import time
    from pathlib import Path
    Path(folder, f"started{x}").touch()
    while not Path(folder, f"go{x}").exists():
        time.sleep(0.05)
    return x + 1

def handle(number, frame):
    Path("handled").touch()

signal.signal(signal.SIGINT, handle)
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
before = [signal.getsignal(getattr(signal, name)) for name in NAMES]
workflow = Workflow("wf", base_dir=os.getcwd())
workflow.config["execution"] = {"crashdump_dir": os.getcwd()}
nodes = [Node(Function(function=wait, output_names=["out"]), name=f"node{i}") for i in (1, 2)]
for node in nodes:
    node.inputs.folder = os.getcwd()
nodes[0].inputs.x = 1
workflow.connect(nodes[0], "out", nodes[1], "x")
Path("pid").write_text(str(os.getpid()))
try:
    workflow.run(plugin=DaskPlugin({"n_workers": 1, "n_procs": 1}))
except KeyboardInterrupt:
    Path("interrupted").touch()
after = [signal.getsignal(getattr(signal, name)) for name in NAMES]
changed = [name for name, one, other in zip(NAMES, before, after) if one != other]
Path("changed.json").write_text(json.dumps(changed))
"""


def test_a_program_handles_ctrl_c_itself_during_a_run_and_sigterm_still_ends_the_run(
    start_program: Callable, wait_until: Callable
) -> None:
    program = start_program(HANDLES)

    def wait_for(name: str) -> None:
        path = program.folder / name
        wait_until(lambda: path.exists() or program.has_ended, TIME_LIMIT, f"there is {name}")
        assert path.exists(), program.output

    def tell(number: int) -> None:
        os.kill(int((program.folder / "pid").read_text()), number)

    wait_for("started1")
    tell(signal.SIGINT)
    wait_for("handled")
    (program.folder / "go1").touch()
    wait_for("started2")  # so that the run goes on
    tell(signal.SIGTERM)
    assert program.wait(TIME_LIMIT) == 0, program.output
    assert (program.folder / "interrupted").exists()
    assert json.loads((program.folder / "changed.json").read_text()) == []


# -- What is heard of nodes ----------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_node_starts_when_a_worker_has_it_and_every_end_has_a_start(run: Run) -> None:
    told: list[tuple[str, str, float]] = []

    def note(node: Any, status: str) -> None:
        told.append((node.name, status, time.monotonic()))

    def list_statuses() -> dict[str, list[str]]:
        names = {name for name, *_ in told}
        return {name: [status for n, status, _ in told if n == name] for name in names}

    for name in ("one", "two"):
        run.add(name, measure_times, x=1)
    run.add("bad", fail, x=1)
    run.add("here", same, x=1, run_without_submitting=True)
    expected = {name: ["start", "end"] for name in ("one", "two", "here")}
    expected["bad"] = ["start", "exception"]
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        with pytest.raises(RuntimeError):
            run.run(cluster=cluster, status_callback=note)
        assert list_statuses() == expected
        first, second = sorted(("one", "two"), key=run.result)
        [start] = [when for name, status, when in told if (name, status) == (second, "start")]
        assert start >= run.result(first)[1]

        told.clear()  # all but one have their results already
        with pytest.raises(RuntimeError):
            run.run(cluster=cluster, status_callback=note)
        assert list_statuses() == expected


def crash_worker(x):
    import os
    import signal
    import time

    time.sleep(0.5)  # the driver hears of a start a few milliseconds later
    os.write(2, b"double free or corruption\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_loss_of_a_local_worker_is_explained_by_the_end_of_its_log(run: Run) -> None:
    run.add("crashes", crash_worker, x=1)
    with pytest.raises(RuntimeError):
        run.run(n_workers=1, n_procs=1, retries=0, memory_gb=1)
    text = run.crash()
    [log] = (run.folder / "work" / "wf" / "dask_logs").glob("*.log")
    before, _, end = text.partition(f"The end of {log}:\n")
    assert "its process was killed" in before
    assert "double free or corruption\n" in end


# -- Pools that cannot be used -------------------------------------------------------------


def test_an_asynchronous_client_or_cluster_is_refused() -> None:
    async def give() -> None:
        async with (
            LocalCluster(
                n_workers=0, processes=False, dashboard_address="127.0.0.1:0", asynchronous=True
            ) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            for given in (client, cluster):
                with pytest.raises(InputError, match="an asynchronous one; give one that is not"):
                    DaskPlugin({"cluster": given})

    asyncio.run(give())


# -- Jobs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "directives", "expected"),
    [
        ("sge", [], ["#$ -V"]),
        ("pbs", [], ["#PBS -V"]),
        ("sge", ["-l h=node1"], ["#$ -l h=node1", "#$ -V"]),
        ("sge", ["-V"], ["#$ -V"]),
        ("sge", ["-v FSLDIR=/fsl"], ["#$ -v FSLDIR=/fsl"]),
        ("pbs", ["-v FSLDIR=/fsl"], ["#PBS -v FSLDIR=/fsl"]),
    ],
    ids=["Grid Engine", "PBS", "beside others", "all", "one", "one of PBS"],
)
def test_jobs_are_given_the_environment_once_unless_the_user_says_which(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    cluster: str,
    directives: list[str],
    expected: list[str],
) -> None:
    programs, script = run.folder / "bin", run.folder / "script"
    programs.mkdir()
    (programs / "qsub").write_text(f'#!/bin/sh\ncp "$1" {script}\nexit 1\n')
    (programs / "qsub").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    run.add("some", same, x=1)
    with pytest.raises(PoolError, match=f"{cluster} accepts no job"):
        run.run(cluster=cluster, cores=1, memory="1GB", job_extra_directives=directives)
    options = ("-v", "-V", "-l h=")
    lines = [line for line in script.read_text().splitlines() if line.startswith("#")]
    assert [line for line in lines if line.partition(" ")[2].startswith(options)] == expected


def find_variable(x):
    import os

    return os.environ.get(x)


@pytest.mark.parametrize("scheduler", ["slurm", "sge"])
def test_a_node_of_a_job_has_the_environment_of_the_driver(
    run: Run, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, scheduler: str
) -> None:
    request.getfixturevalue(scheduler)
    value = "a b; $(touch owned)"
    monkeypatch.setenv(VARIABLE, value)
    run.add("some", find_variable, x=VARIABLE)
    run.run(cluster=scheduler, n_workers=1, **ARGUMENTS[scheduler], **WAITING)
    assert run.result("some") == value


def test_slurm_finds_the_jobs_whose_script_lies_below_a_folder(tmp_path: Path, slurm: Any) -> None:
    ours, others = tmp_path / "a workflow", tmp_path / "a workflow of others"
    jobs = {}
    try:
        for folder in (ours / "batch", ours / "nodes" / "plan", others / "batch"):
            folder.mkdir(parents=True)
            (folder / "script.sh").write_text("#!/bin/sh\nsleep 600\n")
            command = ["sbatch", "--parsable", "--hold", f"--chdir={tmp_path}"]
            jobs[folder] = run_client(*command, str(folder / "script.sh")).strip()
        found = BATCH_SYSTEMS["slurm"].find_jobs(ours)
    finally:
        for job_id in jobs.values():
            slurm.cancel(job_id)
    assert found == {job_id for folder, job_id in jobs.items() if folder.is_relative_to(ours)}
    assert len(found) == 2
