"""The data at the peaks of a contrast, as figures and numbers of the report."""

import html
import json
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from bids_study import write_data_set
from numpy.testing import assert_allclose, assert_array_equal
from saved_models import change_fitted
from scipy import stats
from snippets import write_study

from nipype_blm.cli.blm import main as fit
from nipype_blm.cli.main import main
from nipype_blm.report import page
from nipype_blm.report.charts.axes import Axis, Line, Shown, choose_axis, show
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.charts.peaks import MOST_DRAWN, choose_panels, compare_quantiles, draw_peak
from nipype_blm.report.naming import cut_name, name_images
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections.peaks import make_peaks
from nipype_blm.results.results import Results
from nipype_blm.results.sampled import choose_peaks, choose_voxels
from nipype_blm.results.saved import SavedImage
from nipype_blm.stages.sampling import sample_values
from nipype_blm.stages.voxelfits import LevelEffects, VoxelFit

pytest.importorskip("matplotlib", reason="pip install 'nipype_blm[plot]'")

HOSTILE = "<script>alert(\"1\")</script> $x^2$ 'q' 😀 " + "long " * 60
FORMULA = "~ age + I(age**2) + sex * session + site + (1 | subject)"
CONTRASTS = [
    {"name": HOSTILE, "vector": [0, 1, 0]},
    {"name": "group", "vector": [0, 0, 1]},
    {"name": "mean", "vector": [1, 0, 0]},
    {"name": "mix", "vector": [0, 2, -1]},
    {"name": "any", "vector": [[0, 1, 0], [0, 0, 1]]},
]
EXPECTED = [("numeric", "age"), ("category", "group"), ("category", "one"), ("along", "mix"),
            ("fitted", "age, group")]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A linear model of a design without a study."""
    folder = write_study(tmp_path_factory.mktemp("plain"))
    lines = ["Y_files: images.txt", "X: design.csv", "outdir: out", "contrasts:"]
    lines += [f"  - c{i}: {json.dumps(each)}" for i, each in enumerate(CONTRASTS)]
    (folder / "blm.yml").write_text("\n".join(lines))
    assert fit(["--quiet", str(folder / "blm.yml")], "blm") == 0
    return sample(Results(folder / "out"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A mixed model of a formula."""
    folder = tmp_path_factory.mktemp("mixed")
    write_data_set(folder / "bids")
    words = ["--formula", FORMULA, "--quiet"]
    for test in ("age", "main(sex)", "sex:session", "site", "site[B] - site[C]"):
        words += ["--test", test]
    source = [str(folder / "bids"), str(folder / "out"), "--contrast", "faces", "--stat", "effect"]
    assert main(["fit", *source, *words, "--no-report"]) == 0
    return sample(Results(folder / "out"))


def sample(results):
    run = Reported(results)
    run.read_values()
    return run


def render(run, name):
    environment = page.make_environment(run.folder)
    peaks = make_peaks(run, run.findings[name])
    return peaks, environment.get_template("peaks.html.jinja").render(peaks=peaks, run=run)


def list_shown(run):
    """Yield each contrast with the fit and what is shown of its highest peak."""
    for name, found in run.findings.items():
        [feature, *_] = choose_peaks(found)
        dof = found.contrast.vector("dof")[feature]
        voxel = run.voxel_fits[feature]
        yield name, voxel, show(choose_axis(found.contrast), found.contrast, voxel, dof)


def test_the_axis_is_what_a_contrast_is_about_without_a_study(plain):
    found = [(shown.axis.kind, shown.axis.name) for _, _, shown in list_shown(plain)]
    assert found == EXPECTED


def test_the_axis_is_a_column_of_the_table_where_there_is_one(mixed):
    axes = {name: shown.axis for name, _, shown in list_shown(mixed)}
    age = [float(x) for x in mixed.results.study.columns["age"]]
    kinds = {name: (axis.kind, axis.name) for name, axis in axes.items()}
    assert kinds["age"] == ("numeric", "age")
    assert_array_equal(axes["age"].x, age)
    names = np.array(mixed.results.column_names)
    assert names[axes["age"].columns].tolist() == ["age", "I(age ** 2)"]
    assert kinds["site"] == kinds["site[B] - site[C]"] == ("category", "site")
    assert axes["site"].categories == ["A", "B", "C"]
    site = mixed.results.study.columns["site"]
    assert [axes["site"].categories[int(k)] for k in axes["site"].x] == list(site)
    # With an interaction, no column of the table alone has the effect.
    assert kinds["main(sex)"] == ("along", "main(sex)")
    assert kinds["sex:session"] == ("category", "sex[M]:session[2]")


