"""Files that are no files, images on several grids, and headers that promise too much."""

import gzip
import os
import struct
import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.cli.fit import load_config
from nipype_blm.data.headers import inspect_image
from nipype_blm.errors import InputError
from nipype_blm.stages.plan import prepare_run, write_plan
from nipype_blm.stages.products import compute_products

SHAPE = (4, 3, 2)
FEWER = np.ones((4, 3, 1))
GOOD = np.diag([-2.0, 2, 3, 1])
GOOD[:3, 3] = 90, -126, -72
SHIFTED = np.diag([2.0, 2, 2, 1])
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n"
# Where a file is expected: the fields that name it, and how messages call it.
ROLES = {
    "image": ({}, "line 8 of Y.txt"),
    "Y_files": ({"Y_files": "odd.txt"}, "Y_files"),
    "X": ({"X": "odd.csv"}, "X"),
    "analysis_mask": ({"analysis_mask": "odd.nii"}, "analysis_mask"),
    "Masking": ({"Missingness": {"Masking": "odd.nii.gz"}}, "Missingness.Masking"),
    "data_mask_files": ({"data_mask_files": "masks.txt"}, "data_mask_files"),
    "data mask": ({"data_mask_files": "M.txt"}, "line 2 of M.txt"),
}


def annex(path):
    path.symlink_to(".git/annex/objects/zZ/Qk/MD5E-s9--ab/MD5E-s9--ab")


KINDS = {
    "pointer of LFS": (lambda p: p.write_bytes(LFS), "git lfs pull"),
    "link of git-annex": (annex, "datalad get"),
    "folder": (lambda p: p.mkdir(), "directory"),
    "empty": (lambda p: p.write_bytes(b""), "empty|lists no file"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "a device"),
}


def place(study, role, make):
    """Make what stands at the place of a file; return the fields that name it."""
    fields, _ = ROLES[role]
    name = {"image": "s07.nii", "data mask": "odd.nii", "Masking": "odd.nii.gz"}.get(role)
    name = name or next(iter(fields.values()))
    (study.folder / name).unlink(missing_ok=True)
    study.write("M.txt", "s00.nii\nodd.nii\n" + "s00.nii\n" * 10)
    make(study.folder / name)
    return fields, name


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_with_content_is_one_error_wherever_a_file_is_expected(study, role, kind):
    """Images, lists, tables, masks, and masks in lists: what came, and how to get the content."""
    make, words = KINDS[kind]
    fields, name = place(study, role, make)
    result = study.run("--check", **fields)
    assert result.code == 2, result.err
    [error] = [each for each in result.errors if name in each]
    assert any(word in error for word in words.split("|")), error
    assert ROLES[role][1] in error
    assert not study.outdir.exists()


def test_no_pipe_is_waited_for_wherever_a_file_is_expected(study):
    """As a process of its own, so that waiting for ever would show as the time that is over."""
    os.mkfifo(study.folder / "pipe")
    names = {"a.txt", "b.csv", "c.nii", "d.nii.gz", "e.txt", "s07.nii"}
    (study.folder / "s07.nii").unlink()
    for name in names:
        (study.folder / name).symlink_to("pipe")
    masks = {"analysis_mask": "c.nii", "Missingness": {"Masking": "d.nii.gz"}}
    code = "import sys; from nipype_blm.cli.blm import main; sys.exit(main(sys.argv[1:]))"
    found = ""
    for config in (
        study.configure(X="b.csv", data_mask_files="e.txt", **masks),
        study.configure(to="two.yml", Y_files="a.txt"),
        study.folder / "pipe",
    ):
        command = [sys.executable, "-c", code, config, "--check"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 2, result.stderr
        found += result.stderr
    # Without a grid of its own a mask is not looked at: here most images have one.
    assert all(f"{name} is a named pipe" in found for name in (*names, "pipe"))


# --------------------------------------------------------------------------- several grids


def set_affine(study, name, at, *values):
    """Change numbers of an affine in the header itself."""
    path = study.save_image(name, study.values[0])
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(values)}f", content, 280 + 4 * at, *values)
    path.write_bytes(content)


