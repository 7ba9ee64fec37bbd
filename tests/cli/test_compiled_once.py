"""What is compiled once serves any number of threads and voxels.

Kernels see whole arrays and a range.  Another memory layout would not only be compiled again, but
could also round differently.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml
from cli.conftest import Kernels
from forked import Forker, fork_with_numba

SHAPE = (10, 9, 8)  # more than two tiles, so that two threads have work


def write_study(folder: Path, model: str) -> None:
    rng = np.random.default_rng(0)
    n = 20
    Y = rng.normal(size=(n, *SHAPE))
    Y[rng.random(Y.shape) < 0.05] = np.nan
    paths = [folder / f"y{i}.nii" for i in range(n)]
    for path, values in zip(paths, Y, strict=True):
        nib.Nifti1Image(values, np.eye(4)).to_filename(path)
    (folder / "images.txt").write_text("\n".join(map(str, paths)))
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    np.savetxt(folder / "X.csv", X, delimiter=",")
    config = {
        "Y_files": "images.txt",
        "X": "X.csv",
        "outdir": "out",
        "contrasts": [
            {"c1": {"name": "T", "vector": [0, 1, 0]}},
            {"c2": {"name": "F", "vector": [[0, 1, 0], [0, 0, 1]]}},
        ],
    }
    if model == "blmm":
        (folder / "level.txt").write_text("\n".join(f"level {i // 4}" for i in range(n)))
        (folder / "one.csv").write_text("1\n" * n)
        config["Z"] = [{"f1": {"name": "f", "factor": "level.txt", "design": "one.csv"}}]
    (folder / "study.yml").write_text(yaml.safe_dump(config))


def configure(folder: Path, **settings: Any) -> None:
    """Write the configuration of one run of a study."""
    config = yaml.safe_load((folder / "study.yml").read_text()) | {"numNodes": 1} | settings
    (folder / "run.yml").write_text(yaml.safe_dump(config))


def list_announced(said: str) -> list[str]:
    return [line for line in said.splitlines() if "compiling" in line]


# Prints, of each kernel that was used, its versions.
RUN = """
import gc, json, sys
from numba.core.dispatcher import Dispatcher
from nipype_blm.cli.fit import main
if main(["run.yml"], sys.argv[1]):
    raise SystemExit("the run has failed")
found = (each for each in gc.get_objects() if isinstance(each, Dispatcher))
used = {f"{d.__module__}.{d.__name__}": sorted(map(str, d.signatures)) for d in found}
print(json.dumps({name: versions for name, versions in used.items() if versions}))
"""


class Run(NamedTuple):
    """A run of a study with all kernels at hand: what it used, and what it said."""

    used: set[tuple[str, str]]  # kernels, and the arguments they are compiled for
    said: str


@pytest.fixture(scope="module")
def run_study(fork_with_kernels: Forker) -> Callable[..., Run]:
    """Function that runs the study of a folder."""

    def run(folder: Path, model: str, **settings: Any) -> Run:
        configure(folder, **settings)
        done = fork_with_kernels.run(RUN, folder, os.environ, model)
        assert done.returncode == 0, done.stderr
        used = json.loads(done.stdout.splitlines()[-1])
        return Run({(name, each) for name in used for each in used[name]}, done.stderr)

    return run


class First(NamedTuple):
    """A study that has been run with one thread."""

    folder: Path
    run: Run


@pytest.fixture(scope="module")
def first_runs(
    tmp_path_factory: pytest.TempPathFactory, run_study: Callable[..., Run]
) -> Callable[[str], First]:
    """Function that returns the first run of a model: once for all tests."""

    @functools.cache
    def run_first(model: str) -> First:
        folder = tmp_path_factory.mktemp(model)
        write_study(folder, model)
        return First(folder, run_study(folder, model))

    return run_first


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is one thread")
@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_another_number_of_threads_compiles_nothing(
    first_runs: Callable[[str], First], run_study: Callable[..., Run], model: str
) -> None:
    folder, first = first_runs(model)
    assert len(first.used) > 5
    assert not list_announced(first.said)
    run = run_study(folder, model, numNodes=2, outdir="out2")
    assert run.used == first.used
    assert not list_announced(run.said)


def test_a_single_voxel_compiles_no_other_statistics(
    first_runs: Callable[[str], First], run_study: Callable[..., Run]
) -> None:
    folder, first = first_runs("blmm")
    inside = np.zeros(SHAPE, np.int16)
    inside[4, 4, 4] = 1
    nib.Nifti1Image(inside, np.eye(4)).to_filename(folder / "one.nii")
    run = run_study(folder, "blmm", analysis_mask="one.nii", outdir="alone")
    new = {name for name, _ in run.used - first.used}
    # Reading copies values, and a mask of one run may have another layout: nothing is rounded.
    assert new <= {"nipype_blm.core.voxels.gather"}
    assert len(run.used) > 5


def list_announcements(fitting_s: int) -> list[str]:
    """Return what is said where a run compiles something for each of its parts."""
    end = "once for this machine and version: about"
    return [
        f"compiling what reads images, {end} 3 s",
        f"compiling what fits voxels, {end} {fitting_s} s",
        f"compiling what tests contrasts, {end} 4 s",
    ]


def test_what_is_compiled_from_nothing_is_announced(compiled: Kernels) -> None:
    """Once for each part, though that has many kernels; the first sample is a linear model."""
    first = [
        line.partition(": ")[2] for line in compiled.err.splitlines() if line.startswith("1 of ")
    ]
    assert first[:3] == list_announcements(8)


PARTS = {
    "blm": ("products._accumulate", "ols._covariance", "contrasts._variance"),
    "blmm": ("products._accumulate", "fit._clear_dropped", "tails._compute_t_tails"),
}


@pytest.mark.parametrize(
    ("model", "plugin", "seconds"),
    [("blmm", "Linear", 30), ("blm", "MultiProc", 8), ("blm", "Dask", 8)],
)
def test_what_any_process_compiles_is_announced_only_if_it_is(
    compiled: Kernels, tmp_path: Path, model: str, plugin: str, seconds: int
) -> None:
    """Otherwise a first run stands still for half a minute, and nobody knows why.

    A kernel of each part is taken away: all of them would take minutes.
    """
    cache = shutil.copytree(compiled.cache, tmp_path / "cache")
    for kernel in PARTS[model]:
        found = list(cache.rglob(f"{kernel}-*"))
        assert found
        for path in found:
            path.unlink()
    write_study(tmp_path, model)
    program = f"from nipype_blm.cli.{model} import command; command()"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}

    def run(outdir: str) -> list[str]:
        configure(tmp_path, outdir=outdir)
        words = ("run.yml", "--plugin", plugin)
        done = fork_with_numba().run(program, tmp_path, environment, *words)
        assert done.returncode == 0, done.stderr
        return list_announced(done.stderr)

    assert run("parts") == list_announcements(seconds)
    assert not run("again")
