"""``blm``, ``blmm`` and ``nipype-blm fit``: check a configuration, run it, say what came out."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm import __version__
from nipype_blm.cli.command import (
    EXIT_CODES,
    OK,
    RunError,
    add_report_options,
    add_running_options,
    check_running_options,
    describe,
    faults_in,
    report_errors,
    say,
    say_notices,
)
from nipype_blm.cli.study import add_study_options, collect_options
from nipype_blm.cli.terminal import escape_name, steady_streams
from nipype_blm.errors import InputError

if TYPE_CHECKING:
    from nipype_blm.model.request import Request
    from nipype_blm.stages.plan import PreparedRun

_DESCRIPTIONS = {
    "blm": "Fit one linear model at every voxel of many images.",
    "blmm": "Fit one linear mixed model at every voxel of many images.",
}
_FIT_EXAMPLES = (
    'bids results --formula "~ age + (1 | subject)" --contrast faces --stat effect',
    'people.tsv results --formula "~ age" --images "maps/{participant_id}.nii.gz"',
    'people.tsv results --formula "~ age * sex" --test "sex[M] - sex[F]" --check',
    "study.yml results --pool pool.json",
)
# Sources that say all of a model.
_COMPLETE = {"configuration": "a configuration", "feat": "a group analysis of FEAT"}
_MORE_OF_FIT = (
    "`nipype-blm init SOURCE FILE.yml` writes a configuration to start from; `blm --help` and\n"
    "`blmm --help` explain every field of it."
)
_EXAMPLES = ("--check", "--graph nodes.svg", "--plugin MultiProc", "--pool pool.json")


def main(argv: Sequence[str] | None = None, model: str = "blm") -> int:
    """Run the command of a model, ``blm`` or ``blmm``; return its exit code."""
    with steady_streams():
        arguments = _make_parser(model).parse_args(argv)
        return report_errors(partial(_act, arguments, model))


def add_fit(tools: Any) -> None:
    """Add the command ``fit`` to those of ``nipype-blm``."""
    parser = tools.add_parser("fit", help="fit a linear or mixed model at every voxel")
    describe(
        parser,
        "Fit one linear model, or linear mixed model, at every voxel of many images: of a BIDS "
        "data set or a table of covariates by a formula, or of a configuration file.",
        _FIT_EXAMPLES,
        f"{_MORE_OF_FIT}\n{EXIT_CODES}",
    )
    parser.add_argument(
        "config",
        type=Path,
        metavar="SOURCE",
        help="BIDS data set, or its derivatives; TABLE.tsv; CONFIG.yml, a configuration of blm, "
        "or of blmm if it has Z; or group.gfeat of FSL",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="folder for the results; it takes the place of that in CONFIG.yml",
    )
    add_study_options(parser)
    parser.add_argument(
        "--cope", type=int, metavar="N", help="of group.gfeat: which copeN.feat, if it has several"
    )
    _add_options(parser)
    parser.set_defaults(action=fit_source, reports=True)


def fit_source(arguments: argparse.Namespace) -> int:
    """Fit what SOURCE is, a data set, a table or a configuration; return the exit code."""
    from nipype_blm.cli.source import check_places

    out = resolve_out(arguments.out)  # first: what is no path is no folder either
    options = collect_options(arguments)
    kind = check_places(arguments.config, arguments.out, is_formula_given=bool(options))
    _announce(arguments, "nipype-blm")
    source = arguments.config.expanduser().absolute()
    if options and kind in _COMPLETE:
        from nipype_blm.frontends.options import refuse_options

        refuse_options(options, f"{_COMPLETE[kind]}, {source}")
    if kind == "configuration":
        return run_request(load_config(source, None, arguments.out), arguments)
    if kind == "feat":
        from nipype_blm.frontends import feat

        return run_request(feat.read(source, out, arguments.cope), arguments)
    from nipype_blm.frontends.options import read

    return run_request(read(source, options, out, is_bids=kind == "bids"), arguments)


def _act(arguments: argparse.Namespace, model: str) -> int:
    _announce(arguments, model)
    return run_request(load_config(arguments.config, model), arguments)


def _announce(arguments: argparse.Namespace, name: str) -> None:
    """Say what begins, before anything that takes time; even what is imported does."""
    if not arguments.quiet:
        say(f"{name} {__version__}: checking {arguments.config} ...")
    check_running_options(arguments)


def run_request(request: "Request", arguments: argparse.Namespace) -> int:
    """Check or run what a front end has made, whichever it is; return the exit code.

    Raises
    ------
    InputError
        In the words of the request.
    """
    from nipype_blm.stages.plan import prepare_run

    with faults_in(request.words):
        if request.faults:
            prepare_run(request)  # which says what else is wrong
        say_notices(request.notices, request.words)
        if arguments.check or arguments.graph is not None:
            return _check(request, arguments)
        failure = _run_alone(request, arguments)
        if failure is None and request.reads_again:
            _read_again(request, arguments)
        _conclude(request, arguments)
        if failure is not None:
            raise failure
        return OK


def load_config(path: Path, model: str | None = "blm", out: str | None = None) -> "Request":
    """Read a configuration file, and the tables and lists that it names.

    Parameters
    ----------
    path : Path
    model : str or None
        ``blm`` or ``blmm``; None: as the file says.
    out : str, optional
        In place of the folder for the results; relative to the current folder.

    Raises
    ------
    InputError
        If it cannot be read.  Faults of fields, and of files that they name, are in the request.
    """
    from nipype_blm.frontends.blm import read

    return read(path.absolute(), model, None if out is None else resolve_out(out))


def resolve_out(out: str) -> Path:
    """Return the folder for results as a path.

    Raises
    ------
    InputError
        If it cannot be one.
    """
    from nipype_blm.io.paths import resolve_path

    if not out.strip():  # as of a variable of the shell that is not set
        raise InputError(f"OUT: {out!r} is not a path; give a folder for the results.")
    try:
        return resolve_path(out, Path.cwd())
    except ValueError as error:
        raise InputError(f"OUT: {error}.") from error


class _Help(argparse.Action):
    """Prints help with every field; the fields are only imported for that."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this message and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from nipype_blm.cli.fields import describe_fields

        fields = describe_fields(parser.prog)
        examples = [f"study.yml {options}" for options in _EXAMPLES]
        describe(parser, _DESCRIPTIONS[parser.prog], examples, fields)
        parser.print_help()
        parser.exit()


