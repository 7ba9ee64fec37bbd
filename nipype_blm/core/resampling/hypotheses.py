"""The design of a contrast: the columns that it tests, and the others."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nipype_blm.core.linalg import DEPENDENT, ESTIMABLE, FloatArray

# Rows of L that add less than this to those before them, at unit length, are redundant: as
# little as six digits of 1/3 leave.
REDUNDANT = 1e-6


class Hypothesis(NamedTuple):
    """H0: L beta = 0 as "x has no effect": the columns of x and X0 span those of X.

    For one row of L, the effect of x has the sign of L beta.  All columns have unit length and
    are orthogonal.
    """

    x: FloatArray  # (n_obs, q)
    X0: FloatArray  # (n_obs, p0), possibly without columns

    @property
    def q(self) -> int:
        """Number of independent rows of L."""
        return int(self.x.shape[1])


def make_hypothesis(X: ArrayLike, L: ArrayLike) -> Hypothesis:
    """Return the design of a contrast.

    Parameters
    ----------
    X : array of shape (n_obs, n_params)
        Design, possibly of deficient rank.
    L : array of shape (n_params,) or (n_rows, n_params)
        Weights of the contrast; rows may depend on each other.

    Raises
    ------
    ValueError
        If all weights are 0, or X does not determine L beta.

    Notes
    -----
    With X = U S V', a = S V' beta and C = L V / S, L beta = C a.  x = U times a basis of the
    rows of C, and X0 = U times one of the null space of C.
    """
    X, L = np.asarray(X, float), np.atleast_2d(np.asarray(L, float))
    lengths = np.linalg.norm(X, axis=0)
    lengths[lengths == 0] = 1
    U, S, Vt = np.linalg.svd(X / lengths, full_matrices=False)
    rank = int(np.sum(max(DEPENDENT, 4 * np.sqrt(len(X)) * np.finfo(float).eps) * S[0] < S))
    U, S, V = U[:, :rank], S[:rank], Vt[:rank].T
    weights = L / lengths
    sizes = np.linalg.norm(weights, axis=1)
    if not sizes.any():
        raise ValueError("All weights of a contrast are 0.")
    weights = weights[sizes > 0] / sizes[sizes > 0, None]
    inside = weights @ V
    # Of unit length, so that the squares of the parts within and without the rows of X add to 1.
    if (np.linalg.norm(weights - inside @ V.T, axis=1) > ESTIMABLE).any():
        raise ValueError("X does not determine this contrast (not estimable).")
    C = inside / S
    C /= np.linalg.norm(C, axis=1, keepdims=True)
    _, sizes, basis = np.linalg.svd(C, full_matrices=True)
    q = int(np.sum(sizes > REDUNDANT * sizes[0]))
    tested = C[:1].T if q == 1 else basis[:q].T
    return Hypothesis(U @ tested, U @ basis[q:].T)
