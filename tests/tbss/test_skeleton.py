"""The skeleton follows the centre of tracts, is one voxel thin and whole."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from nipype_blm.errors import InputError
from nipype_blm.tbss.neighbours import DIRECTIONS
from nipype_blm.tbss.skeleton import compute_skeleton, find_directions

TOUCHING = np.ones((3, 3, 3))
ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (1.0, 1.3, 2.1)


def make_brain(seed, shape=(18, 19, 17), sigma=1.5):
    """Return a smooth random map, of FA's range, within zeros."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    fa = np.clip(0.4 + 0.2 * noise / noise.std(), 0.01, 1)
    grid = np.indices(shape) - (np.array(shape) - 1).reshape(3, 1, 1, 1) / 2
    inside = (grid**2).sum(axis=0) < (min(shape) / 2 - 1.5) ** 2
    return np.where(inside, fa, 0).astype(np.float32)


def make_sheet(normal, shape=(32, 33, 31), zooms=ISOTROPIC, width_mm=2.0, shift_mm=0.3):
    """Return FA of a sheet within a brain of low FA, and distances from its middle in mm."""
    middle = (np.array(shape) - 1) / 2
    mm = (np.indices(shape) - middle.reshape(3, 1, 1, 1)) * np.reshape(zooms, (3, 1, 1, 1))
    unit = np.asarray(normal) / np.linalg.norm(normal)
    distance = np.tensordot(unit, mm, 1) - shift_mm
    fa = 0.1 + 0.6 * np.exp(-0.5 * (distance / width_mm) ** 2)
    return fa.astype(np.float32), distance


def take_inner(volume, edge=5):
    return volume[(slice(edge, -edge),) * 3]


def find_share_of_doubles(mask, directions):
    """Return the share of voxels with a neighbour across the ridge that is on it, too."""
    voxels = np.argwhere(mask)
    steps = DIRECTIONS[directions[mask]]
    padded = np.pad(mask, 1)
    double = padded[tuple((voxels + 1 + steps).T)] | padded[tuple((voxels + 1 - steps).T)]
    return double.mean()


# From the definitions, voxel by voxel.


def break_ties(fa):
    smooth = ndimage.gaussian_filter(fa.astype(float), 2, mode="constant")
    return np.where(fa > 0, fa + 0.001 * smooth, 0)


def look_at(volume, voxel):
    inside = all(0 <= v < n for v, n in zip(voxel, volume.shape, strict=True))
    return volume[tuple(voxel)] if inside else 0


def find_curvature(height, voxel, zooms):
    here = height[voxel]
    curvature = []
    for step in DIRECTIONS:
        change = 2 * here - look_at(height, voxel + step) - look_at(height, voxel - step)
        curvature.append(change / ((step * zooms) ** 2).sum())
    return np.array(curvature)


def find_one_direction(height, voxel, zooms):
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    mass = np.array([look_at(height, voxel + step) for step in steps])
    offset = mass @ steps / mass.sum()
    if np.linalg.norm(offset) > 0.1:
        across = DIRECTIONS * zooms
        cosines = across @ (offset / zooms) / np.linalg.norm(across, axis=1)
        return np.abs(cosines).argmax()
    return find_curvature(height, voxel, zooms).argmax()


def find_directions_slowly(fa, zooms):
    height = break_ties(fa)
    voxels = [tuple(v) for v in np.argwhere(fa > 0)]
    first = {v: find_one_direction(height, v, zooms) for v in voxels}
    directions = np.full(fa.shape, -1)
    for v in voxels:
        around = [first.get(tuple(v + s)) for s in np.indices((3, 3, 3)).reshape(3, -1).T - 1]
        votes = np.array([around.count(i) for i in range(13)])
        modes = np.flatnonzero(votes == votes.max())
        curvature = find_curvature(height, v, zooms)
        directions[v] = first[v] if first[v] in modes else max(modes, key=lambda i: curvature[i])
    return directions


def find_ridge_slowly(height, directions):
    ridge = np.zeros(height.shape, bool)
    for voxel in map(tuple, np.argwhere(height > 0)):
        step = DIRECTIONS[directions[voxel]]
        before, after = look_at(height, voxel - step), look_at(height, voxel + step)
        ridge[voxel] = height[voxel] > before and height[voxel] >= after
    return ridge


def is_simple(around):
    """Return whether the middle of 3 x 3 x 3 voxels may go: Bertrand and Malandain (1994)."""
    around = around.copy()
    around[1, 1, 1] = False
    grid = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0)
    rest = ~around & (grid <= 2) & (grid > 0)
    pieces, _ = ndimage.label(rest)
    n_faces = len(set(pieces[(grid == 1) & rest]))
    return ndimage.label(around, TOUCHING)[1] == 1 and n_faces == 1


