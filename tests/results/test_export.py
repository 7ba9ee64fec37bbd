"""Results in the names of FSL and of nilearn, and who reads them: Nipype's nodes and programs."""

import gzip
import json
import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces import fsl as of_fsl
from nipype.pipeline.engine import Workflow
from numpy.testing import assert_array_equal
from saved_models import change_fitted

import nipype_blm
from nipype_blm.cli.main import main
from nipype_blm.errors import InputError
from nipype_blm.interfaces import ExportBIDS, ExportFSL
from nipype_blm.io.vest import read_design, read_weights
from nipype_blm.model.study import Study
from nipype_blm.results.bids import export_bids
from nipype_blm.results.fsl import export_fsl
from nipype_blm.workflows import init_blm_wf, init_fsl_handover_wf

AGE, ANY = "age", "age or <group>"
KINDS = {"cope": "effect", "varcope": "variance", "tstat": "stat", "zstat": "z", "tdof_t": "dof"}
F_KINDS = {"fstat": "stat", "zfstat": "z", "fdof2_f": "dof"}
INTENTS = {"pe": "estimate", "cope": "estimate", "varcope": "estimate", "tstat": "t test"}
INTENTS |= {"zstat": "z score", "fstat": "f test", "zfstat": "z score"}


@pytest.fixture(params=["blm", "blmm"])
def results(request, runs):
    return nipype_blm.Results(runs[request.param])


@pytest.fixture
def folder(runs, tmp_path):
    return shutil.copytree(runs["blm"], tmp_path / "results")


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """Of the linear model, which nobody changes."""
    return export_fsl(nipype_blm.Results(runs["blm"]), tmp_path_factory.mktemp("fsl"))


def read(path):
    return np.asarray(nib.load(path).dataobj)


def list_files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def contents_of(folder):
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


def find_script(package, name):
    """Return the path of a program that a package of PyPI has, or skip."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install {package}")
    [script] = [file.locate() for file in files if file.parts[-3:] == ("..", "bin", name)]
    return str(script)


# -- FSL -----------------------------------------------------------------------------------


def test_each_map_of_flameo_has_the_values_of_ours(results, tmp_path):
    done = export_fsl(results, tmp_path / "fsl")
    stats = done.out_dir / "stats"
    for names, contrast, kinds in (
        (done.t_names, results.contrasts[AGE], KINDS),
        (done.f_names, results.contrasts[ANY], F_KINDS),
    ):
        assert names == [contrast.name]
        for name, kind in kinds.items():
            values = read(stats / f"{name}1.nii.gz")
            assert_array_equal(values, contrast.array(kind).astype(np.float32), err_msg=name)
    beta = results.array("beta")
    for i in range(3):
        assert_array_equal(read(stats / f"pe{i + 1}.nii.gz"), beta[..., i].astype(np.float32))
    assert_array_equal(read(stats / "mask.nii.gz"), results.mask)
    assert_array_equal(read(stats / "fdof1_f1.nii.gz"), 2.0 * results.mask)
    medians = [np.median(each.array("dof")[results.mask]) for each in results.contrasts.values()]
    assert (stats / "dof").read_text() == f"{int(min(medians))}\n"
    assert done.dof == int(min(medians))
    assert not (stats / "res4d.nii.gz").exists()


def test_degrees_of_freedom_differ_between_voxels(results, tmp_path):
    done = export_fsl(results, tmp_path / "fsl")
    [tdof] = done.outputs["tdof"]
    assert len(np.unique(read(tdof)[results.mask])) > 1


SPACE_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def turn(study):
    """Give the images the orientation of FSL's standard, oblique, with qform and sform apart."""
    for path in (study.folder / "images").glob("*.nii.gz"):
        image = nib.load(path)
        sform = np.array(
            [[-3.1, 0.2, 0, 90], [0.2, 3, 0.1, -126], [0, 0.1, 2.9, -72], [0, 0, 0, 1]]
        )
        turned = nib.Nifti1Image(np.asarray(image.dataobj), sform)
        turned.header.set_sform(sform, "mni")
        turned.header.set_qform(np.diag([-3.1, 3, 2.9, 1]), "scanner")
        turned.header["pixdim"][1:4] = [3.1, 3.0, 2.8999999]
        turned.header.set_xyzt_units("mm", "sec")
        nib.save(turned, path)


