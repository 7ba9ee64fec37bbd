"""What is asked of a TBSS is checked as a whole, cut into pieces, and kept in a file."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fa_cohort import read_fa_template
from fa_small import add_engine, make_head, plan_heads, write_head, write_heads
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.tbss.images import Volume, write_volume
from nipype_blm.tbss.looks import look_at_volume
from nipype_blm.tbss.options import FA, Options
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.planning import choose_spacing, make_plan, name_subjects

pytestmark = pytest.mark.usefixtures("heads")


def plan_images(folder: Path, paths, maps=None, **options) -> Plan:
    if "template" not in options:
        options["template"] = write_head(folder / "t.nii.gz")
    given_ = Options(**{"engine": "heads"} | options)
    return make_plan({FA: paths} | (maps or {}), given_, folder / "out", folder / "work")


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/x.nii.gz", "/a/y.nii", "/a/z.mgz"], ["x", "y", "z"]),
        (["/a/s1/fa.nii.gz", "/a/s2/fa.nii.gz"], ["s1_fa", "s2_fa"]),
        (["/a/s1/dti/fa.nii", "/a/s2/dti/fa.nii"], ["s1_dti_fa", "s2_dti_fa"]),
        (["/a/x.1.nii", "/a/x.2.nii"], ["x.1", "x.2"]),
        (["/a/x.nii", "/a/X.nii"], ["0001_x", "0002_X"]),
        (["/a/s1_FA.nii.gz", "/a/s2_FA.nii.gz"], ["s1", "s2"]),
        (["/a/s1_FA.nii.gz", "/a/s2.nii.gz"], ["s1", "s2"]),
        (["/a/s1/x_FA.nii.gz", "/a/s2/x_FA.nii.gz"], ["s1_x", "s2_x"]),
        (["/a/x.nii.gz", "/a/x_FA.nii.gz", "/a/y_FA.nii"], ["x", "x_FA", "y"]),
    ],
)
def test_names_tell_images_apart(paths, names):
    assert name_subjects([Path(path) for path in paths]) == names


NAMES = st.lists(st.text("abAB_.1", min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.lists(NAMES, min_size=2, max_size=6, unique_by=tuple))
def test_no_two_images_have_one_name_even_where_case_does_not_count(parts):
    paths = list(dict.fromkeys(Path("/", *each[:-1], f"{each[-1]}.nii.gz") for each in parts))
    names = name_subjects(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert not any("/" in name for name in names)


def test_an_image_that_is_given_twice_is_named():
    with pytest.raises(InputError, match=r"more than once: /a/x\.nii;"):
        name_subjects([Path("/a/x.nii"), Path("/a/y.nii"), Path("/a/x.nii")])


# ---------------------------------------------------------------------------- cubes


def choose_cubes(*volumes: Volume) -> float:
    """Return the size of cubes for images in memory."""
    return choose_spacing([look_at_volume(Path("fa.nii"), each, True, 1) for each in volumes])


def test_one_brain_more_or_less_changes_no_cube():
    heads = [make_head(size) for size in (1, 0.97, 0.95, 1.04)]
    assert choose_cubes(*heads) == choose_cubes(*heads[1:]) == choose_cubes(*heads[:-1])


def test_a_human_head_is_registered_on_cubes_of_two_mm():
    template = read_fa_template()
    found = choose_cubes(Volume(template.data.astype(np.float32), template.affine))
    assert found == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_the_number_of_cubes_does_not_depend_on_the_size_of_a_brain(factor):
    template = read_fa_template()
    data = template.data.astype(np.float32)
    known = choose_cubes(Volume(data, template.affine))
    small = choose_cubes(Volume(data, np.diag([factor] * 3 + [1]) @ template.affine))
    assert small == pytest.approx(factor * known, rel=0.05)  # two digits


def test_cubes_are_not_smaller_than_voxels():
    assert choose_cubes(make_head()) == pytest.approx(3.0)


# ---------------------------------------------------------------------------- the file


@pytest.mark.parametrize("target", ["template", "most_representative"])
def test_a_plan_that_is_read_is_the_one_that_was_written(tmp_path, target):
    plan = plan_heads(tmp_path, maps=["MD"], target=target, threshold=0.25, write_4d=False)
    plan.write(tmp_path / "plan.json")
    read = Plan.read(tmp_path / "plan.json")
    assert list(read.pair_bundles) == list(plan.pair_bundles)
    assert Plan(**{**vars(read), "pair_bundles": plan.pair_bundles}) == plan
    assert isinstance(read.options.template, Path)
    assert bool(read.pair_bundles) == (target == "most_representative")


def test_fa_comes_first_whatever_the_order(tmp_path):
    paths = write_heads(tmp_path / "fa", [1, 0.9])
    maps = write_heads(tmp_path / "md", [1, 0.9])
    options = Options(engine="heads", template=write_head(tmp_path / "t.nii.gz"))
    plan = make_plan({"MD": maps, FA: paths}, options, tmp_path / "out", tmp_path / "work")
    assert plan.measures == [FA, "MD"]


def test_stamps_change_with_what_registration_depends_on(tmp_path):
    plan = plan_heads(tmp_path)
    known = plan.stamp_subject(1, "target"), plan.stamp_pair(0, 1)
    assert plan_heads(tmp_path, threshold=0.3).stamp_subject(1, "target") == known[0]
    assert plan.stamp_subject(0, "target") != known[0]
    assert plan.stamp_subject(1, "other") != known[0]
    add_engine(name="others")
    assert plan_heads(tmp_path, engine="others").stamp_pair(0, 1) != known[1]
    os.utime(tmp_path / FA / "p1.nii.gz", (1, 1))
    again = plan_heads(tmp_path)
    assert again.stamp_subject(1, "target") != known[0]
    assert again.stamp_pair(0, 1) != known[1]
    assert again.stamp_pair(0, 2) == plan.stamp_pair(0, 2)


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "antz"}, "engine 'antz' is not known"),
        ({"target": "best"}, "target is 'best'; expected template or most_representative"),
        ({"template": None}, "No template is given"),
        ({"threshold": 2.0}, "threshold is 2; expected a number from 0 to 1"),
        ({"mask_share": -0.1}, "mask_share is -0.1"),
        ({"min_correlation": float("nan")}, "min_correlation is nan"),
        ({"max_failed": 7.0}, "max_failed is 7"),
        ({"atlas_names": Path("names.tsv")}, "atlas_names are given without an atlas"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, words):
    paths = write_heads(tmp_path / "fa", [1, 0.9])
    with pytest.raises(InputError, match=words):
        plan_images(tmp_path, paths, **options)


def test_a_file_that_is_not_on_the_grid_of_the_template_is_refused(tmp_path):
    paths = write_heads(tmp_path / "fa", [1, 0.9])
    head = make_head(shape=(20, 20, 20))
    for name in ("skeleton", "search_mask", "tubular_mask"):
        write_volume(tmp_path / "other.nii.gz", head.data, head.affine)
        with pytest.raises(InputError, match=f"{name} .* is not on the grid of the template"):
            plan_images(tmp_path, paths, **{name: tmp_path / "other.nii.gz"})


def write_data(path: Path, data: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data.astype(np.float32), make_head().affine), path)
    return path


HEAD = make_head().data
RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (HEAD * 0.001, "as of diffusivity"),
        (HEAD * 1000, "divide by 1000 first"),
        (HEAD > 0, "as of a mask"),
        (HEAD * 0, "all its values are 0"),
        (HEAD * np.nan, "all its values are 0, or not finite"),
        (HEAD * RNG.choice([-1, 1], HEAD.shape), "of its values are below 0"),
        (np.stack([HEAD, HEAD], axis=3), "has 2 volumes, expected 1"),
        (HEAD[:, :, 9:11], "FA needs 3 voxels or more per axis"),
    ],
)
def test_an_image_that_is_no_fa_is_refused_with_its_name(tmp_path, data, words):
    paths = [*write_heads(tmp_path / "fa", [1, 0.9]), write_data(tmp_path / "odd.nii.gz", data)]
    with pytest.raises(InputError, match=rf"odd\.nii\.gz.*{words}"):
        plan_images(tmp_path, paths)


def test_all_faults_are_told_at_once(tmp_path):
    bad = [write_data(tmp_path / f"bad{i}.nii.gz", HEAD * 0.001) for i in range(3)]
    with pytest.raises(InputError) as caught:
        plan_images(tmp_path, [*write_heads(tmp_path / "fa", [1]), *bad])
    assert all(f"bad{i}.nii.gz" in str(caught.value) for i in range(3))


def test_one_image_has_no_group(tmp_path):
    with pytest.raises(InputError, match="1 image of FA is given"):
        plan_images(tmp_path, write_heads(tmp_path / "fa", [1]))


def test_maps_have_as_many_images_as_fa_and_their_grids(tmp_path):
    paths = write_heads(tmp_path / "fa", [1, 0.9])
    with pytest.raises(InputError, match="FA has 2 images, but MD has 1"):
        plan_images(tmp_path, paths, {"MD": paths[:1]})
    head = make_head(shape=(20, 20, 20))
    write_volume(tmp_path / "md.nii.gz", head.data, head.affine)
    with pytest.raises(InputError, match="is not on the grid of"):
        plan_images(tmp_path, paths, {"MD": [paths[0], tmp_path / "md.nii.gz"]})


def test_a_map_in_two_units_is_refused(tmp_path):
    paths = write_heads(tmp_path / "fa", [1, 0.9, 1.1])
    maps = [write_data(tmp_path / f"md{i}.nii.gz", HEAD * (1000 if i else 1)) for i in range(3)]
    with pytest.raises(InputError, match=r"MD is not in one unit.*md0\.nii\.gz"):
        plan_images(tmp_path, paths, {"MD": maps})


def test_two_affines_that_contradict_each_other_are_refused(tmp_path):
    paths = write_heads(tmp_path / "fa", [1, 0.9])
    image = nib.load(paths[0])
    image.set_qform(nib.affines.from_matvec(np.diag([3, 3, 3]), [9, 9, 9]), code=1)
    nib.save(nib.Nifti1Image(image.get_fdata(), None, image.header), tmp_path / "odd.nii.gz")
    with pytest.raises(InputError, match=r"odd\.nii\.gz: sform and qform.*apart"):
        plan_images(tmp_path, [*paths, tmp_path / "odd.nii.gz"])


# ---------------------------------------------------------------------------- what is odd


def test_images_like_each_other_are_not_odd(tmp_path):
    assert list(plan_images(tmp_path, write_heads(tmp_path / "fa", [1, 0.95, 1.05])).notices) == []


def test_a_brain_that_is_cut_is_told(tmp_path):
    data = HEAD.copy()
    data[:, :, :11] = 0
    paths = write_heads(tmp_path / "fa", [1, 0.98, 1.02])
    plan = plan_images(tmp_path, [*paths, write_data(tmp_path / "cut.nii.gz", data)])
    words = "as of cut or unmasked brains: "
    assert any(f"{words}{tmp_path / 'cut.nii.gz'}" in notice for notice in plan.notices)


def test_an_image_that_is_not_masked_is_told(tmp_path):
    paths = []
    for i in range(2):
        data = np.where(HEAD > 0, HEAD, 0.05 + 0.05 * RNG.random(HEAD.shape))
        paths.append(write_data(tmp_path / f"p{i}.nii.gz", data))
    notices = plan_images(tmp_path, paths).notices
    assert any("2 images of FA seem not to be masked" in notice for notice in notices)


def test_values_above_1_are_counted(tmp_path):
    data = HEAD.copy()
    data[10, 10, 8:11] = 1.1
    paths = write_heads(tmp_path / "fa", [1, 0.98])
    plan = plan_images(tmp_path, [*paths, write_data(tmp_path / "high.nii.gz", data)])
    (notice,) = plan.notices
    assert "3 voxels of 1 image have FA above 1" in notice
