"""Two runs side by side: what each found, how their maps differ, and which model fits better."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.data.kinds import load_map
from nipype_blm.data.maps import load_image
from nipype_blm.errors import InputError
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.charts.pairs import draw_pair
from nipype_blm.report.charts.views import draw_map
from nipype_blm.report.reported import Reported
from nipype_blm.report.tables import Table, write_number
from nipype_blm.results.compare import Comparison, compare_models
from nipype_blm.results.findings import ALPHA, Findings

_MOST_CONTRASTS = 20
_MOST_DRAWN = 6


class _Compared(NamedTuple):
    criterion: str
    n_voxels: int
    n_better: int  # voxels at which the larger model fits better, p <= 0.05
    figure: Figure
    notices: list[str]


def make(runs: Sequence[Reported]) -> dict[str, Any]:
    """Return what the template shows."""
    first, second = runs
    names = [name for name in first.findings if name in second.findings]
    all_names = [list(run.results.contrasts) for run in runs]
    one_space = first.results.whole_space.describe_difference(second.results.whole_space) is None
    pairs = [(first.findings[name], second.findings[name]) for name in names] if one_space else []
    compared, reason = _compare(first, second)
    return {
        "folders": [run.name for run in runs],
        "table": _tabulate(runs, pairs[:_MOST_CONTRASTS]) if pairs else None,
        "figures": [
            draw_pair(*_align(*pair), [run.name for run in runs], pair[0].contrast.name)
            for pair in pairs[:_MOST_DRAWN]
        ],
        "only": [
            [name for name in mine if name not in others]
            for mine, others in zip(all_names, reversed(all_names), strict=True)
        ],
        "one_space": one_space,
        "compared": compared,
        "reason": reason,
    }


def _align(one: Findings, other: Findings) -> tuple[FloatArray, FloatArray]:
    """Return the z of two runs at the voxels that both have."""
    first, second = (each.contrast.results.inside for each in (one, other))
    both = first & second
    return one.z[both[first]], other.z[both[second]]


def _tabulate(runs: Sequence[Reported], pairs: Sequence[tuple[Findings, Findings]]) -> Table:
    names = [run.name for run in runs]
    columns = [
        "Contrast",
        *(f"Voxels found by {name}" for name in names),
        *(f"... by {name} alone" for name in names),
        "Correlation of z",
        f"Standard error of {names[1]} / {names[0]}",
    ]
    return Table("What each found", columns, [_describe(*pair) for pair in pairs])


def _describe(one: Findings, other: Findings) -> list[str]:
    first, second = (_spread(each) for each in (one, other))
    z = _align(one, other)
    varies = len(z[0]) > 1 and all(np.std(each) > 0 for each in z)
    correlation = float(np.corrcoef(*z)[0, 1]) if varies else float("nan")
    return [
        one.contrast.name,
        f"{np.count_nonzero(first):,}",
        f"{np.count_nonzero(second):,}",
        f"{np.count_nonzero(first & ~second):,}",
        f"{np.count_nonzero(second & ~first):,}",
        write_number(correlation),
        write_number(_compare_errors(one, other)),
    ]


def _spread(found: Findings) -> Any:
    """Return which values of a map were found."""
    inside = found.contrast.results.inside.copy()
    inside[inside] = found.main.survives
    return inside


def _compare_errors(one: Findings, other: Findings) -> float:
    """Return the median ratio of the standard errors of a T contrast; NaN of others."""
    if one.contrast.is_f or other.contrast.is_f:
        return float("nan")
    masks = [each.contrast.results.inside for each in (one, other)]
    both = masks[0] & masks[1]
    first, second = (
        each.contrast.vector("variance")[both[mask]]
        for each, mask in zip((one, other), masks, strict=True)
    )
    has_both = (first > 0) & (second > 0)
    if not has_both.any():
        return float("nan")
    return float(np.sqrt(np.median(second[has_both] / first[has_both])))


def _compare(first: Reported, second: Reported) -> tuple[_Compared | None, str]:
    """Return the comparison of two nested models; or why there is none."""
    with TemporaryDirectory(prefix="nipype_blm_") as name:
        try:
            found = compare_models(first.folder, second.folder, Path(name), Path(name))
        except InputError as error:
            return None, "; ".join(str(each).rstrip(".") for each in error.problems)
        return _show(found), ""


def _show(found: Comparison) -> _Compared:
    import nibabel as nib

    image = load_image(found.files["blmm_vox_Chi2lp"])
    mask = load_map(found.files["blmm_vox_mask"])[...] > 0
    log10_p = np.asarray(image.dataobj)
    least = -np.log10(ALPHA)
    better = int(np.count_nonzero(log10_p[mask] >= least))
    kept = nib.Nifti1Image(log10_p, image.affine, image.header)  # the file goes
    figure = draw_map(kept, title="−log10 p of the likelihood ratio", threshold=least)
    return _Compared(found.criterion, int(mask.sum()), better, figure, found.notices)
