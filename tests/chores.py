"""What the tasks of tests do; workers import it, as they do not the tests themselves."""

import os
import signal
import time
from pathlib import Path

from nipype_blm.errors import InputError
from nipype_blm.progress import advance

NAMES = [f"out{i}.txt" for i in range(6)]


def note(path: Path) -> int:
    """Note a start; return how many there have been."""
    with Path(path.parent, "starts.txt").open("a") as file:
        file.write(f"{path.name} {os.getpid()}\n")
    return sum(line.split()[0] == path.name for line in read_starts(path.parent))


def read_starts(folder: Path) -> list[str]:
    path = folder / "starts.txt"
    return path.read_text().splitlines() if path.exists() else []


def write(path: Path) -> None:
    note(path)
    path.write_text("done")


def write_slowly(path: Path) -> None:
    note(path)
    time.sleep(0.5)
    path.write_text("done")


def kill_worker(path: Path, starts: range) -> None:
    """Have the worker killed at some of the starts of all tasks."""
    note(path)
    if len(read_starts(path.parent)) in starts:
        path.write_text("half")
        _wait_for_driver(path)
        os.kill(os.getpid(), signal.SIGKILL)
    # No task that matters is over before the driver has heard that it has begun.
    time.sleep(0.3)
    path.write_text("done")


def _wait_for_driver(path: Path) -> None:
    """Wait until the driver has noted all that were started before, or for a minute."""
    others = {line.split()[0] for line in read_starts(path.parent)} - {path.name}
    journal, end = path.parent / "journal.jsonl", time.monotonic() + 60
    while time.monotonic() < end:
        noted = journal.read_text() if journal.exists() else ""
        if all(f'"{name}"' in noted for name in others):
            return
        time.sleep(0.05)


def fail(path: Path) -> None:
    note(path)
    raise ValueError("no such voxel")


def refuse(path: Path) -> None:
    note(path)
    raise InputError(["one image is damaged", "another, too"]) from OSError(5, "its disk")


def stumble(path: Path) -> None:
    if note(path) == 1:
        raise OSError(116, "Stale file handle")
    path.write_text("done")


def read_and_write(path: Path, inputs: list[Path]) -> None:
    path.write_text(" ".join(file.read_text() for file in inputs))


def write_all(path: Path, texts: list[str]) -> None:
    path.write_text("".join(texts))


def advance_and_write(path: Path) -> None:
    for _ in range(3):
        advance("images", 2)
    path.write_text("done")


def write_where_others_do_not_look(path: Path, folder: Path) -> None:
    """Write a file whose path leads elsewhere in each process, depending on where it works."""
    os.chdir(folder)
    path.write_text("done")
