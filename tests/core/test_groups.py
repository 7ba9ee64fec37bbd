"""Images that share anything are in one group."""

import numpy as np
from numpy.testing import assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.groups import find_groups


def make_factor(level: list[int]) -> RandomFactor:
    return RandomFactor("factor", np.array(level, np.int32), np.ones((len(level), 1)))


def test_without_factors_and_blocks_each_image_is_a_group():
    assert_array_equal(find_groups(3), [0, 1, 2])


def test_levels_of_one_factor_are_groups_numbered_as_they_come():
    assert_array_equal(find_groups(5, [make_factor([2, 2, 0, 1, 0])]), [0, 0, 1, 2, 1])


def test_subjects_in_sites_are_grouped_by_site():
    subject, site = make_factor([0, 0, 1, 2, 3, 3]), make_factor([1, 1, 1, 0, 0, 0])
    assert_array_equal(find_groups(6, [subject, site]), [0, 0, 0, 1, 1, 1])


def test_crossed_factors_join_all_images():
    crossed = [make_factor([0, 0, 1, 1]), make_factor([0, 1, 0, 1])]
    assert_array_equal(find_groups(4, crossed), [0, 0, 0, 0])


def test_blocks_join_levels():
    blocks = np.array(["a", "b", "a", "c"])
    assert_array_equal(find_groups(4, [make_factor([0, 0, 1, 2])], blocks), [0, 0, 0, 1])
    assert_array_equal(find_groups(4, blocks=blocks), [0, 1, 0, 2])


def test_one_image_is_one_group():
    assert_array_equal(find_groups(1), [0])
