"""Random factors are made from labels and designs, and every fault names field and file."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nipype_blm.core.factors import count_columns
from nipype_blm.model.random import (
    examine_factors,
    find_levels,
    make_factor,
    make_factors,
    name_levels,
)
from nipype_blm.model.request import Factor, Table

N_OBS = 24
SUBJECT = np.repeat(np.arange(8), 3)
SITE = np.tile(np.arange(4), 6)
VISIT = np.tile([0.0, 1, 2], 8)
INTERCEPT = np.ones(N_OBS)


def table(level, *effects, name="a", **options):
    """Return what is read for a factor; without effects, a random intercept."""
    labels = [str(label) for label in level]
    Z = np.column_stack(effects or [np.ones(len(labels))]).astype(float)
    return Factor(name, labels, Table(Z, [f"e{i}" for i in range(1, Z.shape[1] + 1)]), **options)


def read_from_files(factor, number):
    """Return a factor that knows where it is from, as it is when it was read."""
    design = factor.design._replace(source=f"Z f{number} design /{factor.name}_Z.csv")
    return replace(factor, design=design, source=f"Z f{number} factor /{factor.name}.csv")


def check_factors(tables, *arguments, **options):
    asked = [table and read_from_files(table, i) for i, table in enumerate(tables, 1)]
    return examine_factors(asked, *arguments, **options)[1]


def problem_of(*tables, n_images=N_OBS, **options):
    [problem] = check_factors(tables, n_images, **options)
    return problem


# Levels


def test_levels_are_numbered_in_numerical_order_if_all_labels_are_numbers():
    assert find_levels(["10", "9", "-1", "10", "2.5"]).tolist() == [3, 2, 0, 3, 1]


def test_levels_are_in_the_order_of_the_text_otherwise():
    assert find_levels(["10", "9", "x", "10"]).tolist() == [0, 1, 2, 0]
    assert find_levels(["10", "9", "nan", "inf"]).tolist() == [0, 1, 3, 2]


def test_labels_that_differ_as_text_are_different_levels():
    assert find_levels(["5", "05", "5.0", "5"]).tolist() == [1, 0, 2, 1]
    assert find_levels(["a", "A", "a"]).tolist() == [1, 0, 1]


def test_every_level_occurs_whatever_the_gaps_between_labels():
    assert find_levels(["900", "7", "900", "31"]).tolist() == [2, 0, 2, 1]


def test_a_nested_label_is_another_level_within_another_outer_level():
    site = make_factor("site", ["y", "y", "x", "x"], np.ones((4, 1)))
    subject = make_factor("subject", ["1", "2", "1", "1"], np.ones((4, 1)), nested_in=site)
    assert subject.level.tolist() == [1, 2, 0, 0]
    assert subject.level.dtype == np.int32


def test_nesting_changes_nothing_where_labels_are_unique_already():
    site = make_factor("site", [str(s // 4) for s in SUBJECT], INTERCEPT[:, None])
    labels = [str(s) for s in SUBJECT]
    nested = find_levels(labels, site.level)
    np.testing.assert_array_equal(nested, find_levels(labels))


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30))
def test_levels_of_nested_factors_are_the_tuples_of_labels(rows):
    names = ("site", "family", "child")
    columns = [[row[i] for row in rows] for i in range(3)]
    tables = [
        table(column, name=name, nested_in=outer)
        for name, column, outer in zip(names, columns, (None, *names[:2]), strict=True)
    ]
    # The order in which factors are listed must not matter: the innermost comes first.
    factors = make_factors(tables[::-1])
    assert [factor.name for factor in factors] == ["child", "family", "site"]
    for depth, factor in enumerate(factors[::-1], 1):
        tuples = sorted({row[:depth] for row in rows})
        assert factor.level.tolist() == [tuples.index(row[:depth]) for row in rows]


def test_a_factor_keeps_its_name_design_and_covariance():
    subject = table(SUBJECT, INTERCEPT, VISIT, name="subject", correlated=False)
    site = table(SITE, name="site")
    factors = make_factors([subject, site])
    assert [factor.name for factor in factors] == ["subject", "site"]
    assert [factor.correlated for factor in factors] == [False, True]
    assert count_columns(factors) == 8 * 2 + 4
    np.testing.assert_array_equal(factors[0].Z, np.column_stack([INTERCEPT, VISIT]))


# What is refused


@pytest.mark.parametrize(
    "tables",
    [
        [table(SUBJECT)],
        [table(SUBJECT, INTERCEPT, VISIT)],
        [table(SUBJECT, VISIT)],
        [table(SUBJECT, INTERCEPT, VISIT, correlated=False)],
        [table(SUBJECT), table(SITE, name="b")],
        [table(SITE, INTERCEPT, VISIT), table(SUBJECT, name="b", correlated=False)],
        [table(SUBJECT), table(SUBJECT, VISIT, name="b")],  # lme4's (1 | s) + (0 + visit | s)
        [table(SUBJECT // 4), table(SUBJECT % 4, name="b", nested_in="a")],
    ],
)
@pytest.mark.parametrize("safe_mode", [True, False])
def test_good_factors_have_no_problem(tables, safe_mode):
    X = np.column_stack([INTERCEPT, VISIT])
    assert check_factors(tables, N_OBS, X, safe_mode) == []
    assert check_factors(tables, None, None, safe_mode) == []


def test_no_factor_has_no_problem():
    assert check_factors([], N_OBS) == []


def test_a_factor_vector_of_another_length_is_refused():
    assert problem_of(table(SUBJECT[:-1], INTERCEPT, name="b")) == (
        "Z f1 factor /b.csv has 23 labels, but there are 24 images; give one label for each image."
    )


def test_a_first_label_that_looks_like_a_header_is_pointed_out():
    read = table(["subject", *SUBJECT], INTERCEPT)
    problem = problem_of(read)
    assert "has 25 labels (the first, 'subject', looks like a header)" in problem
    read = table([0, *SUBJECT], INTERCEPT)
    assert "header" not in problem_of(read)


def test_a_design_with_another_number_of_rows_is_refused():
    problem = problem_of(table(SITE), table(SUBJECT, np.ones(23), name="b"))
    assert problem == (
        "Z f2 design /b_Z.csv has 23 rows, but there are 24 images; give one row for each image."
    )


def test_both_files_of_all_factors_are_checked_together():
    problems = check_factors(
        [table(SUBJECT[1:], np.ones(20)), table(SITE[2:], 0 * INTERCEPT[2:], name="b")], N_OBS
    )
    assert len(problems) == 4
    assert all("24 images" in problem for problem in problems)


def test_files_of_a_factor_must_agree_where_images_cannot_be_counted():
    problem = problem_of(table(SUBJECT, np.ones(23), name="b"), n_images=None)
    assert problem.startswith(
        "Z f1 design /b_Z.csv has 23 rows, but Z f1 factor /b.csv has 24 labels"
    )


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        ([INTERCEPT, 0 * VISIT], "column 2 (e2) is zero; leave it out."),
        ([VISIT, VISIT], "column 2 (e2) is a linear combination of column 1 (e1); leave"),
        ([INTERCEPT, VISIT, 3 - 2 * VISIT], "column 3 (e3) is a linear combination of columns 1"),
        ([INTERCEPT, 5 * INTERCEPT], "column 2 (e2) is a linear combination of column 1"),
    ],
)
@pytest.mark.parametrize("correlated", [True, False])
def test_zero_and_collinear_effects_are_refused_with_their_columns(effects, message, correlated):
    problem = problem_of(table(SITE), table(SITE, *effects, name="b", correlated=correlated))
    assert problem.startswith("Z f2 design /b_Z.csv: ")
    assert message in problem


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_design_that_is_not_finite_is_refused(value):
    effect = np.where(SITE == 1, value, 1.0)
    assert problem_of(table(SUBJECT, effect)) == (
        "Z f1 design /a_Z.csv must hold finite numbers only."
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("effects", [[1e300 * VISIT], [INTERCEPT, 1e-300 * VISIT]])
@pytest.mark.parametrize("correlated", [True, False])
def test_a_design_whose_squares_do_not_exist_is_refused_with_its_column(effects, correlated):
    """As one of X; a library's warning of an overflow is no answer."""
    problem = problem_of(table(SUBJECT, *effects, correlated=correlated))
    assert problem.startswith("Z f1 design /a_Z.csv: the largest value of column ")
    assert problem.endswith("give it in other units.")


