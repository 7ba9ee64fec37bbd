"""Blocks are run once, those that fail are skipped and told of, and a run goes on where it was."""

import errno
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from blockmap.block_runs import KEYS, SHAPE, SIZE, VOLUME, Calls, Disk, read_rows, read_zarr
from numpy.typing import NDArray

from nipype_blm.blockmap import Block, assembling, map_blocks, preparing, run
from nipype_blm.blockmap.compute import BlockError, ReadError, SkippedError, compute_bundle
from nipype_blm.blockmap.options import make_config
from nipype_blm.blockmap.planning import make_plan
from nipype_blm.errors import InputError

EM = {"em": VOLUME}
BAD = "2_3_4"


def fail_on(*keys: str, error: BaseException | None = None) -> Calls:
    """Return a function that fails on some blocks, and gives back all others."""

    def act(data: NDArray[Any], block: Block) -> NDArray[Any]:
        if block.key in keys:
            raise error or ValueError(f"nothing in {block.key}")
        return data

    return Calls(act)


# ----------------------------------------------------------------------- each block once


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_function_is_called_once_for_each_block(tmp_path: Path, n_threads: int) -> None:
    calls = Calls()
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE, n_threads=n_threads)
    assert calls.counts == Counter(KEYS)
    assert result.keys == KEYS
    assert result.skipped == []
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)
    rows = read_rows(result.blocks_table)
    assert [row["block"] for row in rows] == KEYS
    assert {row["state"] for row in rows} == {"done"}
    assert sum(int(row["bytes"]) for row in rows) == VOLUME.nbytes


def test_a_function_that_returns_nothing_leaves_the_keys(tmp_path: Path) -> None:
    result = map_blocks(Calls(lambda *_: None), EM, tmp_path, block_size=SIZE)
    assert (result.keys, result.outputs, result.table) == (KEYS, {}, None)


@pytest.mark.parametrize("n_failing", [1, 2])
def test_a_block_that_fails_before_anything_is_learned_is_not_called_again(
    tmp_path: Path, n_failing: int
) -> None:
    # Those that are tried first: the first one, and one in the middle.
    failing = [KEYS[0], KEYS[len(KEYS) // 2]][:n_failing]
    calls = fail_on(*failing)
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE)
    assert calls.counts == Counter(KEYS)
    assert [each.key for each in result.skipped] == failing


def test_a_function_that_fails_on_all_blocks_that_are_tried_is_refused(tmp_path: Path) -> None:
    calls = fail_on(*KEYS)
    with pytest.raises(InputError, match=r"first 3 blocks .*nothing in 0_0_0"):
        map_blocks(calls, EM, tmp_path, block_size=SIZE)
    assert len(calls.keys) == 3
    # It has left nothing that another run has to be careful of.
    result = map_blocks(Calls(), EM, tmp_path, block_size=(11, 7, 5))
    assert result.keys == ["0_0_0"]


def test_what_is_declared_is_not_learned(tmp_path: Path) -> None:
    failing = [KEYS[0], KEYS[len(KEYS) // 2], KEYS[-1]]
    calls = fail_on(*failing)
    outputs = {"copy": {"dtype": "uint32", "fill": 7}}
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE, outputs=outputs)
    assert calls.counts == Counter(KEYS)
    assert [each.key for each in result.skipped] == failing
    found = read_zarr(result.outputs["copy"])
    assert found.dtype == np.uint32
    is_failed = np.zeros(SHAPE, bool)
    is_failed[:2, :3, :4] = is_failed[2:4, 3:6, 4:8] = is_failed[4:, 6:, 8:] = True
    assert np.array_equal(found, np.where(is_failed, 7, VOLUME))


def test_bundles_have_all_blocks_and_each_worker_several() -> None:
    for n, n_workers in ((0, 1), (1, 8), (27, 2), (10_000, 3), (10**6, 4)):
        bundles = run.cut(range(n), n_workers)
        assert [each for bundle in bundles for each in bundle] == list(range(n))
        assert len(bundles) <= 5001
        assert len(bundles) >= min(n, 8 * n_workers)


# ------------------------------------------------------------------------- blocks that fail


class OddError(Exception):
    """Cannot be pickled, nor told in one line."""

    def __init__(self) -> None:
        super().__init__("two\tcells,\ntwo lines", threading.Lock())


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    "error",
    [ValueError("no \udcff text"), SystemExit(0), SystemExit(1), OddError(), OSError(5, "EIO")],
    ids=["text", "exit 0", "exit 1", "odd", "of a disk"],
)
def test_a_block_that_fails_is_skipped_whatever_it_raises(
    tmp_path: Path, error: BaseException, n_threads: int
) -> None:
    calls = fail_on(BAD, error=error)
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE, n_threads=n_threads)
    assert calls.counts == Counter(KEYS)
    assert [each.key for each in result.skipped] == [BAD]
    (row,) = read_rows(tmp_path / "skipped.tsv")
    assert (row["block"], row["z_start"], row["z_stop"]) == (BAD, "2", "4")
    assert row["error"].startswith(type(error).__name__)
    assert "raise error" in row["traceback"]
    assert "compute.py" not in row["traceback"]  # it begins in the function
    expected = VOLUME.copy()
    expected[2:4, 3:6, 4:8] = 0
    assert np.array_equal(read_zarr(result.outputs["result"]), expected)


