"""What does a node cost on Slurm: as a job of its own, and on a pool of workers?

Needs root and the Debian packages slurm-wlm and munge: it starts a Slurm of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import HERE, aim, parse_arguments, write_result

N_NODES = (20, 200)
SCHEDULERS = HERE.parent / "schedulers"


def main() -> None:
    arguments = parse_arguments(__doc__)
    folder = arguments.data / "overhead"
    shutil.rmtree(folder, ignore_errors=True)
    state = folder / "slurm"
    state.mkdir(parents=True)
    subprocess.run([SCHEDULERS / "start-slurm.sh", state], check=True)
    try:
        lines = (state / "environment").read_text().splitlines()
        env = os.environ | {"LOGNAME": "root"} | dict(line.split("=", 1) for line in lines)
        measured = {
            name: {n: run(folder / f"{name}_{n}", name, n, env) for n in N_NODES}
            for name in ("Dask", "SLURM")
        }
    finally:
        subprocess.run([SCHEDULERS / "stop-slurm.sh", state], check=False)
    few, many = N_NODES
    sides: dict[str, dict[str, Any]] = {}
    for name, seconds in measured.items():
        sides[name] = {
            "seconds": seconds,
            "ms_per_node_with_start": 1000 * seconds[many] / many,
            "ms_per_further_node": 1000 * (seconds[many] - seconds[few]) / (many - few),
        }
        print(name, json.dumps(sides[name]))
    for key in ("ms_per_node_with_start", "ms_per_further_node"):
        print(key, sides["SLURM"][key] / sides["Dask"][key])
    aims = [
        aim(
            f"{many} nodes on Slurm, {what}: times less than plugin='SLURM'",
            sides["SLURM"][key] / sides["Dask"][key],
            ">=",
            30,
        )
        for what, key in (
            ("start of the pool included", "ms_per_node_with_start"),
            ("each further node", "ms_per_further_node"),
        )
    ]
    write_result(arguments.results, "overhead", aims, sides=sides)


def run(folder: Path, name: str, n_nodes: int, env: dict[str, str]) -> float:
    """Return the seconds of a run."""
    folder.mkdir()
    command = [sys.executable, HERE / "run_nodes.py", folder, name, str(n_nodes)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


if __name__ == "__main__":
    main()
