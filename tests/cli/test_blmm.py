"""``blmm CONFIG.yml``: a mixed model from images to maps, and what it says of bad input."""

import itertools
import logging
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import yaml
from scipy import stats

from nipype_blm import __version__
from nipype_blm.cli.blmm import main
from nipype_blm.cli.fit import load_config
from nipype_blm.core.status import VoxelStatus
from nipype_blm.frontends.blm import list_entries
from nipype_blm.frontends.fields import FactorFields
from nipype_blm.stages.plan import prepare_run

SHAPE = (4, 3, 2)
N_SUBJECTS, N_VISITS = 8, 5
N_IMAGES = N_SUBJECTS * N_VISITS
MODELS = ("intercept", "slope", "diagonal", "crossed")


class MixedStudy:
    """Forty images of eight subjects at four sites, in no order; most voxels miss some."""

    def __init__(self, study):
        study.model = "blmm"
        rng = np.random.default_rng(1)
        order = rng.permutation(N_IMAGES)
        self.study = study
        self.subject = np.repeat(np.arange(N_SUBJECTS), N_VISITS)[order]
        self.site = rng.integers(0, 4, N_IMAGES)
        self.day = np.tile(np.arange(N_VISITS) - 2.0, N_SUBJECTS)[order]
        study.X = np.c_[np.ones(N_IMAGES), self.day, rng.normal(size=N_IMAGES).round(6)]
        study.write_design(study.X)
        noise = rng.normal(size=(N_IMAGES, *SHAPE))
        between = rng.normal(size=(N_SUBJECTS, *SHAPE))
        slopes = rng.normal(size=(N_SUBJECTS, *SHAPE))
        sites = rng.normal(size=(4, *SHAPE))
        values = 100 + 8 * between[self.subject] + 5 * sites[self.site] + 6 * noise
        values += (2 * slopes[self.subject].T * self.day).T
        study.values = values.round().astype(int)
        study.values[rng.random(values.shape) < 0.1] = 0
        study.values[:, :, :, 1] = values.round()[:, :, :, 1]  # nothing is missing here
        study.values[:, 0, 0, 0] = 0
        study.values[2:, 1, 0, 0] = 0
        for i, image in enumerate(study.values):
            study.save_image(f"s{i:02}.nii", image, np.float64)
        study.write("Y.txt", "".join(f"s{i:02}.nii\n" for i in range(N_IMAGES)))
        study.write("subject.txt", "".join(f"sub-{i:02}\n" for i in self.subject))
        study.write("site.txt", "".join(f"{i}\n" for i in self.site))
        study.write("one.csv", "intercept\n" + "1\n" * N_IMAGES)
        study.write("one_day.csv", "intercept,day\n" + "".join(f"1,{d:g}\n" for d in self.day))
        study.fields |= {
            "contrasts": [
                {"c1": {"name": "day", "vector": [0, 1, 0]}},
                {"c2": {"name": "any", "vector": [[0, 1, 0], [0, 0, 1]]}},
                {"c3": {"name": "mean", "vector": [1, 0, 0]}},
            ],
            "Z": self.random("intercept"),
        }

    def random(self, model):
        """Return the field Z of a model."""
        design = "one_day.csv" if model in ("slope", "diagonal") else "one.csv"
        subject = {"name": "subject", "factor": "subject.txt", "design": design}
        if model == "diagonal":
            subject["correlated"] = False
        site = {"name": "site", "factor": "site.txt", "design": "one.csv"}
        return [{"f1": subject}, *([{"f2": site}] if model == "crossed" else [])]

    def covariance(self, model, vech, rows):
        """Return I + Z D Z' of some rows, given vech(D) column by column, factor by factor."""
        day = np.c_[np.ones(N_IMAGES), self.day][rows]
        same = self.subject[rows, None] == self.subject[rows]
        if model in ("slope", "diagonal"):
            D = np.array([[vech[0], vech[1]], [vech[1], vech[2]]])
            return np.eye(len(day)) + same * (day @ D @ day.T)
        V = np.eye(len(day)) + same * vech[0]
        if model == "crossed":
            V += (self.site[rows, None] == self.site[rows]) * vech[1]
        return V


