"""Runs over a BOSS from end to end, over real HTTP and by intern's own client."""

import gzip
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from blockmap.boss_server import BossServer
from intern.utils.parallel import block_compute

from nipype_blm.blockmap.channels import _opened
from nipype_blm.blockmap.journal import name_journal, read_history
from nipype_blm.blockmap.plan import Plan
from nipype_blm.blockmap.retrying import ReadError, WriteError
from nipype_blm.blockmap.run import map_blocks, run_bundle
from nipype_blm.cli.main import main
from nipype_blm.errors import InputError

EXPERIMENT = "collman/collman15v2"
SHAPE = (6, 40, 50)
CONFIG = """\
[Default]
protocol = {protocol}
host = {host}
token = {token}

[Parallel]
collection = collman
experiment = {experiment}
channels = {channels}
x_range = {x_range}
y_range = 5,40
z_range = 0,6
"""
# Tells all that it can find, as a careless exception, or one of a debugger, may.
PRYING = """\
import gc, sys

def pry(data, block=None):
    frame, seen = sys._getframe(), []
    while frame:
        seen += [repr(value) for value in frame.f_locals.values()]
        frame = frame.f_back
    seen += [repr(vars(each)) for each in gc.get_objects() if type(each).__name__ == "BossRemote"]
    seen += [repr(vars(each)) for each in gc.get_objects() if type(each).__name__ == "Session"]
    text = " ".join(seen)
    token = next(iter(sys.modules["nipype_blm.blockmap.tokens"]._used))
    # It would be cut in two where the message is shortened.
    raise ValueError("." * (108 - block.start[0]) + token + "." * 500 + token + text)
"""
# Fails on two blocks, as users' functions do; keeps what it got.
DETECT = """\
import os
from pathlib import Path
import numpy as np

def detect(data, block):
    if block.key in ("2_20_20", "4_5_40"):
        pry(data, block)
    np.savez(Path(__file__).with_name("seen") / block.key, **data)
"""
COMMAND = [sys.executable, "-P", "-m", "nipype_blm.cli.main", "blockmap"]
TOKEN = BossServer.token
QUICK = {"retry_pause_s": 0.01, "retries": 2}


def is_setting(name: str) -> bool:
    """Return whether a variable is of a user's own tokens, or proxies."""
    return name.startswith(("INTERN_", "BOSS_")) or name.lower().endswith(("_proxy", "_bundle"))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in filter(is_setting, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[BossServer]:
    with BossServer() as server:
        yield server


@pytest.fixture
def voxels(server: BossServer) -> dict[str, np.ndarray]:
    """Those of two channels."""
    return add_channels(server)


def add_channels(server: BossServer) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "DAPI": server.add(f"{EXPERIMENT}/DAPI", rng.integers(1, 2**16, SHAPE, np.uint16)),
        "synapsin": server.add(f"{EXPERIMENT}/synapsin", rng.integers(0, 256, SHAPE, np.uint8)),
    }


def write_config(folder: Path, server: BossServer, **changed: str) -> Path:
    """Write the configuration that Nd-Multicore has, of the server."""
    values = {"protocol": "http", "host": server.host, "token": server.token}
    names = {"experiment": "collman15v2", "channels": "DAPI,synapsin", "x_range": "0,50"}
    path = folder / "neurodata.cfg"
    path.write_text(CONFIG.format(**values | names | changed))
    return path


def describe(server: BossServer, channel: str, token: str = "") -> dict[str, Any]:
    """Return a channel, or an output, as a configuration has it."""
    options = {"host": server.host, "protocol": "http", "token": token or keep_token(server)}
    return {"path": f"bossdb://{EXPERIMENT}/{channel}", "options": options}


