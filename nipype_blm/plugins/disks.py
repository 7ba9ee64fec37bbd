"""Disks that machines share: files that appear late, and errors that pass."""

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import MapNode
from traits.api import TraitError

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
            _list_names(folder)
        late = [path for path in late if not os.path.exists(path)]  # noqa: PTH110


def has_record(node: Any) -> bool:
    """Return whether this machine sees that a node has ended."""
    names = _list_names(node.output_dir())
    # The last file that Nipype writes is named after the inputs.
    is_hash = re.compile(r"_0x[0-9a-f]+\.json").fullmatch
    return f"result_{node.name}.pklz" in names and any(map(is_hash, names))


def has_all_files(node: Any) -> bool:
    """Return whether this machine sees what a node that has ended wrote."""
    if not has_record(node):
        return False
    try:
        _ = node.result  # whose files have to exist
    except (FileNotFoundError, TraitError):
        return False
    except Exception:  # what is wrong with it Nipype says, if it is read at all
        return True
    return True


def find_input_files(node: Any, connected: Iterable[str]) -> list[str]:
    """Return the files of earlier nodes that a node finds here.

    Parameters
    ----------
    node : Node
    connected : iterable of str
        Names of the inputs that come from other nodes.
    """
    with suppress(Exception):  # the node itself says what is wrong
        node._get_inputs()
    paths = set(_find_paths([getattr(node.inputs, name, None) for name in connected]))
    if isinstance(node, MapNode):  # it collects what its elements wrote
        paths |= {str(path) for path in Path(node.output_dir(), "mapflow").glob("*/*")}
    return sorted(path for path in paths if os.path.exists(path))  # noqa: PTH110


def _find_paths(value: Any) -> Iterator[str]:
    """Return all absolute paths in nested values."""
    if isinstance(value, str | Path):
        if os.path.isabs(value):  # noqa: PTH117
            yield str(value)
    elif isinstance(value, dict):
        yield from _find_paths(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_paths(item)


def _list_names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
