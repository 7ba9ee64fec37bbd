"""What is shown of a run before it: its design, its contrasts, and which row is whose image."""

from collections.abc import Iterable, Sequence

import numpy as np

from nipype_blm.cli.terminal import escape_name
from nipype_blm.core.factors import RandomFactor
from nipype_blm.data.spec import ModelSpec
from nipype_blm.errors import shorten
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.design import find_vif
from nipype_blm.model.study import Coding, Excluded, Study
from nipype_blm.stages.notices import Pair
from nipype_blm.stages.plan import PreparedRun

_MOST_VALUES = 6  # of the row of an image
_MOST_EXCLUDED = 20
_MOST_LEVELS = 12  # of a categorical column, that are named


def describe_run(run: PreparedRun, keep: str) -> str:
    """Return what would be fitted, how the work would be cut up, and what is kept in the end."""
    plan, spec = run.plan, run.spec
    contrasts = run.contrasts.contrasts
    kept = {"contrasts": plan.kept_bytes, "nothing": 0}.get(keep, plan.disk_bytes)
    return "\n".join(
        [
            f"{spec.n_obs} images, {spec.n_params} columns of X, {spec.n_voxels} voxels, "
            f"{len(contrasts)} contrasts: all good.",
            *([] if run.study is None else _describe_study(run.study)),
            *(_describe_factor(factor) for factor in spec.factors),
            f"{plan.n_batches} batches of up to {plan.images_per_batch} images, "
            f"{plan.n_blocks} blocks of up to {plan.voxels_per_block} voxels; "
            f"up to {(plan.disk_bytes + plan.map_bytes) / 1e9:.2f} GB of disk, "
            f"{(kept + plan.map_bytes) / 1e9:.2f} GB of which stay (keep: {keep}).",
            *_describe_taken(run),
            "",
            *_describe_model(run),
            "",
            "Images and their rows:",
            *_describe_pairs(run.pairs, spec),
        ]
    )


def describe_study(run: PreparedRun) -> str:
    """Return what a formula has made of its table, to be seen before it is fitted."""
    assert run.study is not None
    factors = [_describe_factor(factor) for factor in run.spec.factors]
    return "\n".join([*_describe_study(run.study), *factors, "", *_describe_model(run)])


def _describe_study(study: Study) -> list[str]:
    n_images = len(next(iter(study.columns.values())))
    return [
        f"Formula: {escape_name(shorten(study.formula))}",
        f"{n_images} images with a row; {len(study.excluded)} left out"
        + (":" if study.excluded else "."),
        *_describe_excluded(study.excluded),
        *(["Categorical columns:"] if study.codings else []),
        *_align(map(_describe_coding, study.codings)),
    ]


def _describe_excluded(excluded: Sequence[Excluded]) -> list[str]:
    lines = _align((each.row, each.reason) for each in excluded[:_MOST_EXCLUDED])
    more = len(excluded) - _MOST_EXCLUDED
    return [*lines, f"  ... and {more} more"] if more > 0 else lines


def _describe_coding(coding: Coding) -> tuple[str, ...]:
    levels = list(coding.levels[:_MOST_LEVELS])
    more = len(coding.levels) - len(levels)
    named = ", ".join(levels) + (f", ... {more} more" if more else "")
    reference = "" if coding.reference is None else f"reference {coding.reference}"
    return (coding.variable, f"{coding.scheme} coding", reference, f"levels {named}")


def _describe_taken(run: PreparedRun) -> list[str]:
    """Return how many images are read, if an earlier run has read some."""
    n = max(run.taken.n_images, run.n_in_tiles)
    return [f"{run.spec.n_obs - n} images are read, {n} are taken from the last run."] if n else []


def _describe_factor(factor: RandomFactor) -> str:
    counts = np.bincount(factor.level, minlength=factor.n_levels)
    few, many = int(counts.min()), int(counts.max())
    images = f"{few}" if few == many else f"{few} to {many} (median {np.median(counts):g})"
    return (
        f"Random factor {escape_name(factor.name)}: {factor.n_levels} levels, "
        f"{factor.n_effects} effect{'s' * (factor.n_effects > 1)} of each; "
        f"{images} image{'s' * (many > 1)} per level."
    )


def _describe_model(run: PreparedRun) -> list[str]:
    """Return the columns of X, and the contrasts as weights of these."""
    spec = run.spec
    contrasts = run.contrasts.contrasts
    return [
        *_describe_columns(spec),
        f"  rank {spec.design.rank} of {spec.n_params} columns",
        "",
        "Contrasts:",
        *_align(row for each in contrasts for row in _describe_contrast(each, spec.names)),
    ]


def _describe_columns(spec: ModelSpec) -> list[str]:
    factors = find_vif(spec.X)
    rows = [
        (
            *(f"{i}", name, f"{column.min():g}", f"{column.max():g}"),
            *(f"{np.unique(column).size}", "" if np.isnan(vif) else f"{vif:.3g}"),
        )
        for i, (name, column, vif) in enumerate(zip(spec.names, spec.X.T, factors, strict=True), 1)
    ]
    return _align([("", "column of X", "min", "max", "distinct", "VIF"), *rows])


def _describe_contrast(contrast: Contrast, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the name and each row of a contrast, such as 1*age - 0.5*group."""
    title = f"{contrast.name} ({'F' if contrast.is_f else 'T'}):"
    rows = [_write_sum(weights, names) for weights in contrast.matrix.tolist()]
    return [(title if i == 0 else "", row) for i, row in enumerate(rows)]


def _write_sum(weights: Sequence[float], names: Sequence[str]) -> str:
    terms = [
        f"{'-' if weight < 0 else '+'} {abs(weight):g}*{name}"
        for weight, name in zip(weights, names, strict=True)
        if weight
    ]
    text = " ".join(terms)
    return text.removeprefix("+ ") if text.startswith("+") else f"-{text[2:]}"


def _describe_pairs(pairs: Sequence[Pair], spec: ModelSpec) -> list[str]:
    """Return a line for each pair, and one where images in between are left out."""
    lines = _align(_describe_pair(pair, spec) for pair in pairs)
    n_hidden = spec.n_obs - len(pairs)
    half = len(pairs) // 2
    return [*lines[:half], f"  ... {n_hidden} more", *lines[half:]] if n_hidden else lines


def _describe_pair(pair: Pair, spec: ModelSpec) -> tuple[str, ...]:
    named = list(zip(spec.names, pair.values, strict=True))
    values = ", ".join(f"{name} {value:g}" for name, value in named[:_MOST_VALUES])
    more = ", ..." if len(named) > _MOST_VALUES else ""
    levels = (
        f"{factor.name}: {level}" for factor, level in zip(spec.factors, pair.levels, strict=True)
    )
    return (pair.image, f"row {pair.row}", pair.name, values + more, *levels)


def _align(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return rows of cells as lines whose columns begin below each other."""
    cells = [tuple(map(escape_name, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True) if w).rstrip()
        for row in cells
    ]