def test_blocks_that_were_skipped_run_again_alone(tmp_path: Path) -> None:
    calls = fail_on(BAD, KEYS[-1])
    map_blocks(calls, EM, tmp_path, block_size=SIZE)
    calls.act = fail_on(BAD, error=KeyError("new")).act
    calls.keys.clear()
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE)
    assert calls.keys == [BAD, KEYS[-1]]
    assert [each.error for each in result.skipped] == ["KeyError: 'new'"]
    calls.act = lambda data, _: data
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE)
    assert calls.keys == [BAD, KEYS[-1], BAD]
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)
    assert not (tmp_path / "skipped.tsv").exists()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_interrupt_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, n_threads: int) -> None:
    calls = fail_on(BAD, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        map_blocks(calls, EM, tmp_path, block_size=SIZE, n_threads=n_threads)
    before, calls.act = list(calls.keys), lambda data, _: data
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE, n_threads=n_threads)
    assert result.keys == KEYS
    assert calls.counts - Counter(KEYS) == Counter([BAD])
    assert before.count(BAD) == 1


@pytest.mark.parametrize("n_threads", [1, 2])
def test_on_error_stop_ends_the_run_at_once(tmp_path: Path, n_threads: int) -> None:
    # One that a disk could have raised, which tasks are tried again for.
    calls = fail_on(BAD, error=OSError(errno.EIO, "of the function"))
    options: dict[str, Any] = {"block_size": SIZE, "on_error": "stop", "n_threads": n_threads}
    with pytest.raises(BlockError, match=f"block {BAD}.*\n.*") as caught:
        map_blocks(calls, EM, tmp_path, **options)
    assert "of the function" in str(caught.value)
    assert calls.counts[BAD] == 1
    calls.act = lambda data, _: data
    assert map_blocks(calls, EM, tmp_path, **options).keys == KEYS


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("most", [0, 2])
def test_a_run_ends_when_more_blocks_are_skipped_than_may_be(
    tmp_path: Path, most: int, n_threads: int
) -> None:
    calls = fail_on(*KEYS[most and 1 :])
    with pytest.raises(SkippedError, match=f"more than max_skipped {most}; the last one"):
        map_blocks(calls, EM, tmp_path, block_size=SIZE, max_skipped=most, n_threads=n_threads)
    # Bundles that run at that moment end with their block.
    assert most < len(calls.keys) <= most + 1 + 2 * n_threads
    if most:
        assert len(read_rows(tmp_path / "skipped.tsv")) > most
    calls.act = fail_on(*KEYS[2 : 2 + most]).act
    result = map_blocks(calls, EM, tmp_path, block_size=SIZE, max_skipped=most)
    assert len(result.skipped) == most


def test_the_blocks_of_other_threads_end_when_a_run_does(tmp_path: Path) -> None:
    volume = np.ones((1, 1, 640), np.uint8)

    def act(data: NDArray[Any], block: Block) -> None:
        if block.key == "0_0_5":
            raise ValueError("stop")
        time.sleep(0.002)

    calls = Calls(act)
    with pytest.raises(BlockError):
        map_blocks(
            calls, {"em": volume}, tmp_path, block_size=(1, 1, 1), on_error="stop", n_threads=2
        )
    # Of bundles of 40 blocks.
    assert len(calls.keys) < 30


