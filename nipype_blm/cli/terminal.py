"""Standard output and error: whoever reads them, or does not, a run goes on."""

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# What a terminal obeys or hides instead of showing it: control characters but line feeds and
# tabs, what turns the direction of text, and halves of characters, which stand for bytes of
# names that are no text.
_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"


# A pipe that is read slowly, and a disk that is full for a while.
_PASSING = {errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}


def escape(text: str, also: str = "") -> str:
    r"""Return text whose control characters are written as in Python, such as ``\x1b``.

    Examples
    --------
    >>> print(escape("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return re.sub(
        f"[{_CONTROL}{also}]", lambda found: found[0].encode("unicode_escape").decode(), text
    )


def escape_name(name: str) -> str:
    """Return a name that stays on its line."""
    return escape(name, "\n\t")


@contextmanager
def steady_streams() -> Iterator[None]:
    """Have standard output and error show any text, and raise nothing, while the context lasts.

    They may be closed, on a full disk, or read by a program that has ended.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would be taken for a standard stream.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Steady, before)
    try:
        yield
    finally:
        sys.stdout.end()
        sys.stderr.end()
        sys.stdout, sys.stderr = before


class _Steady:
    """Writes text, escaped, to a stream for as long as somebody takes it."""

    def __init__(self, stream: Any) -> None:
        self.unescaped = Unfailing(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)

    def write(self, text: str) -> int:
        self.unescaped.write(escape(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


class Unfailing:
    """Writes to a stream for as long as somebody takes it.

    Parameters
    ----------
    stream : text stream or None
        None, as Python has it, where it is closed.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: PTH123, SIM115
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with self._giving_up():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, or drop it."""
        with self._giving_up():
            self._stream.flush()

    def end(self) -> None:
        """Hand on what was written; what nobody takes now is dropped for good."""
        with self._giving_up(is_end=True):
            self._stream.flush()

    @contextmanager
    def _giving_up(self, is_end: bool = False) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: of a stream that was closed
            if not is_end and getattr(error, "errno", None) in _PASSING:
                return
            # What is left in buffers goes nowhere, too, and Python ends without an error.
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
