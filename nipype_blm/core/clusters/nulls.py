"""Corrected p-values: how often a resampled map reaches what was observed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nipype_blm.core.clusters.tails import Tail
from nipype_blm.core.linalg import FloatArray

# What differs by less is a tie: the identity ties with itself, though z of flips is float32
# and is summed in another order than the z map, and TFCE is a cube of it.
TIE = 1e-5
# p from counting rests on so many resampled maps at least, or the tail is asked.
FEW = 10


def corrected_p(
    observed: ArrayLike, null: ArrayLike, *, has_identity: bool = False
) -> FloatArray:
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
        ``(1 + #{null >= observed}) / (1 + n)``, n being the resampled maps but the observed one.

    Notes
    -----
    The observed map is one of those that the null hypothesis makes equally likely, so that it
    counts, once: as the 1 in both places.  Where `null` holds it, it is left out there; an
    enumeration of N resamplings gives ``#{null >= observed} / N``, and no p is below 1/N.  A
    random draw that happens to be the identity counts as any other draw.  Without the 1, p may
    be 0 and tests are too liberal [1]_.

    References
    ----------
    .. [1] B. Phipson and G. K. Smyth (2010). Permutation p-values should never be zero.
       Statistical Applications in Genetics and Molecular Biology 9, 39.
    """
    observed = np.asarray(observed, np.float64)
    peaks = _sort_peaks(null, has_identity)
    p = (1 + _count_reaching(observed, peaks)) / (1 + peaks.size)
    return np.where(np.isnan(observed), np.nan, p)


class ExtendedP(NamedTuple):
    """Corrected p-values, some of them from a fitted tail."""

    p: FloatArray
    from_tail: NDArray[np.bool_]


def extend_p(
    observed: ArrayLike, null: ArrayLike, tail: Tail | None, *, has_identity: bool = False
) -> ExtendedP:
    """Return p-values by counting, but where that is too coarse, of a tail fitted to `null`.

    The tail is asked where fewer than `FEW` of the resampled maps reach what was observed.
    Parameters are those of `corrected_p`.
    """
    observed = np.asarray(observed, np.float64)
    p = corrected_p(observed, null, has_identity=has_identity)
    if tail is None:
        return ExtendedP(p, np.zeros(p.shape, bool))
    few = _count_reaching(observed, _sort_peaks(null, has_identity)) < FEW
    from_tail = few & (observed > tail.threshold)
    return ExtendedP(np.where(from_tail, tail.compute_p(observed), p), from_tail)


def _sort_peaks(null: ArrayLike, has_identity: bool) -> FloatArray:
    peaks = np.asarray(null, np.float64)
    if peaks.ndim != 1 or np.isnan(peaks).any():
        raise ValueError("null has one number for each resampled map, none of them NaN")
    return np.sort(peaks[1:] if has_identity else peaks)


def _count_reaching(observed: FloatArray, peaks: FloatArray) -> NDArray[np.intp]:
    """Return how many peaks are at least what was observed, but for rounding."""
    return peaks.size - np.searchsorted(peaks, observed - TIE * np.abs(observed))
