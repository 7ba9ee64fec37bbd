"""Expressions are the linear combinations that they say, and all else is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.formula.contrasts import make_contrasts
from nipype_blm.formula.design import Design, build_design
from nipype_blm.formula.parse import parse_formula
from nipype_blm.model.contrasts import Contrast, check_contrasts

N = 36
I = np.arange(N)  # noqa: E741
FRAME = pd.DataFrame(
    {
        "age": 20 + 1.3 * I,
        "t": I % 4 * 1.0,
        "two": 1.0 + (I % 5 == 0),
        "sex": pd.Categorical(np.array(["M", "F"])[I % 2], ["M", "F"]),
        "session": pd.Categorical(np.array(["1", "2"])[I // 2 % 2], ["1", "2"]),
        "site": pd.Categorical(np.array(["a", "b", "c"])[I % 3]),
        "odd": pd.Categorical(
            np.array(["18-25", "it's", "x, y = [z]", "a.b:c", 'a "q"'])[I % 5],
            ["18-25", "it's", "x, y = [z]", "a.b:c", 'a "q"'],
        ),
        "my col": np.sin(I),
        "größe": np.cos(I),
    }
)


def build(text: str) -> Design:
    return build_design(parse_formula(text), FRAME)


def make_one(design: Design, expression: str) -> Contrast:
    [contrast] = make_contrasts(design, [(None, expression)]).contrasts
    return contrast


def weigh(design: Design, expression: str) -> dict[str, float]:
    """Return the weights of a T contrast that are not zero, by the names of columns."""
    contrast = make_one(design, expression)
    assert not contrast.is_f
    [row] = contrast.matrix
    return {name: w for name, w in zip(design.X.names, row.tolist(), strict=True) if w}


@pytest.mark.parametrize(
    ("text", "expression", "weights"),
    [
        ("age + sex", "age", {"age": 1}),
        ("age + sex", "-age", {"age": -1}),
        ("age + sex", "2*age - 0.5*sex[F]", {"age": 2, "sex[F]": -0.5}),
        ("age + sex", "(age + 3 * (sex[F] - age)) / 2", {"age": -1, "sex[F]": 1.5}),
        ("age + sex", "age*2 = sex[F]", {"age": 2, "sex[F]": -1}),
        ("age + sex", "age == 0", {"age": 1}),
        ("age + sex", "1e-1*age + .5*age + 1.*age", {"age": 1.6}),
        ("age + sex", "age + 2 - 2", {"age": 1}),
        ("age + sex", "Intercept", {"Intercept": 1}),
        ("age + sex", "1", {"Intercept": 1}),
        ("age + sex", "(Intercept)", {"Intercept": 1}),
        ("age + sex", "(Intercept) + 40*age", {"Intercept": 1, "age": 40}),
        ("age + sex", "sex", {"sex[F]": 1}),
        ("age + sex", 'sex["F"]', {"sex[F]": 1}),
        ("age + sex", " sex [ 'F' ] ", {"sex[F]": 1}),
        ("session", "session[2] - session[1]", {"session[2]": 1}),
        ("site", "site[a] - site[c]", {"site[c]": -1}),
        ("age * sex", "sex[F]:age", {"age:sex[F]": 1}),
        ("age * sex", "age:sex", {"age:sex[F]": 1}),
        ("age * sex * site", "site[b]:sex[F]:age", {"age:sex[F]:site[b]": 1}),
        ("C(site)", "site[b]", {"C(site)[b]": 1}),
        ("C(site)", "C(site)[b] - C( site )[c]", {"C(site)[b]": 1, "C(site)[c]": -1}),
        ("C(t) + age", "t[1] - C(t)[3]", {"C(t)[1]": 1, "C(t)[3]": -1}),
        ("C(site, Sum)", "site[b]", {"C(site, Sum)[b]": 1}),
        ("C(site, Sum)", "site[c]", {"C(site, Sum)[a]": -1, "C(site, Sum)[b]": -1}),
        ("C(site, Sum) * age", "site[c]:age", {f"C(site, Sum)[{i}]:age": -1 for i in "ab"}),
        ("0 + C(site, Sum)", "site[c]", {"C(site, Sum)[a]": -1, "C(site, Sum)[b]": -1}),
        ("0 + C(site, Sum)", "C(site, Sum)[mean]", {"C(site, Sum)[mean]": 1}),
        ("C(site, Treatment('b'))", "site[a]", {"C(site, Treatment('b'))[a]": 1}),
        ('C(site, Treatment("b"))', "C(site,Treatment('b'))[a]", {'C(site, Treatment("b"))[a]': 1}),
        ("bs(age, df=4)", "bs(age,df=4)[2]", {"bs(age, df=4)[2]": 1}),
        ("bs(age, df=3) * sex", "sex[F]:bs(age, df=3)[0]", {"bs(age, df=3)[0]:sex[F]": 1}),
        ("poly(age, 2)", "poly(age, 2)[1] / 4", {"poly(age, 2)[1]": 0.25}),
        ("I(age ** 2) + age", "I(age**2) - age", {"I(age ** 2)": 1, "age": -1}),
        ("I(age ** 2) + age", "{age**2}", {"I(age ** 2)": 1}),
        ("np.log(age)", "age", {"np.log(age)": 1}),
        ("np.log(age)", "2*np.log(age)", {"np.log(age)": 2}),
        ("`my col` + größe", "`my col` - größe", {"my col": 1, "größe": -1}),
        ("`my col` * sex", "my col:sex[F]", {"my col:sex[F]": 1}),
        ("`my col` * sex", "sex[F]:`my col`", {"my col:sex[F]": 1}),
        ("np.exp(`my col`)", "np.exp(`my col`)", {"np.exp(`my col`)": 1}),
        ("0 + odd", "odd[18-25]", {"odd[18-25]": 1}),
        ("0 + odd", "odd[18-25] - odd[it's]", {"odd[18-25]": 1, "odd[it's]": -1}),
        ("0 + odd", "odd['x, y = [z]'] + odd[a.b:c]", {"odd[x, y = [z]]": 1, "odd[a.b:c]": 1}),
        ("0 + odd", "odd[x, y = [z]]", {"odd[x, y = [z]]": 1}),
        ("0 + odd", "2*odd[a \"q\"] - odd['18-25']", {'odd[a "q"]': 2, "odd[18-25]": -1}),
        ("0 + site", "site[a]", {"site[a]": 1}),
        ("0 + sex", "sex[F]-sex[M]", {"sex[F]": 1, "sex[M]": -1}),
        ("C(site) * age", "C(site)[T.b]:age", {"C(site)[b]:age": 1}),
        ("0 + session", "session[2]-session['1']", {"session[2]": 1, "session[1]": -1}),
        ("age * odd", "odd[a.b:c]:age", {"age:odd[a.b:c]": 1}),
        ("age * odd", "age:odd['a.b:c'] - odd[it's]", {"age:odd[a.b:c]": 1, "odd[it's]": -1}),
        ("site / sex", "site[a]:sex[F]", {"site[a]:sex[F]": 1}),
    ],
)
def test_expressions_are_linear_combinations(text, expression, weights):
    found = weigh(build(text), expression)
    assert found == pytest.approx(weights)


@pytest.mark.parametrize(
    ("text", "expression", "columns"),
    [
        ("age + site", "site", ["site[b]", "site[c]"]),
        ("age + site", "site = 0", ["site[b]", "site[c]"]),
        ("age + site", "age, site", ["age", "site[b]", "site[c]"]),
        ("age + site + sex", "sex = 0, age = 0", ["sex[F]", "age"]),
        ("bs(age, df=4) + sex", "age", [f"bs(age, df=4)[{i}]" for i in range(4)]),
        ("bs(age, df=3) * sex", "sex:age", [f"bs(age, df=3)[{i}]:sex[F]" for i in range(3)]),
        ("poly(age, 2)", "poly(age, 2)", ["poly(age, 2)[0]", "poly(age, 2)[1]"]),
        ("site * session", "site:session[2]", ["site[b]:session[2]", "site[c]:session[2]"]),
    ],
)
def test_several_coefficients_are_tested_together(text, expression, columns):
    design = build(text)
    contrast = make_one(design, expression)
    assert contrast.is_f
    expected = np.eye(len(design.X.names))[[design.X.names.index(name) for name in columns]]
    np.testing.assert_array_equal(contrast.matrix, expected)
    assert not check_contrasts([contrast], len(design.X.names))


def test_names_are_given_ones_or_else_the_expressions():
    design = build("age + site")
    given = [("Age", "age"), (None, " 2 *\n age"), ("m", "emm(site)"), (None, "pairs(site)")]
    names = [contrast.name for contrast in make_contrasts(design, given).contrasts]
    assert names == [
        *("Age", "2 * age"),
        *("m emm(site[a])", "m emm(site[b])", "m emm(site[c])"),
        "emm(site[b]) - emm(site[a])",
        "emm(site[c]) - emm(site[a])",
        "emm(site[c]) - emm(site[b])",
    ]


def average(design: Design, text: str, **levels: str) -> np.ndarray:
    """Return the mean row over all levels of the other columns, with numbers at their means."""
    names = [n for n in parse_formula(text).variables if FRAME[n].dtype == "category"]
    grid = pd.MultiIndex.from_product([FRAME[n].cat.categories for n in names], names=names)
    rows = grid.to_frame(index=False) if names else pd.DataFrame(index=[0])
    for name in parse_formula(text).variables:
        if name in names:
            rows[name] = pd.Categorical(rows[name], FRAME[name].cat.categories)
        else:
            rows[name] = FRAME[name].mean()
    # Without transforms, rows of the grid are coded as those of the frame are.
    both = build_design(parse_formula(text), pd.concat([FRAME[list(rows)], rows]))
    assert both.X.names == design.X.names
    chosen = np.ones(len(rows), bool)
    for name, level in levels.items():
        chosen &= (rows[name] == level).to_numpy()
    return both.X.values[len(FRAME) :][chosen].mean(axis=0)


@pytest.mark.parametrize(
    ("text", "expression", "levels"),
    [
        ("sex", "emm(sex[F])", {"sex": "F"}),
        ("age * sex * site", "emm(sex[F])", {"sex": "F"}),
        ("age * sex * site", "emm(site[b]:sex[M])", {"sex": "M", "site": "b"}),
        ("age * sex * site", "emm(1)", {}),
        ("two * site + I(two ** 2)", "emm(site[c])", {"site": "c"}),
        ("0 + site:sex + age", "emm(sex[M])", {"sex": "M"}),
        ("C(site, Sum) * sex", "emm(site[c])", {"site": "c"}),
        ("C(site, Sum) * sex", "emm(C(site, Sum)[c])", {"site": "c"}),
        ("age + I(sex == 'F') * site", "emm(sex[F])", {"sex": "F"}),
        ("site / sex", "emm(sex[F])", {"sex": "F"}),
    ],
)
def test_marginal_means_are_means_over_the_grid_of_all_levels(text, expression, levels):
    design = build(text)
    expected = average(design, text, **levels)
    np.testing.assert_allclose(make_one(design, expression).matrix[0], expected, atol=1e-12)


def test_marginal_means_can_be_calculated_with():
    design = build("site * sex")
    means = make_contrasts(design, [(None, "emm(site)")]).contrasts
    contrast = make_one(design, "emm(site[b]) - (emm(site[a]) + emm(site[c])) / 2")
    expected = means[1].matrix - (means[0].matrix + means[2].matrix) / 2
    np.testing.assert_allclose(contrast.matrix, expected, atol=1e-14)


def test_transforms_keep_their_state_at_the_means():
    # At the mean of age, center(age) is 0 and not what it is for that one row.
    assert weigh(build("center(age) * sex"), "emm(sex[F]) - emm(sex[M])") == {"sex[F]": 1}


def test_main_effects_are_averages_over_levels_and_at_means():
    design = build("site * sex + age * sex")
    names = design.X.names
    expected = np.zeros(len(names))
    expected[names.index("sex[F]")] = 1
    expected[[names.index("site[b]:sex[F]"), names.index("site[c]:sex[F]")]] = 1 / 3
    expected[names.index("sex[F]:age")] = FRAME["age"].mean()
    contrast = make_one(design, "main(sex)")
    assert not contrast.is_f
    np.testing.assert_allclose(contrast.matrix[0], expected)


def test_main_effects_do_not_depend_on_the_coding():
    def test_space(text: str) -> np.ndarray:
        design = build(text)
        L = make_one(design, "main(site)").matrix
        M = np.linalg.pinv(design.X.values)  # to the means of rows, which have the same space
        Q, _ = np.linalg.qr((L @ M).T)
        return Q @ Q.T

    expected = test_space("site * sex + age:site")
    for text in ("C(site, Sum) * C(sex, Sum) + age:C(site, Sum)", "0 + site:sex + age:site"):
        np.testing.assert_allclose(test_space(text), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1", ["mean"]),
        ("age", ["age"]),
        ("age + site + bs(t, df=3)", ["age", "site", "bs(t, df=3)"]),
        ("age * site", ["main(age)", "main(site)", "age:site"]),
        ("age * site + sex", ["main(age)", "main(site)", "sex", "age:site"]),
        ("0 + site", ["site[a]", "site[b]", "site[c]"]),
        ("site:age", ["site[a]:age", "site[b]:age", "site[c]:age"]),
        ("0 + age", ["age"]),
    ],
)
def test_by_default_each_term_is_tested(text, names):
    design = build(text)
    explained = make_contrasts(design)
    assert [contrast.name for contrast in explained.contrasts] == names
    assert bool(explained.notices) is not design.is_hierarchical
    assert not check_contrasts(explained.contrasts, len(design.X.names))


@pytest.mark.parametrize(
    ("text", "expression", "where"),
    [
        ("age * sex", "age", "sex is M; main(age)"),
        ("age * sex", "sex", "age is 0; main(sex)"),
        ("age * sex", "sex[F]", "age is 0"),
        ("site * sex * age", "site", "sex is M, age is 0"),
        ("site * sex * age", "site:sex", "age is 0"),
        ("C(site, Treatment('b')) * age", "age", "site is b"),
        ("C(site, Sum) * age", "age", None),
        ("age * sex", "age + age:sex[F]", None),
        ("age * sex", "age:sex", None),
        ("age * sex", "main(age)", None),
        ("age * sex", "emm(sex[F])", None),
        ("age + sex", "age", None),
    ],
)
def test_where_a_part_of_an_interaction_holds_is_noted(text, expression, where):
    notices = make_contrasts(build(text), [(None, expression)]).notices
    assert len(notices) == (where is not None)
    assert all(f"holds where {where}" in notice for notice in notices)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("agee", "no coefficient and no term; is it age?; there are Intercept, age, sex[F]"),
        ("sex[X]", "'X' as a level of sex; its levels are M, F"),
        ("session[11]", "its levels are 1, 2"),
        ("session[1]", "1 is the reference of session, whose coefficient is 0; emm(session[1])"),
        ("age:sex[M]", "M is the reference of sex"),
        ("0 * age", "comes to zeros"),
        ("age - age", "comes to zeros"),
        ("age, session[1]", "comes to zeros"),
        ("age * sex[F]", "not linear"),
        ("1 / age", "not linear"),
        ("age / 0", "divides by 0"),
        ("age + 1", "the number 1 left over"),
        ("age = 3", "the number -3 left over"),
        ("2", "the number 2 left over"),
        ("age[1]", "age is numeric"),
        ("bs(t, df=3)[3]", "bs(t, df=3)[0], bs(t, df=3)[1], bs(t, df=3)[2]"),
        ("2 * site", "calculates with what has several"),
        ("site - sex[F]", "calculates with what has several"),
        ("emm(site) - emm(sex)", "calculates with what has several"),
        ("pairs(site), age", "several contrasts"),
        ("emm(age)", "no categorical column"),
        ("emm(sitee)", "is it site?"),
        ("emm(site[d])", "its levels are a, b, c"),
        ("pairs(site[b])", "one level only"),
        ("main(site[b])", "leave the level out"),
        ("main(sit)", "is it site?"),
        ("main(age:site)", "no term"),
        ("site : 1*a -1*b", "'1*a -1*b' right after a colon; write levels in brackets"),
        ("site : +1*a -1*b age : ", "right after a colon"),
        ("age : ", "its end right after a colon"),
        ("emm()", "nothing in emm()"),
        ("emm(site + sex)", "takes one term or level"),
        ("emm(2)", "takes one term or level"),
        ("emm(emm(site))", "takes one term or level"),
        ("site:sex", "no term"),
        ("", "its end where a name"),
        ("age +", "its end where a name"),
        ("age age", "'age' where a sign was expected"),
        ("age > 0", "'> 0' where a sign was expected"),
        ("age ** 2", "'* 2' where a name"),
        ("(age", "lacks a closing parenthesis"),
        ("age)", "')' where a sign"),
        ("sex[F", "does not close"),
        ("2*`age", "does not close"),
        ("age,", "its end where a name"),
        ("9" * 400 + "*age", "too large"),
        ("age.__class__", "no coefficient"),
        ("__import__('os')", "no coefficient"),
        ("(" * 5000 + "age" + ")" * 5000, "characters"),
        ("(" * 500 + "age" + ")" * 500, "too many parentheses"),
        ("emm(" * 50 + "site" + ")" * 50, "takes one term"),
        ("age" * 10_000, "characters"),
    ],
)
def test_what_is_no_contrast_is_refused(expression, words):
    design = build("age * sex + site + session + bs(t, df=3)")
    with pytest.raises(InputError) as raised:
        make_contrasts(design, [(None, expression)])
    [problem] = raised.value.problems
    assert problem.field == "contrasts"
    assert problem.startswith("The contrast ")
    assert words in problem
    assert len(problem) < 1_000


def test_names_that_may_mean_several_terms_are_refused():
    design = build("bs(age, df=3) + I(age > 30)")
    with pytest.raises(InputError, match=r"each of bs\(age, df=3\), I\(age > 30\)"):
        make_contrasts(design, [(None, "age")])


def test_a_name_of_a_column_wins_over_a_short_one():
    assert weigh(build("age + I(age ** 2)"), "age") == {"age": 1}


def test_every_fault_is_told_at_once():
    with pytest.raises(InputError) as raised:
        make_contrasts(build("age"), [("a", "agee"), ("b", "age"), ("c", "sex")])
    assert len(raised.value.problems) == 2


def test_a_chain_of_a_thousand_signs_is_read():
    names = [f"x{i}" for i in range(3)]
    frame = pd.DataFrame({name: np.sin(I * (k + 1.5)) for k, name in enumerate(names)})
    design = build_design(parse_formula(" + ".join(names)), frame)
    expression = " + ".join(names * 300)
    assert weigh(design, expression) == dict.fromkeys(names, 300)


PIECES = st.sampled_from(
    [*"+-*/()[]:,=.`'\"01 ", "age", "sex[F]", "site", "emm(", "pairs(", "main(", "2.5", "sex", "é"]
)


@given(st.lists(PIECES, max_size=15).map("".join))
def test_any_text_is_a_contrast_or_one_fault(text):
    try:
        contrasts = make_contrasts(DESIGN, [("name", text)]).contrasts
    except InputError as error:
        [_] = error.problems
    else:
        assert contrasts
        assert all(np.isfinite(c.matrix).all() and c.matrix.any() for c in contrasts)


DESIGN = build("age * sex + site")


ATOMS = ["age", "two", "sex", "site", "odd", "`my col`", "C(t)", "C(site, Sum)", "S(sex)"]
ATOMS += ["bs(age, df=3)", "poly(t, 2)", "I(sex == 'F')", "center(age)", "C(site, Treatment('b'))"]
PRODUCTS = st.lists(st.sampled_from(ATOMS), min_size=1, max_size=3).flatmap(
    lambda atoms: st.sampled_from([" * ", ":", " / ", " + ", " - "]).map(lambda s: s.join(atoms))
)


@settings(max_examples=50)
@given(st.sampled_from(["", "0 + "]), st.lists(PRODUCTS, min_size=1, max_size=3).map(" + ".join))
def test_any_formula_has_contrasts_by_default_that_can_be_used(start, text):
    try:
        design = build(start + text)
    except InputError as error:
        [_] = error.problems
        return
    assert np.isfinite(design.X.values).all()
    assert len(set(design.X.names)) == design.X.values.shape[1]
    contrasts = make_contrasts(design).contrasts
    assert not check_contrasts(contrasts, design.X.values.shape[1])
