"""The tail of a null distribution beyond what counting resolves: a generalised Pareto law."""

from typing import NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray

# Shares of the peaks that are fitted, the largest first, and the fewest of them.
_SHARES = (0.25, 0.2, 0.15, 0.1, 0.075, 0.05)
_FEWEST = 50
# A shape is drawn to 0 as if so many peaks more had said that: of 500 resamplings, 125 are fitted,
# and their own shape has an error of 0.1, with which many tails end too early.
_PRIOR = 100
# The fit is rejected if the statistic of fewer than a twentieth of simulated samples is larger.
_N_SIMULATED = 199
_LEVEL = 0.05
# n peaks say little of what happens once in 100 n maps.
_REACH = 100
_TINY = 1e-300
# A shape that is as good as 0, and the distance from the end of a tail that is none.
_NEARLY_0 = 1e-9
_TO_END = 1e-15 - 1


class Tail(NamedTuple):
    """P(peak >= x) for x from a threshold on."""

    threshold: float
    share: float  # of the resampled maps whose peaks reach it
    shape: float  # 0 for an exponential tail; one below 0 has an end
    scale: float
    n_fitted: int  # peaks from the threshold on
    least: float  # no p is given below

    def compute_p(self, observed: FloatArray) -> FloatArray:
        """Return p-values of what reaches the threshold."""
        excess = np.maximum(observed - self.threshold, 0.0)
        p = self.share * np.exp(_log_sf(excess, self.shape, self.scale))
        return np.maximum(p, self.least)


def fit_pareto(peaks: FloatArray) -> Tail | None:
    """Return the generalised Pareto law that fits the highest peaks; None if none fits.

    Parameters
    ----------
    peaks : array of shape (n,)
        Of random resamplings, ascending.

    Notes
    -----
    Beyond a high threshold the excess x of whatever distribution nearly has the upper tail
    ``(1 + shape x / scale)^(-1 / shape)`` [1]_.  Shape and scale are those of its mean and variance
    [2]_, the shape drawn to 0.  The threshold begins at the third quartile, and rises until an
    Anderson-Darling test no longer rejects, as in [3]_; what its statistic would be is simulated
    with the fitted law, so that no table is needed for parameters that were estimated.  Numbers
    of the simulation are the same in each call.

    References
    ----------
    .. [1] J. Pickands (1975). Statistical inference using extreme order statistics. Annals of
       Statistics 3, 119-131.
    .. [2] J. R. M. Hosking and J. R. Wallis (1987). Parameter and quantile estimation for the
       generalized Pareto distribution. Technometrics 29, 339-349.
    .. [3] A. M. Winkler, G. R. Ridgway, G. Douaud, T. E. Nichols and S. M. Smith (2016). Faster
       permutation inference in brain imaging. NeuroImage 141, 502-516.
    """
    n = peaks.size
    for share in _SHARES:
        n_above = int(share * n)
        if n_above < _FEWEST:
            return None
        # All that tie with the lowest one are fitted, or none of them.
        fitted = peaks[np.searchsorted(peaks, peaks[n - n_above - 1], side="right") :]
        if fitted.size < _FEWEST or fitted[0] == fitted[-1] or not np.isfinite(fitted[-1]):
            continue
        excess = _spread_ties(fitted) - fitted[0]
        shape, scale = (float(parameter) for parameter in _fit_moments(excess))
        if _is_likely(excess, shape, scale):
            share = (1 + fitted.size) / (1 + n)
            least = 1 / (_REACH * (1 + n))
            return Tail(float(fitted[0]), share, shape, scale, fitted.size, least)
    return None


def _spread_ties(peaks: FloatArray) -> FloatArray:
    """Return ascending peaks with equal ones set apart, up to where the next could be.

    Extents are whole numbers: 100 of them at 7 stand for what lies between 7 and 8.
    """
    distinct, counts = np.unique(peaks, return_counts=True)
    step = np.diff(distinct).min()
    first = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(peaks.size) - first
    return np.asarray(peaks + step * (place + 0.5) / np.repeat(counts, counts))


def _fit_moments(excess: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return shape and scale of samples, which are along the last axis."""
    n = excess.shape[-1]
    mean = excess.mean(axis=-1)
    shape = (1 - mean**2 / excess.var(axis=-1)) / 2 * n / (n + _PRIOR)
    return shape, mean * (1 - shape)


def _log_sf(excess: FloatArray, shape: float | FloatArray, scale: float | FloatArray) -> FloatArray:
    """Return the logarithm of the upper tail; a very small one beyond its end."""
    shape = np.where(np.abs(shape) < _NEARLY_0, _NEARLY_0, shape)
    inside = np.maximum(shape * excess / scale, _TO_END)
    return np.asarray(np.maximum(-np.log1p(inside) / shape, np.log(_TINY)))


def _is_likely(excess: FloatArray, shape: float, scale: float) -> bool:
    """Say whether an Anderson-Darling test does not reject ascending excesses."""
    uniform = np.random.Generator(np.random.Philox(0)).random((_N_SIMULATED, excess.size))
    # The inverse of the upper tail, without a division by a shape of 0.
    samples = np.sort(scale * _box_cox(uniform, -shape), axis=-1)
    shapes, scales = (column[:, None] for column in _fit_moments(samples))
    simulated = _compute_distance(_log_sf(samples, shapes, scales))
    observed = _compute_distance(_log_sf(excess, shape, scale))
    n_larger = np.count_nonzero(simulated >= observed)
    return bool((1 + n_larger) / (1 + _N_SIMULATED) > _LEVEL)


def _box_cox(uniform: FloatArray, power: float) -> FloatArray:
    """Return (u^power - 1) / -power, which is -ln u at power 0."""
    if abs(power) < _NEARLY_0:
        return -np.log(uniform)
    return np.expm1(power * np.log(uniform)) / -power


def _compute_distance(log_sf: FloatArray) -> FloatArray:
    """Return the statistic of Anderson and Darling of ascending samples, along the last axis."""
    n = log_sf.shape[-1]
    log_cdf = np.log(np.maximum(-np.expm1(log_sf), _TINY))
    weights = (2 * np.arange(1, n + 1) - 1) / n
    return np.asarray(-n - ((log_cdf + log_sf[..., ::-1]) * weights).sum(axis=-1))
