"""FSL's Vest files: as its programs, its users and their scripts write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal

from nipype_blm.errors import InputError
from nipype_blm.io.tables import read_labels, read_path_list, read_table
from nipype_blm.io.vest import format_vest, parse_vest, read_design, read_weights

X = np.array([[3.0, 0.5, 1], [-1, 0.4, 1], [2, 0.5, 1]])
# As Glm and feat_model write it: two tabs before the heights, a tab at the end of every row.
OF_FSL = """\
/NumWaves\t3
/NumPoints\t3
/PPheights\t\t4.000000e+00\t5.000000e-01\t1.000000e+00

/Matrix
3.000000e+00\t5.000000e-01\t1.000000e+00\t
-1.000000e+00\t4.000000e-01\t1.000000e+00\t
2.000000e+00\t5.000000e-01\t1.000000e+00\t
"""
# As Nipype's MultipleRegressDesign writes them: columns filled with spaces.
OF_NIPYPE = """\
/NumWaves       3
/NumPoints      3
/PPheights      4.000000e+00 5.000000e-01 1.000000e+00

/Matrix
3.000000e+00 5.000000e-01 1.000000e+00
-1.000000e+00 4.000000e-01 1.000000e+00
2.000000e+00 5.000000e-01 1.000000e+00
"""
CONTRASTS_OF_NIPYPE = """\
/ContrastName1   voice_and_age
/ContrastName2   just BMI
/NumWaves       3
/NumContrasts   2
/PPheights          1.000000e+00 1.000000e+00
/RequiredEffect     100.000 100.000

