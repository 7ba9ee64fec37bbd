"""Workflows of both models with Nipype's own plugins, on a real Slurm and a real Grid Engine."""

import ast
import gzip
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from forked import fork_with_all
from numpy.testing import assert_allclose

CLUSTERS = Path(__file__).parents[2] / "docs" / "clusters.md"
MODELS = ("blm", "blmm")
SHAPE = (6, 5, 4)
N_OBS = 12
PLAN = {"images_per_batch": 6, "voxels_per_block": 60}
OTHER_PLAN = {"images_per_batch": 5, "voxels_per_block": 37}
# Kernels that are not cached yet take a minute or two to compile.
TIME_LIMIT = 400

RUN = """
import json, sys
from pathlib import Path
from nipype_blm import workflows

if __name__ == "__main__":  # which MultiProc may import
    job = json.loads(Path(sys.argv[1]).read_text())
    workflow = getattr(workflows, f"init_{job['model']}_wf")(max_mem_gb=0.5, **job["options"])
    workflow.inputs.inputnode.trait_set(**job["inputs"])
    workflow.base_dir = job["work_dir"]
    workflow.config["execution"] = job["execution"]
    if job["held_node"]:
        for name in ("plan", "products", "estimates", "contrasts", "assemble"):
            node = workflow.get_node(name)
            if name == job["held_node"]:
                node.plugin_args = {"sbatch_args": "--hold"}
                break
            node.run_without_submitting = True
    workflow.run(plugin=job["plugin"], plugin_args=job["plugin_args"])
"""

# Nipype looks more often than docs/clusters.md says, for jobs that take a second or two; each look
# costs a process for each job that waits.
EXECUTION = {"poll_sleep_duration": "2", "job_finished_timeout": "60"}


def read_documented_plugin_args() -> dict[str, dict[str, Any]]:
    """Return the arguments in the example of docs/clusters.md."""
    [literal] = re.findall(r"^PLUGIN_ARGS = (\{.*?^\})", CLUSTERS.read_text(), re.M | re.S)
    arguments: dict[str, dict[str, Any]] = ast.literal_eval(literal)
    return arguments


PLUGIN_ARGS = read_documented_plugin_args()


class Study:
    """Twelve float64 images with missing data, a design, and three sites."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.folder = folder
        X = np.column_stack([np.ones(N_OBS), rng.normal(size=N_OBS), np.arange(N_OBS) % 2])
        self.Y = (
            rng.normal(3, 1, (N_OBS, *SHAPE))
            + np.repeat(rng.normal(0, 1, 3), 4)[:, None, None, None]
        )
        self.Y[rng.random(self.Y.shape) < 0.1] = np.nan
        self.images = [folder / f"Y{i:02d}.nii" for i in range(N_OBS)]
        for path, values in zip(self.images, self.Y, strict=True):
            self.write(path, values)
        np.savetxt(folder / "X.csv", X, delimiter=",")
        (folder / "site.txt").write_text("".join(f"site {i // 4}\n" for i in range(N_OBS)))
        (folder / "one.csv").write_text("1\n" * N_OBS)

    def write(self, path: Path, values: np.ndarray) -> None:
        nib.save(nib.Nifti1Image(values, np.diag([2, 2, 2, 1])), path)

    def describe_job(
        self,
        model: str,
        plugin: str,
        name: str,
        plan: dict[str, int] = PLAN,
        held_node: str | None = None,
    ) -> str:
        """Write what a run shall do; return the file.

        The jobs of a node that is held do not start, and nodes before it are not submitted.
        """
        inputs: dict[str, Any] = {
            "in_files": [str(path) for path in self.images],
            "design_file": str(self.folder / "X.csv"),
            "contrasts": [
                {"name": "age", "vector": [0, 1, 0]},
                {"name": "both", "vector": [[0, 1, 0], [0, 0, 1]]},
            ],
        }
        if model == "blmm":
            factor = {"name": "site", "factor": str(self.folder / "site.txt")}
            inputs["random_factors"] = [factor | {"design": str(self.folder / "one.csv")}]
        execution = EXECUTION | {"crashdump_dir": str(self.folder / f"{name}_work")}
        if held_node:  # whose results never come
            execution["job_finished_timeout"] = "5"
        job = {
            "model": model,
            "options": plan | {"out_dir": str(self.folder / f"{name}_maps")},
            "inputs": inputs,
            "work_dir": str(self.folder / f"{name}_work"),
            "execution": execution,
            "held_node": held_node,
            "plugin": plugin,
            "plugin_args": PLUGIN_ARGS[plugin],
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(job))
        return str(path)

    def maps(self, name: str) -> dict[str, Path]:
        folder = self.folder / f"{name}_maps"
        return {str(path.relative_to(folder)): path for path in folder.rglob("*.nii")}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with the maps of local runs of both models, with two plans."""
    study = Study(tmp_path_factory.mktemp("local"))
    for model in MODELS:
        for name, plan in (("local", PLAN), ("other_plan", OTHER_PLAN)):
            run_here(study, study.describe_job(model, "Linear", f"{model}_{name}", plan))
    return study


