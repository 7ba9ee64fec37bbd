"""Index edges that ArchNGV has left without, as it does where there are none.

Run as ``index_edges.py EDGES.h5 SOURCES.h5 TARGETS.h5``, the nodes of both sides.
"""

import sys

import h5py
from libsonata import EdgePopulation


def _count_nodes(path: str) -> int:
    with h5py.File(path) as file:
        (population,) = file["nodes"].values()
        return len(population["node_type_id"])


if __name__ == "__main__":
    path, sources, targets = sys.argv[1:]
    with h5py.File(path) as file:
        ((name, population),) = file["edges"].items()
        is_indexed = "indices" in population
    if not is_indexed:  # readers look astrocytes up there, also if they have no edge
        EdgePopulation.write_indices(path, name, _count_nodes(sources), _count_nodes(targets))
