"""A study of a few voxels on disk, and its plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor
from nipype_blm.frontends.blm import WORDS, check
from nipype_blm.frontends.reading import make_request
from nipype_blm.stages.plan import PreparedRun, prepare_run


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
    return prepare_run(make_request(checked.fields, WORDS, checked.problems))
