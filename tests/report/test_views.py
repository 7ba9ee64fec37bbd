"""Contrasts in the report: what is drawn, listed and embedded is what the maps have."""

import base64
import gzip
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats
from small_runs import HOSTILE, write_small_run

from nipype_blm.report.charts.views import (
    Row,
    choose_cuts,
    draw_map,
    draw_rows,
    lies_in_mni,
    make_image,
)
from nipype_blm.report.embedded import embed_all, embed_flags, embed_z
from nipype_blm.report.page import make_environment, write_report
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections import contrasts
from nipype_blm.results.results import Results

nilearn = pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")

OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.2, 0.1) * 3, [-9, 5, 2])
FLIPPED = nib.affines.from_matvec([[0, -4, 0], [3, 0, 0], [0, 0, -2]], [10, 20, 30])
DOSE, ANY, NOTHING = "dose", "dose or group", "group"
TESTS = {DOSE: [0, 1, 0], ANY: [[0, 1, 0], [0, 0, 1]], NOTHING: [0, 0, 1]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder = tmp_path_factory.mktemp("run") / "study"
    return Reported(Results(write_small_run(folder, TESTS, affine=FLIPPED)))


@pytest.fixture(scope="module")
def made(run) -> dict:
    return contrasts.make(run)


def find_pictures(svg: str) -> list[np.ndarray]:
    """Return the pictures within a figure, the slices first."""
    found = re.findall(r"data:image/png;base64,([^\"]+)", svg)
    return [imread(io.BytesIO(base64.b64decode(each.replace("\n", "")))) for each in found]


def decode(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def to_number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-").removesuffix(" %"))


def test_corrections_are_counted_as_scipy_does(run, made):
    for shown in made["contrasts"]:
        contrast = shown.findings.contrast
        z = contrast.array("z")[run.results.mask].astype(float)
        p = stats.norm.sf(z) if contrast.is_f else 2 * stats.norm.sf(np.abs(z))
        survive = [
            p <= 0.001,
            stats.false_discovery_control(p) <= 0.05,
            p * z.size <= 0.05,
        ]
        heights = z if contrast.is_f else np.abs(z)
        for row, expected in zip(shown.corrections.rows, survive, strict=True):
            assert to_number(row[1]) == expected.sum()
            assert to_number(row[2]) == pytest.approx(100 * expected.mean(), rel=5e-3)
            if expected.any():
                assert to_number(row[3]) == pytest.approx(heights[expected].min(), rel=5e-3)
            else:
                assert row[3] == "none survives"
    assert made["contrasts"][0].findings.fdr.n_voxels > 20


def test_clusters_are_those_of_ndimage_with_the_numbers_of_the_maps(run, made):
    shown = made["contrasts"][0]
    q = np.ones(run.results.mask.shape)
    z = shown.findings.contrast.array("z").astype(float)
    q[run.results.mask] = stats.false_discovery_control(
        2 * stats.norm.sf(np.abs(z[run.results.mask]))
    )
    sizes = []
    for side in (z > 0, z < 0):
        labels, n = ndimage.label((q <= 0.05) & side, np.ones((3, 3, 3)))
        sizes += np.bincount(labels.ravel())[1:].tolist() if n else []
    columns = list(shown.clusters.columns)
    rows = [dict(zip(columns, row, strict=True)) for row in shown.clusters.rows]
    found = [to_number(row["Voxels"]) for row in rows if row["Peak"] == "1"]
    assert sorted(found) == sorted(sizes)
    for row, at in zip(rows, shown.clusters.attributes, strict=True):
        place = [at["x"], at["y"], at["z"]]
        voxel = tuple(np.rint(np.linalg.inv(FLIPPED) @ [*place, 1]).astype(int)[:3])
        assert to_number(row["z value"]) == pytest.approx(z[voxel], rel=5e-3)
        effect = shown.findings.contrast.array("effect")[voxel]
        half = stats.t.ppf(0.975, 17) * np.sqrt(shown.findings.contrast.array("variance")[voxel])
        assert to_number(row["Effect"]) == pytest.approx(effect, rel=5e-3)
        assert to_number(row["95 % from"]) == pytest.approx(effect - half, rel=1e-2, abs=1e-3)
        assert to_number(row["to"]) == pytest.approx(effect + half, rel=1e-2, abs=1e-3)
        if row["Peak"] == "1":
            assert to_number(row["mm³"]) == round(to_number(row["Voxels"]) * 24)
            assert row["Slice"] == f"z = {row['z, mm']} mm"  # which is drawn


def test_a_contrast_without_findings_says_what_comes_nearest(made):
    shown = made["contrasts"][2]
    assert shown.findings.main.n_voxels == 0
    assert shown.clusters is None
    highest = np.abs(shown.findings.z).max()
    assert f"{highest:.3g}" in shown.nearest.replace("−", "")


def test_every_voxel_that_survives_is_drawn_and_no_other(run):
    found = run.findings[DOSE]
    mask = run.results.image("mask")
    cuts = choose_cuts(mask)
    assert len(cuts.numbers) == 7  # all slices
    rows = [
        Row(make_image(run.results, np.where(each.survives, found.z, 0)), each.words)
        for each in found.corrections
    ]
    pictures = find_pictures(draw_rows(rows, cuts, None, mask, "").svg)
    for picture, each in zip(pictures, found.corrections, strict=False):
        # Voxels are 4 x 3 mm in a slice, pixels are as nearly squares of 3 mm as fit.
        per_voxel = round(9 * 4 / 3) * 8 / 72
        assert (picture[..., 3] > 0).sum() == pytest.approx(each.n_voxels * per_voxel, rel=0.2)
        assert picture.shape[0] == 8


def test_left_is_left_and_front_is_up():
    values = np.zeros((6, 8, 3), "f4")
    values[0, 7, 1] = 5  # of this image: right, front
    image = nib.Nifti1Image(values, np.diag([-2.0, 2, 2, 1]))
    whole = nib.Nifti1Image(np.ones(values.shape, "u1"), image.affine)
    cuts = choose_cuts(whole, [(0, 0, 2)], most=1)
    assert cuts.labels == ["z = 2 mm"]
    [picture, *_] = find_pictures(draw_rows([Row(image, "")], cuts, None, whole, "").svg)
    assert_array_equal(np.argwhere(picture[..., 3] > 0), [[0, 5]])


def test_slices_go_through_the_peaks_and_then_wide_of_them():
    mask = nib.Nifti1Image(np.ones((4, 4, 41), "u1"), np.eye(4))
    cuts = choose_cuts(mask, [(0, 0, 33), (0, 0, 5), (1, 1, 33), (0, 0, 99)])
    assert {5, 33} < set(cuts.numbers)
    assert len(cuts.numbers) == 7
    assert np.diff(cuts.numbers).min() >= 3


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((5, 5, 5), np.eye(4)),
        ((1, 9, 8), np.diag([9.0, 2, 2, 1])),
        ((9, 1, 1), FLIPPED),
        ((8, 7, 6), OBLIQUE),
        ((60, 50, 40), np.diag([-0.2, 0.2, 1, 1])),
    ],
)
def test_any_grid_is_drawn(shape, affine):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape).astype("f4")
    values.flat[0] = np.nan
    image = nib.Nifti1Image(values, affine)
    for background in (None, image, nib.Nifti1Image(np.ones((3, 3, 3)), np.eye(4))):
        figure = draw_map(image, background=background, title="$x_1$ " * 60, unit="mm")
        assert f"at {values.size - 1:,} voxels" in figure.alt
        assert find_pictures(figure.svg)
        assert "<svg" in figure.svg
    nothing = nib.Nifti1Image(np.zeros(shape, "f4"), affine)
    assert "no voxel" in draw_map(nothing, title="ICC", symmetric=True).alt


