"""Pairs are registered once, whatever happens, and the image that needs least is the target."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fa_cohort import make_cohort
from fa_small import add_engine, measure_head, plan_heads, register_heads, write_head

from nipype_blm.errors import InputError
from nipype_blm.tbss.engines import ENGINES, Warps
from nipype_blm.tbss.fields import Field
from nipype_blm.tbss.options import FA, Options
from nipype_blm.tbss.pairs import (
    choose_target,
    describe_failed,
    list_missing,
    read_pairs,
    register_pairs,
)
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.planning import make_plan

# Of an odd number of heads one needs least: that of the median size.
SIZES = (0.8, 1.2, 1.0, 0.9, 1.1)


pytestmark = pytest.mark.usefixtures("heads")


def plan_pairs(folder: Path, sizes=SIZES, **options) -> Plan:
    return plan_heads(folder, sizes, target="most_representative", **options)


def register_all(plan: Plan) -> None:
    for bundle in range(len(plan.pair_bundles)):
        register_pairs(plan, bundle)


def read_lines(plan: Plan) -> list[dict]:
    files = sorted(plan.paths.pairs.glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def count_noted(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("**/*.jsonl"))


def list_keys(plan: Plan) -> list[tuple[str, str]]:
    return sorted((line["fixed"], line["moving"]) for line in read_lines(plan))


ALL = sorted((f"p{i}", f"p{j}") for i in range(5) for j in range(5) if i != j)


@pytest.mark.parametrize("parallel_nodes", [1, 3])
def test_every_ordered_pair_is_noted_once(tmp_path, parallel_nodes):
    plan = plan_pairs(tmp_path, parallel_nodes=parallel_nodes)
    register_all(plan)
    assert list_keys(plan) == ALL
    assert list_missing(plan) == []


def test_an_engine_that_gives_the_inverse_does_half_of_them(tmp_path):
    plan = plan_pairs(tmp_path)
    assert list_missing(plan) == [(i, j) for i in range(5) for j in range(i + 1, 5)]
    add_engine(has_inverse=False)
    assert len(list_missing(plan)) == 20


def register_forward(fixed, moving) -> Warps:
    return register_heads(fixed, moving)._replace(inverse=None)


def test_half_of_the_pairs_tell_the_same_as_all(tmp_path):
    half = plan_pairs(tmp_path)
    register_all(half)
    known = {(p.fixed, p.moving): p for p in read_pairs(half).values()}
    chosen = choose_target(half)
    shutil.rmtree(half.work_dir)
    add_engine(register_forward, has_inverse=False)
    whole = plan_pairs(tmp_path)
    register_all(whole)
    assert list_keys(whole) == ALL
    assert choose_target(whole) == chosen
    for pair in read_pairs(whole).values():
        assert pair.displacement_mm == pytest.approx(known[pair.fixed, pair.moving].displacement_mm)


def find_least(sizes) -> int:
    """Return the head that needs least: a head of size s becomes one of size t by |t - s| mm."""
    sizes = np.array(sizes)
    return int(np.abs(sizes[:, None] - sizes).sum(axis=1).argmin())


@pytest.mark.parametrize("sizes", [SIZES, (1.0, 1.3, 0.8), (0.7, 0.75, 1.2, 0.9, 1.1)])
def test_the_image_that_needs_least_is_chosen(tmp_path, sizes):
    plan = plan_pairs(tmp_path, sizes)
    register_all(plan)
    assert choose_target(plan) == find_least(sizes)


def test_the_table_of_pairs_has_all_of_them_in_mm(tmp_path):
    plan = plan_pairs(tmp_path)
    register_all(plan)
    choose_target(plan)
    rows = [line.split("\t") for line in (plan.out_dir / "pairs.tsv").read_text().splitlines()]
    assert rows[0] == ["fixed", "moving", "correlation", "displacement_mm"]
    assert sorted((row[0], row[1]) for row in rows[1:]) == ALL
    known = {(p.fixed, p.moving): p for p in read_pairs(plan).values()}
    for fixed, moving, correlation, displacement in rows[1:]:
        pair = known[fixed, moving]
        assert float(correlation) == pytest.approx(pair.correlation, abs=1e-4)  # four digits
        assert float(displacement) == pytest.approx(pair.displacement_mm, rel=1e-3)


def test_the_order_of_images_does_not_change_what_is_known(tmp_path):
    plan = plan_pairs(tmp_path)
    register_all(plan)
    images = {FA: [tmp_path / FA / f"p{i}.nii.gz" for i in (3, 0, 4, 2, 1)]}
    other = make_plan(images, plan.options, plan.out_dir, plan.work_dir)
    assert list_missing(other) == []
    assert other.subjects[choose_target(other)].name == plan.subjects[choose_target(plan)].name


# ---------------------------------------------------------------------------- going on


PROGRAM = """
import sys, time
from pathlib import Path
from fa_small import add_engine, register_heads
from nipype_blm.tbss.pairs import register_pairs
from nipype_blm.tbss.plan import Plan

def register(fixed, moving):
    time.sleep(0.3)
    return register_heads(fixed, moving)

add_engine(register)
plan = Plan.read(Path(sys.argv[1]))
for bundle in range(len(plan.pair_bundles)):
    register_pairs(plan, bundle)
