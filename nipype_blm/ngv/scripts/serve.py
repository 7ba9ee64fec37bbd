"""Run commands in copies of one process that has imported ArchNGV once, which takes seconds.

A line that comes in is a request: ``{"argv": [...], "cwd": ..., "log": ..., "env": {...}}``.  The
line that goes out says how it ended: ``{"code": 0}``, or ``{"code": 1, "error": "OSError: ..."}``;
a negative code is the number of a signal.

The process ends when nobody is at the other end any more, with what runs then; and after ten
minutes without a request.
"""

import gc
import json
import os
import runpy
import select
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO, NoReturn

_IDLE_S = 600.0
_MODULES = (
    *("archngv.app.__main__", "archngv.building.connectivity.neuroglial_generation"),
    *("archngv.building.endfeet_reconstruction.area_generation", "archngv.building.exporters"),
    *("archngv.building.morphology_synthesis.full_astrocyte", "brain_indexer", "vascpy.cli"),
)


def main() -> None:
    """Serve requests."""
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    writer = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # libraries greet, which is no answer
    for name in _MODULES:
        import_module(name)
    gc.freeze()  # copies share what nobody looks at
    writer.write(b'{"ready": true}\n')
    while select.select([reader], [], [], _IDLE_S)[0]:
        line = reader.readline()
        if not line:
            return
        answer = _perform(json.loads(line), reader, writer)
        if answer is None:
            return
        writer.write(json.dumps(answer).encode() + b"\n")


def _perform(request: Any, reader: BinaryIO, writer: BinaryIO) -> dict[str, Any] | None:
    """Return how a command ended; None if nobody waits for it any more."""
    source, told = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(source)
        reader.close()
        writer.close()
        _become(request, told)
    os.close(told)
    with suppress(OSError):  # whoever of both is first
        os.setpgid(pid, pid)
    with os.fdopen(source, "rb", buffering=0) as pipe:
        said = b""
        while True:
            ready, _, _ = select.select([reader, pipe], [], [])
            if reader in ready:  # no second request comes before the answer to the first
                _kill(pid)
                return None
            piece = pipe.read(65536)
            if not piece:  # it has ended, however it did
                break
            said += piece
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    _kill(pid)  # what it has left
    return {"code": code} | (json.loads(said) if said.endswith(b"}") else {})


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _become(request: Any, told: int) -> NoReturn:
    """Do what is asked, in this process, and end it as Python ends: open files are written."""
    with suppress(OSError):
        os.setpgid(0, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code, error = 1, ""
    try:
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        code = _run(request["argv"])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        error = str(ending.code or "") if not isinstance(ending.code, int) else ""
    except BaseException as fault:
        traceback.print_exc()
        error = f"{type(fault).__name__}: {fault}"
    if error:
        os.write(told, json.dumps({"error": error}).encode()[:65536])
    gc.freeze()  # to free every object takes longer than most commands do
    sys.exit(code)


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
        return app.main(args=arguments, prog_name=program, standalone_mode=False) or 0
    except click.ClickException as fault:
        fault.show()
        raise SystemExit(fault.format_message()) from None


if __name__ == "__main__":
    main()
