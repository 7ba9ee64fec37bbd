"""Datasets of HDF5."""

import errno
from pathlib import Path
from typing import Any

from nipype_blm.blockmap.addresses import HDF5
from nipype_blm.blockmap.openers.opened import Opened, as_end, name_plain, need_path
from nipype_blm.blockmap.sources import Source, split_inside
from nipype_blm.errors import InputError, join_some


def open_hdf5(source: Source, name: str) -> Opened:
    """Open a dataset, the only one if none is named."""
    import h5py

    path, inner = split_inside(source, HDF5)
    need_path(path, name)
    try:
        file = _open_hdf5_file(path)
    except BlockingIOError as error:
        raise InputError(
            f"{name}: {path} is held by a program that writes to it; wait until that has closed it."
        ) from error
    except OSError as error:
        raise InputError(f"{name}: {path} cannot be opened as HDF5: {as_end(error)}") from error
    datasets: list[str] = []

    def note(key: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim >= 2:
            datasets.append(key)

    if not inner or not isinstance(file.get(inner), h5py.Dataset):
        file.visititems(note)
        found = join_some(datasets) or "no dataset of 2 or more axes"
        if inner:
            raise InputError(
                f"{name}: {path} has no dataset {inner}; it has {found}: give one of them."
            )
        if len(datasets) != 1:
            raise InputError(f"{name}: {path} has {found}; give one with dataset.")
        inner = datasets[0]
    array = file[inner]
    return Opened(array, name_plain(array.ndim), chunks=array.chunks)


def _open_hdf5_file(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        # Many network disks have no locks, and nothing is written.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return h5py.File(path, "r", locking=False)
