"""The folder of a list of commands: its files, and what they say in the end."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nipype_blm.errors import count
from nipype_blm.tasks.commandjournal import FAILED_LOG, History, Outcome
from nipype_blm.tasks.commandlist import Command

_MOST_TOLD = 5  # failures


class CommandsError(RuntimeError):
    """Commands have failed; the text tells how many, and what the first ones said."""


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
        """What workers note, until it is in the journal; the next run takes over what is left."""
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
    def n_not_run(self) -> int:
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
        if self.n_not_run:
            lines[0] += f", and {self.n_not_run} were not run: more have failed than max_failures"
        lines[0] += ".  What the first ones said:"
        for command, outcome in self.failed[:_MOST_TOLD]:
            code = "lost" if outcome.returncode is None else f"return code {outcome.returncode}"
            lines.append(f"  line {command.line}, {code}: {outcome.stderr or 'nothing'}")
        lines.append(
            f"All that they said is in {self.places.logs / FAILED_LOG}; "
            f"{self.places.failed_commands} lists them.  The same again runs only what is not done."
        )
        raise CommandsError("\n".join(lines))


_COLUMNS = ("line", "returncode", "host", "seconds", "attempts", "stderr", "command")


def write_results(
    commands: Mapping[str, Command],
    places: Places,
    history: History,
    outcomes: Mapping[str, Outcome],
    n_earlier: int,
) -> Summary:
    """Write the table, and the list of those that failed.

    Parameters
    ----------
    commands : mapping of str to Command
        By key, in the order of the list.
    places : Places
    history : History
        Of all runs.
    outcomes : mapping of str to Outcome
        Of this run, by key.
    n_earlier : int
        Commands that were done before.

    Returns
    -------
    summary : Summary
    """
    rows, failed = ["\t".join(_COLUMNS)], []
    for key, command in commands.items():
        rows.append(_describe(command, history.find(key), history.count_starts(key)))
        outcome = outcomes.get(key)
        if outcome is not None and not outcome.is_done:
            failed.append((command, outcome))
    n_done = n_earlier + len(outcomes) - len(failed)
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
