"""What a contrast found, against scipy: corrected p, clusters, peaks, limits."""

import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats
from snippets import CONFIGURATION, write_study

import nipype_blm
from nipype_blm.cli.main import main
from nipype_blm.errors import InputError
from nipype_blm.results.findings import choose_first, find_all, find_inference
from nipype_blm.results.inferred import Inferred, find_threshold
from nipype_blm.results.results import Results

AGE, ANY = "age", "age or <group>"


@pytest.fixture(params=["blm", "blmm"])
def results(request, runs):
    return Results(runs[request.param])


def compute_p(found, results):
    z = results.contrasts[found.contrast.name].vector("z").astype(float)
    return 2 * stats.norm.sf(np.abs(z)) if found.two_sided else stats.norm.sf(z)


def test_corrected_p_are_those_of_scipy(results):
    for found in find_all(results).values():
        p = compute_p(found, results)
        assert found.two_sided == (not found.contrast.is_f)
        assert_allclose(found.uncorrected.p, p, rtol=1e-10)
        assert_allclose(found.fdr.p, stats.false_discovery_control(p), rtol=1e-10)
        assert_allclose(found.fwe.p, np.minimum(p * p.size, 1), rtol=1e-10)
        assert found.main is found.fdr  # nothing was resampled
        assert_array_equal(found.uncorrected.survives, p <= 0.001)
        assert_array_equal(found.fdr.survives, stats.false_discovery_control(p) <= 0.05)


def test_clusters_and_peaks_are_those_of_ndimage(results):
    found = find_all(results)[AGE]
    for correction in found.corrections:
        z = np.zeros(results.mask.shape)
        z[results.mask] = results.contrasts[AGE].array("z")[results.mask]
        kept = np.zeros(results.mask.shape, bool).ravel(order="F")
        kept[results.space.positions] = correction.survives
        z *= kept.reshape(z.shape, order="F")
        sizes, heights = [], []
        for side in (z, -z):
            labels, n = ndimage.label(side > 0, np.ones((3, 3, 3)))
            numbers = np.arange(1, n + 1)
            sizes += ndimage.sum_labels(side > 0, labels, numbers).tolist()
            heights += ndimage.maximum(side, labels, numbers).tolist() if n else []
        first = [place for place in found.find_places(correction) if place.peak == 1]
        order = np.argsort(-np.array(heights), kind="stable")
        assert_allclose([abs(place.peak_z) for place in first], np.array(heights)[order])
        assert [place.size_voxels for place in first] == np.array(sizes)[order].tolist()
        assert sum(sizes) == correction.n_voxels
    assert found.uncorrected.n_voxels > 0


def test_a_peak_has_its_place_effect_and_limits(results):
    found = find_all(results)[AGE]
    contrast = results.contrasts[AGE]
    effect, variance, dof = (contrast.vector(kind) for kind in ("effect", "variance", "dof"))
    place = found.find_places(found.uncorrected)[0]
    i = place.feature
    half = stats.t.ppf(0.975, dof[i]) * np.sqrt(variance[i])
    assert_allclose(
        [place.effect, place.lower, place.upper],
        [effect[i], effect[i] - half, effect[i] + half],
        rtol=1e-9,
    )
    assert_array_equal([place.x, place.y, place.z], results.space.find_coordinates()[i])
    assert place.p == found.uncorrected.p[i]
    assert place.size_mm3 == pytest.approx(place.size_voxels * results.space.feature_size)


