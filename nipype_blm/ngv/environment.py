"""The environment of ArchNGV: which versions it has, where it is, and how it is made."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.errors import InputError, join_some, shorten
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.ngv.companion import make_environment
from nipype_blm.private import find_obstacle

VARIABLE = "NIPYPE_BLM_NGV_PYTHON"
INSTALL = "nipype-blm ngv install"
# With other versions of these, circuits are others, or fail.
_DECISIVE = (
    *("archngv", "neurots", "diameter-synthesis", "tmd", "numpy", "scipy", "pandas", "morphio"),
    *("morph-tool", "neurom", "voxcell", "vascpy", "libsonata", "bluepysnap", "brain-indexer"),
    *("openmesh", "multivoro", "ngv-ctools", "trimesh", "gmsh"),
)
_PYTHONS = ((3, 11), (3, 12))  # that have wheels of all pins
_RECORD = "nipype_blm.json"  # what was installed, written when all is
_MOST_SHOWN = 4
_LOOK = """
import json, re, sys
from importlib.metadata import distributions
found = {}
for each in distributions():
    name = each.metadata["Name"]
    if name:
        found.setdefault(re.sub("[-_.]+", "-", name).lower(), each.version)
print(json.dumps({"python": list(sys.version_info[:2]), "versions": found}))
"""


class Environment(NamedTuple):
    """A Python with ArchNGV, and which versions of what decides its results."""

    python: Path
    versions: Mapping[str, str]

    @property
    def stamp(self) -> str:
        """What tells what was computed there from what was computed with other versions."""
        return fingerprint(json.dumps(dict(self.versions), sort_keys=True))


def read_pins() -> dict[str, str]:
    """Return the versions that work together, by name as package indexes write it."""
    text = resources.files("nipype_blm.ngv").joinpath("pins.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = (line.split("==") for line in lines)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def find_default_folder() -> Path:
    """Return where the environment is made if nothing else is said."""
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home, "nipype_blm", "ngv").expanduser()


def find_environment(given: str | Path | None = None, any_versions: bool = False) -> Environment:
    """Return the environment in which a circuit is computed.

    Parameters
    ----------
    given : path, optional
        Its Python, or its folder; default: what the variable NIPYPE_BLM_NGV_PYTHON names, or else
        what `install` has made.
    any_versions : bool
        Take one with other versions than those that are known to work together.

    Raises
    ------
    InputError
        If there is none, or what decides results has other versions.
    """
    name, path = next(_list_candidates(given))
    python = path / "bin" / "python" if path.is_dir() else path
    if not python.is_file():
        where = f"{name} {path} is not there" if name else f"there is none in {path}"
        raise InputError(
            f"Circuits are computed by an environment of their own, with ArchNGV, and {where}.  "
            f"`{INSTALL}` makes one, in a few minutes."
        )
    # Not resolved: the Python of an environment is a link to another one.
    python = Path(os.path.abspath(python))  # noqa: PTH100
    found = _look(python)
    _check_versions(python, found["versions"], any_versions)
    return Environment(python, {each: found["versions"].get(each, "") for each in _DECISIVE})


def _list_candidates(given: str | Path | None) -> Iterator[tuple[str, Path]]:
    if given is not None:
        yield "ngv_python", Path(given).expanduser()
    if os.environ.get(VARIABLE):
        yield VARIABLE, Path(os.environ[VARIABLE]).expanduser()
    yield "", find_default_folder()


@cache
def _look(python: Path) -> Any:
    """Return version and distributions of a Python."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _LOOK], capture_output=True, text=True, env=make_environment()
        )
        return json.loads(done.stdout)
    except (OSError, ValueError) as error:
        said = done.stderr.strip() if isinstance(error, ValueError) else str(error)
        raise InputError(
            f"ngv_python {python} is not a Python that can be used: {shorten(said)}.  Give that of "
            f"an environment with ArchNGV, as `{INSTALL}` makes it."
        ) from error


def _check_versions(python: Path, found: Mapping[str, str], any_versions: bool) -> None:
    pins = read_pins()
    missing = [name for name in _DECISIVE if name not in found]
    if missing:
        raise InputError(
            f"The environment of {python} lacks {join_some(missing, _MOST_SHOWN)}; `{INSTALL}` "
            "makes one that has all that circuits need, and ngv_python names another one."
        )
    others = [
        f"{name} {found[name]} ({pins[name]} is expected)"
        for name in _DECISIVE
        if found[name] != pins[name]
    ]
    if others and not any_versions:
        raise InputError(
            f"The environment of {python} has other versions than those known to work together: "
            f"{join_some(others, _MOST_SHOWN)}.  Circuits would be others, or fail; `{INSTALL}` "
            "makes an environment with these, and any_versions takes this one as it is."
        )


