"""Data sets published with lme4, as images through the ``blmm`` command, against lme4's fits.

Every image is one observation; the second voxel holds the same data in other units.
"""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose

from nipype_blm.cli.blm import main
from nipype_blm.core.status import VoxelStatus

UNIT, ORIGIN = -2.5, 1000.0  # of the second voxel
RESPONSE = {"sleepstudy": "Reaction", "Penicillin": "diameter", "Dyestuff2": "Yield"}
# The published optima are those of lme4's default tolerances: up to 1e-6 above in deviance,
# and so up to 1e-3 standard errors away in D; beta and its standard errors follow D.
BY_SEARCH = 1e-3


class Model(NamedTuple):
    """How a published model is written down."""

    fixed: list[str]  # columns of X besides the constant
    factors: dict[str, list[str]]  # the random effects of each besides the intercept
    correlated: bool = True


MODELS = {
    "sleepstudy_ri": Model(["Days"], {"Subject": []}),
    "sleepstudy_rs": Model(["Days"], {"Subject": ["Days"]}),
    "sleepstudy_uncorr": Model(["Days"], {"Subject": ["Days"]}, correlated=False),
    "Penicillin_crossed": Model([], {"plate": [], "sample": []}),
    "Dyestuff2_singular": Model([], {"Batch": []}),
}
FITS = [(name, reml) for name in MODELS for reml in (True, False)]


@pytest.fixture(scope="module")
def published(test_data: Path) -> dict[tuple[str, bool], dict[str, Any]]:
    """Return the fits of lme4 by name and criterion."""
    fits = json.loads((test_data / "lme4" / "lme4_reference.json").read_text())["fits"]
    by_name = {(fit["name"], fit["REML"]): fit for fit in fits}
    assert set(by_name) == set(FITS)
    return by_name


@pytest.fixture
def run(test_data: Path, tmp_path: Path):
    """Function that runs the command and returns its maps at both voxels."""

    def run(name: str, reml: bool, prefix: str = "", **fields: Any) -> dict[str, np.ndarray]:
        model, data = MODELS[name], name.split("_")[0]
        with (test_data / "lme4" / f"{data}.csv").open(newline="") as lines:
            table = list(csv.DictReader(lines))
        y = np.array([row[RESPONSE[data]] for row in table], float)
        write_images(tmp_path, np.column_stack([y, UNIT * y + ORIGIN]))
        write_design(tmp_path / "X.csv", table, model.fixed)
        Z = []
        for k, (factor, effects) in enumerate(model.factors.items(), 1):
            labels = [f"{prefix}{row[factor]}\n" for row in table]
            (tmp_path / f"{factor}.txt").write_text("".join(labels))
            write_design(tmp_path / f"{factor}.csv", table, effects)
            files = {"name": factor, "factor": f"{factor}.txt", "design": f"{factor}.csv"}
            Z.append({f"f{k}": files | ({} if model.correlated else {"correlated": False})})
        n_params = 1 + len(model.fixed)
        contrasts = [
            {f"c{i + 1}": {"name": f"c{i + 1}", "vector": row}}
            for i, row in enumerate(np.eye(n_params).tolist())
        ]
        config = {"Y_files": "Y.txt", "X": "X.csv", "Z": Z, "outdir": "out", "reml": reml}
        config |= {"contrasts": contrasts, "resms": 1} | fields
        (tmp_path / "blmm.yml").write_text(yaml.safe_dump(config))
        assert main(["--quiet", str(tmp_path / "blmm.yml")], "blmm") == 0
        return {
            path.name.removeprefix("blmm_vox_").removesuffix(".nii"): read_voxels(path)
            for path in (tmp_path / "out").glob("blmm_vox_*.nii")
        }

    return run


def write_images(folder: Path, Y: np.ndarray) -> None:
    paths = [folder / f"y{i:03}.nii" for i in range(len(Y))]
    for values, path in zip(Y, paths, strict=True):
        nib.save(nib.Nifti1Image(values.reshape(-1, 1, 1), np.eye(4)), path)
    (folder / "Y.txt").write_text("".join(f"{path}\n" for path in paths))


def write_design(path: Path, table: list[dict[str, str]], columns: list[str]) -> None:
    lines = [",".join(["constant", *columns])]
    lines += [",".join(["1", *(row[c] for c in columns)]) for row in table]
    path.write_text("\n".join(lines) + "\n")


def read_voxels(path: Path) -> np.ndarray:
    values = np.asarray(nib.load(path).dataobj)
    return values.reshape(2, *values.shape[3:])


def make_vech(name: str, theta: list[float]) -> list[float]:
    """Return vech(D) of each factor from lme4's theta; its factors are in our order."""
    if name == "sleepstudy_rs":
        a, b, c = theta
        return [a * a, a * b, b * b + c * c]
    if name == "sleepstudy_uncorr":
        return [theta[0] ** 2, 0.0, theta[1] ** 2]
    return [value**2 for value in theta]


