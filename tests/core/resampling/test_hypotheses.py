"""A contrast's design spans that of the model, and tests what the contrast tests."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from nipype_blm.core.resampling.hypotheses import make_hypothesis


def make_X(n_obs: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.column_stack([np.ones(n_obs), rng.normal(size=(n_obs, 3)) * [1, 1e6, 1e-6]])


def fit(A: np.ndarray, y: np.ndarray) -> np.ndarray:
    return A @ np.linalg.lstsq(A, y, rcond=None)[0] if A.shape[1] else np.zeros_like(y)


@pytest.mark.parametrize(
    ("L", "q"),
    [
        ([0, 1, 0, 0], 1),
        ([0, 1e-3, -2e3, 0], 1),
        (np.eye(4)[1:3], 2),
        ([[0, 1, 0, 0], [0, -2, 0, 0]], 1),
        ([[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], 2),
        (np.eye(4), 4),
    ],
)
def test_x_explains_what_a_constrained_fit_leaves(L, q):
    X, y = make_X(), np.random.default_rng(1).normal(size=20)
    hypothesis = make_hypothesis(X, L)
    # beta with L beta = 0, column by column at unit length.
    lengths = np.linalg.norm(X, axis=0)
    basis = np.linalg.svd(np.atleast_2d(np.asarray(L, float)) / lengths)[2]
    constrained = X / lengths @ basis[q:].T
    assert hypothesis.q == q
    assert_allclose(fit(hypothesis.X0, y), fit(constrained, y), atol=1e-9)
    both = np.column_stack([hypothesis.x, hypothesis.X0])
    assert_allclose(both.T @ both, np.eye(4), atol=1e-12)
    assert_allclose(fit(both, y), fit(X / lengths, y), atol=1e-9)


@pytest.mark.parametrize("L", [[0, 1, 0, 0], [0, 1, -1e6, 0], [0, -1, 0, 0]])
def test_the_effect_of_x_has_the_sign_of_the_contrast(L):
    X, rng = make_X(), np.random.default_rng(2)
    hypothesis = make_hypothesis(X, L)
    for _ in range(5):
        y = rng.normal(size=20)
        beta = np.linalg.lstsq(X / np.linalg.norm(X, axis=0), y, rcond=None)[0]
        effect = np.asarray(L) / np.linalg.norm(X, axis=0) @ beta
        both = np.column_stack([hypothesis.x, hypothesis.X0])
        assert np.sign(np.linalg.lstsq(both, y, rcond=None)[0][0]) == np.sign(effect)


def test_a_design_of_deficient_rank_tests_what_it_determines():
    groups = np.eye(3)[np.arange(12) % 3]
    X = np.column_stack([np.ones(12), groups])
    hypothesis = make_hypothesis(X, [0, 1, -1, 0])
    plain = make_hypothesis(groups, [1, -1, 0])
    assert_allclose(hypothesis.x, plain.x, atol=1e-12)
    assert_allclose(hypothesis.X0 @ hypothesis.X0.T, plain.X0 @ plain.X0.T, atol=1e-12)
    with pytest.raises(ValueError, match="not estimable"):
        make_hypothesis(X, [0, 1, 0, 0])


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="are 0"):
        make_hypothesis(make_X(), np.zeros(4))
