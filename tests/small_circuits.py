"""Circuits in the formats of ArchNGV, written by hand: as many files as a test wants."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nipype_blm.ngv.layout import Layout

# The six sides of a cube as triangles of its corners, which are numbered as bits: x, y, z.
CUBE = np.array(
    [
        *([0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6], [0, 1, 5], [0, 5, 4]),
        *([2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 3, 7], [1, 7, 5]),
    ]
)


def write_arrays(path: Path, arrays: dict[str, Any], attributes: dict[str, str] | None = None):
    """Write arrays by their names; attributes are the populations of nodes that ids are of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        for name, population in (attributes or {}).items():
            file[name].attrs["node_population"] = population


def name_glia(n: int) -> list[str]:
    return [f"GLIA_{i:013d}" for i in range(n)]


def write_somata(path: Path, positions: Any, radii: Any) -> None:
    positions = np.asarray(positions, float)
    group = "nodes/astrocytes/0"
    columns = {f"{group}/{axis}": positions[:, i] for i, axis in enumerate("xyz")}
    names = np.array(name_glia(len(positions)), object)
    write_arrays(path, {**columns, f"{group}/radius": radii, f"{group}/morphology": names})


def write_vessels(layout: Layout, starts: Any, ends: Any, radius: Any = 3.0) -> None:
    group, arrays = "nodes/vasculature/0", {}
    for side, points in (("start", starts), ("end", ends)):
        points = np.asarray(points, np.float32)
        arrays |= {f"{group}/{side}_{axis}": points[:, i] for i, axis in enumerate("xyz")}
        arrays[f"{group}/{side}_diameter"] = np.full(len(points), 2 * np.asarray(radius))
    write_arrays(layout.vasculature, arrays)


def stack_groups(name: str, groups: Sequence[Any], width: int | None) -> dict[str, Any]:
    """Return arrays one after the other, and where each begins."""
    empty = np.zeros((0, width) if width else 0)
    starts = np.cumsum([0, *map(len, groups)])
    return {f"data/{name}": np.concatenate([empty, *groups]), f"offsets/{name}": starts}


def write_domains(
    layout: Layout, points: Any, triangles: Any, neighbours: Any, scalings: Any
) -> None:
    faces = [np.column_stack([np.arange(len(each)), each]) for each in triangles]
    arrays = {
        **stack_groups("points", points, 3),
        **stack_groups("triangle_data", faces, 4),
        **stack_groups("neighbors", neighbours, None),
        "data/scaling_factors": np.asarray(scalings, float),
    }
    write_arrays(layout.microdomains, arrays)


def write_endfeet(layout: Layout, astrocytes: Any, segments: Any, targets: Any) -> None:
    targets, group = np.asarray(targets, np.float32).reshape(-1, 3), "edges/gliovascular"
    surface = {f"{group}/0/endfoot_surface_{axis}": targets[:, i] for i, axis in enumerate("xyz")}
    arrays = {
        f"{group}/source_node_id": np.asarray(segments, np.uint64),
        f"{group}/target_node_id": np.asarray(astrocytes, np.uint64),
        f"{group}/0/endfoot_id": np.arange(len(targets), dtype=np.uint64),
        **surface,
    }
    write_arrays(layout.gliovascular_connectivity, arrays)


def write_endfeet_meshes(
    layout: Layout, points: Any, triangles: Any, areas: Any, thicknesses: Any
) -> None:
    arrays = {
        **stack_groups("points", points, 3),
        **stack_groups("triangles", triangles, 3),
        "data/surface_area": np.asarray(areas, np.float32),
        "data/surface_thickness": np.asarray(thicknesses, np.float32),
    }
    write_arrays(layout.endfeet_meshes, arrays)


def write_synapses(
    layout: Layout, ids: Any, astrocytes: Any, neurons: Any, nearest: Any = None
) -> None:
    group = "edges/neuroglial"
    arrays = {
        f"{group}/source_node_id": np.asarray(astrocytes, np.uint64),
        f"{group}/target_node_id": np.asarray(neurons, np.uint64),
        f"{group}/0/synapse_id": np.asarray(ids, np.uint64),
    }
    path = layout.neuroglial_connectivity
    if nearest is not None:
        path = layout.neuroglial
        arrays |= {
            f"{group}/0/astrocyte_center_{axis}": nearest[:, i] for i, axis in enumerate("xyz")
        }
    write_arrays(path, arrays, {f"{group}/target_node_id": "neurons"})


def write_gap_junctions(layout: Layout, sources: Any, targets: Any) -> None:
    group = "edges/glialglial"
    arrays = {
        f"{group}/source_node_id": np.asarray(sources, np.uint64),
        f"{group}/target_node_id": np.asarray(targets, np.uint64),
        f"{group}/0/spine_length": np.zeros(len(sources), np.float32),
    }
    write_arrays(layout.glialglial, arrays)


