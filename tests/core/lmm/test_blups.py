"""Random effects and residuals against the dense formulas, and lme4."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles.lmer import requires_lme4
from oracles.r import run_r

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.blups import compute_mixed_residuals
from nipype_blm.core.residuals import combine_contrasts
from nipype_blm.core.threads import Threads

N = 40


def make_factors(kind):
    rng = np.random.default_rng(3)
    ones = np.ones((N, 1))
    slope = np.column_stack([np.ones(N), rng.standard_normal(N)])
    subject, site = np.arange(N) // 4, np.arange(N) // 8
    levels = {
        "slopes": [(subject, slope, True)],
        "nested": [(subject, slope, False), (site, ones, True)],
        "crossed": [(subject, slope, True), (np.arange(N) % 5, ones, True)],
        # Many columns in one group.
        "large": [(np.arange(N) // 2, ones, True), (np.arange(N) % 7, ones, True)],
    }
    return [
        RandomFactor(f"f{k}", level.astype(np.int32), Z, correlated)
        for k, (level, Z, correlated) in enumerate(levels[kind])
    ]


def make_values(n_voxels):
    rng = np.random.default_rng(4)
    X = np.column_stack([np.ones(N), rng.standard_normal(N), np.arange(N) // 4 % 2])
    Y = (
        rng.standard_normal((n_voxels, N))
        + rng.standard_normal((n_voxels, 10))[:, np.arange(N) // 4]
    )
    Y[1:][rng.random((n_voxels - 1, N)) < 0.3] = np.nan
    if n_voxels > 2:
        Y[2, :4] = np.nan  # a whole level
    return Y, X


def make_D(factors):
    rng = np.random.default_rng(5)
    blocks = []
    for factor in factors:
        root = np.tril(rng.standard_normal((factor.n_effects,) * 2))
        blocks.append(root @ root.T if factor.correlated else np.diag(np.diag(root) ** 2))
    return blocks


def pack(blocks):
    """Return vech of each block, column by column."""
    return np.concatenate([block[np.triu_indices(len(block))] for block in blocks])


def expand(factors, blocks):
    """Return dense Z and D."""
    columns = sum(f.n_columns for f in factors)
    Z, D, first = np.zeros((N, columns)), np.zeros((columns, columns)), 0
    for factor, block in zip(factors, blocks, strict=True):
        q = factor.n_effects
        for i in range(N):
            at = first + factor.level[i] * q
            Z[i, at : at + q] = factor.Z[i]
        for level in range(factor.n_levels):
            at = first + level * q
            D[at : at + q, at : at + q] = block
        first += factor.n_columns
    return Z, D


def select_vech(factors, matrix):
    """Return vech of the block of each level."""
    parts, first = [], 0
    for factor in factors:
        q = factor.n_effects
        for _ in range(factor.n_levels):
            parts.append(matrix[first : first + q, first : first + q][np.triu_indices(q)])
            first += q
    return np.concatenate(parts)


def solve(y, X, Z, D, reml):
    """Return the model by the inverse of V."""
    n, p = X.shape
    V_inverse = np.linalg.inv(np.eye(n) + Z @ D @ Z.T)
    C = np.linalg.inv(X.T @ V_inverse @ X)
    beta = C @ X.T @ V_inverse @ y
    P = V_inverse - V_inverse @ X @ C @ X.T @ V_inverse
    b = D @ Z.T @ V_inverse @ (y - X @ beta)
    sigma2 = y @ P @ y / (n - p if reml else n)
    return {
        "residual": y - X @ beta - Z @ b,
        "leverage": 1 - np.diag(P),
        "sigma2": sigma2,
        "blup": b,
        "covariance": sigma2 * (D - D @ Z.T @ V_inverse @ Z @ D),
        "beta": sigma2 * C,
    }


@pytest.mark.parametrize("kind", ["slopes", "nested", "crossed", "large"])
@pytest.mark.parametrize("reml", [True, False])
def test_all_equals_the_dense_formulas_on_the_images_present(kind, reml):
    factors, (Y, X) = make_factors(kind), make_values(4)
    blocks, design = make_D(factors), factorise_design(X)
    L = np.eye(3)[1:]
    contrasts = combine_contrasts(design.R, [L[:1], L])
    D = np.repeat(pack(blocks)[:, None], len(Y), axis=1)
    found = compute_mixed_residuals(Y, D, design, factors, contrasts, reml, True)
    for v, y in enumerate(Y):
        present = ~np.isnan(y)
        y, x = y[present], X[present]
        Z, dense_D = expand(factors, blocks)
        want = solve(y, x, Z[present], dense_D, reml)
        sd = np.sqrt(want["sigma2"])
        # Sums of some ten products; V has a condition below 1e3.
        near = {"rtol": 0, "atol": 1e-10}
        r, h = want["residual"], want["leverage"]
        assert_allclose(found.residuals.residual[v, present], r, **near)
        assert_allclose(found.residuals.leverage[v, present], h, **near)
        assert_allclose(found.residuals.standardised[v, present], r / sd, **near)
        cook = (r / (sd * (1 - h))) ** 2 * h / 3
        assert_allclose(found.residuals.cook[v, present], cook, rtol=1e-7)
        assert_allclose(found.residuals.sigma[v], sd, rtol=1e-10)
        assert_allclose(found.blup[v], want["blup"], **near)
        assert_allclose(found.covariance[v], select_vech(factors, want["covariance"]), **near)
        rss = np.linalg.lstsq(x, y, rcond=None)[1][0]
        ols = rss / (len(y) - 3) * np.linalg.inv(x.T @ x)
        one, both = (np.linalg.det(c @ want["beta"] @ c.T) for c in (L[:1], L))
        one_ols, both_ols = (np.linalg.det(c @ ols @ c.T) for c in (L[:1], L))
        ratios = [(one / one_ols) ** 0.5, (both / both_ols) ** 0.25]
        assert_allclose(found.se_ratio[v], ratios, rtol=1e-9)
    levels = np.concatenate([np.arange(f.n_levels) for f in factors])
    number = np.repeat(np.arange(len(factors)), [f.n_levels for f in factors])
    for v, y in enumerate(Y):
        has = [
            (factors[k].level[~np.isnan(y)] == i).any() for k, i in zip(number, levels, strict=True)
        ]
        assert_array_equal(found.is_present[v], has)


def test_variances_of_0_give_least_squares_and_no_random_effects():
    factors, (Y, X) = make_factors("slopes"), make_values(2)
    design = factorise_design(X)
    contrasts = combine_contrasts(design.R, [np.eye(3)[1:2]])
    found = compute_mixed_residuals(Y, np.zeros((3, 2)), design, factors, contrasts, True, True)
    assert not found.blup.any()
    assert not found.covariance.any()
    assert_allclose(found.se_ratio, 1, rtol=1e-10)


def test_a_contrast_that_is_not_estimable_has_a_ratio_of_0():
    factors, (Y, X) = make_factors("slopes"), make_values(2)
    X = np.column_stack([X, np.arange(N) == 0])
    Y[1, 0] = np.nan
    design = factorise_design(X)
    contrasts = combine_contrasts(design.R, [np.eye(4)[3:]])
    D = np.repeat(pack(make_D(factors))[:, None], 2, axis=1)
    found = compute_mixed_residuals(Y, D, design, factors, contrasts, True)
    assert found.se_ratio[0, 0] > 0
    assert found.se_ratio[1, 0] == 0


def test_the_number_of_threads_changes_no_bit():
    factors, (Y, X) = make_factors("nested"), make_values(4)
    Y, design = np.tile(Y, (200, 1)), factorise_design(X)
    D = np.repeat(pack(make_D(factors))[:, None], len(Y), axis=1)
    rest = (D, design, factors, combine_contrasts(design.R, [np.eye(3)[1:2]]), True, True)
    with Threads(3) as threads:
        several = compute_mixed_residuals(Y, *rest, threads)
    one = compute_mixed_residuals(Y, *rest)
    for got, want in zip((*several[0], *several[1:]), (*one[0], *one[1:]), strict=True):
        assert_array_equal(got, want)


SCRIPT = """
suppressPackageStartupMessages(library(lme4))
data <- data.frame(y = y, x1 = X[, 2], x2 = X[, 3], z = z, subject = factor(subject))
data$item <- factor(item)
m <- lmer(y ~ x1 + x2 + (1 + z | subject) + (1 | item), data)
s2 <- sigma(m)^2
D <- VarCorr(m)$subject / s2
effects <- ranef(m, condVar = TRUE)
V <- attr(effects$subject, "postVar")
write(c(D[1, 1], D[1, 2], D[2, 2], VarCorr(m)$item[1] / s2, sigma(m), t(effects$subject),
        effects$item[, 1], V[1, 1, ], V[1, 2, ], V[2, 2, ], attr(effects$item, "postVar"),
        resid(m), hatvalues(m), cooks.distance(m)), output, 1)
