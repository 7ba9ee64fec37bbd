"""A finished model at a few voxels: what it makes of each image, once its values are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, identity
from scipy.sparse.linalg import splu

from nipype_blm.core.factors import RandomFactor, count_columns, select_rows
from nipype_blm.core.groups import find_groups
from nipype_blm.core.linalg import DesignFactor, FloatArray, factorise_design
from nipype_blm.core.residuals import (
    EXACT,
    Residuals,
    combine_contrasts,
    compute_residuals,
)
from nipype_blm.errors import InputError
from nipype_blm.results.results import Results
from nipype_blm.results.sampled import Sampled
from nipype_blm.stages.compiling import MIXED_S, TESTING_S, announcing_compilation

# Random effects of levels that images join are predicted by dense matrices of this size at most:
# a larger one takes seconds at each voxel.
_MOST_JOINED = 800
_SINGULAR = 1e-10  # of the estimates' information, columns of X at unit length


@dataclass(frozen=True, eq=False)
class LevelEffects:
    """The random effects of one factor at a voxel, predicted given all other estimates."""

    factor: str
    effects: Sequence[str]
    levels: Sequence[str]
    blup: FloatArray  # (n_levels, n_effects)
    sd: FloatArray  # (n_levels, n_effects), conditional
    is_present: NDArray[np.bool_]  # (n_levels,), whether it has an image there
    level: NDArray[np.int32]  # (n_obs,), of each image
    part: FloatArray  # (n_obs,), of each image in its own fit: Z b of this factor


@dataclass(frozen=True, eq=False)
class VoxelFit:
    """The model at one voxel; values of images are NaN where they are missing."""

    feature: int
    y: FloatArray  # (n_obs,)
    fixed: FloatArray  # (n_obs,), X beta
    residual: FloatArray  # (n_obs,), of a mixed model conditional: y - X beta - Z b
    standardised: FloatArray  # (n_obs,), over its own standard deviation; NaN at leverage 1
    sigma: float  # residual standard deviation
    beta: FloatArray  # (n_params,); of columns that depend on each other the shortest
    covariance: FloatArray  # (n_params, n_params), of beta
    levels: Sequence[LevelEffects]

    @property
    def is_present(self) -> NDArray[np.bool_]:
        """Which images have a value."""
        return np.asarray(~np.isnan(self.y))


def fit_voxels(results: Results, sampled: Sampled) -> dict[int, VoxelFit]:
    """Return the fit at each voxel of which the values are known, by its place in the result.

    Notes
    -----
    A residual has the variance sigma2 (1 - h), h the leverage, in mixed models too: with the fit
    X beta + Z b = H y the conditional residuals are sigma2 P y, of covariance sigma2 (I - H).

    Raises
    ------
    InputError
        If images join too many levels of random factors.
    """
    design = factorise_design(results.X)
    Y = np.ascontiguousarray(sampled.values.T)
    if not len(Y):
        return {}
    D = np.empty((0, len(Y)))
    blup, covariance = np.empty((len(Y), 0)), np.empty((len(Y), 0))
    if results.factors:
        D = _read_variances(results, sampled.features)
        found, blup, covariance, is_present = _predict(results, Y, D, design)
    else:
        with announcing_compilation("computes residuals", TESTING_S):
            found = compute_residuals(Y, design)
        is_present = np.empty((len(Y), 0), bool)
    fits = {}
    for i, feature in enumerate(sampled.features.tolist()):
        levels = _list_levels(results, blup[i], covariance[i], is_present[i])
        parts = (each.part for each in levels)
        fixed = Y[i] - found.residual[i] - sum(parts, np.zeros(Y.shape[1]))
        beta, of_beta = _estimate(results, fixed, D[:, i], found.sigma[i])
        residual, sigma = found.residual[i], float(found.sigma[i])
        standardised = _standardise(found, i)
        fits[feature] = VoxelFit(
            *(feature, Y[i], fixed, residual, standardised, sigma), beta, of_beta, levels
        )
    return fits


def _read_variances(results: Results, features: NDArray[np.intp]) -> FloatArray:
    """Return vech(D) of all factors, (n_entries, n_voxels)."""
    n_entries = sum(factor.n_entries for factor in results.factors)
    voxels = results.find_voxels(features)
    return np.asarray(results.read_volumes("D", voxels, range(n_entries), np.dtype(float)))


def _predict(
    results: Results, Y: FloatArray, D: FloatArray, design: DesignFactor
) -> tuple[Residuals, FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return residuals, random effects, their covariances, and which levels are present."""
    from nipype_blm.core.lmm.blups import compute_mixed_residuals

    n_joined = _count_joined(results.factors)
    if n_joined > _MOST_JOINED:
        raise InputError(
            f"Images join {n_joined:,} random effects, too many to be predicted here; nipype-blm "
            f"diagnose {results.folder} --save blups does it for all voxels."
        )
    none = combine_contrasts(design.R, [])
    with announcing_compilation("predicts random effects", MIXED_S):
        found = compute_mixed_residuals(
            Y, D, design, results.factors, none, results.options["reml"], with_covariance=True
        )
    return found.residuals, found.blup, found.covariance, found.is_present


