"""Run a stage of ArchNGV: what it writes appears at once, when it has ended well."""

import filecmp
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype_blm.errors import InputError, join_some, show
from nipype_blm.ngv.circuit.hdf5 import open_hdf5
from nipype_blm.ngv.environment.companion import run_command

SUCCESS = "_SUCCESS"  # marks a folder of touches that is complete


class StageError(RuntimeError):
    """A stage has failed; its message is for users."""


def run_stage(
    python: Path,
    commands: Sequence[Sequence[str]],
    outputs: Mapping[str, Path],
    log: Path,
    n_procs: int = 1,
) -> list[Path]:
    """Run commands that write files, and move these to where they belong.

    Parameters
    ----------
    python : Path
        Of the environment of ArchNGV.
    commands : sequence of sequence of str
        ``ngv`` or ``vascpy`` and arguments, or a script and its own; paths are absolute, but for
        those of what is written, which are names in the working directory.
    outputs : mapping of str to Path
        Where each of these files goes; a file that is there and the same stays, so that nothing is
        computed again that was made from it.
    log : Path
        For what the command says.
    n_procs : int
        Processes that it may have.

    Returns
    -------
    outputs : list of Path

    Raises
    ------
    StageError
        With the last line that it says, and where all of it is.
    """
    places = list(outputs.values())
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    # On the disk of the files, and nobody else's: jobs of a run that was killed may go on.
    for path in places[0].parent.glob(f".{places[0].name}.*.part"):
        shutil.rmtree(path, ignore_errors=True)
    scratch = places[0].with_name(f".{places[0].name}.{secrets.token_hex(8)}.part")
    scratch.mkdir()
    log.unlink(missing_ok=True)
    env = {"LOKY_MAX_CPU_COUNT": str(n_procs)}  # by which joblib counts cores
    try:
        for argv in commands:
            ended = run_command(python, argv, scratch, log, env)
            if ended.code:
                raise StageError(
                    f"{_name(argv)} has failed: {ended.describe()}\nAll that it said is in {log}."
                )
        for name in outputs:
            if not (scratch / name).is_file():
                raise StageError(f"{_name(commands[0])} has written no {name}; see {log}.")
        for name, place in outputs.items():
            if not _is_same(scratch / name, place):
                (scratch / name).replace(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return places


def run_touch_detector(command: str, places: Mapping[str, Path], log: Path) -> None:
    """Have another program find touches, into an empty folder.

    Parameters
    ----------
    command : str
        With names of `places` in braces.
    places : mapping of str to Path
        ``touches`` is the folder for what it finds.
    log : Path
        For what it says.

    Raises
    ------
    InputError
        If the command has something else in braces.
    StageError
        If it fails, or writes no touches.
    """
    folder = places["touches"]
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    try:
        argv = [word.format(**{**places, "touches": scratch}) for word in shlex.split(command)]
        if not argv:
            raise ValueError("it is empty")
    except (ValueError, LookupError, AttributeError) as error:
        names = ", ".join(f"{{{name}}}" for name in places)
        raise InputError(
            f"touches: command: {show(command)} was given; expected a command with {names} in it "
            f"({error})."
        ) from error
    _check_touches(folder)
    scratch.mkdir(parents=True)
    try:
        _run_detector(argv, log)
        if not any(scratch.glob("touchesData.*")):
            raise StageError(f"{argv[0]} has written no touchesData.* into {{touches}}; see {log}.")
        (scratch / SUCCESS).touch()
        shutil.rmtree(folder, ignore_errors=True)
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_detector(argv: Sequence[str], log: Path) -> None:
    with log.open("wb") as file:
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        except OSError as error:
            raise StageError(
                f"{argv[0]}, which is to find touches, cannot be run: {error}"
            ) from error
    if done.returncode:
        raise StageError(
            f"{argv[0]} has failed, with {done.returncode}.  All that it said is in {log}."
        )


def _check_touches(folder: Path) -> None:
    """Refuse to replace a folder that has something else in it."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in found if not name.startswith("touches") and name != SUCCESS]
    if others:
        raise InputError(
            f"{folder}, for touches, has {join_some(others, 3)} in it; give another folder."
        )


def _is_same(one: Path, other: Path) -> bool:
    """Say whether two files have the same content; HDF5 notes times, which are none."""
    if not other.is_file() or other.is_symlink():
        return False
    if filecmp.cmp(one, other, shallow=False):
        return True
    if one.suffix != ".h5":
        return False
    try:
        with open_hdf5(one) as new, open_hdf5(other) as old:
            return _is_same_group(new, old)
    except InputError:
        return False


def _is_same_group(one: Any, other: Any) -> bool:
    if dict(one.attrs) != dict(other.attrs) or one.keys() != other.keys():
        return False
    return all(_is_same_entry(one[name], other[name]) for name in one)


def _is_same_entry(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if hasattr(one, "keys"):
        return _is_same_group(one, other)
    is_alike = one.dtype == other.dtype and one.shape == other.shape
    return is_alike and bool((one[()] == other[()]).all())


def _name(argv: Sequence[str]) -> str:
    return f"{Path(argv[0]).stem} {argv[1]}" if argv[0] in ("ngv", "vascpy") else Path(argv[0]).stem