def test_headers_are_those_of_flameo_in_the_space_of_the_images(make_study, tmp_path):
    study = make_study()
    turn(study)
    results = nipype_blm.Results(study.command("blm", "turned"))
    source = nib.load(study.folder / "images" / "sub-00.nii.gz").header
    folder = export_fsl(results, tmp_path / "fsl").out_dir
    paths = [*folder.glob("stats/*.nii.gz"), folder / "mask.nii.gz"]
    for path in paths:
        header = nib.Nifti1Header(gzip.decompress(path.read_bytes())[:348], check=False)
        kind = path.name.partition(".")[0].rstrip("0123456789")
        assert header.get_intent()[0] == INTENTS.get(kind, "none"), path.name
        assert header.get_intent()[1] in ((), (0.0,), (0.0, 0.0))
        assert header.get_data_dtype() == (np.uint8 if kind == "mask" else np.float32)
        assert (header["scl_slope"], header["scl_inter"]) == (1, 0)
        assert header.get_data_shape() == source.get_data_shape()
        # Bit for bit: a voxel size that is computed anew may make a grid of another shape.
        for field in SPACE_FIELDS:
            assert header[field].tobytes() == source[field].tobytes(), (path.name, field)
    assert len(paths) == 14


def test_designs_have_all_rows_of_f_contrasts_behind_the_t_contrasts(exported, runs):
    results, folder = nipype_blm.Results(runs["blm"]), exported.out_dir
    weights = read_weights((folder / "design.con").read_text(), "con")
    # The first row of the F contrast is the T contrast already.
    assert_array_equal(weights.values, [[0, 1, 0], [0, 0, 1]])
    assert weights.names == {0: AGE, 1: f"{ANY}, row 2"}
    assert_array_equal(read_weights((folder / "design.fts").read_text(), "fts").values, [[1, 1]])
    assert_array_equal(read_design((folder / "design.mat").read_text(), "mat").values, results.X)
    assert_array_equal(read_design((folder / "design.grp").read_text(), "grp").values, 1)
    lines = (folder / "images.tsv").read_text().splitlines()
    assert lines[1:] == [f"{each.image}\t{each.volume}" for each in results.images]
    lines = (folder / "names.tsv").read_text().splitlines()
    columns = ["pe\t1\tone", "pe\t2\tage", "pe\t3\tgroup"]
    assert lines == ["kind\tnumber\tname", *columns, f"T\t1\t{AGE}", f"F\t1\t{ANY}"]


def test_the_files_are_named_in_the_table_and_no_sidecar_is_among_them(exported):
    files = list_files(exported.out_dir)
    assert not any(name.endswith(".json") and not name.startswith(".") for name in files)
    assert {"mask.nii.gz", "design.mat", "stats/dof", "stats/zfstat1.nii.gz"} <= files


def test_only_contrasts_that_are_asked_for_are_written(results, tmp_path):
    done = export_fsl(results, tmp_path / "fsl", [ANY])
    files = list_files(done.out_dir)
    assert "stats/fstat1.nii.gz" in files
    assert "stats/cope1.nii.gz" not in files
    assert done.t_names == []
    weights = read_weights((done.out_dir / "design.con").read_text(), "con")
    assert len(weights.values) == 2
    # Those of the earlier export leave.
    done = export_fsl(results, tmp_path / "fsl", [AGE])
    files = list_files(done.out_dir)
    assert "stats/cope1.nii.gz" in files
    assert "stats/fstat1.nii.gz" not in files
    assert "design.fts" not in files
    with pytest.raises(InputError, match=r"'aged' is no contrast of .*; it has age, age or <gr"):
        export_fsl(results, tmp_path / "fsl", ["aged"])


