"""Sources: each store gives what the whole array has, in blocks of the caller's own."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockmap import volumes
from blockmap.volumes import MAKERS, OFFSET, QUICK, make_values, open_made, save_ome, save_zarr
from children import Program
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nipype_blm.blockmap import map_blocks
from nipype_blm.blockmap.addresses import tell_kind
from nipype_blm.blockmap.blocks import AXES, Grid, compute_blocks
from nipype_blm.blockmap.channels import Channel, open_channel, reopen_channel
from nipype_blm.blockmap.images import describe_image, find_affine
from nipype_blm.blockmap.sources import Source, find_place
from nipype_blm.errors import InputError

SHAPE, CHUNKS = (5, 7, 11), (2, 3, 4)
BOXES = [((0, 0, 0), SHAPE), ((0, 0, 0), (2, 3, 4)), ((1, 2, 3), (5, 6, 5)), ((4, 6, 10), SHAPE)]


def read(channel: Channel, start: Any, stop: Any) -> Any:
    """Read a box whose corners are counted from the first voxel of a volume."""
    first = [channel.extent[axis][0] for axis in AXES]
    z, y, x = (a + n for a, n in zip(start, first, strict=True))
    return channel.read((z, y, x), tuple(b + n for b, n in zip(stop, first, strict=True)))


def read_whole(channel: Channel) -> Any:
    return read(channel, (0, 0, 0), channel.shape)


def cut(values: Any, start: Any, stop: Any) -> Any:
    return values[tuple(map(slice, start, stop))]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_block_is_that_of_the_whole_array_and_its_readers_own(kind: str, tmp_path: Path) -> None:
    values = make_values(SHAPE)
    channel = open_made(MAKERS[kind](tmp_path, values, CHUNKS))
    assert channel.shape == SHAPE
    assert channel.dtype == np.dtype("int16")
    for start, stop in BOXES:
        block = read(channel, start, stop)
        np.testing.assert_array_equal(block, cut(values, start, stop))
        assert block.dtype == channel.dtype
        assert block.dtype.isnative
        assert block.flags.writeable
        assert block.flags.c_contiguous
        block += 1  # as a careless function does
        again = read(channel, start, stop)
        np.testing.assert_array_equal(again, cut(values, start, stop))
        assert not np.shares_memory(block, again)


# ------------------------------------------------------------------------------------- NIfTI


@pytest.mark.parametrize(("slope", "inter"), [(0.5, 1), (np.nan, 0), (0, 5), (1, 0), (2, -3)])
def test_scaled_images_are_of_the_type_that_is_read(
    tmp_path: Path, slope: float, inter: float
) -> None:
    import nibabel as nib

    values = make_values(SHAPE)
    made = volumes.save_nifti(tmp_path / "em.nii", values)
    raw = bytearray((tmp_path / "em.nii").read_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()  # scl_slope and scl_inter
    (tmp_path / "em.nii").write_bytes(raw)
    channel = open_made(made)
    expected = np.asarray(nib.load(tmp_path / "em.nii").dataobj).T
    block = read(channel, (1, 2, 3), (4, 5, 6))
    np.testing.assert_array_equal(block, expected[1:4, 2:5, 3:6])
    assert block.dtype == channel.dtype == expected.dtype
    if slope == 0.5:
        np.testing.assert_array_equal(block, values[1:4, 2:5, 3:6] * 0.5 + 1)


def save_series(path: Path) -> Any:
    """Write an image of four axes; return its values of t, z, y, x."""
    import nibabel as nib

    values = make_values((3, *SHAPE))
    nib.save(nib.Nifti1Image(values.T, np.eye(4)), path)
    return values


def test_a_place_in_time_is_chosen_or_all_are_kept(tmp_path: Path) -> None:
    values = save_series(tmp_path / "em.nii.gz")
    path = str(tmp_path / "em.nii.gz")
    one = open_channel(Source(path, at={"t": 2}), "em")
    np.testing.assert_array_equal(one.read((1, 0, 0), (3, 7, 4)), values[2, 1:3, :, :4])
    kept = open_channel(Source(path, keep="t"), "em")
    assert kept.n_kept == 3
    np.testing.assert_array_equal(kept.read((1, 0, 0), (3, 7, 4)), values[:, 1:3, :, :4])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "em has 3 places along axis t, 0 to 2; choose one, with `at: {t: 0}`, or have"),
        ({"at": {"t": 3}}, "em was asked for place 3 along axis t; it has 3 places"),
        ({"at": {"t": -1}}, "em was asked for place -1 along axis t; it has 3 places"),
        ({"at": {"q": 0}}, "em has no further axis q; its axes are xyzt"),
        ({"at": {"z": 0}}, "em has no further axis z"),
        ({"keep": "c"}, "em has no further axis c"),
        ({"channel": 0}, "em has no further axis c"),
        ({"keep": "t", "at": {"t": 0}}, "for all places along axis t and for place 0; give one"),
        ({"axes": "zyx"}, "has 4 axes of 11 x 7 x 5 x 3 voxels, and its axes are 'zyx'; give axes"),
        ({"axes": "zyxx"}, "its axes are 'zyxx'; give axes, a letter for each"),
        ({"axes": "abcd"}, "with z, y and x among them, such as tzyx"),
    ],
)
def test_axes_that_are_unclear_are_asked_for(tmp_path: Path, fields: Any, message: str) -> None:
    save_series(tmp_path / "em.nii")
    with pytest.raises(InputError) as caught:
        open_channel(Source(str(tmp_path / "em.nii"), **fields), "em")
    assert message in str(caught.value)


def count_bytes_read() -> int:
    """Return how many bytes this process has read from files and elsewhere, ever."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what is read")
