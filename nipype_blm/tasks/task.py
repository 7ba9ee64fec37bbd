"""A task: a plain function that writes one file, and what is known when it has."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A function to be called with arguments, which writes the file `output`.

    It can be lost and called again, on this machine or another one: it has no other effect.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    output: Path
    stamp: str  # fingerprint of everything that the file is made from
    bytes: int = 0  # memory that it needs
    # Files that its machine must see first; None: all absolute paths among the arguments.
    inputs: tuple[str | Path, ...] | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"The task of {self.output}"


class Done(NamedTuple):
    """What is known of a task that has ended well."""

    size: int  # of its file, in bytes
    mtime_ns: int
    seconds: float
    host: str
    attempts: int = 1


class TaskError(RuntimeError):
    """A task has failed."""


class PoolError(RuntimeError):
    """There are no workers, and waiting for them makes no sense."""


def perform(task: Task) -> Done:
    """Call the function of a task, here.

    Raises
    ------
    TaskError
        If it ends well and has not written its file.
    """
    before, start = _identify(task.output), time.monotonic()
    task.function(*task.arguments)
    seconds = time.monotonic() - start
    # A file of an earlier run would be taken for that of this one.
    if _identify(task.output) == before:
        raise TaskError(f"{task.name} has ended, but has not written it.")
    return Done(*find_state(task.output), seconds, os.uname().nodename)


def find_state(path: Path) -> tuple[int, int]:
    """Return size and time of modification of a file; (-1, -1) if it is not there."""
    found = _identify(path)
    return (-1, -1) if found is None else (found[0], found[1])


def _identify(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from one that was written since."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns
