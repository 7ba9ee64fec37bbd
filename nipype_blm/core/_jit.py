"""Compile kernels with Numba, with a cache that survives read-only installs and damaged files."""

import contextlib
import functools
import os
import pickle
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")

# Reassociation and contraction let LLVM vectorise the sums; the flags that assume
# "no NaN" and "no infinity" stay off, because NaN marks missing data.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}


def inline(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` into the kernels that call it."""
    compiled: Callable[P, R] = numba.njit(inline="always", **OPTIONS)(function)
    return compiled


def _is_private_directory(folder: Path) -> bool:
    """Make `folder`; say whether only this user can write there (the cache is unpickled)."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not others_write
        and os.access(folder, os.W_OK | os.X_OK)
    )


@functools.cache
def cache_directory() -> Path:
    """Return a writable folder for compiled kernels, one for each host and Numba version.

    It lies in the first that works of ``$NUMBA_CACHE_DIR``, ``$XDG_CACHE_HOME`` (or
    ``~/.cache``), the temporary directory, and a new temporary folder.
    """
    name = f"nipype_blm-numba{numba.__version__}-{platform.node() or 'host'}"
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    parents = [os.environ.get("NUMBA_CACHE_DIR"), home, tempfile.gettempdir()]
    for folder in (Path(parent) / f"{name}-{os.getuid()}" for parent in parents if parent):
        if _is_private_directory(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))


@contextlib.contextmanager
def _numba_cache() -> Iterator[None]:
    """Let Numba choose our cache folder for the functions decorated inside."""
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(cache_directory())
    try:
        yield
    finally:
        settings.CACHE_DIR = before


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` without the GIL, cached between runs.

    A truncated or corrupt cache file is deleted and the function compiled again.
    """

    def compile_() -> Callable[P, R]:
        with _numba_cache():
            compiled: Callable[P, R] = numba.njit(cache=True, **OPTIONS)(function)
        return compiled

    compiled = compile_()

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        try:
            return compiled(*args, **kwargs)
        except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError):
            # Kernels raise none of these themselves: the cache cannot be read.
            shutil.rmtree(cache_directory(), ignore_errors=True)
            cache_directory().mkdir(mode=0o700, parents=True, exist_ok=True)
            compiled = compile_()
            return compiled(*args, **kwargs)

    return call
