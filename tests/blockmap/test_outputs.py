"""What blocks return is put together as on the whole volume, and stored as its format says."""

import warnings
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import ome_zarr_models
import pytest
import zarr
from blockmap.block_runs import KEYS, SHAPE, SIZE, VOLUME, Calls, read_zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nipype_blm.blockmap import Block, map_blocks
from nipype_blm.errors import InputError

EM = {"em": VOLUME}


def run(folder: Path, function: Any, **options: Any) -> Any:
    return map_blocks(function, EM, folder, **{"block_size": SIZE} | options)


# -------------------------------------------------------------------------------- overlaps


def cut_axis(start: int, stop: int, size: int, halo: int) -> list[tuple[int, int, int, int]]:
    """Return start and stop of blocks along an axis, without the halo and with it."""
    owners = [voxel // size for voxel in range(start, stop)]
    pieces = []
    for owner in sorted(set(owners)):
        voxels = [start + i for i, each in enumerate(owners) if each == owner]
        first, last = voxels[0], voxels[-1] + 1
        pieces.append((first, last, max(start, first - halo), min(stop, last + halo)))
    return pieces


def compute_values(volume: NDArray[Any], start: tuple[int, ...]) -> NDArray[Any]:
    """Return values that depend on the block, some of them NaN where the type has it."""
    values = volume + np.asarray(sum(start) % 7, volume.dtype)
    if volume.dtype.kind == "f":
        values[(volume % 5) == sum(start) % 5] = np.nan
    return values


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    shape = tuple(draw(st.integers(1, 9)) for _ in range(3))
    ranges = []
    for n in shape:
        start = draw(st.integers(0, n - 1))
        ranges.append((start, draw(st.integers(start + 1, n))))
    merge = draw(st.sampled_from(["crop", "max", "sum", "mean"]))
    chunks = None
    if merge != "crop":
        chunks = draw(st.none() | st.tuples(*[st.integers(1, 9)] * 3))
    return {
        "shape": shape,
        "ranges": ranges,
        "size": tuple(draw(st.integers(1, 6)) for _ in range(3)),
        "halo": tuple(draw(st.integers(0, 4)) for _ in range(3)),
        "merge": merge,
        "chunks": chunks,
        "dtype": draw(st.sampled_from(["uint8", "int16", "float32"])),
        "n_threads": draw(st.integers(1, 2)),
        "skipped": draw(st.integers(2, 9)),
        "fill": draw(st.integers(0, 3)),
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layouts())
def test_overlaps_are_put_together_as_on_the_whole_volume(
    tmp_path_factory: pytest.TempPathFactory, layout: dict[str, Any]
) -> None:
    shape, merge = layout["shape"], layout["merge"]
    volume = np.random.default_rng(3).integers(0, 50, shape).astype(layout["dtype"])
    blocks = list(
        product(
            *(
                cut_axis(*pair, size, halo)
                for pair, size, halo in zip(
                    layout["ranges"], layout["size"], layout["halo"], strict=True
                )
            )
        )
    )
    # All values at each voxel, one below the other; blocks that have none there have nothing.
    found: list[NDArray[Any]] = []
    skipped = set()
    for number, axes in enumerate(blocks):
        start = tuple(axis[0] for axis in axes)
        if number % layout["skipped"] == 1:
            skipped.add(start)
            continue
        layer = np.full(shape, None, object)
        read = tuple(slice(axis[2], axis[3]) for axis in axes)
        core = tuple(slice(axis[0], axis[1]) for axis in axes)
        # Every third one returns its own voxels only.
        keeps_halo = merge != "crop" and sum(start) % 3 > 0
        where = read if keeps_halo else core
        layer[where] = compute_values(volume[where], start).astype(object)
        found.append(layer)
    expected = _combine(found, merge, layout["fill"], shape)
    inside = tuple(slice(*pair) for pair in layout["ranges"])

    def act(data: dict[str, NDArray[Any]], block: Block) -> NDArray[Any]:
        if block.start in skipped:
            raise ValueError("skipped")
        values = compute_values(data["em"], block.start)
        return values if sum(block.start) % 3 else values[block.core]

    output = {"merge": merge, "fill": layout["fill"]}
    if layout["chunks"]:
        output["chunks"] = layout["chunks"]
    result = map_blocks(
        act,
        {"em": volume},
        tmp_path_factory.mktemp("out"),
        block_size=layout["size"][::-1],
        halo=layout["halo"][::-1],
        ranges=dict(zip("zyx", layout["ranges"], strict=True)),
        outputs={"out": output},
        n_threads=layout["n_threads"],
    )
    assert len(result.keys) == len(blocks) - len(skipped)
    merged = read_zarr(result.outputs["out"])
    assert merged.shape == expected[inside].shape
    np.testing.assert_allclose(merged.astype(float), expected[inside], rtol=1e-6)


def _combine(
    layers: list[NDArray[Any]], merge: str, fill: int, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    expected = np.full(shape, float(fill))
    for voxel in np.ndindex(*shape):
        values = [float(layer[voxel]) for layer in layers if layer[voxel] is not None]
        if not values:
            continue
        if merge == "max":
            numbers = [value for value in values if value == value]
            expected[voxel] = max(numbers) if numbers else np.nan
        elif merge == "crop":
            (expected[voxel],) = values
        else:
            expected[voxel] = sum(values) / (len(values) if merge == "mean" else 1)
    return expected


@pytest.mark.parametrize(
    ("merge", "dtype", "expected"),
    [
        ("sum", "uint8", "uint64"),
        ("sum", "int8", "int64"),
        ("sum", "bool", "uint64"),
        ("sum", "float32", "float32"),
        ("mean", "uint8", "float64"),
        ("mean", "float32", "float32"),
        ("max", "uint8", "uint8"),
        ("crop", "bool", "bool"),
    ],
)
def test_sums_and_means_have_room(tmp_path: Path, merge: str, dtype: str, expected: str) -> None:
    function = Calls(lambda data, _: np.full(data.shape, 100).astype(dtype))
    result = run(tmp_path, function, halo=2, outputs={"out": {"merge": merge}})
    found = read_zarr(result.outputs["out"])
    assert found.dtype == expected
    if merge == "sum" and dtype == "uint8":
        assert found.max() == 1800  # of 2, 3 and 3 blocks
    if merge == "mean":
        assert np.all(found == 100)


def test_a_sum_that_its_type_cannot_hold_is_told_of(tmp_path: Path) -> None:
    function = Calls(lambda data, _: np.full(data.shape, 100, np.uint8))
    outputs = {"out": {"merge": "sum", "dtype": "uint8"}}
    with pytest.raises(InputError, match=r"out has the value \d+, which uint8 cannot hold"):
        run(tmp_path, function, halo=2, outputs=outputs)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint64", [2**63, 2**63]),
        ("int64", [2**62, 2**62]),
        ("int64", [-(2**62) - 1, -(2**62)]),
    ],
)
def test_a_sum_that_no_whole_number_can_hold_does_not_wrap(
    tmp_path: Path, dtype: str, values: list[int]
) -> None:
    def act(data: dict[str, NDArray[Any]], block: Block) -> NDArray[Any]:
        return np.full(data["em"].shape, values[block.start[2] // 2], dtype)

    volume = {"em": np.zeros((1, 1, 4), np.uint8)}
    options: dict[str, Any] = {"block_size": (2, 1, 1), "halo": (1, 0, 0)}
    with pytest.raises(InputError, match=f"out has sums that {dtype} cannot hold"):
        map_blocks(act, volume, tmp_path, outputs={"out": {"merge": "sum"}}, **options)
    values[:] = [values[0], values[0] // -2]
    if dtype == "int64":  # numbers of both signs add up to less
        out = {"merge": "sum"}
        result = map_blocks(act, volume, tmp_path / "less", outputs={"out": out}, **options)
        expected = [values[0], sum(values), sum(values), values[1]]
        assert read_zarr(result.outputs["out"]).ravel().tolist() == expected


def test_values_of_a_block_that_are_gone_are_missed(tmp_path: Path) -> None:
    def act(data: NDArray[Any], block: Block) -> NDArray[Any]:
        if block.key == KEYS[-1]:
            raise ValueError
        return data

    options: dict[str, Any] = {"halo": 1, "outputs": {"out": {"merge": "max"}}}
    run(tmp_path, Calls(act), **options)
    (tmp_path / "work" / "parts" / "out" / f"{KEYS[4]}.npy").unlink()
    with pytest.raises(InputError, match=f"block {KEYS[4]}, which is done, is gone; .*overwrite"):
        run(tmp_path, Calls(), **options)
    result = run(tmp_path, Calls(), **options, overwrite=True)
    assert np.array_equal(read_zarr(result.outputs["out"]), VOLUME)


# ---------------------------------------------------------------- blocks that return nothing


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("merge", ["crop", "max"])
@pytest.mark.parametrize("dtype", [None, "uint16"])
@pytest.mark.parametrize("empty", [KEYS[1:3], [KEYS[0], KEYS[len(KEYS) // 2], KEYS[5]]])
def test_blocks_without_a_result_are_done_and_keep_the_fill(
    tmp_path: Path, empty: list[str], dtype: str | None, merge: str, n_threads: int
) -> None:
    def act(data: NDArray[Any], block: Block) -> Any:
        return None if block.key in empty else {"out": data, "rows": [{"n": 1}]}

    outputs = {"out": {"merge": merge, "fill": 9, "dtype": dtype}}
    calls = Calls(act)
    result = run(tmp_path, calls, outputs=outputs, n_threads=n_threads)
    assert (result.keys, result.skipped) == (KEYS, [])
    assert max(calls.counts.values()) == 1
    expected = VOLUME.copy()
    for key in empty:
        z, y, x = map(int, key.split("_"))
        expected[z : z + 2, y : y + 3, x : x + 4] = 9
    assert np.array_equal(read_zarr(result.outputs["out"]), expected)


@pytest.mark.parametrize("merge", ["crop", "max"])
def test_the_fill_replaces_what_a_run_that_was_killed_has_left(tmp_path: Path, merge: str) -> None:
    calls = Calls(lambda data, block: None if block.key == KEYS[-1] else data)
    outputs = {"out": {"merge": merge, "fill": 9}}

    def fail(data: NDArray[Any], block: Block) -> NDArray[Any]:
        if block.key == KEYS[-1]:
            raise ValueError
        return data

    run(tmp_path, Calls(fail), outputs=outputs)  # so that the values of blocks stay
    for path in sorted((tmp_path / "journal").iterdir()):  # a kill between writing and noting
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(x for x in lines if KEYS[4] not in x or "done" not in x))
    calls.act = lambda data, block: None if block.key == KEYS[4] else data
    result = run(tmp_path, calls, outputs=outputs)
    assert sorted(calls.keys) == sorted([KEYS[4], KEYS[-1]])
    expected = VOLUME.copy()
    expected[:2, 3:6, 4:8] = 9
    assert np.array_equal(read_zarr(result.outputs["out"]), expected)


def test_a_run_that_is_killed_before_anything_is_learned_runs_again(tmp_path: Path) -> None:
    def act(data: NDArray[Any], block: Block) -> Any:
        if block.key == KEYS[0]:
            return None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Calls(act))
    result = run(tmp_path, Calls())
    assert result.keys == KEYS
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)


def test_outputs_that_no_block_returns_are_told_of(tmp_path: Path) -> None:
    calls = Calls(lambda *_: None)
    with pytest.raises(InputError, match="outputs names copy, and the function returned no array"):
        run(tmp_path, calls, outputs={"copy": {}})
    assert len(calls.keys) == 3


# -------------------------------------------------------------------- the values of a block


@pytest.mark.parametrize("dtype", ["longdouble", "object", "complex64", "U3"])
def test_a_type_that_no_format_has_is_told_of_with_its_block(tmp_path: Path, dtype: str) -> None:
    name = str(np.dtype(dtype))
    with pytest.raises(InputError, match=f"^Block {KEYS[0]}: result is an array of {name}; ex"):
        run(tmp_path, Calls(lambda data, _: data.astype(dtype)))


@pytest.mark.parametrize(("dtype", "fill"), [("float32", 1e39), ("float16", -1e6)])
def test_a_fill_that_would_be_infinite_is_refused(tmp_path: Path, dtype: str, fill: float) -> None:
    with pytest.raises(InputError, match="cannot hold its fill"):
        run(tmp_path, Calls(), outputs={"out": {"dtype": dtype, "fill": fill}})
    outputs = {"out": {"dtype": dtype, "fill": -np.inf}}
    assert run(tmp_path, Calls(lambda *_: None), outputs=outputs).keys == KEYS


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [
        ("uint8", np.array(300), "300, which uint8"),
        ("uint8", np.array(-1), "-1, which uint8"),
        ("uint8", np.array(np.nan), "nan, which uint8"),
        ("uint8", np.array(0.5), "0.5, which uint8"),
        ("int64", np.array(2.0**63), "which int64"),
        ("int64", np.array(2**63, np.uint64), "which int64"),
        ("uint64", np.array(-1, np.int8), "which uint64"),
        ("float64", np.array(2**53 + 1), f"{2**53 + 1}, which float64"),
        ("float32", np.array(2**24 + 1, np.int32), "which float32"),
        ("float16", np.array(1e5), "which float16"),
        ("float32", np.array(1e300), "which float32"),
        ("bool", np.array(2), "2, which bool"),
        ("uint8", np.array(1j), "complex128"),
        ("uint8", np.array("text"), "expected whole or real numbers"),
        ("uint8", np.array({}), "array of object"),
    ],
)
def test_a_block_whose_values_an_output_cannot_hold_is_skipped(
    tmp_path: Path, dtype: str, value: NDArray[Any], reason: str
) -> None:
    def act(data: NDArray[Any], block: Block) -> NDArray[Any]:
        values = np.zeros(data.shape, value.dtype)
        if block.key == KEYS[4]:
            values[0, 0, 1] = value
        return values if block.key == KEYS[4] else np.ones(data.shape, np.uint8)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(tmp_path, Calls(act), outputs={"out": {"dtype": dtype}})
    assert [each.key for each in result.skipped] == [KEYS[4]]
    assert reason in result.skipped[0].error
    found = read_zarr(result.outputs["out"])
    assert found.dtype == dtype
    assert found.sum() == VOLUME.size - 2 * 3 * 4


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", [0.1, np.nan, np.inf, -np.inf]),
        ("float64", [2.0**53, -1, 0, np.nan]),
        ("uint8", [0, 255, 1.0, 2.0]),
        ("bool", [0, 1, True, False]),
        ("float16", [65504.0, 1e-9, 0, -1]),
    ],
)
def test_values_that_fit_are_converted(tmp_path: Path, dtype: str, values: list[float]) -> None:
    given = np.resize(np.array(values, np.float64), SHAPE)
    function = Calls(lambda _, block: given[tuple(map(slice, block.start, block.stop))])
    result = run(tmp_path, function, outputs={"out": {"dtype": dtype}})
    assert result.skipped == []
    expected = given.astype(dtype)
    assert np.array_equal(read_zarr(result.outputs["out"]), expected, equal_nan=dtype[0] == "f")


def test_a_block_of_another_shape_is_skipped(tmp_path: Path) -> None:
    shapes = {
        KEYS[1]: lambda data: data[:1, :1, :1],
        KEYS[2]: lambda data: data[0],
        KEYS[3]: lambda data: data.T,
        KEYS[4]: lambda data: data[..., None],
        KEYS[5]: lambda data: data[:0],
        KEYS[6]: lambda data: data[:, 1:],  # neither with the halo nor without
    }
    function = Calls(lambda data, block: shapes.get(block.key, np.array)(data))
    result = run(tmp_path, function, halo=1)
    assert [each.key for each in result.skipped] == sorted(shapes, key=KEYS.index)
    assert all("has the shape" in each.error for each in result.skipped)


def test_other_arrays_than_those_of_the_first_block_are_skipped(tmp_path: Path) -> None:
    odd: dict[str, Any] = {KEYS[2]: {"b": VOLUME}, KEYS[3]: [], KEYS[4]: {"n": 1}}
    function = Calls(lambda data, block: odd.get(block.key, {"a": data}))
    result = run(tmp_path, function)
    assert [each.key for each in result.skipped] == list(odd)
    assert "returned b; expected a" in result.skipped[0].error
    assert list(result.outputs) == ["a"]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_views_and_orders_of_bytes_do_not_matter(tmp_path: Path, n_threads: int) -> None:
    buffer = np.zeros((4, 5, 6), np.uint16)  # that all blocks use

    def act(data: NDArray[Any], block: Block) -> dict[str, NDArray[Any]]:
        assert data.flags.writeable
        assert data.dtype.isnative
        swapped = np.asfortranarray(data).astype(">u2")
        flipped = np.ascontiguousarray(data[::-1, ::-1])[::-1, ::-1]
        outputs = {"swapped": swapped, "flipped": flipped}
        if n_threads == 1:
            view = buffer[tuple(map(slice, data.shape))]
            view[...] = data
            outputs["view"] = view
        data += 1  # is nobody else's
        return outputs

    before = VOLUME.copy()
    result = run(tmp_path, Calls(act), halo=1, n_threads=n_threads)
    assert np.array_equal(VOLUME, before)
    assert result.skipped == []
    for path in result.outputs.values():
        assert np.array_equal(read_zarr(path), before)


@pytest.mark.parametrize("name", ["", "a/b", "..", "../out"])
def test_what_is_returned_needs_a_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no name that a file can have"):
        run(tmp_path, Calls(lambda data, _: {name: data}))


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"out": {"fill": 0.5}}, "uint16, which cannot hold its fill 0.5"),
        ({"out": {"fill": -1}}, "cannot hold its fill -1"),
        ({"out": {"fill": 70000}}, "cannot hold its fill 70000"),
        ({"out": {"fill": float("nan"), "dtype": "int8"}}, "int8, which cannot hold its fill nan"),
        ({"out": {"path": "out.tif"}}, "expected a path that ends in"),
        ({"out": {"path": "out.nii", "dtype": "bool"}}, "NIfTI does not have; give dtype uint8"),
        ({"out": {"dtype": "uint8", "merge": "mean"}}, "is a mean"),
        ({"out": {"chunks": (3, 3, 2)}}, "chunks of 3 along x, and blocks of 4"),
        ({"a": {}, "b": {}}, "outputs names a, b, and the function returned a"),
    ],
)
def test_outputs_that_cannot_be_are_refused(
    tmp_path: Path, outputs: dict[str, Any], reason: str
) -> None:
    function = Calls()
    with pytest.raises(InputError, match=reason):
        run(tmp_path, function, outputs=outputs)
    assert len(function.keys) <= 1  # the one that tells the type


