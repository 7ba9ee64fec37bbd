"""Do all faults to runs on pools of all kinds, and say what became of them.

    cd tests && python -m faults

Starts a Slurm and a Grid Engine of its own in a temporary folder, and stops them at the end.
"""

import argparse
import importlib.metadata
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, aim, format_table, write_result
from cli.test_faults import Driver
from plugins.conftest import GridEngine, Slurm, run_client, started

from faults.cases import FAULTS, Fault, Outcome, Setup, measure
from faults.runs import POOLS, find_processes, kill
from faults.study import FIELDS, write_image, write_study

SCHEDULERS = {"slurm": Slurm, "sge": GridEngine}
LEGEND = """\
noticed after s: from the fault until something was done about it (a new worker or job), or until
the error; after kill -9 of the driver, until the last of its workers had ended; after the restart
of a scheduler, until there was a new worker.
results lost: maps that were not there, or not the same bit for bit, at the end; and nodes that had
finished before the fault, and ran again although nothing that they need had changed."""
VERSIONS = {"slurm": ["sbatch", "--version"], "sge": ["qstat", "-help"]}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of functions in cases.py")
    parser.add_argument(
        "--results", type=Path, help=f"folder for the result; {RESULTS} if all faults are tried"
    )
    arguments = parser.parse_args()
    if arguments.only is None and len(arguments.pools) == len(POOLS):
        arguments.results = arguments.results or RESULTS
    return arguments


@contextmanager
def running(pools: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Start the schedulers of some pools."""
    with ExitStack() as stack:
        yield {
            name: kind(stack.enter_context(started(name, folder)))
            for name, kind in SCHEDULERS.items()
            if name in pools
        }
    for name in SCHEDULERS:  # which another process stops now
        measure(lambda name=name: not (folder / name).exists())


def find_maps(folder: Path, inputs: Path) -> dict[str, bytes]:
    """Return the maps of a run without a pool that nothing disturbs."""
    folder.mkdir()
    driver = Driver(folder, inputs)
    driver.configure(**FIELDS)
    code, printed = driver.run()
    assert code == 0, printed
    return driver.maps()


def prepare(folder: Path) -> dict[str, Any]:
    """Write the study, and return what every fault needs of it."""
    inputs, other = folder / "inputs", folder / "other_inputs"
    write_study(inputs)
    shutil.copytree(inputs, other)
    write_image(other / "s07.nii.gz", 999)
    maps, replaced = find_maps(folder / "local", inputs), find_maps(folder / "replaced", other)
    assert maps != replaced
    return {"inputs": inputs, "maps": maps, "replaced_maps": replaced}


def main() -> None:
    arguments = parse_arguments()
    folder = Path(tempfile.mkdtemp(prefix="faults_"))
    rows = []
    with running(arguments.pools, folder) as schedulers:
        study = prepare(folder)
        for fault in FAULTS:
            name = fault.run.__name__
            if name not in (arguments.only or [name]):
                continue
            for pool in [pool for pool in fault.pools if pool in arguments.pools]:
                setup = Setup(
                    pool=pool,
                    scheduler=schedulers.get(pool),
                    state=folder / pool,
                    folder=folder / f"{name}_{pool}",
                    **study,
                )
                rows.append(try_fault(fault, setup))
                print(describe(rows[-1]), flush=True)
        versions = find_versions(list(schedulers))
    print(tabulate(rows))
    if arguments.results:
        write(arguments.results, rows, versions)
    if all(row["is_right"] for row in rows):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        sys.exit(f"The runs that ended wrong are in {folder}.")


def try_fault(fault: Fault, setup: Setup) -> dict[str, Any]:
    """Do a fault; whatever this programme did not expect is an outcome as well."""
    start = time.monotonic()
    setup.folder.mkdir()
    try:
        outcome = fault.run(setup)
    except Exception as error:
        outcome = Outcome(f"{type(error).__name__} in the test", False, 0, None, str(error))
    finally:
        kill(find_processes(setup.folder))
    if outcome.is_right:
        shutil.rmtree(setup.folder, ignore_errors=True)
    outcome = outcome._replace(message=outcome.message.replace(str(setup.folder), "FOLDER"))
    took_s = round(time.monotonic() - start, 1)
    return {"fault": fault.title, "pool": setup.pool} | outcome._asdict() | {"took_s": took_s}


def find_versions(schedulers: list[str]) -> dict[str, str]:
    found = {name: run_client(*VERSIONS[name]).splitlines()[0] for name in schedulers}
    packages = ("dask-jobqueue", "distributed")
    return found | {name: importlib.metadata.version(name) for name in packages}


def describe(row: dict[str, Any]) -> str:
    mark = "right" if row["is_right"] else "WRONG"
    text = f"{mark}: {row['fault']} [{row['pool']}, {row['took_s']} s]: {row['ended']}"
    if row["noticed_s"] is not None:
        text += f"; noticed after {row['noticed_s']} s"
    return "\n    ".join([text, *row["message"].splitlines()])


def tabulate(rows: list[dict[str, Any]]) -> str:
    columns = {"fault": "fault", "pool": "pool", "noticed_s": "noticed after s", "ended": "end"}
    short = [{title: row[name] for name, title in columns.items()} for row in rows]
    for line, row in zip(short, rows, strict=True):
        line["noticed after s"] = "" if row["noticed_s"] is None else row["noticed_s"]
        line["right"] = "yes" if row["is_right"] else "NO"
        line["results lost"] = row["n_lost"]
    return f"{format_table(short)}\n{LEGEND}\n\n{count(rows)}\n"


def count(rows: list[dict[str, Any]]) -> str:
    n_right = sum(row["is_right"] for row in rows)
    n_lost = sum(row["n_lost"] for row in rows)
    return f"Faults tried: {len(rows)}.  Runs that ended right: {n_right}.  Results lost: {n_lost}."


def write(folder: Path, rows: list[dict[str, Any]], versions: dict[str, str]) -> None:
    n_right = sum(row["is_right"] for row in rows)
    aims = [
        aim("runs that ended right / faults tried", n_right / len(rows), ">=", 1),
        aim("results lost", sum(row["n_lost"] for row in rows), "<=", 0),
    ]
    details = {"n_faults": len(rows), "n_right": n_right, "pool_versions": versions}
    write_result(folder, "faults", aims, **details, faults=rows)
    messages = "\n".join(describe(row) for row in rows)
    (folder / "faults.txt").write_text(f"{tabulate(rows)}\nWhat was said\n\n{messages}\n")


if __name__ == "__main__":
    main()
