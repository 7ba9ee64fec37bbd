"""Products against sums over the observations that are present."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.products import (
    TILE,
    ProductAccumulator,
    Products,
    count_bits,
)

N_VOXELS = 2 * TILE + 37


def make_data(n_obs: int, n_params: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n_obs), rng.normal(size=(n_obs, n_params - 1))])
    Y = rng.normal(3, 1, (n_obs, N_VOXELS))
    Y[rng.random(Y.shape) < 0.1] = np.nan
    Y[0, :TILE] = np.nan  # an image without data in a tile
    Y[n_obs // 2] = np.nan  # ... and one without any
    Y[1::3, TILE : 2 * TILE] = rng.normal(3, 1, Y[1::3, TILE : 2 * TILE].shape)
    Y[:, -1] = np.nan  # a voxel without data
    Y[:-1, -2] = np.nan  # ... and one that appears in the last image
    return X, Y


def assert_same(products: Products, expected: Products) -> None:
    for name, array in products._asdict().items():
        assert_array_equal(array, getattr(expected, name), name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_obs", [5, 31, 32, 33, 64, 70, 96])
def test_products_are_sums_over_the_observations_present(reduce, n_obs, dtype):
    X, Y = make_data(n_obs, 4)
    Y = Y.astype(dtype)
    design = factorise_design(X)
    products = reduce(design, Y)
    present = ~np.isnan(Y)
    first = Y[present.argmax(axis=0), np.arange(N_VOXELS)].astype(float)
    reference = np.where(present.any(axis=0), first, 0)
    D = np.where(present, Y.astype(float) - np.outer(design.shift, reference), 0)
    assert_array_equal(products.reference, reference)
    # Sums of up to 96 numbers of size 1 in another order.
    assert_allclose(products.QtY, design.Q.T @ D, rtol=0, atol=1e-13)
    assert_allclose(products.YtY, (D**2).sum(axis=0), rtol=1e-13)
    assert_array_equal(products.n_obs, present.sum(axis=0))
    bits = [products.presence[i // 32] >> np.uint32(i % 32) & 1 for i in range(n_obs)]
    assert_array_equal(np.array(bits), present)
    assert len(products.presence) == -(-n_obs // 32)


def test_a_voxel_without_observations_has_zeros(reduce):
    X, Y = make_data(40, 3)
    products = reduce(factorise_design(X), Y)
    for array in products:
        assert not np.any(array[..., -1])


@pytest.mark.parametrize("n_params", [1, 4, 35])
@pytest.mark.parametrize(
    ("chunk", "n_obs"), [(4, 75), (8, 75), (16, 75), (12, 32), (20, 32), (24, 32), (28, 32)]
)
def test_any_chunk_of_whole_fours_gives_the_same_bits(reduce, n_params, chunk, n_obs):
    X, Y = make_data(75, n_params)
    design, rows = factorise_design(X), slice(0, n_obs)
    assert_same(reduce(design, Y, rows, chunk=chunk), reduce(design, Y, rows, chunk=32))


@pytest.mark.parametrize("n_threads", [2, 3, 4, 50])
def test_any_number_of_threads_gives_the_same_bits(reduce, n_threads):
    X, Y = make_data(75, 6)
    design = factorise_design(X)
    assert_same(reduce(design, Y, n_threads=n_threads), reduce(design, Y))


@pytest.mark.parametrize("first", [0, 1, 20, 31, 32, 40])
def test_rows_that_cross_a_word_are_refused(first):
    design = factorise_design(np.ones((80, 1)))
    room = 32 - first % 32

    def add_up(*numbers: int) -> ProductAccumulator:
        accumulator = ProductAccumulator(design.Q, design.shift, 2)
        for n in (*([32] if first > 32 else []), first % 32 or first, *numbers):
            accumulator.add(np.ones((n, 2)), np.zeros(n, np.int64))
        return accumulator

    for n in (room + 1, room + 12):
        with pytest.raises(ValueError, match=f"{n} rows after row {first} cross a word boundary"):
            add_up(n)
    assert add_up(room).finish().n_obs.tolist() == [first + room] * 2


def test_float32_values_are_taken_exactly(reduce):
    X, Y = make_data(50, 3)
    design = factorise_design(X)
    Y = (Y + 1e4).astype(np.float32)
    assert_same(reduce(design, Y), reduce(design, Y.astype(float)))


@given(st.integers(-500, 500))
def test_scaling_by_a_power_of_two_is_exact(reduce, exponent):
    X, Y = make_data(20, 3)
    Y = Y[:, :20]
    design = factorise_design(X)
    plain, scaled = reduce(design, Y), reduce(design, np.ldexp(Y, exponent))
    assert_array_equal(scaled.QtY, np.ldexp(plain.QtY, exponent))
    assert_array_equal(scaled.YtY, np.ldexp(plain.YtY, 2 * exponent))
    assert_array_equal(scaled.presence, plain.presence)


@given(st.integers(-(2**40), 2**40))
def test_a_shift_goes_to_the_reference_alone(reduce, shift):
    X, Y = make_data(20, 3)
    Y = np.round(64 * Y[:, :20]) / 64  # sums with the shift are exact
    design = factorise_design(X)
    plain, shifted = reduce(design, Y), reduce(design, Y + shift)
    observed = plain.n_obs > 0
    assert_array_equal(shifted.reference[observed], plain.reference[observed] + shift)
    assert_same(shifted._replace(reference=plain.reference), plain)


def test_a_negative_zero_is_a_value(reduce):
    design = factorise_design(np.ones((5, 1)))
    products = reduce(design, np.array([[np.nan], [-0.0], [0.0], [np.nan], [2.0]]))
    assert products.n_obs == 3
    assert products.reference == 0
    assert products.YtY == 4


@given(st.integers(0, 2**32 - 1))
def test_bits_are_counted(word):
    assert count_bits(np.uint64(word)) == word.bit_count()
