"""Read the weights of contrasts in every notation, and contrasts in every layout."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nipype_blm.errors import shorten, show
from nipype_blm.model.arithmetic import parse_number

Vector = tuple[float, ...]
_WEIGHTS = re.compile(r"[\d\s\[\]();,.eE+/*-]+")


def parse_vector(value: Any) -> Vector | tuple[Vector, ...]:
    """Read weights given as lists, or as text such as ``[1 0 0]`` or ``((1, 0), (0, 1))``."""
    if isinstance(value, str):
        value = _split_text(value)
    if isinstance(value, int | float):
        value = [value]
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], str):
        value = _split_text(value[0])  # [0 1] without commas is one string in YAML
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{show(value)} was given; expected a list of weights such as [1, 0, 0]")
    if any(isinstance(row, list | tuple) for row in value):
        if not all(isinstance(row, list | tuple) and row for row in value):
            raise ValueError("expected either weights or lists of weights, not both")
        if len({len(row) for row in value}) > 1:
            lengths = shorten(", ".join(str(len(row)) for row in value))
            raise ValueError(f"the rows have different lengths ({lengths})")
        return tuple(tuple(parse_number(x) for x in row) for row in value)
    return tuple(parse_number(x) for x in value)


def _split_text(text: str) -> list[Any]:
    """Split bracketed text into weights, or rows of weights."""
    inner = _bracket(text.strip())
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    if "[" not in inner:  # as in MATLAB, a semicolon ends a row
        rows = [row for row in inner.split(";") if row.strip()]
        return [_split_row(row) for row in rows] if ";" in inner else _split_row(inner)
    rows = re.findall(r"\[([^\[\]]*)\]", inner)
    if re.sub(r"\[[^\[\]]*\]", "", inner).strip(" ,;\n\t"):
        raise ValueError(f"{show(text)} is not a list of weights or of rows of weights")
    return [_split_row(row) for row in rows]


def _bracket(text: str) -> str:
    """Return text with brackets in place of parentheses, but for those of single numbers."""
    characters = list(text)
    opened: list[tuple[int, int]] = []  # parentheses, and the separators before them
    n_separators = 0
    for i, character in enumerate(text):
        n_separators += character in ",;" or character.isspace()
        if character == "(":
            opened.append((i, n_separators))
        elif character == ")" and opened:
            start, n_before = opened.pop()
            if n_separators > n_before:
                characters[start], characters[i] = "[]"
    return "".join(characters)


def _split_row(text: str) -> list[str]:
    return [x for x in re.split(r"[,\s]+", text.strip()) if x]


def normalise_contrasts(value: Any) -> list[dict[str, Any]]:
    """Return contrasts as a list of mappings with ``name``, and ``vector`` or ``expression``.

    Accepts BLM's ``[{c1: {name, vector}}, ...]``, ``{c1: {name, vector}, ...}`` and
    ``[{name, vector}, ...]``; and text, which is an expression and names itself.  Another
    contrast without a name is called by its key.
    """
    if _is_tuple_of_nipype(value) or isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        value = [{key: contrast} for key, contrast in value.items()]
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"{show(value)} was given; expected a list of contrasts, each with a name and a "
            "vector, or an expression"
        )
    return [_normalise_one(item, number) for number, item in enumerate(value, 1)]


def _normalise_one(item: Any, number: int) -> dict[str, Any]:
    if isinstance(item, str) and item.strip() and not _WEIGHTS.fullmatch(item):
        return {"expression": item}
    if isinstance(item, str) and item.strip() == "1":  # the intercept, as in a formula
        return {"expression": item}
    if isinstance(item, dict) and len(item) == 1 and "vector" not in item:
        [(key, body)] = item.items()
        if isinstance(body, dict):
            return {"name": str(key)} | {k: v for k, v in body.items() if v is not None}
    if isinstance(item, dict):  # "c1:" alone, its fields not indented below it, is None
        return {"name": f"c{number}"} | {k: v for k, v in item.items() if v is not None}
    if _is_tuple_of_nipype(item):
        raise ValueError(
            f"contrast {number} is {show(item)}, as for Nipype's interfaces of SPM and FSL; "
            "expected a mapping such as {'name': 'age', 'vector': [0, 1, -1]}, with a weight for "
            "each column of X, and a list of such rows for F"
        )
    raise ValueError(
        f"contrast {number} is {show(item)}; expected a mapping with a name and a vector"
    )


def _is_tuple_of_nipype(item: Any) -> bool:
    """Return whether this is such as ("age", "T", ["young", "old"], [1, -1])."""
    return isinstance(item, list | tuple) and item[1:2] in (["T"], ["F"], ("T",), ("F",))
