"""Voxels that cannot be fitted, or hardly: they get a status, and their neighbours no scratch."""

from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles.designs import STRUCTURES, MixedDesign, make_designs

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.status import VoxelStatus, is_fitted

GOOD = {VoxelStatus.FITTED, VoxelStatus.FITTED_BOUNDARY}
NOTHING_LEFT = {VoxelStatus.ZERO_VARIANCE}
METHODS = ("exact", "pSFS", "FS")


class Voxel(NamedTuple):
    y: np.ndarray
    status: set[VoxelStatus]  # what is right


def make_voxels(design: MixedDesign) -> dict[str, Voxel]:
    """Return one voxel of each sort."""
    rng = np.random.default_rng(11)
    n = len(design.X)
    factor = design.factors[0]
    noise = rng.normal(size=n)
    spike, ones = np.zeros(n), np.ones(n)
    spike[7] = 1.0
    few, one_level = np.full(n, np.nan), np.full(n, np.nan)
    few[:4] = noise[:4]
    one_level[factor.level == 3] = noise[factor.level == 3]
    singles = np.full(n, np.nan)
    # A single effect that differs between images gives each of them a variance of its own.
    varies = factor.n_effects == 1 and np.ptp(np.abs(factor.Z)) > 0
    one_of_each = np.arange(factor.n_levels) * 6 + np.arange(factor.n_levels) % 6
    singles[one_of_each] = noise[one_of_each]
    lines = (factor.Z * rng.normal(size=(factor.n_levels, factor.n_effects))[factor.level]).sum(1)
    return {
        "empty": Voxel(np.nan * ones, {VoxelStatus.NO_DATA}),
        "zero": Voxel(0 * ones, NOTHING_LEFT),
        "constant": Voxel(5.1 * ones, NOTHING_LEFT),
        "a large constant": Voxel(1e9 * ones / 3, NOTHING_LEFT),
        "X b exactly": Voxel(design.X @ [1e3, -2.0, 0.1], NOTHING_LEFT),
        "Z b exactly": Voxel(lines, NOTHING_LEFT),
        "X b + Z b exactly": Voxel(design.X @ [1e3, -2.0, 0.1] + lines, NOTHING_LEFT),
        "one value differs": Voxel(spike, GOOD),
        "one value differs much": Voxel(1e6 * spike + noise, GOOD),
        "few ones among zeros": Voxel((rng.random(n) < 0.1).astype(float), GOOD),
        "two values": Voxel(np.sign(noise), GOOD),
        "nearly Z b": Voxel(lines + 1e-3 * noise, {*GOOD, VoxelStatus.FITTED_IMPRECISE}),
        "four images": Voxel(few, {VoxelStatus.TOO_FEW}),
        "one image of each level": Voxel(singles, GOOD if varies else {VoxelStatus.UNIDENTIFIED}),
        "one level": Voxel(one_level, {VoxelStatus.UNIDENTIFIED}),
        "a large mean": Voxel(1e8 + noise, {*GOOD, VoxelStatus.FITTED_IMPRECISE}),
        "tiny": Voxel(1e-38 * noise, GOOD),  # the range of single precision
        "huge": Voxel(1e38 * noise, GOOD),
        "infinite": Voxel(np.where(spike, np.inf, noise), NOTHING_LEFT),
        "noise": Voxel(noise, GOOD),
    }


