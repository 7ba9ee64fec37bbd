"""Look at vessels: their skeleton, their surface, and whether one belongs to the other."""

# mypy: disable-error-code="import-not-found"
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.spatial import cKDTree

_PIECE_BYTES = 2**24  # of a file that is read in pieces
_PIECE_ROWS = 2**20
_MOST_READ = 2**28  # bytes of a mesh: of a larger one, blocks
_MOST_POINTS = 10**6
_MOST_SEGMENTS = 2 * 10**5  # that a mesh is compared with
_SAMPLE = 2000
_N_NEAREST = 8  # segments that a vertex may belong to
_FAR_RADII, _FAR_UM = 0.25, 1.0  # which a vertex may be out of a vessel; the larger one counts
_N_STEPS = 30
# What the units of a mesh may be, if they are not those of the skeleton; and voxels of 10 or 25 um.
_FACTORS = (1000.0, 1e-3, 25.0, 0.04, 10.0, 0.1, 1e4, 1e-4, 1e6, 1e-6)


def inspect_vasculature(request: Any, region: Any) -> dict[str, Any]:
    """Return facts of a skeleton, in the form of morphologies."""
    with h5py.File(request["path"], "r") as file:
        facts: dict[str, Any] = {"groups": sorted(file)}
        names = ("points", "structure", "connectivity")
        facts["shapes"] = {name: file[name].shape for name in names if name in file}
        if not _is_skeleton(facts["shapes"]):
            return facts
        starts = file["structure"][:, 0].astype(np.int64)
        facts["n_sections"] = len(starts)
        if file["connectivity"].size:
            ends = [(int(piece.min()), int(piece.max())) for piece in _pieces(file["connectivity"])]
            facts["connected"] = [min(low for low, _ in ends), max(high for _, high in ends)]
        n = len(file["points"])
        facts |= {"n_points": n, "starts": [int(starts.min()), int(starts.max())]}
        facts["is_in_order"] = bool((np.diff(starts) > 0).all())
        return facts | _measure_vessels(file["points"], starts, region)


def _is_skeleton(shapes: dict[str, Any]) -> bool:
    fits = {name: len(shape) == 2 for name, shape in shapes.items()}
    if len(fits) < 3 or not all(fits.values()):
        return False
    columns = [shapes[name][1] for name in ("points", "structure", "connectivity")]
    return columns == [4, 2, 2] and shapes["points"][0] > 1 and shapes["structure"][0] > 0


def _pieces(data: Any, overlap: int = 0) -> Iterator[Any]:
    for first in range(0, len(data), _PIECE_ROWS):
        yield data[first : first + _PIECE_ROWS + overlap]


