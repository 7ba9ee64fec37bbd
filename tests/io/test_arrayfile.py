"""Files of arrays hold what was written, and damage to them is noticed."""

import errno
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import (
    ArrayFile,
    empty,
    fingerprint,
    is_empty,
    is_whole,
    write_arrays,
)
from nipype_blm.io.files import replacing

RNG = np.random.default_rng(0)
ARRAYS = {
    "vector": RNG.normal(size=7),
    "table": RNG.normal(size=(3, 7)).astype(np.float32),
    "bits": RNG.integers(0, 2**32, (2, 3, 7), dtype=np.uint32),
    "flags": RNG.random(5) < 0.5,
    "big_endian": RNG.integers(0, 100, (2, 7)).astype(">i4"),
    "fortran": np.asfortranarray(RNG.normal(size=(4, 7))),
    "empty": np.empty((0, 7)),
}


@pytest.fixture
def path(tmp_path):
    return write_arrays(tmp_path / "a.blm", "stamp", ARRAYS, {"rows": [1, 2]})


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_back(path, name):
    read = ArrayFile(path, "stamp").read(name)
    assert read.shape == ARRAYS[name].shape
    assert read.dtype == ARRAYS[name].dtype.newbyteorder("<")
    np.testing.assert_array_equal(read, ARRAYS[name])


def test_stamp_and_meta_are_read_back(path):
    file = ArrayFile(path)
    assert file.stamp == "stamp"
    assert file.meta == {"rows": [1, 2]}


@given(st.data())
def test_any_range_of_columns_or_rows_is_read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "slices.blm"
    if not path.exists():
        write_arrays(path, "", ARRAYS)
    name = data.draw(st.sampled_from(["vector", "table", "bits", "big_endian", "fortran"]))
    array = ARRAYS[name]
    start = data.draw(st.integers(0, 6))
    columns = slice(start, data.draw(st.integers(start + 1, 7)))
    np.testing.assert_array_equal(ArrayFile(path).read(name, columns), array[..., columns])
    start = data.draw(st.integers(0, len(array) - 1))
    rows = slice(start, data.draw(st.integers(start + 1, len(array))))
    np.testing.assert_array_equal(ArrayFile(path).read_rows(name, rows), array[rows])


def test_equal_contents_give_equal_bytes(path, tmp_path):
    again = write_arrays(tmp_path / "b.blm", "stamp", ARRAYS, {"rows": [1, 2]})
    assert again.read_bytes() == path.read_bytes()


def test_arrays_are_aligned(path):
    content = path.read_bytes()
    start = content.index(b"\n") + 1
    assert start % 64 == 0
    layout = json.loads(content[:start])["arrays"]
    assert all(offset % 64 == 0 for _, _, offset in layout.values())


@pytest.mark.parametrize("stamp", ["another", "stam", "stamps", "Stamp", "stamp ", ""])
def test_another_stamp_is_refused(path, stamp):
    with pytest.raises(InputError, match=r"a\.blm was made from other input"):
        ArrayFile(path, stamp)


def read_everything(path):
    file = ArrayFile(path)
    for name in ARRAYS:
        file.read(name)


def is_refused(path, read=read_everything):
    """Return whether reading raises an error that names the file."""
    try:
        read(path)
    except InputError as error:
        [problem] = error.problems
        return path.name in problem and "run again, which makes it anew" in problem
    return False


def test_a_byte_that_changes_anywhere_is_noticed(path, tmp_path):
    """In the header and what pads it, in and between the arrays, and in the checksums."""
    content = path.read_bytes()
    damaged = tmp_path / "damaged.blm"
    for i in range(len(content)):
        damaged.write_bytes(content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :])
        assert not is_whole(damaged), i


def test_a_file_cut_or_grown_anywhere_is_refused(path, tmp_path):
    content = path.read_bytes()
    cut = tmp_path / "cut.blm"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        assert is_refused(cut, ArrayFile), length
    for more in (b"\0", content[-4:], content[-64:], content):
        cut.write_bytes(content + more)
        assert is_refused(cut, ArrayFile)
    middle = len(content) // 2
    cut.write_bytes(content[:middle] + content[middle + 64 :])
    assert is_refused(cut, ArrayFile)


def test_a_file_cut_short_while_it_is_open_is_an_error(path):
    file = ArrayFile(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"a\.blm is damaged"):
        file.read("fortran")


LARGE = RNG.normal(size=(3, 40_000)).astype(np.float32)  # rows of 20 checksums


@pytest.fixture
def large(tmp_path):
    return write_arrays(tmp_path / "large.blm", "", {"before": np.arange(5), "rows": LARGE})


