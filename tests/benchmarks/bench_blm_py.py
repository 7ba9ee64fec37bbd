"""How much CPU time and memory do ``blm`` and the one node take, compared with BLM-py?"""

import sys
from pathlib import Path
from typing import Any

from harness import HERE, Side, aim, compare, parse_arguments, write_result
from images import (
    compress,
    make_blm_design,
    make_covariates,
    read_list,
    t_contrasts,
    write_config,
)
from maps import compare_maps, read_map

# n: columns of X, as in BLM's tests, and the share of BLM-py's CPU time to be reached.
N_PARAMS = {100: 3, 200: 4, 500: 5}
CPU_AIM = {100: 12, 200: 20, 500: 40}
CPU_AIM_COMPRESSED = 8
MAPS = ("mask", "n", "edf", "beta", "resms", "llh", "con", "conSE", "conT", "conTlp")


def find_test(data: Path, n_obs: int, compressed: bool, dim: int) -> tuple[list[Path], Path]:
    """Return images and design of a test, made if need be.

    That of 500 has the images of the one of 100, and twice those of the one of 200.
    """
    if n_obs == 500:
        first, second = (find_test(data, n, compressed, dim)[0] for n in (100, 200))
        return [*first, *second, *second], make_covariates(data / "sim3", 500, N_PARAMS[500])
    folder = data / {100: "sim1", 200: "sim2"}[n_obs]
    make_blm_design(folder, n_obs, N_PARAMS[n_obs], dim)
    if compressed:
        plain, folder = folder, data / f"{folder.name}_gz"
        compress(plain, folder)
    return read_list(folder / "Y_files.txt"), folder / "X.csv"


def make_sides(arguments: Any, folder: Path, paths: list[Path], X: Path) -> dict[str, Side]:
    """Return what is compared; every side has a folder of results of its own."""
    n_params = N_PARAMS[len(paths)]

    def config(side: str, **fields: Any) -> tuple[Path, Path]:
        outdir = folder / side
        fields |= {
            "Missingness": {"MinPercent": 0.5},
            "OutputCovB": False,
            "contrasts": t_contrasts([0] * (n_params - 1) + [1]),
        }
        path = folder / f"{side.replace(' ', '_')}.yml"
        return write_config(path, paths, X, outdir, **fields), outdir

    two, two_out = config("blm", numNodes=2)
    one, one_out = config("blm numNodes 1", numNodes=1)
    node, node_out = config("one node", numNodes=1)
    peer, peer_out = config("BLM-py", numNodes=2)
    sides = {
        "blm": Side([arguments.blm, two], two_out),
        "blm numNodes 1": Side([arguments.blm, one], one_out),
        "one node": Side([sys.executable, HERE / "run_one_node.py", node, "1"], node_out),
    }
    if arguments.peer_python is not None:
        command = [arguments.peer_python, HERE / "run_blm_py.py", "blm", peer]
        sides["BLM-py"] = Side(command, peer_out, fewer=True)
    return sides


def judge(name: str, n_obs: int, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare what was measured with what was aimed at."""
    ours, peer = measured["blm"], measured.get("BLM-py")
    aims = []
    if peer is not None:
        times = CPU_AIM_COMPRESSED if name.endswith("gz") else CPU_AIM[n_obs]
        ratio = peer["cpu_s"] / ours["cpu_s"]
        aims.append(aim(f"{name}: CPU of BLM-py / CPU of blm", ratio, ">=", times))
        ratio = ours["pss_mib"] / peer["pss_mib"]
        aims.append(aim(f"{name}: memory of blm / memory of BLM-py", ratio, "<=", 0.5))
    return aims


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        peer_python={"type": Path, "help": "Python of BLM-py's environment (see README.md)"},
        n={"type": int, "nargs": "+", "default": [100, 200, 500], "choices": [100, 200, 500]},
        dim={"type": int, "default": 100, "help": "voxels along each side of new images"},
    )
    conditions = [(n, False) for n in arguments.n] + [(100, True)] * (100 in arguments.n)
    found, aims = {}, []
    for n_obs, compressed in conditions:
        name = f"n = {n_obs}, .nii{'.gz' if compressed else ''}"
        print(name)
        folder = arguments.data / f"blm_py_{n_obs}{'_gz' if compressed else ''}"
        folder.mkdir(exist_ok=True)
        paths, X = find_test(arguments.data, n_obs, compressed, arguments.dim)
        sides = make_sides(arguments, folder, paths, X)
        found[name] = {"sides": compare(sides, arguments.repeats, folder)}
        if "BLM-py" in sides:
            theirs = folder / "BLM-py"
            mask = read_map(theirs, "mask")[:, 0] == 1
            found[name]["maps"] = compare_maps(folder / "blm", theirs, MAPS, mask)
        aims += judge(name, n_obs, found[name]["sides"])
    write_result(arguments.results, "blm_py", aims, conditions=found)


if __name__ == "__main__":
    main()
