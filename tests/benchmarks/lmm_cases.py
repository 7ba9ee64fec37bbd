"""Mixed models in memory: designs, simulated values, and what fitting them takes."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor, select_rows
from nipype_blm.core.linalg import DesignFactor, factorise_design
from nipype_blm.core.lmm.estimates import MixedEstimates, MixedOptions
from nipype_blm.core.lmm.fit import fit_lmm
from nipype_blm.core.lmm.inference import compute_t_contrast
from nipype_blm.core.products import WORD, ProductAccumulator, Products
from nipype_blm.core.status import VoxelStatus

MODELS = ("intercept", "slope", "balanced slope", "diagonal slope", "crossed")
CERTIFIED = (VoxelStatus.FITTED, VoxelStatus.FITTED_BOUNDARY)


class Case(NamedTuple):
    """One design."""

    X: NDArray[np.float64]
    factors: list[RandomFactor]


class Fitted(NamedTuple):
    """What fitting a case took, and what came out."""

    reduce_s: float  # CPU, of all images to products
    fit_s: float  # CPU, of products to estimates, their covariance and one T with its df
    estimates: MixedEstimates


def make_case(
    model: str, n_subjects: int = 200, n_params: int = 5, n_sites: int = 20, seed: int = 1
) -> Case:
    """Return a design of about five visits per subject; 2 to 8 unless it is balanced."""
    rng = np.random.default_rng(seed)
    if model == "balanced slope":
        visits = np.full(n_subjects, 5)
        times = [np.linspace(0, 4, 5)] * n_subjects
    else:
        visits = rng.integers(2, 9, n_subjects)
        times = [np.sort(rng.uniform(0, 5, n)) for n in visits]
    subject = np.repeat(np.arange(n_subjects, dtype=np.int32), visits)
    n_obs = len(subject)
    ones, t = np.ones((n_obs, 1)), np.concatenate(times)[:, None]
    X = np.hstack([ones, t, rng.standard_normal((n_obs, n_params - 2))])
    effects = np.hstack([ones, t]) if "slope" in model else ones
    factors = [RandomFactor("subject", subject, effects, model != "diagonal slope")]
    if model == "crossed":
        site = rng.permutation(np.arange(n_obs) % n_sites).astype(np.int32)
        factors.append(RandomFactor("site", site, ones))
    return Case(X, factors)


def simulate(case: Case, n_voxels: int, missing: float = 0.0, seed: int = 2) -> NDArray[Any]:
    """Return values of shape (n_obs, n_voxels), with variances that differ between voxels.

    The standard deviation of an effect is log-normal, around 0.6 for intercepts and 0.4 for
    slopes, each in units of the residual's.  Every voxel misses its own images.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    n_obs, n_params = case.X.shape
    Y = normal(n_obs, n_voxels)
    Y += case.X.astype(np.float32) @ (0.5 * normal(n_params, n_voxels))
    for factor in case.factors:
        for number, z in enumerate(factor.Z.T):
            sd = np.exp(0.7 * normal(n_voxels) - (0.5 + 0.5 * number))
            effect = sd * normal(factor.n_levels, n_voxels)
            scale = z / (z.std() or 1)
            for row, level in enumerate(factor.level):
                Y[row] += np.float32(scale[row]) * effect[level]
    if missing:
        for row in Y:
            row[rng.random(n_voxels) < missing] = np.nan
    return Y


def reduce(case: Case, design: DesignFactor, Y: NDArray[Any]) -> tuple[Products, float]:
    """Return the products of all images, and the CPU seconds they took."""
    rows = slice(0, len(Y))
    n_missing = np.isnan(Y).sum(axis=1)
    start = time.process_time()
    random = select_rows(case.factors, rows)
    accumulator = ProductAccumulator(design.Q, design.shift, Y.shape[1], random)
    for first in range(0, len(Y), WORD):
        part = slice(first, first + WORD)
        accumulator.add(Y[part], n_missing[part])
    products = accumulator.finish()
    return products, time.process_time() - start


def fit(
    case: Case, design: DesignFactor, products: Products, reml: bool
) -> tuple[MixedEstimates, float]:
    """Return estimates, and the CPU seconds of these and one T with its df."""
    vector = np.eye(case.X.shape[1])[1]
    batches = [(slice(0, len(case.X)), products)]
    start = time.process_time()
    options = MixedOptions(reml=reml)
    estimates = fit_lmm(
        products.n_obs, batches, design, case.factors, options, 0, None, with_cov=True
    )
    compute_t_contrast(vector, estimates, design.R, reml)
    return estimates, time.process_time() - start


def measure_case(
    case: Case, Y: NDArray[Any], repeats: int, criteria: Sequence[bool] = (False, True)
) -> dict[bool, Fitted]:
    """Return the least CPU times of all repeats, by ML (False) and REML (True)."""
    design = factorise_design(case.X)
    reduced = [reduce(case, design, Y) for _ in range(repeats)]
    products, reduce_s = reduced[0][0], min(seconds for _, seconds in reduced)
    found = {}
    for reml in criteria:
        fits = [fit(case, design, products, reml) for _ in range(repeats)]
        found[reml] = Fitted(reduce_s, min(seconds for _, seconds in fits), fits[0][0])
    return found


def describe(fitted: Fitted) -> dict[str, float]:
    """Return speed, share of certified voxels and numbers of evaluations."""
    status, nit = fitted.estimates.status, fitted.estimates.nit
    n = status.size
    return {
        "voxels_per_cpu_s": round(n / fitted.fit_s),
        "fit_us_per_voxel": round(1e6 * fitted.fit_s / n, 2),
        "reduce_us_per_voxel": round(1e6 * fitted.reduce_s / n, 2),
        "certified": round(float(np.isin(status, CERTIFIED).mean()), 6),
        "boundary": round(float((status == VoxelStatus.FITTED_BOUNDARY).mean()), 4),
        "evaluations_mean": round(float(nit.mean()), 2),
        "evaluations_99": float(np.percentile(nit, 99)),
        "evaluations_most": int(nit.max()),
    }
