"""What does a study cost that has grown by a hundredth, against one that reads all its images?

Small images, so that looking at all of them is what is left; and 2 mm brains, whose reading costs.
An age is centred, so that every row of X changes.  Images are counted as they are read.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bench_planning import make_many
from harness import Usage, aim, measure, parse_arguments, summarise, write_result
from images import link_brains, make_brains, t_contrasts, write_config

# Counts the images that are read, and runs the command.
PROGRAM = """
import sys
from nipype_blm.cli.blm import main
from nipype_blm.data.images import ImageReader
read, n = ImageReader.read, [0]
def count(*arguments):
    n[0] += 1
    return read(*arguments)
ImageReader.read = count
code = main([sys.argv[1], "--quiet"])
open(sys.argv[2], "w").write(str(n[0]))
raise SystemExit(code)
"""


def configure(folder: Path, paths: list[Path], name: str, mask: Path | None) -> Path:
    """Write the configuration of a run of some images, whose age is centred."""
    folder.mkdir(parents=True, exist_ok=True)
    ages = np.random.default_rng(5).uniform(20, 80, len(paths))
    X = folder / f"{name}.csv"
    np.savetxt(X, np.column_stack([np.ones(ages.size), ages - ages.mean()]), "%.17g", ",")
    fields: dict[str, Any] = {"keep": "all", "numNodes": 1}
    if mask is not None:
        fields["analysis_mask"] = str(mask)
    contrasts = t_contrasts([0, 1])
    # One folder for all of them: Nipype's records have its name.
    out = folder / "maps"
    return write_config(folder / f"{name}.yml", paths, X, out, contrasts=contrasts, **fields)


def run(config: Path, data: Path) -> tuple[Usage, int]:
    """Run the command; return what it took, and how many images it has read."""
    count = data / "count.txt"
    usage = measure([sys.executable, "-c", PROGRAM, config, count], data / "last.log")
    return usage, int(count.read_text())


def measure_growth(
    data: Path, folder: Path, paths: list[Path], n_before: int, repeats: int, mask: Path | None
) -> dict[str, Any]:
    """Return what a run of all images takes from nothing, and after one of the first ones."""
    before = configure(folder, paths[:n_before], "before", mask)
    after = configure(folder, paths, "after", mask)
    maps, saved = folder / "maps", folder / "saved"
    for path in (maps, saved):
        shutil.rmtree(path, ignore_errors=True)
    run(before, data)
    maps.rename(saved)
    usages: dict[str, list[Usage]] = {"all": [], "grown": [], "again": []}
    read: dict[str, list[int]] = {name: [] for name in usages}
    for _ in range(repeats):  # the run before them has filled all caches
        for name in usages:
            if name != "again":
                shutil.rmtree(maps, ignore_errors=True)
            if name == "grown":
                shutil.copytree(saved, maps, symlinks=True)
            usage, n = run(after, data)
            print(
                f"{folder.name} {name:>6}: {usage.cpu_s:.2f} CPU s, {usage.wall_s:.2f} s, {n} read"
            )
            usages[name].append(usage)
            read[name].append(n)
    shutil.rmtree(saved)
    return {
        name: summarise(found) | {"images_read": max(read[name])} for name, found in usages.items()
    }


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        n={"type": int, "default": 10_000, "help": "small images before it grows"},
        brains={"type": int, "default": 2_000, "help": "brains before it grows"},
    )
    data = arguments.data
    sides, aims = {}, []
    for name, n in (("small", arguments.n), ("brains", arguments.brains)):
        more = n // 100
        if name == "small":
            paths, mask = make_many(data / "growth" / "images", n + more, ".nii.gz"), None
        else:
            make_brains(data)
            paths, mask = link_brains(data, n + more), data / "data" / "mask.nii"
        folder = data / "growth" / name
        found = measure_growth(data, folder, paths, n, arguments.repeats, mask)
        sides |= {f"{name}, {side}": values for side, values in found.items()}
        extra = found["grown"]["images_read"] - more - (mask is not None)
        aims.append(aim(f"{n} {name} images and {more} more: others read", extra, "<=", 0))
        ratio = found["grown"]["cpu_s"] / found["all"]["cpu_s"]
        target = 0.5 if name == "brains" else 1
        aims.append(aim(f"{name}: CPU time, as a share of reading all", ratio, "<=", target))
    write_result(arguments.results, "growth", aims, sides=sides)


if __name__ == "__main__":
    main()
