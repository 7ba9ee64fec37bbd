"""Grow an astrocyte of a circuit in the working directory: ``synthesize.py PLAN.json NUMBER``."""

import json
import sys
from pathlib import Path

from archngv.app.ngv import _synthesize
from archngv.app.utils import load_ngv_manifest
from archngv.building.morphology_synthesis.data_structures import SynthesisInputPaths

if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text())
    paths = dict(plan["inputs"])
    config = load_ngv_manifest(paths.pop("config"))["synthesis"]
    # What `ngv synthesis` does for each cell.
    _synthesize(
        int(sys.argv[2]),
        plan["seed"],
        SynthesisInputPaths(morphology_directory=".", **paths),
        config,
    )
