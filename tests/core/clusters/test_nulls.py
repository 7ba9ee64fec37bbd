"""Corrected p by counting, and from tails, against enumeration and exact distributions."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import genpareto, goodness_of_fit, norm

from nipype_blm.core.clusters.nulls import FEW, TIE, corrected_p, extend_p, fit_tail
from nipype_blm.core.clusters.tail import Tail, _compute_distance


def test_p_is_the_share_of_all_sign_flips_that_reach_the_observed():
    x = np.random.default_rng(1).standard_normal((6, 4)) + 0.5
    flips = np.array(list(itertools.product([1, -1], repeat=6)))  # the first is the identity
    null = (flips @ x).max(axis=1)
    observed = x.sum(axis=0)
    expected = [np.mean([(f @ x).max() >= v - 1e-9 for f in flips]) for v in observed]
    assert_array_equal(corrected_p(observed, null, has_identity=True), expected)
    assert_array_equal(corrected_p(observed, null[1:]), expected)
    assert corrected_p(null.max(), null[1:]) >= 1 / 64


def test_p_of_random_resamplings_counts_the_observed_map_once():
    null = [3.0, 1.0, 2.0, 5.0]
    assert_allclose(corrected_p([6.0, 5.0, 2.5, 0.0, -1.0], null), [0.2, 0.4, 0.6, 1.0, 1.0])
    assert corrected_p(1.0, []) == 1.0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_differs_by_rounding_is_a_tie(scale, sign):
    null = sign * scale * np.array([1.0, 2.0])
    top = null.max()
    above = top + 0.5 * TIE * abs(top)
    assert corrected_p(above, null) == corrected_p(top, null) == 2 / 3
    assert corrected_p(top + 2 * TIE * abs(top), null) == 1 / 3


def test_what_is_missing_has_no_p_and_null_has_no_missing():
    p = corrected_p([[np.nan, 1.0], [np.inf, -np.inf]], [0.5, 1.5])
    assert_array_equal(p, [[np.nan, 2 / 3], [1 / 3, 1.0]])
    with pytest.raises(ValueError, match="none of them NaN"):
        corrected_p([1.0], [np.nan, 1.0])
    with pytest.raises(ValueError, match="one number for each"):
        corrected_p([1.0], [[1.0], [2.0]])


def draw_maxima(n: int, seed: int) -> np.ndarray:
    """Maxima of 1,000 normal deviates."""
    lower = np.random.default_rng(seed).random(n) ** (1 / 1000)
    return norm.ppf(lower)


P = np.array([0.05, 0.02, 0.01, 0.005, 0.002, 0.001])
EXACT = norm.isf(-np.expm1(np.log1p(-P) / 1000))


def test_tails_of_500_maxima_have_the_true_p_on_average():
    found = []
    for seed in range(100):
        null = draw_maxima(500, seed)
        found.append(extend_p(EXACT, null, fit_tail(null)).p)
    bias = np.mean(found, axis=0) / P
    # The mean of 100 has an error of 2 % at 0.05 and of about 8 % at 0.001.  The shape, which
    # is -0.1 here, is drawn to 0, which makes p too large, never too small.
    assert (bias > 0.92).all()
    assert (bias[:2] < 1.15).all()
    assert (bias < 1.6).all()


def test_a_tail_changes_only_what_few_resampled_maps_reach():
    null = draw_maxima(500, 3)
    tail = fit_tail(null)
    observed = np.sort(draw_maxima(300, 4))
    counted = corrected_p(observed, null)
    extended = extend_p(observed, null, tail)
    n_reaching = (null >= observed[:, None]).sum(axis=1)
    assert_array_equal(extended.from_tail, n_reaching < FEW)
    assert_array_equal(extended.p[~extended.from_tail], counted[~extended.from_tail])
    assert (np.diff(extended.p[extended.from_tail]) <= 0).all()
    without = extend_p(observed, null, None)
    assert_array_equal(without.p, counted)
    assert not without.from_tail.any()


def test_no_p_is_far_below_what_resamplings_can_tell():
    null = draw_maxima(500, 5)
    p = extend_p([50.0, 1e300, np.inf, np.nan], null, fit_tail(null)).p
    assert_allclose(p, [1 / 50100, 1 / 50100, 1 / 50100, np.nan])
    of_all = 1 / 1024  # more than which do not differ, though 500 were drawn
    with_least = extend_p([50.0, 0.0], null, fit_tail(null), least=of_all)
    assert with_least.p.tolist() == [of_all, 1.0]
    assert with_least.from_tail.tolist() == [True, False]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_tail_does_not_depend_on_units(scale):
    null = draw_maxima(500, 6)
    one, other = fit_tail(null), fit_tail(scale * null)
    assert_allclose(other.compute_p(scale * EXACT), one.compute_p(EXACT), rtol=1e-6)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 1e-12, 0.3])
def test_p_of_a_tail_is_that_of_scipy(shape):
    tail = Tail(threshold=4.0, share=0.25, shape=shape, scale=0.7, n_fitted=100, least=1e-9)
    x = np.linspace(4, 9, 50)
    expected = 0.25 * genpareto.sf(x - 4, shape, scale=0.7)
    assert_allclose(tail.compute_p(x), np.maximum(expected, 1e-9), rtol=1e-7)


def test_the_distance_is_that_of_anderson_and_darling():
    x = np.sort(genpareto.rvs(0.1, scale=2, size=60, random_state=1))
    known = {"c": 0.1, "loc": 0, "scale": 2}
    expected = goodness_of_fit(
        genpareto, x, known_params=known, statistic="ad", n_mc_samples=1
    ).statistic
    assert_allclose(_compute_distance(genpareto.logsf(x, 0.1, scale=2)), expected, rtol=1e-10)


def test_a_threshold_rises_until_the_tail_fits():
    """Half of the top quarter is of another law: a clump, far below the rest."""
    rng = np.random.default_rng(7)
    null = np.concatenate([rng.random(1500), 1.0 + rng.random(260), 6 + rng.exponential(size=240)])
    tail = fit_tail(null)
    assert tail.threshold >= 6
    assert tail.n_fitted <= 240


def test_extents_have_a_tail_though_many_are_equal():
    lower = np.random.default_rng(8).random(4000)
    null = np.ceil(-6 * np.log1p(-lower))  # geometric: P(extent > k) is exp(-k / 6)
    tail = fit_tail(null)
    k = np.arange(tail.threshold, tail.threshold + 15)
    # 1,000 fitted peaks: share and scale are known to 3 %, the latter over 15 / 6 e-folds.
    assert_allclose(tail.compute_p(k), np.exp(-(k - 1) / 6), rtol=0.2)


@pytest.mark.parametrize(
    "null",
    [[], [1.0], np.ones(1000), np.arange(199.0), np.repeat([1.0, np.inf], 500), np.zeros(600)],
)
def test_too_few_or_equal_or_infinite_peaks_have_no_tail(null):
    assert fit_tail(null) is None


def test_the_identity_is_not_fitted():
    null = draw_maxima(500, 9)
    assert fit_tail(np.concatenate([[1e6], null]), has_identity=True) == fit_tail(null)
