"""Disks that machines share: files that appear late, and errors that pass."""

import errno
import os
import re
import time
from collections.abc import Iterable, Sequence

_SECONDS_BETWEEN_LOOKS = 0.1
# Of a disk, its server or the way there; also what is left of a file that another machine has
# open, which keeps its folder from being removed.
_PASSING = (
    *("EIO", "ESTALE", "ENOSPC", "EDQUOT", "EBUSY", "ENOTEMPTY", "ENOLCK", "ENFILE", "EREMOTEIO"),
    *("ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
    *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN", "ESHUTDOWN", "ECOMM", "ENOLINK"),
)
_PASSING_NUMBERS = {str(getattr(errno, name)) for name in _PASSING if hasattr(errno, name)}


def blames_machine(traceback: Iterable[str]) -> bool:
    """Return whether an error in a traceback is one of a machine or its disks.

    It may be the cause of another one, or what was handled when that one came up.
    """
    numbers = re.findall(r"^[\t ]*[\w.]+: \[Errno (\d+)\]", "".join(traceback), re.MULTILINE)
    return not _PASSING_NUMBERS.isdisjoint(numbers)


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
