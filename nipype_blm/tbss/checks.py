"""Images that are no FA, contradictory headers, files on other grids: refused before work."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from nipype_blm.data.headers import read_header
from nipype_blm.data.kinds import find_kind, look_at
from nipype_blm.data.libraries import explaining
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.errors import InputError, Problems, count, join_some
from nipype_blm.tbss.images import list_places, read_volume
from nipype_blm.tbss.looks import (
    Look,
    compare_forms,
    compare_looks,
    compare_with_template,
    look_at_volume,
)
from nipype_blm.tbss.options import FA, TARGETS, Options
from nipype_blm.tbss.preprocess import LARGEST_FA, erode, find_scale

# Of FA in a brain the median is around 0.2; diffusivities are around 0.0008 mm²/s.
_SMALLEST_MEDIAN, _LARGEST_MEDIAN = 0.02, 0.6
_LARGEST_DIFFUSIVITY = 10.0  # 10⁻³ mm²/s
_MOST_APART = 0.1  # voxels, of sform and qform
_FACTOR_OF_UNITS = 100.0  # by which the medians of a map may not differ
_MOST_LACKING = 0.1  # of the voxels of FA, where a map has no value
_MOST_PROBLEMS = 10
_ON_GRID = ("skeleton", "search_mask", "tubular_mask", "directions")  # of the template


def check_options(options: Options) -> None:
    """Refuse options that cannot be, and files that cannot be used.

    Raises
    ------
    InputError
    """
    problems = Problems()
    if options.target not in TARGETS:
        problems.add("target", f"target is {options.target!r}; expected {' or '.join(TARGETS)}.")
    elif options.target == "template" and options.template is None:
        problems.add(
            "template",
            "No template is given; give an image of FA to register to, such as FMRIB58_FA_1mm of "
            "FSL, or the target most_representative, which needs none.",
        )
    for name in ("threshold", "mask_share", "min_correlation", "max_failed"):
        value = getattr(options, name)
        if not 0 <= value <= 1:
            problems.add(name, f"{name} is {value:g}; expected a number from 0 to 1.")
    files = {name: path for name, path in options.files.items() if name != "atlas_names"}
    lone = [name for name in _ON_GRID if name in files and options.template is None]
    if lone:
        problems.add(
            "template",
            f"{' and '.join(lone)} {'is' if len(lone) == 1 else 'are'} given without a template, "
            "whose grid and place such an image shares; give both.",
        )
    for name, path in files.items():
        problems.attempt(_check_file, name, path, options)
    if options.atlas_names is not None and options.atlas is None:
        problems.add("atlas", "atlas_names are given without an atlas; give both, or none.")
    if options.atlas is not None and not problems:
        problems.attempt(_check_atlas, options)
    if problems:
        raise InputError(problems)


def _check_file(name: str, path: Path, options: Options) -> None:
    header = read_header(path)
    fault = header.describe_difference(None)
    if fault:
        raise InputError(f"{name} {path} has no place: {fault}; correct its header.")
    expected = 3 if name == "directions" else 1
    if header.n_volumes != expected:
        raise InputError(
            f"{name} {path} has {count(header.n_volumes, 'volume')}, expected {expected}."
        )
    if name == "template":
        _check_template(path)
    elif name != "atlas" and options.template is not None:
        difference = header.describe_difference(read_header(options.template))
        if difference:
            raise InputError(
                f"{name} {path} is not on the grid of the template {options.template}: "
                f"{difference}.  They belong together; resample none of them alone."
            )
        with explaining(path):
            is_empty = not np.any(nib.load(path).dataobj)  # type: ignore[attr-defined]
        if is_empty:
            raise InputError(f"{name} {path} has no voxel: all its values are 0.")


def _check_template(path: Path) -> None:
    """Refuse a template that is no FA; FSL's own holds 1000 or 10000 times FA."""
    values = read_volume(path).data
    values = values[values != 0]
    if values.size:
        values = values / find_scale(float(np.percentile(values, 99)))
    fault = _find_fault(values)
    if fault:
        raise InputError(f"template {path} is no image of FA: {fault}.")


