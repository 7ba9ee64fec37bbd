"""Terms of a formula as columns, coded by formulae."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from formulae.environment import Environment
from formulae.expr import Assign, Binary, Grouping, Literal, Unary
from formulae.expr import Call as CallExpr
from formulae.terms import Call, Intercept, Model, Term, Variable
from formulae.terms.call_resolver import CallResolver

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import show
from nipype_blm.formula.algebra import Atoms, Side
from nipype_blm.formula.columns import Scale, label
from nipype_blm.formula.functions import NAMESPACE, is_categorical_call, list_columns, name_of
from nipype_blm.formula.syntax import Expr, strip
from nipype_blm.formula.words import join_names, refuse

if TYPE_CHECKING:
    import pandas as pd


class Part(NamedTuple):
    """What a term is a product of: a column of the table, or a function of columns."""

    name: str
    variables: tuple[str, ...]
    labels: list[str]  # of its k columns in X, such as sex[M]
    levels: list[str] | None  # None: it is numeric
    coding: FloatArray | None  # (n_levels, k), of a categorical one
    center: FloatArray  # (k,): levels have equal weight, and numbers are at their means

    @property
    def reference(self) -> str | None:
        """The level whose coefficients are all zero."""
        if self.levels is None or self.coding is None:
            return None
        zero = [level for level, row in zip(self.levels, self.coding, strict=True) if not row.any()]
        return zero[0] if zero else None

    @property
    def scheme(self) -> str:
        """How levels are written as columns, as `Coding` has it."""
        assert self.coding is not None
        if self.coding.shape[0] == self.coding.shape[1] and (self.coding >= 0).all():
            return "one column for each level"
        return "sum" if (self.coding < 0).any() else "treatment"


@dataclass(frozen=True, eq=False)
class TermColumns:
    """A term and its columns in X."""

    name: str  # Intercept for that
    parts: Sequence[Part]
    columns: slice
    evaluate: Callable[["pd.DataFrame"], FloatArray]  # its columns for other rows

    @property
    def atoms(self) -> frozenset[str]:
        """Names of its parts."""
        return frozenset(part.name for part in self.parts)

    @property
    def variables(self) -> tuple[str, ...]:
        """Columns of the table that it is made of."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.variables))

    @property
    def size(self) -> int:
        """Its number of columns."""
        return int(self.columns.stop - self.columns.start)


class Coded(NamedTuple):
    """The columns of a list of terms."""

    X: FloatArray  # (n_rows, n_columns)
    names: list[str]
    terms: list[TermColumns]


def code_terms(side: Side, frame: "pd.DataFrame", scale: Scale) -> Coded:
    """Return the columns of terms.

    Parameters
    ----------
    side : Side
        Terms, checked.
    frame : DataFrame
        The columns that they need, without missing values; categorical ones are ordered.
    scale : Scale
        Of the frame.

    Raises
    ------
    InputError
        If a function cannot be evaluated, or gives no finite numbers.
    """
    try:
        model = Model(*(_make_term(term, side.atoms, scale) for term in side.terms))
        with np.errstate(all="ignore"):  # what is not finite is refused below
            model.eval(frame, Environment([NAMESPACE]))
    except (TypeError, ValueError, ArithmeticError, KeyError, IndexError) as error:
        raise refuse(
            "The formula cannot be evaluated with this table: {error}.  It has {terms}.",
            error=show(str(error)),
            terms=join_names(":".join(term) for term in side.terms if term),
        ) from error
    terms: list[TermColumns] = []
    blocks: list[FloatArray] = []
    names: list[str] = []
    for term in model.common_terms:
        block = _as_columns(term.data)
        _check_finite(block, term.name)
        if len(getattr(term, "components", ())) == 1 and term.kind == "numeric":
            _check_basis(block, term.name)
        start = len(names)
        names += list(term.labels)
        blocks.append(block)
        terms.append(
            TermColumns(
                term.name,
                [_read_part(part, side, scale) for part in getattr(term, "components", ())],
                slice(start, len(names)),
                partial(_evaluate, term),
            )
        )
    return Coded(np.hstack(blocks), names, terms)


