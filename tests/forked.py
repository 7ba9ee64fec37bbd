"""Python programs in processes of their own that begin with what takes long to import.

They are forked from one that has imported it, and nothing else, for one test after the other.
"""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

# Runs in the process of which all are forked, which has one thread.  What a program that is waited
# for prints passes through pipes, since it may have no right to write files.
SERVER = """
import json, os, signal, site, sys, tempfile

def begin(job, out, err):
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    tempfile.tempdir = None
    sys.argv[1:] = job["arguments"]
    sys.path[0] = job["folder"]
    if os.environ.get("PYTHONPATH"):
        sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep)
        sys.modules.pop("sitecustomize", None)
        site.execsitecustomize()
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(file, number)
    exec(compile(job["program"], "<string>", "exec"), {"__name__": "__main__"})

def begin_alone(job):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(600)  # it does not outlive by much a pytest that was killed
    said = os.open(job["said"], os.O_WRONLY | os.O_CREAT, 0o600)
    begin(job, os.open(os.devnull, os.O_WRONLY), said)

def fork_and_wait(job):
    (read_out, write_out), (read_err, write_err) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        begin(job, write_out, write_err)
        sys.exit()
    os.close(write_out)
    os.close(write_err)
    # One after the other: no test says more on the second than the 64 KiB that a pipe holds.
    with open(read_out) as out, open(read_err) as err:
        said = out.read(), err.read()
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *said]

def fork(job):
    child = os.fork()
    if child == 0:
        begin_alone(job)
        sys.exit()
    return child

exec(sys.argv[1])
for line in sys.stdin:
    job = json.loads(line)
    if "ended" in job:
        answer = os.waitstatus_to_exitcode(os.waitpid(job["ended"], 0)[1])
    else:
        answer = fork(job) if "said" in job else fork_and_wait(job)
    print(json.dumps(answer), flush=True)
"""


class Done(NamedTuple):
    """What a program that has ended left."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A program that runs in a session of its own, as subprocess.Popen has it."""

    def __init__(self, forker: "Forker", pid: int, said: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._forker, self._said = forker, said
        self._ended = os.pidfd_open(pid)  # can be read when it has ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    @property
    def said(self) -> str:
        """What it has written to standard error."""
        return self._said.read_text() if self._said.exists() else ""

    def poll(self) -> int | None:
        return self._ask(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ask(timeout)
        if code is None:
            raise subprocess.TimeoutExpired([f"process {self.pid}"], timeout or 0, self.said)
        return code

    def _ask(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            os.close(self._ended)
            self.returncode = self._forker.ask({"ended": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _describe(
    program: str, folder: Path, environment: Mapping[str, str], arguments: Sequence[str]
) -> dict[str, object]:
    return {
        "program": program,
        "folder": str(folder),
        "environment": dict(environment),
        "arguments": list(arguments),
    }


class Forker:
    """Runs programs in processes in which `first` has been run."""

    def __init__(self, first: str) -> None:
        self._folder = TemporaryDirectory()  # "-c" would import from the checkout else
        self._n_started = 0
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, first],
            cwd=self._folder.name,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def run(
        self, program: str, folder: Path, environment: Mapping[str, str], *arguments: str
    ) -> Done:
        """Run a program as `python -c` does in a folder, which it can import from."""
        return Done(*self.ask(_describe(program, folder, environment, arguments)))

    def start(
        self, program: str, folder: Path, environment: Mapping[str, str], *arguments: str
    ) -> Forked:
        """Start a program as `run` does, and do not wait for its end."""
        self._n_started += 1
        said = Path(self._folder.name, f"said{self._n_started}.txt")
        job = _describe(program, folder, environment, arguments) | {"said": str(said)}
        return Forked(self, self.ask(job), said)

    def ask(self, job: object) -> Any:
        """Return the answer of the process of which all are forked."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(f"{json.dumps(job)}\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End the process of which all are forked."""
        self._server.communicate(timeout=60)
        self._folder.cleanup()


_ALL = """
import importlib, pkgutil
import nipype_blm, nipype_blm.workflows, numba
for module in pkgutil.walk_packages(nipype_blm.__path__, "nipype_blm."):
    if "__main__" not in module.name:
        importlib.import_module(module.name)
numba.njit(lambda x: x)(1.0)
"""


@functools.cache
def fork_with_all() -> Forker:
    """Return what runs programs in processes that have imported the package and used Numba."""
    return Forker(_ALL)


@functools.cache
def fork_with_numba() -> Forker:
    """Return what runs programs in processes that have used Numba, and nothing of ours."""
    return Forker("import numba; numba.njit(lambda x: x)(1.0)")


def start_command(model: str, *arguments: object, folder: Path, **environment: str) -> Forked:
    """Start ``blm`` or ``blmm``."""
    program = f"from nipype_blm.cli.{model} import command; command()"
    given = os.environ | environment
    return fork_with_all().start(program, folder, given, *map(str, arguments))
