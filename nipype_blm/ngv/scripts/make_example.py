"""Make an example of a neuro-glia-vasculature circuit: everything that ArchNGV starts from.

This file is run by the Python of ArchNGV's environment and imports nothing of nipype_blm.
Lengths are in um, densities in 1/mm^3, as in ArchNGV's files.
"""
# What is imported here is installed where this runs, not where it is checked.
# mypy: disable-error-code=import-not-found

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import archngv
import brain_indexer
import h5py
import libsonata
import numpy as np
import skimage.measure
import voxcell
import yaml

# Zisis et al., Cereb. Cortex 31:5686 (2021), the circuit that ArchNGV was written for: 2500
# astrocytes and 16 000 neurons in 0.2 mm^3 of rat somatosensory cortex.
ASTROCYTES_PER_MM3 = 2500 / 0.2
NEURONS_PER_MM3 = 16_000 / 0.2
# Edges between points that are so far apart leave, from anywhere, about 15 um to the next
# vessel, as Tsai et al., J. Neurosci. 29:14553 (2009) found for the neurons of mouse cortex.
VESSEL_SPACING = 33.0
CAPILLARY_RADIUS = 2.2
WIDEST_RADIUS = 10.0
SEGMENT_LENGTH = 4.0
VOXEL = 10.0  # about, of the atlas
MESH_STEP = 1.0  # about the side of a triangle: a capillary has 14 around it
SOMA_RADIUS = 5.0  # of neurons
REGION, REGION_ID = "Ctx", 1
NEURONS, SYNAPSES = "neurons", "synapses"
# What MorphIO calls the kinds of vessels.
ARTERIOLE, CAPILLARY = 4, 6

# Only ArchNGV's own workflow reads this, all of it, even where it submits no job.
# For a batch system; a site may want account and partition besides.
CLUSTER = {"__default__": {"time": "01:00:00"}, "synthesis": {"cpus-per-task": 1, "mem": "4G"}}
MESH, SKELETON, CIRCUIT = "vasculature.obj", "vasculature.h5", "circuit_config.json"

README = """\
# An example of a neuro-glia-vasculature circuit

A cube of made-up cortex, {side:g} um wide (seed {seed}): the input for a circuit of {astrocytes}
astrocytes, which ArchNGV computes. y points to the surface of the cortex.

`bioname/` has the settings. They are those of the exemplar of ArchNGV {version} (Copyright Blue
Brain Project/EPFL, Apache License 2.0), copied from where it is installed, with these changes:

* `MANIFEST.yaml`: all of `common`, since the original has paths of another site; only the template
  in `assign_emodels`; `tetrahedral_mesh`, which the original lacks.
* `tns_parameters.json`, `tns_context.json`: astrocytes grow by steps that are 20 times as long, and
  branch at twice the distance, which takes a tenth of the time. They have fewer and shorter
  branches than the original settings would give.
* `cluster.yaml`: an hour, and 4 GB where astrocytes grow; your site may want `account` and
  `partition` besides.

`data/` was computed, by random numbers, for this example:

* `atlas/`: one region of {astrocyte_density:,.0f} astrocytes per mm^3; 2500 in 0.2 mm^3 of rat
  somatosensory cortex are in the circuit of Zisis et al., Cereb. Cortex 31:5686 (2021).
* `vasculature.h5`, `vasculature.obj`: a penetrating arteriole and its tree, {length:.2f} m per
  mm^3, with radii of {narrowest:.1f} to {widest:.1f} um, and its closed surface. To a vessel it is
  about 15 um from anywhere, as from neurons of mouse cortex (Tsai et al., J. Neurosci. 29:14553,
  2009). Radii follow Murray's law. Unlike real capillaries, these end, and never join again.
* `circuit/`: {neurons} neurons ({neuron_density:,.0f} per mm^3; 16 000 in 0.2 mm^3 of the circuit
  above), places without morphologies, and {synapses} synapses between any of them
  ({synapse_density:.2g} per um^3). Cortex has about one per um^3: ArchNGV itself adds places up to
  1.1 per um^3 where astrocytes grow.
"""


