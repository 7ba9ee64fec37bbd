"""Which files belong to which space, and how they are opened: each kind is a line of a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.files import stat_file
from nipype_blm.data.grids import choose_grid
from nipype_blm.data.headers import inspect_image
from nipype_blm.data.maps import load_image
from nipype_blm.data.space import Arrays, Header, Kind, Options, Space
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.errors import InputError, Problem
from nipype_blm.io.files import FileState

_COMPRESSED = (".gz", ".bz2", ".zst")

# The first is for names that say nothing.  Of several endings that a name has, the longest counts.
KINDS = {
    "volume": Kind(
        VolumeSpace,
        endings=(".nii", ".img", ".hdr", ".mgz", ".mgh"),
        maps=(".nii", ".nii.gz"),
        inspect=inspect_image,
        choose=choose_grid,
        load=lambda path: load_image(path).dataobj,
    ),
}


def find_kind(path: Path) -> Kind:
    """Return the kind of a file, by its name."""
    return KINDS[_split_name(path.name)[1] or next(iter(KINDS))]


def is_image_path(path: Path) -> bool:
    """Return whether a name looks like that of an image rather than of a list."""
    return _split_name(path.name)[1] is not None


def strip_ending(name: str) -> str:
    """Return a name without what says of which kind its file is, if it does."""
    return _split_name(name)[0]


def _split_name(name: str) -> tuple[str, str | None]:
    """Return a name without its ending, and the kind that this stands for."""
    plain = name.lower()
    for end in _COMPRESSED:
        plain = plain.removesuffix(end)
    fits = {end: kind for kind, row in KINDS.items() for end in row.endings if plain.endswith(end)}
    if not fits:
        return name, None
    end = max(fits, key=len)
    return name[: len(plain) - len(end)], fits[end]


def name_map(space: Space, name: str, compress: bool) -> str:
    """Return the name of the file of a map, which tells its kind."""
    return f"{name}{KINDS[_find_name(space)].maps[compress]}"


def is_map_ending(ending: str) -> bool:
    """Return whether maps of some kind are called so, or their sidecars."""
    return ending == ".json" or ending in _list_map_endings()


def find_map(folder: Path, name: str) -> Path | None:
    """Return the file of a map, if there is one, of any kind, compressed or not."""
    # Also a link whose content is still to be fetched, which reading it will say.
    candidates = [folder / f"{name}{end}" for end in _list_map_endings()]
    found = [path for path in candidates if path.is_file() or path.is_symlink()]
    if len(found) > 1:
        raise InputError(
            f"{folder} has both {found[0].name} and {found[1].name}; remove the older one."
        )
    return found[0] if found else None


def glob_maps(folder: Path, pattern: str) -> list[Path]:
    """Return the files that may be maps, by their names without endings."""
    return [path for end in _list_map_endings() for path in folder.glob(f"{pattern}{end}")]


def describe_map_endings() -> str:
    """Return in words what the names of maps end in."""
    return " or ".join(_list_map_endings())


def _list_map_endings() -> list[str]:
    return list(dict.fromkeys(end for kind in KINDS.values() for end in kind.maps))


def load_map(path: Path) -> Any:
    """Return the values of a map in their shape, volumes last; an array, or sliced like one."""
    return find_kind(path).load(path)


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


def read_mask(path: Path, expected: Header, field: str) -> NDArray[np.bool_]:
    """Read a mask, in the order of the file; inside means finite and not zero.

    Parameters
    ----------
    path : Path
    expected : Header
        Of the images.
    field : str
        The field of `Request` that names the mask, for messages; or what else it is called.

    Raises
    ------
    InputError
        If it cannot be read, is not in the space of the images, or has nothing inside.
    """
    with _naming_field(field):
        header = look_at(path)[1]
    if type(header) is type(expected):
        difference = header.describe_difference(expected)
    else:
        difference = "it is a file of another kind"
    if difference is None and header.n_volumes > 1:
        difference = f"it has {header.n_volumes} volumes"
    if difference is not None:
        template = "is not in the space of the images: {difference}; resample it to the images."
        raise InputError(
            Problem(field, f"{{{field}}} {{path}} {template}", path=path, difference=difference)
        )
    values = np.empty(expected.n_values)
    with _naming_field(field):
        open_space(path).make_reader().read(path, 0, values)
    mask = ~np.isnan(values)
    if not mask.any():
        template = "has no voxel that is finite and not zero."
        raise InputError(Problem(field, f"{{{field}}} {{path}} {template}", path=path))
    return mask


@contextmanager
def _naming_field(field: str) -> Iterator[None]:
    """Name the field in front of what is wrong with its file."""
    try:
        yield
    except InputError as error:
        raise InputError(Problem(field, f"{{{field}}}: {{fault}}", fault=error)) from error


def pack_space(space: Space) -> tuple[Arrays, Options]:
    """Return the arrays and options from which `unpack_space` makes a space again."""
    arrays, options = space.pack()
    return arrays, {"kind": _find_name(space)} | options


def unpack_space(arrays: Arrays, options: Options) -> Space:
    """Return the space that was packed."""
    options = dict(options)
    return KINDS[options.pop("kind")].space.unpack(arrays, options)


def _find_name(space: Space) -> str:
    return next(name for name, kind in KINDS.items() if isinstance(space, kind.space))
