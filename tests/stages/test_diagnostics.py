"""Diagnostics of folders of results: files and tables against the images themselves."""

import csv
import itertools
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from snippets import write_study

import nipype_blm
from nipype_blm.cli.blm import main as fit
from nipype_blm.cli.main import main
from nipype_blm.errors import InputError
from nipype_blm.interfaces import BLM, Diagnose
from nipype_blm.results.diagnostics import SAVED
from nipype_blm.stages.diagnostics import (
    compute_diagnostics,
    diagnose,
    gather_diagnostics,
    plan_blocks,
)
from nipype_blm.stages.reopened import open_values

CONFIGURATION = """\
Y_files: images.txt
X: design.csv
outdir: {model}
contrasts:
  - c1: {{name: age, vector: [0, 1, 0]}}
  - c2: {{name: any, vector: [[0, 1, 0], [0, 0, 1]]}}
"""
MIXED = """\
Z:
  - f1: {name: person, factor: person.txt, design: random.csv}
"""
OF_IMAGES = ["residuals", "standardised_residuals", "fitted"]
NOISY, EMPTY, INFINITE, ODD = 4, 7, 11, 13  # what is wrong with some images


def spoil(folder):
    """Make some images stand out, and take some voxels from all."""
    rng = np.random.default_rng(1)
    changes = {
        NOISY: lambda values: values + 8 * rng.standard_normal(values.shape),
        EMPTY: lambda values: 0 * values,
        INFINITE: lambda values: np.where(np.arange(5) == 2, np.inf, values),
        ODD: lambda values: values + 30,
    }
    for i in range(20):
        path = folder / f"images/sub-{i:02d}.nii.gz"
        image = nib.load(path)
        values = changes.get(i, np.array)(image.get_fdata()).astype(np.float32)
        values[0, 0] = values[3, 3] = 0
        nib.save(nib.Nifti1Image(values, image.affine), path)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folder of images, some of which stand out, and of results of both models."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    spoil(folder)
    for model, more in (("blm", ""), ("blmm", MIXED)):
        path = folder / f"{model}.yml"
        path.write_text(CONFIGURATION.format(model=model) + more)
        assert fit(["--quiet", str(path)], model) == 0
    return folder


@pytest.fixture(scope="module")
def found(study, tmp_path_factory):
    """Diagnostics of both models with all that can be saved, which nobody changes."""
    folder = tmp_path_factory.mktemp("diagnostics")
    save = {"blm": OF_IMAGES, "blmm": list(SAVED)}
    return {model: diagnose(study / model, folder / model, save[model]) for model in save}


@pytest.fixture(scope="module")
def values(study):
    """The images at the voxels of the linear model, NaN where missing."""
    results = nipype_blm.Results(study / "blm")
    Y = [nib.load(each.image).get_fdata()[results.mask] for each in results.images]
    Y = np.array(Y)
    Y[(Y == 0) | np.isinf(Y)] = np.nan
    return Y


def read(path):
    return np.asarray(nib.load(path).dataobj)


