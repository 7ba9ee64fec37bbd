"""The report: one page of HTML, of one folder of results or of two."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from nipype_blm import __version__
from nipype_blm.io.files import write_if_changed
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

_log = logging.getLogger(__name__)


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

    section: Section
    run: Reported
    content: dict[str, Any]
    failure: str = ""


def write_report(runs: Sequence[Reported], out_file: Path) -> Path:
    """Write the report of one folder of results, or of two side by side.

    Parameters
    ----------
    runs : sequence of Reported
    out_file : Path
        Replaced all at once.  Nothing else is needed to read it.

    Returns
    -------
    Path
    """
    import matplotlib as mpl
    import nilearn

    _log.debug("matplotlib %s, nilearn %s", mpl.__version__, nilearn.__version__)
    environment = _make_environment(out_file.absolute().parent)
    parts = [[_make(section, run) for run in runs if section.applies(run)] for section in SECTIONS]
    if len(runs) == 2:
        parts.insert(1, [_make(BESIDE, runs[0], runs)])
    page = environment.get_template("page.html.jinja").render(
        runs=runs,
        sections=[(each[0].section, each) for each in parts if each],
        style=environment.loader.get_source(environment, "style.css")[0],
        script=environment.loader.get_source(environment, "page.js")[0],
        version=__version__,
    )
    write_if_changed(out_file, page.encode("utf-8", "replace"))
    return out_file


def find_place(runs: Sequence[Results]) -> Path:
    """Return the file of a report, where nothing else is asked for."""
    first, *others = [run.folder for run in runs]
    name = "".join(f"_beside_{other.name}" for other in others)
    return first / f"report{name}.html"


def _make(section: Section, run: Reported, of: Any = None) -> _Part:
    """Return a section; one that fails is said to, and the others are there all the same."""
    try:
        return _Part(section, run, section.make(run if of is None else of))
    except Exception as error:
        _log.exception("The section %r of the report could not be made.", section.title)
        return _Part(section, run, {}, f"{type(error).__name__}: {error}")


def _make_environment(folder: Path) -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nipype_blm.report"),
        autoescape=True,  # names of columns, contrasts and files are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["link"] = lambda path: quote(os.path.relpath(path, folder))
    environment.filters["count"] = "{:,}".format
    return environment
