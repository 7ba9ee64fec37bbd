"""Read and write any file: those that users give, whole buffers, and files made at one stroke."""

import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from nipype_blm.errors import InputError

_NO_FILES = {
    stat.S_IFIFO: "a named pipe, such as bash makes for <(...)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ANNEX = "`datalad get {0}`, or `git annex get {0}` in its repository"
_LFS = "`git lfs pull` in its repository"
# What stands in a file whose content has not been fetched: in one that git-annex has unlocked, in
# its link where links are files with the path in them, and in one of Git LFS.
_POINTERS = (
    (re.compile(rb"/annex/objects/|(\.\./)*\.git/\S*annex/objects/\S+\s*$"), _ANNEX),
    (re.compile(rb"version https://(git-lfs\.github|hawser\.github)\.com/spec/"), _LFS),
)


class FileState(NamedTuple):
    """What changes when a file does."""

    size: int  # bytes
    mtime_ns: int
    # Renaming, or setting back the time of modification, leaves traces here.  Hosts that share a
    # network disk may see other numbers, so that only one and the same host may compare them.
    identity: str


def read_state(path: Path) -> FileState:
    """Return what changes when a file does."""
    found = path.stat()
    return FileState(found.st_size, found.st_mtime_ns, f"{found.st_ino}/{found.st_ctime_ns}")


def describe_state(path: Path) -> str:
    """Return size and time of a file, for who compares them later; nothing if there is none."""
    try:
        found = read_state(path)
    except FileNotFoundError:
        return ""
    return f"{found.size} {found.mtime_ns}"


@contextmanager
def open_input(path: Path) -> Iterator[BufferedReader]:
    """Open a file that a user names; it must be one with a content that can be read again.

    Every process of a run reads its files anew, which a pipe does not allow.

    Raises
    ------
    InputError
        If it is a pipe, a device or a socket, or if its content has still to be fetched.
    OSError
        If it does not exist, or cannot be read.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError as error:
        advice = explain_absence(path)
        if advice is None:
            raise
        raise InputError(f"{path} {advice}.") from error
    if kind in _NO_FILES:
        raise InputError(
            f"{path} is {_NO_FILES[kind]}, which a run cannot read again; give a regular file."
        )
    with path.open("rb") as file:
        start = file.peek()
        for pattern, command in _POINTERS:
            if pattern.match(start):
                raise InputError(f"{path} {_advise_to_fetch(path, command)}.")
        yield file


def explain_absence(path: Path) -> str | None:
    """Return why a path leads to no file, if there is more to say than that."""
    target = os.path.realpath(path)
    if "/annex/objects/" in target:
        return _advise_to_fetch(path, _ANNEX)
    for known in (path, *path.parents):  # DVC keeps whole folders, too
        if os.path.lexists(f"{known}.dvc"):  # never fails, as for names that are too long
            return _advise_to_fetch(known, "`dvc pull {0}.dvc` in its repository")
    if os.path.lexists(path.with_name(f".{path.name}.icloud")):
        return _advise_to_fetch(path, "`brctl download {0}`")
    if path.is_symlink():
        return f"is a link to {target}, which does not exist"
    return None


def _advise_to_fetch(path: Path, command: str) -> str:
    how = command.format(shlex.quote(str(path)))
    return f"is not here yet: its content is not present; fetch it with {how}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError that names no file, as those of writing, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file beside `path`, which replaces it if all goes well.

    Its name is nobody else's: no other thread, process or host has it, and none can have put a
    link there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with naming(path), part.open("xb") as file:
        try:
            yield file
            file.close()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def completing(path: Path, part: Path) -> Iterator[BinaryIO]:
    """Give a file that replaces `path` if all goes well, and else stays as `part`.

    If `part` is there, and no link, it is opened as it is, to be gone on with.
    """
    with naming(path):
        opened = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(opened, "r+b") as file:
            yield file
        part.replace(path)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file unless it has this content, so that its time tells of a change."""
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def read_into(file: Any, buffer: Any) -> int:
    """Read until a buffer, such as an array of bytes, is full or the file ends.

    Returns
    -------
    n_bytes : int
        The bytes read.
    """
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        n = file.readinto(view[done:])
        if not n:
            break
        done += n
    return done
