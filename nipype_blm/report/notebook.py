"""`nipype_blm.Results`: the results of a run, which show themselves in a notebook."""

import base64
import io
from collections.abc import Iterable
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nipype_blm.results.results
from nipype_blm.errors import InputError, count, show
from nipype_blm.report.figures import plot_z_maps, sort_contrasts
from nipype_blm.report.summary import describe_nothing, list_counts
from nipype_blm.results.findings import Findings, Place, find_all, find_inference

if TYPE_CHECKING:
    from pandas import DataFrame

_MOST_DRAWN = 6  # contrasts; more of them take too long, and are more than a cell shows
_OF_NILEARN = {
    "effect_size": "effect",
    "effect_variance": "variance",
    "stat": "stat",
    "p_value": "p",
    "z_score": "z",
}
_CELL = "style='text-align: left'"


class Picture:
    """A picture that a notebook shows; ``save`` writes it."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def _repr_png_(self) -> bytes:
        return self.content

    def save(self, path: Path | str) -> Path:
        """Write the picture, a PNG."""
        Path(path).write_bytes(self.content)
        return Path(path)


class Results(nipype_blm.results.results.Results):
    """The results of one run of ``blm`` or ``blmm``, as a notebook shows them.

    All else is that of `nipype_blm.results.results.Results`: maps as images and arrays, contrasts
    by name, X, images, notices.

    Parameters
    ----------
    folder : path
        The outdir of the run.
    """

    @cached_property
    def findings(self) -> dict[str, Findings]:
        """What each contrast found, by name: corrected p, voxels that survive, clusters."""
        return find_all(self, find_inference(self))

    def clusters(self, contrast: str, correction: str | None = None) -> "DataFrame":
        """Return the clusters of voxels that survive a correction, and their peaks, as a table.

        Parameters
        ----------
        contrast : str
            Its name.
        correction : {"uncorrected", "fdr", "fwe"}, optional
            Default: fwe after an inference by resampling, else fdr.

        Returns
        -------
        DataFrame
            A row for each peak, the highest first: size, coordinates in mm, z, effect with its
            95 % limits, and p as corrected (q of fdr).
        """
        import pandas as pd

        found = self._find(contrast)
        known = {each.name: each for each in found.corrections}
        if correction is not None and correction not in known:
            raise InputError(f"{show(correction)} is no correction; expected {', '.join(known)}.")
        chosen = found.main if correction is None else known[correction]
        return pd.DataFrame(found.find_places(chosen), columns=Place._fields)

    def plot(self, contrast: str | None = None, alpha: float = 0.05, **options: Any) -> Picture:
        """Draw z maps over a template, thresholded by their false discovery rate.

        Parameters
        ----------
        contrast : str, optional
            Its name; default: the first ones.
        alpha : float
            False discovery rate.
        **options
            As `nipype_blm.report.figures.plot_z_maps` takes them: background, outline, title.
        """
        names = sort_contrasts(self)[:_MOST_DRAWN] if contrast is None else [contrast]
        for name in names:
            self._find(name)
        picture = io.BytesIO()
        plot_z_maps(self, picture, alpha, contrasts=names, **options)
        return Picture(picture.getvalue())

    def to_nilearn(self) -> dict[str, dict[str, Any]]:
        """Return the maps of each contrast, named as ``compute_contrast`` of nilearn names them.

        Returns
        -------
        dict of str to dict of str to image
            By contrast: ``effect_size``, ``effect_variance``, ``stat``, ``p_value`` and
            ``z_score``, as of ``output_type="all"``.
        """
        return {
            name: {of_nilearn: each.image(ours) for of_nilearn, ours in _OF_NILEARN.items()}
            for name, each in self.contrasts.items()
        }

    def report(self, out_file: Path | str | None = None) -> Path:
        """Write one page of HTML about the results, and return its path.

        Parameters
        ----------
        out_file : path, optional
            Default: report.html in the folder.
        """
        from nipype_blm.report.page import find_place, write_report
        from nipype_blm.report.reported import open_reported

        place = find_place([self]) if out_file is None else Path(out_file)
        return write_report([open_reported(self)], place)

    def _find(self, contrast: str) -> Findings:
        if contrast not in self.contrasts:
            has = ", ".join(map(show, self.contrasts))
            raise InputError(f"{show(contrast)} is no contrast of these results; they have {has}.")
        return self.findings[contrast]

    def _repr_html_(self) -> str:
        """Return what was fitted and found, as tables, and the z maps if ``plot`` is there."""
        rows = [(f"{n:,}", meaning) for n, meaning in list_counts(self)]
        return "\n".join(
            [
                "<div>",
                _make_table("", _describe_fit(self)),
                _make_table("Voxels", rows),
                _list_findings(self),
                *(f"<p>{escape(notice)}</p>" for notice in self.notices),
                _draw(self),
                "</div>",
            ]
        )


def _describe_fit(results: Results) -> Iterable[tuple[str, str]]:
    """Yield what was fitted, and where it is."""
    kinds = {"blm": "linear model", "blmm": "linear mixed model"}
    how = f", {results.criterion}" if results.criterion else ""
    yield "Model", f"{kinds[results.model]} ({results.model} {results.versions['nipype_blm']}{how})"
    yield "Folder", str(results.folder)
    yield "Images", f"{len(results.images):,}"
    yield "Columns of X", ", ".join(results.column_names)
    for factor, effects in zip(results.factors, results.effect_names, strict=True):
        yield "Random factor", f"{factor.name}: {factor.n_levels:,} levels; {', '.join(effects)}"


def _list_findings(results: Results) -> str:
    """Return what each contrast found."""
    try:
        findings = results.findings.values()
    except InputError as error:  # maps that were not copied
        return _make_table("Contrasts", [(name, str(error)) for name in results.contrasts])
    rows = []
    for each in findings:
        peaks = each.peaks
        said = describe_nothing(each)
        if peaks:
            where = ", ".join(each.write_places((peaks[0].x, peaks[0].y, peaks[0].z)))
            said = (
                f"{count(each.main.n_voxels, 'voxel')} in {count(len(peaks), 'cluster')}; "
                f"z {peaks[0].peak_z:.2f} at {where} mm"
            )
        rows.append((f"{each.contrast.name} ({'F' if each.contrast.is_f else 'T'})", said))
    words = next((each.main.words for each in findings), "")
    return _make_table(f"Found with {words}" if words else "Contrasts", rows)


def _make_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [
        f"<tr><td {_CELL}>{escape(first)}</td><td {_CELL}>{escape(second)}</td></tr>"
        for first, second in rows
    ]
    heading = f"<b>{escape(title)}</b>" if title else ""
    return f"{heading}<table>{''.join(lines)}</table>"


def _draw(results: Results) -> str:
    """Return the thresholded z maps as a picture that needs no file; or why there is none."""
    try:
        picture = results.plot()
    except ImportError:
        return "<p>Install nipype_blm[plot] to see the z maps here.</p>"
    except InputError as error:  # maps that were not copied
        return f"<p>{escape(str(error))}</p>"
    n_left = max(0, len(results.contrasts) - _MOST_DRAWN)
    more = f"<p>{n_left} more contrasts are not drawn.</p>" if n_left else ""
    code = base64.b64encode(picture.content).decode()
    return f"<img alt='z maps' style='max-width: 100%' src='data:image/png;base64,{code}'>{more}"
