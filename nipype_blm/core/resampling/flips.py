"""Standardised flips of scores, and flips of data: what a block of voxels needs for them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor, select_rows
from nipype_blm.core.linalg import FloatArray, factorise_design, packed_size
from nipype_blm.core.lmm.estimates import MixedEstimates, MixedOptions
from nipype_blm.core.lmm.fit import fit_lmm
from nipype_blm.core.ols import screen_voxels
from nipype_blm.core.products import WORD, ProductAccumulator
from nipype_blm.core.resampling.flipping import Float32, Resampled, compute_shares
from nipype_blm.core.resampling.hypotheses import Hypothesis
from nipype_blm.core.resampling.present import take_tiles
from nipype_blm.core.resampling.scores import Layout, arrange_groups, compute_scores
from nipype_blm.core.status import is_fitted
from nipype_blm.core.threads import ONE_THREAD, Threads


class RandomPart(NamedTuple):
    """The random part of a mixed model, and how it is fitted."""

    factors: list[RandomFactor]
    options: MixedOptions


class FlipScores(NamedTuple):
    """Scores of the groups at the tested voxels of a block, which flips add up with signs."""

    m: NDArray[np.int32]  # (n_voxels,), images present less the rank of X0; 0 if not tested
    status: NDArray[np.uint8]  # (n_voxels,), VoxelStatus
    voxel: NDArray[np.int32]  # (n_tested,), those with a common W first
    score: Float32  # (q, n_groups, n_tested), s_j, as a share of the null sum of squares
    common: FloatArray  # (q, p0, n_groups), W_j where all images are present
    leak: Float32  # (q * p0 or p0, n_groups, n_own), of the last n_own voxels of `voxel`


def prepare_scores(
    Y: NDArray[Any],
    hypothesis: Hypothesis,
    group: NDArray[np.int32],
    n_groups: int,
    random: RandomPart | None = None,
    minimum_n: int = 0,
    allowed: NDArray[np.bool_] | None = None,
    threads: Threads = ONE_THREAD,
    of_data: bool = False,
) -> FlipScores:
    """Return the standardised scores of a block of voxels.

    Parameters
    ----------
    Y : array of shape (n_obs, n_voxels)
        Float32 or float64; NaN where missing.
    hypothesis : Hypothesis
    group : integer array of shape (n_obs,)
        Independent group of each image.
    n_groups : int
    random : RandomPart, optional
        In a mixed model, whose D is fitted without the tested columns.
    minimum_n : int
        Voxels with fewer images are not tested.
    allowed : bool array of shape (n_voxels,), optional
        False drops a voxel.
    threads : Threads
    of_data : bool
        Prepare flips of the residuals instead of those of scores.

    Notes
    -----
    With V of the fit without x, on the images present,
    xt = x - X0 (X0'V^-1 X0)^-1 X0'V^-1 x and r likewise of y: s_j = xt_j'V_j^-1 r_j,
    W_j = xt_j'V_j^-1 X0_j (X0'V^-1 X0)^(-1/2), both whitened by sum_j xt_j'V_j^-1 xt_j, and s by
    r'V^-1 r (De Santis et al., 2025, Journal of the American Statistical Association).
    """
    n_obs, n_voxels = Y.shape
    q, p0 = hypothesis.q, hypothesis.X0.shape[1]
    layout = arrange_groups(group, n_groups, random.factors if random else ())
    n_present = np.zeros(n_voxels, np.int32)
    for row in Y:
        n_present += row == row
    status = screen_voxels(n_present, minimum_n, allowed)
    D = np.empty((0, n_voxels))
    if random is not None:
        status, D = fit_null(Y, n_present, hypothesis.X0, random, minimum_n, allowed, threads)
    own = np.full(n_voxels, p0 > 0 and (of_data or random is not None)) | (n_present < n_obs)
    own &= p0 > 0
    ranked = np.argsort(own, kind="stable").astype(np.int32)
    order = ranked[is_fitted(status[ranked])]
    n_shared = int(np.count_nonzero(~own[order]))
    design = np.concatenate([hypothesis.X0, hypothesis.x], axis=1)
    outcome, m, score, leak = _compute(
        Y, order, n_shared, D[:, order], status[order], design, q, layout, of_data, threads
    )
    common = np.zeros((q, p0, n_groups))
    products = hypothesis.x.T[:, None] * hypothesis.X0.T
    for i, j in enumerate(group):
        common[:, :, j] += products[:, :, i]
    status[order] = outcome
    all_m = np.zeros(n_voxels, np.int32)
    all_m[order] = m
    kept = m > 0
    return FlipScores(
        all_m,
        status,
        order[kept],
        score.compress(kept, axis=2),
        common,
        leak.compress(kept[n_shared:], axis=2),
    )


def _compute(
    Y: NDArray[Any],
    voxels: NDArray[np.int32],
    n_shared: int,
    D: FloatArray,
    status: NDArray[np.uint8],
    design: FloatArray,
    q: int,
    layout: Layout,
    of_data: bool,
    threads: Threads,
) -> tuple[NDArray[np.uint8], NDArray[np.int32], Float32, Float32]:
    """Return status, m, scores and leaks of some voxels."""
    n, n_groups, p0 = voxels.size, layout.width.size, design.shape[1] - q
    score = np.zeros((q, n_groups, n), np.float32)
    leak = np.zeros((p0 if of_data else q * p0, n_groups, n - n_shared), np.float32)
    m = np.zeros(n, np.int32)
    status, D = status.copy(), np.ascontiguousarray(D)

    def compute(start: int, stop: int) -> None:
        for first, last, tile in take_tiles(Y, voxels, start, stop):
            compute_scores(
                first,
                last,
                tile,
                design,
                q,
                *layout,
                D,
                of_data,
                n_shared,
                score,
                leak,
                m,
                status,
            )

    threads.split(compute, n)
    return status, m, score, leak


def fit_null(
    Y: NDArray[Any],
    n_present: NDArray[np.int32],
    X0: FloatArray,
    random: RandomPart,
    minimum_n: int = 0,
    allowed: NDArray[np.bool_] | None = None,
    threads: Threads = ONE_THREAD,
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Return status and vech(D) (n_entries, n_voxels) of the fit without the tested columns."""
    design = factorise_design(X0)
    n_obs, n_voxels = Y.shape
    rows = slice(0, n_obs)
    terms = select_rows(random.factors, rows)
    accumulator = ProductAccumulator(design.Q, design.shift, n_voxels, terms)
    for first in range(0, n_obs, WORD):
        values = np.ascontiguousarray(Y[first : first + WORD])
        accumulator.add(values, np.isnan(values).sum(axis=1), threads)
    estimates: MixedEstimates = fit_lmm(
        n_present,
        [(rows, accumulator.finish())],
        design,
        random.factors,
        random.options,
        minimum_n,
        allowed,
        threads=threads,
    )
    n_entries = sum(packed_size(factor.n_effects) for factor in random.factors)
    D = np.zeros((n_entries, n_voxels))
    D[:, is_fitted(estimates.status)] = estimates.D
    return estimates.status.copy(), D


def compute_flips(
    scores: FlipScores, weights: NDArray[np.int8], threads: Threads = ONE_THREAD
) -> Resampled:
    """Return the statistics of flips (n_flips, n_groups) at the voxels of a block."""
    return compute_shares(
        scores.score,
        scores.leak,
        scores.common,
        scores.voxel,
        scores.m.size,
        weights,
        threads,
    )
