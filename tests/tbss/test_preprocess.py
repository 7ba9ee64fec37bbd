"""FA loses the edge of the brain, its end slices and values that it cannot have."""

import itertools

import numpy as np
import pytest

from nipype_blm.errors import InputError
from nipype_blm.tbss.preprocess import erode


def erode_slowly(fa):
    eroded = np.zeros(fa.shape, np.float32)
    for voxel in itertools.product(*(range(1, n - 1) for n in fa.shape)):
        cube = fa[tuple(slice(v - 1, v + 2) for v in voxel)]
        if (cube > 0).all():
            eroded[voxel] = min(fa[voxel], 1)
    return eroded


@pytest.mark.parametrize("shape", [(9, 8, 10), (3, 7, 8), (3, 3, 3)])
def test_erosion_is_that_of_the_definition(shape):
    rng = np.random.default_rng(1)
    fa = np.where(rng.random(shape) < 0.02, 0, rng.random(shape) * 1.3).astype(np.float32)
    eroded = erode(fa)
    assert eroded.dtype == np.float32
    np.testing.assert_array_equal(eroded, erode_slowly(fa))
    assert eroded.any() or shape == (3, 3, 3)


def test_a_brain_within_zeros_loses_one_layer():
    fa = np.zeros((12, 12, 12))
    fa[2:10, 3:9, 1:11] = 0.4
    expected = np.zeros((12, 12, 12), np.float32)
    expected[3:9, 4:8, 2:10] = 0.4
    np.testing.assert_array_equal(erode(fa), expected)


def test_end_slices_become_zero_where_the_brain_fills_the_image():
    eroded = erode(np.full((5, 6, 7), 0.5))
    assert eroded[1:-1, 1:-1, 1:-1].all()
    eroded[1:-1, 1:-1, 1:-1] = 0
    assert not eroded.any()


def test_the_image_given_is_left_as_it_is():
    fa = np.full((5, 5, 5), 1.2)
    erode(fa)
    assert (fa == 1.2).all()


def test_an_empty_image_stays_empty():
    nothing = np.zeros((4, 4, 4))
    assert not erode(nothing).any()


@pytest.mark.parametrize(
    ("fa", "message"),
    [
        (np.ones((5, 5)), "three axes"),
        (np.ones((5, 5, 5, 1)), "three axes"),
        (np.ones((2, 5, 5)), "3 voxels or more"),
        (np.full((5, 5, 5), np.inf), "not finite"),
        (np.full((5, 5, 5), -1.0), "negative"),
    ],
)
def test_what_is_no_map_of_fa_is_refused(fa, message):
    with pytest.raises(InputError, match=message):
        erode(fa)
