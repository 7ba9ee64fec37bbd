"""A study of a few voxels on disk, its plan, and its run stage by stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor
from nipype_blm.data.specfile import read_contrasts
from nipype_blm.frontends.blm import WORDS, check
from nipype_blm.frontends.reading import Origin
from nipype_blm.frontends.requests import make_request
from nipype_blm.results.blocks import Block, open_blocks
from nipype_blm.stages.estimates import compute_estimates
from nipype_blm.stages.plan import PlanFiles, PreparedRun, prepare_run, write_plan
from nipype_blm.stages.products import compute_products
from nipype_blm.stages.statistics import compute_statistics


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., PreparedRun]:
    """Function that writes images and tables and plans their run; see `_prepare`."""
    (tmp_path / "study").mkdir()

    def prepare(*arguments: Any, **fields: Any) -> PreparedRun:
        return _prepare(tmp_path / "study", *arguments, **fields)

    return prepare


def _prepare(
    folder: Path,
    values: np.ndarray,
    X: np.ndarray,
    factor: RandomFactor | None = None,
    /,
    **fields: Any,
) -> PreparedRun:
    """Plan a model of images (n_obs, x, y, z), NaN being missing; `fields` of a configuration."""
    names = [folder / f"y{i:04d}.nii" for i in range(len(values))]
    for path, image in zip(names, values, strict=True):
        content = nib.Nifti1Image(image, np.eye(4)).to_bytes()
        if not path.exists() or path.read_bytes() != content:  # whose time tells of a change
            path.write_bytes(content)
    np.savetxt(folder / "X.csv", X, fmt="%.17g", delimiter=",")
    (folder / "Y.txt").write_text("".join(f"{path.name}\n" for path in names))
    contrast = {"name": "last", "vector": [0.0] * (X.shape[1] - 1) + [1.0]}
    given: dict[str, Any] = {"Y_files": "Y.txt", "X": "X.csv", "outdir": "out"}
    given |= {"contrasts": [contrast], "zero_is_missing": False}
    if factor is not None:
        (folder / "level.txt").write_text("".join(f"{level}\n" for level in factor.level))
        np.savetxt(folder / "Z.csv", factor.Z, fmt="%.17g", delimiter=",")
        table = {"name": factor.name, "factor": "level.txt", "design": "Z.csv"}
        given["Z"] = [{"f1": table | {"correlated": factor.correlated}}]
    checked = check(given | fields, folder, "blm" if factor is None else "blmm")
    return prepare_run(make_request(checked.fields, Origin("", WORDS, checked.problems)))


class Fitted(NamedTuple):
    """A run up to the statistics, and the files of each batch and each block."""

    run: PreparedRun
    files: PlanFiles
    products: list[Path]
    estimates: list[Path]
    statistics: list[Path]

    def open_blocks(self) -> list[Block]:
        """Open what `assemble_maps` takes."""
        contrasts_stamp, _ = read_contrasts(self.files.contrasts_file)
        files = self.estimates, self.statistics
        return open_blocks(self.run.spec, *files, self.files.fingerprint, contrasts_stamp)


@pytest.fixture
def fit_stages(prepare: Callable[..., PreparedRun], tmp_path: Path) -> Callable[..., Fitted]:
    """Function that plans a study and runs its stages one by one, in a folder of its own."""

    def fit(*study: Any, work: str = "work", n_threads: int = 1, **fields: Any) -> Fitted:
        run = prepare(*study, **fields)
        folder = tmp_path / work
        folder.mkdir(exist_ok=True)
        files = write_plan(run, folder)
        model, stamp = files.model_file, files.fingerprint
        products = [
            compute_products(model, batch, folder / f"products{i}.blm", n_threads)
            for i, batch in enumerate(files.batch_files)
        ]
        estimates, statistics = [], []
        for block in files.blocks:
            out = folder / f"estimates{block}.blm"
            args = model, files.batch_files, products, block, stamp
            estimates.append(compute_estimates(*args, out, n_threads))
            out = folder / f"statistics{block}.blm"
            args = model, files.contrasts_file, estimates[-1], block, stamp
            statistics.append(compute_statistics(*args, out, n_threads))
        return Fitted(run, files, products, estimates, statistics)

    return fit
