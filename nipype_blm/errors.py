"""The one exception for input that a user can correct."""

from collections.abc import Iterable


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
