"""Check what is asked of a TBSS before anything takes long, and cut its work into pieces."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from nipype_blm.errors import InputError, count, join_some
from nipype_blm.tasks.pieces import cut_evenly
from nipype_blm.tbss.checks import check_images, check_options
from nipype_blm.tbss.engines import ENGINES, check_engine
from nipype_blm.tbss.looks import Look
from nipype_blm.tbss.options import FA, Options
from nipype_blm.tbss.pairs import list_missing
from nipype_blm.tbss.plan import Plan, Subject, stamp_file

_ENDINGS = re.compile(r"\.(nii|mgh|mgz|mnc|hdr|img|HEAD|BRIK)(\.(gz|bz2|zst))?$", re.IGNORECASE)
_OF_FA = re.compile(r"(?<=.)[_.-](FA|fa)$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # would break lines and columns of tables
# Pairs or subjects of a node: a minute or two of work.
_MOST_IN_BUNDLE = 12
# Of the box around a brain, which is 140 x 190 x 150 mm of a human: cubes of 2 mm.
_REGISTRATION_VOXELS = 450_000


def make_plan(
    images: Mapping[str, Sequence[Path]],
    options: Options,
    out_dir: Path,
    work_dir: Path,
    parallel_nodes: int = 1,
) -> Plan:
    """Check what is asked of a TBSS, and cut its work into pieces.

    Parameters
    ----------
    images : mapping of str to sequence of Path
        Images of each measure, in one order; ``FA`` is one of them.
    options : Options
    out_dir, work_dir : Path
        For results, and for what can be removed when all is done.
    parallel_nodes : int
        Nodes that run at the same time.

    Raises
    ------
    InputError
        With all that is wrong with options and images.
    """
    images = {FA: images[FA], **{name: images[name] for name in images if name != FA}}
    check_engine(options.engine)
    check_options(options)
    checked = check_images(images, options.template)
    names = name_subjects(images[FA])
    subjects = [
        Subject(
            name,
            {measure: paths[i] for measure, paths in images.items()},
            {measure: stamp_file(paths[i]) for measure, paths in images.items()},
        )
        for i, name in enumerate(names)
    ]
    batches = cut_evenly(range(len(subjects)), parallel_nodes, _MOST_IN_BUNDLE)
    spacing = choose_spacing(checked.fixed)
    plan = Plan(options, subjects, out_dir, work_dir, spacing, batches, notices=checked.notices)
    if options.target == "template":
        return plan
    # One without pairs where all are done: Nipype runs no list of no node.
    pairs = cut_evenly(list_missing(plan), parallel_nodes, _MOST_IN_BUNDLE)
    return replace(plan, pair_bundles=pairs or [[]])


def choose_spacing(looks: Sequence[Look]) -> float:
    """Return the side of the cubes on which images are registered, in mm, to two digits.

    A human head gets 2 mm, as FNIRT's last level for FA is; other brains as many voxels, whatever
    their size.  Voxels are never made smaller than they are.  Of several images the median counts,
    so that one more or less changes nothing.
    """
    by_count = [np.cbrt(look.lengths_mm.prod() / _REGISTRATION_VOXELS) for look in looks]
    own = [np.cbrt(look.zooms.prod()) for look in looks]
    return float(f"{max(np.median(by_count), np.median(own)):.2g}")


def name_subjects(paths: Sequence[Path]) -> list[str]:
    """Return a name for each image: that of its file, with as many folders as tell it from others.

    Raises
    ------
    InputError
        If an image is given twice.
    """
    # Links to one file are one image, too.
    times = Counter(path.resolve() for path in paths)
    twice = [path for path in dict.fromkeys(paths) if times[path.resolve()] > 1]
    if twice:
        raise InputError(
            f"{count(len(twice), 'image')} given more than once: {join_some(twice, 5)}; every "
            "observation needs an image of its own."
        )
    stems = [_CONTROL.sub("_", _ENDINGS.sub("", path.name)) for path in paths]
    # What is written ends in _FA anyway; of images that only that tells apart it stays.
    shorter = [_OF_FA.sub("", stem) for stem in stems]
    told = defaultdict(set)
    for stem, each in zip(stems, shorter, strict=True):
        told[each].add(stem)
    stems = [
        each if len(told[each]) == 1 else stem for stem, each in zip(stems, shorter, strict=True)
    ]
    names, depth = list(stems), 0
    while _find_alike(names):
        depth += 1
        names = [
            _CONTROL.sub("_", "_".join([*path.parent.parts[-depth:], stem]).replace("/", ""))
            for path, stem in zip(paths, stems, strict=True)
        ]
        if depth > max(len(path.parts) for path in paths):
            alike = _find_alike(stems)
            return [f"{i + 1:04d}_{each}" if i in alike else each for i, each in enumerate(stems)]
    return names


def _find_alike(names: Sequence[str]) -> set[int]:
    """Return the numbers of names that others have, too, on some file system."""
    keys = [unicodedata.normalize("NFC", name).casefold() for name in names]
    times = Counter(keys)
    return {i for i, key in enumerate(keys) if times[key] > 1}


# CPU seconds of one registration on cubes of 2 mm of a human head, and all around it: of greedy and
# SyN as measured (tests/benchmarks/bench_tbss.py), of FNIRT three minutes, as people report.
SECONDS = {"greedy": 15.0, "ants": 20.0, "fsl": 180.0}


def describe_costs(plan: Plan) -> str:
    """Say what would be done, and what that takes."""
    n, n_pairs = len(plan.subjects), count_pairs(plan)
    others = f", and of {', '.join(plan.measures[1:])}" if plan.measures[1:] else ""
    target = (
        f"Target: {plan.options.template}"
        if plan.options.target == "template"
        else f"Target: the most representative image; {n_pairs:,} registrations are to be done to "
        "find it"
    )
    engine = plan.options.engine
    each = SECONDS.get(engine, 10.0)
    total = timedelta(seconds=round((n + n_pairs) * each))
    return "\n".join(
        (
            f"{count(n, 'image')} of FA{others}",
            target,
            f"Engine: {engine}, {ENGINES[engine].words}; on cubes of {plan.spacing:g} mm",
            f"About {total} of CPU time, at {each:g} s for each registration, by as many workers "
            "as there are",
        )
    )


def count_pairs(plan: Plan) -> int:
    """Return how many pairs are still to be registered."""
    return sum(map(len, plan.pair_bundles))