def test_the_slope_and_the_differences_shown_are_the_effects_of_the_maps(plain):
    shown = {name: (voxel, each) for name, voxel, each in list_shown(plain)}
    for name in (HOSTILE, "mix"):
        voxel, each = shown[name]
        contrast = plain.results.contrasts[name]
        effect = contrast.vector("effect")[voxel.feature]
        assert_allclose(np.polyfit(each.line.x, each.line.y, 1)[0], effect, rtol=1e-5)
        # Of least squares, the line is also that of what is shown.
        assert_allclose(np.polyfit(each.x, each.y, 1)[0], effect, rtol=1e-5)
    voxel, each = shown["mix"]
    sd = np.sqrt(plain.results.contrasts["mix"].vector("variance")[voxel.feature])
    t = stats.t.ppf(0.975, plain.results.vector("edf")[voxel.feature])
    assert_allclose((each.line.upper - each.line.y)[-1], t * sd * abs(each.line.x[-1]), rtol=1e-5)
    for name, of_line in (("group", lambda y: y[1] - y[0]), ("mean", lambda y: y[0])):
        voxel, each = shown[name]
        effect = plain.results.contrasts[name].vector("effect")[voxel.feature]
        assert_allclose(of_line(each.line.y), effect, rtol=1e-5)
    voxel, each = shown["mean"]
    found = plain.findings["mean"]
    limits = [values[voxel.feature] for values in found.limits]
    assert_allclose([each.line.lower[0], each.line.upper[0]], limits[1:], rtol=1e-5)


def test_partial_residuals_leave_out_the_other_columns(plain):
    for name, voxel, shown in list_shown(plain):
        if shown.axis.kind not in ("numeric", "category"):
            continue
        present = ~np.isnan(voxel.y)
        X, y = plain.results.X[present], voxel.y[present]
        beta = np.linalg.lstsq(X, y, rcond=None)[0]
        others = [k for k in range(3) if k not in shown.axis.columns]
        held = np.zeros(3) if name == "mean" else X.mean(axis=0)
        expected = y - (X[:, others] - held[others]) @ beta[others]
        assert_allclose(shown.y, expected, rtol=1e-9)
        assert_array_equal(shown.rows, np.flatnonzero(present))


def test_means_and_own_lines_of_a_mixed_model_are_those_of_its_estimates(mixed):
    shown = {name: (voxel, each) for name, voxel, each in list_shown(mixed)}
    voxel, each = shown["site[B] - site[C]"]
    _, B, C = each.line.y
    effect = mixed.results.contrasts["site[B] - site[C]"].vector("effect")[voxel.feature]
    assert_allclose(B - C, effect, rtol=1e-4)
    [levels] = voxel.levels
    rows = each.rows
    assert_allclose(each.own + voxel.residual[rows], each.y, atol=1e-9)
    Z = mixed.results.factors[0].Z[rows]
    mean = each.line.y[each.x.astype(int)]
    blup = levels.blup[levels.level[rows]]
    assert_allclose(each.own - mean, (Z * blup).sum(axis=1), atol=1e-9)


def test_the_limits_of_quantiles_hold_for_normal_values_and_not_for_others():
    rng = np.random.default_rng(0)

    def count(values):
        values = np.append(values, np.nan)  # an image that is missing
        fitted = SimpleNamespace(standardised=values)
        return compare_quantiles(fitted).is_outside.mean()

    shares = [count(rng.standard_normal(60)) for _ in range(400)]
    assert_allclose(np.mean(shares), 0.05, atol=0.01)
    assert count(rng.standard_cauchy(60)) > 0.3
    found = compare_quantiles(SimpleNamespace(standardised=np.array([2.0, np.nan, -1.0, 0.5])))
    assert found.rows.tolist() == [2, 3, 0]
    assert_allclose(found.expected, stats.norm.ppf([1 / 6, 1 / 2, 5 / 6]))
    assert_allclose(found.lower, stats.norm.ppf(stats.beta.ppf(0.025, [1, 2, 3], [3, 2, 1])))


