"""Diagnostics by their own command, and of a fit that asks for them: the same files."""

import shutil
from pathlib import Path

import pytest
import yaml
from snippets import write_study

from nipype_blm.cli.main import main

CONFIGURATION = """\
Y_files: images.txt
X: design.csv
outdir: results
contrasts:
  - c1: {name: age, vector: [0, 1, 0]}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_study(tmp_path)
    (folder / "study.yml").write_text(CONFIGURATION)
    monkeypatch.chdir(folder)
    return folder


def read_files(results: Path) -> dict[str, bytes]:
    folder = results / "diagnostics"
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"diagnostics.json", ".nipype_blm.json"}  # name OUT
    }
    assert "images.tsv" in found
    return found


def test_a_fit_that_asks_for_diagnostics_makes_those_of_the_command(study, capsys):
    assert main(["fit", "study.yml", "results", "--quiet"]) == 0
    command = ["diagnose", "results", "--save", "residuals", "--n-procs", "1", "--max-mem-gb", "1"]
    assert main([*command, "--quiet"]) == 0
    asked = "diagnostics: {save: [residuals]}\n"
    (study / "asking.yml").write_text(CONFIGURATION + asked)
    capsys.readouterr()
    assert main(["fit", "asking.yml", "asked"]) == 0
    assert "The maps and tables are in" in capsys.readouterr().out
    assert read_files(study / "asked") == read_files(study / "results")
    assert any(name.startswith("residuals/") for name in read_files(study / "asked"))
    assert not list((study / "asked").rglob("tiles_*"))


@pytest.mark.parametrize("work", ["", "work_dir: elsewhere\n"])
def test_a_fit_that_asks_for_diagnostics_reads_each_image_once(study, reading, work):
    (study / "asking.yml").write_text(f"{CONFIGURATION}{work}diagnostics: true\n")
    assert main(["fit", "asking.yml", "results", "--quiet", "--plugin", "Linear"]) == 0
    assert sorted(name for name in reading if name.startswith("sub-")) == [
        f"sub-{i:02d}.nii.gz" for i in range(20)
    ]
    assert "images.tsv" in read_files(study / "results")


def test_what_is_asked_for_after_a_fit_is_in_its_record(study):
    (study / "asking.yml").write_text(
        f"{CONFIGURATION}diagnostics: true\ninference: {{n: 20, summaries: voxel}}\n"
    )
    assert main(["fit", "asking.yml", "results", "--quiet"]) == 0
    record = yaml.safe_load((study / "results" / "inputs.yml").read_text())
    assert record["diagnostics"] is True
    assert record["inference"] == {"n": 20, "summaries": ["voxel"]}
    shutil.rmtree(study / "results" / "diagnostics")
    assert main(["fit", "results/inputs.yml", "again", "--quiet"]) == 0
    assert "images.tsv" in read_files(study / "again")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("{save: [blups]}", "a linear model has no random effects"),
        ("{save: [residual]}", "'residual' cannot be saved; expected some of residuals"),
        ("{keep: all}", "expected true, or {save: [residuals]}"),
        ("yes please", "expected true, or {save: [residuals]}"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_fitted(study, capsys, asked, said):
    (study / "asking.yml").write_text(f"{CONFIGURATION}diagnostics: {asked}\n")
    assert main(["fit", "asking.yml", "results", "--quiet"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert not (study / "results").exists()


def test_a_folder_of_somebody_else_is_refused_before_anything_is_fitted(study, capsys):
    (study / "results" / "diagnostics").mkdir(parents=True)
    (study / "results" / "diagnostics" / "mine.txt").write_text("mine")
    (study / "asking.yml").write_text(f"{CONFIGURATION}diagnostics: true\n")
    assert main(["fit", "asking.yml", "results", "--quiet"]) == 2
    assert "has files that no export has written, such as mine.txt" in capsys.readouterr().err
    assert not (study / "results" / "model").exists()


@pytest.mark.parametrize("words", [["--n-procs", "0"], ["--max-mem-gb", "nan"]])
def test_resources_that_cannot_be_are_refused(study, capsys, words):
    assert main(["diagnose", "results", *words]) == 2
    assert words[0] in capsys.readouterr().err
