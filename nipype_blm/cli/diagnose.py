"""``nipype-blm diagnose``: what a model leaves, which images stand out, and why."""

import argparse
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import OK, add_common_options, describe
from nipype_blm.cli.terminal import escape_name

_DESCRIPTION = (
    "Read the images of a run once more, and write what its model leaves into OUT/diagnostics: "
    "maps of residuals, leverage and standardised effects, images.tsv with the images that stand "
    "out and why, levels.tsv with the levels of random factors."
)


def add_diagnose(tools: Any) -> None:
    """Add the command ``diagnose`` to those of ``nipype-blm``."""
    parser = tools.add_parser("diagnose", help="find images that stand out, write residuals")
    examples = [
        "results",
        "results --save residuals,fitted",
        "results elsewhere --save blups",
    ]
    describe(parser, _DESCRIPTION, examples)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of results of a run")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="folder for the files, that is empty or of earlier diagnostics; default: "
        "OUT/diagnostics",
    )
    parser.add_argument(
        "--save",
        metavar="WHAT,...",
        default="",
        help="write one map for each image: residuals, standardised_residuals, fitted; or for each "
        "level of a random factor: blups",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the diagnostics of other results in DIR"
    )
    add_common_options(parser)
    parser.set_defaults(action=_act, interrupted="The same command begins again.")


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.plugins import count_cores
    from nipype_blm.cli.progress import NewWork, show_progress
    from nipype_blm.report.summary import summarise_diagnostics
    from nipype_blm.results.results import Results
    from nipype_blm.stages.diagnostics import diagnose

    results = Results(arguments.out)
    save = [name.strip() for name in arguments.save.split(",") if name.strip()]
    work = NewWork([len(results.images)], [results.n_fitted])
    with show_progress(work, arguments.quiet):
        found = diagnose(
            results.folder,
            arguments.folder,
            save,
            count_cores(),
            overwrite=arguments.overwrite,
        )
    if not arguments.quiet:
        print(summarise_diagnostics(found, escape_name))
    return OK
