"""``nipype-blm tbss``: from lists, tables and data sets to skeletons and models on them."""

import os
import re
import shlex
import signal
import tempfile
import time

import nibabel as nib
import numpy as np
import pytest
from bids_study import write_description
from forked import start_command
from small_brains import make_brain, save, write_brains, write_template

from nipype_blm.cli.main import main
from nipype_blm.io.lock import hold_folders

LIMIT_S = 240


class Command:
    """The command, run in this process on one node at a time."""

    def __init__(self, folder, capsys):
        self.folder, self._capsys = folder, capsys
        self.out = folder / "out"

    def __call__(self, source, *options, template=True):
        self._capsys.readouterr()
        arguments = ["tbss", source, self.out, *options]
        if template:
            path = self.folder / "template.nii.gz"
            arguments += ["--template", path if path.exists() else write_template(self.folder)]
        if "--check" not in options:
            arguments += ["--plugin", "Linear"]
        try:
            code = main([str(each) for each in arguments])
        except SystemExit as exit_:
            code = exit_.code
        out, err = self._capsys.readouterr()
        return code, out, re.sub(r"^nipype-blm tbss: checking .*\n", "", err)

    def check(self, source, *options, **more):
        return self(source, "--check", *options, **more)

    def read(self, name="FA_skeletonised"):
        return np.asarray(nib.load(self.out / "stats" / f"all_{name}.nii.gz").dataobj)

    def stamps(self):
        """When warps, and images in standard space, were written."""
        files = [*(self.out / "warps").iterdir(), *(self.out / "work/standard").rglob("*.*")]
        return {path.name: path.stat().st_mtime_ns for path in files}


@pytest.fixture
def tbss(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, capsys)


def list_files(folder, files, name="fa_files.txt"):
    path = folder / name
    path.write_text("".join(f"{file}\n" for file in files))
    return path


def write_table(folder, rows, header="participant_id\tgroup"):
    path = folder / "people.tsv"
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


def write_people(folder, n=3):
    """Write FA and MD of some people; return the table, and the options that find the images."""
    for i, path in enumerate(write_brains(folder / "fa", n)):
        fa = make_brain(i)
        save(folder / "md" / path.name, 1e-3 * fa)
    table = write_table(folder, [(f"s{i}", "ab"[i % 2]) for i in range(n)])
    return table, ("--images", "fa/{participant_id}.nii.gz")


# ------------------------------------------------------------------------- what is asked


def test_help_names_every_option_with_its_default(tbss):
    code, out, _ = tbss("--help", template=False)
    assert code == 0
    words = " ".join(out.split())
    for option in ("--map NAME=PATTERN", "--mask-share SHARE", "--no-inference", "--check"):
        assert option in words
    assert "default 0.2" in words
    assert "default greedy" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--threshold 2", "threshold is 2; expected a number from 0 to 1"),
        ("--threshold nan", "threshold is nan; expected a number from 0 to 1"),
        ("--threshold x", "argument --threshold: invalid float value: 'x'"),
        ("--mask-share 90", "mask_share is 90; expected a number from 0 to 1"),
        ("--engine elastix", "engine 'elastix' is not known; expected greedy, ants, fsl"),
        ("--target mean", "argument --target: invalid choice: 'mean'"),
        ("--atlas-names x.tsv", "atlas_names are given without an atlas"),
        ("--atlas no.nii", "no.nii does not exist"),
        ("--map MD", "--map MD was given; expected NAME=PATTERN"),
        ("--map M/D=x", "--map M/D=x was given; expected NAME=PATTERN"),
        ("--map fa={participant_id}", "--map fa is the map that all others follow"),
        ("--map MD=a{participant_id} --map md=b{participant_id}", "--map md is given twice"),
        ("--map MD=no/{participant_id}.nii.gz", "--map MD '"),
        ("--map MD=md/s0.nii.gz", "md/s0.nii.gz', which is no column of people.tsv"),
        ("--formula '~ grp'", "has no column 'grp'.  Is it group?"),
        ("--bogus", "unrecognized arguments: --bogus"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything(tbss, options, message):
    table, images = write_people(tbss.folder)
    code, out, err = tbss.check(table, *images, *shlex.split(options))
    assert code == 2
    assert message in err
    assert not out
    assert not tbss.out.exists()


def test_without_a_template_the_choice_is_told(tbss):
    source = list_files(tbss.folder, write_brains(tbss.folder))
    code, _, err = tbss.check(source, template=False)
    assert code == 2
    assert "FMRIB58_FA_1mm of FSL, or the target most_representative" in err


@pytest.mark.parametrize(
    ("engine", "hidden", "message"),
    [
        ("greedy", "picsl_greedy", "pip install 'nipype_blm[tbss]'"),
        ("ants", "ants", "pip install 'nipype_blm[ants]'"),
        ("fsl", None, "fsl_reg and convertwarp of FSL are not on PATH"),
    ],
)
def test_an_engine_that_is_not_installed_says_what_brings_it(
    tbss, monkeypatch, engine, hidden, message
):
    monkeypatch.setenv("PATH", str(tbss.folder))
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "nipype_blm.tbss.engines.find_spec", lambda name: None if name == hidden else found(name)
    )
    source = list_files(tbss.folder, write_brains(tbss.folder))
    code, _, err = tbss.check(source, "--engine", engine)
    assert code == 2
    assert message in err


