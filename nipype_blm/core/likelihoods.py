"""Log-likelihoods of two models, rebuilt from rounded estimates, and their comparison."""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.tails import LOG_2PI

# Relative error of a residual variance as fits compute it, by this or that formula; what it
# makes of the log-likelihood is still far below what changes a test.
_COMPUTED = 1e-10


class Likelihood(NamedTuple):
    """A quantity at every voxel, and how much of it the rounding of maps may have changed."""

    value: FloatArray  # (n_voxels,)
    error: FloatArray  # (n_voxels,), a bound, first order in the rounding


def unit_roundoff(dtype: DTypeLike) -> float:
    """Return the largest relative error of a number rounded to a type of float."""
    return float(np.finfo(dtype).eps) / 2


def read_likelihood(llh: FloatArray, n_obs: FloatArray, dtype: DTypeLike) -> Likelihood:
    """Return a log-likelihood of `n_obs` observations that was rounded to `dtype`."""
    return Likelihood(llh, np.abs(llh) * unit_roundoff(dtype) + 0.5 * n_obs * _COMPUTED)


def compute_ml(
    resms: FloatArray, n_obs: FloatArray, dof: FloatArray, dtype: DTypeLike
) -> Likelihood:
    """Return the log-likelihood of least squares at its maximum.

    Parameters
    ----------
    resms : array of shape (n_voxels,)
        Residual mean squares, RSS / dof, rounded to `dtype`.
    dof : array of shape (n_voxels,)
        n_obs less the rank of X.

    Notes
    -----
    ``-n / 2 (ln(RSS / n) + 1 + ln(2 pi))``.  From resms it has more digits than a rounded
    log-likelihood, of which the rounding grows with its size.
    """
    variance = resms * dof / n_obs
    value = -0.5 * n_obs * (np.log(variance) + 1 + LOG_2PI)
    return Likelihood(value, 0.5 * n_obs * (unit_roundoff(dtype) + _COMPUTED))


def compute_reml(
    resms: FloatArray,
    n_obs: FloatArray,
    n_params: int,
    log_det: Likelihood,
    dtype: DTypeLike,
) -> Likelihood:
    """Return the restricted log-likelihood of least squares at its maximum.

    Parameters
    ----------
    resms : array of shape (n_voxels,)
        Residual mean squares, rounded to `dtype`; they are the REML estimates of sigma2.
    log_det : Likelihood
        ln|X_v'X_v| of the rows of X present at each voxel.

    Notes
    -----
    ``-1/2 {(n - p) (ln resms + 1 + ln(2 pi)) + ln|X_v'X_v|}``: the restricted likelihood of a
    mixed model, as lme4 defines it, without random effects.
    """
    dof = n_obs - n_params
    value = -0.5 * (dof * (np.log(resms) + 1 + LOG_2PI) + log_det.value)
    error = 0.5 * (dof * (unit_roundoff(dtype) + _COMPUTED) + log_det.error)
    return Likelihood(value, error)


def log_det_of_design(X: FloatArray) -> float:
    """Return ln|X'X| of a design of full column rank."""
    return float(2 * np.log(np.abs(np.diag(np.linalg.qr(X, mode="r")))).sum())


def log_det_of_covariance(cov: FloatArray, resms: FloatArray, dtype: DTypeLike) -> Likelihood:
    """Return ln|X_v'X_v|, given the covariance resms (X_v'X_v)^-1 of the estimates.

    Parameters
    ----------
    cov : array of shape (n_voxels, n_params, n_params)
        Rounded to `dtype`, as `resms` is.  What is not positive definite gives NaN, with an
        infinite error.

    Notes
    -----
    ``p ln resms - ln|cov|``.  Rounding changes ``ln|cov|`` by ``tr(cov^-1 dcov)``, which is at
    most ``u sum_ij |cov^-1|_ij |cov|_ij``, u being the unit roundoff: little for nearly
    orthogonal columns of X, all digits for nearly collinear ones.
    """
    n_params = cov.shape[-1]
    variances = np.einsum("vii->vi", cov)
    usable = np.isfinite(cov).all(axis=(1, 2)) & (variances > 0).all(axis=1)
    scale = np.sqrt(np.where(usable[:, None], variances, 1.0))
    identity = np.eye(n_params)
    correlation = np.where(
        usable[:, None, None], cov / (scale[:, :, None] * scale[:, None, :]), identity
    )
    values, vectors = np.linalg.eigh(correlation)
    usable &= values[:, 0] > 0
    values = np.where(usable[:, None], values, 1.0)
    inverse = (vectors / values[:, None, :]) @ vectors.swapaxes(1, 2)
    sensitivity = np.abs(inverse * correlation).sum(axis=(1, 2))
    log_det = np.log(values).sum(axis=1) + 2 * np.log(scale).sum(axis=1)
    error = unit_roundoff(dtype) * (n_params + sensitivity)
    return Likelihood(
        np.where(usable, n_params * np.log(resms) - log_det, np.nan),
        np.where(usable, error, np.inf),
    )


def compute_chi2(smaller: Likelihood, larger: Likelihood) -> Likelihood:
    """Return twice the gain in log-likelihood, 0 where rounding could have made it."""
    gain = 2 * (larger.value - smaller.value)
    error = 2 * (larger.error + smaller.error)
    return Likelihood(np.where(gain <= error, 0.0, gain), error)
