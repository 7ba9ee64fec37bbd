"""Images of every format give the same voxels, and damage never goes unnoticed."""

import bz2
import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nipype_blm.core.voxels import find_runs
from nipype_blm.data.files import stat_file
from nipype_blm.data.headers import check_size, read_header
from nipype_blm.data.images import ImageReader, _decompress_at_once
from nipype_blm.data.kinds import read_mask
from nipype_blm.errors import InputError

SHAPE = (4, 3, 2)
AFFINE = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1.0]])
MASK = np.random.default_rng(1).random(24) < 0.7  # in file order


def make_values(shape=SHAPE):
    """Return integers that every type holds, some of them 0."""
    return np.random.default_rng(0).integers(0, 100, shape)


def save(path, values, dtype="float32", cls=nib.Nifti1Image, affine=AFFINE, scale=None):
    """Write an image whose stored numbers, times slope plus intercept, are the values."""
    slope, inter = scale or (1, 0)
    stored = np.asarray((values - inter) / slope, np.dtype(dtype).newbyteorder("="))
    if cls is nib.MGHImage:
        image = cls(stored, affine)
    else:
        header = cls.header_class(endianness="<" if np.dtype(dtype).isnative else ">")
        image = cls(stored, affine, header, dtype=stored.dtype)
    if scale:
        image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


def expected_of(values, zero_is_missing=True, threshold=-np.inf):
    flat = np.asarray(values, float).ravel(order="F")[MASK]
    missing = ~np.isfinite(flat) | (flat < threshold) | (zero_is_missing & (flat == 0))
    return np.where(missing, np.nan, flat)


def make_reader(path, **options):
    return ImageReader(read_header(path), *find_runs(MASK), **options)


def read(path, volume=0, **options):
    out = np.empty(MASK.sum())
    make_reader(path, **options).read(path, volume, out)
    return out


TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
BIG_ENDIAN = [">i2", ">i4", ">f4", ">f8"]


@pytest.mark.parametrize("dtype", TYPES + BIG_ENDIAN)
@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz"])
def test_every_type_and_byte_order_is_read(tmp_path, dtype, name):
    path = save(tmp_path / name, make_values(), dtype)
    header = read_header(path)
    assert header.dtype == np.dtype(dtype)
    assert (header.shape, header.n_volumes, header.n_values) == (SHAPE, 1, 24)
    np.testing.assert_array_equal(header.affine, AFFINE)
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("i.nii", nib.Nifti2Image),
        ("i.nii.gz", nib.Nifti2Image),
        ("i.img", nib.Nifti1Pair),
        ("i.hdr", nib.Nifti1Pair),
        ("i.img.gz", nib.Nifti1Pair),
        ("i.img", nib.Nifti2Pair),
        ("i.img", nib.Spm99AnalyzeImage),
        ("i.hdr", nib.AnalyzeImage),
        ("i.mgz", nib.MGHImage),
        ("i.mgh", nib.MGHImage),
    ],
)
def test_every_format_is_read(tmp_path, name, cls):
    path = save(tmp_path / name, make_values(), "int16", cls)
    header = read_header(path)
    assert header.shape == SHAPE
    # Analyze stores voxel sizes, MGH angles, in single precision.
    np.testing.assert_allclose(header.affine, nib.load(path).affine, atol=1e-5)
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img"])
@pytest.mark.parametrize("scale", [(0.5, 0), (1, -7), (0.5, 3), (-1, 50)])
def test_slope_and_intercept_come_before_the_test_for_zero(tmp_path, name, scale):
    values = make_values()
    values.flat[:2] = 0, 50  # 50 is stored as 0 where the intercept is 50
    cls = nib.Nifti1Pair if name == "i.img" else nib.Nifti1Image
    path = save(tmp_path / name, values, "int16", cls, scale=scale)
    assert nib.load(path).dataobj.slope == scale[0]
    np.testing.assert_array_equal(read(path), expected_of(values))


@pytest.mark.parametrize("slope", [0, np.nan])
def test_a_slope_of_zero_or_nan_means_no_scaling(tmp_path, slope):
    path = save(tmp_path / "i.nii", make_values(), "int16")
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, 5], "<f4").tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


