"""The file by which runs find a pool that is there already."""

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
from distributed import Client, Security
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nipype_blm.errors import InputError
from nipype_blm.private import list_writers
from nipype_blm.tasks.modules import describe_process
from nipype_blm.tasks.options import Resources

_SECONDS_TO_CONNECT = 30
_MOST_BYTES = 2**20
_TLS = "tls://"
_ADVICE = "`nipype-blm pool start` writes the file of a pool."


class Credentials(BaseModel):
    """Of `distributed.Security`: text, or files."""

    model_config = ConfigDict(strict=True, extra="forbid")

    tls_ca_file: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None


class _Worker(BaseModel):
    model_config = ConfigDict(strict=True)

    n_procs: Annotated[int, Field(ge=1)]
    mem_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PoolFile(BaseModel):
    """What the file of a pool says; that of a scheduler of Dask's own has the address only."""

    model_config = ConfigDict(strict=True)

    address: str = Field(pattern=r"^(tls|tcp)://[^\s/]+:\d{1,5}$", description="tls://HOST:PORT")
    host: str | None = Field(None, description="the name of a machine")
    pid: int | None = Field(None, ge=1, lt=2**31, description="the number of a process")
    started: str | float | None = Field(None, description="a time")
    worker: _Worker | None = Field(None, description="a mapping with n_procs and mem_gb")
    tls: Credentials = Field(Credentials(), description="a mapping with credentials as text")

    @property
    def resources(self) -> Resources | None:
        """What each worker has, if the pool says so."""
        return None if self.worker is None else Resources(**self.worker.model_dump())

    @property
    def security(self) -> Security | None:
        """How the pool is reached; without credentials as Dask is configured."""
        given = self.tls.model_dump(exclude_none=True)
        if not given and not self.address.startswith(_TLS):
            return None
        return Security(require_encryption=True, **given)


def read_pool_file(path: Path, allow_insecure: bool = False) -> PoolFile:
    """Return what the file of a pool says.

    Parameters
    ----------
    allow_insecure : bool
        Also if somebody else could have written it, or could stand in for the pool.

    Raises
    ------
    InputError
        If there is no such file, it is another one, or it is not to be trusted.
    """
    path = path.expanduser().absolute()
    try:
        # Not waiting for the other end of a named pipe.
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
                raise InputError(f"{path} does not name a pool; {_ADVICE}")
            content = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; {_ADVICE}") from error
    reasons = [] if allow_insecure else list(_list_writers(path, found))
    if not reasons:
        pool = _parse(path, content)
        if allow_insecure or pool.address.startswith(_TLS):
            return pool
        reasons = [f"its pool at {pool.address} is reached without TLS, so that anybody can be it"]
    raise InputError(
        f"{path} is not to be trusted: {'; '.join(reasons)}.  Who answers as a pool can run any "
        "program as you.  Start one with `nipype-blm pool start`; or, if you trust everyone "
        "who can reach it, allow it (--allow-insecure, or allow_insecure: true as an argument of "
        "the plugin)."
    )


def _list_writers(path: Path, found: os.stat_result) -> Iterator[str]:
    """Return who else could have written a file."""
    yield from list_writers(found)
    for folder in {*path.parents, *path.resolve().parents}:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield f"everybody can replace what is in {folder}"


def _parse(path: Path, content: bytes) -> PoolFile:
    try:
        return PoolFile.model_validate(json.loads(content))
    except ValidationError as error:
        place = error.errors(include_input=False)[0]["loc"]
        expected = PoolFile.model_fields[str(place[0])].description if place else None
        reason = f"expected {expected} as {place[0]}" if expected else "it is no mapping"
    except (ValueError, RecursionError):
        reason = "it is no JSON"
    raise InputError(f"{path} does not name a pool ({reason}); {_ADVICE}")


def write_pool_file(
    path: Path, content: Mapping[str, Any], security: Security | None = None
) -> None:
    """Write the file of a pool; only its owner can read it, as it holds a key.

    Raises
    ------
    FileExistsError
        If another pool has a file there.
    """
    fields = Credentials.model_fields
    tls = {field: getattr(security, field) for field in fields} if security else {}
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({**content, **describe_process(), "tls": tls}, file, indent=1)
    try:
        path.hardlink_to(part)  # complete, or not at all
    except FileExistsError:
        raise
    except OSError:  # not on all file systems
        path.touch(exist_ok=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_pool_file(path: Path) -> None:
    """Remove the file of the pool of this process; that of another one stays."""
    with suppress(InputError):
        found = read_pool_file(path, allow_insecure=True)
        if describe_process() == {"host": found.host, "pid": found.pid}:
            path.unlink(missing_ok=True)


def connect(path: Path, allow_insecure: bool = False) -> tuple[Client, PoolFile]:
    """Return a client of the pool that a file names, and what the file says.

    Parameters
    ----------
    allow_insecure : bool
        See `read_pool_file`.

    Raises
    ------
    InputError
        If the pool does not answer, or is not to be trusted.
    """
    found = read_pool_file(path, allow_insecure)
    if found.host == os.uname().nodename and found.pid and not psutil.pid_exists(found.pid):
        raise InputError(
            f"The pool of {path} is gone: its process {found.pid} has ended.  Remove the file, "
            "and start it again with `nipype-blm pool start`."
        )
    try:
        client = Client(
            found.address,
            security=found.security,
            timeout=_SECONDS_TO_CONNECT,
            set_as_default=False,
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # Not only without an answer: credentials are damaged, or Dask's configuration forbids it.
        raise InputError(
            f"The pool of {path} does not answer at {found.address} ({error}); start it again "
            "with `nipype-blm pool start`."
        ) from error
    return client, found
