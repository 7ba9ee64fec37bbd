"""Confidence limits of standardised effects, from noncentral t and F."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ncfdtr, nctdtr, ndtri

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import ONE_THREAD, Threads

LEVEL = 0.95  # of two-sided limits
_TOLERANCE = 1e-6  # of roots, relative to them and to one standard error
_MOST_STEPS = 100  # bisection alone ends sooner
_SMALLEST_P = 1e-300
# Statistics above these have limits in proportion to them, to 0.1 %; distributions lose digits.
_LARGEST_T = 1e3
_LARGEST_F = 1e6


class Limits(NamedTuple):
    """A standardised effect at each voxel, and the limits of its confidence interval."""

    value: FloatArray  # (n_voxels,)
    lower: FloatArray  # (n_voxels,)
    upper: FloatArray  # (n_voxels,)


def compute_cohens_d(
    T: FloatArray, dof: FloatArray, variance: FloatArray, threads: Threads = ONE_THREAD
) -> Limits:
    """Return Cohen's d of a T contrast: the effect in residual standard deviations.

    Parameters
    ----------
    T, dof : arrays of shape (n_voxels,)
    variance : array of shape (n_voxels,)
        Of the effect, over the residual variance: c = l'(X'X)^-1 l.
    threads : Threads

    Notes
    -----
    d = l'beta / sigma = T sqrt(c).  T has a noncentral t distribution with delta = d / sqrt(c),
    here the true d; limits are the delta for which T is the upper, or the lower, 2.5 % point
    (M. Smithson, Confidence Intervals, 2003, chapter 4).
    """
    height = np.sqrt(variance)
    limits = np.empty((2, T.size))
    size = np.abs(T)

    def solve(start: int, stop: int) -> None:
        part = slice(start, stop)
        for row, p in zip(limits, _tails(), strict=True):
            row[part] = find_noncentral_t(size[part], dof[part], p)

    threads.split(solve, T.size)
    lower, upper = limits
    is_negative = T < 0
    flipped = np.where(is_negative, -upper, lower), np.where(is_negative, -lower, upper)
    return Limits(T * height, *(each * height for each in flipped))


def compute_partial_r2_limits(
    F: FloatArray, q: int, dof: FloatArray, n_obs: FloatArray, threads: Threads = ONE_THREAD
) -> Limits:
    """Return the partial R2 of a contrast, and limits of that of the population.

    Parameters
    ----------
    F, dof : arrays of shape (n_voxels,)
        Of a T contrast F = T^2.
    q : int
        Rows of the contrast.
    n_obs : array of shape (n_voxels,)
    threads : Threads

    Notes
    -----
    F has a noncentral F distribution with lambda = n R2 / (1 - R2) for the R2 of the population,
    with X fixed (J. H. Steiger, Psychological Methods, 2004, 9:164).  The estimate
    q F / (q F + dof) is biased upwards, and may lie above its upper limit where F is small.
    """
    limits = np.empty((2, F.size))

    def solve(start: int, stop: int) -> None:
        part = slice(start, stop)
        for row, p in zip(limits, _tails(), strict=True):
            row[part] = find_noncentral_f(F[part], q, dof[part], p)

    threads.split(solve, F.size)
    explained = q * F
    return Limits(explained / (explained + dof), *(each / (each + n_obs) for each in limits))


def _tails() -> tuple[float, float]:
    """Return P(statistic <= observed) at the lower and at the upper limit."""
    return (1 + LEVEL) / 2, (1 - LEVEL) / 2


def find_noncentral_t(t: FloatArray, dof: FloatArray, p: float) -> FloatArray:
    """Return delta for which P(noncentral t <= t) is p, for t >= 0."""
    z = float(ndtri(p))
    beyond = np.maximum(t / _LARGEST_T, 1.0)
    t = t / beyond
    # Nearly normal: R. A. Johnson and B. L. Welch, Biometrika, 1940, 31:362.
    scale = np.sqrt(1 + t**2 / (2 * dof))
    start = t * (1 - 1 / (4 * dof)) - z * scale

    def excess(delta: FloatArray, chosen: NDArray[np.intp]) -> FloatArray:
        return _to_z(nctdtr(dof[chosen], delta, t[chosen])) - z

    low, high = start - 0.1 * scale, start + 0.1 * scale
    return _find_roots(excess, low, high, scale) * beyond


def find_noncentral_f(F: FloatArray, q: int, dof: FloatArray, p: float) -> FloatArray:
    """Return lambda for which P(noncentral F <= F) is p; 0 where it is less at 0 already."""
    z = float(ndtri(p))
    beyond = np.maximum(F / _LARGEST_F, 1.0)
    F = F / beyond
    out = np.zeros(F.size)
    chosen = np.flatnonzero(_to_z(ncfdtr(float(q), dof, 0.0, F)) > z)
    F, dof = F[chosen], dof[chosen]

    # In the root of lambda, in which the normal deviate is nearly linear.
    def excess(root: FloatArray, rows: NDArray[np.intp]) -> FloatArray:
        return _to_z(ncfdtr(float(q), dof[rows], root**2, F[rows])) - z

    scale = np.sqrt(1 + q * F / (2 * dof))
    low = np.zeros(F.size)
    high = np.sqrt(q * F) + (abs(z) + 0.1) * scale
    out[chosen] = _find_roots(excess, low, high, scale, is_bounded=True) ** 2
    return out * beyond


def _to_z(p: FloatArray) -> FloatArray:
    return np.asarray(ndtri(np.clip(p, _SMALLEST_P, 1 - 2.0**-53)))


def _find_roots(
    excess: Callable[[FloatArray, NDArray[np.intp]], FloatArray],
    low: FloatArray,
    high: FloatArray,
    scale: FloatArray,
    is_bounded: bool = False,
) -> FloatArray:
    """Return where decreasing functions are 0, by false position.

    Parameters
    ----------
    excess : callable
        Of values, and of which functions they are arguments.
    low, high : arrays of shape (n,)
        Where to begin; moved outwards until the root lies between them.
    scale : array of shape (n,)
        By how much they are moved, and what is small.
    is_bounded : bool
        Whether `low` is below the root.

    Notes
    -----
    The Illinois variant: where one end stays, its value counts half (M. Dowell and P. Jarratt,
    BIT, 1971, 11:168).
    """
    everywhere = np.arange(low.size)
    f_low = _widen(excess, low, -scale, everywhere[: 0 if is_bounded else None])
    f_high = _widen(excess, high, scale, everywhere)
    if is_bounded:
        f_low = excess(low, everywhere)
    out = 0.5 * (low + high)
    active = everywhere[high > low]
    last = np.zeros(low.size, np.int8)
    for _ in range(_MOST_STEPS):
        if not active.size:
            break
        a, b, fa, fb = low[active], high[active], f_low[active], f_high[active]
        x = (a * fb - b * fa) / (fb - fa)
        x = np.where((x > a) & (x < b), x, 0.5 * (a + b))
        f = excess(x, active)
        moved = np.abs(x - out[active])
        out[active] = x
        side = np.where(f > 0, 1, -1).astype(np.int8)
        halved = np.where(side == last[active], 0.5, 1.0)
        is_low = side > 0
        low[active], high[active] = np.where(is_low, x, a), np.where(is_low, b, x)
        f_low[active] = np.where(is_low, f, fa * halved)
        f_high[active] = np.where(is_low, fb * halved, f)
        last[active] = side
        limit = _TOLERANCE * (np.abs(x) + scale[active])
        active = active[(moved > limit) & (high[active] - low[active] > limit)]
    return out


def _widen(
    excess: Callable[[FloatArray, NDArray[np.intp]], FloatArray],
    ends: FloatArray,
    step: FloatArray,
    active: NDArray[np.intp],
) -> FloatArray:
    """Move ends outwards until their functions have the sign that they should; return these."""
    found = np.zeros(ends.size)
    for power in range(_MOST_STEPS):
        if not active.size:
            break
        found[active] = excess(ends[active], active)
        active = active[found[active] * step[active] > 0]
        ends[active] += 2.0**power * step[active]
    return found
