"""What a mixed model is fitted with, and what comes out."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray

METHODS = ("exact", "pSFS", "SFS", "pFS", "FS")


class MixedOptions(NamedTuple):
    """How a mixed model is estimated."""

    reml: bool = True  # the restricted likelihood instead of the likelihood
    method: str = "exact"  # Newton steps to a certified optimum, or one of Fisher's scorings
    tol: float = 1e-6  # gain in log-likelihood below which iterations end
    maxnit: int = 10000  # most evaluations of the likelihood from one starting value
    safe_mode: bool = True  # drop voxels with no more images than random effects
    n_starts: int | None = None  # starting values tried; by default 1, or 3 where levels are few


class MixedEstimates(NamedTuple):
    """Estimates of a mixed model at a block of voxels.

    y = X beta + Z b + e, e ~ N(0, sigma2 I), b ~ N(0, sigma2 D).  `status` and `n_obs` cover
    the block; everything else only its fitted voxels.  A symmetric matrix is packed: its
    lower triangle row by row.
    """

    status: NDArray[np.uint8]  # (n_voxels,), VoxelStatus
    n_obs: NDArray[np.int32]  # (n_voxels,)
    rank: NDArray[np.int32]  # (n_fitted,), of the rows of X present
    beta: FloatArray  # (n_params, n_fitted), the shortest of all solutions
    estimable: NDArray[np.bool_]  # (n_params, n_fitted), or no row: is the column by itself?
    sigma2: FloatArray  # (n_fitted,), residual variance
    D: FloatArray  # (n_entries, n_fitted), vech(D_k) column by column, factor by factor
    llh: FloatArray  # (n_fitted,), maximised log-likelihood, or the restricted one
    resms: FloatArray  # (n_fitted,), |y - X beta|^2 / (n_obs - rank)
    nit: NDArray[np.int32]  # (n_fitted,), evaluations of the likelihood
    # Covariance of gamma = R beta (X = QR), packed.
    covariance: FloatArray  # (packed, n_fitted)
    # Change of `covariance` by one standard error of each of several independent combinations
    # of the variance parameters, sigma2 by itself left out; packed.
    spread: FloatArray  # (n_spread, packed, n_fitted)
    slot: NDArray[np.int32]  # (n_fitted,), row of `factor`; -1 where X has full rank
    factor: FloatArray  # (n_slots, packed), Cholesky factor of Q'Q of the rows present
    cov: FloatArray  # (packed, n_fitted), covariance of beta; no row unless asked for
