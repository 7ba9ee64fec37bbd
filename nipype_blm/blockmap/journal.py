"""What is known of blocks: a line of JSON for each start and each end."""

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.tasks.journal import read_lines

START, DONE, SKIPPED = "start", "done", "skipped"
# Of a try that ended with an error, which ended the run, or after which there is another one.
FAILED = "failed"


class Ended(NamedTuple):
    """How a block has ended."""

    number: int  # in the grid
    key: str
    state: str  # `DONE` or `SKIPPED`
    seconds: float
    host: str
    n_bytes: int = 0  # that were read
    error: str = ""  # in one line, of a block that was skipped
    traceback: str = ""


@dataclass
class History:
    """What journals say of blocks, by their numbers in the grid."""

    ended: dict[int, Ended] = field(default_factory=dict)
    n_starts: dict[int, int] = field(default_factory=dict)  # without an end so far
    failures: list[tuple[str, str]] = field(default_factory=list)  # names of errors, and their text

    @property
    def done(self) -> set[int]:
        """The blocks that are done."""
        return {number for number, each in self.ended.items() if each.state == DONE}

    @property
    def skipped(self) -> list[Ended]:
        """The blocks that were skipped, in order."""
        return [self.ended[i] for i in sorted(self.ended) if self.ended[i].state == SKIPPED]

    def read(self, path: Path) -> None:
        """Add what a journal says."""
        for line in read_lines(path):
            with suppress(KeyError, TypeError):
                self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        number = int(line["number"])
        if line["state"] == START:
            self.n_starts[number] = self.n_starts.get(number, 0) + 1
            return
        if line["state"] == FAILED:
            self.n_starts[number] = max(0, self.n_starts.get(number, 0) - 1)
            self.failures.append((line["kind"], line["error"]))
            return
        fields = {name: line[name] for name in Ended._fields if name in line}
        known = self.ended.get(number)
        # One that was skipped may have been done by another run, whose journal is read before.
        if known is None or known.state != DONE:
            self.ended[number] = Ended(**fields)
        self.n_starts.pop(number, None)


def read_history(folder: Path) -> History:
    """Return what all journals of a folder say."""
    history = History()
    for path in list_journals(folder):
        history.read(path)
    return history


def list_journals(folder: Path) -> list[Path]:
    """Return the journals of a folder, those of earlier runs first."""
    return sorted(folder.glob("*.jsonl"))


def name_journal(folder: Path) -> Path:
    """Return a file that no run before has written, and whose name comes after all theirs."""
    return folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl"


def format_start(number: int, key: str) -> dict[str, Any]:
    """Return the line that tells that a block has started."""
    return {"number": number, "key": key, "state": START}


def format_failure(number: int, error: BaseException, said: str) -> dict[str, Any]:
    """Return the line that tells that a try has ended with an error, and not the block."""
    return {"number": number, "state": FAILED, "kind": type(error).__name__, "error": said}


def format_end(ended: Ended, records: Iterable[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the line that tells how a block has ended, with its records if it has a table."""
    line = {name: value for name, value in ended._asdict().items() if value != ""}
    return line if records is None else line | {"records": list(records)}


def find_records(folder: Path) -> list[tuple[int, Path, int]]:
    """Return where the records of blocks are: number of the block, file and place in it.

    Of a block that was done twice the last one counts.
    """
    places = {}
    for path in list_journals(folder):
        with path.open("rb") as file:
            at = 0
            for text in file:
                if b'"records"' in text and text.endswith(b"\n"):
                    with suppress(ValueError, KeyError, TypeError):
                        line = json.loads(text)
                        if line["state"] == DONE and "records" in line:
                            places[int(line["number"])] = (path, at)
                at += len(text)
    return [(number, *places[number]) for number in sorted(places)]


def read_records(places: Iterable[tuple[int, Path, int]]) -> Iterator[dict[str, Any]]:
    """Yield records, as `find_records` has found them."""
    last: Path | None = None
    file = None
    try:
        for _, path, at in places:
            if path != last:
                if file is not None:
                    file.close()
                file, last = path.open("rb"), path
            assert file is not None
            file.seek(at)
            yield from json.loads(file.readline())["records"]
    finally:
        if file is not None:
            file.close()


def name_host() -> str:
    """Return the name of this machine."""
    return os.uname().nodename
