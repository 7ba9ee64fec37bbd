"""What is compiled once serves any number of threads and voxels.

Kernels see whole arrays and a range.  Another memory layout would not only be compiled again, but
could also round differently.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def run(folder: Path, model: str, **settings: Any) -> set[str]:
    """Run the study in a new process; return the kernels that are in its cache then."""
    run_command(folder, model, **settings)
    return {path.name for path in (folder / "cache").rglob("*.nbc")}


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


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is one thread")
@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_another_number_of_threads_compiles_nothing(tmp_path: Path, model: str) -> None:
    write_study(tmp_path, model)
    compiled = run(tmp_path, model)
    assert compiled
    assert run(tmp_path, model, numNodes=2, outdir="out2") == compiled


def test_a_single_voxel_compiles_no_other_statistics(tmp_path: Path) -> None:
    write_study(tmp_path, "blmm")
    compiled = run(tmp_path, "blmm")
    inside = np.zeros(SHAPE, np.int16)
    inside[4, 4, 4] = 1
    nib.Nifti1Image(inside, np.eye(4)).to_filename(tmp_path / "one.nii")
    new = run(tmp_path, "blmm", analysis_mask="one.nii", outdir="alone") - compiled
    # Reading copies values, and a mask of one run may have another layout: nothing is rounded.
    assert not [name for name in new if not name.startswith("voxels.gather")]


@pytest.mark.parametrize(
    ("model", "options", "seconds"),
    [
        ("blm", [], 8),
        ("blmm", [], 30),
        ("blm", ["--plugin", "MultiProc"], 8),
        ("blm", ["--plugin", "Dask"], 8),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_what_is_compiled_is_announced_only_if_it_is(
    tmp_path: Path, model: str, options: list[str], seconds: int
) -> None:
    """Otherwise a first run stands still for half a minute, and nobody knows why.

    In the process of the command, and in others.
    """
    write_study(tmp_path, model)
    end = "once for this machine and version: about"
    announced = [
        f"compiling what reads images, {end} 3 s",
        f"compiling what fits voxels, {end} {seconds} s",
        f"compiling what tests contrasts, {end} 4 s",
    ]
    said = run_command(tmp_path, model, *options)
    assert [line for line in said if "compiling" in line] == announced
    again = run_command(tmp_path, model, *options, outdir="again")
    assert not [line for line in again if "compiling" in line]
