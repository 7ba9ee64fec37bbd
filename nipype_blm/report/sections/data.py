"""The data: images at each voxel, what complete cases would have lost, images that stand out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.status import VoxelStatus
from nipype_blm.report.charts.design import draw_histogram
from nipype_blm.report.charts.drawing import Figure
from nipype_blm.report.charts.mosaics import Panel, draw_codes, draw_images
from nipype_blm.report.charts.views import draw_map
from nipype_blm.report.naming import cut_name, name_images
from nipype_blm.report.reported import Reported
from nipype_blm.report.tables import Table, cut, write_number
from nipype_blm.results.diagnostics import ImageRow, SavedDiagnostics

_MOST_PICTURES = 11  # of images that stand out; one more is a usual one
_MOST_ROWS = 30
_MOST_LEVELS = 20  # of a column by which missing values are told
_LONGEST = 60  # letters of a name


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    results = run.results
    lost = Lost.of(run)
    outlying = run.diagnosed.outlying if run.diagnosed else []
    shown = _choose_shown(run.diagnosed)
    return {
        "options": results.options,
        "own_masks": sum(image.mask is not None for image in results.images),
        "lost": lost,
        "lost_of_contrasts": _tabulate_lost(run, lost),
        "statuses": _tabulate_statuses(run),
        "places": _draw_statuses(run),
        "n_map": _draw_n(run),
        "n_histogram": _draw_n_histogram(lost),
        "n_outlying": len(outlying),
        "outlying": _tabulate_outlying(run.diagnosed),
        "pictures": _draw_outlying(run, shown),
        "groups": _tabulate_groups(run),
        "numbers": _correlate_numbers(run),
        "why_undiagnosed": run.why_undiagnosed,
    }


class Lost(NamedTuple):
    """What an analysis of voxels at which every image has data would have lost."""

    n_images: int
    n_with_data: int  # voxels of the analysis mask at which any image has data
    n_fitted: int
    n_complete: int  # voxels of the result at which every image has data
    n: FloatArray  # images with data at each voxel of the result
    is_lost: NDArray[np.bool_]  # of each voxel of the result

    @property
    def share(self) -> float:
        """Share of the voxels of the result."""
        return 1 - self.n_complete / self.n_fitted if self.n_fitted else 0.0

    @classmethod
    def of(cls, run: Reported) -> "Lost":
        """Return that of a run."""
        results = run.results
        n_images = len(results.images)
        empty = (VoxelStatus.OUTSIDE, VoxelStatus.NO_DATA)
        n_with_data = sum(n for each, n in results.counts.items() if each not in empty)
        n = results.vector("n") if results.n_fitted else np.zeros(0)
        is_lost = n < n_images
        return cls(n_images, n_with_data, n.size, int(n.size - is_lost.sum()), n, is_lost)


def _tabulate_lost(run: Reported, lost: Lost) -> Table | None:
    """Return how much of what each contrast found is where some image has no data."""
    if not lost.is_lost.any():
        return None
    rows = []
    for name, findings in run.findings.items():
        survives = findings.main.survives
        n, n_lost = int(survives.sum()), int((survives & lost.is_lost).sum())
        share = f"{n_lost / n:.0%}" if n else "n/a"
        rows.append((cut_name(name, _LONGEST), findings.main.words, f"{n:,}", f"{n_lost:,}", share))
    more = f"... and {run.n_left_out:,} more." if run.n_left_out else ""
    title = "Voxels found, and those of them that complete cases would have lost"
    return Table(title, ("contrast", "correction", "found", "lost", "share"), rows, more)


def _tabulate_statuses(run: Reported) -> Table:
    counts = {each: n for each, n in run.results.counts.items() if each is not VoxelStatus.OUTSIDE}
    total = max(sum(counts.values()), 1)
    rows = [
        (each.value, each.name, f"{n:,}", f"{n / total:.1%}", each.meaning)
        for each, n in counts.items()
    ]
    columns = ("value", "status", "voxels", "share", "meaning")
    return Table(f"Voxels of the analysis mask by {run.results.prefix}status", columns, rows)


def _draw_statuses(run: Reported) -> Figure | None:
    """Draw where voxels were dropped, if some were."""
    counts = run.results.counts
    empty = (VoxelStatus.OUTSIDE, VoxelStatus.NO_DATA)  # around the brain, most often
    dropped = [each for each in counts if each not in empty and not each.is_fitted]
    if not dropped:
        return None
    fitted = [each for each in counts if each.is_fitted]
    image = run.results.image("status")
    codes = np.asarray(image.dataobj).copy()
    codes[np.isin(codes, [each.value for each in fitted])] = VoxelStatus.FITTED.value
    meanings = [(VoxelStatus.FITTED.value, "fitted")] if fitted else []
    meanings += [(each.value, each.name.lower().replace("_", " ")) for each in dropped]
    n = sum(counts[each] for each in dropped)
    alt = f"Slices: {n:,} voxels with data were dropped; the table says for which reason."
    caption = "Where voxels with data were dropped."
    return draw_codes(nib.Nifti1Image(codes, image.affine), meanings, alt, caption)


def _draw_n(run: Reported) -> Figure | None:
    if not run.results.n_fitted:
        return None
    title = "Images with data at each voxel of the analysis mask"
    return draw_map(run.results.image("n"), title=title, cmap="viridis", unit="images")


def _draw_n_histogram(lost: Lost) -> Figure | None:
    if not lost.n_fitted:
        return None
    least, median = int(lost.n.min()), float(np.median(lost.n))
    alt = (
        f"Voxels of the result have data of {least:,} to {int(lost.n.max()):,} images, "
        f"the median voxel of {write_number(median)}."
    )
    return draw_histogram(lost.n, "images with data", "voxels", alt, alt)


def _name_images(rows: Sequence[ImageRow]) -> dict[tuple[str, int], str]:
    """Return a short name of each image."""
    names = name_images(rows)
    return {(row.image, row.volume): name for row, name in zip(rows, names, strict=True)}


def _tabulate_outlying(diagnosed: SavedDiagnostics | None) -> Table | None:
    if diagnosed is None or not diagnosed.outlying:
        return None
    names = _name_images(diagnosed.images)
    rows = [
        (i, cut_name(names[row.image, row.volume], 120), row.reason, f"{row.share_missing:.1%}")
        for i, row in enumerate(diagnosed.outlying, 1)
    ]
    shown, more = cut(rows, _MOST_ROWS, "diagnostics/images.tsv")
    columns = ("", "image", "why", "missing")
    return Table("Images that stand out, the worst first", columns, shown, more)


def _choose_shown(diagnosed: SavedDiagnostics | None) -> list[tuple[str, ImageRow]]:
    """Return the images to be drawn, the worst first, and one that is as most are."""
    if diagnosed is None or not diagnosed.outlying:
        return []
    names = _name_images(diagnosed.images)
    worst = diagnosed.outlying[:_MOST_PICTURES]
    shown = [(f"{i}. {names[row.image, row.volume]}", row) for i, row in enumerate(worst, 1)]
    usual = diagnosed.images[-1]
    of_usual = f"usual: {names[usual.image, usual.volume]}"
    return shown if usual.reason else [*shown, (of_usual, usual)]


def _draw_outlying(run: Reported, shown: Sequence[tuple[str, ImageRow]]) -> Figure | None:
    if not shown:
        return None
    by_name = {(each.image, each.volume): each for each in run.results.images}
    panels = [
        Panel(title, by_name[row.image, row.volume])
        for title, row in shown
        if (row.image, row.volume) in by_name
    ]
    return draw_images(panels, run.results.image("mask"))


def _find_shares(run: Reported) -> FloatArray | None:
    """Return the share of missing voxels of each image, in the order of X."""
    if run.diagnosed is None:
        return None
    shares = {(row.image, row.volume): row.share_missing for row in run.diagnosed.images}
    return np.array([shares.get((each.image, each.volume), np.nan) for each in run.results.images])


def _list_groups(run: Reported) -> Mapping[str, Sequence[Any]]:
    """Return the columns by which images are grouped: of the table, of X, and random factors."""
    results = run.results
    groups: dict[str, Sequence[Any]] = {}
    if results.study is not None:
        coded = {each.variable for each in results.study.codings}
        columns = results.study.columns
        groups |= {name: columns[name] for name in columns if name in coded}
    else:
        for i, name in enumerate(results.column_names):
            if np.unique(results.X[:, i]).size == 2:
                groups[name] = [write_number(float(x)) for x in results.X[:, i]]
    for factor, labels in zip(results.factors, results.level_names, strict=True):
        groups[factor.name] = [labels[i] for i in factor.level]
    return {name: cells for name, cells in groups.items() if len(set(cells)) <= _MOST_LEVELS}


def _tabulate_groups(run: Reported) -> Table | None:
    """Return how much is missing in each group of images."""
    shares = _find_shares(run)
    if shares is None or not np.nansum(shares):
        return None
    rows = []
    for name, cells in _list_groups(run).items():
        for level in dict.fromkeys(sorted(map(str, cells))):
            of_level = shares[[str(cell) == level for cell in cells]]
            rows.append(
                (
                    cut_name(name, _LONGEST),
                    cut_name(level, _LONGEST),
                    f"{of_level.size:,}",
                    f"{np.nanmean(of_level):.1%}",
                    f"{np.nanmax(of_level):.1%}",
                )
            )
    shown, more = cut(rows, 2 * _MOST_ROWS, "diagnostics/images.tsv, by image")
    columns = ("column", "level", "images", "missing on average", "missing at most")
    title = "Share of the voxels of the result without data, by group of images"
    return Table(title, columns, shown, more) if rows else None


def _correlate_numbers(run: Reported) -> list[tuple[str, str]]:
    """Return the correlation of each numeric column with the share of missing voxels."""
    shares = _find_shares(run)
    if shares is None or np.isnan(shares).any() or np.ptp(shares) == 0:
        return []
    results = run.results
    if results.study is not None:
        # Numbers that stand for groups are no numbers.
        groups = {each.variable for each in results.study.codings}
        groups |= {factor.name for factor in results.factors}
        columns = {k: list(v) for k, v in results.study.columns.items() if k not in groups}
    else:
        columns = {k: list(results.X[:, i]) for i, k in enumerate(results.column_names)}
    found = []
    for name, cells in columns.items():
        if not all(isinstance(cell, float) for cell in cells) or len(set(cells)) < 3:
            continue
        values = np.array(cells, float)
        known = np.isfinite(values)
        if known.sum() > 2 and np.ptp(values[known]) > 0 and np.ptp(shares[known]) > 0:
            r = float(np.corrcoef(values[known], shares[known])[0, 1])
            found.append((cut_name(name, _LONGEST), f"{round(r, 2) + 0.0:.2f}".replace("-", "−")))
    return found[:_MOST_ROWS]
