"""From all observations in standard space: mean FA, its mask, its skeleton, where to search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError, count, join_some
from nipype_blm.io.files import write_if_changed
from nipype_blm.tbss.images import Volume, read_volume, write_volume
from nipype_blm.tbss.neighbours import DIRECTIONS
from nipype_blm.tbss.options import FA
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.projection import (
    Search,
    apply_search,
    compute_distance,
    plan_search,
    project,
)
from nipype_blm.tbss.skeleton import compute_skeleton, find_directions
from nipype_blm.tbss.subjects import Record, read_record

_LOST_ALONE = 0.01  # of the mask, which one observation may take away from all others
_LOST_MORE = 2.0  # than the median of all
_UNLIKE = 5.0  # robust standard deviations of a correlation below the median
_LEAST_UNLIKE = 0.05
_MOST_WARPED = 3.0  # times the median of all


def choose_used(plan: Plan) -> tuple[list[int], list[Record]]:
    """Return the observations whose registration did not fail, and what is noted of all.

    Raises
    ------
    InputError
        If too many failed.
    """
    records = [read_record(plan, i) for i in range(len(plan.subjects))]
    missing = [plan.subjects[i].name for i, record in enumerate(records) if record is None]
    if missing:
        raise InputError(
            f"{count(len(missing), 'observation')} not registered: {join_some(missing, 5)}; run "
            "again, which does what is missing."
        )
    known = [record for record in records if record is not None]
    low = plan.options.min_correlation
    failed = [record for record in known if record.correlation < low]
    used = [i for i, record in enumerate(known) if record.correlation >= low]
    if len(used) < 2 or len(failed) > plan.options.max_failed * len(known):
        some = join_some((describe_record(record) for record in failed), 10)
        too_many = (
            "so that a group is not left"
            if len(used) < 2
            else f"more than the share of {plan.options.max_failed:g} (max_failed) that may be "
            "left out"
        )
        target = "target" if plan.options.template is None else "template"
        raise InputError(
            f"Registration has failed for {len(failed)} of {count(len(known), 'image')} (a "
            f"correlation with the target below {low:g}, min_correlation), {too_many}: {some}.  Is "
            f"the {target} an image of FA, of a brain like these?  Look at their images in "
            f"{plan.paths.standard}."
        )
    return used, known


def describe_record(record: Record) -> str:
    """Return an observation as messages name one whose registration failed."""
    return f"{record.name} ({record.failure or f'{record.correlation:.2f}'})"


def make_skeleton(plan: Plan) -> list[str]:
    """Compute mean FA, its mask, skeleton, directions and distances; write them to ``stats``.

    Returns
    -------
    notices : list of str
        What is odd and no fault.

    Raises
    ------
    InputError
        If too many registrations failed, or nothing is left of mask or skeleton.
    """
    used, records = choose_used(plan)
    images = [plan.paths.find_standard(plan.subjects[i].name, FA) for i in used]
    total, n_present, lacking, affine = _sum(images)
    least = int(np.ceil(plan.options.mask_share * len(used) - 1e-9))
    mask = n_present >= max(1, least)
    lost = np.zeros(len(records))
    lost[used] = lacking / max(1, int(np.count_nonzero(n_present >= len(used) - 1)))
    notices = [
        *_describe_losses(plan, lost),
        *_describe_unlike(plan, used, records),
        *_describe_warped(plan, used, records),
    ]
    if not mask.any():
        raise InputError(
            f"No voxel has FA above 0 in {plan.options.mask_share:.0%} of the images (mask_share); "
            f"{_describe_worst(plan, lost)}"
        )
    mean = np.where(mask, total / np.maximum(n_present, 1), 0).astype(np.float32)
    _write_group(plan, mean, mask, affine)
    _write_subjects(plan, used, records, lost)
    return notices


def _sum(images: Sequence[Path]) -> tuple[Any, Any, Any, NDArray[np.float64]]:
    """Return sums of FA, how many images have it, what each alone lacks, and the affine of all."""
    affine = read_volume(images[0]).affine
    total: Any = 0.0
    n_present: Any = 0
    who: Any = 0  # sum of the numbers of those that lack a voxel: the number, if it is one
    for number, path in enumerate(images):
        volume = read_volume(path)
        if not np.array_equal(volume.affine, affine):
            raise InputError(
                f"{path} is not on the grid of {images[0]}; remove both and run again."
            )
        data = volume.data
        present = data > 0
        total = total + np.where(present, data, 0).astype(np.float64)
        n_present = n_present + present.astype(np.int32)
        who = who + np.where(present, 0, number).astype(np.int64)
    alone = who[n_present == len(images) - 1]
    return total, n_present, np.bincount(alone, minlength=len(images)), affine


def _write_group(plan: Plan, mean: Any, mask: Any, affine: NDArray[np.float64]) -> None:
    options, paths = plan.options, plan.paths
    zooms = Volume(mean, affine).zooms.tolist()
    directions = find_directions(mean, zooms)
    if options.directions is not None:
        given = _read_directions(options.directions, affine)
        directions = np.where(given >= 0, given, directions)
    if options.skeleton is None:
        skeleton = compute_skeleton(mean, zooms, directions)
        inside = skeleton >= np.float32(options.threshold)
    else:
        skeleton = read_volume(options.skeleton).data
        is_mask = np.unique(skeleton[skeleton != 0]).size == 1
        inside = skeleton > 0 if is_mask else skeleton >= np.float32(options.threshold)
    inside &= mask
    if not inside.any():
        raise InputError(
            f"No voxel of the skeleton has mean FA of {options.threshold:g} (threshold) or more; "
            f"its highest is {mean.max():.2g}."
        )
    where = mask if options.search_mask is None else read_volume(options.search_mask).data > 0
    distance = compute_distance(inside, where | inside, zooms)
    for path, data in (
        (paths.mean_fa, mean),
        (paths.mean_fa_mask, mask.astype(np.uint8)),
        (paths.skeleton, skeleton),
        (paths.skeleton_mask, inside.astype(np.uint8)),
        (paths.distance, distance),
        (paths.directions, directions),
    ):
        write_volume(path, data, affine)
    write_if_changed(paths.stats / "thresh.txt", f"{options.threshold:g}\n".encode())


def _read_directions(path: Path, affine: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the nearest of the 13 directions to each vector of an image, along the voxel axes."""
    image: Any = nib.load(path)
    vectors = np.asarray(image.dataobj, np.float32)
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    steps = DIRECTIONS * zooms
    unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    found = np.abs(vectors @ unit.T.astype(np.float32)).argmax(axis=-1).astype(np.int8)
    found[~vectors.any(axis=-1)] = -1
    return found


