"""Mixtures of chi-square distributions against mpmath, and at the edges."""

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.likelihoods import (
    Likelihood,
    compute_chi2,
    compute_reml,
    log_det_of_design,
    read_likelihood,
)
from nipype_blm.core.mixtures import log_mixture_sf

X_VALUES = [1e-300, 1e-12, 1e-3, 0.3, 1, 2.7, 10, 100, 1e3, 1e4, 1e6, 1e12]
MIXTURES = [(0, 1), (1,), (1, 2), (2, 3), (3, 4), (7, 8), (30, 31)]

# ln p is a sum of a few terms of at most its own size, each right to 1e-16.
RTOL = 1e-13
# Where p is near 1, ln p has the absolute error of a logarithm of a sum of some 20 terms.
ATOL = 1e-14


def exact(x, dofs):
    """ln P(X >= x) at x > 0 by mpmath's incomplete gamma function, in 60 digits."""
    with mp.workdps(60):
        tails = [
            mp.gammainc(mp.mpf(k) / 2, mp.mpf(x) / 2, regularized=True) if k else mp.mpf(0)
            for k in dofs
        ]
        return float(mp.log(sum(tails) / len(tails)))


@pytest.mark.parametrize("dofs", MIXTURES, ids=str)
def test_the_tail_is_that_of_mpmath_from_0_to_1e12(dofs):
    expected = [exact(x, dofs) for x in X_VALUES]
    assert_allclose(log_mixture_sf(X_VALUES, dofs), expected, rtol=RTOL, atol=ATOL)


@given(st.floats(1e-6, 1e5), st.integers(0, 12))
def test_the_tail_is_that_of_mpmath_anywhere(x, dof):
    dofs = (dof, dof + 1)
    assert_allclose(log_mixture_sf(x, dofs), exact(x, dofs), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("dofs", MIXTURES, ids=str)
def test_no_gain_has_p_1(dofs):
    assert_array_equal(log_mixture_sf([0.0, -0.0, -3.0], dofs), 0)


@pytest.mark.parametrize("dofs", MIXTURES, ids=str)
def test_an_infinite_statistic_has_p_0_and_nan_stays(dofs):
    assert_array_equal(log_mixture_sf([np.inf, np.nan], dofs), [-np.inf, np.nan])


def test_a_point_mass_halves_p_of_any_gain():
    x = np.array([1e-9, 1.0, 500.0])
    # Two ways to the same number: only the roundings differ.
    halved = log_mixture_sf(x, (1,)) - np.log(2)
    assert_allclose(log_mixture_sf(x, (0, 1)), halved, rtol=1e-14)


def test_the_shape_of_the_statistics_is_kept():
    assert log_mixture_sf(2.0, (0, 1)).shape == ()
    assert log_mixture_sf(np.ones((2, 3)), (1, 2)).shape == (2, 3)


# -- Does 5 % mean 5 %? ---------------------------------------------------------------------

N_LEVELS, PER_LEVEL, N_VOXELS = 200, 3, 4000


def fit_intercepts(Y, X, level):
    """Return the largest REML log-likelihood of a random intercept, by bisection of its slope.

    Levels have `PER_LEVEL` observations each, so that V^-1 = I - c Z Z' with one c.
    """
    Z = np.eye(N_LEVELS)[level]
    n, p = X.shape
    ZX, ZY = Z.T @ X, Z.T @ Y
    XX, XY, YY = X.T @ X, X.T @ Y, (Y**2).sum(axis=0)
    BX, BY, BYY = ZX.T @ ZX, ZX.T @ ZY, (ZY**2).sum(axis=0)

    def llh(c):
        A = XX - c[:, None, None] * BX
        b = (XY - c * BY).T[..., None]
        rss = YY - c * BYY - (b * np.linalg.solve(A, b)).sum(axis=(1, 2))
        # |V| = (1 + k D)^m with c = D / (1 + k D), so 1 + k D = 1 / (1 - k c).
        log_v = -N_LEVELS * np.log1p(-PER_LEVEL * c)
        log_a = np.linalg.slogdet(A)[1]
        return -0.5 * ((n - p) * (1 + np.log(2 * np.pi * rss / (n - p))) + log_v + log_a)

    low, high = np.zeros(Y.shape[1]), np.full(Y.shape[1], 0.9 / PER_LEVEL)
    for _ in range(40):
        middle, h = (low + high) / 2, 1e-6
        rises = llh(middle + h) > llh(middle - h)
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return np.maximum(llh(low), llh(np.zeros_like(low)))


@pytest.fixture(scope="module")
def null_log_p():
    """ln p of a random intercept that is not there, at many voxels."""
    rng = np.random.default_rng(5)
    level = np.repeat(np.arange(N_LEVELS), PER_LEVEL)
    n = level.size
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    Y = rng.normal(size=(n, N_VOXELS))
    residuals = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]
    resms = (residuals**2).sum(axis=0) / (n - 2)
    log_det = Likelihood(np.full(N_VOXELS, log_det_of_design(X)), np.zeros(N_VOXELS))
    smaller = compute_reml(resms, np.full(N_VOXELS, float(n)), 2, log_det, np.float64)
    larger = read_likelihood(fit_intercepts(Y, X, level), np.full(N_VOXELS, float(n)), np.float64)
    return log_mixture_sf(compute_chi2(smaller, larger).value, (0, 1))


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01])
def test_a_variance_that_is_not_there_is_found_as_often_as_claimed(null_log_p, alpha):
    # Four standard deviations of a binomial proportion: a right test of independent voxels
    # fails once in 16,000 seeds.  Plain chi2_1 would find half as many, which is 7 to 16
    # deviations away (3 at 1 %).
    bound = 4 * np.sqrt(alpha * (1 - alpha) / N_VOXELS)
    assert abs(np.mean(null_log_p <= np.log(alpha)) - alpha) < bound


def test_half_of_the_voxels_without_the_variance_have_p_1(null_log_p):
    # 4 standard deviations are 0.032; with 200 levels the boundary has 51 % (F below 1).
    assert abs(np.mean(null_log_p == 0) - 0.51) < 0.032
