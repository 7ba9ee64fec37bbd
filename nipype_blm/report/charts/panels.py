"""What the panels of the picture of a circuit have in common: colours, frames and words."""

from typing import Any

from nipype_blm.core.linalg import FloatArray
from nipype_blm.report.charts.drawing import COLOURS

SOMA, ENDFOOT, DOMAIN, SYNAPSE, PERIVASCULAR_BRANCH, PERISYNAPTIC_BRANCH = COLOURS
VESSEL = "#B9B2AC"
RING = "#222222"  # around the astrocyte that is drawn in detail
_LEAST_WIDTH = 20.0  # um of a panel
_MARGIN, _BELOW = 0.03, 0.09  # of a panel's width: around what is drawn, and below for a scale
_PLURALS = {"endfoot": "endfeet", "segment of vessels": "segments of vessels"}


def prepare(axis: Any, letter: str, text: str) -> None:
    """Give a panel its letter and its title, and no axes."""
    axis.set_title(letter, loc="left", fontweight="bold")
    axis.set_title(text, loc="center")
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def limit(axis: Any, points: FloatArray) -> None:
    """Show a square that has all points, (n, 2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    width = max((high - low).max(), _LEAST_WIDTH)
    middle, half = (low + high) / 2, width * (0.5 + _MARGIN)
    axis.set_xlim(middle[0] - half, middle[0] + half)
    axis.set_ylim(middle[1] - half - _BELOW * width, middle[1] + half)


def tell_count(n: int, what: str) -> str:
    """Return how many there are of parts of a circuit, such as "2,000 endfeet"."""
    return f"{n:,} {what if n == 1 else _PLURALS.get(what, f'{what}s')}"
