"""``blmm_compare SMALLER LARGER OUT``: test one model against another at every voxel."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nipype_blm import __version__
from nipype_blm.cli.blm import OK, report_errors, say
from nipype_blm.cli.terminal import steady_streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    with steady_streams():
        arguments = _make_parser().parse_args(argv)
        return report_errors(partial(_compare, arguments), interrupted="No map was written.")


def _compare(arguments: argparse.Namespace) -> int:
    from nipype_blm.model.compare import count_compared, describe_mixture
    from nipype_blm.results.compare import compare_models

    result = compare_models(
        arguments.smaller, arguments.larger, arguments.out, Path.cwd(), arguments.overwrite
    )
    for notice in result.notices:
        say(f"notice: {notice}")
    if not arguments.quiet:
        print(
            f"{count_compared(result.counts):,} voxels compared by {result.criterion}; "
            f"Chi2 against {describe_mixture(result.dofs)}.\n"
            f"The maps are in {arguments.out}"
        )
    return OK


def command() -> None:
    """Run `main` as a process of its own."""
    sys.exit(main())


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blmm_compare",
        description="Likelihood-ratio test of two nested models at every voxel, from the results "
        "of blm and blmm.  Both models need the same images, the same X and one random factor "
        "at most.",
        epilog="Exit codes: 0 done, 1 the comparison failed, 2 bad input, 130 interrupted.",
    )
    folder = "folder of results of blm or blmm: the model with "
    parser.add_argument("smaller", type=Path, metavar="SMALLER", help=f"{folder}fewer effects")
    parser.add_argument("larger", type=Path, metavar="LARGER", help=f"{folder}more effects")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the maps")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a comparison of other models that was made in another working directory",
    )
    parser.add_argument("--quiet", action="store_true", help="show no summary")
    parser.add_argument("--version", action="version", version=f"nipype_blm {__version__}")
    return parser


if __name__ == "__main__":
    command()
