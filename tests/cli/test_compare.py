"""``blmm_compare`` on folders of results: real ones of ``blm``, dense ones of mixed models."""

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from saved_models import change_fitted, write_mixed_model
from scipy import stats

from nipype_blm.cli.compare import main
from nipype_blm.core.status import VoxelStatus
from nipype_blm.model.compare import ComparisonStatus
from nipype_blm.results.compare import MOST_ERROR
from nipype_blm.results.results import Results

N_LEVELS = 4
CODES = ComparisonStatus


class Comparisons:
    """Fits of the study's images, each in a folder of its own, and the command run on them."""

    def __init__(self, study, capsys):
        self.study, self.folder, self._capsys = study, study.folder, capsys
        self.out = self.folder / "comparison"
        self.age = np.round(study.X[:, 2], 6)
        study.X[:, 2] = self.age
        study.write_design(study.X)
        study.write("subjects.txt", "\n".join(f"S{i % N_LEVELS}" for i in range(len(study.X))))
        study.write("one.csv", "1\n" * len(study.X))
        study.write("one_age.csv", "".join(f"1,{age:.6f}\n" for age in self.age))

    def save_images(self, dtype):
        for i, values in enumerate(self.study.values):
            self.study.save_image(f"s{i:02}.nii", values, dtype)

    def fit_plain(self, name="blm", **changes):
        """Run blm; return the folder of its results."""
        result = self.study.run("--quiet", outdir=name, **changes)
        assert result.code == 0, result.err
        return self.folder / name

    def fit_mixed(
        self,
        plain,
        name,
        D,
        design="one.csv",
        dtype=np.float64,
        gain=0.0,
        *,
        reml=True,
        correlated=True,
    ):
        """Write the results of a mixed model with the covariance D of its random effects.

        `gain` is added to its log-likelihood.
        """
        folder = self.folder / name
        folder.mkdir()
        Z = np.loadtxt(self.folder / design, delimiter=",", ndmin=2)
        labels = (self.folder / "subjects.txt").read_text().split()
        write_mixed_model(plain, folder, labels, Z, correlated=correlated, reml=reml)
        for kind in ("mask", "n", "edf", "status"):
            source = self.find(plain, f"blm_vox_{kind}")
            shutil.copy(source, folder / source.name.replace("blm_", "blmm_"))
        mask = self.read(plain, "blm_vox_mask") == 1
        same = np.equal.outer(*[np.arange(len(Z)) % N_LEVELS] * 2)
        V = np.eye(len(Z)) + same * (Z @ np.atleast_2d(D) @ Z.T)
        llh = np.zeros(mask.shape)
        for voxel in np.argwhere(mask):
            where = tuple(voxel)
            llh[where] = gain + self.dense_llh(where, V, reml)
        extension = self.find(plain, "blm_vox_llh").name.partition(".")[2]
        self.save(folder / f"blmm_vox_llh.{extension}", llh.astype(dtype))
        return folder

    def dense_llh(self, voxel, V, reml):
        """Return the (restricted) log-likelihood of a voxel at V, sigma2 at its best."""
        y = self.study.values[(slice(None), *voxel)]
        present = y != 0
        y, X, V = y[present], self.study.X[present], V[np.ix_(present, present)]
        n, p = X.shape
        W = np.linalg.inv(V)
        A = X.T @ W @ X
        r = y - X @ np.linalg.solve(A, X.T @ W @ y)
        dof = n - p if reml else n
        deviance = dof * (1 + np.log(2 * np.pi * (r @ W @ r) / dof)) + np.linalg.slogdet(V)[1]
        return -0.5 * (deviance + (np.linalg.slogdet(A)[1] if reml else 0))

    def save(self, path, values):
        reference = nib.load(self.folder / "s00.nii")
        nib.save(nib.Nifti1Image(values, reference.affine), path)

    def change(self, folder, name, change):
        """Replace a map by what a function makes of it."""
        path = self.find(folder, name)
        values = np.asarray(nib.load(path).dataobj).copy()
        self.save(path, change(values))

    def find(self, folder, name):
        [path] = folder.glob(f"{name}.nii*")
        return path

    def read(self, folder, name):
        return np.asarray(nib.load(self.find(folder, name)).dataobj)

    def map(self, name):
        return self.read(self.out, f"blmm_vox_{name}")

    def compare(self, smaller, larger, *options):
        """Run the command; return its exit code and the lines of its messages."""
        self._capsys.readouterr()
        code = main([str(path) for path in (smaller, larger, self.out)] + list(options))
        self.printed, messages = self._capsys.readouterr()
        return code, messages.splitlines()


