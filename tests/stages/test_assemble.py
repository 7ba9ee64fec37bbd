"""Blocks become maps: in single precision where that holds them, with the median dof of a test."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from nipype_blm.core.factors import RandomFactor
from nipype_blm.io.publish import Claim
from nipype_blm.model.request import Request
from nipype_blm.results import declared, maps, volumes
from nipype_blm.stages.assemble import AssembledMaps
from nipype_blm.stages.plan import PreparedRun, is_done
from nipype_blm.stages.run import run_model

N_OBS, SHAPE = 24, (3, 2, 2)
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=(N_OBS, 2))])
LEVEL = np.arange(N_OBS, dtype=np.int32) // 4
BOTH = [
    {"name": "one", "vector": [0, 1, 0]},
    {"name": "two", "vector": [[0, 1, 0], [0, 0, 1]]},
    {"name": "mean", "vector": [1, 0, 0]},
]


# Images that each voxel lacks; the median is 4.5.
LACKING = np.array([0, 9, 4, 0, 7, 5, 0, 8, 3, 6, 0, 5]).reshape(SHAPE)


def make_values(n_missing: np.ndarray | int = 0) -> np.ndarray:
    """Return images of which each voxel lacks the first `n_missing`."""
    rng = np.random.default_rng(1)
    values = rng.normal(5, 1, (N_OBS, *SHAPE)) + rng.normal(size=(6, *SHAPE))[LEVEL]
    for i, image in enumerate(values):
        image[i < np.broadcast_to(n_missing, SHAPE)] = np.nan
    return values.astype(np.float32)


@pytest.fixture
def fit(prepare: Callable[..., PreparedRun], tmp_path: Path) -> Callable[..., AssembledMaps]:
    """Function that fits a study; more than one block and batch."""

    def fit(*study: object, compress: bool = False, **fields: object) -> AssembledMaps:
        sizes = {"images_per_batch": 13, "voxels_per_block": 5, "contrasts": BOTH}
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        run = prepare(*study, **sizes | fields)
        return run_model(run, work, tmp_path / "out", Claim("model", work), compress=compress)

    return fit


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def read_stated(path: Path) -> list[float]:
    """Return the least, the median and the largest degrees of freedom that a sidecar states."""
    stated = json.loads(path.with_suffix(".json").read_text())["DegreesOfFreedom"]
    return [stated[name] for name in ("Minimum", "Median", "Maximum")]


def test_headers_state_the_median_of_the_degrees_of_freedom_of_the_voxels(fit):
    found = fit(make_values(LACKING), X)
    edf = read(found.files["blm_vox_edf"])
    np.testing.assert_array_equal(edf, N_OBS - LACKING - 3)
    median = N_OBS - 4.5 - 3
    assert median == np.median(edf)
    assert found.dof == int(median)  # rounded down
    for name, parameters in (("conT", (median,)), ("conF", (2, median))):
        intent = nib.load(found.files[f"blm_vox_{name}"]).header.get_intent()
        assert intent[:2] == ("t test" if name == "conT" else "f test", parameters)
    for path in found.contrast_maps["stat"]:
        assert nib.load(path).header.get_intent()[1][-1] == median
        assert read_stated(path) == [N_OBS - 9 - 3, median, N_OBS - 3]


def test_each_contrast_of_a_mixed_model_has_the_median_of_its_own_map(fit):
    found = fit(make_values(LACKING), X, RandomFactor("subject", LEVEL, X[:, :1]))
    inside = read(found.mask_file) == 1
    assert inside.all()
    dofs = [read(path).astype(float) for path in found.contrast_maps["dof"]]
    medians = [np.median(dof) for dof in dofs]
    assert len({round(float(dof), 3) for dof in medians}) == 3
    assert found.dof == int(min(medians))
    # Single precision.
    for path, dof, median in zip(found.contrast_maps["stat"], dofs, medians, strict=True):
        assert_allclose(nib.load(path).header.get_intent()[1][-1], median, rtol=1e-6)
        assert_allclose(read_stated(path), [dof.min(), median, dof.max()], rtol=1e-6)
    stacked = {
        name: nib.load(found.files[f"blmm_vox_{name}"]).header.get_intent()[1]
        for name in ("conT", "conF")
    }
    assert_allclose(stacked["conT"], [min(medians[0], medians[2])], rtol=1e-6)
    assert_allclose(stacked["conF"], [2, medians[1]], rtol=1e-6)


@pytest.mark.parametrize("exponent", [-25, 25])
def test_maps_of_images_in_unusual_units_are_written_in_double_precision(fit, exponent):
    """Squares of such numbers are nothing, or infinite, in single precision; others are not."""
    usual = fit(make_values(), X)
    before = {name: read(path) for name, path in usual.files.items()}
    unit = 10.0**exponent
    found = fit((unit * make_values().astype(float)).astype(np.float32), X)
    resms = nib.load(found.files["blm_vox_resms"])
    assert resms.get_data_dtype() == np.float64
    assert nib.load(found.files["blm_vox_conT"]).get_data_dtype() == np.float32
    # Single precision of the images.
    assert_allclose(
        np.asarray(resms.dataobj), before["blm_vox_resms"].astype(float) * unit**2, rtol=1e-5
    )
    assert_allclose(read(found.files["blm_vox_conT"]), before["blm_vox_conT"], rtol=1e-4)


def test_voxels_that_have_not_converged_are_counted_in_a_warning(fit, caplog):
    with caplog.at_level(logging.WARNING):
        fit(make_values(), X, RandomFactor("subject", LEVEL, X[:, :2]), maxnit=1)
    [message] = [r.getMessage() for r in caplog.records if "status 4" in r.getMessage()]
    assert int(message.split()[0]) > 6


def test_asking_for_compressed_maps_replaces_those_that_are_not_and_back(fit, tmp_path):
    study = make_values(), X
    plain = {name: read(path) for name, path in fit(*study).files.items()}
    compressed = fit(*study, compress=True)
    assert {path.name for path in (tmp_path / "out").glob("*.nii")} == set()
    for name, path in compressed.files.items():
        np.testing.assert_array_equal(read(path), plain[name])
    fit(*study)
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == set()


@pytest.fixture
def only_t(monkeypatch):
    """Two more maps: one of all T contrasts, and one that each T contrast has of its own."""
    new = (
        declared.Declaration(
            *("conD", "Twice T.", "estimate", volumes.T_CONTRASTS),
            source=lambda block, volume, run: 2 * block.statistic(volume.contrast, "stat"),
        ),
        declared.Declaration(
            *("d", "Twice T", "estimate", volumes.ONE),
            source=lambda block, volume, run: 2 * block.statistic(volume.contrast, "stat"),
            file="contrasts/contrast-{label}_stat-{name}_statmap",
            is_wanted=lambda run, contrast: not run.contrasts[contrast].is_f,
        ),
    )
    monkeypatch.setattr(declared, "DECLARED", (*declared.DECLARED, *new))
    monkeypatch.setattr(maps, "DECLARED", declared.DECLARED)


def test_maps_that_only_t_contrasts_have_are_listed_for_these(only_t, fit):
    found = fit(make_values(LACKING), X)
    assert [path.name for path in found.contrast_maps["d"]] == [
        "contrast-one_stat-d_statmap.nii",
        "contrast-mean_stat-d_statmap.nii",
    ]
    for kind in ("effect", "variance", "stat", "z", "p", "dof"):
        assert len(found.contrast_maps[kind]) == 3
    assert len(found.contrast_masks) == 3
    for paths in (*found.contrast_maps.values(), found.contrast_masks, found.files.values()):
        assert all(path.is_file() for path in paths)
    of_t = [found.contrast_maps["stat"][i] for i in (0, 2)]
    for path, t in zip(found.contrast_maps["d"], of_t, strict=True):
        np.testing.assert_array_equal(read(path), 2 * read(t))


@pytest.mark.parametrize("factor", [None, RandomFactor("subject", LEVEL, X[:, :1])])
def test_a_version_with_more_maps_makes_them_from_the_estimates_that_are_there(
    fit, prepare, tmp_path, request, factor
):
    study = (make_values(LACKING), X, *([factor] if factor else []))
    before = fit(*study)
    states = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.blm")}
    run = prepare(*study, images_per_batch=13, voxels_per_block=5, contrasts=BOTH)
    asked = Request(X=None, images=(), contrasts=(), out_dir=tmp_path / "out")
    assert is_done(run, asked)
    request.getfixturevalue("only_t")
    assert not is_done(run, asked)
    found = fit(*study)
    assert is_done(run, asked)
    assert {path: path.stat().st_mtime_ns for path in states} == states
    name = f"{run.spec.model}_vox_con"
    assert found.files.keys() - before.files.keys() == {f"{name}D"}
    np.testing.assert_array_equal(read(found.files[f"{name}D"]), 2 * read(found.files[f"{name}T"]))