def is_installed(folder: Path) -> bool:
    """Say whether `install` has made all of an environment, with today's versions."""
    try:
        noted = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return False
    return noted == _describe() and (folder / "bin" / "python").is_file()


def _describe() -> dict[str, Any]:
    return {"pins": read_pins()}


def install(folder: Path, python: Path | None, say: Callable[[str], None]) -> Path:
    """Make the environment of ArchNGV; return its Python.

    Parameters
    ----------
    folder : Path
        For the environment; one that was begun there is gone on with.
    python : Path, optional
        That it is made with: 3.11 or 3.12; default: this one, or one that is found.
    say : callable
        Is told what is done.

    Raises
    ------
    InputError
        If the folder has something else, no Python fits, or the installation fails; with the last
        line of what the program said that failed, and where all of it is.
    """
    if is_installed(folder):
        say(f"{folder} has the environment already.")
        return folder / "bin" / "python"
    obstacle = find_obstacle(folder)
    if obstacle is not None:
        raise InputError(f"{folder} {obstacle}; choose another folder.")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _RECORD).is_file():
            raise InputError(f"{folder} has something else in it; choose another folder.")
        shutil.rmtree(folder)  # of an earlier version, or a try that was interrupted
    base = _find_base(python)
    log = folder / "install.log"
    write_if_changed(folder / _RECORD, b"{}")
    own, pins = folder / "bin" / "python", resources.files("nipype_blm.ngv") / "pins.txt"
    pip = [own, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    say(f"Making an environment with {base} in {folder}")
    _perform([base, "-I", "-m", "venv", folder], log, folder)
    say(f"Installing {len(read_pins())} packages; this takes some minutes")
    with resources.as_file(pins) as path:
        # The list is complete: to look for what else is needed would take longer than all the rest.
        _perform([*pip, "install", "--no-deps", "--requirement", path], log, folder)
    _perform([*pip, "check"], log, folder)
    say("Looking whether all of it can be imported")
    _perform([own, "-I", "-c", "import archngv.app.ngv, vascpy, brain_indexer"], log, folder)
    write_if_changed(folder / _RECORD, json.dumps(_describe(), indent=1).encode())
    _look.cache_clear()
    return own


def _perform(command: Sequence[str | Path], log: Path, folder: Path) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=make_environment(),
    )
    with log.open("ab") as file:
        file.write(done.stdout)
    if done.returncode:
        raise InputError(
            f"The environment in {folder} could not be made: {_find_reason(done.stdout)}  All that "
            f"was said is in {log}; the same command tries again."
        )


def _find_reason(output: bytes) -> str:
    text = output.decode(errors="replace")
    if "ensurepip is not available" in text:
        return "this Python has no ensurepip; Debian and Ubuntu have it in python3-venv."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "Error:"))]
    return shorten(f"{(errors or lines or ['nothing was said'])[-1].rstrip('.')}.", 400)


def _find_base(given: Path | None) -> Path:
    """Return a Python that all pins are there for."""
    names = [f"python{major}.{minor}" for major, minor in _PYTHONS]
    if given is not None:
        candidates = [str(given)]
    else:
        root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
        candidates = [sys.executable, *(shutil.which(name) or "" for name in names)]
        candidates += [str(path) for name in names for path in sorted(root.glob(f"*/bin/{name}"))]
    versions = {}
    for candidate in filter(None, candidates):
        version = _find_version(candidate)
        if version in _PYTHONS:
            return Path(candidate)
        versions[candidate] = version
    known = " or ".join(".".join(map(str, version)) for version in _PYTHONS)
    if given is not None:
        version = versions[str(given)]
        what = f"is Python {'.'.join(map(str, version))}" if version else "cannot be run"
        raise InputError(f"--python {given} {what}; expected {known}, for which ArchNGV's are.")
    raise InputError(
        f"ArchNGV needs Python {known}, and none is found here; install one (as by `pyenv install "
        f"{known[:4]}`), and give it as --python."
    )


def _find_version(python: str) -> tuple[int, int] | None:
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, env=make_environment()
        )
        major, minor = map(int, done.stdout.split())
    except (OSError, ValueError):
        return None
    return major, minor
