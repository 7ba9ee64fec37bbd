"""Files appear when they are complete, and are written only when something has changed."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.io.files import read_into, replacing, write_if_changed

OTHER = """
import sys
from pathlib import Path
from nipype_blm.io.files import replacing

with replacing(Path(sys.argv[1])) as part:
    part.write_text("theirs")
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert part.parent == path.parent  # on the same disk, where renaming is one step
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_whatever_stops_the_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_was_never_begun_leaves_the_old_one_and_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_two_processes_that_replace_a_file_at_once_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("ours")
        subprocess.run([sys.executable, "-c", OTHER, str(path)], check=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("content", [b"", b"a", b"old "])
def test_another_content_is_written(tmp_path, content):
    path = tmp_path / "sub" / "a.txt"
    write_if_changed(path, b"old")
    write_if_changed(path, content)
    assert path.read_bytes() == content
    assert names(path.parent) == ["a.txt"]


def test_the_same_content_is_not_written_so_that_nothing_seems_to_have_changed(tmp_path):
    path = tmp_path / "a.txt"
    write_if_changed(path, b"same")
    before = path.stat()
    write_if_changed(path, b"same")
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


class Dribble(io.RawIOBase):
    """A stream that gives few bytes at a time, as pipes and compressed files do."""

    def __init__(self, content, most):
        self._file, self._most = io.BytesIO(content), most

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._file.readinto(memoryview(buffer)[: self._most])


@given(st.binary(max_size=50), st.integers(0, 60), st.integers(1, 9))
def test_a_buffer_is_filled_whatever_the_pieces_are(content, size, most):
    buffer = np.full(size, 7, np.uint8)
    done = read_into(Dribble(content, most), buffer)
    assert done == min(size, len(content))
    assert buffer[:done].tobytes() == content[:done]
    assert (buffer[done:] == 7).all()
