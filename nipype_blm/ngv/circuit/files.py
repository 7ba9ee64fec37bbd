"""What is in the files of a circuit, as far as they are there; needs the extra ``hdf5``.

Nodes and edges are in SONATA's format (github.com/AllenInstitute/sonata), morphologies in the H5v1
one of MorphIO (morphology-documentation.readthedocs.io); lengths are in um.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.errors import InputError, join_some
from nipype_blm.ngv.circuit.capsules import Capsules, Floats
from nipype_blm.ngv.circuit.hdf5 import open_hdf5
from nipype_blm.ngv.circuit.morphologies import Segments, Somata, read_segments, read_somata
from nipype_blm.ngv.circuit.parts import (
    Circuit,
    Endfeet,
    EndfeetMeshes,
    GapJunctions,
    Ids,
    Meshes,
    Microdomains,
    Synapses,
)
from nipype_blm.ngv.layout import GLIALGLIAL, GLIOVASCULAR, NEUROGLIAL, VASCULATURE, Layout
from nipype_blm.ngv.recipe.manifest import choose_part, resolve


def read_circuit(layout: Layout) -> Circuit:
    """Read the files of a circuit that are there.

    What a later stage has written goes before what it was made from.

    Raises
    ------
    InputError
        If a file is damaged, or has not what ArchNGV writes; if two are of different circuits.
    """
    circuit = Circuit(
        somata=_read_astrocytes(layout),
        vessels=_read_first(_read_vessels, layout.vasculature),
        microdomains=_read_first(_read_microdomains, layout.microdomains),
        endfeet=_read_first(_read_endfeet, layout.gliovascular, layout.gliovascular_connectivity),
        endfeet_meshes=_read_first(_read_endfeet_meshes, layout.endfeet_meshes),
        synapses=_read_first(_read_synapses, layout.neuroglial, layout.neuroglial_connectivity),
        gap_junctions=_read_first(_read_gap_junctions, layout.glialglial),
    )
    _check_numbers(circuit, layout)
    return circuit


def read_branches(layout: Layout, somata: Somata, astrocyte: int) -> Segments | None:
    """Read the branches of an astrocyte where they are in the circuit, without its soma.

    None if its morphology has not been written.
    """
    path = find_morphology(layout, somata.names[astrocyte])
    if not path.is_file():
        return None
    found = read_segments(path, somata.positions[astrocyte], somata.radii[astrocyte])
    capsules, *others = found
    return Segments(
        Capsules(*(each[1:] for each in capsules)), *(np.asarray(each)[1:] for each in others)
    )


def find_morphology(layout: Layout, name: str) -> Path:
    """Return where the morphology of an astrocyte is, or will be."""
    return layout.morphologies / f"{name}.h5"


def read_synapse_positions(path: Path, ids: Ids, population: str = "") -> Floats | None:
    """Return where synapses of a circuit of neurons are, (n_synapses, 3).

    Parameters
    ----------
    path : Path
        Edges of the circuit of neurons.
    ids : array of shape (n_synapses,)
        Numbers of edges.
    population : str
        Of the neurons that the synapses end on; tells which edges are meant if there are several.

    Returns
    -------
    array or None
        None without positions.
    """
    with open_hdf5(path) as file:
        edges = _choose_edges(file, population)
        known = [] if edges is None else list(edges.get("0", ()))
        for side in ("efferent_center", "afferent_center"):
            if edges is None or f"{side}_x" not in known:
                continue
            if ids.size and ids.max() >= len(edges[f"0/{side}_x"]):
                raise InputError(
                    f"{path} has {len(edges[f'0/{side}_x'])} synapses, but the circuit has number "
                    f"{ids.max()}; give the circuit of neurons that it was built on."
                )
            wanted, place = np.unique(ids, return_inverse=True)  # HDF5 reads them in order only
            found = [edges[f"0/{side}_{axis}"][wanted][place] for axis in "xyz"]
            return np.column_stack(found).astype(float).reshape(-1, 3)
    return None


def count_synapses(path: Path, population: str = "") -> int | None:
    """Return how many synapses a circuit of neurons has; see `read_synapse_positions`."""
    with open_hdf5(path) as file:
        edges = _choose_edges(file, population)
        return None if edges is None else len(edges["target_node_id"])


def count_tetrahedra(path: Path) -> int | None:
    """Return how many tetrahedra a mesh of Gmsh has; None if it is not text of version 4.1.

    Only the headings of blocks of elements are looked at: dimension, entity, type (4 is a
    tetrahedron) and number (Gmsh reference manual, MSH file format).
    """
    with path.open(encoding="ascii", errors="replace") as lines:
        if next(lines, "").strip() != "$MeshFormat" or next(lines, "").split()[:2] != ["4.1", "0"]:
            return None
        if not any(line.startswith("$Elements") for line in lines):
            return None
        try:
            n_blocks, n_found = int(next(lines).split()[0]), 0
            for _ in range(n_blocks):
                _, _, kind, n = map(int, next(lines).split())
                n_found += n * (kind == 4)
                if sum(1 for _ in islice(lines, n)) < n:
                    raise ValueError
        except (StopIteration, ValueError, IndexError) as error:
            raise InputError(
                f"{path} ends within its elements, or has others than it says; make it again."
            ) from error
    return n_found


def find_base_connectome(layout: Layout, manifest: Mapping[str, Any] | None) -> Path | None:
    """Return the edges of the circuit of neurons that a manifest names, if they are there."""
    given = choose_part(manifest, "common").get("base_circuit_connectome")
    path = resolve(layout.recipe, given) if isinstance(given, str) and given else None
    return path if path is not None and path.exists() else None


def _read_first(read: Any, *paths: Path) -> Any:
    """Read the first file that is there."""
    for path in paths:
        if path.is_file():
            with open_hdf5(path) as file:
                return read(file)
    return None


def _read(file: Any, name: str, n_axes: int = 1) -> Floats:
    return np.asarray(_find(file, name, n_axes)[()], float)


def _read_ids(file: Any, name: str, n_axes: int = 1) -> Ids:
    return np.asarray(_find(file, name, n_axes)[()], np.int64)


def _find(file: Any, name: str, n_axes: int) -> Any:
    """Return an array of a file, which has so many axes."""
    found = file.get(name)
    if getattr(found, "ndim", None) != n_axes:
        raise KeyError(f"{file.name.strip('/')}/{name}".lstrip("/"))
    return found


def _read_columns(group: Any, *names: str) -> Floats:
    return np.column_stack([_read(group, name) for name in names])


def _find_group(file: Any, kind: str, population: str) -> Any:
    """Return the nodes or edges of a population."""
    found = file.get(f"{kind}/{population}")
    if found is None or "0" not in found:
        there = join_some(file.get(kind, ()), 5) or "none"
        raise KeyError(f"{kind}/{population}/0 (populations: {there})")
    return found


def _read_astrocytes(layout: Layout) -> Somata | None:
    paths = [path for path in (layout.astrocytes, layout.somata) if path.is_file()]
    return read_somata(paths[0]) if paths else None


def _read_vessels(file: Any) -> Capsules:
    group = _find_group(file, "nodes", VASCULATURE)["0"]
    starts, ends = (
        _read_columns(group, *(f"{side}_{axis}" for axis in "xyz")) for side in ("start", "end")
    )
    return Capsules(starts, ends, _read_columns(group, "start_diameter", "end_diameter") / 2)


def _read_meshes(file: Any, triangles: str) -> Meshes:
    corners = _read_ids(file, f"data/{triangles}", 2)[:, -3:]  # behind the number of a face
    return Meshes(
        _read(file, "data/points", 2),
        _read_ids(file, "offsets/points"),
        corners,
        _read_ids(file, f"offsets/{triangles}"),
    )


def _read_microdomains(file: Any) -> Microdomains:
    neighbours = _read_ids(file, "data/neighbors")
    parts = np.split(neighbours, _read_ids(file, "offsets/neighbors")[1:-1])
    # Each triangle has its own; below 0 are the walls of the box.
    unique = [np.unique(part[part >= 0]) for part in parts]
    return Microdomains(
        _read_meshes(file, "triangle_data"), unique, _read(file, "data/scaling_factors")
    )


def _read_endfeet(file: Any) -> Endfeet:
    edges = _find_group(file, "edges", GLIOVASCULAR)
    return Endfeet(
        _read_ids(edges["0"], "endfoot_id"),
        _read_ids(edges, "target_node_id"),
        _read_ids(edges, "source_node_id"),
        _read_columns(edges["0"], *(f"endfoot_surface_{axis}" for axis in "xyz")),
    )


def _read_endfeet_meshes(file: Any) -> EndfeetMeshes:
    return EndfeetMeshes(
        _read_meshes(file, "triangles"),
        _read(file, "data/surface_area"),
        _read(file, "data/surface_thickness"),
    )


def _read_synapses(file: Any) -> Synapses:
    edges = _find_group(file, "edges", NEUROGLIAL)
    group, centres = edges["0"], [f"astrocyte_center_{axis}" for axis in "xyz"]
    return Synapses(
        _read_ids(group, "synapse_id"),
        _read_ids(edges, "source_node_id"),
        _read_ids(edges, "target_node_id"),
        _name_population(edges["target_node_id"]),
        _read_columns(group, *centres) if centres[0] in group else None,
    )


def _read_gap_junctions(file: Any) -> GapJunctions:
    edges = _find_group(file, "edges", GLIALGLIAL)
    return GapJunctions(_read_ids(edges, "source_node_id"), _read_ids(edges, "target_node_id"))


def _choose_edges(file: Any, population: str) -> Any:
    """Return the one population of edges, or the one that ends on these neurons; else None."""
    found = [each for each in file.get("edges", {}).values() if "target_node_id" in each]
    if len(found) > 1:
        found = [e for e in found if _name_population(e["target_node_id"]) == population]
    return found[0] if len(found) == 1 else None


def _name_population(ids: Any) -> str:
    name = ids.attrs.get("node_population", "")
    return name.decode() if isinstance(name, bytes) else str(name)


def _check_numbers(circuit: Circuit, layout: Layout) -> None:
    """Refuse files that number other astrocytes, vessels or endfeet than there are."""
    somata, vessels, domains, endfeet, meshes, synapses, junctions = circuit
    n = None if somata is None else len(somata.names)
    if n is not None and domains is not None and domains.meshes.n_meshes != n:
        raise InputError(
            f"{layout.microdomains} has {domains.meshes.n_meshes} microdomains, but there are {n} "
            "astrocytes: they are of different runs. Run the microdomains again, and what follows."
        )
    if endfeet is not None:
        _check_range(endfeet.astrocytes, n, "endfeet", "astrocytes")
        of_vessels = None if vessels is None else len(vessels.starts)
        _check_range(endfeet.segments, of_vessels, "endfeet", "segments of vessels")
        _check_range(endfeet.ids, meshes and meshes.meshes.n_meshes, "endfeet", "meshes")
    if synapses is not None:
        _check_range(synapses.astrocytes, n, "synapses", "astrocytes")
    if junctions is not None:
        for each in junctions:
            _check_range(each, n, "gap junctions", "astrocytes")


def _check_range(ids: Ids, n: int | None, what: str, of_what: str) -> None:
    if n is not None and ids.size and not 0 <= ids.min() <= ids.max() < n:
        raise InputError(
            f"The {what} name number {ids.max()} of {n} {of_what}: these are of different runs. "
            f"Run the stage of the {what} again."
        )
