"""Look at what a circuit is to be made from: ``inspect_inputs.py REQUEST.json FACTS.json``.

A request names files, and what of them is taken; the answer has facts for each, and no judgement.
What fails is a fact, too: ``{"error": "OSError: ..."}``.  Large files are read in pieces, or
samples of them.
"""

# mypy: disable-error-code="import-not-found"
import bz2
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any, BinaryIO, NamedTuple

import nrrd
import numpy as np
from scipy import ndimage

# Functions `inspect_NAME`, which are told what of a request has that name, and the region.
_SCRIPTS = {
    "vasculature": "inspect_vessels.py",
    "mesh": "inspect_vessels.py",
    **dict.fromkeys(("cells", "synapses", "index", "circuit"), "inspect_neurons.py"),
}
_PIECE_BYTES = 2**24  # of a file that is read in pieces
# ArchNGV itself labels a volume of this many voxels for each piece of a region.
_MOST_LABELLED = 2 * 10**8
_LEAST_OF_DOMAINS = 10  # voxels of a piece of a region; ArchNGV makes no domains in smaller ones
_MOST_UNKNOWN = 2000


def main(request_path: str, out_path: str) -> None:
    """Write the facts that are asked for."""
    request = json.loads(Path(request_path).read_text())
    region = None
    facts: dict[str, Any] = {}
    if "atlas" in request:
        facts["atlas"] = _attempt(_inspect_atlas, request["atlas"])
        region = facts["atlas"].pop("region", None)
    for name, script in _SCRIPTS.items():
        if name in request:
            function = run_path(str(Path(__file__).with_name(script)))[f"inspect_{name}"]
            facts[name] = _attempt(function, request[name], region)
    Path(out_path).write_text(json.dumps(facts, default=_simplify))


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as fault:
        return {"error": f"{type(fault).__name__}: {fault}"}


def _simplify(value: Any) -> Any:
    return value.tolist()


class Region(NamedTuple):
    """Where astrocytes are, and the box of it."""

    mask: Any  # of its box
    start: Any  # first voxel of that
    voxel: Any
    offset: Any

    @property
    def box(self) -> tuple[Any, Any]:
        """Both corners, in um."""
        low = self.offset + self.start * self.voxel
        return low, low + np.array(self.mask.shape) * self.voxel

    def is_in_box(self, points: Any, margin: float = 0.0) -> Any:
        """Say which points are in the box."""
        low, high = self.box
        return ((points >= low - margin) & (points <= high + margin)).all(axis=1)

    def has(self, points: Any) -> Any:
        """Say which points are in the region itself."""
        inside = self.is_in_box(points)
        index = ((points[inside] - self.box[0]) / self.voxel).astype(int)
        index = np.minimum(index, np.array(self.mask.shape) - 1)
        inside[inside] = self.mask[tuple(index.T)]
        return inside


def _inspect_atlas(request: Any) -> dict[str, Any]:
    folder = Path(request["folder"])
    paths = {name: folder / file for name, file in request["volumes"].items()}
    facts: dict[str, Any] = {name: _attempt(_inspect_header, path) for name, path in paths.items()}
    ids = None
    if request["region"] is not None:
        facts |= _attempt(_find_region, folder / "hierarchy.json", request["region"])
        ids = facts.pop("ids", None)
        if ids is None:
            return facts
    if len(facts["regions"].get("voxel") or ()) == len(facts["regions"].get("shape", ())) == 3:
        facts |= _attempt(_count_voxels, paths, facts, ids)
    return facts


def _inspect_header(path: Path) -> dict[str, Any]:
    header = nrrd.read_header(str(path))
    facts = {
        "type": str(nrrd.reader._determine_datatype(header)),
        "shape": header["sizes"].tolist(),
        "space": header.get("space"),
        "space_dimension": header.get("space dimension"),
        "offset": [0.0] * 3 if (origin := header.get("space origin")) is None else origin.tolist(),
        "directions": None,
        "voxel": None,
    }
    directions, spacings = header.get("space directions"), header.get("spacings")
    if directions is not None:
        facts["directions"] = np.asarray(directions).tolist()
        rows = np.asarray(directions, np.float32)
        if rows.shape == (3, 3):
            facts["voxel"] = rows.diagonal().tolist()
    elif spacings is not None:
        facts["voxel"] = np.asarray(spacings, np.float32).tolist()
    return facts


