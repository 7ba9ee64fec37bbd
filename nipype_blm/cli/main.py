"""``nipype-blm COMMAND``: all commands under one name, with the same options."""

import argparse
from collections.abc import Sequence
from functools import partial

from nipype_blm import __version__
from nipype_blm.cli.blockmap import add_blockmap
from nipype_blm.cli.command import EXIT_CODES, GOES_ON, describe, report_errors, run_process
from nipype_blm.cli.commands import add_commands
from nipype_blm.cli.compare import add_compare
from nipype_blm.cli.compile import add_compile
from nipype_blm.cli.diagnose import add_diagnose
from nipype_blm.cli.export import add_export
from nipype_blm.cli.fit import add_fit
from nipype_blm.cli.infer import add_infer
from nipype_blm.cli.init import add_init
from nipype_blm.cli.ngv import add_ngv
from nipype_blm.cli.pool import add_pool
from nipype_blm.cli.report import add_report
from nipype_blm.cli.study import take_filters
from nipype_blm.cli.tbss import add_tbss
from nipype_blm.cli.terminal import steady_streams

_EXAMPLES = (
    'fit bids results --formula "~ age + (1 | subject)" --space MNI152NLin6Asym',
    "fit study.yml results --check",
    "fit study.yml results",
    "infer results --n 5000",
    "compare intercept slope comparison",
    "diagnose results",
    "export results --to fsl",
    "report results",
    "pool start --pool pool.json --n-workers 4",
    "fit study.yml results --pool pool.json",
    "commands list.txt --pool pool.json",
    "blockmap blocks.yml",
    "ngv run bioname circuit",
)
_MORE = "`nipype-blm COMMAND --help` explains one.  blm, blmm and blmm_compare stand alone, too."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    with steady_streams():
        arguments = take_filters(_make_parser(), argv)
        return report_errors(partial(arguments.action, arguments), arguments.interrupted)


command = partial(run_process, main)  # as a process of its own


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("nipype-blm")
    what = "Big linear and linear mixed models at every voxel of many images."
    describe(parser, what, _EXAMPLES, f"{_MORE}\n{EXIT_CODES}")
    parser.add_argument("--version", action="version", version=f"nipype_blm {__version__}")
    parser.set_defaults(interrupted=GOES_ON)
    tools = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        *(add_fit, add_init, add_infer, add_diagnose, add_compare, add_export, add_report),
        *(add_tbss, add_blockmap, add_ngv, add_commands, add_pool, add_compile),
    ):
        add(tools)
    return parser


if __name__ == "__main__":
    command()
