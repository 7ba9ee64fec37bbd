"""The page as a whole, and those of its sections that say what was found and how."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from bids_study import write_data_set
from scipy import stats

from nipype_blm.cli.main import main
from nipype_blm.report.page import SECTIONS, find_place, show_code, write_report
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections import beside, inference, methods, running, verdict
from nipype_blm.results.results import Results

pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")

FORMULA = "~ age + session"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixed model with an inference, and least squares of the same images."""
    folder = tmp_path_factory.mktemp("study")
    write_data_set(folder / "bids")
    choice = ["--contrast", "faces", "--stat", "effect", "--quiet"]
    fit = ["fit", str(folder / "bids")]
    mixed = ["--formula", f"{FORMULA} + (1 | subject)", "--inference", "n=60", "--diagnostics"]
    assert main([*fit, str(folder / "mixed"), *mixed, *choice]) == 0
    assert main([*fit, str(folder / "plain"), "--formula", FORMULA, *choice]) == 0
    return folder


@pytest.fixture(scope="module")
def mixed(folder) -> Reported:
    return Reported(Results(folder / "mixed"))


@pytest.fixture(scope="module")
def plain(folder) -> Reported:
    return Reported(Results(folder / "plain"))


@pytest.fixture(scope="module")
def page(mixed) -> str:
    return write_report([mixed], find_place([mixed.results])).read_text()


def test_the_page_has_every_section_in_order_and_nothing_from_elsewhere(page):
    assert "could not be made" not in page
    assert " object at 0x" not in html.unescape(page)
    names = re.findall(r'<section id="(\w+)"', page)
    assert names == [section.name for section in SECTIONS]
    for section in SECTIONS:
        assert f'href="#{section.name}"' in page
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert set(anchors) <= set(re.findall(r'id="([^"]+)"', page))
    loaded = re.findall(r'(?:src|href|data)="([^"]*)"|url\(([^)]*)\)', page.split("<script")[0])
    for each in {one or other for one, other in loaded}:
        assert not each.startswith(("http", "//")), each


def test_links_lead_to_files(page, mixed):
    links = re.findall(r'<a href="([^#"][^"]*)"', page)
    assert len(links) > 30
    for link in links:
        assert (mixed.folder / link).is_file(), link


def test_the_verdict_counts_what_the_maps_have(mixed):
    shown = verdict.make(mixed)
    facts = {fact.name: fact.value for fact in shown["facts"]}
    status = mixed.results.array("status")
    assert facts["Images"] == "23"
    assert facts["Levels of subject"] == "12"
    assert facts["Voxels fitted"] == f"{np.count_nonzero((status > 0) & (status < 10)):,}"
    assert facts["Voxels dropped"] == f"{np.count_nonzero(status >= 10):,}"
    singular = np.count_nonzero(status == 3) / np.count_nonzero((status > 0) & (status < 10))
    assert facts["Singular"] == f"{singular:.1%}"
    rows = {row[0]: row for row in shown["findings"].rows}
    for name, each in mixed.findings.items():
        assert rows[name][2] == f"{each.main.n_voxels:,}"
        assert "60 resamplings" in rows[name][5]


def test_few_groups_and_few_levels_are_warned_of(plain, mixed):
    assert not any("false discovery" in each for each in verdict.make(plain)["warnings"])
    changed = Reported(Results(mixed.folder))
    object.__setattr__(changed, "inferred", None)  # as without the folder inference
    assert any("about 10 %" in each for each in verdict.make(changed)["warnings"])


def test_the_inference_says_thresholds_and_counts(mixed):
    shown = inference.make(mixed)
    assert shown["n"] == 60
    assert shown["groups"] == 12
    of_age = next(each for each in shown["contrasts"] if each.name == "age")
    nulls = mixed.inferred.contrasts["age"].nulls
    for summary, largest, _, _ in of_age.table.rows:
        assert float(largest.replace(",", "")) == pytest.approx(nulls[summary][0], rel=5e-3)


def test_how_it_ran_has_each_step_and_the_record(mixed, page):
    shown = running.make(mixed)
    assert [row[0] for row in shown["steps"].rows] == ["fit", "diagnose", "infer"]
    record = (mixed.folder / "inputs.yml").read_text()
    assert html.escape(record, quote=False).splitlines()[0] in page
    assert "Time line: fit took" in page


