"""Random factors: which level each observation belongs to, and the effects of a level.

The columns of Z are numbered factor by factor, level by level, the effects of a level side
by side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray, packed_size


class RandomFactor(NamedTuple):
    """One random factor of a mixed model."""

    name: str
    level: NDArray[np.int32]  # (n_obs,), from 0; every level occurs
    Z: FloatArray  # (n_obs, n_effects), the design of the effects of a level
    correlated: bool = True  # False: a diagonal covariance of the effects

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return int(self.level.max()) + 1

    @property
    def n_effects(self) -> int:
        """Number of random effects of one level."""
        return int(self.Z.shape[1])

    @property
    def n_columns(self) -> int:
        """Number of columns of Z that belong to this factor."""
        return self.n_levels * self.n_effects

    @property
    def n_entries(self) -> int:
        """Number of entries of vech(D)."""
        return packed_size(self.n_effects)


class RandomRows(NamedTuple):
    """Some rows of Z, without its zeros."""

    columns: NDArray[np.int64]  # (n_columns,), columns of Z with an entry in these rows, sorted
    position: NDArray[np.int64]  # (n_rows, n_terms), of each entry in `columns`
    value: FloatArray  # (n_rows, n_terms), the entry


def count_columns(factors: Sequence[RandomFactor]) -> int:
    """Return the number of columns of Z."""
    return sum(factor.n_columns for factor in factors)


def count_joint_effects(factors: Sequence[RandomFactor]) -> int:
    """Return how many images random effects could make exactly, in the worst case.

    Effects of a level that vary independently cannot make up for each other: with a diagonal D
    each of them is judged by itself.
    """
    return sum(f.n_levels * (f.n_effects if f.correlated else 1) for f in factors)


def find_intercepts(factors: Sequence[RandomFactor]) -> dict[str, tuple[int, float]]:
    """Return, for each factor with a constant effect, its row of D and its value in Z."""
    found, offset = {}, 0
    for factor in factors:
        q = factor.n_effects
        for effect, column in enumerate(factor.Z.T):
            if column[0] != 0 and (column == column[0]).all():
                row = offset + effect * q - effect * (effect - 1) // 2  # of vech, the diagonal
                found[factor.name] = (row, float(column[0]))
        offset += factor.n_entries
    return found


def select_rows(factors: Sequence[RandomFactor], rows: slice) -> RandomRows:
    """Return rows of Z; a row has one entry (term) for each effect of each factor."""
    columns = []
    offset = 0
    for factor in factors:
        first = offset + factor.level[rows].astype(np.int64) * factor.n_effects
        columns.append(first[:, None] + np.arange(factor.n_effects))
        offset += factor.n_columns
    n_rows = len(range(*rows.indices(len(factors[0].level)))) if factors else 0
    found = np.concatenate(columns, axis=1) if columns else np.empty((n_rows, 0), np.int64)
    present, position = np.unique(found, return_inverse=True)
    values = [np.asarray(factor.Z[rows], float) for factor in factors]
    value = np.concatenate(values, axis=1) if values else np.empty((n_rows, 0))
    return RandomRows(present, position.reshape(found.shape).astype(np.int64), value)
