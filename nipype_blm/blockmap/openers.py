"""One opener for each kind of store, all by the libraries that know it."""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES
from nipype_blm.errors import InputError, join_some, show

if TYPE_CHECKING:
    from nipype_blm.blockmap.boss.volumes import Volume
    from nipype_blm.blockmap.sources import Source

_NIFTI = re.compile(r"\.(nii|mgh|mgz|mnc|hdr|img)(\.(gz|bz2|zst))?$", re.IGNORECASE)
_HDF5 = re.compile(r"\.(h5|hdf5|hdf|he5|nwb|ims)(?=/|$)", re.IGNORECASE)
_ZARR = re.compile(r"\.zarr(\.zip)?(?=/|$)", re.IGNORECASE)
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
_METADATA = (*_ZARR_FILES, ".zattrs", "info", "attributes.json")
_N5 = re.compile(r"\.n5(?=/|$)", re.IGNORECASE)
# Schemes whose rest is the address of a store, and the driver of TensorStore that reads it.
DRIVERS = {
    "precomputed": "neuroglancer_precomputed",
    "n5": "n5",
    "zarr2": "zarr",
    "zarr3": "zarr3",
}
_REMOTE = re.compile(r"^(https?|s3|gs|gcs)://")
_MOST_FILES_LOOKED_AT = 100

METRES = {
    **{"nm": 1e-9, "nanometer": 1e-9, "nanometre": 1e-9},
    **{"um": 1e-6, "µm": 1e-6, "micron": 1e-6, "micrometer": 1e-6, "micrometre": 1e-6},
    **{"mm": 1e-3, "millimeter": 1e-3, "millimetre": 1e-3},
    **{"cm": 1e-2, "centimeter": 1e-2, "m": 1.0, "meter": 1.0, "metre": 1.0},
}


@dataclass(frozen=True)
class Opened:
    """What an opener has found; sequences are along all axes of the array, empty if unknown."""

    array: Any  # with shape, dtype and __getitem__
    axes: str  # a letter for each axis; empty if nothing says
    voxel_size: Sequence[float] = ()
    unit: str = ""  # of `voxel_size` and `origin`
    origin: Sequence[float] = ()  # where voxel 0 is
    bounds: Sequence[tuple[int, int]] = ()  # start and stop, where an axis does not begin at 0
    chunks: Sequence[int] | None = None  # what the store reads at once
    labels: Sequence[str] = ()  # of channels
    affine: Any = None  # of NIfTI: (4, 4), from x, y, z in voxels to mm
    oddity: str = ""  # what is no fault but may not be meant: the end of a sentence


def tell_kind(path: str) -> str:
    """Return the name of what opens a path or an address.

    Raises
    ------
    InputError
        If nothing does.
    """
    scheme, has_scheme, _ = path.partition("://")
    if path.startswith("python:"):
        return "python"
    if has_scheme and scheme in DRIVERS:
        return "tensorstore"
    if scheme == "bossdb":
        return "boss"
    if has_scheme and _REMOTE.match(path):
        raise InputError(
            f"{path} does not say what is stored there; write precomputed://{path}, "
            f"zarr2://{path}, zarr3://{path} or n5://{path}."
        )
    if _NIFTI.search(path):
        return "nifti"
    if _HDF5.search(path):
        return "hdf5"
    if _ZARR.search(path) or Path(path).name in _ZARR_FILES or _is_zarr(Path(path)):
        return "zarr"
    if _N5.search(path) or (Path(path) / "info").is_file():
        return "tensorstore"
    raise InputError(
        f"{path} is {'there, but' if Path(path).exists() else 'not there, and'} nothing tells what "
        "it is; expected NIfTI (.nii, .nii.gz), Zarr (.zarr), HDF5 (.h5), N5 (.n5), a folder of "
        "precomputed, or an address such as precomputed://... or "
        "bossdb://collection/experiment/channel."
    )


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in _ZARR_FILES)


def find_place(source: "Source") -> Path | None:
    """Return the file or folder on this machine that a source is read from; None if there is none.

    Of an array within a store it is the whole store.
    """
    path = source.path
    scheme, has_scheme, rest = path.partition("://")
    if has_scheme:
        path = rest.removeprefix("file://") if scheme in DRIVERS else ""
    for ending in (_HDF5, _ZARR, _N5):
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


def stamp_source(source: "Source") -> list[tuple[str, int, int, int]]:
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


def _list_metadata(source: "Source", place: Path) -> Iterator[Path]:
    if not place.is_dir():
        return
    inner = Path(source.path.rpartition("://")[2], (source.dataset or "").strip("/"))
    for folder in {place, inner, inner.parent} if inner.is_relative_to(place) else {place}:
        yield from (folder / name for name in _METADATA)
    # Of the levels of an image; within an array there may be as many folders as chunks.
    if inner.is_dir() and not (inner / ".zarray").is_file():
        yield from (path for name in _ZARR_FILES for path in sorted(inner.glob(f"*/{name}")))


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
    return Opened(array, _name_plain(len(array.shape)), chunks=sizes if has_sizes else None)


