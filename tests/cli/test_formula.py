"""One line from a data set or a table to maps; the same maps however a model is said."""

import contextlib
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from bids_study import SPACE, write_data_set, write_table

import nipype_blm
from nipype_blm.cli import bids_app, blmm, main
from nipype_blm.errors import InputError
from nipype_blm.interfaces import BLM, BLMM, FindImages
from nipype_blm.workflows import init_blmm_wf

FORMULA = "~ age + session + site + (1 | subject)"
OF_IMAGES = ["--contrast", "faces", "--stat", "effect"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set, and the rows of its images of faces."""
    folder = tmp_path_factory.mktemp("data")
    rows = write_data_set(folder / "bids")
    write_table(folder / "visits.tsv", rows)
    return folder, rows


def run(*arguments, command=main.main):
    """Run a command; return its exit code, and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command([str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


def read_maps(folder):
    """Return every map, byte by byte."""
    maps = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.nii"))}
    assert maps
    return maps


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """Maps from a design and files that are written by hand, in the order of subjects."""
    _, rows = data
    folder = tmp_path_factory.mktemp("by_hand")
    columns = [[1, r.age, r.session == "2", r.site == "B", r.site == "C"] for r in rows]
    pd.DataFrame(columns, dtype=float).to_csv(folder / "X.csv", index=False, header=False)
    pd.DataFrame(np.ones(len(rows))).to_csv(folder / "Z.csv", index=False, header=False)
    (folder / "images.txt").write_text("".join(f"{r.image}\n" for r in rows))
    (folder / "subjects.txt").write_text("".join(f"{r.subject}\n" for r in rows))
    fields = {
        "Y_files": "images.txt",
        "X": "X.csv",
        "outdir": "out",
        "Z": [{"f1": {"name": "subject", "factor": "subjects.txt", "design": "Z.csv"}}],
        "contrasts": [
            {"name": "age", "vector": [0, 1, 0, 0, 0]},
            {"name": "session", "vector": [0, 0, 1, 0, 0]},
            {"name": "site", "vector": [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]},
        ],
    }
    (folder / "blmm.yml").write_text(yaml.safe_dump(fields))
    code, _, err = run(folder / "blmm.yml", command=blmm.main)
    assert code == 0, err
    return folder / "out"


def test_one_line_on_a_data_set_fits_the_model_that_was_written_by_hand(data, reference, tmp_path):
    folder, rows = data
    arguments = (folder / "bids", tmp_path, "--formula", FORMULA, *OF_IMAGES, "--no-own-masks")
    code, out, _ = run("fit", *arguments)
    assert code == 0
    assert "23 images with a row" in out
    assert read_maps(tmp_path) == read_maps(reference)
    results = nipype_blm.Results(tmp_path)
    assert [Path(each.image) for each in results.images] == [row.image for row in rows]
    assert list(results.contrasts) == ["age", "session", "site"]
    assert results.study.formula == FORMULA
    assert results.study.columns["age"] == [row.age for row in rows]
    assert {each.variable: each.reference for each in results.study.codings} == {
        "session": "1",
        "site": "A",
    }


def test_a_bids_app_takes_the_same_options_behind_its_three_arguments(data, reference, tmp_path):
    folder, _ = data
    arguments = [folder / "bids", tmp_path, "group", "--formula", FORMULA, "--no_own_masks"]
    arguments += ["--contrast", "faces", f"space={SPACE}", "stat=effect"]
    code, _, err = run(*arguments, command=bids_app.main)
    assert code == 0, err
    assert read_maps(tmp_path) == read_maps(reference)
    code, _, err = run(*arguments[:2], "participant", command=bids_app.main)
    assert code == 2
    assert "give group" in err


def test_a_table_fits_the_same_whether_a_column_or_a_pattern_leads_to_images(
    data, reference, tmp_path
):
    folder, _ = data
    table = folder / "visits.tsv"
    code, _, err = run("fit", table, tmp_path / "column", "--formula", FORMULA)
    assert code == 0, err
    pattern = (
        f"{folder}/bids/derivatives/firstlevel/sub-{{subject}}/ses-{{session}}/func/"
        "*contrast-faces_stat-effect*"
    )
    code, _, err = run(
        "fit", table, tmp_path / "pattern", "--formula", FORMULA, "--images", pattern
    )
    assert code == 0, err
    # The rows of the table are in another order, and so are those of X.
    by_column, by_pattern = (nipype_blm.Results(tmp_path / name) for name in ("column", "pattern"))
    assert read_maps(by_column.folder) == read_maps(by_pattern.folder)
    images = [each.image for each in by_column.images]
    assert images == [each.image for each in by_pattern.images]
    for kind in ("effect", "stat", "z"):
        of_age = by_column.contrasts["age"].array(kind)
        expected = nipype_blm.Results(reference).contrasts["age"].array(kind)
        np.testing.assert_allclose(of_age, expected, rtol=1e-5, atol=1e-6)  # float32


def test_configuration_python_node_and_workflow_make_the_same_maps_as_the_command(data, tmp_path):
    folder, rows = data
    table = folder / "visits.tsv"
    assert run("fit", table, tmp_path / "command", "--formula", FORMULA, "--quiet")[0] == 0
    expected = read_maps(tmp_path / "command")

    fields = {"table": str(table), "formula": FORMULA, "outdir": "yaml"}
    (tmp_path / "blmm.yml").write_text(yaml.safe_dump(fields))
    assert run(tmp_path / "blmm.yml", command=blmm.main)[0] == 0
    assert read_maps(tmp_path / "yaml") == expected

    frame = pd.read_csv(table, sep="\t", dtype={"subject": str})
    results = nipype_blm.fit(FORMULA, frame, out_dir=tmp_path / "python", quiet=True)
    assert read_maps(results.folder) == expected
    listed = [row.image for row in rows]  # in another order than the table
    results = nipype_blm.fit(FORMULA, table, listed, out_dir=tmp_path / "listed", quiet=True)
    assert read_maps(results.folder) == expected

    node = BLMM(table=table, formula=FORMULA, out_dir=tmp_path / "node")
    node.run(cwd=tmp_path)
    assert read_maps(tmp_path / "node") == expected

    workflow = init_blmm_wf(out_dir=tmp_path / "workflow")
    workflow.base_dir = tmp_path / "base"
    workflow.inputs.inputnode.table = str(table)
    workflow.inputs.inputnode.formula = FORMULA
    workflow.run()
    assert read_maps(tmp_path / "workflow") == expected
    for name in ("command", "yaml", "python", "listed", "node", "workflow"):
        results = nipype_blm.Results(tmp_path / name)
        images = [each.image for each in results.images]
        assert results.study.columns["image"] == images


def test_inputs_yml_of_a_data_frame_fits_it_again(data, tmp_path):
    folder, _ = data
    frame = pd.read_csv(folder / "visits.tsv", sep="\t", dtype={"subject": str})
    frame["site"] = pd.Categorical(frame["site"], ["C", "B", "A"])
    first = nipype_blm.fit(FORMULA, frame, out_dir=tmp_path / "first", quiet=True)
    assert not (first.folder / "table.tsv").exists()  # which may be the user's
    assert first.column_names[-2:] == ("site[B]", "site[A]")  # in the order of the categories
    code, _, err = run("fit", first.folder / "inputs.yml", tmp_path / "again")
    assert code == 0, err
    assert read_maps(tmp_path / "again") == read_maps(first.folder)
    code, _, err = run("fit", first.folder / "inputs.yml", first.folder)
    assert code == 0, err


def test_a_data_frame_may_have_an_index_masks_and_columns_of_any_kind(data, tmp_path):
    folder, rows = data
    frame = pd.read_csv(folder / "visits.tsv", sep="\t", dtype={"subject": str})
    frame["unused"] = pd.Categorical(frame["site"])
    frame["lists"] = [[1.0, 2.0]] * len(frame)
    for i, row in enumerate(rows):
        inside = np.ones((5, 6, 4), "u1")
        inside.flat[i] = 0
        path = tmp_path / f"inside_{row.subject}_{row.session}.nii"
        nib.save(nib.Nifti1Image(inside, nib.load(row.image).affine), path)
    masks = f"{tmp_path}/inside_{{subject}}_{{session}}.nii"
    first = nipype_blm.fit(
        "~ age + site",
        frame.set_index(["subject", "session"]),
        out_dir=tmp_path / "first",
        data_masks=masks,
        columns={"lists": "categorical"},
        quiet=True,
    )
    assert [Path(each.mask).name for each in first.images] == [
        masks.rpartition("/")[2].format(**found)
        for image in first.images
        for found in (
            {"subject": r.subject, "session": r.session}
            for r in rows
            if str(r.image) == image.image
        )
    ]
    code, _, err = run("fit", first.folder / "inputs.yml", tmp_path / "again")
    assert code == 0, err
    assert read_maps(tmp_path / "again") == read_maps(first.folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda frame: frame["age"], "of type Series; expected a DataFrame"),
        (lambda frame: frame.to_dict("list"), "of type dict; expected a DataFrame"),
        (lambda frame: pd.concat({"a": frame}, axis=1), "columns of several levels"),
        (lambda frame: pd.concat([frame, frame[["age"]]], axis=1), "several columns called 'age'"),
    ],
)
def test_what_is_no_table_in_memory_is_said(data, tmp_path, make, words):
    frame = pd.read_csv(data[0] / "visits.tsv", sep="\t", dtype={"subject": str})
    with pytest.raises(InputError, match=words):
        nipype_blm.fit("~ age", make(frame), out_dir=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"images": 5}, "a list of paths, or text"), ({"columns": ["age"]}, "valid dictionary")],
)
def test_arguments_of_another_type_are_said(data, tmp_path, given, words):
    with pytest.raises(InputError, match=words):
        nipype_blm.fit("~ age", data[0] / "visits.tsv", out_dir=tmp_path / "out", **given)


