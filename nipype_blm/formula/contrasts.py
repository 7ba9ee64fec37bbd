"""Contrasts of a design: combinations of coefficients, marginal means, and tests of terms."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import scipy.linalg

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError, Problem, Problems, show
from nipype_blm.formula.coding import Part, TermColumns
from nipype_blm.formula.design import Design
from nipype_blm.formula.expressions import (
    Atom,
    Equation,
    Function,
    Node,
    Number,
    Operation,
    Reference,
    parse_expression,
    simplify,
)
from nipype_blm.formula.words import join_names, refuse, suggest
from nipype_blm.model.contrasts import Contrast

_FIELD = "contrasts"
_MOST_CONTRASTS = 200  # of one expression
_ROUNDING = 1e-12  # relative to the largest weight

Given = Sequence[tuple[str | None, str]]


class Rows(NamedTuple):
    """What part of an expression comes to."""

    weights: FloatArray  # (q, n_params); q = 0: it is a number
    constant: float = 0.0
    labels: Sequence[str] = ()  # of several contrasts, one for each row; else (), one in q rows


class Explained(NamedTuple):
    """Contrasts, and what is to be known of them."""

    contrasts: list[Contrast]
    notices: list[Problem]


def make_contrasts(design: Design, given: Given | None = None) -> list[Contrast]:
    """Return contrasts of a design, see `explain_contrasts`."""
    return explain_contrasts(design, given).contrasts


def explain_contrasts(design: Design, given: Given | None = None) -> Explained:
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
    given : sequence of (str or None, str), optional
        A name (by default the expression) and an expression for each.

    Raises
    ------
    InputError
        With a problem for each expression that cannot be used.
    """
    if given is None:
        return _make_defaults(design)
    problems, contrasts, notices = Problems(), [], []
    maker = _Maker(design)
    for name, expression in given:
        try:
            made = maker.make(name, expression)
        except InputError as error:
            problems.extend(error.problems)
            continue
        contrasts += made.contrasts
        notices += made.notices
    if problems:
        raise InputError(problems)
    return Explained(contrasts, notices)


def _make_defaults(design: Design) -> Explained:
    maker = _Maker(design)
    terms = [term for term in design.terms if term.parts]
    if not terms:
        return Explained([Contrast("mean", np.eye(1)[0])], [])
    if not design.is_hierarchical:
        names = [name for name in design.X.names if name != "Intercept"]
        notice = Problem(
            _FIELD,
            "The formula has no intercept, or an interaction without the terms that it is made "
            "of, so that there is a contrast for each coefficient; give others if these are "
            "not meant.",
        )
        weights = dict(zip(design.X.names, np.eye(len(design.X.names)), strict=True))
        return Explained([Contrast(name, weights[name]) for name in names], [notice])
    contrasts = []
    for term in terms:
        if any(term.atoms < other.atoms for other in terms):
            contrasts.append(_finish(f"main({term.name})", maker.find_main(term.atoms)))
        else:
            contrasts.append(_finish(term.name, maker.find_columns(term)))
    return Explained(contrasts, [])


def _finish(name: str, weights: FloatArray) -> Contrast:
    """Return a T contrast of one row, or an F contrast of several."""
    return Contrast(name, weights[0] if len(weights) == 1 else weights)