@pytest.fixture
def mixed(study):
    return MixedStudy(study)


@pytest.fixture
def study_of_blmm(mixed):
    return mixed.study


def profile(y, X, V, reml):
    """Return llh, beta, sigma2 and cov(beta) of y ~ N(X beta, sigma2 V)."""
    n, p = X.shape
    inverse = np.linalg.inv(V)
    information = X.T @ inverse @ X
    beta = np.linalg.solve(information, X.T @ inverse @ y)
    dof = n - p if reml else n
    sigma2 = (y - X @ beta) @ inverse @ (y - X @ beta) / dof
    deviance = np.linalg.slogdet(V)[1] + dof * (1 + np.log(2 * np.pi * sigma2))
    if reml:
        deviance += np.linalg.slogdet(information)[1]
    return -deviance / 2, beta, sigma2, sigma2 * np.linalg.inv(information)


# -------------------------------------------------------------------------------- the maps


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_maps_are_those_of_the_dense_model_at_its_largest_likelihood(mixed, model, reml):
    study = mixed.study
    assert study.run(Z=mixed.random(model), reml=reml, images_per_batch=9).code == 0
    fitted = np.argwhere(study.map("mask"))
    assert len(fitted) == 22
    maps = {name: study.map(name) for name in ("llh", "beta", "sigma2", "D", "cov")}
    for voxel in map(tuple, fitted):
        rows = study.values[(slice(None), *voxel)] != 0
        y, X = study.values[(slice(None), *voxel)][rows], study.X[rows]
        vech = maps["D"][voxel]
        found = profile(y, X, mixed.covariance(model, vech, rows), reml)
        # A handful of roundings of sums over 40 images.
        np.testing.assert_allclose(maps["llh"][voxel], found[0], rtol=1e-10)
        np.testing.assert_allclose(maps["beta"][voxel], found[1], rtol=1e-9)
        np.testing.assert_allclose(maps["sigma2"][voxel], found[2], rtol=1e-9)
        np.testing.assert_allclose(maps["cov"][voxel], found[3].ravel(), rtol=1e-8, atol=1e-10)
        for change in _steps(model, vech):
            nearby = profile(y, X, mixed.covariance(model, vech + change, rows), reml)[0]
            # An optimum, but for the tolerance of the iterations.
            assert nearby < found[0] + 1e-6


def _steps(model, vech):
    """Return small steps to other covariances D in all directions that D may take."""
    size = 0.01 * (vech[0] + 0.1)
    for signs in itertools.product([-1, 0, 1], repeat=len(vech)):
        change = size * np.array(signs)
        if model == "diagonal" and change[1] != 0:
            continue
        D = vech + change
        if model in ("slope", "diagonal"):
            is_valid = min(D[0], D[2]) >= 0 and D[0] * D[2] >= D[1] ** 2
        else:
            is_valid = (D >= 0).all()
        if is_valid:
            yield change


