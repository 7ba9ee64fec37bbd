"""Make results appear in a folder all at once, and take away those of an earlier run."""

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.errors import InputError
from nipype_blm.io.files import read_state, write_if_changed
from nipype_blm.io.lock import LockedError, locked

PATIENCE_S = 3600.0  # no run takes this long to write and to move its maps
_RECORD = ".nipype_blm.json"
_PART = ".nipype_blm.part"
_LOCK = ".nipype_blm.publish.lock"  # beside that of a whole run, whose nodes publish


class Claim(NamedTuple):
    """By what right a run replaces the results in a folder."""

    model: str  # fingerprint of what was asked for, however it is computed
    work_dir: Path  # in which one run follows another
    overwrite: bool = False  # also results of another model, made elsewhere


class _Record(NamedTuple):
    """Which files a run put into a folder."""

    stamp: str  # of everything they were made from; empty while files are being moved
    files: dict[str, list[Any]]  # name to its state: size, time of modification, identity
    model: str = ""  # as claimed; records of earlier versions have no claim
    work_dir: str = ""
    out_dir: str = ""  # the folder itself, which tells it from a copy


def publish(
    out_dir: Path,
    stamp: str,
    claim: Claim,
    write: Callable[[Path], None],
    is_ours: Callable[[str], bool],
    companions: Mapping[str, bytes] | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Have files written to a folder of their own, then move them all into `out_dir`.

    Files that are there already, made from the same input and unchanged since, are left as
    they are; so are others that have the content that they should have.  Those of an earlier run
    that this one does not have are removed.  While another process does this in the same folder,
    this one waits, and says so.

    Parameters
    ----------
    stamp : str
        Fingerprint of everything that the files are made from.
    claim : Claim
        Whether results that are there may be replaced, see `check_claim`.
    write : callable
        Writes all files to the empty folder that it is given.
    is_ours : callable
        Whether a name, relative to `out_dir`, is one that a run could have written.
    companions : mapping of str to bytes, optional
        Names and contents of further files, which stay when they are not given.
    patience_s : float
        How long to wait for another process.

    Raises
    ------
    InputError
        If another process is still not done after `patience_s`, or the results of another run
        would be lost.
    """
    companions = companions or {}
    # Without the lock first: a folder that has everything may be read-only.
    if is_published(out_dir, stamp, is_ours) and not _select_changed(out_dir, companions):
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
        if not is_published(out_dir, stamp, is_ours):
            check_claim(out_dir, claim, is_ours)
            _replace(out_dir, stamp, claim, write, is_ours, changed)
        else:
            for name, content in changed.items():
                write_if_changed(out_dir / name, content)


def check_claim(out_dir: Path, claim: Claim, is_ours: Callable[[str], bool]) -> None:
    """Refuse to replace results of another model that was run in another working directory.

    Whoever ran it was handed these paths, and would find other results there.  Nobody does where
    that working directory is gone, nor in a copy of a folder.

    Raises
    ------
    InputError
        With both working directories.
    """
    record = _read_record(out_dir, is_ours)
    work_dir = Path(record.work_dir)
    may_replace = (
        claim.overwrite
        or not _is_of_another(record, out_dir, claim.model)
        or not record.work_dir  # of an earlier version
        or not work_dir.exists()
        or _is_same(work_dir, claim.work_dir)
        or not _is_same(Path(record.out_dir), out_dir)
    )
    if not may_replace:
        raise InputError(
            f"{out_dir} has the results of another model, made in {record.work_dir}; those of "
            f"this one, made in {claim.work_dir}, would replace them. Give each model a folder of "
            "its own (a node has one if out_dir is left out), or set overwrite to true."
        )


def has_another_model(out_dir: Path, model: str, is_ours: Callable[[str], bool]) -> bool:
    """Return whether a folder has the results of another model, wherever they were made."""
    return _is_of_another(_read_record(out_dir, is_ours), out_dir, model)


def _is_of_another(record: _Record, out_dir: Path, model: str) -> bool:
    return record.model != model and any((out_dir / name).exists() for name in record.files)


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two names are those of one folder, which exists."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def is_published(out_dir: Path, stamp: str, is_ours: Callable[[str], bool]) -> bool:
    """Return whether a folder has these results already, and they have not changed since."""
    record = _read_record(out_dir, is_ours)
    # Whatever made a folder read-only may have changed identities; and nothing can be restored.
    n_compared = 3 if os.access(out_dir, os.W_OK) else 2
    return record.stamp == stamp and all(
        found[:n_compared] == record.files[name][:n_compared]
        for name, found in _list_files(out_dir, record.files).items()
    )


def list_published(out_dir: Path) -> set[str]:
    """Return the names of the files that a run put into a folder; none without its record."""
    return set(_read_record(out_dir, lambda name: True).files)


def is_unfinished(out_dir: Path) -> bool:
    """Return whether results are being replaced, or a run was interrupted while it did that."""
    record = _read_record(out_dir, lambda name: True)
    return bool(record.files) and not record.stamp


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
    claim: Claim,
    write: Callable[[Path], None],
    is_ours: Callable[[str], bool],
    companions: Mapping[str, bytes],
) -> None:
    """Replace the results of a folder."""
    part = out_dir / _PART
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
    with suppress(OSError):
        part.unlink()  # a link, which nobody follows
    part.mkdir(mode=0o700)  # nobody else puts links where files are written
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
        _write_record(out_dir, part, "", claim, names | stale)
        for name in sorted(names | companions.keys()):
            (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
            if not _has_same_content(part / name, out_dir / name):  # as after chmod, or a copy
                (part / name).replace(out_dir / name)
        for name in stale:
            (out_dir / name).unlink(missing_ok=True)
        _write_record(out_dir, part, stamp, claim, names)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _has_same_content(one: Path, other: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(one, other, shallow=False)


def _list_files(folder: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return the state of each file; an empty one where there is none."""
    return {name: _describe_file(folder / name) for name in names}


def _describe_file(path: Path) -> list[Any]:
    try:
        return list(read_state(path)) if path.is_file() else []
    except FileNotFoundError:  # another run has just removed it
        return []


def _read_record(folder: Path, is_ours: Callable[[str], bool]) -> _Record:
    """Read the record of an earlier run; names that are not ours are not believed."""
    try:
        data = json.loads((folder / _RECORD).read_text())
        files = {name: list(found) for name, found in data["files"].items() if is_ours(name)}
        claim = [str(data.get(field, "")) for field in ("model", "work_dir", "out_dir")]
        return _Record(str(data["stamp"]), files, *claim)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Record("", {})


def _write_record(folder: Path, part: Path, stamp: str, claim: Claim, names: Iterable[str]) -> None:
    """Replace the record of a folder; a full disk or a killed run leaves the earlier one."""
    files = _list_files(folder, sorted(names))
    work_dir, out_dir = (str(path.absolute()) for path in (claim.work_dir, folder))
    record = _Record(stamp, files, claim.model, work_dir, out_dir)
    (part / _RECORD).write_text(json.dumps(record._asdict(), indent=1))
    (part / _RECORD).replace(folder / _RECORD)
