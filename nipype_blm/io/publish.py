"""Make results appear in a folder all at once, and take away those of an earlier run."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from nipype_blm.errors import InputError
from nipype_blm.io.files import write_if_changed
from nipype_blm.io.images import stat_file
from nipype_blm.io.lock import LockedError, locked

PATIENCE_S = 3600.0  # no run takes this long to write and to move its maps
_RECORD = ".nipype_blm.json"
_PART = ".nipype_blm.part"
_LOCK = ".nipype_blm.publish.lock"  # beside that of a whole run, whose nodes publish


class _Record(NamedTuple):
    """Which files a run put into a folder."""

    stamp: str  # of everything they were made from; empty while files are being moved
    files: dict[str, list[int]]  # name to size and time of modification


def publish(
    out_dir: Path,
    stamp: str,
    write: Callable[[Path], None],
    is_ours: Callable[[str], bool],
    companions: Mapping[str, bytes] | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Have files written to a folder of their own, then move them all into `out_dir`.

    Files that are there already, made from the same input and unchanged since, are left as
    they are.  Those of an earlier run that this one does not have are removed.  While another
    process does this in the same folder, this one waits, and says so.

    Parameters
    ----------
    stamp : str
        Fingerprint of everything that the files are made from.
    write : callable
        Writes all files to the folder that it is given.
    is_ours : callable
        Whether a name, relative to `out_dir`, is one that a run could have written.
    companions : mapping of str to bytes, optional
        Names and contents of further files, which stay when they are not given.
    patience_s : float
        How long to wait for another process.

    Raises
    ------
    InputError
        If another process is still not done after `patience_s`.
    """
    companions = companions or {}
    # Without the lock first: a folder that has everything may be read-only.
    if _is_published(out_dir, stamp, is_ours) and not _select_changed(out_dir, companions):
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out_dir / _LOCK, patience_s))
        except LockedError as error:
            raise InputError(
                f"The results in {out_dir} could not be replaced, because another run has been "
                f"doing so for more than {patience_s / 60:g} minutes: {error.holder}. Wait until "
                f"it has ended, or end it, and run again.{error.advice}"
            ) from error
        changed = _select_changed(out_dir, companions)
        if not _is_published(out_dir, stamp, is_ours):
            _replace(out_dir, stamp, write, is_ours, changed)
        else:
            for name, content in changed.items():
                write_if_changed(out_dir / name, content)


def _is_published(out_dir: Path, stamp: str, is_ours: Callable[[str], bool]) -> bool:
    """Return whether a folder has these results already."""
    record = _read_record(out_dir, is_ours)
    return record.stamp == stamp and _list_files(out_dir, record.files) == record.files


def _select_changed(out_dir: Path, companions: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the companions that a folder does not have, or not with this content."""

    def is_there(name: str, content: bytes) -> bool:
        try:
            return (out_dir / name).read_bytes() == content
        except FileNotFoundError:
            return False

    return {name: data for name, data in companions.items() if not is_there(name, data)}


def _replace(
    out_dir: Path,
    stamp: str,
    write: Callable[[Path], None],
    is_ours: Callable[[str], bool],
    companions: Mapping[str, bytes],
) -> None:
    """Replace the results of a folder."""
    part = out_dir / _PART
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
    try:
        write(part)
        names = {str(path.relative_to(part)) for path in part.rglob("*") if path.is_file()}
        for name, content in companions.items():
            (part / name).write_bytes(content)
        earlier = _read_record(out_dir, is_ours).files.keys()
        present = {path.name for path in out_dir.iterdir() if is_ours(path.name)}
        if present and not earlier:  # the record of an earlier run was lost
            below = (str(path.relative_to(out_dir)) for path in out_dir.glob("*/*"))
            present |= {name for name in below if is_ours(name)}
        stale = (earlier | present) - names
        # While files are moved the record names old and new ones, so that the next run can
        # finish what is interrupted here.
        _write_record(out_dir, part, "", names | stale)
        for name in sorted(names | companions.keys()):
            (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).replace(out_dir / name)
        for name in stale:
            (out_dir / name).unlink(missing_ok=True)
        _write_record(out_dir, part, stamp, names)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _list_files(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Return size and time of each file; zeros where there is none."""
    return {name: _describe_file(folder / name) for name in names}


def _describe_file(path: Path) -> list[int]:
    try:
        return list(stat_file(path)) if path.is_file() else [0, 0]
    except FileNotFoundError:  # another run has just removed it
        return [0, 0]


def _read_record(folder: Path, is_ours: Callable[[str], bool]) -> _Record:
    """Read the record of an earlier run; names that are not ours are not believed."""
    try:
        data = json.loads((folder / _RECORD).read_text())
        files = {name: list(found) for name, found in data["files"].items() if is_ours(name)}
        return _Record(str(data["stamp"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Record("", {})


def _write_record(folder: Path, part: Path, stamp: str, names: Iterable[str]) -> None:
    """Replace the record of a folder; a full disk or a killed run leaves the earlier one."""
    record = _Record(stamp, _list_files(folder, sorted(names)))
    (part / _RECORD).write_text(json.dumps(record._asdict(), indent=1))
    (part / _RECORD).replace(folder / _RECORD)
