"""Projection onto the skeleton: for each of its voxels, where the nearest tract's centre lies."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.errors import InputError
from nipype_blm.tbss.volumes import (
    DIRECTIONS,
    Volume,
    check_volume,
    check_zooms,
    find_box,
)

MAX_DISTANCE_MM = 20.0
SIGMA_MM = 10.0


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


class Offsets(NamedTuple):
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
        0 on the skeleton and outside of the search mask.
    """
    check_volume("skeleton_mask", skeleton_mask)
    check_volume("search_mask", search_mask, np.shape(skeleton_mask))
    sizes = check_zooms(zooms)
    free = np.asarray(search_mask, bool) & ~np.asarray(skeleton_mask, bool)
    distance = np.zeros(free.shape, np.float32)
    box = find_box(free)
    if free[box].size:
        # A voxel outside of the image ends the search as one outside of the mask does.
        inner = (slice(1, -1),) * 3
        around = ndimage.distance_transform_edt(np.pad(free[box], 1), sampling=sizes)
        distance[box] = around[inner]
    return distance


def plan_search(
    skeleton_mask: Any,
    directions: NDArray[np.int8],
    distance: Volume,
    zooms: Sequence[float],
    search_rule: Any = None,
    max_distance_mm: float = MAX_DISTANCE_MM,
    sigma_mm: float = SIGMA_MM,
) -> Search:
    """Return where each voxel of a skeleton looks for the centre of its tract.

    It is the same for all images of a study.  See `find_offsets`.
    """
    check_volume("skeleton_mask", skeleton_mask)
    skeleton = np.asarray(skeleton_mask, bool)
    shape = skeleton.shape
    check_volume("directions", directions, shape)
    check_volume("distance", distance, shape)
    sizes = check_zooms(zooms)
    voxels = np.flatnonzero(skeleton)
    chosen = directions.ravel()[voxels]
    if (chosen < 0).any():
        raise InputError("directions has none at voxels of the skeleton: find them in its FA.")
    rounds: list[Round] = []
    steps = DIRECTIONS[chosen]
    for sign in (1, -1):
        rounds += _march(voxels, sign * steps, distance, sizes, max_distance_mm, sigma_mm)
    return Search(shape, voxels, rounds)


def _march(
    voxels: NDArray[np.intp],
    steps: NDArray[np.intp],
    distance: Volume,
    sizes: NDArray[np.float64],
    max_distance_mm: float,
    sigma_mm: float,
) -> Iterator[Round]:
    """Yield the places along a ray from each voxel, while the distance grows."""
    padded = np.pad(distance, 1)
    rows = np.arange(voxels.size)
    start = np.array(np.unravel_index(voxels, distance.shape)).T
    last = np.zeros(voxels.size, np.float32)
    lengths = np.linalg.norm(steps * sizes, axis=1)
    k = 0
    while rows.size:
        k += 1
        places = start[rows] + k * steps[rows]
        now = padded[tuple((places + 1).T)]
        goes_on = (now > last) & (k * lengths[rows] <= max_distance_mm)
        rows, places, last = rows[goes_on], places[goes_on], now[goes_on]
        weight = np.exp(-0.5 * (k * lengths[rows] / sigma_mm) ** 2)
        flat = np.ravel_multi_index(tuple(places.T), distance.shape)
        yield Round(rows, flat, weight.astype(np.float32))


def apply_search(fa: Any, search: Search) -> Offsets:
    """Return where FA, weighted by distance, is highest for each voxel of the skeleton."""
    check_volume("fa", fa, search.shape)
    values = np.asarray(fa, np.float32).ravel()
    found = search.voxels.copy()
    best = values[found]
    best[np.isnan(best)] = -np.inf
    for rows, places, weight in search.rounds:
        weighted = values[places] * weight
        wins = weighted > best[rows]
        best[rows[wins]] = weighted[wins]
        found[rows[wins]] = places[wins]
    return Offsets(search.shape, search.voxels, found)


def find_offsets(
    fa: Any,
    skeleton_mask: Any,
    directions: NDArray[np.int8],
    distance: Volume,
    zooms: Sequence[float],
    search_rule: Any = None,
    max_distance_mm: float = MAX_DISTANCE_MM,
    sigma_mm: float = SIGMA_MM,
) -> Offsets:
    """Return where in one image the centre of the tract of each voxel of the skeleton lies."""
    search = plan_search(
        skeleton_mask, directions, distance, zooms, search_rule, max_distance_mm, sigma_mm
    )
    return apply_search(fa, search)


def project(values: Any, offsets: Offsets) -> Volume:
    """Return values of any map at the centres of tracts, on the skeleton; 0 elsewhere."""
    check_volume("values", values, offsets.shape)
    projected = np.zeros(offsets.shape, np.float32)
    projected.ravel()[offsets.voxels] = np.asarray(values).ravel()[offsets.found]
    return projected
