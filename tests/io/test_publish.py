"""Results appear when complete, replace those of an earlier run, and touch nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nipype_blm.errors import InputError
from nipype_blm.io.lock import locked
from nipype_blm.io.publish import Claim, check_claim, publish

LOCK = ".nipype_blm.publish.lock"
CLAIM = Claim("model", Path("/work"))


def writer(**files):
    """Return a function that writes files with these contents to a folder."""

    def write(folder):
        for stem, text in files.items():
            path = folder / f"{stem.replace('__', '/')}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def is_ours(name):
    return name.startswith(("map_", "sub/map_")) and ".." not in name


def visible(folder):
    paths = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_text() for p in paths}


def describe(path):
    """Return what shows that a file was left alone."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_mode


def must_not_write(folder):
    raise AssertionError("written again")


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "new" / "out"
    publish(folder, "one", CLAIM, writer(map_a="a", sub__map_b="b"), is_ours)
    return folder


def test_files_appear_with_their_folders_and_nothing_else(out):
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "b"}
    assert [p.name for p in out.iterdir() if p.name.endswith(".part")] == []


def test_what_is_there_unchanged_is_not_written_again(out):
    publish(out, "one", CLAIM, must_not_write, is_ours)
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "b"}


@pytest.mark.parametrize("change", ["another stamp", "a file deleted", "a file changed"])
def test_what_differs_is_written_again(out, change):
    if change == "a file deleted":
        (out / "map_a.txt").unlink()
    if change == "a file changed":
        (out / "sub" / "map_b.txt").write_text("longer")
    stamp = "two" if change == "another stamp" else "one"
    publish(out, stamp, CLAIM, writer(map_a="new a", sub__map_b="new b"), is_ours)
    assert visible(out) == {"map_a.txt": "new a", "sub/map_b.txt": "new b"}


def test_files_of_an_earlier_run_are_removed_and_foreign_ones_kept(out):
    (out / "mine.txt").write_text("mine")
    (out / "sub" / "mine.txt").write_text("mine")
    (out / "map_left.txt").write_text("by another program")
    publish(out, "two", CLAIM, writer(map_c="c"), is_ours)
    assert visible(out) == {"map_c.txt": "c", "mine.txt": "mine", "sub/mine.txt": "mine"}


def test_a_failure_while_writing_leaves_the_earlier_results(out):
    def fail(folder):
        writer(map_a="half")(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(out, "two", CLAIM, fail, is_ours)
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "b"}
    publish(out, "one", CLAIM, must_not_write, is_ours)
    assert [p.name for p in out.iterdir() if p.name.endswith(".part")] == []


def test_an_interrupted_move_is_finished_by_the_next_run(out):
    (out / "map_c.txt").mkdir()  # no file can be moved here
    new = writer(map_a="new a", map_c="c", map_d="d")
    with pytest.raises(OSError, match=r"map_c\.txt"):
        publish(out, "two", CLAIM, new, is_ours)
    (out / "map_c.txt").rmdir()
    publish(out, "two", CLAIM, new, is_ours)
    assert visible(out) == {"map_a.txt": "new a", "map_c.txt": "c", "map_d.txt": "d"}


def test_an_interrupted_move_is_taken_back_by_a_run_of_the_earlier_input(out):
    (out / "map_c.txt").mkdir()
    with pytest.raises(OSError, match=r"map_c\.txt"):
        publish(out, "two", CLAIM, writer(map_a="new a", map_c="c", sub__map_d="d"), is_ours)
    (out / "map_c.txt").rmdir()
    publish(out, "one", CLAIM, writer(map_a="a", sub__map_b="b"), is_ours)
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "b"}