@pytest.mark.parametrize("kind", ["nifti_packed", "mgz"])
def test_a_packed_image_is_unpacked_once_for_all_blocks(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("indexed_gzip")
    values = make_values((64, 160, 160))
    made = MAKERS[kind](tmp_path, values, CHUNKS)
    size = Path(made["path"]).stat().st_size
    channel = open_made(made)
    before = count_bytes_read()
    for z in range(0, 64, 8):
        block = channel.read((z, 0, 0), (z + 8, 160, 160))
        np.testing.assert_array_equal(block, values[z : z + 8])
    # From the start for each block it would be four and a half times the file.
    assert count_bytes_read() - before < 1.5 * size


# -------------------------------------------------------------------------------------- Zarr


@pytest.mark.parametrize(
    ("name", "moved", "expected"),
    [
        ("zarr2", "0/0/0", "0.0.0"),
        ("zarr2_slashes", "0.0.0", "0/0/0"),
        ("zarr3", "c.0.0.0", "c/0/0/0"),
    ],
)
def test_chunks_that_metadata_does_not_find_are_an_error(
    name: str, moved: str, expected: str, tmp_path: Path
) -> None:
    made = MAKERS[name](tmp_path, make_values((2, 3, 4)), (2, 3, 4))
    found = Path(made["path"], expected)
    target = Path(made["path"], moved)
    content = found.read_bytes()
    found.unlink()
    for folder in list(found.parents)[: expected.count("/")]:
        folder.rmdir()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_made(made)
    message = f"has chunks such as {moved}, and its metadata looks for such as {expected}"
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["zarr2", "zarr3", "zarr3_sharded"])
def test_a_zarr_without_chunks_is_odd_and_no_error(name: str, tmp_path: Path) -> None:
    values = make_values((4, 6, 8))
    empty = open_made(MAKERS[name](tmp_path, values * 0, CHUNKS))
    assert empty.opened.oddity == "has no chunk: all its voxels read as 0"
    assert not read_whole(empty).any()
    (tmp_path / "full").mkdir()
    assert open_made(MAKERS[name](tmp_path / "full", values, CHUNKS)).opened.oddity == ""


