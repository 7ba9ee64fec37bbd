"""Random factors from their labels and designs, and what may be wrong with them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor, count_joint_effects
from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import Problem, about, show
from nipype_blm.model.design import describe_dependent, describe_extreme
from nipype_blm.model.request import Factor, Table

# Part of a derivative of the covariance that is new, relative to its size, below which its
# variance is not identified: rounding makes ~1e-14, covariates almost equal in all levels ~1e-4.
_NOT_NEW = 1e-8
# Random vectors that stand for a matrix; as many as there are variances are always enough.
_MOST_PROBES = 10


def find_levels(labels: Sequence[str], outer: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """Return the level of each observation, numbered from 0.

    Labels are compared as text, so that 5 and 05 are two levels.  Levels are in numerical
    order if all labels are numbers, else in that of the text.

    Parameters
    ----------
    labels : sequence of str, length n_obs
        The label of each observation.
    outer : array of shape (n_obs,), optional
        Levels of the factor that this one is nested in; equal labels within different ones
        of these are different levels.
    """
    texts = sorted(set(labels))
    numbers = {text: _to_number(text) for text in texts}
    if all(map(math.isfinite, numbers.values())):
        texts.sort(key=numbers.__getitem__)
    codes = {text: code for code, text in enumerate(texts)}
    level = np.array([codes[label] for label in labels], np.int64)
    if outer is not None:
        level = np.unique(outer * np.int64(len(texts)) + level, return_inverse=True)[1]
    return level.astype(np.int32)


def _to_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def make_factor(
    name: str,
    labels: Sequence[str],
    Z: FloatArray,
    correlated: bool = True,
    nested_in: RandomFactor | None = None,
) -> RandomFactor:
    """Return a random factor.

    Parameters
    ----------
    name : str
        Name of the factor.
    labels : sequence of str, length n_obs
        The label of each observation; see `find_levels`.
    Z : array of shape (n_obs, n_effects)
        Design of the effects of a level.
    correlated : bool
        Whether the effects of a level may be correlated.
    nested_in : RandomFactor, optional
        The factor within whose levels labels are unique.
    """
    level = find_levels(labels, None if nested_in is None else nested_in.level)
    return RandomFactor(name, level, np.ascontiguousarray(Z, float), correlated)


def make_factors(factors: Sequence[Factor]) -> tuple[RandomFactor, ...]:
    """Return the random factors of a model, in the order given.

    `nested_in` must name another of the factors, and never lead back to where it started.
    """
    by_name = {factor.name: factor for factor in factors}
    made: dict[str, RandomFactor] = {}

    def make(name: str) -> RandomFactor:
        if name not in made:
            asked = by_name[name]
            outer = None if asked.nested_in is None else make(asked.nested_in)
            Z = asked.design.values
            made[name] = make_factor(name, asked.labels, Z, asked.correlated, outer)
        return made[name]

    return tuple(make(factor.name) for factor in factors)


def name_levels(
    asked: Sequence[Factor], factors: Sequence[RandomFactor]
) -> tuple[tuple[str, ...], ...]:
    """Return the labels of the levels of each factor, in the order of their numbers.

    That of a nested level begins with the label of the level that it lies in, and a slash.
    """
    by_name = {factor.name: factor for factor in asked}

    def label_rows(name: str) -> Sequence[str]:
        labels, outer = by_name[name].labels, by_name[name].nested_in
        if outer is None:
            return labels
        pairs = zip(label_rows(outer), labels, strict=True)
        return [f"{one}/{other}" for one, other in pairs]

    rows = [(label_rows(factor.name), factor.level) for factor in factors]
    return tuple(
        tuple(labels[i] for i in np.unique(level, return_index=True)[1]) for labels, level in rows
    )


def check_nesting(factors: Sequence[tuple[str, str | None]]) -> list[str]:
    """Return what is wrong with the names of factors, and with those they are nested in."""
    problems = []
    names, outer = [name for name, _ in factors], dict(factors)
    for number, (name, nested_in) in enumerate(factors, 1):
        first = names.index(name) + 1
        if first < number:
            problems.append(f"f{number} has the name of f{first}, {show(name)}; names must differ")
        elif nested_in not in (None, *names):
            others = ", ".join(show(other) for other in names if other != name)
            problems.append(
                f"f{number} is nested_in {show(nested_in)}, which is no other factor"
                + (f"; choose one of {others}" if others else "")
            )
        elif _is_within_itself(name, outer):
            problems.append(f"f{number} is nested_in {show(nested_in)}, and so within itself")
    return problems


def _is_within_itself(name: str, outer: dict[str, str | None]) -> bool:
    """Return whether the factors that one is nested in lead back to it."""
    above = outer[name]
    for _ in outer:  # a circle that does not hold `name` has no end
        if above is None or above == name:
            break
        above = outer.get(above)
    return above == name


def examine_factors(
    asked: Sequence[Factor | None],
    n_images: int | None,
    X: FloatArray | None = None,
    safe_mode: bool = True,
) -> tuple[tuple[RandomFactor, ...], list[Problem]]:
    """Make the random factors of a model, and find what is wrong with them.

    Parameters
    ----------
    asked : sequence of Factor or None
        Factors f1, f2, ...; None where one could not be read.
    n_images : int or None
        Number of images, if they could be counted.
    X : array of shape (n_obs, n_params), optional
        Design matrix of the fixed effects, if it could be read.
    safe_mode : bool
        Whether voxels with no more images than random effects are dropped.

    Returns
    -------
    factors : tuple of RandomFactor
        None of them if they cannot be used.
    problems : list of Problem
        Naming the labels or the design.
    """
    known = [factor for factor in asked if factor is not None]
    problems = _check_names(known) if len(known) == len(asked) else []
    for number, factor in enumerate(asked, 1):
        if factor is not None:
            problems += _check_rows(factor, number, n_images) or _check_columns(factor, number)
    if problems or len(known) < len(asked) or len({len(f.labels) for f in known}) != 1:
        return (), about("factors", problems)
    factors = make_factors(known)
    where = [name_labels(factor, number) for number, factor in enumerate(known, 1)]
    problems = _check_levels(factors, where)
    if safe_mode:
        problems = problems or _check_number(factors, where, X)
    problems = problems or _check_identified(factors, where, X)
    return () if problems else factors, about("factors", problems)


def _check_names(factors: Sequence[Factor]) -> list[str]:
    faults = "; ".join(check_nesting([(each.name, each.nested_in) for each in factors]))
    return [Problem("factors", "{factors}: {faults}.", faults=faults)] if faults else []


def name_labels(factor: Factor, number: int) -> str:
    """Return what messages call the labels of a factor."""
    return factor.source or f"factor {number}"


def name_design(factor: Factor, number: int) -> str:
    """Return what messages call the design of a factor."""
    return factor.design.source or f"factor {number} design"


def _check_rows(factor: Factor, number: int, n_images: int | None) -> list[str]:
    """Return which of the two does not have one row for each image."""
    problems = []
    labels, n_rows = factor.labels, len(factor.design.values)
    where, design = name_labels(factor, number), name_design(factor, number)
    if n_images is None:
        if n_rows != len(labels):
            problems.append(
                f"{design} has {n_rows} rows, but {where} has {len(labels)} labels; "
                "give one row and one label for each image."
            )
        return problems
    if len(labels) != n_images:
        is_header = len(labels) == n_images + 1 and labels[0] not in labels[1:]
        hint = f" (the first, {labels[0]!r}, looks like a header)" if is_header else ""
        problems.append(
            f"{where} has {len(labels)} labels{hint}, but there are "
            f"{n_images} images; give one label for each image."
        )
    if n_rows != n_images:
        problems.append(
            f"{design} has {n_rows} rows, but there are {n_images} images; "
            "give one row for each image."
        )
    return problems


def _check_columns(factor: Factor, number: int) -> list[str]:
    """Return which random effects are too large or small, zero, or follow from others."""
    design, Z = name_design(factor, number), factor.design.values
    if not np.isfinite(Z).all():
        return [f"{design} must hold finite numbers only."]
    names = name_effects(factor.design)
    extreme = describe_extreme(design, Z, names)
    return extreme or describe_dependent(design, Z, names)


def name_effects(design: Table) -> Sequence[str]:
    """Return names of random effects, also where the table has no header."""
    if design.has_header:
        return design.names
    is_constant = (design.values == design.values[0]).all(axis=0)
    return ["intercept" if constant else f"effect {i}" for i, constant in enumerate(is_constant, 1)]


def _check_levels(factors: Sequence[RandomFactor], where: Sequence[str]) -> list[str]:
    """Return which factors have too few or too many levels."""
    problems = []
    for factor, file in zip(factors, where, strict=True):
        if factor.n_levels == 1:
            problems.append(
                f"{file} has one level only; random effects need several levels, "
                "so leave this factor out."
            )
        elif factor.n_levels == len(factor.level):
            problems.append(
                f"{file} has as many levels as there are images ({factor.n_levels}), so that its "
                "effects cannot be told from the residual; leave this factor out, or group images."
            )
    return problems


def _check_number(
    factors: Sequence[RandomFactor], where: Sequence[str], X: FloatArray | None
) -> list[str]:
    """Return whether there are too many random effects for the images."""
    n_obs, n_joint = len(factors[0].level), count_joint_effects(factors)
    if n_joint < n_obs:
        return []
    made_of = " + ".join(f"{f.n_levels} x {f.n_effects if f.correlated else 1}" for f in factors)
    ways = ["use fewer effects"]
    if count_joint_effects(_make_independent(factors)) < n_obs:
        ways = [*_offer_independence(factors, X), *ways]
    if not _find_unidentified(factors, X):
        ways.append("set {safe_mode=false}")
    return [
        Problem(
            "factors",
            "{where}: {made_of} = {n_joint} random effects (levels x correlated effects), but only "
            f"{n_obs} images; {{safe_mode}} would drop every voxel.  To go on, "
            f"{', or '.join(ways)}.",
            where=", ".join(where),
            made_of=made_of,
            n_joint=n_joint,
        )
    ]


def _make_independent(factors: Sequence[RandomFactor]) -> list[RandomFactor]:
    return [factor._replace(correlated=False) for factor in factors]


def _offer_independence(factors: Sequence[RandomFactor], X: FloatArray | None) -> list[str]:
    """Return the advice to have uncorrelated effects, where that helps."""
    independent = _make_independent(factors)
    is_new = any(factor.correlated and factor.n_effects > 1 for factor in factors)
    return (
        ["set {factors.correlated=false}"]
        if is_new and not _find_unidentified(independent, X)
        else []
    )


def _check_identified(
    factors: Sequence[RandomFactor], where: Sequence[str], X: FloatArray | None
) -> list[str]:
    """Return whose variances the likelihood cannot tell from others, whatever the images."""
    # The first parameter is the residual variance, and belongs to no factor.
    owner = [-1] + [k for k, factor in enumerate(factors) for _ in _entries_of(factor)]
    problems: dict[int, Problem] = {}
    for parameter, others in _find_unidentified(factors, X):
        k = owner[parameter]
        if not others:
            template = (
                "{where}: X tells its levels apart already, and leaves nothing random; leave this "
                "factor out, or those columns of X."
            )
            problems.setdefault(k, Problem("factors", template, where=where[k]))
            continue
        names = {-1: "the residual variance", k: "each other"}
        owners = sorted({owner[i] for i in others})
        sources = [names.get(i, f"those of f{i + 1} ({factors[i].name})") for i in owners]
        ways = ["use fewer random effects"]
        ways = [*_offer_independence(factors, X), *ways] if k in owners else ways
        ways += ["leave one factor out"] if len(factors) > 1 else []
        template = (
            "{where}: the variances of its random effects cannot be told from {sources}; "
            f"{', or '.join(ways)}."
        )
        problem = Problem("factors", template, where=where[k], sources=" and ".join(sources))
        problems.setdefault(k, problem)
    return list(problems.values())


def _find_unidentified(
    factors: Sequence[RandomFactor], X: FloatArray | None
) -> list[tuple[int, list[int]]]:
    """Return each variance parameter whose effect on the data others have too.

    The covariance of y is linear in its parameters, V = sum_i t_i M_i with M_0 = I.  With P
    the projection that removes X, they can be estimated only if the matrices P M_i P are
    linearly independent.  Their products with a few random vectors are independent if they
    are, with probability one, and need no matrix of n_obs by n_obs.

    Returns
    -------
    list of (int, list of int)
        A parameter and the earlier ones that make it; ``[]`` where X leaves nothing of it.
    """
    n_obs = len(factors[0].level)
    basis = np.empty((n_obs, 0))
    if X is not None and len(X) == n_obs:
        basis = _orthonormal_basis(X)
    if basis.shape[1] >= n_obs:  # X has a message of its own
        basis = basis[:, :0]
    # D of correlated effects may take any form, so that any basis of them will do.
    bases = [np.linalg.qr(f.Z)[0] if f.correlated else f.Z for f in factors]
    factors = [f._replace(Z=Z) for f, Z in zip(factors, bases, strict=True)]
    n_parameters = 1 + sum(len(_entries_of(factor)) for factor in factors)
    rng = np.random.default_rng(0)
    triangle = np.empty((0, n_parameters))  # R of the QR of all products
    squares = np.zeros(n_parameters)
    for _ in range(min(n_parameters, _MOST_PROBES)):
        w = rng.standard_normal(n_obs)
        squares += (_multiply_derivatives(factors, w) ** 2).sum(axis=0)
        products = _multiply_derivatives(factors, w - basis @ (basis.T @ w))
        products -= basis @ (basis.T @ products)
        triangle = np.linalg.qr(np.vstack([triangle, products]))[1]
    triangle /= np.sqrt(squares)
    independent: list[int] = []
    dependent = []
    for parameter, column in enumerate(triangle.T):
        known = triangle[:, independent]
        weights = np.linalg.lstsq(known, column, rcond=None)[0]
        if np.linalg.norm(column - known @ weights) > _NOT_NEW:
            independent.append(parameter)
            continue
        made_of = np.abs(weights) * np.linalg.norm(known, axis=0) > _NOT_NEW
        dependent.append((parameter, [independent[i] for i in np.flatnonzero(made_of)]))
    return dependent


def _orthonormal_basis(X: FloatArray) -> FloatArray:
    """Return orthonormal columns that span those of X, of any rank."""
    U, values, _ = np.linalg.svd(X / (np.linalg.norm(X, axis=0) + (X == 0).all(axis=0)), False)
    return np.asarray(U[:, values > 1e-12 * values[0]])


def _entries_of(factor: RandomFactor) -> list[tuple[int, int]]:
    """Return row and column of the entries of D that are estimated."""
    rows = range(factor.n_effects)
    return [(a, b) for a in rows for b in rows[: a + 1] if factor.correlated or a == b]


def _multiply_derivatives(factors: Sequence[RandomFactor], w: FloatArray) -> FloatArray:
    """Return M_i w for each variance parameter, of shape (n_obs, n_parameters)."""
    products = [w]
    for factor in factors:
        level, columns = factor.level, factor.Z.T
        sums = [np.bincount(level, column * w)[level] for column in columns]
        for a, b in _entries_of(factor):
            product = columns[a] * sums[b]
            products.append(product if a == b else product + columns[b] * sums[a])
    return np.stack(products, axis=1)
