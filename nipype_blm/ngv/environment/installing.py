"""Make the environment of ArchNGV."""

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.errors import InputError, shorten
from nipype_blm.io.lock import RUN_LOCK, hold_folders
from nipype_blm.machine import count_cores
from nipype_blm.ngv.environment.companion import make_environment, suspect_libraries
from nipype_blm.ngv.environment.finding import RECORD, ask, is_installed, note, owns, read_pins
from nipype_blm.private import find_obstacle

_PYTHONS = ((3, 11), (3, 12))  # that the pins are for
_NEEDED_GB = 1.0  # it takes 0.73 in the end; compiling takes the rest
_COMPILED = "openmesh"  # the one that is, where the index has no wheel of it
_TOOLS = ("cmake<4", "ninja")  # it asks for a CMake that CMake 4 does not stand in for
_COMPILERS = ("c++", "g++", "clang++", "icpx")
_MOST_COMPILING = 4  # each takes up to a GB
_SAYING_S = 20.0
_STUCK_S = 1800.0  # without a word; one file may compile for minutes
# By which pip would put packages elsewhere.
_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON")
_PROBE = """
import json, sys, sysconfig
from importlib.util import find_spec
print(json.dumps({
    "version": list(sys.version_info[:2]),
    "executable": getattr(sys, "_base_executable", sys.executable),
    "ensurepip": find_spec("ensurepip") is not None, "include": sysconfig.get_path("include"),
}))
"""
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_UNREACHED = re.compile(r"connection broken by|Max retries exceeded|ProxyError|Could not fetch URL")
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED")
_ABSENT = re.compile(r"No matching distribution found for (\S+)")
_INDEXES = re.compile(r"Looking in (?:indexes|links): (.*)")
_FAULT = re.compile(r"fatal error: .*|\S*Error: .*|ERROR: .*|Error: .*")


class InstallError(RuntimeError):
    """The environment could not be made; the message is for users."""


class _Base(NamedTuple):
    """A Python that an environment can be made with."""

    python: Path
    version: tuple[int, int]
    has_pip: bool
    include: Path  # where Python.h is, if it is anywhere

    @property
    def name(self) -> str:
        return "python" + ".".join(map(str, self.version))

    @property
    def is_complete(self) -> bool:
        return self.has_pip and (self.include / "Python.h").is_file()


def install(folder: Path, python: Path | None, say: Callable[[str], None]) -> Path:
    """Make the environment of ArchNGV; return its Python.

    Parameters
    ----------
    folder : Path
        For the environment; what `install` has left there of an earlier version, or was not done
        with, is removed.
    python : Path, optional
        That it is made with: 3.11 or 3.12, or its folder; default: this one, or one that is found.
    say : callable
        Is told what is done.

    Raises
    ------
    InputError
        If the folder has something else, is in use or too small, or no Python fits.
    InstallError
        If the installation fails; with the reason, and where all is that was said.
    """
    folder = folder.absolute()
    own = folder / "bin" / "python"
    with hold_folders({"folder": folder}):
        if is_installed(folder):
            say(f"{folder} has the environment already.")
            return own
        base = _find_base(python)
        _prepare(folder)
        work = _Work(folder, say)
        try:
            _make(own, base, work)
        finally:
            shutil.rmtree(work.scratch, ignore_errors=True)
        note(folder, is_whole=True)
    return own


def _prepare(folder: Path) -> None:
    """Empty a folder that is ours, and see whether it can take an environment."""
    obstacle = find_obstacle(folder)
    if obstacle is not None:
        raise InputError(f"{folder} {obstacle}; choose another folder.")
    others = [path for path in folder.iterdir() if path.name not in (RUN_LOCK, RECORD)]
    if others and not owns(folder):
        raise InputError(f"{folder} has something else in it; choose another folder.")
    if others:
        note(folder, is_whole=False)  # first: from now on it is not
    for path in others:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < _NEEDED_GB:
        (folder / RECORD).unlink(missing_ok=True)
        raise InputError(
            f"{folder} is on a disk with {free_gb:.2f} GB left, and {_NEEDED_GB:g} GB are needed; "
            "choose another folder."
        )
    note(folder, is_whole=False)