/Matrix
0.000000e+00 5.000000e-01 5.000000e-01
1.000000e+00 0.000000e+00 0.000000e+00
"""
DESIGNS = {
    "of FSL": OF_FSL,
    "of Nipype": OF_NIPYPE,
    "of Windows": OF_FSL.replace("\n", "\r\n"),
    "indented by R's cat": OF_FSL.replace("\n/", "\n        /"),
    "without heights": OF_FSL.replace("/PPheights\t\t4.000000e+00\t5.000000e-01\t1.000000e+00", ""),
    "without counts": OF_FSL[OF_FSL.index("/PPheights") :],
    "plain numbers": "/NumWaves 3\n/NumPoints 3\n/Matrix\n3 .5 1\n-1 .4 1\n2 .5 1",
    "blank lines at the end": f"{OF_FSL}\n\n",
}


def write(folder, text, name="design.mat"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("text", DESIGNS.values(), ids=DESIGNS)
def test_a_design_is_read_however_it_was_written(tmp_path, text):
    table = read_table(write(tmp_path, text), "X")
    assert_array_equal(table.values, X)
    assert list(table.names) == ["X1", "X2", "X3"]
    assert not table.has_header
    assert table.row_names is None


def test_row_names_that_a_design_does_not_have_are_refused(tmp_path):
    path = write(tmp_path, OF_FSL)
    assert_array_equal(read_table(path, "X", "none").values, X)
    assert_array_equal(read_table(path, "Z f1 design", "id", must_have=False).values, X)
    with pytest.raises(InputError, match=r"row_names is 'id', but X .* its columns are: 3 and no"):
        read_table(path, "X", "id")


def test_contrasts_keep_their_names():
    vest = read_weights(CONTRASTS_OF_NIPYPE, "contrasts design.con")
    assert vest.names == {0: "voice_and_age", 1: "just BMI"}
    assert_array_equal(vest.values, [[0, 0.5, 0.5], [1, 0, 0]])


def test_groups_are_labels(tmp_path):
    text = "/NumWaves\t1\n/NumPoints\t4\n\n/Matrix\n1\n1\n2\n12\n"
    assert read_labels(write(tmp_path, text, "design.grp"), "Z f1 factor") == ["1", "1", "2", "12"]
    for wrong in (text.replace("2\n12", "2\n1.5"), OF_FSL):
        with pytest.raises(InputError, match=r"Z f1 factor .* not one of groups"):
            read_labels(write(tmp_path, wrong, "design.grp"), "Z f1 factor")


FAULTS = {
    "cut off in its header": ("/NumWaves\t2\n/NumPoints\t3\n", "has no line /Matrix"),
    "cut off behind it": ("/NumWaves\t2\n/NumPoints\t3\n\n/Matrix\n", "has no number behind"),
    "of another width": (
        OF_FSL.replace("/NumWaves\t3", "/NumWaves\t4"),
        "says /NumWaves 4, but its matrix has 3 columns",
    ),
    "of another length": (
        OF_FSL.replace("/NumPoints\t3", "/NumPoints\t2"),
        "says /NumPoints 2, but its matrix has 3 rows",
    ),
    "ragged": (
        OF_FSL.replace("\t1.000000e+00\t\n2", "\n2"),
        "needs 3 numbers in every line of its matrix; there are 2 in line 7",
    ),
    "with a word": (
        OF_FSL.replace("-1.000000e+00", "n/a"),
        "must hold finite numbers only; it has 'n/a' in line 7",
    ),
    "with no number": (
        OF_FSL.replace("-1.000000e+00", "nan").replace("4.000000e-01", "inf"),
        "it has 'nan' in line 7",
    ),
    "with a count that is none": (
        OF_FSL.replace("/NumWaves\t3", "/NumWaves\tthree"),
        "says '/NumWaves\\\\tthree'; expected a whole number",
    ),
    "a list of contrasts": (CONTRASTS_OF_NIPYPE, r"has contrasts \(.con\) or F tests"),
}


@pytest.mark.parametrize(("text", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_a_design_is_one_sentence(tmp_path, text, fault):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=fault) as error:
        read_table(path, "X")
    [problem] = error.value.problems
    assert problem.startswith(f"X {path} ")


def test_a_script_that_counts_its_contrasts_wrongly_is_told_and_not_half_read():
    """FSL itself reads as many rows as the header says, and no more."""
    text = "/ContrastName1\tCP\n/NumWaves\t2\n/NumContrasts\t2\n\n/Matrix\n1 -1\n-1 1\n1 0\n0 1\n"
    with pytest.raises(InputError, match="/NumContrasts 2, but its matrix has 4 rows"):
        read_weights(text, "contrasts design.con")


def test_a_design_is_no_list_of_contrasts_and_no_list_of_images(tmp_path):
    with pytest.raises(InputError, match="has no /NumContrasts; expected contrasts"):
        read_weights(OF_FSL, "contrasts design.mat")
    with pytest.raises(InputError, match="Vest2Text"):
        read_path_list(write(tmp_path, OF_FSL), "Y_files")


def test_what_is_written_is_what_fsl_writes():
    lines = format_vest(X, "mat").splitlines()
    assert lines == [line.rstrip("\t") for line in OF_FSL.splitlines()]
    text = format_vest(np.array([[1.0, 0], [1, 1]]), "fts")
    assert text == "/NumWaves\t2\n/NumContrasts\t2\n\n/Matrix\n1\t0\n1\t1\n"
    text = format_vest(np.array([[1.0], [2]]), "grp")
    assert text == "/NumWaves\t1\n/NumPoints\t2\n\n/Matrix\n1\n2\n"
    text = format_vest(np.array([[0, 1.0]]), "con", ["a name\nof two lines"])
    assert text.startswith("/ContrastName1\ta name of two lines\n/NumWaves\t2\n/NumContrasts\t1\n")


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=4), elements=numbers))
def test_every_number_reads_back_exactly(values):
    assert_array_equal(read_design(format_vest(values, "mat"), "X").values, values)
    names = [f"c {i}" for i in range(len(values))]
    vest = parse_vest(format_vest(values, "con", names), "c")
    assert_array_equal(vest.values, values)
    assert list(vest.names.values()) == names
