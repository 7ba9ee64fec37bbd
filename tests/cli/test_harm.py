"""Nothing of the user is lost, whatever its name and place."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from scipy import stats

from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.interfaces import BLM
from nipype_blm.model.request import Request


@pytest.mark.parametrize("field", ["Y_files", "analysis_mask"])
def test_an_input_with_the_name_and_place_of_a_map_is_refused_and_kept(study, field):
    study.outdir.mkdir()
    values = np.moveaxis(study.values, 0, -1) if field == "Y_files" else np.ones((4, 3, 2))
    path = study.save_image("out/blm_vox_con.nii", values)
    content = path.read_bytes()
    result = study.run(**{field: str(path)})
    assert result.code == 2
    assert any("the maps would replace it" in error for error in result.errors)
    assert path.read_bytes() == content


def test_files_with_names_like_those_of_maps_stay(study):
    study.outdir.mkdir()
    names = ["mask.nii", "beta.nii", "n.json", "cov.nii.gz", "blm_vox_mine.nii", "contrasts.nii"]
    for name in names:
        (study.outdir / name).write_text("mine")
    assert study.run().code == 0
    assert study.run(contrasts=[{"vector": [1, 0, 0]}]).code == 0
    assert [(study.outdir / name).read_text() for name in names] == ["mine"] * len(names)


def test_cleaning_leaves_other_files_of_the_working_folder(study):
    mine = study.folder / "w" / "logs" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert study.run("--clean", work_dir="w").code == 0
    assert [p for p in (study.folder / "w").rglob("*") if p.is_file()] == [mine]


@pytest.mark.parametrize("outdir", ["w/blm_wf", "w/blm_wf/out", "w/link/out"])
@pytest.mark.parametrize("option", ["--check", "--clean"])
def test_an_outdir_that_cleaning_would_remove_is_refused(study, outdir, option):
    (study.folder / "w" / "blm_wf").mkdir(parents=True)
    (study.folder / "w" / "link").symlink_to("blm_wf")
    result = study.run(option, outdir=outdir, work_dir="w")
    assert result.code == 2
    [error] = result.errors
    assert f"outdir {study.folder / outdir} lies in {study.folder}/w/blm_wf" in error
    assert "choose another outdir or work_dir" in error
    assert list((study.folder / "w" / "blm_wf").iterdir()) == []


def test_the_folder_that_is_never_for_results_is_that_of_the_workflow():
    for estimation, name in ((None, "blm_wf"), (MixedOptions(), "blmm_wf")):
        request = Request(None, None, [], Path("/out"), estimation=estimation)
        assert request.workflow_folder == Path("/out/work") / name


def test_a_single_node_leaves_no_intermediate_file_and_takes_none(study, monkeypatch):
    monkeypatch.chdir(study.folder)
    mine = study.folder / "blm_work" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    images = [str(study.folder / f"s{i:02}.nii") for i in range(12)]
    before = set(study.folder.iterdir())
    contrasts = [{"name": "age", "vector": [0, 0, 1]}]
    BLM(in_files=images, design_file=str(study.folder / "X.csv"), contrasts=contrasts).run()
    assert mine.read_text() == "mine"
    assert set(study.folder.iterdir()) - before == {study.folder / "blm"}


def test_an_inputs_yml_that_the_user_edits_and_runs_is_not_rewritten(study):
    assert study.run().code == 0
    config = study.outdir / "inputs.yml"
    text = "# my comment\n" + config.read_text().replace("age", "years")
    config.write_text(text)
    assert study.command(config).code == 0
    assert config.read_text() == text
    assert study.sidecar("blm_vox_conT")["Volumes"] == ["years"]


@pytest.mark.parametrize("kind", ["products", "estimates"])
def test_a_damaged_intermediate_file_is_computed_again(study, kind):
    before = study.maps_of()
    [path] = (study.outdir / "work").rglob(f"{kind}.blm")
    path.write_bytes(path.read_bytes()[:-100])
    contrast = {"name": "mean", "vector": [1, 0, 0]}
    after = study.maps_of(contrasts=[*study.fields["contrasts"], contrast])
    np.testing.assert_array_equal(after["blm_vox_beta"], before["blm_vox_beta"])


def list_double_maps(study):
    """Return the names of maps in double precision."""
    paths = study.outdir.rglob("*.nii")
    return {path.name for path in paths if nib.load(path).get_data_dtype() == np.float64}


VARIANCES = {"blm_vox_cov.nii", "contrast-age_stat-variance_statmap.nii"}


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_images_in_unusual_units_keep_their_digits(study, scale):
    for i in range(12):
        study.save_image(f"s{i:02}.nii", study.values[i] * scale)
    assert study.run().code == 0
    _, beta, resms = study.fit()
    assert list_double_maps(study) >= VARIANCES | {"blm_vox_resms.nii"}
    # The images are single precision.
    np.testing.assert_allclose(study.map("resms"), np.nan_to_num(resms) * scale**2, rtol=1e-5)
    fitted = np.isfinite(resms)
    np.testing.assert_allclose(
        study.map("beta")[fitted], beta[fitted] * scale, rtol=1e-4, atol=1e-4 * scale
    )


def test_p_near_1_needs_no_double_precision(study):
    n = 80
    x = np.linspace(-1, 1, n)
    noise = np.random.default_rng(0).normal(size=(2, 1, 1, n))
    study.save_image("y.nii", 5 - x + 0.1 * noise)
    study.write_design(np.c_[np.ones(n), x])
    contrasts = [{"name": "up", "vector": [0, 1]}]
    study.maps_of(Y_files="y.nii", contrasts=contrasts)
    tail = stats.t.sf(-study.map("conT").astype(float), n - 2)
    assert (tail > 0).all()
    assert (tail < np.finfo(np.float32).tiny).all()  # as is -log10(1 - tail)
    assert list_double_maps(study) == set()
    np.testing.assert_array_equal(study.map("conTlp"), 0)


def test_rounding_errors_off_the_diagonal_need_no_double_precision(study):
    n = 12
    groups = np.eye(2)[np.arange(n) % 2]
    x = np.random.default_rng(0).normal(size=n)
    x -= groups @ np.linalg.lstsq(groups, x)[0]  # orthogonal but for rounding errors
    study.write_design(np.c_[groups, x])
    values = 1e-12 * np.random.default_rng(1).normal(5, 1, (4, 3, 2, n))
    changes = {"Y_files": "y.nii", "contrasts": [{"name": "age", "vector": np.eye(3).tolist()}]}
    study.save_image("y.nii", values, np.float64)
    study.maps_of(**changes)
    tiny = np.abs(study.map("cov")) < np.finfo(np.float32).tiny
    assert ((study.map("cov") != 0) & tiny).any()  # so that the test says something
    study.save_image("y.nii", values, np.float32)
    study.maps_of(**changes)
    assert all(next(study.outdir.rglob(name)) for name in VARIANCES)
    assert list_double_maps(study) == set()


def test_a_variance_too_small_for_single_precision_keeps_its_digits(study):
    study.write_design(study.X * [1, 1, 1e22])
    study.maps_of()
    variance = study.map("cov")[..., 8]
    assert 0 < variance.max() < np.finfo(np.float32).tiny
    np.testing.assert_array_equal(variance > 0, study.map("mask") > 0)
    # The standard error is single precision.
    np.testing.assert_allclose(variance**0.5, study.map("conSE")[..., 0], rtol=1e-6)
    assert list_double_maps(study) >= VARIANCES


def test_a_data_mask_of_any_finite_value_is_a_mask(study):
    before = study.maps_of()
    study.save_image("m.nii", np.full((4, 3, 2), 1e-300), dtype=np.float64)
    study.write("M.txt", "m.nii\n" * 12)
    after = study.maps_of(data_mask_files="M.txt")
    np.testing.assert_array_equal(after["blm_vox_beta"], before["blm_vox_beta"])


@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_that_would_start_inside_the_header_are_refused(study, compressed):
    path = study.folder / "s03.nii"
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(348).tobytes()
    path.write_bytes(content)
    if compressed:
        study.write("s03.nii.gz", gzip.compress(bytes(content)))
        study.write("Y.txt", (study.folder / "Y.txt").read_text().replace("s03.nii", "s03.nii.gz"))
    result = study.run()
    assert result.code == 2
    assert any("line 4" in error and "byte 348" in error for error in result.errors)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_all_damaged_images_are_named(study, extension):
    lines = (study.folder / "Y.txt").read_text()
    study.write("Y.txt", lines.replace(".nii", extension))
    for i, values in enumerate(study.values):
        path = study.save_image(f"s{i:02}{extension}", values)
        if i in (2, 10):
            path.write_bytes(path.read_bytes()[:-1])
    result = study.run()
    assert result.code == 2
    assert [error.split(":")[0] for error in result.errors] == [
        "line 3 of Y.txt",
        "line 11 of Y.txt",
    ]


def test_a_design_that_leaves_too_few_degrees_of_freedom_is_refused(study):
    study.write_design(np.random.default_rng(0).normal(size=(12, 11)))
    result = study.run(contrasts=[{"vector": [1] + [0] * 10}])
    assert result.code == 2
    assert any("at least 13 images are needed" in error for error in result.errors)


def test_a_factor_of_text_in_the_first_column_is_not_taken_for_row_names(study):
    lines = [f"{'MF'[i % 2]},{x}" for i, x in enumerate(study.X[:, 2])]
    study.write("X.csv", "sex,age\n" + "\n".join(lines) + "\n")
    result = study.run(contrasts=[{"vector": [1]}])
    assert result.code == 2
    assert any("'M' in line 2, column 1 (sex)" in error for error in result.errors)


def test_a_long_name_and_names_that_differ_in_signs_have_files_of_their_own(study):
    names = ["x" * 230, "A > B", "A < B", "\u00e9t\u00e9"]
    contrasts = [{"name": name, "vector": [0, i, 1]} for i, name in enumerate(names)]
    assert study.run(contrasts=contrasts).code == 0
    files = {path.name for path in study.outdir.glob("contrasts/*_stat-t_statmap.nii")}
    labels = ["x" * 100, "AGtB", "ALtB", "ete"]
    assert files == {f"contrast-{label}_stat-t_statmap.nii" for label in labels}
    assert study.sidecar("blm_vox_conT")["Volumes"] == names


def test_yaml_merge_keys_are_read(study):
    fields = {k: v for k, v in study.fields.items() if k != "contrasts"}
    merged = """
contrasts:
  - c1: &first {name: one, vector: [0, 0, 1]}
  - c2: {<<: *first, name: two}
"""
    assert study.command(study.write("blm.yml", yaml.safe_dump(fields) + merged)).code == 0
    assert study.sidecar("blm_vox_conT")["Volumes"] == ["one", "two"]


def test_a_tsv_may_have_commas_in_its_header(study):
    before = study.maps_of()
    rows = ["\t".join(map(repr, map(float, row))) for row in study.X]
    study.write("X.tsv", "\n".join(["mean\tage, years\tiq", *rows]))
    after = study.maps_of(X="X.tsv")
    np.testing.assert_array_equal(after["blm_vox_beta"], before["blm_vox_beta"])
