"""Tables of any columns are read in all the forms in which people write them."""

import pytest

from nipype_blm.errors import InputError
from nipype_blm.io.frames import read_frame


def write(folder, content, name="table.tsv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder, content, name="table.tsv"):
    return read_frame(write(folder, content, name), "table")


def error_of(folder, content, name="table.tsv"):
    with pytest.raises(InputError) as error:
        read(folder, content, name)
    [problem] = error.value.problems
    assert str(folder / name) in problem
    return problem


def test_cells_are_text_as_it_stands_and_rows_have_the_numbers_of_their_lines(tmp_path):
    frame = read(tmp_path, "# note\n\nid\tage\tnote\n01\t007\tn/a\n\n02\t 1e3 \tTRUE\n")
    assert list(frame.columns) == ["id", "age", "note"]
    assert frame.to_numpy().tolist() == [["01", "007", "n/a"], ["02", "1e3", "TRUE"]]
    assert list(frame.index) == [4, 6]
    assert frame.attrs["source"] == "table.tsv"


def test_a_cell_within_quotation_marks_has_separators_and_lines(tmp_path):
    frame = read(tmp_path, 'id,note,age\n1,"a, b\n c ""d""",3\n2,e,4\n', "table.csv")
    assert frame["note"].tolist() == ['a, b c "d"', "e"]
    assert list(frame.index) == [2, 4]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("id,score (a;b)", "1,2"),
        ("id\tage, years\tx", "1\t2\t3"),
        ("id;a,b;c", "1;2,5;3"),
        ("id a b", "1 2,5 3"),
    ],
)
def test_the_separator_is_the_one_that_cuts_all_lines_alike(tmp_path, header, row):
    frame = read(tmp_path, f"{header}\n{row}\n{row}\n")
    assert len(frame.columns) == len(frame.iloc[0]) == header.count(frame.attrs["separator"]) + 1


def test_one_column_needs_no_separator(tmp_path):
    assert read(tmp_path, "participant_id\nsub-01\nsub-02\n").shape == (2, 1)


def test_a_table_of_afni_is_a_table(tmp_path):
    text = "Subj  group  InputFile \\\ns1 a s1.nii \\\ns2 b s2.nii\n"
    frame = read(tmp_path, text, "table.txt")
    assert list(frame.columns) == ["Subj", "group", "InputFile"]
    assert frame["InputFile"].tolist() == ["s1.nii", "s2.nii"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RDX3\nX\n\x00\x00", ".RData file of R"),
        (b"X\n\0\0\0\x03\0", ".rds file of R"),
        (b"$FL2@(#) SPSS \xff\0", "an SPSS file (.sav)"),
        (b"\x1f\x8b\x08\0\xff", "compressed; decompress it"),
        ("/NumWaves 2\n/Matrix\n1 2\n", "FSL's VEST format"),
        ("<!DOCTYPE html>\n", "a web page"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, content, message):
    assert message in error_of(tmp_path, content)


def test_columns_of_one_name_are_told_apart(tmp_path):
    frame = read(tmp_path, "id\tage\tid\n1\t2\t3\n")
    assert list(frame.columns) == ["id (column 1)", "age", "id (column 3)"]
    assert frame.attrs["repeated"] == {"id": "table.tsv"}


def test_a_column_without_a_name_stays_if_it_has_content(tmp_path):
    frame = read(tmp_path, ",age,\n1,2,\n2,3,\n", "table.csv")
    assert list(frame.columns) == ["column 1", "age"]


def test_a_header_may_have_numbers_behind_the_name_of_the_ids(tmp_path):
    assert list(read(tmp_path, "id\t1\t2\na\t3\t4\n").columns) == ["id", "1", "2"]


def test_many_lines_of_other_lengths_are_cut_short(tmp_path):
    problem = error_of(tmp_path, "a\tb\n" + "1\n" * 33)
    assert "1 in line 21 ... and 13 more; every line" in problem


def test_the_sidecar_lists_levels(tmp_path):
    write(
        tmp_path,
        '{"sex": {"Levels": {"M": "male", "F": "female"}}, "age": {"Units": "years"}, "x": 3}',
        "table.json",
    )
    assert read(tmp_path, "id\tsex\n1\tM\n").attrs["levels"] == {"sex": ["M", "F"]}


def test_a_sidecar_that_is_no_json_is_said(tmp_path):
    write(tmp_path, "{", "table.json")
    [notice] = read(tmp_path, "id\tsex\n1\tM\n").attrs["notices"]
    assert f"{tmp_path / 'table.json'} cannot be read" in notice


def test_a_cell_that_is_far_too_long_is_refused(tmp_path):
    assert "from line 2 on" in error_of(tmp_path, f"id\tnote\n1\t{'x' * 200_000}\n")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_frame(tmp_path / "absent.tsv", "table")
