"""Whatever stands in the header of an image, or is left of it, ends in values or in an InputError.

``pytest --hypothesis-profile long`` tries many more images.
"""

import bz2
import contextlib
import gzip
import io
import re
import resource
import struct
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from nipype_blm.cli.blm import main
from nipype_blm.data.files import stat_file
from nipype_blm.data.headers import check_size, read_header
from nipype_blm.data.images import ImageReader
from nipype_blm.errors import InputError

SHAPE = (4, 3, 2)
AFFINE = np.diag([2.0, 2, 2, 1])
MAXMEM = 2**28
MOST_BYTES = MAXMEM + 300e6
MOST_S = 20
KINDS = {
    "i.nii": nib.Nifti1Image,
    "i.nii.gz": nib.Nifti1Image,
    "j.nii": nib.Nifti2Image,
    "j.nii.gz": nib.Nifti2Image,
    "i.hdr": nib.Nifti1Pair,
    "j.hdr": nib.Spm99AnalyzeImage,
    "i.img": nib.AnalyzeImage,
    "i.mgh": nib.MGHImage,
    "i.mgz": nib.MGHImage,
    "i.nii.bz2": nib.Nifti1Image,
}
# Where the fields that matter begin, of NIfTI-1 and Analyze, NIfTI-2, and MGH.
FIELDS = (
    *(0, 40, 42, 44, 46, 48, 50, 68, 70, 72, 76, 80, 84, 108, 112, 116, 123, 252, 254, 256, 260),
    *(268, 280, 284, 296, 312, 344, 348, 352, 4, 12, 14, 16, 24, 32, 104, 168, 176, 184, 344, 400),
    *(8, 20, 28, 30, 34, 42, 540, 544),
)


def pack(form, *values):
    return st.sampled_from(values).map(lambda value: struct.pack(form, value))


CONTENTS = st.one_of(
    pack("<f", np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-40, 352.0, 351.0, 2.0**31),
    pack("<d", np.nan, np.inf, -np.inf, 1e300),
    pack("<h", -(2**15), -1, 0, 1, 2, 5, 7, 8, 2000, 2**15 - 1, 16, 64, 1536, 1792, 2048, 2304),
    pack("<i", -(2**31), -1, 0, 1, 348, 540, 2**31 - 1),
    pack("<q", -(2**63), -1, 0, 1, 2**33, 2**62, 2**63 - 1),
    pack(">i", -(2**31), -1, 0, 1, 2000, 2**31 - 1),
    pack(">f", np.nan, np.inf, -np.inf, 0.0),
    st.binary(min_size=1, max_size=16),
)
CHANGES = st.lists(st.tuples(st.sampled_from(FIELDS) | st.integers(0, 700), CONTENTS), max_size=6)


@st.composite
def hostile_images(draw):
    """Return name and class of an image, changes of its header, its length, and later damage."""
    name = draw(st.sampled_from(sorted(KINDS)))
    length = draw(st.none() | st.integers(0, 900))
    damage = draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2))
    return name, draw(CHANGES), length, damage, draw(st.binary(max_size=8))


def write_hostile(folder, image):
    """Write an image, change its bytes, cut it, compress it, and damage the result."""
    name, changes, length, damage, tail = image
    for old in folder.glob("[ij].*"):
        old.unlink()
    plain = folder / name.replace(".gz", "").replace(".mgz", ".mgh").replace(".bz2", "")
    values = np.arange(24, dtype=np.int16).reshape(SHAPE)
    nib.save(KINDS[name](values, AFFINE), plain)
    content = bytearray(plain.read_bytes())
    for position, new in changes:
        if position < len(content):
            content[position : position + len(new)] = new
    content = bytes(content[:length])
    path = folder / name
    if path.suffix in (".gz", ".mgz"):
        content = gzip.compress(content, 1, mtime=0)
    elif path.suffix == ".bz2":
        content = bz2.compress(content)
    content = bytearray(content)
    for position, value in damage:
        if position < len(content):
            content[position] = value
    if plain != path:
        plain.unlink()
    path.write_bytes(bytes(content) + tail)
    return path


def read_all(path):
    """Read header and voxels, as far as a run would; return what is wrong."""
    try:
        header = read_header(path)
        check_size(path, header, stat_file(path).size)
        if header.n_values * header.bytes_to_read > MAXMEM:  # planning refuses it
            return None
        reader = ImageReader(header, np.array([0]), np.array([header.n_values]))
        for volume in {0, header.n_volumes - 1}:
            reader.read(path, volume, np.empty(header.n_values))
    except InputError as error:
        return str(error)
    return None


