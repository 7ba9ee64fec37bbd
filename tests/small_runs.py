"""Runs of ``blm`` on a few voxels, in any space and with any names."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from nipype_blm.cli.blm import main

HOSTILE = [
    "<script>alert(1)</script>",
    "\"double\" 'single' & `back` $x_1$ {{ it }}",
    "🧠 " + "long " * 60,
]


def write_small_run(
    folder: Path,
    contrasts: dict[str, list],
    *,
    shape: tuple[int, ...] = (8, 9, 7),
    affine: np.ndarray | None = None,
    code: int = 2,
    names: tuple[str, ...] = ("one", "dose", "group"),
    blob: tuple[slice, ...] = np.s_[1:4, 2:5, 1:4],
    more: str = "",
) -> Path:
    """Fit 20 images in which the second column of X has an effect within a blob."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    X = np.column_stack([np.ones(20), rng.normal(size=20), np.arange(20) % 2])
    affine = np.diag([4.0, 4, 4, 1]) if affine is None else affine
    for i, row in enumerate(X):
        values = 50 + rng.normal(size=shape)
        values[blob] += 2 * row[1]
        image = nib.Nifti1Image(values.astype("f4"), affine)
        image.set_sform(affine, code)
        nib.save(image, folder / f"image-{i}.nii")
    (folder / "images.txt").write_text("\n".join(f"image-{i}.nii" for i in range(20)))
    with (folder / "design.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *X.tolist()])
    fields = {"Y_files": "images.txt", "X": "design.csv", "outdir": "results"}
    fields["contrasts"] = [
        {f"c{i}": {"name": name, "vector": vector}}
        for i, (name, vector) in enumerate(contrasts.items(), 1)
    ]
    text = yaml.safe_dump(fields, allow_unicode=True)
    (folder / "run.yml").write_text(f"{text}\n{more}", encoding="utf-8")
    assert main(["--quiet", str(folder / "run.yml")], "blm") == 0
    return folder / "results"
