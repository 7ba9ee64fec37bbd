"""Which values of an image are data: gather mask voxels, mark everything else as missing."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import exact_kernel, kernel


def find_runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the runs of True in a flat mask start, and how long they are."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.view(np.int8), [0]])))
    return edges[::2].astype(np.int64), (edges[1::2] - edges[::2]).astype(np.int64)


# Larger values count as infinite, which squares of their variances may be.
LARGEST = 1e40


class ValueCounts(NamedTuple):
    """How many values of an image are missing inside a mask, and why."""

    missing: int
    infinite: int  # or beyond `LARGEST`
    zero: int  # exact zeros that are missing for no other reason


@kernel
def gather(
    volume: Any,
    starts: Any,
    lengths: Any,
    threshold: float,
    zero_is_missing: bool,
    inside: Any,
    out: Any,
) -> ValueCounts:
    """Copy the voxels of a mask out of a volume; missing values become NaN.

    Missing are NaN, infinities, values beyond `LARGEST`, below `threshold` or outside the
    image's own mask and, if wanted, exact zeros.

    Parameters
    ----------
    volume : array of shape (n_values,)
        One image in file order, any real type that `out` represents exactly.
    starts, lengths : integer arrays
        The runs of the mask in file order.
    inside : float array of shape (n_voxels,), or (0,) without a mask of the image's own
        NaN outside that mask.
    out : float array of shape (n_voxels,)
        Receives the values.
    """
    missing = 0
    infinite = 0
    zero = 0
    position = 0
    largest = out.dtype.type(LARGEST)  # infinite in single precision, which ends before it
    none, one = np.int32(0), np.int32(1)  # narrow: more of them in a vector
    n_missing: Any
    n_infinite: Any
    n_zero: Any
    for run in range(starts.size):
        n = lengths[run]
        # Views first, so that the loop has unit stride from 0 and is vectorised.
        x = volume[starts[run] : starts[run] + n]
        y = out[position : position + n]
        n_missing, n_infinite, n_zero = none, none, none
        for i in range(n):
            value = y.dtype.type(x[i])
            present = (abs(value) < largest) & (value >= threshold)
            present &= (value != 0) | (not zero_is_missing)
            y[i] = value if present else np.nan
            n_missing += one if not present else none
        if n_missing > 0:
            for i in range(n):
                n_infinite += one if abs(y.dtype.type(x[i])) >= largest else none
                n_zero += one if x[i] == 0 else none
        if inside.size > 0:
            own = inside[position : position + n]
            for i in range(n):
                is_outside = own[i] != own[i]
                n_missing += one if is_outside & (y[i] == y[i]) else none
                n_zero -= one if is_outside & (x[i] == 0) else none
                y[i] = np.nan if is_outside else y[i]
        missing += n_missing
        infinite += n_infinite
        zero += n_zero
        position += n
    return ValueCounts(missing, infinite, zero if zero_is_missing and threshold <= 0 else 0)


@exact_kernel
def gather_scaled(
    volume: Any,
    starts: Any,
    lengths: Any,
    slope: float,
    inter: float,
    threshold: float,
    zero_is_missing: bool,
    inside: Any,
    out: Any,
) -> ValueCounts:
    """Do as `gather` on slope * volume + inter, tested after scaling."""
    missing = 0
    infinite = 0
    zero = 0
    position = 0
    for run in range(starts.size):
        n = lengths[run]
        x = volume[starts[run] : starts[run] + n]
        y = out[position : position + n]
        for i in range(n):
            value = np.float64(x[i]) * slope + inter
            is_inside = True
            if inside.size > 0:
                is_inside = not np.isnan(inside[position + i])
            is_number = (abs(value) < LARGEST) & (value >= threshold) & is_inside
            present = is_number & ((value != 0) | (not zero_is_missing))
            infinite += 1 if abs(value) >= LARGEST else 0
            missing += not present
            zero += 1 if is_number & (not present) else 0
            y[i] = value if present else np.nan
        position += n
    return ValueCounts(missing, infinite, zero)