def test_a_chunk_that_is_missing_reads_as_the_fill_value(tmp_path: Path) -> None:
    values = make_values((4, 3, 4))
    made = save_zarr(tmp_path / "em.zarr", values, (2, 3, 4), fill_value=7)
    Path(made["path"], "c", "1", "0", "0").unlink()
    channel = open_made(made)
    assert channel.opened.oddity == ""
    assert (channel.read((2, 0, 0), (4, 3, 4)) == 7).all()


def test_what_is_read_at_once_is_a_shard_if_there_are_any(tmp_path: Path) -> None:
    made = volumes.make_zarr3_sharded(tmp_path, make_values(SHAPE), CHUNKS)
    assert open_made(made).chunks == (4, 6, 8)
    import zarr

    assert open_channel(zarr.open_array(made["path"]), "em").chunks == (4, 6, 8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("zarr3", CHUNKS), ("zarr_with_names", CHUNKS), ("hdf5", CHUNKS), ("n5", CHUNKS)),
        *(("precomputed", CHUNKS), ("dask", CHUNKS), ("hdf5_array", CHUNKS)),
        *(("numpy", None), ("nifti", None), ("ome_05", (4, 4, 4))),
    ],
)
def test_chunks_are_told_along_z_y_x(name: str, expected: Any, tmp_path: Path) -> None:
    assert open_made(MAKERS[name](tmp_path, make_values(SHAPE), CHUNKS)).chunks == expected


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_axes_without_names_are_the_last_of_z_y_x(n_axes: int, tmp_path: Path) -> None:
    values = make_values(SHAPE[-n_axes:])
    made = save_zarr(tmp_path / "em.zarr", values, CHUNKS[-n_axes:])
    channel = open_made(made)
    assert channel.shape == (1,) * (3 - n_axes) + SHAPE[-n_axes:]
    np.testing.assert_array_equal(read_whole(channel).reshape(values.shape), values)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["year", "y", "x"], ["row", "column", "slice"]])
def test_names_of_other_axes_are_not_guessed(names: list[str], tmp_path: Path) -> None:
    made = save_zarr(tmp_path / "em.zarr", make_values(SHAPE), CHUNKS, dimension_names=names)
    with pytest.raises(InputError, match="nothing says which is which; give axes, a letter for"):
        open_made(made)
    assert open_made(made, axes="ZYX").shape == SHAPE
    assert open_made(made, axes="xyz").shape == SHAPE[::-1]


def test_names_of_xarray_are_read(tmp_path: Path) -> None:
    values = make_values((2, *SHAPE))
    names = {"_ARRAY_DIMENSIONS": ["time", "x", "y", "z"]}
    made = save_zarr(tmp_path / "em.zarr", values, (1, *CHUNKS), zarr_format=2, attributes=names)
    block = read_whole(open_made(made, at={"t": 1}))
    np.testing.assert_array_equal(block, values[1].T)


def test_an_array_of_a_group_is_named(tmp_path: Path) -> None:
    volumes.make_zarr_within(tmp_path, make_values(SHAPE), CHUNKS)
    path = str(tmp_path / "em.zarr")
    assert open_channel(Source(path, dataset="raw"), "em").shape == SHAPE
    assert open_channel(Source(f"{path}/raw/zarr.json"), "em").shape == SHAPE
    with pytest.raises(InputError, match="one of its arrays with dataset: labels, raw"):
        open_channel(Source(path), "em")
    with pytest.raises(InputError, match=r"em.zarr has no nope; give one .*: labels, raw"):
        open_channel(Source(f"{path}/nope"), "em")
    with pytest.raises(InputError, match="which has no levels; leave level out"):
        open_channel(Source(f"{path}/raw", level=1), "em")


# ---------------------------------------------------------------------------------- OME-Zarr


def begin_at(start: Any) -> Grid:
    return compute_blocks({axis: (n, n + 1) for axis, n in zip(AXES, start, strict=True)})


