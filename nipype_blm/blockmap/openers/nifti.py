"""Images that nibabel reads."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.openers.opened import Opened, need_path
from nipype_blm.blockmap.sources import Source


def open_nifti(source: Source, name: str) -> Opened:
    """Open an image, along all its axes."""
    import nibabel as nib

    from nipype_blm.data.libraries import explaining, quiet_libraries

    path = Path(source.path)
    need_path(path, name)
    # Kept open, what has been unpacked for one block is not unpacked again for the next.
    options = {"keep_file_open": True} if is_compressed(source.path) else {}
    with explaining(path), quiet_libraries():
        image: Any = nib.load(path, mmap=False, **options)
        array = _Scaled(image)
    axes = image.affine[:3, :3]
    sizes = np.sqrt((axes**2).sum(axis=0))
    # In other stores there is an origin only where the axes are those of space.
    is_straight = np.allclose(axes, np.diag(sizes), rtol=1e-5, atol=1e-5 * sizes.min())
    return Opened(
        array,
        "xyztcuv"[: len(array.shape)],
        _round(sizes),
        "millimeter",
        _round(image.affine[:3, 3]) if is_straight else (),
        affine=image.affine,
    )


def _round(values: Any) -> list[float]:
    """Return as many digits as numbers of single precision have, as those of a header."""
    return [float(f"{n:.7g}") for n in values]


class _Scaled:
    """nibabel's proxy, with the type of the values that it gives, and not of those on the disk."""

    def __init__(self, image: Any) -> None:
        self._proxy, self.shape = image.dataobj, image.shape
        self.dtype = self[(slice(0, 1),) * len(self.shape)].dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asanyarray(self._proxy[index])


def is_compressed(path: str) -> bool:
    """Return whether an image can only be read from its start."""
    return path.lower().endswith((".gz", ".bz2", ".zst", ".mgz"))
