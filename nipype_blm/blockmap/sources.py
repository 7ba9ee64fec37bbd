"""Where voxels come from: one opener for each kind of store, all by the libraries that know it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES, Extent, Triple
from nipype_blm.errors import InputError, join_some, show

if TYPE_CHECKING:
    from nipype_blm.blockmap.boss import Volume

_NIFTI = re.compile(r"\.(nii|mgh|mgz|mnc|hdr|img)(\.(gz|bz2|zst))?$", re.IGNORECASE)
_HDF5 = re.compile(r"\.(h5|hdf5|hdf|he5|nwb|ims)(?=/|$)", re.IGNORECASE)
_ZARR = re.compile(r"\.(zarr|n5)(?=/|$)|/zarr\.json$|/\.zarray$", re.IGNORECASE)
# Schemes whose rest is the address of a store, and the driver of TensorStore that reads it.
_DRIVERS = {
    "precomputed": "neuroglancer_precomputed",
    "n5": "n5",
    "zarr2": "zarr",
    "zarr3": "zarr3",
}
_REMOTE = re.compile(r"^(https?|s3|gs|gcs)://")


@dataclass(frozen=True)
class Source:
    """Where the voxels of a channel are, in words that can be written down.

    Parameters
    ----------
    path : str
        A path, or an address: ``precomputed://``, ``n5://``, ``zarr2://``, ``zarr3://`` and the
        address of a store, ``bossdb://collection/experiment/channel``, ``python:module:function``.
    kind : str
        One of `OPENERS`; by default told by the path.
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


@dataclass(frozen=True)
class Opened:
    """What an opener has found."""

    array: Any  # with shape, dtype and __getitem__
    axes: str  # a letter for each axis of the array
    voxel_size: Mapping[str, float] = field(default_factory=dict)  # by axis
    unit: str = ""  # of that
    # Start and stop of axes that do not begin at 0.
    extent: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    chunks: Sequence[int] | None = None  # of the store, along all axes
    labels: Sequence[str] = ()  # of channels
    affine: Any = None  # of NIfTI: (4, 4), from x, y, z in voxels to mm


