"""Bring each observation into standard space: its FA, and its other maps by the same warp."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.progress import advance
from nipype_blm.tbss.fields import field_of_affine, read_field, write_field
from nipype_blm.tbss.images import (
    Volume,
    interpolate,
    list_places,
    put_onto,
    read_volume,
    transform,
    write_volume,
)
from nipype_blm.tbss.options import FA
from nipype_blm.tbss.plan import Plan, Subject, stamp_file
from nipype_blm.tbss.registration import (
    FAILED,
    RegistrationError,
    correlate,
    judge,
    prepare_fa,
    prepare_template,
    register,
)

# Voxels of results may lie so far outside what the target has, in cubes of the registration.
_DILATION = 3


Affine = tuple[tuple[float, ...], ...]
_IDENTITY: Affine = tuple(map(tuple, np.eye(4).tolist()))


@dataclass(frozen=True)
class Target:
    """What every image is registered to."""

    name: str  # of an observation; "": the template
    path: Path
    to_standard: Affine  # from places of the standard grid to those of the target
    stamp: str


@dataclass(frozen=True)
class Record:
    """How the registration of an observation to the target went, and which maps followed it."""

    name: str
    stamp: str
    correlation: float
    displacement_mm: float  # median over the brain, without the best rigid motion
    failure: str = ""  # what the engine said, if it gave no warp
    maps: dict[str, str] = field(default_factory=dict)  # stamps of the maps in standard space


def set_target(plan: Plan, index: int | None = None) -> Target:
    """Note the target: the template, or an observation, which is brought onto a template.

    Parameters
    ----------
    plan : Plan
    index : int, optional
        Of the observation.

    Raises
    ------
    InputError
        If the observation cannot be brought onto the template.
    """
    template = plan.options.template
    if index is None:
        assert template is not None
        target = Target("", template, _IDENTITY, stamp_file(template))
    else:
        subject = plan.subjects[index]
        to_standard = _IDENTITY
        if template is not None:
            to_standard = _find_affine(plan, template, subject)
        given = "" if template is None else stamp_file(template)
        stamp = fingerprint(subject.stamps[FA], given, json.dumps(to_standard))
        target = Target(subject.name, subject.images[FA], to_standard, stamp)
    content = json.dumps(asdict(target) | {"path": str(target.path)})
    write_if_changed(plan.paths.target, f"{content}\n".encode())
    return target


def read_target(plan: Plan) -> Target:
    """Return the target that was noted."""
    data = json.loads(plan.paths.target.read_text())
    to_standard = tuple(map(tuple, data["to_standard"]))
    return Target(data["name"], Path(data["path"]), to_standard, data["stamp"])


def _find_affine(plan: Plan, template: Path, subject: Subject) -> Affine:
    """Return the affine from places of the template to those of an image.

    The affine is that which fits the field of a whole registration best, of voxels in the brain:
    so that all engines can give one, and the warp helps it to find the right place.
    """
    fixed = prepare_template(template, plan.spacing)
    moving = prepare_fa(subject.images[FA], plan.spacing).isotropic
    try:
        warp = register(fixed, moving, plan.options.engine).forward
        correlation = correlate(warp, fixed, moving)
    except RegistrationError:
        correlation = FAILED.correlation
    if correlation < plan.options.min_correlation:
        raise InputError(
            f"The most representative image, {subject.name}, could not be registered to the "
            f"template {template}: their correlation is {correlation:.2f}, below "
            f"{plan.options.min_correlation:g} (min_correlation).  Is that an image of FA, of a "
            "brain like these?  Without a template, results are on the grid of the target."
        )
    mask = fixed.data > 0
    here = list_places(mask, fixed.affine)
    design = np.column_stack([here, np.ones(len(here))])
    found, *_ = np.linalg.lstsq(design, here + warp.values[mask], rcond=None)
    return (*map(tuple, found.T.tolist()), _IDENTITY[3])


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
        _register_subject(plan, index, target)
        advance("registrations", 1)
    return [plan.paths.find_record(plan.subjects[index].name) for index in indices]


def read_record(plan: Plan, index: int) -> Record | None:
    """Return what is noted of an observation, if anything is."""
    try:
        return Record(**json.loads(plan.paths.find_record(plan.subjects[index].name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_record(plan: Plan, record: Record) -> None:
    path = plan.paths.find_record(record.name)
    write_if_changed(path, f"{json.dumps(asdict(record))}\n".encode())


def _register_subject(plan: Plan, index: int, target: Target) -> None:
    """Do what is missing of an observation.

    A record never says more than what is there: it goes before what it told of is replaced.
    """
    subject, paths = plan.subjects[index], plan.paths
    stamp = plan.stamp_subject(index, target.stamp)
    record = read_record(plan, index)
    warp_file = paths.find_warp(subject.name)
    is_warped = record is not None and (record.failure or warp_file.is_file())
    if record is None or record.stamp != stamp or not is_warped:
        paths.find_record(subject.name).unlink(missing_ok=True)
        record = _warp(plan, subject, target, stamp)
        _write_record(plan, record)
    if record.failure:
        return
    known = {
        measure: made
        for measure, made in record.maps.items()
        if made == subject.stamps.get(measure)
        and paths.find_standard(subject.name, measure).is_file()
    }
    late = [measure for measure in subject.images if measure not in known]
    if late:
        record = replace(record, maps=known)
        _write_record(plan, record)
        _bring_maps(plan, subject, target, late)
        _write_record(plan, replace(record, maps={m: subject.stamps[m] for m in subject.images}))


def _warp(plan: Plan, subject: Subject, target: Target, stamp: str) -> Record:
    """Register an observation to the target; write its warp."""
    fixed = _open_grid(target, plan.options.template, plan.spacing).fixed
    moving = prepare_fa(subject.images[FA], plan.spacing).isotropic
    if subject.name == target.name:
        found = field_of_affine(np.eye(4), fixed.data.shape, fixed.affine)
    else:
        try:
            found = register(fixed, moving, plan.options.engine).forward
        except RegistrationError as error:
            return Record(subject.name, stamp, *FAILED, failure=str(error))
    write_field(plan.paths.find_warp(subject.name), found)
    return Record(subject.name, stamp, *judge(found, fixed, moving))


def _bring_maps(plan: Plan, subject: Subject, target: Target, measures: Sequence[str]) -> None:
    """Bring maps into standard space by the warp that was written."""
    grid = _open_grid(target, plan.options.template, plan.spacing)
    fa = prepare_fa(subject.images[FA], plan.spacing).native
    places = read_field(plan.paths.find_warp(subject.name)).apply(grid.places)
    for measure in measures:
        values = _read_measure(measure, subject.images[measure], fa)
        data = np.zeros(grid.mask.shape, np.float32)
        data[grid.mask] = interpolate(values, places)
        write_volume(plan.paths.find_standard(subject.name, measure), data, grid.affine)


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


# All observations have the same; the stamp of a target tells it from one that was there before.
@lru_cache(maxsize=1)
def _open_grid(target: Target, template: Path | None, spacing: float) -> _Grid:
    if target.name:
        fixed = prepare_fa(target.path, spacing).isotropic
    else:
        fixed = prepare_template(target.path, spacing)
    reference = read_volume(template or target.path)
    to_standard = np.array(target.to_standard)
    near = ndimage.binary_dilation(fixed.data > 0, iterations=_DILATION).astype(np.float32)
    whole = to_standard @ reference.affine
    to_fixed = Volume(near, np.linalg.inv(whole) @ fixed.affine)
    mask = put_onto(to_fixed, reference.data.shape, np.eye(4)) > 0
    places = transform(to_standard, list_places(mask, reference.affine))
    return _Grid(fixed, mask, reference.affine, places)
