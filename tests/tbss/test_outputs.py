"""Tables by tract and files of all images are those of plain loops; nothing old is left."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fa_small import SHAPE, make_head, plan_heads

from nipype_blm.tbss.group import make_skeleton, project_subjects
from nipype_blm.tbss.images import write_volume
from nipype_blm.tbss.outputs import assemble, write_series
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.subjects import register_subjects, set_target

NAMES = [f"p{i}" for i in range(4)]


pytestmark = pytest.mark.usefixtures("heads")


def run(plan: Plan) -> Plan:
    indices = range(len(plan.subjects))
    set_target(plan)
    register_subjects(plan, indices)
    make_skeleton(plan)
    project_subjects(plan, indices)
    assemble(plan)
    return plan


def load(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def list_files(plan: Plan) -> set[str]:
    """Return the files of results, without warps and what is below work."""
    files = (path.relative_to(plan.out_dir) for path in plan.out_dir.rglob("*") if path.is_file())
    return {str(path) for path in files if path.parts[0] not in ("work", "warps")}


@pytest.mark.parametrize("measure", ["FA", "MD"])
def test_files_of_all_images_are_the_single_ones_in_their_order(tmp_path, measure):
    plan = run(plan_heads(tmp_path, maps=["MD"]))
    stats = plan.paths.stats
    inside = load(stats / "mean_FA_mask.nii.gz") > 0
    skeletonised = nib.load(stats / f"all_{measure}_skeletonised.nii.gz")
    whole = nib.load(stats / f"all_{measure}.nii.gz")
    assert skeletonised.shape == whole.shape == (*SHAPE, 4)
    for volume, name in enumerate(NAMES):
        known = load(plan.paths.find_skeletonised(name, measure))
        np.testing.assert_array_equal(np.asarray(skeletonised.dataobj)[..., volume], known)
        standard = load(plan.paths.find_standard(name, measure))
        expected = np.where(inside, standard, 0)
        np.testing.assert_array_equal(np.asarray(whole.dataobj)[..., volume], expected)
    single = nib.load(plan.paths.find_skeletonised("p0", measure))
    np.testing.assert_allclose(skeletonised.affine, single.affine)


def test_a_series_is_the_file_that_nibabel_would_write(tmp_path):
    data = np.random.default_rng(1).random((5, 4, 3, 6)).astype(np.float32)
    affine = nib.affines.from_matvec(np.diag([-2, 2.5, 3]), [90, -100, -70])
    write_series(tmp_path / "a.nii.gz", iter(np.moveaxis(data, 3, 0)), data.shape, affine)
    found = nib.load(tmp_path / "a.nii.gz")
    known = nib.Nifti1Image(data, affine)
    known.set_qform(affine, code="aligned")
    known.set_sform(affine, code="aligned")
    known.header.set_xyzt_units("mm", "sec")
    nib.save(known, tmp_path / "b.nii.gz")
    known = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(known.dataobj))
    for field in ("dim", "pixdim", "datatype", "vox_offset", "sform_code", "qform_code"):
        np.testing.assert_array_equal(found.header[field], known.header[field])
    np.testing.assert_array_equal(found.affine, known.affine)


def write_atlas(folder, with_names: bool) -> dict:
    """Write an atlas on a grid of its own, of four labels, one without a voxel on the skeleton."""
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[:, :15], labels[:, 15:], labels[:, :, 17:], labels[0, 0, 0] = 1, 2, 7, 9
    affine = nib.affines.from_matvec(np.diag([2.5] * 3), [-36, -37, -36.5])
    write_volume(folder / "atlas.nii.gz", labels, affine)
    options = {"atlas": folder / "atlas.nii.gz"}
    if with_names:
        (folder / "atlas.tsv").write_text("index\tname\n1\tback\n2\tfront\n7\ttop\n9\tnowhere\n")
        options["atlas_names"] = folder / "atlas.tsv"
    return options


def average_slowly(plan: Plan, name: str, measure: str) -> dict[int, list[float]]:
    """Return the values of each label along the skeleton, voxel by voxel."""
    atlas = nib.load(plan.options.atlas)
    labels = np.asarray(atlas.dataobj)
    mask = nib.load(plan.paths.stats / "mean_FA_skeleton_mask.nii.gz")
    values = load(plan.paths.find_skeletonised(name, measure))
    found: dict[int, list[float]] = {0: [], 1: [], 2: [], 7: [], 9: []}
    for voxel in np.argwhere(np.asarray(mask.dataobj) > 0):
        place = mask.affine @ [*voxel, 1]
        there = np.rint((np.linalg.inv(atlas.affine) @ place)[:3]).astype(int)
        if (there >= 0).all() and (there < labels.shape).all() and values[tuple(voxel)] != 0:
            found[int(labels[tuple(there)])].append(float(values[tuple(voxel)]))
    return found


@pytest.mark.parametrize("with_names", [True, False])
@pytest.mark.parametrize("measure", ["FA", "MD"])
def test_means_by_tract_are_those_of_a_loop_over_voxels(tmp_path, with_names, measure):
    plan = run(plan_heads(tmp_path, maps=["MD"], **write_atlas(tmp_path, with_names)))
    table = pd.read_table(plan.paths.find_tracts(measure), index_col="name")
    names = ["back", "front", "top", "nowhere"] if with_names else ["1", "2", "7", "9"]
    assert list(table.columns) == ["skeleton", *names]
    assert list(table.index) == NAMES
    mask = load(plan.paths.stats / "mean_FA_skeleton_mask.nii.gz") > 0
    for name in NAMES:
        known = average_slowly(plan, name, measure)
        for label, column in zip((1, 2, 7), names, strict=False):
            assert known[label]
            # Six digits stand in the table.
            assert table.loc[name, column] == pytest.approx(np.mean(known[label]), rel=1e-5)
        assert np.isnan(table.loc[name, names[3]])
        values = load(plan.paths.find_skeletonised(name, measure))[mask]
        assert table.loc[name, "skeleton"] == pytest.approx(values[values != 0].mean(), rel=1e-5)


def test_the_sizes_of_tracts_are_those_of_the_skeleton(tmp_path):
    plan = run(plan_heads(tmp_path, **write_atlas(tmp_path, True)))
    sizes = pd.read_table(plan.paths.tract_sizes, index_col="tract").voxels
    mask = load(plan.paths.stats / "mean_FA_skeleton_mask.nii.gz") > 0
    assert sizes["skeleton"] == np.count_nonzero(mask)
    assert sizes[["back", "front", "top", "nowhere"]].sum() == sizes["skeleton"]
    assert sizes["nowhere"] == 0


def test_what_an_image_lacks_does_not_count_in_its_mean(tmp_path):
    plan = plan_heads(tmp_path, mask_share=0.5)
    run(plan)
    path = plan.paths.find_skeletonised("p0", "FA")
    data = np.array(load(path))
    mask = load(plan.paths.stats / "mean_FA_skeleton_mask.nii.gz") > 0
    lacking = np.argwhere(mask)[::2]
    data[tuple(lacking.T)] = 0
    write_volume(path, data, make_head().affine)
    assemble(plan)
    table = pd.read_table(plan.paths.find_tracts("FA"), index_col="name")
    assert table.skeleton["p0"] == pytest.approx(data[mask & (data != 0)].mean(), rel=1e-5)


def test_an_image_with_nothing_on_the_skeleton_has_no_mean(tmp_path):
    plan = run(plan_heads(tmp_path))
    path = plan.paths.find_skeletonised("p0", "FA")
    write_volume(path, np.zeros(SHAPE, np.float32), make_head().affine)
    assemble(plan)
    assert "p0\tn/a" in plan.paths.find_tracts("FA").read_text().splitlines()


def test_nothing_of_an_earlier_run_is_left(tmp_path):
    """Of one with another map, with images that are left out now, and with files of all images."""
    run(plan_heads(tmp_path, maps=["MD"]))
    now = run(plan_heads(tmp_path, (1.0, 0.9, 1.1), write_4d=False))
    found = list_files(now)
    for path in found:
        assert "MD" not in path
        assert "p3" not in path
        assert not path.startswith("stats/all_")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert found == list_files(run(plan_heads(fresh, (1.0, 0.9, 1.1), write_4d=False)))
