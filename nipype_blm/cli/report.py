"""``nipype-blm report``: one page of HTML from saved results; what every command ends with."""

import argparse
import logging
import os
from enum import Enum
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm.cli.command import OK, add_common_options, describe, say
from nipype_blm.cli.terminal import escape_name
from nipype_blm.errors import InputError
from nipype_blm.units import GIB

if TYPE_CHECKING:
    from nipype_blm.results.results import Results

# In the environment: whether commands that write a report do, where nothing else says so.
VARIABLE = "NIPYPE_BLM_REPORT"
_log = logging.getLogger(__name__)
_DESCRIPTION = (
    "Write report.html: what was found, drawn, corrected and criticised, from the files in OUT "
    "alone. With OUT2, two models side by side, and their comparison where one is nested in the "
    "other."
)
_NEEDS = "A report needs more: pip install 'nipype_blm[plot]'"


class Wanted(Enum):
    """Whether a report is to be written."""

    NO = "no"
    YES = "yes"
    RENEW = "renew"  # if there is one

    @classmethod
    def choose(cls, option: bool | None, field: bool | None, usual: bool) -> "Wanted":
        """Return what an option says, else the configuration, the environment, the command."""
        for said in (option, field):
            if said is not None:
                return cls.YES if said else cls.NO
        if os.environ.get(VARIABLE, "").lower() in ("no", "0", "false"):
            return cls.NO
        return cls.YES if usual else cls.RENEW


def add_report(tools: Any) -> None:
    """Add the command ``report`` to those of ``nipype-blm``."""
    parser = tools.add_parser("report", help="write one page of HTML about results")
    describe(
        parser,
        _DESCRIPTION,
        ["results", "results --out group.html", "mixed least_squares --out beside.html"],
    )
    parser.add_argument("results", type=Path, metavar="OUT", help="folder of results of a run")
    parser.add_argument(
        "other", type=Path, nargs="?", metavar="OUT2", help="another one, to stand beside it"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="default: OUT/report.html, or OUT/report_beside_OUT2.html",
    )
    parser.add_argument(
        "--background",
        type=Path,
        metavar="IMAGE",
        help="anatomy to draw on; default: the MNI template, for results in MNI space",
    )
    parser.add_argument(
        "--max-read-gb",
        type=float,
        default=2.0,
        metavar="GIB",
        help="read images of up to so many GiB in all, for the data at the highest peaks, unless "
        "they were saved or are in tiles; default 2",
    )
    add_common_options(parser)
    parser.set_defaults(action=_act, interrupted="The same command begins again.")


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.machine import count_cores
    from nipype_blm.report.page import find_place, write_report
    from nipype_blm.report.reported import Reported, open_reported
    from nipype_blm.results.results import Results

    if not 0 <= arguments.max_read_gb < inf:
        given = f"--max-read-gb {arguments.max_read_gb:g}"
        raise InputError(f"{given} was given; expected 0 or a number above it.")
    folders = [path for path in (arguments.results, arguments.other) if path is not None]
    # What is renewed is OUT/report.html: another page says nothing of that.
    is_own = arguments.out is None and arguments.other is None
    open_run = open_reported if is_own else Reported
    runs = [open_run(Results(folder), arguments.background) for folder in folders]
    out_file = arguments.out or find_place([run.results for run in runs])
    try:
        most = int(arguments.max_read_gb * GIB)
        written = write_report(runs, out_file, count_cores(), most_bytes=most)
    except ImportError as error:
        raise InputError(f"{_explain(error)}.") from error
    if not arguments.quiet:
        print(f"The report is {escape_name(str(written))}")
    return OK


def conclude(
    results_dir: Path,
    wanted: Wanted = Wanted.RENEW,
    quiet: bool = False,
    n_threads: int | None = None,
    work_dir: Path | None = None,
    background: Path | None = None,
) -> None:
    """Say what was found, and where the maps and the report are, which is written before.

    Findings that cannot be told and a report that cannot be written are no fault of a run: that
    is said, and that is all.  A background is drawn on again when the report is renewed.
    """
    from nipype_blm.results.results import Results

    results = Results(results_dir)
    place = results.folder / "report.html"
    folder = escape_name(str(results.folder))
    if not quiet:
        try:
            _say_findings(results)
        except Exception as error:  # whatever it is, the maps are there
            _say_fault("what was found cannot be told", error)
        print(f"The maps are in {folder}")
    if wanted is Wanted.YES or (wanted is Wanted.RENEW and place.is_file()):
        try:
            _renew(results, background, place, n_threads, work_dir)
        except ImportError as error:
            again = f"`nipype-blm report {folder}`"
            say(f"notice: the report was not written: {_explain(error)}; then run {again}.")
        except Exception as error:
            _say_fault("the report was not written", error)
        else:
            if not quiet:
                print(f"The report is {escape_name(str(place))}")
            return
    if place.is_file() and _is_outdated(results, place):
        say(
            f"notice: {escape_name(str(place))} is of an earlier state of these results; "
            f"`nipype-blm report {folder}` makes it again."
        )


def _explain(error: ImportError) -> str:
    """Return what to do about a library that is not there, or cannot be loaded."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. {_NEEDS}"
    return f"a library that it needs is installed, but cannot be loaded: {error}. Mend that"


def _say_fault(what: str, error: Exception) -> None:
    _log.debug("Because of this:", exc_info=True)
    is_told = isinstance(error, OSError | InputError)
    say(f"notice: {what}: {error if is_told else f'{type(error).__name__}: {error}'}")


def _say_findings(results: "Results") -> None:
    from nipype_blm.report.summary import MOST_CONTRASTS, summarise_findings
    from nipype_blm.results.findings import choose_first, find_inference, iterate_findings

    if not results.n_fitted:
        return
    inferred = find_inference(results)
    names = choose_first(results, inferred, MOST_CONTRASTS)
    found = iterate_findings(results, inferred, names)
    print(summarise_findings(found, escape_name, len(results.contrasts)))


def _renew(
    results: "Results",
    background: Path | None,
    place: Path,
    n_threads: int | None,
    work_dir: Path | None,
) -> None:
    """Write a report, unless it is there as it should be."""
    from nipype_blm.machine import count_cores
    from nipype_blm.report.page import is_current, write_report
    from nipype_blm.report.reported import open_reported

    run = open_reported(results, background)
    if not is_current(place, [run]):
        write_report([run], place, n_threads or count_cores(), work_dir)


def _is_outdated(results: "Results", place: Path) -> bool:
    """Return whether a report is of other maps than these."""
    from nipype_blm.report.page import is_current
    from nipype_blm.report.reported import open_reported

    return not is_current(place, [open_reported(results)])
