"""Means of levels and tests of terms, over combinations of levels with equal weight."""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg

from nipype_blm.core.linalg import FloatArray
from nipype_blm.formula.coding import Part, TermColumns
from nipype_blm.formula.design import Design

_ROUNDING = 1e-12  # relative to the largest weight

# Of a term: the level of each of its categorical columns, and its columns of X, in all
# combinations of levels.
Combinations = tuple[Mapping[str, np.ndarray], FloatArray]


class Margins:
    """Means of the rows that a design has for combinations of levels."""

    def __init__(self, design: Design) -> None:
        self._design = design
        self._n_params = len(design.X.names)
        self._known: dict[str, Combinations] = {}

    def find_mean(self, levels: Mapping[str, str]) -> FloatArray:
        """Return the weights of the mean where columns have these levels, (n_params,).

        A term needs no more than the combinations of levels of its own columns: over those of
        the others it is constant.
        """
        weights = np.zeros(self._n_params)
        for term in self._design.terms:
            columns, values = self._evaluate(term)
            chosen = np.ones(len(values), bool)
            for name, level in levels.items():
                if name in columns:
                    chosen &= columns[name] == level
            weights[term.columns] = values[chosen].mean(axis=0)
        return weights

    def _evaluate(self, term: TermColumns) -> Combinations:
        if term.name not in self._known:
            scale = self._design.scale
            rows = scale.combine_levels(term.variables)
            names = [name for name in term.variables if name in scale.levels]
            columns = {name: np.array([str(level) for level in rows[name]]) for name in names}
            self._known[term.name] = columns, term.evaluate(rows)
        return self._known[term.name]

    def find_main(self, atoms: frozenset[str]) -> FloatArray:
        """Return the weights of the type III test of a term, (q, n_params).

        Levels of the term are compared with its first ones, and its numeric parts have their
        slopes.  The other parts of the terms that contain it are averaged: levels with equal
        weight, and numbers at their means.
        """
        terms = [term for term in self._design.terms if atoms <= term.atoms]
        blocks = [
            multiply_out([_compare(p) if p.name in atoms else p.center[None] for p in term.parts])
            for term in terms
        ]
        weights = np.zeros((len(blocks[0]), self._n_params))
        for term, block in zip(terms, blocks, strict=True):
            weights[:, term.columns] = block
        return _drop_dependent(round_weights(weights))


def multiply_out(blocks: Sequence[FloatArray]) -> FloatArray:
    """Return weights of the products of columns, from those of the columns of each part."""
    weights: FloatArray = np.ones((1, 1))
    for block in blocks:
        weights = np.asarray(np.kron(weights, block), float)
    return weights


def round_weights(weights: FloatArray) -> FloatArray:
    """Return weights with zeros where there is rounding only."""
    largest = np.abs(weights).max(initial=0.0)
    return np.where(np.abs(weights) <= _ROUNDING * largest, 0.0, weights)


def _compare(part: Part) -> FloatArray:
    """Return weights of a part's columns: each level minus the first, or each column."""
    if part.coding is None:
        return np.eye(len(part.labels))
    return part.coding[1:] - part.coding[:1]


def _drop_dependent(weights: FloatArray) -> FloatArray:
    """Return rows that span the same, and do not depend on each other."""
    rank = int(np.linalg.matrix_rank(weights))
    if rank == len(weights):
        return weights
    _, _, order = scipy.linalg.qr(weights.T, mode="economic", pivoting=True)
    return weights[np.sort(order[:rank])]
