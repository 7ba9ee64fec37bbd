"""What a command writes appears at once, and only when it has ended well."""

import os
from pathlib import Path

import pytest

from nipype_blm.errors import InputError
from nipype_blm.ngv.environment.companion import Ended
from nipype_blm.ngv.running import StageError, run_stage, run_touch_detector

WRITE = """
import os, sys
from pathlib import Path
for name in sys.argv[2:]:
    Path(name).write_text(sys.argv[1])
print("wrote in", os.getcwd())
"""


@pytest.fixture
def run(tmp_path, ngv_python):
    """Function that runs a script as a stage which writes files in a folder ``out``."""

    def perform(script, *arguments, names=("a.txt",)):
        (tmp_path / "script.py").write_text(script)
        places = {name: tmp_path / "out" / name for name in names}
        argv = [str(tmp_path / "script.py"), *arguments]
        return run_stage(ngv_python, [argv], places, tmp_path / "ngv.log")

    return perform


def list_all(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_go_where_they_belong_and_what_was_said_is_kept(run, tmp_path):
    places = run(WRITE, "x", "a.txt", "b.txt", "unasked.txt", names=("a.txt", "b.txt"))
    assert places == [tmp_path / "out" / "a.txt", tmp_path / "out" / "b.txt"]
    assert list_all(tmp_path / "out") == ["a.txt", "b.txt"]
    assert "wrote in" in (tmp_path / "ngv.log").read_text()


def test_a_file_that_is_the_same_stays_and_another_one_is_replaced(run, tmp_path):
    (place,) = run(WRITE, "x", "a.txt")
    os.utime(place, ns=(1, 1))
    run(WRITE, "x", "a.txt")
    assert place.stat().st_mtime_ns == 1
    run(WRITE, "y", "a.txt")
    assert place.read_text() == "y"
    place.with_name("b.txt").write_text("z")
    place.unlink()
    place.symlink_to("b.txt")
    run(WRITE, "z", "a.txt")
    assert not place.is_symlink()  # else another's file would be changed with it


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("raise ValueError('no\\nluck')", r"script has failed: ValueError: no"),
        ("sys.exit('bad day')", "script has failed: bad day"),
        ("sys.exit(3)", "script has failed: it ended with 3"),
        ("os.kill(os.getpid(), 9)", r"killed by signal 9 \(SIGKILL\), as for too much memory"),
        ("os.rename('a.txt', 'c.txt')", "script has written no a.txt; see"),
    ],
)
def test_a_command_that_fails_leaves_what_was_there(run, tmp_path, ending, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("of before")
    with pytest.raises(StageError, match=message) as caught:
        run(WRITE + ending, "x", "a.txt")
    assert str(tmp_path / "ngv.log") in str(caught.value)
    assert list_all(tmp_path / "out") == ["a.txt"]
    assert (tmp_path / "out" / "a.txt").read_text() == "of before"


def test_of_several_files_none_is_replaced_if_one_is_missing(run, tmp_path):
    run(WRITE, "x", "a.txt", "b.txt", names=("a.txt", "b.txt"))
    with pytest.raises(StageError, match=r"has written no b.txt"):
        run(WRITE, "y", "a.txt", names=("a.txt", "b.txt"))
    assert (tmp_path / "out" / "a.txt").read_text() == "x"


def test_what_a_killed_run_left_is_no_part_of_the_next_one(run, tmp_path):
    left = tmp_path / "out" / ".a.txt.0123.part"
    left.mkdir(parents=True)
    (left / "a.txt").write_text("half")
    with pytest.raises(StageError, match=r"has written no a.txt"):
        run("")
    assert list_all(tmp_path / "out") == []


def test_the_log_is_that_of_the_last_run(run, tmp_path):
    run(WRITE + "print('first')", "x", "a.txt")
    run(WRITE, "x", "a.txt")
    assert "first" not in (tmp_path / "ngv.log").read_text()


def test_ends_are_described_for_people():
    assert Ended(2).describe() == "it ended with 2"
    assert Ended(1, "KeyError: 'a'").describe() == "KeyError: 'a'"
    assert Ended(-15).describe() == "it was killed by signal 15 (SIGTERM)"
    assert Ended(-99).describe() == "it was killed by signal 99 (unknown)"


# Another program that finds touches


def detect(tmp_path, command):
    places = {"astrocytes": tmp_path / "my nodes.h5", "touches": tmp_path / "my touches"}
    run_touch_detector(command, places, tmp_path / "touches.log")
    return places["touches"]


def test_another_program_finds_touches(tmp_path):
    (tmp_path / "my touches").mkdir()
    (tmp_path / "my touches" / "touchesData.9").touch()  # of another run
    folder = detect(tmp_path, "touch {touches}/touchesData.0 {touches}/touches.0 '{astrocytes} x'")
    assert list_all(folder) == ["_SUCCESS", "touches.0", "touchesData.0"]
    assert (tmp_path / "my nodes.h5 x").is_file()  # a path with spaces is one word


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("find {nothing}", r"expected a command with {astrocytes}, {touches} in it"),
        ("find {}", r"expected a command with {astrocytes}, {touches} in it"),
        ("find {touches.x}", r"expected a command with {astrocytes}, {touches} in it"),
        ("find {touches", r"expected a command with {astrocytes}, {touches} in it"),
        ("find 'a", r"expected a command with {astrocytes}, {touches} in it"),
        ("", r"expected a command with {astrocytes}, {touches} in it"),
    ],
)
def test_a_command_that_cannot_be_read_is_refused_before_anything_is_removed(
    tmp_path, command, message
):
    (tmp_path / "my touches").mkdir()
    (tmp_path / "my touches" / "touchesData.0").touch()
    with pytest.raises(InputError, match=message):
        detect(tmp_path, command)
    assert list_all(tmp_path / "my touches") == ["touchesData.0"]


def test_a_program_that_finds_nothing_or_fails_is_told(tmp_path):
    with pytest.raises(StageError, match=r"true has written no touchesData.\* into"):
        detect(tmp_path, "true {touches}")
    with pytest.raises(StageError, match=r"sh has failed, with 3.*touches.log"):
        detect(tmp_path, "sh -c 'echo bad; exit 3'")
    assert (tmp_path / "touches.log").read_text() == "bad\n"
    with pytest.raises(StageError, match=r"no_such_program, which is to find touches, cannot be"):
        detect(tmp_path, "no_such_program {touches}")
    assert not (tmp_path / "my touches" / "_SUCCESS").exists()
