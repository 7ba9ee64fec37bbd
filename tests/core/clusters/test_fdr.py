"""q and Bonferroni against scipy, and in closed form where p underflows."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import false_discovery_control

from nipype_blm.core.clusters.fdr import compute_q, correct_bonferroni

# Logarithms of sums of two or three terms of at most a few hundred.
RTOL = 1e-12


@pytest.mark.parametrize("method", ["bh", "by"])
@pytest.mark.parametrize("n", [1, 2, 1000])
def test_q_is_that_of_scipy(method, n):
    p = np.random.default_rng(n).random(n) ** 3
    p[::5] = p[0]  # ties
    assert_allclose(np.exp(compute_q(np.log(p), method)), false_discovery_control(p, method=method))


def test_what_is_missing_is_no_test_and_shapes_are_kept():
    p = np.random.default_rng(1).random((4, 5)) ** 4
    p[1, 2:] = np.nan
    q = np.exp(compute_q(np.log(p)))
    is_test = ~np.isnan(p)
    assert_allclose(q[is_test], false_discovery_control(p[is_test]))
    assert np.isnan(q[~is_test]).all()
    bonferroni = np.exp(correct_bonferroni(np.log(p)))
    assert_allclose(bonferroni, np.minimum(p * 17, 1))


def test_p_below_all_numbers_has_a_q():
    log_p = np.array([-2000.0, -1e6, 0.0, -3000.0])
    by = np.log(1 + 1 / 2 + 1 / 3 + 1 / 4)
    expected = np.array([-2000 + np.log(4 / 3), -1e6 + np.log(4), 0.0, -3000 + np.log(2)])
    assert_allclose(compute_q(log_p), expected, rtol=RTOL)
    assert_allclose(compute_q(log_p, "by"), np.minimum(expected + by, 0), rtol=RTOL)
    assert_allclose(correct_bonferroni(log_p), np.minimum(log_p + np.log(4), 0), rtol=RTOL)
    assert_allclose(compute_q([-np.inf, -1.0]), [-np.inf, -1.0])


@pytest.mark.parametrize("correct", [compute_q, lambda p: compute_q(p, "by"), correct_bonferroni])
def test_no_test_has_no_correction(correct):
    assert correct([]).shape == (0,)
    assert np.isnan(correct([np.nan, np.nan])).all()


def test_what_is_no_logarithm_of_p_is_refused():
    with pytest.raises(ValueError, match=r"ln p is 0\.5, expected natural logarithms"):
        compute_q([-3.0, 0.5])
    with pytest.raises(ValueError, match="'bj', expected 'bh' or 'by'"):
        compute_q([-1.0], "bj")  # type: ignore[arg-type]