class Channel:
    """An array-like, read by boxes of z, y, x whatever the order of its axes is.

    Parameters
    ----------
    opened : Opened
    source : Source
    name : str
        By which messages call it.

    Raises
    ------
    InputError
        If axes are unclear, or a position along one of them is out of its range.
    """

    def __init__(self, opened: Opened, source: Source, name: str) -> None:
        self.opened, self.source, self.name = opened, source, name
        self._array = opened.array
        self.dtype = np.dtype(_find_dtype(opened.array))
        shape = [int(n) for n in opened.array.shape]
        axes = (source.axes or opened.axes).lower()
        if len(axes) != len(shape) or len(set(axes)) != len(axes) or not set(axes) & set(AXES):
            guess = "".join("tcn"[: max(0, len(shape) - 3)]) + "zyx"[-len(shape) :]
            raise InputError(
                f"{name} has {len(shape)} axes of {' x '.join(map(str, shape))} voxels, and its "
                f"axes are {show(axes)}; give axes, a letter for each in the order of the array, "
                f"with z, y and x among them, such as {guess}."
            )
        self._axes, self._sizes = axes, dict(zip(axes, shape, strict=True))
        self._at = self._choose_places()
        self._kept = [a for a in axes if a not in AXES and a not in self._at]

    def _choose_places(self) -> dict[str, int]:
        """Return where to stay along the axes that are not read whole."""
        at = {str(axis).lower(): place for axis, place in self.source.at.items()}
        if self.source.channel is not None:
            at["c"] = self._find_channel(self.source.channel)
        unknown = [a for a in (*at, *self.source.keep) if a not in self._axes or a in AXES]
        if unknown:
            raise InputError(
                f"{self.name} has no further axis {unknown[0]}; its axes are {self._axes}."
            )
        for axis in self._axes:
            if axis in AXES or axis in self.source.keep:
                continue
            size = self._sizes[axis]
            if axis not in at and size == 1:
                at[axis] = 0
            if axis not in at:
                named = f": {join_some(self.opened.labels)}" if axis == "c" else ""
                raise InputError(
                    f"{self.name} has {size} places along axis {axis}{named}.  Choose one, with "
                    f"`{'channel: 0' if axis == 'c' else f'at: {{{axis}: 0}}'}`, or have the "
                    f"function get all of them, with `keep: {axis}`."
                )
            if not 0 <= at[axis] < size:
                raise InputError(
                    f"{self.name} was asked for place {at[axis]} along axis {axis}, which has "
                    f"{size}, from 0."
                )
        return at

    def _find_channel(self, given: int | str) -> int:
        if isinstance(given, int):
            return given
        if given in self.opened.labels:
            return list(self.opened.labels).index(given)
        raise InputError(
            f"{self.name} has no channel {show(given)}; it has "
            f"{join_some(self.opened.labels) or 'channels without labels: give a number'}."
        )

    @property
    def extent(self) -> Extent:
        """Start and stop along z, y, x, in voxels."""
        return {a: self.opened.extent.get(a, (0, self._sizes.get(a, 1))) for a in AXES}

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        z, y, x = (stop - start for start, stop in self.extent.values())
        return z, y, x

    @property
    def chunks(self) -> Triple | None:
        """Voxels of a chunk of the store along z, y, x; None if it has none."""
        if self.opened.chunks is None:
            return None
        sizes = dict(zip(self._axes, self.opened.chunks, strict=True))
        z, y, x = (int(sizes.get(axis, 1)) for axis in AXES)
        return z, y, x

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Length of a voxel along z, y, x; 1 where it is not known."""
        z, y, x = (float(self.opened.voxel_size.get(axis, 1)) for axis in AXES)
        return z, y, x

    @property
    def n_kept(self) -> int:
        """Values at each voxel."""
        return int(np.prod([self._sizes[axis] for axis in self._kept], dtype=int))

    def read(self, start: Triple, stop: Triple) -> NDArray[Any]:
        """Return a box; axes that are kept whole come before z, y, x."""
        ranges = dict(zip(AXES, zip(start, stop, strict=True), strict=True))
        index = tuple(
            slice(*ranges[axis]) if axis in AXES else self._at.get(axis, slice(None))
            for axis in self._axes
        )
        values = np.asarray(self._array[index])
        left = [axis for axis in self._axes if axis not in self._at]
        order = [*self._kept, *(axis for axis in AXES if axis in left)]
        values = values.transpose([left.index(axis) for axis in order])
        shape = [self._sizes[axis] for axis in self._kept]
        # Axes that the store does not have; and the bytes of other machines as ours.
        values = values.reshape(*shape, *(b - a for a, b in ranges.values()))
        return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def _find_dtype(array: Any) -> Any:
    dtype = array.dtype
    return getattr(dtype, "numpy_dtype", dtype)  # of TensorStore


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
    if has_scheme and scheme in _DRIVERS:
        return "tensorstore"
    if scheme == "bossdb":
        return "boss"
    if has_scheme and _REMOTE.match(path):
        raise InputError(
            f"{path} does not say what is stored there; write precomputed://{path}, "
            f"zarr2://{path}, zarr3://{path} or n5://{path}."
        )
    if _HDF5.search(path):
        return "hdf5"
    if _ZARR.search(path) or _is_zarr(Path(path)):
        return "zarr"
    if _NIFTI.search(path):
        return "nifti"
    if (Path(path) / "info").is_file():
        return "tensorstore"
    raise InputError(
        f"{path} is {'there, but' if Path(path).exists() else 'not there, and'} nothing tells what "
        f"it is; expected NIfTI (.nii, .nii.gz), Zarr, HDF5 (.h5), a folder of precomputed, or an "
        "address such as precomputed://... or bossdb://collection/experiment/channel."
    )


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_channel(source: Source | Any, name: str) -> Channel:
    """Open a source, or take an array-like as it is.

    Raises
    ------
    InputError
        If it is not there, or cannot be read.
    """
    if not isinstance(source, Source):
        wanted = ("shape", "dtype", "__getitem__")
        if not all(hasattr(source, each) for each in wanted):
            raise InputError(
                f"{name} is {show(source)}; expected a path, an address, or an array with shape "
                "and dtype."
            )
        axes = "tczyx"[-len(source.shape) :] if len(source.shape) <= 3 else ""
        chunks = getattr(source, "chunks", None)
        is_plain = isinstance(chunks, tuple) and all(isinstance(n, int) for n in chunks)
        opened = Opened(source, axes, chunks=chunks if is_plain else None)
        return Channel(opened, Source(type(source).__name__, "array"), name)
    opener = OPENERS[source.opener]
    try:
        return Channel(opener(source, name), source, name)
    except ImportError as error:
        extra = "boss" if source.opener == "boss" else "blockmap"
        raise InputError(
            f"{name} {source.path} needs {error.name or error}, which is not installed; install "
            f"nipype_blm[{extra}]."
        ) from error


@lru_cache(maxsize=64)
def _remember(description: str, name: str) -> Channel:
    return open_channel(Source(**json.loads(description)), name)


def reopen_channel(source: Source, name: str) -> Channel:
    """Return a channel that this process has opened before, or open it.

    Opening reads metadata, of a remote store over the network: once for each process.
    """
    return _remember(json.dumps(source.describe(), sort_keys=True), name)


def _need_path(source: Source, name: str) -> Path:
    path = Path(source.path)
    if not path.exists():
        from nipype_blm.io.files import explain_absence

        reason = explain_absence(path) or "does not exist"
        raise InputError(f"{name}: {path} {reason}.")
    return path


def _open_nifti(source: Source, name: str) -> Opened:
    import nibabel as nib

    from nipype_blm.data.libraries import explaining, quiet_libraries

    path = _need_path(source, name)
    with explaining(path), quiet_libraries():
        image: Any = nib.load(path)
        shape = image.shape
        sizes = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    axes = "xyztcuv"[: len(shape)]
    voxel_size = dict(zip("xyz", map(float, sizes), strict=False))
    return Opened(_Scaled(image), axes, voxel_size, "millimeter", affine=image.affine)


class _Scaled:
    """nibabel's proxy, with the type of the values that it gives, and not of those on the disk."""

    def __init__(self, image: Any) -> None:
        self._proxy, self.shape = image.dataobj, image.shape
        self.dtype = np.asanyarray(self._proxy[(slice(0, 1),) * len(self.shape)]).dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asanyarray(self._proxy[index])