def thin_slowly(ridge, height, directions):
    stays = np.pad(ridge, 1)
    tall = np.pad(height, 1)
    strides = np.pad(directions, 1)
    was = stays.copy()
    for voxel in sorted(map(tuple, np.argwhere(was)), key=lambda v: -tall[v]):
        cube = tuple(slice(v - 1, v + 2) for v in voxel)
        higher = stays[cube] & (tall[cube] > tall[voxel])
        is_double = False
        for other in map(tuple, np.argwhere(higher) + voxel - 1):
            apart = np.subtract(other, voxel)
            for end in (voxel, other):
                is_double |= any((apart == s * DIRECTIONS[strides[end]]).all() for s in (1, -1))
        if is_double and is_simple(higher):
            stays[voxel] = False
    return stays[1:-1, 1:-1, 1:-1]


def join_slowly(ridge, weak, height):
    """Join pieces from the highest voxel to the lowest, each piece being a set of voxels."""
    piece = {}
    joined = ridge.copy()
    for voxel in sorted(map(tuple, np.argwhere(ridge | weak)), key=lambda v: -height[v]):
        cube = [tuple(np.add(voxel, step)) for step in itertools.product((-1, 0, 1), repeat=3)]
        beside = {id(piece[v]): piece[v] for v in cube if v in piece}
        together = set().union(*beside.values()) | ({voxel} if ridge[voxel] else set())
        joined[voxel] |= len(beside) > 1
        piece.update(dict.fromkeys(together, together))
    return joined


@pytest.mark.parametrize("zooms", [ISOTROPIC, ANISOTROPIC])
def test_directions_are_those_of_the_definition(zooms):
    fa = make_brain(1, (11, 12, 10), sigma=1.0)
    expected = find_directions_slowly(fa, np.array(zooms))
    # Single precision decides otherwise where two values all but tie: none or one in a thousand.
    assert np.mean(find_directions(fa, zooms) == expected) >= 0.999


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("zooms", [ISOTROPIC, ANISOTROPIC])
def test_the_skeleton_is_that_of_the_definition(zooms, seed):
    fa = make_brain(seed, sigma=1.0)
    directions = find_directions(fa, zooms)
    height = break_ties(fa)
    steepest = np.full(fa.shape, -1)
    for voxel in map(tuple, np.argwhere(fa > 0)):
        steepest[voxel] = find_curvature(height, voxel, np.array(zooms)).argmax()
    plain = find_ridge_slowly(height, directions)
    thinned = thin_slowly(plain, height, directions)
    expected = join_slowly(thinned, find_ridge_slowly(height, steepest), height)
    assert np.count_nonzero(plain & ~thinned) > 5
    assert np.count_nonzero(expected & ~thinned) > 0
    found = compute_skeleton(fa, zooms, directions)
    np.testing.assert_array_equal(found, np.where(expected, fa, 0))


