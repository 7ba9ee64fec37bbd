"""Tables, labels and lists are read in all the forms in which people write them."""

import numpy as np
import pytest

from nipype_blm.errors import InputError
from nipype_blm.io.tables import read_labels, read_path_list, read_table, scan_table

VALUES = [[1, 0.5], [1, -2], [1, 3e-5]]


def write(folder, text, name="X.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(folder, text, name="X.csv"):
    with pytest.raises(InputError) as error:
        read_table(write(folder, text, name), "X")
    [problem] = error.value.problems
    assert str(folder / name) in problem
    return problem


@pytest.mark.parametrize(
    "text",
    [
        "1,0.5\n1,-2\n1,3e-5\n",
        "1,0.5\n1,-2\n1,3e-5",
        "1, 0.5\n1, -2\n1, 3e-5\n",
        "1\t0.5\n1\t-2\n1\t3e-5\n",
        "1;0.5\n1;-2\n1;3e-5\n",
        "1 0.5\n1 -2\n1 3e-5\n",
        "   1    0.5\n   1   -2  \n   1    3e-5\n",
        "1 \t 0.5\n1 \t -2\n1 \t 3e-5\n",
        '"1","0.5"\n"1","-2"\n"1","3e-5"\n',
        "1,0.5\r\n1,-2\r\n1,3e-5\r\n",
        "1,0.5\r1,-2\r1,3e-5\r",
        "\ufeff1,0.5\n1,-2\n1,3e-5\n",
        "\n1,0.5\n\n1,-2\n1,3e-5\n\n\n",
        "+1,.5\n1.0,-2.\n1e0,0.00003\n",
    ],
)
def test_every_way_to_write_numbers_gives_the_same_table(tmp_path, text):
    table = read_table(write(tmp_path, text), "X")
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == ["X1", "X2"]


@pytest.mark.parametrize(
    "text",
    [
        "mean,age\n1,0.5\n1,-2\n1,3e-5\n",
        "\ufeffmean,age\r\n1,0.5\r\n1,-2\r\n1,3e-5\r\n",
        '"mean","age"\n1,0.5\n1,-2\n1,3e-5\n',
        "mean\tage\n1\t0.5\n1\t-2\n1\t3e-5\n",
        "mean age\n1 0.5\n1 -2\n1 3e-5\n",
        '"mean" "age"\n1 0.5\n1 -2\n1 3e-5\n',
        "id,mean,age\nsub-01,1,0.5\nsub-02,1,-2\nsub-03,1,3e-5\n",
        'id,mean,age\n"Doe, J",1,0.5\n"Roe, R",1,-2\n"Poe, E",1,3e-5\n',
        ",mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n",
        "mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n",
        "id\tmean\tage\na\t1\t0.5\nb\t1\t-2\nc\t1\t3e-5\n",
        "id mean age\na 1 0.5\nb 1 -2\nc 1 3e-5\n",
        '"mean" "age"\n"1" 1 0.5\n"2" 1 -2\n"3" 1 3e-5\n',
        "# mean age\n1 0.5\n1 -2\n1 3e-5\n",
        "# mean,age\n1,0.5\n1,-2\n1,3e-5\n",
        "#mean,age\n1,0.5\n1,-2\n1,3e-5\n",
        '#"mean"\t"age"\n1\t0.5\n1\t-2\n1\t3e-5\n',
        "# id,mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n",
        "# mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n",
        "# mean age\na 1 0.5\nb 1 -2\nc 1 3e-5\n",
        "# a design, of 2020\n\n# 3 rows\n# mean age\n1 0.5\n1 -2\n1 3e-5\n",
        "# a design\n# of 2020\nmean,age\n1,0.5\n1,-2\n1,3e-5\n",
        "# made by\n#\nid,mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n",
    ],
)
def test_header_and_row_names_are_told_from_the_numbers(tmp_path, text):
    table = read_table(write(tmp_path, text), "X")
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == ["mean", "age"]


@pytest.mark.parametrize("delimiter", [" ", ",", "\t", "; "])
def test_a_header_written_by_numpy_names_the_columns(tmp_path, delimiter):
    header = delimiter.join(["mean", "age"])
    np.savetxt(tmp_path / "X.csv", VALUES, header=header, delimiter=delimiter)
    table = read_table(tmp_path / "X.csv", "X")
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == ["mean", "age"]
    assert table.has_header


@pytest.mark.parametrize("comment", ["# 3 rows of 2020", "#", "# 2 7", "# 1", "#1,0.5", "# design"])
def test_a_comment_that_names_no_columns_is_passed_over(tmp_path, comment):
    table = read_table(write(tmp_path, f"{comment}\n1,0.5\n1,-2\n1,3e-5\n"), "X")
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == ["X1", "X2"]
    assert not table.has_header


def test_lines_are_counted_with_comments(tmp_path):
    assert "line 4" in error_of(tmp_path, "# a design\n# mean age\n1 0.5\n1 x\n")


def test_a_comment_between_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="'#' in line 2"):
        read_table(write(tmp_path, "1 0.5\n# x\n1 -2\n"), "X")


