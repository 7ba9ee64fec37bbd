"""The products of a batch for another X and Z, without its images.

A batch has Q'd and Z'd of its own rows, d being the images less their reference.  Where the rows
of another Q are Q M, so that its products are M'Q'd; and so with Z.  M exists if X has the same
columns, others that are made of them (centred, scaled, fewer), or one that is 0 in these rows.
Whatever images are missing at a voxel, the same holds for those present.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray

Rows = slice | NDArray[np.intp]

EPS = float(np.finfo(float).eps)
# How far Q M may be from the other Q, whose columns have length 1, for each unit of the condition
# of X: rounding makes some eps of it, and some hundred where a year was centred.  It is an error
# of this size in Q'd and in the estimates: what F loses to the condition is 100 eps of it.
ROUNDING = 512 * EPS
# ... and in any case.
MOST = 1e-10
# A constant written as X c: as `DesignFactor.shift`, of different images.
SAME_SHIFT = 8 * EPS


class BatchDesign(NamedTuple):
    """The rows of X and Z that belong to a batch, as its products have them."""

    Q: FloatArray  # (n_rows, n_params)
    shift: FloatArray  # (n_rows,)
    factors: tuple[RandomFactor, ...]  # levels numbered from 0 in these rows


class LevelChange(NamedTuple):
    """How rows of Z'd of one factor follow from those that were."""

    rows: NDArray[np.intp]  # (n_levels, n_effects before), of Z'd as it was
    effects: FloatArray | None  # (n_effects before, n_effects); None: as they were

    @property
    def n_columns(self) -> int:
        """Columns of Z that are made."""
        return self.rows.size if self.effects is None else len(self.rows) * self.effects.shape[1]


class Change(NamedTuple):
    """How products follow from those that were."""

    M: FloatArray | None  # (n_params before, n_params); None: Q is as it was, to the bit
    levels: tuple[LevelChange, ...]  # of each factor

    @property
    def n_columns(self) -> int:
        """Columns of Z that are made."""
        return sum(each.n_columns for each in self.levels)

    def apply(self, QtY: FloatArray, ZtY: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Q'd and Z'd of some voxels; the voxels are the last axis."""
        parts = [_change_levels(each, ZtY) for each in self.levels]
        changed = QtY if self.M is None else self.M.T @ QtY
        return changed, np.concatenate([ZtY[:0], *parts])


class NoChangeError(ValueError):
    """Products cannot be had without their images; holds why: ``X``, ``constant`` or ``Z``."""


def select_design(
    Q: FloatArray, shift: FloatArray, factors: Sequence[RandomFactor], rows: Rows
) -> BatchDesign:
    """Return the rows of a batch; the order of its columns of Z is that of `select_rows`."""
    return BatchDesign(Q[rows], shift[rows], tuple(_select_levels(each, rows) for each in factors))


def _select_levels(factor: RandomFactor, rows: Rows) -> RandomFactor:
    _, level = np.unique(factor.level[rows], return_inverse=True)
    return factor._replace(level=level.reshape(-1).astype(np.int32), Z=factor.Z[rows])


def find_change(before: BatchDesign, after: BatchDesign, condition: float) -> Change:
    """Return how the products of the same images follow for other rows of X and Z.

    Parameters
    ----------
    before, after : BatchDesign
    condition : float
        Of X as it is, see `DesignFactor.condition`.

    Raises
    ------
    NoChangeError
        If they do not follow, or not as exactly as they would be computed.
    """
    tolerance = min(ROUNDING * condition, MOST)
    M = None
    if not np.array_equal(before.Q, after.Q):
        M = _combine(before.Q, after.Q, tolerance)
        if M is None:
            raise NoChangeError("X")
    if np.abs(before.shift - after.shift).max() > SAME_SHIFT:
        raise NoChangeError("constant")
    first, starts = 0, {}
    for factor in before.factors:
        starts[factor.name] = (first, factor)
        first += factor.n_columns
    if not {factor.name for factor in after.factors} <= starts.keys():
        raise NoChangeError("Z")
    return Change(M, tuple(_find_levels(*starts[each.name], each) for each in after.factors))


def _combine(before: FloatArray, after: FloatArray, tolerance: float) -> FloatArray | None:
    """Return M with `before` M = `after` to rounding, also that of products with `before`."""
    M: FloatArray = np.asarray(np.linalg.lstsq(before, after, rcond=None)[0], float)
    distance = np.linalg.norm(before @ M - after, axis=0)
    # Products are known to eps of the lengths of their columns, which M may enlarge.
    enlarged = EPS * (np.linalg.norm(before, axis=0) @ np.abs(M))
    return M if (distance + enlarged <= tolerance).all() else None


def _find_levels(start: int, before: RandomFactor, after: RandomFactor) -> LevelChange:
    """Return where the levels of a factor were, and how effects are made of those before."""
    pairs = np.unique(np.stack([after.level, before.level]), axis=1)
    if not pairs.shape[1] == before.n_levels == after.n_levels:
        raise NoChangeError("Z")  # levels were split or joined
    rows = start + pairs[1][:, None] * before.n_effects + np.arange(before.n_effects)
    if np.array_equal(before.Z, after.Z):
        return LevelChange(rows, None)
    units, own_units = _lengths(before.Z), _lengths(after.Z)
    effects = _combine(before.Z / units, after.Z / own_units, ROUNDING)
    if effects is None:
        raise NoChangeError("Z")
    return LevelChange(rows, effects / units[:, None] * own_units)


def _lengths(Z: FloatArray) -> FloatArray:
    """Return the length of each column, 1 for a column of zeros."""
    lengths = np.linalg.norm(Z, axis=0)
    return np.where(lengths > 0, lengths, 1.0)


def _change_levels(change: LevelChange, ZtY: FloatArray) -> FloatArray:
    """Return the rows of Z'd of one factor."""
    if change.effects is None:
        return ZtY[change.rows.reshape(-1)]
    made: FloatArray = np.einsum("lav,ab->lbv", ZtY[change.rows], change.effects)
    return made.reshape(-1, ZtY.shape[1])
