"""How one shell command is performed, and how those of a list have ended until now."""

import os
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from nipype_blm.errors import shorten
from nipype_blm.progress import find_listener
from nipype_blm.tasks.commandjournal import CommandJournal, Outcome
from nipype_blm.tasks.commandlist import Command
from nipype_blm.tasks.products import Products
from nipype_blm.tasks.shell import Ended, Shell

UNIT = "commands"  # of progress
_LONGEST_LINE = 300  # characters of what a table shows


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