def read_rows(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def solve(y, X):
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    h = np.einsum("ij,ji->i", X, np.linalg.pinv(X))
    r = y - X @ beta
    sigma = np.sqrt(r @ r / (len(y) - X.shape[1]))
    return r, h, sigma


def test_maps_of_a_linear_model_are_those_of_least_squares(study, found, values):
    results, outputs = nipype_blm.Results(study / "blm"), found["blm"].outputs
    saved = [outputs[f"{name}_maps"] for name in ("residual", "standardised_residual", "fitted")]
    saved = [[read(path)[results.mask] for path in paths] for paths in saved]
    sd, leverage = (
        read(outputs[name][0])[results.mask] for name in ("residual_sd_map", "leverage_map")
    )
    for v in range(0, values.shape[1], 13):
        present = ~np.isnan(values[:, v])
        r, h, sigma = solve(values[present, v], results.X[present])
        expected = np.full((3, len(values)), np.nan)
        expected[:, present] = r, r / (sigma * np.sqrt(1 - h)), values[present, v] - r
        got = np.array([[volume[v] for volume in volumes] for volumes in saved])
        assert_allclose(got, expected, rtol=1e-5, atol=1e-5)  # single precision, values of 100
        assert_allclose(sd[v], sigma, rtol=1e-6)
        assert_allclose(leverage[v], [h.mean(), h.max()], rtol=1e-6)
    assert_allclose(sd**2, results.array("resms")[results.mask], rtol=1e-6)


def test_effects_of_a_linear_model_have_limits_around_them(study, found):
    results, outputs = nipype_blm.Results(study / "blm"), found["blm"].outputs
    [d] = outputs["cohens_d_maps"]
    d = read(d)[results.mask]
    age = results.contrasts["age"]
    effect, resms = age.array("effect")[results.mask], results.array("resms")[results.mask]
    assert_allclose(d[:, 0], effect / np.sqrt(resms), rtol=1e-5)
    r2 = [read(path)[results.mask] for path in outputs["partial_r2_maps"]]
    any_effect = results.array("conR2", 0)[results.mask]
    assert_allclose(r2[1][:, 0], any_effect, rtol=1e-5)
    for value, lower, upper in (each.T for each in (d, *r2)):
        assert (lower < upper).all()
        assert (lower < value).all()
    assert outputs["cohens_d_maps"][0].name == "contrast-age_stat-cohensD_statmap.nii.gz"
    said = json.loads(
        outputs["cohens_d_maps"][0].with_name("contrast-age_stat-cohensD_statmap.json").read_text()
    )
    assert said["Volumes"] == ["estimate", "lower 95% limit", "upper 95% limit"]


def test_maps_of_a_mixed_model_are_those_of_the_dense_formulas(study, found):
    results, outputs = nipype_blm.Results(study / "blmm"), found["blmm"].outputs
    [factor] = results.factors
    Y = np.array([nib.load(each.image).get_fdata()[results.mask] for each in results.images])
    Y[(Y == 0) | np.isinf(Y)] = np.nan
    D = results.array("D")[results.mask]
    residuals = [read(path)[results.mask] for path in outputs["residual_maps"]]
    blups = [read(path)[results.mask] for path in outputs["blup_maps"]]
    ratio = read(outputs["se_ratio_maps"][0])[results.mask]
    assert len(blups) == factor.n_levels
    for v in range(0, Y.shape[1], 29):
        present = ~np.isnan(Y[:, v])
        y, X = Y[present, v], results.X[present]
        block = np.array([[D[v, 0], D[v, 1]], [D[v, 1], D[v, 2]]])
        level, Z = factor.level[present], factor.Z[present]
        one = dense.criterion(y, X, [factor._replace(level=level, Z=Z)], [block])
        same = level[:, None] == level
        V = np.eye(len(y)) + same * (Z @ block @ Z.T)
        weighted = np.linalg.solve(V, y - X @ one.beta)
        for i in range(factor.n_levels):
            b = block @ (Z * (level == i)[:, None]).T @ weighted
            assert_allclose(blups[i][v], b, rtol=1e-4, atol=1e-4 * np.sqrt(one.sigma2))
        got = [volume[v] for volume in np.array(residuals)[present]]
        assert_allclose(got, weighted, atol=1e-4 * np.sqrt(one.sigma2))  # y - X beta - Z b
        rss = np.linalg.lstsq(X, y, rcond=None)[1][0]
        ols = rss / (len(y) - 3) * np.linalg.inv(X.T @ X)
        assert_allclose(ratio[v], one.std_error[1] / np.sqrt(ols[1, 1]), rtol=1e-4)
    assert_allclose(found["blmm"].se_ratio["age"], np.median(ratio), rtol=1e-6)


def test_the_table_of_images_says_which_stand_out_and_why(study, found, values):
    rows = read_rows(found["blm"].files["images.tsv"])
    assert len(rows) == 20
    names = [int(row["image"][-9:-7]) for row in rows]
    by_name = dict(zip(names, rows, strict=True))
    assert names[0] == EMPTY
    assert "no value at any voxel" in by_name[EMPTY]["reason"]
    assert by_name[EMPTY]["mean_abs_standardised_residual"] == "n/a"
    assert "large residuals" in by_name[NOISY]["reason"] + by_name[ODD]["reason"]
    assert "beyond 1e40" in by_name[INFINITE]["reason"]
    assert by_name[INFINITE]["non_finite"] == str(6 * 7 - 2)
    reasons = {name for name, row in by_name.items() if row["reason"] != "n/a"}
    assert {NOISY, EMPTY, INFINITE, ODD} <= reasons
    assert len(reasons) < 8
    scores = [float(row["outlyingness"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for name, row in by_name.items():
        assert int(row["missing"]) == np.isnan(values[name]).sum()
    described = json.loads(found["blm"].files["images.json"].read_text())
    assert set(rows[0]) <= set(described)


def test_a_copy_of_another_image_and_other_units_stand_out(tmp_path):
    """Neither has large residuals by itself, where effects are small beside the differences."""
    folder = write_study(tmp_path)
    paths = [folder / f"images/sub-{i:02d}.nii.gz" for i in range(20)]
    rng = np.random.default_rng(5)
    for path in paths:
        image = nib.load(path)
        values = rng.standard_normal(image.shape) + 0.2 * rng.standard_normal()
        values *= 0.01 if path is paths[12] else 1  # as of a fraction, where others are per cent
        values[rng.random(image.shape) < 0.05] = np.nan
        nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), path)
    shutil.copyfile(paths[3], paths[9])
    (folder / "study.yml").write_text(CONFIGURATION.format(model="blm"))
    assert fit(["--quiet", str(folder / "study.yml")], "blm") == 0
    rows = diagnose(folder / "blm").images
    reasons = {Path(row.image).name[4:6]: row.reason for row in rows if row.reason}
    assert reasons.keys() >= {"03", "09", "12"}
    assert [row.image for row in rows[:2]] == [str(paths[3]), str(paths[9])]
    assert reasons["03"].startswith("has the same values as sub-09.nii.gz")
    assert reasons["09"].startswith("has the same values as sub-03.nii.gz")
    assert "values vary 0.01 times as much as those of others" in reasons["12"]
    spread = [np.nanstd(nib.load(row.image).get_fdata()) for row in rows]
    assert_allclose([row.spread for row in rows], spread, rtol=1e-6)


@pytest.mark.parametrize("n_constant", [2, 12])
def test_images_without_any_variation_are_no_copies_of_each_other(tmp_path, n_constant):
    """Such as those of people without a lesion."""
    folder = write_study(tmp_path)
    rng = np.random.default_rng(6)
    for i in range(20):
        path = folder / f"images/sub-{i:02d}.nii.gz"
        image = nib.load(path)
        values = rng.standard_normal(image.shape) * (i >= n_constant)
        nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), path)
    configuration = CONFIGURATION.format(model="blm")
    (folder / "study.yml").write_text(f"{configuration}\nzero_is_missing: false\n")
    assert fit(["--quiet", str(folder / "study.yml")], "blm") == 0
    rows = diagnose(folder / "blm").images
    constant = [row for row in rows if row.spread == 0]
    assert len(constant) == n_constant
    assert not any("has the same values" in row.reason for row in rows)
    if n_constant == 2:
        assert all("the same value at all voxels" in row.reason for row in constant)
    else:
        others = [row for row in rows if row.spread > 0]
        assert all("values vary, and those of others do not" in row.reason for row in others)


