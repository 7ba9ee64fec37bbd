"""Random designs against lme4 and lmerTest, in few runs of R.

Every voxel is fitted twice: by us, and by lme4, which also evaluates its own deviance at our D.
"""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracles import dense
from oracles.designs import CONDITIONS, KINDS, STRUCTURES, make_designs
from oracles.lmer import Case, LmerFit, make_cases, requires_lme4, run_lmer

from nipype_blm.core.status import VoxelStatus

N_VOXELS = 6


class Comparison(NamedTuple):
    """One voxel, fitted by both."""

    name: str
    case: Case
    lmer: LmerFit
    status: int
    llh: float
    beta: np.ndarray
    sigma2: float
    std_error: np.ndarray
    stat: np.ndarray
    dof: np.ndarray

    @property
    def excess(self) -> float:
        """How far our deviance is above lme4's, both in lme4's own evaluation."""
        return self.lmer.given.deviance - self.lmer.best.deviance


def compare(fit_mixed, contrasts, designs: list[tuple[str, int, bool]]) -> list[Comparison]:
    """Fit designs, each given by its kind, a seed and the criterion."""
    fits, cases = [], []
    for kind, seed, reml in designs:
        design = make_designs(np.random.default_rng(seed), kind, N_VOXELS)
        fit = fit_mixed(design.Y, design.X, design.factors, contrasts, reml=reml)
        name = f"{kind}, seed {seed}, {'REML' if reml else 'ML'}, voxel "
        fits += [(fit, v, f"{name}{v}") for v in fit.fitted]
        Y, D = (
            design.Y[:, fit.fitted],
            [list(map(make_definite, fit.blocks(v))) for v in fit.fitted],
        )
        cases += make_cases(Y, design.X, design.factors, contrasts, reml=reml, D=D)
        # Levels of one observation may leave too few for X or Z, or for variances between levels.
        dropped = {VoxelStatus.TOO_FEW, VoxelStatus.TOO_MANY_EFFECTS}
        for v in set(range(N_VOXELS)) - set(fit.fitted):
            levels = [np.unique(factor.level[design.present[:, v]]) for factor in design.factors]
            few = min(map(len, levels)) <= 2
            allowed = dropped | ({VoxelStatus.UNIDENTIFIED} if few else set())
            assert fit.status[v] in allowed, f"{name}{v}"
    return [
        Comparison(
            name, case, lmer, fit.status[v], fit.llh[v], fit.beta[v], fit.sigma2[v],
            fit.std_error[v], fit.stat[v], fit.dof[v],
        )
        for (fit, v, name), case, lmer in zip(fits, cases, run_lmer(cases), strict=True)
    ]  # fmt: skip


def make_definite(D: np.ndarray) -> np.ndarray:
    """Return D without the negative eigenvalues that rounding of its elements has left."""
    sd = np.sqrt(np.diag(D))
    scale = np.outer(sd, sd) + (np.outer(sd, sd) == 0)
    values, vectors = np.linalg.eigh(D / scale)
    # Three effects with scales of 1e-3 to 1e2 are mixed and unmixed: 1e-16 times a few 1e4.
    assert values.min() > -1e-10
    if values.min() >= 0:
        return D
    return scale * ((vectors * np.maximum(values, 0)) @ vectors.T)


def check_optimum(found: Comparison) -> None:
    """The estimates are an optimum, and what lme4 computes at that D."""
    # One large level and two of one observation leave the likelihood flat in directions of D: a
    # search along these may end, flagged, without its certificate.
    flat = "few_levels" in found.name and "unbalanced" in found.name
    certified = (VoxelStatus.FITTED, VoxelStatus.FITTED_BOUNDARY)
    assert found.status in (*certified, *([VoxelStatus.NOT_CONVERGED] if flat else [])), found.name
    assert found.excess < 1e-6, found.name
    given = found.lmer.given
    # Sums of 60 squares, with logarithms of determinants: a hundred roundings of a deviance of
    # 100, times ten where a mean of 1e4 costs lme4, which does not shift y, four digits.
    assert_allclose(-2 * found.llh, given.deviance, rtol=0, atol=1e-8, err_msg=found.name)
    # We take one Newton step after the last evaluation, to first order: its square is below
    # the tolerance of the search, 1e-9, in units of standard errors.
    assert_allclose(found.sigma2, given.sigma2, rtol=1e-8, err_msg=found.name)
    assert_allclose(found.std_error, given.std_error, rtol=1e-8, err_msg=found.name)
    # beta may be 0: measured in standard errors, and by its own size where that is larger.
    limit = 1e-8 * (given.std_error + np.abs(given.beta))
    assert np.all(np.abs(found.beta - given.beta) <= limit), found.name


