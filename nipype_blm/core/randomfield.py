"""Corrected p of smooth random fields, from the Euler characteristic of what exceeds a height.

Search volumes come as resel counts, which `nipype_blm.core.smoothness` makes of a mask and FWHM.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtrc, gamma, ndtr, poch, stdtr

from nipype_blm.core.linalg import FloatArray

_4_LOG_2 = 4 * math.log(2.0)
_STEPS = 200  # of bisection: more than digits


class Field(NamedTuple):
    """What is known of a map of statistics at each voxel where nothing is to be found.

    Of Z there are no degrees of freedom; of T those of the error; of F both, those of the error at
    least 3.
    """

    test: str  # Z, T or F
    dof: float = math.inf  # of the error
    n_rows: float = 1  # of an F contrast


class ClusterTails(NamedTuple):
    """The probabilities of clusters of an extent, in the shape of the extents."""

    p: FloatArray  # corrected: of any cluster in the volume that is as large
    p_one: FloatArray  # uncorrected: of one cluster to be as large
    n_expected: float  # clusters at this height
    mean_extent: float  # resels


def compute_ec_densities(field: Field, heights: ArrayLike) -> FloatArray:
    """Return the densities of the Euler characteristic above heights.

    Parameters
    ----------
    field : Field
    heights : array of shape (n,)

    Returns
    -------
    densities : array of shape (4, n)
        For each resel in 0, 1, 2 and 3 dimensions; may be negative at low heights.

    Notes
    -----
    [1]_, table II.

    References
    ----------
    .. [1] K. J. Worsley et al. (1996). A unified statistical approach for determining significant
       signals in images of cerebral activation. Human Brain Mapping 4, 58-73.
    """
    u = np.asarray(heights, float)
    if field.test == "F":
        return _compute_f_densities(field, u)
    root = math.sqrt(_4_LOG_2)
    if field.test == "Z" or math.isinf(field.dof):
        bell = np.exp(-(u**2) / 2)
        upper, second, third = ndtr(-u), u, u**2 - 1
    else:
        v = field.dof
        bell = np.exp((1 - v) / 2 * np.log1p(u**2 / v))
        upper = stdtr(v, -u)
        second, third = u / math.sqrt(v / 2) * poch(v / 2, 0.5), (v - 1) / v * u**2 - 1
    return np.stack(
        [
            upper,
            root / (2 * math.pi) * bell,
            root**2 / (2 * math.pi) ** 1.5 * bell * second,
            root**3 / (2 * math.pi) ** 2 * bell * third,
        ]
    )


def _compute_f_densities(field: Field, u: FloatArray) -> FloatArray:
    """Return the densities of an F field."""
    # Where T is as good as Z, F is as good as chi squared over its rows.
    k, v = field.n_rows, min(field.dof, 1e10)
    u = np.maximum(u, 0)
    ratio = k * u / v
    root = math.sqrt(_4_LOG_2 / (2 * math.pi))
    tail = (v + k - 2) / 2 * np.log1p(ratio)

    def scale(dimension: int) -> FloatArray:
        power = (k - dimension) / 2
        with np.errstate(divide="ignore"):
            from_0 = power * np.log(ratio) if power else np.zeros_like(ratio)
        constant = math.log(poch(v / 2, power)) - math.lgamma(k / 2)
        return np.asarray(root**dimension * np.exp(constant + from_0 - tail))

    third = (v - 1) * (v - 2) * ratio**2 - (2 * v * k - v - k - 1) * ratio + (k - 1) * (k - 2)
    with np.errstate(invalid="ignore"):  # infinite densities at 0
        return np.stack(
            [
                fdtrc(k, v, u),
                math.sqrt(2) * scale(1),
                scale(2) * ((v - 1) * ratio - (k - 1)),
                scale(3) * third / math.sqrt(2),
            ]
        )


def compute_voxel_p(
    field: Field, heights: ArrayLike, resel_counts: ArrayLike, n_voxels: int | None = None
) -> FloatArray:
    """Return the probability that any voxel of a volume is as high, at each height.

    Parameters
    ----------
    field : Field
    heights : array
        Statistics; 0 and below have a probability of 1, NaN gives NaN.
    resel_counts : array of shape (4,)
        Of the volume.
    n_voxels : int, optional
        Of the volume: the smaller one of this probability and that of Bonferroni is returned, which
        is right of both.

    Returns
    -------
    p : array
        In the shape of heights.

    Notes
    -----
    The number of voxels that stand out is taken as Poisson's, its mean being the expected Euler
    characteristic: the sum of resel counts times densities.
    """
    u = np.asarray(heights, float)
    densities = compute_ec_densities(field, u.ravel())
    p = -np.expm1(-_expect(densities, resel_counts).sum(axis=0))
    if n_voxels is not None:
        p = np.minimum(p, n_voxels * densities[0])
    p = np.where(u.ravel() > 0, p, np.where(np.isnan(u.ravel()), np.nan, 1.0))
    return p.reshape(u.shape)


def _expect(densities: FloatArray, resel_counts: ArrayLike) -> FloatArray:
    """Return the expected Euler characteristic in each dimension, of shape (4, n)."""
    counts = np.asarray(resel_counts, float)[:, None]
    # An axis without resels has none whatever the density, which may be infinite.
    return np.where(counts == 0, 0, counts * np.maximum(densities, 0))


def find_voxel_threshold(
    field: Field, alpha: float, resel_counts: ArrayLike, n_voxels: int | None = None
) -> float:
    """Return the height that any voxel of a volume reaches with probability alpha.

    Parameters
    ----------
    field : Field
    alpha : float
        Between 0 and 0.5, about.
    resel_counts, n_voxels
        As `compute_voxel_p` takes them.
    """

    def exceeds(height: float) -> bool:
        return float(compute_voxel_p(field, height, resel_counts, n_voxels)) > alpha

    low, high = 0.0, 4.0
    while exceeds(high):
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def compute_cluster_p(
    field: Field, height: float, extents: ArrayLike, resel_counts: ArrayLike
) -> ClusterTails:
    """Return the probabilities of clusters that are as large, of voxels above a height.

    Parameters
    ----------
    field : Field
    height : float
        The threshold that made the clusters, of z 2.3 or larger: below it the theory fails.
    extents : array
        Resels: voxels times resels per voxel.
    resel_counts : array of shape (4,)
        Of the volume.

    Notes
    -----
    An extent to the power 2/D is taken as exponential, D being the dimensions of the volume, its
    mean following from the expected volume above the height and the expected number of clusters;
    the number of clusters as Poisson's ([1]_, as SPM has it for Z, T and F).

    References
    ----------
    .. [1] K. J. Friston et al. (1994). Assessing the significance of focal activations using their
       spatial extent. Human Brain Mapping 1, 210-220.
    """
    k = np.asarray(extents, float)
    n_expected, mean_extent, dimension, rate = _expect_clusters(field, height, resel_counts)
    if dimension == 0:
        p_one = np.ones(k.shape)
    else:
        p_one = np.exp(-rate * np.maximum(k, 0) ** (2 / dimension))
    return ClusterTails(-np.expm1(-n_expected * p_one), p_one, n_expected, mean_extent)


def _expect_clusters(
    field: Field, height: float, resel_counts: ArrayLike
) -> tuple[float, float, int, float]:
    """Return number and mean extent of clusters, dimensions, and the rate of extents^(2/D)."""
    counts = np.asarray(resel_counts, float)
    densities = compute_ec_densities(field, np.array([height]))
    in_each = _expect(densities, counts)[:, 0]
    dimension = int(np.flatnonzero(counts)[-1])
    if in_each[dimension] == 0:
        raise ValueError(
            f"{field.test} = {height:g} makes no clusters to which the theory applies; expected a "
            "height from z = 2.3 on, p = 0.01."
        )
    mean_extent = float(densities[0, 0] * counts[dimension] / in_each[dimension])
    power = 2 / dimension if dimension else 0.0
    rate = float(gamma(dimension / 2 + 1) / mean_extent) ** power
    return float(in_each.sum()), mean_extent, dimension, rate


def find_cluster_extent(
    field: Field, height: float, alpha: float, resel_counts: ArrayLike
) -> float:
    """Return the extent, in resels, that any cluster above a height reaches with probability alpha.

    Parameters are those of `compute_cluster_p`; 0 if clusters are rarer than that.
    """
    n_expected, _, dimension, rate = _expect_clusters(field, height, resel_counts)
    p_one = -math.log1p(-alpha) / n_expected
    if dimension == 0:
        return 0.0 if p_one >= 1 else math.inf
    return math.pow(max(-math.log(p_one), 0.0) / rate, dimension / 2)
