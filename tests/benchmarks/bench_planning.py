"""Is planning quick for 10,000 images, and does a run take as long as its plan expects?

Tiny images, so that planning, hashing and Nipype are all there is; then, on one thread, the
stages of models of 2 mm brains against `nipype_blm.model.costs`.
"""

import gzip
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from harness import HERE, Side, aim, compare, parse_arguments, write_result
from images import link_brains, make_all, make_brains, make_covariates, t_contrasts, write_config
from threadpoolctl import threadpool_limits

SHAPE = (10, 10, 10)
MANY = 50_000  # from which on one run is enough: compressed, and without a warm-up
N_PARAMS = 10
# Model, images, columns of X and extension.
CASES = (
    ("blm", 500, 4, ".nii.gz"),
    ("blm", 500, 10, ".nii"),
    ("blm", 1000, 10, ".nii.gz"),
    ("intercept", 500, 10, ".nii.gz"),
    ("intercept", 1000, 10, ".nii.gz"),
    ("slope", 500, 10, ".nii.gz"),
)


def make_many(folder: Path, n_obs: int, extension: str) -> list[Path]:
    """Write `n_obs` different images, unless they are there."""
    paths = [folder / f"{i:06d}{extension}" for i in range(n_obs)]
    if paths[-1].exists():
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(6)
    empty = np.zeros(SHAPE, np.float32)
    start = nib.Nifti1Image(empty, np.eye(4)).to_bytes()[: -empty.nbytes]
    for path in paths:
        data = start + rng.standard_normal(SHAPE).astype(np.float32).tobytes()
        path.write_bytes(gzip.compress(data, 1) if extension.endswith(".gz") else data)
    return paths


def plan_once(config_file: str, folder: str) -> None:
    """Plan a run, by the stage alone."""
    from nipype_blm.frontends.blm import read
    from nipype_blm.stages.plan import prepare_run, write_plan

    request = read(Path(config_file))
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_plan(prepare_run(request), Path(folder))


def run_plan_node(config_file: str, folder: str) -> None:
    """Plan a run, by a node that is given every image by name."""
    from nipype.pipeline.engine import Node, Workflow

    from nipype_blm.interfaces.blm import PlanBLM

    config = yaml.safe_load(Path(config_file).read_text())
    plan = PlanBLM(plan_dir="../plan_files", contrasts=config["contrasts"])
    plan.inputs.in_files = Path(config["Y_files"]).read_text().splitlines()
    plan.inputs.design_file = config["X"]
    workflow = Workflow("planning", base_dir=folder)
    workflow.add_nodes([Node(plan, name="plan")])
    workflow.run()


def call(function: Callable[[str, str], None], config: Path, folder: Path) -> list[str]:
    """Return a command that calls one of the functions above, in a process of its own."""
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); import bench_planning as b; "
    arguments = f"({str(config)!r}, {str(folder)!r})"
    return [sys.executable, "-c", f"{program}b.{function.__name__}{arguments}"]


