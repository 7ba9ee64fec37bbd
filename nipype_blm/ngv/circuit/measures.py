"""What a circuit has of each stage, measured against what was asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nipype_blm.errors import InputError, join_some, show
from nipype_blm.ngv.circuit.capsules import Floats
from nipype_blm.ngv.circuit.counts import Count, compare, compare_median
from nipype_blm.ngv.circuit.files import (
    count_synapses,
    count_tetrahedra,
    find_base_connectome,
    find_morphology,
    read_branches,
    read_circuit,
)
from nipype_blm.ngv.circuit.morphologies import Segments, Somata
from nipype_blm.ngv.circuit.parts import (
    PERISYNAPTIC,
    PERIVASCULAR,
    Circuit,
    Ids,
    Microdomains,
    measure_areas,
    measure_lengths,
    measure_volumes,
)
from nipype_blm.ngv.circuit.targets import (
    Target,
    find_share,
    find_target,
    judge,
    read_distribution,
    take_numbers,
)
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.recipe.manifest import choose_part
from nipype_blm.ngv.recipe.region import Region

_UM3_PER_MM3 = 1e9
_MOST_NAMES = 10
# Areas follow the quantiles of their target, of which the last is its largest value.
_NEARLY, _OF_LARGEST = 0.99, "one endfoot has the largest area that is asked for"


def measure_circuit(layout: Layout, manifest: Mapping[str, Any] | None = None) -> list[Count]:
    """Measure what is there of a circuit.

    Parameters
    ----------
    layout : Layout
        Of the circuit; stages that have not been run are left out.
    manifest : mapping, optional
        The content of ``MANIFEST.yaml``, which has the targets.

    Returns
    -------
    list of Count
        In the order of the stages.

    Raises
    ------
    InputError
        If a file is damaged, or a distribution of the manifest is not one.

    Notes
    -----
    Values are draws of what was asked for, so that a mean counts as asked within three standard
    errors: sd / sqrt(n).  That of an sd is sd sqrt((k - (n - 3) / (n - 1)) / (4 n)) with the
    kurtosis k of the target, by the delta method; that of a median is taken as of a normal
    distribution, sd sqrt(pi / 2 n).  What is not drawn has to be met exactly.
    """
    circuit = read_circuit(layout)
    region = Region.read(layout.region)
    return [
        *_measure_vessels(circuit),
        *_measure_somata(circuit, region, manifest),
        *_measure_microdomains(circuit, region, manifest),
        *_measure_endfeet(circuit, manifest),
        *_measure_synapses(circuit, layout, manifest),
        *_measure_endfeet_meshes(circuit, manifest),
        *_measure_morphologies(circuit, layout),
        *_measure_gap_junctions(circuit),
        *_measure_mesh(layout),
    ]


def _measure_vessels(circuit: Circuit) -> Iterator[Count]:
    vessels = circuit.vessels
    if vessels is None or len(vessels.starts) == 0:
        return
    stage = "vasculature"
    yield Count(stage, "segments of vessels", len(vessels.starts))
    yield Count(stage, "length", measure_lengths(vessels).sum() / 1e3, unit="mm")
    yield from compare(stage, "radius", vessels.radii.mean(axis=1), "um")
    volume = _find_box(np.concatenate([vessels.starts, vessels.ends]))
    if volume > 0:
        # mm per mm^3, of the box around all of them.
        density = measure_lengths(vessels).sum() / volume * 1e6
        yield Count(stage, "length density in their box", density, unit="mm/mm^3")


def _find_box(points: Floats) -> float:
    """Return the volume of the box around points."""
    return float(np.prod(points.max(axis=0) - points.min(axis=0)))


def _measure_somata(
    circuit: Circuit, region: Region | None, manifest: Mapping[str, Any] | None
) -> Iterator[Count]:
    somata = circuit.somata
    if somata is None:
        return
    stage, n = "cell-placement", len(somata.names)
    asked = None if region is None else region.n_astrocytes
    yield _count_astrocytes("astrocytes", n, asked, 1.0, "")
    if region is not None:
        per_mm3 = _UM3_PER_MM3 / region.volume
        yield _count_astrocytes("density in the region", n, asked, per_mm3, "mm^-3")
    elif circuit.microdomains is not None:
        volume = _find_box(circuit.microdomains.meshes.points)
        density = n * _UM3_PER_MM3 / volume
        yield Count(stage, "density in the box of the microdomains", density, unit="mm^-3")
    if n > 1:
        distances = _find_distances(somata)
        yield from compare(stage, "distance to the nearest astrocyte", distances, "um")
        yield Count(stage, "distance to the nearest astrocyte, least", distances.min(), unit="um")
    values = read_distribution(manifest, ("cell_placement",), "soma_radius")
    target = None if values is None else find_target(values)
    yield from compare(stage, "soma radius", somata.radii, "um", target)


def _count_astrocytes(what: str, n: int, asked: int | None, factor: float, unit: str) -> Count:
    stage, measured = "cell-placement", n * factor
    if asked is None:
        return Count(stage, what, measured, unit=unit)
    return Count(stage, what, measured, asked * factor, unit, judge(n, asked))


def _find_distances(somata: Somata) -> Floats:
    """Return the distance of each astrocyte to the nearest other one in um, (n_astrocytes,)."""
    from scipy.spatial import KDTree

    distances, _ = KDTree(somata.positions).query(somata.positions, k=2)
    return np.asarray(distances[:, 1])


def _find_shared(domains: Microdomains) -> Floats:
    """Return the overlap that each microdomain was widened for, (n_astrocytes,).

    A cell of the tessellation of volume V is scaled by s, and so are its neighbours, so that a
    kernel of about (2 - s)^3 V is left to it alone: of its own s^3 V, the share
    1 - ((2 - s) / s)^3 is shared (as ArchNGV defines ``overlap_distribution``).
    """
    s = domains.scalings
    return np.asarray(1 - ((2 - s) / s) ** 3)


def _measure_microdomains(
    circuit: Circuit, region: Region | None, manifest: Mapping[str, Any] | None
) -> Iterator[Count]:
    domains = circuit.microdomains
    if domains is None:
        return
    stage, volumes = "microdomains", domains.volumes
    yield from compare(stage, "volume", volumes, "um^3")
    given = choose_part(manifest, "microdomains", "overlap_distribution").get("values")
    values = None if given is None else take_numbers(given, 2)
    if given is not None and values is None:
        raise InputError(
            f"overlap_distribution of microdomains in the manifest has the values {show(given)}; "
            "expected two numbers: mean and standard deviation."
        )
    target = None if values is None else Target(values[0], values[1], 3.0, values[0])
    yield from compare(stage, "overlap", _find_shared(domains), "", target)
    if region is not None:
        yield Count(stage, "volume of all per volume of the region", volumes.sum() / region.volume)
    n_neighbours = np.array([len(each) for each in domains.neighbours])
    yield from compare(stage, "neighbours of an astrocyte", n_neighbours, "")


def _count_each(ids: Ids, n: int) -> Ids:
    """Return how often each of n numbers is there."""
    return np.bincount(ids, minlength=n)


def _count_somata(circuit: Circuit, *ids: Ids) -> int:
    """Return how many astrocytes there are; without somata, as many as are numbered."""
    if circuit.somata is not None:
        return len(circuit.somata.names)
    return max((int(each.max()) + 1 for each in ids if each.size), default=0)


def _measure_endfeet(circuit: Circuit, manifest: Mapping[str, Any] | None) -> Iterator[Count]:
    endfeet = circuit.endfeet
    if endfeet is None:
        return
    stage, n = "gliovascular-connectivity", _count_somata(circuit, endfeet.astrocytes)
    yield Count(stage, "endfeet", len(endfeet.ids))
    per_astrocyte = _count_each(endfeet.astrocytes, n)
    values = read_distribution(
        manifest, ("gliovascular_connectivity", "connection"), "endfeet_distribution"
    )
    target = None if values is None else find_target(values, is_whole=True)
    yield from compare(stage, "endfeet of an astrocyte", per_astrocyte, "", target)
    if n:
        what, share = "astrocytes with an endfoot", float((per_astrocyte > 0).mean())
        if values is None:
            yield Count(stage, what, 100 * share, unit="%")
        else:
            asked = 1 - float(find_share(values, np.zeros(1))[0])
            error = (asked * (1 - asked) / n) ** 0.5
            fits = judge(share, asked, error)
            yield Count(stage, what, 100 * share, 100 * asked, "%", fits)
    if circuit.vessels is not None and len(circuit.vessels.starts):
        per_mm = 1e3 * len(endfeet.ids) / measure_lengths(circuit.vessels).sum()
        yield Count(stage, "endfeet per length of vessel", per_mm, unit="mm^-1")


def _measure_synapses(
    circuit: Circuit, layout: Layout, manifest: Mapping[str, Any] | None
) -> Iterator[Count]:
    synapses = circuit.synapses
    if synapses is None:
        return
    stage, n = "neuroglial-connectivity", _count_somata(circuit, synapses.astrocytes)
    yield Count(stage, "synapses with an astrocyte", len(np.unique(synapses.ids)))
    base = find_base_connectome(layout, manifest)
    n_all = None if base is None else count_synapses(base, synapses.neuron_population)
    if n_all:
        share = 100 * len(np.unique(synapses.ids)) / n_all
        yield Count(stage, "share of all synapses", share, unit="%")
    yield from compare(stage, "synapses of an astrocyte", _count_each(synapses.astrocytes, n), "")
    pairs = np.unique(np.column_stack([synapses.astrocytes, synapses.neurons]), axis=0)
    if len(pairs):
        yield from compare(stage, "neurons of an astrocyte", _count_each(pairs[:, 0], n), "")
        _, per_neuron = np.unique(pairs[:, 1], return_counts=True)
        yield from compare(stage, "astrocytes of a neuron", per_neuron, "")


def _measure_endfeet_meshes(
    circuit: Circuit, manifest: Mapping[str, Any] | None
) -> Iterator[Count]:
    found = circuit.endfeet_meshes
    if found is None or len(found.areas) == 0:
        return
    stage, part, is_there = "endfeet-area", ("endfeet_surface_meshes",), found.meshes.sizes > 0
    yield Count(stage, "endfeet without a surface", 100 * float((~is_there).mean()), unit="%")
    values = read_distribution(manifest, part, "area_distribution")
    areas = found.areas[is_there]
    if not areas.size:
        return
    target = None if values is None else find_target(values)
    yield compare_median(stage, "area", areas, "um^2", target)
    for count in compare(stage, "area", areas, "um^2", target):
        is_largest = values is not None and areas.max() > _NEARLY * values[3]
        yield count._replace(note=_OF_LARGEST if is_largest else "")
    values = read_distribution(manifest, part, "thickness_distribution")
    target = None if values is None else find_target(values)
    yield from compare(stage, "thickness", found.thicknesses[is_there], "um", target)
    if circuit.vessels is not None and len(circuit.vessels.starts):
        share = 100 * areas.sum() / measure_areas(circuit.vessels).sum()
        yield Count(stage, "surface of vessels under endfeet", share, unit="%")


def _measure_morphologies(circuit: Circuit, layout: Layout) -> Iterator[Count]:
    somata = circuit.somata
    if somata is None or not layout.morphologies.is_dir():
        return
    stage = "synthesis"
    missing = [name for name in somata.names if not find_morphology(layout, name).is_file()]
    note = join_some(missing, _MOST_NAMES)
    n = len(missing)
    yield Count(stage, "morphologies that are missing", n, 0, "", judge(n, 0), note)
    all_of = (read_branches(layout, somata, i) for i in range(len(somata.names)))
    shapes = [_measure_branches(each) for each in all_of if each is not None]
    for i, (what, unit) in enumerate(_SHAPES.items()):
        yield from compare(stage, what, np.array([shape[i] for shape in shapes], float), unit)


# What is measured of the branches of an astrocyte, and in which unit.
_SHAPES = {
    "length": "um",
    "volume without soma": "um^3",
    "sections": "",
    "perivascular sections": "",
    "perisynaptic sections": "",
    "processes from the soma": "",
    "branchings": "",
}


def _measure_branches(branches: Segments) -> tuple[float, ...]:
    """Return what `_SHAPES` names."""
    is_first = branches.segment_ids == 0  # of its section
    types, at_soma = branches.types[is_first], branches.orders[is_first] == 2
    # Sections of one branching begin at the same point: the last one of that before them.
    begins = branches.capsules.starts[is_first][~at_soma]
    _, n_together = np.unique(begins, axis=0, return_counts=True)
    return (
        branches.lengths.sum(),
        measure_volumes(branches.capsules).sum(),
        is_first.sum(),
        (types == PERIVASCULAR).sum(),
        (types == PERISYNAPTIC).sum(),
        at_soma.sum(),
        (n_together > 1).sum(),
    )


def _measure_gap_junctions(circuit: Circuit) -> Iterator[Count]:
    junctions = circuit.gap_junctions
    if junctions is None:
        return
    stage, n = "glialglial-connectivity", _count_somata(circuit, *junctions)
    yield Count(stage, "contacts, in both directions", len(junctions.sources))
    pairs = np.unique(np.column_stack(junctions), axis=0)
    yield from compare(
        stage, "gap junctions of an astrocyte", _count_each(junctions.targets, n), ""
    )
    yield from compare(stage, "astrocytes coupled to one", _count_each(pairs[:, 1], n), "")


def _measure_mesh(layout: Layout) -> Iterator[Count]:
    for stage, path in (
        ("tetrahedral mesh", layout.volume_mesh),
        ("refined mesh", layout.refined_mesh),
    ):
        n = count_tetrahedra(path) if path.is_file() else None
        if n is not None:
            yield Count(stage, "tetrahedra", n)
