"""The values at a few voxels, from tiles, images or the saved table, and the fit that they give."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from saved_models import change_fitted
from snippets import write_study

from nipype_blm.cli.blm import main as fit
from nipype_blm.errors import InputError
from nipype_blm.results.findings import find_all
from nipype_blm.results.results import Results
from nipype_blm.results.sampled import MOST_VOXELS, choose_peaks, choose_voxels, read_sampled
from nipype_blm.stages.sampling import predict_bytes, sample_values
from nipype_blm.stages.voxelfits import fit_voxels

CONFIGURATION = """\
Y_files: images.txt
X: design.csv
outdir: {outdir}
contrasts:
  - c1: {{name: age, vector: [0, 1, 0]}}
  - c2: {{name: any, vector: [[0, 1, 0], [0, 0, 1]]}}
"""
MIXED = """\
Z:
  - f1: {name: person, factor: person.txt, design: random.csv}
  - f2: {name: scanner, factor: scanner.txt, design: intercept.csv}
"""
OWN_MASKS = "data_mask_files: masks.txt\nMissingness: {MinN: 8}\nanalysis_mask: inner.nii.gz\n"
FEATURES = [3, 40, 41, 101]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Images with zeros, infinite values and masks of their own, and three ways of fitting them."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    rng = np.random.default_rng(4)
    shape, affine = (6, 7, 5), np.diag([8.0, 8, 8, 1])
    masks = []
    for i in range(20):
        path = folder / f"images/sub-{i:02d}.nii.gz"
        values = np.asarray(nib.load(path).dataobj).copy()
        values[i % 6, 2, 2] = np.inf
        nib.save(nib.Nifti1Image(values, affine), path)
        mask = folder / f"mask-{i:02d}.nii.gz"
        nib.save(nib.Nifti1Image((rng.random(shape) > 0.2).astype("u1"), affine), mask)
        masks.append(mask.name)
    (folder / "masks.txt").write_text("\n".join(masks))
    inner = np.ones(shape, "u1")
    inner[0] = 0
    nib.save(nib.Nifti1Image(inner, affine), folder / "inner.nii.gz")
    for outdir, model, more in (
        ("blm", "blm", OWN_MASKS),
        ("kept", "blm", f"{OWN_MASKS}keep: tiles\n"),
        ("blmm", "blmm", MIXED),
    ):
        (folder / f"{outdir}.yml").write_text(CONFIGURATION.format(outdir=outdir) + more)
        assert fit(["--quiet", str(folder / f"{outdir}.yml")], model) == 0
    return folder


@pytest.fixture
def copy(study, tmp_path):
    """Function that gives a copy of results, whose images are those of the study."""

    def make(name):
        return Results(shutil.copytree(study / name, tmp_path / name))

    return make


def read_images(results, features):
    """Return the values by nibabel alone."""
    columns = []
    for image in results.images:
        values = nib.load(image.image).get_fdata().ravel(order="F")
        values[(values == 0) | ~np.isfinite(values)] = np.nan
        if image.mask is not None:
            values[nib.load(image.mask).get_fdata().ravel(order="F") == 0] = np.nan
        columns.append(values[results.space.positions[features]])
    return np.array(columns)


def list_read(reading):
    return sorted(name for name in reading if name.startswith("sub-"))


@pytest.mark.parametrize("name", ["blm", "blmm"])
def test_values_are_those_of_the_images_each_of_which_is_read_once(copy, name, reading):
    results = copy(name)
    sampled = sample_values(results, [*FEATURES[::-1], 3], n_threads=2)
    assert list_read(reading) == [f"sub-{i:02d}.nii.gz" for i in range(20)]
    assert sampled.features.tolist() == FEATURES
    assert_array_equal(sampled.values, read_images(results, FEATURES))
    assert_array_equal(sampled.coordinates, results.space.find_coordinates()[FEATURES])
    n = (~np.isnan(sampled.values)).sum(axis=0)
    assert_array_equal(n, results.vector("n")[FEATURES])
    assert n.min() < 20


def test_values_come_from_tiles_where_a_run_has_kept_them(study, reading):
    results = Results(study / "kept")  # a copy has no tiles
    sampled = sample_values(results, FEATURES, most_bytes=0)
    assert list_read(reading) == []
    assert_array_equal(sampled.values, read_images(results, FEATURES))


def test_saved_values_are_all_that_is_needed_and_have_every_digit(copy, reading):
    results = copy("blm")
    sampled = sample_values(results, FEATURES)
    reading.clear()
    again = sample_values(results, FEATURES[:2])
    assert list_read(reading) == []
    assert_array_equal(again.values, sampled.values)
    with (results.folder / "report" / "values.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["image"] for row in rows] == [image.image for image in results.images]
    cells = [row["voxel_40"] for row in rows]
    assert_array_equal([float(c) if c != "n/a" else np.nan for c in cells], sampled.values[:, 1])
    described = json.loads((results.folder / "report" / "values.json").read_text())
    assert set(rows[0]) <= set(described)
    assert described["Voxels"]["voxel_40"]["Coordinates"] == sampled.coordinates[1].tolist()
    more = sample_values(results, [*FEATURES, 7])
    assert len(list_read(reading)) == 20
    assert more.has([7, 101])


@pytest.mark.parametrize("change", ["edited", "cut", "no JSON", "another fit", "not a table"])
def test_saved_values_that_are_not_of_this_fit_are_read_anew(copy, change, reading):
    results = copy("blm")
    sampled = sample_values(results, FEATURES)
    table, described = (results.folder / "report" / f"values.{end}" for end in ("tsv", "json"))
    if change == "edited":
        table.write_text(table.read_text().replace("10", "11", 40))
    elif change == "cut":
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    elif change == "no JSON":
        described.write_text("[1")
    elif change == "not a table":
        described.write_text('{"Model": []}')
    else:
        change_fitted(results.folder, notices=["another"])
        results = Results(results.folder)
    with pytest.raises(InputError, match="earlier fit" if "fit" in change else "damaged|earlier"):
        read_sampled(results)
    reading.clear()
    if change == "no JSON":  # whose table it is cannot be known
        assert_array_equal(sample_values(results, FEATURES).values, sampled.values)
        return
    assert_array_equal(sample_values(results, FEATURES).values, sampled.values)
    assert len(list_read(reading)) == 20


def test_without_saved_values_it_is_said_how_to_get_them(copy):
    results = copy("blm")
    with pytest.raises(InputError, match=f"nipype-blm report {results.folder} reads them"):
        read_sampled(results)


def test_a_folder_that_cannot_be_written_gives_values_all_the_same(copy):
    results = copy("blm")
    (results.folder / "report").write_text("a file where the folder should be")
    sampled = sample_values(results, FEATURES)
    assert_array_equal(sampled.values, read_images(results, FEATURES))
    assert (results.folder / "report").is_file()


def test_a_table_of_somebody_else_stays(copy):
    results = copy("blm")
    (results.folder / "report").mkdir()
    (results.folder / "report" / "values.tsv").write_text("mine")
    assert sample_values(results, FEATURES).values.shape == (20, 4)
    assert (results.folder / "report" / "values.tsv").read_text() == "mine"


def test_large_images_are_not_read_for_a_few_voxels(copy, study):
    results = copy("blm")
    files = [*study.glob("images/*"), *study.glob("mask-*")]
    assert predict_bytes(results) == sum(path.stat().st_size for path in files)
    with pytest.raises(InputError, match="to be read for a few voxels, more than"):
        sample_values(results, FEATURES, most_bytes=predict_bytes(results) - 1)


def test_nothing_is_read_for_no_voxel(copy, reading):
    assert sample_values(copy("blm"), []).values.shape == (20, 0)
    assert list_read(reading) == []


def test_images_that_are_not_those_that_were_fitted_are_refused(copy):
    results = copy("blm")
    change_fitted(results.folder, zero_is_missing=False)
    with pytest.raises(InputError, match="the images are not those that were fitted"):
        sample_values(Results(results.folder), FEATURES)


def test_peaks_are_chosen_so_that_each_contrast_has_its_highest(copy):
    findings = find_all(copy("blm"))
    for found in findings.values():
        peaks = choose_peaks(found)
        assert 1 <= len(peaks) <= 3
        assert found.heights[peaks[0]] == found.heights.max()
    many = {f"{name} {i}": found for i in range(40) for name, found in findings.items()}
    assert set(choose_voxels(many)) == set(choose_voxels(findings))
    assert len(choose_voxels(many)) <= MOST_VOXELS


def test_a_linear_fit_is_that_of_least_squares_and_of_the_maps(copy):
    results = copy("blm")
    sampled = sample_values(results, FEATURES)
    fits = fit_voxels(results, sampled)
    assert list(fits) == FEATURES
    for column, feature in enumerate(FEATURES):
        found, y = fits[feature], sampled.values[:, column]
        present = ~np.isnan(y)
        X = results.X[present]
        beta = np.linalg.lstsq(X, y[present], rcond=None)[0]
        r = y[present] - X @ beta
        sigma = np.sqrt(r @ r / (present.sum() - 3))
        h = np.einsum("ij,ji->i", X, np.linalg.pinv(X))
        assert_allclose(found.beta, beta, rtol=1e-9)
        assert_allclose(found.covariance, sigma**2 * np.linalg.inv(X.T @ X), rtol=1e-8)
        assert_allclose(found.residual[present], r, atol=1e-9)
        assert_allclose(found.standardised[present], r / (sigma * np.sqrt(1 - h)), rtol=1e-7)
        assert np.isnan(found.residual[~present]).all()
        maps = [results.vector("beta", name)[feature] for name in results.column_names]
        assert_allclose(found.beta, maps, rtol=1e-5)
        assert_allclose(found.sigma**2, results.vector("resms")[feature], rtol=1e-5)


def test_a_mixed_fit_is_that_of_the_dense_formulas_and_of_the_maps(copy):
    results = copy("blmm")
    sampled = sample_values(results, FEATURES)
    person, scanner = results.factors
    for column, feature in enumerate(FEATURES):
        found, y = fit_voxels(results, sampled)[feature], sampled.values[:, column]
        present = ~np.isnan(y)
        d = [results.vector("D", i)[feature] for i in range(4)]
        blocks = [np.array([[d[0], d[1]], [d[1], d[2]]]), np.array([[d[3]]])]
        given = [f._replace(level=f.level[present], Z=f.Z[present]) for f in (person, scanner)]
        X = results.X[present]
        one = dense.criterion(y[present], X, given, blocks)
        ZDZ = [
            (f.level[:, None] == f.level) * (f.Z @ block @ f.Z.T)
            for f, block in zip(given, blocks, strict=True)
        ]
        V = np.eye(present.sum()) + sum(ZDZ)
        P = np.linalg.inv(V)
        P -= P @ X @ np.linalg.solve(X.T @ P @ X, X.T @ P)
        near = {"rtol": 1e-5, "atol": 1e-5 * np.sqrt(one.sigma2)}
        assert_allclose(found.beta, one.beta, rtol=1e-6)
        expected = one.sigma2 * np.linalg.inv(X.T @ np.linalg.solve(V, X))
        assert_allclose(found.covariance, expected, rtol=1e-5, atol=1e-9)
        assert_allclose(found.residual[present], P @ y[present], **near)
        for part, levels in zip(ZDZ, found.levels, strict=True):
            assert_allclose(levels.part[present], part @ P @ y[present], **near)
        # A residual has the variance sigma2 P_ii, whatever is taken for the random effects.
        scaled = P @ y[present] / np.sqrt(one.sigma2 * np.diag(P))
        assert_allclose(found.standardised[present], scaled, rtol=1e-4, atol=1e-4)
        maps = [results.vector("beta", name)[feature] for name in results.column_names]
        assert_allclose(found.beta, maps, rtol=1e-5)
        # Given the other estimates, b has the covariance sigma2 (D^-1 + Z'Z)^-1.
        Z = np.hstack(
            [
                f.Z[:, effect, None] * (f.level[:, None] == level)
                for f, n in zip(given, (5, 3), strict=True)
                for level in range(n)
                for effect in range(f.n_effects)
            ]
        )
        D = np.zeros((Z.shape[1],) * 2)
        D[:10, :10] = np.kron(np.eye(5), blocks[0])
        D[10:, 10:] = np.kron(np.eye(3), blocks[1])
        given_beta = one.sigma2 * (D - D @ Z.T @ np.linalg.solve(V, Z @ D))
        sd = np.concatenate([levels.sd.ravel() for levels in found.levels])
        scale = np.sqrt(one.sigma2)
        assert_allclose(
            sd, np.sqrt(np.maximum(np.diag(given_beta), 0)), rtol=1e-4, atol=1e-4 * scale
        )
