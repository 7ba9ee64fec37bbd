"""Every kind of bad input gives one clear error, exit code 2, and nothing half-written."""

import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.cli.fit import load_config
from nipype_blm.errors import InputError
from nipype_blm.stages.plan import prepare_run, write_plan
from nipype_blm.stages.products import compute_products

GOOD = {"name": "age", "vector": [0, 0, 1]}


def one(**changes):
    return [{"c1": GOOD | changes}]


def change_design(study, change):
    X = study.X.copy().tolist()
    change(X)
    study.write("X.csv", "\n".join(",".join(str(cell) for cell in row) for row in X))
    return {}


def set_cell(text):
    def change(X):
        X[4][1] = text

    return change


def list_images(study, *names):
    lines = study.folder.joinpath("Y.txt").read_text().splitlines()
    study.write("Y.txt", "\n".join([*lines, *names]))
    return {}


def replace_image(study, values=None, **options):
    values = study.values[7] if values is None else values
    study.save_image("s07.nii", values, **options)
    return {}


def damage_image(study, name, content):
    lines = study.folder.joinpath("Y.txt").read_text().replace("s07.nii", name)
    study.write("Y.txt", lines)
    study.write(name, content)
    return {}


def remove_image(study):
    (study.folder / "s07.nii").unlink()
    return {}


def put_null_byte(study):
    lines = study.folder.joinpath("Y.txt").read_text()
    study.write("Y.txt", lines.replace("s07.nii", "s\0007.nii"))
    return {}


def make_image_a_folder(study):
    (study.folder / "s07.nii").unlink()
    (study.folder / "s07.nii").mkdir()
    return {}


def cut_image(study):
    path = study.folder / "s07.nii"
    path.write_bytes(path.read_bytes()[:-10])
    return {}


def save_mask(study, values, field="analysis_mask", **options):
    study.save_image("m.nii", values, **options)
    return {"Missingness": {"Masking": "m.nii"}} if field == "Masking" else {field: "m.nii"}


def list_masks(study, n, third="m.nii"):
    study.save_image("m.nii", np.ones((4, 3, 2)))
    study.save_image("fewer.nii", FEWER)
    study.write("M.txt", f"m.nii\nm.nii\n{third}\n" + "m.nii\n" * (n - 3))
    return {"data_mask_files": "M.txt"}


def categorise(X):
    for row in X:
        row[1] = "ab"[row[1] > 0]


def depend(X):
    for row in X:
        row[2] = 2 * row[0] - row[1]


def turn_image(study):
    """Give an image the quaternion (2, 3, 0), whose length is above 1, and no sform."""
    content = bytearray((study.folder / "s07.nii").read_bytes())
    struct.pack_into("<2h3f", content, 252, 1, 0, 2, 3, 0)
    (study.folder / "s07.nii").write_bytes(content)
    return {}


def scale_design(column, factor):
    def spoil(study):
        X = study.X.copy()
        X[:, column] *= factor
        study.write_design(X)
        return {}

    return spoil


