"""The interfaces: each stage by itself, the one-node model, and both against the command."""

import json
import logging
import os
import re
import shutil
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import nipype
import numpy as np
import pytest
import yaml
from nipype.interfaces.base import Undefined, traits
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import MapNode, Node, Workflow
from nipype.pipeline.engine.nodes import NodeExecutionError
from node_by_node import make, measure_peak, read_maps, run_interfaces, write_image
from numpy.testing import assert_allclose, assert_array_equal
from traits.api import TraitError

import nipype_blm
from nipype_blm import Results, interfaces
from nipype_blm.cli.blm import main
from nipype_blm.errors import InputError
from nipype_blm.interfaces import (
    BLM,
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitModel,
    PlanBLM,
)
from nipype_blm.workflows import init_blm_wf

SHAPE = (6, 5, 4)
N_OBS = 12
CONTRASTS = [
    {"name": "age and group", "vector": [[0, 1, 0], [0, 0, 1]]},
    {"name": "mean", "vector": [1, 0, 0]},
    {"name": "age", "vector": [0, 1, 0]},
]
run_stages = partial(run_interfaces, PlanBLM, AssembleMaps)
ALL = [getattr(interfaces, name) for name in interfaces.__all__]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Inputs of a model with three batches of images and three blocks of voxels."""
    monkeypatch.chdir(tmp_path)  # where an interface without out_dir leaves its maps
    rng = np.random.default_rng(0)
    Y = rng.normal(3, 1, (N_OBS, *SHAPE))
    Y[rng.random(Y.shape) < 0.15] = np.nan
    images = [tmp_path / f"Y{i:02d}.nii" for i in range(N_OBS)]
    for path, values in zip(images, Y, strict=True):
        write_image(path, values)
    write_image(tmp_path / "mask.nii", (rng.random(SHAPE) < 0.9).astype(np.uint8))
    X = np.column_stack([np.ones(N_OBS), rng.normal(size=N_OBS), np.arange(N_OBS) % 2])
    np.savetxt(tmp_path / "X.csv", X, delimiter=",", fmt="%.17g")
    return {
        "in_files": [str(path) for path in images],
        "design_file": str(tmp_path / "X.csv"),
        "mask_file": str(tmp_path / "mask.nii"),
        "contrasts": CONTRASTS,
        "min_n": 6,
        "images_per_batch": 4,
        "voxels_per_block": 50,
        "max_mem_gb": 0.5,
    }


# -- Every interface -----------------------------------------------------------------------


@pytest.mark.parametrize("interface", ALL, ids=interfaces.__all__)
def test_every_trait_has_a_type_and_a_description(interface) -> None:
    for spec in (interface.input_spec(), interface.output_spec()):
        names = spec.copyable_trait_names()
        assert names
        for name in names:
            trait = spec.trait(name)
            assert trait.desc, name
            assert not isinstance(trait.trait_type, traits.Any), name


@pytest.mark.parametrize("interface", ALL, ids=interfaces.__all__)
def test_the_version_is_the_package_s_and_there_are_references(interface) -> None:
    assert interface().version == nipype_blm.__version__
    # Commands and functions are anybody's; TBSS and ArchNGV have papers of their own.
    n_papers = {"commands": 0, "blockmap": 0, "tbss": 1, "ngv": 1, "circuit": 1}.get(
        interface.__module__.rpartition(".")[2], 2
    )
    assert len(interface._references) == n_papers
    assert all(entry["description"] and entry["tags"] for entry in interface._references)


@pytest.mark.parametrize("interface", ALL, ids=interfaces.__all__)
def test_help_names_every_input(interface) -> None:
    text = interface.help(returnhelp=True)
    assert all(name in text for name in interface.input_spec().copyable_trait_names())


@pytest.mark.parametrize("interface", ALL, ids=interfaces.__all__)
def test_a_missing_mandatory_input_is_named(interface) -> None:
    mandatory = interface.input_spec().traits(mandatory=True)
    with pytest.raises(ValueError, match="|".join(mandatory)):
        interface().run()


# -- The stages ----------------------------------------------------------------------------


def test_stages_one_node_workflow_and_command_give_the_same_files(
    model: dict[str, Any], tmp_path: Path
) -> None:
    one_node = read_maps(BLM(**model).run().outputs.out_dir)
    assert read_maps(run_stages(model, tmp_path / "stages").out_dir) == one_node

    inputs = ("in_files", "design_file", "contrasts", "mask_file")
    workflow = init_blm_wf(
        out_dir=tmp_path / "wf_out", **{k: v for k, v in model.items() if k not in inputs}
    )
    workflow.inputs.inputnode.trait_set(**{name: model[name] for name in inputs})
    workflow.base_dir = str(tmp_path / "wf_work")
    workflow.run()
    assert read_maps(tmp_path / "wf_out") == one_node

    config = {
        "Y_files": "Y.txt",
        "X": "X.csv",
        "analysis_mask": "mask.nii",
        "outdir": "cli_out",
        "work_dir": "cli_work",
        "contrasts": [{f"c{i}": contrast} for i, contrast in enumerate(CONTRASTS, 1)],
        "Missingness": {"MinN": 6},
        "images_per_batch": 4,
        "voxels_per_block": 50,
        "MAXMEM": "2**29",
    }
    (tmp_path / "Y.txt").write_text("\n".join(model["in_files"]))
    (tmp_path / "blm.yml").write_text(yaml.safe_dump(config))
    assert main(["--quiet", str(tmp_path / "blm.yml")]) == 0
    assert read_maps(tmp_path / "cli_out") == one_node


def test_the_command_called_from_python_leaves_nipype_s_settings_as_they_were(
    model: dict[str, Any], tmp_path: Path
) -> None:
    # A log file that stays open makes Nipype's MultiProc, which forks, wait for ever.
    def settings() -> tuple[Any, ...]:
        handlers = logging.getLogger("nipype").handlers
        names = [("logging", "log_to_file"), ("execution", "crashdump_dir")]
        return [(h, h.level) for h in handlers], [nipype.config.get(*name) for name in names]

    BLM(**model, out_dir=tmp_path / "out").run()
    before = settings()
    assert main(["--quiet", str(tmp_path / "out" / "inputs.yml")]) == 0
    assert settings() == before


def test_the_plan_of_a_stage_run_has_several_batches_and_blocks(model: dict[str, Any]) -> None:
    outputs = PlanBLM(**model).run().outputs
    assert len(outputs.batch_files) == 3
    assert outputs.blocks == [0, 1, 2]
    assert outputs.max_threads >= 1


@pytest.mark.parametrize("n_procs", [2, 5])
def test_threads_do_not_change_a_bit(model: dict[str, Any], tmp_path: Path, n_procs: int) -> None:
    one = read_maps(BLM(**model, out_dir=tmp_path / "one").run().outputs.out_dir)
    many = BLM(**model, n_procs=n_procs, out_dir=tmp_path / "many").run().outputs.out_dir
    assert read_maps(many) == one
    assert read_maps(run_stages(model, tmp_path / "stages", n_procs).out_dir) == one


@pytest.mark.parametrize("stale", ["products", "estimates", "statistics"])
def test_a_file_made_from_other_input_is_refused(
    model: dict[str, Any], tmp_path: Path, stale: str
) -> None:
    run_stages(model, tmp_path / "old")
    write_image(Path(model["in_files"][1]), np.ones(SHAPE))
    run_stages(model, tmp_path / "new")
    old, new = tmp_path / "old", tmp_path / "new"
    plan = PlanBLM(**model).run(cwd=str(new / "plan")).outputs
    shared = {"model_file": plan.model_file, "fingerprint": plan.fingerprint}

    def files(name: str) -> list[str]:
        mixed = [(old if name == stale and i == 0 else new) / f"{name}{i}" for i in range(3)]
        return [str(folder / f"{name}.blm") for folder in mixed]

    fit = FitModel(
        batch_files=plan.batch_files, products_files=files("products"), block=0, **shared
    )
    test = ComputeContrasts(
        contrasts_file=plan.contrasts_file, estimates_file=files("estimates")[0], block=0, **shared
    )
    assemble = AssembleMaps(
        model_id=plan.model_id,
        contrasts_file=plan.contrasts_file,
        batch_files=plan.batch_files,
        estimates_files=files("estimates"),
        statistics_files=files("statistics"),
        out_dir=str(tmp_path / "out"),
        **shared,
    )
    message = rf"old/{stale}0/{stale}\.blm was made from other input"
    refusing = {"products": [fit], "estimates": [test, assemble], "statistics": [assemble]}
    for stage in (fit, test, assemble):
        if stage in refusing[stale]:
            with pytest.raises(InputError, match=message):
                stage.run(cwd=make(tmp_path / type(stage).__name__))
        else:
            stage.run(cwd=make(tmp_path / type(stage).__name__))
    if stale != "products":
        assert not list(tmp_path.glob("out/*"))


def test_statistics_of_other_contrasts_are_refused(model: dict[str, Any], tmp_path: Path) -> None:
    run_stages(model, tmp_path / "old")
    plan = PlanBLM(**model | {"contrasts": CONTRASTS[:2]}).run().outputs
    folder = tmp_path / "old"
    assemble = AssembleMaps(
        model_file=plan.model_file,
        contrasts_file=plan.contrasts_file,
        fingerprint=plan.fingerprint,
        batch_files=plan.batch_files,
        model_id=plan.model_id,
        estimates_files=[folder / f"estimates{i}" / "estimates.blm" for i in range(3)],
        statistics_files=[folder / f"statistics{i}" / "statistics.blm" for i in range(3)],
    )
    with pytest.raises(InputError, match="made from other input"):
        assemble.run()


def test_an_image_that_changed_since_the_plan_is_refused(model: dict[str, Any]) -> None:
    plan = PlanBLM(**model).run().outputs
    write_image(Path(model["in_files"][5]), np.ones(SHAPE))
    stage = ComputeProducts(model_file=plan.model_file, batch_file=plan.batch_files[1])
    with pytest.raises(InputError, match=r"Y05\.nii has changed since the run was planned"):
        stage.run()


# -- The one-node model --------------------------------------------------------------------


def test_the_one_node_model_leaves_nothing_but_its_maps(
    model: dict[str, Any], tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    outputs = BLM(**model).run().outputs
    assert set(tmp_path.iterdir()) - before == {tmp_path / "blm"}
    assert Path(outputs.out_dir) == tmp_path / "blm"
    named = [value for name, value in outputs.get().items() if name.endswith("_maps")]
    assert [len(paths) for paths in named] == [3] * 6
    assert outputs.contrast_metadata[0]["stat_type"] == "F"
    recorded = yaml.safe_load((tmp_path / "blm" / "inputs.yml").read_text())
    assert recorded["versions"]["nipype_blm"] == nipype_blm.__version__
    assert recorded["Y_files"] == model["in_files"]


def test_inputs_yml_of_a_node_runs_again_with_the_command(
    model: dict[str, Any], tmp_path: Path
) -> None:
    maps = read_maps(BLM(**model, out_dir=tmp_path / "out").run().outputs.out_dir)
    (tmp_path / "out" / "blm_vox_beta.nii").unlink()
    assert main(["--quiet", str(tmp_path / "out" / "inputs.yml")]) == 0
    assert all((tmp_path / "out" / name).read_bytes() == maps[name] for name in maps)


def test_a_list_file_or_one_4d_image_may_stand_for_the_images(
    model: dict[str, Any], tmp_path: Path
) -> None:
    expected = BLM(**model, out_dir=tmp_path / "out").run().outputs
    stack = np.stack([np.asarray(nib.load(path).dataobj) for path in model["in_files"]], axis=3)
    write_image(tmp_path / "all.nii", stack)
    (tmp_path / "Y.txt").write_text("\n".join(model["in_files"]))
    for name in ("all.nii", "Y.txt"):
        given = model | {"in_files": str(tmp_path / name)}
        found = BLM(**given, out_dir=tmp_path / f"out_{name}").run().outputs
        assert read_maps(found.out_dir) == read_maps(expected.out_dir)


def test_every_fault_is_reported_at_once_and_nothing_is_written(
    model: dict[str, Any], tmp_path: Path
) -> None:
    lost = str(tmp_path / "lost.nii")
    faults = {
        "in_files": [*model["in_files"][:-2], lost],
        "contrasts": [{"name": "short", "vector": [1, 0]}],
        "min_n": 99,
    }
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        BLM(**model | faults).run()
    message = str(caught.value)
    assert lost in message
    assert "entry 11" in message
    assert "has 2 weights, but X has 3 columns" in message
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"design_file": "lost.csv"}, "existing file|lost.csv"),
        ({"min_percent": 1.5}, "outside 0 to 1"),
        ({"min_percent": "half"}, "neither a fraction nor a percentage"),
        ({"contrasts": [{"name": "a", "weights": [1, 0, 0]}]}, "nearest known one is"),
        ({"contrasts": [{"name": "a", "vector": [1, "x", 0]}]}, "'x' is not a number"),
        ({"images_per_batch": 0}, "images_per_batch"),
        ({"voxels_per_block": -1}, "voxels_per_block"),
        ({"mask_file": "design"}, "X.csv"),
        ({"data_mask_files": ["mask.nii"] * 2}, "2 masks, but there are 12 images"),
    ],
)
def test_a_bad_input_is_named(
    model: dict[str, Any], tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    if given.get("mask_file") == "design":
        given = {"mask_file": model["design_file"]}
    if "data_mask_files" in given:
        given = {"data_mask_files": [str(tmp_path / name) for name in given["data_mask_files"]]}
    with pytest.raises((InputError, TraitError), match=message):
        BLM(**model | given).run()


@pytest.mark.parametrize("interface", [BLM, PlanBLM])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_mem_gb": 1e-6}, "max_mem_gb is 1e-06, too little"),
        ({"max_mem_gb": 0.0}, "max_mem_gb: 0.0 is not a positive number; give GiB"),
        ({"min_n": 99}, "min_n is 99, but there are only 12 images."),
        ({"min_n": -1}, "min_n: -1 was given; expected at least 0."),
        ({"min_percent": "half"}, "min_percent: 'half' is neither"),
        ({"mask_file": "Y_files/MAXMEM"}, "mask_file: {folder}/Y_files/MAXMEM is"),
        ({"max_blocks": 0}, "max_blocks: 0 was given; expected at least 1."),
    ],
)
def test_faults_are_told_in_the_names_of_the_traits(
    model: dict[str, Any], tmp_path: Path, interface: Any, given: dict[str, Any], message: str
) -> None:
    if "mask_file" in given:  # a path that holds names of fields
        given = {"mask_file": str(tmp_path / given["mask_file"])}
        Path(given["mask_file"]).parent.mkdir()
        Path(given["mask_file"]).write_text("no image")
    with pytest.raises(InputError) as caught:
        interface(**model | given).run()
    [problem] = caught.value.problems
    assert problem.startswith(message.format(folder=tmp_path))


@pytest.mark.parametrize(
    "given", [{"max_mem_gb": -1.0}, {"n_procs": 0}, {"min_n": "many"}, {"two_sided": "yes"}]
)
def test_a_value_of_the_wrong_type_is_refused_when_it_is_set(given: dict[str, Any]) -> None:
    with pytest.raises(TraitError, match=next(iter(given))):
        BLM(**given)


# -- Memory --------------------------------------------------------------------------------


def test_too_little_memory_is_refused_and_the_least_that_is_named_works(
    model: dict[str, Any], tmp_path: Path
) -> None:
    model |= {"images_per_batch": Undefined, "voxels_per_block": Undefined}
    with pytest.raises(InputError, match="the least that works is") as caught:
        BLM(**model | {"max_mem_gb": 1e-6}).run()
    least = float(str(caught.value).rstrip(".").split()[-1])
    expected = BLM(**model, out_dir=tmp_path / "ample").run().outputs
    found = BLM(**model | {"max_mem_gb": least}, out_dir=tmp_path / "least").run().outputs
    beta = [np.asarray(nib.load(maps.blm_vox_beta).dataobj) for maps in (expected, found)]
    # The same sums in other groups: a few roundings of 1e-16.
    assert_allclose(beta[1], beta[0], rtol=1e-12, atol=1e-14)


def test_arrays_stay_below_max_mem_gb(model: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [tmp_path / f"large{i:02d}.nii" for i in range(40)]
    for path in images:
        write_image(path, rng.normal(size=(32, 32, 32)))
    np.savetxt(tmp_path / "X.csv", np.c_[np.ones(40), rng.normal(size=(40, 2))], delimiter=",")
    model |= {"in_files": [str(path) for path in images], "mask_file": Undefined}
    model |= {"images_per_batch": Undefined, "voxels_per_block": Undefined}

    def peak(max_mem_gb: float) -> int:
        fit = BLM(**model | {"max_mem_gb": max_mem_gb}, out_dir=tmp_path / f"out{max_mem_gb}")
        return measure_peak(fit.run)

    fit = BLM(**model, out_dir=tmp_path / "warm")
    fit.run()  # modules and compiled functions are no part of the question
    little = 8 / 1024
    assert peak(little) < little * 2**30
    assert peak(1.0) > little * 2**30  # so that the bound above says something


# -- A node between nodes ------------------------------------------------------------------


def test_a_node_works_between_two_others_in_a_short_pipeline(
    model: dict[str, Any], tmp_path: Path
) -> None:
    def find(folder):
        from pathlib import Path

        return sorted(str(path) for path in Path(folder).glob("Y*.nii"))

    def count(z_maps, mask_file, metadata):
        import nibabel as nib
        import numpy as np

        inside = np.asarray(nib.load(mask_file).dataobj) > 0
        found = [np.sum(np.asarray(nib.load(path).dataobj)[inside] > 3.1) for path in z_maps]
        return {entry["name"]: int(n) for entry, n in zip(metadata, found, strict=True)}

    before = Node(Function(["folder"], ["files"], function=find), name="before")
    before.inputs.folder = str(tmp_path)
    fit = Node(BLM(design_file=model["design_file"], contrasts=CONTRASTS), name="fit")
    after = Node(Function(["z_maps", "mask_file", "metadata"], ["n"], function=count), name="after")
    workflow = Workflow("study", base_dir=str(tmp_path / "work"))
    workflow.connect(before, "files", fit, "in_files")
    workflow.connect(fit, "zscore_maps", after, "z_maps")
    workflow.connect(fit, "mask_file", after, "mask_file")
    workflow.connect(fit, "contrast_metadata", after, "metadata")
    graph = workflow.run()
    [counted] = [node.result.outputs.n for node in graph.nodes() if node.name == "after"]
    # Voxels have mean 3 and sd 1: about ten images make z of the mean exceed 3.1 nearly
    # everywhere; nothing else has an effect.
    assert set(counted) == {"age and group", "mean", "age"}
    assert counted["mean"] > 60
    assert counted["age"] < 10


@pytest.mark.parametrize("n_contrasts", [1, 2])
def test_maps_of_contrasts_are_lists_as_long_as_their_metadata_for_any_number_of_contrasts(
    model: dict[str, Any], tmp_path: Path, n_contrasts: int
) -> None:
    def describe(metadata, **maps):
        """Return what the node after gets: the number of contrasts, and all maps."""
        return len(metadata), maps

    kinds = ("effect", "variance", "stat", "zscore", "pvalue", "dof")
    names = [f"{kind}_maps" for kind in kinds]
    fit = Node(BLM(**model | {"contrasts": CONTRASTS[:n_contrasts]}), name="fit")
    after = Node(Function(["metadata", *names], ["n", "maps"], function=describe), name="after")
    workflow = Workflow("study", base_dir=str(tmp_path / "work"))
    workflow.connect(fit, "contrast_metadata", after, "metadata")
    for name in names:
        workflow.connect(fit, name, after, name)
    graph = workflow.run()
    [outputs] = [node.result.outputs for node in graph.nodes() if node.name == "after"]
    assert outputs.n == n_contrasts
    assert set(outputs.maps) == set(names)
    for paths in outputs.maps.values():
        assert isinstance(paths, list)
        assert len(paths) == n_contrasts
        assert all(Path(path).is_file() for path in paths)


@pytest.mark.parametrize("field", ["in_files", "data_mask_files", "design_file", "mask_file"])
def test_a_node_is_cached_until_a_file_is_replaced(
    model: dict[str, Any], tmp_path: Path, field: str
) -> None:
    model["data_mask_files"] = [str(tmp_path / f"ones{i:02d}.nii") for i in range(N_OBS)]
    for path in model["data_mask_files"]:
        write_image(Path(path), np.ones(SHAPE, np.uint8))

    def run() -> np.ndarray:
        node = Node(BLM(**model), name="fit", base_dir=str(tmp_path / "work"))
        return np.asarray(nib.load(node.run().outputs.blm_vox_resms).dataobj)

    first = run()
    resms_file = tmp_path / "work" / "fit" / "blm" / "blm_vox_resms.nii"
    written = resms_file.stat().st_mtime_ns
    assert_array_equal(run(), first)
    assert resms_file.stat().st_mtime_ns == written
    replaced = Path(np.atleast_1d(model[field])[0])
    if field == "design_file":
        X = np.loadtxt(replaced, delimiter=",")
        np.savetxt(replaced, X**3, delimiter=",")
    else:
        values = np.asarray(nib.load(replaced).dataobj).copy()
        values[:, :2] = 0  # missing, or outside
        write_image(replaced, values)
    assert not np.array_equal(run(), first)


def swap(one: Path, other: Path) -> None:
    """Exchange the names of two files, as `mv` does."""
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


@pytest.mark.parametrize("kind", ["image", "pair", "mask", "design"])
@pytest.mark.parametrize("as_map_node", [False, True])
def test_a_cached_node_notices_files_that_were_exchanged_although_sizes_and_times_are_the_same(
    model: dict[str, Any], tmp_path: Path, kind: str, as_map_node: bool
) -> None:
    """Of an image of two files, Nipype looks at the one that is named."""
    files = [Path(path) for path in model["in_files"][:2]]
    if kind == "pair":
        for i, path in enumerate(files):
            nib.save(nib.Nifti1Pair.from_image(nib.load(path)), path.with_suffix(".hdr"))
            model["in_files"][i] = str(path.with_suffix(".hdr"))
        files = [path.with_suffix(".img") for path in files]
    elif kind == "mask":
        files = [tmp_path / "one.nii", tmp_path / "other.nii"]
        for i, path in enumerate(files):
            write_image(path, (np.indices(SHAPE).sum(axis=0) % 3 != i).astype("u1"))
        model["mask_file"] = str(files[0])
    elif kind == "design":
        model["design_file"], other = change_design(model, tmp_path)[1:]
        files = [Path(model["design_file"]), Path(other)]
        size = max(path.stat().st_size for path in files)
        for path in files:
            path.write_text(path.read_text().ljust(size, "\n"))
    for path in files:
        os.utime(path, ns=(10**18, 10**18))

    def run() -> np.ndarray:
        if as_map_node:
            node = MapNode(BLM(**model), ["min_n"], name="fit", base_dir=str(tmp_path / "work"))
            node.inputs.min_n = [1]
        else:
            node = Node(BLM(**model), name="fit", base_dir=str(tmp_path / "work"))
        return np.asarray(nib.load(np.hstack([node.run().outputs.blm_vox_con])[0]).dataobj).copy()

    first = run()
    [result] = (tmp_path / "work" / "fit").glob("result_fit.pklz")
    written = result.stat().st_mtime_ns
    assert_array_equal(run(), first)
    assert as_map_node or result.stat().st_mtime_ns == written
    swap(*files)
    exchanged = run()
    assert not np.array_equal(exchanged, first)
    fresh = BLM(**model).run(cwd=make(tmp_path / "fresh")).outputs.blm_vox_con
    assert_array_equal(exchanged, np.asarray(nib.load(fresh).dataobj))


def test_a_map_that_was_deleted_is_written_again_by_its_node(
    model: dict[str, Any], tmp_path: Path
) -> None:
    def run() -> Path:
        fit = BLM(**model, out_dir=tmp_path / "out")
        node = Node(fit, name="fit", base_dir=str(tmp_path / "work"))
        return Path(node.run().outputs.blm_vox_beta)

    content = run().read_bytes()
    (tmp_path / "out" / "blm_vox_beta.nii").unlink()
    assert run().read_bytes() == content


def test_a_cached_node_writes_the_saved_model_that_its_folder_lacks(
    model: dict[str, Any], tmp_path: Path
) -> None:
    written = run_node(model, tmp_path / "work", tmp_path / "out").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out" / "model")
    assert run_node(model, tmp_path / "work", tmp_path / "out").stat().st_mtime_ns == written
    assert Results(tmp_path / "out").model == "blm"


def run_node(model: dict[str, Any], folder: Path, out_dir: Path | str, **given: Any) -> Path:
    """Run the node of a working folder, which caches it; return one of its maps."""
    fit = BLM(**model | given, out_dir=out_dir)
    return Path(Node(fit, name="fit", base_dir=str(folder)).run().outputs.blm_vox_con)


def test_a_cached_node_runs_again_when_another_model_took_its_folder(
    model: dict[str, Any], tmp_path: Path
) -> None:
    def run(name: str, contrasts: list[Any], **given: Any) -> bytes:
        out_dir = tmp_path / "out"
        return run_node(model, tmp_path / name, out_dir, contrasts=contrasts, **given).read_bytes()

    one = run("one", CONTRASTS)
    other = run("other", CONTRASTS[::-1], overwrite=True)
    assert one != other
    with pytest.raises(NodeExecutionError, match=r"another model, made in .*/other/fit"):
        run("one", CONTRASTS)
    assert run("one", CONTRASTS, overwrite=True) == one
    assert run("other", CONTRASTS[::-1], overwrite=True) == other


def change_design(model: dict[str, Any], tmp_path: Path) -> list[str]:
    """Return the design of a model and two others."""
    X = np.loadtxt(model["design_file"], delimiter=",")
    designs = [model["design_file"]]
    for power in (3, 5):
        designs.append(str(tmp_path / f"X{power}.csv"))
        np.savetxt(designs[-1], X**power, delimiter=",", fmt="%.17g")
    return designs


def run_map_node(model: dict[str, Any], tmp_path: Path, plugin: str) -> list[bytes]:
    """Fit a model to several designs, with a MapNode."""
    fit = BLM(**model)
    node = MapNode(fit, iterfield=["design_file"], name="fit")
    node.inputs.design_file = change_design(model, tmp_path)
    return run_in_workflow(node, tmp_path, plugin)


def run_iterables(model: dict[str, Any], tmp_path: Path, plugin: str) -> list[bytes]:
    """Fit a model to several designs, with a Node that has iterables."""
    node = Node(BLM(**model), name="fit")
    node.iterables = ("design_file", change_design(model, tmp_path))
    return run_in_workflow(node, tmp_path, plugin)


def run_in_workflow(node: Node, tmp_path: Path, plugin: str) -> list[bytes]:
    """Return one map of each model that a node fits."""
    workflow = Workflow("wf", base_dir=str(tmp_path / "work"))
    workflow.config["execution"] = {
        "crashdump_dir": str(tmp_path / "work"),
        "poll_sleep_duration": "0.1",
    }
    workflow.add_nodes([node])
    arguments = {"n_procs": 2, "mp_context": "forkserver"} if plugin == "MultiProc" else {}
    graph = workflow.run(plugin=plugin, plugin_args=arguments)
    outputs = [done.result.outputs.blm_vox_con for done in graph.nodes()]
    return [Path(path).read_bytes() for path in np.hstack(outputs)]


@pytest.mark.parametrize("run", [run_map_node, run_iterables])
@pytest.mark.parametrize("plugin", ["Linear", "MultiProc"])
def test_several_models_in_one_folder_are_an_error_that_names_both_places(
    model: dict[str, Any], tmp_path: Path, run: Any, plugin: str
) -> None:
    """Each would hand on the same paths, where the maps of the last one would be."""
    out_dir = str(tmp_path / "out")
    with pytest.raises(Exception, match=r"raised|another model") as caught:
        run(model | {"out_dir": out_dir}, tmp_path, plugin)
    place = f"{tmp_path}/work/wf/"
    message = rf"{out_dir} has .* of another model, made in {place}.*, made in {place}.*overwrite"
    assert re.search(message, "".join(traceback.format_exception(caught.value)))
    assert (tmp_path / "out" / "blm_vox_con.nii").is_file()  # of the first one


@pytest.mark.parametrize("run", [run_map_node, run_iterables])
def test_several_models_without_out_dir_have_a_folder_each(
    model: dict[str, Any], tmp_path: Path, run: Any
) -> None:
    maps = run(model, tmp_path, "Linear")
    assert len(set(maps)) == 3
    alone = []
    for i, design_file in enumerate(change_design(model, tmp_path)):
        fit = BLM(**model | {"design_file": design_file})
        found = fit.run(cwd=make(tmp_path / f"alone{i}")).outputs
        alone.append(Path(found.blm_vox_con).read_bytes())
    assert sorted(maps) == sorted(alone)


def test_one_model_after_another_in_one_place_replaces_it(
    model: dict[str, Any], tmp_path: Path
) -> None:
    """As in a notebook, where a cell is edited and run again."""
    for contrasts in (CONTRASTS, CONTRASTS[::-1]):
        fit = BLM(**model | {"contrasts": contrasts}, out_dir=tmp_path / "out")
        found = fit.run(cwd=str(tmp_path)).outputs
        assert found.contrast_metadata[0]["name"] == contrasts[0]["name"]


@pytest.mark.parametrize(
    ("folder", "changed"),
    [
        ("out", {}),  # relative: in the folder of the node
        ("{tmp_path}/out", {}),
        ("{tmp_path}/out", {"n_procs": 2}),
        ("{tmp_path}/out", {"max_mem_gb": 1.0}),
    ],
)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "contrasts": [{"name": "age", "vector": "0 1/3 1e-5"}],
            "data_mask_thresh": 1e-7,
            "min_percent": "50%",
            "minlog": -1e3,
            "two_sided": True,
            "output_cov": False,
            "max_blocks": 2,
            "minutes_per_job": 0.1,
            "compress": True,
        },
    ],
    ids=["few options", "many options"],
)
def test_a_cached_node_with_a_folder_does_not_run_again_for_nothing(
    model: dict[str, Any],
    tmp_path: Path,
    folder: str,
    given: dict[str, Any],
    changed: dict[str, Any],
) -> None:
    out_dir = folder.format(tmp_path=tmp_path)
    path = run_node(model, tmp_path / "work", out_dir, **given)
    result = tmp_path / "work" / "fit" / "result_fit.pklz"  # rewritten by every run
    written = result.stat().st_mtime_ns
    assert run_node(model, tmp_path / "work", out_dir, **given | changed) == path
    assert result.stat().st_mtime_ns == written


@pytest.mark.parametrize(("interface", "place"), [(BLM, "wf/node"), (PlanBLM, "wf")])
def test_space_for_intermediate_files_is_that_of_the_working_folder(
    model: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interface: Any,
    place: str,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    out_dir = str(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        interface(**model, out_dir=out_dir).run(cwd=make(tmp_path / "wf" / "node"))
    [problem] = caught.value.problems
    assert problem.startswith(f"The disk of {tmp_path / place} and {out_dir} has 0.0 MB free")


def test_sidecars_can_be_read(model: dict[str, Any]) -> None:
    folder = Path(BLM(**model).run().outputs.out_dir)
    for path in folder.rglob("*.nii"):
        sidecar = json.loads(path.with_suffix(".json").read_text())
        n_volumes = nib.load(path).shape[3:]
        assert len(sidecar.get("Volumes", [])) == (n_volumes[0] if n_volumes else 0)


def fit_in_one_node(model: dict[str, Any], folder: Path, allow_empty: bool) -> Any:
    return BLM(**model, out_dir=folder / "out", allow_empty=allow_empty).run()


def fit_in_workflow(model: dict[str, Any], folder: Path, allow_empty: bool) -> Any:
    inputs = ("in_files", "design_file", "contrasts", "mask_file")
    options = {name: value for name, value in model.items() if name not in inputs}
    workflow = init_blm_wf(**options, out_dir=folder / "out", allow_empty=allow_empty)
    workflow.base_dir = str(folder)
    for name in inputs:
        setattr(workflow.inputs.inputnode, name, model[name])
    workflow.config["execution"] = {"crashdump_dir": str(folder), "crashfile_format": "txt"}
    return workflow.run()


@pytest.mark.parametrize("fit", [fit_in_one_node, fit_in_workflow])
@pytest.mark.parametrize("values", [np.nan, 5.0], ids=["no data", "constant"])
def test_a_result_without_any_voxel_is_an_error_unless_it_is_allowed(model, tmp_path, fit, values):
    """A node must not hand empty maps on as if they were results; the status says why."""
    for path in model["in_files"]:
        write_image(Path(path), np.full(SHAPE, values))
    with pytest.raises(Exception, match="no voxel could be fitted") as error:
        fit(model, tmp_path, allow_empty=False)
    assert str(tmp_path / "out/blm_vox_status.nii") in str(error.value)
    status = np.asarray(nib.load(tmp_path / "out/blm_vox_status.nii").dataobj)
    assert (status >= 10).any()
    assert not np.asarray(nib.load(tmp_path / "out/blm_vox_mask.nii").dataobj).any()
    fit(model, tmp_path, allow_empty=True)
