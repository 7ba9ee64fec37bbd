"""Corrected inference on folders of results, against flips that are enumerated one by one."""

import itertools
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage, stats

from nipype_blm import Results
from nipype_blm.core.factors import RandomFactor
from nipype_blm.errors import InputError
from nipype_blm.io.publish import Claim
from nipype_blm.model.inference import InferenceOptions
from nipype_blm.results.inferred import Inferred
from nipype_blm.stages.inference import prepare_inference, run_inference
from nipype_blm.stages.reopened import Pieces
from nipype_blm.stages.run import run_model

SHAPE = (6, 5, 4)
MEMORY = 2**30


def make_values(n_obs: int, seed: int = 3) -> np.ndarray:
    """Smooth images, of which some lack data at some voxels, with an effect in a corner."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(n_obs, *SHAPE)), (0, 1, 1, 1))
    values = 5 + noise / noise.std()
    values[: n_obs // 2, :3, :3, :3] += 1.5
    values[rng.random(values.shape) < 0.1] = np.nan
    return values.astype(np.float32)


def make_design(n_obs: int) -> np.ndarray:
    group = np.arange(n_obs) < n_obs // 2
    covariate = np.random.default_rng(1).normal(size=n_obs)
    return np.column_stack([np.ones(n_obs), group, covariate])


CONTRASTS = [
    {"name": "group", "vector": [0, 1, 0]},
    {"name": "both", "vector": [[0, 1, 0], [0, 0, 1]]},
    {"name": "as F", "vector": [[0, 1, 0]]},
]


@pytest.fixture
def fit(prepare, tmp_path):
    """Function that fits images and returns the folder of results."""

    def run(
        values: np.ndarray, X: np.ndarray, factor: RandomFactor | None = None, **fields: object
    ) -> Path:
        work, out = tmp_path / "work_of_fit", tmp_path / "out"
        work.mkdir(exist_ok=True)
        prepared = prepare(values, X, factor, contrasts=CONTRASTS, **fields)
        run_model(prepared, work, out, Claim("model", work))
        return out

    return run


def infer(out: Path, n_threads: int = 1, pieces: Pieces | None = None, **options) -> Inferred:
    prepared = prepare_inference(out, InferenceOptions(**options), MEMORY, pieces=pieces)
    run_inference(prepared, out / "work" / "inference", n_threads)
    return Inferred(out)


def list_files(inferred: Inferred) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted(inferred.folder.glob("contrast-*"))}
    assert len(found) > 20
    return found


def find_z(y: np.ndarray, x: np.ndarray, X0: np.ndarray) -> float:
    """Return z of x beside X0 at the images that are there, by least squares."""
    here = np.isfinite(y)
    X = np.column_stack([x, X0])[here]
    beta, rss, rank, _ = np.linalg.lstsq(X, y[here], rcond=None)
    dof = here.sum() - rank
    variance = np.linalg.inv(X.T @ X)[0, 0] * rss[0] / dof
    return stats.norm.isf(stats.t.sf(beta[0] / np.sqrt(variance), dof))


def test_peaks_of_all_flips_are_those_of_least_squares_with_flipped_regressors(fit):
    n_obs = 8
    values, X = make_values(n_obs), make_design(n_obs)
    inferred = infer(fit(values, X), contrasts=("group",), n=10**6, summaries=("voxel",))
    [contrast] = inferred.contrasts.values()
    expected = []
    mask = inferred.results.mask
    for signs in itertools.product((1, -1), repeat=n_obs - 1):
        f = np.array([1, *signs[::-1]])
        largest = 0.0
        for y in values[:, mask].T:
            here, x, X0 = np.isfinite(y), X[:, 1], X[:, [0, 2]]
            rest = np.full(n_obs, np.nan)
            rest[here] = x[here] - X0[here] @ np.linalg.lstsq(X0[here], x[here], rcond=None)[0]
            flipped = f * rest
            left = (
                flipped[here] - X0[here] @ np.linalg.lstsq(X0[here], flipped[here], rcond=None)[0]
            )
            if left @ left > 1e-6 * rest[here] @ rest[here]:
                largest = max(largest, abs(find_z(y, flipped, X0)))
        expected.append(largest)
    assert inferred.n == 2 ** (n_obs - 1)
    assert inferred.description["Exhaustive"]
    # Peaks are of single precision, and z is interpolated to 1e-5.
    assert_allclose(np.sort(contrast.nulls["voxel"]), np.sort(expected), rtol=5e-5)


def make_factor(n_obs: int, n_levels: int) -> RandomFactor:
    level = (np.arange(n_obs) * n_levels // n_obs).astype(np.int32)
    return RandomFactor("subject", level, np.ones((n_obs, 1)))


def test_files_are_the_same_for_any_cut_any_threads_and_when_more_resamplings_follow(fit):
    n_obs = 24
    out = fit(make_values(n_obs), make_design(n_obs), make_factor(n_obs, 12))
    whole = list_files(infer(out, n=300))
    assert list_files(infer(out, n_threads=2, pieces=Pieces(7, 50), n=300)) == whole
    (out / "inference" / "inference.json").unlink()
    infer(out, n=100)
    prepared = prepare_inference(out, InferenceOptions(n=300), MEMORY)
    assert (prepared.n_done, prepared.ranges) == (100, [(64, 300)])
    assert list_files(infer(out, n=300)) == whole
    assert infer(out, n=200).contrasts["group"].nulls["voxel"].size == 200


def test_scores_of_a_run_that_was_killed_are_not_taken_for_other_blocks(fit, tmp_path):
    out, work, options = fit(make_values(12), make_design(12)), tmp_path / "work", {"n": 40}
    whole = list_files(infer(out, **options))
    (out / "inference" / "inference.json").unlink()
    for pieces in (Pieces(12, 70), Pieces(12, 50)):
        prepared = prepare_inference(out, InferenceOptions(**options), MEMORY, pieces=pieces)
        assert prepared.n_done == 0
        run_inference(prepared, work, keep=True)
        assert list_files(Inferred(out)) == whole
        shutil.rmtree(out / "inference")


def test_peaks_of_another_inference_are_not_gone_on_from(fit):
    out = fit(make_values(12), make_design(12))
    options = {"contrasts": ("group",), "summaries": ("voxel",)}
    infer(out, n=70, **options)
    prepared = prepare_inference(out, InferenceOptions(n=140, **options), MEMORY)
    infer(out, n=70, seed=1, **options)  # meanwhile
    with pytest.raises(InputError, match="replaced by another inference"):
        run_inference(prepared, out / "work" / "inference")


def test_p_and_q_are_1_where_a_voxel_of_the_result_is_not_tested(fit):
    values, X = make_values(12), make_design(12)
    values[X[:, 1] == 1, 5, 4, 3] = np.nan  # one group only
    out = fit(values, X, deficient="estimable")
    inferred = infer(out, contrasts=("group",), n=20)
    [contrast] = inferred.contrasts.values()
    assert inferred.results.mask[5, 4, 3]
    assert not contrast.contrast.mask[5, 4, 3]
    for kind, name in (("p", "voxel"), ("p", "tfce"), ("p", "bonferroni"), ("q", "bh")):
        assert contrast.array(kind, name)[5, 4, 3] == 1
        assert (contrast.array(kind, name)[~inferred.results.mask] == 0).all()
    assert contrast.array("log10p", "voxel")[5, 4, 3] == 0


def test_the_first_resampling_is_the_map_and_p_counts_how_often_it_is_reached(fit):
    n_obs = 20
    out = fit(make_values(n_obs), make_design(n_obs))
    inferred = infer(out, n=400, tail=False)
    for name, contrast in inferred.contrasts.items():
        of_map, z = contrast.contrast.array("z"), contrast.array("z", "flipscores")
        mask = inferred.results.mask
        # z is interpolated to 1e-5 and saved in single precision.
        assert_allclose(z[mask], of_map[mask], atol=2e-5, rtol=1e-6)
        null = contrast.nulls["voxel"]
        value = np.abs(of_map) if name == "group" else of_map
        assert_allclose(null[0], value[mask].max(), rtol=1e-5)
        reached = (null[None] >= value[mask][:, None] - 1e-4).mean(axis=1)
        assert_allclose(contrast.array("p", "voxel")[mask], reached, rtol=1e-6)


def test_clusters_are_those_of_scipy_with_their_corrected_p(fit):
    n_obs = 30
    out = fit(make_values(n_obs), make_design(n_obs))
    inferred = infer(out, contrasts=("group",), n=200, cluster_z=2.0, tail=False, neighbours=6)
    [contrast] = inferred.contrasts.values()
    z = contrast.contrast.array("z")
    labels, n_clusters = ndimage.label(z > 2)
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    rows = [row for row in contrast.clusters if row["peak"] == "1" and float(row["peak_z"]) > 0]
    assert [int(row["size_voxels"]) for row in rows] == sizes.tolist()
    assert n_clusters == len(rows) > 0
    null = contrast.nulls["cluster"]
    for row in rows:
        peak = tuple(int(float(row[axis])) for axis in "xyz")  # the affine is that of voxels
        assert z[peak] == pytest.approx(float(row["peak_z"]), rel=1e-5)
        expected = (null >= int(row["size_voxels"])).mean()
        assert float(row["p_cluster"]) == pytest.approx(expected, rel=1e-5)
        assert float(row["lower"]) < float(row["effect"]) < float(row["upper"])


def test_corrected_across_contrasts_is_by_the_largest_of_all(fit):
    n_obs = 20
    out = fit(make_values(n_obs), make_design(n_obs))
    inferred = infer(out, n=150, joint=True, summaries=("voxel",), tail=False)
    nulls = [each.nulls["voxel"] for each in inferred.contrasts.values()]
    largest = np.max(nulls, axis=0)
    for name, contrast in inferred.contrasts.items():
        z = contrast.contrast.array("z")[inferred.results.mask]
        value = np.abs(z) if name == "group" else z
        expected = (largest[None] >= value[:, None] - 1e-4).mean(axis=1)
        found = contrast.array("p", "voxeljoint")[inferred.results.mask]
        assert_allclose(found, expected, rtol=1e-6)


def test_q_of_a_map_is_that_of_scipy(fit):
    n_obs = 16
    out = fit(make_values(n_obs), make_design(n_obs))
    inferred = infer(out, contrasts=("group",), n=100, summaries=("voxel",))
    [contrast] = inferred.contrasts.values()
    z = contrast.contrast.array("z")[inferred.results.mask]
    expected = stats.false_discovery_control(2 * stats.norm.sf(np.abs(z)))
    found = contrast.array("q", "bh")[inferred.results.mask]
    assert_allclose(found, expected, rtol=1e-5)  # of single precision


@pytest.mark.parametrize(
    ("options", "n_levels", "words"),
    [
        ({}, 4, "4 independent groups"),
        ({"resampling": "permute"}, 8, "flip_scores"),
        ({"contrasts": ("nobody",)}, 8, "nobody"),
        ({"blocks": "no_such_file.grp"}, 8, "no_such_file.grp"),
        ({"exchange": "whole"}, 8, "of no use"),
    ],
)
def test_what_cannot_be_resampled_is_refused_with_the_way_out(fit, options, n_levels, words):
    out = fit(make_values(16), make_design(16), make_factor(16, n_levels))
    with pytest.raises(InputError, match=words):
        prepare_inference(out, InferenceOptions(**options), MEMORY)


def test_permutations_that_change_nothing_are_refused_and_those_of_a_mean_are_told(
    prepare, tmp_path
):
    values = make_values(12)
    for X, contrast in ((np.ones((12, 1)), [1]), (make_design(12), [1, 0, 0])):
        prepared = prepare(values, X, contrasts=[{"name": "mean", "vector": contrast}])
        run_model(prepared, tmp_path / "work", tmp_path / "out", Claim("model", tmp_path / "work"))
        options = InferenceOptions(resampling="permute")
        if X.shape[1] == 1:
            with pytest.raises(InputError, match="changes nothing"):
                prepare_inference(tmp_path / "out", options, MEMORY)
        else:
            [notice] = prepare_inference(tmp_path / "out", options, MEMORY).notices
            assert "no permutation changes" in notice


def test_an_atlas_of_another_space_is_refused(fit, tmp_path):
    out = fit(make_values(12), make_design(12))
    labels, affine = np.ones(SHAPE, np.uint8), np.eye(4)
    for shift in (3, 300):
        affine[0, 3] = shift
        nib.Nifti1Image(labels, affine).to_filename(tmp_path / "atlas.nii")
        options = InferenceOptions(atlas=tmp_path / "atlas.nii")
        if shift == 3:  # half of it
            prepare_inference(out, options, MEMORY)
        else:
            with pytest.raises(InputError, match="no label at any voxel"):
                prepare_inference(out, options, MEMORY)


def test_images_that_changed_since_the_fit_are_refused_all_together(fit, tmp_path):
    out = fit(make_values(12), make_design(12))
    images = sorted((tmp_path / "study").glob("y*.nii"))
    images[0].unlink()
    images[1].write_bytes(images[2].read_bytes() + b"more")
    with pytest.raises(InputError) as error:
        prepare_inference(out, InferenceOptions(), MEMORY)
    assert "y0000.nii" in str(error.value)
    assert "y0001.nii has changed" in str(error.value)


def test_the_inference_of_an_earlier_fit_is_not_taken_for_that_of_this_one(fit, tmp_path):
    values, X = make_values(12), make_design(12)
    out = fit(values, X)
    infer(out, n=50, summaries=("voxel",))
    fit(values + 1, X)
    with pytest.raises(InputError, match="earlier fit"):
        Inferred(Results(out))


def test_permutations_without_missing_data_are_those_of_nilearn(fit):
    from nilearn.mass_univariate import permuted_ols

    n_obs, n = 20, 2000
    values, X = make_values(n_obs), make_design(n_obs)
    values = np.where(np.isnan(values), 5.0, values).astype(np.float32)
    inferred = infer(
        fit(values, X),
        contrasts=("group",),
        resampling="permute",
        n=n,
        summaries=("voxel",),
        tail=False,
    )
    [contrast] = inferred.contrasts.values()
    mask = inferred.results.mask
    found = permuted_ols(
        X[:, 1],
        values[:, mask],
        X[:, [2]],
        model_intercept=True,
        n_perm=n,
        random_state=5,
        output_type="dict",
        verbose=0,
    )
    p, expected = contrast.array("p", "voxel")[mask], 10 ** -found["logp_max_t"][0]
    # Both count in `n` permutations of their own: four standard errors of their difference.
    allowed = 4 * np.sqrt(2 * expected * (1 - expected) / n) + 2 / n
    assert (np.abs(p - expected) <= allowed).all()
    assert p.min() < 0.05 < 0.5 < p.max()
    t = contrast.contrast.array("t")[mask]
    assert_allclose(t, found["t"][0], rtol=1e-4)
