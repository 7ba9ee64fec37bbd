"""Variances of random effects in the units of the images, and their shares."""

from collections.abc import Sequence

import numpy as np

from nipype_blm.core.linalg import FloatArray


def compute_component(sigma2: FloatArray, D: FloatArray) -> FloatArray:
    """Return a covariance of random effects, sigma2 D.

    Parameters
    ----------
    sigma2 : array of shape (n_fitted,)
        Residual variance.
    D : array of shape (n_fitted,)
        One entry of D, the covariances relative to sigma2.
    """
    return sigma2 * D


def compute_intraclass_correlation(
    D: Sequence[FloatArray], heights: Sequence[float], number: int
) -> FloatArray:
    """Return the share of one factor's intercepts in the variance of intercepts and residuals.

    Parameters
    ----------
    D : sequence of arrays of shape (n_fitted,)
        The variance of the intercepts of each factor that has them, relative to sigma2.
    heights : sequence of float
        The value of each intercept in Z.
    number : int
        Which of the factors.

    Notes
    -----
    ``c_k^2 D_k / (1 + sum_j c_j^2 D_j)``, c being the heights; variances of slopes do not count.
    """
    variances = [c**2 * values for values, c in zip(D, heights, strict=True)]
    return np.asarray(variances[number] / (1 + sum(variances)))
