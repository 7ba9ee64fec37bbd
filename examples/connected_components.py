"""Connected components of a volume that is too big for one machine.

Usage: python examples/connected_components.py VOLUME OUT [THRESHOLD]

Three passes over blocks.  The first labels each block by itself; a part is called by the number of
its first voxel in the volume, which nothing else is.  The second finds which parts touch over the
faces of blocks.  The third gives all parts of a component one number, from 1, in the order of
their first voxels: as scipy.ndimage.label does for a volume at once.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nipype_blm.blockmap import Block, map_blocks

# Neighbours of which one has the larger z, y or x: 6 share a face, and half of them are here.
STEPS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def label_parts(
    data: dict[str, np.ndarray],
    block: Block,
    threshold: float,
    start: list[int],
    shape: list[int],
) -> dict[str, Any]:
    """Label a block by itself, and list its parts; `start` and `shape` are those of the volume."""
    labels, n = ndimage.label(data["volume"] > threshold)
    _, first, n_voxels = np.unique(labels, return_index=True, return_counts=True)
    places = np.unravel_index(first, labels.shape)
    inside = [own - first for own, first in zip(block.start, start, strict=True)]
    numbers = np.ravel_multi_index(
        tuple(place + first for place, first in zip(places, inside, strict=True)), shape
    )
    has_outside = int(len(first) > n)  # whose label is 0
    names = np.zeros(n + 1, np.uint64)
    names[1:] = numbers[has_outside:] + 1
    rows = zip(names[1:], n_voxels[has_outside:], strict=True)
    return {
        "parts": names[labels],
        "sizes": [{"part": int(name), "voxels": int(size)} for name, size in rows],
    }


def find_contacts(data: dict[str, np.ndarray]) -> list[dict[str, int]]:
    """List the parts that touch: those of one block do not, so that each pair reaches the halo."""
    parts, pairs = data["parts"], []
    for step in STEPS:
        one = parts[tuple(slice(None, -n or None) for n in step)]
        other = parts[tuple(slice(n, None) for n in step)]
        touching = (one != other) & (one > 0) & (other > 0)
        pairs.append(np.stack([one[touching], other[touching]], axis=1))
    found = np.unique(np.concatenate(pairs), axis=0)
    return [{"one": int(a), "other": int(b)} for a, b in found]


def rename_parts(data: dict[str, np.ndarray], names: str) -> np.ndarray:
    """Give parts the numbers of their components."""
    parts, components = np.load(names)
    return components[np.searchsorted(parts, data["parts"])]


def join_parts(parts: np.ndarray, contacts: pd.DataFrame) -> np.ndarray:
    """Return the component of each part, from 1, in the order of the parts."""
    n = len(parts)
    one, other = (np.searchsorted(parts, contacts[name]) for name in ("one", "other"))
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return np.argsort(np.argsort(first))[component] + 1


def read_columns(path: Path, *names: str) -> pd.DataFrame:
    """Read columns of whole numbers; where no block has found anything, there are none."""
    return pd.read_csv(path, sep="\t").reindex(columns=list(names)).astype(np.int64)


def label_volume(volume: Any, out: Path, threshold: float = 128, **how: Any) -> pd.DataFrame:
    """Write OUT/labels.zarr, and return the size of each component.

    Parameters
    ----------
    volume : path or array-like
    out : Path
    threshold : float
        What is above it is inside.
    **how
        As of `map_blocks`: `block_size`, `n_threads`, `plugin_args`, ...
    """
    from nipype_blm.blockmap.channels import open_channel
    from nipype_blm.blockmap.sources import Source

    source = Source(str(volume)) if isinstance(volume, str | Path) else volume
    extent = open_channel(source, "volume").extent.values()
    arguments = {
        "threshold": threshold,
        "start": [start for start, _ in extent],
        "shape": [stop - start for start, stop in extent],
    }
    # A block that is missing would cut what goes through it.
    how |= {"on_error": "stop", "on_read_error": "stop"}
    first = map_blocks(label_parts, {"volume": volume}, out / "1", arguments=arguments, **how)
    sizes = read_columns(first.table, "part", "voxels").sort_values("part")
    parts = {"parts": first.outputs["parts"]}
    second = map_blocks(find_contacts, parts, out / "2", halo=1, **how)
    contacts = read_columns(second.table, "one", "other")
    component = join_parts(sizes["part"].to_numpy(), contacts)
    table = np.zeros((2, len(sizes) + 1), np.uint64)
    table[:, 1:] = sizes["part"], component
    np.save(out / "names.npy", table)
    outputs = {"labels": str(out / "labels.zarr")}
    arguments = {"names": str(out / "names.npy")}
    map_blocks(rename_parts, parts, out / "3", outputs=outputs, arguments=arguments, **how)
    return sizes.assign(component=component).groupby("component")["voxels"].sum().reset_index()


if __name__ == "__main__":
    volume, out = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    found = label_volume(volume, out, *map(float, sys.argv[3:]), block_size=[100, 80, 20])
    found.to_csv(out / "components.tsv", sep="\t", index=False)
    print(f"{len(found)} components, the largest of {found['voxels'].max()} voxels")
