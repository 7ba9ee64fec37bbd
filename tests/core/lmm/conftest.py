"""A mixed model fitted to whole arrays, with every quantity at every voxel."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor, select_rows
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.estimates import MixedEstimates, MixedOptions
from nipype_blm.core.lmm.fit import fit_lmm
from nipype_blm.core.lmm.inference import compute_f_contrast, compute_t_contrast
from nipype_blm.core.products import ProductAccumulator
from nipype_blm.core.status import is_fitted
from nipype_blm.core.threads import Threads

CONTRASTS = (np.array([0.0, 1.0, 0.0]), np.array([1.0, -2.0, 0.5]), np.eye(3)[1:], np.eye(3))


class MixedFit(NamedTuple):
    """Estimates and tests of contrasts; NaN at a voxel that is not fitted."""

    status: np.ndarray  # (n_voxels,)
    n_obs: np.ndarray  # (n_voxels,)
    beta: np.ndarray  # (n_voxels, n_params)
    sigma2: np.ndarray  # (n_voxels,)
    D: list[np.ndarray]  # (n_voxels, n_effects, n_effects) of each factor
    llh: np.ndarray  # (n_voxels,)
    resms: np.ndarray  # (n_voxels,)
    nit: np.ndarray  # (n_voxels,)
    cov: np.ndarray  # (n_voxels, n_params, n_params)
    stat: np.ndarray  # (n_voxels, n_contrasts), T of a vector, F of a matrix
    dof: np.ndarray  # (n_voxels, n_contrasts), Satterthwaite's
    estimable: np.ndarray  # (n_voxels, n_contrasts)

    @property
    def fitted(self) -> np.ndarray:
        """Indices of the fitted voxels."""
        return np.flatnonzero(is_fitted(self.status))

    @property
    def std_error(self) -> np.ndarray:
        return np.sqrt(np.diagonal(self.cov, axis1=1, axis2=2))

    def blocks(self, voxel: int) -> list[np.ndarray]:
        """Return D_k of each factor at one voxel."""
        return [D[voxel] for D in self.D]


@pytest.fixture(scope="session")
def contrasts() -> tuple[np.ndarray, ...]:
    """Contrasts of the three columns of X in `oracles.designs`."""
    return CONTRASTS


@pytest.fixture(scope="session")
def fit_mixed() -> Callable[..., MixedFit]:
    """Function that fits a mixed model to Y, NaN being missing; see `_fit_mixed`."""
    return _fit_mixed


def _fit_mixed(
    Y: np.ndarray,
    X: np.ndarray,
    factors: Sequence[RandomFactor],
    contrasts: Sequence[np.ndarray] = (),
    *,
    starts: Sequence[int] = (),
    n_threads: int = 1,
    **options: Any,
) -> MixedFit:
    """Fit in batches that begin at `starts`, with fields of `MixedOptions` as `options`."""
    design = factorise_design(X)
    edges = sorted({0, *starts, len(X)})
    settings = MixedOptions(**options)
    with Threads(n_threads) as threads:
        batches = []
        for rows in (slice(a, b) for a, b in itertools.pairwise(edges)):
            random = select_rows(factors, rows)
            accumulator = ProductAccumulator(design.Q[rows], design.shift[rows], Y.shape[1], random)
            for first in range(rows.start, rows.stop, 32):
                values = np.ascontiguousarray(Y[first : min(first + 32, rows.stop)])
                accumulator.add(values, np.isnan(values).sum(axis=1), threads)
            batches.append((rows, accumulator.finish()))
        n_obs = np.sum([products.n_obs for _, products in batches], axis=0, dtype=np.int32)
        estimates = fit_lmm(
            n_obs, batches, design, factors, settings, 0, with_cov=True, threads=threads
        )
        tests = [
            compute_t_contrast(c, estimates, design.R, settings.reml, threads=threads)
            if c.ndim == 1
            else compute_f_contrast(c, estimates, design.R, settings.reml, threads=threads)
            for c in contrasts
        ]
    return _spread(estimates, factors, tests)


def _spread(
    estimates: MixedEstimates, factors: Sequence[RandomFactor], tests: Sequence[Any]
) -> MixedFit:
    """Put what is known of the fitted voxels in the place of each voxel."""
    fitted = np.flatnonzero(is_fitted(estimates.status))

    def put(values: np.ndarray) -> np.ndarray:
        full = np.full((estimates.status.size, *values.shape[1:]), np.nan)
        full[fitted] = values
        return full

    n_params = len(estimates.beta)
    D, position = [], 0
    for factor in factors:
        size = factor.n_entries
        columns, rows = np.triu_indices(factor.n_effects)  # column by column
        D.append(put(_unpack(estimates.D[position : position + size], rows, columns)))
        position += size
    n_tests = len(tests)
    empty = np.empty((fitted.size, n_tests))
    return MixedFit(
        estimates.status,
        estimates.n_obs,
        put(estimates.beta.T),
        put(estimates.sigma2),
        D,
        put(estimates.llh),
        put(estimates.resms),
        put(estimates.nit),
        put(_unpack(estimates.cov, *np.tril_indices(n_params))),
        put(np.column_stack([t.stat for t in tests]) if tests else empty),
        put(np.column_stack([t.dof for t in tests]) if tests else empty),
        put(np.column_stack([t.estimable for t in tests]) if tests else empty),
    )


def _unpack(packed: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return symmetric matrices (n, size, size) from some order of their lower triangles."""
    size = rows.max() + 1
    full = np.empty((packed.shape[1], size, size))
    full[:, rows, columns] = packed.T
    full[:, columns, rows] = packed.T
    return full
