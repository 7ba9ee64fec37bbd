"""A process of ArchNGV's environment that stays: it imports once what takes seconds to import."""

import atexit
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from weakref import WeakSet

from nipype_blm.errors import shorten
from nipype_blm.machine import THREAD_VARIABLES

SCRIPTS = Path(__file__).parent / "scripts"
# By which another Python would import what is not of its environment.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX")


class Ended(NamedTuple):
    """How a command ended."""

    code: int  # 0 if well; the negative number of a signal
    error: str  # the last line of what Python says, if it says anything

    def describe(self) -> str:
        """Return why it failed."""
        if self.code < 0:
            killed = f"it was killed by signal {-self.code} ({_name_signal(-self.code)})"
            return f"{killed}, as for too much memory" if self.code == -signal.SIGKILL else killed
        return self.error or f"it ended with {self.code}"


class CompanionError(RuntimeError):
    """The process could not be started, or has ended while it was to do something."""


def make_environment() -> dict[str, str]:
    """Return the environment of processes of another Python: nothing of this one leaks into it."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # One thread each, also where numpy has another BLAS; what is drawn is drawn into files.
    own = dict.fromkeys(THREAD_VARIABLES, "1") | {"MPLBACKEND": "agg", "PYTHONNOUSERSITE": "1"}
    return kept | own


class Companion:
    """A process of another Python that runs one command at a time.

    Parameters
    ----------
    python : Path
        Of an environment with ArchNGV.

    Raises
    ------
    CompanionError
    """

    def __init__(self, python: Path) -> None:
        self._messages = TemporaryFile(buffering=0)  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [python, "-I", SCRIPTS / "serve.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                env=make_environment(),
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
        except OSError as error:
            raise CompanionError(f"{python} cannot be started: {error}") from error
        _started.add(self)
        if not self._read():
            raise CompanionError(f"{python} cannot import ArchNGV: {self._find_last_message()}")

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def run(
        self, argv: Sequence[str], cwd: Path, log: Path, env: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command to its end.

        Parameters
        ----------
        argv : sequence of str
            ``ngv`` or ``vascpy`` and their arguments, or the path of a script and its own.
        cwd, log : Path
            Where it runs, and where it goes on with what it says.
        env : mapping of str to str, optional
            Further variables of its environment.

        Raises
        ------
        CompanionError
            If the process that runs it is gone.
        """
        request = {"argv": list(argv), "cwd": str(cwd), "log": str(log), "env": dict(env or {})}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._read()
        except BrokenPipeError:
            answer = None
        except BaseException:  # interrupted: what runs is to end, too
            self.close()
            raise
        if answer is None:
            raise CompanionError(f"the process of ArchNGV has ended: {self._find_last_message()}")
        return Ended(answer["code"], answer.get("error", ""))

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def _find_last_message(self) -> str:
        size = os.fstat(self._messages.fileno()).st_size
        text = os.pread(self._messages.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return shorten(lines[-1]) if lines else f"it ended with {self._process.poll()}"

    def close(self) -> None:
        """End it, with what it runs."""
        self.leave()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()

    def leave(self) -> None:
        """Close what leads to it: when nobody else has that open, it ends."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


_started: "WeakSet[Companion]" = WeakSet()
_idle: dict[Path, list[Companion]] = {}
_lock = threading.Lock()


@contextmanager
def borrowing(python: Path) -> Iterator[Companion]:
    """Give a companion that nobody else uses meanwhile; it stays, for who comes next.

    Raises
    ------
    CompanionError
    """
    companion = _take(python)
    yield companion
    with _lock:  # not after an error, after which nobody knows what it does
        _idle.setdefault(python, []).append(companion)


def _take(python: Path) -> Companion:
    while True:
        with _lock:
            waiting = _idle.get(python)
            companion = waiting.pop() if waiting else None
        if companion is None:
            return Companion(python)
        if companion.is_alive:  # it ends by itself when it is not asked for long
            return companion
        companion.close()


def run_command(
    python: Path, argv: Sequence[str], cwd: Path, log: Path, env: Mapping[str, str] | None = None
) -> Ended:
    """Run a command of an environment, as `Companion.run` does, by a companion that is kept."""
    with borrowing(python) as companion:
        return companion.run(argv, cwd, log, env)


def close_companions() -> None:
    """End all companions of this process that do nothing."""
    with _lock:
        waiting = [each for companions in _idle.values() for each in companions]
        _idle.clear()
    for companion in waiting:
        companion.close()


def _forget() -> None:
    """Have a forked child leave the companions to its parent, which it could outlive."""
    for companion in list(_started):
        companion.leave()
    _idle.clear()


atexit.register(close_companions)
os.register_at_fork(after_in_child=_forget)


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
