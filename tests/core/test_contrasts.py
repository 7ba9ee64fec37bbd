"""Contrasts against least squares in extended precision, and against R."""

import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.contrasts import (
    compute_f_contrast,
    compute_partial_r2,
    compute_standard_error,
    compute_t_contrast,
)
from nipype_blm.core.tails import compute_f_tails, compute_t_tails
from nipype_blm.core.threads import Threads

EPS = np.finfo(float).eps
N_OBS = 45
# Sums of 45 well-conditioned terms of size 1 to 10.
RTOL = 1e-11


def make_data(n_params: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A design, and data with effects of all sizes; a tenth is missing but at three voxels."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(N_OBS), rng.normal(size=(N_OBS, n_params - 1))])
    Y = X @ rng.normal(size=(n_params, 10)) * np.logspace(-3, 1, 10)
    Y += rng.normal(5, 1, Y.shape)
    missing = rng.random(Y.shape) < 0.1
    missing[:, :3] = False
    return X, np.where(missing, np.nan, Y)


def extended_f(L: np.ndarray, solution) -> float:
    """F by the projection onto the columns of R'^-1 L', without a product of matrices."""
    basis = [row.copy() for row in L @ solution.root]
    total, effect = np.longdouble(0), list(L @ solution.beta)
    for i in range(len(L)):
        length = np.sqrt(basis[i] @ basis[i])
        basis[i], effect[i] = basis[i] / length, effect[i] / length
        total += effect[i] ** 2
        for k in range(i + 1, len(L)):
            weight = basis[i] @ basis[k]
            basis[k] = basis[k] - weight * basis[i]
            effect[k] -= weight * effect[i]
    return float(total / (len(L) * solution.resms))


@pytest.mark.parametrize("n_params", [1, 4, 12, 34])
def test_t_contrasts_follow_their_definition(fit, fitted_solutions, n_params):
    X, Y = make_data(n_params)
    estimates, design = fit(X, Y, [20])
    solutions = fitted_solutions(X, Y, estimates)
    vector = np.random.default_rng(1).integers(-2, 3, n_params) + 0.5
    maps = compute_t_contrast(vector, estimates, design.R)
    assert maps.effect.shape == maps.variance.shape == (1, 10)
    for j, solution in enumerate(solutions):
        effect = float(vector @ solution.beta)
        std_error = float(np.sqrt(solution.resms * (vector @ solution.inverse @ vector)))
        assert_allclose(maps.effect[0, j], effect, atol=RTOL * std_error)
        assert_allclose(maps.variance[0, j], std_error**2, rtol=RTOL)
        assert_allclose(maps.stat[j], effect / std_error, rtol=RTOL, atol=RTOL)
    dof = np.array([solution.dof for solution in solutions])
    assert_array_equal((maps.log_p, maps.z), compute_t_tails(maps.stat, dof))


@pytest.mark.parametrize(
    ("n_params", "q"), [(1, 1), (4, 1), (4, 2), (4, 3), (4, 4), (12, 12), (34, 33)]
)
def test_f_contrasts_follow_their_definition(fit, fitted_solutions, n_params, q):
    X, Y = make_data(n_params)
    estimates, design = fit(X, Y, [20])
    solutions = fitted_solutions(X, Y, estimates)
    rng = np.random.default_rng(2)
    L = np.eye(q, n_params, k=n_params - q) + rng.integers(0, 3, (q, n_params)) / 8
    maps = compute_f_contrast(L, estimates, design.R)
    condition = max(np.linalg.cond((L @ s.inverse @ L.T).astype(float)) for s in solutions)
    for j, solution in enumerate(solutions):
        assert_allclose(maps.effect[:, j], (L @ solution.beta).astype(float), rtol=RTOL, atol=RTOL)
        variance = (solution.resms * (L @ solution.inverse @ L.T)).astype(float)
        assert_allclose(maps.variance[:, j].reshape(q, q), variance, atol=RTOL * variance.max())
        expected = extended_f(L, solution)
        assert_allclose(maps.stat[j], expected, rtol=RTOL + 10 * EPS * condition)
    dof = np.array([solution.dof for solution in solutions])
    assert_array_equal((maps.log_p, maps.z), compute_f_tails(maps.stat, q, dof))


def test_f_and_partial_r2_compare_the_residuals_of_nested_models(fit, solve):
    X, Y = make_data(5)
    estimates, design = fit(X, Y)
    maps = compute_f_contrast(np.eye(5)[[1, 3]], estimates, design.R)
    r2 = compute_partial_r2(maps.stat, 2, estimates.dof)
    for j, y in enumerate(Y.T):
        full, reduced = solve(X, y), solve(X[:, [0, 2, 4]], y)
        rss, reduced_rss = full.resms * full.dof, reduced.resms * reduced.dof
        F = float((reduced_rss - rss) / 2 / full.resms)
        assert_allclose(maps.stat[j], F, rtol=RTOL)
        assert_allclose(r2[j], float(1 - rss / reduced_rss), rtol=RTOL)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_f_loses_no_more_digits_than_the_condition_of_the_design(fit, solve, spread):
    rng = np.random.default_rng(3)
    X, Y = make_data(3)
    X[:, 2] = X[:, 1] + spread * rng.normal(size=N_OBS)
    Y[:, :5] += 2 * X[:, 1:2]
    estimates, design = fit(X, Y)
    maps = compute_f_contrast(np.eye(3)[1:], estimates, design.R)
    for j, y in enumerate(Y.T):
        full, mean = solve(X, y), solve(X[:, :1], y)
        F = float((mean.resms * mean.dof - full.resms * full.dof) / 2 / full.resms)
        # Rounding of X moves the plane of its columns by EPS / spread.
        assert_allclose(maps.stat[j], F, rtol=100 * EPS / spread + 1e-11)


@settings(max_examples=30)
@given(st.lists(st.integers(-3, 3), min_size=4, max_size=4).filter(any))
def test_f_of_one_row_is_t_squared(fit, weights):
    X, Y = make_data(4)
    estimates, design = fit(X, Y)
    vector = np.array(weights, float)
    t = compute_t_contrast(vector, estimates, design.R, two_sided=True)
    f = compute_f_contrast(vector[None], estimates, design.R)
    assert_allclose(f.stat, t.stat**2, rtol=10 * EPS)
    assert_array_equal(f.effect, t.effect)
    assert_array_equal(f.variance, t.variance)
    # log p moves by up to 45 / 2 times the relative rounding of F.
    assert_allclose(f.log_p, t.log_p, rtol=1e-12, atol=1e-12)


def test_two_sided_changes_p_alone_and_never_exceeds_one(fit):
    X, Y = make_data(4)
    Y = np.column_stack([Y, -Y, np.tile([1.0, -1.0], 23)[:N_OBS]])
    estimates, design = fit(X, Y)
    one = compute_t_contrast(np.eye(4)[1], estimates, design.R)
    two = compute_t_contrast(np.eye(4)[1], estimates, design.R, two_sided=True)
    for name in ("effect", "variance", "stat", "z"):
        assert_array_equal(getattr(two, name), getattr(one, name))
    expected = 2 * np.minimum(np.exp(one.log_p), -np.expm1(one.log_p))
    assert_allclose(np.exp(two.log_p), expected, rtol=1e-10)  # 1 - p loses digits
    assert (two.log_p <= 0).all()
    assert (np.sign(two.z) == np.sign(two.stat)).all()


def test_two_sided_p_of_a_statistic_of_zero_is_one(fit):
    X = np.column_stack([np.ones(40), np.tile([1.0, -1.0], 20)])
    Y = np.repeat([1.0, 2, 5, 3, 8, 2, 4, 4, 0, 7], 4)[:, None]
    estimates, design = fit(X, Y)
    maps = compute_t_contrast(np.array([0.0, 1.0]), estimates, design.R, two_sided=True)
    assert_allclose(maps.stat, 0, atol=1e-14)
    assert_allclose(maps.log_p, 0, atol=1e-13)
    assert maps.log_p <= 0


def test_the_sign_of_a_contrast_is_the_sign_of_its_maps(fit):
    X, Y = make_data(4)
    estimates, design = fit(X, Y)
    vector = np.array([0, 1, -1, 0.5])
    plus = compute_t_contrast(vector, estimates, design.R)
    minus = compute_t_contrast(-vector, estimates, design.R)
    for name in ("effect", "stat", "z"):
        assert_array_equal(getattr(minus, name), -getattr(plus, name))
    # Two probabilities, each rounded.
    assert_allclose(np.exp(plus.log_p) + np.exp(minus.log_p), 1, rtol=1e-12)


@settings(max_examples=30)
@given(st.integers(-300, 300))
def test_t_and_f_do_not_depend_on_the_units_of_images_or_contrast(fit, exponent):
    X, Y = make_data(4)
    estimates, design = fit(X, Y)
    scaled, _ = fit(X, np.ldexp(Y, exponent))
    L = np.eye(4)[1:]
    t = compute_t_contrast(L[0], estimates, design.R)
    f = compute_f_contrast(L, estimates, design.R)
    # Powers of two are exact.
    assert_array_equal(compute_t_contrast(L[0], scaled, design.R).stat, t.stat)
    assert_array_equal(compute_f_contrast(L, scaled, design.R).stat, f.stat)
    L = np.ldexp(L, [[exponent // 2], [0], [-exponent // 2]])
    assert_array_equal(compute_t_contrast(L[0], estimates, design.R).stat, t.stat)
    assert_array_equal(compute_f_contrast(L, estimates, design.R).stat, f.stat)


def test_f_depends_on_the_space_of_rows_alone(fit):
    X, Y = make_data(5)
    estimates, design = fit(X, Y)
    L = np.eye(5)[2:]
    mixed = np.array([[1, 2, 0], [0, -3, 1], [1, 1, 1e3]]) @ L
    f, other = (compute_f_contrast(matrix, estimates, design.R) for matrix in (L, mixed))
    # The Gram matrix of the mixed rows has a condition of some 1e2 at unit length.
    assert_allclose(other.stat, f.stat, rtol=1e-11)


@pytest.mark.parametrize("n_threads", [2, 4])
def test_any_number_of_threads_gives_the_same_contrasts(fit, n_threads):
    X, Y = make_data(4)
    Y = np.random.default_rng(4).permuted(np.tile(Y, 80), axis=0)
    estimates, design = fit(X, Y)
    L = np.eye(4)[1:]
    t = compute_t_contrast(L[0], estimates, design.R)
    f = compute_f_contrast(L, estimates, design.R)
    with Threads(n_threads) as threads:
        more_t = compute_t_contrast(L[0], estimates, design.R, threads=threads)
        more_f = compute_f_contrast(L, estimates, design.R, threads)
    for one, several in ((t, more_t), (f, more_f)):
        for name, array in several._asdict().items():
            assert_array_equal(array, getattr(one, name), name)


def test_contrasts_of_no_voxel_are_empty(fit):
    estimates, design = fit(np.ones((9, 1)), np.zeros((9, 2)))
    for maps in (
        compute_t_contrast(np.ones(1), estimates, design.R),
        compute_f_contrast(np.ones((1, 1)), estimates, design.R),
    ):
        assert {array.shape[-1] for array in maps} == {0}


def test_p_of_huge_statistics_stays_finite(fit):
    X, Y = make_data(3)
    Y += 1e5 * X[:, 1:2]
    estimates, design = fit(X, Y)
    t = compute_t_contrast(np.array([0.0, 1, 0]), estimates, design.R)
    f = compute_f_contrast(np.eye(3)[1:], estimates, design.R)
    assert (t.stat > 1e4).all()
    for maps in (t, f):
        assert np.isfinite(maps.log_p).all()
        assert np.isfinite(maps.z).all()
        assert (maps.z > 15).all()


R_SCRIPT = """
X <- as.matrix(read.csv("X.csv", header = FALSE))
Y <- as.matrix(read.csv("Y.csv", header = FALSE, na.strings = "nan"))
rows <- apply(Y, 2, function(y) {
    full <- lm(y ~ X - 1)
    reduced <- lm(y ~ X[, 1:2] - 1)
    s <- summary(full)
    test <- anova(reduced, full)
    t <- coef(s)[2, 3]
    c(coef(s)[, 1], coef(s)[, 2], s$sigma^2, logLik(full), df.residual(full), t,
      pt(t, df.residual(full), lower.tail = FALSE, log.p = TRUE), log(coef(s)[2, 4]),
      test$F[2], log(test[["Pr(>F)"]][2]), 1 - deviance(full) / deviance(reduced))
})
write.table(format(t(rows), digits = 17), "out.txt", quote = FALSE, row.names = FALSE,
            col.names = FALSE)
"""


def test_everything_agrees_with_lm_in_r(fit, require_command, tmp_path):
    Rscript = require_command("Rscript", "r-base-core")
    X, Y = make_data(4)
    np.savetxt(tmp_path / "X.csv", X, delimiter=",", fmt="%.17g")
    np.savetxt(tmp_path / "Y.csv", Y, delimiter=",", fmt="%.17g")
    subprocess.run([Rscript, "--vanilla", "-e", R_SCRIPT], cwd=tmp_path, check=True)
    expected = np.loadtxt(tmp_path / "out.txt").T
    estimates, design = fit(X, Y, [17])
    diagonal = np.sqrt(estimates.cov[[0, 2, 5, 9]])
    t = compute_t_contrast(np.eye(4)[1], estimates, design.R)
    two = compute_t_contrast(np.eye(4)[1], estimates, design.R, two_sided=True)
    f = compute_f_contrast(np.eye(4)[2:], estimates, design.R)
    found = [
        *estimates.beta, *diagonal, estimates.resms, estimates.llh, estimates.dof, t.stat,
        t.log_p, two.log_p, f.stat, f.log_p, compute_partial_r2(f.stat, 2, estimates.dof),
    ]  # fmt: skip
    # R takes 1 - deviance / deviance and F from differences: up to 1e-11 where they are small.
    assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_a_standard_error_is_the_root_of_its_variance() -> None:
    assert compute_standard_error(np.array([0.0, 2.25, 1e-300])).tolist() == [0, 1.5, 1e-150]
