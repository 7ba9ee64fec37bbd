"""``nipype-blm ngv``: circuits of neurons, glia and vessels, by ArchNGV."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm.cli.command import (
    EXIT_CODES,
    GOES_ON,
    OK,
    RunError,
    add_common_options,
    add_running_options,
    check_running_options,
    describe,
    say,
)
from nipype_blm.cli.ngvinstall import add_install
from nipype_blm.cli.terminal import escape_name
from nipype_blm.errors import InputError, count

if TYPE_CHECKING:
    from nipype_blm.ngv.environment.finding import Environment
    from nipype_blm.ngv.layout import Layout
    from nipype_blm.ngv.recipe.prepare import Prepared
    from nipype_blm.ngv.recipe.reading import Recipe

_DESCRIPTION = (
    "Circuits of neurons, glia and vessels by ArchNGV (Zisis et al. 2021), which runs in an "
    "environment of its own: install it, write an example, compute a circuit, look at it."
)
_EXAMPLES = ("install", "example circuit", "run circuit circuit", "show circuit")
_RUN = (
    "Compute a circuit stage by stage; astrocytes are grown side by side.  What is done is not "
    "done again, nor is a cell that is written."
)
_RUN_EXAMPLES = (
    "circuit circuit --until cell-placement",
    "bioname circuit --n-procs 8",
    "circuit.yml circuit --plugin SLURM",
    "bioname circuit --check",
)
_MORE = (
    "CONFIG is ArchNGV's folder bioname, with MANIFEST.yaml, tns_distributions.json, ..., or the\n"
    "folder around it; or a YAML file with `bioname:` and what differs from it.\n"
    "All is written to OUT/build.  Stages are named as the rules of ArchNGV's Snakefile are."
)
_STAGE_NOTE = "one of ArchNGV's stages, with all that come before it; may be given more than once"


def add_ngv(tools: Any) -> None:
    """Add the command ``ngv`` to those of ``nipype-blm``."""
    parser = tools.add_parser("ngv", help="neuro-glia-vasculature circuits")
    describe(parser, _DESCRIPTION, _EXAMPLES, f"`{parser.prog} COMMAND --help` explains one.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_install, _add_example, _add_run, _add_show):
        add(commands)


def _add_python(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ngv-python",
        type=Path,
        metavar="PATH",
        help="Python of an environment with ArchNGV, or its folder; default: that of "
        "$NIPYPE_BLM_NGV_PYTHON, or of `nipype-blm ngv install`",
    )
    parser.add_argument(
        "--any-versions",
        action="store_true",
        help="also an environment with other versions than those known to work together",
    )


def _add_example(tools: Any) -> None:
    parser = tools.add_parser("example", help="write what a small circuit is made from")
    what = "Write an atlas, vessels, neurons with synapses, and a bioname folder to start from."
    describe(parser, what, ["circuit", "circuit --side 150 --seed 1"])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for the example")
    parser.add_argument(
        "--side",
        type=float,
        default=100.0,
        metavar="UM",
        help="of the cube of tissue; default 100, for about 12 astrocytes",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    _add_python(parser)
    add_common_options(parser)
    parser.set_defaults(action=_example)


def _add_run(tools: Any) -> None:
    parser = tools.add_parser("run", help="compute a circuit, or go on with one")
    describe(parser, _RUN, _RUN_EXAMPLES, f"{_MORE}\n{GOES_ON}\n{EXIT_CODES}")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="bioname folder, or YAML file")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the circuit")
    parser.add_argument("--until", action="append", metavar="STAGE", help=_STAGE_NOTE)
    parser.add_argument("--seed", type=int, metavar="N", help="in place of that of the manifest")
    parser.add_argument(
        "--n-procs", type=int, metavar="N", help="nodes side by side; default: all cores"
    )
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help="for Nipype's files; default: OUT/work"
    )
    _add_python(parser)
    add_running_options(parser, "look at all inputs, say what would be done, and do nothing")
    parser.set_defaults(action=_run)


def _add_show(tools: Any) -> None:
    parser = tools.add_parser("show", help="a picture and a table of a circuit")
    what = "Draw a circuit, and compare what it has with what was asked for, stage by stage."
    describe(parser, what, ["circuit", "circuit --cell GLIA_0000000000004 --picture figure.pdf"])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the circuit")
    parser.add_argument("--cell", metavar="NAME", help="astrocyte that is drawn in detail")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="as .png, .svg or .pdf; default: OUT/circuit.png",
    )
    add_common_options(parser)
    parser.set_defaults(action=_show)


# ------------------------------------------------------------------------------------ example


def _example(arguments: argparse.Namespace) -> int:
    from nipype_blm.ngv.environment.finding import find_environment
    from nipype_blm.ngv.example import make_example

    python = find_environment(arguments.ngv_python, arguments.any_versions).python
    folder = arguments.folder.expanduser().absolute()
    make_example(folder, python, side_um=arguments.side, seed=arguments.seed)
    if not arguments.quiet:
        shown = escape_name(str(arguments.folder))
        word = escape_name(shlex.quote(str(arguments.folder)))  # for a shell
        print(
            f"An example is in {shown}; README.md tells what it is made from.  To compute it:\n"
            f"nipype-blm ngv run {word} {word}"
        )
    return OK


# ---------------------------------------------------------------------------------------- run


def _run(arguments: argparse.Namespace) -> int:
    from nipype_blm.io.lock import hold_folders
    from nipype_blm.ngv.checks.inputs import check_inputs
    from nipype_blm.ngv.environment.companion import close_companions
    from nipype_blm.ngv.environment.finding import find_environment
    from nipype_blm.ngv.layout import Layout
    from nipype_blm.ngv.recipe.prepare import prepare
    from nipype_blm.ngv.recipe.reading import read_recipe
    from nipype_blm.private import find_obstacle

    check_running_options(arguments)
    if arguments.n_procs is not None and arguments.n_procs < 1:
        raise InputError(f"--n-procs {arguments.n_procs} was given; expected 1 or more.")
    out = arguments.out.expanduser().absolute()
    obstacle = find_obstacle(out)
    if obstacle is not None:
        raise InputError(f"OUT {out} {obstacle}.")
    recipe = read_recipe(arguments.config, arguments.until, arguments.seed)
    if arguments.graph is not None:
        return _draw(recipe, Layout(out), arguments)
    python = arguments.ngv_python or recipe.ngv_python
    environment = find_environment(python, arguments.any_versions)
    checked = check_inputs(recipe, environment)
    for notice in checked.notices:
        say(f"notice: {notice}")
    if arguments.check:
        print(_describe_plan(recipe, environment))
        return OK
    work_dir = out / "work" if arguments.work_dir is None else arguments.work_dir.absolute()
    with hold_folders({"OUT": out, "work_dir": work_dir}, private={"work_dir"}):
        prepared = prepare(recipe, environment, Layout(out), checked.region)
        _compute(recipe, prepared, environment.python, Layout(out), work_dir, arguments)
        close_companions()
        if not arguments.quiet:
            print(f"{recipe.stages[-1]} is done; the circuit is in {escape_name(str(out))}")
        _show_circuit(Layout(out), arguments.quiet)
    return OK


def _describe_plan(recipe: "Recipe", environment: "Environment") -> str:
    from nipype_blm.ngv.recipe.resources import read_resources

    lines = [f"ArchNGV {environment.versions['archngv']}, of {environment.python}"]
    for stage in recipe.stages:
        resources = read_resources(recipe.cluster.get(stage, {}), stage)
        words = [
            "" if resources.n_procs == 1 else count(resources.n_procs, "core"),
            "" if resources.mem_gb is None else f"{resources.mem_gb:g} GiB",
            *resources.sbatch_options,
        ]
        lines.append("  ".join([f"  {stage:36}", *filter(None, words)]).rstrip())
    return "\n".join(lines)


def _draw(recipe: "Recipe", layout: "Layout", arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.graph import draw_graph
    from nipype_blm.workflows.ngv import connect_circuit, hold_prepared

    draw_graph(connect_circuit(hold_prepared(), recipe, layout, {}, "ngv_wf"), arguments.graph)
    if not arguments.quiet:
        print(f"The workflow is drawn in {arguments.graph}")
    return OK


def _compute(
    recipe: "Recipe",
    prepared: "Prepared",
    ngv_python: Path,
    layout: "Layout",
    work_dir: Path,
    arguments: argparse.Namespace,
) -> None:
    """Run the workflow; by default on workers of this machine."""
    from nipype_blm.cli.plugins import DASK, LINEAR, choose_node_runner
    from nipype_blm.cli.progress import Counted, show_progress
    from nipype_blm.cli.run import Places, raise_or_describe, run_workflow
    from nipype_blm.interfaces.circuit import list_prepared
    from nipype_blm.machine import count_cores
    from nipype_blm.ngv.environment.companion import close_companions
    from nipype_blm.ngv.synthesis import UNIT, count_cells
    from nipype_blm.workflows.ngv import connect_circuit, hold_prepared

    places = Places(layout.folder, work_dir, work_dir / "ngv_wf")
    is_here = arguments.pool is None and arguments.plugin is None and arguments.plugin_args is None
    n_here = arguments.n_procs or count_cores()
    n_nodes = n_here if is_here else max(n_here, 10)
    if is_here:  # what a cluster has says nothing of this machine
        recipe = replace(recipe, cluster={})
    plugin = arguments.plugin or (LINEAR if is_here and n_here == 1 else DASK)
    if plugin != LINEAR:
        close_companions()  # workers have their own
    where = {"ngv_python": str(ngv_python), "any_versions": arguments.any_versions}
    plan_file = places.workflow_folder / "plan_synthesis" / "synthesis.json"
    work = Counted(UNIT, later=lambda: count_cells(plan_file))
    with show_progress(work, arguments.quiet) as note_node:
        runner = choose_node_runner(
            plugin,
            arguments.plugin_args,
            arguments.pool,
            places.workflow_folder,
            {} if arguments.plugin else {"n_procs": n_here, "n_workers": n_here},
            note_node,
        )
        holder = hold_prepared(**list_prepared(prepared, layout.manifest))
        workflow = connect_circuit(holder, recipe, layout, where, "ngv_wf", n_nodes)
        try:
            run_workflow(workflow, places, runner)
        except Exception as error:
            raise RunError(raise_or_describe(error, places, arguments.plugin)) from error


# --------------------------------------------------------------------------------------- show

_COUNTS, _PICTURE = "counts.tsv", "circuit.png"


def _show(arguments: argparse.Namespace) -> int:
    from nipype_blm.ngv.layout import Layout

    out = arguments.out.expanduser().absolute()
    layout = Layout(out)
    if not layout.build.is_dir():
        raise InputError(
            f"OUT {out} has no circuit: there is no {layout.build}; give the OUT of `nipype-blm "
            "ngv run`."
        )
    _show_circuit(layout, arguments.quiet, arguments.picture, arguments.cell or "")
    return OK


def _show_circuit(
    layout: "Layout", quiet: bool, picture: Path | None = None, cell: str = ""
) -> None:
    """Write the table of a circuit, draw it, and say what is in the table."""
    from nipype_blm.ngv.circuit.counts import describe_counts, write_counts
    from nipype_blm.ngv.circuit.measures import measure_circuit
    from nipype_blm.ngv.recipe.reading import read_manifest
    from nipype_blm.report.circuit import draw_circuit

    manifest = read_manifest(layout.manifest) if layout.manifest.is_file() else None
    counts = measure_circuit(layout, manifest)
    table = layout.folder / _COUNTS
    write_counts(table, counts)
    place = layout.folder / _PICTURE if picture is None else picture.expanduser().absolute()
    made = [table]
    try:
        made.append(draw_circuit(layout, place, manifest, cell))
    except ImportError as error:
        say(f"notice: no picture was drawn: {error}. pip install 'nipype_blm[ngv]'")
    if not quiet:
        print(describe_counts(counts))
        for path in made:
            print(escape_name(str(path)))
