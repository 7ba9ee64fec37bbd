"""Commands on the workers of a pool: in bundles, as large as is worth while."""

import errno
import json
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from nipype_blm.progress import advance
from nipype_blm.tasks.commandfolder import Places
from nipype_blm.tasks.commandjournal import CommandJournal, History, Outcome
from nipype_blm.tasks.commandlist import Command, find_missing, list_programs
from nipype_blm.tasks.dispatch import run_as_taken, run_on_pool
from nipype_blm.tasks.performing import (
    UNIT,
    Settings,
    Tally,
    find_first_line,
    perform_command,
    tell_time,
)
from nipype_blm.tasks.pools import Pool
from nipype_blm.tasks.shell import Shell
from nipype_blm.tasks.task import PoolError, Task

# A bundle costs some milliseconds of the pool: a thousandth of this.
_SECONDS_PER_BUNDLE = 10.0
# The first commands of a list may be unlike the rest.
_MOST_GROWTH = 4
# Of what is left, so that no worker has much to do when the others have nothing.
_SHARES_PER_WORKER = 2
# A pool that grows with its work needs some to wait.
_LEAST_AT_A_TIME = 16
_SECONDS_BETWEEN_COUNTS = 2.0


def run_on_workers(
    waiting: Sequence[Command],
    folder: Path,
    settings: Settings,
    journal: CommandJournal,
    pool: Pool,
    retries_if_lost: int,
    tally: Tally,
) -> None:
    """Run commands on a pool; parameters and errors are those of `run_commands`."""
    places = Places(folder)
    places.bundles.mkdir(exist_ok=True)
    bundles = Bundles(waiting, places.bundles, settings, pool, tally)
    endings = run_as_taken(bundles.take, pool, retries_if_lost, bundles.count_most)
    try:
        with closing(endings):
            for task, done in endings:
                noted = History(task.output)
                outcomes = journal.take_over(task.output)
                for outcome in outcomes:
                    tally.note(outcome, is_told=True)
                if isinstance(done, PoolError):
                    if pool.client.status != "running":
                        # No command is to blame.
                        raise PoolError(pool.describe_end()) from done
                    culprits = _find_culprits(task, noted, retries_if_lost, bool(outcomes))
                    for command in culprits:
                        _note_loss(command, settings, str(done), journal, tally)
                    bundles.put_back(task, is_alone=not (culprits or outcomes))
                else:
                    bundles.learn(done.seconds, len(outcomes))
                    bundles.put_back(task)
    finally:
        # After an interrupt workers may still note what has ended: the next run takes that over.
        with suppress(OSError):
            places.bundles.rmdir()


def _find_culprits(
    task: Task, noted: History, retries_if_lost: int, has_progress: bool
) -> list[Command]:
    """Return the commands of a lost task that have cost its workers.

    Those beside them go back.
    """
    commands, _, settings, _ = task.arguments
    keys = {command: command.identify(settings.cwd) for command in commands}
    found = [
        command
        for command, key in keys.items()
        if noted.is_open(key) and noted.count_starts(key) > retries_if_lost
    ]
    # Else a task whose workers are lost before they note anything would go back for ever.
    return list(commands) if not found and len(commands) == 1 and not has_progress else found


def _note_loss(
    command: Command, settings: Settings, reason: str, journal: CommandJournal, tally: Tally
) -> None:
    """Note that a command was lost with its workers."""
    key = command.identify(settings.cwd)
    said = find_first_line(reason.partition("Likely reason: ")[2] or reason)
    host = os.uname().nodename
    outcome = Outcome(key, command.text, False, None, host, 0.0, said, tell_time())
    journal.end(outcome, reason)
    tally.note(outcome)


