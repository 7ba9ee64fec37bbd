"""What a user sees before a run: pairs of images and rows, and what may not be meant."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nipype_blm.core.factors import RandomFactor
from nipype_blm.stages.plan import PreparedRun

SHAPE = (2, 2, 1)
RNG = np.random.default_rng(0)


def make_X(n: int) -> np.ndarray:
    return np.column_stack([np.ones(n), np.random.default_rng(n).normal(size=n).round(3)])


def make_values(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(5, 1, (n, *SHAPE))


@pytest.mark.parametrize(("n", "shown"), [(12, [0, 1, 2, 9, 10, 11]), (5, [0, 1, 2, 3, 4])])
def test_the_first_and_the_last_three_images_are_shown_with_their_rows(prepare, n, shown):
    X = make_X(n)
    pairs = prepare(make_values(n), X).pairs
    assert [pair.image for pair in pairs] == [f"y{i:04d}.nii" for i in shown]
    assert [pair.row for pair in pairs] == [i + 1 for i in shown]
    assert [pair.values for pair in pairs] == [tuple(X[i]) for i in shown]
    assert {pair.name for pair in pairs} == {""}


def test_pairs_have_the_labels_of_random_factors_in_the_order_of_the_list(prepare):
    """Although images are read in the order of the levels."""
    level = np.random.default_rng(1).permutation(np.arange(12, dtype=np.int32) // 3)
    run = prepare(make_values(12), make_X(12), RandomFactor("site", level, np.ones((12, 1))))
    assert [entry.image.stem for entry in run.images] != sorted(e.image.stem for e in run.images)
    shown = [0, 1, 2, 9, 10, 11]
    assert [pair.levels for pair in run.pairs] == [(str(level[i]),) for i in shown]


@pytest.fixture
def notices_of(
    prepare: Callable[..., PreparedRun], tmp_path: Path
) -> Callable[[list[str]], list[str]]:
    """Function that plans a study whose list has these lines, and returns the notices."""

    def find(lines: list[str]) -> list[str]:
        prepare(make_values(12), make_X(12))  # writes the images
        (tmp_path / "study" / "list.txt").write_text("".join(f"{line}\n" for line in lines))
        n = len(lines)
        return prepare(make_values(12)[:n], make_X(n), Y_files="list.txt").notices

    return find


LINES = [f"y{i:04d}.nii" for i in range(12)]


def test_a_study_without_anything_odd_has_no_notice(notices_of):
    assert notices_of(LINES) == []


def test_an_image_listed_again_is_told_of_with_all_its_lines(notices_of):
    lines = [*LINES[:9], LINES[2], LINES[5], LINES[2]]
    notices = notices_of(lines)
    assert len(notices) == 2
    assert notices[0].startswith("line 3, line 10 and line 12 of list.txt are the same image, ")
    assert "/y0002.nii; it counts as often as it is listed." in notices[0]
    assert notices[1].startswith("line 6 and line 11 of list.txt are the same image, ")


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_an_image_listed_by_another_name_is_the_same_image(notices_of, tmp_path, kind):
    link = tmp_path / "another name.nii"
    if kind == "symbolic":
        link.symlink_to(tmp_path / "study" / LINES[2])
    else:
        notices_of(LINES)
        link.hardlink_to(tmp_path / "study" / LINES[2])
    [notice] = notices_of([*LINES[:11], str(link)])
    assert notice.startswith("line 3 and line 12 of list.txt are the same image, ")


def test_a_copy_is_another_image(notices_of, tmp_path):
    notices_of(LINES)
    copy = tmp_path / "copy.nii"
    copy.write_bytes((tmp_path / "study" / LINES[2]).read_bytes())
    assert notices_of([*LINES[:11], str(copy)]) == []


@pytest.mark.parametrize(
    ("X", "has_intercept"),
    [
        (np.column_stack([np.ones(12), RNG.normal(size=12)]), True),
        (np.column_stack([np.arange(12) % 2, 1 - np.arange(12) % 2]), True),  # their sum is one
        (np.column_stack([np.full(12, -3.5), RNG.normal(size=12)]), True),
        (RNG.normal(size=(12, 2)), False),
        (np.arange(12.0)[:, None], False),
    ],
)
def test_a_design_in_which_nothing_is_constant_is_told_of(prepare, X, has_intercept):
    notices = prepare(make_values(12), X).notices
    assert [notice.startswith("X has no intercept") for notice in notices] == (
        [] if has_intercept else [True]
    )