def test_fsl_gives_a_design_back_that_fits_the_same_model(make_study, tmp_path):
    """What goes out comes in: design.mat, design.con and design.fts in a configuration."""
    study = make_study()
    one = nipype_blm.Results(study.command("blm", "one"))
    folder = export_fsl(one, tmp_path / "fsl").out_dir
    (study.folder / "two.yml").write_text(
        f"Y_files: images.txt\nX: {folder}/design.mat\noutdir: two\n"
        f"contrasts: {folder}/design.con\nf_contrasts: {folder}/design.fts\n"
    )
    assert main(["fit", str(study.folder / "two.yml"), str(study.folder / "two"), "--quiet"]) == 0
    two = nipype_blm.Results(study.folder / "two")
    for name in ("beta", "resms", "cov", "n"):
        assert_array_equal(two.array(name), one.array(name))
    for kind in ("stat", "z", "p"):
        assert_array_equal(two.contrasts["F1"].array(kind), one.contrasts[ANY].array(kind))


def write_tiny(study):
    """Give the images units in which their squares do not fit into single precision."""
    for path in (study.folder / "images").glob("*.nii.gz"):
        image = nib.load(path)
        values = image.get_fdata() * 1e-30
        nib.save(nib.Nifti1Image(values, image.affine), path)


def test_values_that_single_precision_cannot_hold_are_refused_and_an_export_stays(
    make_study, tmp_path
):
    study = make_study()
    folder = tmp_path / "fsl"
    export_fsl(nipype_blm.Results(study.command("blm", "one")), folder)
    before = contents_of(folder)
    write_tiny(study)
    tiny = nipype_blm.Results(study.command("blm", "tiny"))
    with pytest.raises(InputError, match=r"stat-variance.* does not fit into single precision"):
        export_fsl(tiny, folder, overwrite=True)
    assert contents_of(folder) == before
    done = export_bids(tiny, tmp_path / "bids")
    [variance, _] = done.outputs["variance_maps"]
    assert nib.load(variance).get_data_dtype() == np.float64
    assert_array_equal(read(variance), tiny.contrasts[AGE].array("variance"))


def test_a_contrast_that_is_not_estimable_everywhere_has_a_mask_of_its_own(make_study, tmp_path):
    study = make_study()
    for i, path in enumerate(sorted((study.folder / "images").glob("*.nii.gz"))):
        image = nib.load(path)
        values = image.get_fdata()
        values[2, 2, 2] = 0 if i % 2 else 1 + i  # one group alone
        nib.save(nib.Nifti1Image(values.astype("f4"), image.affine), path)
    results = nipype_blm.Results(study.command("blm", "gaps"))
    done = export_fsl(results, tmp_path / "fsl")
    assert [path.name for path in done.t_masks] == ["mask.nii.gz"]
    [mask] = done.f_masks
    assert mask.name == "mask_f1.nii.gz"
    assert_array_equal(read(mask), results.contrasts[ANY].mask)
    assert read(done.t_masks[0])[2, 2, 2] == 1
    assert read(mask)[2, 2, 2] == 0
    [mask] = export_bids(results, tmp_path / "bids").outputs["contrast_masks"]
    assert mask.name == "contrast-ageOrLtGroupGt_desc-estimable_mask.nii.gz"
    assert_array_equal(read(mask), results.contrasts[ANY].mask)


# -- Whose folder --------------------------------------------------------------------------


@pytest.mark.parametrize("export", [export_fsl, export_bids])
def test_a_folder_of_somebody_else_is_refused(export, results, tmp_path):
    (tmp_path / "design.fsf").write_text("mine")
    with pytest.raises(InputError, match=r"has files that no export has written, such as design"):
        export(results, tmp_path)
    assert list_files(tmp_path) == {"design.fsf"}
    with pytest.raises(InputError, match="is a file; give a folder"):
        export(results, tmp_path / "design.fsf")
    with pytest.raises(InputError, match="has files that no export has written"):
        export(results, results.folder)


@pytest.mark.parametrize("export", [export_fsl, export_bids])
def test_files_that_were_put_beside_an_export_stay(export, results, tmp_path):
    folder = export(results, tmp_path / "out").out_dir
    (folder / "notes.txt").write_text("mine")
    export(results, folder, [AGE])
    assert (folder / "notes.txt").read_text() == "mine"
    if export is export_fsl:  # one with a name that another export needs
        (folder / "design.fts").write_text("mine")
        with pytest.raises(InputError, match=r"such as design\.fts"):
            export(results, folder)
        assert (folder / "design.fts").read_text() == "mine"


