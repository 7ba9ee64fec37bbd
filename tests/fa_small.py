"""Small images like FA, and an engine that knows how they differ: by place and size."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nipype_blm.tbss.engines import ENGINES, Engine, Warps
from nipype_blm.tbss.fields import Field
from nipype_blm.tbss.images import Volume
from nipype_blm.tbss.options import FA, Options
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.planning import make_plan
from nipype_blm.tbss.preprocess import erode

SHAPE = (22, 24, 20)
ZOOM = 3.0
# Radii along x, y and z of a head of size 1, in mm.
RADII = np.array([20.0, 24.0, 17.0])


def make_head(
    size: float = 1.0, shift: Sequence[float] = (0, 0, 0), shape: Sequence[int] = SHAPE
) -> Volume:
    """Return an ellipsoid with a bright sheet in its middle, as FA has."""
    affine = nib.affines.from_matvec(
        np.diag([ZOOM] * 3), -ZOOM * (np.array(shape) - 1) / 2
    )  # the middle of the grid is at 0
    voxels = np.indices(shape).reshape(3, -1).T
    places = (nib.affines.apply_affine(affine, voxels) - shift) / (RADII * size)
    distance = np.linalg.norm(places, axis=1)
    values = 0.25 + 0.5 * np.exp(-((places[:, 0] / 0.25) ** 2)) - 0.1 * distance
    data = np.where(distance < 1, values, 0).astype(np.float32).reshape(shape)
    return Volume(data, affine)


def write_head(path: Path, size: float = 1.0, shift: Sequence[float] = (0, 0, 0)) -> Path:
    head = make_head(size, shift)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(head.data, head.affine), path)
    return path


def write_template(path: Path, size: float = 1.0) -> Path:
    """Write a head without its edge, which subjects of its size lose, too."""
    head = make_head(size)
    nib.save(nib.Nifti1Image(erode(head.data), head.affine), path)
    return path


def measure_head(volume: Volume) -> tuple[NDArray[np.float64], float]:
    """Return the middle of a head in mm, and its size."""
    voxels = np.argwhere(volume.data > 0)
    places = nib.affines.apply_affine(volume.affine, voxels)
    middle = places.mean(0)
    # Of an ellipsoid the variance along each axis is a fifth of the squared radius.
    return middle, float(np.sqrt(5 * ((places - middle) / RADII).var(axis=0).mean()))


def register_heads(fixed: Volume, moving: Volume) -> Warps:
    """Return the fields that bring heads onto each other, by their middles and sizes."""
    one, other = measure_head(fixed), measure_head(moving)
    return Warps(_make_field(fixed, one, other), _make_field(moving, other, one))


def _make_field(volume: Volume, here: Any, there: Any) -> Field:
    voxels = np.indices(volume.data.shape).reshape(3, -1).T
    places = nib.affines.apply_affine(volume.affine, voxels)
    moved = there[0] + (places - here[0]) * (there[1] / here[1])
    values = (moved - places).astype(np.float32).reshape(*volume.data.shape, 3)
    return Field(values, volume.affine)


def add_engine(
    register: Callable[[Volume, Volume], Warps] = register_heads,
    name: str = "heads",
    has_inverse: bool = True,
) -> None:
    """Add an engine to those that there are; a test takes it out again."""
    ENGINES[name] = Engine(register, lambda: None, "of tests", name, str, has_inverse)


def write_heads(folder: Path, sizes: Sequence[float]) -> list[Path]:
    """Write a head of each size, at different places."""
    shifts = itertools.cycle([(0, 0, 0), (3, -2, 1), (-4, 3, 2), (2, 5, -3)])
    return [
        write_head(folder / f"p{i}.nii.gz", size, shift)
        for i, (size, shift) in enumerate(zip(sizes, shifts, strict=False))
    ]


def plan_heads(
    folder: Path,
    sizes: Sequence[float] = (1.0, 0.9, 1.1, 0.95),
    maps: Sequence[str] = (),
    parallel_nodes: int = 1,
    **options: Any,
) -> Plan:
    """Return a plan for heads, which are written if they are not there yet; see `add_engine`."""
    given = {"engine": "heads", "template": folder / "template.nii.gz"} | options
    if not (folder / "template.nii.gz").exists():
        write_template(folder / "template.nii.gz")
        write_heads(folder / FA, sizes)
    for name in maps:
        if not (folder / name).exists():
            write_heads(folder / name, sizes)
    images = {
        name: [folder / name / f"p{i}.nii.gz" for i in range(len(sizes))] for name in (FA, *maps)
    }
    out_dir = folder / "out"
    return make_plan(images, Options(**given), out_dir, out_dir / "work", parallel_nodes)
