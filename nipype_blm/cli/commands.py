"""``nipype-blm commands``: a list of shell commands, here or on a pool, each until it is done."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm.cli.command import OK, RunError, add_common_options, describe
from nipype_blm.cli.where import add_where_options, list_too_low, read_pool
from nipype_blm.errors import InputError, Problems, count, join_some

if TYPE_CHECKING:
    from nipype_blm.tasks.commandfolder import Summary
    from nipype_blm.tasks.commandlist import Command
    from nipype_blm.tasks.performing import Settings

_DESCRIPTION = (
    "Run the commands of a text file, one a line, side by side on this machine, on a pool, or on "
    "a pool started for them.  The same again runs what is not done."
)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_SHOWN = 20


def add_commands(tools: Any) -> None:
    """Add the command ``commands`` to those of ``nipype-blm``."""
    parser = tools.add_parser("commands", help="run a list of shell commands, one a line")
    examples = [
        "FA/.commands --cwd FA --done-glob '{3}_warp.nii*'",
        "list.txt --pool pool.json --timeout 2h --retries 1",
        "list.txt --cluster slurm --plugin-args workers.yml",
        "list.txt --check",
    ]
    describe(parser, _DESCRIPTION, examples)
    parser.add_argument(
        "list", type=Path, metavar="FILE", help="commands, one a line; lines with # are comments"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for table.tsv, journal.jsonl, failed_commands and logs; default: FILE.out",
    )
    add_where_options(parser, "commands at a time here; default: all cores")
    _add_how(parser)
    add_common_options(parser)
    parser.set_defaults(action=_act)


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cwd", type=Path, metavar="FOLDER", help="where commands run; default: here"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="variable of the commands, as often as needed; NAME alone has the value that it has "
        "here",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=0,
        metavar="N",
        help="run a command that failed again, up to N times; default 0",
    )
    parser.add_argument(
        "--timeout", metavar="TIME", help="end a command after this time, such as 90s, 30m, 2h"
    )
    parser.add_argument(
        "--max-failures", type=int, metavar="N", help="start nothing new when more have failed"
    )
    parser.add_argument(
        "--done-glob",
        metavar="PATTERN",
        help="the product of a command: it is done if that exists; {3} is word 3 of the command, "
        "0 its program",
    )
    parser.add_argument(
        "--keep-logs", action="store_true", help="keep what commands print that end well, too"
    )
    parser.add_argument("--check", action="store_true", help="say what would run, and run nothing")


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.progress import Counted, show_progress
    from nipype_blm.stages.commands import holding
    from nipype_blm.tasks.commandlist import read_commands
    from nipype_blm.tasks.commands import check_list, choose_commands

    settings = _read_settings(arguments)
    plugin_args = read_pool(arguments)
    commands = read_commands(arguments.list)
    check_list(commands, settings)
    out = (arguments.out or arguments.list.with_name(f"{arguments.list.name}.out")).absolute()
    if arguments.check:
        _check(commands, settings, out, plugin_args, arguments.quiet)
        return OK
    with holding(out, "--out"):
        n_earlier = len(commands) - len(choose_commands(commands, out, settings))
        with show_progress(Counted("commands", len(commands), n_earlier), arguments.quiet):
            summary = _run(commands, out, settings, arguments.n_procs, plugin_args)
    if not arguments.quiet:
        earlier = f", {summary.n_earlier} of them by an earlier run" if summary.n_earlier else ""
        print(f"{summary.n_done} of {count(summary.n_commands, 'command')} done{earlier}.")
        print(summary.places.table)
    return OK


def _run(
    commands: "list[Command]",
    out: Path,
    settings: "Settings",
    n_procs: int | None,
    plugin_args: dict[str, Any] | None,
) -> "Summary":
    """Run a list; its failures, and the loss of a pool, are what the command ends with."""
    from nipype_blm.stages.commands import run_command_list
    from nipype_blm.tasks.commandfolder import CommandsError
    from nipype_blm.tasks.task import PoolError, TaskError

    try:
        summary = run_command_list(commands, out, settings, n_procs, plugin_args)
        summary.check()
    except (CommandsError, TaskError, PoolError) as error:
        raise RunError(str(error)) from error
    return summary


def _read_settings(arguments: argparse.Namespace) -> "Settings":
    """Return how commands are to run.

    Raises
    ------
    InputError
        With all faults.
    """
    from nipype_blm.tasks.performing import Settings

    least = {"n_procs": 1, "n_workers": 1, "retries": 0, "max_failures": 0}
    problems = Problems(list_too_low(arguments, least))
    timeout_s = problems.attempt(_read_seconds, arguments.timeout)
    env = problems.attempt(_read_variables, arguments.env)
    if problems:
        raise InputError(problems)
    return Settings(
        cwd=str((arguments.cwd or Path.cwd()).expanduser().absolute()),
        env=env or {},
        retries=arguments.retries,
        timeout_s=timeout_s,
        max_failures=arguments.max_failures,
        done_glob=arguments.done_glob,
        keep_logs=arguments.keep_logs,
    )


def _read_seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise InputError(f"--timeout {text} is not a time such as 90s, 30m or 2h.")
    return float(found[1]) * _UNITS[found[2]]


def _read_variables(given: Sequence[str]) -> dict[str, str]:
    """Return variables; their values are never said."""
    env = {}
    for text in given:
        name, is_given, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise InputError("--env was given without a name; expected NAME=VALUE or NAME.")
        if not is_given and name not in os.environ:
            raise InputError(f"--env {name}: there is no such variable here; give NAME=VALUE.")
        env[name] = value if is_given else os.environ[name]
    return env


def _check(
    commands: "list[Command]",
    settings: "Settings",
    out: Path,
    plugin_args: dict[str, Any] | None,
    quiet: bool,
) -> None:
    """Say what would run."""
    from nipype_blm.stages.commands import check_pool
    from nipype_blm.tasks.commands import check_programs, choose_commands

    waiting = choose_commands(commands, out, settings)
    if plugin_args is None:
        check_programs(waiting, settings)
    else:  # whose workers may have others
        check_pool(plugin_args)
    if quiet:
        return
    n_done = len(commands) - len(waiting)
    print(f"{count(len(waiting), 'command')} of {len(commands)} would run, {n_done} are done")
    print(join_some((command.text for command in waiting), _MOST_SHOWN, "\n"))
