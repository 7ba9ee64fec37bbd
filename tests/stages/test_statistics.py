"""Estimates become tests: those of plain formulas for every contrast, from the files alone."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense
from scipy import linalg, stats

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.status import is_fitted
from nipype_blm.io.arrayfile import ArrayFile
from nipype_blm.stages.plan import write_plan
from nipype_blm.stages.statistics import compute_statistics

N_OBS, SHAPE = 30, (4, 3, 2)
RNG = np.random.default_rng(0)
GROUP = np.arange(N_OBS) % 3 == 0
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=N_OBS), GROUP])
LEVEL = RNG.permutation(np.arange(N_OBS, dtype=np.int32) // 5)
FACTOR = RandomFactor("subject", LEVEL, X[:, :1])
DEFICIENT = 5  # a voxel without data of the group
WEIGHTS = [
    [0.0, 1, 0],
    [[0.0, 1, 0], [0, 0, 1]],
    [1.0, 0.5, -2],
    [[1.0, 0, 0], [0, 1, 1], [0, 1, -1]],
]
CONTRASTS = [{"name": f"c{i}", "vector": vector} for i, vector in enumerate(WEIGHTS)]
CUT = {"images_per_batch": 13, "voxels_per_block": 7, "contrasts": CONTRASTS}


def make_values() -> np.ndarray:
    rng = np.random.default_rng(1)
    Y = rng.normal(0.5, 1, (N_OBS, 24)) + rng.normal(size=(6, 24))[LEVEL]
    Y += np.outer(X[:, 1], rng.normal(0, 2, 24))
    Y[rng.random(Y.shape) < 0.1] = np.nan
    Y[GROUP, DEFICIENT] = np.nan
    return np.array([row.reshape(SHAPE, order="F") for row in Y])


def read_tests(fitted, number: int) -> dict[int, dict[str, np.ndarray]]:
    """Return every quantity of a contrast at each fitted voxel."""
    found = {}
    for block, (estimates, statistics) in enumerate(
        zip(fitted.estimates, fitted.statistics, strict=True)
    ):
        here = fitted.run.spec.block(block).start + np.flatnonzero(
            is_fitted(ArrayFile(estimates).read("status"))
        )
        file = ArrayFile(statistics)
        names = ["estimable", "effect", "variance", "stat", "log_p", "z"]
        if fitted.run.spec.options is not None:
            names.append("dof")
        arrays = {name: file.read(f"{number}/{name}") for name in names}
        for j, v in enumerate(here):
            found[int(v)] = {name: array[..., j] for name, array in arrays.items()}
    return found


def data_at(voxel: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of X and the values that are present."""
    y = np.array([image.ravel(order="F") for image in make_values()])[:, voxel]
    return X[~np.isnan(y)], y[~np.isnan(y)]


def find_f(x: np.ndarray, y: np.ndarray, L: np.ndarray) -> float:
    """Return F by comparing two fits: that of all, and that in which L beta is 0."""
    dof = len(y) - np.linalg.matrix_rank(x)
    rss = np.sum((y - x @ np.linalg.lstsq(x, y)[0]) ** 2)
    null = x @ linalg.null_space(L) if len(L) < x.shape[1] else np.zeros((len(y), 1))
    rss_of_null = np.sum((y - null @ np.linalg.lstsq(null, y)[0]) ** 2)
    return (rss_of_null - rss) / len(L) / (rss / dof)


