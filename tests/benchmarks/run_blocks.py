"""Invert a Zarr block by block, by one of several programs, in one thread; print the CPU it took.

Usage: run_blocks.py SIDE OUT PATH_OF_CUBED SOURCE [SECONDS]

With SECONDS there are 32 blocks, and each call of the function is noted in OUT/calls, and sleeps.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

BLOCK = (10, 1024, 1024)  # z, y, x
SLOW_BLOCK = (50, 512, 512)


def main(side: str, out: Path, cubed_path: str, source: Path, seconds: float = 0.0) -> None:
    """Run, and print."""
    out.mkdir(parents=True, exist_ok=True)
    if cubed_path:
        sys.path.insert(0, cubed_path)
    size = SLOW_BLOCK if seconds else BLOCK

    def invert(values: np.ndarray, key: Any = None) -> np.ndarray:
        if seconds:
            with (out / "calls").open("a") as file:
                file.write(f"{key}\n")
            time.sleep(seconds)
        return 255 - values

    run = {"nipype_blm": run_ours, "loop": loop, "dask": run_dask, "cubed": run_cubed}[side]
    act = run(source, out, size, invert)
    start = time.process_time()
    act()
    print(json.dumps({"cpu_s": time.process_time() - start}))


def run_ours(source: Path, out: Path, size: Any, invert: Any) -> Any:
    from nipype_blm.blockmap import map_blocks

    def act() -> None:
        map_blocks(
            lambda data, block: invert(data["em"], block.key),
            {"em": source},
            out,
            block_size=size[::-1],
            outputs={"out": {"path": "out.zarr", "chunks": [512, 512, 10]}}
            if size == BLOCK
            else {"out": "out.zarr"},
        )

    return act


def loop(source: Path, out: Path, size: Any, invert: Any) -> Any:
    from itertools import product

    def act() -> None:
        values = zarr.open_array(source, mode="r")
        target = zarr.create_array(
            out / "out.zarr",
            shape=values.shape,
            chunks=values.chunks,
            dtype=values.dtype,
            overwrite=True,
        )
        for place in product(
            *(range(0, n, step) for n, step in zip(values.shape, size, strict=True))
        ):
            box = tuple(slice(a, a + n) for a, n in zip(place, size, strict=True))
            target[box] = invert(values[box], place)

    return act


def run_dask(source: Path, out: Path, size: Any, invert: Any) -> Any:
    import dask
    import dask.array as da

    def act() -> None:
        values = da.from_array(zarr.open_array(source, mode="r"), chunks=size)

        def call(block: np.ndarray, block_info: Any = None) -> np.ndarray:
            return invert(block, block_info[0]["chunk-location"] if block_info else None)

        result = da.map_blocks(call, values, dtype=values.dtype, meta=np.empty((0, 0, 0), np.uint8))
        chunks = zarr.open_array(source, mode="r").chunks
        target = zarr.create_array(
            out / "out.zarr",
            shape=values.shape,
            chunks=chunks if size == BLOCK else size,
            dtype=values.dtype,
            overwrite=True,
        )
        with dask.config.set(scheduler="synchronous"):
            da.store(result, target, lock=False)

    return act


def run_cubed(source: Path, out: Path, size: Any, invert: Any) -> Any:
    import cubed

    def act() -> None:
        spec = cubed.Spec(str(out / "work"), allowed_mem="4GB")
        values = cubed.from_zarr(str(source), spec=spec).rechunk(size)

        def call(block: np.ndarray, block_id: Any = None) -> np.ndarray:
            return invert(block, block_id)

        result = cubed.map_blocks(call, values, dtype=values.dtype)
        # With `resume` it looks for intermediate arrays of this plan; a new process has another.
        cubed.to_zarr(result, str(out / "out.zarr"))

    return act


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), *map(float, sys.argv[5:]))
