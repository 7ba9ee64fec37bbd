"""Rows and images belong together by columns, patterns and names, and never by their order."""

import fnmatch
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.frontends.columns import type_columns
from nipype_blm.frontends.listed import match_listed
from nipype_blm.frontends.matching import _compile_part, match_images, match_masks
from nipype_blm.frontends.observations import Observations, name_rows, select_complete
from nipype_blm.io.frames import read_frame
from nipype_blm.model.request import ListedPath


def frame_of(**columns):
    n = len(next(iter(columns.values())))
    frame = pd.DataFrame(columns, index=range(2, 2 + n), dtype=object)
    frame.attrs = {"source": "table.tsv", "separator": "\t", "levels": {}, "repeated": {}}
    return frame


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def list_paths(*names):
    return [ListedPath(Path("/data", name), f"line {i}") for i, name in enumerate(names, 1)]


def problem_of(function, *arguments, **options):
    with pytest.raises(InputError) as error:
        function(*arguments, **options)
    [problem] = error.value.problems
    return problem


def names_of(study):
    return [image.path.name for image in study.images]


# A column of paths.


@pytest.mark.parametrize("column", ["image", "InputFile", "Image", "effects_map_path"])
def test_a_column_of_paths_starts_from_the_folder_of_the_table(tmp_path, column):
    touch(tmp_path, "a/1.nii", "2.nii.gz")
    frame = frame_of(id=["x", "y"], **{column: ["2.nii.gz", "./a/1.nii"]})
    study = match_images(frame, None, tmp_path)
    assert [image.path for image in study.images] == [tmp_path / "2.nii.gz", tmp_path / "a/1.nii"]
    assert [image.where for image in study.images] == [
        *("line 2 of table.tsv", "line 3 of table.tsv")
    ]
    assert match_images(frame, column, tmp_path).images == study.images


def test_a_table_of_afni_lists_its_images(tmp_path):
    touch(tmp_path, "s1.nii", "s2.nii")
    path = tmp_path / "table.txt"
    path.write_text("Subj group InputFile \\\ns2 a s2.nii \\\ns1 b s1.nii\n")
    study = match_images(read_frame(path, "table"), None, tmp_path)
    assert names_of(study) == ["s2.nii", "s1.nii"]
    assert list(study.frame["Subj"]) == ["s2", "s1"]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("n/a", "column image is empty"),
        ("b.nii", "b.nii: no such file"),
        ("folder.nii", "folder.nii: a folder"),
        ("a.nii[1]", "names a part of a file"),
        ("a.nii,1", "names a part of a file"),
        ("a.txt", "its name does not end as that of an image"),
        ("https://x.org/a.nii", "is a https URL"),
        ("annex.nii", "datalad get"),
    ],
)
def test_a_row_without_an_image_is_refused_or_left_out(tmp_path, cell, reason):
    touch(tmp_path, "a.nii", "a.txt")
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "annex.nii").symlink_to(".git/annex/objects/x/y.nii")
    frame = frame_of(image=["a.nii", cell])
    problem = problem_of(match_images, frame, None, tmp_path)
    assert "1 of 2 rows of table.tsv has no image: line 3 of table.tsv (" in problem
    assert reason in problem
    assert "on_missing_image='drop'" in problem
    study = match_images(frame, None, tmp_path, "drop")
    assert names_of(study) == ["a.nii"]
    assert list(study.frame["image"]) == ["a.nii"]
    [excluded] = study.excluded
    assert excluded.row == "line 3 of table.tsv"
    assert reason in excluded.reason


