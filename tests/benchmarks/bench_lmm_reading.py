"""How much does ``blmm`` take beyond the decompression of its images?

A random intercept of subjects with five images each.
"""

from pathlib import Path
from typing import Any

import bench_reading
import numpy as np
from harness import parse_arguments
from mixed_images import write_intercepts

N_VISITS = 5


def order_by_subject(paths: list[Path], n_distinct: int = 100) -> list[Path]:
    """Order the links to `n_distinct` images so that images of a subject resemble each other.

    The five images of subject s, one after the other, are three copies of image s and two of
    the next, so that the variance between subjects is never zero.
    """
    if len(paths) % (N_VISITS * n_distinct):
        raise ValueError(f"{len(paths)} images are no multiple of {N_VISITS * n_distinct}.")
    copies = [paths[i::n_distinct] for i in range(n_distinct)]
    ordered = []
    for subject in range(len(paths) // N_VISITS):
        first, second = subject % n_distinct, (subject + 1) % n_distinct
        ordered += [copies[i].pop() for i in (first, first, first, second, second)]
    return ordered


def make_config(folder: Path, name: str, paths: list[Path], **fields: Any) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    if len(paths) >= 500:
        paths, n_visits = order_by_subject(paths), N_VISITS
    else:
        n_visits = 3  # of the tiny images of the start-up
    Z = write_intercepts(folder / name, np.arange(len(paths)) // n_visits)
    return bench_reading.make_config(folder, name, paths, Z=Z, **fields)


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        "blmm",
        n={"type": int, "nargs": 2, "default": [500, 1000], "help": "numbers of images"},
    )
    bench_reading.compare_with_loop(arguments, "blmm", make_config, 1.5, "lmm_reading")


if __name__ == "__main__":
    main()
