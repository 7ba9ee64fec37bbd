"""Run a list of shell commands, here or on a pool, each until it has ended well once."""

import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nipype_blm.errors import InputError, shorten
from nipype_blm.progress import find_listener
from nipype_blm.tasks.commandfolder import Places, Summary, write_results
from nipype_blm.tasks.commandjournal import CommandJournal, History, Logs, Outcome
from nipype_blm.tasks.commandlist import (
    Command,
    check_commands,
    describe_missing,
    find_missing,
    list_programs,
)
from nipype_blm.tasks.products import Products
from nipype_blm.tasks.shell import Ended, Shell, StoppedError

if TYPE_CHECKING:
    from nipype_blm.tasks.pools import Pool

UNIT = "commands"  # of progress
_LONGEST_LINE = 300  # characters of what a table shows
_SECONDS_TO_END = 5.0


class Settings(NamedTuple):
    """How commands run.

    Parameters
    ----------
    cwd : str
        Their working directory, absolute.
    env : mapping of str to str
        What they have besides the environment of the process that runs them.
    retries : int
        How often one that failed is run again, at once.
    timeout_s : float or None
        After which one is ended, with all that it has started.
    max_failures : int or None
        The run ends when more have failed.
    done_glob : str or None
        Template of the files by which commands are known to be done, see `Products`.
    keep_logs : bool
        Keep what commands print that end well, too.
    """

    cwd: str
    env: Mapping[str, str] = {}
    retries: int = 0
    timeout_s: float | None = None
    max_failures: int | None = None
    done_glob: str | None = None
    keep_logs: bool = False

    @property
    def products(self) -> Products | None:
        """By which commands are known to be done."""
        return None if self.done_glob is None else Products(self.done_glob, self.cwd)


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


class Tally:
    """How commands have ended in this run; threads may share it.

    Parameters
    ----------
    most_failures : int or None
        After more than these nothing new is to start.
    """

    def __init__(self, most_failures: int | None) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._most, self._n_failed = most_failures, 0
        self._lock = threading.Lock()
        self._listener = find_listener()  # which threads do not find

    def note(self, outcome: Outcome, is_told: bool = False) -> None:
        """Note how a command has ended; who listens may be told already, by a worker."""
        with self._lock:
            self.outcomes[outcome.key] = outcome
            self._n_failed += not outcome.is_done
            if self._listener is not None and not is_told:
                self._listener(UNIT, 1)

    @property
    def failures_left(self) -> int | None:
        """How many more may fail; None: any number."""
        return None if self._most is None else self._most - self._n_failed

    @property
    def is_full(self) -> bool:
        """Whether nothing new is to start."""
        return self.failures_left is not None and self.failures_left < 0


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


def perform_command(
    command: Command, settings: Settings, shell: Shell, journal: CommandJournal
) -> Outcome:
    """Run a command until it has ended well, or has failed too often, and note that.

    Raises
    ------
    StoppedError
        If its shell was told to stop; then nothing is noted.
    """
    key = command.identify(settings.cwd)
    for attempts_left in range(settings.retries, -1, -1):
        journal.begin(key)
        ended = shell.run(command.text)
        fault = _find_fault(command, settings, ended)
        if fault is None or not attempts_left:
            break
    outcome = Outcome(
        key,
        command.text,
        fault is None,
        ended.returncode,
        os.uname().nodename,
        round(ended.seconds, 4),
        find_first_line(ended.stderr) if fault is None else fault,
        tell_time(),
    )
    is_kept = fault is not None or settings.keep_logs
    journal.end(outcome, f"{ended.stdout.rstrip()}\n{ended.stderr}".strip() if is_kept else "")
    return outcome


def _find_fault(command: Command, settings: Settings, ended: Ended) -> str | None:
    """Return why a command has not ended well; None if it has."""
    if ended.returncode:
        said = find_first_line(ended.stderr)
        if ended.returncode == 137 and not said:
            return "it was killed, as for too much memory"
        return said
    products = settings.products
    if products is None or products.is_there(command):
        return None
    return f"it ended with 0, but there is no {products.find_pattern(command)}"


def find_first_line(text: str) -> str:
    """Return the first line that is not empty, shortened."""
    lines = (line.strip() for line in text.splitlines())
    return shorten(next(filter(None, lines), ""), _LONGEST_LINE)


def tell_time() -> str:
    """Return the time, as journals have it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
