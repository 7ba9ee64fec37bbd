"""Capsules overlap where, and as deep as, searches without formulas say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from nipype_blm.ngv.circuit import capsules as module
from nipype_blm.ngv.circuit.capsules import (
    Capsules,
    find_boxes,
    find_deepest,
    find_extents,
    find_nearest,
    find_overlaps,
    iterate_near,
)

# Sums and roots of numbers of about 10 leave a few 1e-15; a nearly parallel pair loses more in
# where it overlaps most, but not in how deep, which is flat there.
ROUNDING = 1e-9


def make_capsules(n, seed, size=4.0, length=3.0):
    rng = np.random.default_rng(seed)
    starts = rng.uniform(-size, size, (n, 3))
    return Capsules(starts, starts + rng.normal(0, length, (n, 3)), rng.uniform(0, 1.5, (n, 2)))


def make_one(start, end, radii):
    return Capsules(*(np.array([x], float) for x in (start, end, radii)))


def search(function, n, n_steps=80):
    """Return where concave functions of fractions are highest, by leaving out thirds."""
    low, high = np.zeros(n), np.ones(n)
    for _ in range(n_steps):
        one, other = low + (high - low) / 3, high - (high - low) / 3
        is_left = function(one) > function(other)
        low, high = np.where(is_left, low, one), np.where(is_left, other, high)
    return (low + high) / 2


def search_overlaps(first, second, along_first, n_steps=80):
    """Return how deep balls at places of the first overlap the second."""

    def overlap(along):
        return find_overlaps(first, second, along_first, along)

    return overlap(search(overlap, len(along_first), n_steps))


def search_deepest(first, second):
    def deepest_at(along):
        return search_overlaps(first, second, along)

    return deepest_at(search(deepest_at, len(first.starts), 50))


def test_the_greatest_overlap_is_that_of_a_search():
    first, second = make_capsules(300, 1), make_capsules(300, 2)
    found = find_deepest(first, second)
    # The search ends at (2/3)^50 of the lengths, where a maximum is flat, or on an edge.
    assert_allclose(found.overlap, search_deepest(first, second), atol=1e-6)
    assert (found.overlap > 0).any()
    assert (found.overlap < 0).any()


@pytest.mark.parametrize("angle", [0, 1e-14, 1e-10, 1e-6, 1e-3])
def test_nearly_parallel_capsules_overlap_as_a_search_finds(angle):
    first = make_capsules(100, 1)
    rng = np.random.default_rng(2)
    shifts = rng.uniform(-1, 1, (2, 100, 3)) * np.array([1, angle]).reshape(2, 1, 1)
    starts, ends = first.starts + shifts[0], first.ends + shifts.sum(axis=0)
    second = Capsules(starts, ends, rng.uniform(0, 1, (100, 2)))
    with np.errstate(all="raise"):
        found = find_deepest(first, second)
    assert_allclose(found.overlap, search_deepest(first, second), atol=1e-6)


WHOLE = st.integers(-2, 2)
POINTS = st.tuples(WHOLE, WHOLE, WHOLE)
RADII = st.tuples(*(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]),) * 2)


@given(st.tuples(POINTS, POINTS, RADII), st.tuples(POINTS, POINTS, RADII))
@settings(max_examples=400)
def test_nothing_overlaps_more_than_the_place_found_in_any_special_position(one, other):
    # On a grid of few points segments are often parallel, crossing, the same, or without length.
    first, second = make_one(*one), make_one(*other)
    found = find_deepest(first, second)
    at_place = find_overlaps(first, second, found.along_first, found.along_second)
    assert at_place == found.overlap
    # The overlap is concave: were it greater anywhere, it would be so beside this place, too.
    steps = np.concatenate([[0], np.geomspace(1e-3, 1, 7)])
    steps = np.concatenate([-steps[::-1], steps])
    s = np.clip(found.along_first[0] + steps, 0, 1)
    t = np.clip(found.along_second[0] + steps, 0, 1)
    s, t = (grid.ravel() for grid in np.meshgrid(s, t))
    around = find_overlaps(
        *(Capsules(*(np.repeat(x, len(s), 0) for x in c)) for c in (first, second)), s, t
    )
    assert around.max() <= found.overlap[0] + ROUNDING
    swapped = find_deepest(second, first)
    assert_allclose(swapped.overlap, found.overlap, atol=ROUNDING)


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        pytest.param(
            ([0, 0, 0], [4, 0, 0], [1, 1]), ([2, -3, 1.5], [2, 3, 1.5], [1, 1]), 0.5, id="across"
        ),
        pytest.param(
            ([0, 0, 0], [4, 0, 0], [1, 1]), ([1, 1, 0], [9, 1, 0], [1, 1]), 1.0, id="along"
        ),
        pytest.param(
            ([0, 0, 0], [4, 0, 0], [1, 1]), ([6, 0, 0], [9, 0, 0], [0.5, 3]), -0.5, id="in line"
        ),
        pytest.param(
            ([0, 0, 0], [4, 0, 0], [1, 2]), ([0, 0, 0], [4, 0, 0], [1, 2]), 4.0, id="the same"
        ),
        pytest.param(
            ([0, 0, 0], [0, 0, 0], [1, 1]), ([0, 0, 3], [0, 0, 3], [1, 1]), -1.0, id="two balls"
        ),
        pytest.param(
            ([0, 0, 0], [0, 0, 0], [0, 0]), ([0, 0, 0], [0, 0, 0], [0, 0]), 0.0, id="two points"
        ),
        # From a point at x = 2, y = 3 straight to the side of a cone that has 0.6 as its sine.
        pytest.param(
            ([2, 3, 0], [2, 3, 0], [0, 0]),
            ([0, 0, 0], [8, 0, 0], [0, 8 * 0.6]),
            2 * 0.6 - 3 * 0.8,
            id="taper",
        ),
    ],
)
def test_overlaps_that_one_can_work_out(first, second, overlap):
    found = find_deepest(make_one(*first), make_one(*second))
    assert_allclose(found.overlap, overlap, atol=1e-12)


def test_nearest_places_are_those_of_a_search():
    capsules = make_capsules(500, 3)
    points = np.random.default_rng(4).uniform(-5, 5, (500, 3))
    balls = Capsules(points, points, np.zeros((500, 2)))
    found = find_overlaps(balls, capsules, np.zeros(500), find_nearest(points, capsules))
    assert_allclose(found, search_overlaps(balls, capsules, np.zeros(500)), atol=ROUNDING)


def test_extents_are_where_balls_overlap_the_other_capsule():
    first, second = make_capsules(300, 5), make_capsules(300, 6)
    deepest = find_deepest(first, second)
    is_pair = deepest.overlap > 0.01
    first, second = first.take(is_pair), second.take(is_pair)
    extents = find_extents(first, second, deepest.along_first[is_pair])
    n = len(extents)
    assert n > 30
    fractions = np.linspace(0, 1, 201)
    inside = np.stack(
        [search_overlaps(first, second, np.full(n, s)) > 0 for s in fractions], axis=1
    )
    by_extents = (extents[:, :1] < fractions) & (fractions < extents[:, 1:])
    # Equal at all fractions but those that are an end themselves, as 0 and 1 often are.
    is_end = np.isclose(extents[:, :1], fractions, atol=1e-6) | np.isclose(
        extents[:, 1:], fractions, atol=1e-6
    )
    assert (inside == by_extents)[~is_end].all()
    assert (extents[:, 0] == 0).any()
    assert (extents[:, 1] < 1).any()


def test_boxes_have_all_balls_inside_and_touch_them():
    capsules = make_capsules(50, 7)
    boxes = find_boxes(capsules)
    low, high = np.full((50, 3), np.inf), np.full((50, 3), -np.inf)
    for along in np.linspace(0, 1, 11):
        points = capsules.find_points(np.full(50, along))
        radii = capsules.find_radii(np.full(50, along))[:, None]
        low, high = np.minimum(low, points - radii), np.maximum(high, points + radii)
    assert_allclose(boxes, np.stack([low, high], axis=1), atol=1e-12)


@pytest.mark.parametrize("most", [1, 50, module.MOST_PAIRS])
def test_every_pair_that_overlaps_is_given_once(monkeypatch, most):
    monkeypatch.setattr(module, "MOST_PAIRS", most)
    first, second = make_capsules(150, 8, 9, 1), make_capsules(170, 9, 9, 1)
    # Capsules of all sizes, such as a soma and a long process among short ones.
    second.radii[0], second.radii[1] = 9, 0
    second.ends[1] = second.starts[1]
    second.ends[2] = second.starts[2] + [60, 0, 0]
    parts = list(iterate_near(first, second))
    pairs = np.concatenate([np.stack(part, axis=1) for part in parts])
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert max(len(part[0]) for part in parts) <= max(most, 170)
    i, j = (grid.ravel() for grid in np.meshgrid(range(150), range(170), indexing="ij"))
    overlaps = find_deepest(first.take(i), second.take(j)).overlap > 0
    assert set(zip(i[overlaps], j[overlaps], strict=True)) <= set(map(tuple, pairs))
    assert overlaps.sum() > 100
    assert len(pairs) < 150 * 170 / 4


def test_no_capsules_are_near_none():
    none = make_capsules(0, 1)
    assert list(iterate_near(none, make_capsules(5, 1))) == []
    assert list(iterate_near(make_capsules(5, 1), none)) == []