def _describe_losses(plan: Plan, lost: NDArray[np.float64]) -> list[str]:
    # In a small group everybody takes something.
    most = max(_LOST_ALONE, _LOST_MORE * float(np.median(lost)))
    worst = [i for i in np.argsort(-lost) if lost[i] > most]
    if not worst or plan.options.mask_share < 1:
        return []
    some = join_some((f"{plan.subjects[i].name} ({lost[i]:.1%})" for i in worst), 5)
    return [
        "Each of these images alone takes voxels from the mask that all others have, as cut or "
        f"badly registered brains do: {some}.  Leave them out, or give a mask_share such as 0.9."
    ]


def _describe_worst(plan: Plan, lost: NDArray[np.float64]) -> str:
    i = int(lost.argmax())
    if not lost[i]:
        return "look at the images of single observations."
    return f"{plan.subjects[i].name} alone takes away {lost[i]:.0%} of what all others have."


def _describe_unlike(plan: Plan, used: Sequence[int], records: Sequence[Record]) -> list[str]:
    """Name images that correlate with the target far less than the others."""
    values = np.array([records[i].correlation for i in used])
    middle = np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), _LEAST_UNLIKE / _UNLIKE)
    low = [i for i in used if records[i].correlation < middle - _UNLIKE * spread]
    if not low:
        return []
    some = join_some((f"{plan.subjects[i].name} ({records[i].correlation:.2f})" for i in low), 5)
    return [
        f"The correlation with the target is {middle:.2f} for most images, but far lower for "
        f"{some}: look whether their headers tell left from right and front from back."
    ]


def _describe_warped(plan: Plan, used: Sequence[int], records: Sequence[Record]) -> list[str]:
    """Name images that were warped far more than the others, which can make any two alike."""
    mm = {i: records[i].displacement_mm for i in used}
    middle = float(np.median(list(mm.values())))
    far = [i for i in used if mm[i] > _MOST_WARPED * middle]
    if not far:
        return []
    some = join_some((f"{plan.subjects[i].name} ({mm[i]:.3g} mm)" for i in far), 5)
    return [
        f"Most images had to be warped by {middle:.3g} mm, but far more: {some}.  Look whether "
        "their headers tell left from right and front from back, and whether brains are whole."
    ]


def _write_subjects(
    plan: Plan, used: Sequence[int], records: Sequence[Record], lost: NDArray[np.float64]
) -> None:
    lines = ["name\tvolume\tused\tcorrelation\tdisplacement_mm\tlost_share\tfailure\tFA\n"]
    for i, (subject, record) in enumerate(zip(plan.subjects, records, strict=True)):
        cells = [
            subject.name,
            str(used.index(i)) if i in used else "n/a",
            "yes" if i in used else "no",
            f"{record.correlation:.4f}",
            f"{record.displacement_mm:.4g}" if record.displacement_mm >= 0 else "n/a",
            f"{lost[i]:.5f}",
            record.failure or "n/a",
            str(subject.images[FA]),
        ]
        lines.append("\t".join(cells) + "\n")
    write_if_changed(plan.paths.subjects_table, "".join(lines).encode())


class Skeleton(NamedTuple):
    """The skeleton above its threshold, and where its voxels look for the centres of tracts."""

    search: Search
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def read_skeleton(plan: Plan) -> Skeleton:
    """Read what `make_skeleton` has written."""
    inside = read_volume(plan.paths.skeleton_mask)
    distance = read_volume(plan.paths.distance).data
    image: Any = nib.load(plan.paths.directions)
    directions = np.asarray(image.dataobj, np.int8)
    rule = plan.options.tubular_mask
    mask = inside.data > 0
    search = plan_search(
        mask,
        directions,
        distance,
        inside.zooms.tolist(),
        None if rule is None else read_volume(rule).data > 0,
    )
    return Skeleton(search, mask, inside.affine)


def project_subjects(plan: Plan, indices: Sequence[int]) -> list[Path]:
    """Write the maps of some observations on the skeleton.

    The search is done on FA; other maps have their values at the places that were found.  An image
    without FA at a voxel of the skeleton has no value there: what lies farther is of elsewhere.
    """
    skeleton = read_skeleton(plan)
    used, _ = choose_used(plan)
    inside = read_volume(plan.paths.mean_fa_mask).data > 0
    written = []
    for index in indices:
        if index not in used:
            continue
        name = plan.subjects[index].name
        fa = np.where(inside, read_volume(plan.paths.find_standard(name, FA)).data, 0)
        centres = apply_search(fa, skeleton.search)
        for measure in plan.measures:
            data = np.where(inside, read_volume(plan.paths.find_standard(name, measure)).data, 0)
            path = plan.paths.find_skeletonised(name, measure)
            write_volume(path, np.where(fa > 0, project(data, centres), 0), skeleton.affine)
            written.append(path)
    return written
