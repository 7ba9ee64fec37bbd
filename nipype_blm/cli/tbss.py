"""``nipype-blm tbss``: from images of FA to their values on a skeleton, and a model of these."""

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nipype_blm.cli.command import (
    EXIT_CODES,
    GOES_ON,
    OK,
    RunError,
    add_report_options,
    add_running_options,
    check_running_options,
    describe,
    say,
)
from nipype_blm.cli.study import add_study_options, collect_options
from nipype_blm.cli.terminal import escape_name
from nipype_blm.errors import InputError, count, join_some
from nipype_blm.tbss.options import DESCRIPTIONS, FA, TARGETS

if TYPE_CHECKING:
    from nipype_blm.model.request import Request
    from nipype_blm.model.study import Study
    from nipype_blm.tbss.plan import Plan

_DESCRIPTION = (
    "Tract-based spatial statistics: register images of FA, find the skeleton of their mean, and "
    "bring FA and other maps onto it; then, with --formula, fit a linear or mixed model on the "
    "skeleton, correct p by resampling, and write a report."
)
_EXAMPLES = (
    'people.tsv out --images "fa/{participant_id}.nii.gz" --template FMRIB58_FA_1mm.nii.gz '
    '--formula "~ group + age"',
    'people.tsv out --images "{participant_id}_FA.nii.gz" --map "MD={participant_id}_MD.nii.gz" '
    "--target most_representative",
    "fa_files.txt out --template FMRIB58_FA_1mm.nii.gz --atlas JHU.nii.gz --check",
)
_MORE = (
    "SOURCE is a table or a BIDS data set, as with `nipype-blm fit`, or a text file of paths.\n"
    "Without --formula nothing is fitted.  What was registered is not registered again."
)
_FLAGS: dict[str, dict[str, Any]] = {
    "template": {"metavar": "FILE", "type": Path},
    "target": {"choices": TARGETS},
    "engine": {"metavar": "NAME"},
    "threshold": {"metavar": "FA", "type": float},
    "mask_share": {"metavar": "SHARE", "type": float},
    "min_correlation": {"metavar": "R", "type": float},
    "max_failed": {"metavar": "SHARE", "type": float},
    "tubular_mask": {"metavar": "FILE", "type": Path},
    "search_mask": {"metavar": "FILE", "type": Path},
    "skeleton": {"metavar": "FILE", "type": Path},
    "directions": {"metavar": "FILE", "type": Path},
    "atlas": {"metavar": "FILE", "type": Path},
    "atlas_names": {"metavar": "FILE", "type": Path},
}
# On a skeleton, which is a sheet: as FSL's randomise does with --T2.
_INFERENCE = ("summaries=tfce,voxel", "tfce_e=1")
_FITS = "fits"
_LISTS = ("", ".txt", ".lst", ".list", ".csv", ".tsv")
# Options that say where images are, which the table on the skeleton says itself.
_OF_IMAGES = ("images", "derivatives", "participant-label")
_OF_BIDS = ("space", "desc", "contrast", "stat", "filter")
# What only a model needs.
_OF_MODELS = (
    *("test", "inference", "diagnostics", "mask", "min-n", "min-percent", "zeros-are-data"),
    *("two-sided", "ml", "deficient", "keep"),
)