def _count_joined(factors: Sequence[RandomFactor]) -> int:
    """Return the random effects of the largest group of images that levels join."""
    group = find_groups(len(factors[0].level), factors)
    count = np.zeros(int(group.max()) + 1, int)
    for factor in factors:
        _, first = np.unique(factor.level, return_index=True)
        count += factor.n_effects * np.bincount(group[first], minlength=count.size)
    return int(count.max())


def _list_levels(
    results: Results, blup: FloatArray, covariance: FloatArray, is_present: NDArray[np.bool_]
) -> list[LevelEffects]:
    """Return the random effects of each factor, which come one behind the other."""
    found = []
    column = entry = level = 0
    for k, factor in enumerate(results.factors):
        n, q = factor.n_levels, factor.n_effects
        effects = blup[column : column + n * q].reshape(n, q)
        entries = covariance[entry : entry + n * factor.n_entries].reshape(n, -1)
        diagonal = [j * q - j * (j - 1) // 2 for j in range(q)]  # of vech, column by column
        found.append(
            LevelEffects(
                factor=factor.name,
                effects=results.effect_names[k],
                levels=results.level_names[k],
                blup=effects,
                sd=np.sqrt(np.maximum(entries[:, diagonal], 0)),
                is_present=is_present[level : level + n],
                level=factor.level,
                part=np.einsum("ij,ij->i", factor.Z, effects[factor.level]),
            )
        )
        column, entry, level = column + n * q, entry + n * factor.n_entries, level + n
    return found


def _standardise(found: Residuals, voxel: int) -> FloatArray:
    rest = 1 - found.leverage[voxel]
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = found.sigma[voxel] * np.sqrt(np.where(rest > EXACT, rest, np.nan))
        return np.asarray(found.residual[voxel] / scale)


def _estimate(
    results: Results, fixed: FloatArray, D: FloatArray, sigma: float
) -> tuple[FloatArray, FloatArray]:
    """Return the estimates that make a fit, and their covariance."""
    present = ~np.isnan(fixed)
    X = results.X[present]
    length = np.linalg.norm(X, axis=0)
    length[length == 0] = 1
    X = X / length
    beta = np.linalg.lstsq(X, fixed[present], rcond=_SINGULAR)[0] / length
    information = X.T @ X
    if results.factors:
        W = _weigh(results.factors, D)[present]
        M = csc_array(W.T @ W) + csc_array(identity(W.shape[1]))
        # Before version 1.12 of scipy splu takes no other numbers.
        M.indices, M.indptr = M.indices.astype(np.intc), M.indptr.astype(np.intc)
        product = W.T @ X
        information -= product.T @ splu(M).solve(product)
    inverse = np.linalg.pinv(information, rcond=_SINGULAR, hermitian=True)
    return beta, sigma**2 * inverse / np.outer(length, length)


def _weigh(factors: Sequence[RandomFactor], D: FloatArray) -> csr_array:
    """Return Z Lambda, with Lambda Lambda' = D of each level: (n_obs, n_columns)."""
    weighed, offset = [], 0
    for factor in factors:
        q = factor.n_effects
        matrix = np.zeros((q, q))
        matrix.T[np.triu_indices(q)] = D[offset : offset + factor.n_entries]
        values, vectors = np.linalg.eigh(matrix)  # of the lower triangle
        root = vectors * np.sqrt(np.maximum(values, 0))
        weighed.append(factor._replace(Z=factor.Z @ root))
        offset += factor.n_entries
    rows = select_rows(weighed, slice(None))
    n_obs, n_terms = rows.value.shape
    place = np.repeat(np.arange(n_obs), n_terms), rows.columns[rows.position].ravel()
    return csr_array((rows.value.ravel(), place), shape=(n_obs, count_columns(factors)))
