"""Runs that keep the values of their images: the next model of them reads no image."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SLOW_READING = Path(__file__).parent / "slow_reading"
SPLIT = {"images_per_batch": 5, "voxels_per_block": 9, "keep": "tiles", "numNodes": 1}
RNG = np.random.default_rng(5)


@pytest.fixture
def study(study):
    study.fields |= SPLIT
    return study


def ask_another_model(study):
    """Have the next run be of a column that the last one did not have."""
    study.X[:, 2] = RNG.normal(size=len(study.X))
    study.write_design(study.X)


def find_tiles(study):
    return sorted((study.outdir / "work" / f"{study.model}_wf" / "tiles").glob("*"))


def assert_like_a_fresh_run(study, maps, **changes):
    """Compare all bits with a run that reads images."""
    outdir, study.outdir = study.outdir, study.folder / "fresh"
    expected = study.maps_of(outdir="fresh", **changes)
    study.outdir = outdir
    assert maps.keys() == expected.keys() != set()
    for name, values in maps.items():
        assert values.tobytes() == expected[name].tobytes(), name


def test_another_design_reads_no_image_and_check_says_so(study, reading):
    study.maps_of()
    assert len(find_tiles(study)) == 3
    assert study.run().out.startswith("Nothing to do")
    reading.clear()
    ask_another_model(study)
    shown = study.run("--check")
    assert "0 images are read, 12 are taken from the last run." in shown.out.splitlines()
    assert "stay (keep: tiles)" in shown.out
    result = study.run()
    assert (result.code, reading) == (0, [])
    assert "images are read" not in result.err
    assert_like_a_fresh_run(study, study.maps())


def test_tiles_that_are_lost_or_damaged_are_made_again(study, reading):
    study.maps_of()
    first, second, _ = find_tiles(study)
    whole = [path.read_bytes() for path in find_tiles(study)]
    first.unlink()
    reading.clear()
    study.maps_of()
    second.write_bytes(whole[1][:-50])
    ask_another_model(study)
    maps = study.maps_of()
    assert 4 <= len(reading) <= 10  # of one batch, twice
    assert [path.read_bytes() for path in find_tiles(study)] == whole
    assert_like_a_fresh_run(study, maps)


def test_a_run_that_keeps_less_reads_tiles_and_then_removes_them(study, reading):
    study.maps_of()
    ask_another_model(study)
    reading.clear()
    study.maps_of(keep="all")
    assert reading == []
    assert len(find_tiles(study)) == 3
    ask_another_model(study)
    study.maps_of(keep="contrasts")
    assert reading == []
    assert find_tiles(study) == []
    maps = study.maps_of(keep="contrasts", contrasts=[{"name": "mean", "vector": [1, 0, 0]}])
    assert reading == []
    assert maps


def test_a_finished_run_that_is_to_keep_tiles_writes_them(study, reading):
    study.maps_of(keep="contrasts")
    assert find_tiles(study) == []
    study.maps_of()
    assert len(reading) == 24
    assert len(find_tiles(study)) == 3


def test_tiles_of_batches_that_are_no_more_are_removed(study, reading):
    study.maps_of()
    before = find_tiles(study)
    reading.clear()
    study.maps_of(images_per_batch=4)
    assert reading == []
    assert not set(before) & set(find_tiles(study))
    assert len(find_tiles(study)) == 3


def test_workers_write_and_read_the_same_tiles(study):
    noted = study.folder / "noted.txt"
    environment = os.environ | {"PYTHONPATH": str(SLOW_READING), "NOTED": str(noted)}
    program = "from nipype_blm.cli.blm import main; raise SystemExit(main())"
    command = [sys.executable, "-P", "-c", program]

    def run(outdir):
        file = study.configure(outdir=outdir)
        subprocess.run([*command, file, "--plugin", "Dask"], env=environment, check=True)

    run("out")
    assert len(noted.read_text().split()) == 12
    written = [(path.name, path.read_bytes()) for path in find_tiles(study)]
    ask_another_model(study)
    run("out")
    assert len(noted.read_text().split()) == 12
    maps = study.maps()
    assert_like_a_fresh_run(study, maps)
    study.outdir = study.folder / "fresh"
    assert [(path.name, path.read_bytes()) for path in find_tiles(study)] == written
