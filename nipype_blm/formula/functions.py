"""The functions that a formula may call, and the checks of every call before anything is run.

formulae looks names up in a namespace and follows dots.  So nothing reaches it but calls that
are listed here, with columns and constants as arguments.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from formulae.expr import Assign, Binary, Call, Grouping, Literal, QuotedName, Unary, Variable

from nipype_blm.errors import show
from nipype_blm.formula.syntax import Expr, list_children, strip, write
from nipype_blm.formula.words import join_names, refuse, suggest

_MATHS = (
    *("log", "log2", "log10", "log1p", "exp", "expm1", "sqrt", "square", "abs", "sign"),
    *("sin", "cos", "tanh", "arctan", "arcsinh", "floor", "round"),
)
_PLAIN_NUMERIC = {"I", "center", "scale", "standardize"}
_NUMERIC = {*_PLAIN_NUMERIC, *_MATHS, *(f"np.{name}" for name in _MATHS)}
# What makes several columns of one, and the constants that it takes after that.
_BASES: dict[str, tuple[str, ...]] = {
    "bs": ("df", "degree", "lower_bound", "upper_bound"),
    "cr": ("df", "lower_bound", "upper_bound"),
    "poly": ("degree", "raw"),
}
_BY_NAME = {"bs", "cr"}  # ... where constants after the first are given by name
_CATEGORICAL: dict[str, tuple[str, ...]] = {"C": ("contrast",), "T": ("ref",), "S": ("omit",)}
_CODINGS: dict[str, tuple[str, ...]] = {"Treatment": ("reference",), "Sum": ("omit",)}
_ARITHMETIC = ("PLUS", "MINUS", "STAR", "SLASH", "STAR_STAR")
_COMPARISONS = ("EQUAL_EQUAL", "BANG_EQUAL", "LESS_EQUAL", "LESS", "GREATER_EQUAL", "GREATER")
_MOST_BASIS = 100  # columns of one basis

_SHOWN = {*_PLAIN_NUMERIC, *_MATHS, *_BASES, *_CATEGORICAL}

NAMESPACE: dict[str, Any] = {name: getattr(np, name) for name in _MATHS}
NAMESPACE["np"] = SimpleNamespace(**NAMESPACE)

_SPLINE = "write bs({x}, df=4) for a curve"
_RESPONSE = "the images are the response, as they are"
_INSTEAD = {
    "factor": "write C({x})",
    "as.factor": "write C({x})",
    "ordered": "write C({x})",
    "as.numeric": "name the column in the list of numeric ones, and write {x}",
    "relevel": 'write C({x}, Treatment("level"))',
    "Q": "write the name in backticks",
    "log1": "write np.log1p({x})",
    "ln": "write np.log({x})",
    "pow": "write I({x} ** 2)",
    "np.power": "write I({x} ** 2)",
    "offset": "a known part is taken off the images beforehand",
    "weights": "weights of images are not possible; leave it out",
    "Error": "write (1 | subject) for the strata",
    "random": "write (1 | subject) for a random intercept",
    "us": "write (1 + t | subject)",
    "diag": "write (1 + t || subject) for random effects without correlation",
    "ar1": "correlations over time are not possible; write (1 + t | subject)",
    "cs": "write (1 | subject)",
    **dict.fromkeys(("s", "te", "ti", "t2", "hsgp", "gp", "lo", "tp", "cc"), _SPLINE),
    **dict.fromkeys(("ns", "rcs", "nsp"), "write cr({x}, df=4) for a natural spline"),
    **dict.fromkeys(("prop", "p", "proportion", "cbind"), _RESPONSE),
    **dict.fromkeys(("binary", "B", "ifelse"), 'write I({x} == "level")'),
    **dict.fromkeys(("Treatment", "Sum"), "write C({x}, Treatment) or C({x}, Sum)"),
}


def name_of(expr: Expr) -> str | None:
    """Return the column that a node is, if it is one."""
    if isinstance(expr, QuotedName):
        return str(expr.expression.lexeme[1:-1])
    return str(expr.name.lexeme) if isinstance(expr, Variable) else None


def list_columns(expr: Expr) -> Iterator[str]:
    """Yield the columns of a checked node, in their order; one may come repeatedly."""
    if isinstance(expr, Call):
        # What follows the data are constants, and Treatment or Sum.
        yield from list_columns(expr.args[0])
    elif (name := name_of(expr)) is not None:
        yield name
    else:
        for child in list_children(expr):
            yield from list_columns(child)


def list_numbers(expr: Expr) -> Iterator[str]:
    """Yield the columns that a checked call does arithmetic with: they have to be numbers."""
    if isinstance(expr, Call):
        [data, *_] = expr.args
        if name_of(data) is None or write(expr.callee) not in {*_CATEGORICAL, "I"}:
            yield from list_numbers(data)
    elif isinstance(expr, Binary) and expr.operator.kind in ("EQUAL_EQUAL", "BANG_EQUAL"):
        for side in (expr.left, expr.right):
            if name_of(strip(side)) is None:
                yield from list_numbers(side)
    elif (name := name_of(expr)) is not None:
        yield name
    else:
        for child in list_children(expr):
            yield from list_numbers(child)


def list_compared(expr: Expr) -> Iterator[tuple[str, object]]:
    """Yield each column that a checked node compares with a constant, and the constant."""
    if isinstance(expr, Binary) and expr.operator.kind in ("EQUAL_EQUAL", "BANG_EQUAL"):
        sides = strip(expr.left), strip(expr.right)
        for one, other in (sides, sides[::-1]):
            if (name := name_of(one)) is not None and isinstance(other, Literal):
                yield name, other.value
    for child in list_children(expr):
        yield from list_compared(child)


def is_categorical_call(expr: Expr) -> bool:
    """Whether a node is a call that makes a column categorical."""
    return isinstance(expr, Call) and write(expr.callee) in _CATEGORICAL


def check_call(call: Call) -> None:
    """Check a call that is a term.

    Raises
    ------
    InputError
        If anything in it is no listed function, column or constant.
    """
    name = _name_function(call)
    if name in _CATEGORICAL:
        _check_categorical(call, name)
    elif name in _BASES:
        _check_basis(call, name)
    else:
        _check_numeric(call)
    if not any(True for _ in list_columns(call)):
        raise refuse(
            "The formula has {call}, which has no column in it; give the name of one.",
            call=show(write(call)),
        )


def _name_function(call: Call) -> str:
    """Return the name of a function that may be called."""
    callee = call.callee
    name = write(callee)
    known = {*_SHOWN, *_NUMERIC}
    if isinstance(callee, Variable) and name in known:
        if not call.args or isinstance(call.args[0], Assign):
            raise refuse("The formula has {name}() without a column; give one.", name=name)
        return name
    first = write(call.args[0]) if call.args else "x"
    advice = _INSTEAD.get(name, "choose one of {known}").format(
        x=first if len(first) < 30 else "x", known=join_names(sorted(_SHOWN), 40)
    )
    raise refuse(
        "The formula calls {name}, which is no function here{near}; {advice}.",
        name=show(name),
        near=suggest(name, sorted(known)) if name not in _INSTEAD else "",
        advice=advice,
    )


def _check_numeric(expr: Expr) -> None:
    """Check an expression of columns and numbers."""
    if isinstance(expr, Call):
        name = _name_function(expr)
        if name not in _NUMERIC:
            raise refuse(
                "The formula has {name} within another function; make it a term of its own.",
                name=name,
            )
        if len(expr.args) != 1:
            raise refuse(
                "The formula gives {name} {n} arguments, and it takes one; leave out the others.",
                name=name,
                n=len(expr.args),
            )
    elif isinstance(expr, Binary) and expr.operator.kind not in (*_ARITHMETIC, *_COMPARISONS):
        raise refuse(
            "The formula has {sign} within a function: {text}; use + - * / ** and comparisons.",
            sign=expr.operator.lexeme,
            text=show(write(expr)),
        )
    elif _is_comparison(expr) and (_is_comparison(expr.left) or _is_comparison(expr.right)):
        raise refuse(
            "The formula has {text}, with two comparisons in a row; write each in parentheses, "
            "such as I((x > 1) * (x < 2)).",
            text=show(write(expr)),
        )
    elif isinstance(expr, Assign):
        raise refuse(
            "The formula has {text}, a setting that this function does not have; leave it out.",
            text=show(write(expr)),
        )
    if isinstance(expr, Grouping | Binary | Unary):
        for child in list_children(expr):
            _check_numeric(child)
    elif isinstance(expr, Call):
        _check_numeric(expr.args[0])


def _is_comparison(expr: Expr) -> bool:
    return isinstance(expr, Binary) and expr.operator.kind in _COMPARISONS


def _check_categorical(call: Call, name: str) -> None:
    data, *rest = call.args
    if name_of(strip(data)) is None:
        raise refuse(
            "The formula has {call}; {name} takes the name of a column.",
            call=show(write(call)),
            name=name,
        )
    for setting in rest:
        value = _take_setting(call, setting, _CATEGORICAL[name])
        if name == "C":
            _check_coding(call, value)
        elif not isinstance(value, Literal):
            raise _refuse_setting(call, value, 'a level, such as "a"')
    _check_count(call, len(rest), 1)


def _check_coding(call: Call, coding: Expr) -> None:
    """Check what stands after the column in C: Treatment, Sum, or a call of one of them."""
    callee = coding.callee if isinstance(coding, Call) else coding
    if not isinstance(callee, Variable) or write(callee) not in _CODINGS:
        text = write(coding) if isinstance(coding, Literal) else '"a"'
        raise _refuse_setting(call, coding, f"Treatment, Sum or Treatment({text})")
    if isinstance(coding, Call):
        for setting in coding.args:
            value = _take_setting(coding, setting, _CODINGS[write(callee)])
            if not isinstance(value, Literal):
                raise _refuse_setting(coding, value, 'a level, such as "a"')
        _check_count(coding, len(coding.args), 1)


def _check_basis(call: Call, name: str) -> None:
    data, *rest = call.args
    _check_numeric(data)
    by_position = [setting for setting in rest if not isinstance(setting, Assign)]
    if len(by_position) > 1 and name in _BY_NAME:
        raise _refuse_setting(call, by_position[1], "settings by their names, such as degree=2")
    for setting in rest:
        value = _take_setting(call, setting, _BASES[name])
        signless = value.right if isinstance(value, Unary) else value
        number = signless.value if isinstance(signless, Literal) else None
        if not isinstance(number, int | float) or number > 1e300:
            raise _refuse_setting(call, value, "numbers")
        in_name = setting.name.name.lexeme if isinstance(setting, Assign) else ""
        is_size = "bound" not in in_name and not isinstance(number, bool)
        if is_size and (isinstance(value, Unary) or not 1 <= number <= _MOST_BASIS):
            raise _refuse_setting(call, value, f"whole numbers from 1 to {_MOST_BASIS}")
    _check_count(call, len(rest), len(_BASES[name]))
    if name in _BY_NAME and not any(
        not isinstance(s, Assign) or write(s.name) == "df" for s in rest
    ):
        raise refuse(
            "The formula has {call} without df, its number of columns; write {name}(x, df=4).",
            call=show(write(call)),
            name=name,
        )


def _take_setting(call: Call, setting: Expr, allowed: tuple[str, ...]) -> Expr:
    """Return the value of a setting, whose name has to be an allowed one."""
    if not isinstance(setting, Assign):
        return setting
    if write(setting.name) not in allowed:
        raise refuse(
            "The formula has {setting} in {call}; what can be set is {allowed}.",
            setting=show(write(setting)),
            call=show(write(call)),
            allowed=join_names(allowed),
        )
    return setting.value


def _check_count(call: Call, given: int, most: int) -> None:
    if given > most:
        raise refuse(
            "The formula has {call} with {given} settings, and {most} is the most; leave out "
            "the others.",
            call=show(write(call)),
            given=given,
            most=most,
        )


def _refuse_setting(call: Call, value: Expr, wanted: str) -> Exception:
    return refuse(
        "The formula has {value} in {call}, which takes {wanted}.",
        value=show(write(value)),
        call=show(write(call)),
        wanted=wanted,
    )
