"""Programs that register images: one function for each, which all give displacement fields."""

import ctypes
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.errors import InputError
from nipype_blm.tbss.fields import Field, combine
from nipype_blm.tbss.images import Volume, list_places, transform, write_volume

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # between RAS of NIfTI and LPS of ITK


class Warps(NamedTuple):
    """What a registration finds."""

    forward: Field  # on the grid of the fixed image
    inverse: Field | None  # on that of the moving image, if the engine gives it


class Engine(NamedTuple):
    """A program that registers images."""

    register: Callable[[Volume, Volume], Warps]  # of (fixed, moving), both from `make_isotropic`
    find_fault: Callable[[], str | None]  # why it cannot be used here, and what to do
    words: str  # what it does
    settings: str  # on which its results depend
    find_version: Callable[[], str]
    has_inverse: bool


def check_engine(name: str) -> None:
    """See whether an engine can be used here.

    Raises
    ------
    InputError
        If there is none of this name, or it is not installed.
    """
    if name not in ENGINES:
        raise InputError(f"engine {name!r} is not known; expected {', '.join(ENGINES)}.")
    fault = ENGINES[name].find_fault()
    if fault is not None:
        raise InputError(f"engine {name} cannot be used: {fault}.")


def _needs_package(package: str, extra: str) -> Callable[[], str | None]:
    def find_fault() -> str | None:
        if find_spec(package) is None:
            return f"{package} is not installed; `pip install 'nipype_blm[{extra}]'` brings it"
        return None

    return find_fault


# ---------------------------------------------------------------------------------------- greedy

# How FA, from 0 to 1, is scaled: the search for the affine ends by absolute differences.
_SCALE = 100
_AFFINE = "-a -dof 12 -n 100x50x10 -jitter 0"
_WARP = "-sv -n 150x80x15 -s 2.5vox 0.3vox -wp 0"
_ONCE = "-threads 1 -V 0 -m SSD -i fixed moving"


def _register_greedy(fixed: Volume, moving: Volume) -> Warps:
    """Affine, then a stationary velocity field, both by least squares."""
    from picsl_greedy import GreedyFloat3D

    greedy, log = GreedyFloat3D(), io.StringIO()
    said = {"out": log, "err": log}
    images = {"fixed": _to_itk(fixed), "moving": _to_itk(moving)}
    with tempfile.TemporaryDirectory(prefix="nipype_blm_", dir=_choose_folder()) as folder:
        # The start, by centres of mass: brains may fill their images differently.
        start = np.eye(4)
        start[:3, 3] = _find_centre(moving) - _find_centre(fixed)
        names = {name: f"{folder}/{name}.mat" for name in ("start", "affine")}
        np.savetxt(names["start"], start)
        affine_to = f"-ia {names['start']} -o {names['affine']}"
        with _silence():
            greedy.execute(f"{_ONCE} {_AFFINE} {affine_to}", **said, **images)
        affine = np.loadtxt(names["affine"])
        warp_to = f"-it {names['affine']} -o warp -oinv inverse"
        greedy.execute(f"{_ONCE} {_WARP} {warp_to}", **said, warp=None, inverse=None)
    warp = Field(_from_itk(greedy["warp"]), fixed.affine)
    back = Field(_from_itk(greedy["inverse"]), fixed.affine)
    return Warps(combine(affine, warp), _invert(affine, back, moving))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from users what the libraries of greedy print themselves, as how a search has ended."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _choose_folder() -> str | None:
    """Return where files are for greedy, whose command knows no quotes; None: where all are."""
    usual = tempfile.gettempdir()
    return "/tmp" if any(letter in usual for letter in " ,\t\"'\\") else None


def _find_centre(volume: Volume) -> NDArray[np.float64]:
    return transform(volume.affine, np.array(ndimage.center_of_mass(volume.data)))


def _invert(affine: NDArray[np.float64], back: Field, moving: Volume) -> Field:
    """Return the field on the moving grid: y to p + back(p), where p is the inverse affine of y."""
    shape = moving.data.shape
    places = list_places(np.ones(shape, bool), moving.affine)
    found = back.apply(transform(np.linalg.inv(affine), places)) - places
    return Field(found.astype(np.float32).reshape(*shape, 3), moving.affine)