@pytest.mark.parametrize("zooms", [ISOTROPIC, (1.0, 1.0, 2.5), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("number", range(13))
def test_the_direction_across_a_sheet_is_found(number, zooms):
    normal = DIRECTIONS[number] * zooms
    fa, distance = make_sheet(normal, zooms=zooms, width_mm=1.5 * max(zooms))
    near = np.abs(distance) < max(zooms)
    directions = find_directions(fa, zooms)
    assert (take_inner(directions)[take_inner(near)] == number).all()


@pytest.mark.parametrize(
    "normal", [(1, 0, 0), (1, 1, 0), (1, -1, 1), (0.9, 0.3, 0.1), (0.2, 0.5, 0.8), (0.7, -0.4, 0.5)]
)
@pytest.mark.parametrize("zooms", [ISOTROPIC, (1.0, 1.0, 1.5), (2.0, 2.0, 2.0)])
def test_the_skeleton_of_a_sheet_is_its_middle(normal, zooms):
    fa, distance = make_sheet(normal, zooms=zooms, width_mm=1.5 * max(zooms))
    directions = find_directions(fa, zooms)
    mask = compute_skeleton(fa, zooms, directions) > 0.2
    inner = take_inner(mask)
    # Half of the longest step between voxels that the sheet can pass through.
    assert np.abs(take_inner(distance)[inner]).max() <= np.linalg.norm(zooms) / 2 * 1.001
    assert find_share_of_doubles(inner, take_inner(directions)) < 0.02
    assert ndimage.label(inner, TOUCHING)[1] == 1
    # No hole: the two sides of the sheet do not touch by faces.
    sides, _ = ndimage.label(~inner)
    far = np.abs(take_inner(distance)) > 2 * max(zooms)
    above, below = sides[far & (take_inner(distance) > 0)], sides[far & (take_inner(distance) < 0)]
    assert not set(above) & set(below)


@pytest.mark.parametrize("radius", [6.3, 9.0, 12.6])
def test_the_skeleton_of_a_curved_sheet_is_closed_and_thin(radius):
    shape = (41, 41, 41)
    r = np.linalg.norm(np.indices(shape) - 20.0, axis=0)
    fa = (0.1 + 0.6 * np.exp(-0.5 * ((r - radius) / 1.5) ** 2)).astype(np.float32)
    fa[r > 19.5] = 0
    directions = find_directions(fa, ISOTROPIC)
    mask = compute_skeleton(fa, ISOTROPIC, directions) > 0.4
    assert np.abs(r[mask] - radius).max() < np.sqrt(3) / 2
    assert ndimage.label(mask, TOUCHING)[1] == 1
    assert find_share_of_doubles(mask, directions) < 0.02
    sides, _ = ndimage.label(~mask)
    assert sides[20, 20, 20] != sides[0, 0, 0]


@pytest.mark.parametrize("axis", [(0, 0, 1), (1, 1, 0), (0.3, 0.2, 0.9)])
def test_the_skeleton_of_a_tube_is_one_curve_along_its_middle(axis):
    shape = (31, 32, 33)
    unit = np.asarray(axis) / np.linalg.norm(axis)
    mm = np.indices(shape) - (np.array(shape) - 1).reshape(3, 1, 1, 1) / 2 - 0.2
    along = np.tensordot(unit, mm, 1)
    away = np.sqrt((mm**2).sum(axis=0) - along**2)
    fa = (0.1 + 0.6 * np.exp(-0.5 * (away / 2) ** 2)).astype(np.float32)
    mask = take_inner(compute_skeleton(fa, ISOTROPIC) > 0.6)
    # A tube is a ridge in many directions, so that voxels beside its middle can be on it.
    assert take_inner(away)[mask].max() < 1.5
    assert ndimage.label(mask, TOUCHING)[1] == 1
    # The longest step along a curve of voxels is sqrt(3).
    places = np.sort(take_inner(along)[mask])
    assert places[0] < -9
    assert places[-1] > 9
    assert np.diff(places).max() <= np.sqrt(3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_image_has_the_flipped_skeleton(axis):
    fa = make_brain(5)
    flipped = compute_skeleton(np.flip(fa, axis), ANISOTROPIC)
    np.testing.assert_array_equal(np.flip(flipped, axis), compute_skeleton(fa, ANISOTROPIC))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_permuted_axes_give_the_permuted_skeleton(order):
    fa = make_brain(6)
    zooms = [ANISOTROPIC[axis] for axis in order]
    permuted = compute_skeleton(np.transpose(fa, order), zooms)
    np.testing.assert_array_equal(permuted, np.transpose(compute_skeleton(fa, ANISOTROPIC), order))


def test_a_shift_by_whole_voxels_shifts_the_skeleton():
    fa = make_brain(7)
    wide = np.pad(fa, ((3, 0), (0, 5), (2, 2)))
    expected = np.pad(compute_skeleton(fa, ISOTROPIC), ((3, 0), (0, 5), (2, 2)))
    np.testing.assert_array_equal(compute_skeleton(wide, ISOTROPIC), expected)


@pytest.mark.parametrize("scale", [0.25, 2.0])
def test_scaled_fa_has_the_scaled_skeleton(scale):
    fa = make_brain(8)
    expected = np.float32(scale) * compute_skeleton(fa, ISOTROPIC)
    np.testing.assert_array_equal(compute_skeleton(np.float32(scale) * fa, ISOTROPIC), expected)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_only_the_shape_of_voxels_matters(scale):
    fa = make_brain(9)
    scaled = compute_skeleton(fa, np.multiply(scale, ANISOTROPIC))
    np.testing.assert_array_equal(scaled, compute_skeleton(fa, ANISOTROPIC))


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plateau_has_one_ridge(width, axis):
    fa = np.full((18, 18, width + 8), 0.1, np.float32)
    fa[:, :, 3:-3] = 0.3
    fa[:, :, 4:-4] = 0.5
    mask = compute_skeleton(np.moveaxis(fa, 2, axis), ISOTROPIC) > 0.2
    inner = np.moveaxis(mask, axis, 2)[4:-4, 4:-4]
    assert (inner.sum(axis=2) == 1).all()
    (place,) = set(np.argwhere(inner)[:, 2])
    assert abs(place - (width + 7) / 2) <= 0.5


@pytest.mark.parametrize("step", [0.02, 0.1])
def test_quantised_fa_has_a_thin_ridge_as_any_other(step):
    fa, distance = make_sheet((0.9, 0.3, 0.1), width_mm=3.0)
    coarse = (np.round(fa / step) * step).astype(np.float32)
    directions = find_directions(coarse, ISOTROPIC)
    mask = take_inner(compute_skeleton(coarse, ISOTROPIC, directions) > 0.4)
    assert find_share_of_doubles(mask, take_inner(directions)) < 0.02
    sides, _ = ndimage.label(~mask)
    far = np.abs(take_inner(distance)) > 4
    above, below = sides[far & (take_inner(distance) > 0)], sides[far & (take_inner(distance) < 0)]
    assert not set(above) & set(below)


def test_the_skeleton_has_the_fa_of_its_voxels_and_nothing_outside_the_brain():
    fa = make_brain(10)
    skeleton = compute_skeleton(fa, ISOTROPIC)
    assert skeleton.dtype == np.float32
    on = skeleton > 0
    np.testing.assert_array_equal(skeleton[on], fa[on])
    directions = find_directions(fa, ISOTROPIC)
    assert directions.dtype == np.int8
    np.testing.assert_array_equal(directions >= 0, fa > 0)


def test_the_order_of_an_image_in_memory_does_not_matter():
    fa = make_brain(11)
    as_read = np.asfortranarray(fa)
    directions = find_directions(as_read, ISOTROPIC)
    np.testing.assert_array_equal(directions, find_directions(fa, ISOTROPIC))
    given = np.asfortranarray(directions)
    found = compute_skeleton(as_read, ISOTROPIC, given)
    np.testing.assert_array_equal(found, compute_skeleton(fa, ISOTROPIC))


def test_nothing_has_no_skeleton():
    nothing = np.zeros((5, 6, 7), np.float32)
    assert (find_directions(nothing, ISOTROPIC) == -1).all()
    assert not compute_skeleton(nothing, ISOTROPIC).any()


def test_one_voxel_is_its_own_skeleton():
    fa = np.zeros((5, 6, 7), np.float32)
    fa[2, 0, 6] = 0.5
    np.testing.assert_array_equal(compute_skeleton(fa, ISOTROPIC), fa)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 22), (20, 2, 22), (3, 20, 20)])
