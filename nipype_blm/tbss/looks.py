"""What is seen of an image of FA before anything is done with it, and what is odd beside others."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError, count, join_some
from nipype_blm.tbss.images import Volume, transform

_MOST_OF_BOX = 0.75  # of an image that is FA: a head fills less of it, if it is masked
_SMALLEST_BRAIN, _LARGEST_BRAIN = 0.6, 1.6  # of the median of all
_SHORTEST_BRAIN = 0.8  # of the median of all: the length of heads varies by 5 %
_MOST_ANISOTROPIC = 2.5
_LEAST_KEPT = 0.3  # of FA without its edge; of a head in voxels of 4 mm it is a half
_MOST_UNLIKE_ZOOM = 1.5
# By how much brains may be larger than the template, or smaller: newborns are of a quarter.
_UNUSUAL_RATIO, _IMPOSSIBLE_RATIO = 2.5, 10.0
_AXES = ("left to right", "back to front", "bottom to top")


class Look(NamedTuple):
    """What is seen of an image of FA."""

    path: Path
    zooms: NDArray[np.float64]  # (3,), mm
    volume_ml: float  # of what is not 0
    lengths_mm: NDArray[np.float64]  # (3,), of its box, along the axes of RAS
    share: float  # of that box that is not 0
    n_above: int  # voxels above 1
    has_place: bool  # whether the header says where the image lies
    digest: bytes  # of values and place
    kept: float  # share of FA above 0 that is left without the edge


def look_at_volume(path: Path, volume: Volume, has_place: bool, kept: float) -> Look:
    """Return what is seen of an image that has values."""
    present = volume.data != 0
    box = np.array([np.ptp(places) + 1 for places in np.nonzero(present)])
    axes = nib.io_orientation(volume.affine)[:, 0].astype(int)
    lengths = np.empty(3)
    lengths[axes] = box * volume.zooms
    n_voxels = int(np.count_nonzero(present))
    content = hashlib.blake2b(volume.data.tobytes(), digest_size=16)
    content.update(volume.affine.tobytes())
    return Look(
        path,
        volume.zooms,
        n_voxels * float(abs(np.linalg.det(volume.affine[:3, :3]))) / 1000,
        lengths,
        n_voxels / math.prod(box.tolist()),
        int(np.count_nonzero(volume.data > 1)),
        has_place,
        content.digest(),
        kept,
    )


class Forms(NamedTuple):
    """The two affines of a NIfTI."""

    apart: float  # of the corners of the image, in voxels
    has_any: bool


def compare_forms(path: Path) -> Forms:
    """Return how far apart the two affines put an image; other formats have one of them."""
    image: Any = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        return Forms(0.0, True)
    sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    if sform is None or qform is None:
        return Forms(0.0, sform is not None or qform is not None)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1).T
    apart = np.linalg.norm(transform(sform, corners) - transform(qform, corners), axis=1).max()
    return Forms(float(apart / min(image.header.get_zooms()[:3])), True)


def compare_looks(looks: Sequence[Look]) -> list[str]:
    """Return what is odd about some images beside all others."""
    judges: tuple[Callable[[Sequence[Look]], list[str]], ...] = (
        _judge_places,
        _judge_copies,
        _judge_sizes,
        _judge_lengths,
        _judge_masks,
        _judge_edges,
        _judge_voxels,
        _judge_values,
    )
    return [notice for judge in judges for notice in judge(looks)]


def compare_with_template(template: Look, looks: Sequence[Look]) -> list[str]:
    """Return what is odd about a template beside the images that are registered to it.

    Raises
    ------
    InputError
        If it can be no brain of the same kind.
    """
    if template.share > _MOST_OF_BOX:
        return [
            f"The template {template.path} seems not to be masked: more than {_MOST_OF_BOX:.0%} "
            "of the box around what is not 0 has values.  Give one that is 0 outside the brain."
        ]
    usual = float(np.median([look.volume_ml for look in looks]))
    ratio = max(usual / template.volume_ml, template.volume_ml / usual)
    if ratio < _UNUSUAL_RATIO:
        return []
    found = (
        f"FA is not 0 in {_write_ml(usual)} of most images, but in "
        f"{_write_ml(template.volume_ml)} of the template {template.path}"
    )
    if ratio > _IMPOSSIBLE_RATIO:
        raise InputError(
            f"{found}: these are no brains of one kind.  Give a template of the same species, or "
            "correct the sizes of voxels in the headers, which are in mm."
        )
    return [f"{found}: is it of the same species and age, and as much of the brain?"]


def _write_ml(volume: float) -> str:
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.3g} ml"


def _judge_places(looks: Sequence[Look]) -> list[str]:
    lost = [look.path for look in looks if not look.has_place]
    if not lost:
        return []
    return [
        f"The headers of {len(lost)} of {count(len(looks), 'image')} say nothing of left and right "
        f"(sform and qform code 0): {join_some(lost, 5)}.  Axes of voxels are "
        "taken to run from right to left, back to front and bottom to top; see that they do."
    ]


def _judge_copies(looks: Sequence[Look]) -> list[str]:
    by_digest = defaultdict(list)
    for look in looks:
        by_digest[look.digest].append(str(look.path))
    copies = [" = ".join(paths) for paths in by_digest.values() if len(paths) > 1]
    if not copies:
        return []
    return [
        "Some images of FA have the same values under several names, as if one observation stood "
        f"for another: {join_some(copies, 5)}."
    ]


def _judge_sizes(looks: Sequence[Look]) -> list[str]:
    usual = float(np.median([look.volume_ml for look in looks]))
    low, high = _SMALLEST_BRAIN * usual, _LARGEST_BRAIN * usual
    odd = [
        f"{look.path} ({_write_ml(look.volume_ml)})"
        for look in looks
        if not low <= look.volume_ml <= high
    ]
    if not odd:
        return []
    return [
        f"FA is not 0 in {_write_ml(usual)} of most images, but in another size of "
        f"{count(len(odd), 'image')}, as of cut or unmasked brains: {join_some(odd, 5)}."
    ]


def _judge_lengths(looks: Sequence[Look]) -> list[str]:
    lengths = np.array([look.lengths_mm for look in looks])
    usual = np.median(lengths, axis=0)
    short = [
        f"{look.path} ({own[axis]:.3g} of {usual[axis]:.3g} mm from {_AXES[axis]})"
        for look, own in zip(looks, lengths, strict=True)
        for axis in np.flatnonzero(own < _SHORTEST_BRAIN * usual)[:1]
    ]
    if not short:
        return []
    return [
        f"{count(len(short), 'image')} {'has' if len(short) == 1 else 'have'} a far shorter brain "
        f"than the others, as if a part were cut off: {join_some(short, 5)}."
    ]


def _judge_masks(looks: Sequence[Look]) -> list[str]:
    full = [look.path for look in looks if look.share > _MOST_OF_BOX]
    if not full:
        return []
    return [
        f"{count(len(full), 'image')} of FA {'seems' if len(full) == 1 else 'seem'} not to be "
        f"masked: more than {_MOST_OF_BOX:.0%} of the box around what is not 0 has values "
        f"({join_some(full, 5)}).  Registration and the mean mask need 0 outside the brain."
    ]


def _judge_edges(looks: Sequence[Look]) -> list[str]:
    thin = [f"{look.path} ({look.kept:.0%})" for look in looks if look.kept < _LEAST_KEPT]
    if not thin:
        return []
    return [
        f"Little of FA is left in {count(len(thin), 'image')} without the edge, a voxel wide, as "
        f"if FA were cut at a threshold, or had holes: {join_some(thin, 5)}."
    ]


def _judge_voxels(looks: Sequence[Look]) -> list[str]:
    notices = []
    zooms = np.array([look.zooms for look in looks])
    side = np.cbrt(zooms.prod(axis=1))
    if side.max() > _MOST_UNLIKE_ZOOM * side.min():
        notices.append(
            f"Voxels are of {side.min():.2g} to {side.max():.2g} mm: images of larger ones are "
            "smoother, and have lower FA at the centres of tracts."
        )
    flat = int((zooms.max(axis=1) > _MOST_ANISOTROPIC * zooms.min(axis=1)).sum())
    if flat:
        notices.append(
            f"Voxels of {count(flat, 'image')} are more than {_MOST_ANISOTROPIC:g} times as long "
            "as wide: tracts along slices are not seen well."
        )
    return notices


def _judge_values(looks: Sequence[Look]) -> list[str]:
    above = [look.n_above for look in looks if look.n_above]
    if not above:
        return []
    return [
        f"{count(sum(above), 'voxel')} of {count(len(above), 'image')} "
        f"{'has' if sum(above) == 1 else 'have'} FA above 1, which is noise; taken as 1."
    ]
