"""Compare the mixed model of the real images with lme4 at every voxel, or at a sample.

NIPYPE_BLM_TEST_DATA=... python tests/benchmarks/check_all_voxels.py [--voxels N]

Every map at every fitted voxel, as in tests/test_wager2008_mixed.py, which does a thousand.
The largest differences go to results/all_voxels.json.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import test_wager2008_mixed as mixed  # noqa: E402 - tests are not installed

import nipype_blm  # noqa: E402

CHUNK = 2000  # voxels of one run of R


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voxels", type=int, help="so many, chosen with a seed; all by default")
    arguments = parser.parse_args()
    study = mixed.read_study(Path(os.environ["NIPYPE_BLM_TEST_DATA"]) / "wager2008")
    with tempfile.TemporaryDirectory() as folder:
        maps = mixed.run_command(Path(folder), study)
    # lme4 reports on fewer coefficients where X is rank-deficient.
    has_full_rank = maps["edf"] == maps["n"] - study.X.shape[1]
    voxels = np.flatnonzero(np.isin(maps["status"], mixed.FITTED) & has_full_rank)
    n_fitted = len(voxels)
    if arguments.voxels:
        rng = np.random.default_rng(1)
        voxels = np.sort(rng.choice(voxels, min(arguments.voxels, n_fitted), replace=False))
    start, largest, failures = time.perf_counter(), {}, []
    for first in range(0, len(voxels), CHUNK):
        part = voxels[first : first + CHUNK]
        for v, lmer in zip(part, mixed.fit_by_lme4(study, maps, part), strict=True):
            try:
                found = mixed.check_voxel(study, maps, v, lmer)
            except AssertionError as error:
                failures.append({"voxel": int(v), "what": str(error).strip().splitlines()})
                continue
            for name, value in found.items():
                largest[name] = max(largest.get(name, -np.inf), float(value))
        done = voxels[: first + len(part)]
        print(f"{len(done)} of {len(voxels)}: {len(failures)} differ", flush=True)
        result = {
            "date": time.strftime("%Y-%m-%d"),
            "version": nipype_blm.__version__,
            "machine": platform.machine(),
            "fitted voxels": n_fitted,
            "compared": len(done),
            "at the boundary": int(np.sum(maps["D"][done] == 0)),
            "seconds": round(time.perf_counter() - start),
            "largest differences": largest,
            "differ": failures,
        }
        (HERE / "results" / "all_voxels.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
