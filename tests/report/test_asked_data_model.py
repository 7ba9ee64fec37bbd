"""What a report says of the design, of the data and of the fit, against images and tables."""

import html
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose
from saved_models import load_fitted, write_fitted
from scipy import stats
from snippets import write_tables

from nipype_blm.cli.main import main
from nipype_blm.core.factors import RandomFactor
from nipype_blm.errors import InputError
from nipype_blm.report import page as page_module
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.naming import name_images
from nipype_blm.report.page import SECTIONS, write_report
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections import asked, data, model
from nipype_blm.report.tables import Table, write_number
from nipype_blm.results.diagnostics import read_diagnostics
from nipype_blm.results.results import Results
from nipype_blm.stages.diagnostics import diagnose

FORMULA = "~ age + session + site + (1 | subject)"
NAMES = ["one", "<script>alert(1)</script>", "$x_1^{2}$ 😀", f"long{'-er' * 100}"]
SHAPE = (5, 6, 4)
BAD = 4  # the image that stands out


def fit(folder: Path, source: str, out: str, *more: str) -> int:
    places = (str(folder / source), str(folder / out))
    return main(["fit", *places, *more, "--no-report", "--quiet"])


def spoil(folder: Path) -> None:
    """Take voxels from images, and make one stand out; nobody has the corner."""
    rng = np.random.default_rng(3)
    for i, path in enumerate(sorted((folder / "maps").glob("*.nii.gz"))):
        image = nib.load(path)
        values = image.get_fdata()
        values[:, :, 0][rng.random(SHAPE[:2]) < 0.05 * (1 + path.name.startswith("01"))] = 0
        if i == BAD:
            values += 20 * rng.standard_normal(SHAPE)
        values[0, 0, 0] = 0
        nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), path)


