"""Rows follow the images: the plan is the same however tables are sorted, if names tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.errors import InputError
from nipype_blm.stages.plan import PreparedRun

N_OBS, SHAPE = 12, (2, 2, 1)
RNG = np.random.default_rng(0)
VALUES = RNG.normal(5, 1, (N_OBS, *SHAPE))
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=N_OBS).round(3)])
NAMES = [f"y{i:04d}" for i in range(N_OBS)]  # those of the images
LEVEL = np.arange(N_OBS, dtype=np.int32) // 3
FACTOR = RandomFactor("site", LEVEL, X[:, :1])
ORDER = RNG.permutation(N_OBS)
BY_NAME = {"match_rows": "by_name"}

Plan = Callable[..., PreparedRun]


@pytest.fixture
def plan(prepare: Plan, tmp_path: Path) -> Plan:
    """Function that plans a study with tables of named rows; each in an order of its own."""

    def plan(
        X: np.ndarray,
        names: list[str],
        order: np.ndarray,
        order_of_Z: np.ndarray | None = None,
        **fields: Any,
    ) -> PreparedRun:
        write(tmp_path / "study" / "named.csv", names, X, order)
        factor = None
        if order_of_Z is not None:
            factor = FACTOR
            labels = [f"site {k}" for k in LEVEL]
            text = "".join(f"{labels[i]}\n" for i in order_of_Z)
            (tmp_path / "study" / "labels.txt").write_text(text)
            write(tmp_path / "study" / "effects.csv", names, X[:, :1] + X[:, 1:], order_of_Z)
            each = {"name": "site", "factor": "labels.txt", "design": "effects.csv"}
            fields["Z"] = [{"f1": each}]
            fields["safeMode"] = False
        return prepare(VALUES, X, factor, **{"X": "named.csv"} | fields)

    return plan


def write(path: Path, names: list[str], rows: np.ndarray, order: np.ndarray) -> None:
    columns = [f"x{i}" for i in range(rows.shape[1])]
    lines = [",".join(["name", *columns])]
    lines += [",".join([names[i], *map(repr, rows[i].tolist())]) for i in order]
    path.write_text("\n".join(lines))


def rows_of(run: PreparedRun) -> dict[str, tuple[float, ...]]:
    """Return the row of X of each image."""
    images = [entry.image.stem for entry in run.images]
    return dict(zip(images, map(tuple, run.spec.X), strict=True))


EXPECTED = dict(zip(NAMES, map(tuple, X), strict=True))


def test_rows_in_the_order_of_the_images_stay_there(plan):
    assert rows_of(plan(X, NAMES, np.arange(N_OBS))) == EXPECTED
    assert rows_of(plan(X, NAMES, np.arange(N_OBS), **BY_NAME)) == EXPECTED


def test_rows_in_any_other_order_are_refused_or_sorted_by_name(plan):
    with pytest.raises(InputError, match=r"contradicts the names of \d+ of 12 images: row 1 is"):
        plan(X, NAMES, ORDER)
    run = plan(X, NAMES, ORDER, **BY_NAME)
    assert rows_of(run) == EXPECTED
    assert [pair.row for pair in run.pairs[:3]] == [int(np.argsort(ORDER)[i]) + 1 for i in range(3)]
    run = plan(X, NAMES, ORDER, match_rows="by_order")
    assert rows_of(run) == dict(zip(NAMES, map(tuple, X[ORDER]), strict=True))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".IMG", ".mgz", ".nii.zst"])
def test_rows_may_be_named_after_files_of_another_format(plan, ending):
    names = [f"{name}{ending}" for name in NAMES]
    with pytest.raises(InputError, match=r"contradicts the names of \d+ of 12 images: row 1 is"):
        plan(X, names, ORDER)
    assert rows_of(plan(X, names, ORDER, **BY_NAME)) == EXPECTED


def test_a_design_of_random_effects_is_sorted_by_its_own_names_and_labels_that_vary_are_refused(
    plan,
):
    """Labels have no names here: their order is known only if X is in that of the images."""
    run = plan(X, NAMES, np.arange(N_OBS), np.arange(N_OBS), **BY_NAME)
    [factor] = run.spec.factors
    by_image = {entry.image.stem: i for i, entry in enumerate(run.images)}
    at = [by_image[name] for name in NAMES]
    assert rows_of(run) == EXPECTED
    assert_array_equal(factor.Z[at, 0], X.sum(axis=1))
    same = np.equal.outer(LEVEL, LEVEL)
    assert_array_equal(np.equal.outer(factor.level[at], factor.level[at]), same)
    with pytest.raises(InputError, match=r"labels\.txt has no names that are found in those of"):
        plan(X, NAMES, ORDER, ORDER, **BY_NAME)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({3: "y0099"}, r"y0003\.nii has no row; y0099 names 1 row and no image"),
        ({3: "y0004"}, r"y0003\.nii has no row; y0004 names 2 rows and 1 image"),
    ],
)
def test_every_image_needs_one_row_and_every_row_one_image(plan, change, what):
    names = [change.get(i, name) for i, name in enumerate(NAMES)]
    with pytest.raises(InputError, match=rf"cannot be matched by name: {what}\."):
        plan(X, names, ORDER, **BY_NAME)


def test_rows_without_names_cannot_be_matched_by_name(prepare):
    with pytest.raises(InputError, match=r"by_name, but X .*X\.csv has no names of rows"):
        prepare(VALUES, X, **BY_NAME)


def test_names_that_are_found_in_no_image_say_nothing(plan):
    names = [f"person {chr(97 + i)}" for i in range(N_OBS)]
    assert rows_of(plan(X, names, np.arange(N_OBS))) == EXPECTED
    with pytest.raises(InputError, match="cannot be matched by name"):
        plan(X, names, np.arange(N_OBS), **BY_NAME)
