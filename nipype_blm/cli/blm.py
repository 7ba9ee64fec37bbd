"""``blm CONFIG.yml``: check a configuration, run the workflow, say what came out.

``blmm`` (in `nipype_blm.cli.blmm`) does the same for a mixed model.
"""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before NumPy is imported: its own threads would compete with ours.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")

from nipype_blm import __version__
from nipype_blm.cli.limits import explain_limit
from nipype_blm.cli.terminal import escape_name, steady_streams
from nipype_blm.errors import InputError
from nipype_blm.signals import interruptible

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_DESCRIPTIONS = {
    "blm": "Fit one linear model at every voxel of many images.",
    "blmm": "Fit one linear mixed model at every voxel of many images.",
}


def main(argv: Sequence[str] | None = None, model: str = "blm") -> int:
    """Run the command of a model, ``blm`` or ``blmm``; return its exit code."""
    with steady_streams():
        arguments = _make_parser(model).parse_args(argv)

        def act() -> int:
            # Before anything that takes time; even what is imported does.
            if not arguments.quiet:
                say(f"{model} {__version__}: checking {arguments.config} ...")
            config = load_config(arguments.config, model)
            _say_notices(config.notices)
            if arguments.check:
                return _check(config, arguments)
            return _run_alone(config, arguments, model)

        return report_errors(act)


