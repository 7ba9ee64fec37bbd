"""Real schedulers, shared by all test processes."""

import fcntl
import getpass
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nipype
import pytest
from children import Program, starting
from forked import fork_with_all

SCRIPTS = Path(__file__).parents[1] / "schedulers"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "nipype_defect(version): asserts a defect that this version of Nipype has"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say what the failure of a test of a defect means: most likely that there is none."""
    report = yield
    marker = item.get_closest_marker("nipype_defect")
    if marker and report.when == "call" and report.failed:
        report.longrepr = (
            f"{report.longreprtext}\n\n"
            f"Nipype {nipype.__version__} fixed this: remove the warning from docs/clusters.md, "
            f"and this test.  (Or the test is broken: {marker.args[0]} had the defect.)"
        )
    return report


# A script is its own main module there, and all that it prints goes into one file.
AS_SCRIPT = """
import os, runpy, sys
output = os.open("output.txt", os.O_WRONLY | os.O_APPEND)
for number in (1, 2):
    os.dup2(output, number)
sys.argv[0] = "program.py"
runpy.run_path("program.py", run_name="__main__")
"""


class ForkedProgram(Program):
    """A Python program as `Program`, forked from a process that has imported Nipype already."""

    def _start(self, environment: dict[str, str], arguments: Sequence[str]) -> Any:
        return fork_with_all().start(AS_SCRIPT, self.folder, environment, *arguments)


@pytest.fixture
def fork_program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Function as `start_program`, for those that need not prove that they import anything."""
    with starting(ForkedProgram, tmp_path) as start:
        yield start


class Job(NamedTuple):
    """A job that is queued or running."""

    id: str
    name: str
    state: str  # in the words of the scheduler: PENDING, RUNNING; or qw, hqw, r


class Slurm:
    """The clients of a running Slurm; `env` is what they need, already in the environment."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def jobs(self) -> list[Job]:
        lines = run_client("squeue", "--noheader", "--format=%i|%j|%T").splitlines()
        return [Job(*line.split("|")) for line in lines if not line.endswith("COMPLETING")]

    def cancel(self, job_id: str) -> None:
        run_client("scancel", job_id)

    def release(self, job_id: str) -> None:
        """Let a job start that was submitted with --hold."""
        run_client("scontrol", "release", job_id)


class GridEngine:
    """The clients of a running Grid Engine; `env` is what they need, already in the environment."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def jobs(self) -> list[Job]:
        found = ElementTree.fromstring(run_client("qstat", "-u", "*", "-xml"))
        fields = ("JB_job_number", "JB_name", "state")
        return [Job(*(job.findtext(f, "") for f in fields)) for job in found.iter("job_list")]

    def cancel(self, job_id: str) -> None:
        run_client("qdel", job_id)

    def release(self, job_id: str) -> None:
        """Let a job start that was submitted with -h."""
        run_client("qrls", job_id)


def run_client(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def slurm(shared_folder: Path, require_command: Callable[[str, str], str]) -> Iterator[Slurm]:
    """Slurm with three nodes of four CPUs."""
    require_root("Slurm")
    for command in ("sbatch", "munged"):
        require_command(command, "slurm-wlm munge")
    with started("slurm", shared_folder) as env:
        yield Slurm(env)


@pytest.fixture(scope="session")
def sge(shared_folder: Path, require_command: Callable[[str, str], str]) -> Iterator[GridEngine]:
    """Grid Engine with one queue, all.q, of twelve slots."""
    require_root("Grid Engine")
    for command in ("qsub", "sge_qmaster", "sge_execd"):
        require_command(command, "gridengine-master gridengine-exec gridengine-client")
    with started("sge", shared_folder) as env:
        yield GridEngine(env)


def require_root(scheduler: str) -> None:
    if os.getuid() != 0:
        pytest.skip(f"not root: the tests start {scheduler}, which needs root; run them as root")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that is the same for all processes of one run of the tests."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@contextmanager
def started(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """Start a scheduler, or join the processes that use it already; set its environment.

    All users hold a shared lock on one file.  A guard outside of pytest waits for the lock for
    itself alone, and then stops the scheduler: however the users ended.
    """
    state, log = folder / name, folder / f"{name}.log"
    with (folder / f"{name}.users").open("w") as users, log.open("a") as output:
        fcntl.flock(users, fcntl.LOCK_SH)
        guard = ["flock", users.name, str(SCRIPTS / f"stop-{name}.sh"), str(state)]
        files = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        subprocess.run(["setsid", "--fork", *guard], check=True, timeout=60, **files)
        start = [str(SCRIPTS / f"start-{name}.sh"), str(state)]
        done = subprocess.run(start, timeout=180, **files)
        assert done.returncode == 0, log.read_text()
        lines = (state / "environment").read_text().splitlines()
        env = dict(line.split("=", 1) for line in lines)
        env |= dict.fromkeys(("LOGNAME", "USER"), getpass.getuser())  # Nipype needs LOGNAME
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in env.items():
                patch.setenv(variable, value)
            yield env
