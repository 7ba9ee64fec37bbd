"""Each voxel of the skeleton gets the value of the tract's centre in the image."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from nipype_blm.errors import InputError
from nipype_blm.tbss.neighbours import DIRECTIONS
from nipype_blm.tbss.projection import (
    SIGMA_MM,
    apply_search,
    compute_distance,
    plan_search,
    project,
)
from nipype_blm.tbss.skeleton import compute_skeleton, find_directions

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (1.0, 1.3, 2.1)
SHAPE = (21, 20, 22)


def find_centres(fa, *where, **limits):
    return apply_search(fa, plan_search(*where, **limits))


def make_study(seed, zooms=ISOTROPIC, shape=SHAPE):
    """Return FA of an image, and skeleton, directions and distance of a mean FA."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((2, *shape)), (0, 2, 2, 2))
    mean_fa, fa = np.clip(0.4 + 0.2 * noise / noise.std(), 0.01, 1).astype(np.float32)
    mean_fa[0] = 0
    directions = find_directions(mean_fa, zooms)
    skeleton = compute_skeleton(mean_fa, zooms, directions) > 0.45
    distance = compute_distance(skeleton, mean_fa > 0, zooms)
    return fa, skeleton, directions, distance


def make_wall(place, shape=SHAPE, width=1.5):
    """Return FA of a sheet across the first axis."""
    x = np.arange(shape[0]).reshape(-1, 1, 1)
    profile = 0.1 + 0.6 * np.exp(-0.5 * ((x - place) / width) ** 2)
    return np.broadcast_to(profile, shape).astype(np.float32)


def find_offset_slowly(fa, voxel, steps, distance, zooms, max_distance_mm=20.0, sigma_mm=SIGMA_MM):
    """Walk along each step from one voxel, as the definition says."""
    best, found = fa[voxel], voxel
    for step in steps:
        last = 0.0
        for k in range(1, 1000):
            offset = np.rint(k * np.asarray(step)).astype(int)
            place = tuple(np.add(voxel, offset))
            mm = np.sqrt(((offset * zooms) ** 2).sum())
            inside = all(0 <= p < n for p, n in zip(place, fa.shape, strict=True))
            if not inside or distance[place] <= last or mm > max_distance_mm:
                break
            last = distance[place]
            weighted = fa[place] * np.exp(-(mm**2) / (2 * sigma_mm**2))
            if weighted > best * (1 + 1e-6):
                best, found = weighted, place
    return found


def list_found(centres):
    return [tuple(map(int, np.unravel_index(place, centres.shape))) for place in centres.found]


@pytest.mark.parametrize("zooms", [ISOTROPIC, ANISOTROPIC, (2.0, 2.0, 2.0)])
def test_the_distance_is_that_to_the_nearest_voxel_of_the_skeleton_or_the_outside(zooms):
    rng = np.random.default_rng(1)
    skeleton = rng.random((7, 8, 6)) < 0.02
    search = rng.random((7, 8, 6)) < 0.97
    distance = compute_distance(skeleton, search, zooms)
    assert distance.dtype == np.float32
    ends = np.argwhere(skeleton | ~search)
    for voxel in np.ndindex(7, 8, 6):
        nearest = np.sqrt((((ends - voxel) * zooms) ** 2).sum(axis=1)).min()
        # Distances are stored in single precision.
        np.testing.assert_allclose(distance[voxel], nearest, rtol=1e-6)


def test_a_small_search_mask_gives_the_distances_of_the_whole():
    skeleton, search = np.zeros((2, 20, 21, 19), bool)
    skeleton[10, 11, 9] = search[8:14, 7:13, 6:19] = True
    ends = np.argwhere(skeleton | ~search)
    distance = compute_distance(skeleton, search, ANISOTROPIC)
    for voxel in np.argwhere(search):
        nearest = np.sqrt((((ends - voxel) * ANISOTROPIC) ** 2).sum(axis=1)).min()
        np.testing.assert_allclose(distance[tuple(voxel)], nearest, rtol=1e-6)


def test_with_nothing_to_search_or_nothing_to_end_at_distances_are_0():
    nothing, everything = np.zeros((3, 5, 5)), np.ones((3, 5, 5))
    assert not compute_distance(nothing, everything, ISOTROPIC).any()
    assert not compute_distance(nothing, nothing, ISOTROPIC).any()
    assert not compute_distance(everything, everything, ISOTROPIC).any()


