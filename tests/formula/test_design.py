"""What a formula makes of a table: names, labels, codings, notices, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from nipype_blm.errors import InputError
from nipype_blm.formula.design import Design, build_design
from nipype_blm.formula.parse import parse_formula

N = 24


def make_frame(**more: object) -> pd.DataFrame:
    i = np.arange(N)
    columns = {
        "age": 20.0 + 3.7 * i,
        "sex": pd.Categorical(np.array(["M", "F"])[i % 2], ["M", "F"]),
        "site": pd.Categorical(np.array(["10", "2", "New York"])[i % 3], ["2", "10", "New York"]),
        "code": 1.0 + i % 4,
        "subject": pd.Categorical([f"{n:02d}" for n in i // 2]),
        "visit_id": pd.Categorical([f"v{n}" for n in i]),
        "half": i % 2 / 2,
    }
    return pd.DataFrame({**columns, **more})


def build(text: str, **more: object) -> Design:
    return build_design(parse_formula(text), make_frame(**more))


def refuse(text: str, **more: object) -> str:
    with pytest.raises(InputError) as raised:
        build(text, **more)
    [problem] = raised.value.problems
    assert problem.field == "formula"
    return problem


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1", ["Intercept"]),
        ("age * sex", ["Intercept", "age", "sex[F]", "age:sex[F]"]),
        ("site", ["Intercept", "site[10]", "site[New York]"]),
        ("0 + site", ["site[2]", "site[10]", "site[New York]"]),
        ("C(code)", ["Intercept", "C(code)[2]", "C(code)[3]", "C(code)[4]"]),
        ("C(half)", ["Intercept", "C(half)[0.5]"]),
        ("C(code, Treatment(3))", ["Intercept", *(f"C(code, Treatment(3))[{i}]" for i in "124")]),
        ("C(site, Sum)", ["Intercept", "C(site, Sum)[2]", "C(site, Sum)[10]"]),
        ("bs(age, df=3)", ["Intercept", *(f"bs(age, df=3)[{i}]" for i in range(3))]),
        ("I((age + code) / 2)", ["Intercept", "I((age + code) / 2)"]),
    ],
)
def test_columns_are_named_as_formulae_names_them(text, names):
    assert build(text).X.names == names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I(-age**2)", lambda age: -(age**2)),
        ("I((-age)**2)", lambda age: age**2),
        ("{1 - -age**2}", lambda age: 1 + age**2),
        ("I((age / 90)**2**3)", lambda age: (age / 90) ** 8),
        ("I(2**-(age / 9) * 3)", lambda age: 3 / 2 ** (age / 9)),
        ("I(90 - age - 1)", lambda age: 89 - age),
        ("I(age / 2 / 3)", lambda age: age / 6),
    ],
)
def test_arithmetic_has_the_order_of_r_and_python(text, expected):
    age = make_frame()["age"].to_numpy()
    np.testing.assert_allclose(build(text).X.values[:, 1], expected(age), rtol=1e-12)


def test_the_first_category_is_the_reference_whatever_the_alphabet_says():
    [coding] = build("site * age").codings
    assert coding.levels == ["2", "10", "New York"]
    assert (coding.variable, coding.reference, coding.scheme) == ("site", "2", "treatment")


@pytest.mark.parametrize(
    ("text", "reference", "scheme"),
    [
        ("C(site, Treatment('10'))", "10", "treatment"),
        ("T(site, ref='New York')", "New York", "treatment"),
        ("C(site, Sum)", None, "sum"),
        ("0 + C(site, Sum)", None, "sum"),
        ("0 + site", None, "one column for each level"),
        ("0 + sex + site", "2", "treatment"),
    ],
)
def test_codings_say_how_levels_are_compared(text, reference, scheme):
    coding = build(text).codings[-1]
    assert (coding.variable, coding.reference, coding.scheme) == ("site", reference, scheme)


def test_codings_are_those_of_fixed_effects():
    assert [c.variable for c in build("sex + age + (site | subject)").codings] == ["sex"]


def test_categories_without_a_row_are_left_out():
    site = pd.Categorical(["b", "a"] * (N // 2), ["c", "b", "a", "d"])
    design = build("site + (1 | site)", site=site)
    assert design.X.names == ["Intercept", "site[a]"]
    assert design.codings[0].levels == ["b", "a"]


def test_rows_keep_their_order_whatever_the_index():
    frame = make_frame().iloc[::-1]
    design = build_design(parse_formula("age + (1 | subject)"), frame)
    np.testing.assert_array_equal(design.X.values[:, 1], frame["age"])
    assert design.factors[0].labels == frame["subject"].tolist()


def test_numbers_that_are_labels_are_the_shortest_text():
    [factor] = build("1 + (1 | code:half)").factors
    assert factor.name == "code:half"
    assert factor.labels[:2] == ["1:0", "2:0.5"]


def test_joined_labels_differ_where_their_columns_do():
    i = np.arange(N)
    a = pd.Categorical(np.array(["x:y", "x"])[i % 2])
    b = pd.Categorical(np.array(["z", "y:z"])[i % 2])
    [factor] = build("1 + (1 | a:b)", a=a, b=b).factors
    assert len(set(factor.labels)) == 2


def test_terms_of_one_grouping_with_a_column_each_are_one_factor():
    [factor] = build("(1 | subject) + (0 + age | subject)").factors
    assert factor.design.names == ["Intercept", "age"]
    assert not factor.correlated


def test_other_terms_of_one_grouping_are_factors_of_different_names():
    factors = build("(1 + age | subject) + (1 | site) + (0 + code | subject)").factors
    assert [factor.name for factor in factors] == ["subject", "subject.1", "site"]
    assert [factor.correlated for factor in factors] == [True, True, True]


def test_double_bars_make_all_columns_independent():
    [factor] = build("(1 + site || subject)").factors
    assert factor.design.names == ["Intercept", "site[10]", "site[New York]"]
    assert not factor.correlated


def test_a_column_may_be_a_number_here_and_a_label_there():
    design = build("code + (0 + C(code) | subject)")
    assert design.X.names == ["Intercept", "code"]
    assert design.factors[0].design.names == [f"C(code)[{i}]" for i in "1234"]


def test_empty_cells_make_a_design_that_is_refused_elsewhere():
    only = pd.Categorical(np.where(np.arange(N) % 6 == 0, "a", "b"))  # always M
    X = build("sex * only", only=only).X.values
    assert np.linalg.matrix_rank(X) == 3 < X.shape[1]


def test_text_that_is_not_categorical_is():
    design = build("word", word=np.array(["b", "a"] * (N // 2), object))
    assert design.X.names == ["Intercept", "word[b]"]


def test_levels_are_compared_as_text():
    X = build("I(site == 2) + I(site != '10')").X.values
    site = make_frame()["site"]
    np.testing.assert_array_equal(X[:, 1:], np.column_stack([site == "2", site != "10"]))


def test_what_is_taken_away_is_not_needed():
    design = build("sex + age + code + nothing - age - code - nothing + (1 + age - age | site)")
    assert design.X.names == ["Intercept", "sex[F]"]
    assert design.factors[0].design.names == ["Intercept"]


def test_a_response_that_is_no_number_is_left_out():
    assert build("image ~ age").X.names == ["Intercept", "age"]
    assert build("visit_id ~ age").X.names == ["Intercept", "age"]
    assert "put age after ~" in refuse("age ~ sex")


def test_every_column_that_is_no_column_is_named():
    with pytest.raises(InputError) as raised:
        build("agee + sex + (1 | subjct)")
    first, second = raised.value.problems
    assert "'agee', which is no column; is it age?; the columns are age, sex, site" in first
    assert "is it subject?" in second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("np.log(sex)", "arithmetic with sex, which has text, such as 'M'"),
        ("I(age * site)", "arithmetic with site"),
        ("bs(sex, df=3)", "arithmetic with sex"),
        ("np.log(code - 1)", "no finite number in 6 of 24 rows, first in row 1"),
        ("age + scale(one)", "no finite number in 24 of 24 rows"),
        ("only", "is 'a' in all 24 rows"),
        ("age + (only | subject)", "is 'a' in all 24 rows"),
        ("visit_id", "write (1 | visit_id)"),
        ("code + C(code)", "as a number and as C(code)"),
        ("C(site, Treatment('11'))", "'11' as a level of site; its levels are 2, 10, New York"),
        ("I(site == 'New york')", "'New york' as a level of site; is it New York?"),
        ("I(9 != site)", "9 as a level of site; its levels are 2, 10, New York"),
        ("I(age * 9 ** (9 ** 9))", "cannot be evaluated with this table"),
        ("C(code, Treatment(9))", "its levels are 1, 2, 3, 4"),
        ("bs(age, df=2)", "df=2 is too small"),
        ("poly(code, 4)", "4 different values"),
        (
            "(1 | subject) + (age | subject)",
            "the random effect Intercept of subject more than once",
        ),
    ],
)
def test_what_makes_no_model_of_a_table_is_refused(text, words):
    only = pd.Categorical(["a"] * N, ["a", "b"])
    assert words in refuse(text, only=only, one=np.ones(N))


def test_missing_values_are_refused_with_their_rows():
    age = np.where(np.arange(N) % 8 == 3, np.nan, 1.0 * np.arange(N))
    assert "'age', which 3 of 24 rows do not have, first row 4" in refuse("sex + age", age=age)
    sex = pd.Categorical([None, *"MF", *"MF" * 10, "M"])
    assert "first row 1" in refuse("age + (1 | sex)", sex=sex)
    build("sex", age=age)  # a column that is not needed


def test_a_table_without_rows_is_refused():
    with pytest.raises(InputError, match="no row"):
        build_design(parse_formula("age"), make_frame().iloc[:0])


def test_a_term_that_is_wider_than_the_table_is_long_is_refused_before_it_is_made():
    n = 4_000
    a, b = (
        pd.Categorical(np.random.default_rng(i).integers(0, 900, n).astype(str)) for i in (1, 2)
    )
    with pytest.raises(InputError, match="columns, and there are 4,000 rows"):
        build_design(parse_formula("a:b"), pd.DataFrame({"a": a, "b": b}))


@pytest.mark.parametrize(
    ("values", "is_noted"),
    [
        (1.0 + np.arange(N) % 4, True),
        (np.arange(N) % 2 * 1.0, False),  # 0 and 1 are the same, up to a shift
        (np.arange(N) % 4 / 2, False),
        (1.0 * np.arange(N), False),
    ],
)
def test_numbers_that_may_be_codes_are_noted(values, is_noted):
    notices = build("x + sex", x=values).notices
    assert [("write C(x)" in notice) for notice in notices] == [True] * is_noted


def test_codes_that_are_made_categorical_are_not_noted():
    assert not build("C(code) + sex").notices


def test_measured_whole_numbers_and_random_slopes_are_not_noted():
    assert not build("age_years", age_years=1.0 + np.arange(N) % 4).notices
    assert not build("sex + (code | subject)").notices


def test_a_fixed_effect_with_a_level_for_every_other_row_is_noted():
    label = pd.Categorical([f"s{i}" for i in np.minimum(np.arange(N), 15)])
    assert "write (1 | label)" in build("label", label=label).notices[0]
    assert not build("subject").notices  # a paired design
