"""Images of FA of small synthetic brains, which register within a fraction of a second."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (24, 28, 22)
ZOOM = 6.0
AFFINE = np.array([[-ZOOM, 0, 0, 70], [0, ZOOM, 0, -80], [0, 0, ZOOM, -60], [0, 0, 0, 1.0]])


def make_brain(number: int = -1) -> NDArray[np.float32]:
    """Return FA: of a template, or of a person, who is warped by 3 mm or so and has noise."""
    rng = np.random.default_rng(number + 1)
    places = np.indices(SHAPE).astype(float)
    if number >= 0:
        moves = [ndimage.gaussian_filter(rng.normal(size=SHAPE), 4) for _ in range(3)]
        places += [0.5 * move / move.std() for move in moves]
    middle = np.reshape(np.array(SHAPE) - 1, (3, 1, 1, 1)) / 2
    radii = np.reshape((9, 11, 8), (3, 1, 1, 1))
    inside = (((places - middle) / radii) ** 2).sum(axis=0) < 1
    anatomy = ndimage.gaussian_filter(np.random.default_rng(99).normal(size=SHAPE), 1.5)
    # A few high ridges in much that is low, as white matter is: the median is 0.25.
    rank = np.argsort(np.argsort(anatomy.ravel())).reshape(SHAPE) / anatomy.size
    fa = ndimage.map_coordinates(0.05 + 0.8 * rank**2, places, order=1, mode="nearest")
    if number >= 0:
        fa = fa + rng.normal(scale=0.01, size=SHAPE)
    return np.where(inside, np.clip(fa, 0.02, 1), 0).astype(np.float32)


def save(path: Path, data: Any, affine: Any = AFFINE, dtype: Any = np.float32) -> Path:
    """Write an image, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, dtype), affine), path)
    return path


def write_brains(folder: Path, names: Sequence[str] | int = 3) -> list[Path]:
    """Write a person for each name, without ending."""
    if isinstance(names, int):
        names = [f"s{i}" for i in range(names)]
    return [save(folder / f"{name}.nii.gz", make_brain(i)) for i, name in enumerate(names)]


def write_template(folder: Path) -> Path:
    """Write the template."""
    return save(folder / "template.nii.gz", make_brain())
