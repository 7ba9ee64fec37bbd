"""A BIDS data set gives the images that are asked for, or a sentence that says what is unclear."""

import os
import random
import shutil
from collections import Counter

import pytest

from nipype_blm.errors import InputError
from nipype_blm.frontends import blm, options
from nipype_blm.frontends.bids import find_study
from nipype_blm.frontends.columns import type_columns

SPACES = ("MNI152NLin2009cAsym", "T1w")
SUBJECTS = [f"{i:02d}" for i in range(1, 21)]
LACKS_SESSION, LACKS_MASK = "07", "11"


def touch(folder, name, content=b"x"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def make_tree(root):
    """Make what fMRIPrep and a first level leave: 20 subjects, two sessions, two spaces."""
    prep, first = root / "derivatives" / "fmriprep", root / "derivatives" / "nilearn"
    for folder in (prep, first):
        touch(folder, "dataset_description.json", b'{"DatasetType": "derivative"}')
    touch(prep / "logs", "CITATION.md")
    for subject in SUBJECTS:
        sub = f"sub-{subject}"
        touch(prep, f"{sub}.html")
        touch(prep / sub / "figures", f"{sub}_task-faces_desc-carpetplot_bold.svg")
        touch(prep / sub / "anat", f"{sub}_desc-preproc_T1w.nii.gz")
        touch(prep / sub / "anat", f"{sub}_desc-brain_mask.nii.gz")
        touch(prep / sub / "anat", f"{sub}_space-{SPACES[0]}_desc-brain_mask.nii.gz")
        touch(prep / sub / "anat", f"{sub}_dseg.nii.gz")
        for session in ("1", "2"):
            if (subject, session) == (LACKS_SESSION, "2"):
                continue
            start = f"{sub}_ses-{session}_task-faces"
            func = prep / sub / f"ses-{session}" / "func"
            touch(func, f"{start}_desc-confounds_timeseries.tsv")
            for space in SPACES:
                touch(func, f"{start}_space-{space}_desc-preproc_bold.nii.gz")
                touch(func, f"{start}_space-{space}_boldref.nii.gz")
                if subject != LACKS_MASK:
                    touch(func, f"{start}_space-{space}_desc-brain_mask.nii.gz")
                for contrast in ("faces", "houses"):
                    for stat in ("effect", "t"):
                        touch(
                            first / sub / f"ses-{session}",
                            f"{start}_space-{space}_contrast-{contrast}_stat-{stat}_statmap.nii.gz",
                        )
    rows = "".join(f"sub-{s}\t{20 + int(s)}\t{'FM'[int(s) % 2]}\n" for s in SUBJECTS)
    touch(root, "participants.tsv", f"participant_id\tage\tsex\n{rows}".encode())
    return root


@pytest.fixture(scope="module")
def shared_tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def tree(tmp_path, shared_tree):
    """One that a test may change."""
    return shutil.copytree(shared_tree, tmp_path / "tree")


FACES = {"contrast": "faces", "stat": "effect", "space": SPACES[0]}


def error_of(*arguments, **options):
    with pytest.raises(InputError) as error:
        find_study(*arguments, **options)
    [problem] = error.value.problems
    return problem


def name_of(row):
    subject, session = row["subject"], row["session"]
    return (
        f"sub-{subject}_ses-{session}_task-faces_space-{SPACES[0]}_contrast-faces_stat-effect_"
        "statmap.nii.gz"
    )


def test_each_image_has_the_row_of_its_subject(shared_tree):
    study = find_study(shared_tree, filters=FACES)
    assert len(study.images) == 39
    for image, (name, row) in zip(study.images, study.frame.iterrows(), strict=True):
        assert image.path.name == name_of(row)
        assert name == f"sub-{row['subject']} ses-{row['session']} task-faces"
        assert row["age"] == str(20 + int(row["subject"]))
    assert list(study.frame["subject"].cat.categories) == SUBJECTS
    assert study.frame["participant_id"].iloc[0] == "sub-01"
    assert study.data_masks is None
    assert not study.excluded
    assert study.notices == [
        "19 of 20 subjects have up to 2 images, which differ in session.",
        "1 subject of 20 lacks a session: sub-07 (2).",
    ]


def test_what_is_not_clear_is_listed_with_its_values(shared_tree):
    problem = error_of(shared_tree)
    assert "332 images differ in suffix: statmap (312), T1w (20);" in problem
    assert "space: MNI152NLin2009cAsym (156), T1w (156);" in problem
    assert "contrast: faces (78), houses (78);" in problem
    settings = ["suffix=statmap", f"space={SPACES[0]}", "contrast=faces", "stat=effect"]
    filters = dict(each.split("=") for each in settings)
    assert problem.endswith(f"Say which, as with filters={filters}.")
    study = find_study(shared_tree, filters=filters)
    assert len(study.images) == 39


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (blm.WORDS, "filters: {contrast: faces, stat: effect}."),
        (options.WORDS, "--contrast faces --stat effect."),
    ],
)
def test_what_to_set_is_told_in_the_words_of_the_front_end(shared_tree, words, advice):
    filters = {"suffix": "statmap", "space": SPACES[0]}
    assert error_of(shared_tree, filters=filters).worded(words).endswith(advice)