def test_embedded_maps_are_z_in_steps_at_the_same_places(run, made):
    for each, of in zip(made["contrasts"], made["viewer"]["maps"], strict=True):
        image = decode(of["image"])
        z = each.findings.contrast.array("z").astype(float)
        voxels = np.argwhere(run.results.mask)
        places = nib.affines.apply_affine(FLIPPED, voxels)
        there = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), places)).astype(int)
        assert_allclose(image.get_fdata()[tuple(there.T)], z[tuple(voxels.T)], atol=0.005001)
        flags = np.frombuffer(gzip.decompress(base64.b64decode(of["survive"])), "u1")
        flags = flags.reshape(image.shape, order="F")
        for bit, correction in enumerate(each.findings.corrections):
            assert (flags >> bit & 1).sum() == correction.n_voxels
            steps = of["levels"][bit]["steps"]
            if correction.n_voxels:
                drawn = np.abs(np.asarray(image.dataobj.get_unscaled()))[flags >> bit & 1 == 1]
                assert drawn.min() == steps
            else:
                assert steps is None


def test_large_maps_are_thinned_to_the_greatest_of_a_block():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(20, 21, 22))
    values[10, 11, 12] = -9
    image = nib.Nifti1Image(values, OBLIQUE)
    whole = embed_z(image, 1)
    found = embed_all([image] * 3, len(whole.text))
    assert [each.every for each in found] == [2, 2, 2]
    thin = decode(found[0].text)
    assert thin.get_fdata().min() == pytest.approx(-9)
    lowest = np.unravel_index(thin.get_fdata().argmin(), thin.shape)
    centre = nib.affines.apply_affine(OBLIQUE, [10.5, 10.5, 12.5])
    near = nib.affines.apply_affine(thin.affine, lowest)
    assert np.abs(near - centre).max() < 3
    assert embed_all([image] * 3, 10) == []
    flags = np.frombuffer(gzip.decompress(base64.b64decode(embed_flags([image], 2))), "u1")
    assert flags.size == np.prod(thin.shape)


