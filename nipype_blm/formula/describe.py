"""What is told of a design: how far its columns follow from each other."""

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.model.request import Table

_NEGLIGIBLE = 1e-8  # of unit vectors


def find_vif(X: Table) -> list[float]:
    """Return the variance inflation factor of each column of X but the constant ones.

    It is 1 / (1 - R²), with R² of the column given all others.  R² is around the mean, if the
    others span a constant: as an intercept, or as columns for all levels.

    Returns
    -------
    list of float
        In the order of the columns; inf where one follows from the others.
    """
    values = np.asarray(X.values, float)
    is_constant = (values == values[:1]).all(axis=0)
    kept = values[:, ~is_constant]
    if not kept.shape[1]:
        return []
    means = kept.mean(axis=0)
    if is_constant.any():
        kept = kept - means
    kept = kept / np.abs(kept).max(axis=0)
    sizes = np.linalg.norm(kept, axis=0)
    units = kept / sizes
    P, s, Vt = np.linalg.svd(units, full_matrices=False)
    spanned = s > s[0] * max(units.shape) * np.finfo(float).eps
    P, V, null = P[:, spanned], Vt[spanned].T / s[spanned], Vt[~spanned]
    factors = np.sum(V**2, axis=1)
    if not is_constant.any():
        factors *= _find_shares(units, P, V)
    follows = np.linalg.norm(null, axis=0) > _NEGLIGIBLE
    if len(units) < units.shape[1]:
        follows[:] = True  # more columns than rows
    return [float(each) for each in np.where(follows, np.inf, factors)]


def _find_shares(units: FloatArray, P: FloatArray, V: FloatArray) -> FloatArray:
    """Return the share around the mean of columns whose others span a constant, else 1."""
    ones = np.full(len(units), len(units) ** -0.5)
    is_spanned = np.linalg.norm(ones - P @ (P.T @ ones)) < _NEGLIGIBLE
    is_needed = np.abs(V @ (P.T @ ones)) > _NEGLIGIBLE  # the column itself, for the constant
    around_mean = 1 - (units.T @ ones) ** 2
    return np.where(is_spanned & ~is_needed, around_mean, 1.0)