def _name_plain(n_axes: int) -> str:
    """Return the letters of axes that have no names: of more than three nobody knows."""
    return "zyx"[-n_axes:] if 0 < n_axes <= len(AXES) else ""


def _need_path(path: Path, name: str) -> None:
    if not path.exists():
        from nipype_blm.io.files import explain_absence

        reason = explain_absence(path) or "does not exist"
        raise InputError(f"{name}: {path} {reason}.")


def _end(reason: object) -> str:
    """Return what a library says as the end of a sentence."""
    return f"{' '.join(str(reason).split()).rstrip('.')}."


def _split_inside(source: "Source", ending: re.Pattern[str]) -> tuple[Path, str]:
    """Return the path of a store, and that of an array within it."""
    inner = (source.dataset or "").strip("/")
    found = ending.search(source.path)
    if found is None or Path(source.path).exists():
        return Path(source.path), inner
    rest = source.path[found.end() :].strip("/")
    return Path(source.path[: found.end()]), "/".join(each for each in (rest, inner) if each)


# ------------------------------------------------------------------------------------- NIfTI


def _open_nifti(source: "Source", name: str) -> Opened:
    import nibabel as nib

    from nipype_blm.data.libraries import explaining, quiet_libraries

    path = Path(source.path)
    _need_path(path, name)
    # Kept open, what has been unpacked for one block is not unpacked again for the next.
    options = {"keep_file_open": True} if is_compressed(source.path) else {}
    with explaining(path), quiet_libraries():
        image: Any = nib.load(path, mmap=False, **options)
        array = _Scaled(image)
    axes = image.affine[:3, :3]
    sizes = np.sqrt((axes**2).sum(axis=0))
    # In other stores there is an origin only where the axes are those of space.
    is_straight = np.allclose(axes, np.diag(sizes), rtol=1e-5, atol=1e-5 * sizes.min())
    return Opened(
        array,
        "xyztcuv"[: len(array.shape)],
        _round(sizes),
        "millimeter",
        _round(image.affine[:3, 3]) if is_straight else (),
        affine=image.affine,
    )


def _round(values: Any) -> list[float]:
    """Return as many digits as numbers of single precision have, as those of a header."""
    return [float(f"{n:.7g}") for n in values]


class _Scaled:
    """nibabel's proxy, with the type of the values that it gives, and not of those on the disk."""

    def __init__(self, image: Any) -> None:
        self._proxy, self.shape = image.dataobj, image.shape
        self.dtype = self[(slice(0, 1),) * len(self.shape)].dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asanyarray(self._proxy[index])


def is_compressed(path: str) -> bool:
    """Return whether an image can only be read from its start."""
    return path.lower().endswith((".gz", ".bz2", ".zst", ".mgz"))


# -------------------------------------------------------------------------------------- Zarr


def _open_zarr(source: "Source", name: str) -> Opened:
    import zarr

    path, inner = _split_inside(source, _ZARR)
    _need_path(path, name)
    if path.name in _ZARR_FILES:
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
        raise InputError(f"{name}: {path} cannot be opened as Zarr: {_end(error)}") from error
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


def _open_group(node: Any, source: "Source", name: str) -> Opened:
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
        return _name_plain(array.ndim)
    letters = "".join(str(each)[0].lower() for each in named)
    is_clear = len(set(letters)) == len(letters) == array.ndim and set(letters) & set(AXES)
    return letters if is_clear else ""


def _open_multiscale(node: Any, attributes: Any, source: "Source", name: str) -> Opened:
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
    (sizes, shifts), unit = _share_unit(axes, units, scale.tolist(), origin.tolist())
    channels = attributes.get("omero", {}).get("channels", ())
    labels = [str(each.get("label", "")) for each in channels]
    opened = Opened(array, axes, sizes, unit, shifts, labels=labels)
    return _describe_zarr(array, opened, name)


def _name_letter(axis: Any) -> str:
    """Return the letter of an axis of OME-NGFF, which may have another name than t or c."""
    if not isinstance(axis, Mapping):
        return str(axis)[0].lower()
    return {"time": "t", "channel": "c"}.get(axis.get("type", ""), str(axis["name"])[0].lower())


def _share_unit(
    axes: str, units: Sequence[str], *lengths: Sequence[float]
) -> tuple[list[list[float]], str]:
    """Return lengths along all axes in one unit, that of the last one of space, and the unit."""
    known = [units[i] for i, axis in enumerate(axes) if axis in AXES]
    unit = known[-1] if known and all(known) else ""
    if len(set(known)) > 1 and not all(each in METRES for each in known):
        unit = ""
    factors = [
        METRES[given] / METRES[unit] if unit and axis in AXES and given != unit else 1.0
        for axis, given in zip(axes, units, strict=True)
    ]
    shared = [[float(n) * f for n, f in zip(each, factors, strict=True)] for each in lengths]
    return shared, unit


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


