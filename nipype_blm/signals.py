"""Signals that end a run as Ctrl-C does."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 0.2
_interrupted = threading.Event()


def is_interrupted() -> bool:
    """Return whether a signal to end has come to what is `interruptible` now."""
    return _interrupted.is_set()


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at a signal to end; give the list of those that came.

    Nothing changes outside of the main thread, or where somebody handles SIGTERM already.

    Code of others may drop the exception: traits does with any that is raised while it copies
    an object.  So it is raised again until somebody handles it.
    """
    received: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield received
        return

    def interrupt(number: int, _: Any) -> None:
        if number == signal.SIGALRM:
            if _is_handled(sys.exc_info()[1]):
                return
        else:
            if signal.SIGALRM not in before:  # until then it is somebody else's
                before[signal.SIGALRM] = signal.signal(signal.SIGALRM, interrupt)
            received.append(number)
            _interrupted.set()
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        raise KeyboardInterrupt

    # One that is ignored stays so: SIGHUP below nohup, SIGINT in the background of a script.  One
    # that the caller handles does, too.
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [n for n in _ENDING if signal.getsignal(n) in defaults]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield received
    finally:
        _interrupted.clear()
        if received:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Let what is done in the context come to its end before a signal does what it is set to do.

    In the main thread only, which alone handles signals.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGALRM)}
        handlers = {number: handler for number, handler in found.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received[:1]:
            signal.raise_signal(number)


def _is_handled(error: BaseException | None) -> bool:
    """Return whether an interrupt is what all this is done for: what runs now is cleaning up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
