"""FWHM and resels of residuals, against loops over voxels, and of shapes that can be counted."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.smoothness import (
    add_residuals,
    compute_smoothness,
    count_resels,
    find_cells,
    make_sums,
    merge_sums,
)
from nipype_blm.core.threads import Threads

SHAPES = {3: (6, 5, 4), 2: (7, 1, 6), 1: (1, 1, 12)}


def make_residuals(shape, share_missing=0.0, n_images=9, seed=1):
    """Return a mask, and smooth residuals with missing values at its voxels, x fastest."""
    rng = np.random.default_rng(seed)
    inside = rng.random(shape) < 0.95
    values = rng.standard_normal((n_images, *shape))
    for axis in range(1, 4):
        values = values + np.roll(values, 1, axis)
    values[rng.random(values.shape) < share_missing] = np.nan
    return inside, np.array([image.T[inside.T] for image in values])


def estimate(inside, residuals, least_images=2, threads=None):
    cells = find_cells(inside)
    sums = make_sums(cells)
    for image in residuals:
        add_residuals(sums, cells, image, *([threads] if threads else []))
    return compute_smoothness(sums, cells, inside, least_images)


def estimate_by_loops(inside, residuals, least_images=2):
    """Return FWHM, and resels of each voxel by its place."""
    axes = [axis for axis in range(3) if inside.shape[axis] > 1]
    full = np.full((*inside.shape, len(residuals)), np.nan)
    full.transpose(2, 1, 0, 3)[inside.T] = residuals.T
    resels, along = {}, []
    for place in zip(*np.nonzero(inside), strict=True):
        cell = [
            tuple(np.add(place, np.isin(range(3), step)))
            for size in range(len(axes) + 1)
            for step in itertools.combinations(axes, size)
        ]
        if any(max(np.subtract(each, inside.shape)) >= 0 or not inside[each] for each in cell):
            continue
        if np.isfinite(full[place]).sum() < least_images:
            continue
        u = {each: np.nan_to_num(full[each]) for each in cell}
        u = {each: values / math.sqrt(values @ values) for each, values in u.items()}
        steps = [u[tuple(np.add(place, np.arange(3) == axis))] - u[place] for axis in axes]
        L = np.array([[a @ b for b in steps] for a in steps]) / (4 * math.log(2))
        resels[place] = math.sqrt(np.linalg.det(L))
        along.append(np.sqrt(np.diag(L)))
    mean = np.mean(along, axis=0)
    fwhm = np.ones(3)
    scale = (np.mean(list(resels.values())) / np.prod(mean)) ** (1 / len(axes))
    fwhm[axes] = 1 / (scale * mean)
    return fwhm, resels


@pytest.mark.parametrize("share_missing", [0, 0.3])
@pytest.mark.parametrize("n_axes", SHAPES)
def test_fwhm_and_resels_equal_loops_over_voxels(n_axes, share_missing):
    inside, residuals = make_residuals(SHAPES[n_axes], share_missing)
    fwhm, resels = estimate_by_loops(inside, residuals, least_images=5)
    found = estimate(inside, residuals, least_images=5)
    # Sums of products near 1 are subtracted: some digits of 16 are lost.
    assert_allclose(found.fwhm, fwhm, rtol=1e-12)
    expected = np.full(inside.shape, np.nan)
    for place, value in resels.items():
        expected[place] = value
    assert_allclose(found.resels_per_voxel, expected.T[inside.T], rtol=1e-10)
    assert found.n_used == len(resels)
    assert found.n_used < np.count_nonzero(inside)
    assert_allclose(found.resel_counts, count_resels(inside, fwhm), rtol=1e-12)


def test_sums_of_batches_add_up_and_threads_do_not_matter():
    inside, residuals = make_residuals((12, 9, 8), 0.1)
    cells = find_cells(inside)
    whole, first, second = (make_sums(cells) for _ in range(3))
    with Threads(2) as threads:
        for image in residuals:
            add_residuals(whole, cells, image, threads)
    for number, image in enumerate(residuals):
        add_residuals(first if number < 4 else second, cells, image)
    merged = merge_sums(first, second)
    assert_array_equal(merged.n_images, whole.n_images)
    assert_allclose(merged.products, whole.products, rtol=1e-14, atol=1e-14)
    with Threads(2) as threads:
        assert_array_equal(
            estimate(inside, residuals, threads=threads).resels_per_voxel,
            estimate(inside, residuals).resels_per_voxel,
        )


@pytest.mark.parametrize("scale", [1e12, 1e-12])
def test_the_unit_of_the_images_does_not_matter(scale):
    inside, residuals = make_residuals((6, 6, 6), 0.1)
    found = estimate(inside, residuals * scale)
    assert_allclose(found.fwhm, estimate(inside, residuals).fwhm, rtol=1e-12)


def test_images_that_few_voxels_share_make_statistics_rougher():
    inside, residuals = make_residuals((8, 8, 8), 0.0, n_images=20)
    holes = residuals.copy()
    holes[np.random.default_rng(2).random(holes.shape) < 0.2] = np.nan
    assert (estimate(inside, holes).fwhm < 0.95 * estimate(inside, residuals).fwhm).all()


def test_a_voxel_without_variance_is_left_out_and_nothing_is_made_of_nothing():
    inside, residuals = make_residuals((5, 5, 5))
    inside[...] = True
    inside, residuals = np.ones((5, 5, 5), bool), np.tile(residuals[:, :1], (1, 125))
    residuals += np.random.default_rng(3).standard_normal(residuals.shape)
    residuals[:, 31] = 0  # x = 1, y = 1, z = 1: the corner of cells at eight voxels
    found = estimate(inside, residuals)
    assert found.n_used == 64 - 4  # itself, and the three of which it is the next one
    assert np.isnan(found.resels_per_voxel[31])
    assert estimate(inside, residuals * 0) is None
    assert estimate(inside, residuals, least_images=10) is None
    assert (
        estimate(np.eye(5, dtype=bool)[..., None] & np.eye(5, dtype=bool), residuals[:, :5]) is None
    )
    assert estimate(np.ones((1, 1, 1), bool), residuals[:, :1]) is None


def test_resels_of_shapes_are_those_of_geometry():
    box = np.zeros((9, 8, 7), bool)
    box[1:7, 2:7, 1:5] = True  # 5 x 4 x 3 steps
    x, y, z = 5 / 2.0, 4 / 4.0, 3 / 1.5
    counts = count_resels(box, np.array([2.0, 4.0, 1.5]))
    assert_allclose(counts, [1, x + y + z, x * y + x * z + y * z, x * y * z], rtol=1e-14)
    hollow = box.copy()
    hollow[3:5, 4:5, 2:3] = False
    assert count_resels(hollow, np.ones(3))[0] == 2  # one piece, one hole inside
    ring = box.copy()
    ring[3:5, 4:5] = False
    assert count_resels(ring, np.ones(3))[0] == 0  # one piece, one handle
    assert_array_equal(count_resels(np.ones((1, 1, 1), bool), np.ones(3)), [1, 0, 0, 0])