@pytest.mark.parametrize("two_sided", [False, True])
def test_contrasts_are_those_of_two_fits_by_least_squares_at_every_voxel(fit_stages, two_sided):
    fitted = fit_stages(make_values(), X, two_sided=two_sided, **CUT)
    for number, weights in enumerate(WEIGHTS):
        L = np.atleast_2d(weights)
        tests = read_tests(fitted, number)
        assert len(tests) == 24
        for v, found in tests.items():
            x, y = data_at(v)
            assert found["estimable"] == (v != DEFICIENT or number == 0)
            if not found["estimable"]:
                continue
            dof = len(y) - np.linalg.matrix_rank(x)
            beta = np.linalg.lstsq(x, y)[0]
            resms = np.sum((y - x @ beta) ** 2) / dof
            # Sums of 30 numbers of size 1.
            assert_allclose(found["effect"], L @ beta, rtol=1e-9, atol=1e-11)
            unscaled = np.linalg.pinv(x.T @ x, rcond=1e-12)
            cov = resms * L @ unscaled @ L.T
            assert_allclose(found["variance"], cov.ravel(), rtol=1e-9, atol=1e-11)
            f = find_f(x, y, L)
            if np.ndim(weights) == 1:
                t = np.copysign(np.sqrt(f), (L @ beta)[0])
                assert_allclose(found["stat"], t, rtol=1e-8, atol=1e-10)
                log_p = stats.t.logsf(t, dof)
                if two_sided:
                    log_p = np.log(2) + stats.t.logsf(abs(t), dof)
                z = stats.norm.isf(stats.t.sf(t, dof))
                z = z if t > 0 else stats.norm.ppf(stats.t.cdf(t, dof))
            else:
                assert_allclose(found["stat"], f, rtol=1e-8)
                log_p = stats.f.logsf(f, len(L), dof)
                upper, lower = stats.f.sf(f, len(L), dof), stats.f.cdf(f, len(L), dof)
                z = stats.norm.isf(upper) if upper < 0.5 else stats.norm.ppf(lower)
            assert_allclose(found["log_p"], log_p, rtol=1e-7, atol=1e-10)
            assert_allclose(found["z"], z, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("reml", [True, False])
def test_contrasts_of_a_mixed_model_are_those_of_the_dense_one(fit_stages, reml):
    fitted = fit_stages(make_values(), X, FACTOR, reml=reml, **CUT)
    D = {}
    for block, path in enumerate(fitted.estimates):
        file = ArrayFile(path)
        first = fitted.run.spec.block(block).start
        here = first + np.flatnonzero(is_fitted(file.read("status")))
        D |= dict(zip(here.tolist(), file.read("D")[0], strict=True))
    tests = [read_tests(fitted, number) for number in range(len(WEIGHTS))]
    assert len(D) == 24
    for v, d in D.items():
        if v == DEFICIENT:
            assert [bool(found[v]["estimable"]) for found in tests] == [True, False, False, False]
            continue
        y = np.array([image.ravel(order="F") for image in make_values()])[:, v]
        data = dense.drop_missing(y, X, [FACTOR])
        weights = [np.array(each) for each in WEIGHTS]
        blocks = [np.array([[d]])]
        expected = dense.satterthwaite(*data, blocks, weights, reml=reml)
        beta = dense.criterion(*data, blocks, reml=reml).beta
        for found, test, L in zip((found[v] for found in tests), expected, weights, strict=True):
            assert_allclose(found["effect"], np.atleast_2d(L) @ beta, rtol=1e-6, atol=1e-8)
            assert_allclose(found["stat"], test.stat, rtol=1e-6, atol=1e-8)
            # They belong to the last evaluation, up to 3e-5 standard errors before D.
            assert_allclose(found["dof"], test.df, rtol=1e-4)
            if L.ndim == 1:
                log_p = stats.t.logsf(found["stat"], found["dof"])
            else:
                log_p = stats.f.logsf(found["stat"], len(L), found["dof"])
            assert_allclose(found["log_p"], log_p, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("factor", [None, FACTOR], ids=["blm", "blmm"])
def test_a_new_contrast_needs_the_estimates_and_nothing_before_them(
    fit_stages, prepare, tmp_path, factor
):
    """Neither images nor products; and its numbers do not depend on the contrasts beside it."""
    fitted = fit_stages(make_values(), X, factor, **CUT)
    run = prepare(make_values(), X, factor, **CUT | {"contrasts": CONTRASTS[::-1]})
    files = write_plan(run, tmp_path / "work")
    assert files.fingerprint == fitted.files.fingerprint
    for path in (*fitted.products, *(entry.image for entry in run.images)):
        path.unlink()
    for block, estimates in enumerate(fitted.estimates):
        out = tmp_path / "new.blm"
        args = files.model_file, files.contrasts_file, estimates, block, files.fingerprint, out
        new, old = ArrayFile(compute_statistics(*args)), ArrayFile(fitted.statistics[block])
        for number in range(len(CONTRASTS)):
            for name in ("estimable", "effect", "variance", "stat", "log_p", "z"):
                array = new.read(f"{len(CONTRASTS) - 1 - number}/{name}")
                assert_array_equal(array, old.read(f"{number}/{name}"))


def test_a_block_without_any_fitted_voxel_has_tests_of_none(fit_stages):
    values = make_values()
    Y = np.array([image.ravel(order="F") for image in values])
    Y[:, :7] = np.nan  # the first block
    fitted = fit_stages(np.array([row.reshape(SHAPE, order="F") for row in Y]), X, **CUT)
    file = ArrayFile(Path(fitted.statistics[0]))
    assert file.read("1/stat").shape == (0,)
    assert file.read("1/variance").shape == (4, 0)
