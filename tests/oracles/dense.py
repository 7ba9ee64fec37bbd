"""A mixed model from its n x n covariance matrix: slow, and plain enough to be believed.

y ~ N(X beta, sigma2 V), V = I + sum over factors k of (same level) * Z_k D_k Z_k'.
Nothing here is shared with the package or with lme4.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from nipype_blm.core.factors import RandomFactor

Blocks = Sequence[np.ndarray]  # D_k of each factor, relative to sigma2


class Fit(NamedTuple):
    """A model at given D."""

    D: tuple[np.ndarray, ...]
    deviance: float  # -2 log-likelihood, or the REML criterion
    beta: np.ndarray  # (n_params,)
    sigma2: float
    cov_beta: np.ndarray  # (n_params, n_params)

    @property
    def std_error(self) -> np.ndarray:
        return np.sqrt(np.diag(self.cov_beta))


class ContrastTest(NamedTuple):
    """A contrast, tested."""

    stat: float  # t of a vector, F of a matrix
    rank: int
    df: float  # Satterthwaite's


class _Coordinate(NamedTuple):
    """One free entry of the root of D: D_k = root root'."""

    factor: int
    row: int
    column: int


class _Expansion(NamedTuple):
    """The deviance and the covariance of beta around one point, in (coordinates, sigma)."""

    deviance: float
    gradient: np.ndarray  # (n_coordinates + 1,)
    hessian: np.ndarray  # (n_coordinates + 1, n_coordinates + 1)
    cov_change: list[np.ndarray]  # derivative of cov_beta by each of them


def drop_missing(
    y: np.ndarray, X: np.ndarray, factors: Sequence[RandomFactor]
) -> tuple[np.ndarray, np.ndarray, list[RandomFactor]]:
    """Return the rows where y is present; levels keep their numbers, some may not occur."""
    rows = ~np.isnan(y)
    kept = [f._replace(level=f.level[rows], Z=f.Z[rows]) for f in factors]
    return y[rows], X[rows], kept


def criterion(
    y: np.ndarray, X: np.ndarray, factors: Sequence[RandomFactor], D: Blocks, *, reml: bool = True
) -> Fit:
    """Return the model at relative covariances D, beta and sigma2 at their best values.

    The deviance holds every constant, and log|X'V^-1X| in the columns of X as they are.
    """
    n_obs, n_params = X.shape
    offset, residual = _split(y, X)
    inverse = np.linalg.inv(_covariance(factors, D))
    information = X.T @ inverse @ X
    change = np.linalg.solve(information, X.T @ inverse @ residual)
    residual = residual - X @ change
    dof = n_obs - n_params if reml else n_obs
    sigma2 = residual @ inverse @ residual / dof
    deviance = -_log_determinant(inverse) + dof * (1 + np.log(2 * np.pi * sigma2))
    if reml:
        deviance += _log_determinant(information)
    blocks = tuple(np.asarray(block, float) for block in D)
    return Fit(blocks, deviance, offset + change, sigma2, sigma2 * np.linalg.inv(information))


@threadpool_limits.wrap(limits=1)  # as `fit`
def satterthwaite(
    y: np.ndarray,
    X: np.ndarray,
    factors: Sequence[RandomFactor],
    D: Blocks,
    contrasts: Sequence[np.ndarray],
    *,
    reml: bool = True,
) -> list[ContrastTest]:
    """Return the tests of contrasts at D, as defined by lmerTest.

    A vector gives t, a matrix F.  var(phi) = 2 H^-1, with H the Hessian of the deviance in
    phi: the entries of the roots of D, without columns that are zero, and sigma.  A direction
    l has nu = 2 (l'Cl)^2 / (g' var(phi) g), g the gradient of l'Cl.  F takes the eigenvectors
    of L C L' as directions; its df is 2E / (E - rank), E = sum nu / (nu - 2), or 2 if any nu
    is at most 2.
    """
    at = criterion(y, X, factors, D, reml=reml)
    roots = [_root(block) for block in D]
    free = [c for c in _coordinates(factors) if roots[c.factor][c.column, c.column] > 0]
    around = _expand(y, X, factors, roots, free, np.sqrt(at.sigma2), reml=reml)
    values, vectors = np.linalg.eigh(around.hessian)
    kept = values > 1e-8  # lmerTest's limit
    covariance = 2 * (vectors[:, kept] / values[kept]) @ vectors[:, kept].T

    def compute_nu(direction: np.ndarray) -> float:
        gradient = np.array([direction @ change @ direction for change in around.cov_change])
        variance = direction @ at.cov_beta @ direction
        return 2 * variance**2 / (gradient @ covariance @ gradient)

    return [_test(np.asarray(contrast, float), at, compute_nu) for contrast in contrasts]


