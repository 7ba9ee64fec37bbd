"""Tables of a page, and how numbers are written in them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table as it is shown; texts are escaped by the page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    more: str = ""  # such as how many rows are not shown, and where they are
    sortable: bool = False
    attributes: Sequence[Mapping[str, Any]] = ()  # data-* of each row, for the script


def write_number(x: float, digits: int = 3) -> str:
    """Return a number with so many digits, "n/a" where there is none."""
    if x is None or math.isnan(x):
        return "n/a"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if abs(x) < 1e6 and (x == int(x) or abs(x) >= 10**digits):
        return f"{round(x):,}".replace("-", "−")
    return f"{x:.{digits}g}".replace("-", "−")


def write_size(mm3: float) -> str:
    """Return a volume, such as of a cluster."""
    return f"{mm3:,.0f}" if mm3 >= 100 else write_number(mm3)


def write_p(p: float) -> str:
    """Return a p as papers have it."""
    if math.isnan(p):
        return "n/a"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def write_count(n: int, what: str) -> str:
    """Return such as "1,234 voxels"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def cut(rows: Sequence[Any], most: int, where: str) -> tuple[Sequence[Any], str]:
    """Return the first rows, and what to say of the others."""
    left = len(rows) - most
    return (rows[:most], f"... and {left:,} more, in {where}.") if left > 0 else (rows, "")
