"""Vessels and astrocytes of a circuit, seen from outside and in a cut through microdomains."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.ngv.circuit.capsules import Capsules
from nipype_blm.ngv.circuit.parts import Circuit, measure_lengths
from nipype_blm.report.charts.asked import FAINT, say
from nipype_blm.report.charts.panels import DOMAIN, ENDFOOT, RING, SOMA, VESSEL, limit, prepare
from nipype_blm.report.charts.scenes import (
    Scene,
    colour_neighbours,
    cut_triangles,
    draw_scale,
    find_hull,
    look_along,
    look_aslant,
)

_CUT_VESSEL = "#9C948D"
# Pale, so that what lies upon them is seen.
_DOMAINS = ("#CFE3F1", "#FBE3CF", "#CDEBDF", "#F3DDEA", "#FBF0CC", "#E0E0EC")
# What can still be told apart: of more astrocytes, those of a slab are drawn.
_MOST_ASTROCYTES, _MOST_WIDTH = 120, 400.0  # um
_LEAST_DEPTH = 20.0  # um of a slab
# Of the picture under vessels: where there are more of them they are drawn thinner.
_MOST_COVERED, _THINNEST = 0.9, 0.25


class Frame(NamedTuple):
    """The part of a circuit that is drawn of all."""

    low: FloatArray  # (3,)
    high: FloatArray  # (3,)
    axis: int  # along which it is seen, or cut
    is_cut: bool  # there is more of the circuit

    def has(self, points: FloatArray, margin: float = 0.0) -> NDArray[np.bool_]:
        """Return which points, (n, 3), are within."""
        within = (points >= self.low - margin) & (points <= self.high + margin)
        return np.asarray(within.all(axis=1))


def choose_frame(circuit: Circuit, chosen: int | None) -> Frame:
    """Return all of a circuit, or a slab around one astrocyte that has not too many others."""
    clouds = []
    if circuit.somata is not None and circuit.somata.names:
        clouds.append(circuit.somata.positions)
    if circuit.vessels is not None:
        clouds += [circuit.vessels.starts, circuit.vessels.ends]
    if circuit.microdomains is not None:
        clouds.append(circuit.microdomains.meshes.points)
    points = np.concatenate(clouds) if clouds else np.zeros((0, 3))
    if not len(points):
        raise InputError("The circuit has neither vessels nor astrocytes to be drawn.")
    low, high = points.min(axis=0), points.max(axis=0)
    axis = 2 - int(np.argmin((high - low)[::-1].round(1)))  # z, where several are alike
    positions = np.zeros((0, 3)) if circuit.somata is None else circuit.somata.positions
    if len(positions) <= _MOST_ASTROCYTES and (high - low <= _MOST_WIDTH).all():
        return Frame(low, high, axis, False)
    middle = (low + high) / 2 if chosen is None else positions[chosen].copy()
    half = np.minimum((high - low) / 2, _MOST_WIDTH / 2)
    across = [i for i in range(3) if i != axis]
    middle[across] = np.clip(middle, low + half, high - half)[across]
    beside = (np.abs(positions - middle)[:, across] <= half[across]).all(axis=1)
    distances = np.sort(np.abs(positions[beside, axis] - middle[axis]))
    if len(distances) > _MOST_ASTROCYTES:
        half[axis] = max(distances[_MOST_ASTROCYTES], _LEAST_DEPTH / 2)
    return Frame(np.maximum(middle - half, low), np.minimum(middle + half, high), axis, True)


def draw_space(axis: Any, circuit: Circuit, frame: Frame, chosen: int | None) -> None:
    """Draw vessels, somata and endfeet."""
    view = look_along(frame.axis) if frame.is_cut else look_aslant()
    depth = frame.high[frame.axis] - frame.low[frame.axis]
    title = "vessels, somata and endfeet"
    prepare(axis, "a", f"{title}, {depth:.0f} µm deep" if frame.is_cut else title)
    scene = Scene(view)
    vessels, somata, meshes = circuit.vessels, circuit.somata, circuit.endfeet_meshes
    if vessels is not None:
        shown = vessels.take(frame.has(_find_middles(vessels)))
        share = _choose_width(shown, frame)
        scene.add_tubes(shown.starts, shown.ends, share * shown.radii, VESSEL)
        if share < 1:
            _note(axis, f"vessels at {100 * share:.0f} % of their width")
    if somata is not None:
        inside = frame.has(somata.positions)
        scene.add_balls(somata.positions[inside], somata.radii[inside], SOMA)
    if meshes is not None and circuit.endfeet is not None:
        reached = circuit.endfeet.ids[frame.has(circuit.endfeet.targets)]
        for i in reached:
            scene.add_triangles(meshes.meshes.find_corners(int(i)), ENDFOOT)
    elif circuit.endfeet is not None:
        targets = circuit.endfeet.targets[frame.has(circuit.endfeet.targets)]
        scene.add_balls(targets, np.full(len(targets), 1.5), ENDFOOT)
    box = _list_edges(frame)
    if not frame.is_cut:
        _draw_lines(axis, view.flatten(box), color="#BBBBBB", linewidth=0.8, zorder=0)
    scene.draw(axis)
    limit(axis, view.flatten(box.reshape(-1, 3)))
    if somata is not None and chosen is not None:
        _ring(axis, view.flatten(somata.positions[chosen]), somata.radii[chosen])
    draw_scale(axis)


def _choose_width(vessels: Capsules, frame: Frame) -> float:
    """Return the share of their width at which vessels do not hide everything else."""
    area = np.prod(np.delete(frame.high - frame.low, frame.axis))
    covered = (vessels.radii.sum(axis=1) * measure_lengths(vessels)).sum()
    if covered <= _MOST_COVERED * area:
        return 1.0
    return float(max(_MOST_COVERED * area / covered, _THINNEST))


def _note(axis: Any, text: str) -> None:
    """Say something at the lower left of a panel."""
    style = {"color": FAINT, "fontsize": 11, "transform": axis.transAxes}
    axis.text(0.01, 0.02, text, **style)


def _ring(axis: Any, at: FloatArray, radius: float) -> None:
    """Mark the astrocyte that is drawn in detail."""
    from matplotlib.patches import Circle

    axis.add_patch(Circle(tuple(at), radius + 2.5, fill=False, color=RING, linewidth=1.6, zorder=8))


def _list_edges(frame: Frame) -> FloatArray:
    """Return the twelve edges of a box, (12, 2, 3)."""
    ends = np.array([frame.low, frame.high])
    edges = []
    for along in range(3):
        others = [i for i in range(3) if i != along]
        for j in (0, 1):
            for k in (0, 1):
                edge = np.zeros((2, 3))
                edge[:, along] = ends[:, along]
                edge[:, others[0]], edge[:, others[1]] = ends[j, others[0]], ends[k, others[1]]
                edges.append(edge)
    return np.array(edges)


def draw_domains(axis: Any, circuit: Circuit, frame: Frame, chosen: int | None) -> None:
    """Draw a cut through microdomains, and through all that is there."""
    prepare(axis, "b", "microdomains, cut")
    domains, somata = circuit.microdomains, circuit.somata
    if domains is None or somata is None or chosen is None:
        return say(axis, "no microdomains yet")
    at = float(somata.positions[chosen, frame.axis])
    name = "xyz"[frame.axis]
    axis.set_title(f"microdomains, cut at {name} = {at:.0f} µm")
    others = [i for i in range(3) if i != frame.axis]
    colours = colour_neighbours(domains.neighbours, len(_DOMAINS))
    beside = _are_beside(somata.positions, frame)
    for i in np.flatnonzero(beside):
        lines = cut_triangles(domains.meshes.find_corners(int(i)), frame.axis, at)
        hull = find_hull(lines.reshape(-1, 2))
        if hull is not None:
            _fill(axis, hull, _DOMAINS[colours[i]], i == chosen)
    _cut_vessels(axis, circuit, frame, at, others)
    reach = somata.radii**2 - (somata.positions[:, frame.axis] - at) ** 2
    for i in np.flatnonzero((reach > 0) & beside):
        _disc(axis, somata.positions[i, others], reach[i] ** 0.5, SOMA)
    corners = np.array([frame.low[others], frame.high[others]])
    limit(axis, corners)
    draw_scale(axis)
    return None


def _are_beside(points: FloatArray, frame: Frame, margin: float = 60.0) -> NDArray[np.bool_]:
    """Return which points, however deep, are in the frame or not far beside it."""
    within = (points >= frame.low - margin) & (points <= frame.high + margin)
    return np.asarray(np.delete(within, frame.axis, axis=1).all(axis=1))


def _fill(axis: Any, hull: FloatArray, colour: str, is_chosen: bool) -> None:
    from matplotlib.patches import Polygon

    edge, width = (DOMAIN, 2.5) if is_chosen else (FAINT, 0.9)
    axis.add_patch(Polygon(hull, facecolor=colour, alpha=0.75, edgecolor="none", zorder=1))
    axis.add_patch(Polygon(hull, fill=False, edgecolor=edge, linewidth=width, zorder=2 + is_chosen))


def _disc(axis: Any, at: FloatArray, radius: float, colour: str) -> None:
    from matplotlib.patches import Circle

    axis.add_patch(Circle(tuple(at), radius, color=colour, linewidth=0, zorder=5))


def _cut_vessels(axis: Any, circuit: Circuit, frame: Frame, at: float, others: list[int]) -> None:
    """Draw vessels where they cross a plane, and endfeet around them."""
    vessels, meshes = circuit.vessels, circuit.endfeet_meshes
    if vessels is not None:
        shown = vessels.take(_are_beside(_find_middles(vessels), frame))
        a, b = shown.starts[:, frame.axis] - at, shown.ends[:, frame.axis] - at
        crossed = (a > 0) != (b > 0)
        share = a[crossed] / (a - b)[crossed]
        points = shown.take(crossed).find_points(share)[:, others]
        radii = shown.take(crossed).find_radii(share)
        for point, radius in zip(points, radii, strict=True):
            _disc(axis, point, radius, _CUT_VESSEL)
    if meshes is None or circuit.endfeet is None:
        return
    reached = circuit.endfeet.ids[_are_beside(circuit.endfeet.targets, frame)]
    lines = [cut_triangles(meshes.meshes.find_corners(int(i)), frame.axis, at) for i in reached]
    if lines:
        style = {"color": ENDFOOT, "linewidth": 3, "capstyle": "round", "zorder": 6}
        _draw_lines(axis, np.concatenate(lines), **style)


def _find_middles(segments: Capsules) -> FloatArray:
    return (segments.starts + segments.ends) / 2


def _draw_lines(axis: Any, lines: FloatArray, **style: Any) -> None:
    from matplotlib.collections import LineCollection

    axis.add_collection(LineCollection(list(lines), **style))
