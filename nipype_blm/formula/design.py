"""The design of a formula for a table: X, random factors, and how levels are coded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from formulae.expr import Literal

from nipype_blm.errors import InputError, Problem, Problems, shorten, show
from nipype_blm.formula.algebra import Side
from nipype_blm.formula.coding import Coded, TermColumns, code_terms
from nipype_blm.formula.columns import (
    Scale,
    as_categories,
    clean_columns,
    count_levels,
    find_scale,
    is_number,
    label,
)
from nipype_blm.formula.functions import (
    is_categorical_call,
    list_columns,
    list_compared,
    list_numbers,
    name_of,
)
from nipype_blm.formula.parse import Bar, Formula
from nipype_blm.formula.syntax import Expr, list_children
from nipype_blm.formula.words import FIELD, join_names, refuse, suggest
from nipype_blm.model.request import Factor, Table
from nipype_blm.model.study import Coding

if TYPE_CHECKING:
    import pandas as pd

_CODES = re.compile(
    r"(sex|gender|group|site|scanner|cent(er|re)|diagnosis|dx|hand(edness)?|race|ethnicity|"
    r"arm|treatment|condition|cohort|batch|family(_?id)?)",
    re.IGNORECASE,
)
_MOST_NAMED = 30  # codes of a column with such a name
_MOST_CODES = 10  # distinct whole numbers that may be names of groups
_ROWS_PER_CODE = 3
# Whole numbers with few values that are measured, as names of columns have it.
_MEASURED = ("age", "year", "month", "week", "day", "hour", "time", "dose", "score", "count")
_WIDE = 1_000  # columns of a term, which may be more than there are rows


@dataclass(frozen=True, eq=False)
class Design:
    """What a formula makes of a table, whose rows are the observations in their order."""

    X: Table
    factors: list[Factor]
    codings: list[Coding]  # of the categorical columns of the fixed effects
    terms: list[TermColumns]  # of the fixed effects, in the order of their columns
    scale: Scale
    notices: list[Problem] = field(default_factory=list)  # what may not be meant

    @property
    def is_hierarchical(self) -> bool:
        """Whether there is an intercept, and every part of an interaction is a term, too."""
        atoms = {term.atoms for term in self.terms}
        parts = [term.atoms - {atom} for term in self.terms for atom in term.atoms]
        return frozenset() in atoms and all(part in atoms for part in parts)


def build_design(formula: Formula, frame: "pd.DataFrame") -> Design:
    """Return the design of a formula for a table.

    Categorical columns are coded as in R: by one column for each level but the first, in the
    order of their `categories`, or by one for each level where an intercept is left out.
    Categories without a row are left out.  The names of columns are those of formulae:
    ``Intercept``, ``age``, ``sex[M]``, ``age:sex[M]``.

    Two terms of one grouping, such as (1 | s) + (0 + t | s), are independent.  They become
    one factor if each has one column, and else factors of the names ``s``, ``s.1``.

    Parameters
    ----------
    formula : Formula
        From `parse_formula`.
    frame : DataFrame
        A row for each observation.  A column is numeric or categorical (of text).

    Raises
    ------
    InputError
        If the table lacks a column or values, or the formula makes no model of it.
    """
    _check_columns(formula, frame)
    frame = clean_columns(frame, formula.variables)
    fixed, scale = _prepare(formula.fixed, frame)
    _check_sizes(formula.fixed, fixed)
    coded = code_terms(formula.fixed, fixed, scale)
    _check_names(coded)
    factors = _make_factors(formula.bars, frame)
    return Design(
        Table(coded.X, coded.names, source="the formula's X"),
        factors,
        _list_codings(coded.terms),
        coded.terms,
        scale,
        _note_codes(formula.fixed, frame) + _note_many_levels(fixed),
    )


def _check_columns(formula: Formula, frame: "pd.DataFrame") -> None:
    known = [str(name) for name in frame.columns]
    problems = Problems()
    for name in formula.variables:
        if name not in frame.columns:
            problems.add(
                FIELD,
                "The formula has {name}, which is no column{near}; the columns are {known}.",
                name=show(name),
                near=suggest(name, known),
                known=join_names(known),
            )
        elif n_missing := int(frame[name].isna().sum()):
            problems.add(
                FIELD,
                "The formula needs {name}, which {n} of {total} rows do not have, first row "
                "{first}; leave these rows out.",
                name=show(name),
                n=n_missing,
                total=len(frame),
                first=int(np.argmax(frame[name].isna())) + 1,
            )
    response = formula.response
    if response in frame.columns and is_number(frame[response]):
        problems.add(
            FIELD,
            "The formula has {name} before ~, which is a column of numbers; the images are the "
            "response: put {name} after ~ if it explains them, or leave it out.",
            name=response,
        )
    if not len(frame):
        problems.add(FIELD, "The table has no row for the formula; give it the rows of images.")
    if problems:
        raise InputError(problems)


def _prepare(side: Side, frame: "pd.DataFrame") -> tuple["pd.DataFrame", Scale]:
    """Return the columns of a list of terms, in the types in which they are used there."""
    used = list(side.atoms.values())
    as_levels = {n for expr in used if is_categorical_call(expr) for n in list_columns(expr)}
    as_given = {n for expr in used if not is_categorical_call(expr) for n in list_columns(expr)}
    for name in side.columns:
        if is_number(frame[name]) and name in as_levels & as_given:
            raise refuse(
                "The formula has {name} as a number and as C({name}); add a second column of it "
                "to the table.",
                name=name,
            )
    prepared = frame[side.columns].copy()
    for name in as_levels:
        prepared[name] = as_categories(frame[name])
    scale = find_scale(prepared)
    _check_levels(used, scale.levels, len(frame))
    return prepared, scale


def _check_levels(used: Sequence[Expr], levels: Mapping[str, "pd.Series"], n_rows: int) -> None:
    for name, column in levels.items():
        if len(column) == 1:
            raise refuse(
                "The formula has {name}, which is {level} in all {n} rows that are used; leave it "
                "out of the formula.",
                name=show(name),
                level=show(column[0]),
                n=n_rows,
            )
    for expr in used:
        for name, value in _list_levels(expr):
            known = list(levels[name]) if name in levels else []
            if known and label(value) not in known:
                raise refuse(
                    "The formula has {level} as a level of {name}{near}; its levels are {known}.",
                    level=show(value),
                    name=name,
                    near=suggest(label(value), known),
                    known=join_names(known),
                )
        for name in () if name_of(expr) is not None else list_numbers(expr):
            if name in levels:
                raise refuse(
                    "The formula does arithmetic with {name}, which has text, such as {level}; "
                    "use a column of numbers, or write {name} for its levels.",
                    name=name,
                    level=show(levels[name][0]),
                )


def _list_levels(expr: Expr) -> list[tuple[str, object]]:
    """Return the columns and levels that a call names."""
    if is_categorical_call(expr):
        [name, *_] = list_columns(expr)
        return [(name, value) for value in _list_literals(expr)]
    return list(list_compared(expr))


def _list_literals(expr: Expr) -> list[object]:
    if isinstance(expr, Literal):
        return [expr.value]
    return [value for child in list_children(expr) for value in _list_literals(child)]


def _check_sizes(side: Side, frame: "pd.DataFrame") -> None:
    """Refuse terms that have more columns than there are rows, before these are made."""
    n_levels = {str(name): count_levels(column) or 2 for name, column in frame.items()}
    for name, n in n_levels.items():
        if n == len(frame) > 2:
            raise refuse(
                "The formula has {name} as a fixed effect, with a level of its own in each of "
                "{n} rows, which leaves nothing to estimate; leave it out, or write (1 | {name}) "
                "if levels repeat in other rows.",
                name=name,
                n=n,
            )
    for term in side.terms:
        names = {name for atom in term for name in list_columns(side.atoms[atom])}
        n_columns = int(np.prod([float(n_levels[name]) - 1 for name in names]))
        if n_columns > max(len(frame), _WIDE):
            raise refuse(
                "The formula's {term} has {n:,} columns, and there are {rows:,} rows; leave it "
                "out.",
                term=":".join(term),
                n=n_columns,
                rows=len(frame),
            )


def _check_names(coded: Coded) -> None:
    repeated = {name for name in coded.names if coded.names.count(name) > 1}
    if repeated:
        raise refuse(
            "The formula makes several columns of the name {name}; give columns or levels of the "
            "table other names.",
            name=show(min(repeated)),
        )


def _list_codings(terms: Sequence[TermColumns]) -> list[Coding]:
    """Return how each categorical column is coded, where it comes first."""
    codings: dict[str, Coding] = {}
    for term in terms:
        for part in term.parts:
            if part.levels is not None:
                coding = Coding(part.variables[0], part.levels, part.reference, part.scheme)
                codings.setdefault(part.variables[0], coding)
    return list(codings.values())


def _note_codes(side: Side, frame: "pd.DataFrame") -> list[Problem]:
    """Say which columns of numbers may be names of groups."""
    notices = []
    for atom, expr in side.atoms.items():
        name = name_of(expr)
        if name is None or not is_number(frame[name]):
            continue
        values = np.unique(frame[name])
        is_measured = any(word in name.lower() for word in _MEASURED)
        is_few = len(values) <= min(_MOST_CODES, len(frame) // _ROWS_PER_CODE)
        is_named = _CODES.fullmatch(name) is not None and len(values) <= _MOST_NAMED
        may_be_codes = len(values) > 2 and (is_named or (is_few and not is_measured))
        if may_be_codes and (values == np.round(values)).all():
            notices.append(
                Problem(
                    FIELD,
                    "{name} is taken as a number, with a slope, and has only the values {values}; "
                    "write C({name}) in the formula if they are names of groups.",
                    name=atom,
                    values=join_names(map(label, values)),
                )
            )
    return notices


def _note_many_levels(frame: "pd.DataFrame") -> list[Problem]:
    return [
        Problem(
            FIELD,
            "{name} is a fixed effect with {n} levels in {rows} rows; write (1 | {name}) if it "
            "should be random.",
            name=name,
            n=count_levels(column),
            rows=len(frame),
        )
        for name, column in frame.items()
        if count_levels(column) > max(2, len(frame) / 2)
    ]


def _make_factors(bars: Sequence[Bar], frame: "pd.DataFrame") -> list[Factor]:
    """Return a factor for each grouping, or several if it has random effects of several kinds."""
    factors: list[Factor] = []
    for name, group in groupby(sorted(bars, key=lambda bar: _order(bars, bar)), lambda b: b.name):
        same = list(group)
        labels = _join_labels([frame[column] for column in same[0].grouping])
        designs = [_code_effects(bar, frame) for bar in same]
        _check_repeated(name, same, designs)
        if len(same) > 1 and all(design.values.shape[1] == 1 for design in designs):
            values = np.hstack([design.values for design in designs])
            names = [column for design in designs for column in design.names]
            factors.append(Factor(name, labels, Table(values, names), False, source=name))
            continue
        for number, (bar, design) in enumerate(zip(same, designs, strict=True)):
            text = f"{name}.{number}" if number else name
            factors.append(Factor(text, labels, design, bar.correlated, source=f"({bar.text})"))
    return factors


def _order(bars: Sequence[Bar], bar: Bar) -> int:
    """Return where the grouping of a bar comes first."""
    return [other.name for other in bars].index(bar.name)


def _code_effects(bar: Bar, frame: "pd.DataFrame") -> Table:
    """Return the design of the random effects of a level."""
    columns, scale = _prepare(bar.effects, frame)
    coded = code_terms(bar.effects, columns, scale)
    return Table(coded.X, coded.names, source=f"({bar.text})")


def _check_repeated(name: str, bars: Sequence[Bar], designs: Sequence[Table]) -> None:
    names = [column for design in designs for column in design.names]
    repeated = [column for column in dict.fromkeys(names) if names.count(column) > 1]
    if repeated:
        raise refuse(
            "The formula has the random effect {effect} of {name} more than once, in {bars}; "
            "write one term, or 0 + in the others, such as (1 | {name}) + (0 + t | {name}).",
            effect=shorten(repeated[0]),
            name=name,
            bars=join_names(f"({bar.text})" for bar in bars),
        )


def _join_labels(columns: Sequence["pd.Series"]) -> list[str]:
    """Return the label of each row; those of several columns are joined by colons."""
    rows = list(zip(*([label(value) for value in column] for column in columns), strict=True))
    joined = [":".join(row) for row in rows]
    if len(set(joined)) == len(set(rows)):
        return joined
    escaped = str.maketrans({"\\": "\\\\", ":": "\\:"})
    return [":".join(each.translate(escaped) for each in row) for row in rows]
