"""Say in a few lines what a run found."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.status import VoxelStatus, is_fitted
from nipype_blm.data.maps import load_map, read_sidecar


def count_status(out_dir: Path, model: str = "blm") -> NDArray[np.intp]:
    """Return how many voxels of a model have each status, shape (256,)."""
    image = load_map(out_dir, f"{model}_vox_status")
    return np.bincount(np.asarray(image.dataobj).ravel(), minlength=256)


def read_notices(out_dir: Path, model: str = "blm") -> list[str]:
    """Return what the user should know of a result."""
    return list(read_sidecar(out_dir, f"{model}_vox_n").get("Notices", []))


def count_fitted(counts: NDArray[np.intp]) -> int:
    """Return how many voxels are in the result, given how many have each status."""
    return int(counts[is_fitted(np.arange(counts.size, dtype=np.uint8))].sum())


def summarise_run(counts: NDArray[np.intp], contrasts: Sequence[str], out_dir: Path) -> str:
    """Return what happened at the voxels, what was tested, and where the maps are."""
    lines = [
        f"{int(counts[status]):>10,} voxels {status.meaning}"
        for status in VoxelStatus
        if counts[status] and status != VoxelStatus.OUTSIDE
    ]
    return "\n".join([*lines, f"Contrasts: {', '.join(contrasts)}", f"The maps are in {out_dir}"])
