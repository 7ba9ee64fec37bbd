"""Read and write any file: whole buffers, and files that appear only when complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file beside `path`, which replaces it if all goes well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
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
    with replacing(path) as part:
        part.write_bytes(content)


def read_into(file: Any, buffer: NDArray[np.uint8]) -> int:
    """Read until a buffer is full or the file ends; return the bytes read."""
    view = buffer.data
    done = 0
    while done < len(view):
        n = file.readinto(view[done:])
        if not n:
            break
        done += n
    return done
