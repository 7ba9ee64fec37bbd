"""Every map goes into standard space by the warp of its FA, once, whatever happens."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fa_cohort import make_cohort
from fa_small import (
    SHAPE,
    add_engine,
    measure_head,
    plan_heads,
    register_heads,
    write_head,
    write_template,
)
from scipy.ndimage import map_coordinates

from nipype_blm.tbss import subjects
from nipype_blm.tbss.engines import Warps
from nipype_blm.tbss.fields import read_field
from nipype_blm.tbss.images import Volume, read_volume
from nipype_blm.tbss.options import FA, Options
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.planning import make_plan
from nipype_blm.tbss.preprocess import erode
from nipype_blm.tbss.registration import prepare_fa
from nipype_blm.tbss.subjects import read_record, read_target, register_subjects, set_target

# float32 values near 1; and of displacements that are kept in steps of 0.01 mm, on slopes of FA.
FLOAT32, STORED = 1e-5, 5e-3


pytestmark = pytest.mark.usefixtures("heads")


def register_all(plan: Plan, index: int | None = None) -> list[Path]:
    set_target(plan, index)
    return register_subjects(plan, range(len(plan.subjects)))


def read_times(plan: Plan) -> dict[str, int]:
    """Return when what belongs to each subject was written."""
    times: dict[str, int] = {}
    for folder in (plan.paths.standard, plan.paths.warps):
        for path in folder.rglob("p*"):
            name = path.name.split("_")[0].split(".")[0]
            times[name] = max(times.get(name, 0), path.stat().st_mtime_ns)
    return times


def list_written_again(plan: Plan, before: dict[str, int]) -> list[str]:
    return sorted(name for name, time in read_times(plan).items() if time != before.get(name))


def look_up(data: np.ndarray, affine: np.ndarray, places: np.ndarray) -> np.ndarray:
    voxels = nib.affines.apply_affine(np.linalg.inv(affine), places).T
    return np.asarray(map_coordinates(data, voxels, order=1))


def warp_slowly(plan: Plan, index: int, measure: str) -> np.ndarray:
    """Return a map on the template's grid: looked up where the stored warp leads."""
    subject = plan.subjects[index]
    warp = nib.load(plan.paths.find_warp(subject.name))
    values = warp.get_fdata()[:, :, :, 0]
    template = nib.load(plan.options.template)
    voxels = np.indices(template.shape).reshape(3, -1).T
    places = nib.affines.apply_affine(template.affine, voxels)
    moved = places + np.column_stack(
        [look_up(values[..., axis], warp.affine, places) for axis in range(3)]
    )
    fa = nib.load(subject.images[FA])
    eroded = erode(np.asarray(fa.dataobj, np.float32))
    image = nib.load(subject.images[measure])
    data = eroded if measure == FA else np.where(eroded > 0, image.get_fdata(), 0)
    return look_up(data, image.affine, moved).reshape(template.shape)


@pytest.mark.parametrize("measure", [FA, "MD"])
def test_maps_are_looked_up_where_the_warp_leads(tmp_path, measure):
    plan = plan_heads(tmp_path, maps=["MD"])
    register_all(plan)
    for index, subject in enumerate(plan.subjects):
        image = nib.load(plan.paths.find_standard(subject.name, measure))
        assert image.shape == SHAPE
        np.testing.assert_allclose(image.affine, nib.load(plan.options.template).affine, atol=1e-5)
        found, expected = image.get_fdata(), warp_slowly(plan, index, measure)
        assert np.count_nonzero(found) > 500
        # Stored displacements differ from those in use by half a hundredth of a mm.
        is_edge = (found == 0) != (expected == 0)
        assert is_edge.mean() < 0.002
        np.testing.assert_allclose(found[~is_edge], expected[~is_edge], atol=STORED)


def test_another_map_has_values_where_fa_has_and_nowhere_else(tmp_path):
    plan = plan_heads(tmp_path, maps=["MD"])
    for path in (image.images["MD"] for image in plan.subjects):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.ones(image.shape, np.float32), image.affine), path)
    register_all(plan)
    for subject in plan.subjects:
        fa, md = (
            read_volume(plan.paths.find_standard(subject.name, m)).data for m in plan.measures
        )
        np.testing.assert_array_equal(fa > 0, md > 0)


def test_a_record_has_correlation_and_displacement(tmp_path):
    plan = plan_heads(tmp_path)
    paths = register_all(plan)
    assert [path.name for path in paths] == [f"p{i}.json" for i in range(4)]
    for index, size in enumerate((1.0, 0.9, 1.1, 0.95)):
        record = read_record(plan, index)
        assert record is not None
        assert record.correlation > 0.95
        # Half of the voxels of an ellipsoid lie within 0.79 of its radius.
        expected = abs(size - 1) * 0.79 * 20
        assert record.displacement_mm == pytest.approx(expected, abs=1.5)  # half a voxel


