"""Read and write any file: whole buffers, and files that appear only when complete."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple


class FileState(NamedTuple):
    """What changes when a file does."""

    size: int  # bytes
    mtime_ns: int
    # Renaming, or setting back the time of modification, leaves traces here.  Hosts that share a
    # network disk may see other numbers, so that only one and the same host may compare them.
    identity: str


def read_state(path: Path) -> FileState:
    """Return what changes when a file does."""
    found = path.stat()
    return FileState(found.st_size, found.st_mtime_ns, f"{found.st_ino}/{found.st_ctime_ns}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError that names no file, as those of writing, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file beside `path`, which replaces it if all goes well.

    Its name is nobody else's: no other thread, process or host has it, and none can have put a
    link there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with naming(path), part.open("xb") as file:
        try:
            yield file
            file.close()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file unless it has this content, so that its time tells of a change."""
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def read_into(file: Any, buffer: Any) -> int:
    """Read until a buffer, such as an array of bytes, is full or the file ends.

    Returns
    -------
    n_bytes : int
        The bytes read.
    """
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        n = file.readinto(view[done:])
        if not n:
            break
        done += n
    return done
