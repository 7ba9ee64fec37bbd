"""Tell of exact zeros that are taken as missing and look like data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.zeros import ZeroCounts, ZerosFound, find_zeros_that_look_like_data
from nipype_blm.data.manifest import read_manifest
from nipype_blm.data.spec import ModelSpec
from nipype_blm.results.blocks import Block


def describe_zeros(
    spec: ModelSpec, batch_files: Sequence[Path | str], blocks: Sequence[Block]
) -> list[str]:
    """Return a notice of zeros that look like data, if there are any."""
    if not spec.zero_is_missing:
        return []
    counts = ZeroCounts(
        zeros=blocks[0].estimates.read("zeros"),  # of all voxels, in every block
        gaps=_add("gaps", blocks),
        holes=_add("holes", blocks),
    )
    n_obs = np.concatenate([block.n_obs for block in blocks])
    status = np.concatenate([block.status for block in blocks])
    found = find_zeros_that_look_like_data(n_obs, status, counts)
    if found is None:
        return []
    what = _describe_images(spec, batch_files, found) if found.images else _describe(found)
    return [f"{what} Zeros are taken as missing; if they are data, say zero_is_missing: false."]


def _add(name: str, blocks: Sequence[Block]) -> NDArray[np.int32]:
    total: NDArray[np.int32] = blocks[0].estimates.read(name)
    for block in blocks[1:]:
        total += block.estimates.read(name)
    return total


def _describe(found: ZerosFound) -> str:
    """Return a sentence on zeros of many images."""
    if not found.n_covered:
        return "No voxel has data in a tenth of the images: most values are exactly 0."
    if 2 * found.n_constant > found.n_tried:
        return (
            f"At {found.n_constant:,} of {found.n_tried:,} voxels nothing varies but for exact "
            f"zeros: {100 * found.missing_share:.0f} % of the values are missing."
        )
    shared = f"only {found.n_shared:,} have" if found.n_shared else "none has"
    return (
        f"Of the {found.n_covered:,} voxels with data in a tenth of the images, {shared} data in "
        f"nearly all: {100 * found.missing_share:.0f} % of the values there are missing, most of "
        "them because they are exactly 0."
    )


def _describe_images(spec: ModelSpec, batch_files: Sequence[Path | str], found: ZerosFound) -> str:
    """Return a sentence on zeros of single images."""
    row, share = next(iter(found.images.items()))
    batch = spec.find_batch(row)
    image = read_manifest(Path(batch_files[batch]))[row - spec.batch(batch).start]
    n_others = len(found.images) - 1
    others = f" and {n_others} more images are" if n_others else " is"
    return (
        f"{image.image} ({image.where}){others} exactly 0 at {'up to ' if n_others else ''}"
        f"{100 * share:.1f} % of the voxels where nearly all images have data."
    )
