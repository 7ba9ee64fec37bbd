"""Which flips and permutations there are, and that their weights belong to their numbers."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nipype_blm.core.resampling.exchange import (
    Exchange,
    count_flips,
    count_permutations,
    draw_flips,
    draw_permutations,
    find_kinds,
)


def make_exchange(group, kind=None, **semantics) -> Exchange:
    group = np.asarray(group, np.int32)
    return Exchange(group.size, group, kind=kind, **semantics)


FREE = make_exchange(range(5))
CASES = {
    "free": FREE,
    "free, equal rows": FREE._replace(kind=np.array([0, 0, 1, 1, 1], np.int32)),
    "within": make_exchange([0, 1, 0, 1, 0], within=True),
    "within, equal rows": make_exchange(
        [0, 1, 0, 1, 0], kind=np.array([0, 0, 0, 1, 1], np.int32), within=True
    ),
    "whole": make_exchange([0, 0, 1, 1, 2, 2], whole=True),
    "whole, unequal": make_exchange([0, 0, 1, 2, 2, 3], whole=True),
    "whole, equal rows": make_exchange(
        [0, 0, 1, 1, 2, 2], kind=np.array([0, 1, 0, 1, 1, 0], np.int32), whole=True
    ),
    "both": make_exchange([0, 0, 1, 1], within=True, whole=True),
    "both, equal rows": make_exchange(
        [0, 0, 1, 1, 2, 2], kind=np.array([0, 1, 1, 0, 2, 0], np.int32), within=True, whole=True
    ),
}


def list_all(exchange: Exchange) -> set[tuple[int, ...]]:
    """List by brute force the rows of X, told apart by kind, that images can be given."""
    members = exchange.find_members()
    found = set()
    for order in itertools.permutations(range(exchange.n_obs)):
        moved = [[order[i] for i in images] for images in members]
        if exchange.within and not exchange.whole:
            allowed = all(sorted(a) == b for a, b in zip(moved, members, strict=True))
        elif exchange.whole and not exchange.within:
            allowed = all(a in members for a in moved)
        elif exchange.whole:
            allowed = all(sorted(a) in members for a in moved)
        else:
            allowed = True
        if allowed:
            kind = range(exchange.n_obs) if exchange.kind is None else exchange.kind
            found.add(tuple(int(kind[i]) for i in order))
    return found


def in_kinds(exchange: Exchange, orders: np.ndarray) -> list[tuple[int, ...]]:
    kind = np.arange(exchange.n_obs) if exchange.kind is None else exchange.kind
    return [tuple(kind[order].tolist()) for order in orders]


@pytest.mark.parametrize("name", CASES)
def test_exhaustive_permutations_are_each_there_once(name):
    exchange = CASES[name]
    count = count_permutations(exchange)
    orders = draw_permutations(exchange, 0, range(count), exhaustive=True)
    listed = in_kinds(exchange, orders)
    assert len(listed) == len(set(listed))
    assert set(listed) == list_all(exchange)
    assert_array_equal(orders[0], np.arange(exchange.n_obs))


@pytest.mark.parametrize("name", CASES)
def test_random_permutations_keep_to_the_blocks_and_reach_all(name):
    exchange = CASES[name]
    orders = draw_permutations(exchange, 3, range(1200))
    assert set(in_kinds(exchange, orders)) == list_all(exchange)
    assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(exchange.n_obs), (1200, 1)))


def test_permutations_are_equally_likely():
    counts = np.unique(draw_permutations(FREE, 1, range(1, 12001)), axis=0, return_counts=True)[1]
    # 120 cells of 100: the sum of squares is a chi-square of 119 degrees of freedom, whose
    # 1e-6 quantiles are 60 and 205.
    assert 60 < ((counts - 100) ** 2 / 100).sum() < 205


@pytest.mark.parametrize("two_sided", [True, False])
def test_exhaustive_flips_are_each_there_once(two_sided):
    exchange = make_exchange([0, 0, 1, 2, 2, 3])
    count = count_flips(exchange, two_sided)
    signs = draw_flips(exchange, 0, range(count), exhaustive=True, two_sided=two_sided)
    rows = {tuple(row) for row in signs.tolist()}
    mirrored = {tuple(row) for row in (-signs).tolist()}
    assert (len(signs), len(rows)) == (count, count)
    assert rows | mirrored == set(itertools.product([-1, 1], repeat=4))
    assert bool(rows & mirrored) != two_sided
    assert_array_equal(signs[0], 1)


def test_counts_are_exact_however_large():
    assert count_flips(make_exchange(range(300)), True) == 2**299
    assert count_permutations(make_exchange(range(30))) == 265252859812191058636308480000000


def test_equal_rows_have_one_kind():
    X = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]])
    assert find_kinds(X).tolist() == [0, 1, 0]


@pytest.mark.parametrize("draw", [draw_flips, draw_permutations])
def test_weights_belong_to_number_and_seed_alone(draw):
    exchange = make_exchange(range(70))
    whole = draw(exchange, 9, range(40))
    parts = [draw(exchange, 9, range(a, b)) for a, b in ((0, 7), (7, 8), (8, 40))]
    assert_array_equal(np.concatenate(parts), whole)
    assert_array_equal(whole[0], draw(exchange, 9, range(1), exhaustive=True)[0])
    assert (draw(exchange, 10, range(1, 40)) != whole[1:]).any(axis=1).all()
    assert len(np.unique(whole, axis=0)) == 40


def test_signs_are_even():
    # 70,000 signs: the mean has a standard error of 0.004.
    assert abs(draw_flips(make_exchange(range(70)), 5, range(1, 1001)).mean()) < 0.02
