"""Rows and images belong together by their names, or the run is refused.

The kind: tables, labels, masks and images are matched by their order alone, while their names say
that the order is another one.
"""

import logging
import os

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.interfaces import BLM, PlanBLM

N = 12
SHELL = sorted(range(1, N + 1), key=str)  # as a shell lists files: 1, 10, 11, 12, 2, ...


def rename_images(study, names):
    """Give the images of the study names, in its order."""
    for i, name in enumerate(names):
        (study.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (study.folder / f"s{i:02}.nii").rename(study.folder / name)
    study.write("Y.txt", "".join(f"{name}\n" for name in names))


def write_table(study, labels, header="participant_id,one,group,age", values=None, to="X.csv"):
    values = study.X if values is None else values
    rows = [
        ",".join([*([label] if label is not None else []), *(f"{x:.17g}" for x in row)])
        for label, row in zip(labels, values, strict=True)
    ]
    study.write(to, "\n".join([*([header] if header else []), *rows]))


def shuffle_rows(study, label="sub-{}", image="sub-{}_cope1.nii"):
    """List the images as a shell does, and the rows of X by number; return the row of each image.

    Images and values of X stay together: study.X is in the order of the images.
    """
    rename_images(study, [image.format(i) for i in SHELL])
    row_of_image = np.array(SHELL) - 1
    write_table(study, [label.format(i) for i in range(1, N + 1)], values=invert(study.X))
    return row_of_image


def invert(rows):
    """Return rows that are in the order of the images in the order of their numbers."""
    return [rows[i] for i in np.argsort(SHELL)]


def check_fit(study):
    _, beta, resms = study.fit()
    fitted = study.map("mask") == 1
    assert fitted.sum() > 10
    # Products merge sums of up to 12 integers of up to 99: 32-bit maps lose all but 7 digits.
    assert_allclose(study.map("beta")[fitted], beta[fitted], rtol=1e-5, atol=1e-4)
    assert_allclose(study.map("resms")[fitted], resms[fitted], rtol=1e-5)


STYLES = [
    ("sub-{}", "sub-{}_cope1.nii"),
    ("sub-{:02}", "sub-{}/func/cope1.nii"),
    ("SUB{}", "sub-{:03}/cope1.nii"),
    ("sub-{:02}_ses-1", "sub-{0:02}/ses-1/sub-{0:02}_task-x_ses-1.nii"),
]


@pytest.mark.parametrize(("label", "image"), STYLES)
def test_rows_in_another_order_are_refused_with_the_first_of_them(study, label, image):
    shuffle_rows(study, label, image)
    result = study.run()
    assert result.code == 2
    [error] = result.errors
    for part in [
        f"X {study.folder / 'X.csv'}",
        "11 of 12 images",
        f"row 2 is {label.format(2)}, but its image is {image.format(10)}",
        "match_rows: by_name",
        "match_rows: by_order",
    ]:
        assert part in error
    assert not study.outdir.exists()
    assert study.run("--check").errors == [error]


@pytest.mark.parametrize(("label", "image"), STYLES)
def test_rows_are_sorted_by_name(study, label, image):
    shuffle_rows(study, label, image)
    assert study.run(match_rows="by_name").code == 0
    check_fit(study)


def test_rows_stay_in_their_order_if_that_is_wished(study):
    shuffle_rows(study)
    assert study.run(match_rows="by_order").code == 0
    study.X = np.array(invert(study.X))
    check_fit(study)


def test_a_subject_without_a_row_and_one_without_an_image_are_found(study):
    rename_images(study, [f"sub-{i}.nii" for i in range(1, N + 2) if i != 5])
    write_table(study, [f"sub-{i}" for i in range(1, N + 2) if i != 7])
    [error] = study.run("--check").errors
    assert "1 of 12 images: row 6 is sub-6, but its image is sub-7.nii." in error
    assert "They do not have the same names." in error
    assert "by_name" not in error
    [error] = study.run("--check", match_rows="by_name").errors
    assert "sub-7.nii has no row; sub-5 names 1 row and no image" in error


def test_names_that_are_not_found_say_nothing(study):
    write_table(study, [f"person {i}" for i in range(N)])
    assert study.run("--check").code == 0
    [error] = study.run("--check", match_rows="by_name").errors
    assert "s00.nii has no row" in error


def test_volumes_have_no_names(study):
    study.save_image("all.nii", np.moveaxis(study.values, 0, -1))
    write_table(study, [f"sub-{i}" for i in range(N)])
    assert study.run("--check", Y_files="all.nii").code == 0
    [error] = study.run("--check", Y_files="all.nii", match_rows="by_name").errors
    assert "volumes" in error
    study.write("one.txt", "all.nii\n")
    assert study.run("--check", Y_files="one.txt").code == 0


def test_a_table_without_names_cannot_be_matched_by_name(study):
    [error] = study.run("--check", match_rows="by_name").errors
    assert "no names of rows" in error
    assert "row_names" in error


def test_rows_of_one_name_must_be_the_same_to_be_sorted(study):
    rename_images(study, [f"sub-{i // 2}_ses-{i % 2}.nii" for i in range(N)])
    write_table(study, [f"sub-{i // 2}" for i in range(N)])
    assert study.run("--check").code == 0
    [error] = study.run("--check", match_rows="by_name").errors
    assert "sub-0 names rows that differ" in error


@pytest.mark.parametrize("value", ["name", "", 3, ["check"]])
def test_a_way_to_match_that_does_not_exist_is_refused(study, value):
    [error] = study.run("--check", match_rows=value).errors
    assert error.startswith("match_rows: ")
    assert "check, by_name, by_order" in error


# ------------------------------------------------------------------------ names or regressors


def number_subjects(study, first=101, image="sub-{}_cope1.nii", header="participant_id"):
    rename_images(study, [image.format(first + i) for i in range(N)])
    write_table(study, [f"{first + i}" for i in range(N)], f"{header},one,group,age")


@pytest.mark.parametrize(
    ("first", "header", "column"),
    [(101, "participant_id", "participant_id"), (1, "ID", "ID"), (101, "number", "number")],
)
def test_numbers_that_look_like_names_are_no_regressor_unless_it_is_said(
    study, first, header, column
):
    number_subjects(study, first, header=header)
    [error, *_] = study.run("--check").errors
    assert f"column {column} would be a regressor" in error
    assert f"row_names: {column};" in error
    assert "row_names: none" in error
    assert study.run(row_names=column).code == 0
    check_fit(study)
    contrasts = [{"c1": {"name": "age", "vector": [0, 0, 0, 1]}}]
    assert study.run(row_names="none", contrasts=contrasts).code == 0
    assert study.sidecar("blm_vox_beta")["Volumes"] == [column, "one", "group", "age"]


def test_columns_without_a_header_are_given_by_number(study):
    number_subjects(study)
    write_table(study, [f"{101 + i}" for i in range(N)], header="")
    assert any("row_names: 1;" in error for error in study.run("--check").errors)
    assert study.run(row_names=1).code == 0
    check_fit(study)


def test_numbers_that_name_rows_are_checked_too(study):
    shuffle_rows(study, label="{}")
    [error] = study.run("--check", row_names="participant_id").errors
    assert "row 2 is 2, but its image is sub-10_cope1.nii" in error
    assert study.run(row_names="participant_id", match_rows="by_name").code == 0
    check_fit(study)


def test_a_trend_is_a_regressor(study):
    rename_images(study, [f"sub-{i + 1:02}.nii" for i in range(N)])
    study.X = np.c_[np.ones(N), np.arange(N) + 1, study.X[:, 2]]
    write_table(study, [None] * N, header="one,trend,age")
    assert study.run().code == 0
    check_fit(study)


def test_a_number_of_subjects_beside_their_names_is_asked_about(study):
    names = [f"sub-{i}_cope1.nii" for i in range(N)]
    rename_images(study, names)
    numbered = np.c_[np.arange(N) + 7, study.X]
    write_table(study, names, "file,subject,one,group,age", numbered)
    error = study.run("--check").errors[0]
    assert "If it names rows, leave it out; if it is a regressor, set row_names: file" in error


def test_text_that_repeats_may_be_a_regressor(study):
    write_table(study, ["f", "m"] * 6, "sex,one,group,age")
    [error] = study.run("--check").errors
    assert "found 'f' in line 2, column 1 (sex)" in error
    assert "write it as numbers" in error
    assert study.run("--check", row_names="sex").code == 0
    write_table(study, [f"person {i // 2}" for i in range(N)], "subject,one,group,age")
    assert study.run().code == 0
    check_fit(study)


def test_text_that_repeats_names_rows_if_images_have_it(study):
    rename_images(study, [f"{'cp'[i % 2]}_{i}.nii" for i in range(N)])
    write_table(study, ["c", "p"] * 6, "group,one,group,age")
    assert study.run("--check").code == 0
    write_table(study, ["p", "c"] * 6, "group,one,group,age")
    [error] = study.run("--check").errors
    assert "12 of 12 images" in error


# ----------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    "names", [("sub-{}_cope.nii", "mask_sub-{}.nii"), ("p{}.nii", "p{}_m.nii")]
)
def test_masks_of_other_images_are_refused(study, names):
    image, mask = names
    rename_images(study, [image.format(i) for i in range(1, N + 1)])
    for i in SHELL:
        study.save_image(mask.format(i), np.ones((4, 3, 2)))

    def check(order, **changes):
        study.write("M.txt", "".join(f"{mask.format(i)}\n" for i in order))
        return study.run("--check", data_mask_files="M.txt", **changes)

    assert check(range(1, N + 1)).code == 0
    [error] = check(SHELL).errors
    assert f"{image.format(2)} has {mask.format(10)}" in error
    assert "11 of 12 images" in error
    assert len(check(SHELL, match_rows="by_order").errors) == 0


