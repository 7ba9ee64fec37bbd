"""Exact zeros that are data: the user is told, whoever runs the nodes, and only then."""

import nibabel as nib
import numpy as np
import pytest
import yaml

from nipype_blm.interfaces import BLM

N = 30
FIELD = "zero_is_missing: false"


def make_counts(rng):
    """Return counts of which 45 % are 0."""
    return np.where(rng.random((N, 4, 3, 2)) < 0.45, 0, rng.gamma(2, 1, (N, 4, 3, 2)))


def make_lesions(rng):
    return (rng.random((N, 4, 3, 2)) < 0.4).astype(float)


def make_atlases(rng):
    """Return 0/1 masks of one structure that overlap nearly everywhere."""
    masks = np.ones((N, 4, 3, 2))
    masks[rng.random(masks.shape) < 0.03] = 0
    return masks


def make_one_scattered(rng):
    values = rng.normal(size=(N, 4, 3, 2))
    values[7, 1:3] *= rng.random((2, 3, 2)) < 0.5
    return values


def write_study(study, values, **changes):
    """Write the images of a study, and a design of two columns."""
    for i, image in enumerate(values):
        study.save_image(f"y{i:02}.nii", image)
    study.write("Y.txt", "".join(f"y{i:02}.nii\n" for i in range(len(values))))
    study.write_design(np.c_[np.ones(len(values)), np.arange(len(values)) % 2])
    contrasts = [{"c1": {"name": "group", "vector": [0, 1]}}]
    return study.configure(contrasts=contrasts, **changes)


def notices_of(result):
    return [line for line in result.err.splitlines() if line.startswith("notice: ")]


CUTS = {"images_per_batch": 11, "voxels_per_block": 7}


@pytest.mark.parametrize("cuts", [{}, CUTS], ids=["whole", "cut"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            make_counts,
            "Of the 24 voxels with data in a tenth of the images, ",
        ),
        (make_one_scattered, "y07.nii (line 8 of "),
    ],
)
def test_zeros_that_look_like_data_are_told_of_once(study, make, text, cuts):
    values = make(np.random.default_rng(0))
    config = write_study(study, values, **cuts)
    result = study.command(config)
    assert result.code == 0
    assert result.err.count(FIELD) == 1
    [notice] = notices_of(result)
    assert text in notice
    assert study.sidecar("blm_vox_n")["Notices"] == [notice.removeprefix("notice: ")]
    again = study.command(config, "--quiet")  # nothing is fitted, and the zeros are still there
    assert again.err.splitlines() == [notice]


def test_any_cut_into_batches_and_blocks_counts_the_same(study):
    values = make_one_scattered(np.random.default_rng(0))
    values[20, :, 1] = 0
    one = notices_of(study.command(write_study(study, values)))
    other = notices_of(study.command(write_study(study, values, images_per_batch=7)))
    assert one == other != []


@pytest.mark.parametrize("make", [make_lesions, make_atlases])
def test_when_zeros_leave_no_voxel_the_error_says_so(study, make):
    values = make(np.random.default_rng(0))
    result = study.command(write_study(study, values))
    assert result.code == 1
    [error] = result.errors
    assert "no voxel could be fitted" in error
    assert "exact zeros" in error
    assert result.err.count(FIELD) == 1
    assert not notices_of(result)
    result = study.command(write_study(study, values, zero_is_missing=False))
    assert result.code == 0
    assert FIELD not in result.err
    assert "Notices" not in study.sidecar("blm_vox_n")


def as_nan(values):
    return np.where(values == 0, np.nan, values), {}


def below_the_threshold(values):
    return values, {"data_mask_thresh": 1e-6}


def outside_their_masks(values):
    return values, {"data_mask_files": "M.txt"}


def as_data(values):
    return values, {"zero_is_missing": False}


@pytest.mark.parametrize("way", [as_nan, below_the_threshold, outside_their_masks, as_data])
def test_nothing_is_said_of_values_that_are_missing_for_another_reason(study, way):
    values = make_counts(np.random.default_rng(0))
    for i, mask in enumerate(values != 0):
        study.save_image(f"m{i:02}.nii", mask)
    study.write("M.txt", "".join(f"m{i:02}.nii\n" for i in range(N)))
    values, changes = way(values)
    result = study.command(write_study(study, values, **changes))
    assert result.code == 0
    assert not notices_of(result)


def test_zeros_inside_the_masks_of_images_are_told_of(study):
    values = make_counts(np.random.default_rng(0))
    for i in range(N):
        study.save_image(f"m{i:02}.nii", np.ones(values.shape[1:]))
    study.write("M.txt", "".join(f"m{i:02}.nii\n" for i in range(N)))
    result = study.command(write_study(study, values, data_mask_files="M.txt"))
    assert len(notices_of(result)) == 1


@pytest.mark.parametrize(("slope", "inter"), [(0.5, 0), (0.5, -5)])
def test_zeros_after_scaling_count(study, slope, inter):
    values = np.round(2 * make_counts(np.random.default_rng(0))) / 2
    config = write_study(study, values)
    for i, image in enumerate(values):
        stored = nib.Nifti1Image(np.int16((image - inter) / slope), np.diag([-2, 2, 3, 1]))
        stored.header.set_slope_inter(slope, inter)
        nib.save(stored, study.folder / f"y{i:02}.nii")
    assert len(notices_of(study.command(config))) == 1


def test_the_driver_tells_of_zeros_that_a_node_elsewhere_has_found(study):
    config = write_study(study, make_counts(np.random.default_rng(0)), MAXMEM="2**29")
    study.write("arguments.yml", yaml.safe_dump({"n_procs": 2}))
    arguments = ("--plugin", "MultiProc", "--plugin-args", study.folder / "arguments.yml")
    result = study.command(config, *arguments)
    assert result.code == 0, result.err
    assert len(notices_of(result)) == 1


def test_a_node_hands_on_what_there_is_to_be_known(study, monkeypatch, caplog):
    monkeypatch.chdir(study.folder)
    write_study(study, make_counts(np.random.default_rng(0)))
    images = [str(study.folder / f"y{i:02}.nii") for i in range(N)]
    node = BLM(in_files=images, design_file=str(study.folder / "X.csv"))
    node.inputs.contrasts = [{"name": "group", "vector": [0, 1]}]
    [notice] = node.run().outputs.notices
    assert FIELD in notice
    assert [r.message for r in caplog.records if r.name.startswith("nipype_blm")] == [notice]
    node.inputs.zero_is_missing = False
    assert node.run().outputs.notices == []