def test_row_names_without_a_header_are_left_out(tmp_path):
    table = read_table(write(tmp_path, "a,1,0.5\nb,1,-2\nc,1,3e-5\n"), "X")
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == ["X1", "X2"]


@pytest.mark.parametrize(
    ("text", "names", "header"),
    [
        ("id,mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n", ["a", "b", "c"], "id"),
        (",mean,age\n7,1,0.5\n8,1,-2\n9,1,3e-5\n", ["7", "8", "9"], ""),
        ("mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n", ["a", "b", "c"], ""),
        ("a,1,0.5\nb,1,-2\nc,1,3e-5\n", ["a", "b", "c"], ""),
        ("# id,mean,age\na,1,0.5\nb,1,-2\nc,1,3e-5\n", ["a", "b", "c"], "id"),
        # Two sessions of a subject.
        ("id,mean,age\na,1,0.5\na,1,-2\nb,1,3e-5\n", ["a", "a", "b"], "id"),
        ("mean age\na 1 0.5\na 1 -2\na 1 3e-5\n", ["a", "a", "a"], ""),
        ("a\t1\t0.5\na\t1\t-2\nb\t1\t3e-5\n", ["a", "a", "b"], ""),
        ("mean,age\n1,0.5\n1,-2\n1,3e-5\n", None, ""),
    ],
)
def test_a_first_column_of_text_names_the_rows_also_if_it_repeats(tmp_path, text, names, header):
    table = read_table(write(tmp_path, text), "X")
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.row_names == names
    assert table.row_header == header


@pytest.mark.parametrize(
    ("row_names", "names", "columns"),
    [
        ("id", ["101", "102"], ["mean", "visit"]),
        ("ID", ["101", "102"], ["mean", "visit"]),
        ("2", ["101", "102"], ["mean", "visit"]),
        ("visit", ["ses-1", "ses-1"], ["mean", "id"]),
    ],
)
def test_any_column_may_be_said_to_name_the_rows(tmp_path, row_names, names, columns):
    text = "mean,id,visit\n1,101,1\n1,102,1\n".replace(
        "1\n", "ses-1\n" if row_names == "visit" else "1\n"
    )
    table = read_table(write(tmp_path, text), "X", row_names)
    assert table.row_names == names
    assert table.names == columns


def test_a_column_without_a_header_is_given_by_its_number(tmp_path):
    table = read_table(write(tmp_path, "1,101,5\n1,102,6\n"), "X", "2")
    assert table.row_names == ["101", "102"]
    assert table.names == ["X1", "X2"]
    np.testing.assert_array_equal(table.values, [[1, 5], [1, 6]])
    table = read_table(write(tmp_path, "1,sub-1,5\n1,sub-2,6\n"), "X", "2")
    assert table.row_names == ["sub-1", "sub-2"]
    np.testing.assert_array_equal(table.values, [[1, 5], [1, 6]])


def test_no_column_may_be_said_to_name_the_rows(tmp_path):
    path = write(tmp_path, ",age\n1,20\n2,30\n")
    assert read_table(path, "X").values.tolist() == [[20], [30]]
    table = read_table(path, "X", "None")
    assert table.values.tolist() == [[1, 20], [2, 30]]
    assert table.names == ["X1", "age"]
    with pytest.raises(InputError, match=r"column 1 \(X1\): 'a' in line 1 "):
        read_table(write(tmp_path, "a,20\nb,30\n"), "X", "none")


