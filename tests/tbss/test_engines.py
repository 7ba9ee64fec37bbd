"""Every engine finds warps that are known, in both directions, and the same in every run."""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fa_cohort import KnownWarp, make_field, make_person_images, make_pose, make_template
from fa_small import make_head

from nipype_blm.errors import InputError
from nipype_blm.tbss.engines import ENGINES, check_engine, field_from_fsl
from nipype_blm.tbss.images import Volume, list_places, make_isotropic
from nipype_blm.tbss.registration import correlate, register

ZOOM = 6.0
PACKAGES = ("greedy", "ants")


def make_volume(image) -> Volume:
    return Volume(image.data.astype(np.float32), image.affine)


@pytest.fixture(scope="module")
def fixed() -> Volume:
    """The template on large cubes."""
    return make_isotropic(make_volume(make_template(ZOOM)), ZOOM)


@pytest.fixture(scope="module")
def warped():
    """A subject whose warp is known, on cubes."""
    rng = np.random.default_rng(4)
    warp = KnownWarp(make_pose(rng, 6, 8), make_field(rng, 2.5), 2.5)
    fa, _ = make_person_images(warp, rng, ZOOM, "LAS", effect=0)
    return warp, make_isotropic(make_volume(fa), ZOOM)


@pytest.fixture(scope="module", params=PACKAGES)
def engine(request: pytest.FixtureRequest) -> str:
    """One that is a package."""
    name = str(request.param)
    assert ENGINES[name].find_fault() is None
    return name


@pytest.fixture(scope="module")
def warps(engine, fixed, warped):
    return register(fixed, warped[1], engine)


def list_tissue(volume: Volume, least: float = 0.3):
    """Return the voxels whose structure tells where they are, and their places."""
    mask = volume.data > least
    return mask, list_places(mask, volume.affine)


def measure_errors(found, known) -> tuple[float, float]:
    """Return median and 90th percentile of distances in mm."""
    distance = np.linalg.norm(found - known, axis=1)
    return float(np.median(distance)), float(np.percentile(distance, 90))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_is_found_with_its_sign(engine, fixed, axis):
    """To a quarter of a cube of 6 mm: what their affine leaves, on cubes that large."""
    shift = np.zeros(3)
    shift[axis] = 9.0
    affine = fixed.affine.copy()
    affine[:3, 3] += shift
    found = register(fixed, Volume(fixed.data, affine), engine)
    mask, _ = list_tissue(fixed)
    np.testing.assert_allclose(np.median(found.forward.values[mask], axis=0), shift, atol=ZOOM / 4)
    assert found.inverse is not None
    np.testing.assert_array_equal(found.inverse.affine, affine)
    np.testing.assert_allclose(np.median(found.inverse.values[mask], axis=0), -shift, atol=ZOOM / 4)


def test_a_known_warp_is_found_to_half_a_voxel(engine, warps, fixed, warped):
    warp, moving = warped
    mask, here = list_tissue(fixed)
    start = np.median(np.linalg.norm(warp.to_template(here) - here, axis=1))
    middle, high = measure_errors(warp.to_template(here + warps.forward.values[mask]), here)
    assert middle < ZOOM / 2 < start
    assert high < ZOOM
    zero = warps.forward._replace(values=np.zeros_like(warps.forward.values))
    assert correlate(zero, fixed, moving) < 0.8
    assert correlate(warps.forward, fixed, moving) > 0.95


def test_the_inverse_is_the_known_warp(warps, fixed, warped):
    warp, moving = warped
    assert warps.inverse is not None
    assert warps.inverse.values.shape == (*moving.data.shape, 3)
    mask, there = list_tissue(moving)
    middle, high = measure_errors(there + warps.inverse.values[mask], warp.to_template(there))
    assert middle < ZOOM / 2
    assert high < ZOOM
    assert correlate(warps.inverse, moving, fixed) > 0.95


def test_there_and_back_is_where_it_began(warps, fixed):
    """To a tenth of a voxel: fields are interpolated between voxels, and inverted by iteration."""
    _, here = list_tissue(fixed)
    back = warps.inverse.apply(warps.forward.apply(here))
    middle, high = measure_errors(back, here)
    assert middle < ZOOM / 10
    assert high < ZOOM / 4


def test_nothing_is_found_where_nothing_differs(engine, fixed):
    found = register(fixed, fixed, engine)
    mask, here = list_tissue(fixed)
    _, high = measure_errors(here + found.forward.values[mask], here)
    assert high < ZOOM / 4


AGAIN = """
import sys
import numpy as np
from nipype_blm.tbss.images import Volume
from nipype_blm.tbss.registration import register
images = np.load(sys.argv[1])
fixed, moving = (Volume(images[n], images[n + "_affine"]) for n in ("fixed", "moving"))
warps = register(fixed, moving, sys.argv[2])
np.savez(sys.argv[3], forward=warps.forward.values, inverse=warps.inverse.values)
"""


def test_bits_are_the_same_in_every_run_and_process(engine, warps, fixed, warped, tmp_path):
    moving = warped[1]
    images = {"fixed": fixed, "moving": moving}
    arrays = {name: volume.data for name, volume in images.items()}
    arrays |= {f"{name}_affine": volume.affine for name, volume in images.items()}
    np.savez(tmp_path / "in.npz", **arrays)
    again = register(fixed, moving, engine)
    command = [sys.executable, "-c", AGAIN, tmp_path / "in.npz", engine, tmp_path / "out.npz"]
    # As a shell without limits, and on another number of cores, would have it.
    environment = {k: v for k, v in os.environ.items() if "NUM_THREADS" not in k}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    other = np.load(tmp_path / "out.npz")
    for name in ("forward", "inverse"):
        known = getattr(warps, name).values
        np.testing.assert_array_equal(getattr(again, name).values, known)
        np.testing.assert_array_equal(other[name], known)