@pytest.mark.parametrize(("name", "reml"), FITS)
def test_maps_are_the_published_fit(run, published, name: str, reml: bool) -> None:
    maps, fit = run(name, reml), published[name, reml]
    singular = name.endswith("singular")
    expected = VoxelStatus.FITTED_BOUNDARY if singular else VoxelStatus.FITTED
    assert maps["status"].tolist() == [expected] * 2
    assert maps["n"].tolist() == [fit["n"]] * 2
    n_params = len(fit["beta"])
    # Ours may be lower than theirs by what their tolerances leave, and higher by rounding only.
    gain = fit["deviance_or_remlcrit"] - -2 * maps["llh"][0]
    assert -1e-9 < gain < 1e-6
    scale = abs(UNIT)
    dof = fit["n"] - n_params * reml
    assert_allclose(maps["llh"][1] + dof * np.log(scale), maps["llh"][0], rtol=1e-9)
    se = np.array(list(fit["se"].values()))
    beta = np.array(list(fit["beta"].values()))
    vcov = np.reshape(fit["vcov"], (n_params, n_params))
    moved = UNIT * beta + ORIGIN * np.eye(n_params)[0]
    for v, (unit, effects) in enumerate([(1.0, beta), (scale, moved)]):
        assert_allclose((maps["beta"][v] - effects) / (unit * se), 0, atol=BY_SEARCH)
        assert_allclose(maps["conSE"][v], unit * se, rtol=BY_SEARCH)
        cov = maps["cov"][v].reshape(n_params, n_params) / unit**2
        assert_allclose(cov / np.outer(se, se), vcov / np.outer(se, se), atol=BY_SEARCH)
        assert_allclose(maps["sigma2"][v], unit**2 * fit["sigma2"], rtol=BY_SEARCH)
        vech = make_vech(name, np.atleast_1d(fit["theta"]).tolist())
        assert_allclose(maps["D"][v], vech, rtol=5 * BY_SEARCH, atol=BY_SEARCH * max(vech))
        varcomp = np.array(vech) * fit["sigma2"]
        limit = BY_SEARCH * max(varcomp)
        assert_allclose(maps["varcomp"][v] / unit**2, varcomp, rtol=5 * BY_SEARCH, atol=limit)
    if singular:
        assert not maps["D"].any()  # zero, and not nearly so


def read_tables(test_data: Path) -> np.ndarray:
    """Return estimate, error, df, t and p of the constant and Days in each printed table."""
    lines = (test_data / "lme4" / "lmertest_sleepstudy.txt").read_text().splitlines()
    rows = [line.split()[1:] for line in lines if line.startswith(("(Intercept)", "Days"))]
    return np.array(rows, float).reshape(3, 2, 5)


@pytest.mark.parametrize(("name", "table"), [("sleepstudy_rs", 0), ("sleepstudy_ri", 2)])
def test_tests_are_those_of_lmertest(run, test_data, name: str, table: int) -> None:
    # The table in between is Kenward and Roger's.
    estimate, error, df, t, p = read_tables(test_data)[table].T
    maps = run(name, reml=True)
    # lmerTest's default search ends 6e-6 off in standard errors.
    assert_allclose(maps["con"][0], estimate, rtol=2e-5)
    assert_allclose(maps["conSE"][0], error, rtol=2e-5)
    assert_allclose(maps["conT"][0], t, rtol=2e-5)
    assert_allclose(maps["conT_swedf"][0], df, rtol=1e-4)  # its derivatives are numerical
    # They print the two-sided p; ours is that of the upper tail.
    assert_allclose(maps["conTlp"][0], -np.log10(p / 2), rtol=2e-5)


@pytest.mark.parametrize("name", ["sleepstudy_rs", "Penicillin_crossed"])
@pytest.mark.parametrize("method", ["pSFS", "SFS", "pFS", "FS"])
def test_the_scoring_methods_reach_the_published_likelihood(
    run, published, name: str, method: str
) -> None:
    for reml in (True, False):
        maps = run(name, reml, method=method, tol=1e-10)
        expected = published[name, reml]["deviance_or_remlcrit"]
        assert_allclose(-2 * maps["llh"][0], expected, rtol=0, atol=1e-6)  # as above


def test_labels_may_be_numbers_or_text(run) -> None:
    numbers = run("sleepstudy_rs", reml=True)
    text = run("sleepstudy_rs", reml=True, prefix="sub-")
    # Labels of equal length sort alike, so that nothing differs.
    assert numbers.keys() == text.keys()
    for name, values in numbers.items():
        np.testing.assert_array_equal(values, text[name], name)