def find_steps(channel: Channel, start: Any = (0, 0, 0)) -> Any:
    """Return scale, translation and unit that outputs get, from a first voxel."""
    image = describe_image("out", begin_at(start), channel)["multiscales"][0]
    given = image["datasets"][0]["coordinateTransformations"]
    steps = {step["type"]: step[step["type"]] for step in given}
    return steps["scale"], steps.get("translation"), image["axes"][0].get("unit")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_coordinates_of_a_level_go_on_to_outputs(version: str, tmp_path: Path) -> None:
    fine = make_values((1, 2, 4, 6, 8))
    steps = [
        [{"type": "scale", "scale": [1, 1, 2, 0.5, 0.25]}],
        [
            {"type": "scale", "scale": [1, 1, 2, 1, 0.5]},
            {"type": "translation", "translation": [0, 0, 10, 0.25, 0.125]},
        ],
    ]
    outer = [
        {"type": "scale", "scale": [0.1, 1, 3, 2, 2]},
        {"type": "translation", "translation": [0, 0, 100, 0, 1]},
    ]
    levels = [fine, fine[..., ::2, ::2]]
    path = tmp_path / "em.zarr"
    made = save_ome(path, levels, volumes.TCZYX, version, steps, coordinateTransformations=outer)
    channel = open_made(made, channel=1, level=1)
    np.testing.assert_array_equal(read_whole(channel), fine[0, 1, :, ::2, ::2])
    start = np.array([2, 1, 3])

    def move(voxel: Any) -> Any:
        """Apply all steps of space in their order."""
        level = voxel * [2, 1, 0.5] + [10, 0.25, 0.125]
        return level * [3, 2, 2] + [100, 0, 1]

    scale, translation, unit = find_steps(channel, start)
    assert unit == "micrometer"
    np.testing.assert_allclose(scale, move(start + 1) - move(start), rtol=1e-12)
    np.testing.assert_allclose(translation, move(start), rtol=1e-12)
    affine = find_affine(begin_at(start), channel)
    np.testing.assert_allclose(affine[:3, 3][::-1], move(start) * 1e-3, rtol=1e-12)


@pytest.mark.parametrize("axes", ["zyx", "yx", "czyx", "tzyx", "xyz", "zcyx"])
def test_axes_of_an_image_are_taken_by_their_names(axes: str, tmp_path: Path) -> None:
    sizes = {"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}
    values = make_values(tuple(sizes[a] for a in axes))
    scale = [float(1 + "tczyx".index(a)) for a in axes]
    steps = [[{"type": "scale", "scale": scale}]]
    made = save_ome(tmp_path / "em.zarr", [values], [{"name": a} for a in axes], "0.4", steps)
    at = {a: 1 for a in axes if a not in AXES}
    channel = open_made(made, at=at)
    index = tuple(1 if a in at else slice(None) for a in axes)
    left = [a for a in axes if a not in at]
    expected = values[index].transpose([left.index(a) for a in "zyx" if a in left])
    np.testing.assert_array_equal(read_whole(channel).reshape(expected.shape), expected)
    assert find_steps(channel) == ([3.0 if "z" in axes else 1.0, 4.0, 5.0], None, None)


def test_channels_are_chosen_by_number_or_label(tmp_path: Path) -> None:
    values = make_values(SHAPE)
    made = volumes.make_ome_05(tmp_path, values, CHUNKS)
    np.testing.assert_array_equal(read_whole(open_made(made, channel=1)), values)
    assert not read_whole(open_made(made, channel="DAPI")).any()
    both = open_made({"path": made["path"]}, keep="c")
    np.testing.assert_array_equal(read_whole(both), [values * 0, values])
    with pytest.raises(InputError, match="em has no channel 'RFP'; it has DAPI, GFP"):
        open_made(made, channel="RFP")
    with pytest.raises(
        InputError, match=r"2 places along axis c, 0 to 1 \(DAPI, GFP\); choose one"
    ):
        open_made({"path": made["path"]})
    with pytest.raises(InputError, match=r"asked for level 1; .* has 1, from 0"):
        open_made(made, level=1)


def test_axes_of_other_names_are_known_by_their_type(tmp_path: Path) -> None:
    axes = [
        {"name": "lambda", "type": "channel"},
        {"name": "z", "type": "space", "unit": "micrometer"},
        {"name": "y", "type": "space", "unit": "nanometer"},
        {"name": "x", "type": "space", "unit": "nanometer"},
    ]
    steps = [[{"type": "scale", "scale": [1, 0.04, 4, 4]}]]
    made = save_ome(tmp_path / "em.zarr", [make_values((2, 3, 4, 5))], axes, "0.5", steps)
    scale, _, unit = find_steps(open_made(made, channel=0))
    np.testing.assert_allclose(scale, [40, 4, 4], rtol=1e-12)
    assert unit == "nanometer"


def test_images_of_the_first_versions_have_five_axes(tmp_path: Path) -> None:
    import zarr

    values = make_values((1, 1, *SHAPE))
    group = zarr.create_group(tmp_path / "em.zarr", zarr_format=2)
    save_zarr(tmp_path / "em.zarr" / "0", values, (1, 1, *CHUNKS), zarr_format=2)
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "0"}]}]
    channel = open_channel(Source(str(tmp_path / "em.zarr")), "em")
    np.testing.assert_array_equal(read_whole(channel), values[0, 0])


