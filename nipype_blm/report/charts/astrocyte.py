"""One astrocyte of a circuit: its branches, microdomain, endfeet and synapses."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.ngv.circuit.capsules import Capsules, find_nearest
from nipype_blm.ngv.circuit.files import find_base_connectome, read_branches, read_synapse_positions
from nipype_blm.ngv.circuit.morphologies import Segments
from nipype_blm.ngv.circuit.parts import PERIVASCULAR, Circuit
from nipype_blm.ngv.layout import Layout
from nipype_blm.report.charts.asked import say
from nipype_blm.report.charts.panels import (
    DOMAIN,
    ENDFOOT,
    PERISYNAPTIC_BRANCH,
    PERIVASCULAR_BRANCH,
    SOMA,
    SYNAPSE,
    VESSEL,
    limit,
    prepare,
    tell_count,
)
from nipype_blm.report.charts.scenes import Scene, View, draw_scale, find_hull, look_at_widest

_LEAST_RADIUS = 0.3  # um of a branch, which would not be seen else
_NEAR = 14.0  # um from endfeet, in which vessels are drawn beside one astrocyte


def draw_astrocyte(
    axis: Any,
    circuit: Circuit,
    layout: Layout,
    manifest: Mapping[str, Any] | None,
    chosen: int | None,
) -> None:
    """Draw one astrocyte with its microdomain, endfeet and synapses."""
    prepare(axis, "c", "one astrocyte")
    if circuit.somata is None or chosen is None:
        return say(axis, "no astrocytes yet")
    name, middle = circuit.somata.names[chosen], circuit.somata.positions[chosen]
    radius = circuit.somata.radii[chosen]
    branches = read_branches(layout, circuit.somata, chosen)
    synapses = _find_synapses(circuit, layout, manifest, chosen)
    surfaces, targets = _find_endfeet(circuit, chosen)
    clouds = [middle + radius * np.vstack([np.eye(3), -np.eye(3)]), targets]
    if branches is not None:
        clouds += [branches.capsules.starts, branches.capsules.ends]
    if circuit.microdomains is not None:
        clouds.append(circuit.microdomains.meshes.find_points(chosen))
    points = np.concatenate([*clouds, *(each.reshape(-1, 3) for each in surfaces)])
    view = look_at_widest(np.concatenate(clouds))
    _draw_outline(axis, circuit, view, chosen)
    if circuit.vessels is not None:
        behind = Scene(view)  # else they would hide their endfeet
        behind.add_tubes(*circuit.vessels.take(_are_near(circuit.vessels, targets)), VESSEL)
        behind.draw(axis, fog=0.3)
    scene = Scene(view)
    for each in surfaces:
        scene.add_triangles(each, ENDFOOT)
    if not surfaces:
        scene.add_balls(targets, np.full(len(targets), 1.5), ENDFOOT)
    scene.add_balls(middle[None], np.array([radius]), SOMA)
    scene.add_balls(synapses, np.full(len(synapses), 0.55), SYNAPSE)
    if branches is not None:
        _add_branches(scene, branches)
    scene.draw(axis, fog=0.3)
    limit(axis, view.flatten(points))
    counts = [
        "no endfeet yet" if circuit.endfeet is None else tell_count(len(targets), "endfoot"),
        _count_synapses(circuit, chosen, is_drawn=len(synapses) > 0),
        *(["no branches yet"] if branches is None else []),
    ]
    axis.set_title(name)
    axis.text(0.0, 0.99, "\n".join(counts), va="top", transform=axis.transAxes, zorder=9)
    draw_scale(axis)
    return None


def _count_synapses(circuit: Circuit, chosen: int, is_drawn: bool) -> str:
    if circuit.synapses is None:
        return "no synapses yet"
    n = int((circuit.synapses.astrocytes == chosen).sum())
    return tell_count(n, "synapse") + (", places unknown" if n and not is_drawn else "")


def _find_synapses(
    circuit: Circuit, layout: Layout, manifest: Mapping[str, Any] | None, chosen: int
) -> FloatArray:
    """Return where the synapses of an astrocyte are, or else where it is nearest to them."""
    if circuit.synapses is None:
        return np.zeros((0, 3))
    own = circuit.synapses.astrocytes == chosen
    base = find_base_connectome(layout, manifest)
    found = None
    if base is not None:
        population = circuit.synapses.neuron_population
        found = read_synapse_positions(base, circuit.synapses.ids[own], population)
    if found is None and circuit.synapses.nearest is not None:
        found = circuit.synapses.nearest[own]
    return np.zeros((0, 3)) if found is None else found


def _find_endfeet(circuit: Circuit, chosen: int) -> tuple[list[FloatArray], FloatArray]:
    """Return the triangles of each endfoot of an astrocyte, and where on vessels these begin."""
    if circuit.endfeet is None:
        return [], np.zeros((0, 3))
    own = circuit.endfeet.astrocytes == chosen
    surfaces = []
    if circuit.endfeet_meshes is not None:
        meshes = circuit.endfeet_meshes.meshes
        surfaces = [meshes.find_corners(int(i)) for i in circuit.endfeet.ids[own]]
    return surfaces, circuit.endfeet.targets[own]


def _are_near(vessels: Capsules, targets: FloatArray) -> NDArray[np.bool_]:
    """Return which segments are near to any endfoot."""
    near = np.zeros(len(vessels.starts), bool)
    for target in targets:
        along = find_nearest(np.broadcast_to(target, vessels.starts.shape), vessels)
        near |= np.linalg.norm(vessels.find_points(along) - target, axis=1) <= _NEAR
    return near


def _add_branches(scene: Scene, branches: Segments) -> None:
    is_perivascular = branches.types == PERIVASCULAR
    for chosen, colour in (
        (is_perivascular, PERIVASCULAR_BRANCH),
        (~is_perivascular, PERISYNAPTIC_BRANCH),
    ):
        starts, ends, radii = branches.capsules.take(chosen)
        scene.add_tubes(starts, ends, np.maximum(radii, _LEAST_RADIUS), colour)


def _draw_outline(axis: Any, circuit: Circuit, view: View, chosen: int) -> None:
    """Draw the microdomain of an astrocyte as it is seen from afar."""
    from matplotlib.patches import Polygon

    if circuit.microdomains is None:
        return
    hull = find_hull(view.flatten(circuit.microdomains.meshes.find_points(chosen)))
    if hull is not None:
        style: dict[str, Any] = {"facecolor": "#EEF7F3", "edgecolor": DOMAIN, "linewidth": 1.5}
        axis.add_patch(Polygon(hull, **style, zorder=0))
