"""Images that cannot tell the variances apart, against dense matrices: M V_i M by the SVD.

Dropout leaves patterns of images in which X absorbs what would tell random effects from
residuals, or one random effect from another.  The likelihood is then flat, or falls without
end, for any y; so it is X, Z and the images present that decide, and nothing else.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.identify import find_unidentified
from nipype_blm.core.lmm.levels import Voxels, scale_effects
from nipype_blm.core.products import WORD
from nipype_blm.core.status import VoxelStatus
from nipype_blm.core.threads import ONE_THREAD

SINGULAR = 1e-6  # of the matrices at unit length; none of the patterns is near it
STRUCTURES = (
    "intercept",
    "slope",
    "diagonal",
    "slope only",
    "crossed",
    "crossed slope",
    "nested",
    "three",
)


def make_level(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)


def make_factors(structure: str, rng: np.random.Generator) -> list[RandomFactor]:
    """Return factors of a few levels, of a few images each."""
    n_levels = int(rng.integers(2, 8))
    if rng.random() < 0.5:
        level = np.repeat(np.arange(n_levels), rng.integers(2, 4))
    else:
        level = rng.integers(0, n_levels, rng.integers(6, 26))
    level = make_level(level)
    n = len(level)
    visit = np.array([np.sum(level[:i] == level[i]) for i in range(n)], float)
    time = visit if rng.random() < 0.6 else rng.normal(size=n)
    one, correlated = np.ones(n), bool(rng.integers(2))
    first = {
        "slope": RandomFactor("a", level, np.column_stack([one, time])),
        "diagonal": RandomFactor("a", level, np.column_stack([one, time]), False),
        "slope only": RandomFactor("a", level, time[:, None] + 0.5),
        "crossed slope": RandomFactor("a", level, np.column_stack([one, time]), correlated),
        "three": RandomFactor(
            "a", level, np.column_stack([one, time, time**2 + rng.normal(size=n)]), correlated
        ),
    }.get(structure, RandomFactor("a", level, one[:, None]))
    if structure.startswith("crossed"):
        return [first, RandomFactor("b", make_level(rng.integers(0, 4, n)), one[:, None])]
    if structure == "nested":
        return [first, RandomFactor("b", make_level(level // 2), one[:, None])]
    return [first]


def make_X(level: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return designs that say much of levels and visits, or nothing."""
    n = len(level)
    visit = np.array([min(np.sum(level[:i] == level[i]), 1) for i in range(n)])
    group = level % 2
    cells = [(group == a) & (visit == b) for a in (0, 1) for b in (0, 1)]
    designs = [
        np.column_stack([np.ones(n), visit]),
        np.column_stack([np.ones(n), rng.normal(size=n)]),
        np.column_stack(cells).astype(float),
        np.column_stack([np.ones(n), group, visit]),
        np.eye(level.max() + 1)[level],
        rng.normal(size=(n, 2)),
        np.ones((n, 1)),
        np.column_stack([np.ones(n), rng.integers(0, 2, (n, 3))]),
    ]
    return np.asarray(designs[rng.integers(len(designs))], float)


def draw_presence(level: np.ndarray, n_patterns: int, rng: np.random.Generator) -> np.ndarray:
    """Return patterns, (n_obs, n_patterns): images at random, or later visits, are missing."""
    n = len(level)
    first = np.array([not np.any(level[:i] == level[i]) for i in range(n)])
    patterns = []
    for kind in rng.integers(0, 4, n_patterns):
        lost = [
            rng.random(n) < rng.choice([0.1, 0.4, 0.6]),
            ~first & (rng.random(n) < 0.8),
            ~first & (level > rng.integers(0, level.max() + 1)),
            np.zeros(n, bool),
        ][kind]
        patterns.append(~lost)
    return np.column_stack(patterns)


