"""What a user gave is shown in messages, and never whole if it is long."""

import pandas as pd
import pytest

from nipype_blm.errors import shorten, show


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 10**6,
        lambda: b"x" * 10**6,
        lambda: 10**5000,
        lambda: [10**5000],
        lambda: [["x" * 1000] * 1000] * 1000,
        lambda: {f"{i}" * 100: [i] * 100 for i in range(1000)},
        lambda: {1, "a", None, *range(1000)},
        lambda: pd.DataFrame({"a": range(1000), "b": ["x" * 1000] * 1000}),
    ],
)
def test_no_value_is_shown_whole_if_it_is_long(make):
    """Text, bytes, numbers, containers in containers, objects of other libraries."""
    text = show(make())
    assert len(text) < 200
    assert len(text.splitlines()) == 1


def test_a_value_within_itself_is_shown():
    value = []
    value.append(value)
    assert len(show(value)) < 200


@pytest.mark.parametrize("value", ["a", "it's", 1, 1.5, None, True, [1, "a"], {"a": [1]}, (1,)])
def test_short_values_are_shown_as_python_writes_them(value):
    assert show(value) == repr(value)


def test_the_start_and_the_end_of_long_text_are_kept():
    text = shorten("start" + "x" * 1000 + "end")
    assert text.startswith("start")
    assert text.endswith("end")
    assert shorten("short") == "short"
