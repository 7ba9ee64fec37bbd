"""One run at a time in a folder: locks that end with the process that holds them."""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from nipype_blm.errors import InputError
from nipype_blm.io.files import replacing
from nipype_blm.private import open_plain

RUN_LOCK = ".nipype_blm.lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_CANNOT_WRITE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG),
}
_POLL_S = 0.1
_SILENT_S = 1.0  # a wait that is not worth a word: a process that was killed takes time to end
_SETTLE_S = 0.5  # longer than any process takes from reading a lock file to replacing it

_logger = logging.getLogger(__name__)
_descriptors: set[int] = set()  # of the locks of this process


def _drop_descriptors() -> None:
    """Close the locks that a forked child has from its parent, which it could outlive."""
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_drop_descriptors)


class Holder(NamedTuple):
    """The process that holds a lock, as its file says."""

    pid: int
    host: str
    started: str  # when it took the lock
    ticks: int  # when the process started, which tells it from a later one of the same number

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started}"


class LockedError(Exception):
    """A lock that another process holds."""

    def __init__(self, path: Path, holder: Holder | None, is_kernel_lock: bool) -> None:
        self.holder = "an unknown process" if holder is None else str(holder)
        # Where only the file tells, it stays behind when its process is killed.
        self.advice = (
            ""
            if is_kernel_lock
            else f" If that process has certainly ended, remove {path}: this file system has no "
            "locks that end with their process."
        )
        super().__init__(f"{path} is held by {self.holder}.{self.advice}")


@contextmanager
def hold_folders(folders: Mapping[str, Path], private: Collection[str] = ()) -> Iterator[None]:
    """Keep other runs out of some folders while the context lasts.

    Folders are made; those that are empty at the end are removed again, unless they were there
    and empty before.  A folder that cannot be made or written is passed over: whoever writes to
    it will say why.

    Parameters
    ----------
    folders : mapping of str to Path
        The name by which the user knows each folder, and the folder.
    private : collection of str
        The names of those that nobody else can enter, if they are made here.

    Raises
    ------
    InputError
        If another run holds one of them, or nobody can tell.
    """
    seen = set()
    with ExitStack() as stack:
        for field, folder in folders.items():
            if os.path.realpath(folder) in seen:
                continue
            seen.add(os.path.realpath(folder))
            mode = 0o700 if field in private else 0o777
            try:
                removable = _list_removable(folder)
                folder.mkdir(mode, parents=True, exist_ok=True)
                stack.callback(_remove_empty, removable)
                stack.enter_context(locked(folder / RUN_LOCK, _SILENT_S))
            except LockedError as error:
                raise InputError(
                    f"{field} {folder} is in use by another run: {error.holder}. Wait until it "
                    f"has ended, or end it, or choose another {field}.{error.advice}"
                ) from error
            except OSError as error:
                if error.errno not in _CANNOT_WRITE:
                    raise
                _check_left_behind(folder / RUN_LOCK, error)
        yield


def _check_left_behind(path: Path, error: OSError) -> None:
    """Raise InputError if a lock file of somebody else is there and cannot be opened."""
    if not os.path.lexists(path):
        return
    raise InputError(
        f"{path} cannot be opened ({error.strerror}), so that nobody can tell whether another run "
        "uses this folder; remove that file if none does."
    ) from error


def _list_removable(folder: Path) -> list[Path]:
    """Return the folders, innermost first, that may be removed if they are empty later."""
    if folder.is_dir():
        return [folder] if any(folder.iterdir()) else []
    return list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # one that is not empty stays, as do those around it
        for folder in folders:
            folder.rmdir()