def test_zero_can_be_data_and_values_below_a_threshold_are_missing(tmp_path):
    values = make_values().astype(float)
    values[0, 0, :] = np.nan, np.inf
    values[1, 0, :] = -np.inf, -5
    path = save(tmp_path / "i.nii", values)
    for options in [{"zero_is_missing": False}, {"threshold": 0.0}, {"threshold": 50.0}]:
        np.testing.assert_array_equal(read(path, **options), expected_of(values, **options))
    options = {"zero_is_missing": False, "threshold": 0.0}
    np.testing.assert_array_equal(read(path, **options), expected_of(values, **options))


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz"])
@pytest.mark.parametrize("scale", [None, (1, 0.5)])
def test_missing_and_infinite_values_are_counted(tmp_path, name, scale):
    values = np.where(make_values() == 0, 1, make_values()).astype(float)
    inside = np.flatnonzero(MASK)
    flat = values.ravel(order="F")
    flat[inside[:4]] = np.nan, np.inf, -np.inf, 0
    path = save(tmp_path / name, flat.reshape(SHAPE, order="F"), "float64", scale=scale)
    counts = make_reader(path).read(path, 0, np.empty(inside.size))
    assert counts == (4, 2, 1)


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 0, 2, 2, 1)])
def test_volumes_of_a_4d_image_are_read_in_any_order(tmp_path, name, order):
    values = make_values((*SHAPE, 5))
    cls = nib.Nifti1Pair if name == "i.img" else nib.Nifti1Image
    path = save(tmp_path / name, values, "int16", cls)
    header = read_header(path)
    assert (header.shape, header.n_volumes) == (SHAPE, 5)
    reader = make_reader(path)
    out = np.empty(MASK.sum())
    for volume in order:
        reader.read(path, volume, out)
        np.testing.assert_array_equal(out, expected_of(values[..., volume]))


@pytest.mark.parametrize("shape", [(4, 3, 2, 1), (4, 3, 2, 1, 1)])
def test_singleton_dimensions_at_the_end_are_ignored(tmp_path, shape):
    path = save(tmp_path / "i.nii", make_values().reshape(shape))
    header = read_header(path)
    assert (header.shape, header.n_volumes) == (SHAPE, 1)
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


def test_a_2d_image_is_one_slice(tmp_path):
    path = save(tmp_path / "i.nii", make_values((24, 1)), "int16")
    assert read_header(path).shape == (24, 1, 1)
    np.testing.assert_array_equal(read(path), expected_of(make_values((24, 1))))


@pytest.mark.parametrize("sizes", [[100], [348], [352], [400], [10, 400], list(range(50, 600, 50))])
def test_several_gzip_members_are_one_image(tmp_path, sizes):
    content = save(tmp_path / "i.nii", make_values(), "float64").read_bytes()
    parts = np.split(np.frombuffer(content, np.uint8), [s for s in sizes if s < len(content)])
    path = tmp_path / "i.nii.gz"
    path.write_bytes(b"".join(gzip.compress(part.tobytes()) for part in parts))
    assert read_header(path).shape == SHAPE
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


@pytest.mark.parametrize("name", ["i.nii", "i.nii.GZ"])
@pytest.mark.parametrize("n_volumes", [1, 40])
def test_a_compressed_image_is_never_read_as_if_it_were_not(tmp_path, name, n_volumes):
    values = make_values((*SHAPE, n_volumes))
    content = save(tmp_path / "plain.nii", values, "float64").read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, 0))  # as large as the voxels themselves
    try:
        found = read(path)
    except InputError as error:
        assert name in str(error)  # noqa: PT017 - either answer is right
    else:
        np.testing.assert_array_equal(found, expected_of(values[..., 0]))


def test_one_reader_reads_images_of_several_formats(tmp_path):
    paths = [
        save(tmp_path / "a.nii.gz", make_values(), "float64"),
        save(tmp_path / "b.nii", make_values(), "uint8"),
        save(tmp_path / "c.nii.gz", make_values(), ">i4"),
        save(tmp_path / "d.img", make_values(), "int16", nib.Nifti1Pair),
    ]
    reader = make_reader(paths[0])
    for path in paths:
        out = np.empty(MASK.sum(), np.float32)
        reader.read(path, 0, out)
        np.testing.assert_array_equal(out, expected_of(make_values()))


