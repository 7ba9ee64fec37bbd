"""The file by which runs find a pool that is there already."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, Security

from nipype_blm.errors import InputError
from nipype_blm.plugins.modules import describe_process

_SECONDS_TO_CONNECT = 30
# Of `distributed.Security`; credentials are held as text.
_TLS_FIELDS = ("tls_ca_file", "tls_client_cert", "tls_client_key")


def read_pool_file(path: Path) -> dict[str, Any]:
    """Return what the file of a pool says.

    Raises
    ------
    InputError
        If there is no such file, or it is another one.
    """
    advice = "`nipype-blm cluster start` writes the file of a pool."
    try:
        found = json.loads(path.expanduser().read_text())
        return {**found, "address": str(found["address"])}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; {advice}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not name a pool; {advice}") from error


def write_pool_file(
    path: Path, content: Mapping[str, Any], security: Security | None = None
) -> None:
    """Write the file of a pool; only its owner can read it, as it holds a key.

    Raises
    ------
    FileExistsError
        If another pool has a file there.
    """
    tls = {field: getattr(security, field) for field in _TLS_FIELDS} if security else {}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({**content, **describe_process(), "tls": tls}, file, indent=1)
    try:
        path.hardlink_to(part)  # complete, or not at all
    except FileExistsError:
        raise
    except OSError:  # not on all file systems
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_pool_file(path: Path) -> None:
    """Remove the file of the pool of this process; that of another one stays."""
    with suppress(InputError):
        found = read_pool_file(path)
        if describe_process().items() <= found.items():
            path.unlink(missing_ok=True)


def connect(path: Path) -> tuple[Client, dict[str, Any]]:
    """Return a client of the pool that a file names, and what the file says.

    Raises
    ------
    InputError
        If the pool does not answer.
    """
    found = read_pool_file(path)
    if found.get("host") == os.uname().nodename and not psutil.pid_exists(found.get("pid", -1)):
        raise InputError(
            f"The pool of {path} is gone: its process {found['pid']} has ended.  Remove the file, "
            "and start it again with `nipype-blm cluster start`."
        )
    tls = found.get("tls")
    security = Security(require_encryption=True, **tls) if tls else None
    try:
        client = Client(
            found["address"],
            security=security,
            timeout=_SECONDS_TO_CONNECT,
            set_as_default=False,
        )
    except OSError as error:
        raise InputError(
            f"The pool of {path} does not answer at {found['address']} ({error}); start it again "
            "with `nipype-blm cluster start`."
        ) from error
    return client, found
