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
from nipype_blm.data.space import check_neighbourhood
from nipype_blm.errors import InputError, Problem, join_some, show
from nipype_blm.io.tables import read_labels
from nipype_blm.model.inference import FEW_GROUPS, InferenceOptions, check_groups
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
    table: Path  # which lists the images

    @classmethod
    def of_results(cls, results: Results) -> Self:
        """Return what a folder of results says."""
        table = results.folder / "model" / "images.tsv"
        return cls(results.model, results.X, results.factors, results.study, table)


def check_inference(run: PreparedRun, out_dir: Path, options: InferenceOptions) -> None:
    """Raise InputError if a run that is to be fitted cannot be followed by an inference."""
    spec = run.spec
    names = [each.name for each in run.contrasts.contrasts]
    unknown = [name for name in options.contrasts or () if name not in names]
    if unknown:
        raise InputError(
            f"{join_some(map(show, unknown))} is no contrast that the inference could correct; "
            f"there is {join_some(names)}."
        )
    table = out_dir / "model" / "images.tsv"
    tested = Tested(spec.model, spec.X, spec.factors, run.study, table)
    check_exchange(tested, options, find_exchange(tested, options))
    check_neighbourhood(spec.space, options.neighbours)


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
                    "{blocks} {given} is no file, and no column of the table of the formula "
                    "({columns}).",
                    given=show(blocks),
                    columns=columns,
                )
            )
        labels = read_labels(path, "blocks")
        if len(labels) != len(tested.X):
            raise InputError(
                Problem(
                    "blocks",
                    "{blocks} {path} has {n} labels, expected {n_images}: one for each line of "
                    "{table}, in its order.",
                    path=path,
                    n=len(labels),
                    n_images=len(tested.X),
                    table=tested.table,
                )
            )
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int32)


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
            problems.append(
                Problem(
                    "resampling",
                    "{resampling} is {given}, which changes nothing here: all images that "
                    "may change places have the same row of X, as where there is nothing but an "
                    "intercept; {resampling=flip_scores} flips signs.",
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


def find_means(X: FloatArray, contrasts: Mapping[str, FloatArray]) -> list[str]:
    """Return a notice of the contrasts that no permutation can test."""
    found = []
    for name, weights in contrasts.items():
        x, _ = make_hypothesis(X, weights)
        # Orthogonal to X0, x has a mean only if X0 does not take it.
        if (np.abs(x.mean(axis=0)) * np.sqrt(len(x)) > _HAS_MEAN).any():
            found.append(name)
    if not found:
        return []
    return [
        f"The mean of all images, which no permutation changes, is part of {join_some(found)}: "
        "such a contrast has little or no power, and takes that of others if they are corrected "
        "jointly. flip_scores has that power; or choose other contrasts."
    ]
