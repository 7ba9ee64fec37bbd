"""What is known of the commands of a list: which were started, and how each has ended."""

import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.private import open_plain
from nipype_blm.tasks.journal import LineWriter, read_lines

FAILED_LOG, DONE_LOG = "failed.log", "done.log"


class Outcome(NamedTuple):
    """How a command has ended."""

    key: str  # of `Command.identify`
    command: str
    is_done: bool
    returncode: int | None  # None: it was lost with its worker
    host: str
    seconds: float
    stderr: str  # its first line
    time: str  # when it ended


_TYPES = (str, str, bool, int | None, str, int | float, str, str)


class Logs:
    """What commands have printed: one file for those that failed, and one for the others.

    Parameters
    ----------
    folder : Path
        In a folder that exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, outcome: Outcome, text: str) -> None:
        """Append what a command has printed."""
        self._folder.mkdir(exist_ok=True)
        code = "lost" if outcome.returncode is None else f"return code {outcome.returncode}"
        head = f"==== {outcome.time} {outcome.host} {code}, {outcome.seconds:.3g} s\n"
        path = self._folder / (DONE_LOG if outcome.is_done else FAILED_LOG)
        with open(path, "a", encoding="utf-8", errors="surrogateescape", opener=open_plain) as file:
            file.write(f"{head}$ {outcome.command}\n{text.rstrip()}\n")


class History:
    """How often commands were started, and how each has ended the last time.

    Parameters
    ----------
    *paths : Path
        Journals; those that are not there say nothing.
    """

    def __init__(self, *paths: Path) -> None:
        self._outcomes: dict[str, Outcome] = {}
        self._starts: Counter[str] = Counter()
        self._open: set[str] = set()
        for path in paths:
            for line in read_lines(path):
                self._learn(line)

    def _learn(self, line: dict[str, Any]) -> Outcome | None:
        """Take up what a line says."""
        if "started" in line:
            self._starts[str(line["started"])] += 1
            self._open.add(str(line["started"]))
            return None
        with suppress(TypeError):
            outcome = Outcome(**{name: line[name] for name in Outcome._fields if name in line})
            if not all(isinstance(x, t) for x, t in zip(outcome, _TYPES, strict=True)):
                return None
            self._outcomes[outcome.key] = outcome
            self._open.discard(outcome.key)
            return outcome
        return None

    def find(self, key: str) -> Outcome | None:
        """Return how a command has ended the last time."""
        return self._outcomes.get(key)

    def is_open(self, key: str) -> bool:
        """Return whether a command was started of which no end is known."""
        return key in self._open

    def count_starts(self, key: str) -> int:
        """Return how often a command was started, in all runs."""
        return self._starts[key]


class CommandJournal(History):
    """A file of JSON lines: one for each start of a command, and one for each end.

    Threads may share it; one process at a time writes it.  A context that closes the file.

    Parameters
    ----------
    path : Path
        In a folder that exists; the file need not.
    logs : Logs, optional
        Without them, what commands have printed goes into the journal itself, until another one
        takes it over.
    """

    def __init__(self, path: Path, logs: Logs | None = None) -> None:
        super().__init__(path)
        self._logs = logs
        self._lock = threading.Lock()
        self._lines = LineWriter(path)

    def __enter__(self) -> "CommandJournal":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def begin(self, key: str) -> None:
        """Note that a command starts."""
        self._write({"started": key})

    def end(self, outcome: Outcome, log: str) -> None:
        """Note how a command has ended, and what is to be kept of what it printed."""
        self._take({**outcome._asdict(), "log": log})

    def take_over(self, path: Path) -> list[Outcome]:
        """Note what another journal says, and remove it; return how commands have ended."""
        found = [self._take(line) for line in read_lines(path)]
        path.unlink(missing_ok=True)
        return [outcome for outcome in found if outcome is not None]

    def _take(self, line: dict[str, Any]) -> Outcome | None:
        if self._logs is None:
            return self._write(line)
        log = line.pop("log", "")
        outcome = self._write(line)
        if outcome is not None and (log or not outcome.is_done):
            with self._lock:
                self._logs.add(outcome, str(log))
        return outcome

    def _write(self, line: dict[str, Any]) -> Outcome | None:
        with self._lock:
            self._lines.write(line)
            return self._learn(line)

    @property
    def is_there(self) -> bool:
        """Whether nobody has taken the file over."""
        return self._lines.is_there
