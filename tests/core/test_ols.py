"""Estimates against least squares in extended precision at every voxel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.linalg import find_dependent_columns
from nipype_blm.core.ols import Estimates
from nipype_blm.core.status import VoxelStatus, is_fitted
from nipype_blm.core.threads import Threads

EPS = np.finfo(float).eps
FITTED, IMPRECISE = VoxelStatus.FITTED, VoxelStatus.FITTED_IMPRECISE


def make_X(n_obs: int, n_params: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n_obs), rng.normal(size=(n_obs, n_params - 1))])


def make_Y(n_obs: int, n_voxels: int = 12, seed: int = 1, mean: float = 3, sd: float = 1):
    """Normal data of which a tenth is missing, nothing at the first three voxels."""
    rng = np.random.default_rng(seed)
    Y = rng.normal(mean, sd, (n_obs, n_voxels))
    missing = rng.random(Y.shape) < 0.1
    missing[:, :3] = False
    Y[missing] = np.nan
    return Y


def _one_hot(n_obs: int, n_levels: int) -> np.ndarray:
    return np.eye(n_levels)[np.arange(n_obs) % n_levels]


def scaled_condition(X: np.ndarray) -> float:
    """Condition number with columns of length 1: what a change of units leaves."""
    return float(np.linalg.cond(X / np.linalg.norm(X, axis=0)))


def assert_agree(estimates: Estimates, solutions: list, precision: float):
    """Compare all fields with the oracle; beta and cov in units of standard errors."""
    assert len(solutions) == estimates.resms.size > 0
    rows, columns = np.tril_indices(len(estimates.beta))
    for j, solution in enumerate(solutions):
        std_error = solution.std_error.astype(float)
        error = (estimates.beta[:, j] - solution.beta) / std_error
        # The parts of beta, the reference among them, are rounded to 53 bits.
        rounding = 10 * EPS * np.abs(solution.beta / solution.std_error).max()
        assert_allclose(error.astype(float), 0, atol=precision + float(rounding))
        assert_allclose(estimates.resms[j], float(solution.resms), rtol=precision)
        cov = float(solution.resms) * solution.inverse[rows, columns].astype(float)
        error = (estimates.cov[:, j] - cov) / (std_error[rows] * std_error[columns])
        assert_allclose(error, 0, atol=precision)
        n_obs = solution.dof + len(std_error)
        assert_allclose(estimates.llh[j], float(solution.llh), rtol=EPS, atol=n_obs * precision)
        assert estimates.dof[j] == solution.dof


@pytest.mark.parametrize("starts", [(), (32,), (7, 40, 41)])
@pytest.mark.parametrize(("n_obs", "n_params"), [(31, 1), (64, 4), (75, 30), (130, 40)])
def test_estimates_are_least_squares_over_the_images_present(
    fit, fitted_solutions, n_obs, n_params, starts
):
    X, Y = make_X(n_obs, n_params), make_Y(n_obs)
    estimates, _ = fit(X, Y, [start for start in starts if start < n_obs])
    assert_array_equal(estimates.status, FITTED)
    assert_array_equal(estimates.n_obs, (~np.isnan(Y)).sum(axis=0))
    assert_array_equal(estimates.slot < 0, estimates.n_obs == n_obs)
    # Worst over 12 voxels of sums of 130 terms; the columns are nearly orthogonal.
    assert_agree(estimates, fitted_solutions(X, Y, estimates), 1e-12)


def test_estimates_agree_with_lstsq_on_shifted_data(fit):
    X, Y = make_X(70, 5), make_Y(70, mean=1e6)
    estimates, _ = fit(X, Y, [20, 45])
    for j, y in enumerate(Y.T):
        present = ~np.isnan(y)
        # lstsq on y itself has errors of 1e-10 standard deviations.
        beta, rss, _, _ = np.linalg.lstsq(X[present], y[present] - 1e6, rcond=None)
        beta[0] += 1e6
        # beta[0] is stored to 1e-10; the other coefficients and RSS are not touched by that.
        assert_allclose(estimates.beta[0, j], beta[0], rtol=4 * EPS)
        assert_allclose(estimates.beta[1:, j], beta[1:], atol=1e-12)
        assert_allclose(estimates.resms[j], rss[0] / (present.sum() - 5), rtol=1e-12)


def _mix(X: np.ndarray) -> np.ndarray:
    """Make the third column a copy of the second one, to the tenth digit."""
    return np.column_stack([X[:, :2], X[:, 1] + 1e-10 * X[:, 2]])


FULL_RANK = {
    "no intercept": lambda X: X[:, 1:],
    "intercept last": lambda X: X[:, ::-1],
    "intercept of 7": lambda X: X * [7, 1, 1, 1],
    "cell means": lambda X: np.column_stack([X[:, 1:], _one_hot(64, 3)]),
    "implied": lambda X: np.column_stack([X[:, 1], 2 - 0.3 * X[:, 1]]),
    "implied by a difference": lambda X: np.column_stack([X[:, 1], 1 + 100 * X[:, 1]]),
    "units": lambda X: X * [1, 1e6, 1, 1e-6],
    "covariate with mean 1e6": lambda X: np.add(X, [0, 1e6, 0, 0]),
    "condition 1e10": _mix,
}


@pytest.mark.parametrize("name", FULL_RANK)
@pytest.mark.parametrize(
    ("mean", "sd", "dtype"), [(0, 1, float), (1e4, 1, np.float32), (1e5, 1e-3, float)]
)
def test_any_design_of_full_rank_fits_data_of_any_mean(
    fit, fitted_solutions, name, mean, sd, dtype
):
    X = FULL_RANK[name](make_X(64, 4))
    Y = make_Y(64, mean=mean, sd=sd).astype(dtype)
    estimates, _ = fit(X, Y, [10, 32])
    # Rounding of X reaches the estimates with its condition: no stable method does better.
    precision = 100 * EPS * scaled_condition(X) + 1e-11
    assert_array_equal(estimates.status, FITTED if precision < 1e-6 else IMPRECISE)
    if name.startswith("implied"):  # so does the mean, as a combination of rounded columns
        precision += 10 * EPS * scaled_condition(X) * mean / sd
    assert precision < 1e-3
    assert_agree(estimates, fitted_solutions(X, Y, estimates), precision)


@pytest.mark.parametrize(
    ("effect", "status", "precision"),
    [
        # About 10 EPS y'y / RSS.
        (10, FITTED, 1e-11),
        (100, FITTED, 1e-9),
        (500, FITTED, 1e-8),  # RSS is 4e-6 of y'y
        (2e3, IMPRECISE, 1e-7),  # ... and 2.5e-7
        (1e4, IMPRECISE, 1e-5),
        (1e6, IMPRECISE, 0.1),
        (1e9, VoxelStatus.ZERO_VARIANCE, None),
    ],
)
def test_a_large_effect_costs_digits_of_resms_and_says_so(
    fit, fitted_solutions, effect, status, precision
):
    X = make_X(100, 3)
    Y = make_Y(100) + effect * X[:, 1:2]
    estimates, _ = fit(X, Y, [50])
    assert_array_equal(estimates.status, status)
    for j, solution in enumerate(fitted_solutions(X, Y, estimates)):
        assert_allclose(estimates.resms[j], float(solution.resms), rtol=precision)
        error = (estimates.beta[:, j] - solution.beta) / solution.std_error
        assert_allclose(error.astype(float), 0, atol=100 * EPS * effect)  # sums of that size


@pytest.mark.parametrize("mean", [1e4, 1e6])
@pytest.mark.parametrize("difference", [1e-7, 1e-9])
def test_a_mean_that_only_a_small_difference_of_columns_could_take_up_costs_digits_and_says_so(
    fit, difference, mean
):
    """With weights of 1e7 and more, of which the rounding would reach every residual unsaid."""
    a = np.random.default_rng(6).normal(size=60)
    estimates, _ = fit(np.column_stack([a, a + difference]), make_Y(60, mean=mean), [20])
    assert_array_equal(estimates.status, IMPRECISE)


@pytest.mark.parametrize("n_threads", [2, 4, 50])
def test_any_number_of_threads_gives_the_same_bits(fit, n_threads):
    X, Y = make_X(70, 4), make_Y(70, 1100)
    Y[:, ::5] = 2.0
    one, _ = fit(X, Y, [30])
    with Threads(n_threads) as threads:
        several, _ = fit(X, Y, [30], threads=threads)
    for name, array in several._asdict().items():
        assert_array_equal(array, getattr(one, name), name)


def assert_close(estimates: Estimates, expected: Estimates, std_error: np.ndarray):
    """Compare estimates of the same data; only rounding differs (70 terms, mean 3, sd 1)."""
    assert_array_equal(estimates.status, expected.status)
    assert_array_equal(estimates.n_obs, expected.n_obs)
    assert_allclose(estimates.beta / std_error, expected.beta / std_error, rtol=1e-12, atol=1e-12)
    assert_allclose(estimates.resms, expected.resms, rtol=1e-12)
    assert_allclose(estimates.llh, expected.llh, rtol=1e-12, atol=1e-12)
    # Covariances of nearly orthogonal columns are small differences.
    assert_allclose(estimates.cov, expected.cov, rtol=1e-12, atol=1e-12 * expected.cov.max())


def standard_errors(estimates: Estimates) -> np.ndarray:
    diagonal = np.cumsum(np.arange(1, len(estimates.beta) + 1)) - 1
    return np.sqrt(estimates.cov[diagonal])


@settings(max_examples=30)
@given(st.sets(st.integers(1, 69), max_size=12))
def test_any_split_into_batches_gives_the_same_estimates(fit, starts):
    X, Y = make_X(70, 4), make_Y(70)
    Y[:35, 5] = np.nan  # without data in some batches
    Y[35:, 6] = np.nan
    Y[:, 7] = np.nan
    whole, _ = fit(X, Y)
    assert_close(fit(X, Y, sorted(starts))[0], whole, standard_errors(whole))


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_order_of_observations_does_not_matter(fit, random):
    X, Y = make_X(70, 4), make_Y(70)
    order = list(range(70))
    random.shuffle(order)
    expected, _ = fit(X, Y, [30])
    assert_close(fit(X[order], Y[order], [30])[0], expected, standard_errors(expected))


@settings(max_examples=30)
@given(st.integers(-300, 300))
def test_scaling_of_the_images_by_a_power_of_two_is_exact(fit, exponent):
    X, Y = make_X(40, 4), make_Y(40)
    plain, _ = fit(X, Y)
    scaled, _ = fit(X, np.ldexp(Y, exponent))
    assert_array_equal(scaled.status, plain.status)
    assert_array_equal(scaled.beta, np.ldexp(plain.beta, exponent))
    assert_array_equal(scaled.resms, np.ldexp(plain.resms, 2 * exponent))
    assert_array_equal(scaled.cov, np.ldexp(plain.cov, 2 * exponent))
    # The density of y 2^k; llh itself is rounded, and is of size 40 * 300.
    llh = plain.llh - plain.n_obs * exponent * np.log(2)
    assert_allclose(scaled.llh, llh, rtol=1e-14, atol=1e-11)


@settings(max_examples=30)
@given(st.integers(-(2**30), 2**30))
def test_a_shift_of_the_images_moves_the_intercept_alone(fit, shift):
    X, Y = make_X(40, 4), np.round(make_Y(40) * 1024) / 1024  # the sum with the shift is exact
    plain, _ = fit(X, Y, [13])
    shifted, _ = fit(X, Y + shift, [13])
    for name in ("status", "resms", "llh", "cov"):
        assert_array_equal(getattr(shifted, name), getattr(plain, name), name)
    assert_array_equal(shifted.beta[1:], plain.beta[1:])
    # Both are rounded.
    assert_allclose(shifted.beta[0], plain.beta[0] + shift, rtol=2 * EPS, atol=1e-14)


def test_status_says_why_a_voxel_was_dropped(fit):
    n_obs = 20
    X = np.column_stack([make_X(n_obs, 2), np.arange(n_obs) < 5])
    Y = make_Y(n_obs, 12)
    Y[:, 3:] = Y[:, :1]
    Y[:, 3] = np.nan
    Y[:-4, 4] = np.nan  # p + 1
    Y[:-5, 5] = np.nan  # p + 2; the last column is 0 there, so that there are two
    Y[3:, 11] = np.nan  # as many as columns, of which the last is the first
    Y[5:13, 6] = np.nan  # p + 9: the smallest number allowed
    Y[5:14, 7] = np.nan  # ... less one
    Y[:, 8] = 7.5
    Y[:, 9] = X @ [1, 2, 3]
    Y[:, 10] = Y[:, 0]
    allowed = np.ones(12, bool)
    allowed[[3, 10]] = False
    without_minimum, _ = fit(X, Y, [6], allowed=allowed)
    with_minimum, _ = fit(X, Y, [6], minimum_n=12, allowed=allowed)
    expected = {
        3: VoxelStatus.NO_DATA,
        4: FITTED,
        11: VoxelStatus.TOO_FEW,
        8: VoxelStatus.ZERO_VARIANCE,
        9: VoxelStatus.ZERO_VARIANCE,
        10: VoxelStatus.MASKED_AFTER,
    }
    status = np.full(12, FITTED)
    status[list(expected)] = list(expected.values())
    assert_array_equal(without_minimum.status, status)
    status[[4, 5, 7, 11]] = VoxelStatus.BELOW_MINIMUM
    assert_array_equal(with_minimum.status, status)
    for estimates in (with_minimum, without_minimum):
        assert_array_equal(estimates.n_obs, (~np.isnan(Y)).sum(axis=0))
        n_fitted = is_fitted(estimates.status).sum()
        for name in ("rank", "beta", "estimable", "resms", "llh", "slot", "cov", "dof"):
            assert getattr(estimates, name).shape[-1] == n_fitted


def test_dropped_voxels_do_not_change_the_others(fit):
    X, Y = make_X(40, 3), make_Y(40, 9)
    expected, _ = fit(X, Y[:, ::2])
    Y[:, 1] = np.nan
    Y[4:, 3] = np.nan
    Y[:, 5] = 4
    Y[10:, 7] = X[10:] @ [1, 2, 3]
    Y[:10, 7] = np.nan
    estimates, _ = fit(X, Y)
    assert (estimates.status[1::2] >= 10).all()
    for name in ("beta", "resms", "llh", "cov"):
        assert_array_equal(getattr(estimates, name), getattr(expected, name))
    assert_array_equal(estimates.slot >= 0, expected.slot >= 0)
    for found, factor in zip(estimates.slot, expected.factor[expected.slot], strict=True):
        if found >= 0:
            assert_array_equal(estimates.factor[found], factor)


def test_blocks_without_a_voxel_to_fit_are_empty(fit):
    estimates, _ = fit(make_X(20, 3), np.full((20, 4), np.nan))
    assert_array_equal(estimates.status, VoxelStatus.NO_DATA)
    assert estimates.beta.shape == (3, 0)
    assert estimates.cov.shape == (6, 0)


@pytest.mark.parametrize("n_present", [5, 6, 7, 12])
def test_more_than_p_plus_one_images_are_needed(fit, fitted_solutions, n_present):
    X, Y = make_X(40, 5), make_Y(40, 200)
    rng = np.random.default_rng(2)
    Y[:] = rng.normal(size=Y.shape)
    for v in range(200):
        Y[rng.permutation(40)[n_present:], v] = np.nan
    estimates, _ = fit(X, Y, [11])
    if n_present <= 6:
        assert_array_equal(estimates.status, VoxelStatus.TOO_FEW)
        return
    assert_array_equal(estimates.status, FITTED)
    # X of 7 rows and 5 columns can have a condition of a thousand; products square it.
    condition = max(scaled_condition(X[~np.isnan(y)]) for y in Y.T)
    precision = 100 * EPS * condition**2
    assert_agree(estimates, fitted_solutions(X, Y, estimates), precision)


RANK_DESIGNS = {
    "intercept and groups": lambda z: np.column_stack([np.ones(60), _one_hot(60, 5)[:, 1:], z]),
    "cell means": lambda z: _one_hot(60, 5),
    "cell means and covariate": lambda z: np.column_stack([_one_hot(60, 5), z]),
    "slopes within groups": lambda z: np.column_stack([_one_hot(60, 3), _one_hot(60, 3) * z]),
    "one image": lambda z: np.column_stack([np.ones(60), np.eye(60)[:, :4]]),
    "three to a group": lambda z: _one_hot(60, 20),
}


@pytest.mark.parametrize("name", RANK_DESIGNS)
@pytest.mark.parametrize("starts", [(), (20, 40)])
def test_rows_present_that_are_rank_deficient_are_fitted_with_their_rank(fit, name, starts):
    rng = np.random.default_rng(3)
    X = RANK_DESIGNS[name](rng.normal(size=(60, 1)))
    Y = rng.normal(10, 1, (60, 120))
    levels = np.arange(60)
    for v in range(120):  # one to four groups of images that differ in size
        for _ in range(v % 4 + 1):
            step = rng.choice([3, 5, 20, 60])
            Y[levels % step == rng.integers(step), v] = np.nan
    rank = np.array([np.linalg.matrix_rank(X[~np.isnan(y)]) for y in Y.T])
    n_obs = (~np.isnan(Y)).sum(axis=0)
    estimates, _ = fit(X, Y, starts)
    assert len(np.unique(rank)) > 1
    few = n_obs <= rank + 1
    assert_array_equal(estimates.status, np.where(few, VoxelStatus.TOO_FEW, FITTED))
    assert_array_equal(estimates.rank, rank[~few])
    for j, v in enumerate(np.flatnonzero(~few)):
        present = ~np.isnan(Y[:, v])
        y = Y[present, v] - 10  # all of these designs have a constant
        fitted = X[present] @ np.linalg.lstsq(X[present], y, rcond=None)[0]
        resms = np.sum((y - fitted) ** 2) / (n_obs[v] - rank[v])
        assert_allclose(estimates.resms[j], resms, rtol=1e-11)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e8])
def test_a_voxel_marked_as_fitted_is_right_without_an_outlying_image(
    fit, fitted_solutions, outlier, intercept
):
    X = make_X(60, 2)[:, 0 if intercept else 1 :]
    X[3, -1] = outlier
    Y = make_Y(60)
    Y[3] = np.nan
    estimates, _ = fit(X, Y, [20])
    # An honest answer may also be to drop the voxel, or to call it imprecise.
    precise = estimates.status[is_fitted(estimates.status)] == FITTED
    for j, solution in enumerate(fitted_solutions(X, Y, estimates)):
        if precise[j]:
            error = (estimates.beta[:, j] - solution.beta) / solution.std_error
            assert_allclose(error.astype(float), 0, atol=1e-6)
            assert_allclose(estimates.resms[j], float(solution.resms), rtol=1e-6)
    if outlier <= 1e6:  # what remains of X is as good as any
        assert is_fitted(estimates.status).all()


def find_least_pivot(Q: np.ndarray) -> float:
    """Return the least squared distance of a column from those before it, relative to its length.

    By Householder's QR in double precision, which finds 1e-10 to six digits.
    """
    R = np.linalg.qr(Q, mode="r")
    return float((np.diag(R) ** 2 / (R**2).sum(axis=0)).min())


@pytest.mark.parametrize("starts", [(), (20, 41)])
@pytest.mark.parametrize(
    ("pivot", "status"),
    [
        (0.1, FITTED),
        (1e-4, FITTED),
        (3e-6, FITTED),
        (3e-7, IMPRECISE),
        (1e-8, IMPRECISE),
        (3e-10, IMPRECISE),
    ],
)
def test_rows_present_that_are_nearly_dependent_are_fitted_and_called_imprecise(
    fit, fitted_solutions, pivot, status, starts
):
    """From the ninth digit on a user is told: at pivots below 1e-6, not at those above."""
    X = make_X(60, 3)
    # One image far away from the others: without it a column is nearly a constant.
    X[3, 1] = 60 / np.sqrt(pivot)
    Y = make_Y(60)
    Y[3] = np.nan
    estimates, design = fit(X, Y, starts)
    for y in Y.T:
        assert 1 / 3 < find_least_pivot(design.Q[~np.isnan(y)]) / pivot < 3
    assert_array_equal(estimates.status, status)
    precision = 100 * EPS / pivot  # rounding of sums of 60 rows, over what is left of a column
    for j, solution in enumerate(fitted_solutions(X, Y, estimates)):
        error = (estimates.beta[:, j] - solution.beta) / solution.std_error
        assert_allclose(error.astype(float), 0, atol=precision)
        assert_allclose(estimates.resms[j], float(solution.resms), rtol=precision)


@pytest.mark.parametrize("condition", [1e11, 1e12])
def test_a_design_of_condition_1e12_is_fitted_as_well_as_its_rounding_permits(
    fit, fitted_solutions, condition
):
    """Rounding leaves the space that its columns span known to three digits, and these are kept."""
    X = make_X(64, 4)
    X = np.column_stack([X[:, :3], X[:, 1] + 4 / condition * X[:, 3]])
    assert 1 / 3 < scaled_condition(X) / condition < 3
    assert find_dependent_columns(X) == []
    Y = make_Y(64)
    estimates, _ = fit(X, Y, [10, 32])
    assert_array_equal(estimates.status, IMPRECISE)
    for j, solution in enumerate(fitted_solutions(X, Y, estimates)):
        # Rounding of X, 1e-16, turns the space that such columns span by this angle.
        angle = 10 * EPS * condition
        assert_allclose(estimates.resms[j], float(solution.resms), rtol=angle)
        fitted = X @ estimates.beta[:, j]
        expected = (X.astype(np.longdouble) @ solution.beta).astype(float)
        assert_allclose(fitted, expected, atol=angle)


@pytest.mark.parametrize("n_obs", [50, 5000])
@pytest.mark.parametrize("starts", [(), (20, 33)])
def test_constant_voxels_and_exact_fits_are_dropped(fit, n_obs, starts):
    rng = np.random.default_rng(4)
    X = np.column_stack([np.ones(n_obs), np.arange(n_obs) % 2, rng.normal(size=n_obs)])
    beta = [[0.1, 0.3, 0], [1, 0.1, 0.7], [1e3, 0.1, 0.01], [0, 1, 1], [1e4 / 3, 0, 0]]
    Y = X @ np.array(beta).T
    Y = np.column_stack([Y, Y])
    Y[::9, len(beta) :] = np.nan
    estimates, _ = fit(X, Y, starts)
    assert_array_equal(estimates.status, VoxelStatus.ZERO_VARIANCE)


@pytest.mark.parametrize("scale", [1, 1e6, 1e9])
def test_constant_voxels_are_dropped_where_groups_imply_the_intercept(fit, scale):
    rng = np.random.default_rng(5)
    X = np.column_stack([_one_hot(60, 3), scale * rng.normal(size=60)])
    Y = np.tile(rng.normal(1e3, 10, 20), (60, 1))
    Y[7, ::2] = np.nan
    estimates, _ = fit(X, Y, [31])
    assert_array_equal(estimates.status, VoxelStatus.ZERO_VARIANCE)
