"""Two grids are equal if voxels lie at the same places; what differs is said with its numbers."""

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.data.headers import read_header

SHAPE = (4, 3, 2)
AFFINE = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1.0]])


def header_with(tmp_path, shape=SHAPE, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), affine), tmp_path / "grid.nii")
    return read_header(tmp_path / "grid.nii")


def test_equal_grids_do_not_differ(tmp_path):
    one, other = header_with(tmp_path), header_with(tmp_path, (*SHAPE, 5))
    assert other.describe_difference(one) is None


def test_both_shapes_are_named(tmp_path):
    text = header_with(tmp_path, (4, 3, 3)).describe_difference(header_with(tmp_path))
    assert "(4, 3, 3)" in text
    assert "(4, 3, 2)" in text


@pytest.mark.parametrize("shift", [0.01, -5])
def test_both_affines_are_named(tmp_path, shift):
    affine = AFFINE.copy()
    affine[0, 3] += shift
    text = header_with(tmp_path)._replace(affine=affine).describe_difference(header_with(tmp_path))
    assert str(np.round(affine, 4).tolist()) in text
    assert str(AFFINE.tolist()) in text


def test_affines_that_differ_little_are_shown_with_the_digits_that_differ(tmp_path):
    expected = header_with(tmp_path)._replace(shape=(200, 200, 200))
    affine = AFFINE.copy()
    affine[0, 1] += 3e-5  # 0.006 mm at the far end
    text = expected._replace(affine=affine).describe_difference(expected)
    assert "its affine is [[-2.0, 3e-05, 0.0, 90.0], " in text
    assert f"expected {AFFINE.tolist()}" in text


def test_affines_that_differ_by_rounding_are_equal(tmp_path):
    affine = AFFINE * (1 + 1e-7)
    affine[3, 3] = 1
    header = header_with(tmp_path)
    assert header._replace(affine=affine).describe_difference(header) is None


def test_a_small_rotation_counts_where_it_moves_far_voxels(tmp_path):
    header = header_with(tmp_path, (200, 200, 200))
    affine = header.affine.copy()
    affine[0, 1] += 1e-4  # 0.02 mm at the far end
    assert "affine" in header._replace(affine=affine).describe_difference(header)


SINGULAR = {
    "all zeros": np.diag([0, 0, 0, 1.0]),
    "no third axis": np.diag([2, 2, 0, 1.0]),
    "two equal axes": np.array([[2, 2, 0, 5], [1, 1, 0, 5], [0, 0, 3, 5], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_an_affine_that_gives_voxels_no_place_is_refused_even_if_all_images_have_it(tmp_path, name):
    header = header_with(tmp_path)._replace(affine=SINGULAR[name])
    text = header.describe_difference(header)
    assert text == f"its affine is singular: {SINGULAR[name].tolist()}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_affine_with_values_that_are_not_finite_is_refused_as_such(tmp_path, value):
    good = header_with(tmp_path)
    affine = AFFINE.copy()
    affine[1, 2] = value
    bad = good._replace(affine=affine)
    for expected in (good, bad):
        text = bad.describe_difference(expected)
        assert text == f"its affine has values that are not finite: {affine.tolist()}"


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1e3])
def test_voxels_of_any_unit_have_a_place(tmp_path, size):
    header = header_with(tmp_path)._replace(affine=np.diag([size, size, size, 1]))
    assert header.describe_difference(header) is None
