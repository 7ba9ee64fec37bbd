"""Corrected inference by the command, in a configuration, in nodes: the same files."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.pipeline.engine import Workflow
from snippets import CONFIGURATION, write_study

from nipype_blm.cli.main import main
from nipype_blm.interfaces import ResampleMaps
from nipype_blm.report.inference import summarise_inference
from nipype_blm.results.inferred import Inferred
from nipype_blm.workflows import init_blm_wf, init_inference_wf

OPTIONS = {"n": 80, "summaries": ["voxel", "tfce"], "seed": 3}
WORDS = ["--n", "80", "--summaries", "voxel", "tfce", "--seed", "3"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was fitted, and whose contrasts were corrected by the command."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    (folder / "study.yml").write_text(CONFIGURATION)
    assert main(["fit", str(folder / "study.yml"), str(folder / "results"), "--quiet"]) == 0
    assert main(["infer", str(folder / "results"), *WORDS, "--quiet"]) == 0
    return folder


def read_files(results: Path) -> dict[str, bytes]:
    found = {
        path.name: path.read_bytes() for path in sorted((results / "inference").glob("contrast-*"))
    }
    assert len(found) > 30
    return found


def copy_results(study: Path, tmp_path: Path) -> Path:
    """Return results without inference, that belong to a test alone."""
    copied = tmp_path / "results"
    shutil.copytree(study / "results", copied, ignore=shutil.ignore_patterns("inference", "work"))
    return copied


def test_a_configuration_asks_for_the_same_and_leaves_no_values_of_images(
    study, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(study)
    asked = "inference: {n: 80, summaries: [voxel, tfce], seed: 3}\n"
    (study / "asking.yml").write_text(CONFIGURATION + asked)
    assert main(["fit", "asking.yml", str(tmp_path / "out")]) == 0
    assert read_files(tmp_path / "out") == read_files(study / "results")
    assert "80 of the" in capsys.readouterr().out
    assert not list(tmp_path.rglob("tiles_*"))
    again = ["fit", "asking.yml", str(tmp_path / "out"), "--quiet"]
    assert main(again) == 0  # nothing is fitted, and what was resampled stays
    (study / "other.yml").write_text(f"{CONFIGURATION}Missingness: {{MinN: 12}}\n")
    capsys.readouterr()
    assert main(["fit", "other.yml", str(tmp_path / "out"), "--quiet"]) == 0
    assert "inference is that of an earlier fit" in capsys.readouterr().err


def test_a_height_below_that_of_random_fields_is_reported(study, tmp_path, capsys):
    results = copy_results(study, tmp_path)
    words = ["--n", "20", "--contrast", "age", "--summaries", "cluster", "--cluster-z", "1.5"]
    assert main(["infer", str(results), *words]) == 0
    assert "least corrected p: cluster" in capsys.readouterr().out
    [row, *_] = Inferred(results).contrasts["age"].clusters
    assert row["p_clusterfield"] == "n/a"


def test_a_node_and_a_workflow_make_the_files_of_the_command(study, tmp_path):
    of_node = copy_results(study, tmp_path)
    node = ResampleMaps(results_dir=str(of_node), **OPTIONS)
    found = node.run(cwd=tmp_path).outputs
    assert read_files(of_node) == read_files(study / "results")
    assert [Path(path).name for path in found.cluster_tables] == [
        "contrast-age_clusters.tsv",
        "contrast-both_clusters.tsv",
    ]
    fit = init_blm_wf(name="fit", out_dir=tmp_path / "of_workflow")
    fit.inputs.inputnode.trait_set(
        in_files=[str(study / "images.txt")],
        design_file=str(study / "design.csv"),
        contrasts=[
            {"name": "age", "vector": [0, 1, 0]},
            {"name": "both", "vector": [[0, 1, 0], [0, 0, 1]]},
        ],
    )
    infer = init_inference_wf(name="infer", **OPTIONS)
    group = Workflow(name="group", base_dir=str(tmp_path / "work_of_group"))
    group.connect(fit, "outputnode.out_dir", infer, "inputnode.results_dir")
    group.run()
    assert read_files(tmp_path / "of_workflow") == read_files(study / "results")


def test_nodes_of_the_command_and_more_resamplings_go_on_from_those_that_are_there(study, tmp_path):
    results = copy_results(study, tmp_path)
    few = ["infer", str(results), *WORDS, "--quiet", "--plugin", "MultiProc"]
    few[few.index("80")] = "30"
    assert main(few) == 0
    of_few = read_files(results)
    assert main(["infer", str(results), *WORDS, "--quiet"]) == 0
    assert read_files(results) == read_files(study / "results")
    assert main(few) == 0  # of those that are there
    assert read_files(results) == of_few
    atlas = ["--atlas", str(tmp_path / "atlas.nii"), "--atlas-names", str(tmp_path / "atlas.tsv")]
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.diag([8.0, 8, 8, 1])), atlas[1])
    for label, words in (("North", ["--plugin", "Linear"]), ("South", [])):  # nothing to resample
        (tmp_path / "atlas.tsv").write_text(f"index\tname\n1\t{label}\n")
        assert main(["infer", str(results), *WORDS, "--quiet", *atlas, *words]) == 0
        rows = Inferred(results).contrasts["age"].clusters
        assert {row["label"] for row in rows} == {label}


def test_a_check_says_how_small_p_can_become_and_writes_nothing(study, tmp_path, capsys):
    results = copy_results(study, tmp_path)
    before = sorted(results.rglob("*"))
    assert main(["infer", str(results), "--n", "250", "--check"]) == 0
    assert "0.004" in capsys.readouterr().out
    assert sorted(results.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--summaries", "vox"], "--summaries: 'vox' is no summary; choose one of voxel, cluster"),
        (["--n", "many"], "--n: 'many' was given; expected a whole number"),
        (["--contrast", "agee"], "'agee' is no contrast"),
        (["--neighbours", "7"], "expected 6, 18, 26"),
        (["--cluster-p", "3.1"], "'3.1' is no p that forms clusters, such as 0.001; a z has"),
        (["--cluster-z", "0.001"], "'0.001' is no height of clusters, such as 3.1; a p has"),
        (["--blocks", "site"], "is no file, and no column"),
        (["--atlas", "images/sub-00.nii.gz"], "is no image of labels"),
        (["--max-mem-gb", "nan"], "expected a number above 0"),
        (["--n-procs", "0"], "expected 1 or more"),
        (["--max-mem-gb", "1e-5"], "the least that works is"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_before_anything_starts(
    study, tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.chdir(study)
    results = copy_results(study, tmp_path)
    assert main(["infer", str(results), *words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert message in line
    assert not (results / "inference").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("{contrasts: nobody}", "'nobody' is no contrast that the inference could correct"),
        ("{blocks: site}", "is no file, and no column"),
        ("{neighbours: 7}", "expected 6, 18, 26"),
        ("{exchange: whole}", "is of no use"),
        ("{atlas: ATLAS}", "has no label at any voxel of the images"),
    ],
)
def test_what_the_inference_would_refuse_is_said_before_the_fit(
    study, tmp_path, monkeypatch, capsys, asked, message
):
    monkeypatch.chdir(study)
    far = np.diag([8.0, 8, 8, 1])
    far[:3, 3] = 1000
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), far), tmp_path / "far.nii")
    asked = asked.replace("ATLAS", str(tmp_path / "far.nii"))
    (study / "wrong.yml").write_text(f"{CONFIGURATION}inference: {asked}\n")
    for words in (["--check"], []):
        assert main(["fit", "wrong.yml", str(tmp_path / "out"), "--quiet", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_summary_shows_corrected_p_by_resampling_and_no_other(study):
    inferred = Inferred(study / "results")
    lines = [line for line in summarise_inference(inferred).splitlines() if "cluster 1" in line]
    assert len(lines) == len(inferred.contrasts)
    for line, contrast in zip(lines, inferred.contrasts.values(), strict=True):
        row = contrast.clusters[0]
        assert float(row["p_field"]) < inferred.description["LeastP"]
        p = (f"{float(row[f'p_{name}']):.3g}" for name in ("voxel", "tfce"))
        assert line.endswith(": voxel {}, tfce {}".format(*p))


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert main(["infer", str(tmp_path)]) == 2
    assert "expected the outdir of a run" in capsys.readouterr().err


def test_a_column_that_the_formula_does_not_use_can_have_the_blocks(study, tmp_path):
    names = (study / "images.txt").read_text().split()
    rows = [f"{study / name}\t{i % 7 - 3}\t{i // 2}" for i, name in enumerate(names)]
    (tmp_path / "table.tsv").write_text("\n".join(["image\tage\tfamily", *rows]) + "\n")
    out = tmp_path / "out"
    words = ["fit", str(tmp_path / "table.tsv"), str(out), "--formula", "~ age", "--quiet"]
    assert main([*words, "--inference", "n=20", "summaries=voxel", "blocks=family"]) == 0
    assert Inferred(out).description["Groups"] == 10
    assert main(["infer", str(out), "--n", "30", "--blocks", "family", "--quiet"]) == 0


@pytest.mark.parametrize(
    "words",
    [["infer", "--n", "20"], ["infer", "--check"], ["diagnose"], ["export", "--to", "spm"]],
    ids=" ".join,
)
def test_results_on_a_read_only_disk_are_refused_before_any_image_is_read(
    study, tmp_path, as_ordinary_user, words
):
    results = copy_results(study, tmp_path)
    (results / "work").mkdir()
    command = [*as_ordinary_user, sys.executable, "-P", "-m", "nipype_blm.cli.main"]
    results.chmod(0o555)
    try:
        done = subprocess.run(
            [*command, words[0], str(results), *words[1:]], capture_output=True, text=True
        )
    finally:
        results.chmod(0o755)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "reading images" not in done.stdout + done.stderr