def test_maps_that_differ_in_their_contrast_or_stat_stay_apart(shared_tree):
    for name, other in (("contrast", "houses"), ("stat", "t")):
        study = find_study(shared_tree, filters=FACES | {name: other})
        assert all(f"_{name}-{other}_" in image.path.name for image in study.images)
        assert len(study.images) == 39
        without = {key: value for key, value in FACES.items() if key != name}
        assert f"differ in {name}: " in error_of(shared_tree, filters=without)


def test_several_labels_that_are_asked_for_become_a_column(shared_tree):
    study = find_study(shared_tree, filters=FACES | {"contrast": ["houses", "faces"]})
    assert Counter(study.frame["contrast"]) == {"faces": 39, "houses": 39}
    assert study.frame.index[0] == "sub-01 ses-1 task-faces contrast-faces"
    for image, contrast in zip(study.images, study.frame["contrast"], strict=True):
        assert f"contrast-{contrast}" in image.path.name
    assert list(find_study(shared_tree, filters=FACES | {"contrast": "*"}).frame.index) == list(
        study.frame.index
    )


def test_the_brain_mask_is_that_of_the_subject_session_and_space(shared_tree):
    study = find_study(shared_tree, filters=FACES, own_masks=True)
    for image, mask, subject in zip(
        study.images, study.data_masks, study.frame["subject"], strict=True
    ):
        if subject == LACKS_MASK:
            assert mask is None
            continue
        start = image.path.name.partition("_contrast")[0]
        assert mask.path.name == f"{start}_desc-brain_mask.nii.gz"
    assert study.notices[0] == (
        "2 images of 39 have no brain mask of the same subject and space, and are taken without: "
        "sub-11 ses-1 task-faces, sub-11 ses-2 task-faces."
    )


def test_an_anatomical_image_has_an_anatomical_mask(shared_tree):
    study = find_study(shared_tree, filters={"suffix": "T1w"}, own_masks=True)
    assert [mask.path.name for mask in study.data_masks] == [
        f"sub-{subject}_desc-brain_mask.nii.gz" for subject in SUBJECTS
    ]


def test_a_mask_without_the_session_of_its_image_is_not_chosen_among_several(tree):
    for path in (tree / "derivatives" / "nilearn").rglob("sub-01*.nii.gz"):
        touch(path.parents[1], path.name.replace("_ses-1", ""))
        path.unlink()
    study = find_study(tree, filters=FACES, own_masks=True)
    assert study.data_masks[0] is None
    assert "1 image of 39 has several brain masks" in "\n".join(study.notices)


def test_time_series_are_refused(shared_tree):
    problem = error_of(shared_tree, filters={"suffix": "bold"})
    assert "All 78 images that fit are time series" in problem
    assert "maps of the first level are needed" in problem


def test_time_series_beside_maps_are_left_out_and_said(shared_tree):
    study = find_study(shared_tree, filters={"description": "preproc"})
    assert len(study.images) == 20
    assert study.notices[0].startswith("78 time series fit as well, such as sub-01_ses-1_task-")


def test_a_label_that_no_image_has_is_answered_with_those_that_exist(shared_tree):
    problem = error_of(shared_tree, filters=FACES | {"contrast": "face"})
    assert "No image has contrast=face." in problem
    assert "In 78 images, contrast is: faces (39), houses (39)." in problem


@pytest.mark.parametrize("name", ["spacee", "Space", "space "])
def test_an_entity_that_does_not_exist_is_answered_with_the_nearest(shared_tree, name):
    assert "Is it space?" in error_of(shared_tree, filters={name: "T1w"})


def test_entities_have_long_and_short_names_and_labels_may_have_theirs(shared_tree):
    found = [
        find_study(shared_tree, filters=FACES | other)
        for other in ({"ses": "1"}, {"session": "1"}, {"session": "ses-1"}, {"ses": ["ses-1"]})
    ]
    assert all(len(study.images) == 20 for study in found)