def test_the_table_of_levels_has_each_effect(study, found):
    rows = read_rows(found["blmm"].files["levels.tsv"])
    assert [(row["level"], row["effect"]) for row in rows[:3]] == [
        ("sub-0", "one"),
        ("sub-0", "age"),
        ("sub-1", "one"),
    ]
    assert {row["images"] for row in rows} == {"4"}
    mask = nipype_blm.Results(study / "blmm").mask
    missing = np.isnan([volume[mask] for volume in map(read, found["blmm"].outputs["fitted_maps"])])
    assert_allclose(float(rows[0]["share_missing"]), missing[:4].mean(), rtol=1e-5)
    first = read(found["blmm"].outputs["blup_maps"][0])[mask]
    has_images = ~missing[:4].all(axis=0)
    expected = np.abs(first[has_images, 0]).mean()
    assert_allclose(float(rows[0]["mean_abs_blup"]), expected, rtol=1e-5)
    assert "levels.tsv" not in found["blm"].files


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_blocks_and_threads_make_no_difference(study, found, tmp_path, model):
    results = nipype_blm.Results(study / model)
    n = results.n_fitted
    files = []
    with open_values(results, 2, tmp_path) as values:
        for i, block in enumerate([slice(0, 1), slice(1, 90), slice(90, n)]):
            file = tmp_path / f"{i}.blm"
            arguments = results.folder, values.read, block, file, 2, OF_IMAGES
            files.append(compute_diagnostics(*arguments))
        counts = values.infinite.tolist()
    done = gather_diagnostics(results.folder, files, tmp_path / "out", OF_IMAGES, 2, counts)
    for name in ("residual_maps", "leverage_map", "skewness_map"):
        for one, other in zip(done.outputs[name], found[model].outputs[name], strict=True):
            assert one.read_bytes() == other.read_bytes()
    tables = [sorted(row[:1] + row[3:] for row in each.images) for each in (done, found[model])]
    for one, other in zip(*tables, strict=True):
        assert one[0] == other[0]
        # Scores are quotients of small differences, whose sums have another order.
        assert_allclose(np.array(one[1:], float), np.array(other[1:], float), rtol=1e-9)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".nipype_blm_")]