class Vessels(NamedTuple):
    """A tree of vessels: sections, each from one node of the tree to the next."""

    points: list[np.ndarray]  # (n_points, 3) for each section
    radii: list[np.ndarray]  # (n_points,) for each section
    parents: list[int]  # the section that each goes on from; -1 for that of the root

    @property
    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends (n_segments, 2, 3) and their radii (n_segments, 2)."""
        ends = [np.stack([p[:-1], p[1:]], axis=1) for p in self.points]
        radii = [np.stack([r[:-1], r[1:]], axis=1) for r in self.radii]
        return np.concatenate(ends), np.concatenate(radii)


class Distance(NamedTuple):
    """Distance to the vessels' surface on a grid, negative inside."""

    values: np.ndarray  # (nx, ny, nz); farther than `reach` it is `reach`
    origin: float  # of all three axes
    reach: float

    def look_up(self, positions: np.ndarray) -> np.ndarray:
        """Return the distance at the points of the grid next to positions (n, 3)."""
        index = np.rint((positions - self.origin) / MESH_STEP).astype(int)
        return self.values[tuple(index.T)]


def main() -> None:
    """Make the example that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="which must not exist")
    parser.add_argument("--side", type=float, default=100.0, help="of the cube of tissue, in um")
    parser.add_argument("--neurons", type=int, help="default: as many as cortex has")
    parser.add_argument("--synapses", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.neurons is None:
        asked.neurons = max(2, round(NEURONS_PER_MM3 * asked.side**3 * 1e-9))
    make_example(asked.folder, asked.side, asked.neurons, asked.synapses, asked.seed)


def make_example(folder: Path, side: float, n_neurons: int, n_synapses: int, seed: int) -> None:
    """Write a circuit's inputs: ``bioname`` with its settings, ``data``, and a README."""
    rng = np.random.default_rng(seed)
    data = folder / "data"
    atlas, circuit = data / "atlas", data / "circuit"
    for each in (atlas, circuit):
        each.mkdir(parents=True)
    n_astrocytes = max(1, round(ASTROCYTES_PER_MM3 * side**3 * 1e-9))
    write_atlas(atlas, side, n_astrocytes)
    vessels = grow_vessels(side, rng)
    write_skeleton(data / SKELETON, vessels)
    distance = find_distance(vessels, side)
    write_mesh(data / MESH, distance)
    write_neurons(circuit / "nodes.h5", choose_places(distance, side, SOMA_RADIUS, n_neurons, rng))
    write_synapses(
        circuit / "edges.h5", choose_places(distance, side, 0.0, n_synapses, rng), n_neurons, rng
    )
    write_circuit_config(circuit / CIRCUIT)
    write_index(circuit / "spatial_index_synapses", circuit / "edges.h5")
    write_bioname(folder / "bioname", seed)
    numbers = {"astrocytes": n_astrocytes, "neurons": n_neurons, "synapses": n_synapses}
    write_readme(folder / "README.md", side, numbers | {"seed": seed}, vessels)


def write_atlas(folder: Path, side: float, n_astrocytes: int) -> None:
    """Write an atlas that is one region, all with the density that gives so many astrocytes."""
    shape = (max(3, round(side / VOXEL)),) * 3
    voxel = (side / shape[0],) * 3
    # ArchNGV rounds their number: a tenth more makes up for sums of float32 that fall short.
    density = np.float32((n_astrocytes + 0.1) / (side**3 * 1e-9))
    for name, values in (
        ("brain_regions", np.full(shape, REGION_ID, np.int32)),
        ("[density]astrocytes", np.full(shape, density)),
    ):
        voxcell.VoxelData(values, voxel).save_nrrd(str(folder / f"{name}.nrrd"))
    region = {"id": REGION_ID, "acronym": REGION, "name": "A cube of cortex", "children": []}
    write_json(folder / "hierarchy.json", region)


