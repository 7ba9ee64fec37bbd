"""Which files belong to which space, and how they are opened: each kind is a line of a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.files import stat_file
from nipype_blm.data.grids import choose_grid
from nipype_blm.data.headers import inspect_image
from nipype_blm.data.space import Arrays, Header, Kind, Options, Space
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.errors import InputError
from nipype_blm.io.files import FileState

_COMPRESSED = (".gz", ".bz2", ".zst")

# The first is for names that say nothing.  Of several endings that a name has, the longest counts.
KINDS = {
    "volume": Kind(
        VolumeSpace, (".nii", ".img", ".hdr", ".mgz", ".mgh"), inspect_image, choose_grid
    ),
}


def find_kind(path: Path) -> Kind:
    """Return the kind of a file, by its name."""
    return KINDS[_name_kind(path) or next(iter(KINDS))]


def is_image_path(path: Path) -> bool:
    """Return whether a name looks like that of an image rather than of a list."""
    return _name_kind(path) is not None


def _name_kind(path: Path) -> str | None:
    name = path.name.lower()
    for end in _COMPRESSED:
        name = name.removesuffix(end)
    fits = {end: kind for kind, row in KINDS.items() for end in row.endings if name.endswith(end)}
    return fits[max(fits, key=len)] if fits else None


def look_at(path: Path, kind: Kind | None = None) -> tuple[FileState, Header]:
    """Return what changes when a file does, and what it says before its values are read.

    Parameters
    ----------
    path : Path
    kind : Kind, optional
        Which it has to be of; default: as its name says.

    Raises
    ------
    InputError
        If the file is missing, unreadable, cut short, or not of its kind.
    """
    try:
        state = stat_file(path)
    except (OSError, ValueError):  # ValueError: no path can have a null byte
        state = FileState(0, 0, "")  # reading the header says what is wrong
    return state, (kind or find_kind(path)).inspect(path, state)


def open_space(path: Path, inside: NDArray[np.bool_] | None = None) -> Space:
    """Return the space of a file: all its values, or those inside a mask."""
    return find_kind(path).space.of_file(path, inside)


def read_mask(path: Path, expected: Header, what: str) -> NDArray[np.bool_]:
    """Read a mask, in the order of the file; inside means finite and not zero.

    Parameters
    ----------
    path : Path
    expected : Header
        Of the images.
    what : str
        The field that names the mask, for messages.

    Raises
    ------
    InputError
        If it cannot be read, is not in the space of the images, or has nothing inside.
    """
    with _naming_field(what):
        header = look_at(path)[1]
    if type(header) is type(expected):
        difference = header.describe_difference(expected)
    else:
        difference = "it is a file of another kind"
    if difference is None and header.n_volumes > 1:
        difference = f"it has {header.n_volumes} volumes"
    if difference is not None:
        raise InputError(
            f"{what} {path} is not in the space of the images: {difference}; "
            "resample it to the images."
        )
    values = np.empty(expected.n_values)
    with _naming_field(what):
        open_space(path).make_reader().read(path, 0, values)
    mask = ~np.isnan(values)
    if not mask.any():
        raise InputError(f"{what} {path} has no voxel that is finite and not zero.")
    return mask


@contextmanager
def _naming_field(what: str) -> Iterator[None]:
    """Name the field in front of what is wrong with its file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def pack_space(space: Space) -> tuple[Arrays, Options]:
    """Return the arrays and options from which `unpack_space` makes a space again."""
    name = next(name for name, kind in KINDS.items() if isinstance(space, kind.space))
    arrays, options = space.pack()
    return arrays, {"kind": name} | options


def unpack_space(arrays: Arrays, options: Options) -> Space:
    """Return the space that was packed."""
    options = dict(options)
    return KINDS[options.pop("kind")].space.unpack(arrays, options)
