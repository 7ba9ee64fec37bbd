"""Sums of images and levels over blocks, against plain loops; which values stand out."""

import itertools

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from nipype_blm.core.diagnostics import (
    LARGE,
    OUTLYING,
    compute_skewness,
    measure_outlyingness,
    merge_images,
    merge_levels,
    sum_images,
    sum_levels,
)
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.residuals import compute_residuals


def make_values(mean=0.0):
    rng = np.random.default_rng(7)
    Y = rng.standard_normal((50, 20)) + mean + 5 * rng.standard_normal((50, 1))
    Y[rng.random(Y.shape) < 0.2] = np.nan
    Y[3, 0] = np.nan
    Y[:, 5] = np.nan  # an image without any value
    Y[10, :] = np.where(np.arange(20) == 1, 7.0, np.nan)  # a voxel with one image
    Y[20, 2] += 100
    return Y, np.column_stack([np.ones(20), rng.standard_normal(20)])


def correlate(Y, i):
    """Return the correlation of an image with the mean of the others, voxel by voxel."""
    pairs = []
    for y in Y:
        others = np.delete(y, i)
        others = others[~np.isnan(others)]
        if not np.isnan(y[i]) and others.size:
            pairs.append((y[i], others.mean()))
    return np.corrcoef(np.transpose(pairs))[0, 1]


def test_sums_are_those_of_each_image():
    Y, X = make_values()
    with np.errstate(invalid="ignore"):
        found = compute_residuals(Y, factorise_design(X))
        sums = sum_images(Y, found)
    for i in range(20):
        z, cook = found.standardised[:, i], found.cook[:, i]
        z, cook = z[~np.isnan(z)], cook[~np.isnan(cook)]
        assert sums.n[i] == (~np.isnan(Y[:, i])).sum()
        if i == 5:
            assert np.isnan(
                [sums.mean_standardised[5], sums.correlation[5], sums.mean_cook[5]]
            ).all()
            continue
        assert_allclose(sums.mean_standardised[i], np.abs(z).mean(), rtol=1e-12)
        assert_allclose(sums.share_large[i], (np.abs(z) > LARGE).mean(), rtol=1e-12)
        assert_allclose(sums.mean_cook[i], cook.mean(), rtol=1e-12)
        assert_allclose(sums.correlation[i], correlate(Y, i), rtol=1e-10)
    assert (sums.share_large > 0).any()


def test_blocks_make_no_difference_beyond_rounding():
    Y, X = make_values(mean=1e4)
    found = compute_residuals(Y, factorise_design(X))
    whole = sum_images(Y, found)
    edges = [0, 1, 17, 18, 50]
    parts = []
    for start, stop in itertools.pairwise(edges):
        part = slice(start, stop)
        parts.append(sum_images(Y[part], type(found)(*(each[part] for each in found))))
    merged = merge_images(parts)
    for name in whole._fields:
        # Products about a mean of 1e4 keep 1e-16 * 1e4 of their size.
        assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-10, err_msg=name)
    assert_allclose(merged.correlation, whole.correlation, rtol=1e-9)


def test_a_constant_image_has_no_correlation():
    Y = np.random.default_rng(8).standard_normal((30, 4))
    Y[:, 2] = 3.0
    sums = sum_images(Y, compute_residuals(Y, factorise_design(np.ones((4, 1)))))
    assert_array_equal(np.isnan(sums.correlation), np.arange(4) == 2)


def test_skewness_is_that_of_the_images_present_in_any_unit():
    Y = np.random.default_rng(9).gamma(2, size=(20, 15))
    Y[1:][np.random.default_rng(1).random((19, 15)) < 0.3] = np.nan
    expected = stats.skew(Y, axis=1, nan_policy="omit")
    for unit in (1, 1e150, 1e-150):
        assert_allclose(compute_skewness(unit * Y), expected, rtol=1e-9)


def test_levels_count_where_they_have_images():
    blup = np.array([[1.0, -2, 3], [4, 5, -6]])
    is_present = np.array([[True, False], [True, True]])
    sums = merge_levels(
        [sum_levels(blup[i : i + 1], is_present[i : i + 1], np.array([0, 0, 1])) for i in range(2)]
    )
    assert_array_equal(sums.n, [2, 1])
    assert_array_equal(sums.blup, [5, 7, 6])


def test_outlyingness_counts_robust_standard_deviations_to_the_bad_side():
    values = np.array([1, 2, 3, 4, 5, 100, np.nan])
    median, deviation = 3.5, 1.4826 * 1.5
    found = measure_outlyingness(values, 1, 0.0)
    assert_allclose(found[:6], (values[:6] - median) / deviation, rtol=1e-12)
    assert found[6] == 0
    assert_allclose(measure_outlyingness(values, -1, 0.0), -found)


def test_differences_that_do_not_matter_do_not_stand_out():
    values = np.array([0.0] * 9 + [0.04])  # nearly all the same: any difference is extreme
    assert measure_outlyingness(values, 1, 0.05).max() < OUTLYING
    assert measure_outlyingness(values, 1, 0.03).max() > OUTLYING
    assert not measure_outlyingness(np.full(3, np.nan), 1, 0.1).any()
