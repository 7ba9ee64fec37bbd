"""Run shell commands one after the other; their groups of processes end with this one."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from types import TracebackType
from typing import NamedTuple
from uuid import uuid4

from nipype_blm.progress import ANNOUNCE

TIMED_OUT = 124  # as timeout(1) returns
_GRACE_S = 5.0  # between the request to end and the end
_MOST_KEPT = 2**19  # bytes of the start, and of the end, of an output
# What a shell takes as it stands: it means the same in any of its grammar.
PLAIN = r"[\w./@%+=:,\\^-]+"
KEYWORDS = {
    *("if", "then", "elif", "else", "fi", "for", "while", "until", "do", "done", "case", "esac"),
    *("in", "select", "function", "time", "coproc"),
}
BUILTINS = {
    *(".", ":", "[", "alias", "bg", "bind", "break", "builtin", "caller", "cd", "command"),
    *("compgen", "complete", "compopt", "continue", "declare", "dirs", "disown", "echo", "enable"),
    *("eval", "exec", "exit", "export", "false", "fc", "fg", "getopts", "hash", "help", "history"),
    *("jobs", "kill", "let", "local", "logout", "mapfile", "popd", "printf", "pushd", "pwd"),
    *("read", "readarray", "readonly", "return", "set", "shift", "shopt", "source", "suspend"),
    *("test", "times", "trap", "true", "type", "typeset", "ulimit", "umask", "unalias", "unset"),
    "wait",
}
# Programs of that name do the same.
_SAME_AS_PROGRAMS = {"true", "false"}
# With these, bash does something else than to start a program, or something more.
_FOR_BASH = {"BASH_ENV", "SHELLOPTS"}
# Tells a command that starts from all others, in its environment.
_MARK = "NIPYPE_BLM_COMMAND"
# Reads what nobody ever writes, until the other end is gone.  A command whose group was not noted
# yet is known by its mark (Linux), twice, as it may still become the program that it is to run.
_GUARD = f"""
trap "" HUP INT TERM
read x
read group mark <&2
if [ "$group" -gt 1 ]; then
    kill -s KILL -- "-$group"