def add_tbss(tools: Any) -> None:
    """Add the command ``tbss`` to those of ``nipype-blm``."""
    parser = tools.add_parser("tbss", help="tract-based spatial statistics, from FA to the report")
    describe(parser, _DESCRIPTION, _EXAMPLES, f"{_MORE}\n{EXIT_CODES}")
    parser.add_argument("config", type=Path, metavar="SOURCE", help="where the images of FA are")
    parser.add_argument("out", metavar="OUT", help="folder for the results")
    group = parser.add_argument_group("registration and skeleton")
    group.add_argument(
        "--map",
        action="append",
        metavar="NAME=PATTERN",
        help="another map, such as MD, that goes the way of FA, and is fitted likewise; may be "
        "given again; of a BIDS data set NAME=ENTITY=VALUE, such as MD=param=MD",
    )
    for name, how in _FLAGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", help=DESCRIPTIONS[name], **how)
    group.add_argument(
        "--no-4d", dest="write_4d", action="store_false", help="do not write all images in one file"
    )
    group.add_argument(
        "--no-inference",
        dest="infers",
        action="store_false",
        help="do not correct p; else as with --inference, and TFCE of sheets (tfce_e=1)",
    )
    add_study_options(parser)
    add_report_options(parser)
    add_running_options(parser, "check options and all images, and say what would be done")
    parser.set_defaults(action=_act, reports=True, clean=False, interrupted=GOES_ON)


class _Source(NamedTuple):
    """What SOURCE says."""

    images: dict[str, list[Path]]  # by measure, FA first
    study: "Study | None"  # None: a list of paths
    is_bids: bool


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.fit import resolve_out
    from nipype_blm.io.lock import hold_folders
    from nipype_blm.tbss.planning import describe_costs

    out = resolve_out(arguments.out)
    options = collect_options(arguments)
    if not arguments.quiet:
        say(f"nipype-blm tbss: checking {arguments.config} ...")
    _refuse_idle(arguments, options)
    check_running_options(arguments)
    if arguments.graph is not None:
        return _draw(arguments)
    found = _read_source(arguments, options, out)
    work_dir = Path(options["work-dir"]).absolute() if "work-dir" in options else out / "work"
    if arguments.check:
        print(describe_costs(_plan(arguments, found, out, work_dir)))
        return OK
    # The images on the skeleton are read until the last fit has ended.
    with hold_folders({"OUT": out, "work_dir": work_dir}, private={"work_dir"}):
        plan = _plan(arguments, found, out, work_dir)
        _run(plan, arguments)
        measures = plan.measures if "formula" in options else []
        _conclude(plan, measures, arguments.quiet)
        for measure in measures:
            _fit(plan, found, measure, options, arguments)
    return OK


def _refuse_idle(arguments: argparse.Namespace, options: Mapping[str, Any]) -> None:
    """Refuse options that nothing would come of."""
    masks = [f"--{name}" for name in ("data-masks", "no-own-masks") if name in options]
    if masks:
        raise InputError(
            f"{masks[0]} has no place here: FA is 0 outside the brain; mask the images themselves."
        )
    if not arguments.infers and "inference" in options:
        raise InputError("--inference and --no-inference are both given; leave out one of them.")
    idle = [f"--{name}" for name in _OF_MODELS if name in options]
    if "formula" not in options and idle:
        raise InputError(f"{join_some(idle)} is for a model; give --formula, or leave that out.")
    if "n-procs" in options and not re.fullmatch("0*[1-9][0-9]*", str(options["n-procs"])):
        raise InputError(f"--n-procs {options['n-procs']} was given; expected 1 or more.")


