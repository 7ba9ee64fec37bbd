"""What an opener finds, and what openers of several kinds say and do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype_blm.blockmap.blocks import AXES
from nipype_blm.errors import InputError


@dataclass(frozen=True)
class Opened:
    """What an opener has found; sequences are along all axes of the array, empty if unknown."""

    array: Any  # with shape, dtype and __getitem__
    axes: str  # a letter for each axis; empty if nothing says
    voxel_size: Sequence[float] = ()
    unit: str = ""  # of `voxel_size` and `origin`
    origin: Sequence[float] = ()  # where voxel 0 is
    bounds: Sequence[tuple[int, int]] = ()  # start and stop, where an axis does not begin at 0
    chunks: Sequence[int] | None = None  # what the store reads at once
    labels: Sequence[str] = ()  # of channels
    affine: Any = None  # of NIfTI: (4, 4), from x, y, z in voxels to mm
    oddity: str = ""  # what is no fault but may not be meant: the end of a sentence


def name_plain(n_axes: int) -> str:
    """Return the letters of axes that have no names: of more than three nobody knows."""
    return "zyx"[-n_axes:] if 0 < n_axes <= len(AXES) else ""


def need_path(path: Path, name: str) -> None:
    """Refuse a path that does not exist.

    Raises
    ------
    InputError
    """
    if not path.exists():
        from nipype_blm.io.files import explain_absence

        reason = explain_absence(path) or "does not exist"
        raise InputError(f"{name}: {path} {reason}.")


def as_end(reason: object) -> str:
    """Return what a library says as the end of a sentence."""
    return f"{' '.join(str(reason).split()).rstrip('.')}."
