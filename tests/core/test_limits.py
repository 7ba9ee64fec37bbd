"""Limits of effects against the integral and the series that define noncentral t and F."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, special, stats

from nipype_blm.core.limits import (
    compute_cohens_d,
    compute_partial_r2_limits,
    find_noncentral_f,
    find_noncentral_t,
)


def integrate_t(t, dof, delta):
    """P(T <= t), T = (z + delta) / sqrt(chi2 / dof), given the chi variable s."""

    def density(s):
        log = np.log(2 * s) + stats.chi2.logpdf(s**2, dof)
        return special.ndtr(t * s / np.sqrt(dof) - delta) * np.exp(log)

    middle = np.sqrt(dof)
    return integrate.quad(density, max(middle - 9, 0), middle + 9, epsabs=1e-11, limit=200)[0]


def sum_f(F, q, dof, lam):
    """P(F' <= F): a Poisson mixture of beta distributions."""
    terms = np.arange(2000)
    x = q * F / (q * F + dof)
    weights = stats.poisson.pmf(terms, lam / 2)
    return weights @ special.betainc(q / 2 + terms, dof / 2, x)


@pytest.mark.parametrize("p", [0.975, 0.025])
def test_t_has_the_tail_that_was_asked_for(p):
    t = np.array([0, 0.3, 2, 2, 5, 12, 40])
    dof = np.array([10.0, 3, 2, 500, 20, 7, 30])
    found = find_noncentral_t(t, dof, p)
    got = [integrate_t(*each) for each in zip(t, dof, found, strict=True)]
    assert_allclose(got, p, atol=1e-6)  # roots are found to 1e-6 standard errors


@pytest.mark.parametrize("p", [0.975, 0.025])
def test_f_has_the_tail_that_was_asked_for_or_a_limit_of_0(p):
    F = np.array([0, 1e-9, 0.5, 1, 4, 30, 100])
    for q, dof in ((1, 12.0), (3, 40.0)):
        found = find_noncentral_f(F, q, np.full(F.size, dof), p)
        got = np.array([sum_f(x, q, dof, lam) for x, lam in zip(F, found, strict=True)])
        assert_allclose(got[found > 0], p, atol=1e-6)
        assert (got[found == 0] <= p).all()
        assert (found == 0).any()
        assert (found > 0).any()


def test_limits_of_huge_statistics_are_in_proportion():
    dof = np.array([5.0, 50, 1000])
    for p in (0.975, 0.025):
        # For t far above 1 the normal variable counts for nothing: delta = t s / sqrt(dof).
        ratio = find_noncentral_t(np.full(3, 1e7), dof, p) / 1e7
        assert_allclose(ratio, np.sqrt(stats.chi2.ppf(1 - p, dof) / dof), rtol=1e-3)
        ratio = find_noncentral_f(np.full(3, 1e9), 2, dof, p) / 2e9
        assert_allclose(ratio, stats.chi2.ppf(1 - p, dof) / dof, rtol=5e-3)


def test_cohens_d_of_two_groups_is_the_difference_in_pooled_sd():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(9) + 1, rng.standard_normal(14)
    pooled = np.sqrt((8 * a.var(ddof=1) + 13 * b.var(ddof=1)) / 21)
    T = stats.ttest_ind(a, b).statistic
    shape = np.array([1 / 9 + 1 / 14])
    found = compute_cohens_d(np.array([T]), np.array([21.0]), shape)
    assert_allclose(found.value, (a.mean() - b.mean()) / pooled, rtol=1e-12)
    mirrored = compute_cohens_d(np.array([-T]), np.array([21.0]), shape)
    assert_allclose([*mirrored], [-found.value, -found.upper, -found.lower], rtol=1e-12)
    assert found.lower < found.value < found.upper


def test_limits_of_partial_r2_cover_that_of_the_population():
    rng = np.random.default_rng(1)
    n, sets, effect = 30, 2000, 0.5
    x = rng.standard_normal(n)
    x = (x - x.mean()) / x.std()
    Y = effect * x + rng.standard_normal((sets, n))
    Y -= Y.mean(axis=1, keepdims=True)
    slope = Y @ x / n
    rss = ((Y - slope[:, None] * x) ** 2).sum(axis=1)
    F = n * slope**2 / (rss / (n - 2))
    dof, n_obs = np.full(sets, n - 2.0), np.full(sets, float(n))
    found = compute_partial_r2_limits(F, 1, dof, n_obs)
    assert_allclose(found.value, 1 - rss / (Y**2).sum(axis=1), rtol=1e-9)
    truth = effect**2 / (1 + effect**2)
    covered = np.mean((found.lower <= truth) & (truth <= found.upper))
    assert abs(covered - 0.95) < 3.3 * np.sqrt(0.95 * 0.05 / sets)  # 1 in 1,000 fails by chance
