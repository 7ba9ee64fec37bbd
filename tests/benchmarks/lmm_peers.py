"""Fit voxels of a case with other packages."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from harness import HERE
from lmm_cases import Case
from numpy.typing import NDArray

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
# Terms of lme4; those of mixedlm-rs are always correlated and of one factor.
TERMS = {
    "intercept": "(1 | subject)",
    "slope": "(1 + time | subject)",
    "balanced slope": "(1 + time | subject)",
    "diagonal slope": "(1 + time || subject)",
    "crossed": "(1 | subject) + (1 | site)",
}
MIXEDLM_RS = ("intercept", "slope", "balanced slope")


def run_mixedlm_rs(folder: Path, python: Path, case: Case, Y: NDArray[Any]) -> dict[str, Any]:
    """Return version, ms per voxel and deviances of mixedlm-rs."""
    (factor,) = case.factors
    np.savez(folder / "case.npz", X=case.X, Y=Y.astype(float), Z=factor.Z, level=factor.level)
    out = folder / "out.json"
    _run([python, HERE / "run_mixedlm_rs.py", folder / "case.npz", out])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def run_lme4(folder: Path, model: str, case: Case, Y: NDArray[Any]) -> dict[str, Any]:
    """Return version, ms per voxel and deviances of lme4."""
    names = ["x0", "time", *(f"x{i}" for i in range(2, case.X.shape[1]))]
    columns = [*case.X.T, *(factor.level for factor in case.factors)]
    header = ",".join([*names, *(factor.name for factor in case.factors)])
    table = np.column_stack(columns)
    np.savetxt(folder / "data.csv", table, "%.17g", delimiter=",", header=header, comments="")
    np.asarray(Y, float).T.tofile(folder / "Y.bin")
    formula = f"y ~ 0 + {' + '.join(names)} + {TERMS[model]}"
    _run(["Rscript", "--vanilla", HERE / "run_lme4.R", folder, formula])
    version, *values = (folder / "out.csv").read_text().split()
    ml, reml = np.array(values, float).reshape(2, -1)
    return {
        "version": version,
        "ms_per_voxel": {"ML": float(ml[0]), "REML": float(reml[0])},
        "deviance": {"ML": ml[1:], "REML": reml[1:]},
    }


def _run(command: list[str | Path]) -> None:
    parts = [str(part) for part in command]
    found = subprocess.run(
        parts, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise RuntimeError(f"{parts} failed with {found.returncode}:\n{found.stderr}")
