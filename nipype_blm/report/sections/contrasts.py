"""Each contrast: its maps, what survives which correction, its clusters, and a viewer of all."""

import base64
import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.data.atlas import read_atlas
from nipype_blm.errors import InputError
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.charts.views import (
    Cuts,
    Grid,
    Row,
    choose_cuts,
    draw_glass_brain,
    draw_rows,
    make_image,
)
from nipype_blm.report.embedded import STEP, Embedded, embed_all, embed_background, embed_flags
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections.peaks import Peaks, make_peaks, write_place
from nipype_blm.report.tables import Table, cut, write_count, write_number, write_p, write_size
from nipype_blm.results.findings import Correction, Findings, Place

_MOST_WHOLE = 6  # contrasts with all their figures; the others have the corrections only
_MOST_ROWS = 25  # of a table of clusters
# Letters of the maps for the viewer: two runs in a page have twice as many.
_MOST_MAPS, _MOST_BACKGROUND = 5_000_000, 1_000_000


class Shown(NamedTuple):
    """One contrast, as it is shown."""

    findings: Findings
    number: int  # from 0; also in the viewer
    figures: Sequence[Figure]
    corrections: Table
    clusters: Table | None
    nearest: str  # which voxel comes nearest, if none survives
    peaks: Peaks | None  # the data there
    tells_more: bool  # whether all figures are there


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    found = list(run.findings.values())
    maps = [make_image(run.results, each.z) for each in found]
    named = _Atlas(run)
    embedded = embed_all(maps, _MOST_MAPS)
    return {
        "contrasts": [
            _show(run, each, number, image, named)
            for number, (each, image) in enumerate(zip(found, maps, strict=True))
        ],
        "n_more": run.n_left_out,
        "most_whole": _MOST_WHOLE,
        "atlas": named.name,
        "step": STEP,
        "viewer": _pack_viewer(run, found, embedded),
        "every": embedded[0].every if embedded else 1,
        "not_embedded": [each.contrast.name for each in found[len(embedded) :]],
        "library": read_viewer_library(),
    }


def _show(run: Reported, found: Findings, number: int, image: Any, named: "_Atlas") -> Shown:
    mask = run.results.image("mask")
    places = found.places
    cuts = choose_cuts(mask, [(each.x, each.y, each.z) for each in places if each.peak == 1])
    figures = [_draw_corrections(run, found, cuts, mask)]
    if number < _MOST_WHOLE:
        figures = [*_draw_whole(run, found, image, cuts, mask), *figures]
        figures += _draw_glass(run, found)
    return Shown(
        *(found, number, figures),
        corrections=_tabulate_corrections(found),
        clusters=_tabulate(run, found, places, cuts, named, number) if places else None,
        nearest="" if places else _say_nearest(run, found),
        peaks=make_peaks(run, found) if number < _MOST_WHOLE else None,
        tells_more=number < _MOST_WHOLE,
    )


def _draw_whole(run: Reported, found: Findings, image: Any, cuts: Cuts, mask: Any) -> list[Figure]:
    """Draw the effect, of a T contrast, and z, without a threshold."""
    name = found.contrast.name
    drawn = []
    if not found.contrast.is_f:
        effect = found.limits[0]
        row = Row(make_image(run.results, effect), "Effect")
        alt = f"Effect of {name}: {_describe_values(effect)}, in the unit of the images."
        drawn.append(
            draw_rows([row], cuts, None, mask, alt, cmap="RdBu_r", unit="unit of the images")
        )
    alt = f"z of {name}: {_describe_values(found.z[found.is_tested])}."
    row = Row(image, "z")
    # z of an F is about 0 where nothing is found, too.
    drawn.append(draw_rows([row], cuts, None, mask, alt, cmap="RdBu_r", unit="z"))
    return drawn


def _describe_values(values: Any) -> str:
    values = values[np.isfinite(values)]
    if not values.size:
        return "no voxel has one"
    low, middle, high = (write_number(float(each)) for each in np.quantile(values, [0, 0.5, 1]))
    return f"from {low} to {high}, median {middle}, at {write_count(values.size, 'voxel')}"


def _draw_corrections(run: Reported, found: Findings, cuts: Cuts, mask: Any) -> Figure:
    """Draw what survives each correction, in the same slices."""
    rows, said = [], []
    for each in found.corrections:
        said.append(f"{each.words}: {write_count(each.n_voxels, 'voxel')}")
        shown = np.where(each.survives, found.z, 0.0)
        rows.append(Row(make_image(run.results, shown), said[-1]))
    return draw_rows(
        *(rows, cuts, run.backdrop.image, mask),
        f"What survives in {found.contrast.name}: {'; '.join(said)}.",
        cmap="RdYlBu_r" if found.two_sided else "YlOrRd",
        symmetric=found.two_sided,
        unit="z",
    )


def _draw_glass(run: Reported, found: Findings) -> list[Figure]:
    """Draw what survives through a brain, by the main correction or, without that, by none."""
    if not run.backdrop.is_mni:
        return []
    shown = found.main if found.main.n_voxels else found.uncorrected
    if not shown.n_voxels:
        return []
    image = make_image(run.results, np.where(shown.survives, found.z, 0.0))
    least = 0.999 * float(np.abs(found.z[shown.survives]).min())  # which is not drawn itself
    says = f"{shown.words}: {write_count(shown.n_voxels, 'voxel')}"
    alt = f"Glass brain of {found.contrast.name}, {says}."
    return [draw_glass_brain(image, least, alt, found.two_sided, says)]