def _evaluate(term: Intercept | Term, rows: "pd.DataFrame") -> FloatArray:
    """Return the columns of a term for other rows; transforms keep what they are made of."""
    return _as_columns(term.eval_new_data(rows))


def _make_term(term: Atoms, atoms: Mapping[str, Expr], scale: Scale) -> Intercept | Term:
    if not term:
        return Intercept()
    parts = [_make_part(atoms[atom], atom, scale) for atom in term]
    made = Term(parts[0])
    # Given to Term, splines would be refused in interactions: a penalty of theirs is not for these.
    made.components = parts
    made.name = ":".join(term)
    return made


def _make_part(expr: Expr, atom: str, scale: Scale) -> Variable | Call:
    if (name := name_of(expr)) is not None:
        return Variable(name)
    data, *settings = expr.args
    if is_categorical_call(expr):
        settings = [_as_text(setting) for setting in settings]
    call = CallExpr(expr.callee, [_as_numbers(data, scale), *settings])
    part = _NamedCall(CallResolver(call).resolve())
    part.name = atom  # formulae's own has no parentheses within
    return part


class _NamedCall(Call):
    """Formulae's, which cannot compare a call with what is none."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _NamedCall) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def _as_text(expr: Expr) -> Expr:
    """Return a setting with numbers that stand for levels as text, as which levels are known."""
    if isinstance(expr, Literal):
        return Literal(label(expr.value))
    if isinstance(expr, Assign):
        return Assign(expr.name, _as_text(expr.value))
    if isinstance(expr, CallExpr):
        return CallExpr(expr.callee, [_as_text(each) for each in expr.args])
    return expr


def _as_numbers(expr: Expr, scale: Scale) -> Expr:
    """Return arithmetic with floats, as powers of whole numbers may never end.

    What is compared with levels stays text, or becomes it.
    """
    if isinstance(expr, Literal):
        return Literal(float(expr.value)) if type(expr.value) is int else expr
    if isinstance(expr, Grouping):
        return _as_numbers(expr.expression, scale)
    if isinstance(expr, Unary):
        return Unary(expr.operator, _as_numbers(expr.right, scale))
    if isinstance(expr, Binary):
        sides = [strip(expr.left), strip(expr.right)]
        is_of_levels = any(name_of(side) in scale.levels for side in sides)
        left, right = (_as_text(s) if is_of_levels else _as_numbers(s, scale) for s in sides)
        return Binary(left, expr.operator, right)
    if isinstance(expr, CallExpr):
        return CallExpr(expr.callee, [_as_numbers(each, scale) for each in expr.args])
    return expr


def _read_part(part: Variable | Call, side: Side, scale: Scale) -> Part:
    expr = side.atoms[part.name]
    variables = tuple(dict.fromkeys(list_columns(expr)))
    levels = coding = None
    if part.kind == "categoric":
        levels = [str(level) for level in part.levels]
        coding = np.asarray(part.contrast_matrix.matrix, float)
        center = coding.mean(axis=0)
    else:
        with np.errstate(all="ignore"):
            values = _as_columns(part.eval_new_data(scale.combine_levels(variables)))
        center = values.mean(axis=0)
    return Part(part.name, variables, list(part.labels), levels, coding, center)


def _as_columns(values: object) -> FloatArray:
    array = np.asarray(values, float)
    return array[:, None] if array.ndim == 1 else array


def _check_finite(block: FloatArray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if bad.size:
        raise refuse(
            "The formula's {name} is no finite number in {n} of {total} rows, first in row "
            "{first}; check the column's range there, such as zeros under a logarithm.",
            name=name,
            n=bad.size,
            total=len(block),
            first=bad[0] + 1,
        )


def _check_basis(block: FloatArray, name: str) -> None:
    """Refuse a curve with more columns than its data have different values for."""
    n_columns = block.shape[1]
    if n_columns > 1 and np.linalg.matrix_rank(block - block.mean(axis=0)) < n_columns:
        n_values = len(np.unique(block, axis=0))
        raise refuse(
            "The formula's {name} has {n} columns that depend on each other, as its data have "
            "{values} different values; give it fewer columns.",
            name=name,
            n=n_columns,
            values=n_values,
        )
