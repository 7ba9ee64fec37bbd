"""The function that is called on every block: found by its name, called, and what it returned."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES, Block
from nipype_blm.errors import InputError, join_some, show

Function = Callable[..., Any]
Record = dict[str, Any]
# The name of a result that has none.
RESULT = "result"


class Returned(NamedTuple):
    """What a function has returned for a block."""

    arrays: Mapping[str, NDArray[Any]]  # by name
    records: Sequence[Record]
    has_records: bool  # also where there are none


class ReturnError(ValueError):
    """A function has returned what cannot be used."""


@lru_cache(maxsize=8)
def find_function(text: str, folder: str = "") -> Function:
    """Return the function of ``module:function`` or ``file.py:function``.

    Parameters
    ----------
    text : str
    folder : str
        Where files and modules are looked for first.

    Raises
    ------
    InputError
        If it is not there, or its module cannot be imported.
    """
    where, has_name, name = text.rpartition(":")
    if not (has_name and where and name.replace(".", "_").isidentifier()):
        raise InputError(
            f"The function {show(text)} was given; expected module:function, such as "
            "scipy.ndimage:label, or file.py:function."
        )
    try:
        module = _import_file(where, folder) if where.endswith(".py") else _import(where, folder)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"The function {text} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    found: Any = module
    for each in name.split("."):
        found = getattr(found, each, None)
    if not callable(found):
        named = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(
            f"{where} has no function {show(name)}; it has {join_some(named, 10) or 'none'}."
        )
    function: Function = found
    return function


def _import(name: str, folder: str) -> Any:
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def _import_file(text: str, folder: str) -> Any:
    """Import a file by its path; what lies beside it can be imported from it."""
    path = Path(folder, text).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"The file {path} of the function is not there.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # By its name, so that what it defines can be pickled; unless a library has that name.
    module = sys.modules.get(path.stem)
    if getattr(module, "__file__", None) == str(path):
        return module
    is_free = module is None and path.stem not in sys.stdlib_module_names
    name = path.stem if path.stem.isidentifier() and is_free else f"_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def name_function(function: Function) -> str:
    """Return how a function is called in tables and messages."""
    module = getattr(function, "__module__", "") or ""
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{module}:{name}"


def read_code(function: Function) -> str:
    """Return the text of a function, by which one that was changed is known; empty if unknown."""
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):
        return ""


def check_arguments(function: Function, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a function does not take.

    Raises
    ------
    InputError
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some that are written in C
        return
    try:
        signature.bind({}, **_add_block(function, None, arguments))
    except TypeError as error:
        raise InputError(
            f"The function {name_function(function)}{signature} cannot be called with the "
            f"dictionary of channels and the arguments {join_some(arguments) or 'none'}: {error}."
        ) from error


@lru_cache(maxsize=8)
def _takes_block(function: Function) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return "block" in parameters


def _add_block(function: Function, block: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {**arguments, **({"block": block} if _takes_block(function) else {})}


def call(
    function: Function,
    data: Mapping[str, NDArray[Any]],
    block: Block,
    arguments: Mapping[str, Any],
    names: Sequence[str] = (),
) -> Returned:
    """Call a function on a block, and sort what it returns.

    Parameters
    ----------
    function : callable
        Of a dictionary of channels; one with a parameter `block` gets the `Block`, too.
    data : mapping of str to ndarray
    block : Block
    arguments : mapping
        Further ones, by name.
    names : sequence of str
        Of arrays that it returns as a tuple.

    Raises
    ------
    ReturnError
        If it returns something else than arrays, records or nothing.
    Exception
        Of the function.
    """
    return sort_returned(function(dict(data), **_add_block(function, block, arguments)), names)


def sort_returned(value: Any, names: Sequence[str] = ()) -> Returned:
    """Return the arrays and records among what a function has returned."""
    if value is None:
        return Returned({}, [], False)
    if _is_array(value):
        return Returned({names[0] if names else RESULT: np.asarray(value)}, [], False)
    if _is_table(value):
        return Returned({}, _read_records(value), True)
    if isinstance(value, Mapping):
        return _sort_named(value)
    if isinstance(value, tuple | list) and value and all(map(_is_array, value)):
        if len(names) != len(value):
            raise ReturnError(
                f"the function returned {len(value)} arrays, and outputs has {len(names)} names; "
                "name each, or return a dictionary of them"
            )
        return Returned(dict(zip(names, map(np.asarray, value), strict=True)), [], False)
    raise ReturnError(
        f"the function returned {show(value)}, of type {type(value).__name__}; expected an array, "
        "a dictionary of arrays, a record or a list of records (dictionaries of numbers and text), "
        "or nothing"
    )


def _sort_named(value: Mapping[Any, Any]) -> Returned:
    """Return arrays and lists of records by name; or what is one record."""
    arrays = {str(key): np.asarray(each) for key, each in value.items() if _is_array(each)}
    tables = [each for each in value.values() if not _is_array(each) and _is_table(each)]
    if len(arrays) + len(tables) == len(value):
        return Returned(
            arrays, [row for each in tables for row in _read_records(each)], bool(tables)
        )
    if arrays or tables:
        odd = next(k for k, v in value.items() if not (_is_array(v) or _is_table(v)))
        raise ReturnError(
            f"the function returned a dictionary with arrays and {show(odd)}, which is none; "
            "return arrays or records by name, or one record of numbers and text"
        )
    return Returned({}, [_read_record(value)], True)


def _is_array(value: Any) -> bool:
    """Return whether a value has voxels; a number of NumPy has none."""
    return (
        hasattr(value, "__array__")
        and hasattr(value, "shape")
        and (len(value.shape) > 0 and not hasattr(value, "columns"))
    )


def _is_table(value: Any) -> bool:
    if hasattr(value, "columns") and hasattr(value, "to_dict"):
        return True
    return isinstance(value, list) and all(isinstance(each, Mapping) for each in value)


def _read_records(value: Any) -> list[Record]:
    rows: Iterable[Any] = value
    if hasattr(value, "to_dicts"):  # of polars
        rows = value.to_dicts()
    elif hasattr(value, "columns"):
        rows = value.to_dict("records")
    return [_read_record(row) for row in rows]


def _read_record(row: Mapping[Any, Any]) -> Record:
    """Return a record as JSON can hold it."""
    record = {}
    for key, value in row.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if type(plain).__name__ == "NAType":  # of pandas
            plain = None
        if isinstance(plain, np.ndarray) and plain.ndim == 0:
            plain = plain.item()
        if not (plain is None or isinstance(plain, bool | int | float | str)):
            raise ReturnError(
                f"the function returned a record whose {key} is {show(value)}; expected a number "
                "or text"
            )
        record[str(key)] = plain
    return record


def place_records(records: Sequence[Record], block: Block) -> list[Record]:
    """Return records with their block, and coordinates of the whole volume.

    Columns z, y, x are voxels of what the function was given: what lies in the halo belongs to
    another block, and is left out.  Records without them get the corners of the block.
    Column block is the key of the block; one that records have already is called block_.
    """
    corners = {f"{a}_start": n for a, n in zip(AXES, block.start, strict=True)}
    corners |= {f"{a}_stop": n for a, n in zip(AXES, block.stop, strict=True)}
    placed = []
    for given in records:
        record = _free_name(given, "block")
        own = {axis: record[axis] for axis in AXES if _is_number(record.get(axis))}
        if not own:
            placed.append({"block": block.key} | corners | record)
            continue
        moved = {axis: own[axis] + block.read_start[AXES.index(axis)] for axis in own}
        if all(_is_inside(moved[axis], block, AXES.index(axis)) for axis in own):
            placed.append({"block": block.key} | record | moved)
    return placed


def _free_name(record: Record, name: str) -> Record:
    """Return a record with another name for a column, such as block_ for block."""
    if name not in record:
        return record
    other = f"{name}_"
    while other in record:
        other += "_"
    return {other if key == name else key: value for key, value in record.items()}


def _is_number(value: Any) -> bool:
    """Return whether a value is a coordinate; NaN is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _is_inside(place: float, block: Block, axis: int) -> bool:
    """Return whether a place lies not in the halo; centres of voxels are whole numbers."""
    has_before = block.read_start[axis] < block.start[axis]
    has_after = block.read_stop[axis] > block.stop[axis]
    return (not has_before or place >= block.start[axis] - 0.5) and (
        not has_after or place < block.stop[axis] - 0.5
    )