def fit_design(fit_mixed, design: MixedDesign, Y: np.ndarray, contrasts, **options):
    return fit_mixed(Y, design.X, design.factors, contrasts, safe_mode=False, **options)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_each_voxel_gets_the_status_that_tells_why(fit_mixed, structure, method, reml) -> None:
    design = make_designs(np.random.default_rng(12), structure)
    voxels = make_voxels(design)
    Y = np.column_stack([voxel.y for voxel in voxels.values()])
    fit = fit_design(fit_mixed, design, Y, (), reml=reml, method=method)
    statuses = dict(zip(voxels, map(VoxelStatus, fit.status), strict=True))
    wrong = {name: s.name for name, s in statuses.items() if s not in voxels[name].status}
    assert not wrong
    for values in (fit.beta, fit.sigma2, fit.llh, fit.cov, fit.resms, *fit.D):
        assert np.isfinite(values[is_fitted(fit.status)]).all()
    assert np.all(fit.sigma2[fit.fitted] > 0)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_good_voxels_keep_every_bit_beside_bad_ones(fit_mixed, contrasts, structure) -> None:
    design = make_designs(np.random.default_rng(13), f"{structure} missing", n_voxels=20)
    bad = np.column_stack([voxel.y for voxel in make_voxels(design).values()])
    mixed = np.stack([bad, design.Y], axis=2).reshape(len(bad), -1)  # one after the other
    found = fit_design(fit_mixed, design, mixed, contrasts)
    alone = fit_design(fit_mixed, design, design.Y, contrasts)
    for name in ("status", "beta", "sigma2", "llh", "cov", "resms", "nit", "stat", "dof"):
        assert_array_equal(getattr(found, name)[1::2], getattr(alone, name), name)
    for D, expected in zip(found.D, alone.D, strict=True):
        assert_array_equal(D[1::2], expected)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_large_mean_costs_no_more_digits_than_it_has(fit_mixed, structure) -> None:
    design = make_designs(np.random.default_rng(14), structure)
    rounded = (1e8 + design.Y) - 1e8  # what 16 digits leave of the data
    expected = fit_design(fit_mixed, design, rounded, (), tol=1e-12)
    found = fit_design(fit_mixed, design, 1e8 + rounded, (), tol=1e-12)
    # The first value is subtracted before anything is added up: the same data but for rounding.
    assert_allclose(found.llh, expected.llh, rtol=0, atol=1e-8)
    assert_allclose(found.beta - [1e8, 0, 0], expected.beta, rtol=0, atol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_safe_mode_drops_voxels_with_no_more_images_than_effects(fit_mixed, structure) -> None:
    design = make_designs(np.random.default_rng(15), f"{structure} few_levels", n_voxels=8)
    # Effects that are uncorrelated cannot make up for each other, and count as one.
    n_effects = sum(f.n_columns if f.correlated else f.n_levels for f in design.factors)
    Y = design.Y.copy()
    rows = np.random.default_rng(16).permutation(len(Y))
    for v, n in enumerate(range(n_effects - 3, n_effects + 5)):
        Y[rows[n:], v] = np.nan
    data = Y, design.X, design.factors
    safe = fit_mixed(*data)
    before = [VoxelStatus.TOO_FEW, VoxelStatus.NO_DATA]  # rules that come first
    few = (safe.n_obs <= n_effects) & ~np.isin(safe.status, before)
    assert_array_equal(safe.status == VoxelStatus.TOO_MANY_EFFECTS, few)
    free = fit_mixed(*data, safe_mode=False)
    assert VoxelStatus.TOO_MANY_EFFECTS not in free.status
    assert_array_equal(free.status[~few], safe.status[~few])
    # Fewer images than effects are fitted as well as they can be, or said to be too few.
    allowed = {*GOOD, VoxelStatus.NOT_CONVERGED, VoxelStatus.UNIDENTIFIED, VoxelStatus.NO_DATA}
    allowed |= {VoxelStatus.ZERO_VARIANCE, VoxelStatus.TOO_FEW, VoxelStatus.FITTED_IMPRECISE}
    assert set(free.status) <= allowed


@pytest.mark.parametrize("structure", STRUCTURES)
def test_iterations_that_end_early_are_said_so(fit_mixed, structure) -> None:
    design = make_designs(np.random.default_rng(17), structure, n_voxels=20)
    data = design.Y, design.X, design.factors
    fit = fit_mixed(*data, maxnit=1)
    assert np.mean(fit.status == VoxelStatus.NOT_CONVERGED) > 0.5
    best = fit_mixed(*data)
    assert np.all(fit.llh <= best.llh + 1e-8)  # a hundred roundings


@pytest.mark.parametrize("is_crossed", [False, True])
def test_no_variance_is_negative_where_images_and_levels_leave_nothing_over(
    fit_mixed, is_crossed
) -> None:
    """X and Z together fit nine images exactly, and the likelihood is flat where D is huge."""
    rng = np.random.default_rng(3)
    n_obs, n_voxels = 40, 300
    level = np.repeat(np.arange(8, dtype=np.int32), 5)
    X = np.column_stack([np.ones(n_obs), rng.normal(size=(n_obs, 2))])
    Y = np.full((n_obs, n_voxels), np.nan)
    for v in range(n_voxels):
        images = np.concatenate([5 * np.arange(7), [1, 6]])  # seven levels, two of them twice
        Y[images, v] = rng.normal(size=8)[level[images]] + 0.1 * rng.normal(size=9)
    factors = [RandomFactor("group", level, np.ones((n_obs, 1)))]
    if is_crossed:
        other = np.arange(n_obs, dtype=np.int32) % 5
        factors.append(RandomFactor("other", other, np.ones((n_obs, 1))))
    fit = fit_mixed(Y, X, factors, reml=True, safe_mode=False)
    assert len(fit.fitted) > 100
    assert (fit.sigma2[fit.fitted] > 0).all()
    assert (np.diagonal(fit.cov[fit.fitted], axis1=1, axis2=2) > 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "what", ["slope, z is 0", "slope, z is constant", "uncorrelated slope", "z alone is 0"]
)
def test_effects_that_the_images_present_cannot_tell_apart_are_unidentified(
    fit_mixed, what, method
) -> None:
    rng = np.random.default_rng(18)
    n_levels, n_each = 30, 6
    level = np.repeat(np.arange(n_levels), n_each)
    z = np.tile([0.0, 0, 0, 1, 2, 3], n_levels) + (what == "slope, z is constant")
    Z = z[:, np.newaxis] if what == "z alone is 0" else np.column_stack([np.ones(z.size), z])
    factor = RandomFactor("subject", level, Z, "uncorrelated" not in what)
    b = rng.normal(size=(n_levels, Z.shape[1]))
    y = (Z * b[level]).sum(1) + rng.normal(size=z.size)
    first = np.tile([True, True, True, False, False, False], n_levels)  # where z does not vary
    Y = np.column_stack([y, np.where(first, y, np.nan)])
    X = np.column_stack([np.ones(z.size), rng.normal(size=z.size)])
    fit = fit_mixed(Y, X, [factor], method=method, safe_mode=False)
    assert fit.status[0] in GOOD
    assert fit.status[1] == VoxelStatus.UNIDENTIFIED


@pytest.mark.parametrize("method", METHODS)
def test_what_is_left_of_an_effect_by_rounding_is_not_taken_for_one(fit_mixed, method) -> None:
    """Images with z are missing one by one at a voxel, and subtracting them leaves 1e-17."""
    rng = np.random.default_rng(19)
    n_levels, n_each = 30, 6
    level = np.repeat(np.arange(n_levels, dtype=np.int32), n_each)
    has_effect = np.tile(np.arange(n_each) >= 4, n_levels)
    z = np.where(has_effect, rng.normal(size=level.size), 0.0)
    y = z * rng.normal(size=n_levels)[level] + rng.normal(size=level.size)
    Y = np.column_stack([y, np.where(has_effect, np.nan, y)])
    X = np.column_stack([np.ones(z.size), rng.normal(size=z.size)])
    factor = RandomFactor("subject", level, z[:, np.newaxis])
    fit = fit_mixed(Y, X, [factor], method=method, safe_mode=False)
    assert fit.status[0] in GOOD
    assert fit.status[1] == VoxelStatus.UNIDENTIFIED
