"""Freedman-Lane against least squares, one voxel and permutation at a time."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import resampled

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange, find_kinds
from nipype_blm.core.resampling.flips import RandomPart
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.core.threads import Threads

PERMUTE = RESAMPLINGS["permute"]
# Residuals are kept in single precision.
ATOL = 1e-6
GROUP = np.arange(20, dtype=np.int32)


def make_X() -> np.ndarray:
    return np.column_stack([np.ones(20), np.random.default_rng(0).normal(size=(20, 3))])


def make_Y(n_voxels: int = 9) -> np.ndarray:
    """Normal data of which a fifth is missing, or nothing, or three fifths."""
    rng = np.random.default_rng(1)
    Y = rng.normal(50, 1, (20, n_voxels))
    Y[rng.random(Y.shape) < np.arange(n_voxels) % 3 * 0.25] = np.nan
    return Y


@pytest.mark.parametrize("L", [[0, 1, -0.5, 0], np.eye(4)[1:3], np.eye(4)])
def test_shares_are_those_of_least_squares(L):
    Y, hypothesis = make_Y(), make_hypothesis(make_X(), L)
    scores = PERMUTE.prepare(Y, hypothesis, GROUP, 20)
    orders = PERMUTE.draw(Exchange(20, GROUP), 1, range(70))
    share, n_degenerate = PERMUTE.compute(scores, orders)
    expected = [[resampled.permute(y, *hypothesis, order) for order in orders] for y in Y.T]
    assert_allclose(share, expected, atol=ATOL)
    assert not n_degenerate.any()
    assert_array_equal(scores.m, np.sum(~np.isnan(Y), axis=0) - 4 + hypothesis.q)


def test_bits_depend_on_voxel_and_permutation_alone():
    Y, hypothesis = make_Y(300), make_hypothesis(make_X(), [0, 1, 0, 0])
    orders = PERMUTE.draw(Exchange(20, GROUP), 1, range(90))
    with Threads(3) as threads:
        scores = PERMUTE.prepare(Y, hypothesis, GROUP, 20, threads=threads)
        whole = PERMUTE.compute(scores, orders, threads).share
    for part in (slice(0, 5), slice(5, 300)):
        scores = PERMUTE.prepare(Y[:, part], hypothesis, GROUP, 20)
        for numbers in (slice(0, 1), slice(1, 90)):
            share = PERMUTE.compute(scores, orders[numbers]).share
            assert_array_equal(share, whole[part, numbers])


def test_exhaustive_permutations_give_the_p_of_all_orders():
    rng, labels = np.random.default_rng(3), np.array([0, 0, 0, 0, 1, 1.0])
    X, Y = np.column_stack([np.ones(6), labels]), rng.normal(size=(6, 3))
    Y[1, 0] = np.nan
    hypothesis, group = make_hypothesis(X, [0, 1]), np.arange(6, dtype=np.int32)
    exchange = Exchange(6, group, kind=find_kinds(X))
    count = PERMUTE.count(exchange, True)
    assert count == 15
    orders = PERMUTE.draw(exchange, 0, range(count), True, True)
    share = abs(PERMUTE.compute(PERMUTE.prepare(Y, hypothesis, group, 6), orders).share)
    everything = [np.array(order) for order in itertools.permutations(range(6))]
    for v, y in enumerate(Y.T):
        found = np.array([abs(resampled.permute(y, *hypothesis, order)) for order in everything])
        # Ties are equal but for rounding.
        assert np.mean(share[v] > share[v, 0] - 1e-5) == np.mean(found > found[0] - 1e-5)


def test_a_permutation_that_gives_all_images_present_one_label_counts_and_says_nothing():
    X = np.column_stack([np.ones(20), np.repeat([0.0, 1.0], 10)])
    y = np.random.default_rng(0).normal(size=(20, 1))
    y[:10:2] = y[10::2] = np.nan
    present = np.flatnonzero(~np.isnan(y[:, 0]))
    order = np.arange(20)
    order[present], order[np.isnan(y[:, 0])] = np.arange(10), np.arange(10, 20)
    scores = PERMUTE.prepare(y, make_hypothesis(X, [0, 1]), GROUP, 20)
    share, n_degenerate = PERMUTE.compute(scores, np.stack([np.arange(20), order]))
    assert_array_equal(n_degenerate, [0, 1])
    assert share[0, 0] != 0
    assert share[0, 1] == 0


def test_a_mixed_model_is_refused():
    part = RandomPart([RandomFactor("subject", GROUP, np.ones((20, 1)))], MixedOptions())
    with pytest.raises(ValueError, match="flip_scores"):
        PERMUTE.prepare(make_Y(), make_hypothesis(make_X(), [0, 1, 0, 0]), GROUP, 20, random=part)
