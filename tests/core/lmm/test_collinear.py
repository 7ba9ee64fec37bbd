"""F of nearly collinear columns, against arithmetic of 50 digits at the same variances.

L cov(beta) L' has the square of the condition of X: formed, and inverted, it gave an F of -101
in the place of 56.  Where even a stable method has fewer than nine digits the status says so.
"""

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles.designs import make_designs

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.status import VoxelStatus

EPS = np.finfo(float).eps
N_OBS, N_LEVELS = 100, 12
FITTED = (VoxelStatus.FITTED, VoxelStatus.FITTED_BOUNDARY)


def make_study(closeness: float, slope: bool) -> tuple[np.ndarray, np.ndarray, RandomFactor]:
    """Return X, whose last two columns differ by `closeness`, Y and a factor."""
    rng = np.random.default_rng(16)
    level = rng.integers(0, N_LEVELS, N_OBS)
    x, w = rng.normal(size=(2, N_OBS))
    Y = 2 + x[:, None] + 0.8 * w[:, None] + rng.normal(size=(N_LEVELS, 6))[level]
    Y += rng.normal(size=Y.shape)
    Y[:, 3:][rng.random((N_OBS, 3)) < 0.1] = np.nan
    X = np.column_stack([np.ones(N_OBS), x, x + closeness * w])
    Z = np.column_stack([np.ones(N_OBS), w])[:, : 1 + slope]
    return X, Y, RandomFactor("level", level.astype(np.int32), Z)


def compute_f(
    y: np.ndarray, X: np.ndarray, factor: RandomFactor, D: np.ndarray, L: np.ndarray, reml: bool
) -> float:
    """Return F at the relative covariances D, in 50 digits.

    V has a block for each level; F takes X and y only as the products A' V^-1 A of A = [X y].
    """
    present, n_params = ~np.isnan(y), X.shape[1]
    n_obs = present.sum()
    with mpmath.workdps(50):
        D, L = (mpmath.matrix(a.tolist()) for a in (D, L))
        products = mpmath.zeros(n_params + 1)
        for j in np.unique(factor.level[present]):
            rows = present & (factor.level == j)
            A = mpmath.matrix(np.column_stack([X, y])[rows].tolist())
            Z = mpmath.matrix(factor.Z[rows].tolist())
            products += A.T * (Z * D * Z.T + mpmath.eye(Z.rows)) ** -1 * A
        C = products[:n_params, :n_params] ** -1
        beta = C * products[:n_params, n_params]
        rss = products[n_params, n_params] - (products[n_params, :n_params] * beta)[0]
        sigma2 = rss / int(n_obs - (n_params if reml else 0))
        effect = L * beta
        return float((effect.T * (L * C * L.T) ** -1 * effect)[0] / (L.rows * sigma2))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("slope", [False, True])
@pytest.mark.parametrize("closeness", [1e-3, 1e-6, 1e-8, 1e-11])
def test_f_keeps_the_digits_that_the_condition_of_x_leaves(
    fit_mixed, closeness, slope, reml
) -> None:
    X, Y, factor = make_study(closeness, slope)
    L = np.eye(3)[1:]
    fit = fit_mixed(Y, X, [factor], [L], reml=reml, tol=1e-12)
    precision = 100 * EPS * np.linalg.cond(X / np.linalg.norm(X, axis=0))
    if precision > 1e-6:
        assert_array_equal(fit.status, VoxelStatus.FITTED_IMPRECISE)
    else:
        assert np.isin(fit.status, FITTED).all()
    for v in (0, 3):
        expected = compute_f(Y[:, v], X, factor, fit.blocks(v)[0], L, reml)
        # D itself is printed with 16 digits, which F sees as little as any.
        assert_allclose(fit.stat[v, 0], expected, rtol=max(1e-9, precision))


def test_the_degrees_of_freedom_do_not_see_the_condition(fit_mixed) -> None:
    """Those of F come from eigenvectors; the same hypothesis in well-conditioned columns."""
    L = np.eye(3)[1:]
    X, Y, factor = make_study(1e-5, slope=False)
    w = (X[:, 2] - X[:, 1]) / 1e-5
    truth = fit_mixed(Y, np.column_stack([X[:, :2], w]), [factor], [L], tol=1e-12)
    close = fit_mixed(Y, X, [factor], [L @ [[1, 0, 0], [0, 1, 1], [0, 0, 1e-5]]], tol=1e-12)
    assert_allclose(close.stat, truth.stat, rtol=1e-8)
    assert (close.dof > 0).all()


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("structure", ["intercept", "slope", "crossed", "three"])
def test_hardly_any_residual_variance_is_said_to_be_imprecise(fit_mixed, structure, reml) -> None:
    """llh is off by 2e-6 where it is 1e-7 of the variance of random effects."""
    design = make_designs(np.random.default_rng(12), structure, n_voxels=1)
    rng = np.random.default_rng(5)
    factor = design.factors[0]
    lines = (factor.Z * rng.normal(size=(factor.n_levels, factor.n_effects))[factor.level]).sum(1)
    noise = rng.normal(size=len(lines))
    Y = np.column_stack([lines + size * noise for size in (1.0, 0.1, 3e-4, 1e-4)])
    fit = fit_mixed(Y, design.X, design.factors, reml=reml, safe_mode=False)
    assert np.isin(fit.status[:2], FITTED).all()
    assert_array_equal(fit.status[2:], VoxelStatus.FITTED_IMPRECISE)
