"""What does a circuit take, against ArchNGV's own Snakefile?

Both go from an atlas, vessels and neurons to finished connections, the configuration of the circuit
and a surface to be filled with tetrahedra: the stages of that Snakefile that need no program of
its authors' site.  The circuit of ArchNGV's functional tests (5 astrocytes), and the one of
`nipype-blm ngv example` (12); with one and with two of what run stages side by side.  Then each
stage by itself, synthesis alone, and what is spent on imports.
"""

import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from harness import (
    HERE,
    Usage,
    aim,
    format_table,
    measure,
    parse_arguments,
    summarise,
    write_result,
)

from nipype_blm.ngv.environment.companion import SCRIPTS
from nipype_blm.ngv.environment.finding import VARIABLE, ask
from nipype_blm.ngv.layout import Layout

TESTS = HERE.parent
RUNNER = HERE / "run_circuit.py"
UNTIL = (
    *("finalize_gliovascular_connectivity", "finalize_neuroglial_connectivity"),
    *("ngv_config", "prepare_tetrahedral"),
)
WORKERS = (1, 2)
QUIET = 1.0  # load of a machine that does nothing else
# What decides how long the Snakefile takes.
_OTHERS = ("archngv", "snakemake", "pulp", "NeuroTS", "diameter-synthesis", "numpy", "dask")
_ASK = (
    "import importlib.util as u, importlib.metadata as m, json, platform; "
    "print(json.dumps({'origin': u.find_spec('archngv').origin, 'versions': "
    f"{{'python': platform.python_version()}} | {{n: m.version(n) for n in {_OTHERS}}}}}))"
)


class Peer(NamedTuple):
    """The environment of ArchNGV, with snakemake."""

    python: Path
    snakefile: Path
    versions: Mapping[str, str]

    def command(self, folder: Path, words: Sequence[str | Path]) -> list[str | Path]:
        """Return a command of that environment in a folder; a batch system is not there."""
        path = f"PATH={self.python.parent}{os.pathsep}{os.environ['PATH']}"
        unset = [word for name in os.environ if "SLURM" in name for word in ("-u", name)]
        return ["env", *unset, "-C", folder, path, *words]

    def run(self, build: Path, n_jobs: int) -> list[str | Path]:
        """Return ArchNGV's command that runs its Snakefile."""
        places = ["--bioname", "../bioname", "--cluster-config", "../bioname/cluster.yaml"]
        what = ["--snakefile", self.snakefile, "--jobs", str(n_jobs), *UNTIL]
        return self.command(build, ["ngv", "run", *places, *what])


def main() -> None:
    """Measure and write the result."""
    arguments = parse_arguments(
        __doc__ or "",
        "nipype-blm",
        ngv_python={
            "type": Path,
            "default": os.environ.get(VARIABLE),
            "help": f"of the environment of ArchNGV, with snakemake; default: ${VARIABLE}",
        },
        circuits={"nargs": "+", "default": list(_MAKE), "choices": list(_MAKE), "help": "of which"},
    )
    if arguments.ngv_python is None:
        sys.exit("--ngv-python is needed")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # on both sides; more would only wait for each other
    load = os.getloadavg()
    peer = find_peer(arguments.ngv_python)
    folder = arguments.data / "ngv"
    folder.mkdir(exist_ok=True)
    imports = measure_imports(peer, arguments.repeats, folder)
    aims: list[dict[str, Any]] = []
    circuits = {}
    for name in arguments.circuits:
        print(f"--- {name}")
        circuits[name] = measure_circuit(name, folder / name, peer, arguments, aims)
    write_result(
        arguments.results,
        "ngv",
        aims,
        load_at_the_start=load,
        on_a_busy_machine=load[0] > QUIET,
        versions_of_the_other_environment=peer.versions,
        imports=imports,
        circuits=circuits,
    )


def find_peer(python: Path) -> Peer:
    """Return the other environment, and what it has."""
    found = ask(python, _ASK)
    snakefile = Path(found["origin"]).parent / "app" / "snakemake" / "Snakefile"
    return Peer(python.absolute(), snakefile, found["versions"])


# ------------------------------------------------------------------------------- circuits


def make_functional(folder: Path, peer: Peer, tool: Path) -> None:
    """Copy the circuit of ArchNGV's functional tests."""
    sys.path.insert(0, str(TESTS))
    from circuits import fetch_source

    source = fetch_source(folder) / "functional"
    for part in ("bioname", "data"):
        shutil.copytree(source / part, folder / part, dirs_exist_ok=True)
    manifest = folder / "bioname" / "MANIFEST.yaml"
    # With true the Snakefile asks for the modules of its site, and for srun.
    manifest.write_text(manifest.read_text().replace("parallel: true", "parallel: false"))


