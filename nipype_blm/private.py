"""Files and folders where others may write, too: made and opened so that they are nobody else's."""

import errno
import os
import pwd
import stat
import tempfile
from pathlib import Path

from nipype_blm.errors import InputError

# What a path has that leads nowhere, or to where this user may not look.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}


def make_private(folder: Path, name: str) -> None:
    """Make a folder that only this user can enter; one that is there keeps its mode.

    Parameters
    ----------
    folder : Path
        Those around it are made as the umask says.
    name : str
        By which the user knows it.

    Raises
    ------
    InputError
        If that cannot be done.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = find_obstacle(folder) or f"cannot be made: {error.strerror}"
        raise InputError(f"{name} {folder} {reason}.") from error


def list_writers(found: os.stat_result) -> list[str]:
    """Return who else can write what is described; root can in any case."""
    writers = []
    if found.st_uid not in (os.getuid(), 0):
        writers.append(f"it belongs to user {found.st_uid}, not to you")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        writers.append("others can write it (`chmod go-w` takes that away)")
    return writers


def find_obstacle(folder: Path) -> str | None:
    """Return why a folder cannot be made, or nothing be written there; None if it can."""
    existing = folder
    try:
        existing = find_existing(folder)
        if existing.is_symlink() and not existing.exists():
            target = existing.readlink()
            return f"cannot be made: {existing} is a symbolic link that leads nowhere (to {target})"
        if not existing.is_dir():
            return f"cannot be made: {existing} is a file"
        with tempfile.TemporaryFile(dir=existing):  # has no name where Linux can
            return None
    except OSError as error:
        return f"cannot be written: {existing}: {error.strerror}{_tell_owner(existing)}"


def find_existing(path: Path) -> Path:
    """Return what has this path, or the nearest one above it that something has."""

    def is_there(path: Path) -> bool:
        try:
            path.lstat()
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise
        return True

    return next(found for found in (path, *path.parents) if is_there(found))


def _tell_owner(path: Path) -> str:
    try:
        owner = path.stat().st_uid
    except OSError:
        return ""
    if owner in (os.getuid(), 0):
        return ""
    try:
        return f" (it belongs to {pwd.getpwuid(owner).pw_name})"
    except KeyError:
        return f" (it belongs to user {owner})"


def open_plain(path: os.PathLike[str] | str, flags: int) -> int:
    """Open a plain file: never through a link, which could lead to a file of somebody else.

    Parameters
    ----------
    path : path
    flags : int
        As `os.open` takes them; so this is an `opener` of `open`.

    Raises
    ------
    InputError
        If something else has the name.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    except OSError as error:
        if os.path.lexists(path):
            _check_plain(path, os.lstat(path), error)
        raise
    try:
        _check_plain(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_plain(
    path: os.PathLike[str] | str, found: os.stat_result, cause: OSError | None = None
) -> None:
    if stat.S_ISLNK(found.st_mode):
        what = f"a symbolic link to {Path(path).readlink()}"
    elif not stat.S_ISREG(found.st_mode):
        what = "no plain file"
    else:
        return
    raise InputError(
        f"{path} is {what}, and nothing is written there: it would go elsewhere.  Remove it, and "
        "run again."
    ) from cause