@pytest.mark.parametrize("row_names", ["person", "0", "4", "-1", "1.0", "nothing"])
def test_a_column_that_is_not_there_cannot_name_the_rows(tmp_path, row_names):
    path = write(tmp_path, "id,mean,age\na,1,20\nb,1,30\n")
    with pytest.raises(InputError, match=f"row_names is '{row_names}'.*'id', 'mean', 'age'"):
        read_table(path, "X", row_names)
    assert read_table(path, "Z", row_names, must_have=False).row_names == ["a", "b"]


def test_the_only_column_cannot_name_the_rows(tmp_path):
    with pytest.raises(InputError, match="row_names is 'age'"):
        read_table(write(tmp_path, "age\n1\n2\n"), "X", "age")


def test_text_in_another_column_is_refused_with_the_way_to_name_rows(tmp_path):
    problem = error_of(tmp_path, "mean,id,age\n1,sub-1,20\n1,sub-2,30\n")
    assert "If column id names the rows, set row_names='id'." in problem
    assert "set row_names='2'." in error_of(tmp_path, "1,sub-1,20\n1,sub-2,30\n")


def test_a_ragged_row_keeps_the_others_beside_their_names(tmp_path):
    table, _ = scan_table(write(tmp_path, "id,a\nx,1\ny\nz,3\n"), "X")
    assert table.row_names == ["x", "", "z"]
    np.testing.assert_array_equal(table.values, [[1], [np.nan], [3]])


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("20;0,345\n21;0,8\n22;0,1\n", "20;0"),
        ("20\t0,345\n21\t0,8\n22\t0,1\n", "20\t0"),
        ("20 0,345\n21 0,8\n22 0,1\n", "20 0"),
        ("-20.5;-0,345\n21;0,8\n22;0,1\n", "-20.5;-0"),
        ("2e1;0,345\n21;0,8\n22;0,1\n", "2e1;0"),
        ("2e1;0,345\n21e0;0,8\n22e0;0,1\n", "2e1;0"),
        ("1;20;0,345\n1;21;0,8\n1;22;0,1\n", "1;20;0"),
        ("# mean\n20;0,345\n21;0,8\n22;0,1\n", "20;0"),
    ],
)
def test_cells_with_a_decimal_comma_are_refused_and_not_taken_for_row_names(tmp_path, text, cell):
    problem = error_of(tmp_path, text)
    assert "must hold finite numbers only" in problem
    assert f"column 1 (X1): {cell!r} in line {1 + text.count('#')}" in problem
    assert "Decimals need a point, not a comma." in problem


@pytest.mark.parametrize(
    "text",
    [
        "kol1;kol2\n0,70;1\n0,06;2\n0,9;3\n",
        '"kol1";"kol2"\n"0,70";"1"\n"0,06";"2"\n',
        "0,70;1\n0,06;2\n0,9;3\n",
        "kol1\tkol2\n-0,70\t1\n0,06\t2\n",
    ],
)
def test_a_first_column_of_decimal_commas_is_no_regressor_that_is_dropped(tmp_path, text):
    """As spreadsheets write it in most of Europe, behind semicolons."""
    problem = error_of(tmp_path, text)
    assert "must hold finite numbers only; column " in problem
    assert "Decimals need a point, not a comma." in problem


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("id;mean;age\r\ns1;1;20.5\r\ns2;1;30\r\n", ["mean", "age"], [[1, 20.5], [1, 30]]),
        ("\ufeffparticipant_id\tage\nsub-1\t20\nsub-2\t30\n", ["age"], [[20], [30]]),
        ('"","a","b"\n"r1"," 17.6","  8"\n"r2"," 1"," 2"\n', ["a", "b"], [[17.6, 8], [1, 2]]),
        (",group,mean\n0,True,1\n1,False,1\n", ["group", "mean"], [[1, 1], [0, 1]]),
    ],
)
def test_tables_on_which_other_programs_were_reported_to_fail_are_read(
    tmp_path, text, names, values
):
    """Semicolons of European spreadsheets, a mark of UTF-8, numbers in quotes, logicals."""
    table = read_table(write(tmp_path, text), "X")
    assert table.names == names
    np.testing.assert_array_equal(table.values, values)


