"""Tiles give back what was written, by voxels and by rows; damage to them is noticed."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nipype_blm.core.threads import Threads
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, is_whole, write_arrays
from nipype_blm.io.tilefile import CHUNK_VOXELS, TileFile, TileWriter

N_ROWS, N_VOXELS = 70, 2 * CHUNK_VOXELS + 100


def make_values(dtype="float32", scale=1.0):
    rng = np.random.default_rng(0)
    values = (scale * rng.normal(size=(N_ROWS, N_VOXELS))).astype(dtype)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[3] = np.nan
    values[:, 5] = 7
    values[4, :9] = -0.0
    return values


VALUES = make_values()


def write(path, values, by=32, n_threads=1):
    with (
        Threads(n_threads) as threads,
        TileWriter(path, "stamp", *values.shape, values.dtype, {"n": np.arange(3)}) as writer,
    ):
        for start in range(0, len(values), by):
            writer.add(values[start : start + by], threads)
    return path


def write_by_voxels(path, values, n_chunks=1):
    step = n_chunks * CHUNK_VOXELS
    with TileWriter(path, "stamp", *values.shape, values.dtype, {"n": np.arange(3)}) as writer:
        for start in range(0, values.shape[1], step):
            writer.add_voxels(start, values[:, start : start + step])
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same values, in every order in which they can be written."""
    folder = tmp_path_factory.mktemp("tiles")
    return [
        *(write(folder / f"{by}.blm", VALUES, by) for by in (4, 32)),
        *(write_by_voxels(folder / f"v{n}.blm", VALUES, n) for n in (1, 2)),
    ]


def assert_same(found, expected):
    """Compare all bits, also those of NaN and of -0."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@given(st.data())
@settings(max_examples=40)
def test_any_voxels_and_rows_are_read_back(files, data):
    tile = TileFile(data.draw(st.sampled_from(files)), "stamp")
    columns = slice(*sorted(data.draw(st.tuples(*[st.integers(0, N_VOXELS)] * 2))))
    rows = data.draw(
        st.tuples(*[st.integers(0, N_ROWS)] * 2).map(lambda ends: slice(*sorted(ends)))
        | st.lists(st.integers(0, N_ROWS - 1), max_size=5).map(lambda r: np.array(r, np.intp))
    )
    assert_same(tile.read(columns, rows), VALUES[rows][:, columns])


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_double_precision_and_any_scale_are_kept(tmp_path, scale):
    values = make_values("float64", scale)
    tile = TileFile(write(tmp_path / "a.blm", values), "stamp")
    assert (tile.n_rows, tile.n_voxels, tile.dtype) == (N_ROWS, N_VOXELS, np.float64)
    assert_same(tile.read(), values)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (33, 1)])
def test_one_image_and_one_voxel_are_kept(tmp_path, shape):
    values = VALUES[: shape[0], : shape[1]]
    assert_same(TileFile(write(tmp_path / "a.blm", values)).read(), values)


def test_threads_change_no_byte(tmp_path, files):
    three = write(tmp_path / "a.blm", VALUES, n_threads=3)
    assert three.read_bytes() == files[1].read_bytes()
    with Threads(3) as threads:
        assert_same(TileFile(three).read(threads=threads), VALUES)


def test_few_voxels_touch_their_chunks_only(files, monkeypatch):
    touched = []
    read = ArrayFile.read

    def note(file, name, columns=None):
        touched.append(columns)
        return read(file, name, columns)

    tile = TileFile(files[1])
    monkeypatch.setattr(ArrayFile, "read", note)
    for columns, rows in [(slice(0, 9), slice(None)), (slice(None), slice(64, 70))]:
        touched.clear()
        tile.read(columns, rows)
        share = sum(part.stop - part.start for part in touched) / files[1].stat().st_size
        assert share < 0.5  # of 3 x 3 chunks, those of one column or of the last row


def test_what_is_known_of_rows_is_beside_them(files):
    file = ArrayFile(files[0])
    assert file.read("n").tolist() == [0, 1, 2]
    assert file.stamp == "stamp"
    assert is_whole(files[0])


def test_no_thread_is_started_that_nobody_has_counted(tmp_path, monkeypatch):
    """Blosc, called in the main thread, would have its own; zarr tells it not to."""
    from numcodecs import blosc

    monkeypatch.setattr(blosc, "use_threads", None)  # as without zarr
    before = set(threading.enumerate())
    write(tmp_path / "a.blm", VALUES)
    TileFile(tmp_path / "a.blm").read()
    assert blosc.use_threads is None
    assert set(threading.enumerate()) <= before


def test_a_tile_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.blm"

    def write_half() -> None:
        with TileWriter(path, "stamp", N_ROWS, N_VOXELS, "float32") as writer:
            writer.add(VALUES[:32])

    def interrupt() -> None:
        with TileWriter(path, "stamp", N_ROWS, N_VOXELS, "float32") as writer:
            writer.add(VALUES[:32])
            raise KeyboardInterrupt

    with pytest.raises(ValueError, match="Of 70 rows"):
        write_half()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("position", [10, 1100, -3000, -3])
def test_any_changed_byte_is_noticed(tmp_path, position):
    path = write(tmp_path / "a.blm", VALUES)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert not is_whole(path)
    with pytest.raises(InputError, match="damaged"):
        TileFile(path, "stamp").read()


@pytest.mark.parametrize("size", [0, 500, 3000, -1])
def test_a_tile_that_was_cut_short_is_refused(tmp_path, size):
    path = write(tmp_path / "a.blm", VALUES)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="damaged"):
        TileFile(path, "stamp")


def test_a_foreign_file_is_refused(tmp_path, files):
    with pytest.raises(InputError, match="made from other input"):
        TileFile(files[0], "another")
    other = write_arrays(tmp_path / "b.blm", "stamp", {"a": np.zeros(3)})
    with pytest.raises(InputError, match="no values of images"):
        TileFile(other, "stamp")
