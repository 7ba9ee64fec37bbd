"""Contrasts: their weights, names and checks."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nipype_blm.core.linalg import FloatArray, express_rows
from nipype_blm.errors import Problem, about, show
from nipype_blm.model.design import LARGEST, SMALLEST, find_sizes


@dataclass(frozen=True, eq=False)
class Contrast:
    """A linear combination of the coefficients (T), or several at once (F).

    Parameters
    ----------
    name : str
    matrix : array of shape (q, n_params), or (n_params,) for T
        The weights.
    is_f : bool, optional
        Default: whether the weights were given in rows.
    """

    name: str
    matrix: FloatArray  # (q, n_params); q = 1 for a T contrast
    is_f: bool

    def __init__(self, name: str, matrix: Any, is_f: bool | None = None) -> None:
        weights = np.asarray(matrix, float)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "matrix", np.atleast_2d(weights))
        object.__setattr__(self, "is_f", weights.ndim > 1 if is_f is None else is_f)


def check_contrasts(contrasts: Sequence[Contrast], n_params: int | None) -> list[Problem]:
    """Return what is wrong with contrasts for a design of `n_params` columns, if it is known.

    Of a contrast without weights, in the place of one that cannot be read, only the name is
    looked at.
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
        if not L.size:
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
    return about("contrasts", problems)


def check_estimable(contrasts: Sequence[Contrast], R: FloatArray) -> list[Problem]:
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
    return about("contrasts", problems)


def check_sizes(contrasts: Sequence[Contrast], X: FloatArray) -> list[Problem]:
    """Return which contrasts have weights so large or small that variances do not exist.

    What counts is each weight relative to its column of X: the estimates have its inverse units.
    """
    columns = find_sizes(X)
    problems = []
    for number, contrast in enumerate(contrasts, 1):
        L = contrast.matrix
        if not L.size or L.shape[1] != columns.size:
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
    return about("contrasts", problems)


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
