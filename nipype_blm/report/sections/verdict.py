"""What was found, in a few lines: sizes, findings of each contrast, and what to beware of."""

from typing import Any, NamedTuple

from nipype_blm.core.status import VoxelStatus
from nipype_blm.errors import count, join_some
from nipype_blm.report.naming import cut_name
from nipype_blm.report.reported import Reported
from nipype_blm.report.summary import describe_nothing
from nipype_blm.report.tables import Table, write_p
from nipype_blm.results.findings import Findings
from nipype_blm.results.inferred import is_of_earlier_fit

_MUCH_UNCONVERGED = 0.001  # share of the voxels
_FEW_GROUPS = 12
_FEW_LEVELS = 5  # of which no variance can be estimated well


class _Fact(NamedTuple):
    name: str
    value: str
    note: str = ""


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    return {
        "facts": list(_list_facts(run)),
        "findings": _tabulate(run),
        "summary": None if run.inferred is None else run.inferred.summaries[0],
        "has_fdr": any(not each.is_resampled for each in run.findings.values()),
        "warnings": list(_list_warnings(run)),
    }


def _list_facts(run: Reported) -> Any:
    results = run.results
    counts = results.counts
    dropped = sum(
        n for status, n in counts.items() if status != VoxelStatus.OUTSIDE and not status.is_fitted
    )
    yield _Fact("Images", f"{len(results.images):,}")
    if results.study is not None and results.study.excluded:
        yield _Fact("Rows left out", f"{len(results.study.excluded):,}", "What was asked says why")
    for factor in results.factors:
        yield _Fact(f"Levels of {factor.name}", f"{factor.n_levels:,}")
    yield _Fact("Voxels fitted", f"{results.n_fitted:,}")
    yield _Fact("Voxels dropped", f"{dropped:,}", "of the analysis mask; The data says why")
    if run.is_mixed and results.n_fitted:
        not_converged = counts.get(VoxelStatus.NOT_CONVERGED, 0)
        singular = counts.get(VoxelStatus.FITTED_BOUNDARY, 0)
        yield _Fact("Converged", f"{1 - not_converged / results.n_fitted:.1%}")
        note = "some variance of random effects is 0, or a correlation 1"
        yield _Fact("Singular", f"{singular / results.n_fitted:.1%}", note)


def _tabulate(run: Reported) -> Table:
    columns = "Contrast", "Test", "Voxels", "Clusters", "Highest peak", "Correction"
    rows = [_describe(each) for each in run.findings.values()]
    more = (
        f"... and {run.n_left_out:,} more, whose maps are in contrasts/." if run.n_left_out else ""
    )
    return Table("Findings of each contrast", columns, rows, more)


def _describe(found: Findings) -> tuple[str, ...]:
    peaks = found.peaks
    if not peaks:
        peak = describe_nothing(found)
    else:
        first = peaks[0]
        where = ", ".join(found.write_places((first.x, first.y, first.z)))
        p = f"{found.p_name} {write_p(first.p)}"
        peak = f"z {first.peak_z:.2f} at {where} mm, {p}".replace("-", "−")
    return (
        found.contrast.name,
        found.test,
        f"{found.main.n_voxels:,}",
        f"{len(peaks):,}",
        peak,
        found.main.words,
    )


def _list_warnings(run: Reported) -> Any:
    results = run.results
    if not results.n_fitted:
        yield "No voxel could be fitted. The data, below, says why."
    yield from results.notices
    if is_of_earlier_fit(results):
        yield "The inference in this folder is of an earlier fit, and is not shown."
    unconverged = results.counts.get(VoxelStatus.NOT_CONVERGED, 0)
    if unconverged > _MUCH_UNCONVERGED * max(results.n_fitted, 1):
        yield f"The iterations did not converge at {count(unconverged, 'voxel')}."
    for factor in results.factors:
        if factor.n_levels < _FEW_LEVELS:
            yield (
                f"{factor.name} has {count(factor.n_levels, 'level')} only: its variance is hardly "
                "known, and it may serve better as a column of X."
            )
    if run.inferred is not None and run.inferred.description["Groups"] < _FEW_GROUPS:
        yield (
            f"The resampling has {run.inferred.description['Groups']} independent groups of images "
            "only: it has little power, and no p can be small."
        )
    rejected = [each.contrast.name for each in run.findings.values() if not each.is_tested.any()]
    if rejected and results.n_fitted:
        yield f"Tested at no voxel: {join_some((cut_name(name, 80) for name in rejected), 5)}."
    if run.is_mixed and run.inferred is None and min(f.n_levels for f in results.factors) < 30:
        yield (
            "With so few levels, false discovery rates of a mixed model are somewhat too large "
            "(about 10 % where 5 % are asked for, of 12 to 24 people). Resampling is safer."
        )