@contextlib.contextmanager
def limits():
    """Fail for what takes too long or too much memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - start < MOST_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


of_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.filterwarnings("ignore")
@seed(1)
@of_one_folder
@given(image=hostile_images())
def test_any_header_gives_values_or_one_error_that_names_the_file(tmp_path, image):
    """Fields of any bytes, cut files, damaged compression: in every format with a binary header.

    No exception but InputError, no line break in its sentence, no long wait, no memory beyond
    what was allowed.
    """
    path = write_hostile(tmp_path, image)
    with limits():
        fault = read_all(path)
    assert fault is None or (path.stem.split(".")[0] in fault and "\n" not in fault), fault
    assert fault is None or len(fault) < 800


@pytest.mark.filterwarnings("ignore")
@seed(1)
@of_one_folder
@given(image=hostile_images(), place=st.integers(0, 2))
def test_a_check_of_a_study_with_any_image_ends_well_or_with_what_is_wrong(tmp_path, image, place):
    """The whole command: an image may be hostile wherever it stands in the list."""
    path = write_hostile(tmp_path, image)
    names = ["good1.nii", "good2.nii"]
    if not (tmp_path / "X.csv").exists():
        for name in names:
            nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE), tmp_path / name)
        (tmp_path / "X.csv").write_text("1\n1\n1\n")
        (tmp_path / "blm.yml").write_text(
            "Y_files: Y.txt\nX: X.csv\noutdir: out\n"
            f"MAXMEM: {MAXMEM}\ncontrasts:\n  - c1: {{name: mean, vector: [1]}}\n"
        )
    names.insert(place, path.name)
    (tmp_path / "Y.txt").write_text("\n".join(names))
    out, err = io.StringIO(), io.StringIO()
    with limits(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(tmp_path / "blm.yml"), "--check", "--quiet"])
    said = err.getvalue().splitlines()
    assert code in (0, 2)
    assert (code == 2) == bool([line for line in said if line.startswith("error: ")])
    assert all(line.startswith(("error: ", "notice: ")) for line in said), said
    if code == 2:
        assert all("good" not in line.partition("such as")[0] for line in said), said


# ------------------------------------------------------------------ known ones, by their cause


def save(path, cls=nib.Nifti1Image, dtype=np.float32):
    nib.save(cls(np.ones(SHAPE, dtype), AFFINE), path)
    return bytearray(path.read_bytes())


def change(path, position, form, *values, cls=nib.Nifti1Image):
    content = save(path, cls)
    struct.pack_into(form, content, position, *values)
    path.write_bytes(content)


def cut(path, length, cls):
    content = bytes(save(path, cls))
    if path.suffix == ".mgz":
        path.write_bytes(gzip.compress(gzip.decompress(content)[:length]))
    else:
        path.write_bytes(content[:length])


def write_afni(path, types="1 1"):
    """Write a header of AFNI for two volumes of the types given."""
    numbers = {
        "DATASET_RANK": "3 2 0 0 0 0 0 0",
        "DATASET_DIMENSIONS": "4 3 2 0 0",
        "BRICK_TYPES": types,
        "ORIENT_SPECIFIC": "0 3 4",
        "SCENE_DATA": "0 11 1",
        "BRICK_FLOAT_FACS": "0 0",
        "DELTA": "2 2 2",
        "ORIGIN": "0 0 0",
        "IJK_TO_DICOM_REAL": "2 0 0 0 0 2 0 0 0 0 2 0",
    }
    text = "type = string-attribute\nname = BYTEORDER_STRING\ncount = 10\n'LSB_FIRST~\n"
    for i, (name, values) in enumerate(numbers.items()):
        kind = "integer" if i < 5 else "float"
        count = len(values.split())
        text += f"\ntype = {kind}-attribute\nname = {name}\ncount = {count}\n{values}\n"
    path.write_text(text)
    return path


def write_mixed_afni(path):
    write_afni(path, types="1 3").with_suffix(".BRIK").write_bytes(bytes(300))


FAULTS = {
    "vox_offset is infinite": ("i.nii", lambda p: change(p, 108, "<f", np.inf), "byte inf"),
    "vox_offset is NaN": ("i.nii", lambda p: change(p, 108, "<f", np.nan), "byte nan"),
    "vox_offset is negative": ("i.nii", lambda p: change(p, 108, "<f", -400), "byte -400"),
    "vox_offset of a pair is infinite": (
        "i.hdr",
        lambda p: change(p, 108, "<f", np.inf, cls=nib.Nifti1Pair),
        "infinity",
    ),
    "vox_offset of a pair is negative": (
        "i.hdr",
        lambda p: change(p, 108, "<f", -400, cls=nib.Nifti1Pair),
        "byte -400",
    ),
    "scl_slope is infinite": ("i.nii", lambda p: change(p, 112, "<f", np.inf), "multiplied by inf"),
    "scl_slope of NIfTI-2 is infinite": (
        "i.nii",
        lambda p: change(p, 176, "<d", np.inf, cls=nib.Nifti2Image),
        "multiplied by inf",
    ),
    "scl_slope of a pair is infinite": (
        "i.hdr",
        lambda p: change(p, 112, "<f", -np.inf, cls=nib.Nifti1Pair),
        "multiplied by -inf",
    ),
    "scl_inter is NaN": ("i.nii", lambda p: change(p, 112, "<ff", 1, np.nan), "intercept"),
    "a quaternion is too long": (
        "i.nii",
        lambda p: change(p, 252, "<hhfff", 1, 0, 1, 1, 1),
        "its qform is no rotation",
    ),
    "a wrong magic number": ("i.nii", lambda p: change(p, 344, "4s", b"abcd"), "file type"),
    "an MGH file is cut in its header": (
        "i.mgh",
        lambda p: cut(p, 50, nib.MGHImage),
        "type error: buffer is too small",
    ),
    "an MGZ file is cut in its header": (
        "i.mgz",
        lambda p: cut(p, 50, nib.MGHImage),
        "type error: buffer is too small",
    ),
    "an MGZ file of nothing": ("i.mgz", lambda p: p.write_bytes(gzip.compress(b"")), "error"),
    "an empty file": ("i.nii", lambda p: p.write_bytes(b""), "the file is empty"),
    "GIFTI that is no XML": ("i.gii", lambda p: p.write_bytes(b"hello" * 99), "expat error"),
    "GIFTI that ends early": ("i.gii", lambda p: p.write_bytes(b"<GIFTI>"), "expat error"),
    "GIFTI in no known encoding": (
        "i.gii",
        lambda p: p.write_bytes(b'<?xml version="1.0" encoding="UTF-9"?><a/>'),
        "UTF-9",
    ),
    "MINC-1 cut in its header": ("i.mnc", lambda p: p.write_bytes(b"CDF\x01" + bytes(9)), "."),
    "AFNI with volumes of several types": ("i+orig.HEAD", write_mixed_afni, "multiple data types"),
    "AFNI without its voxels": ("i+orig.HEAD", write_afni, r"its voxels, in i\+orig.BRIK, are not"),
    "PAR without content": ("i.PAR", lambda p: p.write_text("# nothing\n"), "."),
}


@pytest.mark.filterwarnings("ignore:PAR/REC version")
@pytest.mark.parametrize("name", FAULTS)
def test_a_header_that_a_library_cannot_read_is_one_sentence(tmp_path, name):
    """Whatever a library raises: of the file's type, of its format, of Python itself."""
    file, make, message = FAULTS[name]
    path = tmp_path / file
    make(path)
    with pytest.raises(InputError, match=message) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path} ")
    assert len(error.value.problems) == 1