@pytest.mark.parametrize(("dtype", "fill"), [("float32", np.nan), ("int16", -5), ("uint8", 255)])
def test_the_fill_is_what_skipped_blocks_have(tmp_path: Path, dtype: str, fill: float) -> None:
    def act(data: NDArray[Any], block: Block) -> NDArray[Any]:
        if block.key == KEYS[1]:
            raise ValueError
        return np.zeros(data.shape, dtype)

    outputs = {"zarr": {"fill": fill}, "nifti": {"fill": fill, "path": "n.nii", "merge": "max"}}
    both = Calls(lambda data, block: dict.fromkeys(outputs, act(data, block)))
    result = run(tmp_path, both, outputs=outputs)
    expected = np.zeros(SHAPE, dtype)
    expected[:2, :3, 4:8] = fill
    found = read_zarr(result.outputs["zarr"])
    assert found.dtype == dtype
    assert np.array_equal(found, expected, equal_nan=dtype == "float32")
    nifti = np.asarray(nib.load(result.outputs["nifti"]).dataobj).T
    assert np.array_equal(nifti, expected, equal_nan=dtype == "float32")


# ----------------------------------------------------------------------------------- Zarr


@pytest.mark.parametrize("chunks", [None, (4, 3, 2), (2, 3, 1)])
def test_chunks_lie_in_blocks(tmp_path: Path, chunks: tuple[int, int, int] | None) -> None:
    outputs = {"out": {} if chunks is None else {"chunks": chunks}}
    result = run(tmp_path, Calls(), outputs=outputs, n_threads=2)
    array = zarr.open_array(result.outputs["out"], path="0")
    assert array.chunks == (chunks or SIZE)[::-1]
    assert np.array_equal(array[:], VOLUME)