def test_a_dash_for_missing_values_and_a_second_column_of_names_are_named(tmp_path):
    problem = error_of(tmp_path, "participant_id\tage\ns1\t-\ns2\t30\ns3\t-\n")
    assert "column 1 (age): '-' in lines 2 and 4." in problem
    problem = error_of(tmp_path, "id\tid\tage\nsub-1\tCQ2\t28\nsub-2\tBT4\t29\n")
    assert "column 1 (id): 'CQ2' in line 2 and 'BT4' in line 3.  Leave column id out" in problem


def test_names_of_rows_may_be_numbers_with_spaces_below_a_header(tmp_path):
    table = read_table(write(tmp_path, "id,mean,age\n01 02,1,20\n2020-01-01 10,1,30\n"), "X")
    assert table.names == ["mean", "age"]


def test_a_table_may_have_one_column(tmp_path):
    assert read_table(write(tmp_path, "1\n2\n"), "X").values.tolist() == [[1], [2]]
    assert read_table(write(tmp_path, "age\n1\n2\n"), "X").names == ["age"]


def test_numbers_keep_all_their_digits(tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 3)) * [1e-300, 1, 1e300]
    text = "\n".join(",".join(map(repr, row)) for row in values.tolist())
    np.testing.assert_array_equal(read_table(write(tmp_path, text), "X").values, values)


@pytest.mark.parametrize(
    "cell",
    ["x", "", "NA", "nan", "NaN", "n/a", "inf", "-Inf", "1;2", "1 2", "1_0", "1_000.5", "1e1_0"],
)
def test_a_cell_that_is_no_finite_number_is_named_with_line_and_column(tmp_path, cell):
    problem = error_of(tmp_path, f"mean,age\n1,0.5\n\n1,{cell}\n1,3\n")
    assert repr(cell) in problem
    assert "line 4" in problem
    assert "column 2 (age)" in problem


def test_the_number_of_a_column_is_that_of_the_design_and_the_name_that_of_the_header(tmp_path):
    problem = error_of(tmp_path, "id,mean,age\na,1,0.5\nb,1,x\nc,1,2\n")
    assert "(age)" in problem
    assert "line 3" in problem


def test_several_bad_cells_are_reported_together(tmp_path):
    with pytest.raises(InputError) as error:
        read_table(write(tmp_path, "1,2\n1,NA\nx,2\n"), "X")
    [first, second] = error.value.problems
    assert "column 1 (X1): 'x' in line 3." in first
    assert "column 2 (X2): 'NA' in line 2." in second


def test_a_ragged_row_does_not_hide_a_bad_cell(tmp_path):
    with pytest.raises(InputError) as error:
        read_table(write(tmp_path, "a,b\n1,2,3\n1,x\n1,2\n1,2\n"), "X")
    [ragged, cell] = error.value.problems
    assert "has 2 columns in its first line, but 3 in line 2;" in ragged
    assert "column 2 (b): 'x' in line 3." in cell


def test_a_faulty_table_is_returned_with_nan_where_it_is_at_fault(tmp_path):
    table, faults = scan_table(write(tmp_path, "a,b\n1,2,3\n1,x\n1,inf\n1,2\n"), "X")
    assert len(faults) == 2
    expected = [[np.nan, np.nan], [1, np.nan], [1, np.inf], [1, 2]]
    np.testing.assert_array_equal(table.values, expected)
    assert table.names == ["a", "b"]


def test_a_quotation_mark_that_is_not_closed_is_refused(tmp_path):
    assert "quotation mark" in error_of(tmp_path, '1,"2\n1,2\n1,2\n')


def test_many_bad_cells_are_counted(tmp_path):
    problem = error_of(tmp_path, "1,2\n" + "1,NA\n" * 15)
    assert problem.count("'NA'") == 1
    assert "'NA' in lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 5 more." in problem


