"""Pages of small runs with odd names, numbers, folders and pasts."""

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import write_small_run

from nipype_blm.cli.main import main
from nipype_blm.core.factors import RandomFactor
from nipype_blm.report.page import make_environment, tell_apart, write_report
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections import asked, beside, contrasts, model, running, verdict
from nipype_blm.report.tables import write_number
from nipype_blm.results.results import Results
from nipype_blm.results.steps import FILE, add_step, read_steps

pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")
CONTRASTS = {"dose": [0, 1, 0], "less $x_1$": [0, -1, 0], "both": [[0, 1, 0], [0, 0, 1]]}
NAMES = ("one", "$a_1$ & $b$", "group")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_run(tmp_path_factory.mktemp("a") / "run", CONTRASTS, names=NAMES)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "results")


def test_dollars_are_dollars_in_figures(folder, tmp_path):
    page = write_report([Reported(Results(folder))], tmp_path / "page.html").read_text()
    figures = "".join(re.findall("<svg.*?</svg>", page, re.DOTALL))
    assert "$a_1$ &amp; $b$" in figures
    assert "\\$" not in figures


def test_the_direction_is_told_alike_everywhere(copy):
    words = ["--n", "40", "--summaries", "cluster", "--sides", "one", "--contrast", "dose"]
    assert main(["infer", str(copy), *words, "--quiet"]) == 0
    run = Reported(Results(copy))
    expected = {"dose": "T, greater than 0", "less $x_1$": "T, both directions", "both": "F"}
    assert {name: each.test for name, each in run.findings.items()} == expected
    assert {row[0]: row[1] for row in verdict.make(run)["findings"].rows} == expected
    told = {row[0]: row[1].split(":")[0] for row in asked.make(run)["contrasts"].rows}
    assert told == expected
    page = write_report([run], copy / "page.html").read_text()
    assert "<p>T, greater than 0." in page
    assert "need not be at each of its voxels" in page
    assert "Of the other contrasts, voxels count as found" in page


def test_of_too_many_contrasts_the_first_are_told(folder, monkeypatch):
    monkeypatch.setattr("nipype_blm.report.reported.MOST_CONTRASTS", 2)
    run = Reported(Results(folder))
    assert list(run.findings) == ["dose", "less $x_1$"]
    assert verdict.make(run)["findings"].more.startswith("... and 1 more")
    assert contrasts.make(run)["n_more"] == 1
    assert len(asked.make(run)["contrasts"].rows) == 4  # both has two
    assert beside.make([run, run])["only"] == [[], []]


def test_steps_of_other_results_are_not_told(copy):
    run = Reported(Results(copy))
    (copy / FILE).unlink(missing_ok=True)
    assert main(["diagnose", str(copy), "--quiet"]) == 0
    [step] = read_steps(copy)
    assert step.model == run.results.stamp
    assert len(running.make(run)["steps"].rows) == 1
    add_step(copy, step._replace(model="another"), anew=True)
    assert running.make(run)["steps"] is None


def test_runs_of_one_name_are_told_apart(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "run b" / "results")
    runs = [Reported(Results(each)) for each in (folder, other)]
    columns = beside.make(tell_apart(runs))["table"].columns
    assert columns[1] != columns[2]
    assert columns[2].endswith("/run b")


def test_links_lead_to_folders_of_any_name():
    odd = Path(os.fsdecode(b"/\xff <b>:javascript.nii"))
    link = make_environment(Path("/")).filters["link"](odd)
    assert link == "%FF%20%3Cb%3E%3Ajavascript.nii"


def test_variances_have_their_own_units_and_no_second_picture():
    level = np.arange(20, dtype=np.int32) % 4
    slopes = np.column_stack([np.ones(20), np.arange(20.0)])
    factors = [RandomFactor("a", level, np.ones((20, 1))), RandomFactor("b", level, slopes)]
    results = SimpleNamespace(factors=factors)
    has_icc = [model._has_icc(results, i) for i in range(4)]
    assert has_icc == [True, True, False, False]  # a; of b: intercept, covariance, slope
    assert model._name_unit(results, 1) == "y²"
    assert model._name_unit(results, 3) != "y²"


def test_numbers_are_written_as_they_are_read():
    written = [write_number(x) for x in (1234.5, 2**30, 12.345, -107.5, 0.0, 1e-12, 987654.3)]
    assert written == ["1,234", "1.07e+09", "12.3", "−108", "0", "1e−12", "987,654"]
