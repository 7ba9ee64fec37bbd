"""Images of every kind with the same values give the same maps."""

import gzip
import itertools
import shutil

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1.0]])
N = 12


@pytest.fixture
def expected(study):
    maps = study.maps_of()
    shutil.rmtree(study.outdir)
    assert np.isnan(maps["blm_vox_conT"]).sum() == 0
    assert maps["blm_vox_mask"].sum() > 10
    return maps


def save(path, values, dtype="float32", cls=nib.Nifti1Image, slope=1.0, inter=0.0, affine=AFFINE):
    """Write an image whose stored numbers, times slope plus intercept, are the values."""
    stored = np.asarray((values - inter) / slope, np.dtype(dtype).newbyteorder("="))
    if cls is nib.MGHImage:
        image = cls(stored, affine)
    else:
        header = cls.header_class(endianness="<" if np.dtype(dtype).isnative else ">")
        image = cls(stored, affine, header, dtype=stored.dtype)
        if (slope, inter) != (1, 0):
            image.header.set_slope_inter(slope, inter)
    nib.save(image, path)


def save_all(study, extension=".nii", values=None, **options):
    """Write every image in another way, and list them."""
    values = study.values if values is None else values
    for i in range(N):
        save(study.folder / f"i{i:02}{extension}", values[i], **options)
    study.write("Y.txt", "".join(f"i{i:02}{extension}\n" for i in range(N)))


def assert_maps_agree(study, expected, **changes):
    maps = study.maps_of(**changes)
    assert maps.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype.kind in "iu":
            np.testing.assert_array_equal(maps[name], values, err_msg=name)
        else:
            # Values are exact in each type; staging in double precision and maps in single
            # precision leave a few units in the last place.
            np.testing.assert_allclose(maps[name], values, rtol=2e-6, atol=1e-6, err_msg=name)


TYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]


@pytest.mark.parametrize("dtype", [*TYPES, ">i2", ">i4", ">f4", ">f8"])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_every_type_and_byte_order_gives_the_same_maps(study, expected, dtype, extension):
    save_all(study, extension, dtype=dtype)
    assert_maps_agree(study, expected)


@pytest.mark.parametrize(
    ("slope", "inter"), [(0.5, 0), (1, -50), (0.25, 7), (-1, 50), (1, 50), (0.1, 0)]
)
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_scaled_integers_give_the_same_maps_and_zero_is_tested_after_scaling(
    study, expected, slope, inter, extension
):
    assert ((study.values - inter) == 0).any() == (inter >= 0)  # some data are stored as 0
    save_all(study, extension, dtype="int16", slope=slope, inter=inter)
    assert_maps_agree(study, expected)


@pytest.mark.parametrize(
    ("extension", "cls"),
    [
        (".nii", nib.Nifti2Image),
        (".nii.gz", nib.Nifti2Image),
        (".img", nib.Nifti1Pair),
        (".hdr", nib.Nifti1Pair),
        (".img", nib.Nifti2Pair),
        (".mgz", nib.MGHImage),
    ],
)
def test_every_format_gives_the_same_maps(study, expected, extension, cls):
    save_all(study, extension, cls=cls)
    assert_maps_agree(study, expected)


@pytest.mark.parametrize("cls", [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage])
def test_analyze_images_give_the_same_maps(study, expected, cls):
    # Analyze knows voxel sizes only, or an origin in whole voxels.
    save_all(study, ".img", dtype="int16", cls=cls)
    assert_maps_agree(study, expected)


def test_kinds_of_images_can_be_mixed(study, expected):
    kinds = [
        {"extension": ".nii", "dtype": "int16"},
        {"extension": ".nii.gz", "dtype": "float64"},
        {"extension": ".nii", "dtype": ">f4"},
        {"extension": ".img", "dtype": "int32", "cls": nib.Nifti1Pair},
        {"extension": ".nii.gz", "dtype": "int16", "slope": 0.5, "inter": 3},
        {"extension": ".nii", "dtype": "uint8", "cls": nib.Nifti2Image},
    ]
    names = []
    for i in range(N):
        options = dict(kinds[i % len(kinds)])
        names.append(f"i{i:02}{options.pop('extension')}")
        save(study.folder / names[-1], study.values[i], **options)
    study.write("Y.txt", "\n".join(names))
    assert_maps_agree(study, expected)


def test_compressed_images_of_several_members_give_the_same_maps(study, expected):
    for i in range(N):
        content = (study.folder / f"s{i:02}.nii").read_bytes()
        cuts = [*range(0, len(content), 101), len(content)]
        members = [content[a:b] for a, b in itertools.pairwise(cuts)]
        study.write(f"i{i:02}.nii.gz", b"".join(map(gzip.compress, members)))
    study.write("Y.txt", "".join(f"i{i:02}.nii.gz\n" for i in range(N)))
    assert_maps_agree(study, expected)


