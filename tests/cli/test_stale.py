"""Files of another run, exchanged or damaged ones are never taken for those of this run."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from nipype.pipeline.engine import Node

from nipype_blm.errors import InputError
from nipype_blm.interfaces import BLM
from nipype_blm.io.publish import Claim, publish

# Another model than that of the fixture.
CHANGED = {"contrasts": [{"c1": {"name": "other", "vector": [0, 1, 0]}}]}


def assert_equal_maps(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# ------------------------------------------------------------- one outdir for two models


def test_another_model_with_another_work_dir_is_refused_before_work_starts(study, contents_of):
    """Also by --check; nothing is lost, and the first one still finds its maps."""
    study.run(work_dir="one")
    before = contents_of(study.outdir)
    for options in ((), ("--check",)):
        result = study.run(*options, work_dir="two", **CHANGED)
        assert result.code == 2
        [problem] = result.errors
        assert problem.startswith(f"{study.outdir} has the results of another model, made in ")
        for name in ("one", "two"):
            assert f"made in {study.folder}/{name}/blm_wf/plan_files" in problem
        assert "overwrite" in problem
    assert contents_of(study.outdir) == before
    assert not (study.folder / "two" / "blm_wf").exists()
    assert study.run(work_dir="two", overwrite=True, **CHANGED).code == 0
    assert "contrast-other_stat-t_statmap" in study.maps()
    assert study.run(work_dir="two").code == 0  # whose folder it is now


@pytest.mark.parametrize(
    "fields",
    [{"work_dir": "two"}, {"work_dir": "two", "images_per_batch": 5, "voxels_per_block": 7}],
    ids=["alike", "cut otherwise"],
)
def test_the_same_model_may_be_run_with_another_work_dir(study, fields):
    before = study.maps_of(work_dir="one")
    assert study.maps_of(**fields).keys() == before.keys()


@pytest.mark.parametrize("options", [(), ("--clean",)])
@pytest.mark.parametrize("work_dir", [None, "scratch"])
def test_the_same_command_works_whatever_was_edited_in_between(study, options, work_dir):
    for changes in ({}, CHANGED, {"two_sided": True}):
        result = study.run(*options, work_dir=work_dir, **changes)
        assert result.code == 0, result.err


def test_an_outdir_whose_work_dir_was_removed_may_be_used_with_any_other(study):
    study.run("--clean", work_dir="one")
    assert study.run(work_dir="two", **CHANGED).code == 0


def test_a_copy_of_a_study_can_be_changed_and_run(study, contents_of):
    """The record in the copy of outdir names the working directory of the original."""
    study.run()
    copy = study.folder.with_name("copy")
    shutil.copytree(study.folder, copy)
    fields = yaml.safe_load((copy / "blm.yml").read_text()) | CHANGED
    (copy / "blm.yml").write_text(yaml.safe_dump(fields))
    before = contents_of(study.outdir)
    result = study.command(copy / "blm.yml")
    assert result.code == 0, result.err
    assert contents_of(study.outdir) == before


def test_node_and_command_do_not_replace_each_other_s_maps_of_another_model(study):
    images = [str(study.folder / f"s{i:02}.nii") for i in range(12)]
    contrasts = [contrast for item in study.fields["contrasts"] for contrast in item.values()]
    node = BLM(in_files=images, design_file=str(study.folder / "X.csv"), contrasts=contrasts)
    node.inputs.out_dir = str(study.outdir)
    node.run(cwd=str(study.folder))
    assert study.run(**CHANGED).code == 2
    assert study.command(study.outdir / "inputs.yml").code == 0  # the same model
    assert study.run(overwrite=True, **CHANGED).code == 0
    with pytest.raises(InputError, match=r"another model, made in .*/blm_wf/plan_files; "):
        node.run(cwd=str(study.folder))
    node.inputs.overwrite = True
    node.run(cwd=str(study.folder))


def test_results_that_were_made_read_only_are_left_alone(study, small_disk):
    """As after `chmod -R a-w`, which changes no content."""
    out = small_disk / "out"

    def write(folder):
        (folder / "map").write_text("a")

    claim = Claim("model", study.folder)
    publish(out, "stamp", claim, write, lambda name: name == "map")
    (out / "map").chmod(0o444)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    publish(out, "stamp", claim, write, lambda name: name == "map")
    with pytest.raises(OSError, match="Read-only"):
        publish(out, "another stamp", claim, write, lambda name: name == "map")


# ---------------------------------------------------------------- damage and exchange


@pytest.mark.parametrize("name", ["model.blm", "contrasts.json", "batch_0000.tsv"])
def test_damage_to_the_plan_is_mended_by_the_next_run(study, name):
    before = study.maps_of()
    [path] = study.outdir.rglob(name)
    content, status = path.read_bytes(), path.stat()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    study.path("blm_vox_n").unlink()  # so that there is something to do
    assert_equal_maps(study.maps_of(), before)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "reader"),
    [("model.blm", "products"), ("batch_0000.tsv", "products"), ("contrasts.json", "contrasts")],
)
def test_damage_to_the_plan_in_the_middle_of_a_run_is_an_error_that_names_the_file(
    study, monkeypatch, name, reader
):
    """Other numbers that can be read would give wrong maps."""
    run = Node.run

    def damage_before(node, updatehash=False):
        if node.name == reader:
            [path] = study.outdir.rglob(name)
            content = path.read_bytes()
            at = content.rindex(b"1", 0, len(content) // 2)
            path.write_bytes(content[:at] + b"2" + content[at + 1 :])
        return run(node, updatehash)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "run", damage_before)
        result = study.run()
    assert result.code == 2
    [problem] = result.errors
    assert re.search(rf"{name} is damaged.*; run again", problem)
    mended = study.maps_of()
    shutil.rmtree(study.outdir)
    assert_equal_maps(study.maps_of(), mended)


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", bytes(5000)])
def test_damaged_records_of_nipype_only_cost_time(study, content):
    before = study.maps_of()
    records = list(study.outdir.rglob("result_*.pklz"))
    assert records
    for path in records:
        path.write_bytes(content)
    study.path("blm_vox_n").unlink()  # so that there is something to do
    assert_equal_maps(study.maps_of(), before)


def test_a_header_that_was_rewritten_with_its_old_time_is_read_anew(study):
    """In one process too, as in a notebook that checks again and again."""
    assert study.run("--check").code == 0
    path = study.folder / "s03.nii"
    status = path.stat()
    study.save_image("s03.nii", study.values[3], affine=np.diag([4, 4, 4, 1.0]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = study.run("--check")
    assert result.code == 2
    assert "s03.nii: its affine is" in result.err
