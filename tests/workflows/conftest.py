"""A small study whose files a test may change, and what a run of the workflow did."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype.pipeline.engine import Workflow

from nipype_blm.workflows import init_blm_wf

SHAPE = (6, 5, 4)
N_OBS = 12
T_MEAN = {"name": "mean", "vector": [1, 0, 0]}
T_AGE = {"name": "age", "vector": [0, 1, 0]}
F_BOTH = {"name": "age and group", "vector": [[0, 1, 0], [0, 0, 1]]}
FINAL_FILES = ("products.blm", "estimates.blm", "statistics.blm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs niworkflows, where `make short` does not install it."""
    if sys.version_info[:2] == (3, 12) or find_spec("niworkflows") is not None:
        return
    left_out = [item for item in items if item.path.name == "test_niworkflows.py"]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Study:
    """Twelve float64 images with missing data, and a design with three columns."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.folder = folder
        self.X = np.column_stack([np.ones(N_OBS), rng.normal(size=N_OBS), np.arange(N_OBS) % 2])
        self.Y = rng.normal(3, 1, (N_OBS, *SHAPE))
        self.Y[rng.random(self.Y.shape) < 0.15] = np.nan
        self.images = [folder / f"Y{i:02d}.nii" for i in range(N_OBS)]
        self.masks = [folder / f"mask{i:02d}.nii" for i in range(N_OBS)]
        self.design_file = folder / "X.csv"
        for path, values in zip(self.images, self.Y, strict=True):
            self.write(path, values)
        for path in self.masks:
            self.write(path, rng.random(SHAPE) < 0.95)
        self.write_design(self.X)

    def write(self, path: Path, values: np.ndarray) -> None:
        kind = np.uint8 if values.dtype == bool else values.dtype
        nib.save(nib.Nifti1Image(values.astype(kind), np.diag([2, 2, 2, 1])), path)

    def write_design(self, X: np.ndarray) -> None:
        np.savetxt(self.design_file, X, delimiter=",", fmt="%.17g")

    def workflow(self, work_dir: Path | str, **options: Any) -> Workflow:
        """Return a workflow with three batches of images and three blocks of voxels."""
        inputs = {
            "in_files": [str(path) for path in self.images],
            "design_file": self.design_file,
            "contrasts": options.pop("contrasts", [F_BOTH, T_MEAN, T_AGE]),
        }
        for field in ("mask_file", "data_mask_files", "post_mask_file"):
            if field in options:
                inputs[field] = options.pop(field)
        split = {"images_per_batch": 4, "voxels_per_block": 50, "max_mem_gb": 0.5}
        workflow = init_blm_wf(**(split | options))
        workflow.inputs.inputnode.trait_set(**inputs)
        workflow.base_dir = str(self.folder / work_dir)
        workflow.config["execution"] = {
            "crashdump_dir": workflow.base_dir,
            "poll_sleep_duration": "0.01",  # MultiProc sleeps 2 s by default
        }
        return workflow


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def read_times(folder: Path, pattern: str = "*") -> dict[str, tuple[int, int]]:
    """Return what tells an old file from one that was written again."""
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in files
    }


class Ran:
    """Names of the nodes that computed something since the last question."""

    def __init__(self, workflow_dir: Path) -> None:
        self._folder = workflow_dir
        self._before = self._read()

    def _read(self) -> dict[str, tuple[int, int]]:
        times = read_times(self._folder, "*.blm") | read_times(self._folder, "result_*.pklz")
        nodes: dict[str, tuple[int, int]] = {}
        for name, time in times.items():
            path = Path(name)
            if path.name in FINAL_FILES or path.parent.name in ("plan", "assemble"):
                nodes[path.parent.name.lstrip("_")] = time
        return nodes

    def __call__(self) -> set[str]:
        before, self._before = self._before, self._read()
        return {name for name, time in self._before.items() if before.get(name) != time}


@pytest.fixture
def ran() -> Callable[[Workflow], Ran]:
    return lambda workflow: Ran(Path(workflow.base_dir) / workflow.name)


@pytest.fixture(name="read_times")
def _read_times() -> Callable[..., dict[str, tuple[int, int]]]:
    return read_times


@pytest.fixture
def same_maps() -> Callable[..., None]:
    """Return a function that asserts that two folders have equal maps and sidecars."""

    def differ(one: Path, other: Path) -> bool:
        return one.read_bytes() != other.read_bytes()

    def compare(*folders: Path) -> None:
        maps = [sorted(p.relative_to(folder) for p in folder.rglob("*.nii")) for folder in folders]
        assert maps[0] == maps[1]
        assert Path("blm_vox_beta.nii") in maps[0]
        files = [*maps[0], *(name.with_suffix(".json") for name in maps[0])]
        one, other = folders
        assert [name for name in files if differ(one / name, other / name)] == []

    return compare
