"""How messages of formulas list and suggest."""

import difflib
from collections.abc import Iterable, Sequence

from nipype_blm.errors import InputError, Problem, join_some, shorten

FIELD = "formula"
_LONGEST_NAME = 60  # characters, in a list or of what is searched


def refuse(template: str, field: str = FIELD, /, **values: object) -> InputError:
    """Return the error of one fault, see `Problem`."""
    return InputError([Problem(field, template, **values)])


def join_names(names: Iterable[str], most: int = 20) -> str:
    """Return names in one line; of a long list, the first ones and how many more there are."""
    return join_some((shorten(name, _LONGEST_NAME) for name in names), most) or "none"


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a question with the nearest of the known names, or nothing if none is near."""
    lower = {other.lower()[:_LONGEST_NAME]: other for other in reversed(known)}
    near = difflib.get_close_matches(name.lower()[:_LONGEST_NAME], list(lower), 1, cutoff=0.6)
    return f"; is it {shorten(lower[near[0]], _LONGEST_NAME)}?" if near else ""