def least_singular_value(X: np.ndarray, factors: Sequence[RandomFactor]) -> float:
    """Return that of the matrices M V_i M at unit length; 0 if one of them vanishes."""
    n = len(X)
    lengths = np.linalg.norm(X, axis=0)
    U, values, _ = np.linalg.svd(X / np.where(lengths > 0, lengths, 1), full_matrices=False)
    basis = U[:, values > 1e-10 * values[0]]
    M = np.eye(n) - basis @ basis.T
    matrices = [np.eye(n)]
    for factor in factors:
        same = factor.level[:, None] == factor.level
        for a in range(factor.n_effects):
            for b in range(a + 1):
                if factor.correlated or a == b:
                    product = np.outer(factor.Z[:, a], factor.Z[:, b])
                    matrices.append(same * (product + product.T))
    columns = []
    for V in matrices:
        left = M @ V @ M
        if np.linalg.norm(left) <= 1e-8 * np.linalg.norm(V):
            return 0.0
        columns.append((left / np.linalg.norm(left)).ravel())
    return float(np.linalg.svd(np.column_stack(columns), compute_uv=False)[-1])


def pack_voxels(X: np.ndarray, present: np.ndarray) -> Voxels:
    """Return what is known of voxels before y is looked at."""
    n, n_voxels = present.shape
    weights = 1 << (np.arange(n) % WORD)
    words = [
        (present[i : i + WORD] * weights[i : i + WORD, None]).sum(axis=0) for i in range(0, n, WORD)
    ]
    full = [weights[i : i + WORD].sum() for i in range(0, n, WORD)]
    rank = [np.linalg.matrix_rank(X[pattern]) for pattern in present.T]
    nothing = np.zeros((0, n_voxels))
    return Voxels(
        np.arange(n_voxels),
        np.array(words, np.uint32),
        np.array(full, np.uint32),
        present.sum(axis=0).astype(np.int32),
        np.array(rank, np.int32),
        nothing,
        np.zeros((X.shape[1], n_voxels)),
        np.zeros(n_voxels),
        np.zeros(n_voxels, np.int32),
        np.zeros((1, 1)),
    )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_variances_are_identified_where_dense_matrices_are_independent(structure) -> None:
    rng = np.random.default_rng(STRUCTURES.index(structure))
    found, expected = [], []
    while len(found) < 1500:
        factors = make_factors(structure, rng)
        X = make_X(factors[0].level, rng)
        if any(np.linalg.matrix_rank(f.Z) < f.n_effects for f in factors):
            continue
        present = draw_presence(factors[0].level, 20, rng)
        ranks = [np.linalg.matrix_rank(X[pattern]) for pattern in present.T]
        present = present[:, present.sum(axis=0) > np.add(ranks, 1)]  # else there is no fit
        if not present.size:
            continue
        unidentified, _ = find_unidentified(
            pack_voxels(X, present),
            factors,
            [scale_effects(factor) for factor in factors],
            factorise_design(X).Q,
            [slice(0, len(X))],
            ONE_THREAD,
        )
        found += unidentified.tolist()
        for pattern in present.T:
            kept = [f._replace(level=f.level[pattern], Z=f.Z[pattern]) for f in factors]
            value = least_singular_value(X[pattern], kept)
            assert not SINGULAR / 100 < value < SINGULAR * 10
            expected.append(value < SINGULAR)
    assert 0.02 < np.mean(expected) < 0.98
    assert_array_equal(found, expected)


def make_dropout_study(n_voxels: int) -> tuple[np.ndarray, np.ndarray, RandomFactor]:
    """Return Y, X and the factor of 27 subjects with two visits, of whom two have the second."""
    rng = np.random.default_rng(16)
    subject, visit = np.repeat(np.arange(27), 2), np.tile([0, 1], 27)
    group = subject % 2
    X = np.column_stack([(group == a) & (visit == b) for a in (0, 1) for b in (0, 1)])
    Y = 5 + rng.normal(size=(27, n_voxels))[subject] + 0.4 * rng.normal(size=(54, n_voxels))
    Y[(visit == 1) & (subject > 1)] = np.nan
    return Y, X.astype(float), RandomFactor("subject", subject.astype(np.int32), np.ones((54, 1)))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("method", ["exact", "FS", "pSFS"])