def test_the_same_export_again_writes_nothing(results, tmp_path):
    folder = export_fsl(results, tmp_path / "out").out_dir
    before = {name: (folder / name).stat().st_mtime_ns for name in list_files(folder)}
    export_fsl(results, folder)
    assert before == {name: (folder / name).stat().st_mtime_ns for name in list_files(folder)}


def test_the_export_of_other_results_is_replaced_only_on_demand(runs, tmp_path):
    one, other = (nipype_blm.Results(folder) for folder in runs.values())
    export_fsl(one, tmp_path)
    before = contents_of(tmp_path)
    with pytest.raises(InputError, match="has the results of another model"):
        export_fsl(other, tmp_path)
    assert contents_of(tmp_path) == before
    export_fsl(other, tmp_path, overwrite=True)
    assert_array_equal(read(tmp_path / "stats" / "zstat1.nii.gz"), other.contrasts[AGE].array("z"))


# -- BIDS ----------------------------------------------------------------------------------


def test_each_map_of_nilearn_has_the_values_and_the_type_of_ours(results, tmp_path):
    group = export_bids(results, tmp_path / "bids").out_dir / "group"
    for name, contrast in results.contrasts.items():
        label = {AGE: "age", ANY: "ageOrLtGroupGt"}[name]
        for kind in ("effect", "variance", "stat", "z", "p", "dof"):
            stat = {"stat": "F" if contrast.is_f else "t"}.get(kind, kind)
            path = group / f"contrast-{label}_stat-{stat}_statmap.nii.gz"
            assert_array_equal(read(path), contrast.array(kind))
            assert read(path).dtype == contrast.dtype(kind)
    r2 = group / "contrast-ageOrLtGroupGt_stat-rsquared_statmap.nii.gz"
    assert_array_equal(read(r2), results.array("conR2", ANY))
    assert_array_equal(read(group / "mask.nii.gz"), results.mask)
    design = (group / "design.tsv").read_text().splitlines()
    assert design[0] == "one\tage\tgroup"
    assert_array_equal(np.array([line.split("\t") for line in design[1:]], float), results.X)


def test_sidecars_say_what_the_maps_are(results, tmp_path):
    folder = export_bids(results, tmp_path / "bids", sources=["doi:10.1/x"]).out_dir
    said = json.loads((folder / "group" / "contrast-age_stat-effect_statmap.json").read_text())
    assert said["Contrast"] == {"Name": AGE, "Test": "T", "Weights": [0.0, 1.0, 0.0]}
    assert said["Units"] == "y per unit of the contrast"
    assert said["Model"]["NumberOfImages"] == 20
    assert set(said["DegreesOfFreedom"]) >= {"Minimum", "Median", "Maximum"}
    assert ("RandomFactors" in said["Model"]) == bool(results.factors)
    data = json.loads((folder / "dataset_description.json").read_text())
    assert data["DatasetType"] == "derivative"
    assert data["GeneratedBy"][0]["Name"] == "nipype_blm"
    assert data["SourceDatasets"] == [{"URL": "doi:10.1/x"}]


def test_the_sidecars_of_a_formula_have_it(folder, tmp_path):
    change_fitted(folder, study=Study("~ age", {"age": [1.0] * 20}))
    group = export_bids(nipype_blm.Results(folder), tmp_path / "bids").out_dir / "group"
    said = json.loads((group / "contrast-age_stat-z_statmap.json").read_text())
    assert said["Model"]["Formula"] == "~ age"


def test_intents_of_statistics_have_the_median_degrees_of_freedom(results, tmp_path):
    done = export_bids(results, tmp_path / "bids")
    for path, contrast in zip(done.outputs["stat_maps"], results.contrasts.values(), strict=True):
        source = contrast.image("stat").header
        assert nib.load(path).header.get_intent() == source.get_intent()