@pytest.fixture
def fits(study, capsys):
    return Comparisons(study, capsys)


# -- The numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize(
    ("dtype", "atol"),
    # Of double precision: roundings of numbers around 100.  Of single precision: llh up to 100,
    # of which half a unit in the last place is 4e-6, twice; the covariances of these designs
    # (condition up to 300) add 1e-5.
    [(np.float64, 1e-9), (np.float32, 5e-5)],
    ids=["double", "single"],
)
def test_chi2_is_the_gain_over_the_dense_likelihood_without_random_effects(fits, reml, dtype, atol):
    fits.save_images(dtype)
    plain = fits.fit_plain()
    assert nib.load(plain / "blm_vox_llh.nii").get_data_dtype() == dtype
    larger = fits.fit_mixed(plain, "larger", D=0, dtype=dtype, gain=1.5, reml=reml)
    assert fits.compare(plain, larger)[0] == 0
    mask = fits.read(plain, "blm_vox_mask")
    n = fits.read(plain, "blm_vox_n")[mask == 1]
    assert 12 in n
    assert (n < 12).any()
    assert_array_equal(fits.map("mask"), mask)
    # D is 0, so that all of Chi2 is twice the gain of 1.5; the other way to it goes over blm's
    # estimates at voxels with and without missing images.
    assert_allclose(fits.map("Chi2"), 3 * mask, rtol=0, atol=atol)


def test_p_is_that_of_scipy(fits):
    plain = fits.fit_plain()
    smaller = fits.fit_mixed(plain, "smaller", D=0.5)
    larger = fits.fit_mixed(plain, "larger", D=[[0.5, 0.1], [0.1, 0.3]], design="one_age.csv")
    fits.change(larger, "blmm_vox_llh", lambda llh: llh + np.arange(llh.size).reshape(llh.shape))
    assert fits.compare(smaller, larger)[0] == 0
    inside = fits.map("mask") == 1
    gain = fits.read(larger, "blmm_vox_llh") - fits.read(smaller, "blmm_vox_llh")
    chi2 = np.maximum(2 * gain, 0)[inside]
    assert (chi2 > 0).sum() > 10
    # The same subtraction of the same numbers.
    assert_allclose(fits.map("Chi2")[inside], chi2, rtol=1e-12, atol=0)
    p = (stats.chi2.sf(chi2, 1) + stats.chi2.sf(chi2, 2)) / 2
    # scipy.stats has some 13 digits.
    assert_allclose(fits.map("Chi2lp")[inside], -np.log10(p), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gain", [-0.7, 0.0])
def test_no_gain_gives_chi2_0_and_p_1(fits, gain):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0, dtype=np.float32, gain=gain)
    assert fits.compare(plain, larger)[0] == 0
    for name in ("Chi2", "Chi2lp"):
        values = fits.map(name)
        assert_array_equal(values, 0)
        assert not np.signbit(values).any()


def test_p_does_not_saturate(fits):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0, gain=5e5)
    assert fits.compare(plain, larger)[0] == 0
    log10_p = fits.map("Chi2lp")[fits.map("mask") == 1]
    # ln P(chi2_1 > x) = -x / 2 - ln(pi x / 2) / 2 + O(1 / x); Chi2 itself is right to 1e-9.
    expected = (5e5 + np.log(np.pi * 1e6 / 2) / 2 + np.log(2)) / np.log(10)
    assert_allclose(log10_p, expected, rtol=1e-10)


# -- Which voxels --------------------------------------------------------------------------


def counts(messages):
    return [line.removeprefix("notice: ") for line in messages if line.startswith("notice: ")]


