"""Mean FA, its mask and what is left out are those of plain arrays."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fa_small import make_head, plan_heads

from nipype_blm.errors import InputError
from nipype_blm.tbss.group import choose_used, make_skeleton, project_subjects, read_skeleton
from nipype_blm.tbss.images import read_volume, write_volume
from nipype_blm.tbss.options import FA
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.projection import apply_search, compute_distance, project
from nipype_blm.tbss.skeleton import DIRECTIONS, compute_skeleton, find_directions

FLOAT32 = 1e-6  # means of values below 1
N = 4
ZOOMS = [3.0, 3.0, 3.0]


pytestmark = pytest.mark.usefixtures("heads")


def write_standard(
    plan: Plan, images: Sequence[np.ndarray], correlations: Sequence[float] = (0.9,) * N
) -> None:
    """Write what registration leaves, of images that are known."""
    affine = make_head().affine
    for subject, data, correlation in zip(plan.subjects, images, correlations, strict=True):
        for measure in plan.measures:
            factor = 1 if measure == FA else 0.001
            path = plan.paths.find_standard(subject.name, measure)
            write_volume(path, (data * factor).astype(np.float32), affine)
        record = {
            "name": subject.name,
            "stamp": "of tests",
            "correlation": correlation,
            "displacement_mm": 2.0,
        }
        plan.paths.find_record(subject.name).write_text(json.dumps(record))


def make_images(n: int = N, seed: int = 1) -> list[np.ndarray]:
    """Return heads in standard space, which differ by noise and, two by two, at their edges."""
    rng = np.random.default_rng(seed)
    images = []
    for size in [0.95, 1.02] * (n // 2):
        head = make_head(size).data
        noise = rng.normal(0, 0.03, head.shape)
        images.append(np.where(head > 0, np.clip(head + noise, 0.01, 1), 0).astype(np.float32))
    return images


def load(plan: Plan, name: str) -> np.ndarray:
    return np.asarray(nib.load(plan.paths.stats / f"{name}.nii.gz").dataobj)


def test_mean_and_mask_are_those_of_all_images(tmp_path):
    plan, images = plan_heads(tmp_path), make_images()
    write_standard(plan, images)
    assert make_skeleton(plan) == []
    stack = np.stack(images).astype(np.float64)
    mask = (stack > 0).all(axis=0)
    np.testing.assert_array_equal(load(plan, "mean_FA_mask"), mask)
    np.testing.assert_allclose(
        load(plan, "mean_FA"), np.where(mask, stack.mean(axis=0), 0), atol=FLOAT32
    )


@pytest.mark.parametrize("share", [0.75, 0.5, 0.7])
def test_a_share_of_the_images_is_enough_for_the_mask(tmp_path, share):
    """The mean is that of the images that have FA at a voxel."""
    plan, images = plan_heads(tmp_path, mask_share=share), make_images()
    write_standard(plan, images)
    make_skeleton(plan)
    stack = np.stack(images).astype(np.float64)
    n_present = (stack > 0).sum(axis=0)
    mask = n_present >= share * N
    np.testing.assert_array_equal(load(plan, "mean_FA_mask"), mask)
    expected = np.where(mask, stack.sum(axis=0) / np.maximum(n_present, 1), 0)
    np.testing.assert_allclose(load(plan, "mean_FA"), expected, atol=FLOAT32)


@pytest.mark.parametrize("threshold", [0.2, 0.25, 0.55])
def test_the_skeleton_is_that_of_mean_fa_above_its_threshold(tmp_path, threshold):
    plan = plan_heads(tmp_path, threshold=threshold)
    write_standard(plan, make_images())
    make_skeleton(plan)
    mean, mask = load(plan, "mean_FA"), load(plan, "mean_FA_mask") > 0
    mean = np.ascontiguousarray(mean)
    directions = find_directions(mean, ZOOMS)
    skeleton = compute_skeleton(mean, ZOOMS, directions)
    np.testing.assert_array_equal(load(plan, "mean_FA_skeleton"), skeleton)
    inside = (skeleton >= np.float32(threshold)) & mask
    assert inside.any()
    np.testing.assert_array_equal(load(plan, "mean_FA_skeleton_mask"), inside)
    distance = compute_distance(inside, mask, ZOOMS)
    np.testing.assert_array_equal(load(plan, "mean_FA_skeleton_mask_dst"), distance)
    np.testing.assert_array_equal(load(plan, "mean_FA_skeleton_directions"), directions)
    assert (plan.paths.stats / "thresh.txt").read_text() == f"{threshold:g}\n"


@pytest.mark.parametrize("is_mask", [True, False])
def test_a_skeleton_that_is_given_is_taken(tmp_path, is_mask):
    given = np.zeros(make_head().data.shape, np.float32)
    given[10, 5:18, 5:14] = 1 if is_mask else np.linspace(0.1, 0.5, 9)
    write_volume(tmp_path / "skeleton.nii.gz", given, make_head().affine)
    plan = plan_heads(tmp_path, skeleton=tmp_path / "skeleton.nii.gz")
    write_standard(plan, make_images())
    make_skeleton(plan)
    expected = (given >= (1 if is_mask else np.float32(0.2))) & (load(plan, "mean_FA_mask") > 0)
    assert expected.any()
    np.testing.assert_array_equal(load(plan, "mean_FA_skeleton_mask"), expected)


def test_directions_that_are_given_are_the_nearest_of_thirteen(tmp_path):
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(*make_head().data.shape, 3)).astype(np.float32)
    vectors[3, 4, 5] = 0
    write_volume(tmp_path / "directions.nii.gz", vectors, make_head().affine)
    plan = plan_heads(tmp_path, directions=tmp_path / "directions.nii.gz")
    write_standard(plan, make_images())
    make_skeleton(plan)
    found = load(plan, "mean_FA_skeleton_directions")
    assert found[3, 4, 5] == -1
    for voxel in [(10, 11, 9), (4, 9, 12), (15, 13, 8)]:
        vector = vectors[voxel] / np.linalg.norm(vectors[voxel])
        cosines = [abs(vector @ step) / np.linalg.norm(step) for step in DIRECTIONS]
        assert found[voxel] == int(np.argmax(cosines))


def test_a_search_mask_bounds_where_distances_are(tmp_path):
    where = np.zeros(make_head().data.shape, np.uint8)
    where[8:14] = 1
    write_volume(tmp_path / "search.nii.gz", where, make_head().affine)
    plan = plan_heads(tmp_path, search_mask=tmp_path / "search.nii.gz")
    write_standard(plan, make_images())
    make_skeleton(plan)
    inside = load(plan, "mean_FA_skeleton_mask") > 0
    expected = compute_distance(inside, (where > 0) | inside, ZOOMS)
    np.testing.assert_array_equal(load(plan, "mean_FA_skeleton_mask_dst"), expected)


# ---------------------------------------------------------------------------- the projection


def test_other_maps_have_their_values_where_fa_was_found(tmp_path):
    plan, images = plan_heads(tmp_path, maps=["MD"]), make_images()
    write_standard(plan, images)
    make_skeleton(plan)
    written = project_subjects(plan, [0, 2])
    assert [path.name for path in written] == [
        f"p{i}_{measure}.nii.gz" for i in (0, 2) for measure in ("FA", "MD")
    ]
    skeleton, inside = read_skeleton(plan), load(plan, "mean_FA_mask") > 0
    for i in (0, 2):
        fa = np.where(inside, images[i], 0).astype(np.float32)
        offsets = apply_search(fa, skeleton.search)
        for measure, data in (("FA", fa), ("MD", (fa * 0.001).astype(np.float32))):
            found = nib.load(plan.paths.find_skeletonised(f"p{i}", measure))
            np.testing.assert_allclose(found.get_fdata(), project(data, offsets), rtol=FLOAT32)
            assert not found.get_fdata()[~skeleton.mask].any()


# ---------------------------------------------------------------------------- what is left out


def test_images_that_failed_are_in_no_mean(tmp_path):
    plan, images = plan_heads(tmp_path, max_failed=0.25), make_images()
    write_standard(plan, images, (0.9, 0.59, 0.6, 0.95))
    make_skeleton(plan)
    used, records = choose_used(plan)
    assert used == [0, 2, 3]
    assert len(records) == N
    stack = np.stack([images[i] for i in used]).astype(np.float64)
    expected = np.where((stack > 0).all(axis=0), stack.mean(axis=0), 0)
    np.testing.assert_allclose(load(plan, "mean_FA"), expected, atol=FLOAT32)
    assert project_subjects(plan, [1]) == []
    table = pd.read_table(plan.paths.subjects_table, index_col="name")
    assert table.used.to_dict() == {"p0": "yes", "p1": "no", "p2": "yes", "p3": "yes"}
    assert table.displacement_mm.to_list() == [2.0] * N


def test_more_failures_than_allowed_end_the_run_with_their_names(tmp_path):
    plan = plan_heads(tmp_path)
    write_standard(plan, make_images(), (0.9, 0.3, 0.8, 0.95))
    with pytest.raises(InputError, match=r"failed for 1 of 4 images.*max_failed.*p1 \(0\.30\)"):
        make_skeleton(plan)


def test_of_one_image_alone_there_is_no_skeleton(tmp_path):
    plan = plan_heads(tmp_path, max_failed=1.0)
    write_standard(plan, make_images(), (0.9, 0.3, 0.2, 0.1))
    with pytest.raises(InputError, match="failed for 3 of 4 images"):
        make_skeleton(plan)


def test_images_that_are_not_registered_are_named(tmp_path):
    plan = plan_heads(tmp_path)
    write_standard(plan, make_images())
    plan.paths.find_record("p2").unlink()
    with pytest.raises(InputError, match="1 observation not registered: p2"):
        make_skeleton(plan)


def test_an_image_that_takes_voxels_from_all_others_is_named_with_their_share(tmp_path):
    plan, images = plan_heads(tmp_path), make_images()
    images[2][:, :, :7] = 0
    write_standard(plan, images)
    (notice,) = make_skeleton(plan)
    stack = np.stack(images) > 0
    others = stack[[0, 1, 3]].all(axis=0)
    lost = np.count_nonzero(others & ~stack[2])
    share = lost / np.count_nonzero(stack.sum(axis=0) >= N - 1)
    assert f"p2 ({share:.1%})" in notice
    table = pd.read_table(plan.paths.subjects_table, index_col="name")
    assert table.lost_share["p2"] == pytest.approx(share, abs=1e-5)  # five digits


def test_an_image_that_correlates_far_less_than_all_others_is_named(tmp_path):
    plan = plan_heads(tmp_path)
    write_standard(plan, make_images(), (0.95, 0.94, 0.7, 0.95))
    (notice,) = make_skeleton(plan)
    assert "p2 (0.70)" in notice
    assert "headers" in notice


def test_images_without_a_common_voxel_end_the_run_and_the_worst_is_named(tmp_path):
    plan, images = plan_heads(tmp_path), make_images()
    images[3][:] = 0
    write_standard(plan, images)
    with pytest.raises(InputError, match=r"No voxel has FA.*p3 alone takes away"):
        make_skeleton(plan)


def test_a_threshold_above_all_of_the_skeleton_is_said_with_the_highest_fa(tmp_path):
    plan = plan_heads(tmp_path, threshold=0.99)
    write_standard(plan, make_images())
    with pytest.raises(InputError, match=r"0\.99 \(threshold\) or more; its highest is 0\.\d+"):
        make_skeleton(plan)


def test_what_is_read_of_a_skeleton_is_what_was_written(tmp_path):
    plan = plan_heads(tmp_path)
    write_standard(plan, make_images())
    make_skeleton(plan)
    skeleton = read_skeleton(plan)
    np.testing.assert_array_equal(skeleton.mask, load(plan, "mean_FA_skeleton_mask") > 0)
    known = read_volume(Path(plan.paths.stats, "mean_FA.nii.gz"))
    np.testing.assert_allclose(skeleton.affine, known.affine)