def test_numbers_of_runs_are_compared_as_numbers_and_other_labels_as_text(tmp_path):
    for subject in ("1", "01", "10"):
        for run in ("01", "02"):
            touch(tmp_path / f"sub-{subject}", f"sub-{subject}_run-{run}_stat-z_statmap.nii")
    study = find_study(tmp_path, filters={"run": "1"})
    assert list(study.frame["subject"]) == ["01", "1", "10"]
    assert set(study.frame["run"]) == {"01"}
    assert len(find_study(tmp_path, participants=["sub-1"]).images) == 2


def test_null_asks_for_images_without_an_entity(shared_tree):
    study = find_study(shared_tree, filters={"space": "null"})
    assert set(study.frame.columns) >= {"subject", "description"}
    assert all(image.path.name.endswith("_desc-preproc_T1w.nii.gz") for image in study.images)


def test_subjects_may_be_chosen(shared_tree):
    study = find_study(shared_tree, filters=FACES, participants=["sub-03", "05"])
    assert list(study.frame["subject"]) == ["03", "03", "05", "05"]
    assert not study.excluded
    problem = error_of(shared_tree, filters=FACES, participants=["sub-3"])
    assert "no image is of sub-3 (is it sub-03?)" in problem


def test_the_same_names_in_two_folders_are_said(tree):
    shutil.copytree(tree / "derivatives" / "nilearn", tree / "derivatives" / "again")
    problem = error_of(tree, filters=FACES)
    assert "39 observations have several images" in problem
    assert "... and 19 more" in problem
    assert len(find_study(tree, ["again"], FACES).images) == 39
    assert "there are: again, fmriprep, nilearn" in error_of(tree, ["agains"], FACES)


def test_a_folder_of_derivatives_is_a_data_set_of_its_own(shared_tree):
    study = find_study(shared_tree / "derivatives" / "nilearn", filters=FACES)
    assert len(study.images) == 39
    assert "participants.tsv does not exist" in study.notices[0]


def test_images_that_are_empty_or_not_fetched_are_refused_or_left_out(tree):
    folder = tree / "derivatives" / "nilearn"
    empty = folder / "sub-02" / "ses-1" / name_of({"subject": "02", "session": "1"})
    absent = folder / "sub-03" / "ses-1" / name_of({"subject": "03", "session": "1"})
    empty.write_bytes(b"")
    absent.unlink()
    absent.symlink_to(tree / ".git" / "annex" / "objects" / "x" / "SHA.nii.gz")
    problem = error_of(tree, filters=FACES)
    assert "2 of 39 images have no content" in problem
    assert f"{empty}: an empty file" in problem
    assert "datalad get" in problem
    study = find_study(tree, filters=FACES, on_missing_image="drop")
    assert [each.row for each in study.excluded] == [
        "sub-02 ses-1 task-faces",
        "sub-03 ses-1 task-faces",
    ]
    assert len(study.images) == len(study.frame) == 37


def test_participants_without_images_are_listed(tree):
    with (tree / "participants.tsv").open("a") as file:
        file.write("sub-98\t1\tF\nsub-99\t2\tM\n")
    study = find_study(tree, filters=FACES)
    assert [(each.row, each.reason) for each in study.excluded] == [
        ("sub-98", "no image"),
        ("sub-99", "no image"),
    ]
    assert study.notices[0] == (
        "2 of 22 participants of participants.tsv have no image: sub-98, sub-99."
    )


def test_tables_of_sessions_scans_and_phenotype_are_joined(tree):
    for subject in SUBJECTS:
        sub = f"sub-{subject}"
        touch(
            tree / sub,
            f"{sub}_sessions.tsv",
            f"session_id\tdelay\tage\nses-2\t{subject}2\t30\nses-1\t{subject}1\t31\n".encode(),
        )
        for session in "12":
            touch(
                tree / sub / f"ses-{session}",
                f"{sub}_ses-{session}_scans.tsv",
                (
                    "filename\tmotion\n"
                    f"anat/{sub}_ses-{session}_T1w.nii.gz\t9\n"
                    f"func/{sub}_ses-{session}_task-rest_bold.nii.gz\t8\n"
                    f"func/{sub}_ses-{session}_task-faces_sbref.nii.gz\t7\n"
                    f"func/{sub}_ses-{session}_task-faces_bold.nii.gz\t0.{subject}{session}\n"
                ).encode(),
            )
    touch(tree / "phenotype", "iq.tsv", b"participant_id\tiq\nsub-02\t100\nsub-01\t90\n")
    touch(
        tree / "phenotype",
        "mood.tsv",
        b"participant_id\tsession_id\tmood\nsub-01\tses-1\t5\nsub-01\tses-2\t6\n",
    )
    study = find_study(tree, filters=FACES)
    for _, row in study.frame.iterrows():
        subject, session = row["subject"], row["session"]
        assert row["delay"] == subject + session
        assert row["motion"] == f"0.{subject}{session}"
        assert row["participants_age"] == str(20 + int(subject))
        assert row["sessions_age"] == {"1": "31", "2": "30"}[session]
        assert row["iq"] == {"01": "90", "02": "100"}.get(subject, "")
        assert row["mood"] == {("01", "1"): "5", ("01", "2"): "6"}.get((subject, session), "")
    assert "age" not in study.frame
    assert "participants_age and sessions_age" in "\n".join(study.notices)


