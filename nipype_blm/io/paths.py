"""Read a path as a user gives it."""

import os
import re
from pathlib import Path

from nipype_blm.errors import show

_LONGEST_PATH, _LONGEST_PART = 4000, 255  # bytes
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})(?=/|$)")
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_WINDOWS = re.compile(r"[a-zA-Z]:[\\/]|\\\\")


def resolve_path(text: str | Path, base: Path) -> Path:
    """Return an absolute path; a relative one starts from the folder `base`.

    ``~`` and a variable of the environment, such as ``$HOME``, may stand at its start.

    Raises
    ------
    ValueError
        If it cannot be a path on this machine.
    """
    given = str(text)
    if fault := _find_fault(given):
        raise ValueError(f"{show(given)} {fault}")
    found = _VARIABLE.match(given)
    if found:
        name = found[1].strip("{}")
        if name not in os.environ:
            raise ValueError(f"{show(given)} starts with a variable that is not set, {name}")
        given = os.environ[name] + given[found.end() :]
    try:
        return Path(base, Path(given).expanduser()).absolute()
    except RuntimeError as error:  # of ~name
        raise ValueError(f"{show(given)}: {error}") from error


def _find_fault(text: str) -> str | None:
    """Return why text is no path; a name on disk may hold any other character."""
    if "\0" in text:
        return "has a null byte; remove it"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "is not in UTF-8; rename the file"
    if len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_PART:
        return "is too long for a path"
    if url := _URL.match(text):
        return f"is a {url[1]} URL; give the path of a file on this machine"
    if _WINDOWS.match(text):
        return "is a path of Windows; write it as this machine does, such as /mnt/c/data"
    return None
