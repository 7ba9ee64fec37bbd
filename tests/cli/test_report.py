"""The command `report`, and what every command ends with."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import CONFIGURATION, write_study

from nipype_blm.cli.blm import main as blm
from nipype_blm.cli.main import main
from nipype_blm.cli.report import Wanted, conclude
from nipype_blm.interfaces import Report
from nipype_blm.report.page import is_current
from nipype_blm.report.reported import Reported
from nipype_blm.results.findings import find_all, find_inference
from nipype_blm.results.results import Results
from nipype_blm.results.steps import read_steps
from nipype_blm.workflows import init_report_wf

pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was fitted, without a report."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    (folder / "study.yml").write_text(CONFIGURATION)
    assert main(["fit", str(folder / "study.yml"), str(folder / "results"), "--quiet"]) == 0
    return folder


@pytest.fixture
def results(study, tmp_path) -> Path:
    """A copy of the results, that belongs to a test alone."""
    return shutil.copytree(study / "results", tmp_path / "results")


def find_peaks(printed: str, name: str) -> list[str]:
    """Return the numbers of the row of a contrast in what a command prints."""
    [line] = [line for line in printed.splitlines() if line.startswith(f"  {name} ")]
    return line.split()


def test_fit_writes_a_report_and_ends_with_findings_maps_and_report(
    study, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("NIPYPE_BLM_REPORT")
    out = tmp_path / "out"
    assert main(["fit", str(study / "study.yml"), str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"The maps are in {out}\nThe report is {out}/report.html\n")
    found = find_all(Results(out))
    for name, each in found.items():
        words = find_peaks(printed, name)
        assert words[1] == f"{each.main.n_voxels:,}"
        if each.peaks:
            assert words[2] == f"{len(each.peaks):,}"
            assert words[3] == f"{each.peaks[0].peak_z:.2f}"
        else:
            assert words[3] == "none:"
    assert "images, 3 columns of X" in printed
    assert "voxels fitted" in printed
    page = (out / "report.html").read_text()
    assert "</html>" in page
    assert "could not be made" not in page


def test_quiet_is_quiet_and_writes_the_report_all_the_same(study, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NIPYPE_BLM_REPORT")
    out = tmp_path / "out"
    assert main(["fit", str(study / "study.yml"), str(out), "--quiet"]) == 0
    assert (out / "report.html").is_file()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not re.search("report|Found|maps are", captured.err)


@pytest.mark.parametrize(
    ("command", "option", "field", "variable", "is_written"),
    [
        ("fit", [], "", "no", False),
        ("fit", ["--no-report"], "report: true", "", False),
        ("fit", [], "report: false", "", False),
        ("blm", [], "", "", False),
        ("blm", ["--report"], "", "no", True),
        ("blm", [], "report: true", "no", True),
    ],
)
def test_an_option_a_field_the_environment_and_the_command_say_whether_there_is_a_report(
    command, option, field, variable, is_written, study, tmp_path, monkeypatch
):
    monkeypatch.setenv("NIPYPE_BLM_REPORT", variable)
    out = tmp_path / "out"
    config = study / f"{tmp_path.name}.yml"
    text = CONFIGURATION.replace("outdir: results", f"outdir: {out}")
    config.write_text(f"{text}{field}\n")
    if command == "blm":
        assert blm([str(config), "--quiet", *option]) == 0
    else:
        assert main(["fit", str(config), str(out), "--quiet", *option]) == 0
    assert (out / "report.html").is_file() == is_written


def test_infer_and_diagnose_renew_a_report_that_is_there(results, capsys, monkeypatch):
    monkeypatch.delenv("NIPYPE_BLM_REPORT")
    assert main(["report", str(results)]) == 0
    assert capsys.readouterr().out == f"The report is {results}/report.html\n"
    before = (results / "report.html").read_text()
    assert 'id="inference"' not in before
    words = ["--n", "40", "--summaries", "voxel"]
    assert main(["infer", str(results), *words]) == 0
    printed = capsys.readouterr().out
    assert "Found with FWE p ≤ 0.05 (voxel, 40 resamplings)" in printed
    assert f"The report is {results}/report.html" in printed
    assert 'id="inference"' in (results / "report.html").read_text()
    found = find_all(Results(results), find_inference(Results(results)))
    assert find_peaks(printed, "age")[1] == f"{found['age'].main.n_voxels:,}"
    assert main(["diagnose", str(results), "--quiet", "--no-report"]) == 0
    steps = [step.name for step in read_steps(results)]
    assert steps == ["fit", "infer", "diagnose"]


def test_a_report_that_is_as_it_should_be_is_not_made_again(study, tmp_path, monkeypatch):
    out = tmp_path / "out"
    fit = ["fit", str(study / "study.yml"), str(out), "--quiet", "--report"]
    assert main(fit) == 0
    state = (out / "report.html").stat().st_mtime_ns
    text = (out / "report.html").read_text()
    (out / "report.html").write_text(text.replace("</html>", "<!-- mine --></html>"))
    assert main(fit) == 0
    assert "<!-- mine -->" in (out / "report.html").read_text()
    assert main(["report", str(out), "--quiet"]) == 0
    assert "<!-- mine -->" not in (out / "report.html").read_text()
    assert (out / "report.html").stat().st_mtime_ns > state


def test_steps_are_noted_with_their_nodes_and_begin_anew_with_a_fit(study):
    [step] = read_steps(study / "results")
    assert step.name == "fit"
    assert {node.name for node in step.nodes} >= {"products", "estimates", "contrasts", "assemble"}
    for node in step.nodes:
        assert 0 <= node.start <= node.end <= step.wall_s + 0.01
    assert step.cpu_s > 0
    assert step.peak_bytes > 2**26


def test_steps_that_cannot_be_read_are_left_out(results):
    path = results / ".nipype_blm_steps.jsonl"
    path.write_text(path.read_text() + '{"name": "cut\n[1, 2]\n')
    assert [step.name for step in read_steps(results)] == ["fit"]
    path.unlink()
    assert read_steps(results) == []


def test_a_report_that_cannot_be_written_is_no_fault_of_the_run(
    study, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    (out / "report.html").mkdir(parents=True)
    assert main(["fit", str(study / "study.yml"), str(out), "--report"]) == 0
    assert "notice: the report was not written" in capsys.readouterr().err
    assert (out / "blm_vox_beta.nii").is_file()
    monkeypatch.setitem(sys.modules, "nilearn", None)
    (out / "report.html").rmdir()
    assert main(["fit", str(study / "study.yml"), str(out), "--report"]) == 0
    assert "pip install 'nipype_blm[plot]'" in capsys.readouterr().err


def test_a_library_that_cannot_be_loaded_is_not_to_be_installed(results, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    words = "libstdc++.so.6: version `GLIBCXX_3.4.29' not found"
    (broken / "matplotlib.py").write_text(f"raise ImportError({words!r})")
    done = start("report", str(results), PYTHONPATH=str(broken))
    assert done.returncode == 2
    assert words in done.stderr
    assert "pip install" not in done.stderr


def test_a_backend_that_a_notebook_asks_for_need_not_be_there(results, capsys):
    done = start("report", str(results), MPLBACKEND="module of a notebook")
    assert (done.returncode, done.stderr) == (0, "")
    conclude(results, Wanted.NO)  # the report is there, and current: nothing to be said of it
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "The report is" not in captured.out
    assert (results / "report.html").is_file()


def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a command as a process of its own."""
    source = "from nipype_blm.cli.main import command; command()"
    command = [sys.executable, "-P", "-c", source, *arguments]
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_what_is_no_result_or_no_extra_is_told(study, tmp_path, capsys, monkeypatch):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert main(["report", str(study)]) == 2
    assert "expected the outdir of a run" in capsys.readouterr().err
    background = ["--background", str(tmp_path / "t1.nii")]
    assert main(["report", str(study / "results"), *background]) == 2
    assert "t1.nii" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "nilearn", None)
    assert main(["report", str(study / "results")]) == 2
    assert "pip install 'nipype_blm[plot]'" in capsys.readouterr().err