SHIFTED = np.diag([2.0, 2, 2, 1])
FEWER = np.ones((4, 3, 1))
# What is done to the study, and what the message must hold.
FAULTS = {
    "an image does not exist": (remove_image, ["s07.nii", "line 8 of Y.txt", "does not exist"]),
    "an image has a null byte in its name": (put_null_byte, ["line 8 of Y.txt", "null byte"]),
    "an image is a folder": (make_image_a_folder, ["s07.nii", "line 8", "directory"]),
    "an image is empty": (lambda s: damage_image(s, "s07.nii", b""), ["s07.nii", "line 8"]),
    "an image is text": (
        lambda s: damage_image(s, "s07.nii", b"hello" * 200),
        ["s07.nii", "line 8", "not an image"],
    ),
    "a compressed image is not compressed": (
        lambda s: damage_image(s, "s07.nii.gz", b"hello" * 200),
        ["s07.nii.gz", "line 8", "not compressed"],
    ),
    "a compressed image is cut in its header": (
        lambda s: damage_image(s, "s07.nii.gz", gzip.compress(bytes(400))[:15]),
        ["s07.nii.gz", "line 8"],
    ),
    "an image is cut": (
        cut_image,
        ["s07.nii is damaged", "line 8 of Y.txt", "10 bytes of voxels are missing", "restore it"],
    ),
    "an image has another shape": (
        lambda s: replace_image(s, FEWER),
        ["s07.nii", "line 8 of Y.txt", "(4, 3, 1)", "(4, 3, 2)"],
    ),
    "an image has another affine": (
        lambda s: replace_image(s, affine=SHIFTED),
        ["s07.nii", "line 8 of Y.txt", str(SHIFTED.tolist()), "[0.0, 2.0, 0.0, -126.0]"],
    ),
    "an image has several volumes": (
        lambda s: replace_image(s, np.ones((4, 3, 2, 3))),
        ["s07.nii", "line 8", "3 volumes"],
    ),
    "an image has five dimensions": (
        lambda s: replace_image(s, np.ones((4, 3, 2, 1, 3))),
        ["s07.nii", "line 8", "3 volumes"],
    ),
    "an image is complex": (
        lambda s: replace_image(s, dtype=np.complex64),
        ["s07.nii", "line 8", "complex64", "real numbers"],
    ),
    "an image is in colour": (
        lambda s: replace_image(
            s,
            np.zeros((4, 3, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
            dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")],
        ),
        ["s07.nii", "line 8", "real numbers"],
    ),
    "an image has a quaternion that is none": (
        turn_image,
        [
            "s07.nii",
            "line 8",
            "its qform is no rotation: quatern_b, quatern_c and quatern_d",
            "or sform",
        ],
    ),
    "a tiny column of X": (
        scale_design(2, 1e-300),
        ["X: the largest value of column 3 (X3)", "e-300 in size", "give it in other units"],
    ),
    "a huge column of X": (
        scale_design(2, 1e300),
        ["X: the largest value of column 3 (X3)", "e+300 in size", "give it in other units"],
    ),
    "one huge value in X": (
        lambda s: change_design(s, set_cell("1e300")),
        ["X: the largest value of column 2 (X2)", "1e+300 in size", "give it in other units"],
    ),
    "a category in X": (
        lambda s: change_design(s, categorise),
        ["X.csv", "column 2 (X2): 2 values, 'a' and 'b': categorical"],
    ),
    "X is FSL's, and empty": (
        lambda s: s.write("X.mat", "/NumWaves 3\n/NumPoints 12\n\n/Matrix\n") and {"X": "X.mat"},
        ["X ", "X.mat has no number behind /Matrix", "write it again"],
    ),
    "Y_files is a pattern": (lambda s: {"Y_files": "s*.nii"}, ["Y_files: ", "is a pattern"]),
    "X is a URL": (lambda s: {"X": "file:///X.csv"}, ["X: 'file:///X.csv'", "is a file URL"]),
    "outdir starts with a variable": (
        lambda s: {"outdir": "$NO_SUCH_VARIABLE/out"},
        ["outdir: ", "a variable that is not set, NO_SUCH_VARIABLE"],
    ),
    "Y_files has two columns": (
        lambda s: s.write("Y.txt", "a,s01.nii\n") and {},
        ["Y_files: line 1 of Y.txt", "one path a line"],
    ),
    "Y_files does not exist": (
        lambda s: {"Y_files": "no.txt"},
        ["Y_files", "no.txt", "No such file"],
    ),
    "Y_files is a folder": (lambda s: {"Y_files": "."}, ["Y_files", "directory"]),
    "Y_files is binary": (
        lambda s: s.write("Y.txt", bytes(range(256))) and {},
        ["Y_files", "Y.txt", "not a text file"],
    ),
    "Y_files is blank": (lambda s: s.write("Y.txt", "\n\n") and {}, ["Y_files", "Y.txt"]),
    "rows and images differ": (
        lambda s: list_images(s, "s00.nii"),
        ["X has 12 rows", "13 images"],
    ),
    "X does not exist": (lambda s: {"X": "no.csv"}, ["X", "no.csv", "No such file"]),
    "X is empty": (lambda s: s.write("X.csv", "") and {}, ["X", "X.csv", "empty"]),
    "text in X": (
        lambda s: change_design(s, set_cell("high")),
        ["X.csv", "'high'", "line 5", "column 2"],
    ),
    "NaN in X": (
        lambda s: change_design(s, set_cell("nan")),
        ["X.csv", "'nan'", "line 5", "column 2"],
    ),
    "an empty cell in X": (
        lambda s: change_design(s, set_cell("")),
        ["X.csv", "''", "line 5", "column 2"],
    ),
    "a ragged row in X": (
        lambda s: change_design(s, set_cell("1,1")),
        ["X.csv", "line 5", "columns"],
    ),
    "a rank-deficient X": (
        lambda s: change_design(s, depend),
        ["rank-deficient", "column 3 (X3)", "1 (X1)", "2 (X2)"],
    ),
    "a contrast of wrong length": (
        lambda s: {"contrasts": one(vector=[0, 1])},
        ["contrast 1 ('age')", "2 weights", "3 columns"],
    ),
    "an F contrast of deficient rank": (
        lambda s: {"contrasts": one(vector=[[0, 1, 0], [0, 2, 0]])},
        ["contrast 1 ('age')", "2 rows", "linearly dependent"],
    ),
    "a contrast of zeros": (
        lambda s: {"contrasts": one(vector=[0, 0, 0])},
        ["contrast 1 ('age')", "zeros"],
    ),
    "a row of zeros": (
        lambda s: {"contrasts": one(vector=[[0, 1, 0], [0, 0, 0]])},
        ["contrast 1 ('age')", "zeros"],
    ),
    "a contrast of text": (
        lambda s: {"contrasts": one(vector="[0 0 one]")},
        ["contrast ", ": vector: ", "'one'", "not a number"],
    ),
    "a ragged contrast": (
        lambda s: {"contrasts": one(vector=[[0, 1, 0], [0, 1]])},
        ["contrast ", ": vector: ", "3, 2"],
    ),
    "duplicate names": (
        lambda s: {"contrasts": [{"c1": GOOD}, {"c2": GOOD | {"vector": [1, 0, 0]}}]},
        ["contrast 2 ('age')", "name of contrast 1"],
    ),
    "no contrast": (lambda s: {"contrasts": []}, ["contrasts"]),
    "a missing field": (lambda s: {"X": None}, ["X", "mandatory"]),
    "an unknown field": (
        lambda s: {"OutputCov": True},
        ["OutputCov is not a known field", "OutputCovB"],
    ),
    "a mask without voxels": (
        lambda s: save_mask(s, np.zeros((4, 3, 2))),
        ["analysis_mask", "m.nii", "no voxel"],
    ),
    "a mask of NaN": (
        lambda s: save_mask(s, np.full((4, 3, 2), np.nan)),
        ["analysis_mask", "m.nii", "no voxel"],
    ),
    "a mask of another shape": (
        lambda s: save_mask(s, FEWER),
        ["analysis_mask", "m.nii", "space", "(4, 3, 1)", "(4, 3, 2)"],
    ),
    "a mask of another affine": (
        lambda s: save_mask(s, np.ones((4, 3, 2)), affine=SHIFTED),
        ["analysis_mask", "m.nii", "space", str(SHIFTED.tolist()), "-126"],
    ),
    "a mask that does not exist": (
        lambda s: {"analysis_mask": "no.nii"},
        ["analysis_mask: ", "no.nii does not exist"],
    ),
    "a post-analysis mask that does not exist": (
        lambda s: {"Missingness": {"Masking": "no.nii"}},
        ["Missingness.Masking: ", "no.nii does not exist"],
    ),
    "a mask that is no image": (
        lambda s: {"analysis_mask": "X.csv"},
        ["analysis_mask: ", "X.csv is not an image"],
    ),
    "a post-analysis mask of another shape": (
        lambda s: save_mask(s, FEWER, "Masking"),
        ["Masking", "m.nii", "space", "(4, 3, 1)", "(4, 3, 2)"],
    ),
    "a post-analysis mask without voxels": (
        lambda s: save_mask(s, np.zeros((4, 3, 2)), "Masking"),
        ["Masking", "m.nii", "no voxel"],
    ),
    "too few data masks": (lambda s: list_masks(s, 11), ["data_mask_files", "11", "12"]),
    "a data mask of another shape": (
        lambda s: list_masks(s, 12, "fewer.nii"),
        ["fewer.nii", "line 3 of M.txt", "(4, 3, 1)", "(4, 3, 2)"],
    ),
    "a data mask that does not exist": (
        lambda s: list_masks(s, 12, "no.nii"),
        ["no.nii", "line 3 of M.txt", "does not exist"],
    ),
    "MinPercent above 1": (
        lambda s: {"Missingness": {"MinPercent": 10}},
        ["Missingness.MinPercent", "10", "outside 0 to 1"],
    ),
    "MinPercent below 0": (
        lambda s: {"Missingness": {"minpercent": "-5%"}},
        ["Missingness.MinPercent", "'-5%'", "outside 0 to 1"],
    ),
    "MinN above the number of images": (
        lambda s: {"Missingness": {"MinN": 13}},
        ["Missingness.MinN", "13", "12 images"],
    ),
    "MAXMEM is code": (
        lambda s: {"MAXMEM": "__import__('os').mkdir('pwned')"},
        ["MAXMEM", "__import__", "not a number"],
    ),
    "MAXMEM is too small": (
        lambda s: {"MAXMEM": 100},
        ["MAXMEM", "100 bytes", "24 voxels", "3 columns", "the least that works is"],
    ),
    "a cluster": (lambda s: {"clusterType": "cloud"}, ["clusterType", "'cloud'", "slurm"]),
    "outdir is a file": (
        lambda s: s.write("file", "") and {"outdir": "file/out"},
        ["outdir", "file", "is a file"],
    ),
    "work_dir is a file": (
        lambda s: s.write("file", "") and {"work_dir": "file"},
        ["work_dir", "file", "is a file"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("option", ["--check", "--quiet"])
def test_a_fault_is_one_error_with_all_that_helps_and_leaves_nothing(study, fault, option):
    spoil, parts = FAULTS[fault]
    result = study.run(option, **spoil(study))
    assert result.code == 2, result.err
    assert result.out == ""
    about_it = [line for line in result.errors if parts[0] in line]
    assert about_it, result.err
    for part in parts:
        assert part in about_it[0]
    assert len(result.err.splitlines()) == len(set(about_it)) == 1, result.err
    assert not study.outdir.exists()
    assert not (study.folder / "pwned").exists()


# A missing image leaves no other fault of that image, and no size of the run.
INDEPENDENT_OF_IMAGES = [
    fault
    for fault in FAULTS
    if not fault.startswith(("an image", "a compressed image", "Y_files", "MAXMEM is too"))
]


@pytest.mark.parametrize(
    ("fault", "partner"),
    [(fault, "an unknown field") for fault in FAULTS if fault != "an unknown field"]
    + [(fault, "an image does not exist") for fault in INDEPENDENT_OF_IMAGES],
)
def test_a_fault_is_reported_together_with_another(study, fault, partner):
    expected = [*FAULTS[fault][1], *FAULTS[partner][1]]
    changes = FAULTS[fault][0](study) | FAULTS[partner][0](study)
    result = study.run(**changes)
    assert result.code == 2
    for part in expected:
        assert part in result.err


def test_faults_of_fields_files_and_images_are_reported_together(study):
    remove_image(study)
    study.save_image("s03.nii", FEWER)
    study.save_image("m.nii", FEWER)
    result = study.run(
        analysis_mask="m.nii",
        analysis_maks="m.nii",
        Missingness={"MinPercent": 5},
        contrasts=[{"c1": GOOD}, {"c2": GOOD | {"vector": [1, 0]}}],
    )
    assert result.code == 2
    text = "\n".join(result.errors)
    for part in ["s07.nii", "s03.nii", "m.nii", "analysis_maks", "MinPercent", "2 weights"]:
        assert part in text, part


# Faults that a reader might stop at, with others that must not be hidden by them.
NOT_HIDDEN = [
    ("NaN in X", "rows and images differ"),
    ("NaN in X", "a contrast of wrong length"),
    ("NaN in X", "MAXMEM is too small"),
    ("text in X", "a contrast of wrong length"),
    ("a ragged row in X", "rows and images differ"),
    ("a ragged row in X", "a contrast of wrong length"),
    ("X does not exist", "duplicate names"),
    ("X does not exist", "an F contrast of deficient rank"),
    ("a mask of another shape", "a contrast of wrong length"),
]


@pytest.mark.parametrize(("fault", "other"), NOT_HIDDEN)
def test_a_fault_hides_no_other(study, fault, other):
    changes = FAULTS[fault][0](study) | FAULTS[other][0](study)
    result = study.run(**changes)
    assert result.code == 2
    for parts in (FAULTS[fault][1], FAULTS[other][1]):
        about_it = [error for error in result.errors if all(part in error for part in parts)]
        assert len(about_it) == 1, result.err


def test_all_bad_cells_and_ragged_rows_of_x_are_named(study):
    def change(X):
        X[1].append(1)
        X[4][1] = "nan"
        X[6][2] = "high"
        X[8].pop()

    result = study.run(**change_design(study, change))
    assert result.code == 2
    [ragged, *cells] = result.errors
    for part in ("X.csv", "3 columns", "4 in line 2", "2 in line 9"):
        assert part in ragged
    parts = ["column 2 (X2): 'nan' in line 5.", "column 3 (X3): 'high' in line 7."]
    for part, error in zip(parts, cells, strict=True):
        assert part in error
        assert "X.csv" in error


def test_a_contrast_that_cannot_be_read_hides_no_fault_of_the_others(study):
    result = study.run(
        contrasts=[
            {"c1": GOOD},
            {"c2": {"name": "bad", "vector": "[0 0 one]"}},
            {"c3": GOOD},
            {"c4": {"name": "short", "vector": [0, 1]}},
            {"c5": {"name": "dependent", "vector": [[0, 1, 0], [0, 2, 0]]}},
            {"c6": {"name": "bad", "vector": [1, 0, 0]}},
        ]
    )
    starts = [
        "contrast 2: vector: 'one' is not a number",
        "contrast 3 ('age') has the name of contrast 1",
        "contrast 4 ('short') has 2 weights",
        "contrast 5 ('dependent') has 2 rows",
        "contrast 6 ('bad') has the name of contrast 2",
    ]
    assert result.code == 2
    assert len(result.errors) == len(starts)
    for error, start in zip(result.errors, starts, strict=True):
        assert error.startswith(start)


@pytest.mark.parametrize("field", ["minpercent", "MinPercent", "unknown"])
def test_a_fault_of_missingness_hides_no_other(study, field):
    rules = {field: 10, "minn": 13, "Masking": "no.nii"}
    result = study.run(Missingness=rules)
    assert result.code == 2
    assert len(result.errors) == 3
    for part in (f"Missingness.{'Min' if 'in' in field else 'unknown'}", "12 images", "no.nii"):
        assert any(part in error for error in result.errors), part


def test_without_its_mask_a_run_is_known_to_need_memory_for_one_voxel(study):
    result = study.run(analysis_mask="no.nii", MAXMEM=100)
    assert result.code == 2
    [about_mask, about_memory] = result.errors
    assert "no.nii does not exist" in about_mask
    assert "MAXMEM is 100 bytes, too little" in about_memory
    assert "the least that works" not in about_memory  # nobody knows
    result = study.run(analysis_mask="no.nii", MAXMEM=2**20)
    assert len(result.errors) == 1


def test_every_bad_image_is_named_up_to_twenty(study):
    study.write("Y.txt", "".join(f"no{i}.nii\n" for i in range(30)))
    result = study.run()
    assert result.code == 2
    assert sum("does not exist" in line for line in result.errors) == 20
    assert "10 more" in result.err


def test_blank_lines_in_lists_are_ignored_and_counted_in_line_numbers(study):
    lines = study.folder.joinpath("Y.txt").read_text()
    study.write("Y.txt", "\n\n" + lines.replace("s07.nii", "s07.nii\n\n") + "\n\n")
    assert study.run("--check").code == 0
    remove_image(study)
    assert "line 10 of Y.txt" in study.run("--check").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list of fields"),
        ("- a\n", "list of fields"),
        ("X: [1\n", "blm.yml"),
        ("X: a\nX: b\n", "'X' is given twice"),
        ("X: !!python/object/apply:os.mkdir [pwned]\n", "blm.yml"),
        (b"\xff\xfe\x00", "blm.yml"),
    ],
)
def test_a_configuration_that_is_none_is_refused(study, text, message, monkeypatch):
    monkeypatch.chdir(study.folder)
    result = study.command(study.write("blm.yml", text))
    assert result.code == 2
    assert message in result.err
    assert not (study.folder / "pwned").exists()


def test_a_configuration_that_does_not_exist_is_refused(study):
    result = study.command(study.folder / "no.yml")
    assert result.code == 2
    assert "no.yml" in result.err
    assert study.command(study.folder).code == 2


@pytest.mark.parametrize("arguments", [[], ["--chekc", "blm.yml"], ["a.yml", "b.yml"]])
def test_a_wrong_command_line_is_bad_input(study, arguments):
    result = study.command(*arguments)
    assert result.code == 2
    assert "usage: blm" in result.err


# --------------------------------------------------------------- found when voxels are read


def cut(content):
    return content[:-20]


def flip(content):
    return content[:-6] + bytes([content[-6] ^ 1]) + content[-5:]


def append(content):
    return content + b"junk"


@pytest.mark.parametrize("damage", [cut, flip, append])
@pytest.mark.parametrize("what", ["image", "mask"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_compressed_file_is_named_and_no_map_appears(study, damage, what, threads):
    study.save_image("d.nii.gz", np.ones((4, 3, 2)))
    path = study.folder / "d.nii.gz"
    path.write_bytes(damage(path.read_bytes()))
    changes = {}
    if what == "image":
        study.write(
            "Y.txt", study.folder.joinpath("Y.txt").read_text().replace("s07.nii", path.name)
        )
    else:
        study.save_image("m.nii", np.ones((4, 3, 2)))
        study.write("M.txt", "m.nii\n" * 7 + "d.nii.gz\n" + "m.nii\n" * 4)
        changes["data_mask_files"] = "M.txt"
    result = study.run("--quiet", numNodes=threads, **changes)
    assert result.code == 2
    [error] = result.errors
    assert "line 8" in error
    assert "d.nii.gz" in error
    assert "damaged" in error
    assert study.results() == set()


def test_an_image_that_lacks_voxels_is_named_and_no_map_appears(study):
    path = study.folder / "s07.nii"
    path.write_bytes(path.read_bytes()[:-1])
    result = study.run("--quiet")
    assert result.code == 2
    assert "line 8 of Y.txt" in result.errors[0]
    assert "s07.nii is damaged" in result.errors[0]
    assert study.results() == set()


@pytest.mark.parametrize("name", ["all.nii", "renamed.nii"])
def test_a_complete_image_passes_the_check_of_its_size(study, name):
    study.save_image("all.nii", np.moveaxis(study.values, 0, -1))
    content = (study.folder / "all.nii").read_bytes()
    study.write("renamed.nii", gzip.compress(content))  # shorter than its voxels
    assert study.run("--check", Y_files=name).code == 0
    study.write("all.nii", content[:-1])
    assert study.run("--check", Y_files="all.nii").code == 2


def test_a_damaged_analysis_mask_is_named(study):
    path = study.save_image("m.nii.gz", np.ones((4, 3, 2)))
    path.write_bytes(flip(path.read_bytes()))
    result = study.run("--check", analysis_mask="m.nii.gz")
    assert result.code == 2
    [error] = result.errors
    assert error.startswith("analysis_mask: ")
    assert "m.nii.gz is damaged" in error


def test_maps_of_an_earlier_run_stay_when_a_later_one_meets_a_damaged_image(study, contents_of):
    path = study.compress_image()
    study.run()
    work = study.outdir / "work"
    before = {p: c for p, c in contents_of(study.outdir).items() if work not in p.parents}
    path.write_bytes(path.read_bytes()[:-1])
    assert study.run().code == 2
    after = {p: c for p, c in contents_of(study.outdir).items() if work not in p.parents}
    assert after == before


def test_after_a_damaged_image_is_restored_the_same_command_goes_on(study):
    path = study.compress_image()
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert study.run().code == 2
    path.write_bytes(content)
    assert study.run().code == 0
    np.testing.assert_array_equal(study.map("n"), study.fit()[0])


@pytest.mark.parametrize("what", ["image", "mask"])
def test_a_file_that_changes_between_planning_and_reading_is_named(study, what):
    config = study.configure(**list_masks(study, 12))
    plan = write_plan(prepare_run(load_config(config)), study.folder / "plan")
    path = study.folder / {"image": "s07.nii", "mask": "m.nii"}[what]
    path.write_bytes(path.read_bytes() + b"more")
    [batch] = plan.batch_files
    with pytest.raises(InputError, match=f"{path.name} has changed since the run was planned"):
        compute_products(plan.model_file, batch, study.folder / "products.blm")
    assert not (study.folder / "products.blm").exists()


# ------------------------------------------------------------------------ memory and disk


def test_the_least_memory_that_is_named_works(study):
    least = int(re.search(r"least that works is (\d+)", study.run(MAXMEM=1).err).group(1))
    result = study.run(MAXMEM=least)
    assert result.code == 0, result.err
    small = study.maps()
    shutil.rmtree(study.outdir)
    for name, values in study.maps_of().items():
        # Other chunks of images are summed in another order; maps are single precision.
        np.testing.assert_allclose(small[name], values, rtol=1e-5, err_msg=name)


def test_less_free_disk_than_needed_is_refused_with_both_numbers(study, monkeypatch):
    usage = shutil.disk_usage(study.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    result = study.run()
    assert result.code == 2
    assert re.search(r"[\d.]+ [MG]B free, but up to [\d.]+ [MG]B are needed", result.err)
    assert str(study.outdir) in result.err
    assert not study.outdir.exists()


def needs(study, **changes):
    """Return the bytes that a run needs for intermediate files and for maps."""
    plan = prepare_run(load_config(study.configure(**changes))).plan
    return plan.disk_bytes, plan.map_bytes


@pytest.fixture
def set_free(monkeypatch):
    """Function that sets the free bytes of every disk."""
    usage = shutil.disk_usage("/")

    def set_to(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))

    return set_to


def intermediate_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.blm"))


@pytest.mark.parametrize("work_dir", [None, "w"], ids=["below outdir", "elsewhere"])
def test_intermediate_files_of_an_earlier_run_count_as_free_once(study, set_free, work_dir):
    needed = sum(needs(study))
    assert study.run(work_dir=work_dir).code == 0
    work = study.folder / work_dir if work_dir else study.outdir / "work"
    missing = needed - intermediate_bytes(work)
    set_free(missing)
    assert study.run("--check", work_dir=work_dir).code == 0
    set_free(missing - 1)
    assert study.run("--check", work_dir=work_dir).code == 2


@pytest.mark.parametrize("name", ["mine.bin", "work/mine.blm", "work/blm_wf/mine.bin"])
def test_files_that_a_run_does_not_replace_do_not_count_as_free(study, set_free, name):
    needed = sum(needs(study))
    (study.outdir / name).parent.mkdir(parents=True)
    study.write(f"out/{name}", bytes(needed))
    set_free(needed)
    assert study.run("--check").code == 0
    set_free(needed - 1)
    assert study.run("--check").code == 2


def test_maps_of_an_earlier_run_do_not_count_as_free(study, set_free):
    """They are removed when the new ones are complete."""
    needed = sum(needs(study))
    assert study.run("--clean").code == 0
    assert study.results()
    set_free(needed - 1)
    assert study.run("--check").code == 2


def test_each_disk_is_compared_with_what_is_written_there(study, small_disk, monkeypatch):
    here = {"work_dir": str(small_disk / "work")}
    disk_bytes, map_bytes = needs(study, **here)
    assert study.run(**here).code == 0
    written = intermediate_bytes(small_disk)
    usage = shutil.disk_usage("/")

    def check(work_free, map_free):
        def find_free(path):
            on_small_disk = small_disk in [path, *path.parents]
            return usage._replace(free=work_free if on_small_disk else map_free)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", find_free)
            return study.run("--check", **here)

    assert check(disk_bytes - written, map_bytes).code == 0
    # What lies on one disk does not help the other.
    result = check(disk_bytes - written, map_bytes - 1)
    assert result.code == 2
    [error] = result.errors
    assert str(study.outdir) in error
    assert str(small_disk) not in error
    result = check(disk_bytes - written - 1, map_bytes - 1)
    assert len(result.errors) == 2
    assert str(small_disk) in result.errors[0]


@pytest.mark.parametrize("changes", [{"outdir": "a[1]"}, {"work_dir": "w[1]/b"}])
def test_a_working_folder_with_a_bracket_in_its_path_is_refused(study, changes):
    [folder] = changes.values()
    result = study.run("--check", **changes)
    assert result.code == 2
    [error] = result.errors
    assert f"{study.folder / folder}/" in error
    assert "bracket" in error
    assert "choose another work_dir" in error
    assert not (study.folder / folder).exists()


def test_brackets_elsewhere_do_no_harm(study):
    expected = study.maps_of()
    folder = study.folder / "a[1]"
    folder.mkdir()
    for path in study.folder.glob("*.*"):
        shutil.copy(path, folder)
    study.outdir = folder / "out"
    names = {"Y_files": str(folder / "Y.txt"), "X": str(folder / "X.csv")}
    found = study.maps_of(outdir=str(study.outdir), work_dir="w", **names)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def run_limited(study, *prefix, options=(), **changes):
    """Run the command as a process under a limit of the system."""
    python = [
        sys.executable,
        "-m",
        "nipype_blm.cli.blm",
        "--quiet",
        str(study.configure(**changes)),
        *options,
    ]
    return subprocess.run([*prefix, *python], capture_output=True, text=True, check=False)


def test_a_run_that_cannot_write_fails_with_1_and_no_map_appears(study, require_command):
    prlimit = require_command("prlimit", "util-linux")
    # No file may pass 2000 bytes: the plan can be written, the covariances cannot.
    result = run_limited(study, prlimit, "--fsize=2000")
    assert result.returncode == 1, result.stderr
    assert "error: " in result.stderr
    assert study.results() == set()
    assert study.run().code == 0
    np.testing.assert_array_equal(study.map("n"), study.fit()[0])


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("--nofile=8:8", "limited to 8 open files (ulimit -n); only the administrator"),
        ("--nofile=8:99", "raise it by `ulimit -n 99` in the shell"),
        ("--fsize=2048:2048", "limited to 2 KiB in a file (ulimit -f); only the administrator"),
        ("--fsize=2048:", "raise it by `ulimit -f unlimited` in the shell"),
    ],
)
def test_a_limit_of_the_shell_or_job_that_is_too_low_is_named(study, require_command, limit, words):
    """What an error of the system comes from, and how to raise it; not a traceback."""
    result = run_limited(study, require_command("prlimit", "util-linux"), limit)
    assert result.returncode == 1, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert study.results() == set()


def test_an_outdir_that_cannot_be_written_is_refused(study, as_ordinary_user):
    folder = study.folder / "closed"
    folder.mkdir(mode=0o555)
    result = run_limited(study, *as_ordinary_user, outdir="closed/out")
    assert result.returncode == 2, result.stderr
    assert f"error: outdir {folder}/out cannot be written: " in result.stderr
    assert "permission" in result.stderr.lower()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("option", [[], ["--check"]], ids=["run", "check"])
@pytest.mark.parametrize(
    ("closed", "field"),
    [
        ("out", "outdir"),
        ("work", "work_dir"),
        ("work/blm_wf", "work_dir"),
        ("out/work", "work_dir"),
    ],
)
def test_the_folder_of_a_colleague_is_one_error_that_names_the_owner(
    study, as_ordinary_user, closed, field, option
):
    """In a shared project: intermediate files are for those only who made them."""
    if not as_ordinary_user:
        pytest.skip("not root: only root can give a folder to another user; run the tests as root")
    fields = {} if closed == "out/work" else {"work_dir": "work"}
    assert study.run(**fields).code == 0
    folder = study.folder / closed
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, -1)
    folder.chmod(0o700)
    before = {path: path.stat() for path in study.folder.rglob("*")}
    result = run_limited(study, *as_ordinary_user, options=option, **fields)
    assert result.returncode == 2, result.stderr
    [error] = result.stderr.splitlines()
    assert error.startswith(f"error: {field} {study.folder}/")
    assert "Permission denied (it belongs to user 12345)" in error
    study.write("blm.yml", "")
    after = {path: path.stat() for path in study.folder.rglob("*")}
    assert {p: s.st_ino for p, s in before.items()} == {p: s.st_ino for p, s in after.items()}


def make_loop(path):
    path.symlink_to(path.name)


def make_dangling(path):
    path.symlink_to("nowhere/below")


@pytest.mark.parametrize("option", [[], ["--check"]], ids=["run", "check"])
@pytest.mark.parametrize("field", ["outdir", "work_dir"])
@pytest.mark.parametrize(
    ("make", "below", "words"),
    [
        (make_loop, "", "symbolic link that leads nowhere"),
        (make_loop, "/below", "symbolic link that leads nowhere"),
        (make_dangling, "", "symbolic link that leads nowhere (to nowhere/below)"),
        (make_dangling, "/below", "symbolic link that leads nowhere"),
        (Path.touch, "", "is a file"),
        (Path.touch, "/below", "is a file"),
        (os.mkfifo, "", "is a file"),
    ],
    ids=["loop", "in a loop", "dangling", "in dangling", "file", "in a file", "pipe"],
)
def test_what_is_no_folder_is_one_error_where_a_folder_is_expected(
    study, make, below, words, field, option
):
    """Links that lead nowhere, files, and names that cannot be, before anything is made."""
    make(study.folder / "odd")
    result = study.run(*option, **{field: f"odd{below}"})
    assert result.code == 2
    [error] = result.errors
    assert error.startswith(f"{field} {study.folder}/odd{below} cannot be ")
    assert words in error
    assert study.results() == set()
    assert not (study.folder / "nowhere").exists()


def test_the_folder_for_logs_of_jobs_is_checked_as_others_are(study):
    make_loop(study.folder / "odd")
    arguments = study.write("arguments.yml", "log_directory: odd\n")
    result = study.run("--plugin", "Dask", "--plugin-args", arguments)
    assert result.code == 2
    assert [e for e in result.errors if "log_directory" in e and "leads nowhere" in e]


# --------------------------------------------------------- voxels that cannot be fitted


def test_voxels_that_cannot_be_fitted_leave_the_mask_with_a_status(study):
    study.values[:, 2, 1, 0] = 7  # constant
    study.values[:, 3, 1, 0] = np.where(study.X[:, 1] == 1, 5, 0)  # one group only, constant
    X = np.c_[study.X[:, :2], np.arange(12) % 3]
    study.write_design(X)
    study.X = X
    for i, values in enumerate(study.values):
        study.save_image(f"s{i:02}.nii", values)
    assert study.run().code == 0
    status = study.map("status")
    assert status[0, 0, 0] == 10
    assert status[1, 0, 0] == 12
    assert status[2, 1, 0] == 14
    assert status[3, 1, 0] == 14
    np.testing.assert_array_equal(study.map("mask"), (status == 1) | (status == 2))
    assert not study.map("beta")[status >= 10].any()
    levels = study.sidecar("blm_vox_status")["Levels"]
    assert {str(code) for code in np.unique(status)} <= set(levels)


def test_data_without_one_voxel_that_can_be_fitted_are_a_failure_with_empty_maps(study):
    for i in range(12):
        study.save_image(f"s{i:02}.nii", np.zeros((4, 3, 2)))
    result = study.run()
    assert result.code == 1
    assert any("no voxel could be fitted" in error for error in result.errors)
    assert not study.map("mask").any()
    assert (study.map("status") == 10).all()
    assert nib.load(study.path("blm_vox_conT")).shape == (4, 3, 2, 1)
    result = study.run("--quiet", allow_empty=True)
    assert (result.code, result.errors) == (0, [])