def _measure_vessels(data: Any, starts: Any, region: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("n_nan", "n_thin", "n_short"), 0)
    sums = dict.fromkeys(("length", "length_in_box", "length_inside", "volume_inside"), 0.0)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    diameters, first = [], 0
    is_start = np.zeros(len(data) + 1, bool)
    is_start[np.clip(starts, 0, len(data))] = True
    step = max(1, len(data) // _MOST_POINTS)
    for piece in _pieces(data, overlap=1):
        own = piece[:_PIECE_ROWS]
        counts["n_nan"] += int((~np.isfinite(own)).any(axis=1).sum())
        counts["n_thin"] += int((own[:, 3] <= 0).sum())
        diameters.append(own[::step, 3])
        if np.isfinite(own[:, :3]).any():
            low = np.fmin(low, np.nanmin(own[:, :3], axis=0))
            high = np.fmax(high, np.nanmax(own[:, :3], axis=0))
        points = piece[:, :3].astype(float)
        lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
        is_segment = ~is_start[first + 1 : first + len(piece)]
        counts["n_short"] += int((lengths[is_segment] == 0).sum())
        lengths = np.where(is_segment & np.isfinite(lengths), lengths, 0)
        sums["length"] += lengths.sum()
        if region is not None:
            middle = (points[1:] + points[:-1]) / 2
            sums["length_in_box"] += lengths[region.is_in_box(middle)].sum()
            inside = region.has(middle)
            thickness = (piece[1:, 3].astype(float) + piece[:-1, 3]) / 2
            volumes = np.pi / 4 * np.nan_to_num(thickness[inside]) ** 2 * lengths[inside]
            sums["length_inside"] += lengths[inside].sum()
            sums["volume_inside"] += volumes.sum()
        first += len(own)
    facts = counts | sums | {"box": [low.tolist(), high.tolist()]}
    if region is None:
        del facts["length_in_box"], facts["length_inside"], facts["volume_inside"]
    return facts | {"diameter": float(np.nanmedian(np.concatenate(diameters)))}


def inspect_mesh(request: Any, region: Any) -> dict[str, Any]:
    """Return facts of a surface, and how it lies on a skeleton."""
    path = Path(request["path"])
    size = path.stat().st_size
    if path.suffix.lower() == ".obj":
        vertices, faces = _read_obj(path)
    elif size <= _MOST_READ:
        import openmesh

        mesh = openmesh.read_trimesh(str(path))
        vertices, faces = mesh.points(), mesh.face_vertex_indices()
    else:
        return {"size": size}
    is_whole = size <= _MOST_READ
    facts: dict[str, Any] = {"n_vertices": len(vertices), "n_faces": len(faces)}
    facts |= {"is_whole": is_whole, "n_nan": int((~np.isfinite(vertices)).any(axis=1).sum())}
    if not len(vertices) or not len(faces) or facts["n_nan"]:
        return facts
    facts["box"] = [vertices.min(axis=0).tolist(), vertices.max(axis=0).tolist()]
    if is_whole:
        facts["n_lost"] = int(((faces < 0) | (faces >= len(vertices))).any(axis=1).sum())
        if facts["n_lost"]:
            return facts
        ends = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        edges = vertices[ends[::7]]
        facts["edge"] = float(np.median(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1)))
        codes = np.sort(ends[:, 0].astype(np.int64) * len(vertices) + ends[:, 1])
        facts["n_complex"] = int((codes[1:] == codes[:-1]).sum())
    if request.get("skeleton"):
        try:
            facts["match"] = _match(request["skeleton"], vertices, facts, region)
        except _NothingToCompareError:
            pass  # of segments that are longer than what they are in, nothing can be said
        except Exception as fault:
            facts["match"] = {"error": f"{type(fault).__name__}: {fault}"}
    return facts


