"""Figures show what survives the false discovery rate, and only that."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from saved_models import write_fitted
from scipy import stats

from nipype_blm.errors import InputError
from nipype_blm.report.figures import (
    DrawnContrast,
    find_fdr_threshold,
    plot_maps,
    plot_models,
    plot_z_maps,
)
from nipype_blm.results.saved import FittedModel, SavedContrast, SavedImage

plt = pytest.importorskip("matplotlib.pyplot", reason="pip install 'nipype_blm[plot]'")
pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")

SHAPE = (14, 16, 12)
AFFINE = np.array([[10.0, 0, 0, -65], [0, 10, 0, -90], [0, 0, 10, -45], [0, 0, 0, 1]])
BLOB = np.s_[2:6, 5:9, 3:7]  # 64 voxels


def benjamini_hochberg(p: np.ndarray, alpha: float) -> np.ndarray:
    """Return which hypotheses are rejected, by the textbook definition."""
    ranks = np.argsort(np.argsort(p)) + 1
    good = p <= alpha * ranks / p.size
    return p <= p[good].max() if good.any() else np.zeros(p.size, bool)


def write_image(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)


def write_run(
    folder: Path,
    contrasts: dict[str, tuple[str, float]],
    extension: str = ".nii",
    model: str = "blm",
):
    """Write mask and z maps: 0.01 everywhere but in the blob, and huge outside of the mask."""
    folder.mkdir(exist_ok=True)
    matrix = {"T": np.ones((1, 1)), "F": np.ones((2, 1))}
    tests = [
        SavedContrast(f"the {label}", label, test == "F", matrix[test])
        for label, (test, _) in contrasts.items()
    ]
    X = np.ones((2, 1))
    images = [SavedImage("a.nii", 0, 1, 1), SavedImage("b.nii", 0, 1, 1)]
    write_fitted(folder, FittedModel(model, X, ["one"], tests, images, {}, {}))
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    write_image(folder / f"{model}_vox_mask{extension}", mask)
    for label, (_, height) in contrasts.items():
        z = np.where(mask, 0.01, 50.0).astype(np.float32)
        z[BLOB] = height
        stem = folder / "contrasts" / f"contrast-{label}_stat-z_statmap"
        write_image(stem.with_name(f"{stem.name}{extension}"), z)


def count_coloured(png: Path) -> tuple[int, int]:
    """Return how many pixels are red and how many are blue, colour bars left out."""
    pixels = plt.imread(png)
    red, green, blue = np.moveaxis(pixels[:, : int(0.88 * pixels.shape[1]), :3], -1, 0)
    return int(np.sum(red - np.maximum(green, blue) > 0.2)), int(
        np.sum(blue - np.maximum(green, red) > 0.2)
    )


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("two_sided", [True, False])
def test_the_threshold_keeps_what_benjamini_and_hochberg_reject(alpha, two_sided):
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.standard_normal(400), rng.normal(3, 1, 40), rng.normal(-3, 1, 40)])
    p = 2 * stats.norm.sf(np.abs(z)) if two_sided else stats.norm.sf(z)
    rejected = benjamini_hochberg(p, alpha)
    assert 0 < rejected.sum() < z.size
    threshold = find_fdr_threshold(z, alpha, two_sided)
    assert_array_equal((np.abs(z) if two_sided else z) >= threshold, rejected)


def test_without_any_significant_voxel_the_threshold_is_infinite():
    assert find_fdr_threshold(np.zeros(100), 0.05, two_sided=True) == np.inf


def test_voxels_outside_of_the_mask_are_neither_counted_nor_drawn(tmp_path):
    write_run(tmp_path, {"age": ("T", 0.01)})
    [drawn] = plot_z_maps(tmp_path, tmp_path / "z.png")
    assert drawn[:4] == DrawnContrast("the age", "T", np.inf, 0, (), 0)[:4]
    assert count_coloured(tmp_path / "z.png") == (0, 0)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_t_contrasts_are_drawn_at_both_tails_in_two_colours(extension, tmp_path):
    write_run(tmp_path / "up", {"age": ("T", 6.0)}, extension)
    write_run(tmp_path / "down", {"age": ("T", -6.0)}, extension)
    for folder in ("up", "down"):
        [drawn] = plot_z_maps(tmp_path / folder, tmp_path / f"{folder}.png")
        assert drawn.n_voxels == 64
        assert 0.01 < drawn.threshold <= 6
    red, blue = count_coloured(tmp_path / "up.png")
    assert (red > 100, blue) == (True, 0)
    red, blue = count_coloured(tmp_path / "down.png")
    assert (red, blue > 100) == (0, True)


def test_f_contrasts_are_drawn_at_the_upper_tail_only(tmp_path):
    write_run(tmp_path, {"any": ("F", -6.0)})
    [drawn] = plot_z_maps(tmp_path, tmp_path / "z.png")
    assert drawn.n_voxels == 0


def test_t_contrasts_come_first_and_each_has_a_row(tmp_path):
    write_run(tmp_path, {"any": ("F", 6.0)})
    plot_z_maps(tmp_path, tmp_path / "one.png")
    write_run(tmp_path, {"any": ("F", 6.0), "old": ("T", 6.0), "group": ("T", 0.01)})
    drawn = plot_z_maps(tmp_path, tmp_path / "three.png")
    assert [row.name for row in drawn] == ["the group", "the old", "the any"]
    heights = [len(plt.imread(tmp_path / name)) for name in ("one.png", "three.png")]
    assert abs(heights[1] - 3 * heights[0]) <= 3  # each height is rounded to whole pixels


def test_background_outline_and_title_change_the_picture(tmp_path):
    write_run(tmp_path, {"age": ("T", 6.0)})
    background = tmp_path / "anatomy.nii"
    write_image(background, np.indices(SHAPE).sum(axis=0).astype(np.float32))
    region = np.zeros(SHAPE, np.uint8)
    region[BLOB] = 1
    write_image(tmp_path / "region.nii", region)
    options = [
        {},
        {"background": background},
        {"outline": tmp_path / "region.nii"},
        {"title": "A title"},
    ]
    pictures = []
    for i, option in enumerate(options):
        plot_z_maps(tmp_path, tmp_path / f"{i}.png", **option)
        pictures.append((tmp_path / f"{i}.png").read_bytes())
    assert len(set(pictures)) == len(options)


def test_no_figure_stays_open(tmp_path):
    write_run(tmp_path, {"age": ("T", 6.0)})
    before = plt.get_fignums()
    plot_z_maps(tmp_path, tmp_path / "z.png")
    assert plt.get_fignums() == before


def test_a_folder_without_a_model_or_without_z_maps_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path} has no model/model\.json"):
        plot_z_maps(tmp_path, tmp_path / "z.png")
    write_run(tmp_path, {"age": ("T", 6.0)})
    (tmp_path / "contrasts" / "contrast-age_stat-z_statmap.nii").unlink()
    with pytest.raises(InputError, match=f"{tmp_path} has no contrasts/contrast-age_stat-z"):
        plot_z_maps(tmp_path, tmp_path / "z.png")


def test_the_maps_of_a_mixed_model_are_drawn_within_its_mask(tmp_path):
    write_run(tmp_path, {"age": ("T", 6.0)}, model="blmm")
    [drawn] = plot_z_maps(tmp_path, tmp_path / "z.png")
    assert drawn.n_voxels == 64


def test_a_run_without_any_voxel_is_drawn_without_any(tmp_path):
    """As allow_empty accepts it; or a contrast that is estimable nowhere."""
    write_run(tmp_path, {"age": ("T", 6.0), "any": ("F", 6.0)})
    write_image(tmp_path / "blm_vox_mask.nii", np.zeros(SHAPE, np.uint8))
    drawn = plot_z_maps(tmp_path, tmp_path / "z.png")
    assert [(row.threshold, row.n_voxels) for row in drawn] == [(np.inf, 0)] * 2
    assert count_coloured(tmp_path / "z.png") == (0, 0)


def test_only_the_contrasts_that_were_asked_for_are_drawn(tmp_path):
    write_run(tmp_path, {"age": ("T", 6.0), "any": ("F", 6.0), "old": ("T", 0.01)})
    drawn = plot_z_maps(tmp_path, tmp_path / "z.png", contrasts=["the old", "the age"])
    assert [row.name for row in drawn] == ["the old", "the age"]


def test_plot_maps_draws_a_row_for_each_map_and_colours_what_is_above_0(tmp_path):
    background = tmp_path / "anatomy.nii"
    write_image(background, np.indices(SHAPE).sum(axis=0).astype(np.float32))
    values = np.zeros(SHAPE, np.float32)
    values[BLOB] = 0.8
    image = nib.Nifti1Image(values, AFFINE)
    write_image(tmp_path / "map.nii", values)
    plot_maps({"one": image}, tmp_path / "one.png", background)
    plot_maps({"one": tmp_path / "map.nii", "2": image}, tmp_path / "two.png", background)
    heights = [len(plt.imread(tmp_path / name)) for name in ("one.png", "two.png")]
    assert abs(heights[1] - 2 * heights[0]) <= 2  # each height is rounded to whole pixels
    plot_maps({"one": nib.Nifti1Image(0 * values, AFFINE)}, tmp_path / "none.png", background)
    assert count_saturated(tmp_path / "one.png") > 100
    assert count_saturated(tmp_path / "none.png") == 0


def count_saturated(png: Path) -> int:
    """Return how many pixels are not grey, colour bars left out."""
    pixels = plt.imread(png)[:, :, :3]
    pixels = pixels[:, : int(0.88 * pixels.shape[1])]
    return int(np.sum(pixels.max(axis=-1) - pixels.min(axis=-1) > 0.2))


# --------------------------------------------------------------- what is found is in a slice


def write_voxels(folder: Path, found: dict[str, list[tuple[int, int, int]]], affine=AFFINE):
    """Write a run in which each contrast is significant at a few single voxels."""
    write_run(folder, dict.fromkeys(found, ("T", 0.01)))
    mask = np.asarray(nib.load(folder / "blm_vox_mask.nii").dataobj).copy()
    nib.save(nib.Nifti1Image(mask, affine), folder / "blm_vox_mask.nii")
    for label, voxels in found.items():
        path = folder / "contrasts" / f"contrast-{label}_stat-z_statmap.nii"
        z = np.asarray(nib.load(path).dataobj).copy()
        for number, voxel in enumerate(voxels):
            z[voxel] = (-1) ** number * (6 + number)
        nib.save(nib.Nifti1Image(z, affine), path)


def find_slices(drawn: DrawnContrast, affine=AFFINE) -> set[int]:
    """Return the numbers of the slices that nilearn shows at heights in mm."""
    return {int(np.rint((height - affine[2, 3]) / affine[2, 2])) for height in drawn.heights}


def test_each_contrast_shows_its_own_voxels_however_few_they_are(tmp_path):
    """The whole kind: slices that are the same for all contrasts, or that are spread evenly, pass
    between small clusters; with percentiles of all voxels, those at top and bottom are cut off.
    """
    found = {
        "bottom": [(5, 5, 1), (9, 9, 1)],
        "many": [(5, 5 + 2 * (i % 3), 3 + i % 7) for i in range(14)],
        "top": [(5, 5, 10)],
        "nothing": [],
    }
    write_voxels(tmp_path, found)
    drawn = {
        row.name.removeprefix("the "): row for row in plot_z_maps(tmp_path, tmp_path / "z.png")
    }
    for label, voxels in found.items():
        assert drawn[label].n_voxels == len(voxels)
        assert drawn[label].n_hidden == 0
        assert len(drawn[label].heights) == 7
        assert {voxel[2] for voxel in voxels} <= find_slices(drawn[label])


def test_of_more_peaks_than_slices_the_highest_are_shown_and_the_others_counted(tmp_path):
    write_voxels(tmp_path, {"many": [(1 + i, 3 + i % 2 * 5, 1 + i) for i in range(10)]})
    [drawn] = plot_z_maps(tmp_path, tmp_path / "z.png")
    assert find_slices(drawn) == set(range(4, 11))
    assert drawn.n_hidden == 3


def test_what_is_left_of_the_slices_is_spread_over_a_large_cluster(tmp_path):
    write_run(tmp_path, {"age": ("T", 6.0)})
    path = tmp_path / "contrasts" / "contrast-age_stat-z_statmap.nii"
    z = np.asarray(nib.load(path).dataobj).copy()
    z[2:6, 5:9, 1:11] = 5
    z[3, 6, 8] = 9
    write_image(path, z)
    [drawn] = plot_z_maps(tmp_path, tmp_path / "z.png")
    slices = find_slices(drawn)
    assert {1, 8, 10} <= slices <= set(range(1, 11))
    assert max(np.diff(sorted(slices))) <= 2


@pytest.mark.parametrize("thickness", [0.7, 2.5, -4.0])
def test_slices_of_any_thickness_are_hit(tmp_path, thickness):
    affine = AFFINE.copy()
    affine[2, 2:] = thickness, -7.3
    write_voxels(tmp_path, {"age": [(5, 5, 2), (9, 9, 5), (3, 3, 6)]}, affine)
    [drawn] = plot_z_maps(tmp_path, tmp_path / "z.png")
    assert {2, 5, 6} <= find_slices(drawn, affine)


def test_a_single_voxel_is_coloured_in_the_figure(tmp_path):
    write_voxels(tmp_path, {"age": [(6, 7, 10)]})
    plot_z_maps(tmp_path, tmp_path / "z.png")
    assert count_coloured(tmp_path / "z.png")[0] > 5


def test_plot_models_gives_the_rows_of_a_contrast_the_same_slices_and_colours(tmp_path):
    write_run(tmp_path / "one", {"age": ("T", 5.0), "sex": ("T", 0.01)})
    write_run(tmp_path / "two", {"age": ("T", 10.0), "sex": ("T", 5.0)}, model="blmm")
    models = {"least squares": tmp_path / "one", "mixed": tmp_path / "two"}
    drawn = plot_models(models, tmp_path / "both.png", ["the sex", "the age"])
    assert list(drawn) == [(name, model) for name in ("the sex", "the age") for model in models]
    assert [row.n_voxels for row in drawn.values()] == [0, 64, 64, 64]
    heights = {row.heights for row in drawn.values()}
    assert heights == {(-15.0, -5.0, 5.0, 15.0)}  # the slices of the blob, each once
    assert not any(row.n_hidden for row in drawn.values())
    # z of 5 is paler where another row of the contrast reaches 10 than where it is the highest.
    plot_models({"one": tmp_path / "one"}, tmp_path / "alone.png", ["the age"])
    plot_models(models, tmp_path / "beside.png", ["the age"])
    first_rows = [
        plt.imread(tmp_path / f"{name}.png")[:200, :1000, :3]  # without the colour bar
        for name in ("alone", "beside")
    ]
    shades = [np.unique(p[p[..., 0] - p[..., 1] > 0.3], axis=0) for p in first_rows]
    assert shades[0][:, 0].min() < shades[1][:, 0].min()


def test_plot_models_counts_clusters_between_the_slices_and_outlines_by_contrast(tmp_path):
    write_run(tmp_path / "one", {"age": ("T", 0.01)})
    path = tmp_path / "one" / "contrasts" / "contrast-age_stat-z_statmap.nii"
    z = nib.load(path).get_fdata()
    for n, k in enumerate(range(1, 11)):  # of 10 slices, at most 7 are drawn
        z[3 * (n % 4) + 1, 3 * (n // 4) + 2, k] = 6.0
    write_image(path, z.astype(np.float32))
    outline = np.zeros(SHAPE, np.uint8)
    outline[BLOB] = 1
    regions = {"the age": nib.Nifti1Image(outline, AFFINE)}
    [row] = plot_models(
        {"it": tmp_path / "one"}, tmp_path / "one.png", ["the age"], outlines=regions
    ).values()
    assert row.n_voxels == 10
    assert len(row.heights) == 7
    assert row.n_hidden == 3
    red, green, blue = np.moveaxis(plt.imread(tmp_path / "one.png")[..., :3], -1, 0)
    assert np.sum(green - np.maximum(red, blue) > 0.3) > 100
