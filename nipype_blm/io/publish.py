"""Make results appear in a folder all at once, and take away those of an earlier run."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from nipype_blm.io.images import stat_file

_RECORD = ".nipype_blm.json"
_PART = ".nipype_blm.part"


class _Record(NamedTuple):
    """Which files a run put into a folder."""

    stamp: str  # of everything they were made from; empty while files are being moved
    files: dict[str, list[int]]  # name to size and time of modification


def publish(
    out_dir: Path,
    stamp: str,
    write: Callable[[Path], None],
    is_ours: Callable[[str], bool],
) -> None:
    """Have files written to a folder of their own, then move them all into `out_dir`.

    Files that are there already, made from the same input and unchanged since, are left as
    they are.  Those of an earlier run that this one does not have are removed.

    Parameters
    ----------
    stamp : str
        Fingerprint of everything that the files are made from.
    write : callable
        Writes all files to the folder that it is given.
    is_ours : callable
        Whether a name, relative to `out_dir`, is one that a run could have written.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    before = _read_record(out_dir, is_ours)
    if before.stamp == stamp and _list_files(out_dir, before.files) == before.files:
        return
    part = out_dir / _PART
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
    try:
        write(part)
        names = {str(path.relative_to(part)) for path in part.rglob("*") if path.is_file()}
        present = {path.name for path in out_dir.iterdir() if is_ours(path.name)}
        stale = (set(before.files) | present) - names
        # While files are moved the record names old and new ones, so that the next run can
        # finish what is interrupted here.
        _write_record(out_dir, "", names | stale)
        for name in sorted(names):
            (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).replace(out_dir / name)
        for name in stale:
            (out_dir / name).unlink(missing_ok=True)
        _write_record(out_dir, stamp, names)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _list_files(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Return size and time of each file; zeros where there is none."""
    paths = {name: folder / name for name in names}
    return {
        name: list(stat_file(path)) if path.is_file() else [0, 0] for name, path in paths.items()
    }


def _read_record(folder: Path, is_ours: Callable[[str], bool]) -> _Record:
    """Read the record of an earlier run; names that are not ours are not believed."""
    try:
        data = json.loads((folder / _RECORD).read_text())
        files = {name: list(found) for name, found in data["files"].items() if is_ours(name)}
        return _Record(str(data["stamp"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Record("", {})


def _write_record(folder: Path, stamp: str, names: Iterable[str]) -> None:
    record = _Record(stamp, _list_files(folder, sorted(names)))
    (folder / _RECORD).write_text(json.dumps(record._asdict(), indent=1))