@pytest.mark.parametrize("zooms", [ISOTROPIC, ANISOTROPIC])
@pytest.mark.parametrize("limits", [{}, {"max_distance_mm": 3.0, "sigma_mm": 2.0}])
def test_centres_are_those_of_the_definition(zooms, limits):
    fa, skeleton, directions, distance = make_study(2, zooms)
    centres = find_centres(fa, skeleton, directions, distance, zooms, **limits)
    expected = []
    for voxel in map(tuple, np.argwhere(skeleton)):
        step = DIRECTIONS[directions[voxel]]
        found = find_offset_slowly(fa, voxel, [step, -step], distance, zooms, **limits)
        expected.append(tuple(map(int, found)))
    assert list_found(centres) == expected
    assert np.mean(centres.found != centres.voxels) > 0.1


def test_one_plan_serves_all_images():
    fa, skeleton, directions, distance = make_study(3)
    search = plan_search(skeleton, directions, distance, ISOTROPIC)
    for image in (fa, fa[::-1], fa**2):
        found = find_centres(image, skeleton, directions, distance, ISOTROPIC).found
        np.testing.assert_array_equal(apply_search(image, search).found, found)


@pytest.mark.parametrize("place", [7.0, 8.0, 10.0, 12.0, 13.0])
def test_a_shifted_sheet_is_found(place):
    mean_fa = make_wall(10.0)
    directions = find_directions(mean_fa, ISOTROPIC)
    skeleton = compute_skeleton(mean_fa, ISOTROPIC, directions) > 0.2
    np.testing.assert_array_equal(np.unique(np.argwhere(skeleton)[:, 0]), [10])
    distance = compute_distance(skeleton, mean_fa > 0, ISOTROPIC)
    fa = make_wall(place)
    projected = project(fa, find_centres(fa, skeleton, directions, distance, ISOTROPIC))
    np.testing.assert_array_equal(projected, np.where(skeleton, fa.max(), 0))


def test_no_search_goes_nearer_to_another_sheet():
    mean_fa = np.maximum(make_wall(6.0), make_wall(14.0))
    directions = find_directions(mean_fa, ISOTROPIC)
    skeleton = compute_skeleton(mean_fa, ISOTROPIC, directions) > 0.2
    distance = compute_distance(skeleton, mean_fa > 0, ISOTROPIC)
    fa = make_wall(6.0)
    projected = project(fa, find_centres(fa, skeleton, directions, distance, ISOTROPIC))
    # Between both the search ends in the middle, so that the first sheet is not found twice.
    np.testing.assert_array_equal(projected[14][skeleton[14]], fa[10, 0, 0])


def test_the_weight_keeps_a_far_maximum_from_winning_by_little():
    skeleton = np.zeros((41, 3, 3), bool)
    skeleton[20] = True
    directions = np.full(skeleton.shape, np.flatnonzero((DIRECTIONS == (1, 0, 0)).all(1))[0])
    distance = compute_distance(skeleton, np.ones_like(skeleton), (2.0, 9.0, 9.0))
    weight = np.exp(-0.5 * (8 / SIGMA_MM) ** 2)
    for factor, expected in ((0.99, 20), (1.01, 24)):
        fa = np.full(skeleton.shape, 0.1, np.float32)
        fa[20] = 0.4
        fa[24] = 0.4 * factor / weight
        found = find_centres(fa, skeleton, directions, distance, (2.0, 9.0, 9.0))
        assert {place[0] for place in list_found(found)} == {expected}


def test_the_search_goes_as_far_as_the_limit_and_no_further():
    skeleton = np.zeros((31, 3, 3), bool)
    skeleton[15] = True
    directions = np.full(skeleton.shape, np.flatnonzero((DIRECTIONS == (1, 0, 0)).all(1))[0])
    distance = compute_distance(skeleton, np.ones_like(skeleton), (2.0, 2.0, 2.0))
    rising = np.broadcast_to(np.exp(np.arange(31.0)).reshape(-1, 1, 1), skeleton.shape)
    for limit, expected in ((10.0, 20), (9.9, 19), (1.9, 15)):
        found = find_centres(
            rising, skeleton, directions, distance, (2.0, 2.0, 2.0), max_distance_mm=limit
        )
        assert {place[0] for place in list_found(found)} == {expected}


def test_the_width_of_the_weight_is_20_mm_at_half_of_its_height():
    # As the paper says; 0.5 = exp(-10² / (2 sigma²)).
    np.testing.assert_allclose(np.exp(-(10**2) / (2 * SIGMA_MM**2)), 0.5, rtol=1e-12)


def test_values_are_those_of_the_map_and_places_those_of_fa():
    fa, skeleton, directions, distance = make_study(4)
    centres = find_centres(fa, skeleton, directions, distance, ISOTROPIC)
    md = np.random.default_rng(5).random(fa.shape) * 1e-3
    projected = project(md, centres)
    assert projected.dtype == np.float32
    expected = [md[place].astype(np.float32) for place in list_found(centres)]
    np.testing.assert_array_equal(projected[skeleton], expected)
    assert not projected[~skeleton].any()


