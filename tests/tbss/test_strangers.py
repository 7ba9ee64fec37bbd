"""What people give to a TBSS: each oddity is refused, told, or makes no difference."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from small_brains import AFFINE, SHAPE, make_brain, save, write_brains, write_template

from nipype_blm.errors import InputError
from nipype_blm.tbss.group import choose_used, make_skeleton, project_subjects
from nipype_blm.tbss.options import FA, Options
from nipype_blm.tbss.outputs import assemble, describe_tracts
from nipype_blm.tbss.plan import read_notices, write_notices
from nipype_blm.tbss.planning import make_plan, name_subjects
from nipype_blm.tbss.preprocess import find_scale
from nipype_blm.tbss.subjects import register_subjects, set_target

BRAIN = make_brain(0)
MD = np.where(BRAIN > 0, 8e-4 + 1e-4 * BRAIN, 0)
NOISE = np.random.default_rng(7).uniform(0.02, 0.6, SHAPE)


def plan_of(folder, files, *, maps=None, template=True, **options):
    """Check some images, with the template of small brains."""
    given = template
    if template is True:
        given = folder / "template.nii.gz"
        if not given.exists():
            write_template(folder)
    images = {FA: files, **(maps or {})}
    out = folder / "out"
    return make_plan(images, Options(template=given, **options), out, out / "work")


def run(folder, files, **options):
    """Do a whole TBSS in this process; return its plan and what it finds odd."""
    plan = plan_of(folder, files, **options)
    everybody = range(len(files))
    set_target(plan)
    register_subjects(plan, everybody)
    notices = make_skeleton(plan)
    project_subjects(plan, everybody)
    assemble(plan)
    return plan, notices


def read(path):
    return np.asarray(nib.load(path).dataobj)


def read_all(plan, measure=FA):
    return read(plan.paths.stats / f"all_{measure}_skeletonised.nii.gz")


def set_forms(path, sform, s_code, qform, q_code):
    image = nib.Nifti1Image(BRAIN, AFFINE)
    image.set_sform(sform, s_code)
    image.set_qform(qform, q_code)
    nib.save(image, path)


def move(mm):
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return affine


# ------------------------------------------------------------------------------- values


@pytest.mark.parametrize("scale", [1, 100, 255, 1000, 10000])
def test_the_factor_of_scaled_fa_is_found(scale):
    high = float(np.percentile(BRAIN[BRAIN > 0], 99))
    assert find_scale(high * scale) == scale


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BRAIN * 100, "divide by 100 first"),
        (np.round(BRAIN * 255), "divide by 255 first"),
        (np.round(BRAIN * 1000), "divide by 1000 first"),
        (np.round(BRAIN * 10000), "divide by 10000 first"),
        (MD, "as of diffusivity"),
        (MD * 1000, "as of diffusivity in 10⁻³ mm²/s"),
        (BRAIN * 0, "all its values are 0, or not finite"),
        (BRAIN * np.nan, "all its values are 0, or not finite"),
        (BRAIN > 0, "as of a mask"),
        (BRAIN - 0.5, "below 0"),
        (np.stack([BRAIN, BRAIN], -1), "has 2 volumes, expected 1"),
        (BRAIN[:, :, 10:12], "3 voxels or more per axis"),
    ],
)
def test_what_is_no_fa_is_refused_by_name(tmp_path, data, message):
    files = write_brains(tmp_path)
    save(files[1], data)
    with pytest.raises(InputError, match=message) as error:
        plan_of(tmp_path, files)
    assert "s1.nii.gz" in str(error.value)
    assert len(error.value.problems) == 1


def test_all_faults_come_in_the_order_of_the_images_and_the_first_ten_in_full(tmp_path):
    files = [save(tmp_path / f"x{i:02}.nii.gz", make_brain(i) * 1000) for i in range(12)]
    with pytest.raises(InputError) as error:
        plan_of(tmp_path, files)
    problems = error.value.problems
    assert [problem.split()[0] for problem in problems[:10]] == list(map(str, files[:10]))
    assert problems[10:] == ["2 more such faults."]


def test_values_above_1_are_counted_and_taken_as_1(tmp_path):
    files = write_brains(tmp_path)
    data = BRAIN.copy()
    data[12, 14, 10:14] = 1.1
    save(files[0], data)
    assert plan_of(tmp_path, files).notices == [
        "4 voxels of 1 image have FA above 1, which is noise; taken as 1."
    ]


@pytest.mark.parametrize(
    ("data", "notice"),
    [
        (np.where(np.indices(SHAPE)[2] < 13, BRAIN, 0), "of 96 mm from bottom to top"),
        (np.where(np.indices(SHAPE)[0] < 14, BRAIN, 0), "from left to right"),
        (np.where(BRAIN > 0, BRAIN, NOISE), "seems not to be masked"),
        (make_brain(1), "the same values under several names"),
    ],
)
def test_an_image_unlike_the_others_is_named_before_it_is_registered(tmp_path, data, notice):
    files = write_brains(tmp_path)
    save(files[0], data)
    found = [text for text in plan_of(tmp_path, files).notices if notice in text]
    assert len(found) == 1
    assert str(files[0]) in found[0]


def test_nan_outside_of_the_brain_and_in_holes_is_0(tmp_path):
    holed = BRAIN.copy()
    holed[12, 14, 11] = 0
    brains = [holed, make_brain(1)]
    plain = [save(tmp_path / f"a/s{i}.nii.gz", data) for i, data in enumerate(brains)]
    missing = [
        save(tmp_path / f"b/s{i}.nii.gz", np.where(data == 0, np.nan, data))
        for i, data in enumerate(brains)
    ]
    expected, found = (read_all(run(files[0].parent, files)[0]) for files in (plain, missing))
    np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------ headers


def test_sform_and_qform_that_disagree_are_refused(tmp_path):
    files = write_brains(tmp_path)
    set_forms(files[0], move(8), 2, AFFINE, 1)
    with pytest.raises(InputError, match=r"2\.31 voxels apart"):
        plan_of(tmp_path, files)


@pytest.mark.parametrize(("s_code", "q_code"), [(0, 1), (1, 0), (2, 1)])
def test_one_of_both_forms_is_enough(tmp_path, s_code, q_code):
    files = write_brains(tmp_path)
    for path in files:
        image = nib.load(path)
        image.set_sform(AFFINE, s_code)
        image.set_qform(AFFINE, q_code)
        nib.save(nib.Nifti1Image(read(path), None, image.header), path)
    assert plan_of(tmp_path, files).notices == []


def test_a_header_without_a_place_is_told(tmp_path):
    files = write_brains(tmp_path)
    set_forms(files[1], AFFINE, 0, AFFINE, 0)
    [notice] = plan_of(tmp_path, files).notices
    assert "1 of 3 images say nothing of left and right" in notice
    assert str(files[1]) in notice


def test_a_singular_affine_is_refused(tmp_path):
    files = write_brains(tmp_path)
    content = bytearray(gzip.decompress(files[0].read_bytes()))
    content[280:328] = bytes(48)  # the rows of the sform
    files[0].write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(InputError, match=r"s0\.nii\.gz has no place: its affine is singular"):
        plan_of(tmp_path, files)


def test_the_order_in_which_voxels_are_stored_makes_no_difference(tmp_path):
    plain = write_brains(tmp_path / "a", 4)
    turned = []
    for path, axes in zip(plain, ("RAS", "LAS", "LPS", "PIR"), strict=True):
        image = nib.load(path)
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
        turned.append(tmp_path / "b" / path.name)
        turned[-1].parent.mkdir(exist_ok=True)
        nib.save(image.as_reoriented(turn), turned[-1])
    expected = read_all(run(tmp_path / "a", plain)[0])
    found = read_all(run(tmp_path / "b", turned)[0])
    # Places are computed from other affines, so that sums round in other orders.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.count_nonzero(expected) > 1000


def test_a_brain_whose_header_is_wrong_is_told_after_registration(tmp_path):
    files = write_brains(tmp_path, 5)
    save(files[2], make_brain(2)[:, :, ::-1])
    _, notices = run(tmp_path, files)
    print(notices)
    assert any("s2" in notice and "headers tell left from right" in notice for notice in notices)


def test_other_and_flat_voxels_are_told_and_work(tmp_path):
    files = write_brains(tmp_path, 3)
    affine = AFFINE.copy()
    affine[:, 2] *= 3
    save(files[0], make_brain(0)[:, :, 1::3], affine)
    plan, _ = run(tmp_path, files)
    assert [n for n in plan.notices if "more than 2.5 times as long as wide" in n]
    assert read_all(plan).shape == (*SHAPE, 3)


def test_small_voxels_of_mice_work(tmp_path):
    affine = AFFINE.copy()
    affine[:3] *= 0.1 / 6
    files = [save(tmp_path / f"s{i}.nii.gz", make_brain(i), affine) for i in range(3)]
    template = save(tmp_path / "mouse.nii.gz", make_brain(), affine)
    plan, _ = run(tmp_path, files, template=template)
    assert plan.spacing == pytest.approx(0.1)
    assert min(record.correlation for record in choose_used(plan)[1]) > 0.9
    with pytest.raises(InputError, match="no brains of one kind"):
        plan_of(tmp_path, files)


# ---------------------------------------------------------------------------- templates


@pytest.mark.parametrize("scale", [255, 1000, 10000, 4095])
def test_a_scaled_template_registers_as_well(tmp_path, scale):
    files = write_brains(tmp_path)
    template = save(tmp_path / "scaled.nii.gz", np.round(make_brain() * scale), dtype=np.int16)
    plan, _ = run(tmp_path, files, template=template)
    assert min(record.correlation for record in choose_used(plan)[1]) > 0.9


@pytest.mark.parametrize("affine", [move(500), np.diag([-1.0, -1, 1, 1]) @ AFFINE])
def test_a_template_far_away_or_turned_by_its_header_works(tmp_path, affine):
    files = [save(tmp_path / f"s{i}.nii.gz", make_brain(i)) for i in range(2)]
    turned = make_brain()[::-1, ::-1] if affine[0, 0] > 0 else make_brain()
    if affine[0, 0] > 0:
        affine[:2, 3] = (AFFINE @ [SHAPE[0] - 1, SHAPE[1] - 1, 0, 1])[:2]
    plan, _ = run(tmp_path, files, template=save(tmp_path / "t.nii.gz", turned, affine))
    assert min(record.correlation for record in choose_used(plan)[1]) > 0.9


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_brain() * 0, "all its values are 0"),
        (-make_brain(), "below 0"),
        (make_brain() > 0, "as of a mask"),
        (np.where(make_brain() > 0, 8e-4, 0), "as of diffusivity"),
        (np.stack([make_brain()] * 2, -1), "2 volumes, expected 1"),
    ],
)
def test_a_template_that_is_no_fa_is_refused(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, write_brains(tmp_path), template=save(tmp_path / "t.nii.gz", data))


def test_a_template_of_another_anatomy_leaves_nobody_and_says_so(tmp_path):
    other = np.where(make_brain() > 0, 0.8 - make_brain(), 0)
    template = save(tmp_path / "t.nii.gz", other)
    with pytest.raises(InputError, match=r"failed for 3 of 3 images.*Is the template an image"):
        run(tmp_path, write_brains(tmp_path), template=template, min_correlation=0.9)


def test_an_unmasked_template_is_told(tmp_path):
    unmasked = save(tmp_path / "t.nii.gz", np.where(make_brain() > 0, make_brain(), NOISE / 4))
    [notice] = plan_of(tmp_path, write_brains(tmp_path), template=unmasked).notices
    assert "seems not to be masked" in notice


@pytest.mark.parametrize("name", ["skeleton", "search_mask", "tubular_mask", "directions"])
def test_images_that_belong_to_a_template_are_on_its_grid_and_not_empty(tmp_path, name):
    files = write_brains(tmp_path)

    def write(data):
        data = np.stack([data] * 3, -1) if name == "directions" else data
        return {name: save(tmp_path / f"{name}.nii.gz", data)}

    with pytest.raises(InputError, match=f"{name} .* is not on the grid of the template"):
        plan_of(tmp_path, files, **write(make_brain()[1:]))
    with pytest.raises(InputError, match="all its values are 0"):
        plan_of(tmp_path, files, **write(make_brain() * 0))
    with pytest.raises(InputError, match=f"{name} is given without a template"):
        plan_of(tmp_path, files, template=None, target="most_representative", **write(make_brain()))
    assert plan_of(tmp_path, files, **write(make_brain())).notices == []


# -------------------------------------------------------------------------------- files


def test_links_to_one_file_are_one_image(tmp_path):
    files = write_brains(tmp_path)
    files[0].unlink()
    files[0].symlink_to(files[1].name)
    with pytest.raises(InputError, match="2 images given more than once"):
        plan_of(tmp_path, files)


@pytest.mark.parametrize("target", ["../.git/annex/objects/a/SHA256E-s9--0b.nii.gz", "no.nii.gz"])
def test_links_without_content_say_what_to_fetch(tmp_path, target):
    files = write_brains(tmp_path)
    files[0].unlink()
    files[0].symlink_to(target)
    expected = "datalad get" if "annex" in target else "does not exist"
    with pytest.raises(InputError, match=f"s0.nii.gz.*{expected}"):
        plan_of(tmp_path, files)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (None, "is damaged"), (b"no image", "s0.nii.gz")],
)
def test_files_that_hold_no_image_are_refused(tmp_path, content, message):
    files = write_brains(tmp_path)
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, files)


@pytest.mark.parametrize("n", [0, 1])
def test_a_group_has_two_or_more(tmp_path, n):
    with pytest.raises(InputError, match="needs 2 or more"):
        plan_of(tmp_path, write_brains(tmp_path, n))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["1.nii.gz", "11.nii.gz", "My_11.nii.gz"], ["1", "11", "My_11"]),
        (["x_FA_FA.nii", "x_FA.nii", "60+5.nii"], ["x_FA", "x", "60+5"]),
        (["a.AB_sham_01.nii.gz", "1.2.840.113.nii"], ["a.AB_sham_01", "1.2.840.113"]),
        (["sub.01/d.nii.gz", "sub 02/d.nii.gz"], ["sub.01_d", "sub 02_d"]),
        (["a b,c.nii.gz", "ü.nii.gz", "-x.nii.gz"], ["a b,c", "ü", "-x"]),
        (["A.nii.gz", "a.nii.gz", "b.nii.gz"], ["0001_A", "0002_a", "b"]),
        (["\u00e9.nii", "e\u0301.nii"], ["0001_\u00e9", "0002_e\u0301"]),
        (["a\tb.nii", "c\nd.nii"], ["a_b", "c_d"]),
    ],
)
def test_names_are_those_of_files_and_differ_on_every_file_system(tmp_path, paths, names):
    assert name_subjects([tmp_path / path for path in paths]) == names


def test_names_and_maps_never_share_a_file(tmp_path):
    plan = plan_of(tmp_path, write_brains(tmp_path, ["s", "s_FA"]))
    first = plan.paths.find_standard("s", "FA_MD")
    assert first != plan.paths.find_standard("s_FA", "MD")


# --------------------------------------------------------------------------------- maps


def write_maps(folder, make):
    return [save(folder / f"md/s{i}.nii.gz", make(i, make_brain(i))) for i in range(3)]


def make_md(_, fa):
    return np.where(fa > 0, 8e-4 + 1e-4 * fa, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i, fa: make_md(i, fa) * (1000 if i == 1 else 1), "not in one unit.*s1.nii.gz"),
        (lambda i, fa: make_md(i, fa) * (1e-6 if i == 1 else 1), "not in one unit.*s1.nii.gz"),
        (lambda i, fa: make_md(i, fa)[i // 2 :], "MD .*s2.nii.gz is not on the grid"),
        (lambda i, fa: make_md(i, fa) * (i != 1), "s1.nii.gz has no value"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, make, message):
    maps = {"MD": write_maps(tmp_path, make)}
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, write_brains(tmp_path), maps=maps)


def test_a_map_that_lacks_what_fa_has_or_looks_like_it_is_told(tmp_path):
    files = write_brains(tmp_path)
    half = np.indices(SHAPE)[0] < 12
    cut = write_maps(tmp_path / "a", lambda i, fa: make_md(i, fa) * (half if i == 1 else 1))
    [notice] = plan_of(tmp_path, files, maps={"MD": cut}).notices
    assert "no value in more than 10% of the voxels of FA in 1 image" in notice
    same = write_maps(tmp_path / "b", lambda i, fa: fa * 0.9)
    [notice] = plan_of(tmp_path, files, maps={"MD": same}).notices
    assert "as of FA rather than of a diffusivity" in notice


@pytest.mark.parametrize(
    ("names", "message"),
    [(["M/D"], "no name of a map"), (["md", "MD"], "in case only"), (["fa"], "in case only")],
)
def test_maps_have_names_that_files_can_have(tmp_path, names, message):
    files = write_brains(tmp_path)
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, files, maps=dict.fromkeys(names, files))


def test_maps_are_as_many_as_images_of_fa(tmp_path):
    files = write_brains(tmp_path)
    with pytest.raises(InputError, match="FA has 3 images, but MD has 2"):
        plan_of(tmp_path, files, maps={"MD": files[:2]})


# -------------------------------------------------------------------------------- tracts


def test_labels_are_found_by_place_and_those_beside_the_skeleton_are_not_0(tmp_path):
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    labels = np.ones([2 * n for n in SHAPE], np.uint8)
    labels[labels.shape[0] // 2 :] = 2
    labels[0, 0, 0] = 7
    atlas = save(tmp_path / "atlas.nii.gz", labels, fine, np.uint8)
    names = tmp_path / "names.tsv"
    names.write_text("index\tname\n1\tright\n9\tghost\n")
    plan, _ = run(tmp_path, write_brains(tmp_path), atlas=atlas, atlas_names=names)
    rows = [line.split("\t") for line in plan.paths.find_tracts(FA).read_text().splitlines()]
    assert rows[0] == ["name", "skeleton", "right", "2", "7", "ghost"]
    assert [row[4:] for row in rows[1:]] == [["n/a", "n/a"]] * 3
    mask = read(plan.paths.stats / "mean_FA_skeleton_mask.nii.gz") > 0
    # Voxel i of the coarse grid is at voxel 2 i of the fine one.
    side = np.broadcast_to(2 * np.arange(SHAPE[0])[:, None, None] >= len(labels) // 2, SHAPE)
    values = read_all(plan)
    for i, row in enumerate(rows[1:]):
        for cell, where in zip(row[2:4], (~side, side), strict=True):
            present = values[..., i][mask & where]
            assert float(cell) == pytest.approx(present[present != 0].mean(), rel=1e-5)
    [notice] = describe_tracts(plan)
    assert "2 labels of 4 of the atlas" in notice
    assert "7, ghost" in notice


def test_an_atlas_elsewhere_is_refused(tmp_path):
    atlas = save(tmp_path / "atlas.nii.gz", np.ones(SHAPE), move(900), np.uint8)
    with pytest.raises(InputError, match="no label in the brain of the template"):
        plan_of(tmp_path, write_brains(tmp_path), atlas=atlas)


# ------------------------------------------------------------------- groups, and runs again


def test_who_takes_voxels_from_the_mask_is_named_and_a_share_keeps_them(tmp_path):
    files = write_brains(tmp_path, 10)
    data = make_brain(4)
    data[10:15, 12:17, 9:14] = 0
    save(files[4], data)
    plan, notices = run(tmp_path, files)
    assert any("alone takes voxels" in notice and "s4 (" in notice for notice in notices)
    whole = read(plan.paths.stats / "mean_FA_mask.nii.gz")
    assert not whole[12, 14, 11]
    plan, notices = run(tmp_path, files, mask_share=0.9)
    assert notices == []
    assert read(plan.paths.stats / "mean_FA_mask.nii.gz")[12, 14, 11]


def test_the_table_of_observations_has_the_order_of_the_volumes(tmp_path):
    files = write_brains(tmp_path, 4)[::-1]
    plan, _ = run(tmp_path, files)
    lines = [line.split("\t") for line in plan.paths.subjects_table.read_text().splitlines()]
    assert lines[0][:3] == ["name", "volume", "used"]
    values = read_all(plan)
    for cells, path in zip(lines[1:], files, strict=True):
        assert cells[-1] == str(path)
        own = read(plan.paths.find_skeletonised(cells[0], FA))
        np.testing.assert_array_equal(values[..., int(cells[1])], own)


def test_what_is_left_of_other_runs_is_not_taken(tmp_path):
    files = write_brains(tmp_path)
    plan, _ = run(tmp_path, files)
    expected = read_all(plan)
    paths = plan.paths
    paths.find_standard("s0", FA).unlink()
    paths.find_record("s1").write_text('{"name": "s1"')
    before = paths.find_warp("s2").stat().st_mtime_ns
    shutil.copy(paths.find_skeletonised("s1", FA), paths.find_skeletonised("other", FA))
    plan, _ = run(tmp_path, files)
    np.testing.assert_array_equal(read_all(plan), expected)
    assert paths.find_warp("s2").stat().st_mtime_ns == before
    assert not paths.find_skeletonised("other", FA).exists()
    save(files[1], make_brain(8))
    plan, _ = run(tmp_path, files)
    assert (read_all(plan)[..., 1] != expected[..., 1]).any()


def test_notices_of_stages_replace_those_of_earlier_runs(tmp_path):
    plan = plan_of(tmp_path, write_brains(tmp_path))
    assert read_notices(plan) == []
    write_notices(plan, "skeleton", ["one", "two"])
    write_notices(plan, "choose", ["first"])
    assert read_notices(plan) == ["first", "one", "two"]
    write_notices(plan, "skeleton", [])
    assert read_notices(plan) == ["first"]
