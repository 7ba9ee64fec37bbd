"""Residuals of least squares against numpy.linalg.lstsq on the images present, and R's lm."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles.r import requires_r, run_r

from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.residuals import compute_residuals
from nipype_blm.core.threads import Threads


def solve(y, X):
    """Return residuals, leverage, standardised residuals, Cook's distances, sigma and rank."""
    beta, _, rank, _ = np.linalg.lstsq(X, y, rcond=None)
    r = y - X @ beta
    h = np.einsum("ij,ji->i", X, np.linalg.pinv(X))
    sigma = np.sqrt(r @ r / (len(y) - rank))
    z = r / (sigma * np.sqrt(1 - h))
    return r, z, h, z**2 * h / (1 - h) / rank, sigma, rank


@pytest.fixture
def study():
    rng = np.random.default_rng(2)
    X = np.column_stack([np.ones(25), rng.standard_normal(25), np.arange(25) % 2])
    Y = rng.standard_normal((7, 25)) + X @ [1, 2, 3]
    Y[1:][rng.random((6, 25)) < 0.3] = np.nan
    return Y, X


@pytest.mark.parametrize(("scale", "mean"), [(1, 0), (1e12, 0), (1e-12, 0), (1, 1e6)])
def test_all_equals_least_squares_on_the_images_present(study, scale, mean):
    Y, X = study
    Y = scale * Y + mean
    found = compute_residuals(Y, factorise_design(X))
    for v, y in enumerate(Y):
        present = ~np.isnan(y)
        expected = solve(y[present], X[present])
        for got, want in zip(found[:4], expected[:4], strict=True):
            assert np.isnan(got[v, ~present]).all()
            # Residuals have lost the digits of the mean, in lstsq as well.
            tolerance = 1e-10 * max(1, mean / scale) * np.abs(want).max()
            assert_allclose(got[v, present], want, rtol=0, atol=tolerance)
        assert_allclose([found.sigma[v], found.rank[v]], expected[4:], rtol=1e-9)


def test_an_image_that_alone_decides_a_column_has_leverage_1_and_no_standardised_residual(study):
    Y, X = study
    X = np.column_stack([X, np.arange(25) == 4])
    found = compute_residuals(Y, factorise_design(X))
    here = ~np.isnan(Y[:, 4])
    assert_allclose(found.leverage[here, 4], 1, rtol=1e-12)
    assert_allclose(found.residual[here, 4], 0, atol=1e-12)
    assert np.isnan(found.standardised[:, 4]).all()
    assert np.isnan(found.cook[:, 4]).all()
    assert_array_equal(found.rank, 3 + here)  # where it is missing, a column of zeros is left


def test_columns_that_depend_on_others_change_nothing(study):
    Y, X = study
    more = compute_residuals(Y, factorise_design(np.column_stack([X, X @ [1, 1, -2]])))
    for got, want in zip(more, compute_residuals(Y, factorise_design(X)), strict=True):
        assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_the_number_of_threads_changes_no_bit(study):
    Y, X = study
    Y = np.tile(Y, (100, 1))
    with Threads(3) as threads:
        several = compute_residuals(Y, factorise_design(X), threads)
    for got, want in zip(several, compute_residuals(Y, factorise_design(X)), strict=True):
        assert_array_equal(got, want)


@requires_r
def test_r_gives_the_same_residuals_leverages_and_cook_s_distances(study):
    Y, X = study
    y = Y[1]
    script = """
    m <- lm(y ~ 0 + X)
    write(c(resid(m), rstandard(m), hatvalues(m), cooks.distance(m), sigma(m)), output, 1)
    """
    present = ~np.isnan(y)
    numbers = run_r(script, y=y[present], X=X[present])
    found = compute_residuals(y[None], factorise_design(X))
    got = [each[0][present] for each in found[:4]]
    assert_allclose(np.concatenate([*got, found.sigma]), numbers, rtol=1e-6)  # digits of write()