def test_the_methods_cite_what_was_used_and_nothing_else(mixed, plain):
    of_mixed, of_plain = methods.make(mixed)["bibtex"], methods.make(plain)["bibtex"]
    for key in ("blmm", "fisher", "lmertest", "flips", "tfce", "nipype_blm"):
        assert f"{{{key}," in of_mixed
        assert (f"{{{key}," in of_plain) == (key == "nipype_blm")
    assert "{blm," in of_plain
    for text in (of_mixed, of_plain):
        assert text.count("{") == text.count("}")
    assert methods.make(mixed)["n_least"] == mixed.results.vector("n").min()


def test_two_runs_stand_side_by_side(mixed, plain, tmp_path):
    out = write_report([mixed, plain], tmp_path / "both.html")
    page = out.read_text()
    assert "could not be made" not in page
    assert re.findall(r'<section id="(\w+)"', page)[1] == "beside"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert find_place([mixed.results, plain.results]) == mixed.folder / "report_beside_plain.html"


def test_side_by_side_numbers_are_those_of_the_maps(mixed, plain):
    shown = beside.make([mixed, plain])
    rows = {row[0]: row for row in shown["table"].rows}
    both = mixed.results.mask & plain.results.mask
    for name in ("age", "session"):
        one, other = (run.results.contrasts[name] for run in (mixed, plain))
        z = [each.array("z")[both] for each in (one, other)]
        assert float(rows[name][5]) == pytest.approx(np.corrcoef(*z)[0, 1], rel=5e-3)
        ratio = np.sqrt(np.median(other.array("variance")[both] / one.array("variance")[both]))
        assert float(rows[name][6]) == pytest.approx(ratio, rel=5e-3)
        assert int(rows[name][1]) == mixed.findings[name].main.n_voxels
    compared = shown["compared"]
    assert compared.criterion == "REML"
    assert compared.n_voxels <= both.sum()
    # The likelihood ratio of a variance that may be 0, by hand.
    chi2 = 2 * (mixed.results.array("llh")[both] - reml_of_least_squares(plain)[both])
    p = stats.chi2.sf(np.maximum(chi2, 0), 1) / 2
    assert compared.n_better == pytest.approx((p <= 0.05).sum(), abs=1)


def reml_of_least_squares(run: Reported) -> np.ndarray:
    """Return the restricted log-likelihood of a linear model at each voxel."""
    results = run.results
    n, resms = results.array("n").astype(float), results.array("resms").astype(float)
    X = results.X
    values = np.full(n.shape, np.nan)
    cov = results.array("cov").astype(float)
    p = X.shape[1]
    for voxel in np.argwhere(results.mask):
        at = tuple(voxel)
        dof = n[at] - p
        inverse = cov[at].reshape(p, p) / resms[at]
        log_det = -np.linalg.slogdet(inverse)[1]
        values[at] = -0.5 * (dof * (np.log(2 * np.pi * resms[at]) + 1) + log_det)
    return values


def test_runs_of_other_images_are_not_compared(plain, tmp_path):
    write_data_set(tmp_path / "bids", 8, seed=5)
    fit = ["fit", str(tmp_path / "bids"), str(tmp_path / "other"), "--formula", "~ age + sex"]
    assert main([*fit, "--contrast", "faces", "--stat", "effect", "--quiet"]) == 0
    other = Reported(Results(tmp_path / "other"))
    shown = beside.make([plain, other])
    assert shown["compared"] is None
    assert shown["reason"]
    assert shown["only"] == [["session"], ["sex"]]
    page = write_report([plain, other], tmp_path / "both.html").read_text()
    assert "The likelihoods were not compared" in page
    assert "could not be made" not in page


def test_a_section_that_fails_says_so_and_the_others_are_there(plain, tmp_path, caplog):
    broken = Reported(Results(plain.folder))
    object.__setattr__(broken, "options", None)
    steps = plain.folder / ".nipype_blm_steps.jsonl"
    text = steps.read_text()
    step = json.loads(text)
    try:
        steps.write_text(json.dumps(step | {"wall_s": "long"}) + "\n")
        page = write_report([broken], tmp_path / "broken.html").read_text()
    finally:
        steps.write_text(text)
    assert page.count("This section could not be made") == 1
    assert "How it ran" in caplog.text
    assert len(re.findall(r'<section id="(\w+)"', page)) == len(SECTIONS) - 1  # no inference


def test_backticks_are_code_and_names_stay_text():
    assert show_code("run `blm <x>`, then") == "run <code>blm &lt;x&gt;</code>, then"
    assert show_code("a ` of a name, <b>") == "a ` of a name, &lt;b&gt;"
    assert show_code("") == ""
