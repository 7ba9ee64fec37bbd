"""Run the one-node interface on a configuration: ``run_one_node.py CONFIG.yml N_PROCS``."""

import os
import sys
from pathlib import Path

import yaml

os.environ["NIPYPE_NO_ET"] = "1"  # Nipype would ask the network for its newest version
from nipype_blm.interfaces import BLM

config = yaml.safe_load(Path(sys.argv[1]).read_text())
Path(config["outdir"]).mkdir(parents=True, exist_ok=True)
os.chdir(config["outdir"])
BLM(
    in_files=[config["Y_files"]],
    design_file=config["X"],
    contrasts=config["contrasts"],
    min_percent=config["Missingness"]["MinPercent"],
    output_cov=config["OutputCovB"],
    max_mem_gb=16.0,
    out_dir=config["outdir"],
    n_procs=int(sys.argv[2]),
).run()
