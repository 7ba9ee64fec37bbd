"""Shares of the null sum of squares as normal deviates."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import exact_kernel, exact_routine, inline, kernel
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.resampling.flipping import Float32
from nipype_blm.core.tails import compute_f_tails, compute_t_tails
from nipype_blm.core.threads import ONE_THREAD, Threads

# Steps of y = sqrt(-m ln(1 - u)), in which z of a T is nearly linear, that of an F less so, and
# where they end.
T_STEP = 1 / 32
F_STEP = 1 / 128
LARGEST = 48.0
# z of an F goes to minus infinity with y: below y^2 = 1 there are steps within each octave of
# y^2, down to 2^-OCTAVES.
OCTAVES = 24
PER_OCTAVE = 128
# The largest number below 1 in single precision: more than this no share can tell.
ALMOST_ALL = float(np.nextafter(np.float32(1), np.float32(0)))


class _Table(NamedTuple):
    """z at steps of y, and at steps within octaves of y^2 (no row for a T)."""

    steps: FloatArray
    octaves: FloatArray  # (OCTAVES * PER_OCTAVE + 1,), from 2^-OCTAVES up to 1


def share_to_z(
    share: Float32,
    m: NDArray[np.int32],
    q: int,
    out: Float32 | None = None,
    threads: Threads = ONE_THREAD,
) -> Float32:
    """Return the normal deviates of shares of the null sum of squares.

    Parameters
    ----------
    share : array of shape (n_voxels, n_resamplings)
        Signed for q = 1.
    m : array of shape (n_voxels,)
        Images present less the rank of X0; z is 0 where it is 0.
    q : int
        Tested columns.
    out : array of shape (n_voxels, n_resamplings), optional
        Receives the result; may be `share`.
    threads : Threads

    Notes
    -----
    t = sqrt((m - 1) u / (1 - u)) with m - 1 degrees of freedom; F = (m - q) u / (q (1 - u)) with
    q and m - q.  z is interpolated in tables of `compute_t_tails` and `compute_f_tails`: it never
    falls where the share rises, and errors are below 1e-5 up to z = 38 (for an F from z = -4 on;
    below, 2e-5).  A share that rounds to 1 counts as 1 - 6e-8.
    """
    z = np.empty_like(share) if out is None else out
    tables = {int(k): _tabulate(int(k), q) for k in np.unique(m) if k > 0}

    def transform(start: int, stop: int) -> None:
        for k, table in tables.items():
            rows = start + np.flatnonzero(m[start:stop] == k)
            _transform(share, z, rows, float(k), table.steps, table.octaves)
        z[start + np.flatnonzero(m[start:stop] <= 0)] = 0

    threads.split(transform, m.size)
    return z


def find_peaks(share: Float32, m: NDArray[np.int32], q: int, two_sided: bool) -> Float32:
    """Return the largest z of each resampling; minus infinity where no voxel is tested.

    Parameters
    ----------
    share, m, q
        As of `share_to_z`, whose largest value this is.
    two_sided : bool
        Take the largest ``|z|``.
    """
    found, place = np.unique(m, return_inverse=True)
    largest = np.full((found.size, share.shape[1]), -np.inf, np.float32)
    _find_largest(share, place.reshape(-1), two_sided, largest)
    largest, found = largest[found > 0], found[found > 0]
    if not found.size:
        return np.full(share.shape[1], -np.inf, np.float32)
    return np.asarray(share_to_z(largest, found, q).max(axis=0))


@functools.lru_cache(maxsize=1024)
def _tabulate(m: int, q: int) -> _Table:
    """Return z where y goes in steps, as far as shares or z's of use go."""
    end = min(LARGEST, np.sqrt(-m * np.log1p(-ALMOST_ALL)))
    step = T_STEP if q == 1 else F_STEP
    steps = np.arange(int(end / step) + 3) * step
    if q == 1:
        return _Table(
            compute_t_tails(np.sqrt((m - 1) * np.expm1(steps**2 / m)), m - 1).z, np.empty(0)
        )
    places = np.arange(OCTAVES * PER_OCTAVE + 1)
    octave, part = np.divmod(places, PER_OCTAVE)
    squares = np.ldexp(1 + part / PER_OCTAVE, octave - OCTAVES)
    below = compute_f_tails((m - q) / q * np.expm1(squares / m), q, m - q).z
    steps[0] = step / 2  # not used, and finite
    above = compute_f_tails((m - q) / q * np.expm1(steps**2 / m), q, m - q).z
    return _Table(above, below)


@inline
def _log(w: float) -> float:
    """Return ln w for w in (0, 1], to 1e-10 of itself, without a branch."""
    bits = np.float64(w).view(np.int64)
    # From sqrt(1/2) up to sqrt(2): the bits of the former are taken away.
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    x = np.int64(bits - (exponent << 52)).view(np.float64)
    s = (x - 1.0) / (x + 1.0)
    s2 = s * s
    series = 1 / 7 + s2 * (1 / 9 + s2 * (1 / 11 + s2 * (1 / 13)))
    series = 1.0 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * series))
    return exponent * 0.6931471805599453 + 2.0 * s * series


@exact_routine
def _measure(share: Any, m: float, squares: Any) -> None:
    """Write y^2 = -m ln(1 - u)."""
    for f in range(share.size):
        u = min(abs(np.float64(share[f])), ALMOST_ALL)
        squares[f] = max(-m * _log(1.0 - u), 0.0)


@exact_kernel
def _transform(share: Any, z: Any, rows: Any, m: float, steps: Any, octaves: Any) -> None:
    last = steps.size - 2
    per_unit = 1.0 / T_STEP if octaves.size == 0 else 1.0 / F_STEP
    squares = np.empty(share.shape[1])
    for r in rows:
        source, out = share[r], z[r]
        _measure(source, m, squares)
        for f in range(source.size):
            square = squares[f]
            if octaves.size > 0 and square < 1.0:
                bits = np.float64(max(square, 2.0**-OCTAVES)).view(np.int64)
                cells = np.float64((bits & 0xFFFFFFFFFFFFF) * (PER_OCTAVE * 2.0**-52))
                k = int(cells)
                place = ((bits >> 52) - 1023 + OCTAVES) * PER_OCTAVE + k
                low, high, part = octaves[place], octaves[place + 1], cells - k
            else:
                y = np.sqrt(square) * per_unit
                k = min(int(y), last)
                low, high, part = steps[k], steps[k + 1], y - k
            x = low + (high - low) * part
            out[f] = np.float32(-x if source[f] < 0.0 else x)


@kernel
def _find_largest(share: Any, place: Any, two_sided: bool, largest: Any) -> None:
    for v in range(len(share)):
        row, out = share[v], largest[place[v]]
        for f in range(row.size):
            x = abs(row[f]) if two_sided else row[f]
            out[f] = max(out[f], x)
