"""``nipype-blm ngv install``: make the environment that has ArchNGV."""

import argparse
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import OK, RunError, add_common_options, describe, say

_DESCRIPTION = (
    "Make the environment that computes circuits: ArchNGV and what it needs, in versions that work "
    "together and not with those here.  It takes some minutes, 1 GB, Python 3.11 or 3.12 and a "
    "package index, as pip is set up to use it; where that has no wheel of openmesh, also a C++ "
    "compiler.  Do this once, on a disk that all nodes of a cluster see, from one with network."
)
_BEGINS_AGAIN = "Nothing uses what was begun; the same command makes all of it."


def add_install(tools: Any) -> None:
    """Add the command ``install`` to those of ``nipype-blm ngv``."""
    parser = tools.add_parser("install", help="make the environment that has ArchNGV")
    describe(parser, _DESCRIPTION, ["", "--folder /scratch/me/ngv --python python3.12"])
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="F",
        help="where; default: ~/.local/share/nipype_blm/ngv, where it is looked for",
    )
    parser.add_argument(
        "--python",
        type=Path,
        metavar="P",
        help="Python that it is made with; default: this one, or one that is found",
    )
    add_common_options(parser)
    parser.set_defaults(action=_install, interrupted=_BEGINS_AGAIN)


def _install(arguments: argparse.Namespace) -> int:
    from nipype_blm.ngv.environment.finding import VARIABLE, expand, find_default_folder
    from nipype_blm.ngv.environment.installing import InstallError, install

    default = find_default_folder()
    folder = default if arguments.folder is None else expand("--folder", arguments.folder)
    python = None if arguments.python is None else expand("--python", arguments.python)
    try:
        own = install(folder, python, _be_silent if arguments.quiet else say)
    except InstallError as error:
        raise RunError(str(error)) from error
    if not arguments.quiet:
        print(f"ArchNGV is there: {own}")
    if not arguments.quiet and folder.absolute() != default.absolute():
        print(f"It is found there by: export {VARIABLE}={own}")
    return OK


def _be_silent(text: str) -> None:
    """Take what is said."""
