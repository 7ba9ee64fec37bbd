"""What is wrong with a value, and what is like a name that is not known."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from nipype_blm.errors import show

_LONGEST_NAME = 40  # longer than any field
_NUMBER_TYPES = ("int_type", "int_parsing", "int_parsing_size", "int_from_float", "finite_number")
_EXPECTED: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(_NUMBER_TYPES, lambda _: "a whole number"),
    "greater_than_equal": lambda limits: f"at least {limits['ge']}",
    "less_than_equal": lambda limits: f"at most {limits['le']}",
    "bool_type": lambda _: "true or false",
    "bool_parsing": lambda _: "true or false",
    "string_too_short": lambda _: "some text",
}


def describe_fault(fault: Any) -> str:
    """Return what was given, and what was expected, of one of pydantic's errors."""
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"]).rstrip(".")
    expected = _EXPECTED.get(fault["type"])
    if expected is None:
        return f"{show(fault['input'])} was given: {fault['msg'].lower()}".rstrip(".")
    return f"{show(fault['input'])} was given; expected {expected(fault.get('ctx'))}"


def find_nearest(name: str, known: Mapping[str, str]) -> str:
    """Return what is known, in lower case, by the name that is most like another."""
    [nearest] = difflib.get_close_matches(name.lower()[:_LONGEST_NAME], known, n=1, cutoff=0)
    return known[nearest]
