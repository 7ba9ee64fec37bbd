"""Make a request of checked fields: every table, label file and list is read, once."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.kinds import is_image_path
from nipype_blm.errors import InputError, Problem, Problems, Words
from nipype_blm.frontends.fields import (
    CommonFields,
    ContrastFields,
    FactorFields,
    Fields,
    FormulaFields,
    MixedFields,
    MixedOptionFields,
)
from nipype_blm.io.tables import explain_path, read_labels, read_path_list, read_table, scan_table
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.request import Factor, ListedPath, Request, Table

# Fields that the request takes as they are.
_SAME = (
    *("out_dir", "deficient", "threshold", "zero_is_missing", "analysis_mask"),
    *("post_mask", "min_n", "min_percent", "with_cov", "two_sided", "minlog", "compress"),
    *("work_dir", "overwrite", "allow_empty", "keep", "quiet", "max_bytes", "cluster"),
    *("n_threads", "n_workers", "images_per_batch", "voxels_per_block", "max_blocks"),
    *("minutes_per_job", "report"),
)


class Origin(NamedTuple):
    """Where fields come from, and what was found out of them so far."""

    model: str  # blm or blmm
    words: Words  # in which files are told of: those of the user who named them
    problems: Iterable[str] = ()  # what is wrong with the fields; files add to it
    notices: Sequence[str] = ()  # what is no fault but may not be meant
    record: Mapping[str, Any] = MappingProxyType({})  # the fields, as inputs.yml has them
    source: Path | None = None  # the file that they were read from


def make_request(fields: CommonFields, origin: Origin) -> Request:
    """Read what fields name; what `check_fields` leaves of faulty ones is good enough."""
    if isinstance(fields, FormulaFields):
        from nipype_blm.frontends.studies import make_formula_request  # pandas takes its time

        return make_formula_request(fields, origin)
    assert isinstance(fields, Fields)
    words, found = origin.words, Problems(origin.problems)
    factors = list(fields.factors) if isinstance(fields, MixedFields) else []
    X = _read_X(fields.X, words.name("X"), fields.row_names, found)
    contrasts, notices = _make_contrasts(fields.contrasts, X, found)
    return Request(
        X=X,
        factors=[
            _read_factor(each, words.entry("factors", i), fields, found)
            for i, each in enumerate(factors, 1)
        ],
        images=_list_files(fields.images, "images", words, found),
        data_masks=_list_files(fields.data_masks, "data_masks", words, found),
        contrasts=contrasts,
        match_rows=fields.match_rows,
        may_ask=fields.row_names is None,
        files=[
            origin.source,
            fields.X,
            *(path for each in factors for path in (each.factor, each.design)),
        ],
        faults=found,
        notices=[*origin.notices, *notices],
        **request_options(fields, origin),
    )


def request_options(fields: CommonFields, origin: Origin) -> dict[str, Any]:
    """Return what a request takes of fields as it is, however the model is given."""
    options: dict[str, Any] = {name: getattr(fields, name) for name in _SAME}
    if isinstance(fields, MixedOptionFields):
        options["estimation"] = MixedOptions(
            reml=fields.reml,
            method=fields.method,
            tol=fields.tol,
            maxnit=fields.maxnit,
            safe_mode=fields.safe_mode,
            n_starts=fields.n_starts,
        )
        options["with_resms"] = fields.with_resms
    if fields.inference is not None:
        from nipype_blm.frontends.inference import make_inference_options

        options["inference"] = make_inference_options(fields.inference, str)
    if fields.diagnostics is not None:
        options["diagnostics"] = tuple(fields.diagnostics.get("save", ()))
    return options | {"words": origin.words, "record": origin.record}


def _read_X(
    path: Path | None, what: str, row_names: str | None, problems: Problems
) -> Table | None:
    """Return X, also where single cells are wrong."""
    found = None if path is None else problems.attempt(scan_table, path, what, row_names)
    if found is None:
        return None
    problems += found[1]
    return found[0]


def _read_factor(
    factor: FactorFields, what: str, fields: Fields, problems: Problems
) -> Factor | None:
    labels = problems.attempt(read_labels, factor.factor, f"{what} factor")
    design = problems.attempt(read_table, factor.design, f"{what} design", fields.row_names, False)
    if labels is None or design is None:
        return None
    source = f"{what} factor {factor.factor}"
    return Factor(factor.name, labels, design, factor.correlated, factor.nested_in, source)


def _list_files(
    given: Path | Sequence[Path] | None, field: str, words: Words, problems: Problems
) -> list[ListedPath] | None:
    return None if given is None else problems.attempt(list_files, given, field, words)


def list_files(given: Path | Sequence[Path], field: str, words: Words) -> list[ListedPath]:
    """Return the files that a field names: a list file, one image, or several."""
    what = words.name(field)
    if not isinstance(given, Path):
        return [ListedPath(path, f"entry {i} of {what}") for i, path in enumerate(given, 1)]
    if is_image_path(given):
        fault = explain_path(given, given.name)
        if fault is not None:
            raise InputError(Problem(field, f"{{{field}}}: {{fault}}.", fault=fault))
        return [ListedPath(given, what)]
    return read_path_list(given, what)


def _make_contrasts(
    given: Sequence[ContrastFields], X: Table | None, problems: Problems
) -> tuple[Sequence[Contrast], Sequence[str]]:
    """Return contrasts, and what may not be meant by them."""
    if all(each.expression is None for each in given):
        return [make_contrast(each) for each in given], []
    if X is None:  # which is said already
        return [], []
    from nipype_blm.frontends.studies import list_contrasts_of_columns  # pandas takes its time

    made = problems.attempt(list_contrasts_of_columns, X, given)
    return ([], []) if made is None else made


def make_contrast(fields: ContrastFields) -> Contrast:
    """Return a contrast; one without weights holds the place of one that is not valid."""
    name = fields.name or fields.expression or ""
    if not fields.vector:
        return Contrast(name, np.empty((0, 0)), is_f=False)
    return Contrast(name, np.array(fields.vector))