def test_amounts_that_are_none_are_told(study, capsys):
    for given in ("nan", "inf", "-1"):
        assert main(["report", str(study / "results"), f"--max-read-gb={given}"]) == 2
        assert f"--max-read-gb {given} was given" in capsys.readouterr().err


def test_findings_that_cannot_be_told_are_no_fault_of_a_command(results, capsys):
    for path in results.glob("contrasts/*stat-z*"):
        path.unlink()
    assert main(["diagnose", str(results)]) == 0
    captured = capsys.readouterr()
    assert "notice: what was found cannot be told" in captured.err
    assert f"The maps are in {results}" in captured.out
    assert main(["diagnose", str(results), "--quiet", "--report"]) == 0


def test_any_fault_of_a_report_is_a_notice(results, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault")

    monkeypatch.setattr("nipype_blm.report.page.write_report", fail)
    assert main(["diagnose", str(results), "--report"]) == 0
    assert "notice: the report was not written: RuntimeError: a fault" in capsys.readouterr().err


def test_a_report_of_an_earlier_fit_is_told(study, tmp_path, capsys):
    out = tmp_path / "out"
    fit = ["fit", str(study / "study.yml"), str(out), "--quiet"]
    assert main([*fit, "--report"]) == 0
    assert main([*fit, "--no-report"]) == 0
    assert "earlier state" not in capsys.readouterr().err
    other = study / f"{tmp_path.name}.yml"
    other.write_text(CONFIGURATION.replace("[0, 1, 0]}", "[0, 2, 0]}"))
    assert main(["fit", str(other), str(out), "--quiet", "--no-report"]) == 0
    assert f"notice: {out}/report.html is of an earlier state" in capsys.readouterr().err


def test_a_folder_that_has_moved_has_no_current_report(results, tmp_path):
    assert main(["report", str(results), "--quiet"]) == 0
    assert is_current(results / "report.html", [Reported(Results(results))])
    moved = results.rename(tmp_path / "moved")
    assert not is_current(moved / "report.html", [Reported(Results(moved))])


def test_a_run_without_any_voxel_fails_and_has_a_report_that_says_why(study, tmp_path, capsys):
    out = tmp_path / "out"
    config = study / f"{tmp_path.name}.yml"
    config.write_text(f"{CONFIGURATION}Missingness: {{MinN: 1}}\ndata_mask_thresh: 1e9\n")
    assert main(["fit", str(config), str(out), "--report"]) == 1
    captured = capsys.readouterr()
    assert "no voxel could be fitted" in captured.err
    page = (out / "report.html").read_text()
    assert "No voxel could be fitted" in page
    assert "could not be made" not in page
    assert 'id="contrasts"' not in page


def test_the_node_and_the_workflow_write_the_page_of_the_command(study, results, tmp_path):
    assert main(["report", str(results), "--quiet"]) == 0
    text = strip_links((results / "report.html").read_text())
    node = Report(results_dir=str(results), out_file="node.html").run(cwd=tmp_path)
    assert strip_links(Path(node.outputs.out_file).read_text()) == text
    assert Path(node.outputs.out_file) == tmp_path / "node.html"
    workflow = init_report_wf(out_file=tmp_path / "workflow.html")
    workflow.base_dir = str(tmp_path)
    workflow.inputs.inputnode.results_dir = str(results)
    workflow.run()
    assert strip_links((tmp_path / "workflow.html").read_text()) == text


def strip_links(page: str) -> str:
    """Return a page without what depends on where it lies, or on how many were drawn before."""
    page = re.sub(r'href="[^"#]*"', "", page)
    return re.sub(r"\bf\d+-", "", page)