# ----------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("n_threads", [1, 2])
def test_reading_is_tried_again_after_pauses(tmp_path: Path, n_threads: int) -> None:
    disk = Disk([OSError("busy"), ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError()])
    calls, start = Calls(), time.monotonic()
    result = map_blocks(
        calls,
        {"em": disk},
        tmp_path,
        block_size=SIZE,
        retries=3,
        retry_pause_s=0.02,
        n_threads=n_threads,
    )
    assert time.monotonic() - start > 0.02 + 0.04 + 0.08
    assert disk.n_reads == 4
    assert calls.counts == Counter(KEYS)
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_block_that_cannot_be_read_ends_the_run(tmp_path: Path, n_threads: int) -> None:
    # An error after which a task of another kind is tried again.
    disk = Disk([ConnectionRefusedError(errno.ECONNREFUSED, "refused") for _ in range(50)])
    calls = Calls()
    options: dict[str, Any] = {
        "block_size": SIZE,
        "retries": 2,
        "retry_pause_s": 0,
        "n_threads": n_threads,
    }
    with pytest.raises(ReadError, match=r"\(2, 3, 4\) .* could not be read, 3 times: .*refused"):
        map_blocks(calls, {"em": disk}, tmp_path, **options)
    assert disk.n_reads == 3
    assert BAD not in calls.keys
    assert "skipped" not in (tmp_path / "blocks.tsv").read_text()
    disk.faults.clear()
    assert map_blocks(calls, {"em": disk}, tmp_path, **options).keys == KEYS
    assert calls.counts == Counter(KEYS)


def test_a_block_that_cannot_be_read_may_be_skipped(tmp_path: Path) -> None:
    disk, calls = Disk([ValueError("torn chunk")]), Calls()
    result = map_blocks(calls, {"em": disk}, tmp_path, block_size=SIZE, on_read_error="skip")
    assert disk.n_reads == 1  # what is no error of a disk stays wrong
    assert [each.key for each in result.skipped] == [BAD]
    assert "torn chunk" in result.skipped[0].error
    assert calls.counts == Counter(KEYS) - Counter([BAD])


# ------------------------------------------------------------------------- one run after another


def test_a_run_that_has_ended_calls_nothing_again(tmp_path: Path) -> None:
    calls = Calls(lambda data, _: {"copy": data, "rows": [{"n": int(data.sum())}]})
    first = map_blocks(calls, EM, tmp_path, block_size=SIZE)
    assert first.table
    before = {path: path.read_bytes() for path in (first.table, first.blocks_table)}
    assert map_blocks(calls, EM, tmp_path, block_size=SIZE) == first
    assert {path: path.read_bytes() for path in before} == before
    assert calls.counts == Counter(KEYS)


def test_results_of_something_else_stay_unless_they_may_go(tmp_path: Path) -> None:
    result = map_blocks(Calls(), EM, tmp_path, block_size=SIZE)
    calls = Calls(lambda data, _: data // 2)
    with pytest.raises(InputError, match=r"other settings.*overwrite"):
        map_blocks(calls, EM, tmp_path, block_size=(11, 7, 1))
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)
    result = map_blocks(calls, EM, tmp_path, block_size=(11, 7, 1), overwrite=True)
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME // 2)
    assert len(read_rows(result.blocks_table)) == 5 == len(calls.keys)


def test_another_text_of_the_function_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "text.py"
    options: dict[str, Any] = {"block_size": SIZE}
    path.write_text("def act(data):\n    return data['em']\n")
    map_blocks(f"{path}:act", EM, tmp_path / "out", **options)
    path.write_text("def act(data):\n    return data['em'] + 1\n")
    with caplog.at_level(logging.WARNING):
        map_blocks(f"{path}:act", EM, tmp_path / "out", **options)
    assert "The function has changed" in caplog.text


def test_a_function_that_is_edited_meanwhile_goes_on_as_it_began(tmp_path: Path) -> None:
    path = tmp_path / "edits_itself.py"
    text = "from pathlib import Path\ndef act(data):\n    Path(__file__).write_text('def (')\n"
    path.write_text(f"{text}    return data['em']\n")
    options: dict[str, Any] = {"outputs": {"copy": {"dtype": "uint16"}}, "on_error": "stop"}
    result = map_blocks(f"{path}:act", EM, tmp_path / "out", block_size=(11, 7, 1), **options)
    assert np.array_equal(read_zarr(result.outputs["copy"]), VOLUME)


