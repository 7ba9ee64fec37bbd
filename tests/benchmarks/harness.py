"""Run commands, measure the CPU time and memory of their whole process trees, keep results."""

import argparse
import contextlib
import ctypes
import datetime
import importlib.metadata
import json
import operator
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MIB = 2**20
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_PACKAGES = ("nipype_blm", "nipype", "nibabel", "numpy", "numba", "scipy", "zlib-ng", "nilearn")


class Usage(NamedTuple):
    """What one run of a command took."""

    cpu_s: float  # user and system, all processes
    wall_s: float
    pss_mib: float  # peak of the sum over all processes; shared pages divided among them
    rss_mib: float  # peak of the largest process (VmHWM), shared libraries included


class Side(NamedTuple):
    """One of the things that are compared."""

    command: Sequence[str | Path]
    fresh: Path | None = None  # folder that is made anew before each run
    fewer: bool = False  # slow: run once, without a warm-up


def parse_arguments(
    description: str, command: str = "blm", **options: Mapping[str, Any]
) -> argparse.Namespace:
    """Return the arguments that all benchmarks have, and those given here."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, help="folder for images; made if absent, and kept")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument(
        f"--{command}",
        type=Path,
        default=Path(sys.executable).with_name(command),
        help="the command",
    )
    for name, option in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **option)
    arguments = parser.parse_args()
    arguments.data = arguments.data.absolute()
    for folder in (arguments.data, arguments.results):
        folder.mkdir(parents=True, exist_ok=True)
    return arguments


def measure(command: Sequence[str | Path], log: Path, interval_s: float = 0.1) -> Usage:
    """Run a command to its end.

    CPU time is what the kernel accounts to the processes when they are reaped, orphans
    included; memory is sampled every `interval_s`.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # orphans become children of this process
    before, start = _reaped_cpu_s(), time.perf_counter()
    environment = os.environ | {"NIPYPE_NO_ET": "1"}  # Nipype would ask the network
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=file, stderr=file, env=environment
        )
    ended = threading.Event()
    peak = np.zeros(2)

    def sample() -> None:
        while not ended.wait(interval_s):
            np.maximum(peak, _tree_memory(process.pid), out=peak)

    sampler = threading.Thread(target=sample)
    sampler.start()
    process.wait()
    wall_s = time.perf_counter() - start
    ended.set()
    sampler.join()
    _reap_orphans()
    if process.returncode:
        raise RuntimeError(f"{command} failed with {process.returncode}:\n{log.read_text()}")
    return Usage(_reaped_cpu_s() - before, wall_s, *(peak / MIB))


def _reaped_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _tree_memory(pid: int) -> tuple[float, float]:
    """Return the proportional memory of a process tree, and the peak of its largest, in bytes."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0, 0
    pss, peaks = 0, [0]
    for process in tree:
        folder = Path("/proc", str(process.pid))
        with contextlib.suppress(OSError, StopIteration):  # it may have just ended
            pss += _read_kib(folder / "smaps_rollup", "Pss:")
            peaks.append(_read_kib(folder / "status", "VmHWM:"))
    return 1024 * pss, 1024 * max(peaks)


def _read_kib(path: Path, field: str) -> int:
    lines = path.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _reap_orphans() -> None:
    """Wait for descendants that outlived their parents, so that their time is counted."""
    while True:
        try:
            os.wait4(-1, 0)
        except ChildProcessError:
            return


def compare(
    sides: Mapping[str, Side], repeats: int, folder: Path, interval_s: float = 0.1
) -> dict[str, dict[str, Any]]:
    """Run all sides in turn, `repeats` times after one run that is not counted.

    Returns
    -------
    dict
        For each side the minimum and the median of CPU and wall seconds, the peaks of memory,
        and every single run.
    """
    runs: dict[str, list[Usage]] = {name: [] for name in sides}
    for turn in range(-1, repeats):
        for name, side in sides.items():
            if side.fewer and turn != 0:
                continue
            if side.fresh is not None:
                shutil.rmtree(side.fresh, ignore_errors=True)
                side.fresh.mkdir(parents=True)
            usage = measure(side.command, folder / "last.log", interval_s)
            print(f"{name:>24} {'warm-up' if turn < 0 else turn + 1}: {_describe(usage)}")
            if turn >= 0:
                runs[name].append(usage)
    return {name: summarise(found) for name, found in runs.items()}


def _describe(usage: Usage) -> str:
    return (
        f"{usage.cpu_s:.2f} CPU s, {usage.wall_s:.2f} s, "
        f"{usage.pss_mib:.0f} MiB (largest process {usage.rss_mib:.0f})"
    )


def summarise(runs: Sequence[Usage]) -> dict[str, Any]:
    """Return minima and medians of times, and the largest peaks of memory."""
    cpu, wall = ([round(getattr(run, kind), 3) for run in runs] for kind in ("cpu_s", "wall_s"))
    return {
        "cpu_s": min(cpu),
        "cpu_s_median": round(statistics.median(cpu), 2),
        "wall_s": min(wall),
        "wall_s_median": round(statistics.median(wall), 2),
        "pss_mib": round(max(run.pss_mib for run in runs)),
        "rss_mib": round(max(run.rss_mib for run in runs)),
        "cpu_s_of_each_run": cpu,
    }


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as lines of text."""
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return "\n".join(lines) + "\n"


_HOLDS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}


def aim(question: str, reached: float, relation: str, target: float) -> dict[str, Any]:
    """Return what was aimed at and what was reached."""
    met = _HOLDS[relation](reached, target)
    print(f"{'met' if met else 'MISSED'}: {question}: {reached:.3g} (aim: {relation} {target:g})")
    return {
        "question": question,
        "reached": round(reached, 3),
        "aim": f"{relation} {target:g}",
        "met": met,
    }


def write_result(folder: Path, name: str, aims: list[dict[str, Any]], **details: Any) -> None:
    """Write a result with where and when it was found, and the table of all results."""
    result = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | _versions(),
        "aims": aims,
    }
    (folder / f"{name}.json").write_text(json.dumps(result | details, indent=1) + "\n")
    (folder / "README.md").write_text(_tabulate(folder))


def _revision() -> str:
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def _machine() -> dict[str, Any]:
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "system": platform.platform(),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_at_the_end": os.getloadavg(),
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _tabulate(folder: Path) -> str:
    """Return the aims of all results as a page."""
    lines = ["# What was reached", "", "Written by the benchmarks; the numbers are in the JSON."]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        if "aims" not in result:
            continue
        lines += [
            "",
            f"## {result['benchmark']}",
            "",
            f"{result['date'][:10]}, revision {result['revision']}, "
            f"{result['machine']['cores']} cores, {result['machine']['processor']}.",
            "",
            "| Question | Reached | Aim | Met |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {a['question']} | {a['reached']:g} | {a['aim']} | {'yes' if a['met'] else 'no'} |"
            for a in result["aims"]
        ]
    return "\n".join(lines) + "\n"
