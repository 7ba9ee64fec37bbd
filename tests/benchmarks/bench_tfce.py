"""How long do TFCE, clusters and maxima of maps take, against tfce of PyPI and nilearn?

Maps of noise in the 2 mm brain mask of MNI152 (235,375 voxels), both signs, on one thread. TFCE of
nilearn is not the same number: it sums over a hundred heights of each map.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tfce
from harness import aim, format_table, parse_arguments, write_result
from nilearn.datasets import load_mni152_brain_mask
from nilearn.mass_univariate._utils import calculate_tfce
from scipy.ndimage import gaussian_filter, generate_binary_structure

from nipype_blm.core.clusters.graph import make_graph
from nipype_blm.core.clusters.summaries import spread_summaries, summarise_many
from nipype_blm.data.volumes import VolumeSpace

N_MAPS = 8
RANK = {6: 1, 26: 3}  # of the structure of scipy
# FWHM of the noise in voxels, and neighbours of a voxel.
CASES = [(3.0, 26), (3.0, 6), (0.0, 26), (0.0, 6)]
VOXEL_AIM, MAP_AIM = 10, 150  # ms of a map, that is CPU s of 1,000


class Maps(NamedTuple):
    """Maps of noise, as volumes and as values in the mask."""

    volumes: np.ndarray  # (x, y, z, n_maps)
    z: np.ndarray  # (n_voxels, n_maps)
    space: VolumeSpace


def make_maps(fwhm: float) -> Maps:
    mask = load_mni152_brain_mask(resolution=2).get_fdata() > 0
    rng = np.random.default_rng(0)
    volumes = np.empty((*mask.shape, N_MAPS), np.float32)
    for i in range(N_MAPS):
        noise = gaussian_filter(rng.standard_normal(mask.shape), fwhm / 2.355)
        volumes[..., i] = mask * noise / noise[mask].std()
    space = VolumeSpace(mask.shape, b"", mask.ravel(order="F"))
    z = volumes.reshape(-1, N_MAPS, order="F")[space.mask]
    return Maps(volumes, z, space)


def measure(function: Callable[[], Any], n_maps: int, repeats: int) -> float:
    """Return CPU ms of a map, the least of all repeats after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * min(times) / n_maps


def measure_case(maps: Maps, fwhm: float, n_neighbours: int, repeats: int) -> dict[str, Any]:
    """Return what each takes in turn, and how far the values are apart."""
    start = time.process_time()
    graph = make_graph(maps.space.find_neighbours(n_neighbours))
    row: dict[str, Any] = {
        "fwhm": fwhm,
        "neighbours": n_neighbours,
        "graph_ms": round(1e3 * (time.process_time() - start)),
    }
    for names in (["voxel"], ["cluster"], ["tfce"], ["voxel", "cluster", "tfce"]):
        ms = measure(lambda names=names: summarise_many(maps.z, graph, names), N_MAPS, repeats)
        row["all" if len(names) > 1 else names[0]] = round(ms, 1)
    peer = tfce.tfce(maps.volumes, connectivity=n_neighbours)[..., 0]
    ms = measure(lambda: tfce.tfce(maps.volumes, connectivity=n_neighbours), N_MAPS, repeats)
    row["package_tfce"] = round(ms, 1)
    structure = generate_binary_structure(3, RANK[n_neighbours])
    one = maps.volumes[..., :1].astype(float)
    row["nilearn"] = round(measure(lambda: calculate_tfce(one, structure), 1, 1))
    found = spread_summaries(maps.z[:, 0], graph, ["tfce"])[0]
    theirs = np.abs(peer.ravel(order="F")[maps.space.mask])
    row["difference"] = float(f"{np.abs(found - theirs).max() / found.max():.1g}")
    print(row)
    return row


def main() -> None:
    arguments = parse_arguments(__doc__)
    warnings.simplefilter("ignore")
    rows = []
    for fwhm, n_neighbours in CASES:
        rows.append(measure_case(make_maps(fwhm), fwhm, n_neighbours, arguments.repeats))
    print(format_table(rows))
    aims = []
    for row in rows:
        case = f"FWHM {row['fwhm']:g} voxels, {row['neighbours']} neighbours"
        aims += [
            aim(f"{case}: 1,000 maps, voxel, extent and TFCE: CPU s", row["all"], "<=", MAP_AIM),
            aim(f"{case}: CPU of tfce / TFCE", row["package_tfce"] / row["tfce"], ">=", 1),
            aim(f"{case}: CPU of nilearn / TFCE", row["nilearn"] / row["tfce"], ">=", 20),
        ]
    aims += [
        aim("1,000 maps, maxima alone: CPU s", max(row["voxel"] for row in rows), "<=", VOXEL_AIM),
        aim("largest difference of tfce", max(row["difference"] for row in rows), "<=", 1e-6),
    ]
    write_result(arguments.results, "tfce", aims, tfce=tfce.__version__, cases=rows)


if __name__ == "__main__":
    main()