# ------------------------------------------------------------------------- where images are


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: write_brains(folder)[0], "is an image; expected a table"),
        (lambda folder: write_brains(folder / "fa")[0].parent, "no BIDS data set; expected"),
        (lambda folder: folder / "no.txt", "cannot be read: No such file"),
        (lambda folder: list_files(folder, []), "is empty"),
        (lambda folder: list_files(folder, [folder / "*.nii.gz"]), "is a pattern"),
        (lambda folder: list_files(folder, ["fa/s0.nii.gz,1"]), "one path a line|has no header"),
        (lambda folder: list_files(folder, write_brains(folder, 1)), "needs 2 or more"),
        (lambda folder: list_files(folder, write_brains(folder) * 2), "given more than once"),
        (lambda folder: list_files(folder, [*write_brains(folder), "x.nii"]), "x.nii does not"),
        (lambda folder: write_table(folder, [("s0", "a")]), "no column called image"),
        (lambda folder: list_files(folder, ["a: 1"], "c.yml"), "is a configuration; expected"),
    ],
)
def test_a_source_that_has_no_images_says_what_is_expected(tbss, write, message):
    code, _, err = tbss.check(write(tbss.folder))
    assert code == 2
    assert re.search(message, err), err


@pytest.mark.parametrize("name", ["fa.txt", "fa.csv", "fa", "fa.LST"])
@pytest.mark.parametrize("line", ["{}\n", '"{}"\r\n', "  {}  \n\n", "../list/{}\n# comment\n"])
def test_lists_of_paths_are_read_as_people_write_them(tbss, name, line):
    folder = tbss.folder / "list"
    files = write_brains(folder)
    (folder / name).write_text("\ufeff" + "".join(line.format(file.name) for file in files))
    code, out, err = tbss.check(folder / name)
    assert (code, err) == (0, "")
    assert out.startswith("3 images of FA\n")


def test_a_list_has_no_formula_and_no_other_maps(tbss):
    source = list_files(tbss.folder, write_brains(tbss.folder))
    for options in (("--formula", "~ group"), ("--map", "MD=x")):
        code, _, err = tbss.check(source, *options)
        assert code == 2
        assert "give a table with a column of paths" in err


def test_ids_are_whole_and_two_files_of_one_row_are_named(tbss):
    write_brains(tbss.folder / "fa", ["1_FA", "11_FA", "My_11_FA"])
    table = write_table(tbss.folder, [("1", "a"), ("11", "b")])
    code, _, err = tbss.check(table, "--images", "fa/*{participant_id}_FA.nii.gz")
    assert code == 2
    assert "11_FA.nii.gz, My_11_FA.nii.gz" in err
    code, out, err = tbss.check(table, "--images", "fa/{participant_id}_FA.nii.gz")
    assert code == 0
    assert out.startswith("2 images of FA\n")
    assert "My_11_FA.nii.gz" in err


