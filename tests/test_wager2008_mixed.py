"""Real images with missing data, through the ``blmm`` command, against lme4 and lmerTest.

The 30 maps of Wager et al. (2008) are given ten made-up levels of three images each.
"""

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from oracles.lmer import LmerFit, make_cases, requires_lme4, run_lmer
from scipy import stats

from nipype_blm.cli.blm import main
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.status import VoxelStatus

N_LEVELS = 10
VECTORS = {"success": np.array([0.0, 0, 1, 0]), "mean": np.array([1.0, 0.5, 0, 0])}
MATRICES = {"both": np.eye(4)[1:3], "all": np.eye(4)[1:]}
CONTRASTS = [*VECTORS.values(), *MATRICES.values()]
# Maps are float32, as the images: half a unit in the last place.
HALF_UNIT = 2.0**-24
COUNTS = {"n", "edf", "mask", "status", "nit"}
FITTED = (VoxelStatus.FITTED, VoxelStatus.FITTED_BOUNDARY)
DROPPED = (VoxelStatus.TOO_FEW, VoxelStatus.TOO_MANY_EFFECTS)


class Study(NamedTuple):
    X: np.ndarray  # (n_obs, n_params)
    Y: np.ndarray  # (n_obs, n_voxels), NaN where missing
    images: list[Path]
    factor: RandomFactor


Maps = dict[str, np.ndarray]  # (n_voxels,) or (n_voxels, n_volumes)


def read_study(folder: Path) -> Study:
    """Read images and covariates; make up a factor."""
    table = np.genfromtxt(
        folder / "participants.tsv", delimiter="\t", dtype=None, names=True, encoding="utf8"
    )
    rvlpfc, success = table["X_RVLPFC"], table["Y_Reappraisal_Success"]
    # The last column marks four images, which are all missing at some voxels: X_v is
    # rank-deficient there, and the model fitted without it.
    X = np.column_stack([np.ones(len(table)), rvlpfc, success, rvlpfc > 2])
    images = [folder / name for name in table["image"]]
    Y = np.stack([nib.load(path).get_fdata().ravel() for path in images])
    level = np.random.default_rng(20).permutation(np.arange(len(table)) % N_LEVELS)
    factor = RandomFactor("site", level.astype(np.int32), np.ones((len(table), 1)))
    return Study(X, Y, images, factor)


def run_command(folder: Path, study: Study) -> Maps:
    """Run the command; return its maps."""
    (folder / "images.txt").write_text("".join(f"{path}\n" for path in study.images))
    (folder / "site.txt").write_text("".join(f"site {i}\n" for i in study.factor.level))
    (folder / "one.csv").write_text("1\n" * len(study.X))
    np.savetxt(folder / "X.csv", study.X, delimiter=",", fmt="%.17g")
    contrasts = [
        {f"c{i}": {"name": name, "vector": weights.tolist()}}
        for i, (name, weights) in enumerate([*VECTORS.items(), *MATRICES.items()], 1)
    ]
    config = {
        "Y_files": "images.txt",
        "X": "X.csv",
        "Z": [{"f1": {"name": "site", "factor": "site.txt", "design": "one.csv"}}],
        "outdir": "out",
        "contrasts": contrasts,
        "resms": 1,
        "images_per_batch": 11,
    }
    (folder / "blmm.yml").write_text(yaml.safe_dump(config))
    assert main(["--quiet", str(folder / "blmm.yml")], "blmm") == 0
    maps = {}
    for path in (folder / "out").glob("blmm_vox_*.nii"):
        values = np.asarray(nib.load(path).dataobj)
        name = path.stem.removeprefix("blmm_vox_")
        if name in COUNTS:
            assert values.dtype.kind in "iu", name
        else:
            assert values.dtype == np.float32, name
        maps[name] = values.reshape(-1, *values.shape[3:])
    return maps