def test_voxels_that_cannot_be_compared_are_excluded_with_a_reason_and_counted(fits):
    fits.save_images(np.float64)
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0, gain=1.0)
    inside = np.argwhere(fits.read(plain, "blm_vox_mask") == 1)
    a, b, c, d, e = map(tuple, inside[:5])

    def setting(voxel, value):
        def change(values):
            values[voxel] = value
            return values

        return change

    fits.change(larger, "blmm_vox_mask", setting(a, 0))
    fits.change(plain, "blm_vox_mask", setting(b, 0))
    fits.change(larger, "blmm_vox_n", lambda n: setting(c, n[c] - 1)(n))
    fits.change(larger, "blmm_vox_edf", lambda n: setting(c, n[c] - 1)(n))
    fits.change(larger, "blmm_vox_llh", setting(d, np.inf))
    fits.change(larger, "blmm_vox_status", setting(e, VoxelStatus.NOT_CONVERGED))
    code, messages = fits.compare(plain, larger)
    assert code == 0
    status = fits.map("status")
    reasons = [CODES.NOT_IN_LARGER, CODES.NOT_IN_SMALLER, CODES.N_DIFFERS, CODES.NO_LIKELIHOOD]
    assert [status[v] for v in (a, b, c, d)] == reasons
    assert status[e] == CODES.NOT_CONVERGED
    assert (status == CODES.COMPARED).sum() == len(inside) - 5
    assert_array_equal(fits.map("mask"), (status == 1) | (status == 2))
    assert_array_equal(fits.map("Chi2") > 0, fits.map("mask") == 1)
    found = counts(messages)
    assert found == [f"1 voxel {code.meaning}." for code in sorted([CODES.NOT_CONVERGED, *reasons])]


def test_without_covariances_reml_leaves_out_voxels_with_missing_images(fits):
    plain = fits.fit_plain(OutputCovB=False)
    larger = fits.fit_mixed(plain, "larger", D=0, gain=1.0)
    code, messages = fits.compare(plain, larger)
    assert code == 0
    inside = fits.read(plain, "blm_vox_mask") == 1
    n = fits.read(plain, "blm_vox_n")
    assert_array_equal(fits.map("mask") == 1, inside & (n == 12))
    missing = inside & (n < 12)
    assert (fits.map("status")[missing] == CODES.NO_COVARIANCE).all()
    assert counts(messages)[0].startswith(f"{missing.sum()} voxels excluded: images are missing")
    assert "OutputCovB: true" in counts(messages)[1]


def test_without_covariances_ml_compares_every_voxel(fits):
    plain = fits.fit_plain(OutputCovB=False)
    larger = fits.fit_mixed(plain, "larger", D=0, gain=1.0, reml=False)
    code, messages = fits.compare(plain, larger)
    assert (code, counts(messages)) == (0, [])
    assert_array_equal(fits.map("mask"), fits.read(plain, "blm_vox_mask"))


def test_voxels_at_which_rounding_decides_are_excluded(fits):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0, dtype=np.float32, gain=1.0)

    def make_huge(llh):
        llh[..., 0] += 3e6  # of which single precision has quarters
        return llh

    fits.change(larger, "blmm_vox_llh", make_huge)
    assert MOST_ERROR < 2 * 3e6 * 2**-24
    assert fits.compare(plain, larger)[0] == 0
    inside = fits.read(plain, "blm_vox_mask") == 1
    assert (fits.map("status")[..., 0][inside[..., 0]] == CODES.IMPRECISE).all()
    assert (fits.map("status")[..., 1][inside[..., 1]] == CODES.COMPARED).all()


def test_rounding_that_is_noticeable_is_noticed(fits):
    plain = fits.fit_plain()
    # 3e5 is known to 1 / 64, twice of which is in Chi2.
    larger = fits.fit_mixed(plain, "larger", D=0, dtype=np.float32, gain=3e5)
    code, messages = fits.compare(plain, larger)
    assert (code, counts(messages)) == (0, ["The rounding of maps may change Chi2 by up to 0.036."])


# -- The files -----------------------------------------------------------------------------


