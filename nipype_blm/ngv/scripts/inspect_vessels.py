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
_SAMPLE = 2000
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
        facts["match"] = _match(request["skeleton"], vertices, facts, region)
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
            faces.append(_read_faces([line[2:] for line in lines if line[:2] == b"f "], n_before))
            vertices.append(found)
            n_before += len(found)
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


def _match(skeleton: str, vertices: Any, facts: dict[str, Any], region: Any) -> dict[str, Any]:
    """Compare distances of the skeleton to the mesh with its radii."""
    middles, radii, lengths = _sample_skeleton(skeleton, region)
    rng = np.random.default_rng(0)
    edge = facts.get("edge", 0.0)
    chosen = rng.choice(len(middles), min(_SAMPLE, len(middles)), replace=False)
    points, r = middles[chosen], radii[chosen]
    found: dict[str, Any] = {"n_points": len(points), "radius": float(np.median(r))}
    tree = cKDTree(vertices)
    if facts["is_whole"]:
        distances = tree.query(points)[0]
        found["distance"] = float(np.median(distances))
        found["covered"] = _compare(distances, r, edge)
    own = vertices if region is None else vertices[region.is_in_box(vertices, 50.0)]
    found["n_near"] = len(own)
    if len(own):
        some = own[rng.choice(len(own), min(_SAMPLE, len(own)), replace=False)]
        distances, nearest = cKDTree(middles).query(some)
        slack = lengths[nearest] / 2
        found["on_skeleton"] = _compare(distances, radii[nearest], slack)
    found["fits"] = _find_fit(tree, points, r, edge, facts["box"])
    return found


def _compare(distances: Any, radii: Any, edge: Any) -> float:
    return float(np.mean(np.abs(distances - radii) <= edge + radii / 2))


def _sample_skeleton(path: str, region: Any) -> tuple[Any, Any, Any]:
    """Return middles of segments, their radii and their lengths; in the region, if any are."""
    with h5py.File(path, "r") as file:
        data, starts = file["points"], file["structure"][:, 0].astype(np.int64)
        n = len(data)
        spans = [(0, n)]
        if n > _MOST_POINTS:  # runs of neighbours
            spans = [(a, a + 1000) for a in range(0, n - 1000, n // (_MOST_POINTS // 1000) + 1)]
        parts = []
        for first, last in spans:
            piece = data[first:last].astype(float)
            begins = starts[(starts > first) & (starts < last)] - first
            keep = np.ones(len(piece) - 1, bool)
            keep[begins - 1] = False
            lengths = np.linalg.norm(np.diff(piece[:, :3], axis=0), axis=1)
            middles = (piece[1:] + piece[:-1]) / 2
            keep &= np.isfinite(middles).all(axis=1)
            parts.append(np.column_stack([middles, lengths])[keep])
    found = np.concatenate(parts)
    if region is not None and (inside := region.is_in_box(found[:, :3])).any():
        found = found[inside]
    return found[:, :3], found[:, 3] / 2, found[:, 4]


def _find_fit(tree: Any, points: Any, radii: Any, edge: float, box: Any) -> dict[str, Any]:
    """Look for the factor, or the shift, by which a mesh lies on its skeleton."""
    fits: dict[str, Any] = {}
    low, high = np.array(box)
    for factor in _FACTORS:
        fits[f"{factor:g}"] = _compare(
            tree.query(points / factor)[0] * factor, radii, edge * factor
        )
    shift = (points.min(axis=0) + points.max(axis=0)) / 2 - (low + high) / 2
    for _ in range(20):  # nearest points say where the rest of a shift leads
        distances, nearest = tree.query(points - shift)
        steps = points - shift - tree.data[nearest]
        far = steps * (1 - radii / np.maximum(distances, 1e-9))[:, None]
        shift = shift + np.median(far, axis=0)
    share = _compare(tree.query(points - shift)[0], radii, edge)
    return {"factors": fits, "shift": shift.tolist(), "shifted": share}
