"""Mixed models with rank-deficient X, as a whole or in the images present, by dense matrices.

The oracle drops each column that depends on those before it in the images present, as lme4
does; whatever is estimable is the same in any basis of the column space.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.status import VoxelStatus, is_fitted

N_SUBJECTS, N_VISITS = 12, 4
# T contrasts of X below: a cell that some voxels lack, slope, two that never are estimable alone.
CONTRASTS = (
    np.array([0.0, 0, 0, 0, 1]),
    np.array([0.0, -1, 1, 0, 0]),
    np.array([0.0, 0, -1, 1, 0]),
    np.array([[0.0, -1, 1, 0, 0], [0, 0, 0, 0, 1]]),
    np.array([0.0, 1, 0, 0, 0]),
)
STRUCTURES = ("intercept", "slope", "diagonal", "crossed", "crossed slope")


def make_study(structure: str) -> tuple[np.ndarray, np.ndarray, list[RandomFactor]]:
    """Return X of rank 4 (intercept, three cells, age), Y without one cell at some voxels, Z."""
    rng = np.random.default_rng(STRUCTURES.index(structure))
    n = N_SUBJECTS * N_VISITS
    subject, visit = np.divmod(np.arange(n), N_VISITS)
    cell, age = rng.integers(0, 3, n), rng.normal(size=n)
    X = np.column_stack([np.ones(n), np.eye(3)[cell], age])
    Y = 3 + rng.normal(size=(N_SUBJECTS, 12))[subject] + rng.normal(size=(n, 12))
    Y += 0.5 * rng.normal(size=(N_SUBJECTS, 12))[subject] * visit[:, None]
    Y[np.ix_(cell == 2, range(4, 8))] = np.nan
    Y[:, 6:10][rng.random((n, 4)) < 0.2] = np.nan
    Z = np.column_stack([np.ones(n), visit])
    one = Z[:, :1]
    first = RandomFactor("subject", subject.astype(np.int32), one)
    if "slope" in structure or structure == "diagonal":
        first = first._replace(Z=Z, correlated=structure != "diagonal")
    site = RandomFactor("site", rng.integers(0, 5, n).astype(np.int32), one)
    return X, Y, [first, site] if "crossed" in structure else [first]


def find_kept(X: np.ndarray) -> list[int]:
    """Return the columns that do not depend on those before them."""
    kept: list[int] = []
    for column in range(X.shape[1]):
        if np.linalg.matrix_rank(X[:, [*kept, column]]) > len(kept):
            kept.append(column)
    return kept


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_is_estimable_is_that_of_a_basis_of_the_columns(fit_mixed, structure, reml) -> None:
    X, Y, factors = make_study(structure)
    fit = fit_mixed(Y, X, factors, CONTRASTS, reml=reml, safe_mode=False, tol=1e-12, starts=[20])
    assert is_fitted(fit.status).all()
    for v in range(Y.shape[1]):
        y, X_v, kept_factors = dense.drop_missing(Y[:, v], X, factors)
        kept = find_kept(X_v)
        basis, D = X_v[:, kept], fit.blocks(v)
        best = dense.criterion(y, basis, kept_factors, D, reml=reml)
        assert_allclose(fit.llh[v], -best.deviance / 2, rtol=0, atol=1e-8)
        assert_allclose(fit.sigma2[v], best.sigma2, rtol=1e-7)
        beta = np.zeros(X.shape[1])
        beta[kept] = best.beta
        kernel = np.linalg.pinv(X_v) @ X_v
        assert_allclose(fit.beta[v], kernel @ beta, rtol=0, atol=1e-6)  # the shortest of all
        estimable = np.isclose(kernel, np.eye(X.shape[1]), atol=1e-9).all(axis=1)
        cov = np.zeros((X.shape[1], X.shape[1]))
        cov[np.ix_(kept, kept)] = best.cov_beta
        cov *= np.outer(estimable, estimable)
        assert_allclose(fit.cov[v], cov, rtol=0, atol=1e-6 * best.cov_beta.max())
        tests = dense.satterthwaite(
            y, basis, kept_factors, D, [c[..., kept] for c in CONTRASTS], reml=reml
        )
        for i, (contrast, test) in enumerate(zip(CONTRASTS, tests, strict=True)):
            known = np.allclose(contrast @ kernel, contrast, atol=1e-9)
            assert fit.estimable[v, i] == known
            if known:
                assert_allclose(fit.stat[v, i], test.stat, rtol=1e-5, atol=1e-6)
                assert_allclose(fit.dof[v, i], test.df, rtol=1e-3)


def test_a_full_rank_basis_has_the_same_fit(fit_mixed) -> None:
    X, Y, factors = make_study("intercept")
    deficient = fit_mixed(Y, X, factors, CONTRASTS[:2], tol=1e-12)
    plain = fit_mixed(Y, X[:, 1:], factors, [c[1:] for c in CONTRASTS[:2]], tol=1e-12)
    assert_array_equal(deficient.status, plain.status)
    assert_allclose(deficient.stat, plain.stat, rtol=1e-7, atol=1e-9)
    assert_allclose(deficient.dof, plain.dof, rtol=1e-6)


def test_more_columns_than_images_at_a_voxel_are_no_obstacle(fit_mixed) -> None:
    """A dummy for every family; three families have data, and visits are compared within them."""
    rng = np.random.default_rng(4)
    family, person = np.repeat(np.arange(10), 6), np.repeat(np.arange(20), 3)
    visit = np.tile([0.0, 1.0, 2.0], 20)
    X = np.column_stack([visit, np.eye(10)[family]])
    Y = rng.normal(size=(20, 5))[person] + rng.normal(size=(60, 5)) + visit[:, None]
    Y[18:] = np.nan
    factor = RandomFactor("person", person.astype(np.int32), np.ones((60, 1)))
    contrast = np.eye(11)[0]
    fit = fit_mixed(Y, X, [factor], [contrast], safe_mode=False, tol=1e-12)
    few = fit_mixed(
        Y[:18],
        X[:18, :4],
        [factor._replace(level=factor.level[:18], Z=factor.Z[:18])],
        [contrast[:4]],
        safe_mode=False,
        tol=1e-12,
    )
    assert_array_equal(fit.status, few.status)
    assert (fit.status != VoxelStatus.TOO_FEW).all()
    assert_allclose(fit.stat, few.stat, rtol=1e-9)
    assert_allclose(fit.dof, few.dof, rtol=1e-7)
