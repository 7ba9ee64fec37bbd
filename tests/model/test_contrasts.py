"""Contrasts are read from every notation, and their faults are found."""

import numpy as np
import pytest
from pydantic import ValidationError

from nipype_blm.model.contrasts import (
    Contrast,
    check_contrasts,
    check_sizes,
    file_labels,
    normalise_contrasts,
    parse_vector,
)


def named(*names):
    return [Contrast(name=name, vector=[1, 0]) for name in names]


@pytest.mark.parametrize(
    "given",
    [
        [1, 0, -0.5],
        (1, 0, -0.5),
        ["1", "0", "-1/2"],
        np.array([1, 0, -0.5]),
        "[1 0 -0.5]",
        "[1, 0, -0.5]",
        "[1,0,-0.5]",
        "1 0 -0.5",
        "1, 0, -1/2",
        " [ 1  0\t-0.5 ] ",
        "(1, 0, -0.5)",
        "(1 0 -0.5)",
        "(1, 0, (-1)/(1+1))",
        ["(1, 0, -0.5)"],
    ],
)
def test_every_notation_of_one_row_is_the_same_t_contrast(given):
    assert parse_vector(given) == (1.0, 0.0, -0.5)
    contrast = Contrast(name="c", vector=given)
    assert not contrast.is_f
    assert contrast.matrix.tolist() == [[1.0, 0.0, -0.5]]


@pytest.mark.parametrize(
    "given",
    [
        [[1, 0], [0, 0.5]],
        [["1", 0], [0, "1/2"]],
        np.array([[1, 0], [0, 0.5]]),
        "[[1, 0], [0, 0.5]]",
        "[[1 0] [0 1/2]]",
        "[[1 0][0 .5]]",
        "[[1 0]; [0 .5]]",
        "[1 0; 0 .5]",
        "[[1, 0],\n [0, 0.5]]",
        "((1, 0), (0, 0.5))",
        "[(1, 0), (0, (1/2))]",
        "((1 0) (0 1/2))",
        "(1 0; 0 .5)",
    ],
)
def test_every_notation_of_several_rows_is_the_same_f_contrast(given):
    assert parse_vector(given) == ((1.0, 0.0), (0.0, 0.5))
    contrast = Contrast(name="c", vector=given)
    assert contrast.is_f
    assert contrast.matrix.tolist() == [[1.0, 0.0], [0.0, 0.5]]


@pytest.mark.parametrize("given", [-0.5, "-1/2", "[-.5]", [-0.5]])
def test_a_single_number_is_a_t_contrast_of_one_column(given):
    assert parse_vector(given) == (-0.5,)


@pytest.mark.parametrize("given", [[[1, 0]], "[[1 0]]", np.array([[1, 0]])])
def test_a_single_row_in_double_brackets_is_an_f_contrast(given):
    assert Contrast(name="c", vector=given).is_f


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "list of weights"),
        ("", "list of weights"),
        ("[]", "list of weights"),
        (None, "list of weights"),
        ({"a": 1}, "list of weights"),
        ([1, "x"], "'x' is not a number"),
        ("[1 0 x]", "'x' is not a number"),
        ("[1 0", "'\\[1 0' is not a list of weights"),
        ("[1 nan]", "not a finite number"),
        ([1, float("inf")], "not a finite number"),
        ([1, True], "not a number"),
        ([1, None], "not a number"),
        ([1, [0, 1]], "not both"),
        ([[1, 0], []], "not both"),
        ([[1, 0], [1, 0, 0]], r"different lengths \(2, 3\)"),
        ("[[1 0] [1 0 0]]", r"different lengths \(2, 3\)"),
        ("[[1 0] 5]", "not a list of weights"),
        ("[[1 0] [0 1]", "not a list of weights"),
        ("(1, 0", "not a number"),
        ("((1, 0), (0, 1)", "not a list of weights"),
        ("(1, 0) (0", "not a list of weights"),
        ("[__import__('os').getcwd() 0]", "not a number"),
    ],
)
def test_a_vector_that_is_not_one_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        parse_vector(given)


@pytest.mark.parametrize(
    "given",
    [
        [{"c1": {"name": "a", "vector": [1]}}, {"c2": {"name": "b", "vector": [2]}}],
        {"c1": {"name": "a", "vector": [1]}, "c2": {"name": "b", "vector": [2]}},
        [{"name": "a", "vector": [1]}, {"name": "b", "vector": [2]}],
        [{"a": {"vector": [1]}}, {"b": {"name": None, "vector": [2]}}],
        [Contrast(name="a", vector=[1]), {"c2": {"name": "b", "vector": [2]}}],
    ],
)
def test_every_layout_of_contrasts_is_understood(given):
    contrasts = [Contrast(**item) for item in normalise_contrasts(given)]
    assert [c.name for c in contrasts] == ["a", "b"]
    assert [c.vector for c in contrasts] == [(1.0,), (2.0,)]


