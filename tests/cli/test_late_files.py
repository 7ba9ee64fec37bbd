"""A network disk shows the files of other machines late; a run on workers waits for them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nipype_blm.tasks.disks import await_files

LATE_FILES = Path(__file__).parents[1] / "late_files"
SECONDS = 3
# Several batches and blocks, and so several elements of each MapNode.
MANY = {"images_per_batch": 5, "voxels_per_block": 10, "numNodes": 2}


@pytest.fixture
def start(study):
    """Function that starts a run whose files each process shows late to all others."""
    path = os.pathsep.join(filter(None, [str(LATE_FILES), os.environ.get("PYTHONPATH")]))
    late = {"LATE_FILES_BELOW": str(study.outdir), "LATE_FILES_SECONDS": str(SECONDS)}

    def start_(*options):
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "nipype_blm.cli.blm", "blm.yml", *options],
            cwd=study.folder,
            env=os.environ | late | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell that starts the tests in the background has SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start_


def test_a_run_on_workers_waits_for_files_that_appear_late(study, start):
    """For Nipype's records and for ours, in the driver and on workers."""
    expected = study.maps_of()
    subprocess.run(["rm", "-r", study.outdir], check=True)
    study.configure(**MANY)
    process = start("--plugin", "Dask")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    # Nothing was made twice because its file was not seen.
    logs = [path.read_text() for path in study.outdir.glob("work/blm_wf/logs/workers/*.log")]
    starts = Counter(re.findall(r'Executing "(\w+)"', "".join(logs)))
    assert starts.keys() >= {"_products2", "_estimates2", "_contrasts2", "assemble"}
    assert set(starts.values()) == {1}
    assert study.maps().keys() == expected.keys()
    for name, values in study.maps().items():
        np.testing.assert_array_equal(values, expected[name])


def test_a_run_goes_on_after_an_interruption_though_files_appear_late(study, start):
    expected = study.maps_of()
    subprocess.run(["rm", "-r", study.outdir], check=True)
    study.configure(**MANY)
    process = start("--plugin", "Dask")
    end = time.monotonic() + 120
    while not list(study.outdir.rglob("result__products*.pklz")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    process = start("--plugin", "Dask")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    for name, values in study.maps().items():
        np.testing.assert_array_equal(values, expected[name])


def test_waiting_ends_and_costs_nothing_where_all_is_there(tmp_path):
    path = tmp_path / "there"
    path.touch()
    began = time.monotonic()
    await_files([str(path)], 600)
    await_files([str(tmp_path / "never")], 0.3)
    assert time.monotonic() - began < 60
