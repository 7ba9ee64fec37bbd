"""Checks of a design matrix."""

from collections.abc import Sequence

import numpy as np

from nipype_blm.core.linalg import FloatArray, find_dependent_columns
from nipype_blm.errors import Problem

# Sizes of columns of X, and of weights relative to them: with data up to 1e40, squares of the
# variances of contrasts stay within what 64 bits hold.
SMALLEST, LARGEST = 1e-30, 1e30
_LOST = 1e-10  # relative size below which a direction of X is nothing but rounding


def check_design(
    X: FloatArray,
    names: Sequence[str],
    n_images: int | None,
    has_header: bool = False,
    may_be_deficient: bool = False,
) -> list[str]:
    """Return what is wrong with a design for `n_images` images, if they could be counted.

    Parameters
    ----------
    may_be_deficient : bool
        Whether columns may depend on others.
    """
    problems: list[str] = []
    n_rows, n_params = X.shape
    if n_images is not None and n_rows != n_images:
        below = f" below the header {', '.join(names[:4])} ..." if has_header else ""
        if n_rows == n_images + 1 and np.array_equal(X[0], X[0, 0] + np.arange(n_params)):
            below = " (the first looks like a header)"
        template = (
            "{X} has {n_rows} rows{below}, but there are {n_images} images; give one row for each "
            "image."
        )
        problems.append(Problem("X", template, n_rows=n_rows, below=below, n_images=n_images))
    if not np.isfinite(X).all():
        return problems  # the table's own check names the cells
    extreme = describe_extreme("X", X, names)
    if extreme:
        return problems + extreme
    rank = n_params - len(find_dependent_columns(X)) if may_be_deficient else n_params
    if n_rows < rank + 2:
        of_rank = f" of rank {rank}" if rank < n_params else ""
        problems.append(
            Problem(
                "X",
                f"{{X}} has {n_params} columns{of_rank} but only {n_rows} rows; at least "
                f"{rank + 2} images are needed.",
            )
        )
        return problems
    if may_be_deficient:
        return problems if rank else [*problems, "X has no column that is not zero."]
    dependent = describe_dependent("X is rank-deficient", X, names)
    if dependent:
        dependent[-1] = Problem(
            "deficient",
            "{fault}  Or set {deficient=estimable}, to fit X as it is and test the contrasts that "
            "are estimable all the same.",
            fault=dependent[-1],
        )
    return problems + dependent


def describe_extreme(what: str, X: FloatArray, names: Sequence[str]) -> list[str]:
    """Return which columns have values so large or small that their squares do not exist."""
    return [
        f"{what}: the largest value of column {i} ({name}) is {size:g} in size, and {SMALLEST:g} "
        f"to {LARGEST:g} is possible; give it in other units."
        for i, (name, size) in enumerate(zip(names, find_sizes(X), strict=True), 1)
        if size and not SMALLEST <= size <= LARGEST
    ]


def has_possible_sizes(X: FloatArray) -> bool:
    """Return whether a design is finite, and neither too large nor too small to compute with."""
    sizes = find_sizes(X)
    return bool(((sizes == 0) | ((sizes >= SMALLEST) & (sizes <= LARGEST))).all())


def find_sizes(X: FloatArray) -> FloatArray:
    """Return the largest absolute value of each column."""
    return np.asarray(np.abs(X).max(axis=0, initial=0))


def describe_dependent(what: str, X: FloatArray, names: Sequence[str]) -> list[str]:
    """Return which columns of a matrix are zero, or follow from others."""
    problems = []
    for column, others in find_dependent_columns(X):
        made_of = ", ".join(f"{i + 1} ({names[i]})" for i in others)
        reason = (
            f"a linear combination of column{'s' * (len(others) > 1)} {made_of}; "
            "leave one of them out"
            if others
            else "zero; leave it out"
        )
        problems.append(f"{what}: column {column + 1} ({names[column]}) is {reason}.")
    return problems


def find_vif(X: FloatArray) -> FloatArray:
    """Return the variance inflation factor of each column of a design.

    It is 1 / (1 - R²), R² being that of the column on all others (Belsley, Kuh and Welsch,
    1980, chapter 3), around the mean if these span a constant, as a column or as one for each
    level; infinite where the column follows from others, NaN of a constant column.
    """
    is_constant = (X[0] == X).all(axis=0)
    factors = np.full(X.shape[1], np.nan)
    if is_constant.all():
        return factors
    has_constant = bool((is_constant & (X[0] != 0)).any())
    Z = X[:, ~is_constant]
    if has_constant:
        Z = Z - Z.mean(axis=0)
    Z = Z / np.linalg.norm(Z, axis=0)
    P, sizes, Vt = np.linalg.svd(Z, full_matrices=False)
    is_lost = sizes < _LOST * sizes[0]
    P, V = P[:, ~is_lost], Vt[~is_lost].T / sizes[~is_lost]
    found = (V**2).sum(axis=1)
    if not has_constant:
        found *= _find_shares(Z, P, V)
    found[(Vt[is_lost] ** 2).sum(axis=0) > _LOST] = np.inf
    if len(Z) < Z.shape[1]:  # more columns than rows
        found[:] = np.inf
    factors[~is_constant] = found
    return factors


def _find_shares(Z: FloatArray, P: FloatArray, V: FloatArray) -> FloatArray:
    """Return the share around the mean of unit columns whose others span a constant, else 1."""
    ones = np.full(len(Z), len(Z) ** -0.5)
    if np.linalg.norm(ones - P @ (P.T @ ones)) > _LOST**0.5:
        return np.ones(Z.shape[1])
    is_needed = np.abs(V @ (P.T @ ones)) > _LOST**0.5  # the column itself, for the constant
    return np.where(is_needed, 1.0, 1 - (Z.T @ ones) ** 2)