def test_leading_zeros_of_ids_stay(tbss):
    write_brains(tbss.folder / "fa", ["01", "02", "10"])
    table = write_table(tbss.folder, [("02", "a"), ("01", "b"), ("10", "a")])
    assert tbss.check(table, "--images", "fa/{participant_id}.nii.gz")[0] == 0


def test_rows_that_share_an_image_ask_for_what_tells_sessions_apart(tbss):
    write_brains(tbss.folder / "fa", 2)
    rows = [(f"s{i}", session) for i in range(2) for session in (1, 2)]
    table = write_table(tbss.folder, rows, "participant_id\tsession")
    code, _, err = tbss.check(table, "--images", "fa/{participant_id}.nii.gz")
    assert code == 2
    assert "add to --images the column that tells them apart, such as the session" in err


def test_maps_that_some_rows_lack_are_refused_by_row(tbss):
    table, images = write_people(tbss.folder)
    (tbss.folder / "md/s1.nii.gz").unlink()
    options = (*images, "--map", "MD=md/{participant_id}.nii.gz")
    code, _, err = tbss.check(table, *options)
    assert code == 2
    assert "md/s1.nii.gz: no such file" in err
    assert "Correct --map MD" in err
    code, _, err = tbss.check(table, *options, "--on-missing-image", "drop")
    assert code == 2
    assert "FA and MD are not there for the same rows" in err


def write_data_set(folder, n=3):
    """Write FA and MD of two sessions as derivatives of BIDS, and a mask beside them."""
    folder.mkdir(exist_ok=True)
    write_description(folder / "bids", "study")
    root = folder / "bids/derivatives/dti"
    write_description(root, "dti", DatasetType="derivative")
    for i in range(n):
        for session in (1, 2):
            place = root / f"sub-{i:02}/ses-{session}/dwi"
            fa = make_brain(2 * i + session)
            start = f"sub-{i:02}_ses-{session}_space-T1w"
            save(place / f"{start}_param-FA_dwimap.nii.gz", fa)
            save(place / f"{start}_param-MD_dwimap.nii.gz", (fa > 0) * (8e-4 + 1e-4 * fa))
        (folder / f"bids/sub-{i:02}").mkdir()
    rows = "".join(f"sub-{i:02}\t{'ab'[i % 2]}\n" for i in range(n))
    (folder / "bids/participants.tsv").write_text(f"participant_id\tgroup\n{rows}")
    return folder / "bids"


def test_a_bids_data_set_has_fa_and_other_maps_by_entities(tbss):
    bids = write_data_set(tbss.folder / "study")
    options = ("--filter", "param=FA", "--map", "MD=param=MD")
    code, out, err = tbss.check(bids, *options)
    assert code == 0, err
    assert out.startswith("6 images of FA, and of MD\n")
    code, _, err = tbss.check(bids, "--filter", "param=FA", "--map", "MD=MD")
    assert code == 2
    assert "expected ENTITY=VALUE, such as MD=param=MD" in err
    code, _, err = tbss.check(bids, "--filter", "param=FA", "--map", "AD=param=AD")
    assert code == 2
    assert "No image has param=AD.  In 12 images, param is: FA (6), MD (6)." in err


# ------------------------------------------------------------------------------ what is done


def test_the_check_says_what_would_be_done_and_writes_nothing(tbss):
    table, images = write_people(tbss.folder)
    code, out, err = tbss.check(table, *images, "--map", "MD=md/{participant_id}.nii.gz")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [
        "3 images of FA, and of MD",
        f"Target: {tbss.folder / 'template.nii.gz'}",
    ]
    assert "CPU time" in out
    assert not tbss.out.exists()


def test_the_workflow_is_drawn(tbss):
    table, images = write_people(tbss.folder)
    drawn = tbss.folder / "graph.svg"
    code, out, err = tbss(table, *images, "--graph", drawn)
    assert code == 0, err
    assert b"<svg" in drawn.read_bytes()
    assert str(drawn) in out


