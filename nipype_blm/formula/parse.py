"""A formula, from its text: what is fixed, what is random, and which columns it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from formulae.expr import Binary, Call, QuotedName, Variable
from formulae.token import Token

from nipype_blm.errors import show
from nipype_blm.formula.algebra import Atoms, Side, expand, list_summands
from nipype_blm.formula.functions import is_categorical_call, name_of
from nipype_blm.formula.syntax import Expr, parse, scan, strip, write
from nipype_blm.formula.words import refuse


class Bar(NamedTuple):
    """Random effects, such as (1 + t | subject)."""

    effects: Side
    grouping: Atoms  # columns whose labels together are a level
    correlated: bool  # False: written with ||
    text: str

    @property
    def name(self) -> str:
        """What the factor is called, such as ``site:subject``."""
        return ":".join(self.grouping)


@dataclass(frozen=True, eq=False)
class Formula:
    """A formula that has been read; nothing of it has been evaluated."""

    text: str
    fixed: Side
    bars: Sequence[Bar]
    response: str | None = None  # what stands before ~

    @property
    def is_mixed(self) -> bool:
        """Whether it has random effects."""
        return bool(self.bars)

    @property
    def grouping(self) -> list[str]:
        """Columns that are labels of random factors, in the order of the formula."""
        return list(dict.fromkeys(name for bar in self.bars for name in bar.grouping))

    @property
    def variables(self) -> list[str]:
        """Columns that it needs, those of fixed effects first."""
        random = (name for bar in self.bars for name in (*bar.effects.columns, *bar.grouping))
        return list(dict.fromkeys((*self.fixed.columns, *random)))


def parse_formula(text: str) -> Formula:
    """Return the formula that a text has.

    Fixed effects are written as in R, and random effects as in lme4.  What stands before ``~``
    is not part of the model: the images are the response.  ``||`` makes all random effects of a
    term independent; lme4 keeps the correlations between the columns of a categorical one.

    Parameters
    ----------
    text : str
        Such as ``age * sex + (1 + age | subject)``, with or without ``~`` and a response.

    Raises
    ------
    InputError
        If it is no formula, or has what no model here can have.
    """
    tokens = scan(text)
    _check_habits(tokens, text)
    right, response = _split_response(tokens, text)
    if not right:
        raise refuse(
            "The formula {text} has no term; give terms, such as ~ age + sex, or ~ 1 for the mean.",
            text=show(text),
        )
    fixed, bars = [], []
    for sign, expr in list_summands(parse(right, text)):
        if _is_bar(expr):
            bars += _read_bars(expr, sign, text)
        else:
            fixed.append((sign, expr))
    side = expand(fixed)
    if not side.terms:
        raise refuse(
            "The formula {text} has no fixed effect; leave out 0 or -1 for an intercept.",
            text=show(text),
        )
    return Formula(text, side, tuple(bars), response)


def _split_response(tokens: Sequence[Token], text: str) -> tuple[Sequence[Token], str | None]:
    tildes = [i for i, token in enumerate(tokens) if token.kind == "TILDE"]
    if len(tildes) > 1:
        raise refuse(
            "The formula {text} has more than one ~; write random effects as (1 | subject).",
            text=show(text),
        )
    if not tildes:
        return tokens, None
    left, right = tokens[: tildes[0]], tokens[tildes[0] + 1 :]
    if not left:
        return right, None
    if len(left) == 1 and left[0].kind in ("IDENTIFIER", "BQNAME"):
        return right, left[0].lexeme.strip("`")
    raise refuse(
        "The formula {text} has more than one name before ~; the images are the response, "
        "as they are: leave that out.",
        text=show(text),
    )


def _check_habits(tokens: Sequence[Token], text: str) -> None:
    """Refuse what nlme writes, which would be told in less helpful words elsewhere."""
    depth = 0
    for token, following in zip_longest(tokens, tokens[1:]):
        depth += token.kind in ("LEFT_PAREN", "LEFT_BRACE")
        depth -= token.kind in ("RIGHT_PAREN", "RIGHT_BRACE")
        if depth == 0 and following is not None and following.kind == "EQUAL":
            raise refuse(
                "The formula {text} sets {name}=; a formula has terms only, and random effects "
                "are terms of it, such as age + (1 | subject).",
                text=show(text),
                name=token.lexeme,
            )
        if depth == 0 and token.kind == "PIPE":
            raise refuse(
                "The formula {text} has {bar} outside of parentheses; put random effects into "
                "them, such as age + (1 + age {bar} subject).",
                text=show(text),
                bar=token.lexeme,
            )


def _is_bar(expr: Expr) -> bool:
    return isinstance(expr, Binary) and expr.operator.kind == "PIPE"


def _read_bars(expr: Binary, sign: int, text: str) -> list[Bar]:
    """Return the random effects of one pair of parentheses; a/b has several groupings."""
    written = write(expr)
    if sign == -1:
        raise refuse(
            "The formula {text} takes ({bar}) away; leave random effects out that are not meant.",
            text=show(text),
            bar=written,
        )
    if _is_bar(strip(expr.left)):
        raise refuse("The formula has ({bar}) with two bars; write (1 | a) + (1 | b).", bar=written)
    effects = expand(list_summands(expr.left))
    if not effects.terms:
        raise refuse(
            "The formula has ({bar}) without any random effect; write (1 | subject) for a random "
            "intercept.",
            bar=written,
        )
    correlated = expr.operator.lexeme == "|"
    groupings = _list_groupings(strip(expr.right), written)
    return [Bar(effects, grouping, correlated, written) for grouping in groupings]


def _list_groupings(expr: Expr, bar: str) -> list[Atoms]:
    """Return the groupings that stand right of a bar."""
    if is_categorical_call(expr) and isinstance(expr, Call):
        expr = strip(expr.args[0])  # a label is categorical in any case
    if isinstance(expr, Variable | QuotedName):
        return [(name_of(expr) or "",)]
    if isinstance(expr, Binary) and expr.operator.kind in ("COLON", "SLASH"):
        left = _list_groupings(strip(expr.left), bar)
        right = _list_groupings(strip(expr.right), bar)
        if expr.operator.kind == "COLON" and len(left) == len(right) == 1:
            return [_join(left[0], right[0])]
        if expr.operator.kind == "SLASH":
            return [*left, *(_join(left[-1], inner) for inner in right)]
    raise refuse(
        "The formula has ({bar}), and {grouping} is no grouping; write the column of labels, a:b "
        "for the combinations of two, a/b for b within a, and (1 | a) + (1 | b) for crossed ones.",
        bar=bar,
        grouping=write(expr),
    )


def _join(outer: Atoms, inner: Atoms) -> Atoms:
    return tuple(dict.fromkeys((*outer, *inner)))
