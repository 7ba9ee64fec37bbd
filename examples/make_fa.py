"""Make up images of FA and MD of people in two groups.

Usage: python examples/make_fa.py FOLDER

A head of four millimetres with an arch between both halves and a sheet in each.  Every person's is
bent and turned in another way, and lies elsewhere in the scanner; in group B, FA of the arch is
lower by 0.12.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

N_PEOPLE, VOXEL_MM, SHAPE = 14, 4.0, (44, 52, 40)
BEND_MM, BEND_WIDTH, NOISE = 3.0, 6, 0.02  # bends in voxels
AFFINE = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
AFFINE[:3, 3] = -VOXEL_MM * (np.array(SHAPE) - 1) / 2
NAMES = {1: "arch", 2: "left sheet", 3: "right sheet"}


def list_distances(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
    """Return how far places are from the middle of each tract, in mm."""
    arch = np.hypot(np.hypot(x, z + 10) - 35, np.maximum(abs(y) - 45, 0) + 50 * (z < -10))
    sheets = [
        np.hypot(side * x - 45 - 8 * np.sin(y / 20), np.maximum(abs(y) - 50, abs(z) - 30).clip(0))
        for side in (-1, 1)
    ]
    return [arch, *sheets]


def draw_head(places: np.ndarray, lower: float = 0.0) -> np.ndarray:
    """Return FA at places in mm, of shape (3, ...); that of the arch lower by `lower`."""
    x, y, z = places
    head = (x / 75) ** 2 + (y / 92) ** 2 + (z / 68) ** 2 < 1
    fa = np.full(x.shape, 0.12)
    for distance, height in zip(list_distances(x, y, z), (0.6 - lower, 0.55, 0.55), strict=True):
        fa += (height - 0.12) * np.exp(-((distance / 6) ** 2) / 2)
    return np.where(head, fa, 0)


def main(folder: Path) -> None:
    """Write the images, a table of the people, a template and an atlas."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2006)
    voxels = np.indices(SHAPE)
    grid = np.einsum("ij,jxyz->ixyz", AFFINE[:3, :3], voxels) + AFFINE[:3, 3, None, None, None]
    save = lambda name, data, affine: nib.save(nib.Nifti1Image(data, affine), folder / name)  # noqa: E731
    save("template.nii.gz", draw_head(grid).astype(np.float32), AFFINE)
    distances = np.array(list_distances(*grid))
    labels = np.where(distances.min(axis=0) < 8, distances.argmin(axis=0) + 1, 0)
    save("labels.nii.gz", labels.astype(np.uint8), AFFINE)
    rows = "".join(f"{label}\t{name}\n" for label, name in NAMES.items())
    (folder / "labels.tsv").write_text(f"index\tname\n{rows}")
    people = ["participant_id\tgroup\tage\n"]
    for person in range(N_PEOPLE):
        group, age = "AB"[person % 2], int(rng.integers(20, 70))
        bend = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), BEND_WIDTH) for _ in range(3)]
        bend = np.array([BEND_MM * each / each.std() for each in bend])
        fa = draw_head(grid + bend, lower=0.12 * (group == "B"))
        fa = np.where(fa > 0, np.clip(fa + NOISE * rng.standard_normal(SHAPE), 0.01, 1), 0)
        md = np.where(fa > 0, 1e-3 * (1.1 - 0.6 * fa), 0)
        elsewhere = AFFINE.copy()
        elsewhere[:3, 3] += rng.uniform(-15, 15, 3)
        name = f"sub-{person + 1:02d}"
        save(f"{name}_FA.nii.gz", fa.astype(np.float32), elsewhere)
        save(f"{name}_MD.nii.gz", md.astype(np.float32), elsewhere)
        people.append(f"{name}\t{group}\t{age}\n")
    (folder / "people.tsv").write_text("".join(people))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