def test_maps_say_what_they_are_and_lie_where_the_images_do(fits):
    plain = fits.fit_plain()
    smaller = fits.fit_mixed(plain, "smaller", D=[[1, 0], [0, 1]], design="one_age.csv",
                             correlated=False)  # fmt: skip
    larger = fits.fit_mixed(plain, "larger", D=[[1, 0.2], [0.2, 1]], design="one_age.csv")
    code, messages = fits.compare(smaller, larger)
    assert (code, messages) == (0, [])
    names = ["mask", "status", "Chi2", "Chi2lp"]
    files = {f"blmm_vox_{name}.{ext}" for name in names for ext in ("nii", "json")}
    assert {path.name for path in fits.out.iterdir()} == files | {".nipype_blm.json"}
    intents = {}
    for name in names:
        image = nib.load(fits.find(fits.out, f"blmm_vox_{name}"))
        assert_array_equal(image.affine, nib.load(fits.folder / "s00.nii").affine)
        intents[name] = image.header.get_intent()[:2]
    assert intents == {
        "mask": ("label", ()),
        "status": ("label", ()),
        "Chi2": ("chi2", (1.0,)),
        "Chi2lp": ("log10 p value", ()),
    }
    sidecar = yaml.safe_load((fits.out / "blmm_vox_status.json").read_text())
    n = int(fits.map("mask").sum())
    assert sidecar["Voxels"] == {"0": 24 - n, "1": n}
    assert sidecar["Levels"]["1"] == "compared"
    sidecar = yaml.safe_load((fits.out / "blmm_vox_Chi2.json").read_text())
    assert sidecar["Smaller"] == str(smaller)
    assert sidecar["Larger"] == str(larger)
    assert sidecar["Criterion"] == "REML"
    assert sidecar["DegreesOfFreedom"] == [1]
    assert f"{n} voxels compared by REML; Chi2 against chi2_1." in fits.printed


def test_quiet_prints_nothing(fits):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0)
    assert fits.compare(plain, larger, "--quiet") == (0, [])
    assert fits.printed == ""


def test_compressed_results_give_the_same_in_compressed_maps(fits):
    found = []
    for name, compress in (("plain", False), ("compressed", True)):
        plain = fits.fit_plain(name, compress=compress)
        larger = fits.fit_mixed(plain, f"{name} mixed", D=0.4, gain=2.0)
        fits.out = fits.folder / f"{name} comparison"
        assert fits.compare(plain, larger)[0] == 0
        names = ("mask", "status", "Chi2", "Chi2lp")
        suffixes = {fits.find(fits.out, f"blmm_vox_{name}").suffix for name in names}
        assert suffixes == {".gz" if compress else ".nii"}
        found.append([fits.map(name) for name in names])
    assert_array_equal(*found)


def test_the_same_comparison_again_writes_nothing(fits):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0.3)

    def times():
        return {path: path.stat().st_mtime_ns for path in fits.out.iterdir()}

    assert fits.compare(plain, larger)[0] == 0
    before = times()
    assert fits.compare(plain, larger)[0] == 0
    assert times() == before
    fits.change(larger, "blmm_vox_llh", lambda llh: llh + 1)
    assert fits.compare(plain, larger)[0] == 0
    assert times() != before


def test_another_comparison_from_elsewhere_is_replaced_only_with_overwrite(fits, monkeypatch):
    plain = fits.fit_plain()
    larger, other = (fits.fit_mixed(plain, name, D=0.3, gain=g) for name, g in (("a", 1), ("b", 2)))
    assert fits.compare(plain, larger)[0] == 0
    before = fits.map("Chi2")
    (fits.folder / "elsewhere").mkdir()
    monkeypatch.chdir(fits.folder / "elsewhere")
    code, messages = fits.compare(plain, other)
    assert code == 2
    assert f"{fits.out} has the results of another model, made in " in messages[0]
    assert_array_equal(fits.map("Chi2"), before)
    assert fits.compare(plain, larger)[0] == 0  # the same one
    assert fits.compare(plain, other, "--overwrite")[0] == 0
    assert not np.array_equal(fits.map("Chi2"), before)


