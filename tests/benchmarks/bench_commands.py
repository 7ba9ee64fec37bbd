"""What does a command of a list cost beyond the shell that runs it, here and on a pool?

Each side runs `true` as often as asked: a bare loop of fork and exec, the same through `bash -c`,
then `nipype-blm commands` here and on a pool of this machine, with one at a time, and with as many
as there are cores.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
    command = arguments.nipype_blm
    pool = ("--cluster", "local", "--n-workers")
    sides: dict[str, Callable[[], float]] = {
        "exec, one at a time": lambda: loop(["true"], n),
        "bash -c, one at a time": lambda: loop(["bash", "-c", "true"], n),
        "here, one at a time": lambda: run(folder, command, n, "--n-procs", "1"),
        "pool, one at a time": lambda: run(folder, command, n, *pool, "1"),
        "here": lambda: run(folder, command, n, "--n-procs", str(n_procs)),
        "pool": lambda: run(folder, command, n, *pool, str(n_procs)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.repeats):
        for name, measure in sides.items():
            seconds[name].append(measure())
            print(f"{name}: {seconds[name][-1]:.2f} s")
    least = {name: min(each) for name, each in seconds.items()}
    ms = {name: 1000 * each / n for name, each in least.items()}
    bare = ms["exec, one at a time"]
    aims = [
        aim(f"{n} x true here: seconds, start included", least["here"], "<=", 30),
        aim(f"{n} x true on a pool: seconds, start included", least["pool"], "<=", 30),
        aim(
            "here, one at a time: ms for each beyond fork and exec",
            ms["here, one at a time"] - bare,
            "<=",
            1,
        ),
        aim(
            "pool of one worker: ms for each beyond fork and exec",
            ms["pool, one at a time"] - bare,
            "<=",
            1,
        ),
    ]
    write_result(
        arguments.results, "commands", aims, n=n, n_procs=n_procs, seconds=seconds, ms_for_each=ms
    )


def loop(command: list[str], n: int) -> float:
    """Return the seconds of a bare loop."""
    start = time.perf_counter()
    for _ in range(n):
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
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
