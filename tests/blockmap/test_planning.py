"""Plans: what is asked for is checked before any block is read, and the volume is cut."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockmap.volumes import MAKERS, make_values, save_ome, save_zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from nipype_blm.blockmap import map_blocks
from nipype_blm.blockmap.blocks import AXES
from nipype_blm.blockmap.options import make_config
from nipype_blm.blockmap.plan import Plan
from nipype_blm.blockmap.planning import describe_costs, make_plan, plan_size
from nipype_blm.errors import InputError
from nipype_blm.units import GIB

SHAPE, CHUNKS = (5, 7, 11), (2, 3, 4)
FUNCTION = f"{__file__}:count_positive"


def count_positive(data: Any, factor: int = 1) -> Any:
    return {"n": int((data["em"] > 0).sum()) * factor}


def plan(folder: Path, *, out: Any = "out", arrays: Any = None, **fields: Any) -> Plan:
    """Plan a run over a Zarr of `SHAPE`, or whatever fields say."""
    if "channels" not in fields:
        fields["channels"] = {"em": save_zarr(folder / "em.zarr", make_values(SHAPE), CHUNKS)}
    config = make_config({"function": FUNCTION, **fields}, folder)
    return make_plan(config, Path(folder, out), str(folder), None, arrays)


def save(folder: Path, name: str, shape: tuple[int, ...] = SHAPE) -> Any:
    return save_zarr(folder / f"{name}.zarr", make_values(shape), CHUNKS[-len(shape) :])


def explain(folder: Path, **fields: Any) -> str:
    """Return why something cannot be planned: sentences, one in each line."""
    with pytest.raises(InputError) as caught:
        plan(folder, **fields)
    text = str(caught.value)
    assert all(line.endswith(".") for line in text.splitlines()), text
    assert not (folder / "out").exists()
    return text


# ------------------------------------------------------------------------------------ blocks


sizes = st.tuples(*[st.integers(1, 3000)] * 3)


@settings(max_examples=150)
@given(sizes, st.none() | sizes, st.tuples(*[st.integers(0, 40)] * 3), st.integers(1, 10**8))
def test_planned_blocks_are_chunks_as_many_as_memory_holds(
    shape: Any, chunks: Any, halo: Any, most: int
) -> None:
    size = plan_size(shape, halo, chunks and tuple(map(min, chunks, shape)), most)

    def count_read(block: Any) -> int:
        return math.prod(map(min, np.add(block, np.multiply(halo, 2)), shape))

    assert all(1 <= n <= length for n, length in zip(size, shape, strict=True))
    assert count_read(size) <= max(most, count_read((1, 1, 1)))
    if chunks and count_read(np.minimum(chunks, shape)) <= most:
        for n, chunk, length in zip(size, chunks, shape, strict=True):
            assert n == length or n % chunk == 0
    # Not needlessly small, either: an axis more would not be possible eight times.
    if not any(halo) and size != shape:
        whole = chunks is None or count_read(np.minimum(chunks, shape)) <= most
        assert math.prod(size) * (16 if whole else 10**9) > most


def test_a_chunk_that_memory_holds_is_not_cut() -> None:
    assert plan_size((44, 2, 2), (0, 0, 0), (26, 1, 1), 28) == (26, 1, 1)


def test_a_volume_that_memory_holds_is_one_block() -> None:
    assert plan_size((5, 7, 11), (1, 1, 1), (2, 3, 4), 5 * 7 * 11) == (5, 7, 11)


def test_blocks_are_planned_for_all_channels_and_their_halo(tmp_path: Path) -> None:
    values = np.zeros((64, 256, 256), "uint8")
    em = save_zarr(tmp_path / "em.zarr", values, (8, 16, 32), fill_value=0)
    labels = save_zarr(tmp_path / "labels.zarr", values.astype("uint32"), (8, 16, 32))
    found = plan(
        tmp_path,
        channels={"em": em, "labels": labels},
        block_size="auto",
        halo=[3, 2, 1],
        max_mem_gb=1e-2,
    )
    assert all(n % c == 0 for n, c in zip(found.grid.size, (8, 16, 32), strict=True))
    # A byte and four; the function has as much for its own, three times.
    assert math.prod(found.grid.largest_read) * 5 * 4 <= 1e-2 * GIB
    assert len(found.grid) < 64


def test_the_size_of_blocks_is_that_asked_for(tmp_path: Path) -> None:
    found = plan(tmp_path, block_size=[4, 3, 2], halo={"x": 2, "y": 0, "z": 1})
    assert (found.grid.size, found.grid.halo) == ((2, 3, 4), (1, 0, 2))
    assert len(found.grid) == 3 * 3 * 3
    assert f"{len(found.grid)} blocks of 4 x 3 x 2 voxels, halo 2 x 0 x 1" in describe_costs(found)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = plan(tmp_path, ranges={"x": [1, 9]}, block_size=[4, 3, 2], halo=1)
    (tmp_path / "out").mkdir()
    found.write()
    again = Plan.read(found.paths.plan)
    assert list(again.grid) == list(found.grid)
    assert (again.stamp, again.config) == (found.stamp, found.config)


# ------------------------------------------------------------------------------------ ranges


def test_ranges_are_within_the_volume(tmp_path: Path) -> None:
    found = plan(tmp_path, ranges={"x": [3, 11], "z": [0, 2]})
    assert found.grid.extent == {"z": (0, 2), "y": (0, 7), "x": (3, 11)}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ([0, 12], "The range 0 to 12 along x was asked for, and em has 0 to 11, stop excluded;"),
        ([-1, 4], "The range -1 to 4 along x was asked for, and em has 0 to 11"),
        ([4, 4], "The range 4 to 4 along x was asked for"),
        ([5, 3], "give a start, and a greater stop, within that."),
        ([11, 12], "The range 11 to 12 along x was asked for"),
    ],
)
def test_ranges_outside_are_refused(pair: Any, message: str, tmp_path: Path) -> None:
    assert message in explain(tmp_path, ranges={"x": pair})


def test_ranges_of_a_volume_with_an_offset_are_of_its_own_voxels(tmp_path: Path) -> None:
    made = MAKERS["precomputed"](tmp_path, make_values(SHAPE), CHUNKS)
    found = plan(tmp_path, channels={"em": made}, ranges={"y": [-2, 1]}, block_size=[4, 4, 4])
    assert found.grid.extent == {"z": (3, 8), "y": (-2, 1), "x": (5, 16)}
    assert "em has -2 to 5" in explain(tmp_path, channels={"em": made}, ranges={"y": [0, 6]})


def test_channels_have_the_same_voxels_or_ranges_that_all_have(tmp_path: Path) -> None:
    channels = {"em": save(tmp_path, "em"), "labels": save(tmp_path, "labels", (5, 7, 9))}
    message = explain(tmp_path, channels=channels)
    assert "labels has x 0 to 9, y 0 to 7, z 0 to 5, and em has x 0 to 11" in message
    assert "give ranges along x, y, z that all of them have" in message
    # Along the axes where they differ, ranges are enough.
    assert plan(tmp_path, channels=channels, ranges={"x": [0, 9]}).grid.shape == (5, 7, 9)
    message = explain(tmp_path, channels=channels, ranges={"x": [0, 10]})
    assert "The range 0 to 10 along x was asked for, and labels has 0 to 9" in message
    assert "em has" not in message


def test_channels_that_count_from_another_voxel_are_told_so(tmp_path: Path) -> None:
    made = MAKERS["precomputed"](tmp_path, make_values(SHAPE), CHUNKS)
    message = explain(tmp_path, channels={"em": save(tmp_path, "other"), "moved": made})
    assert "there are as many, and they are counted from another one" in message
    assert "ranges" not in message


# --------------------------------------------------------------------------- what is refused


def test_all_that_is_wrong_with_sources_is_said_together(tmp_path: Path) -> None:
    lines = explain(
        tmp_path,
        function="json:work",
        channels={"em": "em.tif", "labels": "labels.zarr", "mask": save(tmp_path, "mask")},
    ).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("json has no function 'work'; it has dump")
    assert "em.tif is not there, and nothing tells what it is; expected NIfTI" in lines[1]
    assert "labels.zarr does not exist" in lines[2]


def test_a_kind_that_is_unknown_is_refused(tmp_path: Path) -> None:
    message = explain(tmp_path, channels={"em": {"path": "em", "kind": "tiff"}})
    assert "channels.em.kind: 'tiff' was given: " in message
    assert all(f"'{kind}'" in message for kind in ("nifti", "zarr", "hdf5", "tensorstore", "boss"))


def test_arguments_that_the_function_does_not_take_are_refused(tmp_path: Path) -> None:
    assert "arguments scale" in explain(tmp_path, arguments={"scale": 2})


def test_a_library_that_is_missing_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MAKERS["hdf5"](tmp_path, make_values(SHAPE), CHUNKS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = explain(tmp_path, channels={"em": made})
    assert message.endswith("needs h5py, which is not installed; install nipype_blm[hdf5].")


@pytest.mark.parametrize(
    ("kind", "out"),
    [
        *(("zarr3", "em.zarr"), ("zarr_within", "em.zarr/out"), ("ome_05", "em.ome.zarr/0/out")),
        *(("precomputed_address", "em/out"), ("n5_dataset", "em.n5/raw/out")),
    ],
)
def test_results_do_not_go_into_what_is_read(kind: str, out: str, tmp_path: Path) -> None:
    made = MAKERS[kind](tmp_path, make_values(SHAPE), CHUNKS)
    message = explain(tmp_path, channels={"em": made}, out=out)
    assert f"OUT is {tmp_path / out}, which is, or lies in, {tmp_path}" in message


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("zarr3", "../em.zarr", "which is, or lies in, "),
        ("nifti", "../em.nii", "which is, or lies in, "),
        ("zarr_within", "../em.zarr/mine.zarr", "which is, or lies in, "),
        ("ome_05", "../link.zarr", "which is, or lies in, "),
        ("hdf5_within", "../../{folder}.zarr", ""),
    ],
)
def test_outputs_do_not_go_into_what_is_read(
    kind: str, path: str, message: str, tmp_path: Path
) -> None:
    made = MAKERS[kind](tmp_path, make_values(SHAPE), CHUNKS)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "em.ome.zarr")
    fields = {"channels": {"em": made}, "outputs": {"mask": {"path": path}}}
    if message:
        found = explain(tmp_path, **fields)
        assert found.startswith("The output mask is ")
        assert message in found
    else:
        plan(tmp_path, **fields)


def test_an_output_is_not_put_where_a_source_lies_within(tmp_path: Path) -> None:
    (tmp_path / "all.zarr").mkdir()
    made = MAKERS["nifti"](tmp_path / "all.zarr", make_values(SHAPE), CHUNKS)
    message = explain(tmp_path, channels={"em": made}, outputs={"mask": "../all.zarr"})
    assert f"all.zarr, in which {made['path']} lies, which is read; give another" in message
    # OUT itself may have sources.
    assert plan(tmp_path, channels={"em": made}, out="all.zarr/..").grid.shape == SHAPE


def test_two_outputs_do_not_share_a_place(tmp_path: Path) -> None:
    outputs = {"mask": {}, "other": {"path": "./mask.zarr"}}
    assert "out/mask.zarr; give each a path of its own" in explain(tmp_path, outputs=outputs)


def test_a_source_in_the_folder_of_results_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    values = make_values(SHAPE)
    made = save_zarr(tmp_path / "out" / "result.zarr", values, CHUNKS)
    with pytest.raises(InputError, match=r"The output result is .*, which is, or lies in, .* give"):
        map_blocks(double, {"em": made}, tmp_path / "out")
    import zarr

    np.testing.assert_array_equal(zarr.open_array(made["path"], mode="r")[...], values)


def double(data: Any) -> Any:
    return data["em"] * 2


def test_an_output_does_not_go_into_another_one(tmp_path: Path) -> None:
    outputs = {"mask": {"path": "all.zarr"}, "other": {"path": "all.zarr/other.zarr"}}
    message = explain(tmp_path, outputs=outputs)
    out = tmp_path / "out"
    assert f"The output other is {out}/all.zarr/other.zarr, which lies in {out}/all.zarr" in message


@pytest.mark.parametrize("kind", ["zarr", "memmap", "hdf5", "nifti"])
def test_an_output_does_not_go_where_an_array_is_read_from(kind: str, tmp_path: Path) -> None:
    import h5py
    import nibabel as nib
    import zarr

    path, values = tmp_path / ("em.nii" if kind == "nifti" else "em.zarr"), make_values(SHAPE)
    if kind == "zarr":
        save_zarr(path, values, CHUNKS)
        array: Any = zarr.open_array(path, mode="r")
    elif kind == "memmap":
        array = np.memmap(path, "int16", "w+", shape=SHAPE)[1:]
    elif kind == "hdf5":
        array = h5py.File(path, "w").create_dataset("raw", data=values)
    else:
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
        array = nib.Nifti1Image.from_filename(path).dataobj
    fields = {"channels": {"em": "array"}, "arrays": {"em": array}}
    message = explain(tmp_path, **fields, outputs={"mask": f"../{path.name}"})
    assert f"The output mask is {path}, which is, or lies in, {path}, which is read" in message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        *(("rows.txt", "'rows.txt' was given; expected a name that ends in .tsv"),),
        *(("", "expected a name that ends in .tsv, .csv or .parquet"),),
        *(("./blocks.tsv", "is the table of the blocks"), ("skipped.tsv", "give another name")),
    ],
)
def test_a_table_has_a_name_of_its_own(table: str, message: str, tmp_path: Path) -> None:
    assert message in explain(tmp_path, table=table)


@pytest.mark.parametrize("value", [{1}, 1j, b"x", {1: 2}, [object()], np.array([1j])])
def test_arguments_that_other_processes_would_not_get_are_refused(
    value: Any, tmp_path: Path
) -> None:
    message = explain(tmp_path, arguments={"factor": value})
    assert message.startswith("arguments: ")
    assert "which other processes do not get as it is; expected numbers, text" in message


def test_numbers_of_numpy_may_be_given(tmp_path: Path) -> None:
    given = {"factor": [np.uint16(3), np.arange(2), (np.float64(0.5), {"a": np.bool_(True)})]}
    found = plan(tmp_path, arguments=given, channels={"em": save(tmp_path, "em")})
    (tmp_path / "out").mkdir()
    found.write()
    again = Plan.read(found.paths.plan).config.arguments
    assert found.config.arguments == {"factor": [3, [0, 1], (0.5, {"a": True})]}
    assert again == {"factor": [3, [0, 1], [0.5, {"a": True}]]}


def test_an_array_may_be_called_by_a_number(tmp_path: Path) -> None:
    made = MAKERS["ome_05"](tmp_path, make_values(SHAPE), CHUNKS)
    assert plan(tmp_path, channels={"em": made | {"dataset": 0}}).grid.shape == SHAPE


@pytest.mark.parametrize(
    "address", ["vol.py:make", "vol:make", "pack.vol:make", "./pack/../vol.py:make"]
)
def test_a_function_that_makes_a_volume_lies_beside_the_configuration(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder, n in ((here, 2), (elsewhere, 3)):
        (folder / "pack").mkdir(parents=True)
        text = f"import numpy as np\ndef make(z):\n    return np.zeros((z, {n}, {n}))\n"
        for path in ("vol.py", "pack/vol.py"):
            (folder / path).write_text(text)
        (folder / "pack/__init__.py").touch()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    for name in ("vol", "pack", "pack.vol"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    made = {"path": f"python:{address}", "options": {"z": np.int16(5)}}
    assert plan(here, channels={"em": made}).grid.shape == (5, 2, 2)
    for name in ("vol", "pack", "pack.vol"):
        sys.modules.pop(name, None)


# --------------------------------------------------------------------------------- notices


def save_placed(path: Path, unit: str, size: float, origin: float) -> Any:
    axes = [{"name": axis, "type": "space", "unit": unit} for axis in AXES]
    steps = [
        {"type": "scale", "scale": [size, 1, 1]},
        {"type": "translation", "translation": [0, origin, 0]},
    ]
    return save_ome(path, [make_values(SHAPE)], axes, steps=[steps])


@pytest.mark.parametrize(
    ("unit", "size", "origin", "reason"),
    [
        *(("micrometer", 4.0, 7.0, ""), ("micrometer", 4.000001, 7.0000001, "")),
        ("nanometer", 4.0, 7.0, "voxel size (1 x 1 x 4 nanometer, and 1 x 1 x 4 micrometer)"),
        ("micrometer", 4.1, 7.0, "voxel size (1 x 1 x 4.1 micrometer, and 1 x 1 x 4 micrometer)"),
        ("micrometer", 4.0, 6.0, "origin (0 x 6 x 0 micrometer, and 0 x 7 x 0 micrometer)"),
    ],
)
def test_channels_that_lie_elsewhere_are_noticed(
    unit: str, size: float, origin: float, reason: str, tmp_path: Path
) -> None:
    channels = {
        "em": save_placed(tmp_path / "em.zarr", "micrometer", 4.0, 7.0),
        "plain": save(tmp_path, "plain"),
        "labels": save_placed(tmp_path / "labels.zarr", unit, size, origin),
    }
    notices = plan(tmp_path, channels=channels).notices
    assert bool(notices) == bool(reason)
    assert all(each.startswith(f"labels and em differ in {reason}: ") for each in notices)


@pytest.mark.parametrize(("turned", "is_noticed"), [(False, False), (True, True)])
def test_images_of_other_affines_are_noticed(
    turned: bool, is_noticed: bool, tmp_path: Path
) -> None:
    import nibabel as nib

    affines = {"em": np.eye(4), "labels": np.diag([-1.0 if turned else 1.0, 1, 1, 1])}
    for name, affine in affines.items():
        nib.save(nib.Nifti1Image(make_values(SHAPE).T, affine), tmp_path / f"{name}.nii")
    channels = {name: str(tmp_path / f"{name}.nii") for name in affines}
    notices = plan(tmp_path, channels=channels).notices
    assert [each.partition(":")[0] for each in notices] == ["labels and em differ in affine"] * (
        is_noticed
    )


def test_what_may_not_be_meant_is_noticed(tmp_path: Path) -> None:
    empty = save_zarr(tmp_path / "em.zarr", np.zeros(SHAPE, "uint8"), CHUNKS)
    found = plan(tmp_path, channels={"em": empty}, block_size=[4, 3, 5], halo=[1, 3, 9])
    path = tmp_path / "em.zarr"
    assert found.notices == [
        f"em {path} has no chunk: all its voxels read as 0.",
        # Along z there is only one block, which has no halo.
        "The halo is as large as a block along y: most voxels are read several times.",
    ]


@pytest.mark.parametrize(
    ("name", "has_index", "remedy"),
    [
        *(("em.nii", False, None), ("em.nii.gz", True, None), ("em.nii.bz2", True, "unpack it")),
        ("em.nii.gz", False, "install indexed_gzip, or unpack it first"),
    ],
)
def test_images_that_are_packed_are_noticed_where_that_is_slow(
    name: str, has_index: bool, remedy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nibabel as nib

    pytest.importorskip("indexed_gzip")
    nib.save(nib.Nifti1Image(make_values(SHAPE).T, np.eye(4)), tmp_path / name)
    if not has_index:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    notices = plan(tmp_path, channels={"em": str(tmp_path / name)}).notices
    assert len(notices) == (remedy is not None)
    assert all(remedy in each for each in notices if remedy)


# ----------------------------------------------------------------------------------- stamps


def test_a_plan_is_another_one_if_its_volume_was_written_again(tmp_path: Path) -> None:
    made = MAKERS["hdf5_within"](tmp_path, make_values(SHAPE), CHUNKS)
    stamp = plan(tmp_path, channels={"em": made}).stamp
    assert plan(tmp_path, channels={"em": made}).stamp == stamp
    assert plan(tmp_path, channels={"em": made}, max_skipped=3).stamp == stamp
    assert plan(tmp_path, channels={"em": made}, halo=1).stamp != stamp
    MAKERS["hdf5_within"](tmp_path, make_values(SHAPE, seed=1), CHUNKS)
    assert plan(tmp_path, channels={"em": made}).stamp != stamp


def test_arrays_take_the_place_of_channels(tmp_path: Path) -> None:
    values = make_values((2, 3, 4))
    found = plan(tmp_path, channels={"em": "ndarray"}, arrays={"em": values})
    channel = found.open_channels()["em"]
    np.testing.assert_array_equal(channel.read((0, 1, 0), (2, 3, 4)), values[:, 1:])
    assert dict(zip(AXES, found.grid.shape, strict=True)) == {"z": 2, "y": 3, "x": 4}
