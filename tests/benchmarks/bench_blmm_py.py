"""How much CPU time and memory does ``blmm`` take, compared with BLMM-py?

BLMM-py fits a random intercept in a whole 2 mm brain in minutes, but the other designs not: it
gets a smaller volume of these, and so does ``blmm``, which fits the whole brain besides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import HERE, Side, aim, compare, parse_arguments, write_result
from images import MNI_SHAPE, t_contrasts, write_config
from maps import compare_maps, read_map
from mixed_images import DESIGNS, MixedTest, make_mixed_test

CPU_AIM = {"1f1e": 20, "1f2e": 80, "2f": 100}  # CPU of BLMM-py / CPU of blmm
WHOLE, SMALL = MNI_SHAPE, (50, 50, 50)
MAPS = ("beta", "sigma2", "D", "llh", "cov", "con", "conSE", "conT", "conT_swedf", "conTlp")
# How often values may be this close: the largest difference may be that of one odd voxel.
QUANTILES = (0.5, 0.99, 0.999)


def make_sides(arguments: Any, folder: Path, test: MixedTest, with_peer: bool) -> dict[str, Side]:
    """Return what is compared; every side has a folder of results of its own."""

    def config(side: str, **fields: Any) -> tuple[Path, Path]:
        outdir = folder / side
        fields |= {
            "analysis_mask": str(test.mask),
            "Z": test.Z,
            "Missingness": {"MinPercent": 0.5},
            "MAXMEM": "2**32",  # the default of both
            "voxelBatching": 1,
            "sim": 0,
            "contrasts": t_contrasts([0, 1, 0, 0], [0, 0, 1, 0]),
        }
        path = folder / f"{side.replace(' ', '_')}.yml"
        return write_config(path, test.paths, test.X, outdir, **fields), outdir

    two, two_out = config("blmm", numNodes=2)
    one, one_out = config("blmm numNodes 1", numNodes=1)
    sides = {
        "blmm": Side([arguments.blmm, two], two_out),
        "blmm numNodes 1": Side([arguments.blmm, one], one_out),
    }
    if with_peer:
        peer, peer_out = config("BLMM-py", numNodes=2)
        command = [arguments.peer_python, HERE / "run_blm_py.py", "blmm", peer]
        sides["BLMM-py"] = Side(command, peer_out, fewer=True)
    return sides


def compare_with_peer(ours: Path, theirs: Path) -> dict[str, Any]:
    """Return how far the maps of both are apart at the voxels that both fitted."""
    mask = read_map(ours, "mask")[:, 0] == 1
    # BLMM-py writes integers under a header of float32; those of the mask stay different from 0.
    other = read_map(theirs, "mask")[:, 0] != 0
    both = mask & other
    maps = compare_maps(ours, theirs, MAPS, both)
    for name, found in maps.items():
        a, b = (read_map(folder, name)[both] for folder in (ours, theirs))
        found["quantiles"] = dict(
            zip(map(str, QUANTILES), np.quantile(np.abs(a - b), QUANTILES), strict=True)
        )
    a, b = (read_map(folder, "llh")[both, 0] for folder in (ours, theirs))
    return {
        "voxels": {"blmm": int(mask.sum()), "BLMM-py": int(other.sum()), "both": int(both.sum())},
        "largest_excess_of_llh": {"blmm": float((a - b).max()), "BLMM-py": float((b - a).max())},
        "maps": maps,
    }


def count_status(folder: Path) -> dict[str, int]:
    """Return how many voxels have each status."""
    values, counts = np.unique(read_map(folder, "status"), return_counts=True)
    return {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)}


def judge(name: str, target: float, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare what was measured with what was aimed at."""
    ours, peer = measured["blmm"], measured.get("BLMM-py")
    if peer is None:
        return []
    cpu, memory = (peer[key] / ours[key] for key in ("cpu_s", "pss_mib"))
    return [
        aim(f"{name}: CPU of BLMM-py / CPU of blmm", cpu, ">=", target),
        aim(f"{name}: memory of BLMM-py / memory of blmm", memory, ">=", 1),
    ]


def list_conditions(arguments: Any) -> list[tuple[str, Sequence[int], bool]]:
    """Return design, shape of the images, and whether BLMM-py takes part."""
    conditions = []
    for name in arguments.designs:
        has_peer = arguments.peer_python is not None
        is_whole = name in arguments.whole
        conditions.append((name, arguments.shape, has_peer and is_whole))
        if has_peer and not is_whole:
            conditions.append((name, SMALL, True))
    return conditions


def main() -> None:
    designs = {"nargs": "+", "choices": list(DESIGNS)}
    arguments = parse_arguments(
        __doc__,
        "blmm",
        peer_python={"type": Path, "help": "Python of BLMM-py's environment (see README.md)"},
        designs=designs | {"default": list(DESIGNS)},
        whole=designs | {"default": ["1f1e"], "help": "designs that BLMM-py fits in whole brains"},
        shape={"type": int, "nargs": 3, "default": WHOLE, "help": "of whole brains"},
    )
    found, aims = {}, []
    for design, shape, with_peer in list_conditions(arguments):
        name = f"{design}, {' x '.join(map(str, shape))}"
        print(name)
        folder = arguments.data / f"blmm_py_{design}_{shape[0]}"
        test = make_mixed_test(folder, design, shape)
        sides = make_sides(arguments, folder, test, with_peer)
        found[name] = {"sides": compare(sides, arguments.repeats, folder)}
        found[name]["status"] = count_status(folder / "blmm")
        if with_peer:
            found[name]["compared"] = compare_with_peer(folder / "blmm", folder / "BLMM-py")
        aims += judge(name, CPU_AIM[design], found[name]["sides"])
    write_result(arguments.results, "blmm_py", aims, conditions=found)


if __name__ == "__main__":
    main()
