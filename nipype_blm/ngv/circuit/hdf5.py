"""Open files of circuits, and say what is wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nipype_blm.errors import InputError


def require_h5py() -> Any:
    """Return the library that reads circuits.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "Circuits are read by h5py, which is not installed; `pip install 'nipype_blm[ngv]'` "
            "brings it."
        ) from error
    return h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file to be read.

    Raises
    ------
    InputError
        If it is not there, is damaged, or lacks what is looked up in it; or without h5py.
    """
    h5py = require_h5py()
    try:
        # Nothing is written, and many network disks have no locks.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"There is no {path}; run the stage that makes it.") from error
    except KeyError as error:
        raise InputError(
            f"{path} has no {error.args[0]}, which ArchNGV writes there; run the stage again that "
            "makes it."
        ) from error
    except OSError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"{path} cannot be read: {reason}. Remove it, and run the stage again that makes it."
        ) from error