def _make_parser(model: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(model, add_help=False)
    parser.add_argument("config", type=Path, metavar="CONFIG.yml", help="configuration file")
    parser.add_argument("-h", "--help", action=_Help)
    _add_options(parser)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clean",
        action="store_true",
        help="remove all intermediate files when the run has ended well, as `keep: nothing`",
    )
    add_report_options(parser)
    parser.set_defaults(reports=False)
    add_running_options(
        parser, "check the configuration and the headers of all images, and fit nothing"
    )


def _prepare(request: "Request", arguments: argparse.Namespace) -> "PreparedRun":
    """Check and plan a run; tell what is no fault of it."""
    from nipype_blm.cli.plugins import count_parallel_nodes
    from nipype_blm.stages.growth import EarlierPlaces
    from nipype_blm.stages.plan import check_out_dir, prepare_run, replaces_another

    places = EarlierPlaces.of_workflow(request.workflow_folder)
    n_nodes = count_parallel_nodes(request, arguments.plugin)
    run = prepare_run(request, n_nodes, places=places)
    check_out_dir(run, request, request.plan_folder)
    if request.inference is not None:  # which would else fail when all is fitted
        from nipype_blm.stages.exchanging import check_inference

        check_inference(run, request.inference)
    if request.diagnostics is not None:
        from nipype_blm.results.diagnostics import DEFAULT_FOLDER, OURS, check_save
        from nipype_blm.results.export import check_folder

        check_save(request.diagnostics, request.is_mixed)
        check_folder(request.out_dir / DEFAULT_FOLDER, OURS)
    say_notices(run.notices, request.words)
    # Who edits a configuration and runs it again means to; who gives a folder may be mistaken.
    if "out" in arguments and replaces_another(run, request):
        say(f"notice: OUT {arguments.out} has the results of another model, which these replace.")
    return run


def _check(request: "Request", arguments: argparse.Namespace) -> int:
    """Check a run, and show it as it is asked for."""
    from nipype_blm.cli.check import describe_run
    from nipype_blm.cli.plugins import choose_runner

    run = _prepare(request, arguments)
    name, args_file = arguments.plugin, arguments.plugin_args
    choose_runner(request, run.plan, name, args_file, pool=arguments.pool)
    keep = _choose_kept(request, arguments)
    if arguments.check:
        print(describe_run(run, keep))
    if arguments.graph is not None:
        from nipype_blm.cli.graph import draw_graph
        from nipype_blm.cli.run import build_workflow

        draw_graph(build_workflow(request, keep), arguments.graph)
        if not arguments.quiet:
            print(f"The workflow is drawn in {arguments.graph}")
    return OK


def _choose_kept(request: "Request", arguments: argparse.Namespace) -> str:
    return "nothing" if arguments.clean else request.keep


def _run_alone(request: "Request", arguments: argparse.Namespace) -> RunError | None:
    """Run a model; return what is wrong with a result that is there."""
    from nipype_blm.io.lock import hold_folders
    from nipype_blm.private import list_writers

    out_dir, work_dir = (request.words.name(field) for field in ("out_dir", "work_dir"))
    if os.access(request.work_folder, os.W_OK):
        for writer in list_writers(request.work_folder.stat()):
            say(
                f"notice: {work_dir} {request.work_folder} is there, and {writer}. What Nipype "
                "keeps in it is read as a program; go on only if you trust them."
            )
    folders = {out_dir: request.out_dir, work_dir: request.work_folder}
    with hold_folders(folders, private={work_dir}):
        return _run(request, arguments)