def _tabulate_corrections(found: Findings) -> Table:
    sign = name_height(found)
    n_tested = int(np.count_nonzero(found.is_tested))
    rows = [
        (
            each.words + (" (by which findings are told)" if each is found.main else ""),
            f"{each.n_voxels:,}",
            f"{100 * each.n_voxels / n_tested:.3g} %" if n_tested else "n/a",
            write_number(found.find_height(each)) if each.n_voxels else "none survives",
        )
        for each in found.corrections
    ]
    columns = ("Correction", "Voxels", "of those tested", f"Least {sign} that survives")
    return Table(f"What survives in {found.contrast.name}", columns, rows)


def name_height(found: Findings) -> str:
    """Return what is thresholded."""
    return "|z|" if found.two_sided else "z"


def _tabulate(
    run: Reported,
    found: Findings,
    places: Sequence[Place],
    cuts: Cuts,
    named: "_Atlas",
    number: int,
) -> Table:
    shown, more = cut(places, _MOST_ROWS, _name_whole_table(run, found))
    grid = Grid(run.results.image("mask"))
    columns = ["Cluster", "Peak", "Voxels", "mm³", "x, mm", "y, mm", "z, mm", "Slice", "z value"]
    if not found.contrast.is_f:
        columns += ["Effect", "95 % from", "to"]
    columns.append(found.p_name)
    columns += ["Region"] if named.atlas else []
    regions = named.find([(each.x, each.y, each.z) for each in shown])
    rows = [
        _fill_row(each, cuts.find_label(grid, (each.x, each.y, each.z)), found, region)
        for each, region in zip(shown, regions, strict=True)
    ]
    attributes = [{"map": number, "x": each.x, "y": each.y, "z": each.z} for each in shown]
    title = f"Clusters of {found.contrast.name} by {found.main.words}"
    return Table(title, columns, rows, more, sortable=True, attributes=attributes)


def _fill_row(place: Place, label: str, found: Findings, region: str | None) -> list[str]:
    is_first = place.peak == 1
    row = [
        *(f"{place.cluster}", f"{place.peak}", f"{place.size_voxels:,}" if is_first else ""),
        write_size(place.size_mm3) if is_first else "",
        *write_place(found, (place.x, place.y, place.z)),
        *(label or "not drawn", write_number(place.peak_z)),
    ]
    if not found.contrast.is_f:
        row += [write_number(each) for each in (place.effect, place.lower, place.upper)]
    return [*row, write_p(place.p), *([] if region is None else [region])]


def _name_whole_table(run: Reported, found: Findings) -> str:
    tested = run.inferred.contrasts.get(found.contrast.name) if run.inferred else None
    if tested is not None:
        return f"inference/{tested.clusters_file.name}"
    return f"the table of `nipype-blm infer {run.folder}`"


def _say_nearest(run: Reported, found: Findings) -> str:
    if found.nearest is None:
        return "It is estimable at no voxel."
    z = write_number(float(found.z[found.nearest]))
    place = run.coordinates[found.nearest]
    where = ", ".join(write_place(found, place))
    p = write_p(float(found.main.p[found.nearest]))
    return f"Nearest to it is the voxel at {where} mm, with z {z} and {found.p_name} {p}."


class _Atlas:
    """Names of places by the atlas of an inference, as long as it is there."""

    def __init__(self, run: Reported) -> None:
        options = run.inferred.description.get("Options", {}) if run.inferred else {}
        path, names = (options.get(key) for key in ("atlas", "atlas_names"))
        self.atlas, self.name = None, ""
        if path:
            try:
                self.atlas = read_atlas(Path(path), Path(names) if names else None)
                self.name = Path(path).name
            except InputError:
                return

    def find(self, places: Sequence[tuple[float, float, float]]) -> Sequence[str | None]:
        if self.atlas is None or not places:
            return [None] * len(places)
        return self.atlas.find_names(places)


def _pack_viewer(
    run: Reported, found: Sequence[Findings], embedded: Sequence[Embedded]
) -> dict[str, Any]:
    """Return what the script of the viewer reads."""
    background = embed_background(run.backdrop.image, _MOST_BACKGROUND)
    pairs = zip(found, embedded, strict=False)  # the last ones may have had no room
    return {
        "run": run.name,
        "step": STEP,
        "finest": min(0.1, found[0].voxel_size / 10) if found else 0.1,  # mm of a coordinate
        "background": background.text,
        "maps": [_pack_map(run, each, packed) for each, packed in pairs],
    }


def _pack_map(run: Reported, found: Findings, packed: Embedded) -> dict[str, Any]:
    survive = [make_image(run.results, each.survives) for each in found.corrections]
    start = None if found.nearest is None else run.coordinates[found.nearest].tolist()
    return {
        "name": found.contrast.name,
        "sign": name_height(found),
        "twoSided": found.two_sided,
        "image": packed.text,
        "survive": embed_flags(survive, packed.every),
        "levels": [_pack_level(found, each) for each in found.corrections],
        "start": start,
    }


def _pack_level(found: Findings, correction: Correction) -> dict[str, Any]:
    """Return the button of a correction; its height in steps of the map."""
    height = found.find_height(correction)
    steps = None if np.isinf(height) else int(np.rint(np.float32(height) / STEP))
    return {"words": correction.words, "steps": steps, "main": correction is found.main}


@functools.cache  # of two runs
def read_viewer_library() -> str:
    """Return niivue, as nilearn has it, compressed: a page needs it once, and some never."""
    import nilearn

    path = Path(nilearn.__file__).parent / "_assets" / "js" / "niivue.umd.js"
    try:
        return base64.b64encode(gzip.compress(path.read_bytes(), 9, mtime=0)).decode("ascii")
    except OSError:  # another nilearn than those that are known
        return ""
