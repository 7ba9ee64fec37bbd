"""The region of an atlas that a circuit fills, and how many astrocytes its density asks for."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError, show
from nipype_blm.ngv.circuit.files import find_input
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.recipe.manifest import choose_part


class Region(NamedTuple):
    """What an atlas says of a region."""

    volume: float  # um^3
    n_astrocytes: int | None  # the integral of their density; None without one


def read_region(layout: Layout, manifest: Mapping[str, Any] | None) -> Region | None:
    """Read the region of a manifest, and the integral of the density of astrocytes in it.

    Parameters
    ----------
    layout : Layout
        Of the circuit.
    manifest : mapping
        Has ``atlas``, ``region`` and ``mask`` in its part ``common``, as of ArchNGV.

    Returns
    -------
    Region or None
        None if the atlas is not a folder that is there, or SimpleITK (extra ``tbss``), which
        reads it, is not installed.

    Raises
    ------
    InputError
        If a file of the atlas cannot be read, or has no such region.
    """
    atlas = find_input(layout, manifest, "atlas")
    labels = None if atlas is None else _read_map(atlas / "brain_regions.nrrd")
    if atlas is None or labels is None:
        return None
    values, voxel_volume = labels
    common = choose_part(manifest, "common")
    inside = values != 0
    if "region" in common:
        inside = np.isin(values, list(_find_ids(atlas / "hierarchy.json", str(common["region"]))))
    for name in filter(None, [common.get("mask")]):
        inside &= _read_like(atlas / f"{name}.nrrd", values, 1) != 0
    n = None
    density = choose_part(manifest, "cell_placement").get("density")
    if isinstance(density, str) and (atlas / f"{density}.nrrd").is_file():
        per_mm3 = np.nan_to_num(_read_like(atlas / f"{density}.nrrd", values, 0))
        n = round(float(per_mm3[inside].sum(dtype=float)) * voxel_volume * 1e-9)
    return Region(float(inside.sum()) * voxel_volume, n)


def _read_map(path: Path) -> tuple[NDArray[Any], float] | None:
    """Read a map, and the volume of a voxel in um^3; None if it cannot be had."""
    try:
        import SimpleITK
    except ImportError:
        return None
    if not path.is_file():
        return None
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("ERROR: ")[2].rstrip(".")
        raise InputError(f"{path} cannot be read: {reason}.") from error
    return SimpleITK.GetArrayFromImage(image), float(np.prod(image.GetSpacing()))


def _read_like(path: Path, like: NDArray[Any], default: float) -> NDArray[Any]:
    """Read a map that has the shape of the regions; one that is not there is constant."""
    found = _read_map(path)
    if found is None:
        return np.full(like.shape, default)
    if found[0].shape != like.shape:
        raise InputError(
            f"{path} has {found[0].shape[::-1]} voxels, but the regions of the atlas have "
            f"{like.shape[::-1]}; give maps of one atlas."
        )
    return found[0]


def _find_ids(path: Path, region: str) -> set[int]:
    """Return the numbers of a region, by its acronym, and of all within it.

    A region that begins with @ is a regular expression, as voxcell has it.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        [top] = found.get("msg", [found])  # within what the Allen Institute's server answers
        pattern = re.compile(region[1:] if region.startswith("@") else f"^{re.escape(region)}$")
        ids = {
            int(each["id"])
            for node in _list_within(top)
            if pattern.search(str(node.get("acronym", "")))
            for each in _list_within(node)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise InputError(
            f"The regions of the atlas cannot be told by {path}: {' '.join(str(error).split())}."
        ) from error
    if not ids:
        raise InputError(f"{path} has no region {show(region)}; expected an acronym of its own.")
    return ids


def _list_within(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("children", ()):
        yield from _list_within(child)
