"""BLM's four test designs: simulate, run ``blm``, compare with R's lm.

Each image is smoothed noise around X beta, times a random mask of its own, so that data are
missing voxel by voxel::

    python examples/blm_designs.py --sim_ind 1 --num_nodes 2 --out_dir /tmp/blm_designs

The exit code is 0 if everything agrees, and 1 otherwise.  R is needed (r-base-core).
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from scipy import ndimage

from nipype_blm.cli.blm import main as run_blm

DESIGNS = {1: (100, 3), 2: (200, 4), 3: (500, 5), 4: (1000, 8)}  # sim_ind: (n_obs, n_params)
MARGIN = 10  # voxels around the grid, cut off after smoothing
GAINS = 0.9316, 2.0300  # of the smoothing of images and masks in BLM's own test
FWHM = 1 / np.sqrt(8 * np.log(2))  # in standard deviations

# One line for each voxel: everything that lm, vcov and anova say about it.
R_SCRIPT = """
args <- commandArgs(trailingOnly = TRUE)
X <- as.matrix(read.csv(args[1], header = FALSE))
Y <- as.matrix(read.csv(args[2], header = FALSE))
p <- ncol(X)
fit_voxel <- function(y) {
  fit <- lm(y ~ 0 + X)
  t <- coef(summary(fit))[p, "t value"]
  reduced <- lm(y ~ 0 + X[, 1])
  F <- (deviance(reduced) - deviance(fit)) / (p - 1) / sigma(fit)^2
  c(nobs(fit), df.residual(fit), coef(fit), sigma(fit)^2, logLik(fit), vcov(fit),
    coef(fit)[p], coef(summary(fit))[p, "Std. Error"],
    t, -pt(t, df.residual(fit), lower.tail = FALSE, log.p = TRUE) / log(10),
    F, -pf(F, p - 1, df.residual(fit), lower.tail = FALSE, log.p = TRUE) / log(10),
    1 - deviance(fit) / deviance(reduced))
}
options(digits = 17)
write.table(t(apply(Y, 2, fit_voxel)), args[3], sep = ",", row.names = FALSE, col.names = FALSE)
"""
# In the order of R's columns.
MAPS = ("n", "edf", "beta", "resms", "llh", "cov", "con", "conSE", "conT", "conTlp")
MAPS += ("conF", "conFlp", "conR2")


def main(argv: list[str] | None = None) -> int:
    """Simulate one design, fit it, and compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sim_ind", type=int, required=True, choices=DESIGNS, help="design")
    parser.add_argument("--num_nodes", type=int, default=100, help="numNodes of blm")
    parser.add_argument("--out_dir", type=Path, required=True, help="folder for everything")
    parser.add_argument("--clusterType", default="local", help="clusterType of blm")
    parser.add_argument("--dim", type=int, default=100, help="voxels along each axis")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    parser.add_argument("--num_voxels", type=int, default=300, help="voxels to compare")
    options = parser.parse_args(argv)

    n_obs, n_params = DESIGNS[options.sim_ind]
    folder = options.out_dir.absolute() / f"sim{options.sim_ind}"
    simulate_data(folder, n_obs, n_params, options.dim, options.seed)
    config = write_config(folder, n_params, options.num_nodes, options.clusterType)
    if run_blm([str(config)]) != 0:
        return 1
    return compare_with_r(folder, options.num_voxels, options.seed)