# -------------------------------------------------------------------------------------- HDF5


def _open_hdf5(source: "Source", name: str) -> Opened:
    import h5py

    path, inner = _split_inside(source, _HDF5)
    _need_path(path, name)
    try:
        file = _open_hdf5_file(path)
    except BlockingIOError as error:
        raise InputError(
            f"{name}: {path} is held by a program that writes to it; wait until that has closed it."
        ) from error
    except OSError as error:
        raise InputError(f"{name}: {path} cannot be opened as HDF5: {_end(error)}") from error
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
    return Opened(array, _name_plain(array.ndim), chunks=array.chunks)


# ------------------------------------------------------------------------------- TensorStore


def _open_hdf5_file(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        # Many network disks have no locks, and nothing is written.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return h5py.File(path, "r", locking=False)


def _open_tensorstore(source: "Source", name: str) -> Opened:
    import tensorstore as ts

    scheme, address = _find_address(source)
    if address.startswith("file://"):
        _need_path(Path(address.removeprefix("file://")), name)
    spec: dict[str, Any] = {"driver": DRIVERS[scheme], "kvstore": f"{address.rstrip('/')}/"}
    if scheme == "precomputed":
        spec["scale_index"] = source.level
    elif source.level:
        raise InputError(
            f"{name} was asked for level {source.level} of {source.path}; expected the address of "
            "the level itself, without level."
        )
    try:
        store = ts.open({**spec, **source.options}, open=True, read=True).result()
    except (ValueError, OSError) as error:
        # The first sentence; the rest repeats the whole specification.
        reason = _end(str(error).partition(" [")[0])
        raise InputError(f"{name}: {source.path} cannot be opened: {reason}") from error
    domain = store.domain
    axes = "".join((label or "?")[0].lower() for label in domain.labels)
    if "?" in axes:
        # N5 counts from the axis that changes fastest.
        plain = _name_plain(store.ndim)
        axes = plain[::-1] if scheme == "n5" else plain
    quantities = store.dimension_units or [None] * store.ndim
    units = [each.base_unit if each else "" for each in quantities]
    sizes = [float(each.multiplier) if each else 1.0 for each in quantities]
    (sizes,), unit = _share_unit(axes or "?" * store.ndim, units, sizes)
    ends = zip(domain.inclusive_min, domain.exclusive_max, strict=True)
    bounds = [(int(low), int(high)) for low, high in ends]
    chunks = [int(n or 1) for n in store.chunk_layout.read_chunk.shape or ()] or None
    return Opened(store, axes, sizes, unit, bounds=bounds, chunks=chunks)


def _find_address(source: "Source") -> tuple[str, str]:
    """Return the scheme of a store, one of `DRIVERS`, and its address."""
    scheme, has_scheme, address = source.path.partition("://")
    if not has_scheme:
        path = Path(source.path).absolute()
        is_n5 = _N5.search(source.path) or (path / "attributes.json").is_file()
        scheme, address = "n5" if is_n5 else "precomputed", str(path)
    if source.dataset:
        address = f"{address.rstrip('/')}/{source.dataset.strip('/')}"
    return scheme, address if "://" in address else f"file://{Path(address).absolute()}"


# ------------------------------------------------------------------------------------ others


def _open_boss(source: "Source", name: str) -> Opened:
    from nipype_blm.blockmap.boss.client import BossArray

    array = BossArray(find_volume(source))
    voxel_size = list(map(float, array.voxel_size))
    return Opened(array, "zyx", voxel_size, str(array.voxel_unit or ""), bounds=array.extent)


def find_volume(source: "Source") -> "Volume":
    """Return the volume of a BOSS that a source is."""
    from nipype_blm.blockmap.boss.volumes import parse_uri

    return parse_uri(source.path, **{"resolution": source.level, **source.options})


def _open_python(source: "Source", name: str) -> Opened:
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
            f"{name}: {source.path} has failed: {type(error).__name__}: {_end(error)}"
        ) from error
    return describe_array(array, name)


# A new kind of store is a line here, and what tells it in `tell_kind`.
OPENERS: dict[str, Callable[["Source", str], Opened]] = {
    "nifti": _open_nifti,
    "zarr": _open_zarr,
    "hdf5": _open_hdf5,
    "tensorstore": _open_tensorstore,
    "boss": _open_boss,
    "python": _open_python,
}
# What each of them uses of a source.
_USED = {
    "zarr": ("dataset", "level"),
    "hdf5": ("dataset",),
    "tensorstore": ("dataset", "level", "options"),
    "boss": ("level", "options"),
    "python": ("options",),
}


def check_fields(source: "Source", name: str) -> None:
    """Refuse fields that an opener does not use.

    Raises
    ------
    InputError
    """
    used = _USED.get(source.opener, ())
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


# Those whose libraries are in an extra of this name.
EXTRAS = ("zarr", "hdf5", "tensorstore", "boss")
