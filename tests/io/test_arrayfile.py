"""Files of arrays hold what was written, and damage to them is noticed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, fingerprint, write_arrays
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


def test_a_file_cut_short_anywhere_is_refused(path, tmp_path):
    content = path.read_bytes()
    last = ArrayFile(path)
    assert last.read("fortran").size  # the last array with data; padding may follow
    for length in [0, 1, 63, 64, len(content) // 2, len(content) - 64]:
        cut = tmp_path / "cut.blm"
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.blm"):
            ArrayFile(cut)


def test_a_file_cut_short_while_it_is_open_is_an_error(path):
    file = ArrayFile(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(OSError, match=r"a\.blm ended"):
        file.read("fortran")


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\n",
        b'{"format": "nipype_blm arrays 0", "stamp": "", "meta": null, "arrays": {}}\n',
        b'{"format": "nipype_blm arrays 1", "stamp": "", "arrays": {}}\n',
        b'{"format": "nipype_blm arrays 1", "stamp": "", "meta": null, "arrays": {"a": 1}}\n',
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "a.blm"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.blm is not an intermediate file of this version"):
        ArrayFile(path)


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_else(path):
    before = path.read_bytes()

    def fail():
        with replacing(path) as part:
            part.write_bytes(b"half")
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