# Formats that nibabel knows, with the slopes and intercepts that each can have.
ANY_SCALE, SLOPE_ONLY, UNSCALED = [None, (0.5, 3)], [None, (0.5, 0)], [None]
OTHER_FORMATS = [
    ("i.nii", nib.Nifti2Image, ANY_SCALE),
    ("i.nii.gz", nib.Nifti2Image, ANY_SCALE),
    ("i.nii.bz2", nib.Nifti1Image, ANY_SCALE),
    ("i.hdr", nib.Nifti1Pair, ANY_SCALE),
    ("i.hdr.gz", nib.Nifti1Pair, ANY_SCALE),
    ("i.img.gz", nib.Nifti1Pair, ANY_SCALE),
    ("i.img", nib.Nifti2Pair, ANY_SCALE),
    ("i.HDR", nib.Nifti1Pair, ANY_SCALE),
    ("i.hdr", nib.Spm99AnalyzeImage, SLOPE_ONLY),
    ("i.img", nib.AnalyzeImage, UNSCALED),
    ("i.mgh", nib.MGHImage, UNSCALED),
    ("i.mgz", nib.MGHImage, UNSCALED),
]


@pytest.mark.parametrize("dtype", ["int16", ">i2", ">f4"])
@pytest.mark.parametrize(
    ("name", "cls", "scale"),
    [(name, cls, scale) for name, cls, scales in OTHER_FORMATS for scale in scales],
)
def test_any_format_and_order_gives_the_values_of_nibabel(tmp_path, name, cls, scale, dtype):
    for n_volumes, order in [((), (0,)), ((3,), (0, 1, 2)), ((3,), (1, 0, 2, 2))]:
        values = make_values((*SHAPE, *n_volumes))
        path = save(tmp_path / name, values, dtype, cls, scale=scale)
        expected = nib.load(path).get_fdata().reshape(*SHAPE, -1)
        np.testing.assert_array_equal(expected, values.reshape(*SHAPE, -1))
        reader = make_reader(path)
        out = np.empty(MASK.sum())
        for volume in order:
            reader.read(path, volume, out)
            np.testing.assert_array_equal(out, expected_of(expected[..., volume]))


@pytest.mark.parametrize("name", ["i.mgh", "i.mgz"])
def test_tags_after_the_voxels_of_freesurfer_are_passed_over(tmp_path, name):
    path = save(tmp_path / name, make_values(), "int16", nib.MGHImage)
    content = path.read_bytes()
    tags = np.random.default_rng(0).bytes(2**21)  # longer than what is read at once
    if name == "i.mgz":
        path.write_bytes(gzip.compress(gzip.decompress(content) + tags, 0))
    else:
        path.write_bytes(content + tags)
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


COMPRESSED = [
    ("i.nii.gz", nib.Nifti1Image),
    ("i.nii.gz", nib.Nifti2Image),
    ("i.img.gz", nib.Nifti1Pair),
    ("i.mgz", nib.MGHImage),
]


@pytest.mark.parametrize(("name", "cls"), COMPRESSED)
def test_volumes_asked_for_in_order_are_decompressed_once(tmp_path, name, cls):
    values = make_values((*SHAPE, 5))
    path = save(tmp_path / name, values, "int16", cls)
    content = gzip.compress(gzip.decompress(path.read_bytes()), 0, mtime=0)
    path.write_bytes(content)
    reader = make_reader(path)
    out = np.empty(MASK.sum())
    reader.read(path, 0, out)
    with path.open("r+b") as file:  # whoever starts anew meets this
        file.seek(15)
        file.write(b"x" * 100)
    for volume in range(1, 5):
        reader.read(path, volume, out)
        np.testing.assert_array_equal(out, expected_of(values[..., volume]))
    with pytest.raises(InputError, match=name):
        reader.read(path, 0, out)


@pytest.mark.filterwarnings("ignore:Using large vector Freesurfer hack")
@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz"])
def test_a_vector_longer_than_nifti1_allows_is_read_as_freesurfer_writes_it(tmp_path, name):
    values = make_values((40_962, 1, 1))
    path = save(tmp_path / name, values, "uint8")
    assert nib.load(path).header["dim"][1] == -1
    header = read_header(path)
    assert header.shape == values.shape
    out = np.empty(header.n_values)
    ImageReader(header, np.array([0]), np.array([header.n_values])).read(path, 0, out)
    np.testing.assert_array_equal(out, np.where(values == 0, np.nan, values).ravel())


