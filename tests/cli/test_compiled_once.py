"""What is compiled once serves any number of threads and voxels.

Kernels see whole arrays and a range.  Another memory layout would not only be compiled again, but
could also round differently.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml

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


def run_command(folder: Path, model: str, *options: str, **settings: Any) -> list[str]:
    """Run the study in a new process; return what it says."""
    config = yaml.safe_load((folder / "study.yml").read_text())
    config |= {"numNodes": 1} | settings
    (folder / "study.yml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-P", "-m", f"nipype_blm.cli.{model}", "study.yml", *options]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stderr.splitlines()


def list_compiled(folder: Path) -> set[str]:
    """Return the kernels in the cache of a study."""
    return {path.name for path in (folder / "cache").rglob("*.nbc")}


def list_announced(said: list[str]) -> list[str]:
    return [line for line in said if "compiling" in line]


class First(NamedTuple):
    """The first run of a model: its study, with the cache that was new, and what it said."""

    folder: Path
    said: list[str]


@pytest.fixture(scope="module")
def first_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], First]:
    """Function that returns the first run of a model, which compiles: once for all tests."""

    @functools.cache
    def run_first(model: str) -> First:
        folder = tmp_path_factory.mktemp(model)
        write_study(folder, model)
        return First(folder, run_command(folder, model))

    return run_first


@pytest.fixture
def copy_first(first_runs: Callable[[str], First], tmp_path: Path) -> Callable[[str], Path]:
    """Function that returns a copy of the study and cache of a first run."""

    def copy(model: str) -> Path:
        return shutil.copytree(first_runs(model).folder, tmp_path / model)

    return copy


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is one thread")
@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_another_number_of_threads_compiles_nothing(
    copy_first: Callable[[str], Path], model: str
) -> None:
    folder = copy_first(model)
    compiled = list_compiled(folder)
    assert compiled
    assert not list_announced(run_command(folder, model, numNodes=2, outdir="out2"))
    assert list_compiled(folder) == compiled


def test_a_single_voxel_compiles_no_other_statistics(copy_first: Callable[[str], Path]) -> None:
    folder = copy_first("blmm")
    compiled = list_compiled(folder)
    inside = np.zeros(SHAPE, np.int16)
    inside[4, 4, 4] = 1
    nib.Nifti1Image(inside, np.eye(4)).to_filename(folder / "one.nii")
    run_command(folder, "blmm", analysis_mask="one.nii", outdir="alone")
    new = list_compiled(folder) - compiled
    # Reading copies values, and a mask of one run may have another layout: nothing is rounded.
    assert not [name for name in new if not name.startswith("voxels.gather")]


def list_announcements(fitting_s: int) -> list[str]:
    """Return what is said where a run compiles something for each of its parts."""
    end = "once for this machine and version: about"
    return [
        f"compiling what reads images, {end} 3 s",
        f"compiling what fits voxels, {end} {fitting_s} s",
        f"compiling what tests contrasts, {end} 4 s",
    ]


@pytest.mark.parametrize(("model", "seconds"), [("blm", 8), ("blmm", 30)])
def test_what_is_compiled_is_announced(
    first_runs: Callable[[str], First], model: str, seconds: int
) -> None:
    """Otherwise a first run stands still for half a minute, and nobody knows why."""
    assert list_announced(first_runs(model).said) == list_announcements(seconds)


@pytest.mark.parametrize("plugin", ["MultiProc", "Dask"])
def test_what_other_processes_compile_is_announced_only_if_it_is(
    copy_first: Callable[[str], Path], plugin: str
) -> None:
    """A kernel of each part is taken away: all of them would take as long as a first run."""
    folder, options = copy_first("blm"), ("--plugin", plugin)
    for kernel in ("products._accumulate", "ols._covariance", "contrasts._variance"):
        found = list((folder / "cache").rglob(f"{kernel}-*"))
        assert found
        for path in found:
            path.unlink()
    said = run_command(folder, "blm", *options, outdir="parts")
    assert list_announced(said) == list_announcements(8)
    assert not list_announced(run_command(folder, "blm", *options, outdir="again"))