def _check_atlas(options: Options) -> None:
    """Refuse an atlas whose labels lie elsewhere than the template's brain."""
    from nipype_blm.data.atlas import read_atlas

    assert options.atlas is not None
    atlas = read_atlas(options.atlas, options.atlas_names)
    if options.template is None:
        return
    template = read_volume(options.template)
    if not atlas.find_labels(list_places(template.data > 0, template.affine)).any():
        raise InputError(
            f"atlas {options.atlas} has no label in the brain of the template {options.template}; "
            "give an atlas in the space of the template, on any grid."
        )


class Checked(NamedTuple):
    """What is known of images that can be used."""

    fixed: list[Look]  # what images are registered to: the template, or each other
    notices: list[str]  # what is odd and no fault


def check_images(images: Mapping[str, Sequence[Path]], template: Path | None = None) -> Checked:
    """Look at every image, before anything takes long.

    Parameters
    ----------
    images : mapping of str to sequence of Path
        Of each measure, in one order.
    template : Path, optional
        What they are registered to.

    Raises
    ------
    InputError
        With all that is wrong.
    """
    n = len(images[FA])
    if n < 2:
        raise InputError(
            f"{count(n, 'image')} of FA {'is' if n == 1 else 'are'} given; a skeleton of a group "
            "needs 2 or more."
        )
    unequal = [f"{name} has {len(paths)}" for name, paths in images.items() if len(paths) != n]
    if unequal:
        raise InputError(
            f"FA has {count(n, 'image')}, but {join_some(unequal)}; every map needs an image for "
            "every observation."
        )
    _check_names(images)
    problems = Problems()
    with ThreadPoolExecutor(2) as pool:
        looks = list(pool.map(_try_to_look, images[FA]))
    problems += [problem for look in looks if isinstance(look, list) for problem in look]
    notices: list[str] = []
    for measure, paths in images.items():
        if measure != FA:
            notices += _check_maps(measure, paths, images[FA], problems)
    if problems:
        more = f"{len(problems) - _MOST_PROBLEMS} more such faults."
        raise InputError(problems[:_MOST_PROBLEMS] + [more] * (len(problems) > _MOST_PROBLEMS))
    seen = [look for look in looks if isinstance(look, Look)]
    fixed = seen
    if template is not None:
        fixed = [look_at_volume(template, read_volume(template), True, 1.0)]
        notices += compare_with_template(fixed[0], seen)
    return Checked(fixed, [*notices, *compare_looks(seen)])


def _check_names(images: Mapping[str, Sequence[Path]]) -> None:
    """Refuse names of maps that cannot be part of names of files, on any machine."""
    odd = [
        name
        for name in images
        if not (name.isidentifier() and name.isascii()) or name.endswith("_skeletonised")
    ]
    if odd:
        raise InputError(
            f"{join_some(map(repr, odd), 5)} {'is' if len(odd) == 1 else 'are'} no name of a map; "
            "expected letters and digits, such as MD, and no end that results have."
        )
    if len({name.casefold() for name in images}) < len(images):
        raise InputError(
            f"Names of maps differ in case only: {', '.join(images)}; give each a name of its own."
        )


def _try_to_look(path: Path) -> Look | list[str]:
    """Return what is seen of an image of FA, or what is wrong with it."""
    problems = Problems()
    look = problems.attempt(_look_at_fa, path)
    return problems if look is None else look


def _look_at_fa(path: Path) -> Look:
    """Look at an image of FA; refuse what is none."""
    has_place = _check_header(path)
    volume = read_volume(path)
    fault = _find_fault(volume.data[volume.data != 0])
    if fault is not None:
        raise InputError(f"{path} is no map of FA: {fault}.")
    if min(volume.data.shape) < 3:
        raise InputError(
            f"{path} has shape {volume.data.shape}; FA needs 3 voxels or more per axis."
        )
    kept = np.count_nonzero(erode(np.maximum(volume.data, 0)))
    if not kept:
        raise InputError(
            f"{path}: nothing is left of FA when the edge of the brain is taken off, a voxel wide; "
            "give FA of the whole brain, and not of some tracts."
        )
    return look_at_volume(path, volume, has_place, kept / np.count_nonzero(volume.data > 0))


