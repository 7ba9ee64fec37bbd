"""Look at a circuit of neurons: its cells, its synapses and their spatial index."""

# mypy: disable-error-code="import-not-found"
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_SAMPLE = 10**6  # synapses whose positions are looked at, in runs of neighbours
_RUN = 10**4
_MOST_READ = 2**28  # bytes of a spatial index, which is opened whole
_N_QUERIES = 20
# ArchNGV takes the first of these of which all three are there.
_POSITIONS = ("efferent_center", "afferent_center")


def inspect_cells(request: Any, region: Any) -> dict[str, Any]:
    """Return populations of a file of nodes, and their sizes."""
    with h5py.File(request["path"], "r") as file:
        nodes = _list_populations(file, "nodes")
        facts: dict[str, Any] = {"groups": sorted(file), "populations": sorted(nodes)}
        if len(nodes) == 1:
            (cells,) = nodes.values()
            facts["n_cells"] = len(cells["node_type_id"])
            facts["positions"] = [axis for axis in "xyz" if f"0/{axis}" in cells]
        return facts


def _list_populations(file: Any, kind: str) -> dict[str, Any]:
    return dict(file[kind].items()) if kind in file else {}


def inspect_synapses(request: Any, region: Any) -> dict[str, Any]:
    """Return populations of a file of edges, and where synapses are."""
    with h5py.File(request["path"], "r") as file:
        edges = _list_populations(file, "edges")
        facts: dict[str, Any] = {"groups": sorted(file), "populations": sorted(edges)}
        if len(edges) != 1:
            return facts
        (population,) = edges.values()
        facts["n_synapses"] = n = len(population["target_node_id"])
        properties = population.get("0", {})
        facts["properties"] = sorted(name for name in properties if name[-2:] in ("_x", "_y", "_z"))
        axes = _find_positions(properties)
        facts["positions"] = axes[0].rpartition("_")[0] if axes else None
        if not n or not axes:
            return facts
        data = [properties[axis] for axis in axes]
        facts["lengths"] = [len(each) for each in data]
        facts["types"] = sorted({each.dtype.name for each in data})
        if set(facts["lengths"]) == {n}:
            facts |= _look_at_positions(data, _choose_runs(n), region)
        return facts


def _find_positions(properties: Any) -> list[str] | None:
    for name in _POSITIONS:
        axes = [f"{name}_{axis}" for axis in "xyz"]
        if all(axis in properties for axis in axes):
            return axes
    return None


def _choose_runs(n: int) -> list[slice]:
    if n <= _SAMPLE:
        return [slice(0, n)]
    return [slice(a, a + _RUN) for a in range(0, n - _RUN, n * _RUN // _SAMPLE)]


def _look_at_positions(data: list[Any], spans: list[slice], region: Any) -> dict[str, Any]:
    points = np.concatenate([_read(data, span) for span in spans])
    is_number = np.isfinite(points).all(axis=1)
    facts: dict[str, Any] = {"n_sampled": len(points), "n_nan": int((~is_number).sum())}
    points = points[is_number]
    if not len(points):
        return facts
    facts["box"] = [points.min(axis=0).tolist(), points.max(axis=0).tolist()]
    if region is not None:
        facts["share_in_box"] = float(region.is_in_box(points).mean())
        # A sample may miss a small region.
        facts["is_any_in_box"] = bool(facts["share_in_box"]) or any(
            region.is_in_box(_read(data, slice(first, first + _SAMPLE))).any()
            for first in range(0, len(data[0]), _SAMPLE)
        )
    return facts


def _read(data: list[Any], span: slice) -> Any:
    return np.column_stack([each[span] for each in data]).astype(float)


def inspect_index(request: Any, region: Any) -> dict[str, Any]:
    """Return what a spatial index has, and whether it finds some of the synapses."""
    import brain_indexer

    folder = Path(request["path"])
    meta = json.loads((folder / "meta_data.json").read_text())
    facts: dict[str, Any] = {"element_type": meta.get("element_type"), "keys": sorted(meta)}
    kept = meta.get("in_memory") or meta.get("multi_index") or {}
    facts["heavy"] = heavy = kept.get("heavy_data_path")
    extended = meta.get("extended") or {}
    if (source := extended.get("dataset_path")) is not None:
        facts["source"] = str((folder / source).resolve())
        facts["population"] = extended.get("population")
    if heavy is None or not (folder / heavy).exists():
        return facts | {"has_heavy": False}
    facts["has_heavy"] = True
    is_small = (folder / heavy).is_dir() or (folder / heavy).stat().st_size <= _MOST_READ
    facts["is_opened"] = is_small
    if is_small:
        index = brain_indexer.open_index(str(folder))
        facts["n"] = len(index)
        with h5py.File(request["synapses"], "r") as file:
            facts |= _query(index, file)
    return facts


def _query(index: Any, file: Any) -> dict[str, Any]:
    """Look for some synapses where they are."""
    edges = _list_populations(file, "edges")
    if len(edges) != 1 or not len(index):
        return {}
    (population,) = edges.values()
    n = len(population["target_node_id"])
    axes = _find_positions(population["0"]) if "0" in population else None
    if not n or not axes:
        return {}
    chosen = np.unique(np.linspace(0, n - 1, _N_QUERIES).astype(int))
    found = 0
    for i in chosen:
        place = np.array([float(population["0"][axis][i]) for axis in axes])
        # The index has numbers of 32 bits.
        margin = 1e-3 + 1e-6 * np.abs(place)
        found += int(i in index.box_query(place - margin, place + margin, fields="id"))
    return {"n_queries": len(chosen), "n_found": found}


def inspect_circuit(request: Any, region: Any) -> dict[str, Any]:
    """Return the files that a configuration of a circuit of neurons names, as ArchNGV reads it."""
    import libsonata
    from bluepysnap import Config

    data = Config(request["path"], libsonata.CircuitConfig).to_dict()
    facts: dict[str, Any] = {"keys": sorted(data)}
    for kind in ("nodes", "edges"):
        entries = (data.get("networks") or {}).get(kind)
        if entries is not None:
            facts[kind] = [each.get(f"{kind}_file") for each in entries]
    return facts