# ------------------------------------------------------------------------------- damage


def assert_refused(path, message, header_too=False):
    """Reading must fail and name the file, whether or not its header can be read."""
    whole = save(path.with_name("whole.nii"), make_values(), "float64")
    reader = ImageReader(read_header(whole), *find_runs(MASK))
    with pytest.raises(InputError, match=message) as error:
        reader.read(path, 0, np.empty(MASK.sum()))
    assert str(path) in str(error.value)
    if header_too:
        with pytest.raises(InputError) as error:
            read_header(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("length", [0, 3, 100, 347])
@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz"])
def test_an_image_cut_within_its_header_is_refused_by_both_readers(tmp_path, name, length):
    content = save(tmp_path / "plain.nii", make_values(), "float64").read_bytes()[:length]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert_refused(path, ".", header_too=True)


@pytest.mark.parametrize("length", [348, 352, 400, 543])
@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz"])
def test_an_image_that_lacks_voxels_is_refused(tmp_path, name, length):
    content = save(tmp_path / "plain.nii", make_values(), "float64").read_bytes()
    assert len(content) == 544
    path = tmp_path / name
    path.write_bytes(gzip.compress(content[:length]) if name.endswith(".gz") else content[:length])
    assert_refused(path, "is damaged.*restore it")


def test_a_compressed_image_cut_short_anywhere_is_refused(tmp_path):
    content = save(tmp_path / "plain.nii", make_values(), "float64").read_bytes()
    compressed = gzip.compress(content)
    path = tmp_path / "i.nii.gz"
    for length in range(len(compressed)):
        path.write_bytes(compressed[:length])
        assert_refused(path, ".")


def test_any_flipped_byte_of_a_compressed_image_is_noticed_or_harmless(tmp_path):
    rng = np.random.default_rng(0)
    content = save(tmp_path / "plain.nii", make_values(), "float64").read_bytes()
    compressed = bytearray(gzip.compress(content, mtime=0))
    path = tmp_path / "i.nii.gz"
    refused = 0
    reader = make_reader(tmp_path / "plain.nii")
    out = np.empty(MASK.sum())
    for position in range(len(compressed)):
        damaged = compressed.copy()
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            reader.read(path, 0, out)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017 - some bytes matter, some do not
            refused += 1
        else:  # time, operating system and the like
            assert position < 10, position
            np.testing.assert_array_equal(out, expected_of(make_values()))
    assert refused >= len(compressed) - 10


def test_a_wrong_checksum_or_length_alone_is_noticed(tmp_path):
    content = save(tmp_path / "plain.nii", make_values(), "float64").read_bytes()
    for position in (-8, -4):
        compressed = bytearray(gzip.compress(content))
        compressed[position] ^= 1
        path = tmp_path / "i.nii.gz"
        path.write_bytes(compressed)
        assert_refused(path, "is damaged")


def gzip_member(content, level=6, flags=0, fields=b""):
    """Return a gzip file with optional fields in its header, as RFC 1952 has them."""
    body = zlib.compressobj(level, wbits=-15)
    start = bytes([31, 139, 8, flags, 0, 0, 0, 0, 0, 255]) + fields
    if flags & 2:  # the checksum of the header
        start += (zlib.crc32(start) & 0xFFFF).to_bytes(2, "little")
    trailer = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    return start + body.compress(content) + body.flush() + trailer


def assert_read_as_gzip_would(path, compressed, expected):
    """Python's own gzip, which is strict, is the oracle of what is whole."""
    path.write_bytes(compressed)
    out = np.empty(MASK.sum())
    try:
        is_whole = gzip.decompress(compressed) == gzip.decompress(expected)
    except (EOFError, OSError, zlib.error):
        is_whole = False
    reader = make_reader(path.with_name("plain.nii"))
    if is_whole:
        reader.read(path, 0, out)
        np.testing.assert_array_equal(out, expected_of(make_values()))
    else:
        with pytest.raises(InputError) as error:
            reader.read(path, 0, out)
        assert str(path) in str(error.value)
    return is_whole


def make_plain(tmp_path):
    return save(tmp_path / "plain.nii", make_values(), "float64").read_bytes()


GZIP_HEADERS = {
    "plain": (0, b""),
    "name": (8, b"brain.nii\0"),
    "comment": (16, b"a comment\0"),
    "name and comment": (24, b"brain.nii\0a comment\0"),
    "extra": (4, b"\x06\0BC\x02\0\0\0"),  # as bgzip writes it
    "checksum": (2, b""),
    "text": (1, b""),
}


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("header", GZIP_HEADERS)
def test_any_header_that_gzip_may_have_is_read(tmp_path, header, level):
    content = make_plain(tmp_path)
    compressed = gzip_member(content, level, *GZIP_HEADERS[header])
    assert assert_read_as_gzip_would(tmp_path / "i.nii.gz", compressed, compressed)
    for length in (*range(1, 60), *range(len(compressed) - 20, len(compressed))):
        assert not assert_read_as_gzip_would(tmp_path / "i.nii.gz", compressed[:length], compressed)


@pytest.mark.parametrize(
    ("n_volumes", "extra", "at_once"), [(1, b"", True), (2, b"", False), (1, bytes(8), False)]
)
def test_only_a_plain_image_of_one_volume_is_decompressed_at_once(
    tmp_path, n_volumes, extra, at_once
):
    path = save(tmp_path / "i.nii.gz", make_values((*SHAPE, n_volumes)), "int16")
    path.write_bytes(path.read_bytes() + extra)
    assert (_decompress_at_once(path) is not None) == at_once


ADDITIONS = {  # to a member that is whole, and whether gzip takes what comes of it
    "nothing": (lambda member: member, True),
    "zeros": (lambda member: member + bytes(512), True),
    "an empty member": (lambda member: member + gzip.compress(b""), True),
    "an empty member in front": (lambda member: gzip.compress(b"") + member, True),
    "itself": (lambda member: member + member, False),
    "another member": (lambda member: member + gzip.compress(bytes(544)), False),
    "its trailer": (lambda member: member + member[-8:], False),
    "its length": (lambda member: member + member[-4:], False),
    "junk": (lambda member: member + b"junk", False),
    "junk and its trailer": (lambda member: member + b"junk" + member[-8:], False),
    "junk and its length": (lambda member: member + b"junk" + member[-4:], False),
    "a wrong length": (lambda member: member[:-4] + b"\x21\2\0\0", False),
    "a length beyond 4 GB": (lambda member: member[:-1] + b"\1", False),
    "the trailer of another": (lambda member: member[:-8] + gzip.compress(bytes(544))[-8:], False),
}


@pytest.mark.parametrize("addition", ADDITIONS)
@pytest.mark.parametrize("level", [0, 6])
def test_whatever_follows_a_compressed_image_is_judged_as_gzip_does(tmp_path, addition, level):
    member = gzip_member(make_plain(tmp_path), level)
    change, is_whole = ADDITIONS[addition]
    path = tmp_path / "i.nii.gz"
    assert assert_read_as_gzip_would(path, change(member), member) == is_whole


@pytest.mark.parametrize("level", [0, 6])
def test_bits_flipped_anywhere_are_noticed_as_gzip_does(tmp_path, level):
    rng = np.random.default_rng(level)
    member = gzip_member(make_plain(tmp_path), level)
    for _ in range(300):
        damaged = np.frombuffer(member, np.uint8).copy()
        for bit in rng.integers(10 * 8, 8 * len(member), rng.integers(1, 4)):
            damaged[bit // 8] ^= 1 << (bit % 8)
        assert_read_as_gzip_would(tmp_path / "i.nii.gz", damaged.tobytes(), member)


@pytest.mark.parametrize("change", [(40, 9), (42, 0), (70, 231), (108, 0)])
def test_an_image_whose_header_became_another_since_it_was_planned_is_refused(tmp_path, change):
    position, value = change  # dimensions, their number, data type, offset
    content = bytearray(make_plain(tmp_path))
    content[position : position + 2] = np.array(value, "<i2").tobytes()
    content[position + 2 : position + 4] = bytes(2 * (position == 108))
    for level in (0, 6):
        path = tmp_path / f"{level}.nii.gz"
        path.write_bytes(gzip_member(content, level))
        assert_refused(path, ".")


def flip(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position:][1:]


@pytest.mark.parametrize(
    ("name", "damaged", "cls"),
    [(name, name, cls) for name, cls in COMPRESSED]
    + [("i.hdr.gz", "i.img.gz", nib.Nifti1Pair), ("i.hdr.gz", "i.hdr.gz", nib.Nifti1Pair)],
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: flip(content, -200),
        lambda content: flip(content, -8),
        lambda content: flip(content, -4),
        lambda content: content[:-8],
    ],
    ids=["flipped bit", "wrong checksum", "wrong length", "no trailer"],
)
def test_damage_that_only_the_trailer_shows_is_noticed(tmp_path, name, damaged, cls, damage):
    values = make_values((64, 64, 40))  # so large that reading all voxels is not reading all bytes
    expected = read_header(save(tmp_path / "whole.nii", values))
    path = save(tmp_path / name, values, "int16", cls)
    content = gzip.decompress((tmp_path / damaged).read_bytes())
    # Not compressed further, so that a flipped bit is one of a voxel.
    (tmp_path / damaged).write_bytes(gzip.compress(content, 0))
    reader = ImageReader(expected, np.array([0]), np.array([values.size]))
    out = np.empty(values.size)
    reader.read(path, 0, out)
    (tmp_path / damaged).write_bytes(damage(gzip.compress(content, 0)))
    with pytest.raises(InputError, match=f"{name} is damaged"):
        reader.read(path, 0, out)
    with pytest.raises(InputError, match=f"analysis_mask: .*{name} is damaged"):
        read_mask(path, expected, "analysis_mask")


@pytest.mark.parametrize("damage", ["flipped bit", "cut"])
def test_damage_to_a_later_block_of_a_bzip2_file_is_noticed(tmp_path, damage):
    values = make_values((*SHAPE, 9000))
    content = save(tmp_path / "i.nii", values, "uint8").read_bytes()
    content = bz2.compress(content, 1)  # several blocks of 100 kB
    path = tmp_path / "i.nii.bz2"
    path.write_bytes(content)
    reader = make_reader(path)
    out = np.empty(MASK.sum())
    reader.read(path, 8999, out)
    np.testing.assert_array_equal(out, expected_of(values[..., 8999]))
    path.write_bytes(content[:-500] if damage == "cut" else flip(content, -500))
    with pytest.raises(InputError, match=r"i\.nii\.bz2"):
        reader.read(path, 8999, out)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("i.nii", nib.Nifti1Image),
        ("i.nii", nib.Nifti2Image),
        ("i.img", nib.Nifti1Pair),
        ("i.hdr", nib.Nifti1Pair),
        ("i.img", nib.AnalyzeImage),
        ("i.mgh", nib.MGHImage),
    ],
)
@pytest.mark.parametrize("volumes", [(), (3,)], ids=["3D", "4D"])
def test_voxels_that_are_missing_show_before_they_are_read(tmp_path, name, cls, volumes):
    values = make_values((*SHAPE, *volumes))
    path = save(tmp_path / name, values, "int16", cls)
    voxels = path.with_name("i.img" if name == "i.hdr" else name)
    header = read_header(path)
    end = header.offset + 2 * values.size  # of the voxels; tags may follow
    content = voxels.read_bytes()[:end]
    voxels.write_bytes(content)
    check_size(path, header, stat_file(path)[0])
    voxels.write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"{voxels.name} is damaged .1 bytes of voxels are"):
        check_size(path, header, stat_file(path)[0])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        make_reader(path).read(path, header.n_volumes - 1, np.empty(MASK.sum()))


