"""How much does ``blm`` take beyond the decompression of its images?"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import HERE, Side, aim, compare, parse_arguments, write_result
from images import link_brains, make_brains, make_covariates, make_tiny, t_contrasts, write_config

N_PARAMS = 4


def make_config(folder: Path, name: str, paths: list[Path], **fields: Any) -> Path:
    X = make_covariates(folder / name, len(paths), N_PARAMS)
    contrasts = t_contrasts([0] * (N_PARAMS - 1) + [1])
    outdir = folder / name / "out"
    path = folder / name / "config.yml"
    return write_config(path, paths, X, outdir, contrasts=contrasts, **fields)


def main() -> None:
    arguments = parse_arguments(
        __doc__, n={"type": int, "nargs": 2, "default": [500, 1000], "help": "numbers of images"}
    )
    few, many = arguments.n
    data = arguments.data
    make_brains(data)
    mask = str(data / "data" / "mask.nii")
    sides = {}
    tiny = make_config(data, "start-up", make_tiny(data / "tiny"), numNodes=1)
    sides["blm, start-up"] = Side([arguments.blm, tiny], data / "start-up" / "out")
    for n in (few, many):
        name = f"{n} images"
        config = make_config(data, name, link_brains(data, n), numNodes=1, analysis_mask=mask)
        sides[f"blm, {name}"] = Side([arguments.blm, config], data / name / "out")
        loop = [sys.executable, HERE / "read_loop.py", config.with_suffix(".txt")]
        sides[f"loop, {name}"] = Side(loop)
    one_image = data / "start-up" / "one.txt"
    one_image.write_text(str(link_brains(data, 1)[0]))
    sides["loop, start-up"] = Side([sys.executable, HERE / "read_loop.py", one_image])
    measured = compare(sides, arguments.repeats, data)
    config = data / f"{many} images" / "config.yml"
    shutil.rmtree(config.parent / "out")
    out = arguments.results / "reading_profile.txt"
    subprocess.run([sys.executable, HERE / "sample_cpu.py", config, out], check=True)

    cpu = {name: side["cpu_s"] for name, side in measured.items()}
    apart = [cpu[f"{who}, {many} images"] - cpu[f"{who}, start-up"] for who in ("blm", "loop")]
    marginal = [
        (cpu[f"{who}, {many} images"] - cpu[f"{who}, {few} images"]) / (many - few) * 1000
        for who in ("blm", "loop")
    ]
    aims = [
        aim(
            f"{many} images: CPU of blm / of a bare loop, start-up apart",
            apart[0] / apart[1],
            "<=",
            1.3,
        )
    ]
    details = {"blm_ms_per_image": marginal[0], "loop_ms_per_image": marginal[1]}
    print({name: round(value, 3) for name, value in details.items()})
    write_result(arguments.results, "reading", aims, sides=measured, marginal=details)


if __name__ == "__main__":
    main()
