"""Names of rows are found in the names of images where a reader would find them, and only there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.model.names import (
    agree_as_written,
    find_id_columns,
    is_id_header,
    match_names,
    may_name_images,
    varying_parts,
)

N = 12
SHELL = sorted(range(1, N + 1), key=str)  # 1, 10, 11, 12, 2, ...: as a shell lists files


def write_all(template, numbers=range(1, N + 1)):
    return [template.format(i) for i in numbers]


STYLES = {
    "file": ("sub-{}", "/d/sub-{}_cope1.nii"),
    "folder": ("sub-{}", "/d/sub-{}/func/cope1.nii.gz"),
    "padded row": ("sub-{:02}", "/d/sub-{}_cope1.nii"),
    "padded image": ("sub-{}", "/d/sub-{:03}_cope1.nii"),
    "no separator": ("sub{:02}", "/d/sub-{:02}/cope1.nii"),
    "other separator": ("sub_{:02}", "/d/sub-{:02}/cope1.nii"),
    "case": ("SUB-{}", "/d/Sub-{}.nii"),
    "session": ("sub-{:02}_ses-1", "/d/sub-{0:02}/ses-1/sub-{0:02}_ses-1_bold.nii"),
    "parts apart": ("sub-{:02}_run-1", "/d/sub-{:02}_task-rest_run-1_bold.nii"),
    "parts in folders": ("sub-{:02}_ses-1", "/d/sub-{:02}/anat/ses-1/x.nii"),
    "path": ("/d/s{}/cope1.nii", "/d/s{}/cope1.nii"),
    "letters around": ("NDAR_INV{:02}CP", "/d/sub-NDARINV{:02}CP/cope1.nii"),
    "number of a subject": ("{}", "/d/sub-{:02}_cope1.nii"),
    "number alone": ("{}", "/d/{}_cope1.nii"),
    "number of a folder": ("{}", "/d7/{}/cope1.nii"),
    "number written as a decimal one": ("{}.0", "/d/sub-{}.nii"),
    "letters of SPM": ("sub-{:02}", "/d/swrsub-{:02}_bold.nii"),
    "number behind letters of SPM": ("{}", "/d/swrsub-{:02}_bold.nii"),
    "accents": ("Zoë {}", "/d/zoe\u0308_{}.nii"),
}


@pytest.mark.parametrize("style", STYLES)
def test_rows_in_another_order_contradict_in_every_style(style):
    label, image = STYLES[style]
    labels = write_all(label)
    assert match_names(labels, write_all(image)).find_contradictions() == []
    match = match_names(labels, write_all(image, SHELL))
    assert match.find_contradictions() == list(range(1, N))  # sub-1 comes first in both
    assert match.is_permutation
    np.testing.assert_array_equal(match.sort_rows() + 1, SHELL)


@pytest.mark.parametrize(
    ("label", "image"),
    [
        ("sub-{}", "/d/img_{:03}.nii"),
        ("person {}", "/d/sub-{}.nii"),
        ("s{}", "/d/patients{}.nii"),  # not within a word
        ("1{}", "/d/sub-{}.nii"),
        ("", "/d/sub-{}.nii"),
        ("{}", "/d/x-a.nii"),
    ],
)
def test_names_that_are_not_found_say_nothing(label, image):
    match = match_names(write_all(label), write_all(image, SHELL))
    assert match.find_contradictions() == []
    assert not match.is_permutation


def test_a_number_ends_where_its_digits_do():
    labels, images = ["sub-1", "sub-2", "sub-10"], ["sub-10.nii", "sub-1_0.nii", "sub-2.nii"]
    match = match_names(labels, images)
    assert match.find_contradictions() == [0, 1, 2]
    np.testing.assert_array_equal(match.sort_rows(), [2, 0, 1])


def test_leading_zeros_count_where_nothing_else_tells_names_apart():
    images = ["s-1.nii", "s-01.nii", "s-2.nii"]
    assert match_names(["s-1", "s-01", "s-2"], images).find_contradictions() == []
    assert match_names(["s-01", "s-1", "s-2"], images).find_contradictions() == [0, 1]


def test_the_longest_name_counts():
    images = ["anna_1.nii", "anna_b_1.nii", "carl_1.nii"]
    assert match_names(["Anna", "Anna B", "Carl"], images).find_contradictions() == []
    assert match_names(["Anna B", "Anna", "Carl"], images).find_contradictions() == [0, 1]


def test_names_that_repeat_contradict_where_they_are_found_elsewhere():
    images = [f"sub-0{i}_ses-{j}.nii" for i in (1, 2, 3) for j in (1, 2)]
    by_subject = ["sub-01", "sub-01", "sub-02", "sub-02", "sub-03", "sub-03"]
    by_session = ["sub-01", "sub-02", "sub-03"] * 2
    for labels in (by_session, [label.removeprefix("sub-0") for label in by_session]):
        assert match_names(labels, images).find_contradictions() == [1, 2, 3, 4]
    assert match_names(by_subject, images).find_contradictions() == []


def test_a_shift_by_a_missing_subject_is_found():
    """Not a permutation: one subject lacks its image, and another one its row."""
    labels = write_all("sub-{}", [i for i in range(1, N + 1) if i != 7])
    images = write_all("/d/sub-{}.nii", [i for i in range(1, N + 1) if i != 5])
    match = match_names(labels, images)
    assert not match.is_permutation
    assert match.find_contradictions() == [5]  # row 5, sub-5, has no image: it says nothing


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        # scanners beside runs, sites beside sessions, families beside subjects
        (["1", "2", "3", "3", "1", "2"], [f"sub-{i}_run-{j}.nii" for i in "45" for j in "123"]),
        (
            ["1", "1", "2", "2"],
            ["sub-a_ses-1.nii", "sub-a_ses-2.nii", "b_ses-1.nii", "b_ses-2.nii"],
        ),
        (["1", "2", "3", "4", "1", "2"], write_all("sub-{}.nii", range(1, 7))),
        # images counted from 0, people from 1
        (write_all("{}"), write_all("img_{:03}.nii", range(N))),
        (["cope1"] * 6, [f"sub-{i}_cope1.nii" for i in range(6)]),
        # a folder of the study has the name of a person
        (["anna", "bea", "carl"], ["/anna/x1.nii", "/anna/x2.nii", "/anna/x3.nii"]),
        # names of four groups of images, of many
        (write_all("sub-{}", [0] * 4 + [1] * 4 + [2] * 4), write_all("sub-{:02}.nii", range(N))),
    ],
)
def test_numbers_and_names_that_agree_by_chance_do_not_contradict(labels, images):
    assert match_names(labels, images).find_contradictions() == []


def test_numbers_of_subjects_are_found_behind_the_names_of_several_sites():
    labels = write_all("50{:03}")
    images = [f"/d/{'Pitt' if i % 3 else 'NYU'}_0050{i:03}_func.nii.gz" for i in SHELL]
    match = match_names(labels, images)
    assert match.find_contradictions() == list(range(1, N))
    np.testing.assert_array_equal(match.sort_rows() + 1, SHELL)


def test_row_numbers_say_nothing_but_other_numbers_do():
    """R and pandas write 1, 2, ... or 0, 1, ... in a column without a header."""
    images = write_all("sub-{}.nii", SHELL)
    for first in (0, 1):
        labels = write_all("{}", range(first, N + first))
        assert match_names(labels, images, may_be_counts=True).find_contradictions() == []
    labels, images = write_all("10{}"), write_all("sub-10{}.nii", SHELL)
    assert len(match_names(labels, images, may_be_counts=True).find_contradictions()) == N - 1


@given(st.permutations(range(N)), st.sampled_from(sorted(STYLES)))
def test_what_agrees_as_written_does_not_contradict(order, style):
    label, image = STYLES[style]
    labels = [write_all(label)[i] for i in order]
    images = write_all(image)
    if agree_as_written(labels, images):
        assert match_names(labels, images).find_contradictions() == []


@pytest.mark.parametrize(
    ("label", "image", "agrees"),
    [
        ("sub-{}", "/d/sub-{}_cope1.nii", True),
        ("sub-{}_cope1.nii", "/d/sub-{}_cope1.nii", True),
        ("/d/sub-{}_cope1.nii", "/d/sub-{}_cope1.nii", True),
        ("sub-{}", "/d/sub-{:02}_cope1.nii", False),
        ("sub-1", "/d/sub-1{}_cope1.nii", False),
        ("ub-{}", "/d/sub-{}_cope1.nii", False),
        ("{}", "/d/{}_cope1.nii", False),
        ("", "/d/{}_cope1.nii", True),  # a row without a name
    ],
)
def test_agreement_as_written_is_that_of_whole_words(label, image, agrees):
    assert agree_as_written(write_all(label), write_all(image)) == agrees


@given(st.permutations(range(N)), st.sampled_from(sorted(STYLES)))
def test_sorting_undoes_any_permutation(order, style):
    label, image = STYLES[style]
    labels = [write_all(label)[i] for i in order]
    match = match_names(labels, write_all(image))
    assert [labels[i] for i in match.sort_rows()] == write_all(label)


# ------------------------------------------------------------- columns that look like names

TREND = np.arange(1.0, N + 1)


@pytest.mark.parametrize(
    ("header", "column", "image", "is_asked"),
    [
        ("participant_id", TREND, "img{}.nii", True),
        ("Subject", TREND, "img{}.nii", True),
        ("ID", TREND + 5000, "img{}.nii", True),
        ("src_subject_id", TREND, "img{}.nii", True),
        ("participant-id", TREND, "img{}.nii", True),
        ("participant_id", TREND // 2, "img{}.nii", True),  # two sessions of each
        ("site_id", TREND % 2, "img{}.nii", False),  # two values may be a group
        ("subject", TREND / 4, "img{}.nii", False),
        ("age", TREND + 100, "sub-1{:02}.nii", True),
        ("X1", TREND[::-1] + 100, "1{:02}_cope1.nii", True),
        ("trend", TREND, "sub-{:02}.nii", False),
        ("rank", TREND[::-1], "sub-{:02}.nii", False),
        ("trend", TREND - 1, "sub-{:02}.nii", False),
        ("age", TREND + 100, "sub-1{:02}.5.nii", True),
        ("age", TREND + 19, "sub-a_age-{}.nii", False),
        ("age", TREND + 19, "sub-{}.nii", False),
        ("paid", TREND, "img{}.nii", False),
        ("fluid", TREND, "img{}.nii", False),
    ],
)
def test_a_column_is_asked_about_by_its_header_or_by_the_numbers_of_subjects(
    header, column, image, is_asked
):
    found = find_id_columns(np.c_[np.ones(N), column], ["one", header], write_all(image))
    assert [i for i, _ in found] == [1] * is_asked


@pytest.mark.parametrize("header", ["id", "ID", "Subject_ID", "participant id", "sub", "x_id"])
def test_headers_that_name_rows(header):
    assert is_id_header(header)


@pytest.mark.parametrize("header", ["", "age", "idle", "X1", "s", "valid", "submitted"])
def test_headers_that_do_not(header):
    assert not is_id_header(header)


@pytest.mark.parametrize(
    ("names", "with_word", "plain"),
    [
        (["/m/anna_mask.nii", "/m/bea_mask.nii"], ["m/anna", "m/bea"], ["anna", "bea"]),
        (["sub-1_mask.nii", "sub-2_mask.nii"], ["sub-1", "sub-2"], ["1", "2"]),
        (["s1_a.nii", "s2_b.nii"], ["s1_a", "s2_b"], ["1_a", "2_b"]),
        (["a.nii", "a_a.nii"], ["a", "a_a"], ["", "a"]),
        (["a.nii", "a.nii"], ["nii", "nii"], ["", ""]),
    ],
)
def test_what_differs_between_names(names, with_word, plain):
    assert varying_parts(names, with_word_before=False) == plain
    assert varying_parts(names, with_word_before=True) == with_word


@pytest.mark.parametrize(
    ("labels", "may"),
    [
        (["sub-01", "sub-02"], True),
        (["101", "102"], True),
        (["1", "2", "3"], False),  # stimuli, raters, families, beside sub-1 and run-1
        (["L", "R"], False),  # hands, beside hemi-L
        (["site1", "other"], False),
    ],
)
def test_labels_of_factors_name_images_only_if_nothing_else_is_called_so(labels, may):
    assert may_name_images(labels) == may


@pytest.mark.parametrize("header", ["year", "Age", "months_since", "visit"])
def test_what_measures_may_be_in_the_names_of_images(header):
    """2001.nii with a column year, sub-01_3mo.nii with months."""
    values = np.arange(2001.0, 2009.0)[:, None]
    names = [f"{year:.0f}.nii" for year in values[:, 0]]
    assert find_id_columns(values, [header], names) == []
    assert find_id_columns(values, ["x"], names) != []