def test_values_are_those_of_the_voxels_of_the_result(study, tmp_path):
    results = nipype_blm.Results(study / "blm")
    assert not results.inside.all()
    whole = np.array([nib.load(each.image).get_fdata().ravel("F") for each in results.images])
    whole[~np.isfinite(whole) | (whole == 0)] = np.nan
    chosen = results.space.positions
    assert (np.diff(chosen) > 1).any()
    with open_values(results, parent=tmp_path) as values:
        assert_array_equal(values.read(slice(3, 40)), whole[:, chosen[3:40]])
        assert_array_equal(np.array(list(values.iterate())), whole[:, chosen])


def test_blocks_that_do_not_follow_each_other_are_refused(study, tmp_path):
    results = nipype_blm.Results(study / "blm")
    with open_values(results, parent=tmp_path) as values:
        block = slice(0, 50)
        file = compute_diagnostics(results.folder, values.read, block, tmp_path / "a.blm")
        with pytest.raises(InputError, match="50 of the"):
            gather_diagnostics(results.folder, [file], tmp_path / "out")
        with pytest.raises(InputError, match="does not have the next voxels"):
            gather_diagnostics(results.folder, [file, file], tmp_path / "out")
        with pytest.raises(InputError, match="with other things saved"):
            gather_diagnostics(results.folder, [file], tmp_path / "out", ["fitted"])
    assert not (tmp_path / "out").exists()


def test_values_that_the_model_was_not_fitted_to_are_refused(study, tmp_path):
    folder = study / "blm"

    def read_block(columns):
        return np.ones((20, columns.stop - columns.start))

    with pytest.raises(InputError, match="the images are not those that were fitted"):
        compute_diagnostics(folder, read_block, slice(0, 9), tmp_path / "a.blm")
    with pytest.raises(InputError, match=r"shape \(3, 9\) were given; expected \(20, 9\)"):
        compute_diagnostics(folder, lambda _: np.ones((3, 9)), slice(0, 9), tmp_path / "a.blm")