def test_own_masks_are_the_masks_of_the_data(data, tmp_path):
    folder, rows = data
    code, _, err = run("fit", folder / "bids", tmp_path, "--formula", "~ age", *OF_IMAGES)
    assert code == 0, err
    results = nipype_blm.Results(tmp_path)
    assert [each.mask for each in results.images] == [
        None if row.mask is None else str(row.mask) for row in rows
    ]
    masks = [np.ones((5, 6, 4)) if r.mask is None else nib.load(r.mask).get_fdata() for r in rows]
    assert np.array_equal(results.array("n"), np.sum(masks, axis=0))
    assert "no mask" in err or "mask" in err  # two images have none, which is said


def test_check_shows_what_would_be_fitted_and_writes_nothing(data, tmp_path):
    folder, _ = data
    arguments = (folder / "bids", tmp_path / "out", "--formula", FORMULA, *OF_IMAGES, "--check")
    code, out, err = run("fit", *arguments)
    assert code == 0
    assert not (tmp_path / "out").exists()
    for text in (
        "23 images with a row; 0 left out.",
        "site     treatment coding  reference A  levels A, B, C",
        "Random factor subject: 12 levels, 1 effect of each; 1 to 2 (median 2) images per level.",
        "rank 5 of 5 columns",
        "session (T):  1*session[2]",
        "1*site[B]",
        "VIF",
    ):
        assert text in out
    assert "sub-03" in err  # lacks a session


