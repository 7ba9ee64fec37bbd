"""Arrays of Zarr, and images of OME-NGFF."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.blockmap.addresses import ZARR, ZARR_FILES
from nipype_blm.blockmap.blocks import AXES
from nipype_blm.blockmap.lengths import share_unit
from nipype_blm.blockmap.openers.opened import Opened, as_end, name_plain, need_path
from nipype_blm.blockmap.sources import Source, split_inside
from nipype_blm.errors import InputError, join_some

_MOST_FILES_LOOKED_AT = 100


def open_zarr(source: Source, name: str) -> Opened:
    """Open an array, or a level of an image."""
    import zarr

    path, inner = split_inside(source, ZARR)
    need_path(path, name)
    if path.name in ZARR_FILES:
        path = path.parent
    try:
        store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else str(path)
        root = zarr.open(store, mode="r")
        node: Any = root[inner] if inner and isinstance(root, zarr.Group) else root
    except KeyError:
        raise InputError(
            f"{name}: {path} has no {inner}; give one of its arrays with dataset: "
            f"{_list_members(root)}."
        ) from None
    except Exception as error:
        raise InputError(f"{name}: {path} cannot be opened as Zarr: {as_end(error)}") from error
    if not isinstance(node, zarr.Array):
        return _open_group(node, source, name)
    if source.level:
        raise InputError(
            f"{name} was asked for level {source.level}, and {source.path} is an array, which has "
            "no levels; leave level out, or give the image that it belongs to."
        )
    found = _find_image(node, root)
    if found is not None:
        group, level = found
        return _open_multiscale(group, _read_image(group), replace(source, level=level), name)
    return _describe_zarr(node, Opened(node, _name_axes(node)), name)


def _find_image(array: Any, root: Any) -> tuple[Any, int] | None:
    """Return the image of OME-NGFF that an array is a level of, and the number of the level."""
    import zarr

    group: Any
    if isinstance(root, zarr.Group):
        above, _, last = array.path.rpartition("/")
        group = root[above] if above else root
    else:
        folder = Path(getattr(array.store, "root", ""))
        last = folder.name
        group = zarr.open_group(folder.parent, mode="r") if _is_group(folder.parent) else None
    image = {} if group is None else _read_image(group)
    for number, level in enumerate(image["multiscales"][0]["datasets"] if image else ()):
        if level["path"] == last:
            return group, number
    return None


def _is_group(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup"))


def _read_image(group: Any) -> dict[str, Any]:
    """Return the attributes of an image of OME-NGFF; empty if it is none."""
    attributes = dict(group.attrs)
    attributes = attributes.get("ome", attributes)
    return attributes if "multiscales" in attributes else {}


def _open_group(node: Any, source: Source, name: str) -> Opened:
    attributes = _read_image(node)
    if attributes:
        return _open_multiscale(node, attributes, source, name)
    arrays = [array for _, array in node.arrays()]
    if len(arrays) == 1 and not list(node.group_keys()) and not source.level:
        return _describe_zarr(arrays[0], Opened(arrays[0], _name_axes(arrays[0])), name)
    raise InputError(
        f"{name}: {source.path} is a Zarr group; give one of its arrays with dataset: "
        f"{_list_members(node)}."
    )


def _list_members(group: Any) -> str:
    arrays = sorted(group.array_keys())
    groups = (f"{each}/..." for each in sorted(group.group_keys()))
    return join_some([*arrays, *groups]) or "it has none"


def _name_axes(array: Any) -> str:
    """Return the letters of a plain Zarr array; empty if its names are of other axes."""
    named = getattr(array.metadata, "dimension_names", None)
    named = named or array.attrs.get("_ARRAY_DIMENSIONS")
    if not named or not all(named):
        return name_plain(array.ndim)
    letters = "".join(str(each)[0].lower() for each in named)
    is_clear = len(set(letters)) == len(letters) == array.ndim and set(letters) & set(AXES)
    return letters if is_clear else ""


def _open_multiscale(node: Any, attributes: Any, source: Source, name: str) -> Opened:
    """Open a level of an image of OME-NGFF, 0.1 to 0.5."""
    image = attributes["multiscales"][0]
    levels = image["datasets"]
    if not 0 <= source.level < len(levels):
        raise InputError(
            f"{name} was asked for level {source.level}; {source.path} has {len(levels)}, from 0."
        )
    level = levels[source.level]
    array = node[level["path"]]
    named = image.get("axes") or "tczyx"[-array.ndim :]
    axes = "".join(map(_name_letter, named))
    units = [each.get("unit", "") if isinstance(each, Mapping) else "" for each in named]
    steps = [
        step
        for each in (level, image)  # in this order: an image moves all its levels
        for step in each.get("coordinateTransformations", ())
    ]
    scale, origin = np.ones(array.ndim), np.zeros(array.ndim)
    for step in steps:
        if step["type"] == "scale":
            scale, origin = scale * step["scale"], origin * step["scale"]
        elif step["type"] == "translation":
            origin = origin + step["translation"]
    (sizes, shifts), unit = share_unit(axes, units, scale.tolist(), origin.tolist())
    channels = attributes.get("omero", {}).get("channels", ())
    labels = [str(each.get("label", "")) for each in channels]
    opened = Opened(array, axes, sizes, unit, shifts, labels=labels)
    return _describe_zarr(array, opened, name)


def _name_letter(axis: Any) -> str:
    """Return the letter of an axis of OME-NGFF, which may have another name than t or c."""
    if not isinstance(axis, Mapping):
        return str(axis)[0].lower()
    return {"time": "t", "channel": "c"}.get(axis.get("type", ""), str(axis["name"])[0].lower())


def _describe_zarr(array: Any, opened: Opened, name: str) -> Opened:
    # A shard is one file.
    chunks = getattr(array, "shards", None) or array.chunks
    return replace(opened, chunks=chunks, oddity=_look_for_chunks(array, name))


def _look_for_chunks(array: Any, name: str) -> str:
    """Return what is odd about an array without any chunk: its voxels all have one value.

    Raises
    ------
    InputError
        If there are chunks, which its metadata looks for by other names.
    """
    root = getattr(array.store, "root", None)  # of a folder on this machine
    if root is None or not array.ndim:
        return ""
    folder = Path(root, array.path)
    files = list(islice(_list_chunks(folder), _MOST_FILES_LOOKED_AT))
    if not files:
        return f"has no chunk: all its voxels read as {array.fill_value or 0}"
    if any(_is_chunk(array, each) for each in files):
        return ""
    expected = array.metadata.encode_chunk_key((0,) * array.ndim)
    raise InputError(
        f"{name}: {folder} has chunks such as {files[0]}, and its metadata looks for such as "
        f"{expected}, so that all voxels would read as {array.fill_value}; correct its "
        "dimension_separator or chunk_key_encoding."
    )


def _list_chunks(folder: Path) -> Iterator[str]:
    """Yield the names of files that may be chunks; there may be millions."""
    for each in _walk(folder):
        if re.fullmatch(r"(c[/.])?\d+([/.]\d+)*", each):
            yield each


def _walk(folder: str | Path, before: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{before}{entry.name}/")
            else:
                yield f"{before}{entry.name}"


def _is_chunk(array: Any, file: str) -> bool:
    numbers = tuple(map(int, re.findall(r"\d+", file)))
    return len(numbers) == array.ndim and array.metadata.encode_chunk_key(numbers) == file