@pytest.mark.parametrize("volume", [0, 3])
def test_damage_at_the_end_of_a_4d_image_is_noticed_at_its_last_volume_or_before(tmp_path, volume):
    values = make_values((*SHAPE, 4))
    compressed = bytearray(gzip.compress(save(tmp_path / "p.nii", values).read_bytes()))
    compressed[-8] ^= 1
    path = tmp_path / "i.nii.gz"
    path.write_bytes(compressed)
    reader = make_reader(path)

    def read_the_rest():
        for i in range(volume, 4):
            reader.read(path, i, np.empty(MASK.sum()))

    with pytest.raises(InputError, match="is damaged"):
        read_the_rest()


@pytest.mark.parametrize(
    "junk",
    [b"junk", b"\x1f\x8b", gzip.compress(b"junk", mtime=0)],
    ids=["text", "gzip magic", "gzip member"],
)
def test_junk_after_a_compressed_image_is_noticed(tmp_path, junk):
    content = save(tmp_path / "plain.nii", make_values(), "float64").read_bytes()
    path = tmp_path / "i.nii.gz"
    path.write_bytes(gzip.compress(content) + junk)
    assert_refused(path, "is damaged")


def test_zeros_after_a_compressed_image_are_padding(tmp_path):
    path = save(tmp_path / "i.nii.gz", make_values())
    path.write_bytes(path.read_bytes() + bytes(512))
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


