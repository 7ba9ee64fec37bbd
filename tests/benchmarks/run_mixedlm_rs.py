"""Refit a model with mixedlm-rs: ``PEER_PYTHON run_mixedlm_rs.py CASE.npz OUT.json``.

Each refit shares the design with the first model, so that it costs the products with the new
values and the search.
"""

import importlib.metadata
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from mixedlm_rs import MixedLM

case = np.load(sys.argv[1])
warnings.simplefilter("ignore")  # of fits that end at the boundary
model = MixedLM(case["Y"][:, 0], case["X"], groups=case["level"], exog_re=case["Z"])
deviances: dict[str, list[float]] = {}
milliseconds: dict[str, float] = {}
for criterion in ("ML", "REML"):
    model.fit(reml=criterion == "REML")  # prepares the design
    start = time.process_time()
    fits = [model.with_endog(y).fit(reml=criterion == "REML") for y in case["Y"].T]
    milliseconds[criterion] = 1e3 * (time.process_time() - start) / len(fits)
    deviances[criterion] = [-2 * fit.llf for fit in fits]
version = importlib.metadata.version("mixedlm-rs")
found = {"version": version, "ms_per_voxel": milliseconds, "deviance": deviances}
Path(sys.argv[2]).write_text(json.dumps(found))
