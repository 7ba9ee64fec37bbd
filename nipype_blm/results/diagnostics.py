"""Diagnostics of a folder of results: which maps and tables there are, and their one reader."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.diagnostics import (
    LARGE,
    OUTLYING,
    ImageSums,
    LevelSums,
    divide,
    measure_outlyingness,
)
from nipype_blm.core.linalg import FloatArray
from nipype_blm.data.kinds import find_map, load_image
from nipype_blm.errors import InputError, join_some, show
from nipype_blm.io.described import format_described
from nipype_blm.results.export import ExportedKind, make_pattern
from nipype_blm.results.results import Results
from nipype_blm.results.saved import SavedImage

DEFAULT_FOLDER = "diagnostics"  # in that of the results
_OF_CONTRAST = "contrasts/contrast-{label}_stat-"
_OF_IMAGE = "/image-{n}_desc-"
_OF_LEVEL = "blups/factor-{n}_level-{n}_desc-"

MAPS = (
    ExportedKind(
        *("desc-residualSD_map", "run", "residualSD", "estimate", "residual_sd_map"),
        "residual standard deviation",
    ),
    ExportedKind(
        *("desc-residualSkewness_map", "run", "residualSkewness", "none", "skewness_map"),
        "skewness of the residuals",
    ),
    ExportedKind(
        *("desc-leverage_map", "run", "leverage", "none", "leverage_map"),
        "leverage of the images present: mean, and largest",
    ),
    ExportedKind(
        *(f"{_OF_CONTRAST}cohensD_statmap", "T", "cohensD", "none", "cohens_d_maps"),
        "Cohen's d of each T contrast of blm, with 95 % limits",
    ),
    ExportedKind(
        *(f"{_OF_CONTRAST}partialR2_statmap", "any", "partialR2", "none", "partial_r2_maps"),
        "partial R2 of each contrast of blm, with 95 % limits",
    ),
    ExportedKind(
        *(f"{_OF_CONTRAST}seRatio_statmap", "any", "seRatio", "none", "se_ratio_maps"),
        "standard error of each contrast of blmm over that of least squares",
    ),
)
SAVED = {
    "residuals": (
        ExportedKind(
            *(f"residuals{_OF_IMAGE}residuals_map", "image", "residuals", "estimate"),
            *("residual_maps", "residuals of each image, if saved"),
        ),
    ),
    "standardised_residuals": (
        ExportedKind(
            f"standardised_residuals{_OF_IMAGE}standardisedResiduals_map",
            *("image", "standardisedResiduals", "none", "standardised_residual_maps"),
            "standardised residuals of each image, if saved",
        ),
    ),
    "fitted": (
        ExportedKind(
            *(f"fitted{_OF_IMAGE}fitted_map", "image", "fitted", "estimate", "fitted_maps"),
            "fitted values of each image, if saved",
        ),
    ),
    "blups": (
        ExportedKind(
            *(f"{_OF_LEVEL}blup_map", "level", "blup", "estimate", "blup_maps"),
            "random effects of each level, if saved",
        ),
        ExportedKind(
            *(f"{_OF_LEVEL}blupCovariance_map", "level", "blupCovariance", "estimate"),
            *("blup_covariance_maps", "their conditional covariances, if saved"),
        ),
    ),
}
ALL_MAPS = (*MAPS, *(each for kinds in SAVED.values() for each in kinds))
TEXTS = ("images.tsv", "images.json", "levels.tsv", "levels.json", "diagnostics.json")
FILE = TEXTS[-1]
OURS = make_pattern(ALL_MAPS, TEXTS)


class ImageRow(NamedTuple):
    """What is said of one image; NaN where nothing can be said."""

    image: str
    volume: int
    reason: str  # why it stands out; empty if it does not
    outlyingness: float
    mean_abs_standardised_residual: float
    share_above_3: float
    correlation_with_others: float
    spread: float
    missing: int
    share_missing: float
    non_finite: int | None
    mean_cooks_distance: float


class LevelRow(NamedTuple):
    """What is said of one random effect of one level."""

    factor: str
    level: str
    effect: str
    images: int
    share_missing: float
    mean_abs_blup: float


_IMAGES = {
    "image": "Path of the image when the model was fitted.",
    "volume": "Number of the volume in the image, from 0.",
    "reason": "Why the image stands out; n/a if it does not. It stands out if a measure differs "
    f"from the median of all images by more than {OUTLYING} times 1.4826 median absolute "
    "deviations, to the bad side, and by more than a least difference that matters.",
    "outlyingness": "The largest such difference, in units of 1.4826 median absolute deviations; "
    f"above {OUTLYING} the image stands out. The table is sorted by it.",
    "mean_abs_standardised_residual": "Mean over voxels of the absolute standardised residual: 0.8 "
    "of a normal distribution. blm: internally studentised; blmm: conditional residual over sigma.",
    "share_above_3": f"Share of the standardised residuals beyond {LARGE:g}: 0.003 of a normal "
    "distribution.",
    "correlation_with_others": "Correlation over voxels with the mean of the other images.",
    "spread": "Standard deviation over voxels, in units of the image; compared as a ratio.",
    "missing": "Voxels of the result at which the image has no value.",
    "share_missing": "The same as a share of all voxels of the result.",
    "non_finite": "Values that are infinite or beyond 1e40, taken as missing; n/a if not counted.",
    "mean_cooks_distance": "Mean over voxels of Cook's distance: how far the fit would move "
    "without the image.",
}
_LEVELS = {
    "factor": "Name of the random factor.",
    "level": "Label of the level.",
    "effect": "Name of the random effect.",
    "images": "Images of the level.",
    "share_missing": "Share of their values that are missing at the voxels of the result.",
    "mean_abs_blup": "Mean absolute random effect over the voxels at which the level has an image; "
    "in units of the images per unit of the effect.",
}


class _Measure(NamedTuple):
    """One thing by which images may stand out."""

    column: str
    sign: int  # 1 if large values are bad, -1 if small ones are
    least: float  # smallest difference from the median that matters
    words: Callable[[float, float], str]  # of the value and the median


_LOG_ZERO = float(np.log(np.finfo(float).tiny))  # in the place of the logarithm of 0


def _compare_spread(log_x: float, log_median: float) -> str:
    """Return by how much values vary more or less than those of others, of the logarithms."""
    if log_x <= _LOG_ZERO:
        return "the same value at all voxels"
    if log_median <= _LOG_ZERO:
        return "values vary, and those of others do not"
    return f"values vary {np.exp(log_x - log_median):.2g} times as much as those of others"


_MEASURES = (
    _Measure(
        *("mean_abs_standardised_residual", 1, 0.1),
        lambda x, median: f"large residuals ({x:.2f} sd on average, others {median:.2f})",
    ),
    _Measure(
        *("share_above_3", 1, 0.01),
        lambda x, median: f"{x:.1%} of the residuals beyond 3 sd (others {median:.1%})",
    ),
    _Measure(
        *("correlation_with_others", -1, 0.05),
        lambda x, median: f"unlike the others (correlation {x:.2f}, others {median:.2f})",
    ),
    _Measure("log_spread", 1, np.log(2), _compare_spread),
    _Measure("log_spread", -1, np.log(2), _compare_spread),
    _Measure(
        *("share_missing", 1, 0.05),
        lambda x, median: f"{x:.1%} of the voxels missing (others {median:.1%})",
    ),
    _Measure(
        *("non_finite", 1, 0.5),
        lambda x, median: f"{x:,.0f} values infinite or beyond 1e40 (others {median:,.0f})",
    ),
    _Measure(
        *("mean_cooks_distance", 1, 0.0),  # 4 / n, see `list_images`
        lambda x, median: f"decides the fit (Cook's distance {x:.2g}, others {median:.2g})",
    ),
)
_NO_VALUE = "no value at any voxel of the result"


def check_save(save: Sequence[str], is_mixed: bool) -> tuple[str, ...]:
    """Return what is to be saved, each once and in the order of `SAVED`.

    Raises
    ------
    InputError
        If something is not known, or the model has no random effects.
    """
    unknown = [name for name in save if name not in SAVED]
    if unknown:
        raise InputError(
            f"{join_some(map(show, unknown))} cannot be saved; expected some of {', '.join(SAVED)}."
        )
    if "blups" in save and not is_mixed:
        raise InputError(
            "blups cannot be saved, because a linear model has no random effects: leave them out."
        )
    return tuple(name for name in SAVED if name in save)


def list_images(
    results: Results,
    sums: ImageSums,
    non_finite: Sequence[int] | None = None,
    same: Mapping[int, Sequence[int]] | None = None,
) -> list[ImageRow]:
    """Return what is said of each image, the worst first.

    Parameters
    ----------
    results : Results
    sums : ImageSums
        Over all voxels of the result.
    non_finite : sequence of int, optional
        Values of each image that are infinite.
    same : mapping of int to sequence of int, optional
        Images that have the values of others at all voxels, and which.
    """
    n_obs, n_voxels = len(sums.n), max(results.n_fitted, 1)
    missing = n_voxels - sums.n
    spread = np.sqrt(divide(sums.squares, sums.n_pairs))
    columns = {
        "mean_abs_standardised_residual": sums.mean_standardised,
        "share_above_3": sums.share_large,
        "correlation_with_others": sums.correlation,
        "log_spread": np.log(spread, out=np.full(n_obs, _LOG_ZERO), where=spread != 0),
        "share_missing": missing / n_voxels,
        "non_finite": np.zeros(n_obs) if non_finite is None else np.asarray(non_finite, float),
        "mean_cooks_distance": sums.mean_cook,
    }
    scores, reasons = _judge(columns, sums.n > 0)
    for i, others in (same or {}).items():
        if not spread[i]:  # as where there is no lesion, say: alike without being copies
            continue
        scores[i] = np.inf
        names = join_some((_name_image(results.images[k]) for k in others), 3)
        reasons[i].insert(0, f"has the same values as {names}")
    rows = [
        ImageRow(
            image.image,
            image.volume,
            "; ".join(reasons[i]),
            float(scores[i]),
            float(columns["mean_abs_standardised_residual"][i]),
            float(columns["share_above_3"][i]),
            float(columns["correlation_with_others"][i]),
            float(spread[i]),
            int(missing[i]),
            float(columns["share_missing"][i]),
            None if non_finite is None else int(non_finite[i]),
            float(columns["mean_cooks_distance"][i]),
        )
        for i, image in enumerate(results.images)
    ]
    order = np.argsort(-scores, kind="stable")
    return [rows[i] for i in order]


def _name_image(image: SavedImage) -> str:
    """Return the name of the file, and the volume where there are several."""
    return f"{Path(image.image).name}{f', volume {image.volume}' * bool(image.volume)}"


def _judge(
    columns: Mapping[str, FloatArray], has_values: Any
) -> tuple[FloatArray, list[list[str]]]:
    """Return how far each image stands out, and why."""
    n_obs = has_values.size
    scores = np.where(has_values, 0.0, np.inf)
    reasons: list[list[str]] = [[] if has else [_NO_VALUE] for has in has_values]
    for measure in _MEASURES:
        values = columns[measure.column]
        # K. A. Bollen and R. W. Jackman, in J. Fox and J. S. Long, Modern Methods of Data
        # Analysis, 1990: Cook's distances above 4 / n.
        least = measure.least or 4 / n_obs
        away = measure_outlyingness(np.where(has_values, values, np.nan), measure.sign, least)
        scores = np.maximum(scores, away)
        known = ~np.isnan(values)
        median = float(np.median(values[known])) if known.any() else 0.0
        for i in np.flatnonzero((away > OUTLYING) & has_values):
            reasons[i].append(measure.words(float(values[i]), median))
    return scores, reasons


def list_levels(results: Results, images: ImageSums, sums: LevelSums) -> list[LevelRow]:
    """Return what is said of each random effect of each level, in their order."""
    n_voxels = max(results.n_fitted, 1)
    rows, level, column = [], 0, 0
    for k, factor in enumerate(results.factors):
        n_images = np.bincount(factor.level, minlength=factor.n_levels)
        n_values = np.bincount(factor.level, weights=images.n, minlength=factor.n_levels)
        for i, label in enumerate(results.level_names[k]):
            share = 1 - float(n_values[i]) / (n_voxels * int(n_images[i]))
            mean = divide(
                sums.blup[column : column + factor.n_effects],
                np.full(factor.n_effects, sums.n[level]),
            )
            rows += [
                LevelRow(factor.name, label, effect, int(n_images[i]), share, float(x))
                for effect, x in zip(results.effect_names[k], mean, strict=True)
            ]
            level, column = level + 1, column + factor.n_effects
    return rows


def format_images(rows: Sequence[ImageRow]) -> dict[str, str]:
    """Return the table of the images and its description, by the names of their files."""
    return format_described("images", "The images, the worst first.", _IMAGES, rows)


def format_levels(rows: Sequence[LevelRow]) -> dict[str, str]:
    """Return the table of the levels and its description, by the names of their files."""
    return format_described("levels", "The random effects of each level.", _LEVELS, rows)


def _list_outlying(images: Sequence[ImageRow]) -> list[ImageRow]:
    return [row for row in images if row.reason]


class Diagnostics(NamedTuple):
    """What was found, and the files that have all of it."""

    out_dir: Path
    outputs: dict[str, list[Path]]  # maps by the names of outputs of interfaces
    files: dict[str, Path]  # tables, by their names below the folder
    images: list[ImageRow]  # the worst first
    levels: list[LevelRow]
    se_ratio: dict[str, float]  # median over voxels of each contrast; of mixed models alone

    @property
    def outlying(self) -> list[ImageRow]:
        """The images that stand out."""
        return _list_outlying(self.images)


@dataclass(frozen=True, eq=False)
class SavedDiagnostics:
    """The diagnostics of a folder of results, as they were written."""

    results: Results
    folder: Path
    images: list[ImageRow]  # the worst first
    levels: list[LevelRow]
    se_ratio: dict[str, float]  # median over voxels of each contrast; of mixed models alone

    @property
    def outlying(self) -> list[ImageRow]:
        """The images that stand out."""
        return _list_outlying(self.images)

    def path(self, kind: str, label: str = "") -> Path:
        """Return the file of a map.

        Parameters
        ----------
        kind : str
            Such as ``residualSkewness``: that of one of `MAPS`.
        label : str, optional
            Of the contrast, as in names of files.
        """
        [name] = [each.file for each in MAPS if each.kind == kind]
        found = find_map(self.folder, name.format(label=label))
        if found is None:
            raise InputError(f"{self.folder} has no {name.format(label=label)}.")
        return found

    def image(self, kind: str, label: str = "") -> Any:
        """Return a map as an image of nibabel."""
        return load_image(self.path(kind, label))

    def vector(self, kind: str, label: str = "", volume: int = 0) -> FloatArray:
        """Return one volume of a map at the voxels of the result."""
        return self.results.read_vector(self.path(kind, label), volume)


def read_diagnostics(results: Results, folder: Path | None = None) -> SavedDiagnostics:
    """Return the diagnostics of a folder of results.

    Parameters
    ----------
    results : Results
    folder : Path, optional
        Where they are; default: ``diagnostics`` in the folder of results.

    Raises
    ------
    InputError
        If there are none, or those of another fit, or they are damaged.
    """
    folder = results.folder / DEFAULT_FOLDER if folder is None else folder
    again = f"`nipype-blm diagnose {results.folder}` makes them"
    if not (folder / FILE).exists():
        raise InputError(f"{folder} has no diagnostics; {again}.")
    try:
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
        stamp, ratios = said.get("Model"), said.get("MedianSERatio", {})
        images = [_read_image(*row) for row in _read_rows(folder / "images.tsv", _IMAGES)]
        levels = []
        if results.factors:
            levels = [_read_level(*row) for row in _read_rows(folder / "levels.tsv", _LEVELS)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"The diagnostics in {folder} cannot be read; {again} again.") from error
    if stamp != results.stamp:
        raise InputError(f"{folder} has the diagnostics of another fit; {again} again.")
    se_ratio = {name: np.nan if ratio is None else ratio for name, ratio in ratios.items()}
    return SavedDiagnostics(results, folder, images, levels, se_ratio)


def _read_rows(path: Path, columns: Mapping[str, str]) -> list[list[str]]:
    """Return the rows of a table with these columns."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    if header != list(columns):
        raise ValueError(f"{path} has other columns than {', '.join(columns)}.")
    return rows


def _read_number(cell: str) -> float:
    return float("nan") if cell == "n/a" else float(cell)


def _read_image(*cells: str) -> ImageRow:
    image, volume, reason, away, mean, above_3, correlation, spread, *rest = cells
    missing, share, non_finite, cook = rest
    return ImageRow(
        image,
        int(volume),
        "" if reason == "n/a" else reason,
        _read_number(away),
        _read_number(mean),
        _read_number(above_3),
        _read_number(correlation),
        _read_number(spread),
        int(missing),
        _read_number(share),
        None if non_finite == "n/a" else int(non_finite),
        _read_number(cook),
    )


def _read_level(
    factor: str, level: str, effect: str, images: str, share: str, blup: str
) -> LevelRow:
    return LevelRow(factor, level, effect, int(images), _read_number(share), _read_number(blup))
