"""What a plan holds is what the files of a study say: masks, precision, order."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nipype_blm.core.factors import RandomFactor
from nipype_blm.data.manifest import read_manifest
from nipype_blm.errors import InputError
from nipype_blm.stages.images import list_files
from nipype_blm.stages.plan import write_plan

N_OBS, SHAPE = 12, (4, 3, 2)
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(N_OBS), RNG.normal(size=(N_OBS, 1))])
VALUES = RNG.normal(5, 1, (N_OBS, *SHAPE))


def save(path, values, dtype, scale=None):
    image = nib.Nifti1Image(np.asarray(values, dtype), np.eye(4))
    if scale is not None:
        image.header.set_slope_inter(*scale)
    nib.save(image, path)
    return str(path)


def test_both_masks_are_taken_in_the_order_of_the_file(prepare, tmp_path):
    inside, allowed = np.random.default_rng(1).random((2, *SHAPE)) < 0.6
    masks = {
        "analysis_mask": save(tmp_path / "a.nii", inside, np.uint8),
        "Missingness": {"Masking": save(tmp_path / "m.nii", allowed, np.uint8)},
    }
    spec = prepare(VALUES, X, **masks).spec
    assert_array_equal(spec.space.mask, inside.ravel(order="F"))
    assert_array_equal(spec.allowed, allowed.ravel(order="F")[inside.ravel(order="F")])
    assert spec.n_voxels == inside.sum()


@pytest.mark.parametrize("position", [0, 5, 11])
@pytest.mark.parametrize(
    ("dtype", "scale", "staged", "maps"),
    [
        (np.uint8, None, "float32", "float32"),
        (np.int16, None, "float32", "float32"),
        (np.float32, None, "float32", "float32"),
        (np.int16, (0.1, 3), "float64", "float32"),
        (np.int32, None, "float64", "float32"),
        (np.float64, None, "float64", "float64"),
    ],
)
def test_one_image_of_any_position_decides_on_the_precision(
    prepare, tmp_path, position, dtype, scale, staged, maps
):
    values = np.full(SHAPE, 5) + np.arange(24).reshape(SHAPE)
    names = [save(tmp_path / f"i{i}.nii", values, np.float32) for i in range(N_OBS)]
    save(tmp_path / f"i{position}.nii", values, dtype, scale)
    spec = prepare(VALUES, X, Y_files=names).spec
    assert (spec.staged_dtype, spec.map_dtype) == (staged, maps)


def test_batches_cover_the_images_in_the_order_of_the_design(prepare, tmp_path):
    run = prepare(VALUES, X, images_per_batch=5)
    files = write_plan(run, tmp_path)
    batches = [read_manifest(path) for path in files.batch_files]
    names = [entry.image.name for batch in batches for entry in batch]
    assert names == [f"y{i:04}.nii" for i in range(N_OBS)]
    assert [len(batch) for batch in batches] == [5, 5, 2]


def test_rows_are_ordered_by_the_factor_with_the_most_columns_of_z(prepare):
    """Whose levels lie side by side; within a level the order of the design stays."""
    level = np.array([3, 1, 0, 2, 3, 1, 0, 2, 3, 1, 0, 2], np.int32)
    run = prepare(VALUES, X, RandomFactor("subject", level, X[:, :1]))
    numbers = [int(entry.image.name[1:5]) for entry in run.images]
    assert numbers == sorted(range(N_OBS), key=lambda i: (level[i], i))
    assert_array_equal(run.spec.factors[0].level, np.sort(level))


def test_faults_of_all_kinds_are_reported_together(prepare, tmp_path):
    images = [save(tmp_path / f"i{i}.nii", VALUES[i], np.float32) for i in range(N_OBS)]
    (tmp_path / "i3.nii").unlink()
    save(tmp_path / "i7.nii", np.ones((2, 2, 2)), np.float32)
    mask = save(tmp_path / "a.nii", np.zeros(SHAPE), np.uint8)
    with pytest.raises(InputError) as error:
        prepare(
            VALUES,
            np.column_stack([X, X[:, 1]]),
            Y_files=images,
            analysis_mask=mask,
            Missingness={"MinN": 99},
            contrasts=[{"name": "c", "vector": [1, 0]}],
        )
    text = "\n".join(error.value.problems)
    for part in ("i3.nii does not exist", "i7.nii", "no voxel", "MinN is 99", "c", "X3"):
        assert part in text
    assert len(error.value.problems) >= 6


@pytest.mark.parametrize("name", ["all.nii", "all.nii.gz", "one.IMG", "x.mgz"])
def test_an_image_in_the_place_of_a_list_is_no_list(tmp_path, name):
    [item] = list_files(tmp_path / name, "Y_files")
    assert item == (tmp_path / name, "Y_files")


def test_files_given_one_by_one_are_named_by_their_position(tmp_path):
    given = [tmp_path / "b.nii", tmp_path / "a.nii"]
    assert list_files(given, "Y_files") == [
        (given[0], "entry 1 of Y_files"),
        (given[1], "entry 2 of Y_files"),
    ]


def folder_link(tmp_path, target):
    (tmp_path / "elsewhere").symlink_to(target.parent, target_is_directory=True)
    return tmp_path / "elsewhere" / target.name


def file_link(tmp_path, target):
    (tmp_path / "mine.nii").symlink_to(target)
    return tmp_path / "mine.nii"


def link_to_link(tmp_path, target):
    (tmp_path / "again.nii").symlink_to(file_link(tmp_path, target))
    return tmp_path / "again.nii"


WAYS = {
    "by its name": lambda tmp_path, target: target,
    "by a link": file_link,
    "by a link to a link": link_to_link,
    "through a linked folder": folder_link,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("field", ["Y_files", "analysis_mask", "data_mask_files"])
def test_a_map_that_is_read_is_not_replaced_however_it_is_reached(prepare, tmp_path, field, way):
    """The mask of an earlier run as analysis mask of the next one, in the same folder."""
    out = tmp_path / "out"
    out.mkdir()
    path = WAYS[way](tmp_path, Path(save(out / "blm_vox_mask.nii", np.ones(SHAPE), np.uint8)))
    images = [save(tmp_path / f"i{i}.nii", VALUES[i], np.float32) for i in range(N_OBS)]
    given = [*images[:-1], str(path)] if field != "analysis_mask" else str(path)
    with pytest.raises(InputError) as error:
        prepare(VALUES, X, **{"Y_files": images, "outdir": str(out), field: given})
    [problem] = error.value.problems
    assert problem == f"{path} is read, but the maps would replace it; choose another outdir."
    # A copy, or another folder, is fine.
    copy = save(out / "mine.nii", np.ones(SHAPE), np.uint8)
    given = [*images[:-1], copy] if field != "analysis_mask" else copy
    prepare(VALUES, X, **{"Y_files": images, "outdir": str(out), field: given})