def _to_itk(volume: Volume) -> Any:
    """Return an image of ITK, scaled; its axes are those of RAS."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(_SCALE * volume.data.T))
    origin = volume.affine[:3, 3] * (-1, -1, 1)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(np.diag(volume.affine)[:3].tolist())
    image.SetDirection(_FLIP[:3, :3].ravel().tolist())
    return image


def _from_itk(image: Any) -> NDArray[np.float32]:
    """Return vectors of ITK, (nx, ny, nz, 3) in RAS."""
    import SimpleITK

    vectors = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0, 3)
    return np.asarray(vectors * np.array([-1, -1, 1]), np.float32)


# ------------------------------------------------------------------------------------------ ants


def _register_ants(fixed: Volume, moving: Volume) -> Warps:
    """SyN with its defaults."""
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")  # read when it is loaded
    import ants

    # It begins at samples that are drawn: with no seed, each run finds another warp.
    ants.config.set_ants_deterministic(on=True, seed_value=1)
    with tempfile.TemporaryDirectory(prefix="nipype_blm_") as folder:
        paths = {name: f"{folder}/{name}.nii" for name in ("fixed", "moving")}
        for name, volume in (("fixed", fixed), ("moving", moving)):
            write_volume(Path(paths[name]), volume.data, volume.affine)
        images = {name: ants.image_read(path) for name, path in paths.items()}
        found = ants.registration(**images, type_of_transform="SyN", outprefix=f"{folder}/of_")

        def compose(of: str, onto: str, transforms: list[str], inverted: list[bool]) -> Field:
            path = ants.apply_transforms(
                images[onto],
                images["moving" if onto == "fixed" else "fixed"],
                transforms,
                whichtoinvert=inverted,
                compose=f"{folder}/{of}_",
            )
            volume = fixed if onto == "fixed" else moving
            return Field(_read_itk_field(Path(path)), volume.affine)

        forward = compose("forward", "fixed", found["fwdtransforms"], [False, False])
        inverse = compose("inverse", "moving", found["invtransforms"], [True, False])
    return Warps(forward, inverse)


def _read_itk_field(path: Path) -> NDArray[np.float32]:
    image: Any = nib.load(path)
    values = np.asarray(image.dataobj, np.float32)[:, :, :, 0]
    return values * np.array([-1, -1, 1], np.float32)


# ------------------------------------------------------------------------------------------- fsl


def _find_fault_of_fsl() -> str | None:
    missing = [name for name in ("fsl_reg", "convertwarp") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} of FSL {'is' if len(missing) == 1 else 'are'} not on PATH"
    return None


def _find_version_of_fsl() -> str:
    path = Path(os.environ.get("FSLDIR", ""), "etc", "fslversion")
    return path.read_text().strip() if path.is_file() else "unknown"


def _register_fsl(fixed: Volume, moving: Volume) -> Warps:
    """FLIRT and FNIRT with FSL's settings for FA."""
    with tempfile.TemporaryDirectory(prefix="nipype_blm_") as folder:
        for name, volume in (("fixed", fixed), ("moving", moving)):
            write_volume(Path(folder, f"{name}.nii.gz"), volume.data, volume.affine)
        environment = os.environ | {"FSLOUTPUTTYPE": "NIFTI_GZ", "FSLSUBALREADYRUN": "true"}
        commands = (
            ("fsl_reg", "moving", "fixed", "moving_to_fixed", "-FA"),
            ("convertwarp", "--ref=fixed", "--warp1=moving_to_fixed_warp", "--relout", "--out=u"),
        )
        for command in commands:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
        image: Any = nib.load(Path(folder, "u.nii.gz"))
        values = np.asarray(image.dataobj, np.float32)
    return Warps(field_from_fsl(values, fixed, moving), None)


def field_from_fsl(values: NDArray[np.float32], fixed: Volume, moving: Volume) -> Field:
    """Return a field of the relative displacements of FSL.

    Parameters
    ----------
    values : array of shape (nx, ny, nz, 3)
        As ``convertwarp --relout`` writes them: in FSL's mm, which are voxels times their size,
        counted from the other end of the first axis where the determinant of the affine is above 0.
    fixed, moving : Volume
    """
    indices = np.argwhere(np.ones(values.shape[:3], bool))
    places = transform(fixed.affine, indices)
    moved = transform(_find_fsl_affine(fixed), indices) + values.reshape(-1, 3)
    there = transform(moving.affine @ np.linalg.inv(_find_fsl_affine(moving)), moved)
    return Field((there - places).astype(np.float32).reshape(values.shape), fixed.affine)


def _find_fsl_affine(volume: Volume) -> NDArray[np.float64]:
    """Return the affine from voxels to FSL's mm."""
    affine = np.diag([*volume.zooms, 1.0])
    if np.linalg.det(volume.affine) > 0:
        affine[0, 0] *= -1
        affine[0, 3] = (volume.data.shape[0] - 1) * volume.zooms[0]
    return affine


ENGINES = {
    "greedy": Engine(
        _register_greedy,
        _needs_package("picsl_greedy", "tbss"),
        "affine and stationary velocity field by least squares (picsl-greedy)",
        f"{_SCALE} {_ONCE} {_AFFINE} {_WARP}",
        partial(version, "picsl-greedy"),
        True,
    ),
    "ants": Engine(
        _register_ants,
        _needs_package("ants", "ants"),
        "SyN with its defaults (antspyx)",
        "SyN, seed 1",
        partial(version, "antspyx"),
        True,
    ),
    "fsl": Engine(
        _register_fsl,
        _find_fault_of_fsl,
        "FLIRT and FNIRT with settings for FA (fsl_reg)",
        "fsl_reg -FA",
        _find_version_of_fsl,
        False,
    ),
}
