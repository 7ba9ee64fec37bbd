"""Compare the maps of two runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


def read_map(folder: Path, name: str) -> NDArray[np.float64]:
    """Return a map as (voxel, volume)."""
    values = nib.load(next(folder.glob(f"bl*m_vox_{name}.nii"))).get_fdata()
    return values.reshape(np.prod(values.shape[:3]), -1)


def summarise_differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> dict[str, float]:
    """Return how far values are apart."""
    difference = np.abs(a - b)
    return {
        "largest_difference": float(difference.max()),
        "largest_value": float(np.abs(b).max()),
    }


def compare_maps(
    ours: Path, theirs: Path, names: Sequence[str], mask: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Return the largest differences at the voxels of `mask`, and the largest values there.

    The masks themselves are compared everywhere.
    """
    found = {}
    for name in names:
        inside = slice(None) if name == "mask" else mask
        found[name] = summarise_differences(
            read_map(ours, name)[inside], read_map(theirs, name)[inside]
        )
    return found
