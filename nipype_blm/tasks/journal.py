"""What has been done: a file with one line of JSON for each task that has ended well."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

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
        line = json.dumps(entry._asdict()).encode() + b"\n"
        with open(self._path, "ab+", buffering=0, opener=open_plain) as file:
            if not _ends_line(file.fileno()):
                line = b"\n" + line  # else it would be torn with the one before
            file.write(line)
        self._entries[entry.output] = entry

    def _find_name(self, task: Task) -> str:
        # Folder and outputs may be moved together.
        return os.path.relpath(task.output, self._path.parent)


def _read_entries(path: Path) -> Iterator[_Entry]:
    """Return what the whole lines of a journal say."""
    try:
        with open(path, "rb", opener=open_plain) as file:
            lines = file.read().split(b"\n")[:-1]  # what no line break ends is torn
    except FileNotFoundError:
        return
    for line in lines:
        with suppress(ValueError, TypeError, RecursionError):
            entry = _Entry(**json.loads(line))
            if all(isinstance(x, t) for x, t in zip(entry, _TYPES, strict=True)):
                yield entry


_TYPES = tuple(_Entry.__annotations__.values())


def _ends_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