def test_an_image_in_two_rows_is_refused(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    problem = problem_of(match_images, frame_of(image=["a.nii", "b.nii", "a.nii"]), None, tmp_path)
    assert "line 2 of table.tsv and line 4 of table.tsv" in problem


def test_what_is_neither_column_nor_pattern_is_answered_with_the_columns(tmp_path):
    frame = frame_of(id=["1"], path=["a.nii"])
    assert "no column called image or InputFile" in problem_of(match_images, frame, None, tmp_path)
    problem = problem_of(match_images, frame, "maps/*.nii", tmp_path)
    assert "is no column of table.tsv and has none in braces" in problem
    assert "The columns are: id, path." in problem


# A pattern.


@pytest.mark.parametrize(
    ("pattern", "cells"),
    [
        ("maps/sub-{id}_x.nii", ["01", "02"]),
        ("maps/sub-{id:02d}_x.nii", ["1", "2"]),
        ("maps/sub-{subject}_x.nii", ["01", "02"]),
        ("maps/sub-{sub:02d}_x.nii", ["sub-1", "sub-02"]),
        ("maps/{id}_x.nii", ["sub-01", "sub-02"]),
        ("maps/{id}_*.nii*", ["sub-01", "sub-02"]),
        ("m?ps/*{id}*", ["01", "02"]),
        ("{id:s}", ["maps/sub-01_x.nii", "maps/sub-02_x.nii"]),
    ],
)
def test_a_pattern_is_filled_from_the_columns(tmp_path, pattern, cells):
    touch(tmp_path, "maps/sub-01_x.nii", "maps/sub-02_x.nii", "maps/sub-01_x.json")
    study = match_images(frame_of(id=cells[::-1]), pattern, tmp_path)
    assert names_of(study) == ["sub-02_x.nii", "sub-01_x.nii"]
    assert not study.notices


def test_a_prefix_that_is_there_twice_is_written_once_and_said(tmp_path):
    touch(tmp_path, "sub-01/sub-01_x.nii", "sub-02/sub-02_x.nii")
    frame = frame_of(participant_id=["sub-01", "sub-02"])
    study = match_images(frame, "sub-{participant_id}/{participant_id}_x.nii", tmp_path)
    assert names_of(study) == ["sub-01_x.nii", "sub-02_x.nii"]
    [notice] = study.notices
    assert "writes sub- before values that begin with it, such as 'sub-01'" in notice


def test_a_star_that_finds_several_files_is_refused(tmp_path):
    touch(tmp_path, "1_a.nii", "1_b.nii", "2_a.nii", "10_a.nii")
    problem = problem_of(match_images, frame_of(id=["1", "2", "10"]), "{id}_*.nii", tmp_path)
    assert "finds several files for 1 row: line 2 of table.tsv (1_a.nii, 1_b.nii)" in problem


def test_the_two_files_of_an_image_count_as_one(tmp_path):
    touch(tmp_path, "1_a.img", "1_a.hdr", "2_a.img", "2_a.hdr")
    study = match_images(frame_of(id=["1", "2"]), "{id}_*", tmp_path)
    assert names_of(study) == ["1_a.img", "2_a.img"]


def test_a_folder_that_does_not_exist_has_no_image(tmp_path):
    touch(tmp_path, "1/a.nii", "2")
    study = match_images(frame_of(id=["1", "2", "3"]), "{id}/*.nii", tmp_path, "drop")
    assert names_of(study) == ["a.nii"]


def test_values_are_no_patterns(tmp_path):
    touch(tmp_path, "a_1.nii", "*_1.nii", "[a]_1.nii")
    study = match_images(frame_of(id=["*", "[a]", "a"]), "{id}_?.nii", tmp_path)
    assert names_of(study) == ["*_1.nii", "[a]_1.nii", "a_1.nii"]


@given(st.text("ab*?", max_size=6).filter(lambda part: "*" in part), st.text("ab", max_size=8))
def test_any_pattern_finds_what_a_shell_finds(part, name):
    assert bool(_compile_part(part)(name)) == fnmatch.fnmatchcase(name, part)


def test_images_of_the_pattern_without_a_row_are_said(tmp_path):
    touch(tmp_path, *(f"{i}.nii" for i in range(10)), ".hidden.nii")
    study = match_images(frame_of(id=["1", "3"]), "{id}.nii", tmp_path)
    [notice] = study.notices
    assert notice.startswith("8 images of this pattern have no row in table.tsv: ")
    assert "0.nii" in notice
    assert notice.endswith(" ... and 3 more.")


def test_if_no_image_is_found_what_is_there_is_said(tmp_path):
    touch(tmp_path, *(f"sub-{i:03d}/sub-{i:03d}_x.nii" for i in range(1, 41)))
    frame = frame_of(id=[f"{i}" for i in range(1, 41)])
    problem = problem_of(match_images, frame, "sub-{id}/sub-{id}_x.nii", tmp_path, "drop")
    assert "finds 0 of 40 images" in problem
    assert f"{tmp_path}/sub-1/sub-1_x.nii: no such file" in problem
    assert f"What is in {tmp_path}: sub-001, sub-002, " in problem
    assert "sub-020 ... and 20 more." in problem


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{ide}.nii", "Is it id?"),
        ("{id.real}.nii", "no column 'id.real'"),
        ("{id[0]}.nii", "no column 'id[0]'"),
        ("{}.nii", "no column ''"),
        ("{0}.nii", "no column '0'"),
        ("{id!r}.nii", "how many digits"),
        ("{id:>9999999999}.nii", "how many digits"),
        ("{id:.2f}.nii", "how many digits"),
        ("{id.nii", "is no pattern"),
        ("{id:03d}.nii", "'b' in column id is no whole number"),
    ],
)
def test_a_pattern_has_columns_only(tmp_path, pattern, message):
    touch(tmp_path, "a.nii")
    frame = frame_of(id=["b", "a"])
    assert message in problem_of(match_images, frame, pattern, tmp_path)