def test_maps_that_follow_from_others_do(mixed):
    study = mixed.study
    study.run(Z=mixed.random("crossed"), resms=1)
    mask = study.map("mask") > 0
    maps = {
        path.stem.removeprefix("blmm_vox_"): np.asarray(nib.load(path).dataobj)[mask]
        for path in study.outdir.glob("*.nii")
    }
    assert len(mask[mask]) == 22
    # The maps are double precision: what follows from them has a few roundings of 1e-16.
    close = {"rtol": 1e-12, "atol": 0}
    np.testing.assert_array_equal(maps["edf"], maps["n"] - 3)
    np.testing.assert_allclose(maps["varcomp"], maps["D"] * maps["sigma2"][:, None], **close)
    total = maps["D"].sum(axis=1, keepdims=True) + 1
    np.testing.assert_allclose(maps["icc"], maps["D"] / total, **close)
    np.testing.assert_allclose(maps["conSE"] ** 2, maps["cov"][:, [4, 0]], **close)
    np.testing.assert_allclose(maps["con"], maps["beta"][:, [1, 0]], **close)
    np.testing.assert_allclose(maps["conT"], maps["con"] / maps["conSE"], **close)
    # SciPy's tails have ten digits or more.
    tail = stats.t.logsf(maps["conT"], maps["conT_swedf"]) / -np.log(10)
    np.testing.assert_allclose(maps["conTlp"], tail, rtol=1e-8)
    tail = stats.f.logsf(maps["conF"], 2, maps["conF_swedf"]) / -np.log(10)
    np.testing.assert_allclose(maps["conFlp"], tail, rtol=1e-8)
    F, dof = maps["conF"], maps["conF_swedf"]
    np.testing.assert_allclose(maps["conR2"], 2 * F / (2 * F + dof), **close)
    rows = np.nonzero(mask)
    for voxel, (i, resms) in zip(zip(*rows, strict=True), enumerate(maps["resms"]), strict=True):
        y = study.values[(slice(None), *voxel)]
        residual = (y - study.X @ maps["beta"][i])[y != 0]
        np.testing.assert_allclose(resms, residual @ residual / maps["edf"][i], rtol=1e-9)


def test_the_share_of_an_intercept_does_not_depend_on_its_units(mixed):
    study = mixed.study
    study.run(tol="1e-12")
    icc, D = study.map("icc"), study.map("D")
    study.write("one.csv", "intercept\n" + "-2.5\n" * N_IMAGES)
    study.run(tol="1e-12")
    # The largest likelihood to 1e-12 is the best D to about the root of that.
    np.testing.assert_allclose(study.map("icc"), icc, atol=1e-5)
    np.testing.assert_allclose(study.map("D") * 2.5**2, D, atol=1e-5)


def test_without_any_intercept_there_is_no_icc(mixed):
    study = mixed.study
    study.write("day.csv", "day\n" + "".join(f"{d:g}\n" for d in mixed.day))
    study.fields["Z"][0]["f1"]["design"] = "day.csv"
    assert study.run().code == 0
    assert "blmm_vox_icc.nii" not in study.results()


NAMES = ["mask", "status", "n", "edf", "beta", "sigma2", "D", "varcomp", "icc", "llh", "nit", "cov"]
NAMES += ["con", "conSE", "conT", "conTlp", "conT_swedf", "conF", "conFlp", "conF_swedf", "conR2"]
VOLUMES = {"beta": 3, "cov": 9, "D": 3, "varcomp": 3, "icc": 1, "con": 2, "conSE": 2}
VOLUMES |= {"conT": 2, "conTlp": 2, "conT_swedf": 2}
VOLUMES |= {"conF": 1, "conFlp": 1, "conF_swedf": 1, "conR2": 1}


def test_the_output_folder_holds_the_documented_files_and_no_other(mixed):
    study = mixed.study
    assert study.run(Z=mixed.random("slope")).code == 0
    visible = {name for name in study.results() if not name.startswith(".")}
    expected = {f"blmm_vox_{name}{end}" for name in NAMES for end in (".nii", ".json")}
    assert visible == expected | {"inputs.yml", "contrasts", "model"}
    for name in NAMES:
        image = nib.load(study.path(f"blmm_vox_{name}"))
        assert image.shape[3:] == ((VOLUMES[name],) if name in VOLUMES else ()), name
        assert np.isfinite(image.get_fdata()).all(), name
    kinds = {path.name.split("_")[1] for path in study.outdir.glob("contrasts/*.nii")}
    assert kinds == {f"stat-{kind}" for kind in ["effect", "variance", "t", "F", "z", "p", "dof"]}