def test_a_second_run_does_nothing_again_and_a_new_image_is_all_that_is_done(tbss):
    files = write_brains(tbss.folder / "fa", 4)
    source = list_files(tbss.folder, files[:3])
    code, out, err = tbss(source)
    assert code == 0, err
    assert "The skeleton of 3 images has" in out
    first, stamps = tbss.read(), tbss.stamps()
    assert tbss(source)[0] == 0
    assert tbss.stamps() == stamps
    np.testing.assert_array_equal(tbss.read(), first)
    list_files(tbss.folder, files)
    assert tbss(source, "--quiet")[:2] == (0, "")
    assert tbss.stamps().items() > stamps.items()
    assert tbss.read().shape[-1] == 4


def test_what_the_stages_find_odd_is_told(tbss):
    files = write_brains(tbss.folder / "fa", 5)
    save(files[2], make_brain(2)[:, :, ::-1])
    code, _, err = tbss(list_files(tbss.folder, files), "--quiet")
    assert code == 0
    assert "notice: The correlation with the target is" in err
    assert "far lower for s2 (" in err


def test_failed_registrations_are_named_and_left_out(tbss):
    files = write_brains(tbss.folder / "fa", 4)
    save(files[2], make_brain(2)[:, :, ::-1])
    source = list_files(tbss.folder, files)
    options = ("--min-correlation", "0.9", "--max-failed", "0.3")
    code, out, err = tbss(source, *options)
    assert code == 0, err
    assert "registration has failed for 1 image, which is left out: s2 (" in err
    assert "The skeleton of 3 images" in out
    assert tbss.read().shape[-1] == 3
    code, _, err = tbss(source, "--min-correlation", "0.9")
    assert code == 2
    assert "Registration has failed for 1 of 4 images" in err


def test_a_folder_that_another_run_holds_is_left_alone(tbss):
    source = list_files(tbss.folder, write_brains(tbss.folder / "fa"))
    with hold_folders({"OUT": tbss.out}):
        code, _, err = tbss(source)
    assert code != 0
    assert str(tbss.out) in err
    assert not (tbss.out / "stats").exists()


def test_two_sessions_are_a_mixed_model_on_the_skeleton(tbss):
    rows, names = [], []
    for i, sessions in enumerate(["12", "12", "1", "12", "12", "12"]):
        for session in sessions:
            names.append(f"s{i}_ses-{session}")
            rows.append((f"s{i}", session, "ab"[i % 2]))
    write_brains(tbss.folder / "fa", names)
    table = write_table(tbss.folder, rows, "participant_id\tsession\tgroup")
    formula = ("--formula", "~ group + (1 | participant_id)", "--no-inference", "--no-report")
    images = ("--images", "fa/{participant_id}_ses-{session}.nii.gz")
    code, _, err = tbss(table, *images, *formula)
    assert code == 0, err
    maps = [path.name for path in (tbss.out / "fits/FA").glob("*.nii*")]
    assert any("group" in name or "con" in name.lower() for name in maps), maps
    lines = (tbss.out / "fits/FA.tsv").read_text().splitlines()
    assert len(lines) == 1 + len(rows)
    for line, row in zip(lines[1:], rows, strict=True):
        assert f"{row[0]}_ses-{row[1]}" in line.split("\t")[-1]


def test_rows_in_another_order_than_files_keep_their_own_values(tbss):
    write_people(tbss.folder)
    table = write_table(tbss.folder, [("s2", "a"), ("s0", "b"), ("s1", "a")])
    options = ("--images", "fa/{participant_id}.nii.gz", "--map", "MD=md/{participant_id}.nii.gz")
    assert tbss(table, *options)[0] == 0
    lines = [line.split("\t") for line in (tbss.out / "subjects.tsv").read_text().splitlines()]
    assert [line[:2] for line in lines[1:]] == [["s2", "0"], ["s0", "1"], ["s1", "2"]]
    fa, md = tbss.read(), tbss.read("MD_skeletonised")
    assert np.count_nonzero(fa) > 1000
    # MD is a thousandth of FA here, which interpolation keeps up to rounding.
    np.testing.assert_allclose(md, 1e-3 * fa, rtol=1e-4, atol=1e-9)


