"""Read where astrocytes are, and the segments that they consist of."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError, count, join_some, show
from nipype_blm.ngv.circuit.capsules import Capsules, Floats
from nipype_blm.ngv.circuit.hdf5 import open_hdf5
from nipype_blm.ngv.layout import ASTROCYTES

SOMA = 1  # among the types of sections, as SWC numbers them
_N_KEPT = 16  # cells in memory: about those that one has as neighbours


class Somata(NamedTuple):
    """Where the astrocytes of a circuit are; the number of one is its row."""

    names: list[str]  # of their morphologies
    positions: Floats  # (n, 3), um
    radii: Floats  # (n,), um


class Segments(NamedTuple):
    """The segments of one astrocyte in the circuit, its soma as the first of them.

    Lengths are in um.
    """

    capsules: Capsules
    section_ids: NDArray[np.int64]  # (n,), 0 for the soma, 1 for MorphIO's section 0
    segment_ids: NDArray[np.int64]  # (n,), from 0 in each section
    types: NDArray[np.int64]  # (n,), as SWC numbers them
    lengths: Floats  # (n,)
    offsets: Floats  # (n,), from the start of the section to the start of the segment
    section_lengths: Floats  # (n,)
    soma_distances: Floats  # (n,), along the branches to the start of the section
    orders: NDArray[np.int64]  # (n,), 2 for sections at the soma, which has -1, 3 for the next ...


class Cells(Sequence[Segments]):
    """The astrocytes of a circuit, read when they are asked for; a few are kept.

    Parameters
    ----------
    somata : Somata
    folder : Path
        Of their morphologies.
    """

    def __init__(self, somata: Somata, folder: Path) -> None:
        self.somata, self.folder = somata, folder
        self._read = lru_cache(_N_KEPT)(self._read_cell)

    def __len__(self) -> int:
        return len(self.somata.names)

    def __getitem__(self, cell: Any) -> Any:
        if not -len(self) <= cell < len(self):
            raise IndexError(cell)
        return self._read(int(cell) % len(self))

    def _read_cell(self, cell: int) -> Segments:
        path = self.folder / f"{self.somata.names[cell]}.h5"
        if not path.is_file():
            raise InputError(
                f"Astrocyte {cell} has the morphology {show(path.stem)}, but there is no {path}. "
                "Run the synthesis of morphologies again, or give the folder that they are in."
            )
        return read_segments(path, self.somata.positions[cell], self.somata.radii[cell])


def read_somata(path: Path, population: str = ASTROCYTES) -> Somata:
    """Read positions, radii and names of morphologies from a SONATA file of nodes.

    Parameters
    ----------
    path : Path
        Such as ``build/sonata/networks/nodes/astrocytes/nodes.h5``.
    population : str
        Of nodes in the file.

    Raises
    ------
    InputError
        If the file lacks any of them, or turns cells, which ArchNGV does not.
    """
    with open_hdf5(path) as file:
        group = file.get(f"nodes/{population}/0")
        if group is None:
            there = join_some(file.get("nodes", {})) or "none"
            raise InputError(f"{path} has no nodes {show(population)}; its populations: {there}.")
        needed = ("x", "y", "z", "radius", "morphology")
        if missing := [name for name in needed if name not in group]:
            raise InputError(
                f"The nodes {show(population)} of {path} have no {join_some(missing)}: give the "
                "file that `ngv finalize-astrocytes` writes."
            )
        if any(name.startswith(("orientation_", "rotation_angle_")) for name in group):
            raise InputError(
                f"The nodes {show(population)} of {path} are turned (orientation or rotation); "
                "those of ArchNGV are only moved. Turn the morphologies themselves instead."
            )
        positions = np.stack([group[name][()] for name in "xyz"], axis=1).astype(float)
        radii = group["radius"][()].astype(float)
        names = _read_strings(group, "morphology")
    if not (np.isfinite(positions).all() and np.isfinite(radii).all() and (radii >= 0).all()):
        raise InputError(f"{path} has a position or a radius that is no number, or is below 0.")
    return Somata(names, positions, radii)


def read_segments(path: Path, position: Floats, soma_radius: float) -> Segments:
    """Read a morphology, and put its soma where it is in the circuit.

    Parameters
    ----------
    path : Path
        H5 as MorphIO writes it: ``points`` (x, y, z, diameter) and ``structure`` (first point,
        type, parent) [1]_.
    position : array of shape (3,)
        Of the soma in the circuit, um; the morphology has it at the origin.
    soma_radius : float
        The soma is a ball; 0 makes it a point.

    Returns
    -------
    Segments
        Also those without length or radius, so that numbers are those of the file.

    Raises
    ------
    InputError
        If the file cannot be read, or has no points, points that are no numbers, diameters below
        0, or a structure that does not fit.

    References
    ----------
    .. [1] https://morphology-documentation.readthedocs.io/en/latest/h5v1.html
    """
    with open_hdf5(path) as file:
        if missing := [name for name in ("points", "structure") if name not in file]:
            raise InputError(f"{path} has no {join_some(missing)}: it is no morphology in H5.")
        points, structure = file["points"][()].astype(float), file["structure"][()].astype(int)
    _check(path, points, structure)
    branches = structure[:, 1] != SOMA
    stops = np.append(structure[1:, 0], len(points))
    firsts, stops, types = structure[branches, 0], stops[branches], structure[branches, 1]
    n_segments = np.maximum(stops - firsts - 1, 0)
    section = np.repeat(np.arange(len(firsts)), n_segments)
    segment = np.arange(len(section)) - np.repeat(np.cumsum(n_segments) - n_segments, n_segments)
    start = firsts[section] + segment

    xyz, radii = points[:, :3] + position, points[:, 3] / 2
    lengths = np.linalg.norm(points[start + 1, :3] - points[start, :3], axis=1)
    ends = np.cumsum(lengths)
    section_lengths = np.bincount(section, lengths, len(firsts)).astype(float)
    offsets = ends - lengths - (np.cumsum(section_lengths) - section_lengths)[section]
    soma_distances, orders = _walk_out(structure[:, 2], branches, section_lengths)
    capsules = Capsules(
        np.vstack([position, xyz[start]]),
        np.vstack([position, xyz[start + 1]]),
        np.vstack([[soma_radius] * 2, np.stack([radii[start], radii[start + 1]], axis=1)]),
    )
    return Segments(
        capsules,
        section_ids=np.append(0, section + 1),
        segment_ids=np.append(0, segment),
        types=np.append(SOMA, types[section]),
        lengths=np.append(0, lengths),
        # Sums of many lengths: what rounding leaves must not lie before a section.
        offsets=np.append(0, np.where(segment == 0, 0, offsets)),
        section_lengths=np.append(0, section_lengths[section]),
        soma_distances=np.append(0, soma_distances[section]),
        orders=np.append(-1, orders[section]),
    )


def _walk_out(
    parents: NDArray[np.int64], branches: NDArray[np.bool_], lengths: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """Return distances to the soma, and orders, of sections, which come after their parents."""
    rows = np.flatnonzero(branches)
    numbers = np.cumsum(branches) - 1
    distances, orders = np.zeros(len(rows)), np.full(len(rows), 2)
    for number, parent in enumerate(parents[rows]):
        if parent >= 0 and branches[parent]:
            before = numbers[parent]
            distances[number] = distances[before] + lengths[before]
            orders[number] = orders[before] + 1
    return distances, orders


def _check(path: Path, points: Floats, structure: NDArray[np.int64]) -> None:
    """Refuse what no morphology can have."""
    if points.ndim != 2 or points.shape[1] != 4 or structure.ndim != 2 or structure.shape[1] != 3:
        raise InputError(
            f"{path} has points of shape {points.shape} and structure of shape {structure.shape}; "
            "a morphology in H5 has four columns of points and three of structure."
        )
    if not len(points) or not len(structure):
        raise InputError(f"{path} has no points: synthesise this morphology again.")
    if bad := int((~np.isfinite(points).all(axis=1)).sum()):
        raise InputError(
            f"{path} has {count(bad, 'point')} of {len(points)} with values that are no numbers: "
            "synthesise this morphology again."
        )
    if (points[:, 3] < 0).any():
        raise InputError(f"{path} has diameters below 0: synthesise this morphology again.")
    firsts, parents = structure[:, 0], structure[:, 2]
    fits = firsts[0] == 0 and (np.diff(firsts) >= 0).all() and firsts[-1] <= len(points)
    if not fits or (parents >= np.arange(len(structure))).any():
        raise InputError(
            f"{path} has a structure that does not fit its {len(points)} points: sections come one "
            "after the other, and after their parents. Write it anew with MorphIO."
        )


def _read_strings(group: Any, name: str) -> list[str]:
    """Read a property of nodes: strings, or numbers of strings in SONATA's library."""
    values, library = group[name], group.get(f"@library/{name}")
    if library is None:
        return [str(value) for value in values.asstr()[()]]
    words = library.asstr()[()]
    return [str(words[value]) for value in values[()]]
