"""Statistics with other degrees of freedom that are as unlikely: for who has one number for all."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.tails import compute_f_tails

_SMALLEST_LOG = -690.0  # exp of it is a number with all its digits
_STEPS = 60  # of bisection, in the logarithm


def convert_t(t: ArrayLike, dof: ArrayLike, to_dof: float) -> FloatArray:
    """Return T statistics with other degrees of freedom and the same p.

    Parameters
    ----------
    t, dof : arrays of one shape
        Statistics and their error degrees of freedom.
    to_dof : float
        Those of what is returned; a T that has them stays as it is.
    """
    t = np.asarray(t, float)
    return np.asarray(np.copysign(np.sqrt(convert_f(t**2, 1.0, dof, to_dof)), t))


def convert_f(f: ArrayLike, n_rows: float, dof: ArrayLike, to_dof: float) -> FloatArray:
    """Return F statistics with other error degrees of freedom and the same p.

    Parameters
    ----------
    f, dof : arrays of one shape
        Statistics and their error degrees of freedom.
    n_rows : float
        Degrees of freedom of the numerator, which stay.
    to_dof : float
        Those of the error of what is returned; an F that has them stays as it is.

    Notes
    -----
    From the smaller tail, so that digits of neither are lost.
    """
    f, dof = (np.array(each, float) for each in np.broadcast_arrays(f, dof))
    differs = (f > 0) & (f < 1e300) & (dof != to_dof)
    log_upper = compute_f_tails(f[differs], n_rows, dof[differs]).log_sf
    f[differs] = _find_f(log_upper, n_rows, to_dof)
    return f


def _find_f(log_upper: FloatArray, df1: float, df2: float) -> FloatArray:
    """Return the F with an upper tail, of which the natural logarithm is given."""
    a, b = df2 / 2, df1 / 2
    is_low = log_upper > np.log(0.5)
    y = betaincinv(b, a, -np.expm1(np.where(is_low, log_upper, -1)))
    x = betaincinv(a, b, np.exp(np.clip(log_upper, _SMALLEST_LOG, -0.5)))
    f = np.where(is_low, y / (1 - y), (1 - x) / x) * (a / b)
    is_far = log_upper < _SMALLEST_LOG
    if is_far.any():
        f[is_far] = _search_f(log_upper[is_far], df1, df2, float(f[is_far].min()))
    return np.asarray(f)


def _search_f(log_upper: FloatArray, df1: float, df2: float, least: float) -> FloatArray:
    """Return the F with an upper tail that is too small for a number."""
    low = np.full(log_upper.shape, np.log(least) - 1)
    high = np.full(log_upper.shape, 690.0)  # beyond 1e299 all is infinite
    for _ in range(_STEPS):
        middle = (low + high) / 2
        is_above = compute_f_tails(np.exp(middle), df1, df2).log_sf > log_upper
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    return np.asarray(np.exp(low))
