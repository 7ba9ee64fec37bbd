"""``nipype-blm infer``: correct p for the number of voxels, by resampling."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nipype_blm.cli.command import (
    EXIT_CODES,
    GOES_ON,
    OK,
    RunError,
    add_report_options,
    add_resource_options,
    add_running_options,
    check_resource_options,
    check_running_options,
    describe,
    faults_in,
    say_notices,
)
from nipype_blm.cli.terminal import escape_name
from nipype_blm.model.inference import DESCRIPTIONS
from nipype_blm.units import GIB

if TYPE_CHECKING:
    from nipype_blm.cli.progress import NewWork
    from nipype_blm.model.inference import InferenceOptions
    from nipype_blm.stages.inference import PreparedInference

_DESCRIPTION = (
    "Correct the p of contrasts for the number of voxels, in the results of blm, blmm or fit: "
    "family-wise by resampling (largest voxel, clusters, TFCE), and false discovery rates. "
    "Images may lack data at some voxels; in a mixed model whole independent groups are flipped."
)
_EXAMPLES = (
    "results",
    "results --n 5000 --contrast age --summaries voxel tfce",
    "results --resampling permute --blocks site.grp --exchange within",
    "results --atlas atlas.nii.gz --atlas-names atlas.tsv",
)
_WORK, _WORKFLOW = "inference", "inference_wf"  # in the folder for intermediate files
# How each field of an inference is given, and what for.
_FIELDS: dict[str, dict[str, Any]] = {
    "contrasts": {"metavar": "NAME", "action": "append"},
    "n": {"metavar": "N"},
    "resampling": {"metavar": "NAME"},
    "summaries": {"metavar": "NAME", "nargs": "+"},
    "cluster_z": {"metavar": "Z"},
    "cluster_p": {"metavar": "P"},
    "tfce_e": {"metavar": "E"},
    "tfce_h": {"metavar": "H"},
    "sides": {"metavar": "SIDES"},
    "joint": {"action": "store_true", "default": None},
    "neighbours": {"metavar": "N"},
    "blocks": {"metavar": "WHAT"},
    "exchange": {"metavar": "HOW"},
    "seed": {"metavar": "SEED"},
    "tail": {"action": "store_false", "default": None},
    "fdr": {"metavar": "NAME"},
    "atlas": {"metavar": "FILE"},
    "atlas_names": {"metavar": "FILE"},
    "distance_mm": {"metavar": "MM"},
}
_FLAGS = {"contrasts": "--contrast", "tail": "--no-tail"}
_HELP = DESCRIPTIONS | {
    "contrasts": "only this contrast; may be given several times",
    "tail": "no p below 1 / N, from a fitted tail of the null distribution",
}


def add_infer(tools: Any) -> None:
    """Add the command ``infer`` to those of ``nipype-blm``."""
    parser = tools.add_parser("infer", help="correct p for the number of voxels, by resampling")
    describe(parser, _DESCRIPTION, _EXAMPLES, EXIT_CODES)
    parser.add_argument("results", type=Path, metavar="OUT", help="folder of results of a run")
    for field, how in _FIELDS.items():
        flag = _FLAGS.get(field, f"--{field.replace('_', '-')}")
        parser.add_argument(flag, dest=field, help=_HELP[field], **how)
    add_resource_options(parser)
    parser.add_argument(
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="folder for intermediate files; default: OUT/work",
    )
    parser.add_argument("--keep", action="store_true", help="keep the intermediate files")
    add_report_options(parser)
    add_running_options(parser, "check what can be checked, and say how small p can become")
    parser.set_defaults(action=_act, interrupted=GOES_ON)


class Running(NamedTuple):
    """How an inference runs."""

    n_procs: int | None  # threads; None: all cores
    max_bytes: int
    cluster: str = "local"
    n_workers: int | None = None
    plugin: str | None = None
    plugin_args: Path | None = None
    pool: Path | None = None
    keep: bool = False
    quiet: bool = False
    work_dir: Path | None = None  # default: work in that of the results

    def find_work_dir(self, results_dir: Path) -> Path:
        """Return the folder for intermediate files."""
        return (self.work_dir or results_dir / "work").absolute()

    @property
    def is_in_nodes(self) -> bool:
        """Whether Nipype runs the stages; else they run in this process."""
        return self.plugin is not None or self.plugin_args is not None or self.cluster != "local"


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.report import Wanted, conclude
    from nipype_blm.frontends.inference import WORDS, make_inference_options

    with faults_in(WORDS):
        check_running_options(arguments)
        check_resource_options(arguments)
        given = {field: getattr(arguments, field) for field in _FIELDS}
        options = make_inference_options(given, WORDS.name)
        running = Running(
            n_procs=arguments.n_procs,
            max_bytes=int(arguments.max_mem_gb * GIB),
            plugin=arguments.plugin,
            plugin_args=arguments.plugin_args,
            pool=arguments.pool,
            keep=arguments.keep,
            quiet=arguments.quiet,
            work_dir=arguments.work_dir,
        )
        if arguments.graph is not None:
            _draw(arguments)
        if arguments.check or arguments.graph is not None:
            _prepare(arguments.results, options, running)
            return OK
        infer(arguments.results, options, running)
        conclude(
            arguments.results,
            Wanted.choose(arguments.report, None, False),
            arguments.quiet,
            arguments.n_procs,
            arguments.work_dir,
        )
        return OK


def _draw(arguments: argparse.Namespace) -> None:
    from nipype_blm.cli.graph import draw_graph
    from nipype_blm.workflows import init_inference_wf

    draw_graph(init_inference_wf(), arguments.graph)
    if not arguments.quiet:
        print(f"The workflow is drawn in {arguments.graph}")


def _prepare(
    results_dir: Path, options: "InferenceOptions", running: Running
) -> "PreparedInference":
    """Check an inference; say what it will do, and what is no fault of it."""
    from nipype_blm.frontends.inference import WORDS
    from nipype_blm.machine import count_cores
    from nipype_blm.stages.inference import prepare_inference

    n_nodes = (running.n_workers or count_cores()) if running.is_in_nodes else 1
    folder = results_dir.absolute()
    work_dir = running.find_work_dir(folder)
    prepared = prepare_inference(folder, options, running.max_bytes, n_nodes, work_dir=work_dir)
    say_notices(prepared.notices, WORDS)
    if not running.quiet:
        print(prepared.describe(), flush=True)
    return prepared


def infer(results_dir: Path, options: "InferenceOptions", running: Running) -> None:
    """Correct the contrasts of a folder of results, and say what came out."""
    from nipype_blm.cli.progress import show_progress
    from nipype_blm.cli.recording import recording
    from nipype_blm.io.lock import hold_folders
    from nipype_blm.machine import count_cores
    from nipype_blm.stages.inference import run_inference

    prepared = _prepare(results_dir, options, running)
    folder = prepared.results.folder
    n_threads = min(running.n_procs or count_cores(), count_cores())
    work_dir = running.find_work_dir(folder)
    folders = {"OUT": folder, "work_dir": work_dir}
    progress = show_progress(_measure(prepared), running.quiet)
    with (
        hold_folders(folders, private={"work_dir"}),
        recording(folder, "infer", running.plugin) as recorder,
        progress as note_node,
    ):
        if running.is_in_nodes:
            _run_nodes(prepared, running, recorder.listen(note_node))
        else:
            run_inference(prepared, work_dir / _WORK, n_threads, running.keep)
    if not running.quiet:
        _report(folder)


def _measure(prepared: "PreparedInference") -> "NewWork":
    """Return how much is to be done."""
    from nipype_blm.cli.progress import NewWork

    spec, n_contrasts = prepared.reopened.spec, len(prepared.what.names)
    return NewWork(
        [len(range(spec.n_obs)[spec.batch(i)]) for i in range(spec.n_batches)],
        [len(range(spec.n_voxels)[spec.block(i)]) for i in range(spec.n_blocks)],
        [n_contrasts * (stop - start) for start, stop in prepared.ranges],
    )


def _run_nodes(prepared: "PreparedInference", running: Running, note_node: Any) -> None:
    """Run the stages as nodes, with a plugin of Nipype."""
    from nipype_blm.cli.plugins import DASK, LINEAR, choose_node_runner
    from nipype_blm.cli.run import Places, raise_or_describe, run_workflow
    from nipype_blm.interfaces.inference import write_inference_plan
    from nipype_blm.workflows.inference import connect_inference, hold_inference_plan

    folder = prepared.results.folder
    work_dir = running.find_work_dir(folder)
    places = Places(folder, work_dir, work_dir / _WORKFLOW)
    is_cluster = running.plugin is None and running.cluster != "local"
    runner = choose_node_runner(
        DASK if is_cluster else running.plugin or LINEAR,
        running.plugin_args,
        running.pool,
        places.workflow_folder,
        {"cluster": running.cluster, "n_workers": running.n_workers or 10} if is_cluster else {},
        note_node,
    )
    places.workflow_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    outputs = write_inference_plan(prepared, places.workflow_folder / "plan_files")
    mem_gb = running.max_bytes / GIB
    plan = hold_inference_plan(**outputs)
    workflow = connect_inference(plan, runner.n_procs, mem_gb, places.workflow_folder.name)
    workflow.get_node("correct").inputs.results_dir = str(folder)
    try:
        run_workflow(workflow, places, runner)
    except Exception as error:
        raise RunError(raise_or_describe(error, places, running.plugin)) from error
    if not running.keep:
        shutil.rmtree(places.workflow_folder, ignore_errors=True)


def _report(folder: Path) -> None:
    """Say what came out."""
    from nipype_blm.report.inference import summarise_inference
    from nipype_blm.results.inferred import Inferred

    inferred = Inferred(folder)
    print(summarise_inference(inferred, escape_name))
    print(f"Maps, clusters and null distributions are in {inferred.folder}")
