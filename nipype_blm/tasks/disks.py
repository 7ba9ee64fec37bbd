"""Disks that machines share: files that appear late, and errors that pass."""

import errno
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Until files of other machines are missed; network disks may show them as late as this.
PATIENCE_S = 60.0
_SECONDS_BETWEEN_LOOKS = 0.1
# Until what failed for its machine is tried again; twice as long the second time.
_SECONDS_TO_RECOVER = 5.0
# Of a disk, its server or the way there; also what is left of a file that another machine has
# open, which keeps its folder from being removed.
_PASSING = (
    *("EIO", "ESTALE", "ENOSPC", "EDQUOT", "EBUSY", "ENOTEMPTY", "ENOLCK", "ENFILE", "EREMOTEIO"),
    *("ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
    *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN", "ESHUTDOWN", "ECOMM", "ENOLINK"),
)
_PASSING_NUMBERS = {str(getattr(errno, name)) for name in _PASSING if hasattr(errno, name)}

logger = logging.getLogger(__name__)


def blames_machine(traceback: Iterable[str]) -> bool:
    """Return whether an error in a traceback is one of a machine or its disks.

    It may be the cause of another one, or what was handled when that one came up.
    """
    numbers = re.findall(r"^[\t ]*[\w.]+: \[Errno (\d+)\]", "".join(traceback), re.MULTILINE)
    return not _PASSING_NUMBERS.isdisjoint(numbers)


def plan_repeat(name: str, traceback: Sequence[str], n_before: int, most: int) -> float | None:
    """Return after how many seconds a failure is tried again, and say so; None if it is not.

    Parameters
    ----------
    name : str
        What failed.
    traceback : sequence of str
    n_before : int
        How often it was tried again already.
    most : int
        How often that may be.
    """
    if n_before >= most or not blames_machine(traceback):
        return None
    pause_s = _SECONDS_TO_RECOVER * (n_before + 1)
    reason = traceback[-1].strip().splitlines()[-1].strip()
    text = "%s failed for its machine, and is tried again in %g s: %s"
    logger.warning(text, name, pause_s, reason)
    return pause_s


def await_files(paths: Sequence[str], seconds: float) -> None:
    """Wait until this machine sees files that another one does.

    A machine may remember for a while that a file was not there.  It asks anew when the folder is
    listed.
    """
    end = time.monotonic() + seconds
    late = [path for path in paths if not os.path.exists(path)]  # noqa: PTH110
    while late and time.monotonic() < end:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        for folder in {os.path.dirname(path) for path in late}:  # noqa: PTH120
            list_names(folder)
        late = [path for path in late if not os.path.exists(path)]  # noqa: PTH110


def list_names(folder: str) -> list[str]:
    """Return what a folder has, as its disk says now; nothing if it is not there."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def find_paths(value: Any) -> Iterator[str]:
    """Return all absolute paths in nested values."""
    if isinstance(value, str | Path):
        if os.path.isabs(value):  # noqa: PTH117
            yield str(value)
    elif isinstance(value, dict):
        yield from find_paths(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from find_paths(item)