def measure_planning(arguments: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return aims, and what planning and whole runs take, the first time and again."""
    sides: dict[str, Side] = {}
    for n in arguments.n:
        for extension in (".nii.gz", ".nii") if n < MANY else (".nii.gz",):
            folder = arguments.data / "planning" / f"{n}{extension}"
            paths = make_many(folder / "images", n, extension)
            config = write_config(
                folder / "config.yml",
                paths,
                make_covariates(folder, n, N_PARAMS),
                folder / "maps",
                contrasts=t_contrasts([0] * (N_PARAMS - 1) + [1]),
                numNodes=1,
            )
            commands = {
                "plan": (folder / "plan", call(plan_once, config, folder / "plan")),
                "node": (folder / "node", call(run_plan_node, config, folder / "node")),
                "blm": (folder / "maps", [str(arguments.blm), str(config)]),
            }
            for what, (fresh, command) in commands.items():
                sides[f"{what}, {n} {extension}, first"] = Side(command, fresh, fewer=n >= MANY)
                sides[f"{what}, {n} {extension}, again"] = Side(command, fewer=n >= MANY)
    measured = compare(sides, arguments.repeats, arguments.data)
    aims = []
    for n in arguments.n:
        for what in ("plan", "node"):
            found = [side for name, side in measured.items() if name.startswith(f"{what}, {n} ")]
            slowest = max(side["wall_s"] for side in found)
            aims.append(aim(f"{what}, {n} images, start-up included: s", slowest, "<=", n / 1000))
    return aims, measured


def make_model(data: Path, case: tuple[str, int, int, str]) -> Any:
    """Write the files of a model of brains; return what is asked."""
    from nipype_blm.frontends.blm import read

    model, n, p, extension = case
    folder = data / "stages"
    paths = link_brains(data, n)
    if extension == ".nii":
        originals = sorted((data / "data").glob("brain*.nii.gz"))
        plain = make_all(partial(decompress, folder / "plain"), originals)
        paths = [plain[i % len(plain)] for i in range(n)]
    X = make_covariates(folder, n, p)
    config_file = write_config(
        folder / "config.yml",
        paths,
        X,
        folder / "maps",
        contrasts=t_contrasts([0] * (p - 1) + [1]),
        analysis_mask=str(data / "data" / "mask.nii"),
    )
    if model == "blm":
        return read(config_file)
    columns = [np.ones(n), np.loadtxt(X, delimiter=",")[:, 1]]
    np.savetxt(folder / "Z.csv", np.column_stack(columns[: 1 + (model == "slope")]), delimiter=",")
    (folder / "levels.txt").write_text("".join(f"{i // 5}\n" for i in range(n)))
    factor = {"factor": str(folder / "levels.txt"), "design": str(folder / "Z.csv")}
    fields = yaml.safe_load(config_file.read_text())
    config_file.write_text(yaml.safe_dump(fields | {"Z": [{"f1": factor}]}))
    return read(config_file, "blmm")


def decompress(folder: Path, path: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.stem
    if not target.exists():
        target.write_bytes(gzip.decompress(path.read_bytes()))
    return target


def measure_stages(data: Path, case: tuple[str, int, int, str], repeats: int) -> dict[str, Any]:
    """Return CPU seconds of each stage, the least of all repeats, and those expected."""
    from nipype_blm.model.costs import (
        predict_assembly_s,
        predict_fitting_s,
        predict_reading_s,
        predict_testing_s,
    )
    from nipype_blm.stages.plan import prepare_run

    request = make_model(data, case)
    run = prepare_run(request)
    sizes = measure_sizes(run.spec, case[-1] == ".nii.gz")
    times = [run_stages(run, request.out_dir) for _ in range(repeats + 1)][1:]
    predicted = {
        "reading": predict_reading_s(sizes, sizes.n_images),
        "fitting": predict_fitting_s(sizes, sizes.n_voxels),
        "testing": predict_testing_s(sizes, sizes.n_voxels),
        "assembly": predict_assembly_s(run.plan.map_bytes),
    }
    row = dict(zip(("model", "images", "columns", "extension"), case, strict=True))
    row |= {"voxels": sizes.n_voxels, "grid": sizes.n_values, "map_bytes": run.plan.map_bytes}
    row |= {"random_effects": sizes.n_raneffs, "variances": sizes.n_variances}
    for stage, seconds in predicted.items():
        row[f"{stage}_s"] = round(min(found[stage] for found in times), 4)
        row[f"{stage}_predicted_s"] = round(seconds, 4)
    print(row)
    return row


def measure_sizes(spec: Any, is_compressed: bool) -> Any:
    """Return the sizes of a model of float32 images with one T contrast."""
    from nipype_blm.model.costs import Sizes
    from nipype_blm.model.planning import count_columns_of_rows

    return Sizes(
        n_images=spec.n_obs,
        n_params=spec.n_params,
        n_voxels=spec.n_voxels,
        n_values=spec.mask.size,
        image_itemsize=4,
        staged_itemsize=4,
        map_itemsize=4,
        contrast_rows=(1,),
        with_cov=spec.with_cov,
        is_compressed=is_compressed,
        columns_of_rows=count_columns_of_rows(spec.factors) if spec.factors else (),
        n_variances=sum(factor.n_entries for factor in spec.factors),
    )


def run_stages(run: Any, folder: Path) -> dict[str, float]:
    """Return the CPU seconds of each stage of a run."""
    from nipype_blm.io.publish import Claim
    from nipype_blm.stages.assemble import assemble_maps
    from nipype_blm.stages.estimates import compute_estimates
    from nipype_blm.stages.plan import write_plan
    from nipype_blm.stages.products import compute_products
    from nipype_blm.stages.statistics import compute_statistics

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plan = write_plan(run, folder)
    times = [time.process_time()]
    products = [
        compute_products(plan.model_file, batch, folder / f"products{i}")
        for i, batch in enumerate(plan.batch_files)
    ]
    times.append(time.process_time())
    model = (plan.model_file, plan.batch_files, products)
    estimates = [
        compute_estimates(*model, block, plan.fingerprint, folder / f"estimates{block}")
        for block in plan.blocks
    ]
    times.append(time.process_time())
    contrasts = (plan.model_file, plan.contrasts_file)
    tests = [
        compute_statistics(*contrasts, file, block, plan.fingerprint, folder / f"tests{block}")
        for block, file in zip(plan.blocks, estimates, strict=True)
    ]
    times.append(time.process_time())
    claim = Claim(plan.model_id, folder)
    assemble_maps(
        *contrasts, plan.batch_files, estimates, tests, plan.fingerprint, folder / "maps", claim
    )
    times.append(time.process_time())
    stages = ("reading", "fitting", "testing", "assembly")
    return dict(zip(stages, np.diff(times).tolist(), strict=True))


def main() -> None:
    arguments = parse_arguments(
        __doc__, n={"type": int, "nargs": "+", "default": [10_000, 100_000], "help": "images"}
    )
    aims, measured = measure_planning(arguments)
    make_brains(arguments.data)
    with threadpool_limits(1):
        rows = [measure_stages(arguments.data, case, arguments.repeats) for case in CASES]
    for stage in ("reading", "fitting", "testing", "assembly"):
        ratios = np.array([row[f"{stage}_predicted_s"] / row[f"{stage}_s"] for row in rows])
        worst = float(np.maximum(ratios, 1 / ratios).max())
        aims.append(aim(f"{stage}: largest factor between expected and measured", worst, "<=", 2))
    write_result(arguments.results, "planning", aims, sides=measured, stages=rows)


if __name__ == "__main__":
    main()