def test_a_row_without_a_value_of_the_pattern_has_no_image(tmp_path):
    touch(tmp_path, "1_2.nii")
    frame = frame_of(id=["1", "1"], session=["2", "n/a"])
    study = match_images(frame, "{id}_{session}.nii", tmp_path, "drop")
    assert names_of(study) == ["1_2.nii"]
    assert study.excluded[0].reason == "column session is missing"


def test_two_rows_that_the_pattern_does_not_tell_apart_are_refused(tmp_path):
    touch(tmp_path, "1.nii")
    frame = frame_of(id=["1", "1"], session=["1", "2"])
    assert "add to pattern the column" in problem_of(match_images, frame, "{id}.nii", tmp_path)


def test_long_lists_are_cut_short(tmp_path):
    touch(tmp_path, "0.nii")
    frame = frame_of(id=[str(i) for i in range(34)])
    problem = problem_of(match_images, frame, "{id}.nii", tmp_path)
    assert "33 of 34 rows of table.tsv have no image: line 3" in problem
    assert "... and 13 more." in problem


@given(order=st.permutations(range(8)))
def test_a_shuffled_table_gives_the_same_pairs(tmp_path_factory, order):
    folder = tmp_path_factory.getbasetemp() / "shuffled"
    keys = list(itertools.product(["1", "01", "10", "a_b"], ["1", "2"]))
    if not folder.exists():
        touch(folder, *(f"sub-{s}/ses-{t}/sub-{s}_ses-{t}_x.nii" for s, t in keys))
    rows = [keys[i] for i in order]
    frame = frame_of(participant_id=[s for s, _ in rows], session=[t for _, t in rows])
    images = list_paths(*(f"sub-{s}_ses-{t}_x.nii" for s, t in keys))
    studies = [
        match_images(frame, "sub-{subject}/ses-{session}/*_x.nii", folder),
        match_listed(frame, images),
    ]
    for study in studies:
        assert len(study.images) == len(keys)
        for image, (s, t) in zip(
            study.images, study.frame[["participant_id", "session"]].to_numpy(), strict=True
        ):
            assert image.path.name == f"sub-{s}_ses-{t}_x.nii"


# A list of images that comes from elsewhere.


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["sub-02", "sub-01"], ["sub-01_x.nii", "sub-02_x.nii"]),
        (["02", "01"], ["sub-01_x.nii", "sub-02_x.nii"]),
        (["2", "1"], ["sub-01_x.nii", "sub-02_x.nii"]),
        (["02", "01"], ["wf/_subject_id_01/c.nii", "wf/_subject_id_02/c.nii"]),
        (["B", "A"], ["sub-a/c.nii", "sub-b/c.nii"]),
        (["s2", "s1"], ["s1_con.nii", "s2_con.nii"]),
        (["10", "1"], ["sub-1_x.nii", "sub-10_x.nii"]),
    ],
)
def test_listed_images_find_their_rows(labels, names):
    study = match_listed(frame_of(participant_id=labels, age=["2", "1"]), list_paths(*names))
    assert list(study.frame["age"]) == ["1", "2"]
    assert [image.path for image in study.images] == [Path("/data", name) for name in names]
    assert list(study.frame.index) == [3, 2]