@contextmanager
def locked(path: Path, patience_s: float = 0) -> Iterator[None]:
    """Hold a lock while the context lasts.

    The kernel, or the server of a shared file system, frees it when the process ends, however
    it ends.  Where there are no such locks, the content of the file is the lock: that of a
    process of this host that is not alive any more is taken over.

    Parameters
    ----------
    path : Path
        Lock file, in a folder that exists; it is removed at the end.
    patience_s : float
        How long to wait for another process.

    Raises
    ------
    LockedError
        If another process, or another thread of this one, still holds it.
    InputError
        If something else than a file has its name, such as a link.
    """
    me = Holder(os.getpid(), socket.gethostname(), _now(), _find_start(os.getpid()) or 0)
    descriptor = _wait_for(path, me, patience_s)
    try:
        yield
    finally:
        # A forked child that gets here has nothing to give back.
        if os.getpid() == me.pid:
            _release(path, me, descriptor)


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _wait_for(path: Path, me: Holder, patience_s: float) -> int | None:
    """Take a lock as soon as it is free; return what `_take` does."""
    start = time.monotonic()
    said = False
    while True:
        try:
            return _take(path, me)
        except LockedError as error:
            waited_s = time.monotonic() - start
            if waited_s >= patience_s:
                raise
            if waited_s > _SILENT_S and not said:
                _logger.warning("Waiting for %s, which holds %s.", error.holder, path)
                said = True
        time.sleep(_POLL_S)


def _take(path: Path, me: Holder) -> int | None:
    """Take a lock; return the open file, or None where only its content is the lock."""
    while True:
        descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
        _descriptors.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before removes the file; a lock on what was removed keeps nobody out.
            if _is_at(path, descriptor):
                _describe(descriptor, me)
                return descriptor
        except BlockingIOError as error:
            _close(descriptor)
            raise LockedError(path, _find_holder(path), True) from error
        except OSError as error:
            _close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            _take_by_content(path, me)
            return None
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)


def _take_by_content(path: Path, me: Holder) -> None:
    holder = _read_holder(path)
    if holder is not None and _is_alive(holder):
        raise LockedError(path, holder, False)
    with replacing(path) as file:
        file.write(json.dumps(me._asdict()).encode())
    time.sleep(_SETTLE_S)  # of several that do this at once, the last one has it
    holder = _read_holder(path)
    if holder != me:
        raise LockedError(path, holder, False)


def _release(path: Path, me: Holder, descriptor: int | None) -> None:
    is_ours = _read_holder(path) == me if descriptor is None else _is_at(path, descriptor)
    if is_ours:
        with suppress(OSError):  # a file that stays behind is not a lock
            path.unlink()
    if descriptor is not None:
        _close(descriptor)


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is the one that has a name.

    The name is opened, because a server may answer a mere stat from the past.
    """
    try:
        other = open_plain(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return os.path.sameopenfile(descriptor, other)
    finally:
        os.close(other)


def _describe(descriptor: int, me: Holder) -> None:
    """Write who holds a lock, for others to read."""
    with suppress(OSError):  # on a full disk there is a lock without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me._asdict()).encode(), 0)
        os.fsync(descriptor)  # other hosts see it while the file is open


def _find_holder(path: Path) -> Holder | None:
    """Return who holds a lock; who has just taken it may not have written its name yet."""
    end = time.monotonic() + 1
    while True:
        holder = _read_holder(path)
        if holder is not None and _is_alive(holder):
            return holder
        if time.monotonic() >= end:
            return None
        time.sleep(_POLL_S)


def _read_holder(path: Path) -> Holder | None:
    """Return what a lock file says; None if it is not there, or not whole."""
    try:
        data = json.loads(path.read_text())
        return Holder(int(data["pid"]), str(data["host"]), str(data["started"]), int(data["ticks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(holder: Holder) -> bool:
    """Return whether a process may still run; that of another host always may."""
    if holder.host != socket.gethostname():
        return True
    start = _find_start(holder.pid)
    return start is not None and (0 in (start, holder.ticks) or start == holder.ticks)


def _find_start(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None if it has ended, 0 if unknown."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # that of another user
    try:
        # After the name of the command: state, ..., start time as the 20th (man 5 proc).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return None if fields[0] in "ZX" else int(fields[19])  # ended, but its parent has not asked