def _read_obj(path: Path) -> tuple[Any, Any]:
    """Read vertices and triangles; of a large file blocks, in which triangles mean nothing."""
    size = path.stat().st_size
    n_blocks = max(1, min(size, _MOST_READ) // _PIECE_BYTES + 1)
    vertices, faces = [np.empty((0, 3))], [np.empty((0, 3), np.int64)]
    n_before = 0
    with path.open("rb") as file:
        for i in range(n_blocks):
            if size > _MOST_READ:
                file.seek(size // n_blocks * i)
                file.readline()
            block = file.read(_PIECE_BYTES)
            if block:
                block += file.readline()
            lines = block.split(b"\n")
            found = _read_vertices([line[2:] for line in lines if line[:2] == b"v "])
            vertices.append(found)
            n_before += len(found)
            faces.append(_read_faces([line[2:] for line in lines if line[:2] == b"f "], n_before))
    return np.concatenate(vertices), np.concatenate(faces)


def _read_vertices(lines: list[bytes]) -> Any:
    if not lines:
        return np.empty((0, 3))
    n_columns = len(lines[0].split())
    values = np.array(b" ".join(lines).split(), dtype="S32").astype(float)
    if n_columns < 3 or len(values) != n_columns * len(lines):
        raise ValueError(f"a line of a vertex has no 3 numbers, as {lines[0][:40]!r}")
    return values.reshape(-1, n_columns)[:, :3]


def _read_faces(lines: list[bytes], n_before: int) -> Any:
    if not lines:
        return np.empty((0, 3), np.int64)
    text = re.sub(rb"/\S*", b"", b" \n ".join(lines))
    counts = {len(line.split()) for line in text.split(b"\n")}
    if counts != {3}:  # as quads, which are split
        fans = [line.split() for line in text.split(b"\n")]
        corners = [[f[0], f[i], f[i + 1]] for f in fans for i in range(1, len(f) - 1)]
        triangles = np.array(corners, dtype=np.int64).reshape(-1, 3)
    else:
        triangles = np.array(text.split(), dtype=np.int64).reshape(-1, 3)
    return np.where(triangles < 0, triangles + n_before, triangles - 1)


class _NothingToCompareError(Exception):
    """No segment is in any box."""


class _Skeleton:
    """Segments of vessels in a box: that of the region, if any are there, or a part of that."""

    def __init__(self, path: str, region: Any, vertices: Any) -> None:
        everywhere = (np.full(3, -np.inf), np.full(3, np.inf))
        low, high = everywhere if region is None else region.box
        own = vertices[((vertices >= low) & (vertices <= high)).all(axis=1)]
        # If not all segments can be kept, those where the mesh is.
        places = [own[len(own) // 2], None] if len(own) else [None]
        tries = [(low, high, place) for place in places] + [(*everywhere, None)]
        found = next(filter(None, (_read_segments(path, *each) for each in tries)), None)
        if found is None:
            raise _NothingToCompareError
        pairs, self._low, self._high, self.center = found
        self._begins, self._steps = pairs[:, 0], pairs[:, 1] - pairs[:, 0]
        middles = pairs.mean(axis=1)
        self._tree = cKDTree(middles[:, :3])
        some = _choose_some(middles[self._is_inside(middles[:, :3])])
        self.points, self.radii = some[:, :3], some[:, 3] / 2

    def _is_inside(self, points: Any) -> Any:
        return ((points >= self._low) & (points <= self._high)).all(axis=1)

    def covers(self, vertices: Any) -> float | None:
        """Return how many of the vertices in its box are on vessels, or in them."""
        own = vertices[self._is_inside(vertices)]
        if not len(own):
            return None
        outside, radii, _ = self._measure(_choose_some(own))
        return float((outside <= np.maximum(_FAR_RADII * radii, _FAR_UM)).mean())

    def find_shift(self, vertices: Any, shift: Any) -> Any:
        """Move vertices until they are on vessels, beginning with a shift, as ICP does."""
        some = _choose_some(vertices, 20 * _SAMPLE)
        for _ in range(_N_STEPS):
            own = some[self._is_inside(some + shift)][:_SAMPLE]
            if not len(own):
                break
            outside, radii, ways = self._measure(own + shift)
            is_on = outside > -_FAR_RADII * radii  # others are where vessels join
            if not is_on.any():
                break
            shift = shift - (ways * outside[:, None])[is_on].mean(axis=0)
        return shift

    def _measure(self, places: Any) -> tuple[Any, Any, Any]:
        """Return how far places are out of the vessel that they belong to, and the way there."""
        nearest = self._tree.query(places, k=min(_N_NEAREST, self._tree.n))[1]
        nearest = nearest.reshape(len(places), -1)
        begins, steps = self._begins[nearest], self._steps[nearest]
        along = ((places[:, None] - begins[..., :3]) * steps[..., :3]).sum(axis=2)
        along = np.clip(along / np.maximum((steps[..., :3] ** 2).sum(axis=2), 1e-12), 0, 1)
        feet = begins + along[..., None] * steps
        ways, radii = places[:, None] - feet[..., :3], feet[..., 3] / 2
        distances = np.linalg.norm(ways, axis=2)
        best = np.arange(len(places)), np.argmin(distances - radii, axis=1)
        ways = ways[best] / np.maximum(distances[best], 1e-9)[:, None]
        return (distances - radii)[best], radii[best], ways


def _read_segments(path: str, low: Any, high: Any, center: Any) -> tuple[Any, Any, Any, Any] | None:
    """Return all segments that reach into a box, that box, and the middle of all vessels.

    Each segment is its two ends, with diameters.  The box becomes smaller if too many segments
    reach into it, and ends where vessels end.
    """
    kept, ends = np.empty((0, 2, 4)), []
    with h5py.File(path, "r") as file:
        starts = file["structure"][:, 0].astype(np.int64)
        for i, piece in enumerate(_pieces(file["points"], overlap=1)):
            pairs = _pair(piece.astype(float), starts - i * _PIECE_ROWS)
            if not len(pairs):
                continue
            ends += [pairs[..., :3].min(axis=(0, 1)), pairs[..., :3].max(axis=(0, 1))]
            pairs = pairs[(_find_outside(pairs, low, high) <= 0)]
            if center is None and len(pairs):
                center = np.clip(pairs[0].mean(axis=0)[:3], low, high)
            kept = np.concatenate([kept, pairs])
            if len(kept) > _MOST_SEGMENTS:
                # All that reach into a cube: a sample would lack vessels that the mesh has.
                reach = _find_outside(kept, center, center)
                side = np.partition(reach, _MOST_SEGMENTS)[_MOST_SEGMENTS]
                low, high = np.maximum(low, center - side), np.minimum(high, center + side)
                kept = kept[reach <= side]
    if not len(kept):
        return None
    first, last = np.min(ends, axis=0), np.max(ends, axis=0)
    low, high = np.maximum(low, first), np.minimum(high, last)
    middles = kept.mean(axis=1)[:, :3]
    is_any_inside = ((middles >= low) & (middles <= high)).all(axis=1).any()
    return (kept, low, high, (first + last) / 2) if is_any_inside else None


def _pair(piece: Any, starts: Any) -> Any:
    """Return both ends of each segment of a piece, in which sections begin at some rows."""
    is_segment = np.isfinite(piece[1:] + piece[:-1]).all(axis=1)
    own = slice(*np.searchsorted(starts, [1, len(piece)]))
    is_segment[starts[own] - 1] = False
    return np.stack([piece[:-1], piece[1:]], axis=1)[is_segment]


def _find_outside(pairs: Any, low: Any, high: Any) -> Any:
    """Return how far segments are from reaching into a box with what may belong to them."""
    middles = pairs.mean(axis=1)
    gaps = np.maximum(low - middles[:, :3], middles[:, :3] - high).max(axis=1)
    lengths = np.linalg.norm(pairs[:, 1, :3] - pairs[:, 0, :3], axis=1)
    radii = pairs[..., 3].max(axis=1) / 2
    return gaps - lengths / 2 - radii * (1 + _FAR_RADII) - _FAR_UM


def _choose_some(rows: Any, n: int = _SAMPLE) -> Any:
    rng = np.random.default_rng(0)
    return rows[rng.choice(len(rows), min(n, len(rows)), replace=False)]


def _match(path: str, vertices: Any, facts: dict[str, Any], region: Any) -> dict[str, Any]:
    """Compare distances between a skeleton and a mesh with radii."""
    skeleton = _Skeleton(path, region, vertices)
    found: dict[str, Any] = {"radius": float(np.median(skeleton.radii))}
    found["on_skeleton"] = skeleton.covers(vertices)
    if not facts["is_whole"]:
        return found
    tree, edge = cKDTree(vertices), facts["edge"]
    found["distance"] = float(np.median(tree.query(skeleton.points)[0]))
    found["covered"] = _find_covered(skeleton, tree, edge)
    if found["covered"] >= 0.9 and (found["on_skeleton"] or 0) >= 0.95:
        return found
    fits: list[dict[str, Any]] = [{"factor": factor} for factor in _FACTORS]
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    starts = (np.zeros(3), skeleton.center - middle)
    fits += [{"shift": skeleton.find_shift(vertices, start).tolist()} for start in starts]
    for fit in fits:
        factor, shift = fit.get("factor", 1.0), np.array(fit.get("shift", [0.0] * 3))
        fit["covered"] = _find_covered(skeleton, tree, edge, factor, shift)
        if fit["covered"] > 0.5:
            fit["on_skeleton"] = skeleton.covers(vertices * factor + shift)
    return found | {"fits": fits}


def _find_covered(
    skeleton: _Skeleton, tree: Any, edge: float, factor: float = 1.0, shift: Any = 0.0
) -> float:
    """Return how many points of a skeleton have the mesh near their radius."""
    distances = tree.query((skeleton.points - shift) / factor)[0] * factor
    # Vertices may be within a vessel, where others join it.
    near = 1.5 * skeleton.radii + np.minimum(edge * factor, skeleton.radii)
    return float(np.mean(distances <= near))
