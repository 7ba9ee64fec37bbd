"""A process of ArchNGV's environment that stays: it imports once what takes seconds to import."""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from weakref import WeakSet

from nipype_blm.errors import shorten
from nipype_blm.machine import THREAD_VARIABLES

SCRIPTS = Path(__file__).parents[1] / "scripts"
# By which another Python would import what is not of its environment.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX")
_LOADING = ("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES")
_WAY = "spawn" if sys.platform == "darwin" else "fork"
_IDLE_S = 600.0
_PATIENCE_S = 10.0  # more than ending takes
_FAULT = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b|Fatal Python error|error: |.*: error ")


class Ended(NamedTuple):
    """How a command ended."""

    code: int  # 0 if well; the negative number of a signal
    error: str = ""  # the last line of what Python says, if it says anything

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
    # Some shared disks have no locks; each file has one writer, and appears when it is whole.
    defaults = {"HDF5_USE_FILE_LOCKING": "FALSE"}
    # One thread each, also where numpy has another BLAS; what is drawn is drawn into files.
    own = dict.fromkeys(THREAD_VARIABLES, "1") | {"MPLBACKEND": "agg", "PYTHONNOUSERSITE": "1"}
    return defaults | kept | own


def suspect_libraries() -> str:
    """Return a sentence on variables that may have libraries loaded that do not fit; or none."""
    found = [name for name in _LOADING if os.environ.get(name)]
    if not found:
        return ""
    return f"  {' and '.join(found)} may lead to libraries of another program: try without."


class Companion:
    """A process of another Python that runs one command at a time.

    Each command runs in a copy of that process, and ends with whoever asked for it.  On macOS each
    is a new process instead: system libraries there do not survive such copies.

    Parameters
    ----------
    python : Path
        Of an environment with ArchNGV.
    idle_s : float
        It ends by itself when it is not asked for this long.

    Raises
    ------
    CompanionError
        If it cannot be started, or cannot import ArchNGV.
    """

    def __init__(self, python: Path, idle_s: float = _IDLE_S) -> None:
        self._messages = TemporaryFile(buffering=0)  # noqa: SIM115
        try:
            with _lock:  # no child is forked that has what leads to it, and does not know of it
                self._process = subprocess.Popen(
                    [python.absolute(), "-I", SCRIPTS / "serve.py", _WAY, str(idle_s)],
                    bufsize=0,  # a forked child can close what another thread reads from
                    cwd="/",  # keeps no disk busy
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._messages,
                    env=make_environment(),
                    start_new_session=True,  # Ctrl-C is for this process, which then ends that one
                )
                _started.add(self)
        except OSError as error:
            self._messages.close()
            raise CompanionError(f"{python} cannot be started: {error}") from error
        self._expires = time.monotonic() + idle_s
        self._idle_s = idle_s
        try:
            if self._read() is None:
                reason = self._find_reason()
                raise CompanionError(
                    f"{python} cannot import ArchNGV: {reason}{suspect_libraries()}"
                )
        except BaseException:
            self._process.kill()
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked, and will not just then end by itself."""
        soon = time.monotonic() + self._idle_s / 10
        return self._process.poll() is None and soon < self._expires

    def run(
        self, argv: Sequence[str], cwd: Path, log: Path, env: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command to its end; what it leaves running is ended, too.

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
        places = {"cwd": str(cwd.absolute()), "log": str(log.absolute())}
        request = {"argv": list(argv), **places, "env": dict(env or {})}
        try:
            self._write(json.dumps(request).encode() + b"\n")
            answer = self._read()
        except BrokenPipeError:
            answer = None
        except BaseException:  # interrupted: what runs is to end, too
            self.close()
            raise
        if answer is None:
            raise CompanionError(f"the process of ArchNGV has ended: {self._find_reason()}")
        self._expires = time.monotonic() + self._idle_s
        return Ended(answer["code"], answer["error"])

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        rest = memoryview(data)
        while rest:  # a signal that is handled may come between
            rest = rest[self._process.stdin.write(rest) :]

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def _find_reason(self) -> str:
        """Return why it has ended."""
        try:
            code = self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = 0
        size = os.fstat(self._messages.fileno()).st_size
        text = os.pread(self._messages.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        # Of a fault Python tells the name last; what libraries greet with is none.
        lines = [line for line in text.splitlines() if _FAULT.match(line)]
        return Ended(code, shorten(lines[-1]) if lines else "").describe()

    def close(self) -> None:
        """End it, with what it runs."""
        self.leave()
        try:
            self._process.wait(_PATIENCE_S)
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
    try:
        yield companion
    except BaseException:  # after which nobody knows what it does
        companion.close()
        raise
    with _lock:
        _idle.setdefault(python, []).append(companion)


def _take(python: Path) -> Companion:
    while True:
        with _lock:
            waiting = _idle.get(python)
            companion = waiting.pop() if waiting else None
        if companion is None:
            return Companion(python)
        if companion.is_alive:
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
    for companion in waiting:  # all at once
        companion.leave()
    for companion in waiting:
        companion.close()


def _forget() -> None:
    """Have a forked child leave the companions to its parent, which it could outlive."""
    for companion in list(_started):
        companion.leave()
    _started.clear()
    _idle.clear()
    _lock.release()


atexit.register(close_companions)
# Held meanwhile, so that no other thread leaves it locked, or a companion half noted, in the child.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget)


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
