"""Make a request of checked fields: every table, label file and list is read, once."""

from collections.abc import Sequence
from pathlib import Path

from nipype_blm.errors import Problems, Words
from nipype_blm.frontends.fields import (
    CommonFields,
    ContrastFields,
    FactorFields,
    Fields,
    FormulaFields,
    MixedFields,
)
from nipype_blm.frontends.reading import Origin, list_files, make_contrast, request_options
from nipype_blm.io.tables import read_labels, read_table, scan_table
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.request import Factor, ListedPath, Request, Table


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
