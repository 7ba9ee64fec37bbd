"""Arithmetic written as text is computed, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.model.arithmetic import parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2**32", 2.0**32),
        (" 2 ** 32 ", 2.0**32),
        (4294967296, 2.0**32),
        (0.1, 0.1),
        ("1/2", 0.5),
        ("-1/3", -1 / 3),
        ("+.5", 0.5),
        ("1e9", 1e9),
        ("4 * 2**30", 2.0**32),
        ("8 * (1 + 1) - 1", 15.0),
        ("2**-1", 0.5),
        ("-2**2", -4.0),
    ],
)
def test_numbers_and_arithmetic_are_computed(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a lot",
        "4 GB",
        "4GB",
        "2^32",
        "7 // 2",
        "7 % 2",
        "1, 2",
        "[1]",
        "True",
        "'5'",
        "1j",
        "len",
        "abs(-1)",
        "().__class__",
        "(lambda: 1)()",
        "1 if 1 else 2",
        "nan",
        "inf",
        "-inf",
        "inf - inf",
        "1/0",
        "0**-1",
        "(-8)**(1/3)",
        "9**9**9**9",
        "(1",
        "1\x00",
        pytest.param("-" * 100_000 + "1", id="many signs"),
        pytest.param("(" * 1000 + "1" + ")" * 1000, id="many parentheses"),
        pytest.param("1+" * 100_000 + "1", id="many terms"),
        pytest.param("9" * 5000, id="many digits"),
        pytest.param(10**400, id="a large integer"),
        float("nan"),
        float("inf"),
        True,
        None,
        [1],
        {},
        b"1",
    ],
)
def test_everything_else_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_number(text)


def test_code_is_never_run(tmp_path):
    victim = tmp_path / "victim"
    with pytest.raises(ValueError, match="not a number"):
        parse_number(f"__import__('pathlib').Path({str(victim)!r}).touch()")
    assert not victim.exists()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_is_read_back_from_its_text(value):
    assert parse_number(repr(value)) == value == parse_number(value)


@given(st.text(alphabet="0123456789.+-*/()e ", max_size=20))
def test_any_text_of_arithmetic_gives_a_finite_number_or_a_value_error(text):
    try:
        value = parse_number(text)
    except ValueError:
        return
    assert isinstance(value, float)
    assert abs(value) < float("inf")
