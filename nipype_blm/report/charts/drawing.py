"""Figures of matplotlib as parts of a page, in its colours; with words for those who do not see."""

import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

# Stands for the colour of text, which differs between light and dark pages.
INK = "#010203"
# Distinct for colour-blind readers, on white and on black: M. Okabe and K. Ito (2008), Color
# Universal Design.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # names of columns may have a dollar
    "svg.fonttype": "none",  # letters, not their outlines
    "svg.hashsalt": "nipype_blm",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}
_numbers = itertools.count()


class Figure(NamedTuple):
    """A figure in a page."""

    svg: str  # an element, safe as it is
    alt: str  # what is seen, in a sentence
    caption: str = ""


@contextmanager
def own_style(style: dict[str, Any]) -> Iterator[None]:
    """Draw in the style of matplotlib and this one, whatever the settings of the user are.

    TeX, for one, need not be there, and takes names with an underscore for formulae.
    """
    from matplotlib.style import context

    with context(["default", style]):
        yield


@contextmanager
def drawing(width: float = 6.0, height: float = 3.0) -> Iterator[Any]:
    """Give a figure, in inches, in the style of the page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with own_style(_STYLE):
        figure = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)  # draws into text, whatever the display
        yield figure


def finish(figure: Any, alt: str, caption: str = "") -> Figure:
    """Return what was drawn as a part of a page; to be called within `drawing`."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return Figure(_own_ids(text[text.index("<svg") :]).replace(INK, "currentColor"), alt, caption)


def _own_ids(svg: str) -> str:
    """Return an element whose ids are in no other one of the page."""
    prefix = f"f{next(_numbers)}-"
    svg = re.sub(r'(\bid=")', rf"\1{prefix}", svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{prefix}", svg)
