"""Cut work into pieces that are worth a worker's time, and enough that all workers have some."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_FOR_EACH, _MOST_PIECES = 4, 5000


def cut_evenly(items: Sequence[T], n_at_once: int, most_in_piece: int) -> list[list[T]]:
    """Return pieces of a list, in its order: some for each that runs at the same time.

    Parameters
    ----------
    items : sequence
    n_at_once : int
        How many pieces are worked on at the same time.
    most_in_piece : int
        None is longer, unless there would be thousands of them.
    """
    n_pieces = max(-(-len(items) // most_in_piece), _FOR_EACH * n_at_once)
    size = max(1, -(-len(items) // min(n_pieces, _MOST_PIECES)))
    return [list(items[i : i + size]) for i in range(0, len(items), size)]
