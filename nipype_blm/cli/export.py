"""``nipype-blm export``: results in the names of FSL, of SPM, or of nilearn and BIDS."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import OK, add_common_options, describe
from nipype_blm.errors import InputError

_DESCRIPTION = (
    "Write results once more, in the names and formats of others: fsl, as flameo leaves them "
    "(stats/cope1.nii.gz, design.mat, ...); spm, with SPM.mat (spmT_0001.nii, ...), for which all "
    "images are read for their smoothness; or bids, as nilearn names them "
    "(group/contrast-age_stat-z_statmap.nii.gz, ...)."
)
TARGETS = ("fsl", "spm", "bids")


def add_export(tools: Any) -> None:
    """Add the command ``export`` to those of ``nipype-blm``."""
    parser = tools.add_parser("export", help="write results in the names of FSL, SPM or BIDS")
    examples = [
        "results --to fsl",
        "results --to bids derivatives/age --task nback",
        "results --to fsl for_cluster --contrast age --contrast group",
    ]
    describe(parser, _DESCRIPTION, examples)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of results of a run")
    parser.add_argument(
        "--to",
        required=True,
        nargs="+",
        metavar=("TARGET", "DIR"),
        help="fsl, spm or bids; and a folder for the files, that is empty or of an earlier export; "
        "default: OUT/fsl, OUT/spm or OUT/bids",
    )
    parser.add_argument(
        "--contrast",
        action="append",
        metavar="NAME",
        help="only this contrast; may be given several times",
    )
    for entity in ("task", "space"):
        parser.add_argument(
            f"--{entity}",
            metavar="LABEL",
            help=f"of bids: {entity}-LABEL in names of files; default: what the names of all "
            "images share; '' for none",
        )
    parser.add_argument(
        "--source",
        action="append",
        metavar="URL",
        help="of bids: a data set that the images are of; may be given several times",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the export of other results in DIR"
    )
    add_common_options(parser)
    parser.set_defaults(action=_act, interrupted="The same command begins again.")


def _act(arguments: argparse.Namespace) -> int:
    from nipype_blm.results.results import Results

    target, *folders = arguments.to
    if target not in TARGETS or len(folders) > 1:
        raise InputError(
            f"--to {' '.join(arguments.to)} was given; expected fsl, spm or bids, and one folder "
            "at most, as in: nipype-blm export OUT --to fsl DIR"
        )
    folder = Path(folders[0]) if folders else None
    entities = {
        name: label for name in ("task", "space") if (label := getattr(arguments, name)) is not None
    }
    if target != "bids" and (entities or arguments.source):
        raise InputError(
            f"--task, --space and --source are of --to bids; {target.upper()} has no such names."
        )
    results = Results(arguments.out)
    if target == "fsl":
        folder = _export_fsl(results, folder, arguments)
    elif target == "spm":
        folder = _export_spm(results, folder, arguments)
    else:
        folder = _export_bids(results, folder, arguments, entities)
    if not arguments.quiet:
        print(f"The files are in {folder}")
    return OK


def _export_fsl(results: Any, folder: Path | None, arguments: argparse.Namespace) -> Path:
    from nipype_blm.results.fsl import export_fsl

    done = export_fsl(results, folder, arguments.contrast, arguments.overwrite)
    if not arguments.quiet:
        for test, names in (("T", done.t_names), ("F", done.f_names)):
            for number, name in enumerate(names, 1):
                print(f"{test} contrast {number}: {name}")
    return done.out_dir


def _export_spm(results: Any, folder: Path | None, arguments: argparse.Namespace) -> Path:
    from nipype_blm.machine import count_cores
    from nipype_blm.results.export import select_contrasts
    from nipype_blm.results.spm import export_spm, find_spm_folder
    from nipype_blm.stages.reopened import open_values
    from nipype_blm.stages.smoothness import describe_smoothness, estimate_smoothness

    folder = find_spm_folder(results, folder)
    select_contrasts(results, arguments.contrast)
    n_threads = count_cores()
    with open_values(results, n_threads) as values:
        smoothness = estimate_smoothness(results, values, n_threads)
    done = export_spm(results, smoothness, folder, arguments.contrast, arguments.overwrite)
    if not arguments.quiet:
        for number, name in enumerate(done.names, 1):
            print(f"{'T' if number in done.t_numbers else 'F'} contrast {number}: {name}")
        print(f"{describe_smoothness(results, smoothness)}; {done.erdf} degrees of freedom")
    return done.out_dir


def _export_bids(
    results: Any, folder: Path | None, arguments: argparse.Namespace, entities: Mapping[str, str]
) -> Path:
    from nipype_blm.results.bids import export_bids

    return export_bids(
        results,
        folder,
        arguments.contrast,
        entities,
        arguments.source or (),
        arguments.overwrite,
    ).out_dir