def test_bytes_after_a_plain_image_change_nothing(tmp_path):
    path = save(tmp_path / "i.nii", make_values())
    path.write_bytes(path.read_bytes() + b"junk")
    np.testing.assert_array_equal(read(path), expected_of(make_values()))


def test_header_extensions_are_passed_over(tmp_path):
    image = nib.Nifti1Image(make_values().astype(np.int16), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"hello" * 99))
    for name in ("i.nii", "i.nii.gz"):
        nib.save(image, tmp_path / name)
        np.testing.assert_array_equal(read(tmp_path / name), expected_of(make_values()))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("i.nii", b""),
        ("i.nii", b"hello" * 200),
        ("i.nii", bytes(1000)),
        ("i.nii.gz", b""),
        ("i.nii.gz", b"hello" * 200),
        ("i.nii.gz", gzip.compress(b"", mtime=0)),
        ("i.nii.gz", gzip.compress(b"hello" * 200, mtime=0)),
        ("i.nii.gz", zlib.compress(b"hello" * 200)),
        ("i.txt", b"hello" * 200),
        ("i.img", bytes(1000)),
        ("i", b"hello" * 200),
    ],
)
def test_a_file_that_is_no_image_is_refused_by_both_readers(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert_refused(path, ".", header_too=True)


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img"])
def test_a_file_that_does_not_exist_or_is_a_folder_is_named(tmp_path, name):
    path = tmp_path / name
    assert_refused(path, "does not exist", header_too=True)
    path.mkdir()
    with pytest.raises(InputError, match=f"{name} cannot be read: Is a directory"):
        read_header(path)


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img", "i.hdr"])
def test_a_folder_in_place_of_an_image_is_named_by_the_reader(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "i.img").mkdir(exist_ok=True)
    assert_refused(tmp_path / name, r"cannot be read \(Is a directory\)")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc: run on Linux")
def test_an_image_whose_disk_fails_is_named(tmp_path):
    path = tmp_path / "i.nii"
    path.symlink_to("/proc/self/mem")  # nothing is mapped where it starts
    assert_refused(path, "Input/output error", header_too=True)


@pytest.mark.parametrize("kept", ["i.img", "i.hdr"])
def test_half_of_a_pair_is_refused(tmp_path, kept):
    save(tmp_path / "i.img", make_values(), "int16", nib.Nifti1Pair)
    for name in {"i.img", "i.hdr"} - {kept}:
        (tmp_path / name).unlink()
    assert_refused(tmp_path / kept, ".")


def test_an_uncompressed_file_named_gz_is_refused(tmp_path):
    path = tmp_path / "i.nii.gz"
    path.write_bytes(save(tmp_path / "i.nii", make_values()).read_bytes())
    assert_refused(path, r"i\.nii\.gz", header_too=True)
    with pytest.raises(InputError, match="not compressed"):
        read_header(path)


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128", "rgb"])
def test_values_that_are_no_real_numbers_are_refused(tmp_path, name, dtype):
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    cls = nib.Nifti1Pair if name == "i.img" else nib.Nifti1Image
    nib.save(cls(np.zeros(SHAPE, rgb if dtype == "rgb" else dtype), AFFINE), tmp_path / name)
    with pytest.raises(InputError, match="real numbers"):
        read_header(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "cls", "position", "dtype"),
    [
        ("i.nii", nib.Nifti1Image, 70, "<i2"),
        ("i.nii", nib.Nifti2Image, 12, "<i2"),
        ("i.hdr", nib.AnalyzeImage, 70, "<i2"),
        ("i.mgh", nib.MGHImage, 20, ">i4"),
    ],
)
def test_a_header_of_a_type_that_does_not_exist_is_refused(tmp_path, name, cls, position, dtype):
    path = save(tmp_path / name, make_values(), "int16", cls)
    content = bytearray(path.read_bytes())
    code = np.array(999, dtype).tobytes()
    content[position : position + len(code)] = code
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not an image that can be read: .*code"):
        read_header(path)


