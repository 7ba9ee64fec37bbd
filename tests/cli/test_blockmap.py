"""``nipype-blm blockmap``: from a configuration to results, and what may be wrong with it."""

import io
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
import zarr
from blockmap_runs import N_BLOCKS, count_calls, describe, read_results, write_volume
from children import hear_signals

from nipype_blm.cli.main import main

LIMIT_S = 120


class Desk:
    """A folder with a volume, a function and a configuration."""

    def __init__(self, folder, capsys):
        self.folder, self._capsys = folder, capsys
        self.values = write_volume(folder)
        self.out = folder / "blocks.yml.out"

    def write(self, name="blocks.yml", **fields):
        path = self.folder / name
        path.write_text(yaml.safe_dump(describe(self.folder) | fields))
        return path

    def say(self, *arguments):
        """Run the command here; return its code, output and errors."""
        self._capsys.readouterr()
        try:
            code = main(["blockmap", *map(str, arguments)])
        except SystemExit as exit_:
            code = exit_.code
        out, err = self._capsys.readouterr()
        return code, out, err

    def begin(self, *arguments):
        """Start the command as a process."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "nipype_blm.cli.main", "blockmap", *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=hear_signals,
        )


@pytest.fixture
def desk(tmp_path, capsys):
    return Desk(tmp_path, capsys)


def test_results_are_those_of_the_function_on_the_whole_volume(desk):
    code, out, err = desk.say(desk.write(), "--n-procs", 1)
    assert code == 0, err
    assert f"{N_BLOCKS} of {N_BLOCKS} blocks done." in out
    found = zarr.open_array(desk.out / "inverse.zarr", path="0")
    np.testing.assert_array_equal(found[:], 255 - desk.values)
    rows = (desk.out / "table.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["block", "z", "y", "x", "total"]
    assert len(rows) == 1 + N_BLOCKS
    assert sum(int(row.split("\t")[4]) for row in rows[1:]) == desk.values.sum()
    assert set(count_calls(desk.folder).values()) == {1}


def test_the_same_again_calls_nothing(desk):
    config = desk.write()
    desk.say(config, "--n-procs", 1)
    before, known = count_calls(desk.folder), read_results(desk.out)
    code, out, _ = desk.say(config, "--n-procs", 1)
    assert code == 0
    assert f"{N_BLOCKS} of {N_BLOCKS} blocks done." in out
    assert count_calls(desk.folder) == before
    assert read_results(desk.out) == known


@pytest.mark.parametrize("how", [("--n-procs", 2), ("--threads", 3)], ids=["processes", "threads"])
def test_processes_and_threads_write_the_same_bytes(desk, how):
    config = desk.write()
    desk.say(config, "--n-procs", 1)
    code, _, err = desk.say(config, *how, "--out", desk.folder / "other")
    assert code == 0, err
    assert read_results(desk.folder / "other") == read_results(desk.out)


def test_a_check_says_what_would_be_done_and_does_nothing(desk):
    code, out, _ = desk.say(desk.write(), "--check")
    assert code == 0
    assert f"{N_BLOCKS} blocks of 8 x 10 x 4 voxels" in out
    assert "5.625 KiB to be read" in out  # 12 x 20 x 24 bytes
    assert not desk.out.exists()
    assert not count_calls(desk.folder)


def test_what_was_skipped_runs_alone_when_the_function_is_mended(desk):
    source = desk.folder / "functions.py"
    good = source.read_text()
    source.write_text(
        good.replace("    time", "    if block.start[0] == 4: raise KeyError('q')\n    time")
    )
    config = desk.write()
    process = desk.begin(config, "--n-procs", 1)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    assert "6 blocks of 18 were skipped" in output
    rows = (desk.out / "skipped.tsv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert all("KeyError: 'q'" in row and "functions.py" in row for row in rows[1:])
    (desk.folder / "calls").unlink()
    source.write_text(good)
    process = desk.begin(config, "--n-procs", 1)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    assert "has changed since the last run" in output
    calls = count_calls(desk.folder)
    assert len(calls) == 6
    assert all(key.startswith("4_") for key in calls)
    found = zarr.open_array(desk.out / "inverse.zarr", path="0")
    np.testing.assert_array_equal(found[:], 255 - desk.values)
    assert not (desk.out / "skipped.tsv").exists()


def test_after_an_interrupt_only_what_was_at_work_is_done_again(desk, wait_until):
    config = desk.write(arguments={"folder": str(desk.folder), "seconds": 0.2})
    process = desk.begin(config, "--n-procs", 1)
    wait_until(lambda: len(count_calls(desk.folder)) > 3, LIMIT_S, "some blocks have started")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, output
    assert "The same command goes on" in output
    code, _, err = desk.say(config, "--threads", 4)
    assert code == 0, err
    calls = count_calls(desk.folder)
    assert len(calls) == N_BLOCKS
    assert sum(calls.values()) <= N_BLOCKS + 1
    found = zarr.open_array(desk.out / "inverse.zarr", path="0")
    np.testing.assert_array_equal(found[:], 255 - desk.values)


FAULTS = {
    "no channel": ({"channels": {}}, "channels is empty"),
    "a field that there is not": ({"blocksize": 3}, "blocksize is not known; there are channels"),
    "a block of 0": ({"block_size": [0, 1, 1]}, r"block_size \[0, 1, 1\] was given; expected"),
    "a range outside": ({"ranges": {"x": [0, 25]}}, "range 0 to 25 along x .* has 0 to 24"),
    "a range of one number": ({"ranges": {"x": 5}}, r"x: 5 was given; expected \[start, stop\]"),
    "no such function": ({"function": "scipy.ndimage:lable"}, "has no function 'lable'"),
    "no such module": ({"function": "nowhere:f"}, "nowhere:f cannot be imported: ModuleNotFound"),
    "an argument that it has not": ({"arguments": {"sigma": 1}}, "cannot be called with"),
    "a type that there is not": (
        {"outputs": {"inverse": {"dtype": "uint7"}}},
        "'uint7' is no type of NumPy",
    ),
    "chunks that do not fit": (
        {"outputs": {"inverse": {"dtype": "uint8", "chunks": [3, 10, 4]}}},
        "chunks of 3 along x, and blocks of 8",
    ),
    "a volume that is not there": ({"channels": {"em": "nothing.zarr"}}, "nothing.zarr .*not"),
    "a text as a mean of whole numbers": (
        {"outputs": {"inverse": {"merge": "mean", "dtype": "uint8"}}},
        "is a mean, and its dtype uint8",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_told_in_a_sentence_before_anything_runs(desk, fault):
    fields, expected = FAULTS[fault]
    code, out, err = desk.say(desk.write(**fields), "--n-procs", 1)
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line[-1] in ".:"
    assert re.search(expected, line), line
    assert not out
    assert not desk.out.exists()
    assert not count_calls(desk.folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--n-procs", 0), "--n-procs 0 was given; expected 1 or more."),
        (("--threads", 2, "--n-procs", 2), "--threads and --n-procs are both given"),
        (("--threads", 2, "--cluster", "local"), "--threads is for one process"),
        (("--ask-token",), "--ask-token needs a terminal"),
    ],
)
def test_options_that_exclude_each_other_are_refused(desk, options, expected, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = desk.say(desk.write(), *options)
    assert code == 2
    assert expected in err


def test_a_folder_of_other_settings_is_refused_until_it_may_be_overwritten(desk):
    desk.say(desk.write(), "--n-procs", 1)
    known = read_results(desk.out)
    config = desk.write(block_size=[24, 20, 12])
    code, _, err = desk.say(config, "--n-procs", 1)
    assert code == 2
    assert "has the results of other settings" in err
    assert read_results(desk.out) == known
    code, out, _ = desk.say(config, "--n-procs", 1, "--overwrite")
    assert code == 0
    assert "1 of 1 block done." in out


def test_fields_are_explained_without_a_configuration(desk):
    code, out, _ = desk.say("--fields")
    assert code == 0
    for name in ("channels", "block_size", "merge", "dataset"):
        assert f"  {name} " in out
