"""Formulas are read as R and lme4 read them, and all else is refused by its name."""

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.formula.parse import Formula, parse_formula


def write_terms(formula: Formula) -> str:
    return " + ".join(":".join(term) or "1" for term in formula.fixed.terms) or "0"


def write_bars(formula: Formula) -> list[str]:
    return [
        f"{' + '.join(':'.join(t) or '1' for t in bar.effects.terms)} "
        f"{'|' if bar.correlated else '||'} {bar.name}"
        for bar in formula.bars
    ]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("1", "1"),
        ("~ 1", "1"),
        ("age", "1 + age"),
        ("y ~ age", "1 + age"),
        ("image ~\n  age +\u00a0sex\t", "1 + age + sex"),
        ("\ufeff~age", "1 + age"),
        ("0 + age", "age"),
        ("age - 1", "age"),
        ("age + 0", "age"),
        ("-1 + age", "age"),
        ("age - 0", "1 + age"),
        ("(0 + age)", "age"),
        ("0 + age + 1", "1 + age"),
        ("a * b", "1 + a + b + a:b"),
        ("a:b + b + a", "1 + b + a + a:b"),  # main effects first
        ("b:a + a:b", "1 + b:a"),  # one term, as its columns come
        ("a:a", "1 + a"),
        ("a + a", "1 + a"),
        ("a / b", "1 + a + a:b"),
        ("(a + b) / c", "1 + a + b + a:b:c"),
        ("a / b / c", "1 + a + a:b + a:b:c"),
        ("a / (b + c)", "1 + a + a:b + a:c"),
        ("(a + b + c)**2", "1 + a + b + c + a:b + a:c + b:c"),
        ("(a + b)**9", "1 + a + b + a:b"),
        ("(a + b + c)**3 - a:b:c - b:a", "1 + a + b + c + a:c + b:c"),
        ("a * b - b", "1 + a + a:b"),
        ("a - b", "1 + a"),
        ("a - (b + c)", "1 + a"),
        ("a * (b + c)", "1 + a + b + c + a:b + a:c"),
        ("a:(b + c)", "1 + a:b + a:c"),
        ("`my col` + `18-25`", "1 + my col + 18-25"),
        ("a.b + a_b + é1", "1 + a.b + a_b + é1"),
        ("{age ** 2}", "1 + I(age ** 2)"),
        ("I((a + b) * c) + I(a + b * c)", "1 + I((a + b) * c) + I(a + b * c)"),
        ("bs(age,df=4)", "1 + bs(age, df=4)"),
        ("C(x,Treatment('it \"is\"'))", "1 + C(x, Treatment('it \"is\"'))"),
        ("a \u2212 1", "a"),
    ],
)
def test_terms_are_those_of_r(text, terms):
    assert write_terms(parse_formula(text)) == terms


@pytest.mark.parametrize(
    ("text", "bars"),
    [
        ("(1 | s)", ["1 | s"]),
        ("(1|s)", ["1 | s"]),
        ("((1 | s))", ["1 | s"]),
        ("(t | s)", ["1 + t | s"]),
        ("(1 + t | s)", ["1 + t | s"]),
        ("(0 + t | s)", ["t | s"]),
        ("(-1 + t | s)", ["t | s"]),
        ("(1 + t || s)", ["1 + t || s"]),
        ("(t | | s)", ["1 + t || s"]),
        ("(1 | a / b)", ["1 | a", "1 | a:b"]),
        ("(1 | a / b / c)", ["1 | a", "1 | a:b", "1 | a:b:c"]),
        ("(t || a / b)", ["1 + t || a", "1 + t || a:b"]),
        ("(1 | a:b)", ["1 | a:b"]),
        ("(1 | (a:b))", ["1 | a:b"]),
        ("(1 | a) + (1 | b)", ["1 | a", "1 | b"]),
        ("(a * b | s)", ["1 + a + b + a:b | s"]),
        ("(1 | C(s))", ["1 | s"]),
        ("(1 | `my subject`)", ["1 | my subject"]),
        ("(bs(t, df=3) | s)", ["1 + bs(t, df=3) | s"]),
    ],
)
def test_random_effects_are_those_of_lme4(text, bars):
    formula = parse_formula(f"y ~ age + {text}")
    assert write_bars(formula) == bars
    assert write_terms(formula) == "1 + age"
    assert formula.is_mixed


def test_columns_are_listed_in_their_order_with_those_of_fixed_effects_first():
    formula = parse_formula("y ~ (t | s / v) + np.log(age) * C(sex, Sum) + I(b == 'x') - a")
    assert formula.variables == ["age", "sex", "b", "t", "s", "v"]
    assert formula.grouping == ["s", "v"]
    assert formula.response == "y"
    assert not parse_formula("1").variables