def test_images_that_have_changed_or_gone_are_refused_by_name(study, tmp_path):
    moved = study / "images" / "sub-03.nii.gz"
    moved.rename(tmp_path / "elsewhere.nii.gz")
    try:
        with pytest.raises(InputError, match=r"sub-03.nii.gz does not exist"):
            diagnose(study / "blm", tmp_path / "out")
    finally:
        (tmp_path / "elsewhere.nii.gz").rename(moved)
    state = moved.stat()
    os.utime(moved, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    try:
        with pytest.raises(InputError, match=r"sub-03.nii.gz has changed"):
            diagnose(study / "blm", tmp_path / "out")
    finally:
        os.utime(moved, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_saved_is_refused(study, tmp_path):
    with pytest.raises(InputError, match="'residual' cannot be saved; expected some of residuals"):
        diagnose(study / "blm", tmp_path / "out", ["residual"])
    with pytest.raises(InputError, match="has no random effects: leave them out"):
        diagnose(study / "blm", tmp_path / "out", ["blups"])


def test_files_of_somebody_else_stay_and_those_of_an_earlier_run_are_replaced(study, tmp_path):
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    (out_dir / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"such as notes.txt"):
        diagnose(study / "blm", out_dir)
    (out_dir / "notes.txt").unlink()
    diagnose(study / "blm", out_dir, ["fitted"])
    assert (out_dir / "fitted" / "image-01_desc-fitted_map.nii.gz").exists()
    diagnose(study / "blm", out_dir)
    assert not list(out_dir.glob("fitted/*"))
    assert (out_dir / "desc-leverage_map.nii.gz").exists()


def test_blocks_keep_to_the_memory(study):
    results = nipype_blm.Results(study / "blmm")
    n_bytes = 20 * 16 * 8 * 10  # of ten voxels with 20 images, at least
    blocks = plan_blocks(results, n_bytes)
    assert blocks[0].start == 0
    assert blocks[-1].stop == results.n_fitted
    assert all(a.stop == b.start for a, b in itertools.pairwise(blocks))
    assert max(block.stop - block.start for block in blocks) <= 10
    assert len(plan_blocks(results, 2**40)) == 1


def test_the_command_names_the_images_that_stand_out(study, capsys, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(study / "blmm", folder, ignore=shutil.ignore_patterns("work"))
    assert main(["diagnose", str(folder), "--save", "blups, fitted"]) == 0
    said, progress = capsys.readouterr()
    assert f"sub-{EMPTY:02d}.nii.gz: no value at any voxel of the result" in said
    assert "images of 20 stand out\n" in said
    assert "Contrast age: standard errors are" in said
    assert f"The maps and tables are in {folder / 'diagnostics'}" in said
    assert "reading images: 20 of 20" in progress
    assert len(list(folder.glob("diagnostics/blups/*_desc-blup_map.nii.gz"))) == 5
    assert main(["diagnose", str(folder), "--save", "blup"]) == 2
    assert "error: 'blup' cannot be saved" in capsys.readouterr().err
    nipype_blm.Results(folder)  # which is as it was


def test_the_node_has_each_file_as_an_output(study, found, tmp_path):
    node = Diagnose(results_dir=study / "blmm", save=["blups"], max_mem_gb=0.5)
    outputs = node.run(cwd=tmp_path).outputs
    assert outputs.out_dir == str(tmp_path / "diagnostics")
    assert_array_equal(read(outputs.leverage_map), read(found["blmm"].outputs["leverage_map"][0]))
    assert len(outputs.blup_maps) == len(outputs.blup_covariance_maps) == 5
    assert outputs.se_ratio == found["blmm"].se_ratio
    assert outputs.outlying[0].endswith(f"sub-{EMPTY:02d}.nii.gz")


def test_volumes_masks_and_thresholds_are_read_as_for_the_model(study, tmp_path):
    images = [nib.load(study / f"images/sub-{i:02d}.nii.gz") for i in range(20)]
    volumes = np.stack([image.get_fdata(dtype=np.float32) for image in images], axis=-1)
    nib.save(nib.Nifti1Image(volumes, images[0].affine), tmp_path / "all.nii.gz")
    rng = np.random.default_rng(2)
    masks = []
    for i in range(20):
        inside = (rng.random(volumes.shape[:3]) < 0.9).astype(np.uint8)
        masks.append(str(tmp_path / f"mask{i}.nii"))
        nib.save(nib.Nifti1Image(inside, images[0].affine), masks[-1])
    node = BLM(in_files=str(tmp_path / "all.nii.gz"), design_file=str(study / "design.csv"))
    node.inputs.trait_set(data_mask_files=masks, data_mask_thresh=99.0, zero_is_missing=False)
    node.inputs.contrasts = [{"name": "age", "vector": [0, 1, 0]}]
    results = nipype_blm.Results(node.run(cwd=tmp_path).outputs.out_dir)
    done = diagnose(results.folder)
    sd = read(done.outputs["residual_sd_map"][0])
    assert_allclose(sd**2, results.array("resms"), rtol=1e-5)  # maps in single precision
    assert done.out_dir == results.folder / "diagnostics"
    assert {row.volume for row in done.images} == set(range(20))
