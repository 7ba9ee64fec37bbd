"""Real images with missing data, through the ``blm`` command, against least squares.

The 30 maps are contrast images of Wager et al. (2008); their brain masks differ, so that
every voxel has its own images.
"""

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from scipy import linalg, stats

from nipype_blm.cli.blm import main
from nipype_blm.core.status import VoxelStatus

CONTRASTS = {
    "all of them": [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "mean": [1, 0, 0, 0],
    "rvlpfc": [0, 1, 0, 0],
    "two rows": [[0, 1, -1, 0], [1, 0.5, 0, 0.25]],
    "difference": [0, 1, -0.5, 0],
}


class Study(NamedTuple):
    X: np.ndarray  # (n_obs, n_params)
    Y: np.ndarray  # (n_obs, n_voxels), NaN where missing
    images: list[Path]


@pytest.fixture(scope="module")
def study(test_data: Path) -> Study:
    folder = test_data / "wager2008"
    table = np.genfromtxt(
        folder / "participants.tsv", delimiter="\t", dtype=None, names=True, encoding="utf8"
    )
    rvlpfc, success = table["X_RVLPFC"], table["Y_Reappraisal_Success"]
    # The last column marks four images, which are all missing at some voxels: X_v is
    # rank-deficient there, and the last coefficient not estimable.
    X = np.column_stack([np.ones(len(table)), rvlpfc, success, rvlpfc > 2])
    images = [folder / name for name in table["image"]]
    Y = np.stack([nib.load(path).get_fdata().ravel() for path in images])
    return Study(X, Y, images)


def run_command(tmp_path: Path, study: Study, images: list[Path], **fields: object) -> Path:
    """Run the command; return its output folder."""
    (tmp_path / "images.txt").write_text("".join(f"{path}\n" for path in images))
    np.savetxt(tmp_path / "X.csv", study.X, delimiter=",", fmt="%.17g")
    contrasts = [
        {f"c{i}": {"name": name, "vector": vector}}
        for i, (name, vector) in enumerate(CONTRASTS.items(), 1)
    ]
    config = {"Y_files": "images.txt", "X": "X.csv", "outdir": "out", "contrasts": contrasts}
    (tmp_path / "blm.yml").write_text(yaml.safe_dump(config | fields))
    assert main(["--quiet", str(tmp_path / "blm.yml")]) == 0
    return tmp_path / "out"


def fit_everywhere(
    X: np.ndarray, Y: np.ndarray, status: np.ndarray, two_sided: bool
) -> dict[str, np.ndarray]:
    """Fit the images present at each voxel; return every map as (n_volumes, n_voxels).

    `status` holds the voxels that are dropped for other reasons than the fit; it is completed.
    """
    n_voxels = Y.shape[1]
    present = ~np.isnan(Y)
    maps: dict[str, np.ndarray] = {}

    def put(name: str, voxels: np.ndarray, values: np.ndarray) -> None:
        values = np.atleast_2d(values)
        maps.setdefault(name, np.zeros((len(values), n_voxels)))[:, voxels] = values

    patterns, group = np.unique(present, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        voxels = np.flatnonzero((group.ravel() == number) & (status == VoxelStatus.FITTED))
        X_v, n = X[pattern], int(pattern.sum())
        if n == 0 or n <= np.linalg.matrix_rank(X_v) + 1:
            status[voxels] = VoxelStatus.TOO_FEW if n else VoxelStatus.NO_DATA
        else:
            for name, values in fit_pattern(X_v, Y[pattern][:, voxels], two_sided).items():
                put(name, voxels, values)
    put("blm_vox_n", np.flatnonzero(status), present.sum(axis=0)[status > 0])
    put("blm_vox_status", np.arange(n_voxels), status)
    fitted = status == VoxelStatus.FITTED
    put("blm_vox_mask", np.arange(n_voxels), fitted)
    for name in [name for name in maps if name.endswith("_mask") and "/" in name]:
        if np.array_equal(maps[name][0], fitted):
            del maps[name]  # estimable everywhere
    return maps


def fit_pattern(X: np.ndarray, Y: np.ndarray, two_sided: bool) -> dict[str, np.ndarray]:
    """Fit voxels that have the same images; the shift keeps lstsq accurate."""
    (n, p), shift = X.shape, Y.mean(axis=0)
    dof = n - np.linalg.matrix_rank(X)
    shifted = np.linalg.lstsq(X, Y - shift)[0]
    residuals = Y - shift - X @ shifted
    beta = shifted + np.outer(np.eye(p)[0], shift)
    resms = np.sum(residuals**2, axis=0) / dof
    inverse = np.linalg.pinv(X, rcond=1e-12)
    unscaled = inverse @ inverse.T
    # Weights L are estimable if L (X'X)^- X'X is L.
    single = np.isclose(inverse @ X, np.eye(p), rtol=0, atol=1e-9).all(axis=1)
    maps = {
        "blm_vox_edf": np.full(len(shift), dof),
        "blm_vox_beta": beta * single[:, None],
        "blm_vox_resms": resms,
        "blm_vox_llh": stats.norm.logpdf(residuals, scale=np.sqrt(resms * dof / n)).sum(axis=0),
        "blm_vox_cov": np.outer(unscaled * np.outer(single, single), resms),
    }
    stacks: dict[str, list[np.ndarray]] = {}
    for name, weights in CONTRASTS.items():
        L = np.atleast_2d(np.array(weights, float))
        q = len(L)
        estimable = bool(np.allclose(L @ inverse @ X, L, rtol=0, atol=1e-9))
        effect, variance = L @ beta, np.outer(L @ unscaled @ L.T, resms)
        if np.ndim(weights) == 1:
            se = np.sqrt(variance[0])
            stat = effect[0] / se
            log_p = stats.t.logsf(stat, dof)
            if two_sided:
                log_p = np.log(2) + stats.t.logsf(np.abs(stat), dof)
            z = np.where(
                stat > 0,
                stats.norm.isf(stats.t.sf(stat, dof)),
                stats.norm.ppf(stats.t.cdf(stat, dof)),
            )
            found = {"con": effect[0], "conSE": se, "conT": stat, "conTlp": -log_p / np.log(10)}
        else:
            # The model in which L beta = 0, and what the full one explains besides.
            null = X @ linalg.null_space(L)
            fit = X @ beta - null @ np.linalg.lstsq(null, Y)[0]
            explained = np.sum(fit**2, axis=0)
            stat = explained / (q * resms)
            log_p = stats.f.logsf(stat, q, dof)
            upper, lower = stats.f.sf(stat, q, dof), stats.f.cdf(stat, q, dof)
            z = np.where(upper < 0.5, stats.norm.isf(upper), stats.norm.ppf(lower))
            r2 = explained / (explained + resms * dof)
            found = {"conF": stat, "conFlp": -log_p / np.log(10), "conR2": r2}
        assert np.isfinite(log_p).all()  # scipy's tails did not underflow
        for key, values in found.items():
            stacks.setdefault(f"blm_vox_{key}", []).append(values * estimable)
        first, *others = name.split()
        label = f"contrasts/contrast-{first}{''.join(word.title() for word in others)}_stat-"
        for key, values in {
            "effect": effect,
            "variance": variance,
            "t" if np.ndim(weights) == 1 else "F": stat,
            "p": np.exp(log_p),
            "z": z,
        }.items():
            maps[f"{label}{key}_statmap"] = np.atleast_2d(values) * estimable
        mask = f"{label.removesuffix('_stat-')}_desc-estimable_mask"
        maps[mask] = np.full(len(shift), int(estimable))
    return maps | {key: np.array(values) for key, values in stacks.items()}


def check_all_maps(
    out_dir: Path, expected: dict[str, np.ndarray], reference: Path, dtype: str, tolerance: float
) -> None:
    """Compare every map in a folder with what is expected, at every voxel."""
    files = [*out_dir.glob("*.nii"), *out_dir.glob("contrasts/*.nii")]
    written = {str(path.relative_to(out_dir).with_suffix("")) for path in files}
    assert written == set(expected)
    source = nib.load(reference)
    exact = {"blm_vox_n", "blm_vox_edf", "blm_vox_mask", "blm_vox_status"}
    for name, values in expected.items():
        image = nib.load(out_dir / f"{name}.nii")
        assert_array_equal(image.affine, source.affine)
        assert image.shape[:3] == source.shape
        found = np.asarray(image.dataobj).reshape(-1, len(values)).T
        if name in exact or name.endswith("estimable_mask"):
            assert found.dtype.kind in "iu", name
            assert_array_equal(found, values, name)
        else:
            assert found.dtype == dtype, name
            # Sums that cancel have the rounding error of their terms.
            atol = 1e-14 * np.abs(values).max()
            assert_allclose(found, values, rtol=tolerance, atol=atol, err_msg=name)


def test_every_map_of_the_real_images_equals_least_squares_at_every_voxel(
    tmp_path: Path, study: Study
) -> None:
    out_dir = run_command(tmp_path, study, study.images)
    status = np.full(study.Y.shape[1], int(VoxelStatus.FITTED))
    expected = fit_everywhere(study.X, study.Y, status, two_sided=False)
    assert set(np.unique(status)) == {VoxelStatus.FITTED, VoxelStatus.TOO_FEW}
    n_lost = {name: int((values == 0).sum()) for name, values in expected.items() if "desc" in name}
    assert len(n_lost) == len(CONTRASTS) - 3  # those that use the last column
    # The images, and so the maps, are float32: half a unit in the last place is 2^-24.
    check_all_maps(out_dir, expected, study.images[0], "float32", 1.001 * 2**-24)


def test_float64_copies_with_masks_and_two_sided_p_agree_to_ten_digits(
    tmp_path: Path, study: Study
) -> None:
    source = nib.load(study.images[0])
    rng = np.random.default_rng(1)
    analysis_mask = rng.random(source.shape) < 0.9
    post_mask = rng.random(source.shape) < 0.95
    for name, mask in (("analysis", analysis_mask), ("post", post_mask)):
        image = nib.Nifti1Image(255 * mask.astype(np.uint8), source.affine)
        image.to_filename(tmp_path / f"{name}.nii.gz")
    Y = study.Y.copy()
    Y[:, :500] = np.nan  # a corner where no image has data
    copies = [tmp_path / f"Y{i}.nii" for i in range(len(Y))]
    for values, path in zip(Y, copies, strict=True):
        image = nib.Nifti1Image(values.reshape(source.shape), source.affine)
        image.to_filename(path)
    out_dir = run_command(
        tmp_path,
        study,
        copies,
        analysis_mask="analysis.nii.gz",
        Missingness={"MinPercent": "25%", "Masking": "post.nii.gz"},
        two_sided=True,
        images_per_batch=8,
        voxels_per_block=30_000,
    )
    n = (~np.isnan(Y)).sum(axis=0)
    status = np.full(n.size, int(VoxelStatus.FITTED))
    status[~post_mask.ravel()] = VoxelStatus.MASKED_AFTER
    status[n < 8] = VoxelStatus.BELOW_MINIMUM  # 25 % of 30 is 7.5
    status[n == 0] = VoxelStatus.NO_DATA
    status[~analysis_mask.ravel()] = VoxelStatus.OUTSIDE
    expected = fit_everywhere(study.X, Y, status, two_sided=True)
    assert set(np.unique(status)) == set(VoxelStatus) - {
        VoxelStatus.FITTED_IMPRECISE,
        VoxelStatus.TOO_FEW,  # fewer than 25 % already
        VoxelStatus.RANK_DEFICIENT,
        VoxelStatus.ZERO_VARIANCE,
        # Of mixed models only.
        VoxelStatus.FITTED_BOUNDARY,
        VoxelStatus.NOT_CONVERGED,
        VoxelStatus.TOO_MANY_EFFECTS,
        VoxelStatus.UNIDENTIFIED,
    }
    # Both are computed in float64; the images present give X a condition of up to 14.
    check_all_maps(out_dir, expected, copies[0], "float64", 1e-10)
