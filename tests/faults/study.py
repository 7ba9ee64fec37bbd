"""Images and tables of a study whose fit takes some seconds."""

from pathlib import Path

import nibabel as nib
import numpy as np

N_IMAGES = 48
SHAPE = (60, 72, 60)
FIELDS = {"images_per_batch": 2, "voxels_per_block": 26000}  # 24 batches, 10 blocks


def write_study(folder: Path) -> None:
    folder.mkdir()
    for i in range(N_IMAGES):
        write_image(folder / f"s{i:02}.nii.gz", i)
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(N_IMAGES), rng.normal(size=N_IMAGES)])
    np.savetxt(folder / "X.csv", X, fmt="%.17g", delimiter=",")
    (folder / "Y.txt").write_text("".join(f"s{i:02}.nii.gz\n" for i in range(N_IMAGES)))


def write_image(path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2, 2, 2, 1])), path)