"""


@requires_lme4
def test_lme4_has_the_same_random_effects_conditional_variances_and_influences():
    subject, item, z = (
        make_factors("crossed")[0].level,
        np.arange(N) % 5,
        make_factors("crossed")[0].Z,
    )
    Y, X = make_values(2)
    y = Y[1] + 2 * np.random.default_rng(6).standard_normal(10)[subject] * z[:, 1]
    present = ~np.isnan(y)
    n = present.sum()
    given = {"y": y, "X": X, "z": z[:, 1], "subject": subject, "item": item}
    numbers = run_r(SCRIPT, **{name: array[present] for name, array in given.items()})
    sizes = np.cumsum([4, 1, 20, 5, 10, 10, 10, 5, n, n])
    D, sigma, slopes, items, v1, v12, v2, v_item, r, h, cook = np.split(numbers, sizes)
    assert (D[[0, 2]] > 1e-3).all()  # no variance is 0, which would test less
    design = factorise_design(X)
    contrasts = combine_contrasts(design.R, [np.eye(3)[1:2]])
    factors = make_factors("crossed")
    found = compute_mixed_residuals(y[None], D[:, None], design, factors, contrasts, True, True)
    # At lme4's own D: what is left are the digits that R has written.
    near = {"rtol": 1e-6, "atol": 1e-9}
    assert_allclose(found.residuals.sigma[0], sigma[0], **near)
    assert_allclose(found.blup[0], [*slopes, *items], **near)
    blocks = np.stack([v1, v12, v2], axis=1).ravel()
    assert_allclose(found.covariance[0], [*blocks, *v_item], **near)
    assert_allclose(found.residuals.residual[0, present], r, **near)
    assert_allclose(found.residuals.leverage[0, present], h, **near)
    assert_allclose(found.residuals.cook[0, present], cook, **near)
