"""The workflow of a Big Linear Model, run through Nipype's cache."""

import gzip
import itertools
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import MapNode, Node, Workflow
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from nipype_blm.errors import InputError
from nipype_blm.interfaces.base import MAP_OUTPUTS
from nipype_blm.workflows import init_blm_wf

T_MEAN = {"name": "mean", "vector": [1, 0, 0]}
T_AGE = {"name": "age", "vector": [0, 1, 0]}
F_BOTH = {"name": "age and group", "vector": [[0, 1, 0], [0, 0, 1]]}

PRODUCTS = {"products0", "products1", "products2"}
ESTIMATES = {"estimates0", "estimates1", "estimates2"}
CONTRASTS = {"contrasts0", "contrasts1", "contrasts2"}
# By default Nipype forks; the workers would have the log files of earlier tests, which refuse to
# be used there, and Nipype would wait for ever.
PLUGIN_ARGS = {"Linear": {}, "MultiProc": {"n_procs": 2, "mp_context": "forkserver"}}
ALWAYS = {"plan", "assemble"}  # assembly looks whether the maps in out_dir are as it left them


def read(path: Path | str) -> np.ndarray:
    """Return a map as (n_volumes, n_voxels)."""
    data = np.asarray(nib.load(path).dataobj)
    return data.reshape(np.prod(data.shape[:3]), -1).T


# -- What is computed again ----------------------------------------------------------------


def test_a_first_run_computes_every_batch_and_block(study, ran) -> None:
    workflow = study.workflow("work", out_dir=study.folder / "out")
    changed = ran(workflow)
    workflow.run()
    assert changed() == PRODUCTS | ESTIMATES | CONTRASTS | ALWAYS


def test_an_unchanged_second_run_computes_nothing_and_writes_no_map(study, ran, read_times) -> None:
    options = {"out_dir": study.folder / "out", "data_mask_files": [str(p) for p in study.masks]}
    workflow = study.workflow("work", **options)
    workflow.run()
    changed, maps = ran(workflow), read_times(study.folder / "out")
    study.workflow("work", **options).run()
    assert changed() == ALWAYS
    assert read_times(study.folder / "out") == maps


def test_without_out_dir_only_planning_runs_again(study, ran) -> None:
    workflow = study.workflow("work")
    workflow.run()
    changed = ran(workflow)
    study.workflow("work").run()
    assert changed() == {"plan"}


def test_without_out_dir_inputs_yml_names_the_folder_where_the_maps_are(study) -> None:
    graph = study.workflow("work").run()
    [node] = [node for node in graph.nodes() if node.name == "assemble"]
    folder = Path(node.result.outputs.out_dir)
    recorded = yaml.safe_load((folder / "inputs.yml").read_text())
    assert recorded["outdir"] == str(folder)
    assert (folder / "blm_vox_beta.nii").is_file()


@pytest.mark.parametrize(
    "options",
    [
        {"contrasts": [F_BOTH, T_MEAN, T_AGE, {"name": "group", "vector": [0, 0, 1]}]},
        {"contrasts": [T_AGE]},
        {"two_sided": True},
        {"minlog": -99.0},
    ],
    ids=["added", "removed", "two-sided", "minlog"],
)
def test_other_contrasts_run_contrasts_and_assembly_only(
    study, ran, same_maps, options: dict
) -> None:
    workflow = study.workflow("work", out_dir=study.folder / "out")
    workflow.run()
    changed = ran(workflow)
    study.workflow("work", out_dir=study.folder / "out", **options).run()
    assert changed() == CONTRASTS | ALWAYS
    study.workflow("fresh", out_dir=study.folder / "fresh_out", **options).run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


def test_a_replaced_image_of_the_same_size_runs_its_batch_and_what_follows(
    study, ran, same_maps
) -> None:
    workflow = study.workflow("work", out_dir=study.folder / "out")
    workflow.run()
    changed, old = ran(workflow), study.images[5].stat()
    study.write(study.images[5], study.Y[5] + 1)
    assert study.images[5].stat().st_size == old.st_size
    study.workflow("work", out_dir=study.folder / "out").run()
    assert changed() == {"products1"} | ESTIMATES | CONTRASTS | ALWAYS
    study.workflow("fresh", out_dir=study.folder / "fresh_out").run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


