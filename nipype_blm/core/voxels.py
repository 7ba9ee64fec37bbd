"""Which values of an image are data: gather mask voxels, mark everything else as missing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import exact_kernel, kernel


def find_runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the runs of True in a flat mask start, and how long they are."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.view(np.int8), [0]])))
    return edges[::2].astype(np.int64), (edges[1::2] - edges[::2]).astype(np.int64)


@kernel
def gather(
    volume: Any, starts: Any, lengths: Any, threshold: float, zero_is_missing: bool, out: Any
) -> tuple[int, int]:
    """Copy the voxels of a mask out of a volume; missing values become NaN.

    Missing are NaN, infinities, values below `threshold` and, if wanted, exact zeros.

    Parameters
    ----------
    volume : array of shape (n_grid,)
        One image in file order, any real type that `out` represents exactly.
    starts, lengths : integer arrays
        The runs of the mask in file order.
    out : float array of shape (n_voxels,)
        Receives the values.

    Returns
    -------
    n_missing, n_infinite : int
    """
    missing = 0
    infinite = 0
    position = 0
    none_missing, one_missing = np.int32(0), np.int32(1)  # narrow: more of them in a vector
    count: Any
    for run in range(starts.size):
        n = lengths[run]
        # Views first, so that the loop has unit stride from 0 and is vectorised.
        x = volume[starts[run] : starts[run] + n]
        y = out[position : position + n]
        count = none_missing
        for i in range(n):
            value = y.dtype.type(x[i])
            present = (abs(value) < np.inf) & (value >= threshold)
            present &= (value != 0) | (not zero_is_missing)
            y[i] = value if present else np.nan
            count += one_missing if not present else none_missing
        if count > 0:
            for i in range(n):
                infinite += abs(np.float64(x[i])) == np.inf
        missing += count
        position += n
    return missing, infinite


@exact_kernel
def gather_scaled(
    volume: Any,
    starts: Any,
    lengths: Any,
    slope: float,
    inter: float,
    threshold: float,
    zero_is_missing: bool,
    out: Any,
) -> tuple[int, int]:
    """Do as `gather` on slope * volume + inter, tested after scaling."""
    missing = 0
    infinite = 0
    position = 0
    for run in range(starts.size):
        n = lengths[run]
        x = volume[starts[run] : starts[run] + n]
        y = out[position : position + n]
        for i in range(n):
            value = np.float64(x[i]) * slope + inter
            present = (abs(value) < np.inf) & (value >= threshold)
            present &= (value != 0) | (not zero_is_missing)
            infinite += abs(value) == np.inf
            missing += not present
            y[i] = value if present else np.nan
        position += n
    return missing, infinite


def apply_data_mask(values: NDArray[Any], mask_values: NDArray[Any]) -> int:
    """Mark values outside a gathered mask (NaN there) as missing; return how many are."""
    values[np.isnan(mask_values)] = np.nan
    return int(np.count_nonzero(np.isnan(values)))
