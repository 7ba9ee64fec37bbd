"""Run 200 independent nodes with a plugin; print the seconds for each.

    run_nodes.py FOLDER SLURM|Dask N_NODES

The clock starts when the workflow does.  A pool's start counts for the pool.
"""

import json
import logging
import sys
import time
from pathlib import Path

from nipype import Function, IdentityInterface, Node, Workflow

from nipype_blm.plugins import DaskPlugin


def same(x):
    return x


def build(folder: Path, n_nodes: int) -> Workflow:
    numbers = Node(IdentityInterface(fields=["x"]), name="numbers")
    numbers.iterables = ("x", list(range(n_nodes)))
    node = Node(Function(function=same, output_names=["x"]), name="node")
    workflow = Workflow("nodes", base_dir=str(folder))
    workflow.connect(numbers, "x", node, "x")
    workflow.config["execution"]["crashdump_dir"] = str(folder)
    return workflow


def main() -> None:
    folder, name, n_nodes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    logging.getLogger("nipype.workflow").setLevel("ERROR")
    workflow = build(folder, n_nodes)
    plugin = name
    if name == "Dask":
        job = {"cores": 1, "memory": "1GB", "interface": "lo"}
        plugin = DaskPlugin({"cluster": "slurm", "n_workers": 2, **job})
    start = time.perf_counter()
    workflow.run(plugin=plugin, plugin_args={"sbatch_args": "--mem=1G"})
    seconds = time.perf_counter() - start
    assert len(list(folder.rglob("result_node*.pklz"))) == n_nodes
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
