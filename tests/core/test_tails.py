"""Tails of T and F against quadrature with mpmath, closed forms, series and R."""

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath.calculus.quadrature import GaussLegendre
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_ndtr

from nipype_blm.core.tails import compute_f_tails, compute_log10_p, compute_p, compute_t_tails

# The terms of ln p that cancel are a few hundred at most, so that some 100 roundings of
# 1e-16 remain; the largest error seen is 8e-14.
LOG_RTOL = 1e-12
# Where p is near 1, ln p inherits the absolute error of 1 - p.
LOG_ATOL = 1e-13
# scipy's ndtri_exp is right to 7e-13 (worst at ln p = -250,000).
Z_RTOL = 1e-11
# Around z = 0 it is the absolute error of p that counts, times sqrt(2 pi).
Z_ATOL = 1e-12

T = [1e-9, 0.001, 0.3, 1, 1.7, 2.5, 4, 8, 20, 38, 100, 1e4, 1e5, 1e6]
T_DF = [0.5, 1, 2, 4.7, 11, 100, 1000, 123456.7, 1e5, 1e7]
F = [1e-12, 0.001, 0.3, 0.95, 1.3, 3, 10, 1e4, 1e12]
F_DF1 = [1, 2, 7, 24, 50]
F_DF2 = [0.5, 3, 33.3, 1000, 1e7]

# Of mpmath's quadrature, which begins with few nodes and doubles them while it can, the last step.
GAUSS = GaussLegendre(mp.mp)

t_values = st.floats(-1e6, 1e6)
f_values = st.floats(1e-12, 1e12)
dofs = st.floats(0.5, 1e7)
numerator_dofs = st.integers(1, 50)


def _log_beta_tail(a: mp.mpf, b: mp.mpf, x: mp.mpf, y: mp.mpf) -> mp.mpf:
    """ln I_x(a, b) by quadrature over w, the integration variable of B being x exp(-w / a)."""
    integral = mp.fsum(
        weight * mp.exp(-w + (b - 1) * mp.log1p(-x / y * mp.expm1(-w / a)))
        for interval in itertools.pairwise(map(mp.mpf, [0, 1, 5, 20, 60, 200]))
        for w, weight in GAUSS.get_nodes(*interval, degree=5, prec=mp.mp.prec)
    )
    log_beta = mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)
    return a * mp.log(x) + (b - 1) * mp.log(y) - mp.log(a) - log_beta + mp.log(integral)


def _log_f_tails(f: float, df1: float, df2: float) -> tuple[mp.mpf, mp.mpf]:
    """ln P(F < f) and ln P(F > f), from the one that is far enough from 1."""
    a, b = mp.mpf(df2) / 2, mp.mpf(df1) / 2
    x = a / (a + b * mp.mpf(f))
    y = b * mp.mpf(f) / (a + b * mp.mpf(f))
    if y * (a + b) < b:
        lower = _log_beta_tail(b, a, y, x)
        return lower, mp.log1p(-mp.exp(lower))
    upper = _log_beta_tail(a, b, x, y)
    return mp.log1p(-mp.exp(upper)), upper


def _deviate_error(z: float, lower: mp.mpf, upper: mp.mpf) -> float:
    """Distance of z from the exact deviate: one Newton step on the smaller normal tail."""
    z, log_tail = (mp.mpf(z), upper) if upper < lower else (-mp.mpf(z), lower)
    log_normal = mp.log(mp.erfc(z / mp.sqrt(2)) / 2)
    log_density = -z * z / 2 - mp.log(2 * mp.pi) / 2
    return float((log_normal - log_tail) / mp.exp(log_density - log_normal))


def test_the_oracle_agrees_with_the_incomplete_beta_function_of_mpmath() -> None:
    with mp.workdps(50):
        for a, b, x in [(5, 2.5, 0.3), (0.25, 25, 0.01), (50, 0.5, 0.9), (500, 25, 0.94)]:
            exact = mp.log(mp.betainc(a, b, 0, x, regularized=True))
            ours = _log_beta_tail(mp.mpf(a), mp.mpf(b), mp.mpf(x), 1 - mp.mpf(x))
            # Quadrature of an entire integrand, cut at exp(-200).
            assert abs(ours / exact - 1) < 1e-40