def test_rows_without_a_value_are_refused_or_dropped_with_their_reasons(data, tmp_path):
    folder, rows = data
    text = (folder / "visits.tsv").read_text().replace(f"\t{rows[4].age}\t", "\tn/a\t")
    n_missing = text.count("n/a")
    assert 0 < n_missing < len(rows)
    table = tmp_path / "visits.tsv"
    table.write_text(text)
    arguments = ("fit", table, tmp_path / "out", "--formula", "~ age")
    code, _, err = run(*arguments)
    assert code == 2
    assert "--on-missing drop" in err
    assert "line " in err
    code, out, err = run(*arguments, "--on-missing", "drop")
    assert code == 0, err
    assert f"{n_missing} left out:" in out
    results = nipype_blm.Results(tmp_path / "out")
    assert len(results.images) == len(rows) - n_missing
    excluded = pd.read_csv(tmp_path / "out" / "excluded.tsv", sep="\t")
    assert list(excluded.columns) == ["row", "image", "reason"]
    assert [tuple(each) for each in excluded.to_numpy()] == list(results.study.excluded)
    # A table without gaps leaves nothing out, and takes the list away.
    table.write_text((folder / "visits.tsv").read_text())
    assert run(*arguments, "--on-missing", "drop")[0] == 0
    assert not (tmp_path / "out" / "excluded.tsv").exists()


