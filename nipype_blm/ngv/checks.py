"""See beforehand whether a circuit can be computed from what is there."""

from collections.abc import Sequence

from nipype_blm.ngv.environment import Environment
from nipype_blm.ngv.recipe import Recipe


def check_inputs(recipe: Recipe, environment: Environment) -> Sequence[str]:
    """Return what is no fault but may not be meant.

    Raises
    ------
    InputError
        With all that is wrong.
    """
    return []
