"""The command of a model on a pool of Dask workers, and what may happen to it."""

import os
import random
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from children import hear_signals
from cli.test_faults import LIMIT_S, Driver
from forked import Forked, start_command

POOLS = ("local", "slurm", "sge")
# What one worker gets; the queues are those of tests/schedulers.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "local": {"memory_gb": 2},
    "slurm": {"cores": 1, "memory": "1GB", "queue": "main", "interface": "lo"},
    "sge": {"cores": 1, "memory": "1GB", "queue": "all.q", "interface": "lo"},
}
SUBMITS = {"slurm": "sbatch", "sge": "qsub"}
N_WORKERS = 2
LATE_FILES = Path(__file__).parents[1] / "late_files"  # hides files of other processes

# Nodes that take a time, each of which notes that it was started.
HALVES = """
import json, os, sys
from nipype import Function, MapNode, Workflow
from nipype_blm.plugins import DaskPlugin

def sleep(x, folder, seconds):
    import os, time
    from pathlib import Path
    Path(folder, f"{x}-{os.getpid()}.started").touch()
    time.sleep(seconds)

here = os.getcwd()
wf = Workflow("halves", base_dir=here)
wf.config["execution"] = {"crashdump_dir": here}
node = MapNode(Function(function=sleep), "x", "sleep")
node.inputs.x = list(range(int(sys.argv[3])))
node.inputs.folder, node.inputs.seconds = here, float(sys.argv[2])
wf.add_nodes([node])
arguments = json.loads(sys.argv[1])
wf.run(plugin=DaskPlugin(arguments | {"n_workers": 2, "job_name": os.environ["LOGNAME"]}))
"""


class Command(subprocess.Popen[bytes]):
    """A process that begins anew, as what it reads at its start may differ; see `Forked`."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        number, name = tempfile.mkstemp(prefix="said", dir=folder)
        self._said = Path(name)
        with os.fdopen(number, "wb") as file:
            super().__init__(
                command,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=environment,
                preexec_fn=hear_signals,
            )

    @property
    def said(self) -> str:
        """What it has written to standard error."""
        return self._said.read_text()


class PooledDriver(Driver):
    """The command of a model, whose nodes run on a pool; each has jobs of its own name."""

    def __init__(self, folder: Path, inputs: Path, pool: str, model: str = "blm") -> None:
        super().__init__(folder, inputs, model)
        self.pool = pool
        self.fields |= {"clusterType": pool.upper(), "numNodes": N_WORKERS}
        # Without digits, which could be taken for the number of a job.
        self.job_name = "pool-" + "".join(random.choices(string.ascii_lowercase, k=12))
        self.arguments = dict(ARGUMENTS[pool])
        if pool != "local":
            self.arguments["job_name"] = self.job_name
        # Here a pool is not the default.
        self.options = ["--plugin", "Dask"] if pool == "local" else []
        self.environment: dict[str, str] = {}
        self.begins_anew = True  # else it is forked from what has imported all already

    def start(self) -> Command | Forked:
        if not self.config.exists():
            self.configure()
        arguments = self.folder / "arguments.yml"
        arguments.write_text(yaml.safe_dump(self.arguments))
        options = [*self.options, "--plugin-args", str(arguments)]
        if not self.begins_anew:
            given = (self.config, *options)
            return start_command(self.model, *given, folder=self.folder, **self.environment)
        command = [sys.executable, "-P", "-m", f"nipype_blm.cli.{self.model}", str(self.config)]
        return Command([*command, *options], self.folder, os.environ | self.environment)

    def wait_for(self, process: Command | Forked, *moment: object) -> None:
        """Wait, as `start_until` does, until a process that was started has made a file."""
        end = time.monotonic() + LIMIT_S
        while not self.has(*moment):
            assert process.poll() is None, process.said
            assert time.monotonic() < end
            time.sleep(0.001)

    def show_files_late(self) -> None:
        """Hide the files that a process makes from all others for three seconds."""
        path = os.pathsep.join(filter(None, [str(LATE_FILES), os.environ.get("PYTHONPATH")]))
        late = {"LATE_FILES_BELOW": str(self.outdir), "LATE_FILES_SECONDS": "3"}
        self.environment |= late | {"PYTHONPATH": path}
        self.begins_anew = True  # so that nothing has been imported before it reads that

    def find_jobs(self, scheduler: Any) -> set[str]:
        """Return the numbers of its jobs that are queued or running."""
        return {job.id for job in scheduler.jobs() if job.name == self.job_name}

    def stamp(self) -> dict[Path, int]:
        """Return when each node that is finished ended; planning, which always runs, apart."""
        folder = self.work / f"{self.model}_wf"
        ends = [path for path in folder.rglob("_0x*.json") if "unfinished" not in path.name]
        return {
            result: result.stat().st_mtime_ns
            for path in ends
            for result in path.parent.glob("result_*.pklz")
            if path.parent.name != "plan"
        }


# What a site prints around the answer of sbatch or qsub; some of it is no UTF-8.
CHATTY = """#!/bin/sh
printf '\\nWelcome to the Stampede2 Supercomputer, 3 messages\\n1\\n'
printf '\\033[1mV\\351rification 2 of 2\\033[0m\\n'
echo "{name}: note 7" >&2
{program} "$@" || exit
printf 'Estimated start: in 12 minutes\\n4.5 SU left of 99\\n'
"""


def make_chatty(folder: Path, name: str) -> dict[str, str]:
    """Return an environment in which a command speaks of much else, before and after."""
    program = shutil.which(name)
    assert program is not None
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(CHATTY.format(name=name, program=program))
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def find_nannies(folder: Path) -> list[psutil.Process]:
    """Return the first process of each worker, or group of workers, of a run in a folder.

    Their credentials lie in that folder.
    """
    return [
        process
        for process, words in _list_commands()
        if "nipype_blm.tasks.worker" in words and any(str(folder) in word for word in words)
    ]


def find_workers(folder: Path) -> list[psutil.Process]:
    """Return the processes in which the nodes of a run in a folder are executed."""
    workers = []
    for nanny in find_nannies(folder):
        with suppress(psutil.Error):
            workers += [
                child
                for child in nanny.children()
                if any("spawn_main" in word for word in child.cmdline())
            ]
    return workers


def find_processes(folder: Path) -> list[psutil.Process]:
    """Return all processes of a run in a folder: the command, and those of its workers."""
    found = {}
    for process, words in _list_commands():
        if any(str(folder) in word for word in words) or _get_folder(process) == folder:
            with suppress(psutil.Error):
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    return list(found.values())


def find_listeners(folder: Path) -> set[str]:
    """Return the addresses at which the processes of a run in a folder listen."""
    addresses = set()
    for process in find_processes(folder):
        with suppress(psutil.Error):
            addresses |= {
                connection.laddr.ip
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
    return addresses


def kill(processes: list[psutil.Process]) -> list[int]:
    """Kill processes; return the numbers of those that were there."""
    killed = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
            killed.append(process.pid)
    return killed


def _list_commands() -> Iterator[tuple[psutil.Process, list[str]]]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            yield process, process.cmdline()


def _get_folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except (psutil.Error, OSError):
        return None
