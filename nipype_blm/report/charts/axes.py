"""What the data at a peak are shown against, and what the model says along it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from nipype_blm.core.linalg import FloatArray
from nipype_blm.model.study import Study
from nipype_blm.results.results import ContrastResults
from nipype_blm.stages.voxelfits import VoxelFit

_MOST_CATEGORIES = 20
_MOST_POINTS = 100  # of a line
Kind = Literal["numeric", "category", "along", "fitted"]


@dataclass(frozen=True, eq=False)
class Axis:
    """The x axis of the data of one contrast."""

    kind: Kind
    name: str  # of the column of the table or of X; empty where there is none
    x: FloatArray  # (n_obs,); numbers of categories; NaN until a fit is known
    columns: NDArray[np.intp]  # of X, whose part in the fit is drawn
    categories: Sequence[str] = ()
    held_at_zero: bool = False  # the other columns; else at their means


@dataclass(frozen=True, eq=False)
class Line:
    """The fit along an axis, without random effects, and 95 % limits of it."""

    x: FloatArray
    y: FloatArray
    lower: FloatArray  # NaN where there is no such limit
    upper: FloatArray


@dataclass(frozen=True, eq=False)
class Shown:
    """The data of a peak along an axis, adjusted for all that is not on it; images present only."""

    axis: Axis
    rows: NDArray[np.intp]  # which images
    x: FloatArray
    y: FloatArray  # the part of the fit on the axis, and all that X leaves
    line: Line
    own: FloatArray  # the same fit with the random effects of each image


def choose_axis(contrast: ContrastResults) -> Axis:
    """Return what the data of a contrast are best seen against.

    A column of the study that the tested columns of X are made of; or else these themselves; or,
    where there are several, the direction of the contrast (T) or their part in the fit (F).
    """
    results = contrast.results
    X, names = results.X, results.column_names
    tested = np.flatnonzero(contrast.weights.any(axis=0))
    if results.study is not None:
        axis = _find_variable(results.study, X, names, tested)
        if axis is not None:
            return axis
    return _take_columns(contrast, X, names, tested)


def _find_variable(
    study: Study, X: FloatArray, names: Sequence[str], tested: NDArray[np.intp]
) -> Axis | None:
    """Return the column of the table that all tested columns are made of."""
    levels = {each.variable: [str(level) for level in each.levels] for each in study.codings}
    used = [_find_words(each, list(study.columns)) for each in names]
    of_tested = {name for k in tested for name in used[k]}
    if len(of_tested) != 1 or not all(used[k] for k in tested):
        return None
    [name] = of_tested
    cells = study.columns[name]
    if any(cell != cell for cell in cells):
        return None
    is_numeric = name not in levels and all(isinstance(cell, float) for cell in cells)
    values = [float(c) for c in cells] if is_numeric else [str(c) for c in cells]
    known, first, code = np.unique(np.array(values), return_index=True, return_inverse=True)
    own = np.array([k for k, words in enumerate(used) if words == {name}], np.intp)
    if (X[first][code][:, own] != X[:, own]).any():  # of a neighbouring row, say
        return None
    if is_numeric and known.size > 2:
        return Axis("numeric", name, np.array(values, float), own)
    labels = [f"{x:g}" for x in known] if is_numeric else known.tolist()
    if len(labels) > _MOST_CATEGORIES:
        return None
    coded = [level for level in levels.get(name, []) if level in labels]
    order = coded if len(coded) == len(labels) else labels
    place = np.array([order.index(label) for label in labels], float)
    return Axis("category", name, place[code], own, order)


def _find_words(column: str, variables: Sequence[str]) -> set[str]:
    """Return the variables that a column of X is made of, by its name."""
    plain = re.sub(r"\[[^\]]*\]", "", column)  # without levels
    return {name for name in variables if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", plain)}


def _take_columns(
    contrast: ContrastResults, X: FloatArray, names: Sequence[str], tested: NDArray[np.intp]
) -> Axis:
    """Return an axis of the columns of X themselves."""
    is_indicator = np.isin(X, (0, 1)).all(axis=0) & (X[:1] != X).any(axis=0)
    if is_indicator[tested].all() and (X[:, tested].sum(axis=1) <= 1).all():
        axis = _take_indicators(X, names, tested, is_indicator)
        if axis is not None:
            return axis
    if tested.size == 1:
        [column] = tested
        values, code = np.unique(X[:, column], return_inverse=True)
        name = names[column]
        if values.size == 1:  # a mean is where all else is 0
            return Axis("category", name, np.zeros(len(X)), tested, ("all images",), True)
        if values.size == 2:
            return Axis("category", name, code.astype(float), tested, [f"{x:g}" for x in values])
        return Axis("numeric", name, X[:, column], tested)
    nowhere = np.full(len(X), np.nan)
    if len(contrast.weights) == 1:
        return Axis("along", contrast.name, nowhere, tested)
    return Axis("fitted", ", ".join(names[k] for k in tested), nowhere, tested)


def _take_indicators(
    X: FloatArray, names: Sequence[str], tested: NDArray[np.intp], is_indicator: NDArray[np.bool_]
) -> Axis | None:
    """Return the groups of images that columns of 0 and 1 make, one column for each group."""
    columns, taken = tested.tolist(), X[:, tested].sum(axis=1)
    for k in np.flatnonzero(is_indicator):
        if k not in columns and not (taken * X[:, k]).any():
            columns.append(int(k))
            taken = taken + X[:, k]
    if not taken.all():  # those of other things, whose images have others in common
        columns = tested.tolist()
    columns.sort()
    if len(columns) == 1 or len(columns) >= _MOST_CATEGORIES:
        return None
    of_image = X[:, columns]
    x = np.where(of_image.any(axis=1), of_image.argmax(axis=1), len(columns)).astype(float)
    labels = [names[k] for k in columns] + ["none of these"] * bool((x == len(columns)).any())
    return Axis("category", "", x, np.array(columns, np.intp), labels)


def show(axis: Axis, contrast: ContrastResults, fit: VoxelFit, dof: float) -> Shown:
    """Return the data of a voxel along an axis, and the fit with limits of a t of so many dof."""
    rows = np.flatnonzero(fit.is_present)
    X = contrast.results.X[rows]
    left = (fit.y - fit.fixed)[rows]  # a mixed model leaves random effects, too
    t = float(stdtrit(dof, 0.975))
    if axis.kind == "along":
        x, y = _project(X, contrast.weights[0], fit)
        order = np.argsort(x)[[0, -1]]
        effect_sd = np.sqrt(contrast.weights[0] @ fit.covariance @ contrast.weights[0])
        half = t * np.abs(x[order]) * effect_sd
        at, height = (np.insert(each[order], 1, 0.0) for each in (x, y))
        half = np.insert(half, 1, 0.0)
        line = Line(at, height, height - half, height + half)
    else:
        held = X.mean(axis=0) * (not axis.held_at_zero)
        own = np.tile(held, (len(X), 1))
        own[:, axis.columns] = X[:, axis.columns]
        y = own @ fit.beta
        x = y if axis.kind == "fitted" else axis.x[rows]
        line = _draw_line(axis, x, own, fit, t)
    own_fit = y + sum((each.part[rows] for each in fit.levels), np.zeros(rows.size))
    return Shown(axis, rows, x, y + left, line, own_fit)


def _project(X: FloatArray, weights: FloatArray, fit: VoxelFit) -> tuple[FloatArray, FloatArray]:
    """Return the part of X that the contrast is estimated from, and the fit along it.

    By least squares the effect is a'y, a = X (X'X)^- c; so it is the slope of y on a / a'a.
    """
    a = np.linalg.pinv(X.T) @ weights
    x = a / max(float(a @ a), np.finfo(float).tiny)
    return x, x * float(weights @ fit.beta)


def _draw_line(axis: Axis, x: FloatArray, own: FloatArray, fit: VoxelFit, t: float) -> Line:
    if axis.kind == "fitted":
        ends = np.array([x.min(), x.max()])
        nothing = np.full(2, np.nan)
        return Line(ends, ends, nothing, nothing)
    _, first = np.unique(x, return_index=True)
    if axis.kind == "numeric" and first.size > _MOST_POINTS:
        chosen = np.linspace(0, first.size - 1, _MOST_POINTS).round().astype(int)
        first = first[chosen]
    y = own[first] @ fit.beta
    variance = np.einsum("ij,jk,ik->i", own[first], fit.covariance, own[first])
    half = t * np.sqrt(np.maximum(variance, 0))
    return Line(x[first], y, y - half, y + half)
