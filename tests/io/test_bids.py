"""Names of BIDS are read as the schema has them, and trees of any shape are walked once."""

import pytest

from nipype_blm.errors import InputError
from nipype_blm.io.bids import (
    ENTITIES,
    LONG_NAMES,
    index_tree,
    name_entity,
    read_description,
    split_name,
    strip_label,
)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def names(root):
    return [file.path.name for file in index_tree(root)]


@pytest.mark.parametrize(
    ("name", "entities", "suffix", "extension"),
    [
        ("sub-01_T1w.nii.gz", {"subject": "01"}, "T1w", ".nii.gz"),
        (
            "sub-01_ses-a_task-x_acq-y_dir-AP_run-1_echo-2_space-MNI_res-2_desc-b_bold.nii",
            {"subject": "01", "session": "a", "task": "x", "acquisition": "y", "direction": "AP"}
            | {"run": "1", "echo": "2", "space": "MNI", "resolution": "2", "description": "b"},
            "bold",
            ".nii",
        ),
        (
            "contrast-facesGtHouses_stat-t_statmap.nii.gz",
            {"contrast": "facesGtHouses", "stat": "t"},
            "statmap",
            ".nii.gz",
        ),
        ("sub-1_foo-bar_x.func.gii", {"subject": "1", "foo": "bar"}, "x", ".func.gii"),
        ("sub-1_acq-a_b_bold.nii", {"subject": "1", "acquisition": "a_b"}, "bold", ".nii"),
        ("sub-1_desc-0.5mm_bold.nii", {"subject": "1", "description": "0.5mm"}, "bold", ".nii"),
        ("sub-1_desc-a-b_bold.nii", {"subject": "1", "description": "a-b"}, "bold", ".nii"),
        ("sub-é_bold.nii", {"subject": "é"}, "bold", ".nii"),
        ("sub-01", {"subject": "01"}, "", ""),
        ("sub-01.html", {"subject": "01"}, "", ".html"),
        ("cope1.nii.gz", {}, "cope1", ".nii.gz"),
        ("con_0001.nii", {}, "0001", ".nii"),
    ],
)
def test_a_name_is_split_into_entities_suffix_and_extension(name, entities, suffix, extension):
    assert split_name(name) == (entities, suffix, extension)


def test_no_two_entities_share_a_short_name():
    assert len(LONG_NAMES) == len(ENTITIES)


@pytest.mark.parametrize(
    ("column", "entity"),
    [
        *((name, "subject") for name in ("participant_id", "Subj", "subject", "ID", "sub")),
        ("session_id", "session"),
        ("Run", "run"),
        ("volume", None),
        ("identity", None),
    ],
)
def test_columns_name_entities(column, entity):
    assert name_entity(column) == entity


def test_a_label_may_have_the_short_name_of_its_entity():
    assert [strip_label(x, "subject") for x in ("sub-01", "01", "SUB-01", "subway")] == [
        *("01", "01", "01", "subway")
    ]


def test_some_folders_are_not_entered(tmp_path):
    for folder in ("sub-1", "sub-1/ses-1/func", "node-run/sub-1"):
        touch(tmp_path / folder / "sub-1_bold.nii")
    for folder in (".git", "sourcedata", "derivatives/x", "work", "sub-1/figures"):
        touch(tmp_path / folder / "sub-2_bold.nii")
    assert names(tmp_path) == ["sub-1_bold.nii"] * 3


def test_the_folder_of_a_file_is_its_data_type(tmp_path):
    touch(tmp_path / "sub-1" / "ses-1" / "func" / "sub-1_bold.nii")
    touch(tmp_path / "sub-1" / "sub-1_bold.nii")
    assert [file.datatype for file in index_tree(tmp_path)] == ["func", ""]


def test_links_are_followed_but_in_no_circle(tmp_path):
    touch(tmp_path / "store" / "sub-1_bold.nii")
    root = tmp_path / "root"
    (root / "sub-1").mkdir(parents=True)
    (root / "sub-1" / "sub-1_bold.nii").symlink_to(tmp_path / "store" / "sub-1_bold.nii")
    (root / "sub-1" / "sub-1_T1w.nii").symlink_to(tmp_path / "absent")
    (root / "sub-1" / "again").symlink_to(root)
    (root / "sub-2").symlink_to(tmp_path / "store")
    assert sorted(names(root)) == ["sub-1_T1w.nii", "sub-1_bold.nii", "sub-1_bold.nii"]


def test_a_description_is_a_mapping_or_an_error(tmp_path):
    assert read_description(tmp_path) == {}
    path = tmp_path / "dataset_description.json"
    path.write_text('{"Name": "x"}')
    assert read_description(tmp_path) == {"Name": "x"}
    for content in ("{", "[]"):
        path.write_text(content)
        with pytest.raises(InputError, match="dataset_description"):
            read_description(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="absent cannot be read"):
        index_tree(tmp_path / "absent")