# -------------------------------------------------------------------------------------- HDF5


def test_one_of_several_datasets_is_named(tmp_path: Path) -> None:
    path = Path(volumes.make_hdf5_dataset(tmp_path, make_values(SHAPE), CHUNKS)["path"])
    with pytest.raises(InputError, match="has deep/labels, deep/raw; give one with dataset"):
        open_channel(Source(str(path)), "em")
    with pytest.raises(InputError, match="has no dataset deep; it has deep/labels, deep/raw: give"):
        open_channel(Source(str(path), dataset="deep"), "em")
    with pytest.raises(InputError, match="does not exist"):
        open_channel(Source(f"{tmp_path}/none.h5/raw"), "em")
    path.write_bytes(b"text")
    with pytest.raises(InputError, match=r"em.h5 cannot be opened as HDF5"):
        open_channel(Source(str(path)), "em")


def test_a_file_that_is_being_written_is_not_read(
    tmp_path: Path, start_program: Callable[..., Program]
) -> None:
    import h5py

    made = volumes.make_hdf5(tmp_path, make_values(SHAPE), CHUNKS)
    source = """
import sys
from nipype_blm.blockmap.channels import open_channel
from nipype_blm.blockmap.sources import Source
print(open_channel(Source(sys.argv[1]), "em").shape)
"""
    with h5py.File(made["path"], "r+", locking=True):
        reader = start_program(source, made["path"])
        assert reader.wait() == 1
    assert f"em: {made['path']} is held by a program that writes to it; wait" in reader.output
    with h5py.File(made["path"], "r", locking=True):
        reader = start_program(source, made["path"])
        assert reader.wait() == 0
    assert reader.output == "(5, 7, 11)\n"


# ------------------------------------------------------------------------------- TensorStore


def test_a_precomputed_volume_begins_where_its_offset_says(tmp_path: Path) -> None:
    values = make_values(SHAPE)
    channel = open_made(volumes.make_precomputed(tmp_path, values, CHUNKS))
    assert channel.extent == {"z": (3, 8), "y": (-2, 5), "x": (5, 16)}
    blocks = Grid(channel.extent, (2, 4, 5), (1, 1, 1))
    for block in blocks:
        box = np.subtract(block.read_start, OFFSET), np.subtract(block.read_stop, OFFSET)
        found = channel.read(block.read_start, block.read_stop)
        np.testing.assert_array_equal(found, cut(values, *box))
    assert blocks[0].key == "3_-2_5"
    assert find_steps(channel) == ([40.0, 4.0, 4.0], None, "nanometer")
    assert find_steps(channel, OFFSET) == ([40.0, 4.0, 4.0], [120.0, -8.0, 20.0], "nanometer")


