"""What does it cost to write tiles, and what does another model of the same images save?

Compressed 2 mm brains.  The whole command, and the stage that reads alone: from images, from images
with tiles written, from tiles, and from tiles of other batches in another order.  Products must be
the same bit for bit.
"""

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Usage, aim, measure, parse_arguments, summarise, write_result
from images import link_brains, make_brains, t_contrasts, write_config

from nipype_blm.frontends.blm import read
from nipype_blm.stages.plan import prepare_run, write_plan
from nipype_blm.stages.products import compute_products
from nipype_blm.stages.tiles import find_tile


def configure(data: Path, paths: list[Path], name: str, seed: int, **fields: Any) -> Path:
    """Write the configuration of a model with four columns."""
    folder = data / "tiles"
    folder.mkdir(exist_ok=True)
    X = folder / f"{name}.csv"
    covariates = np.random.default_rng(seed).normal(size=(len(paths), 3))
    np.savetxt(X, np.column_stack([np.ones(len(paths)), covariates]), "%.17g", ",")
    given = {"numNodes": 1, "analysis_mask": str(data / "data" / "mask.nii"), "overwrite": True}
    contrasts = t_contrasts([0, 1, 0, 0])
    out = folder / "maps"
    return write_config(
        folder / f"{name}.yml", paths, X, out, contrasts=contrasts, **given | fields
    )


def measure_command(blm: Path, data: Path, paths: list[Path], n_repeats: int) -> dict[str, Any]:
    """Return what the whole command takes."""
    files = {
        "without": configure(data, paths, "without", 1, keep="all"),
        "writing": configure(data, paths, "writing", 1, keep="tiles"),
        "another": configure(data, paths, "another", 2, keep="tiles"),
    }
    found: dict[str, list[Usage]] = {name: [] for name in files}
    for turn in range(n_repeats + 1):  # the first one fills all caches
        for name, file in files.items():
            if name != "another":
                shutil.rmtree(data / "tiles" / "maps", ignore_errors=True)
            usage = measure([blm, file, "--quiet"], data / "last.log")
            print(f"{name:>8}: {usage.cpu_s:.2f} CPU s, {usage.wall_s:.2f} s")
            if turn:
                found[name].append(usage)
    return {name: summarise(usages) for name, usages in found.items()}


def measure_stage(data: Path, paths: list[Path], n_repeats: int) -> dict[str, float]:
    """Return the CPU time of the stage, in seconds; the least of all repeats."""
    work, tiles = data / "tiles" / "stage", data / "tiles" / "stage" / "tiles"
    plans = {}
    for name, changes in (("first", {}), ("others", {"images_per_batch": len(paths) // 3})):
        order = np.random.default_rng(3).permutation(len(paths)) if changes else range(len(paths))
        config = configure(data, [paths[i] for i in order], name, 4, **changes)
        plans[name] = write_plan(prepare_run(read(config, "blm")), work / name)

    def run(plan: str, where: Path | None, writes: bool = False) -> list[bytes]:
        model, batches, *_ = plans[plan]
        outs = []
        for i, batch in enumerate(batches):
            tile = find_tile(model, batch, tiles) if writes else None
            out = work / f"{plan}{i}.blm"
            outs.append(compute_products(model, batch, out, 1, None, where, tile).read_bytes())
        return outs

    sides = {
        "images": partial(run, "first", None),
        "images, writing tiles": partial(run, "first", None, writes=True),
        "tiles": partial(run, "first", tiles),
        "images of other batches": partial(run, "others", None),
        "tiles of other batches": partial(run, "others", tiles),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(n_repeats + 1):
        shutil.rmtree(tiles, ignore_errors=True)
        contents = {}
        for name, side in sides.items():
            start = time.process_time()
            contents[name] = side()
            found[name].append(time.process_time() - start)
        assert contents["images"] == contents["images, writing tiles"] == contents["tiles"]
        assert contents["images of other batches"] == contents["tiles of other batches"]
    seconds = {name: min(each[1:]) for name, each in found.items()}
    seconds["bytes of tiles, of images as float32"] = sum(
        path.stat().st_size for path in tiles.iterdir()
    ) / (4 * 221_000 * len(paths))
    shutil.rmtree(work)
    return seconds


def main() -> None:
    arguments = parse_arguments(__doc__, n={"type": int, "default": 1000, "help": "images"})
    data, n_repeats = arguments.data, arguments.repeats
    make_brains(data)
    paths = link_brains(data, arguments.n)
    stage = measure_stage(data, paths, n_repeats)
    for name, seconds in stage.items():
        print(f"{name}: {seconds:.3f}")
    sides = measure_command(arguments.blm, data, paths, n_repeats)
    cpu = {name: side["cpu_s"] for name, side in sides.items()}
    of = f"{arguments.n} images, CPU time"
    aims = [
        aim(f"{of}: writing tiles, of a run without", cpu["writing"] / cpu["without"], "<=", 1.25),
        aim(f"{of}: a run without, of another model", cpu["without"] / cpu["another"], ">=", 6),
        aim(f"{of} of the stage: images, of tiles", stage["images"] / stage["tiles"], ">=", 6),
    ]
    write_result(arguments.results, "tiles", aims, sides=sides, stage_cpu_s=stage)


if __name__ == "__main__":
    main()
