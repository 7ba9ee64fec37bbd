"""Small made studies that run every compiled kernel, so that the cache has them all."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from nipype_blm.io.publish import Claim
from nipype_blm.model.config import BlmConfig, BlmmConfig, parse_config
from nipype_blm.stages.plan import prepare_run
from nipype_blm.stages.run import run_model

# Enough voxels with the same images for what is only worth it then; and some with fewer images.
_SHAPE, _N_GAPS = (16, 15, 12), 300
_N_IMAGES, _N_SUBJECTS, _N_SITES = 24, 8, 3
_SINGLE = ("f4", "i2", "u1", "u2", "i1")  # types of images that float32 holds exactly
_DOUBLE = ("f8", "scaled", "f4", "i2", "u1", "u2", "i1", "i4", "u4")
_RARE = 2  # images with a column of their own, which some voxels have not


class Sample(NamedTuple):
    """A made study."""

    what: str  # that it fits
    types: Sequence[str]  # of its images
    X: str = "X"
    factors: Sequence[tuple[str, str, bool]] = ()  # name, design, whether effects may correlate


SAMPLES = (
    Sample("a linear model, images of single precision", _SINGLE),
    Sample("a linear model, images of double precision", _DOUBLE),
    Sample("a linear model of a mean", _SINGLE, "one"),
    Sample("a mixed model with random intercepts", _SINGLE, "X", [("subject", "one", True)]),
    Sample("a mixed model with random slopes", _DOUBLE, "X", [("subject", "one_age", True)]),
    Sample(
        "a mixed model with uncorrelated slopes", _SINGLE, "one", [("subject", "one_age", False)]
    ),
    Sample(
        "a mixed model with two factors",
        _SINGLE,
        "X",
        [("subject", "one", True), ("site", "one", True)],
    ),
)


def fit_sample(sample: Sample, folder: Path) -> None:
    """Write a study into an empty folder and fit it there."""
    fields = _write_study(sample, folder)
    if sample.factors:
        fields["Z"] = [
            {
                "name": name,
                "factor": f"{name}.txt",
                "design": f"{design}.csv",
                "correlated": is_correlated,
            }
            for name, design, is_correlated in sample.factors
        ]
    model = BlmmConfig if sample.factors else BlmConfig
    run = prepare_run(parse_config(fields, folder, model=model))
    work_dir = folder / "work"
    work_dir.mkdir()
    run_model(run, work_dir, folder / "out", Claim(run.model_id, work_dir))


def _write_study(sample: Sample, folder: Path) -> dict[str, Any]:
    """Write images, tables and labels; return the fields that name them."""
    rng = np.random.default_rng(0)
    one, age, image = np.ones(_N_IMAGES), rng.normal(size=_N_IMAGES), np.arange(_N_IMAGES)
    tables: dict[str, list[Any]] = {
        "X": [one, age, image % 2, image >= _N_IMAGES - _RARE],
        "one": [one],
        "one_age": [one, age],
    }
    for name, columns in tables.items():
        np.savetxt(folder / f"{name}.csv", np.column_stack(columns), delimiter=",")
    for name, n_levels in (("subject", _N_SUBJECTS), ("site", _N_SITES)):
        labels = (f"{name}-{i % n_levels}" for i in range(_N_IMAGES))
        (folder / f"{name}.txt").write_text("\n".join(labels))
    names = [path.name for path in _write_images(sample.types, folder, rng)]
    (folder / "images.txt").write_text("\n".join(names))
    test = np.eye(len(tables[sample.X]))[:2].tolist()
    return {
        "Y_files": "images.txt",
        "X": f"{sample.X}.csv",
        "outdir": "out",
        "contrasts": [{"vector": test[0]}, {"vector": test}],
        "images_per_batch": _N_IMAGES // 2,
    }


def _write_images(types: Sequence[str], folder: Path, rng: np.random.Generator) -> Iterator[Path]:
    """Write images of all types in turn, compressed ones and scaled ones, too."""
    subject = rng.normal(size=(_N_SUBJECTS, *_SHAPE))
    for i, kind in zip(range(_N_IMAGES), itertools.cycle(types), strict=False):
        values = 60 + 10 * (subject[i % _N_SUBJECTS] + rng.normal(size=_SHAPE))
        values.reshape(-1)[:_N_GAPS][rng.random(_N_GAPS) < 0.1] = 0
        if i >= _N_IMAGES - _RARE:
            values[0, 0] = 0
        dtype = "i2" if kind == "scaled" else kind
        image: Any = nib.Nifti1Image(np.clip(values, 0, 120).astype(dtype), np.eye(4))
        if kind == "scaled":
            image.header.set_slope_inter(0.5, 1)
        path = folder / f"image{i:02d}.nii{'.gz' * (i % 3 == 0)}"
        image.to_filename(path)
        yield path