def run_here(study: Study, file: str) -> None:
    """Run what does all in one process, which need not import everything first."""
    process = fork_with_all().start(RUN, study.folder, os.environ, file)
    assert process.wait(TIME_LIMIT) == 0, process.said


# -- The maps are those of a local run -----------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "models"),
    [("MultiProc", MODELS), ("SLURM", ["blm"]), ("SGE", ["blmm"])],  # and SLURM, of a formula
    ids=["MultiProc", "SLURM", "SGE"],
)
def test_the_maps_are_those_of_a_local_run(
    plugin: str, models: Sequence[str], local: Study, request: pytest.FixtureRequest
) -> None:
    if plugin in ("SLURM", "SGE"):
        request.getfixturevalue(plugin.lower())
    # MultiProc may import the program itself, so that it is to be one.
    start = request.getfixturevalue("start_program" if plugin == "MultiProc" else "fork_program")
    # At the same time: most of it is waiting.
    files = [local.describe_job(model, plugin, f"{model}_{plugin}") for model in models]
    programs = [start(RUN, file) for file in files]
    for program in programs:
        assert program.wait(TIME_LIMIT) == 0, program.output
    for model in models:
        assert_equal_files(local.maps(f"{model}_{plugin}"), local.maps(f"{model}_local"))
        assert_equal_but_rounding(
            local.maps(f"{model}_{plugin}"), local.maps(f"{model}_other_plan")
        )


def assert_equal_files(maps: dict[str, Path], others: dict[str, Path]) -> None:
    assert "beta.nii" in {name.rpartition("_")[2] for name in maps}
    assert maps.keys() == others.keys()
    assert [n for n, path in maps.items() if path.read_bytes() != others[n].read_bytes()] == []


def assert_equal_but_rounding(maps: dict[str, Path], others: dict[str, Path]) -> None:
    assert maps.keys() == others.keys()
    for name, path in maps.items():
        one, other = (np.asarray(nib.load(p).dataobj) for p in (path, others[name]))
        # Sums over batches of other sizes round differently; values that are sums of large
        # ones of both signs are exact to the rounding of the large ones.
        scale = np.abs(one).max()
        assert (other.shape, other.dtype) == (one.shape, one.dtype), name
        assert_allclose(other, one, rtol=1e-12, atol=1e-14 * scale, err_msg=name)


FORMULA = """
import sys
from pathlib import Path
from nipype_blm import workflows

study, plugin = Path(sys.argv[1]), sys.argv[2]
workflow = workflows.init_blmm_wf(out_dir=study / f"{plugin}_formula", max_mem_gb=0.5)
workflow.inputs.inputnode.table = str(study / "table.tsv")
workflow.inputs.inputnode.formula = "~ age + (1 | site)"
workflow.base_dir = study / f"{plugin}_work"
workflow.config["execution"] = {"poll_sleep_duration": "2", "job_finished_timeout": "60"}
workflow.run(plugin=plugin)
"""


