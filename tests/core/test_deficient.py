"""Rank-deficient designs, as a whole and in the images present, against the pseudo-inverse.

Paired designs with a dummy for every subject, redundant factors, columns that images with data
leave constant: whatever is estimable there is estimated, with n - rank degrees of freedom.
"""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.contrasts import compute_f_contrast, compute_t_contrast
from nipype_blm.core.linalg import express_rows, factorise_design
from nipype_blm.core.status import VoxelStatus, is_fitted

N_VOXELS = 12
# Worst of 30,000 voxels was 1e-11, where 8 columns are fitted to a dozen images.
PRECISION = 1e-9
KINDS = ("paired", "redundant", "cells", "combinations", "interactions")


class Truth(NamedTuple):
    """Least squares at one voxel by the pseudo-inverse."""

    rank: int
    beta: np.ndarray  # the shortest
    resms: float
    unscaled: np.ndarray  # (X'X)^-
    kernel: np.ndarray  # (X'X)^- X'X

    def is_estimable(self, weights: np.ndarray) -> bool:
        return bool(np.allclose(weights @ self.kernel, weights, rtol=0, atol=1e-7))


def make_design(kind: str, rng: np.random.Generator) -> np.ndarray:
    n = int(rng.integers(12, 40))
    if kind == "paired":
        subject = np.repeat(np.arange(rng.integers(5, 10)), 2)
        return np.column_stack(
            [(-1.0) ** np.arange(len(subject)), np.eye(subject[-1] + 1)[subject]]
        )
    if kind == "redundant":
        one, other = rng.integers(0, 3, (2, n))
        return np.column_stack([np.ones(n), np.eye(3)[one], np.eye(3)[other], rng.normal(size=n)])
    if kind == "cells":
        return np.column_stack([np.ones(n), rng.random(n) < 0.2, rng.integers(0, 3, n)]).astype(
            float
        )
    if kind == "combinations":
        return rng.normal(size=(n, 3)) @ rng.integers(-2, 3, (3, 6)) + 0.0
    group, time = rng.integers(0, 4, n), rng.integers(0, 3, n)
    cells = np.eye(4)[group]
    return np.column_stack([np.ones(n), cells[:, 1:], time, time**2, cells[:, 1:3] * time[:, None]])


def draw(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return X and Y; up to 60 % are missing."""
    rng = np.random.default_rng(seed)
    X = make_design(kind, rng)
    Y = X @ rng.normal(size=(X.shape[1], N_VOXELS)) + rng.normal(size=(len(X), N_VOXELS))
    Y[rng.random(Y.shape) < rng.choice([0, 0.1, 0.3, 0.6], N_VOXELS)] = np.nan
    return X, Y


def solve(X: np.ndarray, y: np.ndarray) -> Truth:
    present = ~np.isnan(y)
    X, y = X[present], y[present]
    inverse = np.linalg.pinv(X, rcond=1e-10)
    rank = int(np.linalg.matrix_rank(X))
    residual = y - X @ (inverse @ y)
    resms = residual @ residual / max(len(y) - rank, 1)
    return Truth(rank, inverse @ y, resms, inverse @ inverse.T, inverse @ X)


def draw_contrasts(X: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return single columns, random weights, and combinations of rows, which are estimable."""
    n_params = X.shape[1]
    random = rng.integers(-2, 3, (3, n_params)).astype(float)
    rows = X[rng.integers(len(X), size=3)] - X[rng.integers(len(X), size=3)]
    chosen = [*np.eye(n_params), *random, *rows, X.mean(axis=0)]
    return [weights for weights in chosen if weights.any()]


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.booleans())
def test_whatever_is_estimable_is_estimated_by_least_squares(fit, kind, seed, split) -> None:
    X, Y = draw(kind, seed)
    estimates, design = fit(X, Y, [5] if split else [])
    fitted = np.flatnonzero(is_fitted(estimates.status))
    contrasts = draw_contrasts(X, np.random.default_rng(seed))
    tests = [compute_t_contrast(weights, estimates, design.R) for weights in contrasts]
    for v, y in enumerate(Y.T):
        n, truth = np.count_nonzero(~np.isnan(y)), solve(X, y)
        expected = VoxelStatus.FITTED if n > truth.rank + 1 else VoxelStatus.TOO_FEW
        expected = VoxelStatus.NO_DATA if n == 0 else expected
        if estimates.status[v] == VoxelStatus.FITTED_IMPRECISE:
            continue
        assert estimates.status[v] == expected
        if expected != VoxelStatus.FITTED:
            continue
        j = int(np.searchsorted(fitted, v))
        assert estimates.rank[j] == truth.rank
        assert estimates.dof[j] == n - truth.rank
        assert_allclose(estimates.resms[j], truth.resms, rtol=PRECISION)
        scale = np.abs(truth.beta).max()
        assert_allclose(estimates.beta[:, j], truth.beta, rtol=0, atol=PRECISION * scale)
        single = np.array([truth.is_estimable(unit) for unit in np.eye(X.shape[1])])
        assert_array_equal(estimates.estimable[:, j] if len(estimates.estimable) else True, single)
        cov = truth.resms * truth.unscaled * np.outer(single, single)
        low, high = np.tril_indices(X.shape[1])
        scale = np.abs(cov).max(initial=0)
        assert_allclose(estimates.cov[:, j], cov[low, high], rtol=0, atol=PRECISION * scale)
        for weights, test in zip(contrasts, tests, strict=True):
            assert test.estimable[j] == truth.is_estimable(weights)
            if test.estimable[j]:
                variance = truth.resms * weights @ truth.unscaled @ weights
                assert_allclose(test.variance[0, j], variance, rtol=PRECISION)
                t = weights @ truth.beta / np.sqrt(variance)
                assert_allclose(test.stat[j], t, rtol=PRECISION, atol=PRECISION)