def test_one_follow_up_in_each_group_cannot_tell_subjects_from_residuals(
    fit_mixed, method, reml
) -> None:
    """X has a mean for each group and visit, which takes up all that was seen twice."""
    Y, X, factor = make_dropout_study(20)
    fit = fit_mixed(Y, X, [factor], reml=reml, method=method, safe_mode=False)
    assert_array_equal(fit.status, VoxelStatus.UNIDENTIFIED)


def test_a_diagonal_covariance_of_two_visits_is_identified(fit_mixed) -> None:
    """As many random effects as images; a correlated pair would take up all of them."""
    rng = np.random.default_rng(3)
    subject, visit = np.repeat(np.arange(27), 2), np.tile([0.0, 1.0], 27)
    X = np.column_stack([np.ones(54), visit])
    Y = rng.normal(size=(27, 8))[subject] + rng.normal(size=(27, 8))[subject] * visit[:, None]
    Y += 0.3 * rng.normal(size=Y.shape)
    factor = RandomFactor("subject", subject.astype(np.int32), X, False)
    split = [factor._replace(Z=X[:, [i]], name=str(i)) for i in (0, 1)]
    diagonal = fit_mixed(Y, X, [factor], tol=1e-12)
    precise = np.isin(diagonal.status, (VoxelStatus.FITTED, VoxelStatus.FITTED_BOUNDARY))
    assert precise.sum() > 4
    assert (diagonal.status[~precise] == VoxelStatus.ZERO_VARIANCE).all()
    separate = fit_mixed(Y, X, split, safe_mode=False, tol=1e-12)
    assert_array_equal(separate.status, diagonal.status)
    assert_allclose(diagonal.llh[precise], separate.llh[precise], rtol=0, atol=1e-8)
    correlated = fit_mixed(Y, X, [factor._replace(correlated=True)], safe_mode=False)
    assert_array_equal(correlated.status, VoxelStatus.UNIDENTIFIED)


@pytest.mark.parametrize("starts", [(), (7, 20), (13,)])
def test_a_likelihood_that_is_highest_without_residuals_has_a_status_and_no_t(
    fit_mixed, starts
) -> None:
    """Two visits of 20 people, intercept and slope uncorrelated: T is the paired one, or none.

    Where the visits of a person vary together more than the first one does, no residual variance
    is left; where a search ends on its way there says nothing.
    """
    rng = np.random.default_rng(3)
    person, visit = np.repeat(np.arange(20), 2), np.tile([0.0, 1.0], 20)
    X = np.column_stack([np.ones(40), visit])
    Y = rng.normal(size=(20, 200))[person] + rng.normal(size=(20, 200))[person] * visit[:, None]
    Y += 0.3 * rng.normal(size=Y.shape)
    factor = RandomFactor("person", person.astype(np.int32), X, False)
    fit = fit_mixed(Y, X, [factor], [np.array([0.0, 1.0])], starts=starts)
    first, second = Y[::2], Y[1::2]
    covariance = ((first - first.mean(0)) * (second - second.mean(0))).sum(axis=0) / 19
    has_none = covariance > first.var(axis=0, ddof=1)
    assert 20 < has_none.sum() < 180
    assert_array_equal(fit.status == VoxelStatus.ZERO_VARIANCE, has_none)
    difference = second - first
    paired = difference.mean(0) / (difference.std(axis=0, ddof=1) / np.sqrt(20))
    inside = fit.status == VoxelStatus.FITTED  # where a variance is 0 T is that of a smaller model
    assert_allclose(fit.stat[inside, 0], paired[inside], rtol=1e-4)
    assert (fit.dof[~has_none, 0] > 1).all()
