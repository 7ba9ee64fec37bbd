"""All stages in turn make the files that they make one by one, and the maps of these."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.io.publish import Claim
from nipype_blm.stages.plan import write_plan
from nipype_blm.stages.run import list_estimates, list_products, list_statistics, run_model

N_OBS, SHAPE = 20, (4, 3, 2)
X = np.column_stack([np.ones(N_OBS), np.random.default_rng(0).normal(size=(N_OBS, 2))])
FACTOR = RandomFactor("subject", np.arange(N_OBS, dtype=np.int32) // 4, X[:, :1])
FACTORS = {"blm": None, "blmm": FACTOR}
CUT = {"images_per_batch": 8, "voxels_per_block": 10}


def make_values() -> np.ndarray:
    values = np.random.default_rng(1).normal(5, 1, (N_OBS, *SHAPE))
    values[np.random.default_rng(2).random(values.shape) < 0.1] = np.nan
    return values


@pytest.mark.parametrize("model", FACTORS)
def test_a_run_makes_the_files_that_its_stages_make_one_by_one(
    prepare, fit_stages, tmp_path, model
):
    alone = fit_stages(make_values(), X, FACTORS[model], work="alone", **CUT)
    run = prepare(make_values(), X, FACTORS[model], **CUT)
    work = tmp_path / "work"
    work.mkdir()
    run_model(run, work, tmp_path / "out", Claim("model", work), n_threads=2)
    for name in ("products", "estimates", "statistics"):
        made = sorted(work.glob(f"{name}_*.blm"))
        expected = getattr(alone, name)
        assert [path.read_bytes() for path in made] == [path.read_bytes() for path in expected]


@pytest.mark.parametrize("model", FACTORS)
def test_maps_of_one_block_and_of_many_are_the_same_to_the_byte(prepare, tmp_path, model):
    contents = []
    for size in (5, 24):
        cut = {"images_per_batch": 8, "voxels_per_block": size}
        run = prepare(make_values(), X, FACTORS[model], **cut)
        work, out = tmp_path / f"work{size}", tmp_path / f"out{size}"
        work.mkdir()
        found = run_model(run, work, out, Claim("model", work))
        assert {path.parent for path in found.files.values()} == {out}
        maps = sorted(out.rglob("*.nii"))
        contents.append({path.relative_to(out): path.read_bytes() for path in maps})
    assert len(contents[0]) > 10
    assert contents[0] == contents[1]


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_maps_of_a_run_are_least_squares_at_every_voxel(prepare, tmp_path):
    values = make_values()
    run = prepare(values, X, **CUT)
    work = tmp_path / "work"
    work.mkdir()
    found = run_model(run, work, tmp_path / "out", Claim("model", work))
    assert found.n_fitted == 24
    assert_array_equal(read(found.files["blm_vox_n"]), (~np.isnan(values)).sum(axis=0))
    for voxel in np.ndindex(*SHAPE):
        y = values[(slice(None), *voxel)]
        x, y = X[~np.isnan(y)], y[~np.isnan(y)]
        beta, [rss], *_ = np.linalg.lstsq(x, y)
        # Sums of 20 numbers around 5.
        assert_allclose(read(found.files["blm_vox_beta"])[voxel], beta, rtol=1e-9)
        resms = rss / (len(y) - 3)
        assert_allclose(read(found.files["blm_vox_resms"])[voxel], resms, rtol=1e-9)
        t = beta[2] / np.sqrt(resms * np.linalg.inv(x.T @ x)[2, 2])
        assert_allclose(read(found.files["blm_vox_conT"])[voxel], [t], rtol=1e-8)


def test_every_task_asks_for_what_a_node_of_the_plan_needs(prepare, tmp_path):
    run = prepare(make_values(), X, **CUT)
    plan = write_plan(run, tmp_path)
    inputs = (run, plan)
    tasks = [
        *list_products(*inputs, tmp_path, 3),
        *list_estimates(*inputs, [], tmp_path, 3),
        *list_statistics(*inputs, plan.blocks, tmp_path, 3),
    ]
    assert len(tasks) == run.plan.n_batches + 2 * run.plan.n_blocks
    reading = run.plan.products_bytes + 2 * run.plan.thread_bytes
    assert {task.bytes for task in tasks} == {max(reading, run.plan.block_bytes) + 256 * 2**20}