def _open_zarr(source: Source, name: str) -> Opened:
    import zarr

    path, inner = _split_inside(source, _ZARR)
    if not path.exists():
        _need_path(Source(str(path)), name)
    try:
        node: Any = zarr.open(str(path), mode="r", path=inner or "")
    except Exception as error:
        raise InputError(f"{name}: {path} cannot be opened as Zarr: {error}") from error
    if isinstance(node, zarr.Array):
        return Opened(node, _name_axes(node), chunks=node.chunks)
    attributes = dict(node.attrs)
    attributes = attributes.get("ome", attributes)
    if "multiscales" in attributes:
        return _open_multiscale(node, attributes, source, name)
    arrays = sorted(key for key, _ in node.arrays())
    groups = sorted(key for key, _ in node.groups())
    if len(arrays) == 1 and not groups:
        return Opened(node[arrays[0]], _name_axes(node[arrays[0]]), chunks=node[arrays[0]].chunks)
    raise InputError(
        f"{name}: {path} is a Zarr group; give one of its arrays with dataset: "
        f"{join_some([*arrays, *(f'{each}/...' for each in groups)]) or 'it has none'}."
    )


def _name_axes(array: Any) -> str:
    """Return the letters of a plain Zarr array; empty if neither it nor custom tells."""
    named = getattr(array.metadata, "dimension_names", None)
    named = named or array.attrs.get("_ARRAY_DIMENSIONS")
    if named and all(named):
        letters = "".join(str(each)[0].lower() for each in named)
        if len(set(letters)) == len(letters) and set(letters) & set(AXES):
            return letters
    return "zyx"[-array.ndim :] if array.ndim <= len(AXES) else ""


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
    axes = "".join(str(each["name"] if isinstance(each, Mapping) else each)[0] for each in named)
    units = [each.get("unit", "") for each in named if isinstance(each, Mapping)]
    scale = np.ones(array.ndim)
    for steps in (image, level):
        for step in steps.get("coordinateTransformations", ()):
            if step["type"] == "scale":
                scale = scale * np.asarray(step["scale"], float)
    by_axis = dict(zip(axes.lower(), map(float, scale), strict=False))
    labels = [
        str(each.get("label", "")) for each in attributes.get("omero", {}).get("channels", ())
    ]
    unit = units[-1] if units else ""
    return Opened(array, axes, by_axis, unit, chunks=array.chunks, labels=labels)