def test_a_factor_of_one_level_is_refused():
    problem = problem_of(table(SUBJECT), table(0 * SUBJECT, VISIT, name="b"))
    assert problem.startswith("Z f2 factor /b.csv has one level only")


@pytest.mark.parametrize("safe_mode", [True, False])
@pytest.mark.parametrize("effect", [INTERCEPT, VISIT])
def test_as_many_levels_as_images_are_refused(effect, safe_mode):
    problem = problem_of(table(range(N_OBS), effect, name="b"), safe_mode=safe_mode)
    assert problem.startswith("Z f1 factor /b.csv has as many levels as there are images (24)")
    assert "residual" in problem


def test_levels_of_a_nested_factor_are_counted_within_the_outer_one():
    tables = [table(SUBJECT), table(VISIT, name="b")]
    assert check_factors(tables, N_OBS) == []
    nested = table(VISIT, name="b", nested_in="a")
    assert "/b.csv has as many levels as there are images" in problem_of(tables[0], nested)


def test_more_effects_than_images_are_refused_in_safe_mode_which_is_named():
    """The way out that is named is one that helps."""
    tables = [table(SUBJECT, INTERCEPT, VISIT), table(SUBJECT, VISIT**2, name="b")]
    problem = problem_of(*tables)
    assert "/a.csv" in problem
    assert "/b.csv" in problem
    assert "8 x 2 + 8 x 1 = 24 random effects (levels x correlated effects), but only" in problem
    assert "set correlated=False" in problem
    without = [table(SUBJECT, INTERCEPT, VISIT, correlated=False), tables[1]]
    assert check_factors(without, N_OBS) == []
    assert "set safe_mode=False" in problem
    assert check_factors(tables, N_OBS, safe_mode=False) == []


