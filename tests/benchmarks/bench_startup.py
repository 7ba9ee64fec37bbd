"""How long does it take until ``blm`` or a node does something?"""

import sys
from pathlib import Path

from harness import HERE, Side, aim, compare, parse_arguments, write_result
from images import make_covariates, make_tiny, t_contrasts, write_config

N_PARAMS = 3


def main() -> None:
    arguments = parse_arguments(__doc__)
    folder = arguments.data / "startup"
    paths = make_tiny(folder / "data")
    X = make_covariates(folder, len(paths), N_PARAMS)

    def config(name: str) -> Path:
        return write_config(
            folder / f"{name}.yml",
            paths,
            X,
            folder / name,
            contrasts=t_contrasts([0] * (N_PARAMS - 1) + [1]),
            Missingness={"MinPercent": 0.5},
            OutputCovB=False,
            numNodes=1,
        )

    def python(code: str) -> Side:
        return Side([sys.executable, "-c", code])

    node = [sys.executable, HERE / "run_one_node.py", config("node"), "1"]
    sides = {
        "python": python("pass"),
        "import numpy, nibabel": python("import numpy, nibabel"),
        "import nipype base": python("import nipype.interfaces.base"),
        "import interfaces": python("import nipype_blm.interfaces"),
        "import workflows": python("import nipype_blm.workflows"),
        "blm --help": Side([arguments.blm, "--help"]),
        "one node": Side(node, folder / "node"),
        "blm": Side([arguments.blm, config("blm")], folder / "blm"),
    }
    measured = compare(sides, arguments.repeats, folder)
    aims = [
        aim("blm --help: seconds", measured["blm --help"]["wall_s"], "<=", 1),
        aim("start of one node on tiny images: CPU s", measured["one node"]["cpu_s"], "<=", 1),
    ]
    write_result(arguments.results, "startup", aims, sides=measured)


if __name__ == "__main__":
    main()