ODD = {
    "shape": (lambda s, name: s.save_image(name, FEWER), "its shape is (4, 3, 1), expected (4, 3"),
    "affine": (
        lambda s, name: s.save_image(name, s.values[0], affine=SHIFTED),
        "its affine is [[2.0, 0.0, 0.0, 0.0], ",
    ),
    "no numbers": (
        lambda s, name: set_affine(s, name, 0, np.nan),
        "its affine has values that are not finite: [[nan, ",
    ),
    "no third axis": (
        lambda s, name: set_affine(s, name, 8, 0.0, 0.0, 0.0),
        "its affine is singular: ",
    ),
    "volumes": (lambda s, name: s.save_image(name, np.ones((4, 3, 2, 5))), "5 volumes, expected 1"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("position", [0, 1, 11])
def test_the_odd_image_is_blamed_wherever_it_stands(study, odd, position):
    make, message = ODD[odd]
    make(study, f"s{position:02}.nii")
    result = study.run("--check")
    assert result.code == 2
    [error] = result.errors
    assert error.startswith(f"line {position + 1} of Y.txt: ")
    assert message in error


def test_several_odd_images_are_blamed_and_not_the_many_that_agree(study):
    for i, odd in enumerate(ODD.values()):
        odd[0](study, f"s{i:02}.nii")
    errors = study.run("--check").errors
    assert [error.partition(":")[0] for error in errors] == [
        f"line {i} of Y.txt" for i in range(1, 6)
    ]


def test_masks_have_to_be_on_the_grid_of_most_images(study):
    """A mask that agrees with the odd image is wrong, too; one that agrees with the others not."""
    study.save_image("s00.nii", FEWER)
    study.save_image("odd.nii", FEWER)
    study.save_image("good.nii", study.values[1])
    study.save_image("good4d.nii", np.ones((*SHAPE, 12)))
    for field, where in [("analysis_mask", "analysis_mask"), ("data_mask_files", "odd.nii")]:
        study.write("M.txt", "odd.nii\n" + "good.nii\n" * 11)
        mask = {"analysis_mask": "odd.nii", "data_mask_files": "M.txt"}[field]
        image, of_mask = study.run("--check", **{field: mask}).errors
        assert "s00.nii: its shape is (4, 3, 1), expected (4, 3, 2)" in image
        assert where in of_mask
        assert "(4, 3, 1), expected (4, 3, 2)" in of_mask
        good = {"analysis_mask": "good.nii", "data_mask_files": "good4d.nii"}[field]
        assert len(study.run("--check", **{field: good}).errors) == 1
    [_, error] = study.run("--check", analysis_mask="good4d.nii").errors
    assert "analysis_mask" in error
    assert "it has 12 volumes" in error


@pytest.mark.parametrize("n_kinds", [2, 3, 6, 12])
def test_images_on_grids_of_which_none_has_most_are_shown_side_by_side(study, n_kinds):
    for i in range(12):
        affine = GOOD.copy()
        affine[0, 3] += i % n_kinds
        study.save_image(f"s{i:02}.nii", study.values[i], affine=affine)
    result = study.run("--check", analysis_mask="s00.nii")
    assert result.code == 2
    [error] = result.errors
    assert "on different grids, and on none are most of them" in error
    for i in range(min(n_kinds, 3)):
        assert f"{12 // n_kinds} with shape (4, 3, 2) and affine" in error
        assert f"s{i:02}.nii (line {i + 1} of Y.txt)" in error
    assert ("and others on" in error) == (n_kinds > 3)


def test_two_images_of_which_one_has_no_place_blame_that_one(study):
    set_affine(study, "s00.nii", 5, np.inf)
    study.write("Y.txt", "s00.nii\ns01.nii\n")
    errors = study.run("--check").errors
    [error] = [error for error in errors if "affine" in error]
    assert error.startswith("line 1 of Y.txt: ")


def test_affines_that_differ_by_rounding_are_one_grid_and_the_maps_have_the_first(study):
    """Single precision, and quaternions: a millionth of a millimetre is no other grid."""
    for i in range(12):
        affine = GOOD.copy()
        affine[:3, 3] += 1e-5 * (i + 1)
        study.save_image(f"s{i:02}.nii", study.values[i], affine=affine)
    assert study.run().code == 0
    first = nib.load(study.folder / "s00.nii")
    np.testing.assert_array_equal(nib.load(study.path("blm_vox_beta")).affine, first.affine)


# ----------------------------------------------------------------- what memory cannot hold


def promise(path, shape, size=None):
    """Write a header of another shape, and voxels as a hole of the file."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<4h", content, 40, 3, *shape)
    path.write_bytes(content)
    if size is not None:
        os.truncate(path, size)


RUN = """
import resource, sys
from nipype_blm.cli.blm import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = main(sys.argv[1:])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
sys.exit(code)
"""


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("kind", ["tiny", "tiny and compressed", "as large as they say"])
def test_headers_that_promise_more_than_memory_holds_are_refused_before_any_work(
    study, kind, with_mask
):
    """2000 x 2000 x 500 voxels in twelve files: MAXMEM covers reading, and masks, too."""
    shape = (2000, 2000, 500)
    for i in range(12):
        path = study.folder / f"s{i:02}.nii"
        promise(path, shape, 352 + 4 * 2 * 10**9 if kind.startswith("as") else None)
        if kind.endswith("compressed"):
            path.with_suffix(".nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    if kind.endswith("compressed"):
        study.write("Y.txt", "".join(f"s{i:02}.nii.gz\n" for i in range(12)))
    mask = {"analysis_mask": "s00.nii"} if with_mask else {}
    maxmem = 2**29
    command = [sys.executable, "-c", RUN, study.configure(MAXMEM=maxmem, **mask), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2, result.stderr
    words = {
        "tiny": "7999999904 bytes of voxels are missing",
        "tiny and compressed": "compressed bytes cannot hold the 8000000352 bytes",
        "as large as they say": "MAXMEM is 536,870,912 bytes, too little for images of shape",
    }
    assert words[kind] in result.stderr
    assert int(result.stdout) < maxmem + 300e6
    assert not study.outdir.exists()


# ------------------------------------------------------------------- one file, many volumes


def count_calls(function, *names):
    """Return how often functions of these names are called, in all threads, meanwhile."""
    counts = dict.fromkeys(names, 0)

    def note(frame, event, argument):
        name = frame.f_code.co_name if event == "call" else getattr(argument, "__name__", "")
        if event in ("call", "c_call") and name in counts:
            counts[name] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return counts


@pytest.mark.parametrize("name", ["y.nii", "y.nii.gz", "y.hdr"])
def test_planning_looks_at_a_4d_file_as_often_whatever_its_number_of_volumes(study, name):
    """Its header, its size, its place among others: once a file, not once a volume."""
    cls = nib.Nifti1Pair if name == "y.hdr" else nib.Nifti1Image
    found = []
    for n in (12, 300):
        study.write_design(np.c_[np.ones(n), np.arange(n) % 2, np.sin(np.arange(n))])
        study.save_image(name, np.ones((*SHAPE, n)), cls=cls)
        study.configure(Y_files=name, data_mask_files=name)

        def check():
            config = load_config(study.folder / "blm.yml")
            inspect_image.cache_clear()
            prepare_run(config)

        check()  # modules that are imported when they are first used are looked for on disk, too
        found.append(count_calls(check, "stat", "open", "describe_difference", "read_header"))
    assert found[0] == found[1]
    assert found[0]["stat"] > 0


@pytest.mark.parametrize("name", ["y.nii", "y.nii.gz", "y.hdr"])
def test_reading_looks_at_a_4d_file_once_a_chunk_and_its_header_once(study, name):
    cls = nib.Nifti1Pair if name == "y.hdr" else nib.Nifti1Image
    n = 100
    study.write_design(np.c_[np.ones(n), np.arange(n) % 2, np.sin(np.arange(n))])
    study.save_image(name, np.random.default_rng(0).normal(size=(*SHAPE, n)), cls=cls)
    study.configure(Y_files=name)
    run = prepare_run(load_config(study.folder / "blm.yml"))
    files = write_plan(run, study.folder / "plan")
    batch = files.batch_files[0]

    def read():
        compute_products(files.model_file, batch, study.folder / "products.blm")

    found = count_calls(read, "check_unchanged", "_parse_header")
    assert len(files.batch_files) == 1
    assert found["check_unchanged"] == 2 * -(-n // run.spec.rows_per_chunk)
    assert found["_parse_header"] <= 2


@pytest.mark.parametrize("field", ["Y_files", "data_mask_files"])
@pytest.mark.parametrize("kind", ["cut", *KINDS])
def test_a_4d_file_that_cannot_be_read_is_one_error_and_not_taken_for_one_image(study, field, kind):
    path = study.save_image("y.nii", np.ones((*SHAPE, 12)))
    if kind == "cut":
        os.truncate(path, 1000)
    else:
        path.unlink()
        KINDS[kind][0](path)
    [error] = study.run("--check", **{field: "y.nii"}).errors
    assert error.startswith(f"{field}: {path} ")


@pytest.mark.parametrize("when", ["before", "between chunks"])
@pytest.mark.parametrize("name", ["y.nii", "y.nii.gz"])
def test_a_4d_file_that_is_replaced_is_noticed(study, name, when, monkeypatch):
    n = 100
    study.write_design(np.c_[np.ones(n), np.arange(n) % 2, np.sin(np.arange(n))])
    path = study.save_image(name, np.random.default_rng(0).normal(size=(*SHAPE, n)))
    study.configure(Y_files=name)
    run = prepare_run(load_config(study.folder / "blm.yml"))
    files = write_plan(run, study.folder / "plan")

    def replace(*_):
        study.save_image("new.nii", np.ones((*SHAPE, n))).replace(path)

    if when == "before":
        replace()
    else:  # as soon as the first chunk is read
        monkeypatch.setattr("nipype_blm.stages.loading.advance", replace)
    with pytest.raises(InputError, match="has changed since the run was planned") as error:
        compute_products(files.model_file, files.batch_files[0], study.folder / "products.blm")
    assert len(error.value.problems) == 1
