"""Contrasts: their vectors, names and checks."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from nipype_blm.core.linalg import FloatArray, express_rows
from nipype_blm.errors import shorten, show
from nipype_blm.model.arithmetic import parse_number
from nipype_blm.model.design import LARGEST, SMALLEST, find_sizes

Vector = tuple[float, ...]


def write_text(value: Any) -> str:
    """Return a name as text; not what was written as one, such as on, but read as a truth value."""
    if isinstance(value, bool):
        raise ValueError(f"{value} was read, not text; put the name in quotes")
    if not isinstance(value, str | int | float):
        raise ValueError(f"{show(value)} was given; expected a name")
    return str(value)


class Contrast(BaseModel):
    """A linear combination of the coefficients (T), or several at once (F)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, BeforeValidator(write_text)] = Field(
        min_length=1, description="A name; it labels the outputs."
    )
    vector: Vector | tuple[Vector, ...] = Field(
        description="One row of weights gives a T test, a list of rows an F test."
    )
    statType: str | None = Field(default=None, description="Accepted; the vector decides.")

    @field_validator("vector", mode="before")
    @classmethod
    def _parse_vector(cls, value: Any) -> Any:
        return parse_vector(value)

    @property
    def is_f(self) -> bool:
        """Whether this is an F contrast."""
        return isinstance(self.vector[0], tuple)

    @property
    def matrix(self) -> FloatArray:
        """The weights as an array of shape (q, n_params); q = 1 for a T contrast."""
        return np.atleast_2d(np.array(self.vector, float))


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
    """Return contrasts as a list of mappings with ``name`` and ``vector``.

    Accepts BLM's ``[{c1: {name, vector}}, ...]``, ``{c1: {name, vector}, ...}`` and
    ``[{name, vector}, ...]``.  A contrast without a name is called by its key.
    """
    if _is_tuple_of_nipype(value):
        value = [value]
    if isinstance(value, dict):
        value = [{key: contrast} for key, contrast in value.items()]
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"{show(value)} was given; expected a list of contrasts, each with a name and a vector"
        )
    return [_normalise_one(item, number) for number, item in enumerate(value, 1)]


def _normalise_one(item: Any, number: int) -> dict[str, Any]:
    if isinstance(item, Contrast):
        return item.model_dump()
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


def hold_place(item: dict[str, Any]) -> Contrast:
    """Return a contrast without weights, in place of one that is not valid."""
    return Contrast.model_construct(name=str(item.get("name")), vector=())


def check_contrasts(contrasts: Sequence[Contrast], n_params: int | None) -> list[str]:
    """Return what is wrong with contrasts for a design of `n_params` columns, if it is known.

    Of a contrast without weights, as `hold_place` returns it, only the name is looked at.
    """
    problems = []
    seen: dict[str, int] = {}
    for number, contrast in enumerate(contrasts, 1):
        where = f"contrast {number} ({show(contrast.name)})"
        L = contrast.matrix
        if contrast.name in seen:
            problems.append(
                f"{where} has the name of contrast {seen[contrast.name]}; names must differ."
            )
        seen.setdefault(contrast.name, number)
        if not contrast.vector:
            continue
        if n_params is not None and L.shape[1] != n_params:
            problems.append(
                f"{where} has {L.shape[1]} weights, but X has {n_params} columns; "
                f"give one weight for each column."
            )
        elif not L.any(axis=1).all():
            problems.append(f"{where} has a row of zeros; nothing is tested.")
        elif len(L) > np.linalg.matrix_rank(L / np.abs(L).max(axis=1, keepdims=True)):
            problems.append(
                f"{where} has {len(L)} rows, but they are linearly dependent; "
                "leave out the rows that follow from the others."
            )
    return problems


def check_estimable(contrasts: Sequence[Contrast], R: FloatArray) -> list[str]:
    """Return which contrasts are estimable at no voxel, whatever images it has.

    Parameters
    ----------
    contrasts : sequence of Contrast
        With one weight for each column of X.
    R : array of shape (n_params, n_params)
        Of X = QR.
    """
    problems = []
    for number, contrast in enumerate(contrasts, 1):
        _, estimable = express_rows(R, contrast.matrix)
        if estimable.all():
            continue
        row = f"row {int(np.argmin(estimable)) + 1} of " if contrast.is_f else ""
        problems.append(
            f"{row}contrast {number} ({show(contrast.name)}) is not estimable: columns of X depend "
            "on each other, and other coefficients with the same fit give it another value.  A "
            "combination of rows of X, such as the difference of two images' rows, is estimable."
        )
    return problems


def check_sizes(contrasts: Sequence[Contrast], X: FloatArray) -> list[str]:
    """Return which contrasts have weights so large or small that variances do not exist.

    What counts is each weight relative to its column of X: the estimates have its inverse units.
    """
    columns = find_sizes(X)
    problems = []
    for number, contrast in enumerate(contrasts, 1):
        L = contrast.matrix
        if not contrast.vector or L.shape[1] != columns.size:
            continue
        with np.errstate(all="ignore"):  # columns of zeros say nothing; quotients may overflow
            sizes = np.abs(np.where((L == 0) | (columns == 0), 0.0, L / columns)).max(axis=1)
        extreme = [size for size in sizes if size and not SMALLEST <= size <= LARGEST]
        if extreme:
            problems.append(
                f"contrast {number} ({show(contrast.name)}) has weights of size {extreme[0]:g}, "
                f"relative to the values in their columns of X, and {SMALLEST:g} to {LARGEST:g} is "
                "possible; multiply its rows by numbers that bring them near 1 (T, F and p stay "
                "the same)."
            )
    return problems


_LONGEST_LABEL = 100  # of the 255 bytes that a file name may have


def file_labels(contrasts: Sequence[Contrast]) -> list[str]:
    """Return a distinct alphanumeric label for each contrast, for use in file names."""
    labels: list[str] = []
    for number, contrast in enumerate(contrasts, 1):
        plain = unicodedata.normalize("NFKD", contrast.name)  # an accent is a character
        plain = "".join(c for c in plain if not unicodedata.combining(c))
        for sign, word in {"<": " lt ", ">": " gt "}.items():
            plain = plain.replace(sign, word)
        words = re.findall(r"[A-Za-z0-9]+", plain) or [f"c{number}"]
        label = words[0] + "".join(word[0].upper() + word[1:] for word in words[1:])
        label = label[:_LONGEST_LABEL]
        taken = {other.lower() for other in labels}
        candidates = (f"{label}{suffix}" for suffix in ("", *range(number, 2 * number + 1)))
        labels.append(next(c for c in candidates if c.lower() not in taken))
    return labels
