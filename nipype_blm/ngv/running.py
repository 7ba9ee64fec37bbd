"""Run a stage of ArchNGV: what it writes appears at once, when it has ended well."""

import filecmp
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype_blm.errors import InputError, show
from nipype_blm.ngv.companion import run_command

SUCCESS = "_SUCCESS"  # marks a folder of touches that is complete


class StageError(RuntimeError):
    """A stage has failed; its message is for users."""


def run_stage(
    python: Path, commands: Sequence[Sequence[str]], outputs: Mapping[str, Path], log: Path
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
    # On the disk of the files; nobody else writes them meanwhile.
    scratch = places[0].with_name(f".{places[0].name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir()
    log.unlink(missing_ok=True)
    try:
        for argv in commands:
            ended = run_command(python, argv, scratch, log)
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
    try:
        argv = [word.format(**places) for word in shlex.split(command)]
        if not argv:
            raise ValueError("it is empty")
    except (ValueError, LookupError, AttributeError) as error:
        names = ", ".join(f"{{{name}}}" for name in places)
        raise InputError(
            f"touches: command: {show(command)} was given; expected a command with {names} in it "
            f"({error})."
        ) from error
    folder = places["touches"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            ).returncode
        except OSError as error:
            raise StageError(
                f"{argv[0]}, which is to find touches, cannot be run: {error}"
            ) from error
    if code:
        raise StageError(f"{argv[0]} has failed, with {code}.  All that it said is in {log}.")
    if not any(folder.glob("touchesData.*")):
        raise StageError(f"{argv[0]} has written no touchesData.* into {folder}; see {log}.")
    (folder / SUCCESS).touch()


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(one, other, shallow=False)


def _name(argv: Sequence[str]) -> str:
    return f"{Path(argv[0]).stem} {argv[1]}" if argv[0] in ("ngv", "vascpy") else Path(argv[0]).stem