@pytest.mark.parametrize("obstacle", ["map_a", "map_c", "sub/map_a", "sub/map_z"])
@pytest.mark.parametrize("following", ["one", "two", "three"])
def test_an_interrupted_move_leaves_nothing_behind_wherever_it_ended(out, obstacle, following):
    """Files that had been moved, first or last, are those of no run and known to the next."""
    if obstacle == "map_a":
        (out / "map_a.txt").unlink()
    (out / f"{obstacle}.txt").mkdir()  # no file can be moved here
    runs = {
        "one": {"map_a": "a", "sub__map_b": "b"},
        "two": {
            "map_a": "A",
            "map_c": "C",
            "sub__map_a": "SA",
            "sub__map_d": "D",
            "sub__map_z": "Z",
        },
        "three": {"map_a": "3"},
    }
    with pytest.raises(OSError, match=rf"{obstacle}\.txt"):
        publish(out, "two", CLAIM, writer(**runs["two"]), is_ours)
    (out / f"{obstacle}.txt").rmdir()
    publish(out, following, CLAIM, writer(**runs[following]), is_ours)
    expected = {f"{name.replace('__', '/')}.txt": text for name, text in runs[following].items()}
    assert visible(out) == expected


def test_a_record_that_names_files_elsewhere_is_not_believed(out):
    keep = out.parent / "map_keep.txt"
    keep.write_text("keep")
    [record] = [p for p in out.iterdir() if p.name.startswith(".")]
    data = json.loads(record.read_text())
    data["files"] |= {"../map_keep.txt": [4, 0], "sub/map_/../../../map_keep.txt": [4, 0]}
    record.write_text(json.dumps(data))
    publish(out, "two", CLAIM, writer(map_a="a"), is_ours)
    assert keep.read_text() == "keep"


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"stamp": "one", "files": 5}'])
def test_a_damaged_record_means_that_everything_is_written_again(out, text):
    [record] = [p for p in out.iterdir() if p.name.startswith(".")]
    record.write_text(text)
    publish(out, "one", CLAIM, writer(map_a="new a"), is_ours)
    assert visible(out)["map_a.txt"] == "new a"
    publish(out, "one", CLAIM, must_not_write, is_ours)


def test_files_of_an_earlier_run_in_subfolders_are_removed_when_its_record_is_lost(out):
    (out / ".nipype_blm.json").unlink()
    (out / "sub" / "mine.txt").write_text("mine")
    publish(out, "two", CLAIM, writer(map_a="new"), is_ours)
    assert visible(out) == {"map_a.txt": "new", "sub/mine.txt": "mine"}


def test_files_of_others_are_not_taken_for_those_of_an_earlier_run(tmp_path):
    """Names in subfolders are less particular than those of maps, and no run has been here."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "map_mine.txt").write_text("mine")
    publish(tmp_path, "one", CLAIM, writer(map_a="a"), is_ours)
    assert visible(tmp_path) == {"map_a.txt": "a", "sub/map_mine.txt": "mine"}


def test_companions_are_rewritten_only_when_they_differ_and_stay_when_not_given(out):
    publish(out, "one", CLAIM, must_not_write, is_ours, {"config.txt": b"1"})
    before = (out / "config.txt").stat().st_mtime_ns
    publish(out, "two", CLAIM, writer(map_a="new a"), is_ours, {"config.txt": b"1"})
    assert (out / "config.txt").stat().st_mtime_ns == before
    publish(out, "two", CLAIM, must_not_write, is_ours, {"config.txt": b"2"})
    publish(out, "three", CLAIM, writer(map_a="newer a"), is_ours)
    assert visible(out) == {"map_a.txt": "newer a", "config.txt": "2"}


def test_a_failure_while_writing_leaves_the_earlier_companions(out):
    publish(out, "one", CLAIM, must_not_write, is_ours, {"config.txt": b"1"})

    def fail(folder):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(out, "two", CLAIM, fail, is_ours, {"config.txt": b"2"})
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "b", "config.txt": "1"}


def test_another_run_that_is_not_done_in_time_is_named_and_nothing_is_written(out):
    with locked(out / LOCK):
        with pytest.raises(InputError, match=r"more than 0 minutes: process \d+ on .+, started"):
            publish(out, "two", CLAIM, must_not_write, is_ours, patience_s=0)
        publish(out, "one", CLAIM, must_not_write, is_ours)  # nothing to do needs no lock
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "b"}


def test_runs_that_publish_at_the_same_moment_wait_for_each_other(tmp_path):
    program = """
import sys
from pathlib import Path
from nipype_blm.io.publish import Claim, publish

