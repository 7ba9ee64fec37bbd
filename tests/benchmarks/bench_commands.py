"""What does a command of a list cost beyond the shell that runs it, here and on a pool?

Each side runs `true` as often as asked: a loop of fork and exec, the same through `bash -c`, both
with as many threads as there are cores, then `nipype-blm commands` here and on a pool of this
machine.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import aim, parse_arguments, write_result

N_COMMANDS = 10_000


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        "nipype-blm",
        n_commands={"type": int, "default": N_COMMANDS, "help": "commands of the list"},
    )
    folder, n = arguments.data / "commands", arguments.n_commands
    n_procs = len(os.sched_getaffinity(0))
    sides: dict[str, list[float]] = {"exec": [], "bash": [], "here": [], "pool": []}
    for _ in range(arguments.repeats):
        sides["exec"].append(loop(["true"], n, n_procs))
        sides["bash"].append(loop(["bash", "-c", "true"], n, n_procs))
        command = arguments.nipype_blm
        sides["here"].append(run(folder, command, n))
        options = ("--cluster", "local", "--n-workers", str(n_procs))
        sides["pool"].append(run(folder, command, n, *options))
        print({name: round(seconds[-1], 2) for name, seconds in sides.items()})
    least = {name: min(seconds) for name, seconds in sides.items()}
    ms = {name: 1000 * n_procs * seconds / n for name, seconds in least.items()}
    aims = [
        aim(f"{n} x true here: seconds, start included", least["here"], "<=", 30),
        aim(f"{n} x true on a pool: seconds, start included", least["pool"], "<=", 30),
        aim(
            "here: ms of a core for each command, beyond bash -c", ms["here"] - ms["bash"], "<=", 1
        ),
        aim("here: ms of a core for each command, beyond exec", ms["here"] - ms["exec"], "<=", 1),
        aim(
            "pool: ms of a core for each command, beyond bash -c", ms["pool"] - ms["bash"], "<=", 1
        ),
    ]
    details: dict[str, Any] = {"seconds": sides, "ms_of_a_core_for_each": ms}
    write_result(arguments.results, "commands", aims, n=n, n_procs=n_procs, **details)


def loop(command: list[str], n: int, n_threads: int) -> float:
    """Return the seconds of a bare loop."""

    def work(n_mine: int) -> None:
        for _ in range(n_mine):
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)

    start = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as executor:
        list(executor.map(work, [n // n_threads] * n_threads))
    return time.perf_counter() - start


def run(folder: Path, command: Path, n: int, *options: str) -> float:
    """Return the seconds of the command, with a list that nobody has run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "list.txt").write_text("true\n" * n)
    start = time.perf_counter()
    done = subprocess.run(
        [command, "commands", "list.txt", "--quiet", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds


if __name__ == "__main__":
    main()