class _Maker:
    """Makes contrasts of one design; grids are evaluated once."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.names = list(design.X.names)
        self.grids: dict[str, tuple[Mapping[str, list[str]], FloatArray]] = {}
        self.used: list[TermColumns] = []  # terms whose coefficients an expression names
        self.zeros: list[Reference] = []  # coefficients that are zero

    def make(self, name: str | None, expression: str) -> Explained:
        """Return the contrasts of one expression."""
        self.used, self.zeros = [], []
        text = " ".join(expression.split())
        if simplify(text) in ("1", "(1)"):
            equations = [Equation("Intercept", Reference("Intercept", (Atom("Intercept"),)))]
        elif (column := self._find_label(text)) is not None:
            self._note_column(column)
            return self._finish_one(name or text, text, np.eye(len(self.names))[[column]])
        else:
            equations = parse_expression(expression)
        parts = [self._evaluate(equation.node, text) for equation in equations]
        for equation, part in zip(equations, parts, strict=True):
            self._check_part(equation, part, text, n_parts=len(parts))
        if parts[0].labels:
            return self._finish_several(name, text, parts[0])
        return self._finish_one(name or text, text, np.vstack([part.weights for part in parts]))

    def _finish_one(self, name: str, text: str, weights: FloatArray) -> Explained:
        return Explained([_finish(name, weights)], self._note_conditions(text))

    def _finish_several(self, name: str | None, text: str, rows: Rows) -> Explained:
        if len(rows.labels) > _MOST_CONTRASTS:
            raise refuse(
                "The contrast {text} stands for {n:,} contrasts, and {most} is the most; give "
                "those that are of interest.",
                _FIELD,
                text=show(text),
                n=len(rows.labels),
                most=_MOST_CONTRASTS,
            )
        names = [f"{name} {label}" if name else label for label in rows.labels]
        return Explained(
            [Contrast(each, row) for each, row in zip(names, rows.weights, strict=True)], []
        )

    def _check_part(self, equation: Equation, part: Rows, text: str, n_parts: int) -> None:
        if part.constant or not len(part.weights):
            raise refuse(
                "The contrast {text} has the number {constant:g} left over in {part}; give a "
                "combination of coefficients only, that is tested to be 0.",
                _FIELD,
                text=show(text),
                constant=part.constant,
                part=show(equation.text),
            )
        if part.labels and n_parts > 1:
            raise refuse(
                "The contrast {text} joins {part}, which is several contrasts, with others; give "
                "it alone, or main() for a joint test.",
                _FIELD,
                text=show(text),
                part=show(equation.text),
            )
        if not part.weights.any(axis=1).all():
            raise self._refuse_zero(equation, text)

    def _refuse_zero(self, equation: Equation, text: str) -> InputError:
        for reference in self.zeros:
            for atom in reference.atoms:
                part = self._find_part(atom)
                if part is not None and atom.level and part.reference == _unquote(atom.level):
                    return refuse(
                        "The contrast {text} comes to zeros: {level} is the reference of "
                        "{variable}, whose coefficient is 0; emm({variable}[{level}]) is its mean.",
                        _FIELD,
                        text=show(text),
                        level=_unquote(atom.level),
                        variable=part.variables[0],
                    )
        return refuse(
            "The contrast {text} comes to zeros in {part}; nothing is tested.",
            _FIELD,
            text=show(text),
            part=show(equation.text),
        )

    # What an expression comes to.

    def _evaluate(self, node: Node, text: str) -> Rows:
        if isinstance(node, Number):
            return Rows(np.empty((0, len(self.names))), node.value)
        if isinstance(node, Reference):
            return Rows(self._find_reference(node, text))
        if isinstance(node, Function):
            return self._call(node, text)
        return self._operate(node, text)

    def _operate(self, node: Operation, text: str) -> Rows:
        left, right = self._evaluate(node.left, text), self._evaluate(node.right, text)
        is_zero = node.sign == "-" and not len(right.weights) and not right.constant
        if is_zero:  # such as site = 0
            return left
        for side in (left, right):
            if len(side.weights) > 1 or side.labels:
                raise refuse(
                    "The contrast {text} calculates with what has several coefficients or means; "
                    "name a level, such as site[b] or emm(site[b]), or give it alone.",
                    _FIELD,
                    text=show(text),
                )
        if node.sign in "+-":
            factor = 1.0 if node.sign == "+" else -1.0
            stacked = np.vstack([left.weights, factor * right.weights])
            weights = stacked.sum(axis=0, keepdims=True) if len(stacked) else stacked
            return Rows(weights, left.constant + factor * right.constant)
        return self._multiply(node, left, right, text)

    def _multiply(self, node: Operation, left: Rows, right: Rows, text: str) -> Rows:
        if len(right.weights) and (node.sign == "/" or len(left.weights)):
            raise refuse(
                "The contrast {text} is not linear: it multiplies or divides by a coefficient; "
                "give sums of coefficients times numbers, and a:b for that of an interaction.",
                _FIELD,
                text=show(text),
            )
        if node.sign == "*":
            return Rows(
                right.weights * left.constant
                if len(right.weights)
                else left.weights * right.constant,
                left.constant * right.constant,
            )
        if right.constant == 0:
            raise refuse("The contrast {text} divides by 0.", _FIELD, text=show(text))
        return Rows(left.weights / right.constant, left.constant / right.constant)

    def _call(self, node: Function, text: str) -> Rows:
        if node.name == "main":
            assert node.argument is not None
            atoms = self._find_atoms(node.argument, text)
            return Rows(self.find_main(atoms))
        combos = self._list_combinations(node, text)
        weights = np.array([self._find_mean(combo) for combo in combos])
        texts = [":".join(f"{name}[{level}]" for name, level in c.items()) for c in combos]
        if node.name == "pairs":
            pairs = list(combinations(range(len(combos)), 2))
            if not pairs:
                raise refuse(
                    "The contrast {text} has one level only in {call}; name what has several, "
                    "such as pairs(site).",
                    _FIELD,
                    text=show(text),
                    call=node.text,
                )
            differences = np.array([weights[b] - weights[a] for a, b in pairs])
            labels = [f"emm({texts[b]}) - emm({texts[a]})" for a, b in pairs]
            return Rows(_round(differences), labels=labels)
        if len(combos) == 1:
            return Rows(weights)
        return Rows(weights, labels=[f"emm({each})" for each in texts])

    # Coefficients.

    def find_columns(self, term: TermColumns) -> FloatArray:
        """Return a row for each coefficient of a term."""
        return np.eye(len(self.names))[term.columns]

    def _find_label(self, text: str) -> int | None:
        """Return the column of X with a name, if there is one."""
        if text in self.names:
            return self.names.index(text)
        simple = [simplify(name) for name in self.names]
        if text == "(Intercept)":
            text = "Intercept"
        return simple.index(simplify(text)) if simple.count(simplify(text)) == 1 else None

    def _note_column(self, column: int) -> None:
        self.used += [t for t in self.design.terms if t.columns.start <= column < t.columns.stop]

    def _find_reference(self, reference: Reference, text: str) -> FloatArray:
        column = self._find_label(reference.text)
        if column is not None:
            self._note_column(column)
            return np.eye(len(self.names))[[column]]
        term, atoms = self._find_term(reference, text)
        self.used.append(term)
        blocks = [self._find_weights(part, atoms[part.name], text) for part in term.parts]
        weights = np.zeros((int(np.prod([len(block) for block in blocks])), len(self.names)))
        weights[:, term.columns] = reduce(np.kron, blocks)
        if not weights.any():
            self.zeros.append(reference)
        return weights

    def _find_term(self, reference: Reference, text: str) -> tuple[TermColumns, dict[str, Atom]]:
        """Return the term that is named, and which atom names which of its parts."""
        for is_short in (False, True):
            found = []
            for term in self.design.terms:
                atoms = _match(reference.atoms, term.parts, is_short=is_short)
                if len(term.parts) == len(reference.atoms) and atoms is not None:
                    found.append((term, atoms))
            if len(found) == 1:
                return found[0]
            if found:
                raise self._refuse_ambiguous(reference, [term.name for term, _ in found], text)
        raise self._refuse_unknown(reference, text)

    def _refuse_ambiguous(self, reference: Reference, names: list[str], text: str) -> InputError:
        return refuse(
            "The contrast {text} has {name}, which may be each of {names}; give the whole name.",
            _FIELD,
            text=show(text),
            name=show(reference.text),
            names=join_names(names),
        )

    def _refuse_unknown(self, reference: Reference, text: str) -> InputError:
        terms = [term.name for term in self.design.terms if term.size > 1]
        known = [*self.names, *terms]
        return refuse(
            "The contrast {text} has {name}, which is no coefficient and no term{near}; there are "
            "{known}.",
            _FIELD,
            text=show(text),
            name=show(reference.text),
            near=suggest(reference.text, known),
            known=join_names(known),
        )

    def _find_weights(self, part: Part, atom: Atom, text: str) -> FloatArray:
        """Return the weights of a part's columns, a row for each coefficient that is meant."""
        n_columns = len(part.labels)
        if atom.level is None:
            return np.eye(n_columns)
        level = _unquote(atom.level)
        if part.levels is None or part.coding is None:
            label = f"{part.name}[{level}]"
            if label not in part.labels:
                raise refuse(
                    "The contrast {text} has {label}, but {name} is numeric{columns}.",
                    _FIELD,
                    text=show(text),
                    label=show(f"{atom.name}[{atom.level}]"),
                    name=part.name,
                    columns=f", with columns {join_names(part.labels)}" if n_columns > 1 else "",
                )
            return np.eye(n_columns)[[part.labels.index(label)]]
        row = part.coding[[self._find_level(part, level, text)]]
        if part.scheme == "sum" and n_columns == len(part.levels):
            row = row * (np.arange(n_columns) > 0)  # the first column is their mean
        return row

    def _find_level(self, part: Part, level: str, text: str) -> int:
        assert part.levels is not None
        if level not in part.levels:
            raise refuse(
                "The contrast {text} has {level} as a level of {variable}{near}; its levels are "
                "{known}.",
                _FIELD,
                text=show(text),
                level=show(level),
                variable=part.variables[0],
                near=suggest(level, part.levels),
                known=join_names(part.levels),
            )
        return part.levels.index(level)

    # Marginal means.

    def _list_combinations(self, node: Function, text: str) -> list[dict[str, str]]:
        """Return the levels of each mean that a call stands for."""
        choices: list[list[tuple[str, str]]] = []
        for atom in () if node.argument is None else node.argument.atoms:
            name = self._find_categorical(atom, text)
            levels = [str(level) for level in self.design.scale.levels[name]]
            if atom.level is not None:
                level = _unquote(atom.level)
                part = Part(name, (name,), [], levels, None, np.empty(0))
                levels = [levels[self._find_level(part, level, text)]]
            choices.append([(name, level) for level in levels])
        n_combos = int(np.prod([len(each) for each in choices]))
        if n_combos > _MOST_CONTRASTS:
            raise refuse(
                "The contrast {text} has {n:,} means, and {most} is the most; give those that "
                "are of interest.",
                _FIELD,
                text=show(text),
                n=n_combos,
                most=_MOST_CONTRASTS,
            )
        return [dict(combo) for combo in product(*choices)]

    def _find_categorical(self, atom: Atom, text: str) -> str:
        """Return the column of the table with levels that is named."""
        levels = self.design.scale.levels
        part = self._find_part(atom)
        for name in (atom.name, *(part.variables if part and part.levels else ())):
            if name in levels:
                return name
        raise refuse(
            "The contrast {text} has a mean of {name}, which is no categorical column of the fixed "
            "effects{near}; there are {known}.",
            _FIELD,
            text=show(text),
            name=show(atom.name),
            near=suggest(atom.name, list(levels)),
            known=join_names(levels),
        )

    def _find_mean(self, levels: Mapping[str, str]) -> FloatArray:
        """Return the weights of the mean where columns have these levels."""
        weights = np.zeros(len(self.names))
        for term in self.design.terms:
            grid, values = self._evaluate_grid(term)
            chosen = np.ones(len(values), bool)
            for name, level in levels.items():
                if name in grid:
                    chosen &= np.array(grid[name]) == level
            weights[term.columns] = values[chosen].mean(axis=0)
        return weights

    def _evaluate_grid(self, term: TermColumns) -> tuple[Mapping[str, list[str]], FloatArray]:
        """Return all combinations of levels of a term's columns, and its columns of X there."""
        if term.name not in self.grids:
            rows = self.design.scale.make_grid(term.variables)
            levels = {
                name: [str(level) for level in rows[name]]
                for name in term.variables
                if name in self.design.scale.levels
            }
            self.grids[term.name] = levels, term.evaluate(rows)
        return self.grids[term.name]

    # Tests of terms.

    def find_main(self, atoms: frozenset[str]) -> FloatArray:
        """Return the weights of the type III test of a term.

        Levels of the term are compared with its first ones, and its numeric parts have their
        slopes.  The other parts of interactions are averaged: levels with equal weight, and
        numbers at their means.
        """
        blocks = {}
        for term in self.design.terms:
            if atoms <= term.atoms:
                factors = [_compare(p) if p.name in atoms else p.center[None] for p in term.parts]
                blocks[term.name] = term.columns, reduce(np.kron, factors)
        n_rows = len(next(iter(blocks.values()))[1])
        weights = np.zeros((n_rows, len(self.names)))
        for columns, block in blocks.values():
            weights[:, columns] = block
        return _drop_dependent(_round(weights))

    def _find_atoms(self, reference: Reference, text: str) -> frozenset[str]:
        """Return the names of parts that a reference names, which a term has to contain."""
        for atom in reference.atoms:
            if atom.level is not None:
                raise refuse(
                    "The contrast {text} has a level in main(); write main({name}) for the test of "
                    "all levels, and emm() for the mean of one.",
                    _FIELD,
                    text=show(text),
                    name=atom.name,
                )
        for is_short in (False, True):
            found = {
                frozenset(atoms)
                for term in self.design.terms
                if (atoms := _match(reference.atoms, term.parts, is_short=is_short)) is not None
            }
            if len(found) == 1:
                return found.pop()
            if found:
                names = [":".join(sorted(each)) for each in found]
                raise self._refuse_ambiguous(reference, names, text)
        raise self._refuse_unknown(reference, text)

    def _find_part(self, atom: Atom) -> Part | None:
        """Return the first part that an atom names."""
        parts = [part for term in self.design.terms for part in term.parts]
        for is_short in (False, True):
            for part in parts:
                if _is_named(part, atom, is_short=is_short):
                    return part
        return None

    # What is to be known.

    def _note_conditions(self, text: str) -> list[Problem]:
        """Say where a contrast holds, if it has terms of interactions without these."""
        used = {term.atoms for term in self.used}
        for term in self.used:
            larger = [o for o in self.design.terms if term.parts and term.atoms < o.atoms]
            if not larger or any(other.atoms in used for other in larger):
                continue
            others = {p.name: p for o in larger for p in o.parts if p.name not in term.atoms}
            where = [condition for p in others.values() if (condition := _describe_zero(p))]
            if where:
                return [
                    Problem(
                        _FIELD,
                        "The contrast {text} is the effect of {term} where {where}; "
                        "main({term}) is that on average.",
                        text=show(text),
                        term=term.name,
                        where=join_names(where),
                    )
                ]
        return []


