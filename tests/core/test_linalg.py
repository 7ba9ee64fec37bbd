"""Factorisations against NumPy and SciPy, and the naming of dependent columns."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.linalg import (
    RANK_TOLERANCE,
    cholesky_packed,
    factorise_design,
    find_dependent_columns,
    packed_size,
    solve_lower_packed,
    solve_lower_transposed_packed,
    solve_upper,
)

rng = np.random.default_rng(0)
ONES = np.ones(60)
A, B, C = rng.normal(size=(3, 60))
GROUPS = np.eye(4)[np.arange(60) % 4]
SITES = np.eye(3)[rng.integers(0, 3, 60)]
YEAR = np.round(rng.uniform(1930, 2000, 60), 2)
SCAN = np.round(rng.uniform(2005, 2020, 60), 2)
SCAN_2012 = np.round(rng.normal(2012, 0.5, 60), 2)
EPS = np.finfo(float).eps


DEPENDENT = {
    "duplicate": ([ONES, A, A], [(2, [1])]),
    "another unit": ([ONES, A, 1e-9 * A], [(2, [1])]),
    "sum": ([A, B, C, A - B], [(3, [0, 1])]),
    "sum of very different units": ([1e8 * A, 1e-8 * B, A - B], [(2, [0, 1])]),
    "shifted covariate": ([ONES, A, 5 + 2 * A], [(2, [0, 1])]),
    "zero": ([ONES, 0 * A, A], [(1, [])]),
    "zero first": ([0 * A, ONES], [(0, [])]),
    "second constant": ([A, ONES, 3 * ONES], [(2, [1])]),
    "dummy trap": ([ONES, *GROUPS.T, A], [(4, [0, 1, 2, 3])]),
    "trap, intercept last": ([*GROUPS.T, A, ONES], [(5, [0, 1, 2, 3])]),
    "two sets of dummies": ([*GROUPS.T, *SITES.T], [(6, [0, 1, 2, 3, 4, 5])]),
    "two faults": ([ONES, A, 2 * A, B, A + B], [(2, [1]), (4, [1, 3])]),
    "age is scan less birth": ([ONES, YEAR, SCAN, SCAN - YEAR], [(3, [1, 2])]),
    "scan year and its centred copy": ([ONES, SCAN_2012, SCAN_2012 - 2012], [(2, [0, 1])]),
    "covariate of 1e6 and its centred copy": ([ONES, 1e6 + A, (1e6 + A) - 1e6], [(2, [0, 1])]),
    "days and seconds": ([ONES, 1.5e9 + 1e6 * A, (1e6 * A + 1.5e9) / 86400], [(2, [1])]),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_columns_are_named(name):
    columns, expected = DEPENDENT[name]
    assert find_dependent_columns(np.column_stack(columns)) == expected


INDEPENDENT = {
    "one column": [A],
    "covariates": [ONES, A, B, C],
    "units": [1e-6 * ONES, 1e6 * A, 1e-12 * B],
    "large mean": [ONES, 1e6 + A, B],
    "condition 1e10": [ONES, A, A + 1e-10 * B],
    "three near each other": [A, A + 1e-5 * B, A + 1e-5 * B + 1e-9 * C],
    "polynomial": [ONES, YEAR, YEAR**2],
    "cell means": [*GROUPS.T, A],
    "dummies without trap": [ONES, *GROUPS.T[1:], *SITES.T[1:]],
    "slopes within groups": [*GROUPS.T, *(GROUPS.T * A)],
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_columns_of_full_rank_are_not_reported(name):
    assert find_dependent_columns(np.column_stack(INDEPENDENT[name])) == []


@pytest.mark.parametrize("name", ["two columns", "three columns", "units"])
@pytest.mark.parametrize(("condition", "is_dependent"), [(1e12, False), (4e13, True)])
def test_columns_depend_on_each_other_from_a_condition_of_1e13_on(name, condition, is_dependent):
    """On either side of it, by the condition number that SciPy finds: units do not matter."""
    Q, _ = np.linalg.qr(np.column_stack([ONES, A, B, C]))
    near = Q[:, 1] if name != "three columns" else (Q[:, 1] + Q[:, 2]) / np.sqrt(2)
    X = np.column_stack([Q[:, :3], near + 2 / condition * Q[:, 3]])
    values = scipy.linalg.svdvals(X)
    assert 1 / 3 < values[0] / values[-1] / condition < 3
    if name == "units":  # powers of two, which round nothing
        X *= [2.0**-20, 2.0**30, 1, 2.0**-10]
    assert bool(find_dependent_columns(X)) == is_dependent


def test_more_columns_than_rows_are_dependent():
    X = np.random.default_rng(1).normal(size=(4, 7))
    assert [column for column, _ in find_dependent_columns(X)] == [4, 5, 6]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 3))
def test_what_is_reported_is_a_true_and_minimal_combination(seed, n_free, n_dependent):
    random = np.random.default_rng(seed)
    free = random.integers(-3, 4, (30, n_free)).astype(float)
    mixture = random.integers(-2, 3, (n_free, n_dependent))
    X = np.column_stack([free, free @ mixture])[:, random.permutation(n_free + n_dependent)]
    X = X * 10.0 ** random.integers(-6, 7, X.shape[1])
    dependent = find_dependent_columns(X)
    unit = X / np.maximum(np.linalg.norm(X, axis=0), 1e-300)
    assert len(dependent) == X.shape[1] - np.linalg.matrix_rank(unit)
    for column, others in dependent:
        assert all(other < column for other in others)

        def distance(columns: list[int], column: int = column) -> float:
            if not columns:
                return float(np.linalg.norm(unit[:, column]))
            weights = np.linalg.lstsq(unit[:, columns], unit[:, column])[0]
            return float(np.linalg.norm(unit[:, columns] @ weights - unit[:, column]))

        # Small integers: what depends does so to rounding, what does not is far away.
        assert distance(others) < 1e-12
        assert all(distance([i for i in others if i != left_out]) > 1e-4 for left_out in others)


CONSTANTS = {
    "intercept": ([ONES, A], [1, 0]),
    "intercept of 7": ([A, 7 * ONES], [0, 1 / 7]),
    "cell means": ([A, *GROUPS.T], [0, 1, 1, 1, 1]),
    "cell means and a large covariate": ([1e9 * A, *GROUPS.T], [0, 1, 1, 1, 1]),
    "weighted cells": ([*(0.25 * GROUPS.T)], [4, 4, 4, 4]),
    "implied": ([A, 1 - A], [1, 1]),
    "no intercept": ([A - A.mean(), B - B.mean()], None),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_design_is_factorised_and_its_constant_is_found(name):
    columns, constant = CONSTANTS[name]
    X = np.column_stack(columns)
    design = factorise_design(X)
    length = np.linalg.norm(X, axis=0)
    assert_allclose(design.Q.T @ design.Q, np.eye(X.shape[1]), atol=1e-14)
    assert_allclose(design.Q @ design.R / length, X / length, atol=1e-14)
    assert_array_equal(np.tril(design.R, -1), 0)
    if constant is not None:
        # As close as one number of the size of the largest column can be.
        assert_allclose(design.constant * length, np.multiply(constant, length), atol=1e-9)
        assert_allclose(design.shift, 1, atol=EPS)
    # Moving s to the estimates as c must not leave a residual.
    assert_allclose(X @ design.constant, design.shift, atol=4 * EPS)


def pack(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.tril_indices(len(matrix))].copy()


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_packed_factor_and_solves_are_those_of_lapack(n, seed):
    random = np.random.default_rng(seed)
    root = np.tril(random.normal(size=(n, n)) / n) + np.eye(n)
    matrix, b, out = root @ root.T, random.normal(size=n), np.empty(n)
    packed = pack(matrix)
    assert packed.size == packed_size(n)
    assert cholesky_packed(packed, n, RANK_TOLERANCE)
    # Condition below 1e4: errors below 1e-12 of the largest entry.
    factor = np.linalg.cholesky(matrix)
    assert_allclose(packed, pack(factor), atol=1e-12)
    for solve, trans in ((solve_lower_packed, "N"), (solve_lower_transposed_packed, "T")):
        solve(packed, b, n, out)
        expected = scipy.linalg.solve_triangular(factor, b, trans=trans, lower=True)
        assert_allclose(out, expected, rtol=1e-10, atol=1e-10)
    solve_upper(np.ascontiguousarray(factor.T), b, n, out)
    assert_allclose(out, scipy.linalg.solve_triangular(factor.T, b), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((2, 2)), np.ones((2, 2)), np.diag([1.0, -1]), np.diag([1.0, np.nan])],
    ids=["zero", "rank one", "indefinite", "nan"],
)
def test_a_vanishing_pivot_is_refused(matrix):
    assert not cholesky_packed(pack(matrix), 2, RANK_TOLERANCE)


def test_the_least_pivot_is_relative_to_its_diagonal():
    matrix = 1e-3 * np.array([[1.0, 1.0], [1.0, 1 + 1e-6]])
    # The pivot is a difference of numbers a million times as large.
    np.testing.assert_allclose(cholesky_packed(pack(matrix), 2, 0.0), 1e-6 / (1 + 1e-6), rtol=1e-9)
    assert cholesky_packed(pack(matrix), 2, 1e-2) == 0
