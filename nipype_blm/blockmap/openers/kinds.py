"""The kinds of stores that there are: what opens each, and what of a source it uses."""

from collections.abc import Callable
from typing import NamedTuple

from nipype_blm.blockmap.openers.arrays import open_python
from nipype_blm.blockmap.openers.boss import open_boss
from nipype_blm.blockmap.openers.hdf5 import open_hdf5
from nipype_blm.blockmap.openers.nifti import open_nifti
from nipype_blm.blockmap.openers.opened import Opened
from nipype_blm.blockmap.openers.tensorstore import open_tensorstore
from nipype_blm.blockmap.openers.zarr import open_zarr
from nipype_blm.blockmap.sources import Source
from nipype_blm.errors import InputError, join_some


class Opener(NamedTuple):
    """How a kind of store is opened."""

    open: Callable[[Source, str], Opened]  # the name is for messages
    used: tuple[str, ...] = ()  # of dataset, level and options
    extra: str = "blockmap"  # of nipype_blm, in which its library is


# A new kind of store is a line here, and what tells it in `addresses.tell_kind`.
OPENERS = {
    "nifti": Opener(open_nifti),
    "zarr": Opener(open_zarr, ("dataset", "level"), "zarr"),
    "hdf5": Opener(open_hdf5, ("dataset",), "hdf5"),
    "tensorstore": Opener(open_tensorstore, ("dataset", "level", "options"), "tensorstore"),
    "boss": Opener(open_boss, ("level", "options"), "boss"),
    "python": Opener(open_python, ("options",)),
}


def open_source(source: Source, name: str) -> Opened:
    """Open a source by what its kind is opened by.

    Raises
    ------
    InputError
        If it is not there, cannot be read, or its library is not installed.
    """
    opener = OPENERS[source.opener]
    try:
        return opener.open(source, name)
    except ImportError as error:
        raise InputError(
            f"{name}: reading {source.path} needs {error.name or error}, which is not installed; "
            f"install nipype_blm[{opener.extra}]."
        ) from error


def check_fields(source: Source, name: str) -> None:
    """Refuse fields that an opener does not use.

    Raises
    ------
    InputError
    """
    used = OPENERS[source.opener].used
    idle = [
        field
        for field in ("dataset", "level", "options")
        if getattr(source, field) and field not in used
    ]
    if idle:
        raise InputError(
            f"{name} was given {join_some(idle)}, which {source.path}, read as {source.opener}, "
            f"does not have; leave {'it' if len(idle) == 1 else 'them'} out."
        )