def test_scales_and_channels_of_a_precomputed_volume_are_chosen(tmp_path: Path) -> None:
    fine = make_values((2, *SHAPE))
    coarse = np.ascontiguousarray(fine[..., ::2, ::2])
    made = volumes.save_precomputed(tmp_path / "em", [fine, coarse], CHUNKS, (0, 0, 0))
    channel = open_made(made, level=1, channel=1)
    np.testing.assert_array_equal(read_whole(channel), coarse[1])
    assert channel.voxel_size == (40, 8, 8)
    np.testing.assert_array_equal(read_whole(open_made(made, keep="c")), fine)
    with pytest.raises(InputError, match="2 places along axis c, 0 to 1; choose one"):
        open_made(made)
    with pytest.raises(InputError, match=r"em cannot be opened: .*scale"):
        open_made(made, level=2, channel=0)


def test_a_chunk_that_is_absent_is_black_and_one_that_is_empty_an_error(tmp_path: Path) -> None:
    values = make_values((1, 4, 3, 4))
    made = volumes.save_precomputed(tmp_path / "em", [values], (2, 3, 4), (0, 0, 0))
    channel = open_made(made)
    first, second = sorted((tmp_path / "em" / "s0").iterdir())
    first.unlink()
    second.write_bytes(b"")
    assert not channel.read((0, 0, 0), (2, 3, 4)).any()
    with pytest.raises(ValueError, match="0 bytes"):
        channel.read((2, 0, 0), (4, 3, 4))


def test_levels_of_stores_without_levels_are_refused(tmp_path: Path) -> None:
    made = volumes.make_n5(tmp_path, make_values(SHAPE), CHUNKS)
    with pytest.raises(InputError, match=r"asked for level 1 of .*n5/raw; expected the address"):
        open_made(made, level=1)
    with pytest.raises(InputError, match=r"em.n5/none does not exist"):
        open_made({"path": f"{Path(made['path']).parent}/none"})


# ------------------------------------------------------------------------------ what is where


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/em.nii", "nifti"),
        *(("em.NII.GZ", "nifti"), ("em.mgz", "nifti"), ("em.nii.zst", "nifti")),
        *(("em.zarr", "zarr"), ("em.ome.zarr/0", "zarr"), ("em.zarr.zip", "zarr")),
        *(("em.h5", "hdf5"), ("em.nwb/acquisition/raw", "hdf5"), ("em.zarr.h5", "hdf5")),
        *(("em.n5", "tensorstore"), ("em.n5/c0/s0", "tensorstore"), ("n5://em", "tensorstore")),
        *(("precomputed://s3://bucket/em", "tensorstore"), ("zarr3://em", "tensorstore")),
        *(("bossdb://a/b/c", "boss"), ("python:volumes:load", "python")),
    ],
)
def test_the_path_tells_what_opens_it(path: str, kind: str) -> None:
    assert tell_kind(path) == Source(path).opener == kind


def test_a_folder_tells_what_it_is(tmp_path: Path) -> None:
    for name, kind in (("info", "tensorstore"), (".zarray", "zarr"), ("zarr.json", "zarr")):
        (tmp_path / f"of{name}").mkdir()
        (tmp_path / f"of{name}" / name).touch()
        assert tell_kind(str(tmp_path / f"of{name}")) == kind


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://host/em", "https://host/em does not say what is stored there; write precomputed"),
        ("em.txt", "em.txt is not there, and nothing tells what it is; expected NIfTI"),
        (str(Path(__file__)), "test_sources.py is there, but nothing tells what it is; expected"),
        ("em.nii", "em: em.nii does not exist"),
        ("em.zarr/raw", "em: em.zarr does not exist"),
        ("em.h5/raw", "em: em.h5 does not exist"),
        ("precomputed:///em", "em: /em does not exist"),
        ("python:nothing_here:load", "cannot be imported: ModuleNotFoundError"),
        (f"python:{Path(volumes.__file__)}:make_values", "has failed: TypeError: "),
    ],
)
def test_what_is_not_there_is_an_error(path: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_channel(Source(path), "em")
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        *(("zarr3", "zarr", "zarr"), ("hdf5", "h5py", "hdf5")),
        ("precomputed", "tensorstore", "tensorstore"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    kind: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MAKERS[kind](tmp_path, make_values(SHAPE), CHUNKS)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{module}, which is not .* nipype_blm\[{extra}\]\.$"):
        open_made(made)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4, 5)), np.zeros(())])
