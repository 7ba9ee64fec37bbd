"""What must not change a fit, and what must change it in a known way.

Both fits end one Newton step after a decrement below 1e-12, which leaves less than 1e-6 standard
errors of D, whose effect on what follows from D is of the same size.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from oracles.designs import KINDS, MixedDesign, make_designs

from nipype_blm.core.factors import RandomFactor

TIGHT = 1e-12

# With one large level and two of one observation, nothing is known of some directions of D, and
# where in them it ends is a matter of rounding.
CLEAR = [kind for kind in KINDS if kind != "slope few_levels unbalanced"]
kinds = st.sampled_from(CLEAR)
seeds = st.integers(0, 2**32 - 1)
some = settings(max_examples=40, derandomize=True)


def draw(kind: str, seed: int) -> MixedDesign:
    return make_designs(np.random.default_rng(seed), kind, n_voxels=4)


def fit_design(fit_mixed, design: MixedDesign, contrasts=(), **options: Any):
    return fit_mixed(
        design.Y, design.X, design.factors, contrasts, safe_mode=False, **{"tol": TIGHT} | options
    )


def assert_same(fit, expected) -> None:
    """The same up to 1e-6 standard errors, and a factor for what is sensitive to D."""
    assert_array_equal(fit.status, expected.status)
    assert_array_equal(fit.n_obs, expected.n_obs)
    assert_allclose(fit.llh, expected.llh, rtol=0, atol=1e-8)  # a hundred roundings
    assert_allclose(fit.sigma2, expected.sigma2, rtol=1e-6)
    assert_allclose(fit.std_error, expected.std_error, rtol=1e-5)
    assert_allclose((fit.beta - expected.beta) / expected.std_error, 0, atol=1e-5)
    assert_allclose(fit.resms, expected.resms, rtol=1e-5)
    assert_allclose(fit.stat, expected.stat, rtol=1e-5, atol=1e-5)
    assert_allclose(fit.dof, expected.dof, rtol=1e-4)
    for D, other in zip(fit.D, expected.D, strict=True):
        sd = np.sqrt(np.einsum("vaa->va", other) + 1e-3)
        assert_allclose((D - other) / (sd[:, :, None] * sd[:, None]), 0, atol=1e-4)


def assert_identical(fit, expected) -> None:
    for name, values in fit._asdict().items():
        if name != "D":
            assert_array_equal(values, getattr(expected, name), name)
    for D, other in zip(fit.D, expected.D, strict=True):
        assert_array_equal(D, other)


def select(fit, voxels):
    """Return the fit of some voxels."""
    parts = {name: values[voxels] for name, values in fit._asdict().items() if name != "D"}
    return fit._replace(D=[D[voxels] for D in fit.D], **parts)


def drop_rows(design: MixedDesign, Y: np.ndarray, v: int) -> MixedDesign:
    """Return the study of the images that voxel v has; levels without any are not there."""
    rows = ~np.isnan(Y[:, v])
    factors = [
        f._replace(
            level=np.unique(f.level[rows], return_inverse=True)[1].astype(np.int32), Z=f.Z[rows]
        )
        for f in design.factors
    ]
    return design._replace(Y=Y[rows, v : v + 1], X=design.X[rows], factors=factors)


# ------------------------------------------------------------------------- what must not matter


@some
@given(kinds, seeds, st.booleans(), st.randoms(use_true_random=False))
def test_the_numbers_of_levels_do_not_matter(
    fit_mixed, contrasts, kind, seed, reml, random
) -> None:
    design = draw(kind, seed)
    factors = []
    for factor in design.factors:
        number = random.sample(range(factor.n_levels), factor.n_levels)
        factors.append(factor._replace(level=np.array(number, np.int32)[factor.level]))
    renamed = fit_design(fit_mixed, design._replace(factors=factors), contrasts, reml=reml)
    assert_same(renamed, fit_design(fit_mixed, design, contrasts, reml=reml))


@some
@given(kinds, seeds, st.booleans())
def test_the_order_of_images_does_not_matter(fit_mixed, contrasts, kind, seed, reml) -> None:
    design = draw(kind, seed)
    order = np.random.default_rng(seed).permutation(len(design.X))
    factors = [f._replace(level=f.level[order], Z=f.Z[order]) for f in design.factors]
    shuffled = design._replace(Y=design.Y[order], X=design.X[order], factors=factors)
    found = fit_design(fit_mixed, shuffled, contrasts, reml=reml)
    assert_same(found, fit_design(fit_mixed, design, contrasts, reml=reml))


@some
@given(kinds, seeds, st.booleans(), st.lists(st.integers(1, 59), max_size=5))
def test_the_cut_into_batches_does_not_matter(
    fit_mixed, contrasts, kind, seed, reml, starts
) -> None:
    design = draw(kind, seed)
    starts = [start for start in starts if start < len(design.X)]
    found = fit_design(fit_mixed, design, contrasts, reml=reml, starts=starts)
    assert_same(found, fit_design(fit_mixed, design, contrasts, reml=reml))


@some
@given(kinds, seeds, st.booleans())
def test_the_order_of_factors_does_not_matter(fit_mixed, contrasts, kind, seed, reml) -> None:
    design = draw(kind, seed)
    swapped = fit_design(
        fit_mixed, design._replace(factors=design.factors[::-1]), contrasts, reml=reml
    )
    expected = fit_design(fit_mixed, design, contrasts, reml=reml)
    assert_same(swapped._replace(D=swapped.D[::-1]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_fitted_alone_or_in_another_block_are_the_same_to_the_bit(
    fit_mixed, contrasts, kind
) -> None:
    design = make_designs(np.random.default_rng(3), kind, n_voxels=9)
    whole = fit_design(fit_mixed, design, contrasts)
    for part in (slice(0, 1), slice(4, 9), slice(None, None, -2)):
        block = fit_design(fit_mixed, design._replace(Y=design.Y[:, part]), contrasts)
        assert_identical(block, select(whole, part))


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_does_not_change_a_bit(fit_mixed, contrasts, kind) -> None:
    design = make_designs(np.random.default_rng(4), kind, n_voxels=50)
    one = fit_design(fit_mixed, design, contrasts, n_threads=1)
    assert_identical(fit_design(fit_mixed, design, contrasts, n_threads=2), one)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "missing" in kind])
@pytest.mark.parametrize("reml", [True, False])
def test_a_missing_image_is_as_if_it_were_not_in_the_study(
    fit_mixed, contrasts, kind, reml
) -> None:
    design = make_designs(np.random.default_rng(5), kind, n_voxels=6)
    fit = fit_design(fit_mixed, design, contrasts, reml=reml)
    for v in range(6):
        alone = drop_rows(design, design.Y, v)
        expected = fit_design(fit_mixed, alone, contrasts, reml=reml)
        assert_same(select(fit, [v]), expected)


def test_levels_without_any_image_do_not_matter(fit_mixed, contrasts) -> None:
    design = draw("crossed_slope", 6)
    Y = design.Y.copy()
    Y[np.isin(design.factors[0].level, [0, 4]), 1:3] = np.nan
    Y[design.factors[1].level == 2, 2:] = np.nan
    fit = fit_design(fit_mixed, design._replace(Y=Y), contrasts)
    for v in range(4):
        kept = drop_rows(design, Y, v)
        assert_same(select(fit, [v]), fit_design(fit_mixed, kept, contrasts))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.split()[0] == "intercept"])
def test_a_single_effect_is_its_own_diagonal(fit_mixed, contrasts, kind) -> None:
    design = draw(kind, 7)
    [factor] = design.factors
    diagonal = design._replace(factors=[factor._replace(correlated=False)])
    assert_identical(
        fit_design(fit_mixed, diagonal, contrasts), fit_design(fit_mixed, design, contrasts)
    )


# --------------------------------------------------------------- what must matter in a known way


@some
@given(kinds, seeds, st.booleans(), st.floats(-30, 30), st.booleans())
def test_y_may_have_any_unit(fit_mixed, contrasts, kind, seed, reml, exponent, negative) -> None:
    design = draw(kind, seed)
    unit = 10.0**exponent * (-1 if negative else 1)
    found = fit_design(fit_mixed, design._replace(Y=unit * design.Y), contrasts, reml=reml)
    dof = found.n_obs - 3 * reml
    sign = np.where([c.ndim == 1 for c in contrasts], np.sign(unit), 1)
    in_old_units = found._replace(
        beta=found.beta / unit,
        sigma2=found.sigma2 / unit**2,
        resms=found.resms / unit**2,
        cov=found.cov / unit**2,
        llh=found.llh + dof * np.log(abs(unit)),
        stat=found.stat * sign,
    )
    assert_same(in_old_units, fit_design(fit_mixed, design, contrasts, reml=reml))


@some
@given(kinds, seeds, st.booleans())
def test_X_may_have_any_units_and_contrasts_follow(fit_mixed, contrasts, kind, seed, reml) -> None:
    design = draw(kind, seed)
    # Well-conditioned mixtures of the columns, then units from 1e-4 to 1e4.
    rng = np.random.default_rng(seed)
    A = (np.eye(3) + 0.3 * rng.uniform(-1, 1, (3, 3))) * 10 ** rng.uniform(-4, 4, 3)
    moved = design._replace(X=design.X @ A)
    found = fit_design(fit_mixed, moved, [c @ A for c in contrasts], reml=reml)
    in_old_units = found._replace(
        beta=found.beta @ A.T,
        cov=A @ found.cov @ A.T,
        # log|X'V^-1X| is part of the restricted likelihood.
        llh=found.llh + reml * np.log(abs(np.linalg.det(A))),
    )
    assert_same(in_old_units, fit_design(fit_mixed, design, contrasts, reml=reml))


@some
@given(kinds, seeds, st.booleans())
def test_Z_may_have_any_units_and_D_follows(fit_mixed, contrasts, kind, seed, reml) -> None:
    design = draw(kind, seed)
    rng = np.random.default_rng(seed)
    matrices, factors = [], []
    for factor in design.factors:
        q = factor.n_effects
        A = np.eye(q) + 0.3 * factor.correlated * rng.uniform(-1, 1, (q, q))
        matrices.append(A * 10 ** rng.uniform(-3, 3, q))
        factors.append(factor._replace(Z=factor.Z @ matrices[-1]))
    found = fit_design(fit_mixed, design._replace(factors=factors), contrasts, reml=reml)
    in_old_units = found._replace(D=[A @ D @ A.T for A, D in zip(matrices, found.D, strict=True)])
    assert_same(in_old_units, fit_design(fit_mixed, design, contrasts, reml=reml))


@some
@given(kinds, seeds, st.booleans())
def test_adding_Xb_to_y_adds_b_to_beta(fit_mixed, contrasts, kind, seed, reml) -> None:
    design = draw(kind, seed)
    b = np.random.default_rng(seed).normal(scale=100, size=(3, 4))
    found = fit_design(fit_mixed, design._replace(Y=design.Y + design.X @ b), contrasts, reml=reml)
    expected = fit_design(fit_mixed, design, contrasts, reml=reml)
    assert_same(found._replace(beta=found.beta - b.T, stat=expected.stat), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_study_twice_is_twice_the_likelihood(fit_mixed, kind) -> None:
    design = draw(kind, 9)
    twice = design._replace(
        Y=np.concatenate([design.Y] * 2),
        X=np.concatenate([design.X] * 2),
        factors=[
            f._replace(
                level=np.concatenate([f.level, f.level + f.n_levels]), Z=np.concatenate([f.Z] * 2)
            )
            for f in design.factors
        ],
    )
    found = fit_design(fit_mixed, twice, reml=False)
    in_halves = found._replace(
        n_obs=found.n_obs // 2,
        llh=found.llh / 2,
        cov=2 * found.cov,
        resms=found.resms * (found.n_obs - 3) / (found.n_obs - 6),
    )
    assert_same(in_halves, fit_design(fit_mixed, design, reml=False))


# ----------------------------------------------------------------------------- several maxima


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "few_levels" in kind])
def test_more_starts_never_end_lower(fit_mixed, kind) -> None:
    design = make_designs(np.random.default_rng(10), kind, n_voxels=100)
    for reml in (True, False):
        llh = [fit_design(fit_mixed, design, reml=reml, n_starts=n).llh for n in (1, 2, 3)]
        assert np.all(np.diff(llh, axis=0)[:, ~np.isnan(llh[0])] > -1e-8)  # a hundred roundings


@pytest.mark.parametrize("structure", ["slope", "diagonal", "three", "crossed_slope"])
def test_several_starts_find_what_one_start_misses(fit_mixed, structure) -> None:
    """With few levels some voxels have several maxima, whichever engine it is that looks."""
    kind = f"{structure} few_levels unbalanced"
    design = make_designs(np.random.default_rng(0), kind, n_voxels=100)
    one, usual, three = (
        fit_design(fit_mixed, design, reml=False, n_starts=n) for n in (1, None, 3)
    )
    gain = usual.llh - one.llh
    better = np.flatnonzero(gain > 1e-2)
    assert better.size
    assert np.nanmin(gain) > -1e-8  # a hundred roundings
    for v in better:
        y, X, factors = dense.drop_missing(design.Y[:, v], design.X, design.factors)
        expected = dense.criterion(y, X, factors, usual.blocks(v), reml=False)
        assert_allclose(-2 * usual.llh[v], expected.deviance, rtol=0, atol=1e-8)
    assert_identical(three, usual)


@pytest.mark.parametrize(("n_levels", "n_starts"), [(99, 3), (100, 1)])
def test_one_start_is_enough_from_a_hundred_levels_on(fit_mixed, n_levels, n_starts) -> None:
    rng = np.random.default_rng(11)
    level = np.repeat(np.arange(n_levels, dtype=np.int32), 4)
    X = np.column_stack([np.ones(level.size), rng.normal(size=(level.size, 2))])
    data = rng.normal(size=(level.size, 3)), X, [RandomFactor("f1", level, X[:, :2])]
    assert_identical(fit_mixed(*data), fit_mixed(*data, n_starts=n_starts))
    assert np.all(fit_mixed(*data, n_starts=1).nit < fit_mixed(*data, n_starts=3).nit)
