"""The name of a file says of which space it is; masks are read in any of them."""

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.data.headers import read_header
from nipype_blm.data.kinds import KINDS, find_kind, is_image_path, read_mask
from nipype_blm.errors import InputError

SHAPE = (4, 3, 2)
AFFINE = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1.0]])


def save(path, values, dtype="float32", affine=AFFINE, scale=(1, 0)):
    """Write an image whose stored numbers, times slope plus intercept, are the values."""
    stored = (np.asarray(values) - scale[1]) / scale[0]
    image = nib.Nifti1Image(stored.astype(dtype), affine)
    image.header.set_slope_inter(*scale)
    nib.save(image, path)
    return path


def make_header(tmp_path):
    return read_header(save(tmp_path / "image.nii", np.ones(SHAPE)))


@pytest.mark.parametrize(
    ("name", "is_image"),
    [
        *((name, True) for name in ("a.nii", "A.NII.GZ", "a.nii.bz2", "a.nii.zst", "a.img")),
        *((name, True) for name in ("a.hdr", "a.img.gz", "a.hdr.gz", "a.mgz", "a.mgh.gz")),
        *((name, False) for name in ("nii.txt", "list.gz", "nii")),
    ],
)
def test_images_are_told_from_lists_by_their_names(tmp_path, name, is_image):
    assert is_image_path(tmp_path / name) == is_image


def test_the_longest_ending_of_a_name_says_of_which_kind_a_file_is(tmp_path, monkeypatch):
    """As .dscalar.nii is one of .nii, and no volume."""
    longer = KINDS["volume"]._replace(endings=(".dscalar.nii", ".gii"))
    monkeypatch.setitem(KINDS, "longer", longer)
    for name in ("a.dscalar.nii", "A.DSCALAR.NII.GZ", "a.func.gii"):
        assert find_kind(tmp_path / name) is longer
    for name in ("a.nii", "dscalar.nii", "a.scalar.nii.gz", "a.txt"):
        assert find_kind(tmp_path / name) is KINDS["volume"]


@pytest.mark.parametrize("inside", [1, 255, 0.01, -3])
@pytest.mark.parametrize("outside", [0, np.nan, np.inf])
def test_inside_a_mask_means_finite_and_not_zero(tmp_path, inside, outside):
    where = np.random.default_rng(0).random(SHAPE) < 0.5
    path = save(tmp_path / "m.nii.gz", np.where(where, inside, outside))
    mask = read_mask(path, make_header(tmp_path), "analysis_mask")
    np.testing.assert_array_equal(mask, where.ravel(order="F"))


def test_a_scaled_integer_mask_is_tested_after_scaling(tmp_path):
    where = np.random.default_rng(0).random(SHAPE) < 0.5
    path = save(tmp_path / "m.nii", where * 1.0, "int16", scale=(0.5, -3))
    mask = read_mask(path, make_header(tmp_path), "analysis_mask")
    np.testing.assert_array_equal(mask, where.ravel(order="F"))


@pytest.mark.parametrize("value", [0, np.nan])
def test_a_mask_without_a_voxel_is_refused(tmp_path, value):
    path = save(tmp_path / "m.nii", np.full(SHAPE, value))
    with pytest.raises(InputError, match=r"analysis_mask .*m\.nii has no voxel"):
        read_mask(path, make_header(tmp_path), "analysis_mask")


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4, 3, 3), AFFINE, r"shape is \(4, 3, 3\), expected \(4, 3, 2\)"),
        (SHAPE, np.eye(4), "affine is .* expected"),
        ((*SHAPE, 2), AFFINE, "2 volumes"),
    ],
)
def test_a_mask_in_another_space_is_refused(tmp_path, shape, affine, message):
    path = save(tmp_path / "m.nii", np.ones(shape), affine=affine)
    with pytest.raises(InputError, match=message) as error:
        read_mask(path, make_header(tmp_path), "analysis_mask")
    assert f"analysis_mask {path} is not in the space of the images" in str(error.value)


def test_a_damaged_mask_is_named(tmp_path):
    path = save(tmp_path / "m.nii.gz", np.ones(SHAPE))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"m\.nii\.gz is damaged"):
        read_mask(path, make_header(tmp_path), "analysis_mask")