def choose_voxels(maps: Maps, n: int, seed: int) -> np.ndarray:
    """Return voxels of each status, as many of the rare ones as there are, up to a share."""
    rng = np.random.default_rng(seed)
    status = maps["status"]
    kinds, counts = np.unique(status[status != VoxelStatus.OUTSIDE], return_counts=True)
    chosen: list[int] = []
    for i, k in enumerate(np.argsort(counts)):  # what a rare one leaves goes to the others
        share = (n - len(chosen)) // (len(kinds) - i)
        voxels = np.flatnonzero(status == kinds[k])
        chosen += rng.choice(voxels, min(share, len(voxels)), replace=False).tolist()
    return np.sort(chosen)


def expect_dropped(study: Study, voxel: int) -> VoxelStatus | None:
    """Return why a voxel cannot be fitted, or None."""
    present = ~np.isnan(study.Y[:, voxel])
    n = int(present.sum())
    if n == 0:
        return VoxelStatus.NO_DATA
    if n <= np.linalg.matrix_rank(study.X[present]) + 1:
        return VoxelStatus.TOO_FEW
    return VoxelStatus.TOO_MANY_EFFECTS if n <= N_LEVELS else None


def fit_by_lme4(study: Study, maps: Maps, voxels: np.ndarray) -> list[LmerFit]:
    """Fit voxels, and evaluate lme4's deviance at the D of the map."""
    D = [[maps["D"][v].astype(float).reshape(1, 1)] for v in voxels]
    cases = make_cases(study.Y[:, voxels], study.X, [study.factor], CONTRASTS, D=D)
    return run_lmer(cases)


def check_voxel(study: Study, maps: Maps, v: int, lmer: LmerFit) -> dict[str, float]:
    """Compare every map at a fitted voxel; return the largest differences."""
    at = {name: np.asarray(values[v], float) for name, values in maps.items()}
    given = lmer.given
    D, n, p = float(at["D"][0]), int(at["n"]), study.X.shape[1]
    assert n == np.count_nonzero(~np.isnan(study.Y[:, v]))
    assert at["edf"] == n - p
    assert at["mask"] == 1
    # The optimum: the boundary is exactly zero, and lme4 is nowhere below.
    excess = given.deviance - lmer.best.deviance
    assert excess < 1e-6
    assert (D == 0) == (at["status"] == VoxelStatus.FITTED_BOUNDARY)
    # What lme4 computes at the D of the map, which is rounded itself: sigma2 and the standard
    # errors move by no more than D does, so one unit more.
    close = {"rtol": 3 * HALF_UNIT}
    assert_allclose(at["llh"], -given.deviance / 2, **close)
    assert_allclose(at["sigma2"], given.sigma2, **close)
    limit = HALF_UNIT * (np.abs(given.beta) + 4 * given.std_error)
    assert np.all(np.abs(at["beta"] - given.beta) <= limit)
    scale = np.outer(given.std_error, given.std_error)
    cov = at["cov"].reshape(p, p)
    assert_allclose(cov / scale, given.cov_beta / scale, atol=4 * HALF_UNIT)
    residuals = study.Y[:, v] - study.X @ given.beta
    assert_allclose(at["resms"], np.nansum(residuals**2) / (n - p), **close)
    assert_allclose(at["varcomp"], D * at["sigma2"], **close)
    assert_allclose(at["icc"], D / (1 + D), **close)
    # Contrasts, from lme4's beta and covariance at this D.
    effects = [c @ given.beta for c in VECTORS.values()]
    errors = np.sqrt([c @ given.cov_beta @ c for c in VECTORS.values()])
    assert_allclose(at["con"], effects, rtol=HALF_UNIT, atol=4 * HALF_UNIT * errors.max())
    assert_allclose(at["conSE"], errors, **close)
    assert_allclose(at["conT"], effects / errors, rtol=6 * HALF_UNIT, atol=6 * HALF_UNIT)
    F = [
        (L @ given.beta) @ np.linalg.solve(L @ given.cov_beta @ L.T, L @ given.beta) / len(L)
        for L in MATRICES.values()
    ]
    assert_allclose(at["conF"], F, rtol=20 * HALF_UNIT)  # sums of squares of T
    # lmerTest at its own optimum, which is ours to 1e-4 standard errors of D.
    dof = np.concatenate([at["conT_swedf"], at["conF_swedf"]])
    expected = np.array([test.df for test in lmer.tests])
    if np.any(np.abs(dof / expected - 1) > 1e-4):  # lmerTest's derivatives are numerical
        y, X, factors = dense.drop_missing(study.Y[:, v], study.X, [study.factor])
        exact = dense.satterthwaite(y, X, factors, [np.array([[D]])], CONTRASTS)
        expected = np.array([test.df for test in exact])
    assert_allclose(dof, expected, rtol=1e-4)
    # Tails follow from statistics and degrees of freedom, whose rounding they multiply by
    # d log p / d log T, below 10 here.
    q = np.array([len(L) for L in MATRICES.values()])
    tails = stats.t.logsf(at["conT"], at["conT_swedf"]) / -np.log(10)
    assert_allclose(at["conTlp"], tails, rtol=30 * HALF_UNIT, atol=HALF_UNIT)
    tails = stats.f.logsf(at["conF"], q, at["conF_swedf"]) / -np.log(10)
    assert_allclose(at["conFlp"], tails, rtol=30 * HALF_UNIT, atol=HALF_UNIT)
    explained = q * at["conF"]
    assert_allclose(at["conR2"], explained / (explained + at["conF_swedf"]), rtol=6 * HALF_UNIT)
    return {
        "deviance above lme4's": excess,
        "llh": abs(at["llh"] / (-given.deviance / 2) - 1),
        "sigma2": abs(at["sigma2"] / given.sigma2 - 1),
        "beta in standard errors": np.max(np.abs(at["beta"] - given.beta) / given.std_error),
        "standard error": np.max(np.abs(np.sqrt(np.diag(cov)) / given.std_error - 1)),
        "degrees of freedom": np.max(np.abs(dof / expected - 1)),
    }