class Visible(HTMLParser):
    """Elements, and the text that a reader sees."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", [HOSTILE, "group", "mean", "mix", "any"])
def test_the_numbers_in_the_page_are_those_of_the_maps_and_the_images(plain, name):
    peaks, content = render(plain, name)
    found, results = plain.findings[name], plain.results
    visible = Visible(content)
    text = visible.text.replace("−", "-")
    for peak, feature in zip(peaks.shown, choose_peaks(found), strict=True):
        assert f"{results.contrasts[name].vector('z')[feature]:.2f}" in text
        n = int(results.vector("n")[feature])
        assert (peak.n, peak.n_missing) == (n, 20 - n)
        assert f"{n} of 20" in text
        assert_allclose(peak.sd**2, results.vector("resms")[feature], rtol=1e-5)
        if not results.contrasts[name].is_f:
            effect = results.contrasts[name].vector("effect")[feature]
            assert f"{effect:.3g}" in text
        worst = peak.worst[0]
        row = int(np.nanargmax(np.abs(plain.voxel_fits[feature].standardised)))
        assert worst.name == f"sub-{row:02d}"
        assert f"{worst.standardised:.1f}" in text
    figures = [attrs for tag, attrs in visible.tags if attrs.get("role") == "img"]
    assert len(figures) == len(peaks.shown)
    assert all(
        f"{peak.n} images" in each["aria-label"]
        for each, peak in zip(figures, peaks.shown, strict=True)
    )
    assert "script" not in {tag for tag, _ in visible.tags}
    assert max(len(peak.figure.svg) for peak in peaks.shown) < 150_000


def test_a_mixed_model_shows_its_random_effects(mixed):
    peaks, content = render(mixed, "age")
    text = Visible(content).text
    assert "BLUP" in text
    assert "each level of subject" in text
    fitted = mixed.voxel_fits[choose_peaks(mixed.findings["age"])[0]]
    assert [panel.levels.effects[panel.effect] for panel in choose_panels(fitted)] == list(
        mixed.results.effect_names[0]
    )
    assert all(label in peaks.shown[0].figure.svg for label in ("Intercept of subject", ">12<"))


@pytest.fixture
def copy(plain, tmp_path):
    """The folder of the linear model, without the values."""
    folder = shutil.copytree(plain.folder, tmp_path / "copy")
    shutil.rmtree(folder / "report")
    return folder


def test_without_values_the_page_says_how_to_get_them(copy):
    peaks, content = render(Reported(Results(copy)), "group")
    assert not peaks.shown
    assert f"nipype-blm report {copy} reads them" in html.unescape(content)


def test_values_that_cannot_be_saved_are_shown_all_the_same(copy, plain):
    (copy / "report").write_text("a file where the folder should be")
    run = Reported(Results(copy))
    run.read_values()
    peaks, expected = (make_peaks(each, each.findings["group"]) for each in (run, plain))
    assert [each.worst for each in peaks.shown] == [each.worst for each in expected.shown]


def test_other_voxels_than_those_of_the_peaks_are_no_data_of_them(copy):
    run = Reported(Results(copy))
    peaks = set(choose_voxels(run.findings).tolist())
    sample_values(run.results, [min(set(range(50)) - peaks)])
    _, content = render(run, "group")
    assert "of this contrast are not shown" in content
    assert "<figure>" not in content


def test_images_that_are_gone_leave_the_page_without_data(copy):
    images = [each._replace(image=f"/gone{each.image}") for each in Results(copy).images]
    change_fitted(copy, images=images)
    run = Reported(Results(copy))
    run.read_values()
    _, content = render(run, "group")
    assert "The data at the highest voxels are not shown. " in content
    assert "/gone/" in content
    assert "<figure>" not in content


def test_a_contrast_that_is_tested_nowhere_has_no_data(plain):
    nowhere = SimpleNamespace(peaks=[], nearest=None)
    peaks = make_peaks(plain, nowhere)
    environment = page.make_environment(plain.folder)
    assert not environment.get_template("peaks.html.jinja").render(peaks=peaks).strip()


def test_thousands_of_images_and_levels_make_a_small_figure(plain):
    rng = np.random.default_rng(0)
    n, n_levels = 5000, 2000
    y, level = rng.standard_normal(n), np.arange(n, dtype=np.int32) % n_levels
    levels = LevelEffects(
        *("person", ["one"], [HOSTILE] * n_levels),
        *(rng.standard_normal((n_levels, 1)), np.ones((n_levels, 1))),
        *(np.ones(n_levels, bool), level, y),
    )
    voxel = VoxelFit(0, y, y, y, y, 1.0, np.zeros(1), np.eye(1), [levels])
    axis = Axis("numeric", HOSTILE, y, np.array([0]))
    ends = np.array([-3.0, 3.0])
    shown = Shown(axis, np.arange(n), y, y, Line(ends, ends, ends - 1, ends + 1), y)
    drawn = draw_peak(shown, voxel, [HOSTILE] * n, (cut_name(HOSTILE), "y"), Figure("", "alt"))
    assert len(drawn.svg) < 170_000
    assert "<script>" not in drawn.svg
    assert n_levels > MOST_DRAWN


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/sub-01_ses-1_map.nii", "/a/sub-02_ses-1_map.nii"], ["sub-01", "sub-02"]),
        (["/a/s1/cope1.nii.gz", "/a/s2/cope1.nii.gz"], ["s1", "s2"]),
        (["/a/one.nii"], ["one.nii"]),
        (["/a/x.nii", "/a/x_y.nii"], ["x", "x_y"]),
    ],
)
def test_images_are_named_by_what_tells_them_apart(paths, names):
    assert name_images([SavedImage(path, 0, 1, 1) for path in paths]) == names


def test_volumes_of_one_file_are_named_by_their_numbers():
    images = [SavedImage("/a/all.nii", volume, 1, 1) for volume in range(3)]
    assert name_images(images) == ["volume 0", "volume 1", "volume 2"]


def test_long_names_lose_their_middle():
    assert cut_name("a" * 30, 9) == "aaaa…aaaa"
    assert cut_name("short\nname") == "short name"
