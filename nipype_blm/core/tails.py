"""Tails of Student's t and of F as natural logarithms, and as normal deviates.

Everything is computed from the smaller tail in logarithms, so that nothing saturates: a T of
1e6 has a finite ``log p`` and a finite z.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri_exp

from nipype_blm.core._jit import inline, kernel
from nipype_blm.core.linalg import FloatArray

LOG_2 = math.log(2.0)
LOG_2PI = math.log(2.0 * math.pi)

# Infinite degrees of freedom: 1 + t^2 / df rounds to 1, and df^2 does not overflow.
MANY = 1e100

# Terms of lnGamma(x) - (x - 1/2) ln x + x - ln(2 pi) / 2 in 1 / x^2, highest power first; from
# x = STIRLING_START on, the next term is below 1e-15.
STIRLING = (1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)
STIRLING_START = 8.0


class Tails(NamedTuple):
    """Upper tail of a statistic, in the shape of the broadcast arguments."""

    log_sf: FloatArray  # natural logarithm of the upper tail
    z: FloatArray  # normal deviate with the same upper tail


def compute_t_tails(t: ArrayLike, df: ArrayLike) -> Tails:
    """Compute ln P(T > t) and the normal deviate of that tail, in one pass.

    Parameters
    ----------
    t : array
        T statistics.  NaN gives NaN; ``|t|`` from 1e150 on counts as infinite.
    df : array
        Degrees of freedom, positive, not necessarily whole, possibly infinite; otherwise NaN.

    Returns
    -------
    Tails

    Notes
    -----
    T^2 being distributed as F(1, df), ``P(T > t) = P(F > t^2) / 2`` for t >= 0; for t < 0 it
    is the complement, and z changes sign.  For two-sided tests take ``log_sf`` of ``|t|``,
    add ln 2, and give z the sign of t.  Equations: `compute_f_tails`.
    """
    t, df = _broadcast(t, df)
    log_sf, tail = np.empty(t.shape), np.empty(t.shape)
    _compute_t_tails(t.ravel(), df.ravel(), log_sf.reshape(-1), tail.reshape(-1))
    return Tails(log_sf, _tail_to_z(tail))


def compute_f_tails(f: ArrayLike, df1: ArrayLike, df2: ArrayLike) -> Tails:
    """Compute ln P(F > f) and the normal deviate of that tail, in one pass.

    Parameters
    ----------
    f : array
        F statistics.  NaN gives NaN; below 0 the tail is 1; from 1e300 on it is 0.
    df1, df2 : array
        Degrees of freedom of numerator and denominator, positive, not necessarily whole; df2
        possibly infinite; otherwise NaN.

    Returns
    -------
    Tails

    Notes
    -----
    With a = df2 / 2, b = df1 / 2 and x = a / (a + b f) = 1 - y, the upper tail is the incomplete
    beta function ``I_x(a, b)`` ([1]_, eq. 26.6.2) and the lower tail ``I_y(b, a)``.  One of them
    is ``x^a y^b / B(a, b)`` over the even part of a continued fraction ([2]_, eq. 8.17.22; BFRAC
    of [3]_), the one for which it converges quickly.  The numerator is written around f = 1, so
    that nothing cancels for many degrees of freedom::

        ln(x^a y^b / B) = ln(x1^a y1^b / B) + b ln f - (a + b) ln(1 + b (f - 1) / (a + b))

    x1 and y1 being x and y at f = 1; the first term is ``ln(a b / (2 pi (a + b))) / 2`` and
    remainders of Stirling's series.  z comes from the smaller tail, by
    `scipy.special.ndtri_exp`, which takes its logarithm.

    For df1 up to 50, df2 from 0.5 to 1e7 and f up to 1e12, relative errors are below 1e-12 for
    the logarithm (absolute 1e-13 near 0) and 1e-11 for z (absolute 1e-12 near 0).

    References
    ----------
    .. [1] M. Abramowitz and I. A. Stegun (1964). Handbook of Mathematical Functions.
    .. [2] NIST Digital Library of Mathematical Functions, https://dlmf.nist.gov.
    .. [3] A. R. DiDonato and A. H. Morris (1992). Algorithm 708: Significant digit computation
       of the incomplete beta function ratios. ACM Transactions on Mathematical Software 18,
       360-373.
    """
    f, df1, df2 = _broadcast(f, df1, df2)
    log_sf, tail = np.empty(f.shape), np.empty(f.shape)
    out = log_sf.reshape(-1), tail.reshape(-1)
    _compute_f_tails(f.ravel(), df1.ravel(), df2.ravel(), *out)
    return Tails(log_sf, _tail_to_z(tail))


def compute_p(log_p: FloatArray) -> FloatArray:
    """Return p of its natural logarithm; 0 where it is too small for a number."""
    return np.asarray(np.exp(log_p))


def compute_log10_p(log_p: FloatArray, limit: float = math.inf) -> FloatArray:
    """Return -log10 p of the natural logarithm of p.

    Parameters
    ----------
    log_p : array
    limit : float
        Infinite values become this, or minus this; its own sign does not matter.
    """
    values = log_p / -np.log(10)
    return np.asarray(np.where(np.isinf(values), np.copysign(limit, values), values))


def _broadcast(*arrays: ArrayLike) -> tuple[FloatArray, ...]:
    """Return contiguous, writable float arrays of one shape: the only type that is compiled for."""
    floats = np.broadcast_arrays(*(np.asarray(array, dtype=float) for array in arrays))
    return tuple(np.array(array, order="C") for array in floats)


def _tail_to_z(tail: FloatArray) -> FloatArray:
    """Return the normal deviate of a tail: its logarithm, given the sign of the deviate."""
    return np.asarray(np.copysign(ndtri_exp(-np.abs(tail)), tail))


@inline
def _horner(coefficients: Any, x: float) -> float:
    """Evaluate a polynomial, highest power first."""
    result = 0.0
    for c in coefficients:
        result = result * x + c
    return result


@inline
def _stirling_remainder(x: float) -> float:
    """Return lnGamma(x) - ((x - 1/2) ln x - x + ln(2 pi) / 2), by recurrence for small x."""
    up, product = x, 1.0
    while up < STIRLING_START:
        product *= up
        up += 1.0
    rest = _horner(STIRLING, 1.0 / (up * up)) / up
    if up == x:
        return rest
    return rest + (up - 0.5) * math.log(up) - (x - 0.5) * math.log(x) - (up - x) - math.log(product)


@inline
def _log_scale(a: float, b: float) -> float:
    """Return ln(x^a y^b / B(a, b)) at x = a / (a + b) = 1 - y."""
    remainders = _stirling_remainder(a + b) - _stirling_remainder(a) - _stirling_remainder(b)
    return 0.5 * (math.log(a / (a + b) * b) - LOG_2PI) + remainders


@inline
def _beta_fraction(a: float, b: float, x: float, y: float) -> float:
    """Return x^a y^b / (B(a, b) I_x(a, b)), quickly if x (a + b + 2) <= a + 1."""
    # Steed's sum of b0 + a1 / (b1 + a2 / (b2 + ...)): `inverse` is 1 / (bm + am / (... + a2 / b1)).
    step = a * y - b * x + 1.0
    c = 1.0 / (a + 1.0)
    total = a * step * c
    m, inverse, change = 1.0, 0.0, 1.0
    while m < 10000.0:
        numerator = (a + m - 1.0) * c * ((a + b + m - 1.0) * c) * (m * (b - m)) * (x * x)
        denominator = m + m * (b - m) * x * c
        c = 1.0 / (a + 2.0 * m + 1.0)
        denominator += (a + m) * c * (step + m * (2.0 - x))
        inverse = 1.0 / (denominator + numerator * inverse)
        change *= numerator * inverse if m == 1.0 else denominator * inverse - 1.0
        total += change
        if abs(change) <= 1e-15 * abs(total):
            break
        m += 1.0
    return total


@inline
def _log_tails(f: float, a: float, b: float, scale: float) -> Any:
    """Return the logarithms of the lower and the upper tail of F(2 b, 2 a)."""
    if f <= 0.0:
        return -np.inf, 0.0
    if f >= 1e300:
        return 0.0, -np.inf
    ratio = b / a * f
    x = 1.0 / (1.0 + ratio)
    y = ratio * x
    # On its own side of this bound, each tail has a fraction with positive denominators only.
    is_lower = y * (a + b + 2.0) < b + 1.0
    p, q, u, v = (b, a, y, x) if is_lower else (a, b, x, y)
    offset = b * (f - 1.0) / (a + b)
    log_ratio = math.log1p(offset) if abs(offset) < 0.5 else math.log((a + b * f) / (a + b))
    log_tail = scale + b * math.log(f) - (a + b) * log_ratio
    log_tail -= math.log(_beta_fraction(p, q, u, v))
    log_other = math.log1p(-math.exp(log_tail))
    if is_lower:
        return log_tail, log_other
    return log_other, log_tail


@kernel
def _compute_t_tails(t: Any, df: Any, log_sf: Any, tail: Any) -> None:
    """Write ln P(T > t), and ln P(T > |t|) with the sign of t."""
    a, scale = -1.0, np.nan
    for i in range(t.size):
        if np.isnan(t[i]) or not df[i] > 0.0:
            log_sf[i] = tail[i] = np.nan
            continue
        if 0.5 * df[i] != a:
            a = 0.5 * min(df[i], MANY)
            scale = _log_scale(a, 0.5)
        log_upper = _log_tails(t[i] * t[i], a, 0.5, scale)[1] - LOG_2
        tail[i] = math.copysign(log_upper, t[i])
        log_sf[i] = log_upper if t[i] >= 0.0 else math.log1p(-math.exp(log_upper))


@kernel
def _compute_f_tails(f: Any, df1: Any, df2: Any, log_sf: Any, tail: Any) -> None:
    """Write ln P(F > f), and the logarithm of the smaller tail, positive if it is the upper."""
    a, b, scale = -1.0, -1.0, np.nan
    for i in range(f.size):
        if np.isnan(f[i]) or not (df1[i] > 0.0 and df2[i] > 0.0):
            log_sf[i] = tail[i] = np.nan
            continue
        if 0.5 * df2[i] != a or 0.5 * df1[i] != b:
            a, b = 0.5 * min(df2[i], MANY), 0.5 * df1[i]
            scale = _log_scale(a, b)
        log_lower, log_upper = _log_tails(f[i], a, b, scale)
        log_sf[i] = log_upper
        tail[i] = -log_upper if log_upper < log_lower else log_lower