def _draw(arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.graph import draw_graph
    from nipype_blm.workflows.tbss import init_tbss_wf

    target = arguments.target or TARGETS[0]
    draw_graph(init_tbss_wf(out_dir=arguments.out, target=target), arguments.graph)
    if not arguments.quiet:
        print(f"The workflow is drawn in {arguments.graph}")
    return OK


# ---------------------------------------------------------------------------- what there is


def _read_source(arguments: argparse.Namespace, options: Mapping[str, Any], out: Path) -> _Source:
    """Return the images of FA and of other maps, in one order."""
    patterns = _read_patterns(arguments.map or [])
    source = arguments.config.expanduser().absolute()
    listed = _read_list(source)
    if listed is not None:
        if patterns or "formula" in options:
            raise InputError(
                f"SOURCE {source} is a list of paths, which says nothing of --map and --formula; "
                "give a table with a column of paths, such as image, and what the formula names."
            )
        return _Source({FA: listed}, None, False)
    is_bids = _find_kind(source, arguments.out) == "bids"
    first = _request(source, options, out, is_bids)
    images = {FA: _list_images(first)}
    for name, pattern in patterns.items():
        pointed = _point_at(options, pattern, is_bids)
        other = _request(source, pointed, out, is_bids, f"--map {name}")
        _check_rows(name, first, other)
        images[name] = _list_images(other)
    return _Source(images, first.study, is_bids)


def _find_kind(source: Path, out: str) -> str:
    """Return ``table`` or ``bids``; refuse what is neither."""
    from nipype_blm.cli.source import check_places
    from nipype_blm.data.kinds import is_image_path
    from nipype_blm.io.bids import is_data_set

    if source.is_dir() and not is_data_set(source):
        fault = "is a folder, but no BIDS data set"
    elif not source.is_dir() and is_image_path(source):
        fault = "is an image"
    else:
        kind = check_places(source, out, is_formula_given=True)
        if kind in ("table", "bids"):
            return kind
        fault = f"is a {kind}"
    raise InputError(
        f"SOURCE {source} {fault}; expected a table that has images of FA in a column or by "
        "--images, a BIDS data set, or a text file of their paths, as `ls FOLDER/*FA.nii.gz > "
        "fa_files.txt` writes it."
    )


def _read_list(source: Path) -> list[Path] | None:
    """Return the paths of a text file whose first line is one; None: it is something else."""
    from nipype_blm.data.kinds import is_image_path
    from nipype_blm.io.tables import read_path_list, read_text

    if not source.is_file() or source.suffix.lower() not in _LISTS:
        return None
    lines = [line.strip() for line in read_text(source, "SOURCE").splitlines()]
    first = next((line for line in lines if line and not line.startswith("#")), "")
    if "\t" in first or not is_image_path(Path(first.strip("\"',;"))):
        return None
    return [each.path for each in read_path_list(source, "SOURCE")]


def _read_patterns(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, is_pair, pattern = text.partition("=")
        if not (is_pair and pattern and name.isidentifier() and name.isascii()):
            raise InputError(
                f"--map {text} was given; expected NAME=PATTERN with a name of letters and "
                'digits, such as "MD={participant_id}_MD.nii.gz".'
            )
        if name.casefold() in {FA.casefold(), *map(str.casefold, found)}:
            what = "the map that all others follow" if name.casefold() == "fa" else "given twice"
            raise InputError(f"--map {name} is {what}; give each other map once.")
        found[name] = pattern
    return found


def _request(
    source: Path, options: Mapping[str, Any], out: Path, is_bids: bool, flag: str | None = None
) -> "Request":
    """Return what a table or a data set says of images, and of a formula if there is one.

    `flag` is what messages call the option that tells where images are, if it is another one.
    """
    from nipype_blm.frontends.options import WORDS, OptionWords, read

    asked = {"formula": "~ 1"} | dict(options)
    if is_bids:
        asked |= {"no-own-masks": False}  # FA is its own
    request = read(source, asked, out / _FITS, is_bids)
    if request.faults or request.images is None:
        error = InputError(list(request.faults))
        renamed = {} if flag is None else dict.fromkeys(("pattern", "filters"), flag)
        error.reword(OptionWords({**WORDS.names, **renamed}))
        raise error
    for notice in request.notices:
        say(f"notice: {notice}")
    return request


def _point_at(options: Mapping[str, Any], pattern: str, is_bids: bool) -> dict[str, Any]:
    """Return options that find another map in the place of FA."""
    if not is_bids:
        return dict(options) | {"images": pattern}
    entity, has_value, _ = pattern.partition("=")
    if not has_value:
        raise InputError(
            f"--map ...={pattern} was given; of a BIDS data set expected ENTITY=VALUE, such as "
            "MD=param=MD."
        )
    kept = [text for text in options.get("filter", ()) if text.partition("=")[0] != entity]
    others = {name: value for name, value in options.items() if name != entity}
    return others | {"filter": [*kept, pattern]}


def _list_images(request: "Request") -> list[Path]:
    assert request.images is not None
    return [image.path for image in request.images]


def _check_rows(name: str, first: "Request", other: "Request") -> None:
    """Refuse a map that other rows have than FA, or in another order."""
    rows, others = ([image.where for image in request.images or ()] for request in (first, other))
    if rows == others:
        return
    lone = [
        *(row for row in rows if row not in others),
        *(row for row in others if row not in rows),
    ]
    what = (
        f"{count(len(lone), 'row')} {'lacks' if len(lone) == 1 else 'lack'} one of both: "
        f"{join_some(lone, 10)}.  Take these rows out, or fetch what is missing"
        if lone
        else "their order differs; sort them alike"
    )
    raise InputError(f"FA and {name} are not there for the same rows: {what}.")


# ------------------------------------------------------------------------------- what is done


def _plan(arguments: argparse.Namespace, found: _Source, out: Path, work_dir: Path) -> "Plan":
    from nipype_blm.interfaces.tbss import make_options
    from nipype_blm.machine import count_cores
    from nipype_blm.tbss.planning import make_plan

    given = {name: getattr(arguments, name) for name in _FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    options = make_options(given | {"write_4d": arguments.write_4d})
    n_nodes = _count_nodes(arguments, count_cores())
    plan = make_plan(found.images, options, out, work_dir, n_nodes)
    for notice in plan.notices:
        say(f"notice: {notice}")
    return plan


def _count_nodes(arguments: argparse.Namespace, n_cores: int) -> int:
    """Return how many nodes may run at the same time: here as many as there are cores."""
    if arguments.pool is None and arguments.plugin_args is None and arguments.plugin is None:
        return int(arguments.n_procs or n_cores)
    return max(n_cores, 10)


def _run(plan: "Plan", arguments: argparse.Namespace) -> None:
    """Run the workflow; by default on workers of this machine."""
    from nipype_blm.cli.plugins import DASK, choose_node_runner
    from nipype_blm.cli.progress import Counted, show_progress
    from nipype_blm.cli.run import Places, raise_or_describe, run_workflow
    from nipype_blm.interfaces.tbss import write_plan
    from nipype_blm.machine import count_cores
    from nipype_blm.tbss.planning import count_pairs
    from nipype_blm.workflows.tbss import MEM_GB, connect_tbss, hold_tbss_plan

    places = Places(plan.out_dir, plan.work_dir, plan.work_dir / "tbss_wf")
    n_nodes = _count_nodes(arguments, count_cores())
    work = Counted("registrations", count_pairs(plan) + len(plan.subjects))
    with show_progress(work, arguments.quiet) as note_node:
        runner = choose_node_runner(
            arguments.plugin or DASK,
            arguments.plugin_args,
            arguments.pool,
            places.workflow_folder,
            {} if arguments.plugin else {"n_procs": n_nodes, "n_workers": n_nodes},
            note_node,
        )
        holder = hold_tbss_plan(**write_plan(plan))
        workflow = connect_tbss(holder, plan.options.target, MEM_GB, places.workflow_folder.name)
        try:
            run_workflow(workflow, places, runner)
        except Exception as error:
            raise RunError(raise_or_describe(error, places, arguments.plugin)) from error
    shutil.rmtree(places.workflow_folder, ignore_errors=True)


def _conclude(plan: "Plan", measures: Sequence[str], quiet: bool) -> None:
    """Say what came out, and what lies beside it of an earlier run."""
    from nipype_blm.tbss.group import choose_used, describe_record
    from nipype_blm.tbss.images import read_volume
    from nipype_blm.tbss.plan import read_notices

    used, records = choose_used(plan)
    for notice in read_notices(plan):
        say(f"notice: {notice}")
    left_out = [record for i, record in enumerate(records) if i not in used]
    if left_out:
        some = join_some(map(describe_record, left_out), 10)
        say(
            f"notice: registration has failed for {count(len(left_out), 'image')}, which "
            f"{'is' if len(left_out) == 1 else 'are'} left out: {some}."
        )
    earlier = [path for path in (plan.out_dir / _FITS).glob("*/") if path.name not in measures]
    if earlier:
        some = join_some((escape_name(str(path)) for path in sorted(earlier)), 5)
        say(f"notice: these are fits of an earlier run, and not renewed: {some}.")
    picture = _draw_skeleton(plan)
    if quiet:
        return
    mask = read_volume(plan.paths.skeleton_mask).data
    print(
        f"The skeleton of {len(used)} images has {int(mask.sum()):,} voxels; mean correlation with "
        f"the target {sum(records[i].correlation for i in used) / len(used):.3f}.\n"
        f"Images are in {escape_name(str(plan.out_dir))}: stats, skeletonised, subjects.tsv"
        f"{'' if picture is None else f'; look at {picture.name}'}"
    )


def _draw_skeleton(plan: "Plan") -> Path | None:
    """Draw the skeleton; say what is missing if it cannot be."""
    from nipype_blm.report.skeleton import draw_skeleton

    try:
        return draw_skeleton(plan, plan.out_dir / "skeleton.png")
    except ImportError as error:
        say(f"notice: no picture was drawn: {error}. pip install 'nipype_blm[plot]'")
        return None


# -------------------------------------------------------------------------------- the models


def _fit(
    plan: "Plan",
    found: _Source,
    measure: str,
    options: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> None:
    """Fit the formula to a map on the skeleton."""
    from nipype_blm.cli.fit import run_request
    from nipype_blm.frontends.options import read

    assert found.study is not None
    out_dir = plan.out_dir / _FITS / measure
    table = _write_table(plan, found.study, measure)
    dropped = {*_OF_IMAGES, "work-dir", "mask", *(_OF_BIDS if found.is_bids else ())}
    given = {name: value for name, value in options.items() if name not in dropped}
    given["mask"] = options.get("mask", plan.paths.skeleton_mask)
    if arguments.infers:
        given["inference"] = [*_INFERENCE, *options.get("inference", ())]
    request = read(table, given, out_dir, is_bids=False)
    if not arguments.quiet:
        say(f"nipype-blm tbss: fitting {measure} on the skeleton ...")
    background = plan.paths.mean_fa
    run_request(
        request,
        argparse.Namespace(**vars(arguments) | {"out": str(out_dir), "background": background}),
    )


def _write_table(plan: "Plan", study: "Study", measure: str) -> Path:
    """Write the table of a fit: the rows that are used, with their images on the skeleton."""
    from nipype_blm.io.frames import write_frame
    from nipype_blm.tbss.group import choose_used

    used, _ = choose_used(plan)
    path = plan.out_dir / _FITS / f"{measure}.tsv"
    columns: dict[str, list[Any]] = {
        name: [cells[i] for i in used]
        for name, cells in study.columns.items()
        if name.casefold() != "image"
    }
    names = [plan.subjects[i].name for i in used]
    columns.setdefault("name", list(names))  # as in the other tables
    columns["image"] = [str(plan.paths.find_skeletonised(name, measure)) for name in names]
    levels = {
        coding.variable: list(coding.levels)
        for coding in study.codings
        if coding.variable in columns
    }
    for coding in study.codings:
        left = {str(cell) for cell in columns.get(coding.variable, ())}
        if coding.reference is not None and left and coding.reference not in left:
            raise InputError(
                f"No image is left of {coding.variable} {coding.reference}, with which others are "
                "compared: registration has failed for all of them.  Take their rows out of the "
                "table, or give another level of reference."
            )
    write_frame(path, columns, levels)
    return path