def test_odd_names_of_files_and_folders_go_through_to_the_model(tbss, monkeypatch):
    odd = tbss.folder / "my stüdy, 1+5 (new) 'x'"
    temporary = odd / "tmp dir"
    temporary.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    names = ["60+5 a", "ü,b", "1.2.840", "-x", "s_FA", "$(no)"]
    files = write_brains(odd / "fa.dir", names)
    for file in files:
        file.chmod(0o444)
    link = odd / "linked.nii.gz"
    link.symlink_to(files[0])
    files[0] = link
    rows = [
        (name, "ab"[i % 2], file) for i, (name, file) in enumerate(zip(names, files, strict=True))
    ]
    table = write_table(odd, rows, "participant_id\tgroup\timage")
    tbss.out = odd / "out put"
    formula = ("--formula", "~ group", "--no-inference", "--no-report")
    code, _, err = tbss(table, *formula)
    assert code == 0, err
    assert tbss.read().shape[-1] == len(names)
    assert (tbss.out / "skeletonised/FA/1.2.840_FA.nii.gz").is_file()
    assert any((tbss.out / "fits/FA").glob("*.nii*"))
    assert not any(temporary.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_run_that_is_interrupted_goes_on(tbss):
    source = list_files(tbss.folder, write_brains(tbss.folder / "fa", 6))
    write_template(tbss.folder)
    options = ("--template", "template.nii.gz", "--plugin", "Linear")
    process = start_command("main", "tbss", source, tbss.out, *options, folder=tbss.folder)
    standard = tbss.out / "work/standard"
    end = time.monotonic() + LIMIT_S
    while not [*standard.glob("*.json")]:
        assert process.poll() is None, process.said
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    # A record is written when the warp is there, and once more when the maps are.
    warps = [tbss.out / f"warps/{path.stem}_warp.nii.gz" for path in standard.glob("*.json")]
    done = {path: path.stat().st_mtime_ns for path in warps}
    assert 0 < len(done) < 6
    code, out, err = tbss(source)
    assert code == 0, err
    assert "The skeleton of 6 images" in out
    assert {path: path.stat().st_mtime_ns for path in warps} == done


def test_rows_of_a_data_set_that_a_map_lacks_are_told_and_not_exchanged(tbss):
    """As many images, of the same people; but not of the same sessions."""
    root = tbss.folder / "bids"
    names = {"FA": ["01_ses-1", "01_ses-2", "02_ses-1"], "MD": ["01_ses-1", "02_ses-1", "02_ses-2"]}
    brains = write_brains(tbss.folder / "fa", 3)
    for measure, sessions in names.items():
        for name, brain in zip(sessions, brains, strict=True):
            label, session = name.split("_")
            folder = root / "derivatives" / "dti" / f"sub-{label}" / session / "dwi"
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"sub-{name}_param-{measure}_dwimap.nii.gz"
            target.write_bytes(brain.read_bytes())
    (root / "sub-01").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "n", "BIDSVersion": "1.9.0"}')
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t20\nsub-02\t30\n")
    write_template(tbss.folder)
    options = ("--filter", "param=FA", "--map", "MD=param=MD", "--template", "template.nii.gz")
    code, _, err = tbss(root, *options, "--check")
    assert code == 2
    assert "not there for the same rows" in err
    assert "sub-01 ses-2" in err
    assert "sub-02 ses-2" in err


def test_pairs_that_are_done_are_not_registered_again(tbss):
    source = list_files(tbss.folder, write_brains(tbss.folder / "fa", 3))
    options = ("--target", "most_representative", "--plugin", "Linear")
    pairs = tbss.out / "work/pairs"

    def read_pairs():
        return sorted(line for path in pairs.glob("*") for line in path.read_text().splitlines())

    code, _, err = tbss(source, *options, template=False)
    assert code == 0, err
    known = read_pairs()
    assert len(known) == 6
    code, _, err = tbss(source, *options, template=False)
    assert code == 0, err
    assert read_pairs() == known