def test_a_contrast_without_a_name_is_called_by_its_number():
    [_, second] = normalise_contrasts([{"name": "a", "vector": [1]}, {"vector": [1]}])
    assert second["name"] == "c2"


@pytest.mark.parametrize("given", ["[1 0]", 5, [[1, 0]], ["c1"]])
def test_contrasts_of_another_layout_are_refused(given):
    with pytest.raises(ValueError, match="with a name and a vector"):
        normalise_contrasts(given)


@pytest.mark.parametrize("fault", [{"name": ""}, {"weight": [1]}])
def test_an_empty_name_and_an_unknown_entry_are_refused(fault):
    with pytest.raises(ValidationError):
        Contrast(**({"name": "a", "vector": [1]} | fault))


def test_good_contrasts_have_no_problems():
    contrasts = [
        Contrast(name="f", vector=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        Contrast(name="t", vector=[0, 0, -2]),
    ]
    assert check_contrasts(contrasts, 3) == []


def test_every_fault_of_contrasts_is_found_at_once():
    contrasts = [
        Contrast(name="a", vector=[1, 0]),
        Contrast(name="long", vector=[1, 0, 0]),
        Contrast(name="nothing", vector=[0, 0]),
        Contrast(name="partly nothing", vector=[[1, 0], [0, 0]]),
        Contrast(name="dependent", vector=[[1, 1], [2, 2]]),
        Contrast(name="too many", vector=[[1, 0], [0, 1], [1, 1]]),
        Contrast(name="a", vector=[0, 1]),
    ]
    problems = check_contrasts(contrasts, 2)
    for number, expected in enumerate(
        [
            "contrast 2 ('long') has 3 weights, but X has 2 columns",
            "contrast 3 ('nothing') has a row of zeros",
            "contrast 4 ('partly nothing') has a row of zeros",
            "contrast 5 ('dependent') has 2 rows, but they are linearly dependent",
            "contrast 6 ('too many') has 3 rows, but they are linearly dependent",
            "contrast 7 ('a') has the name of contrast 1",
        ]
    ):
        assert expected in problems[number]
    assert len(problems) == 6


def test_independence_of_rows_does_not_depend_on_their_scale():
    contrast = Contrast(name="f", vector=[[1e-12, 0], [0, 1e12]])
    assert check_contrasts([contrast], 2) == []


@pytest.mark.parametrize("unit", [1, 1e-25, 1e25])  # of the columns of X
@pytest.mark.parametrize("weight", [1e-320, 1e-200, 1e-33, 1e33, 1e155, -1e308])
@pytest.mark.parametrize("is_f", [False, True])
def test_weights_of_sizes_that_cannot_be_are_refused(unit, weight, is_f):
    X = np.random.default_rng(0).normal(size=(10, 3)) * unit
    with np.errstate(over="ignore"):
        row = [0, float(np.clip(weight * unit, -1.7e308, 1.7e308)) or 5e-324, 0]
    contrast = Contrast(name="a", vector=[[0, 0, unit], row] if is_f else row)
    [problem] = check_sizes([Contrast(name="good", vector=[unit, 0, -unit]), contrast], X)
    assert "contrast 2 ('a')" in problem
    assert "near 1" in problem


@pytest.mark.parametrize("unit", [1e-29, 1, 1e29])
def test_weights_in_the_units_of_their_columns_are_accepted(unit):
    X = np.random.default_rng(0).normal(size=(10, 3)) * [unit, 1, 0]
    vectors = [[unit, 1, 0], [0, 1e-29, 0], [[unit, 0, 0], [1e-200, 1e29, 0]]]
    contrasts = [Contrast(name=str(vector), vector=vector) for vector in vectors]
    assert check_sizes(contrasts, X) == []


def test_labels_are_alphanumeric_and_differ():
    labels = file_labels(named("age", "Age", "age > 0", "men-women", "+", "Größe", "../../etc"))
    assert all(label.isascii() and label.isalnum() for label in labels)
    assert len({label.lower() for label in labels}) == len(labels)
    assert labels[0] == "age"
    assert labels[3] == "menWomen"


def test_labels_differ_where_a_number_is_added_to_one():
    labels = file_labels(named("a3", "a", "a"))
    assert len({label.lower() for label in labels}) == 3