out, run = Path(sys.argv[1]), sys.argv[2]

def write(folder):
    for i in range(20):
        (folder / f"map_{i}").write_text(run)

for i in range(10):
    claim = Claim(run, out.parent)
    names = lambda name: name.startswith("map_")
    publish(out, f"{run} {i}", claim, write, names, {"run": run.encode()})
    """
    out = tmp_path / "out"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(out), run]) for run in ("one", "two")
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    texts = visible(out)
    assert len(texts) == 21
    assert len(set(texts.values())) == 1
    assert {path.name for path in out.iterdir()} - texts.keys() == {".nipype_blm.json"}


@pytest.mark.parametrize("change", ["rewritten", "exchanged"])
def test_a_file_altered_with_its_size_and_time_kept_is_written_again(out, change):
    path, status = out / "map_a.txt", (out / "map_a.txt").stat()
    time.sleep(0.02)  # longer than the kernel's clock for files
    altered = path if change == "rewritten" else out / "new"
    altered.write_text("b")
    os.utime(altered, ns=(status.st_atime_ns, status.st_mtime_ns))
    altered.replace(path)
    publish(out, "one", CLAIM, writer(map_a="a", sub__map_b="b"), is_ours)
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "b"}


@pytest.mark.parametrize("change", ["chmod", "touch", "hard link", "copy"])
def test_files_with_the_right_content_stay_whatever_else_has_changed(out, tmp_path, change):
    """Their modes, times and links are the user's; other programs would take new times for news."""
    if change == "chmod":
        (out / "map_a.txt").chmod(0o600)
    elif change == "touch":
        os.utime(out / "map_a.txt", ns=(1, 1))
    elif change == "hard link":
        (tmp_path / "backup").hardlink_to(out / "map_a.txt")
    else:
        out = Path(shutil.copytree(out, tmp_path / "copy"))
    before = [describe(out / name) for name in ("map_a.txt", "sub/map_b.txt")]
    publish(out, "one", CLAIM, writer(map_a="a", sub__map_b="b"), is_ours)
    assert [describe(out / name) for name in ("map_a.txt", "sub/map_b.txt")] == before
    publish(out, "one", CLAIM, must_not_write, is_ours)  # the record is right again


def test_only_files_whose_content_differs_are_replaced(out):
    before = describe(out / "map_a.txt")
    publish(out, "two", CLAIM, writer(map_a="a", sub__map_b="new b"), is_ours)
    assert describe(out / "map_a.txt") == before
    assert visible(out) == {"map_a.txt": "a", "sub/map_b.txt": "new b"}


# -- One folder for two models -------------------------------------------------------------


@pytest.fixture
def places(tmp_path):
    """Working directories of two runs, and the folder with the results of the first."""
    one, two, out = (tmp_path / name for name in ("one", "two", "out"))
    one.mkdir()
    two.mkdir()
    publish(out, "1", Claim("A", one), writer(map_a="a"), is_ours)
    return one, two, out


def test_results_of_another_model_made_elsewhere_are_not_replaced(places):
    one, two, out = places
    with pytest.raises(InputError) as caught:
        publish(out, "2", Claim("B", two), must_not_write, is_ours)
    [problem] = caught.value.problems
    assert f"{out} has the results of another model, made in {one}; " in problem
    assert str(two) in problem
    assert "overwrite" in problem
    with pytest.raises(InputError):
        check_claim(out, Claim("B", two), is_ours)
    assert visible(out) == {"map_a.txt": "a"}
    publish(out, "1", Claim("A", one), must_not_write, is_ours)