def test_t_tails_are_those_of_quadrature() -> None:
    grid = list(itertools.product(T, T_DF))
    t, df = np.array(grid).T
    up, down = compute_t_tails(t, df), compute_t_tails(-t, df)
    with mp.workdps(30):
        for i, point in enumerate(grid):
            upper = _log_f_tails(mp.mpf(point[0]) ** 2, 1, point[1])[1] - mp.log(2)
            lower = mp.log1p(-mp.exp(upper))
            assert_allclose(up.log_sf[i], float(upper), LOG_RTOL, LOG_ATOL, err_msg=f"{point}")
            assert_allclose(down.log_sf[i], float(lower), LOG_RTOL, 0, err_msg=f"{point}")
            error = _deviate_error(up.z[i], lower, upper)
            assert abs(error) <= Z_ATOL + Z_RTOL * up.z[i], point
    assert_array_equal(down.z, -up.z)


def test_f_tails_are_those_of_quadrature() -> None:
    grid = list(itertools.product(F, F_DF1, F_DF2))
    ours = compute_f_tails(*np.array(grid).T)
    with mp.workdps(30):
        for i, point in enumerate(grid):
            lower, upper = _log_f_tails(*point)
            assert_allclose(ours.log_sf[i], float(upper), LOG_RTOL, LOG_ATOL, err_msg=f"{point}")
            error = _deviate_error(ours.z[i], lower, upper)
            assert abs(error) <= Z_ATOL + Z_RTOL * abs(ours.z[i]), point


@given(f_values, dofs)
def test_two_numerator_degrees_of_freedom_have_a_closed_form(f: float, df2: float) -> None:
    exact = -df2 / 2 * np.log1p(2 * f / df2)
    assert_allclose(compute_f_tails(f, 2, df2).log_sf, exact, LOG_RTOL, LOG_ATOL)


@given(f_values, numerator_dofs)
def test_two_denominator_degrees_of_freedom_have_a_closed_form(f: float, df1: int) -> None:
    exact = np.log(-np.expm1(-df1 / 2 * np.log1p(2 / (df1 * f))))
    assert_allclose(compute_f_tails(f, df1, 2).log_sf, exact, LOG_RTOL, LOG_ATOL)


@given(t_values)
def test_one_degree_of_freedom_is_the_cauchy_distribution(t: float) -> None:
    exact = np.log(np.arctan2(1, t) / np.pi)
    assert_allclose(compute_t_tails(t, 1).log_sf, exact, LOG_RTOL, LOG_ATOL)


@given(st.lists(t_values, min_size=2, unique=True), dofs)
def test_tails_are_monotone_in_t(values: list[float], df: float) -> None:
    tails = compute_t_tails(np.sort(values), df)
    # Values closer than the rounding errors may change places.
    assert np.all(np.diff(tails.log_sf) <= LOG_ATOL + LOG_RTOL * np.abs(tails.log_sf[1:]))
    assert np.all(np.diff(tails.z) >= -Z_ATOL - Z_RTOL * np.abs(tails.z[1:]))


@given(st.lists(f_values, min_size=2, unique=True), numerator_dofs, dofs)
def test_tails_are_monotone_in_f(values: list[float], df1: int, df2: float) -> None:
    tails = compute_f_tails(np.sort(values), df1, df2)
    # Values closer than the rounding errors may change places.
    assert np.all(np.diff(tails.log_sf) <= LOG_ATOL + LOG_RTOL * np.abs(tails.log_sf[1:]))
    assert np.all(np.diff(tails.z) >= -Z_ATOL - Z_RTOL * np.abs(tails.z[1:]))


@given(t_values, dofs)
def test_t_is_symmetric(t: float, df: float) -> None:
    up, down = compute_t_tails(t, df), compute_t_tails(-t, df)
    # Two probabilities, each right to 1e-13.
    assert_allclose(np.exp(up.log_sf) + np.exp(down.log_sf), 1, atol=2e-13)
    assert down.z == -up.z
    assert up.z * t >= 0


@given(t_values, dofs)
def test_f_with_one_numerator_degree_of_freedom_is_t_squared(t: float, df: float) -> None:
    two_sided = np.log(2) + compute_t_tails(abs(t), df).log_sf
    assert_allclose(compute_f_tails(t * t, 1, df).log_sf, two_sided, LOG_RTOL, LOG_ATOL)


