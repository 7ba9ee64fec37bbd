"""What stays when a run has ended well is enough for what comes next, and no more.

The whole kind: disks that fill with what nobody needs, and work that is done again because it was
removed.  For each choice of `keep`: what is left, what the same command, new contrasts, replaced
images, another design and damaged files cost then, and that the maps are those of a fresh run.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from nipype_blm.io.arrayfile import is_empty, is_whole
from nipype_blm.results import declared

SPLIT = {"images_per_batch": 5, "voxels_per_block": 9}  # three batches, three blocks
MORE = [{"name": "mean", "vector": [1, 0, 0]}, {"name": "age", "vector": [0, 0, 1]}]


@pytest.fixture(params=["blm", "blmm"])
def any_study(study, request):
    """The study with a linear and with a mixed model."""
    if request.param == "blmm":
        study.model = "blmm"
        study.write("f.csv", "".join(f"{i // 3}\n" for i in range(12)))
        study.write("Z.csv", "1\n" * 12)
        study.fields["Z"] = [{"f1": {"name": "f", "factor": "f.csv", "design": "Z.csv"}}]
    study.fields |= SPLIT
    return study


def find(study, kind):
    return sorted((study.outdir / "work").rglob(f"{kind}.blm"))


def stamps_of(study):
    """Return what tells an estimate that was made anew."""
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in find(study, "estimates")}


def assert_like_a_fresh_run(study, maps, **changes):
    outdir, study.outdir = study.outdir, study.folder / "fresh"
    shutil.rmtree(study.outdir, ignore_errors=True)
    expected = study.maps_of(outdir="fresh", **changes)
    study.outdir = outdir
    assert maps.keys() == expected.keys() != set()
    for name, values in maps.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_by_default_estimates_stay_and_new_contrasts_read_and_fit_nothing(any_study, reading):
    study = any_study
    study.maps_of()
    assert all(map(is_empty, find(study, "products")))
    assert len(find(study, "products")) == len(find(study, "estimates")) == 3
    assert find(study, "statistics") == []
    before = stamps_of(study)
    reading.clear()
    maps = study.maps_of(contrasts=MORE)
    assert reading == []
    assert stamps_of(study) == before
    assert_like_a_fresh_run(study, maps, contrasts=MORE)


@pytest.mark.parametrize("plugin", ["MultiProc", "Dask"])
def test_plugins_that_run_each_batch_apart_find_that_none_is_needed(study, plugin):
    study.fields |= SPLIT | {"numNodes": 1}
    study.maps_of()
    before = stamps_of(study), [path.stat().st_mtime_ns for path in find(study, "products")]
    assert study.run("--plugin", plugin, contrasts=MORE).code == 0
    assert before == (stamps_of(study), [p.stat().st_mtime_ns for p in find(study, "products")])
    assert_like_a_fresh_run(study, study.maps(), contrasts=MORE)
    study.values[3] += 1
    study.save_image("s03.nii", study.values[3])
    assert study.run("--plugin", plugin).code == 0
    assert_like_a_fresh_run(study, study.maps())


@pytest.mark.parametrize("change", ["an image", "the design", "the plan"])
def test_anything_else_that_is_new_reads_all_images_again(any_study, reading, change):
    study, changes = any_study, {}
    study.maps_of()
    reading.clear()
    if change == "an image":
        study.values[3] += 1
        study.save_image("s03.nii", study.values[3])
    elif change == "the design":
        study.X[:, 2] += 0.5 * study.X[:, 1]
        study.write_design(study.X)
    else:
        changes = {"images_per_batch": 7}
    maps = study.maps_of(**changes)
    assert sorted(reading) == [f"s{i:02}.nii" for i in range(12)]
    assert_like_a_fresh_run(study, maps, **changes)


@pytest.mark.parametrize("damage", ["estimates lost", "estimates damaged", "products damaged"])
def test_what_was_lost_meanwhile_is_made_again(any_study, reading, damage):
    study = any_study
    study.maps_of()
    reading.clear()
    kind, what = damage.split()
    path = find(study, kind)[1]
    if what == "lost":
        path.unlink()
    else:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        assert not is_whole(path)
    maps = study.maps_of(contrasts=MORE)
    assert 5 <= len(reading) <= 12  # one batch, or all
    assert_like_a_fresh_run(study, maps, contrasts=MORE)


@pytest.mark.parametrize("options", [(), ("--plugin", "MultiProc")])
def test_the_same_command_again_says_that_nothing_is_to_do(any_study, options, contents_of):
    study = any_study
    first = study.run()
    before = contents_of(study.outdir)
    again = study.run(*options)
    assert again.code == 0
    assert again.out.splitlines()[0].startswith("Nothing to do")
    assert again.out.splitlines()[1:] == first.out.splitlines()
    assert contents_of(study.outdir) == before
    assert study.run("--quiet").out == ""


@pytest.mark.parametrize("lost", ["blm_vox_beta.nii", "contrasts", "inputs.yml"])
def test_a_result_that_is_not_there_any_more_is_something_to_do(study, reading, lost):
    before = study.maps_of()
    reading.clear()
    for path in study.outdir.glob(f"{lost}*"):
        path.unlink() if path.is_file() else [inner.unlink() for inner in path.iterdir()]
    result = study.run()
    assert result.code == 0
    assert "Nothing to do" not in result.out
    assert reading == []
    assert study.maps().keys() == before.keys()
    assert (study.outdir / "inputs.yml").exists()


def test_a_version_that_says_more_of_a_map_writes_the_maps_anew_and_fits_nothing(
    any_study, reading, monkeypatch
):
    study = any_study
    before, stamps = study.maps_of(), stamps_of(study)
    reading.clear()
    first, *others = declared.DECLARED
    changed = replace(first, words="Voxels in the result, as of now.")
    monkeypatch.setattr(declared, "DECLARED", (changed, *others))
    result = study.run()
    assert result.code == 0
    assert "Nothing to do" not in result.out
    assert (reading, stamps_of(study)) == ([], stamps)
    [sidecar] = study.outdir.glob("*_vox_mask.json")
    assert json.loads(sidecar.read_text())["Description"] == changed.words
    maps = study.maps()
    assert maps.keys() == before.keys()
    for name, values in maps.items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_keep_all_keeps_what_a_replaced_image_needs(any_study, reading):
    study = any_study
    study.fields["keep"] = "all"
    study.maps_of()
    assert not any(map(is_empty, find(study, "products")))
    assert len(find(study, "statistics")) == 3
    reading.clear()
    study.values[3] += 1
    study.save_image("s03.nii", study.values[3])
    maps = study.maps_of()
    assert len(reading) == 5  # its batch
    assert_like_a_fresh_run(study, maps)


@pytest.mark.parametrize(
    ("options", "fields"), [(["--clean"], {}), ([], {"keep": "nothing"})], ids=["option", "field"]
)
def test_nothing_is_kept_if_one_wants_so_also_when_nothing_is_to_do(study, options, fields):
    assert study.run(*options, **fields).code == 0
    assert not (study.outdir / "work").exists()
    study.run(keep="all", compress=True)
    assert (study.outdir / "work").exists()
    assert study.run("--clean", keep="all", compress=True).code == 0
    assert not (study.outdir / "work").exists()


def test_nothing_is_dropped_before_the_maps_are_there(study, monkeypatch):
    study.fields |= SPLIT
    with monkeypatch.context() as patch:
        patch.setattr("nipype_blm.stages.assemble.publish", lambda *_: 1 / 0)
        assert study.run().code == 1
    assert len(find(study, "products")) == 3
    assert not any(map(is_empty, find(study, "products")))
    assert len(find(study, "statistics")) == 3


def test_check_says_what_stays(study):
    kept = {}
    for keep in ("all", "contrasts", "nothing"):
        [line] = [li for li in study.run("--check", keep=keep).out.splitlines() if "of disk" in li]
        assert line.endswith(f"GB of which stay (keep: {keep}).")
    for keep in ("all", "contrasts", "nothing"):
        study.maps_of(keep=keep, outdir=keep)
        kept[keep] = sum(p.stat().st_size for p in (study.folder / keep).rglob("*.blm"))
    assert kept["all"] > kept["contrasts"] > kept["nothing"] == 0


def test_another_word_for_keep_is_refused(study):
    result = study.run(keep="some")
    assert result.code == 2
    [error] = result.errors
    assert error == "keep: 'some' was given; choose one of contrasts, all, tiles, nothing."


@pytest.mark.parametrize("keep", ["contrasts", "nothing"])
def test_nothing_is_dropped_of_a_run_that_did_not_end_well(study, keep):
    """No voxel is left: what has been read is what another threshold needs."""
    result = study.run(keep=keep, data_mask_thresh=1e6)
    assert result.code == 1
    assert "no voxel could be fitted" in result.err
    assert not any(map(is_empty, find(study, "products")))
    assert len(find(study, "products")) == 1


@pytest.mark.parametrize("keep", ["contrasts", "all"])
def test_what_interrupted_runs_of_other_plans_have_read_does_not_stay(study, keep):
    left = study.outdir / "work" / "blm_wf" / "products" / "checkpoints" / "batch_0007.blm"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of another plan")
    study.maps_of(keep=keep)
    assert not left.exists()


@pytest.mark.parametrize(
    "changes", [{"sim": True}, {"keep": "nothing"}, {"work_dir": "elsewhere"}, {"numNodes": 2}]
)
def test_a_field_that_changes_no_map_gives_nothing_to_do(study, reading, changes):
    study.maps_of()
    reading.clear()
    assert study.run(**changes).code == 0
    assert reading == []