@pytest.mark.parametrize("replaced", [False, True], ids=["touched", "replaced"])
def test_a_changed_data_mask_runs_its_batch_and_what_follows(
    study, ran, same_maps, replaced: bool
) -> None:
    options = {"data_mask_files": [str(path) for path in study.masks]}
    workflow = study.workflow("work", out_dir=study.folder / "out", **options)
    workflow.run()
    changed, mask = ran(workflow), study.masks[9]
    if replaced:
        study.write(mask, ~(read(mask) > 0).reshape(study.Y.shape[1:]))
    else:
        os.utime(mask, ns=(0, mask.stat().st_mtime_ns + 1))
    study.workflow("work", out_dir=study.folder / "out", **options).run()
    assert changed() == {"products2"} | ESTIMATES | CONTRASTS | ALWAYS
    study.workflow("fresh", out_dir=study.folder / "fresh_out", **options).run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


def swap(one: Path, other: Path) -> None:
    """Exchange the names of two files, as `mv` does."""
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def rewrite(path: Path, other: Path) -> None:
    """Write another content in the old time, as programs do that restore or synchronise."""
    status = path.stat()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def link(path: Path, other: Path) -> None:
    """Point at another file."""
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [swap, rewrite, link])
@pytest.mark.parametrize("kind", ["image", "pair", "mask", "4D"])
def test_files_exchanged_with_their_sizes_and_times_are_read_again(
    study, ran, same_maps, kind: str, change
) -> None:
    """Whatever gives a name another content must show, though size and time of it are the same."""
    options: dict = {"images_per_batch": 6}
    expected = {"products0", "products1"} if change is swap else {"products0"}
    files = [study.images[1], study.images[7]]
    if kind == "mask":
        options["data_mask_files"] = [str(path) for path in study.masks]
        files = [study.masks[1], study.masks[7]]
    elif kind == "pair":
        for i in (1, 7):
            image = nib.load(study.images[i])
            study.images[i] = study.images[i].with_suffix(".hdr")
            nib.save(nib.Nifti1Pair.from_image(image), study.images[i])
        files = [study.images[i].with_suffix(".img") for i in (1, 7)]
    elif kind == "4D":
        files = [study.folder / "one.nii", study.folder / "other.nii"]
        study.write(files[0], np.moveaxis(study.Y, 0, -1))
        study.write(files[1], np.moveaxis(study.Y[::-1], 0, -1))
        study.images = files[:1]
        expected = {"products0", "products1"}
    for path in files:
        os.utime(path, ns=(10**18, 10**18))
    assert files[0].stat().st_size == files[1].stat().st_size
    workflow = study.workflow("work", out_dir=study.folder / "out", **options)
    workflow.run()
    changed = ran(workflow)
    study.workflow("work", out_dir=study.folder / "out", **options).run()
    assert changed() == ALWAYS
    change(*files)
    study.workflow("work", out_dir=study.folder / "out", **options).run()
    assert changed() == expected | ESTIMATES | CONTRASTS | ALWAYS
    study.workflow("fresh", out_dir=study.folder / "fresh_out", **options).run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


@pytest.mark.parametrize("what", ["X", "analysis mask", "post mask", "threshold"])
def test_another_model_runs_everything_after_the_plan(study, ran, same_maps, what: str) -> None:
    mask_file = study.folder / "mask.nii"
    study.write(mask_file, np.ones(study.Y.shape[1:], bool))
    options = {"mask_file": mask_file, "post_mask_file": mask_file, "data_mask_thresh": 0.0}
    workflow = study.workflow("work", out_dir=study.folder / "out", **options)
    workflow.run()
    changed = ran(workflow)
    half = np.arange(study.Y[0].size).reshape(study.Y.shape[1:]) % 8 > 0
    if what == "X":
        study.write_design(study.X * [1, 2, 1])
    elif what == "threshold":
        options["data_mask_thresh"] = 2.0
    else:
        field = "mask_file" if what == "analysis mask" else "post_mask_file"
        options[field] = study.folder / "other_mask.nii"
        study.write(options[field], half)
    study.workflow("work", out_dir=study.folder / "out", **options).run()
    assert changed() == PRODUCTS | ESTIMATES | CONTRASTS | ALWAYS
    study.workflow("fresh", out_dir=study.folder / "fresh_out", **options).run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


def test_an_analysis_mask_replaced_in_place_is_noticed(study, same_maps) -> None:
    mask_file = study.folder / "mask.nii"
    study.write(mask_file, np.ones(study.Y.shape[1:], bool))
    study.workflow("work", out_dir=study.folder / "out", mask_file=mask_file).run()
    study.write(mask_file, study.Y[0] > 2)
    study.workflow("work", out_dir=study.folder / "out", mask_file=mask_file).run()
    study.workflow("fresh", out_dir=study.folder / "fresh_out", mask_file=mask_file).run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


