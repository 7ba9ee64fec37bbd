"""Compile kernels with Numba, with a cache that survives read-only installs and damaged files."""

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core import event
from numba.core.caching import FunctionCache

P = ParamSpec("P")
R = TypeVar("R")

# Reassociation and contraction let LLVM vectorise the sums; the flags that assume
# "no NaN" and "no infinity" stay off, because NaN marks missing data.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
# Entries from Python, which take a third of the time to compile.
NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_UNUSED_S = 30 * 86400


def inline(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` into the kernels that call it."""
    compiled: Callable[P, R] = numba.njit(inline="always", **OPTIONS)(function)
    return compiled


def routine(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` once, to be called from kernels alone.

    It may not allocate: without reference counts, views of arrays cost nothing.
    """
    compiled: Callable[P, R] = numba.njit(**OPTIONS | NO_WRAPPERS | {"_nrt": False})(function)
    return compiled


def exact_routine(function: Callable[P, R]) -> Callable[P, R]:
    """Do as `routine`, with every operation rounded by itself, as NumPy does."""
    options = OPTIONS | NO_WRAPPERS | {"_nrt": False, "fastmath": False}
    compiled: Callable[P, R] = numba.njit(**options)(function)
    return compiled


def allocating_routine(function: Callable[P, R]) -> Callable[P, R]:
    """Do as `routine` for a function that makes arrays."""
    compiled: Callable[P, R] = numba.njit(**OPTIONS | NO_WRAPPERS)(function)
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


def _hash_sources() -> str:
    """Return a hash of all kernels; Numba itself only looks at the file of each."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _remove_unused(parent: Path) -> None:
    """Remove the caches of other kernels that this user has not used for a month.

    A process that still runs since then compiles anew what it misses.
    """
    ours = re.compile(rf"nipype_blm-[0-9a-f]{{16}}-numba.*-{os.getuid()}")
    for folder in parent.iterdir():
        if not ours.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):  # another process may be removing it, too
            status = folder.lstat()
            is_unused = time.time() - status.st_mtime > _UNUSED_S
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and is_unused:
                shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def cache_directory() -> Path:
    """Return a writable folder for compiled kernels.

    There is one for each host, version of Numba and state of the kernels.  It lies in the
    first that works of ``$NUMBA_CACHE_DIR``, ``$XDG_CACHE_HOME`` (or ``~/.cache``), the
    temporary directory, and a new temporary folder.  Where a new one is made, those that have
    not been used for a month are removed.
    """
    host = platform.node() or "host"
    name = f"nipype_blm-{_hash_sources()}-numba{numba.__version__}-{host}"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    parents = [os.environ.get("NUMBA_CACHE_DIR"), home, tempfile.gettempdir()]
    absolute = [Path(parent) for parent in parents if parent and Path(parent).is_absolute()]
    for folder in (parent / f"{name}-{os.getuid()}" for parent in absolute):
        is_new = not os.path.lexists(folder)
        if _is_private_directory(folder):
            with contextlib.suppress(OSError):
                os.utime(folder)  # tells when it was used
                if is_new:
                    _remove_unused(folder.parent)
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


class _Cache(FunctionCache):
    """The compiled versions of a function on disk, which only save time."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a compiled version; None, so that it is compiled, if there is none to be had."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except OSError:
            return None
        except MemoryError:
            raise
        except Exception:  # what is damaged can raise anything
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled version, where there is space for it."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` without the GIL, cached between runs.

    What is damaged in the cache is compiled again.
    """
    return _compile(function, OPTIONS)


def exact_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Do as `kernel`, with every operation rounded by itself, as NumPy does."""
    return _compile(function, OPTIONS | {"fastmath": False})


class _OnStart(event.Listener):
    """Calls a function when the first of several kernels begins to be compiled."""

    def __init__(self, tell: Callable[[], Any]) -> None:
        self._tell: Callable[[], Any] | None = tell

    def on_start(self, event: Any) -> None:
        """Note that Numba compiles something."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def on_end(self, event: Any) -> None:
        """Do nothing."""


@contextlib.contextmanager
def telling_of_compilation(tell: Callable[[], Any]) -> Iterator[None]:
    """Call a function once if kernels have to be compiled in the context.

    Those that are loaded from the cache do not count.
    """
    with event.install_listener("numba:compile", _OnStart(tell)):
        yield


def _compile(function: Callable[P, R], options: dict[str, Any]) -> Callable[P, R]:
    compiled: Any = numba.njit(**options)(function)
    with _numba_cache():
        compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]
    return compiled  # type: ignore[no-any-return]
