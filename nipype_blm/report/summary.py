"""Say in a few lines what a run found."""

import itertools
from collections.abc import Callable, Iterable
from math import isnan

from nipype_blm.core.status import VoxelStatus
from nipype_blm.errors import count
from nipype_blm.report.naming import count_cells, cut_cells
from nipype_blm.results.diagnostics import Diagnostics
from nipype_blm.results.findings import Findings, Place
from nipype_blm.results.results import Results

_MOST_SHOWN = 5  # images that stand out
MOST_CONTRASTS, _MOST_PEAKS = 20, 3
# Cells of a terminal: a line, and the name of a contrast within its row.
_WIDEST, _WIDTH = 80, 13
_HEAD = "voxels clusters     z     x     y  z mm  effect [95 % limits]"


def list_counts(results: Results) -> list[tuple[int, str]]:
    """Return how many voxels of the analysis mask became what."""
    counts = results.counts.items()
    return [(n, status.meaning) for status, n in counts if status != VoxelStatus.OUTSIDE]


def summarise_run(results: Results, show: Callable[[str], str] = str) -> str:
    """Return what was fitted, what was dropped, and why."""
    levels = [f"{factor.n_levels:,} levels of {factor.name}" for factor in results.factors]
    sizes = [
        count(len(results.images), "image"),
        f"{count(len(results.column_names), 'column')} of X",
        *map(show, levels),
    ]
    lines = [", ".join(sizes)]
    lines += [f"{n:>10,} voxels {meaning}" for n, meaning in list_counts(results)]
    if results.study is not None and results.study.excluded:
        lines.append(f"{count(len(results.study.excluded), 'row')} left out: see excluded.tsv")
    return "\n".join(lines)


def summarise_findings(
    findings: Iterable[Findings], show: Callable[[str], str] = str, n_contrasts: int = 0
) -> str:
    """Return a table of what each contrast found: voxels, clusters, and the highest peaks.

    Parameters
    ----------
    findings : iterable of Findings
        Of each contrast; one is needed at a time.
    show : callable
        How names are to be shown.
    n_contrasts : int
        How many contrasts there are, if more than are told.
    """
    lines, correction, n_told = [], "", 0
    for each in itertools.islice(findings, MOST_CONTRASTS):
        n_told += 1
        if each.main.words != correction:
            correction = each.main.words
            head = f"Found with {correction}"
            lines += [head, f"  {'contrast':<{_WIDTH}} {_HEAD}"]
        lines += _list_peaks(each, show(each.contrast.name))
    more = n_contrasts - n_told
    return "\n".join(lines + [f"  ... and {more} more contrasts"] * (more > 0))


def _list_peaks(found: Findings, name: str) -> list[str]:
    peaks = found.peaks
    n_cells = count_cells(name)
    above = [f"  {cut_cells(name, _WIDEST - 2)}"] if n_cells > _WIDTH else []
    name = "" if above else name
    blank = " " * (_WIDTH - count_cells(name))
    start = f"  {name}{blank}{found.main.n_voxels:>7,}{len(peaks):>9,}"
    if not peaks:
        return [*above, f"{start}   {describe_nothing(found)}"]
    rows = [_describe_peak(found, peak) for peak in peaks[:_MOST_PEAKS]]
    more = len(peaks) - _MOST_PEAKS
    rows += [f"   ... and {more:,} more"] * (more > 0)
    return [*above, f"{start}{rows[0]}", *(f"{'':<{_WIDTH + 18}}{row}" for row in rows[1:])]


def describe_nothing(found: Findings) -> str:
    """Return how near a contrast that found nothing came to it."""
    if found.nearest is None:
        return "not tested at any voxel"
    what = "q" if found.main.name == "fdr" else "p"
    value = found.main.p[found.nearest]
    return f"none: least {what} = {value:.2g}, z {found.z[found.nearest]:.2f}"


def _describe_peak(found: Findings, peak: Place) -> str:
    places = found.write_places((peak.x, peak.y, peak.z))
    line = f" {peak.peak_z:>5.2f}" + "".join(f" {text:>5}" for text in places)
    if isnan(peak.effect):
        return line
    return f"{line}  {peak.effect:.3g} [{peak.lower:.3g}, {peak.upper:.3g}]"


def summarise_diagnostics(found: Diagnostics, show: Callable[[str], str] = str) -> str:
    """Return which images stand out and why, what ignoring groups would claim, and where all is.

    Parameters
    ----------
    found : Diagnostics
    show : callable
        How names are to be shown.
    """
    worst = found.outlying
    verb = "stands" if len(worst) == 1 else "stand"
    lines = [f"{count(len(worst), 'image')} of {len(found.images)} {verb} out"]
    for row in worst[:_MOST_SHOWN]:
        volume = f", volume {row.volume}" if row.volume else ""
        lines.append(f"  {show(row.image)}{volume}: {row.reason}")
    if len(worst) > _MOST_SHOWN:
        lines.append(f"  ... and {len(worst) - _MOST_SHOWN} more, in images.tsv")
    for name, ratio in found.se_ratio.items():
        if ratio == ratio:
            lines.append(
                f"Contrast {show(name)}: standard errors are {ratio:.2f} times (median) those of "
                "least squares, which ignores the random factors"
            )
    return "\n".join([*lines, f"The maps and tables are in {found.out_dir}"])