@settings(max_examples=30)
@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
def test_f_needs_every_row(fit, kind, seed) -> None:
    X, Y = draw(kind, seed)
    rng = np.random.default_rng(seed)
    L = X[rng.choice(len(X), 2, replace=False)] - X[0]
    if np.linalg.matrix_rank(L) < 2:
        return
    estimates, design = fit(X, Y)
    test = compute_f_contrast(L, estimates, design.R)
    for j, v in enumerate(np.flatnonzero(is_fitted(estimates.status))):
        truth = solve(X, Y[:, v])
        assert test.estimable[j] == all(map(truth.is_estimable, L))
        cov = L @ truth.unscaled @ L.T
        if test.estimable[j] and np.linalg.cond(cov) < 1e6:
            effect = L @ truth.beta
            F = effect @ np.linalg.solve(cov, effect) / (2 * truth.resms)
            if estimates.status[v] == VoxelStatus.FITTED:
                assert_allclose(test.stat[j], F, rtol=1e-7, atol=1e-9)


def test_a_paired_t_is_that_of_the_other_subjects_where_one_has_no_data(fit) -> None:
    rng = np.random.default_rng(0)
    n = 14
    subject, sign = np.repeat(np.arange(n), 2), np.tile([1.0, -1.0], n)
    Y = rng.normal(size=(n, 6))[subject] + 0.6 * sign[:, None] + rng.normal(size=(2 * n, 6))
    Y[:2, 3:] = np.nan
    X = np.column_stack([sign, np.eye(n)[subject]])
    estimates, design = fit(X, Y)
    test = compute_t_contrast(np.eye(n + 1)[0], estimates, design.R)
    for v, y in enumerate(Y.T):
        difference = (y[::2] - y[1::2])[~np.isnan(y[::2])]
        t = difference.mean() / (difference.std(ddof=1) / np.sqrt(difference.size))
        assert_allclose(test.stat[v], t, rtol=1e-12)
        assert estimates.dof[v] == difference.size - 1
    assert_array_equal(estimates.estimable[:, 3:].all(axis=1), np.arange(n + 1) != 1)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e12])
def test_units_of_columns_do_not_matter_to_what_is_estimable(fit, scale) -> None:
    X, Y = draw("redundant", 3)
    units = np.ones(X.shape[1])
    units[[2, -1]] = scale
    estimates, design = fit(X * units, Y)
    plain, plain_design = fit(X, Y)
    assert_array_equal(estimates.status, plain.status)
    assert_array_equal(estimates.rank, plain.rank)
    assert_array_equal(estimates.estimable, plain.estimable)
    for weights in draw_contrasts(X, np.random.default_rng(0)):
        found = compute_t_contrast(weights * units, estimates, design.R)
        expected = compute_t_contrast(weights, plain, plain_design.R)
        assert_array_equal(found.estimable, expected.estimable)
        sure = expected.estimable
        assert_allclose(found.stat[sure], expected.stat[sure], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("digits", "is_estimable"), [(3, False), (5, False), (7, True), (16, True)]
)
def test_weights_with_seven_digits_are_those_of_an_estimable_contrast(digits, is_estimable) -> None:
    """A mean over three cells needs 1/3: 0.333 is another contrast, 0.3333333 is not."""
    cells = np.eye(3)[np.arange(12) % 3]
    R = factorise_design(np.column_stack([np.ones(12), cells])).R
    third = round(1 / 3, digits)
    _, estimable = express_rows(R, np.array([[1.0, third, third, third]]))
    assert estimable[0] == is_estimable


@pytest.mark.parametrize(
    ("rest", "status", "rank"),
    [
        (1e-4, VoxelStatus.FITTED_IMPRECISE, 2),
        (3e-7, VoxelStatus.RANK_DEFICIENT, None),  # sums over all images cannot tell
        (1e-9, VoxelStatus.FITTED, 1),  # below the tolerance of R's lm, too
    ],
)
def test_only_what_is_constant_but_for_rounding_is_dropped(fit, rest, status, rank) -> None:
    """What is left of a column without four images: a constant, and noise of size `rest`."""
    rng = np.random.default_rng(5)
    special = np.arange(40) < 4
    X = np.column_stack([np.ones(40), 1 + special + rest * rng.normal(size=40) * ~special])
    Y = rng.normal(size=(40, 3))
    Y[special] = np.nan
    estimates, _ = fit(X, Y)
    assert_array_equal(estimates.status, status)
    if rank is not None:
        assert_array_equal(estimates.rank, rank)


@pytest.mark.parametrize("outlier", [1e7, 1e8, 1e9, 1e10])
def test_a_column_is_not_dropped_since_a_missing_image_dwarfs_it(fit, outlier) -> None:
    """On the scale of Q the rest of the covariate is rounding error; it is as good as any."""
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    X[3, 1] = outlier
    Y = rng.normal(size=(60, 5))
    Y[3] = np.nan
    estimates, _ = fit(X, Y, [20])
    assert not (
        is_fitted(estimates.status) & (estimates.status != VoxelStatus.FITTED_IMPRECISE)
    ).any()
