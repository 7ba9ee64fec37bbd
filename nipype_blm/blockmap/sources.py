"""Where voxels come from, in words: a path or an address, and what of it is meant."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nipype_blm.blockmap.addresses import DRIVERS, HDF5, N5, ZARR, ZARR_FILES, tell_kind

_METADATA = (*ZARR_FILES, ".zattrs", "info", "attributes.json")


@dataclass(frozen=True)
class Source:
    """Where the voxels of a channel are, in words that can be written down.

    Parameters
    ----------
    path : str
        A path, or an address: ``precomputed://``, ``n5://``, ``zarr2://``, ``zarr3://`` and the
        address of a store, ``bossdb://collection/experiment/channel``, ``python:module:function``.
    kind : str
        One of `openers.kinds.OPENERS`; by default told by the path.
    dataset : str, optional
        Array within a Zarr group or an HDF5 file.
    level : int
        Resolution level, 0 the finest.
    channel : int or str, optional
        Number or label, where the store has several.
    axes : str, optional
        Letters of all axes of the array, such as ``tczyx``; by default as the store says.
    at : mapping of str to int
        Where to stay along further axes.
    keep : str
        Further axes that the function gets whole, before z, y, x.
    options : mapping
        For the opener: what the driver of TensorStore, a BOSS volume or a function takes.
    """

    path: str
    kind: str = ""
    dataset: str | None = None
    level: int = 0
    channel: int | str | None = None
    axes: str | None = None
    at: Mapping[str, int] = field(default_factory=dict)
    keep: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def opener(self) -> str:
        """What opens it, one of `OPENERS`; ``array``: it is one."""
        return self.kind or tell_kind(self.path)

    def describe(self) -> dict[str, Any]:
        """Return what JSON can hold, from which `Source` makes the same."""
        return asdict(self)


def split_inside(source: Source, ending: re.Pattern[str]) -> tuple[Path, str]:
    """Return the path of a store, and that of an array within it."""
    inner = (source.dataset or "").strip("/")
    found = ending.search(source.path)
    if found is None or Path(source.path).exists():
        return Path(source.path), inner
    rest = source.path[found.end() :].strip("/")
    return Path(source.path[: found.end()]), "/".join(each for each in (rest, inner) if each)


def find_place(source: Source) -> Path | None:
    """Return the file or folder on this machine that a source is read from; None if there is none.

    Of an array within a store it is the whole store.
    """
    path = source.path
    scheme, has_scheme, rest = path.partition("://")
    if has_scheme:
        path = rest.removeprefix("file://") if scheme in DRIVERS else ""
    for ending in (HDF5, ZARR, N5):
        found = ending.search(path)
        if found and not Path(path).is_file():
            path = path[: found.end()]
    return Path(path) if path and Path(path).exists() else None


def find_array_place(array: Any) -> Path | None:
    """Return the file or folder that an array-like reads from; None if it tells of none."""
    # Of Zarr, of a folder or a file; of NumPy; of HDF5; of nibabel.
    ways = "store.root", "store.path", "filename", "file.filename", "file_like"
    for names in (each.split(".") for each in ways):
        found = array
        for name in names:
            found = getattr(found, name, None)
        if isinstance(found, str | Path) and Path(found).exists():
            return Path(found)
    return None


def stamp_source(source: Source) -> list[tuple[str, int, int, int]]:
    """Return by what a source that was written again is known: of a folder, by its metadata."""
    if source.opener == "python":
        place: Path | None = Path(source.path.removeprefix("python:").rpartition(":")[0])
    else:
        place = find_place(source)
    if place is None:
        return []
    return [
        (str(path), found.st_ino, found.st_mtime_ns, found.st_size)
        for path in [place, *_list_metadata(source, place)]
        if path.is_file()
        for found in [path.stat()]
    ]


def _list_metadata(source: Source, place: Path) -> Iterator[Path]:
    if not place.is_dir():
        return
    inner = Path(source.path.rpartition("://")[2], (source.dataset or "").strip("/"))
    for folder in {place, inner, inner.parent} if inner.is_relative_to(place) else {place}:
        yield from (folder / name for name in _METADATA)
    # Of the levels of an image; within an array there may be as many folders as chunks.
    if inner.is_dir() and not (inner / ".zarray").is_file():
        yield from (path for name in ZARR_FILES for path in sorted(inner.glob(f"*/{name}")))
