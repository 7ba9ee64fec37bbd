"""What values of a circuit are drawn from, and whether what was measured fits."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError, show
from nipype_blm.ngv.circuit.capsules import Floats
from nipype_blm.ngv.recipe.manifest import choose_part

AS_ASKED, ABOVE, BELOW = "as asked", "above", "below"
# How far from its target, in standard errors of so many draws, is still as asked.
_MOST_ERRORS = 3.0


class Target(NamedTuple):
    """What values are drawn from."""

    mean: float
    sd: float
    kurtosis: float  # 3 of a normal distribution
    median: float


def cut_normal(values: Sequence[float]) -> Any:
    """Return the distribution of SciPy that is normal between a least and a largest value.

    Parameters
    ----------
    values : sequence of four numbers
        Mean and standard deviation before it is cut, the least and the largest value.
    """
    from scipy.stats import truncnorm

    mean, sd, low, high = values
    return truncnorm((low - mean) / sd, (high - mean) / sd, loc=mean, scale=sd)


def find_target(values: Sequence[float], is_whole: bool = False) -> Target:
    """Return the moments of a normal distribution that is cut off at both ends.

    Parameters
    ----------
    values : sequence of four numbers
        See `cut_normal`.
    is_whole : bool
        Whether draws are rounded, as numbers of endfeet are.
    """
    drawn = cut_normal(values)
    if is_whole:
        whole = np.arange(np.floor(values[2]), np.ceil(values[3]) + 1)
        return _find_moments(whole, np.diff(drawn.cdf([*(whole - 0.5), whole[-1] + 0.5])))
    m, v, _, k = drawn.stats("mvsk")
    return Target(float(m), float(np.sqrt(v)), float(k) + 3, float(drawn.median()))


def find_share(values: Sequence[float], whole: NDArray[Any]) -> Floats:
    """Return the share of rounded draws that are each of some whole numbers; see `find_target`."""
    drawn = cut_normal(values)
    return np.asarray(drawn.cdf(whole + 0.5) - drawn.cdf(whole - 0.5))


def read_distribution(
    manifest: Mapping[str, Any] | None, part: Sequence[str], name: str
) -> tuple[float, ...] | None:
    """Return mean, standard deviation, least and largest value as a manifest has them.

    Parameters
    ----------
    manifest : mapping
    part : sequence of str
        Where the distribution is in it.
    name : str

    Returns
    -------
    tuple of four numbers, or None
        None where it is not in the manifest.

    Raises
    ------
    InputError
        If it is there, but not as four such numbers.
    """
    given = choose_part(manifest, *part).get(name)
    if given is None:
        return None
    values = take_numbers(given, 4)
    if values is None or values[1] <= 0 or values[2] >= values[3]:
        raise InputError(
            f"{name} of {'.'.join(part)} in the manifest is {show(given)}; expected four numbers: "
            "mean, standard deviation (above 0), least and largest value."
        )
    return values


def take_numbers(given: Any, n: int) -> tuple[float, ...] | None:
    """Return so many finite numbers; None if that is not what is given."""
    try:
        values = tuple(map(float, given))
    except (TypeError, ValueError):
        return None
    return values if len(values) == n and np.isfinite(values).all() else None


def _find_moments(values: Floats, shares: Floats) -> Target:
    mean = float(shares @ values)
    variance, fourth = (float(shares @ (values - mean) ** power) for power in (2, 4))
    median = float(values[np.searchsorted(np.cumsum(shares), 0.5)])
    return Target(mean, float(np.sqrt(variance)), fourth / variance**2, median)


def judge(measured: float, target: float, error: float = 0.0) -> str:
    """Return whether a value is as asked: within three times its standard error, or rounding."""
    near = _MOST_ERRORS * error + 1e-6 * abs(target)
    if abs(measured - target) <= near:
        return AS_ASKED
    return ABOVE if measured > target else BELOW