elif [ -n "$mark" ]; then
    for pause in 0 1; do
        sleep $pause
        for file in $(grep -lsF "{_MARK}=$mark" /proc/[0-9]*/environ); do
            pid=${{file#/proc/}}
            kill -s KILL -- "-${{pid%/environ}}" "${{pid%/environ}}" 2> /dev/null
        done
    done
fi
"""


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int  # as a shell tells it: 128 and the number of a signal
    seconds: float
    stdout: str
    stderr: str


class StoppedError(Exception):
    """A command did not end by itself: its shell was told to stop."""


class Shell:
    """Runs commands, one at a time; a context that ends with its processes.

    A command has a session of its own, no terminal and nothing to read.  What it leaves in the
    background ends with it, but for what has made a session of its own, as `setsid` does: that goes
    on, and what it prints is lost.

    Parameters
    ----------
    cwd : str
    env : mapping of str to str
        What commands have besides the environment of this process.
    timeout_s : float, optional
        After which a command is ended, with all that it has started.
    """

    def __init__(self, cwd: str, env: Mapping[str, str], timeout_s: float | None = None) -> None:
        self._cwd, self._timeout_s = cwd, timeout_s
        self._env = {k: v for k, v in os.environ.items() if k != ANNOUNCE} | dict(env)
        self._functions = list_functions(self._env)
        self._program = find_shell()
        self._guard = _Guard()
        self._lock = threading.Lock()
        self._group: int | None = None  # of the command that runs
        self._is_stopped = self._is_late = False

    def __enter__(self) -> "Shell":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._guard.close()

    def run(self, text: str) -> Ended:
        """Run a command to its end.

        Raises
        ------
        StoppedError
            After `stop`.
        OSError
            If this machine can start nothing, or has not the working directory.
        """
        # New ones for each: what has left an earlier command may still write into those of that.
        with TemporaryFile(buffering=0) as out, TemporaryFile(buffering=0) as err:
            start = time.monotonic()
            code = self._wait(self._start(text, out.fileno(), err.fileno()))
            seconds = time.monotonic() - start
            stdout, stderr = _read_ends(out.fileno()), _read_ends(err.fileno())
        if self._is_late:
            stderr = f"timeout: it was ended after {self._timeout_s:g} s\n{stderr}"
            code = TIMED_OUT
        return Ended(code, seconds, stdout, stderr)

    def _start(self, text: str, out: int, err: int) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._is_stopped:
                raise StoppedError
            self._env[_MARK] = self._guard.expect()
            process = self._spawn(text, out, err)
            self._guard.watch(process.pid)
            self._group, self._is_late = process.pid, False
        return process

    def _spawn(self, text: str, out: int, err: int) -> "subprocess.Popen[bytes]":
        """Start a program as it is, which takes half the time, or a shell."""
        words = find_plain_words(text)
        if words and words[0] not in self._functions and _FOR_BASH.isdisjoint(self._env):
            with suppress(OSError):  # whatever it is, a shell says it as users know it
                return self._spawn_words(words, out, err)
        return self._spawn_words([self._program, "-c", "--", text], out, err)

    def _spawn_words(self, words: list[str], out: int, err: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=self._cwd,
            env=self._env,
            start_new_session=True,
        )

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        with self._limiting(process.pid):
            _await_end(process)
        with self._lock:
            self._signal(signal.SIGKILL)  # what it has left
            self._group = None
            self._guard.watch(0)
            code = process.wait()
            if self._is_stopped:
                raise StoppedError
        return code if code >= 0 else 128 - code

    @contextmanager
    def _limiting(self, group: int) -> Iterator[None]:
        if self._timeout_s is None:
            yield
            return
        timers = [
            threading.Timer(self._timeout_s, self._end_late, [group, signal.SIGTERM]),
            threading.Timer(self._timeout_s + _GRACE_S, self._end_late, [group, signal.SIGKILL]),
        ]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def _end_late(self, group: int, number: signal.Signals) -> None:
        with self._lock:
            if self._group == group:  # else the next one runs already
                self._is_late = True
                self._signal(number)

    def stop(self) -> None:
        """Ask what runs to end, and run nothing any more; from any thread."""
        with self._lock:
            self._is_stopped = True
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End what runs at once."""
        with self._lock:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, number)


class _Guard:
    """A process that kills what this one has started, when this one is gone, however it went."""

    def __init__(self) -> None:
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115
        self._name, self._n_expected = uuid4().hex, 0
        self.watch(0)
        reader, self._alive = os.pipe()
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=self._file,
            env={k: v for k, v in os.environ.items() if k != _MARK},  # nobody else's to kill
            start_new_session=True,
        )
        os.close(reader)

    def expect(self) -> str:
        """Note that a command is about to start; return the mark that it is to have."""
        self._n_expected += 1
        mark = f"{self._name}-{self._n_expected}-"
        self._write(f"0 {mark}")
        return mark

    def watch(self, group: int) -> None:
        """Note which group of processes is to be killed; 0: none."""
        self._write(str(group))

    def _write(self, text: str) -> None:
        os.pwrite(self._file.fileno(), f"{text:<63}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._alive)
        self._process.wait()
        self._file.close()


def _await_end(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process has ended, and leave it its number, so that nobody else's is killed."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:  # macOS with Python before 3.13
        process.wait()


def find_plain_words(text: str) -> list[str]:
    """Return the words of a command that a shell would start as they are; none of any other."""
    words = text.split(" ")
    is_plain = re.fullmatch(rf"(?:{PLAIN} )*{PLAIN}", text) and "\\" not in text
    if not is_plain or "=" in words[0] or words[0] in KEYWORDS | BUILTINS - _SAME_AS_PROGRAMS:
        return []
    return words


def list_functions(env: Mapping[str, str]) -> set[str]:
    """Return the names of the functions that an environment has for bash."""
    start = "BASH_FUNC_"
    return {name.removeprefix(start).rstrip("%()") for name in env if name.startswith(start)}


def find_shell() -> str:
    """Return the program that reads commands: bash, where it is installed."""
    return shutil.which("bash") or "/bin/sh"


def _read_ends(descriptor: int) -> str:
    """Return an output, without the middle of a very long one."""
    size = os.fstat(descriptor).st_size
    if size <= 2 * _MOST_KEPT:
        return os.pread(descriptor, size, 0).decode(errors="backslashreplace") if size else ""
    start = os.pread(descriptor, _MOST_KEPT, 0)
    end = os.pread(descriptor, _MOST_KEPT, size - _MOST_KEPT)
    left_out = f"\n... {size - 2 * _MOST_KEPT:,} bytes ...\n".encode()
    return (start + left_out + end).decode(errors="backslashreplace")
