"""Tell whoever listens how far a stage is, in this process or from another one."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

COMPILING = "compiling what"
# In the environment of commands that say what they do, and of the processes that they start.
ANNOUNCE = "NIPYPE_BLM_ANNOUNCE"
Listener = Callable[[str, int], None]
_listener: ContextVar[tuple[Listener | None, int]] = ContextVar("listener", default=(None, 0))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call listener(what, n) whenever n more images are read or voxels fitted.

    What begins with `COMPILING` is about to be compiled, for about n seconds.
    """
    token = _listener.set((listener, os.getpid()))
    try:
        yield
    finally:
        _listener.reset(token)


def find_listener() -> Listener | None:
    """Return who listens, so that another thread can tell it."""
    listener, pid = _listener.get()
    if listener is not None and pid == os.getpid():  # a forked process talks to nobody
        return listener
    return _print_compiling if ANNOUNCE in os.environ else None


def describe_compiling(what: str, n: int) -> str:
    """Return the line that says what is compiled, and for how long."""
    return f"{what}, once for this machine and version: about {n} s"


def _print_compiling(what: str, n: int) -> None:
    """Listen in a process of a command that does not hear of the rest."""
    if what.startswith(COMPILING):
        print(describe_compiling(what, n), file=sys.stderr, flush=True)


def advance(what: str, n: int) -> None:
    """Report `n` more ``images`` or ``voxels`` done."""
    listener = find_listener()
    if listener is not None:
        listener(what, n)