def make_example(folder: Path, peer: Peer, tool: Path) -> None:
    """Write the example."""
    subprocess.run([tool, "ngv", "example", folder, "--ngv-python", peer.python], check=True)


_MAKE = {"functional": make_functional, "example": make_example}


def measure_circuit(
    name: str, folder: Path, peer: Peer, arguments: Any, aims: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return all that a circuit takes, in whole and in parts."""
    if not (folder / "bioname" / "MANIFEST.yaml").exists():
        folder.mkdir(exist_ok=True)
        _MAKE[name](folder, peer, arguments.nipype_blm)
    runs, stages = run_sides(folder, peer, arguments)
    cells = check_same(folder)
    for n in WORKERS:
        for kind in ("wall_s", "cpu_s"):
            least = [
                min(getattr(u, kind) for u in runs[f"{s}, {n}"]) for s in ("ours", "snakefile")
            ]
            what = f"{'wall' if kind == 'wall_s' else 'CPU'} seconds / those of the Snakefile"
            aims.append(aim(f"{name}, {n} at a time: {what}", least[0] / least[1], "<=", 1.0))
    others = measure_commands(folder, peer, arguments.repeats)
    return {
        "astrocytes": cells,
        "sides": {side: describe_runs(each) for side, each in runs.items()},
        "pairs": compare_pairs(runs),
        "picture_and_table": repeat_part(arguments.repeats, "show", folder / "ours_1"),
        "stages": tabulate_stages(stages, others),
        "synthesis": measure_synthesis(folder, peer, arguments.repeats, others),
    }


def run_sides(
    folder: Path, peer: Peer, arguments: Any
) -> tuple[dict[str, list[Usage]], list[dict[str, Any]]]:
    """Run all sides in turn; return what they took, and the stages of the plugin Linear."""
    linear = [sys.executable, RUNNER, "stages", folder / "bioname", folder / "linear", peer.python]
    sides: dict[str, tuple[Path, list[str | Path]]] = {}
    for n in WORKERS:
        build, out = folder / f"build_{n}", folder / f"ours_{n}"
        options = [word for stage in UNTIL for word in ("--until", stage)]
        options += ["--n-procs", str(n), "--quiet"]
        ours = [arguments.nipype_blm, "ngv", "run", folder / "bioname", out, *options]
        sides[f"snakefile, {n}"] = build, peer.run(build, n)
        sides[f"ours, {n}"] = out, [*ours, "--ngv-python", peer.python]
    sides["ours, Linear"] = folder / "linear", [*linear, *UNTIL]
    runs: dict[str, list[Usage]] = {side: [] for side in sides}
    stages = []
    for turn in range(arguments.repeats):
        for side, (place, command) in sides.items():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            log = folder / f"{place.name}.log"
            usage = measure(command, log)
            print(f"{side:>14} {turn + 1}: {usage.cpu_s:.2f} CPU s, {usage.wall_s:.2f} s")
            runs[side].append(usage)
        stages.append(read_answer(log))
    return runs, stages


def describe_runs(runs: Sequence[Usage]) -> dict[str, Any]:
    """Return a summary, and the seconds of each run."""
    return summarise(runs) | {"wall_s_of_each_run": [round(run.wall_s, 3) for run in runs]}


def compare_pairs(runs: Mapping[str, Sequence[Usage]]) -> dict[str, Any]:
    """Return ours / the Snakefile, of runs that came one after the other: median of each."""
    return {
        f"{n} at a time, {kind}": round(
            statistics.median(
                getattr(ours, kind) / getattr(other, kind)
                for ours, other in zip(runs[f"ours, {n}"], runs[f"snakefile, {n}"], strict=True)
            ),
            3,
        )
        for n in WORKERS
        for kind in ("wall_s", "cpu_s")
    }


def check_same(folder: Path) -> int:
    """Refuse a side that has made another circuit; return how many astrocytes there are."""
    first, *others = (
        Layout(folder / name) for name in ("ours_1", *(f"ours_{n}" for n in WORKERS[1:]), "linear")
    )
    theirs = []
    for n in WORKERS:
        layout = Layout(folder / f"ours_{n}")
        paths = [path.relative_to(layout.build) for path in list_files(layout)]
        theirs += [(layout.build / path, folder / f"build_{n}" / path) for path in paths]
    for layout in others:
        paths = [path.relative_to(first.build) for path in list_files(first)]
        theirs += [(first.build / path, layout.build / path) for path in paths]
    for one, other in theirs:
        if read_arrays(one) != read_arrays(other):
            sys.exit(f"{one} and {other} differ")
    return len(list(first.morphologies.glob("*.h5")))


def list_files(layout: Layout) -> list[Path]:
    """Return the files of a circuit that both sides write."""
    parts = [layout.gliovascular, layout.neuroglial, layout.endfeet_meshes, layout.surface_mesh]
    return [*parts, *sorted(layout.morphologies.glob("*.h5"))]


def read_arrays(path: Path) -> dict[str, bytes]:
    """Return what is in a file, in a form that can be compared."""
    if path.suffix != ".h5":
        return {"": path.read_bytes()}
    found = {}

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            values = np.asarray(node[()])
            found[name] = repr(values.tolist()).encode()

    with h5py.File(path) as file:
        file.visititems(note)
    return found


# ---------------------------------------------------------------------------------- parts

# Of snakemake's log: a rule, its inputs, and the command of its shell.
_RULE = re.compile(r"^rule (\w+):\n(?:    input: (.+)\n)?(?:.+\n)*\n(.+)\n", re.MULTILINE)
_INPUT = str(input)  # what snakemake prints, other than what it runs, where a rule says {input}


def measure_commands(folder: Path, peer: Peer, repeats: int) -> dict[str, list[Usage]]:
    """Run the command of each rule by itself, in a circuit that is there."""
    said = (folder / "build_1.log").read_text()
    build = folder / "build_1"
    usages: dict[str, list[Usage]] = {}
    for _ in range(repeats):
        for rule, inputs, shell in _RULE.findall(said):
            words = shlex.split(shell.replace(_INPUT, inputs).split("2>&1")[0])
            usage = measure(peer.command(build, words), folder / "command.log", 0.5)
            usages.setdefault(rule, []).append(usage)
    if missing := set(UNTIL) - set(usages):
        sys.exit(f"snakemake's log has no command of {missing}")
    return usages


def repeat_part(repeats: int, *words: str | Path) -> dict[str, Any]:
    """Return the least that a part takes in a process that has imported what it needs."""
    command = [sys.executable, RUNNER, *map(str, words)]
    found = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {kind: min(each[kind] for each in found) for kind in ("cpu_s", "wall_s")}


def read_answer(log: Path) -> dict[str, Any]:
    """Return what `run_circuit.py` has printed last."""
    answer: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return answer


def tabulate_stages(
    ours: Sequence[Mapping[str, Any]], others: Mapping[str, Sequence[Usage]]
) -> list[dict[str, Any]]:
    """Return the least of each stage: of ours, imported beforehand, and of ArchNGV's command."""
    rows = []
    for name in ours[0]:
        row: dict[str, Any] = {"stage": name}
        for kind in ("cpu_s", "wall_s"):
            row[kind] = min(each[name][kind] for each in ours)
        for kind in ("cpu_s", "wall_s"):
            found = [getattr(usage, kind) for usage in others.get(name, ())]
            row[f"archngv_{kind}"] = round(min(found), 2) if found else None
        rows.append(row)
    print(format_table(rows))
    return rows


def measure_synthesis(
    folder: Path, peer: Peer, repeats: int, others: Mapping[str, Sequence[Usage]]
) -> dict[str, Any]:
    """Return what growing takes without anything else, and ArchNGV's command."""
    found: dict[str, Any] = {"ngv synthesis": describe_runs(others["synthesis"])}
    for n in WORKERS:
        part = repeat_part(repeats, "synthesis", folder / "linear", peer.python, str(n))
        found[f"{n} at a time, start of companions included"] = part
        print(f"synthesis, {n}: {part}")
    return found


def measure_imports(peer: Peer, repeats: int, folder: Path) -> dict[str, Any]:
    """Return what each process pays before it does anything."""
    modules = re.search(r"_MODULES = (\(.*?\n\))", (SCRIPTS / "serve.py").read_text(), re.DOTALL)
    if modules is None:
        sys.exit("serve.py does not say what it imports")
    every = f"import importlib\nfor n in {modules[1]}: importlib.import_module(n)"

    def python(code: str) -> list[str | Path]:
        return peer.command(folder, ["python", "-I", "-c", code])

    commands = {
        "ArchNGV: python": python("pass"),
        "ArchNGV: ngv --help, as each command does": peer.command(folder, ["ngv", "--help"]),
        "ArchNGV: all that stages use, as a companion does once": python(every),
        "ArchNGV: dask.distributed": python("import dask.distributed"),
        "ArchNGV: snakemake": python("import snakemake"),
        "ours: python": [sys.executable, "-c", "pass"],
        "ours: all that the command uses": [sys.executable, RUNNER, "imports"],
    }
    found = {}
    for name, command in commands.items():
        runs = [measure(command, folder / "imports.log") for _ in range(repeats)]
        found[name] = describe_runs(runs)
        print(f"{name}: {found[name]['cpu_s']:.2f} CPU s, {found[name]['wall_s']:.2f} s")
    return found


if __name__ == "__main__":
    main()
