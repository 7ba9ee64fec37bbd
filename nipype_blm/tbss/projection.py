"""Projection onto the skeleton: for each of its voxels, where the nearest tract's centre lies."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from nipype_blm.errors import InputError
from nipype_blm.tbss.neighbours import (
    DIRECTIONS,
    Mask,
    Volume,
    check_volume,
    check_zooms,
    find_box,
)

MAX_DISTANCE_MM = 20.0
SIGMA_MM = 20.0 / math.sqrt(8 * math.log(2))  # of a full width at half maximum of 20 mm
# A circular search: rays in the plane across a tube, and how far its axis is looked for.
N_RAYS = 16
TUBE_MM = 5.0


class Round(NamedTuple):
    """Places to look at together: at most one for each voxel of the skeleton."""

    rows: NDArray[np.intp]  # (n,), which voxel of the skeleton looks
    places: NDArray[np.intp]  # (n,), where: flat indices of voxels
    weight: NDArray[np.float32]  # (n,), of the distance


class Search(NamedTuple):
    """Where each voxel of a skeleton looks for the centre of its tract, in any image."""

    shape: tuple[int, ...]  # of the volume
    voxels: NDArray[np.intp]  # (n_skeleton,), flat indices
    rounds: list[Round]  # the nearest places first, along each ray


class Centres(NamedTuple):
    """Where the centre of the tract of each voxel of a skeleton lies in one image."""

    shape: tuple[int, ...]  # of the volume
    voxels: NDArray[np.intp]  # (n_skeleton,), flat indices
    found: NDArray[np.intp]  # (n_skeleton,), flat indices


def compute_distance(skeleton_mask: Any, search_mask: Any, zooms: Sequence[float]) -> Volume:
    """Return the distance of each voxel from the skeleton or the end of the search mask, in mm.

    Parameters
    ----------
    skeleton_mask, search_mask : array of shape (nx, ny, nz)
        The skeleton above its threshold, and the voxels that may be searched.
    zooms : sequence of 3 floats
        Sizes of voxels, mm.

    Returns
    -------
    array of float32, of shape (nx, ny, nz)
        0 on the skeleton and outside of the search mask; 0 everywhere if there is neither.
    """
    check_volume("skeleton_mask", skeleton_mask)
    check_volume("search_mask", search_mask, np.shape(skeleton_mask))
    sizes = check_zooms(zooms)
    free = np.asarray(search_mask, bool) & ~np.asarray(skeleton_mask, bool)
    distance = np.zeros(free.shape, np.float32)
    if free.any() and not free.all():
        # What lies one voxel around the box is nearer than anything behind it.
        box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in find_box(free))
        distance[box] = ndimage.distance_transform_edt(free[box], sampling=sizes)
    return distance


def plan_search(
    skeleton_mask: Any,
    directions: NDArray[np.int8],
    distance: Any,
    zooms: Sequence[float],
    tubular_mask: Any = None,
    max_distance_mm: float = MAX_DISTANCE_MM,
    sigma_mm: float = SIGMA_MM,
) -> Search:
    """Return where each voxel of a skeleton looks for the centre of its tract.

    It is the same for all images of a study.

    Parameters
    ----------
    skeleton_mask : array of shape (nx, ny, nz)
        The skeleton above its threshold.
    directions : array of shape (nx, ny, nz)
        Across the tract, as `find_directions` returns them.
    distance : array of shape (nx, ny, nz)
        What `compute_distance` returns, mm.
    zooms : sequence of 3 floats
        Sizes of voxels, mm.
    tubular_mask : array of shape (nx, ny, nz), optional
        Where tracts are tubes rather than sheets: the lower cingulum.
    max_distance_mm : float
        The search ends there.
    sigma_mm : float
        Standard deviation of the weight of a distance.

    Returns
    -------
    Search

    Notes
    -----
    Each voxel of the skeleton looks both ways across its tract, as long as the distance from the
    skeleton grows, for the highest FA times ``exp(-d² / (2 sigma²))``, d being the distance from
    the voxel ([1]_, where the full width at half maximum is 20 mm).  Of equal values the nearest
    is taken.

    The cingulum bundle beside the hippocampus is a tube, and has no one direction across it: there
    the search is circular.  It goes along `N_RAYS` rays in the plane across the tube, by the same
    rules.  That plane is taken from the voxels of the skeleton within `TUBE_MM`, the axis being
    that of their largest spread.  FSL's own way to find it may differ.

    References
    ----------
    .. [1] S. M. Smith et al. (2006). Tract-based spatial statistics: voxelwise analysis of
       multi-subject diffusion data. NeuroImage 31, 1487-1505.
    """
    check_volume("skeleton_mask", skeleton_mask)
    skeleton = np.asarray(skeleton_mask, bool)
    check_volume("directions", directions, skeleton.shape)
    check_volume("distance", distance, skeleton.shape)
    sizes = check_zooms(zooms)
    voxels = np.flatnonzero(skeleton)
    chosen = np.asarray(directions).ravel()[voxels]
    if (chosen < 0).any():
        raise InputError("directions has none at voxels of the skeleton: find them in its FA.")
    is_tube = np.zeros(voxels.size, bool)
    if tubular_mask is not None:
        check_volume("tubular_mask", tubular_mask, skeleton.shape)
        is_tube = np.asarray(tubular_mask, bool).ravel()[voxels]
    walker = _Walker(np.pad(np.asarray(distance, np.float32), 1), sizes, max_distance_mm, sigma_mm)
    sheets, tubes = np.flatnonzero(~is_tube), np.flatnonzero(is_tube)
    rounds: list[Round] = []
    for sign in (1, -1):
        rounds += walker.walk(voxels, sheets, sign * DIRECTIONS[chosen[sheets]])
    for steps in _find_rays(skeleton, voxels[tubes], sizes):
        rounds += walker.walk(voxels, tubes, steps)
    return Search(skeleton.shape, voxels, rounds)


class _Walker(NamedTuple):
    """Walks from voxels of a skeleton as long as the distance from it grows."""

    distance: Volume  # mm, padded by one voxel
    sizes: NDArray[np.float64]  # of voxels, mm
    max_distance_mm: float
    sigma_mm: float

    def walk(
        self, voxels: NDArray[np.intp], rows: NDArray[np.intp], steps: NDArray[Any]
    ) -> Iterator[Round]:
        """Yield the places along one ray from each of some rows of voxels.

        The longest coordinate of a step, in voxels, is 1, so that no voxel comes twice.
        """
        shape = np.subtract(self.distance.shape, 2)
        start = np.stack(np.unravel_index(voxels[rows], shape), axis=1)
        last = np.zeros(rows.size, np.float32)
        k = 0
        while rows.size:
            k += 1
            centres = np.rint(k * steps).astype(np.intp)
            places = start + centres
            length = np.linalg.norm(centres * self.sizes, axis=1)
            now = self.distance[tuple(places.T + 1)]
            goes_on = (now > last) & (length <= self.max_distance_mm)
            rows, start, steps, last = rows[goes_on], start[goes_on], steps[goes_on], now[goes_on]
            weight = np.exp(-0.5 * (length[goes_on] / self.sigma_mm) ** 2)
            flat = np.ravel_multi_index(tuple(places[goes_on].T), shape)
            if rows.size:
                yield Round(rows, flat, weight.astype(np.float32))


def _find_rays(
    skeleton: Mask, tubes: NDArray[np.intp], sizes: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Yield the steps, (n_tubes, 3), in voxels, of each ray in the planes across the tubes."""
    if not tubes.size:
        return
    points = np.argwhere(skeleton) * sizes
    centres = np.stack(np.unravel_index(tubes, skeleton.shape), axis=1) * sizes
    reach = max(TUBE_MM, 2 * sizes.max())
    planes = np.empty((tubes.size, 3, 2))
    for i, near in enumerate(cKDTree(points).query_ball_point(centres, reach)):
        apart = points[near] - centres[i]
        # Ascending eigenvalues: the last eigenvector follows the tube.
        planes[i] = np.linalg.eigh(apart.T @ apart).eigenvectors[:, :2]
    for angle in 2 * np.pi * np.arange(N_RAYS) / N_RAYS:
        steps = planes @ np.array([np.cos(angle), np.sin(angle)]) / sizes
        yield steps / np.abs(steps).max(axis=1, keepdims=True)


