"""Displacement fields are applied, combined, measured and kept as plain loops do it."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from nipype_blm.tbss.fields import (
    Field,
    combine,
    field_of_affine,
    measure_displacement,
    read_field,
    write_field,
)
from nipype_blm.tbss.images import Volume

# mm, of float32 displacements up to 100 mm.
FLOAT32 = 2e-5
GRID = nib.affines.from_matvec(np.diag([2.0, 2.5, 3.0]), [-10, -12, 4])
SHAPE = (8, 7, 6)


def make_field(seed: int = 1, size: float = 3.0) -> Field:
    values = np.random.default_rng(seed).normal(0, size, (*SHAPE, 3))
    return Field(values.astype(np.float32), GRID)


def make_fixed(shape=SHAPE) -> Volume:
    data = np.zeros(shape, np.float32)
    data[1:-1, 1:-1, 1:-1] = 0.5
    return Volume(data, GRID)


def walk(shape=SHAPE):
    """Yield each voxel and its place."""
    for voxel in np.ndindex(*shape):
        yield voxel, (GRID @ [*voxel, 1])[:3]


def make_rigid(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    return nib.affines.from_matvec(turn, rng.uniform(-50, 50, 3))


def test_at_voxels_a_field_moves_by_its_values():
    field = make_field()
    inner = [(voxel, place) for voxel, place in walk() if min(voxel) > 0]
    found = field.apply(np.array([place for _, place in inner]))
    expected = [place + field.values[voxel] for voxel, place in inner]
    np.testing.assert_allclose(found, expected, atol=FLOAT32)


def test_between_voxels_displacements_are_interpolated():
    field = make_field(2)
    place = (GRID @ [2.25, 3, 4, 1])[:3]
    expected = place + 0.75 * field.values[2, 3, 4] + 0.25 * field.values[3, 3, 4]
    np.testing.assert_allclose(field.apply(place[None])[0], expected, atol=FLOAT32)


def test_beyond_the_grid_displacements_are_those_of_its_border():
    field = make_field(3)
    place = (GRID @ [2, 3, 50, 1])[:3]
    np.testing.assert_allclose(
        field.apply(place[None])[0], place + field.values[2, 3, -1], atol=FLOAT32
    )


def test_the_points_given_are_left_as_they_are():
    points = np.zeros((4, 3))
    make_field().apply(points)
    assert not points.any()


def test_an_affine_after_a_warp_moves_places_through_both():
    warp = make_field(4)
    affine = nib.affines.from_matvec(np.random.default_rng(5).normal(size=(3, 3)), [3, -4, 5])
    found = combine(affine, warp)
    np.testing.assert_array_equal(found.affine, GRID)
    for voxel, place in walk():
        moved = (affine @ [*(place + warp.values[voxel]), 1])[:3]
        np.testing.assert_allclose(place + found.values[voxel], moved, atol=FLOAT32)


def test_the_field_of_an_affine_moves_places_by_it():
    affine = make_rigid(6)
    found = field_of_affine(affine, SHAPE, GRID)
    for voxel, place in walk():
        moved = (affine @ [*place, 1])[:3]
        # Turned by half, displacements reach 150 mm.
        np.testing.assert_allclose(place + found.values[voxel], moved, atol=5 * FLOAT32)
    assert not field_of_affine(np.eye(4), SHAPE, GRID).values.any()


@pytest.mark.parametrize("seed", range(5))
def test_a_rigid_motion_is_no_displacement(seed):
    field = field_of_affine(make_rigid(seed), SHAPE, GRID)
    assert np.abs(field.values).max() > 10
    # The square of what float32 leaves of 100 mm.
    assert measure_displacement(field, make_fixed()) < FLOAT32**2


def test_a_displacement_is_the_same_after_any_rigid_motion():
    warp = make_field(7)
    known = measure_displacement(warp, make_fixed())
    for seed in range(3):
        moved = combine(make_rigid(seed), warp)
        # float32 of 100 mm, beside displacements of some mm.
        assert measure_displacement(moved, make_fixed()) == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_growth_is_a_displacement_of_known_size(factor):
    field = field_of_affine(np.diag([factor] * 3 + [1.0]), SHAPE, GRID)
    places = np.array([place for voxel, place in walk() if make_fixed().data[voxel]])
    radii = ((places - places.mean(0)) ** 2).sum(axis=1)
    expected = (factor - 1) ** 2 * np.median(radii)
    assert measure_displacement(field, make_fixed()) == pytest.approx(expected, rel=1e-4)


def test_a_mirrored_brain_is_not_taken_for_a_turned_one():
    field = field_of_affine(np.diag([-1.0, 1, 1, 1]), SHAPE, GRID)
    assert measure_displacement(field, make_fixed()) > 10


def test_displacements_are_those_of_an_independent_best_motion():
    field = make_field(8)
    mask = make_fixed().data > 0
    here = np.array([place for voxel, place in walk() if mask[voxel]])
    there = here + field.values[mask]
    here, there = here - here.mean(0), there - there.mean(0)
    turn, _ = Rotation.align_vectors(there, here)
    expected = np.median(((there - turn.apply(here)) ** 2).sum(axis=1))
    assert measure_displacement(field, make_fixed()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [3.0, 400.0])
def test_a_field_is_kept_to_half_a_step(tmp_path, size):
    field = make_field(9, size)
    write_field(tmp_path / "a.nii.gz", field)
    read = read_field(tmp_path / "a.nii.gz")
    step = max(0.01, np.abs(field.values).max() / (2**15 - 1))
    # Beside half a step, the float32 of the slope.
    assert np.abs(read.values - field.values).max() < step * 0.501
    np.testing.assert_allclose(read.affine, GRID, atol=1e-6)


def test_no_displacement_at_all_is_kept(tmp_path):
    write_field(tmp_path / "a.nii.gz", Field(np.zeros((*SHAPE, 3), np.float32), GRID))
    assert not read_field(tmp_path / "a.nii.gz").values.any()


def test_other_programs_see_vectors_in_a_field(tmp_path):
    field = make_field(10)
    write_field(tmp_path / "a.nii.gz", field)
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.shape == (*SHAPE, 1, 3)
    assert image.header.get_intent()[0] == "displacement vector"
    np.testing.assert_allclose(image.get_fdata()[:, :, :, 0], field.values, atol=0.006)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