def check_tests(found: Comparison) -> list[bool]:
    """Return, for each contrast, whether lmerTest had to be put right by exact derivatives."""
    # Deviances within 1e-8 are D within 1e-4 standard errors, of which the degrees of freedom
    # move by as much; so is the D at which ours are evaluated, one step before the optimum.
    # One large level and two of one observation leave directions of D of which nothing is known,
    # nor the degrees of freedom they take.
    if "few_levels" in found.name and "unbalanced" in found.name:
        return []
    # Where the likelihood is flat, the same deviance may belong to other estimates.
    best, case = found.lmer.best, found.case
    same = np.allclose(found.std_error, best.std_error, rtol=1e-3, atol=0)
    if abs(found.excess) > 1e-8 or not same:
        return []
    expected = np.array([test.df for test in found.lmer.tests])
    stats = np.array([test.stat for test in found.lmer.tests])
    assert_allclose(found.stat, stats, rtol=1e-3, atol=1e-3, err_msg=found.name)
    differs = np.abs(found.dof / expected - 1) > 1e-4
    if differs.any():
        # lmerTest differentiates numerically, and counts a root of D of 1e-8 as one more
        # parameter; F depends on the axes of L C L', which are anywhere if two are equally long.
        y, X, factors = dense.drop_missing(case.y, case.X, case.factors)
        tests = dense.satterthwaite(y, X, factors, case.D, case.contrasts, reml=case.reml)
        exact = [test.df for test in tests]
        # Second derivatives are differences of terms that grow with D, and lose digits with it.
        rtol = 1e-4 if max(np.abs(D).max() for D in case.D) < 1e3 else 1e-3
        assert_allclose(found.dof[differs], np.array(exact)[differs], rtol=rtol, err_msg=found.name)
    return differs.tolist()


@pytest.fixture(scope="module")
def comparisons(fit_mixed, contrasts) -> list[Comparison]:
    designs = [(kind, seed, bool(seed % 2)) for seed, kind in enumerate([*KINDS, *KINDS[::-1]])]
    return compare(fit_mixed, contrasts, designs)


@requires_lme4
@pytest.mark.parametrize("kind", KINDS)
def test_no_voxel_is_above_the_optimum_of_lme4(kind, comparisons) -> None:
    found = [c for c in comparisons if c.name.startswith(f"{kind}, ")]
    assert found
    for comparison in found:
        check_optimum(comparison)


@requires_lme4
def test_degrees_of_freedom_are_those_of_lmertest(comparisons) -> None:
    differs = [check_tests(comparison) for comparison in comparisons]
    # Nearly all optima agree, and nearly all numerical derivatives are good.
    assert np.mean([bool(d) for d in differs]) > 0.9
    assert np.mean(np.concatenate(differs)) < 0.02


@requires_lme4
def test_the_boundary_is_where_lme4_finds_it(comparisons) -> None:
    # isSingular has a tolerance of 1e-4 for the roots of D; here none is that small but zero,
    # except where lme4 ends elsewhere.
    same = [c for c in comparisons if abs(c.excess) < 1e-8]
    at_boundary = np.array([c.status == VoxelStatus.FITTED_BOUNDARY for c in same])
    is_singular = np.array([c.lmer.is_singular for c in same])
    assert 0.2 < at_boundary.mean() < 0.8
    assert np.mean(at_boundary == is_singular) > 0.98
    # A root between 0 and that tolerance counts as singular for lme4, and is none.
    for c in (c for c, differs in zip(same, at_boundary != is_singular, strict=True) if differs):
        smallest = min(np.linalg.eigvalsh(block).min() for block in c.case.D)
        assert smallest < 1e-3, c.name


designs = st.tuples(
    st.builds(
        lambda structure, conditions: " ".join([structure, *sorted(conditions)]),
        st.sampled_from(STRUCTURES),
        st.sets(st.sampled_from(CONDITIONS)),
    ),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


@requires_lme4
# Shrinking would run R hundreds of times; the name of the voxel reproduces it.
@settings(max_examples=6, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(st.lists(designs, min_size=8, max_size=8))
def test_any_design_reaches_the_optimum_of_lme4(fit_mixed, contrasts, designs) -> None:
    for comparison in compare(fit_mixed, contrasts, designs):
        check_optimum(comparison)
        check_tests(comparison)