def apply_search(fa: Any, search: Search) -> Centres:
    """Return where FA of one image is highest, weighted by distance, for each voxel of a skeleton.

    Parameters
    ----------
    fa : array of shape (nx, ny, nz)
        FA of the image, in the space of the skeleton.
    search : Search
        What `plan_search` returns.
    """
    check_volume("fa", fa, search.shape)
    values = np.asarray(fa, np.float32).ravel()
    found = search.voxels.copy()
    # A voxel without a value is never the centre of a tract.
    best = np.where(np.isnan(values[found]), -np.inf, values[found])
    for rows, places, weight in search.rounds:
        weighted = values[places] * weight
        wins = weighted > best[rows]
        best[rows[wins]] = weighted[wins]
        found[rows[wins]] = places[wins]
    return Centres(search.shape, search.voxels, found)


def project(values: Any, centres: Centres) -> Volume:
    """Return values of any map at the centres of tracts, on the skeleton.

    Parameters
    ----------
    values : array of shape (nx, ny, nz)
        A map of the image that was searched, in any units.
    centres : Centres
        Of its FA.

    Returns
    -------
    array of float32, of shape (nx, ny, nz)
        0 off the skeleton.
    """
    check_volume("values", values, centres.shape)
    projected = np.zeros(centres.shape, np.float32)
    projected.ravel()[centres.voxels] = np.asarray(values).ravel()[centres.found]
    return projected
