"""``nipype-blm-bids BIDS_DIR OUT_DIR group``: a BIDS App, which fits a group model."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nipype_blm.cli.command import (
    EXIT_CODES,
    add_report_options,
    add_running_options,
    describe,
    report_errors,
    run_process,
)
from nipype_blm.cli.fit import fit_source
from nipype_blm.cli.study import add_study_options, take_filters
from nipype_blm.cli.terminal import steady_streams
from nipype_blm.errors import InputError

_EXAMPLE = (
    'bids results group --formula "~ age + (1 | subject)" --derivatives firstlevel --stat effect'
)
_LEVELS = ("participant", "group")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app; return its exit code."""
    with steady_streams():
        parser = _make_parser()
        arguments = take_filters(parser, _spell(argv))
        return report_errors(partial(_run, arguments))


command = partial(run_process, main)  # as a process of its own


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("nipype-blm-bids")
    describe(
        parser,
        "Fit one linear or linear mixed model at every voxel of the images of a BIDS data set. It "
        "is `nipype-blm fit`, with arguments in the order of BIDS Apps.",
        [_EXAMPLE],
        EXIT_CODES,
    )
    parser.add_argument(
        "config", type=Path, metavar="BIDS_DIR", help="BIDS data set, or its derivatives"
    )
    parser.add_argument("out", metavar="OUT_DIR", help="folder for the results")
    parser.add_argument(
        "level", choices=_LEVELS, metavar="LEVEL", help="group: the only level that there is"
    )
    add_study_options(parser, with_tables=False)
    add_running_options(parser, "check the headers of all images, and fit nothing")
    parser.add_argument("-w", dest="work_dir", metavar="DIR", help="as --work-dir")
    parser.add_argument(
        "--skip-bids-validation",
        action="store_true",
        help="accepted; data sets are not validated as a whole",
    )
    add_report_options(parser)
    parser.set_defaults(clean=False, cope=None, reports=True)
    return parser


def _spell(argv: Sequence[str] | None) -> list[str] | None:
    """Return arguments with options as they are spelt here: --participant_label is one."""
    if argv is None:
        import sys

        argv = sys.argv[1:]
    spelt = []
    for text in argv:
        name, equals, value = text.partition("=")
        is_option = name.startswith("--")
        spelt.append((name.replace("_", "-") if is_option else name) + equals + value)
    return spelt


def _run(arguments: argparse.Namespace) -> int:
    if arguments.level != "group":
        raise InputError(
            "LEVEL: participant was given, but a model of a group has no such level; give group."
        )
    return fit_source(arguments)


if __name__ == "__main__":
    command()