def test_a_formula_on_slurm_gives_the_maps_of_a_local_run(
    study: Study, fork_program: Callable, slurm: Any
) -> None:
    rows = [f"{image}\t{20 + i % 7}\t{'ABC'[i // 4]}" for i, image in enumerate(study.images)]
    (study.folder / "table.tsv").write_text("\n".join(["image\tage\tsite", *rows]) + "\n")
    programs = [fork_program(FORMULA, str(study.folder), plugin) for plugin in ("Linear", "SLURM")]
    for program in programs:
        assert program.wait(TIME_LIMIT) == 0, program.output
    maps = {
        plugin: {path.name: path for path in (study.folder / f"{plugin}_formula").rglob("*.nii")}
        for plugin in ("Linear", "SLURM")
    }
    assert_equal_files(maps["SLURM"], maps["Linear"])


# -- Faults are told in the words of the user ----------------------------------------------

COMMAND = """
import sys
from nipype_blm.cli.blm import main

if __name__ == "__main__":  # which MultiProc may import
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("plugin", ["MultiProc", "SLURM", "SGE"])
def test_the_command_tells_what_a_job_has_found_wrong_and_nothing_of_a_node(
    plugin: str, study: Study, start_program: Callable, request: pytest.FixtureRequest
) -> None:
    """The damage of a compressed image shows when it is read, in a job."""
    if plugin in ("SLURM", "SGE"):
        request.getfixturevalue(plugin.lower())
    damaged = study.folder / "Y05.nii.gz"
    damaged.write_bytes(gzip.compress(study.images[5].read_bytes())[:-1])
    names = [damaged.name if i == 5 else path.name for i, path in enumerate(study.images)]
    (study.folder / "Y.txt").write_text("\n".join(names))
    config = study.folder / "blm.yml"
    config.write_text(
        "Y_files: Y.txt\nX: X.csv\noutdir: out\ncontrasts: [{name: age, vector: [0, 1, 0]}]\n"
    )
    arguments = [str(config), "--quiet", "--plugin", plugin]
    if plugin == "MultiProc":
        (study.folder / "arguments.yml").write_text("n_procs: 1\n")
        arguments += ["--plugin-args", str(study.folder / "arguments.yml")]
    program = start_program(COMMAND, *arguments)
    assert program.wait(TIME_LIMIT) == 2, program.output
    [line] = program.output.splitlines()
    assert line.startswith(f"error: line 6 of Y.txt: {damaged} is damaged")
    assert not list(study.folder.glob("out/*.nii"))


# -- Old numbers are never presented as new ------------------------------------------------


@pytest.mark.parametrize("node", ["plan", "products", "estimates", "contrasts", "assemble"])
def test_a_run_with_jobs_that_never_start_ends_with_an_error(
    node: str, study: Study, fork_program: Callable, slurm: Any, wait_until: Callable
) -> None:
    run_here(study, study.describe_job("blm", "Linear", "study"))
    study.write(study.images[2], study.Y[2] + 1)
    program = fork_program(RUN, study.describe_job("blm", "SLURM", "study", held_node=node))

    def cancel_jobs() -> bool:
        for job in program.jobs(slurm):
            if job.name.lstrip("_").startswith(node):
                slurm.cancel(job.id)
                cancelled.append(job.name)
        return program.has_ended

    cancelled: list[str] = []
    wait_until(cancel_jobs, TIME_LIMIT, "the run ended")
    if f"{node}.blm_wf.{program.user}" not in cancelled:
        pytest.fail(f"no job of {node} was cancelled: {cancelled}\n{program.output}")
    assert program.wait() == 1, program.output
