"""Small random mixed designs, with data drawn from them."""

from typing import NamedTuple

import numpy as np

from nipype_blm.core.factors import RandomFactor

STRUCTURES = (
    "intercept",
    "slope",
    "diagonal",  # intercept and slope, uncorrelated
    "three",  # intercept, slope and curvature
    "crossed",
    "nested",
    "crossed_slope",
    "slope_only",  # one effect that is not constant: levels of equal size differ in z'z
)
CONDITIONS = (
    "unbalanced",  # levels of very different sizes, some of one observation
    "missing",  # at half of the voxels, each its own tenth of the observations
    "boundary",  # a true variance of zero in each factor
    "near_singular",  # correlations of 0.999, standard deviations that differ up to 1e5 times
    "few_levels",
    "offset",  # a mean of 1e4 standard deviations
)
KINDS = (
    *STRUCTURES,
    *(f"{structure} unbalanced missing" for structure in STRUCTURES),
    *(f"{structure} boundary" for structure in STRUCTURES),
    *(f"{structure} near_singular" for structure in ("intercept", "slope", "three")),
    *(f"{structure} few_levels" for structure in ("intercept", "slope", "crossed")),
    *(f"{structure} offset" for structure in ("intercept", "slope", "crossed")),
    "slope few_levels unbalanced",
    "slope unbalanced missing boundary offset",
)


class MixedDesign(NamedTuple):
    """A mixed model, and data from it at several voxels."""

    Y: np.ndarray  # (n_obs, n_voxels), NaN where absent
    X: np.ndarray  # (n_obs, 3): 1, time in [0, 1], a covariate
    factors: list[RandomFactor]
    present: np.ndarray  # (n_obs, n_voxels)
    D: list[list[np.ndarray]]  # true D_k at each voxel; sigma is 1


def make_designs(rng: np.random.Generator, kind: str, n_voxels: int = 6) -> MixedDesign:
    """Return a design of one kind: a structure, then conditions, between spaces."""
    structure, *conditions = kind.split()
    unknown = [c for c in conditions if c not in CONDITIONS]
    if structure not in STRUCTURES or unknown:
        raise ValueError(f"Unknown kind {kind!r}: one of {STRUCTURES}, then any of {CONDITIONS}.")
    levels = _draw_levels(rng, structure, conditions)
    n_obs = len(levels[0])
    time = _draw_time(rng, levels[0], balanced="unbalanced" not in conditions)
    X = np.column_stack([np.ones(n_obs), time, rng.normal(size=n_obs)])
    factors = _make_factors(structure, levels, time)
    D = [[_draw_block(rng, f, conditions) for f in factors] for _ in range(n_voxels)]
    Y = np.column_stack([_draw_response(rng, X, factors, blocks) for blocks in D])
    if "offset" in conditions:
        Y += 1e4
    present = np.ones(Y.shape, bool)
    if "missing" in conditions:
        present[:, ::2] = rng.random(present[:, ::2].shape) >= 0.1
    return MixedDesign(np.where(present, Y, np.nan), X, factors, present, D)


def _draw_levels(
    rng: np.random.Generator, structure: str, conditions: list[str]
) -> list[np.ndarray]:
    """Return the level of each observation in each factor."""
    few = "few_levels" in conditions
    n_levels = 3 if few else 10
    size = 12 if few else 6
    if "unbalanced" in conditions:
        sizes = np.r_[1, 1, rng.integers(2, 2 * size, n_levels - 2)]
    else:
        sizes = np.full(n_levels, size)
    first = np.repeat(np.arange(n_levels), sizes)
    if structure.startswith("crossed"):
        # Side by side, so that every level of the one meets each level of the other.
        second = np.arange(len(first)) % (3 if few else 4)
        if "unbalanced" in conditions:
            second = _renumber(rng.permutation(second))
        return [first, second]
    if structure == "nested":
        return [first, _renumber(2 * first + np.arange(len(first)) % 2)]
    return [first]


def _renumber(level: np.ndarray) -> np.ndarray:
    return np.unique(level, return_inverse=True)[1]


def _draw_time(rng: np.random.Generator, level: np.ndarray, *, balanced: bool) -> np.ndarray:
    """Return the time of each observation: the same in every level, or its own."""
    if not balanced:
        return rng.random(len(level))
    size = np.count_nonzero(level == 0)
    return np.tile(np.linspace(0, 1, size), len(level) // size)


def _make_factors(structure: str, levels: list[np.ndarray], time: np.ndarray) -> list[RandomFactor]:
    """Return the factors; all but the first have an intercept only."""
    n_effects = {"slope": 2, "diagonal": 2, "crossed_slope": 2, "three": 3}.get(structure, 1)
    effects = [np.ones((len(time), 1))] * len(levels)
    first = 1 if structure == "slope_only" else 0
    powers = range(first, first + n_effects)
    effects[0] = np.column_stack([(2 * time - 1) ** power for power in powers])
    correlated = structure != "diagonal"
    return [
        RandomFactor(f"f{k + 1}", level.astype(np.int32), Z, correlated)
        for k, (level, Z) in enumerate(zip(levels, effects, strict=True))
    ]


def _draw_block(
    rng: np.random.Generator, factor: RandomFactor, conditions: list[str]
) -> np.ndarray:
    """Return a true D_k."""
    q = factor.n_effects
    near_singular = "near_singular" in conditions
    sd = 10 ** (rng.uniform(-3, 2, q) if near_singular else rng.uniform(-0.5, 0.5, q))
    if "boundary" in conditions:
        sd[rng.integers(q)] = 0.0
    if not factor.correlated:
        return np.diag(sd**2)
    if near_singular:
        sign = rng.choice([-1.0, 1.0], q)
        correlation = 0.999 * np.outer(sign, sign)
        np.fill_diagonal(correlation, 1.0)
    else:
        root = rng.normal(size=(q, q + 1))
        root /= np.linalg.norm(root, axis=1)[:, None]
        correlation = root @ root.T
    return correlation * np.outer(sd, sd)


def _draw_response(
    rng: np.random.Generator, X: np.ndarray, factors: list[RandomFactor], blocks: list[np.ndarray]
) -> np.ndarray:
    """Return one voxel's data, sigma 1."""
    y = X @ rng.normal(size=X.shape[1]) + rng.normal(size=len(X))
    for factor, block in zip(factors, blocks, strict=True):
        values, vectors = np.linalg.eigh(block)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        b = rng.normal(size=(factor.n_levels, factor.n_effects)) @ root.T
        y += np.sum(factor.Z * b[factor.level], axis=1)
    return y
