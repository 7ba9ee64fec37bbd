"""Contrasts and F tests in FSL's files, in the place of contrasts."""

import numpy as np
import pytest

from nipype_blm.errors import InputError, Words
from nipype_blm.frontends import blm, traits
from nipype_blm.frontends.vest import read_contrasts
from nipype_blm.io.vest import format_vest

WEIGHTS = np.array([[0, 1, 0], [0, 0, 1], [0, 1, -1]])
TESTS = np.array([[1, 1, 0], [0, 0, 1]])


@pytest.fixture
def folder(tmp_path):
    names = ["age", "group", "age"]  # FSL does not mind
    (tmp_path / "design.con").write_text(format_vest(WEIGHTS, "con", names))
    (tmp_path / "design.fts").write_text(format_vest(TESTS, "fts"))
    return tmp_path


def base(folder, **fields):
    files = {"Y_files": str(folder / "a.nii"), "X": "X.csv", "outdir": "out"}
    return files | fields


def test_t_contrasts_come_first_and_f_tests_combine_them(folder):
    found = read_contrasts(folder / "design.con", folder / "design.fts", Words())
    assert [each["name"] for each in found] == ["age", "group", "age (3)", "F1", "F2"]
    assert [np.shape(each["vector"]) for each in found] == [(3,), (3,), (3,), (2, 3), (1, 3)]
    np.testing.assert_array_equal(found[3]["vector"], WEIGHTS[:2])
    np.testing.assert_array_equal(found[4]["vector"], WEIGHTS[2:])


def test_contrasts_without_names_are_numbered(folder):
    text = format_vest(WEIGHTS, "con")
    (folder / "design.con").write_text(f"/ContrastName2\tgroup\n/ContrastName3\n{text}")
    found = read_contrasts(folder / "design.con", None, Words())
    assert [each["name"] for each in found] == ["c1", "group", "c3"]


def test_a_configuration_names_them_and_its_record_has_the_weights(folder):
    fields, problems = blm.check(
        base(folder, contrasts="design.con", f_contrasts="design.fts"), folder
    )
    assert problems == []
    record = blm.to_yaml(fields)
    assert "f_contrasts" not in record
    assert record["contrasts"][3] == {
        "c4": {"name": "F1", "vector": [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]}
    }
    again, problems = blm.check(record, folder)
    assert problems == []
    assert again.contrasts == fields.contrasts


def test_so_do_the_inputs_of_a_node(folder):
    given = {
        "in_files": [str(folder / "a.nii")],
        "design_file": str(folder / "X.csv"),
        "contrasts": str(folder / "design.con"),
        "f_contrasts": str(folder / "design.fts"),
    }
    fields, problems = traits.check(given, "blm", out_dir=folder / "out")
    assert problems == []
    assert len(fields.contrasts) == 5


def test_the_name_of_a_column_is_no_file(folder):
    (folder / "age").write_text("a file of this name")
    fields, problems = blm.check(base(folder, contrasts="age"), folder)
    assert problems == []
    assert len(fields.contrasts) == 1
    (folder / "design.txt").write_text((folder / "design.con").read_text())
    fields, _ = blm.check(base(folder, contrasts="design.txt"), folder)
    assert len(fields.contrasts) == 3


FAULTS = {
    "a file that is not there": (
        {"contrasts": "none.con"},
        "contrasts .*none.con cannot be read: No such file",
    ),
    "a design": ({"contrasts": "design.mat"}, "contrasts .*design.mat has no /NumContrasts"),
    "F tests of others": (
        {"contrasts": "design.con", "f_contrasts": "other.fts"},
        "f_contrasts .*other.fts combines 2 contrasts, but .*design.con has 3",
    ),
    "F tests of nothing": (
        {"contrasts": "design.con", "f_contrasts": "empty.fts"},
        "f_contrasts .*empty.fts has no contrast for F test 2",
    ),
    "F tests of a list": (
        {"contrasts": [{"name": "a", "vector": [1]}], "f_contrasts": "design.fts"},
        r"f_contrasts combines the rows of a file of contrasts; give that \(.con\) as contrasts",
    ),
    "F tests that are no path": (
        {"contrasts": "design.con", "f_contrasts": [[1, 1, 0]]},
        r"f_contrasts: \[\[1, 1, 0\]\] was given; expected the path",
    ),
}


@pytest.mark.parametrize(("given", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_is_one_fault_beside_others(folder, given, fault):
    (folder / "design.mat").write_text(format_vest(np.ones((4, 1)), "mat"))
    (folder / "other.fts").write_text(format_vest(TESTS[:, :2], "fts"))
    (folder / "empty.fts").write_text(format_vest(TESTS * [[1], [0]], "fts"))
    fields, problems = blm.check(base(folder, **given), folder)
    assert fields.contrasts == ()
    with pytest.raises(InputError, match=fault):
        raise InputError(problems)
    assert len(problems) == 1
    _, problems = blm.check(base(folder, outdir=None, **given), folder)
    assert {problem.field for problem in problems} >= {"out_dir"}
    assert len(problems) == 2