def test_thin_volumes_have_a_skeleton(shape):
    fa = np.full(shape, 0.1, np.float32)
    fa[:, :, shape[2] // 2] = 0.5
    skeleton = compute_skeleton(fa, ISOTROPIC)
    assert (skeleton > 0.2).any()
    assert skeleton.shape == shape


def test_given_directions_are_those_that_count():
    fa, _ = make_sheet((1, 0, 0), shift_mm=0.0)
    along = np.full(fa.shape, np.flatnonzero((DIRECTIONS == (0, 0, 1)).all(axis=1))[0], np.int8)
    assert compute_skeleton(fa, ISOTROPIC, along).any()
    usual = compute_skeleton(fa, ISOTROPIC)
    given = compute_skeleton(fa, ISOTROPIC, find_directions(fa, ISOTROPIC))
    np.testing.assert_array_equal(usual, given)
    assert (compute_skeleton(fa, ISOTROPIC, along) != usual).any()


@pytest.mark.parametrize(
    ("fa", "zooms", "message"),
    [
        (np.zeros((4, 4)), ISOTROPIC, "three axes"),
        (np.zeros((4, 4, 4, 2)), ISOTROPIC, "three axes"),
        (np.zeros((4, 0, 4)), ISOTROPIC, "three axes"),
        (np.full((4, 4, 4), np.nan), ISOTROPIC, "not finite"),
        (np.full((4, 4, 4), -0.5), ISOTROPIC, "negative"),
        (np.zeros((4, 4, 4)), (1, 1), "three sizes"),
        (np.zeros((4, 4, 4)), (1, 0, 1), "above 0"),
        (np.zeros((4, 4, 4)), (1, np.nan, 1), "above 0"),
    ],
)
def test_what_is_no_map_of_fa_is_refused(fa, zooms, message):
    with pytest.raises(InputError, match=message):
        find_directions(fa, zooms)
    with pytest.raises(InputError, match=message):
        compute_skeleton(fa, zooms)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (np.zeros((4, 4, 5), np.int8), "one shape"),
        (np.full((4, 4, 4), 13, np.int8), "outside -1 to 12"),
        (np.full((4, 4, 4), -2, np.int8), "outside -1 to 12"),
    ],
)
def test_directions_of_something_else_are_refused(directions, message):
    with pytest.raises(InputError, match=message):
        compute_skeleton(np.ones((4, 4, 4)), ISOTROPIC, directions)
