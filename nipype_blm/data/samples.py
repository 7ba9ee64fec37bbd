"""Small made images of all types, compressed ones and scaled ones, too."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

# Enough voxels with the same images for what is only worth it then; and some with fewer images.
_SHAPE, _N_GAPS = (16, 15, 12), 300
SINGLE = ("f4", "i2", "u1", "u2", "i1")  # types that float32 holds exactly
DOUBLE = ("f8", "scaled", "f4", "i2", "u1", "u2", "i1", "i4", "u4")


def write_sample_images(
    folder: Path, types: Sequence[str], n_images: int, n_levels: int, n_rare: int
) -> Iterator[Path]:
    """Write images, of the types in turn.

    Parameters
    ----------
    folder : Path
    types : sequence of str
        Such as `SINGLE`.
    n_images : int
    n_levels : int
        Images i and i + `n_levels` have an effect in common.
    n_rare : int
        The last images, which lack some voxels that all others have.
    """
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(n_levels, *_SHAPE))
    for i, kind in zip(range(n_images), itertools.cycle(types), strict=False):
        values = 60 + 10 * (effects[i % n_levels] + rng.normal(size=_SHAPE))
        values.reshape(-1)[:_N_GAPS][rng.random(_N_GAPS) < 0.1] = 0
        if i >= n_images - n_rare:
            values[0, 0] = 0
        dtype = "i2" if kind == "scaled" else kind
        image: Any = nib.Nifti1Image(np.clip(values, 0, 120).astype(dtype), np.eye(4))
        if kind == "scaled":
            image.header.set_slope_inter(0.5, 1)
        path = folder / f"image{i:02d}.nii{'.gz' * (i % 3 == 0)}"
        image.to_filename(path)
        yield path