def test_a_row_for_each_session_in_the_table_of_participants(tree):
    rows = [f"sub-{s}\tses-{n}\t{s}.{n}\n" for s in SUBJECTS for n in "12"]
    text = "participant_id\tsession\tage\n" + "".join(rows)
    touch(tree, "participants.tsv", text.encode())
    for _, row in find_study(tree, filters=FACES).frame.iterrows():
        assert row["age"] == f"{row['subject']}.{row['session']}"


def test_a_row_of_one_session_says_nothing_of_another(tree):
    rows = "".join(f"sub-{s}\tses-1\t{s}\n" for s in SUBJECTS)
    touch(tree, "participants.tsv", f"participant_id\tsession_id\tage\n{rows}".encode())
    study = find_study(tree, filters=FACES)
    for _, row in study.frame.iterrows():
        assert row["age"] == {"1": row["subject"], "2": ""}[row["session"]]
    start = "19 images have no row in participants.tsv: sub-01 ses-2, sub-02 ses-2, "
    assert study.notices[0].startswith(start)


def test_a_column_called_as_an_entity_that_is_the_same_everywhere_counts(tree):
    rows = "".join(f"sub-{s}\t{s}\t{s}\n" for s in SUBJECTS)
    touch(tree, "participants.tsv", f"participant_id\tspace\ttask\n{rows}".encode())
    study = find_study(tree, filters=FACES)
    assert list(study.frame["space"]) == list(study.frame["subject"])
    assert list(study.frame["task"]) == list(study.frame["subject"])


def test_a_column_called_as_an_entity_that_varies_gets_the_name_of_its_table(tree):
    rows = "".join(f"sub-{s}\t{int(s) + 5}\n" for s in SUBJECTS)
    touch(tree, "participants.tsv", f"participant_id\tsession\n{rows}".encode())
    study = find_study(tree, filters=FACES)
    assert set(study.frame["session"]) == {"1", "2"}
    assert study.frame["participants_session"].iloc[0] == "6"
    assert "the column is called participants_session" in "\n".join(study.notices)


def test_levels_have_the_order_of_the_sidecar_of_participants(tree):
    touch(tree, "participants.json", b'{"sex": {"Levels": {"M": "male", "F": "female"}}}')
    frame = find_study(tree, filters=FACES).frame
    assert list(type_columns(frame, ["sex"])[0]["sex"].cat.categories) == ["M", "F"]
    touch(tree, "participants.json", b"{")
    assert "participants.json cannot be read" in find_study(tree, filters=FACES).notices[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sub-01/sub-01_sessions.tsv", "sub-01_sessions.tsv has no column 'session_id'"),
        ("sub-01/ses-1/sub-01_ses-1_scans.tsv", "scans.tsv has no column 'filename'"),
        ("phenotype/iq.tsv", "iq.tsv has no column 'participant_id'"),
    ],
)
def test_a_table_that_cannot_be_used_is_left_aside_and_told_who_asks_for_it(tree, name, message):
    touch((tree / name).parent, (tree / name).name, b"visit\tx\n1\t2\n")
    study = find_study(tree, filters=FACES)
    assert f"Left aside: {message}" in "\n".join(study.notices).replace("sub-01_ses-1_", "")
    with pytest.raises(InputError, match=r"has no column 'x'.*Left aside: "):
        type_columns(study.frame, ["age", "x"])


def test_a_map_of_several_scans_has_what_they_agree_in(tmp_path):
    for subject in ("1", "2"):
        sub = f"sub-{subject}"
        touch(tmp_path / "derivatives" / "x" / sub, f"{sub}_task-a_stat-z_statmap.nii")
        touch(
            tmp_path / sub,
            f"{sub}_scans.tsv",
            f"filename\tscanner\nfunc/{sub}_task-a_run-1_bold.nii\tA\n"
            f"func/{sub}_task-a_run-2_bold.nii\t{'AB'[subject == '2']}\n".encode(),
        )
    study = find_study(tmp_path)
    assert list(study.frame["scanner"]) == ["A", ""]
    assert "1 image comes from several rows of scans.tsv" in "\n".join(study.notices)