WITHOUT = """
import sys
from pathlib import Path


class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[2]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Without())
from nipype_blm.data.headers import read_header

read_header(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("name", "content", "package"),
    [
        ("i.mnc", b"\x89HDF\r\n\x1a\n" + bytes(500), "h5py"),
        ("i.nii.zst", b"\x28\xb5\x2f\xfd" + bytes(100), "backports.zstd"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_extra_that_has_it(
    tmp_path, name, content, package
):
    """In a process that cannot import it, whether it is installed or not."""
    (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-P", "-c", WITHOUT, str(tmp_path / name), package.partition(".")[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert re.search(f"InputError: .*needs {package}, .* install .*formats", done.stderr), (
        done.stderr
    )


def test_a_compressed_file_that_cannot_hold_its_voxels_is_refused_unread(tmp_path):
    """At best, a byte of gzip stands for 1032: what promises more is damaged, or a trap."""
    path = tmp_path / "i.nii.gz"
    plain = tmp_path / "i.nii"
    for shape, is_possible in {(50, 50, 20): True, (2000, 2000, 500): False}.items():
        content = save(plain)
        struct.pack_into("<4h", content, 40, 3, *shape)
        zeros = bytes(4 * 50 * 50 * 20)
        path.write_bytes(gzip.compress(bytes(content[:352]) + zeros))
        header = read_header(path)
        if is_possible:
            check_size(path, header, path.stat().st_size)
        else:
            with pytest.raises(InputError, match=r"cannot hold .* shape \(2000, 2000, 500\)"):
                check_size(path, header, path.stat().st_size)