def test_resms_and_covariances_are_written_if_asked_for(study_of_blmm):
    study_of_blmm.run(resms=True, OutputCovB=False)
    maps = study_of_blmm.maps()
    assert "blmm_vox_resms" in maps
    assert "blmm_vox_cov" not in maps


def test_degrees_of_freedom_of_a_contrast_are_those_of_the_4d_maps(study_of_blmm):
    maps = study_of_blmm.maps_of()
    T, F = maps["blmm_vox_conT_swedf"], maps["blmm_vox_conF_swedf"]
    found = [maps[f"contrast-{name}_stat-dof_statmap"] for name in ("day", "mean", "any")]
    np.testing.assert_array_equal(found[0], T[..., 0])
    np.testing.assert_array_equal(found[1], T[..., 1])
    np.testing.assert_array_equal(found[2], F[..., 0])
    fitted = maps["blmm_vox_mask"] > 0
    medians = []
    for i, (name, values) in enumerate({"day": T[..., 0], "mean": T[..., 1]}.items()):
        stem = f"contrasts/contrast-{name}_stat-t_statmap"
        described = study_of_blmm.sidecar(stem)["DegreesOfFreedom"]
        expected = [f(values[fitted]) for f in (np.min, np.median, np.max)]
        found = [described[name] for name in ("Minimum", "Median", "Maximum")]
        np.testing.assert_allclose(found, expected, rtol=1e-6)  # maps are single precision
        medians.append(described["Median"])
        image = nib.load(study_of_blmm.outdir / f"{stem}.nii")
        np.testing.assert_allclose(image.header.get_intent()[1], medians[i], rtol=1e-6)
        stacked = study_of_blmm.sidecar("blmm_vox_conT")["Contrasts"][i]
        assert stacked["DegreesOfFreedom"] == described
    header = nib.load(study_of_blmm.path("blmm_vox_conT")).header
    np.testing.assert_allclose(header.get_intent()[1], min(medians), rtol=1e-6)


@pytest.mark.parametrize("reml", [True, False])
def test_sidecars_name_criterion_effects_and_units(mixed, reml):
    study = mixed.study
    study.run(Z=mixed.random("slope"), reml=reml)
    assert study.sidecar("blmm_vox_llh")["Criterion"] == ("REML" if reml else "ML")
    D = study.sidecar("blmm_vox_D")
    assert "relative to sigma2" in D["Description"]
    labels = ["subject: intercept", "subject: intercept x day", "subject: day"]
    assert D["Volumes"] == study.sidecar("blmm_vox_varcomp")["Volumes"] == labels
    assert study.sidecar("blmm_vox_icc")["Volumes"] == ["subject"]


def test_effects_without_a_header_have_names_too(mixed):
    study = mixed.study
    study.write("one_day.csv", "".join(f"1,{d:g}\n" for d in mixed.day))
    study.run(Z=mixed.random("slope"))
    labels = ["subject: intercept", "subject: intercept x effect 2", "subject: effect 2"]
    assert study.sidecar("blmm_vox_D")["Volumes"] == labels


# ------------------------------------------------------------------- what changes nothing


