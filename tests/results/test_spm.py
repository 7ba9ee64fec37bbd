"""Results in the names of SPM, how smooth they are, and who reads them: Octave and nodes."""

import json
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.io import loadmat

import nipype_blm
from nipype_blm.cli.main import main
from nipype_blm.core.smoothness import (
    Smoothness,
    add_residuals,
    compute_smoothness,
    count_resels,
    find_cells,
    make_sums,
)
from nipype_blm.errors import InputError
from nipype_blm.interfaces import ExportSPM
from nipype_blm.results.spm import export_spm
from nipype_blm.stages.reopened import open_values
from nipype_blm.stages.smoothness import estimate_smoothness
from nipype_blm.workflows import init_spm_handover_wf

from .conftest import Study


def estimate(results: nipype_blm.Results, n_threads: int = 1) -> Smoothness:
    """Return the smoothness of results, from their images."""
    with open_values(results, n_threads) as values:
        return estimate_smoothness(results, values, n_threads)


AGE, ANY = "age", "age or <group>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """With its images, which smoothness needs."""
    folder = tmp_path_factory.mktemp("spm") / "study"
    folder.mkdir()
    return Study(folder)


@pytest.fixture(scope="module")
def fits(study):
    """Results of both models, the mixed one with its residual mean squares."""
    made = {"blm": study.command("blm", "linear")}
    made["blmm"] = study.command("blmm", "mixed", compress=True, more="resms: true\n")
    return {model: nipype_blm.Results(folder) for model, folder in made.items()}


@pytest.fixture(params=["blm", "blmm"])
def results(request, fits):
    return fits[request.param]


@pytest.fixture(scope="module")
def exported(fits, tmp_path_factory):
    """Of both models, which nobody changes."""
    return {model: export(fits[model], tmp_path_factory.mktemp(f"spm_{model}")) for model in fits}


def export(results, folder, *arguments):
    return export_spm(results, estimate(results), folder, *arguments)


def read(path):
    return np.asarray(nib.load(path).dataobj)


def read_images(results):
    """Return the values of all images, of shape (n_obs, x, y, z), NaN where missing."""
    values = np.stack([nib.load(each.image).get_fdata() for each in results.images])
    return np.where(values == 0, np.nan, values)


# -- Smoothness ----------------------------------------------------------------------------


def test_smoothness_is_that_of_the_residuals_of_the_images(results):
    fitted = np.einsum("ip,xyzp->ixyz", results.X, results.array("beta").astype(float))
    residuals = read_images(results) - fitted
    cells = find_cells(results.mask)
    sums = make_sums(cells)
    for image in residuals:
        add_residuals(sums, cells, image.T[results.mask.T])  # x fastest
    expected = compute_smoothness(sums, cells, results.mask, 3 + 3 + 1)
    found = estimate(results, n_threads=2)
    assert_allclose(found.fwhm, expected.fwhm, rtol=1e-10)
    # Sums of products near 1 are subtracted.
    assert_allclose(found.resels_per_voxel, expected.resels_per_voxel, rtol=1e-8)
    assert 1 < found.n_used < results.n_fitted


def test_values_outside_masks_of_images_and_below_a_threshold_are_missing(study):
    ones = np.ones((6, 7, 5), np.uint8)
    ones[:2] = 0
    nib.save(nib.Nifti1Image(ones, np.diag([8.0, 8, 8, 1])), study.folder / "half.nii.gz")
    half = str(study.folder / "half.nii.gz")
    (study.folder / "masks.txt").write_text(f"{half}\n" * 10 + f"{study.folder}/mask.nii.gz\n" * 10)
    more = "data_mask_files: masks.txt\nMissingness: {MinN: 8}\ndata_mask_thresh: 95\n"
    results = nipype_blm.Results(study.command("blm", "masked", more=more))
    assert results.array("n")[0].max() == 10
    values = read_images(results)
    values[:10, :2] = np.nan
    values[values < 95] = np.nan
    beta = results.array("beta").astype(float)
    residuals = values - np.einsum("ip,xyzp->ixyz", results.X, beta)
    # Least squares: what is left of the images that are there is orthogonal to X.
    inside = results.mask & (results.array("n") - results.array("edf") == 3)
    moments = np.einsum("ixyz,ip->pxyz", np.nan_to_num(residuals), results.X)
    assert np.abs(moments[:, inside]).max() < 1e-3  # maps are float32 of 100
    cells = find_cells(results.mask)
    sums = make_sums(cells)
    for image in residuals:
        add_residuals(sums, cells, image.T[results.mask.T])
    expected = compute_smoothness(sums, cells, results.mask, 7)
    assert_allclose(estimate(results).fwhm, expected.fwhm, rtol=1e-10)


def test_images_that_are_gone_or_changed_are_named(make_study):
    study = make_study()
    results = nipype_blm.Results(study.command("blm", "out"))
    image = study.folder / "images" / "sub-03.nii.gz"
    os.utime(image, (1, 1))
    with pytest.raises(InputError, match=r"sub-03.* has changed since the model was fitted"):
        estimate(results)
    image.unlink()
    with pytest.raises(InputError, match=r"sub-03.* does not exist"):
        estimate(results)
    assert main(["export", str(results.folder), "--to", "spm"]) != 0
    assert not (results.folder / "spm").exists()


def test_what_has_no_smoothness_is_refused(study):
    line = np.zeros((6, 7, 5), np.uint8)
    line[:, 3, 3] = 1
    nib.save(nib.Nifti1Image(line, np.diag([8.0, 8, 8, 1])), study.folder / "line.nii.gz")
    more = "analysis_mask: line.nii.gz\n"
    results = nipype_blm.Results(study.command("blm", "line", more=more))
    with pytest.raises(InputError, match=r"cannot be estimated: .* 7 images or more .*larger mask"):
        estimate(results)


def test_columns_that_depend_on_each_other_are_refused(study):
    (study.folder / "double.csv").write_text(
        "\n".join(["one,age,again", *(f"{one:g},{age:g},{age:g}" for one, age, _ in study.X)])
        + "\n"
    )
    more = "X: double.csv\ndeficient: estimable\n"
    path = study.folder / "double.yml"
    path.write_text(
        "Y_files: images.txt\noutdir: double\ncontrasts:\n  - c1: {name: one, vector: [1, 0, 0]}\n"
        + more
    )
    assert main(["fit", str(path), str(study.folder / "double"), "--quiet"]) == 0
    with pytest.raises(InputError, match=r"Columns of X of .* depend on each other"):
        estimate(nipype_blm.Results(study.folder / "double"))


# -- The files -----------------------------------------------------------------------------


def test_t_and_f_have_the_p_of_ours_at_the_degrees_of_freedom_that_spm_takes(results, exported):
    done = exported[results.model]
    medians = [np.median(each.array("dof")[results.mask]) for each in results.contrasts.values()]
    assert done.erdf == int(min(medians))
    assert len(np.unique(results.contrasts[AGE].array("dof")[results.mask])) > 1
    t = read(done.out_dir / "spmT_0001.nii")[results.mask].astype(float)
    # Both maps are float32: some units in the seventh digit, times t, in the logarithm of p.
    ours = stats.t.logsf(*(results.contrasts[AGE].array(k)[results.mask] for k in ("stat", "dof")))
    assert_allclose(stats.t.logsf(t, done.erdf), ours, rtol=1e-4, atol=1e-6)
    f = read(done.out_dir / "spmF_0002.nii")[results.mask].astype(float)
    stat, dof = (results.contrasts[ANY].array(kind)[results.mask] for kind in ("stat", "dof"))
    assert_allclose(
        stats.f.logsf(f, 2, done.erdf), stats.f.logsf(stat, 2, dof), rtol=1e-4, atol=1e-6
    )


def test_the_other_maps_have_the_values_of_ours(results, exported):
    done, mask = exported[results.model], results.mask
    beta, resms = results.array("beta"), results.array("resms")
    for i in range(3):
        assert_array_equal(read(done.out_dir / f"beta_{i + 1:04d}.nii")[mask], beta[mask, i])
    assert_array_equal(
        read(done.out_dir / "con_0001.nii")[mask], results.contrasts[AGE].array("effect")[mask]
    )
    assert_array_equal(read(done.out_dir / "ResMS.nii")[mask], resms[mask])
    ess = read(done.out_dir / "ess_0002.nii")[mask]
    assert_allclose(ess, 2.0 * (resms * results.contrasts[ANY].array("stat"))[mask], rtol=1e-6)
    for number, name in enumerate((AGE, ANY), 1):
        dof = read(done.out_dir / f"dof_{number:04d}.nii")[mask]
        assert_array_equal(dof, results.contrasts[name].array("dof")[mask].astype("f4"))
    assert_array_equal(read(done.out_dir / "mask.nii"), mask)
    resels = estimate(results).resels_per_voxel
    assert_array_equal(read(done.out_dir / "RPV.nii").T[mask.T], resels)


def test_headers_are_those_of_spm(fits, exported):
    """NaN outside the mask, 0 in maps of T and F; no compression, no intents, no sidecars."""
    folder, mask = exported["blm"].out_dir, fits["blm"].mask
    files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    numbered = {f"{name}.nii" for name in ("beta_0001", "beta_0002", "beta_0003", "con_0001")}
    numbered |= {"spmT_0001.nii", "ess_0002.nii", "spmF_0002.nii", "dof_0001.nii", "dof_0002.nii"}
    assert files == numbered | {"mask.nii", "ResMS.nii", "RPV.nii", "SPM.mat"}
    erdf = exported["blm"].erdf
    words = {
        "spmT_0001": f"SPM{{T_[{erdf}.0]}} - contrast 1: {AGE}",
        "con_0001": f"Contrast 1: {AGE}",
    }
    words |= {
        "spmF_0002": f"SPM{{F_[2.0,{erdf}.0]}} - contrast 2: {ANY}",
        "beta_0002": "spm_spm:beta (0002) - age",
    }
    for name in files - {"SPM.mat"}:
        image = nib.load(folder / name)
        outside = np.asarray(image.dataobj)[~mask]
        is_0 = name.startswith(("mask", "spm"))
        assert (outside == 0).all() if is_0 else np.isnan(outside).all(), name
        assert image.header.get_intent()[0] == "none"
        stem = name.removesuffix(".nii")
        assert image.header["descrip"].item().decode() == words.get(
            stem, image.header["descrip"].item().decode()
        )


def test_only_contrasts_that_are_asked_for_are_numbered_and_the_same_is_not_written_again(
    results, tmp_path
):
    done = export(results, tmp_path / "spm", [ANY])
    assert (done.names, done.t_numbers, done.f_numbers) == ([ANY], [], [1])
    assert (done.out_dir / "spmF_0001.nii").exists()
    assert not (done.out_dir / "con_0001.nii").exists()
    before = {path.name: path.stat().st_mtime_ns for path in done.out_dir.iterdir()}
    export(results, tmp_path / "spm", [ANY])
    assert before == {path.name: path.stat().st_mtime_ns for path in done.out_dir.iterdir()}
    export(results, tmp_path / "spm", [AGE])
    assert not (done.out_dir / "spmF_0001.nii").exists()
    with pytest.raises(InputError, match=r"'aged' is no contrast of"):
        export(results, tmp_path / "spm", ["aged"])


def test_a_contrast_that_is_not_estimable_everywhere_has_gaps(make_study, tmp_path):
    study = make_study()
    for i, path in enumerate(sorted((study.folder / "images").glob("*.nii.gz"))):
        image = nib.load(path)
        values = image.get_fdata()
        values[2, 2, 2] = 0 if i % 2 else 1 + i  # one group alone
        nib.save(nib.Nifti1Image(values.astype("f4"), image.affine), path)
    results = nipype_blm.Results(study.command("blm", "gaps"))
    done = export(results, tmp_path / "spm")
    assert results.mask[2, 2, 2]
    assert read(done.out_dir / "spmF_0002.nii")[2, 2, 2] == 0
    assert np.isnan(read(done.out_dir / "ess_0002.nii")[2, 2, 2])
    assert np.isfinite(read(done.out_dir / "con_0001.nii")[2, 2, 2])


def test_without_its_map_the_residual_mean_square_of_a_mixed_model_is_sigma2(study, tmp_path):
    results = nipype_blm.Results(study.command("blmm", "plain"))
    done = export(results, tmp_path / "spm")
    assert_array_equal(
        read(done.out_dir / "ResMS.nii")[results.mask], results.array("sigma2")[results.mask]
    )


# -- SPM.mat -------------------------------------------------------------------------------

OCTAVE = """\
load SPM.mat
X = SPM.xX; V = SPM.xVol; c = SPM.xCon(2);
out = struct("erdf", X.erdf, "X", X.X, "names", {X.name}, "rk", X.xKXs.rk, "V", full(X.V), ...
    "Bcov", X.Bcov, "nscan", SPM.nscan, "images", {SPM.xY.P}, "swd", SPM.swd, ...
    "FWHM", V.FWHM, "R", V.R, "S", V.S, "DIM", V.DIM, "M", V.M, "iM", V.iM, "XYZ", V.XYZ, ...
    "n_cons", numel(SPM.xCon), "name", c.name, "STAT", c.STAT, "c", c.c, "eidf", c.eidf, ...
    "Vspm", c.Vspm.fname, "Vcon", c.Vcon.fname, "dat", c.Vspm.dat, "class", class(c.Vspm.dat), ...
    "betas", {{SPM.Vbeta.fname}}, "dims", size(SPM.Vbeta), "ResMS", SPM.VResMS.dim, ...
    "RPV", V.VRpv.descrip);
