"""Images are read, written and put onto other grids as NiBabel and plain loops do it."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to

from nipype_blm.errors import InputError
from nipype_blm.tbss import images
from nipype_blm.tbss.images import (
    Volume,
    interpolate,
    list_places,
    make_isotropic,
    put_onto,
    read_volume,
    transform,
    write_volume,
)

# float32 values near 1, from sums of eight products.
FLOAT32 = 1e-5


def make_affine(seed: int, zooms=(2.0, 2.5, 3.0), is_flipped: bool = False) -> np.ndarray:
    """Return an oblique affine."""
    rng = np.random.default_rng(seed)
    turn = nib.eulerangles.euler2mat(*rng.uniform(-0.4, 0.4, 3))
    scale = np.diag(zooms) * ([-1, 1, 1] if is_flipped else 1)
    return nib.affines.from_matvec(turn @ scale, rng.uniform(-30, 30, 3))


def make_volume(seed: int = 1, shape=(9, 8, 7), is_flipped: bool = False) -> Volume:
    rng = np.random.default_rng(seed)
    return Volume(rng.random(shape).astype(np.float32), make_affine(seed, is_flipped=is_flipped))


def interpolate_slowly(volume: Volume, point: np.ndarray) -> float:
    """Return the trilinear mean of eight voxels; 0 outside of their centres."""
    voxel = np.linalg.inv(volume.affine) @ [*point, 1]
    low = np.floor(voxel[:3]).astype(int)
    total = 0.0
    if (voxel[:3] < 0).any() or (voxel[:3] > np.array(volume.data.shape) - 1).any():
        return 0.0
    for step in itertools.product((0, 1), repeat=3):
        corner = low + step
        weight = np.prod(1 - np.abs(voxel[:3] - corner))
        if weight > 0:
            total += weight * volume.data[tuple(corner)]
    return float(total)


def test_an_image_is_read_as_nibabel_reads_it(tmp_path):
    rng = np.random.default_rng(1)
    image = nib.Nifti1Image(rng.integers(0, 900, (5, 6, 7), np.int16), make_affine(1))
    image.header.set_slope_inter(0.001, 0.02)
    nib.save(image, tmp_path / "a.nii.gz")
    read = read_volume(tmp_path / "a.nii.gz")
    known = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.data, known.get_fdata().astype(np.float32))
    np.testing.assert_array_equal(read.affine, known.affine)
    assert read.data.flags.c_contiguous
    np.testing.assert_allclose(read.zooms, known.header.get_zooms(), rtol=1e-6)  # of float32


def test_values_that_are_not_finite_become_zero(tmp_path):
    data = np.full((3, 3, 3), 0.5, np.float32)
    data[0, 1, 2], data[1, 1, 1], data[2, 0, 0] = np.nan, np.inf, -np.inf
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    expected = np.where(np.isfinite(data), data, 0)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").data, expected)


def test_what_is_no_image_is_said(tmp_path):
    (tmp_path / "a.nii").write_text("no image")
    with pytest.raises(InputError, match=r"a\.nii"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int8])
def test_a_written_image_has_both_affines_and_its_values(tmp_path, name, kind):
    volume = make_volume()
    data = (volume.data * 100).astype(kind)
    write_volume(tmp_path / "new" / name, data, volume.affine)
    image = nib.load(tmp_path / "new" / name)
    assert image.get_data_dtype() == kind
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)
    for affine in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(affine, volume.affine, atol=1e-4)  # of a quaternion of float32
    assert (image.header["sform_code"], image.header["qform_code"]) == (2, 2)
    assert image.header.get_xyzt_units() == ("mm", "sec")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.nii.gz"
    volume = make_volume()
    write_volume(path, volume.data, volume.affine)
    before = path.read_bytes()

    class Broken:
        def to_bytes(self):
            raise MemoryError

    with pytest.raises(MemoryError):
        images.write_image(path, Broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_flipped", [False, True])
def test_another_grid_is_filled_as_nibabel_fills_it(is_flipped):
    volume = make_volume(2, is_flipped=is_flipped)
    shape, affine = (11, 6, 9), make_affine(3, (1.7, 2.1, 2.9))
    middles = [
        transform(volume.affine, np.array([4, 3, 3])),
        transform(affine, np.array([5, 2, 4])),
    ]
    affine[:3, 3] += middles[0] - middles[1]
    known = resample_from_to(nib.Nifti1Image(volume.data, volume.affine), (shape, affine), order=1)
    found = put_onto(volume, shape, affine)
    assert np.count_nonzero(found) > 50
    np.testing.assert_allclose(found, known.get_fdata(), atol=FLOAT32)


def test_interpolation_is_that_of_a_loop_over_eight_voxels(monkeypatch):
    volume = make_volume(4)
    rng = np.random.default_rng(5)
    voxels = rng.uniform(-1, np.array(volume.data.shape), (200, 3))
    voxels[:10] = rng.integers(0, volume.data.shape, (10, 3))
    points = transform(volume.affine, voxels)
    expected = [interpolate_slowly(volume, point) for point in points]
    found = interpolate(volume, points)
    # At voxels themselves, which rounding may put just outside, either is right.
    inner = (np.abs(voxels - np.array(volume.data.shape) + 1) > 1e-6).all(axis=1)
    inner &= (np.abs(voxels) > 1e-6).all(axis=1)
    np.testing.assert_allclose(found[inner], np.array(expected)[inner], atol=FLOAT32)
    monkeypatch.setattr(images, "_AT_ONCE", 7)
    np.testing.assert_array_equal(interpolate(volume, points), found)


def test_places_of_a_mask_are_in_the_order_of_its_voxels():
    volume = make_volume(6)
    mask = volume.data > 0.8
    expected = [volume.affine @ [*voxel, 1] for voxel in zip(*mask.nonzero(), strict=True)]
    np.testing.assert_allclose(list_places(mask, volume.affine), np.array(expected)[:, :3])


def make_blob(zooms, affine=None) -> Volume:
    """Return a smooth blob within zeros."""
    shape = (14, 16, 12)
    grid = np.indices(shape).reshape(3, -1).T
    middle = np.array([6.0, 8, 5])
    distance = (((grid - middle) * zooms) ** 2).sum(1)
    data = np.exp(-distance / 60) * (distance < 90)
    affine = make_affine(8, zooms) if affine is None else affine
    return Volume(data.astype(np.float32).reshape(shape), affine)


@pytest.mark.parametrize("spacing", [2.0, 3.0])
def test_cubes_lie_along_the_axes_around_all_that_is_not_zero(spacing):
    volume = make_blob((2.0, 2.0, 2.0))
    found = make_isotropic(volume, spacing)
    np.testing.assert_array_equal(found.affine[:3, :3], np.diag([spacing] * 3))
    places = list_places(volume.data > 0, volume.affine)
    voxels = transform(np.linalg.inv(found.affine), places)
    assert voxels.min() > 4
    assert (np.array(found.data.shape) - 1 - voxels > 4).all()
    assert not np.concatenate([found.data[[0, -1]].ravel(), found.data[:, [0, -1]].ravel()]).any()


def test_cubes_of_the_size_of_voxels_have_values_as_nibabel_finds_them():
    volume = make_blob((2.0, 2.0, 2.0))
    found = make_isotropic(volume, 2.0)
    known = resample_from_to(
        nib.Nifti1Image(volume.data, volume.affine), (found.data.shape, found.affine), order=1
    )
    np.testing.assert_allclose(found.data, known.get_fdata(), atol=FLOAT32)


def test_values_on_cubes_do_not_depend_on_the_order_of_axes():
    volume = make_blob((2.0, 2.5, 3.0))
    image = nib.Nifti1Image(volume.data, volume.affine)
    known = make_isotropic(volume, 3.0)
    for codes in ("LAS", "SRA", "PIL"):
        change = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine),
            nib.orientations.axcodes2ornt(codes),
        )
        turned = image.as_reoriented(change)
        data = np.ascontiguousarray(np.asarray(turned.dataobj))
        found = make_isotropic(Volume(data, turned.affine), 3.0)
        np.testing.assert_allclose(found.affine, known.affine, atol=1e-9)
        np.testing.assert_allclose(found.data, known.data, atol=FLOAT32)


def test_smaller_voxels_are_smoothed_by_as_much_as_they_grow():
    """A point of 1 mm becomes one whose variance grew by that of the larger cube, less its own."""
    data = np.zeros((41, 41, 41), np.float32)
    data[20, 20, 20] = 1
    spacing = 4.0
    smoothed = images._smooth(Volume(data, np.eye(4)), spacing)
    profile = smoothed.sum(axis=(1, 2))
    variance = (profile * (np.arange(41) - 20) ** 2).sum() / profile.sum()
    # The kernel is cut and sampled at whole voxels: 2 % of its variance at most.
    assert variance == pytest.approx((spacing**2 - 1) / 12, rel=0.02)


def test_larger_voxels_are_not_smoothed():
    volume = make_blob((3.0, 3.0, 3.0))
    assert images._smooth(volume, 2.0) is volume.data