def report_errors(
    act: Callable[[], int], interrupted: str = "The same command goes on from where it was."
) -> int:
    """Return the exit code of what a command does; errors are said."""
    try:
        return act()
    except InputError as error:
        for problem in error.problems:
            say(f"error: {problem}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say(f"Interrupted. {interrupted}")
        return INTERRUPTED
    except Exception as error:
        limit = explain_limit(f"{type(error).__name__}: {error}")
        if limit is None and not isinstance(error, OSError):
            raise
        say(": ".join(filter(None, ["error", str(error), limit])))
        return FAILED


def command(model: str = "blm") -> None:
    """Run `main` as a process of its own."""
    # A short-lived process: collecting cycles, and freeing every object at the end, would
    # take a fifth of its CPU time.
    gc.disable()
    with interruptible() as signals:
        code = main(model=model)
    if signals and code == INTERRUPTED:
        code = 128 + signals[0]  # as a shell reports it
    gc.freeze()
    sys.exit(code)


def load_config(path: Path, model: str = "blm") -> Any:
    """Read and check a configuration file of a model.

    Raises
    ------
    InputError
        With the faults of all fields, and of the files that the valid ones name.
    """
    from nipype_blm.io.yamlfile import read_yaml
    from nipype_blm.model.config import parse_config, salvage_config
    from nipype_blm.stages.plan import prepare_run

    kind = _find_kind(model)
    path = path.absolute()
    data = read_yaml(path)
    try:
        return parse_config(data, path.parent, model=kind)
    except InputError as error:
        problems = error.problems
        rest = salvage_config(data, path.parent, model=kind)
    if rest is not None:
        try:
            prepare_run(rest)
        except InputError as error:
            problems = problems + error.problems
    raise InputError(problems)


def _find_kind(model: str) -> Any:
    """Return the class of the configurations of a model."""
    from nipype_blm.model.config import BlmConfig, BlmmConfig

    return {"blm": BlmConfig, "blmm": BlmmConfig}[model]


def say(text: str) -> None:
    """Tell the user, beside what the command prints."""
    print(text, file=sys.stderr, flush=True)


class _Help(argparse.Action):
    """Prints help with every field; the fields are only imported for that."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this message and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from nipype_blm.cli.fields import describe_fields

        parser.epilog = describe_fields(_find_kind(parser.prog))
        parser.print_help()
        parser.exit()


def _make_parser(model: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=model,
        add_help=False,
        description=_DESCRIPTIONS[model],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yml", help="configuration file")
    parser.add_argument("-h", "--help", action=_Help)
    parser.add_argument(
        "--check",
        action="store_true",
        help="check the configuration and the headers of all images, and fit nothing",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="remove all intermediate files when the run has ended well, as `keep: nothing`",
    )
    parser.add_argument(
        "--plugin",
        metavar="NAME",
        help="plugin of Nipype that runs the nodes (MultiProc, SLURM, SGE, ...), or Dask for a "
        "pool of workers; default: Linear, or Dask with a clusterType other than local",
    )
    parser.add_argument(
        "--plugin-args",
        type=Path,
        metavar="FILE.yml",
        help="arguments of the plugin, one `name: value` a line",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress and no summary")
    parser.add_argument("--version", action="version", version=f"nipype_blm {__version__}")
    return parser


def _check(config: Any, arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.check import describe_run
    from nipype_blm.cli.plugins import choose_runner, count_parallel_nodes
    from nipype_blm.stages.plan import check_out_dir, prepare_run

    run = prepare_run(config, count_parallel_nodes(config, arguments.plugin))
    check_out_dir(run, config, config.plan_folder)
    choose_runner(config, run.plan, arguments.plugin, arguments.plugin_args)
    _say_notices(run.notices)
    print(describe_run(run, _choose_kept(config, arguments)))
    return OK


def _choose_kept(config: Any, arguments: argparse.Namespace) -> str:
    return "nothing" if arguments.clean else str(config.keep)


def _say_notices(notices: Sequence[str]) -> None:
    for notice in notices:
        say(f"notice: {notice}")


def _run_alone(config: Any, arguments: argparse.Namespace, model: str) -> int:
    from nipype_blm.io.lock import hold_folders
    from nipype_blm.private import list_writers

    if os.access(config.work_folder, os.W_OK):
        for writer in list_writers(config.work_folder.stat()):
            say(
                f"notice: work_dir {config.work_folder} is there, and {writer}. What Nipype keeps "
                "in it is read as a program; go on only if you trust them."
            )
    folders = {"outdir": config.outdir, "work_dir": config.work_folder}
    with hold_folders(folders, private={"work_dir"}):
        return _run(config, arguments, model)


def _run(config: Any, arguments: argparse.Namespace, model: str) -> int:
    from nipype_blm.cli.plugins import choose_runner, count_parallel_nodes
    from nipype_blm.cli.progress import show_progress
    from nipype_blm.cli.run import (
        describe_failure,
        find_input_error,
        find_logs,
        find_remains,
        run_workflow,
    )
    from nipype_blm.stages.plan import check_out_dir, is_done, prepare_run

    parallel_nodes = count_parallel_nodes(config, arguments.plugin)
    run = prepare_run(config, parallel_nodes)
    check_out_dir(run, config, config.plan_folder)
    _say_notices(run.notices)
    quiet = arguments.quiet or config.sim
    keep = _choose_kept(config, arguments)
    if is_done(run, config):
        if not quiet:
            print("Nothing to do: all maps are there, and nothing has changed since.")
        return _end(config, model, quiet, keep)
    try:
        with show_progress(None if quiet else find_remains(run, config), quiet) as note_node:
            runner = choose_runner(
                config,
                run.plan,
                arguments.plugin,
                arguments.plugin_args,
                note_node,
                find_logs(config) / "workers",
            )
            run_workflow(config, arguments.config, runner, parallel_nodes, keep)
    except Exception as error:
        problems = find_input_error(error)
        if problems:
            raise InputError(problems) from error
        reason = describe_failure(error, config, arguments.plugin)
        if reason == "KeyboardInterrupt":  # as Nipype reports it
            raise KeyboardInterrupt from error
        say(f"error: {reason}")
        return FAILED
    return _end(config, model, quiet, keep)


def _end(config: Any, model: str, quiet: bool, keep: str) -> int:
    """Say what came out; if all is well, remove what is not to be kept."""
    from nipype_blm.cli.run import tidy

    code = _report(config, model, quiet)
    if code == OK:
        tidy(config, keep)
    return code


def _report(config: Any, model: str, quiet: bool) -> int:
    """Say what came out, whichever plugin ran the nodes."""
    from nipype_blm.report.summary import summarise_run
    from nipype_blm.results.results import Results
    from nipype_blm.stages.assemble import check_fitted

    results = Results(config.outdir)
    if not quiet:
        print(summarise_run(results, map(escape_name, results.contrasts)))
    if not config.allow_empty:
        try:
            check_fitted(results.n_fitted, Path(f"{model}_vox_status"), results.notices)
        except InputError as error:
            say(f"error: {error}")
            return FAILED
    _say_notices(results.notices)
    return OK


if __name__ == "__main__":
    command()
