"""Small made studies that run every compiled kernel, so that the cache has them all."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.samples import DOUBLE, SINGLE, write_sample_images
from nipype_blm.io.publish import Claim
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.inference import InferenceOptions
from nipype_blm.model.request import DEFAULT_MAX_BYTES, Factor, ListedPath, Request, Table
from nipype_blm.stages.diagnostics import diagnose
from nipype_blm.stages.inference import prepare_inference, run_inference
from nipype_blm.stages.plan import prepare_run
from nipype_blm.stages.run import run_model

_N_IMAGES = 24
_N_LEVELS = {"subject": 8, "site": 3}
_RARE = 2  # images with a column of their own, which some voxels have not


class Sample(NamedTuple):
    """A made study."""

    what: str  # that it fits
    types: Sequence[str]  # of its images
    X: Sequence[str] = ("one", "age", "half", "rare")
    factors: Sequence[tuple[str, Sequence[str], bool]] = ()  # name, effects, whether correlated
    is_diagnosed: bool = False  # whether it is also told what the model leaves
    resamplings: Sequence[str] = ()  # by which its p are corrected


SAMPLES = (
    Sample(
        "a linear model, images of single precision",
        SINGLE,
        is_diagnosed=True,
        resamplings=("flip_scores", "permute", "flip_data"),
    ),
    Sample(
        "a linear model, images of double precision",
        DOUBLE,
        resamplings=("flip_scores", "permute", "flip_data"),
    ),
    Sample("a linear model of a mean", SINGLE, ["one"]),
    Sample(
        "a mixed model with random intercepts",
        SINGLE,
        factors=[("subject", ["one"], True)],
        resamplings=["flip_scores"],
    ),
    Sample(
        "a mixed model with random slopes",
        DOUBLE,
        factors=[("subject", ["one", "age"], True)],
        resamplings=["flip_scores"],
    ),
    Sample(
        "a mixed model with uncorrelated slopes",
        SINGLE,
        ["one"],
        [("subject", ["one", "age"], False)],
    ),
    Sample(
        "a mixed model with two factors",
        SINGLE,
        factors=[("subject", ["one"], True), ("site", ["one"], True)],
        is_diagnosed=True,
    ),
)


def fit_sample(sample: Sample, folder: Path) -> None:
    """Write images into an empty folder and fit them there."""
    run = prepare_run(_ask(sample, folder))
    work_dir = folder / "work"
    work_dir.mkdir()
    run_model(run, work_dir, folder / "out", Claim(run.model_id, work_dir))
    if sample.is_diagnosed:
        diagnose(folder / "out")
    # The largest voxel by itself is found without maps.
    for resampling, summaries in itertools.product(sample.resamplings, [(), ("voxel",)]):
        options = InferenceOptions(resampling=resampling, n=2, summaries=summaries)
        run_inference(prepare_inference(folder / "out", options, DEFAULT_MAX_BYTES), work_dir)


def _ask(sample: Sample, folder: Path) -> Request:
    """Write images; return the model of them."""
    image = np.arange(_N_IMAGES)
    columns = {
        "one": np.ones(_N_IMAGES),
        "age": np.random.default_rng(1).normal(size=_N_IMAGES),
        "half": image % 2,
        "rare": image >= _N_IMAGES - _RARE,
    }

    def tabulate(names: Sequence[str]) -> Table:
        return Table(np.column_stack([columns[name] for name in names]).astype(float), names)

    images = write_sample_images(folder, sample.types, _N_IMAGES, _N_LEVELS["subject"], _RARE)
    tests = np.eye(len(sample.X))[:2]
    return Request(
        X=tabulate(sample.X),
        images=[ListedPath(path, path.name) for path in images],
        contrasts=[Contrast("T", tests[0]), Contrast("F", tests, is_f=True)],
        out_dir=folder / "out",
        factors=[
            Factor(name, [f"{i % _N_LEVELS[name]}" for i in image], tabulate(effects), correlated)
            for name, effects, correlated in sample.factors
        ],
        estimation=MixedOptions() if sample.factors else None,
        with_resms=not sample.factors,
        images_per_batch=_N_IMAGES // 2,
    )