def test_ranges_that_begin_within_a_block_are_put_together_without_loss(tmp_path: Path) -> None:
    ranges = {"x": (1, 11), "y": (2, 7), "z": (1, 5)}
    result = run(tmp_path, Calls(), ranges=ranges, n_threads=2, halo=1)
    assert result.keys[0] == "1_2_1"
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME[1:, 2:, 1:])


def test_zeros_overwrite_what_a_run_that_was_killed_has_left(tmp_path: Path) -> None:
    result = run(tmp_path, Calls())
    journals = sorted((tmp_path / "journal").iterdir())
    for path in journals:  # a kill between writing and noting
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(x for x in lines if KEYS[4] not in x or "done" not in x))
    chunks = Path(result.outputs["result"], "0", "c")
    chunk = chunks / "0" / "1" / "1"
    assert chunk.is_file()
    chunk.with_name("1.abc.partial").write_bytes(b"torn")
    calls = Calls(lambda data, _: data * 0)
    result = run(tmp_path, calls)
    assert calls.keys == [KEYS[4]]
    expected = VOLUME.copy()
    expected[:2, 3:6, 4:8] = 0
    assert np.array_equal(read_zarr(result.outputs["result"]), expected)
    assert list(chunks.rglob("*.partial")) == []


@pytest.mark.parametrize("damage", [b"", b"half a chunk"])
def test_a_torn_chunk_is_written_anew_and_not_read(tmp_path: Path, damage: bytes) -> None:
    result = run(tmp_path, Calls())
    for path in sorted((tmp_path / "journal").iterdir()):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(x for x in lines if KEYS[4] not in x or "done" not in x))
    Path(result.outputs["result"], "0", "c", "0", "1", "1").write_bytes(damage)
    result = run(tmp_path, Calls())
    assert result.skipped == []
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME)


