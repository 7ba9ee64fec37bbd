"""Products and estimates from whole arrays, and an oracle in extended precision."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from nipype_blm.core.linalg import DesignFactor, factorise_design
from nipype_blm.core.ols import Estimates, fit_ols
from nipype_blm.core.products import ProductAccumulator, Products
from nipype_blm.core.status import is_fitted
from nipype_blm.core.threads import Threads


class Solution(NamedTuple):
    """Least squares at one voxel, in extended precision."""

    beta: np.ndarray
    resms: np.longdouble
    llh: np.longdouble
    inverse: np.ndarray  # (X'X)^-1
    root: np.ndarray  # R^-1: inverse = root root'
    dof: int

    @property
    def std_error(self) -> np.ndarray:
        return np.sqrt(self.resms * np.diag(self.inverse))


@pytest.fixture(scope="session")
def reduce() -> Callable[..., Products]:
    """Function that computes the products of the observations `rows`."""

    def reduce(
        design: DesignFactor,
        Y: np.ndarray,
        rows: slice = slice(None),
        chunk: int = 32,
        n_threads: int = 1,
    ) -> Products:
        Y = Y[rows]
        accumulator = ProductAccumulator(design.Q[rows], design.shift[rows], Y.shape[1])
        for first in range(0, len(Y), chunk):
            values = np.ascontiguousarray(Y[first : first + chunk])
            with Threads(n_threads) as threads:
                accumulator.add(values, np.isnan(values).sum(axis=1), threads)
        return accumulator.finish()

    return reduce


@pytest.fixture(scope="session")
def fit(reduce: Callable[..., Products]) -> Callable[..., tuple[Estimates, DesignFactor]]:
    """Function that fits X to Y, NaN being missing, in batches that start at `starts`."""

    def fit(
        X: np.ndarray, Y: np.ndarray, starts: Sequence[int] = (), minimum_n: int = 0, **options: Any
    ) -> tuple[Estimates, DesignFactor]:
        design = factorise_design(X)
        edges = sorted({0, *starts, len(X)})
        slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
        batches = [(rows, reduce(design, Y, rows)) for rows in slices]
        n_obs = np.sum([products.n_obs for _, products in batches], axis=0, dtype=np.int32)
        return fit_ols(n_obs, batches, design, minimum_n, with_cov=True, **options), design

    return fit


def _solve(X: np.ndarray, y: np.ndarray) -> Solution:
    """Orthogonalise three times in long double: errors of 1e-19 times the condition."""
    present = ~np.isnan(y)
    X, y = X[present].astype(np.longdouble), y[present].astype(np.longdouble)
    n_obs, n_params = X.shape
    columns, R, root = [], np.eye(n_params + 1, dtype=np.longdouble), np.zeros_like(X.T @ X)
    for j, column in enumerate([*X.T, y]):
        residual = column.copy()
        R[:j, j] = 0
        for _ in range(3):
            for i in range(j):
                weight = columns[i] @ residual
                R[i, j] += weight
                residual -= weight * columns[i]
        if j < n_params:
            R[j, j] = np.sqrt(residual @ residual)
            columns.append(residual / R[j, j])
    rss = residual @ residual
    for j in reversed(range(n_params)):
        unit = np.eye(n_params, dtype=np.longdouble)[j]
        root[j] = (unit - R[j, j + 1 : n_params] @ root[j + 1 :]) / R[j, j]
    beta = np.zeros(n_params, np.longdouble)
    for j in reversed(range(n_params)):
        beta[j] = (R[j, -1] - R[j, j + 1 : n_params] @ beta[j + 1 :]) / R[j, j]
    dof = n_obs - n_params
    llh = -n_obs / 2 * (np.log(rss / n_obs) + np.log(2 * np.longdouble(np.pi)) + 1)
    return Solution(beta, rss / dof, llh, root @ root.T, root, dof)


@pytest.fixture(scope="session")
def solve() -> Callable[[np.ndarray, np.ndarray], Solution]:
    """Function that fits X to the values present in y."""
    return _solve


@pytest.fixture(scope="session")
def fitted_solutions() -> Callable[..., list[Solution]]:
    """Function that returns the oracle's answer at each fitted voxel."""

    def solutions(X: np.ndarray, Y: np.ndarray, estimates: Estimates) -> list[Solution]:
        return [_solve(X, Y[:, v]) for v in np.flatnonzero(is_fitted(estimates.status))]

    return solutions