puts(jsonencode(out));
"""


def test_octave_reads_spm_mat_field_by_field(results, exported, require_command):
    program = require_command("octave-cli", "octave")
    done, mask = exported[results.model], results.mask
    command = [program, "--no-init-file", "--quiet", "--eval", OCTAVE]
    ran = subprocess.run(command, cwd=done.out_dir, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("{"), ran.stderr
    found = json.loads(ran.stdout)
    smoothness = estimate(results)
    assert_allclose(found["X"], results.X, rtol=1e-4)  # JSON has five digits or more
    assert_array_equal(found["V"], np.eye(20))
    assert_allclose(found["FWHM"], smoothness.fwhm, rtol=1e-4)
    assert_allclose(found["R"], count_resels(mask, smoothness.fwhm), rtol=1e-4)
    places = np.array(found["XYZ"])
    assert_array_equal(places, np.argwhere(mask.T)[:, ::-1].T + 1)
    first = np.array(found["M"]) @ [*places[:, 0], 1]
    assert_allclose(first[:3], np.argwhere(mask.T)[0, ::-1] * 8.0)  # voxels of 8 mm from 0
    assert_allclose(np.array(found["M"]) @ found["iM"], np.eye(4), atol=1e-9)
    said = {name: found[name] for name in ("names", "rk", "erdf", "nscan", "S", "DIM", "n_cons")}
    assert said == {
        "names": ["one", "age", "group"],
        "rk": 3,
        "erdf": done.erdf,
        "nscan": 20,
        "S": np.count_nonzero(mask),
        "DIM": [6, 7, 5],
        "n_cons": 2,
    }
    assert found["images"] == [f"{each.image},1" for each in results.images]
    assert (found["name"], found["STAT"], found["eidf"]) == (ANY, "F", 2)
    assert_array_equal(np.array(found["c"]).T, results.contrasts[ANY].weights)
    assert (found["Vspm"], found["Vcon"]) == ("spmF_0002.nii", "ess_0002.nii")
    assert found["class"] == "single"
    assert_allclose(found["dat"], read(done.out_dir / "spmF_0002.nii"), rtol=1e-4)
    assert found["betas"] == ["beta_0001.nii", "beta_0002.nii", "beta_0003.nii"]
    assert (found["dims"], found["ResMS"]) == ([1, 3], [6, 7, 5])
    assert found["RPV"] == "spm_spm: resels per voxel"
    assert found["swd"] == str(done.out_dir)


def load_spm(folder):
    return loadmat(folder / "SPM.mat", squeeze_me=True)["SPM"]


def test_marsbar_takes_the_file_for_one_of_spm(results, exported):
    """Its classes of designs look for the version of SPM at the start of SPMid."""
    found = str(load_spm(exported[results.model].out_dir)["SPMid"].item())
    assert found.startswith("SPM12: nipype_blm")
    assert results.model in found


def test_a_folder_of_somebody_else_is_refused_before_images_are_read(study, tmp_path, monkeypatch):
    out = study.command("blm", "out_of_folder")
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("nipype_blm.stages.reopened.open_values", None)
    assert main(["export", str(out), "--to", "spm", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_spaces_of_a_contrast_have_its_sum_of_squares(fits, exported):
    """What SPM computes of X1o and X0 is what models with and without the contrast explain."""
    saved = load_spm(exported["blm"].out_dir)
    space, contrast = saved["xX"].item()["xKXs"].item(), saved["xCon"].item()[1]
    u, X = space["u"].item(), fits["blm"].X
    assert_allclose(u * space["ds"].item() @ space["v"].item().T, X, atol=1e-12)
    y = np.random.default_rng(1).standard_normal(20)

    def explain(columns):
        return np.sum((columns @ np.linalg.lstsq(columns, y, rcond=1e-10)[0]) ** 2)

    tested, rest = u @ contrast["X1o"]["ukX1o"].item(), u @ contrast["X0"]["ukX0"].item()
    assert_allclose(explain(tested), explain(X) - explain(X[:, :1]), rtol=1e-10)
    assert_allclose(explain(rest), explain(X[:, :1]), rtol=1e-10)


def test_new_contrasts_in_spm_have_the_variance_of_a_typical_voxel(results, exported):
    covariance = load_spm(exported[results.model].out_dir)["xX"].item()["Bcov"].item()
    if results.model == "blm":
        assert_allclose(covariance, np.linalg.inv(results.X.T @ results.X), rtol=1e-10)
    else:
        cov = results.array("cov")[results.mask].reshape(-1, 3, 3)
        scaled = cov / results.array("resms")[results.mask][:, None, None]
        assert_allclose(covariance, np.median(scaled, axis=0), rtol=1e-5)


# -- Nodes and the command -----------------------------------------------------------------


def test_the_interface_has_typed_lists(fits, tmp_path):
    found = ExportSPM(results_dir=str(fits["blm"].folder)).run(cwd=tmp_path).outputs
    assert found.out_dir == str(tmp_path / "spm")
    assert found.spm_mat_file == str(tmp_path / "spm" / "SPM.mat")
    assert found.mask_file == str(tmp_path / "spm" / "mask.nii")
    assert found.residual_image.endswith("ResMS.nii")
    assert found.rpv_image.endswith("RPV.nii")
    assert [len(found.beta_images), len(found.con_images), len(found.dof_images)] == [3, 1, 2]
    assert found.spmF_images == [str(tmp_path / "spm" / "spmF_0002.nii")]
    assert (found.names, found.t_numbers, found.f_numbers) == ([AGE, ANY], [1], [2])
    assert len(found.fwhm) == 3
    assert len(found.resel_counts) == 4


# In the place of MATLAB with SPM: says what it was asked for, and copies maps.
MATLAB = """\
#!/bin/sh
script=pyscript_threshold.m
[ -f $script ] || { echo "NIPYPE path:/spm|name:SPM12|release:7771"; exit; }
stat=$(sed -n "s/^stat_filename = '\\(.*\\)';/\\1/p" $script)
grep -o "con_index = .;\\|^cluster_forming_thr = 0.*\\|^thresDesc.*" $script >> "$CALLS"
for end in _thr _pre_topo_thr; do cp "$stat" "$(basename "$stat" .nii)$end.nii"; done
echo "activation_forced = 0"
echo "pre_topo_n_clusters = 4"
echo "n_clusters = 3"
echo "cluster_forming_thr = 5.25"
"""


def test_a_workflow_hands_t_and_f_maps_to_the_threshold_of_spm(fits, tmp_path, monkeypatch):
    (tmp_path / "matlab").write_text(MATLAB)
    (tmp_path / "matlab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("MATLABCMD", "FORCE_SPMMCR"):
        monkeypatch.delenv(name, raising=False)
    workflow = init_spm_handover_wf(height_threshold=0.01, out_dir=tmp_path / "out")
    workflow.base_dir = str(tmp_path / "work")
    workflow.inputs.inputnode.results_dir = str(fits["blm"].folder)
    graph = workflow.run()
    [threshold] = [node for node in graph.nodes() if node.name == "threshold"]
    found = threshold.result.outputs
    assert found.n_clusters == [3, 3]
    assert found.cluster_forming_thr == [5.25, 5.25]
    for path, name in zip(found.thresholded_map, ("spmT_0001", "spmF_0002"), strict=True):
        assert_array_equal(read(path), read(tmp_path / "out" / f"{name}.nii"))
    calls = (tmp_path / "calls").read_text()
    assert calls.count("thresDesc  = 'FWE'") == 2
    assert "con_index = 1;\ncluster_forming_thr = 0.010000;" in calls
    assert "con_index = 2;\ncluster_forming_thr = 0.010000;" in calls


def test_the_workflow_without_a_threshold_needs_no_spm(fits, tmp_path):
    workflow = init_spm_handover_wf(contrasts=[AGE])
    workflow.base_dir = str(tmp_path)
    workflow.inputs.inputnode.results_dir = str(fits["blmm"].folder)
    graph = workflow.run()
    [export_node] = [node for node in graph.nodes() if node.name == "export"]
    assert export_node.result.outputs.spmF_images == []
    assert Path(export_node.result.outputs.spm_mat_file).parent.name == "spm"


def test_the_command_says_how_smooth_and_with_which_degrees_of_freedom(fits, tmp_path, capsys):
    folder = fits["blm"].folder
    assert main(["export", str(folder), "--to", "spm", str(tmp_path / "spm")]) == 0
    out = capsys.readouterr().out
    assert "T contrast 1: age\nF contrast 2: age or <group>\nSmoothness: FWHM " in out
    assert " mm; " in out
    assert main(["export", str(folder), "--to", "spm", "--task", "x"]) != 0
    assert "are of --to bids; SPM has no such names" in capsys.readouterr().err
