"""Files appear when they are complete, and are written only when something has changed."""

import contextlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.io.files import open_input, read_into, replacing, write_if_changed

OTHER = """
import sys
from pathlib import Path
from nipype_blm.io.files import replacing

with replacing(Path(sys.argv[1])) as file:
    file.write(b"theirs")
"""


def _read(path):
    with open_input(path) as file:
        return file.read()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
        assert len(names(tmp_path)) == 1  # on the same disk, where renaming is one step
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_whatever_stops_the_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_processes_that_replace_a_file_at_once_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as file:
        file.write(b"ours")
        subprocess.run([sys.executable, "-c", OTHER, str(path)], check=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_process_do_not_meet(tmp_path):
    """As two threads, or processes of the same number on two hosts that share a disk."""
    path = tmp_path / "a.txt"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_that_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_if_changed(tmp_path / "a.txt", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_nothing_is_written_through_a_link_that_is_in_the_way(tmp_path):
    """Neither by the name itself, nor by the name of a part that somebody could guess."""
    precious = tmp_path / "precious"
    precious.write_text("keep")
    path = tmp_path / "a.txt"
    path.symlink_to(precious)
    (tmp_path / f".a.txt.{os.getpid()}.part").symlink_to(precious)
    write_if_changed(path, b"new")
    assert precious.read_text() == "keep"
    assert path.read_text() == "new"
    assert not path.is_symlink()


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


# ---------------------------------------------------------------------- files that users name


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_pipe, "a named pipe"),
        (make_socket, "a socket"),
        *(
            (lambda path, device=device: path.symlink_to(device), "a device")
            for device in ("/dev/zero", "/dev/null", "/dev/urandom", "/dev/tty")
        ),
    ],
)
def test_what_has_no_content_that_can_be_read_again_is_refused_unopened(tmp_path, make, kind):
    """Pipes would be waited for, devices read, for ever."""
    path = tmp_path / "a"
    make(path)
    with pytest.raises(InputError, match=f"a is {kind}.*, which a run cannot read again; give a"):
        _read(path)


def test_the_pipe_of_a_process_substitution_is_refused(tmp_path):
    end, other = os.pipe()
    try:
        with pytest.raises(InputError, match=r"is a named pipe, such as bash makes for <\(...\)"):
            _read(Path(f"/dev/fd/{end}"))
    finally:
        os.close(end)
        os.close(other)


OBJECT = ".git/annex/objects/zZ/Qk/MD5E-s9--ab.nii.gz/MD5E-s9--ab.nii.gz"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n"


def link_annex(path):
    path.symlink_to(f"../{OBJECT}")


def link_to_annex_link(path):
    path.with_name("other").symlink_to(f"../{OBJECT}")
    path.symlink_to("other")


def keep_with_dvc(path):
    path.with_name(f"{path.name}.dvc").write_text("outs: []\n")


def keep_folder_with_dvc(path):
    path.parent.with_name(f"{path.parent.name}.dvc").write_text("outs: []\n")


def keep_in_the_cloud(path):
    path.with_name(f".{path.name}.icloud").write_bytes(b"bplist00")


@pytest.mark.parametrize(
    ("make", "command"),
    [
        (link_annex, "datalad get {}"),
        (link_to_annex_link, "git annex get {}"),
        (lambda path: path.write_text("/annex/objects/MD5E-s9--ab.nii.gz\n"), "datalad get {}"),
        (lambda path: path.write_text(f"../../{OBJECT}"), "datalad get {}"),
        (lambda path: path.write_text(LFS), "git lfs pull"),
        (keep_with_dvc, "dvc pull {}.dvc"),
        (keep_in_the_cloud, "brctl download {}"),
    ],
)
def test_content_that_is_not_present_is_said_with_what_fetches_it(tmp_path, make, command):
    """Of git-annex: a link, and a file that names its object; of LFS, DVC, and a synced folder."""
    path = tmp_path / "b.nii.gz"
    make(path)
    with pytest.raises(InputError, match="content is not present") as error:
        _read(path)
    assert f"`{command.format(path)}`" in str(error.value)


def test_a_folder_that_dvc_keeps_is_fetched_as_a_whole(tmp_path):
    path = tmp_path / "data of all" / "b.nii.gz"
    keep_folder_with_dvc(path)
    with pytest.raises(InputError, match=r"`dvc pull '.*/data of all'\.dvc`"):
        _read(path)


@pytest.mark.parametrize("length", [200, 250, 255, 300])
def test_a_long_name_that_does_not_exist_is_what_the_system_says(tmp_path, length):
    with pytest.raises(OSError, match="No such file" if length < 256 else "too long"):
        _read(tmp_path / ("a" * length))


def test_a_link_that_leads_nowhere_names_where(tmp_path):
    path = tmp_path / "a"
    path.symlink_to("gone")
    with pytest.raises(InputError, match=r"a is a link to .*/gone, which does not exist"):
        _read(path)


@pytest.mark.parametrize(
    "content",
    [
        f"../{OBJECT}\n../{OBJECT}2\n",  # a list of images
        "version https://git-lfs.github.com",
        "",
        "sub-01/annex/objects/a.nii\n",
    ],
)
def test_other_content_is_returned_as_it_is(tmp_path, content):
    path = tmp_path / "a"
    path.write_text(content)
    assert _read(path) == content.encode()
    path.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert _read(link) == content.encode()
