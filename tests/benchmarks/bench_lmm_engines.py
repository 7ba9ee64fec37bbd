"""How many voxels a second are fitted on one thread, from images in memory?

About 1,000 images of 200 subjects with 2-8 visits, five columns of X: estimates, covariance of
beta and one T contrast with Satterthwaite's degrees of freedom. "Inner" voxels miss no image;
"ring" voxels miss their own 5 %.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import HERE, aim, format_table, measure, parse_arguments, write_result
from lmm_cases import MODELS, Fitted, describe, make_case, measure_case, simulate
from lmm_peers import MIXEDLM_RS, run_lme4, run_mixedlm_rs
from threadpoolctl import threadpool_limits

MISSING = {"inner": 0.0, "ring": 0.05}
CRITERIA = {False: "ML", True: "REML"}
# Thousands of voxels per second and core.
AIMS = {
    ("intercept", "inner", "ML"): 300,
    ("intercept", "inner", "REML"): 230,
    ("intercept", "ring", "REML"): 80,
    ("slope", "inner", "REML"): 60,
    ("slope", "ring", "REML"): 30,
    ("balanced slope", "inner", "REML"): 150,
    ("crossed", "inner", "REML"): 45,
}
DEVIANCE_AIM = 1e-6


def measure_models(arguments: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each model, missingness and criterion, and one for each peer."""
    rows, peers = [], []
    for model in arguments.models:
        case = make_case(model)
        for where, share in MISSING.items():
            Y = simulate(case, arguments.voxels, share)
            found = measure_case(case, Y, arguments.repeats)
            for reml, fitted in found.items():
                row = {"model": model, "voxels": where, "criterion": CRITERIA[reml]}
                rows.append(row | describe(fitted))
                print(rows[-1])
            if where == "inner":
                peers += measure_peers(arguments, model, case, Y[:, : arguments.n_peer], found)
    return rows, peers


def measure_peers(
    arguments: Any, model: str, case: Any, Y: Any, ours: dict[bool, Fitted]
) -> list[dict[str, Any]]:
    """Return speed and deviances of other packages beside ours, which must be no higher."""
    with tempfile.TemporaryDirectory(dir=arguments.data) as folder:
        found = {}
        if shutil.which("Rscript"):
            found["lme4"] = run_lme4(Path(folder), model, case, Y)
        if arguments.mixedlm_rs_python and model in MIXEDLM_RS:
            python = arguments.mixedlm_rs_python
            found["mixedlm-rs"] = run_mixedlm_rs(Path(folder), python, case, Y)
    rows = []
    for peer, result in found.items():
        for reml, criterion in CRITERIA.items():
            theirs = np.array(result["deviance"][criterion])
            estimates = ours[reml].estimates
            assert len(estimates.llh) == len(estimates.status), "some voxels were dropped"
            excess = -2 * estimates.llh[: len(theirs)] - theirs
            ms = result["ms_per_voxel"][criterion]
            row = {
                "model": model,
                "criterion": criterion,
                "peer": f"{peer} {result['version']}",
                "ms_per_voxel": round(ms, 3),
                "times_ours": round(ms * 1e3 / (1e6 * ours[reml].fit_s / len(estimates.status))),
                "our_deviance_above": float(f"{max(0, excess.max()):.2g}"),
                "its_deviance_above": float(f"{max(0, -excess.min()):.2g}"),
                "its_share_1e-6_above": round(float((excess < -DEVIANCE_AIM).mean()), 4),
            }
            rows.append(row)
            print(row)
    return rows


def measure_compilation(folder: Path) -> list[dict[str, Any]]:
    """Return the CPU seconds of a first fit with an empty cache, and with a filled one."""
    rows = []
    for model in ("intercept", "slope", "crossed"):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            os.environ["NUMBA_CACHE_DIR"] = cache
            command = [sys.executable, HERE / "run_first_fit.py", model]
            empty, cached = (measure(command, folder / "last.log").cpu_s for _ in range(2))
            del os.environ["NUMBA_CACHE_DIR"]
        row = {"model": model, "empty_cache_s": round(empty, 2), "cached_s": round(cached, 2)}
        rows.append(row)
        print(row)
    return rows


def judge(rows: list[dict[str, Any]], peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare what was measured with what was aimed at."""
    aims = []
    for row in rows:
        key = row["model"], row["voxels"], row["criterion"]
        if key in AIMS:
            question = f"{', '.join(key)}: thousand voxels per CPU second"
            aims.append(aim(question, row["voxels_per_cpu_s"] / 1000, ">=", AIMS[key]))
    certified = min(row["certified"] for row in rows)
    aims.append(aim("smallest share of certified voxels", certified, ">=", 1))
    for name in sorted({row["peer"] for row in peers}):
        worst = max(row["our_deviance_above"] for row in peers if row["peer"] == name)
        aims.append(aim(f"largest excess of our deviance over {name}", worst, "<=", DEVIANCE_AIM))
    return aims


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        "blmm",
        voxels={"type": int, "default": 20_000, "help": "fitted for each row"},
        models={"nargs": "+", "choices": MODELS, "default": MODELS},
        n_peer={"type": int, "default": 300, "help": "voxels fitted by other packages"},
        mixedlm_rs_python={"type": Path, "help": "Python of an environment with mixedlm-rs"},
    )
    with threadpool_limits(1):
        rows, peers = measure_models(arguments)
    compilation = measure_compilation(arguments.data)
    tables = [format_table(table) for table in (rows, peers, compilation) if table]
    (arguments.results / "lmm_engines.txt").write_text("\n".join(tables))
    details = {"engines": rows, "peers": peers, "compilation": compilation}
    write_result(arguments.results, "lmm_engines", judge(rows, peers), **details)


if __name__ == "__main__":
    main()
