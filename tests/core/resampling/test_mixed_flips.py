"""Flips of the scores of mixed models against dense generalised least squares."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import resampled

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.groups import find_groups
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange, draw_flips
from nipype_blm.core.resampling.flips import FlipScores, RandomPart, _compute, fit_null
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.core.resampling.scores import arrange_groups
from nipype_blm.core.status import VoxelStatus
from nipype_blm.core.threads import Threads

# Sums of some ten numbers in single precision.
ATOL = 1e-6
CONTRASTS = {"T": np.array([0, 1, -0.5, 0.0]), "F": np.eye(4)[1:3], "F of all": np.eye(4)}
FLIP = RESAMPLINGS["flip_scores"]


def make_X(n_obs: int) -> np.ndarray:
    return np.column_stack([np.ones(n_obs), np.random.default_rng(0).normal(size=(n_obs, 3))])


def make_Y(level: np.ndarray, n_voxels: int) -> np.ndarray:
    """Data with an effect of each level, of which a fifth is missing but at the first voxel."""
    rng = np.random.default_rng(5)
    Y = rng.normal(50, 1, (level.size, n_voxels)) + 2 * rng.normal(size=(99, n_voxels))[level]
    Y[:, 1:][rng.random((level.size, n_voxels - 1)) < 0.2] = np.nan
    return Y


def draw(group: np.ndarray, n: int) -> np.ndarray:
    return draw_flips(Exchange(group.size, group), 7, range(n))


def unpack(factors: list[RandomFactor], vech: np.ndarray) -> list[np.ndarray]:
    """Return D of each factor, from its lower triangles column by column."""
    blocks, position = [], 0
    for factor in factors:
        D = np.zeros((factor.n_effects, factor.n_effects))
        columns, rows = np.triu_indices(factor.n_effects)
        D[rows, columns] = D[columns, rows] = vech[position : position + factor.n_entries]
        blocks.append(D)
        position += factor.n_entries
    return blocks


def make_factors(structure: str, level: np.ndarray) -> list[RandomFactor]:
    n_obs = level.size
    one, time = np.ones((n_obs, 1)), np.random.default_rng(3).normal(size=(n_obs, 1))
    factors = {
        "intercept": [RandomFactor("subject", level, one)],
        "slope": [RandomFactor("subject", level, np.hstack([one, time]))],
        "nested": [
            RandomFactor("visit", np.arange(n_obs, dtype=np.int32) // 2, one),
            RandomFactor("subject", level, one),
        ],
    }
    return factors[structure]


@pytest.mark.parametrize(("contrasts", "reml"), [(CONTRASTS, True), (["T"], False)])
def test_shares_are_those_of_generalised_least_squares(contrasts, reml):
    level = np.repeat(np.arange(8), [4, 6, 4, 4, 6, 4, 4, 4]).astype(np.int32)
    factors, X, Y = make_factors("intercept", level), make_X(level.size), make_Y(level, 4)
    group, part = find_groups(level.size, factors), RandomPart(factors, MixedOptions(reml=reml))
    assert_array_equal(group, level)
    n_present = np.sum(~np.isnan(Y), axis=0, dtype=np.int32)
    signs = draw(group, 12)
    for contrast in contrasts:
        hypothesis = make_hypothesis(X, CONTRASTS[contrast])
        scores = FLIP.prepare(Y, hypothesis, group, 8, part)
        D = fit_null(Y, n_present, hypothesis.X0, part)[1]
        assert (D > 0).any()
        share = FLIP.compute(scores, signs).share
        V = [resampled.make_covariance(factors, unpack(factors, D[:, v])) for v in range(4)]
        expected = [
            [resampled.flip_scores(Y[:, v], *hypothesis, f[group], V[v]) for f in signs]
            for v in range(4)
        ]
        assert_allclose(share, expected, atol=ATOL)
        assert_array_equal(scores.m, n_present - 4 + hypothesis.q)


@pytest.mark.parametrize(
    ("structure", "D"),
    [
        ("slope", [[2.0, -1.0, 0.5], [0, 0, 0], [1e4, 1, 0.3]]),  # vech; singular, zero, huge
        ("nested", [[0.5, 2], [0, 1], [3, 0]]),
    ],
)
def test_any_D_has_the_shares_of_generalised_least_squares(structure, D):
    """Scores with given D, without a fit."""
    level = np.repeat(np.arange(6), 4).astype(np.int32)
    factors, Y, vech = make_factors(structure, level), make_Y(level, 3), np.array(D, float).T
    hypothesis = make_hypothesis(make_X(24), CONTRASTS["T"])
    design = np.column_stack([hypothesis.X0, hypothesis.x])
    status, voxel = np.full(3, VoxelStatus.FITTED, np.uint8), np.arange(3, dtype=np.int32)
    layout = arrange_groups(level, 6, factors)
    status, m, score, leak = _compute(
        Y, voxel, 0, vech, status, design, 1, layout, False, Threads()
    )
    scores = FlipScores(m, status, voxel, score, np.zeros((1, 3, 6)), leak)
    signs = draw(level, 8)
    share = FLIP.compute(scores, signs).share
    for v in range(3):
        V = resampled.make_covariance(factors, unpack(factors, vech[:, v]))
        expected = [resampled.flip_scores(Y[:, v], *hypothesis, f[level], V) for f in signs]
        assert_allclose(share[v], expected, atol=ATOL)


def test_a_level_in_several_groups_is_refused():
    level = np.repeat(np.arange(6), 4).astype(np.int32)
    part = RandomPart(make_factors("intercept", level), MixedOptions())
    hypothesis = make_hypothesis(make_X(24), CONTRASTS["T"])
    with pytest.raises(ValueError, match="several groups"):
        FLIP.prepare(make_Y(level, 2), hypothesis, np.arange(24, dtype=np.int32), 24, part)
