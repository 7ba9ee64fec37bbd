"""Log-likelihoods rebuilt from rounded estimates against the dense definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.likelihoods import (
    Likelihood,
    compute_chi2,
    compute_ml,
    compute_reml,
    log_det_of_covariance,
    log_det_of_design,
    read_likelihood,
)

# A handful of roundings of 1e-16 in numbers of the size of a log-likelihood.
RTOL = 1e-12


def make_design(n, p, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), offset + rng.normal(size=(n, p - 1))])


def gaussian_llh(y, X, sigma2):
    """Log-density of y at the least-squares estimates."""
    r = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return -0.5 * (len(y) * np.log(2 * np.pi * sigma2) + r @ r / sigma2)


def resms_of(y, X):
    r = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return r @ r / (len(y) - X.shape[1])


def test_ml_is_the_density_at_the_estimates():
    X = make_design(15, 3)
    y = np.random.default_rng(1).normal(10, 3, 15)
    resms = resms_of(y, X)
    found = compute_ml(np.array([resms]), np.array([15.0]), np.array([12.0]), np.float64)
    assert_allclose(found.value, gaussian_llh(y, X, resms * 12 / 15), rtol=RTOL)


def test_reml_is_the_density_of_contrasts_without_x():
    # The density of K'y, K orthonormal with K'X = 0, less ln|X'X| / 2, as lme4 has it.
    X = make_design(15, 3)
    y = np.random.default_rng(1).normal(10, 3, 15)
    K = np.linalg.qr(X, mode="complete")[0][:, 3:]
    resms = resms_of(y, X)
    density = gaussian_llh(K.T @ y, np.zeros((12, 1)), resms)
    log_det = np.linalg.slogdet(X.T @ X)[1]
    known = Likelihood(np.array([log_det_of_design(X)]), np.zeros(1))
    found = compute_reml(np.array([resms]), np.array([15.0]), 3, known, np.float64)
    assert_allclose(found.value, density - log_det / 2, rtol=RTOL)


def covariance(X, resms):
    return (resms * np.linalg.inv(X.T @ X))[None]


def test_the_covariance_gives_the_determinant_of_the_design():
    X = make_design(20, 4)
    found = log_det_of_covariance(covariance(X, 2.5), np.array([2.5]), np.float64)
    assert_allclose(found.value, log_det_of_design(X), rtol=RTOL)


@given(st.integers(2, 5), st.floats(0, 200), st.integers(0, 10**6))
def test_rounding_a_covariance_changes_the_determinant_within_the_bound(p, offset, seed):
    X = make_design(30, p, offset, seed)
    single = covariance(X, 2.5).astype(np.float32).astype(float)
    found = log_det_of_covariance(single, np.array([np.float32(2.5)]), np.float32)
    if found.error[0] < 0.1:  # elsewhere a first-order bound means nothing
        # 1.2: terms of second order; 1e-10: of the covariance in double precision.
        assert abs(found.value - log_det_of_design(X))[0] <= 1.2 * found.error[0] + 1e-10


@pytest.mark.parametrize(("offset", "largest"), [(0, 3e-6), (10, 1e-4), (50, 3e-3)])
def test_how_many_digits_single_precision_leaves(offset, largest):
    # An intercept and covariates of mean `offset` and sd 1.  The bound grows with the square of
    # the offset: 1e-7 times the variance inflation of the intercept.
    errors, bounds = [], []
    for seed in range(50):
        X = make_design(60, 3, offset, seed)
        single = covariance(X, 1.0).astype(np.float32).astype(float)
        found = log_det_of_covariance(single, np.ones(1), np.float32)
        errors.append(abs(found.value[0] - log_det_of_design(X)))
        bounds.append(found.error[0])
    assert max(errors) < largest
    assert max(bounds) < 10 * largest


@pytest.mark.parametrize(
    "cov", [[[1, 2], [2, 1]], [[0, 0], [0, 0]], [[1, np.nan], [np.nan, 1]], [[1, 1], [1, 1]]]
)
def test_a_covariance_without_digits_is_imprecise_without_an_error(cov):
    good = np.eye(2)
    found = log_det_of_covariance(np.array([cov, good], float), np.ones(2), np.float32)
    assert found.error[0] > 1
    assert_allclose(found.value[1], 0, atol=1e-15)  # ln|I|, to rounding


def test_a_log_likelihood_is_known_to_half_a_unit_in_the_last_place():
    llh = np.random.default_rng(0).normal(-5000, 1000, 1000)
    single = llh.astype(np.float32).astype(float)
    found = read_likelihood(single, np.full(1000, 900.0), np.float32)
    assert (np.abs(single - llh) <= 1.001 * found.error).all()  # relative to the rounded value
    assert found.error.max() < 1e-3


def test_chi2_is_twice_the_gain_and_never_negative():
    smaller = Likelihood(np.array([-10.0, -10.0]), np.zeros(2))
    larger = Likelihood(np.array([-8.5, -10.5]), np.zeros(2))
    assert_array_equal(compute_chi2(smaller, larger).value, [3, 0])


def test_a_gain_within_rounding_is_none():
    smaller = Likelihood(np.array([-10.0, -10.0]), np.full(2, 0.01))
    larger = Likelihood(np.array([-9.99, -9.9]), np.full(2, 0.01))
    chi2 = compute_chi2(smaller, larger)
    assert chi2.value[0] == 0
    assert_allclose(chi2.value[1], 0.2, rtol=1e-12)  # of numbers around 10
    assert_allclose(chi2.error, 0.04, rtol=1e-12)


def test_a_gain_that_two_formulas_of_the_same_density_make_is_none():
    X = make_design(1000, 3)
    y = np.random.default_rng(1).normal(1e4, 1, 1000)
    n, dtype = np.array([1000.0]), np.float64
    with_noise = gaussian_llh(y, X, (one := resms_of(y, X)) * 997 / 1000) * (1 + 1e-13)
    smaller = compute_ml(np.array([one]), n, n - 3, dtype)
    larger = read_likelihood(np.array([with_noise]), n, dtype)
    assert larger.value != smaller.value
    assert compute_chi2(smaller, larger).value == 0
    assert compute_chi2(smaller, larger).error < 1e-6


def test_an_unknown_log_likelihood_gives_an_unknown_chi2():
    chi2 = compute_chi2(Likelihood(np.array([np.nan]), np.zeros(1)), Likelihood(*np.zeros((2, 1))))
    assert np.isnan(chi2.value).all()