@pytest.fixture(scope="module")
def resampled(tmp_path_factory) -> Results:
    """A study of which one contrast of two was corrected by resampling."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    (folder / "study.yml").write_text(CONFIGURATION)
    out = str(folder / "results")
    assert main(["fit", str(folder / "study.yml"), out, "--quiet"]) == 0
    words = ["--n", "60", "--summaries", "tfce", "voxel", "--contrast", AGE]
    assert main(["infer", out, *words, "--quiet"]) == 0
    return Results(out)


def test_after_an_inference_findings_are_by_its_first_summary(resampled):
    results = resampled
    found = find_all(results, find_inference(results))
    inferred = Inferred(results).contrasts[AGE]
    assert found[AGE].main is found[AGE].fwe
    p = inferred.array("p", "tfce")[results.mask]
    inside = np.zeros(results.mask.shape, bool).ravel(order="F")
    inside[results.space.positions] = found[AGE].main.survives
    assert_array_equal(inside.reshape(results.mask.shape, order="F")[results.mask], p <= 0.05)
    assert "tfce, 60 resamplings" in found[AGE].main.words
    assert found["both"].main is found["both"].fdr  # was not asked for


def test_a_threshold_is_reached_by_as_many_resamplings_as_p_says(resampled):
    for contrast in Inferred(resampled).contrasts.values():
        for peaks in contrast.nulls.values():
            threshold = find_threshold(peaks, 0.05)
            assert (peaks >= threshold).mean() <= 0.05
            lower = peaks[peaks < threshold].max()  # the next lower value has a larger p
            assert (peaks >= lower).mean() > 0.05
            assert np.isnan(find_threshold(peaks, 0.01))


def test_a_threshold_is_none_of_several_equal_values_that_are_too_many():
    sizes = np.r_[9.0, 7, np.full(10, 5.0), np.zeros(48)]  # as those of clusters are
    assert find_threshold(sizes, 0.05) == 7  # p of 5 is 12 / 60
    assert find_threshold(sizes, 0.2) == 5
    assert np.isnan(find_threshold(np.full(60, 5.0), 0.05))


def test_of_many_contrasts_those_that_were_resampled_come_first(resampled):
    inferred = find_inference(resampled)
    assert choose_first(resampled, None, 1) == [next(iter(resampled.contrasts))]
    assert choose_first(resampled, inferred, 1) == list(inferred.contrasts)
    assert choose_first(resampled, inferred, 9) == list(resampled.contrasts)
    assert list(find_all(resampled, inferred, ["both"])) == ["both"]


def test_voxels_where_a_contrast_is_not_estimable_are_no_tests(runs, tmp_path):
    folder = shutil.copytree(runs["blm"], tmp_path / "copy")
    results = Results(folder)
    own = results.mask.copy()
    own[:3] = False
    path = folder / "contrasts" / "contrast-age_desc-estimable_mask.nii"
    image = results.image("mask")
    path.with_suffix(".json").write_text("{}")
    type(image)(own.astype(np.uint8), image.affine, image.header).to_filename(path)
    if not results.contrasts[AGE].has_gaps:
        pytest.fail("the mask of the contrast is not found")
    found = find_all(results)[AGE]
    assert found.is_tested.sum() == own.sum()
    p = 2 * stats.norm.sf(np.abs(results.contrasts[AGE].array("z")[own]))
    assert found.uncorrected.n_voxels == (p <= 0.001).sum()
    assert (found.fdr.p[~found.is_tested] == 1).all()


# ------------------------------------------------------------------------------ in Python


def test_the_table_of_clusters_is_that_of_the_findings(runs):
    results = nipype_blm.Results(runs["blm"])
    found = results.findings[AGE]
    table = results.clusters(AGE, "uncorrected")
    assert table.to_dict("records") == [p._asdict() for p in found.find_places(found.uncorrected)]
    assert len(table) > 0
    assert results.clusters(AGE).equals(results.clusters(AGE, "fdr"))
    with pytest.raises(InputError, match="'no' is no correction; expected uncorrected, fdr, fwe"):
        results.clusters(AGE, "no")
    with pytest.raises(InputError, match="'sex' is no contrast of these results; they have 'age'"):
        results.clusters("sex")


def test_nilearn_gets_the_maps_that_compute_contrast_would_give(runs):
    results = nipype_blm.Results(runs["blmm"])
    maps = results.to_nilearn()
    assert list(maps) == [AGE, ANY]
    assert set(maps[AGE]) == {"effect_size", "effect_variance", "stat", "p_value", "z_score"}
    assert_array_equal(maps[AGE]["z_score"].get_fdata(), results.contrasts[AGE].array("z"))
    assert_array_equal(maps[ANY]["stat"].get_fdata(), results.contrasts[ANY].array("F"))


def test_a_plot_is_a_picture_of_one_contrast(runs, tmp_path):
    pytest.importorskip("nilearn", reason="pip install 'nipype_blm[plot]'")
    results = nipype_blm.Results(runs["blm"])
    path = results.plot(AGE).save(tmp_path / "age.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="'sex' is no contrast"):
        results.plot("sex")
