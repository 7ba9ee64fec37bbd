"""Processes that tests start, and that cannot block the tests."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


def hear_signals() -> None:
    """Undo, as preexec_fn, what a child inherits of a shell that makes the tests ignore signals.

    nohup ignores SIGHUP; a shell without job control ignores SIGINT in the background, and SIGQUIT.
    The tests themselves stay so, as does the package; the children of tests of signals must hear.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition; fail if it does not hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds} s in vain until {what}")
        time.sleep(0.2)


# A program does not outlive by much a pytest that was killed.
START = """import signal
signal.alarm(600)
"""


class Program:
    """A Python program in a process of its own, in a folder of its own.

    `user` is its LOGNAME, by which the names of Nipype's jobs end.
    """

    def __init__(self, folder: Path, source: str, *arguments: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.user = f"user{uuid.uuid4().hex[:8]}"
        (folder / "program.py").write_text(START + source)
        (folder / "output.txt").touch()
        self._process = self._start(os.environ | {"LOGNAME": self.user}, arguments)

    def _start(self, environment: dict[str, str], arguments: Sequence[str]) -> Any:
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [sys.executable, "program.py", *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=hear_signals,
            )

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def jobs(self, scheduler: Any) -> list[Any]:
        """Return its jobs among those that are queued or running."""
        return [job for job in scheduler.jobs() if self.user in job.name]

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float = 120) -> int:
        """Return the exit code; fail with the output if the program takes longer than this."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the program has not ended after {seconds} s; its output:\n{self.output}")

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the program and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)


@contextmanager
def starting(kind: type[Program], folder: Path) -> Iterator[Callable[..., Program]]:
    """Give a function that starts programs, each in a folder of its own; kill them at the end."""
    programs: list[Program] = []

    def start(source: str, *arguments: str) -> Program:
        place = folder / f"{kind.__name__.lower()}{len(programs)}"
        programs.append(kind(place, source, *arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
