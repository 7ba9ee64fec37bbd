"""Maps are NIfTI files in the space of the images, with a sidecar."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from nipype_blm import __version__
from nipype_blm.data.headers import read_header
from nipype_blm.data.maps import MapInfo
from nipype_blm.data.volumes import VolumeSpace

AFFINE = np.array([[-2, 0, 0, 90], [0, 2.5, 0.5, -126], [0, 0, 3, -72], [0, 0, 0, 1.0]])
SHAPE = (4, 3, 2)


def make_image(path, shape=SHAPE, cls=nib.Nifti1Image):
    image = cls(np.ones(shape, np.float32), AFFINE)
    nib.save(image, path)
    return path


def write(tmp_path, info, volumes, dtype="float32", name="m.nii"):
    space = VolumeSpace.of_file(make_image(tmp_path / "image.nii"))
    path = tmp_path / "new folder" / name
    space.write(path, info, volumes, np.dtype(dtype))
    return path


def make_volumes(n, dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 100, np.prod(SHAPE)).astype(dtype) for _ in range(n)]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz"])
def test_a_3d_map_is_read_back_in_its_type_without_scaling(tmp_path, dtype, name):
    [volume] = make_volumes(1, dtype)
    image = nib.load(write(tmp_path, MapInfo("m", "A map."), [volume], dtype, name))
    assert image.shape == SHAPE
    assert image.get_data_dtype() == dtype
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).ravel(order="F"), volume)


@pytest.mark.parametrize("n", [1, 3])
def test_labelled_volumes_make_a_4d_map(tmp_path, n):
    volumes = make_volumes(n)
    labels = tuple("abc"[:n])
    image = nib.load(write(tmp_path, MapInfo("m", "A map.", volumes=labels), iter(volumes)))
    assert image.header.get_data_shape() == (*SHAPE, n)
    for i, volume in enumerate(volumes):
        np.testing.assert_array_equal(image.get_fdata()[..., i].ravel(order="F"), volume)


def test_the_file_says_what_it_is(tmp_path):
    info = MapInfo("m", "T statistics of é.", "t test", (17.0,))
    header = nib.load(write(tmp_path, info, make_volumes(1))).header
    assert header.get_intent() == ("t test", (17.0,), "")
    assert header["descrip"] == b"T statistics of ?."


def test_a_long_description_is_cut_in_the_header_only(tmp_path):
    info = MapInfo("m", "x" * 200)
    path = write(tmp_path, info, make_volumes(1))
    assert nib.load(path).header["descrip"] == b"x" * 79
    assert json.loads(path.with_suffix(".json").read_text())["Description"] == "x" * 200


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz", "contrast-a.b_stat-z.nii.gz"])
def test_the_sidecar_has_the_name_of_the_map(tmp_path, name):
    stem = name.replace(".gz", "").replace(".nii", "")
    info = MapInfo(f"maps/{stem}", "A map.", volumes=("a",), details={"Criterion": "ML"})
    path = write(tmp_path, info, make_volumes(1), name=name)
    sidecar = path.with_name(f"{stem}.json")
    assert json.loads(sidecar.read_text()) == {
        "Description": "A map.",
        "Volumes": ["a"],
        "Criterion": "ML",
        "GeneratedBy": {"Name": "nipype_blm", "Version": __version__},
    }


def test_equal_maps_are_equal_files(tmp_path):
    contents = set()
    for folder in "ab":
        (tmp_path / folder).mkdir()
        path = write(tmp_path / folder, MapInfo("m", "A map."), make_volumes(1), name="m.nii.gz")
        contents.add(path.read_bytes())
    [content] = contents
    assert gzip.decompress(content)  # its checksum holds
    assert content[3:8] == bytes(5)  # no name, and no time


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_a_map_says_that_its_values_are_not_scaled(tmp_path, dtype):
    """Some programs take a slope of NaN, as NiBabel writes it with an image, for a factor."""
    path = write(tmp_path, MapInfo("m", "A map."), make_volumes(1, dtype), dtype)
    content = path.read_bytes()
    assert np.frombuffer(content[112:120], "<f4").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("intent", "code"),
    [
        ("none", 0),
        ("t test", 3),
        ("f test", 4),
        ("z score", 5),
        ("p value", 22),
        ("log10 p value", 24),
        ("estimate", 1001),
        ("label", 1002),
    ],
)
def test_every_intent_has_its_nifti_code(tmp_path, intent, code):
    header = nib.load(write(tmp_path, MapInfo("m", "A map.", intent), make_volumes(1))).header
    assert header["intent_code"] == code


@pytest.mark.parametrize("codes", [(1, 0), (0, 4), (1, 2), (4, 4)])
def test_the_space_is_that_of_the_image_with_its_codes(tmp_path, codes):
    qform_code, sform_code = codes
    image = nib.Nifti1Image(np.ones(SHAPE, np.int16), None)
    image.header.set_qform(np.diag([2, 2, 3, 1]), qform_code)
    image.header.set_sform(AFFINE, sform_code)
    image.header.set_xyzt_units("mm", "sec")
    image = nib.Nifti1Image(np.ones(SHAPE, np.int16), None, image.header)
    nib.save(image, tmp_path / "image.nii")
    source = nib.load(tmp_path / "image.nii")
    path = tmp_path / "m.nii"
    space = VolumeSpace.of_file(tmp_path / "image.nii")
    space.write(path, MapInfo("m", ""), make_volumes(1), np.dtype("f4"))
    written = nib.load(path)
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(written.header.get_qform(), source.header.get_qform())
    np.testing.assert_array_equal(written.header.get_sform(), source.header.get_sform())
    assert int(written.header["qform_code"]) == qform_code
    assert int(written.header["sform_code"]) == sform_code
    assert written.header.get_zooms() == source.header.get_zooms()
    assert written.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("i.nii", nib.Nifti2Image),
        ("i.img", nib.Nifti1Pair),
        ("i.img", nib.Spm99AnalyzeImage),
        ("i.mgz", nib.MGHImage),
    ],
)
def test_the_space_of_an_image_of_another_format_is_kept(tmp_path, name, cls):
    source = make_image(tmp_path / name, cls=cls)
    path = tmp_path / "m.nii"
    space = VolumeSpace.of_file(source)
    space.write(path, MapInfo("m", ""), make_volumes(1), np.dtype("f4"))
    # Formats store the affine in single precision or as voxel sizes and angles.
    np.testing.assert_allclose(nib.load(path).affine, nib.load(source).affine, rtol=1e-6, atol=1e-5)


def test_the_grid_of_a_space_is_that_of_its_image(tmp_path):
    source = make_image(tmp_path / "i.nii.gz", (*SHAPE, 3))
    space = VolumeSpace.of_file(source)
    assert space.grid.shape == SHAPE
    np.testing.assert_array_equal(space.grid.affine, AFFINE)
    assert space.grid.describe_difference(read_header(source)) is None


def test_a_grid_longer_than_nifti1_allows_is_written_as_nifti2(tmp_path):
    shape = (40_000, 1, 1)
    source = tmp_path / "i.nii"
    nib.save(nib.Nifti2Image(np.ones(shape, np.uint8), AFFINE), source)
    values = np.arange(40_000, dtype=np.float32)
    path = tmp_path / "m.nii"
    info = MapInfo("m", "A map.", "z score", volumes=("a", "b"))
    VolumeSpace.of_file(source).write(path, info, [values, -values], np.dtype("f4"))
    image = nib.load(path)
    assert isinstance(image, nib.Nifti2Image)
    assert image.shape == (*shape, 2)
    assert image.header.get_intent()[0] == "z score"
    np.testing.assert_array_equal(image.affine, AFFINE)
    np.testing.assert_array_equal(image.get_fdata()[:, 0, 0, 1], -values)
