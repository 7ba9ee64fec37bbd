"""Make a request of a formula, and of a table or a BIDS data set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm.errors import InputError, Problem, Problems
from nipype_blm.formula.contrasts import Explained, make_contrasts
from nipype_blm.formula.design import Design, build_design
from nipype_blm.formula.parse import Formula, parse_formula
from nipype_blm.frontends.bids import find_study
from nipype_blm.frontends.columns import type_columns
from nipype_blm.frontends.fields import ContrastFields, FormulaFields
from nipype_blm.frontends.listed import match_listed
from nipype_blm.frontends.matching import match_images, match_masks
from nipype_blm.frontends.observations import Observations, select_complete
from nipype_blm.frontends.reading import Origin, list_files, make_contrast, request_options
from nipype_blm.io.frames import read_frame
from nipype_blm.model.request import Request, Table
from nipype_blm.model.study import Study

if TYPE_CHECKING:
    import pandas as pd


def make_formula_request(
    fields: FormulaFields, origin: Origin, frame: "pd.DataFrame | None" = None
) -> Request:
    """Read the table, find the images, and write the formula as X and random factors.

    Parameters
    ----------
    fields : FormulaFields
    origin : Origin
    frame : DataFrame, optional
        The table, in place of a file, as `read_frame` returns one.
    """
    problems = Problems(origin.problems)
    formula = _parse(fields, origin.model, problems)
    observations = problems.attempt(_observe, fields, origin, frame)
    if formula is not None and observations is not None:
        observations = problems.attempt(_complete, fields, formula, observations)
    made = None
    if formula is not None and observations is not None:
        made = problems.attempt(_build, fields, formula, observations)
    options: dict[str, Any] = request_options(fields, origin)
    options |= {"match_rows": "by_order", "files": [origin.source, fields.table]}
    notices = [*origin.notices]
    if observations is None or made is None:
        if not problems:  # nothing else says why
            raise AssertionError("a request without a fault has no design")
        nothing: dict[str, Any] = {"X": None, "images": None, "contrasts": ()}
        return Request(**nothing, faults=problems, notices=notices, **options)
    design, explained = made
    assert formula is not None
    return Request(
        X=design.X,
        images=observations.images,
        data_masks=observations.data_masks,
        factors=design.factors,
        contrasts=explained.contrasts,
        study=Study(
            formula.text, _list_columns(observations), design.codings, observations.excluded
        ),
        faults=problems,
        notices=[*notices, *observations.notices, *design.notices, *explained.notices],
        **options,
    )


def _parse(fields: FormulaFields, model: str, problems: Problems) -> Formula | None:
    """Return the formula, unless it is one of the other kind of model."""
    if not fields.formula:  # which is said already
        return None
    formula = problems.attempt(parse_formula, fields.formula)
    if formula is None:
        return None
    if formula.is_mixed and model == "blm":
        problems.add(
            "formula",
            "{formula} has a random part, as of a mixed model; run it with blmm (BLMM), or leave "
            "out what is in ( | ).",
        )
    elif not formula.is_mixed and model == "blmm":
        problems.add(
            "formula",
            "{formula} has no random part such as (1 | subject), as a mixed model has; add one, or "
            "run it with blm (BLM).",
        )
    return formula


def _observe(
    fields: FormulaFields, origin: Origin, frame: "pd.DataFrame | None" = None
) -> Observations:
    """Return which rows and images there are, before any row is left out."""
    if (fields.bids is None) == (fields.table is None):
        how = "none of both was" if fields.bids is None else "both were"
        raise InputError(
            Problem("table", f"{{table}} or {{bids}} has the rows of the model, but {how} given.")
        )
    _refuse_idle(fields)
    if fields.bids is not None:
        return find_study(
            fields.bids,
            fields.derivatives,
            fields.filters,
            fields.participants,
            fields.own_masks,
            fields.on_missing_image,
        )
    if frame is None:
        assert fields.table is not None
        frame = read_frame(fields.table, origin.words.name("table"))
    base = fields.table.parent if fields.table is not None else Path.cwd()
    if fields.images is not None:
        listed = list_files(fields.images, "images", origin.words)
        found = match_listed(frame, listed)
    else:
        found = match_images(frame, fields.pattern, base, fields.on_missing_image)
    if fields.data_masks is not None:
        found = match_masks(found, fields.data_masks, base)
    return found


def _refuse_idle(fields: FormulaFields) -> None:
    """Refuse fields that would choose rows, images or masks, if only the source heard of them."""
    if fields.bids is not None:
        source, idle = (
            "{bids}, whose images and masks are found",
            ("pattern", "images", "data_masks"),
        )
    else:
        source, idle = (
            "{table}, whose rows are all taken",
            ("derivatives", "filters", "participants"),
        )
    problems = Problems()
    for name in idle:
        if getattr(fields, name):
            problems.add(name, f"{{{name}}} has no place beside {source}; leave out one of them.")
    if fields.bids is None and fields.images is not None and fields.pattern is not None:
        problems.add("images", "{images} and {pattern} both say where images are; leave out one.")
    if problems:
        raise InputError(problems)


def _complete(fields: FormulaFields, formula: Formula, found: Observations) -> Observations:
    """Return the rows that have a value for all that the formula needs."""
    kinds = dict(fields.columns)
    used = [*formula.variables]
    blocks = (fields.inference or {}).get("blocks")
    # Else it is a file, or nothing.
    if isinstance(blocks, str) and blocks in found.frame.columns and blocks not in used:
        kinds[blocks] = "categorical"
        used.append(blocks)
    frame, notices = type_columns(found.frame, used, kinds)
    found = replace(found, frame=frame, notices=[*found.notices, *notices])
    return select_complete(found, used, fields.on_missing)


def _build(
    fields: FormulaFields, formula: Formula, found: Observations
) -> tuple[Design, Explained]:
    """Return X and the random factors, and the contrasts."""
    design = build_design(formula, found.frame)
    return design, list_contrasts(design, fields.contrasts)


def list_contrasts(design: Design, given: Sequence[ContrastFields]) -> Explained:
    """Return contrasts of a design, those of weights among them; without any, the default ones."""
    if not given:
        return make_contrasts(design)
    return make_contrasts(
        design,
        [make_contrast(x) if x.expression is None else (x.name, x.expression) for x in given],
    )


def list_contrasts_of_columns(X: Table, given: Sequence[ContrastFields]) -> Explained:
    """Return contrasts whose expressions have the columns of a given X as coefficients.

    Raises
    ------
    InputError
        If the columns have no names, or an expression cannot be used.
    """
    names = list(X.names)
    if not X.has_header or len(set(names)) < len(names) or any("`" in name for name in names):
        raise InputError(
            Problem(
                "contrasts",
                "{contrasts} has an expression, but the columns of {X} have no names of their own; "
                "give weights, or a header.",
            )
        )
    import pandas as pd

    formula = parse_formula("0 + " + " + ".join(f"`{name}`" for name in names))
    return list_contrasts(build_design(formula, pd.DataFrame(X.values, columns=names)), given)


def _list_columns(found: Observations) -> Mapping[str, list[Any]]:
    """Return the table as plain values, with the image of each row."""
    columns = {str(name): found.frame[name].tolist() for name in found.frame.columns}
    return columns | {"image": [str(each.path) for each in found.images]}