def _find_region(hierarchy: Path, name: str) -> dict[str, Any]:
    from voxcell import RegionMap

    regions = RegionMap.load_json(hierarchy)
    ids = regions.find(name, "acronym", with_descendants=True)
    known = {0, *regions._data}
    if not ids:
        return {"acronyms": sorted({str(regions.get(each, "acronym")) for each in regions._data})}
    return {"ids": (np.array(sorted(ids)), np.array(sorted(known)))}


def _count_voxels(paths: dict[str, Path], facts: dict[str, Any], ids: Any) -> dict[str, Any]:
    """Read volumes together, some planes at a time."""
    shape = facts["regions"]["shape"]
    same = [name for name in paths if facts[name].get("shape") == shape]
    counts = _Counts(ids)
    for piece in zip(*(_read_planes(paths[name]) for name in same), strict=True):
        counts.add(dict(zip(same, piece, strict=True)))
    found: dict[str, Any] = {"n_voxels": counts.n_region, "n_masked": counts.n_masked}
    found |= {"unknown_ids": sorted(counts.unknown)[:5], "n_unknown": counts.n_unknown}
    found |= {"n_labelled": counts.n_labelled, "highest_id": counts.highest_id}
    if "density" in same:
        found |= {"n_nan": counts.n_nan, "n_negative": counts.n_negative, "sum": counts.sum}
        found |= {"highest": counts.highest}
    if not counts.n_masked:
        return found
    mask, start = counts.crop()
    voxel, offset = (np.array(facts["regions"][key]) for key in ("voxel", "offset"))
    found["region"] = Region(mask, start, voxel, offset)
    found["box"] = [corner.tolist() for corner in found["region"].box]
    if mask.size <= _MOST_LABELLED:
        islands = _find_islands(mask)
        found["islands"] = {
            "n": islands.n,
            "n_voxels": islands.n_voxels,
            "n_large": islands.n_large,
        }
        for name, voxels in (("sum", islands.mask), ("sum_shared", islands.shared)):
            if voxels.any() and "density" in same:
                found["islands"][name] = _sum_density(paths["density"], voxels, start)
    return found


def _count(values: Any) -> int:
    return int(np.count_nonzero(values))


class _Counts:
    """What is known of volumes after some of their planes."""

    def __init__(self, ids: Any) -> None:
        self._ids: Any
        self._known: Any
        self._ids, self._known = ids or (None, None)
        self._planes: list[Any] = []
        self.n_region = self.n_masked = self.n_unknown = self.n_labelled = 0
        self.n_nan = self.n_negative = 0
        self.sum = self.highest = self.highest_id = 0.0
        self.unknown: set[int] = set()

    def add(self, piece: dict[str, Any]) -> None:
        """Note planes of all volumes."""
        regions = piece["regions"]
        self.n_labelled += _count(regions)
        if regions.dtype.kind == "f":
            self.highest_id = max(self.highest_id, float(regions.max()))
        if self._ids is None:
            region = regions != 0
        else:
            region = np.isin(regions, self._ids)
            strange = ~np.isin(regions, self._known)
            self.n_unknown += _count(strange)
            if len(self.unknown) < _MOST_UNKNOWN and strange.any():
                self.unknown |= set(np.unique(regions[strange]).tolist())
        self.n_region += _count(region)
        if "mask" in piece:
            region = region & (piece["mask"] != 0)
        self.n_masked += _count(region)
        self._planes.append(region if region.any() else region.shape)
        if "density" in piece:
            density = piece["density"]
            self.n_nan += _count(np.isnan(density))
            # ArchNGV takes the density of the whole atlas if no region is given.
            inside = density if self._ids is None else density[region]
            self.n_negative += _count(inside < 0)
            self.sum += float(np.nansum(inside, dtype=float))
            if inside.size:
                self.highest = max(self.highest, float(np.nanmax(inside)))

    def crop(self) -> tuple[Any, Any]:
        """Return the region in its box, and where that starts."""
        used = [np.zeros(size, bool) for size in self._planes_shape()]
        z = 0
        for planes in self._planes:
            n = (planes if isinstance(planes, tuple) else planes.shape)[2]
            if not isinstance(planes, tuple):
                used[0] |= planes.any(axis=(1, 2))
                used[1] |= planes.any(axis=(0, 2))
                used[2][z : z + n] = planes.any(axis=(0, 1))
            z += n
        low = [int(np.argmax(each)) for each in used]
        high = [len(each) - int(np.argmax(each[::-1])) for each in used]
        mask = np.zeros([h - w for w, h in zip(low, high, strict=True)], bool)
        z = 0
        for planes in self._planes:
            n = (planes if isinstance(planes, tuple) else planes.shape)[2]
            first, last = max(z, low[2]), min(z + n, high[2])
            if not isinstance(planes, tuple) and first < last:
                part = planes[low[0] : high[0], low[1] : high[1], first - z : last - z]
                mask[:, :, first - low[2] : last - low[2]] = part
            z += n
        return mask, np.array(low)

    def _planes_shape(self) -> tuple[int, int, int]:
        shapes = [each if isinstance(each, tuple) else each.shape for each in self._planes]
        return shapes[0][0], shapes[0][1], sum(shape[2] for shape in shapes)