REFUSED = {
    # What other programs write, and what to write here.
    "y ~": "~ 1 for the mean",
    "": "~ 1 for the mean",
    "   ": "~ 1 for the mean",
    "age + offset(x)": "taken off the images",
    "y ~ age, random = ~1|s": "(1 | subject)",
    "y ~ age, random=~1|s, data=d": "sets random=",
    "1 + a|s": "parentheses",
    "y ~ 1 + a || s": "parentheses",
    "hsgp(x, m=10, c=2)": "bs(x, df=4)",
    "prop(a, b)": "the images are the response",
    "age^2": "I(age**2)",
    "a %in% b": "a:b",
    "factor(site)": "C(site)",
    "as.factor(site)": "C(site)",
    "s(age)": "bs(age, df=4)",
    "s(age, k=5) + sex": "bs(age, df=4)",
    "ns(age, 3)": "cr(age, df=4)",
    "relevel(g, ref='b')": 'C(g, Treatment("level"))',
    "Q('my col')": "backticks",
    "a + Error(s)": "(1 | subject)",
    "diag(1 + t | s)": "(1 + t || subject)",
    "d$age": "without that of its table",
    "a & b": "a:b",
    ".": "name each column",
    "age + .": "name each column",
    "C(site, Helmert)": "Treatment",
    "C(site, contr.sum)": "Sum",
    "C(site, 'aa')": "Treatment('aa')",
    "T(site, ref=b)": 'such as "a"',
    "C(site, levels=l)": "contrast",
    "bs(age)": "df",
    "bs(age, knots=c)": "df",
    "bs(age, df=1000)": "from 1 to 100",
    "bs(age, df=-1)": "from 1 to 100",
    "bs(age, df=n)": "numbers",
    "poly(age, 0)": "from 1 to 100",
    "scale(age, 2)": "takes one",
    "C()": "without a column",
    "C(a + b)": "the name of a column",
    "sex[M]": 'I(sex == "M")',
    "2 * age": "I(2 * age)",
    "age / 2": "I(2 * age)",
    "age + 2": "I(2 * age)",
    "age ** 2": "I(age ** 2)",
    "(a + b)**x": "whole number",
    "(a + b)**0": "whole number",
    "age > 40": "I(age > 40)",
    "a + (1 | s) * b": "in parentheses",
    "a - (1 | s)": "leave random effects out",
    "(1 | a + b)": "(1 | a) + (1 | b)",
    "(1 | a * b)": "a/b",
    "(1 | a | b)": "two bars",
    "(1 ||| a)": "|||",
    "(0 | s)": "random intercept",
    "(1 | 1)": "no grouping",
    "(1 | )": "lacks something",
    "0": "intercept",
    "0 + (1 | s)": "intercept",
    "y ~ a ~ b": "more than one ~",
    "log(y) ~ a": "the images are the response",
    "cbind(a, b) ~ c": "the images are the response",
    "y = a + b": "sets y=",
    "a b": "backticks",
    "a + ": "lacks something at its end",
    "(a": "without its end",
    "a)": "closes nothing",
    "(a}": "closes nothing",
    "`a": "close what it opens",
    "``": "of no character",
    "C(a, 'b)": "close what it opens",
    "_x": "backticks",
    "Intercept": "another name",
    "True": "only 1",
    "I(1)": "has no column",
    "I('a')": "has no column",
    "center(bs(x, df=4))": "a term of its own",
    "I(C(x))": "a term of its own",
    "I(1 < a < 2)": "each in parentheses",
    "I(1 < (a < 2) == b)": "each in parentheses",
    "I(a | b)": "+ - * / **",
    "I(a ~ b)": "more than one name",
    "a:b:c:d:e:f:g:h:i": "8 is the most",
    # Nothing of Python is within reach.
    "__import__('os')": "backticks",
    "os.system('ls')": "no function here",
    "np.load('x')": "is it np.log?",
    "np.linalg.inv(x)": "no function here",
    "np.log.__class__(x)": "no function here",
    "eval('1')": "no function here",
    "getattr(x, 'y')": "no function here",
    "x.sum()": "no function here",
    "(lambda)(x)": "no function here",
    "f(x)(y)": "no function here",
    "I(open(x))": "no function here",
}


@pytest.mark.parametrize(("text", "advice"), REFUSED.items())
def test_what_is_no_formula_is_refused_with_the_way_out(text, advice):
    with pytest.raises(InputError) as raised:
        parse_formula(text)
    [problem] = raised.value.problems
    assert problem.field == "formula"
    assert advice in problem


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10**7,
        "(" * 10_000 + "a" + ")" * 10_000,
        "(" * 5_000 + "a",
        "(" * 300 + "a" + ")" * 300,
        "{" * 300 + "a" + "}" * 300,
        "-" * 4_999 + "1",
        "a+" * 6_000 + "a",
        "a*" * 2_000 + "a",
        ":".join(f"a{i}" for i in range(1_000)),
        "*".join(f"a{i}" for i in range(40)),
        "(" + "+".join(f"a{i}" for i in range(300)) + ")**2",
        "(a + b + c + d + e + f + g + h + i + j + k + l)**999999999999",
        "I(" * 200 + "a" + ")" * 200,
        "I(" + "a+" * 2_000 + "a)",
        "log(" * 15 + "a" + ")" * 15 + "|" * 4_000,
        "a(" * 20 + ")" * 20,
        "a" + "(b)" * 1_000,
    ],
)
def test_monstrous_formulas_are_one_fault(text):
    with pytest.raises(InputError) as raised:
        parse_formula(text)
    assert len(raised.value.problems) == 1
    assert len(str(raised.value)) < 1_000


def test_a_thousand_terms_are_read():
    names = [f"confound{i}" for i in range(1_000)]
    assert parse_formula(" + ".join(names)).variables == names


def test_the_deepest_formula_that_is_allowed_leaves_room_on_the_stack():
    depth = sys.getrecursionlimit()
    assert parse_formula("(" * 20 + "a" + ")" * 20).variables == ["a"]
    assert sys.getrecursionlimit() == depth


PIECES = st.sampled_from(
    [*"abc01+-*/:()|~[]{}`'\",=.<>! ", "**", "||", "I(", "C(", "bs(", "np.log(", "df=4", "sex", "é"]
)


@given(st.lists(PIECES, max_size=25).map("".join))
@example("²")
@example("1²")
@example("a\x00b")
def test_any_text_is_a_formula_or_one_fault(text):
    try:
        formula = parse_formula(text)
    except InputError as error:
        [_] = error.problems
    else:
        assert formula.fixed.terms
        # What was read can be read again.
        assert parse_formula(formula.text).variables == formula.variables
