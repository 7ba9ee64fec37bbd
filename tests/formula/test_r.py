"""Designs, random effects and contrasts are those of R, lme4 and emmeans."""

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from oracles.formulas import Answer, Case, requires_emmeans, run_r

from nipype_blm.formula.contrasts import make_contrasts
from nipype_blm.formula.design import Design, build_design
from nipype_blm.formula.parse import parse_formula
from nipype_blm.model.contrasts import Contrast

pytestmark = requires_emmeans

N_ROWS = 72


def make_frame() -> pd.DataFrame:
    """Return unbalanced data without empty cells, whose levels are in no order of the alphabet."""
    rng = np.random.default_rng(7)
    n = N_ROWS
    subject = np.arange(n) // 3
    group = np.array(["pat", "con", "sib", "z"])[subject % 4]
    sites = np.array(["10", "2", "b"])[rng.permutation(np.arange(n)) % 3]
    sexes = np.array(["M", "F"])[(subject // 4 + (rng.random(n) < 0.2)) % 2]
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "age": rng.normal(40, 9, n).round(2),
            "dose": rng.gamma(2.0, 2.0, n).round(3) + 0.1,
            "t": np.arange(n) % 3 * 1.0,
            "sex": pd.Categorical(sexes, ["M", "F"]),
            "site": pd.Categorical(sites, ["2", "10", "b"]),
            "group": pd.Categorical(group, ["con", "pat", "sib", "z"]),
            "code": 1.0 + rng.integers(0, 3, n),
            "subject": pd.Categorical([f"{i:02d}" for i in subject]),
            "family": pd.Categorical([f"f{i}" for i in subject // 4]),
            "member": pd.Categorical([f"m{i}" for i in subject % 4]),
            "my col": rng.normal(size=n).round(3),
        }
    )


FRAME = make_frame()

FIXED = [
    *("1", "age", "0 + age", "sex", "0 + sex", "site", "0 + site", "site - 1", "sex + site"),
    *("0 + sex + site", "age + sex", "age * sex", "age:sex", "sex:age", "age + age:sex"),
    *("sex + age:sex", "site * sex", "sex:site", "site / sex", "sex / site", "age / sex"),
    *("0 + site:sex", "0 + site + site:age", "0 + age + sex:age", "age * dose", "age:dose"),
    *("age * sex * site", "(age + sex + site)**2", "(age + sex + site)**2 - age:sex"),
    *("group * age - age", "group + age * sex + dose", "group / age", "0 + group / age"),
    *("sex * group + age:site", "site:group", "sex + site:sex:age", "(sex + site) / age"),
    *("sex * site - site", "(sex * age) - 1", "sex + (age + dose)**3"),
    *("1 + sex - 1 + age", "`my col` * sex", "I(age**2) + age", "I((age - 40) / 10) * site"),
    "I(-(age / 40)**2) + I((dose / 9)**2**3)",
    *(
        "np.log(dose) * sex",
        "sqrt(dose) + np.exp(I(-dose))",
        "age + age:dose:sex",
    ),
]
# Those of R have other columns, and the same space.
SPACES = {
    "bs(age, df=4)": "bs(age, df=4)",
    "bs(age, df=5, degree=2) + sex": "bs(age, df=5, degree=2) + sex",
    "bs(age, df=3) * sex": "bs(age, df=3) * sex",
    "poly(age, 3)": "poly(age, 3)",
    "poly(age, 2) * site": "poly(age, 2) * site",
    "poly(age, 2, raw=True)": "poly(age, 2, raw=TRUE)",
    "cr(age, df=4)": "ns(age, knots=quantile(unique(age), 1:3/4))",
    "center(age) * sex": "scale(age, scale=FALSE)[, 1] * sex",
    "scale(age)": "scale(age)[, 1]",
    "C(site, Sum) * sex": "C(site, contr.sum) * sex",
    "S(site)": "C(site, contr.sum)",
    "0 + C(site, Sum)": "0 + C(site, contr.sum)",
    "C(code)": "factor(code)",
    "C(code) * sex": "factor(code) * sex",
    "C(site, Treatment('b'))": "relevel(site, 'b')",
    "C(code, Treatment(2)) * age": "relevel(factor(code), '2') * age",
    "I(sex == 'F')": "I(sex == 'F')",
    "{age + dose}": "I(age + dose)",
}
RANDOM = [
    *("(1 | subject)", "(t | subject)", "(1 + t | subject)", "(0 + t | subject)"),
    *("(1 | family / member)", "(1 | family:member)", "(1 | member) + (1 | family)"),
    *("(1 | site / family / member)", "(1 + t | family / member)", "(site | subject)"),
    *("(0 + site | family)", "(sex * t | site)", "(1 | subject) + (0 + t | subject)"),
    *("(1 + t || subject)", "(t + age || family) + (1 | site)", "(1 | subject) + (t | site:sex)"),
    *("(0 + sex | family) + (0 + age | family)", "(1 | code)", "(1 | code:sex)"),
]
MEANS = {
    "sex": [
        "age + sex",
        "age * sex",
        "site * sex + dose",
        "age * sex * site",
        "poly(age, 2) * sex",
    ],
    "site": ["site", "0 + site", "site * sex", "site * age + group", "bs(age, df=3) * site"],
    "site:sex": ["site * sex", "site * sex + age:site", "site / sex", "I(age**2) + site + sex"],
}
TYPE3 = [
    "age * sex",
    "site * sex",
    "site * sex + age",
    "age * sex * site",
    "(sex + site + dose)**2",
]
CURVES = ["bs(age, df=3) * sex", "poly(age, 2) * site + dose"]


def random_formulas(n: int) -> list[str]:
    """Return sums of random products of columns."""
    rng = np.random.default_rng(11)
    columns = ["age", "dose", "sex", "site", "group"]
    texts = []
    for _ in range(n):
        parts = []
        for _ in range(rng.integers(1, 4)):
            chosen = rng.choice(columns, rng.integers(1, 4), replace=False)
            parts.append(rng.choice(["*", ":", "/"]).join(chosen))
        start = rng.choice(["", "", "0 + "])
        texts.append(start + " + ".join(parts))
    return texts


RANDOM_FIXED = random_formulas(25)


def to_r(text: str) -> str:
    return "~ " + text.replace("**", "^").replace("np.", "")


def make_cases() -> dict[tuple[str, str], Case]:
    cases = {}
    for text in FIXED + RANDOM_FIXED:
        cases["fixed", text] = Case("give_fixed", to_r(text), "d")
    for text, in_r in SPACES.items():
        cases["fixed", text] = Case("give_fixed", f"~ {in_r}", "d")
    for text in RANDOM:
        # lme4 takes code for a number here, and as a grouping all the same.
        cases["random", text] = Case("give_random", f"y ~ {text}", "d")
    for specs, formulas in MEANS.items():
        for text in formulas:
            more = f"specs = ~ {specs}"
            cases[f"means {specs}", text] = Case("give_means", to_r(text), "d", more)
            cases[f"pairs {specs}", text] = Case("give_pairs", to_r(text), "d", more)
    for text in TYPE3:
        cases["joint", text] = Case("give_joint", to_r(text), "d")
    for text in CURVES:
        cases["type3", text] = Case("give_type3", to_r(text), "d")
    return cases


CASES = make_cases()


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, str], Answer]:
    return dict(zip(CASES, run_r({"d": FRAME}, list(CASES.values())), strict=True))