def write_plain(folder: Path) -> None:
    """Write a configuration with X alone, whose names are hostile."""
    rng = np.random.default_rng(4)
    X = np.column_stack([np.ones(24), rng.normal(size=24), np.arange(24) % 2, rng.normal(size=24)])
    header = "\t".join(NAMES)
    lines = ["\t".join(map(repr, row)) for row in X.tolist()]
    (folder / "X.tsv").write_text("\n".join([header, *lines]) + "\n")
    images = sorted(map(str, (folder / "maps").glob("*.nii.gz")))
    fields = {
        "Y_files": images,
        "X": str(folder / "X.tsv"),
        "outdir": str(folder / "plain"),
        "contrasts": [
            {"c1": {"name": NAMES[1], "vector": [0, 1, 0, -0.5]}},
            {"c2": {"name": NAMES[2], "vector": [[0, 1, 0, 0], [0, 0, 1, 0]]}},
        ],
    }
    (folder / "plain.yml").write_text(yaml.safe_dump(fields))
    empty = fields | {"data_mask_thresh": 1e9, "allow_empty": True}
    (folder / "empty.yml").write_text(yaml.safe_dump(empty | {"outdir": str(folder / "empty")}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixed and a linear model with diagnostics, and one without any voxel."""
    folder = tmp_path_factory.mktemp("study")
    write_tables(folder)
    spoil(folder)
    table = (folder / "visits.tsv").read_text().splitlines()
    rows = [row.split("\t") for row in table[1:]]
    lines = ["\t".join([*row, f"maps/{row[0]}_{row[1]}.nii.gz"]) for row in rows]
    lines[-1] = lines[-1].replace(rows[-1][2], "n/a", 1)
    (folder / "visits.tsv").write_text("\n".join([f"{table[0]}\timage", *lines]) + "\n")
    write_plain(folder)
    formula = ["--formula", FORMULA, "--on-missing", "drop"]
    assert fit(folder, "visits.tsv", "mixed", *formula) == 0
    assert fit(folder, "plain.yml", "plain") == 0
    for name in ("mixed", "plain"):
        assert main(["diagnose", str(folder / name), "--quiet"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _own_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the other sections, which take their time."""
    own = tuple(each for each in SECTIONS if each.name in {"asked", "data", "model"})
    monkeypatch.setattr(page_module, "SECTIONS", own)


@pytest.fixture(params=["mixed", "plain"])
def run(request: pytest.FixtureRequest) -> Reported:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Reported:
    return Reported(Results(folder / "mixed"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Reported:
    return Reported(Results(folder / "plain"))


_pages: dict[Path, str] = {}


def get_page(run: Reported, tmp_path: Path) -> str:
    """Return the page of a run that nobody changes, which is written once."""
    if run.folder not in _pages:
        _pages[run.folder] = write_page(run, tmp_path)
    return _pages[run.folder]


def read_values(run: Reported) -> np.ndarray:
    """Return the values of all images at the voxels of the result, NaN where missing."""
    images = [nib.load(each.image).get_fdata() for each in run.results.images]
    values = np.array([image.ravel(order="F")[run.results.inside] for image in images])
    return np.where(values == 0, np.nan, values)


def write_page(run: Reported, tmp_path: Path) -> str:
    text = write_report([run], tmp_path / "report.html").read_text()
    assert "could not be made" not in text
    return text


def read_section(page: str, name: str) -> str:
    """Return the words of a section, without its figures."""
    [section] = re.findall(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    plain = re.sub(r"<svg.*?</svg>", "", section, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", plain)).split())


def column(table: Table, name: str) -> list[str]:
    return [row[list(table.columns).index(name)] for row in table.rows]


def test_the_equation_has_a_term_for_each_column_and_factor(mixed, plain, tmp_path):
    said = read_section(get_page(mixed, tmp_path), "asked")
    terms = "y i = β 0 + β 1 · age i + β 2 · session[2] i + β 3 · site[B] i + β 4 · site[C] i"
    assert f"{terms} + u subject[ i ] + e i" in said
    assert "u random effects of subject: 12 levels" in said
    assert "restricted maximum likelihood" in said
    said = read_section(get_page(plain, tmp_path), "asked")
    assert f"β 1 · {NAMES[1]} i" in said
    assert "subject[" not in said


def test_columns_have_their_numbers_and_inflation_factors(run):
    X = run.results.X
    table = asked.make(run)["columns"]
    assert column(table, "mean") == [write_number(x) for x in X.mean(axis=0)]
    assert column(table, "largest") == [write_number(x) for x in X.max(axis=0)]
    for i in range(1, X.shape[1]):
        others = np.delete(X, i, axis=1)
        rest = X[:, i] - others @ np.linalg.lstsq(others, X[:, i])[0]
        vif = np.var(X[:, i]) / np.mean(rest**2)
        assert column(table, "VIF")[i] == write_number(vif)


def test_contrasts_are_sums_of_columns(mixed, plain):
    table = asked.make(mixed)["contrasts"]
    assert [row[0] for row in table.rows] == ["age", "session", "site", "site"]
    assert column(table, "weights") == ["age", "session[2]", "site[B]", "site[C]"]
    table = asked.make(plain)["contrasts"]
    assert column(table, "weights")[0].startswith(f"{NAMES[1]} − 0.5 × long-er-er")
    names = [f"x{i}" for i in range(50)]
    assert asked.write_weights(np.array([-1.0, 2, 0]), names) == "−x0 + 2 × x1"
    assert asked.write_weights(np.full(50, 0.25), names).endswith("0.25 × x5 ... and 44 more")


def test_levels_and_what_was_left_out_are_counted(mixed, tmp_path):
    made = asked.make(mixed)
    n = np.bincount(mixed.results.factors[0].level)
    assert n.tolist() == [2] * 11 + [1]
    [row] = made["factors"].rows
    assert row[2:] == ("12", "1", "2", "2", "1")
    assert made["histograms"] == []  # of 1 or 2 images
    assert made["n_excluded"] == 1
    said = read_section(get_page(mixed, tmp_path), "asked")
    assert "1 row of the table is not in the model" in said
    assert "12_2.nii.gz" in said


def test_what_complete_cases_would_have_lost_is_counted_from_the_images(run, tmp_path):
    values = read_values(run)
    n = np.isfinite(values).sum(axis=0)
    complete = n == len(values)
    lost = data.make(run)["lost"]
    assert (lost.n_fitted, lost.n_complete) == (n.size, complete.sum())
    assert 0 < complete.sum() < n.size
    table = data.make(run)["lost_of_contrasts"]
    found = list(run.findings.values())
    assert column(table, "found") == [f"{each.main.n_voxels:,}" for each in found]
    among_lost = [np.count_nonzero(each.main.survives[~complete]) for each in found]
    assert column(table, "lost") == [f"{k:,}" for k in among_lost]
    said = read_section(get_page(run, tmp_path), "data")
    assert f"kept {complete.sum()} of these {n.size} voxels" in said
    assert f"lost {100 * (1 - complete.mean()):.1f} %" in said
    assert f"data of {n.min()} to {n.max()} images" in said


def test_voxels_have_a_status_with_its_meaning(mixed):
    status = mixed.results.array("status")
    table = data.make(mixed)["statuses"]
    assert column(table, "value") == [int(x) for x in np.unique(status) if x]
    assert column(table, "voxels") == [f"{np.sum(status == x):,}" for x in np.unique(status) if x]
    assert "no image has data here" in table.rows[[r[1] for r in table.rows].index("NO_DATA")][4]


def test_missing_values_are_told_by_group(mixed):
    share = np.isnan(read_values(mixed)).mean(axis=1)
    columns = mixed.results.study.columns
    table = data.make(mixed)["groups"]
    for name, level, n, mean, largest in table.rows:
        of_level = share[np.array(columns[name]) == level]
        assert (n, mean) == (f"{of_level.size:,}", f"{of_level.mean():.1%}")
        assert largest == f"{of_level.max():.1%}"
    assert {row[0] for row in table.rows} == {"session", "site", "subject"}
    [(name, r)] = data.make(mixed)["numbers"]
    expected = np.corrcoef(columns["age"], share)[0, 1]
    assert (name, r) == ("age", f"{expected:.2f}".replace("-", "−"))


def test_an_image_that_stands_out_is_shown_while_it_is_as_it_was(folder, plain, tmp_path):
    made = data.make(plain)
    assert made["outlying"].rows[0][1] == "03_1"  # of maps/03_1.nii.gz, what others do not have
    assert "residuals" in made["outlying"].rows[0][2]
    assert "1. 03" in made["pictures"].alt
    assert "usual: " in made["pictures"].alt
    moved = [Path(each.image) for each in plain.results.images]
    states = [(path, path.read_bytes(), path.stat()) for path in moved]
    try:
        for path in moved:
            path.unlink() if path != moved[BAD] else path.write_bytes(b"another")
        assert data.make(plain)["pictures"] is None
        assert "The images cannot be shown" in read_section(write_page(plain, tmp_path), "data")
    finally:
        for path, content, state in states:
            path.write_bytes(content)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/s1/z_map.nii", "/a/s2/z_map.nii"], ["s1", "s2"]),
        (["/a/sub-1_run-1_z.nii", "/a/sub-12_run-1_z.nii"], ["sub-1", "sub-12"]),
        (["/a/1.nii", "/a/21.nii"], ["1", "21"]),
        (["/a/b.nii", "/a/b.nii"], ["volume 0", "volume 1"]),
        (["/a/_z.nii", "/a/b_z.nii"], ["_z.nii", "b_z.nii"]),
    ],
)
def test_names_of_images_are_what_tells_them_apart(folder, paths, names):
    usual = Reported(Results(folder / "plain")).diagnosed.images[0]
    same = len(set(paths)) == 1
    rows = [usual._replace(image=path, volume=i * same) for i, path in enumerate(paths)]
    assert name_images(rows) == names


def test_variances_are_medians_over_the_voxels(mixed, tmp_path):
    results = mixed.results
    table = model.make(mixed)["variances"]
    icc, sigma2 = results.vector("icc", "subject"), results.vector("sigma2")
    between = results.vector("varcomp", "subject: Intercept")
    assert_allclose(icc, between / (between + sigma2), rtol=1e-5)
    expected = [between, sigma2, icc]
    for row, values in zip(table.rows, expected, strict=True):
        assert list(row[2:]) == [write_number(x) for x in np.quantile(values, [0.25, 0.5, 0.75])]
    said = read_section(get_page(mixed, tmp_path), "model")
    assert f"(intraclass correlation {np.median(icc):.2f})" in said


def test_standard_errors_are_compared_with_those_of_least_squares(mixed, tmp_path):
    results, values = mixed.results, read_values(mixed)
    contrast = results.contrasts["session"]
    ratios = []
    for y, variance in zip(values.T, contrast.vector("variance"), strict=True):
        there = np.isfinite(y)
        X, y = results.X[there], y[there]
        rest = y - X @ np.linalg.lstsq(X, y)[0]
        resms = rest @ rest / (len(y) - np.linalg.matrix_rank(X))
        [weights] = contrast.weights
        ratios.append(np.sqrt(variance / (resms * weights @ np.linalg.inv(X.T @ X) @ weights)))
    median = np.median(ratios)
    assert median < 0.98
    rows = {row[0]: row[1:] for row in model.make(mixed)["ratios"].rows}
    assert rows["session"][1] == write_number(median)
    assert rows["session"][3] == f"{1 / median:.2f} times too large"
    said = read_section(get_page(mixed, tmp_path), "model")
    assert f"{1 / median:.2f} times too large (session), and so missed effects." in said
    largest = max(float(row[1]) for row in rows.values())
    assert re.search(rf"errors {largest:.3g}\d* times too small \((age|site), median", said)


def test_skewness_of_residuals_is_judged_by_that_of_normal_errors(plain):
    results, values = plain.results, read_values(plain)
    beyond = []
    for y in values.T:
        there = np.isfinite(y)
        X, y, n = results.X[there], y[there], np.count_nonzero(there)
        rest = y - X @ np.linalg.lstsq(X, y)[0]
        variance = 6 * (n - 2) / ((n + 1) * (n + 3))
        beyond.append(abs(stats.skew(rest)) > 1.96 * np.sqrt(variance))
    assert_allclose(model.make(plain)["skewness"].share, np.mean(beyond), atol=1e-9)


def test_residuals_have_their_range(run):
    sigma = np.sqrt(run.results.vector("sigma2" if run.is_mixed else "resms"))
    first = model.make(run)["residuals"].rows[0]
    assert list(first[2:]) == [write_number(x) for x in np.quantile(sigma, [0, 0.25, 0.5, 0.75, 1])]


def test_names_of_users_are_text(plain, tmp_path):
    page = get_page(plain, tmp_path)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert ">$x_1^{2}$ 😀<" in figures  # no formula of matplotlib
    assert "&lt;script&gt;aler…1)&lt;/script&gt;" in figures
    assert NAMES[3] not in re.sub(r"<(table|div).*?</\1>", "", read_section(page, "asked"))


def test_diagnostics_that_are_gone_or_of_another_fit_are_said_to_be(folder, tmp_path):
    copy = shutil.copytree(folder / "mixed", tmp_path / "mixed")
    write_fitted(copy, replace(load_fitted(Results(copy)), notices=["another"]))
    run = Reported(Results(copy))
    assert run.diagnosed is None
    page = write_page(run, tmp_path)
    assert "diagnostics of another fit" in read_section(page, "data")
    assert "nipype-blm diagnose" in read_section(page, "model")
    shutil.rmtree(copy / "diagnostics")
    run = Reported(Results(copy))
    assert "has no diagnostics" in read_section(write_page(run, tmp_path), "model")
    assert model.make(run)["ratios"] is None
    assert data.make(run)["groups"] is None


def test_diagnostics_are_read_as_they_were_written(folder, tmp_path):
    results = Results(folder / "mixed")
    written = diagnose(results.folder, tmp_path / "diagnostics")
    read = read_diagnostics(results, tmp_path / "diagnostics")
    for name in ("images", "levels"):
        rows, expected = getattr(read, name), getattr(written, name)
        for row, of in zip(rows, expected, strict=True):
            assert type(row) is type(of)
            for cell, was in zip(row, of, strict=True):
                assert type(cell) is type(was)
                assert cell == (pytest.approx(was, 1e-5) if isinstance(was, float) else was)
    assert read.se_ratio == pytest.approx(written.se_ratio, 1e-5)
    assert [row.reason for row in read.outlying] == [row.reason for row in written.outlying]
    leverage = read.image("leverage").get_fdata()[..., 1].ravel(order="F")[results.inside]
    assert_allclose(read.vector("leverage", volume=1), leverage)
    with pytest.raises(InputError, match="has no contrasts/contrast-age_stat-cohensD"):
        read.path("cohensD", "age")
    table = tmp_path / "diagnostics" / "images.tsv"
    table.write_text(table.read_text().replace("outlyingness", "away"))
    with pytest.raises(InputError, match="cannot be read; `nipype-blm diagnose"):
        read_diagnostics(results, tmp_path / "diagnostics")


def test_a_run_without_any_voxel_says_so(folder, tmp_path):
    assert fit(folder, "empty.yml", "empty") == 0
    run = Reported(Results(folder / "empty"))
    assert run.results.n_fitted == 0
    page = write_page(run, tmp_path)
    assert "No voxel was fitted" in read_section(page, "data")
    assert 'id="model"' not in page


def _flatten(value: object) -> list:
    return value if isinstance(value, list) else [value]


def list_figures(made: dict) -> list[Figure]:
    values = [each for value in made.values() for each in _flatten(value)]
    return [each for each in values if isinstance(each, Figure)]


def test_a_large_design_is_cut_and_stays_small(folder, tmp_path):
    copy = shutil.copytree(folder / "plain", tmp_path / "plain")
    fitted = load_fitted(Results(copy))
    rng = np.random.default_rng(0)
    n, p = 600, 300
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    levels = [rng.permutation(np.arange(n) % k).astype(np.int32) for k in (300, 7, 30)]
    levels[2][:20] = 0
    contrasts = [
        each._replace(matrix=rng.normal(size=(1, p)), name=f"{each.name} {i}", label=f"{i}")
        for i in range(15)
        for each in fitted.contrasts
    ]
    large = replace(
        fitted,
        model="blmm",
        X=X,
        column_names=[f"column {i}" for i in range(p)],
        images=[fitted.images[0]._replace(volume=i) for i in range(n)],
        contrasts=contrasts,
        factors=[RandomFactor(f"f{i}", each, np.ones((n, 1))) for i, each in enumerate(levels)],
        effect_names=[["Intercept"]] * 3,
        level_names=[[f"level {i}" for i in range(k)] for k in (300, 7, 30)],
        options=fitted.options | {"reml": True},
    )
    write_fitted(copy, large)
    made = asked.make(Reported(Results(copy)))
    assert made["columns"].more == "... and 270 more, in model/X.tsv."
    assert made["n_more"] == 294
    assert len(made["contrasts"].rows) == 30
    assert all(row[3].endswith("294 more") for row in made["contrasts"].rows)
    assert len(made["histograms"]) == 1
    assert [row[2] for row in made["factors"].rows] == ["300", "7", "30"]
    assert sum(len(each.svg) for each in list_figures(made)) < 1e6


@pytest.mark.parametrize("shape", [(5, 6, 1), (2, 1, 1), (1, 1, 1)])
def test_single_slices_and_tiny_volumes_have_a_report(shape, tmp_path):
    rng = np.random.default_rng(5)
    images = []
    for i in range(6):
        images.append(str(tmp_path / f"{i}.nii"))
        values = rng.normal(size=shape).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.diag([-2.0, 2, 3, 1])), images[-1])
    (tmp_path / "X.csv").write_text("1\n" * 6)
    fields = {"Y_files": images, "X": str(tmp_path / "X.csv"), "outdir": str(tmp_path / "out")}
    contrasts = [{"c1": {"name": "mean", "vector": [1]}}]
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(fields | {"contrasts": contrasts}))
    assert fit(tmp_path, "tiny.yml", "out") == 0
    assert main(["diagnose", str(tmp_path / "out"), "--quiet"]) == 0
    page = write_page(Reported(Results(tmp_path / "out")), tmp_path)
    assert "Nothing: every image has data" in read_section(page, "data")
    assert "y i = β 0 + e i" in read_section(page, "asked")