def write_morphology(
    layout: Layout, name: str, sections: Sequence[Any], types: Any, parents: Any
) -> None:
    """Write a soma of three points, and sections of x, y, z and diameter; -1 is the soma."""
    groups = [np.zeros((3, 4)), *sections]
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    structure = np.column_stack([starts, [1, *types], [-1, *(np.asarray(parents) + 1)]])
    arrays = {"points": np.concatenate(groups).astype(np.float32), "structure": structure}
    write_arrays(layout.morphologies / f"{name}.h5", arrays)


def write_base(path: Path, positions: Any, population: str = "neurons") -> None:
    """Write the edges of a circuit of neurons, whose synapses are at these positions."""
    positions, group = np.asarray(positions, float), f"edges/{population}__chemical"
    arrays = {f"{group}/0/efferent_center_{axis}": positions[:, i] for i, axis in enumerate("xyz")}
    arrays[f"{group}/target_node_id"] = np.zeros(len(positions), np.uint64)
    write_arrays(path, arrays, {f"{group}/target_node_id": population})


def make_patch(middle: Any, radius: float = 3.0, length: float = 10.0) -> tuple[Any, Any]:
    """Return the points and triangles of half a tube along the axis x, around a middle."""
    x, angle = np.meshgrid(np.linspace(-length / 2, length / 2, 5), np.linspace(0, np.pi, 7))
    across = (radius * np.cos(angle).ravel(), radius * np.sin(angle).ravel())
    flat = np.column_stack([x.ravel(), *across])
    starts = [5 * i + j for i in range(6) for j in range(4)]
    squares = [(k, k + 1, k + 5, k + 6) for k in starts]
    triangles = [t for a, b, c, d in squares for t in ((a, b, c), (b, d, c))]
    return flat + middle, np.array(triangles)


def write_small(folder: Path, side: int = 2, edge: float = 40.0) -> Layout:
    """Write a whole circuit: astrocytes on a lattice of cubes, and a vessel through each row.

    Each astrocyte has a cube of its own, widened by 1.1, an endfoot above it on the vessel, two
    synapses, of which its neighbour along x has one, too, and four branches.
    """
    layout = Layout(folder)
    cells = np.array(list(np.ndindex(side, side, side)))
    n = len(cells)
    middles = (cells + 0.5) * edge
    write_somata(layout.somata, middles, np.linspace(5, 6, n))
    rows = np.array(list(np.ndindex(side, side)))
    starts = np.column_stack([np.zeros(len(rows)), (rows + 0.5) * edge + [0, 12]])
    write_vessels(layout, starts, starts + np.array([side * edge, 0, 0]))
    corners = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) - 0.5
    near = [np.flatnonzero(np.abs(cells - each).sum(axis=1) == 1) for each in cells]
    write_domains(
        layout,
        [middle + 1.1 * edge * corners for middle in middles],
        [CUBE] * n,
        [[*each, -1, -1] for each in near],
        np.full(n, 1.1),
    )
    targets = middles + np.array([0, 0, 12])
    write_endfeet(layout, np.arange(n), cells[:, 1] * side + cells[:, 2], targets)
    patches = [make_patch(each) for each in targets]
    areas = [measure_area(*each) for each in patches]
    write_endfeet_meshes(layout, *zip(*patches, strict=True), areas, np.full(n, 1.0))
    before = (np.arange(n) - side * side) % n
    ids = np.concatenate([np.arange(2 * n), 2 * before])
    owners = np.concatenate([np.repeat(np.arange(n), 2), np.arange(n)])
    write_synapses(layout, ids, owners, ids % 3)
    for name in name_glia(n):
        ends = [(0, 6), (6, 15)]
        trunk, left, right = (
            np.array([[x, s * (x - 6), 0, 2.0] for x in each], float)
            for each, s in ((ends[0], 0), (ends[1], 1), (ends[1], -1))
        )
        foot = np.array([[0, 0, z, 2.0] for z in (5, 9)], float)
        write_morphology(layout, name, [trunk, left, right, foot], [3, 3, 3, 2], [-1, 0, 0, -1])
    pairs = [(i, j) for i, each in enumerate(near) for j in each]
    write_gap_junctions(layout, *zip(*pairs, strict=True))
    return layout


def measure_area(points: Any, triangles: Any) -> float:
    """Return the area of a surface by Heron's formula."""
    corners = points[triangles]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    half = sides.sum(axis=1) / 2
    return float(np.sqrt(half * np.prod(half[:, None] - sides, axis=1)).sum())