def _split_inside(source: Source, ending: re.Pattern[str]) -> tuple[Path, str]:
    """Return the path of a store, and that of an array within it."""
    found = ending.search(source.path)
    if source.dataset is not None or found is None or Path(source.path).exists():
        return Path(source.path), (source.dataset or "").strip("/")
    return Path(source.path[: found.end()]), source.path[found.end() :].strip("/")


def _open_hdf5(source: Source, name: str) -> Opened:
    import h5py

    path, inner = _split_inside(source, _HDF5)
    _need_path(Source(str(path)), name)
    try:
        # Many network disks have no locks, and nothing is written.
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError(f"{name}: {path} cannot be opened as HDF5: {error}") from error
    datasets: list[str] = []

    def note(key: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim >= 2:
            datasets.append(key)

    if not inner:
        file.visititems(note)
        if len(datasets) != 1:
            raise InputError(
                f"{name}: {path} has {join_some(datasets) or 'no dataset of 2 or more axes'}; give "
                "one of them with dataset."
            )
        inner = datasets[0]
    if not isinstance(file.get(inner), h5py.Dataset):
        file.visititems(note)
        raise InputError(f"{name}: {path} has no dataset {inner}; it has {join_some(datasets)}.")
    array = file[inner]
    axes = "zyx"[-array.ndim :] if array.ndim <= len(AXES) else ""
    return Opened(array, axes, chunks=array.chunks)


def _open_tensorstore(source: Source, name: str) -> Opened:
    import tensorstore as ts

    spec: dict[str, Any]
    if "://" in source.path:
        scheme, _, address = source.path.partition("://")
    else:
        scheme, address = "precomputed", str(Path(source.path).absolute())
    if "://" not in address:
        address = f"file://{Path(address).absolute()}"
    spec = {"driver": _DRIVERS[scheme], "kvstore": f"{address.rstrip('/')}/"}
    if scheme == "precomputed":
        spec["scale_index"] = source.level
    try:
        store = ts.open({**spec, **source.options}, open=True, read=True).result()
    except ValueError as error:
        # The first sentence; the rest repeats the whole specification.
        reason = str(error).partition(" [")[0]
        raise InputError(f"{name}: {source.path} cannot be opened: {reason}") from error
    domain = store.domain
    letters = "".join((label or "?")[0] for label in domain.labels)
    axes = letters if "?" not in letters else "zyx"[-store.ndim :] if store.ndim <= 3 else ""
    units = dict(zip(axes, store.dimension_units or (), strict=False))
    voxel_size = {a: float(u.multiplier) for a, u in units.items() if a in AXES and u is not None}
    unit = next((u.base_unit for a, u in units.items() if a in AXES and u is not None), "")
    bounds = zip(domain.inclusive_min, domain.exclusive_max, strict=True)
    extent = {a: (int(low), int(high)) for a, (low, high) in zip(axes, bounds, strict=False)}
    chunks = [int(n or 1) for n in store.chunk_layout.read_chunk.shape or ()] or None
    return Opened(store, axes, voxel_size, unit, extent, chunks)


def _open_boss(source: Source, name: str) -> Opened:
    from nipype_blm.blockmap.boss import find_extent, open_volume

    array = open_volume(find_volume(source))
    voxel_size = dict(zip(AXES, map(float, array.voxel_size), strict=True))
    return Opened(array, "zyx", voxel_size, str(array.voxel_unit or ""), find_extent(array))


def find_volume(source: Source) -> "Volume":
    """Return the volume of a BOSS that a source is."""
    from nipype_blm.blockmap.boss import parse_uri

    return parse_uri(source.path, **{"resolution": source.level, **source.options})


def _open_python(source: Source, name: str) -> Opened:
    from nipype_blm.blockmap.functions import find_function

    function = find_function(source.path.removeprefix("python:"))
    array = function(**source.options)
    return open_channel(array, name).opened


# A new kind of store is a line here, and what tells it in `tell_kind`.
OPENERS: dict[str, Callable[[Source, str], Opened]] = {
    "nifti": _open_nifti,
    "zarr": _open_zarr,
    "hdf5": _open_hdf5,
    "tensorstore": _open_tensorstore,
    "boss": _open_boss,
    "python": _open_python,
}
