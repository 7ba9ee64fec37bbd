"""Images that are no FA, contradictory headers, brains unlike the others: said before work."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from nipype_blm.data.headers import read_header
from nipype_blm.data.kinds import find_kind, look_at
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.errors import InputError, Problems, count, join_some
from nipype_blm.tbss.images import read_volume, transform
from nipype_blm.tbss.plan import FA, TARGETS, Options

_LARGEST_FA = 1.2  # a little above 1 is noise: sqrt(3/2) is what negative eigenvalues can give
_SMALLEST_MEDIAN = 0.02  # of FA in a brain; diffusivities in mm²/s are around 0.0008
_MOST_OF_BOX = 0.75  # of an image that is FA: a head fills less of it, if it is masked
_MOST_APART = 0.1  # voxels, of sform and qform
_SMALLEST_BRAIN, _LARGEST_BRAIN = 0.6, 1.6  # of the median of all
_MOST_ANISOTROPIC = 3.0
_MOST_UNLIKE_ZOOM = 1.5
_FACTOR_OF_UNITS = 100.0  # by which the medians of a map may not differ


class _Look(NamedTuple):
    """What is seen of an image of FA."""

    shape: tuple[int, ...]
    zooms: tuple[float, ...]
    volume_ml: float  # of what is not 0
    share: float  # of the box of the image that is not 0
    n_above: int  # voxels above 1


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
    for name, path in options.files.items():
        if name != "atlas_names":
            problems.attempt(_check_file, name, path, options)
    if options.atlas_names is not None and options.atlas is None:
        problems.add("atlas", "atlas_names are given without an atlas; give both, or none.")
    if options.atlas is not None and not problems:
        from nipype_blm.data.atlas import read_atlas

        problems.attempt(read_atlas, options.atlas, options.atlas_names)
    if problems:
        raise InputError(problems)


def _check_file(name: str, path: Path, options: Options) -> None:
    header = read_header(path)
    expected = 3 if name == "directions" else 1
    if header.n_volumes != expected:
        raise InputError(
            f"{name} {path} has {count(header.n_volumes, 'volume')}, expected {expected}."
        )
    if name == "template":
        values = read_volume(path).data
        fault = None if values.any() else "all its values are 0"
        if values.max() > _LARGEST_FA:
            # FSL's own template holds 1000 or 10000 times FA; only relations count.
            return
        if fault:
            raise InputError(f"template {path} is no image of FA: {fault}.")
    elif name != "atlas" and options.template is not None:
        difference = header.describe_difference(read_header(options.template))
        if difference:
            raise InputError(
                f"{name} {path} is not on the grid of the template {options.template}: "
                f"{difference}.  They belong together; resample none of them alone."
            )


def check_images(images: Mapping[str, Sequence[Path]]) -> list[str]:
    """Read every image once, before anything takes long.

    Returns
    -------
    notices : list of str
        What is odd and no fault.

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
    problems = Problems()
    with ThreadPoolExecutor(2) as pool:
        looks = list(pool.map(lambda path: problems.attempt(_look_at_fa, path), images[FA]))
    notices: list[str] = []
    for measure, paths in images.items():
        if measure != FA:
            notices += _check_maps(measure, paths, images[FA], problems)
    if problems:
        raise InputError(problems)
    seen = [look for look in looks if look is not None]
    return [*notices, *_compare(images[FA], seen)]


def _look_at_fa(path: Path) -> _Look:
    """Look at an image of FA; refuse what is none."""
    header = _check_header(path)
    volume = read_volume(path)
    values = volume.data[volume.data != 0]
    fault = _find_fault(values)
    if fault is not None:
        raise InputError(f"{path} is no map of FA: {fault}.")
    if min(header.shape) < 3:
        raise InputError(f"{path} has shape {header.shape}; FA needs 3 voxels or more per axis.")
    size = float(abs(np.linalg.det(volume.affine[:3, :3]))) / 1000
    box = [np.ptp(places) + 1 for places in np.nonzero(volume.data)]
    return _Look(
        header.shape,
        tuple(volume.zooms.tolist()),
        values.size * size,
        values.size / math.prod(box),
        int(np.count_nonzero(values > 1)),
    )


def _find_fault(values: Any) -> str | None:
    """Say why values that are not 0 are no FA, or None."""
    if not values.size:
        return "all its values are 0, or not finite"
    high, median = float(np.percentile(values, 99)), float(np.median(values))
    if high > _LARGEST_FA:
        factor = "1000" if high < 1500 else "10000"
        advice = f"; divide by {factor} first, if it is scaled" if high > 100 else ""
        return f"FA lies from 0 to 1, and 1 % of its values are above {high:g}{advice}"
    if (values < 0).mean() > 0.01:
        low = float(values.min())
        return f"{(values < 0).mean():.0%} of its values are below 0, down to {low:g}"
    if median < _SMALLEST_MEDIAN:
        return f"the median of its values is {median:g}, as of diffusivity (MD, AD, RD)"
    if (values == values[0]).all():
        return f"all its values are 0 or {values[0]:g}, as of a mask"
    return None


