"""Estimates against the dense model at our D, without R, and the four scoring methods."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from oracles import dense
from oracles.designs import KINDS, make_designs

from nipype_blm.core.factors import RandomFactor

# A tolerance at which the step after the last evaluation is below 1e-6 standard errors: what
# belongs to the last evaluation belongs to D as well.
TIGHT = 1e-12


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_and_degrees_of_freedom_are_those_of_the_dense_model(
    fit_mixed, contrasts, kind, reml
) -> None:
    design = make_designs(np.random.default_rng(KINDS.index(kind)), kind, n_voxels=3)
    fit = fit_mixed(
        design.Y, design.X, design.factors, contrasts, reml=reml, safe_mode=False, tol=TIGHT
    )
    assert fit.fitted.size
    for v in fit.fitted:
        y, X, factors = dense.drop_missing(design.Y[:, v], design.X, design.factors)
        expected = dense.criterion(y, X, factors, fit.blocks(v), reml=reml)
        # A hundred roundings of the largest term, which is log D or the sum of squares over it.
        assert_allclose(-2 * fit.llh[v], expected.deviance, rtol=0, atol=1e-8)
        assert_allclose(fit.sigma2[v], expected.sigma2, rtol=1e-8)
        errors = (fit.beta[v] - expected.beta) / expected.std_error
        assert_allclose(errors, 0, atol=1e-8)
        scale = np.outer(expected.std_error, expected.std_error)
        assert_allclose(fit.cov[v] / scale, expected.cov_beta / scale, rtol=0, atol=1e-8)
        residuals = y - X @ fit.beta[v]
        assert_allclose(fit.resms[v], residuals @ residuals / (len(y) - 3), rtol=1e-9)
        tests = dense.satterthwaite(y, X, factors, fit.blocks(v), contrasts, reml=reml)
        assert_allclose(fit.stat[v], [test.stat for test in tests], rtol=1e-7, atol=1e-7)
        # Third derivatives times the step, which may be 1e-6 standard errors.
        assert_allclose(fit.dof[v], [test.df for test in tests], rtol=1e-5)


@pytest.mark.parametrize("method", ["pSFS", "SFS", "pFS", "FS"])
@pytest.mark.parametrize("kind", KINDS)
def test_scoring_reaches_the_likelihood_of_the_exact_engine(fit_mixed, kind, method) -> None:
    design = make_designs(np.random.default_rng(KINDS.index(kind)), kind)
    data = design.Y, design.X, design.factors
    for reml in (True, False):
        exact = fit_mixed(*data, reml=reml, safe_mode=False)
        scored = fit_mixed(*data, reml=reml, safe_mode=False, method=method, tol=1e-10)
        np.testing.assert_array_equal(scored.status, exact.status)
        # Steps that promise less than 1e-10 are left out, at rates of convergence below 0.9999.
        assert_allclose(scored.llh, exact.llh, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("sd", [1.0, 1e2, 1e4])
def test_variances_of_a_balanced_study_are_those_of_its_analysis_of_variance(
    fit_mixed, sd, reml
) -> None:
    """However many times that of the residuals the variance between levels is."""
    rng = np.random.default_rng(0)
    n_levels, n_each, n_voxels = 12, 5, 8
    level = np.repeat(np.arange(n_levels, dtype=np.int32), n_each)
    Y = sd * rng.normal(size=(n_levels, n_voxels))[level] + rng.normal(size=(60, n_voxels))
    factor = RandomFactor("f1", level, np.ones((60, 1)))
    fit = fit_mixed(Y, np.ones((60, 1)), [factor], reml=reml, tol=TIGHT)
    means = Y.reshape(n_levels, n_each, n_voxels).mean(axis=1)
    within = ((Y - means[level]) ** 2).sum(axis=0) / (60 - n_levels)
    between = n_each * ((means - means.mean(axis=0)) ** 2).sum(axis=0)
    between /= n_levels - 1 if reml else n_levels
    assert np.all(between > within)
    # Roundings of sums of squares, of which the residuals are 1 / sd^2; six digits of the search.
    rtol = 1e-6 + 1e-14 * sd**2
    assert_allclose(fit.sigma2, within, rtol=rtol)
    assert_allclose(fit.D[0][:, 0, 0], (between / within - 1) / n_each, rtol=rtol)