def test_an_array_of_other_axes_is_refused(array: Any) -> None:
    with pytest.raises(InputError, match="voxels; expected an array of z, y, x"):
        open_channel(array, "em")


@pytest.mark.parametrize("given", [3, None, [[1, 2], [3, 4]]])
def test_what_is_no_array_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="expected a path, an address, or an array with shape"):
        open_channel(given, "em")


@pytest.mark.parametrize("kind", MAKERS)
def test_the_place_on_the_disk_is_that_of_the_whole_store(kind: str, tmp_path: Path) -> None:
    made = MAKERS[kind](tmp_path, make_values(SHAPE), CHUNKS)
    if isinstance(made, dict) and kind != "python":
        assert find_place(Source(**made)) == next(tmp_path.iterdir())


def test_what_is_far_away_has_no_place_on_the_disk() -> None:
    for path in (
        "bossdb://a/b/c",
        "precomputed://gs://bucket/em",
        "python:volumes:load",
        "em.zarr",
    ):
        assert find_place(Source(path)) is None


def test_a_process_opens_a_source_once_and_a_forked_one_again(tmp_path: Path) -> None:
    source = Source(**volumes.make_hdf5(tmp_path, make_values(SHAPE), CHUNKS))
    opened = reopen_channel(source, "em")
    assert reopen_channel(source, "em") is opened
    child = os.fork()
    if not child:
        os._exit(reopen_channel(source, "em") is opened)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("kind", "in_place"),
    [
        *(("nifti", True), ("nifti_packed", True), ("zarr3", True), ("n5", True)),
        # A process that has a file of HDF5 open cannot write it.
        *(("hdf5", False), ("nifti_packed", False), ("ome_04", False), ("precomputed", False)),
    ],
)
def test_a_source_that_was_written_again_is_opened_again(
    kind: str, in_place: bool, tmp_path: Path
) -> None:
    old, new = make_values(SHAPE), make_values((4, 6, 9), seed=1)
    made = MAKERS[kind](tmp_path, old, CHUNKS)
    source = Source(**made)
    np.testing.assert_array_equal(read_whole(reopen_channel(source, "em")), old)
    place = find_place(source)
    assert place is not None
    if in_place and place.is_dir():
        shutil.rmtree(place)
    if in_place:
        MAKERS[kind](tmp_path, new, CHUNKS)
    else:
        (tmp_path / "new").mkdir()
        MAKERS[kind](tmp_path / "new", new, CHUNKS)
        place.rename(tmp_path / "old")
        (tmp_path / "new" / place.name).rename(place)
    np.testing.assert_array_equal(read_whole(reopen_channel(source, "em")), new)


def test_a_level_that_was_written_again_is_opened_again(tmp_path: Path) -> None:
    source = Source(**volumes.make_ome_05(tmp_path, make_values(SHAPE), CHUNKS))
    assert reopen_channel(source, "em").shape == SHAPE
    level = tmp_path / "em.ome.zarr" / "0"
    shape = (*reopen_channel(source, "em").opened.array.shape[:-3], 3, 4, 5)
    save_zarr(level, make_values(shape), shape, overwrite=True)
    assert reopen_channel(source, "em").shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (
            "nifti",
            {"level": 1, "dataset": "raw"},
            "em was given dataset, level, which /.*nii, read",
        ),
        ("hdf5_within", {"level": 1}, "em was given level, which .*, read as hdf5, does not have"),
        ("zarr3", {"options": {"a": 1}}, "leave it out"),
    ],
)
def test_fields_that_a_store_does_not_have_are_refused(
    kind: str, fields: Any, message: str, tmp_path: Path
) -> None:
    made = MAKERS[kind](tmp_path, make_values(SHAPE), CHUNKS)
    with pytest.raises(InputError, match=message):
        open_made(made, **fields)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_by_its_own_path_has_the_coordinates_of_its_image(
    version: str, tmp_path: Path
) -> None:
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in AXES]
    steps = [
        [{"type": "scale", "scale": [40, 4, 4]}],
        [
            {"type": "scale", "scale": [40, 8, 8]},
            {"type": "translation", "translation": [0, 2, 2]},
        ],
    ]
    values = make_values(SHAPE)
    save_ome(tmp_path / "em.zarr", [values, values[:, ::2, ::2]], axes, version, steps)
    for fields in ({"path": "em.zarr/1"}, {"path": "em.zarr", "dataset": "1"}):
        made = {**fields, "path": str(tmp_path / fields["path"])}
        channel = open_made(made)
        np.testing.assert_array_equal(read_whole(channel), values[:, ::2, ::2])
        assert (channel.voxel_size, channel.origin) == ((40, 8, 8), (0, 2, 2))
        assert channel.opened.unit == "nanometer"