def _find_fault(values: Any) -> str | None:
    """Say why values that are not 0 are no FA, or None."""
    if not values.size:
        return "all its values are 0, or not finite"
    high, median = float(np.percentile(values, 99)), float(np.median(values))
    if high < _LARGEST_DIFFUSIVITY and median > _LARGEST_MEDIAN and (values != values[0]).any():
        return (
            f"the median of its values is {median:.3g}, as of diffusivity in 10⁻³ mm²/s (MD, AD, "
            "RD), while that of FA in a brain is around 0.2"
        )
    if high > LARGEST_FA:
        advice = f"; divide by {find_scale(high):.0f} first, if it is scaled" if high > 10 else ""
        return f"FA lies from 0 to 1, and 1 % of its values are above {high:.4g}{advice}"
    if (values < 0).mean() > 0.01:
        low = float(values.min())
        return f"{(values < 0).mean():.0%} of its values are below 0, down to {low:g}"
    if median < _SMALLEST_MEDIAN:
        return f"the median of its values is {median:g}, as of diffusivity (MD, AD, RD)"
    if (values == values[0]).all():
        return f"all its values are 0 or {values[0]:g}, as of a mask"
    return None


def _check_header(path: Path) -> bool:
    """Refuse what is not one volume whose affines agree; return whether it has an affine."""
    _, header = look_at(path)
    if find_kind(path).space is not VolumeSpace:
        raise InputError(f"{path} is no volume; TBSS needs images of FA on three axes.")
    if header.n_volumes != 1:
        raise InputError(
            f"{path} has {header.n_volumes} volumes, expected 1: give one image for each "
            "observation; `fslsplit` or nibabel's `four_to_three` cut a file into volumes."
        )
    fault = header.describe_difference(None)
    if fault:
        raise InputError(f"{path} has no place: {fault}; correct its header.")
    forms = compare_forms(path)
    if forms.apart > _MOST_APART:
        raise InputError(
            f"{path}: sform and qform of its header place it {forms.apart:.3g} voxels apart, and "
            "programs differ in which they take; keep the right one, such as by `fslorient "
            "-copysform2qform`."
        )
    return forms.has_any


def _check_maps(
    measure: str, paths: Sequence[Path], fa_paths: Sequence[Path], problems: Problems
) -> list[str]:
    """Compare the images of a map with those of FA, and with each other."""
    seen = []
    for path, fa_path in zip(paths, fa_paths, strict=True):
        look = problems.attempt(_look_at_map, measure, path, fa_path)
        if look is not None:
            seen.append(look)
    if not seen:
        return []
    usual = float(np.median(np.array([look.median for look in seen])))
    odd = [
        f"{look.path} ({look.median:.3g})"
        for look in seen
        if not usual / _FACTOR_OF_UNITS <= look.median <= usual * _FACTOR_OF_UNITS
    ]
    if odd:
        problems.add(
            "maps",
            f"{measure} is not in one unit: its median is {usual:.3g}, but that of "
            f"{join_some(odd, 5)}; give all in one.",
        )
    return _judge_maps(measure, usual, seen)


class _MapLook(NamedTuple):
    """What is seen of another map."""

    path: Path
    median: float  # of its values that are not 0, without their sign
    lacking: float  # share of the voxels of FA where it is 0


def _look_at_map(measure: str, path: Path, fa_path: Path) -> _MapLook:
    """Look at a map; refuse one on another grid than FA."""
    _check_header(path)
    difference = read_header(path).describe_difference(read_header(fa_path))
    if difference:
        raise InputError(f"{measure} {path} is not on the grid of {fa_path}: {difference}.")
    values = read_volume(path).data
    if not values.any():
        raise InputError(f"{measure} {path} has no value: all are 0, or not finite.")
    brain = read_volume(fa_path).data > 0
    lacking = float((values[brain] == 0).mean()) if brain.any() else 0.0
    return _MapLook(path, float(np.median(np.abs(values[values != 0]))), lacking)


def _judge_maps(measure: str, usual: float, seen: Sequence[_MapLook]) -> list[str]:
    """Return what is odd about a map."""
    notices = []
    if measure in ("MD", "AD", "RD") and 0.1 < usual < 0.6:
        notices.append(
            f"The median of {measure} is {usual:.2g}, as of FA rather than of a diffusivity."
        )
    odd = [f"{look.path} ({look.lacking:.0%})" for look in seen if look.lacking > _MOST_LACKING]
    if odd:
        notices.append(
            f"{measure} has no value in more than {_MOST_LACKING:.0%} of the voxels of FA in "
            f"{count(len(odd), 'image')}, as if they were cut, or of somebody else: "
            f"{join_some(odd, 5)}."
        )
    return notices