def test_entities_are_those_that_all_images_share(folder, tmp_path):
    images = [
        image._replace(image=f"/s/sub-{i:02}_task-nback_space-{'A' if i else 'B'}_cope.nii.gz")
        for i, image in enumerate(nipype_blm.Results(folder).images)
    ]
    change_fitted(folder, images=images)
    results = nipype_blm.Results(folder)
    group = export_bids(results, tmp_path / "one").out_dir / "group"
    assert (group / "task-nback_contrast-age_stat-z_statmap.nii.gz").exists()
    assert (group / "task-nback_mask.nii.gz").exists()
    assert (group / "task-nback_design.tsv").exists()
    given = {"task": "", "space": "MNI152NLin6Asym"}
    group = export_bids(results, tmp_path / "two", entities=given).out_dir / "group"
    assert (group / "space-MNI152NLin6Asym_contrast-age_stat-z_statmap.nii.gz").exists()
    with pytest.raises(InputError, match="'n-back' is no label of task"):
        export_bids(results, tmp_path / "three", entities={"task": "n-back"})
    with pytest.raises(InputError, match="'run' is no entity of an export; give task, space"):
        export_bids(results, tmp_path / "three", entities={"run": "1"})
    # Under another name, nothing is left of the earlier one.
    export_bids(results, tmp_path / "two", entities={"task": "x"})
    assert not any("MNI152" in name for name in list_files(tmp_path / "two"))


