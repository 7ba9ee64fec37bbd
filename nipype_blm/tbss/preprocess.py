"""What is done to the FA of each observation before registration."""

import math
from typing import Any

import numpy as np

from nipype_blm.errors import InputError
from nipype_blm.tbss.neighbours import Volume, check_fa, look

LARGEST_FA = 1.2  # a little above 1 is noise: sqrt(3/2) is what negative eigenvalues can give
_SCALES = (100, 255, 1000, 10000)  # by which programs multiply FA to store whole numbers
_USUAL_HIGH = 0.75  # the 99th percentile of FA in a brain, of a subject as of a mean
_MOST_APART = 1.6


def find_scale(high: float) -> float:
    """Return by how much FA has been multiplied whose 99th percentile is `high`.

    One of 1, 100, 255, 1000 and 10000 where one fits; else what makes the percentile a usual one.
    """
    if high <= LARGEST_FA:
        return 1
    factor = high / _USUAL_HIGH
    nearest = min(_SCALES, key=lambda scale: abs(math.log(factor / scale)))
    return nearest if 1 / _MOST_APART < factor / nearest < _MOST_APART else factor


def erode(fa: Any) -> Volume:
    """Return FA without the edge of the brain, where fits of the tensor are often outlying.

    Parameters
    ----------
    fa : array of shape (nx, ny, nz)
        FA, 0 outside of the brain.

    Returns
    -------
    array of float32, of shape (nx, ny, nz)
        At most 1.  A voxel with a 0 among its 26 neighbours is 0, and so are the first and the
        last slice along each axis.

    Raises
    ------
    InputError
        If an axis has less than 3 voxels, so that nothing would be left.

    Notes
    -----
    As the first step of FSL's TBSS is described in its user guide, which names the erosion and
    the end slices; a value above 1 is not possible for FA, and is noise.
    """
    fa = check_fa("fa", fa)
    if min(fa.shape) < 3:
        raise InputError(
            f"fa has shape {fa.shape}, and end slices become 0: give 3 voxels or more per axis."
        )
    inner = (slice(1, -1),) * 3
    keep = np.zeros(fa.shape, bool)
    kept = keep[inner]
    kept[...] = True
    is_brain = fa > 0
    for step in np.ndindex(3, 3, 3):
        kept &= look(is_brain, np.subtract(step, 1))
    return np.where(keep, np.minimum(fa, 1), 0).astype(np.float32)
