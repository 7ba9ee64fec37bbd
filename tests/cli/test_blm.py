"""``blm CONFIG.yml`` does what its options say, and the user's files stay as they are."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from nipype_blm import __version__
from nipype_blm.cli.fit import load_config
from nipype_blm.frontends.blm import IGNORED, MISSINGNESS, list_entries
from nipype_blm.stages.plan import prepare_run


def assert_equal_maps(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_run_ends_with_0_and_says_where_the_maps_are(study):
    result = study.run()
    assert result.code == 0
    assert str(study.outdir) in result.out
    assert "fitted" in result.out
    assert re.findall(r"^  (age|any) ", result.out, re.MULTILINE) == ["age", "any"]
    assert result.errors == []


def test_maps_are_those_of_least_squares_at_each_voxel(study):
    assert study.run().code == 0
    n, beta, resms = study.fit()
    fitted = np.isfinite(resms)
    assert 10 < fitted.sum() < 24
    np.testing.assert_array_equal(study.map("n"), n)
    np.testing.assert_array_equal(study.map("mask"), fitted)
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)
    np.testing.assert_allclose(study.map("resms"), np.nan_to_num(resms), rtol=2e-6)


def test_quiet_prints_nothing(study):
    for i, values in enumerate(study.values):  # of which there is nothing to be said
        study.save_image(f"s{i:02}.nii", np.where(values == 0, np.nan, values))
    assert study.run("--quiet") == (0, "", "")


def test_sim_prints_no_summary(study):
    assert study.run(sim=1).out == ""


def test_an_interrupted_run_says_so_writes_no_map_and_is_resumed(study, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nipype_blm.stages.loading.advance", interrupt)  # in the middle of a node
        result = study.run()
    assert result.code == 130
    assert "goes on" in result.err
    assert not list(study.outdir.glob("blm_vox_*"))
    assert list(study.outdir.glob("work/blm_wf/logs/crash-*"))  # not where the command was started
    assert study.run().code == 0


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_explains_every_option_and_field_and_exit_code(study, option):
    result = study.command(option)
    assert result.code == 0
    for name in [*(entry.name for entry in list_entries()), *MISSINGNESS, *IGNORED]:
        assert name in result.out
    for word in ["--check", "--clean", "--quiet", "--version", "Exit codes: 0", "CONFIG.yml"]:
        assert word in result.out


def test_the_version_is_that_of_the_package(study):
    result = study.command("--version")
    assert (result.code, result.out) == (0, f"nipype_blm {__version__}\n")


def test_the_process_hands_over_its_exit_code(study):
    def run(*arguments):
        command = [sys.executable, "-m", "nipype_blm.cli.blm", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run(study.configure(), "--check").returncode == 0
    assert run(study.configure(MAXMEM="x"), "--check").returncode == 2
    assert run("--version").stdout == f"nipype_blm {__version__}\n"


# -------------------------------------------------------------------------------- --check


def test_check_says_what_would_run_and_writes_nothing(study, contents_of):
    config = study.configure(images_per_batch=5, voxels_per_block=7)
    before = contents_of(study.folder)
    result = study.command(config, "--check")
    assert result.code == 0
    for part in [
        "12 images",
        "3 columns of X",
        "24 voxels",
        "2 contrasts",
        "3 batches",
        "4 blocks",
    ]:
        assert part in result.out
    assert contents_of(study.folder) == before
    assert not study.outdir.exists()


def test_check_names_each_contrast_once_before_its_rows(study):
    lines = study.run("--check").out.splitlines()
    contrasts = lines[lines.index("Contrasts:") + 1 :][:3]
    assert [line.split(":")[0].strip() for line in contrasts[:2]] == ["age (T)", "any (F)"]
    assert contrasts[2].startswith(" ")


def test_check_says_what_is_no_fault_but_may_not_be_meant(study):
    study.write("Y.txt", "s00.nii\n" + "".join(f"s{i:02}.nii\n" for i in range(11)))
    for options in (["--check"], []):
        result = study.run(*options)
        assert result.code == 0
        assert "are the same image" in result.err


def test_check_leaves_the_results_of_an_earlier_run_alone(study, contents_of):
    study.run()
    before = contents_of(study.outdir)
    assert study.run("--check", two_sided=True).code == 0
    assert contents_of(study.outdir) == before


# -------------------------------------------------------------------------------- notices


def test_each_field_without_effect_gets_one_notice(study):
    fields = ["statType", "logdir", "voxelBatching", "diskMem", "name", "q"]
    result = study.run("--check", **dict.fromkeys(fields, "x"))
    assert result.code == 0
    notices = [line for line in result.err.splitlines() if line.startswith("notice: ")]
    assert len(notices) == len(fields)
    for field, notice in zip(fields, notices, strict=True):
        assert notice.startswith(f"notice: {field} ")


def test_a_configuration_that_is_used_whole_gets_no_notice(study):
    assert study.run("--check", maxnvb=60, sim=0, clusterType="local", numNodes=2).err == ""


# ---------------------------------------------------------------------------------- paths


def test_relative_paths_are_those_of_the_file_that_names_them(study, monkeypatch):
    lists = study.folder / "lists"
    lists.mkdir()
    elsewhere = study.folder / "elsewhere"
    elsewhere.mkdir()
    study.write("lists/Y.txt", "".join(f"../s{i:02}.nii\n" for i in range(12)))
    study.save_image("lists/m.nii", np.ones((4, 3, 2)))
    study.write("lists/M.txt", "m.nii\n" * 12)
    study.configure(
        Y_files="lists/Y.txt", data_mask_files="lists/M.txt", analysis_mask="lists/m.nii"
    )
    monkeypatch.chdir(elsewhere)
    assert study.command("../blm.yml").code == 0
    assert (study.folder / "out" / "blm_vox_mask.nii").is_file()
    assert list(elsewhere.iterdir()) == []


def test_the_current_folder_does_not_matter_to_the_cache(study, monkeypatch):
    study.run()
    work = study.outdir / "work"
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.blm")}
    monkeypatch.chdir(study.folder)
    assert study.command("blm.yml").code == 0
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*.blm")} == before


# ---------------------------------------------------------------------------- work folder


def test_the_work_folder_is_kept_and_an_unchanged_run_fits_nothing(study):
    study.run()
    work = study.outdir / "work"
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.blm")}
    assert before
    result = study.run()
    assert result.code == 0
    assert "reading images" not in result.err
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*.blm")} == before


def test_clean_removes_the_work_folder_of_a_run_that_ended_well(study):
    assert study.run("--clean").code == 0
    assert not (study.outdir / "work").exists()
    assert (study.outdir / "blm_vox_mask.nii").is_file()


def test_clean_keeps_the_work_folder_of_a_run_that_failed(study):
    path = study.compress_image()
    path.write_bytes(path.read_bytes()[:-1])
    assert study.run("--clean").code == 2
    assert (study.outdir / "work").is_dir()


def test_clean_leaves_what_others_have_in_the_work_folder(study):
    work = study.folder / "scratch"
    work.mkdir()
    (work / "mine").write_text("keep")
    assert study.run("--clean", work_dir="scratch").code == 0
    assert [p.name for p in work.iterdir()] == ["mine"]
    assert not (study.outdir / "work").exists()


def test_the_work_folder_may_be_deleted_between_runs(study):
    before = study.maps_of()
    shutil.rmtree(study.outdir / "work")
    assert_equal_maps(study.maps_of(), before)


def test_a_plan_claims_at_least_the_disk_that_a_run_takes(study):
    config = study.configure(images_per_batch=5, voxels_per_block=10, keep="all")
    plan = prepare_run(load_config(config)).plan
    assert study.command(config).code == 0
    files = [p for p in (study.outdir / "work").rglob("*.blm") if p.name != "model.blm"]
    header = 4096  # of each file, with the padding of its arrays
    assert sum(p.stat().st_size - header for p in files) <= plan.disk_bytes
    maps = list(study.outdir.glob("*.nii")) + list(study.outdir.glob("contrasts/*.nii"))
    assert sum(p.stat().st_size - 352 for p in maps) <= plan.map_bytes


# ------------------------------------------------------------------- what has changed since


def test_a_replaced_image_is_noticed_by_the_next_run(study):
    study.run()
    study.values[3] = study.values[4][::-1]
    study.save_image("s03.nii", study.values[3])
    assert study.run().code == 0
    n, beta, _ = study.fit()
    np.testing.assert_array_equal(study.map("n"), n)
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)


def test_a_new_contrast_fits_nothing_again(study):
    study.run()
    estimates = {p: p.stat().st_mtime_ns for p in study.outdir.rglob("estimates*.blm")}
    assert estimates
    contrasts = [*study.fields["contrasts"], {"c3": {"name": "sex", "vector": [0, 1, 0]}}]
    result = study.run(contrasts=contrasts)
    assert result.code == 0
    assert "fitting voxels" not in result.err
    assert {p: p.stat().st_mtime_ns for p in study.outdir.rglob("estimates*.blm")} == estimates
    assert study.map("conT").shape == (4, 3, 2, 2)


def test_a_deleted_map_is_back_after_the_next_run(study):
    before = study.maps_of()
    study.path("blm_vox_beta").unlink()
    assert_equal_maps(study.maps_of(), before)


def test_a_changed_map_is_mended_by_the_next_run(study):
    before = study.maps_of()
    path = study.path("blm_vox_beta")
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    assert_equal_maps(study.maps_of(), before)


# ----------------------------------------------------------------------------- inputs.yml


def test_the_files_of_the_user_are_untouched(study, contents_of):
    text = "# mine\n" + study.configure(MAXMEM="2**32").read_text() + "# end\n"
    config = study.write("blm.yml", text)
    before = contents_of(study.folder)
    assert study.command(config).code == 0
    after = {p: c for p, c in contents_of(study.folder).items() if study.outdir not in p.parents}
    assert after == before


def test_inputs_yml_gives_identical_maps_from_anywhere(study, contents_of):
    before = study.maps_of(
        Missingness={"MinPercent": "1/3", "MinN": 5},
        two_sided=True,
        data_mask_thresh="1/3",
        images_per_batch=5,
    )
    elsewhere = study.folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(study.outdir / "inputs.yml", elsewhere / "again.yml")
    shutil.rmtree(study.outdir)
    assert study.command(elsewhere / "again.yml").code == 0
    assert_equal_maps(study.maps(), before)


def test_inputs_yml_can_be_run_where_it_lies_and_stays_the_same(study):
    before = study.maps_of()
    path = study.outdir / "inputs.yml"
    text = path.read_text()
    result = study.command(path)
    assert result.code == 0
    assert "reading images" not in result.err
    assert path.read_text() == text
    assert_equal_maps(study.maps(), before)


def test_inputs_yml_holds_what_was_asked_for_and_the_versions(study):
    study.run(Missingness={"minpercent": "10%"}, MAXMEM="2**30", numNodes=2, work_dir="scratch")
    data = yaml.safe_load((study.outdir / "inputs.yml").read_text())
    assert data["Y_files"] == str(study.folder / "Y.txt")
    assert data["X"] == str(study.folder / "X.csv")
    assert data["outdir"] == str(study.outdir)
    assert data["work_dir"] == str(study.folder / "scratch")
    assert data["MAXMEM"] == 2**30
    assert data["numNodes"] == 2
    assert data["Missingness"] == {"MinPercent": 0.1}
    assert [c[f"c{i}"]["name"] for i, c in enumerate(data["contrasts"], 1)] == ["age", "any"]
    assert data["versions"]["nipype_blm"] == __version__
