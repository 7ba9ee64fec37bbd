"""Columns become numbers or levels; what may be either is said, and what is neither is refused."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.frontends.columns import natural_key, type_columns


def frame_of(name="x", cells=(), **attrs):
    frame = pd.DataFrame({name: list(cells)}, index=range(2, 2 + len(cells)), dtype=object)
    frame.attrs = {"source": "table.tsv", **attrs}
    return frame


def type_one(cells, kind=None, name="x", **attrs):
    kinds = {} if kind is None else {name: kind}
    typed, notices = type_columns(frame_of(name, cells, **attrs), [name], kinds)
    return typed[name], notices


def error_of(*arguments, **options):
    with pytest.raises(InputError) as error:
        type_one(*arguments, **options)
    [problem] = error.value.problems
    return problem


@pytest.mark.parametrize(
    ("cells", "levels"),
    [
        (["b10", "b2", "B1"], ["B1", "b2", "b10"]),
        (["site 2", "site 10", "n/a"], ["site 2", "site 10"]),
        (["010", "002"], ["002", "010"]),
        (["9007199254740993", "9007199254740992"], ["9007199254740992", "9007199254740993"]),
        (["TRUE", "FALSE", ""], ["FALSE", "TRUE"]),
        (["+", "-", "n/a"], ["+", "-"]),
        (["3T", "1.5T", "3T"], ["1.5T", "3T"]),
        (["20-30", "31-40", "20-30"], ["20-30", "31-40"]),
    ],
)
def test_labels_become_levels_in_natural_order(cells, levels):
    column, _ = type_one(cells)
    assert list(column.cat.categories) == levels
    assert [x if x == x else None for x in column] == [x if x in levels else None for x in cells]


def test_the_order_of_a_sidecar_counts_if_it_has_all_levels():
    levels = {"x": ["severe", "mild", "none at all"]}
    column, _ = type_one(["mild", "severe"], levels=levels)
    assert list(column.cat.categories) == ["severe", "mild"]
    column, _ = type_one(["mild", "severe", "other"], levels=levels)
    assert list(column.cat.categories) == ["mild", "other", "severe"]


def test_only_the_columns_that_are_used_are_looked_at():
    frame = frame_of("x", ["1", "2"])
    frame["y"] = ["60+", "3"]
    typed, _ = type_columns(frame, ["x"])
    assert list(typed.columns) == ["x"]
    with pytest.raises(InputError, match="'60\\+' in line 2 is no number"):
        type_columns(frame, ["x", "y"])


def test_what_a_user_says_of_a_column_counts():
    assert list(type_one(["01", "02"], "numeric")[0]) == [1, 2]
    assert list(type_one(["1", "none", "-"], "categorical")[0]) == ["1", "none", "-"]
    assert "'a' in line 3 is no number" in error_of(["1", "a"], "numeric")
    assert "is categorical or numeric" in error_of(["1"], "factor")


def test_levels_may_be_made_numbers():
    frame = pd.DataFrame({"session": pd.Categorical(["1", "2", None])}, index=["a", "b", "c"])
    assert list(type_columns(frame, ["session"])[0]["session"].cat.categories) == ["1", "2"]
    column = type_columns(frame, ["session"], {"session": "numeric"})[0]["session"]
    assert list(column[:2]) == [1, 2]
    assert math.isnan(column.iloc[2])


@pytest.mark.parametrize("name", ["participant_id", "subject", "session", "run", "Subj"])
def test_labels_of_entities_are_levels(name):
    column, notices = type_one(["1", "2", "10"], name=name)
    assert list(column.cat.categories) == ["1", "2", "10"]
    is_told = name in ("session", "run")
    assert len(notices) == is_told
    if is_told:
        assert f"set columns={{'{name}': 'numeric'}}" in notices[0]


def test_a_column_that_is_not_used_may_have_a_kind():
    frame = frame_of("x", ["1", "2"])
    frame["y"] = ["60+", "3"]
    assert list(type_columns(frame, ["x"], {"y": "numeric"})[0]) == ["x"]


@pytest.mark.parametrize(
    ("name", "kind", "is_number"),
    [("x", None, True), ("x", "categorical", False), ("subject", None, False)],
)
def test_numbers_in_memory_stay_unless_they_are_labels(name, kind, is_number):
    frame = pd.DataFrame({name: [1, 2, 10]})
    column = type_columns(frame, [name], {name: kind} if kind else {})[0][name]
    assert list(column) == ([1.0, 2.0, 10.0] if is_number else ["1", "2", "10"])


def test_labels_that_differ_in_case_only_are_refused_with_their_counts():
    problem = error_of(["Male", "male", "male", "Female"])
    assert "'Male' (1 row) and 'male' (2 rows) differ in case only" in problem
    assert list(type_one(["A", "a"], name="subject")[0]) == ["A", "a"]


@pytest.mark.parametrize(
    ("cells", "semicolons", "expected"),
    [
        (["1,5", "2"], False, [1.5, 2]),
        (["1,500", "2,25"], False, [1.5, 2.25]),
        (["1,500", "2,250"], True, [1.5, 2.25]),
        (["-1,5e2", "2"], False, [-150, 2]),
    ],
)
def test_commas_throughout_are_decimal_ones(cells, semicolons, expected):
    column, _ = type_one(cells, separator=";" if semicolons else "\t")
    assert list(column) == expected


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        (["1,500", "2,250"], "thousands without a comma"),
        (["1,5", "2.5"], "all decimals with a point"),
        (["2020-01-01", "1", "2"], "days since the start"),
        (["TRUE", "1", "0"], "TRUE and FALSE only"),
        (["nine", "1", "0"], "write a number or n/a"),
    ],
)
def test_what_is_no_number_comes_with_advice(cells, advice):
    assert advice in error_of(cells)


def test_a_value_far_from_all_others_that_may_stand_for_missing_is_said():
    for value in ("-999", "999", "-9"):
        _, [notice] = type_one(["20", "25", "30", value])
        assert f"{value} in 1 row" in notice
    assert not type_one(["900", "999", "1100"])[1]
    assert not type_one(["99", "50", "0"])[1]


def test_a_column_that_does_not_exist_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"has no column 'Aeg'\.  Is it age\?  Its columns are"):
        type_columns(frame_of("age", ["1"]), ["Aeg"])


def test_all_faults_are_told_at_once():
    frame = frame_of("x", ["1", "a"])
    frame["y"] = ["F", "f"]
    with pytest.raises(InputError) as error:
        type_columns(frame, ["x", "y", "z"])
    assert len(error.value.problems) == 3


# Those of 16 digits are taken for labels.
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: not 1e15 <= abs(x) < 1e16
)


@given(st.lists(NUMBERS, min_size=1))
def test_any_numbers_come_back_as_they_were_written(numbers):
    column, _ = type_one([repr(x) for x in numbers])
    assert list(column) == numbers


@given(st.lists(st.text(), min_size=1))
def test_any_text_gives_numbers_levels_or_a_sentence(cells):
    try:
        column, _ = type_one(cells)
    except InputError as error:
        assert "column x" in str(error)  # noqa: PT017  not all text is refused
        return
    assert column.dtype == float or set(column.dropna()) <= {cell.strip() for cell in cells}


@given(st.lists(st.text(alphabet="aB019_é ", max_size=5), unique=True))
def test_any_texts_have_one_natural_order(texts):
    backwards = texts[::-1]
    assert sorted(texts, key=natural_key) == sorted(backwards, key=natural_key)


def test_numbers_within_text_are_in_order():
    texts = ["b", "a10", "a2b", "a1", "10", "2", "02", "1"]
    expected = ["1", "02", "2", "10", "a1", "a2b", "a10", "b"]
    assert sorted(texts, key=natural_key) == expected
