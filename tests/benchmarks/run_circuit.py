"""Do a part of a circuit in one process; print what it took as JSON.

Usage:
    run_circuit.py imports
    run_circuit.py stages CONFIG OUT PYTHON STAGE...    all stages, by the plugin Linear
    run_circuit.py synthesis OUT PYTHON N               the cells of OUT again, by N threads
    run_circuit.py show OUT                             the picture and the table
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

ROOT = "ngv_wf"


def main(what: str, *arguments: str) -> None:
    """Run, and print."""
    act: Callable[..., dict[str, Any]] = {
        "imports": import_all,
        "stages": run_stages,
        "synthesis": grow_again,
        "show": show,
    }[what]
    print(json.dumps(act(*arguments)))


def spend() -> dict[str, float]:
    """Return the time, and what this process, its children and theirs have spent until now."""
    own = psutil.Process()
    cpu_s = 0.0
    for process in (own, *own.children()):
        times = process.cpu_times()
        cpu_s += times.user + times.system + times.children_user + times.children_system
    return {"cpu_s": cpu_s, "wall_s": time.perf_counter()}


def since(start: dict[str, float]) -> dict[str, float]:
    """Return what was spent since then."""
    return {kind: round(value - start[kind], 2) for kind, value in spend().items()}


def import_all() -> dict[str, Any]:
    """Import what the command imports."""
    start = spend()
    import nipype_blm.cli.main
    import nipype_blm.cli.ngv
    import nipype_blm.cli.plugins
    import nipype_blm.cli.run
    import nipype_blm.plugins
    import nipype_blm.workflows.ngv  # noqa: F401

    return since(start)


def run_stages(config: str, out: str, python: str, *until: str) -> dict[str, Any]:
    """Run the workflow, one node after the other; return what each node took."""
    from nipype.pipeline.plugins import LinearPlugin

    from nipype_blm.ngv.environment.companion import borrowing
    from nipype_blm.ngv.environment.finding import find_environment
    from nipype_blm.workflows.ngv import init_ngv_wf

    start = spend()
    with borrowing(find_environment(python).python):  # as the first stage does
        found = {"start of the companion": since(start)}
    begun = {}

    def note(node: Any, status: str) -> None:
        if status == "start":
            begun[node.name] = spend()
        else:
            found[node.name] = since(begun[node.name])

    workflow = init_ngv_wf(config=config, out_dir=out, until=until, ngv_python=python, name=ROOT)
    workflow.base_dir = str(Path(out) / "work")
    workflow.config["execution"]["crashdump_dir"] = workflow.base_dir
    plugin = LinearPlugin(plugin_args={"status_callback": note})
    plugin.plugin_args.clear()  # it has it; a MapNode is pickled with these
    workflow.run(plugin=plugin)
    return found


def grow_again(out: str, python: str, n_workers: str) -> dict[str, Any]:
    """Grow all cells of a circuit again, each worker with a companion of its own."""
    from nipype_blm.ngv.environment.companion import close_companions
    from nipype_blm.ngv.environment.finding import find_environment
    from nipype_blm.ngv.synthesis import PLAN_FILE, SynthesisPlan, synthesize
    from nipype_blm.tasks.pieces import cut_evenly

    start = spend()
    environment = find_environment(python)
    plan = SynthesisPlan.read(Path(out, "work", ROOT, "plan_synthesis", PLAN_FILE))
    cells, n = list(range(len(plan.names))), int(n_workers)
    for index in cells:
        plan.find(index).unlink(missing_ok=True)
    again = Path(out, "work", "again.json")
    bundles = cut_evenly(cells, n, len(cells))
    replace(plan, bundles=bundles, retries=0).write(again)

    def grow(bundle: int) -> list[Any]:
        return synthesize(environment.python, again, bundle, again.parent)

    with ThreadPoolExecutor(n) as pool:
        failures = [each for found in pool.map(grow, range(len(bundles))) for each in found]
    close_companions()
    if failures:
        sys.exit(str(failures))
    return since(start)


def show(out: str) -> dict[str, Any]:
    """Draw a circuit and write its table, as the command does at its end."""
    import_all()
    from nipype_blm.cli.ngv import _show_circuit
    from nipype_blm.ngv.layout import Layout

    start = spend()
    _show_circuit(Layout(Path(out)), quiet=True)
    return since(start)


if __name__ == "__main__":
    main(*sys.argv[1:])
