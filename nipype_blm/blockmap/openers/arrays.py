"""Arrays as they are: what is given as one, or what a function returns."""

from typing import Any

from nipype_blm.blockmap.openers.opened import Opened, as_end, name_plain
from nipype_blm.blockmap.sources import Source
from nipype_blm.errors import InputError, show


def describe_array(array: Any, name: str) -> Opened:
    """Take an array-like as it is, with axes z, y, x.

    Raises
    ------
    InputError
        If it is none.
    """
    if not all(hasattr(array, each) for each in ("shape", "dtype", "__getitem__")):
        raise InputError(
            f"{name} is {show(array)}; expected a path, an address, or an array with shape and "
            "dtype."
        )
    chunks = getattr(array, "shards", None) or getattr(array, "chunks", None) or ()
    # Of Dask they differ along an axis.
    sizes = [max(n) if isinstance(n, tuple) and n else n for n in chunks]
    has_sizes = len(sizes) == len(array.shape) and all(isinstance(n, int) for n in sizes)
    return Opened(array, name_plain(len(array.shape)), chunks=sizes if has_sizes else None)


def open_python(source: Source, name: str) -> Opened:
    """Call the function that a source names, and take what it returns."""
    from nipype_blm.blockmap.functions import find_function

    where, _, called = source.path.removeprefix("python:").rpartition(":")
    folder, _, module = where.rpartition("/")
    function = find_function(f"{module}:{called}", folder or ("/" if where[:1] == "/" else ""))
    try:
        array = function(**source.options)
    except InputError:
        raise
    except Exception as error:  # of many kinds
        raise InputError(
            f"{name}: {source.path} has failed: {type(error).__name__}: {as_end(error)}"
        ) from error
    return describe_array(array, name)
