"""Images of repeated measures with smooth random effects and masks of their own."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from images import is_complete, make_all, read_list, save_image
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

N_SUBJECTS, N_VISITS, N_SITES = 40, 5, 5
# Intercept and slope of a subject, relative to a residual variance of 1.
D_SUBJECT = np.array([[0.8, 0.15], [0.15, 0.3]])
VARIANCE_SITE = 0.4
BETA = np.array([3.0, 1.0, 0.5, 0.0])
# The share of an image that is brain: 230,000 voxels of a 2 mm image.
BRAIN = 230_000 / (91 * 109 * 91)
# How far the edge of the brain varies between images, as a share of the squared radius: about
# one voxel in six misses some image, as in BLM's own tests.
EDGE = 0.04
SMOOTHNESS = 1.7  # voxels, of signal and noise: 4 voxels full width at half maximum


class Design(NamedTuple):
    """Which random effects a test has."""

    slope: bool = False
    sites: bool = False


# Named as BLMM's own tests: factors and effects.
DESIGNS = {"1f1e": Design(), "1f2e": Design(slope=True), "2f": Design(sites=True)}


class MixedTest(NamedTuple):
    """Files of a test."""

    paths: list[Path]
    X: Path
    mask: Path
    Z: list[dict[str, dict[str, str]]]  # as a configuration has it


class _Plan(NamedTuple):
    """What all images of a test share."""

    folder: Path
    radius: NDArray[np.float64]  # squared, 1 at the average edge of the brain
    X: NDArray[np.float64]
    design: Design
    site: NDArray[np.int64]
    seed: int


def make_mixed_test(folder: Path, name: str, shape: Sequence[int], seed: int = 5) -> MixedTest:
    """Write the images, design and factors of a test, unless they are there."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    design = DESIGNS[name]
    n_obs = N_SUBJECTS * N_VISITS
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(N_SUBJECTS), N_VISITS)
    time = np.tile(np.linspace(-1, 1, N_VISITS), N_SUBJECTS)
    site = rng.permutation(np.arange(n_obs) % N_SITES)
    X = np.c_[np.ones(n_obs), time, subject % 2 - 0.5, rng.uniform(-0.5, 0.5, n_obs)]
    radius = _squared_radius(shape)
    if not is_complete(folder):
        save_image((radius < 1.2).astype(np.uint8), np.diag([2.0, 2, 2, 1]), folder / "mask.nii")
        plan = _Plan(data, radius, X, design, site, seed)
        images = make_all(partial(_make_subject, plan), range(N_SUBJECTS))
        np.savetxt(folder / "X.csv", X, delimiter=",", fmt="%.17g")
        effects = X[:, : 1 + design.slope]
        _write_factor(folder, "subject", subject, effects)
        _write_factor(folder, "site", site, X[:, :1])
        paths = [path for of_subject in images for path in of_subject]
        (folder / "Y_files.txt").write_text("\n".join(map(str, paths)))
    names = ["subject", "site"][: 1 + design.sites]
    Z = [{f"f{k}": describe_factor(folder, name)} for k, name in enumerate(names, 1)]
    return MixedTest(read_list(folder / "Y_files.txt"), folder / "X.csv", folder / "mask.nii", Z)


def write_intercepts(folder: Path, level: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Write a factor with a random intercept; return Z as a configuration has it."""
    _write_factor(folder, "subject", level, np.ones((len(level), 1)))
    return [{"f1": describe_factor(folder, "subject")}]


def _write_factor(
    folder: Path, name: str, level: NDArray[np.int64], effects: NDArray[np.float64]
) -> None:
    np.savetxt(folder / f"{name}.csv", level + 1, fmt="%d")
    np.savetxt(folder / f"{name}_effects.csv", effects, delimiter=",", fmt="%.17g")


def describe_factor(folder: Path, name: str) -> dict[str, str]:
    """Return a factor written before as a configuration has it."""
    files = {"factor": folder / f"{name}.csv", "design": folder / f"{name}_effects.csv"}
    return {"name": name} | {field: str(path) for field, path in files.items()}


def _squared_radius(shape: Sequence[int]) -> NDArray[np.float64]:
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sum(np.square(grid), axis=0)
    return radius / np.quantile(radius, BRAIN)


def _make_subject(plan: _Plan, subject: int) -> list[Path]:
    """Write the images of a subject."""
    rng = np.random.default_rng([plan.seed, 1, subject])
    root = np.linalg.cholesky(D_SUBJECT)
    effects = [_smooth(rng, plan.radius.shape) for _ in D_SUBJECT]
    intercept, slope = (
        sum(weight * effect for weight, effect in zip(row, effects, strict=True)) for row in root
    )
    paths = []
    for row in range(subject * N_VISITS, (subject + 1) * N_VISITS):
        rng = np.random.default_rng([plan.seed, 2, row])
        values = plan.X[row] @ BETA + _smooth(rng, plan.radius.shape) + intercept
        if plan.design.slope:
            values += slope * plan.X[row, 1]
        if plan.design.sites:
            rng_site = np.random.default_rng([plan.seed, 3, plan.site[row]])
            values += np.sqrt(VARIANCE_SITE) * _smooth(rng_site, plan.radius.shape)
        edge = 1 + EDGE * _smooth(rng, plan.radius.shape, 2 * SMOOTHNESS)
        values = np.where(plan.radius < edge, values, 0).astype(np.float32)
        path = plan.folder / f"Y{row:03d}.nii"
        paths.append(save_image(values, np.diag([2.0, 2, 2, 1]), path))
    return paths


def _smooth(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: float = SMOOTHNESS
) -> NDArray[np.float32]:
    """Return smooth noise with variance 1."""
    noise = gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return noise / noise.std()
