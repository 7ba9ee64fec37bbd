"""Files of the credentials with which the jobs of a pool reach it; they are gone with the pool."""

import copy
import os
import re
import shlex
import shutil
import stat
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from distributed import Security

from nipype_blm.errors import InputError
from nipype_blm.private import find_obstacle

_NAME = ".nipype_blm.keys"
_FIELDS = ("tls_ca_file", "tls_worker_cert", "tls_worker_key")


def make_key_folder(parent: Path) -> Path:
    """Make a folder that only this user can enter, and remove those that killed pools have left.

    Parameters
    ----------
    parent : Path
        Where the hosts of all jobs see it.

    Raises
    ------
    InputError
        If that cannot be done.
    """
    machine = _describe_machine()
    try:
        _remove_left_behind(parent, machine)
        return Path(tempfile.mkdtemp(prefix=f"{_NAME}-{machine}-{os.getpid()}-", dir=parent))
    except OSError as error:
        reason = find_obstacle(parent) or error.strerror
        raise InputError(f"The folder for the keys of jobs, {parent}, {reason}.") from error


def write_keys(security: Security, folder: Path) -> Security:
    """Write credentials that are text to files; return their paths as a shell takes them."""
    found = copy.copy(security)
    for field in _FIELDS:
        value = getattr(security, field)
        if value is None:
            continue
        if "\n" in value:
            path = folder / f"{field}.pem"
            with open(path, "w", opener=partial(os.open, mode=0o600)) as file:
                file.write(value)
            value = str(path)
        setattr(found, field, shlex.quote(value))
    return found


def _describe_machine() -> str:
    """Return where the number of a process has a meaning."""
    try:
        processes = Path("/proc/self/ns/pid").stat().st_ino  # a container may have its own
    except OSError:
        processes = 0
    return f"{os.uname().nodename}-{processes}"


def _remove_left_behind(parent: Path, machine: str) -> None:
    """Remove the keys of pools of this user whose process has certainly ended.

    Nobody here can tell whether those of other hosts have.
    """
    name = re.compile(rf"{re.escape(f'{_NAME}-{machine}')}-(\d{{1,10}})-\w+")
    for folder in parent.iterdir():
        match = name.fullmatch(folder.name)
        if match is None or psutil.pid_exists(int(match[1])):
            continue
        with suppress(OSError):  # another pool may be removing it, too
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)
