"""Large blocks of voxels with the same images have engines of their own: the same answers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from oracles.designs import MixedDesign, make_designs

N_VOXELS, FEW = 2500, 20  # above and below what makes a table worth its time
STRUCTURES = ("intercept", "slope", "diagonal", "crossed", "nested")
KINDS = [*STRUCTURES, *(f"{structure} unbalanced" for structure in STRUCTURES)]


def make_design(kind: str) -> MixedDesign:
    """Return a design without missing images; the last voxels cannot be fitted."""
    design = make_designs(np.random.default_rng(KINDS.index(kind)), kind, N_VOXELS)
    design.Y[:, -2] = 1.5
    design.Y[:, -1] = np.nan
    return design


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
        assert_array_equal(large.status[part], small.status)
        assert_array_equal(large.n_obs[part], small.n_obs)
        assert_allclose(large.llh[part], small.llh, rtol=0, atol=1e-8)  # a hundred roundings
        # Both end a step after a decrement of 1e-9 or less: 3e-5 standard errors of D, squared
        # in what the step takes along.
        assert_allclose(large.sigma2[part], small.sigma2, rtol=1e-4)
        errors = (large.beta[part] - small.beta)[small.fitted] / small.std_error[small.fitted]
        assert_allclose(errors, 0, atol=1e-4)
        assert_allclose(large.std_error[part], small.std_error, rtol=1e-4)
        assert_allclose(large.dof[part], small.dof, rtol=1e-4)


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


@pytest.mark.parametrize("kind", KINDS)
def test_threads_share_a_large_block_without_a_trace(fit_mixed, kind) -> None:
    design = make_design(kind)
    one, two = (
        fit_mixed(design.Y, design.X, design.factors, n_threads=n_threads) for n_threads in (1, 2)
    )
    for name in ("status", "beta", "sigma2", "llh", "cov", "nit"):
        assert_array_equal(getattr(one, name), getattr(two, name), name)