@given(st.floats(1e-6, 1e6), numerator_dofs, numerator_dofs)
def test_exchanging_the_degrees_of_freedom_inverts_f(f: float, df1: int, df2: int) -> None:
    z, inverse = compute_f_tails(f, df1, df2).z, compute_f_tails(1 / f, df2, df1).z
    # 1 / f is rounded: ln f moves by 1e-16, ln p by up to 25 times that, z by less than Z_ATOL.
    assert_allclose(z, -inverse, Z_RTOL, Z_ATOL)


@given(st.floats(-8, 8), st.floats(1e5, 1e7))
def test_z_follows_its_expansion_for_many_degrees_of_freedom(t: float, df: float) -> None:
    # Cornish and Fisher's series in 1 / df; its next term is of this size.
    remainder = 0.1 * abs(t) * (1 + t**6) / df**3
    series = t - (t**3 + t) / (4 * df) + (13 * t**5 + 8 * t**3 + 3 * t) / (96 * df**2)
    assert_allclose(compute_t_tails(t, df).z, series, Z_RTOL, Z_ATOL + remainder)


@given(t_values)
def test_infinite_degrees_of_freedom_are_the_normal_distribution(t: float) -> None:
    # log_ndtr rounds p near 1 as we do.
    assert_allclose(compute_t_tails(t, np.inf).log_sf, log_ndtr(-t), LOG_RTOL, LOG_ATOL)
    assert_allclose(compute_t_tails(t, np.inf).z, t, Z_RTOL, Z_ATOL)


def test_infinite_denominator_degrees_of_freedom_are_chi_squared() -> None:
    f = np.array([0.1, 1, 10, 1000])
    # Chi-squared with four degrees of freedom: (1 + x / 2) exp(-x / 2) at x = 4 f.
    exact = np.log1p(2 * f) - 2 * f
    assert_allclose(compute_f_tails(f, 4, np.inf).log_sf, exact, LOG_RTOL, LOG_ATOL)


def test_tails_beyond_the_smallest_double_stay_finite() -> None:
    t, df = np.array([1e5, 1e6, 40, 1e15, 1e15]), np.array([100, 100, 1e5, 0.5, 1e7])
    tails = compute_t_tails(t, df)
    assert np.isfinite(tails.log_sf).all()
    assert np.isfinite(tails.z).all()
    # P(F < f) underflows, and P(F > f) rounds to 1.
    low = compute_f_tails(1e-20, 50, 50)
    assert low.log_sf == 0
    assert -50 < low.z < -40


@pytest.mark.parametrize("df2", [1, 10, 1000])
def test_tails_go_on_to_the_statistic_from_which_on_they_are_infinite(df2: float) -> None:
    f = np.array([1e100, 1e149, 1e151, 1e200, 1e299, 9e299])
    exact = -df2 / 2 * np.log1p(2 * f / df2)  # of two numerator degrees of freedom
    assert_allclose(compute_f_tails(f, 2, df2).log_sf, exact, LOG_RTOL)
    assert compute_f_tails(1e300, 2, df2).log_sf == -np.inf
    t = np.array([1e100, 9e149])
    assert_allclose(compute_t_tails(t, 1).log_sf, -np.log(np.pi * t), LOG_RTOL)  # Cauchy
    assert compute_t_tails(1.01e150, df2).log_sf == -np.inf