def test_zeros_that_no_zarr_stores_are_done(tmp_path: Path) -> None:
    calls = Calls(lambda data, _: data * 0)
    result = run(tmp_path, calls)
    assert run(tmp_path, calls) == result
    assert len(calls.keys) == len(KEYS)
    assert not read_zarr(result.outputs["result"]).any()


def test_a_zarr_has_the_coordinates_of_the_volume(tmp_path: Path) -> None:
    source = zarr.create_group(tmp_path / "source.zarr", zarr_format=3)
    source.create_array("0", data=VOLUME[None], chunks=(1, 2, 3, 4))
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 40, 4, 8]}]}
    image = {"name": "em", "axes": axes, "datasets": [level]}
    source.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    result = map_blocks(
        Calls(),
        {"em": str(tmp_path / "source.zarr")},
        tmp_path / "out",
        block_size=SIZE,
        ranges={"x": (3, 11), "z": (2, 5)},
    )
    found = ome_zarr_models.open_ome_zarr(zarr.open_group(result.outputs["result"], mode="r"))
    assert type(found).__module__.startswith("ome_zarr_models.v05")
    (multiscale,) = found.ome_attributes.multiscales
    assert [(axis.name, axis.type, axis.unit) for axis in multiscale.axes] == [
        (name, "space", "nanometer") for name in "zyx"
    ]
    scale, translation = multiscale.datasets[0].coordinateTransformations
    assert scale.scale == [40, 4, 8]
    assert translation.translation == [80, 0, 24]
    array = zarr.open_array(result.outputs["result"], path="0")
    assert array.metadata.dimension_names == ("z", "y", "x")
    assert np.array_equal(array[:], VOLUME[2:, :, 3:])