def _make(own: Path, base: _Base, work: "_Work") -> None:
    work.say(f"Making an environment with {base.python} in {work.folder}")
    work.perform([base.python, "-I", "-m", "venv", work.folder])
    pip = [str(own), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    if not _has_wheel(pip, work):
        _check_compiler(base)
        work.say(f"Fetching what compiles {_COMPILED}")
        try:
            where = ["--target", str(work.scratch / "tools"), "--only-binary", ":all:"]
            work.perform([*pip, "install", *where, *_TOOLS])
        except InstallError:
            if not shutil.which("cmake"):
                raise
    work.say(f"Installing {len(read_pins())} packages; this takes some minutes")
    with resources.as_file(resources.files("nipype_blm.ngv.environment") / "pins.txt") as path:
        # The list is complete: to look for what else is needed would take longer than all the rest.
        work.perform([*pip, "--verbose", "install", "--no-deps", "--requirement", str(path)])
    work.perform([*pip, "check"])
    work.say("Looking whether all of it can be imported")
    work.perform([own, "-I", "-c", "import archngv.app.ngv, vascpy, brain_indexer"])
    _try_gmsh(own, work.say)


def _has_wheel(pip: Sequence[str], work: "_Work") -> bool:
    what = f"{_COMPILED}=={read_pins()[_COMPILED]}"
    options = ["--dry-run", "--no-deps", "--only-binary", ":all:"]
    code, text = work.run([*pip, "install", *options, what])
    if code and (_UNREACHED.search(text) or not _ABSENT.search(text)):
        raise work.fail(_find_reason(text), text)
    return not code


def _check_compiler(base: _Base) -> None:
    """Raise InstallError unless modules of a Python can be compiled."""
    given = os.environ.get("CXX")
    found = next((name for name in _COMPILERS if shutil.which(name)), None)
    compiler = shlex.split(given) if given else [found] if found else None
    lack = f"there is no C++ compiler ({', '.join(_COMPILERS)}; CXX may name another one)"
    if compiler:
        fault = _try_compiler(compiler, base.include)
        if fault is None:
            return
        lack = f"{compiler[0]} cannot do that: {fault}"
    raise InstallError(
        f"The package index has no wheel of {_COMPILED} for {base.name} on this machine, so that "
        f"it is compiled here, and {lack}.  Debian and Ubuntu have what is needed in g++ and "
        f"{base.name}-dev; on clusters a module such as gcc has it, and a --python of conda or "
        "pyenv has the headers of Python."
    )


def _try_compiler(compiler: Sequence[str], include: Path) -> str | None:
    """Return what a compiler says if it does not take the headers of Python and of C++."""
    code = "#include <vector>\n#include <Python.h>\n"
    options = ["-x", "c++", "-fsyntax-only", f"-I{include}", "-"]
    try:
        done = subprocess.run(
            [*compiler, *options], input=code, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        return str(error.strerror)
    return None if not done.returncode else _find_reason(done.stdout + done.stderr)


def _try_gmsh(own: Path, say: Callable[[str], None]) -> None:
    try:
        ask(own, "import gmsh; print(1)")
    except (OSError, ValueError) as error:
        say(
            f"notice: Gmsh cannot be used on this machine ({error}).  All but the last stages, "
            "which fill a volume with tetrahedra, work without it.  Debian and Ubuntu have what "
            "it lacks in libglu1-mesa libgl1 libxrender1 libxcursor1 libxfixes3 libxft2 "
            "libxinerama1 libfontconfig1 libgomp1."
        )


class _Work:
    """Programs that make an environment, and what they say."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.log = folder / "install.log"
        # Not the temporary directory, which may be small, or forbid that what is there is run.
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        self._environment = _make_environment(self.scratch)
        self._start = self._said = time.monotonic()

    def perform(self, command: Sequence[str | Path]) -> None:
        """Run a program to its end.

        Raises
        ------
        InstallError
            If it fails, or says nothing for too long.
        """
        code, text = self.run(command)
        if code:
            raise self.fail(_find_reason(text) if code > 0 else f"signal {-code} ended it.", text)

    def run(self, command: Sequence[str | Path]) -> tuple[int, str]:
        """Return how a program has ended, and what it has said."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self.folder,
            start_new_session=True,  # so that it can be ended with all that it has started
        )
        try:
            output = b"".join(self._read(process))
            return process.wait(), output.decode(errors="replace")
        except BaseException:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()

    def _read(self, process: Any) -> Iterator[bytes]:
        """Give what a program says, when it does; it goes to the log, the last line to the user."""
        pipe, heard, last = process.stdout.fileno(), time.monotonic(), b""
        with self.log.open("ab", buffering=0) as log:
            while True:
                is_said = bool(select.select([pipe], [], [], _SAYING_S)[0])
                now = time.monotonic()
                if is_said:
                    piece = os.read(pipe, 65536)
                    if not piece:
                        return
                    log.write(piece)
                    yield piece
                    heard = now
                    last = next(filter(None, map(bytes.strip, reversed(piece.splitlines()))), last)
                elif now - heard > _STUCK_S:
                    raise self.fail(f"nothing was said for {_STUCK_S / 60:g} minutes.", "")
                if now - self._said > _SAYING_S:
                    self._said = now
                    words = shorten(last.decode(errors="replace"), 80)
                    self.say(f"  {now - self._start:.0f} s  {words}".rstrip())

    def fail(self, reason: str, text: str) -> InstallError:
        """Return the error that tells of a failure, and what to do about it."""
        return InstallError(
            f"The environment in {self.folder} could not be made: {reason}"
            f"{_advise(text, self.folder)}{suspect_libraries()}  All that was said is in "
            f"{self.log}; the same command tries again."
        )


def _make_environment(scratch: Path) -> dict[str, str]:
    """Return the environment of pip: its settings are those of the Python that runs this."""
    environment = make_environment()
    for name in _ELSEWHERE:
        environment.pop(name, None)
    environment |= {"PIP_USER": "0", "TMPDIR": str(scratch), "CMAKE_POLICY_VERSION_MINIMUM": "3.5"}
    # CMake itself, not the script that starts it: pip hides from that where its module is.
    tools = [scratch / "tools" / "cmake" / "data" / "bin", scratch / "tools" / "bin"]
    environment["PATH"] = os.pathsep.join([*map(str, tools), os.environ.get("PATH", os.defpath)])
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(min(count_cores(), _MOST_COMPILING)))
    settings = Path(sys.prefix, "pip.conf")  # of a virtual environment, which nobody inherits
    if settings.is_file():
        environment.setdefault("PIP_CONFIG_FILE", str(settings))
    return environment