def _unquote(level: str) -> str:
    is_quoted = len(level) > 1 and level[0] == level[-1] and level[0] in "\"'"
    return level[1:-1] if is_quoted else level


def _is_named(part: Part, atom: Atom, *, is_short: bool) -> bool:
    """Whether an atom names a part: by its name, or by that of its only column (short)."""
    if is_short:
        return part.variables == (atom.name,)
    return simplify(part.name) == simplify(atom.name)


def _match(
    atoms: Iterable[Atom], parts: Sequence[Part], *, is_short: bool
) -> dict[str, Atom] | None:
    """Return which atom names which part, in any order; None if one names none."""
    matched: dict[str, Atom] = {}
    for atom in atoms:
        exact = [p for p in parts if _is_named(p, atom, is_short=False)]
        short = [p for p in parts if is_short and _is_named(p, atom, is_short=True)]
        free = [part for part in exact or short if part.name not in matched]
        if len(free) != 1:
            return None
        matched[free[0].name] = atom
    return matched


def _describe_zero(part: Part) -> str:
    """Return where the columns of a part are zero; nothing where that is their average."""
    if part.levels is None:
        return f"{part.name} is 0"
    return "" if part.reference is None else f"{part.variables[0]} is {part.reference}"


def _compare(part: Part) -> FloatArray:
    """Return weights of a part's columns: each level minus the first, or each column."""
    if part.coding is None:
        return np.eye(len(part.labels))
    return part.coding[1:] - part.coding[:1]


def _round(weights: FloatArray) -> FloatArray:
    """Return weights with those that are rounding only as zeros."""
    largest = np.abs(weights).max(initial=0.0)
    return np.where(np.abs(weights) <= _ROUNDING * largest, 0.0, weights)


def _drop_dependent(weights: FloatArray) -> FloatArray:
    """Return rows that span the same, and do not depend on each other."""
    rank = int(np.linalg.matrix_rank(weights))
    if rank == len(weights):
        return weights
    _, _, order = scipy.linalg.qr(weights.T, mode="economic", pivoting=True)
    return weights[np.sort(order[:rank])]