def make_surface():
    return nib.GiftiImage(darrays=[nib.gifti.GiftiDataArray(np.ones(5, np.float32))])


def make_grayordinates():
    voxels = nib.cifti2.BrainModelAxis.from_mask(np.ones(SHAPE), "thalamus_left", AFFINE)
    return nib.Cifti2Image(np.ones((1, 24)), (nib.cifti2.ScalarAxis(["one"]), voxels))


@pytest.mark.parametrize(
    ("name", "make"), [("i.gii", make_surface), ("i.dscalar.nii", make_grayordinates)]
)
def test_an_image_that_is_not_one_of_volumes_is_refused(tmp_path, name, make):
    image = make()
    nib.save(image, tmp_path / name)
    assert_refused(tmp_path / name, f"{type(image).__name__}, not one of volumes", header_too=True)


@pytest.mark.parametrize("dims", [[3, 4, 0, 2], [3, 4, -3, 2], [0, 1, 1, 1], [9, 1, 1, 1]])
def test_a_header_of_an_impossible_shape_is_refused(tmp_path, dims):
    path = save(tmp_path / "i.nii", make_values())
    content = bytearray(path.read_bytes())
    content[40:48] = np.array(dims, "<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"i\.nii"):
        read_header(path)


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img"])
def test_an_image_whose_grid_is_not_the_planned_one_is_refused(tmp_path, name):
    expected = read_header(save(tmp_path / "expected.nii", make_values()))
    cls = nib.Nifti1Pair if name == "i.img" else nib.Nifti1Image
    path = tmp_path / name

    def assert_refused_as_changed(volume, message):
        reader = ImageReader(expected, *find_runs(MASK))
        for _ in range(2):  # the second attempt too
            with pytest.raises(InputError, match=message):
                reader.read(path, volume, np.empty(MASK.sum()))

    save(path, make_values((2, 3, 4)), "int16", cls)
    assert_refused_as_changed(0, r"shape is \(2, 3, 4\), expected \(4, 3, 2\)")
    save(path, make_values(), "int16", cls, affine=np.eye(4))
    assert_refused_as_changed(0, "affine")
    save(path, make_values(), "int16", cls)
    assert_refused_as_changed(1, "has 1 volumes")


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img"])
@pytest.mark.parametrize("n_volumes", [1, 3])
def test_a_volume_that_an_image_does_not_have_is_refused_also_after_a_good_one(
    tmp_path, name, n_volumes
):
    """An image that has passed once is not looked at again, but its volumes are counted."""
    cls = nib.Nifti1Pair if name == "i.img" else nib.Nifti1Image
    path = save(tmp_path / name, make_values((*SHAPE, n_volumes)), "int16", cls)
    reader = make_reader(path)
    out = np.empty(MASK.sum())
    for volume in range(n_volumes):
        reader.read(path, volume, out)
    for volume in (n_volumes, n_volumes + 5):
        with pytest.raises(InputError, match=f"it has {n_volumes} volumes"):
            reader.read(path, volume, out)


@pytest.mark.parametrize(
    ("dtype", "scale", "fits"),
    [
        ("uint8", None, True),
        ("int16", None, True),
        (">i2", None, True),
        ("float32", None, True),
        ("float64", None, False),
        ("int32", None, False),
        ("int64", None, False),
        ("int16", (0.1, 0), False),
    ],
)
def test_float32_is_used_only_where_it_holds_every_value(tmp_path, dtype, scale, fits):
    header = read_header(save(tmp_path / "i.nii", make_values(), dtype, scale=scale))
    assert header.fits_float32 == fits


def test_large_integers_are_read_exactly(tmp_path):
    values = np.full(SHAPE, 2**31 - 1) - make_values()
    path = tmp_path / "i.nii"
    nib.save(nib.Nifti1Image(values.astype(np.int32), AFFINE), path)
    np.testing.assert_array_equal(read(path), expected_of(values))