def test_the_larger_model_may_come_first_with_a_notice(fits):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0, gain=1.0)
    code, messages = fits.compare(larger, plain)
    assert (code, messages) == (
        0,
        [f"notice: {larger} has the larger model: the two were swapped."],
    )
    assert (fits.map("Chi2")[fits.map("mask") == 1] > 1.9).all()


# -- What is refused -----------------------------------------------------------------------


def remove_llh(fits, plain, larger):
    (larger / "blmm_vox_llh.nii").unlink()


def remove_model(fits, plain, larger):
    shutil.rmtree(plain / "model")


def remove_folder(fits, plain, larger):
    shutil.rmtree(larger)


def remove_both_llh(fits, plain, larger):
    shutil.copy(larger / "blmm_vox_llh.nii", larger / "blmm_vox_llh.nii.gz")


def drop_row(folder):
    """Take the last image out of a saved model."""
    saved = Results(folder)
    factors = [f._replace(level=f.level[:-1], Z=f.Z[:-1]) for f in saved.factors]
    change_fitted(folder, X=saved.X[:-1], images=saved.images[:-1], factors=factors)


def list_fewer_images(fits, plain, larger):
    drop_row(larger)


def list_images_in_another_order_than_x(fits, plain, larger):
    change_fitted(larger, images=Results(larger).images[::-1])


def change_image(folder, number, **changes):
    images = list(Results(folder).images)
    images[number] = images[number]._replace(**changes)
    change_fitted(folder, images=images)


def list_another_image(fits, plain, larger):
    change_image(larger, 3, image=str(fits.folder / "t03.nii"))


def make_an_image_anew_between_the_runs(fits, plain, larger):
    image = Results(larger).images[3]
    change_image(larger, 3, mtime_ns=image.mtime_ns + 10**10)


def list_another_volume(fits, plain, larger):
    change_image(larger, 3, volume=2)


def mask_the_data(fits, plain, larger):
    images = [each._replace(mask="m.nii") for each in Results(larger).images]
    change_fitted(larger, images=images)


def change_a_cell_of_x(fits, plain, larger):
    X = Results(larger).X.copy()
    X[4, 1] += 0.5
    change_fitted(larger, X=X)


def change_a_cell_of_x_in_its_seventh_digit(fits, plain, larger):
    X = Results(larger).X.copy()
    X[4, 2] *= 1 + 1e-7
    change_fitted(larger, X=X)


def drop_a_column_of_x(fits, plain, larger):
    change_fitted(larger, X=Results(larger).X[:, :2], column_names=["a", "b"], contrasts=[])


def bring_the_models_of_other_runs(fits, plain, larger):
    for folder in (plain, larger):
        drop_a_column_of_x(fits, plain, folder)


def bring_the_models_of_runs_with_fewer_images(fits, plain, larger):
    for folder in (plain, larger):
        drop_row(folder)


def take_other_values_as_missing(fits, plain, larger):
    change_fitted(larger, threshold=5.0, zero_is_missing=False)


def fit_by_ml(fits, plain, larger):
    change_fitted(larger, reml=False)
    mixed = fits.fit_mixed(plain, "mixed", D=[[1, 0], [0, 1]], design="one_age.csv")
    shutil.rmtree(plain)
    mixed.rename(plain)


def move_the_grid(fits, plain, larger):
    image = nib.load(larger / "blmm_vox_llh.nii")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), larger / "blmm_vox_llh.nii")


def add_two_effects(fits, plain, larger):
    [factor] = Results(larger).factors
    Z = np.column_stack([factor.Z, fits.age])
    change_fitted(larger, factors=[factor._replace(Z=Z)], effect_names=[["one", "age"]])


def cut_the_factor(fits, plain, larger):
    path = larger / "model" / "factor-1.tsv"
    path.write_bytes(path.read_bytes()[:-9])


def edit_the_design(fits, plain, larger):
    path = plain / "model" / "X.tsv"
    path.write_text(path.read_text().replace("\t1.0", "\t2.0", 1))


def compare_into_a_run(fits, plain, larger):
    fits.out = plain


