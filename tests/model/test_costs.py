"""Costs grow with the work, add up, and are near what was measured."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.model.costs import (
    Sizes,
    predict_assembly_s,
    predict_fitting_s,
    predict_reading_s,
    predict_testing_s,
)

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
BRAINS = Sizes(
    n_images=1000,
    n_params=4,
    n_voxels=220_998,
    n_values=902_629,
    image_itemsize=4,
    staged_itemsize=4,
    map_itemsize=4,
    contrast_rows=(1,),
    with_cov=True,
)
number = st.integers(1, 10**6)


def with_levels(sizes: Sizes, n_levels: int, n_variances: int = 1) -> Sizes:
    """Return a mixed model; only all columns of Z matter to the costs."""
    return sizes._replace(columns_of_rows=(n_levels,), n_variances=n_variances)


@st.composite
def any_sizes(draw):
    sizes = BRAINS._replace(
        n_images=draw(number),
        n_params=draw(st.integers(1, 60)),
        n_voxels=draw(number),
        n_values=draw(number),
        with_cov=draw(st.booleans()),
        is_compressed=draw(st.booleans()),
    )
    levels = draw(st.none() | number)
    return sizes if levels is None else with_levels(sizes, levels, draw(st.integers(1, 6)))


# The functions of a number of images or voxels.
PARTS = [predict_reading_s, predict_fitting_s, predict_testing_s]


@pytest.mark.parametrize("predict", PARTS, ids=lambda f: f.__name__)
@given(sizes=any_sizes(), one=number, other=number)
def test_costs_of_parts_add_up(predict, sizes, one, other):
    whole = predict(sizes, one + other)
    # Sums and products of a few doubles: rounding alone.
    assert predict(sizes, one) + predict(sizes, other) == pytest.approx(whole, rel=1e-12)
    assert predict(sizes, one) > 0


@given(
    any_sizes(),
    st.sampled_from(["n_images", "n_params", "n_voxels", "n_values", "with_cov"]),
    number,
)
def test_no_cost_of_a_run_falls_as_the_study_grows(sizes, field, more):
    larger = sizes._replace(
        **{field: True if field == "with_cov" else getattr(sizes, field) + more}
    )
    for predict, part in zip(PARTS, ("n_images", "n_voxels", "n_voxels"), strict=True):
        before, after = (predict(s, getattr(s, part)) for s in (sizes, larger))
        assert after >= before * (1 - 1e-12)  # rounding alone


def test_a_random_factor_costs_more_than_none_and_two_effects_more_than_one():
    one, two = with_levels(BRAINS, 200), with_levels(BRAINS, 400, 3)
    for predict in PARTS:
        assert predict(BRAINS, 100) < predict(one, 100) < predict(two, 100)


def test_compressed_images_cost_more_than_plain_ones():
    plain = BRAINS._replace(is_compressed=False)
    assert predict_reading_s(BRAINS, 1) > 2 * predict_reading_s(plain, 1)


def test_maps_cost_by_their_size():
    assert predict_assembly_s(2 * 10**9) == 2 * predict_assembly_s(10**9) > 0


def is_near(predicted: float, measured: float) -> bool:
    """Whether one is at most twice the other: a plan needs no more, machines differ as much."""
    return 0.5 <= predicted / measured <= 2


def test_reading_takes_what_was_measured_within_a_factor_of_2():
    measured = json.loads((RESULTS / "reading.json").read_text())
    assert is_near(1e3 * predict_reading_s(BRAINS, 1), measured["marginal"]["blm_ms_per_image"])


def test_a_random_intercept_takes_what_was_measured_within_a_factor_of_2():
    rows = json.loads((RESULTS / "lmm_scaling.json").read_text())["tables"]["missing"]
    # Every voxel misses 5 % of its images.
    [row] = [r for r in rows if (r["model"], r["missing"]) == ("intercept", 0.05)]
    sizes = with_levels(BRAINS._replace(n_images=row["images"], n_params=row["columns"]), 200)
    fit = predict_fitting_s(sizes, 1) + predict_testing_s(sizes, 1)
    assert is_near(1e6 * fit, row["fit_us_per_voxel"])


@pytest.mark.parametrize("stage", ["reading", "fitting", "testing", "assembly"])
def test_each_stage_takes_what_was_measured_within_a_factor_of_2(stage):
    rows = json.loads((RESULTS / "planning.json").read_text())["stages"]
    assert {row["model"] for row in rows} == {"blm", "intercept", "slope"}
    for row in rows:
        sizes = BRAINS._replace(
            n_images=row["images"],
            n_params=row["columns"],
            n_voxels=row["voxels"],
            n_values=row["grid"],
            is_compressed=row["extension"] == ".nii.gz",
        )
        if row["model"] != "blm":
            sizes = with_levels(sizes, row["random_effects"], row["variances"])
        predicted = {
            "reading": predict_reading_s(sizes, sizes.n_images),
            "fitting": predict_fitting_s(sizes, sizes.n_voxels),
            "testing": predict_testing_s(sizes, sizes.n_voxels),
            "assembly": predict_assembly_s(row["map_bytes"]),
        }
        assert is_near(predicted[stage], row[f"{stage}_s"]), row
