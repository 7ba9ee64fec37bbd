"""Which coefficients and terms of a design are meant by a name, and their weights."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError, show
from nipype_blm.formula.coding import Part, TermColumns
from nipype_blm.formula.design import Design
from nipype_blm.formula.expressions import CONTRASTS, Atom, Reference, simplify
from nipype_blm.formula.margins import multiply_out
from nipype_blm.formula.words import join_names, refuse, suggest

T = TypeVar("T")


class Found(NamedTuple):
    """What a name stands for."""

    weights: FloatArray  # (q, n_params), a row for each coefficient
    term: TermColumns


class Coefficients:
    """The names in a design; what messages say of them begins with "The contrast ..."."""

    def __init__(self, design: Design) -> None:
        self._design = design
        self._names = list(design.X.names)
        self._simple = [simplify(name) for name in self._names]

    def find_column(self, text: str) -> Found | None:
        """Return the column of X that has a name, if there is one."""
        text = "Intercept" if simplify(text) in ("1", "(Intercept)") else text
        if text in self._names:
            column = self._names.index(text)
        elif self._simple.count(simplify(text)) == 1:
            column = self._simple.index(simplify(text))
        else:
            return None
        terms = (t for t in self._design.terms if t.columns.start <= column < t.columns.stop)
        return Found(np.eye(len(self._names))[[column]], next(terms))

    def find_columns(self, term: TermColumns) -> FloatArray:
        """Return a row for each coefficient of a term."""
        return np.eye(len(self._names))[term.columns]

    def find(self, reference: Reference) -> Found:
        """Return what a coefficient or a term stands for.

        Raises
        ------
        InputError
            If it is none, or may be several.
        """
        if (column := self.find_column(reference.text)) is not None:
            return column
        term, atoms = self._find_term(reference)
        blocks = [_find_weights(part, atoms[part.name]) for part in term.parts]
        weights = np.zeros((int(np.prod([len(block) for block in blocks])), len(self._names)))
        weights[:, term.columns] = multiply_out(blocks)
        return Found(weights, term)

    def _find_term(self, reference: Reference) -> tuple[TermColumns, dict[str, Atom]]:
        """Return the term that is named, and which atom names which of its parts."""

        def find(is_short: bool) -> dict[str, tuple[TermColumns, dict[str, Atom]]]:
            same_size = (t for t in self._design.terms if len(t.parts) == len(reference.atoms))
            matches = ((t, _match(reference.atoms, t.parts, is_short)) for t in same_size)
            return {term.name: (term, atoms) for term, atoms in matches if atoms is not None}

        return self._find_one(reference, find)

    def find_atoms(self, reference: Reference) -> frozenset[str]:
        """Return the names of the parts that are named, which a term contains."""

        def find(is_short: bool) -> dict[str, frozenset[str]]:
            matches = (_match(reference.atoms, t.parts, is_short) for t in self._design.terms)
            return {":".join(atoms): frozenset(atoms) for atoms in matches if atoms is not None}

        return self._find_one(reference, find)

    def _find_one(self, reference: Reference, find: Callable[[bool], dict[str, T]]) -> T:
        """Return what has whole names; else what has those of columns, such as age in bs(age)."""
        for is_short in (False, True):
            found = find(is_short)
            if len(found) > 1:
                raise refuse(
                    "has {name}, which may be each of {names}; give the whole name.",
                    CONTRASTS,
                    name=show(reference.text),
                    names=join_names(found),
                )
            if found:
                return next(iter(found.values()))
        raise self._refuse_unknown(reference)

    def _refuse_unknown(self, reference: Reference) -> InputError:
        terms = [term.name for term in self._design.terms if term.size > 1]
        known = [*self._names, *terms]
        return refuse(
            "has {name}, which is no coefficient and no term{near}; there are {known}.",
            CONTRASTS,
            name=show(reference.text),
            near=suggest(reference.text, known),
            known=join_names(known),
        )

    def find_part(self, atom: Atom) -> Part | None:
        """Return the first part that an atom names."""
        parts = [part for term in self._design.terms for part in term.parts]
        named = [[p for p in parts if _is_named(p, atom, short)] for short in (False, True)]
        return next((part for found in named for part in found), None)

    def find_levels(self, atom: Atom) -> tuple[str, list[str]]:
        """Return the categorical column that an atom names, and the levels that are meant."""
        scale = self._design.scale
        part = self.find_part(atom)
        candidates = [atom.name, *(part.variables if part and part.levels else ())]
        name = next((name for name in candidates if name in scale.levels), None)
        if name is None:
            raise refuse(
                "asks for a mean of {name}, which is no categorical column of the fixed "
                "effects{near}; there are {known}.",
                CONTRASTS,
                name=show(atom.name),
                near=suggest(atom.name, list(scale.levels)),
                known=join_names(scale.levels),
            )
        levels = [str(level) for level in scale.levels[name]]
        if atom.level is None:
            return name, levels
        return name, [levels[_find_level(name, levels, unquote(atom.level))]]


def unquote(level: str) -> str:
    """Return a level without quotes around it."""
    is_quoted = len(level) > 1 and level[0] == level[-1] and level[0] in "\"'"
    return level[1:-1] if is_quoted else level


def _is_named(part: Part, atom: Atom, is_short: bool) -> bool:
    """Whether an atom names a part: by its name, or by that of its only column (short)."""
    if is_short:
        return part.variables == (atom.name,)
    return simplify(part.name) == simplify(atom.name)


def _match(atoms: Iterable[Atom], parts: Sequence[Part], is_short: bool) -> dict[str, Atom] | None:
    """Return which atom names which part, in any order; None if one names none."""
    matched: dict[str, Atom] = {}
    for atom in atoms:
        exact = [part for part in parts if _is_named(part, atom, False)]
        short = [part for part in parts if is_short and _is_named(part, atom, True)]
        free = [part for part in exact or short if part.name not in matched]
        if len(free) != 1:
            return None
        matched[free[0].name] = atom
    return {part.name: matched[part.name] for part in parts if part.name in matched}


def _find_weights(part: Part, atom: Atom) -> FloatArray:
    """Return the weights of a part's columns, a row for each coefficient that is meant."""
    n_columns = len(part.labels)
    if atom.level is None:
        return np.eye(n_columns)
    level = unquote(atom.level)
    if part.levels is None or part.coding is None:
        label = f"{part.name}[{level}]"
        if label not in part.labels:
            raise refuse(
                "has a level of {name}, {level}, but {name} is numeric; its columns are {labels}.",
                CONTRASTS,
                name=part.name,
                level=show(level),
                labels=join_names(part.labels),
            )
        return np.eye(n_columns)[[part.labels.index(label)]]
    row = part.coding[[_find_level(part.variables[0], part.levels, level)]]
    if part.scheme == "sum" and n_columns == len(part.levels):
        row = row * (np.arange(n_columns) > 0)  # the first column is the mean of all levels
    return row


def _find_level(name: str, levels: Sequence[str], level: str) -> int:
    if level not in levels and level[:2] in ("T.", "S."):
        level = level[2:]  # as patsy has it
    if level not in levels:
        raise refuse(
            "has {level} as a level of {name}{near}; its levels are {known}.",
            CONTRASTS,
            level=show(level),
            name=name,
            near=suggest(level, levels),
            known=join_names(levels),
        )
    return list(levels).index(level)