def test_a_zarr_of_an_array_has_voxels_as_unit(tmp_path: Path) -> None:
    result = run(tmp_path, Calls())
    found = ome_zarr_models.open_ome_zarr(zarr.open_group(result.outputs["result"], mode="r"))
    (multiscale,) = found.ome_attributes.multiscales
    assert [axis.unit for axis in multiscale.axes] == [None] * 3
    (scale,) = multiscale.datasets[0].coordinateTransformations
    assert scale.scale == [1, 1, 1]


# ---------------------------------------------------------------------------------- NIfTI

AFFINE = np.array([[-2, 0, 0.1, 90], [0, 2.5, 0, -126], [0.2, 0, 3, -72], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_lies_where_the_volume_does(tmp_path: Path, ending: str) -> None:
    image = nib.Nifti1Image(VOLUME.T.astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "em.nii.gz")
    seen = []

    def act(data: dict[str, NDArray[Any]]) -> NDArray[Any]:
        seen.append(data["em"].dtype)
        return data["em"].astype(np.float32)

    result = map_blocks(
        act,
        {"em": tmp_path / "em.nii.gz"},
        tmp_path / "out",
        block_size=SIZE,
        ranges={"x": (3, 11), "y": (1, 6)},
        outputs={"copy": {"path": f"copy{ending}"}},
        n_threads=2,
    )
    found: Any = nib.load(result.outputs["copy"])
    assert set(seen) == {np.dtype(np.float64)}  # scaled, whatever the file holds
    assert isinstance(found, nib.Nifti1Image)
    assert found.get_data_dtype() == np.float32
    with nib.openers.ImageOpener(result.outputs["copy"]) as file:
        header = nib.Nifti1Header.from_fileobj(file)
    assert (float(header["scl_slope"]), float(header["scl_inter"])) == (1, 0)
    whole: Any = nib.load(tmp_path / "em.nii.gz")
    assert np.array_equal(found.get_fdata(), whole.get_fdata()[3:, 1:6].astype(np.float32))
    for voxel in ((0, 0, 0), (2, 3, 4)):
        in_whole = np.add(voxel, (3, 1, 0))
        assert np.allclose(found.affine @ [*voxel, 1], AFFINE @ [*in_whole, 1])
    assert found.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bool", "uint8"),
        ("float16", "float32"),
        ("int64", "int32"),
        ("uint64", "int32"),
        ("uint32", "uint32"),
        (">f8", "float64"),
    ],
)
def test_types_that_programs_cannot_read_become_others(
    tmp_path: Path, dtype: str, expected: str
) -> None:
    function = Calls(lambda data, _: (data % 2).astype(dtype))
    result = run(tmp_path, function, outputs={"out": "out.nii"})
    found: Any = nib.load(result.outputs["out"])
    assert found.get_data_dtype() == expected
    assert np.array_equal(np.asarray(found.dataobj).T, VOLUME % 2)
    assert np.allclose(found.affine, np.eye(4))