@pytest.mark.parametrize(
    ("affine", "origin"),
    [
        ([[0.1, 0, 0, 7], [0, 0.7, 0, -3], [0, 0, 40, 0.3]], (0.3, -3, 7)),
        ([[-0.1, 0, 0, 7], [0, 0.7, 0, -3], [0, 0, 40, 0.3]], None),
        ([[0, 0.7, 0, 7], [0.1, 0, 0, -3], [0, 0, 40, 0.3]], None),
    ],
)
def test_an_image_whose_axes_are_those_of_space_has_an_origin(
    affine: Any, origin: Any, tmp_path: Path
) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(make_values(SHAPE).T, np.array([*affine, [0, 0, 0, 1]]))
    nib.save(image, tmp_path / "em.nii")
    channel = open_channel(Source(str(tmp_path / "em.nii")), "em")
    assert sorted(channel.voxel_size) == [0.1, 0.7, 40]
    assert channel.origin == (origin or (0, 0, 0))
    # With that of voxel 2, 1, 3, the outputs are where the input is.
    scale, moved, unit = find_steps(channel, (2, 1, 3))
    shift = [n * size for n, size in zip((2, 1, 3), scale, strict=True)]
    np.testing.assert_allclose(moved, np.add(shift, origin or 0))
    assert unit == "millimeter"


def test_an_open_file_does_not_go_to_other_processes(tmp_path: Path) -> None:
    array = volumes.make_hdf5_array(tmp_path, make_values(SHAPE), CHUNKS)
    with pytest.raises(InputError, match="an array of this process, which workers do not have"):
        map_blocks(
            find_largest,
            {"em": array},
            tmp_path / "out",
            block_size=4,
            arguments={"reach": 0},
            plugin_args={"cluster": "local", "n_workers": 1},
        )
    array.file.close()


# --------------------------------------------------------------------------------- all of it


def find_largest(data: Any, reach: int) -> Any:
    """Return the largest value around each voxel."""
    from scipy.ndimage import maximum_filter

    return maximum_filter(data["em"], 2 * reach + 1, mode="constant", cval=0)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_blocks_put_together_are_what_one_call_on_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    import zarr

    draw, size = data.draw, st.integers(1, 9)
    folder = tmp_path_factory.mktemp("merged")
    shape, chunks = draw(st.tuples(size, size, size)), draw(st.tuples(size, size, size))
    reach = draw(st.integers(0, 2))
    # As small as may be, mostly: then nothing is read too much.
    halo = draw(st.tuples(*[st.sampled_from([reach, reach, reach + 1, 11])] * 3))
    values = make_values(shape, seed=draw(st.integers(0, 99)))
    made = MAKERS[draw(st.sampled_from(QUICK))](folder, values, chunks)
    result = map_blocks(
        find_largest,
        {"em": made},
        folder / "out",
        block_size=draw(st.tuples(*[st.integers(1, 11)] * 3)),
        halo=halo,
        arguments={"reach": reach},
    )
    merged = zarr.open_array(result.outputs["result"], path="0", mode="r")[...]
    np.testing.assert_array_equal(merged, find_largest({"em": values}, reach))
    assert merged.dtype == values.dtype