def grow_vessels(side: float, rng: np.random.Generator) -> Vessels:
    """Return a penetrating arteriole, and from it a tree that fills the cube."""
    nodes, parents = join_nodes(*place_nodes(side, rng))
    radii = find_radii(parents)
    sections = [
        bend(nodes[parent], nodes[node], radii[parent], radii[node], rng)
        for node, parent in enumerate(parents)
        if node
    ]
    # The section that ends in a node has the node's number less one: the root ends none.
    return Vessels(
        [points for points, _ in sections],
        [radii for _, radii in sections],
        [parent - 1 for parent in parents[1:]],
    )


def place_nodes(side: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return nodes (n, 3) of which the first, a number of them, go from the top to the bottom.

    The others are best candidates (Mitchell, SIGGRAPH 1991): of some places the one farthest
    from those that are taken, so that the cube is filled evenly.
    """
    low, high = 0.08 * side, 0.92 * side
    n_trunk = max(3, round((high - low) / VESSEL_SPACING) + 1)
    trunk = np.full((n_trunk, 3), side / 2)
    trunk[:, [0, 2]] += rng.uniform(-0.1, 0.1, (n_trunk, 2)) * VESSEL_SPACING
    trunk[:, 1] = np.linspace(side, low, n_trunk)  # y points to the surface of the cortex
    nodes = list(trunk)
    while len(nodes) < max(n_trunk + 3, round((side / VESSEL_SPACING) ** 3)):
        candidates = rng.uniform(low, high, (32, 3))
        nearest = [np.linalg.norm(nodes - each, axis=1).min() for each in candidates]
        nodes.append(candidates[np.argmax(nearest)])
    return np.array(nodes), n_trunk


def join_nodes(nodes: np.ndarray, n_trunk: int) -> tuple[np.ndarray, list[int]]:
    """Return nodes in an order in which parents come first, and the parent of each.

    From the trunk on, the free node that is closest to the tree joins it (Prim's algorithm),
    where no node gets more than two children, as vessels have.
    """
    order, parents = list(range(n_trunk)), list(range(-1, n_trunk - 1))
    n_children = [2] + [1] * (n_trunk - 2) + [0]  # the root is where one vessel comes in
    free = set(range(n_trunk, len(nodes)))
    lengths = np.linalg.norm(nodes[:, None] - nodes[None], axis=2)
    while free:
        open_places = [place for place, n in enumerate(n_children) if n < 2]
        waiting = sorted(free)
        block = lengths[np.ix_([order[place] for place in open_places], waiting)]
        row, column = np.unravel_index(np.argmin(block), block.shape)
        parent, node = open_places[row], waiting[column]
        order.append(node)
        parents.append(parent)
        n_children[parent] += 1
        n_children.append(0)
        free.remove(node)
    return nodes[order], parents


def find_radii(parents: list[int]) -> np.ndarray:
    """Return the radius at each node: r^3 is the sum of the children's (Murray, PNAS 12:207)."""
    cubes = np.zeros(len(parents))
    for node in reversed(range(len(parents))):
        cubes[node] = cubes[node] or CAPILLARY_RADIUS**3
        if node:
            cubes[parents[node]] += cubes[node]
    return np.minimum(np.cbrt(cubes), WIDEST_RADIUS)


def bend(
    start: np.ndarray,
    end: np.ndarray,
    start_radius: float,
    end_radius: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return points and radii of a slightly bent vessel that narrows close to its start."""
    along = end - start
    length = np.linalg.norm(along)
    across = np.cross(along / length, rng.normal(size=3))
    across *= 0.12 * length / np.linalg.norm(across)
    t = np.linspace(0, 1, max(2, round(length / SEGMENT_LENGTH)) + 1)
    points = start + t[:, None] * along + np.sin(np.pi * t)[:, None] * across
    # Over its own width a wide vessel's branch becomes as narrow as it goes on.
    share = np.clip(t * length / (2 * start_radius), 0, 1)
    share[-1] = 1
    return points, start_radius + share * (end_radius - start_radius)


def write_skeleton(path: Path, vessels: Vessels) -> None:
    """Write vessels as `vascpy morphology-to-sonata` reads them: MorphIO's sections in HDF5."""
    starts = np.cumsum([0, *map(len, vessels.points)])[:-1]
    kinds = [ARTERIOLE if radii.min() > 4 else CAPILLARY for radii in vessels.radii]
    joints = [(parent, section) for section, parent in enumerate(vessels.parents) if parent >= 0]
    points = np.column_stack([np.concatenate(vessels.points), 2 * np.concatenate(vessels.radii)])
    with h5py.File(path, "w") as file:
        file["points"] = points.astype(np.float32)  # x, y, z and diameter
        file["structure"] = np.column_stack([starts, kinds]).astype(np.int64)
        file["connectivity"] = np.array(joints, np.int64)


def find_distance(vessels: Vessels, side: float, reach: float = SOMA_RADIUS + 1) -> Distance:
    """Return the distance to segments of vessels that are cones with round ends.

    That to a segment is the one to its axis less the radius there; of all segments the least
    counts, so that vessels that meet have one surface.
    """
    origin = -(WIDEST_RADIUS + 2 * MESH_STEP)
    n = int(np.ceil((side - 2 * origin) / MESH_STEP)) + 1
    values = np.full((n, n, n), reach, np.float32)
    for (start, end), radii in zip(*vessels.segments, strict=True):
        room = max(radii) + reach
        low = np.floor((np.minimum(start, end) - room - origin) / MESH_STEP).astype(int)
        high = np.ceil((np.maximum(start, end) + room - origin) / MESH_STEP).astype(int) + 1
        low, high = np.clip(low, 0, n), np.clip(high, 0, n)
        block = values[tuple(slice(*each) for each in zip(low, high, strict=True))]
        axes = [origin + MESH_STEP * np.arange(*each) for each in zip(low, high, strict=True)]
        offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - start
        along = end - start
        t = np.clip(offsets @ along / (along @ along), 0, 1)
        off_axis = np.linalg.norm(offsets - t[..., None] * along, axis=-1)
        np.minimum(block, off_axis - (radii[0] + t * (radii[1] - radii[0])), out=block)
    return Distance(values, origin, reach)


def write_mesh(path: Path, distance: Distance) -> None:
    """Write the vessels' surface: closed, made of triangles that face outwards."""
    points, triangles, _, _ = skimage.measure.marching_cubes(
        distance.values, 0.0, spacing=(MESH_STEP,) * 3, gradient_direction="descent"
    )
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points + distance.origin]
    lines += [f"f {a} {b} {c}" for a, b, c in triangles + 1]
    path.write_text("\n".join(lines) + "\n")


def choose_places(
    distance: Distance, side: float, room: float, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Return places (n, 3) in the cube that are so far from all vessels."""
    chosen = np.empty((0, 3))
    while len(chosen) < n:
        places = rng.uniform(0, side, (2 * n, 3))
        chosen = np.concatenate([chosen, places[distance.look_up(places) > room]])
    return chosen[:n]


def write_neurons(path: Path, positions: np.ndarray) -> None:
    """Write neurons that are no more than their places."""
    cells = voxcell.CellCollection(population_name=NEURONS)
    cells.positions = positions
    cells.properties["morphology"] = [f"neuron_{i}" for i in range(len(positions))]
    cells.properties["mtype"] = "EXAMPLE"
    cells.properties["model_type"] = "biophysical"
    cells.save_sonata(str(path))


def write_synapses(
    path: Path, positions: np.ndarray, n_neurons: int, rng: np.random.Generator
) -> None:
    """Write synapses from any neuron to any other."""
    n = len(positions)
    targets = np.sort(rng.integers(n_neurons, size=n))
    sources = (targets + rng.integers(1, n_neurons, size=n)) % n_neurons
    with h5py.File(path, "w") as file:
        group = file.create_group(f"edges/{SYNAPSES}")
        group["edge_type_id"] = np.full(n, -1, np.int32)
        for name, ids in (("source_node_id", sources), ("target_node_id", targets)):
            group[name] = ids.astype(np.uint64)
            group[name].attrs["node_population"] = NEURONS
        # ArchNGV takes the place from the efferent columns, the index has the afferent ones:
        # they have to be the same.
        for side in ("efferent", "afferent"):
            for axis, values in zip("xyz", positions.T, strict=True):
                group[f"0/{side}_center_{axis}"] = values.astype(np.float32)
    libsonata.EdgePopulation.write_indices(
        str(path), SYNAPSES, source_node_count=n_neurons, target_node_count=n_neurons
    )


def write_circuit_config(path: Path) -> None:
    """Write the configuration of the neurons' circuit."""
    config = {
        "manifest": {"$BASE_DIR": "."},
        "components": {"morphologies_dir": "$BASE_DIR/morphologies"},
        "networks": {
            "nodes": [{"nodes_file": "$BASE_DIR/nodes.h5"}],
            "edges": [{"edges_file": "$BASE_DIR/edges.h5"}],
        },
    }
    write_json(path, config)


def write_index(folder: Path, edges: Path) -> None:
    """Write an index by which synapses in a box are found."""
    brain_indexer.SynapseIndexBuilder.from_sonata_file(str(edges), SYNAPSES, output_dir=str(folder))
    described = folder / "meta_data.json"
    found = json.loads(described.read_text())
    found["extended"]["dataset_path"] = f"../{edges.name}"  # so that the folder can be moved
    write_json(described, found)


def write_bioname(folder: Path, seed: int) -> None:
    """Write the settings: those of ArchNGV's own exemplar, with the paths of this example."""
    exemplar = Path(archngv.__file__).parent / "app" / "exemplar" / "bioname"
    shutil.copytree(exemplar, folder)
    manifest = yaml.safe_load((exemplar / "MANIFEST.yaml").read_text())
    adapt_manifest(manifest, seed)
    (folder / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER, sort_keys=False))
    (folder / "MANIFEST.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    coarsen_growth(folder / "tns_parameters.json", folder / "tns_context.json")


def adapt_manifest(manifest: dict[str, Any], seed: int) -> None:
    """Replace what is of the site where ArchNGV was written, and add what later steps read."""
    # Paths are relative to the folder of the manifest, and to any beside it.
    manifest["common"] = {
        "parallel": False,
        "log_level": "WARNING",
        "seed": seed,
        "region": REGION,
        "atlas": "../data/atlas",
        "vasculature": f"../data/{SKELETON}",
        "vasculature_mesh": f"../data/{MESH}",
        "base_circuit": "",
        "base_circuit_sonata": f"../data/circuit/{CIRCUIT}",
        "base_circuit_cells": "../data/circuit/nodes.h5",
        "base_circuit_connectome": "../data/circuit/edges.h5",
        "base_spatial_synapse_index_dir": "../data/circuit/spatial_index_synapses",
    }
    manifest["assign_emodels"] = {"hoc_template": "astrocyte"}
    manifest["tetrahedral_mesh"] = {
        "surface_mesh_subdivision_steps": 0,
        "tet_mesh_refinement_steps": 0,
        "refinement_subdividing_steps": 1,
    }


def coarsen_growth(parameters_path: Path, context_path: Path) -> None:
    """Have astrocytes grow by longer steps, with branches farther apart: in a tenth of the time."""
    parameters = json.loads(parameters_path.read_text())
    context = json.loads(context_path.read_text())
    for neurites in ("basal", "axon"):
        step = parameters[neurites]["step_size"]["norm"]
        step.update(mean=20 * step["mean"], std=20 * step["std"])
    # Multiples of the step: the distances themselves become twice as long.
    for name in ("kill_distance_factor", "influence_distance_factor"):
        context["space_colonization"][name] /= 10
    write_json(parameters_path, parameters)
    write_json(context_path, context)


def write_readme(path: Path, side: float, numbers: dict[str, int], vessels: Vessels) -> None:
    """Write what is in the example, what it was made from, and in what it is unlike cortex."""
    ends, radii = vessels.segments
    mm3 = side**3 * 1e-9
    path.write_text(
        README.format(
            side=side,
            length=np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).sum() * 1e-6 / mm3,
            narrowest=radii.min(),
            widest=radii.max(),
            astrocyte_density=numbers["astrocytes"] / mm3,
            neuron_density=numbers["neurons"] / mm3,
            synapse_density=numbers["synapses"] / side**3,
            version=archngv.__version__,
            **numbers,
        )
    )


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people can read."""
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
