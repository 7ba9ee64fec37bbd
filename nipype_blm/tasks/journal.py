"""What has been done: a file with one line of JSON for each task that has ended well."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.private import open_plain
from nipype_blm.tasks.task import Done, Task, find_state


class _Entry(NamedTuple):
    """One line."""

    output: str  # path from the folder of the journal
    stamp: str
    size: int
    mtime_ns: int
    seconds: float
    attempts: int
    host: str


class Journal:
    """Knows which tasks are done, in this run or an earlier one.

    One run at a time writes it.  A line is appended at one stroke.  One that is torn, as by a kill
    or a loss of power, counts as if it were not there.

    Parameters
    ----------
    path : Path
        In a folder that exists; the file need not.

    Raises
    ------
    InputError
        If something else than a file has its name, such as a link.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The last line of an output counts.
        self._entries = {entry.output: entry for entry in _read_entries(path)}

    def is_done(self, task: Task) -> bool:
        """Return whether the file of a task is there as the task left it, made from the same."""
        entry = self._entries.get(self._find_name(task))
        if entry is None or entry.stamp != task.stamp:
            return False
        return find_state(task.output) == (entry.size, entry.mtime_ns)

    def add(self, task: Task, done: Done) -> None:
        """Note that a task has ended well."""
        entry = _Entry(output=self._find_name(task), stamp=task.stamp, **done._asdict())
        with LineWriter(self._path) as lines:
            lines.write(entry._asdict())
        self._entries[entry.output] = entry

    def _find_name(self, task: Task) -> str:
        # Folder and outputs may be moved together.
        return os.path.relpath(task.output, self._path.parent)


def _read_entries(path: Path) -> Iterator[_Entry]:
    """Return what the whole lines of a journal say."""
    for data in read_lines(path):
        with suppress(TypeError):
            entry = _Entry(**data)
            if all(isinstance(x, t) for x, t in zip(entry, _TYPES, strict=True)):
                yield entry


_TYPES = tuple(_Entry.__annotations__.values())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Return what the lines of a file of JSON lines hold; nothing if it is not there.

    A line that is torn is left out.
    """
    try:
        with open(path, "rb", opener=open_plain) as file:
            lines = file.read().split(b"\n")[:-1]  # what no line break ends is torn
    except FileNotFoundError:
        return
    for line in lines:
        with suppress(ValueError, RecursionError):
            data = json.loads(line)
            if isinstance(data, dict):
                yield data


class LineWriter:
    """Appends to a file of JSON lines, each at one stroke; a context that closes the file.

    Parameters
    ----------
    path : Path
        In a folder that exists; the file need not.

    Raises
    ------
    InputError
        If something else than a file has its name, such as a link.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab+", buffering=0, opener=open_plain)  # noqa: SIM115
        self._path = path
        self._is_torn = not _ends_line(self._file.fileno())

    def __enter__(self) -> "LineWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, *lines: dict[str, Any]) -> None:
        """Append lines."""
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        # Else the first one would be torn with the one before.
        data = b"\n" + data if self._is_torn else data
        try:
            self._is_torn = self._file.write(data) != len(data)
        except OSError as error:
            error.filename = str(self._path)
            raise
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    @property
    def is_there(self) -> bool:
        """Whether the file still has its name."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False


def _ends_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