def _find_reason(text: str) -> str:
    """Return the line that tells most of why a program has failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    faults = [found[0] for found in map(_FAULT.search, lines) if found]
    first = [fault for fault in faults if fault.startswith("fatal error")]  # of a compiler
    said = first[:1] or faults[-1:] or lines[-1:] or ["nothing was said"]
    return shorten(f"{said[0].rstrip('.')}.", 400)


def _advise(text: str, folder: Path) -> str:
    """Return what to do about a failure that is known."""
    if _FULL.search(text):
        return (
            f"  {folder} needs {_NEEDED_GB:g} GB, and so may a cache of pip; --folder names "
            "another place, and PIP_CACHE_DIR another cache."
        )
    if _UNTRUSTED.search(text):
        return "  PIP_CERT names the certificates of a site whose proxy has its own."
    if _UNREACHED.search(text):
        return (
            "  The package index cannot be reached: do this where there is network, as on a login "
            "node; HTTPS_PROXY, PIP_INDEX_URL and the files of pip are heeded."
        )
    if _ABSENT.search(text):
        found = ", ".join(dict.fromkeys(_INDEXES.findall(text))) or "the index that pip has"
        return f"  It was looked for in {found}."
    return ""


def _find_base(given: Path | None) -> _Base:
    """Return a Python that all pins are there for, if there is one with all that it needs."""
    if given is not None:
        given = given / "bin" / "python" if given.is_dir() else given
    known = " or ".join(".".join(map(str, version)) for version in _PYTHONS)
    bases, others = [], []
    for candidate in [str(given)] if given else _list_candidates():
        try:
            found = ask(candidate, _PROBE)
        except (OSError, ValueError) as error:
            others.append(f"cannot be run: {error}")
            continue
        version = tuple(found["version"])
        paths = Path(found["executable"]), Path(found["include"])
        base = _Base(paths[0], version, found["ensurepip"], paths[1])
        if version not in _PYTHONS:
            others.append(f"is Python {'.'.join(map(str, version))}")
        elif base.is_complete:
            return base
        else:
            bases.append(base)
    if not bases and given:
        raise InputError(
            f"--python {given} {others[0]}; expected {known}, for which ArchNGV's are."
        )
    if not bases:
        raise InputError(
            f"ArchNGV needs Python {known}, and none is found here; install one (as by `pyenv "
            f"install {known[:4]}`), and give it as --python."
        )
    base = max(bases, key=lambda base: base.has_pip)  # of equals the first
    if not base.has_pip:
        raise InputError(
            f"{base.python} has no ensurepip, with which environments are made; Debian and Ubuntu "
            f"have it in {base.name}-venv.  Or give another Python {known}, such as one of conda "
            "or pyenv, as --python."
        )
    return base


def _list_candidates() -> Iterator[str]:
    names = [f"python{major}.{minor}" for major, minor in _PYTHONS]
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    yield sys.executable
    yield from filter(None, map(shutil.which, names))
    for name in names:
        yield from map(str, sorted(root.glob(f"*/bin/{name}")))
