"""Tell whoever listens how far a stage is, in this process or from another one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int], None]
_listener: ContextVar[tuple[Listener | None, int]] = ContextVar("listener", default=(None, 0))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call listener(what, n) whenever n more images are read or voxels fitted."""
    token = _listener.set((listener, os.getpid()))
    try:
        yield
    finally:
        _listener.reset(token)


def find_listener() -> Listener | None:
    """Return who listens, so that another thread can tell it."""
    listener, pid = _listener.get()
    return listener if pid == os.getpid() else None  # a forked process talks to nobody


def advance(what: str, n: int) -> None:
    """Report `n` more ``images`` or ``voxels`` done."""
    listener = find_listener()
    if listener is not None:
        listener(what, n)
