"""A study that grows, as the command runs it: with every plugin, and in the words of its users."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nipype_blm.cli.main import main
from nipype_blm.io.arrayfile import write_arrays

SLOW_READING = Path(__file__).parent / "slow_reading"

SPLIT = {"images_per_batch": 5, "voxels_per_block": 9, "keep": "all", "numNodes": 1}


@pytest.fixture(params=["blm", "blmm"])
def any_study(study, request):
    """The study with a linear and with a mixed model."""
    study.model = request.param
    study.fields |= SPLIT
    return study


def ask(study, n, **changes):
    """Have the next run be of the first `n` images."""
    study.write("Y.txt", "".join(f"s{i:02}.nii\n" for i in range(n)))
    X = study.X[:n].copy()
    X[:, 2] -= X[:, 2].mean()
    study.write_design(X)
    if study.model == "blmm":
        study.write("f.csv", "".join(f"{i % 4}\n" for i in range(n)))
        study.write("Z.csv", "1\n" * n)
        changes["Z"] = [{"f1": {"name": "f", "factor": "f.csv", "design": "Z.csv"}}]
    return changes


def assert_like_a_fresh_run(study, maps, changes):
    outdir, study.outdir = study.outdir, study.folder / "fresh"
    expected = study.maps_of(outdir="fresh", **changes)
    study.outdir = outdir
    assert maps.keys() == expected.keys() != set()
    # Sums in another order; of a mixed model, where iterations end depends on that.
    rtol = 1e-11 if study.model == "blm" else 1e-4
    for name in maps.keys() - {"blmm_vox_nit"}:
        atol = rtol * np.abs(expected[name]).max()
        np.testing.assert_allclose(maps[name], expected[name], rtol=0, atol=atol, err_msg=name)
    for name in ("n", "mask", "status"):
        name = f"{study.model}_vox_{name}"
        np.testing.assert_array_equal(maps[name], expected[name], err_msg=name)


def test_the_command_reads_what_was_added_and_check_says_so(any_study, reading):
    study = any_study
    study.maps_of(**ask(study, 9))
    changes = ask(study, 12)
    reading.clear()
    shown = study.run("--check", **changes)
    assert "3 images are read, 9 are taken from the last run." in shown.out.splitlines()
    assert reading == []
    maps = study.maps_of(**changes)
    assert sorted(reading) == ["s09.nii", "s10.nii", "s11.nii"]
    assert study.run(**changes).out.startswith("Nothing to do")
    assert len(reading) == 3
    assert_like_a_fresh_run(study, maps, changes)


def test_a_run_that_ends_in_the_middle_is_gone_on_from(study, reading, monkeypatch):
    """By then Nipype has emptied the folders of two batches, and one has its products."""
    study.fields |= SPLIT
    study.maps_of(**ask(study, 9))
    changes = ask(study, 12)
    numbers = iter(range(9))

    def write(*arguments):
        if next(numbers) == 1:
            raise OSError("the end")
        return write_arrays(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("nipype_blm.stages.products.write_arrays", write)
        assert study.run(**changes).code == 1
    reading.clear()
    maps = study.maps_of(**changes)
    assert sorted(reading) == ["s09.nii", "s10.nii", "s11.nii"]
    assert_like_a_fresh_run(study, maps, changes)


@pytest.mark.parametrize("plugin", ["MultiProc", "Dask"])
def test_plugins_read_what_was_added(study, plugin):
    study.fields |= SPLIT
    study.maps_of(**ask(study, 9))
    changes = ask(study, 12)
    noted = study.folder / "noted.txt"
    environment = os.environ | {"PYTHONPATH": str(SLOW_READING), "NOTED": str(noted)}
    program = "from nipype_blm.cli.blm import main; raise SystemExit(main())"
    command = [sys.executable, "-P", "-c", program, study.configure(**changes)]
    subprocess.run([*command, "--plugin", plugin], env=environment, check=True)
    assert sorted(noted.read_text().split()) == ["s09.nii", "s10.nii", "s11.nii"]
    assert_like_a_fresh_run(study, study.maps(), changes)


def test_contrasts_of_a_study_that_has_grown_need_nothing_though_products_were_dropped(
    study, reading
):
    study.fields |= SPLIT
    study.maps_of(**ask(study, 9))
    changes = ask(study, 12) | {"keep": "contrasts"}
    study.maps_of(**changes)
    reading.clear()
    more = {"contrasts": [{"name": "mean", "vector": [1, 0, 0]}]}
    maps = study.maps_of(**changes | more)
    assert reading == []
    assert_like_a_fresh_run(study, maps, changes | more)


@pytest.mark.parametrize("keep", ["contrasts", "nothing"])
def test_who_has_kept_less_is_told_what_keeps_products(study, reading, keep):
    changes = {"keep": keep, "zero_is_missing": False}
    study.maps_of(**ask(study, 9) | changes)
    reading.clear()
    result = study.run(**ask(study, 12) | changes)
    [notice] = [line for line in result.err.splitlines() if "images are read" in line]
    assert notice == (
        "notice: All 12 images are read, also the 9 of an earlier run: it has kept no products of "
        "them.  With keep: all a run that has more images later reads only those."
    )
    assert len(reading) == 12
    # Told once: the next run has nothing to add.
    assert "images are read" not in study.run(**ask(study, 12) | changes).err


def test_a_study_that_goes_on_is_not_said_to_replace_another_model(study, capsys):
    study.fields |= SPLIT
    for n in (9, 12):
        config = study.configure(**ask(study, n))
        assert main(["fit", str(config), str(study.outdir)]) == 0
        assert "another model" not in capsys.readouterr().err


def test_a_new_level_that_becomes_the_reference_needs_no_image_of_the_others(study, reading):
    """What a formula makes of old rows is made of what it has made before: scaled, coded anew."""
    images = [f"{study.folder}/s{i:02}.nii" for i in range(12)]
    lines = [
        f"{image}\t{20 + 7 * (i % 5)}\t{'BC'[i % 2] if i < 9 else 'A'}\n"
        for i, image in enumerate(images)
    ]
    changes = {"table": "t.tsv", "formula": "~ scale(age) + site", "outdir": "out"} | SPLIT
    study.fields = {}
    study.write("t.tsv", "".join(["image\tage\tsite\n", *lines[:9]]))
    study.maps_of(**changes)
    study.write("t.tsv", "".join(["image\tage\tsite\n", *lines]))
    reading.clear()
    maps = study.maps_of(**changes)
    assert sorted(reading) == ["s09.nii", "s10.nii", "s11.nii"]
    changes.pop("outdir")
    assert_like_a_fresh_run(study, maps, changes)