def simulate_data(folder: Path, n_obs: int, n_params: int, dim: int, seed: int) -> None:
    """Write images, their list and the design."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    X = np.random.default_rng(seed).uniform(-0.5, 0.5, (n_obs, n_params))
    X[:, 0] = 1
    np.savetxt(folder / "X.csv", X, delimiter=",", fmt="%.17g")
    means = X @ np.arange(n_params)[::-1]
    paths = [folder / "data" / f"Y{i}.nii" for i in range(n_obs)]
    (folder / "Y_files.txt").write_text("".join(f"{path}\n" for path in paths))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(partial(_write_image, dim, seed), means, paths, range(n_obs)))


def _write_image(dim: int, seed: int, mean: float, path: Path, number: int) -> None:
    """Write one image: smooth noise, and 0 outside a mask with a random border."""
    rng = np.random.default_rng([seed, number])
    shape = (dim + 2 * MARGIN,) * 3
    values = GAINS[0] * _smooth(mean + 10 * rng.standard_normal(shape), 5)
    # An ellipsoid of the size of a brain in its field of view.
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    radii = dim * np.array([0.48, 0.54, 0.456])
    inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)) <= 1
    mask = GAINS[1] * _smooth(inside + 8 * rng.standard_normal(shape), 10) > 0.6
    cut = (slice(MARGIN, -MARGIN),) * 3
    nib.save(nib.Nifti1Image((values * mask)[cut], np.eye(4)), path)


def _smooth(volume: np.ndarray, fwhm: float) -> np.ndarray:
    return ndimage.gaussian_filter(volume, fwhm * FWHM, mode="constant")


def write_config(folder: Path, n_params: int, num_nodes: int, cluster_type: str) -> Path:
    """Write the configuration of blm; return its path."""
    slopes = np.eye(n_params)[1:].tolist()
    config = {
        "Y_files": "Y_files.txt",
        "X": "X.csv",
        "outdir": "BLM",
        "Missingness": {"MinPercent": 0.5},
        "OutputCovB": True,
        "contrasts": [
            {"c1": {"name": "null contrast", "vector": slopes[-1], "statType": "T"}},
            {"c2": {"name": "all slopes", "vector": slopes, "statType": "F"}},
        ],
        "clusterType": cluster_type,
        "numNodes": num_nodes,
        "sim": 1,
    }
    path = folder / "blm.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def compare_with_r(folder: Path, n_voxels: int, seed: int) -> int:
    """Fit some voxels with R, print the largest differences, return the exit code."""
    n_obs = len(np.loadtxt(folder / "X.csv", delimiter=","))
    voxels = choose_voxels(folder / "BLM", n_obs, n_voxels, seed)
    expected = fit_in_r(folder, voxels)
    print(f"{'map':<10} {'largest':>12} {'difference':>12}")
    all_agree, column = True, 0
    for name in MAPS:
        found = read_voxels(folder / "BLM" / f"blm_vox_{name}.nii", voxels)
        reference = expected[:, column : column + found.shape[1]]
        column += found.shape[1]
        largest = np.abs(reference).max()
        difference = np.abs(found - reference)
        # Both fit in float64.  R takes F and R2 from differences of sums of squares, which
        # cancel where the slopes explain little.
        agrees = np.allclose(found, reference, rtol=1e-9, atol=1e-12 * largest)
        all_agree &= agrees
        verdict = "" if agrees else "  DIFFERS"
        print(f"{name:<10} {largest:12.5g} {difference.max():12.2e}{verdict}")
    n = read_voxels(folder / "BLM" / "blm_vox_n.nii", voxels)
    print(
        f"{len(voxels)} voxels, {np.sum(n < n_obs)} of them with missing data: "
        f"{'all maps agree' if all_agree else 'NOT all maps agree'} with lm."
    )
    return 0 if all_agree else 1


def choose_voxels(out_dir: Path, n_obs: int, n_voxels: int, seed: int) -> np.ndarray:
    """Return voxels of the result, half of them with missing data."""
    mask, n = (
        np.asarray(nib.load(out_dir / f"blm_vox_{name}.nii").dataobj).ravel(order="F")
        for name in ("mask", "n")
    )
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero((mask > 0) & chosen) for chosen in (n < n_obs, n == n_obs)]
    return np.concatenate([rng.permutation(group)[: n_voxels // 2] for group in groups])


def read_voxels(path: Path, voxels: np.ndarray) -> np.ndarray:
    """Return some voxels of a map: one row for each, one column for each volume."""
    data = np.asarray(nib.load(path).dataobj)
    return data.reshape(np.prod(data.shape[:3]), -1, order="F")[voxels]


def fit_in_r(folder: Path, voxels: np.ndarray) -> np.ndarray:
    """Return what lm says about each voxel, one row for each."""
    paths = (folder / "Y_files.txt").read_text().split()
    Y = np.array([read_voxels(Path(path), voxels)[:, 0] for path in paths])
    Y[Y == 0] = np.nan
    np.savetxt(folder / "voxels.csv", Y, delimiter=",", fmt="%.17g")
    (folder / "fit.R").write_text(R_SCRIPT)
    subprocess.run(
        ["Rscript", "--vanilla", "fit.R", "X.csv", "voxels.csv", "fits.csv"], cwd=folder, check=True
    )
    return np.loadtxt(folder / "fits.csv", delimiter=",", ndmin=2)


if __name__ == "__main__":
    sys.exit(main())
