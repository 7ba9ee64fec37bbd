"""The skeleton of mean FA: the ridge of its tracts, one voxel thin."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.errors import InputError
from nipype_blm.tbss.neighbours import (
    DIRECTIONS,
    Mask,
    Volume,
    check_fa,
    check_volume,
    check_zooms,
    cut,
    find_box,
    look,
    sum_neighbourhood,
)
from nipype_blm.tbss.topology import join, thin

# Nearer to the centre of its voxel than this, a centre of gravity has no direction (voxels).
LEAST_OFFSET = 0.1
# Weight and width (voxels) of the smooth copy that decides between equal values of FA.
TIE_WEIGHT = 1e-3
TIE_SIGMA = 2.0


def find_directions(mean_fa: Any, zooms: Sequence[float]) -> NDArray[np.int8]:
    """Return the direction across the tract at each voxel, as a row of `DIRECTIONS`.

    Parameters
    ----------
    mean_fa : array of shape (nx, ny, nz)
        Mean FA, 0 outside of the brain.
    zooms : sequence of 3 floats
        Sizes of voxels, mm.

    Returns
    -------
    array of int8, of shape (nx, ny, nz)
        -1 where mean FA is 0.

    Notes
    -----
    As described in [1]_: beside the centre of a tract the centre of gravity of FA in 3 x 3 x 3
    voxels lies towards it.  Its offset in voxels, divided by their sizes, is parallel to the
    gradient of FA.  On the centre there is no such offset, and the direction is that in which FA
    falls most: of the largest negative second derivative, differences being divided by the squared
    length of the step in mm.  The mode in 3 x 3 x 3 voxels then replaces the direction of each
    voxel.  Of directions that are as frequent, that of the voxel itself is taken, else that with
    the larger second derivative.

    References
    ----------
    .. [1] S. M. Smith et al. (2006). Tract-based spatial statistics: voxelwise analysis of
       multi-subject diffusion data. NeuroImage 31, 1487-1505.
    """
    fa = check_fa("mean_fa", mean_fa)
    sizes = check_zooms(zooms)
    directions = np.full(fa.shape, -1, np.int8)
    box = find_box(fa > 0)
    directions[box] = _find_in_box(np.pad(_break_ties(fa[box]), 1), sizes)
    return directions


def compute_skeleton(
    mean_fa: Any, zooms: Sequence[float], directions: NDArray[np.int8] | None = None
) -> Volume:
    """Return mean FA on the ridges of its tracts, and 0 elsewhere.

    Parameters
    ----------
    mean_fa : array of shape (nx, ny, nz)
        Mean FA, 0 outside of the brain.
    zooms : sequence of 3 floats
        Sizes of voxels, mm.
    directions : array of shape (nx, ny, nz), optional
        What `find_directions` returns; found if it is not given.

    Returns
    -------
    array of float32, of shape (nx, ny, nz)
        No threshold is applied.

    Notes
    -----
    A voxel is on the ridge if its FA is not exceeded by either neighbour across the tract [1]_.
    Where directions change from voxel to voxel that leaves double and open places.  So `thin`
    takes what lies double, and `join` adds voxels between two pieces that are highest in the
    direction in which FA falls most.  Of neighbours with equal FA that one is taken to be higher
    around which FA is, within `TIE_SIGMA`.

    References
    ----------
    .. [1] S. M. Smith et al. (2006). Tract-based spatial statistics: voxelwise analysis of
       multi-subject diffusion data. NeuroImage 31, 1487-1505.
    """
    fa = check_fa("mean_fa", mean_fa)
    sizes = check_zooms(zooms)
    if directions is None:
        directions = find_directions(fa, zooms)
    check_volume("directions", directions, fa.shape)
    if directions.min() < -1 or directions.max() >= len(DIRECTIONS):
        raise InputError("directions has values outside -1 to 12: give those of find_directions.")
    box = find_box(fa > 0)
    skeleton = np.zeros_like(fa)
    if fa[box].size:
        is_ridge = _find_whole_ridge(_break_ties(fa[box]), directions[box], sizes)
        skeleton[box] = np.where(is_ridge, fa[box], 0)
    return skeleton


def _break_ties(fa: Volume) -> Volume:
    """Return FA with the middle of each plateau highest."""
    if not fa.size:
        return fa
    smooth = ndimage.gaussian_filter(fa, TIE_SIGMA, mode="constant")
    return np.where(fa > 0, fa + np.float32(TIE_WEIGHT) * smooth, 0)


def _find_in_box(padded: Volume, sizes: NDArray[np.float64]) -> NDArray[np.int8]:
    inside = look(padded, (0, 0, 0)) > 0
    steps = DIRECTIONS * sizes
    curvature = _compute_curvature(padded, inside, steps)
    chosen = curvature.argmax(axis=0).astype(np.int8)
    gravity = _compute_gravity(padded, inside)
    is_beside = np.sqrt((gravity**2).sum(axis=1)) > LEAST_OFFSET
    unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    # Of voxels longer along one axis the neighbourhood is longer, too, and its centre of gravity
    # is drawn to that axis: by the squared length.
    beside = gravity[is_beside] / sizes.astype(np.float32)
    chosen[is_beside] = np.abs(beside @ unit.T.astype(np.float32)).argmax(axis=1)
    return _take_mode(chosen, curvature, inside)


def _compute_curvature(padded: Volume, inside: Mask, steps: NDArray[np.float64]) -> Volume:
    """Return minus the second derivative along each direction, (13, n_voxels), per mm²."""
    curvature = np.empty((len(DIRECTIONS), np.count_nonzero(inside)), np.float32)
    twice = 2 * look(padded, (0, 0, 0))
    for i, step in enumerate(DIRECTIONS):
        change = twice - look(padded, step) - look(padded, -step)
        curvature[i] = change[inside] / np.float32(steps[i] @ steps[i])
    return curvature


def _compute_gravity(padded: Volume, inside: Mask) -> Volume:
    """Return offsets of centres of gravity of 3 x 3 x 3 voxels, (n_voxels, 3), in voxels."""
    mass = sum_neighbourhood(padded)[inside]
    gravity = np.empty((mass.size, 3), np.float32)
    for axis in range(3):
        moment = cut(padded, axis, 2) - cut(padded, axis, 0)
        for other in {0, 1, 2} - {axis}:
            moment = cut(moment, other, 0) + cut(moment, other, 1) + cut(moment, other, 2)
        gravity[:, axis] = moment[inside] / mass
    return gravity


def _take_mode(chosen: NDArray[np.int8], curvature: Volume, inside: Mask) -> NDArray[np.int8]:
    """Return the mode of directions in 3 x 3 x 3 voxels; -1 outside."""
    padded = np.full(np.add(inside.shape, 2), -1, np.int8)
    look(padded, (0, 0, 0))[inside] = chosen
    best = np.full(chosen.shape, -1, np.int8)
    most = np.zeros(chosen.shape, np.int8)
    steepest = np.zeros(chosen.shape, np.float32)
    for i in range(len(DIRECTIONS)):
        votes = 2 * sum_neighbourhood((padded == i).view(np.int8))[inside] + (chosen == i)
        wins = (votes > most) | ((votes == most) & (curvature[i] > steepest))
        best[wins] = i
        most = np.where(wins, votes, most)
        steepest = np.where(wins, curvature[i], steepest)
    modes = np.full(inside.shape, -1, np.int8)
    modes[inside] = best
    return modes


def _find_whole_ridge(
    height: Volume, directions: NDArray[np.int8], sizes: NDArray[np.float64]
) -> Mask:
    """Return a ridge that is neither double nor open where it need not be."""
    ridge = thin(_find_ridge(height, directions), height, directions)
    padded = np.pad(height, 1)
    inside = height > 0
    steepest = np.full(height.shape, -1, np.int8)
    curvature = _compute_curvature(padded, inside, DIRECTIONS * sizes)
    steepest[inside] = curvature.argmax(axis=0)
    return join(ridge, _find_ridge(height, steepest), height)


def _find_ridge(height: Volume, directions: NDArray[np.int8]) -> Mask:
    """Return what no neighbour along its direction exceeds."""
    padded = np.pad(height, 1)
    ridge = np.zeros(height.shape, bool)
    for i, step in enumerate(DIRECTIONS):
        here = (directions == i) & (height > 0)
        # Equal neighbours: the first along the direction is kept, so that a ridge is never double.
        ridge |= here & (height >= look(padded, step)) & (height > look(padded, -step))
    return ridge
