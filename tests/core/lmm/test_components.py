"""Variances of random effects in the units of the images, and shares of intercepts."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.factors import RandomFactor, find_intercepts
from nipype_blm.core.linalg import packed_position
from nipype_blm.core.lmm.components import compute_component, compute_intraclass_correlation

LEVEL = np.repeat(np.arange(4, dtype=np.int32), 3)
ONE, TIME = np.ones(12), np.arange(12.0)


def test_a_component_is_in_the_units_of_the_residual_variance() -> None:
    sigma2, D = np.array([4.0, 9.0]), np.array([0.5, -2.0])
    assert_array_equal(compute_component(sigma2, D), [2, -18])


def test_shares_are_those_of_the_variances_of_images_that_vary_by_intercepts_alone() -> None:
    """Oracle: the covariance matrix of two images of one level of one factor, and of none."""
    rng = np.random.default_rng(0)
    D, heights, sigma2 = rng.uniform(0, 3, (2, 5)), (1.0, -2.5), 7.0
    variances = np.array([sigma2 * c**2 * d for c, d in zip(heights, D, strict=True)])
    total = variances.sum(axis=0) + sigma2
    for k in range(2):
        found = compute_intraclass_correlation(D, heights, k)
        assert_allclose(found, variances[k] / total, rtol=1e-14)


def test_without_variance_there_is_no_share() -> None:
    assert_array_equal(compute_intraclass_correlation([np.zeros(3)], [1.0], 0), 0)


@pytest.mark.parametrize("q", [1, 2, 3, 4])
@pytest.mark.parametrize("place", range(4))
def test_the_row_of_an_intercept_is_that_of_its_variance_in_vech(q: int, place: int) -> None:
    place %= q
    columns = [TIME**i for i in range(1, q)]
    columns.insert(place, 3 * ONE)
    other = RandomFactor("other", LEVEL, np.column_stack([TIME, TIME**2]))
    factor = RandomFactor("f", LEVEL, np.column_stack(columns))
    names = [(i, j) for j in range(q) for i in range(j, q)]  # column by column
    row = names.index((place, place))
    assert find_intercepts([factor]) == {"f": (row, 3.0)}
    assert find_intercepts([other, factor]) == {"f": (3 + row, 3.0)}


@pytest.mark.parametrize("column", [TIME, 0 * ONE, np.where(np.arange(12) < 11, 1.0, 2.0)])
def test_a_column_that_is_not_constant_or_is_zero_is_no_intercept(column: np.ndarray) -> None:
    assert find_intercepts([RandomFactor("f", LEVEL, column[:, None])]) == {}


def test_a_packed_matrix_is_its_lower_triangle_row_by_row() -> None:
    order = [(i, j) for i in range(4) for j in range(i + 1)]
    assert [packed_position(i, j) for i, j in order] == list(range(10))
    assert [packed_position(j, i) for i, j in order] == list(range(10))