def test_infinite_and_missing_statistics() -> None:
    tails = compute_t_tails([np.inf, -np.inf, 0.0, np.nan, 1.0], [5, 5, 5, 5, np.nan])
    assert_array_equal(tails.log_sf, [-np.inf, 0, np.log(0.5), np.nan, np.nan])
    assert_array_equal(tails.z, [np.inf, -np.inf, 0, np.nan, np.nan])
    tails = compute_f_tails([np.inf, 0.0, -1.0, np.nan], 3, 7)
    assert_array_equal(tails.log_sf, [-np.inf, 0, 0, np.nan])
    assert_array_equal(tails.z, [np.inf, -np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("df", [0, -1, np.nan])
def test_degrees_of_freedom_that_are_not_positive_give_nan(df: float) -> None:
    for tails in (compute_t_tails(1, df), compute_f_tails(1, df, 5), compute_f_tails(1, 5, df)):
        assert_array_equal(tails, np.nan)


def test_arguments_are_broadcast_and_kept() -> None:
    t = np.arange(12.0).reshape(3, 4)[:, ::2]
    t.flags.writeable = False
    df = np.array([3, 900])
    tails = compute_t_tails(t, df)
    for i, j in np.ndindex(t.shape):
        assert tails.log_sf[i, j] == compute_t_tails(t[i, j], df[j]).log_sf
        assert tails.z[i, j] == compute_t_tails(t[i, j], df[j]).z
    pairs = [(1, 7), (2, 7), (2, 8), (2, 7), (3, 7), (3, 7), (1, 7)]  # either one, both, or none
    together = compute_f_tails(2, *np.array(pairs).T)
    for i, (df1, df2) in enumerate(pairs):
        assert together.log_sf[i] == compute_f_tails(2, df1, df2).log_sf
        assert together.z[i] == compute_f_tails(2, df1, df2).z
    assert compute_t_tails(2, 3).log_sf.shape == ()
    assert compute_t_tails([], 3).log_sf.shape == (0,)
    assert compute_t_tails(np.float32(2), 3).log_sf.dtype == np.float64
    assert compute_f_tails(np.ones((5, 1)), [1, 2], 7).z.shape == (5, 2)


def test_t_and_f_agree_with_r(require_command: Callable[[str, str], str], tmp_path: Path) -> None:
    Rscript = require_command("Rscript", "r-base-core")
    rng = np.random.default_rng(7)
    n = 2000
    t = rng.normal(0, 1, n) * 10 ** rng.uniform(-3, 5, n)
    f = 10 ** rng.uniform(-6, 6, n)
    df1 = rng.integers(1, 51, n)
    # From 4e5 = 10^5.602 degrees of freedom on, R approximates T.
    df2 = 10 ** rng.uniform(-0.3, 5.6, n)
    np.savetxt(tmp_path / "in.txt", np.column_stack([t, f, df1, df2]), fmt="%.17g")
    script = """
        x <- read.table("in.txt")
        p <- cbind(pt(x[, 1], x[, 4], lower.tail = FALSE, log.p = TRUE),
                   pf(x[, 2], x[, 3], x[, 4], lower.tail = FALSE, log.p = TRUE))
        write.table(format(p, digits = 17), "out.txt", quote = FALSE, row.names = FALSE,
                    col.names = FALSE)
    """
    subprocess.run([Rscript, "--vanilla", "-e", script], cwd=tmp_path, check=True)
    log_pt, log_pf = np.loadtxt(tmp_path / "out.txt", unpack=True)
    assert_allclose(compute_t_tails(t, df2).log_sf, log_pt, LOG_RTOL, LOG_ATOL)
    # Where p underflows, R 4.2's log pf is -Inf or up to 6 % off: for f = 57 with 33 and 319,890
    # degrees of freedom it is -812, and -864 with mpmath.
    kept = log_pf > -575
    assert kept.mean() > 0.8
    assert_allclose(compute_f_tails(f, df1, df2).log_sf[kept], log_pf[kept], LOG_RTOL, LOG_ATOL)


def test_p_and_log10_p_are_those_of_the_logarithm() -> None:
    p = np.array([1.0, 0.05, 1e-300])
    assert_allclose(compute_p(np.log(p)), p, rtol=1e-13)  # 300 orders are 13 digits of ln p
    assert_allclose(compute_log10_p(np.log(p)), -np.log10(p), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("limit", [-323.0, 323.0, -500.0])
def test_an_infinite_log10_p_becomes_the_limit_with_its_own_sign(limit: float) -> None:
    log_p = np.array([-np.inf, np.inf, -1000 * np.log(10), -np.log(10), 0.0])
    expected = [abs(limit), -abs(limit), 1000, 1, 0]
    assert_allclose(compute_log10_p(log_p, limit), expected, rtol=1e-14)
    assert_allclose(compute_log10_p(log_p)[:2], [np.inf, -np.inf])


def test_what_no_number_can_hold_is_a_p_of_0() -> None:
    assert compute_p(np.array([-np.inf, -1e5])).tolist() == [0, 0]
