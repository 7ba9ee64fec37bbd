"""Run commands in copies of one process that has imported ArchNGV once, which takes seconds.

``serve.py fork 600``: a line that comes in is a request, ``{"argv": [...], "cwd": ..., "log": ...,
"env": {...}}``.  The line that goes out says how it ended: ``{"code": 0}``, or ``{"code": 1,
"error": "OSError: ..."}``; a negative code is the number of a signal.

The process ends when nobody is at the other end any more, with what runs then and is still of the
process group that it was started in; and after 600 seconds without a request.

``serve.py spawn 600`` imports nothing, and runs each command in a new process, which takes these
seconds each time: libraries of macOS do not survive that a process is copied after they were used.
"""

import atexit
import ctypes
import gc
import io
import json
import os
import runpy
import select
import signal
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO, NoReturn

_LONGEST_ERROR = 4000  # characters, which a pipe takes at once
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of man 2 prctl
_MODULES = (
    *("archngv.app.__main__", "archngv.building.connectivity.neuroglial_generation"),
    *("archngv.building.endfeet_reconstruction.area_generation", "archngv.building.exporters"),
    *("archngv.building.morphology_synthesis.full_astrocyte", "brain_indexer", "vascpy.cli"),
)


def main(way: str, idle_s: float) -> None:
    """Serve requests."""
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    writer = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # libraries greet, which is no answer
    if way == "fork":
        for name in _MODULES:
            import_module(name)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else every copy writes it again
    gc.freeze()  # copies share what nobody looks at
    server = _Server(way == "fork", reader, writer)
    server.answer({"ready": True})
    while select.select([reader], [], [], idle_s)[0]:
        line = reader.readline()
        answer = server.perform(line.decode()) if line.endswith(b"\n") else None
        if answer is None:
            return
        server.answer(answer)


class _Server:
    def __init__(self, forks: bool, reader: BinaryIO, writer: BinaryIO) -> None:
        self._forks, self._reader, self._writer = forks, reader, writer
        # That a child has ended is told by its signal: pipes stay open where it leaves others.
        self._ended, told = os.pipe()
        os.set_blocking(told, False)
        self._told = told
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(told)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def answer(self, answer: dict[str, Any]) -> None:
        """Write a line; a pipe takes it whole, or its reader is gone."""
        self._writer.write(json.dumps(answer).encode() + b"\n")

    def perform(self, request: str) -> dict[str, Any] | None:
        """Return how a command ended; None if nobody waits for it any more."""
        source, told = os.pipe()
        pid = self._fork(request, told) if self._forks else _spawn(request, told)
        os.close(told)
        with suppress(OSError):  # whoever of both is first
            os.setpgid(pid, pid)
        with os.fdopen(source, "rb", buffering=0) as pipe:
            status = self._wait_for(pid)
            _kill(pid)  # what it has left
            if status is None:
                return None
            os.set_blocking(source, False)
            said = pipe.read(2**20)  # None where what it has left holds the other end
        code = os.waitstatus_to_exitcode(status)
        return {"code": code, "error": json.loads(said) if said else ""}

    def _wait_for(self, pid: int) -> int | None:
        while True:
            ready, _, _ = select.select([self._reader.fileno(), self._ended], [], [])
            if (
                self._reader.fileno() in ready
            ):  # no second request comes before the answer to the first
                return None
            os.read(self._ended, 4096)
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                return status

    def _fork(self, request: str, told: int) -> int:
        server = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._reader.close()
        self._writer.close()
        os.close(self._ended)
        os.close(self._told)
        _end_with(server)
        become(request, told)


def _end_with(server: int) -> None:
    """Have this process killed when the server is, as for too much memory; Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != server:
            os.kill(os.getpid(), signal.SIGKILL)


def _spawn(request: str, told: int) -> int:
    os.set_inheritable(told, True)
    argv = [sys.executable, "-I", __file__, "become", request, str(told)]
    return os.posix_spawn(sys.executable, argv, os.environ, setpgroup=0)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def become(text: str, told: int) -> NoReturn:
    """Do what is asked, in this process, and end it as Python ends: open files are written."""
    with suppress(OSError):
        os.setpgid(0, 0)
    os.set_inheritable(told, False)
    code, error = 1, ""
    try:
        request = json.loads(text)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        code = _run(request["argv"])
    except SystemExit as ending:
        code, error = _explain(ending.code)
    except BaseException as fault:
        error = _describe(fault)
        with suppress(OSError):  # a full disk
            traceback.print_exc()
    if error:
        os.write(told, json.dumps(error[:_LONGEST_ERROR]).encode())
    _end(code)


def _end(code: int) -> NoReturn:
    """End this process as Python and C do: open files are written.

    Except that no module is taken apart.  To touch all that is shared with the server copies it,
    which takes longer than many commands do.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does
    atexit._run_exitfuncs()
    files = [each for each in gc.get_objects() if issubclass(type(each), io.IOBase)]
    for file in (*files, sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            file.flush()
    gc.collect()
    ctypes.CDLL(None).exit(code)  # HDF5 writes what is open
    raise SystemExit(code)


def _explain(ending: Any) -> tuple[int, str]:
    """Return code and message of how Python was asked to end."""
    if ending is None or isinstance(ending, int):
        return int(ending or 0), ""
    with suppress(OSError):
        print(ending, file=sys.stderr)
    return 1, str(ending)


def _describe(fault: BaseException) -> str:
    try:
        said = str(fault)
    except Exception:  # of a class that is at fault, too
        said = ""
    return f"{type(fault).__name__}: {said}" if said else type(fault).__name__


def _run(argv: list[str]) -> int:
    program, *arguments = argv
    if program == "ngv":
        return _run_click(import_module("archngv.app.__main__").app, program, arguments)
    if program == "vascpy":
        return _run_click(import_module("vascpy.cli").app, program, arguments)
    sys.argv = argv
    runpy.run_path(program, run_name="__main__")
    return 0


def _run_click(app: Any, program: str, arguments: list[str]) -> int:
    import click

    try:
        ended = app.main(args=arguments, prog_name=program, standalone_mode=False)
    except click.ClickException as fault:
        raise SystemExit(fault.format_message()) from None
    return ended if isinstance(ended, int) else 0  # what a command returns may be anything


if __name__ == "__main__":
    if sys.argv[1] == "become":
        become(sys.argv[2], int(sys.argv[3]))
    main(sys.argv[1], float(sys.argv[2]))
