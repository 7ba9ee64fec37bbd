"""Variance inflation is that of regressions, column by column."""

import numpy as np
import pytest

from nipype_blm.formula.describe import find_vif
from nipype_blm.model.request import Table


def regress(X: np.ndarray) -> list[float]:
    """Return 1 / (1 - R²) of each column that varies, by a regression on the others."""
    factors = []
    for j in range(X.shape[1]):
        x, others = X[:, j], np.delete(X, j, axis=1)
        if np.ptp(x) == 0:
            continue
        residual = x - others @ np.linalg.lstsq(others, x, rcond=None)[0]
        ones = np.ones(len(X))
        rest = ones - others @ np.linalg.lstsq(others, ones, rcond=None)[0]
        total = np.sum((x - x.mean()) ** 2) if np.linalg.norm(rest) < 1e-8 else np.sum(x**2)
        left = np.sum(residual**2)
        factors.append(np.inf if left < 1e-18 * np.sum(x**2) else total / left)
    return factors


RNG = np.random.default_rng(3)
N = 40
ONES = np.ones((N, 1))
SITE = np.eye(3)[np.arange(N) % 3]
AGE = RNG.normal(40, 5, (N, 1))


@pytest.mark.parametrize(
    "X",
    [
        np.hstack([ONES, AGE, AGE + RNG.normal(size=(N, 1))]),
        np.hstack([AGE, RNG.normal(size=(N, 2))]),
        np.hstack([ONES, SITE[:, 1:], AGE, AGE * SITE[:, 1:]]),
        np.hstack([SITE, AGE]),
        np.hstack([ONES, 1e6 * AGE, 1e-6 * RNG.normal(size=(N, 1))]),
        np.hstack([ONES, 2000 + 0.01 * AGE, RNG.normal(size=(N, 1))]),
        np.hstack([ONES, AGE, 2 * AGE + 3, RNG.normal(size=(N, 1))]),
        np.hstack([ONES, SITE, AGE]),
        np.hstack([ONES, AGE]),
    ],
)
def test_factors_are_those_of_regressions(X):
    names = [f"x{i}" for i in range(X.shape[1])]
    np.testing.assert_allclose(find_vif(Table(X, names)), regress(X), rtol=1e-6)


def test_what_cannot_vary_has_no_factor():
    assert find_vif(Table(ONES, ["Intercept"])) == []
    assert find_vif(Table(np.eye(3)[:2], ["a", "b", "c"])) == [np.inf] * 2
