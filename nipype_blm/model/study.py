"""What a model of a formula was made of: a table of observations, and what was left out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

COLUMN_KINDS = ("categorical", "numeric")
ON_MISSING = ("refuse", "drop")  # what becomes of rows without a value, or without an image


class Excluded(NamedTuple):
    """An observation that was left out, and why."""

    row: str  # as users know it, such as "sub-07 ses-2" or "line 8 of participants.tsv"
    image: str  # its path, if one is known
    reason: str


class Coding(NamedTuple):
    """How a categorical variable was written as columns of X."""

    variable: str
    levels: Sequence[str]
    reference: str | None  # the level that others are compared with; None: there is none
    scheme: str  # "treatment", "sum" or "one column for each level"


@dataclass(frozen=True, eq=False)
class Study:
    """The table of observations that a formula made a model of, in the order of the images."""

    formula: str  # as it was given
    columns: Mapping[str, Sequence[str | float]]  # of each row that is in the model
    codings: Sequence[Coding] = ()
    excluded: Sequence[Excluded] = ()

    def sort(self, order: Sequence[int]) -> "Study":
        """Return the same with the rows of the table in another order."""
        columns = {name: [cells[i] for i in order] for name, cells in self.columns.items()}
        return replace(self, columns=columns)