def keep_token(server: BossServer) -> str:
    """Return where the user's own file with the token is."""
    path = Path("mine", "token").absolute()
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{server.token}\n")
    return f"file:{path}"


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without what the user has set."""
    kept = {name: value for name, value in os.environ.items() if not is_setting(name)}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=kept | {"HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def read_rows(path: str | Path) -> list[dict[str, str]]:
    header, *lines = (line.split("\t") for line in Path(path).read_text().splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


# The run of Nd-Multicore


class Run(NamedTuple):
    """The command on the configuration of Nd-Multicore, with two processes."""

    folder: Path
    voxels: dict[str, np.ndarray]
    cutouts: list[str]
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    (folder / "pipeline.py").write_text(PRYING + DETECT)
    (folder / "seen").mkdir()
    with BossServer() as server:
        voxels = add_channels(server)
        write_config(folder, server)
        asked = ["neurodata.cfg", "--function", "pipeline.py:detect", "--n-procs", "2"]
        done = run_command(folder, *asked, "--block-size", "20", "20", "2")
        return Run(folder, voxels, server.cutouts(), done)


def test_the_run_of_nd_multicore_goes_through_as_its_configuration_says(run: Run) -> None:
    """Keys, arrays and skipped blocks are what its own code would have."""
    assert run.done.returncode == 0, run.done.stderr
    boxes = block_compute(0, 50, 5, 40, 0, 6, (0, 0, 0), (20, 20, 2))
    keys = {f"{z[0]}_{y[0]}_{x[0]}": (z, y, x) for x, y, z in boxes}
    rows = read_rows(run.folder / "neurodata.cfg.out/blocks.tsv")
    assert {row["block"] for row in rows} == set(keys)
    skipped = {"2_20_20", "4_5_40"}
    assert {row["block"] for row in rows if row["state"] != "done"} == skipped
    told = read_rows(run.folder / "neurodata.cfg.out/skipped.tsv")
    assert {row["block"] for row in told} == skipped
    assert all(row["error"].startswith("ValueError: ...") for row in told)
    assert all("in pry" in row["traceback"] for row in told)
    assert "2 blocks of 18 were skipped" in run.done.stderr
    seen = {path.stem: path for path in (run.folder / "seen").iterdir()}
    assert set(seen) == set(keys) - skipped
    for key, path in seen.items():
        place = tuple(slice(*each) for each in keys[key])
        with np.load(path) as found:
            assert sorted(found) == sorted(run.voxels)
            for name, whole in run.voxels.items():
                np.testing.assert_array_equal(found[name], whole[place], strict=True)
    assert len(run.cutouts) == len(set(run.cutouts)) == 2 * len(keys)


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the sentences with which the command ends before it does anything."""
    Path("pipeline.py").write_text("def detect(data):\n    raise AssertionError\n")
    code = main(["blockmap", "neurodata.cfg", "--function", "pipeline.py:detect", *arguments])
    said = capsys.readouterr()
    assert said.out == ""
    assert code == 2, said.err
    assert not Path("neurodata.cfg.out").exists()
    return said.err.splitlines()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"channels": "DAPI,DAPPI"}, r"no channel 'DAPPI'.*did you mean DAPI\?"),
        ({"experiment": "collman15"}, r"no experiment 'collman15'"),
        ({"x_range": "0,51"}, r"The range 0 to 51 along x.*0 to 50"),
        ({"token": "another0000"}, r"does not know the token in .*neurodata\.cfg"),
        ({"token": "<token_key>"}, "placeholder"),
        ({"protocol": "https"}, "does not speak https"),
    ],
)
def test_what_cannot_be_is_refused_before_any_block_is_read(
    server: BossServer,
    voxels: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    told: str,
) -> None:
    write_config(tmp_path, server, **{"channels": "DAPI"} | changed)
    (line,) = refuse(capsys)
    assert re.search(told, line)
    assert server.token not in line
    assert not server.cutouts()


