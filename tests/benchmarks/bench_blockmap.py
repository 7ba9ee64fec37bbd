"""What do blocks of a Zarr take, against dask, cubed and a bare loop; and after a kill?

Each side reads the same 419 megavoxels in the same blocks, inverts them, and writes them as Zarr,
in one thread and a process of its own.  Then 10 gigavoxels, most of them never written, whose
blocks are ten megavoxels.  Then each side is killed half way, and started again: how many blocks
did it do twice?
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from harness import aim, measure, parse_arguments, write_result

SHAPE, CHUNKS = (400, 1024, 1024), (10, 512, 512)
BIG, BIG_CHUNKS = (1000, 3200, 3200), (10, 800, 800)
RUNNER = Path(__file__).with_name("run_blocks.py")
SIDES = ("nipype_blm", "loop", "dask", "cubed")
# Of the killed runs: each call of the function sleeps.
SLOW_S, N_SLOW = 0.05, 32


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        "nipype-blm",
        cubed_path={"type": Path, "help": "folder where `pip install --target` has put cubed"},
    )
    folder = arguments.data / "blockmap"
    folder.mkdir(parents=True, exist_ok=True)
    source, big = write_volume(folder / "volume.zarr"), create_big(folder / "big.zarr")
    sides = [side for side in SIDES if side != "cubed" or arguments.cubed_path]

    def command(side: str, what: str, *more: Any) -> list[str]:
        out = folder / f"{what}_{side}"
        path = str(arguments.cubed_path or "") if side == "cubed" else ""
        return [sys.executable, str(RUNNER), side, str(out), path, *map(str, more)]

    cpu: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.repeats):
        for side in sides:
            shutil.rmtree(folder / f"cpu_{side}", ignore_errors=True)
            said = subprocess.run(
                command(side, "cpu", source), capture_output=True, text=True, check=True
            )
            cpu[side].append(json.loads(said.stdout.splitlines()[-1])["cpu_s"])
            print(f"{side}: {cpu[side][-1]:.2f} CPU s without imports")
            check(folder / f"cpu_{side}", source, side)
    least = {side: min(each) for side, each in cpu.items()}
    shutil.rmtree(folder / "big_nipype_blm", ignore_errors=True)
    usage = measure(command("nipype_blm", "big", big), folder / "big.log")
    print(f"10 gigavoxels: {usage.cpu_s:.1f} CPU s, {usage.pss_mib:.0f} MiB")
    shutil.rmtree(folder / "big_nipype_blm", ignore_errors=True)
    again = {side: kill(command(side, "kill", source, SLOW_S), folder, side) for side in sides}
    print("blocks done twice after a kill:", again)
    aims = [
        aim(
            "CPU of blockmap / CPU of the faster of dask and a bare loop",
            least["nipype_blm"] / min(least["dask"], least["loop"]),
            "<=",
            1.05,
        ),
        aim("memory of 10 gigavoxels, in MiB", float(usage.pss_mib), "<=", 500),
        aim("blocks done twice after a kill, one at a time", again["nipype_blm"], "<=", 1),
    ]
    write_result(
        arguments.results,
        "blockmap",
        aims,
        cpu_s=cpu,
        big={"voxels": int(np.prod(BIG)), "cpu_s": usage.cpu_s, "memory_mib": float(usage.pss_mib)},
        blocks_done_twice=again,
        blocks_of_killed_runs=N_SLOW,
    )


def write_volume(path: Path) -> Path:
    """Write a volume that compresses like tissue does: noise on something smooth."""
    if not path.exists():
        array = zarr.create_array(path, shape=SHAPE, chunks=CHUNKS, dtype=np.uint8)
        rng = np.random.default_rng(0)
        x = np.sin(np.arange(SHAPE[2]) / 40)
        for first in range(0, SHAPE[0], CHUNKS[0]):
            noise = rng.normal(128, 6, (CHUNKS[0], *SHAPE[1:]))
            array[first : first + CHUNKS[0]] = (noise + 60 * x).clip(0, 255).astype(np.uint8)
    return path


def create_big(path: Path) -> Path:
    """Write the metadata of a volume, and a few of its chunks."""
    if not path.exists():
        array = zarr.create_array(path, shape=BIG, chunks=BIG_CHUNKS, dtype=np.uint8)
        array[:10, :800, :800] = 1
    return path


def check(out: Path, source: Path, side: str) -> None:
    """Refuse a side that has not done what all do."""
    found = zarr.open_array(out / "out.zarr" / ("0" if side == "nipype_blm" else ""), mode="r")
    values = zarr.open_array(source, mode="r")
    for first in (0, 50):
        if not np.array_equal(found[first : first + 10], 255 - values[first : first + 10]):
            sys.exit(f"{side} has other voxels")


def kill(command: list[str], folder: Path, side: str) -> int:
    """Return how many blocks were done twice by a run that was killed half way, and its next."""
    out = folder / f"kill_{side}"
    shutil.rmtree(out, ignore_errors=True)
    calls = out / "calls"

    def count() -> Counter[str]:
        return Counter(calls.read_text().splitlines() if calls.exists() else [])

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while sum(count().values()) < N_SLOW // 2:
        time.sleep(0.01)
        if process.poll() is not None:
            sys.exit(f"{side} has ended before it was killed")
    process.kill()
    process.wait()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return sum(n - 1 for n in count().values())


if __name__ == "__main__":
    main()
