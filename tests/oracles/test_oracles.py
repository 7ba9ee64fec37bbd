"""The two oracles agree with each other and with published fits, and notice what is wrong."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.linalg import block_diag

from nipype_blm.core.factors import RandomFactor

from . import dense
from .designs import KINDS, make_designs
from .lmer import Case, LmerFit, make_cases, requires_lme4, run_lmer

# lmerTest differentiates numerically; its derivatives hold 5 or more digits where a root of D
# is nearly zero, 7 or more elsewhere.
DF_RTOL = 1e-4
CONTRASTS = (
    np.array([0.0, 1.0, 0.0]),
    np.eye(3)[:2],
    np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]),  # rank 2
)


class Data(NamedTuple):
    y: np.ndarray
    X: np.ndarray
    factors: list[RandomFactor]


class Published(NamedTuple):
    """A fit of lme4, with the roots of D in our order of factors."""

    data: Data
    fit: dict
    roots: list[np.ndarray]

    @property
    def D(self) -> list[np.ndarray]:
        return [root @ root.T for root in self.roots]

    @property
    def reml(self) -> bool:
        return self.fit["REML"]

    @property
    def deviance(self) -> float:
        return self.fit["deviance_or_remlcrit"]

    @property
    def std_error(self) -> list[float]:
        return list(self.fit["se"].values())


def read_table(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def make_factor(labels: np.ndarray, Z: np.ndarray, *, correlated: bool = True) -> RandomFactor:
    level = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    return RandomFactor("factor", level, Z, correlated)


def read_data(name: str, folder: Path) -> Data:
    table = read_table(folder / f"{name.split('_')[0]}.csv")
    if name.startswith("sleepstudy"):
        days = table["Days"].astype(float)
        X = np.column_stack([np.ones_like(days), days])
        Z = X[:, :1] if name == "sleepstudy_ri" else X
        factor = make_factor(table["Subject"], Z, correlated=name != "sleepstudy_uncorr")
        return Data(table["Reaction"].astype(float), X, [factor])
    response, groups = {
        "Penicillin": ("diameter", ["plate", "sample"]),
        "Dyestuff2": ("Yield", ["Batch"]),
    }[name.split("_")[0]]
    y = table[response].astype(float)
    ones = np.ones((len(y), 1))
    return Data(y, ones, [make_factor(table[group], ones) for group in groups])


def make_roots(name: str, theta: list[float]) -> list[np.ndarray]:
    if name == "sleepstudy_rs":
        return [np.array([[theta[0], 0], [theta[1], theta[2]]])]
    if name == "sleepstudy_uncorr":
        return [np.diag(theta)]
    return [np.array([[value]]) for value in theta]


@pytest.fixture(scope="module")
def published(test_data) -> list[Published]:
    folder = test_data / "lme4"
    fits = json.loads((folder / "lme4_reference.json").read_text())["fits"]
    assert len(fits) == 10
    return [
        Published(
            read_data(fit["name"], folder),
            fit,
            make_roots(fit["name"], np.atleast_1d(fit["theta"]).tolist()),
        )
        for fit in fits
    ]


@pytest.fixture(scope="module")
def comparisons() -> dict[str, list[tuple[Case, LmerFit]]]:
    """Return two voxels of each kind of design, the first by REML, the second by ML."""
    cases = []
    for seed, kind in enumerate(KINDS):
        design = make_designs(np.random.default_rng(seed), kind, n_voxels=2)
        for v, reml in enumerate((True, False)):
            y = design.Y[:, v]
            cases.append(Case(y, design.X, design.factors, CONTRASTS, reml, design.D[v]))
    pairs = list(zip(cases, run_lmer(cases), strict=True))
    return {kind: pairs[2 * i : 2 * i + 2] for i, kind in enumerate(KINDS)}


def assert_same_fit(fit: dense.Fit, expected: dense.Fit, *, deviance: float, rtol: float) -> None:
    np.testing.assert_allclose(fit.deviance, expected.deviance, rtol=0, atol=deviance)
    np.testing.assert_allclose(fit.sigma2, expected.sigma2, rtol=rtol)
    np.testing.assert_allclose(fit.std_error, expected.std_error, rtol=rtol)
    in_errors = (fit.beta - expected.beta) / expected.std_error
    # beta may be 0: measured in standard errors, and by its own size where that is larger.
    limit = rtol * (1 + np.abs(expected.beta) / expected.std_error)
    assert np.all(np.abs(in_errors) <= limit), in_errors


def test_dense_gives_the_published_fits_at_the_published_theta(published) -> None:
    for reference in published:
        fit = dense.criterion(*reference.data, reference.D, reml=reference.reml)
        rtol = 1e-11  # the file holds 13 digits
        np.testing.assert_allclose(fit.deviance, reference.deviance, rtol=rtol)
        np.testing.assert_allclose(fit.sigma2, reference.fit["sigma2"], rtol=rtol)
        np.testing.assert_allclose(fit.beta, list(reference.fit["beta"].values()), rtol=rtol)
        np.testing.assert_allclose(fit.std_error, reference.std_error, rtol=rtol)
        np.testing.assert_allclose(fit.cov_beta, reference.fit["vcov"], rtol=rtol)


def test_dense_finds_the_published_optima(published) -> None:
    for reference in published:
        fit = dense.fit(*reference.data, reml=reference.reml)
        # The published optima are those of lme4's default tolerances, so a little above.
        assert reference.deviance - 1e-6 < fit.deviance < reference.deviance + 1e-9


def test_a_zero_variance_is_found_to_be_exactly_zero(published) -> None:
    singular = [r for r in published if r.fit["name"] == "Dyestuff2_singular"]
    assert len(singular) == 2
    for reference in singular:
        assert dense.fit(*reference.data, reml=reference.reml).D[0] == 0


def test_dense_gives_the_published_degrees_of_freedom(test_data) -> None:
    folder = test_data / "lme4"
    lines = (folder / "lmertest_sleepstudy.txt").read_text().splitlines()
    tables = [line.split() for line in lines if line.startswith(("(Intercept)", "Days"))]
    expected = np.array([row[1:] for row in tables], float)
    # Satterthwaite with slopes, Kenward-Roger, Satterthwaite without slopes.
    for name, rows in {"sleepstudy_rs": expected[:2], "sleepstudy_ri": expected[4:]}.items():
        y, X, factors = read_data(name, folder)
        D = dense.fit(y, X, factors).D
        tests = dense.satterthwaite(y, X, factors, D, list(np.eye(2)))
        # Printed at the optimum of lme4's default tolerances, 6e-6 off in standard errors.
        np.testing.assert_allclose([t.stat for t in tests], rows[:, 3], rtol=2e-5)
        np.testing.assert_allclose([t.df for t in tests], rows[:, 2], rtol=DF_RTOL)


def test_balanced_subjects_with_slopes_have_one_degree_of_freedom_less_than_subjects(
    test_data,
) -> None:
    y, X, factors = read_data("sleepstudy_rs", test_data / "lme4")
    D = dense.fit(y, X, factors).D
    tests = dense.satterthwaite(y, X, factors, D, [*np.eye(2), np.eye(2)])
    # Each coefficient is a mean of 18 per-subject ones: exact up to the optimum, found to 1e-8.
    np.testing.assert_allclose([t.df for t in tests], 17, rtol=1e-6)


@pytest.mark.parametrize("reml", [True, False])
def test_without_random_variance_the_degrees_of_freedom_are_those_of_least_squares(reml) -> None:
    design = make_designs(np.random.default_rng(0), "slope missing")
    y, X, factors = dense.drop_missing(design.Y[:, 0], design.X, design.factors)
    tests = dense.satterthwaite(y, X, factors, [np.zeros((2, 2))], CONTRASTS, reml=reml)
    dof = len(y) - 3 if reml else len(y)
    np.testing.assert_allclose([t.df for t in tests], dof, rtol=1e-9)  # rounding


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("kind", ["three unbalanced", "diagonal", "crossed_slope"])
def test_exact_derivatives_are_those_of_differences(kind, reml) -> None:
    design = make_designs(np.random.default_rng(1), kind, n_voxels=1)
    y, X, factors = design.Y[:, 0], design.X, design.factors
    coordinates = dense._coordinates(factors)
    roots = [np.linalg.cholesky(block) for block in design.D[0]]
    start = np.array([roots[c.factor][c.row, c.column] for c in coordinates] + [0.8])

    def expand(phi: np.ndarray):
        changed = [np.zeros_like(root) for root in roots]
        for c, value in zip(coordinates, phi, strict=False):
            changed[c.factor][c.row, c.column] = value
        expansion = dense._expand(y, X, factors, changed, coordinates, phi[-1], reml=reml)
        D = [root @ root.T for root in changed]
        at = dense.criterion(y, X, factors, D, reml=reml)
        cov = at.cov_beta / at.sigma2 * phi[-1] ** 2
        return expansion, cov

    def differentiate(function) -> np.ndarray:
        steps = np.eye(len(start))
        # Richardson: central differences whose error of second order is taken out.
        one, two = (
            np.array([(function(start + h * s) - function(start - h * s)) / (2 * h) for s in steps])
            for h in (1e-3, 2e-3)
        )
        return (4 * one - two) / 3

    at = expand(start)[0]
    tolerance = {"rtol": 1e-7, "atol": 1e-7}  # fourth order in h = 1e-3, and rounding over h
    numerical = differentiate(lambda phi: expand(phi)[0].deviance)
    np.testing.assert_allclose(at.gradient, numerical, **tolerance)
    numerical = differentiate(lambda phi: expand(phi)[0].gradient)
    np.testing.assert_allclose(at.hessian, numerical, **tolerance)
    numerical = differentiate(lambda phi: expand(phi)[1])
    np.testing.assert_allclose(at.cov_change, numerical, **tolerance)


def test_deviance_of_dense_is_the_density_of_y() -> None:
    design = make_designs(np.random.default_rng(2), "crossed_slope unbalanced", n_voxels=1)
    y, X, D = design.Y[:, 0], design.X, design.D[0]
    fit = dense.criterion(y, X, design.factors, D, reml=False)
    # Z and its covariance written out, where dense compares levels.
    columns = [
        np.concatenate([np.where(f.level[:, None] == j, f.Z, 0) for j in range(f.n_levels)], axis=1)
        for f in design.factors
    ]
    G = block_diag(
        *[np.kron(np.eye(f.n_levels), b) for f, b in zip(design.factors, D, strict=True)]
    )
    Z = np.concatenate(columns, axis=1)
    covariance = fit.sigma2 * (np.eye(len(y)) + Z @ G @ Z.T)
    residual = y - X @ fit.beta
    logdet = np.linalg.slogdet(2 * np.pi * covariance)[1]
    expected = logdet + residual @ np.linalg.solve(covariance, residual)
    np.testing.assert_allclose(fit.deviance, expected, rtol=1e-12)  # rounding


def test_F_takes_redundant_rows_and_any_rotation_of_rows() -> None:
    design = make_designs(np.random.default_rng(3), "slope", n_voxels=1)
    y, X, factors = design.Y[:, 0], design.X, design.factors
    L = CONTRASTS[1]
    rotated = np.array([[0.6, 0.8], [-0.8, 0.6]]) @ L
    tests = dense.satterthwaite(
        y, X, factors, design.D[0], [L, rotated, np.vstack([L, L[0]]), 3 * L]
    )
    assert [test.rank for test in tests] == [2, 2, 2, 2]
    np.testing.assert_allclose([t.stat for t in tests], tests[0].stat, rtol=1e-9)  # rounding
    same_df = [tests[0].df, tests[1].df, tests[3].df]
    np.testing.assert_allclose(same_df, tests[0].df, rtol=1e-9)  # rounding
    # Rows of other lengths and angles have other eigenvectors, of other degrees of freedom.
    assert tests[2].df != pytest.approx(tests[0].df, rel=1e-3)


def test_F_has_two_degrees_of_freedom_if_a_direction_has_no_more() -> None:
    assert dense._combine(np.array([1.9, 30.0])) == 2
    assert dense._combine(np.array([1.9])) == 1.9
    np.testing.assert_allclose(dense._combine(np.array([7.0, 7.0])), 7)


@requires_lme4
def test_lmer_reproduces_the_published_fits(published) -> None:
    cases = [Case(*r.data, reml=r.reml, D=r.D) for r in published]
    for reference, answer in zip(published, run_lmer(cases), strict=True):
        target = reference.deviance
        np.testing.assert_allclose(answer.given.deviance, target, rtol=1e-11)  # 13 digits
        np.testing.assert_allclose(answer.given.sigma2, reference.fit["sigma2"], rtol=1e-11)
        np.testing.assert_allclose(answer.given.std_error, reference.std_error, rtol=1e-11)
        # The published optima are those of lme4's default tolerances, so a little above.
        assert target - 1e-6 < answer.best.deviance < target + 1e-9
        assert answer.is_singular == reference.fit["name"].endswith("singular")
        for block, root in zip(answer.best.D, reference.roots, strict=True):
            # A deviance 1e-6 above the optimum leaves about 1e-3 standard errors in theta.
            np.testing.assert_allclose(block, root @ root.T, rtol=1e-3, atol=1e-4)


@requires_lme4
@pytest.mark.parametrize("kind", KINDS)
def test_oracles_agree_at_given_D(kind, comparisons) -> None:
    for case, lmer in comparisons[kind]:
        y, X, factors = dense.drop_missing(case.y, case.X, case.factors)
        fit = dense.criterion(y, X, factors, case.D, reml=case.reml)
        # lme4 works on y as it is: a mean of 1e4 costs it four digits, a D of 1e4 as many.
        assert_same_fit(fit, lmer.given, deviance=1e-9, rtol=1e-9)


@requires_lme4
@pytest.mark.parametrize("kind", KINDS)
def test_oracles_agree_on_tests_of_contrasts(kind, comparisons) -> None:
    for case, lmer in comparisons[kind]:
        y, X, factors = dense.drop_missing(case.y, case.X, case.factors)
        tests = dense.satterthwaite(y, X, factors, lmer.best.D, case.contrasts, reml=case.reml)
        assert [t.rank for t in tests] == [t.rank for t in lmer.tests] == [1, 2, 2]
        stats = [t.stat for t in lmer.tests]
        # In standard errors, as beta above.
        np.testing.assert_allclose([t.stat for t in tests], stats, rtol=1e-8, atol=1e-8)
        df = [t.df for t in lmer.tests]
        np.testing.assert_allclose([t.df for t in tests], df, rtol=DF_RTOL)


@requires_lme4
@pytest.mark.parametrize("kind", KINDS)
def test_oracles_find_the_same_optimum(kind, comparisons) -> None:
    for case, lmer in comparisons[kind]:
        y, X, factors = dense.drop_missing(case.y, case.X, case.factors)
        fit = dense.fit(y, X, factors, reml=case.reml)
        # Searches without derivatives end up to 3e-7 above where D is nearly singular.
        assert -1e-9 < lmer.best.deviance - fit.deviance < 1e-6
        # The deviance is flat to second order: 1e-6 above is 1e-3 standard errors away.
        in_errors = (fit.beta - lmer.best.beta) / fit.std_error
        np.testing.assert_allclose(in_errors, 0, atol=1e-3)
        np.testing.assert_allclose(fit.std_error, lmer.best.std_error, rtol=1e-3)


@requires_lme4
def test_designs_hold_boundaries_and_interiors(comparisons) -> None:
    answers = [lmer for pairs in comparisons.values() for _, lmer in pairs]
    assert 0.2 < np.mean([lmer.is_singular for lmer in answers]) < 0.8
    assert 2 in [
        test.df for lmer in answers for test in lmer.tests
    ]  # the rule of nu <= 2 is compared, too


@requires_lme4
def test_a_wrong_input_is_noticed() -> None:
    design = make_designs(np.random.default_rng(4), "slope", n_voxels=1)
    y, X, D = design.Y[:, 0], design.X, design.D[0]
    (factor,) = design.factors
    lmer = run_lmer([Case(y, X, design.factors, CONTRASTS, D=D)])[0]
    level = factor.level.copy()
    level[[0, -1]] = level[[-1, 0]]
    wrong = {
        "two observations swap levels": ([factor._replace(level=level)], D, True),
        "another Z": ([factor._replace(Z=1.01 * factor.Z)], D, True),
        "D not relative to sigma2": ([factor], [D[0] * lmer.best.sigma2], True),
        "D transposed in its effects": ([factor], [D[0][::-1, ::-1]], True),
        "the other criterion": ([factor], D, False),
    }
    right = dense.criterion(y, X, [factor], D)
    assert abs(right.deviance - lmer.given.deviance) < 1e-9
    for name, (factors, blocks, reml) in wrong.items():
        fit = dense.criterion(y, X, factors, blocks, reml=reml)
        # A thousand times the tolerance of any comparison.
        assert abs(fit.deviance - lmer.given.deviance) > 1e-3, name
    other = dense.satterthwaite(y, X, [factor], [1.1 * lmer.best.D[0]], CONTRASTS)
    assert any(abs(a.df / b.df - 1) > 10 * DF_RTOL for a, b in zip(other, lmer.tests, strict=True))


@requires_lme4
def test_lmer_leaves_missing_observations_out() -> None:
    design = make_designs(np.random.default_rng(5), "crossed missing", n_voxels=1)
    y, X, factors = dense.drop_missing(design.Y[:, 0], design.X, design.factors)
    assert len(y) < len(design.Y)
    whole, dropped = run_lmer([Case(design.Y[:, 0], design.X, design.factors), Case(y, X, factors)])
    assert whole.best.deviance == dropped.best.deviance
    np.testing.assert_array_equal(whole.best.beta, dropped.best.beta)


@requires_lme4
def test_voxels_that_share_a_formula_are_fitted_as_if_alone() -> None:
    design = make_designs(np.random.default_rng(6), "slope unbalanced missing", n_voxels=4)
    cases = make_cases(design.Y, design.X, design.factors, CONTRASTS, D=design.D)
    together = run_lmer(cases)
    separate = run_lmer([case._replace(X=case.X.copy()) for case in reversed(cases)])
    for alone, expected in zip(reversed(separate), together, strict=True):
        assert alone.best.deviance == expected.best.deviance
        np.testing.assert_array_equal(alone.best.D[0], expected.best.D[0])
        assert alone.tests == expected.tests


@requires_lme4
def test_R_reports_a_design_of_insufficient_rank() -> None:
    design = make_designs(np.random.default_rng(7), "intercept", n_voxels=1)
    X = np.column_stack([design.X, design.X.sum(axis=1)])
    with pytest.raises(ValueError, match="column rank deficient"):
        run_lmer([Case(design.Y[:, 0], X, design.factors)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(3)}, "y has shape"),
        ({"X": np.ones((3, 1))}, "does not have the 3 rows of X"),
        ({"contrasts": [np.ones(4)]}, "contrast of shape"),
        ({"D": [np.ones((3, 3))]}, "not \\(2, 2\\)"),
        ({"D": [np.array([[1.0, 2.0], [2.0, 1.0]])]}, "not non-negative definite"),
    ],
)
def test_cases_that_do_not_fit_together_are_refused(change, message) -> None:
    design = make_designs(np.random.default_rng(8), "slope", n_voxels=1)
    case = Case(design.Y[:, 0], design.X, design.factors)
    with pytest.raises(ValueError, match=message):
        run_lmer([case._replace(**change)])


def test_a_correlation_is_refused_where_there_is_none() -> None:
    design = make_designs(np.random.default_rng(8), "diagonal", n_voxels=1)
    D = [np.array([[1.0, 0.1], [0.1, 1.0]])]
    with pytest.raises(ValueError, match="not diagonal"):
        run_lmer([Case(design.Y[:, 0], design.X, design.factors, D=D)])


def test_dense_refuses_a_D_that_is_not_a_covariance() -> None:
    design = make_designs(np.random.default_rng(8), "slope", n_voxels=1)
    y, X, factors = design.Y[:, 0], design.X, design.factors
    with pytest.raises(ValueError, match="not positive definite"):
        dense.criterion(y, X, factors, [np.diag([-5.0, 0.0])])
    with pytest.raises(ValueError, match="not non-negative definite"):
        dense.satterthwaite(y, X, factors, [np.array([[1.0, 1.1], [1.1, 1.0]])], CONTRASTS)


@pytest.mark.parametrize("kind", KINDS)
def test_designs_are_what_they_say(kind) -> None:
    design = make_designs(np.random.default_rng(9), kind)
    assert design.Y.shape == design.present.shape == (len(design.X), 6)
    np.testing.assert_array_equal(np.isnan(design.Y), ~design.present)
    assert np.linalg.matrix_rank(design.X) == 3
    for factor in design.factors:
        assert set(factor.level) == set(range(factor.n_levels))
        assert factor.Z.shape == (len(design.X), factor.n_effects)
        assert factor.n_levels < len(design.X)
        assert np.linalg.matrix_rank(factor.Z) == factor.n_effects
    complete = design.present.all(axis=0)
    assert complete.any()
    assert complete.all() == ("missing" not in kind)
    sizes = np.bincount(design.factors[0].level)
    assert (sizes.min() == 1) == ("unbalanced" in kind)
    assert (np.nanmin(design.Y) > 5e3) == ("offset" in kind)
    zeros = [np.any(np.diag(block) == 0) for blocks in design.D for block in blocks]
    assert all(zeros) if "boundary" in kind else not any(zeros)


def test_nested_levels_lie_in_one_outer_level() -> None:
    outer, inner = make_designs(np.random.default_rng(10), "nested unbalanced").factors
    pairs = np.unique(np.column_stack([inner.level, outer.level]), axis=0)
    assert len(pairs) == inner.n_levels > outer.n_levels


def test_crossed_levels_meet() -> None:
    first, second = make_designs(np.random.default_rng(11), "crossed").factors
    pairs = np.unique(np.column_stack([first.level, second.level]), axis=0)
    assert len(pairs) == first.n_levels * second.n_levels


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown kind 'slope tall'"):
        make_designs(np.random.default_rng(0), "slope tall")