@pytest.mark.parametrize("with_template", [True, False])
def test_the_target_is_brought_onto_itself_by_no_warp(tmp_path, with_template):
    options = {} if with_template else {"template": None}
    plan = plan_heads(tmp_path, target="most_representative", **options)
    register_all(plan, 2)
    assert read_target(plan).name == "p2"
    assert not read_field(plan.paths.find_warp("p2")).values.any()
    record = read_record(plan, 2)
    assert record is not None
    assert (record.correlation, record.displacement_mm) == (pytest.approx(1), pytest.approx(0))
    expected = plan.options.template or plan.subjects[2].images[FA]
    image = nib.load(plan.paths.find_standard("p0", FA))
    np.testing.assert_allclose(image.affine, nib.load(expected).affine, atol=1e-5)


def test_without_a_template_results_are_on_the_grid_of_the_target(tmp_path):
    plan = plan_heads(tmp_path, target="most_representative", template=None)
    register_all(plan, 2)
    eroded = erode(read_volume(plan.subjects[2].images[FA]).data)
    found = read_volume(plan.paths.find_standard("p2", FA)).data
    np.testing.assert_allclose(found, eroded, atol=FLOAT32)


def test_with_a_template_the_target_is_brought_onto_it_by_an_affine(tmp_path):
    plan = plan_heads(tmp_path, target="most_representative")
    target = set_target(plan, 1)  # of size 0.9, and shifted by 3, -2, 1 mm
    affine = np.array(target.to_standard)
    np.testing.assert_allclose(affine[3], [0, 0, 0, 1])
    # Half a voxel of 3 mm, by which the edge of a head is not known; of a radius of 17.
    np.testing.assert_allclose(affine[:3, 3], [3, -2, 1], atol=1.5)
    np.testing.assert_allclose(affine[:3, :3] - np.diag(np.diag(affine)[:3]), 0, atol=1e-5)
    np.testing.assert_allclose(np.diag(affine)[:3], 0.9, atol=0.09)


# ---------------------------------------------------------------------------- going on


def test_what_is_done_is_not_done_again(tmp_path):
    plan = plan_heads(tmp_path)
    register_all(plan)
    before = read_times(plan)
    assert register_all(plan_heads(tmp_path)) == register_all(plan)
    assert list_written_again(plan, before) == []


PROGRAM = """
import sys, time
from pathlib import Path
from fa_small import add_engine, register_heads
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.subjects import register_subjects, set_target

def register(fixed, moving):
    time.sleep(0.3)
    return register_heads(fixed, moving)

add_engine(register)
plan = Plan.read(Path(sys.argv[1]))
set_target(plan)
register_subjects(plan, range(len(plan.subjects)))
"""


