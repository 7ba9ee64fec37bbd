"""A batch's images are read back as written, and a replaced image is noticed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nipype_blm.data.files import stat_file
from nipype_blm.data.manifest import (
    ImageEntry,
    check_unchanged,
    format_manifest,
    read_manifest,
)
from nipype_blm.errors import InputError
from nipype_blm.io.files import FileState, write_if_changed

STATE = FileState(11, 1, "12/34 56/78")


def test_images_are_read_back(tmp_path):
    entries = [
        ImageEntry(0, Path("/a/b.nii"), 0, FileState(10, 2**62, "1/2"), "line 1 of Y.txt"),
        ImageEntry(1, Path('/a/odd "name"\twith\ttabs.nii'), 3, STATE, "entry 2 of Y_files"),
        ImageEntry(2, Path("/a/# Größe\r\n.nii"), 0, STATE, "Y_files", Path("/m.nii"), 4, STATE),
    ]
    path = tmp_path / "batch.tsv"
    path.write_bytes(format_manifest(entries).encode())
    assert read_manifest(path) == entries


def test_names_are_read_back_whatever_the_locale(tmp_path):
    entries = [ImageEntry(0, Path("/a/Größe.nii"), 0, STATE, "line 1 of café.txt")]
    path = tmp_path / "batch.tsv"
    write_if_changed(path, format_manifest(entries).encode())
    code = (
        "import sys; from pathlib import Path; from nipype_blm.data.manifest import read_manifest; "
        "print(ascii(read_manifest(Path(sys.argv[1]))))"
    )
    # What Python takes for the encoding of files is then ASCII.
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stderr == ""
    assert found.stdout.strip() == ascii(entries)


def test_a_byte_that_changes_anywhere_is_noticed(tmp_path):
    path = tmp_path / "batch.tsv"
    entry = ImageEntry(0, Path("/a/Größe.nii"), 0, STATE, "line 1", Path("/m.nii"), 4, STATE)
    content = format_manifest([entry, entry._replace(row=1)]).encode()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(InputError, match=r"batch\.tsv is damaged; run again"):
            read_manifest(path)
    for damaged in (b"", content[:-1], content[: len(content) // 2], content + b"\n"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"batch\.tsv is damaged"):
            read_manifest(path)


def make_entry(tmp_path, with_mask):
    image = tmp_path / "image.nii"
    image.write_bytes(b"image")
    entry = ImageEntry(0, image, 0, stat_file(image), "line 1 of Y.txt")
    if with_mask:
        mask = tmp_path / "mask.nii"
        mask.write_bytes(b"mask")
        entry = entry._replace(mask=mask, mask_state=stat_file(mask))
    return entry


@pytest.mark.parametrize("with_mask", [False, True])
def test_an_unchanged_image_passes(tmp_path, with_mask):
    check_unchanged(make_entry(tmp_path, with_mask))


def test_a_host_that_sees_other_numbers_for_the_same_file_reads_it(tmp_path):
    """Inodes, and times of other changes than of content, are not the same on all network disks."""
    entry = make_entry(tmp_path, with_mask=True)
    check_unchanged(
        entry._replace(
            state=entry.state._replace(identity="1/2"),
            mask_state=entry.mask_state._replace(identity=""),
        )
    )


@pytest.mark.parametrize("changed", ["image.nii", "mask.nii"])
def test_a_file_of_another_size_time_or_none_is_an_error_that_names_it(tmp_path, changed):
    entry = make_entry(tmp_path, with_mask=True)
    path = tmp_path / changed
    content, status = path.read_bytes(), path.stat()

    path.write_bytes(content + b" more")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputError, match=f"{changed} has changed"):
        check_unchanged(entry)

    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(InputError, match=f"{changed} has changed"):
        check_unchanged(entry)

    path.unlink()
    with pytest.raises(InputError, match=f"{changed} cannot be read any more"):
        check_unchanged(entry)


def test_a_file_is_written_only_when_its_content_changes(tmp_path):
    path = tmp_path / "new" / "file"
    write_if_changed(path, b"one")
    os.utime(path, ns=(1, 1))
    write_if_changed(path, b"one")
    assert path.stat().st_mtime_ns == 1
    write_if_changed(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mtime_ns != 1
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("named", ["i.hdr", "i.img"])
@pytest.mark.parametrize("changed", ["i.hdr", "i.img"])
@pytest.mark.parametrize("what", ["size", "time"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_a_change_of_either_file_of_a_pair_is_noticed(
    tmp_path, end, named, changed, what, with_mask
):
    for name in ("i.hdr", "i.img"):
        (tmp_path / f"{name}{end}").write_bytes(name.encode())
    entry = make_entry(tmp_path, with_mask)
    pair = tmp_path / f"{named}{end}"
    state = stat_file(pair)
    if with_mask:
        entry = entry._replace(mask=pair, mask_state=state)
    else:
        entry = entry._replace(image=pair, state=state)
    check_unchanged(entry)
    victim = tmp_path / f"{changed}{end}"
    before = victim.stat().st_mtime_ns
    if what == "size":
        victim.write_bytes(victim.read_bytes() + b"x")
    os.utime(victim, ns=(before, before + (what == "time")))
    with pytest.raises(InputError, match=rf"{named}.* has changed since the run was planned"):
        check_unchanged(entry)