def test_a_ragged_row_is_named_with_its_line(tmp_path):
    assert "line 4" in error_of(tmp_path, "a,b\n1,2\n\n1,2,3\n1,2\n")
    assert "line 2" in error_of(tmp_path, "a,b\n1,2,3,4\n1,2,3,4\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("# mean,age\n", "is empty"),
        ("mean,age\n", "has a header but no row"),
        ("# 2020\nmean,age\n", "has a header but no row"),
    ],
)
def test_a_table_without_rows_is_refused(tmp_path, text, message):
    assert message in error_of(tmp_path, text)


@pytest.mark.parametrize("content", [b"\xff\xfe1", b"\x1f\x8b\x08\x00\xff", bytes(range(256))])
def test_a_file_that_is_not_text_is_refused(tmp_path, content):
    assert "X" in error_of(tmp_path, content)


def test_a_cell_that_no_table_has_is_refused(tmp_path):
    text = "1,2\n1," + "2" * 200_000
    assert "is not a table" in error_of(tmp_path, text)
    assert "is not a table" in label_error_of(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"X .*no\.csv cannot be read: No such file"):
        read_table(tmp_path / "no.csv", "X")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_table(tmp_path, "X")


def test_a_list_is_resolved_against_its_own_folder_and_blank_lines_are_counted(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    text = "\ufeffa.nii\r\n\r\n  sub/b c.nii \r\n/abs/d.nii\r\n\r\n"
    listed = read_path_list(write(folder, text, "Y.txt"), "Y_files")
    assert [str(item.path) for item in listed] == [
        f"{folder}/a.nii",
        f"{folder}/sub/b c.nii",
        "/abs/d.nii",
    ]
    assert [item.where for item in listed] == [
        "line 1 of Y.txt",
        "line 3 of Y.txt",
        "line 4 of Y.txt",
    ]


def test_a_tilde_in_a_list_stands_for_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    [item] = read_path_list(write(tmp_path, "~/a.nii\n", "Y.txt"), "Y_files")
    assert str(item.path) == "/home/someone/a.nii"


def test_a_home_folder_that_does_not_exist_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="nobody-of-this-name"):
        read_path_list(write(tmp_path, "~nobody-of-this-name/a.nii\n", "Y.txt"), "Y_files")


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_a_list_without_files_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"Y_files .*Y\.txt lists no file"):
        read_path_list(write(tmp_path, text, "Y.txt"), "Y_files")


def test_a_column_of_true_and_false_counts_as_1_and_0(tmp_path):
    """Logical columns as R (TRUE), pandas and Python (True) and JavaScript (true) write them."""
    text = "mean,a,b,c\n1,TRUE,True,false\n1,FALSE,False,TRUE\n1,TRUE,True,False\n"
    table = read_table(write(tmp_path, text), "X")
    np.testing.assert_array_equal(table.values, [[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 0]])
    table = read_table(write(tmp_path, "a,b\nTRUE,1\nFALSE,2\n"), "X")
    assert table.row_names is None
    np.testing.assert_array_equal(table.values, [[1, 1], [0, 2]])
    table = read_table(write(tmp_path, '"","a"\n"1",TRUE\n"2",FALSE\n'), "X")
    np.testing.assert_array_equal(table.values, [[1], [0]])


@pytest.mark.parametrize("others", ["0.5", "1", "yes"])
def test_true_among_other_values_is_refused(tmp_path, others):
    problem = error_of(tmp_path, f"mean,a\n1,TRUE\n1,{others}\n1,FALSE\n")
    assert "column 2 (a): " in problem
    if others != "yes":
        assert "'TRUE' in line 2 and 'FALSE' in line 4." in problem
        assert "count as 1 and 0 only in a column that has no other values" in problem


@pytest.mark.parametrize("word", ["T", "F", "yes", "no", "t", "wahr"])
def test_other_words_than_true_and_false_are_text(tmp_path, word):
    """F may be a sex as well."""
    assert f"{word!r}" in error_of(tmp_path, f"mean,a\n1,{word}\n1,x\n1,{word}\n")