def test_a_run_that_is_killed_goes_on_with_what_is_missing(
    tmp_path, start_program: Callable, wait_until: Callable, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    plan = plan_heads(tmp_path, (1.0, 0.9, 1.1, 0.95, 1.05, 0.85))
    plan.write(tmp_path / "plan.json")
    program = start_program(PROGRAM, str(tmp_path / "plan.json"))

    def count_done() -> int:
        return len(list(plan.paths.standard.glob("*.json")))

    wait_until(lambda: count_done() >= 2 or program.has_ended, 60, "2 are done")
    program.kill()
    # The last record may tell of a warp whose maps were still to be made.
    noted = [json.loads(path.read_text()) for path in plan.paths.standard.glob("*.json")]
    assert 2 <= len(noted) < 6, program.output
    done = {record["name"] for record in noted if record["maps"]}
    assert done
    before = read_times(plan)
    register_all(plan)
    assert not done & set(list_written_again(plan, before))
    assert count_done() == 6


@pytest.mark.parametrize("what", ["record", "warp", "FA", "MD"])
def test_a_file_that_is_lost_is_made_again_for_its_subject_alone(tmp_path, what):
    plan = plan_heads(tmp_path, maps=["MD"])
    register_all(plan)
    before = read_times(plan)
    paths = plan.paths
    path = {"record": paths.find_record, "warp": paths.find_warp}.get(
        what, lambda name: paths.find_standard(name, what)
    )("p1")
    content = path.read_bytes()
    path.unlink()
    register_all(plan)
    assert list_written_again(plan, before) == ["p1"]
    assert path.read_bytes() == content


def test_a_torn_record_is_as_none(tmp_path):
    plan = plan_heads(tmp_path)
    register_all(plan)
    path = plan.paths.find_record("p2")
    path.write_text(path.read_text()[:-9])
    assert read_record(plan, 2) is None
    before = read_times(plan)
    register_all(plan)
    assert list_written_again(plan, before) == ["p2"]
    assert read_record(plan, 2) is not None


def test_an_image_that_was_changed_is_registered_again_and_no_other(tmp_path):
    plan = plan_heads(tmp_path)
    register_all(plan)
    before = read_times(plan)
    write_head(tmp_path / FA / "p1.nii.gz", 1.2)
    register_all(plan_heads(tmp_path))
    assert list_written_again(plan, before) == ["p1"]


def test_another_template_begins_anew(tmp_path):
    plan = plan_heads(tmp_path)
    register_all(plan)
    before = read_times(plan)
    write_template(tmp_path / "template.nii.gz", 1.05)
    register_all(plan_heads(tmp_path))
    assert list_written_again(plan, before) == [f"p{i}" for i in range(4)]


def test_new_images_leave_those_that_are_there(tmp_path):
    plan = plan_heads(tmp_path)
    register_all(plan)
    before = read_times(plan)
    write_head(tmp_path / FA / "p4.nii.gz", 1.05)
    register_all(plan_heads(tmp_path, (1.0, 0.9, 1.1, 0.95, 1.05)))
    assert list_written_again(plan, before) == ["p4"]


# ---------------------------------------------------------------------------- what diverges


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_warp_that_is_not_finite_is_noted_and_the_rest_goes_on(tmp_path, value):
    plan = plan_heads(tmp_path)
    # Of all heads the second is the smallest, 0.9; 0.95 is next.
    sizes = [measure_head(prepare_fa(s.images[FA], plan.spacing)[1])[1] for s in plan.subjects]
    limit = (sizes[1] + sizes[3]) / 2

    def diverge(fixed: Volume, moving: Volume) -> Warps:
        warps = register_heads(fixed, moving)
        if measure_head(moving)[1] < limit:
            warps.forward.values[5:, 5:] = value
        return warps

    add_engine(diverge)
    register_all(plan)
    records = [read_record(plan, index) for index in range(4)]
    assert [record.correlation > 0.9 for record in records] == [True, False, True, True]
    assert records[1].correlation == -1
    assert records[1].displacement_mm == -1
    assert records[1].failure == "displacements are not finite"
    assert not plan.paths.find_standard("p1", FA).exists()


def test_an_engine_that_fails_for_an_image_is_noted_and_the_rest_goes_on(tmp_path):
    plan = plan_heads(tmp_path)

    def fail(fixed: Volume, moving: Volume) -> Warps:
        if len(done) == 1:
            done.append(moving)
            raise RuntimeError("Field is\nfolded.")
        done.append(moving)
        return register_heads(fixed, moving)

    done: list[Volume] = []
    add_engine(fail)
    register_all(plan)
    records = [read_record(plan, index) for index in range(4)]
    assert [record.failure for record in records] == ["", "Field is folded.", "", ""]
    register_all(plan)
    assert len(done) == 4


def test_a_map_that_is_added_leaves_warps_as_they_are(tmp_path):
    plan = plan_heads(tmp_path)
    register_all(plan)
    before = plan.paths.find_warp("p1").stat().st_mtime_ns
    more = plan_heads(tmp_path, maps=["MD"])
    add_engine(forbid)
    register_all(more)
    assert more.paths.find_standard("p1", "MD").is_file()
    assert plan.paths.find_warp("p1").stat().st_mtime_ns == before


def forbid(fixed: Volume, moving: Volume) -> Warps:
    raise AssertionError("registered again")


def test_a_kill_between_two_targets_leaves_nothing_that_passes_for_current(tmp_path, monkeypatch):
    """Of another target the images are there, and no record yet: they are made again."""
    plan = plan_heads(tmp_path)
    register_all(plan)
    known = plan.paths.find_standard("p1", FA).read_bytes()
    other = write_head(tmp_path / "other.nii.gz", 1.1)
    moved = plan_heads(tmp_path, template=other)
    set_target(moved)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subjects, "_bring_maps", stop)
    with pytest.raises(KeyboardInterrupt):
        register_subjects(moved, [1])
    plan.paths.find_standard("p1", FA).write_bytes(b"of the other target")
    monkeypatch.undo()
    set_target(plan)
    register_subjects(plan, [1])
    assert plan.paths.find_standard("p1", FA).read_bytes() == known


# ---------------------------------------------------------------------------- real anatomy


def test_subjects_of_a_cohort_come_to_lie_on_the_template(tmp_path):
    cohort = make_cohort(tmp_path / "cohort", n=2, zoom=6.0, seed=5)
    images = {FA: cohort.fa_files, "MD": cohort.md_files}
    options = Options(template=cohort.template)
    plan = make_plan(images, options, tmp_path / "out", tmp_path / "work")
    register_all(plan)
    template = nib.load(cohort.template).get_fdata()
    for person in cohort.people:
        fa, md = (
            nib.load(plan.paths.find_standard(person.name, m)).get_fdata() for m in plan.measures
        )
        inside = (fa > 0) & (template > 0)
        # Beside the warp, the subject is interpolated twice on voxels of 6 mm.
        assert np.corrcoef(fa[inside], template[inside])[0, 1] > 0.9
        # MD of the cohort is 0.0011 - 0.0006 FA mm²/s, plus noise of 0.00002.
        core = inside & (fa > 0.3)
        assert np.abs(md[core] - 1e-3 * (1.1 - 0.6 * fa[core])).mean() < 4e-5


def test_files_of_standard_space_are_the_same_in_every_process(
    tmp_path, start_program, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    plan = plan_heads(tmp_path)
    register_all(plan)
    paths = [plan.paths.find_standard(each.name, FA) for each in plan.subjects]
    known = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    plan.write(tmp_path / "plan.json")
    program = start_program(PROGRAM, str(tmp_path / "plan.json"))
    assert program.wait() == 0, program.output
    assert [path.read_bytes() for path in paths] == known
