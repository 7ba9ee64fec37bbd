"""A formula as a list of terms, by the rules of R: a*b, a:b, a/b, (a + b)**2, a - b."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from formulae.expr import Assign, Binary, Call, Literal, QuotedName, Unary, Variable

from nipype_blm.errors import shorten, show
from nipype_blm.formula.functions import check_call, list_columns, name_of
from nipype_blm.formula.syntax import Expr, find_depth, strip, write
from nipype_blm.formula.words import refuse

Atoms = tuple[str, ...]  # a term: texts of what it is a product of; () is the intercept

_DEEPEST = 60  # nodes above each other in a summand
_MOST_TERMS = 2_000
_MOST_ATOMS = 8  # in one interaction; the search for its coding takes 2^n steps


class Side(NamedTuple):
    """The terms of a formula, or of the left side of a bar."""

    atoms: dict[str, Expr]  # columns and calls, by their texts, in the order of the formula
    terms: list[Atoms]  # intercept and main effects first, as in R

    @property
    def columns(self) -> list[str]:
        """The columns that the terms need, in the order of the formula."""
        names = (name for expr in self.atoms.values() for name in list_columns(expr))
        return list(dict.fromkeys(names))


def list_summands(expr: Expr) -> Iterator[tuple[int, Expr]]:
    """Yield what is added (1) or taken away (-1), from left to right, without recursion."""
    waiting = [(1, expr)]
    while waiting:
        sign, node = waiting.pop()
        node = strip(node)
        if isinstance(node, Binary) and node.operator.kind in ("PLUS", "MINUS"):
            other = -sign if node.operator.kind == "MINUS" else sign
            waiting += [(other, node.right), (sign, node.left)]
        elif isinstance(node, Unary):
            waiting.append((-sign if node.operator.kind == "MINUS" else sign, node.right))
        else:
            yield sign, node


def expand(summands: Iterable[tuple[int, Expr]]) -> Side:
    """Return the terms of a sum, with an intercept unless it is taken away.

    Raises
    ------
    InputError
        If a summand means nothing here, or there are too many terms.
    """
    atoms: dict[str, Expr] = {}
    terms: dict[frozenset[str], None] = {}  # a:b is b:a
    has_intercept = True
    for sign, expr in summands:
        if isinstance(expr, Literal):
            has_intercept = (_read_intercept(expr) == 1) == (sign == 1)
            continue
        if find_depth(expr, _DEEPEST) == _DEEPEST:
            raise refuse(
                "The formula has {text}, which has too many parts within each other; "
                "make it simpler.",
                text=show(_write_start(expr)),
            )
        for term in map(frozenset, _expand_product(expr, atoms)):
            if sign == 1:
                terms[term] = None
            else:
                terms.pop(term, None)
        _check_number(len(terms))
    order = {atom: position for position, atom in enumerate(atoms)}
    ordered = [tuple(sorted(term, key=order.__getitem__)) for term in terms]
    used = {atom for term in ordered for atom in term}  # others were taken away
    kept = {atom: expr for atom, expr in atoms.items() if atom in used}
    return Side(kept, sorted([()] * has_intercept + ordered, key=len))


def _write_start(expr: Expr) -> str:
    """Return the text of the end of a tree that may be too deep to be written."""
    while find_depth(expr, _DEEPEST) == _DEEPEST and isinstance(expr, Binary):
        expr = strip(expr.right)
    return "..." if find_depth(expr, _DEEPEST) == _DEEPEST else f"... {write(expr)}"


def _read_intercept(expr: Literal) -> int:
    if expr.value in (0, 1) and type(expr.value) is int:
        return int(expr.value)
    raise refuse(
        "The formula has {text} as a term; only 1 (an intercept) and 0 (none) are numbers there, "
        "and I() holds arithmetic, such as I(2 * age).",
        text=show(write(expr)),
    )


def _expand_product(expr: Expr, atoms: dict[str, Expr]) -> list[Atoms]:
    """Return the terms of what is no plain sum; its columns and calls are added to `atoms`."""
    expr = strip(expr)
    if isinstance(expr, Binary):
        return _expand_binary(expr, atoms)
    if isinstance(expr, Variable | QuotedName | Call):
        return [(_note_atom(expr, atoms),)]
    if isinstance(expr, Literal):
        raise refuse(
            "The formula has {text} in a product of terms; I() holds arithmetic, such as "
            "I(2 * age) or I(age ** 2).",
            text=show(write(expr)),
        )
    if isinstance(expr, Assign):
        raise refuse(
            "The formula has {text}; give terms only, such as age + sex.", text=show(write(expr))
        )
    raise refuse(
        "The formula has {text} in a product of terms; leave the sign out.", text=show(write(expr))
    )


def _note_atom(expr: Expr, atoms: dict[str, Expr]) -> str:
    """Return the text of a column or call, by which it is known."""
    if isinstance(expr, Call):
        check_call(expr)
        text = write(expr)
    else:
        text = name_of(expr) or ""
        if text == "Intercept":
            raise refuse(
                "The formula has a column with the name Intercept, which is that of the mean; "
                "write 1 for the mean, or give the column another name."
            )
    atoms.setdefault(text, expr)
    return text


def _expand_binary(expr: Binary, atoms: dict[str, Expr]) -> list[Atoms]:
    kind = expr.operator.kind
    if kind == "STAR_STAR":
        return _expand_power(_expand_product(expr.left, atoms), expr.right)
    if kind == "PIPE":
        raise refuse(
            "The formula has {text} in a product or without parentheses; add random effects to "
            "the others, in parentheses, such as age + (1 | subject).",
            text=show(write(expr)),
        )
    if kind not in ("PLUS", "MINUS", "STAR", "COLON", "SLASH"):
        raise refuse(
            "The formula has {text}; write I({text}) for a comparison.", text=shorten(write(expr))
        )
    left, right = (_expand_product(side, atoms) for side in (expr.left, expr.right))
    if kind == "PLUS":
        return _unite(left, right)
    if kind == "MINUS":
        taken = set(map(frozenset, right))
        return [term for term in left if frozenset(term) not in taken]
    if kind == "COLON":
        return _cross(left, right)
    if kind == "STAR":
        return _unite(left, right, _cross(left, right))
    all_left = tuple(dict.fromkeys(atom for term in left for atom in term))
    return _unite(left, _cross([all_left], right))


def _expand_power(terms: Sequence[Atoms], exponent: Expr) -> list[Atoms]:
    exponent = strip(exponent)
    power = exponent.value if isinstance(exponent, Literal) else None
    if type(power) is not int or power < 1:
        raise refuse(
            "The formula has a power of {power} outside of I(); give a whole number from 1, for "
            "interactions of up to so many terms, such as (a + b)**2.",
            power=show(write(exponent)),
        )
    if len(terms) == 1 and power > 1:
        raise refuse(
            "The formula has {term}**{power}, which is {term} in a formula; write "
            "I({term} ** {power}) for the power.",
            term=":".join(terms[0]),
            power=power,
        )
    expanded = list(terms)
    for _ in range(min(power, len(terms)) - 1):
        expanded = _unite(expanded, _cross(expanded, terms))
    return expanded


def _cross(left: Sequence[Atoms], right: Sequence[Atoms]) -> list[Atoms]:
    _check_number(len(left) * len(right))
    crossed = [tuple(dict.fromkeys((*one, *other))) for one in left for other in right]
    longest = max(map(len, crossed), default=0)
    if longest > _MOST_ATOMS:
        raise refuse(
            "The formula has an interaction of {n} columns, and {most} is the most; give those "
            "that are of interest.",
            n=longest,
            most=_MOST_ATOMS,
        )
    return crossed


def _unite(*lists: Sequence[Atoms]) -> list[Atoms]:
    unique: dict[frozenset[str], Atoms] = {}
    for terms in lists:
        for term in terms:
            unique.setdefault(frozenset(term), term)
    _check_number(len(unique))
    return list(unique.values())


def _check_number(n_terms: int) -> None:
    if n_terms > _MOST_TERMS:
        raise refuse(
            "The formula has more than {most:,} terms; give those that are of interest.",
            most=_MOST_TERMS,
        )