def assert_same_maps(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one.keys() - {"blmm_vox_nit"}:
        np.testing.assert_allclose(other[name], one[name], **tolerance, err_msg=name)


# Sums in another order; where iterations end within their tolerance depends on rounding, and
# the last steps of Newton's method are well below it.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("model", ["slope", "crossed"])
def test_the_order_of_the_images_does_not_matter(mixed, model):
    study = mixed.study
    Z = mixed.random(model)
    before = study.maps_of(Z=Z, images_per_batch=9)
    order = np.random.default_rng(5).permutation(N_IMAGES)
    for name in ("Y.txt", "subject.txt", "site.txt"):
        lines = (study.folder / name).read_text().splitlines(keepends=True)
        study.write(name, "".join(lines[i] for i in order))
    lines = (study.folder / "one_day.csv").read_text().splitlines(keepends=True)
    study.write("one_day.csv", "".join([lines[0], *(lines[1 + i] for i in order)]))
    study.write_design(study.X[order])
    assert_same_maps(before, study.maps_of(Z=Z, images_per_batch=9), **ROUNDING)


def test_the_names_of_levels_do_not_matter(mixed):
    study = mixed.study
    before = study.maps_of()
    study.write("subject.txt", "".join(f"{100 - i}\n" for i in mixed.subject))
    assert_same_maps(before, study.maps_of(), **ROUNDING)


def test_batches_and_blocks_do_not_matter(mixed):
    study = mixed.study
    Z = mixed.random("slope")
    before = study.maps_of(Z=Z)
    assert_same_maps(before, study.maps_of(Z=Z, images_per_batch=7), **ROUNDING)
    split = study.maps_of(Z=Z, voxels_per_block=5)
    for name in before:  # a voxel is fitted by itself
        np.testing.assert_array_equal(split[name], before[name], err_msg=name)


def test_threads_do_not_change_a_bit(study_of_blmm):
    before = study_of_blmm.maps_of(numNodes=1)
    after = study_of_blmm.maps_of(numNodes=2, work_dir="other_work")
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_inputs_yml_runs_again(study_of_blmm):
    before = study_of_blmm.maps_of(safeMode=False, tol="1e-8", maxnit=77)
    (study_of_blmm.outdir / "blmm_vox_beta.nii").unlink()
    assert study_of_blmm.command(study_of_blmm.outdir / "inputs.yml").code == 0
    for name, values in study_of_blmm.maps().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
    recorded = yaml.safe_load((study_of_blmm.outdir / "inputs.yml").read_text())
    assert (recorded["safeMode"], recorded["tol"], recorded["maxnit"]) == (False, 1e-8, 77)


# ---------------------------------------------------------------------- in which order


def prepare(study, **changes):
    return prepare_run(load_config(study.configure(**changes), "blmm"))


def test_images_are_read_by_the_levels_of_the_largest_factor(mixed):
    run = prepare(mixed.study, Z=mixed.random("crossed")[::-1])
    site, subject = run.spec.factors
    assert (subject.name, subject.n_levels) == ("subject", N_SUBJECTS)
    assert (np.diff(subject.level) >= 0).all()
    order = np.argsort(mixed.subject, kind="stable")
    np.testing.assert_array_equal(run.spec.X, mixed.study.X[order])
    np.testing.assert_array_equal(site.level, mixed.site[order])
    assert [entry.row for entry in run.images] == list(range(N_IMAGES))
    # Messages name the line of the user.
    assert [entry.where for entry in run.images] == [f"line {i + 1} of Y.txt" for i in order]
    assert [entry.image.name for entry in run.images] == [f"s{i:02}.nii" for i in order]


def test_masks_go_with_their_images(mixed):
    study = mixed.study
    for i in range(N_IMAGES):
        study.save_image(f"m{i:02}.nii", np.ones(SHAPE), np.uint8)
    study.write("M.txt", "".join(f"m{i:02}.nii\n" for i in range(N_IMAGES)))
    run = prepare(study, data_mask_files="M.txt")
    assert [e.mask.name for e in run.images] == [e.image.name.replace("s", "m") for e in run.images]


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
def test_volumes_of_a_compressed_image_are_read_in_their_order(mixed, extension):
    study = mixed.study
    study.save_image(f"all.{extension}", np.moveaxis(study.values, 0, 3), np.float64)
    run = prepare(study, Y_files=f"all.{extension}")
    volumes = [entry.volume for entry in run.images]
    in_order = (
        np.arange(N_IMAGES) if extension == "nii.gz" else np.argsort(mixed.subject, kind="stable")
    )
    np.testing.assert_array_equal(volumes, in_order)
    np.testing.assert_array_equal(run.spec.X, study.X[in_order])


def test_one_compressed_image_gives_the_maps_of_its_volumes(mixed):
    study = mixed.study
    before = study.maps_of()
    study.save_image("all.nii.gz", np.moveaxis(study.values, 0, 3), np.float64)
    assert_same_maps(before, study.maps_of(Y_files="all.nii.gz", images_per_batch=9), **ROUNDING)


# ----------------------------------------------------------------------------- the command


def test_the_summary_counts_voxels_by_what_happened(study_of_blmm):
    result = study_of_blmm.run()
    assert result.code == 0
    status = study_of_blmm.map("status")
    for value in np.unique(status):
        n = (status == value).sum()
        assert f"{n} voxels {VoxelStatus(value).meaning}" in result.out
    assert re.findall(r"^  (day|any|mean) ", result.out, re.MULTILINE) == ["day", "any", "mean"]


def test_voxels_without_convergence_are_counted_in_a_warning_and_in_the_summary(
    study_of_blmm, caplog
):
    with caplog.at_level(logging.WARNING, "nipype_blm"):
        result = study_of_blmm.run(maxnit=1)
    n = (study_of_blmm.map("status") == VoxelStatus.NOT_CONVERGED).sum()
    assert n > 10
    [warning] = [r.getMessage() for r in caplog.records if "without convergence" in r.getMessage()]
    log = study_of_blmm.outdir / "work" / "blmm_wf" / "logs" / "nipype.log"
    assert warning in log.read_text()
    assert warning.startswith(f"{n} voxels")
    assert f"{n} voxels {VoxelStatus.NOT_CONVERGED.meaning}" in result.out


def test_safe_mode_drops_voxels_with_no_more_images_than_random_effects(study_of_blmm):
    values = study_of_blmm.values
    values[N_SUBJECTS - 1 :, 3, 2, 1] = 0
    for i in range(N_IMAGES):
        study_of_blmm.save_image(f"s{i:02}.nii", values[i], np.float64)
    for safe, expected in [(True, True), (False, False)]:
        study_of_blmm.run(safeMode=safe)
        status = study_of_blmm.map("status")[3, 2, 1]
        assert (status == VoxelStatus.TOO_MANY_EFFECTS) == expected


def test_check_names_the_random_factors_and_writes_nothing(mixed, contents_of):
    study = mixed.study
    config = study.configure(Z=mixed.random("crossed"))
    before = contents_of(study.folder)
    result = study.command(config, "--check")
    assert result.code == 0
    assert "Random factor subject: 8 levels, 1 effect of each; " in result.out
    assert "Random factor site: 4 levels" in result.out
    assert contents_of(study.folder) == before


def test_clean_removes_the_intermediate_files(study_of_blmm):
    assert study_of_blmm.run("--clean").code == 0
    assert not (study_of_blmm.outdir / "work").exists()


def test_help_explains_every_field(study_of_blmm):
    result = study_of_blmm.command("--help")
    assert result.code == 0
    assert "usage: blmm" in result.out
    for name in [*(entry.name for entry in list_entries("blmm")), *FactorFields.model_fields]:
        assert name in result.out


def test_the_command_of_its_own_module_is_that_of_mixed_models(study_of_blmm, capsys):
    assert main([str(study_of_blmm.configure()), "--check"]) == 0
    assert "Random factor subject" in capsys.readouterr().out
    command = [sys.executable, "-m", "nipype_blm.cli.blmm", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"nipype_blm {__version__}\n"


# --------------------------------------------------------------------------------- bad input


def test_each_command_refuses_the_configuration_of_the_other(study_of_blmm):
    study_of_blmm.model = "blm"
    [problem] = study_of_blmm.run().errors
    assert "blmm" in problem
    study_of_blmm.model = "blmm"
    [problem] = study_of_blmm.run(Z=None).errors
    assert "use blm" in problem


def test_all_faults_are_reported_at_once_before_any_image_is_read(mixed, monkeypatch):
    study = mixed.study
    study.write("subject.txt", "sub-01\n" * (N_IMAGES - 1))
    study.write("bad.csv", "1\n" * (N_IMAGES - 1) + "x\n")
    study.fields["Z"] = [
        {"f1": {"name": "subject", "factor": "subject.txt", "design": "one.csv"}},
        {"f2": {"name": "site", "factor": "lost.txt", "design": "bad.csv"}},
    ]
    (study.folder / "s03.nii").unlink()
    monkeypatch.setattr("nipype_blm.data.images.ImageReader.read", None)  # nothing gets so far
    contrasts = [{"c1": {"name": "short", "vector": [1]}}]
    result = study.run(contrasts=contrasts, analysis_mask="lost.nii")
    assert result.code == 2
    for part in [
        f"subject.txt has {N_IMAGES - 1} ",
        "lost.txt cannot be read",
        "bad.csv must hold finite numbers only",
        "s03.nii",
        "short",
        "lost.nii",
    ]:
        assert any(part in error for error in result.errors), part
    assert not study.outdir.exists()


def test_a_design_of_another_length_than_the_factors_is_reported(mixed):
    mixed.study.write_design(mixed.study.X[1:])
    [error] = mixed.study.run().errors
    assert f"X has {N_IMAGES - 1} rows, but there are {N_IMAGES} images" in error


def test_faults_of_the_fields_and_of_the_files_come_together(mixed):
    study = mixed.study
    study.write("subject.txt", "sub-01\n")
    errors = study.run(method="Newton", tol=0).errors
    assert any("Newton" in error for error in errors)
    assert any("tol" in error for error in errors)
    assert any("subject.txt" in error for error in errors)


def test_a_fault_of_z_does_not_hide_those_of_other_files(study_of_blmm):
    (study_of_blmm.folder / "s03.nii").unlink()
    errors = study_of_blmm.run(Z=[{"f1": {"name": "subject", "factor": 3}}]).errors
    assert any("s03.nii" in error for error in errors)
    assert any("Z" in error for error in errors)


@pytest.mark.parametrize("first", ["blm", "blmm"])
def test_maps_of_another_model_are_not_replaced(study_of_blmm, contents_of, first):
    def run(model):
        study_of_blmm.model = model
        Z = study_of_blmm.fields["Z"] if model == "blmm" else None
        return study_of_blmm.run(Z=Z, work_dir="work")

    assert run(first).code == 0
    before = contents_of(study_of_blmm.outdir)
    result = run("blm" if first == "blmm" else "blmm")
    assert result.code == 2
    assert f"has maps of {first} ({first}_vox_" in result.errors[0]
    assert contents_of(study_of_blmm.outdir) == before


def test_a_factor_with_the_name_of_a_map_is_not_overwritten(study_of_blmm):
    study_of_blmm.outdir.mkdir()
    lost = study_of_blmm.outdir / "blmm_vox_n.nii"
    content = (study_of_blmm.folder / "subject.txt").read_text()
    lost.write_text(content)
    study_of_blmm.fields["Z"][0]["f1"]["factor"] = "out/blmm_vox_n.nii"
    [error] = study_of_blmm.run().errors
    assert "blmm_vox_n.nii is read, but the maps would replace it" in error
    assert lost.read_text() == content


def test_both_models_may_share_a_working_folder(study_of_blmm):
    study_of_blmm.maps_of(work_dir="work")
    study_of_blmm.model, study_of_blmm.outdir = "blm", study_of_blmm.folder / "blm_out"
    study_of_blmm.maps_of(work_dir="work", Z=None, outdir="blm_out")
    folders = {path.name for path in (study_of_blmm.folder / "work").iterdir()}
    assert folders == {"blm_wf", "blmm_wf"}
