"""Corrected inference: the null distribution of each summary, with its threshold."""

from typing import Any, NamedTuple

import numpy as np

from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.charts.nulls import draw_nulls
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections.methods import SUMMARIES
from nipype_blm.report.tables import Table, write_number, write_p
from nipype_blm.results.findings import ALPHA
from nipype_blm.results.inferred import InferredContrast, find_threshold

_MOST_DRAWN = 10  # contrasts
_RESAMPLINGS = {
    "flip_scores": "signs of the scores of independent groups of images were flipped",
    "permute": "residuals of the other columns of X were permuted (Freedman and Lane)",
    "flip_data": "signs of the residuals of the other columns of X were flipped",
}


class _Shown(NamedTuple):
    name: str
    figure: Figure | None
    table: Table


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    assert run.inferred is not None
    described = run.inferred.description
    contrasts = list(run.inferred.contrasts.values())
    return {
        "n": run.inferred.n,
        "how": _RESAMPLINGS.get(described["Resampling"], described["Resampling"]),
        "groups": described["Groups"],
        "exhaustive": described["Exhaustive"],
        "seed": described["Seed"],
        "least_p": write_number(described["LeastP"]),
        "height": write_number(described["ClusterFormingZ"]),
        "summaries": [(name, SUMMARIES.get(name, name)) for name in run.inferred.summaries],
        "contrasts": [_show(each, i < _MOST_DRAWN) for i, each in enumerate(contrasts)],
        "n_drawn": _MOST_DRAWN,
    }


def _show(contrast: InferredContrast, is_drawn: bool) -> _Shown:
    name = contrast.contrast.name
    nulls = contrast.nulls
    thresholds = {summary: find_threshold(peaks, ALPHA) for summary, peaks in nulls.items()}
    rows = []
    for summary, peaks in nulls.items():
        p = contrast.description["LeastCorrectedP"].get(summary, np.nan)
        threshold = write_number(thresholds[summary])
        rows.append((summary, write_number(peaks[0]), threshold, write_p(p)))
    columns = "Summary", "Largest of the data", f"Threshold, p {ALPHA:g}", "Least corrected p"
    degenerate = contrast.description["Degenerate"]
    more = f"{degenerate:,} values of resamplings said nothing: no variance was left.".strip()
    shown = Table(f"Largest values of {name}", columns, rows, more if degenerate else "")
    return _Shown(name, draw_nulls(nulls, thresholds, name) if is_drawn else None, shown)
