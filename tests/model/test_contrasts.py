"""Contrasts are made of weights, and their faults are found."""

import numpy as np
import pytest

from nipype_blm.model.contrasts import Contrast, check_contrasts, check_sizes, file_labels


def named(*names):
    return [Contrast(name, [1, 0]) for name in names]


@pytest.mark.parametrize(("weights", "is_f"), [([1, 0], False), ([[1, 0]], True)])
def test_weights_in_rows_are_an_f_contrast_and_a_single_vector_is_t(weights, is_f):
    contrast = Contrast("c", weights)
    assert contrast.is_f is is_f
    assert contrast.matrix.tolist() == [[1.0, 0.0]]
    assert Contrast("c", weights, is_f=not is_f).is_f is not is_f


def test_good_contrasts_have_no_problems():
    contrasts = [
        Contrast("f", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        Contrast("t", [0, 0, -2]),
    ]
    assert check_contrasts(contrasts, 3) == []


def test_every_fault_of_contrasts_is_found_at_once():
    contrasts = [
        Contrast("a", [1, 0]),
        Contrast("long", [1, 0, 0]),
        Contrast("nothing", [0, 0]),
        Contrast("partly nothing", [[1, 0], [0, 0]]),
        Contrast("dependent", [[1, 1], [2, 2]]),
        Contrast("too many", [[1, 0], [0, 1], [1, 1]]),
        Contrast("a", [0, 1]),
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
    contrast = Contrast("f", [[1e-12, 0], [0, 1e12]])
    assert check_contrasts([contrast], 2) == []


@pytest.mark.parametrize("unit", [1, 1e-25, 1e25])  # of the columns of X
@pytest.mark.parametrize("weight", [1e-320, 1e-200, 1e-33, 1e33, 1e155, -1e308])
@pytest.mark.parametrize("is_f", [False, True])
def test_weights_of_sizes_that_cannot_be_are_refused(unit, weight, is_f):
    X = np.random.default_rng(0).normal(size=(10, 3)) * unit
    with np.errstate(over="ignore"):
        row = [0, float(np.clip(weight * unit, -1.7e308, 1.7e308)) or 5e-324, 0]
    contrast = Contrast("a", [[0, 0, unit], row] if is_f else row)
    [problem] = check_sizes([Contrast("good", [unit, 0, -unit]), contrast], X)
    assert "contrast 2 ('a')" in problem
    assert "near 1" in problem


@pytest.mark.parametrize("unit", [1e-29, 1, 1e29])
def test_weights_in_the_units_of_their_columns_are_accepted(unit):
    X = np.random.default_rng(0).normal(size=(10, 3)) * [unit, 1, 0]
    vectors = [[unit, 1, 0], [0, 1e-29, 0], [[unit, 0, 0], [1e-200, 1e29, 0]]]
    contrasts = [Contrast(str(vector), vector) for vector in vectors]
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
