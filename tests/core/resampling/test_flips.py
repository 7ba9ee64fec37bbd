"""Flips of scores and of data against dense matrices, one voxel and flip at a time."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import resampled
from scipy import special

from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange, draw_flips
from nipype_blm.core.resampling.flips import FlipScores
from nipype_blm.core.resampling.hypotheses import Hypothesis, make_hypothesis
from nipype_blm.core.resampling.normal import share_to_z
from nipype_blm.core.status import VoxelStatus, is_fitted
from nipype_blm.core.threads import Threads

# Sums of some 30 numbers in single precision.
ATOL = 1e-6
CONTRASTS = {
    "T": np.array([0, 1, -0.5, 0.0]),
    "F": np.eye(4)[1:3],
    "F of redundant rows": np.array([[0, 0, 1, 0], [0, 0, -2, 0.0]]),
    "F of all": np.eye(4),
}


def make_X(n_obs: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n_obs), rng.normal(size=(n_obs, 3))])


def make_Y(n_obs: int = 24, n_voxels: int = 10, seed: int = 1) -> np.ndarray:
    """Normal data of which a fifth is missing, nothing at every third voxel."""
    rng = np.random.default_rng(seed)
    Y = rng.normal(50, 1, (n_obs, n_voxels))
    missing = rng.random(Y.shape) < 0.2
    missing[:, ::3] = False
    Y[missing] = np.nan
    return Y


def prepare(Y, hypothesis: Hypothesis, group=None, kind="flip_scores", **options) -> FlipScores:
    group = np.arange(len(Y), dtype=np.int32) if group is None else group
    return RESAMPLINGS[kind].prepare(Y, hypothesis, group, int(group.max()) + 1, **options)


def draw(group: np.ndarray, n: int = 40) -> np.ndarray:
    return draw_flips(Exchange(group.size, group), 7, range(n))


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("kind", ["flip_scores", "flip_data"])
def test_shares_are_those_of_least_squares(kind, contrast):
    Y, hypothesis = make_Y(), make_hypothesis(make_X(24), CONTRASTS[contrast])
    group = np.arange(24, dtype=np.int32) // 2  # blocks of two images
    scores, signs = prepare(Y, hypothesis, group, kind), draw(group)
    share, n_degenerate = RESAMPLINGS[kind].compute(scores, signs)
    oracle = getattr(resampled, kind)
    expected = [[oracle(y, *hypothesis, f[group]) for f in signs] for y in Y.T]
    assert_allclose(share, expected, atol=ATOL)
    assert not n_degenerate.any()
    rank = 4 - hypothesis.q
    assert_array_equal(scores.m, np.sum(~np.isnan(Y), axis=0) - rank)


def test_the_first_share_is_the_statistic_of_the_fit():
    Y, X, L = make_Y(), make_X(24), np.array([0, 0, 1, 0.0])
    group = np.arange(24, dtype=np.int32)
    scores = prepare(Y, make_hypothesis(X, L), group)
    share = RESAMPLINGS["flip_scores"].compute(scores, draw(group, 1)).share
    z = share_to_z(share, scores.m, 1)[:, 0]
    for v, y in enumerate(Y.T):
        on = ~np.isnan(y)
        beta, rss = np.linalg.lstsq(X[on], y[on], rcond=None)[:2]
        dof = on.sum() - 4
        t = beta[2] / np.sqrt(np.linalg.inv(X[on].T @ X[on])[2, 2] * rss[0] / dof)
        expected = np.sign(t) * -special.ndtri(special.stdtr(dof, -abs(t)))
        assert_allclose(z[v], expected, atol=2e-5)  # as far as `share_to_z` is right


def test_bits_depend_on_voxel_and_flip_alone():
    Y, hypothesis = make_Y(24, 600), make_hypothesis(make_X(24), CONTRASTS["T"])
    group = np.arange(24, dtype=np.int32)
    signs, compute = draw(group, 300), RESAMPLINGS["flip_scores"].compute
    whole = compute(prepare(Y, hypothesis), signs)
    for edges in ([0, 1, 37, 600], [0, 300, 555, 600]):
        shares = []
        for a, b in itertools.pairwise(edges):
            scores = prepare(Y[:, a:b], hypothesis)
            cut = [compute(scores, signs[c:d]).share for c, d in ((0, 3), (3, 270), (270, 300))]
            shares.append(np.concatenate(cut, axis=1))
        assert_array_equal(np.concatenate(shares), whole.share)
    with Threads(3) as threads:
        scores = prepare(Y, hypothesis, threads=threads)
        again = compute(scores, signs, threads)
    assert_array_equal(again.share, whole.share)
    assert_array_equal(again.n_degenerate, whole.n_degenerate)


@pytest.mark.parametrize("missing", [False, True])
def test_flips_without_variance_count_and_say_nothing(missing):
    """Flipping one of two groups of equal size leaves a constant, which X0 explains."""
    label = np.repeat([-1.0, 1.0], 10)
    hypothesis = make_hypothesis(np.column_stack([np.ones(20), label]), [0, 1])
    Y = make_Y(20, 6, seed=4)[:, [0, 3]]
    if missing:
        Y[[0, 19]] = np.nan
    signs = np.stack([np.ones(20), label, np.where(np.arange(20) == 3, 1, label)]).astype(np.int8)
    share, n_degenerate = RESAMPLINGS["flip_scores"].compute(prepare(Y, hypothesis), signs)
    assert_array_equal(share[:, 1], 0)
    assert_array_equal(n_degenerate, [0, 2, 0])
    expected = [[resampled.flip_scores(y, *hypothesis, f) for f in signs[[0, 2]]] for y in Y.T]
    assert_allclose(share[:, [0, 2]], expected, atol=ATOL)


def test_voxels_that_cannot_be_tested_say_why():
    X = np.column_stack([np.ones(12), np.repeat([0.0, 1.0], 6)])
    hypothesis, rng = make_hypothesis(X, [0, 1]), np.random.default_rng(0)
    Y = rng.normal(size=(12, 8))
    Y[:, 1] = np.nan
    Y[3:, 2] = np.nan  # three images of one group
    Y[6:, 3] = np.nan  # six of one group
    Y[:, 4] = 7.3
    Y[:, 5] = 2 + 3 * X[:, 1]
    Y[4:, 6] = np.nan
    allowed = np.arange(8) != 7
    scores = prepare(Y, hypothesis, allowed=allowed, minimum_n=4)
    assert_array_equal(
        scores.status,
        [
            VoxelStatus.FITTED,
            VoxelStatus.NO_DATA,
            VoxelStatus.BELOW_MINIMUM,
            VoxelStatus.RANK_DEFICIENT,
            VoxelStatus.ZERO_VARIANCE,
            VoxelStatus.ZERO_VARIANCE,
            VoxelStatus.RANK_DEFICIENT,
            VoxelStatus.MASKED_AFTER,
        ],
    )
    assert_array_equal(scores.m > 0, is_fitted(scores.status))
    share = RESAMPLINGS["flip_scores"].compute(scores, draw(np.arange(12))).share
    assert not share[1:].any()
    assert prepare(Y[:, :0], hypothesis).score.shape == (1, 12, 0)
    one = prepare(Y[:1], Hypothesis(hypothesis.x[:1], hypothesis.X0[:1]))
    assert (one.status == VoxelStatus.TOO_FEW)[[0, 4, 5]].all()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_shares_have_no_scale(scale):
    Y, hypothesis, group = make_Y(), make_hypothesis(make_X(24), CONTRASTS["T"]), np.arange(24)
    compute = RESAMPLINGS["flip_scores"].compute
    plain = compute(prepare(Y, hypothesis), draw(group)).share
    scaled = compute(prepare(Y * scale, hypothesis), draw(group)).share
    assert_allclose(scaled, plain, atol=ATOL)


def test_flips_of_one_sample_are_those_of_the_data():
    Y, hypothesis, group = make_Y(), make_hypothesis(np.ones((24, 1)), [1]), np.arange(24)
    signs = draw(group)
    shares = [
        RESAMPLINGS[kind].compute(prepare(Y, hypothesis, kind=kind), signs).share
        for kind in ("flip_scores", "flip_data")
    ]
    expected = np.nansum(signs[:, :, None] * Y, axis=1) ** 2
    expected /= np.nansum(Y**2, axis=0) * np.sum(~np.isnan(Y), axis=0)
    assert_allclose(abs(shares[0]), expected.T, atol=ATOL)
    assert_array_equal(*shares)


@pytest.mark.parametrize("kind", ["flip_scores", "flip_data"])
def test_exhaustive_flips_give_the_p_of_all_flips(kind):
    Y, hypothesis = (
        make_Y(7, 6),
        make_hypothesis(np.column_stack([np.ones(7), np.arange(7)]), [0, 1]),
    )
    group, resampling = np.arange(7, dtype=np.int32), RESAMPLINGS[kind]
    exchange = Exchange(7, group)
    count = resampling.count(exchange, True)
    assert resampling.is_exhaustive(exchange, count, True)
    signs = resampling.draw(exchange, 0, range(count), True, True)
    share = abs(resampling.compute(prepare(Y, hypothesis, kind=kind), signs).share)
    oracle = getattr(resampled, kind)
    flips = [np.array(f) for f in itertools.product([1, -1], repeat=7)]
    for v, y in enumerate(Y.T):
        if np.isnan(y).sum() > 2:
            continue
        everything = np.array([abs(oracle(y, *hypothesis, f)) for f in flips])
        # Ties, of f and -f at least, are equal but for rounding.
        expected = np.mean(everything > everything[0] - 1e-5)
        assert np.mean(share[v] > share[v, 0] - 1e-5) == expected


def test_a_design_without_columns_has_rank_zero():
    design = factorise_design(np.empty((5, 0)))
    assert (design.rank, design.condition) == (0, 1.0)
    assert_array_equal(design.shift, np.zeros(5))
