"""Corrected p-values: how often a resampled map reaches what was observed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nipype_blm.core.clusters.tail import Tail, fit_pareto
from nipype_blm.core.linalg import FloatArray

# What differs by less is a tie: the identity ties with itself, though z of flips is float32
# and is summed in another order than the z map, and TFCE is a cube of it.
TIE = 1e-5
# Where fewer resampled maps reach what was observed, their number is too uncertain.
FEW = 10


class ExtendedP(NamedTuple):
    """Corrected p-values, some of them from a fitted tail."""

    p: FloatArray
    from_tail: NDArray[np.bool_]


def corrected_p(observed: ArrayLike, null: ArrayLike, *, has_identity: bool = False) -> FloatArray:
    """Return p-values corrected for all features, by counting.

    Parameters
    ----------
    observed : array
        The spread of the observed map.  NaN gives NaN.
    null : array of shape (n,)
        Peaks of resampled maps.
    has_identity : bool
        Number 0 of `null` is the peak of the observed map, as in an enumeration of all
        resamplings.

    Returns
    -------
    p : array in the shape of `observed`
        ``(1 + #{null >= observed}) / (1 + n)`` over the resampled maps but the observed one.

    Notes
    -----
    Under the null hypothesis the observed map is one of those that are equally likely.  So it
    counts, once: as the 1 in both places.  Where `null` holds it, it is left out there; an
    enumeration of N resamplings gives ``#{null >= observed} / N``, and no p is below 1/N.  A
    random draw that happens to be the identity counts as any other draw.  Without the 1, p may
    be 0, and tests are too liberal [1]_.

    References
    ----------
    .. [1] B. Phipson and G. K. Smyth (2010). Permutation p-values should never be zero.
       Statistical Applications in Genetics and Molecular Biology 9, 39.
    """
    observed = np.asarray(observed, np.float64)
    peaks = _sort_peaks(null, has_identity)
    p = (1 + _count_reaching(observed, peaks)) / (1 + peaks.size)
    return np.where(np.isnan(observed), np.nan, p)


def fit_tail(null: ArrayLike, *, has_identity: bool = False) -> Tail | None:
    """Return a distribution fitted to the highest peaks of random resamplings; None if none fits.

    There is no point in one for an enumeration, whose p-values are exact.  Parameters are those
    of `corrected_p`; the method is described at `fit_pareto`.
    """
    return fit_pareto(_sort_peaks(null, has_identity))


def extend_p(
    observed: ArrayLike,
    null: ArrayLike,
    tail: Tail | None,
    *,
    has_identity: bool = False,
    least: float = 0.0,
) -> ExtendedP:
    """Return p-values by counting, but from a fitted tail where that is too coarse.

    The tail is asked where fewer than `FEW` of the resampled maps reach what was observed.
    Parameters are those of `corrected_p`, and what `fit_tail` gives; no p is below `least`, such
    as that of all resamplings that differ.
    """
    observed = np.asarray(observed, np.float64)
    p = corrected_p(observed, null, has_identity=has_identity)
    if tail is None:
        return ExtendedP(p, np.zeros(p.shape, bool))
    peaks = _sort_peaks(null, has_identity)
    is_few = _count_reaching(observed, peaks) < FEW
    from_tail = is_few & (observed >= tail.threshold)
    return ExtendedP(np.where(from_tail, np.maximum(tail.compute_p(observed), least), p), from_tail)


def _sort_peaks(null: ArrayLike, has_identity: bool) -> FloatArray:
    peaks = np.asarray(null, np.float64)
    if peaks.ndim != 1 or np.isnan(peaks).any():
        raise ValueError("null has one number for each resampled map, none of them NaN")
    return np.sort(peaks[1:] if has_identity else peaks)


def _count_reaching(observed: FloatArray, peaks: FloatArray) -> NDArray[np.intp]:
    """Return how many peaks are at least what was observed, but for rounding."""
    allowed = np.where(np.isfinite(observed), TIE * np.abs(observed), 0.0)
    return np.asarray(peaks.size - np.searchsorted(peaks, observed - allowed))