def test_one_mask_may_serve_all_images_of_a_subject(study):
    rename_images(study, [f"sub-{i // 2}_ses-{i % 2}.nii" for i in range(N)])
    for i in range(6):
        study.save_image(f"sub-{i}_ses-0_mask.nii", np.ones((4, 3, 2)))
    study.write("M.txt", "".join(f"sub-{i // 2}_ses-0_mask.nii\n" for i in range(N)))
    assert study.run("--check", data_mask_files="M.txt").code == 0
    study.write("M.txt", "".join(f"sub-{i % 6}_ses-0_mask.nii\n" for i in range(N)))
    assert study.run("--check", data_mask_files="M.txt").code == 2


# ---------------------------------------------------------------------------------- --check


def test_check_shows_columns_contrasts_and_pairs(study):
    shuffle_rows(study)
    contrasts = [
        {"c1": {"name": "age", "vector": [0, -0.5, 1]}},
        {"c2": {"name": "any", "vector": [[0, 1, 0], [-1, 0, 2.5]]}},
    ]
    result = study.run("--check", match_rows="by_name", contrasts=contrasts)
    lines = [line.split() for line in result.out.splitlines()]
    ages = [f"{x:g}" for x in (study.X[:, 2].min(), study.X[:, 2].max())]
    r = np.corrcoef(study.X[:, 1:].T)[0, 1]
    vif = f"{1 / (1 - r**2):.3g}"  # the same for both, of two columns
    assert ["2", "group", "0", "1", "2", vif] in lines
    assert ["3", "age", *ages, "12", vif] in lines
    assert ["rank", "3", "of", "3", "columns"] in lines
    assert "age (T):  -0.5*group + 1*age" in result.out
    assert "any (F):  1*group\n            -1*one + 2.5*age\n" in result.out
    pairs = [line for line in lines if line and line[0].startswith("sub-")]
    assert [line[:4] for line in pairs] == [
        [f"sub-{i}_cope1.nii", "row", f"{i}", f"sub-{i}"] for i in SHELL[:3] + SHELL[-3:]
    ]
    assert pairs[1][-1] == f"{study.X[1, 2]:g}"
    assert ["...", "6", "more"] in lines


