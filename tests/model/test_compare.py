"""Which models can be compared, by which mixture, and why others cannot."""

import re

import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.status import FIRST_DROPPED, is_fitted
from nipype_blm.errors import InputError
from nipype_blm.model.compare import (
    ComparisonStatus,
    choose_mixture,
    count_compared,
    count_variances,
    describe_mixture,
)

LEVEL = np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32)
ONE, AGE, DOSE, TIME = np.column_stack([np.ones(8), np.random.default_rng(0).normal(size=(8, 3))]).T


def factor(*columns, correlated=True, level=LEVEL, name="subject"):
    return [RandomFactor(name, level, np.column_stack(columns), correlated)]


def diagonal(*columns, **options):
    return factor(*columns, correlated=False, **options)


@pytest.mark.parametrize(
    ("smaller", "larger", "dofs"),
    [
        ([], factor(ONE), (0, 1)),
        ([], diagonal(AGE), (0, 1)),
        (diagonal(ONE), diagonal(ONE, AGE), (0, 1)),
        (factor(ONE), diagonal(ONE, AGE), (0, 1)),  # one effect has no covariance
        (diagonal(ONE, AGE), diagonal(ONE, AGE, DOSE), (0, 1)),
        (factor(ONE), factor(ONE, AGE), (1, 2)),
        (diagonal(ONE), factor(ONE, AGE), (1, 2)),
        (factor(ONE, AGE), factor(ONE, AGE, DOSE), (2, 3)),
        (factor(ONE, AGE, DOSE), factor(ONE, AGE, DOSE, TIME), (3, 4)),
        (diagonal(ONE, AGE), factor(ONE, AGE), (1,)),
    ],
)
def test_nested_models_have_their_mixture(smaller, larger, dofs):
    assert choose_mixture(smaller, larger) == dofs


def test_levels_may_have_other_numbers_and_columns_another_order():
    relabelled = factor(AGE, ONE, level=3 - LEVEL, name="participant")
    assert choose_mixture(factor(ONE), relabelled) == (1, 2)


def test_columns_that_were_printed_with_fewer_digits_are_the_same():
    assert choose_mixture(factor(AGE), factor(ONE, AGE * (1 + 1e-14))) == (1, 2)
    with pytest.raises(InputError, match="is none of the 2"):
        choose_mixture(factor(AGE), factor(ONE, AGE * (1 + 1e-9)))


@pytest.mark.parametrize(
    ("smaller", "larger", "reason"),
    [
        ([], [], "Neither model has random effects; compare them by an F contrast"),
        ([], factor(ONE, AGE), "adds 2 random effects at once"),
        (factor(ONE), factor(ONE, AGE, DOSE), "adds 2 random effects at once"),
        (diagonal(ONE), diagonal(ONE, AGE, DOSE), "adds 2 random effects at once"),
        (diagonal(ONE, AGE), factor(ONE, AGE, DOSE), "a random effect and covariances"),
        (factor(ONE, AGE), diagonal(ONE, AGE, DOSE), "the larger one has none"),
        (diagonal(ONE, AGE, DOSE), factor(ONE, AGE, DOSE), "adds 3 covariances at once"),
        (factor(ONE, AGE), factor(ONE, AGE), "nothing to compare"),
        (diagonal(ONE), factor(ONE), "nothing to compare"),
        (factor(ONE, AGE), diagonal(ONE, AGE), "give the models in the other order"),
        (factor(AGE), factor(ONE, DOSE), r"effect 1 of the smaller model .* is none of the 2"),
        (factor(ONE, ONE), factor(ONE, AGE), r"effect 2 of the smaller"),
        (factor(ONE, AGE), factor(ONE), r"effect 2 of the smaller"),
        (factor(ONE), factor(ONE) + factor(AGE), r"larger model has 2 random factors"),
        (factor(ONE) + factor(AGE), factor(ONE), r"smaller model has 2 .*\(subject, subject\)"),
        (factor(ONE), factor(ONE, AGE, level=LEVEL // 2), "group the images differently"),
        (factor(ONE, level=LEVEL // 2), factor(ONE, AGE), "group the images differently"),
    ],
)
def test_any_other_two_models_are_refused_with_the_reason(smaller, larger, reason):
    with pytest.raises(InputError, match=reason) as error:
        choose_mixture(smaller, larger)
    [problem] = error.value.problems
    assert problem.endswith(".")


@pytest.mark.parametrize(
    ("factors", "n"),
    [
        ([], 0),
        (factor(ONE), 1),
        (factor(ONE, AGE, DOSE), 6),
        (diagonal(ONE, AGE, DOSE), 3),
        (factor(ONE) + diagonal(ONE, AGE), 3),
    ],
)
def test_the_larger_model_has_more_variances(factors, n):
    assert count_variances(factors) == n


def test_a_mixture_is_named_in_words():
    assert describe_mixture((1, 2)) == "a 50:50 mixture of chi2_1 and chi2_2"
    assert describe_mixture((1,)) == "chi2_1"


def test_every_status_says_whether_the_voxel_is_in_the_result():
    values = np.array(list(ComparisonStatus), np.uint8)
    compared = dict(zip(ComparisonStatus, is_fitted(values), strict=True))
    for status in ComparisonStatus:
        is_in = status.meaning.startswith("compared")
        assert compared[status] == is_in
        assert (status >= FIRST_DROPPED) == bool(re.match("excluded: ", status.meaning))
        assert count_compared({status: 3, ComparisonStatus.OUTSIDE: 5}) == 3 * is_in
