"""What fields name is read once, and told of in the words of its user."""

import pytest

from nipype_blm.formula.parse import parse_formula
from nipype_blm.frontends.blm import WORDS
from nipype_blm.frontends.reading import list_files
from nipype_blm.frontends.values import is_mixed_formula


@pytest.mark.parametrize("name", ["all.nii", "all.nii.gz", "one.IMG", "x.mgz"])
def test_an_image_in_the_place_of_a_list_is_no_list(tmp_path, name):
    [item] = list_files(tmp_path / name, "images", WORDS)
    assert item == (tmp_path / name, "Y_files")


def test_files_given_one_by_one_are_named_by_their_position(tmp_path):
    given = [tmp_path / "b.nii", tmp_path / "a.nii"]
    assert list_files(given, "images", WORDS) == [
        (given[0], "entry 1 of Y_files"),
        (given[1], "entry 2 of Y_files"),
    ]


@pytest.mark.parametrize(
    ("text", "is_mixed"),
    [
        ("~ age + (1 | subject)", True),
        ("~ C(site, Treatment('A|B'))", False),
        ('~ C(site, Treatment("A|B")) + `x|y`', False),
        ("~ C(site, Treatment('A|B')) + (1 | `x|y`)", True),
    ],
)
def test_a_bar_within_quotes_makes_no_mixed_model(text, is_mixed):
    assert is_mixed_formula(text) == is_mixed == parse_formula(text).is_mixed
