"""``nipype-blm COMMAND``: all commands under one name, with the same options."""

import argparse
from collections.abc import Sequence
from functools import partial

from nipype_blm import __version__
from nipype_blm.cli.command import EXIT_CODES, report_errors, run_process
from nipype_blm.cli.compare import add_compare
from nipype_blm.cli.compile import add_compile
from nipype_blm.cli.fit import add_fit
from nipype_blm.cli.pool import add_pool
from nipype_blm.cli.terminal import steady_streams

_EXAMPLES = """\
examples:
  nipype-blm fit study.yml results --check
  nipype-blm fit study.yml results
  nipype-blm compare intercept slope comparison
  nipype-blm pool start --pool pool.json --n-workers 4
  nipype-blm fit study.yml results --pool pool.json

`nipype-blm COMMAND --help` explains one; blm, blmm and blmm_compare are commands of their own, too.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    with steady_streams():
        arguments = _make_parser().parse_args(argv)
        return report_errors(partial(arguments.action, arguments), arguments.interrupted)


def command() -> None:
    """Run `main` as a process of its own."""
    run_process(main)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nipype-blm",
        description="Big linear and linear mixed models at every voxel of many images.",
        epilog=_EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nipype_blm {__version__}")
    parser.set_defaults(interrupted="The same command goes on from where it was.")
    tools = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_fit, add_compare, add_pool, add_compile):
        add(tools)
    return parser


if __name__ == "__main__":
    command()
