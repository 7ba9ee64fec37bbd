"""The one exception for input that a user can correct, and how such faults are collected."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


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