@pytest.mark.parametrize("shape", [(4, 3, 2, 1), (4, 3, 2, 1, 1)])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_singleton_dimensions_change_nothing(study, expected, shape, extension):
    save_all(study, extension, values=study.values.reshape(N, *shape))
    assert_maps_agree(study, expected)


FOUR_D = [("y.nii", nib.Nifti1Image), ("y.nii.gz", nib.Nifti1Image), ("y.img", nib.Nifti1Pair)]


@pytest.mark.parametrize(("name", "cls"), FOUR_D)
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_4d_image_gives_the_same_maps(study, expected, name, cls, listed, threads):
    save(study.folder / name, np.moveaxis(study.values, 0, -1), cls=cls)
    study.write("Y.txt", name)
    assert_maps_agree(
        study,
        expected,
        Y_files="Y.txt" if listed else name,
        numNodes=threads,
        images_per_batch=5,
    )


@pytest.mark.parametrize("name", ["y.nii", "y.nii.gz"])
def test_data_masks_may_be_one_4d_image(study, name):
    masks = np.random.default_rng(2).random(study.values.shape) < 0.8
    save(study.folder / name, np.moveaxis(masks, 0, -1), "uint8")
    study.maps_of(data_mask_files=name)
    n, beta, _ = study.fit(present=masks & (study.values != 0))
    np.testing.assert_array_equal(study.map("n"), n)
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("cut", ["4d", "list"])
@pytest.mark.parametrize("name", ["y.nii", "y.nii.gz"])
def test_damage_to_one_4d_image_is_noticed_and_no_map_appears(study, name, cut):
    save(study.folder / name, np.moveaxis(study.values, 0, -1), "float64")
    path = study.folder / name
    path.write_bytes(path.read_bytes()[:-20])
    study.write("Y.txt", name)
    result = study.run(Y_files=name if cut == "4d" else "Y.txt")
    assert result.code == 2
    assert f"{name} is damaged" in result.errors[0]
    assert study.results() == set()


@pytest.mark.parametrize("name", ["y.nii", "y.NII.GZ"])
def test_a_compressed_4d_image_is_never_read_as_if_it_were_not(study, expected, name):
    save(study.folder / "plain.nii", np.moveaxis(study.values, 0, -1), "float64")
    content = (study.folder / "plain.nii").read_bytes()
    study.write(name, gzip.compress(content, 0))
    result = study.run(Y_files=name)
    if result.code == 2:
        assert name in result.err
        assert study.results() == set()
    else:
        assert_maps_agree(study, expected, Y_files=name)


@pytest.mark.parametrize("listed", [".hdr", ".img"])
@pytest.mark.parametrize("replaced", [".hdr", ".img"])
def test_a_replaced_half_of_a_pair_is_noticed_by_the_next_run(study, listed, replaced):
    save_all(study, listed, dtype="int16", cls=nib.Nifti1Pair)
    study.maps_of()
    if replaced == ".img":
        study.values[3] = study.values[4][::-1]
        save(study.folder / "new.img", study.values[3], "int16", nib.Nifti1Pair)
    else:
        study.values[3] *= 2
        save(study.folder / "new.img", study.values[3], "int16", nib.Nifti1Pair, slope=2)
    shutil.copy(study.folder / f"new{replaced}", study.folder / f"i03{replaced}")
    study.maps_of()
    n, beta, _ = study.fit()
    np.testing.assert_array_equal(study.map("n"), n)
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Using large vector Freesurfer hack")
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_grid_longer_than_nifti1_allows_is_fitted(study, extension, cls):
    values = np.random.default_rng(0).integers(1, 100, (N, 40_000, 1, 1))
    save_all(study, extension, values=values, dtype="int16", cls=cls)
    assert study.run().code == 0
    beta = np.linalg.lstsq(study.X, values.reshape(N, -1))[0]
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta")[:, 0, 0], beta.T, rtol=1e-5, atol=1e-3)


# ---------------------------------------------------------------- what counts as missing


def assert_fits(study, present, values=None, **changes):
    study.maps_of(**changes)
    n, beta, resms = study.fit(present, values)
    assert np.isfinite(resms).sum() > 5
    np.testing.assert_array_equal(study.map("n"), n)
    np.testing.assert_array_equal(study.map("mask"), np.isfinite(resms))
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_are_missing_as_zeros_are(study, expected, dtype, missing):
    save_all(study, values=np.where(study.values == 0, missing, study.values), dtype=dtype)
    assert_maps_agree(study, expected)


def test_zero_can_be_data(study):
    study.values[:2] -= 3  # so that not all voxels with zeros are constant
    save_all(study, dtype="int16")
    study.values[:, 0, 0, 0] = np.arange(N) % 3
    save_all(study, dtype="int16")
    assert_fits(study, np.ones(study.values.shape, bool), zero_is_missing=False)


