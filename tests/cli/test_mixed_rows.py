"""Labels and designs of random factors, as rows of X, belong to their images by their names."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nipype_blm.cli.compare import main as compare

N_SUBJECTS, N_VISITS = 6, 4
N = N_SUBJECTS * N_VISITS
SHAPE = (4, 3, 2)
SUBJECT, VISIT = (
    np.repeat(np.arange(N_SUBJECTS) + 1, N_VISITS),
    np.tile(np.arange(N_VISITS), N_SUBJECTS),
)
NAMES = [f"sub-{s}_ses-{v}" for s, v in zip(SUBJECT, VISIT, strict=True)]
SHUFFLED = np.random.default_rng(3).permutation(N)


class Visits:
    """Six subjects with four visits each; tables are written in any order, with names or not."""

    def __init__(self, study):
        self.study = study
        study.model = "blmm"
        rng = np.random.default_rng(2)
        study.X = np.c_[np.ones(N), VISIT, rng.normal(size=N)]
        slopes = rng.normal(size=(N_SUBJECTS, *SHAPE))[SUBJECT - 1]
        values = 100 + 8 * rng.normal(size=(N_SUBJECTS, *SHAPE))[SUBJECT - 1]
        study.values = values + 5 * (slopes.T * VISIT).T + 3 * rng.normal(size=(N, *SHAPE))
        for name, image in zip(NAMES, study.values, strict=True):
            study.save_image(f"{name}_cope.nii", image, np.float64)
        study.write("Y.txt", "".join(f"{name}_cope.nii\n" for name in NAMES))
        study.fields |= {
            "contrasts": [{"c1": {"name": "visit", "vector": [0, 1, 0]}}],
            "Z": [{"f1": {"name": "subject", "factor": "subject.txt", "design": "Z.csv"}}],
        }
        self.write()

    def write(self, *, X=None, labels=None, Z=None, names=False, label="sub-{}"):
        """Write tables in the order of the images, or in another one."""
        order = np.arange(N)
        X, labels, Z = (order if each is None else each for each in (X, labels, Z))
        named = [f"{name}," if names else "" for name in NAMES]
        header = "scan," if names else ""
        lines = [f"{named[i]}{','.join(f'{x:.17g}' for x in self.study.X[i])}" for i in X]
        self.study.write("X.csv", "\n".join([f"{header}one,visit,age", *lines]))
        self.study.write("subject.txt", "".join(f"{label.format(SUBJECT[i])}\n" for i in labels))
        lines = [f"{named[i]}1,{VISIT[i]}" for i in Z]
        self.study.write("Z.csv", "\n".join([f"{header}one,visit", *lines]))
        self.study.write("one.csv", "one\n" + "1\n" * N)

    def maps_of(self, **changes):
        return self.study.maps_of(**changes)


@pytest.fixture
def visits(study):
    return Visits(study)


@pytest.mark.parametrize("label", ["sub-{}", "SUB{:02}"])
def test_labels_of_other_images_are_refused(visits, label):
    visits.write(label=label)
    assert visits.study.run("--check").code == 0
    visits.write(label=label, labels=np.argsort(VISIT, kind="stable"))
    [error] = visits.study.run("--check").errors
    assert error.startswith(f"Z f1 factor {visits.study.folder / 'subject.txt'} contradicts")
    assert f"row 2 is {label.format(2)}, but its image is sub-1_ses-1_cope.nii" in error
    assert visits.study.run("--check", match_rows="by_order").code == 0


@pytest.mark.parametrize("label", ["p{}", "scanner {}", "sub-{}1", "{}7", "{}"])
def test_labels_that_are_in_no_names_say_nothing(visits, label):
    visits.write(label=label, labels=np.argsort(VISIT, kind="stable"))
    assert visits.study.run("--check").code == 0


def test_a_design_of_other_images_is_refused(visits):
    visits.write(names=True)
    assert visits.study.run("--check").code == 0
    visits.write(names=True, Z=SHUFFLED)
    [error] = visits.study.run("--check").errors
    assert error.startswith(f"Z f1 design {visits.study.folder / 'Z.csv'} contradicts")


def test_contradictions_of_all_tables_are_reported_together(visits):
    visits.write(names=True, X=SHUFFLED, labels=SHUFFLED, Z=SHUFFLED)
    errors = visits.study.run("--check").errors
    assert [" ".join(error.split()[:3]) for error in errors if "contradicts" in error] == [
        f"X {visits.study.folder / 'X.csv'} contradicts",
        "Z f1 factor",
        "Z f1 design",
    ]


def test_every_table_is_sorted_by_its_own_names(visits):
    """Rows of X, labels and designs in three orders give the maps of tables in that of images."""
    expected = visits.maps_of()
    rng = np.random.default_rng(4)
    visits.write(names=True, X=SHUFFLED, labels=rng.permutation(N), Z=rng.permutation(N))
    maps = visits.maps_of(match_rows="by_name")
    assert maps.keys() == expected.keys()
    for name, values in expected.items():
        assert_array_equal(maps[name], values, err_msg=name)


def test_tables_whose_order_is_not_known_are_refused(visits):
    """Their rows may follow those of X or the images, while X is sorted by name."""
    study = visits.study
    visits.write(names=True, X=SHUFFLED, label="p{}")
    [error] = study.run("--check", match_rows="by_name").errors
    assert error.startswith(f"Z f1 factor {study.folder / 'subject.txt'} has no names")
    visits.write(names=True, label="p{}")
    assert study.run("--check", match_rows="by_name").code == 0  # X is in order as it is
    visits.write(names=True, X=SHUFFLED)
    intercept = {"name": "subject", "factor": "subject.txt", "design": "one.csv"}
    assert study.run("--check", match_rows="by_name", Z=[{"f1": intercept}]).code == 0


def test_labels_must_be_those_of_the_images_to_be_sorted(visits):
    visits.write(names=True, X=SHUFFLED)
    text = (visits.study.folder / "subject.txt").read_text()
    visits.study.write("subject.txt", text.replace("sub-1\n", "sub-2\n", 1))
    [error] = visits.study.run("--check", match_rows="by_name").errors
    assert "Z f1 factor" in error
    assert "sub-2 names 5 rows and 4 images; sub-1 names 3 rows and 4 images" in error


def test_tables_are_compared_with_x_where_images_have_no_names(visits):
    study = visits.study
    for i, name in enumerate(NAMES):
        (study.folder / f"{name}_cope.nii").rename(study.folder / f"img_{i:03}.nii")
    study.write("Y.txt", "".join(f"img_{i:03}.nii\n" for i in range(N)))
    visits.write(names=True)
    assert study.run("--check").code == 0
    visits.write(names=True, Z=SHUFFLED, labels=np.argsort(VISIT, kind="stable"))
    errors = study.run("--check").errors
    assert [error.split(" contradicts")[0] for error in errors] == [
        f"Z f1 factor {study.folder / 'subject.txt'}",
        f"Z f1 design {study.folder / 'Z.csv'}",
    ]
    assert "row 2 is sub-2, but its row of X is sub-1_ses-1" in errors[0]
    visits.write(names=True, X=SHUFFLED, Z=SHUFFLED, label="p{}")
    assert study.run("--check").code == 0


def test_names_of_rows_of_a_design_may_repeat(visits):
    visits.write()
    before = visits.maps_of()
    lines = [f"sub-{s},1,{v}" for s, v in zip(SUBJECT, VISIT, strict=True)]
    visits.study.write("Z.csv", "\n".join(["participant_id,one,visit", *lines]))
    after = visits.maps_of()
    for name, values in before.items():
        assert_array_equal(after[name], values)


def test_a_number_of_subjects_is_no_random_effect_unless_it_is_said(visits):
    lines = [f"{s},1,{v}" for s, v in zip(SUBJECT, VISIT, strict=True)]
    visits.study.write("Z.csv", "\n".join(["subject_id,one,visit", *lines]))
    error, *_ = visits.study.run("--check").errors
    assert "Z f1 design" in error
    assert "column subject_id would be a regressor" in error
    X = [
        f"{s},{','.join(f'{x:.17g}' for x in row)}"
        for s, row in zip(SUBJECT, visits.study.X, strict=True)
    ]
    visits.study.write("X.csv", "\n".join(["subject_id,one,visit,age", *X]))
    assert visits.study.run("--check", row_names="subject_id").code == 0


def test_check_shows_the_label_of_each_factor(visits):
    visits.write(names=True, X=SHUFFLED, labels=SHUFFLED)
    out = visits.study.run("--check", match_rows="by_name").out
    row = list(SHUFFLED).index(0) + 1
    assert f"sub-1_ses-0_cope.nii  row {row:<2}  sub-1_ses-0  one 1, visit 0" in out
    assert out.splitlines()[-1].endswith("subject: sub-6")


def test_models_are_compared_row_by_row_of_the_images(visits, capsys):
    """One model was fitted with its tables in the order of the images, the other one by name."""
    study = visits.study
    smaller = [{"f1": {"name": "subject", "factor": "subject.txt", "design": "one.csv"}}]
    assert study.run(outdir="smaller", Z=smaller).code == 0
    assert study.run(outdir="larger").code == 0

    def compare_to(name):
        folders = [str(study.folder / each) for each in ("smaller", name, f"out_{name}")]
        capsys.readouterr()
        assert compare(folders) == 0, capsys.readouterr().err
        study.outdir = study.folder / f"out_{name}"
        return study.map("Chi2")

    expected = compare_to("larger")
    assert expected.max() > 1
    for name in ("X.csv", "subject.txt", "Z.csv"):  # those of the smaller model stay
        text = (study.folder / "smaller" / "inputs.yml").read_text()
        (study.folder / f"old_{name}").write_text((study.folder / name).read_text())
        text = text.replace(str(study.folder / name), str(study.folder / f"old_{name}"))
        (study.folder / "smaller" / "inputs.yml").write_text(text)
    visits.write(names=True, X=SHUFFLED, labels=SHUFFLED[::-1], Z=SHUFFLED[::-1])
    assert study.run(outdir="sorted", match_rows="by_name", row_names="scan").code == 0
    assert_allclose(compare_to("sorted"), expected, rtol=1e-12)