def test_an_output_that_is_gone_is_missed(tmp_path: Path) -> None:
    outputs = {"copy": {"path": "copy.nii"}}
    result = map_blocks(Calls(), EM, tmp_path, block_size=SIZE, outputs=outputs)
    Path(result.outputs["copy"]).unlink()
    with pytest.raises(InputError, match=r"copy\.nii, the output copy .* is gone"):
        map_blocks(Calls(), EM, tmp_path, block_size=SIZE, outputs=outputs)
    map_blocks(Calls(), EM, tmp_path, block_size=SIZE, outputs=outputs, overwrite=True)
    assert Path(result.outputs["copy"]).exists()


@pytest.mark.parametrize("name", ["theirs.zarr", "theirs.nii"])
@pytest.mark.parametrize("dtype", [None, "uint16"])
def test_what_is_no_output_of_ours_stays(tmp_path: Path, name: str, dtype: str | None) -> None:
    theirs = tmp_path / name
    theirs.mkdir()
    (theirs / "notes.txt").write_text("years of work")
    outputs = {"copy": {"path": str(theirs), "dtype": dtype}}
    with pytest.raises(InputError, match="is there already"):
        map_blocks(Calls(), EM, tmp_path / "out", block_size=SIZE, outputs=outputs)
    assert (theirs / "notes.txt").read_text() == "years of work"


def test_overwrite_keeps_what_no_run_has_made(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.zarr"
    theirs.mkdir()
    (theirs / "zarr.json").write_text('{"attributes": {"ome": {}}}')
    (theirs / "notes.txt").write_text("years of work")
    (tmp_path / "out" / "work").mkdir(parents=True)
    (tmp_path / "out" / "work" / "notes.txt").write_text("more work")
    result = map_blocks(Calls(), EM, tmp_path / "out", block_size=SIZE)
    outputs = {"copy": {"path": str(theirs)}}
    options: dict[str, Any] = {"block_size": SIZE, "overwrite": True}
    with pytest.raises(InputError, match="no Zarr that a run over blocks has made"):
        map_blocks(Calls(), EM, tmp_path / "out", outputs=outputs, **options)
    assert (theirs / "notes.txt").read_text() == "years of work"
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)
    map_blocks(Calls(), EM, tmp_path / "out", **options)
    assert (tmp_path / "out" / "work" / "notes.txt").read_text() == "more work"