def test_check_of_volumes_names_them_by_number(study):
    study.save_image("all.nii", np.moveaxis(study.values, 0, -1))
    assert "all.nii, volume 12  row 12  " in study.run("--check", Y_files="all.nii").out


# ---------------------------------------------------------------------------------- notices


def list_twice(study, how):
    """List an image once more, as line 13 of Y.txt, with a row of its own."""
    again = study.folder / ("s02.nii" if how == "path" else "again.nii")
    if how == "symbolic link":
        again.symlink_to("s02.nii")
    if how == "hard link":
        os.link(study.folder / "s02.nii", again)
    with (study.folder / "Y.txt").open("a") as file:
        file.write(f"{again.name}\n")
    study.write_design(np.vstack([study.X, [1, 0, 2.5]]))


@pytest.mark.parametrize("how", ["path", "symbolic link", "hard link"])
@pytest.mark.parametrize("option", ["--check", "--quiet"])
def test_an_image_that_is_listed_twice_is_noticed_once(study, how, option):
    list_twice(study, how)
    result = study.run(option, zero_is_missing=False)  # zeros would be a notice, too
    assert result.code == 0
    [notice] = result.err.splitlines()
    assert notice.startswith("notice: line 3 and line 13 of Y.txt are the same image, ")
    assert "s02.nii" in notice


