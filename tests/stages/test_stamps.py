"""Files of one run are never taken for those of another: every stage checks what it reads."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.status import VoxelStatus
from nipype_blm.data.specfile import read_contrasts, read_model
from nipype_blm.errors import InputError
from nipype_blm.io import stamps
from nipype_blm.io.arrayfile import ArrayFile
from nipype_blm.results.blocks import open_blocks
from nipype_blm.stages.estimates import compute_estimates
from nipype_blm.stages.plan import write_plan
from nipype_blm.stages.statistics import compute_statistics

N_OBS, SHAPE = 20, (4, 3, 2)
X = np.column_stack([np.ones(N_OBS), np.random.default_rng(0).normal(size=(N_OBS, 2))])


def make_values(seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).normal(5, 1, (N_OBS, *SHAPE))
    values[np.random.default_rng(2).random(values.shape) < 0.2] = np.nan
    values[:, 0, 0, 0] = np.nan
    return values


@pytest.fixture
def fit(fit_stages: Callable[..., Any]) -> Callable[..., Any]:
    """Function that fits two batches and three blocks in a folder; `scale` changes X."""

    def fit(name: str = "work", scale: float = 1.0, seed: int = 1, **fields: object) -> Any:
        plan = {"images_per_batch": 12, "voxels_per_block": 10}
        return fit_stages(make_values(seed), X * [1, scale, 1], work=name, **plan | fields)

    return fit


def open_all(fitted: Any, estimates: list[Path], statistics: list[Path]):
    _, spec = read_model(fitted.files.model_file)
    contrasts_stamp, _ = read_contrasts(fitted.files.contrasts_file)
    return open_blocks(spec, estimates, statistics, fitted.files.fingerprint, contrasts_stamp)


def test_blocks_put_together_are_least_squares_at_every_voxel(fit):
    fitted = fit()
    assert len(fitted.products) == 2
    assert len(fitted.estimates) == 3
    blocks = open_all(fitted, fitted.estimates, fitted.statistics)
    voxels = [np.arange(24)[block.voxels] for block in blocks]
    assert_array_equal(np.concatenate(voxels), np.arange(24))
    values = np.array([image.ravel(order="F") for image in make_values()])
    assert_array_equal(
        np.concatenate([block.n_obs for block in blocks]), (~np.isnan(values)).sum(axis=0)
    )
    for block, here in zip(blocks, voxels, strict=True):
        assert_array_equal(np.isin(here, block.fitted), block.status < 10)
        for j, v in enumerate(block.fitted):
            present = ~np.isnan(values[:, v])
            x, y = X[present], values[present, v]
            beta, [rss], *_ = np.linalg.lstsq(x, y)
            resms = rss / (len(y) - 3)
            # Sums of 20 numbers around 5; the columns are nearly orthogonal.
            assert_allclose(block.estimate("beta")[:, j], beta, rtol=1e-10)
            assert_allclose(block.estimate("resms")[j], resms, rtol=1e-10)
            assert block.contrast_dof(0)[j] == len(y) - 3
            t = beta[2] / np.sqrt(resms * np.linalg.inv(x.T @ x)[2, 2])
            assert_allclose(block.statistic(0, "stat")[j], t, rtol=1e-9)
    assert blocks[0].status[0] == VoxelStatus.NO_DATA


@pytest.mark.parametrize("change", ["another X", "other images", "another threshold"])
def test_products_of_another_model_or_of_other_images_are_refused(fit, tmp_path, change):
    other = fit("other")
    changes = {"another X": {"scale": 2}, "other images": {"seed": 9}}
    fitted = fit("work", **changes.get(change, {"data_mask_thresh": -3.0}))
    args = fitted.files.model_file, fitted.files.batch_files
    for products in ([other.products[0], fitted.products[1]], fitted.products[::-1]):
        with pytest.raises(InputError, match="was made from other input"):
            compute_estimates(*args, products, 0, fitted.files.fingerprint, tmp_path / "out.blm")
    assert not (tmp_path / "out.blm").exists()


def test_estimates_of_another_run_or_block_are_refused(fit, tmp_path):
    other = fit("other", scale=2)
    fitted = fit("work")
    args = fitted.files.model_file, fitted.files.contrasts_file
    for estimates in (other.estimates[0], fitted.estimates[1]):
        with pytest.raises(InputError, match="was made from other input"):
            compute_statistics(*args, estimates, 0, fitted.files.fingerprint, tmp_path / "out.blm")
        with pytest.raises(InputError, match="was made from other input"):
            open_all(fitted, [estimates, *fitted.estimates[1:]], fitted.statistics)
    assert not (tmp_path / "out.blm").exists()


def test_statistics_of_other_contrasts_or_of_another_block_are_refused(fit):
    """Where only the contrasts differ, products and estimates are the same to the byte."""
    other = fit("other", contrasts=[{"name": "last", "vector": [0, 1, 0]}])
    fitted = fit("work")
    assert fitted.files.fingerprint == other.files.fingerprint
    for path, same in zip(fitted.estimates, other.estimates, strict=True):
        assert path.read_bytes() == same.read_bytes()
    for statistics in (other.statistics[0], fitted.statistics[1]):
        with pytest.raises(InputError, match="was made from other input"):
            open_all(fitted, fitted.estimates, [statistics, *fitted.statistics[1:]])


def test_a_plan_written_again_leaves_its_files_and_stamps_as_they_are(fit):
    fitted = fit()
    files = [fitted.files.model_file, fitted.files.contrasts_file, *fitted.files.batch_files]
    before = [path.stat().st_mtime_ns for path in files]
    again = write_plan(fitted.run, files[0].parent)
    assert again == fitted.files
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_model_replaced_in_its_file_is_read_anew(fit):
    first = fit("work")
    assert read_model(first.files.model_file)[1].X[0, 1] == X[0, 1]
    second = fit("work", scale=2)
    assert second.files.model_file == first.files.model_file
    assert read_model(second.files.model_file)[1].X[0, 1] == 2 * X[0, 1]
    assert ArrayFile(second.estimates[0]).stamp == stamps.block_stamp(second.files.fingerprint, 0)


def test_stamps_of_different_things_differ(tmp_path):
    one, other = tmp_path / "one.tsv", tmp_path / "other.tsv"
    one.write_text("a\n")
    other.write_text("b\n")
    found = [
        *(stamps.batch_stamp(model, batch) for model in ("m", "n") for batch in (one, other)),
        *(stamps.run_stamp(model, texts) for model in ("m", "n") for texts in (["a"], ["a", "b"])),
        stamps.run_stamp("m", ["b", "a"]),
        *(stamps.block_stamp(run, block) for run in ("r", "s") for block in (0, 1, 10)),
        *(
            stamps.statistics_stamp(*given)
            for given in itertools.product(("r", "s"), ("c", "d"), (0, 1))
        ),
        *(
            stamps.maps_stamp(*given)
            for given in itertools.product(
                ("r", "s"), ("c", "d"), ("", "t"), (".nii", ".nii.gz"), ("x", "y")
            )
        ),
    ]
    assert len(set(found)) == len(found)
