"""The one exception for input that a user can correct, and how such faults are collected."""

import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_LONGEST_SHOWN = 160  # characters
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _LONGEST_SHOWN


def show(value: Any) -> str:
    """Return what a user gave as a message shows it: its start and end, if it is long."""
    try:
        return shorten(" ".join(_short.repr(value).split("\n")))
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def shorten(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """Return text, or its start and end if it is too long for a message."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


class InputError(ValueError):
    """Input that cannot be used; holds every problem found, one sentence each.

    Parameters
    ----------
    problems : str or iterable of str
        What came, what was expected and what to do, for each fault.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Problems(list[str]):
    """Every fault found so far."""

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Note an InputError and go on."""
        try:
            yield
        except InputError as error:
            self.extend(error.problems)

    def attempt(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """Return what a function returns; None after an InputError, which is noted."""
        try:
            return function(*arguments)
        except InputError as error:
            self.extend(error.problems)
            return None
