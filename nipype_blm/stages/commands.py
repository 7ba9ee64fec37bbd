"""Run a list of commands into a folder that no other run uses meanwhile."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm.errors import InputError
from nipype_blm.io.lock import hold_folders
from nipype_blm.machine import count_cores
from nipype_blm.private import find_obstacle
from nipype_blm.tasks.commandfolder import Summary
from nipype_blm.tasks.commandlist import Command
from nipype_blm.tasks.commands import choose_commands, run_commands
from nipype_blm.tasks.performing import Settings

if TYPE_CHECKING:
    from nipype_blm.tasks.options import PoolOptions
    from nipype_blm.tasks.pools import Pool


@contextmanager
def holding(out_dir: Path, name: str) -> Iterator[None]:
    """Hold the folder of a list; `name` is what its user calls it.

    Raises
    ------
    InputError
        If another run has it, or nothing can be written there.
    """
    obstacle = find_obstacle(out_dir)
    if obstacle is not None:
        raise InputError(f"{name} {out_dir} {obstacle}.")
    with hold_folders({name: out_dir}):
        yield


def run_command_list(
    commands: Sequence[Command],
    out_dir: Path,
    settings: Settings,
    n_procs: int | None = None,
    plugin_args: Mapping[str, Any] | None = None,
) -> Summary:
    """Run the commands of a list that are not done yet.  Its folder is to be held.

    Parameters
    ----------
    commands : sequence of Command
        That `check_list` has accepted.
    out_dir : Path
    settings : Settings
    n_procs : int, optional
        How many run side by side on this machine; default: as many as it has cores.
    plugin_args : mapping, optional
        Arguments of a pool of workers, as of `DaskPlugin`; default: no pool.

    Raises
    ------
    InputError
        Before anything has run.
    PoolError
        If there are no workers any more.
    """
    if plugin_args is None:
        return run_commands(commands, out_dir, settings, n_procs or count_cores())
    options = check_pool(plugin_args)
    if not choose_commands(commands, out_dir, settings):  # workers would be asked for in vain
        return run_commands(commands, out_dir, settings)
    with opening_pool(options, out_dir / "workers") as pool:
        return run_commands(commands, out_dir, settings, pool=pool, retries_if_lost=options.retries)


def check_pool(plugin_args: Mapping[str, Any]) -> "PoolOptions":
    """Return the options of a pool; nothing is started, and nobody is connected.

    Raises
    ------
    InputError
        If they are none, or the file of a pool cannot be used.
    """
    from nipype_blm.tasks.options import parse_options
    from nipype_blm.tasks.poolfile import read_pool_file

    options = parse_options(plugin_args)
    if options.scheduler_file is not None:
        read_pool_file(options.scheduler_file, options.allow_insecure)
    return options


@contextmanager
def opening_pool(options: "PoolOptions", log_folder: Path) -> Iterator["Pool"]:
    """Open a pool for tasks of one core, and close it in the end."""
    from nipype_blm.tasks.options import Resources
    from nipype_blm.tasks.pools import open_pool

    pool = open_pool(options, Resources(1, 0), log_folder)
    # Its traceback of a lost connection, of which the run itself tells in a sentence.
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield pool
    finally:
        pool.close()
        logger.setLevel(level)
