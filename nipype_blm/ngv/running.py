"""Run a stage of ArchNGV: what it writes appears at once, when it has ended well."""

import filecmp
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype_blm.ngv.companion import run_command


class StageError(RuntimeError):
    """A stage has failed; its message is for users."""


def run_stage(
    python: Path, argv: Sequence[str], outputs: Mapping[str, Path], log: Path
) -> list[Path]:
    """Run a command that writes files, and move these to where they belong.

    Parameters
    ----------
    python : Path
        Of the environment of ArchNGV.
    argv : sequence of str
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
        ended = run_command(python, argv, scratch, log)
        if ended.code:
            raise StageError(
                f"{_name(argv)} has failed: {ended.describe()}\nAll that it said is in {log}."
            )
        for name in outputs:
            if not (scratch / name).is_file():
                raise StageError(f"{_name(argv)} has written no {name}; see {log}.")
        for name, place in outputs.items():
            if not _is_same(scratch / name, place):
                (scratch / name).replace(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return places


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(one, other, shallow=False)


def _name(argv: Sequence[str]) -> str:
    return f"{Path(argv[0]).stem} {argv[1]}" if argv[0] in ("ngv", "vascpy") else Path(argv[0]).stem
