"""Tapered capsules: how deep two of them overlap, where, and which of many may overlap at all."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MOST_PAIRS = 1 << 17  # looked at together: some 100 bytes each, so that they stay in the cache
_PARALLEL = 1e-12  # sine of an angle
_N_HALVINGS = 45  # of an interval from 0 to 1: beyond the digits that a position of 100 um has


class Capsules(NamedTuple):
    """Balls that move along a segment while their radius grows or shrinks linearly.

    A segment without length is a ball, or the larger of two around one point.
    """

    starts: Floats  # (n, 3), um
    ends: Floats  # (n, 3), um
    radii: Floats  # (n, 2), um, at starts and ends

    def take(self, rows: NDArray[np.generic]) -> "Capsules":
        """Return some of them, by indices or a mask."""
        return Capsules(self.starts[rows], self.ends[rows], self.radii[rows])

    def find_points(self, along: Floats) -> Floats:
        """Return the points of the axes at fractions of their lengths."""
        return self.starts + along[:, None] * (self.ends - self.starts)

    def find_radii(self, along: Floats) -> Floats:
        """Return the radii at fractions of the lengths."""
        return self.radii[:, 0] + along * (self.radii[:, 1] - self.radii[:, 0])


class Deepest(NamedTuple):
    """Where two capsules overlap most, as fractions of their lengths."""

    overlap: Floats  # (n,), um, the sum of the radii less the distance; negative if they are apart
    along_first: Floats  # (n,)
    along_second: Floats  # (n,)


def find_boxes(capsules: Capsules) -> Floats:
    """Return the lower and upper corners of the boxes around capsules, of shape (n, 2, 3), um."""
    starts, ends, radii = capsules
    low = np.minimum(starts - radii[:, :1], ends - radii[:, 1:])
    high = np.maximum(starts + radii[:, :1], ends + radii[:, 1:])
    return np.stack([low, high], axis=1)


def find_nearest(points: Floats, capsules: Capsules) -> Floats:
    """Return where along each capsule its ball reaches nearest to, or deepest around, a point.

    Parameters
    ----------
    points : array of shape (n, 3)
        One for each capsule, um.
    capsules : Capsules

    Returns
    -------
    array of shape (n,)
        Fractions of the lengths.

    Notes
    -----
    With the point at `x` along an axis of length `L` and at the distance `y` from it, and with a
    radius that grows by `k`, it is the minimum over `t` from 0 to 1 of the convex function
    ``sqrt((x - t L)^2 + y^2) - t k``, which lies at ``t L = x + y k / sqrt(L^2 - k^2)``; if
    ``L <= |k|`` the larger ball has the smaller one inside.
    """
    axes = capsules.ends - capsules.starts
    growth = capsules.radii[:, 1] - capsules.radii[:, 0]
    length = np.linalg.norm(axes, axis=1)
    is_ball = length <= np.abs(growth)
    divisor = np.where(is_ball, 1, length)
    directions = axes / divisor[:, None]
    offsets = points - capsules.starts
    x = _dot(offsets, directions)
    y = np.linalg.norm(offsets - x[:, None] * directions, axis=1)
    slope = growth / np.sqrt(np.where(is_ball, 1, (length - growth) * (length + growth)))
    return np.where(is_ball, growth > 0, np.clip((x + y * slope) / divisor, 0, 1))


def find_deepest(first: Capsules, second: Capsules) -> Deepest:
    """Find where each capsule overlaps another one most, or is nearest to it.

    Parameters
    ----------
    first, second : Capsules
        As many of both; row i of one is compared with row i of the other.

    Returns
    -------
    Deepest
        Of parallel capsules that overlap all along, one such place.

    Notes
    -----
    The overlap of the balls at the fractions `s` and `t`, ``a(s) + b(t) - |P(s) - Q(t)|``, is
    concave: its greatest value is inside of the square of `s` and `t`, where the gradient is 0, or
    on an edge, where `find_nearest` has it.  Inside, the unit vector `n` from `Q` to `P` has
    ``n . P' = a'`` and ``n . Q' = -b'``, which leaves two vectors, of which that on the side of
    ``P - Q`` counts; then `s` and `t` solve two linear equations.  Where radii do not taper, `n` is
    across both axes, and these are the nearest points of the axes.  Clipped to the square, every
    candidate is a place that exists, so that the best of them is right without further cases.
    """
    candidates = [_find_stationary(first, second)]
    for end in (0.0, 1.0):
        fixed = np.full(len(first.starts), end)
        candidates.append((fixed, find_nearest(first.find_points(fixed), second)))
        candidates.append((find_nearest(second.find_points(fixed), first), fixed))
    best = Deepest(*(np.full(len(first.starts), fill) for fill in (-np.inf, 0.0, 0.0)))
    for along_first, along_second in candidates:
        overlap = find_overlaps(first, second, along_first, along_second)
        is_better = overlap > best.overlap
        found = (overlap, along_first, along_second)
        best = Deepest(*(np.where(is_better, *pair) for pair in zip(found, best, strict=True)))
    return best


def find_overlaps(
    first: Capsules, second: Capsules, along_first: Floats, along_second: Floats
) -> Floats:
    """Return the sum of the radii less the distance, at fractions of the lengths, um."""
    gaps = first.find_points(along_first) - second.find_points(along_second)
    radii = first.find_radii(along_first) + second.find_radii(along_second)
    return radii - np.linalg.norm(gaps, axis=1)


def find_extents(first: Capsules, second: Capsules, inside: Floats) -> Floats:
    """Return from where to where along the first capsules their balls overlap the second.

    Parameters
    ----------
    first, second : Capsules
        As many of both.
    inside : array of shape (n,)
        Fractions of the lengths of the first where they overlap, as `find_deepest` finds them.

    Returns
    -------
    array of shape (n, 2)
        Fractions of the lengths of the first.

    Notes
    -----
    A concave function is positive on one interval.  Its ends are found by halving: the equations
    that they solve have many cases, and few pairs of all overlap.
    """
    extents = [_find_end(first, second, inside, outermost) for outermost in (0.0, 1.0)]
    return np.stack(extents, axis=1)


def iterate_near(first: Capsules, second: Capsules) -> Iterator[tuple[Indices, Indices]]:
    """Give all pairs of capsules that may overlap, at most `MOST_PAIRS` at a time.

    Parameters
    ----------
    first, second : Capsules
        Any numbers of them.

    Yields
    ------
    tuple of two arrays of shape (n_pairs,)
        Rows of the first and of the second, in an order that depends on nothing else.

    Notes
    -----
    Capsules are sought by the balls around them in k-d trees.  One long capsule among many short
    ones would have all of them sought far away; so there is a tree for each doubling of size.
    """
    from scipy.spatial import KDTree

    if not len(first.starts) or not len(second.starts):
        return
    middles, reaches = _find_balls(first)
    other_middles, other_reaches = _find_balls(second)
    octaves = np.ceil(np.log2(np.maximum(other_reaches, np.finfo(float).tiny)))
    for octave in np.unique(octaves):
        rows = np.flatnonzero(octaves == octave)
        tree = KDTree(other_middles[rows])
        # A little more, lest rounding loses two that just overlap.
        radii = (reaches + other_reaches[rows].max()) * (1 + 1e-9)
        counts = tree.query_ball_point(middles, radii, return_length=True)
        for part in _split_by_sum(counts, MOST_PAIRS):
            found = tree.query_ball_point(middles[part], radii[part], return_sorted=True)
            yield np.repeat(part, counts[part]), rows[np.concatenate(found).astype(np.int64)]


def _find_balls(capsules: Capsules) -> tuple[Floats, Floats]:
    """Return centres and radii of balls around capsules."""
    half = (capsules.ends - capsules.starts) / 2
    return capsules.starts + half, np.linalg.norm(half, axis=1) + capsules.radii.max(axis=1)


def _split_by_sum(counts: Indices, most: int) -> Iterator[Indices]:
    """Give the indices of the counts above 0 in runs, whose sums are at most `most` if they can."""
    rows = np.flatnonzero(counts)
    sums = np.cumsum(counts[rows])
    done = 0
    while done < len(rows):
        before = sums[done - 1] if done else 0
        end = max(done + 1, int(np.searchsorted(sums, before + most, side="right")))
        yield rows[done:end]
        done = end


def _find_stationary(first: Capsules, second: Capsules) -> tuple[Floats, Floats]:
    """Return where the gradient of the overlap is 0, clipped; anything if it is so nowhere."""
    u, v, w = first.ends - first.starts, second.ends - second.starts, first.starts - second.starts
    grow_u, grow_v = first.radii[:, 1] - first.radii[:, 0], second.radii[:, 1] - second.radii[:, 0]
    across = np.cross(u, v)
    uu, uv, vv, mm = _dot(u, u), _dot(u, v), _dot(v, v), _dot(across, across)
    # As parallel as rounding can tell: then an edge is as good, and quotients would overflow.
    is_parallel = mm <= _PARALLEL**2 * uu * vv
    mm = np.where(is_parallel, 1, mm)
    # n = alpha u + beta v + gamma (u x v) with n . u = grow_u, n . v = -grow_v and |n| = 1.
    alpha, beta = (vv * grow_u + uv * grow_v) / mm, (-uv * grow_u - uu * grow_v) / mm
    rest = 1 - alpha * grow_u + beta * grow_v  # gamma^2 mm, negative if there is no such n
    is_nowhere = is_parallel | (rest <= 0)
    distance = np.abs(_dot(w, across)) / np.sqrt(mm * np.where(is_nowhere, 1, rest))
    # w + s u - t v = distance n, times u and times v.
    e, f = distance * grow_u - _dot(w, u), -distance * grow_v - _dot(w, v)
    s, t = np.clip([vv * e - uv * f, uv * e - uu * f] / mm, 0, 1)
    return np.where(is_nowhere, 0, s), np.where(is_nowhere, 0, t)


def _find_end(first: Capsules, second: Capsules, inside: Floats, outermost: float) -> Floats:
    """Return how far towards one end of the first capsules they overlap the second."""
    inner, outer = inside.copy(), np.full_like(inside, outermost)
    inner[_overlaps_at(first, second, outer)] = outermost
    for _ in range(_N_HALVINGS):
        middle = (inner + outer) / 2
        overlaps = _overlaps_at(first, second, middle)
        inner, outer = np.where(overlaps, middle, inner), np.where(overlaps, outer, middle)
    return inner


def _overlaps_at(first: Capsules, second: Capsules, along: Floats) -> NDArray[np.bool_]:
    nearest = find_nearest(first.find_points(along), second)
    return find_overlaps(first, second, along, nearest) > 0


def _dot(a: Floats, b: Floats) -> Floats:
    product: Floats = np.einsum("ni,ni->n", a, b)
    return product