N_ROWS = 500


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        (["F", "M"] * 250, ["2 values, 'F' and 'M': categorical.", "a column of 0 and 1."]),
        (["F"] * 500, ["1 value, 'F': categorical."]),
        (["F", "M"] * 249 + ["n/a", "F"], ["'M': categorical; and 'n/a' in line 500."]),
        (["20"] * 5 + ["n/a"] + ["20"] * 3 + ["n/a"] + ["1"] * 490, ["'n/a' in lines 7 and 11."]),
        (["n/a"] * 500, ["'n/a' in lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 490 more."]),
        ([f"s{i}" for i in range(500)], ["and 495 more.", "set row_names='a'."]),
        ([f"{i},5" for i in range(500)], ["and 495 more.", "Decimals need a point"]),
        ([f"x{i % 20}" for i in range(500)], ["20 values, ", "and 15 more: categorical."]),
        (["x" * 10_000] * 500, ["1 value, 'xxx", "categorical."]),
        (["1"] * 499 + ["inf"], ["'inf' in line 501."]),
    ],
)
def test_a_column_that_is_no_numbers_is_one_sentence_however_long_it_is(tmp_path, cells, parts):
    """Text, categories, missing values, decimal commas: 500 lines of any are one message."""
    text = "mean\ta\n" + "".join(f"1\t{cell}\n" for cell in cells)
    problem = error_of(tmp_path, text)
    assert "must hold finite numbers only; column 2 (a): " in problem
    for part in parts:
        assert part in problem
    assert len(problem) < 1200 + len(str(tmp_path))
    assert len(problem.splitlines()) == 1


def test_a_message_of_very_many_values_is_made_at_once(tmp_path):
    """Not in the square of their number: it would take minutes."""
    cells = [f"s{i}" for i in range(50_000)] * 2
    problem = error_of(tmp_path, "mean,a\n" + "".join(f"1,{c}\n" for c in [*cells, "n/a"]))
    assert "50000 values, 's0', " in problem


def test_of_very_many_columns_of_text_ten_are_named(tmp_path):
    text = "\n".join([",".join(["1", *"abcdefghijklmnopqrstuvwxyz"])] * 3)
    with pytest.raises(InputError) as error:
        read_table(write(tmp_path, text), "X")
    assert len(error.value.problems) == 11
    assert error.value.problems[-1].endswith("has 16 more such columns.")


@pytest.mark.parametrize(
    "text",
    [
        "mean,age,\n1,0.5,\n1,-2,\n1,3e-5,\n",
        "mean,age,,\n1,0.5,,\n1,-2,,\n1,3e-5,,\n",
        "mean;age;\n1;0.5;\n1;-2;\n1;3e-5;\n",
        "mean\tage\t\n1\t0.5\t\n1\t-2\t\n1\t3e-5\t\n",
        "mean,age\n1,0.5\n1,-2\n1,3e-5\n,\n,\n",
        "mean,age,\n1,0.5,\n1,-2,\n1,3e-5,\n,,\n",
        "id,mean,age,\na,1,0.5,\nb,1,-2,\nc,1,3e-5,\n",
    ],
)
def test_separators_that_end_every_line_and_empty_lines_of_a_spreadsheet_are_nothing(
    tmp_path, text
):
    table = read_table(write(tmp_path, text), "X")
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == ["mean", "age"]


@pytest.mark.parametrize(
    "text",
    [
        "mean,age,iq\n1,0.5,\n1,-2,\n",  # a column without any value
        "mean,age\n1,0.5,\n1,-2,\n",  # or whose name is row names, as R writes them?
        "mean,age,\n1,0.5,\n1,-2,7\n",
        "mean,age\n1,0.5\n1,\n1,2\n",
        'age\n1\n""\n',
    ],
)
def test_an_empty_column_that_may_have_been_meant_is_refused(tmp_path, text):
    assert "''" in error_of(tmp_path, text)