def test_hidden_folders_and_files_among_derivatives_are_none(tree):
    touch(tree / "derivatives" / ".trash" / "sub-01", "sub-01_stat-z_statmap.nii")
    touch(tree / "derivatives", "README")
    assert len(find_study(tree, filters=FACES).images) == 39


def test_a_description_that_is_no_json_is_named(tree):
    touch(tree, "dataset_description.json", b"{")
    assert f"{tree / 'dataset_description.json'} cannot be read as JSON" in error_of(tree)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("con_0001.nii", "give table and pattern"),
        ("sub-01_desc-brain_mask.nii.gz", "Found: *_mask.nii.gz (1)"),
        ("sub-01_bold.json", "Found: *_bold.json (1)"),
    ],
)
def test_a_folder_without_images_of_subjects_is_refused(tmp_path, name, message):
    touch(tmp_path / "derivatives" / "spm" / "sub-01", name)
    assert message in error_of(tmp_path)


def test_a_folder_without_derivatives_is_refused(tmp_path):
    touch(tmp_path / "sub-01" / "anat", "sub-01_T1w.nii.gz")
    assert "has no derivatives" in error_of(tmp_path)
    assert "is no folder" in error_of(tmp_path / "absent")


def test_endings_may_be_in_capitals(tmp_path):
    for subject in SUBJECTS:
        touch(tmp_path / f"sub-{subject}", f"sub-{subject}_stat-z_statmap.NII.GZ")
    assert len(find_study(tmp_path).images) == 20


def test_maps_of_surfaces_beside_those_of_volumes_are_no_question(tmp_path):
    for subject in SUBJECTS:
        for end in (".nii.gz", ".dscalar.nii"):
            touch(tmp_path / f"sub-{subject}", f"sub-{subject}_stat-z_statmap{end}")
    assert {"".join(image.path.suffixes) for image in find_study(tmp_path).images} == {".nii.gz"}
    study = find_study(tmp_path, filters={"extension": "dscalar.nii"})
    assert {"".join(image.path.suffixes) for image in study.images} == {".dscalar.nii"}


def test_segmentations_are_images_where_they_are_asked_for(tmp_path):
    for subject in SUBJECTS:
        for label in ("GM", "WM"):
            touch(
                tmp_path / f"sub-{subject}" / "anat",
                f"sub-{subject}_space-MNI_label-{label}_probseg.nii.gz",
            )
    study = find_study(tmp_path, filters={"suffix": "probseg", "label": "GM"})
    assert len(study.images) == 20


def test_entities_that_are_unknown_tell_images_apart(tmp_path):
    for subject in SUBJECTS:
        for model in ("a", "b"):
            touch(tmp_path / f"sub-{subject}", f"sub-{subject}_model-{model}_stat-z_statmap.nii")
    assert "model: a (20), b (20)" in error_of(tmp_path)
    study = find_study(tmp_path, filters={"model": "b"})
    assert set(study.frame["model"]) == {"b"}


def test_the_order_of_folders_on_disk_makes_no_difference(tmp_path, monkeypatch):
    names = ["1", "10", "01", "2", "100", "a_b", "é"]
    for subject in names:
        for session in ("1", "10", "2"):
            touch(
                tmp_path / f"sub-{subject}" / f"ses-{session}",
                f"sub-{subject}_ses-{session}_stat-z_statmap.nii",
            )
    rows = "".join(f"sub-{name}\tof {name}\n" for name in reversed(names))
    touch(tmp_path, "participants.tsv", f"participant_id\tnote\n{rows}".encode())
    expected = find_study(tmp_path)
    assert list(expected.frame["subject"].cat.categories) == [
        *("01", "1", "2", "10", "100", "a_b", "é")
    ]
    scandir = os.scandir
    for seed in range(5):

        def shuffled(path, seed=seed):
            entries = list(scandir(path))
            random.Random(seed).shuffle(entries)
            return entries

        monkeypatch.setattr(os, "scandir", shuffled)
        study = find_study(tmp_path)
        assert study.images == expected.images
        assert study.frame.equals(expected.frame)
        for image, (_, row) in zip(study.images, study.frame.iterrows(), strict=True):
            start = f"sub-{row['subject']}_ses-{row['session']}_"
            assert image.path.name.startswith(start)
            assert row["note"] == f"of {row['subject']}"