def empty_one_half_each(fits, plain, larger):
    def keep(part):
        def change(mask):
            mask[part] = 0
            return mask

        return change

    fits.change(plain, "blm_vox_mask", keep(np.s_[:2]))
    fits.change(larger, "blmm_vox_mask", keep(np.s_[2:]))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (remove_folder, ["larger is not a folder; expected the outdir of a run"]),
        (remove_model, ["blm has no model/model.json; expected the outdir of a run"]),
        (remove_llh, ["larger has no blmm_vox_llh.nii or .nii.gz; expected the outdir of a run"]),
        (remove_both_llh, ["larger has both blmm_vox_llh.nii and blmm_vox_llh.nii.gz"]),
        (list_fewer_images, ["Y_files of", "name 12 and 11 images"]),
        (list_images_in_another_order_than_x, ["X of", "differ: 0 and 1 in row 1, column 2"]),
        (list_another_image, ["different images, such as", "s03.nii and", "t03.nii"]),
        (
            make_an_image_anew_between_the_runs,
            ["of which 1 had another size or time", "s03.nii and "],
        ),
        (list_another_volume, ["different images, such as", "s03.nii and", "s03.nii, volume 2"]),
        (mask_the_data, ["data_mask_files of", "name 0 and 12 masks"]),
        (change_a_cell_of_x, ["X of", "differ: 0 and 0.5 in row 5, column 2 of the numbers"]),
        (change_a_cell_of_x_in_its_seventh_digit, ["differ: ", "in row 5, column 3"]),
        (drop_a_column_of_x, ["12 rows and 3 columns and 12 rows and 2 columns"]),
        (bring_the_models_of_other_runs, ["12 rows and 2 columns", "do not agree", "run it again"]),
        (
            bring_the_models_of_runs_with_fewer_images,
            ["has 11 rows and 3 columns", "do not agree", "run it again"],
        ),
        (take_other_values_as_missing, ["data_mask_thresh is None in", "zero_is_missing is True"]),
        (fit_by_ml, ["fitted by ML, but", "by REML; fit both with the same reml"]),
        (move_the_grid, ["are not on the grid of those of", "its affine is"]),
        (add_two_effects, ["adds 2 random effects at once"]),
        (cut_the_factor, ["factor-1.tsv is not as the run wrote it", "or run it again"]),
        (edit_the_design, ["X.tsv is not as the run wrote it", "or run it again"]),
        (compare_into_a_run, ["holds the results of a run", "choose another folder"]),
        (empty_one_half_each, ["can be compared at no voxel", "outside the mask of the larger"]),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason_and_nothing_written(
    fits, contents_of, change, reasons
):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0)
    change(fits, plain, larger)
    before = contents_of(fits.folder)
    code, messages = fits.compare(plain, larger)
    assert code == 2
    assert all(line.startswith("error: ") for line in messages)
    for reason in reasons:
        assert reason in "\n".join(messages)
    assert contents_of(fits.folder) == before


def test_all_that_two_runs_do_not_share_is_reported_together(fits):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0)
    list_fewer_images(fits, plain, larger)
    change_a_cell_of_x(fits, plain, larger)
    move_the_grid(fits, plain, larger)
    code, messages = fits.compare(plain, larger)
    assert code == 2
    assert len(messages) == 3


def test_an_output_folder_that_cannot_be_made_is_an_error_without_a_traceback(fits):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0)
    fits.out = fits.folder / "X.csv"
    code, [message] = fits.compare(plain, larger)
    assert code == 1
    assert message.startswith("error: ")
    assert "X.csv" in message


def test_the_page_on_comparisons_has_a_row_for_each_status():
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(str(int(code)), code.name, code.meaning) for code in ComparisonStatus]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_describes_itself(option, capsys):
    with pytest.raises(SystemExit) as end:
        main([option])
    assert end.value.code == 0
    assert "blmm_compare" in capsys.readouterr().out or option == "--version"


def test_relative_folders_start_from_the_current_one(fits, monkeypatch):
    plain = fits.fit_plain()
    larger = fits.fit_mixed(plain, "larger", D=0)
    monkeypatch.chdir(fits.folder)
    fits.out = Path("new") / "comparison"
    assert fits.compare(plain.name, larger.name)[0] == 0
    assert (fits.folder / "new" / "comparison" / "blmm_vox_Chi2.nii").is_file()