def test_zeros_count_where_labels_differ_in_nothing_else():
    frame = frame_of(id=["1", "01"], age=["1", "01"])
    study = match_listed(frame, list_paths("sub-01_x.nii", "sub-1_x.nii"))
    assert list(study.frame["age"]) == ["01", "1"]
    problem = problem_of(
        match_listed, frame_of(id=["1"]), list_paths("sub-01_x.nii", "sub-1_x.nii")
    )
    assert "1 of 2 images has no row in table.tsv, by id: sub-01_x.nii" in problem


def test_subjects_and_sessions_are_matched_together():
    frame = frame_of(subject=["1", "1", "2", "2"], session=["2", "1", "1", "2"], y=[*"badc"])
    frame["y"] = ["12", "11", "21", "22"]
    for names in (
        ["sub-1_ses-1_x.nii", "sub-1_ses-2_x.nii", "sub-2_ses-1_x.nii", "sub-2_ses-2_x.nii"],
        ["sub-1/ses-1/x.nii", "sub-1/ses-2/x.nii", "sub-2/ses-1/x.nii", "sub-2/ses-2/x.nii"],
    ):
        study = match_listed(frame, list_paths(*names))
        assert list(study.frame["y"]) == ["11", "12", "21", "22"]


def test_names_without_entities_are_matched_by_two_columns():
    frame = frame_of(subject=["anna", "anna", "berta", "berta"], session=["pre", "post"] * 2)
    names = ["berta_post.nii", "anna_pre.nii", "anna_post.nii", "berta_pre.nii"]
    study = match_listed(frame, list_paths(*names))
    assert ["_".join(row) + ".nii" for row in study.frame.to_numpy()] == names


def test_names_are_matched_by_the_column_that_has_them():
    frame = frame_of(age=["1", "2", "3"], scan=["x7", "x8", "x9"], group=["a", "b", "a"])
    study = match_listed(frame, list_paths("x9.nii", "x7.nii", "x8.nii"))
    assert list(study.frame["age"]) == ["3", "1", "2"]


def test_a_column_of_paths_counts_before_all_others():
    frame = frame_of(id=["1", "2"], image=["/data/a/sub-2.nii", "a/sub-1.nii"])
    study = match_listed(frame, list_paths("a/sub-1.nii", "a/sub-2.nii"))
    assert list(study.frame["id"]) == ["2", "1"]


def test_rows_without_a_listed_image_are_left_out_and_said():
    frame = frame_of(id=["1", "2", "3"])
    study = match_listed(frame, list_paths("sub-3.nii", "sub-1.nii"))
    assert list(study.frame["id"]) == ["3", "1"]
    assert [each.row for each in study.excluded] == ["line 3 of table.tsv"]
    assert "1 of 3 rows of table.tsv have no image in the list" in study.notices[0]


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        (["1", "2"], ["sub-1.nii", "sub-3.nii"], "1 of 2 images has no row"),
        (["1", "1"], ["sub-1.nii"], "has several rows in table.tsv, by id: sub-1.nii (line 2"),
        (["1", "2"], ["sub-1_run-1.nii", "sub-1_run-2.nii"], "Images share rows of table.tsv"),
        (["s7", "s8", "s9"], ["s7.nii", "s8.nii", "s6.nii"], "1 of 3 images has no row"),
        (["x", "y"], ["1.nii", "2.nii"], "is not known: no column has what is in their names"),
    ],
)
def test_listed_images_that_have_not_one_row_each_are_refused(ids, names, message, tmp_path):
    images = list_paths(*names)
    if len(images) == 1:
        path = tmp_path / names[0]
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), path)
        images = [ListedPath(path, "line 1")]
    assert message in problem_of(match_listed, frame_of(id=ids), images)


def test_the_rows_of_a_4d_image_alone_are_its_volumes(tmp_path):
    path = tmp_path / "all.nii"
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2, 3)), np.eye(4)), path)
    images = [ListedPath(path, "")]
    study = match_listed(frame_of(id=["b", "a", "c"]), images)
    assert list(study.frame["id"]) == ["b", "a", "c"]
    assert "in their order" in study.notices[0]
    problem = problem_of(match_listed, frame_of(id=["b", "a"]), images)
    assert "has 3 volumes, but table.tsv has 2 rows" in problem
    frame, _ = type_columns(frame_of(x=["1", "n/a", "2"]), ["x"])
    study = Observations(frame, images)
    assert "are volumes of one file" in problem_of(select_complete, study, ["x"], "drop")