def test_no_files_are_left(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    small = make_isotropic(make_head(), 4.0)
    register(small, make_isotropic(make_head(1.1), 4.0), engine)
    assert not list(tmp_path.iterdir())


def test_greedy_works_where_the_temporary_folder_has_a_blank_in_its_name(tmp_path, monkeypatch):
    small, large = (make_isotropic(make_head(size), 4.0) for size in (1.0, 1.1))
    known = register(small, large, "greedy").forward.values
    folder = tmp_path / "with blank"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    np.testing.assert_array_equal(register(small, large, "greedy").forward.values, known)


# ------------------------------------------------------------------------------ what is missing


def test_an_engine_that_is_not_known_is_said():
    with pytest.raises(InputError, match="expected greedy, ants, fsl"):
        check_engine("antz")


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("greedy", "picsl_greedy", "tbss"), ("ants", "ants", "ants")]
)
def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"nipype_blm\[{extra}\]"):
        check_engine(name)


def test_programs_of_fsl_that_are_not_on_the_path_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="fsl_reg and convertwarp of FSL are not on PATH"):
        check_engine("fsl")


# ------------------------------------------------------------------------------------------ FSL


def find_fsl_mm(affine, shape, voxel) -> list[float]:
    """Return FSL's mm of a voxel: voxels times size; where x runs to the right, from its end."""
    zooms = [np.sqrt((affine[:3, k] ** 2).sum()) for k in range(3)]
    i = shape[0] - 1 - voxel[0] if np.linalg.det(affine[:3, :3]) > 0 else voxel[0]
    return [i * zooms[0], voxel[1] * zooms[1], voxel[2] * zooms[2]]


def make_oblique(seed: int, is_flipped: bool, shape) -> Volume:
    rng = np.random.default_rng(seed)
    turn = nib.eulerangles.euler2mat(*rng.uniform(-0.5, 0.5, 3))
    zooms = np.diag(rng.uniform(1, 3, 3)) * ([-1, 1, 1] if is_flipped else 1)
    affine = nib.affines.from_matvec(turn @ zooms, rng.uniform(-20, 20, 3))
    return Volume(np.ones(shape, np.float32), affine)


@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=2)))
def test_displacements_of_fsl_are_read_as_its_convention_has_them(flips):
    """Those of a known mapping between places are written by hand, voxel by voxel."""
    fixed = make_oblique(1, flips[0], (4, 5, 6))
    moving = make_oblique(2, flips[1], (6, 4, 5))
    mapping = nib.affines.from_matvec(
        np.eye(3) + 0.1 * np.random.default_rng(3).normal(size=(3, 3)), [3, -2, 5]
    )
    to_voxels = np.linalg.inv(moving.affine)
    values = np.zeros((4, 5, 6, 3), np.float32)
    known = np.zeros_like(values)
    for voxel in np.ndindex(4, 5, 6):
        place = (fixed.affine @ [*voxel, 1])[:3]
        there = (mapping @ [*place, 1])[:3]
        source = (to_voxels @ [*there, 1])[:3]
        end = find_fsl_mm(moving.affine, (6, 4, 5), source)
        start = find_fsl_mm(fixed.affine, (4, 5, 6), voxel)
        values[voxel] = np.subtract(end, start)
        known[voxel] = there - place
    found = field_from_fsl(values, fixed, moving)
    np.testing.assert_array_equal(found.affine, fixed.affine)
    # mm, of float32 displacements of some tens.
    np.testing.assert_allclose(found.values, known, atol=1e-4)


PROGRAM = """#!{python}
import sys
import nibabel as nib
import numpy as np
fixed, moving = (nib.load(f"{{name}}.nii.gz") for name in ("fixed", "moving"))
zooms = fixed.header.get_zooms()
if "convertwarp" in sys.argv[0]:
    # Grids run to the right: in FSL's mm both begin at the ends of their first axes.
    ends = [image.affine @ [image.shape[0] - 1, 0, 0, 1] for image in (fixed, moving)]
    apart = (ends[0] - ends[1])[:3] + np.array([6.0, 4.0, -2.0])
    values = np.ones((*fixed.shape, 3)) * apart * [-1, 1, 1]
    nib.save(nib.Nifti1Image(values.astype(np.float32), fixed.affine), "u.nii.gz")
elif {fails}:
    sys.exit("no memory is left")
"""


def install_fsl(folder: Path, fails: bool) -> None:
    for name in ("fsl_reg", "convertwarp"):
        path = folder / name
        path.write_text(PROGRAM.format(python=sys.executable, fails=fails))
        path.chmod(0o755)


def test_the_programs_of_fsl_are_run_and_their_warp_is_read(tmp_path, monkeypatch):
    """Programs of these names stand for FSL, which is not there: they shift by what is known."""
    install_fsl(tmp_path, fails=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    check_engine("fsl")
    fixed = make_isotropic(make_head(), 3.0)
    moving = make_isotropic(make_head(1.2, (6, 4, -2)), 3.0)
    found = register(fixed, moving, "fsl")
    assert found.inverse is None
    expected = np.broadcast_to(np.float32([6, 4, -2]), found.forward.values.shape)
    np.testing.assert_allclose(found.forward.values, expected, atol=1e-4)


def test_a_program_of_fsl_that_fails_says_why(tmp_path, monkeypatch):
    install_fsl(tmp_path, fails=True)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    small = make_isotropic(make_head(), 4.0)
    with pytest.raises(RuntimeError, match=r"fsl_reg moving fixed.*no memory is left"):
        register(small, small, "fsl")