def test_rows_without_an_image_are_refused_or_dropped(data, tmp_path):
    folder, rows = data
    table = tmp_path / "visits.tsv"
    absent = f"{'99'}\t1\t30\tF\tA\t{tmp_path / 'none.nii.gz'}\n"
    table.write_text((folder / "visits.tsv").read_text() + absent)
    arguments = ("fit", table, tmp_path / "out", "--formula", "~ age", "--quiet")
    code, _, err = run(*arguments)
    assert code == 2
    assert "none.nii.gz" in err
    code, _, err = run(*arguments, "--on-missing-image", "drop")
    assert code == 0, err
    results = nipype_blm.Results(tmp_path / "out")
    assert len(results.images) == len(rows)
    assert len(results.study.excluded) == 1


def test_a_table_of_images_replaces_none_but_its_like(data, tmp_path):
    find = FindImages(bids=data[0] / "bids", filters={"contrast": "faces", "stat": "effect"})
    find.inputs.out_file = tmp_path / "images.tsv"
    table = Path(find.run().outputs.table)
    written = table.read_bytes()
    assert find.run().outputs.table == str(table)
    assert table.read_bytes() == written
    for name, content in {"people.tsv": "subject\tage\n01\t7\n", "levels.json": "{}"}.items():
        (tmp_path / name).write_text(content)
        find.inputs.out_file = (tmp_path / name).with_suffix(".tsv")
        with pytest.raises(InputError, match="no table of images; give another name"):
            find.run()
        assert (tmp_path / name).read_text() == content
    assert not (tmp_path / "levels.tsv").exists()


def test_what_would_be_ignored_beside_a_source_is_refused(data, tmp_path):
    folder, _ = data
    for source, options in {
        "visits.tsv": {"--participant-label": "01", "--derivatives": "firstlevel"},
        "bids": {"--images": "{subject}.nii", "--data-masks": "{subject}_mask.nii"},
    }.items():
        for option, value in options.items():
            code, _, err = run(
                "fit", folder / source, tmp_path / "out", "--formula", "~ 1", option, value
            )
            assert code == 2
            assert f"error: {option} has no place beside SOURCE" in err
    with pytest.raises(InputError, match="filters has no place beside table"):
        nipype_blm.fit(
            "~ 1", folder / "visits.tsv", out_dir=tmp_path / "out", filters={"task": "faces"}
        )
    fields = {"table": str(folder / "visits.tsv"), "formula": "~ 1", "images": "image"}
    (tmp_path / "both.yml").write_text(yaml.safe_dump(fields | {"Y_files": "images.txt"}))
    (tmp_path / "images.txt").write_text("a.nii\n")
    code, _, err = run("fit", tmp_path / "both.yml", tmp_path / "out")
    assert code == 2
    assert "error: Y_files and images both say where images are; leave out one." in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--formula", "~ agee"], ["agee", "age"]),
        (["--formula", "~ age", "--test", "weight"], ["weight"]),
        (["--formula", "~ (1 | subject", "--test", "age"], ["formula"]),
        (["--formula", "~ age", "task=faces"], ["SOURCE is a table", "task"]),
        (["--formula", "~ age", "--min-n", "many"], ["--min-n", "whole number"]),
        (["--formula", "~ age", "--ml"], ["--ml", "mixed models"]),
        (["--formula", "~ __import__('os').system('true')"], ["formula"]),
        ([], ["say what to fit", "age, sex, site"]),
    ],
)
def test_what_cannot_be_used_is_said_in_the_words_of_options(data, tmp_path, arguments, words):
    folder, _ = data
    code, _, err = run("fit", folder / "visits.tsv", tmp_path / "out", *arguments)
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    for word in words:
        assert word in errors[0]
    assert not (tmp_path / "out").exists()