@pytest.mark.parametrize("option", [{"n_procs": 2}, {"max_mem_gb": 0.7}], ids=["n_procs", "memory"])
def test_threads_and_memory_without_effect_on_the_plan_compute_nothing(
    study, ran, read_times, option: dict
) -> None:
    workflow = study.workflow("work", out_dir=study.folder / "out")
    workflow.run()
    changed, maps = ran(workflow), read_times(study.folder / "out", "*.nii")
    study.workflow("work", out_dir=study.folder / "out", **option).run()
    assert changed() == ALWAYS
    assert read_times(study.folder / "out", "*.nii") == maps


def test_a_plan_rewrites_only_the_files_that_change(study, read_times) -> None:
    workflow = study.workflow("work")
    folder = Path(workflow.base_dir) / workflow.name / "plan_files"

    def rewritten(**options: object) -> set[str]:
        before = read_times(folder)
        study.workflow("work", **options).run()
        return {name for name, time in read_times(folder).items() if before.get(name) != time}

    batches = {f"batch_{i:04d}.tsv" for i in range(3)}
    assert rewritten() == batches | {"model.blm", "contrasts.json", "inputs.yml"}
    assert rewritten() == set()
    assert rewritten(contrasts=[T_AGE]) == {"contrasts.json", "inputs.yml"}
    study.write(study.images[0], study.Y[0] * 2)
    assert rewritten(contrasts=[T_AGE]) == {"batch_0000.tsv"}
    study.write_design(study.X * 2)
    assert rewritten(contrasts=[T_AGE]) == {"model.blm"}


def test_another_folder_for_the_maps_runs_no_computation(study, ran, same_maps) -> None:
    workflow = study.workflow("work", out_dir=study.folder / "out")
    workflow.run()
    changed = ran(workflow)
    study.workflow("work", out_dir=study.folder / "other").run()
    assert changed() == ALWAYS
    same_maps(study.folder / "out", study.folder / "other")


def test_compression_runs_assembly_only_and_replaces_the_maps(study, ran) -> None:
    workflow = study.workflow("work", out_dir=study.folder / "out")
    workflow.run()
    changed, beta = ran(workflow), read(study.folder / "out" / "blm_vox_beta.nii")
    study.workflow("work", out_dir=study.folder / "out", compress=True).run()
    assert changed() == ALWAYS
    assert_array_equal(read(study.folder / "out" / "blm_vox_beta.nii.gz"), beta)
    assert not list((study.folder / "out").rglob("*.nii"))


