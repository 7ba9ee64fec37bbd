"""See whether vessels are in the region, and whether their surface is that of their skeleton."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype_blm.errors import count, join_some
from nipype_blm.ngv.checks.findings import Findings, show_box

_LEAST_DIAMETER_UM, _MOST_DIAMETER_UM = 1.0, 200.0
_FORM = (
    "the data sets points (n, 4) of x, y, z and diameter in um, structure (m, 2) of first point "
    "and type of each section, and connectivity (k, 2) of sections, as MorphIO has them"
)
# Shares of samples.  Those of ArchNGV's test data are above 0.96, also with a coarse mesh;
# moved by 2 um, 0.88 of its vertices are on vessels, and by 5 um 0.75.
_COVERED, _GOOD = 0.9, 0.95
_LEAST_COVERED, _LEAST_ON_SKELETON = 0.02, 0.8


def check_vasculature(path: Path, atlas: Any, facts: Mapping[str, Any], findings: Findings) -> bool:
    """Say whether a skeleton can be used."""
    where = f"common.vasculature: {path}"
    if findings.refuse_unread(where, facts, f"a file of HDF5 with {_FORM}"):
        return False
    before = len(findings.problems)
    _check_form(where, facts, findings)
    if len(findings.problems) > before:
        return False
    _check_values(where, facts, findings)
    if len(findings.problems) > before:
        return False
    if "length_in_box" in facts and not facts["length_in_box"]:
        findings.refuse(
            f"{where} has no vessel in the region: vessels are at {show_box(facts['box'])}, and "
            f"the region is at {show_box(atlas['box'])}; both have to be in um, in one space."
        )
    return len(findings.problems) == before


def _check_form(where: str, facts: Mapping[str, Any], findings: Findings) -> None:
    if "n_points" not in facts:
        shapes = [f"{name} {tuple(shape)}" for name, shape in facts["shapes"].items()]
        what = join_some(shapes or facts["groups"], 5) or "nothing"
        hint = ""
        if "nodes" in facts["groups"]:
            hint = "  `vascpy sonata-to-morphology IN OUT` makes one of a file of SONATA."
        findings.refuse(f"{where} has {what}; expected {_FORM}.{hint}")
        return
    n_sections, n_points = facts["n_sections"], facts["n_points"]
    first, last = facts["starts"]
    if first < 0 or last >= n_points or not facts["is_in_order"]:
        findings.refuse(
            f"{where} has sections that start at points {first} to {last}, of {n_points}; expected "
            "numbers that rise, from 0, in the first column of structure."
        )
    low, high = facts.get("connected", (0, 0))
    if low < 0 or high >= n_sections:
        findings.refuse(
            f"{where} connects sections {low} to {high}, and has {n_sections}, from 0; correct "
            "connectivity."
        )


def _check_values(where: str, facts: Mapping[str, Any], findings: Findings) -> None:
    if facts["n_nan"]:
        n = count(facts["n_nan"], "point")
        findings.refuse(f"{where} has {n} with NaN or infinity; correct or drop these.")
    elif facts["n_thin"]:
        n = count(facts["n_thin"], "point")
        findings.refuse(f"{where} has {n} with a diameter of 0 or less; correct or drop these.")
    elif not _LEAST_DIAMETER_UM <= facts["diameter"] <= _MOST_DIAMETER_UM:
        findings.refuse(
            f"{where} has diameters of {facts['diameter']:.3g} (median); expected um, between "
            f"{_LEAST_DIAMETER_UM:g} and {_MOST_DIAMETER_UM:g}.  Cells could not be placed between "
            "vessels of another size."
        )
    if facts["n_short"]:
        n = count(facts["n_short"], "segment")
        findings.notice(
            f"{where} has {n} without length, which get no endfeet; drop double points."
        )


def check_mesh(path: Path, facts: Mapping[str, Any], findings: Findings) -> None:
    """Check a surface, and how it lies on the skeleton."""
    where = f"common.vasculature_mesh: {path}"
    if findings.refuse_unread(where, facts, "a mesh of triangles, as .obj, .stl or .ply"):
        return
    if "n_faces" not in facts:
        findings.notice(
            f"{where} is large ({facts['size'] / 1e9:.1f} GB) and no .obj, and is not compared "
            "with the skeleton beforehand."
        )
        return
    n_vertices, n_faces = facts["n_vertices"], facts["n_faces"]
    if facts["n_nan"]:
        n = "1 vertex" if facts["n_nan"] == 1 else f"{facts['n_nan']} vertices"
        findings.refuse(f"{where} has {n} with NaN, with which OpenMesh reads no triangle.")
    elif not n_vertices or not n_faces:
        findings.refuse(
            f"{where} has {n_vertices} vertices and {count(n_faces, 'triangle')}; expected the "
            "surface of the vessels, as lines `v x y z` and `f i j k` of an .obj."
        )
    elif facts.get("n_lost"):
        findings.refuse(
            f"{where} has {count(facts['n_lost'], 'triangle')} with numbers of vertices that it "
            f"has not (of {n_vertices}), with which OpenMesh reads none."
        )
    else:
        if facts.get("n_complex"):
            findings.notice(
                f"{where} has {facts['n_complex']} edges with more than one triangle on a side "
                '("complex edge"): OpenMesh tears the surface there, and endfeet end there.'
            )
        if "match" in facts and not findings.refuse_unread(where, facts["match"], "a mesh"):
            _check_match(where, facts, findings)


def _check_match(where: str, facts: Mapping[str, Any], findings: Findings) -> None:
    match = facts["match"]
    on_skeleton = match["on_skeleton"] or 0.0
    covered = match.get("covered", 1.0)  # of a part of a mesh it is not known
    fit = max(match.get("fits") or [{}], key=_rate)
    is_better = _rate(fit) > max(_GOOD, min(covered, on_skeleton) + 0.05)
    if on_skeleton >= _LEAST_ON_SKELETON and covered >= _LEAST_COVERED and not is_better:
        if on_skeleton < _GOOD:
            findings.notice(
                f"{where} has {1 - on_skeleton:.0%} of its vertices out of the vessels of "
                "common.vasculature, by more than a quarter of their radius and 1 um; is it the "
                "mesh of this skeleton?"
            )
        if covered < _COVERED:
            findings.notice(
                f"{where} covers {covered:.0%} of the vessels in the region: endfeet on the others "
                "take the nearest place of the mesh, however far that is."
            )
        return
    distance = f", median; it is {match['distance']:.3g} um away" if "distance" in match else ""
    findings.refuse(
        f"{where} is not the surface of common.vasculature: {covered:.0%} of that has the mesh at "
        f"its radius ({match['radius']:.3g} um{distance}), {on_skeleton:.0%} of the vertices there "
        f"are on vessels, and the mesh is at {show_box(facts['box'])}.  {_describe(fit)}"
    )


def _rate(fit: Mapping[str, Any]) -> float:
    return min(fit.get("covered", 0.0), fit.get("on_skeleton") or 0.0)


def _describe(fit: Mapping[str, Any]) -> str:
    if _rate(fit) < _LEAST_ON_SKELETON:
        return (
            "No other units and no shift were found that make it fit; give the mesh of this "
            "skeleton."
        )
    if "factor" in fit:
        return f"With its coordinates times {fit['factor']:g}, it fits: write it in um."
    shift = ", ".join(f"{value:.1f}" for value in fit["shift"])
    return f"Moved by about ({shift}) um, it fits: write both in one space."
