"""A file that has changed has another state, whatever its size and time say."""

import os
import time

import pytest

from nipype_blm.data.files import stat_file


def test_size_and_time_of_a_file_are_returned(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"123")
    assert stat_file(path)[:2] == (3, path.stat().st_mtime_ns)


@pytest.mark.parametrize("names", [("a.nii",), ("a.hdr", "a.img")])
@pytest.mark.parametrize("changed", [0, -1])
def test_a_file_that_another_one_replaces_has_another_state_though_size_and_time_are_the_same(
    tmp_path, names, changed
):
    """Of an image of two files, each counts, whichever is named."""
    for name in names:
        (tmp_path / name).write_bytes(b"123")
    path, before = tmp_path / names[0], stat_file(tmp_path / names[0])
    assert stat_file(path) == before
    old = tmp_path / names[changed]
    new = tmp_path / "new"
    new.write_bytes(b"321")
    os.utime(new, ns=(1, old.stat().st_mtime_ns))
    new.replace(old)
    assert stat_file(path)[:2] == before[:2]
    assert stat_file(path) != before


def test_a_file_rewritten_in_place_with_its_old_time_has_another_state(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(b"123")
    before = stat_file(path)
    time.sleep(0.02)  # longer than the kernel's clock for files
    path.write_bytes(b"321")
    os.utime(path, ns=(1, before.mtime_ns))
    assert stat_file(path)[:2] == before[:2]
    assert stat_file(path) != before
