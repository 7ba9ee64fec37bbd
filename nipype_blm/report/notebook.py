"""`nipype_blm.Results`: the results of a run, which show themselves in a notebook."""

import base64
import io
from collections.abc import Iterable
from html import escape

import nipype_blm.results.results
from nipype_blm.errors import InputError
from nipype_blm.report.figures import plot_z_maps, sort_contrasts
from nipype_blm.report.summary import list_counts

_MOST_DRAWN = 6  # contrasts; more of them take too long, and are more than a cell shows
_CELL = "style='text-align: left'"


class Results(nipype_blm.results.results.Results):
    """The results of one run of ``blm`` or ``blmm``, as a notebook shows them.

    All else is that of `nipype_blm.results.results.Results`: maps as images and arrays, contrasts
    by name, X, images, notices.

    Parameters
    ----------
    folder : path
        The outdir of the run.
    """

    def _repr_html_(self) -> str:
        """Return what was fitted, as a table, and the z maps if the extra ``plot`` is there."""
        rows = [(f"{n:,}", meaning) for n, meaning in list_counts(self)]
        tests = ((name, "F" if each.is_f else "T") for name, each in self.contrasts.items())
        return "\n".join(
            [
                "<div>",
                _make_table("", _describe_fit(self)),
                _make_table("Voxels", rows),
                _make_table("Contrasts", tests),
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


def _make_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [
        f"<tr><td {_CELL}>{escape(first)}</td><td {_CELL}>{escape(second)}</td></tr>"
        for first, second in rows
    ]
    heading = f"<b>{escape(title)}</b>" if title else ""
    return f"{heading}<table>{''.join(lines)}</table>"


def _draw(results: Results) -> str:
    """Return the thresholded z maps as a picture that needs no file; or why there is none."""
    names = sort_contrasts(results)[:_MOST_DRAWN]
    picture = io.BytesIO()
    try:
        plot_z_maps(results, picture, contrasts=names)
    except ImportError:
        return "<p>Install nipype_blm[plot] to see the z maps here.</p>"
    except InputError as error:  # maps that were not copied
        return f"<p>{escape(str(error))}</p>"
    n_left = len(results.contrasts) - len(names)
    more = f"<p>{n_left} more contrasts are not drawn.</p>" if n_left else ""
    code = base64.b64encode(picture.getvalue()).decode()
    return f"<img alt='z maps' style='max-width: 100%' src='data:image/png;base64,{code}'>{more}"