@pytest.mark.parametrize("path", ["copy.zarr", "copy.nii.gz"])
def test_a_copy_of_a_folder_has_outputs_of_its_own(tmp_path: Path, path: str) -> None:
    first, second, third = (tmp_path / name for name in ("m_1", "m_2", "m_3"))
    options: dict[str, Any] = {"block_size": SIZE, "outputs": {"copy": path}}
    result = map_blocks(fail_on(BAD), EM, first, **options)
    shutil.copytree(first, second)
    shutil.copytree(first, third)
    before = {each: each.read_bytes() for each in first.rglob("*") if each.is_file()}
    gone_on = map_blocks(Calls(), EM, second, **options)
    assert gone_on.outputs == {"copy": str(second / path)}
    options |= {"outputs": {"other": path}}
    again = map_blocks(Calls(lambda data, _: data // 2), EM, third, overwrite=True, **options)
    assert {each: each.read_bytes() for each in first.rglob("*") if each.is_file()} == before
    for found, values in ((gone_on, VOLUME), (again, VOLUME // 2)):
        (name,) = found.outputs.values()
        is_zarr = path.endswith(".zarr")
        read = read_zarr(name) if is_zarr else np.asarray(nib.load(name).dataobj).T
        assert np.array_equal(read, values)
    assert [each.key for each in result.skipped] == [BAD]


def test_overwrite_leaves_outputs_elsewhere_that_the_run_does_not_name(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.zarr"
    options: dict[str, Any] = {"block_size": SIZE}
    map_blocks(Calls(), EM, tmp_path / "out", outputs={"copy": str(elsewhere)}, **options)
    map_blocks(Calls(), EM, tmp_path / "out", outputs={"copy": {}}, overwrite=True, **options)
    assert np.array_equal(read_zarr(elsewhere), VOLUME)


@pytest.mark.parametrize("torn", [None, "{"])
def test_results_without_a_plan_stay_unless_they_may_go(tmp_path: Path, torn: str | None) -> None:
    map_blocks(Calls(), EM, tmp_path, block_size=SIZE)
    plan, calls = tmp_path / "blockmap.json", Calls()
    plan.unlink() if torn is None else plan.write_text(torn)
    with pytest.raises(InputError, match="give overwrite"):
        map_blocks(calls, EM, tmp_path, block_size=SIZE)
    assert calls.keys == []
    assert np.array_equal(read_zarr(tmp_path / "result.zarr"), VOLUME)
    assert map_blocks(calls, EM, tmp_path, block_size=SIZE, overwrite=True).keys == KEYS


def test_a_plan_that_cannot_be_read_is_no_other_one(tmp_path: Path) -> None:
    map_blocks(Calls(), EM, tmp_path, block_size=SIZE)
    (tmp_path / "blockmap.json").unlink()
    (tmp_path / "blockmap.json").mkdir()  # an error of the disk, also for root
    with pytest.raises(IsADirectoryError):
        map_blocks(Calls(), EM, tmp_path, block_size=SIZE)
    assert np.array_equal(read_zarr(tmp_path / "result.zarr"), VOLUME)


@pytest.mark.parametrize("path", ["copy.zarr", "copy.nii"])
def test_work_may_go_when_a_run_has_ended(tmp_path: Path, path: str) -> None:
    options: dict[str, Any] = {"block_size": SIZE, "outputs": {"copy": path}}
    first = map_blocks(Calls(), EM, tmp_path, **options)
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    calls = Calls()
    assert map_blocks(calls, EM, tmp_path, **options) == first
    assert calls.keys == []


def test_outputs_json_that_is_gone_is_missed(tmp_path: Path) -> None:
    result = map_blocks(Calls(), EM, tmp_path, block_size=SIZE)
    (tmp_path / "outputs.json").unlink()
    with pytest.raises(InputError, match=r"outputs\.json, which tells .* is gone"):
        map_blocks(Calls(), EM, tmp_path, block_size=SIZE)
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_block_that_a_worker_of_a_killed_run_ends_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    outputs = {"copy": {"dtype": "uint16"}}
    calls = fail_on(*KEYS, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        map_blocks(calls, EM, tmp_path, block_size=SIZE, outputs=outputs)
    config = make_config(
        {"channels": {"em": "array://ndarray"}, "function": "f:f", "outputs": outputs}
        | {"block_size": SIZE}
    )
    plan = make_plan(config, tmp_path, "", Calls(), EM)
    create = preparing._create_targets

    def end_block(*arguments: Any) -> None:
        if moment == "after":
            create(*arguments)
        compute_bundle(plan, [0], plan.paths.journal / "1.jsonl")
        if moment == "before":
            create(*arguments)

    monkeypatch.setattr(preparing, "_create_targets", end_block)
    calls.act = fail_on(BAD, error=KeyboardInterrupt()).act
    with pytest.raises(KeyboardInterrupt):
        map_blocks(calls, EM, tmp_path, block_size=SIZE, outputs=outputs)
    monkeypatch.undo()
    result = map_blocks(Calls(), EM, tmp_path, block_size=SIZE, outputs=outputs)
    assert np.array_equal(read_zarr(result.outputs["copy"]), VOLUME)


def test_a_block_without_an_end_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembling, "PATIENCE_S", 0.1)
    map_blocks(Calls(), EM, tmp_path, block_size=SIZE)

    def lose(*_: Any) -> None:
        (path,) = (each for each in journal.iterdir() if f'"{KEYS[4]}"' in each.read_text())
        path.rename(path.with_suffix(".late"))

    journal = tmp_path / "out" / "journal"
    calls = Calls()
    with monkeypatch.context() as patch:
        patch.setattr(run, "_run_blocks", _then(run._run_blocks, lose))
        with pytest.raises(OSError, match=r"do not say how \d+ blocks? ended, such as \d_\d_\d"):
            map_blocks(calls, EM, tmp_path / "out", block_size=SIZE, n_threads=2)
    assert map_blocks(calls, EM, tmp_path / "out", block_size=SIZE).keys == KEYS


def test_journals_that_a_disk_shows_late_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembling, "_SECONDS_BETWEEN_LOOKS", 0.01)

    def hide(*_: Any) -> None:
        journal = (tmp_path / "journal").rename(tmp_path / "late")
        threading.Timer(0.2, journal.rename, [tmp_path / "journal"]).start()

    monkeypatch.setattr(run, "_run_blocks", _then(run._run_blocks, hide))
    assert map_blocks(Calls(), EM, tmp_path, block_size=SIZE).keys == KEYS


def _then(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    def both(*arguments: Any) -> None:
        first(*arguments)
        second(*arguments)

    return both


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    def run_another(*_: Any) -> None:
        with pytest.raises(InputError, match="in use by another run"):
            map_blocks(Calls(), EM, tmp_path, block_size=SHAPE[::-1])

    result = map_blocks(Calls(run_another), EM, tmp_path, block_size=SHAPE[::-1])
    assert (result.keys, result.skipped) == (["0_0_0"], [])


def test_what_a_function_does_to_its_process_changes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def act(data: NDArray[Any], block: Block) -> NDArray[Any]:
        import matplotlib.pyplot as plt

        os.chdir(tmp_path / "elsewhere")
        np.random.seed(1)  # noqa: NPY002
        np.seterr(all="raise")
        print("x" * 100_000)
        plt.figure(num=block.start[2])
        values = data.astype(np.float32)
        values[::2] = np.nan
        return values

    with np.errstate():
        outputs = {"most": {"path": "most.nii.gz", "merge": "max", "fill": np.nan}}
        result = map_blocks(Calls(act), EM, "out", block_size=SIZE, halo=1, outputs=outputs)
    assert result.skipped == []
    assert Path(result.outputs["most"]) == tmp_path / "out" / "most.nii.gz"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert capfd.readouterr().out.count("x") == 100_000 * len(KEYS)
    from matplotlib import pyplot as plt

    plt.close("all")


# ------------------------------------------------------------------------------ on a pool

OF_WORKERS = """
import os, signal, sys
from multiprocessing import Pool
from pathlib import Path
from threadpoolctl import threadpool_info

folder = Path(__file__).parent

def act(data, block):
    with (folder / "calls.txt").open("a") as file:
        file.write(f"{block.key}\\n")
    if block.key == "0_0_4":
        os.kill(os.getpid(), signal.SIGKILL)
    if block.key == "2_3_0":
        sys.exit(3)
    if block.key == "2_6_0":
        with Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
    n_threads = max((each["num_threads"] for each in threadpool_info()), default=1)
    return {"copy": data["em"], "row": [{"threads": n_threads}]}
"""


def test_blocks_that_cost_their_workers_are_skipped_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_BUNDLES_PER_WORKER", 2)
    monkeypatch.setattr(run, "_RETRIES", 1)  # after which its bundle has to go back
    assert len(run.cut(range(len(KEYS)), 2)[0]) > 4
    (tmp_path / "of_workers.py").write_text(OF_WORKERS)
    result = map_blocks(
        f"{tmp_path / 'of_workers.py'}:act",
        EM,
        tmp_path / "out",
        block_size=SIZE,
        plugin_args={"cluster": "local", "n_workers": 2},
    )
    skipped = {each.key: each.error for each in result.skipped}
    assert set(skipped) == {"0_0_4", "2_3_0"}
    assert skipped.pop("2_3_0") == "SystemExit: 3"
    assert all("its worker was lost 2 times" in error for error in skipped.values())
    assert len(result.keys) == len(KEYS) - 2
    calls = Counter((tmp_path / "calls.txt").read_text().split())
    assert calls == Counter(KEYS) + Counter(list(skipped))
    assert result.table
    assert {row["threads"] for row in read_rows(result.table)} == {"1"}


def test_arrays_that_are_too_large_to_travel_are_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    calls = Calls()
    with pytest.raises(InputError, match="an array of this process"):
        map_blocks(
            calls,
            {"em": np.zeros((100, 200, 200), np.uint8)},
            tmp_path / "out",
            plugin_args={"cluster": "local", "n_workers": 2},
        )
    assert calls.keys == []
    assert not (tmp_path / "out").exists()