def test_a_channel_that_is_not_shown_to_the_token_is_refused(
    server: BossServer,
    voxels: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_config(tmp_path, server)
    server.private.add(f"{EXPERIMENT}/synapsin")
    (line,) = refuse(capsys)
    assert "permission" in line
    assert not server.cutouts()


def test_no_channels_are_all_and_an_experiment_without_any_is_refused(
    server: BossServer,
    voxels: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_config(tmp_path, server, channels="")
    Path("pipeline.py").write_text("def detect(data):\n    return {'n': len(data)}\n")
    arguments = ["neurodata.cfg", "--function", "pipeline.py:detect", "--threads", "1"]
    assert main(["blockmap", *arguments]) == 0
    assert {row["n"] for row in read_rows("neurodata.cfg.out/table.tsv")} == {"2"}
    server.channels.clear()
    capsys.readouterr()
    assert main(["blockmap", *arguments]) == 2
    assert "has no channel" in capsys.readouterr().err


def test_a_check_asks_three_times_for_each_channel_and_reads_nothing(
    server: BossServer,
    voxels: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_config(tmp_path, server)
    Path("pipeline.py").write_text(PRYING + DETECT)
    arguments = ["neurodata.cfg", "--function", "pipeline.py:detect", "--block-size"]
    assert main(["blockmap", *arguments, "20", "20", "2", "--check"]) == 0
    said = capsys.readouterr()
    assert "18 blocks of 20 x 20 x 2 voxels" in said.out
    assert said.err == ""
    assert len(server.requests) == 3 * len(voxels)
    assert not server.cutouts()
    assert not Path("neurodata.cfg.out").exists()


def test_a_server_that_is_not_there_is_told_at_once(
    server: BossServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path, server, host="127.0.0.1:1")
    Path("pipeline.py").write_text(PRYING + DETECT)
    begun = time.monotonic()
    assert main(["blockmap", "neurodata.cfg", "--function", "pipeline.py:detect"]) == 1
    assert time.monotonic() - begun < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 127.0.0.1: ")
    assert "refused" in line


# Read, compute, write


def invert(data: dict[str, np.ndarray]) -> np.ndarray:
    """Return zeros, too, which a BOSS does not write over what it has unless it is asked to."""
    return np.where(data["DAPI"] < 2**15, 0, 2**16 - 1 - data["DAPI"]).astype(np.uint16)


def find_largest(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return, where it was given them, the largest of all voxels."""
    return {"labels": np.full_like(data["DAPI"], data["DAPI"].max())}


def test_what_blocks_give_is_written_over_what_there_was(
    server: BossServer, voxels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    there = server.add(f"{EXPERIMENT}/labels", np.full(SHAPE, 7, np.uint16))
    result = map_blocks(
        invert,
        {"DAPI": describe(server, "DAPI")},
        tmp_path / "out",
        block_size=(20, 20, 2),
        halo=3,
        ranges={"x": (10, 50)},
        outputs={"labels": describe(server, "labels")},
        n_threads=2,
    )
    expected = np.full(SHAPE, 7, np.uint16)
    expected[:, :, 10:] = invert(voxels)[:, :, 10:]
    np.testing.assert_array_equal(there, expected)
    assert result.outputs == {"labels": f"bossdb://{EXPERIMENT}/labels"}
    assert not result.skipped


def test_overlapping_blocks_are_put_together_and_then_written(
    server: BossServer, voxels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    there = server.add(f"{EXPERIMENT}/labels", np.full(SHAPE, 2**16 - 1, np.uint16))
    map_blocks(
        find_largest,
        {"DAPI": describe(server, "DAPI")},
        tmp_path / "out",
        block_size=(20, 20, 2),
        halo=(2, 2, 1),
        outputs={"labels": {**describe(server, "labels"), "merge": "max"}},
    )
    expected = np.zeros(SHAPE, np.uint16)
    for x, y, z in block_compute(0, 50, 0, 40, 0, 6, (0, 0, 0), (20, 20, 2)):
        sides = zip((z, y, x), (1, 2, 2), strict=True)
        box = tuple(slice(max(0, start - n), stop + n) for (start, stop), n in sides)
        expected[box] = np.maximum(expected[box], voxels["DAPI"][box].max())
    np.testing.assert_array_equal(there, expected)


def test_a_channel_that_cannot_hold_the_result_is_refused_before_any_block_is_read(
    server: BossServer, voxels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    output = describe(server, "synapsin")
    told = "holds uint8, which has no place for every uint16"
    channels = {"DAPI": describe(server, "DAPI")}
    with pytest.raises(InputError, match=told):
        map_blocks(invert, channels, tmp_path / "a", outputs={"out": {**output, "dtype": "uint16"}})
    assert not server.cutouts()
    with pytest.raises(InputError, match=told):  # the first block tells
        map_blocks(
            invert, channels, tmp_path / "b", outputs={"out": output}, block_size=(50, 40, 1)
        )
    assert len(server.cutouts()) == 1
    assert not server.cutouts("POST")


# What goes wrong meanwhile


def add(data: dict[str, np.ndarray]) -> dict[str, int]:
    return {"sum": int(data["DAPI"].sum(dtype=int))}


def run_sums(server: BossServer, **options: Any) -> Any:
    """Run `add` over six slices."""
    asked = {"block_size": (50, 40, 1), **QUICK, **options}
    return map_blocks(add, {"DAPI": describe(server, "DAPI")}, "out", **asked)


def list_sums(result: Any) -> list[int]:
    return [int(row["sum"]) for row in read_rows(result.table)]


def test_a_busy_server_is_asked_again_after_pauses_that_double(
    server: BossServer, voxels: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    server.fail("/2:3/", 503, times=2)
    begun = time.monotonic()
    result = run_sums(server, retry_pause_s=0.2)
    assert 0.6 <= time.monotonic() - begun < 5
    assert list_sums(result) == [int(each.sum(dtype=int)) for each in voxels["DAPI"]]
    pauses = [float(n) for n in re.findall(r"again in ([\d.]+) s: HTTPError: .*503", caplog.text)]
    assert len(pauses) == 2
    assert pauses[0] < pauses[1]


def test_after_all_retries_the_run_ends_and_the_next_one_reads_what_is_missing(
    server: BossServer,
    voxels: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    """With two processes, whose error is a sentence here, and no traceback."""
    write_config(tmp_path, server)
    Path("pipeline.py").write_text("def detect(data):\n    return {'sum': data['DAPI'].sum()}\n")
    fields = {
        **QUICK,
        "channels": {"DAPI": describe(server, "DAPI")},
        "function": "pipeline.py:detect",
        "block_size": [50, 40, 1],
    }
    Path("blocks.yml").write_text(yaml.safe_dump(fields))
    server.fail("/5:6/", 503, times=100)
    done = run_command(tmp_path, "blocks.yml", "--n-procs", "2", "--quiet")
    assert done.returncode == 1
    *warnings, line = done.stderr.splitlines()
    assert line.startswith("error: DAPI at z, y, x from (5, 0, 0) to (6, 40, 50) could not be read")
    assert "3 times: HTTPError: " in line
    assert "503" in line
    assert not any("Traceback" in each for each in warnings), done.stderr
    server.faults.clear()
    before = {int(re.search(r"/(\d):\d/\?", path)[1]) for path in server.cutouts()}
    n_before = len(server.cutouts())
    assert main(["blockmap", "blocks.yml", "--threads", "1", "--quiet"]) == 0
    again = [int(re.search(r"/(\d):\d/\?", path)[1]) for path in server.cutouts()[n_before:]]
    assert 5 in again
    assert len(again) == len(set(again)) <= 1 + 6 - len(before) + 1, "done blocks are read again"
    rows = read_rows("blocks.yml.out/table.tsv")
    assert [int(row["sum"]) for row in rows] == [int(z.sum()) for z in voxels["DAPI"]]


def test_a_read_error_may_be_skipped_and_the_block_is_done_next_time(
    server: BossServer, voxels: dict[str, np.ndarray]
) -> None:
    server.fail("/2:3/", 500, times=3)
    result = run_sums(server, on_read_error="skip")
    assert [each.key for each in result.skipped] == ["2_0_0"]
    n_before = len(server.cutouts())
    result = run_sums(server, on_read_error="skip")
    assert list_sums(result) == [int(each.sum(dtype=int)) for each in voxels["DAPI"]]
    assert len(server.cutouts()) == n_before + 1


def test_a_slow_answer_and_a_connection_that_is_cut_cost_nothing_but_time(
    server: BossServer, voxels: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nipype_blm.blockmap.boss.client.TIMEOUT_S", (5.0, 0.4))
    server.delay("/1:2/", 0.2)
    server.delay("/2:3/", 0.8)  # for which nobody waits
    server.hang_up("/3:4/")
    result = run_sums(server)
    assert list_sums(result) == [int(each.sum(dtype=int)) for each in voxels["DAPI"]]
    assert len(server.cutouts()) == 6 + 2


def test_a_server_that_goes_ends_the_run_and_one_that_comes_back_ends_it_well(
    voxels: dict[str, np.ndarray], server: BossServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(data: dict[str, np.ndarray]) -> dict[str, int]:
        if (data["DAPI"] == voxels["DAPI"][2]).all():
            server.channels, server.kept = {}, server.channels  # type: ignore[attr-defined]
            server.faults.clear()
            server.fail("/v1/", 502, times=1000)
        return add(data)

    channels = {"DAPI": describe(server, "DAPI")}
    options: dict[str, Any] = {"block_size": (50, 40, 1), **QUICK}
    with pytest.raises(ReadError, match=r"from \(3, 0, 0\).*502"):
        map_blocks(leave, channels, "out", **options)
    server.channels = server.kept  # type: ignore[attr-defined]
    server.faults.clear()
    n_before = len(server.cutouts())
    result = map_blocks(leave, channels, "out", **options)
    assert list_sums(result) == [int(each.sum(dtype=int)) for each in voxels["DAPI"]]
    assert len(server.cutouts()) == n_before + 3


def test_opening_and_writing_are_tried_again_as_reading_is(
    server: BossServer, voxels: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = server.add(f"{EXPERIMENT}/labels", np.zeros(SHAPE, np.uint16))
    output = {**describe(server, "labels"), "dtype": "uint16"}
    channels, options = {"DAPI": describe(server, "DAPI")}, {"block_size": (50, 40, 1), **QUICK}
    server.fail("POST /v1/cutout", 503, times=2)
    map_blocks(invert, channels, "out", outputs={"labels": output}, **options)
    np.testing.assert_array_equal(there, invert(voxels))
    server.fail("POST /v1/cutout", 503, times=3)
    with pytest.raises(WriteError, match=r"output labels .*could not be written, 3 times.*503"):
        map_blocks(invert, channels, "out2", outputs={"labels": output}, **options)
    there[...] = 0
    map_blocks(invert, channels, "out2", outputs={"labels": output}, **options)
    np.testing.assert_array_equal(there, invert(voxels))


def test_a_worker_that_cannot_open_the_channels_tries_again(
    server: BossServer, voxels: dict[str, np.ndarray]
) -> None:
    Path("pipeline.py").write_text("def count(data):\n    return {'n': data['DAPI'].size}\n")
    channels, options = {"DAPI": describe(server, "DAPI")}, {"block_size": (50, 40, 1), **QUICK}
    map_blocks("pipeline.py:count", channels, "out", **options)
    for path in Path("out/journal").iterdir():
        path.unlink()
    plan = Plan.read(Path("out/blockmap.json").absolute())
    _opened.clear()  # as in a new process
    server.fail("GET /v1/collection", 503, times=2)
    run_bundle(plan, [0, 1], name_journal(plan.paths.journal))
    assert read_history(plan.paths.journal).done == {0, 1}
    _opened.clear()
    server.fail("GET /v1/collection", 503, times=3)
    with pytest.raises(ReadError, match=r"channels could not be opened, 3 times: .*503"):
        run_bundle(plan, [2], name_journal(plan.paths.journal))


def test_a_token_that_is_withdrawn_ends_the_run_at_once(
    server: BossServer, voxels: dict[str, np.ndarray]
) -> None:
    token = server.token

    def withdraw(data: dict[str, np.ndarray]) -> dict[str, int]:
        server.token = "another"
        return add(data)

    channels = {"DAPI": describe(server, "DAPI")}
    options: dict[str, Any] = {"block_size": (50, 40, 1), "retry_pause_s": 60.0}
    with pytest.raises(InputError, match="does not know the token"):
        map_blocks(withdraw, channels, "out", **options)
    # The user puts a new one into the same file, in the same session.
    server.token = token[::-1]
    keep_token(server)
    result = map_blocks(add, channels, "out", overwrite=True, **options)
    assert len(result.keys) == 6


# The token is nowhere but where its user has put it


def find_token(folder: Path, token: str, but: Sequence[Path] = ()) -> list[str]:
    """Return the files that have at least half of a token, packed or not."""
    halves = [token[: len(token) // 2].encode(), token[len(token) // 2 :].encode()]
    found = []
    for path in folder.rglob("*"):
        if not path.is_file() or path in but:
            continue
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        if any(half in data or half in str(path).encode() for half in halves):
            found.append(str(path.relative_to(folder)))
    return found


def test_a_token_is_searched_for_where_it_could_be(tmp_path: Path) -> None:
    """The search that the next tests rely on."""
    token = BossServer.token
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "packed.pklz").write_bytes(gzip.compress(f"x{token}".encode()))
    (tmp_path / "half").write_bytes(token[20:].encode())
    (tmp_path / "none").write_bytes(b"nothing")
    assert sorted(find_token(tmp_path, token)) == ["a/packed.pklz", "half"]
    assert find_token(tmp_path, token, [tmp_path / "half"]) == ["a/packed.pklz"]


def test_a_run_of_two_processes_leaves_no_token(run: Run) -> None:
    """Not in the logs of workers either, though the function tells all that it can see."""
    assert (run.folder / "neurodata.cfg.out/skipped.tsv").read_text().count("<token>") > 5
    for half in (TOKEN[:20], TOKEN[20:]):
        assert half not in run.done.stdout + run.done.stderr
    assert (run.folder / "neurodata.cfg.out/workers").is_dir()
    assert find_token(run.folder, TOKEN, [run.folder / "neurodata.cfg"]) == []


def type_token(token: str, *arguments: str) -> tuple[int, str]:
    """Run the command in a terminal, and type a token when it is asked for."""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [*COMMAND, *arguments])
    said, typed = "", False
    while True:
        if not select.select([terminal], [], [], 60)[0]:
            os.kill(process, 9)
        try:
            part = os.read(terminal, 4096).decode()
        except OSError:  # it has ended
            break
        said += part
        if "Token: " in said and not typed:
            typed = True
            time.sleep(0.1)  # until the terminal shows no more what is typed
            os.write(terminal, f"{token}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def test_a_token_that_is_typed_in_is_in_no_file_and_not_on_the_screen(
    server: BossServer, voxels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Also where the configuration has a placeholder in its place."""
    write_config(tmp_path, server, channels="DAPI", token="<token_key>")
    Path("pipeline.py").write_text(PRYING)
    arguments = ["neurodata.cfg", "--function", "pipeline.py:pry", "--threads", "1", "--ask-token"]
    code, said = type_token(server.token, *arguments, "--block-size", "50", "40", "1")
    assert code == 2
    assert "has failed on the first 3 blocks" in said
    assert "<token>" in said
    assert server.token[:20] not in said
    assert server.token[20:] not in said
    assert server.cutouts()
    code, said = type_token("\x04", *arguments)
    assert code == 2
    assert "Traceback" not in said
    assert find_token(tmp_path, server.token) == []


def test_a_token_is_asked_for_in_a_terminal_alone(
    server: BossServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path, server)
    (line,) = refuse(capsys, "--ask-token")
    assert "needs a terminal" in line
    (line,) = refuse(capsys, "--ask-token", "--pool", "pool.json")
    assert "run already" in line


@pytest.mark.parametrize("place", ["file", "env"])
def test_nodes_of_nipype_leave_no_token(
    server: BossServer,
    voxels: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Not in results, inputs, reports, hashes or crash files, of nodes that end well or fail."""
    from nipype import Node

    from nipype_blm.interfaces.blockmap import BlockMap
    from nipype_blm.workflows.blockmap import init_blockmap_wf

    monkeypatch.setenv("MY_TOKEN", server.token)
    if place == "file":
        monkeypatch.delenv("MY_TOKEN")
    Path("pipeline.py").write_text(PRYING + "\ndef count(data):\n    return {'n': 1}\n")
    token = keep_token(server) if place == "file" else "env:MY_TOKEN"
    channels = {"DAPI": describe(server, "DAPI", token)}
    asked = {"block_size": [50, 40, 2], "channels": channels}
    good = init_blockmap_wf(out_dir="good", function="pipeline.py:count", **asked, name="good_wf")
    bad = init_blockmap_wf(out_dir="bad", function="pipeline.py:pry", **asked, name="bad_wf")
    stop = init_blockmap_wf(
        out_dir="stop", function="pipeline.py:count", **asked, **QUICK, name="stop_wf"
    )
    for workflow in (good, bad, stop):
        workflow.base_dir = str(tmp_path)
        workflow.config["execution"] = {"crashdump_dir": str(tmp_path / "crashes")}
    good.run()
    with pytest.raises(Exception, match="has failed on all 3 blocks"):
        bad.run()
    server.fail("/4:6/", 503, times=3)
    with pytest.raises(Exception, match="could not be read, 3 times"):
        stop.run()
    assert len(list(Path("crashes").iterdir())) == 2
    single = BlockMap(function="pipeline.py:count", base_dir=str(tmp_path), **asked)
    assert len(Node(single, name="node", base_dir=tmp_path).run().outputs.keys) == 3
    names = {path.name for path in tmp_path.rglob("*")}
    assert {"result_node.pklz", "_inputs.pklz", "report.rst", "result__blocks0.pklz"} <= names
    mine = [Path("mine/token").absolute()] if place == "file" else []
    assert find_token(tmp_path, server.token, mine) == []


def test_a_node_has_the_same_hash_with_another_token(
    server: BossServer, voxels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from nipype_blm.interfaces.blockmap import BlockMap

    def find_hash(**inputs: Any) -> str:
        node = BlockMap(function="pipeline.py:f", **inputs)
        return str(node.inputs.get_hashval(hash_method="content"))

    channels = {"DAPI": describe(server, "DAPI")}
    path = write_config(tmp_path, server)
    before = find_hash(config_file=path), find_hash(channels=channels)
    server.token = server.token[::-1]
    keep_token(server)
    time.sleep(0.01)  # for the time of the file
    path.write_text(path.read_text().replace("5ed0", "ffff"))
    assert (find_hash(config_file=path), find_hash(channels=channels)) == before
    assert find_hash(channels={"DAPI": describe(server, "synapsin")}) != before[1]


def test_logging_of_everything_shows_no_token(
    server: BossServer, voxels: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.fail("/2:3/", 503)
    run_sums(server)
    assert "GET /v1/cutout" in caplog.text
    assert server.token not in caplog.text


def test_results_stay_where_the_token_moves(
    server: BossServer, voxels: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a channel, and of an output."""
    server.add(f"{EXPERIMENT}/labels", np.zeros(SHAPE, np.uint16))
    monkeypatch.setenv("MY_TOKEN", server.token)
    for place in (keep_token(server), "env:MY_TOKEN"):
        n_before = len(server.cutouts())
        channels = {"DAPI": describe(server, "DAPI", place)}
        outputs = {"labels": describe(server, "labels", place)}
        map_blocks(invert, channels, "out", outputs=outputs, block_size=(50, 40, 2))
    assert len(server.cutouts()) == n_before