def _read_again(request: "Request", arguments: argparse.Namespace) -> None:
    """Do what needs the maps, and once more the values."""
    if request.diagnostics is not None:
        from nipype_blm.cli.diagnose import diagnose_results

        diagnose_results(
            request.out_dir,
            None,
            request.diagnostics,
            request.n_threads,
            request.max_bytes,
            request.overwrite,
            arguments.quiet or request.quiet,
            request.work_folder,
        )
    if request.inference is not None:
        _infer(request, arguments)


def _conclude(request: "Request", arguments: argparse.Namespace) -> None:
    """Say what was found, and write the report; remove what was kept for that."""
    from nipype_blm.cli.report import Wanted, conclude
    from nipype_blm.cli.run import tidy
    from nipype_blm.io.lock import hold_folders

    conclude(
        request.out_dir,
        Wanted.choose(arguments.report, request.report, arguments.reports),
        arguments.quiet or request.quiet,
        request.n_threads,
        request.work_folder,
        getattr(arguments, "background", None),
    )
    if request.reads_again:
        with hold_folders({"work_dir": request.work_folder}):  # which goes if it is empty then
            tidy(request, _choose_kept(request, arguments))


def _infer(request: "Request", arguments: argparse.Namespace) -> None:
    """Correct the maps that are there now."""
    from nipype_blm.cli.infer import Running, infer

    assert request.inference is not None
    running = Running(
        n_procs=request.n_threads,
        max_bytes=request.max_bytes,
        cluster=request.cluster,
        n_workers=request.n_workers,
        plugin=arguments.plugin,
        plugin_args=arguments.plugin_args,
        pool=arguments.pool,
        keep=_choose_kept(request, arguments) == "all",
        quiet=arguments.quiet or request.quiet,
        work_dir=request.work_folder,
    )
    infer(request.out_dir, request.inference, running)


def _run(request: "Request", arguments: argparse.Namespace) -> RunError | None:
    from nipype_blm.cli.plugins import choose_runner
    from nipype_blm.cli.progress import show_progress
    from nipype_blm.cli.recording import recording
    from nipype_blm.cli.run import (
        build_workflow,
        find_logs,
        find_remains,
        raise_or_describe,
        run_workflow,
    )
    from nipype_blm.frontends.record import is_written_for
    from nipype_blm.stages.growth import EarlierPlaces
    from nipype_blm.stages.plan import has_tiles, is_done

    run = _prepare(request, arguments)
    quiet = arguments.quiet or request.quiet
    if run.study is not None and not quiet:
        from nipype_blm.cli.check import describe_study

        print(describe_study(run), flush=True)
    keep = _choose_kept(request, arguments)
    tiles = EarlierPlaces.of_workflow(request.workflow_folder).tiles
    is_complete = keep != "tiles" or has_tiles(run, tiles)
    is_recorded = is_written_for(request.out_dir / "inputs.yml", request.record)
    if is_complete and is_recorded and is_done(run, request):
        if not quiet:
            print("Nothing to do: all maps are there, and nothing has changed since.")
        return _end(request, run, quiet, keep)
    try:
        remains = None if quiet else find_remains(run, request)
        with (
            recording(request.out_dir, "fit", arguments.plugin, anew=True) as recorder,
            show_progress(remains, quiet) as note_node,
        ):
            runner = choose_runner(
                request,
                run.plan,
                arguments.plugin,
                arguments.plugin_args,
                recorder.listen(note_node),
                find_logs(request) / "workers",
                arguments.pool,
            )
            # What reads the values again afterwards needs no image.
            kept = "tiles" if request.reads_again else keep
            workflow = build_workflow(request, kept, run, runner)
            run_workflow(workflow, request, runner)
    except Exception as error:
        raise RunError(raise_or_describe(error, request, arguments.plugin)) from error
    return _end(request, run, quiet, keep)


def _end(request: "Request", run: "PreparedRun", quiet: bool, keep: str) -> RunError | None:
    """Say what came out; if all is well, remove what is not to be kept."""
    from nipype_blm.cli.run import tidy

    failure = _report(request, run.spec.model, quiet)
    if failure is None and not request.reads_again:
        tidy(request, keep)
    return failure


def _report(request: "Request", model: str, quiet: bool) -> RunError | None:
    """Say what came out, whichever plugin ran the nodes; return what is wrong with it."""
    from nipype_blm.report.summary import summarise_run
    from nipype_blm.results.inferred import is_of_earlier_fit
    from nipype_blm.results.results import Results
    from nipype_blm.stages.assemble import check_fitted

    results = Results(request.out_dir)
    if not quiet:
        print(summarise_run(results, escape_name))
    if request.inference is None and is_of_earlier_fit(results):
        folder = escape_name(str(results.folder))
        say(
            f"notice: {folder}/inference is that of an earlier fit; "
            f"`nipype-blm infer {folder}` makes it again."
        )
    if not request.allow_empty:
        try:
            check_fitted(results.n_fitted, Path(f"{model}_vox_status"), results.notices)
        except InputError as error:
            return RunError(str(error))
    say_notices(results.notices, request.words)
    return None
