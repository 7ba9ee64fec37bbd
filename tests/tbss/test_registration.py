"""Images are made ready for registration, and what it gives is judged."""

import nibabel as nib
import numpy as np
import pytest
from fa_small import make_head, write_head
from nibabel.processing import resample_from_to

from nipype_blm.tbss.engines import ENGINES, Engine, Warps
from nipype_blm.tbss.fields import Field, field_of_affine
from nipype_blm.tbss.images import Volume, make_isotropic
from nipype_blm.tbss.preprocess import erode
from nipype_blm.tbss.registration import correlate, prepare_fa, prepare_template, register

# float32 values near 1, interpolated.
FLOAT32 = 1e-5


def make_zero(volume: Volume) -> Field:
    return Field(np.zeros((*volume.data.shape, 3), np.float32), volume.affine)


def test_fa_loses_its_edge_and_is_put_onto_cubes(tmp_path):
    head = make_head()
    data = head.data.copy()
    data[10, 10, 10], data[0, 0, 0] = 1.3, -0.2
    nib.save(nib.Nifti1Image(data, head.affine), tmp_path / "a.nii.gz")
    found = prepare_fa(tmp_path / "a.nii.gz", 4.0)
    np.testing.assert_array_equal(found.native.data, erode(np.maximum(data, 0)))
    np.testing.assert_array_equal(found.native.affine, head.affine)
    known = make_isotropic(found.native, 4.0)
    np.testing.assert_array_equal(found.isotropic.data, known.data)


@pytest.mark.parametrize("scale", [1, 100, 1000, 10_000])
def test_a_template_may_be_scaled_and_keeps_its_edge(tmp_path, scale):
    head = make_head()
    nib.save(nib.Nifti1Image(head.data * scale, head.affine), tmp_path / "t.nii.gz")
    found = prepare_template(tmp_path / "t.nii.gz", 3.0)
    np.testing.assert_allclose(found.data, make_isotropic(head, 3.0).data, atol=FLOAT32)


def test_the_engine_that_is_asked_registers(monkeypatch):
    fixed, moving = make_head(), make_head(1.1)
    seen = []

    def note(*images):
        seen.append(images)
        return Warps(make_zero(fixed), None)

    monkeypatch.setitem(ENGINES, "noting", Engine(note, lambda: None, "of tests", "", str, False))
    register(fixed, moving, "noting")
    assert seen == [(fixed, moving)]


def test_the_correlation_is_that_of_the_image_that_nibabel_resamples():
    fixed, moving = make_head(), make_head(1.1, (3, 1, -2))
    shift = nib.affines.from_matvec(np.eye(3), [2.0, -1.5, 4.0])
    field = field_of_affine(shift, fixed.data.shape, fixed.affine)
    image = nib.Nifti1Image(moving.data, np.linalg.inv(shift) @ moving.affine)
    there = resample_from_to(image, (fixed.data.shape, fixed.affine), order=1).get_fdata()
    mask = fixed.data > 0
    expected = np.corrcoef(there[mask], fixed.data[mask])[0, 1]
    assert correlate(field, fixed, moving) == pytest.approx(expected, abs=FLOAT32)


def test_an_image_correlates_with_itself_by_1():
    fixed = make_head()
    assert correlate(make_zero(fixed), fixed, fixed) == pytest.approx(1)


def test_an_image_that_is_warped_out_of_sight_has_failed():
    fixed = make_head()
    away = field_of_affine(
        nib.affines.from_matvec(np.eye(3), [900, 0, 0]), fixed.data.shape, fixed.affine
    )
    assert correlate(away, fixed, fixed) == -1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_warp_that_is_not_finite_has_failed(value):
    fixed = make_head()
    field = make_zero(fixed)
    field.values[10, 10, 10, 1] = value
    assert correlate(field, fixed, fixed) == -1


def test_a_warp_that_is_not_finite_outside_of_the_brain_has_failed_too():
    """It would be interpolated at the edge of the brain."""
    fixed = make_head()
    field = make_zero(fixed)
    field.values[0, 0, 0] = np.nan
    assert correlate(field, fixed, fixed) == -1


def test_preparing_does_not_depend_on_where_the_head_lies(tmp_path):
    whole = prepare_fa(write_head(tmp_path / "a.nii.gz"), 3.0).isotropic
    shifted = prepare_fa(write_head(tmp_path / "b.nii.gz", shift=(3, -3, 3)), 3.0).isotropic
    np.testing.assert_allclose(shifted.affine[:3, 3] - whole.affine[:3, 3], [3, -3, 3])
    np.testing.assert_allclose(shifted.data, whole.data, atol=FLOAT32)
