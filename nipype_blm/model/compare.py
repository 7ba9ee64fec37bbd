"""Which two models are nested, and how the likelihood ratio between them is distributed."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import packed_size
from nipype_blm.core.status import FIRST_DROPPED
from nipype_blm.errors import InputError

# Columns of two designs are the same up to how their numbers were printed.
_SAME = 1e-12

_ADVICE = "compare in steps that add one random effect, or one covariance, each"


class ComparisonStatus(IntEnum):
    """Value of the ``blmm_vox_status`` map of a comparison; below 10: in the result's mask."""

    OUTSIDE = 0
    COMPARED = 1
    NOT_CONVERGED = 2
    NOT_IN_SMALLER = 10
    NOT_IN_LARGER = 11
    N_DIFFERS = 12
    NO_LIKELIHOOD = 13
    NO_COVARIANCE = 14
    IMPRECISE = 15
    DEFICIENT = 16

    @property
    def meaning(self) -> str:
        """One sentence for notices and sidecars."""
        return _MEANINGS[self]


_MEANINGS = {
    ComparisonStatus.OUTSIDE: "outside the masks of both models",
    ComparisonStatus.COMPARED: "compared",
    ComparisonStatus.NOT_CONVERGED: "compared, although a fit had not converged",
    ComparisonStatus.NOT_IN_SMALLER: "excluded: outside the mask of the smaller model",
    ComparisonStatus.NOT_IN_LARGER: "excluded: outside the mask of the larger model",
    ComparisonStatus.N_DIFFERS: "excluded: the models have different numbers of images here",
    ComparisonStatus.NO_LIKELIHOOD: "excluded: a log-likelihood is not finite",
    ComparisonStatus.NO_COVARIANCE: (
        "excluded: images are missing here, and without blm_vox_cov the ML log-likelihood of "
        "the model without random effects cannot be made a REML one"
    ),
    ComparisonStatus.DEFICIENT: (
        "excluded: columns of X depend on each other in the images present, of which the REML "
        "log-likelihood of the model without random effects is not known"
    ),
    ComparisonStatus.IMPRECISE: (
        "excluded: the rounding of the maps changes Chi2 by more than it may"
    ),
}


def count_compared(counts: Mapping[ComparisonStatus, int]) -> int:
    """Return the number of voxels in the result, given how many have each status."""
    return sum(n for status, n in counts.items() if 0 < status < FIRST_DROPPED)


def choose_mixture(
    smaller: Sequence[RandomFactor], larger: Sequence[RandomFactor]
) -> tuple[int, ...]:
    """Return the degrees of freedom of the equal chi-square mixture of a likelihood ratio.

    Parameters
    ----------
    smaller, larger : sequences of RandomFactor
        The random factors of the two models; none for a model without random effects.

    Raises
    ------
    InputError
        If the smaller model is not within the larger one, or the mixture is not known.

    Notes
    -----
    With q effects and the smaller model true, its own variances positive [1]_, [2]_: one
    variance added to none or to a diagonal D, 50:50 of chi2_0 and chi2_1; one effect with its
    covariances added to a full D, 50:50 of chi2_q and chi2_(q+1); the covariance of two
    effects, chi2_1.

    References
    ----------
    .. [1] D. O. Stram and J. W. Lee (1994). Variance components testing in the longitudinal
       mixed effects model. Biometrics 50, 1171-1177.
    .. [2] G. Verbeke and G. Molenberghs (2000). Linear Mixed Models for Longitudinal Data,
       section 6.3.4. Springer.
    """
    for what, factors in (("smaller", smaller), ("larger", larger)):
        if len(factors) > 1:
            names = ", ".join(factor.name for factor in factors)
            raise InputError(
                f"The {what} model has {len(factors)} random factors ({names}); the "
                "distribution of the likelihood ratio is known for one factor only."
            )
    if not larger:
        raise InputError(
            "Neither model has random effects; compare them by an F contrast of the larger one."
        )
    if smaller:
        return _compare_factors(smaller[0], larger[0])
    if larger[0].n_effects > 1:
        raise _refuse(f"the larger model adds {larger[0].n_effects} random effects at once")
    return (0, 1)


def count_variances(factors: Sequence[RandomFactor]) -> int:
    """Return the number of variances and covariances that a model estimates."""
    return sum(
        packed_size(factor.n_effects) if factor.correlated else factor.n_effects
        for factor in factors
    )


def describe_mixture(dofs: Sequence[int]) -> str:
    """Return a mixture in words."""
    if len(dofs) == 1:
        return f"chi2_{dofs[0]}"
    return "a 50:50 mixture of " + " and ".join(f"chi2_{dof}" for dof in dofs)


def _compare_factors(smaller: RandomFactor, larger: RandomFactor) -> tuple[int, ...]:
    """Return the mixture for two models of one factor each."""
    if not _is_same_partition(smaller.level, larger.level):
        raise InputError(
            f"The random factors {smaller.name} and {larger.name} group the images "
            "differently, so that neither model is within the other; give both models the "
            "same factor."
        )
    missing = _find_missing_column(smaller.Z, larger.Z)
    if missing is not None:
        raise InputError(
            f"Random effect {missing + 1} of the smaller model (column {missing + 1} of the "
            f"design of {smaller.name}) is none of the {larger.n_effects} of the larger one, "
            "which therefore does not contain the smaller model."
        )
    q = smaller.n_effects
    added = larger.n_effects - q
    # One effect has no covariance: its D is full and diagonal.
    small_is_full, small_is_diagonal = smaller.correlated or q == 1, not smaller.correlated or q < 2
    if added == 0:
        return _compare_covariances(q, small_is_full, larger.correlated or q == 1)
    if added > 1:
        raise _refuse(f"the larger model adds {added} random effects at once")
    if larger.correlated and small_is_full:
        return (q, q + 1)
    if not larger.correlated and small_is_diagonal:
        return (0, 1)
    if larger.correlated:
        raise _refuse("the larger model adds a random effect and covariances of the others at once")
    raise InputError(
        "The smaller model has covariances of its random effects, but the larger one has none "
        "(correlated: false), so that neither is within the other."
    )


def _compare_covariances(q: int, small_is_full: bool, large_is_full: bool) -> tuple[int, ...]:
    """Return the mixture for two models with the same q effects."""
    if small_is_full == large_is_full:
        raise InputError("Both models have the same random effects; there is nothing to compare.")
    if small_is_full:
        raise InputError(
            "The smaller model has covariances of its random effects, but the larger one has "
            "none; give the models in the other order."
        )
    if q > 2:
        raise _refuse(f"the larger model adds {q * (q - 1) // 2} covariances at once")
    return (1,)


def _refuse(reason: str) -> InputError:
    return InputError(
        f"The distribution of this likelihood ratio is not known: {reason}; {_ADVICE}."
    )


def _is_same_partition(one: NDArray[np.int32], other: NDArray[np.int32]) -> bool:
    """Return whether two factors group observations in the same way, however levels are named."""
    pairs = np.unique(np.stack([one, other]), axis=1).shape[1]
    return bool(pairs == np.unique(one).size == np.unique(other).size)


def _find_missing_column(smaller: NDArray[np.float64], larger: NDArray[np.float64]) -> int | None:
    """Return the first column of the smaller design that the larger one does not have."""
    left = list(larger.T)
    for number, column in enumerate(smaller.T):
        size = _SAME * np.abs(column).max()
        same = [i for i, other in enumerate(left) if np.allclose(column, other, 0, size)]
        if not same:
            return number
        left.pop(same[0])
    return None
