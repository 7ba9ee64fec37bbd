"""Products become estimates: those of plain formulas at every voxel, however the work is cut."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from scipy import stats
from specs import make_spec

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.lmm.estimates import MixedEstimates
from nipype_blm.core.ols import Estimates
from nipype_blm.core.status import VoxelStatus, is_fitted
from nipype_blm.io.arrayfile import ArrayFile
from nipype_blm.progress import listening
from nipype_blm.stages.estimates import compute_estimates, count_candidates, read_estimates

N_OBS, SHAPE = 30, (4, 3, 2)
N_VOXELS = 24
RNG = np.random.default_rng(0)
GROUP = np.arange(N_OBS) % 3 == 0
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=N_OBS), GROUP])
LEVEL = RNG.permutation(np.arange(N_OBS, dtype=np.int32) // 5)
FACTOR = RandomFactor("subject", LEVEL, X[:, :1])
CUT = {"images_per_batch": 13, "voxels_per_block": 7}
FEW, DEFICIENT, EXACT, EMPTY = range(4)  # voxels with something of their own


def make_values() -> np.ndarray:
    """Return images of which a few voxels lack many, or hold what can be fitted exactly."""
    rng = np.random.default_rng(1)
    Y = rng.normal(5, 1, (N_OBS, N_VOXELS)) + 2 * rng.normal(size=(6, N_VOXELS))[LEVEL]
    Y[rng.random(Y.shape) < 0.1] = np.nan
    Y[6:, FEW] = np.nan
    Y[GROUP, DEFICIENT] = np.nan
    Y[:, EXACT] = X @ [1, 2, 3]
    Y[:, EMPTY] = np.nan
    return np.array([row.reshape(SHAPE, order="F") for row in Y])


def flat(values: np.ndarray) -> np.ndarray:
    """Return (n_obs, n_voxels) in file order."""
    return np.array([image.ravel(order="F") for image in values])


def read_all(files: list[Path]) -> dict[str, np.ndarray]:
    """Return the estimates of all blocks side by side."""
    opened = [ArrayFile(path) for path in files]
    joined = {}
    for name in ("status", "n_obs", "rank", "beta", "resms", "llh", "cov"):
        joined[name] = np.concatenate([file.read(name) for file in opened], axis=-1)
    return joined


def spread(found: dict[str, np.ndarray]) -> dict[int, int]:
    """Return where in the estimates each fitted voxel is."""
    return {int(v): j for j, v in enumerate(np.flatnonzero(is_fitted(found["status"])))}


def test_estimates_of_all_blocks_are_least_squares_at_every_voxel(fit_stages, tmp_path):
    """Also where images leave no group, or too few; NumPy gives the shortest solution, too."""
    values = make_values()
    fitted = fit_stages(values, X, OutputCovB=True, Missingness={"MinN": 5}, **CUT)
    assert len(fitted.products) == 3
    assert len(fitted.estimates) == 4
    found, Y = read_all(fitted.estimates), flat(values)
    assert_array_equal(found["n_obs"], (~np.isnan(Y)).sum(axis=0))
    assert found["status"][EMPTY] == VoxelStatus.NO_DATA
    # The images are staged in float64, so that a fit is exact but for rounding.
    assert found["status"][EXACT] == VoxelStatus.ZERO_VARIANCE
    places = spread(found)
    assert set(places) == set(range(N_VOXELS)) - {EMPTY, EXACT}
    for v, j in places.items():
        x, y = X[~np.isnan(Y[:, v])], Y[~np.isnan(Y[:, v]), v]
        n, rank = len(y), np.linalg.matrix_rank(x)
        beta = np.linalg.lstsq(x, y)[0]
        rss = np.sum((y - x @ beta) ** 2)
        assert found["rank"][j] == rank == (2 if v == DEFICIENT else 3)
        close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}  # sums of 30 numbers around 5
        assert_allclose(found["beta"][:, j], beta, **close)
        assert_allclose(found["resms"][j], rss / (n - rank), **close)
        llh = stats.norm.logpdf(y - x @ beta, scale=np.sqrt(rss / n)).sum()
        assert_allclose(found["llh"][j], llh, **close)
        if rank == 3:
            cov = np.linalg.inv(x.T @ x) * rss / (n - rank)
            assert_allclose(found["cov"][:, j], cov[np.tril_indices(3)], **close)


def test_voxels_with_fewer_images_than_asked_for_and_outside_a_mask_are_dropped(
    fit_stages, tmp_path
):
    values = make_values()
    inside = np.random.default_rng(3).random(SHAPE) < 0.8
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), np.eye(4)), tmp_path / "post.nii")
    rule = {"MinN": 27, "Masking": str(tmp_path / "post.nii")}
    fitted = fit_stages(values, X, Missingness=rule, **CUT)
    found = read_all(fitted.estimates)
    n = (~np.isnan(flat(values))).sum(axis=0)
    allowed = inside.ravel(order="F")
    assert_array_equal(is_fitted(found["status"])[EMPTY + 1 :], (allowed & (n >= 27))[EMPTY + 1 :])
    few = (n > 0) & (n < 27)
    assert set(found["status"][few]) == {VoxelStatus.BELOW_MINIMUM}
    after = set(found["status"][(n >= 27) & ~allowed])
    assert after == {VoxelStatus.MASKED_AFTER}


@pytest.mark.parametrize("reml", [True, False])
def test_estimates_of_a_mixed_model_are_those_of_the_dense_one_and_nothing_near_is_better(
    fit_stages, reml
):
    values = make_values()
    fitted = fit_stages(values, X, FACTOR, OutputCovB=True, reml=reml, **CUT)
    Y, spec = flat(values), fitted.run.spec
    n_compared = 0
    for block, path in enumerate(fitted.estimates):
        file = ArrayFile(path)
        arrays = {name: file.read(name) for name in MixedEstimates._fields}
        first = spec.block(block).start
        for j, v in enumerate(first + np.flatnonzero(is_fitted(arrays["status"]))):
            if v <= EMPTY:
                continue
            data = dense.drop_missing(Y[:, v], X, [FACTOR])
            D = arrays["D"][:, j].reshape(1, 1, 1)
            expected = dense.criterion(*data, D, reml=reml)
            assert_allclose(-2 * arrays["llh"][j], expected.deviance, rtol=0, atol=1e-8)
            # One step after the last evaluation, to first order: its square is below 1e-9.
            assert_allclose(arrays["sigma2"][j], expected.sigma2, rtol=1e-8)
            assert_allclose(arrays["beta"][:, j], expected.beta, rtol=1e-7)
            cov = expected.cov_beta[np.tril_indices(3)]
            assert_allclose(arrays["cov"][:, j], cov, rtol=1e-7, atol=1e-10)
            for other in (D * 0.99, D * 1.01 + 1e-4):
                assert dense.criterion(*data, other, reml=reml).deviance > expected.deviance - 1e-9
            n_compared += 1
    assert n_compared > 10


@pytest.mark.parametrize("factor", [None, FACTOR], ids=["blm", "blmm"])
def test_threads_leave_no_trace_in_the_files_of_a_run(fit_stages, factor):
    one = fit_stages(make_values(), X, factor, work="one", **CUT)
    three = fit_stages(make_values(), X, factor, work="three", n_threads=3, **CUT)
    for name in ("products", "estimates", "statistics"):
        for path, other in zip(getattr(one, name), getattr(three, name), strict=True):
            assert path.read_bytes() == other.read_bytes(), path.name


def test_the_voxels_reported_are_those_with_enough_data_that_no_mask_excludes(fit_stages, tmp_path):
    values = make_values()
    fitted = fit_stages(values, X, Missingness={"MinN": 20}, **CUT)
    files, told = fitted.files, []
    with listening(lambda what, n: told.append((what, n))):
        for block in files.blocks:
            args = files.model_file, files.batch_files, fitted.products, block
            compute_estimates(*args, files.fingerprint, tmp_path / "again.blm")
    n = (~np.isnan(flat(values))).sum(axis=0)
    expected = [
        ("voxels", np.count_nonzero(n[first : first + 7] >= 20)) for first in range(0, N_VOXELS, 7)
    ]
    assert told == expected


def test_candidates_are_counted_in_their_own_block():
    allowed = np.array([1, 1, 0, 1, 1, 0, 1], bool)
    n_obs = np.array([0, 1, 9, 4, 5, 6, 5], np.int32)
    for minimum in (0, 1, 5):
        spec = make_spec(X, (7, 1, 1), allowed=allowed, minimum_n=minimum, voxels_per_block=3)
        found = [count_candidates(spec, i, n_obs[spec.block(i)]) for i in range(3)]
        wanted = allowed & (n_obs >= max(minimum, 1))
        assert found == [wanted[:3].sum(), wanted[3:6].sum(), wanted[6:].sum()]


@pytest.mark.parametrize(
    ("factor", "kind"), [(None, Estimates), (FACTOR, MixedEstimates)], ids=["blm", "blmm"]
)
def test_what_contrasts_need_is_read_and_what_only_maps_need_is_not(fit_stages, factor, kind):
    fitted = fit_stages(make_values(), X, factor, OutputCovB=True, **CUT)
    file = ArrayFile(fitted.estimates[1])
    found = read_estimates(file, kind)
    for name, array in found._asdict().items():
        if name in ("cov", "estimable"):
            assert array.shape == (0, found.resms.size)
            assert len(file.read("cov")) == 6
        else:
            assert_array_equal(array, file.read(name), err_msg=name)
