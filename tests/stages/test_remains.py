"""What is there of a run: by what its files hold, not by which files there are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nipype_blm.stages.products import empty_products
from nipype_blm.stages.remains import Remains

N_OBS, SHAPE = 20, (4, 3, 2)
X = np.column_stack([np.ones(N_OBS), np.random.default_rng(0).normal(size=N_OBS)])
CUT = {"images_per_batch": 8, "voxels_per_block": 10}  # 3 batches, 3 blocks
MINIMUM = 16


def make_values(seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).normal(5, 1, (N_OBS, *SHAPE))
    values[np.random.default_rng(2).random(values.shape) < 0.2] = np.nan
    return values


@pytest.fixture
def fit(fit_stages: Callable[..., Any]) -> Callable[..., Any]:
    """Function that runs all stages of a study in a folder."""

    def fit(work: str = "work", seed: int = 1, **fields: Any) -> Any:
        rule = {"Missingness": {"MinN": MINIMUM}}
        return fit_stages(make_values(seed), X, work=work, **CUT | rule | fields)

    return fit


def find(fitted: Any) -> Remains:
    return Remains(fitted.run, fitted.products, fitted.estimates)


def count_by_hand() -> list[int]:
    """Return how many voxels of each block have enough images."""
    values = make_values()
    n = (~np.isnan(np.array([image.ravel(order="F") for image in values]))).sum(axis=0)
    return [int((n[first : first + 10] >= MINIMUM).sum()) for first in (0, 10, 20)]


def test_of_a_run_that_has_ended_all_is_there(fit):
    remains = find(fit())
    assert remains.n_images == [8, 8, 4]
    assert remains.find_batches() == {0, 1, 2}
    assert remains.find_blocks() == {0, 1, 2}
    assert remains.count_voxels() == count_by_hand()


def test_of_a_run_that_has_not_begun_nothing_is_there_and_all_voxels_may_be_fitted(fit):
    fitted = fit()
    for path in (*fitted.products, *fitted.estimates):
        path.unlink()
    remains = find(fitted)
    assert remains.find_batches() == remains.find_blocks() == set()
    assert remains.count_voxels() == [10, 10, 4]


def test_when_all_images_have_been_read_the_voxels_to_fit_are_known(fit):
    fitted = fit()
    for path in fitted.estimates:
        path.unlink()
    remains = find(fitted)
    assert remains.find_batches() == {0, 1, 2}
    assert remains.find_blocks() == set()
    assert remains.count_voxels() == count_by_hand()


def test_without_the_products_of_a_batch_only_blocks_that_are_there_know_their_voxels(fit):
    fitted = fit()
    fitted.products[1].unlink()
    fitted.estimates[0].unlink()
    remains = find(fitted)
    assert remains.find_batches() == {0, 2}
    assert remains.find_blocks() == {1, 2}
    assert remains.count_voxels() == [10, *count_by_hand()[1:]]


@pytest.mark.parametrize("damage", ["cut short", "not ours"])
def test_a_damaged_file_is_not_there(fit, damage):
    fitted = fit()
    for path in (fitted.products[2], fitted.estimates[1]):
        content = path.read_bytes()
        path.write_bytes(content[:-8] if damage == "cut short" else b"x" * len(content))
    remains = find(fitted)
    assert remains.find_batches() == {0, 1}
    assert remains.find_blocks() == {0, 2}


def test_files_of_other_images_or_of_another_batch_or_block_are_not_those_of_this_run(fit):
    other = fit("other", seed=5)
    fitted = fit("work")
    assert find(fitted).find_batches() == {0, 1, 2}
    mixed = [other.products[0], fitted.products[2], fitted.products[1]]
    swapped = [fitted.estimates[1], fitted.estimates[0], other.estimates[2]]
    remains = Remains(fitted.run, mixed, swapped)
    assert remains.find_batches() == remains.find_blocks() == set()
    assert remains.count_voxels() == [10, 10, 4]


def test_new_contrasts_leave_all_and_another_model_leaves_nothing(fit):
    before = fit("before")
    contrasts = [{"name": "mean", "vector": [1, 0]}]
    after = fit("after", contrasts=contrasts)
    remains = Remains(after.run, before.products, before.estimates)
    assert remains.find_blocks() == {0, 1, 2}
    other = fit("other", data_mask_thresh=-100.0)
    remains = Remains(other.run, before.products, before.estimates)
    assert remains.find_batches() == remains.find_blocks() == set()


def test_emptied_products_count_as_long_as_all_of_them_are_there(fit):
    """What was made from them is; a batch that is lost has to be merged with the others again."""
    fitted = fit()
    empty_products(fitted.products, fitted.estimates)
    assert find(fitted).find_batches() == {0, 1, 2}
    assert find(fitted).count_voxels() == count_by_hand()  # by the estimates
    fitted.products[0].unlink()
    assert find(fitted).find_batches() == set()
    assert find(fitted).find_blocks() == {0, 1, 2}
