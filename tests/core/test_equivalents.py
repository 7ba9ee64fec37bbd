"""Statistics with the same p and other degrees of freedom, against closed forms and SciPy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from nipype_blm.core.equivalents import convert_f, convert_t


@pytest.mark.parametrize(("dof", "to_dof"), [(4, 28), (28, 4), (700, 28), (28, 700), (12.5, 12)])
def test_f_of_two_rows_is_that_of_the_closed_form(dof, to_dof):
    f = np.geomspace(1e-6, 1e4, 60)
    log_p = -dof / 2 * np.log1p(2 * f / dof)  # for two rows
    expected = to_dof / 2 * np.expm1(-2 * log_p / to_dof)
    assert log_p.min() < -15
    # The logarithm of the tail has an error of 1e-13, which some of these multiply.
    assert_allclose(convert_f(f, 2, dof, to_dof), expected, rtol=1e-9)


def test_a_tail_that_underflows_has_a_number():
    f = np.array([1e4, 1e6])
    log_p = -500.0 * np.log1p(2 * f / 1000)
    assert log_p.max() < -745  # below the smallest number
    expected = 250 * np.expm1(-2 * log_p / 500)
    assert_allclose(convert_f(f, 2, 1000, 500), expected, rtol=1e-9)


def test_t_has_the_same_p_and_sign():
    t = np.array([-30, -4, -0.3, -1e-5, 0, 1e-5, 0.3, 4, 30])
    found = convert_t(t, 9.5, 28)
    assert_allclose(stats.t.sf(found, 28), stats.t.sf(t, 9.5), rtol=1e-10)
    assert_array_equal(np.sign(found), np.sign(t))


def test_those_that_have_the_degrees_of_freedom_stay_as_they_are():
    t = np.random.default_rng(1).standard_normal(50) * 10
    dof = np.where(np.arange(50) % 2, 28.0, 11.0)
    found = convert_t(t, dof, 28)
    assert_allclose(found[1::2], t[1::2], rtol=1e-15)
    assert (found[::2] != t[::2]).all()
    assert np.isnan(convert_t([np.nan, np.inf, 2], 5, 7)[0])
    assert np.isinf(convert_f([np.inf], 2, 5, 7)[0])