# A second thread of BLAS waits for its part of such small matrices, and uses a core for that.
@threadpool_limits.wrap(limits=1)
def fit(y: np.ndarray, X: np.ndarray, factors: Sequence[RandomFactor], *, reml: bool = True) -> Fit:
    """Return the model of smallest deviance found from several starts, D = 0 among them."""
    coordinates = _coordinates(factors)
    # In these units an entry of 1 gives a variance of 1 to a typical observation.
    unit = [np.sqrt(np.mean(factor.Z**2, axis=0)) for factor in factors]
    scale = np.array([1 / unit[c.factor][c.row] for c in coordinates])
    on_diagonal = np.array([float(c.row == c.column) for c in coordinates])

    def make_roots(theta: np.ndarray) -> list[np.ndarray]:
        roots = [np.zeros((factor.n_effects, factor.n_effects)) for factor in factors]
        for c, value in zip(coordinates, theta * scale, strict=True):
            roots[c.factor][c.row, c.column] = value
        return roots

    def evaluate(theta: np.ndarray) -> Fit:
        return criterion(y, X, factors, [r @ r.T for r in make_roots(theta)], reml=reml)

    @lru_cache(maxsize=1)  # the gradient is asked for where the Hessian is
    def expand(at: tuple[float, ...]) -> _Expansion:
        theta = np.array(at)
        sigma = np.sqrt(evaluate(theta).sigma2)
        return _expand(y, X, factors, make_roots(theta), coordinates, sigma, reml=reml)

    def gradient(theta: np.ndarray) -> np.ndarray:
        return expand(tuple(theta)).gradient[:-1] * scale

    def hessian(theta: np.ndarray) -> np.ndarray:
        full = expand(tuple(theta)).hessian
        # sigma follows theta, hence the Schur complement.
        profiled = full[:-1, :-1] - np.outer(full[:-1, -1], full[-1, :-1]) / full[-1, -1]
        return profiled * np.outer(scale, scale)

    found = []
    for size in (0.0, 0.1, 1.0, 10.0):
        start = size * on_diagonal
        # Λ = 0 is stationary whatever y: trust-exact leaves it where the curvature is negative.
        result = minimize(
            lambda theta: evaluate(theta).deviance,
            start,
            jac=gradient,
            hess=hessian,
            method="trust-exact",
            options={"gtol": 1e-8, "maxiter": 500},
        )
        found.append(_snap(result.x, evaluate))
    return min(found, key=lambda candidate: candidate.deviance)


def _snap(theta: np.ndarray, evaluate) -> Fit:
    """Return the model with the entries of theta set to 0 that make no difference."""
    best = evaluate(theta)
    for i in np.argsort(np.abs(theta)):
        if abs(theta[i]) > 1e-3:  # the criterion is quadratic in a vanishing entry
            break
        trial = theta.copy()
        trial[i] = 0.0
        candidate = evaluate(trial)
        if candidate.deviance <= best.deviance + 1e-11:
            theta, best = trial, candidate
    return best


def _test(contrast: np.ndarray, at: Fit, compute_nu) -> ContrastTest:
    """Return the test of one contrast."""
    if contrast.ndim == 1:
        stat = contrast @ at.beta / np.sqrt(contrast @ at.cov_beta @ contrast)
        return ContrastTest(float(stat), 1, float(compute_nu(contrast)))
    values, vectors = np.linalg.eigh(contrast @ at.cov_beta @ contrast.T)
    kept = values > np.sqrt(np.finfo(float).eps) * values.max()  # lmerTest's limit
    directions = vectors[:, kept].T @ contrast
    rank = len(directions)
    stat = np.sum((directions @ at.beta) ** 2 / values[kept]) / rank
    nu = np.array([compute_nu(direction) for direction in directions])
    return ContrastTest(float(stat), rank, _combine(nu))


def _combine(nu: np.ndarray) -> float:
    """Return the denominator degrees of freedom of F from those of its directions."""
    if len(nu) == 1:
        return float(nu[0])
    if np.any(nu <= 2):
        return 2.0
    total = np.sum(nu / (nu - 2))
    return float(2 * total / (total - len(nu)))


