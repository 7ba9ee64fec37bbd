"""Run a list of shell commands, here or on a pool, each until it has ended well once."""

import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nipype_blm.errors import InputError, count, shorten
from nipype_blm.progress import find_listener
from nipype_blm.tasks.commandjournal import (
    FAILED_LOG,
    CommandJournal,
    History,
    Logs,
    Outcome,
)
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
_MOST_TOLD = 5  # failures
_SECONDS_TO_END = 5.0


class CommandsError(RuntimeError):
    """Commands have failed; the text tells how many, and what the first ones said."""


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


class Places(NamedTuple):
    """The files of a folder of a list of commands."""

    folder: Path

    @property
    def journal(self) -> Path:
        """A JSON line for each start and each end of a command."""
        return self.folder / "journal.jsonl"

    @property
    def table(self) -> Path:
        """A row for each command of the list."""
        return self.folder / "table.tsv"

    @property
    def failed_commands(self) -> Path:
        """Those that failed, as a list that can be run."""
        return self.folder / "failed_commands"

    @property
    def logs(self) -> Path:
        """What commands have printed."""
        return self.folder / "logs"

    @property
    def bundles(self) -> Path:
        """What workers note; nothing is left there when a run ends."""
        return self.folder / "bundles"

    def list_bundles(self) -> list[Path]:
        """Return what workers have noted that is not in the journal."""
        return sorted(self.bundles.glob("*.jsonl"))


class Summary(NamedTuple):
    """What became of a list."""

    n_commands: int
    n_done: int
    n_earlier: int  # of these, by an earlier run
    failed: list[tuple[Command, Outcome]]
    places: Places

    @property
    def n_left(self) -> int:
        """How many were not run."""
        return self.n_commands - self.n_done - len(self.failed)

    def check(self) -> None:
        """Raise an error if not all commands are done.

        Raises
        ------
        CommandsError
        """
        if self.n_done == self.n_commands:
            return
        lines = [f"{len(self.failed)} of {count(self.n_commands, 'command')} failed"]
        if self.n_left:
            lines[0] += f", and {self.n_left} were not run: more have failed than max_failures"
        lines[0] += ".  What the first ones said:"
        for command, outcome in self.failed[:_MOST_TOLD]:
            code = "lost" if outcome.returncode is None else f"return code {outcome.returncode}"
            lines.append(f"  line {command.line}, {code}: {outcome.stderr or 'nothing'}")
        lines.append(
            f"All that they said is in {self.places.logs / FAILED_LOG}; "
            f"{self.places.failed_commands} lists them.  The same again runs only what is not done."
        )
        raise CommandsError("\n".join(lines))


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
    retries: int = 2,
) -> Summary:
    """Run the commands of a list that are not done yet.

    Parameters
    ----------
    commands : sequence of Command
    folder : Path
        That exists, for journal, table and logs; nobody else writes there meanwhile.
    settings : Settings
    n_procs : int
        How many run side by side, without a pool.
    pool : Pool, optional
    retries : int
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
    check_list(commands, settings)
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

                run_on_workers(waiting, folder, settings, journal, pool, retries, tally)
        finally:
            summary = _write_results(commands, folder, settings, journal, tally, n_earlier)
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
    def n_left(self) -> int | None:
        """How many more may fail; None: any number."""
        return None if self._most is None else self._most - self._n_failed

    @property
    def is_full(self) -> bool:
        """Whether nothing new is to start."""
        return self.n_left is not None and self.n_left < 0


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
                tally.note(perform_command(command, settings, shell, journal))
            except (IndexError, StoppedError):
                return

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
    for n_left in range(settings.retries, -1, -1):
        journal.begin(key)
        ended = shell.run(command.text)
        fault = _find_fault(command, settings, ended)
        if fault is None or not n_left:
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


_COLUMNS = ("line", "returncode", "host", "seconds", "attempts", "stderr", "command")


def _write_results(
    commands: Sequence[Command],
    folder: Path,
    settings: Settings,
    journal: CommandJournal,
    tally: Tally,
    n_earlier: int,
) -> Summary:
    """Write the table, and the list of those that failed."""
    rows, failed = ["\t".join(_COLUMNS)], []
    for command in commands:
        key = command.identify(settings.cwd)
        rows.append(_describe(command, journal.find(key), journal.count_starts(key)))
        outcome = tally.outcomes.get(key)
        if outcome is not None and not outcome.is_done:
            failed.append((command, outcome))
    n_done = n_earlier + len(tally.outcomes) - len(failed)
    places = Places(folder)
    _write(places.table, rows)
    places.failed_commands.unlink(missing_ok=True)
    if failed:
        _write(places.failed_commands, [command.text for command, _ in failed])
    return Summary(len(commands), n_done, n_earlier, failed, places)


def _describe(command: Command, outcome: Outcome | None, n_starts: int) -> str:
    """Return the row of a command."""
    known = ["n/a"] * 3
    if outcome is not None:
        code = "n/a" if outcome.returncode is None else str(outcome.returncode)
        known = [code, outcome.host, f"{outcome.seconds:.4g}"]
    said = "" if outcome is None else outcome.stderr
    cells = [str(command.line), *known, str(n_starts), said or "n/a", command.text]
    return "\t".join(cell.replace("\t", "\\t") for cell in cells)


def _write(path: Path, lines: Sequence[str]) -> None:
    """Write lines, at one stroke."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    content = "\n".join(lines) + "\n"
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:
        file.write(content.encode(errors="surrogateescape"))
    temporary.replace(path)