def test_a_label_that_the_nifti_cannot_hold_is_told_of(tmp_path: Path) -> None:
    def act(data: NDArray[Any], block: Block) -> NDArray[Any]:
        return np.full(data.shape, 2**31 if block.key == KEYS[4] else 1, np.int64)

    result = run(tmp_path, Calls(act), outputs={"out": "out.nii"})
    assert [each.error for each in result.skipped] == [
        "ReturnError: out has the value 2147483648, which int32 cannot hold; give outputs: "
        "{out: {dtype: ...}}"
    ]
    outputs = {"out": {"path": "out.nii", "dtype": "int64"}}
    result = run(tmp_path, Calls(act), outputs=outputs, overwrite=True)
    assert np.asarray(nib.load(result.outputs["out"]).dataobj).max() == 2**31


def test_an_axis_that_is_too_long_for_nifti_1_has_nifti_2(tmp_path: Path) -> None:
    volume = np.arange(40_000, dtype=np.float32)[None, None]
    result = map_blocks(
        Calls(),
        {"em": volume},
        tmp_path,
        block_size=(16_000, 1, 1),
        outputs={"out": "long.nii.gz"},
    )
    found: Any = nib.load(result.outputs["out"])
    assert isinstance(found, nib.Nifti2Image)
    assert np.array_equal(np.asarray(found.dataobj).T, volume)
