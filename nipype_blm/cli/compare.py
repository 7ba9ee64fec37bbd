"""``blmm_compare`` and ``nipype-blm compare``: test one model against another at every voxel."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import (
    FAILED,
    OK,
    add_running_options,
    check_running_options,
    describe,
    faults_in,
    report_errors,
    run_process,
    say,
    say_notices,
)
from nipype_blm.cli.terminal import steady_streams
from nipype_blm.errors import InputError

_DESCRIPTION = (
    "Likelihood-ratio test of two nested models at every voxel, from the results of blm and blmm.  "
    "Both models need the same images, the same X and one random factor at most."
)
_INTERRUPTED = "No map was written."
_WORKFLOW = Path("work", "compare_wf")  # folder of its nodes, in OUT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    with steady_streams():
        parser = argparse.ArgumentParser("blmm_compare")
        _add_arguments(parser)
        return report_errors(partial(_act, parser.parse_args(argv)), _INTERRUPTED)


command = partial(run_process, main)  # as a process of its own


def add_compare(tools: Any) -> None:
    """Add the command ``compare`` to those of ``nipype-blm``."""
    parser = tools.add_parser("compare", help="test one model against another at every voxel")
    _add_arguments(parser)
    parser.set_defaults(action=_act, interrupted=_INTERRUPTED)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    examples = ["intercept slope comparison --check", "intercept slope comparison"]
    describe(parser, _DESCRIPTION, examples)
    folder = "folder of results of blm or blmm: the model with "
    parser.add_argument("smaller", type=Path, metavar="SMALLER", help=f"{folder}fewer effects")
    parser.add_argument("larger", type=Path, metavar="LARGER", help=f"{folder}more effects")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the maps")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a comparison of other models that was made in another working directory",
    )
    add_running_options(parser, "check whether the models can be compared, and compare nothing")


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.frontends.blm import WORDS

    with faults_in(WORDS):
        check_running_options(arguments)
        _check_order(arguments)
        if arguments.check or arguments.graph is not None:
            return _check(arguments)
        return _run(arguments) if _is_for_nodes(arguments) else _compare(arguments)


def _is_for_nodes(arguments: argparse.Namespace) -> bool:
    """Return whether Nipype is asked for; else it is not even imported."""
    return arguments.plugin is not None or arguments.plugin_args is not None


def _check_order(arguments: argparse.Namespace) -> None:
    """Refuse folders of results in the place of OUT, and the other way round."""

    def is_run(folder: Path) -> bool:
        # Either may have been left out of a copy, or removed.
        return any((folder / name).is_file() for name in ("inputs.yml", "model/model.json"))

    smaller, larger, out = arguments.smaller, arguments.larger, arguments.out
    if is_run(out) and not (is_run(smaller) and is_run(larger)):
        raise InputError(
            f"OUT {out} has the results of a run, which {smaller if is_run(larger) else larger} "
            "has not; OUT, the folder for the maps, comes last, after SMALLER and LARGER."
        )


def _check(arguments: argparse.Namespace) -> int:
    from nipype_blm.frontends.blm import WORDS
    from nipype_blm.model.compare import describe_mixture
    from nipype_blm.results.compare import check_models

    found = check_models(
        arguments.smaller, arguments.larger, arguments.out, Path.cwd(), arguments.overwrite
    )
    if _is_for_nodes(arguments):
        _choose_runner(arguments)
    say_notices(found.notices, WORDS)
    if arguments.check:
        print(
            f"{found.larger.folder} against {found.smaller.folder} by {found.larger.criterion}: "
            f"all good.\nChi2 is compared with {describe_mixture(found.dofs)}."
        )
    if arguments.graph is not None:
        from nipype_blm.cli.graph import draw_graph
        from nipype_blm.workflows import init_compare_wf

        draw_graph(init_compare_wf(out_dir=arguments.out), arguments.graph)
        if not arguments.quiet:
            print(f"The workflow is drawn in {arguments.graph}")
    return OK


def _compare(arguments: argparse.Namespace) -> int:
    """Compare in this process, without Nipype."""
    from nipype_blm.results.compare import compare_models

    result = compare_models(
        arguments.smaller, arguments.larger, arguments.out, Path.cwd(), arguments.overwrite
    )
    return _report(arguments, result)


def _choose_runner(arguments: argparse.Namespace) -> Any:
    from nipype_blm.cli.plugins import LINEAR, choose_node_runner

    name = arguments.plugin or LINEAR
    folder = arguments.out.absolute() / _WORKFLOW
    return choose_node_runner(name, arguments.plugin_args, arguments.pool, folder)


def _run(arguments: argparse.Namespace) -> int:
    """Compare in a node, with a plugin of Nipype."""
    from nipype_blm.cli.run import Places, raise_or_describe, run_workflow
    from nipype_blm.io.lock import hold_folders
    from nipype_blm.workflows import init_compare_wf

    runner = _choose_runner(arguments)
    out_dir = arguments.out.absolute()
    places = Places(out_dir, out_dir / "work", out_dir / _WORKFLOW)
    workflow = init_compare_wf(out_dir=out_dir, overwrite=arguments.overwrite)
    workflow.inputs.inputnode.smaller_dir = str(arguments.smaller.absolute())
    workflow.inputs.inputnode.larger_dir = str(arguments.larger.absolute())
    folders = {"OUT": out_dir, "work_dir": places.work_folder}
    with hold_folders(folders, private={"work_dir"}):
        try:
            graph = run_workflow(workflow, places, runner)
        except Exception as error:
            say(f"error: {raise_or_describe(error, places, arguments.plugin)}")
            return FAILED
        [outputs] = [node.result.outputs for node in graph.nodes() if node.name == "compare"]
    return _report(arguments, outputs)


def _report(arguments: argparse.Namespace, result: Any) -> int:
    """Say what came out: a `Comparison`, or the outputs of `CompareModels`."""
    from nipype_blm.frontends.blm import WORDS
    from nipype_blm.model.compare import ComparisonStatus, count_compared, describe_mixture

    counts = {ComparisonStatus[getattr(s, "name", s)]: n for s, n in result.counts.items()}
    say_notices(result.notices, WORDS)
    if not arguments.quiet:
        print(
            f"{count_compared(counts):,} voxels compared by {result.criterion}; "
            f"Chi2 against {describe_mixture(tuple(result.dofs))}.\n"
            f"The maps are in {arguments.out}"
        )
    return OK


if __name__ == "__main__":
    command()