def test_a_table_of_one_column_may_end_its_lines_with_a_separator(tmp_path):
    assert read_table(write(tmp_path, "age,\n1,\n2,\n"), "X").values.tolist() == [[1], [2]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_in_an_encoding_known_by_its_mark_is_read(tmp_path, encoding):
    """As spreadsheets ("Unicode text") and PowerShell write it."""
    path = write(tmp_path, "mean\tÄlter\r\n1\t0.5\r\n1\t2\r\n".encode(encoding))
    assert read_table(path, "X").names == ["mean", "Älter"]
    assert read_labels(write(tmp_path, "ä\r\nb\r\n".encode(encoding)), "f") == ["ä", "b"]
    (tmp_path / "ä b.nii").touch()
    [item] = read_path_list(write(tmp_path, "ä b.nii\r\n".encode(encoding), "Y.txt"), "Y_files")
    assert item.path == tmp_path / "ä b.nii"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("mean,\n1,Älter\n".encode("latin-1"), "line 2 has other bytes"),
        ("a\n\nZoë\n".encode("cp1252"), "line 3 has other bytes"),
        ("1,2\n1,3\n".encode("utf-16-le"), "null byte (line 1 of X.csv)"),
        ("1,2\n1,3\n".encode("utf-16-be"), "null byte"),
        (b"1,2\n1,\x003\n", "null byte (line 2 of X.csv)"),
    ],
)
@pytest.mark.parametrize("read", [read_table, read_labels, read_path_list])
def test_any_other_encoding_is_refused_with_the_line_and_what_to_do(
    tmp_path, content, reason, read
):
    with pytest.raises(InputError) as error:
        read(write(tmp_path, content), "X")
    [problem] = error.value.problems
    assert problem.startswith(f"X {tmp_path}/X.csv ")
    assert reason in problem
    assert "ave it as UTF-8" in problem


@pytest.mark.parametrize("quote", ["'", '"', ""])
@pytest.mark.parametrize("end", ["", ",", " , ", ";"])
def test_paths_of_a_list_may_be_quoted_and_lines_end_with_a_separator(tmp_path, quote, end):
    for name in ("a b.nii", "c.nii"):
        (tmp_path / name).touch()
    text = f"# images\n{quote}a b.nii{quote}{end}\n{quote}{tmp_path}/c.nii{quote}{end}\n"
    listed = read_path_list(write(tmp_path, text, "Y.txt"), "Y_files")
    assert [item.path for item in listed] == [tmp_path / "a b.nii", tmp_path / "c.nii"]
    assert [item.where for item in listed] == ["line 2 of Y.txt", "line 3 of Y.txt"]


@pytest.mark.parametrize("start", ["$STUDY", "${STUDY}"])
def test_a_variable_at_the_start_of_a_path_is_replaced(tmp_path, monkeypatch, start):
    monkeypatch.setenv("STUDY", "/data/study")
    [item] = read_path_list(write(tmp_path, f"{start}/a$b.nii\n", "Y.txt"), "Y_files")
    assert str(item.path) == "/data/study/a$b.nii"
    monkeypatch.delenv("STUDY")
    with pytest.raises(InputError, match="a variable that is not set, STUDY"):
        read_path_list(write(tmp_path, f"{start}/a.nii\n", "Y.txt"), "Y_files")


@pytest.mark.parametrize("name", ["a,b.nii", "a*.nii", "a b.nii", "what?.nii", "a;b.nii", "x,1"])
def test_any_name_of_a_file_that_is_there_is_taken_as_it_is(tmp_path, name):
    (tmp_path / name).touch()
    [item] = read_path_list(write(tmp_path, f"{name}\n", "Y.txt"), "Y_files")
    assert item.path == tmp_path / name


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("sub-*/x.nii.gz", "is a pattern"),
        ("sub-0?.nii", "is a pattern"),
        ("file:///data/a.nii", "is a file URL"),
        ("https://example.org/a.nii", "is a https URL"),
        ("s3://bucket/a.nii", "is a s3 URL"),
        ("C:\\data\\a.nii", "is a path of Windows"),
        ("d:/data/a.nii", "is a path of Windows"),
        ("\\\\server\\data\\a.nii", "is a path of Windows"),
        ("sub-01,a.nii", "one path a line"),
        ("sub-01\ta.nii", "one path a line"),
        ("a.nii b.nii", "one path a line"),
        ("sub-01 /data/a.nii", "one path a line"),
        ("a.nii,12", "names a volume as SPM does"),
        ("filename", "a list has paths only, and no header"),
        ("x" * 100_000 + "*", "is too long for a path"),
        ("a/" * 5000 + ", b", "is too long for a path"),
    ],
)
def test_a_line_that_is_no_path_is_refused_in_one_sentence_with_its_place(tmp_path, line, reason):
    """Patterns, URLs, paths of Windows, columns, headers; the other lines may be good."""
    (tmp_path / "b.nii").touch()
    with pytest.raises(InputError) as error:
        read_path_list(write(tmp_path, f"{line}\nb.nii\n", "Y.txt"), "Y_files")
    [problem] = error.value.problems
    assert problem.startswith("Y_files: line 1 of Y.txt: ")
    assert reason in problem
    assert len(problem) < 500


