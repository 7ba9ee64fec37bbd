"""Tell whoever listens how far a stage is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call listener(what, n) whenever n more images are read or voxels fitted."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def advance(what: str, n: int) -> None:
    """Report `n` more ``images`` or ``voxels`` done."""
    listener = _listener.get()
    if listener is not None:
        listener(what, n)
