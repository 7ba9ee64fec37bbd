"""A picture of a circuit: vessels and endfeet, microdomains, one astrocyte, and what was asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError, join_some, show
from nipype_blm.io.files import replacing
from nipype_blm.ngv.circuit.capsules import Capsules, find_nearest
from nipype_blm.ngv.circuit.files import (
    find_base_connectome,
    find_morphology,
    read_branches,
    read_circuit,
    read_synapse_positions,
)
from nipype_blm.ngv.circuit.morphologies import Segments
from nipype_blm.ngv.circuit.parts import PERIVASCULAR, Circuit, measure_lengths
from nipype_blm.ngv.circuit.targets import read_distribution
from nipype_blm.ngv.layout import Layout
from nipype_blm.report.charts.asked import FAINT, draw_numbers, draw_values, say
from nipype_blm.report.charts.drawing import COLOURS, own_style
from nipype_blm.report.charts.scenes import (
    Scene,
    View,
    colour_neighbours,
    cut_triangles,
    draw_scale,
    find_hull,
    look_along,
    look_aslant,
    look_at_widest,
)

_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY = COLOURS
_VESSEL, _CUT_VESSEL, _INK = "#B9B2AC", "#9C948D", "#222222"
_SOMA, _ENDFOOT, _PERIVASCULAR, _PERISYNAPTIC = _BLUE, _VERMILION, _ORANGE, _SKY
_SYNAPSE, _DOMAIN = _PURPLE, _GREEN
# Pale, so that what lies upon them is seen.
_DOMAINS = ("#CFE3F1", "#FBE3CF", "#CDEBDF", "#F3DDEA", "#FBF0CC", "#E0E0EC")
_WIDTH, _HEIGHT, _DPI = 16.0, 9.0, 150  # inches: that of a slide
_PLURALS = {"endfoot": "endfeet", "segment of vessels": "segments of vessels"}
_SUFFIXES = (".png", ".svg", ".pdf")
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names may have a dollar
    "svg.fonttype": "none",  # letters, which slides can edit
    "svg.hashsalt": "nipype_blm",
}
# What can still be told apart: of more astrocytes, those of a slab are drawn.
_MOST_ASTROCYTES, _MOST_WIDTH = 120, 400.0  # um
_LEAST_DEPTH, _LEAST_WIDTH = 20.0, 20.0  # um of a slab, and of a panel
_MARGIN, _BELOW = 0.03, 0.09  # of a panel's width: around what is drawn, and below for a scale
# Of the picture under vessels: where there are more of them they are drawn thinner.
_MOST_COVERED, _THINNEST = 0.9, 0.25
_LEAST_RADIUS = 0.3  # um of a branch, which would not be seen else
_NEAR = 14.0  # um from endfeet, in which vessels are drawn beside one astrocyte


def draw_circuit(
    layout: Layout,
    out_file: Path,
    manifest: Mapping[str, Any] | None = None,
    astrocyte: str = "",
    title: str = "",
) -> Path:
    """Draw what is there of a circuit.

    Parameters
    ----------
    layout : Layout
        Of the circuit.
    out_file : Path
        Ends in .png, .svg or .pdf.
    manifest : mapping, optional
        The content of ``MANIFEST.yaml``: targets, and where the circuit of neurons is, without
        which synapses are drawn where the astrocyte is nearest to them.
    astrocyte : str, optional
        The name of the morphology of the one that is drawn in detail; by default it is the one
        with most endfeet and, of these, most synapses.
    title : str, optional

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    InputError
        If there is no such astrocyte, nothing to draw, or a file is damaged.
    """
    from matplotlib.figure import Figure

    if out_file.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{out_file} is no picture; expected a name in {', '.join(_SUFFIXES)}.")
    circuit = read_circuit(layout)
    if circuit.somata is None and circuit.vessels is None:
        raise InputError(
            f"{layout.build} has neither vessels nor astrocytes to be drawn; run the first stages."
        )
    chosen = _choose_astrocyte(circuit, layout, astrocyte)
    frame = _choose_frame(circuit, chosen)
    with own_style(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(3, 1, height_ratios=(6.1, 0.5, 2.4))
        upper, middle, lower = parts
        a, b, c = upper.subplots(1, 3)
        _draw_space(a, circuit, frame, chosen)
        _draw_domains(b, circuit, frame, chosen)
        _draw_astrocyte(c, circuit, layout, manifest, chosen)
        _draw_legend(middle)
        _draw_histograms(lower, circuit, manifest)
        figure.suptitle(
            title or _describe(circuit), x=0.012, ha="left", fontsize=17, fontweight="bold"
        )
        kind = out_file.suffix.lower()[1:]
        # Without the time and the version: the same circuit gives the same file.
        names = {"png": ("Software",), "svg": ("Date", "Creator")}
        unnamed = names.get(kind, ("CreationDate", "Creator", "Producer"))
        out_file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out_file) as file:
            figure.savefig(file, format=kind, dpi=_DPI, metadata=dict.fromkeys(unnamed))
    return out_file


def _describe(circuit: Circuit) -> str:
    counts = (
        (circuit.somata and len(circuit.somata.names), "astrocyte"),
        (circuit.endfeet and len(circuit.endfeet.ids), "endfoot"),
        (circuit.synapses and len(circuit.synapses.ids), "synapse"),
        (circuit.vessels and len(circuit.vessels.starts), "segment of vessels"),
    )
    parts = [_count(n, what) for n, what in counts if n is not None]
    return ", ".join(parts)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what if n == 1 else _PLURALS.get(what, f'{what}s')}"


# ------------------------------------------------------------------------------- what is shown


def _choose_astrocyte(circuit: Circuit, layout: Layout, name: str) -> int | None:
    """Return the astrocyte of that name, or else one that there is most of."""
    if circuit.somata is None:
        if name:
            raise InputError(f"Astrocyte {show(name)} cannot be drawn: none have been placed.")
        return None
    names = circuit.somata.names
    if name:
        if name not in names:
            raise InputError(
                f"There is no astrocyte {show(name)}; there are {join_some(names, 5)}."
            )
        return names.index(name)
    if not names:
        return None
    n = len(names)
    none = np.zeros(0, np.int64)
    endfeet = np.bincount(none if circuit.endfeet is None else circuit.endfeet.astrocytes, None, n)
    synapses = np.bincount(
        none if circuit.synapses is None else circuit.synapses.astrocytes, None, n
    )
    order = np.lexsort((-synapses, -endfeet))
    grown = (i for i in order if find_morphology(layout, names[i]).is_file())
    return int(next(grown, order[0]))


class _Frame(NamedTuple):
    """The part of a circuit that is drawn of all."""

    low: FloatArray  # (3,)
    high: FloatArray  # (3,)
    axis: int  # along which it is seen, or cut
    is_cut: bool  # there is more of the circuit

    def has(self, points: FloatArray, margin: float = 0.0) -> NDArray[np.bool_]:
        """Return which points, (n, 3), are within."""
        within = (points >= self.low - margin) & (points <= self.high + margin)
        return np.asarray(within.all(axis=1))


def _choose_frame(circuit: Circuit, chosen: int | None) -> _Frame:
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
        return _Frame(low, high, axis, False)
    middle = (low + high) / 2 if chosen is None else positions[chosen].copy()
    half = np.minimum((high - low) / 2, _MOST_WIDTH / 2)
    across = [i for i in range(3) if i != axis]
    middle[across] = np.clip(middle, low + half, high - half)[across]
    beside = (np.abs(positions - middle)[:, across] <= half[across]).all(axis=1)
    distances = np.sort(np.abs(positions[beside, axis] - middle[axis]))
    if len(distances) > _MOST_ASTROCYTES:
        half[axis] = max(distances[_MOST_ASTROCYTES], _LEAST_DEPTH / 2)
    return _Frame(np.maximum(middle - half, low), np.minimum(middle + half, high), axis, True)


def _prepare(axis: Any, letter: str, text: str) -> None:
    axis.set_title(letter, loc="left", fontweight="bold")
    axis.set_title(text, loc="center")
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _limit(axis: Any, points: FloatArray) -> None:
    """Show a square that has all points, (n, 2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    width = max((high - low).max(), _LEAST_WIDTH)
    middle, half = (low + high) / 2, width * (0.5 + _MARGIN)
    axis.set_xlim(middle[0] - half, middle[0] + half)
    axis.set_ylim(middle[1] - half - _BELOW * width, middle[1] + half)


def _find_middles(segments: Capsules) -> FloatArray:
    return (segments.starts + segments.ends) / 2


# -------------------------------------------------------------------------------------- panels


def _draw_space(axis: Any, circuit: Circuit, frame: _Frame, chosen: int | None) -> None:
    """Draw vessels, somata and endfeet."""
    view = look_along(frame.axis) if frame.is_cut else look_aslant()
    depth = frame.high[frame.axis] - frame.low[frame.axis]
    title = "vessels, somata and endfeet"
    _prepare(axis, "a", f"{title}, {depth:.0f} µm deep" if frame.is_cut else title)
    scene = Scene(view)
    vessels, somata, meshes = circuit.vessels, circuit.somata, circuit.endfeet_meshes
    if vessels is not None:
        shown = vessels.take(frame.has(_find_middles(vessels)))
        share = _choose_width(shown, frame)
        scene.add_tubes(shown.starts, shown.ends, share * shown.radii, _VESSEL)
        if share < 1:
            _note(axis, f"vessels at {100 * share:.0f} % of their width")
    if somata is not None:
        inside = frame.has(somata.positions)
        scene.add_balls(somata.positions[inside], somata.radii[inside], _SOMA)
    if meshes is not None and circuit.endfeet is not None:
        reached = circuit.endfeet.ids[frame.has(circuit.endfeet.targets)]
        for i in reached:
            scene.add_triangles(meshes.meshes.find_corners(int(i)), _ENDFOOT)
    elif circuit.endfeet is not None:
        targets = circuit.endfeet.targets[frame.has(circuit.endfeet.targets)]
        scene.add_balls(targets, np.full(len(targets), 1.5), _ENDFOOT)
    box = _list_edges(frame)
    if not frame.is_cut:
        _draw_lines(axis, view.flatten(box), color="#BBBBBB", linewidth=0.8, zorder=0)
    scene.draw(axis)
    _limit(axis, view.flatten(box.reshape(-1, 3)))
    if somata is not None and chosen is not None:
        _ring(axis, view.flatten(somata.positions[chosen]), somata.radii[chosen])
    draw_scale(axis)


def _choose_width(vessels: Capsules, frame: _Frame) -> float:
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

    axis.add_patch(Circle(tuple(at), radius + 2.5, fill=False, color=_INK, linewidth=1.6, zorder=8))


def _list_edges(frame: _Frame) -> FloatArray:
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


def _draw_lines(axis: Any, lines: FloatArray, **style: Any) -> None:
    from matplotlib.collections import LineCollection

    axis.add_collection(LineCollection(list(lines), **style))


def _draw_domains(axis: Any, circuit: Circuit, frame: _Frame, chosen: int | None) -> None:
    """Draw a cut through microdomains, and through all that is there."""
    _prepare(axis, "b", "microdomains, cut")
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
        _disc(axis, somata.positions[i, others], reach[i] ** 0.5, _SOMA)
    corners = np.array([frame.low[others], frame.high[others]])
    _limit(axis, corners)
    draw_scale(axis)
    return None


def _are_beside(points: FloatArray, frame: _Frame, margin: float = 60.0) -> NDArray[np.bool_]:
    """Return which points, however deep, are in the frame or not far beside it."""
    within = (points >= frame.low - margin) & (points <= frame.high + margin)
    return np.asarray(np.delete(within, frame.axis, axis=1).all(axis=1))


def _fill(axis: Any, hull: FloatArray, colour: str, is_chosen: bool) -> None:
    from matplotlib.patches import Polygon

    edge, width = (_DOMAIN, 2.5) if is_chosen else (FAINT, 0.9)
    axis.add_patch(Polygon(hull, facecolor=colour, alpha=0.75, edgecolor="none", zorder=1))
    axis.add_patch(Polygon(hull, fill=False, edgecolor=edge, linewidth=width, zorder=2 + is_chosen))


def _disc(axis: Any, at: FloatArray, radius: float, colour: str) -> None:
    from matplotlib.patches import Circle

    axis.add_patch(Circle(tuple(at), radius, color=colour, linewidth=0, zorder=5))


def _cut_vessels(axis: Any, circuit: Circuit, frame: _Frame, at: float, others: list[int]) -> None:
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
        style = {"color": _ENDFOOT, "linewidth": 3, "capstyle": "round", "zorder": 6}
        _draw_lines(axis, np.concatenate(lines), **style)


def _draw_astrocyte(
    axis: Any,
    circuit: Circuit,
    layout: Layout,
    manifest: Mapping[str, Any] | None,
    chosen: int | None,
) -> None:
    """Draw one astrocyte with its microdomain, endfeet and synapses."""
    _prepare(axis, "c", "one astrocyte")
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
        behind.add_tubes(*circuit.vessels.take(_are_near(circuit.vessels, targets)), _VESSEL)
        behind.draw(axis, fog=0.3)
    scene = Scene(view)
    for each in surfaces:
        scene.add_triangles(each, _ENDFOOT)
    if not surfaces:
        scene.add_balls(targets, np.full(len(targets), 1.5), _ENDFOOT)
    scene.add_balls(middle[None], np.array([radius]), _SOMA)
    scene.add_balls(synapses, np.full(len(synapses), 0.55), _SYNAPSE)
    if branches is not None:
        _add_branches(scene, branches)
    scene.draw(axis, fog=0.3)
    _limit(axis, view.flatten(points))
    counts = [
        "no endfeet yet" if circuit.endfeet is None else _count(len(targets), "endfoot"),
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
    return _count(n, "synapse") + (", places unknown" if n and not is_drawn else "")


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
    for chosen, colour in ((is_perivascular, _PERIVASCULAR), (~is_perivascular, _PERISYNAPTIC)):
        starts, ends, radii = branches.capsules.take(chosen)
        scene.add_tubes(starts, ends, np.maximum(radii, _LEAST_RADIUS), colour)


def _draw_outline(axis: Any, circuit: Circuit, view: View, chosen: int) -> None:
    """Draw the microdomain of an astrocyte as it is seen from afar."""
    from matplotlib.patches import Polygon

    if circuit.microdomains is None:
        return
    hull = find_hull(view.flatten(circuit.microdomains.meshes.find_points(chosen)))
    if hull is not None:
        style: dict[str, Any] = {"facecolor": "#EEF7F3", "edgecolor": _DOMAIN, "linewidth": 1.5}
        axis.add_patch(Polygon(hull, **style, zorder=0))


def _draw_legend(figure: Any) -> None:
    """Say what the colours are."""
    from matplotlib.lines import Line2D

    def dot(colour: str, label: str, size: float = 11) -> Any:
        style: dict[str, Any] = {
            "marker": "o",
            "markersize": size,
            "markeredgewidth": 0,
            "linestyle": "none",
        }
        return Line2D([], [], color=colour, label=label, **style)

    def line(colour: str, label: str, width: float) -> Any:
        return Line2D([], [], color=colour, label=label, linewidth=width)

    ring = Line2D([], [], color=_INK, label="the astrocyte of c", linestyle="none")
    ring.set(marker="o", markersize=12, markerfacecolor="none", markeredgewidth=1.6)
    handles = [
        line(_VESSEL, "vessel", 8),
        line(_ENDFOOT, "endfoot", 8),
        dot(_SOMA, "soma"),
        ring,
        line(_PERIVASCULAR, "perivascular branch", 4),
        line(_PERISYNAPTIC, "perisynaptic branch", 4),
        dot(_SYNAPSE, "synapse", 8),
        line(_DOMAIN, "microdomain", 1.5),
    ]
    figure.legend(handles=handles, loc="center", ncols=len(handles), frameon=False)


# ---------------------------------------------------------------------------------- histograms


def _draw_histograms(figure: Any, circuit: Circuit, manifest: Mapping[str, Any] | None) -> None:
    """Draw how values are spread, and how they were asked to be."""
    radius, endfeet, area, synapses = figure.subplots(1, 4)
    radius.set_title("d", loc="left", fontweight="bold")
    n = 0 if circuit.somata is None else len(circuit.somata.names)
    asked = read_distribution(manifest, ("cell_placement",), "soma_radius")
    values = None if circuit.somata is None else circuit.somata.radii
    draw_values(radius, values, "radius of a soma (µm)", asked, "somata")
    part = ("gliovascular_connectivity", "connection")
    asked = read_distribution(manifest, part, "endfeet_distribution")
    found = None if circuit.endfeet is None else circuit.endfeet.astrocytes
    draw_numbers(endfeet, found, n, asked)
    asked = read_distribution(manifest, ("endfeet_surface_meshes",), "area_distribution")
    meshes = circuit.endfeet_meshes
    areas = None if meshes is None else meshes.areas[meshes.meshes.sizes > 0]
    draw_values(area, areas, "area of an endfoot (µm²)", asked, "endfeet")
    counts = None
    if circuit.synapses is not None:
        counts = np.bincount(circuit.synapses.astrocytes, minlength=n).astype(float)
    draw_values(synapses, counts, "synapses of an astrocyte", None, "astrocytes")
