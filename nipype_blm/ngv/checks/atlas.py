"""See whether an atlas says where astrocytes are, and how many."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.errors import count, join_some, show
from nipype_blm.ngv.checks.findings import Box, Findings, show_box
from nipype_blm.ngv.recipe.region import Region

REGIONS, HIERARCHY = "brain_regions.nrrd", "hierarchy.json"
_LEAST_VOXEL_UM, _MOST_VOXEL_UM = 1.0, 500.0
# Of a mouse brain, all cells that are not neurons are some 4e7 (Herculano-Houzel et al. 2006).
_MOST_ASTROCYTES = 10**8
# For which files of nrrd need not say how many of their axes are of space.
_SPACES = {
    *("right-anterior-superior", "RAS", "left-anterior-superior", "LAS"),
    *("left-posterior-superior", "LPS", "posterior-inferior-right", "PIR"),
}
_LARGEST_EXACT = 2**24  # whole number, as a number of 32 bits with a fraction
_MOST_SHOWN = 5


class AtlasFiles(NamedTuple):
    """What is taken of an atlas."""

    folder: Path
    region: str | None
    density: str | None  # None if no cells are placed
    mask: str | None

    def find(self, name: str) -> Path:
        """Return a file of regions, density or mask."""
        return self.folder / {"regions": REGIONS}.get(name, f"{getattr(self, name, None)}.nrrd")

    @property
    def volumes(self) -> dict[str, str]:
        """The key that names each volume."""
        keys = {"regions": "common.atlas", "density": "cell_placement.density"}
        keys |= {"mask": "common.mask"}
        given = {"regions": True, "density": self.density, "mask": self.mask}
        return {name: key for name, key in keys.items() if given[name]}


def check_files(atlas: AtlasFiles, findings: Findings) -> bool:
    """Say whether the files of an atlas are there, and its hierarchy has a form that is read."""
    wanted = {key: atlas.find(name) for name, key in atlas.volumes.items()}
    if atlas.region is not None:
        wanted["common.atlas hierarchy"] = atlas.folder / HIERARCHY
    missing = {key: path for key, path in wanted.items() if not path.is_file()}
    for key, path in missing.items():
        there = sorted(p.name for p in atlas.folder.iterdir() if p.suffix in (".nrrd", ".json"))
        hint = ""
        if path.name == REGIONS:
            hint = f"; an annotation of regions, as annotation_25.nrrd, is called {REGIONS} here"
        elif path.name == HIERARCHY:
            hint = (
                f"; the tree of regions, as 1.json of the Allen atlas, is called {HIERARCHY} here"
            )
        findings.refuse(
            f"{key.split()[0]}: {path} is not there{hint}.  The folder has "
            f"{join_some(there, _MOST_SHOWN) or 'no .nrrd file'}."
        )
    if atlas.region is None and atlas.mask is not None:
        findings.refuse(
            "common.mask is given without common.region, for which ArchNGV places cells without "
            "the mask; give a region, too, as the acronym of the whole brain."
        )
    has_form = atlas.region is None or HIERARCHY in {path.name for path in missing.values()}
    return (has_form or _check_hierarchy(atlas.folder / HIERARCHY, findings)) and not missing


def _check_hierarchy(path: Path, findings: Findings) -> bool:
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as error:
        findings.refuse(f"common.atlas: {path} is no JSON ({error}).")
        return False
    if isinstance(tree, dict) and isinstance(tree.get("msg"), list):
        if len(tree["msg"]) != 1:
            what = f"has {count(len(tree['msg']), 'entry').replace('entrys', 'entries')} in msg"
            findings.refuse(f"common.atlas: {path} {what}; expected one, the root of all regions.")
            return False
        (tree,) = tree["msg"]
    if not isinstance(tree, dict):
        findings.refuse(
            f"common.atlas: {path} is a list, not a tree; expected one region with id, acronym and "
            "children, which have the same (as structure_graph_download of the Allen atlas)."
        )
        return False
    fault = _find_fault(tree)
    if fault:
        findings.refuse(f"common.atlas: {path} has {fault}.")
    return not fault


def _find_fault(tree: Mapping[str, Any]) -> str | None:
    ids: set[Any] = set()
    waiting: list[Any] = [tree]
    while waiting:
        region = waiting.pop()
        if not isinstance(region, dict) or not {"id", "acronym"} <= region.keys():
            return f"a region without id or acronym: {show(region)}"
        if region["id"] in ids:
            return f"two regions with id {region['id']}"
        ids.add(region["id"])
        waiting += region.get("children") or []
    return None


def check_atlas(atlas: AtlasFiles, facts: Mapping[str, Any], findings: Findings) -> Region | None:
    """Return the region that is filled, if cells can be placed in it."""
    name = f"common.atlas: {atlas.folder}"
    if findings.refuse_unread(name, facts, "volumes of one shape, in files of nrrd"):
        return None
    before = len(findings.problems)
    for volume in atlas.volumes:
        _check_header(atlas, volume, facts[volume], findings)
    if len(findings.problems) == before:
        _compare_headers(atlas, facts, findings)
    if "acronyms" in facts:
        findings.refuse(_describe_unknown(atlas, facts["acronyms"]))
    if len(findings.problems) > before:
        return None
    _check_region(atlas, facts, findings)
    if len(findings.problems) > before or atlas.density is None:
        return None
    expected = _check_density(atlas, facts, findings)
    voxel = facts["regions"]["voxel"]
    return None if expected is None else Region(facts["n_masked"] * math.prod(voxel), expected)


def _check_header(
    atlas: AtlasFiles, name: str, header: Mapping[str, Any], findings: Findings
) -> None:
    where = f"{atlas.volumes[name]}: {atlas.find(name)}"
    if findings.refuse_unread(where, header, "a file of nrrd"):
        return
    _check_axes(where, header, findings)
    voxel = header["voxel"]
    if name == "regions" and voxel and max(voxel) > 1.001 * min(voxel) > 0:
        findings.notice(
            f"{where} has voxels of {_times(voxel)} um: ArchNGV draws places of cells in cubes "
            f"with sides of {voxel[0]:g} um; voxels with equal sides are better."
        )
    if name == "density" and not header["type"].startswith("float"):
        findings.refuse(
            f"{where} has numbers of type {header['type']}; save it as float32, in cells per mm^3."
        )
    if name == "mask" and header["type"] not in ("int8", "uint8", "bool"):
        findings.refuse(f"{where} has numbers of type {header['type']}; save it as uint8.")


def _check_axes(where: str, header: Mapping[str, Any], findings: Findings) -> None:
    shape, voxel, directions = header["shape"], header["voxel"], header["directions"]
    if len(shape) != 3:
        findings.refuse(f"{where} has {len(shape)} axes ({_times(shape)}); expected x, y and z.")
    elif voxel is None and directions is None:
        findings.refuse(
            f"{where} does not say how large voxels are; save it with `space directions`, in um."
        )
    elif header["space_dimension"] is None and header["space"] not in {None, *_SPACES}:
        findings.refuse(
            f"{where} is in the space {header['space']}, which ArchNGV does not know; save it with "
            "`space dimension: 3` in place of `space`, with axes along x, y and z."
        )
    elif voxel is None or (directions and not _is_diagonal(directions)):
        findings.refuse(
            f"{where} has axes that are not along x, y and z (space directions {directions}); "
            "resample it, or save it with the values off the diagonal as exactly 0."
        )
    elif min(voxel) <= 0:
        findings.refuse(
            f"{where} has voxels of {_times(voxel)} um; flip it along axes with negative sides."
        )
    elif not all(_LEAST_VOXEL_UM <= side <= _MOST_VOXEL_UM for side in voxel):
        findings.refuse(
            f"{where} has voxels of {_times(voxel)}; expected um, between {_LEAST_VOXEL_UM:g} and "
            f"{_MOST_VOXEL_UM:g}.  Are they mm?  Change `space directions` and `space origin`."
        )


def _is_diagonal(rows: Sequence[Sequence[float]]) -> bool:
    return all(rows[i][j] == 0 for i in range(3) for j in range(3) if i != j)


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _compare_headers(atlas: AtlasFiles, facts: Mapping[str, Any], findings: Findings) -> None:
    """Refuse volumes that do not lie on each other."""
    own = facts["regions"]
    for name, key in atlas.volumes.items():
        other = facts[name]
        for what, unit in (
            ("shape", "voxels"),
            ("voxel", "um as a voxel"),
            ("offset", "um origin"),
        ):
            # As numpy.allclose, by which ArchNGV compares.
            pairs = zip(other[what], own[what], strict=True)
            if any(abs(a - b) > 1e-8 + 1e-5 * abs(b) for a, b in pairs):
                findings.refuse(
                    f"{key}: {atlas.find(name)} has {_times(other[what])} {unit}, and {REGIONS} "
                    f"has {_times(own[what])}; resample it to the same voxels."
                )


def _describe_unknown(atlas: AtlasFiles, acronyms: Sequence[str]) -> str:
    given = atlas.region or ""
    parts = re.findall(r"[^\s,|'\"\[\](){}]+", given)
    if len(parts) > 1 and {*parts} <= {*acronyms}:
        names = "|".join(map(re.escape, parts))
        hint = f"several are given as one pattern: '@^({names})$'"
    else:
        same = [each for each in acronyms if each.lower() == given.strip().lower()]
        near = same or get_close_matches(given, acronyms, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {join_some(acronyms, 8)}"
    return f"common.region: {show(given)} is no acronym of {atlas.folder / HIERARCHY}; {hint}."


def _check_region(atlas: AtlasFiles, facts: Mapping[str, Any], findings: Findings) -> None:
    place = atlas.find("regions")
    region = "common.region" if atlas.region is None else f"common.region: {atlas.region}"
    if not facts["n_voxels"]:
        findings.refuse(f"{region} has no voxel in {place}; choose a region that has some.")
        return
    size = _measure(facts["n_voxels"], facts["regions"]["voxel"])
    if not facts["n_masked"]:
        findings.refuse(
            f"common.mask: {atlas.find('mask')} leaves nothing of {region} ({size}); is it that "
            "of another region?"
        )
        return
    if facts["n_unknown"]:
        share = facts["n_unknown"] / max(1, facts["n_labelled"])
        findings.notice(
            f"common.atlas: {place} has ids that {HIERARCHY} lacks, in {share:.1%} of its voxels: "
            f"{join_some(facts['unknown_ids'])}; these voxels belong to no region."
        )
    kind = facts["regions"]["type"]
    if kind.startswith("float32") and facts.get("highest_id", 0) > _LARGEST_EXACT:
        findings.notice(f"common.atlas: {place} has large ids as {kind}, which merges regions.")
    islands = facts.get("islands")
    if islands and not islands["n_large"]:
        findings.refuse(
            f"{region} has {size}, in pieces of less than 10 voxels, in which ArchNGV makes no "
            "domains; choose a larger region, or an atlas with smaller voxels."
        )


def _measure(n_voxels: int, voxel: Sequence[float]) -> str:
    volume = n_voxels * voxel[0] * voxel[1] * voxel[2] * 1e-9
    return f"{count(n_voxels, 'voxel')}, {volume:.3g} mm^3"


def _check_density(atlas: AtlasFiles, facts: Mapping[str, Any], findings: Findings) -> float | None:
    where = f"cell_placement.density: {atlas.find('density')}"
    if facts["n_nan"]:
        findings.refuse(f"{where} is NaN in {count(facts['n_nan'], 'voxel')}; set these to 0.")
        return None
    if facts["n_negative"]:
        n = count(facts["n_negative"], "voxel")
        findings.refuse(f"{where} is below 0 in {n} of the region; set these to 0.")
        return None
    voxel = facts["regions"]["voxel"]
    per_density = voxel[0] * voxel[1] * voxel[2] * 1e-9
    expected = facts["sum"] * per_density
    size = _measure(facts["n_masked"], voxel)
    region = "all of the atlas" if atlas.region is None else atlas.region
    if round(expected) < 1:
        findings.refuse(
            f"{where} gives {expected:.3g} astrocytes in {region} ({size}); expected cells per "
            f"mm^3, such as 1e4, and it is {facts['highest']:.3g} at most."
        )
        return None
    if expected > _MOST_ASTROCYTES:
        findings.notice(
            f"{where} gives {expected:.3g} astrocytes in {region} ({size}); is it per mm^3?  "
            f"It is {facts['highest']:.3g} at most."
        )
    islands = facts.get("islands", {})
    shared = islands.get("sum_shared", 0.0) * per_density
    if shared >= 0.5:
        findings.notice(
            f"common.region: {region} has pieces whose boxes overlap, with about {shared:.2g} "
            "astrocytes in several boxes: ArchNGV makes domains box by box, and of each astrocyte "
            "keeps the last, so that domains there do not fit together.  One circuit for each "
            "piece, by a common.mask, has no such place."
        )
    lost = islands.get("sum", 0.0) * per_density
    if lost:
        n = islands
        text = (
            f"common.region: {region} has {count(n['n'], 'piece')} of less than 10 voxels "
            f"({count(n['n_voxels'], 'voxel')}), in which {lost:.2g} astrocytes are expected; "
            "ArchNGV makes no domains there, and stops if it places one there.  Leave these voxels "
            "out with a common.mask, or set their density to 0."
        )
        # One cell in so few voxels is a matter of luck.
        (findings.refuse if lost >= 0.5 else findings.notice)(text)
    return expected


def check_room(region: Region, box: Box, soma_radius: float, findings: Findings) -> None:
    """Refuse more cells than have place in the region: ArchNGV tries again for ever."""
    cells = f"{region.expected:.3g} astrocytes with somata of {soma_radius:g} um"
    share = region.expected * 4 / 3 * math.pi * soma_radius**3 / region.volume
    # Spheres that are placed at random fill 0.384 of a volume at most (Zhang and Torquato 2013);
    # somata reach out of a region, by which a small one has place for more.
    if share > 1:
        findings.refuse(
            f"cell_placement: {cells} would take {share:.0%} of the region, and could never be "
            "placed; is density per mm^3, and soma_radius in um?"
        )
    elif share > 0.2:
        findings.notice(
            f"cell_placement: {cells} take {share:.0%} of the region ({show_box(box)}); to place "
            "them takes long, if it ends: at random, spheres fill 38% at most."
        )
