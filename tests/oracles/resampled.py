"""Statistics of resampled data at one voxel, by dense matrices and `numpy.linalg.lstsq`."""

from collections.abc import Sequence

import numpy as np

from nipype_blm.core.factors import RandomFactor


def explain(y: np.ndarray, x: np.ndarray, X0: np.ndarray) -> float:
    """Return the share of what X0 leaves of y that x explains, with the sign of its effect."""
    X = np.column_stack([x, X0])
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    null = y - X0 @ np.linalg.lstsq(X0, y, rcond=None)[0] if X0.size else y
    residual = y - X @ beta
    share = 1 - residual @ residual / (null @ null)
    return float(share * np.sign(beta[0]) if x.shape[1] == 1 else share)


def flip_scores(
    y: np.ndarray,
    x: np.ndarray,
    X0: np.ndarray,
    signs: np.ndarray,
    V: np.ndarray | None = None,
) -> float:
    """Return the share of the regressor f o xt; `signs` has one for each image, y may be NaN."""
    on = ~np.isnan(y)
    V = np.eye(y.size) if V is None else V
    root = np.linalg.inv(np.linalg.cholesky(V[np.ix_(on, on)]))
    y, x, X0 = root @ y[on], x[on], X0[on]
    effect = np.linalg.lstsq(root @ X0, root @ x, rcond=None)[0] if X0.size else np.zeros((0, 1))
    flipped = signs[on, None] * (x - X0 @ effect)
    return explain(y, root @ flipped, root @ X0)


def flip_data(y: np.ndarray, x: np.ndarray, X0: np.ndarray, signs: np.ndarray) -> float:
    """Return the share where signs of the residuals from X0 are flipped."""
    on = ~np.isnan(y)
    null = y[on] - X0[on] @ np.linalg.lstsq(X0[on], y[on], rcond=None)[0]
    return explain(signs[on] * null, x[on], X0[on])


def permute(y: np.ndarray, x: np.ndarray, X0: np.ndarray, order: np.ndarray) -> float:
    """Return the share where image i, if present, is given row order[i] of x and X0."""
    on = ~np.isnan(y)
    null = y[on] - X0[on] @ np.linalg.lstsq(X0[on], y[on], rcond=None)[0]
    return explain(null, x[order][on], X0[order][on])


def make_covariance(factors: Sequence[RandomFactor], D: Sequence[np.ndarray]) -> np.ndarray:
    """Return I + Z D Z' of one voxel."""
    n_obs = factors[0].level.size
    V = np.eye(n_obs)
    for factor, block in zip(factors, D, strict=True):
        same = factor.level[:, None] == factor.level
        V += same * (factor.Z @ block @ factor.Z.T)
    return V
