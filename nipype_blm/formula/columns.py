"""Columns of a table as formulas use them: numbers, or categories whose order counts."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


class Scale(NamedTuple):
    """What rows can be made of: the levels of categorical columns, and means of the others."""

    levels: Mapping[str, "pd.Series"]  # of a categorical column, each level once
    means: Mapping[str, float]

    def combine_levels(self, variables: Sequence[str]) -> "pd.DataFrame":
        """Return a row for each combination of levels of columns, with means of the others."""
        import pandas as pd

        categorical = [name for name in variables if name in self.levels]
        rows = list(product(*(range(len(self.levels[name])) for name in categorical)))
        at = np.array(rows, int).reshape(len(rows), len(categorical))
        columns = {
            name: self.levels[name].iloc[at[:, i]].reset_index(drop=True)
            for i, name in enumerate(categorical)
        }
        means = {name: self.means[name] for name in variables if name not in self.levels}
        return pd.DataFrame({**columns, **means}, index=range(len(rows)))


def find_scale(frame: "pd.DataFrame") -> Scale:
    """Return the levels and means of columns, which are clean."""
    import pandas as pd

    levels = {
        name: pd.Series(pd.Categorical.from_codes(range(count_levels(column)), dtype=column.dtype))
        for name, column in frame.items()
        if not is_number(column)
    }
    means = {name: float(c.mean()) for name, c in frame.items() if name not in levels}
    return Scale(levels, means)


def is_number(column: "pd.Series") -> bool:
    """Whether a column has numbers, or truths."""
    return column.dtype.kind in "biuf"


def count_levels(column: "pd.Series") -> int:
    """Return the number of levels of a clean column; 0 for one of numbers."""
    return 0 if is_number(column) else len(column.cat.categories)


def clean_columns(frame: "pd.DataFrame", names: Sequence[str]) -> "pd.DataFrame":
    """Return columns of numbers, or of text in ordered categories all of which have a row.

    formulae sorts categories that are not ordered.
    """
    import pandas as pd

    columns = {name: _clean(frame[name].reset_index(drop=True)) for name in names}
    return pd.DataFrame(columns, index=range(len(frame)))


def _clean(column: "pd.Series") -> "pd.Series":
    if is_number(column):
        return column.astype(float)
    present = set(column)
    if column.dtype.name == "category":
        return _order(column, [value for value in column.cat.categories if value in present])
    return _order(column, sorted(present, key=str))


def as_categories(column: "pd.Series") -> "pd.Series":
    """Return a clean column with numbers as levels, in their order."""
    return _order(column, sorted(set(column))) if is_number(column) else column


def _order(column: "pd.Series", values: Sequence[object]) -> "pd.Series":
    import pandas as pd

    texts = {value: label(value) for value in values}
    ordered = list(dict.fromkeys(texts.values()))
    return pd.Series(pd.Categorical([texts[value] for value in column], ordered, ordered=True))


def label(value: object) -> str:
    """Return the text of a value that is a level: 1 and not 1.0."""
    if isinstance(value, float | np.floating):
        return repr(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)
