"""A picture of a circuit: vessels and endfeet, microdomains, one astrocyte, and what was asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.errors import InputError, join_some, show
from nipype_blm.io.files import replacing
from nipype_blm.ngv.circuit.files import find_morphology, read_circuit
from nipype_blm.ngv.circuit.parts import Circuit
from nipype_blm.ngv.circuit.targets import read_distribution
from nipype_blm.ngv.layout import Layout
from nipype_blm.report.charts.asked import draw_numbers, draw_values
from nipype_blm.report.charts.astrocyte import draw_astrocyte
from nipype_blm.report.charts.drawing import own_style
from nipype_blm.report.charts.panels import (
    DOMAIN,
    ENDFOOT,
    PERISYNAPTIC_BRANCH,
    PERIVASCULAR_BRANCH,
    RING,
    SOMA,
    SYNAPSE,
    VESSEL,
    tell_count,
)
from nipype_blm.report.charts.tissue import choose_frame, draw_domains, draw_space

_WIDTH, _HEIGHT, _DPI = 16.0, 9.0, 150  # inches: that of a slide
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
    frame = choose_frame(circuit, chosen)
    with own_style(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(3, 1, height_ratios=(6.1, 0.5, 2.4))
        upper, middle, lower = parts
        a, b, c = upper.subplots(1, 3)
        draw_space(a, circuit, frame, chosen)
        draw_domains(b, circuit, frame, chosen)
        draw_astrocyte(c, circuit, layout, manifest, chosen)
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
    parts = [tell_count(n, what) for n, what in counts if n is not None]
    return ", ".join(parts)


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

    ring = Line2D([], [], color=RING, label="the astrocyte of c", linestyle="none")
    ring.set(marker="o", markersize=12, markerfacecolor="none", markeredgewidth=1.6)
    handles = [
        line(VESSEL, "vessel", 8),
        line(ENDFOOT, "endfoot", 8),
        dot(SOMA, "soma"),
        ring,
        line(PERIVASCULAR_BRANCH, "perivascular branch", 4),
        line(PERISYNAPTIC_BRANCH, "perisynaptic branch", 4),
        dot(SYNAPSE, "synapse", 8),
        line(DOMAIN, "microdomain", 1.5),
    ]
    figure.legend(handles=handles, loc="center", ncols=len(handles), frameon=False)


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
