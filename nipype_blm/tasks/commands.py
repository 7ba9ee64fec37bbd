"""Run a list of shell commands, here or on a pool, each until it has ended well once."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nipype_blm.errors import InputError
from nipype_blm.tasks.commandfolder import Places, Summary, write_results
from nipype_blm.tasks.commandjournal import CommandJournal, History, Logs
from nipype_blm.tasks.commandlist import (
    Command,
    check_commands,
    describe_missing,
    find_missing,
    list_programs,
)
from nipype_blm.tasks.performing import Settings, Tally, perform_command
from nipype_blm.tasks.shell import Shell, StoppedError

if TYPE_CHECKING:
    from nipype_blm.tasks.pools import Pool

_SECONDS_TO_END = 5.0


def check_list(commands: Sequence[Command], settings: Settings) -> None:
    """Refuse, before anything starts, what could not run or is not what it looks like.

    Raises
    ------
    InputError
    """
    if not commands:
        raise InputError("There is no command.")
    if not Path(settings.cwd).is_dir():
        raise InputError(f"cwd {settings.cwd} is no folder; give one that is there.")
    check_commands(commands)
    if settings.products is not None:
        settings.products.check(commands)


def check_programs(
    commands: Sequence[Command],
    settings: Settings,
    pool: "Pool | None" = None,
    folder: Path | None = None,
) -> None:
    """Refuse commands whose program is not there.

    One that a pool has need not be here.

    Raises
    ------
    InputError
    """
    programs = list_programs(commands)
    where = "this machine"
    missing = find_missing(programs, settings.cwd, settings.env)
    if missing and pool is not None:
        from nipype_blm.tasks.bundles import find_missing_there

        assert folder is not None
        where, missing = find_missing_there(missing, settings, pool, folder)
    if missing:
        raise InputError(describe_missing(missing, programs, where))


def choose_commands(commands: Sequence[Command], folder: Path, settings: Settings) -> list[Command]:
    """Return those that are not done, as far as a folder tells; nothing is written.

    With products, these decide, but for a command that was started and of which no good end is
    known: what lies there may be half of it.
    """
    places, products = Places(folder), settings.products
    history = History(places.journal, *places.list_bundles())

    def is_done(command: Command) -> bool:
        key = command.identify(settings.cwd)
        outcome = history.find(key)
        if products is None:
            return outcome is not None and outcome.is_done
        is_doubtful = history.is_open(key) or (outcome is not None and not outcome.is_done)
        return not is_doubtful and products.is_listed(command)

    return [command for command in commands if not is_done(command)]


def _open_journal(places: Places) -> CommandJournal:
    """Return the journal of a folder, with all that workers of a run that was killed have noted."""
    journal = CommandJournal(places.journal, Logs(places.logs))
    for path in places.list_bundles():
        journal.take_over(path)
    return journal


def run_commands(
    commands: Sequence[Command],
    folder: Path,
    settings: Settings,
    n_procs: int = 1,
    pool: "Pool | None" = None,
    retries_if_lost: int = 2,
) -> Summary:
    """Run the commands of a list that are not done yet.

    Parameters
    ----------
    commands : sequence of Command
        That `check_list` has accepted.
    folder : Path
        That exists, for journal, table and logs; nobody else writes there meanwhile.
    settings : Settings
    n_procs : int
        How many run side by side, without a pool.
    pool : Pool, optional
    retries_if_lost : int
        How often commands are run again whose worker was lost.

    Returns
    -------
    summary : Summary
        Of failures, too, which are no error here.

    Raises
    ------
    InputError
        Before any command has run.
    PoolError
        If there are no workers any more.
    """
    waiting = choose_commands(commands, folder, settings)
    check_programs(waiting, settings, pool, folder)
    n_earlier = len(commands) - len(waiting)
    tally = Tally(settings.max_failures)
    with _open_journal(Places(folder)) as journal:
        try:
            if pool is None:
                _run_here(waiting, settings, journal, n_procs, tally)
            elif waiting:
                from nipype_blm.tasks.bundles import run_on_workers

                run_on_workers(waiting, folder, settings, journal, pool, retries_if_lost, tally)
        finally:
            by_key = {command.identify(settings.cwd): command for command in commands}
            summary = write_results(by_key, Places(folder), journal, tally.outcomes, n_earlier)
    return summary


def _run_here(
    waiting: Sequence[Command],
    settings: Settings,
    journal: CommandJournal,
    n_procs: int,
    tally: Tally,
) -> None:
    """Run commands side by side, each of some threads one after the other."""
    queue = deque(waiting)

    def work(shell: Shell) -> None:
        while not tally.is_full:
            try:
                command = queue.popleft()
            except IndexError:
                return
            with suppress(StoppedError):  # then the queue is empty
                tally.note(perform_command(command, settings, shell, journal))

    n_threads = max(1, min(n_procs, len(queue)))
    with ExitStack() as stack, ThreadPoolExecutor(n_threads) as executor:
        shells = [
            stack.enter_context(Shell(settings.cwd, settings.env, settings.timeout_s))
            for _ in range(n_threads)
        ]
        running = [executor.submit(work, shell) for shell in shells]
        try:
            for each in wait(running, return_when=FIRST_EXCEPTION).done:
                each.result()
        finally:
            queue.clear()
            _end(shells, running)


def _end(shells: Sequence[Shell], running: Sequence["Future[None]"]) -> None:
    """Ask what runs to end, and wait for that; what does not is killed."""
    for shell in shells:
        shell.stop()
    if wait(running, _SECONDS_TO_END).not_done:
        for shell in shells:
            shell.kill()
        wait(running)
