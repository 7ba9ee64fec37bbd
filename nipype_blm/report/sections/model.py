"""The model as fitted: variances, convergence, residuals, and what random effects changed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.status import VoxelStatus
from nipype_blm.report.charts.design import draw_histogram
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.charts.mosaics import draw_codes
from nipype_blm.report.charts.views import draw_map, make_image
from nipype_blm.report.naming import cut_name
from nipype_blm.report.reported import Reported
from nipype_blm.report.tables import Table, cut, write_number
from nipype_blm.results.diagnostics import LevelRow, SavedDiagnostics
from nipype_blm.results.results import Results

_MOST_ROWS = 30
_MOST_MAPS = 4  # of variances
_MOST_LEVELS = 5  # of a random effect
_LONGEST = 60  # letters of a name
_QUARTILES = ("lower quartile", "median", "upper quartile")
_ALL = ("least", *_QUARTILES, "largest")
SAME = 0.02  # a ratio of standard errors so close to 1 is no difference
HIGH_LEVERAGE = 0.9


class Share(NamedTuple):
    """Of a random factor in the variance, at the median voxel."""

    factor: str
    icc: float
    has_slopes: bool  # of which the intraclass correlation knows nothing


class Skewness(NamedTuple):
    """How many voxels have residuals more skewed than those of normal errors would be."""

    share: float
    bound: float  # at the median voxel, which 5 % of the voxels exceed for normal errors


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    results, diagnosed = run.results, run.diagnosed
    counts, ratios = results.counts, _find_ratios(run)
    return {
        "n_fitted": results.n_fitted,
        "shares": list(_list_shares(results)),
        "variances": _tabulate_variances(results) if run.is_mixed else None,
        "maps": _draw_variances(results) if run.is_mixed else [],
        "statuses": [(each, n) for each, n in counts.items() if each.is_fitted],
        "places": _draw_statuses(results),
        "iterations": _draw_iterations(results) if run.is_mixed else None,
        "maxnit": results.options.get("maxnit"),
        "residuals": _tabulate_residuals(results, diagnosed),
        "residual_maps": _draw_residuals(results, diagnosed),
        "skewness": _judge_skewness(results, diagnosed) if diagnosed else None,
        "high_leverage": _count_leverage(run),
        "leverage_bound": HIGH_LEVERAGE,
        "r2": _tabulate_r2(results),
        "ratios": _tabulate_ratios(run, ratios),
        "extreme_ratios": _find_extremes(ratios),
        "levels": _tabulate_levels(diagnosed) if diagnosed else None,
        "why_undiagnosed": run.why_undiagnosed,
    }


def _write(values: FloatArray, of: Sequence[float] = (0.25, 0.5, 0.75)) -> list[str]:
    """Return quantiles over voxels, n/a where there is no number."""
    known = values[np.isfinite(values)]
    if not known.size:
        return ["n/a"] * len(of)
    return [write_number(float(x)) for x in np.quantile(known, of)]


def _write_all(values: FloatArray) -> list[str]:
    return _write(values, (0, 0.25, 0.5, 0.75, 1))


def _list_volumes(results: Results, name: str) -> list[str]:
    return list(results.describe(name).get("Volumes", [])) if results.find(name) else []


def _list_shares(results: Results) -> Iterator[Share]:
    n_effects = {factor.name: factor.n_effects for factor in results.factors}
    for i, factor in enumerate(_list_volumes(results, "icc")):
        icc = float(np.median(results.vector("icc", i)))
        yield Share(cut_name(factor, _LONGEST), icc, n_effects.get(factor, 1) > 1)


def find_sigma(results: Results) -> FloatArray:
    """Return the residual standard deviation at the voxels of a result."""
    return np.sqrt(results.vector("sigma2" if results.factors else "resms"))


def _tabulate_variances(results: Results) -> Table:
    """Return the variances and covariances of random effects, and intraclass correlations."""
    rows: list[tuple[str, ...]] = []
    for i, label in enumerate(_list_volumes(results, "varcomp")[:_MOST_ROWS]):
        kind = "covariance" if _is_pair(results, i) else "variance"
        rows.append((f"{kind}, {cut_name(label, 2 * _LONGEST)}", _name_unit(results, i)))
        rows[-1] += tuple(_write(results.vector("varcomp", i)))
    rows.append(("residual variance σ²", "y²", *_write(results.vector("sigma2"))))
    for i, label in enumerate(_list_volumes(results, "icc")[:_MOST_ROWS]):
        name = f"intraclass correlation (ICC), {cut_name(label, _LONGEST)}"
        rows.append((name, "–", *_write(results.vector("icc", i))))
    left = len(_list_volumes(results, "varcomp")) - _MOST_ROWS
    more = f"... and {left:,} more, in {results.prefix}varcomp." if left > 0 else ""
    title = "Variances over the voxels of the result; y stands for the units of the images"
    return Table(title, ("quantity", "unit", *_QUARTILES), rows, more)


def _name_unit(results: Results, number: int) -> str:
    """Return the unit of an entry of all vech(D): only intercepts have that of the images."""
    return "y²" if _has_icc(results, number) else "y² per product of the units of the effects"


def _is_pair(results: Results, number: int) -> bool:
    """Return whether an entry of all vech(D) belongs to two random effects."""
    pairs = [
        i != j
        for factor in results.factors
        for i in range(factor.n_effects)
        for j in range(i, factor.n_effects)
    ]
    return pairs[number]


def _draw_variances(results: Results) -> list[Figure]:
    """Draw ICCs, and variances of effects that have none."""
    drawn = [
        draw_map(
            results.image("icc", i),
            title=f"Intraclass correlation (ICC) of {cut_name(label, _LONGEST)}",
            cmap="viridis",
            unit="ICC",
        )._replace(caption="Voxels at which it is 0 are not drawn.")
        for i, label in enumerate(_list_volumes(results, "icc"))
    ]
    for i, label in enumerate(_list_volumes(results, "varcomp")):
        if len(drawn) < _MOST_MAPS and not _is_pair(results, i) and not _has_icc(results, i):
            title = f"Variance, {cut_name(label, _LONGEST)}"
            image = results.image("varcomp", i)
            drawn.append(draw_map(image, title=title, cmap="viridis", unit="y² per unit²"))
    return drawn[:_MOST_MAPS]


def _has_icc(results: Results, number: int) -> bool:
    """Return whether an entry of all vech(D) is the variance of an intercept."""
    from nipype_blm.core.factors import find_intercepts

    return number in {row for row, _ in find_intercepts(results.factors).values()}


def _draw_statuses(results: Results) -> Figure | None:
    """Draw where voxels were fitted otherwise than the most of them."""
    found = [each for each in results.counts if each.is_fitted]
    odd = [each for each in found if each is not VoxelStatus.FITTED]
    if not odd:
        return None
    order = [VoxelStatus.FITTED, *odd]
    meanings = [(each, each.name.lower().replace("_", " ")) for each in order]
    parts = [f"{results.counts[code]:,} {words}" for code, words in meanings[1:]]
    alt = f"Slices of the status: {', '.join(parts)}, of {results.n_fitted:,} voxels."
    return draw_codes(results.image("status"), meanings, alt, "How voxels were fitted.")


def _draw_iterations(results: Results) -> Figure:
    nit = results.vector("nit")
    median, most = write_number(float(np.median(nit))), f"{int(nit.max()):,}"
    alt = f"The likelihood was evaluated {median} times at the median voxel, at most {most} times."
    return draw_histogram(nit, "evaluations of the likelihood", "voxels", alt, alt)


def _tabulate_residuals(results: Results, diagnosed: SavedDiagnostics | None) -> Table:
    rows = [
        ("residual standard deviation σ", "y", *_write_all(find_sigma(results))),
        ("images less the rank of X", "–", *_write_all(results.vector("edf"))),
    ]
    if diagnosed:
        skewness = diagnosed.vector("residualSkewness")
        rows.append(("skewness of the residuals", "–", *_write_all(skewness)))
        of = ", random effects included" if results.factors else ""
        for volume, words in enumerate(("mean leverage", "largest leverage of an image")):
            leverage = diagnosed.vector("leverage", volume=volume)
            rows.append((f"{words}{of}", "–", *_write_all(leverage)))
    title = "Residuals over the voxels of the result; y stands for the units of the images"
    return Table(title, ("quantity", "unit", *_ALL), rows)


def _draw_residuals(results: Results, diagnosed: SavedDiagnostics | None) -> list[Figure]:
    sigma = make_image(results, find_sigma(results))
    drawn = [draw_map(sigma, title="Residual standard deviation σ", cmap="viridis", unit="y")]
    if diagnosed:
        image = diagnosed.image("residualSkewness")
        title = "Skewness of the residuals"
        drawn.append(draw_map(image, title=title, cmap="RdBu_r", symmetric=True, unit="skewness"))
    return drawn


def _judge_skewness(results: Results, diagnosed: SavedDiagnostics) -> Skewness | None:
    """Compare the skewness of residuals with that of normal errors.

    The variance of the skewness of n normal numbers is 6 (n - 2) / ((n + 1) (n + 3)): R. A.
    Fisher, The moments of the distribution for normal samples of measures of departure from
    normality, Proceedings of the Royal Society A 130 (1930).
    """
    skewness, n = diagnosed.vector("residualSkewness"), results.vector("n")
    known = np.isfinite(skewness) & (n > 2)
    if not known.any():
        return None
    n = n[known]
    bound = 1.96 * np.sqrt(6 * (n - 2) / ((n + 1) * (n + 3)))
    share = float(np.mean(np.abs(skewness[known]) > bound))
    return Skewness(share, float(np.median(bound)))


def _count_leverage(run: Reported) -> int:
    """Return at how many voxels one image makes a result; random effects have leverage, too."""
    if run.diagnosed is None or run.is_mixed:
        return 0
    return int(np.count_nonzero(run.diagnosed.vector("leverage", volume=1) > HIGH_LEVERAGE))


def _tabulate_r2(results: Results) -> Table | None:
    """Return the partial R2 of F contrasts."""
    rows = [
        (cut_name(name, _LONGEST), *_write(results.vector("conR2", i)))
        for i, name in enumerate(_list_volumes(results, "conR2"))
    ]
    shown, more = cut(rows, _MOST_ROWS, f"{results.prefix}conR2")
    title = "Partial R² of F contrasts over the voxels of the result"
    return Table(title, ("contrast", *_QUARTILES), shown, more) if rows else None


def _find_ratios(run: Reported) -> dict[str, FloatArray]:
    """Return the standard errors of each contrast over those of least squares."""
    if not run.is_mixed or run.diagnosed is None:
        return {}
    found = {
        name: run.diagnosed.vector("seRatio", contrast.label)
        for name, contrast in list(run.results.contrasts.items())[:_MOST_ROWS]
    }
    estimable = {name: ratio[np.isfinite(ratio) & (ratio > 0)] for name, ratio in found.items()}
    return {name: ratio for name, ratio in estimable.items() if ratio.size}


def _tabulate_ratios(run: Reported, ratios: Mapping[str, FloatArray]) -> Table | None:
    rows = []
    for name, ratio in ratios.items():
        median = float(np.median(ratio))
        if abs(median - 1) <= SAME:
            words = "about the same"
        else:
            words = f"{max(median, 1 / median):.2f} times too {'small' if median > 1 else 'large'}"
        rows.append((cut_name(name, _LONGEST), *_write(ratio), words))
    left = len(run.results.contrasts) - _MOST_ROWS
    more = f"... and {left:,} more, in diagnostics/contrasts/." if left > 0 else ""
    title = "Standard error over that of least squares, which ignores the random factors"
    columns = ("contrast", *_QUARTILES, "least squares would have claimed")
    return Table(title, columns, rows, more) if rows else None


def _find_extremes(ratios: Mapping[str, FloatArray]) -> list[tuple[str, float]]:
    """Return the contrasts with the largest and the smallest median ratio, far from 1."""
    medians = {name: float(np.median(ratio)) for name, ratio in ratios.items()}
    if not medians:
        return []
    largest, smallest = (choose(medians, key=medians.__getitem__) for choose in (max, min))
    found = [largest] * (medians[largest] > 1 + SAME) + [smallest] * (medians[smallest] < 1 - SAME)
    return [(cut_name(name, _LONGEST), medians[name]) for name in found]


def _tabulate_levels(diagnosed: SavedDiagnostics) -> Table | None:
    """Return the levels with the largest random effects."""
    of_effects: dict[tuple[str, str], list[LevelRow]] = {}
    for row in diagnosed.levels:
        if np.isfinite(row.mean_abs_blup):
            of_effects.setdefault((row.factor, row.effect), []).append(row)
    rows = []
    for levels in of_effects.values():
        median = write_number(float(np.median([row.mean_abs_blup for row in levels])))
        levels.sort(key=lambda row: -row.mean_abs_blup)
        rows += [
            (
                *(cut_name(each, _LONGEST) for each in (row.factor, row.effect, row.level)),
                f"{row.images:,}",
                f"{row.share_missing:.1%}",
                write_number(row.mean_abs_blup),
                median,
            )
            for row in levels[:_MOST_LEVELS]
        ]
    shown, more = cut(rows, _MOST_ROWS, "diagnostics/levels.tsv")
    effects = ("mean |effect|", "median of all levels")
    columns = ("factor", "effect", "level", "images", "missing", *effects)
    title = f"The {_MOST_LEVELS} levels with the largest random effects, mean over voxels"
    return Table(title, columns, shown, more) if rows else None