# Rows that lack a value.


def study_of(**columns):
    frame, _ = type_columns(frame_of(**columns), columns)
    return Observations(frame, list_paths(*(f"{i}.nii" for i in range(len(frame)))))


def test_missing_values_are_refused_with_where_they_are():
    study = study_of(age=["1", "n/a", "3", ""], sex=["F", "M", "n/a", "M"])
    problem = problem_of(select_complete, study, ["age", "sex"])
    assert "values are missing in 3 of 4 rows: age in 2 (line 3, line 5); sex in 1 (line 4)." in (
        problem
    )
    assert "on_missing='drop'" in problem
    assert select_complete(study, []) is study


def test_a_label_that_is_taken_as_missing_is_named():
    study = study_of(drug=["none", "placebo", "n/a", "Null"])
    problem = problem_of(select_complete, study, ["drug"])
    end = "where 'Null' and 'none' are taken as missing unless drug is set to categorical."
    assert f"drug in 3 (line 2, line 4, line 5), {end}" in problem
    frame, _ = type_columns(frame_of(drug=["none", "placebo"]), ["drug"], {"drug": "categorical"})
    assert list(frame["drug"]) == ["none", "placebo"]


def test_a_variable_that_no_column_has_is_refused():
    assert "no column 'b'" in problem_of(select_complete, study_of(age=["1"]), ["age", "b"])


def test_rows_with_missing_values_may_be_left_out():
    study = study_of(age=["1", "n/a", "3"], sex=["F", "M", "F"])
    study = select_complete(study, ["age", "sex"], "drop")
    assert list(study.frame["age"]) == [1, 3]
    assert list(study.frame["sex"].cat.categories) == ["F"]
    assert names_of(study) == ["0.nii", "2.nii"]
    assert list(study.excluded) == [("line 3 of table.tsv", "/data/1.nii", "missing: age")]


def test_if_nothing_is_left_that_is_said():
    study = study_of(age=["1", ""], sex=["", "M"])
    problem = problem_of(select_complete, study, ["age", "sex"], "drop")
    assert problem.endswith("No row is left: leave out the variable that is missing most.")
    study = study_of(age=["1", "2"], sex=["", "n/a"])
    assert "'sex' has no value" in problem_of(select_complete, study, ["age", "sex"], "drop")


def test_masks_follow_their_images():
    study = study_of(age=["1", "n/a", "3"])
    masks = [*list_paths("a.nii"), None, *list_paths("c.nii")]
    study = Observations(study.frame, study.images, masks)
    assert [m.path.name for m in select_complete(study, ["age"], "drop").data_masks] == [
        *("a.nii", "c.nii")
    ]


def test_rows_are_called_by_their_lines_or_their_names():
    assert name_rows(frame_of(x=["1"])) == ["line 2 of table.tsv"]
    assert name_rows(pd.DataFrame({"x": [1]}, index=["sub-1 ses-2"])) == ["sub-1 ses-2"]


def test_each_row_has_a_mask_which_rows_may_share(tmp_path):
    touch(tmp_path, "1_a.nii", "1_b.nii", "2_a.nii", "m1.nii", "m2.nii")
    frame = frame_of(id=["1", "2", "1"], session=["b", "a", "a"])
    study = match_images(frame, "{id}_{session}.nii", tmp_path)
    found = match_masks(study, "m{id}.nii", tmp_path)
    assert [mask.path.name for mask in found.data_masks] == ["m1.nii", "m2.nii", "m1.nii"]
    problem = problem_of(match_masks, study, "m{session}.nii", tmp_path)
    assert problem.startswith("data_masks 'm{session}.nii' finds 0 of 3 masks.")
    (tmp_path / "m2.nii").unlink()
    problem = problem_of(match_masks, study, "m{id}.nii", tmp_path)
    assert problem.startswith("1 of 3 rows of table.tsv has no mask: line 3 of table.tsv (")
    assert problem.endswith("correct data_masks.")
    assert "finds several files" in problem_of(match_masks, study, "{id}_?.nii", tmp_path)
