"""Bring each observation into standard space: its FA, and its other maps by the same warp."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import read_state, write_if_changed
from nipype_blm.progress import advance
from nipype_blm.tbss.fields import Field, field_of_affine, measure_displacement, write_field
from nipype_blm.tbss.images import (
    Volume,
    interpolate,
    list_places,
    put_onto,
    read_volume,
    transform,
    write_volume,
)
from nipype_blm.tbss.plan import FA, Plan
from nipype_blm.tbss.registration import correlate, prepare_fa, prepare_template, register

# Voxels of results may lie so far outside what the target has, in cubes of the registration.
_DILATION = 3


@dataclass(frozen=True)
class Target:
    """What every image is registered to."""

    name: str  # of an observation; "": the template
    path: str
    to_standard: list[list[float]]  # affine from places of the standard grid to those of the target
    stamp: str


@dataclass(frozen=True)
class Record:
    """How the registration of an observation to the target went."""

    name: str
    stamp: str
    correlation: float
    displacement: float  # median of the squared one without the best rigid motion, mm²


def set_target(plan: Plan, index: int | None = None) -> Target:
    """Note the target: the template, or an observation, which is brought onto a template.

    Parameters
    ----------
    plan : Plan
    index : int, optional
        Of the observation.
    """
    template = plan.options.template
    if index is None:
        assert template is not None
        target = Target("", str(template), np.eye(4).tolist(), _stamp_file(template))
    else:
        subject = plan.subjects[index]
        to_standard = np.eye(4)
        if template is not None:
            to_standard = _find_affine(plan, template, subject.images[FA])
        given = "" if template is None else _stamp_file(template)
        stamp = fingerprint(subject.stamp, given)
        target = Target(subject.name, str(subject.images[FA]), to_standard.tolist(), stamp)
    write_if_changed(plan.paths.target, f"{json.dumps(asdict(target))}\n".encode())
    return target


def read_target(plan: Plan) -> Target:
    """Return the target that was noted."""
    return Target(**json.loads(plan.paths.target.read_text()))


def _stamp_file(path: Path) -> str:
    state = read_state(path)
    return fingerprint(f"{path} {state.size} {state.mtime_ns}")


def _find_affine(plan: Plan, template: Path, moving: Path) -> NDArray[np.float64]:
    """Return the affine from places of the template to those of an image.

    The affine is that which fits the field of a whole registration best, of voxels in the brain:
    so that all engines can give one, and the warp helps it to find the right place.
    """
    fixed = prepare_template(template, plan.spacing)
    field = register(fixed, prepare_fa(moving, plan.spacing).isotropic, plan.options.engine).forward
    mask = fixed.data > 0
    here = list_places(mask, fixed.affine)
    design = np.column_stack([here, np.ones(len(here))])
    found, *_ = np.linalg.lstsq(design, here + field.values[mask], rcond=None)
    affine = np.eye(4)
    affine[:3] = found.T
    return affine


def register_subjects(plan: Plan, indices: Sequence[int]) -> list[Path]:
    """Register some observations to the target, and bring their maps into standard space.

    What an earlier run has done of it is not done again.

    Returns
    -------
    records : list of Path
        What is noted of each.
    """
    target = read_target(plan)
    for index in indices:
        if not _is_done(plan, index, target):
            _register_subject(plan, index, target)
        advance("registrations", 1)
    return [plan.paths.find_record(plan.subjects[index].name) for index in indices]


def _stamp(plan: Plan, index: int, target: Target) -> str:
    return plan.stamp_subject(index, target.stamp)


def _is_done(plan: Plan, index: int, target: Target) -> bool:
    subject, paths = plan.subjects[index], plan.paths
    record = read_record(plan, index)
    files = [paths.find_standard(subject.name, measure) for measure in subject.images]
    return (
        record is not None
        and record.stamp == _stamp(plan, index, target)
        and all(path.is_file() for path in [*files, paths.find_warp(subject.name)])
    )


def read_record(plan: Plan, index: int) -> Record | None:
    """Return what is noted of an observation, if anything is."""
    try:
        return Record(**json.loads(plan.paths.find_record(plan.subjects[index].name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _register_subject(plan: Plan, index: int, target: Target) -> None:
    subject, paths = plan.subjects[index], plan.paths
    grid = _open_grid(
        Path(target.path),
        plan.options.template,
        tuple(map(tuple, target.to_standard)),
        plan.spacing,
        target.stamp,
    )
    fixed = grid.fixed
    prepared = prepare_fa(subject.images[FA], plan.spacing)
    if subject.name == target.name:
        field = field_of_affine(np.eye(4), fixed.data.shape, fixed.affine)
    else:
        field = register(fixed, prepared.isotropic, plan.options.engine).forward
    correlation = correlate(field, fixed, prepared.isotropic)
    displacement = measure_displacement(field, fixed) if correlation > -1 else -1.0
    if correlation == -1:  # such values can be neither kept nor looked up
        field = Field(np.where(np.isfinite(field.values), field.values, 0), field.affine)
    write_field(paths.find_warp(subject.name), field)
    places = field.apply(grid.places)
    for measure, path in subject.images.items():
        values = _read_measure(measure, path, prepared.native)
        data = np.zeros(grid.mask.shape, np.float32)
        data[grid.mask] = interpolate(values, places)
        write_volume(paths.find_standard(subject.name, measure), data, grid.affine)
    record = Record(subject.name, _stamp(plan, index, target), correlation, displacement)
    # The last of all: it says that everything else is there.
    write_if_changed(paths.find_record(subject.name), f"{json.dumps(asdict(record))}\n".encode())


def _read_measure(measure: str, path: Path, fa: Volume) -> Volume:
    """Return a map; one that is not FA is 0 where FA was taken off at the edge of the brain."""
    if measure == FA:
        return fa
    return Volume(np.where(fa.data > 0, read_volume(path).data, 0), fa.affine)


class _Grid(NamedTuple):
    """Where results are, and which places of the target these are."""

    fixed: Volume  # the target on cubes
    mask: NDArray[np.bool_]  # of the standard grid: the voxels that may have FA
    affine: NDArray[np.float64]  # of the standard grid
    places: NDArray[np.float64]  # (n, 3), of the voxels of the mask, in mm of the target


# All observations have the same; the last argument tells a file from what was there before.
@lru_cache(maxsize=1)
def _open_grid(
    path: Path,
    template: Path | None,
    to_standard: tuple[tuple[float, ...], ...],
    spacing: float,
    _: str,
) -> _Grid:
    if template == path:
        fixed = prepare_template(path, spacing)
    else:
        fixed = prepare_fa(path, spacing).isotropic
    reference = read_volume(template or path)
    near = ndimage.binary_dilation(fixed.data > 0, iterations=_DILATION).astype(np.float32)
    whole = np.array(to_standard) @ reference.affine
    to_fixed = Volume(near, np.linalg.inv(whole) @ fixed.affine)
    mask = put_onto(to_fixed, reference.data.shape, np.eye(4)) > 0
    places = transform(np.array(to_standard), list_places(mask, reference.affine))
    return _Grid(fixed, mask, reference.affine, places)
