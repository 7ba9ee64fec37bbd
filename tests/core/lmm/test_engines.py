"""Some models, and large blocks of voxels with the same images, have engines of their own.

They are taken where they are meant to be, and give the same answers.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from oracles.designs import MixedDesign, make_designs

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.lmm import fit as fit_module

N_VOXELS, FEW = 2500, 20  # above and below what makes a table worth its time
STRUCTURES = ("intercept", "slope", "diagonal", "crossed", "nested")
KINDS = [*STRUCTURES, *(f"{structure} unbalanced" for structure in STRUCTURES)]


def make_design(kind: str) -> MixedDesign:
    """Return a design without missing images; the last voxels cannot be fitted."""
    design = make_designs(np.random.default_rng(KINDS.index(kind)), kind, N_VOXELS)
    design.Y[:, -2] = 1.5
    design.Y[:, -1] = np.nan
    return design


# Of structures with an engine that docs/methods.md names: the one in a large block, and alone.
SUMMED_LEVELS = "fit_intercepts, levels summed"  # those of equally many images
MIXED_LEVELS = "fit_slopes, levels mixed"  # levels alike are turned until most leave Q alone
ENGINES = {
    "intercept": (SUMMED_LEVELS, SUMMED_LEVELS),
    "slope_only": ("fit_intercepts", "fit_intercepts"),  # one effect whose levels all differ
    "slope": (MIXED_LEVELS, "fit_slopes"),
    "diagonal": (MIXED_LEVELS, "fit_slopes"),
    "crossed": ("fit_crossed", "fit_general"),
    "nested": ("fit_crossed", "fit_general"),
}


@pytest.fixture
def n_fitted_by(monkeypatch) -> Counter:
    """How many voxels each engine has fitted: they are counted at its door."""
    counts: Counter[str] = Counter()

    def watch(name: str) -> None:
        engine = getattr(fit_module, name)

        def count(voxels: Any, *, model: Any, **others: Any) -> None:
            way = SUMMED_LEVELS if getattr(model, "by_count", False) else name
            way = MIXED_LEVELS if others.get("reduction") is not None else way
            counts[way] += voxels.order.size
            engine(voxels, model=model, **others)

        monkeypatch.setattr(fit_module, name, count)

    for name in ("fit_intercepts", "fit_slopes", "fit_crossed", "fit_general"):
        watch(name)
    return counts


def take_the_general_way(monkeypatch) -> None:
    """Have every model fitted by the engine that Fisher scoring always takes, but exactly."""
    choose = fit_module._choose_engine

    def choose_general(factors: Any, scales: Any, Q: Any, options: Any, batches: Any) -> Any:
        engine = choose(factors, scales, Q, options._replace(method="FS"), batches)
        return engine._replace(fit=partial(engine.fit, options=options))

    monkeypatch.setattr(fit_module, "_choose_engine", choose_general)


def assert_same_fit(one: Any, other: Any, voxels: Sequence[int] | slice = slice(None)) -> None:
    """Compare a fit with another one of some of its voxels."""
    assert_array_equal(one.status[voxels], other.status)
    assert_array_equal(one.n_obs[voxels], other.n_obs)
    assert_allclose(one.llh[voxels], other.llh, rtol=0, atol=1e-8)  # a hundred roundings
    # Both end a step after a decrement of 1e-9 or less: 3e-5 standard errors of D, squared
    # in what the step takes along.
    assert_allclose(one.sigma2[voxels], other.sigma2, rtol=1e-4)
    errors = (one.beta[voxels] - other.beta)[other.fitted] / other.std_error[other.fitted]
    assert_allclose(errors, 0, atol=1e-4)
    assert_allclose(one.std_error[voxels], other.std_error, rtol=1e-4)
    assert_allclose(one.dof[voxels], other.dof, rtol=1e-4)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("structure", ENGINES)
def test_every_model_is_fitted_by_the_engine_that_is_for_it_as_by_the_general_one(
    fit_mixed, contrasts, n_fitted_by, monkeypatch, structure, reml
) -> None:
    design = make_designs(np.random.default_rng(30), structure, N_VOXELS)
    data = design.X, design.factors, contrasts
    in_block, alone = ENGINES[structure]
    special = fit_mixed(design.Y, *data, reml=reml)
    assert n_fitted_by == {in_block: N_VOXELS}
    n_fitted_by.clear()
    few = fit_mixed(design.Y[:, :FEW], *data, reml=reml)
    assert n_fitted_by == {alone: FEW}
    n_fitted_by.clear()
    take_the_general_way(monkeypatch)
    general = fit_mixed(design.Y, *data, reml=reml)
    assert n_fitted_by == {"fit_general": N_VOXELS}
    assert len(general.fitted) == N_VOXELS
    assert_same_fit(special, general)
    assert_same_fit(general, few, slice(FEW))


@pytest.mark.parametrize("structure", ["slope", "crossed"])
def test_voxels_with_images_of_their_own_leave_those_with_the_same_to_their_engine(
    fit_mixed, contrasts, n_fitted_by, monkeypatch, structure
) -> None:
    design = make_designs(np.random.default_rng(31), f"{structure} missing", 2 * N_VOXELS)
    data = design.X, design.factors, contrasts
    in_block, alone = ENGINES[structure]
    special = fit_mixed(design.Y, *data)
    n_different = np.count_nonzero((~design.present).any(axis=0))
    assert n_fitted_by == {in_block: 2 * N_VOXELS - n_different, alone: n_different}
    take_the_general_way(monkeypatch)
    assert_same_fit(special, fit_mixed(design.Y, *data))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_voxel_in_a_large_block_is_the_same_as_in_a_small_one(
    fit_mixed, contrasts, kind, reml
) -> None:
    design = make_design(kind)
    data = design.X, design.factors, contrasts
    large = fit_mixed(design.Y, *data, reml=reml)
    for first in (0, 1000, N_VOXELS - FEW):
        part = slice(first, first + FEW)
        small = fit_mixed(design.Y[:, part], *data, reml=reml)
        assert_same_fit(large, small, part)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_block_is_that_of_the_dense_model(fit_mixed, contrasts, kind, reml) -> None:
    design = make_design(kind)
    fit = fit_mixed(design.Y, design.X, design.factors, contrasts, reml=reml)
    for v in fit.fitted[:: N_VOXELS // FEW]:
        data = design.Y[:, v], design.X, design.factors
        D = fit.blocks(v)
        expected = dense.criterion(*data, D, reml=reml)
        assert_allclose(-2 * fit.llh[v], expected.deviance, rtol=0, atol=1e-8)  # as above
        # One step after the last evaluation, to first order: its square is below 1e-9.
        assert_allclose(fit.sigma2[v], expected.sigma2, rtol=1e-8)
        assert_allclose(fit.std_error[v], expected.std_error, rtol=1e-8)
        errors = (fit.beta[v] - expected.beta) / expected.std_error
        assert_allclose(errors, 0, atol=1e-8)
        tests = dense.satterthwaite(*data, D, contrasts, reml=reml)
        # They belong to the last evaluation, up to 3e-5 standard errors before D.
        assert_allclose(fit.dof[v], [test.df for test in tests], rtol=1e-4)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("sd", [(40, 1), (1, 60), (40, 60)], ids=["first", "second", "both"])
def test_variances_beyond_the_table_of_crossed_factors_are_those_of_the_dense_model(
    fit_mixed, contrasts, sd, reml
) -> None:
    """A series is worth nothing outside its range: either variance may leave it, or both."""
    design = make_design("crossed")
    rng = np.random.default_rng(20)
    Y = rng.normal(size=design.Y.shape)
    for size, factor in zip(sd, design.factors, strict=True):
        Y += size * rng.normal(size=(factor.n_levels, N_VOXELS))[factor.level]
    data = design.X, design.factors
    large = fit_mixed(Y, *data, contrasts, reml=reml)
    for k, factor in enumerate(design.factors):
        d = large.D[k][:, 0, 0] * len(Y) / factor.n_levels  # z'z of a level is 1
        assert np.median(d) > 500 if sd[k] > 1 else np.median(d) < 50
    small = fit_mixed(Y[:, :FEW], *data, contrasts, reml=reml)
    assert_array_equal(large.status[:FEW], small.status)
    assert_allclose(large.llh[:FEW], small.llh, rtol=0, atol=1e-8)  # a hundred roundings
    assert_allclose(large.dof[:FEW], small.dof, rtol=1e-4)  # as above
    for v in large.fitted[:: N_VOXELS // FEW]:
        expected = dense.criterion(Y[:, v], *data, large.blocks(v), reml=reml)
        assert_allclose(-2 * large.llh[v], expected.deviance, rtol=0, atol=1e-8)
        assert_allclose(large.std_error[v], expected.std_error, rtol=1e-8)
        tests = dense.satterthwaite(Y[:, v], *data, large.blocks(v), contrasts, reml=reml)
        assert_allclose(large.dof[v], [test.df for test in tests], rtol=1e-4)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("small", "sd"), [(1e-2, 10), (1e-5, 1e4), (1e-7, 1e4)])
def test_levels_that_differ_little_in_their_products_with_x_are_not_taken_for_equal(
    fit_mixed, small, sd, reml
) -> None:
    """A covariate of which levels have almost no part still meets what is large between them.

    Least squares is off by `small` times the random effects; the mixed model is not.
    """
    rng = np.random.default_rng(21)
    n_levels, n_each, n_voxels = 30, 6, 300
    level = np.repeat(np.arange(n_levels), n_each)
    time = np.linspace(-1, 1, n_each)
    Z = np.tile(np.column_stack([np.ones(n_each), time]), (n_levels, 1))
    within = rng.normal(size=(n_each, n_levels))
    basis, _ = np.linalg.qr(Z[:n_each])
    within -= basis @ (basis.T @ within)  # Z'x is 0 in each level
    x = within.T.ravel() + small * rng.normal(size=n_levels)[level]
    X = np.column_stack([np.ones(level.size), Z[:, 1], x])
    b = sd * rng.normal(size=(n_levels, 2, n_voxels))
    Y = np.einsum("nq,nqv->nv", Z, b[level]) + rng.normal(size=(level.size, n_voxels))
    factor = RandomFactor("subject", level.astype(np.int32), Z)
    large = fit_mixed(Y, X, [factor], reml=reml)
    alone = fit_mixed(Y[:, :FEW], X, [factor], reml=reml)
    assert_array_equal(large.status[:FEW], alone.status)
    assert len(alone.fitted) == FEW
    errors = (large.beta[:FEW] - alone.beta) / alone.std_error
    assert_allclose(errors, 0, atol=1e-4)  # as above
    assert_allclose(large.std_error[:FEW], alone.std_error, rtol=1e-4)
    # Roundings of sums of squares that are sd^2 times as large as what is left of each.
    assert_allclose(
        large.llh[:FEW], alone.llh, rtol=0, atol=1e-8 + 1e-15 * Y[:, 0].size ** 2 * sd**2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_threads_share_a_large_block_without_a_trace(fit_mixed, kind) -> None:
    design = make_design(kind)
    one, two = (
        fit_mixed(design.Y, design.X, design.factors, n_threads=n_threads) for n_threads in (1, 2)
    )
    for name in ("status", "beta", "sigma2", "llh", "cov", "nit"):
        assert_array_equal(getattr(one, name), getattr(two, name), name)
