"""The report: one page of HTML, of one folder of results or of two."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import quote

from nipype_blm import __version__
from nipype_blm.data.kinds import look_at
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.report.naming import strip_common
from nipype_blm.report.reported import Reported
from nipype_blm.report.sections import (
    asked,
    beside,
    contrasts,
    data,
    inference,
    methods,
    model,
    running,
    verdict,
)
from nipype_blm.results.results import Results
from nipype_blm.stages.sampling import MOST_BYTES

_log = logging.getLogger(__name__)
_HEAD = 2000  # letters of a page that its stamp is in


class Section(NamedTuple):
    """One part of a report; its text is in ``templates/NAME.html.jinja``."""

    name: str  # also the anchor in the page
    title: str
    make: Callable[[Any], dict[str, Any]]  # of a Reported, all that the template shows
    applies: Callable[[Reported], bool] = lambda _: True


SECTIONS = (
    Section("verdict", "What was found", verdict.make),
    Section("asked", "What was asked", asked.make),
    Section("data", "The data", data.make),
    Section("model", "The model", model.make, lambda run: run.results.n_fitted > 0),
    Section("contrasts", "Contrasts", contrasts.make, lambda run: run.results.n_fitted > 0),
    Section("inference", "Corrected inference", inference.make, lambda run: bool(run.inferred)),
    Section("running", "How it ran", running.make),
    Section("methods", "Methods and files", methods.make),
)
BESIDE = Section("beside", "Side by side", beside.make)  # of both runs


class _Part(NamedTuple):
    """A section of one run, ready to be shown."""

    run: Reported
    html: str
    is_whole: bool = True


def write_report(
    runs: Sequence[Reported],
    out_file: Path,
    n_threads: int = 1,
    work_dir: Path | None = None,
    most_bytes: int = MOST_BYTES,
) -> Path:
    """Write the report of one folder of results, or of two side by side.

    Parameters
    ----------
    runs : sequence of Reported
    out_file : Path
        Replaced all at once.  Nothing else is needed to read it.
    n_threads, work_dir, most_bytes
        To read the values of the images at the highest voxels, as for
        `nipype_blm.stages.sampling.sample_values`.

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        Without nipype_blm[plot].
    InputError
        If a background is no image.
    """
    import matplotlib as mpl
    import nilearn

    _log.debug("matplotlib %s, nilearn %s", mpl.__version__, nilearn.__version__)
    runs = tell_apart(runs)
    for run in runs:
        if run.background is not None:
            look_at(run.background)
        run.read_values(n_threads, work_dir, most_bytes)
    environment = make_environment(out_file.absolute().parent)
    sections = []
    for section in SECTIONS:
        parts = [
            _make(environment, section, run, i)
            for i, run in enumerate(runs)
            if section.applies(run)
        ]
        sections += [(section, parts)] if parts else []
    if len(runs) == 2:
        sections.insert(1, (BESIDE, [_make(environment, BESIDE, runs[0], 0, runs)]))
    page = environment.get_template("page.html.jinja").render(
        runs=runs,
        sections=sections,
        style=_read(environment, "style.css"),
        script=_read(environment, "page.js"),
        version=__version__,
        # What could not be made may be another time: such a page is not taken for the report.
        stamp=_stamp(runs) if all(part.is_whole for _, parts in sections for part in parts) else "",
    )
    write_if_changed(out_file, page.encode("utf-8", "replace"))
    return out_file


def tell_apart(runs: Sequence[Reported]) -> Sequence[Reported]:
    """Return runs with names that differ, as far as their folders do."""
    if len({run.name for run in runs}) == len(runs):
        return runs
    names = strip_common([str(run.folder) for run in runs])
    return [replace(run, called=name) for run, name in zip(runs, names, strict=True)]


def is_current(out_file: Path, runs: Sequence[Reported]) -> bool:
    """Return whether a file is the report of these runs as they are now, by this version."""
    try:
        with out_file.open(encoding="utf-8", errors="replace") as file:
            return _stamp(runs) in file.read(_HEAD)
    except OSError:
        return False


def _stamp(runs: Sequence[Reported]) -> str:
    """Return a fingerprint of all that a report is made of."""
    parts = []
    for run in runs:
        said = [
            path for name in ("inference", "diagnostics") for path in run.folder.glob(f"{name}/*")
        ]
        states = sorted((path.name, path.stat().st_mtime_ns) for path in said)
        said_of = run.results.stamp, str(run.folder), str(run.background), states
        parts.append(repr(said_of))
    return fingerprint(__version__, *parts)


def find_place(runs: Sequence[Results]) -> Path:
    """Return the file of a report, where nothing else is asked for."""
    first, *others = [run.folder for run in runs]
    name = "".join(f"_beside_{other.name}" for other in others)
    return first / f"report{name}.html"


def _make(environment: Any, section: Section, run: Reported, number: int, of: Any = None) -> _Part:
    """Return a section; one that fails is said to, and the others are there all the same."""
    try:
        content = section.make(run if of is None else of)
        # Not the mapping itself, whose `keys` and the like a template would take for methods.
        html = environment.get_template(f"{section.name}.html.jinja").render(
            run=run, it=SimpleNamespace(**content), at=f"{section.name}-{number}"
        )
    except Exception as error:
        _log.warning("The section %r of the report could not be made: %s", section.title, error)
        _log.debug("Because of this:", exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        html = environment.get_template("failed.html.jinja").render(reason=reason)
        return _Part(run, html, is_whole=False)
    return _Part(run, html)


def _read(environment: Any, name: str) -> str:
    """Return a file beside the templates as it is."""
    return str(environment.loader.get_source(environment, name)[0])


def show_code(text: str) -> Any:
    """Return what stands between backticks as code, in a text of anybody's names."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick of a name
        return escape(text)
    shown = (Markup("<code>{}</code>" if i % 2 else "{}").format(p) for i, p in enumerate(pieces))
    return Markup("").join(shown)


def make_environment(folder: Path) -> Any:
    """Return what fills in templates; links are relative to a folder."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nipype_blm.report"),
        autoescape=True,  # names of columns, contrasts and files are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # As bytes, which names of files are: not all of them are text.
    environment.filters["link"] = lambda path: quote(os.fsencode(os.path.relpath(path, folder)))
    environment.filters["count"] = "{:,}".format
    environment.filters["code"] = show_code
    return environment
