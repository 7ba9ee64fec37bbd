"""Which values are data: kernels against NumPy, one value at a time."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from numpy.testing import assert_array_equal

from nipype_blm.core.voxels import find_runs, gather, gather_scaled

SPECIAL = np.array(
    [np.nan, np.inf, -1e308, 0.0, -0.0, 5e-324, -5e-324, 1e-300, 1.5, -1.5, 2, 1e6, 9e39, -9e39]
)
IS_DATA = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1], bool)
IS_ZERO = SPECIAL == 0
NO_MASK = np.empty(0)


def gather_all(volume: np.ndarray, threshold=-np.inf, zero_is_missing=True, dtype=np.float64):
    out = np.full(volume.size, 99, dtype)
    runs = np.array([0]), np.array([volume.size])
    return *gather(volume, *runs, threshold, zero_is_missing, NO_MASK, out), out


@given(st_np.arrays(bool, st.integers(0, 80)))
@example(np.ones(9, bool))
@example(np.zeros(9, bool))
@example(np.ones(0, bool))
def test_runs_are_the_longest_stretches_of_the_mask(mask):
    starts, lengths = find_runs(mask)
    inside = [v for a, n in zip(starts, lengths, strict=True) for v in range(a, a + n)]
    assert_array_equal(inside, np.flatnonzero(mask))
    assert (lengths > 0).all()
    assert (starts[1:] > starts[:-1] + lengths[:-1]).all()


@pytest.mark.parametrize("zero_is_missing", [True, False])
def test_special_values(zero_is_missing):
    is_data = IS_DATA | (IS_ZERO & (not zero_is_missing))
    n_missing, n_infinite, n_zero, out = gather_all(SPECIAL, zero_is_missing=zero_is_missing)
    assert_array_equal(out, np.where(is_data, SPECIAL, np.nan))
    assert n_missing == (~is_data).sum()
    assert n_infinite == 2
    assert n_zero == (2 if zero_is_missing else 0)


@pytest.mark.parametrize("zero_is_missing", [True, False])
def test_special_values_of_float32(zero_is_missing):
    tiny = np.finfo(np.float32).smallest_subnormal
    huge = np.finfo(np.float32).max
    volume = np.array([np.nan, np.inf, -np.inf, 0, -0.0, tiny, -tiny, huge, -huge], np.float32)
    is_data = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1], bool) | ((volume == 0) & (not zero_is_missing))
    for dtype in (np.float32, np.float64):
        *counts, out = gather_all(volume, -np.inf, zero_is_missing, dtype)
        assert_array_equal(out, np.where(is_data, volume, np.nan))
        assert counts == [(~is_data).sum(), 2, 2 if zero_is_missing else 0]


def test_a_zero_keeps_its_sign_where_it_is_data():
    *_, out = gather_all(np.array([0.0, -0.0]), zero_is_missing=False)
    assert_array_equal(np.signbit(out), [False, True])


def test_the_threshold_itself_is_data_and_what_lies_below_is_missing():
    volume = np.array([-1, np.nextafter(1, 0), 1, np.nextafter(1, 2), 5])
    n_missing, *_, out = gather_all(volume, threshold=1.0)
    assert_array_equal(out, [np.nan, np.nan, *volume[2:]])
    assert n_missing == 2
    n_missing, *_, out = gather_all(np.array([-1.0, 0, 1]), threshold=0.0, zero_is_missing=False)
    assert_array_equal(out, [np.nan, 0, 1])
    assert n_missing == 1


@pytest.mark.parametrize("dtype", "?bhilqBHILQfd")
def test_every_type_is_read_exactly(dtype):
    volume = np.array([0, 1, 2, 3, 100]).astype(dtype)
    if np.issubdtype(dtype, np.integer) and np.dtype(dtype).itemsize < 8:
        volume[-2:] = np.iinfo(dtype).min, np.iinfo(dtype).max
    expected = np.where(volume == 0, np.nan, volume.astype(float))
    *counts, out = gather_all(volume)
    assert_array_equal(out, expected)
    assert counts == [np.isnan(expected).sum(), 0, (volume == 0).sum()]


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("threshold", [-np.inf, -2.0, 0.0, 1e-300])
@pytest.mark.parametrize("zero_is_missing", [True, False])
@given(data=st.data())
def test_any_mask_gathers_its_voxels_in_file_order(data, threshold, zero_is_missing, has_mask):
    mask = data.draw(st_np.arrays(bool, st.integers(0, 90)))
    values = st.sampled_from([*SPECIAL, -2.0, 1.0, 3.0])
    volume = data.draw(st_np.arrays(float, mask.size, elements=values))
    n = int(mask.sum())
    own = data.draw(st_np.arrays(bool, n)) if has_mask else np.ones(n, bool)
    before = volume.copy()
    is_data, is_zero = tell_data(volume[mask], threshold, zero_is_missing, own)
    inside = np.where(own, 5.0, np.nan) if has_mask else NO_MASK
    for scale in ((), (1.0, 0.0), (-1.0, -0.0)):
        function = gather_scaled if scale else gather
        out = np.full(mask.sum(), 99.0)
        stored = scale[0] * volume if scale else volume
        result = function(stored, *find_runs(mask), *scale, threshold, zero_is_missing, inside, out)
        assert_array_equal(out, np.where(is_data, volume[mask], np.nan))
        assert result == ((~is_data).sum(), is_infinite(volume[mask]).sum(), is_zero.sum())
    assert_array_equal(volume, before)


def is_infinite(values):
    """Return where values are infinite, or so large that squares of their variances may be."""
    return np.abs(values) >= 1e40


def tell_data(values, threshold, zero_is_missing, own):
    """Return which values are data, and which zeros are missing for no other reason."""
    is_number = (np.abs(values) < 1e40) & (values >= threshold) & own
    return is_number & ((values != 0) | (not zero_is_missing)), (
        is_number & (values == 0) & zero_is_missing
    )


@pytest.mark.parametrize("zero_is_missing", [True, False])
@pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.0), (0.1, -3.0), (-2.0, 5.0), (1e300, 0.0)])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_scaled_values_are_tested_after_scaling(dtype, slope, inter, zero_is_missing):
    volume = np.array([0, 1, 2, 3, 30, 100, 127], dtype)
    if np.issubdtype(dtype, np.floating):
        volume[-3:] = np.nan, np.inf, -np.inf
    if dtype is np.float64:
        volume[0] = 1e10
    mask = np.array([1, 1, 1, 0, 1, 1, 1], bool)
    with np.errstate(over="ignore"):  # first the product, rounded, then the sum: as nibabel does
        scaled = volume[mask].astype(float) * slope + inter
    is_data = (np.abs(scaled) < 1e40) & (scaled >= -4) & ((scaled != 0) | (not zero_is_missing))
    out = np.full(6, 99.0)
    missing_if = -4.0, zero_is_missing, NO_MASK
    result = gather_scaled(volume, *find_runs(mask), slope, inter, *missing_if, out)
    assert_array_equal(out, np.where(is_data, scaled, np.nan))
    n_zero = (scaled == 0).sum() if zero_is_missing else 0
    assert result == ((~is_data).sum(), is_infinite(scaled).sum(), n_zero)


def test_zero_is_tested_after_slope_and_intercept():
    out = np.empty(4)
    runs = np.array([0]), np.array([4])
    volume = np.array([0, 1, 2, 3], np.int16)
    assert gather_scaled(volume, *runs, 0.5, -1.0, -np.inf, True, NO_MASK, out) == (1, 0, 1)
    assert_array_equal(out, [-1, -0.5, np.nan, 0.5])


@given(st.integers(-30000, 30000), st.sampled_from([0.1, 0.01, 1 / 3, 1e-3, 0.7, 1.1]))
def test_a_stored_value_that_scales_to_zero_is_missing(stored, slope):
    # An intercept of -slope * stored, as a writer computes it.
    inter = -(slope * stored)
    volume, out = np.array([stored, stored + 1], np.int16), np.empty(2)
    runs = np.array([0]), np.array([2])
    counts = gather_scaled(volume, *runs, slope, inter, -np.inf, True, NO_MASK, out)
    assert counts == (1, 0, 1)
    assert np.isnan(out[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_data_mask_marks_what_it_leaves_out_and_keeps_the_rest(dtype):
    values = np.array([1, np.nan, 3, np.nan, 5, 0, 0], dtype)
    inside = np.array([1, 1, np.nan, np.nan, 7, 1, np.nan])
    out = np.empty_like(values)
    runs = np.array([0, 3]), np.array([3, 4])
    assert gather(values, *runs, -np.inf, True, inside, out) == (5, 0, 1)
    assert_array_equal(out, np.array([1, *[np.nan] * 3, 5, np.nan, np.nan], dtype))