def test_many_images_that_are_listed_twice_are_counted(study):
    with (study.folder / "Y.txt").open("a") as file:
        file.writelines(f"s{i:02}.nii\n" for i in range(N))
    study.write_design(np.vstack([study.X, study.X]))
    lines = study.run("--check").err.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "notice: ... and 2 more images are listed repeatedly."


def test_equal_images_in_files_of_their_own_are_no_notice(study):
    study.save_image("s05.nii", study.values[2])
    os.utime(study.folder / "s05.nii", (0, 0))
    os.utime(study.folder / "s02.nii", (0, 0))
    assert study.run("--check").err == ""


@pytest.mark.parametrize(
    ("columns", "has_intercept"),
    [
        (lambda X: X, True),
        (lambda X: np.c_[X[:, 1], 1 - X[:, 1], X[:, 2]], True),
        (lambda X: np.c_[0.3 + X[:, 1], 0.7 * X[:, 1] - 0.5, X[:, 2]], True),
        (lambda X: X[:, [1, 2]], False),
        (lambda X: np.c_[X[:, 1], X[:, 2] - X[:, 2].mean()], False),
    ],
)
def test_a_design_without_an_intercept_is_noticed(study, columns, has_intercept):
    X = columns(study.X)
    study.write_design(X)
    contrasts = [{"c1": {"name": "last", "vector": [0] * (X.shape[1] - 1) + [1]}}]
    result = study.run("--check", contrasts=contrasts)
    assert result.code == 0
    assert ("X has no intercept" in result.err) != has_intercept


@pytest.mark.parametrize("interface", [BLM, PlanBLM])
def test_interfaces_log_notices_and_name_traits(study, interface, caplog, monkeypatch):
    monkeypatch.chdir(study.folder)
    images = [str(study.folder / f"s{i:02}.nii") for i in (*range(N - 1), 4)]
    node = interface(in_files=images, design_file=str(study.folder / "X.csv"))
    node.inputs.contrasts = [{"name": "age", "vector": [0, 0, 1]}]
    node.inputs.zero_is_missing = False  # zeros would be a notice, too
    with caplog.at_level(logging.WARNING, "nipype_blm"):
        node.run()
    [record] = [record for record in caplog.records if record.name.startswith("nipype_blm")]
    assert "entry 5 and entry 12 of in_files are the same image" in record.getMessage()


def test_interfaces_sort_rows_and_record_it(study, monkeypatch):
    monkeypatch.chdir(study.folder)
    shuffle_rows(study, label="{}")
    images = [str(study.folder / f"sub-{i}_cope1.nii") for i in SHELL]
    node = BLM(in_files=images, design_file=str(study.folder / "X.csv"), out_dir=study.outdir)
    node.inputs.contrasts = [{"name": "age", "vector": [0, 0, 1]}]
    node.inputs.row_names = "participant_id"
    node.inputs.match_rows = "by_name"
    node.run()
    check_fit(study)
    recorded = yaml.safe_load((study.outdir / "inputs.yml").read_text())
    assert recorded["row_names"] == "participant_id"
    assert recorded["match_rows"] == "by_name"
    before = study.map("beta")
    assert study.command(study.outdir / "inputs.yml").code == 0
    assert_array_equal(study.map("beta"), before)