class _Islands(NamedTuple):
    n: int
    n_voxels: int
    n_large: int  # pieces that are large enough
    mask: Any  # voxels of small pieces, out of the boxes of large ones
    shared: Any  # voxels of the region in the boxes of several large pieces


def _find_islands(mask: Any) -> _Islands:
    """Find pieces of a region in which astrocytes get no domain, or more than one."""
    labels, n = ndimage.label(mask, np.ones((3, 3, 3)))
    is_small = np.bincount(labels.ravel(), minlength=n + 1) < _LEAST_OF_DOMAINS
    is_small[0] = False
    # ArchNGV takes all astrocytes in the box of a piece for those of the piece.
    n_boxes = np.zeros(mask.shape, np.uint8)
    for box in ndimage.find_objects(np.where(is_small[labels], 0, labels)):
        if box is not None:
            n_boxes[box] = np.minimum(n_boxes[box], 1) + 1  # more than two make no difference
    small = is_small[labels] & (n_boxes == 0)
    pieces = np.unique(labels[small])
    n_large = n - int(is_small.sum())
    return _Islands(len(pieces), _count(small), n_large, small, mask & (n_boxes > 1))


def _sum_density(path: Path, where: Any, start: Any) -> float:
    total, z = 0.0, 0
    x, y = (slice(first, first + size) for first, size in zip(start, where.shape[:2], strict=False))
    for planes in _read_planes(path):
        n = planes.shape[2]
        first, last = max(z, start[2]), min(z + n, start[2] + where.shape[2])
        if first < last:
            inside = planes[x, y, first - z : last - z]
            total += float(np.nansum(inside[where[:, :, first - start[2] : last - start[2]]]))
        z += n
    return total


def _read_planes(path: Path) -> Iterator[Any]:
    """Read a volume, some planes across its last axis at a time."""
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        shape, encoding = tuple(map(int, header["sizes"])), header["encoding"]
        opened = _open_data(file, encoding) if "data file" not in header else None
        if opened is None or {"line skip", "lineskip", "byte skip", "byteskip"} & header.keys():
            volume = nrrd.read(str(path))[0]
        else:
            dtype = nrrd.reader._determine_datatype(header)
            plane = shape[0] * shape[1] * dtype.itemsize
            n = max(1, _PIECE_BYTES // plane)
            for z in range(0, shape[2], n):
                planes = min(n, shape[2] - z)
                data = opened.read(planes * plane)
                if len(data) < planes * plane:
                    raise ValueError(f"the file ends after {z} of {shape[2]} planes")
                yield np.frombuffer(data, dtype).reshape((*shape[:2], planes), order="F")
            return
    n = max(1, _PIECE_BYTES // max(1, volume[..., :1].nbytes))
    for z in range(0, shape[2], n):
        yield volume[:, :, z : z + n]


def _open_data(file: BinaryIO, encoding: str) -> Any:
    if encoding == "raw":
        return file
    if encoding in ("gzip", "gz"):
        return gzip.GzipFile(fileobj=file)
    if encoding in ("bzip2", "bz2"):
        return bz2.BZ2File(file)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