@given(st.data())
def test_readers_of_a_part_notice_any_damage_to_it(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged_part.blm"
    write_arrays(path, "", {"before": np.arange(5), "rows": LARGE})
    content = path.read_bytes()
    row, column = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 39_999))
    start = content.index(LARGE.tobytes()) + (row * 40_000 + column) * 4
    damage = data.draw(st.binary(min_size=1, max_size=4))
    changed = content[:start] + damage + content[start + len(damage) :]
    path.write_bytes(changed)
    first = data.draw(st.integers(0, column))
    columns = slice(first, data.draw(st.integers(column + 1, 40_000)))
    for read in (
        lambda: ArrayFile(path).read("rows", columns),
        lambda: ArrayFile(path).read_rows("rows", slice(row, row + 1)),
        lambda: ArrayFile(path).read("rows"),
    ):
        if changed == content:
            read()
        else:
            with pytest.raises(InputError, match=r"damaged_part\.blm is damaged"):
                read()
    assert is_whole(path) == (changed == content)


def test_a_part_far_from_the_damage_can_be_read(large):
    content = large.read_bytes()
    at = content.index(LARGE.tobytes()) + LARGE[0].nbytes // 2  # in the first row
    large.write_bytes(content[:at] + bytes(8192) + content[at + 8192 :])
    np.testing.assert_array_equal(ArrayFile(large).read_rows("rows", slice(1, 3)), LARGE[1:])
    columns = slice(0, 100)
    np.testing.assert_array_equal(ArrayFile(large).read("rows", columns), LARGE[:, columns])
    assert not is_whole(large)


def test_a_file_made_anew_is_whole_again(large):
    content = large.read_bytes()
    large.write_bytes(content[:-1])
    assert not is_whole(large)
    large.write_bytes(content)
    assert is_whole(large)
    large.unlink()
    assert not is_whole(large)


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\n",
        b'{"format": "nipype_blm arrays 1", "stamp": "", "meta": null, "arrays": {}}\n',
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "a.blm"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.blm is not an intermediate file of this version"):
        ArrayFile(path)
    assert not is_whole(path)


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_else(path):
    before = path.read_bytes()

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.blm"]


class _Unreadable:
    """An array whose values cannot be had: a file that was cut short, a disk that fails."""

    dtype, shape, nbytes = np.dtype(float), (7,), 56

    def __array__(self, *_, **__):
        raise OSError("the disk fails")


@pytest.mark.parametrize("is_there", [True, False])
def test_arrays_that_cannot_all_be_written_leave_the_old_file_and_nothing_else(tmp_path, is_there):
    path = tmp_path / "a.blm"
    if is_there:
        write_arrays(path, "old", ARRAYS)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(OSError, match="the disk fails"):
        write_arrays(path, "new", {"first": np.zeros(10_000), "second": _Unreadable()})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_fingerprints_differ_unless_all_parts_are_equal(one, other):
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


# ---------------------------------------------------------------- arrays that were dropped


@pytest.fixture
def emptied(path):
    """A file that was emptied, and the two that were made from it, elsewhere."""
    folder = path.parent / "made"
    folder.mkdir()
    made = [write_arrays(folder / f"{i}.blm", f"stamp {i}", ARRAYS) for i in range(2)]
    empty(path, made)
    return path, made


def test_an_emptied_file_is_small_and_keeps_its_stamp(emptied):
    path, _ = emptied
    assert path.stat().st_size < 1000
    assert ArrayFile(path, "stamp").stamp == "stamp"
    assert is_whole(path)
    assert is_empty(path)


@pytest.mark.parametrize("read", [lambda f: f.read("vector"), lambda f: f.shape("vector")])
def test_what_was_dropped_cannot_be_read(emptied, read):
    path, _ = emptied
    with pytest.raises(InputError, match=r"a\.blm was emptied .*; run again"):
        read(ArrayFile(path))


def lose(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def replace(path):
    """Put another whole file in its place."""
    write_arrays(path, "of another run", ARRAYS)


@pytest.mark.parametrize("harm", [lose, cut, replace])
def test_an_emptied_file_is_whole_as_long_as_what_was_made_from_it_is(emptied, harm):
    path, made = emptied
    content = made[1].read_bytes()
    harm(made[1])
    assert not is_whole(path)
    made[1].write_bytes(content)
    assert is_whole(path)
    empty(path, [])  # once more: nothing is lost
    assert is_whole(path)
    made[1].unlink()
    assert not is_whole(path)


def test_emptied_files_may_be_moved_together(emptied, tmp_path_factory):
    path, _ = emptied
    moved = path.parent.rename(tmp_path_factory.mktemp("moved") / "there")
    assert is_whole(moved / "a.blm")


def test_a_file_with_arrays_is_not_empty_nor_is_none(path, tmp_path):
    assert not is_empty(path)
    assert not is_empty(tmp_path / "none.blm")


def test_an_error_of_the_disk_that_may_pass_is_no_damage(tmp_path, monkeypatch):
    """Whoever took it for damage would remove a good file."""
    path = write_arrays(tmp_path / "a.blm", "stamp", {"x": np.arange(3)})

    def fail(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ArrayFile, "check", fail)
    with pytest.raises(OSError, match="Input/output"):
        is_whole(path)
    assert not is_whole(tmp_path / "none.blm")
    assert not is_whole(path / "below_a_file.blm")