def _split(y: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return least-squares beta and residuals: a large mean of y would cost digits."""
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    return beta, y - X @ beta


def _log_determinant(A: np.ndarray) -> float:
    sign, value = np.linalg.slogdet(A)
    if sign <= 0:
        raise ValueError("D gives a covariance of y, or of beta, that is not positive definite.")
    return float(value)


def _covariance(factors: Sequence[RandomFactor], D: Blocks) -> np.ndarray:
    """Return V, for non-negative definite D_k."""
    V = np.eye(len(factors[0].level))
    for factor, block in zip(factors, D, strict=True):
        V += _term(factor, np.asarray(block, float))
    return V


def _term(factor: RandomFactor, block: np.ndarray) -> np.ndarray:
    """Return the part of V that one factor adds, (n_obs, n_obs)."""
    same = factor.level[:, None] == factor.level
    return same * (factor.Z @ block @ factor.Z.T)


def _coordinates(factors: Sequence[RandomFactor]) -> list[_Coordinate]:
    """Return the entries of the roots that are free at an interior point."""
    return [
        _Coordinate(k, i, j)
        for k, factor in enumerate(factors)
        for j in range(factor.n_effects)
        for i in range(j, factor.n_effects)
        if factor.correlated or i == j
    ]


def _root(D: np.ndarray) -> np.ndarray:
    """Return the lower triangular root of D, with a column of zeros where the pivot is zero."""
    D = np.asarray(D, float)
    root = np.zeros_like(D)
    for j in range(len(D)):
        pivot = D[j, j] - root[j, :j] @ root[j, :j]
        if pivot < -1e-9 * abs(D[j, j]):
            raise ValueError(f"D is not non-negative definite: {D.tolist()}")
        if pivot > 1e-10 * D[j, j]:  # below, rounding of D
            root[j, j] = np.sqrt(pivot)
            root[j + 1 :, j] = (D[j + 1 :, j] - root[j + 1 :, :j] @ root[j, :j]) / root[j, j]
    return root


def _expand(
    y: np.ndarray,
    X: np.ndarray,
    factors: Sequence[RandomFactor],
    roots: Blocks,
    coordinates: Sequence[_Coordinate],
    sigma: float,
    *,
    reml: bool,
) -> _Expansion:
    """Return the deviance at sigma, beta at its best value, with its exact derivatives.

    For W = sigma^2 V and P = W^-1 - W^-1 X C X' W^-1 the derivative of the deviance by the
    i-th quantity is tr(M W_i) - y'P W_i P y, with M = P for REML and M = W^-1 for ML.
    """
    V = _covariance(factors, [root @ root.T for root in roots])
    first, second = _differentiate(V, factors, roots, coordinates, sigma)
    inverse = np.linalg.inv(sigma**2 * V)
    information = X.T @ inverse @ X
    C = np.linalg.inv(information)
    half = inverse @ X @ C  # cov_beta changes by half' W_i half
    P = inverse - half @ X.T @ inverse
    weight = P if reml else inverse
    _, residual = _split(y, X)
    Py = P @ residual
    n_obs, n_params = X.shape
    deviance = -_log_determinant(inverse) + residual @ Py + n_obs * np.log(2 * np.pi)
    if reml:
        deviance += _log_determinant(information) - n_params * np.log(2 * np.pi)
    size = len(first)
    gradient = np.array([np.sum(weight * W) - Py @ W @ Py for W in first])
    weighted = [weight @ W for W in first]
    hessian = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            hessian[i, j] = (
                np.sum(weight * second[i][j])
                - np.sum(weighted[i] * weighted[j].T)
                + 2 * Py @ first[i] @ P @ first[j] @ Py
                - Py @ second[i][j] @ Py
            )
    return _Expansion(deviance, gradient, hessian, [half.T @ W @ half for W in first])


def _differentiate(
    V: np.ndarray,
    factors: Sequence[RandomFactor],
    roots: Blocks,
    coordinates: Sequence[_Coordinate],
    sigma: float,
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Return first and second derivatives of sigma^2 V by the coordinates, then by sigma."""
    units = []
    for c in coordinates:
        unit = np.zeros_like(roots[c.factor])
        unit[c.row, c.column] = 1.0
        units.append(unit)
    by_entry = []
    for c, unit in zip(coordinates, units, strict=True):
        change = unit @ roots[c.factor].T
        by_entry.append(_term(factors[c.factor], change + change.T))
    first = [sigma**2 * change for change in by_entry] + [2 * sigma * V]
    second = []
    for a, unit in zip(coordinates, units, strict=True):
        row = []
        for b, other in zip(coordinates, units, strict=True):
            if a.factor == b.factor:
                change = unit @ other.T
                row.append(sigma**2 * _term(factors[a.factor], change + change.T))
            else:
                row.append(np.zeros_like(V))
        second.append(row)
    for row, change in zip(second, by_entry, strict=True):
        row.append(2 * sigma * change)
    second.append([2 * sigma * change for change in by_entry] + [2 * V])
    return first, second