@pytest.mark.parametrize("threshold", [30, "3e1", "60/2"])
def test_values_below_the_threshold_are_missing_and_those_at_it_are_not(study, threshold):
    assert (study.values == 30).any()
    assert_fits(study, study.values >= 30, data_mask_thresh=threshold)


def test_a_negative_threshold_keeps_negative_values(study):
    study.values[study.values != 0] -= 50
    save_all(study, dtype="int16")
    present = (study.values != 0) & (study.values >= -20)
    assert_fits(study, present, data_mask_thresh=-20)


def test_the_threshold_applies_to_scaled_values(study):
    save_all(study, dtype="int16", slope=0.5, inter=100)
    assert_fits(study, study.values >= 30, data_mask_thresh=30)


@pytest.mark.parametrize("inside", [1, 255, 0.5, -2])
@pytest.mark.parametrize("outside", [0, np.nan])
def test_data_masks_mark_missing_values_and_never_scale_data(study, inside, outside):
    masks = np.random.default_rng(2).random(study.values.shape) < 0.8
    for i in range(N):
        save(study.folder / f"m{i:02}.nii.gz", np.where(masks[i], inside, outside))
    study.write("M.txt", "".join(f"m{i:02}.nii.gz\n\n" for i in range(N)))
    assert_fits(study, masks & (study.values != 0), data_mask_files="M.txt")


def test_data_masks_of_one_listed_file_belong_to_their_images_in_every_batch(study):
    masks = np.random.default_rng(2).random(study.values.shape) < 0.8
    for i in range(N):
        save(study.folder / f"m{i:02}.nii", masks[i], "uint8")
    study.write("M.txt", "".join(f"m{i:02}.nii\n" for i in range(N)))
    present = masks & (study.values != 0)
    assert_fits(study, present, data_mask_files="M.txt", images_per_batch=5, voxels_per_block=7)


@pytest.mark.parametrize("inside", [1, 255, 0.01, -3])
@pytest.mark.parametrize("outside", [0, np.nan])
def test_inside_the_analysis_mask_means_finite_and_not_zero(study, inside, outside):
    mask = np.random.default_rng(3).random((4, 3, 2)) < 0.7
    save(study.folder / "m.nii", np.where(mask, inside, outside))
    study.maps_of(analysis_mask="m.nii")
    n, beta, resms = study.fit()
    np.testing.assert_array_equal(study.map("n"), np.where(mask, n, 0))
    np.testing.assert_array_equal(study.map("mask"), mask & np.isfinite(resms))
    assert not study.map("status")[~mask].any()
    beta = np.where(mask[..., None], np.nan_to_num(beta), 0)
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), beta, rtol=2e-6, atol=1e-4)


def test_a_post_analysis_mask_takes_voxels_out_of_the_result_only(study):
    mask = np.random.default_rng(3).random((4, 3, 2)) < 0.6
    save(study.folder / "m.nii", mask * 255.0)
    study.maps_of(Missingness={"Masking": "m.nii"})
    n, _, resms = study.fit()
    np.testing.assert_array_equal(study.map("n"), n)
    np.testing.assert_array_equal(study.map("mask"), mask & np.isfinite(resms))
    status = study.map("status")
    assert (status[~mask & np.isfinite(resms)] == 15).all()
    for name in ("beta", "edf", "conT", "resms", "llh", "cov"):
        assert not study.map(name)[~mask].any(), name


@pytest.mark.parametrize(
    ("rules", "least"),
    [
        ({"MinN": 11}, 11),
        ({"minn": 11}, 11),
        ({"MinPercent": 0.9}, 11),
        ({"minpercent": "90%"}, 11),
        ({"MinPercent": "10%", "MinN": 12}, 12),
        ({"MinPercent": 1}, 12),
        ({"MinPercent": 0, "MinN": 0}, 5),
    ],
)
def test_voxels_with_too_few_images_are_dropped_with_a_status(study, rules, least):
    study.maps_of(Missingness=rules)
    n, _, resms = study.fit()
    kept = np.isfinite(resms) & (n >= least)
    assert kept.any()
    np.testing.assert_array_equal(study.map("mask"), kept)
    np.testing.assert_array_equal(study.map("n"), n)
    below = (n > 4) & (n < least)
    assert below.any() == (least > 5)
    assert (study.map("status")[below] == 11).all()


def test_028_of_50_images_are_14(study):
    values = np.random.default_rng(0).integers(1, 100, (3, 1, 1, 50))
    values[0, 0, 0, 13:] = 0
    values[1, 0, 0, 14:] = 0
    save(study.folder / "y.nii", values)
    study.write_design(np.c_[np.ones(50), np.random.default_rng(1).normal(size=(50, 2))])
    study.maps_of(Y_files="y.nii", Missingness={"MinPercent": 0.28})
    assert study.map("n").ravel().tolist() == [13, 14, 50]
    assert study.map("mask").ravel().tolist() == [0, 1, 1]
