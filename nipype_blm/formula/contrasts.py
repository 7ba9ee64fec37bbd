"""Contrasts of a design: combinations of coefficients, marginal means, and tests of terms."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError, Problem, Problems, show
from nipype_blm.formula.coding import Part, TermColumns
from nipype_blm.formula.coefficients import Coefficients, unquote
from nipype_blm.formula.design import Design
from nipype_blm.formula.expressions import (
    CONTRASTS,
    Equation,
    Function,
    Node,
    Number,
    Operation,
    Reference,
    parse_expression,
)
from nipype_blm.formula.margins import Margins, round_weights
from nipype_blm.formula.words import join_names, refuse
from nipype_blm.model.contrasts import Contrast

_MOST_CONTRASTS = 200  # of one expression

# Contrasts of weights, and expressions behind their names.
Given = Sequence[Contrast | tuple[str | None, str]]


class Rows(NamedTuple):
    """What part of an expression comes to."""

    weights: FloatArray  # (q, n_params); q = 0: it is a number
    constant: float = 0.0
    labels: Sequence[str] = ()  # of several contrasts, one for each row; else (), one in q rows


class Explained(NamedTuple):
    """Contrasts, and what is to be known of them."""

    contrasts: list[Contrast]
    notices: list[Problem]


def make_contrasts(design: Design, given: Given | None = None) -> Explained:
    """Return contrasts of a design, and notices of what they hold for.

    An expression is a linear combination of coefficients, such as ``age`` or
    ``2*age - session[2]/3``.  The coefficient of a level without a column follows from how
    levels are coded: 0 for a reference, minus the sum of the others for Sum.  Several with
    commas between, or a term of several columns such as ``site``, are tested together (F).
    ``a = b`` is ``a - b``.  There are three functions:

    * ``emm(session[2])`` is the mean of a level as R's emmeans has it: over all combinations
      of levels of the other categorical columns, with equal weight, and numeric columns (also
      those with two values only) at their means over the rows of the design.  ``emm(session)``
      is a contrast for each level, and ``emm(1)`` the mean over all.
    * ``pairs(site)`` are all differences of these means, a later level minus an earlier one.
    * ``main(sex)`` is the test of a term that takes part in interactions (type III): levels of
      other columns have equal weight, and numeric ones are at their means.

    By default, each term has one: its joint test if no interaction contains it, else
    ``main()``.  Designs that lack an intercept, or terms that their interactions are made of,
    have one for each coefficient.

    Parameters
    ----------
    design : Design
    given : sequence of Contrast or (str or None, str), optional
        A name (by default the expression) and an expression for each; or a contrast, which stays.

    Raises
    ------
    InputError
        With a problem for each expression that cannot be used.
    """
    if given is None:
        return _make_defaults(design)
    problems, contrasts, notices = Problems(), [], []
    coefficients, margins = Coefficients(design), Margins(design)
    for each in given:
        if isinstance(each, Contrast):
            contrasts.append(each)
            continue
        name, expression = each
        text = " ".join(expression.split())
        maker = _Maker(design, coefficients, margins)
        try:
            contrasts += maker.make(name, text)
        except InputError as error:
            for problem in error.problems:
                template = f"The contrast {{text}} {problem.template}"
                problems.add(problem.field, template, **{**problem.values, "text": show(text)})
        else:
            notices += _note_conditions(design, maker.used, text)
    if problems:
        raise InputError(problems)
    return Explained(contrasts, notices)


def _make_defaults(design: Design) -> Explained:
    terms = [term for term in design.terms if term.parts]
    names = design.X.names
    if not terms:
        return Explained([Contrast("mean", np.eye(1)[0])], [])
    if not design.is_hierarchical:
        notice = Problem(
            CONTRASTS,
            "The formula has no intercept, or an interaction without the terms that it is made "
            "of, so that there is a contrast for each coefficient; give others if these are "
            "not meant.",
        )
        rows = zip(names, np.eye(len(names)), strict=True)
        return Explained(
            [Contrast(name, row) for name, row in rows if name != "Intercept"], [notice]
        )
    coefficients, margins = Coefficients(design), Margins(design)
    contrasts = []
    for term in terms:
        if any(term.atoms < other.atoms for other in terms):
            contrasts.append(_finish(f"main({term.name})", margins.find_main(term.atoms)))
        else:
            contrasts.append(_finish(term.name, coefficients.find_columns(term)))
    return Explained(contrasts, [])


def _finish(name: str, weights: FloatArray) -> Contrast:
    """Return a T contrast of one row, or an F contrast of several."""
    return Contrast(name, weights[0] if len(weights) == 1 else weights)


class _Maker:
    """Makes the contrasts of one expression; faults are told without "The contrast ..."."""

    def __init__(self, design: Design, coefficients: Coefficients, margins: Margins) -> None:
        self._n_params = len(design.X.names)
        self._coefficients = coefficients
        self._margins = margins
        self.used: list[TermColumns] = []  # terms whose coefficients are named
        self._zeros: list[Reference] = []  # coefficients that are zero

    def make(self, name: str | None, text: str) -> list[Contrast]:
        """Return the contrasts of an expression."""
        if (column := self._coefficients.find_column(text)) is not None:
            self.used.append(column.term)
            return [_finish(name or text, column.weights)]
        equations = parse_expression(text)
        parts = [self._evaluate(equation.node) for equation in equations]
        for equation, part in zip(equations, parts, strict=True):
            self._check_part(equation, part, n_parts=len(parts))
        [first, *others] = parts
        if first.labels:
            names = [f"{name} {label}" if name else label for label in first.labels]
            return [Contrast(*each) for each in zip(names, first.weights, strict=True)]
        weights = np.vstack([first.weights, *(part.weights for part in others)])
        return [_finish(name or text, weights)]

    def _check_part(self, equation: Equation, part: Rows, n_parts: int) -> None:
        if part.constant or not len(part.weights):
            raise refuse(
                "has the number {constant:g} left over in {part}; give a combination of "
                "coefficients only, that is tested to be 0.",
                CONTRASTS,
                constant=part.constant,
                part=show(equation.text),
            )
        if part.labels and n_parts > 1:
            raise refuse(
                "joins {part}, which is several contrasts, with others; give it alone, or "
                "main() for a joint test.",
                CONTRASTS,
                part=show(equation.text),
            )
        if not part.weights.any(axis=1).all():
            raise self._refuse_zeros(equation)

    def _refuse_zeros(self, equation: Equation) -> InputError:
        for atom in (atom for reference in self._zeros for atom in reference.atoms):
            part = self._coefficients.find_part(atom)
            if part is not None and atom.level and part.reference == unquote(atom.level):
                return refuse(
                    "comes to zeros: {level} is the reference of {variable}, whose coefficient "
                    "is 0; emm({variable}[{level}]) is its mean.",
                    CONTRASTS,
                    level=part.reference,
                    variable=part.variables[0],
                )
        return refuse(
            "comes to zeros in {part}, which tests nothing; give weights that differ from 0.",
            CONTRASTS,
            part=show(equation.text),
        )

    def _evaluate(self, node: Node) -> Rows:
        # A long sum leans to the left; only parentheses, which are few, are followed down.
        operations = []
        while isinstance(node, Operation):
            operations.append(node)
            node = node.left
        rows = self._read(node)
        for operation in reversed(operations):
            rows = self._operate(operation.sign, rows, self._evaluate(operation.right))
        return rows

    def _read(self, node: Reference | Function | Number) -> Rows:
        if isinstance(node, Number):
            return Rows(np.empty((0, self._n_params)), node.value)
        if isinstance(node, Function):
            return self._call(node)
        found = self._coefficients.find(node)
        self.used.append(found.term)
        if not found.weights.any():
            self._zeros.append(node)
        return Rows(found.weights)

    def _operate(self, sign: str, left: Rows, right: Rows) -> Rows:
        if sign == "-" and not len(right.weights) and not right.constant:
            return left  # such as site = 0
        if any(len(side.weights) > 1 or side.labels for side in (left, right)):
            raise refuse(
                "calculates with what has several coefficients or means; name a level, such as "
                "site[b] or emm(site[b]), or give it alone.",
                CONTRASTS,
            )
        if sign in "+-":
            factor = 1.0 if sign == "+" else -1.0
            weights = np.vstack([left.weights, factor * right.weights])
            if len(weights):
                weights = weights.sum(axis=0, keepdims=True)
            return Rows(weights, left.constant + factor * right.constant)
        return _multiply(sign, left, right)

    def _call(self, node: Function) -> Rows:
        atoms = () if node.argument is None else node.argument.atoms
        if node.name == "main" and node.argument is not None:
            if any(atom.level is not None for atom in atoms):
                raise refuse(
                    "has a level in {call}; leave the level out for the test of all, or write "
                    "emm() for the mean of one.",
                    CONTRASTS,
                    call=node.text,
                )
            return Rows(self._margins.find_main(self._coefficients.find_atoms(node.argument)))
        choices = [self._coefficients.find_levels(atom) for atom in atoms]
        n_means = int(np.prod([float(len(levels)) for _, levels in choices]))
        is_pairs = node.name == "pairs"
        n_contrasts = n_means * (n_means - 1) // 2 if is_pairs else n_means
        if n_contrasts > _MOST_CONTRASTS:
            raise refuse(
                "stands for {n:,} contrasts, and {most} is the most; give those of interest.",
                CONTRASTS,
                n=n_contrasts,
                most=_MOST_CONTRASTS,
            )
        names = [name for name, _ in choices]
        points = [
            dict(zip(names, levels, strict=True))
            for levels in product(*(levels for _, levels in choices))
        ]
        means = np.array([self._margins.find_mean(point) for point in points])
        labels = [_label_mean(point) for point in points]
        if is_pairs:
            return _subtract_pairs(node, means, labels)
        return Rows(means) if n_means == 1 else Rows(means, labels=labels)


def _label_mean(point: Mapping[str, str]) -> str:
    return f"emm({':'.join(f'{name}[{level}]' for name, level in point.items())})"


def _subtract_pairs(node: Function, means: FloatArray, labels: Sequence[str]) -> Rows:
    pairs = list(combinations(range(len(means)), 2))
    if not pairs:
        raise refuse(
            "has one level only in {call}; name what has several, such as pairs(site).",
            CONTRASTS,
            call=node.text,
        )
    differences = round_weights(np.array([means[b] - means[a] for a, b in pairs]))
    return Rows(differences, labels=[f"{labels[b]} - {labels[a]}" for a, b in pairs])


def _multiply(sign: str, left: Rows, right: Rows) -> Rows:
    if len(right.weights) and (sign == "/" or len(left.weights)):
        raise refuse(
            "is not linear: it multiplies or divides by a coefficient; give sums of coefficients "
            "times numbers, and a:b for that of an interaction.",
            CONTRASTS,
        )
    if sign == "*":
        scaled, factor = (right, left.constant) if len(right.weights) else (left, right.constant)
        return Rows(scaled.weights * factor, scaled.constant * factor)
    if right.constant == 0:
        raise refuse("divides by 0; give another number.", CONTRASTS)
    return Rows(left.weights / right.constant, left.constant / right.constant)


def _note_conditions(design: Design, terms: Sequence[TermColumns], text: str) -> list[Problem]:
    """Say where a contrast holds, if it has terms of interactions without these."""
    used = {term.atoms for term in terms}
    for term in terms:
        larger = [other for other in design.terms if term.parts and term.atoms < other.atoms]
        if any(other.atoms in used for other in larger):
            continue
        others = {p.name: p for o in larger for p in o.parts if p.name not in term.atoms}
        where = [condition for p in others.values() if (condition := _describe_zero(p))]
        if where:
            return [
                Problem(
                    CONTRASTS,
                    "The contrast {text} holds where {where}; main({term}) averages over that.",
                    text=show(text),
                    term=term.name,
                    where=join_names(where),
                )
            ]
    return []


def _describe_zero(part: Part) -> str:
    """Return where the columns of a part are zero; nothing where that is their average."""
    if part.levels is None:
        return f"{part.name} is 0"
    return "" if part.reference is None else f"{part.variables[0]} is {part.reference}"
