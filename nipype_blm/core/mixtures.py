"""Tails of mixtures of chi-square distributions, as natural logarithms."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erfcx, gammaln

from nipype_blm.core.linalg import FloatArray


def log_mixture_sf(x: ArrayLike, dofs: Sequence[int]) -> FloatArray:
    """Return ln P(X >= x) of an equal mixture of chi-square distributions.

    Parameters
    ----------
    x : array
        Statistics; NaN gives NaN, and at 0 or below the tail is 1.
    dofs : sequence of int
        Degrees of freedom of the components; 0 is a point mass at 0.

    Notes
    -----
    The upper tail with k degrees of freedom is ``exp(-x / 2) S_k(x)``, with ``S_0 = 0`` for
    x > 0, ``S_1 = erfcx(sqrt(x / 2))``, ``S_2 = 1``, and from the recurrence of the incomplete
    gamma function ([1]_, eq. 8.8.6) ``S_{k+2} = S_k + (x / 2)^{k/2} / Gamma(k / 2 + 1)``.  All
    terms are positive, so nothing cancels; their logarithms are added, so nothing saturates.

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, https://dlmf.nist.gov.
    """
    x = np.asarray(x, float)
    # Any value will do at 0 and below, and at infinity, where the answers are 0 and -infinity.
    half = np.where((x > 0) & (x < np.inf), x, 1.0) / 2
    tails = np.stack([_log_scaled_sf(half, dof) for dof in dofs])
    log_sf = np.logaddexp.reduce(tails, axis=0) - np.log(len(dofs)) - half
    log_sf = np.where(x == np.inf, -np.inf, np.where(x > 0, log_sf, 0.0))
    return np.where(np.isnan(x), np.nan, log_sf)


def _log_scaled_sf(half: FloatArray, dof: int) -> FloatArray:
    """Return ln S_k(x) at x = 2 `half`, positive."""
    if dof == 0:
        return np.full(half.shape, -np.inf)
    total = np.asarray(np.log(erfcx(np.sqrt(half))) if dof % 2 else np.zeros(half.shape))
    for k in range(2 - dof % 2, dof, 2):
        term = k / 2 * np.log(half) - gammaln(k / 2 + 1)
        total = np.logaddexp(total, term)
    return total
