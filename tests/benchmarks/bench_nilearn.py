"""How much CPU time and memory does ``blm`` take, compared with nilearn's SecondLevelModel?"""

import sys

import numpy as np
from harness import HERE, Side, aim, compare, parse_arguments, write_result
from images import link_brains, make_brains, make_covariates, t_contrasts, write_config

N_PARAMS = 4


def main() -> None:
    arguments = parse_arguments(
        __doc__, n={"type": int, "default": 200, "help": "number of images"}
    )
    data = arguments.data
    make_brains(data)
    folder = data / "nilearn"
    X = make_covariates(folder, arguments.n, N_PARAMS)
    sides = {}
    for name, command in (
        ("blm", [arguments.blm]),
        ("nilearn", [sys.executable, HERE / "run_nilearn.py"]),
    ):
        outdir = folder / name
        config = write_config(
            folder / f"{name}.yml",
            link_brains(data, arguments.n),
            X,
            outdir,
            contrasts=t_contrasts(*np.eye(N_PARAMS)[1:].tolist()),
            analysis_mask=str(data / "data" / "mask.nii"),
            OutputCovB=False,
        )
        sides[name] = Side([*command, config], outdir)
    measured = compare(sides, arguments.repeats, folder)
    ours, theirs = measured["blm"], measured["nilearn"]
    cpu, memory = (ours[key] / theirs[key] for key in ("cpu_s", "pss_mib"))
    aims = [
        aim("CPU of nilearn / CPU of blm", 1 / cpu, ">=", 15),
        aim("memory of nilearn / memory of blm", 1 / memory, ">=", 8),
    ]
    write_result(arguments.results, "nilearn", aims, n_obs=arguments.n, sides=measured)


if __name__ == "__main__":
    main()
