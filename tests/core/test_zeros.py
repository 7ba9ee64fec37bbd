"""Zeros that are data are told from edges of brains: patterns of values, and NumPy as oracle."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from scipy.ndimage import gaussian_filter

from nipype_blm.core.status import VoxelStatus
from nipype_blm.core.zeros import (
    ZeroCounts,
    count_gaps,
    find_zeros_that_look_like_data,
    most_missing,
)

S = 26
GRID = np.stack(np.meshgrid(*[np.linspace(-1.3, 1.3, S)] * 3, indexing="ij"))


def pack(present):
    """Return the words of presence bits of `Products`."""
    n_obs, n_voxels = present.shape
    words = np.zeros((-(-n_obs // 32), n_voxels), np.uint32)
    for i in range(n_obs):
        words[i // 32] |= present[i].astype(np.uint32) << np.uint32(i % 32)
    return words


def count(present, batches=1, blocks=1, positions=None):
    """Count gaps and holes batch by batch and block by block."""
    n_images, n_voxels = present.shape
    n_obs = present.sum(axis=0).astype(np.int32)
    positions = np.arange(n_voxels) if positions is None else positions
    counts = ZeroCounts(*np.zeros((3, n_images), np.int32))
    counts.zeros[:] = (~present).sum(axis=1)
    for rows in np.array_split(np.arange(n_images), batches):
        of_batch = ZeroCounts(*(field[rows[0] : rows[-1] + 1] for field in counts))
        for voxels in np.array_split(np.arange(n_voxels), blocks):
            part = present[np.ix_(rows, voxels)]
            count_gaps(pack(part), n_obs[voxels], n_images, positions[voxels], of_batch)
    return n_obs, counts


@given(st.data())
def test_gaps_and_holes_are_counted_as_numpy_does(data):
    n_images = data.draw(st.sampled_from([3, 12, 31, 32, 33, 70]))
    n_voxels = data.draw(st.integers(2, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    present = rng.random((n_images, n_voxels)) < data.draw(st.sampled_from([0.5, 0.9, 0.99]))
    steps = data.draw(st_np.arrays(int, n_voxels, elements=st.integers(1, 2)))
    positions = np.cumsum(steps)
    batches = data.draw(st.integers(1, 3))
    _, counts = count(present, batches, 1, positions)
    shared = present.sum(axis=0) >= n_images - most_missing(n_images)
    gaps = ~present & shared
    np.testing.assert_array_equal(counts.gaps, gaps.sum(axis=1))
    adjacent = np.diff(positions) == 1
    between = adjacent[1:] & adjacent[:-1]
    holes = gaps[:, 1:-1] & present[:, :-2] & present[:, 2:] & between
    np.testing.assert_array_equal(counts.holes, holes.sum(axis=1))
    np.testing.assert_array_equal(count(present, batches, 2, positions)[1].gaps, counts.gaps)


def make_brains(n_images, rng, size=0.02, edge=0.03):
    """Return values of images whose size, place and edges differ, 0 outside."""
    images = []
    for _ in range(n_images):
        field = gaussian_filter(rng.normal(size=(S,) * 3), 2)
        center = 0.015 * rng.normal(size=3)
        radius = np.sqrt(((GRID - center[:, None, None, None]) ** 2).sum(axis=0))
        limit = 0.9 * (1 + size * rng.normal()) + edge * field / field.std()
        images.append(np.where(radius < limit, 3 + rng.normal(size=radius.shape), 0))
    return np.array(images).reshape(n_images, -1)


def blobs(rng, share, where=0.0):
    """Return smooth regions that cover a share of the grid, sooner where `where` is large."""
    field = gaussian_filter(rng.normal(size=(S,) * 3), 2).ravel()
    field = field / field.std() + where
    return field > np.quantile(field, 1 - share)


def judge(values, positions=None):
    n_obs, counts = count(values != 0, positions=positions)
    data = np.where(values == 0, np.nan, values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of voxels without data
        is_constant = np.nanmin(data, axis=0) == np.nanmax(data, axis=0)
    tried = np.where(is_constant, VoxelStatus.ZERO_VARIANCE, VoxelStatus.FITTED)
    status = np.where(n_obs > 3, tried, VoxelStatus.TOO_FEW).astype(np.uint8)
    return find_zeros_that_look_like_data(n_obs, status, counts)


@pytest.mark.parametrize("n_images", [4, 12, 60])
@pytest.mark.parametrize("kind", ["usual", "of many sizes", "cut", "unmasked", "inside a mask"])
def test_brains_with_ragged_edges_are_no_reason_for_a_notice(n_images, kind):
    rng = np.random.default_rng(n_images)
    wild = {"size": 0.04, "edge": 0.05} if kind == "of many sizes" else {}
    values = make_brains(n_images, rng, **wild)
    mask = np.ones(values.shape[1], bool)
    if kind == "cut":  # the field of view of one
        values[0][GRID[2].ravel() > 0.5] = 0
    if kind == "unmasked":
        values[0] = rng.normal(size=values.shape[1])
    if kind == "inside a mask":
        mask = (values != 0).mean(axis=0) > 0.5
    assert judge(values[:, mask], np.flatnonzero(mask)) is None


@pytest.mark.parametrize("n_images", [12, 40])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.45, 0.8])
def test_counts_with_any_share_of_zeros_are_noticed(n_images, share):
    rng = np.random.default_rng(n_images)
    values = make_brains(n_images, rng)
    values[rng.random(values.shape) < share] = 0
    found = judge(values)
    assert found is not None
    assert len(found.images) in (0, *range(n_images * 9 // 10, n_images + 1))


@pytest.mark.parametrize("n_images", [12, 40])
@pytest.mark.parametrize("share", [0.005, 0.04, 0.2])
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_masks_of_lesions_are_noticed_whether_they_overlap_or_not(n_images, share, overlap):
    rng = np.random.default_rng(n_images)
    brains = make_brains(n_images, rng) != 0
    where = -overlap * (GRID**2).sum(axis=0).ravel()  # most of them in the middle
    lesions = np.array([blobs(rng, share, where) for _ in range(n_images)])
    found = judge((brains & lesions).astype(float))
    assert found is not None
    assert found.images == {}


@pytest.mark.parametrize("n_images", [12, 40])
@pytest.mark.parametrize(
    "zeros",
    [lambda rng: rng.random(S**3) < 0.02, lambda rng: ~blobs(rng, 0.3), lambda rng: True],
    ids=["scattered", "of a thresholded map", "everywhere"],
)
def test_one_image_with_zeros_among_others_is_named(n_images, zeros):
    rng = np.random.default_rng(n_images)
    values = make_brains(n_images, rng)
    values[2] = np.where(zeros(rng), 0, values[2])
    found = judge(values)
    shared = (values != 0).sum(axis=0) >= n_images - most_missing(n_images)
    assert found.images == {2: pytest.approx((values[2, shared] == 0).mean(), rel=1e-12)}


def test_missing_values_that_are_not_zeros_are_no_reason_for_a_notice():
    rng = np.random.default_rng(1)
    present = rng.random((30, 500)) < 0.55
    n_obs, counts = count(present)
    for status in (VoxelStatus.FITTED, VoxelStatus.ZERO_VARIANCE):
        of_all = np.full(500, status, np.uint8)
        assert find_zeros_that_look_like_data(n_obs, of_all, counts) is not None
        # NaN, infinite, below the threshold, outside their masks
        without = counts._replace(zeros=np.zeros(30, np.int32))
        assert find_zeros_that_look_like_data(n_obs, of_all, without) is None


@pytest.mark.parametrize("n_images", [1, 2, 3])
@pytest.mark.parametrize("value", [0, 1])
def test_few_images_and_constant_ones_are_judged_without_an_error(n_images, value):
    found = judge(np.full((n_images, 10), value))
    assert (found is None) == (value == 1)
