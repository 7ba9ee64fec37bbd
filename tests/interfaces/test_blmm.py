"""The interfaces of mixed models: stages, one-node model, workflow and command agree."""

from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from nipype.interfaces.base import Undefined
from nipype.pipeline.engine import Node
from node_by_node import measure_peak, read_maps, run_interfaces, write_image
from numpy.testing import assert_array_equal
from traits.api import TraitError

from nipype_blm.cli.blmm import main
from nipype_blm.errors import InputError
from nipype_blm.frontends.reading import Origin
from nipype_blm.frontends.requests import make_request
from nipype_blm.frontends.traits import WORDS, check
from nipype_blm.interfaces import (
    BLMM,
    AssembleMixedMaps,
    PlanBLMM,
)
from nipype_blm.interfaces.base import (
    MIXED_MAP_OUTPUTS,
    InputSpec,
    MixedInputSpec,
    defined_traits,
)
from nipype_blm.results.declared import select_declared
from nipype_blm.workflows import init_blmm_wf

SHAPE = (4, 3, 2)
N_SUBJECTS, N_VISITS = 6, 4
N_OBS = N_SUBJECTS * N_VISITS
CONTRASTS = [
    {"name": "both", "vector": [[1, 0], [0, 1]]},
    {"name": "mean", "vector": [1, 0]},
    {"name": "day", "vector": [0, 1]},
]
run_stages = partial(run_interfaces, PlanBLMM, AssembleMixedMaps)
INPUTS = ("in_files", "design_file", "contrasts", "mask_file", "random_factors")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Inputs of a random-intercept model with three batches of images and two blocks."""
    monkeypatch.chdir(tmp_path)  # where an interface without out_dir leaves its maps
    rng = np.random.default_rng(0)
    subject = np.tile(np.arange(N_SUBJECTS), N_VISITS)
    day = np.repeat(np.arange(N_VISITS), N_SUBJECTS)
    Y = 5 + rng.normal(size=(N_SUBJECTS, *SHAPE))[subject] + rng.normal(size=(N_OBS, *SHAPE))
    Y[rng.random(Y.shape) < 0.1] = np.nan
    images = [tmp_path / f"Y{i:02d}.nii" for i in range(N_OBS)]
    for path, values in zip(images, Y, strict=True):
        write_image(path, values)
    write_image(tmp_path / "mask.nii", (rng.random(SHAPE) < 0.9).astype(np.uint8))
    np.savetxt(tmp_path / "X.csv", np.c_[np.ones(N_OBS), day], delimiter=",", fmt="%g")
    (tmp_path / "subject.txt").write_text("".join(f"sub-{i}\n" for i in subject))
    (tmp_path / "one.csv").write_text("1\n" * N_OBS)
    subjects = {"factor": str(tmp_path / "subject.txt"), "design": str(tmp_path / "one.csv")}
    return {
        "in_files": [str(path) for path in images],
        "design_file": str(tmp_path / "X.csv"),
        "mask_file": str(tmp_path / "mask.nii"),
        "contrasts": CONTRASTS,
        "random_factors": [{"name": "subject"} | subjects],
        "images_per_batch": 9,
        "voxels_per_block": 12,
        "max_mem_gb": 0.5,
    }


def test_stages_one_node_workflow_and_command_give_the_same_files(
    model: dict[str, Any], tmp_path: Path
) -> None:
    one_node = read_maps(BLMM(**model).run().outputs.out_dir)
    assert read_maps(run_stages(model, tmp_path / "stages").out_dir) == one_node

    workflow = init_blmm_wf(
        out_dir=tmp_path / "wf_out", **{k: v for k, v in model.items() if k not in INPUTS}
    )
    workflow.inputs.inputnode.trait_set(**{name: model[name] for name in INPUTS})
    workflow.base_dir = str(tmp_path / "wf_work")
    workflow.run()
    assert read_maps(tmp_path / "wf_out") == one_node

    config = {
        "Y_files": "Y.txt",
        "X": "X.csv",
        "Z": [{"f1": {"name": "subject", "factor": "subject.txt", "design": "one.csv"}}],
        "analysis_mask": "mask.nii",
        "outdir": "cli_out",
        "work_dir": "cli_work",
        "contrasts": [{f"c{i}": contrast} for i, contrast in enumerate(CONTRASTS, 1)],
        "images_per_batch": 9,
        "voxels_per_block": 12,
        "MAXMEM": "2**29",
    }
    (tmp_path / "Y.txt").write_text("\n".join(model["in_files"]))
    (tmp_path / "blmm.yml").write_text(yaml.safe_dump(config))
    assert main(["--quiet", str(tmp_path / "blmm.yml")]) == 0
    assert read_maps(tmp_path / "cli_out") == one_node


def test_outputs_are_the_maps_and_lists_of_contrasts(model: dict[str, Any], tmp_path: Path) -> None:
    outputs = BLMM(**model).run().outputs
    assert Path(outputs.out_dir) == tmp_path / "blmm"
    assert Path(outputs.mask_file).name == "blmm_vox_mask.nii"
    written = {path.stem for path in Path(outputs.out_dir).glob("*.nii")}
    assert written == {each.name_file("blmm") for each in select_declared("blmm")} - {
        "blmm_vox_resms"
    }
    for name in written:
        assert Path(getattr(outputs, name)).stem == name
    named = [value for name, value in outputs.get().items() if name.endswith("_maps")]
    assert [len(paths) for paths in named] == [3] * 6
    dof = [np.asarray(nib.load(path).dataobj) for path in outputs.dof_maps]
    assert outputs.dof == int(min(np.median(values[values > 0]) for values in dof))
    assert [Path(path).name for path in outputs.dof_maps] == [
        f"contrast-{name}_stat-dof_statmap.nii" for name in ("both", "mean", "day")
    ]


def test_every_map_has_an_output() -> None:
    names = {name for name in MIXED_MAP_OUTPUTS if name.startswith("blmm_vox_")}
    assert names == {each.name_file("blmm") for each in select_declared("blmm")}


def test_traits_and_configuration_describe_each_other(model: dict[str, Any]) -> None:
    given = model | {"method": "pSFS", "tol": 1e-8, "maxnit": 50, "n_starts": 2}
    given |= {"reml": False, "safe_mode": False, "resms": True}
    given["random_factors"][0] |= {"correlated": False}
    assert given.keys() >= MixedInputSpec().trait_get().keys() - InputSpec().trait_get().keys()
    fields, problems = check(defined_traits(BLMM(**given).inputs), "blmm", out_dir="out")
    assert problems == []
    options = make_request(fields, Origin("blmm", WORDS)).estimation
    assert options is not None
    assert options._asdict() == {
        "reml": False,
        "method": "pSFS",
        "tol": 1e-8,
        "maxnit": 50,
        "safe_mode": False,
        "n_starts": 2,
    }
    assert fields.with_resms
    assert not fields.factors[0].correlated


def test_every_fault_of_random_factors_is_reported_at_once(
    model: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "subject.txt").write_text("sub-0\n")
    lost = {"name": "site", "factor": str(tmp_path / "lost.txt")}
    factors = [*model["random_factors"], lost | {"design": str(tmp_path / "one.csv")}]
    for interface in (BLMM, PlanBLMM):
        with pytest.raises(InputError) as caught:
            interface(**model | {"random_factors": factors}).run()
        assert "subject.txt" in str(caught.value)
        assert "lost.txt cannot be read" in str(caught.value)


@pytest.mark.parametrize(
    "given", [{"method": "Newton"}, {"reml": "yes"}, {"maxnit": "many"}, {"random_factors": "f1"}]
)
def test_a_value_of_the_wrong_type_is_refused_when_it_is_set(given: dict[str, Any]) -> None:
    with pytest.raises(TraitError, match=next(iter(given))):
        BLMM(**given)


@pytest.mark.parametrize("name", ["subject.txt", "one.csv"])
def test_a_node_is_cached_until_a_file_of_a_random_factor_is_replaced(
    model: dict[str, Any], tmp_path: Path, name: str
) -> None:
    def run() -> np.ndarray:
        node = Node(BLMM(**model), name="fit", base_dir=str(tmp_path / "work"))
        return np.asarray(nib.load(node.run().outputs.blmm_vox_D).dataobj).copy()

    first = run()
    written = (tmp_path / "work" / "fit" / "blmm" / "blmm_vox_D.nii").stat().st_mtime_ns
    assert_array_equal(run(), first)
    assert (tmp_path / "work" / "fit" / "blmm" / "blmm_vox_D.nii").stat().st_mtime_ns == written
    if name == "one.csv":
        (tmp_path / name).write_text("2\n" * N_OBS)
    else:
        (tmp_path / name).write_text("".join(f"{i // N_VISITS}\n" for i in range(N_OBS)))
    assert not np.array_equal(run(), first)


def test_a_cached_node_with_a_folder_runs_again_only_when_another_model_took_it(
    model: dict[str, Any], tmp_path: Path
) -> None:
    def run(reml: bool) -> Path:
        fit = BLMM(**model, out_dir=tmp_path / "out", reml=reml, overwrite=True)
        node = Node(fit, name="fit", base_dir=str(tmp_path / f"work_{reml}"))
        return Path(node.run().outputs.blmm_vox_D)

    path = run(reml=True)
    content = path.read_bytes()
    result = tmp_path / "work_True" / "fit" / "result_fit.pklz"  # rewritten by every run
    written = result.stat().st_mtime_ns
    run(reml=True)
    assert result.stat().st_mtime_ns == written
    run(reml=False)
    assert path.read_bytes() != content
    run(reml=True)
    assert path.read_bytes() == content


def test_arrays_stay_below_max_mem_gb(model: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [tmp_path / f"large{i:02d}.nii" for i in range(N_OBS)]
    for path in images:
        values = rng.normal(5, 1, (32, 32, 32))
        values[rng.random(values.shape) < 0.02] = np.nan
        write_image(path, values)
    model |= {"in_files": [str(path) for path in images], "mask_file": Undefined}
    model |= {"images_per_batch": Undefined, "voxels_per_block": Undefined}

    def peak(max_mem_gb: float) -> int:
        fit = BLMM(**model | {"max_mem_gb": max_mem_gb}, out_dir=tmp_path / f"out{max_mem_gb}")
        return measure_peak(fit.run)

    fit = BLMM(**model, out_dir=tmp_path / "warm")
    fit.run()  # modules and compiled functions are no part of the question
    little = 10 / 1024
    assert peak(little) < little * 2**30
    assert peak(1.0) > little * 2**30  # so that the bound above says something
