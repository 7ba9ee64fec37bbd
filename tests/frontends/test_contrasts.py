"""Contrasts are read from every notation and every layout."""

import numpy as np
import pytest
from pydantic import ValidationError

from nipype_blm.frontends.contrasts import normalise_contrasts, parse_vector
from nipype_blm.frontends.fields import ContrastFields
from nipype_blm.frontends.reading import make_contrast


def make(vector):
    return make_contrast(ContrastFields(name="c", vector=vector))


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
    contrast = make(given)
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
    contrast = make(given)
    assert contrast.is_f
    assert contrast.matrix.tolist() == [[1.0, 0.0], [0.0, 0.5]]


@pytest.mark.parametrize("given", [-0.5, "-1/2", "[-.5]", [-0.5]])
def test_a_single_number_is_a_t_contrast_of_one_column(given):
    assert parse_vector(given) == (-0.5,)


@pytest.mark.parametrize("given", [[[1, 0]], "[[1 0]]", np.array([[1, 0]])])
def test_a_single_row_in_double_brackets_is_an_f_contrast(given):
    assert make(given).is_f


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
    ],
)
def test_every_layout_of_contrasts_is_understood(given):
    contrasts = [ContrastFields(**item) for item in normalise_contrasts(given)]
    assert [c.name for c in contrasts] == ["a", "b"]
    assert [c.vector for c in contrasts] == [(1.0,), (2.0,)]


def test_a_contrast_without_a_name_is_called_by_its_number():
    [_, second] = normalise_contrasts([{"name": "a", "vector": [1]}, {"vector": [1]}])
    assert second["name"] == "c2"


def test_text_is_an_expression_that_names_itself():
    given = normalise_contrasts("age")
    assert given == normalise_contrasts(["age"]) == [{"expression": "age"}]
    assert normalise_contrasts(["1", "age"])[0] == {"expression": "1"}  # the intercept


@pytest.mark.parametrize("given", ["[1 0]", 5, [[1, 0]], [" "], ["1 0"]])
def test_contrasts_of_another_layout_are_refused(given):
    with pytest.raises(ValueError, match="with a name and a vector"):
        normalise_contrasts(given)


@pytest.mark.parametrize("fault", [{"name": ""}, {"weight": [1]}])
def test_an_empty_name_and_an_unknown_entry_are_refused(fault):
    with pytest.raises(ValidationError):
        ContrastFields(**({"name": "a", "vector": [1]} | fault))