def test_the_validator_of_bids_finds_no_error(runs, tmp_path):
    script = find_script("bids-validator-deno", "bids-validator-deno")
    folder = export_bids(nipype_blm.Results(runs["blmm"]), tmp_path / "bids").out_dir
    environment = os.environ | {"NO_COLOR": "1", "DENO_DIR": str(tmp_path / "deno")}
    command = [script, str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        issues = json.loads(done.stdout)["issues"]["issues"]
    except ValueError:
        pytest.skip(f"the validator does not run here: {done.stderr[-200:]}")
    assert [each for each in issues if each["severity"] == "error"] == []
    # What it says of every derivative of a group alone.
    known = {"SUBJECT_FOLDERS", "TOO_FEW_AUTHORS"}
    assert {each["code"] for each in issues} <= known
    (folder / ".bidsignore").unlink()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "NOT_INCLUDED" in done.stdout


def test_nilearn_thresholds_an_exported_map(runs, tmp_path):
    from nilearn.glm import threshold_stats_img

    results = nipype_blm.Results(runs["blmm"])
    [z, _] = export_bids(results, tmp_path / "bids").outputs["zscore_maps"]
    mask = tmp_path / "bids" / "group" / "mask.nii.gz"
    found, threshold = threshold_stats_img(
        str(z), mask_img=str(mask), alpha=0.05, height_control="fdr", two_sided=True
    )
    values = results.contrasts[AGE].array("z")
    kept = np.where(np.abs(values) >= np.float32(threshold), values, 0)
    assert np.count_nonzero(kept)
    np.testing.assert_allclose(found.get_fdata(), kept, rtol=1e-6)


# -- Programs and nodes that take the files -------------------------------------------------


def test_niimath_which_stands_for_fslmaths_reads_the_maps(exported, tmp_path):
    script = find_script("niimath", "niimath")
    z, mask = exported.outputs["zstats"][0], exported.t_masks[0]
    out = tmp_path / "out.nii.gz"
    environment = os.environ | {"FSLOUTPUTTYPE": "NIFTI_GZ"}

    def run(*arguments):
        command = [script, *map(str, arguments), str(out)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return nib.load(out)

    values = read(z)
    found = run(z, "-thr", 2.3)
    assert_array_equal(found.get_fdata(), np.where(values >= np.float32(2.3), values, 0))
    assert_array_equal(found.affine, nib.load(z).affine)
    assert_array_equal(run(mask, "-add", 1, "-mas", mask).get_fdata(), 2.0 * read(mask))
    merged = nib.concat_images([nib.load(path) for path in exported.outputs["pes"]])
    nib.save(merged, tmp_path / "merged.nii.gz")
    mean = run(tmp_path / "merged.nii.gz", "-Tmean").get_fdata()
    np.testing.assert_allclose(mean, merged.get_fdata().mean(axis=3), rtol=1e-6)
    # A mask for images with a repetition time, which a mask has not.
    merged.header.set_zooms((*merged.header.get_zooms()[:3], 2.0))
    nib.save(merged, tmp_path / "series.nii.gz")
    masked = run(tmp_path / "series.nii.gz", "-mas", mask).get_fdata()
    assert_array_equal(masked, merged.get_fdata() * read(mask)[..., None])


def merge(paths, out):
    """Write what fslmerge -t makes of files."""
    nib.save(nib.concat_images([nib.load(path) for path in paths]), out)
    return str(out)


def test_nodes_of_fsl_take_the_files(exported, tmp_path):
    z, cope = (str(exported.outputs[name][0]) for name in ("zstats", "copes"))
    mask, files = str(exported.t_masks[0]), exported.files
    smooth = of_fsl.SmoothEstimate(zstat_file=z, mask_file=mask)
    assert smooth.cmdline == f"smoothest --mask={mask} --zstat={z}"
    cluster = of_fsl.Cluster(
        in_file=z, cope_file=cope, threshold=2.3, pthreshold=0.05, dlh=0.1, volume=200
    )
    assert cluster.cmdline == (
        f"cluster --cope={cope} --dlh=0.1000000000 --in={z} --pthresh=0.0500000000 "
        "--thresh=2.3000000000 --volume=200"
    )
    threshold = of_fsl.Threshold(in_file=z, thresh=2.3, out_file="t.nii.gz")
    assert threshold.cmdline.startswith(f"fslmaths {z} -thr 2.3000000000")
    four = merge(exported.outputs["pes"], tmp_path / "all.nii.gz")
    mat, con, fts, grp = (str(files[f"design.{end}"]) for end in ("mat", "con", "fts", "grp"))
    randomise = of_fsl.Randomise(in_file=four, mask=mask, design_mat=mat, tcon=con, fcon=fts)
    assert f'-i {four} -o "randomise" -d {mat} -t {con}' in randomise.cmdline
    assert f"-f {fts}" in randomise.cmdline
    flameo = of_fsl.FLAMEO(
        cope_file=four,
        var_cope_file=merge(exported.outputs["var_copes"] * 3, tmp_path / "var.nii.gz"),
        dof_var_cope_file=merge(exported.outputs["tdof"] * 3, tmp_path / "tdof.nii.gz"),
        mask_file=mask,
        design_file=mat,
        t_con_file=con,
        f_con_file=fts,
        cov_split_file=grp,
        run_mode="flame1",
    )
    for part in (f"--copefile={four}", f"--covsplitfile={grp}", f"--fcontrastsfile={fts}"):
        assert part in flameo.cmdline
    dof = of_fsl.SmoothEstimate(dof=exported.dof, mask_file=mask)
    assert dof.cmdline == f"smoothest --dof={exported.dof} --mask={mask}"


def test_the_interfaces_have_typed_lists(runs, tmp_path):
    found = ExportFSL(results_dir=str(runs["blm"])).run(cwd=tmp_path).outputs
    assert found.out_dir == str(tmp_path / "fsl")
    assert found.stats_dir == str(tmp_path / "fsl" / "stats")
    assert found.zstats == [str(tmp_path / "fsl" / "stats" / "zstat1.nii.gz")]
    assert found.zfstats == [str(tmp_path / "fsl" / "stats" / "zfstat1.nii.gz")]
    assert len(found.pes) == 3
    assert found.t_masks == found.f_masks == [found.mask_file]
    assert (found.t_names, found.f_names) == ([AGE], [ANY])
    assert isinstance(found.dof, int)
    only = ExportFSL(results_dir=str(runs["blm"]), contrasts=[AGE], out_dir="t").run(cwd=tmp_path)
    assert only.outputs.zfstats == []
    found = ExportBIDS(results_dir=str(runs["blmm"]), task="rest").run(cwd=tmp_path).outputs
    assert [Path(path).name for path in found.stat_maps] == [
        "task-rest_contrast-age_stat-t_statmap.nii.gz",
        "task-rest_contrast-ageOrLtGroupGt_stat-F_statmap.nii.gz",
    ]
    assert found.contrast_masks == []
    assert found.design_file.endswith("bids/group/task-rest_design.tsv")


SMOOTHEST = "#!/bin/sh\necho DLH 0.25\necho VOLUME 210\necho RESELS 12.5\n"
CLUSTER = """\
#!/bin/sh
echo "$@" >> "$CALLS"
for word in "$@"; do
  case "$word" in
    --in=*) in="${word#--in=}" ;;
    --othresh=*|--oindex=*|--olmax=*|--opvals=*) cp "$in" "${word#--*=}" ;;
  esac
done
"""


def test_a_workflow_hands_z_maps_to_smoothest_and_to_cluster(runs, tmp_path, monkeypatch):
    """In the place of the programs of FSL are two that say what they were given."""
    for name, text in (("smoothest", SMOOTHEST), ("cluster", CLUSTER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FSLOUTPUTTYPE", "NIFTI_GZ")
    workflow = init_fsl_handover_wf(z_threshold=3.1, p_threshold=0.01, out_dir=tmp_path / "out")
    workflow.base_dir = str(tmp_path / "work")
    workflow.inputs.inputnode.results_dir = str(runs["blm"])
    graph = workflow.run()
    [cluster] = [node for node in graph.nodes() if node.name == "cluster"]
    found = cluster.result.outputs
    z = tmp_path / "out" / "stats" / "zstat1.nii.gz"
    [thresholded] = found.threshold_file
    assert_array_equal(read(thresholded), read(z))
    for part in (f"--in={z}", "--dlh=0.25", "--volume=210", "--thresh=3.1", "--pthresh=0.01"):
        assert part in (tmp_path / "calls").read_text()


def test_the_workflow_without_clusters_needs_no_fsl_and_names_every_output(runs, tmp_path):
    workflow = init_fsl_handover_wf(contrasts=[AGE])
    workflow.base_dir = str(tmp_path)
    workflow.inputs.inputnode.results_dir = str(runs["blmm"])
    assert {"copes", "var_copes", "zstats", "tdof", "t_masks", "dof", "design_mat"} <= set(
        workflow.outputs.outputnode.copyable_trait_names()
    )
    graph = workflow.run()
    [export] = [node for node in graph.nodes() if node.name == "export"]
    assert len(export.result.outputs.tdof) == 1
    assert export.result.outputs.zfstats == []


def test_it_follows_a_workflow_that_fits_a_model():
    workflow = Workflow("all_wf")
    fit, export = init_blm_wf(), init_fsl_handover_wf()
    workflow.connect(fit, "outputnode.out_dir", export, "inputnode.results_dir")
    assert workflow.list_node_names()[-1].startswith("fsl_handover_wf.")


# -- The command ---------------------------------------------------------------------------


def test_the_command_writes_below_the_results_or_where_it_is_told(folder, tmp_path, capsys):
    assert main(["export", str(folder), "--to", "fsl"]) == 0
    out = capsys.readouterr().out
    assert "T contrast 1: age\nF contrast 1: age or <group>\n" in out
    assert (folder / "fsl" / "stats" / "cope1.nii.gz").exists()
    there = tmp_path / "there"
    options = ["--task", "rest", "--contrast", AGE, "--source", "doi:10.1/x", "--quiet"]
    assert main(["export", str(folder), "--to", "bids", str(there), *options]) == 0
    assert (there / "group" / "task-rest_contrast-age_stat-z_statmap.nii.gz").exists()
    assert capsys.readouterr().out == ""
    # Results are as they were, and are still read.
    assert list(nipype_blm.Results(folder).contrasts) == [AGE, ANY]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--to", "afni"], "--to afni was given; expected fsl, spm or bids"),
        (["--to", "fsl", "a", "b"], "expected fsl, spm or bids, and one folder at most"),
        (["--to", "fsl", "--task", "x"], "--task, --space and --source are of --to bids"),
        (["--to", "fsl", "--contrast", "x"], "'x' is no contrast of"),
    ],
)
def test_the_command_says_what_it_cannot_do(folder, capsys, arguments, fault):
    before = list_files(folder)
    assert main(["export", str(folder), *arguments]) == 2
    assert fault in capsys.readouterr().err
    assert list_files(folder) == before