@pytest.fixture(scope="module")
def study(test_data: Path) -> Study:
    return read_study(test_data / "wager2008")


@pytest.fixture(scope="module")
def maps(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Maps:
    return run_command(tmp_path_factory.mktemp("mixed"), study)


@requires_lme4
def test_a_thousand_voxels_of_every_status_are_those_of_lme4(study: Study, maps: Maps) -> None:
    voxels = choose_voxels(maps, 1000, seed=1)
    status = maps["status"][voxels]
    assert {*FITTED, *DROPPED} <= set(status)
    # lme4 reports on fewer coefficients where X is rank-deficient.
    has_full_rank = maps["edf"][voxels] == maps["n"][voxels] - study.X.shape[1]
    assert not has_full_rank[np.isin(status, FITTED)].all()
    fitted = voxels[np.isin(status, FITTED) & has_full_rank]
    for v, lmer in zip(fitted, fit_by_lme4(study, maps, fitted), strict=True):
        check_voxel(study, maps, v, lmer)


def test_every_voxel_has_the_status_of_its_images(study: Study, maps: Maps) -> None:
    patterns, first, group = np.unique(
        ~np.isnan(study.Y), axis=1, return_index=True, return_inverse=True
    )
    assert patterns.shape[1] > 100
    reasons = np.array([expect_dropped(study, v) or 0 for v in first])[group.ravel()]
    dropped = reasons != 0
    assert set(reasons[dropped]) == {VoxelStatus.NO_DATA, *DROPPED} & set(maps["status"])
    assert_array_equal(maps["status"][dropped], reasons[dropped])
    has_full_rank = maps["edf"] == maps["n"] - study.X.shape[1]
    assert set(maps["status"][~dropped & has_full_rank]) == set(FITTED)
    rest = set(maps["status"][~dropped & ~has_full_rank])
    assert rest <= {*FITTED, VoxelStatus.NOT_CONVERGED}
    for name, values in maps.items():
        if name not in ("status", "n"):
            assert not values[dropped].any(), name
