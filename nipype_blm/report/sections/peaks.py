"""The data at the highest peaks of one contrast: a part of its section."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.errors import InputError
from nipype_blm.report.charts.axes import Axis, Shown, choose_axis, show
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.charts.peaks import (
    MOST_DRAWN,
    MOST_LABELLED,
    MOST_LINES,
    Quantiles,
    choose_panels,
    compare_quantiles,
    draw_peak,
)
from nipype_blm.report.naming import cut_name, name_images
from nipype_blm.report.reported import Reported
from nipype_blm.report.tables import Table, write_count, write_number, write_p
from nipype_blm.results.findings import Findings
from nipype_blm.results.sampled import MOST_VOXELS, choose_peaks
from nipype_blm.stages.voxelfits import VoxelFit

_N_NAMED = 3  # images with the largest residuals


class Residual(NamedTuple):
    """An image that the model fits badly at a voxel."""

    name: str
    value: float  # of the image
    standardised: float


class Peak(NamedTuple):
    """The data at one voxel, as they are shown."""

    number: int
    is_found: bool  # whether it survives; else it is the voxel nearest to that
    place: str  # mm
    z: float
    p: float  # corrected
    effect: tuple[float, ...]  # with 95 % limits; NaN of an F contrast
    n: int  # images with data
    n_missing: int
    sd: float  # residual
    worst: Sequence[Residual]
    figure: Figure


class Peaks(NamedTuple):
    """What `peaks.html.jinja` shows, as its variable ``peaks``."""

    shown: Sequence[Peak]
    note: str  # why there are none, or fewer; empty if all are there
    correction: str = ""  # in words
    table: Table | None = None
    guide: Sequence[str] = ()  # how the figures are read, panel by panel


def make_peaks(run: Reported, findings: Findings) -> Peaks:
    """Return the data at the peaks of a contrast, or a word about why they are not there."""
    wanted = choose_peaks(findings)
    if not wanted:
        return Peaks((), "")
    if run.sampled is None:
        return Peaks((), run.why_not_sampled)
    known = [feature for feature in wanted if run.sampled.has([feature])]
    if not known:
        return Peaks((), _say_left(len(wanted)))
    try:
        fits = run.voxel_fits
    except InputError as error:
        return Peaks((), str(error))
    axis = choose_axis(findings.contrast)
    names = name_images(run.results.images)
    dof, limits = findings.contrast.vector("dof"), findings.limits
    shown = [
        _make(
            *(run, findings, number, fits[feature], axis, names, float(dof[feature])),
            tuple(float(each[feature]) for each in limits),
        )
        for number, feature in enumerate(wanted, 1)
        if feature in known
    ]
    note = _say_left(len(wanted) - len(known))
    guide = _guide(axis, fits[known[0]])
    return Peaks(shown, note, findings.main.words, _tabulate(shown, findings.p_name), guide)


def _say_left(n: int) -> str:
    if not n:
        return ""
    peaks = write_count(n, "peak")
    return (
        f"The data at {peaks} of this contrast are not shown: nipype-blm report reads the images "
        f"at {MOST_VOXELS} voxels of all contrasts together, the highest peak of each first."
    )


def _tabulate(peaks: Sequence[Peak], p_name: str) -> Table:
    """Return the numbers at each peak: those of the maps, and of the images."""
    has_effect = not any(np.isnan(peak.effect[0]) for peak in peaks)
    columns = ["Peak", "x, y, z (mm)", "z", p_name]
    columns += ["Effect", "95 % limits of it"] * has_effect
    columns += ["Images with data", "Residual sd", "Largest residuals (sd; value)"]
    rows = []
    for peak in peaks:
        effect, lower, upper = map(write_number, peak.effect)
        worst = (
            f"{each.name} ({_write(each.standardised, '.1f')}; {write_number(each.value)})"
            for each in peak.worst
        )
        rows.append(
            [peak.number, peak.place, _write(peak.z, ".2f"), write_p(peak.p)]
            + [effect, f"{lower} to {upper}"] * has_effect
            + [f"{peak.n:,} of {peak.n + peak.n_missing:,}", write_number(peak.sd)]
            + [", ".join(worst)]
        )
    title = "Effect: in units of the images per unit of the contrast. Residual sd: in their units."
    return Table(title if has_effect else "Residual sd: in units of the images.", columns, rows)


def write_place(found: Findings, coordinates: Iterable[float]) -> list[str]:
    """Return coordinates in mm as texts."""
    return [text.replace("-", "−") for text in found.write_places(coordinates)]


def _write(x: float, form: str) -> str:
    return f"{x:{form}}".replace("-", "−")


def _make(
    run: Reported,
    findings: Findings,
    number: int,
    fit: VoxelFit,
    axis: Axis,
    names: Sequence[str],
    dof: float,
    effect: tuple[float, ...],
) -> Peak:
    assert run.sampled is not None
    feature = fit.feature
    coordinates = run.sampled.coordinates[run.sampled.features.tolist().index(feature)].tolist()
    shown = show(axis, findings.contrast, fit, dof)
    n = int(np.count_nonzero(fit.is_present))
    peak = Peak(
        number=number,
        is_found=bool(findings.main.survives[feature]),
        place=", ".join(write_place(findings, coordinates)),
        z=float(findings.z[feature]),
        p=float(findings.main.p[feature]),
        effect=effect,
        n=n,
        n_missing=fit.y.size - n,
        sd=fit.sigma,
        worst=_find_worst(fit, names),
        figure=Figure("", "", ""),
    )
    words = Figure("", _say_alt(peak, shown, fit), _say_caption(peak, fit))
    labels = _label_axes(shown)
    return peak._replace(figure=draw_peak(shown, fit, names, labels, words))


def _find_worst(fit: VoxelFit, names: Sequence[str]) -> list[Residual]:
    size = np.nan_to_num(np.abs(fit.standardised), nan=-1.0)
    order = np.argsort(-size, kind="stable")[:_N_NAMED]
    return [
        Residual(cut_name(names[i], 60), float(fit.y[i]), float(fit.standardised[i]))
        for i in order
        if size[i] > 0
    ]


def _label_axes(shown: Shown) -> tuple[str, str]:
    """Return what stands at the x and the y axis."""
    axis = shown.axis
    name = cut_name(axis.name, 40)
    x = {
        "numeric": name,
        "category": "" if len(axis.categories) == 1 else name,
        "along": f"X along {cut_name(axis.name, 30)}",
        "fitted": "fit of the tested columns",
    }[axis.kind]
    return x, "adjusted value"


def _say_alt(peak: Peak, shown: Shown, fit: VoxelFit) -> str:
    """Return what is seen, in a sentence with its numbers."""
    axis, line = shown.axis, shown.line
    if axis.kind == "category":
        means = (
            f"{cut_name(axis.categories[int(k)])} {write_number(y)}"
            for k, y in zip(line.x, line.y, strict=True)
        )
        seen = f"adjusted means {', '.join(means)}"
    elif axis.kind == "numeric":
        ends = [write_number(v) for v in (line.y[0], line.y[-1], line.x[0], line.x[-1])]
        name = cut_name(axis.name)
        seen = (
            f"the fit goes from {ends[0]} to {ends[1]} as {name} goes from {ends[2]} to {ends[3]}"
        )
    elif axis.kind == "along":
        seen = f"data along the contrast, on a line of slope {write_number(_find_slope(shown))}"
    else:
        seen = f"data against the fit, their correlation {_correlate(shown):.2f}"
    outside = _count_outside(compare_quantiles(fit))
    return f"Voxel {peak.place} mm, {peak.n} images: {seen}; {outside} outside the limits."


def _find_slope(shown: Shown) -> float:
    width = shown.line.x[-1] - shown.line.x[0]
    return float((shown.line.y[-1] - shown.line.y[0]) / width) if width else float("nan")


def _correlate(shown: Shown) -> float:
    if np.ptp(shown.x) == 0 or np.ptp(shown.y) == 0:
        return float("nan")
    return float(np.corrcoef(shown.x, shown.y)[0, 1])


def _count_outside(found: Quantiles) -> str:
    outside = int(np.count_nonzero(found.is_outside))
    return f"{outside} of {write_count(found.rows.size, 'residual')}"


def _say_caption(peak: Peak, fit: VoxelFit) -> str:
    """Return which peak it is, and what is special about its data."""
    name = f"Peak {peak.number}" if peak.is_found else "The nearest voxel"
    sentences = [f"{name}, at {peak.place} mm."]
    if peak.n_missing:
        sentences.append(f"{write_count(peak.n_missing, 'image')} without data here.")
    for panel in choose_panels(fit):
        if not panel.levels.sd[:, panel.effect].any():
            effect, factor = panel.levels.effects[panel.effect], panel.levels.factor
            name = f"{cut_name(effect)} of {cut_name(factor)}"
            sentences.append(f"The variance of {name} is estimated as 0 here.")
    return " ".join(sentences)


def _guide(axis: Axis, fit: VoxelFit) -> list[str]:
    """Return how the panels of a contrast are read, from left to right."""
    panels = choose_panels(fit)
    found = [
        _say_data(axis) + _say_lines(fit),
        "Residuals over their standard deviations, against a normal distribution; grey: where "
        "95 % of each would lie if they were normal and independent (pointwise).",
    ]
    if panels:
        effects = "the random effect" if len(panels) == 1 else "random effects"
        found.append(f"BLUP, {effects} of each level, with 95 % limits given the other estimates.")
        if len(panels[0].levels.levels) > MOST_LABELLED:
            found[-1] += " The levels at either end are named."
    return found


def _say_data(axis: Axis) -> str:
    if axis.kind == "along":
        return (
            "Partial residuals against the part of X that the contrast alone explains; the slope "
            "of the line is the effect, and the band has its 95 % limits."
        )
    if axis.kind == "fitted":
        return (
            "The images, in their units and with the columns of X that are not tested at their "
            "means, against the fit of them; on the line both are the same."
        )
    others = "0" if axis.held_at_zero else "their means"
    what = "crosses: means of the fit" if axis.kind == "category" else "line and band: the fit"
    return (
        f"The images, in their units and with all other columns of X at {others} (partial "
        f"residuals); {what} with 95 % limits."
    )


def _say_lines(fit: VoxelFit) -> str:
    if not fit.levels:
        return ""
    name, n = cut_name(fit.levels[0].factor, 30), len(fit.levels[0].levels)
    if n > MOST_DRAWN:
        first = f"the first {MOST_LINES} of the {n:,}" if n > MOST_LINES else f"the {n:,}"
        return f" Thin grey lines: the fits of {first} levels of {name}."
    return f" Colours and thin lines: each level of {name}, and its own fit."


def make(run: Reported) -> dict[str, Any]:
    """Return the data at the peaks of all contrasts, by name."""
    return {"peaks": {name: make_peaks(run, found) for name, found in run.findings.items()}}