def test_the_formula_decides_on_the_model_and_each_command_has_its_own(data, tmp_path):
    folder, _ = data
    fields = {"table": str(folder / "visits.tsv"), "formula": FORMULA, "outdir": "out"}
    (tmp_path / "a.yml").write_text(yaml.safe_dump(fields))
    with pytest.raises(InputError, match="random part"):
        BLM(table=folder / "visits.tsv", formula=FORMULA, out_dir=tmp_path / "x").run()
    fields["formula"] = "~ age"
    (tmp_path / "b.yml").write_text(yaml.safe_dump(fields))
    code, _, err = run(tmp_path / "b.yml", command=blmm.main)
    assert code == 2
    assert "no random part" in err
    assert run("fit", tmp_path / "b.yml", tmp_path / "linear", "--quiet")[0] == 0
    assert nipype_blm.Results(tmp_path / "linear").model == "blm"


def test_contrasts_have_names_expressions_and_weights(data, tmp_path):
    folder, rows = data
    fields = {
        "table": str(folder / "visits.tsv"),
        "formula": "~ age + site",
        "outdir": "out",
        "contrasts": [
            "site[B] - site[C]",
            {"name": "older", "expression": "10 * age"},
            {"name": "by weights", "vector": [0, 0, 1, -1]},
            "age = 0, site[B] = 0",
            "emm(site)",
        ],
    }
    (tmp_path / "a.yml").write_text(yaml.safe_dump(fields))
    code, _, err = run("fit", tmp_path / "a.yml", tmp_path / "out", "--quiet")
    assert code == 0, err
    found = nipype_blm.Results(tmp_path / "out").contrasts
    assert found["site[B] - site[C]"].weights.tolist() == [[0, 0, 1, -1]]
    assert found["older"].weights.tolist() == [[0, 10, 0, 0]]
    assert found["by weights"].weights.tolist() == [[0, 0, 1, -1]]
    assert found["age = 0, site[B] = 0"].is_f
    age = np.mean([row.age for row in rows])
    assert found["emm(site[C])"].weights[0] == pytest.approx([1, age, 0, 1])


def test_expressions_name_the_columns_of_a_design_that_is_given(study):
    study.write("X.csv", "one,group,age\n" + "".join(f"1,{g:g},{a:.17g}\n" for _, g, a in study.X))
    study.fields["contrasts"] = ["age", "2 * group - age", "group, age"]
    assert study.run().code == 0
    results = nipype_blm.Results(study.outdir)
    assert [each.weights.tolist() for each in results.contrasts.values()] == [
        [[0, 0, 1]],
        [[0, 2, -1]],
        [[0, 1, 0], [0, 0, 1]],
    ]


def test_init_writes_a_configuration_that_fits_the_same(data, reference, tmp_path):
    folder, _ = data
    arguments = ["init", folder / "bids", tmp_path / "study.yml", "--formula", FORMULA]
    code, _, err = run(*arguments, *OF_IMAGES, "--no-own-masks")
    assert code == 0, err
    text = (tmp_path / "study.yml").read_text()
    assert "#   site: 3 levels: A, B, C" in text
    assert run("fit", tmp_path / "study.yml", tmp_path / "out", "--quiet")[0] == 0
    assert read_maps(tmp_path / "out") == read_maps(reference)
    code, _, err = run(*arguments)
    assert code == 2
    assert "is there already" in err
    assert (tmp_path / "study.yml").read_text() == text
    assert run("init", folder / "visits.tsv", tmp_path / "table.yml")[0] == 0
    fields = yaml.safe_load((tmp_path / "table.yml").read_text())
    assert fields == {
        "table": str(folder / "visits.tsv"),
        "images": "image",
        "formula": "~ 1",
        "outdir": "results",
    }


def test_maps_of_one_model_say_what_they_are_of(data, tmp_path):
    folder, _ = data
    assert run("fit", folder / "visits.tsv", tmp_path, "--formula", "~ age", "--quiet")[0] == 0
    saved = json.loads((tmp_path / "model" / "model.json").read_text())
    assert saved["Study"]["Formula"] == "~ age"
    header = (tmp_path / "model" / "table.tsv").read_text().splitlines()[0]
    assert "age" in header.split("\t")
