"""What residuals say of images, of levels and of the model: sums that add over blocks of voxels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray

if TYPE_CHECKING:
    from nipype_blm.core.residuals import Residuals

LARGE = 3.0  # a standardised residual beyond it counts as large
# A measure stands out beyond the median by so many standard deviations, these being 1.4826 times
# the median absolute deviation (B. Iglewicz and D. C. Hoaglin, How to Detect and Handle Outliers,
# 1993).
OUTLYING = 3.5
_CONSISTENT = 1.4826


class ImageSums(NamedTuple):
    """Sums of each image over voxels; of pairs (y, m), m being the mean of the other images."""

    n: NDArray[np.int64]  # (n_obs,), voxels with a value
    n_standardised: NDArray[np.int64]  # (n_obs,), voxels with a standardised residual
    standardised: FloatArray  # (n_obs,), sum of their absolute values
    n_large: NDArray[np.int64]  # (n_obs,), those beyond `LARGE`
    n_cook: NDArray[np.int64]  # (n_obs,), voxels with a Cook's distance
    cook: FloatArray  # (n_obs,), their sum
    n_pairs: NDArray[np.int64]  # (n_obs,)
    mean: FloatArray  # (n_obs,), of y over the pairs
    mean_others: FloatArray  # (n_obs,), of m
    squares: FloatArray  # (n_obs,), sum of (y - mean)^2
    squares_others: FloatArray  # (n_obs,)
    products: FloatArray  # (n_obs,)

    @property
    def mean_standardised(self) -> FloatArray:
        """Mean absolute standardised residual of each image; NaN where there is none."""
        return divide(self.standardised, self.n_standardised)

    @property
    def share_large(self) -> FloatArray:
        """Share of the standardised residuals that are large."""
        return divide(self.n_large, self.n_standardised)

    @property
    def mean_cook(self) -> FloatArray:
        """Cook's distance averaged over voxels."""
        return divide(self.cook, self.n_cook)

    @property
    def correlation(self) -> FloatArray:
        """Correlation with the mean of the other images; NaN of a constant image."""
        size = np.sqrt(self.squares) * np.sqrt(self.squares_others)
        return np.clip(divide(self.products, size), -1, 1)


class LevelSums(NamedTuple):
    """Sums over voxels of the levels of all factors, and of their random effects."""

    n: NDArray[np.int64]  # (n_levels,), voxels with an image of the level
    blup: FloatArray  # (n_columns,), sum of the absolute random effects there


def divide(sums: NDArray[np.generic], counts: NDArray[np.generic]) -> FloatArray:
    """Return sums over counts, NaN where the count is 0."""
    out = np.full(np.shape(sums), np.nan)
    return np.divide(sums, counts, out=out, where=np.asarray(counts) > 0, dtype=float)  # type: ignore[no-any-return]


def compute_skewness(residual: FloatArray) -> FloatArray:
    """Return the skewness of the residuals of each voxel, m3 / m2^1.5.

    Parameters
    ----------
    residual : array of shape (n_voxels, n_obs)
        NaN where missing.
    """
    present = ~np.isnan(residual)
    n = present.sum(axis=1)
    values = np.where(present, residual, 0.0)
    # At unit length first: the third power of residuals in unusual units is no number.
    length = np.sqrt((values**2).sum(axis=1))
    values = divide(values, np.broadcast_to(length[:, None], values.shape))
    mean = np.nansum(values, axis=1) / n
    rest = np.where(present, values - mean[:, None], 0.0)
    second, third = ((rest**power).sum(axis=1) / n for power in (2, 3))
    return divide(third, second**1.5)


def sum_images(Y: FloatArray, found: "Residuals") -> ImageSums:
    """Return the sums of each image over the voxels of a block.

    Parameters
    ----------
    Y : array of shape (n_voxels, n_obs)
        NaN where missing.
    found : Residuals
    """
    size = np.abs(found.standardised)
    return ImageSums(
        (~np.isnan(Y)).sum(axis=0),
        (~np.isnan(size)).sum(axis=0),
        np.nansum(size, axis=0),
        (size > LARGE).sum(axis=0),
        (~np.isnan(found.cook)).sum(axis=0),
        np.nansum(found.cook, axis=0),
        *_sum_pairs(Y),
    )


def _sum_pairs(
    Y: FloatArray,
) -> tuple[NDArray[np.int64], FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the sums of each image and the mean of the others, where there are others."""
    present = ~np.isnan(Y)
    n = present.sum(axis=1)
    values = np.where(present, Y, 0.0)
    total = values.sum(axis=1)
    is_pair = present & (n > 1)[:, None]
    others = np.where(is_pair, (total[:, None] - values) / np.maximum(n - 1, 1)[:, None], 0.0)
    values = np.where(is_pair, values, 0.0)
    n_pairs = is_pair.sum(axis=0)
    means = [each.sum(axis=0) / np.maximum(n_pairs, 1) for each in (values, others)]
    y, m = (
        np.where(is_pair, each - mean, 0.0)
        for each, mean in zip((values, others), means, strict=True)
    )
    sums = [(a * b).sum(axis=0) for a, b in ((y, y), (m, m), (y, m))]
    return n_pairs, means[0], means[1], sums[0], sums[1], sums[2]


def merge_images(parts: Sequence[ImageSums]) -> ImageSums:
    """Return the sums over all blocks.

    Notes
    -----
    Sums of products about the mean: T. F. Chan, G. H. Golub and R. J. LeVeque, The American
    Statistician, 1983, 37:242.
    """
    total, *others = parts
    for part in others:
        n = np.maximum(total.n_pairs + part.n_pairs, 1)
        y, m = part.mean - total.mean, part.mean_others - total.mean_others
        share = part.n_pairs / n
        weight = total.n_pairs * share
        counted = [a + b for a, b in zip(total[:7], part[:7], strict=True)]
        moments = [
            total.mean + share * y,
            total.mean_others + share * m,
            total.squares + part.squares + weight * y**2,
            total.squares_others + part.squares_others + weight * m**2,
            total.products + part.products + weight * y * m,
        ]
        total = ImageSums._make([*counted, *moments])
    return total


def sum_levels(
    blup: FloatArray, is_present: NDArray[np.bool_], level_of_column: NDArray[np.intp]
) -> LevelSums:
    """Return the sums of levels and random effects over the voxels of a block.

    Parameters
    ----------
    blup : array of shape (n_voxels, n_columns)
    is_present : bool array of shape (n_voxels, n_levels)
    level_of_column : integer array of shape (n_columns,)
    """
    counted = np.where(is_present[:, level_of_column], np.abs(blup), 0.0)
    return LevelSums(is_present.sum(axis=0), counted.sum(axis=0))


def merge_levels(parts: Sequence[LevelSums]) -> LevelSums:
    """Return the sums over all blocks."""
    return LevelSums(*(np.sum(each, axis=0) for each in zip(*parts, strict=True)))


def measure_outlyingness(values: FloatArray, sign: int, least: float) -> FloatArray:
    """Return how many robust standard deviations each value lies beyond the median.

    Parameters
    ----------
    values : array of shape (n,)
        NaN where there is none, which gives 0.
    sign : int
        1 if large values stand out, -1 if small ones do.
    least : float
        Differences from the median that are no larger do not stand out.
    """
    known = ~np.isnan(values)
    if not known.any():
        return np.zeros(values.size)
    away = sign * (values - np.median(values[known]))
    deviation = _CONSISTENT * np.median(np.abs(away[known]))
    return np.asarray(np.where(known, away, 0.0) / max(deviation, least / OUTLYING))