def _check_header(path: Path) -> Any:
    """Return the header of one volume whose two affines, if it has two, agree."""
    _, header = look_at(path)
    if find_kind(path).space is not VolumeSpace:
        raise InputError(f"{path} is no volume; TBSS needs images of FA on three axes.")
    if header.n_volumes != 1:
        raise InputError(
            f"{path} has {header.n_volumes} volumes, expected 1: give one image for each "
            "observation; `fslsplit` or nibabel's `four_to_three` cut a file into volumes."
        )
    apart = _measure_forms(path)
    if apart > _MOST_APART:
        raise InputError(
            f"{path}: sform and qform of its header place it {apart:.3g} voxels apart, and "
            "programs differ in which they take; keep the right one, such as by `fslorient "
            "-copysform2qform`."
        )
    return header


def _measure_forms(path: Path) -> float:
    """Return how far apart the two affines of a NIfTI put the corners of an image, in voxels."""
    image: Any = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        return 0.0
    sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    if sform is None or qform is None:
        return 0.0
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1).T
    apart = transform(sform, corners) - transform(qform, corners)
    return float(np.linalg.norm(apart, axis=1).max() / min(image.header.get_zooms()[:3]))


def _check_maps(
    measure: str, paths: Sequence[Path], fa_paths: Sequence[Path], problems: Problems
) -> list[str]:
    """Compare the images of a map with those of FA, and with each other."""
    medians = []
    for path, fa_path in zip(paths, fa_paths, strict=True):
        median = problems.attempt(_measure_map, measure, path, fa_path)
        if median is not None:
            medians.append((median, path))
    if len(medians) < 2:
        return []
    usual = float(np.median([median for median, _ in medians]))
    odd = [
        f"{path} ({median:.3g})"
        for median, path in medians
        if not usual / _FACTOR_OF_UNITS <= median <= usual * _FACTOR_OF_UNITS
    ]
    if odd:
        problems.add(
            "maps",
            f"{measure} is not in one unit: its median is {usual:.3g}, but that of "
            f"{join_some(odd, 5)}; give all in one.",
        )
    if measure in ("MD", "AD", "RD") and 0.1 < usual < 0.6:
        return [f"The median of {measure} is {usual:.2g}, as of FA rather than of a diffusivity."]
    return []


def _measure_map(measure: str, path: Path, fa_path: Path) -> float:
    """Return the median of a map where it is not 0; refuse another grid than that of FA."""
    difference = _check_header(path).describe_difference(read_header(fa_path))
    if difference:
        raise InputError(f"{measure} {path} is not on the grid of {fa_path}: {difference}.")
    values = read_volume(path).data
    if not values.any():
        raise InputError(f"{measure} {path} has no value: all are 0, or not finite.")
    return float(np.median(np.abs(values[values != 0])))


def _compare(paths: Sequence[Path], looks: Sequence[_Look]) -> list[str]:
    """Return what is odd about some images beside all others."""
    notices = []
    size = np.array([look.volume_ml for look in looks])
    usual = np.median(size)
    small = [
        f"{path} ({ml:.0f} ml)"
        for path, ml in zip(paths, size, strict=True)
        if not _SMALLEST_BRAIN * usual <= ml <= _LARGEST_BRAIN * usual
    ]
    if small:
        notices.append(
            f"FA is not 0 in {usual:.0f} ml of most images, but in another size of "
            f"{count(len(small), 'image')}, as of cut or unmasked brains: {join_some(small, 5)}."
        )
    full = [path for path, look in zip(paths, looks, strict=True) if look.share > _MOST_OF_BOX]
    if full:
        notices.append(
            f"{count(len(full), 'image')} of FA {'seems' if len(full) == 1 else 'seem'} not to be "
            f"masked: more than {_MOST_OF_BOX:.0%} of the box around what is not 0 has values "
            f"({join_some(full, 5)}).  Registration and the mean mask need 0 outside the brain."
        )
    zooms = np.array([look.zooms for look in looks])
    side = np.cbrt(zooms.prod(axis=1))
    unlike = side.max() > _MOST_UNLIKE_ZOOM * side.min()
    flat = (zooms.max(axis=1) > _MOST_ANISOTROPIC * zooms.min(axis=1)).sum()
    if unlike:
        notices.append(
            f"Voxels are of {side.min():.2g} to {side.max():.2g} mm: images of larger ones are "
            "smoother, and have lower FA at the centres of tracts."
        )
    if flat:
        notices.append(
            f"Voxels of {count(int(flat), 'image')} are more than {_MOST_ANISOTROPIC:g} times as "
            "long as wide: tracts along slices are not seen well."
        )
    above = sum(look.n_above for look in looks)
    if above:
        notices.append(
            f"{count(above, 'voxel')} of {count(len(looks), 'image')} have FA above 1, which is "
            "noise; they are taken as 1."
        )
    return notices
