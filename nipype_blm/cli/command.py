"""What all commands share: options, exit codes, messages, and how a process runs one."""

import argparse
import gc
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path

from nipype_blm.machine import THREAD_VARIABLES

# Before NumPy is imported: its own threads would compete with ours.
for _variable in THREAD_VARIABLES:
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")

from nipype_blm import __version__
from nipype_blm.cli.limits import explain_limit
from nipype_blm.errors import InputError, Words, tell
from nipype_blm.signals import interruptible

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
GOES_ON = "The same command goes on from where it was."
EXIT_CODES = "Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted (143 by SIGTERM)."
_POOL_ALONE = (
    "--pool names the pool that runs everything; leave out --plugin and --plugin-args, or give "
    "the file of the pool in --plugin-args, as scheduler_file."
)


class RunError(RuntimeError):
    """A run that failed, and why; its message is for users."""


def say(text: str) -> None:
    """Tell the user, beside what the command prints."""
    print(text, file=sys.stderr, flush=True)


def say_notices(notices: Sequence[str], words: Words) -> None:
    """Tell what is no fault, in the words of a front end."""
    for notice in notices:
        say(f"notice: {tell(notice, words)}")


@contextmanager
def faults_in(words: Words) -> Iterator[None]:
    """Have faults told in the words of a front end."""
    try:
        yield
    except InputError as error:
        error.reword(words)
        raise


def report_errors(act: Callable[[], int], interrupted: str = GOES_ON) -> int:
    """Return the exit code of what a command does; errors are said."""
    try:
        return act()
    except InputError as error:
        for problem in error.problems:
            say(f"error: {problem}")
        return BAD_INPUT
    except RunError as error:
        say(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        say(f"Interrupted. {interrupted}")
        return INTERRUPTED
    except Exception as error:
        limit = explain_limit(f"{type(error).__name__}: {error}")
        if limit is None and not isinstance(error, OSError):
            raise
        say(": ".join(filter(None, ["error", str(error), limit])))
        return FAILED


def run_process(main: Callable[[], int]) -> None:
    """Run a command as a process of its own."""
    # A short-lived process: collecting cycles, and freeing every object at the end, would
    # take a fifth of its CPU time.
    gc.disable()
    # Nothing is shown in a window, and what a notebook asks for need not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    with interruptible() as signals:
        code = main()
    if signals and code == INTERRUPTED:
        code = 128 + signals[0]  # as a shell reports it
    gc.freeze()
    sys.exit(code)


def describe(
    parser: argparse.ArgumentParser, what: str, examples: Sequence[str], more: str = EXIT_CODES
) -> None:
    """Have the help of a command say what it does, and end with examples and more.

    Parameters
    ----------
    examples : sequence of str
        Arguments of the command, for one example each.
    """
    lines = [f"  {parser.prog} {arguments}".rstrip() for arguments in examples]
    parser.description = textwrap.fill(what, 88)
    parser.epilog = "\n".join(["examples:", *lines, "", more])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_running_options(parser: argparse.ArgumentParser, check: str) -> None:
    """Add the options of every command that runs a workflow.

    Parameters
    ----------
    check : str
        What ``--check`` does.
    """
    parser.add_argument("--check", action="store_true", help=check)
    parser.add_argument(
        "--graph",
        type=Path,
        metavar="FILE",
        help="draw the workflow that would run, as .svg, .png or .pdf, and run nothing; needs "
        "Graphviz",
    )
    parser.add_argument(
        "--pool",
        type=Path,
        metavar="POOL.json",
        help="run on the pool that `nipype-blm pool start` has started; as --plugin Dask with "
        "this scheduler_file",
    )
    parser.add_argument(
        "--plugin",
        metavar="NAME",
        help="plugin of Nipype that runs the nodes (MultiProc, SLURM, SGE, ...), or Dask for a "
        "pool of workers; default: Linear, or Dask where the configuration names a cluster",
    )
    parser.add_argument(
        "--plugin-args",
        type=Path,
        metavar="FILE.yml",
        help="arguments of the plugin, one `name: value` a line",
    )
    add_common_options(parser)


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add whether a report is written in the end."""
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        help="write OUT/report.html when all is done, or not; needs nipype_blm[plot]",
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    parser.add_argument("--quiet", action="store_true", help="show no progress and no summary")
    parser.add_argument("--version", action="version", version=f"nipype_blm {__version__}")


def add_resource_options(parser: argparse.ArgumentParser) -> None:
    """Add how many threads and how much memory a command may take."""
    parser.add_argument("--n-procs", type=int, metavar="N", help="threads; default: all cores")
    parser.add_argument(
        "--max-mem-gb", type=float, default=4.0, metavar="GIB", help="memory to use; default 4"
    )


def check_resource_options(arguments: argparse.Namespace) -> None:
    """See whether `add_resource_options` were given numbers that can be.

    Raises
    ------
    InputError
    """
    if arguments.n_procs is not None and arguments.n_procs < 1:
        raise InputError(f"--n-procs {arguments.n_procs} was given; expected 1 or more.")
    if not 0 < arguments.max_mem_gb < inf:
        given = f"--max-mem-gb {arguments.max_mem_gb:g}"
        raise InputError(f"{given} was given; expected a number above 0.")


def check_running_options(arguments: argparse.Namespace) -> None:
    """See whether the options of a command fit together, before anything that takes time.

    Raises
    ------
    InputError
    """
    if arguments.graph is not None:
        from nipype_blm.cli.graph import check_picture

        check_picture(arguments.graph)
    if arguments.pool is not None:
        if arguments.plugin is not None or arguments.plugin_args is not None:
            raise InputError(_POOL_ALONE)
        try:
            arguments.pool = arguments.pool.expanduser().absolute()
        except RuntimeError as error:  # of ~name
            raise InputError(f"--pool {arguments.pool}: {error}") from error
        arguments.plugin = "Dask"
