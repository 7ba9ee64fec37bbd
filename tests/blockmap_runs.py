"""Runs over blocks as users start them, as programs, and what they have left."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from children import Program

SHAPE, SIZE = (12, 20, 24), [8, 10, 4]  # z, y, x; and x, y, z of a block
N_BLOCKS = 18
LIMIT_S = 180  # no run takes this long; one that hangs is an error and not an endless test

# Notes every call, so that it is known which blocks were done again.
FUNCTION = """
import os
import time


def invert(data, block, folder, seconds=0.0):
    with open(f"{folder}/calls", "a") as file:
        file.write(f"{block.key}\\n")
    time.sleep(seconds)
    values = data["em"]
    return {"inverse": 255 - values, "rows": [{"z": 0, "y": 0, "x": 0, "total": int(values.sum())}]}
"""
WORKFLOW = """
import json, os, sys
from nipype_blm.plugins import DaskPlugin
from nipype_blm.workflows import init_blockmap_wf

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    folder = given["folder"]
    workflow = init_blockmap_wf(
        out_dir=f"{folder}/out", parallel_nodes=2, **given["fields"]
    )
    workflow.base_dir = folder
    workflow.config["execution"] = {"crashdump_dir": folder, "poll_sleep_duration": "0.1"}
    arguments = given["arguments"]
    if given["plugin"] == "Dask":
        workflow.run(plugin=DaskPlugin(arguments))
    else:
        workflow.run(plugin=given["plugin"], plugin_args=arguments)
"""


def write_volume(folder: Path) -> np.ndarray:
    """Write em.zarr and the function, and return the volume."""
    values = np.random.default_rng(3).integers(1, 255, SHAPE, dtype=np.uint8)
    array = zarr.create_array(
        folder / "em.zarr", shape=SHAPE, chunks=(4, 10, 8), dtype=values.dtype, overwrite=True
    )
    array[:] = values
    (folder / "functions.py").write_text(FUNCTION)
    return values


def describe(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the fields of a configuration for `write_volume`."""
    return {
        "channels": {"em": str(folder / "em.zarr")},
        "function": f"{folder / 'functions.py'}:invert",
        "arguments": {"folder": str(folder), "seconds": 0.0},
        "block_size": SIZE,
    } | more


def start_workflow(
    start_program: Callable[..., Program],
    folder: Path,
    plugin: str,
    plugin_args: dict[str, Any],
    **more: Any,
) -> Program:
    """Start the workflow with what `describe` says."""
    given = {
        "folder": str(folder),
        "fields": describe(folder, **more),
        "plugin": plugin,
        "arguments": plugin_args,
    }
    return start_program(WORKFLOW, json.dumps(given))


def count_calls(folder: Path) -> Counter[str]:
    """Return how often the function was called on each block."""
    path = folder / "calls"
    return Counter(path.read_text().split() if path.exists() else [])


def read_results(out: Path) -> dict[str, bytes]:
    """Return the bytes of outputs and table by name."""
    files = [path for path in sorted((out / "inverse.zarr").rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*files, out / "table.tsv"]}
