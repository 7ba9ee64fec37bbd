"""What a user should see before a run: which row belongs to which image, and what may surprise."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from nipype_blm.core.linalg import DesignFactor
from nipype_blm.data.files import identify_file
from nipype_blm.data.manifest import ImageEntry
from nipype_blm.stages.rows import ImageNames, ModelRows

_MOST_NOTICES = 10
_N_PAIRS = 3


class Pair(NamedTuple):
    """An image and its row."""

    image: str  # from the folder on that holds all images; its number, for a volume
    row: int  # of the file, from 1
    name: str  # of the row; "" without one
    values: tuple[float, ...]  # of X
    levels: tuple[str, ...]  # the label of each random factor


def list_pairs(rows: ModelRows, entries: Sequence[ImageEntry], names: ImageNames) -> list[Pair]:
    """Return the first and the last images, and their rows."""
    X = rows.X
    if X is None:
        return []
    n = len(entries)
    order = np.arange(n) if rows.order is None else rows.order
    return [
        Pair(
            names.short[i] if names.short else f"{entries[i].image.name}, volume {i + 1}",
            int(order[i]) + 1,
            X.row_names[i] if X.row_names is not None else "",
            tuple(X.values[i].tolist()),
            tuple(factor.labels[i] for factor in rows.factors if factor is not None),
        )
        for i in sorted({*range(min(n, _N_PAIRS)), *range(max(n - _N_PAIRS, 0), n)})
    ]


def find_notices(entries: Sequence[ImageEntry], design: DesignFactor) -> list[str]:
    """Return what is no fault but may not be meant: a repeated image, no intercept."""
    notices = _describe_repeated(entries)
    if not np.allclose(design.shift, 1, rtol=0, atol=1e-6):
        notices.append(
            "X has no intercept: no combination of its columns is the same for all images.  Its "
            "regressors have to explain the mean of the images, too, and residuals need not sum to "
            "0; add a column of ones unless that is meant."
        )
    return notices


def _describe_repeated(entries: Sequence[ImageEntry]) -> list[str]:
    """Return which images are listed more than once, also by links."""
    # The same file has the same size and time: only few have to be looked at again.
    alike: dict[tuple[int, int], list[ImageEntry]] = defaultdict(list)
    for entry in entries:
        alike[entry.state.size, entry.state.mtime_ns].append(entry)
    same: dict[tuple[int, int, int], list[ImageEntry]] = defaultdict(list)
    identify = cache(identify_file)  # once for all volumes of a file
    for group in alike.values():
        for entry in group if len(group) > 1 else ():
            same[*identify(entry.image), entry.volume].append(entry)
    notices = [
        f"{_join_places(group)} are the same image, {group[0].image}; it counts as often as it is "
        "listed."
        for group in same.values()
        if len(group) > 1
    ]
    more = len(notices) - _MOST_NOTICES
    if more > 0:
        notices = [*notices[:_MOST_NOTICES], f"... and {more} more images are listed repeatedly."]
    return notices


def _join_places(group: Sequence[ImageEntry]) -> str:
    """Return where images are listed, such as "line 3 and line 7 of images.txt"."""
    places = [entry.where.partition(" of ") for entry in group]
    *most, last = [line for line, *_ in places]
    return f"{', '.join(most)} and {last}{''.join(places[0][1:])}"
