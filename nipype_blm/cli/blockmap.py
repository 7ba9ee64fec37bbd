"""``nipype-blm blockmap``: a function over blocks of volumes, here or on a pool."""

import argparse
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm.cli.command import (
    OK,
    RunError,
    add_common_options,
    describe,
    say,
)
from nipype_blm.cli.where import add_where_options, list_too_low, read_pool
from nipype_blm.errors import InputError, count, join_some

if TYPE_CHECKING:
    from nipype_blm.blockmap.assembling import Result
    from nipype_blm.blockmap.plan import Plan

_DESCRIPTION = (
    "Run a function on every block of volumes that are too big for one machine: NIfTI, Zarr, HDF5, "
    "precomputed, or channels of a BOSS.  Results are put together, or tabulated; blocks that fail "
    "are listed.  The same again runs what is not done, and what was skipped."
)
_EXAMPLES = (
    "blocks.yml",
    "blocks.yml --out results --cluster slurm --plugin-args workers.yml",
    "neurodata.cfg --function pipeline.py:detect --block-size 1000 1000 10",
    "blocks.yml --check",
)
_BELOW: Any = {"subsequent_indent": " " * 17}
_TOKEN = "NIPYPE_BLM_TOKEN"
_VOXELS = ("X", "Y", "Z")


def add_blockmap(tools: Any) -> None:
    """Add the command ``blockmap`` to those of ``nipype-blm``."""
    parser = tools.add_parser("blockmap", help="run a function on every block of big volumes")
    describe(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "config",
        type=Path,
        metavar="CONFIG",
        help="YAML with the fields that --fields lists, or a neurodata.cfg of Nd-Multicore",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for results, tables and journal; default: CONFIG.out",
    )
    parser.add_argument(
        "--function", metavar="MODULE:FUNCTION", help="in place of the one of CONFIG"
    )
    for name, what in (("block-size", "voxels of a block"), ("halo", "voxels around a block")):
        parser.add_argument(
            f"--{name}",
            type=int,
            nargs=3,
            metavar=_VOXELS,
            help=f"{what} along x, y, z, in place of those of CONFIG",
        )
    add_where_options(parser, "processes of this machine; default: all cores but one")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of one process, in place of --n-procs: for functions of libraries that do "
        "not hold Python's lock",
    )
    parser.add_argument(
        "--ask-token", action="store_true", help="ask for the token of a BOSS, which is not stored"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove what a run before has left in FOLDER, and do all blocks again",
    )
    parser.add_argument(
        "--fields", action=_PrintFields, nargs=0, help="explain the fields of CONFIG, and end"
    )
    parser.add_argument("--check", action="store_true", help="say what would run, and run nothing")
    add_common_options(parser)
    parser.set_defaults(action=_act)


class _PrintFields(argparse.Action):
    """Explains the fields of a configuration; not in every help, for which all would be loaded."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from nipype_blm.blockmap.options import MODELS

        lines = []
        for title, model in MODELS.items():
            lines.append(f"{title}:")
            for name, each in model.model_fields.items():
                text = each.description or ""
                lines += textwrap.wrap(text, 88, initial_indent=f"  {name:<14} ", **_BELOW)
        print("\n".join(lines))
        parser.exit()


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.blockmap.planning import describe_costs
    from nipype_blm.blockmap.run import count_done

    problems = list_too_low(arguments, {"n_procs": 1, "n_workers": 1, "threads": 1})
    if problems:
        raise InputError(problems)
    plugin_args = _choose_workers(arguments)
    plan = _plan(arguments)
    for notice in plan.notices:
        say(f"notice: {notice}")
    if arguments.check:
        if not arguments.quiet:
            print(describe_costs(plan, count_done(plan)))
        return OK
    result = _run(plan, arguments, plugin_args)
    _conclude(result, arguments.quiet)
    return OK


def _choose_workers(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the arguments of a pool; None: blocks are computed in this process."""
    from nipype_blm.machine import count_cores

    plugin_args = read_pool(arguments)
    if plugin_args is not None:
        if arguments.threads is not None:
            raise InputError("--threads is for one process of this machine; leave it out.")
        return plugin_args
    if arguments.threads is not None:
        if arguments.n_procs is not None:
            raise InputError("--threads and --n-procs are both given; leave out one of them.")
        return None
    # As Nd-Multicore: one core is left to who waits.
    n = arguments.n_procs or max(1, count_cores() - 1)
    return None if n == 1 else {"cluster": "local", "n_workers": n, "n_procs": n}


def _plan(arguments: argparse.Namespace) -> "Plan":
    from nipype_blm.blockmap.options import make_config, read_config
    from nipype_blm.blockmap.planning import make_plan

    path = arguments.config.expanduser().absolute()
    fields = read_config(path, _ask_token(arguments) if arguments.ask_token else None)
    given = {name: getattr(arguments, name) for name in ("function", "block_size", "halo")}
    fields |= {name: value for name, value in given.items() if value is not None}
    out = (arguments.out or path.with_name(f"{path.name}.out")).expanduser().absolute()
    # A function on the command line lies where the user is, that of a file beside it.
    folder = Path.cwd() if arguments.function else path.parent
    return make_plan(make_config(fields, path.parent), out, str(folder))


def _ask_token(arguments: argparse.Namespace) -> str:
    """Ask for a token, which is kept in no file; return where the workers find it."""
    from getpass import getpass

    if arguments.pool is not None:
        raise InputError(
            "--ask-token is for workers that are started now, and those of --pool run already; put "
            "the token into a file, or leave out --pool."
        )
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError("--ask-token needs a terminal; put the token into a file, or a variable.")
    try:
        os.environ[_TOKEN] = getpass("Token: ")
    except EOFError:
        raise InputError("No token was given; type or paste it, and press Enter.") from None
    return f"env:{_TOKEN}"


def _run(
    plan: "Plan", arguments: argparse.Namespace, plugin_args: dict[str, Any] | None
) -> "Result":
    from nipype_blm.blockmap.compute import UNIT, VOLUME, BlockError, SkippedError
    from nipype_blm.blockmap.retrying import ReadError, WriteError
    from nipype_blm.blockmap.run import count_done, count_mib, run_plan
    from nipype_blm.cli.progress import Counted, show_progress
    from nipype_blm.tasks.task import PoolError, TaskError

    known = (ReadError, WriteError, BlockError, SkippedError)
    n_done = 0 if arguments.overwrite else count_done(plan)
    n = plan.n_blocks
    n_mib = count_mib(plan)
    work = [Counted(UNIT, n, n_done)]
    if n_mib:
        work.append(Counted(VOLUME, n_mib, n_mib * n_done // n))
    with show_progress(work, arguments.quiet):
        try:
            return run_plan(plan, arguments.threads or 1, plugin_args, arguments.overwrite)
        except (*known, TaskError, PoolError) as error:
            raise RunError(str(error)) from error


def _conclude(result: "Result", quiet: bool) -> None:
    """Say what there is, and what was skipped."""
    if result.skipped:
        some = join_some((f"{each.key} ({each.error})" for each in result.skipped), 5)
        say(
            f"notice: {count(len(result.skipped), 'block')} of {result.n_blocks} "
            f"{'was' if len(result.skipped) == 1 else 'were'} skipped, see "
            f"{result.out_dir / 'skipped.tsv'}: {some}.  The same command runs them again."
        )
    if quiet:
        return
    print(f"{len(result.keys)} of {count(result.n_blocks, 'block')} done.")
    for path in (*result.outputs.values(), *filter(None, [result.table]), result.blocks_table):
        print(path)