def test_of_many_lines_that_are_no_paths_ten_are_named(tmp_path):
    with pytest.raises(InputError) as error:
        read_path_list(write(tmp_path, "sub-1,a.nii\n" * 1000, "Y.txt"), "Y_files")
    assert len(error.value.problems) == 11
    assert "990 more lines" in error.value.problems[-1]


def labels_of(folder, text):
    return read_labels(write(folder, text, "f.csv"), "Z f1 factor")


def label_error_of(folder, text):
    with pytest.raises(InputError) as error:
        labels_of(folder, text)
    [problem] = error.value.problems
    assert problem.startswith(f"Z f1 factor {folder / 'f.csv'} ")
    return problem


@pytest.mark.parametrize(
    "text",
    [
        "b\na 1\nb\n",
        "b\na 1\nb",
        "b\r\na 1\r\nb\r\n",
        "b\ra 1\rb\r",
        "\ufeffb\na 1\nb\n",
        '"b"\n"a 1"\n"b"\n',
        "  b\n a 1 \n\tb\t\n",
        "b\na 1\nb\n\n \n\n",
    ],
)
def test_every_way_to_write_labels_gives_the_same_ones(tmp_path, text):
    assert labels_of(tmp_path, text) == ["b", "a 1", "b"]


def test_labels_are_text_taken_as_they_are(tmp_path):
    given = ["5", "05", "5.0", "5e0", "-1", "b", "B", "sub-01", "Zoë", "inf", "1_0", "NAN1"]
    assert labels_of(tmp_path, "\n".join(given)) == given


def test_the_first_line_of_labels_is_no_header(tmp_path):
    assert labels_of(tmp_path, "subject\n1\n2\n") == ["subject", "1", "2"]


def test_a_quoted_label_may_hold_a_separator(tmp_path):
    assert labels_of(tmp_path, '"Doe, J"\n"a;b"\n"x\ty"\n"say ""a"""\n') == [
        "Doe, J",
        "a;b",
        "x\ty",
        'say "a"',
    ]


@pytest.mark.parametrize("label", ["", " ", '""', '" "', "NA", "na", "N/A", "nan", "NaN"])
def test_a_missing_label_is_refused_with_its_line(tmp_path, label):
    problem = label_error_of(tmp_path, f"a\nb\n{label}\nb\n")
    assert "in line 3." in problem
    assert "missing" in problem


@pytest.mark.parametrize("separator", [",", "\t", ";", " , "])
def test_a_second_column_beside_the_labels_is_refused_with_its_line(tmp_path, separator):
    problem = label_error_of(tmp_path, f"a\n1{separator}b\nb\n")
    assert "found 2 columns in line 2." in problem


def test_faulty_labels_are_reported_together_up_to_ten(tmp_path):
    problem = label_error_of(tmp_path, "a\nNA\nb,c\n" + "\n" * 13 + "a\n")
    assert "'NA' in line 2; 2 columns in line 3; '' in line 4" in problem
    assert problem.endswith("and 5 more.")


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_a_file_without_labels_is_refused(tmp_path, text):
    assert "is empty" in label_error_of(tmp_path, text)


def test_labels_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"Z f1 factor .*no\.csv cannot be read"):
        read_labels(tmp_path / "no.csv", "Z f1 factor")
    assert "not a text file" in label_error_of(tmp_path, b"\xff\xfe1")
