"""What was asked: the model as an equation, X and its columns, contrasts, what was left out."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import join_some
from nipype_blm.model.design import find_vif
from nipype_blm.report.charts.design import draw_correlations, draw_design, draw_histogram
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.naming import cut_name
from nipype_blm.report.reported import Reported
from nipype_blm.report.tables import Table, cut, write_number
from nipype_blm.results.findings import describe_test, is_two_sided
from nipype_blm.results.results import ContrastResults

_MOST_TERMS = 6  # of an equation
_MOST_WEIGHTS = 6  # of a row of a contrast
_MOST_ROWS = 30  # of a table
_MOST_SQUARE = 60  # columns of a picture of correlations
_LONGEST = 40  # letters of a name
_LETTERS = "uvw"
LARGE_VIF = 5.0

_SCHEMES = {
    "treatment": "each column is the difference of a level from the reference",
    "sum": "each column is the difference of a level from the mean of all levels",
    "one column for each level": "each column is a level by itself",
}


class Term(NamedTuple):
    """A coefficient of the equation, and what it is multiplied with; nothing if that is 1."""

    number: str
    name: str


class RandomTerms(NamedTuple):
    """The random effects of a factor, as the equation has them."""

    letter: str
    factor: str
    n_levels: int
    terms: list[Term]
    n_more: int
    correlated: bool


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    results = run.results
    X, names, study = results.X, results.column_names, results.study
    vif = find_vif(X)
    largest = int(np.nanargmax(vif)) if np.isfinite(vif).any() or np.isinf(vif).any() else None
    excluded = [] if study is None else study.excluded
    return {
        "n_images": len(results.images),
        "fixed": _list_terms(X, names),
        "n_more": max(0, len(names) - _MOST_TERMS),
        "random": _list_random(results.factors, results.effect_names),
        "codings": _tabulate_codings(run),
        "columns": _tabulate_columns(X, names, vif),
        "largest_vif": None if largest is None else float(vif[largest]),
        "largest_vif_name": "" if largest is None else cut_name(names[largest], _LONGEST),
        "large_vif": LARGE_VIF,
        "contrasts": _tabulate_contrasts(run),
        "has_t": any(not each.is_f for each in results.contrasts.values()),
        "design": draw_design(X, names, results.factors),
        "correlations": _draw_correlations(X, names),
        "factors": _tabulate_factors(run),
        "histograms": _draw_levels(run),
        "n_excluded": len(excluded),
        "reasons": _count_reasons([each.reason for each in excluded]),
        "excluded": _tabulate_excluded(run),
    }


def _is_one(column: FloatArray) -> bool:
    return bool((column == 1).all())


def _list_terms(X: FloatArray, names: Sequence[str]) -> list[Term]:
    """Return the first terms; the numbers begin with 0 where the first is a constant."""
    start = 0 if _is_one(X[:, 0]) else 1
    return [
        Term(str(start + i), "" if _is_one(X[:, i]) else cut_name(name, _LONGEST))
        for i, name in enumerate(names[:_MOST_TERMS])
    ]


def _list_random(
    factors: Sequence[RandomFactor], effects: Sequence[Sequence[str]]
) -> list[RandomTerms]:
    return [
        RandomTerms(
            _LETTERS[k] if k < len(_LETTERS) else f"u({k + 1})",
            cut_name(factor.name, _LONGEST),
            factor.n_levels,
            [
                Term(
                    str(i) if factor.n_effects > 1 else "",
                    "" if _is_one(factor.Z[:, i]) else cut_name(name, _LONGEST),
                )
                for i, name in enumerate(effects[k][:_MOST_TERMS])
            ],
            max(0, factor.n_effects - _MOST_TERMS),
            factor.correlated,
        )
        for k, factor in enumerate(factors)
    ]


def _tabulate_codings(run: Reported) -> Table | None:
    """Return how categorical columns became columns of X."""
    study = run.results.study
    if study is None or not study.codings:
        return None
    rows = [
        (
            cut_name(each.variable, _LONGEST),
            join_some((cut_name(level, _LONGEST) for level in each.levels), 12),
            "none" if each.reference is None else cut_name(each.reference, _LONGEST),
            _SCHEMES.get(each.scheme, each.scheme),
        )
        for each in study.codings
    ]
    shown, more = cut(rows, _MOST_ROWS, "model/model.json")
    columns = ("column", "levels", "reference", "coding")
    return Table("Categorical columns, as they are written in X", columns, shown, more)


def _tabulate_columns(X: FloatArray, names: Sequence[str], vif: FloatArray) -> Table:
    """Return what each column of X is."""
    rows = []
    for i, name in enumerate(names[:_MOST_ROWS]):
        column = X[:, i]
        numbers = (column.min(), column.mean(), column.max(), column.std(ddof=1))
        written = [write_number(float(x)) for x in numbers]
        of_vif = write_number(float(vif[i]))
        rows.append((i + 1, cut_name(name, _LONGEST), *written, of_vif))
    left = len(names) - len(rows)
    more = f"... and {left:,} more, in model/X.tsv." if left else ""
    columns = ("", "column", "least", "mean", "largest", "standard deviation", "VIF")
    return Table("Columns of X over the images", columns, rows, more, sortable=True)


def write_weights(row: FloatArray, names: Sequence[str]) -> str:
    """Return the weights of a contrast that are not zero, as a sum."""
    used = np.flatnonzero(row)
    text = ""
    for i in used[:_MOST_WEIGHTS]:
        sign = "−" if row[i] < 0 else "+"
        size = abs(float(row[i]))
        factor = "" if size == 1 else f"{write_number(size, 4)} × "
        text += f" {sign} {factor}{cut_name(names[i], _LONGEST)}"
    more = used.size - _MOST_WEIGHTS
    text = text.removeprefix(" + ").removeprefix(" ").replace("− ", "−", text.startswith(" −"))
    return text + (f" ... and {more} more" if more > 0 else "")


def _tabulate_contrasts(run: Reported) -> Table:
    """Return the weights of each contrast."""
    names = run.results.column_names
    rows = [
        (cut_name(each.name, _LONGEST), _write_test(run, each), number + 1, weights)
        for each in run.results.contrasts.values()
        for number, weights in enumerate(_list_weights(each, names))
    ]
    shown, more = cut(rows, 2 * _MOST_ROWS, "model/contrasts.tsv")
    title = "Contrasts: weights that are not 0"
    return Table(title, ("contrast", "test", "row", "weights"), shown, more)


def _list_weights(contrast: ContrastResults, names: Sequence[str]) -> list[str]:
    rows = [write_weights(row, names) for row in contrast.weights[:_MOST_WEIGHTS]]
    left = len(contrast.weights) - len(rows)
    return [*rows, f"... and {left} more rows, in model/contrasts.tsv"] if left else rows


def _write_test(run: Reported, contrast: ContrastResults) -> str:
    """Return the test by which the findings of a contrast are told."""
    if contrast.is_f:
        return f"F: {'any of the rows' if len(contrast.weights) > 1 else 'the row'} is not 0"
    return describe_test(contrast, is_two_sided(contrast, run.inferred))


def _draw_correlations(X: FloatArray, names: Sequence[str]) -> Figure | None:
    """Draw the correlations of columns that vary, if there are two."""
    varies = np.flatnonzero(X.std(axis=0) > 1e-12 * np.abs(X).max(axis=0))
    left = varies.size - _MOST_SQUARE
    varies = varies[:_MOST_SQUARE]
    if varies.size < 2:
        return None
    r = np.asarray(np.corrcoef(X[:, varies], rowvar=False))
    i, j = np.unravel_index(np.argmax(np.abs(np.triu(r, 1))), r.shape)
    one, other = (cut_name(names[int(varies[k])], _LONGEST) for k in (i, j))
    written = f"{r[i, j]:.2f}".replace("-", "−")
    of = f" among the first {_MOST_SQUARE} that vary" if left > 0 else ""
    alt = f"The largest correlation of two columns of X{of} is {written}: {one} and {other}."
    return draw_correlations(r, [names[int(k)] for k in varies], alt)


def _tabulate_factors(run: Reported) -> Table | None:
    """Return how many levels each random factor has, and images they."""
    results = run.results
    if not results.factors:
        return None
    rows = []
    for factor, effects in zip(results.factors, results.effect_names, strict=True):
        n = np.bincount(factor.level)
        rows.append(
            (
                cut_name(factor.name, _LONGEST),
                join_some((cut_name(effect, _LONGEST) for effect in effects), 6),
                f"{n.size:,}",
                f"{n.min():,}",
                write_number(float(np.median(n))),
                f"{n.max():,}",
                f"{np.count_nonzero(n == 1):,}",
            )
        )
    numbers = ("least images", "median", "most", "levels with one image")
    columns = ("factor", "effects of a level", "levels", *numbers)
    return Table("Random factors: images of a level", columns, rows)


def _draw_levels(run: Reported) -> list[Figure]:
    """Draw the images per level of factors where they differ."""
    figures = []
    for factor in run.results.factors:
        n = np.bincount(factor.level)
        if n.max() - n.min() < 2:  # the table says it all
            continue
        name = cut_name(factor.name, _LONGEST)
        alt = f"Images of each of {n.size:,} levels of {name}: from {n.min():,} to {n.max():,}."
        caption = f"Images of the levels of {name}."
        figures.append(draw_histogram(n.astype(float), "images", "levels", alt, caption))
    return figures


def _count_reasons(reasons: Sequence[str]) -> list[tuple[str, int]]:
    """Return how many rows each reason excludes, if reasons repeat; the most frequent first."""
    counted = Counter(reasons).most_common(10)
    return counted if counted and counted[0][1] > 1 else []


def _tabulate_excluded(run: Reported) -> Table | None:
    """Return which rows of the table were left out."""
    study = run.results.study
    if study is None or not study.excluded:
        return None
    rows = [
        (
            cut_name(each.row, 120),
            cut_name(Path(each.image).name, 120) if each.image else "n/a",
            cut_name(each.reason, 300),
        )
        for each in study.excluded
    ]
    shown, more = cut(rows, _MOST_ROWS, "excluded.tsv")
    return Table("Rows that are not in the model", ("row", "image", "reason"), shown, more)
