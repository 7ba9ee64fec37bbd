"""Which images an inference exchanges, and whether they can be: known before any fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.groups import find_groups
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange, find_kinds
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.data.atlas import read_atlas
from nipype_blm.data.kinds import strip_ending
from nipype_blm.data.space import Space, check_neighbourhood
from nipype_blm.errors import InputError, Problem, count, join_some, show
from nipype_blm.io.tables import read_named_labels
from nipype_blm.model.inference import FEW_GROUPS, InferenceOptions, check_groups
from nipype_blm.model.names import Key, match_names
from nipype_blm.model.study import Study
from nipype_blm.results.results import Results
from nipype_blm.stages.plan import PreparedRun

_HAS_MEAN = 1e-6  # share of the length of a column


class Tested(NamedTuple):
    """What of a model decides which images may be exchanged."""

    model: str  # blm or blmm
    X: FloatArray  # (n_obs, n_params)
    factors: Sequence[RandomFactor]
    study: Study | None  # what a formula made it of
    images: Sequence[str]  # their paths
    listed: Sequence[int]  # place of each among those that were given, from 1; 0: not known

    @classmethod
    def of_results(cls, results: Results) -> Self:
        """Return what a folder of results says."""
        images = [each.image for each in results.images]
        listed = [each.listed for each in results.images]
        return cls(results.model, results.X, results.factors, results.study, images, listed)


def check_inference(run: PreparedRun, options: InferenceOptions) -> None:
    """Raise InputError if a run that is to be fitted cannot be followed by an inference."""
    spec = run.spec
    names = [each.name for each in run.contrasts.contrasts]
    unknown = [name for name in options.contrasts or () if name not in names]
    if unknown:
        raise InputError(
            f"{join_some(map(show, unknown))} is no contrast that the inference could correct; "
            f"there is {join_some(names)}."
        )
    images = [str(each.image) for each in run.images]
    listed = [each.listed for each in run.images]
    tested = Tested(spec.model, spec.X, spec.factors, run.study, images, listed)
    check_exchange(tested, options, find_exchange(tested, options))
    check_neighbourhood(spec.space, options.neighbours)
    check_atlas(options, spec.space)


def check_atlas(options: InferenceOptions, space: Space) -> None:
    """Raise InputError if an atlas names no place of the images."""
    if options.atlas is None:
        return
    if not read_atlas(options.atlas).find_labels(space.find_coordinates()).any():
        raise InputError(
            Problem(
                "atlas",
                "{atlas} {path} has no label at any voxel of the images: it is in another space, "
                "or its header says so. Take the atlas of the space of the images.",
                path=options.atlas,
            )
        )


def find_exchange(tested: Tested, options: InferenceOptions) -> Exchange:
    """Return which images are exchanged."""
    n_obs = len(tested.X)
    kind = find_kinds(tested.X)
    blocks = None if options.blocks is None else _read_blocks(tested, options.blocks)
    if options.resampling == "permute":
        if blocks is None:
            return Exchange(n_obs, np.arange(n_obs, dtype=np.int32), kind=kind)
        within, whole = (options.exchange in (each, "both") for each in ("within", "whole"))
        return Exchange(n_obs, blocks, within, whole, kind)
    return Exchange(n_obs, find_groups(n_obs, tested.factors, blocks))


def _read_blocks(tested: Tested, blocks: str) -> NDArray[np.int32]:
    """Return the block of each image: of a column of the table, or of a file."""
    study = tested.study
    if study is not None and blocks in study.columns:
        labels = [str(value) for value in study.columns[blocks]]
    else:
        path = Path(blocks).expanduser()
        if not path.is_file():
            columns = f"columns: {join_some(study.columns)}" if study is not None else "no table"
            raise InputError(
                Problem(
                    "blocks",
                    "{blocks} {given} is no file, and no column of the table of the formula that "
                    "is known here ({columns}).  A fit by a formula keeps one that it does not "
                    "use with `--inference blocks=NAME`; or give a file with two columns: names "
                    "that are found in those of the images, such as sub-01, and their blocks.",
                    given=show(blocks),
                    columns=columns,
                )
            )
        names, labels = read_named_labels(path, "blocks")
        if names is None:
            labels = _sort_labels(tested, path, labels)
        else:
            labels = _match_labels(tested, path, names, labels)
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int32)


def _sort_labels(tested: Tested, path: Path, labels: Sequence[str]) -> list[str]:
    """Return the label of each image; those of the file are in the order that was given."""
    n, n_images = len(labels), len(tested.images)
    if n != n_images:
        header = f"; leave out {show(labels[0])} if it is a header" if n == n_images + 1 else ""
        raise InputError(
            Problem(
                "blocks",
                "{blocks} {path} has {n} labels, expected {n_images}: one for each image that was "
                "fitted, in the order in which they were given{header}.",
                path=path,
                n=n,
                n_images=n_images,
                header=header,
            )
        )
    if n > 1 and len(set(labels)) == n and all(len(label.split()) > 1 for label in labels):
        raise InputError(
            Problem(
                "blocks",
                "{blocks} {path} would give each image a block of its own, such as {first}; "
                "separate names and blocks by a tab or a comma.",
                path=path,
                first=show(labels[0]),
            )
        )
    # Some that were given may not have been fitted; an earlier version did not note places.
    rank = {place: i for i, place in enumerate(sorted(tested.listed))}
    if len(rank) < n_images:
        return list(labels)
    return [labels[rank[place]] for place in tested.listed]


def _match_labels(
    tested: Tested, path: Path, names: Sequence[str], labels: Sequence[str]
) -> list[str]:
    """Return the label of each image by its name; rows of other images do not matter."""
    if len(names) > 1 and not names[0].isdecimal() and all(map(str.isdecimal, names[1:])):
        names, labels = names[1:], labels[1:]  # a header, without which names are numbers
    match = match_names([strip_ending(name) for name in names], tested.images)
    known: dict[Key, set[str]] = {}
    for key, label in zip(match.keys, labels, strict=True):
        known.setdefault(key, set()).add(label)
    found = [set().union(*(known[key] for key in here)) for here in match.found]
    faults = [
        f"{image} has {'no row' if not here else 'rows of ' + join_some(sorted(here))}"
        for image, here in zip(tested.images, found, strict=True)
        if len(here) != 1
    ]
    if faults:
        raise InputError(
            Problem(
                "blocks",
                "{blocks} {path} has to give each image one block, by the names in its first "
                "column, but {faults}.",
                path=path,
                faults=join_some(faults, 3, "; "),
            )
        )
    return [label for [label] in found]


def check_exchange(tested: Tested, options: InferenceOptions, exchange: Exchange) -> None:
    """Raise InputError if a model cannot be resampled so."""
    problems: list[Problem] = []
    method = RESAMPLINGS[options.resampling]
    if tested.model not in method.models:
        problems.append(
            Problem(
                "resampling",
                "{resampling} is {given}, which would have to exchange images that depend on each "
                "other; a mixed model is resampled by {resampling=flip_scores}.",
                given=options.resampling,
            )
        )
    if options.exchange != "within" and (options.blocks is None or options.resampling != "permute"):
        problems.append(
            Problem(
                "exchange",
                "{exchange} {given} says how {blocks} are permuted, and is of no use without them "
                "and {resampling=permute}.",
                given=options.exchange,
            )
        )
    if options.resampling == "permute":
        if options.blocks is None and len(tested.X) < 5:
            problems += check_groups(len(tested.X), [1] * len(tested.X), ())
        elif method.count(exchange, True) == 1:
            reason = "there is nothing but an intercept; {resampling=flip_scores} flips signs"
            if options.blocks is not None:
                reason = (
                    "blocks are few or of different sizes, or images of a block have the same "
                    "row; choose other {blocks}, or another {exchange}"
                )
            problems.append(
                Problem(
                    "resampling",
                    "{resampling} is {given}, which changes nothing here: all images that "
                    f"may change places have the same row of X, as where {reason}.",
                    given=options.resampling,
                )
            )
    else:
        sizes = np.bincount(exchange.group)
        names = [factor.name for factor in tested.factors]
        has_blocks = options.blocks is not None
        problems += check_groups(len(sizes), sizes.tolist(), names, has_blocks)
    if problems:
        raise InputError(problems)


def describe_exchange(exchange: Exchange) -> str:
    """Return what changes places, or signs."""
    n_obs, n = exchange.n_obs, exchange.n_groups
    if exchange.within:
        also = ", and of the blocks" if exchange.whole else ""
        return f"{n_obs} images within {count(n, 'block')}{also}"
    return f"{n} whole blocks of images" if exchange.whole else f"{n} groups of images"


def find_notices(
    options: InferenceOptions, exchange: Exchange, n: int, n_distinct: int
) -> list[str]:
    """Return what users should know before resamplings begin."""
    notices = []
    if exchange.n_groups < FEW_GROUPS and options.resampling != "permute":
        notices.append(
            f"There are only {exchange.n_groups} independent groups of images: even all of their "
            f"resamplings give no p below {1 / n_distinct:.3g}, and tests have little power."
        )
    if n < options.n:
        notices.append(
            f"There are only {n:,} resamplings that differ, fewer than {options.n:,}: each is "
            "taken once, and p is exact."
        )
    return notices


def find_untestable(
    X: FloatArray, contrasts: Mapping[str, FloatArray], exchange: Exchange
) -> list[str]:
    """Return notices of the contrasts that no permutation can test."""
    means, of_blocks = [], []
    for name, weights in contrasts.items():
        x, _ = make_hypothesis(X, weights)
        # Orthogonal to X0, x has a mean only if X0 does not take it.
        if (np.abs(x.mean(axis=0)) * np.sqrt(len(x)) > _HAS_MEAN).any():
            means.append(name)
        elif exchange.within and not exchange.whole and not _varies_within(x, exchange.group):
            of_blocks.append(name)
    notices = []
    if means:
        notices.append(
            f"The mean of all images, which no permutation changes, is part of {join_some(means)}: "
            "such a contrast has little or no power, and takes that of others if they are "
            "corrected jointly. flip_scores has that power; or choose other contrasts."
        )
    if of_blocks:
        notices.append(
            f"{join_some(of_blocks)} compares blocks with each other, which no permutation within "
            "blocks changes: all its p are 1. Permute whole blocks, or flip scores."
        )
    return notices


def _varies_within(x: FloatArray, group: NDArray[np.int32]) -> bool:
    """Return whether a regressor, of one column or several, differs between images of a block."""
    n = np.bincount(group)
    means = np.stack([np.bincount(group, weights=each) / n for each in x.T], axis=1)
    return bool(np.abs(x - means[group]).max() * np.sqrt(len(x)) > _HAS_MEAN)
