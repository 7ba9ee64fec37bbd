"""Say in a few lines what a run found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nipype_blm.core.status import VoxelStatus


def summarise_run(out_dir: Path, contrasts: Sequence[str]) -> str:
    """Return what happened at the voxels, what was tested, and where the maps are."""
    [status_file] = [*out_dir.glob("blm_vox_status.nii"), *out_dir.glob("blm_vox_status.nii.gz")]
    image: Any = nib.load(status_file)
    counts = np.bincount(np.asarray(image.dataobj).ravel(), minlength=256)
    lines = [
        f"{int(counts[status]):>10,} voxels {status.meaning}"
        for status in VoxelStatus
        if counts[status] and status != VoxelStatus.OUTSIDE
    ]
    return "\n".join([*lines, f"Contrasts: {', '.join(contrasts)}", f"The maps are in {out_dir}"])
