"""Names of anybody's making, short enough for a figure or a sentence."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

_SEPARATORS = re.compile(r"[/_.\s-]")


class _Named(Protocol):
    """What says which image it is of."""

    @property
    def image(self) -> str: ...
    @property
    def volume(self) -> int: ...


def cut_name(name: str, most: int = 24) -> str:
    """Return a name of at most so many letters, without its middle, on one line."""
    plain = "".join(letter if letter.isprintable() else " " for letter in name)
    if len(plain) <= most:
        return plain
    end = (most - 1) // 2
    return f"{plain[: most - 1 - end]}…{plain[-end:]}"


def count_cells(text: str) -> int:
    """Return how wide a text is in a terminal, where some letters take two cells and some none."""
    return sum(map(_measure, text))


def cut_cells(text: str, most: int) -> str:
    """Return the start of a text, of at most so many cells."""
    if count_cells(text) <= most:
        return text
    ends = accumulate(map(_measure, text))
    return text[: sum(end <= most - 3 for end in ends)] + "..."


def _measure(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):  # accents of their own, joiners
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def name_images(images: Sequence[_Named]) -> list[str]:
    """Return what tells each image from the others: its path without what all have in common."""
    paths = [each.image for each in images]
    names = [Path(path).name for path in paths]
    shown = strip_common(names if len(set(names)) == len(set(paths)) else paths)
    several = len({each.volume for each in images}) > 1
    if not several:
        return shown
    if len(set(paths)) == 1:
        return [f"volume {each.volume}" for each in images]
    return [f"{name}, volume {each.volume}" for name, each in zip(shown, images, strict=True)]


def strip_common(names: list[str]) -> list[str]:
    """Return names without the parts that all begin and end with, cut where words end."""
    if len(set(names)) < 2:
        return names
    start = _find_start(names)
    end = _find_start([name[::-1] for name in names])[::-1]
    starts = [match.end() for match in re.finditer(r"[/_]", start)]
    first = starts[-1] if starts else 0
    match = _SEPARATORS.search(end)
    last = len(end) - match.start() if match else 0
    cut = [name[first : len(name) - last] for name in names]
    return cut if all(cut) else names


def _find_start(names: list[str]) -> str:
    """Return the letters that all names begin with."""
    low, high = min(names), max(names)
    pairs = enumerate(zip(low, high, strict=False))
    return next((low[:i] for i, (a, b) in pairs if a != b), low)
