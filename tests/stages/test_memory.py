"""No stage takes more memory than its plan says: measured, not computed a second time."""

import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor
from nipype_blm.stages.estimates import compute_estimates
from nipype_blm.stages.plan import PreparedRun, write_plan
from nipype_blm.stages.products import compute_products
from nipype_blm.stages.statistics import compute_statistics

# Headers, names, the buffers of files: what does not grow with a study.
SMALL_BYTES = 2**19


class Study(NamedTuple):
    n_obs: int
    n_params: int
    shape: tuple[int, int, int]
    is_mixed: bool = False
    options: Mapping[str, Any] = MappingProxyType({})


STUDIES = {
    "many voxels": Study(60, 4, (20, 20, 10)),
    "many columns and their covariances": Study(60, 30, (10, 10, 10), options={"OutputCovB": True}),
    "many images, few voxels": Study(600, 40, (3, 3, 3)),
    "several batches": Study(200, 20, (10, 10, 2), options={"images_per_batch": 64}),
    "mixed, many voxels": Study(60, 4, (10, 10, 10), True),
    "mixed, covariances": Study(60, 15, (10, 10, 5), True, {"OutputCovB": True}),
    "mixed, many images, few voxels": Study(600, 30, (3, 3, 3), True),
}


def find_peak(stage: Callable[..., Path], *arguments: Any) -> tuple[Path, int]:
    """Run a stage twice, as compiling is no part of the question; return the second peak."""
    stage(*arguments)
    tracemalloc.start()
    try:
        path = stage(*arguments)
        return path, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def prepare_study(prepare: Callable[..., PreparedRun], study: Study) -> PreparedRun:
    rng = np.random.default_rng(0)
    n = study.n_obs
    values = rng.normal(size=(n, *study.shape))
    values[rng.random(values.shape) < 0.05] = np.nan
    X = np.column_stack([np.ones(n), rng.normal(size=(n, study.n_params - 1))])
    factor = RandomFactor("subject", (np.arange(n) // 5).astype(np.int32), np.ones((n, 1)))
    return prepare(values, X, factor if study.is_mixed else None, **study.options)


@pytest.mark.parametrize("name", STUDIES)
def test_every_stage_keeps_to_the_memory_of_its_plan(prepare, tmp_path, name) -> None:
    run = prepare_study(prepare, STUDIES[name])
    files = write_plan(run, tmp_path)
    products, peaks = [], []
    for i, batch in enumerate(files.batch_files):
        out = tmp_path / f"products{i}.blm"
        path, peak = find_peak(compute_products, files.model_file, batch, out)
        products.append(path)
        peaks.append(peak)
    assert max(peaks) <= run.plan.products_bytes + SMALL_BYTES
    stamp = files.fingerprint
    arguments = files.model_file, files.batch_files, products, 0, stamp, tmp_path / "estimates.blm"
    estimates, peak = find_peak(compute_estimates, *arguments)
    assert peak <= run.plan.block_bytes + SMALL_BYTES
    arguments = files.model_file, files.contrasts_file, estimates, 0, stamp, tmp_path / "tests.blm"
    _, peak = find_peak(compute_statistics, *arguments)
    assert peak <= run.plan.block_bytes + SMALL_BYTES
