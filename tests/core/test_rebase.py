"""Products for another X and Z are those that the images themselves would make."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.core.factors import RandomFactor, select_rows
from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.products import ProductAccumulator
from nipype_blm.core.rebase import NoChangeError, find_change, select_design

N_OBS, N_VOXELS = 24, 40
BATCH = slice(4, 20)  # of the first 24 of 36 images
RNG = np.random.default_rng(0)
AGE = RNG.normal(50, 12, 36)
SITE = np.arange(36) // 14  # the third one comes later
SUBJECT = np.array([*np.arange(24) // 3, *(np.arange(12) // 2 + 4)])  # old ones come again
ONES = np.ones(36)
Y = RNG.normal(100, 3, (36, N_VOXELS))
Y[RNG.random(Y.shape) < 0.15] = np.nan


def make_products(X, factors, rows, values):
    """Return the products of rows of a model, by the accumulator."""
    design = factorise_design(X)
    random = select_rows(factors, rows) if factors else None
    made = ProductAccumulator(design.Q[rows], design.shift[rows], N_VOXELS, random)
    for first in range(0, len(values), 16):
        part = values[first : first + 16]
        made.add(part, np.isnan(part).sum(axis=1))
    return design, made.finish()


def make_factor(subject, Z):
    _, level = np.unique(subject, return_inverse=True)
    return RandomFactor("subject", level.astype(np.int32), Z)


def change(X_before, X_after, factors=(), factors_after=(), rows_after=BATCH):
    """Assert that the products of the batch are what they would be; return the change."""
    design, before = make_products(X_before, factors, BATCH, Y[BATCH])
    after, expected = make_products(X_after, factors_after, rows_after, Y[BATCH])
    found = find_change(
        select_design(design.Q, design.shift, factors, BATCH),
        select_design(after.Q, after.shift, factors_after, rows_after),
        after.condition,
    )
    QtY, ZtY = found.apply(before.QtY, before.ZtY)
    # Sums of 16 numbers around 3.
    assert_allclose(QtY, expected.QtY, rtol=0, atol=1e-12)
    largest = np.abs(expected.ZtY).max(initial=1)
    assert_allclose(ZtY, expected.ZtY, rtol=0, atol=1e-12 * largest)
    for name in ("reference", "YtY", "n_obs", "presence"):
        assert_array_equal(getattr(before, name), getattr(expected, name))
    return found


def center(x):
    return x - x.mean()


COLUMNS = {
    "same": (lambda n: [ONES[:n], AGE[:n]],) * 2,
    "centred": (lambda n: [ONES[:n], center(AGE[:n])],) * 2,
    "scaled": (
        lambda n: [ONES[:n], AGE[:n]],
        lambda n: [ONES[:n], center(AGE[:n]) / AGE[:n].std()],
    ),
    "powers": (lambda n: [ONES[:n], center(AGE[:n]), center(AGE[:n]) ** 2],) * 2,
    "year": (lambda n: [ONES[:n], center(1950 + AGE[:n])],) * 2,
    "fewer": (lambda n: [ONES[:n], AGE[:n], AGE[:n] ** 2], lambda n: [ONES[:n], AGE[:n]]),
    "new site": (
        lambda n: [ONES[:n], SITE[:n] == 1, AGE[:n]],
        lambda n: [ONES[:n], SITE[:n] == 1, SITE[:n] == 2, AGE[:n]],
    ),
    "cells": (
        lambda n: [SITE[:n] == k for k in range(2)],
        lambda n: [SITE[:n] == k for k in range(3)],
    ),
    "dependent": (lambda n: [ONES[:n], SITE[:n] == 0, SITE[:n] == 1, AGE[:n]],) * 2,
}


@pytest.mark.parametrize("columns", COLUMNS)
def test_products_of_more_images_are_those_that_they_would_have_made(columns):
    before, after = COLUMNS[columns]
    change(np.column_stack(before(N_OBS)) * 1.0, np.column_stack(after(36)) * 1.0)


def test_products_of_one_image_are_known_for_any_row():
    X = np.column_stack([ONES, AGE])
    other = np.column_stack([ONES, RNG.normal(size=36), AGE**2])
    before, after = factorise_design(X), factorise_design(other)
    rows = slice(7, 8)
    found = find_change(
        select_design(before.Q, before.shift, (), rows),
        select_design(after.Q, after.shift, (), rows),
        after.condition,
    )
    y = np.array([[2.0, -3.0]])
    assert_allclose(found.apply(before.Q[rows].T @ y, y[:0])[0], after.Q[rows].T @ y, atol=1e-13)


@pytest.mark.parametrize(
    "other",
    [
        np.column_stack([ONES, AGE, RNG.normal(size=36)]),
        np.column_stack([ONES, np.where(np.arange(36) == 9, AGE + 0.5, AGE)]),
        np.column_stack([ONES, np.round(AGE, 6)]),
    ],
    ids=["a column added", "a value corrected", "fewer digits"],
)
def test_what_no_image_has_told_is_not_made_up(other):
    with pytest.raises(NoChangeError, match="X"):
        change(np.column_stack([ONES, AGE])[:N_OBS], other)


def test_an_intercept_that_is_gone_changes_what_was_subtracted():
    X = np.column_stack([ONES, AGE])
    with pytest.raises(NoChangeError, match="constant"):
        change(X, X[:, 1:])


def test_rows_that_nearly_depend_on_each_other_are_not_enlarged():
    """Three images of nearly one age tell nothing of a column that is made for them."""
    X = np.column_stack([ONES, AGE, AGE**2])
    X[:3, 1:] = X[0, 1:] * (1 + 1e-13 * np.arange(3))[:, None]
    after = np.column_stack([ONES, np.arange(36.0)])
    rows = slice(0, 3)
    one, other = factorise_design(X), factorise_design(after)
    with pytest.raises(NoChangeError):
        find_change(
            select_design(one.Q, one.shift, (), rows),
            select_design(other.Q, other.shift, (), rows),
            other.condition,
        )


INTERCEPT = ONES[:, None]
SLOPE = np.column_stack([ONES, AGE])


@pytest.mark.parametrize(
    ("Z", "Z_after"),
    [
        (INTERCEPT, INTERCEPT),
        (SLOPE, SLOPE),
        (SLOPE, np.column_stack([ONES, center(AGE)])),
        (SLOPE, INTERCEPT),
    ],
    ids=["intercept", "slope", "centred slope", "no slope any more"],
)
def test_levels_get_other_numbers_and_more_images(Z, Z_after):
    before = make_factor(SUBJECT[:N_OBS], Z[:N_OBS])
    # The new images first, with subjects whose numbers come before.
    order = np.r_[24:36, 0:24]
    after = make_factor((100 - SUBJECT)[order], Z_after[order])
    X = np.column_stack([ONES, AGE])
    change(X[:N_OBS], X[order], (before,), (after,), slice(16, 32))


def test_factors_are_found_by_their_names():
    subject = make_factor(SUBJECT[:N_OBS], SLOPE[:N_OBS])
    site = make_factor(SITE[:N_OBS], INTERCEPT[:N_OBS])._replace(name="site")
    more = make_factor(SUBJECT, SLOPE), make_factor(SITE, INTERCEPT)._replace(name="site")
    X = np.column_stack([ONES, AGE])
    change(X[:N_OBS], X, (subject, site), more[::-1])
    change(X[:N_OBS], X, (subject, site), more[1:])
    with pytest.raises(NoChangeError, match="Z"):
        change(X[:N_OBS], X, (subject,), more)


@pytest.mark.parametrize("change_of", ["split", "joined", "moved", "effect"])
def test_other_levels_or_effects_are_not_made_up(change_of):
    subject, Z = SUBJECT.copy(), INTERCEPT
    if change_of == "split":
        subject[6] = 99
    elif change_of == "joined":
        subject[subject == 3] = 2
    elif change_of == "moved":
        subject[[6, 9]] = subject[[9, 6]]
    else:
        Z = RNG.normal(size=(36, 1))
    X = np.column_stack([ONES, AGE])
    before = make_factor(SUBJECT[:N_OBS], INTERCEPT[:N_OBS])
    with pytest.raises(NoChangeError, match="Z"):
        change(X[:N_OBS], X, (before,), (make_factor(subject, Z),))