def build(text: str) -> Design:
    return build_design(parse_formula(text), FRAME)


def project(X: np.ndarray) -> np.ndarray:
    """Return the projection on the space of columns."""
    Q, s, _ = np.linalg.svd(X / np.linalg.norm(X, axis=0), full_matrices=False)
    Q = Q[:, s > 1e-10 * s[0]]
    return Q @ Q.T


def name_in_r(name: str) -> str:
    """Return what R calls a column."""
    name = "(Intercept)" if name == "Intercept" else name
    return re.sub(r"\[(.*?)\]", r"\1", name).replace("**", "^").replace("np.", "")


def list_keys(kind: str) -> list[str]:
    return [text for name, text in CASES if name == kind]


@pytest.mark.parametrize("text", list_keys("fixed"))
def test_columns_of_fixed_effects_are_those_of_r(text, answers):
    design = build(text)
    X = design.X.values
    answer = answers["fixed", text]
    names = answer.take_texts()
    expected = answer.take_matrix(N_ROWS)
    np.testing.assert_allclose(project(X), project(expected), atol=1e-10)
    rank = np.linalg.matrix_rank(X)
    if text in SPACES or np.linalg.matrix_rank(expected) < len(names):
        assert rank == X.shape[1] or "group" in text  # empty cells aside, no column too many
        return
    ours = dict(zip(map(name_in_r, design.X.names), X.T, strict=True))
    if "I(" in text or "my col" in text:
        ours = {re.sub("[` ]", "", name): column for name, column in ours.items()}
        names = [re.sub("[` ]", "", name) for name in names]
    assert sorted(ours) == sorted(names)
    for name, column in zip(names, expected.T, strict=True):
        np.testing.assert_allclose(ours[name], column, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("text", RANDOM)
def test_random_effects_are_those_of_lme4(text, answers):
    design = build(text)
    answer = answers["random", text]
    # Of a factor without correlations, lme4 has a term for each column.
    ours: Counter[tuple] = Counter()
    parts = {}
    for factor in design.factors:
        names = [name_in_r(name) for name in factor.design.names]
        groups = [names] if factor.correlated else [[name] for name in names]
        for group in groups:
            name = re.sub(r"\.\d+$", "", factor.name)
            key = (*sorted(name.split(":")), *sorted(group))
            ours[key] += 1
            parts[key] = factor, [names.index(column) for column in group], group
    [n_terms] = answer.take_numbers()
    for _ in range(int(n_terms)):
        grouping, effects, levels = (answer.take_texts() for _ in range(3))
        Z = answer.take_matrix(N_ROWS)
        inner_first = re.sub(r"[()]|\.\d+$", "", grouping[0]).split(":")
        key = (*sorted(inner_first), *sorted(effects))
        ours[key] -= 1
        factor, columns, group = parts[key]
        order = [columns[group.index(effect)] for effect in effects]
        # lme4 writes the columns of a nested grouping in another order.
        outer_first = re.sub(r"\.\d+$", "", factor.name).split(":")
        at = [outer_first.index(name) for name in inner_first]
        labels = [":".join(label.split(":")[i] for i in at) for label in factor.labels]
        known = {level: number for number, level in enumerate(levels)}
        expected = np.zeros((N_ROWS, len(levels), len(effects)))
        at = [known[label] for label in labels]
        expected[np.arange(N_ROWS), at] = factor.design.values[:, order]
        np.testing.assert_allclose(expected.reshape(N_ROWS, -1), Z, rtol=1e-12)
    assert not any(ours.values())


def estimate(design: Design, contrasts: list[Contrast]) -> tuple[np.ndarray, np.ndarray]:
    """Return estimates and their standard errors."""
    beta, sigma2, inverse = fit(design)
    L = np.vstack([contrast.matrix for contrast in contrasts])
    return L @ beta, np.sqrt(sigma2 * np.einsum("ij,jk,ik->i", L, inverse, L))


def fit(design: Design) -> tuple[np.ndarray, float, np.ndarray]:
    X, y = design.X.values, FRAME["y"].to_numpy()
    inverse = np.linalg.inv(X.T @ X)
    beta = inverse @ X.T @ y
    return beta, float(np.sum((y - X @ beta) ** 2) / (len(X) - X.shape[1])), inverse


def compute_f(design: Design, contrast: Contrast) -> float:
    beta, sigma2, inverse = fit(design)
    L = contrast.matrix
    value = L @ beta
    return float(value @ np.linalg.solve(L @ inverse @ L.T, value) / len(L) / sigma2)


@pytest.mark.parametrize(
    ("function", "specs", "text"),
    [
        (function, specs, text)
        for function in ("means", "pairs")
        for specs, formulas in MEANS.items()
        for text in formulas
    ],
)
def test_marginal_means_and_their_differences_are_those_of_emmeans(function, specs, text, answers):
    design = build(text)
    call = "emm" if function == "means" else "pairs"
    contrasts = make_contrasts(design, [(None, f"{call}({specs})")]).contrasts
    estimates, errors = estimate(design, contrasts)
    answer = answers[f"{function} {specs}", text]
    order = np.argsort(estimates)
    expected, expected_errors = answer.take_numbers(), answer.take_numbers()
    order_in_r = np.argsort(expected)
    if function == "pairs" and ":" in specs:  # signs depend on the order of combinations
        order, order_in_r = np.argsort(np.abs(estimates)), np.argsort(np.abs(expected))
        estimates, expected = np.abs(estimates), np.abs(expected)
    np.testing.assert_allclose(estimates[order], expected[order_in_r], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(errors[order], expected_errors[order_in_r], rtol=1e-8)


@pytest.mark.parametrize(("kind", "text"), [key for key in CASES if key[0] in ("joint", "type3")])
def test_default_contrasts_are_type_three_tests(kind, text, answers):
    design = build(text)
    answer = answers[kind, text]
    names, p_values, dfs = answer.take_texts(), answer.take_numbers(), answer.take_numbers()
    expected = {
        frozenset(re.sub(" ", "", name).split(":")): (p, df)
        for name, p, df in zip(names, p_values, dfs, strict=True)
    }
    contrasts = make_contrasts(design).contrasts
    compared = 0
    for contrast in contrasts:
        name = re.sub(r"^main\((.*)\)$", r"\1", contrast.name).replace(" ", "")
        if kind == "type3" and name in ("sex", "site"):
            continue  # there, R has curves at their means over rows; see emmeans above
        p, df = expected[frozenset(name.split(":"))]
        assert len(contrast.matrix) == df
        assert contrast.is_f == (df > 1)
        residual = len(FRAME) - design.X.values.shape[1]
        ours = scipy.stats.f.sf(compute_f(design, contrast), df, residual)
        np.testing.assert_allclose(ours, p, rtol=1e-7)
        compared += 1
    assert compared >= 2