"""


def test_a_run_that_is_killed_goes_on_with_what_is_missing(
    tmp_path, start_program: Callable, wait_until: Callable, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    plan = plan_pairs(tmp_path)
    plan.write(tmp_path / "plan.json")
    program = start_program(PROGRAM, str(tmp_path / "plan.json"))
    wait_until(lambda: count_noted(plan.paths.pairs) >= 4 or program.has_ended, 60, "2 are done")
    program.kill()
    before = {path: path.read_bytes() for path in plan.paths.pairs.glob("*.jsonl")}
    n_before = count_noted(plan.paths.pairs)
    assert 4 <= n_before < 20, program.output
    again = plan_pairs(tmp_path)
    assert len(list_missing(again)) == 10 - n_before // 2
    register_all(again)
    assert list_keys(again) == ALL
    for path, content in before.items():
        assert path.read_bytes().startswith(content)


def test_a_torn_last_line_is_lost_alone(tmp_path):
    plan = plan_pairs(tmp_path)
    register_all(plan)
    path = max(plan.paths.pairs.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    again = plan_pairs(tmp_path)
    assert len(list_missing(again)) == 1
    register_all(again)
    assert list_missing(again) == []
    torn = [line for line in path.read_bytes().split(b"\n") if line and not line.endswith(b"}")]
    assert len(torn) <= 1
    assert len(read_pairs(again)) == 20


def test_lines_of_no_sense_are_passed_over(tmp_path):
    plan = plan_pairs(tmp_path)
    register_all(plan)
    (plan.paths.pairs / "other.jsonl").write_bytes(b'\xff\xfe\n{"fixed": 1}\n[]\n3\nnull\n')
    assert list_missing(plan) == []


def test_an_image_that_was_changed_is_registered_again_and_no_other(tmp_path):
    plan = plan_pairs(tmp_path)
    register_all(plan)
    write_head(tmp_path / FA / "p1.nii.gz", 0.85)
    again = plan_pairs(tmp_path)
    assert list_missing(again) == [(0, 1), (1, 2), (1, 3), (1, 4)]
    register_all(again)
    assert choose_target(again) == find_least((0.8, 0.85, 1.0, 0.9, 1.1)) == 3


def test_a_new_image_is_registered_to_those_that_are_there(tmp_path):
    plan = plan_pairs(tmp_path)
    register_all(plan)
    write_head(tmp_path / FA / "p5.nii.gz", 1.05)
    again = plan_pairs(tmp_path, (*SIZES, 1.05))
    assert list_missing(again) == [(i, 5) for i in range(5)]


def test_another_engine_or_size_of_cubes_begins_anew(tmp_path):
    plan = plan_pairs(tmp_path)
    register_all(plan)
    add_engine(name="others")
    assert len(list_missing(plan_pairs(tmp_path, engine="others"))) == 10
    assert len(list_missing(Plan(**{**vars(plan), "spacing": 5.0}))) == 10


# ---------------------------------------------------------------------------- what fails


def diverge(fixed, moving) -> Warps:
    """Return no finite warp for the largest head."""
    warps = register_heads(fixed, moving)
    if max(measure_head(image)[1] for image in (fixed, moving)) < 1.03:  # without their edges
        return warps
    fields = [Field(np.full_like(f.values, np.nan), f.affine) for f in (warps[0], warps[1])]
    return Warps(*fields)


@pytest.fixture
def diverging(tmp_path) -> Plan:
    add_engine(diverge)
    plan = plan_pairs(tmp_path)
    register_all(plan)
    return plan


def test_pairs_that_diverge_are_named_and_left_out(diverging):
    failed = {(p.fixed, p.moving) for p in read_pairs(diverging).values() if p.correlation == -1}
    assert failed == {pair for pair in ALL if "p1" in pair}
    choose_target(diverging)
    (notice,) = describe_failed(diverging)
    assert "failed for 8 pairs" in notice
    assert "p1 to p0 (-1.00)" in notice
    table = (diverging.out_dir / "pairs.tsv").read_text().splitlines()
    assert "p0\tp1\t-1.0000\tn/a" in table


def test_an_image_that_failed_with_most_others_is_no_target(diverging):
    """The others have failed with one each, and one of the two in the middle is chosen."""
    assert choose_target(diverging) in (2, 3)


def test_pairs_that_failed_in_another_run_are_not_told(diverging, tmp_path):
    """Of images that are not in the table any more, or were other ones."""
    add_engine()
    write_head(tmp_path / FA / "p1.nii.gz", 1.1)
    again = plan_pairs(tmp_path)
    register_all(again)
    assert describe_failed(again) == []


def test_with_no_image_that_can_be_the_target_the_run_ends(tmp_path):
    plan = plan_pairs(tmp_path, min_correlation=1.0)
    register_all(plan)
    with pytest.raises(InputError, match=r"No image can be the target.*pairs\.tsv"):
        choose_target(plan)


# ---------------------------------------------------------------------------- real anatomy


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("pairs"), n=4, zoom=6.0, seed=3)


def test_greedys_inverses_choose_the_same_image_as_all_ordered_pairs(cohort, tmp_path):
    options = Options(target="most_representative")
    half = make_plan({FA: cohort.fa_files}, options, tmp_path / "half", tmp_path / "half")
    register_all(half)
    known = {(p.fixed, p.moving): p for p in read_pairs(half).values()}
    assert choose_target(half) == cohort.least_warped
    add_engine(ENGINES["greedy"].register, "greedy", has_inverse=False)
    whole = make_plan({FA: cohort.fa_files}, options, tmp_path / "whole", tmp_path / "whole")
    register_all(whole)
    assert choose_target(whole) == cohort.least_warped
    for pair in read_pairs(whole).values():
        other = known[pair.fixed, pair.moving]
        assert min(pair.correlation, other.correlation) > 0.95
        # One searches from the other end: both are within a third of a cube of 6 mm.
        apart = pair.displacement_mm - other.displacement_mm
        assert abs(apart) < 2.0