def test_a_map_without_structure_stays_on_the_skeleton():
    _, skeleton, directions, distance = make_study(6)
    flat = np.full(skeleton.shape, 0.3, np.float32)
    for fa in (flat, 0 * flat):
        centres = find_centres(fa, skeleton, directions, distance, ISOTROPIC)
        np.testing.assert_array_equal(centres.found, centres.voxels)


def test_places_without_a_value_are_not_found():
    fa, skeleton, directions, distance = make_study(7)
    usual = find_centres(fa, skeleton, directions, distance, ISOTROPIC)
    lost = fa.copy()
    lost.ravel()[usual.found[::3]] = np.nan
    centres = find_centres(lost, skeleton, directions, distance, ISOTROPIC)
    has_place = ~np.isnan(lost.ravel()[centres.found])
    assert has_place[~np.isnan(lost[skeleton])].all()
    assert has_place.mean() > 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipped_images_are_projected_alike(axis):
    fa, skeleton, directions, distance = make_study(8, ANISOTROPIC)
    usual = project(fa, find_centres(fa, skeleton, directions, distance, ANISOTROPIC))
    sign = np.ones(3, int)
    sign[axis] = -1
    turned = [
        next(i for i, d in enumerate(DIRECTIONS) if (d == s).all() or (d == -s).all())
        for s in DIRECTIONS * sign
    ]
    flipped_directions = np.where(directions >= 0, np.take(turned, directions), -1)
    flipped = [np.flip(v, axis) for v in (fa, skeleton, flipped_directions, distance)]
    found = project(flipped[0], find_centres(*flipped, ANISOTROPIC))
    np.testing.assert_array_equal(np.flip(found, axis), usual)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_permuted_axes_are_projected_alike(order):
    fa, skeleton, directions, distance = make_study(9, ANISOTROPIC)
    usual = project(fa, find_centres(fa, skeleton, directions, distance, ANISOTROPIC))
    turned = [
        next(i for i, d in enumerate(DIRECTIONS) if (d == s).all() or (d == -s).all())
        for s in DIRECTIONS[:, order]
    ]
    permuted_directions = np.where(directions >= 0, np.take(turned, directions), -1)
    permuted = [np.transpose(v, order) for v in (fa, skeleton, permuted_directions, distance)]
    zooms = [ANISOTROPIC[axis] for axis in order]
    found = project(permuted[0], find_centres(*permuted, zooms))
    np.testing.assert_array_equal(found, np.transpose(usual, order))


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_scaled_fa_is_found_at_the_same_places(scale):
    fa, skeleton, directions, distance = make_study(10)
    usual = find_centres(fa, skeleton, directions, distance, ISOTROPIC).found
    scaled = find_centres(np.float32(scale) * fa, skeleton, directions, distance, ISOTROPIC).found
    np.testing.assert_array_equal(scaled, usual)


def make_tube(zooms, shift_mm=(0.0, 0.0)):
    """Return FA of a tube along the second axis, moved across it."""
    middle = (np.array(SHAPE) - 1) // 2
    mm = (np.indices(SHAPE) - middle.reshape(3, 1, 1, 1)) * np.reshape(zooms, (3, 1, 1, 1))
    away = (mm[0] - shift_mm[0]) ** 2 + (mm[2] - shift_mm[1]) ** 2
    return (0.1 + 0.6 * np.exp(-0.5 * away / 2.5**2)).astype(np.float32)


@pytest.mark.parametrize("zooms", [ISOTROPIC, (1.0, 2.0, 1.5)])
@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (0, -2), (2, 2), (-2, 2), (-3, -1), (1, 2)])
def test_a_tube_is_found_whichever_way_it_lies_across(zooms, shift):
    skeleton = np.zeros(SHAPE, bool)
    skeleton[10, 2:-2, 10] = True
    directions = np.zeros(SHAPE, np.int8)
    distance = compute_distance(skeleton, np.ones(SHAPE), zooms)
    shift_mm = (shift[0] * zooms[0], shift[1] * zooms[2])
    fa = make_tube(zooms, shift_mm)
    centres = find_centres(fa, skeleton, directions, distance, zooms, np.ones(SHAPE))
    middle = (10 + shift[0], 10 + shift[1])
    # Rays are 22.5 degrees apart, so that the nearest passes within half a voxel, or the next one.
    for voxel, place in zip(np.argwhere(skeleton), list_found(centres), strict=True):
        assert place[1] == voxel[1]
        assert np.hypot(place[0] - middle[0], place[2] - middle[1]) <= 1
    plain = find_centres(fa, skeleton, directions, distance, zooms)
    assert project(fa, centres)[skeleton].min() >= project(fa, plain)[skeleton].max() * 0.999


