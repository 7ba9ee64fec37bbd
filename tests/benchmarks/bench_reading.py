"""How much does ``blm`` take beyond the decompression of its images?"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import HERE, Side, aim, compare, parse_arguments, write_result
from images import link_brains, make_brains, make_covariates, make_tiny, t_contrasts, write_config

N_PARAMS = 4

# Writes a configuration: folder, its name there, images, fields.
MakeConfig = Callable[..., Path]


def make_config(folder: Path, name: str, paths: list[Path], **fields: Any) -> Path:
    X = make_covariates(folder / name, len(paths), N_PARAMS)
    contrasts = t_contrasts([0] * (N_PARAMS - 1) + [1])
    outdir = folder / name / "out"
    path = folder / name / "config.yml"
    return write_config(path, paths, X, outdir, contrasts=contrasts, **fields)


def compare_with_loop(
    arguments: Any, command: str, make_config: MakeConfig, target: float, name: str
) -> None:
    """Measure a command and a bare loop over the same images, and write the result `name`."""
    few, many = arguments.n
    data = arguments.data
    program = getattr(arguments, command)
    make_brains(data)
    mask = str(data / "data" / "mask.nii")

    def name_folder(images: str | int) -> str:
        return f"{command} {images}"

    sides = {}
    start = name_folder("start-up")
    tiny = make_config(data, start, make_tiny(data / "tiny"), numNodes=1)
    sides[f"{command}, start-up"] = Side([program, tiny], data / start / "out")
    configs = {}
    for n in (few, many):
        folder = name_folder(n)
        configs[n] = make_config(data, folder, link_brains(data, n), numNodes=1, analysis_mask=mask)
        sides[f"{command}, {n} images"] = Side([program, configs[n]], data / folder / "out")
        loop = [sys.executable, HERE / "read_loop.py", configs[n].with_suffix(".txt")]
        sides[f"loop, {n} images"] = Side(loop)
    one_image = data / start / "one.txt"
    one_image.write_text(str(link_brains(data, 1)[0]))
    sides["loop, start-up"] = Side([sys.executable, HERE / "read_loop.py", one_image])
    measured = compare(sides, arguments.repeats, data)
    shutil.rmtree(configs[many].parent / "out")
    out = arguments.results / f"{name}_profile.txt"
    sample = [sys.executable, HERE / "sample_cpu.py", configs[many], out, command]
    subprocess.run(sample, check=True)

    cpu = {side: found["cpu_s"] for side, found in measured.items()}
    apart = [cpu[f"{who}, {many} images"] - cpu[f"{who}, start-up"] for who in (command, "loop")]
    marginal = [
        (cpu[f"{who}, {many} images"] - cpu[f"{who}, {few} images"]) / (many - few) * 1000
        for who in (command, "loop")
    ]
    question = f"{many} images: CPU of {command} / of a bare loop, start-up apart"
    aims = [aim(question, apart[0] / apart[1], "<=", target)]
    details = {f"{command}_ms_per_image": marginal[0], "loop_ms_per_image": marginal[1]}
    print({key: round(value, 3) for key, value in details.items()})
    write_result(arguments.results, name, aims, sides=measured, marginal=details)


def main() -> None:
    arguments = parse_arguments(
        __doc__, n={"type": int, "nargs": 2, "default": [500, 1000], "help": "numbers of images"}
    )
    compare_with_loop(arguments, "blm", make_config, 1.3, "reading")


if __name__ == "__main__":
    main()
