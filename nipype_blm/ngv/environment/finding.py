"""The environment of ArchNGV: which versions it has, and where it is."""

import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.errors import InputError, join_some, shorten
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.ngv.environment.companion import make_environment, suspect_libraries

VARIABLE = "NIPYPE_BLM_NGV_PYTHON"
INSTALL = "nipype-blm ngv install"
# With other versions of these, circuits are others, or fail.
_DECISIVE = (
    *("archngv", "neurots", "diameter-synthesis", "tmd", "numpy", "scipy", "pandas", "morphio"),
    *("morph-tool", "neurom", "voxcell", "vascpy", "libsonata", "bluepysnap", "brain-indexer"),
    *("openmesh", "multivoro", "ngv-ctools", "trimesh", "gmsh"),
)
RECORD = "nipype_blm.json"  # what was installed, written when all is
_WHERE = "where there is network, as on a login node"
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
    text = resources.files("nipype_blm.ngv.environment").joinpath("pins.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = (line.split("==") for line in lines)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def find_default_folder() -> Path:
    """Return where the environment is made if nothing else is said.

    Raises
    ------
    InputError
        If this user has no home.
    """
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return expand("the folder of data", Path(home, "nipype_blm", "ngv"))


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
        If there is none, it is not whole, or what decides results has other versions.
    """
    name, path = _choose(given)
    python = path / "bin" / "python" if path.is_dir() else path
    if not python.is_file():
        where = f"{name} {path} is not there" if name else f"there is none in {path}"
        if python.is_symlink():
            where = f"that of {python} is gone, or not on this machine ({os.path.realpath(python)})"
        raise InputError(
            f"Circuits are computed by a Python of their own, with ArchNGV, and {where}.  "
            f"`{INSTALL}` makes it, in some minutes, {_WHERE}."
        )
    python = _follow(python.absolute())
    if _read_record(python.parent.parent) == {}:
        raise InputError(
            f"The environment in {python.parent.parent} was not made to its end; `{INSTALL}` does "
            f"that, {_WHERE}."
        )
    found = _look(python)
    _check_versions(python, found["versions"], any_versions)
    return Environment(python, {each: found["versions"].get(each, "") for each in _DECISIVE})


def _choose(given: str | Path | None) -> tuple[str, Path]:
    """Return what names the environment, and what it names."""
    variable = os.environ.get(VARIABLE)
    if given is not None:
        name, path = "ngv_python", Path(given)
    elif variable:
        name, path = VARIABLE, Path(variable)
    else:
        name, path = "", find_default_folder()
    return name, expand(name, path)


def expand(name: str, path: Path) -> Path:
    """Return a path without ~.

    Raises
    ------
    InputError
        If there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{name} {path}: {error}") from error


def _follow(python: Path) -> Path:
    """Return where a link leads, but not the link to another Python that an environment has."""
    while python.is_symlink() and not (python.parent.parent / "pyvenv.cfg").is_file():
        python = python.parent / python.readlink()
    return python


@cache
def _look(python: Path) -> Any:
    """Return version and distributions of a Python."""
    try:
        return ask(python, _LOOK)
    except (OSError, ValueError) as error:
        raise InputError(
            f"ngv_python {python} is not a Python that can be used: {error}.{suspect_libraries()}  "
            f"Give that of an environment with ArchNGV, as `{INSTALL}` makes it."
        ) from error


def ask(python: str | Path, code: str) -> Any:
    """Return what a Python prints as JSON.

    Raises
    ------
    OSError
        If it cannot be started.
    ValueError
        With the last line of what it says instead.
    """
    done = subprocess.run(
        [python, "-I", "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=make_environment(),
    )
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.strip() or f"it ended with {done.returncode}"
        raise ValueError(shorten(said.splitlines()[-1])) from error


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
    whole = _read_record(folder) == {"pins": read_pins()}
    return whole and (folder / "bin" / "python").is_file()


def _read_record(folder: Path) -> Any:
    """Return what `install` has noted: nothing before all is there; None is not of `install`."""
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None


def note(folder: Path, is_whole: bool) -> None:
    """Note that an environment is being made, or that all of it is there."""
    noted = {"pins": read_pins()} if is_whole else {}
    write_if_changed(folder / RECORD, json.dumps(noted, indent=1).encode())
    _look.cache_clear()


def owns(folder: Path) -> bool:
    """Say whether `install` has made an environment in a folder, or begun to."""
    return (folder / RECORD).is_file()