class Bundles:
    """Cuts a list of commands into tasks, by the time that the first ones have taken.

    Parameters
    ----------
    commands : sequence of Command
    folder : Path
        For what workers note.
    settings : Settings
    pool : Pool
    tally : Tally
    """

    def __init__(
        self,
        commands: Sequence[Command],
        folder: Path,
        settings: Settings,
        pool: Pool,
        tally: Tally,
    ) -> None:
        self._waiting = deque(commands)
        self._alone: deque[Command] = deque()
        self._folder, self._settings, self._pool, self._tally = folder, settings, pool, tally
        self._seconds, self._n_ended, self._largest = 0.0, 0, 1
        self._n_workers, self._last_count = 1, -math.inf

    def count_most(self) -> int:
        """Return how many tasks a pool is to have at a time."""
        now = time.monotonic()
        if now > self._last_count + _SECONDS_BETWEEN_COUNTS:
            self._n_workers = max(1, self._pool.count_workers())
            self._last_count = now
        return max(2 * self._n_workers, _LEAST_AT_A_TIME)

    def take(self) -> Task | None:
        """Return the next task; None if there is none now."""
        if self._tally.is_full:
            return None
        if self._alone:
            return self._make_task([self._alone.popleft()])
        size = min(self._plan_size(), len(self._waiting))
        if not size:
            return None
        self._largest = max(self._largest, size)
        return self._make_task([self._waiting.popleft() for _ in range(size)])

    def _plan_size(self) -> int:
        if not self._n_ended:
            return 1
        share = math.ceil(len(self._waiting) / (_SHARES_PER_WORKER * self._n_workers))
        mean_s = max(self._seconds / self._n_ended, 1e-6)
        by_time = int(_SECONDS_PER_BUNDLE / mean_s)
        return max(1, min(share, by_time, _MOST_GROWTH * self._largest))

    def _make_task(self, commands: list[Command]) -> Task:
        output = self._folder / f"{uuid4().hex}.jsonl"
        arguments = (tuple(commands), output, self._settings, self._tally.failures_left)
        return Task(run_bundle, arguments, output, "", inputs=(self._settings.cwd, output))

    def learn(self, seconds: float, n_ended: int) -> None:
        """Note how long a bundle has taken."""
        self._seconds += seconds
        self._n_ended += n_ended

    def put_back(self, task: Task, is_alone: bool = False) -> None:
        """Have the commands of a task that have not ended run again, perhaps each alone."""
        commands, _, settings, _ = task.arguments
        left = [c for c in commands if c.identify(settings.cwd) not in self._tally.outcomes]
        if is_alone:
            self._alone.extend(left)
        else:
            self._waiting.extendleft(reversed(left))


def run_bundle(
    commands: Sequence[Command], output: Path, settings: Settings, failures_left: int | None
) -> None:
    """Run commands one after the other, on a worker.

    Those whose end is noted already, by a worker that was lost, are left out.

    Parameters
    ----------
    commands : sequence of Command
    output : Path
        Journal of this bundle.
    settings : Settings
    failures_left : int or None
        After more than these nothing new starts.

    Raises
    ------
    OSError
        If this machine has not what the commands need, and others have.
    """
    _check_machine(commands, settings)
    tally = Tally(failures_left)
    with (
        CommandJournal(output) as journal,
        Shell(settings.cwd, settings.env, settings.timeout_s) as shell,
    ):
        for command in commands:
            if journal.find(command.identify(settings.cwd)) is not None:
                continue
            # A later run has taken over, while this worker does not know yet that it is to end.
            if tally.is_full or not journal.is_there:
                break
            tally.note(perform_command(command, settings, shell, journal), is_told=True)
            advance(UNIT, 1)
    os.utime(output)  # it counts as written also if all had ended before


def _check_machine(commands: Sequence[Command], settings: Settings) -> None:
    """Blame a machine that lacks what others have: else it would fail a whole list, and quickly."""
    lacking = find_missing(list_programs(commands), settings.cwd, settings.env)
    if not Path(settings.cwd).is_dir():
        lacking = [settings.cwd]
    if lacking:
        what = f"{os.uname().nodename}, a machine of the pool, has no {' or '.join(lacking)}"
        raise OSError(errno.EREMOTEIO, what)


def find_missing_there(
    programs: Sequence[str], settings: Settings, pool: Pool, folder: Path
) -> tuple[str, list[str]]:
    """Return a worker's host, and the programs that it has not."""
    output = folder / f".programs.{os.getpid()}.json"
    arguments = (list(programs), settings)
    task = Task(partial(_write_missing, output), arguments, output, "", inputs=(settings.cwd,))
    try:
        for _ in run_on_pool([task], pool, 2):
            host, missing = json.loads(output.read_text())
    finally:
        output.unlink(missing_ok=True)
    return host, missing


def _write_missing(output: Path, programs: list[str], settings: Settings) -> None:
    missing = find_missing(programs, settings.cwd, settings.env)
    output.write_text(json.dumps([os.uname().nodename, missing]))
