"""Batches and blocks of a model cut it into pieces without gaps."""

from dataclasses import replace

import numpy as np
import pytest
import specs

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.lmm.estimates import MixedOptions


def make_spec(**changes):
    X = np.c_[np.ones(10), np.random.default_rng(0).normal(size=10)]
    mask = np.array([0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0], bool)
    return specs.make_spec(X, (3, 2, 2), mask, **changes)


def test_sizes_are_those_of_the_arrays():
    spec = make_spec()
    assert (spec.n_obs, spec.n_params, spec.n_voxels) == (10, 2, 7)


def test_a_model_with_options_of_mixed_models_is_one():
    spec = make_spec()
    assert spec.model == "blm"
    assert replace(spec, options=MixedOptions()).model == "blmm"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_blocks_cover_every_voxel_once(size):
    spec = make_spec(voxels_per_block=size)
    voxels = [np.arange(7)[spec.block(i)] for i in range(spec.n_blocks)]
    assert all(block.size for block in voxels)
    np.testing.assert_array_equal(np.concatenate(voxels), np.arange(7))


@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_batches_cover_every_observation_once(size):
    spec = make_spec(images_per_batch=size)
    rows = [np.arange(10)[spec.batch(i)] for i in range(-(-10 // size))]
    assert all(batch.size for batch in rows)
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(10))


def test_batches_of_a_study_that_has_grown_end_where_they_did():
    spec = make_spec(images_per_batch=4, ends=(4, 8, 9, 10))
    rows = [np.arange(10)[spec.batch(i)] for i in range(spec.n_batches)]
    assert [batch.tolist() for batch in rows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8], [9]]


@pytest.mark.parametrize("ends", [(), (1, 6, 10)])
def test_every_observation_is_found_in_its_batch(ends):
    spec = make_spec(images_per_batch=3, ends=ends)
    for row in range(10):
        batch = spec.batch(spec.find_batch(row))
        assert batch.start <= row < batch.stop


def test_sorted_observations_take_their_rows_with_them():
    factor = RandomFactor("f", np.arange(10, dtype=np.int32) // 3, np.arange(10.0)[:, None])
    spec, order = make_spec(factors=(factor,)), np.arange(10)[::-1]
    again = spec.sort(order)
    for name in ("X", "Q", "shift"):
        expected = getattr(spec.design, name)[::-1]
        np.testing.assert_array_equal(getattr(again.design, name), expected)
    np.testing.assert_array_equal(again.design.R, spec.design.R)
    np.testing.assert_array_equal(again.factors[0].level, factor.level[::-1])
    np.testing.assert_array_equal(again.factors[0].Z, factor.Z[::-1])
    assert again.sort(order).X.tolist() == spec.X.tolist()
