"""The function of a run: found by its name, called, and what it may return."""

import functools
import importlib
import inspect
import json
import json.encoder
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from blockmap.block_runs import VOLUME, read_rows, read_zarr
from numpy.typing import NDArray

from nipype_blm.blockmap import Block, compute_blocks, functions, map_blocks
from nipype_blm.blockmap.functions import (
    ReturnError,
    call,
    check_arguments,
    find_function,
    place_records,
    read_code,
    sort_returned,
)
from nipype_blm.errors import InputError

BLOCK = Block((2, 3, 4), (4, 6, 8), (1, 2, 3), (5, 7, 9))
ARRAY = np.arange(24.0).reshape(2, 3, 4)


@pytest.fixture(autouse=True)
def _imports() -> Iterator[None]:
    """What a test imports is forgotten."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


# --------------------------------------------------------------------------------- names


def write(folder: Path, name: str, text: str = "def act(data):\n    return 'mine'\n") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_functions_are_found_in_modules_and_in_files(tmp_path: Path) -> None:
    assert find_function("json:dumps") is json.dumps
    assert find_function("pathlib:Path.cwd") == Path.cwd
    write(tmp_path, "beside.py", "WHAT = 'mine'\n")
    write(tmp_path, "steps.py", "from beside import WHAT\ndef act(data):\n    return WHAT\n")
    for text in ("steps.py:act", f"{tmp_path / 'steps.py'}:act", "steps:act"):
        assert find_function(text, str(tmp_path))({}) == "mine"


@pytest.mark.parametrize("name", ["numpy", "json", "colorsys", "my-steps", "3d"])
def test_a_file_may_have_the_name_of_a_library_or_none_that_python_knows(
    tmp_path: Path, name: str
) -> None:
    path = write(tmp_path, f"{name}.py")
    before = sys.modules.get(name)
    assert find_function(f"{path}:act")({}) == "mine"
    assert sys.modules.get(name) is before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dumps", "expected module:function"),
        (":dumps", "expected module:function"),
        ("json:", "expected module:function"),
        ("json:dumps()", "expected module:function"),
        ("json:dump_all", "json has no function 'dump_all'; it has .*dumps"),
        ("json:__doc__", "json has no function"),
        ("absent_module:act", "cannot be imported: ModuleNotFoundError: .*absent_module"),
        ("absent.py:act", r"absent\.py of the function is not there"),
        ("fails.py:act", "fails.py:act cannot be imported: ZeroDivisionError"),
        ("exits.py:act", "exits.py:act cannot be imported: SystemExit: 3"),
        ("torn.py:act", "torn.py:act cannot be imported: SyntaxError"),
        ("empty.py:act", r"empty\.py has no function 'act'; it has none"),
    ],
)
def test_a_function_that_cannot_be_found_is_told_of(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path, "fails.py", "1 / 0\n")
    write(tmp_path, "exits.py", "import sys\nsys.exit(3)\n")
    write(tmp_path, "torn.py", "def act(\n")
    write(tmp_path, "empty.py", "")
    for _ in range(2):  # also if it was tried before
        with pytest.raises(InputError, match=reason):
            find_function(text, str(tmp_path))


def test_arguments_are_checked_before_anything_is_read() -> None:
    def act(data: Any, threshold: float, *, block: Block, size: int = 3) -> None: ...

    check_arguments(act, {"threshold": 1})
    check_arguments(act, {"threshold": 1, "size": 2})
    check_arguments(min, {})  # whose parameters Python cannot tell
    for wrong in ({}, {"threshold": 1, "sice": 2}):
        with pytest.raises(InputError, match=r"act\(data: Any, threshold: .* cannot be called"):
            check_arguments(act, wrong)


def test_a_function_gets_the_block_if_it_asks_and_a_dictionary_of_its_own() -> None:
    data = {"em": ARRAY}

    def act(given: dict[str, Any], block: Block, add: int) -> NDArray[Any]:
        assert block == BLOCK
        return given.pop("em") + add

    for function in (act, functools.partial(act, add=2)):
        arguments = {"add": 2} if function is act else {}
        found = call(function, data, BLOCK, arguments, [])
        assert np.array_equal(found.arrays["result"], ARRAY + 2)
    assert list(data) == ["em"]


def test_the_text_of_a_function_is_known_where_python_knows_it() -> None:
    assert "BLOCK.key" in read_code(lambda _: BLOCK.key)
    assert read_code(print) == ""


def test_a_function_whose_file_has_changed_is_the_new_one(tmp_path: Path) -> None:
    for text in ("steps.py:act", "mine:act"):
        path = write(tmp_path, f"{text.partition(':')[0].removesuffix('.py')}.py")
        old = find_function(text, str(tmp_path))
        assert find_function(text, str(tmp_path)) is old
        # Of the same size, within the same second.
        write(tmp_path, path.name, path.read_text().replace("mine", "ours"))
        new = find_function(text, str(tmp_path))
        assert (old({}), new({})) == ("mine", "ours")
        assert pickle.loads(pickle.dumps(new)) is new
        path.write_text("def act(")
        with pytest.raises(InputError, match="SyntaxError"):
            find_function(text, str(tmp_path))
        write(tmp_path, path.name)
        assert find_function(text, str(tmp_path))({}) == "mine"


def test_a_library_is_not_run_again() -> None:
    assert find_function("json.encoder:JSONEncoder") is json.JSONEncoder
    path = Path(json.encoder.__file__)
    found = path.stat()
    assert functions._is_installed(str(path))
    assert functions._is_installed(np.__file__)
    assert not functions._is_installed(__file__)
    assert path.stat() == found


@pytest.mark.parametrize("text", ["steps:act", "steps.py:act", "pack.steps:act"])
def test_each_folder_has_its_own_module_of_a_name(tmp_path: Path, text: str) -> None:
    for name in ("a", "b", "a"):
        folder = tmp_path / name
        (folder / "pack").mkdir(parents=True, exist_ok=True)
        write(folder / "pack", "__init__.py", "")
        for each in (folder, folder / "pack"):
            write(each, "steps.py", f"def act(data):\n    return {name!r}\n")
        assert find_function(text, str(folder))({}) == name


def test_a_file_does_not_take_the_place_of_a_library_that_comes_later(tmp_path: Path) -> None:
    library = tmp_path / "site-packages"
    library.mkdir()
    write(library, "rare_library.py")
    sys.path.append(str(library))
    path = write(tmp_path, "rare_library.py", "import beside\ndef act(data):\n    return 'own'\n")
    write(tmp_path, "beside.py")
    assert find_function(f"{path}:act")({}) == "own"
    found = importlib.import_module("rare_library")
    assert found.__file__ == str(library / "rare_library.py")
    assert find_function(f"{path}:act")({}) == "own"
    assert find_function("rare_library:act", str(tmp_path))({}) == "mine"


def test_a_first_argument_called_block_is_told_of() -> None:
    def act(block: Any) -> None: ...

    with pytest.raises(InputError, match="calls its first argument block; this gets the dict"):
        check_arguments(act, {})


def test_arguments_are_as_they_were_given_for_each_block() -> None:
    def act(data: Any, seen: list[int]) -> dict[str, int]:
        seen.append(1)
        return {"n": len(seen)}

    for _ in range(2):
        assert call(act, {}, BLOCK, {"seen": []}).records == [{"n": 1}]
    arguments: dict[str, Any] = {"seen": []}
    assert [call(act, {}, BLOCK, arguments).records[0]["n"] for _ in range(2)] == [1, 1]


class Scaled:
    """A callable object, as users write them."""

    def __init__(self, factor: int) -> None:
        self.factor, self.inner = factor, json.dumps

    def __call__(self, data: Any) -> Any:
        return data["em"] * self.factor

    def act(self, data: Any) -> Any:
        return self(data)


def enclose(n: Any) -> Any:
    return lambda data: data["em"] * n


@pytest.mark.parametrize(
    "make",
    [
        *(Scaled, enclose, lambda n: Scaled(n).act, lambda n: functools.partial(max, key=n)),
        *(lambda n: functools.partial(print, n), lambda n: enclose(enclose(n))),
    ],
)
def test_other_values_that_a_function_holds_make_another_text(make: Any) -> None:
    assert read_code(make(1)) == read_code(make(1)) != read_code(make(2))
    assert read_code(make({"a", "b"})) == read_code(make({"b", "a"}))


def test_what_a_function_calls_in_its_file_belongs_to_its_text(tmp_path: Path) -> None:
    text = "K = 1\ndef act(data):\n    return K\n"
    path = write(tmp_path, "steps.py", text)
    before = read_code(find_function(f"{path}:act"))
    write(tmp_path, "steps.py", text.replace("K = 1", "K = 2"))
    assert read_code(find_function(f"{path}:act")) != before
    # Of a library only its own lines.
    assert read_code(json.dumps).startswith(inspect.getsource(json.dumps))


# ----------------------------------------------------------------------------- what it returns

ROWS = [{"n": 1, "text": "a"}, {"n": 2, "text": None}]


@pytest.mark.parametrize(
    ("value", "names", "arrays", "records"),
    [
        (None, [], {}, None),
        ({}, [], {}, None),
        (ARRAY, [], {"result": ARRAY}, None),
        (ARRAY, ["named"], {"named": ARRAY}, None),
        ((ARRAY, ARRAY > 3), ["a", "b"], {"a": ARRAY, "b": ARRAY > 3}, None),
        ([ARRAY], ["a"], {"a": ARRAY}, None),
        ({"a": ARRAY, 2: ARRAY}, [], {"a": ARRAY, "2": ARRAY}, None),
        ([], [], {}, []),
        (ROWS, [], {}, ROWS),
        (ROWS[0], [], {}, ROWS[:1]),
        ({"n": np.uint64(2**64 - 1)}, [], {}, [{"n": 2**64 - 1}]),
        ({"n": np.array(3)}, [], {}, [{"n": 3}]),
        ({"is": np.bool_(True), "t": np.str_("x")}, [], {}, [{"is": True, "t": "x"}]),
        (pd.DataFrame(ROWS[:1]), [], {}, ROWS[:1]),
        (pd.DataFrame(), [], {}, []),
        (
            pd.DataFrame({"n": pd.array([2**62 + 1, None], "Int64")}),
            [],
            {},
            [{"n": 2**62 + 1}, {"n": None}],
        ),
        ({"a": ARRAY, "rows": ROWS}, [], {"a": ARRAY}, ROWS),
        ({"a": ARRAY, "rows": pd.DataFrame(ROWS[:1])}, [], {"a": ARRAY}, ROWS[:1]),
        ({"one": ROWS, "two": []}, [], {}, ROWS),
    ],
)
def test_arrays_and_records_may_be_returned(
    value: Any, names: list[str], arrays: dict[str, Any], records: list[dict[str, Any]] | None
) -> None:
    found = sort_returned(value, names)
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found.arrays[name], array)
    assert found.has_records == (records is not None)
    assert found.records == (records or [])
    json.dumps(found.records)


def test_tables_of_polars_may_be_returned() -> None:
    class Frame:  # polars is no dependency
        columns = ("n",)

        def to_dict(self, *, as_series: bool = True) -> None:
            raise AssertionError(as_series)

        def to_dicts(self) -> list[dict[str, Any]]:
            return [{"n": 1}]

    assert sort_returned(Frame()).records == [{"n": 1}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (3, "returned 3, of type int"),
        (np.float64(3), "of type float64"),
        (np.array(3), "of type ndarray"),
        ("text", "of type str"),
        ((ARRAY, ARRAY), "returned 2 arrays, and outputs has 0 names"),
        ((ARRAY, 3), "of type tuple"),
        ([1, 2], "of type list"),
        ({"a": ARRAY, "n": 3}, "with arrays and 'n'"),
        ({"n": [1, 2]}, r"whose n is \[1, 2\]"),
        ({"n": 1j}, "whose n is 1j"),
        ([{"n": ARRAY}], "whose n is array"),
        (pd.DataFrame({"t": [pd.Timestamp(0)]}), "whose t is Timestamp"),
    ],
)
def test_what_is_neither_is_told_of(value: Any, reason: str) -> None:
    with pytest.raises(ReturnError, match=reason):
        sort_returned(value)


# ---------------------------------------------------------------------------------- places


def test_places_are_those_of_the_whole_volume_and_the_halo_is_left_out() -> None:
    # Along each axis the halo is one voxel: 0 lies in it, 1 is the first voxel of the block.
    rows = [{"z": 1, "y": 1, "x": 1}, {"z": 0, "y": 1, "x": 1}, {"z": 2, "y": 3, "x": 4.49}]
    rows += [{"z": 2, "y": 3, "x": 4.5}, {"z": 0.5, "y": 2, "x": 2}, {"z": 0.49, "y": 2, "x": 2}]
    found = place_records([row | {"n": i} for i, row in enumerate(rows)], BLOCK)
    assert found == [
        {"block": "2_3_4", "z": 2, "y": 3, "x": 4, "n": 0},
        {"block": "2_3_4", "z": 3, "y": 5, "x": 7.49, "n": 2},
        {"block": "2_3_4", "z": 1.5, "y": 4, "x": 5, "n": 4},
    ]
    assert isinstance(found[0]["z"], int)


def test_records_without_a_place_have_the_corners_of_their_block() -> None:
    corners = {"z_start": 2, "z_stop": 4, "y_start": 3, "y_stop": 6, "x_start": 4, "x_stop": 8}
    for row in ({"n": 1}, {"n": 1, "z": None}, {"z": "text"}, {"x": float("nan")}, {"z": True}):
        (found,) = place_records([row], BLOCK)
        assert found.items() >= (corners | {"block": "2_3_4"}).items()
        assert found.keys() == corners.keys() | {"block"} | row.keys()


def test_nothing_is_left_out_where_there_is_no_halo() -> None:
    # At the end of a volume, and everywhere without a halo, nobody else has it.
    rows = [{"z": z, "y": 0, "x": 0} for z in (-0.7, 0, 1.6, 2)]
    alone = Block((2, 3, 4), (4, 6, 8), (2, 3, 4), (4, 6, 8))
    assert len(place_records(rows, alone)) == 4
    last = Block((2, 3, 4), (4, 6, 8), (1, 3, 4), (4, 6, 8))
    assert [row["z"] for row in place_records(rows, last)] == [2.6, 3]


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("halo", [0, 1, 3])
def test_each_point_is_a_row_once(tmp_path: Path, halo: int, n_threads: int) -> None:
    rng = np.random.default_rng(7)
    # On faces, edges and corners of blocks, in voxels and between them.
    points = rng.integers(0, 4 * np.array(VOLUME.shape) - 3, (200, 3)) / 4
    points = np.unique(np.vstack([points, [[0, 0, 0], [2, 3, 4], [1.5, 2.5, 3.5]]]), axis=0)

    def find(data: dict[str, Any], block: Block) -> list[dict[str, float]]:
        """Find the points in all voxels that are given."""
        low, high = np.array(block.read_start) - 0.5, np.array(block.read_stop) - 0.5
        inside = points[((points >= low) & (points < high)).all(axis=1)] - block.read_start
        return [dict(zip("zyx", point, strict=True)) for point in inside]

    result = map_blocks(
        find,
        {"em": VOLUME},
        tmp_path,
        block_size=(4, 3, 2),
        halo=halo,
        n_threads=n_threads,
    )
    assert result.table
    rows = read_rows(result.table)
    found = np.array([[float(row[axis]) for axis in "zyx"] for row in rows])
    assert np.array_equal(np.unique(found, axis=0), points)
    assert len(found) == len(points)
    # Each in the block that has its voxel, in the order of blocks.
    grid = {block.key: block for block in compute_blocks(VOLUME, (4, 3, 2))}
    for row, place in zip(rows, found, strict=True):
        block = grid[row["block"]]
        assert (np.array(block.start) - 0.5 <= place).all()
        assert (place < np.array(block.stop) - 0.5).all()
    order = list(grid)
    assert [row["block"] for row in rows] == sorted((row["block"] for row in rows), key=order.index)


def test_a_function_of_a_library_runs_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "steps.py", "def double(data, times=2):\n    return data['em'] * times\n")
    result = map_blocks(
        f"{tmp_path / 'steps.py'}:double",
        {"em": VOLUME // 4},
        tmp_path / "out",
        arguments={"times": 3},
        block_size=(4, 3, 2),
    )
    assert np.array_equal(read_zarr(result.outputs["result"]), VOLUME // 4 * 3)