def test_correlated_effects_that_take_up_all_images_are_refused_with_a_way_out_that_helps():
    """Saturation is judged with the structure of D: a diagonal one is identified here."""
    quadratic = table(SUBJECT, INTERCEPT, VISIT, VISIT**2)
    for safe_mode in (True, False):
        problem = problem_of(quadratic, safe_mode=safe_mode)
        assert "set correlated=False" in problem
        assert "set safe_mode=False" not in problem  # where it would be refused again
    diagonal = table(SUBJECT, INTERCEPT, VISIT, VISIT**2, correlated=False)
    assert check_factors([diagonal], N_OBS) == []


def test_no_way_out_is_named_that_is_none():
    """Two effects that are proportional within levels are not told apart by a diagonal D."""
    pairs = np.repeat(np.arange(12), 2)
    sign = np.tile([-1.0, 1.0], 12)
    problem = problem_of(table(pairs, sign, INTERCEPT))
    assert "correlated=False" not in problem
    assert "use fewer effects" in problem


def test_more_effects_than_images_are_good_without_safe_mode_if_they_leave_a_residual():
    # The covariate is constant in each level, so that two effects fit one number of each.
    level, covariate = np.repeat(np.arange(12), 2), np.repeat(np.arange(12.0), 2)
    read = table(level, INTERCEPT, covariate)
    assert check_factors([read], N_OBS, safe_mode=False) == []
    # One level with a single image: min(n_j, effects) adds up to less than all images.
    level = np.array([0] * 4 + [1] * 4 + [2] * 2 + list(range(3, 17)))
    read = table(level, INTERCEPT, np.random.default_rng(0).normal(size=N_OBS))
    assert check_factors([read], N_OBS, safe_mode=False) == []


def test_two_factors_of_the_same_levels_and_design_are_refused():
    problem = problem_of(table(SUBJECT, name="a"), table(10 - SUBJECT, name="b"))
    assert problem == (
        "Z f2 factor /b.csv: the variances of its random effects cannot be told from those of "
        "f1 (a); use fewer random effects, or leave one factor out."
    )


def test_a_nested_factor_with_one_level_in_each_outer_one_is_refused():
    problem = problem_of(table(SUBJECT), table(0 * SUBJECT, name="b", nested_in="a"))
    assert "those of f1 (a)" in problem


def test_effects_that_make_those_of_another_factor_are_refused():
    both = table(SUBJECT, INTERCEPT, VISIT, name="b")
    assert "those of f1 (a)" in problem_of(table(SUBJECT, VISIT), both, safe_mode=False)


@pytest.mark.parametrize(("difference", "is_refused"), [(1e-4, False), (1e-11, True)])
def test_designs_that_differ_by_more_than_rounding_are_told_apart(difference, is_refused):
    design = INTERCEPT + difference * np.random.default_rng(0).normal(size=N_OBS)
    problems = check_factors([table(SUBJECT), table(SUBJECT, design, name="b")], N_OBS)
    assert bool(problems) is is_refused


def test_effects_that_make_the_residual_are_refused():
    # In each level the products of -1 and 1 add up to the identity.
    level, sign = np.repeat(np.arange(12), 2), np.tile([-1.0, 1], 12)
    problem = problem_of(table(level), table(level, sign, name="b"), safe_mode=False)
    assert problem.startswith("Z f2 factor /b.csv: ")
    assert "the residual variance and those of f1 (a)" in problem


def test_correlated_effects_of_a_binary_covariate_of_levels_are_refused_and_diagonal_ones_not():
    group = (SUBJECT > 3).astype(float)
    problem = problem_of(table(SUBJECT, INTERCEPT, group))
    assert "cannot be told from each other" in problem
    assert "set correlated=False" in problem
    assert check_factors([table(SUBJECT, INTERCEPT, group, correlated=False)], N_OBS) == []


