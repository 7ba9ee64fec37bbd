"""Faults of a design matrix are found and named."""

import numpy as np
import pytest

from nipype_blm.model.design import check_design, find_vif, has_possible_sizes


def make_design(n=10, p=3):
    X = np.random.default_rng(0).normal(size=(n, p))
    X[:, 0] = 1
    return X


NAMES = ["mean", "age", "dose"]


def test_a_good_design_has_no_problem():
    assert check_design(make_design(), NAMES, 10) == []


def test_a_design_of_any_scale_has_no_problem():
    assert check_design(make_design() * [1e-12, 1, 1e12], NAMES, 10) == []


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e-31, 1e31, 1e155, 1e200, 1e307])
@pytest.mark.parametrize("column", [0, 2])
def test_a_column_too_large_or_small_to_compute_with_is_named(size, column):
    X = make_design()
    X[:, column] *= size
    [problem] = check_design(X, NAMES, 10)
    assert f"column {column + 1} ({NAMES[column]})" in problem
    assert "other units" in problem
    assert not has_possible_sizes(X)


@pytest.mark.parametrize("size", [1e-29, 1, 1e29])
def test_columns_of_possible_sizes_are_accepted(size):
    X = make_design() * [size, 1, 1 / size]
    assert check_design(X, NAMES, 10) == []
    assert has_possible_sizes(X)


def test_both_counts_are_in_the_message_when_rows_and_images_differ():
    [problem] = check_design(make_design(), NAMES, 12)
    assert "10 rows" in problem
    assert "12 images" in problem


def test_a_design_without_more_rows_than_columns_is_refused():
    [problem] = check_design(make_design(3, 3), NAMES, 3)
    assert "3 columns" in problem
    assert "3 rows" in problem


def test_a_column_of_zeros_is_named():
    X = make_design()
    X[:, 1] = 0
    [problem] = check_design(X, NAMES, 10)
    assert "column 2 (age) is zero" in problem


def test_a_column_that_follows_from_others_is_named_with_them():
    X = np.c_[make_design(), np.ones(10)]
    X[:, 2] = 3 * X[:, 1] - X[:, 0]
    problems = check_design(X, [*NAMES, "group"], 10)
    assert len(problems) == 2
    assert "column 3 (dose)" in problems[0]
    assert "1 (mean), 2 (age)" in problems[0]
    assert "column 4 (group)" in problems[1]
    assert "1 (mean)" in problems[1]
    assert "(age)" not in problems[1]


def test_several_faults_are_reported_together():
    X = make_design()
    X[:, 2] = 2 * X[:, 0]
    problems = check_design(X, NAMES, 12)
    assert any("12 images" in problem for problem in problems)
    assert any("(dose)" in problem for problem in problems)


def regress_each(X):
    """Return 1 / (1 - R²) of each column that varies, by a regression on the others."""
    factors = np.full(X.shape[1], np.nan)
    for j in np.flatnonzero(np.ptp(X, axis=0)):
        x, others = X[:, j], np.delete(X, j, axis=1)
        residual = x - others @ np.linalg.lstsq(others, x, rcond=None)[0]
        ones = np.ones(len(X))
        rest = ones - others @ np.linalg.lstsq(others, ones, rcond=None)[0]
        total = np.sum((x - x.mean()) ** 2) if np.linalg.norm(rest) < 1e-8 else np.sum(x**2)
        left = np.sum(residual**2)
        factors[j] = np.inf if left < 1e-18 * np.sum(x**2) else total / left
    return factors


ONES = np.ones((40, 1))
SITE = np.eye(3)[np.arange(40) % 3]
AGE = np.random.default_rng(3).normal(40, 5, (40, 1))
NOISE = np.random.default_rng(4).normal(size=(40, 1))


@pytest.mark.parametrize(
    "columns",
    [
        (ONES, AGE, AGE + NOISE),
        (AGE, NOISE),
        (ONES, SITE[:, 1:], AGE, AGE * SITE[:, 1:]),
        (SITE, AGE),  # beside all levels, an age is around its mean
        (ONES, 1e6 * AGE, 1e-6 * NOISE),
        (ONES, 2000 + 0.01 * AGE, NOISE),
        (ONES, AGE, 2 * AGE + 3, NOISE),
        (ONES, SITE, AGE),
        (ONES, AGE),
        (ONES,),
        (ONES, 0 * ONES, AGE, NOISE),
    ],
)
def test_inflation_is_that_of_a_regression_on_the_other_columns(columns):
    X = np.hstack(columns)
    np.testing.assert_allclose(find_vif(X), regress_each(X), rtol=1e-6)


def test_every_column_of_more_columns_than_rows_follows_from_the_others():
    X = np.random.default_rng(0).normal(size=(3, 5))
    assert np.isinf(find_vif(X)).all()