@pytest.mark.parametrize(
    "reason",
    [
        "the same working directory",
        "a link to the same working directory",
        "the same model, computed otherwise",
        "overwrite",
        "a working directory that is gone",
        "results that are gone",
        "a copy of the folder",
        "a record of an earlier version",
        "no record",
    ],
)
def test_results_are_replaced_where_nobody_is_left_who_would_miss_them(places, tmp_path, reason):
    one, two, out = places
    record = out / ".nipype_blm.json"
    claim = Claim("B", two)
    if reason == "the same working directory":
        claim = Claim("B", one)
    elif reason == "a link to the same working directory":
        claim = Claim("B", tmp_path / "link")
        claim.work_dir.symlink_to(one)
    elif reason == "the same model, computed otherwise":
        claim = Claim("A", two)
    elif reason == "overwrite":
        claim = Claim("B", two, overwrite=True)
    elif reason == "a working directory that is gone":
        one.rmdir()
    elif reason == "results that are gone":
        (out / "map_a.txt").unlink()
    elif reason == "a copy of the folder":
        out = Path(shutil.copytree(out, tmp_path / "copy"))
    elif reason == "a record of an earlier version":
        data = json.loads(record.read_text())
        record.write_text(json.dumps({name: data[name] for name in ("stamp", "files")}))
    else:
        record.unlink()
    publish(out, "2", claim, writer(map_b="b"), is_ours)
    assert visible(out) == {"map_b.txt": "b"}
    if reason != "a working directory that is gone":  # the folder is now that of the second run
        other = tmp_path / "third"
        other.mkdir()
        with pytest.raises(InputError, match=re.escape(str(claim.work_dir))):
            publish(out, "3", Claim("C", other), must_not_write, is_ours)


def test_of_models_that_publish_at_the_same_moment_one_is_refused(tmp_path):
    """Whoever has the lock decides; the other finds the results."""
    program = """
import sys
from pathlib import Path
from nipype_blm.errors import InputError
from nipype_blm.io.publish import Claim, publish

work_dir, out = Path(sys.argv[1]), Path(sys.argv[2])

def write(folder):
    (folder / "map_a").write_text(work_dir.name)

try:
    publish(out, work_dir.name, Claim(work_dir.name, work_dir), write, lambda name: "map" in name)
except InputError:
    sys.exit(7)
    """
    processes = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", program, tmp_path / name, tmp_path / "out"]
        processes.append((name, subprocess.Popen(command)))
    codes = {name: process.wait(120) for name, process in processes}
    assert sorted(codes.values()) == [0, 7, 7]
    [winner] = [name for name, code in codes.items() if code == 0]
    assert (tmp_path / "out" / "map_a").read_text() == winner


@pytest.mark.parametrize("kind", ["link to a folder", "dangling link", "file"])
def test_maps_are_written_in_a_private_folder_and_never_through_a_link(out, tmp_path, kind):
    """Who may write in a shared folder of results cannot lead the maps, or links in them, away."""
    elsewhere = tmp_path / "elsewhere"
    part = out / ".nipype_blm.part"
    if kind == "file":
        part.write_text("old")
    else:
        part.symlink_to(elsewhere)
    if kind == "link to a folder":
        elsewhere.mkdir()
        (elsewhere / "precious").write_text("keep")
    modes = []

    def write(folder):
        modes.append(folder.stat().st_mode & 0o777)
        writer(map_a="new")(folder)

    publish(out, "two", CLAIM, write, is_ours)
    assert modes == [0o700]
    assert visible(out) == {"map_a.txt": "new"}
    if kind == "link to a folder":
        assert visible(elsewhere) == {"precious": "keep"}
    else:
        assert not elsewhere.exists()


@pytest.mark.parametrize("name", ["map_a.txt", "sub/map_b.txt", ".nipype_blm.json"])
def test_a_link_in_the_place_of_a_result_is_replaced_and_not_followed(out, tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    (out / name).unlink()
    (out / name).symlink_to(precious)
    publish(out, "two", CLAIM, writer(map_a="new a", sub__map_b="new b"), is_ours)
    assert precious.read_text() == "keep"
    assert visible(out) == {"map_a.txt": "new a", "sub/map_b.txt": "new b"}


@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_results_have_the_modes_that_the_umask_says(tmp_path, umask):
    out, before = tmp_path / "out", os.umask(umask)
    try:
        publish(out, "one", CLAIM, writer(map_a="a", sub__map_b="b"), is_ours, {"inputs.yml": b"x"})
    finally:
        os.umask(before)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert {path.stat().st_mode & 0o777 for path in (out, out / "sub")} == {0o777 & ~umask}