def test_an_intercept_is_drawn_over_unless_a_file_is_given(run, tmp_path):
    assert run.backdrop.words == "the estimate of the intercept"
    assert not run.backdrop.is_mni
    file = tmp_path / "anatomy.nii"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), "u1"), np.eye(4)), file)
    other = Reported(run.results, background=file)
    assert other.backdrop.words == "anatomy.nii"
    assert other.backdrop.image.shape == (3, 3, 3)


def test_mni_is_known_by_its_code_or_by_its_brain():
    from nilearn.datasets import load_mni152_brain_mask

    def of(image):
        return SimpleNamespace(image=lambda _: image)

    coded = nib.Nifti1Image(np.ones((2, 2, 2), "u1"), np.eye(4))
    assert not lies_in_mni(of(coded))
    coded.header["sform_code"] = 4
    assert lies_in_mni(of(coded))
    brain = load_mni152_brain_mask(resolution=4)
    values = np.asarray(brain.dataobj, "u1")
    assert lies_in_mni(of(nib.Nifti1Image(values, brain.affine)))
    moved = brain.affine + np.array([[0, 0, 0, 40], [0] * 4, [0] * 4, [0] * 4])
    assert not lies_in_mni(of(nib.Nifti1Image(values, moved)))
    assert not lies_in_mni(of(nib.Nifti1Image(np.zeros_like(values), brain.affine)))


def test_many_contrasts_are_drawn_with_fewer_figures(run, monkeypatch):
    monkeypatch.setattr(contrasts, "_MOST_WHOLE", 1)
    monkeypatch.setattr("nipype_blm.report.reported.MOST_CONTRASTS", 2)
    run = Reported(run.results)
    made = contrasts.make(run)
    assert [len(each.figures) for each in made["contrasts"]] == [3, 1]
    assert [each.tells_more for each in made["contrasts"]] == [True, False]
    assert made["n_more"] == 1


def test_two_runs_have_one_viewer(run, made):
    template = make_environment(run.folder).get_template("contrasts.html.jinja")
    first, second = (template.render(run=run, it=made, at=f"contrasts-{i}") for i in range(2))
    for part in ('id="viewer"', 'id="viewer-library"', "new niivue"):
        assert (first.count(part), second.count(part)) == (1, 0)
    for part in (first, second):
        assert part.count('class="viewer-run"') == 1
        assert part.count('class="viewer-place"') == len(TESTS)
    without = template.render(run=run, it=made | {"library": ""}, at="contrasts-0")
    assert "has no niivue" in without
    assert 'id="viewer"' not in without


def test_a_contrast_that_is_tested_nowhere_is_shown_as_such(run):
    found = run.findings[DOSE]
    nothing = np.zeros(found.z.size)
    corrections = {each.name: replace(each, p=np.ones(found.z.size)) for each in found.corrections}
    empty = replace(found, z=nothing, is_tested=nothing > 0, **corrections)
    lone = Reported(run.results)
    lone.__dict__["findings"] = {DOSE: empty}
    [shown] = contrasts.make(lone)["contrasts"]
    assert shown.nearest == "It is estimable at no voxel."
    assert [row[1:] for row in shown.corrections.rows] == [("0", "n/a", "none survives")] * 3


@pytest.mark.parametrize(
    ("shape", "affine"), [((1, 9, 8), np.diag([9.0, 2, 2, 1])), ((5, 5, 5), OBLIQUE)]
)
def test_pages_of_odd_grids_and_names_have_the_section(shape, affine, tmp_path):
    tests = dict(zip(HOSTILE, TESTS.values(), strict=True))
    blob = np.s_[:2, 1:4, 1:4]
    folder = write_small_run(tmp_path / "study", tests, shape=shape, affine=affine, blob=blob)
    page = write_report([Reported(Results(folder))], tmp_path / "report.html").read_text()
    [section] = re.findall(r'<section id="contrasts".*?</section>', page, re.DOTALL)
    assert "could not be made" not in section
    assert section.count("<h3") == 4  # the viewer's, too
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in section