@pytest.mark.parametrize("zooms", [ISOTROPIC, (1.0, 2.0, 3.0)])
def test_the_search_across_a_tube_is_that_of_the_definition(zooms):
    skeleton = np.zeros(SHAPE, bool)
    skeleton[9, :, 12] = True
    search = np.ones(SHAPE, bool)
    search[:, :, -2:] = False
    distance = compute_distance(skeleton, search, zooms)
    fa = np.random.default_rng(13).random(SHAPE).astype(np.float32)
    rays = []
    for angle in np.radians(22.5 * np.arange(16)):
        ray = np.array([np.cos(angle) / zooms[0], 0, np.sin(angle) / zooms[2]])
        rays.append(ray / np.abs(ray).max())
    centres = find_centres(fa, skeleton, np.zeros(SHAPE, int), distance, zooms, skeleton)
    weights = []
    for voxel, place in zip(np.argwhere(skeleton), list_found(centres), strict=True):
        expected = find_offset_slowly(fa, tuple(voxel), rays, distance, zooms)
        weights.append([fa[place], fa[expected]])
    np.testing.assert_array_equal(*np.transpose(weights))
    assert np.mean(centres.found != centres.voxels) > 0.5


def test_the_rule_counts_only_where_it_is_set():
    fa, skeleton, directions, distance = make_study(11)
    usual = find_centres(fa, skeleton, directions, distance, ISOTROPIC)
    rule = np.zeros(SHAPE, bool)
    nowhere = find_centres(fa, skeleton, directions, distance, ISOTROPIC, rule)
    np.testing.assert_array_equal(nowhere.found, usual.found)
    rule[:, :10] = True
    centres = find_centres(fa, skeleton, directions, distance, ISOTROPIC, rule)
    is_tube = rule[skeleton]
    np.testing.assert_array_equal(centres.found[~is_tube], usual.found[~is_tube])
    assert (centres.found[is_tube] != usual.found[is_tube]).any()


def test_a_single_voxel_may_be_a_tube():
    skeleton = np.zeros((5, 5, 5), bool)
    skeleton[2, 2, 2] = True
    distance = compute_distance(skeleton, np.ones_like(skeleton), ISOTROPIC)
    fa = np.full((5, 5, 5), 0.2)
    centres = find_centres(fa, skeleton, np.zeros((5, 5, 5), int), distance, ISOTROPIC, skeleton)
    np.testing.assert_array_equal(centres.found, centres.voxels)


def test_an_empty_skeleton_gives_zeros():
    nothing = np.zeros((4, 5, 6))
    centres = find_centres(nothing, nothing, nothing.astype(int), nothing, ISOTROPIC, nothing)
    assert centres.found.size == 0
    assert not project(nothing + 1, centres).any()


def test_the_order_of_an_image_in_memory_does_not_matter():
    study = make_study(14)
    usual = project(study[0], find_centres(*study, ISOTROPIC, study[1]))
    as_read = [np.asfortranarray(volume) for volume in study]
    found = project(as_read[0], find_centres(*as_read, ISOTROPIC, as_read[1]))
    np.testing.assert_array_equal(found, usual)


def test_inputs_are_left_as_they_are():
    fa, skeleton, directions, distance = make_study(12)
    given = (fa, skeleton, directions, distance)
    before = [v.copy() for v in given]
    project(fa, find_centres(*given, ISOTROPIC, skeleton))
    for value, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(value, copy)


ONES = np.ones((4, 5, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fa": np.ones((4, 5, 7))}, "fa has shape"),
        ({"skeleton_mask": np.ones((4, 5))}, "skeleton_mask has shape"),
        ({"directions": np.ones((4, 5, 7), int)}, "directions has shape"),
        ({"directions": np.full((4, 5, 6), -1)}, "directions has none"),
        ({"distance": np.ones((4, 5, 7))}, "distance has shape"),
        ({"tubular_mask": np.ones((4, 5, 7))}, "tubular_mask has shape"),
        ({"zooms": (1, -1, 1)}, "zooms"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(change, message):
    given = {"fa": ONES, "skeleton_mask": ONES, "directions": ONES.astype(int), "distance": ONES}
    with pytest.raises(InputError, match=message):
        find_centres(**{**given, "zooms": ISOTROPIC, **change})


def test_a_map_of_another_shape_is_refused():
    centres = find_centres(ONES, ONES, ONES.astype(int), ONES, ISOTROPIC)
    with pytest.raises(InputError, match="values has shape"):
        project(np.ones((4, 5, 7)), centres)
    with pytest.raises(InputError, match="search_mask has shape"):
        compute_distance(ONES, np.ones((4, 5, 7)), ISOTROPIC)