def damage_middle(path: Path) -> None:
    """Write 8 KB, or a third of the file, of other bytes into its middle, in its time."""
    content, status = path.read_bytes(), path.stat()
    n = min(8192, len(content) // 3)
    start = (len(content) - n) // 2
    noise = np.random.default_rng(1).bytes(n)
    path.write_bytes(content[:start] + noise + content[start + n :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGE = {
    "deleted": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "grown": lambda path: path.write_bytes(path.read_bytes() + bytes(64)),
    "middle": damage_middle,
}


@pytest.mark.parametrize(
    ("name", "damage", "plugin"),
    [
        *itertools.product(["products", "estimates", "statistics"], DAMAGE, ["Linear"]),
        # In other processes the same code finds the damage.
        ("products", "middle", "MultiProc"),
        ("estimates", "cut", "MultiProc"),
        ("statistics", "middle", "MultiProc"),
    ],
)
def test_an_intermediate_file_that_was_lost_or_damaged_is_computed_again(
    study, same_maps, name: str, damage: str, plugin: str
) -> None:
    study.workflow("work", out_dir=study.folder / "out").run()
    [*_, lost] = sorted((study.folder / "work").rglob(f"{name}.blm"))
    content = lost.read_bytes()
    DAMAGE[damage](lost)
    workflow = study.workflow("work", out_dir=study.folder / "fresh_out")
    workflow.config["execution"]["poll_sleep_duration"] = "0.1"
    workflow.run(plugin=plugin, plugin_args=PLUGIN_ARGS[plugin])
    assert lost.read_bytes() == content
    same_maps(study.folder / "out", study.folder / "fresh_out")


@pytest.mark.parametrize("plugin", PLUGIN_ARGS)
def test_a_damaged_file_among_others_that_are_outdated_is_computed_again(
    study, same_maps, plugin: str
) -> None:
    """Nipype's cache tells nothing of a MapNode as a whole if one of its elements has to run."""
    study.workflow("work").run()
    study.write(study.images[0], study.Y[0] * 2)
    damage_middle(max((study.folder / "work").rglob("products.blm")))  # of the last batch
    workflow = study.workflow("work", out_dir=study.folder / "out")
    workflow.config["execution"]["poll_sleep_duration"] = "0.1"
    workflow.run(plugin=plugin, plugin_args=PLUGIN_ARGS[plugin])
    study.workflow("fresh", out_dir=study.folder / "fresh_out").run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


@pytest.mark.parametrize(
    ("name", "reader"),
    [("products", "estimates"), ("estimates", "contrasts"), ("statistics", "assemble")],
)
def test_damage_in_the_middle_of_a_run_is_an_error_and_the_next_run_makes_the_file_anew(
    study, same_maps, monkeypatch, name: str, reader: str
) -> None:
    """The reader finds what no check at the start of the run could find."""
    run, damaged = Node.run, []

    def damage_before(node: Node, updatehash: bool = False):
        if node.name == reader and not damaged:
            damaged.extend(sorted((study.folder / "work").rglob(f"{name}.blm"))[-1:])
            damage_middle(damaged[0])
        return run(node, updatehash)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "run", damage_before)
        with pytest.raises(Exception, match=rf"InputError: .*{name}\.blm is damaged .*run again"):
            study.workflow("work", out_dir=study.folder / "out").run()
    assert not list(study.folder.glob("out/**/*.nii"))
    study.workflow("work", out_dir=study.folder / "out").run()
    study.workflow("fresh", out_dir=study.folder / "fresh_out").run()
    same_maps(study.folder / "out", study.folder / "fresh_out")


# -- The folder of the maps ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["blm_vox_beta.nii", "blm_vox_n.json", "inputs.yml"])
@pytest.mark.parametrize("damage", ["deleted", "altered"])
def test_a_file_of_the_result_that_was_lost_is_restored_without_fitting(
    study, ran, name: str, damage: str
) -> None:
    out_dir = study.folder / "out"
    workflow = study.workflow("work", out_dir=out_dir)
    workflow.run()
    changed, content = ran(workflow), (out_dir / name).read_bytes()
    if damage == "deleted":
        (out_dir / name).unlink()
    else:
        (out_dir / name).write_bytes(content[::-1])
    study.workflow("work", out_dir=out_dir).run()
    assert changed() == ALWAYS
    assert (out_dir / name).read_bytes() == content


def test_maps_of_an_earlier_run_leave_and_foreign_files_stay(study) -> None:
    out_dir = study.folder / "out"
    study.workflow("work", out_dir=out_dir).run()
    foreign = out_dir / "contrasts" / "notes.txt"
    foreign.write_text("mine")
    study.workflow("work", out_dir=out_dir, contrasts=[T_AGE], output_cov=False).run()
    maps = {str(path.relative_to(out_dir)) for path in out_dir.rglob("*.nii")}
    assert not any(word in name for name in maps for word in ("cov", "conF", "conR2", "mean"))
    assert {name for name in maps if "contrasts/" in name} == {
        f"contrasts/contrast-age_stat-{stat}_statmap.nii"
        for stat in ("effect", "variance", "t", "z", "p")
    }
    assert foreign.read_text() == "mine"


def test_a_failing_node_leaves_the_maps_of_the_last_run_untouched(study, ran, read_times) -> None:
    out_dir = study.folder / "out"
    study.images[6] = study.folder / "Y06.nii.gz"
    study.write(study.images[6], study.Y[6])
    workflow = study.workflow("work", out_dir=out_dir)
    workflow.run()
    maps, content = read_times(out_dir), study.images[6].read_bytes()
    changed = ran(workflow)
    study.images[6].write_bytes(content[:-8] + bytes(8))  # checksum and length
    with pytest.raises(Exception, match=r"entry 7 of in_files: .*Y06\.nii\.gz"):
        study.workflow("work", out_dir=out_dir).run()
    assert read_times(out_dir) == maps
    study.images[6].write_bytes(gzip.compress(gzip.decompress(content)))
    study.workflow("work", out_dir=out_dir).run()
    assert changed() == {"products1"} | ESTIMATES | CONTRASTS | ALWAYS


def test_a_failing_first_run_makes_no_map(study) -> None:
    study.images[0] = study.folder / "Y00.nii.gz"
    study.write(study.images[0], study.Y[0])
    content = study.images[0].read_bytes()
    study.images[0].write_bytes(content[: len(content) // 2])
    with pytest.raises(Exception, match=r"Y00\.nii\.gz"):
        study.workflow("work", out_dir=study.folder / "out").run()
    assert not list(study.folder.glob("out/**/*"))


# -- The maps ------------------------------------------------------------------------------


def test_several_batches_and_blocks_give_the_maps_of_one(study) -> None:
    outs = [study.folder / name for name in ("one", "many")]
    study.workflow("w1", out_dir=outs[0], images_per_batch=12, voxels_per_block=120).run()
    study.workflow("w2", out_dir=outs[1], images_per_batch=5, voxels_per_block=7).run()
    maps = sorted(path.relative_to(outs[0]) for path in outs[0].rglob("*.nii"))
    assert maps == sorted(path.relative_to(outs[1]) for path in outs[1].rglob("*.nii"))
    for name in maps:
        one, many = read(outs[0] / name), read(outs[1] / name)
        # Sums of 12 terms in another order: a few roundings of 1e-16, times a small condition.
        assert (many.shape, many.dtype) == (one.shape, one.dtype), name
        assert_allclose(many, one, rtol=1e-12, atol=1e-14 * np.abs(one).max(), err_msg=str(name))


def test_linear_and_multiproc_give_identical_maps(study, same_maps) -> None:
    outs = [study.folder / name for name in ("linear", "multiproc")]
    study.workflow("w1", out_dir=outs[0]).run(plugin="Linear")
    study.workflow("w2", out_dir=outs[1], n_procs=2).run(
        plugin="MultiProc", plugin_args=PLUGIN_ARGS["MultiProc"]
    )
    same_maps(*outs)


def collect_outputs(study, workflow: Workflow) -> dict:
    """Run a workflow inside another one; return what a node after it receives."""

    def collect(**fields):
        import json
        from pathlib import Path

        Path("fields.json").write_text(json.dumps(fields))
        return str(Path("fields.json").absolute())

    after = Node(Function(list(MAP_OUTPUTS), ["out"], function=collect), name="after")
    outer = Workflow("outer", base_dir=workflow.base_dir)
    outer.connect([(workflow, after, [(f"outputnode.{field}", field) for field in MAP_OUTPUTS])])
    graph = outer.run()
    [node] = [node for node in graph.nodes() if node.name == "after"]
    return json.loads(Path(node.result.outputs.out).read_text())


@pytest.mark.parametrize("out_dir", [None, "out"], ids=["no out_dir", "out_dir"])
def test_every_output_exists_with_its_sidecar(study, out_dir: str | None) -> None:
    given = {} if out_dir is None else {"out_dir": study.folder / out_dir}
    outputs = collect_outputs(study, study.workflow("work", **given))
    assert set(outputs) == set(MAP_OUTPUTS)
    files = [path for value in outputs.values() for path in np.atleast_1d(value)]
    files = [Path(path) for path in files if str(path).endswith(".nii")]
    assert len(set(files)) == 15 + 3 * 5  # dof_maps and mask_file are maps of BLM
    for path in files:
        assert path.is_relative_to(outputs["out_dir"])
        assert nib.load(path).shape[:3] == study.Y.shape[1:]
        assert json.loads(path.with_suffix(".json").read_text())["Description"]
    if out_dir is not None:
        assert Path(outputs["out_dir"]) == study.folder / out_dir


def test_outputs_that_a_model_does_not_have_may_be_connected(study) -> None:
    workflow = study.workflow("work", contrasts=[T_AGE], output_cov=False)
    outputs = collect_outputs(study, workflow)
    missing = {"blm_vox_cov", "blm_vox_conF", "blm_vox_conFlp", "blm_vox_conR2"}
    assert set(MAP_OUTPUTS) - set(outputs) == missing


@pytest.mark.parametrize(
    "contrasts",
    [[F_BOTH, T_MEAN, T_AGE], [T_AGE, F_BOTH, T_MEAN], [T_MEAN, F_BOTH]],
    ids=["F T T", "T F T", "T F"],
)
def test_lists_follow_the_order_of_the_contrasts(study, contrasts: list[dict]) -> None:
    outputs = collect_outputs(study, study.workflow("work", contrasts=contrasts))
    metadata = outputs["contrast_metadata"]
    assert [entry["name"] for entry in metadata] == [c["name"] for c in contrasts]
    mask, edf = read(outputs["mask_file"])[0] > 0, read(outputs["blm_vox_edf"])[0]
    assert outputs["dof"] == int(np.median(edf[mask]))
    beta, cov = read(outputs["blm_vox_beta"]), read(outputs["blm_vox_cov"])
    cov = cov.reshape(3, 3, -1)
    position = {"t": 0, "F": 0}
    for i, (entry, contrast) in enumerate(zip(metadata, contrasts, strict=True)):
        L = np.atleast_2d(contrast["vector"])
        q, kind = len(L), "F" if np.ndim(contrast["vector"]) == 2 else "t"
        assert entry["stat_type"] == kind
        assert_array_equal(entry["weights"], L)
        effect, variance, stat, z, p, dof = (
            read(outputs[f"{what}_maps"][i])
            for what in ("effect", "variance", "stat", "zscore", "pvalue", "dof")
        )
        # Sums of three products in float64.
        assert_allclose(effect, L @ beta, rtol=1e-12, atol=1e-12)
        expected = np.einsum("ap,pqv,bq->abv", L, cov, L).reshape(q * q, -1)
        assert_allclose(variance, expected, rtol=1e-10, atol=1e-14)
        assert_array_equal(dof[0], edf)
        log_p_name = "blm_vox_conTlp" if kind == "t" else "blm_vox_conFlp"
        stat_name = "blm_vox_conT" if kind == "t" else "blm_vox_conF"
        assert_array_equal(stat[0], read(outputs[stat_name])[position[kind]])
        assert nib.load(outputs["stat_maps"][i]).header.get_intent()[0] == f"{kind.lower()} test"
        log10_p = read(outputs[log_p_name])[position[kind]]
        # A power of ten of at most 12 digits before the point, in float64.
        assert_allclose(p[0, mask], 10.0 ** -log10_p[mask], rtol=1e-12)
        if kind == "t":
            expected_p = stats.t.sf(stat[0], np.maximum(edf, 1))[mask]
        else:
            expected_p = stats.f.sf(stat[0], q, np.maximum(edf, 1))[mask]
        # scipy's tails have some 1e-13; z has the same absolute error near 0.
        assert_allclose(p[0, mask], expected_p, rtol=1e-11)
        assert_allclose(stats.norm.sf(z[0, mask]), p[0, mask], rtol=1e-10)
        assert not p[0, ~mask].any()
        position[kind] += 1
    tests = [read(outputs["blm_vox_con"]), read(outputs["blm_vox_conF"])]
    assert [len(t) for t in tests] == [position["t"], position["F"]]


# -- The builder ---------------------------------------------------------------------------


def test_every_node_declares_memory_and_processes() -> None:
    workflow = init_blm_wf(n_procs=3, max_mem_gb=1.5)
    for name in ("products", "estimates", "contrasts"):
        node = workflow.get_node(name)
        assert isinstance(node, MapNode)
        assert (node.n_procs, node.mem_gb) == (3, 1.5)
    for name in ("plan", "assemble"):
        assert workflow.get_node(name).n_procs == 1
        assert workflow.get_node(name).mem_gb == 0.5


def test_the_builder_takes_keywords_only_and_refuses_unknown_ones() -> None:
    with pytest.raises(TypeError):
        init_blm_wf("/tmp")
    with pytest.raises(InputError, match=r"images_per_bach.* nearest one is images_per_batch"):
        init_blm_wf(images_per_bach=4)


def test_the_output_node_has_every_output_of_the_one_node_model() -> None:
    outputs = init_blm_wf().get_node("outputnode").outputs.copyable_trait_names()
    assert set(outputs) == set(MAP_OUTPUTS)
    assert {"contrast_metadata", "effect_maps", "variance_maps", "stat_maps"} < set(outputs)
    assert {"zscore_maps", "pvalue_maps", "dof_maps", "mask_file"} < set(outputs)


@pytest.mark.parametrize("kind", ["orig", "flat", "exec", "hierarchical", "colored"])
def test_write_graph_needs_no_graphviz_for_dot(study, monkeypatch, kind: str) -> None:
    monkeypatch.setenv("PATH", "")
    workflow = study.workflow("work")
    path = workflow.write_graph(str(study.folder / "graph.dot"), graph2use=kind, format="dot")
    text = Path(path).read_text()
    assert all(name in text for name in ("plan", "products", "estimates", "contrasts", "assemble"))


def test_write_graph_draws_a_picture(study, require_command) -> None:
    require_command("dot", "graphviz")
    workflow = study.workflow("work")
    path = workflow.write_graph(str(study.folder / "graph.dot"), graph2use="colored", format="svg")
    assert "<svg" in Path(path).read_text()
