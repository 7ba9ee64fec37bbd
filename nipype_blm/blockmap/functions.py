"""The function that is called on every block: found by its name, called, and what it returned."""

import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES, Block
from nipype_blm.errors import InputError, join_some, shorten, show

Function = Callable[..., Any]
Record = dict[str, Any]
# The name of a result that has none.
RESULT = "result"
# Of the values that a function holds: characters of each, and how many of one list.
_LONGEST_VALUE, _MOST_VALUES = 2000, 10_000


class Returned(NamedTuple):
    """What a function has returned for a block."""

    arrays: Mapping[str, NDArray[Any]]  # by name
    records: Sequence[Record]
    has_records: bool  # also where there are none


class ReturnError(ValueError):
    """A function has returned what cannot be used."""


def find_function(text: str, folder: str = "") -> Function:
    """Return the function of ``module:function`` or ``file.py:function``, as its file is now.

    A file that was changed since this process has run it is run again; an installed library is not.

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
            "my_steps:segment, or file.py:function."
        )
    try:
        with _importing:
            module = (
                _import_file(where, folder) if where.endswith(".py") else _import(where, folder)
            )
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


_importing = RLock()
# What the files of users were when they were run, by the names of their modules.
_run_files: dict[str, tuple[str, int, int]] = {}


def _import(name: str, folder: str) -> ModuleType:
    """Import a module: a library, or else one in the folder, or wherever Python finds it."""
    top = name.partition(".")[0]
    spec = PathFinder.find_spec(top, [folder]) if folder and not _is_library(top) else None
    # Of another folder, in a process that has had the module of that name from elsewhere.
    is_other = top in _run_files and spec is not None and _run_files[top][0] != spec.origin
    if spec is not None and spec.has_location and (top not in sys.modules or is_other):
        for each in [key for key in sys.modules if key.startswith(f"{top}.")]:
            del sys.modules[each]
        _add_folder(folder)
        _load(spec)
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None) or ""
    if name != "__main__" and file.endswith(".py") and not _is_installed(file):
        _refresh(module, file)
    return module


def _import_file(text: str, folder: str) -> ModuleType:
    """Import a file by its path; what lies beside it can be imported from it."""
    path = Path(folder, text).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"The file {path} of the function is not there.")
    # By its name, so that what it defines can be pickled; unless a library has that name.
    names = (path.stem, f"_file_{path.stem}")
    for module in filter(None, map(sys.modules.get, names)):
        if getattr(module, "__file__", None) == str(path):
            _refresh(module, str(path))
            return module
    is_free = path.stem.isidentifier() and path.stem not in sys.modules
    name = names[0] if is_free and not _is_library(path.stem) else names[1]
    _add_folder(str(path.parent))
    spec = spec_from_file_location(name, path)
    assert spec is not None
    return _load(spec)


def _add_folder(folder: str) -> None:
    """Have modules found in a folder; libraries come first."""
    if folder not in sys.path:
        sys.path.append(folder)


def _is_library(name: str) -> bool:
    """Return whether Python or an installed library has the name of a module."""
    if name in sys.stdlib_module_names:
        return True
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # of a module that has no such thing, such as __main__
        return False
    return spec is not None and _is_installed(spec.origin or "")


def _is_installed(file: str) -> bool:
    """Return whether a file belongs to what is installed, and not to a user."""
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    folders = [str(Path(__file__).parents[1]), sysconfig.get_path("stdlib")]
    return any(path.is_relative_to(folder) for folder in folders)


def _load(spec: ModuleSpec) -> ModuleType:
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        _run_file(module, str(spec.origin))
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
    return module


def _refresh(module: ModuleType, file: str) -> None:
    """Run the file of a module again if it has changed since."""
    known = _run_files.setdefault(module.__name__, _stamp(file))
    if known != _stamp(file):
        _run_file(module, file)


def _run_file(module: ModuleType, file: str) -> None:
    if not file.endswith(".py"):
        assert module.__spec__ is not None
        assert module.__spec__.loader is not None
        module.__spec__.loader.exec_module(module)
        return
    stamp = _stamp(file)
    # Not what Python has compiled before, which it knows by size and whole seconds alone.
    exec(compile(Path(file).read_bytes(), file, "exec"), vars(module))
    _run_files[module.__name__] = stamp


def _stamp(file: str) -> tuple[str, int, int]:
    found = Path(file).stat()
    return file, found.st_mtime_ns, found.st_size


def name_function(function: Function) -> str:
    """Return how a function is called in tables and messages."""
    module = getattr(function, "__module__", "") or ""
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{module}:{name}"


def read_code(function: Function) -> str:
    """Return a text by which a function that was changed is known; empty if nothing is known.

    It has the whole file of a user's function, what it calls there included, and the values that
    a `partial`, a closure or a callable object holds.
    """
    return "\n".join(_list_code(function, set()))


def _list_code(function: Any, seen: set[int]) -> Iterator[str]:
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, partial):
        yield from _list_code(function.func, seen)
        yield from _list_value([function.args, function.keywords], seen)
    elif inspect.ismethod(function):
        yield from _list_code(function.__func__, seen)
        yield from _list_value(function.__self__, seen)
    elif inspect.isfunction(function):
        plain = inspect.unwrap(function)
        yield _read_text(plain)
        cells = [each for one in {function, plain} for each in one.__closure__ or ()]
        defaults = [plain.__defaults__, plain.__kwdefaults__]
        yield from _list_value([*defaults, *(_read_cell(each) for each in cells)], seen)
    elif inspect.isclass(function):
        yield _read_text(function)
    elif not inspect.isroutine(function):
        yield _read_text(type(function))
        yield from _list_value(getattr(function, "__dict__", {}), seen)


def _list_value(value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in islice(value.items(), _MOST_VALUES):
            yield repr(key)
            yield from _list_value(each, seen)
    elif isinstance(value, list | tuple):
        for each in islice(value, _MOST_VALUES):
            yield from _list_value(each, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))
    elif _is_opaque(value):
        yield from _list_code(value, seen)
    else:
        # Where an object is in memory is another one each time.
        yield shorten(re.sub(r" at 0x[0-9a-f]+", "", repr(value)), _LONGEST_VALUE)


def _is_opaque(value: Any) -> bool:
    """Return whether what a value prints does not tell what it is."""
    plain = type(value).__repr__ is object.__repr__
    return plain or inspect.isroutine(value) or isinstance(value, type | partial)


def _read_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty so far
        return None


def _read_text(what: Any) -> str:
    """Return the file of what a user has defined; of what a library has only its own lines."""
    try:
        file = inspect.getsourcefile(what)
        if file and Path(file).is_file() and not _is_installed(file):
            return Path(file).read_text(errors="replace")
        return inspect.getsource(what)
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
    first = next(iter(signature.parameters.values()), None)
    if first is not None and first.name == "block" and first.kind != first.KEYWORD_ONLY:
        raise InputError(
            f"The function {name_function(function)}{signature} calls its first argument block; "
            "this gets the dictionary of channels: name it otherwise, such as data (a further "
            "argument block gets the place of the block)."
        )
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
    # Its own, so that what it changes is not there for the next block.
    own = deepcopy(dict(arguments))
    return sort_returned(function(dict(data), **_add_block(function, block, own)), names)


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
