"""Are exact zeros, which are taken as missing, data after all?  What the pattern says.

Outside of a brain all images are 0, and at its edges some: there zeros come together.  Zeros
that are data are also where the same image has data beside them, or nearly everywhere; or
without them nothing varies.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import kernel
from nipype_blm.core.products import count_bits
from nipype_blm.core.status import VoxelStatus, is_fitted

# Of the voxels that nearly all images share: what a single image may lack and be ordinary, ...
_ORDINARY = 0.01
# ... and what it may lack in one piece, as a small brain does, or a cut field of view.
_IN_ONE_PIECE = 0.2
# Of the voxels where a tenth of the images have data: those that nearly all share, at least.
_LEAST_SHARED = 1 / 3


class ZeroCounts(NamedTuple):
    """For each image: exact zeros in the analysis mask, gaps, and holes.

    A *gap* is a missing value at a voxel that nearly all images share; a *hole* is a gap
    between two voxels where the same image has data.
    """

    zeros: NDArray[np.int32]
    gaps: NDArray[np.int32]
    holes: NDArray[np.int32]


class ZerosFound(NamedTuple):
    """Zeros that look like data."""

    # Whose zeros they are, and at which share of the shared voxels; empty: those of many.
    images: dict[int, float]
    n_shared: int  # voxels where nearly all images have data
    n_covered: int  # ... where a tenth of them have
    missing_share: float  # of the values at the latter
    n_constant: int  # voxels without variance, but for their zeros
    n_tried: int  # voxels with enough images


def most_missing(n_images: int) -> int:
    """Return how many images may miss a voxel that nearly all share: a tenth, or one."""
    return max(1, n_images // 10)


def count_gaps(
    presence: NDArray[np.uint32],
    n_obs: NDArray[np.int32],
    n_images: int,
    positions: NDArray[np.int64],
    counts: ZeroCounts,
) -> None:
    """Add the gaps and holes of one batch of images in one block of voxels to `counts`.

    Parameters
    ----------
    presence : array of shape (n_words, n_voxels)
        Of the batch, as in `Products`.
    n_obs : array of shape (n_voxels,)
        Images of all batches with data.
    n_images : int
        Images of all batches.
    positions : array of shape (n_voxels,)
        Which values of a file the voxels are.
    counts : ZeroCounts
        Of the images of the batch.
    """
    is_incomplete = (n_obs >= n_images - most_missing(n_images)) & (n_obs < n_images)
    is_between = np.zeros(n_obs.size, np.bool_)
    is_between[1:-1] = positions[2:] - positions[:-2] == 2
    voxels = np.flatnonzero(is_incomplete)
    _count_gaps(presence, voxels, is_between, counts.gaps, counts.holes)


@kernel
def _count_gaps(presence: Any, voxels: Any, is_between: Any, gaps: Any, holes: Any) -> None:
    one = np.uint64(1)
    for w in range(presence.shape[0]):
        words = presence[w]
        n_bits = min(32, gaps.size - 32 * w)
        for j in range(voxels.size):
            v = voxels[j]
            missing = ~np.uint64(words[v]) & ((one << np.uint64(n_bits)) - one)
            beside = np.uint64(0)
            if is_between[v]:
                beside = np.uint64(words[v - 1]) & np.uint64(words[v + 1])
            while missing != 0:
                lowest = missing & (~missing + one)
                row = 32 * w + count_bits(lowest - one)
                gaps[row] += 1
                holes[row] += (beside & lowest) != 0
                missing ^= lowest


def find_zeros_that_look_like_data(
    n_obs: NDArray[np.int32], status: NDArray[np.uint8], counts: ZeroCounts
) -> ZerosFound | None:
    """Return zeros that look like data; None if there are none.

    Parameters
    ----------
    n_obs : array of shape (n_voxels,)
        Images with data at each voxel of the analysis mask.
    status : array of shape (n_voxels,)
        What came of the voxel.
    counts : ZeroCounts
        Of all images, over all voxels.

    Notes
    -----
    Zeros look like data if

    * most of what is missing at the voxels where a tenth of the images (two at least) have data
      may be zeros, and no more than a third of these voxels are shared by nearly all images, or
      more than half of the voxels with enough images have no variance (0/1 masks); or
    * some image has zeros at more than 1 % of the shared voxels, and as many holes; or zeros
      at more than 20 %.

    Of an image with zeros and other missing values as many of its gaps may be zeros as it has
    zeros at all.
    """
    n_images = counts.zeros.size
    n_shared = int((n_obs >= n_images - most_missing(n_images)).sum())
    is_covered = n_obs >= max(2, n_images / 10)
    n_covered = int(is_covered.sum())
    n_missing = n_images - n_obs[is_covered if n_covered else slice(None)].astype(np.int64)
    n_constant = int((status == VoxelStatus.ZERO_VARIANCE).sum())
    n_tried = int(is_fitted(status).sum()) + n_constant
    found = ZerosFound(
        images=_find_images(n_shared, counts),
        n_shared=n_shared,
        n_covered=n_covered,
        missing_share=float(n_missing.mean() / n_images) if n_missing.size else 0.0,
        n_constant=n_constant,
        n_tried=n_tried,
    )
    are_zeros = counts.zeros.sum(dtype=np.int64) > n_missing.sum() / 2 > 0
    if are_zeros and (n_shared <= _LEAST_SHARED * n_covered or 2 * n_constant > n_tried):
        return found._replace(images={})
    return found if found.images else None


def _find_images(n_shared: int, counts: ZeroCounts) -> dict[int, float]:
    """Return the images whose own zeros look like data, with their share; the largest first."""
    gaps = np.minimum(counts.gaps, counts.zeros) / max(1, n_shared)
    holes = np.minimum(counts.holes, counts.zeros) / max(1, n_shared)
    is_found = (gaps > _ORDINARY) & ((holes > _ORDINARY) | (gaps > _IN_ONE_PIECE))
    order = np.argsort(-gaps, kind="stable")
    return {int(image): float(gaps[image]) for image in order if is_found[image]}
