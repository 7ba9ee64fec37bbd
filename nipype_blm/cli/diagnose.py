"""``nipype-blm diagnose``: what a model leaves, which images stand out, and why."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import (
    OK,
    add_common_options,
    add_report_options,
    add_resource_options,
    check_resource_options,
    describe,
)
from nipype_blm.cli.terminal import escape_name
from nipype_blm.units import GIB

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
    add_report_options(parser)
    add_resource_options(parser)
    add_common_options(parser)
    parser.set_defaults(action=_act, interrupted="The same command begins again.")


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.report import Wanted, conclude

    check_resource_options(arguments)
    diagnose_results(
        arguments.out,
        arguments.folder,
        [name.strip() for name in arguments.save.split(",") if name.strip()],
        arguments.n_procs,
        int(arguments.max_mem_gb * GIB),
        arguments.overwrite,
        arguments.quiet,
    )
    conclude(
        arguments.out,
        Wanted.choose(arguments.report, None, False),
        arguments.quiet,
        arguments.n_procs,
    )
    return OK


def diagnose_results(
    results_dir: Path,
    out_dir: Path | None,
    save: Sequence[str],
    n_procs: int | None,
    max_bytes: int,
    overwrite: bool = False,
    quiet: bool = False,
    work_dir: Path | None = None,
) -> None:
    """Write what the model of a folder of results leaves, and say what stands out."""
    from nipype_blm.cli.progress import NewWork, show_progress
    from nipype_blm.cli.recording import recording
    from nipype_blm.machine import count_cores
    from nipype_blm.report.summary import summarise_diagnostics
    from nipype_blm.results.results import Results
    from nipype_blm.stages.diagnostics import diagnose

    results = Results(results_dir)
    n_threads = min(n_procs or count_cores(), count_cores())
    work = NewWork([len(results.images)], [results.n_fitted])
    with recording(results.folder, "diagnose"), show_progress(work, quiet):
        found = diagnose(results.folder, out_dir, save, n_threads, max_bytes, overwrite, work_dir)
    if not quiet:
        print(summarise_diagnostics(found, escape_name))