def test_levels_that_x_tells_apart_are_refused():
    X = np.column_stack([s == SUBJECT for s in range(8)]).astype(float)
    problem = problem_of(table(SITE), table(SUBJECT, name="b"), X=X)
    assert problem.startswith("Z f2 factor /b.csv: X tells its levels apart already")
    assert check_factors([table(SITE), table(SUBJECT, VISIT, name="b")], N_OBS, X) == []


@pytest.mark.parametrize("shape", [(N_OBS, N_OBS), (N_OBS, 30), (N_OBS - 1, 2)])
def test_an_x_that_has_a_fault_of_its_own_gives_no_problem_of_the_factors(shape):
    X = np.random.default_rng(0).normal(size=shape)
    assert check_factors([table(SUBJECT)], N_OBS, X) == []


def test_columns_of_x_that_are_zero_or_repeated_change_nothing():
    X = np.column_stack([INTERCEPT, VISIT, VISIT, 0 * VISIT])
    assert check_factors([table(SUBJECT, INTERCEPT, VISIT)], N_OBS, X) == []


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("shift", [0, 7e5])  # days, counted from the year 0
def test_units_and_origin_of_a_covariate_do_not_matter(factor, shift):
    read = table(SUBJECT, INTERCEPT, factor * (VISIT + shift))
    X = np.column_stack([INTERCEPT, VISIT])
    assert check_factors([read], N_OBS, X) == []


def test_a_factor_that_cannot_be_read_hides_no_fault_of_the_others():
    problem = problem_of(None, table(SUBJECT[:-1], INTERCEPT, name="b"))
    assert problem.startswith("Z f2 factor /b.csv has 23 labels")
    nested = table(SUBJECT, name="b", nested_in="a")
    assert check_factors([None, nested], N_OBS) == []


def has_independent_derivatives(factors, X):
    """Return whether the matrices P M_i P are linearly independent, from dense matrices."""
    n_obs = len(factors[0].level)
    projection = np.eye(n_obs) - X @ np.linalg.pinv(X)
    derivatives = [np.eye(n_obs)]
    for factor in factors:
        same = factor.level[:, None] == factor.level
        for a in range(factor.n_effects):
            for b in range(a + 1) if factor.correlated else [a]:
                outer = np.outer(factor.Z[:, a], factor.Z[:, b])
                derivatives.append(same * (outer + outer.T))
    vectors = np.array([(projection @ M @ projection).ravel() for M in derivatives])
    # Small integers: independent matrices are far from dependent, rounding makes 1e-15.
    return np.linalg.matrix_rank(vectors, tol=1e-8) == len(vectors)


@st.composite
def draw_factor(draw, name):
    n_effects = draw(st.integers(1, 3))
    level = draw(st.lists(st.integers(0, 3), min_size=12, max_size=12))
    columns = [draw(st.lists(st.integers(-1, 1), min_size=12, max_size=12)) for _ in range(3)]
    effects = [np.ones(12), *np.array(columns)][:n_effects]
    return table(level, *effects, name=name, correlated=draw(st.booleans()))


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True).flatmap(
        lambda names: st.tuples(*map(draw_factor, names))
    ),
    st.integers(1, 4),
)
def test_variances_are_refused_exactly_if_their_derivatives_are_dependent(tables, n_params):
    X = np.column_stack([np.arange(12) % n_params == i for i in range(n_params)]).astype(float)
    problems = check_factors(tables, 12, X, safe_mode=False)
    other = ("design", "has one level", "as many levels", "exactly")
    if any(word in problem for problem in problems for word in other):
        return
    assert has_independent_derivatives(make_factors(tables), X) == (not problems)


def test_levels_are_named_by_their_labels_in_the_order_of_their_numbers():
    tables = [table(["10", "9", "10", "9", "x"]), table([3, 1, 3, 2, 1], name="b")]
    factors = make_factors(tables)
    names = name_levels(tables, factors)
    for each, factor, levels in zip(tables, factors, names, strict=True):
        assert [levels[i] for i in factor.level] == list(each.labels)
        assert len(levels) == factor.n_levels


def test_the_name_of_a_nested_level_begins_with_those_of_the_outer_ones():
    tables = [
        table(["1", "1", "2", "2"], name="visit", nested_in="person"),
        table(["A", "A", "A", "B"], name="site"),
        table(["x", "y", "x", "x"], name="person", nested_in="site"),
    ]
    factors = make_factors(tables)
    visit, site, person = name_levels(tables, factors)
    assert [site[i] for i in factors[1].level] == ["A", "A", "A", "B"]
    assert [person[i] for i in factors[2].level] == ["A/x", "A/y", "A/x", "B/x"]
    assert [visit[i] for i in factors[0].level] == ["A/x/1", "A/y/1", "A/x/2", "B/x/2"]
